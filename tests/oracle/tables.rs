//! The source tables as the oracle knows them, and random transactions over them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use fastrand::Rng;
use pipeline::{Changes, Op};

use crate::generate::{TABLES, Type};

/// Keys that rows with a primary key may have.
const KEYS: i64 = 12;

pub type Row = Vec<Value>;

/// A value of a tiny domain.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Text(&'static str),
    Float(f64),
    /// In units of the last digit.
    Decimal(i128),
}

/// What kind of values a transaction brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Many of a kind, many NULLs.
    Plain,
    /// Some of them zeros, texts that are no numbers, numbers near the ends of their range.
    Failing,
    /// None of them such; those that are there are mended.
    Mending,
}

/// All rows of all tables.
#[derive(Clone, Default)]
pub struct Tables {
    pub rows: [Vec<Row>; TABLES.len()],
}

/// How zeros are told: a float has two, SQL one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    AsTheyAre,
    One,
}

impl Tables {
    /// Whether some value of this table makes an expression of the grammar fail.
    pub fn is_failing(&self, table: usize) -> bool {
        self.rows[table].iter().any(|row| (0..row.len()).any(|column| is_failing(table, row, column)))
    }

    /// Without the rows that have a failing value in one of these columns, or in any.
    pub fn without_failing(&self, columns: Option<&[String]>) -> Tables {
        let mut rest = self.clone();
        for (table, rows) in rest.rows.iter_mut().enumerate() {
            let counts = |name: &str| columns.is_none_or(|columns| columns.iter().any(|column| column == name));
            let (.., names) = TABLES[table];
            rows.retain(|row| {
                !names.iter().enumerate().any(|(i, (name, _))| counts(name) && is_failing(table, row, i))
            });
        }
        rest
    }

    pub fn batch(&self, table: usize) -> RecordBatch {
        batch(table, &self.rows[table], Zeros::One)
    }

    /// Random changes of several tables, applied and told as a log would tell them.
    pub fn random_transaction(&mut self, rng: &mut Rng, mood: Mood, tables: usize) -> Vec<(usize, Changes)> {
        let mut transaction = Vec::new();
        if mood == Mood::Mending {
            for table in (0..tables).filter(|&table| self.is_failing(table)).collect::<Vec<_>>() {
                let mut log = Log::of(table, &mut self.rows[table]);
                log.mend(rng);
                transaction.extend(log.end());
            }
        }
        for _ in 0..rng.u32(1..4) {
            let table = rng.usize(..tables);
            let mut log = Log::of(table, &mut self.rows[table]);
            for _ in 0..rng.u32(1..6) {
                log.random_change(rng, mood);
            }
            transaction.extend(log.end());
        }
        transaction
    }
}

/// A table, and what a log says of its changes.
struct Log<'a> {
    table: usize,
    has_key: bool,
    held: &'a mut Vec<Row>,
    rows: Vec<Row>,
    ops: Vec<Op>,
    unchanged: Vec<(u32, u32)>,
}

impl Log<'_> {
    fn of(table: usize, held: &mut Vec<Row>) -> Log<'_> {
        Log { table, has_key: TABLES[table].1, held, rows: Vec::new(), ops: Vec::new(), unchanged: Vec::new() }
    }

    fn end(self) -> Option<(usize, Changes)> {
        let rows = batch(self.table, &self.rows, Zeros::AsTheyAre);
        (!self.ops.is_empty()).then_some((self.table, Changes { rows, ops: self.ops, unchanged: self.unchanged }))
    }

    fn random_change(&mut self, rng: &mut Rng, mood: Mood) {
        let mut fresh = self.fresh(rng, mood);
        let dice = rng.u32(..20);
        if self.held.is_empty() || dice < 8 {
            if self.has_key {
                let Some(key) = self.free_key(rng, mood) else { return };
                fresh[0] = key;
            }
            self.held.push(fresh.clone());
            self.tell(Op::Insert, fresh);
        } else if dice < 13 {
            let i = rng.usize(..self.held.len());
            if self.has_key {
                let moved = if rng.u32(..4) == 0 { self.free_key(rng, mood) } else { None };
                fresh[0] = moved.unwrap_or_else(|| self.held[i][0].clone());
            }
            // Some values are left out because they did not change.
            let kept: Vec<usize> = (1..fresh.len()).filter(|_| self.has_key && rng.u32(..8) == 0).collect();
            self.update(i, fresh, &kept);
        } else if dice < 19 {
            self.delete(rng.usize(..self.held.len()));
        } else if rng.u32(..4) == 0 {
            self.held.clear();
            let nothing = vec![Value::Null; fresh.len()];
            self.tell(Op::Truncate, nothing);
        }
    }

    /// Every row that has a failing value gets others.
    fn mend(&mut self, rng: &mut Rng) {
        for i in (0..self.held.len()).rev() {
            if !(0..self.held[i].len()).any(|column| is_failing(self.table, &self.held[i], column)) {
                continue;
            }
            let mut fresh = self.fresh(rng, Mood::Mending);
            if self.has_key {
                fresh[0] = self.held[i][0].clone();
                if fresh[0] == Value::Int(0) {
                    match self.free_key(rng, Mood::Mending) {
                        Some(key) => fresh[0] = key,
                        None => {
                            self.delete(i);
                            continue;
                        }
                    }
                }
            }
            self.update(i, fresh, &[]);
        }
    }

    fn fresh(&self, rng: &mut Rng, mood: Mood) -> Row {
        TABLES[self.table].2.iter().map(|(_, data_type)| value(rng, *data_type, mood)).collect()
    }

    fn free_key(&self, rng: &mut Rng, mood: Mood) -> Option<Value> {
        let first = i64::from(mood == Mood::Mending);
        let free: Vec<i64> =
            (first..KEYS).filter(|key| self.held.iter().all(|row| row[0] != Value::Int(*key))).collect();
        (!free.is_empty()).then(|| Value::Int(free[rng.usize(..free.len())]))
    }

    fn update(&mut self, i: usize, mut fresh: Row, kept: &[usize]) {
        let old = self.held[i].clone();
        if !self.has_key || fresh[0] != old[0] {
            self.tell_old(Op::OldKey, old.clone());
        }
        for &column in kept {
            fresh[column] = old[column].clone();
        }
        self.held[i] = fresh.clone();
        for &column in kept {
            fresh[column] = Value::Null;
            let place = (u32::try_from(self.rows.len()).expect("few"), u32::try_from(column).expect("few"));
            self.unchanged.push(place);
        }
        self.tell(Op::Update, fresh);
    }

    fn delete(&mut self, i: usize) {
        let old = self.held.swap_remove(i);
        self.tell_old(Op::Delete, old);
    }

    /// Of an old row only the key is told, where there is one.
    fn tell_old(&mut self, op: Op, mut row: Row) {
        if self.has_key {
            row[1..].fill(Value::Null);
        }
        self.tell(op, row);
    }

    fn tell(&mut self, op: Op, row: Row) {
        self.rows.push(row);
        self.ops.push(op);
    }
}

/// The same changes in parts; an old key stays with its update.
pub fn split(rng: &mut Rng, changes: &Changes) -> Vec<Changes> {
    let mut parts = Vec::new();
    let mut start = 0;
    for end in 1..=changes.ops.len() {
        let can_cut = changes.ops[end - 1] != Op::OldKey;
        if end == changes.ops.len() || (can_cut && rng.bool()) {
            let unchanged = changes
                .unchanged
                .iter()
                .filter(|(row, _)| (start..end).contains(&(*row as usize)))
                .map(|(row, column)| (row - u32::try_from(start).expect("few"), *column))
                .collect();
            parts.push(Changes {
                rows: changes.rows.slice(start, end - start),
                ops: changes.ops[start..end].to_vec(),
                unchanged,
            });
            start = end;
        }
    }
    parts
}

pub fn schema_of(table: &str) -> SchemaRef {
    let (_, _, columns) = TABLES.iter().find(|(name, ..)| *name == table).expect("a known table");
    let field = |(name, data_type): &(&str, Type)| {
        let data_type = match data_type {
            Type::Int | Type::Big => DataType::Int64,
            Type::Text => DataType::Utf8,
            Type::Float => DataType::Float64,
            Type::Decimal => DataType::Decimal128(10, 2),
            Type::Wide => DataType::Decimal128(38, 0),
        };
        Field::new(*name, data_type, true)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn batch(table: usize, rows: &[Row], zeros: Zeros) -> RecordBatch {
    let (name, _, columns) = TABLES[table];
    let zero = if zeros == Zeros::One { 0.0 } else { -0.0 };
    let arrays = columns.iter().enumerate().map(|(i, (_, data_type))| -> ArrayRef {
        let values = rows.iter().map(|row| &row[i]);
        let decimals = |precision, scale| -> ArrayRef {
            let values = values.clone().map(|v| if let Value::Decimal(v) = v { Some(*v) } else { None });
            Arc::new(
                values.collect::<Decimal128Array>().with_precision_and_scale(precision, scale).expect("a known type"),
            )
        };
        match data_type {
            Type::Int | Type::Big => {
                Arc::new(values.map(|v| if let Value::Int(v) = v { Some(*v) } else { None }).collect::<Int64Array>())
            }
            Type::Text => {
                Arc::new(values.map(|v| if let Value::Text(v) = v { Some(*v) } else { None }).collect::<StringArray>())
            }
            Type::Float => Arc::new(
                values.map(|v| if let Value::Float(v) = v { Some(*v + zero) } else { None }).collect::<Float64Array>(),
            ),
            Type::Decimal => decimals(10, 2),
            Type::Wide => decimals(38, 0),
        }
    });
    RecordBatch::try_new(schema_of(name), arrays.collect()).expect("columns of the table")
}

/// The largest `numeric(38)`.
const WIDEST: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

fn value(rng: &mut Rng, data_type: Type, mood: Mood) -> Value {
    if rng.u32(..4) == 0 {
        return Value::Null;
    }
    let is_failing = mood == Mood::Failing && rng.u32(..8) == 0;
    match (data_type, mood) {
        (Type::Int, Mood::Plain) => Value::Int(rng.i64(0..3)),
        (Type::Int, _) => Value::Int(if is_failing { 0 } else { rng.i64(1..4) }),
        (Type::Text, Mood::Plain) => Value::Text(["a", "b", "bb", ""][rng.usize(..4)]),
        (Type::Text, _) if is_failing => Value::Text(["a", "bb", ""][rng.usize(..3)]),
        (Type::Text, _) => Value::Text(["1", "2", "10"][rng.usize(..3)]),
        // Sums of these are exact in any order, so that the batch answer has one value.
        (Type::Float, _) => Value::Float([0.5, -1.5, 2.0, 0.0, -0.0][rng.usize(..5)]),
        (Type::Decimal, _) => Value::Decimal([25, 150, -75, 0][rng.usize(..4)]),
        (Type::Big, Mood::Failing) => {
            Value::Int([i64::MAX, i64::MIN, i64::MAX - 1, 1 << 62, -2, 1, 2, 3][rng.usize(..8)])
        }
        (Type::Wide, Mood::Failing) => {
            Value::Decimal([WIDEST, -WIDEST, WIDEST / 2, WIDEST - 1, -2, 1, 2, 3][rng.usize(..8)])
        }
        (Type::Big, _) => Value::Int(rng.i64(1..4)),
        (Type::Wide, _) => Value::Decimal(i128::from(rng.i64(1..4))),
    }
}

/// Whether some expression of the grammar fails for this value.
fn is_failing(table: usize, row: &Row, column: usize) -> bool {
    let (_, data_type) = TABLES[table].2[column];
    match (&row[column], data_type) {
        (Value::Int(value), Type::Big) => value.unsigned_abs() > 3,
        (Value::Int(value), _) => *value == 0,
        (Value::Decimal(value), Type::Wide) => value.unsigned_abs() > 3,
        (Value::Text(text), _) => text.parse::<i64>().is_err(),
        _ => false,
    }
}
