//! The checkers. They know the history and nothing else, and share no code with what is tested.
//!
//! | checker | demands |
//! | --- | --- |
//! | [`convergence`] | all regions hold the same keys, types, values and ends |
//! | [`cells`] | no acknowledged write is lost or overruled by an older one; nothing removed is back; nothing is there that nobody wrote |
//! | [`counters`] | a sum is that of all acknowledged increments and some of the unknown ones |
//! | [`expiry`] | what has ended is gone, what was renewed is there |
//! | [`sessions`] | a connection sees what it wrote and saw before, also in another region after `MAS.AWAIT` |

pub(crate) mod cells;
pub(crate) mod convergence;
pub(crate) mod counters;
pub(crate) mod expiry;
pub(crate) mod order;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::history::{End, History};

/// What one checker has to say.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Its name.
    pub(crate) checker: &'static str,
    /// How many things it has looked at.
    pub(crate) checked: usize,
    /// How many it could not judge, as nothing is promised about them.
    pub(crate) open: usize,
    pub(crate) violations: Vec<Violation>,
}

/// A promise that was broken.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    /// Which operations it is about, as places in the history, in the order of time.
    pub(crate) ops: Vec<usize>,
}

impl Verdict {
    fn new(checker: &'static str) -> Self {
        Self { checker, checked: 0, open: 0, violations: Vec::new() }
    }

    fn violation(&mut self, what: String, ops: impl IntoIterator<Item = usize>) {
        let mut ops: Vec<usize> = ops.into_iter().collect();
        ops.sort_unstable();
        ops.dedup();
        self.violations.push(Violation { what, ops });
    }
}

/// All checkers. Regions that did not get equal are judged no further: what is missing may still be under way.
pub(crate) fn all(history: &History) -> Vec<Verdict> {
    let order = order::Order::new(history);
    let mut verdicts = vec![convergence::check(history), sessions::check(history, &order)];
    if history.run.unsettled.is_none() {
        verdicts.extend([cells::check(history, &order), counters::check(history), expiry::check(history)]);
    }
    verdicts
}

/// What the first region held at the end, by key. The others hold the same, or [`convergence`] says so.
fn ends(history: &History) -> BTreeMap<&str, &End> {
    history.ends.iter().filter(|end| end.region == 0).map(|end| (end.key.as_str(), end)).collect()
}
