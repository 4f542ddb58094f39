//! Native keys, as a Redis server would hold them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mas_core::effect::{Kind, Value};
use mas_core::keyspace::Keyspace;
use mas_core::slot::slot_of;

use crate::rng::Rng;

/// What a key shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Str(Bytes),
    Hash(BTreeMap<Bytes, Bytes>),
    Set(BTreeSet<Bytes>),
    Zset(BTreeMap<Bytes, f64>),
}

impl Data {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Str(_) => Kind::Str,
            Self::Hash(_) => Kind::Hash,
            Self::Set(_) => Kind::Set,
            Self::Zset(_) => Kind::Zset,
        }
    }

    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Str => Self::Str(Bytes::new()),
            Kind::Hash => Self::Hash(BTreeMap::new()),
            Kind::Set => Self::Set(BTreeSet::new()),
            Kind::Zset => Self::Zset(BTreeMap::new()),
        }
    }
}

/// See the module. Each key with its value and when it expires, unix milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) map: BTreeMap<Bytes, (Data, Option<u64>)>,
    /// What a server draws when it starts and hashes names with: its own order of `SCAN`, in which no other's cursor means anything.
    pub(crate) order: u64,
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map
    }
}

impl Keys {
    /// Where a key is in the order of `SCAN`.
    fn place(&self, key: &[u8]) -> [u8; 8] {
        let hash = |hash: u64, byte: &u8| Rng::new(hash ^ u64::from(*byte)).next();
        key.iter().fold(self.order, hash).to_be_bytes()
    }

    /// Takes away the keys whose time has come, and names them.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Bytes> {
        let due = |at: &Option<u64>| at.is_some_and(|at| at <= now_ms);
        let names: Vec<Bytes> =
            self.map.iter().filter(|(_, (_, at))| due(at)).map(|(key, _)| key.clone()).collect();
        for name in &names {
            self.map.remove(name);
        }
        names
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Data> {
        self.map.get(key).map(|(data, _)| data)
    }

    pub(crate) fn expiry(&self, key: &[u8]) -> Option<u64> {
        self.map.get(key).and_then(|(_, at)| *at)
    }
}

impl Keyspace for Keys {
    fn read(&mut self, key: &[u8], kind: Kind, name: &[u8]) -> Option<Value> {
        match (self.get(key)?, kind) {
            (Data::Str(v), Kind::Str) => Some(Value::Bytes(v.clone())),
            (Data::Hash(m), Kind::Hash) => m.get(name).map(|v| Value::Bytes(v.clone())),
            (Data::Set(s), Kind::Set) => s.contains(name).then_some(Value::Member),
            (Data::Zset(m), Kind::Zset) => m.get(name).map(|s| Value::Score(*s)),
            _ => None,
        }
    }

    fn exists(&mut self, key: &[u8]) -> bool {
        self.map.contains_key(key)
    }

    fn write(&mut self, key: &[u8], kind: Kind, name: &[u8], value: &Value) {
        let key = Bytes::copy_from_slice(key);
        // As the engine: a key of another type gives way.
        if self.map.get(&key).is_some_and(|(data, _)| data.kind() != kind) {
            self.map.remove(&key);
        }
        let entry = self.map.entry(key).or_insert_with(|| (Data::new(kind), None));
        let name = Bytes::copy_from_slice(name);
        match (&mut entry.0, value) {
            (Data::Str(v), Value::Bytes(b)) => {
                *v = b.clone();
                entry.1 = None;
            }
            (Data::Hash(m), Value::Bytes(b)) => drop(m.insert(name, b.clone())),
            (Data::Set(s), Value::Member) => drop(s.insert(name)),
            (Data::Zset(m), Value::Score(s)) => drop(m.insert(name, *s)),
            _ => {}
        }
    }

    fn remove(&mut self, key: &[u8], kind: Kind, name: &[u8]) {
        let Some((data, _)) = self.map.get_mut(key) else { return };
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
            self.map.remove(key);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.map.remove(key);
    }

    fn set_expiry(&mut self, key: &[u8], at_ms: Option<u64>) {
        if let Some((_, at)) = self.map.get_mut(key) {
            *at = at_ms;
        }
    }

    fn keys_in_slots(&mut self, first: u16, last: u16) -> Vec<Vec<u8>> {
        self.map.keys().filter(|k| (first..=last).contains(&slot_of(k))).map(|k| k.to_vec()).collect()
    }

    fn scan(&mut self, cursor: &[u8], count: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let places = self.map.keys().map(|key| (self.place(key), key));
        let mut after: Vec<_> = places.filter(|(place, _)| &place[..] > cursor).collect();
        after.sort_unstable();
        let next = if after.len() > count { after[count - 1].0.to_vec() } else { Vec::new() };
        (next, after.into_iter().take(count).map(|(_, key)| key.to_vec()).collect())
    }
}
