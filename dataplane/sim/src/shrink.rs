//! Makes a failing schedule small: takes away faults, then operations, in ever smaller groups, as long as the same
//! checker still fails (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).

use std::time::Instant;

use crate::batch::run;
use crate::schedule::Schedule;

/// Returns the smallest failing schedule found by `deadline`, and how many runs that took.
pub(crate) fn shrink(schedule: &Schedule, checker: &str, deadline: Instant) -> (Schedule, u64) {
    let mut runs = 0;
    let mut fails = |candidate: &Schedule| {
        runs += 1;
        run(candidate, false).violation.is_some_and(|v| v.checker == checker)
    };
    let mut best = schedule.clone();
    loop {
        let before = best.faults.len() + best.operations.len();
        best.faults = reduce(&best.faults, deadline, &mut |faults| {
            fails(&Schedule { faults: faults.to_vec(), ..best.clone() })
        });
        best.operations = reduce(&best.operations, deadline, &mut |operations| {
            fails(&Schedule { operations: operations.to_vec(), ..best.clone() })
        });
        if best.faults.len() + best.operations.len() == before || Instant::now() >= deadline {
            return (best, runs);
        }
    }
}

fn reduce<T: Clone>(items: &[T], deadline: Instant, fails: &mut dyn FnMut(&[T]) -> bool) -> Vec<T> {
    let mut items = items.to_vec();
    let mut chunk = items.len().max(1);
    while chunk >= 1 {
        let mut at = 0;
        while at < items.len() {
            if Instant::now() >= deadline {
                return items;
            }
            let end = (at + chunk).min(items.len());
            let candidate: Vec<T> = items[..at].iter().chain(&items[end..]).cloned().collect();
            if fails(&candidate) {
                items = candidate;
            } else {
                at = end;
            }
        }
        chunk /= 2;
    }
    items
}
