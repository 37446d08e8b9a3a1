//! Values into Arrow.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use pipeline::{Changes, Op};

/// What a column holds. The Arrow types are those that a Postgres table of these columns gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `int`
    Int,
    /// `bigint`
    Long,
    /// `text`
    Text,
    /// `numeric(10,2)`
    Money,
    /// `timestamp`
    Moment,
    /// `timestamptz`
    MomentUtc,
}

impl Kind {
    /// The column's type.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Kind::Int => DataType::Int32,
            Kind::Long => DataType::Int64,
            Kind::Text => DataType::Utf8,
            Kind::Money => DataType::Decimal128(10, 2),
            Kind::Moment => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::MomentUtc => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// The type's name in a project's SQL, where a moment without digits is one of nanoseconds.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Kind::Int => "INT",
            Kind::Long => "BIGINT",
            Kind::Text => "TEXT",
            Kind::Money => "NUMERIC(10,2)",
            Kind::Moment => "TIMESTAMP(6)",
            Kind::MomentUtc => "TIMESTAMPTZ(6)",
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Of [`Kind::Int`] and [`Kind::Long`].
    Number(i64),
    /// Of [`Kind::Text`].
    Text(Cow<'static, str>),
    /// Of [`Kind::Money`], in hundredths.
    Cents(i64),
    /// Of [`Kind::Moment`] and [`Kind::MomentUtc`], in microseconds since 1970-01-01 (UTC).
    Micros(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into())
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Value {
        Value::Text(text.into())
    }
}

impl Value {
    fn number(&self) -> i64 {
        match self {
            Value::Number(number) | Value::Cents(number) | Value::Micros(number) => *number,
            Value::Text(text) => unreachable!("the text {text} in a column of numbers"),
        }
    }

    fn text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            other => unreachable!("{other:?} in a column of texts"),
        }
    }
}

/// All values of a row, in the order of its table's columns.
pub type Row = Vec<Value>;

/// What becomes of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table, by its place in the shape.
    pub table: usize,
    /// What becomes of the row.
    pub op: Op,
    /// The row. All of it is given for a deletion too.
    pub row: Row,
}

/// Some columns of a table, in the order in which a project wants them.
#[derive(Clone, Debug)]
pub struct Columns {
    /// As Arrow has them.
    pub schema: SchemaRef,
    /// Which of a row's values.
    places: Vec<usize>,
    kinds: Vec<Kind>,
}

impl Columns {
    /// The columns at these places of a table.
    #[must_use]
    pub fn of(all: &[(&str, Kind)], places: Vec<usize>) -> Columns {
        let fields: Vec<Field> =
            places.iter().map(|&place| Field::new(all[place].0, all[place].1.data_type(), true)).collect();
        let kinds = places.iter().map(|&place| all[place].1).collect();
        Columns { schema: Arc::new(Schema::new(fields)), places, kinds }
    }

    /// Where a column of the table is among these.
    #[must_use]
    pub fn position(&self, place: usize) -> Option<usize> {
        self.places.iter().position(|&it| it == place)
    }

    /// These columns of rows.
    ///
    /// # Errors
    /// When an amount has more digits than its column: a mistake of the world's.
    pub fn batch(&self, rows: &[&Row]) -> Result<RecordBatch, ArrowError> {
        let columns = self.places.iter().zip(&self.kinds).map(|(&place, &kind)| column(kind, place, rows));
        // A table may be declared without columns worth reading; its rows count all the same.
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?, &options)
    }

    /// These columns of a transaction's changes to this table; `None` when there are none.
    ///
    /// # Errors
    /// As [`Columns::batch`].
    pub fn changes(&self, table: usize, transaction: &[Change]) -> Result<Option<Changes>, ArrowError> {
        let ours = || transaction.iter().filter(|change| change.table == table);
        let rows: Vec<&Row> = ours().map(|change| &change.row).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let ops = ours().map(|change| change.op).collect();
        Ok(Some(Changes { rows: self.batch(&rows)?, ops, unchanged: Vec::new() }))
    }
}

fn column(kind: Kind, place: usize, rows: &[&Row]) -> Result<ArrayRef, ArrowError> {
    let numbers = rows.iter().map(|row| row[place].number());
    Ok(match kind {
        Kind::Int => {
            let values: Result<Vec<i32>, _> = numbers.map(i32::try_from).collect();
            Arc::new(Int32Array::from(values.map_err(|error| ArrowError::from_external_error(error.into()))?))
        }
        Kind::Long => Arc::new(Int64Array::from_iter_values(numbers)),
        Kind::Text => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[place].text()))),
        Kind::Money => {
            let amounts = Decimal128Array::from_iter_values(numbers.map(i128::from)).with_precision_and_scale(10, 2)?;
            amounts.validate_decimal_precision(10)?;
            Arc::new(amounts)
        }
        Kind::Moment => Arc::new(TimestampMicrosecondArray::from_iter_values(numbers)),
        Kind::MomentUtc => Arc::new(TimestampMicrosecondArray::from_iter_values(numbers).with_timezone("UTC")),
    })
}
