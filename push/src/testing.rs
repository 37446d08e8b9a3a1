//! What the crate's tests are made of: a hub of two projections, and changes as a line of text.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use filter::Access;
use pipeline::projection::Pair;
use pipeline::{DiffPart, Epoch, Lsn, Mark, Position};

use crate::hub::{Hub, Projection, ProjectionId, Publication, Stamp};

/// A projection of an `id` and a `name`.
pub fn projection(name: &str, key: Option<Vec<usize>>) -> Projection {
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]));
    let access = Access { is_public: true, ..Access::default() };
    Projection { access, ..Projection::new(name, schema, key).expect("columns that can be held") }
}

/// A hub of the projections `keyed`, by id, and `bag`, whose whole rows are their identity: ready,
/// and empty.
pub fn hub(log_bytes_max: usize) -> Arc<Hub> {
    let hub = not_ready(log_bytes_max);
    hub.make_ready();
    hub
}

/// The same before anything was published.
pub fn not_ready(log_bytes_max: usize) -> Arc<Hub> {
    Arc::new(Hub::with_log(vec![projection("keyed", Some(vec![0])), projection("bag", None)], log_bytes_max))
}

/// A hub of those whose log is as long as any test needs.
pub fn ample_hub() -> Arc<Hub> {
    hub(1 << 20)
}

/// A hub of these, ready and empty.
pub fn hub_of(projections: Vec<Projection>) -> Arc<Hub> {
    let hub = Hub::new(projections);
    hub.make_ready();
    Arc::new(hub)
}

/// How an epoch's changes are handed to the hub: the only place of the tests that knows. Rows of
/// one `id` are the old and the new row of a key.
pub fn publication(batch: RecordBatch, weights: Vec<i64>) -> Publication {
    let ids = batch.column(0).as_primitive::<Int64Type>();
    let mut pairs: BTreeMap<Option<i64>, Pair> = BTreeMap::new();
    for (row, weight) in (0_u32..).zip(&weights) {
        let id = ids.is_valid(row as usize).then(|| ids.value(row as usize));
        let pair = pairs.entry(id).or_insert(Pair { old: None, new: None });
        *(if *weight < 0 { &mut pair.old } else { &mut pair.new }) = Some(row);
    }
    Publication::Diff(vec![DiffPart { batch, weights, pairs: pairs.into_values().collect() }])
}

/// Where an epoch stands whose source has been read up to the LSN of the same number.
pub fn stamp(epoch: u64) -> Stamp {
    let position = Position { marks: [("shop".into(), Mark::Lsn(Lsn(epoch)))].into() };
    Stamp { epoch: Epoch(epoch), position, commit_time: 0 }
}

/// Publishes changes such as `-keyed(1,ann) +keyed(1,eve) +2bag(5,x)`: the row left, the row came,
/// the row came twice.
pub fn publish(hub: &Hub, epoch: u64, changes: &str) {
    let mut rows: Vec<(ProjectionId, i64, i64, &str)> = Vec::new();
    for change in changes.split_whitespace() {
        let (sign, change) = change.split_at(1);
        let (head, values) = change.trim_end_matches(')').split_once('(').expect("a row in parentheses");
        let name = head.trim_start_matches(|c: char| c.is_ascii_digit());
        let times = head
            .strip_suffix(name)
            .filter(|times| !times.is_empty())
            .map_or(1, |times| times.parse().expect("a number"));
        let (id, text) = values.split_once(',').expect("an id and a name");
        let weight = if sign == "+" { times } else { -times };
        rows.push((hub.find(name).expect("a projection"), weight, id.parse().expect("an id"), text));
    }
    let publications = (0..hub.projections().len()).filter_map(|i| {
        let of: Vec<_> = rows.iter().filter(|row| row.0 == ProjectionId(i)).collect();
        let ids: ArrayRef = Arc::new(of.iter().map(|row| Some(row.2)).collect::<Int64Array>());
        let names: ArrayRef = Arc::new(of.iter().map(|row| Some(row.3)).collect::<StringArray>());
        let batch = RecordBatch::try_new(hub.projections()[i].schema.clone(), vec![ids, names]).expect("two columns");
        (!of.is_empty()).then(|| (ProjectionId(i), publication(batch, of.iter().map(|row| row.1).collect())))
    });
    hub.publish(stamp(epoch), publications.collect()).expect("its columns");
}

/// Publishes that a projection can't be served.
pub fn fail(hub: &Hub, epoch: u64, name: &str, reason: &str) {
    let id = hub.find(name).expect("a projection");
    hub.publish(stamp(epoch), vec![(id, Publication::Failed(reason.to_owned()))]).expect("a reason");
}

/// Publishes that a projection is ready, and nothing else of it.
pub fn ready(hub: &Hub, epoch: u64, name: &str) {
    let id = hub.find(name).expect("a projection");
    hub.publish(stamp(epoch), vec![(id, Publication::Diff(Vec::new()))]).expect("nothing");
}

/// A hub that moves on after each look: row 1 of `keyed` says at epoch `e` that it is `e`, so what
/// is made of two looks gives itself away.
pub fn restless_hub(log_bytes_max: usize) -> Arc<Hub> {
    let hub = hub(log_bytes_max);
    publish(&hub, 1, "+keyed(1,1)");
    hub.after_each_look(|hub| {
        let epoch = hub.stamp().epoch.0;
        publish(hub, epoch + 1, &format!("-keyed(1,{epoch}) +keyed(1,{})", epoch + 1));
    });
    hub
}

/// Bytes as the text that they are.
pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}
