//! The rows of a batch that a predicate is true for, a column at a time.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, IntervalUnit, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;

use crate::like::Pattern;
use crate::predicate::{Leaf, Node, Predicate, Test};
use crate::value::{Value, float_key, interval_key};

impl Predicate {
    /// One bit a row of `batch`, set where the predicate is true; not where it is false or unknown.
    ///
    /// Costs a pass over each column that decides, less where what came before leaves no row to decide.
    ///
    /// # Errors
    /// When a column of `batch` is missing or not of the type that the predicate was made for.
    pub fn matches(&self, batch: &RecordBatch) -> Result<BooleanBuffer, ArrowError> {
        rows(self.node(), batch)
    }
}

fn rows(node: &Node, batch: &RecordBatch) -> Result<BooleanBuffer, ArrowError> {
    match node {
        Node::All => Ok(BooleanBuffer::new_set(batch.num_rows())),
        Node::None => Ok(BooleanBuffer::new_unset(batch.num_rows())),
        Node::Leaf(leaf) => leaf_rows(leaf, batch),
        Node::And(parts) => {
            let mut all = BooleanBuffer::new_set(batch.num_rows());
            for part in parts {
                all = &all & &rows(part, batch)?;
                if !all.has_true() {
                    break;
                }
            }
            Ok(all)
        }
        Node::Or(parts) => {
            let mut any = BooleanBuffer::new_unset(batch.num_rows());
            for part in parts {
                any = &any | &rows(part, batch)?;
                if !any.has_false() {
                    break;
                }
            }
            Ok(any)
        }
    }
}

fn leaf_rows(leaf: &Leaf, batch: &RecordBatch) -> Result<BooleanBuffer, ArrowError> {
    let number = leaf.column.number;
    let Some(array) = batch.columns().get(number) else {
        return Err(ArrowError::SchemaError(format!("a predicate on column {number} of {}", batch.num_columns())));
    };
    if *array.data_type() != leaf.column.data_type {
        return Err(ArrowError::SchemaError(format!(
            "a predicate on column {number} as {} meets it as {}",
            leaf.column.data_type,
            array.data_type()
        )));
    }
    let nulls = array.logical_nulls();
    let (is_null, is_not_null) = match &nulls {
        Some(nulls) => (!nulls.inner(), nulls.inner().clone()),
        None => (BooleanBuffer::new_unset(array.len()), BooleanBuffer::new_set(array.len())),
    };
    let passed = match &leaf.test {
        Test::IsNull => return Ok(is_null),
        Test::IsNotNull => return Ok(is_not_null),
        Test::Like(pattern) => like(array, pattern),
        Test::NotLike(pattern) => like(array, pattern).map(|rows| !&rows),
        test => compare(array, test),
    };
    let passed = passed.ok_or_else(|| {
        ArrowError::NotYetImplemented(format!("comparing column {number}, which is {}", array.data_type()))
    })?;
    Ok(if nulls.is_some() { &passed & &is_not_null } else { passed })
}

/// NULL passes or not, as it happens. `None` when the values of the test are no values of the array's type.
fn compare(array: &ArrayRef, test: &Test) -> Option<BooleanBuffer> {
    macro_rules! integers {
        ($type:ty) => {
            primitive::<$type, _>(array, test, Value::as_integer, |value| value)
        };
    }
    match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean();
            each(array.len(), test, Value::as_boolean, |row| array.value(row))
        }
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Decimal128(..) => integers!(Decimal128Type),
        DataType::Decimal256(..) => primitive::<Decimal256Type, _>(array, test, Value::as_wide, |value| value),
        DataType::Float32 => {
            primitive::<Float32Type, _>(array, test, Value::as_float_key, |value| float_key(value.into()))
        }
        DataType::Float64 => primitive::<Float64Type, _>(array, test, Value::as_float_key, float_key),
        DataType::Date32 => integers!(Date32Type),
        DataType::Time32(TimeUnit::Second) => integers!(Time32SecondType),
        DataType::Time32(TimeUnit::Millisecond) => integers!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => integers!(Time64MicrosecondType),
        DataType::Time64(TimeUnit::Nanosecond) => integers!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => integers!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => integers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => integers!(TimestampNanosecondType),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            primitive::<IntervalMonthDayNanoType, _>(array, test, Value::as_integer, |value| {
                interval_key(value.months, value.days, value.nanoseconds)
            })
        }
        // In the order of code points, which is that of their bytes.
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            each(array.len(), test, Value::as_text, |row| array.value(row))
        }
        DataType::LargeUtf8 => {
            let array = array.as_string::<i64>();
            each(array.len(), test, Value::as_text, |row| array.value(row))
        }
        DataType::Utf8View => {
            let array = array.as_string_view();
            each(array.len(), test, Value::as_text, |row| array.value(row))
        }
        DataType::Binary => {
            let array = array.as_binary::<i32>();
            each(array.len(), test, Value::as_bytes, |row| array.value(row))
        }
        DataType::LargeBinary => {
            let array = array.as_binary::<i64>();
            each(array.len(), test, Value::as_bytes, |row| array.value(row))
        }
        DataType::BinaryView => {
            let array = array.as_binary_view();
            each(array.len(), test, Value::as_bytes, |row| array.value(row))
        }
        _ => None,
    }
}

fn primitive<T: ArrowPrimitiveType, K: Ord + Copy>(
    array: &ArrayRef,
    test: &Test,
    read: impl Fn(&Value) -> Option<K>,
    key: impl Fn(T::Native) -> K,
) -> Option<BooleanBuffer> {
    let values = array.as_primitive::<T>().values();
    each(values.len(), test, read, |row| key(values[row]))
}

/// A list of so many values for each row is read where the search comes by, and not before.
const LIST_READ_BY_ROWS: usize = 16;

/// Compares the key of each row with those of the test's values, which are in one order.
fn each<'a, K: Ord + Copy>(
    rows: usize,
    test: &'a Test,
    read: impl Fn(&'a Value) -> Option<K>,
    key: impl Fn(usize) -> K,
) -> Option<BooleanBuffer> {
    let of = |passes: &dyn Fn(K) -> bool| Some(BooleanBuffer::collect_bool(rows, |row| passes(key(row))));
    match test {
        // Reading a long list for a few rows would be most of the work.
        Test::In(values) | Test::NotIn(values) if rows < values.len() / LIST_READ_BY_ROWS => {
            read(values.first()?)?;
            let is_in = |row| values.binary_search_by_key(&Some(key(row)), &read).is_ok();
            let found = BooleanBuffer::collect_bool(rows, is_in);
            Some(if matches!(test, Test::In(_)) { found } else { !&found })
        }
        Test::In(values) | Test::NotIn(values) => {
            let listed: Vec<K> = values.iter().map(&read).collect::<Option<_>>()?;
            let found = match listed.as_slice() {
                [only] => BooleanBuffer::collect_bool(rows, |row| key(row) == *only),
                listed => BooleanBuffer::collect_bool(rows, |row| listed.binary_search(&key(row)).is_ok()),
            };
            Some(if matches!(test, Test::In(_)) { found } else { !&found })
        }
        Test::Lt(value) => read(value).and_then(|value| of(&|key| key < value)),
        Test::LtEq(value) => read(value).and_then(|value| of(&|key| key <= value)),
        Test::Gt(value) => read(value).and_then(|value| of(&|key| key > value)),
        Test::GtEq(value) => read(value).and_then(|value| of(&|key| key >= value)),
        Test::IsNull | Test::IsNotNull | Test::Like(_) | Test::NotLike(_) => None,
    }
}

fn like(array: &ArrayRef, pattern: &Pattern) -> Option<BooleanBuffer> {
    let mut lowered = String::new();
    match array.data_type() {
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            Some(BooleanBuffer::collect_bool(array.len(), |row| pattern.matches(array.value(row), &mut lowered)))
        }
        DataType::LargeUtf8 => {
            let array = array.as_string::<i64>();
            Some(BooleanBuffer::collect_bool(array.len(), |row| pattern.matches(array.value(row), &mut lowered)))
        }
        DataType::Utf8View => {
            let array = array.as_string_view();
            Some(BooleanBuffer::collect_bool(array.len(), |row| pattern.matches(array.value(row), &mut lowered)))
        }
        _ => None,
    }
}
