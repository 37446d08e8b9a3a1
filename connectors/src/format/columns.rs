//! Columns that grow by a value at a time, and give back what a bad message has put in.
//!
//! Arrow's builders can't take a value back, and a message may turn out bad at its last byte. These are vectors that
//! Arrow takes over as they are, and [`Column::truncate`] makes them what they were, at any depth.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Decimal128Array, Decimal256Array, ListArray,
    NullBufferBuilder, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Field, Fields, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::postgres::text;

/// A column of a type that no message can be read into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("messages can't be read into the column `{column}`: it is {}", name_of(.data_type))]
pub struct Unreadable {
    /// The column; a part of one is `column.part`.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is none of the column's type.
    NoValue,
    /// The column has as many bytes as Arrow counts (2 GiB).
    Full,
}

/// What numbers and texts mean that stand for a value of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// What numbers count that are a point in time, or a time of day.
    pub unit: TimeUnit,
    /// Whether a number may be a date (days since 1970-01-01) or an interval (in `unit`).
    pub counts_days: bool,
    /// What a text in a column of decimals is.
    pub decimals: Decimals,
}

/// What a text is that stands for a decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decimals {
    /// The digits themselves.
    Digits,
    /// Base64 of the unscaled number, big-endian in two's complement, in columns of decimals; of the column's scale.
    Bytes,
    /// The same of this scale, whatever the column's type.
    Scaled(i16),
}

impl Encoding {
    /// Of JSON as people write it: epochs are milliseconds.
    pub const JSON: Encoding = Encoding { unit: TimeUnit::Millisecond, counts_days: false, decimals: Decimals::Digits };
}

/// A column that grows.
pub struct Column {
    data_type: DataType,
    /// What numbers in it mean.
    pub encoding: Encoding,
    nulls: NullBufferBuilder,
    values: Values,
}

/// Texts or bytes, one after the other.
struct Bytes {
    /// Where each ends, after a first zero.
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

enum Values {
    Boolean(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal128(Vec<i128>, u8, i8),
    Decimal256(Vec<i256>, u8, i8),
    Text(Bytes),
    Binary(Bytes),
    Date(Vec<i32>),
    /// The number is how many of the column's units are a microsecond: 1 or 1,000. So below.
    Time(Vec<i64>, i64),
    Timestamp(Vec<i64>, i64),
    Interval(Vec<IntervalMonthDayNano>),
    List {
        ends: Vec<i32>,
        items: Box<Column>,
    },
    Struct(Box<Columns>),
}

/// Does the same with the vector of whichever primitive type, and something else with the others.
macro_rules! on_vec {
    ($values:expr, $vec:ident => $same:expr, $($others:tt)*) => {
        match $values {
            Values::Int8($vec) => $same,
            Values::Int16($vec) => $same,
            Values::Int32($vec) => $same,
            Values::Int64($vec) => $same,
            Values::UInt8($vec) => $same,
            Values::UInt16($vec) => $same,
            Values::UInt32($vec) => $same,
            Values::UInt64($vec) => $same,
            Values::Float32($vec) => $same,
            Values::Float64($vec) => $same,
            Values::Decimal128($vec, ..) => $same,
            Values::Decimal256($vec, ..) => $same,
            Values::Date($vec) => $same,
            Values::Time($vec, _) => $same,
            Values::Timestamp($vec, _) => $same,
            Values::Interval($vec) => $same,
            $($others)*
        }
    };
}

impl Column {
    /// An empty column for this field; its name is for the error.
    ///
    /// # Errors
    /// When there is no way from a message to a value of its type.
    pub fn new(field: &Field) -> Result<Column, Unreadable> {
        let unreadable = || Unreadable { column: field.name().clone(), data_type: field.data_type().clone() };
        let within = |part: Unreadable| Unreadable { column: format!("{}.{}", field.name(), part.column), ..part };
        let values = match field.data_type() {
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::UInt8 => Values::UInt8(Vec::new()),
            DataType::UInt16 => Values::UInt16(Vec::new()),
            DataType::UInt32 => Values::UInt32(Vec::new()),
            DataType::UInt64 => Values::UInt64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) if *scale >= 0 => Values::Decimal128(Vec::new(), *precision, *scale),
            DataType::Decimal256(precision, scale) if *scale >= 0 => Values::Decimal256(Vec::new(), *precision, *scale),
            DataType::Utf8 => Values::Text(Bytes::new()),
            DataType::Binary => Values::Binary(Bytes::new()),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time64(unit) => Values::Time(Vec::new(), per_micro(*unit).ok_or_else(unreadable)?),
            DataType::Timestamp(unit, _) => Values::Timestamp(Vec::new(), per_micro(*unit).ok_or_else(unreadable)?),
            DataType::Interval(IntervalUnit::MonthDayNano) => Values::Interval(Vec::new()),
            DataType::List(items) => {
                Values::List { ends: vec![0], items: Box::new(Column::new(items).map_err(within)?) }
            }
            // Without a part there would be nothing to tell its length.
            DataType::Struct(parts) if !parts.is_empty() => {
                Values::Struct(Box::new(Columns::new(parts).map_err(within)?))
            }
            _ => return Err(unreadable()),
        };
        let data_type = field.data_type().clone();
        Ok(Column { data_type, encoding: Encoding::JSON, nulls: NullBufferBuilder::new(0), values })
    }

    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its type, for people, as SQL says it.
    #[must_use]
    pub fn type_name(&self) -> String {
        name_of(&self.data_type)
    }

    /// Makes numbers mean this from now on, also those in its items and parts.
    pub fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
        match &mut self.values {
            Values::List { items, .. } => items.set_encoding(encoding),
            Values::Struct(parts) => parts.columns.iter_mut().for_each(|part| part.set_encoding(encoding)),
            _ => {}
        }
    }

    /// Makes room for so many values more.
    pub fn reserve(&mut self, rows: usize) {
        on_vec!(&mut self.values, vec => vec.reserve(rows),
            Values::Text(bytes) | Values::Binary(bytes) => bytes.ends.reserve(rows),
            Values::List { ends, .. } => ends.reserve(rows),
            Values::Boolean(_) | Values::Struct(_) => {}
        );
    }

    /// Adds NULL.
    pub fn push_null(&mut self) {
        on_vec!(&mut self.values, vec => vec.push(Default::default()),
            Values::Boolean(bits) => bits.append(false),
            Values::Text(bytes) | Values::Binary(bytes) => bytes.ends.push(bytes.end()),
            Values::List { ends, .. } => ends.push(ends.last().copied().unwrap_or(0)),
            Values::Struct(parts) => parts.columns.iter_mut().for_each(Column::push_null),
        );
        self.nulls.append_null();
    }

    /// Takes back all values but the first `len`, and what there may be of one that was not finished.
    pub fn truncate(&mut self, len: usize) {
        on_vec!(&mut self.values, vec => vec.truncate(len),
            Values::Boolean(bits) => bits.truncate(len),
            Values::Text(bytes) | Values::Binary(bytes) => bytes.truncate(len),
            Values::List { ends, items } => {
                ends.truncate(len + 1);
                items.truncate(ends.last().map_or(0, |end| as_len(*end)));
            }
            Values::Struct(parts) => parts.truncate(len),
        );
        self.nulls.truncate(len);
    }

    /// Adds true or false; text columns take the word.
    ///
    /// # Errors
    /// As all that follow: when the column can't have it; then [`Column::truncate`] to where it was.
    pub fn push_bool(&mut self, value: bool) -> Result<(), Refused> {
        match &mut self.values {
            Values::Boolean(bits) => bits.append(value),
            Values::Text(bytes) => bytes.push(if value { b"true" } else { b"false" })?,
            _ => return Err(Refused::NoValue),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Adds a number by its text, which text columns keep as it is. It is taken where it is exactly a value of the
    /// column: `1.0` and `1e2` are integers, and decimals never pass through a float. What it means in a column of
    /// times says [`Column::encoding`].
    ///
    /// # Errors
    /// When it is none of the column's values.
    pub fn push_number(&mut self, number: &str) -> Result<(), Refused> {
        let Encoding { unit, counts_days, .. } = self.encoding;
        match &mut self.values {
            Values::Int8(vec) => vec.push(integer(number)?),
            Values::Int16(vec) => vec.push(integer(number)?),
            Values::Int32(vec) => vec.push(integer(number)?),
            Values::Int64(vec) => vec.push(integer(number)?),
            Values::UInt8(vec) => vec.push(integer(number)?),
            Values::UInt16(vec) => vec.push(integer(number)?),
            Values::UInt32(vec) => vec.push(integer(number)?),
            Values::UInt64(vec) => vec.push(integer(number)?),
            Values::Float32(vec) => vec.push(float(number, |value: &f32| value.is_infinite())?),
            Values::Float64(vec) => vec.push(float(number, |value: &f64| value.is_infinite())?),
            Values::Decimal128(vec, precision, scale) => {
                let value = decimal(number, *scale)?.to_i128().ok_or(Refused::NoValue)?;
                Decimal128Type::validate_decimal_precision(value, *precision, *scale).map_err(|_| Refused::NoValue)?;
                vec.push(value);
            }
            Values::Decimal256(vec, precision, scale) => {
                let value = decimal(number, *scale)?;
                Decimal256Type::validate_decimal_precision(value, *precision, *scale).map_err(|_| Refused::NoValue)?;
                vec.push(value);
            }
            Values::Text(bytes) => bytes.push(number.as_bytes())?,
            Values::Date(vec) if counts_days => vec.push(integer(number)?),
            Values::Time(vec, per_micro) => {
                let micros = micros(number, unit)?;
                if !(0..=DAY_MICROS).contains(&micros) {
                    return Err(Refused::NoValue);
                }
                vec.push(micros * *per_micro);
            }
            Values::Timestamp(vec, per_micro) => {
                vec.push(micros(number, unit)?.checked_mul(*per_micro).ok_or(Refused::NoValue)?);
            }
            Values::Interval(vec) if counts_days => {
                let nanos = micros(number, unit)?.checked_mul(1_000).ok_or(Refused::NoValue)?;
                vec.push(IntervalMonthDayNano::new(0, 0, nanos));
            }
            _ => return Err(Refused::NoValue),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Adds a value by its text: as Postgres writes it, or as RFC 3339 does; numbers as in
    /// [`Column::push_number`]; bytes in base64, or in hexadecimal after `\x`.
    ///
    /// # Errors
    /// When it is none of the column's values.
    pub fn push_text(&mut self, value: &str) -> Result<(), Refused> {
        match &mut self.values {
            Values::Text(bytes) => bytes.push(value.as_bytes())?,
            Values::Boolean(bits) => bits.append(match value {
                "t" | "true" => true,
                "f" | "false" => false,
                _ => return Err(Refused::NoValue),
            }),
            Values::Binary(bytes) if value.starts_with("\\x") => bytes.push(&text::hex(value)?)?,
            Values::Binary(bytes) => bytes.push(&from_base64(value)?)?,
            Values::Date(vec) => vec.push(date(value)?),
            Values::Time(vec, per_micro) => {
                vec.push(text::time(value.strip_suffix(['Z', 'z']).unwrap_or(value))? * *per_micro);
            }
            Values::Timestamp(vec, per_micro) => {
                let has_zone = matches!(self.data_type, DataType::Timestamp(_, Some(_)));
                vec.push(timestamp(value, has_zone, *per_micro)?);
            }
            Values::Interval(vec) => vec.push(text::interval(value)?),
            Values::List { ends, items } => {
                for item in text::elements(value)? {
                    match item {
                        Some(item) => items.push_text(&item)?,
                        None => items.push_null(),
                    }
                }
                ends.push(i32::try_from(items.len()).map_err(|_| Refused::Full)?);
            }
            Values::Struct(_) => return Err(Refused::NoValue),
            _ => return self.push_number(value),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Adds bytes as they are.
    ///
    /// # Errors
    /// When it is no column of bytes, or has no room.
    pub fn push_bytes(&mut self, value: &[u8]) -> Result<(), Refused> {
        let Values::Binary(bytes) = &mut self.values else { return Err(Refused::NoValue) };
        bytes.push(value)?;
        self.nulls.append_non_null();
        Ok(())
    }

    /// Where to put the items of a list, before [`Column::end_list`]; `None` if it is no column of lists.
    pub fn items(&mut self) -> Option<&mut Column> {
        if let Values::List { items, .. } = &mut self.values { Some(items) } else { None }
    }

    /// Adds a list of the items that were put in since the last.
    ///
    /// # Errors
    /// When there is no room, or it is no column of lists.
    pub fn end_list(&mut self) -> Result<(), Refused> {
        let Values::List { ends, items } = &mut self.values else { return Err(Refused::NoValue) };
        ends.push(i32::try_from(items.len()).map_err(|_| Refused::Full)?);
        self.nulls.append_non_null();
        Ok(())
    }

    /// Where to put the parts of a struct, one value each, before [`Column::end_struct`]; `None` if it is no column
    /// of structs.
    pub fn parts(&mut self) -> Option<&mut Columns> {
        if let Values::Struct(parts) = &mut self.values { Some(parts) } else { None }
    }

    /// Adds a struct of the parts that were put in.
    pub fn end_struct(&mut self) {
        self.nulls.append_non_null();
    }

    /// Whether NULL may stand among the items of its lists.
    #[must_use]
    pub fn takes_null_items(&self) -> bool {
        !matches!(&self.data_type, DataType::List(item) if !item.is_nullable())
    }

    /// Its scale, if it holds decimals.
    #[must_use]
    pub fn scale(&self) -> Option<i8> {
        match self.values {
            Values::Decimal128(_, _, scale) | Values::Decimal256(_, _, scale) => Some(scale),
            _ => None,
        }
    }

    /// Whether texts are kept as they are.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self.values, Values::Text(_))
    }

    /// Whether a value is NULL.
    #[must_use]
    pub fn is_null(&self, row: usize) -> bool {
        !self.nulls.is_valid(row)
    }

    /// Whether the value of a row is that of a row of another column of this type. Lists and structs are never.
    #[must_use]
    pub fn is_same(&self, row: usize, other: &Column, other_row: usize) -> bool {
        if self.is_null(row) || other.is_null(other_row) {
            return self.is_null(row) && other.is_null(other_row);
        }
        macro_rules! same {
            ($($kind:ident),*) => {
                match (&self.values, &other.values) {
                    $((Values::$kind(one, ..), Values::$kind(two, ..)) => one[row] == two[other_row],)*
                    (Values::Boolean(one), Values::Boolean(two)) => one.get_bit(row) == two.get_bit(other_row),
                    (Values::Text(one), Values::Text(two)) | (Values::Binary(one), Values::Binary(two)) => {
                        one.get(row) == two.get(other_row)
                    }
                    _ => false,
                }
            };
        }
        same!(
            Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float32, Float64, Decimal128, Decimal256, Date,
            Time, Timestamp, Interval
        )
    }

    /// The column as Arrow has it, without a copy of its values. It is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        let nulls = self.nulls.finish();
        match &mut self.values {
            Values::Boolean(bits) => Arc::new(BooleanArray::new(bits.finish(), nulls)),
            Values::Int8(vec) => primitive::<Int8Type>(vec, nulls),
            Values::Int16(vec) => primitive::<Int16Type>(vec, nulls),
            Values::Int32(vec) => primitive::<Int32Type>(vec, nulls),
            Values::Int64(vec) => primitive::<Int64Type>(vec, nulls),
            Values::UInt8(vec) => primitive::<UInt8Type>(vec, nulls),
            Values::UInt16(vec) => primitive::<UInt16Type>(vec, nulls),
            Values::UInt32(vec) => primitive::<UInt32Type>(vec, nulls),
            Values::UInt64(vec) => primitive::<UInt64Type>(vec, nulls),
            Values::Float32(vec) => primitive::<Float32Type>(vec, nulls),
            Values::Float64(vec) => primitive::<Float64Type>(vec, nulls),
            Values::Decimal128(vec, ..) => {
                Arc::new(Decimal128Array::new(std::mem::take(vec).into(), nulls).with_data_type(self.data_type.clone()))
            }
            Values::Decimal256(vec, ..) => {
                Arc::new(Decimal256Array::new(std::mem::take(vec).into(), nulls).with_data_type(self.data_type.clone()))
            }
            Values::Text(bytes) => {
                let (ends, bytes) = bytes.take();
                Arc::new(StringArray::new(ends, bytes.into(), nulls))
            }
            Values::Binary(bytes) => {
                let (ends, bytes) = bytes.take();
                Arc::new(BinaryArray::new(ends, bytes.into(), nulls))
            }
            Values::Date(vec) => primitive::<Date32Type>(vec, nulls),
            Values::Time(vec, 1) => primitive::<Time64MicrosecondType>(vec, nulls),
            Values::Time(vec, _) => primitive::<Time64NanosecondType>(vec, nulls),
            Values::Timestamp(vec, per_micro) => {
                let zone = if let DataType::Timestamp(_, zone) = &self.data_type { zone.clone() } else { None };
                let vec = std::mem::take(vec).into();
                if *per_micro == 1 {
                    Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(vec, nulls).with_timezone_opt(zone))
                } else {
                    Arc::new(PrimitiveArray::<TimestampNanosecondType>::new(vec, nulls).with_timezone_opt(zone))
                }
            }
            Values::Interval(vec) => primitive::<IntervalMonthDayNanoType>(vec, nulls),
            Values::List { ends, items } => {
                let DataType::List(field) = &self.data_type else { unreachable!("lists are of a list's type") };
                let ends = OffsetBuffer::new(std::mem::replace(ends, vec![0]).into());
                Arc::new(ListArray::new(Arc::clone(field), ends, items.finish(), nulls))
            }
            Values::Struct(parts) => Arc::new(StructArray::new(parts.fields.clone(), parts.finish(), nulls)),
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(vec: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(std::mem::take(vec).into(), nulls))
}

impl Bytes {
    fn new() -> Bytes {
        Bytes { ends: vec![0], bytes: Vec::new() }
    }

    fn end(&self) -> i32 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn get(&self, row: usize) -> &[u8] {
        &self.bytes[as_len(self.ends[row])..as_len(self.ends[row + 1])]
    }

    fn push(&mut self, value: &[u8]) -> Result<(), Refused> {
        let end = i32::try_from(self.bytes.len() + value.len()).map_err(|_| Refused::Full)?;
        self.bytes.extend_from_slice(value);
        self.ends.push(end);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len + 1);
        self.bytes.truncate(as_len(self.end()));
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Vec<u8>) {
        (OffsetBuffer::new(std::mem::replace(&mut self.ends, vec![0]).into()), std::mem::take(&mut self.bytes))
    }
}

/// Columns with names: those of a table, or the parts of a struct.
pub struct Columns {
    fields: Fields,
    columns: Vec<Column>,
    places: HashMap<String, usize>,
}

impl Columns {
    /// Empty columns for these fields.
    ///
    /// # Errors
    /// When there is no way from a message to a value of one's type.
    pub fn new(fields: &Fields) -> Result<Columns, Unreadable> {
        Ok(Columns {
            fields: fields.clone(),
            columns: fields.iter().map(|field| Column::new(field)).collect::<Result<_, _>>()?,
            places: fields.iter().enumerate().map(|(place, field)| (field.name().clone(), place)).collect(),
        })
    }

    /// The column of this name. Messages of a topic mostly have their fields in the same order, so `likely` is
    /// looked at first.
    #[inline]
    #[must_use]
    pub fn find(&self, name: &str, likely: usize) -> Option<usize> {
        match self.fields.get(likely) {
            Some(field) if field.name() == name => Some(likely),
            _ => self.places.get(name).copied(),
        }
    }

    /// A column by its place.
    #[inline]
    pub fn column(&mut self, place: usize) -> &mut Column {
        &mut self.columns[place]
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Makes room for so many rows more.
    pub fn reserve(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
    }

    /// Gives NULL to each column that has no value in this row, the last one.
    pub fn fill(&mut self, row: usize) {
        self.columns.iter_mut().filter(|column| column.len() == row).for_each(Column::push_null);
    }

    /// Takes back all rows but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(len));
    }

    /// The columns as Arrow has them. They are empty afterwards.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

impl From<text::BadText> for Refused {
    fn from(_: text::BadText) -> Refused {
        Refused::NoValue
    }
}

/// A type, for people, as SQL says it.
#[must_use]
pub fn name_of(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INTEGER UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            return format!("DECIMAL({precision}, {scale})");
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT",
        DataType::Binary | DataType::FixedSizeBinary(_) => "BYTEA",
        DataType::Date32 => "DATE",
        DataType::Time32(TimeUnit::Second) => "TIME(0)",
        DataType::Time32(_) => "TIME(3)",
        DataType::Time64(_) => "TIME",
        DataType::Timestamp(TimeUnit::Second, None) => "TIMESTAMP(0)",
        DataType::Timestamp(TimeUnit::Millisecond, None) => "TIMESTAMP(3)",
        DataType::Timestamp(TimeUnit::Second, Some(_)) => "TIMESTAMPTZ(0)",
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => "TIMESTAMPTZ(3)",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ",
        DataType::Interval(_) => "INTERVAL",
        // What schemas of a registry have besides.
        DataType::Null => "always NULL",
        DataType::Dictionary(..) => "an enum",
        DataType::Map(pair, _) => match pair.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                return format!("a map of {} to {}", name_of(pair[0].data_type()), name_of(pair[1].data_type()));
            }
            _ => "a map",
        },
        DataType::Union(branches, _) => {
            let names = branches.iter().map(|(_, branch)| name_of(branch.data_type()));
            return names.collect::<Vec<_>>().join(" or ");
        }
        DataType::List(item) => return format!("{}[]", name_of(item.data_type())),
        DataType::Struct(parts) => {
            let parts = parts.iter().map(|part| format!("{} {}", part.name(), name_of(part.data_type())));
            return format!("STRUCT({})", parts.collect::<Vec<_>>().join(", "));
        }
        other => return other.to_string(),
    };
    name.to_owned()
}

/// A length that was a length before it was an offset.
fn as_len(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

fn per_micro(unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Microsecond => Some(1),
        TimeUnit::Nanosecond => Some(1_000),
        TimeUnit::Second | TimeUnit::Millisecond => None,
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

/// The bytes of base64, with or without `=` at the end.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, Refused> {
    const INDIFFERENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    INDIFFERENT.decode(text).map_err(|_| Refused::NoValue)
}

#[inline]
fn integer<T: FromStr>(number: &str) -> Result<T, Refused> {
    number.parse().or_else(|_| plain(number).and_then(|plain| plain.parse().ok()).ok_or(Refused::NoValue))
}

/// The nearest float; one beyond the type's range is none, if it is not called infinite.
fn float<T: FromStr>(number: &str, is_infinite: impl Fn(&T) -> bool) -> Result<T, Refused> {
    let value = number.parse().map_err(|_| Refused::NoValue)?;
    let is_beyond = is_infinite(&value) && number.bytes().any(|byte| byte.is_ascii_digit());
    if is_beyond { Err(Refused::NoValue) } else { Ok(value) }
}

/// The unscaled value.
fn decimal(number: &str, scale: i8) -> Result<i256, Refused> {
    if number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-')) {
        return Ok(text::decimal(number, scale)?);
    }
    Ok(text::decimal(&plain(number).ok_or(Refused::NoValue)?, scale)?)
}

/// Microseconds of a number of such units; parts of a microsecond are cut off from nanoseconds alone.
fn micros(number: &str, unit: TimeUnit) -> Result<i64, Refused> {
    let scale = match unit {
        TimeUnit::Second => 6,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 0,
        TimeUnit::Nanosecond => return Ok(integer::<i64>(number)?.div_euclid(1_000)),
    };
    let micros = match number.parse::<i64>() {
        Ok(count) => count.checked_mul(10_i64.pow(scale)),
        Err(_) => decimal(number, i8::try_from(scale).map_err(|_| Refused::NoValue)?)?
            .to_i128()
            .and_then(|micros| i64::try_from(micros).ok()),
    };
    micros.ok_or(Refused::NoValue)
}

/// A number without an exponent and without zeros that say nothing; `None` if it is no number, or has more digits
/// than any exact type.
fn plain(number: &str) -> Option<String> {
    let (sign, unsigned) = match number.as_bytes().first()? {
        b'-' => ("-", &number[1..]),
        b'+' => ("", &number[1..]),
        _ => ("", number),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    let point = exponent
        .checked_add(i64::try_from(whole.len()).ok()?)?
        .checked_sub(i64::try_from(digits.len() - significant.len()).ok()?)?;
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    if significant.len() > DIGITS_MAX || point.unsigned_abs() > DIGITS_MAX as u64 {
        return None;
    }
    let zeros = |count: usize| "0".repeat(count);
    Some(match usize::try_from(point) {
        Err(_) | Ok(0) => format!("{sign}0.{}{significant}", zeros(usize::try_from(-point).ok()?)),
        Ok(point) if point >= significant.len() => {
            format!("{sign}{significant}{}", zeros(point - significant.len()))
        }
        Ok(point) => format!("{sign}{}.{}", &significant[..point], &significant[point..]),
    })
}

/// More than any exact type has.
const DIGITS_MAX: usize = 160;

/// A decimal's text from its unscaled bytes, big-endian in two's complement; as Java writes a `BigDecimal`.
pub(crate) fn decimal_text(bytes: &[u8], scale: i16) -> Result<String, Refused> {
    let first = *bytes.first().ok_or(Refused::NoValue)?;
    let mut wide = [if first >= 0x80 { 0xff } else { 0 }; 32];
    let start = wide.len().checked_sub(bytes.len()).ok_or(Refused::NoValue)?;
    wide[start..].copy_from_slice(bytes);
    let unscaled = i256::from_be_bytes(wide).to_string();
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled.as_str()), |digits| ("-", digits));
    let Ok(scale) = usize::try_from(scale) else {
        return Ok(format!("{sign}{digits}{}", "0".repeat(scale.unsigned_abs().into())));
    };
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    Ok(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// Days since 1970-01-01 of a date as ISO 8601 or Postgres write it: they differ beyond four digits of the year.
fn date(value: &str) -> Result<i32, Refused> {
    let is_signed = value.as_bytes().get(1).is_some_and(u8::is_ascii_digit) && value.starts_with(['+', '-']);
    if is_signed {
        return i32::try_from(iso_days(value)?).map_err(|_| Refused::NoValue);
    }
    Ok(text::date(value)?)
}

/// Days since 1970-01-01 of `2024-02-29`, `+012345-01-01` or `-004712-01-01`; 1 BC is the year 0. Source: ISO 8601,
/// expanded years; here any four to seven digits will do, with or without a sign.
fn iso_days(value: &str) -> Result<i64, Refused> {
    let unsigned = value.strip_prefix(['+', '-']).unwrap_or(value);
    let number = |text: &str, digits: RangeInclusive<usize>| -> Result<i64, Refused> {
        let is_number = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse().map_err(|_| Refused::NoValue) } else { Err(Refused::NoValue) }
    };
    let mut parts = unsigned.splitn(3, '-');
    let mut next = |digits| number(parts.next().unwrap_or_default(), digits);
    let (year, month, day) = (next(4..=7)?, next(2..=2)?, next(2..=2)?);
    Ok(text::days_from_civil(if value.starts_with('-') { -year } else { year }, month, day)?)
}

/// A moment in the column's units, as RFC 3339 or Postgres write it. A column without a zone takes no offset but
/// UTC's: which of the two clocks was meant could not be told.
fn timestamp(value: &str, has_zone: bool, per_micro: i64) -> Result<i64, Refused> {
    let end_of_date = value.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-'));
    let (date, clock) = value.split_at(end_of_date.unwrap_or(value.len()));
    let (micros, offset) = match clock.as_bytes().first() {
        Some(b'T' | b't') => rfc_3339(date, clock)?,
        Some(b' ') if value.ends_with(['Z', 'z']) => rfc_3339(date, clock)?,
        _ => {
            let clock = value.find(' ').map_or("", |at| &value[at..]);
            let offset = clock.find(['+', '-']).map_or("", |at| &clock[at + 1..]);
            let is_utc = offset.strip_suffix(" BC").unwrap_or(offset).bytes().all(|byte| matches!(byte, b'0' | b':'));
            (text::timestamp(value)?, i64::from(!is_utc))
        }
    };
    if offset != 0 && !has_zone {
        return Err(Refused::NoValue);
    }
    // Postgres's infinities are the ends of the type, whatever its unit.
    if micros == i64::MAX || micros == i64::MIN {
        return Ok(micros);
    }
    micros.checked_mul(per_micro).ok_or(Refused::NoValue)
}

/// Microseconds since 1970, and the minutes from UTC, of `2024-02-29` and `T13:14:15.678+05:30`, `…Z`, or without an
/// offset, which is UTC. Further digits of the second are rounded, half to even. Source: RFC 3339, section 5.6.
fn rfc_3339(date: &str, clock: &str) -> Result<(i64, i64), Refused> {
    let bytes = clock.as_bytes();
    let digits = |from: usize, to: usize| -> Result<i64, Refused> {
        bytes.get(from..to).ok_or(Refused::NoValue)?.iter().try_fold(0, |number, digit| {
            if digit.is_ascii_digit() { Ok(number * 10 + i64::from(digit - b'0')) } else { Err(Refused::NoValue) }
        })
    };
    let is_at = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    if !(is_at(3, b':') && is_at(6, b':')) {
        return Err(Refused::NoValue);
    }
    let days = iso_days(date)?;
    let (hours, minutes, seconds) = (digits(1, 3)?, digits(4, 6)?, digits(7, 9)?);
    if hours > 24 || minutes > 59 || seconds > 60 || (hours == 24 && (minutes, seconds) != (0, 0)) {
        return Err(Refused::NoValue);
    }
    let mut at = 9;
    let mut micros = 0;
    if is_at(at, b'.') {
        let count = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (kept, further) = bytes[at + 1..at + 1 + count].split_at(count.min(6));
        if count == 0 {
            return Err(Refused::NoValue);
        }
        for place in 0..6 {
            micros = micros * 10 + i64::from(kept.get(place).map_or(0, |digit| digit - b'0'));
        }
        let is_half = further.first() == Some(&b'5') && further[1..].iter().all(|digit| *digit == b'0');
        let is_up = if is_half { micros % 2 == 1 } else { further.first().is_some_and(|digit| *digit >= b'5') };
        micros += i64::from(is_up);
        at += 1 + count;
    }
    let offset = match bytes.get(at) {
        None => 0,
        Some(b'Z' | b'z') if bytes.len() == at + 1 => 0,
        Some(sign @ (b'+' | b'-')) if bytes.len() == at + 6 && is_at(at + 3, b':') => {
            let (hours, minutes) = (digits(at + 1, at + 3)?, digits(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return Err(Refused::NoValue);
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        Some(_) => return Err(Refused::NoValue),
    };
    let seconds = ((days * 24 + hours) * 60 + minutes - offset) * 60 + seconds;
    // The first second of the type begins before it, and its ends are Postgres's infinities.
    let micros = i64::try_from(i128::from(seconds) * 1_000_000 + i128::from(micros)).ok();
    let micros = micros.filter(|micros| !matches!(*micros, i64::MIN | i64::MAX));
    Ok((micros.ok_or(Refused::NoValue)?, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::util::display::array_value_to_string;
    use proptest::prelude::*;

    /// What a column makes of texts (or numbers), `!` for what it refuses.
    fn check(data_type: DataType, encoding: Encoding, values: &[&str], is_number: bool, expected: &[&str]) {
        let mut column = Column::new(&Field::new("c", data_type, true)).expect("a column");
        column.set_encoding(encoding);
        let mut refused = Vec::new();
        for value in values {
            let len = column.len();
            let pushed = if is_number { column.push_number(value) } else { column.push_text(value) };
            refused.push(pushed.is_err());
            if pushed.is_err() {
                column.truncate(len);
                column.push_null();
            }
        }
        let array = column.finish();
        array.to_data().validate_full().expect("a valid array");
        let shown: Vec<String> = (0..values.len())
            .map(|row| if refused[row] { "!".to_owned() } else { array_value_to_string(&array, row).expect("shown") })
            .collect();
        assert_eq!(shown, expected, "{values:?}");
    }

    #[test]
    fn integers_are_what_is_exactly_one() {
        let values =
            ["7", "-0", "1.0", "1e2", "12.50e1", "0.5", "127", "128", "-128", "1e-1", "10e-1", "", "1.2.3", "x"];
        let expected = ["7", "0", "1", "100", "125", "!", "127", "!", "-128", "!", "1", "!", "!", "!"];
        check(DataType::Int8, Encoding::JSON, &values, true, &expected);
        let values =
            ["9007199254740993.0", "9223372036854775807", "9223372036854775808", "-1", "1e400", "1e99999999999"];
        let expected = ["9007199254740993", "9223372036854775807", "!", "-1", "!", "!"];
        check(DataType::Int64, Encoding::JSON, &values, true, &expected);
        check(DataType::UInt64, Encoding::JSON, &["18446744073709551615", "-1"], true, &["18446744073709551615", "!"]);
    }

    #[test]
    fn decimals_are_exact() {
        let values = ["0.1", "12.345", "12.340", "-1e1", "1e-3", "123456.78", "99999999", "1.é", "NaN", "1e9999999"];
        let expected = ["0.10", "!", "12.34", "-10.00", "!", "123456.78", "!", "!", "!", "!"];
        check(DataType::Decimal128(8, 2), Encoding::JSON, &values, true, &expected);
        let wide = format!("1{}.25", "0".repeat(60));
        check(DataType::Decimal256(76, 2), Encoding::JSON, &[&wide], false, &[&wide]);
    }

    #[test]
    fn floats_have_ends() {
        let values = ["1.5", "1e400", "NaN", "-Infinity", "1e-400", "x"];
        check(DataType::Float64, Encoding::JSON, &values, false, &["1.5", "!", "NaN", "-inf", "0.0", "!"]);
        check(DataType::Float32, Encoding::JSON, &["1e39"], false, &["!"]);
    }

    #[test]
    fn moments_are_rfc_3339_or_postgres_s_or_epochs() {
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let plain = DataType::Timestamp(TimeUnit::Microsecond, None);
        let values = [
            "2024-02-29T13:14:15.6789+05:30",
            "2024-02-29 13:14:15.678+05:30",
            "2024-02-29 13:14:15Z",
            "2024-02-29t13:14:15",
            "2024-02-29T13:14:15.1234565Z",
            "2024-02-29T13:14:15.1234575Z",
            "2024-02-29T24:00:00Z",
            "2023-02-29T13:14:15Z",
            "2024-02-29T13:14:15.Z",
            "2024-02-29T13:14:15+5",
            "2024-02-29T13:14",
            "2024-02-29",
            "soon",
            "12345-01-01T00:00:00Z",
            "+012345-01-01T00:00:00.5Z",
            "-004712-01-01T00:00:00",
            "+12345-01-01 00:00:00Z",
            "-0001-13-01T00:00:00Z",
            "+123-01-01T00:00:00Z",
            "+9999999-01-01T00:00:00Z",
            "2024-2-29T00:00:00Z",
        ];
        let expected = [
            "2024-02-29T07:44:15.678900Z",
            "2024-02-29T07:44:15.678Z",
            "2024-02-29T13:14:15Z",
            "2024-02-29T13:14:15Z",
            "2024-02-29T13:14:15.123456Z",
            "2024-02-29T13:14:15.123458Z",
            "2024-03-01T00:00:00Z",
            "!",
            "!",
            "!",
            "!",
            "!",
            "!",
            "+12345-01-01T00:00:00Z",
            "+12345-01-01T00:00:00.500Z",
            "-4712-01-01T00:00:00Z",
            "+12345-01-01T00:00:00Z",
            "!",
            "!",
            "!",
            "!",
        ];
        check(zoned.clone(), Encoding::JSON, &values, false, &expected);
        // Without a zone an offset can't be told from a mistake.
        let values =
            ["2024-02-29T13:14:15+05:30", "2024-02-29 13:14:15-01", "2024-02-29T13:14:15Z", "2024-02-29 13:14:15+00"];
        check(plain.clone(), Encoding::JSON, &values, false, &["!", "!", "2024-02-29T13:14:15", "2024-02-29T13:14:15"]);
        let expected = ["2026-11-21T15:04:44.438", "1969-12-31T23:59:59.999", "1970-01-01T00:00:00.000500", "!", "!"];
        check(plain, Encoding::JSON, &["1795273484438", "-1", "0.5", "0.0005", "9e18"], true, &expected);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        check(
            nanos,
            Encoding::JSON,
            &["2024-02-29T13:14:15.5", "2400-01-01 00:00:00"],
            false,
            &["2024-02-29T13:14:15.500", "!"],
        );
    }

    #[test]
    fn days_and_times_of_day() {
        check(DataType::Date32, Encoding::JSON, &["2024-02-29", "2024-02-30", "1"], false, &["2024-02-29", "!", "!"]);
        check(DataType::Date32, Encoding::JSON, &["1"], true, &["!"]);
        let values = ["+012345-01-01", "12345-01-01", "-4712-01-01", "4713-01-01 BC", "+1-01-01", "-0001-02-30", "+"];
        let expected = ["+12345-01-01", "+12345-01-01", "-4712-01-01", "-4712-01-01", "!", "!", "!"];
        check(DataType::Date32, Encoding::JSON, &values, false, &expected);
        let time = DataType::Time64(TimeUnit::Microsecond);
        check(
            time.clone(),
            Encoding::JSON,
            &["13:14:15.5", "13:14:15Z", "25:00:00"],
            false,
            &["13:14:15.500", "13:14:15", "!"],
        );
        check(time, Encoding::JSON, &["1500", "-1", "86400001"], true, &["00:00:01.500", "!", "!"]);
    }

    #[test]
    fn bytes_are_base64_or_hexadecimal() {
        check(
            DataType::Binary,
            Encoding::JSON,
            &["3q0=", "3q0", "\\xdead", "3q0*", "\\xd", ""],
            false,
            &["dead", "dead", "dead", "!", "!", ""],
        );
        check(
            DataType::new_list(DataType::Int32, true),
            Encoding::JSON,
            &["{1,NULL}", "{1,x}", "1"],
            false,
            &["[1, ]", "!", "!"],
        );
    }

    #[test]
    fn a_decimal_s_bytes_are_java_s() {
        assert_eq!(decimal_text(&[0x7d], 2), Ok("1.25".to_owned()));
        assert_eq!(decimal_text(&[0x04, 0xcb, 0x2f], 5), Ok("3.14159".to_owned()));
        assert_eq!(decimal_text(&[0xff], 2), Ok("-0.01".to_owned()));
        assert_eq!(decimal_text(&[0], 0), Ok("0".to_owned()));
        assert_eq!(decimal_text(&[5], -2), Ok("500".to_owned()));
        assert_eq!(decimal_text(&[], 0), Err(Refused::NoValue));
        assert_eq!(decimal_text(&[1; 33], 0), Err(Refused::NoValue));
    }

    #[test]
    fn what_can_t_be_built_is_named() {
        let part = Field::new("when", DataType::Time32(TimeUnit::Second), true);
        let field = Field::new("visit", DataType::new_list(DataType::Struct(vec![part].into()), true), true);
        let unreadable = Column::new(&field).err().expect("unreadable");
        assert_eq!(unreadable.column, "visit.item.when");
        assert_eq!(unreadable.data_type, DataType::Time32(TimeUnit::Second));
    }

    proptest! {
        /// Judged by `i128` arithmetic: a number is written with an exponent in some way, and read back.
        #[test]
        fn a_plain_number_is_the_same_number(mantissa: i64, point in 0_usize..20, zeros in 0_usize..5) {
            let digits = format!("{:0>20}", mantissa.unsigned_abs());
            let (whole, fraction) = digits.split_at(20 - point);
            let sign = if mantissa < 0 { "-" } else { "" };
            let written = format!("{sign}{whole}.{fraction}{}e{point}", "0".repeat(zeros));
            prop_assert_eq!(integer::<i64>(&written), Ok(mantissa), "{}", written);
        }
    }

    #[test]
    fn each_width_has_its_ends() {
        for (data_type, most, more) in [
            (DataType::Int16, "32767", "32768"),
            (DataType::UInt8, "255", "256"),
            (DataType::UInt16, "65535", "65536"),
            (DataType::UInt32, "4294967295", "4294967296"),
        ] {
            check(data_type, Encoding::JSON, &[most, more], true, &[most, "!"]);
        }
        check(DataType::Decimal128(4, 1), Encoding::JSON, &["+1.5", "-+1"], false, &["1.5", "!"]);
    }

    #[test]
    fn truth_is_what_postgres_or_json_writes() {
        let values = ["t", "true", "f", "false", "T", "1"];
        check(DataType::Boolean, Encoding::JSON, &values, false, &["true", "true", "false", "false", "!", "!"]);
    }

    #[test]
    fn spans_are_texts_or_counts_where_those_are_counted() {
        let interval = || DataType::Interval(IntervalUnit::MonthDayNano);
        check(
            interval(),
            Encoding::JSON,
            &["P1M2DT3S", "P1M2DT-3.500000S"],
            false,
            &["1 mons 2 days 3.000000000 secs", "1 mons 2 days -3.500000000 secs"],
        );
        check(interval(), Encoding::JSON, &["1500"], true, &["!"]);
        let counted = Encoding { counts_days: true, ..Encoding::JSON };
        check(interval(), counted, &["1500", "9e18"], true, &["1.500000000 secs", "!"]);
    }

    #[test]
    fn more_digits_than_a_moment_has_are_rounded_half_to_even() {
        let plain = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        for (text, expected) in [
            ("15.1234564", "15.123456Z"),
            ("15.1234567", "15.123457Z"),
            ("15.12345650", "15.123456Z"),
            ("15.12345651", "15.123457Z"),
            ("15.12345750", "15.123458Z"),
        ] {
            let (text, expected) = (format!("2024-02-29T13:14:{text}Z"), format!("2024-02-29T13:14:{expected}"));
            check(plain.clone(), Encoding::JSON, &[&text], false, &[&expected]);
        }
        check(plain, Encoding::JSON, &["2024-02-29T13:14:15-05:30"], false, &["2024-02-29T18:44:15Z"]);
    }
}
