//! Commands as the engine executes them: tick, open the key, run natively, capture what changed. The counterpart of
//! `dataplane/engine/src/capture` on a map instead of a server.

use bytes::Bytes;
use mas_core::amount::{Amount, Decimal};
use mas_core::effect::{Change, Kind, Op, Value};
use mas_core::keyspace::Keyspace;
use mas_core::merge::number_in;
use mas_core::shard::Shard;
use mas_core::slot::even_ranges;
use mas_core::stamp::Stamp;

use crate::keyspace::{Data, Keys};
use crate::workload::Command;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Ok,
    Integer(i64),
    Value(Option<Data>),
    Error(&'static str),
}

/// A command under way on a shard.
pub(crate) struct Execution<'a> {
    pub(crate) shard: &'a mut Shard,
    pub(crate) keys: &'a mut Keys,
    pub(crate) wall_ms: u64,
    /// The operation's number: values are made of it.
    pub(crate) number: usize,
    /// How many shards the store has.
    pub(crate) shards: u16,
}

/// What a set writes.
pub(crate) fn value_of(number: usize, integer: bool, bytes: usize) -> Bytes {
    if integer {
        return Bytes::from((number * 1000).to_string());
    }
    let mut value = format!("v{number}").into_bytes();
    if bytes > value.len() {
        value.resize(bytes, b'.');
    }
    Bytes::from(value)
}

pub(crate) fn field(n: u8) -> Bytes {
    Bytes::from(format!("f{n}"))
}

/// A read.
pub(crate) fn read(keys: &Keys, key: &str) -> Reply {
    Reply::Value(keys.get(key.as_bytes()).cloned())
}

impl Execution<'_> {
    /// Executes a write; returns its reply, and the encoded effect if something changed.
    pub(crate) fn write(mut self, command: &Command) -> (Reply, Option<Bytes>) {
        let hlc = self.shard.tick(self.wall_ms);
        let stamp = self.shard.stamp(hlc);
        if let Command::Set { key, number, bytes } = command {
            let value = value_of(self.number, *number, *bytes);
            let key = Bytes::copy_from_slice(key.as_bytes());
            self.keys.delete(&key);
            self.keys.write(&key, Kind::Str, b"", &Value::Bytes(value.clone()));
            let mut out = Vec::new();
            self.shard.commit_plain_set(hlc, &key, &value, self.wall_ms, self.keys, &mut out);
            return (Reply::Ok, Some(Bytes::from(out)));
        }
        if let Command::Flush(shard) = command {
            if self.keys.map.is_empty() {
                return (Reply::Ok, None);
            }
            self.keys.map.clear();
            let (first, last) = even_ranges(*shard, self.shards)[0];
            let changes = vec![Change::Slots { first, last, floor: stamp }];
            let effect = self.shard.commit(hlc, changes, self.wall_ms, self.keys);
            return (Reply::Ok, Some(effect));
        }
        let key = Bytes::copy_from_slice(command.key().unwrap_or_default().as_bytes());
        let mut ops = Vec::new();
        if !matches!(command, Command::SetEx { .. } | Command::Mark { .. }) {
            ops.extend(self.shard.open_key(&key, hlc, self.keys));
        }
        let (reply, counted) = self.native(command, &key, stamp, &mut ops);
        if ops.is_empty() {
            return (reply, None);
        }
        let latest = self.shard.clock();
        let changes = vec![Change::Key { key: key.clone(), ops }];
        let effect = self.shard.commit(latest, changes, self.wall_ms, self.keys);
        let reply = match counted {
            Some((kind, name)) => self.settle(&key, kind, &name),
            None => reply,
        };
        (reply, Some(effect))
    }

    /// Shows the exact sum.
    fn settle(&mut self, key: &Bytes, kind: Kind, name: &Bytes) -> Reply {
        match self.shard.counted_value(key, name) {
            Some(Amount::Decimal(number)) => {
                let text = number.format();
                let at = self.keys.expiry(key);
                let shown = Value::Bytes(Bytes::from(text.clone()));
                if self.keys.read(key, kind, name).as_ref() != Some(&shown) {
                    self.keys.write(key, kind, name, &shown);
                    self.keys.set_expiry(key, at);
                }
                Reply::Integer(text.parse().unwrap_or(0))
            }
            Some(Amount::Score(score)) => {
                self.keys.write(key, kind, name, &Value::Score(score));
                Reply::Integer(score as i64)
            }
            None => Reply::Error("a counter shows nothing"),
        }
    }

    fn native(
        &mut self,
        command: &Command,
        key: &Bytes,
        stamp: Stamp,
        ops: &mut Vec<Op>,
    ) -> (Reply, Option<(Kind, Bytes)>) {
        let there = self.keys.get(key).map(Data::kind);
        let wants = |kind: Kind| there.is_none() || there == Some(kind);
        let wrong = (Reply::Error("WRONGTYPE"), None);
        match command {
            Command::SetEx { ttl_ms, .. } | Command::Mark { ttl_ms, .. } => {
                self.keys.delete(key);
                let value = match command {
                    Command::Mark { value, .. } => value.clone(),
                    _ => value_of(self.number, false, 0),
                };
                let value = Value::Bytes(value);
                self.keys.write(key, Kind::Str, b"", &value);
                ops.push(put(Kind::Str, Bytes::new(), stamp, Some(value), false));
                let at = self.wall_ms + ttl_ms;
                self.keys.set_expiry(key, Some(at));
                let later = self.later();
                ops.push(Op::Expire { stamp: later, life: later, at_ms: Some(at) });
                (Reply::Ok, None)
            }
            Command::Append(_) if !wants(Kind::Str) => wrong,
            Command::Append(_) => {
                let old = match self.keys.get(key) {
                    Some(Data::Str(old)) => old.clone(),
                    _ => Bytes::new(),
                };
                let value = [&old[..], format!("+{}", self.number).as_bytes()].concat();
                let value = Value::Bytes(Bytes::from(value));
                let at = self.keys.expiry(key);
                self.keys.write(key, Kind::Str, b"", &value);
                self.keys.set_expiry(key, at);
                ops.push(put(Kind::Str, Bytes::new(), stamp, Some(value), true));
                (Reply::Ok, None)
            }
            Command::HSet(..) if !wants(Kind::Hash) => wrong,
            Command::HSet(_, f) => {
                let value = Value::Bytes(value_of(self.number, false, 0));
                self.keys.write(key, Kind::Hash, &field(*f), &value);
                ops.push(put(Kind::Hash, field(*f), stamp, Some(value), true));
                (Reply::Ok, None)
            }
            Command::SAdd(_, m) => self.element(key, Kind::Set, *m, Some(Value::Member), there, stamp, ops),
            Command::ZAdd(_, m) => {
                let score = Value::Score((self.number % 100) as f64);
                self.element(key, Kind::Zset, *m, Some(score), there, stamp, ops)
            }
            Command::HDel(_, f) => self.element(key, Kind::Hash, *f, None, there, stamp, ops),
            Command::SRem(_, m) => self.element(key, Kind::Set, *m, None, there, stamp, ops),
            Command::ZRem(_, m) => self.element(key, Kind::Zset, *m, None, there, stamp, ops),
            Command::Del(_) => {
                if there.is_some() {
                    self.keys.delete(key);
                    ops.push(Op::Floor(stamp));
                }
                (Reply::Integer(i64::from(there.is_some())), None)
            }
            Command::Expire(_, ttl_ms) => {
                if there.is_some() {
                    let at = Some(self.wall_ms + ttl_ms);
                    self.keys.set_expiry(key, at);
                    ops.extend(self.shard.expire_ops(key, stamp, at, self.keys));
                }
                (Reply::Integer(i64::from(there.is_some())), None)
            }
            Command::Persist(_) => {
                let has = self.keys.expiry(key).is_some();
                if has {
                    self.keys.set_expiry(key, None);
                    ops.extend(self.shard.expire_ops(key, stamp, None, self.keys));
                }
                (Reply::Integer(i64::from(has)), None)
            }
            Command::Incr(_, by) if wants(Kind::Str) => {
                self.count(key, Kind::Str, Bytes::new(), *by, stamp, ops)
            }
            Command::HIncr(_, f, by) if wants(Kind::Hash) => {
                self.count(key, Kind::Hash, field(*f), *by, stamp, ops)
            }
            Command::ZIncr(_, m, by) if wants(Kind::Zset) => {
                self.count(key, Kind::Zset, field(*m), *by, stamp, ops)
            }
            Command::Incr(..) | Command::HIncr(..) | Command::ZIncr(..) => wrong,
            Command::Get(_)
            | Command::HGetAll(_)
            | Command::SMembers(_)
            | Command::ZRange(_)
            | Command::Set { .. }
            | Command::Flush(_) => (Reply::Error("not a write"), None),
        }
    }

    /// A stamp after all that were given out for this write.
    fn later(&mut self) -> Stamp {
        let hlc = self.shard.tick(self.wall_ms);
        self.shard.stamp(hlc)
    }

    #[allow(clippy::too_many_arguments)] // one element of three types, set or removed
    fn element(
        &mut self,
        key: &Bytes,
        kind: Kind,
        name: u8,
        value: Option<Value>,
        there: Option<Kind>,
        stamp: Stamp,
        ops: &mut Vec<Op>,
    ) -> (Reply, Option<(Kind, Bytes)>) {
        if there.is_some_and(|found| found != kind) {
            return (Reply::Error("WRONGTYPE"), None);
        }
        let name = field(name);
        let old = self.keys.read(key, kind, &name);
        if old == value {
            return (Reply::Integer(0), None);
        }
        match &value {
            Some(value) => self.keys.write(key, kind, &name, value),
            None => self.keys.remove(key, kind, &name),
        }
        ops.push(put(kind, name, stamp, value, true));
        (Reply::Integer(1), None)
    }

    fn count(
        &mut self,
        key: &Bytes,
        kind: Kind,
        name: Bytes,
        by: i64,
        stamp: Stamp,
        ops: &mut Vec<Op>,
    ) -> (Reply, Option<(Kind, Bytes)>) {
        let by = match kind {
            Kind::Zset => Amount::Score(by as f64),
            Kind::Str | Kind::Hash | Kind::Set => Amount::Decimal(Decimal::from_int(by)),
        };
        let old = self.keys.read(key, kind, &name);
        if old.as_ref().is_some_and(|old| number_in(old).is_none()) {
            return (Reply::Error("not an integer"), None);
        }
        let prepared = self.shard.prepare_count(key, kind, &name, self.keys);
        let Some(op) = self.shard.count_op(prepared, kind, name.clone(), by, stamp.hlc) else {
            self.shard.abandon_count(key, &name);
            return (Reply::Error("overflow"), None);
        };
        let sum = old.and_then(|old| number_in(&old)).map_or(by, |old| old.plus(by));
        let shown = match sum {
            Amount::Decimal(number) => Value::Bytes(Bytes::from(number.format())),
            Amount::Score(score) => Value::Score(score),
        };
        let at = self.keys.expiry(key);
        self.keys.write(key, kind, &name, &shown);
        self.keys.set_expiry(key, at);
        ops.push(op);
        (Reply::Ok, Some((kind, name)))
    }
}

fn put(kind: Kind, name: Bytes, stamp: Stamp, value: Option<Value>, keep_ttl: bool) -> Op {
    Op::Put { kind, name, stamp, value, keep_ttl }
}
