//! Times to live. Each key has one writer, which knows what became of its last request before it sends the next, so that its
//! life can be followed: a *short* time to live may be over at any moment, and is over at the end, when all clocks are
//! right again and some time has passed; a long one is not.
//!
//! * A key whose time is over is nowhere; one that was renewed while it was shown (`PEXPIRE` answered 1) or whose time to live
//!   was cleared (`PERSIST`) is everywhere, with its value: an expiry never overtakes its renewal.
//! * Who counts on an expired key begins anew; on one that lives, its time to live stays.
//! * What is answered fits one such life.
//!
//! Requests of one life in two regions (behind `MAS.AWAIT`) are judged unless an engine of the second region was in trouble:
//! it may have come back without what it had merged.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, ends};
use crate::history::{End, History, Op, Reply};

/// What has so much left at the end (milliseconds) had a long time to live.
const LONG: i64 = 600_000;

/// A time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ttl {
    Never,
    Short,
    Long,
}

/// What a key may hold: `None` or a number with its time to live.
type State = Option<(i64, Ttl)>;

/// Follows every key's life.
pub(crate) fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("expiry");
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, op) in history.ops.iter().enumerate().filter(|(_, op)| op.possible()) {
        if let Some(key) = op.words.get(1).filter(|key| key.starts_with("exp:")) {
            keys.entry(key).or_default().push(place);
        }
    }
    let ends = ends(history);
    for (key, end) in ends.iter().filter(|(key, _)| key.starts_with("exp:") && !keys.contains_key(*key)) {
        verdict.violation(format!("{key}: holds {:?}, which nobody wrote", end.parts), []);
    }
    for (key, ops) in &keys {
        verdict.checked += 1;
        let first = &history.ops[ops[0]];
        let moved = ops.iter().map(|place| &history.ops[*place]).find(|op| op.region != first.region);
        if moved.is_some_and(|op| history.engine_trouble(op.region, first.start, op.end)) {
            verdict.open += 1;
            continue;
        }
        if let Some(why) = follow(history, ops, ends.get(key).copied()) {
            verdict.violation(format!("{key}: {why}"), ops.iter().copied());
        }
    }
    verdict
}

fn follow(history: &History, ops: &[usize], end: Option<&End>) -> Option<String> {
    let mut states: BTreeSet<State> = BTreeSet::from([None]);
    for place in ops {
        let op = &history.ops[*place];
        let before: BTreeSet<State> = states.iter().flat_map(|state| later(*state)).collect();
        let after: BTreeSet<State> = before
            .iter()
            .filter_map(|state| step(*state, op))
            .filter(|(reply, _)| op.reply().is_none_or(|told| told == reply))
            .map(|(_, state)| state)
            .collect();
        states = if op.reply().is_some() { after } else { before.union(&after).copied().collect() };
        if states.is_empty() {
            return Some(format!("{} cannot have been answered with {:?}", op.words.join(" "), op.outcome));
        }
    }
    let held = end.map(|end| {
        let value = end.parts.first().and_then(|(_, value)| value.parse().ok()).unwrap_or(i64::MIN);
        let ttl = match end.expires_at {
            None => Ttl::Never,
            Some(at) if at > history.run.ended_at + LONG => Ttl::Long,
            Some(_) => Ttl::Short,
        };
        (value, ttl)
    });
    // What was short is over.
    let ended = |state: &State| state.filter(|(_, ttl)| *ttl != Ttl::Short);
    let possible: BTreeSet<State> = states.iter().map(ended).collect();
    (!possible.contains(&held)).then(|| format!("holds {held:?} at the end, possible are {possible:?}"))
}

/// What a state may have become by itself.
fn later(state: State) -> Vec<State> {
    match state {
        Some((_, Ttl::Short)) => vec![state, None],
        other => vec![other],
    }
}

/// What a request answers and leaves.
fn step(state: State, op: &Op) -> Option<(Reply, State)> {
    let ttl = |millis: &str| if millis.parse().unwrap_or(0) > LONG { Ttl::Long } else { Ttl::Short };
    Some(match (&op.words()[..], state) {
        (["SET", _, value, "PX", millis], _) => {
            (Reply::Text("OK".into()), Some((value.parse().ok()?, ttl(millis))))
        }
        (["PEXPIRE", _, millis], Some((value, _))) => (Reply::Int(1), Some((value, ttl(millis)))),
        (["PERSIST", _], Some((value, Ttl::Short | Ttl::Long))) => (Reply::Int(1), Some((value, Ttl::Never))),
        (["PEXPIRE", ..] | ["PERSIST", _], state) => (Reply::Int(0), state),
        (["INCRBY", _, by], None) => {
            let by = by.parse().ok()?;
            (Reply::Int(by), Some((by, Ttl::Never)))
        }
        (["INCRBY", _, by], Some((value, ttl))) => {
            let value = value + by.parse::<i64>().ok()?;
            (Reply::Int(value), Some((value, ttl)))
        }
        (["GET", _], None) => (Reply::Nil, None),
        (["GET", _], Some((value, _))) => (Reply::Text(value.to_string()), state),
        _ => return None,
    })
}
