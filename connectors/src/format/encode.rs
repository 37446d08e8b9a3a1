//! Rows as JSON, for topics that are written.
//!
//! What [`super`] reads of JSON it reads back the same: bytes are base64, a float that JSON has no
//! number for is the text `NaN`, `Infinity` or `-Infinity`, an interval is text.

use std::sync::Arc;

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
        quoted(
            out,
            &match self.0.value(row) {
                i32::MAX => "infinity".to_owned(),
                i32::MIN => "-infinity".to_owned(),
                days => day_text(days.into()),
            },
        );
    }
}

/// A moment of microseconds, always in UTC, with what is behind it.
struct Moment<'a>(&'a PrimitiveArray<TimestampMicrosecondType>, &'static str);

impl Encoder for Moment<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        quoted(
            out,
            &match self.0.value(row) {
                i64::MAX => "infinity".to_owned(),
                i64::MIN => "-infinity".to_owned(),
                micros => {
                    let (day, clock) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
                    format!("{}T{}{}", day_text(day), clock_text(clock), self.1)
                }
            },
        );
    }
}

/// A day as ISO 8601 has it, by its distance from 1970-01-01: years beyond four digits with a sign and six digits. As
/// what browsers are sent, so that a row is the same in both.
fn day_text(days: i64) -> String {
    let (year, month, day) = civil_from_days(days);
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:+07}-{month:02}-{day:02}"),
    }
}

/// Year, month and day of the proleptic Gregorian calendar; 1 BC is the year 0.
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A time of day by its microseconds: with as many digits of the second as it has, in threes.
fn clock_text(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match fraction {
        0 => text,
        _ if fraction % 1000 == 0 => format!("{text}.{:03}", fraction / 1000),
        _ => format!("{text}.{fraction:06}"),
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

/// An interval as ISO 8601 has it, with the parts apart that Postgres keeps apart.
struct Span<'a>(&'a PrimitiveArray<IntervalMonthDayNanoType>);

impl Encoder for Span<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let IntervalMonthDayNano { months, days, nanoseconds } = self.0.value(row);
        let sign = if nanoseconds < 0 { "-" } else { "" };
        let (seconds, micros) =
            (nanoseconds.unsigned_abs() / 1_000_000_000, nanoseconds.unsigned_abs() / 1000 % 1_000_000);
        quoted(out, &format!("P{months}M{days}DT{sign}{seconds}.{micros:06}S"));
    }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
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
    use arrow::datatypes::{Field, Fields, Int64Type, Schema};
    use proptest::prelude::*;

    use crate::format::RowDecoder;
    use crate::format::json::JsonRows;

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

    /// ISO 8601 has a sign and further digits for years beyond four: six here, as `docs/protocol.md` says.
    #[test]
    fn years_beyond_four_digits_have_six_and_a_sign() {
        let moments = vec![327_403_382_400_000_000, -210_866_760_000_000_000, i64::MAX - 1];
        let rows = encode(vec![
            ("d", Arc::new(Date32Array::from(vec![3_789_391, -2_440_550, i32::MIN + 1]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(moments))),
        ]);
        assert_eq!(
            rows[3..],
            [
                r#"{"d":"+012345-01-01","t":"+012345-01-01T00:00:00"}"#,
                r#"{"d":"-004712-01-01","t":"-004713-11-24T12:00:00"}"#,
                r#"{"d":"-5877641-06-24","t":"+294247-01-10T04:00:54.775806"}"#,
            ]
        );
    }

    proptest! {
        /// What we write we read: every day and every moment that the types hold, with their infinities.
        #[test]
        fn times_are_read_back(days: i32, near: i16, micros: i64, century in -2_900_i64..2_900) {
            let days = vec![Some(days), Some(near.into()), None, Some(i32::MAX), Some(i32::MIN), Some(i32::MAX - 1)];
            let micros = [micros, century * 3_155_760_000_000_000, 1_500, i64::MAX, i64::MIN, i64::MIN + 1];
            let moments = TimestampMicrosecondArray::from_iter_values(micros);
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("d", Arc::new(Date32Array::from(days))),
                ("t", Arc::new(moments.clone())),
                ("z", Arc::new(moments.with_timezone("UTC"))),
            ];
            let rows = encode(columns.clone()).split_off(6);
            let fields: Fields =
                columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
            let payloads: Vec<&[u8]> = rows.iter().map(String::as_bytes).collect();
            let read = JsonRows::new(&fields).expect("columns").decode(&payloads).expect("decodes");
            prop_assert!(read.bad.is_empty(), "{:?}", read.bad);
            for ((_, written), read) in columns.iter().zip(&read.columns) {
                prop_assert_eq!(written, read);
            }
        }
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
