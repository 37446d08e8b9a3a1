//! Values of messages into columns of the types that they have in Protobuf.
//!
//! A column takes something of each message, always: a value that it has no room for (an instant with
//! nanoseconds) is told beside it, and its row is left out afterwards.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
    IntervalMonthDayNanoBuilder, ListArray, MapArray, NullBufferBuilder, StringBuilder, StructArray,
    TimestampMicrosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalMonthDayNano};
use arrow::error::ArrowError;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::format::rounded_micros;

/// Columns within a column that nobody declared: more are refused.
const COLUMNS_MAX: usize = 10_000;

/// Builds a column.
pub enum Column {
    /// `bool`
    Bool(BooleanBuilder),
    /// `int32`, `sint32`, `sfixed32`
    I32(Int32Builder),
    /// `int64`, `sint64`, `sfixed64`
    I64(Int64Builder),
    /// `uint32`, `fixed32`
    U32(UInt32Builder),
    /// `uint64`, `fixed64`
    U64(UInt64Builder),
    /// `float`
    F32(Float32Builder),
    /// `double`
    F64(Float64Builder),
    /// `string`
    Text(StringBuilder),
    /// `bytes`
    Bytes(BinaryBuilder),
    /// The names of an enum; the number where it has none.
    Enum(EnumDescriptor, StringBuilder),
    /// `google.protobuf.Timestamp`
    Instant(TimestampMicrosecondBuilder),
    /// `google.protobuf.Duration`, in nanoseconds of an interval
    Span(IntervalMonthDayNanoBuilder),
    /// `google.protobuf.Duration`, in microseconds
    SpanMicros(Int64Builder),
    /// `google.protobuf.Int32Value` and its like
    Wrapped(FieldDescriptor, Box<Column>),
    /// A message.
    Struct {
        /// Those of its fields that are wanted.
        fields: Vec<(FieldDescriptor, Column)>,
        /// Which messages are not there.
        nulls: NullBufferBuilder,
    },
    /// A repeated field.
    List {
        /// The values of all lists.
        items: Box<Column>,
        /// Where each list ends, after a first zero.
        offsets: Vec<i32>,
    },
    /// A map, in the order of its keys.
    Map {
        /// The keys of all maps.
        keys: Box<Column>,
        /// Their values.
        values: Box<Column>,
        /// Where each map ends, after a first zero.
        offsets: Vec<i32>,
    },
}

/// Makes columns for fields.
#[derive(Default)]
pub struct Maker {
    /// The messages that we are in.
    open: Vec<String>,
    columns: usize,
}

impl Maker {
    /// For the fields of this message.
    #[must_use]
    pub fn within(message: &MessageDescriptor) -> Maker {
        Maker { open: vec![message.full_name().to_owned()], columns: 0 }
    }

    /// A column for a field: what `wanted` has of it, or all.
    ///
    /// # Errors
    /// With the reason why there can be none.
    pub fn field(&mut self, field: &FieldDescriptor, wanted: Option<&DataType>) -> Result<Column, String> {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let pair = match wanted {
                Some(DataType::Map(pair, _) | DataType::List(pair)) => Some(pair.data_type()),
                _ => None,
            };
            let of = |place: usize| match pair {
                Some(DataType::Struct(fields)) => fields.get(place).map(|field| field.data_type()),
                _ => None,
            };
            let keys = Box::new(self.kind(&entry.map_entry_key_field(), of(0))?);
            let values = Box::new(self.kind(&entry.map_entry_value_field(), of(1))?);
            return Ok(Column::Map { keys, values, offsets: vec![0] });
        }
        if field.is_list() {
            let item = match wanted {
                Some(DataType::List(item)) => Some(item.data_type()),
                _ => None,
            };
            return Ok(Column::List { items: Box::new(self.kind(field, item)?), offsets: vec![0] });
        }
        self.kind(field, wanted)
    }

    fn kind(&mut self, field: &FieldDescriptor, wanted: Option<&DataType>) -> Result<Column, String> {
        self.columns += 1;
        if self.columns > COLUMNS_MAX {
            return Err(format!("`{}` has more than {COLUMNS_MAX} columns in it", field.name()));
        }
        Ok(match field.kind() {
            Kind::Bool => Column::Bool(BooleanBuilder::new()),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Column::I32(Int32Builder::new()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Column::I64(Int64Builder::new()),
            Kind::Uint32 | Kind::Fixed32 => Column::U32(UInt32Builder::new()),
            Kind::Uint64 | Kind::Fixed64 => Column::U64(UInt64Builder::new()),
            Kind::Float => Column::F32(Float32Builder::new()),
            Kind::Double => Column::F64(Float64Builder::new()),
            Kind::String => Column::Text(StringBuilder::new()),
            Kind::Bytes => Column::Bytes(BinaryBuilder::new()),
            Kind::Enum(of) => Column::Enum(of, StringBuilder::new()),
            Kind::Message(message) => self.message(&message, wanted)?,
        })
    }

    fn message(&mut self, message: &MessageDescriptor, wanted: Option<&DataType>) -> Result<Column, String> {
        match message.full_name() {
            "google.protobuf.Timestamp" => {
                return Ok(Column::Instant(TimestampMicrosecondBuilder::new().with_timezone("UTC")));
            }
            "google.protobuf.Duration" if wanted == Some(&DataType::Int64) => {
                return Ok(Column::SpanMicros(Int64Builder::new()));
            }
            "google.protobuf.Duration" => return Ok(Column::Span(IntervalMonthDayNanoBuilder::new())),
            name if WRAPPERS.contains(&name) => {
                let value = message.get_field(1).ok_or_else(|| format!("{name} has no value"))?;
                let of = Box::new(self.kind(&value, wanted)?);
                return Ok(Column::Wrapped(value, of));
            }
            _ => {}
        }
        let wanted = match wanted {
            Some(DataType::Struct(fields)) => Some(fields),
            _ => None,
        };
        let name = message.full_name();
        // What is declared has an end, and so has what we make for it.
        if wanted.is_none() && self.open.iter().any(|open| open == name) {
            return Err(format!("the message {name} has itself within it, and columns can't be nested without end"));
        }
        self.open.push(name.to_owned());
        let mut fields = Vec::new();
        for field in message.fields() {
            let of = wanted.map(|wanted| wanted.iter().find(|wanted| wanted.name() == field.name()));
            let column = match of {
                Some(None) => continue,
                Some(Some(of)) => self.field(&field, Some(of.data_type()))?,
                None => self.field(&field, None)?,
            };
            fields.push((field, column));
        }
        self.open.pop();
        if fields.is_empty() && wanted.is_none() {
            return Err(format!("the message {name} has no fields, so there is no column for it"));
        }
        Ok(Column::Struct { fields, nulls: NullBufferBuilder::new(0) })
    }
}

impl Column {
    /// Adds what a message has in a field: the default where it has none and none can be told apart.
    pub fn push_field(&mut self, message: &DynamicMessage, field: &FieldDescriptor, fault: &mut Option<String>) {
        if field.supports_presence() && !message.has_field(field) {
            self.push_null();
        } else {
            self.push(&message.get_field(field), fault);
        }
    }

    /// Adds a value. One that there is no room for is told in `fault`, and something else added.
    pub fn push(&mut self, value: &Value, fault: &mut Option<String>) {
        match (self, value) {
            (Column::Bool(b), Value::Bool(value)) => b.append_value(*value),
            (Column::I32(b), Value::I32(value)) => b.append_value(*value),
            (Column::I64(b), Value::I64(value)) => b.append_value(*value),
            (Column::U32(b), Value::U32(value)) => b.append_value(*value),
            (Column::U64(b), Value::U64(value)) => b.append_value(*value),
            (Column::F32(b), Value::F32(value)) => b.append_value(*value),
            (Column::F64(b), Value::F64(value)) => b.append_value(*value),
            (Column::Text(b), Value::String(value)) => b.append_value(value),
            (Column::Bytes(b), Value::Bytes(value)) => b.append_value(value),
            (Column::Enum(of, b), Value::EnumNumber(number)) => match of.get_value(*number) {
                Some(value) => b.append_value(value.name()),
                None => b.append_value(number.to_string()),
            },
            (Column::Instant(b), Value::Message(message)) => match micros(message) {
                Ok(value) => b.append_value(value),
                Err(reason) => {
                    b.append_null();
                    *fault = Some(reason);
                }
            },
            (Column::SpanMicros(b), Value::Message(message)) => match micros(message) {
                Ok(value) => b.append_value(value),
                Err(reason) => {
                    b.append_null();
                    *fault = Some(reason);
                }
            },
            (Column::Span(b), Value::Message(message)) => {
                let (seconds, nanos) = parts(message);
                match seconds.checked_mul(NANOS).and_then(|value| value.checked_add(nanos)) {
                    Some(value) => b.append_value(IntervalMonthDayNano::new(0, 0, value)),
                    None => {
                        b.append_null();
                        *fault = Some(format!("a duration of {seconds} seconds is more than an interval holds"));
                    }
                }
            }
            (Column::Wrapped(field, of), Value::Message(message)) => of.push(&message.get_field(field), fault),
            (Column::Struct { fields, nulls }, Value::Message(message)) => {
                fields.iter_mut().for_each(|(field, column)| column.push_field(message, field, fault));
                nulls.append_non_null();
            }
            (Column::List { items, offsets }, Value::List(values)) => {
                values.iter().for_each(|value| items.push(value, fault));
                push_len(offsets, values.len(), fault);
            }
            (Column::Map { keys, values, offsets }, Value::Map(entries)) => {
                // As they were sent is not known, so they are put in the order of their keys.
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in &entries {
                    keys.push(&Value::from((*key).clone()), fault);
                    values.push(value, fault);
                }
                push_len(offsets, entries.len(), fault);
            }
            (column, value) => {
                column.push_null();
                *fault = Some(format!("{value} is not of the type that its schema says"));
            }
        }
    }

    /// Adds NULL.
    pub fn push_null(&mut self) {
        match self {
            Column::Bool(b) => b.append_null(),
            Column::I32(b) => b.append_null(),
            Column::I64(b) | Column::SpanMicros(b) => b.append_null(),
            Column::U32(b) => b.append_null(),
            Column::U64(b) => b.append_null(),
            Column::F32(b) => b.append_null(),
            Column::F64(b) => b.append_null(),
            Column::Text(b) | Column::Enum(_, b) => b.append_null(),
            Column::Bytes(b) => b.append_null(),
            Column::Instant(b) => b.append_null(),
            Column::Span(b) => b.append_null(),
            Column::Wrapped(_, of) => of.push_null(),
            Column::Struct { fields, nulls } => {
                fields.iter_mut().for_each(|(_, column)| column.push_null());
                nulls.append_null();
            }
            Column::List { offsets, .. } | Column::Map { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
            }
        }
    }

    /// The column, leaving this empty.
    ///
    /// # Errors
    /// A mistake of ours.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Column::Bool(b) => Arc::new(b.finish()),
            Column::I32(b) => Arc::new(b.finish()),
            Column::I64(b) | Column::SpanMicros(b) => Arc::new(b.finish()),
            Column::U32(b) => Arc::new(b.finish()),
            Column::U64(b) => Arc::new(b.finish()),
            Column::F32(b) => Arc::new(b.finish()),
            Column::F64(b) => Arc::new(b.finish()),
            Column::Text(b) | Column::Enum(_, b) => Arc::new(b.finish()),
            Column::Bytes(b) => Arc::new(b.finish()),
            Column::Instant(b) => Arc::new(b.finish()),
            Column::Span(b) => Arc::new(b.finish()),
            Column::Wrapped(_, of) => of.finish()?,
            Column::Struct { fields, nulls } => {
                let mut columns = Vec::with_capacity(fields.len());
                let mut arrow: Vec<FieldRef> = Vec::with_capacity(fields.len());
                for (field, column) in fields {
                    let column = column.finish()?;
                    arrow.push(Arc::new(Field::new(field.name(), column.data_type().clone(), true)));
                    columns.push(column);
                }
                let len = nulls.len();
                Arc::new(StructArray::try_new_with_length(Fields::from(arrow), columns, nulls.finish(), len)?)
            }
            Column::List { items, offsets } => {
                let items = items.finish()?;
                let field = Arc::new(Field::new("item", items.data_type().clone(), true));
                Arc::new(ListArray::try_new(field, taken(offsets), items, None)?)
            }
            Column::Map { keys, values, offsets } => {
                let (keys, values) = (keys.finish()?, values.finish()?);
                let pair = Fields::from(vec![
                    Field::new("key", keys.data_type().clone(), false),
                    Field::new("value", values.data_type().clone(), true),
                ]);
                let field = Arc::new(Field::new("entries", DataType::Struct(pair.clone()), false));
                let entries = StructArray::try_new(pair, vec![keys, values], None)?;
                Arc::new(MapArray::try_new(field, taken(offsets), entries, None, false)?)
            }
        })
    }
}

/// The type that a column has when nobody declares one. What Postgres has no unsigned numbers for is the
/// next signed one that holds it.
#[must_use]
pub fn engine_type(data_type: &DataType) -> DataType {
    let of = |field: &FieldRef| Arc::new(Field::new(field.name(), engine_type(field.data_type()), field.is_nullable()));
    match data_type {
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(of).collect()),
        DataType::List(item) => DataType::List(of(item)),
        DataType::Map(pair, is_sorted) => DataType::Map(of(pair), *is_sorted),
        other => other.clone(),
    }
}

fn taken(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into())
}

fn push_len(offsets: &mut Vec<i32>, len: usize, fault: &mut Option<String>) {
    let last = offsets.last().copied().unwrap_or(0);
    offsets.push(i32::try_from(len).ok().and_then(|len| last.checked_add(len)).unwrap_or_else(|| {
        *fault = Some(format!("a list of {len} values is more than a batch holds"));
        last
    }));
}

/// Seconds and nanoseconds of a `Timestamp` or a `Duration`.
fn parts(message: &DynamicMessage) -> (i64, i64) {
    let part = |number| message.get_field_by_number(number);
    let seconds = part(1).and_then(|value| value.as_i64()).unwrap_or(0);
    (seconds, part(2).and_then(|value| value.as_i32()).map_or(0, i64::from))
}

fn micros(message: &DynamicMessage) -> Result<i64, String> {
    let (seconds, nanos) = parts(message);
    let micros = seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(rounded_micros(nanos)));
    micros.ok_or_else(|| format!("{seconds} seconds are more than fit in microseconds"))
}

const NANOS: i64 = 1_000_000_000;

const WRAPPERS: [&str; 9] = [
    "google.protobuf.DoubleValue",
    "google.protobuf.FloatValue",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Int32Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.BoolValue",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
];
