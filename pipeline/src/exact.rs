//! Sums of floats that can be taken back.
//!
//! `(1e16 + 1) - 1e16` is 0 in floating point, so a sum that lives by adding and subtracting
//! drifts from the truth. Here a sum is a fixed-point number wide enough for every `f64`
//! (Kulisch's long accumulator: R. Kulisch, "Computer Arithmetic and Validity", 2008): adding is
//! exact, so subtracting takes back exactly what was added, and the result is the exact sum
//! rounded once. It does not depend on the order of the rows.
//!
//! Of the 67 digits of 32 bits that the widest sum needs, only the window in use is kept: five
//! or six for values of like size. Exponents count from the smallest subnormal, 2^-1074, of which
//! every float is a multiple.

/// Bits of one digit.
const DIGIT: u32 = 32;

/// An exact sum of `f64` values with integer weights.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    /// Index of the lowest digit kept.
    first: usize,
    /// Digits in two's complement, base 2^32, lowest first, the top one signed. Between calls all
    /// but the top one are in `0..2^32`.
    digits: Vec<i64>,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl ExactSum {
    /// Adds `value`, `weight` times; a negative weight takes it back.
    pub fn add(&mut self, value: f64, weight: i64) {
        if value.is_nan() {
            self.nans += weight;
        } else if value == f64::INFINITY {
            self.infinities += weight;
        } else if value == f64::NEG_INFINITY {
            self.negative_infinities += weight;
        } else if value != 0.0 {
            self.add_finite(value, weight);
        }
    }

    /// Adds another sum.
    pub fn add_sum(&mut self, other: &ExactSum) {
        self.nans += other.nans;
        self.infinities += other.infinities;
        self.negative_infinities += other.negative_infinities;
        for (i, &digit) in other.digits.iter().enumerate() {
            self.add_shifted(i128::from(digit), (other.first + i) * DIGIT as usize);
        }
    }

    /// Bytes that it holds besides its own size.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.digits.capacity() * size_of::<i64>()
    }

    /// Appends the sum's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let int = |out: &mut Vec<u8>, n: i64| out.extend_from_slice(&n.to_le_bytes());
        [self.nans, self.infinities, self.negative_infinities].into_iter().for_each(|n| int(out, n));
        int(out, i64::try_from(self.first).unwrap_or(i64::MAX));
        int(out, i64::try_from(self.digits.len()).unwrap_or(i64::MAX));
        self.digits.iter().for_each(|digit| int(out, *digit));
    }

    /// Reads what [`ExactSum::write`] wrote; `None` when it did not.
    pub(crate) fn read(from: &mut crate::state::Reader<'_>) -> Option<ExactSum> {
        let (nans, infinities, negative_infinities) = (from.i64()?, from.i64()?, from.i64()?);
        let first = usize::try_from(from.i64()?).ok()?;
        let digits = (0..from.i64()?).map(|_| from.i64()).collect::<Option<_>>()?;
        Some(ExactSum { first, digits, nans, infinities, negative_infinities })
    }

    fn add_finite(&mut self, value: f64, weight: i64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7FF) as usize;
        let fraction = bits & ((1 << 52) - 1);
        // value = mantissa * 2^shift
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        let negative = value.is_sign_negative() != (weight < 0);
        // 53 + 64 bits, then shifted by up to 31: as two halves of the weight it fits an i128.
        let weight = weight.unsigned_abs();
        for (half, extra) in [(weight & 0xFFFF_FFFF, 0), (weight >> 32, 32)] {
            if half != 0 {
                let product = i128::from(mantissa) * i128::from(half);
                self.add_shifted(if negative { -product } else { product }, shift + extra);
            }
        }
    }

    fn add_shifted(&mut self, value: i128, shift: usize) {
        let digit = shift / DIGIT as usize;
        let mut carry = value << (shift % DIGIT as usize);
        if self.digits.is_empty() {
            self.first = digit;
        } else if digit < self.first {
            self.digits.splice(0..0, std::iter::repeat_n(0, self.first - digit));
            self.first = digit;
        }
        let mut i = digit - self.first;
        while carry != 0 {
            if i >= self.digits.len() {
                // The old top digit gives up its sign to the new one.
                let sign = self.digits.last().copied().unwrap_or(0) >> 63;
                if let Some(top) = self.digits.last_mut() {
                    *top &= 0xFFFF_FFFF;
                }
                self.digits.push(sign);
            }
            if i >= self.digits.len() {
                continue;
            }
            let sum = i128::from(self.digits[i]) + carry;
            let is_top = i + 1 == self.digits.len();
            if is_top && i64::try_from(sum).is_ok_and(|top| (-(1 << 31)..1 << 31).contains(&top)) {
                self.digits[i] = i64::try_from(sum).unwrap_or_default();
                break;
            }
            if is_top {
                self.digits.push(0);
            }
            self.digits[i] = i64::try_from(sum & 0xFFFF_FFFF).unwrap_or_default();
            carry = sum >> DIGIT;
            i += 1;
        }
        while self.digits.len() > 1 {
            let n = self.digits.len();
            let (top, below) = (self.digits[n - 1], self.digits[n - 2]);
            // A top digit that only repeats the sign of the one below is dropped.
            let signed = i64::from(u32::try_from(below).unwrap_or_default().cast_signed());
            if top == signed >> 63 {
                self.digits.pop();
                self.digits[n - 2] = signed;
            } else {
                break;
            }
        }
        if self.digits == [0] {
            self.digits.clear();
        }
    }

    /// The sum, rounded to nearest, ties to even.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.nans > 0 || (self.infinities > 0 && self.negative_infinities > 0) {
            return f64::NAN;
        }
        if self.infinities > 0 {
            return f64::INFINITY;
        }
        if self.negative_infinities > 0 {
            return f64::NEG_INFINITY;
        }
        let negative = self.digits.last().is_some_and(|&top| top < 0);
        // The magnitude, all digits in 0..2^32: the top one is far enough from its bounds for the carry.
        let mut carry = i64::from(negative);
        let magnitude: Vec<u64> = self
            .digits
            .iter()
            .map(|&digit| {
                let digit = (if negative { !digit & 0xFFFF_FFFF } else { digit & 0xFFFF_FFFF }) + carry;
                carry = digit >> DIGIT;
                (digit & 0xFFFF_FFFF).cast_unsigned()
            })
            .collect();
        let Some(top) = magnitude.iter().rposition(|&digit| digit != 0) else { return 0.0 };
        // The highest 64 bits, and whether anything non-zero lies below them.
        let digit_at = |i: usize, back: usize| i.checked_sub(back).map_or(0, |i| magnitude[i]);
        let wide = u128::from(magnitude[top]) << 64 | u128::from(digit_at(top, 1)) << 32 | u128::from(digit_at(top, 2));
        let length = 128 - wide.leading_zeros(); // 65..=96
        let high = u64::try_from(wide >> (length - 64)).unwrap_or(u64::MAX);
        let sticky = wide & ((1 << (length - 64)) - 1) != 0
            || magnitude[..top.saturating_sub(2)].iter().any(|&digit| digit != 0);
        // high * 2^exponent, with high in 2^63..2^64.
        let exponent = i32::try_from((self.first + top) * DIGIT as usize).unwrap_or(i32::MAX) - 64
            + i32::try_from(length).unwrap_or_default()
            - 64;
        let rounded = round(high, sticky, exponent);
        if negative { -rounded } else { rounded }
    }
}

/// `high * 2^exponent` with a sticky bit below, rounded to the nearest `f64`, ties to even.
fn round(high: u64, sticky: bool, exponent: i32) -> f64 {
    // Normal numbers keep 53 bits of 64; subnormals fewer. A sum is a multiple of the smallest of
    // these, so at least one bit is kept.
    let drop = 11.max(-exponent).cast_unsigned();
    let (kept, rest) = (high >> drop, high & ((1 << drop) - 1));
    let half = 1_u64 << (drop - 1);
    let up = rest > half || (rest == half && (sticky || kept & 1 == 1));
    let mantissa = kept + u64::from(up);
    // Exact: the mantissa has at most 53 bits, or is 2^53.
    scale(mantissa, exponent + drop.cast_signed())
}

/// `mantissa * 2^power`, where the result is exact or overflows.
fn scale(mantissa: u64, power: i32) -> f64 {
    if mantissa < 1 << 52 {
        // Subnormal: `power` is 0.
        return f64::from_bits(mantissa);
    }
    // 2^53 is the next power of two, and its fraction is zero too.
    let biased = power + i32::from(mantissa == 1 << 53) + 1;
    if biased >= 0x7FF {
        return f64::INFINITY;
    }
    f64::from_bits(u64::from(biased.unsigned_abs()) << 52 | (mantissa & ((1 << 52) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[(f64, i64)]) -> f64 {
        let mut sum = ExactSum::default();
        values.iter().for_each(|&(value, weight)| sum.add(value, weight));
        sum.value()
    }

    #[test]
    fn takes_back_what_was_added() {
        assert_eq!(sum(&[(1e16, 1), (1.0, 1), (1e16, -1)]), 1.0);
        assert_eq!(sum(&[(1e308, 1), (1e308, 1), (1e308, -1)]), 1e308);
        assert_eq!(sum(&[(1e308, 1), (1e308, 1)]), f64::INFINITY);
        assert_eq!(sum(&[(f64::INFINITY, 1), (5.0, 1), (f64::INFINITY, -1)]), 5.0);
        assert_eq!(sum(&[(f64::NAN, 1), (-5.0, 1), (f64::NAN, -1)]), -5.0);
        assert!(sum(&[(f64::INFINITY, 1), (f64::NEG_INFINITY, 1)]).is_nan());
        assert_eq!(sum(&[(5e-324, 3), (1e300, 1), (1e300, -1)]), 1.5e-323);
        assert_eq!(sum(&[(f64::MAX, 1), (f64::MAX, 1), (-f64::MAX, 1)]), f64::MAX);
        assert_eq!(sum(&[(0.1, i64::MAX), (0.1, -i64::MAX)]), 0.0);
        assert_eq!(sum(&[(-1.0, 1), (0.25, 1)]), -0.75);
        assert_eq!(sum(&[(-4_294_967_296.0, 1), (4_294_967_296.0, 1), (-3.0, 1)]), -3.0);
    }

    /// What is not finite is counted beside the sum, also where sums are added up, so that it can be
    /// taken back.
    #[test]
    fn what_is_not_finite_can_be_taken_back() {
        const NAN: f64 = f64::NAN;
        const INF: f64 = f64::INFINITY;
        for (values, expected) in [
            (&[(NAN, 1), (1.0, 1)][..], NAN),
            (&[(NAN, 2), (NAN, -1)], NAN),
            (&[(NAN, 2), (3.0, 1), (NAN, -2)], 3.0),
            (&[(INF, 2), (5.0, 1), (INF, -1)], INF),
            (&[(-INF, 1), (5.0, 1)], -INF),
            (&[(-INF, 2), (5.0, 1), (-INF, -2)], 5.0),
            (&[(INF, 1), (-INF, 1)], NAN),
            (&[(INF, 1), (-INF, 2), (-INF, -2)], INF),
            (&[(INF, 2), (-INF, 1), (INF, -2)], -INF),
        ] {
            let mut total = ExactSum::default();
            for &(value, weight) in values {
                let mut one = ExactSum::default();
                one.add(value, weight);
                total.add_sum(&one);
            }
            assert_eq!(
                (sum(values).to_string(), total.value().to_string()),
                (expected.to_string(), expected.to_string())
            );
        }
    }

    #[test]
    fn many_times_a_value() {
        assert_eq!(sum(&[(1.5, 1 << 40)]), 1.5 * 2_f64.powi(40));
        assert_eq!(sum(&[(-1.0, (1 << 40) + 1), (1.0, 1 << 40)]), -1.0);
    }

    /// A sum keeps the digits that it needs, and none when it is zero.
    #[test]
    fn digits_in_use_are_kept() {
        let mut total = ExactSum::default();
        total.add(1e300, 1);
        total.add(1e-300, 1);
        assert_eq!(total.heap_bytes(), 8 * total.digits.capacity());
        assert!(total.digits.len() > 60, "from the lowest to the highest");
        total.add(1e300, -1);
        assert!(total.digits.len() < 4, "{:?}", total.digits);
        total.add(1e-300, -1);
        assert!(total.digits.is_empty());
    }

    #[test]
    fn rounds_once_ties_to_even() {
        let big = 9_007_199_254_740_992.0; // 2^53
        assert_eq!(sum(&[(big, 1), (1.0, 1)]), big);
        assert_eq!(sum(&[(big, 1), (1.0, 1), (f64::MIN_POSITIVE, 1)]), big + 2.0);
        assert_eq!(sum(&[(big, 1), (3.0, 1)]), big + 4.0);
        // Up to the next power of two, and from the largest value beyond all of them.
        assert_eq!(sum(&[(big - 1.0, 1), (0.5, 1), (0.25, 1)]), big);
        assert_eq!(sum(&[(f64::MAX, 1), (2_f64.powi(969), 1)]), f64::MAX);
        assert_eq!(sum(&[(f64::MAX, 1), (2_f64.powi(970), 1)]), f64::INFINITY);
        // However little there is below a tie decides it, wherever its digits are cut.
        for (low, by) in (1..80).flat_map(|low| (0..32).map(move |by| (low, 2_f64.powi(by)))) {
            let little = 2_f64.powi(-low) * by;
            assert_eq!(sum(&[(big * by, 1), (by, 1), (little, 1)]), (big + 2.0) * by, "2^-{low} * {by}");
            assert_eq!(sum(&[(big * by, 1), (by, 1), (little, -1)]), big * by, "2^-{low} * {by}");
            assert_eq!(sum(&[(big * by, -1), (by, -1), (little, -1)]), -(big + 2.0) * by, "2^-{low} * {by}");
        }
    }

    proptest! {
        /// Of one value, the sum is the value: no exponent or sign is special.
        #[test]
        fn one_value_is_itself(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(sum(&[(value, 1)]), value);
            prop_assert_eq!(sum(&[(value, -1)]), -value);
        }

        /// Two values add up as the processor adds them, which rounds the exact sum once.
        #[test]
        fn two_values_as_the_processor(a in any::<f64>(), b in any::<f64>()) {
            prop_assert_eq!(sum(&[(a, 1), (b, 1)]).to_bits(), (a + b + 0.0).to_bits());
        }

        /// Whatever is added and taken back in whatever order leaves nothing.
        #[test]
        fn nothing_is_left(values in prop::collection::vec((any::<f64>(), -9_i64..9), 0..40), last in -1e9..1e9_f64) {
            let mut total = ExactSum::default();
            values.iter().for_each(|&(v, w)| total.add(v, w));
            total.add(last, 1);
            // A sum that is added, written and read on the way counts as its values.
            let mut written = Vec::new();
            total.write(&mut written);
            let mut total = ExactSum::default();
            total.add_sum(&ExactSum::read(&mut crate::state::Reader(&written)).expect("a sum"));
            values.iter().rev().for_each(|&(v, w)| total.add(v, -w));
            prop_assert_eq!(total.value(), last);
        }
    }
}
