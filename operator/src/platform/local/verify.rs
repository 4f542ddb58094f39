//! Compares what the regions of a local store hold: the digests of all slots, then, where they differ, key by key; and the
//! values of some keys.
//!
//! Writes may be under way, so what differs is looked at again. A key counts as different only when each side has
//! merged through the latest clock that the other side knows of it, and through all that the other has forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, cmd};
use serde::Serialize;
use tokio::time::sleep;

use super::layout::Layout;
use crate::view::StoreStatus;

const SLOTS: usize = 16384;
const CALL: Duration = Duration::from_secs(20);
/// How often what differs is looked at before it is left undecided, and the time in between.
const ROUNDS: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);
/// Keys that expire sooner are not compared: each region forgets them in its own time.
const SOON_MS: u64 = 15_000;
/// Slots that are looked into, key by key.
const SLOTS_MAX: usize = 50;
/// Of larger keys only the size is compared.
const ELEMENTS_MAX: u64 = 10_000;

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No master to ask.
    #[error("shard {shard} of {region} has no master: `masctl status` says how the store is")]
    NoMaster {
        /// The region.
        region: String,
        /// The shard.
        shard: u16,
    },
    /// It did not answer, or not as it should.
    #[error("asking the master of shard {shard} of {region} failed: {why}")]
    Engine {
        /// The region.
        region: String,
        /// The shard.
        shard: u16,
        /// Why.
        why: String,
    },
}

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The store's name.
    pub store: String,
    /// Its regions.
    pub regions: Vec<String>,
    /// Slots compared, of every pair of regions.
    pub slots: usize,
    /// Keys whose values were compared.
    pub sampled: u64,
    /// Keys that differ.
    pub differences: Vec<Difference>,
    /// What could not be decided: writes were under way, or a region lacks something still.
    pub undecided: Vec<String>,
}

impl Verdict {
    /// Everything was compared, and nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.undecided.is_empty()
    }
}

/// A key that two regions hold differently, though both have everything that was said of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Its name.
    pub key: String,
    /// Its slot.
    pub slot: u16,
    /// Its shard.
    pub shard: u16,
    /// The two regions.
    pub regions: [String; 2],
    /// `metadata` or `value`.
    pub what: &'static str,
    /// How each of them holds it.
    pub held: [String; 2],
}

/// The master of one shard in one region.
struct Master {
    region: String,
    shard: u16,
    connection: MultiplexedConnection,
}

/// What a copy says of the keys of a slot.
#[derive(Default)]
struct Keys {
    merged: u64,
    collected: u64,
    /// Digest and latest clock.
    named: BTreeMap<Vec<u8>, (String, u64)>,
}

/// Compares all regions of a running store, and the values of `sample` keys.
pub async fn verify(layout: &Layout, status: &StoreStatus, sample: u64) -> Result<Verdict, VerifyError> {
    let password = std::fs::read_to_string(layout.secrets().join("engine")).unwrap_or_default();
    let mut verdict = Verdict { store: status.store.clone(), ..Verdict::default() };
    verdict.regions = status.regions.iter().map(|region| region.name.clone()).collect();
    let shards = status.regions.iter().map(|region| region.shards.len()).max().unwrap_or(0);
    for shard in 0..shards {
        let mut masters = Vec::new();
        for region in &status.regions {
            let shard = shard as u16;
            let found = region.shards.iter().find(|s| s.shard == shard).and_then(|s| s.master.clone());
            let missing = VerifyError::NoMaster { region: region.name.clone(), shard };
            masters.push(Master::connect(&region.name, shard, &found.ok_or(missing)?, &password).await?);
        }
        compare_slots(&mut masters, &mut verdict).await?;
        let share = sample / shards as u64 + u64::from((shard as u64) < sample % shards as u64);
        for n in 0..share {
            compare_some_value(&mut masters, n as usize, &mut verdict).await?;
        }
    }
    verdict.differences.sort();
    verdict.differences.dedup();
    Ok(verdict)
}

impl Master {
    async fn connect(region: &str, shard: u16, address: &str, password: &str) -> Result<Self, VerifyError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CALL)).set_response_timeout(Some(CALL));
        let connect = async {
            let client = Client::open(format!("redis://:{}@{address}/", password.trim()))?;
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        let connection = connect.await.map_err(|error: redis::RedisError| VerifyError::Engine {
            region: region.to_owned(),
            shard,
            why: error.to_string(),
        })?;
        Ok(Self { region: region.to_owned(), shard, connection })
    }

    fn odd(&self, why: &impl ToString) -> VerifyError {
        VerifyError::Engine { region: self.region.clone(), shard: self.shard, why: why.to_string() }
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, VerifyError> {
        let answer = command.query_async(&mut self.connection).await;
        answer.map_err(|error| self.odd(&error))
    }

    /// Its clock, unix milliseconds.
    async fn clock_ms(&mut self) -> Result<u64, VerifyError> {
        let cover: Vec<redis::Value> = self.ask(&cmd("MAS.COVER")).await?;
        let clock = cover.get(1).and_then(|value| u64::from_redis_value_ref(value).ok());
        clock.map(|hlc| hlc >> 16).ok_or_else(|| self.odd(&"its clock cannot be read"))
    }

    async fn digests(&mut self, beyond_ms: u64) -> Result<Vec<u64>, VerifyError> {
        let mut all = Vec::with_capacity(SLOTS);
        while all.len() < SLOTS {
            let question = cmd("MAS.DIGEST").arg(all.len()).arg(SLOTS - 1).arg(beyond_ms).to_owned();
            let answer: Vec<Vec<u8>> = self.ask(&question).await?;
            let (words, _) = answer.get(5).map_or(&[][..], Vec::as_slice).as_chunks::<8>();
            if words.is_empty() {
                return Err(self.odd(&"it gives no digests"));
            }
            all.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        }
        Ok(all)
    }

    async fn keys(&mut self, slot: u16, beyond_ms: u64) -> Result<Keys, VerifyError> {
        let mut found = Keys { merged: u64::MAX, ..Keys::default() };
        let mut cursor: Vec<u8> = Vec::new();
        loop {
            let mut question = cmd("MAS.KEYS").arg(slot).arg(beyond_ms).to_owned();
            if !cursor.is_empty() {
                question.arg(&cursor[..]);
            }
            let answer: Vec<Vec<u8>> = self.ask(&question).await?;
            let [next, merged, collected, keys @ ..] = &answer[..] else {
                return Err(self.odd(&"it gives no keys"));
            };
            found.merged = found.merged.min(number(merged));
            found.collected = found.collected.max(number(collected));
            let (keys, _) = keys.as_chunks::<3>();
            for [key, digest, latest] in keys {
                let digest = String::from_utf8_lossy(digest).into_owned();
                found.named.insert(key.clone(), (digest, number(latest)));
            }
            if next.is_empty() {
                return Ok(found);
            }
            cursor.clone_from(next);
        }
    }
}

fn number(word: &[u8]) -> u64 {
    std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn beyond(masters: &mut [Master]) -> Result<u64, VerifyError> {
    let clocks = try_join_all(masters.iter_mut().map(Master::clock_ms)).await?;
    Ok(clocks.into_iter().max().unwrap_or(0) + SOON_MS)
}

async fn compare_slots(masters: &mut [Master], verdict: &mut Verdict) -> Result<(), VerifyError> {
    let mut differ: BTreeSet<u16> = BTreeSet::new();
    for round in 0..ROUNDS {
        let beyond_ms = beyond(masters).await?;
        let all = try_join_all(masters.iter_mut().map(|master| master.digests(beyond_ms))).await?;
        let differs = |slot: &usize| all.iter().any(|digests| digests[*slot] != all[0][*slot]);
        let now: BTreeSet<u16> = (0..SLOTS).filter(differs).map(|slot| slot as u16).collect();
        differ = if round == 0 { now } else { differ.intersection(&now).copied().collect() };
        if differ.is_empty() {
            break;
        }
        sleep(PAUSE).await;
    }
    verdict.slots += SLOTS;
    let shard = masters.first().map_or(0, |master| master.shard);
    if differ.len() > SLOTS_MAX {
        let more = differ.len() - SLOTS_MAX;
        verdict.undecided.push(format!("{more} more slots of shard {shard} differ and were not looked into"));
    }
    for slot in differ.into_iter().take(SLOTS_MAX) {
        compare_keys(masters, slot, verdict).await?;
    }
    Ok(())
}

async fn compare_keys(masters: &mut [Master], slot: u16, verdict: &mut Verdict) -> Result<(), VerifyError> {
    let mut open = Vec::new();
    for _ in 0..ROUNDS {
        let beyond_ms = beyond(masters).await?;
        let all = try_join_all(masters.iter_mut().map(|master| master.keys(slot, beyond_ms))).await?;
        let mut found = Vec::new();
        open.clear();
        for (at, a) in all.iter().enumerate() {
            for (other, b) in all.iter().enumerate().skip(at + 1) {
                let regions = [masters[at].region.clone(), masters[other].region.clone()];
                let names: BTreeSet<&Vec<u8>> = a.named.keys().chain(b.named.keys()).collect();
                for key in names {
                    let (mine, theirs) = (a.of(key), b.of(key));
                    if mine.0 == theirs.0 {
                        continue;
                    }
                    let merged = a.merged.min(b.merged);
                    let known = mine.1.max(theirs.1) <= merged && a.collected.max(b.collected) <= merged;
                    let difference = Difference {
                        key: String::from_utf8_lossy(key).into_owned(),
                        slot,
                        shard: masters[at].shard,
                        regions: regions.clone(),
                        what: "metadata",
                        held: [held(mine), held(theirs)],
                    };
                    if known { found.push(difference) } else { open.push(difference) }
                }
            }
        }
        if !found.is_empty() || open.is_empty() {
            verdict.differences.append(&mut found);
            break;
        }
        sleep(PAUSE).await;
    }
    verdict.undecided.extend(open.into_iter().map(|d| {
        let [a, b] = &d.regions;
        format!(
            "'{}' (slot {slot}) differs between {a} and {b}, and one of them has not merged everything yet",
            d.key
        )
    }));
    Ok(())
}

const NOTHING: &str = "0000000000000000";

impl Keys {
    /// Digest and latest clock; what is not there may have been forgotten, as far as `collected` says.
    fn of(&self, key: &[u8]) -> (&str, u64) {
        self.named.get(key).map_or((NOTHING, 0), |(digest, latest)| (digest, *latest))
    }
}

fn held((digest, latest): (&str, u64)) -> String {
    match digest {
        NOTHING => "not there".to_owned(),
        _ => format!("digest {digest}, written last at {} ms", latest >> 16),
    }
}

/// A key's value in an order of its own, when it expires, and its latest stamp.
struct Shown {
    kind: String,
    size: u64,
    value: Vec<Vec<u8>>,
    at_ms: i64,
    stamp: Vec<String>,
}

impl Shown {
    fn is_as(&self, other: &Self) -> bool {
        let all = |s: &Self| (s.kind.clone(), s.size, s.at_ms);
        all(self) == all(other) && self.value == other.value
    }
}

impl Master {
    async fn shown(&mut self, key: &[u8]) -> Result<Shown, VerifyError> {
        let kind: String = self.ask(cmd("TYPE").arg(key)).await?;
        let stamp: Vec<String> = self.ask(cmd("MAS.STAMP").arg(key)).await?;
        let at_ms = self.ask(cmd("PEXPIRETIME").arg(key)).await?;
        let (size, read): (&str, &[&str]) = match kind.as_str() {
            "string" => ("STRLEN", &["GET"]),
            "hash" => ("HLEN", &["HGETALL"]),
            "set" => ("SCARD", &["SMEMBERS"]),
            "zset" => ("ZCARD", &["ZRANGE", "0", "-1", "WITHSCORES"]),
            _ => return Ok(Shown { kind, size: 0, value: Vec::new(), at_ms, stamp }),
        };
        let size = self.ask(cmd(size).arg(key)).await?;
        let mut question = cmd(read[0]);
        question.arg(key).arg(&read[1..]);
        let mut value: Vec<Vec<u8>> = match kind.as_str() {
            "string" => vec![self.ask(&question).await?],
            _ if size > ELEMENTS_MAX => Vec::new(),
            _ => self.ask(&question).await?,
        };
        if kind == "set" {
            value.sort_unstable();
        } else if kind == "hash" {
            let mut pairs: Vec<&[Vec<u8>]> = value.chunks(2).collect();
            pairs.sort_unstable();
            value = pairs.concat();
        }
        Ok(Shown { kind, size, value, at_ms, stamp })
    }
}

/// Compares the value of one random key of one of the regions in all of them.
async fn compare_some_value(
    masters: &mut [Master],
    from: usize,
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let from = from % masters.len();
    let Some(key): Option<Vec<u8>> = masters[from].ask(&cmd("RANDOMKEY")).await? else { return Ok(()) };
    verdict.sampled += 1;
    for _ in 0..ROUNDS {
        let soon = beyond(masters).await?;
        let all = try_join_all(masters.iter_mut().map(|master| master.shown(&key))).await?;
        let expires = all.iter().any(|shown| u64::try_from(shown.at_ms).is_ok_and(|at| at <= soon));
        let Some(other) = all.iter().position(|shown| !shown.is_as(&all[from])).filter(|_| !expires) else {
            return Ok(());
        };
        // The same latest write, and another value.
        if all[other].stamp == all[from].stamp {
            let (a, b) = (from.min(other), from.max(other));
            let held = |shown: &Shown| match shown.kind.as_str() {
                "none" => "not there".to_owned(),
                kind => format!("{kind} of size {}, expires {}", shown.size, shown.at_ms),
            };
            verdict.differences.push(Difference {
                key: String::from_utf8_lossy(&key).into_owned(),
                slot: mas_core::slot::slot_of(&key),
                shard: masters[from].shard,
                regions: [masters[a].region.clone(), masters[b].region.clone()],
                what: "value",
                held: [held(&all[a]), held(&all[b])],
            });
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    verdict.undecided.push(format!("'{}' was written to all the time", String::from_utf8_lossy(&key)));
    Ok(())
}
