//! Rows as JSON, exact.
//!
//! | type | JSON |
//! |---|---|
//! | integers | a number where JavaScript keeps it (up to 2^53 − 1), otherwise a string of its digits |
//! | numeric | a string, with all its digits |
//! | real, double | a number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | timestamps, dates, times | ISO 8601 strings; timestamptz in UTC with `Z`; `"infinity"`, `"-infinity"` |
//! | interval | an ISO 8601 duration |
//! | bytea | a base64 string |
//! | arrays, structs | arrays, objects |

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The largest integer up to which JavaScript tells all integers apart.
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Appends the value at `row` of `array`.
pub fn write_value(out: &mut Vec<u8>, array: &ArrayRef, row: usize) {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match array.data_type() {
        DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Int8 => write_int(out, array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => write_int(out, array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => write_int(out, array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => write_int(out, array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => write_int(out, array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => write_int(out, array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => write_int(out, array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => write_unsigned(out, array.as_primitive::<UInt64Type>().value(row)),
        // SQL holds -0.0 and 0.0 equal, and rows that are equal are told alike: adding zero leaves one.
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            if value.is_finite() {
                out.extend_from_slice(ryu::Buffer::new().format_finite(value + 0.0).as_bytes())
            } else {
                write_not_finite(out, value.into())
            }
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            if value.is_finite() {
                out.extend_from_slice(ryu::Buffer::new().format_finite(value + 0.0).as_bytes())
            } else {
                write_not_finite(out, value)
            }
        }
        DataType::Decimal128(..) => write_plain(out, &array.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Decimal256(..) => write_plain(out, &array.as_primitive::<Decimal256Type>().value_as_string(row)),
        DataType::Utf8 => write_string(out, array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => write_string(out, array.as_string::<i64>().value(row)),
        DataType::Utf8View => write_string(out, array.as_string_view().value(row)),
        DataType::Binary => write_plain(out, &STANDARD.encode(array.as_binary::<i32>().value(row))),
        DataType::LargeBinary => write_plain(out, &STANDARD.encode(array.as_binary::<i64>().value(row))),
        DataType::BinaryView => write_plain(out, &STANDARD.encode(array.as_binary_view().value(row))),
        DataType::Date32 => write_date(out, array.as_primitive::<Date32Type>().value(row)),
        DataType::Time64(TimeUnit::Microsecond) => {
            out.push(b'"');
            write_clock(out, array.as_primitive::<Time64MicrosecondType>().value(row));
            out.push(b'"');
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            write_timestamp(out, array.as_primitive::<TimestampMicrosecondType>().value(row), zone.is_some());
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let interval = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            write_plain(out, &iso_interval(interval.months, interval.days, interval.nanoseconds));
        }
        DataType::List(_) => write_items(out, &array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => write_items(out, &array.as_list::<i64>().value(row)),
        DataType::Struct(fields) => {
            out.push(b'{');
            for (i, (field, column)) in fields.iter().zip(array.as_struct().columns()).enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, field.name());
                out.push(b':');
                write_value(out, column, row);
            }
            out.push(b'}');
        }
        _ => {
            let shown =
                ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default()).map(|it| it.value(row).to_string());
            write_string(out, shown.as_deref().unwrap_or(""));
        }
    }
}

/// Appends `[value, …]` of a row.
pub fn write_row<'a>(out: &mut Vec<u8>, columns: impl IntoIterator<Item = &'a ArrayRef>, row: usize) {
    out.push(b'[');
    for (i, column) in columns.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_value(out, column, row);
    }
    out.push(b']');
}

/// Appends a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut start = 0;
    let bytes = text.as_bytes();
    for (i, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => {
                out.extend_from_slice(&bytes[start..i]);
                out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                start = i + 1;
                continue;
            }
            _ => continue,
        };
        out.extend_from_slice(&bytes[start..i]);
        out.extend_from_slice(escape);
        start = i + 1;
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

/// A moment as `"2026-11-21T12:00:00.5Z"`, from microseconds since 1970 UTC.
#[must_use]
pub fn moment(micros: i64) -> String {
    let mut out = Vec::new();
    write_timestamp(&mut out, micros, true);
    String::from_utf8(out).unwrap_or_default().trim_matches('"').to_owned()
}

fn write_int(out: &mut Vec<u8>, value: i64) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    if value.unsigned_abs() <= SAFE_INTEGER_MAX { out.extend_from_slice(digits) } else { write_quoted(out, digits) }
}

fn write_unsigned(out: &mut Vec<u8>, value: u64) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    if value <= SAFE_INTEGER_MAX { out.extend_from_slice(digits) } else { write_quoted(out, digits) }
}

fn write_not_finite(out: &mut Vec<u8>, value: f64) {
    write_plain(
        out,
        if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        },
    );
}

/// A string that needs no escape.
fn write_plain(out: &mut Vec<u8>, text: &str) {
    write_quoted(out, text.as_bytes());
}

fn write_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(bytes);
    out.push(b'"');
}

fn write_items(out: &mut Vec<u8>, items: &ArrayRef) {
    out.push(b'[');
    for i in 0..items.len() {
        if i > 0 {
            out.push(b',');
        }
        write_value(out, items, i);
    }
    out.push(b']');
}

/// Year, month and day of a day counted from 1970-01-01.
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Years beyond four digits have a sign, as ISO 8601 and JavaScript want them.
fn write_day(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil_from_days(days);
    let text = if (0..=9999).contains(&year) {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{year:+07}-{month:02}-{day:02}")
    };
    out.extend_from_slice(text.as_bytes());
}

fn write_clock(out: &mut Vec<u8>, micros: i64) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    out.extend_from_slice(text.as_bytes());
    if fraction != 0 {
        out.extend_from_slice(format!(".{fraction:06}").trim_end_matches('0').as_bytes());
    }
}

fn write_date(out: &mut Vec<u8>, days: i32) {
    match days {
        i32::MAX => write_plain(out, "infinity"),
        i32::MIN => write_plain(out, "-infinity"),
        days => {
            out.push(b'"');
            write_day(out, days.into());
            out.push(b'"');
        }
    }
}

fn write_timestamp(out: &mut Vec<u8>, micros: i64, in_utc: bool) {
    match micros {
        i64::MAX => return write_plain(out, "infinity"),
        i64::MIN => return write_plain(out, "-infinity"),
        _ => {}
    }
    out.push(b'"');
    write_day(out, micros.div_euclid(MICROS_PER_DAY));
    out.push(b'T');
    write_clock(out, micros.rem_euclid(MICROS_PER_DAY));
    if in_utc {
        out.push(b'Z');
    }
    out.push(b'"');
}

fn iso_interval(months: i32, days: i32, nanos: i64) -> String {
    let mut text = "P".to_owned();
    let mut part = |amount: i64, unit: char| {
        if amount != 0 {
            text += &format!("{amount}{unit}");
        }
    };
    part((months / 12).into(), 'Y');
    part((months % 12).into(), 'M');
    part(days.into(), 'D');
    if nanos != 0 {
        text.push('T');
        let mut part = |amount: i64, unit: char| {
            if amount != 0 {
                text += &format!("{amount}{unit}");
            }
        };
        part(nanos / 3_600_000_000_000, 'H');
        part(nanos / 60_000_000_000 % 60, 'M');
        let seconds = nanos % 60_000_000_000;
        if seconds != 0 {
            let sign = if seconds < 0 { "-" } else { "" };
            let (whole, fraction) = (seconds.unsigned_abs() / 1_000_000_000, seconds.unsigned_abs() % 1_000_000_000);
            let fraction = format!(".{fraction:09}");
            text += &format!("{sign}{whole}{}S", fraction.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    if text == "P" { "PT0S".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filter::type_name;
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
        FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
        IntervalMonthDayNanoArray, LargeBinaryArray, LargeListArray, LargeStringArray, ListArray, StringArray,
        StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt8Array, UInt16Array,
        UInt32Array, UInt64Array,
    };
    use arrow::datatypes::{Field, Fields, IntervalMonthDayNano, i256};

    /// The values of a column, as the items of a JSON array.
    #[track_caller]
    fn check(array: impl Array + 'static, expected: &str) {
        let array: ArrayRef = Arc::new(array);
        let mut out = Vec::new();
        write_items(&mut out, &array);
        let shown = String::from_utf8(out).expect("JSON is UTF-8");
        assert_eq!(shown, expected);
        assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{shown}");
    }

    #[test]
    fn numbers_that_javascript_keeps_are_numbers() {
        check(BooleanArray::from(vec![Some(true), Some(false), None]), "[true,false,null]");
        check(Int8Array::from(vec![i8::MIN, 0, i8::MAX]), "[-128,0,127]");
        check(Int16Array::from(vec![i16::MIN, i16::MAX]), "[-32768,32767]");
        check(Int32Array::from(vec![i32::MIN, i32::MAX]), "[-2147483648,2147483647]");
        check(UInt8Array::from(vec![u8::MAX]), "[255]");
        check(UInt16Array::from(vec![u16::MAX]), "[65535]");
        check(UInt32Array::from(vec![u32::MAX]), "[4294967295]");
        check(
            Float32Array::from(vec![0.1, -2.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
            r#"[0.1,-2.5,"NaN","Infinity","-Infinity"]"#,
        );
        check(Float64Array::from(vec![0.1, -0.0, 0.0, 1e300]), "[0.1,0.0,0.0,1e300]");
        check(
            Float64Array::from(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
            r#"["NaN","Infinity","-Infinity"]"#,
        );
    }

    /// A page that reads 9007199254740993 holds …992, and can't know: from 2^53 on two integers are
    /// one to JavaScript, so they are told as strings. Signed and unsigned are written apart.
    #[test]
    fn numbers_that_javascript_would_lose_are_strings() {
        let edge = 9_007_199_254_740_991;
        check(
            Int64Array::from(vec![Some(edge), Some(edge + 1), Some(-edge), Some(-edge - 1), None, Some(i64::MIN)]),
            r#"[9007199254740991,"9007199254740992",-9007199254740991,"-9007199254740992",null,"-9223372036854775808"]"#,
        );
        let edge = edge.unsigned_abs();
        check(
            UInt64Array::from(vec![0, edge, edge + 1, edge + 2, u64::MAX]),
            r#"[0,9007199254740991,"9007199254740992","9007199254740993","18446744073709551615"]"#,
        );
        let decimals = Decimal128Array::from(vec![1050, -5]).with_precision_and_scale(10, 2).expect("ten digits");
        check(decimals, r#"["10.50","-0.05"]"#);
        let decimals = Decimal256Array::from(vec![i256::from_i128(i128::MAX)])
            .with_precision_and_scale(60, 3)
            .expect("sixty digits");
        check(decimals, r#"["170141183460469231731687303715884105.727"]"#);
    }

    #[test]
    fn texts_are_escaped() {
        let expected = "[\"a\\\"b\\\\c\\nd\\re\\tf\\u0001g\\u001f \u{7f}é\u{2028}\",\"\"]";
        let texts = vec!["a\"b\\c\nd\re\tf\u{1}g\u{1f} \u{7f}é\u{2028}", ""];
        check(StringArray::from(texts.clone()), expected);
        check(LargeStringArray::from(texts.clone()), expected);
        check(StringViewArray::from(texts), expected);
    }

    /// Only the plainest of the three binary types was base64; the others, which functions of SQL
    /// may give, came as Arrow prints them, in hexadecimal.
    #[test]
    fn bytes_are_base64() {
        let (bytes, expected): (Vec<&[u8]>, _) = (vec![b"\0\xFFab", b""], r#"["AP9hYg==",""]"#);
        check(BinaryArray::from(bytes.clone()), expected);
        check(LargeBinaryArray::from(bytes.clone()), expected);
        check(BinaryViewArray::from(bytes), expected);
    }

    #[test]
    fn timestamps_are_iso() {
        let stamps = vec![
            0,
            -1,
            1_709_212_455_678_900,
            253_402_300_799_000_000,
            253_402_300_800_000_000,
            -62_198_755_200_000_000,
        ];
        let expected = r#"["1970-01-01T00:00:00","1969-12-31T23:59:59.999999","2024-02-29T13:14:15.6789","9999-12-31T23:59:59","+010000-01-01T00:00:00","-000001-01-01T00:00:00"]"#;
        check(TimestampMicrosecondArray::from(stamps.clone()), expected);
        check(
            TimestampMicrosecondArray::from(stamps).with_timezone("UTC"),
            &expected.replace(r#"","#, r#"Z","#).replace(r#""]"#, r#"Z"]"#),
        );
        check(TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN]), r#"["infinity","-infinity"]"#);
        assert_eq!(moment(951_827_696_500_000), "2000-02-29T12:34:56.5Z");
    }

    /// 2000 was a leap year, unlike 1900 and 2100: the one day on which a calendar that takes every
    /// hundredth year for a common one is off, and all days after it.
    #[test]
    fn dates_are_iso() {
        check(Date32Array::from(vec![11_015, 11_016, 11_017]), r#"["2000-02-28","2000-02-29","2000-03-01"]"#);
        check(
            Date32Array::from(vec![-25_509, -25_508, 47_540, 47_541]),
            r#"["1900-02-28","1900-03-01","2100-02-28","2100-03-01"]"#,
        );
        check(
            Date32Array::from(vec![2_932_896, 2_932_897, -719_528, -719_529]),
            r#"["9999-12-31","+010000-01-01","0000-01-01","-000001-12-31"]"#,
        );
        check(Date32Array::from(vec![i32::MAX, i32::MIN]), r#"["infinity","-infinity"]"#);
    }

    /// Every day of 800 years, against a calendar that turns its pages one by one.
    #[test]
    fn every_day_is_the_one_after_the_day_before() {
        let (mut year, mut month, mut day) = (1600, 1, 1);
        for days in -135_140..-135_140 + 2 * 146_097 {
            assert_eq!(civil_from_days(days), (year, month, day));
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 => 28 + i64::from(is_leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > last {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month, day), (2400, 1, 1));
    }

    #[test]
    fn times_are_iso() {
        check(
            Time64MicrosecondArray::from(vec![0, 47_655_000_001, 86_399_900_000, 86_400_000_000]),
            r#"["00:00:00","13:14:15.000001","23:59:59.9","24:00:00"]"#,
        );
    }

    #[test]
    fn intervals_are_iso() {
        let check = |months, days, nanos, expected| {
            check(
                IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(months, days, nanos)]),
                &format!("[\"{expected}\"]"),
            );
        };
        check(0, 0, 0, "PT0S");
        check(14, -3, -1_500_000_000, "P1Y2M-3DT-1.5S");
        check(-14, 3, 0, "P-1Y-2M3D");
        check(12, 0, 0, "P1Y");
        check(0, 0, 3_600_000_000_000, "PT1H");
        check(0, 0, 47_655_678_900_000, "PT13H14M15.6789S");
        check(0, 0, -47_655_000_000_000, "PT-13H-14M-15S");
        check(0, 0, 60_000_000_000, "PT1M");
        check(0, 1, 1_000, "P1DT0.000001S");
        check(0, 0, 90_000_000_000_000_000, "PT25000H");
    }

    #[test]
    fn lists_and_structs_hold_values() {
        let items = || vec![Some(vec![Some(1), None]), None, Some(Vec::new())];
        check(ListArray::from_iter_primitive::<Int64Type, _, _>(items()), "[[1,null],null,[]]");
        check(LargeListArray::from_iter_primitive::<Int64Type, _, _>(items()), "[[1,null],null,[]]");
        let fields =
            Fields::from(vec![Field::new("a", DataType::Int64, true), Field::new("b \"c\"", DataType::Utf8, true)]);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![Some(1), None])), Arc::new(StringArray::from(vec!["x", "y"]))];
        check(StructArray::new(fields, columns, None), r#"[{"a":1,"b \"c\"":"x"},{"a":null,"b \"c\"":"y"}]"#);
    }

    /// A type that no source of ours gives is a string as Arrow prints it, in place of a panic.
    #[test]
    fn other_types_are_strings() {
        check(
            FixedSizeBinaryArray::try_from_iter([[1_u8, 2], [3, 255]].iter()).expect("two bytes each"),
            r#"["0102","03ff"]"#,
        );
    }

    #[test]
    fn types_have_their_sql_names() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        for (types, name) in [
            (&[DataType::Boolean][..], "boolean"),
            (&[DataType::Int8, DataType::Int16, DataType::UInt8], "smallint"),
            (&[DataType::Int32, DataType::UInt16], "integer"),
            (&[DataType::Int64, DataType::UInt32, DataType::UInt64], "bigint"),
            (&[DataType::Float16, DataType::Float32], "real"),
            (&[DataType::Float64], "double precision"),
            (&[DataType::Decimal128(31, 2), DataType::Decimal256(31, 2)], "numeric(31,2)"),
            (&[DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View], "text"),
            (&[DataType::Binary, DataType::LargeBinary, DataType::BinaryView], "bytea"),
            (&[DataType::Date32, DataType::Date64], "date"),
            (&[DataType::Time32(TimeUnit::Second), DataType::Time64(TimeUnit::Microsecond)], "time"),
            (&[DataType::Timestamp(TimeUnit::Microsecond, None)], "timestamp"),
            (&[DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))], "timestamptz"),
            (&[DataType::Interval(IntervalUnit::MonthDayNano), DataType::Duration(TimeUnit::Second)], "interval"),
            (&[DataType::List(item(DataType::Int32)), DataType::LargeList(item(DataType::Int32))], "integer[]"),
            (&[DataType::Struct(Fields::empty())], "record"),
            (&[DataType::Null], "null"),
        ] {
            for data_type in types {
                assert_eq!(type_name(data_type), name, "{data_type}");
            }
        }
    }
}
