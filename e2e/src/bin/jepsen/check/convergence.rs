//! Convergence: once healed and quiet, every region holds the same keys with the same types, values and times to live.
//! Regions that do not get there in generous time break it as well.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{End, History};

/// Compares every region with the first.
pub(crate) fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("convergence");
    if let Some(why) = &history.run.unsettled {
        verdict.violation(format!("the regions did not get equal in time: {why}"), []);
    }
    let of = |region: usize| -> BTreeMap<&str, &End> {
        let ends = history.ends.iter().filter(|end| end.region == region);
        ends.map(|end| (end.key.as_str(), end)).collect()
    };
    let first = of(0);
    let mut about: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, op) in history.ops.iter().enumerate() {
        about.entry(op.words.get(1).map_or("", String::as_str)).or_default().push(place);
    }
    for region in 1..history.run.regions.len() {
        let other = of(region);
        let keys: BTreeSet<&str> = first.keys().chain(other.keys()).copied().collect();
        for key in keys {
            verdict.checked += 1;
            let (one, two) = (first.get(key).copied(), other.get(key).copied());
            if one.map(held) != two.map(held) {
                let name = |region: usize| history.run.regions.get(region).map_or("?", String::as_str);
                let what =
                    format!("{key}: {} holds {}, {} holds {}", name(0), words(one), name(region), words(two));
                verdict.violation(what, about.get(key).into_iter().flatten().copied());
            }
        }
    }
    verdict
}

fn held(end: &End) -> (&str, BTreeSet<&(String, String)>, Option<i64>) {
    (&end.kind, end.parts.iter().collect(), end.expires_at)
}

fn words(end: Option<&End>) -> String {
    end.map_or("nothing".into(), |end| format!("{} {:?} until {:?}", end.kind, end.parts, end.expires_at))
}
