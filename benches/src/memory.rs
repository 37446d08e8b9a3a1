//! `cargo xtask bench memory`: what a row of state costs.
//!
//! A table of 1,000,000 rows of ten columns, a projection that filters one row in ten out of it,
//! and one that joins all of it with a small table. Measured is a process that holds nothing but
//! that: *resident* memory as the kernel tells it (`VmRSS`) when all has been copied and published,
//! less what was resident when the program was planned and no row was there; in both cases after
//! the allocator was asked to give free pages back (`malloc_trim`), so what counts is what is held,
//! and not what was needed on the way. What that was is printed beside it.
//!
//! *Row bytes* are what the rows would take if nothing but their values were kept, each in its
//! natural width: 8 for a bigint or a timestamp, 4 for an integer, 16 for a numeric, the length of
//! a text. Both tables' rows count, and each once, however many projections show them.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use pipeline::table::Identity;
use pipeline::{Epoch, Program, Published, TableId};
use push::hub::{Publication, Stamp};
use push::{Hub, ProjectionId};
use sql::{Diagnostics, Plan, PlannedProjection, Project, TableShape};

use crate::numbers::figure;
use crate::process::memory;

const ORDERS: i64 = 1_000_000;
const CUSTOMERS: i64 = 10_000;
const CHUNK: i64 = 10_000;

const PROJECTIONS: &str = "
    CREATE MATERIALIZED VIEW large AS SELECT * FROM orders WHERE quantity > 90;
    CREATE MATERIALIZED VIEW named AS
      SELECT o.id, o.reference, o.placed_at, o.price, c.name FROM orders o JOIN customers c ON c.id = o.customer_id;";

/// What a child holds when it is measured.
const HOLDINGS: [(&str, &str); 2] =
    [("engine", "state_bytes_over_row_bytes"), ("engine_and_hub", "state_and_hub_bytes_over_row_bytes")];

/// Measures each holding in a process of its own.
pub fn run() -> Result<()> {
    println!("{ORDERS} rows of ten columns, {CUSTOMERS} to join with; a projection of one in ten, and one of the join");
    println!(
        "{:16} {:>14} {:>14} {:>14} {:>10} {:>8}",
        "", "row bytes", "state bytes", "at its peak", "a row", "ratio"
    );
    let mut figures = Vec::new();
    for (holding, name) in HOLDINGS {
        let child = Command::new(std::env::current_exe()?)
            .args(["memory", holding])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        anyhow::ensure!(child.status.success(), "the process that holds the {holding} failed ({})", child.status);
        let told = String::from_utf8(child.stdout)?;
        let numbers: Vec<f64> =
            told.split_whitespace().map(str::parse).collect::<Result<_, _>>().with_context(|| told.clone())?;
        let [row_bytes, state, peak] = numbers[..] else { bail!("the child says {told}") };
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let rows = (ORDERS + CUSTOMERS) as f64;
        println!(
            "{holding:16} {row_bytes:>14} {state:>14} {peak:>14} {:>10.1} {:>8.2}",
            state / rows,
            state / row_bytes
        );
        figures.push((format!("{holding}_bytes_per_row"), state / rows, "bytes"));
        figures.push((name.to_owned(), state / row_bytes, "ratio"));
    }
    for (name, value, unit) in figures {
        figure(&name, value, unit);
    }
    Ok(())
}

/// The child: holds what it is told to, and prints row bytes, state bytes, and the most that was
/// resident on the way beyond what was there before.
pub fn hold(holding: &str) -> Result<()> {
    let Plan { mut program, tables, projections, .. } = plan()?;
    let described = projections.iter().map(describe).collect::<Result<_>>()?;
    let hub = (holding == "engine_and_hub").then(|| Hub::new(described));
    settle();
    let before = memory("self", "VmRSS")?;
    let mut row_bytes = fill(&mut program, tables["customers"], (0..1).map(|_| customers()))?;
    row_bytes += fill(&mut program, tables["orders"], (0..ORDERS).step_by(usize::try_from(CHUNK)?).map(orders))?;
    publish(&mut program, &projections, hub.as_ref())?;
    let peak = memory("self", "VmHWM")?;
    settle();
    let after = memory("self", "VmRSS")?;
    println!("{row_bytes} {} {}", after - before, peak - before);
    // Held until it is measured, also where an optimiser can see the end.
    std::hint::black_box((&program, &hub));
    Ok(())
}

/// Copies rows into a table, and returns their bytes. With [`publish`], all that this bench asks of
/// a program.
fn fill(program: &mut Program, table: TableId, batches: impl Iterator<Item = RecordBatch>) -> Result<u64> {
    let mut copy = program.begin_copy(table);
    let mut bytes = 0;
    for batch in batches {
        bytes += batch.columns().iter().map(natural_bytes).sum::<u64>();
        program.copy(table, &mut copy, batch)?;
    }
    program.finish_copy(table, copy)?;
    Ok(bytes)
}

/// Ends the epoch; what it published goes to the hub, if there is one.
fn publish(program: &mut Program, projections: &[PlannedProjection], hub: Option<&Hub>) -> Result<()> {
    let mut publications = Vec::new();
    for (id, published) in program.publish()? {
        let is_planned = |planned: &PlannedProjection| program.projection_id(&planned.name) == Some(id);
        let place = projections.iter().position(is_planned).context("a projection that was planned")?;
        let Published::Diff(parts) = published else { bail!("{} publishes no diff", projections[place].name) };
        publications.push((ProjectionId(place), Publication::Diff(parts)));
    }
    publications.sort_by_key(|(id, _)| *id);
    anyhow::ensure!(publications.len() == 2, "both projections publish");
    if let Some(hub) = hub {
        hub.publish(Stamp { epoch: Epoch(1), ..Stamp::default() }, publications)?;
        anyhow::ensure!(hub.row_counts().iter().all(|rows| *rows > 0), "both projections are served");
    }
    Ok(())
}

fn plan() -> Result<Plan> {
    let folder = tempfile::tempdir()?;
    let table =
        |name: &str| format!("CREATE TABLE {name} WITH (connector = 'postgres', url = 'postgres://nowhere/x');\n");
    std::fs::write(folder.path().join("a.sql"), table("orders") + &table("customers") + PROJECTIONS)?;
    let mut wrong = Diagnostics::default();
    let project = Project::load(folder.path(), &|_| None, &mut wrong);
    let shape = |schema| TableShape { schema, identity: Identity::Key(vec![0]) };
    let shapes =
        [("orders".to_owned(), shape(orders_schema())), ("customers".to_owned(), shape(customers_schema()))].into();
    let plan = sql::plan(&project, &shapes, &mut wrong);
    anyhow::ensure!(wrong.is_empty(), "{wrong}");
    Ok(plan)
}

fn describe(planned: &PlannedProjection) -> Result<push::Projection> {
    let key = planned.key.columns().map(<[usize]>::to_vec);
    Ok(push::Projection::new(planned.name.clone(), Arc::clone(&planned.schema), key)?)
}

fn orders_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("id", DataType::Int64),
        field("customer_id", DataType::Int64),
        field("quantity", DataType::Int32),
        field("warehouse", DataType::Int32),
        field("price", DataType::Decimal128(12, 2)),
        field("discount", DataType::Decimal128(6, 4)),
        field("placed_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        field("reference", DataType::Utf8),
        field("address", DataType::Utf8),
        field("note", DataType::Utf8),
    ]))
}

/// Rows such as a shop has: about 190 bytes each in their natural widths.
fn orders(start: i64) -> RecordBatch {
    let ids = start..start + CHUNK;
    let int =
        |of: &dyn Fn(i64) -> i32| -> ArrayRef { Arc::new(ids.clone().map(|id| Some(of(id))).collect::<Int32Array>()) };
    let text = |of: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(ids.clone().map(|id| Some(of(id))).collect::<StringArray>())
    };
    let numeric = |of: &dyn Fn(i64) -> i128, precision, scale| -> Result<ArrayRef> {
        let values = ids.clone().map(|id| Some(of(id))).collect::<Decimal128Array>();
        Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
    };
    let columns: Result<Vec<ArrayRef>> = (|| {
        Ok(vec![
            Arc::new(ids.clone().collect::<Int64Array>()) as ArrayRef,
            Arc::new(ids.clone().map(|id| id * 7919 % CUSTOMERS).collect::<Int64Array>()),
            int(&|id| i32::try_from(id * 31 % 100).unwrap_or(0) + 1),
            int(&|id| i32::try_from(id % 12).unwrap_or(0)),
            numeric(&|id| i128::from(id * 104_729 % 1_000_000), 12, 2)?,
            numeric(&|id| i128::from(id % 3000), 6, 4)?,
            Arc::new(
                ids.clone()
                    .map(|id| Some(1_760_000_000_000_000 + id * 1_234_567))
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
            text(&|id| format!("ORD-2026-{id:08}")),
            text(&|id| format!("{} Long Market Street, {:05} Springfield", id % 400, id % 99_999)),
            text(&|id| format!("Leave it with the neighbour at number {}, please ring twice before", id % 300)),
        ])
    })();
    let columns = columns.expect("digits enough");
    RecordBatch::try_new(orders_schema(), columns).expect("ten columns")
}

fn customers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]))
}

fn customers() -> RecordBatch {
    let ids: ArrayRef = Arc::new((0..CUSTOMERS).collect::<Int64Array>());
    let names: ArrayRef =
        Arc::new((0..CUSTOMERS).map(|id| Some(format!("Customer Number {id}"))).collect::<StringArray>());
    RecordBatch::try_new(customers_schema(), vec![ids, names]).expect("two columns")
}

/// The bytes of a column's values, each in its natural width.
fn natural_bytes(array: &ArrayRef) -> u64 {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().flatten().map(|text| text.len() as u64).sum(),
        other => (other.primitive_width().unwrap_or(0) * (array.len() - array.null_count())) as u64,
    }
}

/// Asks the allocator to give free pages back, so that what is resident is what is held.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc's own call, which no crate of ours wraps")]
fn settle() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: the signature is that of glibc's malloc.h, and it touches nothing but free memory of
    // glibc's allocator, which is this program's.
    unsafe { malloc_trim(0) };
}

/// Another allocator is not asked.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn settle() {}
