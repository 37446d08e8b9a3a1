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
pub use join::{Join, JoinKind, JoinSide};
pub use project::Project;
pub use top::Top;
pub use union::Union;
pub use whole::Whole;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::delta::Delta;
use crate::program::{Step, StepError};
use crate::state::State;

/// Why an operator could not go on: a mistake of ours, or more rows than can be counted.
#[derive(Debug)]
pub enum Failure {
    /// Its own.
    Arrow(ArrowError),
    /// Of one that reads it.
    Step(StepError),
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Failure {
        Failure::Arrow(error)
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Failure {
        Failure::Step(error)
    }
}

/// When an operator says what its input's changes come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As they come: it is linear.
    AtOnce,
    /// When all its inputs have said what this step changes.
    EndOfStep,
    /// When the epoch ends: its cost does not follow the change, so it is paid once.
    EndOfEpoch,
}

/// Many kinds of operator.
///
/// The contract: after any sequence of steps, the sum of all outputs equals the operator's SQL
/// meaning applied to the sum of all inputs, as far as it is known; what is not known carries a
/// fault. An output comes in pieces of bounded size and need not be consolidated.
///
/// What an operator remembers from step to step is in the [`State`], which stands still during a
/// step: [`Operator::fold`] moves it on when the step is over.
pub trait Operator: Send {
    /// When it has its say.
    fn when(&self) -> When;

    /// Takes in a piece of what an input changes.
    ///
    /// # Errors
    /// Only for mistakes of ours, such as a batch of another schema: data never fails a step, but
    /// where a pair of rows stands more often than can be counted.
    fn accept(&mut self, port: usize, delta: &Delta, step: &mut Step<'_>) -> Result<(), Failure>;

    /// All inputs have said what they change: emits what that comes to.
    ///
    /// # Errors
    /// As [`Operator::accept`].
    fn finish(&mut self, _: &mut Step<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// The step is over: what was taken in becomes state.
    fn fold(&mut self, _: &mut State) {}

    /// Emits the whole output as of now, between steps. Only asked of those that are not linear.
    ///
    /// # Errors
    /// As [`Operator::accept`].
    fn image(&mut self, _: &mut Step<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// What an operator reads of a node: some of its columns.
#[derive(Clone, Debug)]
pub struct View {
    /// The columns as the operator sees them.
    pub schema: SchemaRef,
    /// Their places in the node; `None` when it is all of them, in order.
    columns: Option<Vec<usize>>,
}

impl View {
    /// These columns of a node that has `width` of them.
    #[must_use]
    pub fn new(schema: SchemaRef, columns: &[usize], width: usize) -> View {
        let is_all = columns.iter().copied().eq(0..width);
        View { schema, columns: (!is_all).then(|| columns.to_vec()) }
    }

    /// Where a column of the view is in the node.
    #[must_use]
    pub fn place(&self, column: usize) -> usize {
        self.columns.as_ref().map_or(column, |columns| columns[column])
    }

    fn of(&self, delta: &Delta) -> Result<Delta, ArrowError> {
        match &self.columns {
            None => Ok(delta.clone()),
            Some(columns) => delta.view(&self.schema, columns),
        }
    }
}
