//! Literals, and what they are to a column's type.
//!
//! A literal is compared exactly, whatever its digits: `total > 100.005` over `numeric(10,2)` is `total > 100.00`,
//! and `total = 100.005` is true for no row. So a literal is not rounded into the column's type but given its
//! place among the type's values: on one of them, between two, or beyond all.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit, i256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::error::shown;
use crate::moment::{self, Moment};

/// A value as it was written: in JSON, in SQL or in a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Literal {
    /// `NULL`, `null`
    Null,
    /// `true`, `false`
    Boolean(bool),
    /// A number, by its text: `-1`, `100.005`, `1e300`.
    Number(String),
    /// Text, which may stand for a value of any type, as a quoted literal of SQL does.
    Text(String),
}

/// One value of a column's type. Values of one column are of one kind, and their order is the column's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Value {
    Boolean(bool),
    /// Integers, unscaled decimals of up to 38 digits, and dates, times and timestamps in the unit of their type;
    /// intervals in nanoseconds.
    Integer(i128),
    /// Unscaled decimals of more digits.
    Wide(i256),
    /// By [`float_key`].
    Float(i64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
}

impl Value {
    pub(crate) fn as_boolean(&self) -> Option<bool> {
        if let Value::Boolean(value) = self { Some(*value) } else { None }
    }

    pub(crate) fn as_integer<T: TryFrom<i128>>(&self) -> Option<T> {
        if let Value::Integer(value) = self { (*value).try_into().ok() } else { None }
    }

    pub(crate) fn as_wide(&self) -> Option<i256> {
        if let Value::Wide(value) = self { Some(*value) } else { None }
    }

    pub(crate) fn as_float_key(&self) -> Option<i64> {
        if let Value::Float(key) = self { Some(*key) } else { None }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// Where a literal stands among the values of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before all of them.
    Below,
    On(Value),
    /// After this value and before the next.
    After(Value),
    /// After all of them.
    Above,
}

/// A number's place in the order of Postgres: NaN is equal to itself and greater than all others, and `-0` is `0`.
pub(crate) fn float_key(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    let bits = (value + 0.0).to_bits().cast_signed();
    // Negative numbers have more bits the further they are from zero: all but the sign turn round.
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// An interval's place in the order of Postgres, where a month is 30 days and a day 24 hours.
pub(crate) fn interval_key(months: i32, days: i32, nanos: i64) -> i128 {
    (i128::from(months) * 30 + i128::from(days)) * 86_400_000_000_000 + i128::from(nanos)
}

/// Finds the place of a literal among the values of a type; the error says what those look like.
pub(crate) fn place(literal: &Literal, data_type: &DataType) -> Result<Place, String> {
    placed(literal, data_type).ok_or_else(|| refused(literal, data_type))
}

/// Says that a literal is no value of a type, and what those look like.
pub(crate) fn refused(literal: &Literal, data_type: &DataType) -> String {
    let got = match literal {
        Literal::Null => "NULL".to_owned(),
        Literal::Boolean(value) => value.to_string(),
        Literal::Number(text) => shown(text),
        Literal::Text(text) => format!("{:?}", shown(text)),
    };
    format!("{got} is no {}, which looks like {}", type_name(data_type), looks_like(data_type))
}

fn placed(literal: &Literal, data_type: &DataType) -> Option<Place> {
    let text = match literal {
        Literal::Null => return None,
        Literal::Boolean(value) => {
            return (*data_type == DataType::Boolean).then_some(Place::On(Value::Boolean(*value)));
        }
        Literal::Number(text) if is_number(data_type) => text,
        Literal::Number(_) => return None,
        Literal::Text(text) => text,
    };
    if let Some((min, max)) = integer_range(data_type) {
        return among_scaled(text, 0, min, max, |value| value.to_i128().map(Value::Integer));
    }
    Some(match data_type {
        DataType::Boolean => match text.as_str() {
            "true" | "t" => Place::On(Value::Boolean(true)),
            "false" | "f" => Place::On(Value::Boolean(false)),
            _ => return None,
        },
        DataType::Decimal128(precision, scale) => {
            let max = power_of_ten(usize::from(*precision))?.wrapping_sub(i256::ONE);
            let value = |value: i256| value.to_i128().map(Value::Integer);
            return among_scaled(text, i64::from(*scale), max.wrapping_neg(), max, value);
        }
        DataType::Decimal256(precision, scale) => {
            let max = power_of_ten(usize::from(*precision))?.wrapping_sub(i256::ONE);
            return among_scaled(text, i64::from(*scale), max.wrapping_neg(), max, |value| Some(Value::Wide(value)));
        }
        // Read as what the column holds: `0.1` is the `real` that is told as 0.1.
        DataType::Float32 => Place::On(Value::Float(float_key(float::<f32>(text, f32::is_infinite)?.into()))),
        DataType::Float64 => Place::On(Value::Float(float_key(float::<f64>(text, f64::is_infinite)?))),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Place::On(Value::Text(text.as_str().into())),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Place::On(Value::Bytes(bytes(text)?.into())),
        DataType::Date32 => match moment::date(text)? {
            Moment::Past => Place::On(Value::Integer(i32::MIN.into())),
            Moment::Future => Place::On(Value::Integer(i32::MAX.into())),
            Moment::At(days) => Place::On(Value::Integer(days)),
        },
        DataType::Time32(unit) | DataType::Time64(unit) => in_unit(moment::time(text, digits(*unit))?, *unit),
        DataType::Timestamp(unit, zone) => match moment::timestamp(text, zone.is_some(), digits(*unit))? {
            Moment::Past => Place::On(Value::Integer(i64::MIN.into())),
            Moment::Future => Place::On(Value::Integer(i64::MAX.into())),
            Moment::At(nanos) => match in_unit(nanos, *unit) {
                // The ends of the type are the infinities.
                Place::On(Value::Integer(value)) | Place::After(Value::Integer(value))
                    if value <= i64::MIN.into() || value >= i64::MAX.into() =>
                {
                    return None;
                }
                place => place,
            },
        },
        DataType::Interval(IntervalUnit::MonthDayNano) => Place::On(Value::Integer(moment::interval(text)?)),
        _ => return None,
    })
}

/// What SQL calls a type.
#[must_use]
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint".to_owned(),
        DataType::Int32 | DataType::UInt16 => "integer".to_owned(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "bigint".to_owned(),
        DataType::Float16 | DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => format!("numeric({p},{s})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".to_owned(),
        DataType::List(item) | DataType::LargeList(item) => format!("{}[]", type_name(item.data_type())),
        DataType::Struct(_) => "record".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

/// What values of a type look like in JSON.
fn looks_like(data_type: &DataType) -> String {
    match data_type {
        _ if integer_range(data_type).is_some() => "42 or \"42\"",
        DataType::Boolean => "true or false",
        DataType::Decimal128(_, 0) | DataType::Decimal256(_, 0) => "42 or \"42\"",
        DataType::Decimal128(..) | DataType::Decimal256(..) => "\"123.45\" or 123.45",
        DataType::Float32 | DataType::Float64 => "1.5, \"NaN\" or \"-Infinity\"",
        _ if is_text(data_type) => "\"open\"",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "\"AP9h\" (base64)",
        DataType::Date32 => "\"2024-02-29\" or \"infinity\"",
        DataType::Time32(_) | DataType::Time64(_) => "\"13:14:15.678\"",
        DataType::Timestamp(_, None) => "\"2024-02-29T13:14:15.678\" (without an offset) or \"infinity\"",
        DataType::Timestamp(_, Some(_)) => "\"2024-02-29T13:14:15.678Z\", with any offset, or \"infinity\"",
        DataType::Interval(_) => "\"P1Y2M3DT4H5M6S\"",
        _ => "nothing that can be compared",
    }
    .to_owned()
}

/// Whether values of the type can be compared with literals.
pub(crate) fn is_comparable(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::Date32
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Interval(IntervalUnit::MonthDayNano)
    ) || is_text(data_type)
        || integer_range(data_type).is_some()
}

pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Integers, numerics and floats.
pub(crate) fn is_number(data_type: &DataType) -> bool {
    is_exact_number(data_type) || matches!(data_type, DataType::Float32 | DataType::Float64)
}

/// Integers and numerics.
pub(crate) fn is_exact_number(data_type: &DataType) -> bool {
    integer_range(data_type).is_some() || matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..))
}

/// Integers.
pub(crate) fn is_integer(data_type: &DataType) -> bool {
    integer_range(data_type).is_some()
}

fn integer_range(data_type: &DataType) -> Option<(i256, i256)> {
    let range = |min: i128, max: i128| Some((i256::from_i128(min), i256::from_i128(max)));
    match data_type {
        DataType::Int8 => range(i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => range(i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => range(i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => range(i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => range(0, u8::MAX.into()),
        DataType::UInt16 => range(0, u16::MAX.into()),
        DataType::UInt32 => range(0, u32::MAX.into()),
        DataType::UInt64 => range(0, u64::MAX.into()),
        _ => None,
    }
}

/// Digits of a second that a unit keeps; a column of whole or thousandth seconds is compared exactly all the same.
fn digits(unit: TimeUnit) -> usize {
    if unit == TimeUnit::Nanosecond { 9 } else { 6 }
}

fn in_unit(nanos: i128, unit: TimeUnit) -> Place {
    let unit = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    let value = Value::Integer(nanos.div_euclid(unit));
    if nanos.rem_euclid(unit) == 0 { Place::On(value) } else { Place::After(value) }
}

/// The number itself, `NaN` or an infinity by name; a number beyond the type is refused, as Postgres refuses it.
fn float<T: std::str::FromStr + Copy>(text: &str, is_infinite: impl Fn(T) -> bool) -> Option<T> {
    let is_name = matches!(text, "NaN" | "Infinity" | "-Infinity");
    if !is_name && !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    text.parse().ok().filter(|value| is_name || !is_infinite(*value))
}

/// Base64 with or without its padding, or hexadecimal as Postgres writes it (`\x00ff`), which no base64 begins like.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let Some(hex) = text.strip_prefix("\\x") else {
        return STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok();
    };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None }).collect()
}

/// Digits that fit 256 bits whatever they are.
const WIDE_DIGITS_MAX: usize = 76;

/// The place of a decimal number among the whole multiples of `10^-scale` from `min` to `max`. Exponents are
/// arithmetic on the place of the point, so `1e999999999` costs what it is long.
fn among_scaled(text: &str, scale: i64, min: i256, max: i256, value: impl Fn(i256) -> Option<Value>) -> Option<Place> {
    let (is_negative, digits, exponent) = match decimal(text)? {
        // As Postgres has it for numeric: NaN is greater than all.
        Decimal::NotANumber | Decimal::Infinity => return Some(Place::Above),
        Decimal::NegativeInfinity => return Some(Place::Below),
        Decimal::Finite { is_negative, digits, exponent } => (is_negative, digits, exponent.saturating_add(scale)),
    };
    let beyond = if is_negative { Place::Below } else { Place::Above };
    // How many of the digits stand before the point, once it has moved.
    let before = i64::try_from(digits.len()).ok()?.saturating_add(exponent);
    if !digits.is_empty() && before > WIDE_DIGITS_MAX as i64 {
        return Some(beyond);
    }
    let kept = usize::try_from(before).unwrap_or(0).min(digits.len());
    let zeros = if digits.is_empty() { 0 } else { usize::try_from(exponent).unwrap_or(0) };
    let mut whole = i256::ZERO;
    let ten = i256::from_i128(10);
    for digit in digits[..kept].iter().copied().chain(std::iter::repeat_n(b'0', zeros)) {
        whole = whole.wrapping_mul(ten).wrapping_add(i256::from_i128(i128::from(digit - b'0')));
    }
    // No digit is left that is zero for nothing, so what was not kept lies above the floor.
    let is_whole = kept == digits.len();
    let floor = match (is_negative, is_whole) {
        (false, _) => whole,
        (true, true) => whole.wrapping_neg(),
        (true, false) => whole.wrapping_neg().wrapping_sub(i256::ONE),
    };
    Some(if floor < min {
        Place::Below
    } else if floor > max {
        Place::Above
    } else if is_whole {
        Place::On(value(floor)?)
    } else {
        Place::After(value(floor)?)
    })
}

enum Decimal {
    NotANumber,
    NegativeInfinity,
    Infinity,
    /// Digits without zeros at either end (none: the number is zero), times ten to the exponent.
    Finite {
        is_negative: bool,
        digits: Vec<u8>,
        exponent: i64,
    },
}

/// Reads `-12.50`, `.5`, `1e-7`, `NaN`, `Infinity`.
fn decimal(text: &str) -> Option<Decimal> {
    match text {
        "NaN" => return Some(Decimal::NotANumber),
        "Infinity" => return Some(Decimal::Infinity),
        "-Infinity" => return Some(Decimal::NegativeInfinity),
        _ => {}
    }
    let (is_negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
        None => (unsigned, 0),
        Some((digits, exponent)) => {
            let magnitude = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if magnitude.is_empty() || !magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            // What is too long to be read is beyond every type or nearest to zero either way.
            let magnitude = magnitude.parse().unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
            (digits, if exponent.starts_with('-') { -magnitude } else { magnitude })
        }
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let mut exponent = exponent - i64::try_from(fraction.len()).ok()?;
    let mut digits = [whole.as_bytes(), fraction.as_bytes()].concat();
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    Some(Decimal::Finite { is_negative, digits, exponent })
}

/// How many digits of a number's text matter.
pub(crate) fn significant_digits(text: &str) -> usize {
    if let Some(Decimal::Finite { digits, .. }) = decimal(text) { digits.len() } else { 0 }
}

fn power_of_ten(exponent: usize) -> Option<i256> {
    i256::from_i128(10).checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str, data_type: &DataType) -> String {
        match place(&Literal::Number(text.to_owned()), data_type) {
            Ok(Place::Below) => "below".to_owned(),
            Ok(Place::On(Value::Integer(value))) => format!("on {value}"),
            Ok(Place::After(Value::Integer(value))) => format!("after {value}"),
            Ok(Place::On(Value::Wide(value))) => format!("on {value}"),
            Ok(Place::After(Value::Wide(value))) => format!("after {value}"),
            Ok(Place::Above) => "above".to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn numbers_have_an_exact_place() {
        for (text, expected) in [
            ("100", "on 10000"),
            ("100.00", "on 10000"),
            ("100.000000", "on 10000"),
            ("100.005", "after 10000"),
            ("-100.005", "after -10001"),
            ("0", "on 0"),
            ("-0", "on 0"),
            ("-0.001", "after -1"),
            ("0.001", "after 0"),
            ("1e2", "on 10000"),
            ("1E+2", "on 10000"),
            ("12345e-3", "after 1234"),
            ("1e-999999999999999999999999", "after 0"),
            ("-1e-999999999", "after -1"),
            ("0e999999999", "on 0"),
            ("1e999999999999999999999999", "above"),
            ("-1e999999999", "below"),
            ("99999999.99", "on 9999999999"),
            ("99999999.995", "after 9999999999"),
            ("100000000", "above"),
            ("-99999999.99", "on -9999999999"),
            ("-99999999.995", "below"),
            (".5", "on 50"),
            ("5.", "on 500"),
            ("+5", "on 500"),
            ("NaN", "above"),
            ("Infinity", "above"),
            ("-Infinity", "below"),
        ] {
            assert_eq!(number(text, &DataType::Decimal128(10, 2)), expected, "{text}");
            assert_eq!(number(text, &DataType::Decimal256(10, 2)), expected, "{text}");
        }
        for (text, expected) in
            [("1.5", "after 1"), ("32767", "on 32767"), ("32768", "above"), ("-32768.5", "below"), ("1e3", "on 1000")]
        {
            assert_eq!(number(text, &DataType::Int16), expected, "{text}");
        }
        assert_eq!(number("18446744073709551615", &DataType::UInt64), "on 18446744073709551615");
        assert_eq!(number("-1", &DataType::UInt64), "below");
        let nines = "9".repeat(76);
        assert_eq!(number(&nines, &DataType::Decimal256(76, 0)), format!("on {nines}"));
        assert_eq!(number(&format!("-{nines}.5"), &DataType::Decimal256(76, 0)), "below");
        assert_eq!(number(&format!("{nines}9"), &DataType::Decimal256(76, 0)), "above");
        assert_eq!(number(&"9".repeat(38), &DataType::Decimal128(38, 0)), format!("on {}", "9".repeat(38)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1.2.3", "1,5", " 1", "0x10", "nan", "1_000", "--1", "１"] {
            let literal = Literal::Text(text.to_owned());
            assert!(place(&literal, &DataType::Decimal128(10, 2)).is_err(), "{text}");
            assert!(place(&literal, &DataType::Int32).is_err(), "{text}");
        }
        for text in ["", "inf", "nan", "infinity", "1e400", "-1e400", " 1", "0x1p3"] {
            assert!(place(&Literal::Text(text.to_owned()), &DataType::Float64).is_err(), "{text}");
        }
        assert!(place(&Literal::Text("1e39".to_owned()), &DataType::Float32).is_err());
    }

    #[test]
    fn floats_are_in_the_order_of_postgres() {
        let ordered =
            [f64::NEG_INFINITY, f64::MIN, -1.5, -f64::MIN_POSITIVE, 0.0, 5e-324, 1.0, f64::MAX, f64::INFINITY];
        assert!(ordered.windows(2).all(|pair| float_key(pair[0]) < float_key(pair[1])));
        assert!(float_key(f64::INFINITY) < float_key(f64::NAN));
        assert_eq!(float_key(f64::NAN), float_key(-f64::NAN));
        assert_eq!(float_key(0.0), float_key(-0.0));
    }

    #[test]
    fn a_real_is_read_as_it_is_told() {
        let literal = Literal::Number("0.1".to_owned());
        assert_eq!(place(&literal, &DataType::Float32), Ok(Place::On(Value::Float(float_key(0.1_f32.into())))));
        assert_eq!(place(&literal, &DataType::Float64), Ok(Place::On(Value::Float(float_key(0.1)))));
    }

    #[test]
    fn bytes_are_base64_or_hexadecimal() {
        for text in ["AP9hYg==", "AP9hYg", "\\x00ff6162", "\\x00FF6162"] {
            assert_eq!(bytes(text), Some(vec![0, 255, b'a', b'b']), "{text}");
        }
        for text in ["A", "\\x0", "\\xg0", "AP9hYg=", "a b"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn moments_stand_in_the_unit_of_their_column() {
        let at = |text: &str, data_type| place(&Literal::Text(text.to_owned()), &data_type).ok();
        let text = "1970-01-01T00:00:01.5Z";
        let zone = || Some("UTC".into());
        let on = |value| Some(Place::On(Value::Integer(value)));
        assert_eq!(at(text, DataType::Timestamp(TimeUnit::Second, zone())), Some(Place::After(Value::Integer(1))));
        assert_eq!(at(text, DataType::Timestamp(TimeUnit::Millisecond, zone())), on(1_500));
        assert_eq!(at(text, DataType::Timestamp(TimeUnit::Microsecond, zone())), on(1_500_000));
        assert_eq!(at(text, DataType::Timestamp(TimeUnit::Nanosecond, None)), on(1_500_000_000));
        assert_eq!(at("2300-01-01", DataType::Timestamp(TimeUnit::Nanosecond, None)), None);
        assert_eq!(at("-infinity", DataType::Timestamp(TimeUnit::Microsecond, None)), on(i64::MIN.into()));
        assert_eq!(at("infinity", DataType::Date32), on(i32::MAX.into()));
        assert_eq!(at("00:00:01", DataType::Time64(TimeUnit::Microsecond)), on(1_000_000));
    }

    #[test]
    fn the_error_says_what_values_look_like() {
        for (literal, data_type, expected) in [
            (Literal::Text("x".into()), DataType::Int64, r#""x" is no bigint, which looks like 42 or "42""#),
            (Literal::Boolean(true), DataType::Utf8, r#"true is no text, which looks like "open""#),
            (Literal::Number("1".into()), DataType::Utf8, r#"1 is no text, which looks like "open""#),
            (
                Literal::Number("1".into()),
                DataType::Date32,
                r#"1 is no date, which looks like "2024-02-29" or "infinity""#,
            ),
            (Literal::Text("yes".into()), DataType::Boolean, r#""yes" is no boolean, which looks like true or false"#),
            (
                Literal::Text("x".into()),
                DataType::Decimal128(9, 0),
                r#""x" is no numeric(9,0), which looks like 42 or "42""#,
            ),
            (
                Literal::Text("x".into()),
                DataType::Float32,
                r#""x" is no real, which looks like 1.5, "NaN" or "-Infinity""#,
            ),
            (Literal::Text("A".into()), DataType::Binary, r#""A" is no bytea, which looks like "AP9h" (base64)"#),
            (
                Literal::Text("noon".into()),
                DataType::Time64(TimeUnit::Microsecond),
                r#""noon" is no time, which looks like "13:14:15.678""#,
            ),
            (
                Literal::Text("1 day".into()),
                DataType::Interval(IntervalUnit::MonthDayNano),
                r#""1 day" is no interval, which looks like "P1Y2M3DT4H5M6S""#,
            ),
        ] {
            assert_eq!(place(&literal, &data_type), Err(expected.to_owned()));
        }
        let long = place(&Literal::Text("x".repeat(1_000_000)), &DataType::Int64).unwrap_err();
        assert!(long.len() < 200, "{long}");
    }
}
