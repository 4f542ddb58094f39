//! A region made of the production state machine and a map for values. It starts no server.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mas_core::amount::{Amount, Decimal};
use mas_core::effect::{Change, Kind, Op, Value};
use mas_core::keyspace::Keyspace;
use mas_core::record::{Body, Record};
use mas_core::replication::heartbeat::{Members, Word, build_heartbeat};
use mas_core::shard::{Identity, Position, Shard, SkewLimits};
use mas_core::slot::{SLOTS, slot_of};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};

/// What a key shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Str(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Zset(BTreeMap<Vec<u8>, f64>),
}

impl Data {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Str(_) => Kind::Str,
            Self::Hash(_) => Kind::Hash,
            Self::Set(_) => Kind::Set,
            Self::Zset(_) => Kind::Zset,
        }
    }

    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Str => Self::Str(Vec::new()),
            Kind::Hash => Self::Hash(BTreeMap::new()),
            Kind::Set => Self::Set(BTreeSet::new()),
            Kind::Zset => Self::Zset(BTreeMap::new()),
        }
    }
}

/// Native keys, as Redis would hold them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    pub keys: BTreeMap<Vec<u8>, (Data, Option<u64>)>,
}

impl Map {
    /// What Redis does with keys whose time has come.
    pub fn expire(&mut self, now_ms: u64) {
        self.keys.retain(|_, (_, at)| at.is_none_or(|at| at > now_ms));
    }
}

impl Keyspace for Map {
    fn read(&mut self, key: &[u8], kind: Kind, name: &[u8]) -> Option<Value> {
        match (&self.keys.get(key)?.0, kind) {
            (Data::Str(v), Kind::Str) => Some(Value::Bytes(Bytes::copy_from_slice(v))),
            (Data::Hash(m), Kind::Hash) => m.get(name).map(|v| Value::Bytes(Bytes::copy_from_slice(v))),
            (Data::Set(s), Kind::Set) => s.contains(name).then_some(Value::Member),
            (Data::Zset(m), Kind::Zset) => m.get(name).map(|s| Value::Score(*s)),
            _ => None,
        }
    }

    fn exists(&mut self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    fn write(&mut self, key: &[u8], kind: Kind, name: &[u8], value: &Value) {
        let entry = self.keys.entry(key.to_vec()).or_insert_with(|| (Data::new(kind), None));
        assert_eq!(entry.0.kind(), kind, "the merge writes into a key of another type");
        match (&mut entry.0, value) {
            (Data::Str(v), Value::Bytes(b)) => {
                *v = b.to_vec();
                entry.1 = None;
            }
            (Data::Hash(m), Value::Bytes(b)) => drop(m.insert(name.to_vec(), b.to_vec())),
            (Data::Set(s), Value::Member) => drop(s.insert(name.to_vec())),
            (Data::Zset(m), Value::Score(s)) => drop(m.insert(name.to_vec(), *s)),
            (data, value) => panic!("{value:?} into {data:?}"),
        }
    }

    fn remove(&mut self, key: &[u8], kind: Kind, name: &[u8]) {
        let Some((data, _)) = self.keys.get_mut(key) else { return };
        if data.kind() != kind {
            return;
        }
        let empty = match data {
            Data::Str(_) => true,
            Data::Hash(m) => {
                m.remove(name);
                m.is_empty()
            }
            Data::Set(s) => {
                s.remove(name);
                s.is_empty()
            }
            Data::Zset(m) => {
                m.remove(name);
                m.is_empty()
            }
        };
        if empty {
            self.keys.remove(key);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.keys.remove(key);
    }

    fn set_expiry(&mut self, key: &[u8], at_ms: Option<u64>) {
        if let Some((_, at)) = self.keys.get_mut(key) {
            *at = at_ms;
        }
    }

    fn keys_in_slots(&mut self, first: u16, last: u16) -> Vec<Vec<u8>> {
        self.keys.keys().filter(|k| (first..=last).contains(&slot_of(k))).cloned().collect()
    }

    fn scan(&mut self, cursor: &[u8], count: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let after = self.keys.keys().filter(|key| cursor.is_empty() || &key[..] > cursor);
        let some: Vec<Vec<u8>> = after.take(count).cloned().collect();
        let next = if some.len() < count { Vec::new() } else { some.last().cloned().unwrap_or_default() };
        (next, some)
    }
}

/// A write, as a client would send it.
#[derive(Clone, Debug)]
pub enum Write {
    Set(u8, u16),
    SetEx(u8, u16, u16),
    Incr(u8, i16),
    Del(u8),
    HSet(u8, u8, u16),
    HDel(u8, u8),
    HIncr(u8, u8, i16),
    SAdd(u8, u8),
    SRem(u8, u8),
    ZAdd(u8, u8, i16),
    ZIncr(u8, u8, i16),
    ZRem(u8, u8),
    Expire(u8, u16),
    Persist(u8),
    Flush,
}

/// One region: the production shard, values in a map, and the log that it published.
pub struct Region {
    pub id: RegionId,
    pub shard: Shard,
    pub map: Map,
    pub log: Vec<Bytes>,
    /// How far each other region's log was read, as (offset of the last record, its id).
    pub read: BTreeMap<u16, Position>,
}

pub const LIMITS: SkewLimits = SkewLimits { tolerated_ms: 1000, hard_ms: 3_600_000 };

impl Region {
    pub fn new(id: u16) -> Self {
        let mut region = Self {
            id: RegionId(id),
            shard: Shard::new((u64::from(id), 99)),
            map: Map::default(),
            log: Vec::new(),
            read: BTreeMap::new(),
        };
        region.promote(1, u64::from(id) * 1000 + 1, 1000);
        region
    }

    pub fn promote(&mut self, epoch: u64, incarnation: u64, now_ms: u64) {
        let to = Identity {
            store: "test".into(),
            region: self.id,
            shard: ShardId(0),
            epoch,
            incarnation: Incarnation(incarnation),
            previous: Incarnation::NONE,
        };
        self.shard.promote(to, now_ms);
    }

    pub fn origin(&self) -> Origin {
        self.shard.identity().origin()
    }

    /// Executes a write as the engine does: tick, open, natively, commit, publish.
    pub fn write(&mut self, write: &Write, now_ms: u64) {
        self.map.expire(now_ms);
        let hlc = self.shard.tick(now_ms);
        let Some(changes) = self.changes(write, hlc, now_ms) else { return };
        let last = self.shard.tick(now_ms);
        let bytes = self.shard.commit(last, changes, now_ms, &mut self.map);
        let record = Record {
            id: 7_000_000 + self.log.len() as u64,
            shard: ShardId(0),
            origin: self.origin(),
            body: Body::Effects(vec![bytes]),
        };
        self.log.push(record.encode());
    }

    fn changes(&mut self, write: &Write, hlc: Hlc, now_ms: u64) -> Option<Vec<Change>> {
        let key_of = |k: u8| Bytes::from(format!("k{k}"));
        let (number, kind) = match write {
            Write::Flush => {
                if self.map.keys.is_empty() {
                    return None;
                }
                self.map.keys.clear();
                return Some(vec![Change::Slots { first: 0, last: SLOTS - 1, floor: self.shard.stamp(hlc) }]);
            }
            Write::Set(k, _) | Write::SetEx(k, ..) | Write::Incr(k, _) => (*k, Some(Kind::Str)),
            Write::Del(k) | Write::Expire(k, _) | Write::Persist(k) => (*k, None),
            Write::HSet(k, ..) | Write::HDel(k, _) | Write::HIncr(k, ..) => (*k, Some(Kind::Hash)),
            Write::SAdd(k, _) | Write::SRem(k, _) => (*k, Some(Kind::Set)),
            Write::ZAdd(k, ..) | Write::ZIncr(k, ..) | Write::ZRem(k, _) => (*k, Some(Kind::Zset)),
        };
        let key = key_of(number);
        let plain_set = matches!(write, Write::Set(..) | Write::SetEx(..));
        let mut ops: Vec<Op> = Vec::new();
        if !plain_set {
            ops.extend(self.shard.open_key(&key, hlc, &mut self.map));
        }
        let there = self.map.keys.get(&key[..]).map(|(d, _)| d.kind());
        let wrong_type = !plain_set && kind.is_some() && there.is_some() && there != kind;
        if !wrong_type {
            self.native(write, &key, there.is_some(), hlc, now_ms, &mut ops);
        }
        (!ops.is_empty()).then(|| vec![Change::Key { key, ops }])
    }

    fn native(&mut self, write: &Write, key: &Bytes, there: bool, hlc: Hlc, now_ms: u64, ops: &mut Vec<Op>) {
        let stamp = self.shard.stamp(hlc);
        let name = |n: u8| Bytes::from(vec![b'f', n]);
        let text = |v: u16| Bytes::from(format!("v{v}"));
        let mut put = |map: &mut Map, kind, name: Bytes, value: Option<Value>, keep_ttl| {
            match &value {
                Some(value) => map.write(key, kind, &name, value),
                None => map.remove(key, kind, &name),
            }
            ops.push(Op::Put { kind, name, stamp, value, keep_ttl });
        };
        match write {
            Write::Set(_, v) | Write::SetEx(_, v, _) => {
                self.map.delete(key);
                // Some values are numbers, so that counters go on from them.
                let value = if v % 2 == 0 { Bytes::from(v.to_string()) } else { text(*v) };
                put(&mut self.map, Kind::Str, Bytes::new(), Some(Value::Bytes(value)), false);
                if let Write::SetEx(_, _, ttl) = write {
                    let at = now_ms + 1 + u64::from(*ttl);
                    self.map.set_expiry(key, Some(at));
                    let stamp = self.shard.stamp(self.shard.clock().next());
                    ops.push(Op::Expire { stamp, life: stamp, at_ms: Some(at) });
                    self.shard.observe(stamp.hlc);
                }
            }
            Write::HSet(_, f, v) => {
                put(&mut self.map, Kind::Hash, name(*f), Some(Value::Bytes(text(*v))), true);
            }
            Write::SAdd(_, m) => put(&mut self.map, Kind::Set, name(*m), Some(Value::Member), true),
            Write::ZAdd(_, m, s) => {
                put(&mut self.map, Kind::Zset, name(*m), Some(Value::Score(f64::from(*s))), true);
            }
            Write::HDel(_, f) | Write::SRem(_, f) | Write::ZRem(_, f) => {
                let kind = match write {
                    Write::HDel(..) => Kind::Hash,
                    Write::SRem(..) => Kind::Set,
                    _ => Kind::Zset,
                };
                if self.map.read(key, kind, &name(*f)).is_some() {
                    put(&mut self.map, kind, name(*f), None, true);
                }
            }
            Write::Incr(_, by) => {
                let by = Amount::Decimal(Decimal::from_int(i64::from(*by)));
                ops.extend(self.count(key, Kind::Str, Bytes::new(), by, hlc));
            }
            Write::HIncr(_, f, by) => {
                let by = Amount::Decimal(Decimal::from_int(i64::from(*by)));
                ops.extend(self.count(key, Kind::Hash, name(*f), by, hlc));
            }
            Write::ZIncr(_, m, by) => {
                ops.extend(self.count(key, Kind::Zset, name(*m), Amount::Score(f64::from(*by)), hlc));
            }
            Write::Del(_) => {
                if there {
                    self.map.delete(key);
                    ops.push(Op::Floor(stamp));
                }
            }
            Write::Expire(_, ttl) => {
                if there {
                    let at = now_ms + 1 + u64::from(*ttl);
                    self.map.set_expiry(key, Some(at));
                    ops.extend(self.shard.expire_ops(key, stamp, Some(at), &mut self.map));
                }
            }
            Write::Persist(_) => {
                if self.map.keys.get(&key[..]).is_some_and(|(_, at)| at.is_some()) {
                    self.map.set_expiry(key, None);
                    ops.extend(self.shard.expire_ops(key, stamp, None, &mut self.map));
                }
            }
            Write::Flush => unreachable!("handled before"),
        }
    }

    fn count(&mut self, key: &Bytes, kind: Kind, name: Bytes, by: Amount, hlc: Hlc) -> Option<Op> {
        let ttl = self.map.keys.get(&key[..]).and_then(|(_, at)| *at);
        let shown = self.map.read(key, kind, &name);
        let old = match &shown {
            Some(value) => Some(mas_core::merge::number_in(value)?),
            None => None,
        };
        let prepared = self.shard.prepare_count(key, kind, &name, &mut self.map);
        let sum = old.map_or(by, |old| old.plus(by));
        let value = match sum {
            Amount::Decimal(d) => Value::Bytes(Bytes::from(d.format())),
            Amount::Score(s) => Value::Score(s),
        };
        self.map.write(key, kind, &name, &value);
        self.map.set_expiry(key, ttl);
        self.shard.count_op(prepared, kind, name, by, hlc)
    }

    /// Publishes a heartbeat, as the proxy with that duty does. This copy is all there is: what it has is durable.
    pub fn beat(&mut self) {
        let word = Word {
            cover: self.shard.cover(),
            clock: self.shard.clock(),
            incarnation: self.origin().incarnation,
            issued: self.shard.seq(),
            merged_through: self.shard.merged_through().hlc,
            transfer: None,
            ended: self.shard.ended(),
        };
        let durable = Members::default().durable(&word, true);
        let id = 7_000_000 + self.log.len() as u64;
        self.log.push(build_heartbeat(id, self.id, ShardId(0), 1, &word, durable).encode());
    }

    /// Forgets all that is stable.
    pub fn collect(&mut self, now_ms: u64) {
        self.map.expire(now_ms);
        self.shard.collect(0, u64::MAX, now_ms);
    }

    /// Merges the records `indices` of another region's log, in the order given, as a reader would.
    pub fn merge(&mut self, from: u16, records: &[Bytes], now_ms: u64) {
        self.map.expire(now_ms);
        let expected = self.read.get(&from).copied();
        let to = Position { offset: expected.map_or(0, |p| p.offset + 1), record: 1 };
        self.shard
            .merge(RegionId(from), expected, to, records, now_ms, LIMITS, &mut self.map)
            .expect("merge");
        self.read.insert(from, to);
    }
}
