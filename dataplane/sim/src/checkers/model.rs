//! What a key must show, by SEMANTICS and nothing else: computed anew from all effects that a copy has, without any
//! order of arrival.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mas_core::effect::Kind;

use super::ledger::{Commit, Fact, Shown, St};
use crate::keyspace::Data;

const NONE: St = (0, 0, 0);

/// What a key shows, and when it expires.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) data: Option<Data>,
    pub(crate) at_ms: Option<u64>,
}

/// The time-to-live: where the last life ended, and when the present one does.
fn life<'a>(facts: impl Iterator<Item = &'a Fact> + Clone) -> (St, Option<u64>) {
    let clear = facts
        .clone()
        .filter_map(|fact| match fact {
            Fact::Floor(stamp) | Fact::Put { stamp, clears: true, .. } => Some(*stamp),
            _ => None,
        })
        .max()
        .unwrap_or(NONE);
    let registers: Vec<(St, St, Option<u64>)> = facts
        .clone()
        .filter_map(|fact| match fact {
            Fact::Expire { stamp, life, at_ms } if *stamp > clear => Some((*stamp, *life, *at_ms)),
            _ => None,
        })
        .collect();
    let end = |register: St, until_ms: u64| register.max((until_ms << 16, 0, 0));
    let void = |register: St, until_ms: u64| {
        clear > register
            || registers.iter().any(|(r, life, _)| *r > register && *life <= end(register, until_ms))
    };
    let standing: Vec<(St, St)> = facts
        .filter_map(|fact| match fact {
            Fact::Kill { register, until_ms } if !void(*register, *until_ms) => {
                Some((*register, end(*register, *until_ms)))
            }
            _ => None,
        })
        .collect();
    let death = standing.iter().map(|(_, end)| *end).max().unwrap_or(NONE);
    let current = registers.iter().max_by_key(|(stamp, ..)| *stamp);
    let at = current
        .filter(|(stamp, ..)| standing.iter().all(|(killed, _)| killed < stamp))
        .and_then(|(.., at)| *at);
    (death, at)
}

fn number(value: &Shown) -> i64 {
    match value {
        Shown::Bytes(bytes) => std::str::from_utf8(bytes).ok().and_then(|t| t.parse().ok()).unwrap_or(0),
        Shown::Member => 0,
        Shown::Score(score) => *score,
    }
}

/// One field, member or string.
fn cell(kind: Kind, puts: &[(St, Option<&Shown>)], counts: &[(St, u64, i64)]) -> Option<Shown> {
    let (base, value) = puts.iter().max_by_key(|(stamp, _)| *stamp).copied().unwrap_or((NONE, None));
    // Of each incarnation the latest total; it is dead when what was set last is later than its start.
    let mut totals: BTreeMap<(u16, u64), (St, u64, i64)> = BTreeMap::new();
    for &(started, latest, amount) in counts {
        let known = totals.entry((started.1, started.2)).or_insert((started, latest, amount));
        if (started, latest) > (known.0, known.1) {
            *known = (started, latest, amount);
        }
    }
    let live: Vec<i64> = totals.values().filter(|(started, ..)| *started > base).map(|t| t.2).collect();
    if live.is_empty() {
        return value.cloned();
    }
    let sum = value.map_or(0, number) + live.iter().sum::<i64>();
    Some(if kind == Kind::Zset { Shown::Score(sum) } else { Shown::Bytes(Bytes::from(sum.to_string())) })
}

/// What the key must show in a copy that has exactly these effects.
pub(crate) fn expected<'a>(commits: impl Iterator<Item = &'a Commit>) -> Expected {
    let facts: Vec<&Fact> = commits.flat_map(|commit| &commit.facts).collect();
    let (death, at_ms) = life(facts.iter().copied());
    let rank = |fact: &Fact| match fact {
        Fact::Put { kind, stamp, .. } => Some((*kind, *stamp)),
        Fact::Count { kind, started, .. } => Some((*kind, *started)),
        Fact::Floor(_) | Fact::Expire { .. } | Fact::Kill { .. } => None,
    };
    let mut floor = facts
        .iter()
        .filter_map(|fact| if let Fact::Floor(stamp) = fact { Some(*stamp) } else { None })
        .max()
        .unwrap_or(NONE);
    // The type with the latest stamp wins; the latest stamp of every other becomes the floor.
    let ranks: Vec<(Kind, St)> =
        facts.iter().filter_map(|f| rank(f)).filter(|(_, stamp)| *stamp > floor).collect();
    let Some((winner, _)) = ranks.iter().max_by_key(|(_, stamp)| *stamp).copied() else {
        return Expected { data: None, at_ms: None };
    };
    let losers = ranks.iter().filter(|(kind, _)| *kind != winner).map(|(_, stamp)| *stamp);
    floor = losers.fold(floor, St::max).max(death);
    let alive = |fact: &&Fact| rank(fact).is_some_and(|(kind, stamp)| kind == winner && stamp > floor);
    let mut puts: BTreeMap<Bytes, Vec<(St, Option<&Shown>)>> = BTreeMap::new();
    let mut counts: BTreeMap<Bytes, Vec<(St, u64, i64)>> = BTreeMap::new();
    let mut names: BTreeSet<Bytes> = BTreeSet::new();
    for fact in facts.iter().copied().filter(|f| alive(f)) {
        match fact {
            Fact::Put { name, stamp, value, .. } => {
                names.insert(name.clone());
                puts.entry(name.clone()).or_default().push((*stamp, value.as_ref()));
            }
            Fact::Count { name, started, latest, amount, .. } => {
                names.insert(name.clone());
                counts.entry(name.clone()).or_default().push((*started, *latest, *amount));
            }
            Fact::Floor(_) | Fact::Expire { .. } | Fact::Kill { .. } => {}
        }
    }
    let none: (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    let cells = names.into_iter().filter_map(|name| {
        let shown = cell(winner, puts.get(&name).unwrap_or(&none.0), counts.get(&name).unwrap_or(&none.1))?;
        Some((name, shown))
    });
    let data = collect(winner, cells.collect());
    let at_ms = at_ms.filter(|_| data.is_some());
    Expected { data, at_ms }
}

fn collect(kind: Kind, cells: Vec<(Bytes, Shown)>) -> Option<Data> {
    if cells.is_empty() {
        return None;
    }
    let bytes = |shown: Shown| match shown {
        Shown::Bytes(bytes) => bytes,
        Shown::Member => Bytes::new(),
        Shown::Score(score) => Bytes::from(score.to_string()),
    };
    Some(match kind {
        Kind::Str => Data::Str(cells.into_iter().next().map(|(_, shown)| bytes(shown)).unwrap_or_default()),
        Kind::Hash => Data::Hash(cells.into_iter().map(|(name, shown)| (name, bytes(shown))).collect()),
        Kind::Set => Data::Set(cells.into_iter().map(|(name, _)| name).collect()),
        Kind::Zset => {
            Data::Zset(cells.into_iter().map(|(name, shown)| (name, number(&shown) as f64)).collect())
        }
    })
}
