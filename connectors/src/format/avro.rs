//! Avro records whose schema a registry has.
//!
//! ```text
//!  0, id, body ──► by id: Plan ──► arrow-avro ──► fit ──► wanted columns ──► rows in the messages' order
//!                  the writer's     the writer's    exactly the
//!                  schema, once     types           wanted types
//! ```
//!
//! Read [`schema`] first: it brings what registries give out into a plain form. Each id has a plan of its
//! own, which reads the wanted fields with the writer's types and skips the others; [`mod@fit`] makes the wanted
//! types of them. What the writer does not have is the default that the newest schema gives it, or NULL.
//!
//! **Finding who failed.** A truncated body leaves half a row in `arrow-avro`'s columns, and takes the batch
//! with it. So messages are decoded in the hope that all are good, and what each consumed is checked. When
//! one fails, the decoder is made anew, and what was before it is decoded again, then what is after it: every
//! message is decoded at most twice, however many fail. What only shows when the batch is closed (text that
//! is not UTF-8) names nobody; then the run is halved until it does.

pub mod fit; // columns as they are wanted, without loss
pub mod schema; // schemas in a plain form
pub mod skip; // fields that nobody wants and no columns hold

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_empty_array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{Field, Fields};
use arrow::error::ArrowError;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::Value;

use self::fit::{Fitted, Found, Unfit, fit, never_taken};
use self::schema::{Record, Root, RootField};
use self::skip::Cut;
use super::registry::{Language, Schema, SchemaSource, framed, or_bad};
use super::{Bad, FormatError, RowDecoder, Rows};

/// Plans that are kept. A topic has few schemas; above this the plans are made anew.
const PLANS_MAX: usize = 256;

/// The frame of what is decoded to learn a default. The schema has one number, so any would do.
const FRAME: [u8; 5] = [0, 0, 0, 0, 0];

/// Makes rows of Avro records with Confluent's frame.
pub struct AvroRows {
    fields: Fields,
    schemas: Box<dyn SchemaSource>,
    /// By the number of the schema; with the reason if its messages can't be read.
    plans: HashMap<u32, Result<Plan, String>>,
}

impl AvroRows {
    /// Rows with the columns `fields`, which are found by name. Where there is one and the schema is no
    /// record, it is the message itself.
    #[must_use]
    pub fn new(fields: &Fields, schemas: impl SchemaSource + 'static) -> AvroRows {
        AvroRows { fields: fields.clone(), schemas: Box::new(schemas), plans: HashMap::new() }
    }

    /// The plan of a schema, or why there is none.
    fn plan(&mut self, id: u32) -> Result<Result<&mut Plan, String>, FormatError> {
        if !self.plans.contains_key(&id) {
            let schema = match or_bad(self.schemas.schema(id))? {
                Ok(schema) => schema,
                // Not kept: it may be registered a moment later.
                Err(reason) => return Ok(Err(reason)),
            };
            let plan = self.planned(id, &schema)?;
            if self.plans.len() >= PLANS_MAX {
                self.plans.clear();
            }
            self.plans.insert(id, plan);
        }
        Ok(match self.plans.get_mut(&id) {
            Some(Ok(plan)) => Ok(plan),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(String::new()),
        })
    }

    fn planned(&self, id: u32, schema: &Schema) -> Result<Result<Plan, String>, FormatError> {
        let root = match read(schema) {
            Ok(root) => as_record(root, &self.fields),
            Err(reason) => Err(reason),
        };
        let Record { fields: written, cut, .. } = match root {
            Ok(record) => record,
            Err(reason) => return Ok(Err(format!("schema {id}: {reason}"))),
        };
        let is_missing = |field: &&Arc<Field>| written.iter().all(|written| written.name != *field.name());
        let missing: Vec<&Arc<Field>> = self.fields.iter().filter(is_missing).collect();
        let defaults = if missing.is_empty() { BTreeMap::new() } else { self.defaults(&missing)? };
        match Plan::new(id, &written, &self.fields, &defaults) {
            Ok(plan) => Ok(Ok(Plan { cut, ..plan })),
            Err(PlanError::Refused(reason)) => Ok(Err(format!("schema {id}: {reason}"))),
            Err(PlanError::Arrow(error)) => Err(error.into()),
        }
    }

    /// The values that the newest schema gives these fields, each as a column of one row. A default that
    /// can't be had or doesn't fit is none.
    fn defaults(&self, fields: &[&Arc<Field>]) -> Result<BTreeMap<String, ArrayRef>, FormatError> {
        let latest = or_bad(self.schemas.latest())?.ok().flatten();
        let Some(Root::Record(Record { fields: known, .. })) = latest.and_then(|schema| read(&schema).ok()) else {
            return Ok(BTreeMap::new());
        };
        let mut defaults = BTreeMap::new();
        for field in fields {
            let Some(known) = known.iter().find(|known| known.name == *field.name() && known.default.is_some()) else {
                continue;
            };
            if let Some(Fitted { column, misfits }) =
                default(known).and_then(|column| fit(&column, field.data_type()).ok())
                && misfits.is_empty()
            {
                defaults.insert(field.name().clone(), column);
            }
        }
        Ok(defaults)
    }
}

impl RowDecoder for AvroRows {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        let mut bad = Vec::new();
        let mut found = Found::default();
        for (id, places) in by_schema(payloads, &mut bad) {
            match self.plan(id)? {
                Ok(plan) => plan.decode(payloads, &places, &mut found, &mut bad)?,
                Err(reason) => bad.extend(places.iter().map(|&message| Bad { message, reason: reason.clone() })),
            }
        }
        bad.sort_by_key(|bad| bad.message);
        let (columns, from) = found.in_order(&self.fields)?;
        Ok(Rows { columns, from, bad })
    }
}

/// The columns of a table whose messages have a schema, for tables that declare none: named as the fields
/// are, in their order. Timestamps are in microseconds, enums and UUIDs are text, decimals are as the schema
/// says, and all may be NULL. A schema that is no record is one column `value`.
///
/// # Errors
/// With the reason: the schema can't be read, is recursive, or has a field of no one type.
pub fn columns(schema: &Schema) -> Result<Vec<Field>, String> {
    let Record { fields, left_out, .. } = match read(schema)? {
        Root::Record(record) => record,
        Root::Value(of) => of_value("value", of),
    };
    if let Some(reason) = left_out.into_values().next() {
        return Err(reason);
    }
    let decoder = decoder(0, &schema::record(&undefaulted(&fields)), None)?;
    let column = |field: &Arc<Field>| Ok(Field::new(field.name(), fit::engine_type(field)?, true));
    decoder.schema().fields().iter().map(column).collect()
}

/// The fields of a record, or a lone value as the wanted column.
fn as_record(root: Root, wanted: &Fields) -> Result<Record, String> {
    match root {
        Root::Record(record) => match wanted.iter().find_map(|field| record.left_out.get(field.name())) {
            Some(reason) => Err(reason.clone()),
            None => Ok(record),
        },
        Root::Value(of) => match &**wanted {
            [field] => Ok(of_value(field.name(), of)),
            fields => Err(format!("it is no record, and {} columns are wanted", fields.len())),
        },
    }
}

/// That messages of a schema may be read into these columns. A field that it does not have says nothing: others may.
///
/// # Errors
/// With the reason why none ever is.
pub fn check(schema: &Schema, fields: &Fields) -> Result<(), String> {
    let record = as_record(read(schema)?, fields)?;
    match Plan::new(0, &record.fields, fields, &BTreeMap::new()) {
        Err(PlanError::Refused(reason)) => Err(reason),
        // A mistake of ours is told when it harms a message.
        Ok(_) | Err(PlanError::Arrow(_)) => Ok(()),
    }
}

/// A record with one field, for a value that is no record.
fn of_value(name: &str, of: Value) -> Record {
    Record { fields: vec![RootField { name: name.to_owned(), of, default: None }], ..Record::default() }
}

fn read(schema: &Schema) -> Result<Root, String> {
    if schema.language != Language::Avro {
        return Err("its schema is not one of Avro".to_owned());
    }
    schema::read(schema)
}

fn undefaulted(fields: &[RootField]) -> Vec<RootField> {
    fields.iter().map(|field| RootField { default: None, ..field.clone() }).collect()
}

/// The messages of each schema.
fn by_schema(payloads: &[&[u8]], bad: &mut Vec<Bad>) -> Vec<(u32, Vec<usize>)> {
    let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
    let mut group_of: HashMap<u32, usize> = HashMap::new();
    let mut last = None;
    for (message, payload) in payloads.iter().enumerate() {
        let id = match framed(payload) {
            Ok((id, _)) => id,
            Err(reason) => {
                bad.push(Bad { message, reason });
                continue;
            }
        };
        let group = match last {
            Some((of, group)) if of == id => group,
            _ => *group_of.entry(id).or_insert_with(|| {
                groups.push((id, Vec::new()));
                groups.len() - 1
            }),
        };
        last = Some((id, group));
        groups[group].1.push(message);
    }
    groups
}

/// Where a wanted column comes from.
enum Origin {
    /// A column that is decoded.
    Read(usize),
    /// One value for all, in a column of one row.
    Constant(ArrayRef),
}

enum PlanError {
    /// The messages of this schema can't be read.
    Refused(String),
    /// A mistake of ours.
    Arrow(ArrowError),
}

/// How to read the messages of one schema.
struct Plan {
    id: u32,
    /// The writer's schema, without what is cut out.
    writer: String,
    /// Takes out of messages what no columns hold.
    cut: Option<Cut>,
    /// The fields to read, unless that is all of them.
    reader: Option<String>,
    /// `None` when the messages take no bytes.
    decoder: Option<Decoder>,
    origins: Vec<Origin>,
    fields: Fields,
}

/// A run that was not decoded: who failed if that is known, counted from its beginning, and why.
struct Failed {
    at: Option<usize>,
    reason: String,
}

impl Plan {
    fn new(
        id: u32,
        written: &[RootField],
        fields: &Fields,
        defaults: &BTreeMap<String, ArrayRef>,
    ) -> Result<Plan, PlanError> {
        let written = undefaulted(written);
        let wanted: Vec<&RootField> =
            written.iter().filter(|field| fields.iter().any(|wanted| *wanted.name() == field.name)).collect();
        let reader = (wanted.len() < written.len()).then(|| schema::record(wanted.iter().copied()));
        let mut plan = Plan {
            id,
            writer: schema::record(&written),
            cut: None,
            reader,
            decoder: None,
            origins: Vec::with_capacity(fields.len()),
            fields: fields.clone(),
        };
        let is_empty = written.iter().all(|field| schema::is_empty(&field.of));
        if !is_empty {
            plan.decoder = Some(plan.anew().map_err(PlanError::Refused)?);
        }
        for field in fields {
            let place = wanted.iter().position(|wanted| wanted.name == *field.name());
            let origin = match (place, &plan.decoder) {
                (Some(place), Some(decoder)) => {
                    let of = decoder.schema().field(place).data_type().clone();
                    match fit(&new_empty_array(&of), field.data_type()) {
                        Ok(_) => Origin::Read(place),
                        Err(Unfit::Types(from, to)) => {
                            return Err(PlanError::Refused(never_taken(field.name(), &from, &to)));
                        }
                        Err(Unfit::Arrow(error)) => return Err(PlanError::Arrow(error)),
                    }
                }
                _ => Origin::Constant(match defaults.get(field.name()) {
                    Some(default) => Arc::clone(default),
                    None => new_null_array(field.data_type(), 1),
                }),
            };
            plan.origins.push(origin);
        }
        Ok(plan)
    }

    fn anew(&self) -> Result<Decoder, String> {
        decoder(self.id, &self.writer, self.reader.as_deref())
    }

    /// Decodes the messages at these places.
    fn decode(
        &mut self,
        payloads: &[&[u8]],
        places: &[usize],
        found: &mut Found,
        bad: &mut Vec<Bad>,
    ) -> Result<(), FormatError> {
        if let Some(cut) = &self.cut {
            let mut kept = vec![Vec::new(); payloads.len()];
            let mut left = Vec::with_capacity(places.len());
            for &message in places {
                let (frame, body) = payloads[message].split_at(FRAME.len());
                kept[message].extend_from_slice(frame);
                match cut.keep(body, &mut kept[message]) {
                    Ok(()) => left.push(message),
                    Err(reason) => bad.push(Bad { message, reason }),
                }
            }
            let kept: Vec<&[u8]> = kept.iter().map(Vec::as_slice).collect();
            return self.decode_all(&kept, &left, found, bad);
        }
        self.decode_all(payloads, places, found, bad)
    }

    /// Decodes messages that have what the decoder knows of.
    fn decode_all(
        &mut self,
        payloads: &[&[u8]],
        places: &[usize],
        found: &mut Found,
        bad: &mut Vec<Bad>,
    ) -> Result<(), FormatError> {
        let mut runs = if places.is_empty() { Vec::new() } else { vec![places] };
        while let Some(run) = runs.pop() {
            match self.run(payloads, run) {
                Ok(read) => found.push(self.wanted(&read, run.len())?, &self.fields, run, BTreeMap::new(), bad)?,
                Err(Failed { at: Some(at), reason }) => {
                    bad.push(Bad { message: run[at], reason });
                    let (before, after) = (&run[..at], &run[at + 1..]);
                    runs.extend([after, before].into_iter().filter(|run| !run.is_empty()));
                }
                Err(Failed { at: None, reason }) if run.len() == 1 => bad.push(Bad { message: run[0], reason }),
                Err(Failed { at: None, .. }) => {
                    let (left, right) = run.split_at(run.len() / 2);
                    runs.extend([right, left]);
                }
            }
        }
        Ok(())
    }

    /// Decodes a run, all of it or nothing.
    fn run(&mut self, payloads: &[&[u8]], run: &[usize]) -> Result<Vec<ArrayRef>, Failed> {
        let Some(decoder) = &mut self.decoder else {
            return match run.iter().position(|&message| payloads[message].len() > FRAME.len()) {
                Some(at) => Err(Failed { at: Some(at), reason: TRAILING.to_owned() }),
                None => Ok(Vec::new()),
            };
        };
        match decoded(decoder, payloads, run) {
            Ok(batch) => Ok(batch.columns().to_vec()),
            Err(failed) => {
                // Half a row may be left in it.
                match self.anew() {
                    Ok(decoder) => self.decoder = Some(decoder),
                    Err(reason) => return Err(Failed { at: None, reason }),
                }
                Err(failed)
            }
        }
    }

    /// The wanted columns of a run, with the types that they are read with.
    fn wanted(&self, read: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>, ArrowError> {
        let column = |origin: &Origin| match origin {
            Origin::Read(place) => Ok(Arc::clone(&read[*place])),
            Origin::Constant(value) => take(value, &UInt32Array::from(vec![0; rows]), None),
        };
        self.origins.iter().map(column).collect()
    }
}

fn decoded(decoder: &mut Decoder, payloads: &[&[u8]], run: &[usize]) -> Result<RecordBatch, Failed> {
    for (at, &message) in run.iter().enumerate() {
        let payload = payloads[message];
        let room = decoder.capacity();
        let outcome = decoder.decode(payload);
        let rows = room - decoder.capacity();
        let reason = match outcome {
            Ok(consumed) if consumed == payload.len() && rows == 1 => continue,
            Ok(_) if rows == 0 => "it ends in the midst of a value".to_owned(),
            Err(error) if rows == 0 => error.to_string(),
            // What is left was taken for a second message, whether it looks like one or not.
            _ => TRAILING.to_owned(),
        };
        return Err(Failed { at: Some(at), reason });
    }
    match decoder.flush() {
        Ok(Some(batch)) if batch.num_rows() == run.len() => Ok(batch),
        Ok(_) => Err(Failed { at: None, reason: "it makes no row".to_owned() }),
        Err(error) => Err(Failed { at: None, reason: error.to_string() }),
    }
}

fn decoder(id: u32, writer: &str, reader: Option<&str>) -> Result<Decoder, String> {
    let build = || {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(id), AvroSchema::new(writer.to_owned()))?;
        let mut builder = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(BATCH_ROWS_MAX);
        if let Some(reader) = reader {
            builder = builder.with_reader_schema(AvroSchema::new(reader.to_owned()));
        }
        builder.build_decoder()
    };
    build().map_err(|error: ArrowError| format!("its schema can't be used: {error}"))
}

/// The default of a field, as a column of one row: what a record without it is read as.
fn default(field: &RootField) -> Option<ArrayRef> {
    let other = RootField { name: "_other".to_owned(), of: Value::from("boolean"), default: None };
    let mut field = field.clone();
    if field.default.as_ref().is_some_and(Value::is_null) {
        return None;
    }
    // The default of a union is one of its first branch, so the others can be left out.
    if let Value::Array(branches) = &field.of {
        field.of = branches.first()?.clone();
    }
    let mut decoder = decoder(0, &schema::record([&other]), Some(&schema::record([&field]))).ok()?;
    let batch = decoded(&mut decoder, &[&[FRAME.as_slice(), &[0]].concat()], &[0]).ok()?;
    Some(Arc::clone(batch.column(0)))
}

const TRAILING: &str = "bytes are left after its last value";

/// More than a batch has: it is closed when we say so.
const BATCH_ROWS_MAX: usize = i32::MAX as usize;

#[cfg(test)]
mod tests;
