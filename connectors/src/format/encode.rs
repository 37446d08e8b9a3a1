//! Rows as JSON, for topics that are written.
//!
//! What [`super`] reads of JSON it reads back the same: bytes are base64, a float that JSON has no
//! number for is the text `NaN`, `Infinity` or `-Infinity`, an interval is text.

use std::sync::Arc;

use arrow::array::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StructArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, FieldRef, Float32Type, Float64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow_json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::sink::{Encoded, RowEncoder};

/// Makes an object of each row, and one of its key columns.
pub struct JsonEncoder {
    /// What the columns are called in messages, whatever the query calls them.
    names: Vec<String>,
    key: Vec<usize>,
    options: EncoderOptions,
}

impl JsonEncoder {
    /// Of rows with columns of these types, by these names, and this key.
    ///
    /// # Errors
    /// When a column has a type that JSON can't show, with its name.
    pub fn new(schema: &SchemaRef, key: Vec<usize>) -> Result<JsonEncoder, String> {
        let options = EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(OurWay));
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        let encoder = JsonEncoder { names, key, options };
        for field in schema.fields() {
            let empty = arrow::array::new_empty_array(field.data_type());
            encoder
                .encode([(field.name().as_str(), &empty)])
                .map_err(|error| format!("column `{}`: {error}", field.name()))?;
        }
        Ok(encoder)
    }

    fn encode<'a>(
        &self,
        columns: impl IntoIterator<Item = (&'a str, &'a ArrayRef)>,
    ) -> Result<Vec<Encoded>, ArrowError> {
        let columns = columns.into_iter().map(|(name, column)| (name, Arc::clone(column), true));
        let rows = StructArray::from(RecordBatch::try_from_iter_with_nullable(columns)?);
        let field: FieldRef = Arc::new(arrow::datatypes::Field::new("row", rows.data_type().clone(), true));
        let mut encoder = make_encoder(&field, &rows, &self.options)?;
        let mut out = Vec::new();
        let mut encoded = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            out.clear();
            encoder.encode(row, &mut out);
            encoded.push(out.as_slice().into());
        }
        Ok(encoded)
    }
}

impl RowEncoder for JsonEncoder {
    fn keys(&mut self, rows: &RecordBatch) -> Result<Vec<Encoded>, String> {
        let column = |&place: &usize| Some((self.names.get(place)?.as_str(), rows.columns().get(place)?));
        self.encode(self.key.iter().filter_map(column)).map_err(|error| error.to_string())
    }

    fn values(&mut self, rows: &RecordBatch) -> Result<Vec<Encoded>, String> {
        let names = self.names.iter().map(String::as_str);
        self.encode(names.zip(rows.columns())).map_err(|error| error.to_string())
    }
}

/// Where ours is not Arrow's way.
#[derive(Debug)]
struct OurWay;

impl EncoderFactory for OurWay {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => Box::new(Bytes(array)),
            DataType::Float64 => Box::new(Float(array.as_primitive::<Float64Type>())),
            DataType::Float32 => Box::new(Float(array.as_primitive::<Float32Type>())),
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Box::new(Span(array.as_primitive::<IntervalMonthDayNanoType>()))
            }
            DataType::Date32 => Box::new(Day(array.as_primitive::<Date32Type>())),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => Box::new(Moment(
                array.as_primitive::<TimestampMicrosecondType>(),
                if zone.is_some() { "Z" } else { "" },
            )),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct Bytes<'a>(&'a dyn Array);

impl Encoder for Bytes<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let text = BASE64_STANDARD.encode(self.0.as_binary::<i32>().value(row));
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

struct Float<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType> Encoder for Float<'_, T>
where
    T::Native: Into<f64> + ryu::Float,
{
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        let wide: f64 = value.into();
        let text: &[u8] = if wide.is_nan() {
            b"\"NaN\""
        } else if wide.is_infinite() {
            if wide > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" }
        } else {
            out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
            return;
        };
        out.extend_from_slice(text);
    }
}

/// A day; the ends of the type are Postgres's infinities.
struct Day<'a>(&'a PrimitiveArray<Date32Type>);

impl Encoder for Day<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let days = self.0.value(row);
        let day = date32_to_datetime(days).map(|moment| moment.date());
        quoted(out, day.map(|day| format!("{day:?}")), days > 0);
    }
}

/// A moment of microseconds, always in UTC, with what is behind it.
struct Moment<'a>(&'a PrimitiveArray<TimestampMicrosecondType>, &'static str);

impl Encoder for Moment<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let micros = self.0.value(row);
        let moment =
            Some(micros).filter(|micros| !matches!(*micros, i64::MIN | i64::MAX)).and_then(timestamp_us_to_datetime);
        quoted(out, moment.map(|moment| format!("{moment:?}{}", self.1)), micros > 0);
    }
}

/// An interval as ISO 8601 has it, with the parts apart that Postgres keeps apart.
struct Span<'a>(&'a PrimitiveArray<IntervalMonthDayNanoType>);

impl Encoder for Span<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let IntervalMonthDayNano { months, days, nanoseconds } = self.0.value(row);
        let sign = if nanoseconds < 0 { "-" } else { "" };
        let (seconds, micros) =
            (nanoseconds.unsigned_abs() / 1_000_000_000, nanoseconds.unsigned_abs() / 1000 % 1_000_000);
        quoted(out, Some(format!("P{months}M{days}DT{sign}{seconds}.{micros:06}S")), true);
    }
}

fn quoted(out: &mut Vec<u8>, text: Option<String>, is_late: bool) {
    let text = text.unwrap_or_else(|| if is_late { "infinity" } else { "-infinity" }.to_owned());
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, DurationNanosecondArray, DurationSecondArray,
        Float32Array, Float64Array, Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Int64Type, Schema};

    fn encode(columns: Vec<(&str, ArrayRef)>) -> Vec<String> {
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
                .expect("rows");
        let mut encoder = JsonEncoder::new(&rows.schema(), vec![0]).expect("types that JSON shows");
        let text = |encoded: Vec<Encoded>| {
            encoded.into_iter().map(|row| String::from_utf8(row.into()).expect("text")).collect::<Vec<_>>()
        };
        let mut all = text(encoder.keys(&rows).expect("keys"));
        all.extend(text(encoder.values(&rows).expect("values")));
        all
    }

    #[test]
    fn rows_are_objects_and_keys_are_too() {
        let rows = encode(vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2]))),
            ("name \"n\"", Arc::new(StringArray::from(vec![Some("a\n\u{1}ä"), None]))),
            ("ok", Arc::new(BooleanArray::from(vec![true, false]))),
            ("amount", Arc::new(Decimal128Array::from(vec![1234, -5]).with_precision_and_scale(38, 2).expect("fits"))),
            ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]))),
        ]);
        assert_eq!(
            rows,
            [
                r#"{"id":1}"#,
                r#"{"id":2}"#,
                r#"{"id":1,"name \"n\"":"a\n\u0001ä","ok":true,"amount":12.34,"list":[1,null]}"#,
                r#"{"id":2,"name \"n\"":null,"ok":false,"amount":-0.05,"list":null}"#,
            ]
        );
    }

    /// A query's own names (`upper(t.x)`) were written, in keys too, so that a table declared the same read nothing.
    #[test]
    fn columns_are_called_as_the_table_calls_them() {
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef, true),
            ("upper(t.x)", Arc::new(StringArray::from(vec!["A"])) as ArrayRef, true),
        ])
        .expect("rows");
        let named = |(name, column): (&str, &ArrayRef)| Field::new(name, column.data_type().clone(), true);
        let fields: Vec<Field> = ["bed", "label"].into_iter().zip(rows.columns()).map(named).collect();
        let declared = Arc::new(Schema::new(fields));
        let mut encoder = JsonEncoder::new(&declared, vec![0]).expect("types that JSON shows");
        assert_eq!(&*encoder.keys(&rows).expect("keys")[0], br#"{"bed":1}"#);
        assert_eq!(&*encoder.values(&rows).expect("values")[0], br#"{"bed":1,"label":"A"}"#);
    }

    #[test]
    fn what_json_has_no_number_for_is_text() {
        let rows = encode(vec![
            ("f", Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]))),
            ("g", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(f32::NAN), Some(-0.0)]))),
            ("b", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(b""), Some(b"a")]))),
        ]);
        assert_eq!(
            rows[4..],
            [
                r#"{"f":1.5,"g":0.1,"b":"AP8="}"#,
                r#"{"f":"NaN","g":null,"b":null}"#,
                r#"{"f":"Infinity","g":"NaN","b":""}"#,
                r#"{"f":"-Infinity","g":-0.0,"b":"YQ=="}"#,
            ]
        );
    }

    #[test]
    fn times_are_as_iso_8601_has_them() {
        let rows = encode(vec![
            ("d", Arc::new(Date32Array::from(vec![0, i32::MAX]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, i64::MIN]))),
            ("z", Arc::new(TimestampMicrosecondArray::from(vec![1, i64::MAX]).with_timezone("UTC"))),
            (
                "i",
                Arc::new(IntervalMonthDayNanoArray::from(vec![
                    IntervalMonthDayNano::new(1, 2, -3_500_000_000),
                    IntervalMonthDayNano::new(-1, 0, 0),
                ])),
            ),
            ("s", Arc::new(DurationSecondArray::from(vec![Some(61), None]))),
            ("n", Arc::new(DurationNanosecondArray::from(vec![Some(61_000_000_001), Some(-1)]))),
        ]);
        assert_eq!(
            rows[2..],
            [
                r#"{"d":"1970-01-01","t":"1970-01-01T00:00:01.500","z":"1970-01-01T00:00:00.000001Z","i":"P1M2DT-3.500000S","s":"PT61S","n":"PT61.000000001S"}"#,
                r#"{"d":"infinity","t":"-infinity","z":"infinity","i":"P-1M0DT0.000000S","s":null,"n":"-PT0.000000001S"}"#,
            ]
        );
    }
}
