//! What proxies of two regions say to each other when one sends its clients' requests to the other: bytes only.
//!
//! `MAS.FORWARD shard level command args…` is one request. It is for that shard alone, also where the command is for all
//! keys, and is never forwarded again. From the first one on, everything that comes back on the connection is a message
//! `[number, kind, content]`. The number is that of the request, from 0. Messages come as soon as there is something to
//! say and in any order: whom one client waits for, another one need not.

use std::fmt;

use mas_core::config::AckLevel;
use mas_core::stamp::{Hlc, Incarnation, ShardId};

use crate::resp::{encode, reply};

/// The words before those of the client.
pub const WORDS: usize = 3;
/// Incarnation, number and clock.
const NOTE_BYTES: usize = 24;

/// Whether another region's proxy sent a request here, and the level that it asks for. Small: it is in every [`super::pipe::Ticket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u16);

impl Mark {
    /// A request of a client of this proxy.
    pub const NONE: Self = Self(0);

    /// A request that was sent here.
    pub fn new(level: AckLevel, regions: u16) -> Self {
        match level {
            AckLevel::Local => Self(1),
            AckLevel::Queued => Self(2),
            AckLevel::Remote => Self(regions.saturating_add(2)),
        }
    }

    /// Whether it was sent here.
    pub fn is_set(self) -> bool {
        self != Self::NONE
    }

    /// The level, with the number of regions; `None` for a request of a client of this proxy.
    pub fn level(self) -> Option<(AckLevel, u16)> {
        match self.0 {
            0 => None,
            1 => Some((AckLevel::Local, 0)),
            2 => Some((AckLevel::Queued, 0)),
            more => Some((AckLevel::Remote, more - 2)),
        }
    }

    /// Reads the second word of a request.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let mark = Self(std::str::from_utf8(word).ok()?.parse().ok()?);
        mark.is_set().then_some(mark)
    }
}

/// As [`Mark::parse`] reads it.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Appends a request: `words` words in `body`.
pub fn frame(out: &mut Vec<u8>, shard: ShardId, mark: Mark, words: usize, body: &[u8]) {
    encode::array(out, words + WORDS);
    encode::bulk(out, b"MAS.FORWARD");
    encode::bulk(out, shard.0.to_string().as_bytes());
    encode::bulk(out, mark.to_string().as_bytes());
    out.extend_from_slice(body);
}

/// What is said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// It is a write and was executed; its level is still waited for.
    Written {
        /// Who numbered it.
        incarnation: Incarnation,
        /// Its number, or the last one before it.
        seq: u64,
        /// The engine's clock.
        hlc: Hlc,
    },
    /// It was executed, and is answered at `Local` although more was asked for.
    LocalOnly,
    /// Its reply; the last of what is said.
    Reply(&'a [u8]),
}

/// Appends a message about request `number`.
pub fn message(out: &mut Vec<u8>, number: u32, message: Message<'_>) {
    encode::array(out, 3);
    encode::integer(out, i64::from(number));
    match message {
        Message::Written { incarnation, seq, hlc } => {
            let mut note = [0; NOTE_BYTES];
            note[..8].copy_from_slice(&incarnation.0.to_le_bytes());
            note[8..16].copy_from_slice(&seq.to_le_bytes());
            note[16..].copy_from_slice(&hlc.0.to_le_bytes());
            encode::simple(out, "written");
            encode::bulk(out, &note);
        }
        Message::LocalOnly => {
            encode::simple(out, "local");
            encode::integer(out, 1);
        }
        Message::Reply(reply) => {
            encode::simple(out, "reply");
            out.extend_from_slice(reply);
        }
    }
}

/// Reads a message; `None`: it is none.
pub fn parse(bytes: &[u8]) -> Option<(u32, Message<'_>)> {
    let (3, start) = reply::head(bytes).filter(|_| bytes[0] == b'*')? else { return None };
    let rest = &bytes[start..];
    let (number, at) = reply::head(rest).filter(|_| rest[0] == b':')?;
    let kind_and_content = &rest[at..];
    let end = memchr::memchr(b'\n', kind_and_content)? + 1;
    let (kind, content) = kind_and_content.split_at(end);
    let message = match kind {
        b"+written\r\n" => {
            let note: &[u8; NOTE_BYTES] = reply::bulk(content)?.try_into().ok()?;
            let (words, _) = note.as_chunks::<8>();
            let word = |n: usize| u64::from_le_bytes(words[n]);
            Message::Written { incarnation: Incarnation(word(0)), seq: word(1), hlc: Hlc(word(2)) }
        }
        b"+local\r\n" => Message::LocalOnly,
        b"+reply\r\n" => Message::Reply(content),
        _ => return None,
    };
    Some((u32::try_from(number).ok()?, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_carry_the_level() {
        for (level, regions) in
            [(AckLevel::Local, 0), (AckLevel::Queued, 0), (AckLevel::Remote, 1), (AckLevel::Remote, 15)]
        {
            let mark = Mark::new(level, regions);
            assert_eq!((mark.is_set(), mark.level()), (true, Some((level, regions))));
            assert_eq!(Mark::parse(mark.to_string().as_bytes()), Some(mark));
        }
        assert_eq!(Mark::NONE.level(), None);
        assert_eq!((Mark::parse(b"0"), Mark::parse(b"x"), Mark::parse(b"70000")), (None, None, None));
    }

    #[test]
    fn messages_go_both_ways() {
        let written = Message::Written { incarnation: Incarnation(7), seq: 8, hlc: Hlc(u64::MAX) };
        let replies = [&b"+OK\r\n"[..], b"-ERR x\r\n", b"$3\r\na\r\n\r\n", b"*2\r\n:1\r\n_\r\n", b"%0\r\n"];
        for one in [written, Message::LocalOnly].into_iter().chain(replies.map(Message::Reply)) {
            let mut bytes = Vec::new();
            message(&mut bytes, 4_000_000_000, one);
            assert_eq!(reply::length(&bytes), Some(bytes.len()));
            assert_eq!(parse(&bytes), Some((4_000_000_000, one)));
        }
        for bad in [
            &b"+OK\r\n"[..],
            b"*2\r\n:1\r\n:1\r\n",
            b"*3\r\n:1\r\n+other\r\n:1\r\n",
            b"*3\r\n:-1\r\n+local\r\n:1\r\n",
            b"*-1\r\n",
        ] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_request_names_its_shard_and_level() {
        let mut out = Vec::new();
        frame(&mut out, ShardId(3), Mark::new(AckLevel::Queued, 0), 1, b"$6\r\nDBSIZE\r\n");
        assert_eq!(out, b"*4\r\n$11\r\nMAS.FORWARD\r\n$1\r\n3\r\n$1\r\n2\r\n$6\r\nDBSIZE\r\n");
    }
}
