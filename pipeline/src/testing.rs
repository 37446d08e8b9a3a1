//! What the crate's tests are made of: three small tables, changes as a line of text, and what a
//! projection says of them.
//!
//! ```text
//!  c(id, name)      customers, by id           +c(1, ann) -c(1) ~c(1, bob)   came, went, became
//!  o(id, c, n)      orders, by id              _ is NULL
//!  l(a, t)          whole rows, several times  ; ends an epoch, | only a step
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use expect_test::Expect;

use crate::projection::{ProjectionKey, WithheldRow};
use crate::table::Identity;
use crate::{Changes, Dataflow, DiffPart, Expr, ExprError, Input, NodeId, Op, Program, Published};

pub const INT: DataType = DataType::Int64;
pub const TEXT: DataType = DataType::Utf8;

/// Columns of these types.
pub fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(
        columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect::<Vec<_>>(),
    ))
}

/// The tables, in a dataflow to be added to.
pub struct Kit {
    pub dataflow: Dataflow,
    pub c: NodeId,
    pub o: NodeId,
    pub l: NodeId,
}

impl Kit {
    pub fn new() -> Kit {
        let mut dataflow = Dataflow::default();
        let c = dataflow.table("c", schema(&[("id", INT), ("name", TEXT)]), Identity::Key(vec![0]));
        let o = dataflow.table("o", schema(&[("id", INT), ("c", INT), ("n", INT)]), Identity::Key(vec![0]));
        let l = dataflow.table("l", schema(&[("a", INT), ("t", TEXT)]), Identity::WholeRow);
        Kit { dataflow, c, o, l }
    }

    /// All columns of a node.
    pub fn all(&self, node: NodeId) -> Input {
        self.dataflow.all_of(node)
    }

    /// Some columns of a node.
    pub fn some(&self, node: NodeId, columns: &[usize]) -> Input {
        let schema = self.dataflow.schema(node).project(columns).expect("columns of the node");
        Input { node, columns: columns.to_vec(), schema: Arc::new(schema) }
    }

    /// The columns of a node, and then an expression over them.
    pub fn with(&mut self, node: NodeId, name: &str, data_type: DataType, expr: RowFn) -> NodeId {
        let input = self.all(node);
        let fields = input.schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone()));
        let out = schema(&fields.chain([(name, data_type)]).collect::<Vec<_>>());
        let mut exprs: Vec<Box<dyn Expr>> =
            (0..input.columns.len()).map(|i| Box::new(Column(i)) as Box<dyn Expr>).collect();
        exprs.push(Box::new(expr));
        self.dataflow.project(format!("with {name}"), &input, out, exprs, name, &[0])
    }

    /// Orders with `q = 10 / n`, which fails where n is 0.
    pub fn with_quotient(&mut self) -> NodeId {
        self.with(self.o, "q", INT, divide(10, 2))
    }

    /// Orders for which `10 / n > 1`, which fails where n is 0.
    pub fn where_quotient(&mut self) -> NodeId {
        let expr = RowFn::new(&[2], |row| match row[0] {
            Some(0) => Err("division by zero".to_owned()),
            n => Ok(n.map(|n| i64::from(10 / n > 1))),
        });
        let input = self.all(self.o);
        self.dataflow.filter("where q > 1".to_owned(), &input, Box::new(expr.boolean()), "q > 1", &[0])
    }
}

/// `by / column`, which fails where that is 0.
pub fn divide(by: i64, column: usize) -> RowFn {
    RowFn::new(&[column], move |row| match row[0] {
        Some(0) => Err("division by zero".to_owned()),
        n => Ok(n.map(|n| by / n)),
    })
}

/// A column as it is.
pub struct Column(pub usize);

impl Expr for Column {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
        Ok(Arc::clone(batch.column(self.0)))
    }

    fn columns(&self) -> Vec<usize> {
        vec![self.0]
    }

    fn as_column(&self) -> Option<usize> {
        Some(self.0)
    }
}

type OfRow = dyn Fn(&[Option<i64>]) -> Result<Option<i64>, String> + Send;

/// A function of integer columns, row by row.
pub struct RowFn {
    columns: Vec<usize>,
    of_row: Box<OfRow>,
    is_boolean: bool,
}

impl RowFn {
    pub fn new(
        columns: &[usize],
        of_row: impl Fn(&[Option<i64>]) -> Result<Option<i64>, String> + Send + 'static,
    ) -> RowFn {
        RowFn { columns: columns.to_vec(), of_row: Box::new(of_row), is_boolean: false }
    }

    /// Its value as a truth.
    pub fn boolean(self) -> RowFn {
        RowFn { is_boolean: true, ..self }
    }
}

impl Expr for RowFn {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
        let columns: Vec<&Int64Array> =
            self.columns.iter().map(|&column| batch.column(column).as_primitive::<Int64Type>()).collect();
        let value = |row: usize| {
            let values: Vec<Option<i64>> =
                columns.iter().map(|column| column.is_valid(row).then(|| column.value(row))).collect();
            (self.of_row)(&values).map_err(ExprError)
        };
        let values = (0..batch.num_rows()).map(value).collect::<Result<Vec<_>, _>>()?;
        Ok(if self.is_boolean {
            Arc::new(values.into_iter().map(|value| value.map(|value| value != 0)).collect::<BooleanArray>())
        } else {
            Arc::new(Int64Array::from(values))
        })
    }

    fn columns(&self) -> Vec<usize> {
        self.columns.clone()
    }
}

/// The changes of a step: by table, in order.
pub fn changes(program: &Program, text: &str) -> Vec<(crate::TableId, Changes)> {
    let mut out: Vec<(crate::TableId, Changes)> = Vec::new();
    for change in text.split_inclusive(')').map(str::trim).filter(|change| !change.is_empty()) {
        let (head, values) = change.trim_end_matches(')').split_once('(').expect("values in parentheses");
        let (sign, table) = head.split_at(1);
        let columns = match table {
            "c" => schema(&[("id", INT), ("name", TEXT)]),
            "o" => schema(&[("id", INT), ("c", INT), ("n", INT)]),
            "l" => schema(&[("a", INT), ("t", TEXT)]),
            other => panic!("no table {other}"),
        };
        let mut values: Vec<&str> = values.split(',').map(str::trim).collect();
        values.resize(columns.fields().len(), "_");
        let arrays = columns.fields().iter().zip(values).map(|(field, value)| -> ArrayRef {
            let value = (value != "_").then_some(value);
            match field.data_type() {
                DataType::Int64 => {
                    Arc::new(Int64Array::from(vec![value.map(|value| value.parse::<i64>().expect("a number"))]))
                }
                _ => Arc::new(StringArray::from(vec![value])),
            }
        });
        let op = match sign {
            "+" => Op::Insert,
            "-" => Op::Delete,
            "~" => Op::Update,
            "!" => Op::Truncate,
            "<" => Op::OldKey,
            other => panic!("no sign {other}"),
        };
        let rows = RecordBatch::try_new(columns.clone(), arrays.collect()).expect("columns of the table");
        out.push((program.table_id(table).expect("a table"), Changes { rows, ops: vec![op], unchanged: Vec::new() }));
    }
    // An old key goes with its update.
    let mut joined: Vec<(crate::TableId, Changes)> = Vec::new();
    for (table, next) in out {
        match joined.last_mut().filter(|(last, changes)| *last == table && changes.ops.last() == Some(&Op::OldKey)) {
            Some((_, held)) => {
                held.rows =
                    arrow::compute::concat_batches(&held.rows.schema(), [&held.rows, &next.rows]).expect("one table");
                held.ops.extend(next.ops);
            }
            None => joined.push((table, next)),
        }
    }
    joined
}

/// Changes of one table as one transaction tells them: all in one batch.
pub fn transaction(program: &Program, text: &str) -> (crate::TableId, Changes) {
    let parts = changes(program, text);
    let (table, schema) = (parts[0].0, parts[0].1.rows.schema());
    let rows = arrow::compute::concat_batches(&schema, parts.iter().map(|(_, part)| &part.rows)).expect("one table");
    let ops = parts.iter().flat_map(|(_, part)| part.ops.clone()).collect();
    (table, Changes { rows, ops, unchanged: Vec::new() })
}

/// The same thing happens to so many orders, numbered from 0, of one customer.
pub fn orders(op: Op, count: usize, customer: i64) -> Changes {
    let ids = Int64Array::from_iter_values((0..).take(count));
    let customers = Int64Array::from(vec![customer; count]);
    let columns: Vec<ArrayRef> = vec![Arc::new(ids.clone()), Arc::new(customers), Arc::new(ids)];
    let rows = RecordBatch::try_new(schema(&[("id", INT), ("c", INT), ("n", INT)]), columns).expect("orders");
    Changes { rows, ops: vec![op; count], unchanged: Vec::new() }
}

/// Rows as people read them.
pub fn show(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("_");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("values that can be shown"))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            format!("({})", columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(", "))
        })
        .collect()
}

/// What a projection served so far.
#[derive(Default)]
pub struct Client {
    pub rows: BTreeMap<String, i64>,
}

impl Client {
    /// Tells a diff.
    pub fn tell(&self, parts: &[DiffPart]) -> String {
        let rows = parts.iter().flat_map(|part| show(&part.batch).into_iter().zip(part.weights.clone()));
        let mut rows: Vec<(String, i64)> = rows.collect();
        rows.sort();
        let shown = rows.iter().map(|(row, weight)| if *weight > 0 { format!("+{row}") } else { format!("-{row}") });
        shown.collect::<Vec<_>>().join(" ")
    }

    /// Takes in a diff and tells it; holds it to what is promised of one.
    pub fn take(&mut self, parts: &[DiffPart]) -> String {
        let mut told: BTreeMap<String, i64> = BTreeMap::new();
        for part in parts {
            for (row, weight) in show(&part.batch).into_iter().zip(&part.weights) {
                assert!(told.insert(row.clone(), *weight).is_none(), "{row} stands twice in a diff");
                let count = self.rows.entry(row.clone()).or_default();
                *count += weight;
                assert!(*count >= 0, "{row} counts {count} times");
                if *count == 0 {
                    self.rows.remove(&row);
                }
            }
        }
        let shown = told.iter().map(|(row, weight)| match weight {
            1 => format!("+{row}"),
            -1 => format!("-{row}"),
            weight => format!("{weight:+}{row}"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }
}

/// Serves what `build` makes of the tables, plays the story, and compares what the projection says
/// at the end of each epoch; rows that it withholds stand behind a `?`.
///
/// Two more programs play the same story. One is restarted after each epoch, from state that was
/// written, and must go on as if nothing had happened. One hears of the projection only when the
/// epoch is over, and must then say what the first has said so far.
pub fn check(build: impl Fn(&mut Kit) -> Input, story: &str, expected: &Expect) {
    let served = || {
        let mut kit = Kit::new();
        let input = build(&mut kit);
        kit.dataflow.serve("p", &input, ProjectionKey::WholeRow);
        kit.dataflow
    };
    let (mut steady, mut restarted) = (Played::new(served()), Played::new(served()));
    let mut late = Program::new(Kit::new().dataflow).expect("a program");
    let mut told = String::new();
    for (epoch, text) in [""].into_iter().chain(story.split(';')).enumerate() {
        let line = steady.epoch(text);
        assert_eq!(restarted.epoch(text), line, "after a restart, in epoch {epoch}");
        restarted.restart(served());
        late.apply(&changes(&late, &text.replace('|', ""))).expect("data never fails a step");
        late.reconcile(served()).expect("another dataflow");
        let mut newcomer = Played { program: std::mem::take(&mut late), ..Played::default() };
        newcomer.epoch("");
        assert_eq!(newcomer.client.rows, steady.client.rows, "what a newcomer is told, in epoch {epoch}");
        assert_eq!(newcomer.withheld, steady.withheld, "what is kept from a newcomer, in epoch {epoch}");
        late = newcomer.program;
        late.reconcile(Kit::new().dataflow).expect("the tables alone");
        if !line.is_empty() {
            let _ = writeln!(told, "{epoch}: {}", line.trim_start());
        }
    }
    expected.assert_eq(&told);
}

/// A program that serves one projection `p`, and what that has said.
#[derive(Default)]
pub struct Played {
    program: Program,
    pub client: Client,
    pub withheld: Vec<WithheldRow>,
}

impl Played {
    pub fn new(dataflow: Dataflow) -> Played {
        Played { program: Program::new(dataflow).expect("a program"), ..Played::default() }
    }

    /// Plays an epoch and tells what is published and what is withheld. The image, and the number of
    /// rows withheld, must agree with it.
    pub fn epoch(&mut self, text: &str) -> String {
        for step in text.split('|') {
            self.program.apply(&changes(&self.program, step)).expect("data never fails a step");
        }
        let mut line = String::new();
        for (_, published) in self.program.publish().expect("an epoch") {
            let Published::Diff(parts) = published else { panic!("{published:?}") };
            assert!(!parts.is_empty() && parts.iter().all(|part| !part.weights.is_empty()), "a diff says something");
            line += &self.client.take(&parts);
        }
        let id = self.program.projection_id("p").expect("the projection");
        let mut image: BTreeMap<String, i64> = BTreeMap::new();
        for delta in self.program.image(id).expect("an image") {
            show(&delta.batch)
                .into_iter()
                .zip(&delta.weights)
                .for_each(|(row, weight)| *image.entry(row).or_default() += weight);
        }
        image.retain(|_, count| *count != 0);
        assert_eq!(image, self.client.rows, "the image is what was said");

        let withheld = self.program.withheld_rows(id, usize::MAX).expect("withheld rows");
        for row in &withheld {
            let doubt = if row.in_doubt { "in doubt: " } else { "" };
            let times = if row.count == 1 { String::new() } else { format!("{}x ", row.count) };
            let _ = write!(line, "\n   ? {times}{doubt}{} [{}]", row.row, row.reason);
        }
        let summary = self.program.withheld(id);
        assert_eq!(summary.rows, withheld.iter().map(|row| row.count).sum::<i64>());
        assert_eq!(summary.reason.map(|reason| reason.0), withheld.first().map(|row| row.reason.clone()));
        let is_told = self.program.withheld_changed() == [id];
        assert!(is_told || withheld == self.withheld, "that the withheld rows changed is told");
        self.withheld = withheld;
        line
    }

    /// Goes on in another process: all that is left is what was written.
    pub fn restart(&mut self, dataflow: Dataflow) {
        let (mut written, mut again) = (Vec::new(), Vec::new());
        self.program.write_state(&mut written).expect("state");
        self.program = Program::new(dataflow).expect("a program");
        self.program.read_state(&written).expect("state that was written");
        self.program.write_state(&mut again).expect("state");
        assert_eq!(again, written, "all of it has been read");
    }
}
