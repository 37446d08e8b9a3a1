//! Operators: each turns the changes of its inputs into the changes of its output.

pub mod aggregate;
pub mod filter;
pub mod join;
pub mod project;
pub mod top;
pub mod union;
pub mod whole;

pub use aggregate::{AggregateCall, AggregateKind, GroupBy};
pub use filter::Filter;
pub use join::{Join, JoinKind};
pub use project::Project;
pub use top::Top;
pub use union::Union;
pub use whole::Whole;

use arrow::error::ArrowError;

use crate::arrangement::Arrangement;
use crate::delta::Delta;
use crate::expr::Withheld;

/// What an operator sees besides its inputs.
pub struct Context<'a> {
    /// By [`crate::program::ArrangementId`], each at the end of the step before.
    pub arrangements: &'a [Arrangement],
    /// Where rows are counted for which an expression failed.
    pub withheld: &'a mut Withheld,
}

/// Many kinds of operator.
///
/// The contract: after any sequence of steps, the sum of all outputs equals the operator's SQL
/// meaning applied to the sum of all inputs. An output need not be consolidated. In the first step
/// of a program every operator is called, so that what is there over empty inputs comes out too
/// (the one row of a global aggregate); later, only when an input changes.
pub trait Operator: Send {
    /// One step; `inputs` are in the operator's own order, `None` where nothing changes.
    ///
    /// # Errors
    /// Only for mistakes of ours, such as a batch of another schema: data never fails a step.
    fn step(&mut self, inputs: &[Option<&Delta>], context: &mut Context<'_>) -> Result<Option<Delta>, ArrowError>;
}
