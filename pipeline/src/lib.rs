//! Incremental dataflow over Arrow batches: changes of tables go in, diffs of projections come out.
//!
//! ```text
//!  Changes ──► Table ──Delta──► operators over arrangements ──Delta──► Projection ──► diff
//!  (a source's  (rows by key,     filter, project, join, aggregate,     (net per epoch,
//!   own words)   net effect)       top, union, whole                     in parts)
//! ```
//!
//! Nothing here knows a clock, a thread, a socket or DataFusion: what is needed from outside is
//! named by the traits of [`expr`]. The modules below are in the order in which to read them.
//!
//! The argument that makes the rest simple: **while a step runs, all state stands still**. Operators
//! read old state and this step's deltas; state is folded once, at the end. So two joins may share
//! an arrangement whatever their order, and a step that fails half way has changed no state.

pub mod delta; // a batch of rows, each with a weight
pub mod fault; // what is not known of a row
pub mod row; // rows as bytes
pub mod state; // what is remembered: stores by name, written and read
pub mod arrangement; // the rows of one input, once, and the indexes over them
pub mod change; // what a source says happened, in its own words
pub mod table; // source tables: from changes to deltas
pub mod expr; // what the engine needs from a planner: expressions, aggregates, recomputation
pub mod operator; // filter, project, join, aggregate, top, union, whole: a file each
pub mod projection; // what is served, and what changed since it was last published
pub mod dataflow; // what a program is to do: nodes, described
pub mod program; // a dataflow that runs; `Program::apply` and `publish` are the way in
pub mod position; // epochs, and how far each source has been read
pub mod fingerprint; // names of subplans that outlive the process
pub mod exact; // sums of floats that can be taken back
#[cfg(test)]
mod testing; // what the crate's tests are made of

pub use change::{Changes, Op};
pub use dataflow::{Cost, Dataflow, Input, NodeId};
pub use delta::Delta;
pub use expr::{Aggregate, Expr, ExprError, Recompute};
pub use fingerprint::{Fingerprint, Fingerprinter};
pub use operator::{AggregateCall, AggregateKind, JoinKind, JoinSide};
pub use position::{Epoch, Lsn, Mark, Position};
pub use program::{Program, ProjectionId, StepError, TableId};
pub use projection::{DiffPart, Published};
