//! `GROUP BY`, and `DISTINCT`, which is a GROUP BY of everything with no aggregate.
//!
//! Per group: the number of rows, and a state per aggregate that both signs of weight can move.
//! A step touches the groups of its rows, and for each of them whose answer differs emits the old
//! answer with `-1` and the new one with `+1`.
//!
//! | aggregate | state | cost of a change |
//! |---|---|---|
//! | `count` | a number | constant |
//! | `sum`, `avg` of integers and decimals | a wider integer, so that only the answer can overflow | constant |
//! | `sum`, `avg` of floats | [`ExactSum`] | constant |
//! | `min`, `max` | values in order, with counts | logarithmic in the group |
//! | any other | the group's rows | the group |

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, UInt32Array, UInt64Array,
    make_comparator,
};
use arrow::compute::{SortOptions, cast, concat};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, Float32Type, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type,
    i256,
};
use arrow::error::ArrowError;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::delta::{Delta, repeated};
use crate::exact::ExactSum;
use crate::expr::{Aggregate, ExprError, Withheld};
use crate::operator::{Context, Operator};
use crate::row::{RowBytes, RowCodec, batch_of};

/// What is computed over a group.
pub enum AggregateKind {
    /// `count(*)`, or of the non-NULL values of the argument where there is one.
    Count,
    /// `sum` of an integer, decimal or float column.
    Sum,
    /// `avg` of an integer, decimal or float column.
    Avg,
    /// `min` of a column.
    Min,
    /// `max` of a column.
    Max,
    /// Recomputed over the group's rows.
    Other(Box<dyn Aggregate>),
}

/// An aggregate call over columns of the input.
pub struct AggregateCall {
    /// Which aggregate.
    pub kind: AggregateKind,
    /// Its arguments, as input columns.
    pub arguments: Vec<usize>,
    /// `FILTER (WHERE …)`, as a Boolean input column.
    pub filter: Option<usize>,
}

/// Groups and their aggregates. Output columns are the group's, then one per aggregate.
pub struct GroupBy {
    schema: SchemaRef,
    group_columns: usize,
    key_codec: RowCodec,
    key_schema: SchemaRef,
    calls: Vec<Call>,
    groups: HashMap<RowBytes, Group>,
    /// Without group columns there is always one row, also over no input: the group of this key.
    global: Option<RowBytes>,
    started: bool,
}

struct Call {
    kind: AggregateKind,
    argument: Option<usize>,
    filter: Option<usize>,
    /// For those that keep values or rows.
    codec: Option<RowCodec>,
    data_type: DataType,
    argument_type: Option<DataType>,
}

struct Group {
    rows: i64,
    states: Vec<State>,
}

enum State {
    Count(i64),
    Integers { values: i64, sum: i128 },
    Decimals { values: i64, sum: i256 },
    Floats { values: i64, sum: ExactSum },
    Values(BTreeMap<RowBytes, i64>),
}

/// An answer of one aggregate, in the shape its column is built from.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Null,
    Int(i128),
    Float(u64),
    Bytes(RowBytes),
    Array(ArrayEq),
}

#[derive(Clone, Debug)]
struct ArrayEq(ArrayRef);

impl PartialEq for ArrayEq {
    fn eq(&self, other: &ArrayEq) -> bool {
        self.0.as_ref() == other.0.as_ref()
            || make_comparator(&self.0, &other.0, SortOptions::default()).is_ok_and(|compare| compare(0, 0).is_eq())
    }
}

/// `None` while the group has no rows; an error while an aggregate has no value.
type Row = Option<Result<Vec<Answer>, ExprError>>;

impl GroupBy {
    /// Groups rows of `input` by the leading columns of `schema`.
    ///
    /// # Errors
    /// When a column's type has no row format, or an aggregate is not defined for its argument.
    pub fn new(input: &SchemaRef, group: &[usize], calls: Vec<AggregateCall>, schema: SchemaRef) -> Result<GroupBy, ArrowError> {
        let key_codec = RowCodec::new(input, group)?;
        let key_schema = Arc::new(Schema::new(schema.fields()[..group.len()].to_vec()));
        let calls = calls
            .into_iter()
            .enumerate()
            .map(|(i, call)| {
                let codec = match call.kind {
                    AggregateKind::Min | AggregateKind::Max | AggregateKind::Other(_) => Some(RowCodec::new(input, &call.arguments)?),
                    _ => None,
                };
                Ok(Call {
                    argument: call.arguments.first().copied(),
                    argument_type: call.arguments.first().map(|&column| input.field(column).data_type().clone()),
                    kind: call.kind,
                    filter: call.filter,
                    codec,
                    data_type: schema.field(group.len() + i).data_type().clone(),
                })
            })
            .collect::<Result<Vec<_>, ArrowError>>()?;
        let global = if group.is_empty() {
            let one_row = batch_of(&key_schema, Vec::new(), 1)?;
            Some(key_codec.encode(&one_row)?.row(0).data().into())
        } else {
            None
        };
        Ok(GroupBy { schema, group_columns: group.len(), key_codec, key_schema, calls, groups: HashMap::new(), global, started: false })
    }

    /// Whether every aggregate's cost follows the change, not the group.
    #[must_use]
    pub fn is_incremental(calls: &[AggregateCall]) -> bool {
        !calls.iter().any(|call| matches!(call.kind, AggregateKind::Other(_)))
    }
}

impl Operator for GroupBy {
    fn step(&mut self, inputs: &[Option<&Delta>], context: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        let mut touched = Touched::default();
        if !std::mem::replace(&mut self.started, true)
            && let Some(key) = &self.global
        {
            let group = Group { rows: 0, states: self.calls.iter().map(Call::state).collect() };
            touched.old.push((key.clone(), None));
            self.groups.insert(key.clone(), group);
        }
        if let Some(input) = inputs[0] {
            self.update(input, &mut touched)?;
        }
        self.emit(touched, context.withheld)
    }
}

/// The groups that a step touches, with their answers of before, in order of first touch.
#[derive(Default)]
struct Touched {
    old: Vec<(RowBytes, Row)>,
}

impl GroupBy {
    fn update(&mut self, input: &Delta, touched: &mut Touched) -> Result<(), ArrowError> {
        let keys = self.key_codec.encode(&input.batch)?;
        let columns = self.calls.iter().map(|call| Column::of(call, &input.batch)).collect::<Result<Vec<_>, _>>()?;
        let global = touched.old.first().map(|(key, _)| key.clone());
        let mut seen: HashMap<&[u8], ()> = global.iter().map(|key| (&**key, ())).collect();
        let several = input.len() > 1;
        for (i, &weight) in input.weights.iter().enumerate() {
            let key = keys.row(i).data();
            let is_first = if several || !seen.is_empty() { seen.insert(key, ()).is_none() } else { true };
            let group = match self.groups.entry_ref(key) {
                EntryRef::Occupied(group) => {
                    if is_first {
                        touched.old.push((key.into(), answer(&self.calls, group.get(), self.global.is_some())));
                    }
                    group.into_mut()
                }
                EntryRef::Vacant(entry) => {
                    if is_first {
                        touched.old.push((key.into(), None));
                    }
                    entry.insert_with_key(key.into(), Group { rows: 0, states: self.calls.iter().map(Call::state).collect() })
                }
            };
            group.rows += weight;
            for (column, state) in columns.iter().zip(&mut group.states) {
                column.update(state, i, weight);
            }
        }
        Ok(())
    }

    fn emit(&mut self, touched: Touched, withheld: &mut Withheld) -> Result<Option<Delta>, ArrowError> {
        let mut keys: Vec<&[u8]> = Vec::with_capacity(touched.old.len() * 2);
        let mut weights: Vec<i64> = Vec::with_capacity(touched.old.len() * 2);
        let mut rows: Vec<Vec<Answer>> = Vec::with_capacity(touched.old.len() * 2);
        let mut empty: Vec<&RowBytes> = Vec::new();
        for (key, old) in &touched.old {
            let Some(group) = self.groups.get(key) else { continue };
            if group.rows == 0 && self.global.is_none() {
                empty.push(key);
            }
            let new = answer(&self.calls, group, self.global.is_some());
            if *old == new {
                continue;
            }
            for (row, weight) in [(old.clone(), -1), (new, 1)] {
                match row {
                    None => {}
                    Some(Ok(answers)) => {
                        keys.push(key);
                        weights.push(weight);
                        rows.push(answers);
                    }
                    Some(Err(error)) => withheld.add(weight, error),
                }
            }
        }
        for key in empty {
            self.groups.remove(key);
        }
        if weights.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        if self.group_columns > 0 {
            columns = self.key_codec.decode_batch(&self.key_schema, keys, weights.len())?.columns().to_vec();
        }
        for (i, call) in self.calls.iter().enumerate() {
            columns.push(call.column(rows.iter().map(|row| &row[i]))?);
        }
        Ok(Some(Delta::new(batch_of(&self.schema, columns, weights.len())?, weights)))
    }
}

fn answer(calls: &[Call], group: &Group, is_global: bool) -> Row {
    if group.rows == 0 && !is_global {
        return None;
    }
    Some(calls.iter().zip(&group.states).map(|(call, state)| call.answer(state)).collect())
}

/// The argument of a call, ready to be read row by row.
struct Column<'a> {
    filter: Option<&'a arrow::array::BooleanArray>,
    valid: Option<arrow::buffer::NullBuffer>,
    values: Values,
}

enum Values {
    None,
    Int64(Int64Array),
    UInt64(UInt64Array),
    Decimal128(Decimal128Array),
    Float64(Float64Array),
    Rows(arrow::row::Rows),
}

impl<'a> Column<'a> {
    fn of(call: &Call, batch: &'a RecordBatch) -> Result<Column<'a>, ArrowError> {
        let filter = call.filter.map(|column| batch.column(column).as_boolean());
        let argument = call.argument.map(|column| batch.column(column));
        let keeps_nulls = matches!(call.kind, AggregateKind::Other(_));
        let valid = if keeps_nulls { None } else { argument.and_then(|array| array.logical_nulls()) };
        let values = match (&call.kind, &call.codec, argument) {
            (AggregateKind::Count, ..) => Values::None,
            (_, Some(codec), _) => Values::Rows(codec.encode(batch)?),
            (_, None, Some(array)) => match array.data_type() {
                DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
                    Values::UInt64(cast(array, &DataType::UInt64)?.as_primitive().clone())
                }
                DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                    Values::Int64(cast(array, &DataType::Int64)?.as_primitive().clone())
                }
                DataType::Decimal128(..) => Values::Decimal128(array.as_primitive().clone()),
                DataType::Float64 => Values::Float64(array.as_primitive().clone()),
                DataType::Float32 => Values::Float64(array.as_primitive::<Float32Type>().unary::<_, Float64Type>(f64::from)),
                other => return Err(ArrowError::NotYetImplemented(format!("sum of {other}"))),
            },
            (_, None, None) => Values::None,
        };
        Ok(Column { filter, valid, values })
    }

    fn update(&self, state: &mut State, row: usize, weight: i64) {
        if self.filter.is_some_and(|filter| filter.is_null(row) || !filter.value(row))
            || self.valid.as_ref().is_some_and(|valid| valid.is_null(row))
        {
            return;
        }
        match (state, &self.values) {
            (State::Count(count), _) => *count += weight,
            (State::Integers { values, sum }, Values::Int64(array)) => {
                *values += weight;
                *sum += i128::from(array.value(row)) * i128::from(weight);
            }
            (State::Integers { values, sum }, Values::UInt64(array)) => {
                *values += weight;
                *sum += i128::from(array.value(row)) * i128::from(weight);
            }
            (State::Decimals { values, sum }, Values::Decimal128(array)) => {
                *values += weight;
                let term = i256::from_i128(array.value(row)).wrapping_mul(i256::from_i128(i128::from(weight)));
                *sum = sum.wrapping_add(term);
            }
            (State::Floats { values, sum }, Values::Float64(array)) => {
                *values += weight;
                sum.add(array.value(row), weight);
            }
            (State::Values(counts), Values::Rows(rows)) => {
                let row = rows.row(row).data();
                let count = counts.entry(row.into()).or_default();
                *count += weight;
                if *count == 0 {
                    counts.remove(row);
                }
            }
            _ => unreachable!("a call's state and values are made from the same argument type"),
        }
    }
}

impl Call {
    fn state(&self) -> State {
        match (&self.kind, &self.argument_type) {
            (AggregateKind::Count, _) => State::Count(0),
            (AggregateKind::Min | AggregateKind::Max | AggregateKind::Other(_), _) => State::Values(BTreeMap::new()),
            (_, Some(DataType::Decimal128(..))) => State::Decimals { values: 0, sum: i256::ZERO },
            (_, Some(DataType::Float32 | DataType::Float64)) => State::Floats { values: 0, sum: ExactSum::default() },
            _ => State::Integers { values: 0, sum: 0 },
        }
    }

    fn answer(&self, state: &State) -> Result<Answer, ExprError> {
        let is_avg = matches!(self.kind, AggregateKind::Avg);
        Ok(match state {
            State::Count(count) => Answer::Int(i128::from(*count)),
            State::Integers { values: 0, .. } | State::Decimals { values: 0, .. } | State::Floats { values: 0, .. } => Answer::Null,
            #[expect(clippy::cast_precision_loss, reason = "an average is a float")]
            State::Integers { values, sum } if is_avg => Answer::Float((*sum as f64 / *values as f64).to_bits()),
            State::Integers { sum, .. } => {
                let fits = match self.data_type {
                    DataType::UInt64 => u64::try_from(*sum).is_ok(),
                    _ => i64::try_from(*sum).is_ok(),
                };
                if !fits {
                    return Err(ExprError(format!("sum {sum} is out of range for {}", self.data_type)));
                }
                Answer::Int(*sum)
            }
            State::Decimals { values, sum } => {
                let sum = if is_avg { self.decimal_average(*sum, *values)? } else { *sum };
                let value = sum.to_i128().filter(|value| self.fits_decimal(*value));
                Answer::Int(value.ok_or_else(|| ExprError(format!("{sum} is out of range for {}", self.data_type)))?)
            }
            #[expect(clippy::cast_precision_loss, reason = "an average is a float")]
            State::Floats { values, sum } if is_avg => Answer::Float((sum.value() / *values as f64).to_bits()),
            State::Floats { sum, .. } => Answer::Float(sum.value().to_bits()),
            State::Values(values) => match &self.kind {
                AggregateKind::Other(aggregate) => Answer::Array(ArrayEq(self.recompute(aggregate.as_ref(), values)?)),
                AggregateKind::Max => values.last_key_value().map_or(Answer::Null, |(value, _)| Answer::Bytes(value.clone())),
                _ => values.first_key_value().map_or(Answer::Null, |(value, _)| Answer::Bytes(value.clone())),
            },
        })
    }

    fn fits_decimal(&self, value: i128) -> bool {
        let precision = match self.data_type {
            DataType::Decimal128(precision, _) => precision,
            _ => DECIMAL128_MAX_PRECISION,
        };
        let scale = match self.data_type {
            DataType::Decimal128(_, scale) => scale,
            _ => 0,
        };
        Decimal128Type::validate_decimal_precision(value, precision, scale).is_ok()
    }

    /// At the answer's scale, truncated as DataFusion's own `avg` of decimals is.
    fn decimal_average(&self, sum: i256, values: i64) -> Result<i256, ExprError> {
        let (Some(DataType::Decimal128(_, from)), DataType::Decimal128(_, to)) = (&self.argument_type, &self.data_type) else {
            return Err(ExprError(format!("average of a decimal is not {}", self.data_type)));
        };
        let scale = u32::try_from(to - from).unwrap_or(0);
        let factor = i256::from_i128(10).wrapping_pow(scale);
        sum.checked_mul(factor)
            .and_then(|sum| sum.checked_div(i256::from_i128(i128::from(values))))
            .ok_or_else(|| ExprError(format!("average is out of range for {}", self.data_type)))
    }

    fn recompute(&self, aggregate: &dyn Aggregate, values: &BTreeMap<RowBytes, i64>) -> Result<ArrayRef, ExprError> {
        let codec = self.codec.as_ref().ok_or_else(|| ExprError("an aggregate over no column".to_owned()))?;
        let arguments = codec.decode(values.keys().map(|row| &**row))?;
        let rows: usize = values.values().map(|&count| usize::try_from(count).unwrap_or(0)).sum();
        if rows == values.len() {
            return aggregate.evaluate(&arguments, rows);
        }
        let take = repeated(values.values());
        let arguments = arguments.iter().map(|array| arrow::compute::take(array, &take, None)).collect::<Result<Vec<_>, _>>()?;
        aggregate.evaluate(&arguments, rows)
    }

    /// The column of these answers.
    fn column<'a>(&self, answers: impl Iterator<Item = &'a Answer> + Clone) -> Result<ArrayRef, ArrowError> {
        let ints = answers.clone().map(|answer| if let Answer::Int(value) = answer { Some(*value) } else { None });
        Ok(match &self.data_type {
            _ if matches!(self.kind, AggregateKind::Other(_)) => {
                let arrays: Vec<&dyn Array> =
                    answers.filter_map(|answer| if let Answer::Array(array) = answer { Some(array.0.as_ref()) } else { None }).collect();
                concat(&arrays)?
            }
            data_type if self.codec.is_some() => self.decode_values(answers, data_type)?,
            DataType::Int64 => Arc::new(primitive::<Int64Type>(ints, |value| i64::try_from(value).ok())),
            DataType::UInt64 => Arc::new(primitive::<UInt64Type>(ints, |value| u64::try_from(value).ok())),
            DataType::Decimal128(precision, scale) => {
                Arc::new(primitive::<Decimal128Type>(ints, Some).with_precision_and_scale(*precision, *scale)?)
            }
            DataType::Float64 => Arc::new(
                answers
                    .map(|answer| if let Answer::Float(bits) = answer { Some(f64::from_bits(*bits)) } else { None })
                    .collect::<Float64Array>(),
            ),
            other => return Err(ArrowError::NotYetImplemented(format!("an aggregate of type {other}"))),
        })
    }

    /// Values of `min` and `max` from their bytes. An absent value takes the place of any other
    /// and is then masked out.
    fn decode_values<'a>(&self, answers: impl Iterator<Item = &'a Answer> + Clone, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let codec = self.codec.as_ref().ok_or_else(|| ArrowError::ComputeError("min and max keep values".to_owned()))?;
        let present = answers.clone().filter_map(|answer| if let Answer::Bytes(value) = answer { Some(&**value) } else { None });
        let decoded = codec.decode(present)?;
        let mut next = 0;
        let take: UInt32Array = answers
            .map(|answer| {
                matches!(answer, Answer::Bytes(_)).then(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let taken = arrow::compute::take(&decoded[0], &take, None)?;
        if taken.data_type() == data_type { Ok(taken) } else { cast(&taken, data_type) }
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<i128>>,
    narrow: impl Fn(i128) -> Option<T::Native>,
) -> arrow::array::PrimitiveArray<T> {
    values.map(|value| value.and_then(&narrow)).collect()
}
