//! Protobuf messages whose schema a registry has.
//!
//! ```text
//!  0, id, message indexes, body ──► by id and indexes: Plan ──► DynamicMessage ──► columns ──► fit ──► rows
//! ```
//!
//! Read [`schema`] first: it compiles what a registry gives out. A field that its writer did not set is its
//! default where Protobuf can't tell that from a value (`proto3` scalars), and NULL where it can (`optional`,
//! messages, wrappers, a `oneof`). A field that the writer's schema does not have is what the newest schema
//! says of one that is not set; NULL if that has none either.

pub mod column; // values into columns
pub mod schema; // `.proto` files as descriptors

use std::collections::{BTreeMap, HashMap};

use arrow::array::new_null_array;
use arrow::datatypes::{Field, Fields};
use prost_reflect::prost::DecodeError;
use prost_reflect::prost::encoding::{DecodeContext, decode_key, skip_field};
use prost_reflect::{DynamicMessage, FieldDescriptor, FileDescriptor, MessageDescriptor, Value};

use self::column::{Column, Maker};
use super::avro::fit::{Found, Unfit, fit, never_taken};
use super::registry::{Schema, SchemaSource, framed, or_bad};
use super::{Bad, FormatError, RowDecoder, Rows};

/// Plans that are kept. A topic has few schemas; above this the plans are made anew.
const PLANS_MAX: usize = 256;

/// A schema's number, and which of its messages.
type PlanKey = (u32, Vec<usize>);

/// Messages of one kind: the place of each, and what is in it without the frame.
type Bodies<'a> = Vec<(usize, &'a [u8])>;

/// Makes rows of Protobuf messages with Confluent's frame.
pub struct ProtobufRows {
    fields: Fields,
    schemas: Box<dyn SchemaSource>,
    /// With the reason if the messages can't be read.
    plans: HashMap<PlanKey, Result<Plan, String>>,
}

/// How to read the messages of one kind.
struct Plan {
    message: MessageDescriptor,
    columns: Vec<(Origin, Column)>,
}

/// Where a wanted column comes from.
enum Origin {
    /// A field of the message.
    Field(FieldDescriptor),
    /// The same for all.
    Constant(Value),
    /// NULL for all; the column is not used.
    Null,
}

impl ProtobufRows {
    /// Rows with the columns `fields`, which are found by the names of the message's fields.
    #[must_use]
    pub fn new(fields: &Fields, schemas: impl SchemaSource + 'static) -> ProtobufRows {
        ProtobufRows { fields: fields.clone(), schemas: Box::new(schemas), plans: HashMap::new() }
    }

    /// The plan of a kind of message, or why there is none.
    fn plan(&mut self, key: &PlanKey) -> Result<Result<&mut Plan, String>, FormatError> {
        if !self.plans.contains_key(key) {
            let schema = match or_bad(self.schemas.schema(key.0))? {
                Ok(schema) => schema,
                // Not kept: it may be registered a moment later.
                Err(reason) => return Ok(Err(reason)),
            };
            let plan = self.planned(&schema, &key.1)?.map_err(|reason| format!("schema {}: {reason}", key.0));
            if self.plans.len() >= PLANS_MAX {
                self.plans.clear();
            }
            self.plans.insert(key.clone(), plan);
        }
        Ok(match self.plans.get_mut(key) {
            Some(Ok(plan)) => Ok(plan),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(String::new()),
        })
    }

    fn planned(&self, schema: &Schema, indexes: &[usize]) -> Result<Result<Plan, String>, FormatError> {
        let message = match schema::compile(schema).and_then(|file| schema::message(&file, indexes)) {
            Ok(message) => message,
            Err(reason) => return Ok(Err(reason)),
        };
        let is_missing = |field: &&str| message.get_field_by_name(field).is_none();
        let missing = self.fields.iter().map(|field| field.name().as_str()).any(|field| is_missing(&field));
        let latest = if missing { self.latest(&message)? } else { None };
        let mut columns = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            let known = latest.as_ref().and_then(|latest| latest.get_field_by_name(field.name()));
            let (origin, of) = match (message.get_field_by_name(field.name()), known) {
                (Some(of), _) => (Origin::Field(of.clone()), of),
                (None, Some(of)) if !of.supports_presence() => {
                    (Origin::Constant(Value::default_value_for_field(&of)), of)
                }
                (None, _) => {
                    columns.push((Origin::Null, Column::Bool(Default::default())));
                    continue;
                }
            };
            match column(&of, field)? {
                Ok(column) => columns.push((origin, column)),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(Plan { message, columns }))
    }

    /// The newest schema's message of the same name.
    fn latest(&self, message: &MessageDescriptor) -> Result<Option<MessageDescriptor>, FormatError> {
        let latest = or_bad(self.schemas.latest())?.ok().flatten();
        let file: Option<FileDescriptor> = latest.and_then(|schema| schema::compile(&schema).ok());
        Ok(file.and_then(|file| file.parent_pool().get_message_by_name(message.full_name())))
    }
}

/// A column for a field that goes together with what is wanted, or why there is none.
fn column(of: &FieldDescriptor, wanted: &Field) -> Result<Result<Column, String>, FormatError> {
    let mut column = match Maker::default().field(of, Some(wanted.data_type())) {
        Ok(column) => column,
        Err(reason) => return Ok(Err(reason)),
    };
    match fit(&column.finish()?, wanted.data_type()) {
        Ok(_) => Ok(Ok(column)),
        Err(Unfit::Types(from, to)) => Ok(Err(never_taken(wanted.name(), &from, &to))),
        Err(Unfit::Arrow(error)) => Err(error.into()),
    }
}

impl RowDecoder for ProtobufRows {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        let mut bad = Vec::new();
        let mut found = Found::default();
        let fields = self.fields.clone();
        for (key, messages) in by_kind(payloads, &mut bad) {
            match self.plan(&key)? {
                Ok(plan) => plan.decode(&messages, &fields, &mut found, &mut bad)?,
                Err(reason) => {
                    bad.extend(messages.iter().map(|(message, _)| Bad { message: *message, reason: reason.clone() }));
                }
            }
        }
        bad.sort_by_key(|bad| bad.message);
        let (columns, from) = found.in_order(&fields)?;
        Ok(Rows { columns, from, bad })
    }
}

impl Plan {
    /// Takes messages, each with its place and without its frame.
    fn decode(
        &mut self,
        messages: &[(usize, &[u8])],
        fields: &Fields,
        found: &mut Found,
        bad: &mut Vec<Bad>,
    ) -> Result<(), FormatError> {
        let mut run = Vec::with_capacity(messages.len());
        let mut misfits = BTreeMap::new();
        for (place, body) in messages {
            // Nothing of a message that can't be read gets into the columns.
            let message = match DynamicMessage::decode(self.message.clone(), *body) {
                Ok(message) => message,
                Err(error) => {
                    bad.push(Bad { message: *place, reason: unreadable(&self.message, body, &error) });
                    continue;
                }
            };
            let mut fault = None;
            for ((origin, column), field) in self.columns.iter_mut().zip(fields) {
                let mut of_column = None;
                match origin {
                    Origin::Field(of) => column.push_field(&message, of, &mut of_column),
                    Origin::Constant(value) => column.push(value, &mut of_column),
                    Origin::Null => {}
                }
                fault = fault.or_else(|| of_column.map(|reason| format!("`{}`: {reason}", field.name())));
            }
            if let Some(reason) = fault {
                misfits.insert(run.len(), reason);
            }
            run.push(*place);
        }
        let mut columns = Vec::with_capacity(fields.len());
        for ((origin, column), field) in self.columns.iter_mut().zip(fields) {
            columns.push(match origin {
                Origin::Null => new_null_array(field.data_type(), run.len()),
                _ => column.finish()?,
            });
        }
        Ok(found.push(columns, fields, &run, misfits, bad)?)
    }
}

/// What is wrong with a body that could not be decoded, with the outermost field that it is in. The decoder does not
/// tell, so fields are gone through until one can't be read by itself.
fn unreadable(of: &MessageDescriptor, body: &[u8], error: &DecodeError) -> String {
    let said = error.to_string();
    let said = said.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&said);
    let (name, said) = match unreadable_field(of, body) {
        Some(name) => (format!("`{name}`"), said),
        None => ("it".to_owned(), said),
    };
    match said {
        "buffer underflow" => format!("{name} ends in the midst of a value"),
        "invalid string value: data is not UTF-8 encoded" => format!("{name} is not UTF-8"),
        said if name == "it" => format!("it is no message of {}: {said}", of.full_name()),
        said => format!("{name}: {said}"),
    }
}

fn unreadable_field(of: &MessageDescriptor, body: &[u8]) -> Option<String> {
    let mut rest = body;
    while !rest.is_empty() {
        let field = rest;
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        let is_read = skip_field(wire_type, tag, &mut rest, DecodeContext::default()).is_ok()
            && DynamicMessage::decode(of.clone(), &field[..field.len() - rest.len()]).is_ok();
        if !is_read {
            return Some(of.get_field(tag)?.name().to_owned());
        }
    }
    None
}

/// The messages of each kind, with their places and without their frames.
fn by_kind<'a>(payloads: &[&'a [u8]], bad: &mut Vec<Bad>) -> Vec<(PlanKey, Bodies<'a>)> {
    let mut groups: Vec<(PlanKey, Bodies<'_>)> = Vec::new();
    let mut group_of: HashMap<PlanKey, usize> = HashMap::new();
    for (message, payload) in payloads.iter().enumerate() {
        let opened = framed(payload).and_then(|(id, body)| {
            let (indexes, body) = schema::indexes(body)?;
            Ok(((id, indexes), body))
        });
        let (key, body) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                bad.push(Bad { message, reason });
                continue;
            }
        };
        let group = match group_of.get(&key) {
            Some(group) => *group,
            None => {
                group_of.insert(key.clone(), groups.len());
                groups.push((key, Vec::new()));
                groups.len() - 1
            }
        };
        groups[group].1.push((message, body));
    }
    groups
}

/// The columns of a table whose messages have a schema, for tables that declare none: the fields of the
/// schema's first message, in their order. Enums are text, unsigned numbers the next signed ones that hold
/// them (`uint64` is a decimal), and all may be NULL.
///
/// # Errors
/// With the reason: the schema can't be compiled, has no message, or one that has itself within it.
pub fn columns(schema: &Schema) -> Result<Vec<Field>, String> {
    let message = schema::message(&schema::compile(schema)?, &[0])?;
    let mut columns = Vec::new();
    // In the order in which they are written, which `fields` is not.
    for written in &message.descriptor_proto().field {
        let Some(field) = message.get_field_by_name(written.name()) else { continue };
        let column = Maker::within(&message).field(&field, None)?.finish().map_err(|error| error.to_string())?;
        columns.push(Field::new(field.name(), column::engine_type(column.data_type()), true));
    }
    Ok(columns)
}

#[cfg(test)]
mod tests;
