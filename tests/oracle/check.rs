//! Runs a seed and compares.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::{SessionConfig, SessionContext};
use fastrand::Rng;
use pipeline::table::Identity;
use pipeline::{Changes, Op, Program, ProjectionId, Published, TableId};
use sql::{Diagnostics, Project, TableShape};

use crate::generate::{Queries, Query, TABLES, Type, Value, value};

/// Queries planned into one program, so that they share what they can.
const QUERIES_PER_SEED: usize = 3;
/// Keys that rows with a primary key may have.
const KEYS: i64 = 12;

type Row = Vec<Value>;
type Counts = BTreeMap<String, i64>;

/// The tables as the oracle knows them.
#[derive(Clone, Default)]
struct Model {
    tables: [Vec<Row>; 3],
}

pub fn simulate(seed: u64, transactions: u64) {
    let mut generator = Queries::new(seed);
    let queries: Vec<Query> = (0..QUERIES_PER_SEED).map(|_| generator.query()).collect();
    let mut rng = Rng::with_seed(seed ^ 0x5EED);
    let mut single = Live::new(&queries, seed);
    let mut merged = Live::new(&queries, seed);
    let mut model = Model::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for transaction in 0..transactions {
        let story = |what: &str| format!("seed {seed}, transaction {transaction}: {what}");
        let changes = random_transaction(&mut rng, &mut model);
        single.apply(std::slice::from_ref(&changes));
        single.publish(&story("one epoch a transaction"));
        // Cut anywhere, even inside a transaction, and published every so often.
        let cut = changes
            .iter()
            .flat_map(|(table, changes)| split(&mut rng, changes).into_iter().map(|part| vec![(*table, part)]))
            .collect::<Vec<_>>();
        merged.apply(&cut);
        let publishes = rng.u32(..4) == 0;
        if publishes {
            merged.publish(&story("cut and merged"));
        }
        let context = batch_session(&model);
        for (i, query) in queries.iter().enumerate() {
            let expected = runtime
                .block_on(batch_answer(&context, &query.sql))
                .unwrap_or_else(|error| panic!("{}: {error}\n{}", story("batch"), query.sql));
            let explain = || single.program.explain(single.ids[i]);
            assert_eq!(single.rows[i], expected, "{}\n{}\n{}", story("live differs from batch"), query.sql, explain());
            if publishes {
                assert_eq!(merged.rows[i], expected, "{}\n{}\n{}", story("cut and merged differs from batch"), query.sql, explain());
            }
        }
    }
    for id in single.ids.iter().copied() {
        assert_eq!(single.program.withheld(id).rows, 0, "no expression of the grammar fails");
    }
}

/// A program and what its clients would hold.
struct Live {
    program: Program,
    tables: [TableId; 3],
    ids: Vec<ProjectionId>,
    keys: Vec<Option<Vec<usize>>>,
    rows: Vec<Counts>,
}

impl Live {
    fn new(queries: &[Query], seed: u64) -> Live {
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = String::new();
        for (table, ..) in TABLES {
            text += &format!("CREATE TABLE {table} WITH (connector = 'postgres', url = 'postgres://nowhere/x');\n");
        }
        for (i, query) in queries.iter().enumerate() {
            text += &format!("CREATE MATERIALIZED VIEW v{i} AS {};\n", query.sql);
        }
        std::fs::write(folder.path().join("project.sql"), text).expect("a file");
        let mut wrong = Diagnostics::default();
        let project = Project::load(folder.path(), &|_| None, &mut wrong);
        let shapes = TABLES
            .iter()
            .map(|(name, has_key, _)| {
                let identity = if *has_key { Identity::Key(vec![0]) } else { Identity::WholeRow };
                ((*name).to_owned(), TableShape { schema: schema_of(name), identity })
            })
            .collect();
        let plan = sql::plan(&project, &shapes, &mut wrong);
        assert!(wrong.is_empty(), "seed {seed}: {wrong}");
        let keys = plan.projections.iter().map(|projection| projection.key.columns().map(<[usize]>::to_vec)).collect();
        Live {
            tables: TABLES.map(|(name, ..)| plan.tables[name]),
            ids: plan.projections.iter().map(|projection| projection.id).collect(),
            keys,
            rows: vec![Counts::new(); queries.len()],
            program: plan.program,
        }
    }

    fn apply(&mut self, steps: &[Vec<(usize, Changes)>]) {
        for step in steps {
            let step: Vec<(TableId, Changes)> = step.iter().map(|(table, changes)| (self.tables[*table], changes.clone())).collect();
            self.program.apply(&step).expect("data never fails a step");
        }
    }

    /// Ends an epoch and holds the diffs to their promises.
    fn publish(&mut self, story: &str) {
        for (id, published) in self.program.publish().expect("no row counts less than zero times") {
            let i = self.ids.iter().position(|known| *known == id).expect("a known projection");
            let Published::Diff(delta) = published else { panic!("{story}: {published:?}") };
            let mut seen = Counts::new();
            for (row, weight) in show(&delta.batch).into_iter().zip(&delta.weights) {
                assert_ne!(*weight, 0, "{story}: a change of nothing");
                assert!(seen.insert(row.clone(), *weight).is_none(), "{story}: a diff is consolidated");
                let count = self.rows[i].entry(row.clone()).or_default();
                *count += weight;
                assert!(*count >= 0, "{story}: {row} counts {count} times");
                if *count == 0 {
                    self.rows[i].remove(&row);
                }
            }
            if let Some(key) = &self.keys[i] {
                let (image, counts) = self.program.projection(id).image().expect("an image");
                assert!(counts.iter().all(|count| *count == 1), "{story}: a row with a key stands alone");
                let mut keys: Vec<String> = show(&image.project(key).expect("key columns"));
                let all = keys.len();
                keys.sort();
                keys.dedup();
                assert!(keys.len() == all, "{story}: the derived key {key:?} is not unique\n{}", self.program.explain(id));
            }
        }
    }
}

fn schema_of(table: &str) -> SchemaRef {
    let (_, _, columns) = TABLES.iter().find(|(name, ..)| *name == table).expect("a known table");
    let field = |(name, data_type): &(&str, Type)| {
        let data_type = match data_type {
            Type::Int => DataType::Int64,
            Type::Text => DataType::Utf8,
            Type::Float => DataType::Float64,
            Type::Decimal => DataType::Decimal128(10, 2),
        };
        Field::new(*name, data_type, true)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn batch(table: usize, rows: &[Row]) -> RecordBatch {
    let (name, _, columns) = TABLES[table];
    let arrays = columns.iter().enumerate().map(|(i, (_, data_type))| -> ArrayRef {
        let values = rows.iter().map(|row| &row[i]);
        match data_type {
            Type::Int => Arc::new(values.map(|v| if let Value::Int(v) = v { Some(*v) } else { None }).collect::<Int64Array>()),
            Type::Text => Arc::new(values.map(|v| if let Value::Text(v) = v { Some(*v) } else { None }).collect::<StringArray>()),
            Type::Float => Arc::new(values.map(|v| if let Value::Float(v) = v { Some(*v + 0.0) } else { None }).collect::<Float64Array>()),
            Type::Decimal => Arc::new(
                values
                    .map(|v| if let Value::Decimal(v) = v { Some(*v) } else { None })
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(10, 2)
                    .expect("ten digits"),
            ),
        }
    });
    RecordBatch::try_new(schema_of(name), arrays.collect()).expect("columns of the table")
}

/// Random changes of several tables, applied to the model and told as a log would tell them.
fn random_transaction(rng: &mut Rng, model: &mut Model) -> Vec<(usize, Changes)> {
    let mut transaction = Vec::new();
    for _ in 0..rng.u32(1..4) {
        let table = rng.usize(..3);
        let (_, has_key, columns) = TABLES[table];
        let mut rows: Vec<Row> = Vec::new();
        let mut ops = Vec::new();
        let mut unchanged = Vec::new();
        for _ in 0..rng.u32(1..6) {
            let held = &mut model.tables[table];
            let mut fresh: Row = columns.iter().map(|(_, data_type)| value(rng, *data_type)).collect();
            let dice = rng.u32(..20);
            if held.is_empty() || dice < 8 {
                if has_key {
                    let free: Vec<i64> = (0..KEYS).filter(|key| held.iter().all(|row| row[0] != Value::Int(*key))).collect();
                    if free.is_empty() {
                        continue;
                    }
                    fresh[0] = Value::Int(free[rng.usize(..free.len())]);
                }
                held.push(fresh.clone());
                rows.push(fresh);
                ops.push(Op::Insert);
            } else if dice < 13 {
                let i = rng.usize(..held.len());
                let moves_key = has_key && rng.u32(..4) == 0;
                let free: Vec<i64> = (0..KEYS).filter(|key| held.iter().all(|row| row[0] != Value::Int(*key))).collect();
                let old = held[i].clone();
                if has_key {
                    fresh[0] = old[0].clone();
                    if moves_key && !free.is_empty() {
                        fresh[0] = Value::Int(free[rng.usize(..free.len())]);
                    }
                }
                if !has_key || fresh[0] != old[0] {
                    // Of the old row only the key is told, where there is one.
                    let mut told = old.clone();
                    if has_key {
                        told[1..].fill(Value::Null);
                    }
                    rows.push(told);
                    ops.push(Op::OldKey);
                }
                // Some values are left out because they did not change.
                if has_key {
                    for column in 1..columns.len() {
                        if rng.u32(..8) == 0 {
                            fresh[column] = old[column].clone();
                            unchanged.push((u32::try_from(rows.len()).expect("few"), u32::try_from(column).expect("few")));
                        }
                    }
                }
                held[i] = fresh.clone();
                let mut told = fresh;
                for (row, column) in &unchanged {
                    if *row as usize == rows.len() {
                        told[*column as usize] = Value::Null;
                    }
                }
                rows.push(told);
                ops.push(Op::Update);
            } else if dice < 19 {
                let mut told = held.swap_remove(rng.usize(..held.len()));
                if has_key {
                    told[1..].fill(Value::Null);
                }
                rows.push(told);
                ops.push(Op::Delete);
            } else if rng.u32(..4) == 0 {
                held.clear();
                rows.push(vec![Value::Null; columns.len()]);
                ops.push(Op::Truncate);
            }
        }
        if !ops.is_empty() {
            transaction.push((table, Changes { rows: batch(table, &rows), ops, unchanged }));
        }
    }
    transaction
}

/// The same changes in parts; an old key stays with its update.
fn split(rng: &mut Rng, changes: &Changes) -> Vec<Changes> {
    let mut parts = Vec::new();
    let mut start = 0;
    for end in 1..=changes.ops.len() {
        let can_cut = changes.ops[end - 1] != Op::OldKey;
        if end == changes.ops.len() || (can_cut && rng.bool()) {
            let unchanged = changes
                .unchanged
                .iter()
                .filter(|(row, _)| (start..end).contains(&(*row as usize)))
                .map(|(row, column)| (row - u32::try_from(start).expect("few"), *column))
                .collect();
            parts.push(Changes { rows: changes.rows.slice(start, end - start), ops: changes.ops[start..end].to_vec(), unchanged });
            start = end;
        }
    }
    parts
}

/// DataFusion as it comes, with the tables as they are.
///
/// Less one rule: its physical FilterPushdown loses rows over outer joins whose inputs share a
/// column name (DataFusion 55.2; seed 84 met it).
fn batch_session(model: &Model) -> SessionContext {
    let rules = PhysicalOptimizer::new().rules.into_iter().filter(|rule| !rule.name().starts_with("FilterPushdown")).collect();
    let state = SessionStateBuilder::new()
        .with_config(SessionConfig::new().with_target_partitions(1))
        .with_default_features()
        .with_physical_optimizer_rules(rules)
        .build();
    let context = SessionContext::new_with_state(state);
    for (i, (name, ..)) in TABLES.iter().enumerate() {
        let table = MemTable::try_new(schema_of(name), vec![vec![batch(i, &model.tables[i])]]).expect("a table");
        context.register_table(*name, Arc::new(table)).expect("a new name");
    }
    context
}

async fn batch_answer(context: &SessionContext, sql: &str) -> datafusion::common::Result<Counts> {
    let mut counts = Counts::new();
    for batch in context.sql(sql).await?.collect().await? {
        show(&batch).into_iter().for_each(|row| *counts.entry(row).or_default() += 1);
    }
    Ok(counts)
}

/// Rows as text.
fn show(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatters: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("a printable column")).collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells: Vec<String> = formatters
                .iter()
                .map(|cell| match cell.value(row).to_string() {
                    // One zero.
                    zero if zero == "-0.0" => "0.0".to_owned(),
                    other => other,
                })
                .collect();
            cells.join("|")
        })
        .collect()
}
