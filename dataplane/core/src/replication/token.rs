//! Tokens: what a session has written and seen, as short text that a client takes to another region. Strictly parsed and
//! bounded, for it comes from clients.

use bytes::Bytes;

use crate::cover::{Cover, SeqSet};
use crate::stamp::{Hlc, Incarnation, Origin, ShardId};
use crate::wire::{Reader, WireError, Writer};

/// Version of the format.
const VERSION: u8 = 1;
/// Longest token as text, bytes.
pub const TOKEN_BYTES_MAX: usize = 64 << 10;
/// A set with more gaps than this is rounded up to its last number: the gaps are on their way.
const RUNS_EXACT: usize = 8;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not the text that `MAS.TOKEN` gives.
    #[error("the token is damaged: take it from MAS.TOKEN as it is")]
    Damaged,
    /// Made by a newer version.
    #[error("the token was made by a newer version of the proxy")]
    Version,
    /// Made by another store.
    #[error("the token is of another store")]
    OtherStore,
}

impl From<WireError> for TokenError {
    fn from(_: WireError) -> Self {
        Self::Damaged
    }
}

/// What a session needs of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardNeed {
    /// The shard.
    pub shard: ShardId,
    /// What it has written and seen.
    pub cover: Cover,
    /// The highest clock that it has seen.
    pub hlc: Hlc,
    /// The highest number answered at `Local` only, and by whom: these may be lost with that master.
    pub local_only: Option<(Origin, u64)>,
}

impl ShardNeed {
    /// Whether a shard with this cover gives the session all it has written and seen.
    pub fn covered_by(&self, cover: &Cover) -> bool {
        if mutation!(TokenIsAWatermark) {
            return self
                .cover
                .iter()
                .all(|(o, set)| cover.of(o).is_some_and(|mine| mine.last() >= set.last()));
        }
        cover.includes(&self.cover)
    }

    /// The first effect that the cover lacks.
    pub fn first_missing(&self, cover: &Cover) -> Option<(Origin, u64)> {
        self.cover.iter().find_map(|(origin, need)| {
            let empty = SeqSet::default();
            let have = cover.of(origin).unwrap_or(&empty);
            let holes = have.holes_up_to(need.last());
            holes.into_iter().find_map(|(first, last)| {
                need.runs().find(|&(a, b)| a <= last && b >= first).map(|(a, _)| (origin, a.max(first)))
            })
        })
    }
}

/// A session's token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// One entry for each shard that it has touched, in any order.
    pub shards: Vec<ShardNeed>,
}

/// Adds what a session wrote to what it saw: whoever numbered `seq` had all before it.
pub fn add_written(cover: &mut Cover, origin: Origin, seq: u64) {
    if seq == 0 || origin.incarnation == Incarnation::NONE || mutation!(TokenWithoutWrites) {
        return;
    }
    let mut set = SeqSet::up_to(seq);
    for (first, last) in cover.of(origin).into_iter().flat_map(SeqSet::runs) {
        // There are no more runs than the cover had, so the bound cannot be met.
        let _ = set.insert_run(first, last);
    }
    cover.set(origin, set);
}

fn compact(cover: &Cover) -> Cover {
    let mut compact = Cover::default();
    for (origin, set) in cover.iter() {
        let exact = set.runs().nth(RUNS_EXACT).is_none();
        compact.set(origin, if exact { set.clone() } else { SeqSet::up_to(set.last()) });
    }
    compact
}

impl Token {
    /// As text, for clients of `store`.
    pub fn encode(&self, store: &str) -> Result<String, TokenError> {
        self.encode_covers(store, compact)
    }

    /// The same with all gaps, for who wants to know what a region has and not what a session needs.
    pub fn encode_exact(&self, store: &str) -> Result<String, TokenError> {
        self.encode_covers(store, Cover::clone)
    }

    fn encode_covers(&self, store: &str, of: fn(&Cover) -> Cover) -> Result<String, TokenError> {
        let mut w = Writer::with_capacity(256);
        w.u8(VERSION);
        w.raw(&check_of(store));
        w.varint(self.shards.len() as u64);
        for need in &self.shards {
            w.u16(need.shard.0);
            w.u64(need.hlc.0);
            w.cover(&of(&need.cover));
            match need.local_only {
                Some((origin, seq)) => {
                    w.u8(1);
                    w.origin(origin);
                    w.varint(seq);
                }
                None => w.u8(0),
            }
        }
        let bytes = w.finish();
        let sum = checksum(&bytes);
        let text = to_text(&[&bytes[..], &sum[..]].concat());
        if text.len() > TOKEN_BYTES_MAX { Err(TokenError::TooLong) } else { Ok(text) }
    }

    /// Reads the text again.
    pub fn parse(text: &[u8], store: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let bytes = from_text(text).ok_or(TokenError::Damaged)?;
        let (bytes, sum) = bytes.split_at_checked(bytes.len().wrapping_sub(4)).ok_or(TokenError::Damaged)?;
        if sum != checksum(bytes) {
            return Err(TokenError::Damaged);
        }
        let mut r = Reader::new(Bytes::copy_from_slice(bytes));
        if r.u8("token")? != VERSION {
            return Err(TokenError::Version);
        }
        let check = [r.u8("token")?, r.u8("token")?, r.u8("token")?, r.u8("token")?];
        if check != check_of(store) {
            return Err(TokenError::OtherStore);
        }
        let count = r.count(12, "shards")?;
        let mut shards = Vec::with_capacity(count);
        for _ in 0..count {
            let shard = ShardId(r.u16("shard")?);
            let hlc = Hlc(r.u64("clock")?);
            let cover = r.cover()?;
            if cover.sealed().next().is_some() {
                // What is sealed, regions tell each other; a session's needs say nothing of it.
                return Err(TokenError::Damaged);
            }
            let local_only = match r.u8("local")? {
                0 => None,
                1 => Some((r.origin("local")?, r.varint("local")?)),
                _ => return Err(TokenError::Damaged),
            };
            shards.push(ShardNeed { shard, cover, hlc, local_only });
        }
        r.end("token")?;
        Ok(Self { shards })
    }
}

/// FNV-1a, 32 bits: finds typing and truncation, defends against nobody. A token grants nothing.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    bytes.iter().fold(0x811c_9dc5u32, |sum, &b| (sum ^ u32::from(b)).wrapping_mul(0x0100_0193)).to_le_bytes()
}

fn check_of(store: &str) -> [u8; 4] {
    checksum(store.as_bytes())
}

/// Base64 for URLs, without padding (RFC 4648, section 5).
fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}

fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.chunks(4) {
        let mut word = 0u32;
        for &c in chunk {
            word = word << 6 | ALPHABET.iter().position(|&a| a == c)? as u32;
        }
        word <<= 6 * (4 - chunk.len());
        let take = chunk.len().checked_sub(1).filter(|&n| n > 0)?;
        bytes.extend_from_slice(&word.to_be_bytes()[1..=take]);
    }
    // One text for one token: the unused bits are zero.
    (to_text(&bytes).as_bytes() == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stamp::RegionId;

    fn origin(n: u64) -> Origin {
        Origin { region: RegionId(1), incarnation: Incarnation(n) }
    }

    fn need(shard: u16, seqs: &[(u64, u64, u64)]) -> ShardNeed {
        let mut cover = Cover::default();
        for &(inc, first, last) in seqs {
            let mut set = cover.of(origin(inc)).cloned().unwrap_or_default();
            set.insert_run(first, last).unwrap();
            cover.set(origin(inc), set);
        }
        ShardNeed { shard: ShardId(shard), cover, hlc: Hlc(77), local_only: None }
    }

    #[test]
    fn covered_or_what_is_missing() {
        let n = need(0, &[(1, 1, 5), (2, 1, 3)]);
        assert!(n.covered_by(&need(0, &[(1, 1, 9), (2, 1, 3), (3, 1, 1)]).cover));
        let less = need(0, &[(1, 1, 4), (1, 6, 9), (2, 1, 3)]).cover;
        assert!(!n.covered_by(&less));
        assert_eq!(n.first_missing(&less), Some((origin(1), 5)));
        assert_eq!(n.first_missing(&Cover::default()), Some((origin(1), 1)));
        assert_eq!(n.first_missing(&n.cover), None);
    }

    #[test]
    fn what_was_written_joins_what_was_seen() {
        let mut cover = need(0, &[(1, 1, 2), (1, 8, 9)]).cover;
        add_written(&mut cover, origin(1), 5);
        add_written(&mut cover, origin(4), 0);
        assert_eq!(cover, need(0, &[(1, 1, 5), (1, 8, 9)]).cover);
    }

    #[test]
    fn another_store_or_damage_is_refused_in_words() {
        let token = Token { shards: vec![need(0, &[(1, 1, 5)])] };
        let text = token.encode("shop").unwrap();
        assert!(text.len() < 80, "{text}");
        assert_eq!(Token::parse(text.as_bytes(), "shop"), Ok(token));
        assert_eq!(Token::parse(text.as_bytes(), "other"), Err(TokenError::OtherStore));
        assert_eq!(Token::parse(&text.as_bytes()[1..], "shop"), Err(TokenError::Damaged));
        assert_eq!(Token::parse(b"", "shop"), Err(TokenError::Damaged));
        assert_eq!(Token::parse(&vec![b'A'; TOKEN_BYTES_MAX + 1], "shop"), Err(TokenError::TooLong));
    }

    #[test]
    fn many_gaps_are_rounded_up() {
        let gaps: Vec<_> = (0..100).map(|n| (1, 2 * n + 1, 2 * n + 1)).collect();
        let token = Token { shards: vec![need(0, &gaps)] };
        let read = Token::parse(token.encode("s").unwrap().as_bytes(), "s").unwrap();
        assert_eq!(read.shards[0].cover, need(0, &[(1, 1, 199)]).cover);
        let exact = Token::parse(token.encode_exact("s").unwrap().as_bytes(), "s").unwrap();
        assert_eq!(exact, token);
    }

    proptest! {
        #[test]
        fn round_trip(
            shards in prop::collection::vec((any::<u16>(), prop::collection::vec((1u64..5, 1u64..50, 0u64..9), 0..5), any::<bool>()), 0..5),
        ) {
            let shards = shards.into_iter().map(|(shard, seqs, local)| {
                let seqs: Vec<_> = seqs.into_iter().map(|(i, f, l)| (i, f, f + l)).collect();
                ShardNeed { local_only: local.then_some((origin(9), 300)), ..need(shard, &seqs) }
            }).collect();
            let token = Token { shards };
            prop_assert_eq!(Token::parse(token.encode("shop").unwrap().as_bytes(), "shop"), Ok(token));
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..200), mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Token::parse(&text, "shop");
            bytes.splice(0..0, [VERSION].into_iter().chain(check_of("shop")));
            let sum = checksum(&bytes);
            bytes.extend(sum);
            let _ = Token::parse(to_text(&bytes).as_bytes(), "shop");
        }
    }
}
