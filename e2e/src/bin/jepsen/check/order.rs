//! Cells, and which of two writes is really the older one.
//!
//! A *cell* is what ends by the later stamp: a register, a member of a set, a field of a hash, a member of a leaderboard with
//! its score. Every value is written once, so that who reads it knows which write it was. Writes from different
//! regions are ordered by stamps, and with clocks that are off the one that really came later may have the lower stamp.
//! So little is demanded, but this: **`a` is older than `b`** if
//!
//! 1. both were made in one region, `a` was answered before `b` was sent, and the store has promised that both stay
//!    ([`History::settled`]): one master at a time issues ever higher stamps, and the next one has all that was promised;
//! 2. or somebody had read `a`'s value in `b`'s region before `b` was sent, and no engine there was in trouble from then on:
//!    whoever has merged a write issues only higher stamps;
//! 3. or `b` is a removal that says that it removed something, and `a` the only write that can have put it there.

use std::collections::BTreeMap;

use crate::history::{History, Micros, Op, Reply};

/// Key, and field or member; of a register nothing.
pub(crate) type Cell = (String, String);

/// One write to one cell.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Its place in the history.
    pub(crate) op: usize,
    /// What it puts there. `None`: it is a removal.
    pub(crate) value: Option<String>,
    pub(crate) settled: bool,
    region: usize,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
}

/// All cells.
pub(crate) struct Order<'a> {
    history: &'a History,
    /// Writes by cell, in the order in which they were sent; those that certainly failed are not there.
    pub(crate) cells: BTreeMap<Cell, Vec<Write>>,
    /// Region and time of every reading of a value of a cell.
    readings: BTreeMap<Cell, Vec<(String, usize, Micros, Micros)>>,
}

/// What a request does to cells: key, field (`None`: all of the key), value (`None`: removed).
fn effect(op: &Op) -> Option<(&str, Option<&str>, Option<&str>)> {
    let words = op.words();
    if words.len() < 2 || !is_cells(words[1]) {
        return None;
    }
    let removal = |key, field| (op.reply() != Some(&Reply::Int(0))).then_some((key, field, None));
    match words[..] {
        ["SET", key, value] => Some((key, Some(""), Some(value))),
        ["SADD", key, member] => Some((key, Some(member), Some(""))),
        ["HSET", key, field, value] => Some((key, Some(field), Some(value))),
        ["ZADD", key, score, member] => Some((key, Some(member), Some(score))),
        ["SREM" | "HDEL" | "ZREM", key, field] => removal(key, Some(field)),
        ["DEL", key] => removal(key, None),
        _ => None,
    }
}

/// What a request has read: the key and its fields with their values.
pub(crate) fn reading(op: &Op) -> Option<(&str, BTreeMap<&str, &str>)> {
    let words = op.words();
    let [command, key, ..] = words[..] else { return None };
    if !is_cells(key) {
        return None;
    }
    let key = op.words[1].as_str();
    match (command, op.reply()?) {
        ("GET", Reply::Nil) => Some((key, BTreeMap::new())),
        ("GET", Reply::Text(text)) => Some((key, BTreeMap::from([("", text.as_str())]))),
        ("SMEMBERS", Reply::List(members)) => {
            Some((key, members.iter().map(|member| (member.as_str(), "")).collect()))
        }
        ("HGETALL" | "ZRANGE", Reply::List(pairs)) => {
            let pairs = pairs.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str()));
            Some((key, pairs.collect()))
        }
        _ => None,
    }
}

/// Whether a key's parts are cells, by its name.
pub(crate) fn is_cells(key: &str) -> bool {
    ["reg:", "set:", "hash:", "dhash:", "board:", "tok:"].iter().any(|kind| key.starts_with(kind))
}

impl<'a> Order<'a> {
    /// Reads a history.
    pub(crate) fn new(history: &'a History) -> Self {
        let mut cells: BTreeMap<Cell, Vec<Write>> = BTreeMap::new();
        let mut readings: BTreeMap<Cell, Vec<_>> = BTreeMap::new();
        let write = |place: usize, op: &Op, value: Option<&str>| Write {
            op: place,
            value: value.map(ToOwned::to_owned),
            settled: history.settled(op),
            region: op.region,
            start: op.start,
            end: op.end,
        };
        let possible = || history.ops.iter().enumerate().filter(|(_, op)| op.possible());
        for (place, op) in possible() {
            if let Some((key, Some(field), value)) = effect(op) {
                let cell = (key.to_owned(), field.to_owned());
                cells.entry(cell).or_default().push(write(place, op, value));
            }
            if let Some((key, values)) = reading(op) {
                for (field, value) in values {
                    let cell = (key.to_owned(), field.to_owned());
                    let seen = (value.to_owned(), op.region, op.start, op.end);
                    readings.entry(cell).or_default().push(seen);
                }
            }
        }
        // Whole keys that were removed: a removal of every cell.
        for (place, op) in possible() {
            let Some((key, None, value)) = effect(op) else { continue };
            for (_, writes) in cells.range_mut(cells_of(key)) {
                writes.push(write(place, op, value));
            }
        }
        for writes in cells.values_mut() {
            writes.sort_by_key(|write| write.op);
        }
        Self { history, cells, readings }
    }

    /// Whether `a` is older than `b`, which is settled.
    pub(crate) fn older(&self, cell: &Cell, a: &Write, b: &Write) -> bool {
        let in_order = a.settled && a.region == b.region && a.end < b.start;
        b.settled && a.op != b.op && (in_order || self.was_seen(cell, a, b) || self.was_removed(cell, a, b))
    }

    fn was_seen(&self, cell: &Cell, a: &Write, b: &Write) -> bool {
        let Some(value) = &a.value else { return false };
        let readings = self.readings.get(cell).into_iter().flatten();
        let mut there =
            readings.filter(|(seen, region, _, end)| seen == value && *region == b.region && *end < b.start);
        there.any(|(_, region, start, _)| !self.history.engine_trouble(*region, *start, b.end))
    }

    fn was_removed(&self, cell: &Cell, a: &Write, b: &Write) -> bool {
        let removed = b.value.is_none() && self.history.ops[b.op].words.len() == 3;
        let mut puts = self.cells.get(cell).into_iter().flatten().filter(|write| write.value.is_some());
        removed && puts.next().is_some_and(|only| only.op == a.op) && puts.next().is_none()
    }
}

/// The range of all cells of a key.
pub(crate) fn cells_of(key: &str) -> std::ops::RangeInclusive<Cell> {
    // No field begins with such a character.
    (key.to_owned(), String::new())..=(key.to_owned(), char::MAX.to_string())
}
