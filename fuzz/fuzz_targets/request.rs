//! Requests of clients: found alike however the bytes are cut, and handed to an engine so that it reads the same words.

#![no_main]

use fuzz::bounded::bounded;
use fuzz::{pieces, redis};
use libfuzzer_sys::fuzz_target;
use mas_commands::Args;
use mas_proxy::front::pipe::{HEADER_BYTES, Header, set_header, write_frame};
use mas_proxy::resp::request::{Parsed, ProtocolError, Request, parse};
use mas_proxy::resp::{encode, inline};

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Request(Vec<Vec<u8>>),
    Inline(Vec<u8>),
    Error(ProtocolError),
}

/// An engine reads the words that the proxy read, and nothing is left over.
fn check_request(request: Request<'_>) -> Vec<Vec<u8>> {
    let words: Vec<&[u8]> = (0..request.count()).map(|i| request.arg(i)).collect();
    assert!(!words.is_empty());
    assert_eq!(redis::request(request.frame), Some((words.clone(), &[][..])), "a read, passed on");
    let mut frame = Vec::new();
    write_frame(&mut frame, request.count(), request.body(), Header([b'h'; HEADER_BYTES]));
    set_header(&mut frame, Header::new(7, 9));
    let header = Header::new(7, 9);
    let expected = [&[b"MAS.EXEC", &header.0[..]][..], &words].concat();
    assert_eq!(redis::request(&frame), Some((expected, &[][..])), "a write, passed on");
    words.into_iter().map(<[u8]>::to_vec).collect()
}

/// The words of a line become a request with the same words.
fn check_inline(line: &[u8]) {
    let Ok(words) = bounded(1024 + 128 * line.len(), || inline::split(line)) else { return };
    if words.is_empty() {
        return;
    }
    let mut frame = Vec::new();
    encode::array(&mut frame, words.len());
    words.iter().for_each(|word| encode::bulk(&mut frame, word));
    let mut spans = Vec::new();
    assert_eq!(parse(&frame, &mut spans, &mut None, true), Ok(Parsed::Request(frame.len())));
    assert_eq!(check_request(Request { frame: &frame, words: &spans }), words);
}

fn all(buf: &[u8], step: usize, authenticated: bool) -> Vec<Found> {
    let (mut spans, mut progress, mut found) = (Vec::new(), None, Vec::new());
    let (mut start, mut end) = (0, 0);
    while end < buf.len() {
        end = (end + step).min(buf.len());
        loop {
            let seen = &buf[start..end];
            match parse(seen, &mut spans, &mut progress, authenticated) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Nothing(len)) => start += len,
                Ok(Parsed::Inline(len)) => {
                    found.push(Found::Inline(seen[..len].to_vec()));
                    start += len;
                }
                Ok(Parsed::Request(len)) => {
                    found.push(Found::Request(check_request(Request { frame: &seen[..len], words: &spans })));
                    start += len;
                }
                Err(error) => {
                    found.push(Found::Error(error));
                    return found;
                }
            }
        }
    }
    found
}

fuzz_target!(|data: &[u8]| {
    let Some((flags, data)) = data.split_first() else { return };
    let (authenticated, step) = (flags & 1 == 1, usize::from(flags >> 1) + 1);
    let bytes = pieces::unroll(data);
    // Small pieces of what is long would only take long.
    let step = step.max(bytes.len() / 64);
    let whole = bounded(65536 + 64 * bytes.len(), || all(&bytes, bytes.len().max(1), authenticated));
    assert_eq!(all(&bytes, step, authenticated), whole);
    for found in &whole {
        match found {
            Found::Inline(line) => check_inline(line),
            Found::Error(error) => assert!(!error.to_string().is_empty()),
            Found::Request(words) => assert!(words.iter().map(Vec::len).sum::<usize>() <= bytes.len()),
        }
    }
});
