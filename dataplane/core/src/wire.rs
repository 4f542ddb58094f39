//! The wire codec: effects and the pieces that they are made of. Versioned by the record around them
//! ([`crate::record`]), bounded in every length, little-endian, integers as LEB128 varints unless said otherwise.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::amount::{Amount, Decimal};
use crate::cover::{Cover, RUNS_MAX, SeqSet};
use crate::effect::{Change, Effect, Kind, Op, Value};
use crate::slot::SLOTS;
use crate::stamp::{Hlc, Incarnation, Origin, RegionId, Stamp};

/// Largest encoded effect in bytes. Larger writes are refused before they are executed.
pub const EFFECT_BYTES_MAX: usize = 64 << 20;
/// Most origins in one cover.
pub const COVER_ORIGINS_MAX: u64 = 1 << 20;

/// Why bytes could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They end too early.
    #[error("truncated: the bytes end inside {0}")]
    Truncated(&'static str),
    /// A tag or a number that this version does not know.
    #[error("unknown {0}: written by a newer version, or damaged")]
    Unknown(&'static str),
    /// A length beyond its bound.
    #[error("{0} is beyond its bound")]
    TooLarge(&'static str),
    /// Bytes are left over.
    #[error("trailing bytes after {0}")]
    Trailing(&'static str),
}

/// Writes wire values to a growing buffer.
#[derive(Debug, Default)]
pub struct Writer {
    buf: BytesMut,
}

impl Writer {
    /// An empty buffer of the given capacity in bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buf: BytesMut::with_capacity(bytes) }
    }

    /// What was written.
    pub fn finish(self) -> Bytes {
        self.buf.freeze()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.buf.put_u8(value);
    }

    /// Two bytes, fixed.
    pub fn u16(&mut self, value: u16) {
        self.buf.put_u16_le(value);
    }

    /// Eight bytes, fixed.
    pub fn u64(&mut self, value: u64) {
        self.buf.put_u64_le(value);
    }

    /// A varint.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buf.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buf.put_u8(value as u8);
    }

    /// A length, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.buf.put_slice(value);
    }

    /// The bytes alone.
    pub fn raw(&mut self, value: &[u8]) {
        self.buf.put_slice(value);
    }

    /// Region and incarnation, fixed.
    pub fn origin(&mut self, origin: Origin) {
        self.u16(origin.region.0);
        self.u64(origin.incarnation.0);
    }

    /// A whole stamp, fixed.
    pub fn stamp(&mut self, stamp: Stamp) {
        self.u64(stamp.hlc.0);
        self.origin(stamp.origin);
    }

    /// An amount.
    pub fn amount(&mut self, amount: Amount) {
        match amount {
            Amount::Decimal(Decimal { units, float }) => {
                self.u8(u8::from(float));
                self.buf.put_i128_le(units);
            }
            Amount::Score(score) => {
                self.u8(2);
                self.buf.put_f64_le(score);
            }
        }
    }

    /// A cover.
    pub fn cover(&mut self, cover: &Cover) {
        self.varint(cover.iter().count() as u64);
        for (origin, set) in cover.iter() {
            self.origin(origin);
            self.seqs(set);
        }
        self.origins(cover.sealed());
    }

    /// How many origins, then each.
    pub fn origins(&mut self, origins: impl Iterator<Item = Origin> + Clone) {
        self.varint(origins.clone().count() as u64);
        origins.for_each(|origin| self.origin(origin));
    }

    /// A set of sequence numbers: runs as (gap, length) pairs.
    pub fn seqs(&mut self, set: &SeqSet) {
        self.varint(set.runs().count() as u64);
        let mut end = 0;
        for (first, last) in set.runs() {
            self.varint(first - end);
            self.varint(last - first);
            end = last;
        }
    }
}

/// Reads wire values; slices share the buffer.
#[derive(Clone, Debug)]
pub struct Reader {
    buf: Bytes,
}

impl Reader {
    /// Reads from `buf`.
    pub fn new(buf: Bytes) -> Self {
        Self { buf }
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.buf.len()
    }

    /// Nothing may be left.
    pub fn end(&self, what: &'static str) -> Result<(), WireError> {
        if self.buf.is_empty() { Ok(()) } else { Err(WireError::Trailing(what)) }
    }

    fn need(&self, bytes: usize, what: &'static str) -> Result<(), WireError> {
        if self.buf.len() < bytes { Err(WireError::Truncated(what)) } else { Ok(()) }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.need(1, what)?;
        Ok(self.buf.get_u8())
    }

    /// Two bytes, fixed.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.need(2, what)?;
        Ok(self.buf.get_u16_le())
    }

    /// Eight bytes, fixed.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.need(8, what)?;
        Ok(self.buf.get_u64_le())
    }

    /// A varint of at most 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::TooLarge(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::TooLarge(what))
    }

    /// A varint that counts things of which each takes at least `unit` bytes: never more than the bytes left allow.
    pub fn count(&mut self, unit: usize, what: &'static str) -> Result<usize, WireError> {
        let count = self.varint(what)?;
        if count > (self.buf.len() / unit.max(1)) as u64 {
            return Err(WireError::Truncated(what));
        }
        Ok(count as usize)
    }

    /// A length, then the bytes.
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, WireError> {
        let len = self.count(1, what)?;
        Ok(self.buf.split_to(len))
    }

    /// All that is left.
    pub fn rest(&mut self) -> Bytes {
        self.buf.split_off(0)
    }

    /// Region and incarnation.
    pub fn origin(&mut self, what: &'static str) -> Result<Origin, WireError> {
        Ok(Origin { region: RegionId(self.u16(what)?), incarnation: Incarnation(self.u64(what)?) })
    }

    /// A whole stamp.
    pub fn stamp(&mut self, what: &'static str) -> Result<Stamp, WireError> {
        Ok(Stamp { hlc: Hlc(self.u64(what)?), origin: self.origin(what)? })
    }

    /// An amount.
    pub fn amount(&mut self) -> Result<Amount, WireError> {
        match self.u8("amount")? {
            tag @ (0 | 1) => {
                self.need(16, "amount")?;
                Ok(Amount::Decimal(Decimal { units: self.buf.get_i128_le(), float: tag == 1 }))
            }
            2 => self.score().map(Amount::Score),
            _ => Err(WireError::Unknown("amount")),
        }
    }

    fn score(&mut self) -> Result<f64, WireError> {
        self.need(8, "score")?;
        let score = self.buf.get_f64_le();
        if score.is_nan() { Err(WireError::Unknown("score")) } else { Ok(score) }
    }

    /// A cover.
    pub fn cover(&mut self) -> Result<Cover, WireError> {
        let origins = self.count(11, "cover")?;
        if origins as u64 > COVER_ORIGINS_MAX {
            return Err(WireError::TooLarge("cover"));
        }
        let mut cover = Cover::default();
        for _ in 0..origins {
            let origin = self.origin("cover")?;
            cover.set(origin, self.seqs()?);
        }
        for origin in self.origins("cover")? {
            cover.seal(origin);
        }
        Ok(cover)
    }

    /// How many origins, then each.
    pub fn origins(&mut self, what: &'static str) -> Result<Vec<Origin>, WireError> {
        (0..self.count(10, what)?).map(|_| self.origin(what)).collect()
    }

    /// A set of sequence numbers.
    pub fn seqs(&mut self) -> Result<SeqSet, WireError> {
        let runs = self.count(2, "sequence numbers")?;
        if runs > RUNS_MAX + 1 {
            return Err(WireError::TooLarge("sequence numbers"));
        }
        let mut set = SeqSet::default();
        let mut end = 0u64;
        for _ in 0..runs {
            let gap = self.varint("sequence numbers")?;
            let len = self.varint("sequence numbers")?;
            let first = end.checked_add(gap).ok_or(WireError::TooLarge("sequence numbers"))?;
            end = first.checked_add(len).ok_or(WireError::TooLarge("sequence numbers"))?;
            set.insert_run(first, end).map_err(|_| WireError::TooLarge("sequence numbers"))?;
        }
        Ok(set)
    }
}

mod tag {
    pub(super) const KEY: u8 = 0;
    pub(super) const SLOTS: u8 = 1;
    pub(super) const FLOOR: u8 = 0;
    pub(super) const PUT: u8 = 1;
    pub(super) const REMOVE: u8 = 2;
    pub(super) const COUNT: u8 = 3;
    pub(super) const EXPIRE: u8 = 4;
    pub(super) const PERSIST: u8 = 5;
    pub(super) const KILL: u8 = 6;
    pub(super) const GONE: u8 = 7;
    pub(super) const CLEAR_TTL: u8 = 8;
    pub(super) const VALUES_FLOOR: u8 = 9;
    /// Added to PUT: the time-to-live stays.
    pub(super) const KEEP_TTL: u8 = 0x80;
}

fn kind_tag(kind: Kind) -> u8 {
    match kind {
        Kind::Str => 0,
        Kind::Hash => 1,
        Kind::Set => 2,
        Kind::Zset => 3,
    }
}

fn kind_of(tag: u8) -> Result<Kind, WireError> {
    match tag {
        0 => Ok(Kind::Str),
        1 => Ok(Kind::Hash),
        2 => Ok(Kind::Set),
        3 => Ok(Kind::Zset),
        _ => Err(WireError::Unknown("type")),
    }
}

/// Stamps within an effect: the clock as the distance from the effect's own, the origin as an index into a table
/// whose entry 0 is the effect's origin. Nearly every stamp takes two bytes.
struct Stamps {
    hlc: Hlc,
    origins: Vec<Origin>,
}

impl Stamps {
    fn index(&mut self, origin: Origin) -> u64 {
        let at = self.origins.iter().position(|o| *o == origin).unwrap_or_else(|| {
            self.origins.push(origin);
            self.origins.len() - 1
        });
        at as u64
    }

    fn write(&mut self, w: &mut Writer, stamp: Stamp) {
        self.write_hlc(w, stamp.hlc);
        let index = self.index(stamp.origin);
        w.varint(index);
    }

    fn write_hlc(&self, w: &mut Writer, hlc: Hlc) {
        let back = self.hlc.0.wrapping_sub(hlc.0) as i64;
        w.varint(((back << 1) ^ (back >> 63)) as u64);
    }

    fn read(&self, r: &mut Reader) -> Result<Stamp, WireError> {
        let hlc = self.read_hlc(r)?;
        let index = r.varint("stamp")?;
        let origin = usize::try_from(index).ok().and_then(|i| self.origins.get(i));
        Ok(Stamp { hlc, origin: *origin.ok_or(WireError::Unknown("origin"))? })
    }

    fn read_hlc(&self, r: &mut Reader) -> Result<Hlc, WireError> {
        let zigzag = r.varint("stamp")?;
        let back = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        Ok(Hlc(self.hlc.0.wrapping_sub(back)))
    }
}

/// Encodes an effect of `origin`.
pub fn encode_effect(effect: &Effect, origin: Origin) -> Bytes {
    let mut stamps = Stamps { hlc: effect.hlc, origins: vec![origin] };
    let mut body = Writer::with_capacity(96);
    body.varint(effect.changes.len() as u64);
    for change in &effect.changes {
        match change {
            Change::Key { key, ops } => {
                body.u8(tag::KEY);
                body.bytes(key);
                body.varint(ops.len() as u64);
                for op in ops {
                    encode_op(&mut body, &mut stamps, op);
                }
            }
            Change::Slots { first, last, floor } => {
                body.u8(tag::SLOTS);
                body.u16(*first);
                body.u16(*last);
                stamps.write(&mut body, *floor);
            }
        }
    }
    let mut w = Writer::with_capacity(body.len() + 20);
    w.varint(effect.seq);
    w.u64(effect.hlc.0);
    w.varint(stamps.origins.len() as u64 - 1);
    for origin in &stamps.origins[1..] {
        w.origin(*origin);
    }
    w.raw(&body.buf);
    w.finish()
}

/// Appends to `out` what [`encode_effect`] makes of the effect of `SET key value`, its stamp being the effect's clock.
/// Most effects are of this kind.
pub fn encode_plain_set(out: &mut Vec<u8>, seq: u64, hlc: Hlc, key: &[u8], value: &[u8]) {
    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    out.reserve(key.len() + value.len() + 48);
    varint(out, seq);
    out.extend_from_slice(&hlc.0.to_le_bytes());
    // No other origins, one change: of a key.
    out.extend_from_slice(&[0, 1, tag::KEY]);
    varint(out, key.len() as u64);
    out.extend_from_slice(key);
    // One operation: a put of a string without a name, at the effect's clock, by the effect's origin.
    out.extend_from_slice(&[1, tag::PUT, kind_tag(Kind::Str), 0, 0, 0]);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn encode_op(w: &mut Writer, stamps: &mut Stamps, op: &Op) {
    match op {
        Op::Floor(stamp) => {
            w.u8(tag::FLOOR);
            stamps.write(w, *stamp);
        }
        Op::Put { kind, name, stamp, value, keep_ttl } => {
            let keep = if *keep_ttl { tag::KEEP_TTL } else { 0 };
            w.u8(keep
                | match value {
                    Some(Value::Gone) => tag::GONE,
                    Some(_) => tag::PUT,
                    None => tag::REMOVE,
                });
            w.u8(kind_tag(*kind));
            w.bytes(name);
            stamps.write(w, *stamp);
            match value {
                Some(Value::Bytes(bytes)) => w.bytes(bytes),
                Some(Value::Score(score)) => w.buf.put_f64_le(*score),
                Some(Value::Member | Value::Gone) | None => {}
            }
        }
        Op::Count { kind, name, started, latest, amount } => {
            w.u8(tag::COUNT);
            w.u8(kind_tag(*kind));
            w.bytes(name);
            stamps.write(w, *started);
            stamps.write_hlc(w, *latest);
            w.amount(*amount);
        }
        Op::ValuesFloor(stamp) => {
            w.u8(tag::VALUES_FLOOR);
            stamps.write(w, *stamp);
        }
        Op::ClearTtl(stamp) => {
            w.u8(tag::CLEAR_TTL);
            stamps.write(w, *stamp);
        }
        Op::Expire { stamp, life, at_ms } => {
            w.u8(if at_ms.is_some() { tag::EXPIRE } else { tag::PERSIST });
            stamps.write(w, *stamp);
            stamps.write(w, *life);
            if let Some(at) = at_ms {
                w.varint(*at);
            }
        }
        Op::Kill { life, register, until_ms, at } => {
            w.u8(tag::KILL);
            stamps.write(w, *life);
            stamps.write(w, *register);
            w.varint(*until_ms);
            w.u64(at.0);
        }
    }
}

/// The number and clock of an encoded effect, without decoding the rest.
pub fn peek_effect(bytes: &Bytes) -> Result<(u64, Hlc), WireError> {
    let mut r = Reader::new(bytes.clone());
    Ok((r.varint("effect")?, Hlc(r.u64("effect")?)))
}

/// Decodes an effect of `origin`.
pub fn decode_effect(bytes: &Bytes, origin: Origin) -> Result<Effect, WireError> {
    if bytes.len() > EFFECT_BYTES_MAX {
        return Err(WireError::TooLarge("effect"));
    }
    let mut r = Reader::new(bytes.clone());
    let seq = r.varint("effect")?;
    if seq == 0 {
        return Err(WireError::Unknown("sequence number 0"));
    }
    let hlc = Hlc(r.u64("effect")?);
    let mut origins = vec![origin];
    for _ in 0..r.count(10, "origins")? {
        origins.push(r.origin("origins")?);
    }
    let stamps = Stamps { hlc, origins };
    let count = r.count(3, "changes")?;
    let mut changes = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        changes.push(match r.u8("change")? {
            tag::KEY => {
                let key = r.bytes("key")?;
                let count = r.count(2, "operations")?;
                let mut ops = Vec::with_capacity(count.min(1024));
                for _ in 0..count {
                    ops.push(decode_op(&mut r, &stamps)?);
                }
                Change::Key { key, ops }
            }
            tag::SLOTS => {
                let (first, last) = (r.u16("slots")?, r.u16("slots")?);
                if first > last || last >= SLOTS {
                    return Err(WireError::TooLarge("slots"));
                }
                Change::Slots { first, last, floor: stamps.read(&mut r)? }
            }
            _ => return Err(WireError::Unknown("change")),
        });
    }
    r.end("effect")?;
    Ok(Effect { seq, hlc, changes })
}

fn decode_op(r: &mut Reader, stamps: &Stamps) -> Result<Op, WireError> {
    let head = r.u8("operation")?;
    let keep_ttl = head & tag::KEEP_TTL != 0;
    Ok(match head & !tag::KEEP_TTL {
        tag::FLOOR => Op::Floor(stamps.read(r)?),
        tag::VALUES_FLOOR => Op::ValuesFloor(stamps.read(r)?),
        tag::CLEAR_TTL => Op::ClearTtl(stamps.read(r)?),
        put @ (tag::PUT | tag::REMOVE | tag::GONE) => {
            let kind = kind_of(r.u8("type")?)?;
            let name = r.bytes("name")?;
            let stamp = stamps.read(r)?;
            let value = match (put, kind) {
                (tag::REMOVE, _) => None,
                (tag::GONE, _) => Some(Value::Gone),
                (_, Kind::Str | Kind::Hash) => Some(Value::Bytes(r.bytes("value")?)),
                (_, Kind::Set) => Some(Value::Member),
                (_, Kind::Zset) => Some(Value::Score(r.score()?)),
            };
            Op::Put { kind, name, stamp, value, keep_ttl }
        }
        tag::COUNT => {
            let kind = kind_of(r.u8("type")?)?;
            let name = r.bytes("name")?;
            let started = stamps.read(r)?;
            let latest = stamps.read_hlc(r)?;
            let amount = r.amount()?;
            if matches!((kind, amount), (Kind::Set, _) | (Kind::Zset, Amount::Decimal(_)))
                || matches!((kind, amount), (Kind::Str | Kind::Hash, Amount::Score(_)))
            {
                return Err(WireError::Unknown("amount"));
            }
            Op::Count { kind, name, started, latest, amount }
        }
        expire @ (tag::EXPIRE | tag::PERSIST) => {
            let (stamp, life) = (stamps.read(r)?, stamps.read(r)?);
            let at_ms = if expire == tag::EXPIRE { Some(r.varint("expiry")?) } else { None };
            Op::Expire { stamp, life, at_ms }
        }
        tag::KILL => {
            let (life, register) = (stamps.read(r)?, stamps.read(r)?);
            Op::Kill { life, register, until_ms: r.varint("expiry")?, at: Hlc(r.u64("expiry")?) }
        }
        _ => return Err(WireError::Unknown("operation")),
    })
}
