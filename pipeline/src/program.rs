//! Operators wired together.
//!
//! A program is a list of nodes, inputs before those who read them. [`Program::step`] sends the
//! changes of source tables through it once; [`Program::publish`] ends the epoch and hands out what
//! changed in each projection. An epoch may be several steps (a first copy, a transaction larger
//! than one batch): nothing is visible before it is published.

use std::fmt;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use hashbrown::HashMap;

use crate::arrangement::{Arrangement, NullKeys};
use crate::change::Changes;
use crate::delta::Delta;
use crate::expr::Withheld;
use crate::operator::{Context, Operator};
use crate::projection::{Projection, ProjectionKey, PublishError, Published};
use crate::table::{Identity, Table, TableCopy};

/// A source table of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub usize);

/// A node of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// An arrangement of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArrangementId(pub usize);

/// A projection of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionId(pub usize);

/// What the cost of a step follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// The change.
    Delta,
    /// The touched groups.
    Group,
    /// The whole of the operator's inputs.
    Whole,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cost::Delta => "delta",
            Cost::Group => "group",
            Cost::Whole => "whole",
        })
    }
}

/// A step that could not be done: a mistake of ours, never of the data.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// An operator or a table refused its input.
    #[error("{node} failed")]
    Node {
        /// The operator's label.
        node: String,
        /// Why.
        #[source]
        cause: ArrowError,
    },
    /// An epoch could not be ended.
    #[error("projection {projection} failed")]
    Publish {
        /// Its name.
        projection: String,
        /// Why.
        #[source]
        cause: PublishError,
    },
}

enum Kind {
    Table(TableId),
    Arrange(ArrangementId),
    Operator(Box<dyn Operator>),
}

struct Node {
    kind: Kind,
    inputs: Vec<NodeId>,
    label: String,
    cost: Cost,
    schema: SchemaRef,
    withheld: Withheld,
}

struct Output {
    name: String,
    node: NodeId,
    projection: Projection,
}

/// A dataflow and its state.
#[derive(Default)]
pub struct Program {
    tables: Vec<Table>,
    nodes: Vec<Node>,
    arrangements: Vec<Arrangement>,
    arranged: HashMap<(NodeId, Vec<usize>, NullKeys), (ArrangementId, NodeId)>,
    outputs: Vec<Output>,
    started: bool,
}

/// Building: inputs first.
impl Program {
    /// Adds a source table and the node that its changes come out of.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn add_table(&mut self, label: String, schema: SchemaRef, identity: Identity) -> Result<(TableId, NodeId), ArrowError> {
        let id = TableId(self.tables.len());
        self.tables.push(Table::new(schema.clone(), identity)?);
        Ok((id, self.add_node(Kind::Table(id), Vec::new(), label, Cost::Delta, schema)))
    }

    /// Adds an operator.
    pub fn add_operator(
        &mut self,
        label: String,
        cost: Cost,
        schema: SchemaRef,
        inputs: Vec<NodeId>,
        operator: Box<dyn Operator>,
    ) -> NodeId {
        self.add_node(Kind::Operator(operator), inputs, label, cost, schema)
    }

    /// Indexes a node's rows by some of its columns. Asked twice for the same, it answers the same.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn arrange(&mut self, input: NodeId, key: Vec<usize>, nulls: NullKeys) -> Result<(ArrangementId, NodeId), ArrowError> {
        if let Some(&found) = self.arranged.get(&(input, key.clone(), nulls)) {
            return Ok(found);
        }
        let schema = self.nodes[input.0].schema.clone();
        let id = ArrangementId(self.arrangements.len());
        self.arrangements.push(Arrangement::new(schema.clone(), key.clone(), nulls)?);
        let names: Vec<&str> = key.iter().map(|&column| schema.field(column).name().as_str()).collect();
        let label = format!("arrange by {}", names.join(", "));
        let node = self.add_node(Kind::Arrange(id), vec![input], label, Cost::Delta, schema.clone());
        self.arranged.insert((input, key, nulls), (id, node));
        Ok((id, node))
    }

    /// Serves a node's rows under a name.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn add_projection(&mut self, name: String, node: NodeId, key: ProjectionKey) -> Result<ProjectionId, ArrowError> {
        let projection = Projection::new(self.nodes[node.0].schema.clone(), key)?;
        self.outputs.push(Output { name, node, projection });
        Ok(ProjectionId(self.outputs.len() - 1))
    }

    fn add_node(&mut self, kind: Kind, inputs: Vec<NodeId>, label: String, cost: Cost, schema: SchemaRef) -> NodeId {
        debug_assert!(inputs.iter().all(|input| input.0 < self.nodes.len()), "inputs first");
        self.nodes.push(Node { kind, inputs, label, cost, schema, withheld: Withheld::default() });
        NodeId(self.nodes.len() - 1)
    }
}

/// Running.
impl Program {
    /// Applies changes, in order, and sends their net effect through the program.
    ///
    /// # Errors
    /// Only for mistakes of ours; the program must then not be used further.
    pub fn apply(&mut self, changes: &[(TableId, Changes)]) -> Result<(), StepError> {
        let mut deltas: Vec<(TableId, Vec<Delta>)> = Vec::new();
        for (id, changes) in changes {
            let delta = self.tables[id.0].apply(changes).map_err(|cause| self.table_failed(*id, cause))?;
            match deltas.iter_mut().find(|(table, _)| table == id) {
                Some((_, parts)) => parts.push(delta),
                None => deltas.push((*id, vec![delta])),
            }
        }
        let mut step = Vec::with_capacity(deltas.len());
        for (id, parts) in deltas {
            if let Some(delta) = Delta::concat(parts).map_err(|cause| self.table_failed(id, cause))? {
                step.push((id, delta));
            }
        }
        self.step(step)
    }

    /// Puts a fresh copy in the place of a table's rows; only what differs goes on.
    ///
    /// # Errors
    /// As [`Program::apply`].
    pub fn finish_copy(&mut self, id: TableId, copy: TableCopy) -> Result<(), StepError> {
        let deltas = self.tables[id.0].finish_copy(copy).map_err(|cause| self.table_failed(id, cause))?;
        for delta in deltas {
            self.step(vec![(id, delta)])?;
        }
        Ok(())
    }

    /// One step: each table at most once. With nothing at all it still starts the program.
    ///
    /// # Errors
    /// Only for mistakes of ours; the program must then not be used further.
    pub fn step(&mut self, changes: Vec<(TableId, Delta)>) -> Result<(), StepError> {
        let is_first = !std::mem::replace(&mut self.started, true);
        let mut sources: Vec<Option<Delta>> = vec![None; self.tables.len()];
        for (table, delta) in changes {
            sources[table.0] = Some(delta);
        }
        // 1. Inputs before readers; who has no changed input is passed over.
        let mut deltas: Vec<Option<Delta>> = Vec::with_capacity(self.nodes.len());
        for node in &mut self.nodes {
            let output = match &mut node.kind {
                Kind::Table(table) => Ok(sources[table.0].take()),
                _ if !is_first && node.inputs.iter().all(|input| deltas[input.0].is_none()) => Ok(None),
                Kind::Arrange(arrangement) => match &deltas[node.inputs[0].0] {
                    None => Ok(None),
                    // What an arrangement hands on only says that it changed; joins read it there.
                    Some(delta) => self.arrangements[arrangement.0].change(delta).map(|()| Some(Delta::empty(delta.batch.schema()))),
                },
                Kind::Operator(operator) => {
                    let inputs: Vec<Option<&Delta>> = node.inputs.iter().map(|input| deltas[input.0].as_ref()).collect();
                    let mut context = Context { arrangements: &self.arrangements, withheld: &mut node.withheld };
                    operator.step(&inputs, &mut context).map(|output| output.filter(|delta| !delta.is_empty()))
                }
            };
            deltas.push(output.map_err(|cause| StepError::Node { node: node.label.clone(), cause })?);
        }
        // 2. Results wait in the projections until the epoch ends.
        for output in &mut self.outputs {
            if let Some(delta) = &deltas[output.node.0] {
                output.projection.apply(delta).map_err(|cause| StepError::Node { node: output.name.clone(), cause })?;
            }
        }
        // 3. Only now does state move on: every operator above read the state of before.
        self.arrangements.iter_mut().for_each(Arrangement::fold);
        Ok(())
    }

    /// Ends an epoch: what changed in each projection since the last one.
    ///
    /// # Errors
    /// Only for mistakes of ours; the program must then not be used further.
    pub fn publish(&mut self) -> Result<Vec<(ProjectionId, Published)>, StepError> {
        let mut published = Vec::new();
        for (i, output) in self.outputs.iter_mut().enumerate() {
            match output.projection.publish() {
                Ok(Published::Unchanged) => {}
                Ok(some) => published.push((ProjectionId(i), some)),
                Err(cause) => return Err(StepError::Publish { projection: output.name.clone(), cause }),
            }
        }
        Ok(published)
    }

    fn table_failed(&self, id: TableId, cause: ArrowError) -> StepError {
        let is_table = |node: &&Node| matches!(node.kind, Kind::Table(table) if table == id);
        let label = self.nodes.iter().find(is_table).map_or_else(String::new, |node| node.label.clone());
        StepError::Node { node: label, cause }
    }
}

/// Looking in.
impl Program {
    /// A source table.
    #[must_use]
    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0]
    }

    /// A projection.
    #[must_use]
    pub fn projection(&self, id: ProjectionId) -> &Projection {
        &self.outputs[id.0].projection
    }

    /// The arrangement with this id.
    #[must_use]
    pub fn arrangement(&self, id: ArrangementId) -> &Arrangement {
        &self.arrangements[id.0]
    }

    /// The columns of what comes out of a node.
    #[must_use]
    pub fn schema(&self, node: NodeId) -> &SchemaRef {
        &self.nodes[node.0].schema
    }

    /// How many operators, tables and arrangements there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Rows that a projection's operators withhold, with a reason where there are any.
    #[must_use]
    pub fn withheld(&self, id: ProjectionId) -> Withheld {
        let mut total = Withheld::default();
        for node in self.nodes_of(self.outputs[id.0].node) {
            let withheld = &self.nodes[node.0].withheld;
            total.rows += withheld.rows;
            total.reason = total.reason.or_else(|| withheld.reason.clone());
        }
        total
    }

    /// The projection's operators as a tree, each with its cost class, for people to read.
    #[must_use]
    pub fn explain(&self, id: ProjectionId) -> String {
        let mut lines = Vec::new();
        self.explain_node(self.outputs[id.0].node, 0, &mut lines);
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
        lines.into_iter().map(|(line, cost)| format!("{line:width$}  {cost}\n")).collect()
    }

    fn explain_node(&self, id: NodeId, depth: usize, lines: &mut Vec<(String, Cost)>) {
        let node = &self.nodes[id.0];
        let readers = self.nodes.iter().filter(|other| other.inputs.contains(&id)).count()
            + self.outputs.iter().filter(|output| output.node == id).count();
        let shared = if readers > 1 { format!("  (shared by {readers})") } else { String::new() };
        lines.push((format!("{}{}{shared}", "  ".repeat(depth), node.label), node.cost));
        for &input in &node.inputs {
            self.explain_node(input, depth + 1, lines);
        }
    }

    fn nodes_of(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(&node) = found.get(next) {
            for &input in &self.nodes[node.0].inputs {
                if !found.contains(&input) {
                    found.push(input);
                }
            }
            next += 1;
        }
        found
    }
}
