//! Finds where a reply ends without building it, and the elements of an array.
//!
//! The depth of nesting does not matter: what counts is how many elements are still to come.

use memchr::memchr;

use super::parse_int;

/// Longest bulk string that an engine may send (Redis' own bound).
const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Longest line.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most elements of one aggregate.
const ELEMENTS_MAX: i64 = 1 << 32;

/// Bytes that are no reply; the connection to the engine cannot be used after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine sent what is no RESP: {0}; check that the address is an engine's")]
pub struct BadReply(&'static str);

/// Progress within one reply. Give it the same bytes and more until the reply is complete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    at: usize,
    /// Elements still to come; 0 before the first byte.
    missing: u64,
}

impl Scanner {
    /// The length of the reply at the start of `buf`, once all of it is there. Then starts anew.
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, BadReply> {
        let mut missing = self.missing.max(1);
        let mut at = self.at;
        while missing > 0 {
            let Some((next, children)) = element(buf, at)? else {
                (self.at, self.missing) = (at, missing);
                return Ok(None);
            };
            at = next;
            missing = missing - 1 + children;
        }
        *self = Self::default();
        Ok(Some(at))
    }
}

/// The length of a reply that is known to be complete.
pub fn length(buf: &[u8]) -> Option<usize> {
    Scanner::default().scan(buf).ok().flatten()
}

/// One element's head (and body, for strings): where the next one begins, and how many elements it announces.
fn element(buf: &[u8], at: usize) -> Result<Option<(usize, u64)>, BadReply> {
    let Some(&kind) = buf.get(at) else { return Ok(None) };
    let window = &buf[at..buf.len().min(at + LINE_BYTES_MAX)];
    let Some(newline) = memchr(b'\n', window) else {
        return if window.len() == LINE_BYTES_MAX {
            Err(BadReply("a line without an end"))
        } else {
            Ok(None)
        };
    };
    let after = at + newline + 1;
    if newline < 1 || window[newline - 1] != b'\r' {
        return Err(BadReply("a line that ends without \\r"));
    }
    let number = || parse_int(&window[1..newline - 1]).ok_or(BadReply("a length that is no number"));
    match kind {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Ok(Some((after, 0))),
        b'$' | b'=' | b'!' => match number()? {
            -1 => Ok(Some((after, 0))),
            len => {
                let len = usize::try_from(len).ok().filter(|len| *len <= BULK_BYTES_MAX);
                let end = after + len.ok_or(BadReply("a string that is too long"))? + 2;
                Ok((buf.len() >= end).then_some((end, 0)))
            }
        },
        b'*' | b'~' | b'>' | b'%' | b'|' => match number()? {
            -1 => Ok(Some((after, 0))),
            len @ 0..=ELEMENTS_MAX => {
                let len = len as u64;
                Ok(Some((
                    after,
                    match kind {
                        b'%' => len * 2,
                        // Attributes come before the element that they belong to.
                        b'|' => len * 2 + 1,
                        _ => len,
                    },
                )))
            }
            _ => Err(BadReply("too many elements")),
        },
        _ => Err(BadReply("an unknown type")),
    }
}

/// The number at the head of an aggregate or integer (`*3`, `:7`), and where its line ends.
pub fn head(reply: &[u8]) -> Option<(i64, usize)> {
    let end = memchr(b'\n', reply)?;
    Some((parse_int(reply.get(1..end.checked_sub(1)?)?)?, end + 1))
}

/// The elements of an array, one after the other, each as raw bytes.
pub fn elements(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (count, mut rest) = match head(reply) {
        Some((count, start)) if reply[0] == b'*' => (count.max(0), &reply[start..]),
        _ => (0, &[][..]),
    };
    (0..count).map_while(move |_| {
        let len = length(rest)?;
        let (element, tail) = rest.split_at(len);
        rest = tail;
        Some(element)
    })
}

/// The bytes of a bulk string.
pub fn bulk(reply: &[u8]) -> Option<&[u8]> {
    if reply.first() != Some(&b'$') {
        return None;
    }
    let (len, start) = head(reply)?;
    reply.get(start..start + usize::try_from(len).ok()?)
}

/// Splits the reply of `MAS.EXEC` into the native reply and the note.
pub fn native_and_note(reply: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = reply.strip_prefix(b"*2\r\n")?;
    let native = length(inner)?;
    Some((&inner[..native], bulk(&inner[native..])?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(text: &str) {
        let bytes = text.as_bytes();
        assert_eq!(Scanner::default().scan(bytes), Ok(Some(bytes.len())), "{text:?}");
        let mut scanner = Scanner::default();
        for end in 0..bytes.len() {
            assert_eq!(scanner.scan(&bytes[..end]), Ok(None), "{text:?} up to {end}");
        }
        assert_eq!(scanner.scan(bytes), Ok(Some(bytes.len())), "{text:?} byte by byte");
    }

    #[test]
    fn every_type_of_both_versions() {
        for text in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":-12\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$3\r\na\r\n\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(123456789012345678901234567890\r\n",
            "=7\r\ntxt:abc\r\n",
            "!5\r\nERR x\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
            "~1\r\n+a\r\n",
            ">2\r\n+a\r\n+b\r\n",
            "|1\r\n+ttl\r\n:1\r\n+value\r\n",
        ] {
            complete(text);
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for text in ["x\r\n", "$x\r\n", "*99999999999999\r\n", "$999999999999\r\n", "+a\n", "\n"] {
            assert!(Scanner::default().scan(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let mut deep = b"*1\r\n".repeat(100_000);
        deep.extend_from_slice(b":1\r\n");
        assert_eq!(Scanner::default().scan(&deep), Ok(Some(deep.len())));
    }

    #[test]
    fn parts_of_replies() {
        let parts: Vec<&[u8]> = elements(b"*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:1\r\n").collect();
        assert_eq!(parts, [&b"$1\r\na\r\n"[..], b"$-1\r\n", b"*1\r\n:1\r\n"]);
        assert_eq!(elements(b"+OK\r\n").count(), 0);
        assert_eq!(bulk(b"$3\r\nabc\r\n"), Some(&b"abc"[..]));
        assert_eq!(bulk(b"$-1\r\n"), None);
        assert_eq!(native_and_note(b"*2\r\n+OK\r\n$2\r\nxy\r\n"), Some((&b"+OK\r\n"[..], &b"xy"[..])));
        assert_eq!(native_and_note(b"+OK\r\n"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Scanner::default().scan(&bytes);
            let _ = elements(&bytes).count();
            let _ = native_and_note(&bytes);
        }

        #[test]
        fn near_replies_are_scanned_alike_in_pieces(text in "([*$:+%~|][0-9]{0,2}(a|bc)?\r\n){0,12}", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let whole = Scanner::default().scan(bytes);
            let mut scanner = Scanner::default();
            let pieces = match scanner.scan(&bytes[..cut.min(bytes.len())]) {
                Ok(None) => scanner.scan(bytes),
                other => other,
            };
            prop_assert_eq!(whole, pieces);
        }
    }
}
