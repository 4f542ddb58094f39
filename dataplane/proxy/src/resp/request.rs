//! Finds the requests of a client in its bytes, and the words of each.
//!
//! Requests are arrays of bulk strings, never nested. A request that has only partly arrived is remembered, so
//! that no byte is looked at twice however slowly it comes. The wording of the errors is that of Redis.

use memchr::memchr;

use super::parse_int;

/// Most words of one request, as Redis limited it for long.
pub const WORDS_MAX: usize = 1024 * 1024;
/// Largest single word: what the engine takes as one effect.
pub const WORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest request.
pub const REQUEST_BYTES_MAX: usize = WORD_BYTES_MAX + 1024 * 1024;
/// Longest line: an inline request, or the head of an array or a bulk string.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Words and word size before authentication, as in Redis: enough for AUTH and HELLO.
const UNAUTHENTICATED: (usize, usize) = (10, 16 * 1024);

/// A word: where it starts in the request and where it ends.
pub type Span = (u32, u32);

/// What was found at the start of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// A request of that many bytes; its words are in the list that was given.
    Request(usize),
    /// That many bytes without a request in them (an empty array or line).
    Nothing(usize),
    /// An inline request: a line of that many bytes, its end included.
    Inline(usize),
}

/// Bytes that are no request. The connection cannot be used after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A number of words that is none, or too large.
    #[error("invalid multibulk length")]
    WordCount,
    /// A word's length that is none, or too large.
    #[error("invalid bulk length")]
    WordLength,
    /// A word does not begin with `$`.
    #[error("expected '$', got '{0}'")]
    Expected(char),
    /// A line without an end.
    #[error("too big mbulk count string")]
    LongCount,
    /// A line without an end.
    #[error("too big bulk count string")]
    LongLength,
    /// An inline request without an end.
    #[error("too big inline request")]
    LongInline,
    /// A quote that is not closed.
    #[error("unbalanced quotes in request")]
    Quotes,
    /// More than a client may send before it has shown who it is.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedCount,
    /// More than a client may send before it has shown who it is.
    #[error("unauthenticated bulk length")]
    UnauthenticatedLength,
    /// All words together are too large.
    #[error("too big request")]
    TooBig,
}

/// What is remembered of a request that has partly arrived.
#[derive(Debug)]
pub struct Progress {
    at: usize,
    missing: usize,
    words: Vec<Span>,
}

/// Looks for one request at the start of `buf`. `progress` belongs to the connection and must be given again
/// with the same bytes and more; `words` is scratch space.
pub fn parse(
    buf: &[u8],
    words: &mut Vec<Span>,
    progress: &mut Option<Box<Progress>>,
    authenticated: bool,
) -> Result<Parsed, ProtocolError> {
    let (mut at, mut missing) = if let Some(saved) = progress.take() {
        *words = saved.words;
        (saved.at, saved.missing)
    } else {
        words.clear();
        match buf.first() {
            None => return Ok(Parsed::Incomplete),
            Some(b'*') => {}
            Some(_) => return inline(buf),
        }
        let Some(end) = line_end(buf, 1) else {
            return if buf.len() > LINE_BYTES_MAX {
                Err(ProtocolError::LongCount)
            } else {
                Ok(Parsed::Incomplete)
            };
        };
        let count = number(buf, 1, end).ok_or(ProtocolError::WordCount)?;
        if count <= 0 {
            return Ok(Parsed::Nothing(end + 2));
        }
        let count =
            usize::try_from(count).ok().filter(|c| *c <= WORDS_MAX).ok_or(ProtocolError::WordCount)?;
        if !authenticated && count > UNAUTHENTICATED.0 {
            return Err(ProtocolError::UnauthenticatedCount);
        }
        (end + 2, count)
    };
    while missing > 0 {
        let Some(word) = word(buf, at, authenticated)? else {
            *progress = Some(Box::new(Progress { at, missing, words: std::mem::take(words) }));
            return Ok(Parsed::Incomplete);
        };
        words.push((word.0 as u32, word.1 as u32));
        at = word.1 + 2;
        missing -= 1;
    }
    Ok(Parsed::Request(at))
}

/// The word whose head is at `at`, if all of it is there.
fn word(buf: &[u8], at: usize, authenticated: bool) -> Result<Option<(usize, usize)>, ProtocolError> {
    let Some(&first) = buf.get(at) else { return Ok(None) };
    if first != b'$' {
        return Err(ProtocolError::Expected(char::from(first)));
    }
    // Nearly all words are shorter than 100 bytes: their heads have one or two digits.
    let (len, start) = match buf.get(at + 1..at + 5) {
        Some(&[d, b'\r', b'\n', _]) if d.is_ascii_digit() => (usize::from(d - b'0'), at + 4),
        Some(&[d @ b'1'..=b'9', e, b'\r', b'\n']) if e.is_ascii_digit() => {
            (usize::from(d - b'0') * 10 + usize::from(e - b'0'), at + 5)
        }
        _ => {
            let Some(end) = line_end(buf, at + 1) else {
                let too_long = buf.len() - at > LINE_BYTES_MAX;
                return if too_long { Err(ProtocolError::LongLength) } else { Ok(None) };
            };
            let len = number(buf, at + 1, end).and_then(|len| usize::try_from(len).ok());
            (len.filter(|len| *len <= WORD_BYTES_MAX).ok_or(ProtocolError::WordLength)?, end + 2)
        }
    };
    if !authenticated && len > UNAUTHENTICATED.1 {
        return Err(ProtocolError::UnauthenticatedLength);
    }
    if start + len > REQUEST_BYTES_MAX {
        return Err(ProtocolError::TooBig);
    }
    // Like Redis, the two bytes after a word are not looked at, only waited for.
    Ok((buf.len() >= start + len + 2).then_some((start, start + len)))
}

/// The number that is all of the line `from..end`. Unlike Redis, which skips it, the byte after the `\r` is looked at:
/// [`Request::body`] begins after the first `\n`, and behind another byte it would begin inside of what the client wrote.
fn number(buf: &[u8], from: usize, end: usize) -> Option<i64> {
    (buf[end + 1] == b'\n').then(|| parse_int(&buf[from..end])).flatten()
}

/// Where the line that begins at `from` ends: the position of its `\r`, when the byte after it is there too.
fn line_end(buf: &[u8], from: usize) -> Option<usize> {
    let window = buf.len().min(from + LINE_BYTES_MAX);
    let end = from + memchr(b'\r', buf.get(from..window)?)?;
    (buf.len() > end + 1).then_some(end)
}

fn inline(buf: &[u8]) -> Result<Parsed, ProtocolError> {
    let window = &buf[..buf.len().min(LINE_BYTES_MAX)];
    match memchr(b'\n', window) {
        Some(end) if window[..end].iter().all(|b| matches!(b, b' ' | b'\r' | b'\t')) => {
            Ok(Parsed::Nothing(end + 1))
        }
        Some(end) => Ok(Parsed::Inline(end + 1)),
        None if buf.len() >= LINE_BYTES_MAX => Err(ProtocolError::LongInline),
        None => Ok(Parsed::Incomplete),
    }
}

/// A request's bytes together with where its words are.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// All bytes, as the client sent them.
    pub frame: &'a [u8],
    /// Its words.
    pub words: &'a [Span],
}

impl Request<'_> {
    /// The bytes after the head line `*N\r\n`.
    pub fn body(&self) -> &[u8] {
        memchr(b'\n', self.frame).map_or(&[][..], |end| &self.frame[end + 1..])
    }
}

impl mas_commands::Args for Request<'_> {
    fn count(&self) -> usize {
        self.words.len()
    }

    fn arg(&self, i: usize) -> &[u8] {
        let (start, end) = self.words[i];
        &self.frame[start as usize..end as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut buf: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut words, mut progress, mut found) = (Vec::new(), None, Vec::new());
        loop {
            match parse(buf, &mut words, &mut progress, true)? {
                Parsed::Incomplete => return Ok(found),
                Parsed::Nothing(len) => buf = &buf[len..],
                Parsed::Inline(len) => {
                    found.push(vec![buf[..len].to_vec()]);
                    buf = &buf[len..];
                }
                Parsed::Request(len) => {
                    let word = |&(a, b): &Span| buf[a as usize..b as usize].to_vec();
                    found.push(words.iter().map(word).collect());
                    buf = &buf[len..];
                }
            }
        }
    }

    /// The same bytes, arriving in pieces of `step`.
    fn in_pieces(buf: &[u8], step: usize) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut words, mut progress, mut found, mut start, mut end) = (Vec::new(), None, Vec::new(), 0, 0);
        while end < buf.len() {
            end = (end + step).min(buf.len());
            loop {
                match parse(&buf[start..end], &mut words, &mut progress, true)? {
                    Parsed::Incomplete => break,
                    Parsed::Nothing(len) => start += len,
                    Parsed::Inline(len) => {
                        found.push(vec![buf[start..start + len].to_vec()]);
                        start += len;
                    }
                    Parsed::Request(len) => {
                        found.push(
                            words
                                .iter()
                                .map(|&(a, b)| buf[start + a as usize..start + b as usize].to_vec())
                                .collect(),
                        );
                        start += len;
                    }
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn errors_are_worded_like_those_of_redis() {
        let error = |bytes: &[u8]| all(bytes).map_err(|e| e.to_string()).expect_err("no request");
        assert_eq!(error(b"*x\r\n"), "invalid multibulk length");
        assert_eq!(error(b"*99999999\r\n"), "invalid multibulk length");
        assert_eq!(error(b"*1\r\n$-1\r\n"), "invalid bulk length");
        assert_eq!(error(b"*1\r\n$999999999999\r\n"), "invalid bulk length");
        assert_eq!(error(b"*1\r\n*1\r\n$1\r\na\r\n"), "expected '$', got '*'");
        assert_eq!(error(&vec![b'a'; LINE_BYTES_MAX]), "too big inline request");
        assert_eq!(
            error(&[b"*".to_vec(), vec![b'1'; LINE_BYTES_MAX + 10]].concat()),
            "too big mbulk count string"
        );
    }

    #[test]
    fn what_an_engine_would_read_otherwise_is_refused() {
        // The engine would find other words, or end a connection that all clients share.
        for bytes in ["*1\rX$4\r\nPING\r\n", "*01\r\n$4\r\nPING\r\n", "*+1\r\n$4\r\nPING\r\n", "*-0\r\n"] {
            assert_eq!(all(bytes.as_bytes()), Err(ProtocolError::WordCount), "{bytes:?}");
        }
        for bytes in
            ["*1\r\n$4\rXPING\r\n", "*1\r\n$04\r\nPING\r\n", "*1\r\n$-0\r\n\r\n", "*1\r\n$00\r\n\r\n"]
        {
            assert_eq!(all(bytes.as_bytes()), Err(ProtocolError::WordLength), "{bytes:?}");
        }
    }

    #[test]
    fn strangers_may_not_send_much() {
        let (mut words, mut progress) = (Vec::new(), None);
        let mut error =
            |bytes: &[u8]| parse(bytes, &mut words, &mut progress, false).expect_err("too much").to_string();
        assert_eq!(error(b"*11\r\n"), "unauthenticated multibulk length");
        assert_eq!(error(b"*1\r\n$20000\r\n"), "unauthenticated bulk length");
    }

    #[test]
    fn empty_requests_are_passed_over() {
        assert_eq!(all(b"\r\n*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n"), Ok(vec![vec![b"PING".to_vec()]]));
    }

    #[test]
    fn the_total_is_bounded() {
        let mut buf = b"*3\r\n$67108864\r\n".to_vec();
        buf.resize(buf.len() + WORD_BYTES_MAX + 2, b'x');
        buf.extend_from_slice(b"$67108864\r\n");
        assert_eq!(all(&buf), Err(ProtocolError::TooBig));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..20) {
            let _ = in_pieces(&bytes, step);
        }

        #[test]
        fn near_requests_never_panic(text in "[*$0-9a\r\n-]{0,80}", step in 1usize..20) {
            prop_assert_eq!(all(text.as_bytes()).is_err(), in_pieces(text.as_bytes(), step).is_err());
        }

        #[test]
        fn requests_are_found_however_they_are_cut(
            requests in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..6), 0..8),
            step in 1usize..64,
        ) {
            let mut bytes = Vec::new();
            for request in &requests {
                crate::resp::encode::array(&mut bytes, request.len());
                for word in request {
                    crate::resp::encode::bulk(&mut bytes, word);
                }
            }
            prop_assert_eq!(all(&bytes), Ok(requests.clone()));
            prop_assert_eq!(in_pieces(&bytes, step), Ok(requests));
        }
    }
}
