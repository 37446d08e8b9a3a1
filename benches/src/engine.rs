//! `cargo xtask bench engine`: µs per epoch on 1,000,000 rows of state.
//!
//! An epoch is what the server does for a transaction of updates: from the source's changes (the
//! new rows, by key) through the table, the operators and the projection to the consolidated diff.
//! Beside it a bare hash map does the same arithmetic on plain structs, without SQL, types that
//! are known only at run time, sharing or retraction by value: a floor, not an engine.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashMap;
use pipeline::table::Identity;
use pipeline::{Changes, Op, Program, Published, TableId};
use sql::{Diagnostics, Project, TableShape};

use crate::numbers::{figure, percentile};

const ORDERS: i64 = 1_000_000;
const CUSTOMERS: i64 = 100_000;
const REGIONS: i64 = 1000;

const QUERIES: [(&str, &str); 4] = [
    ("filter", "SELECT id, amount FROM orders WHERE amount > 500"),
    ("join", "SELECT o.id, o.amount, c.region FROM orders o JOIN customers c ON c.id = o.customer_id"),
    (
        "join_aggregate",
        "SELECT c.region, count(*) AS n, sum(o.amount) AS total FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY c.region",
    ),
    (
        "filter_join_aggregate",
        "SELECT c.region, count(*) AS n, sum(o.amount) AS total FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.amount > 500 GROUP BY c.region",
    ),
];
const AGGREGATE: (&str, &str) =
    ("aggregate", "SELECT customer_id, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer_id");

/// Projections over another table beside the one that is measured: they are to cost nothing.
const OTHERS: usize = 500;

fn other(i: usize) -> String {
    format!(
        "CREATE MATERIALIZED VIEW other_{i} AS SELECT region, count(*) AS n FROM customers WHERE id % 1000 = {i} GROUP BY region;"
    )
}

fn orders_schema() -> SchemaRef {
    let fields = ["id", "customer_id", "amount"].map(|name| Field::new(name, DataType::Int64, true));
    Arc::new(Schema::new(
        [&fields[..], &["status", "note", "channel"].map(|name| Field::new(name, DataType::Utf8, true))[..]].concat(),
    ))
}

fn customers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("region", DataType::Utf8, true),
    ]))
}

fn orders(rows: &[(i64, i64)]) -> RecordBatch {
    let ints = |of: &dyn Fn(&(i64, i64)) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Int64Array>())
    };
    let texts = |text: &'static str| -> ArrayRef { Arc::new(rows.iter().map(|_| Some(text)).collect::<StringArray>()) };
    let columns = vec![
        ints(&|row| row.0),
        ints(&|row| customer_of(row.0)),
        ints(&|row| row.1),
        texts("open"),
        texts("a short note"),
        texts("web"),
    ];
    RecordBatch::try_new(orders_schema(), columns).expect("six columns")
}

fn customer_of(order: i64) -> i64 {
    order * 7919 % CUSTOMERS
}

fn region_of(customer: i64) -> String {
    format!("region {}", customer % REGIONS)
}

fn program(name: &str, query: &str, others: usize) -> Result<(Program, TableId)> {
    let folder = tempfile::tempdir()?;
    let table =
        |name: &str| format!("CREATE TABLE {name} WITH (connector = 'postgres', url = 'postgres://nowhere/x');\n");
    fs::write(
        folder.path().join("a.sql"),
        format!(
            "{}{}CREATE MATERIALIZED VIEW {name} AS {query};{}",
            table("orders"),
            table("customers"),
            (0..others).map(other).collect::<String>()
        ),
    )?;
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder.path(), &|_| None, &mut wrong);
    let shape = |schema| TableShape { schema, identity: Identity::Key(vec![0]) };
    let shapes = BTreeMap::from([
        ("orders".to_owned(), shape(orders_schema())),
        ("customers".to_owned(), shape(customers_schema())),
    ]);
    let plan = sql::plan(&project, &shapes, &mut wrong);
    anyhow::ensure!(wrong.is_empty(), "{wrong}");
    let (mut program, tables) = (plan.program, plan.tables);
    let mut copy = program.begin_copy(tables["orders"]);
    for start in (0..ORDERS).step_by(10_000) {
        let rows: Vec<(i64, i64)> = (start..start + 10_000).map(|id| (id, id % 1000)).collect();
        program.copy(tables["orders"], &mut copy, orders(&rows))?;
    }
    program.finish_copy(tables["orders"], copy)?;
    let mut copy = program.begin_copy(tables["customers"]);
    let ids: ArrayRef = Arc::new((0..CUSTOMERS).map(Some).collect::<Int64Array>());
    let names: ArrayRef = Arc::new((0..CUSTOMERS).map(|id| Some(format!("customer {id}"))).collect::<StringArray>());
    let regions: ArrayRef = Arc::new((0..CUSTOMERS).map(|id| Some(region_of(id))).collect::<StringArray>());
    program.copy(
        tables["customers"],
        &mut copy,
        RecordBatch::try_new(customers_schema(), vec![ids, names, regions])?,
    )?;
    program.finish_copy(tables["customers"], copy)?;
    program.publish()?;
    Ok((program, tables["orders"]))
}

/// Median µs of an epoch that changes so many rows, each to an amount that it did not have.
fn epochs(program: &mut Program, table: TableId, changed: i64, times: i64) -> Result<f64> {
    let mut samples = Vec::new();
    for epoch in 0..times {
        let rows: Vec<(i64, i64)> = (0..changed)
            .map(|i| ((epoch * changed + i) * 104_729 % ORDERS, (epoch * 31 + i * 17 + changed) % 1000))
            .collect();
        let changes =
            vec![(table, Changes { rows: orders(&rows), ops: vec![Op::Update; rows.len()], unchanged: Vec::new() })];
        let started = Instant::now();
        program.apply(&changes)?;
        let published = program.publish()?;
        let micros = started.elapsed().as_secs_f64() * 1e6;
        // An epoch that changed nothing would flatter the median.
        if published.iter().any(|(_, published)| matches!(published, Published::Diff(_))) {
            samples.push(micros);
        }
    }
    Ok(percentile(&samples, 50.0))
}

struct Bare {
    orders: HashMap<i64, (i64, i64)>,
    customers: HashMap<i64, String>,
    regions: HashMap<String, (i64, i64)>,
}

impl Bare {
    fn new() -> Bare {
        let customers: HashMap<i64, String> = (0..CUSTOMERS).map(|id| (id, region_of(id))).collect();
        let orders: HashMap<i64, (i64, i64)> = (0..ORDERS).map(|id| (id, (customer_of(id), id % 1000))).collect();
        let mut regions: HashMap<String, (i64, i64)> = HashMap::new();
        for (customer, amount) in orders.values() {
            let region = regions.entry_ref(customers[customer].as_str()).or_default();
            region.0 += 1;
            region.1 += amount;
        }
        Bare { orders, customers, regions }
    }

    fn epoch(&mut self, rows: &[(i64, i64)]) -> Vec<(String, (i64, i64))> {
        let mut touched: HashMap<&str, ()> = HashMap::new();
        for &(id, amount) in rows {
            let order = self.orders.get_mut(&id).expect("an order");
            let region = self.customers[&order.0].as_str();
            self.regions.get_mut(region).expect("a region").1 += amount - order.1;
            order.1 = amount;
            touched.insert(region, ());
        }
        touched.keys().map(|&region| (region.to_owned(), self.regions[region])).collect()
    }
}

pub fn run() -> Result<()> {
    let mut figures = Vec::new();
    println!("median µs per epoch on {ORDERS} orders and {CUSTOMERS} customers; changed rows: 1, 100, 10,000");
    for (name, query) in QUERIES.iter().chain([&AGGREGATE]) {
        let (mut program, table) = program(name, query, 0)?;
        let mut line = format!("{name:24}");
        for (changed, times) in [(1, 20_000), (100, 1000), (10_000, 30)] {
            let micros = epochs(&mut program, table, changed, times)?;
            line += &format!(" {micros:12.2}");
            figures.push((format!("engine_{name}_{changed}_change"), micros));
        }
        println!("{line}");
    }
    let (name, query) = QUERIES[2];
    let (mut program, table) = program(name, query, OTHERS)?;
    let micros = epochs(&mut program, table, 1, 20_000)?;
    println!("{:24} {micros:12.2}", format!("beside {OTHERS} others"));
    figures.push((format!("engine_{name}_1_change_beside_{OTHERS}"), micros));
    let mut bare = Bare::new();
    let mut line = format!("{:24}", "bare hash map");
    for (changed, times) in [(1_i64, 20_000_i64), (100, 1000), (10_000, 30)] {
        let mut samples = Vec::new();
        for epoch in 0..times {
            let rows: Vec<(i64, i64)> = (0..changed)
                .map(|i| ((epoch * changed + i) * 104_729 % ORDERS, (epoch * 31 + i * 17 + changed) % 1000))
                .collect();
            let started = Instant::now();
            std::hint::black_box(bare.epoch(&rows));
            samples.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let micros = percentile(&samples, 50.0);
        line += &format!(" {micros:12.2}");
        figures.push((format!("bare_hash_join_aggregate_{changed}_change"), micros));
    }
    println!("{line}");
    for (name, micros) in figures {
        figure(&name, micros, "us");
    }
    Ok(())
}
