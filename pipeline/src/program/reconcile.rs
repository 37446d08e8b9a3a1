//! From what runs to what another dataflow describes.
//!
//! A node that both have (its fingerprint says so) stays as it is, with its state. A new one is
//! built and filled from what its inputs have put out so far, inputs first, in pieces. What nobody
//! reads any more goes, and its state with it. An operator that is there has the same inputs as
//! before, for they are part of its fingerprint: so only new ones need to be told anything.

use std::collections::BTreeSet;

use arrow::error::ArrowError;
use hashbrown::HashMap;

use crate::arrangement::Arrangement;
use crate::dataflow::{Dataflow, Description, Kind, NodeId, Served};
use crate::fingerprint::Fingerprint;
use crate::operator::join::Indexed;
use crate::operator::top::Sorted;
use crate::operator::{Filter, GroupBy, Join, Operator, Project, Top, Union, View, When, Whole};
use crate::program::{Body, Node, Output, Program, Reader, Running, StepError, TableId, To};
use crate::projection::{Projection, ProjectionKey};
use crate::state::{Handle, Keyed, StoreName};
use crate::table::{Identity, Table};

impl Program {
    /// A program over empty tables.
    ///
    /// # Errors
    /// When a column's type can't be kept, or an operator is not what its description says.
    pub fn new(dataflow: Dataflow) -> Result<Program, StepError> {
        let mut program = Program::default();
        program.reconcile(dataflow)?;
        Ok(program)
    }

    /// Becomes what `dataflow` describes, between steps: keeps what is the same, builds what is new
    /// over the rows that are there, drops what nobody reads any more. Tables and projections that
    /// stay keep their ids; what a new projection has is published at the end of the epoch. A table
    /// that is new, or whose columns are not what they were, has no rows yet.
    ///
    /// # Errors
    /// When a column's type can't be kept, or an operator is not what its description says; the
    /// program must then not be used further.
    pub fn reconcile(&mut self, dataflow: Dataflow) -> Result<(), StepError> {
        let running = &mut self.running;
        let kept_inputs = kept_inputs(&dataflow);
        let Dataflow { nodes: descriptions, served, tables, .. } = dataflow;

        // 1. What is there and is described again stays.
        let mut old: HashMap<Fingerprint, (usize, Node)> = std::mem::take(&mut running.nodes)
            .into_iter()
            .enumerate()
            .map(|(i, node)| (node.fingerprint, (i, node)))
            .collect();
        let mut moved: HashMap<usize, usize> = HashMap::new();
        let mut fresh: Vec<usize> = Vec::new();
        for (i, description) in descriptions.into_iter().enumerate() {
            let inputs: Vec<usize> = description.inputs.iter().map(|input| input.0).collect();
            let keeps_rows = kept_inputs.contains(&i);
            match old.remove(&description.fingerprint) {
                Some((was, mut node)) => {
                    moved.insert(was, i);
                    node.inputs = inputs;
                    (node.readers, node.served) = (Vec::new(), Vec::new());
                    let newly_kept = keeps_rows && node.kept.is_none();
                    if !keeps_rows {
                        node.kept = None;
                    }
                    running.nodes.push(node);
                    if newly_kept {
                        running.keep_rows(i)?;
                    }
                }
                None => {
                    running.build(i, description, inputs, keeps_rows)?;
                    fresh.push(i);
                }
            }
        }
        running.late = running.late.iter().filter_map(|was| moved.get(was).copied()).collect();
        running.wire();

        // 2. Tables by their names.
        self.tables.iter_mut().for_each(|table| *table = table.and_then(|was| moved.get(&was).copied()));
        self.table_names.clear();
        for (name, NodeId(node)) in tables {
            let place = self.tables.iter().position(|table| *table == Some(node)).unwrap_or_else(|| {
                self.tables.push(Some(node));
                self.tables.len() - 1
            });
            self.table_names.insert(name, TableId(place));
        }
        running.know_tables(&self.tables);

        // 3. New nodes take in what their inputs have put out; inputs come first.
        for &node in &fresh {
            running.fill(node)?;
        }
        self.serve(served)?;
        self.drop_unread();
        Ok(())
    }

    fn serve(&mut self, served: Vec<Served>) -> Result<(), StepError> {
        let running = &mut self.running;
        let wanted: BTreeSet<Fingerprint> = served.iter().map(|served| served.fingerprint).collect();
        for output in &mut running.outputs {
            if output.as_ref().is_some_and(|output| !wanted.contains(&output.fingerprint)) {
                *output = None;
            }
        }
        for Served { name, node: NodeId(node), view, key, fingerprint } in served {
            let known = running
                .outputs
                .iter()
                .position(|output| output.as_ref().is_some_and(|output| output.fingerprint == fingerprint));
            if let Some(known) = known {
                if let Some(output) = &mut running.outputs[known] {
                    output.node = node;
                }
                running.nodes[node].served.push(known);
                continue;
            }
            let part = |part| StoreName { of: fingerprint, part };
            let keys = matches!(key, ProjectionKey::Declared(_))
                .then(|| running.state.add(part("keys"), Keyed::<i64>::default()));
            let withheld = running.state.add(part("withheld"), Keyed::<i64>::default());
            let projection = Projection::new(view, key, keys, withheld)
                .map_err(|cause| StepError::Node { node: name.clone(), cause })?;
            // A place of its own, so that nobody takes it for one that was dropped.
            let place = running.outputs.len();
            running.outputs.push(Some(Output { name, fingerprint, node, projection }));
            running.nodes[node].served.push(place);
            running.reached.insert(place);
            running.withheld_changed.insert(place);
            running.image(node, &mut |running, delta| {
                let Some(output) = &mut running.outputs[place] else { return Ok(()) };
                output
                    .projection
                    .apply(&delta, &mut running.state)
                    .map_err(|cause| StepError::Node { node: output.name.clone(), cause })
            })?;
        }
        Ok(())
    }

    /// State that belongs to nothing any more, and indexes that nobody reads.
    fn drop_unread(&mut self) {
        let Running { state, nodes, outputs, .. } = &mut self.running;
        let rows_kept: BTreeSet<Fingerprint> =
            nodes.iter().filter(|node| node.kept.is_some()).map(|node| node.fingerprint).collect();
        let of: BTreeSet<Fingerprint> = nodes
            .iter()
            .map(|node| node.fingerprint)
            .chain(outputs.iter().flatten().map(|output| output.fingerprint))
            .collect();
        state.retain(|name| if name.part == "rows" { rows_kept.contains(&name.of) } else { of.contains(&name.of) });
        for node in 0..nodes.len() {
            let Some(kept) = nodes[node].kept else { continue };
            let read: BTreeSet<_> = nodes[node]
                .readers
                .iter()
                .filter_map(|reader| match nodes[reader.node].body {
                    Body::Arrange(index) => Some(index),
                    _ => None,
                })
                .collect();
            state.get_mut(kept).keep_indexes(|index| read.contains(&index));
        }
    }
}

/// Nodes whose rows somebody needs again: those that are arranged or recomputed over, and tables.
fn kept_inputs(dataflow: &Dataflow) -> BTreeSet<usize> {
    let mut kept = BTreeSet::new();
    for (i, description) in dataflow.nodes.iter().enumerate() {
        match &description.kind {
            Kind::Table { identity } if *identity != Identity::AppendOnly => drop(kept.insert(i)),
            Kind::Arrange { .. } | Kind::Whole { .. } => kept.extend(description.inputs.iter().map(|input| input.0)),
            _ => {}
        }
    }
    kept
}

impl Running {
    /// Who reads whom, from the nodes' inputs.
    fn wire(&mut self) {
        for node in 0..self.nodes.len() {
            for (port, input) in self.nodes[node].inputs.clone().into_iter().enumerate() {
                self.nodes[input].readers.push(Reader { node, port });
            }
        }
    }

    /// Which tables each node's rows come from; inputs come first.
    fn know_tables(&mut self, tables: &[Option<usize>]) {
        for node in 0..self.nodes.len() {
            let own = tables.iter().position(|table| *table == Some(node)).map(TableId);
            let of_inputs: BTreeSet<TableId> =
                self.nodes[node].inputs.iter().flat_map(|input| self.nodes[*input].tables.clone()).collect();
            self.nodes[node].tables = own.into_iter().chain(of_inputs).collect();
        }
    }

    /// Starts to keep the rows of a node that ran without.
    fn keep_rows(&mut self, node: usize) -> Result<(), StepError> {
        let name = StoreName { of: self.nodes[node].fingerprint, part: "rows" };
        let rows =
            Arrangement::new(self.nodes[node].schema.clone(), None).map_err(|cause| self.failed(node)(cause.into()))?;
        let kept = self.state.add(name, rows);
        self.fill_rows(node, kept)?;
        self.nodes[node].kept = Some(kept);
        Ok(())
    }

    fn fill_rows(&mut self, node: usize, kept: Handle<Arrangement>) -> Result<(), StepError> {
        self.image_of_operator(node, &mut |running, delta| {
            let rows = running.state.get_mut(kept);
            let changed = rows.change(&delta);
            rows.fold();
            changed.map_err(|cause| running.failed(node)(cause.into()))
        })
    }

    /// Adds a node, without its rows.
    fn build(
        &mut self,
        at: usize,
        description: Description,
        inputs: Vec<usize>,
        keeps_rows: bool,
    ) -> Result<(), StepError> {
        let Description { fingerprint, label, cost, schema, kind, .. } = description;
        let failed = |cause| StepError::Node { node: label.clone(), cause };
        let body = self.body(fingerprint, &schema, kind, &inputs).map_err(failed)?;
        let kept = if keeps_rows {
            let key = match &body {
                Body::Table(table) => table.identity().key(),
                _ => None,
            };
            let rows = Arrangement::new(schema.clone(), key).map_err(failed)?;
            Some(self.state.add(StoreName { of: fingerprint, part: "rows" }, rows))
        } else {
            None
        };
        debug_assert!(at == self.nodes.len() && inputs.iter().all(|input| *input < at), "inputs first");
        self.nodes.push(Node {
            fingerprint,
            label,
            cost,
            schema,
            inputs,
            body,
            kept,
            readers: Vec::new(),
            served: Vec::new(),
            tables: BTreeSet::new(),
        });
        Ok(())
    }

    fn body(
        &mut self,
        of: Fingerprint,
        schema: &arrow::datatypes::SchemaRef,
        kind: Kind,
        inputs: &[usize],
    ) -> Result<Body, ArrowError> {
        let kept = |running: &Running, node: usize| {
            running.nodes[node]
                .kept
                .ok_or_else(|| ArrowError::InvalidArgumentError("its input keeps no rows".to_owned()))
        };
        let operator: Box<dyn Operator> = match kind {
            Kind::Table { identity, .. } => return Ok(Body::Table(Table::new(schema.clone(), identity))),
            Kind::Arrange { columns, nulls } => {
                let rows = kept(self, inputs[0])?;
                return Ok(Body::Arrange(self.state.get_mut(rows).index(&columns, nulls)?));
            }
            Kind::Filter { view, predicate, origin } => Box::new(Filter::new(view, predicate, origin)),
            Kind::Project { view, exprs, origin } => Box::new(Project::new(schema.clone(), view, exprs, origin)),
            Kind::Union { views } => Box::new(Union::new(views)),
            Kind::Join { kind, columns } => {
                let side = |running: &Running, arranged: usize| {
                    let Body::Arrange(index) = running.nodes[arranged].body else {
                        return Err(ArrowError::InvalidArgumentError("a join reads what is arranged".to_owned()));
                    };
                    Ok(Indexed { rows: kept(running, running.nodes[arranged].inputs[0])?, index })
                };
                let (left, right) = (side(self, inputs[0])?, side(self, inputs[1])?);
                let (of_left, of_right) = (self.state.get(left.rows), self.state.get(right.rows));
                if !of_left.key_types(left.index).eq(of_right.key_types(right.index)) {
                    return Err(ArrowError::InvalidArgumentError("the keys of a join have the same types".to_owned()));
                }
                let (left_schema, right_schema) = (&self.nodes[inputs[0]].schema, &self.nodes[inputs[1]].schema);
                Box::new(Join::new(schema.clone(), kind, (left, left_schema), (right, right_schema), columns)?)
            }
            Kind::GroupBy { view, group, calls } => {
                let groups = self.state.add(StoreName { of, part: "groups" }, Keyed::default());
                let input = self.nodes[inputs[0]].schema.clone();
                Box::new(GroupBy::new(&input, view, &group, calls, schema.clone(), groups)?)
            }
            Kind::Top { view, order, skip, fetch } => {
                let rows = self.state.add(StoreName { of, part: "sorted" }, Sorted::new(skip, fetch));
                Box::new(Top::new(view, &order, rows)?)
            }
            Kind::Whole { views, subplan } => {
                let rows = inputs
                    .iter()
                    .zip(views)
                    .map(|(input, view)| Ok((kept(self, *input)?, view)))
                    .collect::<Result<Vec<(_, View)>, ArrowError>>()?;
                let answer = self.state.add(StoreName { of, part: "answer" }, Keyed::default());
                Box::new(Whole::new(rows, schema.clone(), subplan, answer)?)
            }
        };
        Ok(Body::Operator(Some(operator)))
    }

    /// Gives a new node what its inputs have put out so far.
    fn fill(&mut self, node: usize) -> Result<(), StepError> {
        let when = match &self.nodes[node].body {
            Body::Operator(Some(operator)) => operator.when(),
            _ => return Ok(()),
        };
        if when != When::AtOnce {
            let reads_rows =
                self.nodes[node].inputs.iter().any(|input| matches!(self.nodes[*input].body, Body::Arrange(_)));
            if !reads_rows {
                for (port, input) in self.nodes[node].inputs.clone().into_iter().enumerate() {
                    self.image(input, &mut |running, delta| {
                        running.with_operator(node, To::Nobody, |operator, step| operator.accept(port, &delta, step))
                    })?;
                }
            }
            match when {
                // What it comes to is worked out when the epoch ends.
                When::EndOfEpoch => drop(self.late.insert(node)),
                _ => {
                    self.with_operator(node, To::Nobody, |operator, step| operator.finish(step))?;
                    if let Body::Operator(Some(operator)) = &mut self.nodes[node].body {
                        operator.fold(&mut self.state);
                    }
                }
            }
        }
        if let Some(kept) = self.nodes[node].kept {
            self.fill_rows(node, kept)?;
        }
        Ok(())
    }
}
