//! The conversation with the master of one shard in one region. After each call a pause: an engine does nothing else while it answers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, cmd};
use tokio::time::sleep;

use super::compare::{Element, Look};
use super::run::VerifyError;

pub(super) const SLOTS: usize = 16384;
const CALL: Duration = Duration::from_secs(20);
/// After a call that took so long, a pause that is as many times longer: verification has at most a fifth of an engine's time.
const PAUSE_FACTOR: u32 = 4;
/// Bounds of that pause: calls take a millisecond or two, and the rest of a longer one is the way there.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));

/// The master of one shard in one region.
#[derive(Clone)]
pub(super) struct Master {
    pub(super) region: String,
    shard: u16,
    /// Its life: what is repaired is repaired in this one.
    pub(super) incarnation: String,
    /// Keys that it has.
    pub(super) keys: u64,
    connection: MultiplexedConnection,
}

impl Master {
    pub(super) async fn connect(
        region: &str,
        shard: u16,
        address: &str,
        password: &str,
    ) -> Result<Self, VerifyError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CALL)).set_response_timeout(Some(CALL));
        let connect = async {
            let client = Client::open(format!("redis://:{password}@{address}/"))?;
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        let connection = connect.await.map_err(|error: redis::RedisError| VerifyError::Engine {
            region: region.to_owned(),
            shard,
            why: error.to_string(),
        })?;
        let mut master =
            Self { region: region.to_owned(), shard, incarnation: String::new(), keys: 0, connection };
        let identity: HashMap<String, String> = master.ask(&cmd("MAS.IDENTITY")).await?;
        let of = |name: &str| identity.get(name).cloned().unwrap_or_default();
        // One that joins is compared before it serves.
        let serves = of("state") == "serving" || (of("state") == "recovering" && !of("joining").is_empty());
        if of("role") != "master" || !serves {
            return Err(master.odd(&format!("it is {} and {}", of("role"), of("state"))));
        }
        (master.incarnation, master.keys) = (of("incarnation"), of("keys").parse().unwrap_or(0));
        Ok(master)
    }

    pub(super) fn odd(&self, why: &impl ToString) -> VerifyError {
        VerifyError::Engine { region: self.region.clone(), shard: self.shard, why: why.to_string() }
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, VerifyError> {
        self.answer(command).await.map_err(|error| self.odd(&error))
    }

    /// Asks, and pauses.
    async fn answer<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, redis::RedisError> {
        let began = Instant::now();
        let answer = command.query_async(&mut self.connection).await;
        sleep((began.elapsed() * PAUSE_FACTOR).clamp(PAUSE.0, PAUSE.1)).await;
        answer
    }

    /// Its clock, unix milliseconds.
    pub(super) async fn clock_ms(&mut self) -> Result<u64, VerifyError> {
        let cover: Vec<redis::Value> = self.ask(&cmd("MAS.COVER")).await?;
        let clock = cover.get(1).and_then(|value| u64::from_redis_value_ref(value).ok());
        clock.map(|hlc| hlc >> 16).ok_or_else(|| self.odd(&"its clock cannot be read"))
    }

    pub(super) async fn digests(&mut self, beyond_ms: u64) -> Result<Vec<u64>, VerifyError> {
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

    /// The keys of some slots, with their digests.
    pub(super) async fn keys(
        &mut self,
        slots: &[u16],
        beyond_ms: u64,
    ) -> Result<HashMap<Vec<u8>, u64>, VerifyError> {
        let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
        let (slots, mut found, mut cursor) = (slots.join(","), HashMap::new(), Vec::new());
        loop {
            let mut question = cmd("MAS.KEYS").arg(&slots).arg(beyond_ms).to_owned();
            if !cursor.is_empty() {
                question.arg(&cursor[..]);
            }
            let answer: Vec<Vec<u8>> = self.ask(&question).await?;
            let [next, _, _, keys @ ..] = &answer[..] else {
                return Err(self.odd(&"it gives no keys"));
            };
            let (keys, _) = keys.as_chunks::<3>();
            found.extend(keys.iter().map(|[key, digest, _]| (key.clone(), hex(digest).unwrap_or(0))));
            if next.is_empty() {
                return Ok(found);
            }
            cursor.clone_from(next);
        }
    }

    /// Some keys of a random sample, and where to go on; empty: that was all.
    pub(super) async fn sample(
        &mut self,
        seed: u64,
        first: usize,
        percent: u8,
        cursor: &[u8],
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>), VerifyError> {
        let question = cmd("MAS.SAMPLE").arg(seed).arg(first).arg(percent).arg(cursor).to_owned();
        let mut answer: Vec<Vec<u8>> = self.ask(&question).await?;
        if answer.is_empty() {
            return Err(self.odd(&"it gives no sample"));
        }
        let next = answer.remove(0);
        Ok((next, answer))
    }

    pub(super) async fn look(&mut self, key: &[u8], after: Option<&[u8]>) -> Result<Look, VerifyError> {
        let answer: Vec<Vec<u8>> = self.ask(cmd("MAS.ELEMENTS").arg(key).arg(after)).await?;
        parse_look(&answer).ok_or_else(|| self.odd(&"its answer about a key is not understood"))
    }

    /// What it holds of some elements of a key (none named: of all, behind `after`) and was told up to `until`; and the name to go on
    /// behind, if there is more.
    pub(super) async fn ship(
        &mut self,
        key: &[u8],
        only: &[Vec<u8>],
        after: Option<&[u8]>,
        until: u64,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
        let mut question = cmd("MAS.SHIP").arg(&self.incarnation).arg(until).arg(key).to_owned();
        if !only.is_empty() {
            question.arg("ONLY").arg(only);
        } else if let Some(after) = after {
            question.arg("AFTER").arg(after);
        }
        let answer: Result<Vec<Vec<u8>>, _> = self.answer(&question).await;
        let mut answer = answer.map_err(|error| self.words(&error))?.into_iter();
        let piece = answer.next().ok_or_else(|| format!("{} ships nothing", self.region))?;
        Ok((piece, answer.next()))
    }

    pub(super) async fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        let question = cmd("MAS.REPAIR").arg(&self.incarnation).arg(piece).to_owned();
        let done: Result<Vec<i64>, _> = self.answer(&question).await;
        done.map(drop).map_err(|error| self.words(&error))
    }

    fn words(&self, error: &redis::RedisError) -> String {
        format!(
            "{} says: {}",
            self.region,
            error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned)
        )
    }
}

fn text(word: &[u8]) -> Option<&str> {
    std::str::from_utf8(word).ok()
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    text(word)?.parse().ok()
}

fn hex(word: &[u8]) -> Option<u64> {
    u64::from_str_radix(text(word)?, 16).ok()
}

/// `-1`, which is no such number: none.
fn time(word: &[u8]) -> Option<u64> {
    number(word)
}

fn parse_look(answer: &[Vec<u8>]) -> Option<Look> {
    let (head, elements) = answer.split_first_chunk::<10>()?;
    let [merged, collected, more, kind, shown, shown_at, ttl, at, latest, rank] = head;
    let mut look = Look {
        merged: number(merged)?,
        collected: number(collected)?,
        more: more == b"1",
        kind: text(kind)?.to_owned(),
        shown_elements: number(shown)?,
        shown_at_ms: time(shown_at),
        ttl: hex(ttl)?,
        at_ms: time(at),
        latest: number(latest)?,
        rank: number(rank)?,
        elements: Vec::with_capacity(elements.len() / 8),
    };
    for [name, digest, hlc, region, incarnation, hash, size, fits] in elements.as_chunks::<8>().0 {
        look.elements.push(Element {
            name: name.clone(),
            digest: hex(digest)?,
            latest: number(hlc)?,
            region: number(region)?,
            incarnation: text(incarnation)?.to_owned(),
            shown: if hash.is_empty() { None } else { Some((hex(hash)?, number(size)?)) },
            fits: fits == b"1",
        });
    }
    Some(look)
}
