//! What clients do: commands on few keys, so that regions meet on them.

use bytes::Bytes;

use crate::executor::{MS, SEC, Time};
use crate::rng::Rng;
use crate::setup::Setup;
use crate::situation::About;

/// A command, as a client sends it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Get(String),
    HGetAll(String),
    SMembers(String),
    ZRange(String),
    /// The value is made of the operation's number; `bytes` pads it, `number` makes it an integer.
    Set {
        key: String,
        number: bool,
        bytes: usize,
    },
    SetEx {
        key: String,
        ttl_ms: u64,
    },
    /// What the operator writes.
    Mark {
        key: String,
        value: Bytes,
        ttl_ms: u64,
    },
    Append(String),
    Incr(String, i64),
    Del(String),
    HSet(String, u8),
    HDel(String, u8),
    HIncr(String, u8, i64),
    SAdd(String, u8),
    SRem(String, u8),
    ZAdd(String, u8),
    ZIncr(String, u8, i64),
    ZRem(String, u8),
    Expire(String, u64),
    Persist(String),
    /// Of one shard.
    Flush(u16),
}

impl Command {
    /// The key; `None` for a whole shard.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Set { key, .. } | Self::SetEx { key, .. } | Self::Mark { key, .. } => Some(key),
            Self::Get(k)
            | Self::HGetAll(k)
            | Self::SMembers(k)
            | Self::ZRange(k)
            | Self::Append(k)
            | Self::Incr(k, _)
            | Self::Del(k)
            | Self::Persist(k)
            | Self::Expire(k, _)
            | Self::HSet(k, _)
            | Self::HDel(k, _)
            | Self::HIncr(k, ..)
            | Self::SAdd(k, _)
            | Self::SRem(k, _)
            | Self::ZAdd(k, _)
            | Self::ZIncr(k, ..)
            | Self::ZRem(k, _) => Some(k),
            Self::Flush(_) => None,
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Get(_) | Self::HGetAll(_) | Self::SMembers(_) | Self::ZRange(_))
    }
}

/// The level that a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Local,
    Queued,
    Remote(u16),
}

/// One step of a session.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Do(Command, Asked),
    /// Takes a token, goes to another region's proxy, and waits there until it is covered.
    Move(u16),
}

/// A planned step.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) number: usize,
    pub(crate) at: Time,
    pub(crate) session: usize,
    pub(crate) step: Step,
}

/// A client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionPlan {
    pub(crate) region: u16,
}

/// Every write is a write of a key class, so that a checker knows what can happen to it:
/// `k` anything but times to live, `r` whole strings only, `c` counters only, `e` times to live. (`p` keys are passing ones,
/// see [`crate::stories`].)
fn command(rng: &mut Rng, setup: &Setup, (class, which): (u64, u64), large: bool) -> Command {
    let key = |class: char, count: u64| format!("{class}{}", which % count);
    let element = |rng: &mut Rng| rng.below(3) as u8;
    let by = |rng: &mut Rng| rng.range(1, 40) as i64 - 20;
    match class {
        0 | 1 => {
            let key = key('r', 3);
            if rng.chance(400) {
                Command::Get(key)
            } else {
                let bytes = if large && rng.chance(60) { rng.range(1 << 20, 5 << 19) as usize } else { 0 };
                Command::Set { key, number: false, bytes }
            }
        }
        2 => {
            let key = key('c', 2);
            match rng.below(10) {
                0..3 => Command::Get(key),
                3 => Command::Set { key, number: true, bytes: 0 },
                4 => Command::Del(key),
                _ => Command::Incr(key, by(rng)),
            }
        }
        3 => {
            let key = key('h', 2);
            match rng.below(10) {
                0..2 => Command::HGetAll(key),
                2..5 => Command::HSet(key, element(rng)),
                5..7 => Command::HDel(key, element(rng)),
                7 => Command::Del(key),
                _ => Command::HIncr(format!("hc{}", which % 2), element(rng), by(rng)),
            }
        }
        4 => {
            let key = key('s', 2);
            match rng.below(10) {
                0..2 => Command::SMembers(key),
                2..6 => Command::SAdd(key, element(rng)),
                6..9 => Command::SRem(key, element(rng)),
                _ => Command::Del(key),
            }
        }
        5 => {
            let key = key('z', 2);
            match rng.below(10) {
                0..2 => Command::ZRange(key),
                2..4 => Command::ZAdd(key, element(rng)),
                4..8 => Command::ZIncr(key, element(rng), by(rng)),
                8 => Command::ZRem(key, element(rng)),
                _ => Command::Del(key),
            }
        }
        6 => {
            let ttl = if rng.chance(300) { rng.range(20_000, 40_000) } else { rng.range(20, 1500) };
            // Sets and pure counters: what the metadata knows comes back with a late renewal.
            if which >= 2 {
                let key = if which < 4 { format!("es{which}") } else { format!("ec{which}") };
                return match rng.below(10) {
                    0..4 if which < 4 => Command::SAdd(key, element(rng)),
                    4 if which < 4 => Command::SRem(key, element(rng)),
                    0..4 => Command::Incr(key, by(rng)),
                    5 => Command::Persist(key),
                    6 => Command::Del(key),
                    _ => Command::Expire(key, ttl),
                };
            }
            let key = key('e', 3);
            match rng.below(10) {
                0..2 => Command::Get(key),
                2..4 => Command::SetEx { key, ttl_ms: ttl },
                4 => Command::Set { key, number: true, bytes: 0 },
                5 => Command::Persist(key),
                6 => Command::Del(key),
                7 => Command::Incr(key, by(rng)),
                _ => Command::Expire(key, ttl),
            }
        }
        // Three types that meet on one key.
        7 if which >= 4 => {
            let key = "k3".to_owned();
            match rng.below(8) {
                0 | 1 => Command::Set { key, number: rng.chance(500), bytes: 0 },
                2..5 => Command::HSet(key, element(rng)),
                5 | 6 => Command::SAdd(key, element(rng)),
                _ => Command::HGetAll(key),
            }
        }
        _ => {
            let key = key('k', 3);
            match rng.below(20) {
                0..3 => Command::Get(key),
                3..6 => Command::Set { key, number: rng.chance(500), bytes: 0 },
                6 => Command::Append(key),
                7..9 => Command::Incr(key, by(rng)),
                9..12 => Command::Del(key),
                12 | 13 => Command::HSet(key, element(rng)),
                14 => Command::HIncr(key, element(rng), by(rng)),
                15 | 16 => Command::SAdd(key, element(rng)),
                17 => Command::ZAdd(key, element(rng)),
                18 => Command::ZIncr(key, element(rng), by(rng)),
                _ if rng.chance(300) => Command::Flush(rng.below(u64::from(setup.shards)) as u16),
                _ => Command::SMembers(key),
            }
        }
    }
}

/// Draws the sessions and what they do.
pub(crate) fn draw(rng: &mut Rng, setup: &Setup) -> (Vec<SessionPlan>, Vec<Operation>) {
    let regions = setup.regions.len() as u64;
    let freezes = matches!(setup.situation.about, About::Freezing | About::Blinking);
    let each = if freezes { rng.range(4, 8) } else { rng.range(2, 4) };
    let sessions: Vec<SessionPlan> =
        (0..regions * each).map(|n| SessionPlan { region: (n % regions) as u16 + 1 }).collect();
    let theme = rng.below(8);
    let large = rng.chance(120);
    let rate = rng.range(10, 40) / if setup.situation.is_long() { 3 } else { 1 };
    let count = setup.duration / SEC * rate;
    let mut operations: Vec<Operation> = Vec::new();
    // Bursts: several regions write the same key within a moment, often the same millisecond.
    while (operations.len() as u64) < count {
        let at = rng.below(setup.duration);
        let burst = if rng.chance(250) { rng.range(2, 5) } else { 1 };
        // Runs about one thing meet more often on it.
        let class = if theme > 0 && rng.chance(700) { theme } else { rng.below(8) };
        let topic = (class, rng.below(6));
        let first = command(rng, setup, topic, large);
        let spread = *rng.pick(&[MS, MS, 30 * MS, 300 * MS]);
        let skip = rng.below(sessions.len() as u64);
        for n in 0..burst {
            let session = ((skip + n) % sessions.len() as u64) as usize;
            let step = if rng.chance(15) {
                Step::Move(rng.below(regions) as u16 + 1)
            } else {
                let command =
                    if n == 0 || rng.chance(400) { first.clone() } else { command(rng, setup, topic, large) };
                Step::Do(command, asked(rng))
            };
            operations.push(Operation { number: 0, at: at + rng.below(spread), session, step });
        }
    }
    operations.extend(crate::stories::draw(rng, setup, &sessions));
    operations.sort_by_key(|o| (o.at, o.session));
    for (number, operation) in operations.iter_mut().enumerate() {
        operation.number = number + 1;
    }
    (sessions, operations)
}

/// The level of a write.
pub(crate) fn asked(rng: &mut Rng) -> Asked {
    match rng.below(10) {
        0 | 1 => Asked::Local,
        2 => Asked::Remote(rng.range(1, 2) as u16),
        _ => Asked::Queued,
    }
}
