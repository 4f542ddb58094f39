//! A shard's whole state as chunks of bytes, for RDB files and full syncs, and back. Values are not in it: they are
//! native keys. Statistics and claims are not either: they belong to a process.
//!
//! Each chunk says what it holds and stands for itself; the first is the head, which names the version. Chunks are about
//! [`CHUNK_BYTES`] large, save for those of a single large item.

use bytes::Bytes;
use hashbrown::HashMap;

use crate::effect::Kind;
use crate::joining::Joining;
use crate::meta::{Cell, Cells, Counter, KeyMeta, Kill, Life, Total, Ttl};
use crate::shard::{Identity, Position, Shard};
use crate::slot::SLOTS;
use crate::stability::Stability;
use crate::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId, Stamp};
use crate::table::Table;
use crate::transfer::Transfer;
use crate::wire::{Reader, WireError, Writer};

/// Version of the format. The one before, which knew of no joining and no epochs of membership, is read too; others are refused.
const VERSION: u8 = 2;
/// A chunk is closed at this size, bytes.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Most cells of a key in one item.
const CELLS_MAX: usize = 4096;

mod tag {
    pub(super) const HEAD: u8 = 0;
    pub(super) const COVER: u8 = 1;
    pub(super) const OUTBOX: u8 = 2;
    pub(super) const FLOORS: u8 = 3;
    pub(super) const PLAIN: u8 = 4;
    pub(super) const RICH: u8 = 5;

    /// A key begins, with its floor, time-to-live and rank.
    pub(super) const KEY: u8 = 0;
    /// More cells of the key before.
    pub(super) const CELLS: u8 = 1;
}

/// Collects items of one kind into chunks, each with a table of the origins that it names.
struct Chunks<'a> {
    tag: u8,
    origins: Vec<Origin>,
    index: HashMap<Origin, u64>,
    body: Writer,
    sink: &'a mut dyn FnMut(&[u8]),
}

impl<'a> Chunks<'a> {
    fn new(tag: u8, sink: &'a mut dyn FnMut(&[u8])) -> Self {
        Self { tag, origins: Vec::new(), index: HashMap::new(), body: Writer::with_capacity(4096), sink }
    }

    fn origin(&mut self, origin: Origin) {
        let next = self.origins.len() as u64;
        let index = *self.index.entry(origin).or_insert_with(|| {
            self.origins.push(origin);
            next
        });
        self.body.varint(index);
    }

    fn stamp(&mut self, stamp: Stamp) {
        self.body.u64(stamp.hlc.0);
        self.origin(stamp.origin);
    }

    fn item_ends(&mut self) {
        if self.body.len() >= CHUNK_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.body.is_empty() {
            return;
        }
        let body = std::mem::replace(&mut self.body, Writer::with_capacity(4096)).finish();
        let mut w = Writer::with_capacity(body.len() + 16 + self.origins.len() * 10);
        w.u8(self.tag);
        w.varint(self.origins.len() as u64);
        for origin in self.origins.drain(..) {
            w.origin(origin);
        }
        self.index.clear();
        w.raw(&body);
        (self.sink)(&w.finish());
    }
}

fn kind_tag(kind: Option<Kind>) -> u8 {
    match kind {
        None => 0,
        Some(Kind::Str) => 1,
        Some(Kind::Hash) => 2,
        Some(Kind::Set) => 3,
        Some(Kind::Zset) => 4,
    }
}

fn kind_of(tag: u8) -> Result<Option<Kind>, WireError> {
    Ok(Some(match tag {
        0 => return Ok(None),
        1 => Kind::Str,
        2 => Kind::Hash,
        3 => Kind::Set,
        4 => Kind::Zset,
        _ => return Err(WireError::Unknown("type")),
    }))
}

impl Shard {
    /// Gives the state to `sink`, chunk by chunk. No chunk is empty.
    pub fn save(&self, sink: &mut dyn FnMut(&[u8])) {
        sink(&self.save_head());
        let mut chunks = Chunks::new(tag::COVER, sink);
        for (origin, seqs) in self.cover.iter() {
            if mutation!(CoverNotSaved) {
                break;
            }
            chunks.origin(origin);
            chunks.body.seqs(seqs);
            chunks.item_ends();
        }
        chunks.flush();
        let mut chunks = Chunks::new(tag::OUTBOX, sink);
        for (incarnation, seq, effect) in self.outbox.iter() {
            if mutation!(OutboxNotSaved) {
                break;
            }
            chunks.body.u64(incarnation.0);
            chunks.body.varint(seq);
            chunks.body.bytes(effect);
            chunks.item_ends();
        }
        chunks.flush();
        // Floors first: what they imply is not stored with the keys.
        let mut chunks = Chunks::new(tag::FLOORS, sink);
        for slot in 0..SLOTS {
            let floor = self.table.slot_floor(slot);
            if !floor.is_zero() && !mutation!(FloorsNotSaved) {
                chunks.body.u16(slot);
                chunks.stamp(floor);
                chunks.item_ends();
            }
        }
        chunks.flush();
        let mut chunks = Chunks::new(tag::PLAIN, sink);
        for slot in 0..SLOTS {
            for (low, high, stamp) in self.table.slot_contents(slot).1 {
                chunks.body.u16(slot);
                chunks.body.u64(low);
                chunks.body.u16(high);
                chunks.stamp(stamp);
                chunks.item_ends();
            }
        }
        chunks.flush();
        let mut chunks = Chunks::new(tag::RICH, sink);
        for (key, meta) in self.table.rich_entries() {
            save_key(&mut chunks, key, meta);
        }
        chunks.flush();
    }

    fn save_head(&self) -> Bytes {
        let mut w = Writer::with_capacity(256);
        w.u8(tag::HEAD);
        w.u8(VERSION);
        let hash_key = self.table.hash_key();
        w.u64(hash_key.0);
        w.u64(hash_key.1);
        let Identity { store, region, shard, epoch, incarnation, previous } = &self.identity;
        w.bytes(store.as_bytes());
        w.u16(region.0);
        w.u16(shard.0);
        w.u64(*epoch);
        w.u64(incarnation.0);
        w.u64(previous.0);
        w.u64(self.seq);
        w.u64(self.clock().0);
        w.varint(self.positions.len() as u64);
        for (region, position) in &self.positions {
            w.u16(region.0);
            w.u64(position.offset);
            w.u64(position.record);
        }
        w.origins(self.cover.sealed());
        self.stability.write(&mut w);
        w.u64(self.table.expired().0);
        w.u64(self.table.collected().0);
        match &self.transfer {
            Some(transfer) => transfer.write(&mut w),
            None => w.u64(0),
        }
        w.u64(self.stability.membership());
        match &self.joining {
            Some(joining) => joining.write(&mut w),
            None => w.u16(0),
        }
        w.finish()
    }
}

fn save_key(chunks: &mut Chunks<'_>, key: &[u8], meta: &KeyMeta) {
    let KeyMeta { floor, ttl: Ttl { clear, lives }, cells, rank, sum: _ } = meta;
    chunks.body.u8(tag::KEY);
    chunks.body.bytes(key);
    chunks.stamp(*floor);
    chunks.stamp(*rank);
    chunks.stamp(*clear);
    chunks.body.varint(lives.len() as u64);
    for life in lives {
        save_life(chunks, life);
    }
    chunks.body.u8(kind_tag(cells.kind()));
    let mut cells = cells.iter().peekable();
    loop {
        let some: Vec<(&[u8], &Cell)> = cells.by_ref().take(CELLS_MAX).collect();
        chunks.body.varint(some.len() as u64);
        for (name, cell) in some {
            save_cell(chunks, name, cell);
        }
        chunks.item_ends();
        if cells.peek().is_none() {
            return;
        }
        chunks.body.u8(tag::CELLS);
    }
}

fn save_life(chunks: &mut Chunks<'_>, life: &Life) {
    let Life { id, register, at_ms, kill } = life;
    chunks.stamp(*id);
    chunks.stamp(*register);
    chunks.body.u8(u8::from(at_ms.is_some()) | u8::from(kill.is_some()) << 1);
    if let Some(at) = at_ms {
        chunks.body.varint(*at);
    }
    if let Some(Kill { register, until_ms, at }) = kill {
        chunks.stamp(*register);
        chunks.body.varint(*until_ms);
        chunks.body.u64(at.0);
    }
}

fn save_cell(chunks: &mut Chunks<'_>, name: &[u8], cell: &Cell) {
    let Cell { base, present, counter } = cell;
    let counter = counter.as_ref().filter(|_| !mutation!(TotalsNotSaved));
    chunks.body.bytes(name);
    chunks.stamp(*base);
    let Some(counter) = counter else {
        chunks.body.u8(u8::from(*present));
        return;
    };
    let Counter { base, base_gone, totals } = &**counter;
    let flags = [*present, true, base.is_some(), *base_gone];
    chunks.body.u8((0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum());
    if let Some(base) = base {
        chunks.body.amount(*base);
    }
    chunks.body.varint(totals.len() as u64);
    for Total { started, latest, amount } in totals {
        chunks.stamp(*started);
        chunks.body.u64(latest.0);
        chunks.body.amount(*amount);
    }
}

/// Puts a shard together from the chunks that [`Shard::save`] gave, in their order.
#[derive(Debug, Default)]
pub struct Loader {
    shard: Option<Shard>,
    /// The key whose cells may go on in the next item.
    pending: Option<(Bytes, KeyMeta)>,
}

/// Reads the items of one chunk.
struct Items {
    r: Reader,
    origins: Vec<Origin>,
}

impl Items {
    fn new(mut r: Reader) -> Result<Self, WireError> {
        let count = r.count(10, "origins")?;
        let origins = (0..count).map(|_| r.origin("origins")).collect::<Result<_, _>>()?;
        Ok(Self { r, origins })
    }

    fn more(&self) -> bool {
        self.r.remaining() > 0
    }

    fn origin(&mut self) -> Result<Origin, WireError> {
        let index = self.r.varint("origin")?;
        let origin = usize::try_from(index).ok().and_then(|i| self.origins.get(i));
        origin.copied().ok_or(WireError::Unknown("origin"))
    }

    fn stamp(&mut self) -> Result<Stamp, WireError> {
        Ok(Stamp { hlc: Hlc(self.r.u64("stamp")?), origin: self.origin()? })
    }
}

impl Loader {
    /// Takes the next chunk.
    pub fn chunk(&mut self, bytes: Bytes) -> Result<(), WireError> {
        let mut r = Reader::new(bytes);
        let tag = r.u8("chunk")?;
        if tag == tag::HEAD {
            self.shard = Some(load_head(r)?);
            return Ok(());
        }
        let shard = self.shard.as_mut().ok_or(WireError::Unknown("chunk before the head"))?;
        let mut items = Items::new(r)?;
        while items.more() {
            match tag {
                tag::COVER => {
                    let origin = items.origin()?;
                    let seqs = items.r.seqs()?;
                    shard.cover.set(origin, seqs);
                }
                tag::OUTBOX => {
                    let incarnation = Incarnation(items.r.u64("outbox")?);
                    let seq = items.r.varint("outbox")?;
                    // Whoever took care of it is not known any more: it may be swept at once.
                    shard.outbox.push(incarnation, seq, items.r.bytes("outbox")?, 0);
                }
                tag::FLOORS => {
                    let slot = items.r.u16("floor")?;
                    let floor = items.stamp()?;
                    shard.table.restore_floor(slot, floor);
                }
                tag::PLAIN => {
                    let slot = items.r.u16("key")?;
                    let (low, high) = (items.r.u64("key")?, items.r.u16("key")?);
                    let stamp = items.stamp()?;
                    if !shard.table.restore_plain(slot, low, high, stamp) {
                        return Err(WireError::TooLarge("number of origins"));
                    }
                }
                tag::RICH => load_key(&mut items, &mut self.pending, &mut shard.table)?,
                _ => return Err(WireError::Unknown("chunk")),
            }
        }
        Ok(())
    }

    /// The shard; a blank one needs a head too.
    pub fn finish(mut self) -> Result<Shard, WireError> {
        let mut shard = self.shard.take().ok_or(WireError::Truncated("state"))?;
        if let Some((key, meta)) = self.pending.take() {
            shard.table.restore_rich(&key, meta);
        }
        Ok(shard)
    }
}

fn load_head(mut r: Reader) -> Result<Shard, WireError> {
    let version = r.u8("version")?;
    if !(1..=VERSION).contains(&version) {
        return Err(WireError::Unknown("version"));
    }
    let mut shard = Shard::new((r.u64("head")?, r.u64("head")?));
    let store = String::from_utf8(r.bytes("store")?.to_vec()).map_err(|_| WireError::Unknown("store"))?;
    shard.identity = Identity {
        store,
        region: RegionId(r.u16("head")?),
        shard: ShardId(r.u16("head")?),
        epoch: r.u64("head")?,
        incarnation: Incarnation(r.u64("head")?),
        previous: Incarnation(r.u64("head")?),
    };
    shard.seq = r.u64("head")?;
    let clock = Hlc(r.u64("head")?);
    if !mutation!(ClockNotSaved) {
        shard.observe(clock);
    }
    for _ in 0..r.count(18, "positions")? {
        let region = RegionId(r.u16("position")?);
        let position = Position { offset: r.u64("position")?, record: r.u64("position")? };
        shard.positions.insert(region, position);
    }
    for origin in r.origins("sealed")? {
        shard.cover.seal(origin);
    }
    shard.stability = Stability::read(&mut r)?;
    shard.table.restore_expired(Hlc(r.u64("expired")?));
    shard.table.restore_collected(Hlc(r.u64("collected")?));
    shard.transfer = Transfer::read(&mut r)?;
    if version > 1 {
        shard.stability.restore_membership(r.u64("membership")?);
        shard.joining = Joining::read(&mut r)?;
    }
    r.end("head")?;
    Ok(shard)
}

fn load_key(
    items: &mut Items,
    pending: &mut Option<(Bytes, KeyMeta)>,
    table: &mut Table,
) -> Result<(), WireError> {
    match items.r.u8("item")? {
        tag::KEY => {
            if let Some((key, meta)) = pending.take() {
                table.restore_rich(&key, meta);
            }
            let key = items.r.bytes("key")?;
            let (floor, rank, clear) = (items.stamp()?, items.stamp()?, items.stamp()?);
            let mut ttl = Ttl { clear, lives: Vec::new() };
            for _ in 0..items.r.count(19, "lives")? {
                ttl.lives.push(load_life(items)?);
            }
            let kind = kind_of(items.r.u8("type")?)?;
            let cells = kind.map_or(Cells::None, Cells::empty);
            *pending = Some((key, KeyMeta { floor, ttl, cells, rank, sum: 0 }));
        }
        tag::CELLS => {}
        _ => return Err(WireError::Unknown("item")),
    }
    let Some((_, meta)) = pending else { return Err(WireError::Unknown("cells without a key")) };
    for _ in 0..items.r.count(11, "cells")? {
        let name = items.r.bytes("name")?;
        let cell = load_cell(items)?;
        match meta.cell_mut(&name) {
            Some(place) => *place = cell,
            None => return Err(WireError::Unknown("cell of no type")),
        }
    }
    Ok(())
}

fn load_life(items: &mut Items) -> Result<Life, WireError> {
    let (id, register) = (items.stamp()?, items.stamp()?);
    let has = items.r.u8("life")?;
    let at_ms = if has & 1 != 0 { Some(items.r.varint("life")?) } else { None };
    let kill = if has & 2 != 0 {
        let (register, until_ms) = (items.stamp()?, items.r.varint("life")?);
        Some(Kill { register, until_ms, at: Hlc(items.r.u64("life")?) })
    } else {
        None
    };
    Ok(Life { id, register, at_ms, kill })
}

fn load_cell(items: &mut Items) -> Result<Cell, WireError> {
    let base = items.stamp()?;
    let has = items.r.u8("cell")?;
    let number = if has & 4 != 0 { Some(items.r.amount()?) } else { None };
    let counter = if has & 2 != 0 {
        let count = items.r.count(26, "totals")?;
        let mut totals = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let (started, latest) = (items.stamp()?, Hlc(items.r.u64("total")?));
            totals.push(Total { started, latest, amount: items.r.amount()? });
        }
        Some(Box::new(Counter { base: number, base_gone: has & 8 != 0, totals }))
    } else {
        None
    };
    Ok(Cell { base, present: has & 1 != 0, counter })
}
