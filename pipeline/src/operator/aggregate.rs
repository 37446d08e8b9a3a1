//! `GROUP BY`, and `DISTINCT`, which is a GROUP BY of everything with no aggregate.
//!
//! A group's state is a sum over its rows, and so is what a step changes in it: the step gathers
//! sums of the same form beside the state, emits for each touched group whose answer differs the old
//! answer with `-1` and the new one with `+1`, and adds them to the state when it is over.
//!
//! | aggregate | state | cost of a change |
//! |---|---|---|
//! | `count` | a number | constant |
//! | `sum`, `avg` of integers and decimals | a wider integer, so that only the answer can overflow | constant |
//! | `sum`, `avg` of floats | [`ExactSum`] | constant |
//! | `min`, `max` | values in order, with counts | logarithmic in the group |
//! | any other | the group's rows | the group, once an epoch |
//!
//! What is not known: an aggregate over a column that failed in one row of the group has failed; a
//! row in doubt fails every aggregate of its group, and a group of nothing else is in doubt itself.
//! A row whose *group* is not known may be of any: while there is one, every aggregate of every
//! group has failed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, UInt32Array,
    UInt64Array, make_comparator, new_null_array,
};
use arrow::compute::{SortOptions, cast, concat};
use arrow::datatypes::{
    DataType, Decimal128Type, DecimalType, Float32Type, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type, i256,
};
use arrow::error::ArrowError;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::delta::{Delta, add_count, pieces, repeated};
use crate::exact::ExactSum;
use crate::expr::{Aggregate, ExprError, caught};
use crate::fault::{CAUSES_MAX, Cause, Fault, Faults};
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;
use crate::row::{OrderCodec, RowBytes, RowCodec, UNKNOWN_KEY, batch_of};
use crate::state::{Handle, Keyed, Reader, State, Value, write_bytes};

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
    key_codec: RowCodec,
    key_columns: Vec<usize>,
    key_schema: SchemaRef,
    calls: Vec<Call>,
    groups: Handle<Keyed<Group>>,
    /// Without group columns there is always one row, also over no input: the group of this key.
    global: Option<RowBytes>,
    /// What this step (or epoch) changes in each group.
    changes: HashMap<RowBytes, Group>,
    is_finished: bool,
}

struct Call {
    kind: AggregateKind,
    argument: Option<usize>,
    arguments: Vec<usize>,
    filter: Option<usize>,
    /// For those that keep values or rows.
    codec: Option<OrderCodec>,
    data_type: DataType,
    argument_type: Option<DataType>,
}

/// A sum over rows: of a group, or of what a step changes in it.
///
/// Numbers of rows are added with `add_count`. With these no more than 2^63, sums fit: of integers
/// within 2^126, of decimals within 2^190; and the NaNs and infinities of a float are among its values.
#[derive(Debug, Default)]
pub struct Group {
    /// Rows that are there for sure.
    rows: i64,
    sums: Vec<Sum>,
    faults: Option<Box<GroupFaults>>,
}

/// What is not known of a group's rows.
#[derive(Debug, Default)]
struct GroupFaults {
    /// Rows that may be there.
    doubtful: i64,
    /// For each aggregate, rows for which its argument or filter failed.
    failed: Vec<i64>,
    /// Why, counted, so that a cause goes with the last row that has it.
    causes: BTreeMap<Cause, i64>,
}

#[derive(Debug)]
enum Sum {
    Count(i64),
    Integers { values: i64, sum: i128 },
    Decimals { values: i64, sum: i256 },
    Floats { values: i64, sum: ExactSum },
    Values(Counts),
}

/// Values in order, with counts.
#[derive(Debug, Default)]
struct Counts {
    by_value: BTreeMap<RowBytes, i64>,
    bytes: usize,
}

/// An answer of one aggregate, in the shape its column is built from.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Null,
    Int(i128),
    Float(u64),
    Bytes(RowBytes),
    Array(ArrayEq),
    /// It has none that is known.
    Failed,
}

impl Answer {
    /// Bytes of its own.
    fn bytes(&self) -> usize {
        match self {
            Answer::Bytes(value) => value.len(),
            Answer::Array(array) => array.0.get_array_memory_size(),
            _ => 0,
        }
    }
}

#[derive(Clone, Debug)]
struct ArrayEq(ArrayRef);

impl PartialEq for ArrayEq {
    fn eq(&self, other: &ArrayEq) -> bool {
        self.0.as_ref() == other.0.as_ref()
            || make_comparator(&self.0, &other.0, SortOptions::default()).is_ok_and(|compare| compare(0, 0).is_eq())
    }
}

/// A row of output.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    answers: Vec<Answer>,
    fault: Option<Fault>,
}

impl Counts {
    fn add(&mut self, value: &[u8], weight: i64) {
        // What an entry costs in the tree besides its bytes: pointer, length, count.
        const ENTRY_BYTES: usize = 24;
        match self.by_value.get_mut(value) {
            Some(count) => {
                add_count(count, weight);
                if *count == 0 {
                    self.by_value.remove(value);
                    self.bytes -= value.len() + ENTRY_BYTES;
                }
            }
            None => {
                self.by_value.insert(value.into(), weight);
                self.bytes += value.len() + ENTRY_BYTES;
            }
        }
    }
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
                DataType::Float32 => {
                    Values::Float64(array.as_primitive::<Float32Type>().unary::<_, Float64Type>(f64::from))
                }
                other => return Err(ArrowError::NotYetImplemented(format!("sum of {other}"))),
            },
            (_, None, None) => Values::None,
        };
        Ok(Column { filter, valid, values })
    }

    fn update(&self, state: &mut Sum, row: usize, weight: i64) {
        if self.filter.is_some_and(|filter| filter.is_null(row) || !filter.value(row))
            || self.valid.as_ref().is_some_and(|valid| valid.is_null(row))
        {
            return;
        }
        match (state, &self.values) {
            (Sum::Count(count), _) => add_count(count, weight),
            (Sum::Integers { values, sum }, Values::Int64(array)) => {
                add_count(values, weight);
                *sum += i128::from(array.value(row)) * i128::from(weight);
            }
            (Sum::Integers { values, sum }, Values::UInt64(array)) => {
                add_count(values, weight);
                *sum += i128::from(array.value(row)) * i128::from(weight);
            }
            (Sum::Decimals { values, sum }, Values::Decimal128(array)) => {
                add_count(values, weight);
                let term = i256::from_i128(array.value(row)).wrapping_mul(i256::from_i128(i128::from(weight)));
                *sum = sum.wrapping_add(term);
            }
            (Sum::Floats { values, sum }, Values::Float64(array)) => {
                add_count(values, weight);
                sum.add(array.value(row), weight);
            }
            (Sum::Values(counts), Values::Rows(rows)) => counts.add(rows.row(row).data(), weight),
            _ => unreachable!("a call's state and values are made from the same argument type"),
        }
    }
}

impl Counts {
    /// The least of the values of both, or the greatest.
    fn extreme<'a>(&'a self, change: Option<&'a Counts>, greatest: bool) -> Option<&'a RowBytes> {
        fn first<'a>(
            mut values: impl DoubleEndedIterator<Item = &'a RowBytes>,
            greatest: bool,
        ) -> Option<&'a RowBytes> {
            if greatest { values.next_back() } else { values.next() }
        }
        let Some(change) = change else { return first(self.by_value.keys(), greatest) };
        let stays = |(value, count): (&'a RowBytes, &'a i64)| {
            (count + change.by_value.get(value).copied().unwrap_or(0) != 0).then_some(value)
        };
        let held = first(self.by_value.iter().filter_map(stays), greatest);
        let fresh = first(change.by_value.keys().filter(|value| !self.by_value.contains_key(*value)), greatest);
        match (held, fresh) {
            (Some(held), Some(fresh)) if (fresh > held) == greatest => Some(fresh),
            (Some(held), _) => Some(held),
            (None, fresh) => fresh,
        }
    }

    /// The values of both, in order, with the sums of their counts.
    fn with<'a>(&'a self, change: Option<&'a Counts>) -> Vec<(&'a RowBytes, i64)> {
        let mut all: BTreeMap<&RowBytes, i64> = self.by_value.iter().map(|(value, count)| (value, *count)).collect();
        for (value, count) in change.into_iter().flat_map(|change| &change.by_value) {
            *all.entry(value).or_default() += count;
        }
        all.into_iter().filter(|(_, count)| *count != 0).collect()
    }
}

impl GroupFaults {
    fn count(&mut self, causes: &[Cause], weight: i64) {
        for cause in causes {
            match self.causes.entry(cause.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(weight)),
                Entry::Occupied(mut entry) => {
                    add_count(entry.get_mut(), weight);
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
        }
    }

    fn add(&mut self, other: &GroupFaults) {
        add_count(&mut self.doubtful, other.doubtful);
        self.failed.resize(self.failed.len().max(other.failed.len()), 0);
        self.failed.iter_mut().zip(&other.failed).for_each(|(failed, more)| add_count(failed, *more));
        other.causes.iter().for_each(|(cause, weight)| self.count(std::slice::from_ref(cause), *weight));
    }

    fn is_empty(&self) -> bool {
        self.doubtful == 0 && self.failed.iter().all(|failed| *failed == 0) && self.causes.is_empty()
    }
}

impl Group {
    fn doubtful(&self) -> i64 {
        self.faults.as_ref().map_or(0, |faults| faults.doubtful)
    }

    fn failed(&self, call: usize) -> i64 {
        self.faults.as_ref().and_then(|faults| faults.failed.get(call)).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 && self.doubtful() == 0
    }

    fn faults_mut(&mut self, calls: usize) -> &mut GroupFaults {
        self.faults.get_or_insert_with(|| Box::new(GroupFaults { failed: vec![0; calls], ..GroupFaults::default() }))
    }

    /// Becomes the sum of both.
    fn add(&mut self, change: Group) {
        add_count(&mut self.rows, change.rows);
        if self.sums.is_empty() {
            self.sums = change.sums;
        } else {
            self.sums.iter_mut().zip(change.sums).for_each(|(sum, change)| sum.add(change));
        }
        if let Some(more) = change.faults {
            match &mut self.faults {
                Some(faults) => faults.add(&more),
                none => *none = Some(more),
            }
            if self.faults.as_ref().is_some_and(|faults| faults.is_empty()) {
                self.faults = None;
            }
        }
    }
}

impl Sum {
    fn add(&mut self, change: Sum) {
        match (self, change) {
            (Sum::Count(count), Sum::Count(more)) => add_count(count, more),
            (Sum::Integers { values, sum }, Sum::Integers { values: more, sum: by }) => {
                add_count(values, more);
                *sum += by;
            }
            (Sum::Decimals { values, sum }, Sum::Decimals { values: more, sum: by }) => {
                add_count(values, more);
                *sum = sum.wrapping_add(by);
            }
            (Sum::Floats { values, sum }, Sum::Floats { values: more, sum: by }) => {
                add_count(values, more);
                sum.add_sum(&by);
            }
            (Sum::Values(counts), Sum::Values(more)) => {
                more.by_value.iter().for_each(|(value, weight)| counts.add(value, *weight))
            }
            _ => unreachable!("a call's sums are made from the same argument type"),
        }
    }

    /// The sum of both, of what is cheap to add; `values` are looked at beside each other.
    fn with(&self, change: Option<&Sum>) -> Option<Sum> {
        let mut sum = match self {
            Sum::Count(count) => Sum::Count(*count),
            Sum::Integers { values, sum } => Sum::Integers { values: *values, sum: *sum },
            Sum::Decimals { values, sum } => Sum::Decimals { values: *values, sum: *sum },
            Sum::Floats { values, sum } => Sum::Floats { values: *values, sum: sum.clone() },
            Sum::Values(_) => return None,
        };
        match change {
            Some(Sum::Floats { values, sum: by }) => sum.add(Sum::Floats { values: *values, sum: by.clone() }),
            Some(Sum::Count(count)) => sum.add(Sum::Count(*count)),
            Some(Sum::Integers { values, sum: by }) => sum.add(Sum::Integers { values: *values, sum: *by }),
            Some(Sum::Decimals { values, sum: by }) => sum.add(Sum::Decimals { values: *values, sum: *by }),
            Some(Sum::Values(_)) | None => {}
        }
        Some(sum)
    }
}

impl Value for Group {
    fn write(&self, out: &mut Vec<u8>) {
        let int = |out: &mut Vec<u8>, n: i64| out.extend_from_slice(&n.to_le_bytes());
        let counts = |out: &mut Vec<u8>, counts: &Counts| {
            int(out, i64::try_from(counts.by_value.len()).unwrap_or(i64::MAX));
            for (value, count) in &counts.by_value {
                write_bytes(out, value);
                out.extend_from_slice(&count.to_le_bytes());
            }
        };
        int(out, self.rows);
        int(out, i64::try_from(self.sums.len()).unwrap_or(i64::MAX));
        for sum in &self.sums {
            match sum {
                Sum::Count(count) => {
                    out.push(0);
                    int(out, *count);
                }
                Sum::Integers { values, sum } => {
                    out.push(1);
                    int(out, *values);
                    out.extend_from_slice(&sum.to_le_bytes());
                }
                Sum::Decimals { values, sum } => {
                    out.push(2);
                    int(out, *values);
                    out.extend_from_slice(&sum.to_le_bytes());
                }
                Sum::Floats { values, sum } => {
                    out.push(3);
                    int(out, *values);
                    sum.write(out);
                }
                Sum::Values(values) => {
                    out.push(4);
                    counts(out, values);
                }
            }
        }
        out.push(u8::from(self.faults.is_some()));
        if let Some(faults) = &self.faults {
            int(out, faults.doubtful);
            int(out, i64::try_from(faults.failed.len()).unwrap_or(i64::MAX));
            faults.failed.iter().for_each(|failed| int(out, *failed));
            int(out, i64::try_from(faults.causes.len()).unwrap_or(i64::MAX));
            for (cause, count) in &faults.causes {
                write_bytes(out, cause.reason.as_bytes());
                write_bytes(out, cause.at.as_bytes());
                int(out, *count);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Group> {
        let rows = from.i64()?;
        let mut sums = Vec::new();
        for _ in 0..from.i64()? {
            sums.push(match from.u8()? {
                0 => Sum::Count(from.i64()?),
                1 => Sum::Integers { values: from.i64()?, sum: from.i128()? },
                2 => Sum::Decimals { values: from.i64()?, sum: i256::from_le_bytes(from.take(32)?.try_into().ok()?) },
                3 => Sum::Floats { values: from.i64()?, sum: ExactSum::read(from)? },
                4 => {
                    let mut counts = Counts::default();
                    for _ in 0..from.i64()? {
                        let value = from.bytes()?;
                        counts.add(value, from.i64()?);
                    }
                    Sum::Values(counts)
                }
                _ => return None,
            });
        }
        let faults = match from.u8()? {
            0 => None,
            _ => {
                let doubtful = from.i64()?;
                let failed = (0..from.i64()?).map(|_| from.i64()).collect::<Option<_>>()?;
                let mut causes = BTreeMap::new();
                for _ in 0..from.i64()? {
                    let mut text = || std::str::from_utf8(from.bytes()?).ok().map(Arc::from);
                    let cause = Cause { reason: text()?, at: text()? };
                    causes.insert(cause, from.i64()?);
                }
                Some(Box::new(GroupFaults { doubtful, failed, causes }))
            }
        };
        Some(Group { rows, sums, faults })
    }

    fn heap_bytes(&self) -> usize {
        let of_sum = |sum: &Sum| match sum {
            Sum::Values(counts) => counts.bytes,
            Sum::Floats { sum, .. } => sum.heap_bytes(),
            _ => 0,
        };
        let faults = self
            .faults
            .as_ref()
            .map_or(0, |faults| size_of::<GroupFaults>() + faults.failed.len() * 8 + faults.causes.len() * 48);
        self.sums.capacity() * size_of::<Sum>() + self.sums.iter().map(of_sum).sum::<usize>() + faults
    }
}

impl GroupBy {
    /// Groups rows of a node by the first columns of `schema`; `group`, and the calls' arguments and
    /// filters, are columns of the view.
    ///
    /// # Errors
    /// When a column's type has no row format, or an aggregate is not defined for its argument.
    pub fn new(
        node: &SchemaRef,
        view: View,
        group: &[usize],
        calls: Vec<AggregateCall>,
        schema: SchemaRef,
        groups: Handle<Keyed<Group>>,
    ) -> Result<GroupBy, ArrowError> {
        let key_columns: Vec<usize> = group.iter().map(|&column| view.place(column)).collect();
        let key_codec = RowCodec::new(node, &key_columns)?;
        let key_schema = Arc::new(Schema::new(schema.fields()[..group.len()].to_vec()));
        let calls = calls
            .into_iter()
            .enumerate()
            .map(|(i, call)| {
                let arguments: Vec<usize> = call.arguments.iter().map(|&column| view.place(column)).collect();
                let codec = match call.kind {
                    AggregateKind::Min | AggregateKind::Max | AggregateKind::Other(_) => Some(OrderCodec::new(
                        node,
                        &arguments.iter().map(|&column| (column, SortOptions::default())).collect::<Vec<_>>(),
                    )?),
                    _ => None,
                };
                Ok(Call {
                    argument: arguments.first().copied(),
                    argument_type: arguments.first().map(|&column| node.field(column).data_type().clone()),
                    arguments,
                    kind: call.kind,
                    filter: call.filter.map(|column| view.place(column)),
                    codec,
                    data_type: schema.field(group.len() + i).data_type().clone(),
                })
            })
            .collect::<Result<Vec<_>, ArrowError>>()?;
        let global = if group.is_empty() {
            let one_row = batch_of(&key_schema, Vec::new(), 1)?;
            Some(key_codec.encode(&one_row)?.row(0).into())
        } else {
            None
        };
        Ok(GroupBy {
            schema,
            key_codec,
            key_columns,
            key_schema,
            calls,
            groups,
            global,
            changes: HashMap::new(),
            is_finished: false,
        })
    }

    /// Whether every aggregate's cost follows the change, not the group.
    #[must_use]
    pub fn is_incremental(calls: &[AggregateCall]) -> bool {
        !calls.iter().any(|call| matches!(call.kind, AggregateKind::Other(_)))
    }

    fn take_in(&mut self, input: &Delta) -> Result<(), ArrowError> {
        let keys = self.key_codec.encode(&input.batch)?;
        let columns = self.calls.iter().map(|call| Column::of(call, &input.batch)).collect::<Result<Vec<_>, _>>()?;
        for (i, &weight) in input.weights.iter().enumerate() {
            let fault = input.fault(i);
            let has_failed = |column: usize| fault.is_some_and(|fault| fault.has_failed(column));
            let is_unknown = fault.is_some() && self.key_columns.iter().any(|&column| has_failed(column));
            let key = if is_unknown { UNKNOWN_KEY } else { keys.row(i) };
            let group = match self.changes.entry_ref(key) {
                EntryRef::Occupied(group) => group.into_mut(),
                EntryRef::Vacant(entry) => {
                    let sums = self.calls.iter().map(Call::sum).collect();
                    entry.insert_with_key(key.into(), Group { rows: 0, sums, faults: None })
                }
            };
            if let Some(fault) = fault.filter(|fault| is_unknown || fault.doubt) {
                let faults = group.faults_mut(self.calls.len());
                add_count(&mut faults.doubtful, weight);
                faults.count(&fault.causes, weight);
                continue;
            }
            add_count(&mut group.rows, weight);
            let mut failed_here = false;
            for (at, ((call, column), sum)) in self.calls.iter().zip(&columns).zip(&mut group.sums).enumerate() {
                let has_failed =
                    fault.is_some() && call.arguments.iter().chain(&call.filter).any(|&column| has_failed(column));
                if has_failed {
                    failed_here = true;
                    group
                        .faults
                        .get_or_insert_with(|| {
                            Box::new(GroupFaults { failed: vec![0; self.calls.len()], ..GroupFaults::default() })
                        })
                        .failed[at] += weight;
                } else {
                    column.update(sum, i, weight);
                }
            }
            if let Some(fault) = fault.filter(|_| failed_here) {
                group.faults_mut(self.calls.len()).count(&fault.causes, weight);
            }
        }
        Ok(())
    }

    /// The row of a group: of what is held, with what is being changed. `None` while it has none.
    fn row(&self, held: Option<&Group>, change: Option<&Group>, is_any_unknown: bool) -> Option<Row> {
        let total = |of: &dyn Fn(&Group) -> i64| held.map_or(0, of) + change.map_or(0, of);
        let (rows, doubtful) = (total(&|group| group.rows), total(&Group::doubtful));
        if rows == 0 && doubtful == 0 && self.global.is_none() {
            return None;
        }
        let empty = Group::default();
        let mut answers = Vec::with_capacity(self.calls.len());
        let mut fault = Fault { doubt: rows == 0 && self.global.is_none(), failed: Vec::new(), causes: Vec::new() };
        for (i, call) in self.calls.iter().enumerate() {
            if doubtful != 0 || is_any_unknown || total(&|group| group.failed(i)) != 0 {
                fault.failed.push(self.key_columns.len() + i);
                answers.push(Answer::Failed);
                continue;
            }
            let (sum, by) = (held.unwrap_or(&empty).sums.get(i), change.and_then(|change| change.sums.get(i)));
            let answer = match (sum, by) {
                (Some(sum), by) => call.answer(sum, by),
                (None, Some(by)) => call.answer(by, None),
                (None, None) => call.answer(&call.sum(), None),
            };
            answers.push(answer.unwrap_or_else(|error| {
                fault.failed.push(self.key_columns.len() + i);
                fault.causes.push(Cause { reason: error.0.into(), at: "".into() });
                Answer::Failed
            }));
        }
        if !fault.doubt && fault.failed.is_empty() {
            return Some(Row { answers, fault: None });
        }
        let causes = self.causes(held, change, is_any_unknown);
        fault.add(&Fault { doubt: false, failed: Vec::new(), causes });
        Some(Row { answers, fault: Some(fault) })
    }

    fn causes(&self, held: Option<&Group>, change: Option<&Group>, is_any_unknown: bool) -> Vec<Cause> {
        fn of(group: Option<&Group>) -> Option<&BTreeMap<Cause, i64>> {
            group.and_then(|group| group.faults.as_ref()).map(|faults| &faults.causes)
        }
        // A fault repeats the least few: no more are looked for, however many rows fail.
        let of_change = |cause: &Cause| of(change).and_then(|causes| causes.get(cause)).copied().unwrap_or(0);
        let is_held = |cause: &Cause| of(held).is_some_and(|causes| causes.contains_key(cause));
        let stay = of(held).into_iter().flatten().filter(|(cause, count)| **count + of_change(cause) != 0);
        let come = of(change).into_iter().flatten().filter(|(cause, count)| **count != 0 && !is_held(cause));
        let mut causes: Vec<Cause> =
            stay.take(CAUSES_MAX).chain(come.take(CAUSES_MAX)).map(|(cause, _)| cause.clone()).collect();
        if is_any_unknown {
            causes.push(Cause {
                reason: "a row may be of this group or of another, because its group failed".into(),
                at: "".into(),
            });
        }
        causes
    }

    /// The row that stands for those whose group is not known.
    fn unknown_row(&self, held: Option<&Group>, change: Option<&Group>) -> Option<Row> {
        if held.map_or(0, Group::doubtful) + change.map_or(0, Group::doubtful) == 0 {
            return None;
        }
        let fault = Fault::anything(self.schema.fields().len(), self.causes(held, change, false));
        Some(Row { answers: vec![Answer::Failed; self.calls.len()], fault: Some(fault) })
    }

    /// What this step (or epoch) changes.
    fn differences(&self, state: &State) -> Vec<(RowBytes, i64, Row)> {
        let groups = state.get(self.groups);
        let held_of = |key: &[u8]| groups.find(key).map(|id| groups.value(id));
        let (unknown, unknown_change) = (held_of(UNKNOWN_KEY), self.changes.get(UNKNOWN_KEY));
        let any_before = unknown.is_some_and(|group| group.doubtful() != 0);
        let any_after = unknown.map_or(0, Group::doubtful) + unknown_change.map_or(0, Group::doubtful) != 0;
        let mut out = Vec::new();
        let mut differ = |key: &[u8], old: Option<Row>, new: Option<Row>| {
            if old != new {
                out.extend(old.map(|row| (key.into(), -1, row)));
                out.extend(new.map(|row| (key.into(), 1, row)));
            }
        };
        let (mut old, mut new) = (None, None);
        if unknown_change.is_some() {
            (old, new) = (self.unknown_row(unknown, None), self.unknown_row(unknown, unknown_change));
        }
        differ(UNKNOWN_KEY, old, new);
        for (key, change) in self.changes.iter().filter(|(key, _)| ***key != *UNKNOWN_KEY) {
            let held = held_of(key);
            differ(key, self.row(held, None, any_before), self.row(held, Some(change), any_after));
        }
        if any_before != any_after {
            for id in groups.ids() {
                let (key, held) = (groups.key(id), groups.value(id));
                if key != UNKNOWN_KEY && !self.changes.contains_key(key) {
                    differ(key, self.row(Some(held), None, any_before), self.row(Some(held), None, any_after));
                }
            }
        }
        out
    }

    fn emit(&self, rows: &[(RowBytes, i64, Row)], step: &mut Step<'_>) -> Result<(), Failure> {
        let size =
            |(key, _, row): &(RowBytes, i64, Row)| key.len() + row.answers.iter().map(Answer::bytes).sum::<usize>();
        for piece in pieces(rows.iter().map(size)) {
            let rows = &rows[piece];
            let unknown = self.key_codec.null_row();
            let keys: Vec<&[u8]> =
                rows.iter().map(|(key, ..)| if **key == *UNKNOWN_KEY { &*unknown } else { &**key }).collect();
            let mut columns = Vec::with_capacity(self.schema.fields().len());
            if !self.key_columns.is_empty() {
                columns = self.key_codec.decode_batch(&self.key_schema, &keys)?.columns().to_vec();
            }
            for (i, call) in self.calls.iter().enumerate() {
                columns.push(call.column(rows.iter().map(|(_, _, row)| &row.answers[i]))?);
            }
            let faults: Faults = rows.iter().map(|(_, _, row)| row.fault.clone().map(Arc::new)).collect();
            let weights = rows.iter().map(|(_, weight, _)| *weight).collect();
            let batch = batch_of(&self.schema, columns, rows.len())?;
            step.emit(Delta::new(batch, weights).with_faults(Some(faults)).net())?;
        }
        Ok(())
    }
}

impl Operator for GroupBy {
    fn when(&self) -> When {
        let whole_groups = self.calls.iter().any(|call| matches!(call.kind, AggregateKind::Other(_)));
        if whole_groups { When::EndOfEpoch } else { When::EndOfStep }
    }

    fn accept(&mut self, _: usize, delta: &Delta, _: &mut Step<'_>) -> Result<(), Failure> {
        Ok(self.take_in(delta)?)
    }

    fn finish(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        self.is_finished = true;
        let differences = self.differences(step.state());
        self.emit(&differences, step)
    }

    fn fold(&mut self, state: &mut State) {
        if !std::mem::take(&mut self.is_finished) {
            return;
        }
        let groups = state.get_mut(self.groups);
        for (key, change) in self.changes.drain() {
            match groups.find(&key) {
                Some(id) => {
                    groups.edit(id, |group| group.add(change));
                    if groups.value(id).is_empty() {
                        groups.remove(id);
                    }
                }
                None if change.is_empty() => {}
                None => drop(groups.insert(&key, &[], change)),
            }
        }
    }

    fn image(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let groups = step.state().get(self.groups);
        let unknown = groups.find(UNKNOWN_KEY).map(|id| groups.value(id));
        let is_any_unknown = unknown.is_some_and(|group| group.doubtful() != 0);
        let mut rows: Vec<(RowBytes, i64, Row)> = Vec::new();
        rows.extend(self.unknown_row(unknown, None).map(|row| (UNKNOWN_KEY.into(), 1, row)));
        if let Some(key) = self.global.as_ref().filter(|key| groups.find(key).is_none()) {
            rows.extend(self.row(None, None, false).map(|row| (key.clone(), 1, row)));
        }
        for id in groups.ids().filter(|&id| groups.key(id) != UNKNOWN_KEY) {
            rows.extend(
                self.row(Some(groups.value(id)), None, is_any_unknown).map(|row| (groups.key(id).into(), 1, row)),
            );
        }
        self.emit(&rows, step)
    }
}

impl Call {
    fn sum(&self) -> Sum {
        match (&self.kind, &self.argument_type) {
            (AggregateKind::Count, _) => Sum::Count(0),
            (AggregateKind::Min | AggregateKind::Max | AggregateKind::Other(_), _) => Sum::Values(Counts::default()),
            (_, Some(DataType::Decimal128(..))) => Sum::Decimals { values: 0, sum: i256::ZERO },
            (_, Some(DataType::Float32 | DataType::Float64)) => Sum::Floats { values: 0, sum: ExactSum::default() },
            _ => Sum::Integers { values: 0, sum: 0 },
        }
    }

    /// The answer over what is held, with what is being changed.
    fn answer(&self, held: &Sum, change: Option<&Sum>) -> Result<Answer, ExprError> {
        let is_avg = matches!(self.kind, AggregateKind::Avg);
        if let Sum::Values(values) = held {
            let change = match change {
                Some(Sum::Values(change)) => Some(change),
                _ => None,
            };
            return Ok(match &self.kind {
                AggregateKind::Other(aggregate) => {
                    Answer::Array(ArrayEq(self.recompute(aggregate.as_ref(), &values.with(change))?))
                }
                kind => {
                    let extreme = values.extreme(change, matches!(kind, AggregateKind::Max));
                    extreme.map_or(Answer::Null, |value| Answer::Bytes(value.clone()))
                }
            });
        }
        let Some(sum) = held.with(change) else { return Ok(Answer::Null) };
        Ok(match sum {
            Sum::Count(count) => Answer::Int(i128::from(count)),
            Sum::Integers { values: 0, .. }
            | Sum::Decimals { values: 0, .. }
            | Sum::Floats { values: 0, .. }
            | Sum::Values(_) => Answer::Null,
            #[expect(clippy::cast_precision_loss, reason = "an average is a float")]
            Sum::Integers { values, sum } if is_avg => Answer::Float((sum as f64 / values as f64).to_bits()),
            Sum::Integers { sum, .. } => {
                let fits = match self.data_type {
                    DataType::UInt64 => u64::try_from(sum).is_ok(),
                    _ => i64::try_from(sum).is_ok(),
                };
                if !fits {
                    return Err(ExprError(format!("sum {sum} is out of range for {}", self.data_type)));
                }
                Answer::Int(sum)
            }
            Sum::Decimals { values, sum } => {
                let sum = if is_avg { self.decimal_average(sum, values)? } else { sum };
                let value = sum.to_i128().filter(|value| self.fits_decimal(*value));
                Answer::Int(value.ok_or_else(|| ExprError(format!("{sum} is out of range for {}", self.data_type)))?)
            }
            #[expect(clippy::cast_precision_loss, reason = "an average is a float")]
            Sum::Floats { values, sum } if is_avg => Answer::Float((sum.value() / values as f64).to_bits()),
            Sum::Floats { sum, .. } => Answer::Float(sum.value().to_bits()),
        })
    }

    fn fits_decimal(&self, value: i128) -> bool {
        let DataType::Decimal128(precision, scale) = self.data_type else { return true };
        Decimal128Type::validate_decimal_precision(value, precision, scale).is_ok()
    }

    /// At the answer's scale, truncated as DataFusion's own `avg` of decimals is.
    fn decimal_average(&self, sum: i256, values: i64) -> Result<i256, ExprError> {
        let (Some(DataType::Decimal128(_, from)), DataType::Decimal128(_, to)) = (&self.argument_type, &self.data_type)
        else {
            return Err(ExprError(format!("average of a decimal is not {}", self.data_type)));
        };
        let scale = u32::try_from(to - from).unwrap_or(0);
        let factor = i256::from_i128(10).wrapping_pow(scale);
        sum.checked_mul(factor)
            .and_then(|sum| sum.checked_div(i256::from_i128(i128::from(values))))
            .ok_or_else(|| ExprError(format!("average is out of range for {}", self.data_type)))
    }

    fn recompute(&self, aggregate: &dyn Aggregate, values: &[(&RowBytes, i64)]) -> Result<ArrayRef, ExprError> {
        let codec = self.codec.as_ref().ok_or_else(|| ExprError("an aggregate over no column".to_owned()))?;
        let copies = repeated(values.iter().map(|(_, count)| count))?;
        let arguments = codec.decode(values.iter().map(|(row, _)| &***row))?;
        let Some(copies) = copies else { return caught(|| aggregate.evaluate(&arguments, values.len())) };
        let arguments =
            arguments.iter().map(|array| arrow::compute::take(array, &copies, None)).collect::<Result<Vec<_>, _>>()?;
        caught(|| aggregate.evaluate(&arguments, copies.len()))
    }

    /// The column of these answers.
    fn column<'a>(&self, answers: impl Iterator<Item = &'a Answer> + Clone) -> Result<ArrayRef, ArrowError> {
        let ints = answers.clone().map(|answer| if let Answer::Int(value) = answer { Some(*value) } else { None });
        Ok(match &self.data_type {
            data_type if matches!(self.kind, AggregateKind::Other(_)) => {
                let of = |answer: &Answer| match answer {
                    Answer::Array(array) => Arc::clone(&array.0),
                    _ => new_null_array(data_type, 1),
                };
                let arrays: Vec<ArrayRef> = answers.map(of).collect();
                concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?
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
    fn decode_values<'a>(
        &self,
        answers: impl Iterator<Item = &'a Answer> + Clone,
        data_type: &DataType,
    ) -> Result<ArrayRef, ArrowError> {
        let codec =
            self.codec.as_ref().ok_or_else(|| ArrowError::ComputeError("min and max keep values".to_owned()))?;
        let present =
            answers.clone().filter_map(|answer| if let Answer::Bytes(value) = answer { Some(&**value) } else { None });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{INT, Kit, TEXT, check, schema};
    use crate::{Input, NodeId};
    use expect_test::expect;

    fn call(kind: AggregateKind, argument: Option<usize>) -> AggregateCall {
        AggregateCall { kind, arguments: argument.into_iter().collect(), filter: None }
    }

    /// Of the orders of a node, by customer: number, sum, least and greatest of a column.
    fn by_customer(kit: &mut Kit, node: NodeId, column: usize) -> Input {
        let calls = vec![
            call(AggregateKind::Count, None),
            call(AggregateKind::Sum, Some(column)),
            call(AggregateKind::Min, Some(column)),
            call(AggregateKind::Max, Some(column)),
        ];
        let out = schema(&[("c", INT), ("n", INT), ("sum", INT), ("min", INT), ("max", INT)]);
        let input = kit.all(node);
        let node = kit.dataflow.group_by("by c".to_owned(), &input, vec![1], calls, out, "");
        kit.all(node)
    }

    #[test]
    fn groups_come_change_and_go() {
        check(
            |kit| by_customer(kit, kit.o, 2),
            "+o(1, 1, 5) +o(2, 1, 7) +o(3, _, 1); ~o(1, 1, 9); ~o(2, 2, 7); ~o(2, 2, 7); -o(1) -o(2) +o(4, 1, _); -o(3)",
            &expect![[r#"
                1: +(1, 2, 12, 5, 7) +(_, 1, 1, 1, 1)
                2: -(1, 2, 12, 5, 7) +(1, 2, 16, 7, 9)
                3: +(1, 1, 9, 9, 9) -(1, 2, 16, 7, 9) +(2, 1, 7, 7, 7)
                5: -(1, 1, 9, 9, 9) +(1, 1, _, _, _) -(2, 1, 7, 7, 7)
                6: -(_, 1, 1, 1, 1)
            "#]],
        );
    }

    /// What came and went within an epoch is nothing, and so is a sum that is the same again.
    #[test]
    fn a_group_that_is_as_it_was_says_nothing() {
        check(
            |kit| by_customer(kit, kit.o, 2),
            "+o(1, 1, 5) +o(2, 1, 7); ~o(1, 1, 7) ~o(2, 1, 5); +o(3, 2, 1) | -o(3)",
            &expect![[r#"
            1: +(1, 2, 12, 5, 7)
        "#]],
        );
    }

    /// Over no input there is one row all the same, from the first epoch on.
    #[test]
    fn without_groups_there_is_always_one_row() {
        check(
            |kit| {
                let calls = vec![call(AggregateKind::Count, None), call(AggregateKind::Sum, Some(2))];
                let input = kit.all(kit.o);
                let node = kit.dataflow.group_by(
                    "all".to_owned(),
                    &input,
                    vec![],
                    calls,
                    schema(&[("n", INT), ("sum", INT)]),
                    "",
                );
                kit.all(node)
            },
            "+o(1, 1, 5); ~o(1, 1, _); -o(1)",
            &expect![[r#"
                0: +(0, _)
                1: -(0, _) +(1, 5)
                2: -(1, 5) +(1, _)
                3: +(0, _) -(1, _)
            "#]],
        );
    }

    #[test]
    fn distinct_is_a_group_without_aggregates() {
        check(
            |kit| {
                let input = kit.some(kit.l, &[1]);
                let node =
                    kit.dataflow.group_by("distinct".to_owned(), &input, vec![0], vec![], schema(&[("t", TEXT)]), "");
                kit.all(node)
            },
            "+l(1, x) +l(2, x) +l(3, _); -l(1, x); -l(2, x) -l(3, _)",
            &expect![[r#"
                1: +(_) +(x)
                3: -(_) -(x)
            "#]],
        );
    }

    /// A filter that is not true leaves the row out of its aggregate only.
    #[test]
    fn a_filter_is_the_aggregates_own() {
        check(
            |kit| {
                let positive = crate::testing::RowFn::new(&[2], |row| Ok(row[0].map(|n| i64::from(n > 0)))).boolean();
                let node = kit.with(kit.o, "positive", DataType::Boolean, positive);
                let sum = AggregateCall { kind: AggregateKind::Sum, arguments: vec![2], filter: Some(3) };
                let input = kit.all(node);
                let calls = vec![call(AggregateKind::Count, Some(2)), sum];
                let node = kit.dataflow.group_by(
                    "by c".to_owned(),
                    &input,
                    vec![1],
                    calls,
                    schema(&[("c", INT), ("n", INT), ("sum", INT)]),
                    "",
                );
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, -7) +o(3, 1, _); -o(1)",
            &expect![[r#"
                1: +(1, 2, 5)
                2: +(1, 1, _) -(1, 2, 5)
            "#]],
        );
    }

    /// A sum out of range has no value until it is back in range; the other aggregates have.
    #[test]
    fn a_sum_that_overflows_is_withheld() {
        check(
            |kit| by_customer(kit, kit.o, 2),
            "+o(1, 1, 9223372036854775807) +o(2, 1, 1) +o(3, 2, 1); ~o(2, 1, -1)",
            &expect![[r#"
                1: +(2, 1, 1, 1, 1)
                   ? c = 1, n = 2, sum = ?, min = 1, max = 9223372036854775807 [sum 9223372036854775808 is out of range for Int64]
                2: +(1, 2, 9223372036854775806, -1, 9223372036854775807)
            "#]],
        );
    }

    /// An argument that failed fails what is computed of it, in its group alone.
    #[test]
    fn a_failed_argument() {
        check(
            |kit| {
                let node = kit.with_quotient();
                by_customer(kit, node, 3)
            },
            "+o(1, 1, 5) +o(2, 1, 0) +o(3, 2, 2); ~o(1, 1, 10); -o(2)",
            &expect![[r#"
                1: +(2, 1, 5, 5, 5)
                   ? c = 1, n = 2, sum = ?, min = ?, max = ? [division by zero (id = 2)]
                2: ? c = 1, n = 2, sum = ?, min = ?, max = ? [division by zero (id = 2)]
                3: +(1, 1, 1, 1, 1)
            "#]],
        );
        check(
            |kit| {
                let node = kit.with_quotient();
                let input = kit.all(node);
                let node = kit.dataflow.group_by(
                    "by c".to_owned(),
                    &input,
                    vec![1],
                    vec![call(AggregateKind::Count, None)],
                    schema(&[("c", INT), ("n", INT)]),
                    "",
                );
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 0)",
            &expect![[r#"
                1: +(1, 2)
            "#]],
        );
    }

    /// A row in doubt: its group is not known to the last aggregate, and one of nothing else may not
    /// be there.
    #[test]
    fn a_row_in_doubt() {
        check(
            |kit| {
                let node = kit.where_quotient();
                by_customer(kit, node, 2)
            },
            "+o(1, 1, 5) +o(2, 1, 0) +o(3, 2, 0) +o(4, 3, 1); -o(2); ~o(3, 2, 1)",
            &expect![[r#"
                1: +(3, 1, 1, 1, 1)
                   ? c = 1, n = ?, sum = ?, min = ?, max = ? [division by zero (id = 2)]
                   ? in doubt: c = 2, n = ?, sum = ?, min = ?, max = ? [division by zero (id = 3)]
                2: +(1, 1, 5, 5, 5)
                   ? in doubt: c = 2, n = ?, sum = ?, min = ?, max = ? [division by zero (id = 3)]
                3: +(2, 1, 1, 1, 1)
            "#]],
        );
    }

    /// A row whose group is not known may be of any.
    #[test]
    fn a_failed_group() {
        check(
            |kit| {
                let node = kit.with_quotient();
                let input = kit.all(node);
                let calls = vec![call(AggregateKind::Count, None)];
                let node = kit.dataflow.group_by(
                    "by q".to_owned(),
                    &input,
                    vec![3],
                    calls,
                    schema(&[("q", INT), ("n", INT)]),
                    "",
                );
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 5); +o(3, 1, 0); +o(4, 1, 2); +o(5, 1, 0); -o(3); -o(5) +o(6, 1, 2)",
            &expect![[r#"
                1: +(2, 2)
                2: -(2, 2)
                   ? q = 2, n = ? [a row may be of this group or of another, because its group failed]
                   ? in doubt: q = ?, n = ? [division by zero (id = 3)]
                3: ? q = 2, n = ? [a row may be of this group or of another, because its group failed]
                   ? q = 5, n = ? [a row may be of this group or of another, because its group failed]
                   ? in doubt: q = ?, n = ? [division by zero (id = 3)]
                4: ? q = 2, n = ? [a row may be of this group or of another, because its group failed]
                   ? q = 5, n = ? [a row may be of this group or of another, because its group failed]
                   ? in doubt: q = ?, n = ? [division by zero (id = 3); division by zero (id = 5)]
                5: ? q = 2, n = ? [a row may be of this group or of another, because its group failed]
                   ? q = 5, n = ? [a row may be of this group or of another, because its group failed]
                   ? in doubt: q = ?, n = ? [division by zero (id = 5)]
                6: +(2, 2) +(5, 2)
            "#]],
        );
    }

    /// Distinct groups are there for sure whatever else may be.
    #[test]
    fn a_failed_group_of_distinct() {
        check(
            |kit| {
                let node = kit.with_quotient();
                let input = kit.some(node, &[3]);
                let node =
                    kit.dataflow.group_by("distinct".to_owned(), &input, vec![0], vec![], schema(&[("q", INT)]), "");
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 0); +o(3, 1, 2); -o(2)",
            &expect![[r#"
                1: +(2)
                   ? in doubt: q = ? [division by zero (id = 2)]
                2: +(5)
                   ? in doubt: q = ? [division by zero (id = 2)]
            "#]],
        );
    }

    /// The values of an aggregate that is computed anew, joined.
    struct Joined;

    impl Aggregate for Joined {
        fn evaluate(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, ExprError> {
            let ints = arguments[0].as_primitive::<Int64Type>();
            assert_eq!(ints.len(), rows);
            if ints.iter().flatten().any(|n| n == 13) {
                return Err(ExprError("unlucky".to_owned()));
            }
            let joined = ints.iter().map(|n| n.map_or("_".to_owned(), |n| n.to_string())).collect::<Vec<_>>().join("+");
            Ok(Arc::new(arrow::array::StringArray::from(vec![joined])))
        }

        fn data_type(&self) -> &DataType {
            &DataType::Utf8
        }
    }

    /// Groups over the one row of an aggregate of nothing. A fresh program had taken that row in and waited
    /// for the end of the epoch; state that was read then came beneath it, and the row stood for good.
    #[test]
    fn groups_over_an_aggregate_of_no_rows() {
        check(
            |kit| {
                let input = kit.all(kit.o);
                let counted = vec![call(AggregateKind::Count, None)];
                let one = kit.dataflow.group_by("n".to_owned(), &input, vec![], counted, schema(&[("n", INT)]), "");
                let input = kit.all(one);
                let joined = vec![call(AggregateKind::Other(Box::new(Joined)), Some(0))];
                let out = schema(&[("n", INT), ("t", TEXT)]);
                let node = kit.dataflow.group_by("by n".to_owned(), &input, vec![0], joined, out, "joined");
                kit.all(node)
            },
            "+o(1, 1, 5); +o(2, 1, 5); -o(1) -o(2); +o(3, 1, 1)",
            &expect![[r#"
                0: +(0, 0)
                1: -(0, 0) +(1, 1)
                2: -(1, 1) +(2, 2)
                3: +(0, 0) -(2, 2)
                4: -(0, 0) +(1, 1)
            "#]],
        );
    }

    /// Any other aggregate is computed anew, once an epoch, over the rows in order.
    #[test]
    fn any_other_aggregate() {
        check(
            |kit| {
                let calls =
                    vec![call(AggregateKind::Other(Box::new(Joined)), Some(2)), call(AggregateKind::Count, None)];
                let input = kit.all(kit.o);
                let node = kit.dataflow.group_by(
                    "by c".to_owned(),
                    &input,
                    vec![1],
                    calls,
                    schema(&[("c", INT), ("t", TEXT), ("n", INT)]),
                    "joined",
                );
                kit.all(node)
            },
            "+o(1, 1, 5) +o(2, 1, 5) +o(3, 1, _) +o(4, 2, 1); +o(5, 1, 3) | -o(1); ~o(5, 1, 13); -o(5)",
            &expect![[r#"
                1: +(1, _+5+5, 3) +(2, 1, 1)
                2: +(1, _+3+5, 3) -(1, _+5+5, 3)
                3: -(1, _+3+5, 3)
                   ? c = 1, t = ?, n = 3 [unlucky]
                4: +(1, _+5, 2)
            "#]],
        );
    }

    /// Rows that each can be counted, together can not: the program stops with the reason, where the
    /// count went on below zero.
    #[test]
    #[should_panic(expected = "rows stand more often than can be counted: 7680000000000000000 and")]
    fn a_count_that_does_not_fit_stops_the_program() {
        let mut kit = Kit::new();
        let mut node = kit.l;
        for power in [2, 4, 8] {
            let side = kit.dataflow.arrange(node, vec![0], crate::arrangement::NullKeys::NeverMatch);
            let schema = Arc::new(kit.dataflow.schema(kit.l).project(&[0]).expect("a column"));
            let columns = vec![(crate::JoinSide::Left, 0)];
            let label = format!("to the power of {power}");
            node = kit.dataflow.join(label, crate::JoinKind::Inner, (side, side), columns, schema);
        }
        let input = kit.all(node);
        let four = kit.dataflow.union(&vec![input; 4], schema(&[("a", INT)]));
        let input = kit.all(four);
        let call = AggregateCall { kind: AggregateKind::Count, arguments: vec![], filter: None };
        let node = kit.dataflow.group_by("n".to_owned(), &input, vec![], vec![call], schema(&[("n", INT)]), "");
        let input = kit.all(node);
        kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
        let mut program = crate::Program::new(kit.dataflow).expect("a program");
        let step = crate::testing::changes(&program, &"+l(1, x)".repeat(200));
        let _ = program.apply(&step);
    }

    /// A column as another type.
    struct As(usize, DataType);

    impl crate::Expr for As {
        fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
            Ok(cast(batch.column(self.0), &self.1)?)
        }

        fn columns(&self) -> Vec<usize> {
            vec![self.0]
        }
    }

    /// Of the orders' amounts as another type: sum, average, least and greatest, by customer.
    fn check_type(
        argument: &DataType,
        (sum, avg, extreme): (&DataType, &DataType, &DataType),
        story: &str,
        expected: &expect_test::Expect,
    ) {
        check(
            |kit| {
                let input = kit.all(kit.o);
                let exprs: Vec<Box<dyn crate::Expr>> =
                    vec![Box::new(crate::testing::Column(1)), Box::new(As(2, argument.clone()))];
                let out = schema(&[("c", INT), ("n", argument.clone())]);
                let node = kit.dataflow.project("as".to_owned(), &input, out, exprs, "as", &[0]);
                let calls = [AggregateKind::Sum, AggregateKind::Avg, AggregateKind::Min, AggregateKind::Max];
                let calls = calls.into_iter().map(|kind| call(kind, Some(1))).collect();
                let types = [("sum", sum), ("avg", avg), ("min", extreme), ("max", extreme)];
                let columns = types.map(|(name, data_type)| (name, data_type.clone()));
                let out = schema(&[&[("c", INT)], &columns[..]].concat());
                let input = kit.all(node);
                let node = kit.dataflow.group_by("by c".to_owned(), &input, vec![0], calls, out, "");
                kit.all(node)
            },
            story,
            expected,
        );
    }

    const OF_EACH_TYPE: &str =
        "+o(1, 1, 7) +o(2, 1, 2) +o(3, 1, _) +o(4, 2, 5); +o(5, 1, 4); ~o(1, 1, 3) -o(4); -o(1) -o(2) -o(5)";

    /// A row that stands several times counts as often, whatever the type of its number.
    #[test]
    fn a_row_counts_as_often_as_it_stands() {
        for (argument, sum) in [
            (INT, INT),
            (DataType::UInt64, DataType::UInt64),
            (DataType::Decimal128(10, 0), DataType::Decimal128(20, 0)),
            (DataType::Float64, DataType::Float64),
        ] {
            check(
                |kit| {
                    let as_type = |kit: &mut Kit, node, a: &DataType| {
                        let exprs: Vec<Box<dyn crate::Expr>> =
                            vec![Box::new(As(0, a.clone())), Box::new(crate::testing::Column(1))];
                        let out = schema(&[("a", a.clone()), ("t", TEXT)]);
                        kit.dataflow.project(format!("as {a}"), &kit.all(node), out, exprs, &a.to_string(), &[0])
                    };
                    let node = as_type(kit, kit.l, &argument);
                    let calls = vec![call(AggregateKind::Sum, Some(0))];
                    let out = schema(&[("t", TEXT), ("sum", sum.clone())]);
                    let node = kit.dataflow.group_by("by t".to_owned(), &kit.all(node), vec![1], calls, out, "");
                    let turned = kit.some(node, &[1, 0]);
                    let exprs: Vec<Box<dyn crate::Expr>> =
                        vec![Box::new(As(0, INT)), Box::new(crate::testing::Column(1))];
                    let out = schema(&[("sum", INT), ("t", TEXT)]);
                    let node = kit.dataflow.project("as text".to_owned(), &turned, out, exprs, "as text", &[0]);
                    kit.all(node)
                },
                "+l(7, x) +l(7, x) +l(7, x) +l(2, x); -l(7, x) -l(7, x); +l(7, x) +l(7, x) -l(2, x)",
                &expect![[r#"
                    1: +(23, x)
                    2: -(23, x) +(9, x)
                    3: +(21, x) -(9, x)
                "#]],
            );
        }
    }

    /// One aggregate that is computed anew makes the whole GROUP BY cost what its groups hold, and
    /// says so to whoever asks.
    #[test]
    fn the_dearest_aggregate_decides_the_cost() {
        let cost = |kinds: Vec<AggregateKind>| {
            let mut kit = Kit::new();
            let input = kit.all(kit.o);
            let columns = [("c", INT), ("a", INT), ("b", INT)];
            let out = schema(&columns[..=kinds.len()]);
            let calls = kinds.into_iter().map(|kind| call(kind, Some(2))).collect();
            let node = kit.dataflow.group_by("by c".to_owned(), &input, vec![1], calls, out, "");
            let input = kit.all(node);
            kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
            let program = crate::Program::new(kit.dataflow).expect("a program");
            let explained = program.explain(program.projection_id("p").expect("the projection"));
            explained.split_whitespace().nth(2).map(str::to_owned)
        };
        let other = || AggregateKind::Other(Box::new(Joined));
        assert_eq!(cost(vec![AggregateKind::Count, AggregateKind::Sum]).as_deref(), Some("delta"));
        assert_eq!(cost(vec![]).as_deref(), Some("delta"));
        assert_eq!(cost(vec![AggregateKind::Count, other()]).as_deref(), Some("group"));
    }

    #[test]
    fn integers() {
        for narrow in [DataType::Int8, DataType::UInt16, DataType::Int32, DataType::Int64] {
            check_type(
                &narrow,
                (&INT, &DataType::Float64, &INT),
                OF_EACH_TYPE,
                &expect![[r#"
                    1: +(1, 9, 4.5, 2, 7) +(2, 5, 5.0, 5, 5)
                    2: +(1, 13, 4.333333333333333, 2, 7) -(1, 9, 4.5, 2, 7)
                    3: -(1, 13, 4.333333333333333, 2, 7) +(1, 9, 3.0, 2, 4) -(2, 5, 5.0, 5, 5)
                    4: -(1, 9, 3.0, 2, 4) +(1, _, _, _, _)
                "#]],
            );
        }
    }

    #[test]
    fn integers_without_a_sign_reach_further() {
        check_type(
            &DataType::UInt64,
            (&DataType::UInt64, &DataType::Float64, &DataType::UInt64),
            "+o(1, 1, 9223372036854775807) +o(2, 1, 9223372036854775807); +o(3, 1, 2); -o(1)",
            &expect![[r#"
                1: +(1, 18446744073709551614, 9.223372036854776e18, 9223372036854775807, 9223372036854775807)
                2: -(1, 18446744073709551614, 9.223372036854776e18, 9223372036854775807, 9223372036854775807)
                   ? c = 1, sum = ?, avg = 6.148914691236517e18, min = 2, max = 9223372036854775807 [sum 18446744073709551616 is out of range for UInt64]
                3: +(1, 9223372036854775809, 4.611686018427388e18, 2, 9223372036854775807)
            "#]],
        );
    }

    #[test]
    fn floats() {
        for float in [DataType::Float32, DataType::Float64] {
            check_type(
                &float,
                (&DataType::Float64, &DataType::Float64, &float),
                OF_EACH_TYPE,
                &expect![[r#"
                    1: +(1, 9.0, 4.5, 2.0, 7.0) +(2, 5.0, 5.0, 5.0, 5.0)
                    2: +(1, 13.0, 4.333333333333333, 2.0, 7.0) -(1, 9.0, 4.5, 2.0, 7.0)
                    3: -(1, 13.0, 4.333333333333333, 2.0, 7.0) +(1, 9.0, 3.0, 2.0, 4.0) -(2, 5.0, 5.0, 5.0, 5.0)
                    4: -(1, 9.0, 3.0, 2.0, 4.0) +(1, _, _, _, _)
                "#]],
            );
        }
    }

    /// An average of decimals has more digits than they have, and is cut, not rounded.
    #[test]
    fn decimals() {
        let of = |precision, scale| DataType::Decimal128(precision, scale);
        check_type(
            &of(6, 2),
            (&of(16, 2), &of(10, 6), &of(6, 2)),
            OF_EACH_TYPE,
            &expect![[r#"
                1: +(1, 9.00, 4.500000, 2.00, 7.00) +(2, 5.00, 5.000000, 5.00, 5.00)
                2: +(1, 13.00, 4.333333, 2.00, 7.00) -(1, 9.00, 4.500000, 2.00, 7.00)
                3: -(1, 13.00, 4.333333, 2.00, 7.00) +(1, 9.00, 3.000000, 2.00, 4.00) -(2, 5.00, 5.000000, 5.00, 5.00)
                4: -(1, 9.00, 3.000000, 2.00, 4.00) +(1, _, _, _, _)
            "#]],
        );
        // A sum with more digits than its type has.
        check_type(
            &of(5, 2),
            (&of(5, 2), &of(9, 6), &of(5, 2)),
            "+o(1, 1, 600) +o(2, 1, 399); +o(3, 1, 1); -o(1)",
            &expect![[r#"
                1: +(1, 999.00, 499.500000, 399.00, 600.00)
                2: -(1, 999.00, 499.500000, 399.00, 600.00)
                   ? c = 1, sum = ?, avg = 333.333333, min = 1.00, max = 600.00 [100000 is out of range for Decimal128(5, 2)]
                3: +(1, 400.00, 200.000000, 1.00, 399.00)
            "#]],
        );
    }

    /// A row in doubt and a failed argument in one group, whichever is first; the group heals when
    /// both are gone.
    #[test]
    fn a_row_in_doubt_beside_a_failed_argument() {
        check(
            |kit| {
                let node = kit.where_quotient();
                let node = kit.with(node, "r", INT, crate::testing::divide(10, 0));
                by_customer(kit, node, 3)
            },
            "+o(1, 1, 0) +o(0, 1, 5) +o(2, 1, 5); -o(1); -o(0); +o(0, 1, 5); +o(1, 1, 0); -o(0) -o(1)",
            &expect![[r#"
                1: ? c = 1, n = ?, sum = ?, min = ?, max = ? [division by zero (id = 0); division by zero (id = 1)]
                2: ? c = 1, n = 2, sum = ?, min = ?, max = ? [division by zero (id = 0)]
                3: +(1, 1, 5, 5, 5)
                4: -(1, 1, 5, 5, 5)
                   ? c = 1, n = 2, sum = ?, min = ?, max = ? [division by zero (id = 0)]
                5: ? c = 1, n = ?, sum = ?, min = ?, max = ? [division by zero (id = 0); division by zero (id = 1)]
                6: +(1, 1, 5, 5, 5)
            "#]],
        );
    }

    /// What is gone costs nothing: the values of `min`, faults that healed, groups that came to
    /// nothing before they were kept.
    #[test]
    fn a_group_costs_what_it_holds() {
        const ENTRY: usize = 24;
        let mut counts = Counts::default();
        counts.add(b"four", 1);
        counts.add(b"fifteen letters", 2);
        counts.add(b"four", 1);
        assert_eq!(counts.bytes, 4 + 15 + 2 * ENTRY);
        counts.add(b"four", -2);
        counts.add(b"fifteen letters", -1);
        assert_eq!(counts.bytes, 15 + ENTRY);
        let mut floats = ExactSum::default();
        floats.add(1e300, 1);
        floats.add(1.0, 1);
        let of_floats = floats.heap_bytes();
        assert!(of_floats > 8);
        let sums = vec![Sum::Count(1), Sum::Values(counts), Sum::Floats { values: 2, sum: floats }];
        let mut group = Group { rows: 1, sums, faults: None };
        let healthy = group.heap_bytes();
        assert_eq!(healthy, 3 * size_of::<Sum>() + 15 + ENTRY + of_floats);

        let cause = |reason: &str| Cause { reason: reason.into(), at: "".into() };
        let faults = |doubtful, failed: &[i64], causes: &[(&str, i64)]| {
            let causes = causes.iter().map(|(reason, count)| (cause(reason), *count)).collect();
            Group {
                faults: Some(Box::new(GroupFaults { doubtful, failed: failed.to_vec(), causes })),
                ..Group::default()
            }
        };
        let of_faults = size_of::<GroupFaults>();
        for (change, after) in [
            (faults(1, &[0, 0, 0], &[("a", 1)]), of_faults + 3 * 8 + 48),
            (faults(0, &[0, 2, 0], &[("a", 1), ("b", 1)]), of_faults + 3 * 8 + 2 * 48),
            (faults(-1, &[0, 0, 0], &[("a", -2)]), of_faults + 3 * 8 + 48),
            (faults(0, &[0, -2, 0], &[]), of_faults + 3 * 8 + 48),
            (faults(1, &[0, 0, 0], &[("b", -1)]), of_faults + 3 * 8),
            (faults(-1, &[0, 0, 1], &[]), of_faults + 3 * 8),
            (faults(0, &[0, 0, -1], &[]), 0),
        ] {
            group.add(change);
            assert_eq!(group.heap_bytes(), healthy + after);
        }
        assert!(group.faults.is_none(), "healed");
    }

    #[test]
    fn a_group_that_came_to_nothing_is_not_kept() {
        let mut kit = Kit::new();
        let sides = (
            kit.dataflow.arrange(kit.c, vec![0], crate::arrangement::NullKeys::NeverMatch),
            kit.dataflow.arrange(kit.o, vec![1], crate::arrangement::NullKeys::NeverMatch),
        );
        let columns = vec![(crate::JoinSide::Left, 0), (crate::JoinSide::Right, 0)];
        let out = schema(&[("c", INT), ("o", INT)]);
        let node = kit.dataflow.join("pairs".to_owned(), crate::JoinKind::Inner, sides, columns, out);
        let input = kit.all(node);
        let calls = vec![call(AggregateKind::Count, None)];
        let out = schema(&[("c", INT), ("n", INT)]);
        let node = kit.dataflow.group_by("by c".to_owned(), &input, vec![0], calls, out, "");
        let input = kit.all(node);
        kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
        let mut program = crate::Program::new(kit.dataflow).expect("a program");
        let mut groups = |text: &str| {
            program.apply(&crate::testing::changes(&program, text)).expect("a step");
            program.publish().expect("an epoch");
            let sizes = program.sizes();
            sizes.iter().find(|(_, size)| size.name.part == "groups").map(|(_, size)| size.rows)
        };
        assert_eq!(groups("+o(7, 1, 5)"), Some(0));
        assert_eq!(groups("+c(1, ann) -o(7)"), Some(0), "one half of the pair came when the other went");
        assert_eq!(groups("+o(8, 1, 5)"), Some(1));
        assert_eq!(groups("-c(1)"), Some(0));
    }

    /// A text of three MiB.
    struct Long;

    impl Aggregate for Long {
        fn evaluate(&self, _: &[ArrayRef], _: usize) -> Result<ArrayRef, ExprError> {
            Ok(Arc::new(arrow::array::StringArray::from(vec!["x".repeat(3 << 20)])))
        }

        fn data_type(&self) -> &DataType {
            &DataType::Utf8
        }
    }

    /// Answers of three MiB go in pieces, two in each.
    #[test]
    fn pieces_are_bounded_by_bytes() {
        let text = "x".repeat(3 << 20);
        for (kind, rows) in [
            (AggregateKind::Other(Box::new(Long)), "+l(1, a) +l(2, a) +l(3, a)".to_owned()),
            (AggregateKind::Max, format!("+l(1, {text}) +l(2, {text}) +l(3, {text})")),
        ] {
            let mut kit = Kit::new();
            let input = kit.all(kit.l);
            let out = schema(&[("a", INT), ("t", TEXT)]);
            let node = kit.dataflow.group_by("long".to_owned(), &input, vec![0], vec![call(kind, Some(1))], out, "");
            let input = kit.all(node);
            kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::Derived(vec![0]));
            let mut program = crate::Program::new(kit.dataflow).expect("a program");
            program.apply(&crate::testing::changes(&program, &rows)).expect("a step");
            let published = program.publish().expect("an epoch");
            let [(_, crate::Published::Diff(parts))] = &published[..] else { panic!("one diff") };
            assert_eq!(parts.iter().map(|part| part.weights.len()).collect::<Vec<_>>(), [2, 1]);
        }
    }
}
