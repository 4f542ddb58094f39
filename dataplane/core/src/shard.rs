//! The state of one shard beside its values: identity, clock, cover, positions, outbox, metadata; and the steps that
//! change it. A master takes a step and hands its log entry to replicas and AOF, which apply the same step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::amount::{Amount, Decimal};
use crate::cover::{Cover, SeqSet, TooManyGaps};
use crate::effect::{Change, Effect, Kind, Op, Value};
use crate::joining::Joining;
use crate::keyspace::Keyspace;
use crate::merge::{self, Outcome, merge_key};
use crate::meta::KeyMeta;
use crate::outbox::Outbox;
use crate::record::{Body, Heartbeat, Record};
use crate::slot::SLOTS;
use crate::stability::{self, Stability, Told};
use crate::stamp::{Clock, Hlc, Incarnation, Origin, RegionId, ShardId, Stamp};
use crate::table::Table;
use crate::transfer::{Chunk, Transfer};
use crate::wire::{self, Reader, WireError, Writer};

/// A renewal carries the key's values up to this size, bytes; beyond it, a receiver that lost them to expiry fetches them.
pub const RENEWAL_BYTES_MAX: usize = 16 << 10;

/// Where reading goes on in a region's stream: after this offset, where this record was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Offset of the last record merged.
    pub offset: u64,
    /// Its random id.
    pub record: u64,
}

/// What a store, region, shard and epoch an engine serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The store's id; empty until the first promotion.
    pub store: String,
    /// The region; 0 until the first promotion.
    pub region: RegionId,
    /// The shard.
    pub shard: ShardId,
    /// The highest epoch seen.
    pub epoch: u64,
    /// The live incarnation; none until the first promotion.
    pub incarnation: Incarnation,
    /// The incarnation before it.
    pub previous: Incarnation,
}

impl Identity {
    /// Who numbers this shard's own effects.
    pub fn origin(&self) -> Origin {
        Origin { region: self.region, incarnation: self.incarnation }
    }
}

/// Counters since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Effects merged from elsewhere.
    pub merged: u64,
    /// Effects that the cover refused.
    pub duplicates: u64,
    /// Operations that a later stamp had overruled.
    pub overruled: u64,
    /// Effects merged although their clock was further ahead than the tolerated skew.
    pub skewed: u64,
    /// Values that expired before their renewal arrived, and that the renewal did not carry.
    pub missing: u64,
    /// Tombstones forgotten.
    pub collected: u64,
    /// Effects of sealed incarnations that were ignored.
    pub late: u64,
    /// Pieces of state taken over from other regions.
    pub adopted: u64,
    /// Pieces of state refused: they could have brought back what was deleted.
    pub refused: u64,
    /// Operations that a repair brought and that took effect.
    pub reshipped: u64,
}

/// Why nothing was merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The stored position is another one.
    #[error("the stored position is {0:?}")]
    Position(Option<Position>),
    /// A record is damaged or newer than this version.
    #[error("record {index} cannot be decoded: {why}")]
    Decode {
        /// Which of the records given.
        index: usize,
        /// Why.
        why: WireError,
    },
    /// A clock is beyond the hard limit.
    #[error("a clock is {ahead_ms} ms ahead of this one: held back")]
    Held {
        /// By how much, in milliseconds.
        ahead_ms: u64,
    },
    /// Too many gaps in the cover of one origin.
    #[error(transparent)]
    Gaps(#[from] TooManyGaps),
}

/// What one merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Effects merged.
    pub merged: u64,
    /// Effects that the cover refused.
    pub duplicates: u64,
    /// Operations overruled.
    pub overruled: u64,
    /// Pieces of state taken over.
    pub adopted: u64,
    /// Pieces of state refused.
    pub refused: u64,
    /// For replicas and AOF.
    pub entry: Bytes,
}

/// Bounds on clocks of others, milliseconds ahead of this wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkewLimits {
    /// Beyond it an effect is merged, counted and alarmed.
    pub tolerated_ms: u64,
    /// Beyond it an effect is held back.
    pub hard_ms: u64,
}

/// A counter cell before a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counting {
    /// This origin's live total: when it was started, and how much it is.
    pub total: Option<(Stamp, Amount)>,
}

pub(crate) mod entry {
    pub(super) const PROMOTED: u8 = 1;
    pub(super) const LOCAL: u8 = 2;
    pub(super) const MERGED: u8 = 3;
    pub(super) const TRIMMED: u8 = 4;
    pub(crate) const MEMBERS: u8 = 5;
    pub(crate) const COLLECTED: u8 = 6;
    pub(crate) const JOINING: u8 = 7;
    pub(crate) const JOINED: u8 = 8;
    pub(crate) const MEMBERSHIP: u8 = 9;
    pub(crate) const RESHIPPED: u8 = 10;
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    pub(crate) identity: Identity,
    pub(crate) seq: u64,
    pub(crate) clock: Clock,
    pub(crate) cover: Cover,
    pub(crate) positions: BTreeMap<RegionId, Position>,
    pub(crate) outbox: Outbox,
    pub(crate) table: Table,
    pub(crate) stability: Stability,
    /// State that is being fetched from another region.
    pub(crate) transfer: Option<Transfer>,
    /// While it joins: what it brought.
    pub(crate) joining: Option<Joining>,
    /// Counters since the process started.
    pub stats: Stats,
}

impl Shard {
    /// A shard without data or identity. `hash_key`: 128 random bits.
    pub fn new(hash_key: (u64, u64)) -> Self {
        Self {
            identity: Identity::default(),
            seq: 0,
            clock: Clock::default(),
            cover: Cover::default(),
            positions: BTreeMap::new(),
            outbox: Outbox::default(),
            table: Table::new(hash_key),
            stability: Stability::default(),
            transfer: None,
            joining: None,
            stats: Stats::default(),
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last number that the live incarnation issued.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The clock.
    pub fn clock(&self) -> Hlc {
        self.clock.latest()
    }

    /// The outbox.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Takes what a proxy sweeps; see [`Outbox::sweep`]. Claims are volatile.
    pub fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The metadata.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Where reading goes on, by region.
    pub fn positions(&self) -> &BTreeMap<RegionId, Position> {
        &self.positions
    }

    /// What has been applied, its own effects included.
    pub fn cover(&self) -> Cover {
        let mut cover = self.cover.clone();
        cover.set(self.identity.origin(), SeqSet::up_to(self.seq));
        cover
    }

    fn covers(&self, origin: Origin, seq: u64) -> bool {
        if origin == self.identity.origin() { seq <= self.seq } else { self.cover.contains(origin, seq) }
    }

    /// Whether it never had data or identity.
    pub fn is_blank(&self) -> bool {
        self.identity.incarnation == Incarnation::NONE && self.table.is_empty() && self.cover.is_empty()
    }

    // ---- promotion ----

    /// Begins a new incarnation under `epoch`. The caller has checked that the epoch is above the one seen, and draws the
    /// incarnation from a random source. Returns the log entry.
    pub fn promote(&mut self, to: Identity, wall_ms: u64) -> Bytes {
        let mut w = Writer::with_capacity(64);
        w.u8(entry::PROMOTED);
        w.bytes(to.store.as_bytes());
        w.u16(to.region.0);
        w.u16(to.shard.0);
        w.u64(to.epoch);
        w.u64(to.incarnation.0);
        w.u64(wall_ms);
        self.begin_incarnation(to, wall_ms);
        w.finish()
    }

    fn begin_incarnation(&mut self, to: Identity, wall_ms: u64) {
        let old = self.identity.origin();
        if mutation!(KeptIncarnation) && old.incarnation != Incarnation::NONE {
            self.identity.epoch = to.epoch;
            return;
        }
        if mutation!(OldOutboxDropped) {
            self.outbox = Outbox::default();
        }
        if old.incarnation != Incarnation::NONE && !mutation!(OldOriginForgotten) {
            // What this copy lacks of the old incarnation was issued later than all that it has.
            let told = Told { clock: self.clock(), issued: self.seq, stable: self.merged_through().hlc };
            self.cover.set(old, SeqSet::up_to(self.seq));
            self.stability.ended(old, told);
        }
        self.identity = Identity { previous: old.incarnation, ..to };
        self.seq = 0;
        self.clock.observe(Hlc::from_millis(wall_ms));
    }

    /// Moves the clock forward to a reading seen elsewhere.
    pub fn observe(&mut self, seen: Hlc) {
        if mutation!(SeenClockIgnored) {
            return;
        }
        self.clock.observe(seen);
    }

    // ---- local writes: tick, open, (execute natively), commit ----

    /// The next reading of the clock.
    pub fn tick(&mut self, wall_ms: u64) -> Hlc {
        self.clock.tick(wall_ms)
    }

    /// A stamp of this origin.
    pub fn stamp(&self, hlc: Hlc) -> Stamp {
        Stamp::new(hlc, self.identity.origin())
    }

    /// Must be called for each key before a command writes to it, unless it only sets the whole string and clears the
    /// time-to-live. Where the operation returned is some, it must be the first of the key's change, also if the command then
    /// changes nothing:
    /// * the key has expired by the stamp clock: the old life ends here; what is older goes from view (what somebody
    ///   wrote later without knowing of that time-to-live comes back);
    /// * the key is not there (its last element was removed) but has a time-to-live: Redis' new key will have none.
    pub fn open_key(&mut self, key: &[u8], now: Hlc, ks: &mut dyn Keyspace) -> Option<Op> {
        let stamp = self.stamp(now);
        let (life, register, at) = self.table.read(key, |meta| {
            let current = meta.ttl.current()?;
            Some((current.id, current.register, current.at_ms?))
        })?;
        let op = if at <= now.millis() {
            Op::Kill { life, register, until_ms: at, at: now }
        } else if ks.exists(key) {
            return None;
        } else {
            Op::Expire { stamp, life, at_ms: None }
        };
        let outcome = self.table.update(key, |meta| merge_key(meta, key, std::slice::from_ref(&op), ks));
        self.stats.missing += outcome.missing;
        Some(op)
    }

    /// The operation that sets a time-to-live, or takes it away, with the values that a renewal carries.
    pub fn expire_ops(
        &mut self,
        key: &[u8],
        stamp: Stamp,
        at_ms: Option<u64>,
        ks: &mut dyn Keyspace,
    ) -> Vec<Op> {
        self.table.read(key, |meta| {
            let current = meta.ttl.current();
            let life = current.map_or(stamp, |l| l.id);
            let mut ops = vec![Op::Expire { stamp, life, at_ms }];
            if current.is_some_and(|l| l.at_ms.is_some()) && !mutation!(RenewalWithoutValue) {
                ops.extend(merge::state_ops(meta, key, RENEWAL_BYTES_MAX, ks).into_iter().flatten());
            }
            ops
        })
    }

    /// Prepares a cell for counting, before the command runs: the number shown now becomes the counter's base.
    pub fn prepare_count(&mut self, key: &[u8], kind: Kind, name: &[u8], ks: &mut dyn Keyspace) -> Counting {
        let origin = self.identity.origin();
        self.table.update(key, |meta| {
            if meta.cells.kind().is_some_and(|k| k != kind) {
                return Counting { total: None };
            }
            let death = meta.death();
            if meta.cells.get(name).is_some() {
                merge::start_counting(meta, key, kind, name, ks);
            }
            let cell = meta.cells.get(name);
            let total = cell.and_then(|c| c.total_of(origin, death)).map(|t| (t.started, t.amount));
            Counting { total }
        })
    }

    /// Takes back [`Shard::prepare_count`], when the command then changed nothing: replicas never hear of it.
    pub fn abandon_count(&mut self, key: &[u8], name: &[u8]) {
        self.table.update(key, |meta| meta.drop_idle_counter(name));
    }

    /// The operation that adds `delta` to this origin's total. `None` when the total would leave its range.
    pub fn count_op(&self, at: Counting, kind: Kind, name: Bytes, delta: Amount, now: Hlc) -> Option<Op> {
        let (started, amount) = match (at.total, delta) {
            (None, _) => (self.stamp(now), delta),
            (Some((started, Amount::Decimal(a))), Amount::Decimal(b)) => {
                (started, Amount::Decimal(Decimal::checked_add(a, b)?))
            }
            (Some((started, a)), b) => (started, a.plus(b)),
        };
        Some(Op::Count { kind, name, started, latest: now, amount })
    }

    /// What a counted cell shows now: the exact number, to be compared with what Redis made of it.
    pub fn counted_value(&self, key: &[u8], name: &[u8]) -> Option<Amount> {
        self.table.read(key, |meta| meta.cells.get(name)?.sum(meta.death()))
    }

    /// Commits what a command changed (it has run natively): numbers it, updates the metadata, appends to the outbox.
    /// Returns the encoded effect; its log entry is [`local_entry`] of it.
    pub fn commit(&mut self, hlc: Hlc, changes: Vec<Change>, wall_ms: u64, ks: &mut dyn Keyspace) -> Bytes {
        self.seq += 1;
        let origin = self.identity.origin();
        let mut effect = Effect { seq: self.seq, hlc, changes };
        self.end_forgotten_lives(&mut effect.changes);
        let mut silent = Silent(ks);
        for change in &effect.changes {
            self.merge_change(change, &mut silent);
        }
        let bytes = wire::encode_effect(&effect, origin);
        self.outbox.push(origin.incarnation, self.seq, bytes.clone(), wall_ms);
        bytes
    }

    /// The same for `SET key value`, as an effect that is appended to `out`, with fewer detours: nearly all writes of most
    /// stores come through here.
    pub fn commit_plain_set(
        &mut self,
        hlc: Hlc,
        key: &[u8],
        value: &[u8],
        wall_ms: u64,
        ks: &mut dyn Keyspace,
        out: &mut Vec<u8>,
    ) {
        self.seq += 1;
        let stamp = self.stamp(hlc);
        if !self.table.set_plain(key, stamp) {
            let value = Some(Value::Bytes(Bytes::copy_from_slice(value)));
            let put = Op::Put { kind: Kind::Str, name: Bytes::new(), stamp, value, keep_ttl: false };
            self.table.update(key, |meta| merge_key(meta, key, &[put], &mut Silent(ks)));
        }
        let from = out.len();
        wire::encode_plain_set(out, self.seq, hlc, key, value);
        let effect = Bytes::copy_from_slice(&out[from..]);
        self.outbox.push(self.identity.incarnation, self.seq, effect, wall_ms);
    }

    /// Of a key that expired nothing may be left here, while others still have its time-to-live: who writes to a key that is
    /// not known says that all before is over. (`SET` says so anyway.)
    fn end_forgotten_lives(&self, changes: &mut [Change]) {
        let expired = self.table.expired();
        if expired == Hlc::ZERO || mutation!(ForgottenLifeNotEnded) {
            return;
        }
        for change in changes {
            let Change::Key { key, ops } = change else { continue };
            let clears = matches!(ops.first(), Some(Op::Put { kind: Kind::Str, keep_ttl: false, .. }));
            if !clears && !self.table.read(key, KeyMeta::is_known) {
                ops.insert(0, Op::Floor(Stamp { hlc: expired, ..Stamp::ZERO }));
            }
        }
    }

    pub(crate) fn merge_change(&mut self, change: &Change, ks: &mut dyn Keyspace) -> Outcome {
        match change {
            Change::Key { key, ops } => {
                if let [Op::Put { kind: Kind::Str, stamp, value: Some(value), keep_ttl: false, .. }] =
                    &ops[..]
                    && self.table.set_plain(key, *stamp)
                {
                    ks.write(key, Kind::Str, b"", value);
                    return Outcome { applied: 1, ..Outcome::default() };
                }
                self.table.update(key, |meta| merge_key(meta, key, ops, ks))
            }
            Change::Slots { first, last, floor } => {
                // Also those that expired here: if the floor takes away that time-to-live, what is above it shows again.
                let mut keys = ks.keys_in_slots(*first, *last);
                keys.extend(self.table.with_ttl(*first, *last).map(<[u8]>::to_vec));
                let floor_op = [Op::Floor(*floor)];
                let mut outcome = Outcome { applied: 1, ..Outcome::default() };
                for key in keys {
                    outcome.missing +=
                        self.table.update(&key, |meta| merge_key(meta, &key, &floor_op, ks)).missing;
                }
                for slot in *first..=*last {
                    self.table.raise_slot_floor(slot, *floor);
                }
                outcome
            }
        }
    }

    // ---- merging ----

    /// Merges records of `region`'s stream and moves its position, if the stored one is `expected`. All or nothing.
    #[allow(clippy::too_many_arguments)] // one atomic step has many inputs; a struct would only rename them
    pub fn merge(
        &mut self,
        region: RegionId,
        expected: Option<Position>,
        to: Position,
        records: &[Bytes],
        wall_ms: u64,
        limits: SkewLimits,
        ks: &mut dyn Keyspace,
    ) -> Result<Merged, MergeError> {
        let stored = self.positions.get(&region).copied();
        if stored != expected && !mutation!(NoCompareAndSet) {
            return Err(MergeError::Position(stored));
        }
        let mut result = Merged::default();
        let mut fresh: Vec<(Origin, Bytes, Effect)> = Vec::new();
        let mut told: Vec<(Origin, Told)> = Vec::new();
        let mut pieces: Vec<(Origin, Bytes, Chunk)> = Vec::new();
        let mut sealed: Vec<Origin> = Vec::new();
        let mut seen = Cover::default();
        for (index, bytes) in records.iter().enumerate() {
            let decode = |why| MergeError::Decode { index, why };
            let record = Record::decode(bytes.clone()).map_err(decode)?;
            let effects = match record.body {
                Body::Effects(effects) => effects,
                Body::Heartbeat(beat) if record.origin != self.identity.origin() => {
                    let Heartbeat { clock, issued, stable, cover, .. } = beat;
                    told.push((record.origin, Told { clock, issued, stable }));
                    // What a copy that lost everything issued before is known from others only.
                    let unsealed = cover.iter().map(|(origin, _)| origin).filter(|o| !cover.is_sealed(*o));
                    let own =
                        unsealed.filter(|o| o.region == self.identity.region && *o != self.identity.origin());
                    told.extend(own.filter(|o| !self.stability.knows(*o)).map(|o| (o, Told::default())));
                    continue;
                }
                Body::Sealed(incarnation) => {
                    let origin = Origin { incarnation, ..record.origin };
                    if origin != self.identity.origin() && !self.cover.is_sealed(origin) {
                        sealed.push(origin);
                    }
                    continue;
                }
                Body::State(state) if state.is_whole() && state.to == self.identity.region => {
                    for bytes in state.chunks().map_err(decode)? {
                        let chunk = Chunk::decode(bytes.clone(), record.origin).map_err(decode)?;
                        let ahead_ms = chunk.hlc().millis().saturating_sub(wall_ms);
                        if ahead_ms > limits.hard_ms {
                            return Err(MergeError::Held { ahead_ms });
                        }
                        pieces.push((record.origin, bytes, chunk));
                    }
                    continue;
                }
                Body::Heartbeat(_) | Body::Part { .. } | Body::Nonce(_) | Body::Want(_) | Body::State(_) => {
                    continue;
                }
            };
            for bytes in effects {
                let (seq, hlc) = wire::peek_effect(&bytes).map_err(decode)?;
                let late = sealed.contains(&record.origin) || self.cover.is_sealed(record.origin);
                let known = self.covers(record.origin, seq) && !mutation!(MergeWithoutDedupe);
                self.stats.late += u64::from(late);
                if known || late || !seen.insert(record.origin, seq)? {
                    result.duplicates += 1;
                    continue;
                }
                let ahead_ms = hlc.millis().saturating_sub(wall_ms);
                if ahead_ms > limits.hard_ms && !mutation!(HardSkewMerged) {
                    if mutation!(PositionBeforeApply) {
                        self.positions.insert(region, to);
                    }
                    return Err(MergeError::Held { ahead_ms });
                }
                self.stats.skewed += u64::from(ahead_ms > limits.tolerated_ms);
                let effect = wire::decode_effect(&bytes, record.origin).map_err(decode)?;
                fresh.push((record.origin, bytes, effect));
            }
        }
        // Nothing may fail beyond this line, so the gaps are counted first.
        let mut covers: BTreeMap<Origin, SeqSet> = BTreeMap::new();
        for (origin, _, effect) in &fresh {
            let set =
                covers.entry(*origin).or_insert_with(|| self.cover.of(*origin).cloned().unwrap_or_default());
            set.insert(effect.seq)?;
        }
        let mut w = Writer::with_capacity(64 + fresh.iter().map(|(_, b, _)| b.len() + 20).sum::<usize>());
        w.u8(entry::MERGED);
        w.u16(region.0);
        w.u64(to.offset);
        w.u64(to.record);
        stability::write_all_told(&mut w, &told);
        let mut taken = Writer::default();
        for (origin, bytes, chunk) in pieces {
            if self.takes(origin, &chunk) {
                self.adopt(origin, chunk, ks);
                taken.origin(origin);
                taken.bytes(&bytes);
                result.adopted += 1;
            } else {
                result.refused += 1;
            }
        }
        w.bytes(&taken.finish());
        w.origins(sealed.iter().copied());
        for (origin, bytes, effect) in &fresh {
            w.origin(*origin);
            w.bytes(bytes);
            result.overruled += self.merge_effect(effect, ks);
        }
        let grown: Vec<Origin> = covers.keys().copied().collect();
        for (origin, set) in covers {
            if mutation!(CoverNotMerged) {
                break;
            }
            self.cover.set(origin, set);
        }
        self.learn(&grown, &told);
        self.seal(&sealed);
        self.settle_transfer();
        self.positions.insert(region, to);
        result.merged = fresh.len() as u64;
        self.stats.merged += result.merged;
        self.stats.duplicates += result.duplicates;
        self.stats.refused += result.refused;
        result.entry = w.finish();
        Ok(result)
    }

    /// Nothing more of these counts.
    pub(crate) fn seal(&mut self, origins: &[Origin]) {
        for origin in origins {
            self.cover.seal(*origin);
            self.stability.seal(*origin);
        }
    }

    /// Earlier incarnations of this region that are not sealed.
    pub fn ended(&self) -> BTreeSet<Incarnation> {
        let known = self.cover.iter().map(|(origin, _)| origin).chain(self.stability.origins());
        let own = self.identity.origin();
        let ended = known.filter(|o| o.region == own.region && *o != own && !self.cover.is_sealed(*o));
        ended.map(|origin| origin.incarnation).collect()
    }

    /// More of `grown` is here, and origins told of their progress.
    pub(crate) fn learn(&mut self, grown: &[Origin], told: &[(Origin, Told)]) {
        self.stability.grown(grown.iter().copied(), &self.cover);
        for (origin, told) in told {
            self.stability.hear(*origin, *told, &self.cover);
        }
    }

    /// Merges one effect; returns how many operations were overruled.
    pub(crate) fn merge_effect(&mut self, effect: &Effect, ks: &mut dyn Keyspace) -> u64 {
        if !mutation!(ClockNotMovedByMerge) {
            self.clock.observe(effect.hlc);
        }
        let mut outcome = Outcome::default();
        for change in &effect.changes {
            outcome.add(self.merge_change(change, ks));
        }
        self.stats.overruled += outcome.overruled;
        self.stats.missing += outcome.missing;
        outcome.overruled
    }

    /// Gives up outbox entries that were confirmed: ranges of an incarnation. Returns how many, and the log entry.
    pub fn trim(&mut self, incarnation: Incarnation, ranges: &[(u64, u64)]) -> (u64, Bytes) {
        let mut w = Writer::with_capacity(16 + ranges.len() * 8);
        w.u8(entry::TRIMMED);
        w.u64(incarnation.0);
        let mut released = 0;
        for (first, last) in ranges {
            w.varint(*first);
            w.varint(*last);
            released += self.outbox.trim(incarnation, *first, *last);
        }
        (released, w.finish())
    }

    // ---- replicas and AOF ----

    /// Applies a log entry of the master. `wall_ms` only dates outbox entries.
    pub fn apply(&mut self, entry: Bytes, wall_ms: u64, ks: &mut dyn Keyspace) -> Result<(), WireError> {
        let mut r = Reader::new(entry);
        match r.u8("log entry")? {
            entry::PROMOTED => {
                let store =
                    String::from_utf8(r.bytes("store")?.to_vec()).map_err(|_| WireError::Unknown("store"))?;
                let to = Identity {
                    store,
                    region: RegionId(r.u16("region")?),
                    shard: ShardId(r.u16("shard")?),
                    epoch: r.u64("epoch")?,
                    incarnation: Incarnation(r.u64("incarnation")?),
                    previous: Incarnation::NONE,
                };
                let at = r.u64("clock")?;
                self.begin_incarnation(to, at);
            }
            entry::LOCAL => {
                let bytes = r.rest();
                let origin = self.identity.origin();
                let effect = wire::decode_effect(&bytes, origin)?;
                self.merge_effect(&effect, ks);
                self.seq = self.seq.max(effect.seq);
                if !mutation!(ReplicaKeepsNoOutbox) {
                    self.outbox.push(origin.incarnation, effect.seq, bytes, wall_ms);
                }
            }
            entry::MERGED => {
                let region = RegionId(r.u16("region")?);
                let to = Position { offset: r.u64("position")?, record: r.u64("position")? };
                let told = stability::read_all_told(&mut r)?;
                let mut taken = Reader::new(r.bytes("state")?);
                while taken.remaining() > 0 {
                    let origin = taken.origin("state")?;
                    let chunk = Chunk::decode(taken.bytes("state")?, origin)?;
                    self.adopt(origin, chunk, ks);
                }
                let sealed = r.origins("sealed")?;
                let mut grown = Vec::new();
                while r.remaining() > 0 {
                    let origin = r.origin("origin")?;
                    let effect = wire::decode_effect(&r.bytes("effect")?, origin)?;
                    self.merge_effect(&effect, ks);
                    self.cover.insert(origin, effect.seq).map_err(|_| WireError::TooLarge("cover"))?;
                    self.stats.merged += 1;
                    if grown.last() != Some(&origin) {
                        grown.push(origin);
                    }
                }
                self.learn(&grown, &told);
                self.seal(&sealed);
                self.settle_transfer();
                if !mutation!(ReplicaKeepsNoPosition) {
                    self.positions.insert(region, to);
                }
            }
            entry::TRIMMED => {
                let incarnation = Incarnation(r.u64("incarnation")?);
                while r.remaining() > 0 {
                    let (first, last) = (r.varint("range")?, r.varint("range")?);
                    if !mutation!(ReplicaNeverTrims) {
                        self.outbox.trim(incarnation, first, last);
                    }
                }
            }
            entry::MEMBERS => self.stability.set_members(0, read_members(&mut r)?),
            entry::MEMBERSHIP => {
                let epoch = r.u64("membership")?;
                self.stability.set_members(epoch, read_members(&mut r)?);
            }
            entry::JOINING => self.apply_join(&mut r)?,
            entry::JOINED => self.joining = None,
            entry::COLLECTED => {
                let (first, end) = (r.u16("slot")?, r.u16("slot")?.min(SLOTS));
                let (stable, wall_ms) = (Hlc(r.u64("clock")?), r.u64("clock")?);
                self.stats.collected += self.table.collect(first, end, stable, wall_ms, &self.cover).0;
            }
            entry::RESHIPPED => self.apply_reshipped(r.rest(), ks)?,
            _ => return Err(WireError::Unknown("log entry")),
        }
        Ok(())
    }
}

fn read_members(r: &mut Reader) -> Result<BTreeSet<RegionId>, WireError> {
    let mut members = BTreeSet::new();
    while r.remaining() > 0 {
        members.insert(RegionId(r.u16("member")?));
    }
    Ok(members)
}

/// First byte of the log entry of a committed effect; the effect follows.
pub const LOCAL_ENTRY: u8 = entry::LOCAL;

/// The log entry of a committed effect.
pub fn local_entry(effect: &[u8]) -> Bytes {
    let mut w = Writer::with_capacity(effect.len() + 1);
    w.u8(entry::LOCAL);
    w.raw(effect);
    w.finish()
}

/// The native values are right already: the command has run.
struct Silent<'a>(&'a mut dyn Keyspace);

impl Keyspace for Silent<'_> {
    fn read(&mut self, key: &[u8], kind: Kind, name: &[u8]) -> Option<Value> {
        self.0.read(key, kind, name)
    }
    fn exists(&mut self, key: &[u8]) -> bool {
        self.0.exists(key)
    }
    fn write(&mut self, _: &[u8], _: Kind, _: &[u8], _: &Value) {}
    fn remove(&mut self, _: &[u8], _: Kind, _: &[u8]) {}
    fn delete(&mut self, _: &[u8]) {}
    fn set_expiry(&mut self, _: &[u8], _: Option<u64>) {}
    fn keys_in_slots(&mut self, _: u16, _: u16) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn scan(&mut self, _: &[u8], _: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        (Vec::new(), Vec::new())
    }
}
