//! Transfers of state: what one region lacks and no stream or outbox holds any more, taken from another one that has it.
//!
//! The region that lacks something publishes a [`Want`] in its own stream; the source answers with [`State`] in its own. So
//! state travels where effects do, and is merged by the same merge: a piece is operations with their own stamps.
//! The receiver asks for one piece after the other, so it sets the pace; the source keeps nothing between two pieces.
//!
//! Only what changed after `since` is sent: up to there the receiver has merged everything of everybody
//! ([`Shard::merged_through`]). The source's values come first (plain strings, which nothing but the keyspace knows by name), its
//! named metadata last: a string that gets metadata meanwhile is found by the one or the other.
//!
//! Rules that keep it from losing or resurrecting anything; each names what would go wrong without it:
//! * The receiver takes over the cover that the source had at the *start*, and only once it has, besides, all that the source
//!   had at the *end*: what was overwritten meanwhile was not sent, and what overwrote it comes through the streams.
//! * A transfer is over only when nothing is here in part any more, of those before it neither: one that is begun anew, maybe
//!   with another master or region, may not bring what pieces of the one before had. Until then state is shown that no cover names, and the
//!   link says that something is missing.
//! * A piece is merged only when a heartbeat of its source calls durable all that the source had when it made it
//!   ([`crate::replication::reader`]): what its master alone has may be lost with it, in the midst of a transfer, and would then be
//!   shown where it was fetched and nowhere else.
//! * All pieces come from one incarnation of the source: a cursor of the keyspace means nothing to another server, which has its
//!   keys in another order; and after more losses than a region survives its master may have less than the cover of the first piece.
//! * The source must have merged through all that the receiver has forgotten tombstones of (else a deleted value that only a
//!   source that was rolled back still has would return), and the receiver through all that the source has (else what the
//!   receiver still has would stay). Both are clocks, for tombstones are forgotten by clock.

use bytes::Bytes;

use crate::cover::{Cover, SeqSet};
use crate::effect::{Change, Effect, Kind, Op, Value};
use crate::keyspace::Keyspace;
use crate::merge::shown;
use crate::meta::{Cell, KeyMeta};
use crate::record::PART_BYTES;
use crate::shard::Shard;
use crate::slot::SLOTS;
use crate::stability::{Told, read_all_told, write_all_told};
use crate::stamp::{Hlc, Origin, RegionId, Stamp};
use crate::wire::{self, Reader, WireError, Writer};

/// Bounds of one piece: an engine does nothing else while it makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceBounds {
    /// Keys that it looks at.
    pub keys: usize,
    /// Its size in bytes, save for a single larger value.
    pub bytes: usize,
}

impl PieceBounds {
    /// What engines use.
    pub const DEFAULT: Self = Self { keys: 2000, bytes: 256 << 10 };
}

/// Bound of a piece of state in several parts, bytes: a single value may be as large as an effect.
pub const STATE_BYTES_MAX: usize = wire::EFFECT_BYTES_MAX + (8 << 20);
/// Keys with more cells than this are sent in pieces so many times larger: each piece costs a look at all cells.
const LARGE_CELLS: usize = 1 << 16;
const LARGE_FACTOR: usize = 16;

/// Where a transfer goes on at its source; everything before it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Values of plain strings, from this cursor of the keyspace on.
    Values(Bytes),
    /// Keys with metadata, in the order of slot and name; of this key only the cells after this name, if one is given.
    Named {
        /// The slot.
        slot: u16,
        /// The last key that was sent, wholly unless `cell` is given; empty before the slot's first.
        key: Bytes,
        /// The last cell that was sent of it.
        cell: Option<Bytes>,
    },
    /// Everything was sent.
    Done,
}

impl Cursor {
    /// Nothing was sent yet.
    pub const START: Self = Self::Values(Bytes::new());
    const NAMED: Self = Self::Named { slot: 0, key: Bytes::new(), cell: None };

    /// Writes it.
    pub fn write(&self, w: &mut Writer) {
        match self {
            Self::Values(at) => {
                w.u8(0);
                w.bytes(at);
            }
            Self::Named { slot, key, cell } => {
                w.u8(if cell.is_some() { 2 } else { 1 });
                w.u16(*slot);
                w.bytes(key);
                if let Some(cell) = cell {
                    w.bytes(cell);
                }
            }
            Self::Done => w.u8(3),
        }
    }

    /// Reads it.
    pub fn read(r: &mut Reader) -> Result<Self, WireError> {
        Ok(match r.u8("cursor")? {
            0 => Self::Values(r.bytes("cursor")?),
            tag @ (1 | 2) => {
                let (slot, key) = (r.u16("cursor")?, r.bytes("cursor")?);
                let cell = if tag == 2 { Some(r.bytes("cursor")?) } else { None };
                Self::Named { slot, key, cell }
            }
            3 => Self::Done,
            _ => return Err(WireError::Unknown("cursor")),
        })
    }
}

/// A region asks another one for state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The region that is asked.
    pub of: RegionId,
    /// Random; names the transfer.
    pub transfer: u64,
    /// What is newer is wanted.
    pub since: Hlc,
    /// Where to go on.
    pub cursor: Cursor,
}

/// Some state, or a part of it when it is too large for one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The region that asked.
    pub to: RegionId,
    /// Which part, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// Encoded [`Chunk`]s, each behind its length.
    pub bytes: Bytes,
}

impl State {
    /// Encoded pieces for `to`, as one state, in parts that a message can hold.
    pub fn parts(to: RegionId, chunks: &[Bytes]) -> Vec<Self> {
        let mut w = Writer::with_capacity(chunks.iter().map(|c| c.len() + 5).sum());
        for chunk in chunks {
            w.bytes(chunk);
        }
        let bytes = w.finish();
        let count = bytes.len().div_ceil(PART_BYTES).max(1) as u32;
        let part = |index: u32| {
            let from = index as usize * PART_BYTES;
            let bytes = bytes.slice(from..bytes.len().min(from + PART_BYTES));
            Self { to, index, count, bytes }
        };
        (0..count).map(part).collect()
    }

    /// Whether it is no mere part.
    pub fn is_whole(&self) -> bool {
        self.count == 1
    }

    /// Whether a source that has this for good, whatever happens to its master, still has all that is in it.
    pub(crate) fn is_durable(&self, durable: &Cover) -> bool {
        let covers = self.chunks().and_then(|chunks| chunks.into_iter().map(Chunk::peek_cover).collect());
        // What cannot be read is the engine's to refuse.
        covers.map_or(true, |covers: Vec<Cover>| covers.iter().all(|cover| durable.includes(cover)))
    }

    /// The chunks in it.
    pub fn chunks(&self) -> Result<Vec<Bytes>, WireError> {
        let mut r = Reader::new(self.bytes.clone());
        let mut chunks = Vec::new();
        while r.remaining() > 0 {
            chunks.push(r.bytes("state")?);
        }
        Ok(chunks)
    }
}

/// One piece of a transfer.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Which transfer.
    pub transfer: u64,
    /// What is newer is in it.
    pub since: Hlc,
    /// From here.
    pub from: Cursor,
    /// To here.
    pub next: Cursor,
    /// What the source has merged through.
    pub through: Hlc,
    /// Up to where the source has forgotten tombstones.
    pub collected: Hlc,
    /// What the source has.
    pub cover: Cover,
    /// What the source receives itself, and may have in part.
    pub partial: Cover,
    /// In the last piece: what the source knows of the progress of others.
    pub told: Vec<(Origin, Told)>,
    /// The source's clock, and the state.
    effect: Effect,
}

impl Chunk {
    /// The source's clock: at least every stamp in it.
    pub fn hlc(&self) -> Hlc {
        self.effect.hlc
    }

    fn encode(&self, origin: Origin) -> Bytes {
        let mut w = Writer::with_capacity(256);
        w.cover(&self.cover);
        w.cover(&self.partial);
        w.u64(self.transfer);
        w.u64(self.since.0);
        self.from.write(&mut w);
        self.next.write(&mut w);
        w.u64(self.through.0);
        w.u64(self.collected.0);
        write_all_told(&mut w, &self.told);
        w.raw(&wire::encode_effect(&self.effect, origin));
        w.finish()
    }

    fn peek_cover(bytes: Bytes) -> Result<Cover, WireError> {
        Reader::new(bytes).cover()
    }

    /// Decodes a piece that a source with this origin sent.
    pub fn decode(bytes: Bytes, origin: Origin) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let (cover, partial) = (r.cover()?, r.cover()?);
        let (transfer, since) = (r.u64("state")?, Hlc(r.u64("state")?));
        let (from, next) = (Cursor::read(&mut r)?, Cursor::read(&mut r)?);
        let (through, collected) = (Hlc(r.u64("state")?), Hlc(r.u64("state")?));
        let told = read_all_told(&mut r)?;
        let effect = wire::decode_effect(&r.rest(), origin)?;
        Ok(Self { transfer, since, from, next, through, collected, cover, partial, told, effect })
    }
}

/// A transfer under way, at its receiver. Saved and replicated with the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Its name.
    pub id: u64,
    /// Who sends.
    pub source: Origin,
    /// What is newer is sent.
    pub since: Hlc,
    /// Where it goes on.
    pub next: Cursor,
    start: Cover,
    /// What the source had at the last piece.
    end: Cover,
    /// What may be here in part besides: of transfers that this one follows, and what the source itself had in part.
    left: Cover,
    told: Vec<(Origin, Told)>,
}

impl Transfer {
    /// What may be here in part.
    fn partial(&self) -> Cover {
        let mut partial = self.left.clone();
        partial.join(&self.end);
        partial
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.id);
        w.origin(self.source);
        w.u64(self.since.0);
        self.next.write(w);
        w.cover(&self.start);
        w.cover(&self.end);
        w.cover(&self.left);
        write_all_told(w, &self.told);
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Option<Self>, WireError> {
        let id = r.u64("transfer")?;
        if id == 0 {
            return Ok(None);
        }
        let source = r.origin("transfer")?;
        let since = Hlc(r.u64("transfer")?);
        let next = Cursor::read(r)?;
        let (start, end, left) = (r.cover()?, r.cover()?, r.cover()?);
        let told = read_all_told(r)?;
        Ok(Some(Self { id, source, since, next, start, end, left, told }))
    }
}

/// How far a transfer is, for whoever asks for the next piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its name.
    pub id: u64,
    /// Who sends.
    pub source: RegionId,
    /// What is newer is sent.
    pub since: Hlc,
    /// Where it goes on.
    pub next: Cursor,
}

impl Progress {
    /// Encodes it.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(64);
        w.u64(self.id);
        w.u16(self.source.0);
        w.u64(self.since.0);
        self.next.write(&mut w);
        w.finish()
    }

    /// Decodes it.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let (id, source, since) = (r.u64("progress")?, RegionId(r.u16("progress")?), Hlc(r.u64("progress")?));
        let next = Cursor::read(&mut r)?;
        r.end("progress")?;
        Ok(Self { id, source, since, next })
    }
}

impl Shard {
    /// The transfer that this copy receives.
    pub fn transfer(&self) -> Option<Progress> {
        self.transfer.as_ref().map(|t| Progress {
            id: t.id,
            source: t.source.region,
            since: t.since,
            next: t.next.clone(),
        })
    }

    // ---- source ----

    /// The next piece of state for who asked: encoded, and where the one after it begins.
    pub fn export(&self, want: &Want, bounds: PieceBounds, ks: &mut dyn Keyspace) -> (Cursor, Bytes) {
        let mut changes = Vec::new();
        let next = match &want.cursor {
            Cursor::Values(at) => self.export_values(at, want.since, bounds, &mut changes, ks),
            Cursor::Named { slot, key, cell } => {
                let from = (*slot, &key[..], cell.as_deref());
                self.export_named(from, want.since, bounds, &mut changes, ks)
            }
            Cursor::Done => Cursor::Done,
        };
        let last = next == Cursor::Done;
        let chunk = Chunk {
            transfer: want.transfer,
            since: want.since,
            from: want.cursor.clone(),
            next: next.clone(),
            through: self.merged_through().hlc,
            collected: self.table.collected(),
            cover: self.cover(),
            partial: self.transfer.as_ref().map(Transfer::partial).unwrap_or_default(),
            told: if last { self.stability.all_told().collect() } else { Vec::new() },
            effect: Effect { seq: 1, hlc: self.clock(), changes },
        };
        (next, chunk.encode(self.identity.origin()))
    }

    fn export_values(
        &self,
        at: &[u8],
        since: Hlc,
        bounds: PieceBounds,
        out: &mut Vec<Change>,
        ks: &mut dyn Keyspace,
    ) -> Cursor {
        let (next, keys) = ks.scan(at, bounds.keys);
        for key in keys {
            let Some(stamp) = self.table.read(&key, KeyMeta::as_plain).filter(|s| s.hlc > since) else {
                continue;
            };
            let value = Some(ks.read(&key, Kind::Str, b"").unwrap_or(Value::Gone));
            let put = Op::Put { kind: Kind::Str, name: Bytes::new(), stamp, value, keep_ttl: false };
            out.push(Change::Key { key: key.into(), ops: vec![put] });
        }
        if next.is_empty() { Cursor::NAMED } else { Cursor::Values(next.into()) }
    }

    fn export_named(
        &self,
        (first, after, mut cell): (u16, &[u8], Option<&[u8]>),
        since: Hlc,
        bounds: PieceBounds,
        out: &mut Vec<Change>,
        ks: &mut dyn Keyspace,
    ) -> Cursor {
        if first == 0 && after.is_empty() && cell.is_none() {
            self.export_floors(since, out);
        }
        let (mut bytes, mut seen) = (0, 0);
        for slot in first..SLOTS {
            let after = if slot == first { after } else { b"" };
            let mut keys: Vec<(&[u8], &KeyMeta)> = self
                .table
                .slot_contents(slot)
                .2
                .filter(|(key, _)| slot != first || *key > after || (*key == after && cell.is_some()))
                .collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            seen += keys.len();
            for (key, meta) in keys {
                let (mut ops, size, last) =
                    key_state(meta, key, cell.take(), since, bounds.bytes - bytes, ks);
                bytes += size;
                if mutation!(TransferWithoutTombstones) {
                    ops.retain(|op| !matches!(op, Op::ValuesFloor(_) | Op::Put { value: None, .. }));
                }
                if !ops.is_empty() {
                    out.push(Change::Key { key: Bytes::copy_from_slice(key), ops });
                }
                if bytes >= bounds.bytes || last.is_some() {
                    return Cursor::Named { slot, key: Bytes::copy_from_slice(key), cell: last };
                }
            }
            cell = None;
            if seen >= bounds.keys && slot + 1 < SLOTS {
                return Cursor::Named { slot: slot + 1, key: Bytes::new(), cell: None };
            }
        }
        Cursor::Done
    }

    fn export_floors(&self, since: Hlc, out: &mut Vec<Change>) {
        let mut run: Option<(u16, u16, Stamp)> = None;
        for slot in 0..SLOTS {
            let floor = self.table.slot_floor(slot);
            match &mut run {
                Some((_, last, of)) if *of == floor => *last = slot,
                _ => {
                    if let Some((first, last, floor)) = run.take() {
                        out.push(Change::Slots { first, last, floor });
                    }
                    run = (floor.hlc > since).then_some((slot, slot, floor));
                }
            }
        }
        if let Some((first, last, floor)) = run {
            out.push(Change::Slots { first, last, floor });
        }
    }

    // ---- receiver ----

    /// Whether a piece may be taken over; see the module's rules.
    pub(crate) fn takes(&self, source: Origin, chunk: &Chunk) -> bool {
        let own = self.merged_through().hlc;
        let fits = match &self.transfer {
            _ if chunk.from == Cursor::START => true,
            Some(t) => {
                t.id == chunk.transfer
                    && (t.source == source || mutation!(TransferFromAnyMaster))
                    && t.next == chunk.from
                    && t.since == chunk.since
            }
            None => false,
        };
        let deleted = chunk.through < self.table.collected() || own < chunk.collected;
        fits && source.region != self.identity.region
            && chunk.since <= own
            && (!deleted || mutation!(TransferIgnoresGcCover))
    }

    pub(crate) fn adopt(&mut self, source: Origin, chunk: Chunk, ks: &mut dyn Keyspace) {
        let Chunk { transfer: id, since, from, next, cover, partial, told, effect, .. } = chunk;
        self.stats.adopted += 1;
        self.merge_effect(&effect, ks);
        if from == Cursor::START {
            let left = self.transfer.as_ref().map(Transfer::partial).unwrap_or_default();
            let (start, end, next, told) = (cover.clone(), Cover::default(), next.clone(), Vec::new());
            self.transfer = Some(Transfer { id, source, since, next, start, end, left, told });
        }
        let Some(transfer) = &mut self.transfer else { return };
        transfer.end = cover;
        transfer.left.join(&partial);
        transfer.next = next;
        transfer.told = told;
    }

    /// Takes over what the source had at the start, once everything is here that it had at the end. The transfer is over when
    /// nothing is here in part any more.
    pub(crate) fn settle_transfer(&mut self) {
        let Some(mut transfer) = self.transfer.take() else { return };
        self.take_over(&mut transfer);
        let mine = self.cover();
        if !mine.includes(&transfer.end) || !mine.includes(&transfer.left) {
            self.transfer = Some(transfer);
        }
    }

    fn take_over(&mut self, transfer: &mut Transfer) {
        let own = self.identity.origin();
        let mine = self.cover();
        let joined = |origin: Origin| {
            let mut set = mine.of(origin).cloned().unwrap_or_default();
            for (first, last) in transfer.start.of(origin).into_iter().flat_map(SeqSet::runs) {
                set.insert_run(first, last).ok()?;
            }
            Some(set)
        };
        let has = |(origin, set): (Origin, &SeqSet)| joined(origin).is_some_and(|mine| mine.includes(set));
        let level = transfer.end.iter().all(has) || mutation!(TransferSettlesEarly);
        if transfer.next != Cursor::Done || !level {
            return;
        }
        let mut grown = Vec::new();
        for (origin, _) in transfer.start.iter().filter(|(origin, _)| *origin != own) {
            if let Some(set) = joined(origin) {
                self.cover.set(origin, set);
                grown.push(origin);
            }
        }
        let told = transfer.told.iter().copied();
        let told: Vec<(Origin, Told)> = told
            .filter(|(origin, _)| *origin != own && self.stability.members().contains(&origin.region))
            .collect();
        self.learn(&grown, &told);
        let sealed: Vec<Origin> = transfer.start.sealed().filter(|origin| *origin != own).collect();
        self.seal(&sealed);
        (transfer.start, transfer.end) = (Cover::default(), Cover::default());
    }
}

/// What changed in a key after `since`, of its cells only those named after `after`, up to some `room` bytes: the
/// operations, their size, and the last name if there is more.
pub(crate) fn key_state(
    meta: &KeyMeta,
    key: &[u8],
    after: Option<&[u8]>,
    since: Hlc,
    room: usize,
    ks: &mut dyn Keyspace,
) -> (Vec<Op>, usize, Option<Bytes>) {
    let mut ops = Vec::new();
    if after.is_none() {
        head_state(meta, since, &mut ops);
    }
    let mut size = key.len() + ops.len() * 24;
    let Some(kind) = meta.cells.kind() else { return (ops, size, None) };
    let changed = |cell: &Cell| {
        let totals = cell.counter.iter().flat_map(|c| c.totals.iter());
        cell.base.hlc > since || totals.map(|t| t.latest).any(|latest| latest > since)
    };
    let mut cells: Vec<(&[u8], &Cell)> = meta
        .cells
        .iter()
        .filter(|(name, cell)| after.is_none_or(|after| *name > after) && changed(cell))
        .collect();
    cells.sort_unstable_by_key(|(name, _)| *name);
    let room = if cells.len() > LARGE_CELLS { room * LARGE_FACTOR } else { room };
    let death = meta.death();
    let count = cells.len();
    for (at, (name, cell)) in cells.into_iter().enumerate() {
        size += cell_state(cell, key, kind, name, since, death, ks, &mut ops);
        if size >= room && at + 1 < count {
            return (ops, size, Some(Bytes::copy_from_slice(name)));
        }
    }
    (ops, size, None)
}

/// Floor and times to live.
pub(crate) fn head_state(meta: &KeyMeta, since: Hlc, ops: &mut Vec<Op>) {
    if meta.floor.hlc > since {
        ops.push(Op::ValuesFloor(meta.floor));
    }
    if meta.ttl.clear.hlc > since {
        ops.push(Op::ClearTtl(meta.ttl.clear));
    }
    for life in &meta.ttl.lives {
        if life.register.hlc > since {
            ops.push(Op::Expire { stamp: life.register, life: life.id, at_ms: life.at_ms });
        }
        if let Some(kill) = life.kill.filter(|kill| kill.at > since || kill.register.hlc > since) {
            let (register, until_ms, at) = (kill.register, kill.until_ms, kill.at);
            ops.push(Op::Kill { life: life.id, register, until_ms, at });
        }
    }
}

/// A cell: its latest put, and its totals. Returns its size.
#[allow(clippy::too_many_arguments)] // a cell, where it is, and what of it is wanted
pub(crate) fn cell_state(
    cell: &Cell,
    key: &[u8],
    kind: Kind,
    name: &[u8],
    since: Hlc,
    death: Stamp,
    ks: &mut dyn Keyspace,
    ops: &mut Vec<Op>,
) -> usize {
    let name = Bytes::copy_from_slice(name);
    let mut size = 0;
    if cell.base.hlc > since {
        let value = cell.present.then(|| put_value(cell, key, kind, &name, death, ks));
        size += name.len() + 24 + if let Some(Value::Bytes(bytes)) = &value { bytes.len() } else { 8 };
        ops.push(Op::Put { kind, name: name.clone(), stamp: cell.base, value, keep_ttl: true });
    }
    for total in cell.counter.iter().flat_map(|c| &c.totals).filter(|t| t.latest > since) {
        size += name.len() + 48;
        let (started, latest, amount) = (total.started, total.latest, total.amount);
        ops.push(Op::Count { kind, name: name.clone(), started, latest, amount });
    }
    size
}

/// What was put into a cell, as far as it is still known.
fn put_value(cell: &Cell, key: &[u8], kind: Kind, name: &[u8], death: Stamp, ks: &mut dyn Keyspace) -> Value {
    match &cell.counter {
        _ if kind == Kind::Set => Value::Member,
        Some(counter) if counter.base_gone => Value::Gone,
        // Beside totals only the number below them counts; what is no number counts as nothing.
        Some(counter) if counter.base.is_some() || cell.counted(death) => {
            counter.base.map_or(Value::Bytes(Bytes::new()), shown)
        }
        Some(_) | None if cell.is_live(death) => ks.read(key, kind, name).unwrap_or(Value::Gone),
        Some(_) | None => Value::Gone,
    }
}
