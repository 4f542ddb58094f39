//! One reply out of several: the parts of a request that went to more than one shard.

use crate::resp::{encode, reply};

/// How the parts become one reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Add up integers.
    Sum,
    /// Take the next value of part `order[i]` for key `i`.
    Values {
        /// The part of each key, in the order of the keys.
        order: Vec<u16>,
    },
    /// `OK` when all said so: the first part's words.
    First,
    /// One array of all elements.
    Arrays,
    /// One of the parts that are not null; the number chooses.
    Pick(u32),
    /// A `SCAN` of one shard: its cursor becomes one that says where to go on.
    Scan {
        /// The shard that was asked.
        shard: u16,
        /// How many there are.
        shards: u16,
    },
}

/// The parts that have come, and what is still missing.
#[derive(Debug)]
pub struct Gather {
    join: Join,
    parts: Vec<Option<Box<[u8]>>>,
    replies_missing: usize,
    acks_missing: usize,
    since: u32,
    error: Option<Box<[u8]>>,
}

impl Gather {
    /// Waits for `parts` replies.
    pub fn new(join: Join, parts: usize) -> Self {
        let empty = std::iter::repeat_with(|| None).take(parts).collect();
        Self { join, parts: empty, replies_missing: parts, acks_missing: 0, since: 0, error: None }
    }

    /// Takes the reply of one part. With `acks`, the part also has to be acknowledged.
    pub fn reply(&mut self, part: u16, bytes: &[u8], acks: bool, now: u32) {
        let Some(place @ None) = self.parts.get_mut(usize::from(part)) else { return };
        *place = Some(bytes.into());
        self.replies_missing -= 1;
        if acks {
            self.acks_missing += 1;
            self.since = now;
        }
    }

    /// One part's acknowledgement is over; `error` if the level was not reached.
    pub fn acknowledged(&mut self, error: Option<&[u8]>) {
        self.acks_missing = self.acks_missing.saturating_sub(1);
        if let Some(error) = error {
            self.error.get_or_insert_with(|| error.into());
        }
    }

    /// No acknowledgement comes any more.
    pub fn give_up_acks(&mut self, error: &[u8]) {
        self.acks_missing = 0;
        self.error.get_or_insert_with(|| error.into());
    }

    /// Since when it waits for nothing but acknowledgements.
    pub fn acking_since(&self) -> Option<u32> {
        (self.replies_missing == 0 && self.acks_missing > 0).then_some(self.since)
    }

    /// The reply, once nothing is missing.
    pub fn finish(&self) -> Option<Vec<u8>> {
        if self.replies_missing > 0 || self.acks_missing > 0 {
            return None;
        }
        let parts: Vec<&[u8]> = self.parts.iter().flatten().map(AsRef::as_ref).collect();
        // An error of any part is the error of the whole; what the other parts did stays done.
        if let Some(error) = parts.iter().find(|part| part.first() == Some(&b'-')) {
            return Some(error.to_vec());
        }
        if let Some(error) = &self.error {
            return Some(error.to_vec());
        }
        Some(
            self.join
                .join(&parts)
                .unwrap_or_else(|| b"-ERR the shards sent replies that do not fit together\r\n".to_vec()),
        )
    }
}

impl Join {
    fn join(&self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(parts.iter().map(|p| p.len()).sum::<usize>() + 16);
        match self {
            Self::Sum => {
                let mut numbers = parts.iter().map(|part| (part[0] == b':').then(|| reply::head(part))?);
                let sum = numbers.try_fold(0i64, |sum, number| sum.checked_add(number?.0))?;
                encode::integer(&mut out, sum);
            }
            Self::Values { order } => {
                encode::array(&mut out, order.len());
                let mut parts: Vec<_> = parts.iter().map(|part| reply::elements(part)).collect();
                for part in order {
                    out.extend_from_slice(parts.get_mut(usize::from(*part))?.next()?);
                }
            }
            Self::First => out.extend_from_slice(parts.first()?),
            Self::Arrays => {
                let heads = parts.iter().map(|part| (part[0] == b'*').then(|| reply::head(part))?);
                let heads: Vec<(i64, usize)> = heads.collect::<Option<_>>()?;
                encode::array(
                    &mut out,
                    heads.iter().map(|(count, _)| usize::try_from(*count).unwrap_or(0)).sum(),
                );
                for (part, (_, start)) in parts.iter().zip(heads) {
                    out.extend_from_slice(&part[start..]);
                }
            }
            Self::Pick(number) => {
                let is_null = |part: &[u8]| part.starts_with(b"$-1") || part.starts_with(b"_");
                let full: Vec<&&[u8]> = parts.iter().filter(|part| !is_null(part)).collect();
                let picked = full.get(*number as usize % full.len().max(1)).copied().or(parts.first())?;
                out.extend_from_slice(picked);
            }
            Self::Scan { shard, shards } => {
                let part = *parts.first()?;
                let mut elements = reply::elements(part);
                let inner = parse_cursor(reply::bulk(elements.next()?)?)?;
                let next = Cursor { shard: *shard, inner }.next(*shards);
                encode::array(&mut out, 2);
                encode::bulk(&mut out, next.to_string().as_bytes());
                out.extend_from_slice(elements.next()?);
            }
        }
        Some(out)
    }
}

/// Where a `SCAN` over all shards stands. One number to clients: the shard's own cursor times the number of shards,
/// plus the shard; so that 0 is the start and the end, as for one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The shard that is being scanned.
    pub shard: u16,
    /// Its own cursor.
    pub inner: u64,
}

impl Cursor {
    /// Reads what a client sent.
    pub fn parse(text: &[u8], shards: u16) -> Option<Self> {
        let number = parse_cursor(text)?;
        let shards = u64::from(shards.max(1));
        Some(Self { shard: (number % shards) as u16, inner: number / shards })
    }

    /// The number for the client after the shard has answered with the cursor `self.inner`.
    fn next(self, shards: u16) -> u64 {
        match self.inner {
            0 if self.shard + 1 >= shards => 0,
            0 => u64::from(self.shard) + 1,
            inner => inner.saturating_mul(u64::from(shards.max(1))).saturating_add(u64::from(self.shard)),
        }
    }
}

fn parse_cursor(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(join: Join, parts: &[&str]) -> String {
        let mut gather = Gather::new(join, parts.len());
        for (n, part) in parts.iter().enumerate().rev() {
            assert_eq!(gather.finish(), None);
            gather.reply(n as u16, part.as_bytes(), false, 0);
        }
        String::from_utf8(gather.finish().expect("complete")).expect("text")
    }

    #[test]
    fn sums() {
        assert_eq!(joined(Join::Sum, &[":2\r\n", ":3\r\n"]), ":5\r\n");
        assert_eq!(joined(Join::Sum, &[":2\r\n", "-ERR x\r\n"]), "-ERR x\r\n");
        assert!(joined(Join::Sum, &[":2\r\n", "+OK\r\n"]).starts_with("-ERR the shards"));
        assert!(joined(Join::Sum, &[":999999999999999999\r\n"; 10]).starts_with("-ERR the shards"));
    }

    #[test]
    fn values_in_the_order_of_the_keys() {
        let parts = ["*2\r\n$1\r\na\r\n$-1\r\n", "*1\r\n$1\r\nb\r\n"];
        assert_eq!(
            joined(Join::Values { order: vec![0, 1, 0] }, &parts),
            "*3\r\n$1\r\na\r\n$1\r\nb\r\n$-1\r\n"
        );
        assert!(joined(Join::Values { order: vec![1, 1] }, &parts).starts_with("-ERR"));
    }

    #[test]
    fn arrays_and_picks() {
        assert_eq!(joined(Join::Arrays, &["*1\r\n+a\r\n", "*0\r\n", "*1\r\n+b\r\n"]), "*2\r\n+a\r\n+b\r\n");
        assert_eq!(joined(Join::Pick(7), &["$-1\r\n", "$1\r\na\r\n", "_\r\n"]), "$1\r\na\r\n");
        assert_eq!(joined(Join::Pick(7), &["$-1\r\n", "$-1\r\n"]), "$-1\r\n");
        assert_eq!(joined(Join::First, &["+OK\r\n", "+OK\r\n"]), "+OK\r\n");
    }

    #[test]
    fn a_scan_visits_every_shard_and_ends() {
        let (shards, mut cursor, mut asked) = (3, 0u64, Vec::new());
        loop {
            let at = Cursor::parse(cursor.to_string().as_bytes(), shards).expect("a number");
            asked.push((at.shard, at.inner));
            // Each shard answers 9 first, then 0.
            let inner = if at.inner == 0 { "$1\r\n9\r\n" } else { "$1\r\n0\r\n" };
            let reply = joined(Join::Scan { shard: at.shard, shards }, &[&format!("*2\r\n{inner}*0\r\n")]);
            cursor = reply.lines().nth(2).and_then(|line| line.parse().ok()).expect("cursor");
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(asked, [(0, 0), (0, 9), (1, 0), (1, 9), (2, 0), (2, 9)]);
        assert_eq!(Cursor::parse(b"x", 3), None);
        assert_eq!(Cursor::parse(b"-1", 3), None);
    }

    #[test]
    fn the_level_of_all_parts_is_waited_for() {
        let mut gather = Gather::new(Join::Sum, 2);
        gather.reply(0, b":1\r\n", true, 5);
        gather.acknowledged(None);
        gather.reply(1, b":1\r\n", true, 9);
        assert_eq!((gather.finish(), gather.acking_since()), (None, Some(9)));
        gather.acknowledged(Some(b"-X\r\n"));
        assert_eq!(gather.finish().as_deref(), Some(&b"-X\r\n"[..]));
    }
}
