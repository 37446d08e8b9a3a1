//! A dataflow that runs.
//!
//! A program is a list of nodes, inputs before those who read them, and the state that they keep.
//! Changes of source tables go through it a step at a time; [`Program::publish`] ends the epoch and
//! hands out what changed in each projection. An epoch may be several steps (a first copy, a
//! transaction larger than one batch): nothing is visible before it is published.
//!
//! ```text
//!  a step:   1. tables say what changed, in pieces; linear operators hand pieces on as they come;
//!               others take them in
//!            2. operators that wait for all of their input have their say, inputs before readers
//!            3. what was taken in becomes state
//!  an epoch: steps; then what costs more than its change (recomputed subplans and groups) has its
//!            say, once, each in a step of its own
//! ```
//!
//! Only nodes that something reaches are looked at: an epoch costs what it touches.

mod explain; // what the nodes are, for people
mod reconcile; // from what runs to what another dataflow describes

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::arrangement::{Arrangement, IndexId};
use crate::change::{Changes, Op};
use crate::dataflow::Cost;
use crate::delta::{Delta, pieces};
use crate::expr::Withheld;
use crate::fingerprint::Fingerprint;
use crate::operator::{Failure, Operator, When};
use crate::projection::{Projection, ProjectionKey, Published, WithheldRow};
use crate::state::{Handle, Size, State, StateError, StoreName};
use crate::table::{Beside, Table, TableCopy, TableDelta, removal};

/// Changed rows that go through the program in one step; more are cut up.
const STEP_ROWS_MAX: usize = if cfg!(test) { 16_384 } else { 65_536 };

/// A source table of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub usize);

/// A projection of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionId(pub usize);

/// A step that could not be done: a mistake of ours, never of the data, but for rows of which a join
/// makes more than can be counted.
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
        cause: ArrowError,
    },
}

enum Body {
    Table(Table),
    /// An index of the rows that its input keeps.
    Arrange(IndexId),
    /// `None` while it is at work.
    Operator(Option<Box<dyn Operator>>),
}

struct Node {
    fingerprint: Fingerprint,
    label: String,
    cost: Cost,
    schema: SchemaRef,
    inputs: Vec<usize>,
    body: Body,
    /// The rows that came out of it, where somebody needs them again.
    kept: Option<Handle<Arrangement>>,
    readers: Vec<Reader>,
    /// Projections that serve its rows.
    served: Vec<usize>,
    /// The tables that its rows come from.
    tables: BTreeSet<TableId>,
}

#[derive(Clone, Copy)]
struct Reader {
    node: usize,
    port: usize,
}

struct Output {
    name: String,
    fingerprint: Fingerprint,
    node: usize,
    projection: Projection,
}

/// What a step works on.
#[derive(Default)]
struct Running {
    state: State,
    nodes: Vec<Node>,
    outputs: Vec<Option<Output>>,
    /// Nodes that wait for the end of the step, and of the epoch.
    waiting: BTreeSet<usize>,
    late: BTreeSet<usize>,
    /// Nodes whose kept rows, and whose own state, this step changed.
    changed_rows: Vec<usize>,
    had_their_say: Vec<usize>,
    /// Projections that something reached since they were last published.
    reached: BTreeSet<usize>,
    /// Projections whose withheld rows changed since somebody last asked.
    withheld_changed: BTreeSet<usize>,
}

/// A dataflow and its state.
///
/// ```
/// use std::sync::Arc;
/// use arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// use arrow::datatypes::{DataType, Field, Schema};
/// use pipeline::projection::ProjectionKey;
/// use pipeline::table::Identity;
/// use pipeline::{AggregateCall, AggregateKind, Changes, Dataflow, Op, Program, Published};
///
/// // SELECT count(*) FROM orders
/// let int = |name| Field::new(name, DataType::Int64, true);
/// let mut dataflow = Dataflow::default();
/// let orders = dataflow.table("orders", Arc::new(Schema::new(vec![int("id")])), Identity::Key(vec![0]));
/// let count = AggregateCall { kind: AggregateKind::Count, arguments: vec![], filter: None };
/// let schema = Arc::new(Schema::new(vec![int("n")]));
/// let counted = dataflow.group_by("count".into(), &dataflow.all_of(orders), vec![], vec![count], schema, "");
/// dataflow.serve("number", &dataflow.all_of(counted), ProjectionKey::WholeRow);
///
/// let mut program = Program::new(dataflow)?;
/// let table = program.table_id("orders").unwrap();
/// let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
/// let rows = RecordBatch::try_from_iter([("id", ids)])?;
/// program.apply(&[(table, Changes { rows, ops: vec![Op::Insert; 2], unchanged: vec![] })])?;
/// let published = program.publish()?;
/// let [(_, Published::Diff(parts))] = &published[..] else { panic!("one projection changed") };
/// assert_eq!(parts[0].weights, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Program {
    running: Running,
    /// By [`TableId`]: the node, while there is one.
    tables: Vec<Option<usize>>,
    table_names: BTreeMap<String, TableId>,
}

/// An operator's view of the program while it works.
pub struct Step<'a> {
    running: &'a mut Running,
    to: To<'a>,
}

/// Takes the pieces of an image.
type Collector<'a> = dyn FnMut(&mut Running, Delta) -> Result<(), StepError> + 'a;

enum To<'a> {
    ReadersOf(usize),
    Collector(&'a mut Collector<'a>),
    Nobody,
}

impl Step<'_> {
    /// All state, at the end of the step before.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.running.state
    }

    /// Hands a piece on to whoever reads the operator.
    ///
    /// # Errors
    /// When one of them fails, which is a mistake of ours.
    pub fn emit(&mut self, delta: Delta) -> Result<(), Failure> {
        match &mut self.to {
            To::ReadersOf(node) => self.running.deliver(*node, delta)?,
            To::Collector(collect) => {
                if !delta.is_empty() {
                    collect(self.running, delta)?;
                }
            }
            To::Nobody => {}
        }
        Ok(())
    }
}

/// Running.
impl Running {
    fn failed(&self, node: usize) -> impl Fn(Failure) -> StepError + use<> {
        let label = self.nodes[node].label.clone();
        move |failure| match failure {
            Failure::Arrow(cause) => StepError::Node { node: label.clone(), cause },
            Failure::Step(error) => error,
        }
    }

    /// Lets an operator do something, which may reach those that read it.
    fn with_operator(
        &mut self,
        node: usize,
        to: To<'_>,
        act: impl FnOnce(&mut dyn Operator, &mut Step<'_>) -> Result<(), Failure>,
    ) -> Result<(), StepError> {
        let Body::Operator(place) = &mut self.nodes[node].body else { return Ok(()) };
        let mut operator = place.take().expect("an operator is not reached by what it emits");
        // Taken apart so that what collects is borrowed for no longer than this call.
        #[expect(clippy::needless_match, reason = "each arm shortens a lifetime")]
        let to = match to {
            To::ReadersOf(node) => To::ReadersOf(node),
            To::Collector(collect) => To::Collector(collect),
            To::Nobody => To::Nobody,
        };
        let done = act(operator.as_mut(), &mut Step { running: &mut *self, to });
        if let Body::Operator(place) = &mut self.nodes[node].body {
            *place = Some(operator);
        }
        done.map_err(|failure| self.failed(node)(failure))
    }

    /// A node's output: to where it is kept, to those who read it, and to who serves it.
    fn deliver(&mut self, node: usize, delta: Delta) -> Result<(), StepError> {
        if delta.is_empty() {
            return Ok(());
        }
        if let Some(kept) = self.nodes[node].kept {
            self.state.get_mut(kept).change(&delta).map_err(|cause| self.failed(node)(cause.into()))?;
            self.changed_rows.push(node);
        }
        self.wake_joins(node);
        self.pass_on(node, &delta)
    }

    /// A node's kept rows have changed: joins read that where it is kept.
    fn wake_joins(&mut self, node: usize) {
        for Reader { node: reader, .. } in &self.nodes[node].readers {
            if let Body::Arrange(_) = self.nodes[*reader].body {
                self.waiting.extend(self.nodes[*reader].readers.iter().map(|join| join.node));
            }
        }
    }

    /// Whether anybody takes a node's output as columns, and not only from where it is kept.
    fn hands_on_columns(&self, node: usize) -> bool {
        let Node { readers, served, .. } = &self.nodes[node];
        !served.is_empty() || readers.iter().any(|reader| matches!(self.nodes[reader.node].body, Body::Operator(_)))
    }

    /// A node's output to the operators that read it and to who serves it.
    fn pass_on(&mut self, node: usize, delta: &Delta) -> Result<(), StepError> {
        for i in 0..self.nodes[node].readers.len() {
            let Reader { node: reader, port } = self.nodes[node].readers[i];
            if !matches!(self.nodes[reader].body, Body::Operator(_)) {
                continue;
            }
            let mut when = When::AtOnce;
            self.with_operator(reader, To::ReadersOf(reader), |operator, step| {
                when = operator.when();
                operator.accept(port, delta, step)
            })?;
            match when {
                When::AtOnce => {}
                When::EndOfStep => drop(self.waiting.insert(reader)),
                When::EndOfEpoch => drop(self.late.insert(reader)),
            }
        }
        for i in 0..self.nodes[node].served.len() {
            let served = self.nodes[node].served[i];
            let Some(output) = &mut self.outputs[served] else { continue };
            output
                .projection
                .apply(delta, &mut self.state)
                .map_err(|cause| StepError::Node { node: output.name.clone(), cause })?;
            if std::mem::take(&mut output.projection.withheld_changed) {
                self.withheld_changed.insert(served);
            }
            self.reached.insert(served);
        }
        Ok(())
    }

    /// Those who waited have their say, inputs before readers; then what was taken in becomes state.
    fn end_step(&mut self) -> Result<(), StepError> {
        while let Some(node) = self.waiting.pop_first() {
            self.finish(node)?;
        }
        for node in std::mem::take(&mut self.changed_rows) {
            if let Some(kept) = self.nodes[node].kept {
                self.state.get_mut(kept).fold();
            }
        }
        for node in std::mem::take(&mut self.had_their_say) {
            if let Body::Operator(Some(operator)) = &mut self.nodes[node].body {
                operator.fold(&mut self.state);
            }
        }
        Ok(())
    }

    fn finish(&mut self, node: usize) -> Result<(), StepError> {
        self.had_their_say.push(node);
        self.with_operator(node, To::ReadersOf(node), |operator, step| operator.finish(step))
    }

    /// What waited for the end of the epoch has its say, inputs before readers. What reads a table
    /// that is not ready goes on waiting: over half a table its work would be for nothing.
    fn end_epoch(&mut self, ready: impl Fn(TableId) -> bool) -> Result<(), StepError> {
        let mut next = 0;
        while let Some(node) = self.late.range(next..).next().copied() {
            next = node + 1;
            if self.nodes[node].tables.iter().all(|table| ready(*table)) {
                self.late.remove(&node);
                self.finish(node)?;
                self.end_step()?;
            }
        }
        Ok(())
    }

    /// Hands out all rows that a node has put out so far, between steps.
    fn image(&mut self, node: usize, collect: &mut Collector<'_>) -> Result<(), StepError> {
        if let Some(kept) = self.nodes[node].kept {
            return self.image_of_rows(node, kept, collect);
        }
        self.image_of_operator(node, collect)
    }

    fn image_of_rows(
        &mut self,
        node: usize,
        kept: Handle<Arrangement>,
        collect: &mut Collector<'_>,
    ) -> Result<(), StepError> {
        let rows = self.state.get(kept);
        let ids: Vec<u32> = rows.ids().collect();
        let cut = pieces(ids.iter().map(|&id| rows.row(id).len()));
        for piece in cut {
            let rows = self.state.get(kept);
            let bytes: Vec<&[u8]> = ids[piece.clone()].iter().map(|&id| rows.row(id)).collect();
            let weights = ids[piece].iter().map(|&id| rows.count(id)).collect();
            let batch = rows.decode(&bytes).map_err(|cause| self.failed(node)(cause.into()))?;
            let delta = Delta::new(batch, weights).with_faults(rows.codec().faults(&bytes)).net();
            collect(self, delta)?;
        }
        Ok(())
    }

    fn image_of_operator(&mut self, node: usize, collect: &mut Collector<'_>) -> Result<(), StepError> {
        let when = match &self.nodes[node].body {
            Body::Operator(Some(operator)) => operator.when(),
            Body::Operator(None) => unreachable!("no operator is at work between steps"),
            Body::Arrange(_) => return self.image(self.nodes[node].inputs[0], collect),
            // A table that keeps no rows hands out none: who comes later sees what comes later.
            Body::Table(_) => return Ok(()),
        };
        if when != When::AtOnce {
            return self.with_operator(
                node,
                To::Collector(&mut |running, delta| collect(running, delta)),
                |operator, step| operator.image(step),
            );
        }
        for (port, input) in self.nodes[node].inputs.clone().into_iter().enumerate() {
            self.image(input, &mut |running, delta| {
                running.with_operator(
                    node,
                    To::Collector(&mut |running, delta| collect(running, delta)),
                    |operator, step| operator.accept(port, &delta, step),
                )
            })?;
        }
        Ok(())
    }
}

/// Running.
impl Program {
    /// Applies changes, in order, and sends their net effect through the program.
    ///
    /// # Errors
    /// Only for mistakes of ours; the program must then not be used further.
    pub fn apply(&mut self, changes: &[(TableId, Changes)]) -> Result<(), StepError> {
        let mut step: Vec<(TableId, Changes)> = Vec::new();
        let mut rows = 0;
        for (table, changes) in changes {
            if truncates(changes) && self.table_rows(*table) > STEP_ROWS_MAX {
                self.step(&std::mem::take(&mut step))?;
                rows = 0;
                self.apply_with_truncation(*table, changes)?;
                continue;
            }
            if rows + changes.ops.len() <= STEP_ROWS_MAX {
                rows += changes.ops.len();
                step.push((*table, changes.clone()));
                continue;
            }
            for part in cut(changes, STEP_ROWS_MAX) {
                if rows > 0 && rows + part.ops.len() > STEP_ROWS_MAX {
                    self.step(&std::mem::take(&mut step))?;
                    rows = 0;
                }
                rows += part.ops.len();
                step.push((*table, part));
            }
        }
        self.step(&step)
    }

    /// As [`Program::apply`], of changes that take all rows of a large table: they go in steps of
    /// bounded size.
    fn apply_with_truncation(&mut self, id: TableId, changes: &Changes) -> Result<(), StepError> {
        let mut start = 0;
        for (i, op) in changes.ops.iter().enumerate() {
            if *op == Op::Truncate {
                self.apply(&[(id, slice(changes, start..i))])?;
                self.truncate(id)?;
                start = i + 1;
            }
        }
        self.apply(&[(id, slice(changes, start..changes.ops.len()))])
    }

    fn truncate(&mut self, id: TableId) -> Result<(), StepError> {
        let node = self.node(id);
        let Some(kept) = self.running.nodes[node].kept else { return Ok(()) };
        let ids: Vec<u32> = self.running.state.get(kept).ids().collect();
        for ids in ids.chunks(STEP_ROWS_MAX) {
            let held = self.running.state.get(kept);
            for delta in removal(held, ids) {
                self.tell(node, delta)?;
            }
            self.running.end_step()?;
        }
        Ok(())
    }

    fn step(&mut self, changes: &[(TableId, Changes)]) -> Result<(), StepError> {
        let rows: usize = changes.iter().map(|(_, changes)| changes.ops.len()).sum();
        debug_assert!(rows <= STEP_ROWS_MAX, "a step is bounded");
        let mut tables: Vec<TableId> = Vec::new();
        changes.iter().for_each(|(table, _)| {
            if !tables.contains(table) {
                tables.push(*table);
            }
        });
        // All tables are asked before any is told: what a table says follows from its state.
        let mut said = Vec::new();
        for table in tables {
            let of_table: Vec<&Changes> =
                changes.iter().filter(|(id, _)| *id == table).map(|(_, changes)| changes).collect();
            let node = self.node(table);
            let Body::Table(body) = &self.running.nodes[node].body else { continue };
            let held = self.running.nodes[node].kept.map(|kept| self.running.state.get(kept));
            debug_assert!(
                held.is_none_or(|held| held.len() <= 2 * STEP_ROWS_MAX) || !of_table.iter().any(|part| truncates(part)),
                "a large table is emptied in steps of its own"
            );
            let deltas = body.apply(held, &of_table).map_err(|cause| self.running.failed(node)(cause.into()))?;
            said.extend(deltas.into_iter().map(|delta| (node, delta)));
        }
        for (node, delta) in said {
            self.tell(node, delta)?;
        }
        self.running.end_step()
    }

    /// What a table says goes to its rows and to those who read it.
    fn tell(&mut self, node: usize, delta: TableDelta) -> Result<(), StepError> {
        if delta.weights.is_empty() {
            return Ok(());
        }
        let running = &mut self.running;
        let kept = running.nodes[node].kept;
        let columns = if running.hands_on_columns(node) {
            let held = kept.map(|kept| running.state.get(kept));
            Some(delta.columns(held).map_err(|cause| running.failed(node)(cause.into()))?)
        } else {
            None
        };
        if let Some(kept) = kept {
            running.state.get_mut(kept).change_rows(delta.rows, delta.weights, delta.moves);
            running.changed_rows.push(node);
        }
        running.wake_joins(node);
        columns.map_or(Ok(()), |columns| running.pass_on(node, &columns))
    }

    /// Begins to read a table anew. Rows of a table that is empty go straight in; nothing may be
    /// published from it before [`Program::finish_copy`]. Those of another are gathered beside the
    /// rows held, and then compared, so that only what differs goes on.
    #[must_use]
    pub fn begin_copy(&self, id: TableId) -> TableCopy {
        match self.running.nodes[self.node(id)].kept {
            Some(kept) if !self.running.state.get(kept).is_empty() => TableCopy::Beside(Beside::new()),
            _ => TableCopy::Straight,
        }
    }

    /// Takes in rows of a copy.
    ///
    /// # Errors
    /// As [`Program::apply`].
    pub fn copy(&mut self, id: TableId, copy: &mut TableCopy, rows: RecordBatch) -> Result<(), StepError> {
        match copy {
            TableCopy::Straight => {
                let ops = vec![Op::Insert; rows.num_rows()];
                self.apply(&[(id, Changes { rows, ops, unchanged: Vec::new() })])
            }
            TableCopy::Beside(beside) => {
                let node = self.node(id);
                let Body::Table(table) = &self.running.nodes[node].body else { return Ok(()) };
                table.gather(beside, &rows).map_err(|cause| self.running.failed(node)(cause.into()))
            }
        }
    }

    /// Ends a copy: only what differs from the rows held goes on.
    ///
    /// # Errors
    /// As [`Program::apply`].
    pub fn finish_copy(&mut self, id: TableId, copy: TableCopy) -> Result<(), StepError> {
        let TableCopy::Beside(beside) = copy else { return Ok(()) };
        let node = self.node(id);
        let Some(kept) = self.running.nodes[node].kept else { return Ok(()) };
        let failed = self.running.failed(node);
        let Body::Table(table) = &self.running.nodes[node].body else { return Ok(()) };
        let differences = table.compare(self.running.state.get(kept), &beside).map_err(|cause| failed(cause.into()))?;
        for difference in differences {
            let Body::Table(table) = &self.running.nodes[node].body else { return Ok(()) };
            let delta = table.difference(self.running.state.get(kept), &beside, &difference);
            self.tell(node, delta)?;
            self.running.end_step()?;
        }
        Ok(())
    }

    /// Ends an epoch: what changed in each projection since the last one.
    ///
    /// # Errors
    /// Only for mistakes of ours; the program must then not be used further.
    pub fn publish(&mut self) -> Result<Vec<(ProjectionId, Published)>, StepError> {
        self.publish_where(|_| true)
    }

    /// As [`Program::publish`], of the projections all of whose tables are ready; others go on
    /// gathering what changes.
    ///
    /// # Errors
    /// As [`Program::publish`].
    pub fn publish_where(
        &mut self,
        ready: impl Fn(TableId) -> bool,
    ) -> Result<Vec<(ProjectionId, Published)>, StepError> {
        self.running.end_epoch(&ready)?;
        let mut published = Vec::new();
        let mut later = BTreeSet::new();
        for i in std::mem::take(&mut self.running.reached) {
            let running = &mut self.running;
            let Some(output) = &mut running.outputs[i] else { continue };
            if !running.nodes[output.node].tables.iter().all(|table| ready(*table)) {
                later.insert(i);
                continue;
            }
            match output.projection.publish() {
                Ok(None) => {}
                Ok(Some(some)) => published.push((ProjectionId(i), some)),
                Err(cause) => return Err(StepError::Publish { projection: output.name.clone(), cause }),
            }
        }
        self.running.reached = later;
        Ok(published)
    }

    fn node(&self, id: TableId) -> usize {
        self.tables[id.0].expect("a table that the program has")
    }
}

/// Looking in.
impl Program {
    /// A table by its name.
    #[must_use]
    pub fn table_id(&self, name: &str) -> Option<TableId> {
        self.table_names.get(name).copied()
    }

    /// A projection by its name.
    #[must_use]
    pub fn projection_id(&self, name: &str) -> Option<ProjectionId> {
        let is_named = |output: &Option<Output>| output.as_ref().is_some_and(|output| output.name == name);
        self.running.outputs.iter().position(is_named).map(ProjectionId)
    }

    /// The key of a projection.
    #[must_use]
    pub fn key(&self, id: ProjectionId) -> &ProjectionKey {
        self.output(id).projection.key()
    }

    /// The columns of a projection.
    #[must_use]
    pub fn schema(&self, id: ProjectionId) -> &SchemaRef {
        self.output(id).projection.schema()
    }

    /// The tables that a projection reads.
    #[must_use]
    pub fn tables_of(&self, id: ProjectionId) -> BTreeSet<TableId> {
        self.running.nodes[self.output(id).node].tables.clone()
    }

    /// Distinct rows held of a table; of one that is only appended to none are.
    #[must_use]
    pub fn table_rows(&self, id: TableId) -> usize {
        self.running.nodes[self.node(id)].kept.map_or(0, |kept| self.running.state.get(kept).len())
    }

    /// All rows of a projection as of the last step, in pieces, made again from state: rows that are
    /// withheld are not among them.
    ///
    /// # Errors
    /// Only for mistakes of ours.
    pub fn image(&mut self, id: ProjectionId) -> Result<Vec<Delta>, StepError> {
        let mut out = Vec::new();
        let node = self.output(id).node;
        self.running.image(node, &mut |running, delta| {
            let Some(output) = &running.outputs[id.0] else { return Ok(()) };
            let failed = |cause| StepError::Node { node: output.name.clone(), cause };
            let mut delta = output.projection.view_of(&delta).map_err(failed)?;
            if let Some(faults) = delta.faults.take() {
                let clean: Vec<u32> =
                    (0_u32..).zip(&faults).filter(|(_, fault)| fault.is_none()).map(|(i, _)| i).collect();
                delta = delta.take(&clean).map_err(failed)?;
            }
            out.push(delta);
            Ok(())
        })?;
        Ok(out)
    }

    /// Rows that a projection withholds, with a reason where there are any.
    #[must_use]
    pub fn withheld(&self, id: ProjectionId) -> Withheld {
        self.output(id).projection.withheld(&self.running.state)
    }

    /// The projections whose withheld rows are not what they were at the last call.
    pub fn withheld_changed(&mut self) -> Vec<ProjectionId> {
        let changed = std::mem::take(&mut self.running.withheld_changed);
        let is_there = |id: &usize| self.running.outputs[*id].is_some();
        changed.into_iter().filter(is_there).map(ProjectionId).collect()
    }

    /// Rows that a projection withholds, at most so many, each with its reason.
    ///
    /// # Errors
    /// When the rows held can't be decoded, which would be a mistake of ours.
    pub fn withheld_rows(&self, id: ProjectionId, at_most: usize) -> Result<Vec<WithheldRow>, StepError> {
        let output = self.output(id);
        let failed = |cause| StepError::Publish { projection: output.name.clone(), cause };
        output.projection.withheld_rows(&self.running.state, at_most).map_err(failed)
    }

    /// Rows and bytes of every store, with what it is of.
    #[must_use]
    pub fn sizes(&self) -> Vec<(String, Size)> {
        let label = |name: &StoreName| {
            let node =
                self.running.nodes.iter().find(|node| node.fingerprint == name.of).map(|node| node.label.clone());
            let output = || {
                self.running
                    .outputs
                    .iter()
                    .flatten()
                    .find(|output| output.fingerprint == name.of)
                    .map(|output| output.name.clone())
            };
            node.or_else(output).unwrap_or_default()
        };
        self.running.state.sizes().into_iter().map(|size| (label(&size.name), size)).collect()
    }

    /// Appends all state, between epochs: what [`Program::read_state`] of a program of the same
    /// dataflow takes in.
    ///
    /// # Errors
    /// As [`Program::publish`]: what waited for the end of the epoch has its say first.
    pub fn write_state(&mut self, out: &mut Vec<u8>) -> Result<(), StepError> {
        self.running.end_epoch(|_| true)?;
        self.running.state.write(out);
        Ok(())
    }

    /// Takes in state that was written by another run, in the place of a fresh program's. Nodes that
    /// it has nothing of stay as they are over empty tables.
    ///
    /// # Errors
    /// When the bytes are of another version or no state. The program must then not be used.
    pub fn read_state(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        // What waits for the end of an epoch is about the empty tables of before, and would be added to what
        // is read: the one row of an aggregate over nothing stood in the groups above it for good.
        let ended = self.running.end_epoch(|_| true);
        ended.map_err(|error| StateError::Malformed { what: format!("a fresh program failed: {error}") })?;
        self.running.state.read(bytes)?;
        self.running.reached.clear();
        let Running { outputs, state, .. } = &mut self.running;
        outputs.iter_mut().flatten().for_each(|output| output.projection.restored(state));
        self.running.withheld_changed.extend(0..self.running.outputs.len());
        Ok(())
    }

    /// From now on state notes which keys change; returns how many did since the last call.
    pub fn mark_state(&mut self) -> usize {
        let changed = self.running.state.changed();
        self.running.state.mark();
        changed
    }

    fn output(&self, id: ProjectionId) -> &Output {
        self.running.outputs[id.0].as_ref().expect("a projection that the program has")
    }
}

fn truncates(changes: &Changes) -> bool {
    changes.ops.contains(&Op::Truncate)
}

/// Changes in parts of so many rows; an old key stays with its update.
fn cut(changes: &Changes, rows_max: usize) -> Vec<Changes> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < changes.ops.len() {
        let mut end = (start + rows_max).min(changes.ops.len());
        if end < changes.ops.len() && changes.ops[end - 1] == Op::OldKey {
            end = if end - 1 > start { end - 1 } else { end + 1 };
        }
        parts.push(slice(changes, start..end));
        start = end;
    }
    parts
}

/// Some of the changes, in order.
fn slice(changes: &Changes, rows: Range<usize>) -> Changes {
    let place = |row: usize| changes.unchanged.partition_point(|(at, _)| (*at as usize) < row);
    let shift = u32::try_from(rows.start).expect("a batch has fewer than 2^32 rows");
    let unchanged = &changes.unchanged[place(rows.start)..place(rows.end)];
    Changes {
        rows: changes.rows.slice(rows.start, rows.len()),
        ops: changes.ops[rows].to_vec(),
        unchanged: unchanged.iter().map(|(row, column)| (row - shift, *column)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrangement::NullKeys;
    use crate::testing::{Client, INT, Kit, RowFn, TEXT, changes, orders, schema, transaction};
    use crate::{AggregateCall, AggregateKind, Dataflow, ExprError, JoinKind, JoinSide, NodeId, Recompute};
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use expect_test::expect;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn counted(kit: &mut Kit, name: &str) {
        let input = kit.all(kit.o);
        let call = AggregateCall { kind: AggregateKind::Count, arguments: vec![], filter: None };
        let node = kit.dataflow.group_by(
            "by c".to_owned(),
            &input,
            vec![1],
            vec![call],
            schema(&[("c", INT), ("n", INT)]),
            "",
        );
        let served = kit.all(node);
        kit.dataflow.serve(name, &served, ProjectionKey::Derived(vec![0]));
    }

    fn serve(kit: &mut Kit, name: &str, node: NodeId, key: ProjectionKey) {
        let input = kit.all(node);
        kit.dataflow.serve(name, &input, key);
    }

    /// How many rows a node has, worked out anew each time.
    fn recounted(kit: &mut Kit, name: &str, node: NodeId) {
        struct Rows;

        impl Recompute for Rows {
            fn recompute(&mut self, inputs: &[RecordBatch]) -> Result<RecordBatch, ExprError> {
                let rows = i64::try_from(inputs[0].num_rows()).unwrap_or_default();
                let one: ArrayRef = Arc::new(Int64Array::from(vec![rows]));
                RecordBatch::try_new(schema(&[("rows", INT)]), vec![one]).map_err(ExprError::from)
            }
        }

        let input = kit.all(node);
        let node = kit.dataflow.whole(name.to_owned(), &[input], schema(&[("rows", INT)]), Box::new(Rows), name);
        serve(kit, name, node, ProjectionKey::WholeRow);
    }

    /// Orders of more than nothing.
    fn paid(kit: &mut Kit) -> NodeId {
        let positive = RowFn::new(&[2], |row| Ok(row[0].map(|n| i64::from(n > 0)))).boolean();
        let input = kit.all(kit.o);
        kit.dataflow.filter("n > 0".to_owned(), &input, Box::new(positive), "n > 0", &[0])
    }

    /// Names of customers, with the numbers of their orders.
    fn names(kit: &mut Kit, orders: NodeId) -> NodeId {
        let sides = (
            kit.dataflow.arrange(kit.c, vec![0], NullKeys::NeverMatch),
            kit.dataflow.arrange(orders, vec![1], NullKeys::NeverMatch),
        );
        let columns = vec![(JoinSide::Left, 1), (JoinSide::Right, 0)];
        kit.dataflow.join("of".into(), JoinKind::Inner, sides, columns, schema(&[("name", TEXT), ("o", INT)]))
    }

    fn flow(build: impl FnOnce(&mut Kit)) -> Dataflow {
        let mut kit = Kit::new();
        build(&mut kit);
        kit.dataflow
    }

    fn apply(program: &mut Program, text: &str) {
        let step = changes(program, text);
        program.apply(&step).expect("a step");
    }

    /// What is published, by name.
    fn published(program: &mut Program) -> BTreeMap<String, String> {
        let all = program.publish().expect("an epoch");
        let name = |id: ProjectionId| program.output(id).name.clone();
        all.into_iter()
            .map(|(id, published)| match published {
                Published::Diff(parts) => (name(id), Client { rows: BTreeMap::new() }.tell(&parts)),
                Published::KeyConflict { key } => (name(id), format!("conflict {key}")),
            })
            .collect()
    }

    #[test]
    fn only_what_is_reached_is_published() {
        let mut program = Program::new(flow(|kit| {
            counted(kit, "counts");
            serve(kit, "customers", kit.c, ProjectionKey::Derived(vec![0]));
        }))
        .expect("a program");
        assert!(published(&mut program).is_empty());
        apply(&mut program, "+c(1, ann)");
        assert_eq!(published(&mut program), [("customers".to_owned(), "+(1, ann)".to_owned())].into());
        apply(&mut program, "+o(7, 1, 5)");
        assert_eq!(published(&mut program), [("counts".to_owned(), "+(1, 1)".to_owned())].into());
        assert!(published(&mut program).is_empty());
    }

    /// What is there stays, with its ids; what is new is filled; what nobody reads goes.
    #[test]
    fn a_program_changes_while_it_runs() {
        let mut program = Program::new(flow(|kit| counted(kit, "counts"))).expect("a program");
        apply(&mut program, "+o(7, 1, 5) +o(8, 1, 0)");
        published(&mut program);
        let (counts, orders) = (program.projection_id("counts"), program.table_id("o"));
        let groups = |program: &Program| program.sizes().iter().filter(|(_, size)| size.name.part == "groups").count();
        assert_eq!(groups(&program), 1);

        let both = || {
            flow(|kit| {
                serve(kit, "orders", kit.o, ProjectionKey::Derived(vec![0]));
                counted(kit, "counts");
            })
        };
        program.reconcile(both()).expect("another dataflow");
        assert_eq!((program.projection_id("counts"), program.table_id("o")), (counts, orders));
        let told = published(&mut program);
        assert_eq!(
            told,
            [("orders".to_owned(), "+(7, 1, 5) +(8, 1, 0)".to_owned())].into(),
            "only what is new says what there is"
        );
        apply(&mut program, "+o(9, 1, 1)");
        let told = published(&mut program);
        assert_eq!(told["counts"], "-(1, 2) +(1, 3)");
        assert_eq!(told["orders"], "+(9, 1, 1)");

        program
            .reconcile(flow(|kit| serve(kit, "orders", kit.o, ProjectionKey::Derived(vec![0]))))
            .expect("another dataflow");
        assert_eq!((program.projection_id("counts"), groups(&program)), (None, 0));
        program.reconcile(both()).expect("another dataflow");
        assert_ne!(program.projection_id("counts"), counts, "it begins anew");
        assert_eq!(published(&mut program), [("counts".to_owned(), "+(1, 3)".to_owned())].into());
    }

    #[test]
    fn a_projection_waits_for_its_tables() {
        let mut program = Program::new(flow(|kit| {
            counted(kit, "counts");
            serve(kit, "customers", kit.c, ProjectionKey::Derived(vec![0]));
        }))
        .expect("a program");
        let (orders, customers) = (program.table_id("o").expect("o"), program.table_id("c").expect("c"));
        let counts = program.projection_id("counts").expect("counts");
        assert_eq!(program.tables_of(counts), [orders].into());
        apply(&mut program, "+c(1, ann) +o(7, 1, 5)");
        let ready: Vec<ProjectionId> = program
            .publish_where(|table| table == customers)
            .expect("an epoch")
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(ready, [program.projection_id("customers").expect("customers")]);
        apply(&mut program, "+o(8, 1, 5)");
        assert_eq!(published(&mut program), [("counts".to_owned(), "+(1, 2)".to_owned())].into());
    }

    /// What is recomputed waits for its own tables, not for those of another.
    #[test]
    fn what_is_recomputed_waits_for_its_tables() {
        let mut program = Program::new(flow(|kit| {
            recounted(kit, "orders", kit.o);
            recounted(kit, "customers", kit.c);
        }))
        .expect("a program");
        published(&mut program);
        let customers = program.table_id("c").expect("c");
        apply(&mut program, "+c(1, ann) +o(7, 1, 5)");
        let ready = program.publish_where(|table| table == customers).expect("an epoch");
        assert_eq!(ready.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [program.projection_id("customers").unwrap()]);
        assert_eq!(published(&mut program), [("orders".to_owned(), "-(0) +(1)".to_owned())].into());
    }

    /// Rows are kept while somebody looks them up, made from what the node has put out before, and
    /// are gone when nobody does.
    #[test]
    fn rows_are_kept_for_those_who_look_them_up() {
        let filtered = || {
            flow(|kit| {
                let paid = paid(kit);
                serve(kit, "paid", paid, ProjectionKey::Derived(vec![0]));
            })
        };
        let joined = || {
            flow(|kit| {
                let paid = paid(kit);
                serve(kit, "paid", paid, ProjectionKey::Derived(vec![0]));
                let names = names(kit, paid);
                serve(kit, "names", names, ProjectionKey::WholeRow);
            })
        };
        let kept = |program: &Program| {
            let of_rows = program.sizes().into_iter().filter(|(_, size)| size.name.part == "rows");
            of_rows.map(|(label, size)| format!("{label}: {}", size.rows)).collect::<Vec<_>>()
        };
        let mut program = Program::new(filtered()).expect("a program");
        apply(&mut program, "+c(1, ann) +o(7, 1, 5) +o(8, 1, 0) +o(9, 1, 1)");
        assert_eq!(published(&mut program)["paid"], "+(7, 1, 5) +(9, 1, 1)");
        assert_eq!(kept(&program), ["table c: 1", "table o: 3", "table l: 0"]);
        for _ in 0..2 {
            program.reconcile(joined()).expect("another dataflow");
            assert_eq!(published(&mut program), [("names".to_owned(), "+(ann, 7) +(ann, 9)".to_owned())].into());
            assert_eq!(kept(&program), ["table c: 1", "table o: 3", "table l: 0", "n > 0: 2"]);
            apply(&mut program, "-o(9)");
            assert_eq!(published(&mut program)["names"], "-(ann, 9)");
            program.reconcile(filtered()).expect("another dataflow");
            assert_eq!(kept(&program), ["table c: 1", "table o: 2", "table l: 0"]);
            apply(&mut program, "+o(9, 1, 1)");
            assert_eq!(published(&mut program)["paid"], "+(9, 1, 1)");
        }
    }

    #[test]
    fn keys_of_other_types_do_not_join() {
        let built = Program::new(flow(|kit| {
            let sides = (
                kit.dataflow.arrange(kit.c, vec![1], NullKeys::NeverMatch),
                kit.dataflow.arrange(kit.o, vec![1], NullKeys::NeverMatch),
            );
            assert_eq!((kit.dataflow.key_types(sides.0), kit.dataflow.key_types(sides.1)), (vec![TEXT], vec![INT]));
            assert!(kit.dataflow.key_types(kit.c).is_empty(), "it is not arranged");
            let columns = vec![(JoinSide::Left, 0)];
            kit.dataflow.join("mixed".to_owned(), JoinKind::Inner, sides, columns, schema(&[("id", INT)]));
        }));
        let error = built.err().expect("an error");
        assert_eq!(error.to_string(), "mixed failed");
    }

    /// A tree, with what each operator costs and holds. An index on a table's own key holds nothing.
    #[test]
    fn a_projection_is_explained() {
        let mut program = Program::new(flow(|kit| {
            let paid = paid(kit);
            let names = names(kit, paid);
            serve(kit, "names", names, ProjectionKey::WholeRow);
            recounted(kit, "recounted", names);
            serve(kit, "log", kit.l, ProjectionKey::WholeRow);
        }))
        .expect("a program");
        apply(&mut program, "+c(1, ann) +o(7, 1, 5) +o(8, 1, 0)");
        published(&mut program);
        let explained = |name: &str| program.explain(program.projection_id(name).expect("a projection"));
        expect![[r#"
            recounted                    whole  1 rows, 1 KiB
              of  (shared by 2)          delta  1 rows, 1 KiB
                arrange by id (its key)  delta
                  table c                delta  1 rows, 1 KiB
                arrange by c             delta
                  n > 0                  delta  1 rows, 1 KiB
                    table o              delta  2 rows, 1 KiB
        "#]]
        .assert_eq(&explained("recounted"));
        expect![[r#"
            table l  delta
        "#]]
        .assert_eq(&explained("log"));
        let sizes =
            program.sizes().into_iter().map(|(label, size)| format!("{label}/{}: {}", size.name.part, size.rows));
        let expected = [
            "table c/rows: 1",
            "table o/rows: 2",
            "table l/rows: 0",
            "n > 0/rows: 1",
            "of/rows: 1",
            "recounted/answer: 1",
            "names/withheld: 0",
            "recounted/withheld: 0",
            "log/withheld: 0",
        ];
        assert_eq!(sizes.collect::<Vec<_>>(), expected);
    }

    /// A declared key that two rows have stops its projection, with the key, until one is gone; that
    /// it is over is said even when nothing else changed.
    #[test]
    fn a_declared_key_is_watched() {
        let build = || flow(|kit| serve(kit, "p", kit.o, ProjectionKey::Declared(vec![1])));
        let mut program = Program::new(build()).expect("a program");
        let mut say = |text: &str| {
            apply(&mut program, text);
            published(&mut program).remove("p")
        };
        assert_eq!(say("+o(1, 5, 1)").as_deref(), Some("+(1, 5, 1)"));
        assert_eq!(say("+o(2, 5, 1) +o(3, 6, 1)").as_deref(), Some("conflict c = 5"));
        assert_eq!(say("+o(4, 6, 1)").as_deref(), Some("conflict c = 5"));
        assert_eq!(say("-o(1) -o(4)").as_deref(), Some("-(1, 5, 1) +(2, 5, 1) +(3, 6, 1)"));
        assert_eq!(say("+o(9, 6, 1)").as_deref(), Some("conflict c = 6"));
        assert_eq!(say("-o(9)").as_deref(), Some(""));
        assert_eq!(say("+c(1, ann)"), None);
        let mut state = Vec::new();
        apply(&mut program, "+o(9, 6, 1)");
        program.write_state(&mut state).expect("state");
        let mut other = Program::new(build()).expect("a program");
        other.read_state(&state).expect("state");
        apply(&mut other, "+o(10, 7, 1)");
        assert_eq!(published(&mut other)["p"], "conflict c = 6", "also after a restart");
    }

    /// In a conflict a key has several rows, and what waits to be published was consolidated by key:
    /// one row took the other's place and was lost for ever.
    #[test]
    fn a_long_conflict_loses_no_row() {
        let mut program =
            Program::new(flow(|kit| serve(kit, "p", kit.o, ProjectionKey::Declared(vec![1])))).expect("a program");
        apply(&mut program, "+o(1, 5, 1) +o(2, 5, 1)");
        (10..30).for_each(|id| apply(&mut program, &format!("+o({id}, {id}, 1)")));
        (10..30).for_each(|id| apply(&mut program, &format!("~o({id}, {id}, 2)")));
        assert_eq!(published(&mut program)["p"], "conflict c = 5");
        apply(&mut program, "~o(2, 6, 1)");
        let told = published(&mut program).remove("p").expect("a diff");
        assert!(told.contains("+(1, 5, 1)") && told.contains("+(2, 6, 1)"), "{told}");
        assert_eq!(told.split(") ").count(), 22, "{told}");
    }

    /// The old and the new row of a key stand in one part, with which is which.
    #[test]
    fn rows_of_a_key_are_paired() {
        let mut program =
            Program::new(flow(|kit| serve(kit, "p", kit.c, ProjectionKey::Derived(vec![0])))).expect("a program");
        apply(&mut program, "+c(1, ann) +c(2, bob)");
        published(&mut program);
        let mut pairs = |steps: &[&str]| {
            steps.iter().for_each(|step| apply(&mut program, step));
            let all = program.publish().expect("an epoch");
            let [(_, Published::Diff(parts))] = &all[..] else { panic!("one diff") };
            let of_part = |part: &crate::DiffPart| {
                let rows = crate::testing::show(&part.batch);
                let row = |at: Option<u32>| at.map_or(String::new(), |at| rows[at as usize].clone());
                part.pairs.iter().map(|pair| (row(pair.old), row(pair.new))).collect::<Vec<_>>()
            };
            let mut pairs: Vec<(String, String)> = parts.iter().flat_map(of_part).collect();
            pairs.sort_unstable();
            pairs.into_iter().map(|(old, new)| format!("{old}->{new}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(pairs(&["~c(1, eve) -c(2) +c(3, x)", "~c(1, eva)"]), "->(3, x) (1, ann)->(1, eva) (2, bob)->");
        assert_eq!(pairs(&["~c(1, bea) -c(3)"]), "(1, eva)->(1, bea) (3, x)->", "in one step");
        assert_eq!(pairs(&["-c(1)"]), "(1, bea)->");
        assert_eq!(pairs(&["+c(4, y)", "+c(5, z)"]), "->(4, y) ->(5, z)");
        assert_eq!(pairs(&["-c(4)", "-c(5)"]), "(4, y)-> (5, z)->");
    }

    #[test]
    fn changes_are_cut_between_rows_that_belong_apart() {
        let program = Program::new(flow(|_| {})).expect("a program");
        let mut whole = changes(&program, "<c(1) ~c(2, x)").remove(0).1;
        whole.unchanged = vec![(1, 1)];
        let parts = |rows_max| {
            cut(&whole, rows_max).iter().map(|part| (part.ops.len(), part.unchanged.clone())).collect::<Vec<_>>()
        };
        assert_eq!(parts(1), [(2, vec![(1, 1)])], "an old key stays with its update");
        let steps = changes(&program, "+c(1, a) +c(2, b) +c(3, c)");
        let rows = arrow::compute::concat_batches(&steps[0].1.rows.schema(), steps.iter().map(|(_, step)| &step.rows))
            .expect("rows");
        whole = Changes { rows, ops: vec![Op::Insert, Op::OldKey, Op::Update], unchanged: vec![(2, 1)] };
        let parts = |rows_max| {
            cut(&whole, rows_max).iter().map(|part| (part.ops.clone(), part.unchanged.clone())).collect::<Vec<_>>()
        };
        assert_eq!(parts(2), [(vec![Op::Insert], vec![]), (vec![Op::OldKey, Op::Update], vec![(1, 1)])]);
        assert_eq!(parts(3).len(), 1);
        whole = Changes { ops: vec![Op::Update; 3], unchanged: vec![(0, 1), (1, 0), (1, 1), (2, 1)], ..whole };
        let parts: Vec<_> = cut(&whole, 1).into_iter().map(|part| part.unchanged).collect();
        assert_eq!(parts, [vec![(0, 1)], vec![(0, 0), (0, 1)], vec![(0, 1)]], "each row's own");
    }

    /// A transaction of more rows than a step is cut up, and is one epoch all the same.
    #[test]
    fn a_large_transaction_is_one_epoch() {
        let mut program = Program::new(flow(|kit| counted(kit, "counts"))).expect("a program");
        let rows = STEP_ROWS_MAX * 3 + 5;
        let table = program.table_id("o").expect("orders");
        program.apply(&[(table, orders(Op::Insert, rows, 1))]).expect("steps");
        assert_eq!(program.table_rows(table), rows);
        assert_eq!(published(&mut program)["counts"], format!("+(1, {rows})"));
        // All of them go in steps of bounded size too, and what comes before and after stays in order.
        let parts = transaction(&program, "+o(999999, 1, 1) !o(0) +o(1, 2, 2) +o(2, 2, 2)");
        program.apply(&[parts]).expect("steps");
        assert_eq!(
            (program.table_rows(table), published(&mut program)["counts"].as_str()),
            (2, &*format!("-(1, {rows}) +(2, 2)"))
        );
    }

    /// Who reads a large table that is emptied hears of it in steps of bounded size, also where the
    /// truncation is the first word of its batch.
    #[test]
    fn a_large_table_is_emptied_in_steps() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut program = Program::new(flow(|kit| {
            let input = kit.all(kit.o);
            let call = AggregateCall { kind: AggregateKind::Count, arguments: vec![], filter: None };
            let out = schema(&[("n", INT)]);
            let counted = kit.dataflow.group_by("n".to_owned(), &input, vec![], vec![call], out, "");
            let seen = Arc::clone(&seen);
            let look = RowFn::new(&[0], move |row| {
                seen.lock().expect("one thread").extend(row[0]);
                Ok(Some(1))
            });
            let input = kit.all(counted);
            let node = kit.dataflow.filter("looked at".to_owned(), &input, Box::new(look.boolean()), "", &[0]);
            serve(kit, "counts", node, ProjectionKey::WholeRow);
        }))
        .expect("a program");
        let table = program.table_id("o").expect("orders");
        let rows = STEP_ROWS_MAX * 2 + 5;
        program.apply(&[(table, orders(Op::Insert, rows, 1))]).expect("steps");
        assert_eq!(published(&mut program)["counts"], format!("+({rows})"));
        seen.lock().expect("one thread").clear();
        let emptied = transaction(&program, "!o(0) +o(1, 2, 2) +o(2, 2, 2)");
        program.apply(&[emptied]).expect("steps");
        let seen: BTreeSet<i64> = seen.lock().expect("one thread").iter().copied().collect();
        let most = seen.iter().zip(seen.iter().skip(1)).map(|(less, more)| more - less).max();
        assert_eq!(most, i64::try_from(STEP_ROWS_MAX).ok(), "{seen:?}");
        assert_eq!(published(&mut program)["counts"], format!("+(2) -({rows})"));
    }

    /// A source tells a transaction in many batches: they share steps, and a step is never too large.
    #[test]
    fn batches_share_steps() {
        let mut program = Program::new(flow(|kit| counted(kit, "counts"))).expect("a program");
        let table = program.table_id("o").expect("orders");
        let (half, most) = (STEP_ROWS_MAX / 2, STEP_ROWS_MAX - 10);
        let batches = [half, half, most, 20, most, half, STEP_ROWS_MAX + 5, most];
        let batch = |(customer, rows): (i64, &usize)| (table, orders(Op::Insert, *rows, customer));
        program.apply(&(1..).zip(&batches).map(batch).collect::<Vec<_>>()).expect("steps");
        assert_eq!(published(&mut program)["counts"], format!("+(7, 15) +(8, {most})"), "the last word counts");
    }

    /// Rows that are told apart only by all of them go in steps of bounded size too.
    #[test]
    fn a_large_bag_is_emptied() {
        let mut program = Program::new(flow(|kit| serve(kit, "l", kit.l, ProjectionKey::WholeRow))).expect("a program");
        let table = program.table_id("l").expect("the table");
        let rows = STEP_ROWS_MAX * 2 + 2;
        let numbers = Int64Array::from_iter_values((0_i64..).take(rows).map(|i| i / 2 * 2));
        let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(StringArray::from(vec!["x"; rows]))];
        let batch = RecordBatch::try_new(program.running.nodes[program.node(table)].schema.clone(), columns);
        let changes = Changes { rows: batch.expect("rows"), ops: vec![Op::Insert; rows], unchanged: Vec::new() };
        program.apply(&[(table, changes)]).expect("steps");
        assert_eq!(program.table_rows(table), STEP_ROWS_MAX + 1, "each stands twice");
        published(&mut program);
        let before = transaction(&program, "+l(1, y) !l(0) +l(2, z)");
        program.apply(&[before]).expect("steps");
        let all = program.publish().expect("an epoch");
        let [(_, Published::Diff(parts))] = &all[..] else { panic!("one diff") };
        let mut weights: BTreeMap<i64, usize> = BTreeMap::new();
        parts.iter().flat_map(|part| &part.weights).for_each(|weight| *weights.entry(*weight).or_default() += 1);
        assert_eq!(weights, [(-2, STEP_ROWS_MAX + 1), (1, 1)].into());
        assert_eq!(program.table_rows(table), 1);
    }

    #[test]
    fn state_notes_what_changes() {
        let mut program = Program::new(flow(|kit| counted(kit, "counts"))).expect("a program");
        assert_eq!(program.mark_state(), 0);
        apply(&mut program, "+o(1, 1, 1) +o(2, 1, 1)");
        assert_eq!(program.mark_state(), 3, "two orders and a group");
        assert_eq!(program.mark_state(), 0);
        assert!(program.sizes().iter().any(|(label, size)| label == "table o" && size.rows == 2 && size.bytes > 0));
        assert!(program.explain(program.projection_id("counts").expect("counts")).contains("table o  delta  2 rows"));
    }

    /// A table is found by its name among the tables: not by what is shown of it to people, and not
    /// one of two.
    #[test]
    fn a_table_is_found_by_its_name() {
        let mut program = Program::new(flow(|_| {})).expect("a program");
        let (o, c) = (program.table_id("o").expect("o"), program.table_id("c").expect("c"));
        assert_ne!(o, c);
        assert_eq!((program.table_id("table o"), program.table_id("x")), (None, None));
        let mut other = Dataflow::default();
        other.table("x", schema(&[("id", INT)]), crate::table::Identity::WholeRow);
        program.reconcile(other).expect("another dataflow");
        assert_eq!((program.table_id("o"), program.table_id("c")), (None, None));
        assert!(program.table_id("x").is_some_and(|x| x != o && x != c), "a number is not given twice");
    }

    /// Of two tables of one name the second would never have got a row.
    #[test]
    #[should_panic(expected = "two tables are called o")]
    fn two_tables_of_one_name_are_refused() {
        Kit::new().dataflow.table("o", schema(&[("id", INT)]), crate::table::Identity::WholeRow);
    }
}
