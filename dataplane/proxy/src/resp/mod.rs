//! RESP2 and RESP3 at the level of bytes: where requests and replies end, and how to write short ones.
//!
//! Nothing here builds values. Frames are found and copied; what is large stays where it is.

pub mod encode;
pub mod inline;
pub mod reply;
pub mod request;

/// Decimal digits with an optional minus sign, as Redis writes and reads them: at most 18 digits, no `-0`, no zeros in
/// front. What Redis would refuse must not get to an engine: it ends the connection that all clients share.
pub(crate) fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 || (digits[0] == b'0' && text.len() > 1) {
        return None;
    }
    let mut value = 0i64;
    for &b in digits {
        if !b.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(b - b'0');
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::parse_int;

    #[test]
    fn numbers() {
        assert_eq!(parse_int(b"0"), Some(0));
        assert_eq!(parse_int(b"-1"), Some(-1));
        assert_eq!(parse_int(b"123456789012345678"), Some(123_456_789_012_345_678));
        for bad in [&b""[..], b"-", b"+1", b"1a", b"1234567890123456789", b"--1", b"01", b"-0", b"00"] {
            assert_eq!(parse_int(bad), None);
        }
    }
}
