//! Digests of what is live, by slot: equal covers make equal digests. They are sums of hashes of elements, so the order of
//! arrival does not matter, and a write changes them by its own cell alone.
//!
//! An element is a cell's put that is shown, that a cell counts, a total that counts, or a key's time-to-live. What one region may have forgotten
//! and another not is none: tombstones, floors, ended lives, and what was prepared or cached. Keys expire by everybody's
//! own clock, and are forgotten some time after; so keys with a time-to-live are kept apart, and whoever asks names a time: only
//! those that expire after it count. It must be later than [`crate::table::Table::expired`] of all that are compared.
//!
//! A string's put is known by its stamp alone, every other element also by its names. A compact entry has no name, so with
//! one no floor of a slot could be taken off, nothing counted again from a file, and nothing told of keys whose value is
//! lost. A stamp is one write's: two strings of a slot have the same one only if one command set both, and only what
//! swaps these two would not be seen.
//!
//! The hash keeps faults apart, not adversaries: who can write may as well write the difference.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::amount::Amount;
use crate::effect::Kind;
use crate::keyspace::Keyspace;
use crate::meta::{Cell, KeyMeta, Total};
use crate::shard::Shard;
use crate::slot::slot_of;
use crate::stamp::{Hlc, Stamp};
use crate::transfer::Cursor;

/// All regions and versions must agree on it.
const SEED: u64 = 0x6d61_732d_6469_6765;

/// Steps of splitmix64: every bit of both depends on every bit of the result.
fn mix(a: u64, b: u64) -> u64 {
    let mut z = (a ^ b).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn stamped(place: u64, stamp: Stamp) -> u64 {
    let Stamp { hlc, origin } = stamp;
    // Incarnations are random, so the region changes little; but those of tests are not.
    let origin = origin.incarnation.0.rotate_left(16) ^ u64::from(origin.region.0);
    mix(mix(place, hlc.0), origin)
}

/// The element of a string's put.
pub(crate) fn string(stamp: Stamp) -> u64 {
    stamped(SEED, stamp)
}

fn time_to_live(key: &[u8], register: Stamp, at_ms: u64) -> u64 {
    mix(stamped(xxh3_64_with_seed(key, !SEED), register), at_ms)
}

/// Where a cell is, hashed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    kind: Kind,
    hash: u64,
}

impl Place {
    pub(crate) fn new(key: &[u8], kind: Kind, name: &[u8]) -> Self {
        Self::in_key(xxh3_64_with_seed(key, SEED), kind, name)
    }

    fn in_key(key: u64, kind: Kind, name: &[u8]) -> Self {
        let salt = match kind {
            Kind::Str => return Self { kind, hash: key },
            Kind::Hash => 2,
            Kind::Set => 3,
            Kind::Zset => 4,
        };
        Self { kind, hash: mix(xxh3_64_with_seed(name, key), salt) }
    }

    /// The sum of the cell's elements, when all at or below `death` is dead.
    pub(crate) fn cell(self, cell: &Cell, death: Stamp) -> u64 {
        let mut sum = 0;
        if (cell.present && cell.base > death) || mutation!(DigestCountsTombstones) {
            sum = if self.kind == Kind::Str { string(cell.base) } else { stamped(self.hash, cell.base) };
        }
        if cell.counted(death) {
            sum = sum.wrapping_add(mix(!self.hash, SEED));
        }
        let totals = cell.counter.iter().flat_map(|counter| &counter.totals);
        // One that is zero adds nothing but that there is one, and is forgotten once it was folded into another.
        let counts = |t: &&Total| t.started > death && !t.amount.is_zero();
        totals.filter(counts).fold(sum, |sum, total| sum.wrapping_add(self.total(total)))
    }

    fn total(self, total: &Total) -> u64 {
        let Total { started, latest, amount } = total;
        let at = mix(stamped(!self.hash, *started), latest.0);
        match amount {
            Amount::Decimal(number) => {
                let (low, high) = (number.units as u64, (number.units >> 64) as u64);
                mix(mix(mix(at, low), high), u64::from(number.float))
            }
            Amount::Score(score) => mix(mix(at, score.to_bits()), 2),
        }
    }
}

impl KeyMeta {
    /// The sum of its live cells, from scratch.
    pub(crate) fn sum_of_cells(&self, key: &[u8]) -> u64 {
        let Some(kind) = self.cells.kind() else { return 0 };
        let (death, key) = (self.death(), xxh3_64_with_seed(key, SEED));
        let cells = self.cells.iter().map(|(name, cell)| Place::in_key(key, kind, name).cell(cell, death));
        cells.fold(0, u64::wrapping_add)
    }

    /// What it adds to its slot's digest, if only what expires after `beyond_ms` counts.
    pub fn digest(&self, key: &[u8], beyond_ms: u64) -> u64 {
        self.digest_with(self.sum, key, beyond_ms)
    }

    /// The same, where nothing is believed that was kept up to date.
    pub(crate) fn recount(&self, key: &[u8], beyond_ms: u64) -> u64 {
        self.digest_with(self.sum_of_cells(key), key, beyond_ms)
    }

    fn digest_with(&self, cells: u64, key: &[u8], beyond_ms: u64) -> u64 {
        match self.ttl.current().and_then(|life| Some((life.register, life.at_ms?))) {
            None => cells,
            Some((_, at_ms)) if at_ms <= beyond_ms && !mutation!(DigestCountsExpired) => 0,
            Some((register, at_ms)) => cells.wrapping_add(time_to_live(key, register, at_ms)),
        }
    }

    /// The element of its time-to-live; 0: it has none.
    pub(crate) fn digest_of_ttl(&self, key: &[u8]) -> u64 {
        let current = self.ttl.current().and_then(|life| Some((life.register, life.at_ms?)));
        current.map_or(0, |(register, at_ms)| time_to_live(key, register, at_ms))
    }

    /// The latest clock in it: whoever has merged through that has all that it says, and all that it says is dead.
    pub fn latest(&self) -> Hlc {
        let totals = |cell: &Cell| {
            let latest = cell.counter.iter().flat_map(|c| &c.totals).map(|total| total.latest);
            latest.fold(cell.base.hlc, Hlc::max)
        };
        let cells = self.cells.iter().map(|(_, cell)| totals(cell));
        let lives = self.ttl.lives.iter();
        let lives = lives.map(|l| l.kill.map_or(l.register.hlc, |kill| kill.at.max(l.register.hlc)));
        let head = [self.floor.hlc, self.rank.hlc, self.ttl.clear.hlc];
        head.into_iter().chain(cells).chain(lives).fold(Hlc::ZERO, Hlc::max)
    }
}

/// What a key adds to its slot.
#[derive(Clone, Copy, Default)]
pub(crate) struct Share {
    steady: u64,
    expires: bool,
}

impl Share {
    pub(crate) fn of(meta: &KeyMeta) -> Self {
        let expires = meta.ttl.at_ms().is_some();
        Self { steady: if expires { 0 } else { meta.sum }, expires }
    }

    pub(crate) fn of_string(stamp: Stamp) -> Self {
        Self { steady: string(stamp), expires: false }
    }
}

/// By slot: the sum of all keys without a time-to-live, and how many have one.
pub(crate) struct Digests {
    steady: Vec<u64>,
    expiring: Vec<u32>,
}

impl Digests {
    pub(crate) fn new(slots: usize) -> Self {
        Self { steady: vec![0; slots], expiring: vec![0; slots] }
    }

    /// A key's share was `was` and is `is`.
    pub(crate) fn change(&mut self, slot: usize, was: Share, is: Share) {
        let sum = &mut self.steady[slot];
        *sum = sum.wrapping_sub(was.steady).wrapping_add(is.steady);
        if was.expires != is.expires {
            let count = &mut self.expiring[slot];
            *count = if is.expires { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// The sum of the slot's keys that have no time-to-live, and whether there are others.
    pub(crate) fn of(&self, slot: usize) -> (u64, bool) {
        (self.steady[slot], self.expiring[slot] > 0)
    }
}

/// What a key of a slot says of itself, to whoever looks for a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDigest {
    /// Its name.
    pub key: Bytes,
    /// What it adds to the slot's digest.
    pub digest: u64,
    /// The latest clock in it ([`KeyMeta::latest`]).
    pub latest: Hlc,
}

impl Shard {
    /// Some keys of `slots` (in order) from a cursor on, about `count` looked at, and the cursor to go on with. Plain strings come first, for
    /// nothing but the keyspace knows their names, and with them keys without metadata; a key may come twice.
    pub fn key_digests(
        &self,
        slots: &[u16],
        beyond_ms: u64,
        at: &Cursor,
        count: usize,
        ks: &mut dyn Keyspace,
    ) -> (Cursor, Vec<KeyDigest>) {
        let of = |key: &[u8], meta: &KeyMeta| KeyDigest {
            key: Bytes::copy_from_slice(key),
            digest: meta.digest(key, beyond_ms),
            latest: meta.latest(),
        };
        match at {
            Cursor::Values(at) => {
                let (next, keys) = ks.scan(at, count);
                let keys = keys.iter().filter(|key| slots.binary_search(&slot_of(key)).is_ok());
                let keys = keys.map(|key| self.table.read(key, |meta| of(key, meta))).collect();
                let next = match slots.first() {
                    _ if !next.is_empty() => Cursor::Values(next.into()),
                    Some(slot) => Cursor::Named { slot: *slot, key: Bytes::new(), cell: None },
                    None => Cursor::Done,
                };
                (next, keys)
            }
            Cursor::Named { slot: first, key: after, .. } => {
                let mut found = Vec::new();
                for slot in slots.iter().copied().filter(|slot| slot >= first) {
                    let after = if slot == *first { &after[..] } else { b"" };
                    let named = self.table.slot_contents(slot).2.filter(|(key, _)| *key > after);
                    let mut named: Vec<(&[u8], &KeyMeta)> = named.collect();
                    named.sort_unstable_by_key(|(key, _)| *key);
                    let room = count.saturating_sub(found.len());
                    if named.len() > room {
                        // At least one each time, or it would never end.
                        named.truncate(room.max(1));
                        found.extend(named.iter().map(|(key, meta)| of(key, meta)));
                        let last = named.last().map(|(key, _)| Bytes::copy_from_slice(key));
                        let next = Cursor::Named { slot, key: last.unwrap_or_default(), cell: None };
                        return (next, found);
                    }
                    found.extend(named.into_iter().map(|(key, meta)| of(key, meta)));
                }
                (Cursor::Done, found)
            }
            Cursor::Done => (Cursor::Done, Vec::new()),
        }
    }
}
