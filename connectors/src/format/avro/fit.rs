//! Columns as they were written, made into columns as they are wanted, without loss.
//!
//! A value fits when it comes back as it was: `cast(cast(value)) = value`. One that doesn't is told by its
//! row; it is never NULL, and never another value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, MapArray, StringArray, StructArray, TimestampMicrosecondArray,
    UInt32Array, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{CastOptions, cast_with_options, concat, interleave, take};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, DecimalType, Field, FieldRef, Fields, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;

use crate::format::columns::name_of;
use crate::format::{Bad, rounded_micros};

/// Why no values fit.
#[derive(Debug)]
pub enum Unfit {
    /// Values of this type are never values of that one.
    Types(DataType, DataType),
    /// A mistake of ours.
    Arrow(ArrowError),
}

impl From<ArrowError> for Unfit {
    fn from(error: ArrowError) -> Unfit {
        Unfit::Arrow(error)
    }
}

/// A column of exactly the wanted type, and the rows whose value doesn't fit, ascending. What stands in
/// those rows has no meaning.
pub struct Fitted {
    /// The column.
    pub column: ArrayRef,
    /// Rows that can't be used.
    pub misfits: Vec<usize>,
}

/// Makes a column of the wanted type. With a column of no rows it tells whether the types go together.
///
/// # Errors
/// When they don't.
pub fn fit(column: &ArrayRef, wanted: &DataType) -> Result<Fitted, Unfit> {
    use DataType::{
        Binary, Decimal128, Decimal256, Dictionary, FixedSizeBinary, LargeUtf8, List, Map, Null, Struct, Time32,
        Time64, Timestamp, Union, Utf8, Utf8View,
    };
    let whole = |column| Ok(Fitted { column, misfits: Vec::new() });
    match (column.data_type(), wanted) {
        (Null, _) => whole(new_null_array(wanted, column.len())),
        (Struct(_), Struct(fields)) => structs(column.as_struct(), fields),
        (List(_), List(item)) => {
            let list: &ListArray = column.as_list();
            let of = Lists { offsets: list.offsets(), values: list.values(), column };
            of.fit(item.data_type(), |values| {
                Ok(Arc::new(ListArray::try_new(
                    Arc::clone(item),
                    list.offsets().clone(),
                    values,
                    list.nulls().cloned(),
                )?))
            })
        }
        (Map(..), Map(entries, is_sorted)) => {
            let map = column.as_map();
            let pairs: ArrayRef = pairs(map, entries.data_type())?;
            let of = Lists { offsets: map.offsets(), values: &pairs, column };
            of.fit(entries.data_type(), |pairs| {
                let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
                let pairs = pairs.as_struct().clone();
                Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, *is_sorted)?))
            })
        }
        (Map(..), List(item)) => {
            let map = column.as_map();
            let pairs: ArrayRef = pairs(map, item.data_type())?;
            let of = Lists { offsets: map.offsets(), values: &pairs, column };
            of.fit(item.data_type(), |pairs| {
                let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
                Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, pairs, nulls)?))
            })
        }
        (Union(..), _) => union(column, wanted),
        (Dictionary(..), _) => fit(&cast(column, &Utf8)?, wanted),
        (FixedSizeBinary(16), Utf8) => whole(uuids(column)),
        (from, to) if from == to => Ok(Fitted { misfits: out_of_range(column), column: Arc::clone(column) }),
        (FixedSizeBinary(_), Binary) | (Utf8, Binary | LargeUtf8 | Utf8View) => whole(cast(column, wanted)?),
        (Timestamp(TimeUnit::Nanosecond, _), Timestamp(TimeUnit::Microsecond, zone)) => {
            let nanos = without_zone(column);
            let micros: TimestampMicrosecondArray =
                nanos.as_primitive::<TimestampNanosecondType>().unary(rounded_micros);
            whole(with_zone(&(Arc::new(micros) as ArrayRef), zone.as_ref()))
        }
        (Timestamp(..), Timestamp(unit, zone)) => {
            let fitted = there_and_back(&without_zone(column), &Timestamp(*unit, None))?;
            Ok(Fitted { column: with_zone(&fitted.column, zone.as_ref()), misfits: fitted.misfits })
        }
        (Time32(_) | Time64(_), Time32(_) | Time64(_)) | (Binary, Utf8) => there_and_back(column, wanted),
        (from, to) if is_number(from) && is_number(to) => there_and_back(column, wanted),
        (from, to) => Err(Unfit::Types(from.clone(), to.clone())),
    }
    .map(|mut fitted| {
        if matches!(wanted, Decimal128(..) | Decimal256(..) | Time64(_)) && column.data_type() != wanted {
            fitted.misfits = united(fitted.misfits, out_of_range(&fitted.column));
        }
        fitted
    })
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

fn cast(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(column, wanted, &CastOptions { safe: true, ..CastOptions::default() })
}

fn there_and_back(column: &ArrayRef, wanted: &DataType) -> Result<Fitted, Unfit> {
    let there = cast(column, wanted)?;
    let back = cast(&there, column.data_type())?;
    let differs: BooleanArray = distinct(column, &back)?;
    let misfits =
        if differs.has_true() { (0..differs.len()).filter(|&row| differs.value(row)).collect() } else { Vec::new() };
    Ok(Fitted { column: there, misfits })
}

/// Rows with more digits than the column's type has, or a time of day after midnight.
fn out_of_range(column: &ArrayRef) -> Vec<usize> {
    let rows = |is_out: &dyn Fn(usize) -> bool| {
        (0..column.len()).filter(|&row| column.is_valid(row) && is_out(row)).collect::<Vec<usize>>()
    };
    match column.data_type() {
        DataType::Decimal128(precision, scale) => {
            let values = column.as_primitive::<Decimal128Type>().values();
            rows(&|row| Decimal128Type::validate_decimal_precision(values[row], *precision, *scale).is_err())
        }
        DataType::Decimal256(precision, scale) => {
            let values = column.as_primitive::<Decimal256Type>().values();
            rows(&|row| Decimal256Type::validate_decimal_precision(values[row], *precision, *scale).is_err())
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            let values = column.as_primitive::<Time64MicrosecondType>().values();
            rows(&|row| !(0..=DAY_MICROS).contains(&values[row]))
        }
        _ => Vec::new(),
    }
}

fn structs(column: &StructArray, fields: &Fields) -> Result<Fitted, Unfit> {
    let mut misfits = Vec::new();
    let mut children = Vec::with_capacity(fields.len());
    for field in fields {
        let fitted = match column.column_by_name(field.name()) {
            Some(child) => fit(child, field.data_type())?,
            None => Fitted { column: new_null_array(field.data_type(), column.len()), misfits: Vec::new() },
        };
        let Fitted { column: mut child, misfits: mut of_child } = fitted;
        if !field.is_nullable() && child.null_count() > 0 {
            let missing = (0..child.len()).filter(|&row| child.is_null(row)).collect();
            of_child = united(of_child, missing);
            child = filled(&child)?;
        }
        misfits = united(misfits, of_child);
        children.push(child);
    }
    // What is in a struct that is NULL itself is nobody's value.
    misfits.retain(|&row| column.is_valid(row));
    let column = StructArray::try_new_with_length(fields.clone(), children, column.nulls().cloned(), column.len())?;
    Ok(Fitted { column: Arc::new(column), misfits })
}

/// The entries of a map, with the names that are wanted for keys and values.
fn pairs(map: &MapArray, wanted: &DataType) -> Result<ArrayRef, Unfit> {
    let (_, columns, nulls) = map.entries().clone().into_parts();
    let wanted = match wanted {
        DataType::Struct(fields) if fields.len() == columns.len() => fields,
        other => return Err(Unfit::Types(map.data_type().clone(), other.clone())),
    };
    let named = |(column, field): (&ArrayRef, &FieldRef)| Field::new(field.name(), column.data_type().clone(), true);
    let fields: Fields = columns.iter().zip(wanted).map(named).collect();
    Ok(Arc::new(StructArray::try_new(fields, columns, nulls)?))
}

/// The same values without NULLs, with any value in their places; for rows that are not used.
fn filled(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = column.to_data().into_builder().nulls(None).build()?;
    Ok(arrow::array::make_array(data))
}

/// Values, and where the lists of them begin and end.
struct Lists<'a> {
    offsets: &'a OffsetBuffer<i32>,
    values: &'a ArrayRef,
    column: &'a ArrayRef,
}

impl Lists<'_> {
    fn fit(
        &self,
        wanted: &DataType,
        make: impl FnOnce(ArrayRef) -> Result<ArrayRef, ArrowError>,
    ) -> Result<Fitted, Unfit> {
        let fitted = fit(self.values, wanted)?;
        let mut misfits: Vec<usize> = fitted
            .misfits
            .iter()
            .map(|&value| {
                self.offsets.partition_point(|&offset| usize::try_from(offset).is_ok_and(|at| at <= value)) - 1
            })
            .filter(|&row| row < self.column.len() && self.column.is_valid(row))
            .collect();
        misfits.dedup();
        Ok(Fitted { column: make(fitted.column)?, misfits })
    }
}

/// Each row's value from the branch that has it.
fn union(column: &ArrayRef, wanted: &DataType) -> Result<Fitted, Unfit> {
    let union = column.as_union();
    let mut of_type = [usize::MAX; 128];
    let mut branches = Vec::new();
    let DataType::Union(fields, _) = column.data_type() else { return Err(unfit(column, wanted)) };
    for (type_id, _) in fields.iter() {
        of_type[usize::try_from(type_id).unwrap_or(0) & 127] = branches.len();
        branches.push(fit(union.child(type_id), wanted)?);
    }
    let mut misfits = Vec::new();
    let mut places = Vec::with_capacity(union.len());
    for row in 0..union.len() {
        let branch = of_type[usize::try_from(union.type_id(row)).unwrap_or(0) & 127];
        let offset = union.value_offset(row);
        if branches.get(branch).is_some_and(|branch| branch.misfits.binary_search(&offset).is_ok()) {
            misfits.push(row);
        }
        places.push((branch, offset));
    }
    let columns: Vec<&dyn Array> = branches.iter().map(|branch| &*branch.column as &dyn Array).collect();
    if columns.is_empty() {
        return Err(unfit(column, wanted));
    }
    Ok(Fitted { column: interleave(&columns, &places)?, misfits })
}

fn unfit(column: &ArrayRef, wanted: &DataType) -> Unfit {
    Unfit::Types(column.data_type().clone(), wanted.clone())
}

/// `f81d4fae-7dec-11d0-a765-00a0c91e6bf6` (RFC 9562).
fn uuids(column: &ArrayRef) -> ArrayRef {
    let text = |bytes: &[u8]| {
        let mut text = String::with_capacity(36);
        for (place, byte) in bytes.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
            text.extend([digit(byte >> 4), digit(byte & 15)]);
        }
        text
    };
    Arc::new(column.as_fixed_size_binary().iter().map(|bytes| bytes.map(text)).collect::<StringArray>())
}

/// The same instants without the name of a zone: all are counted from 1970 in UTC.
pub(super) fn without_zone(column: &ArrayRef) -> ArrayRef {
    with_zone(column, None)
}

fn with_zone(column: &ArrayRef, zone: Option<&Arc<str>>) -> ArrayRef {
    let zone = zone.cloned();
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            Arc::new(column.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(zone))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Arc::new(column.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(zone))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(zone))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Arc::new(column.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(zone))
        }
        _ => Arc::clone(column),
    }
}

/// Both, in ascending order, each once.
fn united(mut left: Vec<usize>, right: Vec<usize>) -> Vec<usize> {
    if !right.is_empty() {
        left.extend(right);
        left.sort_unstable();
        left.dedup();
    }
    left
}

/// The type that a column has when nobody declares one: instants in microseconds, enums as text.
///
/// # Errors
/// With the reason why there is none.
pub fn engine_type(field: &Field) -> Result<DataType, String> {
    Ok(match field.data_type() {
        DataType::Dictionary(..) => DataType::Utf8,
        DataType::FixedSizeBinary(_) if field.metadata().get("logicalType").is_some_and(|of| of == "uuid") => {
            DataType::Utf8
        }
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| Arc::from("UTC")))
        }
        DataType::Time32(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::List(item) => DataType::List(engine_field("item", item, true)?),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| engine_field(field.name(), field, true));
            DataType::Struct(fields.collect::<Result<_, _>>()?)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(format!("`{}` is a map without keys and values", field.name()));
            };
            let pair = pair.iter().zip(["key", "value"]);
            let pair = pair.map(|(field, name)| engine_field(name, field, name == "value"));
            let pair = DataType::Struct(pair.collect::<Result<_, _>>()?);
            DataType::Map(Arc::new(Field::new("entries", pair, false)), false)
        }
        DataType::Null => return Err(format!("`{}` is always NULL, so its type can't be told", field.name())),
        DataType::Union(..) => {
            return Err(format!("`{}` may be of several types; declare the one to take", field.name()));
        }
        other => other.clone(),
    })
}

fn engine_field(name: &str, field: &FieldRef, nullable: bool) -> Result<FieldRef, String> {
    Ok(Arc::new(Field::new(name, engine_type(field)?, nullable)))
}

/// Rows that were made of messages, in the order in which they were found.
#[derive(Default)]
pub struct Found {
    /// Pieces of each column.
    pieces: Vec<Vec<ArrayRef>>,
    from: Vec<usize>,
}

impl Found {
    /// Takes the rows of the messages `run`: a column for each of `fields`, of whatever type it was read
    /// with. Rows in `misfits` can't be used, for the reasons there, and so can't those that don't fit.
    ///
    /// # Errors
    /// When types don't go together, which whoever calls has found out before.
    pub fn push(
        &mut self,
        read: Vec<ArrayRef>,
        fields: &Fields,
        run: &[usize],
        mut misfits: BTreeMap<usize, String>,
        bad: &mut Vec<Bad>,
    ) -> Result<(), ArrowError> {
        let mut columns = Vec::with_capacity(read.len());
        for (column, field) in read.iter().zip(fields) {
            let fitted = fit(column, field.data_type()).map_err(|unfit| match unfit {
                Unfit::Arrow(error) => error,
                Unfit::Types(from, to) => ArrowError::CastError(format!("{from} as {to}")),
            })?;
            for row in fitted.misfits {
                misfits.entry(row).or_insert_with(|| misfit(field, column, row));
            }
            columns.push(fitted.column);
        }
        if misfits.is_empty() {
            self.from.extend(run);
        } else {
            let left: Vec<usize> = (0..run.len()).filter(|row| !misfits.contains_key(row)).collect();
            let places: UInt32Array = left.iter().map(|&row| u32::try_from(row).ok()).collect();
            columns = columns.iter().map(|column| take(column, &places, None)).collect::<Result<_, _>>()?;
            self.from.extend(left.into_iter().map(|row| run[row]));
            bad.extend(misfits.into_iter().map(|(row, reason)| Bad { message: run[row], reason }));
        }
        self.pieces.push(columns);
        Ok(())
    }

    /// As columns, in the order of the messages.
    ///
    /// # Errors
    /// A mistake of ours.
    pub fn in_order(self, fields: &Fields) -> Result<(Vec<ArrayRef>, Vec<usize>), ArrowError> {
        let mut columns = Vec::with_capacity(fields.len());
        for (place, field) in fields.iter().enumerate() {
            columns.push(match &*self.pieces {
                [] => new_empty_array(field.data_type()),
                [only] => Arc::clone(&only[place]),
                pieces => concat(&pieces.iter().map(|columns| &*columns[place] as &dyn Array).collect::<Vec<_>>())?,
            });
        }
        if self.from.is_sorted() {
            return Ok((columns, self.from));
        }
        let mut order: Vec<(usize, u32)> = self.from.into_iter().zip(0..).collect();
        order.sort_unstable();
        let places = UInt32Array::from_iter_values(order.iter().map(|(_, place)| *place));
        let columns = columns.iter().map(|column| take(column, &places, None)).collect::<Result<_, _>>()?;
        Ok((columns, order.into_iter().map(|(from, _)| from).collect()))
    }
}

/// That no value of a field is one of its column.
pub fn never_taken(name: &str, from: &DataType, to: &DataType) -> String {
    format!("`{name}` is {}, which is never taken as {}", name_of(from), name_of(to))
}

/// What is told of a value that doesn't fit.
fn misfit(field: &Field, column: &ArrayRef, row: usize) -> String {
    let value = array_value_to_string(column, row).unwrap_or_default();
    let value = match value.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value,
    };
    format!("`{}` is {value}, which is not exactly a value of {}", field.name(), name_of(field.data_type()))
}

/// Characters of a value that are told.
const SHOWN_MAX: usize = 60;

const DAY_MICROS: i64 = 86_400_000_000;
