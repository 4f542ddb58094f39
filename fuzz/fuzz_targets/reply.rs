//! Replies of engines: their ends are found alike however the bytes are cut, and their elements are the whole.

#![no_main]

use fuzz::bounded::bounded;
use fuzz::pieces;
use libfuzzer_sys::fuzz_target;
use mas_proxy::front::outcome::{Outcome, classify};
use mas_proxy::resp::reply::{BadReply, Scanner, bulk, elements, head, length};

/// Lengths of the replies in the bytes, in pieces of `step`.
fn all(buf: &[u8], step: usize) -> (Vec<usize>, Option<BadReply>) {
    let (mut scanner, mut found) = (Scanner::default(), Vec::new());
    let (mut start, mut end) = (0, 0);
    while end < buf.len() {
        end = (end + step).min(buf.len());
        loop {
            match scanner.scan(&buf[start..end]) {
                Ok(None) => break,
                Ok(Some(len)) => {
                    assert!(len > 0 && start + len <= end);
                    found.push(len);
                    start += len;
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// The end of a reply, found by keeping all levels.
fn end_of(buf: &[u8]) -> Option<usize> {
    let (mut at, mut levels) = (0, vec![1u128]);
    while let Some(left) = levels.last_mut() {
        if *left == 0 {
            levels.pop();
            continue;
        }
        *left -= 1;
        let line = buf[at..].iter().position(|b| *b == b'\n')?;
        let (kind, text) = (buf[at], &buf[at + 1..at + line - 1]);
        let number = || std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        at += line + 1;
        match kind {
            b'$' | b'=' | b'!' => {
                // A null string has no body.
                at += usize::try_from(number()? + 2).ok().filter(|len| *len != 1).unwrap_or(0);
            }
            b'*' | b'~' | b'>' => levels.push(number()?.max(0).cast_unsigned().into()),
            b'%' => levels.push(u128::from(number()?.max(0).cast_unsigned()) * 2),
            b'|' => {
                let pairs = u128::from(number()?.max(0).cast_unsigned());
                // A null attribute is no attribute.
                levels.push(if number()? < 0 { 0 } else { pairs * 2 + 1 });
            }
            _ => {}
        }
    }
    Some(at)
}

fn check(reply: &[u8]) {
    assert_eq!(length(reply), Some(reply.len()));
    assert_eq!(end_of(reply), Some(reply.len()));
    if reply[0] == b'*' {
        let (count, start) = head(reply).expect("a head");
        let parts: Vec<&[u8]> = elements(reply).collect();
        assert_eq!(parts.len(), usize::try_from(count.max(0)).expect("bounded"));
        assert_eq!(parts.concat(), &reply[start..]);
        assert!(parts.iter().all(|part| length(part) == Some(part.len())));
    }
    if let Some(bytes) = bulk(reply) {
        assert!(reply[0] == b'$' && bytes.len() < reply.len());
    }
    match classify(reply, true) {
        Outcome::Answer(bytes) => assert!(bytes == reply && reply[0] == b'-'),
        Outcome::Applied { native, effect, .. } => {
            assert_eq!(length(native), Some(native.len()));
            assert!(native.len() + effect.len() < reply.len());
        }
        Outcome::Refused => assert_eq!(reply[0], b'-'),
        Outcome::Nonsense => {}
    }
    assert!(matches!(classify(reply, false), Outcome::Answer(_) | Outcome::Refused));
}

fuzz_target!(|data: &[u8]| {
    let Some((step, data)) = data.split_first() else { return };
    let bytes = pieces::unroll(data);
    let step = (usize::from(*step) + 1).max(bytes.len() / 64);
    let whole = bounded(65536 + 64 * bytes.len(), || all(&bytes, bytes.len().max(1)));
    assert_eq!(all(&bytes, step), whole);
    let mut rest = &bytes[..];
    for len in whole.0 {
        let (reply, tail) = rest.split_at(len);
        check(reply);
        rest = tail;
    }
});
