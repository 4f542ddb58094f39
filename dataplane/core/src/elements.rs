//! What a key is made of, element by element, for whoever looks for a difference: what the metadata says, and in short what is shown.
//!
//! Digests ([`crate::digest`]) are of stamps, so two regions whose metadata agrees may still show different values; and a
//! region may show what its own metadata does not say. Only a look at values finds that.

use std::collections::BinaryHeap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::digest::Place;
use crate::effect::{Kind, Value};
use crate::keyspace::Keyspace;
use crate::merge::{number_in, shown};
use crate::meta::{Cell, KeyMeta};
use crate::shard::Shard;
use crate::stamp::{Hlc, Stamp};

/// All regions and versions must agree on it.
const SEED: u64 = 0x6d61_732d_7661_6c75;

/// What a key's metadata says of the key as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The winning type.
    pub kind: Option<Kind>,
    /// The time-to-live's element; 0: there is none.
    pub digest: u64,
    /// When the key dies, unix milliseconds.
    pub at_ms: Option<u64>,
    /// The latest clock of what decides about all elements: floors, times to live, ends of lives.
    pub latest: Hlc,
    /// The latest clock of the winning type: where regions have different types, it decides.
    pub rank: Hlc,
}

/// One element: a string, a field, a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its name; a string has none.
    pub name: Bytes,
    /// What it adds to its key's digest; 0: it is not live.
    pub digest: u64,
    /// Its latest stamp: who wrote it last, and when.
    pub latest: Stamp,
    /// What is shown: a hash of it and its size, bytes; `None`: nothing.
    pub shown: Option<(u64, u64)>,
    /// Whether that is what the metadata says, as far as it says anything of values.
    pub fits: bool,
}

/// Some elements of a key, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    /// The key itself.
    pub head: Head,
    /// Those that were looked at.
    pub elements: Vec<Element>,
    /// There are others behind the last one.
    pub more: bool,
}

/// How much of a key one look takes in: an engine does nothing else meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct LookBounds {
    /// Elements.
    pub elements: usize,
    /// Bytes of values, save for a single larger one.
    pub bytes: u64,
}

impl LookBounds {
    /// What engines use.
    pub const DEFAULT: Self = Self { elements: 1000, bytes: 4 << 20 };
}

/// Whether a random sample takes this key: some `percent` of all keys, others with another seed. `first` (below 100) turns
/// the sample, so that several regions asked with one seed give different keys.
pub fn is_sampled(key: &[u8], seed: u64, first: u64, percent: u64) -> bool {
    (xxh3_64_with_seed(key, seed) % 100 + 100 - first % 100) % 100 < percent
}

fn hash_of(value: &Value) -> (u64, u64) {
    match value {
        Value::Bytes(bytes) => (xxh3_64_with_seed(bytes, SEED), bytes.len() as u64),
        Value::Member => (SEED, 0),
        Value::Score(score) => (xxh3_64_with_seed(&score.to_bits().to_le_bytes(), SEED), 8),
        Value::Gone => (!SEED, 0),
    }
}

impl Shard {
    /// Elements of a key named behind `after`.
    pub fn elements(
        &self,
        key: &[u8],
        after: Option<&[u8]>,
        bounds: LookBounds,
        ks: &mut dyn Keyspace,
    ) -> Elements {
        self.table().read(key, |meta| {
            let head = head(meta, key);
            let Some(kind) = meta.cells.kind() else { return Elements { head, ..Elements::default() } };
            // The first names of those behind, without sorting all of them.
            let mut first: BinaryHeap<&[u8]> = BinaryHeap::with_capacity(bounds.elements + 2);
            for (name, _) in meta.cells.iter() {
                if after.is_none_or(|after| name > after) {
                    first.push(name);
                    if first.len() > bounds.elements + 1 {
                        first.pop();
                    }
                }
            }
            let names = first.into_sorted_vec();
            let (death, mut elements, mut bytes) = (meta.death(), Vec::new(), 0);
            for name in &names {
                if elements.len() >= bounds.elements || bytes >= bounds.bytes {
                    break;
                }
                let Some(cell) = meta.cells.get(name) else { continue };
                let element = look(cell, key, kind, name, death, ks);
                bytes += element.shown.map_or(0, |(_, size)| size);
                elements.push(element);
            }
            let more = elements.len() < names.len();
            Elements { head, elements, more }
        })
    }
}

fn head(meta: &KeyMeta, key: &[u8]) -> Head {
    let lives = meta.ttl.lives.iter();
    let lives = lives.map(|l| l.kill.map_or(l.register.hlc, |kill| kill.at.max(l.register.hlc)));
    Head {
        kind: meta.cells.kind(),
        digest: meta.digest_of_ttl(key),
        at_ms: meta.ttl.at_ms(),
        latest: lives.fold(meta.floor.hlc.max(meta.ttl.clear.hlc), Hlc::max),
        rank: meta.rank.hlc,
    }
}

fn look(cell: &Cell, key: &[u8], kind: Kind, name: &[u8], death: Stamp, ks: &mut dyn Keyspace) -> Element {
    let value = ks.read(key, kind, name);
    let totals = cell.counter.iter().flat_map(|counter| &counter.totals);
    let totals = totals.map(|total| Stamp::new(total.latest, total.started.origin));
    let fits = match (&value, cell.sum(death)) {
        (None, _) => !cell.is_live(death),
        (Some(value), Some(sum)) if !cell.lacks_base(death) => {
            number_in(value).map(shown) == Some(shown(sum))
        }
        (Some(_), _) => cell.is_live(death),
    };
    Element {
        name: Bytes::copy_from_slice(name),
        digest: Place::new(key, kind, name).cell(cell, death),
        latest: totals.fold(cell.base, Stamp::max),
        shown: value.as_ref().map(hash_of),
        fits,
    }
}
