//! Numbers that counters add up: exact decimals for strings and hash fields, doubles for scores.

/// One in the units of [`Decimal`]: 17 decimals, as many as `INCRBYFLOAT` prints.
const ONE: i128 = 100_000_000_000_000_000;

/// A decimal number with 17 decimals, `|x| < 1.7e21`. Its sum is exact, so it does not depend on the order in which
/// regions' increments are added. (Redis adds in `long double` and prints 17 decimals.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal {
    /// In units of 1e-17.
    pub units: i128,
    /// Whether a float increment is part of it: such a number is not held to the range of `i64`.
    pub float: bool,
}

impl Decimal {
    /// Zero, as an integer.
    pub const ZERO: Self = Self { units: 0, float: false };

    /// An integer.
    pub const fn from_int(value: i64) -> Self {
        Self { units: value as i128 * ONE, float: false }
    }

    /// Reads what Redis' string-to-number accepts, save for infinities, hexadecimal and numbers out of range.
    /// Digits beyond the 17th decimal are cut off.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (negative, digits) = match text.first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match digits.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&digits[..at], std::str::from_utf8(&digits[at + 1..]).ok()?.parse::<i32>().ok()?),
            None => (digits, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|&b| b == b'.') {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &[][..]),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut units: i128 = 0;
        // The power of ten of the digit at hand, relative to one unit.
        let mut power = 17i32.checked_add(exponent)?.checked_add(i32::try_from(whole.len()).ok()?)?;
        for &digit in whole.iter().chain(fraction) {
            if !digit.is_ascii_digit() {
                return None;
            }
            power -= 1;
            let digit = i128::from(digit - b'0');
            if digit != 0 && power >= 0 {
                let weight = 10i128.checked_pow(u32::try_from(power).ok()?)?;
                units = units.checked_add(digit.checked_mul(weight)?)?;
            }
        }
        let integer = is_redis_integer(text);
        Some(Self { units: if negative { -units } else { units }, float: !integer })
    }

    /// The sum; `None` when it leaves the range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self { units: self.units.checked_add(other.units)?, float: self.float || other.float })
    }

    /// The sum; at the end of the range when it would leave it.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self { units: self.units.saturating_add(other.units), float: self.float || other.float }
    }

    /// As Redis prints it: an integer, or up to 17 decimals without trailing zeros. A number without a float part
    /// saturates at the range of `i64`.
    pub fn format(self) -> String {
        let whole = self.units / ONE;
        let fraction = (self.units % ONE).unsigned_abs();
        if fraction == 0 {
            return if self.float {
                whole.to_string()
            } else {
                whole.clamp(i64::MIN.into(), i64::MAX.into()).to_string()
            };
        }
        let sign = if self.units < 0 { "-" } else { "" };
        let decimals = format!("{fraction:017}");
        format!("{sign}{}.{}", whole.unsigned_abs(), decimals.trim_end_matches('0'))
    }
}

/// Whether Redis takes `text` for an integer: no plus sign, no leading zeros, within `i64`.
pub fn is_redis_integer(text: &[u8]) -> bool {
    std::str::from_utf8(text)
        .ok()
        .and_then(|s| s.parse::<i64>().ok().map(|n| (s, n)))
        .is_some_and(|(s, n)| n.to_string() == s)
}

/// What one total, or the value that was set, contributes.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// A string's or a hash field's.
    Decimal(Decimal),
    /// A sorted set's. May be infinite, never NaN.
    Score(f64),
}

impl PartialEq for Amount {
    /// Scores are compared by their bits: this is an identity of states, not arithmetic.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decimal(a), Self::Decimal(b)) => a == b,
            (Self::Score(a), Self::Score(b)) => a.to_bits() == b.to_bits(),
            (Self::Decimal(_), Self::Score(_)) | (Self::Score(_), Self::Decimal(_)) => false,
        }
    }
}

impl Eq for Amount {}

impl Amount {
    /// Whether it adds nothing.
    pub fn is_zero(self) -> bool {
        match self {
            Self::Decimal(number) => number.units == 0,
            Self::Score(score) => score == 0.0,
        }
    }

    /// The sum. Saturates; the sum of opposite infinities is 0; of different kinds, the first.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Decimal(a), Self::Decimal(b)) => Self::Decimal(a.saturating_add(b)),
            (Self::Score(a), Self::Score(b)) => {
                let sum = a + b;
                Self::Score(if sum.is_nan() { 0.0 } else { sum })
            }
            (first, _) => first,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn reads_and_prints_as_redis_does() {
        for (text, printed) in [
            ("10.50", "10.5"),
            ("5.0e3", "5000"),
            ("-0", "0"),
            ("0.1", "0.1"),
            ("-3.25", "-3.25"),
            ("1e-17", "0.00000000000000001"),
            (".5", "0.5"),
            ("1e20", "100000000000000000000"),
        ] {
            assert_eq!(decimal(text).format(), printed, "{text}");
        }
        for text in ["", "-", "abc", "1.2.3", "inf", "nan", " 1", "1 ", "0x10", "1e400", "2e21", "e5", "."] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_tenth_and_a_fifth_make_three_tenths() {
        assert_eq!(decimal("0.1").saturating_add(decimal("0.2")).format(), "0.3");
    }

    #[test]
    fn integers_saturate_at_64_bits_and_floats_do_not() {
        let max = Decimal::from_int(i64::MAX);
        assert_eq!(max.saturating_add(max).format(), i64::MAX.to_string());
        assert_eq!(decimal("1e19").format(), "10000000000000000000");
    }

    #[test]
    fn redis_integers_are_strict() {
        assert!(is_redis_integer(b"-12") && is_redis_integer(b"0"));
        for text in [&b"+1"[..], b"01", b"-0", b"9223372036854775808", b"1.0", b""] {
            assert!(!is_redis_integer(text));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Decimal::parse(&text);
        }

        #[test]
        fn what_is_printed_reads_back(units in -(1i128 << 120)..(1i128 << 120)) {
            let number = Decimal { units, float: true };
            prop_assert_eq!(Decimal::parse(number.format().as_bytes()).unwrap().units, units);
        }
    }
}
