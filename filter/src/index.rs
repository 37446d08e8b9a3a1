//! What a router can look up: the equalities of a conjunction.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Decimal128Array, Decimal256Array, LargeBinaryArray,
    LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type, i256,
};

use crate::predicate::{Leaf, Node, Predicate, Test};
use crate::value::Value;

/// A predicate as "these columns have one of these tuples of values, and the residual holds".
#[derive(Clone, Debug)]
pub struct IndexTerms {
    /// The columns that are looked up, by their numbers in the schema, ascending.
    pub columns: Vec<usize>,
    /// For each of these columns an array of its very type: row *i* of all of them together is an alternative. No
    /// two alternatives are equal, and none holds NULL.
    pub alternatives: Vec<ArrayRef>,
    /// What else must hold.
    pub residual: Predicate,
}

/// A predicate is looked up by at most so many tuples of values.
pub const ALTERNATIVES_MAX: usize = 64;

impl Predicate {
    /// The equalities (`_eq`, `_in`) that every row of the predicate meets, and what else it must meet; `None` when
    /// there are none, or only lists of more than [`ALTERNATIVES_MAX`] values. Floats and intervals are never among
    /// them, since values that are equal there have different bits.
    ///
    /// Of several lists as many are taken as have no more than [`ALTERNATIVES_MAX`] combinations, short ones first.
    ///
    /// ```
    /// # use arrow::datatypes::{DataType, Field, Schema};
    /// # use filter::Predicate;
    /// let schema = Schema::new(vec![
    ///     Field::new("customer", DataType::Int64, false),
    ///     Field::new("total", DataType::Decimal128(10, 2), true),
    /// ]);
    /// let filter = serde_json::json!({"customer": {"_in": [7, 8]}, "total": {"_gt": "100"}});
    /// let terms = Predicate::parse(&filter, &schema, &|_| true)?.index_terms().expect("it has an equality");
    /// assert_eq!(terms.columns, [0]);
    /// assert_eq!(terms.alternatives[0].len(), 2);
    /// assert_eq!(terms.residual.columns_used(), [1].into());
    /// # Ok::<(), filter::FilterError>(())
    /// ```
    #[must_use]
    pub fn index_terms(&self) -> Option<IndexTerms> {
        let parts = match self.node() {
            Node::And(parts) => parts.as_slice(),
            node => std::slice::from_ref(node),
        };
        let mut lists: Vec<(usize, &Leaf, &[Value])> = Vec::new();
        for (part, node) in parts.iter().enumerate() {
            if let Node::Leaf(leaf) = node
                && let Test::In(values) = &leaf.test
                && is_indexable(&leaf.column.data_type)
            {
                lists.push((part, leaf, values));
            }
        }
        lists.sort_by_key(|(_, _, values)| values.len());
        let mut count = 1;
        lists.retain(|(_, _, values)| {
            let fits = count * values.len() <= ALTERNATIVES_MAX;
            count *= if fits { values.len() } else { 1 };
            fits
        });
        if lists.is_empty() {
            return None;
        }
        lists.sort_by_key(|(_, leaf, _)| leaf.column.number);
        // The last column turns fastest, as digits do.
        let mut repeat = count;
        let alternatives = lists.iter().map(|(_, leaf, values)| {
            repeat /= values.len();
            let values = (0..count).map(|row| &values[row / repeat % values.len()]);
            array(&leaf.column.data_type, values)
        });
        let alternatives = alternatives.collect::<Option<Vec<_>>>()?;
        let taken: Vec<usize> = lists.iter().map(|(part, ..)| *part).collect();
        let residual = parts.iter().enumerate().filter(|(part, _)| !taken.contains(part)).map(|(_, node)| node.clone());
        Some(IndexTerms {
            columns: lists.iter().map(|(_, leaf, _)| leaf.column.number).collect(),
            alternatives,
            residual: Predicate::new(Node::and(residual)),
        })
    }
}

fn is_indexable(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Float32 | DataType::Float64 | DataType::Interval(_))
}

/// `None` when a value is no value of the type, which none of a predicate's is.
fn array<'a>(data_type: &DataType, values: impl Iterator<Item = &'a Value>) -> Option<ArrayRef> {
    macro_rules! integers {
        ($type:ty) => {
            Arc::new(primitive::<$type>(values.map(Value::as_integer), data_type)?)
        };
    }
    macro_rules! texts {
        ($array:ty) => {
            Arc::new(<$array>::from(values.map(Value::as_text).collect::<Option<Vec<&str>>>()?))
        };
    }
    macro_rules! bytes {
        ($array:ty) => {
            Arc::new(<$array>::from(values.map(Value::as_bytes).collect::<Option<Vec<&[u8]>>>()?))
        };
    }
    Some(match data_type {
        DataType::Boolean => {
            Arc::new(BooleanArray::from(values.map(Value::as_boolean).collect::<Option<Vec<bool>>>()?))
        }
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Decimal128(..) => {
            let values = values.map(Value::as_integer).collect::<Option<Vec<i128>>>()?;
            Arc::new(Decimal128Array::from(values).with_data_type(data_type.clone()))
        }
        DataType::Decimal256(..) => {
            let values = values.map(Value::as_wide).collect::<Option<Vec<i256>>>()?;
            Arc::new(Decimal256Array::from(values).with_data_type(data_type.clone()))
        }
        DataType::Date32 => integers!(Date32Type),
        DataType::Time32(TimeUnit::Second) => integers!(Time32SecondType),
        DataType::Time32(TimeUnit::Millisecond) => integers!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => integers!(Time64MicrosecondType),
        DataType::Time64(TimeUnit::Nanosecond) => integers!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => integers!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => integers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => integers!(TimestampNanosecondType),
        DataType::Utf8 => texts!(StringArray),
        DataType::LargeUtf8 => texts!(LargeStringArray),
        DataType::Utf8View => texts!(StringViewArray),
        DataType::Binary => bytes!(BinaryArray),
        DataType::LargeBinary => bytes!(LargeBinaryArray),
        DataType::BinaryView => bytes!(BinaryViewArray),
        _ => return None,
    })
}

fn primitive<T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<T::Native>>,
    data_type: &DataType,
) -> Option<PrimitiveArray<T>> {
    let values: Vec<T::Native> = values.collect::<Option<_>>()?;
    Some(PrimitiveArray::<T>::from_iter_values(values).with_data_type(data_type.clone()))
}
