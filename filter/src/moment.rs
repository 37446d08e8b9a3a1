//! Texts of dates, times, timestamps and intervals, in the spellings that clients are told and that Postgres takes.
//!
//! A timestamp is `2024-02-29T13:14:15.678+05:30`: `T` or a space, the clock or nothing (midnight), a fraction of
//! any length, `Z` or an offset or nothing (UTC, where the column has a zone). Years beyond four digits have a sign
//! in ISO 8601 (`+010000-01-01`, `-000001-12-31` for 2 BC) and none in Postgres (`10000-01-01`, `0002-12-31 BC`);
//! both are read.

/// Nanoseconds in a day.
const DAY: i128 = 86_400_000_000_000;
const SECOND: i128 = 1_000_000_000;
/// Beyond what a date can be in Postgres (5874897 AD), and far from overflowing.
const YEAR_MAX: i64 = 5_874_897;

/// A moment or its day, or before or after all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// `-infinity`
    Past,
    /// Nanoseconds since 1970-01-01, rounded (half to even, as Postgres rounds) at the digit asked for.
    At(i128),
    /// `infinity`
    Future,
}

/// Days since 1970-01-01, as a moment in days.
pub(crate) fn date(text: &str) -> Option<Moment> {
    if let Some(endless) = endless(text) {
        return Some(endless);
    }
    let (text, is_bc) = without_bc(text);
    Some(Moment::At(day(text, is_bc)?.into()))
}

/// Nanoseconds since 1970-01-01 (UTC, where there is an offset), rounded to `digits` of a second. A column without a
/// zone takes no offset but UTC's: which of the two clocks was meant could not be told.
pub(crate) fn timestamp(text: &str, has_zone: bool, digits: usize) -> Option<Moment> {
    if let Some(endless) = endless(text) {
        return Some(endless);
    }
    let (text, is_bc) = without_bc(text);
    let Some((date, rest)) = text.split_once(['T', 't', ' ']) else {
        return Some(Moment::At(i128::from(day(text, is_bc)?) * DAY));
    };
    let (clock, offset) = match rest.find(['+', '-', 'Z', 'z']) {
        Some(at) => (rest[..at].trim_end_matches(' '), offset(&rest[at..])?),
        None => (rest, 0),
    };
    if offset != 0 && !has_zone {
        return None;
    }
    Some(Moment::At(i128::from(day(date, is_bc)?) * DAY + time(clock, digits)? - offset * SECOND))
}

/// Nanoseconds since midnight of `13:14:15.678`, rounded to `digits` of a second; `24:00:00` is a day.
pub(crate) fn time(text: &str, digits: usize) -> Option<i128> {
    let mut parts = text.splitn(3, ':');
    let (hours, minutes) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let (seconds, fraction) = match parts.next() {
        None => (0, 0),
        Some(seconds) => {
            let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            (number(seconds, 2)?, rounded(fraction, digits)?)
        }
    };
    let nanos = i128::from(hours * 3600 + minutes * 60 + seconds) * SECOND + fraction;
    (minutes <= 59 && seconds <= 60 && nanos <= DAY).then_some(nanos)
}

/// ISO 8601, each part with its own sign: `P1Y2M-3DT4H5M-6.789S`. As Postgres compares intervals: in nanoseconds,
/// a month being 30 days and a day 24 hours.
pub(crate) fn interval(text: &str) -> Option<i128> {
    let mut rest = text.strip_prefix('P')?;
    let (mut nanos, mut is_time, mut has_part) = (0_i128, false, false);
    while !rest.is_empty() {
        if !is_time && let Some(after) = rest.strip_prefix('T') {
            (is_time, rest) = (true, after);
            has_part = false;
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (amount, unit) = (&rest[..end], rest.as_bytes()[end]);
        rest = &rest[end + 1..];
        let (sign, amount) = match amount.strip_prefix('-') {
            Some(amount) => (-1, amount),
            None => (1, amount.strip_prefix('+').unwrap_or(amount)),
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        let unit = match (is_time, unit) {
            (false, b'Y') => 360 * DAY,
            (false, b'M') => 30 * DAY,
            (false, b'W') => 7 * DAY,
            (false, b'D') => DAY,
            (true, b'H') => 3600 * SECOND,
            (true, b'M') => 60 * SECOND,
            (true, b'S') => SECOND,
            _ => return None,
        };
        if !fraction.is_empty() && unit != SECOND {
            return None;
        }
        nanos += sign * (i128::from(number(whole, 15)?) * unit + rounded(fraction, 9)?);
        has_part = true;
    }
    has_part.then_some(nanos)
}

fn endless(text: &str) -> Option<Moment> {
    match text {
        "infinity" => Some(Moment::Future),
        "-infinity" => Some(Moment::Past),
        _ => None,
    }
}

fn without_bc(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.
fn day(text: &str, is_bc: bool) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut parts = digits.splitn(3, '-');
    let (year, month, day) = (parts.next()?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    if year.len() < 4 || (is_bc && (sign < 0 || number(year, 7)? == 0)) {
        return None;
    }
    let year = sign * number(year, 7)?;
    let year = if is_bc { 1 - year } else { year };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) || !(-YEAR_MAX..=YEAR_MAX).contains(&year) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Seconds of `Z`, `+05`, `+0530`, `+05:30`, `-00:00:01`.
fn offset(text: &str) -> Option<i128> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, parts) = match text.split_at_checked(1)? {
        ("+", parts) => (1, parts),
        ("-", parts) => (-1, parts),
        _ => return None,
    };
    let (mut seconds, mut count) = (0, 0);
    let split: Vec<&str> = if parts.len() == 4 && !parts.contains(':') {
        vec![parts.get(..2)?, parts.get(2..)?]
    } else {
        parts.splitn(4, ':').collect()
    };
    for (part, (unit, max)) in split.iter().zip([(3600, 15), (60, 59), (1, 59)]) {
        let number = number(part, 2)?;
        seconds += i128::from((number <= max).then_some(number)? * unit);
        count += 1;
    }
    (count == split.len()).then_some(sign * seconds)
}

/// A number of at least one and at most so many digits.
fn number(text: &str, digits_max: usize) -> Option<i64> {
    let is_number = (1..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Nanoseconds of a fraction of a second, rounded to so many digits of it (nine at most), half to even.
fn rounded(fraction: &str, digits: usize) -> Option<i128> {
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (kept, dropped) = fraction.split_at(digits.min(fraction.len()));
    let kept_value: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    let is_up = match dropped.as_bytes() {
        [b'5', rest @ ..] => rest.iter().any(|digit| *digit != b'0') || kept_value % 2 == 1,
        [first, ..] => *first > b'5',
        [] => false,
    };
    let missing = u32::try_from(9 - kept.len()).ok()?;
    Some((kept_value + i128::from(is_up)) * 10_i128.pow(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Option<i128> {
        match timestamp(text, true, 6)? {
            Moment::At(nanos) => Some(nanos / 1_000),
            _ => None,
        }
    }

    /// But for those with a sign before their year, which Postgres does not read, each number is Postgres 15's `extract(epoch from '…'::timestamptz) * 1000000` in UTC.
    #[test]
    fn timestamps_have_many_spellings() {
        for text in [
            "2024-02-29T13:14:15.678Z",
            "2024-02-29 13:14:15.678+00",
            "2024-02-29 13:14:15.678",
            "2024-02-29t13:14:15.6780z",
            "2024-02-29T18:44:15.678+05:30",
            "2024-02-29T18:44:15.678+0530",
            "2024-02-29 18:44:15.678 +05:30",
            "2024-02-29T05:14:15.678-08",
            "2024-02-28T23:14:15.678-14",
        ] {
            assert_eq!(micros(text), Some(1_709_212_455_678_000), "{text}");
        }
        for (text, expected) in [
            ("2024-02-29", 1_709_164_800_000_000),
            ("2024-02-29T13:14", 1_709_212_440_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2024-02-29T24:00:00Z", 1_709_251_200_000_000),
            ("2024-02-29T23:59:60Z", 1_709_251_200_000_000),
            ("+010000-01-01T00:00:00Z", 253_402_300_800_000_000),
            ("10000-01-01 00:00:00+00", 253_402_300_800_000_000),
            ("-000001-01-01T00:00:00Z", -62_198_755_200_000_000),
            ("0002-01-01 00:00:00+00 BC", -62_198_755_200_000_000),
            ("1970-01-01T00:00:00.0000005Z", 0),
            ("1970-01-01T00:00:00.0000015Z", 2),
            ("1970-01-01T00:00:00.00000050001Z", 1),
            ("1970-01-01T00:00:00.00000051Z", 1),
            ("1970-01-01T00:00:00.00000250Z", 2),
            ("1970-01-01T00:00:00.9999999Z", 1_000_000),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
        assert_eq!(timestamp("infinity", false, 6), Some(Moment::Future));
        assert_eq!(timestamp("-infinity", true, 6), Some(Moment::Past));
        assert_eq!(timestamp("2024-02-29T13:14:15Z", false, 6), timestamp("2024-02-29 13:14:15", true, 6));
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "",
            "now",
            "2024",
            "2024-02",
            "2024-2",
            "2023-02-29",
            "2024-02-30",
            "2024-13-01",
            "2024-00-01",
            "24-01-01",
            "2024-02-29T",
            "2024-02-29T25:00",
            "2024-02-29T13:60",
            "2024-02-29T13:14:61",
            "2024-02-29T24:00:01",
            "2024-02-29T13:14:15+",
            "2024-02-29T13:14:15+16",
            "2024-02-29T13:14:15+05:60",
            "2024-02-29T13:14:15+1:2:3:4",
            "2024-02-29T13:14:15ZZ",
            "2024-02-29T13:14:15.6.7Z",
            "2024-02-29T-1:00",
            "+-2024-02-29",
            "0000-01-01 BC",
            "-0001-01-01 BC",
            "9999999-01-01",
            "12345678-01-01",
            "２０２４-02-29",
            "2024-02-29T13:14:15+é1",
            "2024-02-29Z",
        ] {
            assert_eq!(timestamp(text, true, 6), None, "{text}");
        }
        assert_eq!(timestamp("2024-02-29T13:14:15+05:30", false, 6), None);
    }

    #[test]
    fn dates_are_days() {
        for (text, expected) in [
            ("1970-01-01", Some(Moment::At(0))),
            ("2000-02-29", Some(Moment::At(11_016))),
            ("0000-01-01", Some(Moment::At(-719_528))),
            ("0001-01-01 BC", Some(Moment::At(-719_528))),
            ("-000001-12-31", Some(Moment::At(-719_529))),
            ("+010000-01-01", Some(Moment::At(2_932_897))),
            ("infinity", Some(Moment::Future)),
            ("1900-02-29", None),
            ("2024-02-29T00:00:00Z", None),
            ("2024-02-29 ", None),
        ] {
            assert_eq!(date(text), expected, "{text}");
        }
    }

    /// Every day of 801 years is one more than the day before, and the day behind a month's last is none.
    #[test]
    fn days_follow_one_another() {
        let mut expected = day("1600-01-01", false).expect("a day");
        for year in 1600..=2400 {
            let february = if year % 400 == 0 || (year % 4 == 0 && year % 100 != 0) { 29 } else { 28 };
            for (month, days) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                for number in 1..=days {
                    assert_eq!(day(&format!("{year}-{month:02}-{number:02}"), false), Some(expected));
                    expected += 1;
                }
                assert_eq!(day(&format!("{year}-{month:02}-{:02}", days + 1), false), None, "{year}-{month}");
            }
        }
    }

    #[test]
    fn times_are_nanoseconds() {
        assert_eq!(time("13:14:15.678", 6), Some(47_655_678_000_000));
        assert_eq!(time("13:14", 6), Some(47_640_000_000_000));
        assert_eq!(time("24:00:00", 6), Some(DAY));
        assert_eq!(time("00:00:00.123456789", 9), Some(123_456_789));
        for text in ["", "13", "24:00:01", "13:60:00", "13:14:", "1:2:3:4", "-1:00", "001:00"] {
            assert_eq!(time(text, 6), None, "{text}");
        }
    }

    /// A month is 30 days and a day 24 hours, as Postgres compares.
    #[test]
    fn intervals_are_nanoseconds() {
        for (one, other) in [
            ("P1M", "P30D"),
            ("P1Y", "P360D"),
            ("P1D", "PT24H"),
            ("PT0S", "P0D"),
            ("P1W", "P7D"),
            ("PT-1.5S", "PT-1.500S"),
            ("P1Y2M-3DT4H-5M6.007S", "P417DT3H55M6.007S"),
            ("P-1Y-2M3D", "P-417D"),
        ] {
            assert!(interval(one).is_some(), "{one}");
            assert_eq!(interval(one), interval(other), "{one} {other}");
        }
        assert_eq!(interval("PT1.5S"), Some(1_500_000_000));
        assert_eq!(interval("P-1DT0.000000001S"), Some(1 - DAY));
        for text in ["", "P", "PT", "P1DT", "1 day", "P1H", "PT1D", "P1.5D", "P1", "PT1T2S", "P9999999999999999D"] {
            assert_eq!(interval(text), None, "{text}");
        }
    }
}
