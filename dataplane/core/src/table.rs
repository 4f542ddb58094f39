//! The metadata of all keys of a shard, by slot. A key that is a plain string (nearly all keys, in most stores) takes
//! 20 bytes and no name; every other key has its [`KeyMeta`] under its name.

use std::hash::Hasher;

use hashbrown::{HashMap, HashTable};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::cover::Cover;
use crate::digest::{self, Digests, Share};
use crate::meta::{Cells, KeyMeta};
use crate::slot::{SLOTS, slot_of};
use crate::stamp::{Hlc, Origin, Stamp};

/// 80 bits of a keyed hash of the key: within one slot (94 bits in all) two of 10^9 keys share one with
/// a probability of 10^-11, and nobody who does not know the hash key can choose them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyId {
    low: u64,
    high: u16,
}

/// A plain string's entry: id (80 bits), origin (16), clock (64), without padding.
#[derive(Clone, Copy)]
struct Plain([u32; 5]);

impl Plain {
    fn new(id: KeyId, origin: u16, hlc: Hlc) -> Self {
        let (low, at) = (id.low, hlc.0);
        Self([
            low as u32,
            (low >> 32) as u32,
            u32::from(id.high) | u32::from(origin) << 16,
            at as u32,
            (at >> 32) as u32,
        ])
    }

    fn id(&self) -> KeyId {
        KeyId { low: u64::from(self.0[0]) | u64::from(self.0[1]) << 32, high: self.0[2] as u16 }
    }

    fn origin(&self) -> u16 {
        (self.0[2] >> 16) as u16
    }

    fn hlc(&self) -> Hlc {
        Hlc(u64::from(self.0[3]) | u64::from(self.0[4]) << 32)
    }
}

/// Keys with full metadata, by name.
type Named = HashMap<Box<[u8]>, Box<KeyMeta>>;

/// One cache line: most writes miss the cache here once, and need not twice.
#[derive(Default)]
#[repr(align(64))]
struct Slot {
    floor: Stamp,
    plain: HashTable<Plain>,
    /// `None` until there is one.
    rich: Option<Box<Named>>,
}

impl Slot {
    fn named(&self, key: &[u8]) -> Option<&KeyMeta> {
        self.rich.as_ref()?.get(key).map(|meta| &**meta)
    }

    fn named_mut(&mut self, key: &[u8]) -> Option<&mut KeyMeta> {
        self.rich.as_mut()?.get_mut(key).map(|meta| &mut **meta)
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(rich) = &mut self.rich {
            rich.remove(key);
            if rich.is_empty() {
                self.rich = None;
            }
        }
    }

    fn all_named(&self) -> impl Iterator<Item = (&[u8], &KeyMeta)> {
        self.rich.iter().flat_map(|rich| rich.iter().map(|(key, meta)| (&key[..], &**meta)))
    }
}

/// See the module.
pub struct Table {
    hash_key: (u64, u64),
    slots: Vec<Slot>,
    digests: Digests,
    origins: Vec<Origin>,
    origin_index: HashMap<Origin, u16>,
    plain: u64,
    rich: u64,
    tombstones: u64,
    /// Keys that expired at or below were forgotten here, and others may still have their times to live.
    expired: Hlc,
    /// What was stable when something was last forgotten here: tombstones at or below may be gone.
    collected: Hlc,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("plain", &self.plain).field("rich", &self.rich).finish_non_exhaustive()
    }
}

fn stamp_in(origins: &[Origin], plain: &Plain) -> Stamp {
    let origin = origins.get(usize::from(plain.origin())).copied().unwrap_or_default();
    Stamp::new(plain.hlc(), origin)
}

/// Sizes of a [`Table`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    /// Keys that take a compact entry.
    pub plain: u64,
    /// Keys with full metadata.
    pub rich: u64,
    /// Of those, keys that are only a floor.
    pub tombstones: u64,
}

impl Table {
    /// An empty table. `hash_key`: 128 random bits, kept secret.
    pub fn new(hash_key: (u64, u64)) -> Self {
        Self {
            hash_key,
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            digests: Digests::new(usize::from(SLOTS)),
            origins: Vec::new(),
            origin_index: HashMap::new(),
            plain: 0,
            rich: 0,
            tombstones: 0,
            expired: Hlc::ZERO,
            collected: Hlc::ZERO,
        }
    }

    /// How much is in it.
    pub fn sizes(&self) -> TableSizes {
        TableSizes { plain: self.plain, rich: self.rich, tombstones: self.tombstones }
    }

    /// Whether nothing is in it, floors of slots included.
    pub fn is_empty(&self) -> bool {
        self.plain == 0 && self.rich == 0 && self.slots.iter().all(|s| s.floor.is_zero())
    }

    /// The slot's floor.
    pub fn slot_floor(&self, slot: u16) -> Stamp {
        self.slots[usize::from(slot)].floor
    }

    fn id_of(&self, key: &[u8]) -> KeyId {
        let mut hasher = SipHasher13::new_with_keys(self.hash_key.0, self.hash_key.1);
        hasher.write(key);
        let hash = hasher.finish128();
        KeyId { low: hash.h1, high: hash.h2 as u16 }
    }

    /// A small number for an origin; `None` when there are too many of them for a compact entry.
    fn intern(&mut self, origin: Origin) -> Option<u16> {
        if let Some(&index) = self.origin_index.get(&origin) {
            return Some(index);
        }
        let index = u16::try_from(self.origins.len()).ok()?;
        self.origins.push(origin);
        self.origin_index.insert(origin, index);
        Some(index)
    }

    fn stamp_of(&self, plain: &Plain) -> Stamp {
        stamp_in(&self.origins, plain)
    }

    /// Calls `f` with the key's metadata; with the slot's floor alone when there is none.
    pub fn read<R>(&self, key: &[u8], f: impl FnOnce(&KeyMeta) -> R) -> R {
        let slot = &self.slots[usize::from(slot_of(key))];
        if let Some(meta) = slot.named(key) {
            return f(meta);
        }
        let id = self.id_of(key);
        match slot.plain.find(id.low, |p| p.id() == id) {
            Some(plain) => f(&KeyMeta::plain(self.stamp_of(plain))),
            None if mutation!(FlushForgetsSlot) => f(&KeyMeta::default()),
            None => f(&KeyMeta::below(slot.floor)),
        }
    }

    /// Fast path of a plain `SET`: `true` when the key had nothing but an older plain entry, or nothing.
    pub fn set_plain(&mut self, key: &[u8], stamp: Stamp) -> bool {
        let Some(origin) = self.intern(stamp.origin) else { return false };
        let (id, at) = (self.id_of(key), usize::from(slot_of(key)));
        let slot = &mut self.slots[at];
        if stamp <= slot.floor && mutation!(PlainSetIgnoresFlush) {
            return true;
        }
        if stamp <= slot.floor && !mutation!(FlushForgetsSlot) {
            return false;
        }
        let fresh = Plain::new(id, origin, stamp.hlc);
        // A key has one entry, plain or named: who is found here is not looked for there.
        if let Some(plain) = slot.plain.find_mut(id.low, |p| p.id() == id) {
            let newer = stamp.hlc > plain.hlc();
            if newer {
                let old = std::mem::replace(plain, fresh);
                let was = Share::of_string(stamp_in(&self.origins, &old));
                self.digests.change(at, was, Share::of_string(stamp));
            }
            return newer;
        }
        if slot.named(key).is_some() {
            return false;
        }
        slot.plain.insert_unique(id.low, fresh, |p| p.id().low);
        self.digests.change(at, Share::default(), Share::of_string(stamp));
        self.plain += 1;
        true
    }

    /// Calls `f` with the key's metadata and stores what it leaves.
    pub fn update<R>(&mut self, key: &[u8], f: impl FnOnce(&mut KeyMeta) -> R) -> R {
        let at = usize::from(slot_of(key));
        let id = self.id_of(key);
        let floor = self.slots[at].floor;
        if let Some(meta) = self.slots[at].named_mut(key) {
            let (was_tombstone, was) = (meta.cells == Cells::None, Share::of(meta));
            let result = f(meta);
            let is_tombstone = meta.cells == Cells::None;
            self.digests.change(at, was, Share::of(meta));
            self.tombstones = self.tombstones + u64::from(is_tombstone) - u64::from(was_tombstone);
            if let Some(stamp) = meta.as_plain() {
                // Its share stays the same.
                if self.insert_plain(at, id, stamp) {
                    self.slots[at].forget(key);
                    self.rich -= 1;
                }
            } else if meta.says_no_more_than(floor) {
                self.slots[at].forget(key);
                self.rich -= 1;
                self.tombstones -= 1;
            }
            return result;
        }
        let found = self.slots[at].plain.find(id.low, |p| p.id() == id).copied();
        let mut meta = match &found {
            Some(plain) => KeyMeta::plain(self.stamp_of(plain)),
            None if mutation!(FlushForgetsSlot) => KeyMeta::default(),
            None => KeyMeta::below(floor),
        };
        let was = Share::of(&meta);
        let result = f(&mut meta);
        self.digests.change(at, was, Share::of(&meta));
        if let Some(stamp) = meta.as_plain()
            && self.insert_plain(at, id, stamp)
        {
            return result;
        }
        if found.is_some() {
            if let Ok(entry) = self.slots[at].plain.find_entry(id.low, |p| p.id() == id) {
                entry.remove();
            }
            self.plain -= 1;
        }
        self.insert_rich(at, key, meta);
        result
    }

    fn insert_plain(&mut self, at: usize, id: KeyId, stamp: Stamp) -> bool {
        let Some(origin) = self.intern(stamp.origin) else { return false };
        let fresh = Plain::new(id, origin, stamp.hlc);
        match self.slots[at].plain.entry(id.low, |p| p.id() == id, |p| p.id().low) {
            hashbrown::hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = fresh,
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(fresh);
                self.plain += 1;
            }
        }
        true
    }

    fn insert_rich(&mut self, at: usize, key: &[u8], meta: KeyMeta) {
        let slot = &mut self.slots[at];
        if meta.says_no_more_than(slot.floor) {
            return;
        }
        self.rich += 1;
        self.tombstones += u64::from(meta.cells == Cells::None);
        slot.rich.get_or_insert_default().insert(key.into(), Box::new(meta));
    }

    /// Raises the floor of a slot and forgets what is dead by it. Values are not touched.
    pub fn raise_slot_floor(&mut self, slot: u16, floor: Stamp) {
        let (origins, digests, at) = (&self.origins, &mut self.digests, usize::from(slot));
        let slot = &mut self.slots[at];
        if floor <= slot.floor {
            return;
        }
        slot.floor = floor;
        let before = slot.plain.len();
        slot.plain.retain(|p| {
            let stamp = stamp_in(origins, p);
            if stamp <= floor && !mutation!(DigestKeptByFlush) {
                digests.change(at, Share::of_string(stamp), Share::default());
            }
            stamp > floor
        });
        self.plain -= (before - slot.plain.len()) as u64;
        let (mut gone, mut tombstones) = (0, 0);
        let Some(rich) = &mut slot.rich else { return };
        rich.retain(|key, meta| {
            let (was, share, death) = (meta.cells == Cells::None, Share::of(meta), meta.death());
            meta.ttl.clear(floor);
            meta.raise_floor(floor);
            if meta.death() != death {
                meta.sum = meta.sum_of_cells(key);
            }
            digests.change(at, share, Share::of(meta));
            let empty = meta.cells == Cells::None;
            let keep = !meta.says_no_more_than(floor);
            gone += u64::from(!keep);
            tombstones += i64::from(keep && empty) - i64::from(was);
            keep
        });
        if rich.is_empty() {
            slot.rich = None;
        }
        self.rich -= gone;
        self.tombstones = self.tombstones.saturating_add_signed(tombstones);
    }

    /// The keys in slots `first..=last` that have a time-to-live, also an expired one.
    pub fn with_ttl(&self, first: u16, last: u16) -> impl Iterator<Item = &[u8]> {
        let slots = self.slots.get(usize::from(first)..=usize::from(last)).into_iter().flatten();
        slots.flat_map(Slot::all_named).filter(|(_, meta)| !meta.ttl.lives.is_empty()).map(|(key, _)| key)
    }

    /// The end of the slots from `first` on that hold some `keys` keys with full metadata: a bounded piece of work.
    pub fn slots_with(&self, first: u16, keys: u64) -> u16 {
        let mut seen = 0;
        for slot in first..SLOTS {
            seen += self.slots[usize::from(slot)].rich.as_ref().map_or(0, |rich| rich.len() as u64);
            if seen >= keys {
                return slot + 1;
            }
        }
        SLOTS
    }

    /// Forgets what is stable in slots `first..end`; `cover` tells what is sealed. Returns how many tombstones, and how many are left in them.
    pub fn collect(&mut self, first: u16, end: u16, stable: Hlc, wall_ms: u64, cover: &Cover) -> (u64, u64) {
        let (mut dropped, mut held) = (0, 0);
        for at in usize::from(first)..usize::from(end) {
            let slot = &mut self.slots[at];
            if slot.floor.hlc <= stable && !slot.floor.is_zero() {
                slot.floor = Stamp::ZERO;
                dropped += 1;
            }
            held += u64::from(!slot.floor.is_zero());
            let mut due: Vec<Box<[u8]>> = Vec::new();
            for (key, meta) in slot.all_named() {
                if meta.is_collectible(stable, wall_ms, cover) {
                    due.push(key.into());
                } else {
                    held += meta.tombstones();
                }
            }
            // Taken one by one: what is left of a key may be a plain entry, or nothing.
            for key in due {
                let (expired, left) = self.update(&key, |meta| {
                    let expired = meta.collect(stable, wall_ms, cover);
                    (expired, meta.tombstones() - u64::from(*meta == KeyMeta::default()))
                });
                if expired {
                    self.expired = self.expired.max(Hlc::from_millis(stable.millis()));
                }
                dropped += 1;
                held += left;
            }
        }
        if dropped > 0 {
            self.collected = self.collected.max(stable);
        }
        (dropped, held)
    }

    /// Up to where tombstones may have been forgotten: the gc cover, as a clock.
    pub fn collected(&self) -> Hlc {
        self.collected
    }

    /// Puts that back.
    pub(crate) fn restore_collected(&mut self, collected: Hlc) {
        self.collected = collected;
    }

    /// Up to where keys that expired were forgotten.
    pub fn expired(&self) -> Hlc {
        self.expired
    }

    /// Puts that back.
    pub(crate) fn restore_expired(&mut self, expired: Hlc) {
        self.expired = expired;
    }

    /// The secret of the hash.
    pub(crate) fn hash_key(&self) -> (u64, u64) {
        self.hash_key
    }

    /// All that one slot holds: plain entries as (id low, id high, stamp), and named ones.
    #[allow(clippy::type_complexity)] // two iterators that borrow the slot; named types would hide that
    pub(crate) fn slot_contents(
        &self,
        slot: u16,
    ) -> (Stamp, impl Iterator<Item = (u64, u16, Stamp)>, impl Iterator<Item = (&[u8], &KeyMeta)>) {
        let slot = &self.slots[usize::from(slot)];
        let plain = slot.plain.iter().map(|p| (p.id().low, p.id().high, self.stamp_of(p)));
        (slot.floor, plain, slot.all_named())
    }

    /// Puts back what [`Table::slot_contents`] gave. `false`: too many origins.
    pub(crate) fn restore_plain(&mut self, slot: u16, low: u64, high: u16, stamp: Stamp) -> bool {
        let at = usize::from(slot % SLOTS);
        let done = self.insert_plain(at, KeyId { low, high }, stamp);
        if done && !mutation!(DigestNotLoaded) {
            self.digests.change(at, Share::default(), Share::of_string(stamp));
        }
        done
    }

    /// Puts back a named entry.
    pub(crate) fn restore_rich(&mut self, key: &[u8], mut meta: KeyMeta) {
        let at = usize::from(slot_of(key));
        meta.sum = meta.sum_of_cells(key);
        if !mutation!(DigestNotLoaded) {
            self.digests.change(at, Share::default(), Share::of(&meta));
        }
        self.insert_rich(at, key, meta);
    }

    /// Puts back a slot's floor.
    pub(crate) fn restore_floor(&mut self, slot: u16, floor: Stamp) {
        self.slots[usize::from(slot % SLOTS)].floor = floor;
    }

    /// Every key with full metadata.
    pub fn rich_entries(&self) -> impl Iterator<Item = (&[u8], &KeyMeta)> {
        self.slots.iter().flat_map(Slot::all_named)
    }

    /// The slot's digest ([`crate::digest`]), if only what expires after `beyond_ms` counts. Looks at all keys with metadata of
    /// the slot if one of them expires, and at no cell.
    pub fn digest(&self, slot: u16, beyond_ms: u64) -> u64 {
        let (steady, expiring) = self.digests.of(usize::from(slot));
        if !expiring {
            return steady;
        }
        let named = self.slots[usize::from(slot)].all_named().filter(|(_, meta)| meta.ttl.at_ms().is_some());
        named.fold(steady, |sum, (key, meta)| sum.wrapping_add(meta.digest(key, beyond_ms)))
    }

    /// What [`Table::digest`] must be, from all cells. For tests.
    pub fn recount(&self, slot: u16, beyond_ms: u64) -> u64 {
        let slot = &self.slots[usize::from(slot)];
        let plain = slot.plain.iter().map(|p| digest::string(self.stamp_of(p)));
        let named = slot.all_named().map(|(key, meta)| meta.recount(key, beyond_ms));
        plain.chain(named).fold(0, u64::wrapping_add)
    }
}
