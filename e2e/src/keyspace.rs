//! Everything that a region holds, read as any client could read it, and how two regions differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::{Connection, FromRedisValue, Pipeline, Value, from_redis_value};

use crate::load::Endpoints;
use crate::wait_until;

const CHUNK: usize = 500;
const SHOWN: usize = 12;

type Bytes = Vec<u8>;

/// The value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A string.
    Text(Bytes),
    /// A hash.
    Hash(BTreeMap<Bytes, Bytes>),
    /// A set.
    Set(BTreeSet<Bytes>),
    /// A sorted set, with scores as Redis writes them.
    Sorted(BTreeMap<Bytes, Bytes>),
}

/// A key's value and when it ends (unix milliseconds; `None`: never).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub content: Content,
    /// The end.
    pub expires_at: Option<i64>,
}

/// All keys of a region.
pub type Keyspace = BTreeMap<Bytes, Entry>;

/// One key that two regions hold differently.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The key.
    pub key: Bytes,
    /// What the one region has.
    pub one: Option<Entry>,
    /// What the other has.
    pub other: Option<Entry>,
}

/// Reads all keys that match `pattern` (`*`: all).
pub fn read(connection: &mut Connection, pattern: &str) -> Result<Keyspace> {
    let keys: Vec<Bytes> = scan(connection, pattern)?.into_iter().collect();
    let mut all = Keyspace::new();
    for chunk in keys.chunks(CHUNK) {
        read_chunk(connection, chunk, &mut all)?;
    }
    Ok(all)
}

fn scan(connection: &mut Connection, pattern: &str) -> Result<BTreeSet<Bytes>> {
    let mut keys = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
        let (next, page): (Bytes, Vec<Bytes>) = command.query(connection).context("SCAN failed")?;
        keys.extend(page);
        if next == b"0" {
            return Ok(keys);
        }
        cursor = next;
    }
}

fn read_chunk(connection: &mut Connection, keys: &[Bytes], all: &mut Keyspace) -> Result<()> {
    let mut kinds = Pipeline::with_capacity(keys.len());
    for key in keys {
        kinds.cmd("TYPE").arg(key);
    }
    let kinds: Vec<String> = kinds.query(connection).context("TYPE failed")?;
    let mut pipe = Pipeline::with_capacity(keys.len() * 2);
    for (key, kind) in keys.iter().zip(&kinds) {
        match kind.as_str() {
            "hash" => pipe.cmd("HGETALL").arg(key),
            "set" => pipe.cmd("SMEMBERS").arg(key),
            "zset" => pipe.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES"),
            // A key that has just expired reads as no string.
            _ => pipe.cmd("GET").arg(key),
        };
        pipe.cmd("PEXPIRETIME").arg(key);
    }
    // Errors inside are looked at one by one: a key may change its type between the two trips.
    pipe.ignore_errors();
    let replies: Vec<Value> = pipe.query(connection).context("reading values failed")?;
    for ((key, kind), reply) in keys.iter().zip(&kinds).zip(replies.chunks(2)) {
        let [value, expiry] = reply else { continue };
        let Some(content) = content(kind, value.clone()) else { continue };
        let at: i64 = from_redis_value(expiry.clone()).context("reading PEXPIRETIME's reply failed")?;
        // -2: gone by now.
        if at != -2 {
            all.insert(key.clone(), Entry { content, expires_at: (at >= 0).then_some(at) });
        }
    }
    Ok(())
}

fn content(kind: &str, value: Value) -> Option<Content> {
    fn take<T: FromRedisValue + Default + PartialEq>(value: Value) -> Option<T> {
        from_redis_value::<T>(value).ok().filter(|value| *value != T::default())
    }
    match kind {
        "string" => from_redis_value::<Option<Bytes>>(value).ok().flatten().map(Content::Text),
        "hash" => take(value).map(Content::Hash),
        "set" => take(value).map(Content::Set),
        "zset" => take(value).map(Content::Sorted),
        _ => None,
    }
}

/// The keys that differ.
pub fn differences(one: &Keyspace, other: &Keyspace) -> Vec<Difference> {
    let keys: BTreeSet<&Bytes> = one.keys().chain(other.keys()).collect();
    let pairs = keys.into_iter().map(|key| (key, one.get(key), other.get(key)));
    pairs
        .filter(|(_, one, other)| one != other)
        .map(|(key, one, other)| Difference { key: key.clone(), one: one.cloned(), other: other.cloned() })
        .collect()
}

/// Waits until all regions hold the same keys that match `pattern`, and gives them. An error shows differences.
pub fn wait_equal(store: &impl Endpoints, pattern: &str, limit: Duration) -> Result<Keyspace> {
    let regions = store.regions();
    wait_until("all regions to be equal", limit, || {
        let read = |region: &&str| {
            let mut connection = store.connect_to(region)?;
            read(&mut connection, pattern).with_context(|| format!("reading {region} failed"))
        };
        let spaces: Result<Vec<_>> = regions.iter().map(read).collect();
        let mut spaces = spaces.map_err(|error| format!("{error:#}"))?;
        for (region, space) in regions.iter().zip(&spaces).skip(1) {
            let found = differences(&spaces[0], space);
            if !found.is_empty() {
                return Err(describe(regions[0], region, &found));
            }
        }
        Ok(spaces.swap_remove(0))
    })
}

fn describe(one: &str, other: &str, found: &[Difference]) -> String {
    let lines = found.iter().take(SHOWN).map(|difference| {
        let show = |entry: &Option<Entry>| entry.as_ref().map_or("nothing".to_owned(), ToString::to_string);
        let key = String::from_utf8_lossy(&difference.key);
        format!("\n  {key}: {one} has {}, {other} has {}", show(&difference.one), show(&difference.other))
    });
    format!("{} keys differ:{}", found.len(), lines.collect::<String>())
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.content)?;
        self.expires_at.map_or(Ok(()), |at| write!(f, " until {at}"))
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |bytes: &Bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let pairs = |map: &BTreeMap<Bytes, Bytes>| {
            map.iter()
                .take(8)
                .map(|(name, value)| format!("{} {}", short(name), short(value)))
                .collect::<Vec<_>>()
        };
        match self {
            Self::Text(text) => f.write_str(&short(text)),
            Self::Hash(fields) => write!(f, "{{{}}}", pairs(fields).join(", ")),
            Self::Sorted(members) => write!(f, "[{}]", pairs(members).join(", ")),
            Self::Set(members) => {
                write!(f, "({})", members.iter().take(8).map(short).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_each_has() {
        let entry = |text: &str| Entry { content: Content::Text(text.into()), expires_at: None };
        let one: Keyspace = [(b"a".to_vec(), entry("1")), (b"b".to_vec(), entry("2"))].into();
        let other: Keyspace = [(b"b".to_vec(), entry("3")), (b"c".to_vec(), entry("4"))].into();
        let found = differences(&one, &other);
        assert_eq!(
            describe("x", "y", &found),
            "3 keys differ:\n  a: x has 1, y has nothing\n  b: x has 2, y has 3\n  c: x has nothing, y has 4"
        );
        assert!(differences(&one, &one).is_empty());
    }
}
