//! Incremental dataflow over Arrow batches: changes of tables go in, diffs of projections come out.
//!
//! ```text
//!  Changes ──► Table ──Delta──► operators over arrangements ──Delta──► Projection ──► diff
//!  (a source's  (rows by key,     filter, project, join, aggregate,     (rows served,
//!   own words)   net effect)       top, union, whole                     net per epoch)
//! ```
//!
//! Nothing here knows a clock, a thread, a socket or DataFusion: what is needed from outside is
//! named by the traits of [`expr`]. Read [`delta`] first, then [`arrangement`], then [`program`].
//!
//! The argument that makes the rest simple: **while a step runs, every arrangement shows the state
//! at the end of the step before**. Operators read old state and this step's deltas; state is
//! folded once, at the end. So two joins may share an arrangement whatever their order, and a step
//! that fails half way has changed no arrangement.

pub mod arrangement; // rows indexed by a key, shared by the operators that need them
pub mod change; // what a source says happened, in its own words
pub mod delta; // a batch of rows, each with a weight
pub mod exact; // sums of floats that can be taken back
pub mod expr; // what the engine needs from a planner: expressions, aggregates, recomputation
pub mod operator; // filter, project, join, aggregate, top, union, whole: a file each
pub mod position; // epochs, and how far each source has been read
pub mod program;
pub mod projection; // the rows served, and what changed since they were last published
pub mod row; // rows as comparable bytes
pub mod table; // source tables by key: from changes to deltas // operators wired together; `Program::step` is the way in

pub use change::{Changes, Op};
pub use delta::Delta;
pub use expr::{Aggregate, Expr, ExprError, Recompute};
pub use position::{Epoch, Lsn, Mark, Position};
pub use program::{Cost, Program, ProjectionId, StepError, TableId};
pub use projection::Published;
