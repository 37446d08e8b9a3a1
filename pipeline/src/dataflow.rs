//! What a program is to do: a list of nodes, inputs before those who read them.
//!
//! A [`Dataflow`] is a description. Each node has a [`Fingerprint`] of what it does and of what it
//! reads; a node that is described twice is one node, and a running [`crate::Program`] that is given
//! another dataflow keeps what both have ([`crate::Program::reconcile`]).

use std::collections::BTreeMap;
use std::fmt;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use hashbrown::HashMap;

use crate::arrangement::NullKeys;
use crate::expr::{Expr, Origin, Recompute};
use crate::fingerprint::{Fingerprint, Fingerprinter};
use crate::operator::{AggregateCall, AggregateKind, GroupBy, JoinKind, JoinSide, View};
use crate::projection::ProjectionKey;
use crate::table::Identity;

/// A node of a dataflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

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

/// Some columns of a node, under names of the reader's: nothing is computed for it.
#[derive(Clone, Debug)]
pub struct Input {
    /// The node.
    pub node: NodeId,
    /// Its columns, in the reader's order.
    pub columns: Vec<usize>,
    /// What the reader calls them.
    pub schema: SchemaRef,
}

/// A node as described.
pub(crate) struct Description {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) label: String,
    pub(crate) cost: Cost,
    pub(crate) schema: SchemaRef,
    pub(crate) inputs: Vec<NodeId>,
    pub(crate) kind: Kind,
}

/// What a node does.
pub(crate) enum Kind {
    Table { identity: Identity },
    Arrange { columns: Vec<usize>, nulls: NullKeys },
    Filter { view: View, predicate: Box<dyn Expr>, origin: Origin },
    Project { view: View, exprs: Vec<Box<dyn Expr>>, origin: Origin },
    Union { views: Vec<View> },
    Join { kind: JoinKind, columns: Vec<(JoinSide, usize)> },
    GroupBy { view: View, group: Vec<usize>, calls: Vec<AggregateCall> },
    Top { view: View, order: Vec<(usize, SortOptions)>, skip: usize, fetch: Option<usize> },
    Whole { views: Vec<View>, subplan: Box<dyn Recompute> },
}

/// A projection as described.
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    pub(crate) view: View,
    pub(crate) key: ProjectionKey,
    pub(crate) fingerprint: Fingerprint,
}

/// What a program is to do.
///
/// ```
/// use std::sync::Arc;
/// use arrow::compute::SortOptions;
/// use arrow::datatypes::{DataType, Field, Schema};
/// use pipeline::table::Identity;
/// use pipeline::Dataflow;
///
/// // SELECT id FROM orders ORDER BY id LIMIT 10, twice: one node.
/// let mut dataflow = Dataflow::default();
/// let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
/// let orders = dataflow.table("orders", schema, Identity::Key(vec![0]));
/// let top = |dataflow: &mut Dataflow| {
///     let input = dataflow.all_of(orders);
///     dataflow.top("top by id limit 10".into(), &input, vec![(0, SortOptions::default())], 0, Some(10))
/// };
/// assert_eq!(top(&mut dataflow), top(&mut dataflow));
/// ```
#[derive(Default)]
pub struct Dataflow {
    pub(crate) nodes: Vec<Description>,
    pub(crate) served: Vec<Served>,
    pub(crate) tables: BTreeMap<String, NodeId>,
    known: HashMap<Fingerprint, NodeId>,
}

impl Dataflow {
    /// A source table, by a name of its own.
    ///
    /// # Panics
    /// When another table has the name: its changes would go to one of them.
    pub fn table(&mut self, name: &str, schema: SchemaRef, identity: Identity) -> NodeId {
        let to = schema
            .fields()
            .iter()
            .fold(with_types(Fingerprinter::new("table").text(name), &schema), |to, field| to.text(field.name()));
        let to = match &identity {
            Identity::Key(columns) => to.text("key").numbers(columns),
            Identity::WholeRow => to.text("whole row"),
            Identity::AppendOnly => to.text("append only"),
        };
        let kind = Kind::Table { identity };
        let table = self.add(to, format!("table {name}"), Cost::Delta, schema, Vec::new(), kind);
        let named = *self.tables.entry(name.to_owned()).or_insert(table);
        assert!(named == table, "two tables are called {name}");
        table
    }

    /// An index of a node's rows by some of its columns.
    pub fn arrange(&mut self, node: NodeId, columns: Vec<usize>, nulls: NullKeys) -> NodeId {
        let schema = self.schema(node).clone();
        let names: Vec<&str> = columns.iter().map(|&column| schema.field(column).name().as_str()).collect();
        let label = format!("arrange by {}", names.join(", "));
        let to = Fingerprinter::new("arrange").numbers(&columns).number(usize::from(nulls == NullKeys::Match));
        self.add(to, label, Cost::Delta, schema, vec![node], Kind::Arrange { columns, nulls })
    }

    /// Rows for which a predicate over the input is true. `meaning` is what the predicate is, in a
    /// form that is the same for equal predicates and for no others; `key` tells people which row
    /// one fails at.
    pub fn filter(
        &mut self,
        label: String,
        input: &Input,
        predicate: Box<dyn Expr>,
        meaning: &str,
        key: &[usize],
    ) -> NodeId {
        let to = with_origin(with_input(Fingerprinter::new("filter").text(meaning), input), input, key);
        let kind = Kind::Filter { view: self.view(input), predicate, origin: Origin::new(key.iter().copied()) };
        self.add(to, label, Cost::Delta, input.schema.clone(), vec![input.node], kind)
    }

    /// Computed columns over the input: an expression for each column of `schema`. `meaning` and
    /// `key` as in [`Dataflow::filter`].
    pub fn project(
        &mut self,
        label: String,
        input: &Input,
        schema: SchemaRef,
        exprs: Vec<Box<dyn Expr>>,
        meaning: &str,
        key: &[usize],
    ) -> NodeId {
        let to = with_types(Fingerprinter::new("project").text(meaning), &schema);
        let to = with_origin(with_input(to, input), input, key);
        let kind = Kind::Project { view: self.view(input), exprs, origin: Origin::new(key.iter().copied()) };
        self.add(to, label, Cost::Delta, schema, vec![input.node], kind)
    }

    /// All rows of all inputs, whose columns have the types of `schema`.
    pub fn union(&mut self, inputs: &[Input], schema: SchemaRef) -> NodeId {
        let views = inputs.iter().map(|input| self.view(&Input { schema: schema.clone(), ..input.clone() })).collect();
        let to = inputs.iter().fold(Fingerprinter::new("union all"), with_input);
        self.add(
            to,
            "union all".to_owned(),
            Cost::Delta,
            schema,
            inputs.iter().map(|input| input.node).collect(),
            Kind::Union { views },
        )
    }

    /// A join of two nodes made by [`Dataflow::arrange`], whose keys have the same types. For each
    /// column of `schema`, `columns` has the side and the column there.
    pub fn join(
        &mut self,
        label: String,
        kind: JoinKind,
        (left, right): (NodeId, NodeId),
        columns: Vec<(JoinSide, usize)>,
        schema: SchemaRef,
    ) -> NodeId {
        let to = Fingerprinter::new("join").text(&format!("{kind:?}")).number(columns.len());
        let to = columns
            .iter()
            .fold(to, |to, (side, column)| to.number(usize::from(*side == JoinSide::Right)).number(*column));
        self.add(to, label, Cost::Delta, schema, vec![left, right], Kind::Join { kind, columns })
    }

    /// Groups, and aggregates over them: columns of `schema` are the group's, then one a call.
    /// `meaning` tells the calls that are not built in apart.
    pub fn group_by(
        &mut self,
        label: String,
        input: &Input,
        group: Vec<usize>,
        calls: Vec<AggregateCall>,
        schema: SchemaRef,
        meaning: &str,
    ) -> NodeId {
        let mut to = with_types(with_input(Fingerprinter::new("group by").text(meaning), input), &schema)
            .numbers(&group)
            .number(calls.len());
        for call in &calls {
            let kind = match &call.kind {
                AggregateKind::Count => "count",
                AggregateKind::Sum => "sum",
                AggregateKind::Avg => "avg",
                AggregateKind::Min => "min",
                AggregateKind::Max => "max",
                AggregateKind::Other(_) => "other",
            };
            to = to.text(kind).numbers(&call.arguments).numbers(call.filter.as_slice());
        }
        let cost = if GroupBy::is_incremental(&calls) { Cost::Delta } else { Cost::Group };
        let kind = Kind::GroupBy { view: self.view(input), group, calls };
        self.add(to, label, cost, schema, vec![input.node], kind)
    }

    /// The rows of the input from `skip` on, at most `fetch` of them, in an order of its columns.
    pub fn top(
        &mut self,
        label: String,
        input: &Input,
        order: Vec<(usize, SortOptions)>,
        skip: usize,
        fetch: Option<usize>,
    ) -> NodeId {
        let to =
            with_input(Fingerprinter::new("top"), input).number(skip).numbers(fetch.as_slice()).number(order.len());
        let to = order.iter().fold(to, |to, (column, options)| {
            to.number(*column).number(usize::from(options.descending)).number(usize::from(options.nulls_first))
        });
        let kind = Kind::Top { view: self.view(input), order, skip, fetch };
        self.add(to, label, Cost::Delta, input.schema.clone(), vec![input.node], kind)
    }

    /// A subplan recomputed over the whole of its inputs. `meaning` as in [`Dataflow::filter`].
    pub fn whole(
        &mut self,
        label: String,
        inputs: &[Input],
        schema: SchemaRef,
        subplan: Box<dyn Recompute>,
        meaning: &str,
    ) -> NodeId {
        let to = with_types(Fingerprinter::new("whole").text(meaning), &schema);
        let to = inputs.iter().fold(to, |to, input| {
            input.schema.fields().iter().fold(with_input(to, input), |to, field| to.text(field.name()))
        });
        let views = inputs.iter().map(|input| self.view(input)).collect();
        let nodes = inputs.iter().map(|input| input.node).collect();
        self.add(to, label, Cost::Whole, schema, nodes, Kind::Whole { views, subplan })
    }

    /// Serves the input's rows under a name.
    pub fn serve(&mut self, name: &str, input: &Input, key: ProjectionKey) {
        let to =
            with_input(Fingerprinter::new("projection").text(name).node(self.nodes[input.node.0].fingerprint), input);
        let to = input.schema.fields().iter().fold(to, |to, field| to.text(field.name()));
        let to = match &key {
            ProjectionKey::Derived(columns) => to.text("derived").numbers(columns),
            ProjectionKey::Declared(columns) => to.text("declared").numbers(columns),
            ProjectionKey::WholeRow => to.text("whole row"),
        };
        let view = self.view(input);
        self.served.push(Served { name: name.to_owned(), node: input.node, view, key, fingerprint: to.finish() });
    }

    /// All columns of a node.
    #[must_use]
    pub fn all_of(&self, node: NodeId) -> Input {
        let schema = self.schema(node).clone();
        Input { node, columns: (0..schema.fields().len()).collect(), schema }
    }

    /// The columns of what comes out of a node.
    #[must_use]
    pub fn schema(&self, node: NodeId) -> &SchemaRef {
        &self.nodes[node.0].schema
    }

    /// The types of the key of a node made by [`Dataflow::arrange`].
    #[must_use]
    pub fn key_types(&self, arranged: NodeId) -> Vec<DataType> {
        match &self.nodes[arranged.0].kind {
            Kind::Arrange { columns, .. } => {
                columns.iter().map(|&column| self.schema(arranged).field(column).data_type().clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn view(&self, input: &Input) -> View {
        View::new(input.schema.clone(), &input.columns, self.schema(input.node).fields().len())
    }

    fn add(
        &mut self,
        to: Fingerprinter,
        label: String,
        cost: Cost,
        schema: SchemaRef,
        inputs: Vec<NodeId>,
        kind: Kind,
    ) -> NodeId {
        let fingerprint = inputs.iter().fold(to, |to, input| to.node(self.nodes[input.0].fingerprint)).finish();
        if let Some(known) = self.known.get(&fingerprint) {
            return *known;
        }
        let id = NodeId(self.nodes.len());
        self.nodes.push(Description { fingerprint, label, cost, schema, inputs, kind });
        self.known.insert(fingerprint, id);
        id
    }
}

fn with_types(to: Fingerprinter, schema: &Schema) -> Fingerprinter {
    schema.fields().iter().fold(to.number(schema.fields().len()), |to, field| to.text(&field.data_type().to_string()))
}

fn with_input(to: Fingerprinter, input: &Input) -> Fingerprinter {
    to.numbers(&input.columns)
}

/// Faults repeat the names of these columns, and are part of state.
fn with_origin(to: Fingerprinter, input: &Input, key: &[usize]) -> Fingerprinter {
    key.iter().fold(to.numbers(key), |to, &column| to.text(input.schema.field(column).name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Column, INT, Kit, TEXT, schema};
    use arrow::array::RecordBatch;
    use expect_test::expect;

    struct Nothing;

    impl Recompute for Nothing {
        fn recompute(&mut self, inputs: &[RecordBatch]) -> Result<RecordBatch, crate::ExprError> {
            Ok(inputs[0].clone())
        }
    }

    /// State is found again by these names: whatever changes one of them makes written state
    /// unreadable, and must raise the format's version.
    #[test]
    fn names_of_nodes_are_for_ever() {
        let mut kit = Kit::new();
        let log = kit.dataflow.table("log", schema(&[("a", INT)]), Identity::AppendOnly);
        let (orders, customers) = (kit.some(kit.o, &[1, 2]), kit.all(kit.c));
        let arranged = [NullKeys::NeverMatch, NullKeys::Match].map(|nulls| kit.dataflow.arrange(kit.c, vec![0], nulls));
        kit.dataflow.filter("filter".to_owned(), &orders, Box::new(Column(0)), "n > 0", &[1]);
        let exprs: Vec<Box<dyn Expr>> = vec![Box::new(Column(1))];
        kit.dataflow.project("project".to_owned(), &orders, schema(&[("n", INT)]), exprs, "n", &[0]);
        kit.dataflow.union(&[customers.clone(), customers.clone()], customers.schema.clone());
        let sides = vec![(JoinSide::Left, 0), (JoinSide::Right, 1)];
        let out = schema(&[("id", INT), ("name", TEXT)]);
        kit.dataflow.join("join".to_owned(), JoinKind::Left, (arranged[0], arranged[1]), sides, out);
        let call = AggregateCall { kind: AggregateKind::Max, arguments: vec![1], filter: Some(0) };
        let out = schema(&[("c", INT), ("max", INT)]);
        let group = kit.dataflow.group_by("group".to_owned(), &orders, vec![0], vec![call], out, "");
        let order = vec![(1, SortOptions { descending: true, nulls_first: false })];
        let top = kit.dataflow.top("top".to_owned(), &orders, order, 1, Some(2));
        kit.dataflow.whole(
            "whole".to_owned(),
            std::slice::from_ref(&orders),
            orders.schema.clone(),
            Box::new(Nothing),
            "whole",
        );
        let served = [kit.all(group), kit.all(top), kit.all(log)];
        kit.dataflow.serve("p", &served[0], ProjectionKey::Derived(vec![0]));
        kit.dataflow.serve("p", &served[1], ProjectionKey::Declared(vec![0]));
        kit.dataflow.serve("p", &served[2], ProjectionKey::WholeRow);
        let nodes = kit.dataflow.nodes.iter().map(|node| format!("{} {} {}", node.fingerprint, node.cost, node.label));
        let served = kit.dataflow.served.iter().map(|served| format!("{} {}", served.fingerprint, served.name));
        expect![[r#"
            ab13d583d9acad25db81d225f66a0d54 delta table c
            fc4d76711e66e8a28bbd6ff25f216ca0 delta table o
            621bea48c35d9784ec550b68c9cc2096 delta table l
            9cf20406d3f757cbe0f0b45bc85a8ad3 delta table log
            6dd69667cb2d24795b32f49c53452fd2 delta arrange by id
            8ea69d1ccf088aad388f36aee3c9d31d delta arrange by id
            2360a62ac2ca5b37982822f128973b49 delta filter
            8c60b65c02a489db2ccbe4fd50aa44a8 delta project
            aef8d1fe0ef61ad8f20cdd833050e3c0 delta union all
            68639d964bfd6922b9c5d7be09cf6439 delta join
            70a10219666d00b51ee17328839eee66 delta group
            3c5c76b4749b60a2000c4fce59173f7d delta top
            511716c514004d82a034608ee8c5d71b whole whole
            07ceab46fdc1c160c23b61924899180b p
            b37948c906e990706973ff96a1890a90 p
            53100944a61986dfe23379a8dbcb147c p
        "#]]
        .assert_eq(&nodes.chain(served).map(|line| line + "\n").collect::<String>());
    }
}
