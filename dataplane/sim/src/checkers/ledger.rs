//! The ledger: every effect that any engine ever issued, as plain facts, written down at the moment it happened. What the
//! checkers know they know from here; nothing of the core's merge is used.

use std::collections::BTreeMap;

use bytes::Bytes;
use mas_core::amount::Amount;
use mas_core::cover::Cover;
use mas_core::effect::{Change, Kind, Op, Value};
use mas_core::stamp::{Origin, Stamp};

/// A stamp as the checkers compare it: clock, region, incarnation.
pub(crate) type St = (u64, u16, u64);
/// An effect's name: region, incarnation, number.
pub(crate) type Name = (u16, u64, u64);

pub(crate) fn st(stamp: Stamp) -> St {
    (stamp.hlc.0, stamp.origin.region.0, stamp.origin.incarnation.0)
}

/// What a cell was set to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shown {
    Bytes(Bytes),
    Member,
    Score(i64),
}

/// One thing that an effect says.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    Floor(St),
    Put { kind: Kind, name: Bytes, stamp: St, value: Option<Shown>, clears: bool },
    Count { kind: Kind, name: Bytes, started: St, latest: u64, amount: i64 },
    Expire { stamp: St, life: St, at_ms: Option<u64> },
    Kill { register: St, until_ms: u64 },
}

/// What an operation of an effect says. (The others are only in transfers of state, which are no effects.)
fn fact(op: &Op) -> Option<Fact> {
    let whole = |amount: &Amount| match amount {
        Amount::Decimal(number) => number.format().parse().unwrap_or(i64::MAX),
        Amount::Score(score) => *score as i64,
    };
    Some(match op {
        Op::ValuesFloor(_) | Op::ClearTtl(_) | Op::Put { value: Some(Value::Gone), .. } => return None,
        Op::Floor(stamp) => Fact::Floor(st(*stamp)),
        Op::Put { kind, name, stamp, value, keep_ttl } => Fact::Put {
            kind: *kind,
            name: name.clone(),
            stamp: st(*stamp),
            value: value.as_ref().and_then(|value| match value {
                Value::Bytes(bytes) => Some(Shown::Bytes(bytes.clone())),
                Value::Member => Some(Shown::Member),
                Value::Score(score) => Some(Shown::Score(*score as i64)),
                Value::Gone => None,
            }),
            clears: *kind == Kind::Str && !keep_ttl,
        },
        Op::Count { kind, name, started, latest, amount } => Fact::Count {
            kind: *kind,
            name: name.clone(),
            started: st(*started),
            latest: latest.0,
            amount: whole(amount),
        },
        Op::Expire { stamp, life, at_ms } => {
            Fact::Expire { stamp: st(*stamp), life: st(*life), at_ms: *at_ms }
        }
        Op::Kill { register, until_ms, .. } => Fact::Kill { register: st(*register), until_ms: *until_ms },
    })
}

/// One effect.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// The operation that caused it.
    pub(crate) number: usize,
    pub(crate) shard: u16,
    pub(crate) name: Name,
    pub(crate) hlc: u64,
    /// The key; `None`: a whole shard.
    pub(crate) key: Option<Bytes>,
    pub(crate) facts: Vec<Fact>,
}

impl Commit {
    pub(crate) fn new(
        number: usize,
        shard: u16,
        origin: Origin,
        seq: u64,
        hlc: mas_core::stamp::Hlc,
        changes: &[Change],
    ) -> Self {
        let mut key = None;
        let mut facts = Vec::new();
        for change in changes {
            match change {
                Change::Key { key: of, ops } => {
                    key = Some(of.clone());
                    facts.extend(ops.iter().filter_map(fact));
                }
                Change::Slots { floor, .. } => facts.push(Fact::Floor(st(*floor))),
            }
        }
        Self { number, shard, name: (origin.region.0, origin.incarnation.0, seq), hlc: hlc.0, key, facts }
    }

    /// The latest stamp of its own that it gives, for the order of what one session sees.
    pub(crate) fn stamp(&self) -> St {
        (self.hlc, self.name.0, self.name.1)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) commits: Vec<Commit>,
    by_name: BTreeMap<(u16, Name), usize>,
    by_number: BTreeMap<usize, usize>,
    by_key: BTreeMap<(u16, Bytes), Vec<usize>>,
    floors: BTreeMap<u16, Vec<usize>>,
}

impl Ledger {
    /// Writes an effect down; `false`: there was one of that name already.
    pub(crate) fn add(&mut self, commit: Commit) -> bool {
        let index = self.commits.len();
        let fresh = self.by_name.insert((commit.shard, commit.name), index).is_none();
        self.by_number.insert(commit.number, index);
        match &commit.key {
            Some(key) => self.by_key.entry((commit.shard, key.clone())).or_default().push(index),
            None => self.floors.entry(commit.shard).or_default().push(index),
        }
        self.commits.push(commit);
        fresh
    }

    pub(crate) fn of_name(&self, shard: u16, name: Name) -> Option<&Commit> {
        self.by_name.get(&(shard, name)).map(|&i| &self.commits[i])
    }

    pub(crate) fn of_number(&self, number: usize) -> Option<&Commit> {
        self.by_number.get(&number).map(|&i| &self.commits[i])
    }

    /// Effects that touch a key.
    pub(crate) fn of_key(&self, shard: u16, key: &[u8]) -> impl Iterator<Item = &Commit> {
        let keyed = self.by_key.get(&(shard, Bytes::copy_from_slice(key)));
        keyed.into_iter().chain(self.floors.get(&shard)).flatten().map(|&i| &self.commits[i])
    }

    /// The stamp of the latest flush of a shard.
    pub(crate) fn last_floor(&self, shard: u16) -> St {
        let floors = self.floors.get(&shard).into_iter().flatten();
        floors.map(|&i| self.commits[i].stamp()).max().unwrap_or_default()
    }

    /// Every key that was ever written to in a shard.
    pub(crate) fn keys(&self, shard: u16) -> impl Iterator<Item = &Bytes> {
        self.by_key.keys().filter(move |(of, _)| *of == shard).map(|(_, key)| key)
    }
}

/// Whether a cover has an effect, read off its runs.
/// Whether it was applied, or counts no more since its incarnation was sealed.
pub(crate) fn done_with(cover: &Cover, name: Name) -> bool {
    let mut sealed = cover.sealed().map(|origin| (origin.region.0, origin.incarnation.0));
    covers(cover, name) || sealed.any(|origin| origin == (name.0, name.1))
}

pub(crate) fn covers(cover: &Cover, name: Name) -> bool {
    let origin = Origin {
        region: mas_core::stamp::RegionId(name.0),
        incarnation: mas_core::stamp::Incarnation(name.1),
    };
    cover.of(origin).is_some_and(|set| set.runs().any(|(first, last)| first <= name.2 && name.2 <= last))
}

/// All that a cover has, as runs: region, incarnation, first, last.
pub(crate) fn runs(cover: &Cover) -> impl Iterator<Item = (u16, u64, u64, u64)> {
    cover.iter().flat_map(|(origin, set)| {
        set.runs().map(move |(first, last)| (origin.region.0, origin.incarnation.0, first, last))
    })
}

/// How many effects a cover has.
pub(crate) fn size(cover: &Cover) -> u64 {
    runs(cover).map(|(_, _, first, last)| last - first + 1).sum()
}

/// The effects of `a` that `b` lacks.
pub(crate) fn lacking<'a>(a: &'a Cover, b: &'a Cover) -> impl Iterator<Item = Name> + 'a {
    runs(a)
        // Nearly always a run of one is within a run of the other.
        .filter(|&(region, incarnation, first, last)| !has_run(b, (region, incarnation), first, last))
        .flat_map(|(region, incarnation, first, last)| {
            (first..=last).map(move |seq| (region, incarnation, seq))
        })
        .filter(|name| !covers(b, *name))
}

fn has_run(cover: &Cover, (region, incarnation): (u16, u64), first: u64, last: u64) -> bool {
    let origin = Origin {
        region: mas_core::stamp::RegionId(region),
        incarnation: mas_core::stamp::Incarnation(incarnation),
    };
    cover.of(origin).is_some_and(|set| set.runs().any(|(low, high)| low <= first && last <= high))
}
