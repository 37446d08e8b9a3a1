//! Postgres's text form of values into Arrow builders.
//!
//! One decoder serves the snapshot (COPY in text form) and the stream (pgoutput in text form), so
//! that a row that was copied and a row that was streamed are the same bytes. The session's
//! settings fix the forms (see `connect`): ISO dates, ISO 8601 intervals, hex bytea, UTC.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Decimal256Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray,
    NullBufferBuilder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::IntervalMonthDayNano;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, DecimalType, Field, IntervalUnit, TimeUnit, i256};

/// Days from 1970-01-01 to Postgres's day zero, 2000-01-01.
pub const POSTGRES_EPOCH_DAYS: i64 = 10_957;

/// A text that is no value of the column's type.
#[derive(Debug, PartialEq, Eq)]
pub struct BadText;

/// Builds one column from texts.
pub enum ColumnBuilder {
    /// `bool`
    Boolean(BooleanBuilder),
    /// `int2`
    Int16(Int16Builder),
    /// `int4`
    Int32(Int32Builder),
    /// `int8`
    Int64(Int64Builder),
    /// `float4`
    Float32(Float32Builder),
    /// `float8`
    Float64(Float64Builder),
    /// `numeric` of up to 38 digits, with its precision and scale.
    Decimal128(Decimal128Builder, u8, i8),
    /// `numeric` of up to 76 digits, with its precision and scale.
    Decimal256(Decimal256Builder, u8, i8),
    /// Text, and whatever is taken as text.
    Text(StringBuilder),
    /// `bytea`
    Binary(BinaryBuilder),
    /// `date`
    Date(Date32Builder),
    /// `time`
    Time(Time64MicrosecondBuilder),
    /// `timestamp`, `timestamptz`
    Timestamp(TimestampMicrosecondBuilder),
    /// `interval`
    Interval(IntervalMonthDayNanoBuilder),
    /// One-dimensional arrays.
    List {
        /// The elements.
        items: Box<ColumnBuilder>,
        /// Their type.
        field: Arc<Field>,
        /// Where each list ends.
        offsets: Vec<i32>,
        /// Which lists are NULL.
        nulls: NullBufferBuilder,
    },
}

impl ColumnBuilder {
    /// A builder for a column of a type that [`super::catalog`] gives out; `None` for others.
    #[must_use]
    pub fn new(data_type: &DataType) -> Option<ColumnBuilder> {
        Some(match data_type {
            DataType::Boolean => ColumnBuilder::Boolean(BooleanBuilder::new()),
            DataType::Int16 => ColumnBuilder::Int16(Int16Builder::new()),
            DataType::Int32 => ColumnBuilder::Int32(Int32Builder::new()),
            DataType::Int64 => ColumnBuilder::Int64(Int64Builder::new()),
            DataType::Float32 => ColumnBuilder::Float32(Float32Builder::new()),
            DataType::Float64 => ColumnBuilder::Float64(Float64Builder::new()),
            DataType::Decimal128(p, s) => {
                ColumnBuilder::Decimal128(Decimal128Builder::new().with_data_type(data_type.clone()), *p, *s)
            }
            DataType::Decimal256(p, s) => {
                ColumnBuilder::Decimal256(Decimal256Builder::new().with_data_type(data_type.clone()), *p, *s)
            }
            DataType::Utf8 => ColumnBuilder::Text(StringBuilder::new()),
            DataType::Binary => ColumnBuilder::Binary(BinaryBuilder::new()),
            DataType::Date32 => ColumnBuilder::Date(Date32Builder::new()),
            DataType::Time64(TimeUnit::Microsecond) => ColumnBuilder::Time(Time64MicrosecondBuilder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                ColumnBuilder::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()))
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                ColumnBuilder::Interval(IntervalMonthDayNanoBuilder::new())
            }
            DataType::List(field) => ColumnBuilder::List {
                items: Box::new(ColumnBuilder::new(field.data_type())?),
                field: Arc::clone(field),
                offsets: vec![0],
                nulls: NullBufferBuilder::new(0),
            },
            _ => return None,
        })
    }

    /// Adds NULL.
    pub fn push_null(&mut self) {
        match self {
            ColumnBuilder::Boolean(b) => b.append_null(),
            ColumnBuilder::Int16(b) => b.append_null(),
            ColumnBuilder::Int32(b) => b.append_null(),
            ColumnBuilder::Int64(b) => b.append_null(),
            ColumnBuilder::Float32(b) => b.append_null(),
            ColumnBuilder::Float64(b) => b.append_null(),
            ColumnBuilder::Decimal128(b, ..) => b.append_null(),
            ColumnBuilder::Decimal256(b, ..) => b.append_null(),
            ColumnBuilder::Text(b) => b.append_null(),
            ColumnBuilder::Binary(b) => b.append_null(),
            ColumnBuilder::Date(b) => b.append_null(),
            ColumnBuilder::Time(b) => b.append_null(),
            ColumnBuilder::Timestamp(b) => b.append_null(),
            ColumnBuilder::Interval(b) => b.append_null(),
            ColumnBuilder::List { offsets, nulls, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                nulls.append_null();
            }
        }
    }

    /// Adds a value by its text.
    ///
    /// # Errors
    /// When the text is no value of the column's type; nothing is added then.
    pub fn push(&mut self, text: &[u8]) -> Result<(), BadText> {
        let text = std::str::from_utf8(text).map_err(|_| BadText)?;
        match self {
            ColumnBuilder::Boolean(b) => b.append_value(match text {
                "t" | "true" => true,
                "f" | "false" => false,
                _ => return Err(BadText),
            }),
            ColumnBuilder::Int16(b) => b.append_value(text.parse().map_err(|_| BadText)?),
            ColumnBuilder::Int32(b) => b.append_value(text.parse().map_err(|_| BadText)?),
            ColumnBuilder::Int64(b) => b.append_value(text.parse().map_err(|_| BadText)?),
            // Rust reads NaN, Infinity and -Infinity as Postgres writes them.
            ColumnBuilder::Float32(b) => b.append_value(text.parse().map_err(|_| BadText)?),
            ColumnBuilder::Float64(b) => b.append_value(text.parse().map_err(|_| BadText)?),
            ColumnBuilder::Decimal128(b, precision, scale) => {
                let value = decimal(text, *scale)?.to_i128().ok_or(BadText)?;
                Decimal128Type::validate_decimal_precision(value, *precision, *scale).map_err(|_| BadText)?;
                b.append_value(value);
            }
            ColumnBuilder::Decimal256(b, precision, scale) => {
                let value = decimal(text, *scale)?;
                Decimal256Type::validate_decimal_precision(value, *precision, *scale).map_err(|_| BadText)?;
                b.append_value(value);
            }
            ColumnBuilder::Text(b) => b.append_value(text),
            ColumnBuilder::Binary(b) => b.append_value(hex(text)?),
            ColumnBuilder::Date(b) => b.append_value(date(text)?),
            ColumnBuilder::Time(b) => b.append_value(time(text)?),
            ColumnBuilder::Timestamp(b) => b.append_value(timestamp(text)?),
            ColumnBuilder::Interval(b) => b.append_value(interval(text)?),
            ColumnBuilder::List { items, offsets, nulls, .. } => {
                let elements = elements(text)?;
                for element in &elements {
                    match element {
                        None => items.push_null(),
                        // An element that fails leaves its list half made, so the batch is lost;
                        // whoever calls gives it up.
                        Some(element) => items.push(element.as_bytes())?,
                    }
                }
                let count = i32::try_from(elements.len()).map_err(|_| BadText)?;
                offsets.push(offsets.last().copied().unwrap_or(0) + count);
                nulls.append_non_null();
            }
        }
        Ok(())
    }

    /// The column, leaving the builder empty.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            ColumnBuilder::Boolean(b) => Arc::new(b.finish()),
            ColumnBuilder::Int16(b) => Arc::new(b.finish()),
            ColumnBuilder::Int32(b) => Arc::new(b.finish()),
            ColumnBuilder::Int64(b) => Arc::new(b.finish()),
            ColumnBuilder::Float32(b) => Arc::new(b.finish()),
            ColumnBuilder::Float64(b) => Arc::new(b.finish()),
            ColumnBuilder::Decimal128(b, ..) => Arc::new(b.finish()),
            ColumnBuilder::Decimal256(b, ..) => Arc::new(b.finish()),
            ColumnBuilder::Text(b) => Arc::new(b.finish()),
            ColumnBuilder::Binary(b) => Arc::new(b.finish()),
            ColumnBuilder::Date(b) => Arc::new(b.finish()),
            ColumnBuilder::Time(b) => Arc::new(b.finish()),
            ColumnBuilder::Timestamp(b) => Arc::new(b.finish()),
            ColumnBuilder::Interval(b) => Arc::new(b.finish()),
            ColumnBuilder::List { items, field, offsets, nulls } => {
                let offsets = OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into());
                Arc::new(ListArray::new(Arc::clone(field), offsets, items.finish(), nulls.finish()))
            }
        }
    }
}

/// Digits of a `numeric` at a scale. Digits that the scale has no room for must be zero.
pub(crate) fn decimal(text: &str, scale: i8) -> Result<i256, BadText> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::try_from(scale).map_err(|_| BadText)?;
    let (fraction, dropped) = if fraction.len() > scale { fraction.split_at(scale) } else { (fraction, "") };
    if whole.len() + fraction.len() == 0 || dropped.bytes().any(|digit| digit != b'0') {
        return Err(BadText);
    }
    let zeros = scale - fraction.len();
    let digits = whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', zeros));
    // Most numbers fit 18 digits, where machine words do.
    if whole.len() + scale <= 18 {
        let mut value: i64 = 0;
        for digit in digits {
            value = value * 10 + i64::from(digit_value(digit)?);
        }
        return Ok(i256::from_i128(i128::from(if negative { -value } else { value })));
    }
    let mut value = i256::ZERO;
    let ten = i256::from_i128(10);
    for digit in digits {
        let digit = i256::from_i128(i128::from(digit_value(digit)?));
        value = value.checked_mul(ten).and_then(|value| value.checked_add(digit)).ok_or(BadText)?;
    }
    Ok(if negative { value.wrapping_neg() } else { value })
}

fn digit_value(digit: u8) -> Result<u8, BadText> {
    if digit.is_ascii_digit() { Ok(digit - b'0') } else { Err(BadText) }
}

pub(crate) fn hex(text: &str) -> Result<Vec<u8>, BadText> {
    let digits = text.strip_prefix("\\x").ok_or(BadText)?.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).ok_or(BadText);
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Ok(value(*high)? << 4 | value(*low)?),
            _ => Err(BadText),
        })
        .collect()
}

fn number(text: &str) -> Result<i64, BadText> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadText);
    }
    text.parse().map_err(|_| BadText)
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar. Years beyond seven digits are none: no type
/// here reaches that far.
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> Result<i64, BadText> {
    if !(-9_999_999..=9_999_999).contains(&year) {
        return Err(BadText);
    }
    let is_leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return Err(BadText),
    };
    if !(1..=last).contains(&day) {
        return Err(BadText);
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Ok(era * 146_097 + day_of_era - 719_468)
}

/// `2024-02-29`, `0044-03-15 BC` (the suffix is taken off by whoever calls), years of any length.
fn civil_days(text: &str, before_christ: bool) -> Result<i64, BadText> {
    let mut parts = text.splitn(3, '-');
    let mut next = || parts.next().ok_or(BadText).and_then(number);
    let (year, month, day) = (next()?, next()?, next()?);
    days_from_civil(if before_christ { 1 - year } else { year }, month, day)
}

fn without_bc(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Infinite dates are the ends of the type, as Postgres keeps them.
pub(crate) fn date(text: &str) -> Result<i32, BadText> {
    match text {
        "infinity" => return Ok(i32::MAX),
        "-infinity" => return Ok(i32::MIN),
        _ => {}
    }
    let (text, before_christ) = without_bc(text);
    i32::try_from(civil_days(text, before_christ)?).map_err(|_| BadText)
}

/// Microseconds of `13:14:15.678`; `24:00:00` is a day.
pub(crate) fn time(text: &str) -> Result<i64, BadText> {
    let mut parts = text.splitn(3, ':');
    let mut next = || parts.next().ok_or(BadText);
    let (hours, minutes, seconds) = (number(next()?)?, number(next()?)?, next()?);
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let seconds = number(seconds)?;
    // The last second of a leap minute is the first of the next, as Postgres has it.
    if fraction.len() > 6 || hours > 24 || minutes > 59 || seconds > 60 {
        return Err(BadText);
    }
    let micros = if fraction.is_empty() {
        0
    } else {
        number(fraction)? * 10_i64.pow(6 - u32::try_from(fraction.len()).map_err(|_| BadText)?)
    };
    let micros = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros;
    if hours == 24 && micros > 86_400_000_000 { Err(BadText) } else { Ok(micros) }
}

/// Microseconds since 1970 of `2024-02-29 13:14:15.678`, with or without an offset such as `+00`.
pub(crate) fn timestamp(text: &str) -> Result<i64, BadText> {
    match text {
        "infinity" => return Ok(i64::MAX),
        "-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let (text, before_christ) = without_bc(text);
    let (day, clock) = text.split_once(' ').ok_or(BadText)?;
    let (clock, offset) = match clock.find(['+', '-']) {
        None => (clock, 0),
        Some(at) => {
            let (clock, offset) = clock.split_at(at);
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            let mut seconds = 0;
            for (part, unit) in offset[1..].split(':').zip([3600, 60, 1]) {
                let part = number(part)?;
                // Postgres knows none beyond a day; the sum can't overflow.
                if part > 59 {
                    return Err(BadText);
                }
                seconds += part * unit;
            }
            (clock, sign * seconds)
        }
    };
    let days = civil_days(day, before_christ)?;
    days.checked_mul(86_400_000_000)
        .and_then(|micros| micros.checked_add(time(clock).ok()?))
        .and_then(|micros| micros.checked_sub(offset * 1_000_000))
        .ok_or(BadText)
}

/// ISO 8601: `P1Y2M-3DT4H5M-6.789S`, each part with its own sign.
pub(crate) fn interval(text: &str) -> Result<IntervalMonthDayNano, BadText> {
    let mut rest = text.strip_prefix('P').ok_or(BadText)?;
    let (mut months, mut days, mut nanos) = (0_i64, 0_i64, 0_i64);
    let mut in_time = false;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            in_time = true;
            rest = after;
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or(BadText)?;
        let (amount, unit) = (&rest[..end], rest.as_bytes()[end]);
        rest = &rest[end + 1..];
        let (sign, digits) = amount.strip_prefix('-').map_or((1, amount), |digits| (-1, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if digits.contains('.') && unit != b'S' {
            return Err(BadText);
        }
        let whole = sign * number(whole)?;
        let add =
            |total: i64, unit: i64| whole.checked_mul(unit).and_then(|amount| total.checked_add(amount)).ok_or(BadText);
        match (in_time, unit) {
            (false, b'Y') => months = add(months, 12)?,
            (false, b'M') => months = add(months, 1)?,
            (false, b'W') => days = add(days, 7)?,
            (false, b'D') => days = add(days, 1)?,
            (true, b'H') => nanos = add(nanos, 3_600_000_000_000)?,
            (true, b'M') => nanos = add(nanos, 60_000_000_000)?,
            (true, b'S') => {
                nanos = add(nanos, 1_000_000_000)?;
                if !fraction.is_empty() && fraction.len() <= 9 {
                    let fraction =
                        number(fraction)? * 10_i64.pow(9 - u32::try_from(fraction.len()).map_err(|_| BadText)?);
                    nanos = nanos.checked_add(sign * fraction).ok_or(BadText)?;
                }
            }
            _ => return Err(BadText),
        }
    }
    let months = i32::try_from(months).map_err(|_| BadText)?;
    let days = i32::try_from(days).map_err(|_| BadText)?;
    Ok(IntervalMonthDayNano::new(months, days, nanos))
}

/// The elements of a one-dimensional array such as `{1,NULL,"a \"b\""}` or `[0:1]={1,2}`.
pub(crate) fn elements(text: &str) -> Result<Vec<Option<String>>, BadText> {
    let text = match text.strip_prefix('[') {
        Some(bounds) => bounds.split_once('=').ok_or(BadText)?.1,
        None => text,
    };
    let inside = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or(BadText)?;
    let mut elements = Vec::new();
    if inside.is_empty() {
        return Ok(elements);
    }
    let mut chars = inside.chars();
    loop {
        let mut element = String::new();
        let mut quoted = false;
        let more = loop {
            match chars.next() {
                None => break false,
                Some(',') => break true,
                Some('"') => {
                    quoted = true;
                    loop {
                        match chars.next().ok_or(BadText)? {
                            '"' => break,
                            '\\' => element.push(chars.next().ok_or(BadText)?),
                            other => element.push(other),
                        }
                    }
                }
                Some('\\') => element.push(chars.next().ok_or(BadText)?),
                // An array of arrays: there is no one list type for it.
                Some('{') => return Err(BadText),
                Some(other) => element.push(other),
            }
        };
        elements.push(if !quoted && element == "NULL" { None } else { Some(element) });
        if !more {
            return Ok(elements);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_refused() {
        let read = |text, scale| decimal(text, scale).map(|value| value.to_string());
        assert_eq!(read("-12.34", 2), Ok("-1234".to_owned()));
        assert_eq!(read("12.340000", 2), Ok("1234".to_owned()));
        assert_eq!(read("0", 4), Ok("0".to_owned()));
        assert_eq!(read("99999999999999999999999999999999999999", 0), Ok("9".repeat(38)));
        for bad in ["12.345", "NaN", "Infinity", "", "-", ".", "1e5"] {
            assert_eq!(read(bad, 2), Err(BadText), "{bad}");
        }
    }

    #[test]
    fn times_reach_as_far_as_their_type() {
        assert_eq!(timestamp("1970-01-01 00:00:00"), Ok(0));
        assert_eq!(timestamp("2000-01-01 00:00:00+00"), Ok(POSTGRES_EPOCH_DAYS * 86_400_000_000));
        assert_eq!(timestamp("2024-02-29 13:14:15.6789+05:30"), Ok(1_709_192_655_678_900));
        assert_eq!(timestamp("4714-11-24 00:00:00 BC"), Ok(-210_866_803_200_000_000));
        assert_eq!(timestamp("infinity"), Ok(i64::MAX));
        assert_eq!(timestamp("294246-12-31 23:59:59.999999"), Ok(9_223_371_244_799_999_999));
        // Arrow counts from 1970 and Postgres from 2000, so its last thirty years have no number.
        assert_eq!(timestamp("294276-12-31 23:59:59.999999"), Err(BadText));
        assert_eq!(date("0001-01-01 BC"), Ok(-719_528));
        assert_eq!(date("-infinity"), Ok(i32::MIN));
        assert_eq!(time("24:00:00"), Ok(86_400_000_000));
        for bad in ["", "2024-02-29", "2024-13-01 00:00:00", "now"] {
            assert_eq!(timestamp(bad), Err(BadText), "{bad}");
        }
    }

    /// Postgres sends nothing of the kind, but messages of a topic pass through here as well.
    #[test]
    fn what_no_clock_shows_is_refused_however_large() {
        let huge = i64::MAX;
        for bad in ["2023-02-29", "2024-02-30", "1900-02-29", "2024-04-31", "2024-00-10", "2024-01-00"] {
            assert_eq!(date(bad), Err(BadText), "{bad}");
        }
        assert_eq!(date("2000-02-29"), Ok(11_016));
        assert_eq!(date("0005-02-29 BC"), Ok(-720_930));
        assert_eq!(date(&format!("{huge}-01-01")), Err(BadText));
        for bad in ["24:00:01", "25:00:00", "00:60:00", "00:00:61", &format!("00:00:{huge}"), &format!("{huge}:00:00")]
        {
            assert_eq!(time(bad), Err(BadText), "{bad}");
        }
        assert_eq!(timestamp(&format!("2024-01-01 00:00:00+{huge}")), Err(BadText));
        assert_eq!(timestamp("2024-01-01 00:00:00+00:99"), Err(BadText));
        assert_eq!(interval("P1.5Y"), Err(BadText));
    }

    #[test]
    fn intervals_keep_their_parts() {
        assert_eq!(interval("P1Y2M-3DT4H-5M6.007S"), Ok(IntervalMonthDayNano::new(14, -3, 14_106_007_000_000)));
        assert_eq!(interval("PT0S"), Ok(IntervalMonthDayNano::new(0, 0, 0)));
        assert_eq!(interval("PT-0.5S"), Ok(IntervalMonthDayNano::new(0, 0, -500_000_000)));
        assert_eq!(interval("1 day"), Err(BadText));
    }

    #[test]
    fn arrays_have_elements() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            elements(r#"{1,NULL,"NULL","a,\"b\\",""}"#),
            Ok(vec![some("1"), None, some("NULL"), some("a,\"b\\"), some("")])
        );
        assert_eq!(elements("[0:1]={5,6}"), Ok(vec![some("5"), some("6")]));
        assert_eq!(elements("{}"), Ok(vec![]));
        assert_eq!(elements("{{1},{2}}"), Err(BadText));
        assert_eq!(elements("{\"a"), Err(BadText));
    }

    #[test]
    fn bytes_are_hex() {
        assert_eq!(hex("\\x00fF"), Ok(vec![0, 255]));
        assert_eq!(hex("\\x0"), Err(BadText));
        assert_eq!(hex("abc"), Err(BadText));
    }
}
