//! Counters: `INCRBY`, `HINCRBY`, `ZINCRBY`, `INCRBYFLOAT`, from all regions into one number.
//!
//! At the end it is the sum of all acknowledged increments (those at `Local` only if no engine of the region was lost
//! afterwards) and of some of the unknown ones: a request that was not answered may have been carried out, once.
//! What an increment answers is never more than all increments that had been sent by then, and never less than what the same
//! connection was told before and this one.

use std::collections::BTreeMap;

use super::{Verdict, ends};
use crate::history::{History, Op, Reply};

/// Quarters: floats are counted in them, and exactly.
const UNIT: f64 = 4.0;

/// Looks at every counter, and at every answer of an increment.
pub(crate) fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("counters");
    let mut counters: BTreeMap<&str, Vec<(usize, i64)>> = BTreeMap::new();
    for (place, op) in history.ops.iter().enumerate().filter(|(_, op)| op.possible()) {
        if let Some(by) = increment(op) {
            counters.entry(op.words[1].as_str()).or_default().push((place, by));
        }
    }
    let ends = ends(history);
    for (key, end) in &ends {
        if ["count:", "hcount:", "zcount:", "fcount:"].iter().any(|kind| key.starts_with(kind))
            && !counters.contains_key(key)
        {
            verdict.violation(format!("{key}: is {:?}, which nobody counted", end.parts), []);
        }
    }
    for (key, increments) in &counters {
        verdict.checked += 1;
        let ops = || increments.iter().map(|(place, _)| *place);
        let text = ends.get(key).and_then(|end| end.parts.first()).map_or("0", |(_, value)| value.as_str());
        let Some(value) = units(text) else {
            verdict.violation(format!("{key}: is {text}, which is no sum of what was added"), ops());
            continue;
        };
        let (certain, open): (Vec<_>, Vec<_>) =
            increments.iter().partition(|(place, _)| history.settled(&history.ops[*place]));
        let least: i64 = certain.iter().map(|(_, by)| by).sum();
        if !is_sum(value - least, open.iter().map(|(_, by)| *by)) {
            let most = least + open.iter().map(|(_, by)| by).sum::<i64>();
            let [least, most] = [least, most].map(|sum| sum as f64 / UNIT);
            let what = format!(
                "{key}: is {text}; acknowledged: {least}, with all unknown ones: {most}, and not every sum between"
            );
            verdict.violation(what, ops());
        }
        answers(history, key, increments, &mut verdict);
    }
    verdict
}

fn answers(history: &History, key: &str, increments: &[(usize, i64)], verdict: &mut Verdict) {
    let mut told: BTreeMap<u32, i64> = BTreeMap::new();
    for (place, by) in increments {
        let op = &history.ops[*place];
        let answer = match op.reply() {
            Some(Reply::Int(number)) => Some(number * UNIT as i64),
            Some(Reply::Text(text)) => units(text),
            _ => None,
        };
        let Some(answer) = answer else { continue };
        verdict.checked += 1;
        let sent = increments.iter().filter(|(other, _)| history.ops[*other].start < op.end);
        let most: i64 = sent.map(|(_, by)| by).sum();
        let own = told.entry(op.session).or_default();
        if answer > most || answer < *own + by {
            let what = format!("{key}: answered {}, which is impossible by then", answer as f64 / UNIT);
            verdict.violation(what, increments.iter().map(|(place, _)| *place));
        }
        if history.settled(op) {
            *own += by;
        }
    }
}

/// How many units a request adds.
fn increment(op: &Op) -> Option<i64> {
    match op.words()[..] {
        ["INCRBY" | "INCRBYFLOAT", key, by] if !key.starts_with("exp:") => units(by),
        ["HINCRBY", _, _, by] | ["ZINCRBY", _, by, _] => units(by),
        _ => None,
    }
}

/// A number in units, if it is a whole number of them.
fn units(text: &str) -> Option<i64> {
    let units = text.parse::<f64>().ok()? * UNIT;
    (units.fract() == 0.0 && units.abs() < 1e15).then_some(units as i64)
}

/// Whether `wanted` is the sum of some of `parts`, none of which is negative.
fn is_sum(wanted: i64, parts: impl Iterator<Item = i64>) -> bool {
    let Ok(wanted) = usize::try_from(wanted) else { return false };
    // Bit n: n is such a sum.
    let mut sums = vec![0_u64; wanted / 64 + 1];
    sums[0] = 1;
    for part in parts.filter_map(|part| usize::try_from(part).ok()) {
        let (words, bits) = (part / 64, part % 64);
        for place in (words..sums.len()).rev() {
            let low = sums[place - words] << bits;
            let carried = bits > 0 && place > words;
            sums[place] |= low | if carried { sums[place - words - 1] >> (64 - bits) } else { 0 };
        }
    }
    sums[wanted / 64] >> (wanted % 64) & 1 == 1
}
