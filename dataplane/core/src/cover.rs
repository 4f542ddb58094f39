//! Covers: for each origin, which of its effects have been applied (a version vector with exceptions).

use std::collections::{BTreeMap, BTreeSet};

use crate::stamp::Origin;

/// Most separate runs that a [`SeqSet`] holds. Gaps come from proxies that publish side by side; a reader that
/// meets more of them than this must wait for the gaps to close.
pub const RUNS_MAX: usize = 4096;

/// There are [`RUNS_MAX`] runs already and the number would begin another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many gaps in the cover of one origin: {RUNS_MAX} runs are held already")]
pub struct TooManyGaps;

/// A set of sequence numbers, kept as disjoint, non-adjacent runs. Numbers start at 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeqSet {
    /// First number of each run to its last.
    runs: BTreeMap<u64, u64>,
}

impl SeqSet {
    /// `1..=last`; empty for 0.
    pub fn up_to(last: u64) -> Self {
        let mut set = Self::default();
        if last > 0 {
            set.runs.insert(1, last);
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `seq` is in it.
    pub fn contains(&self, seq: u64) -> bool {
        if mutation!(CoverIsAWatermark) {
            return seq <= self.last();
        }
        self.runs.range(..=seq).next_back().is_some_and(|(_, &last)| last >= seq)
    }

    /// Adds one number; `Ok(false)` when it was there.
    pub fn insert(&mut self, seq: u64) -> Result<bool, TooManyGaps> {
        if self.contains(seq) {
            return Ok(false);
        }
        self.insert_run(seq, seq)?;
        Ok(true)
    }

    /// Adds `first..=last`, unless that would begin a run beyond [`RUNS_MAX`].
    pub fn insert_run(&mut self, first: u64, last: u64) -> Result<(), TooManyGaps> {
        if self.runs.len() >= RUNS_MAX && first <= last && first > 0 && !self.touches(first, last) {
            return Err(TooManyGaps);
        }
        self.insert_run_unbounded(first, last);
        Ok(())
    }

    /// Whether a run holds a number of `first..=last` or ends next to it.
    fn touches(&self, first: u64, last: u64) -> bool {
        let before = self.runs.range(..first).next_back();
        before.is_some_and(|(_, &end)| end.saturating_add(1) >= first)
            || self.runs.range(first..=last.saturating_add(1)).next().is_some()
    }

    /// Adds `first..=last`, however many runs there are then: for sets whose size something else bounds.
    pub fn insert_run_unbounded(&mut self, first: u64, last: u64) {
        if first > last || first == 0 {
            return;
        }
        let (mut low, mut high) = (first, last);
        if let Some((&start, &end)) = self.runs.range(..=first).next_back() {
            if end >= last {
                return;
            }
            if end + 1 >= first {
                low = start;
            }
        }
        while let Some((&start, &end)) = self.runs.range(low..=last.saturating_add(1)).next() {
            high = high.max(end);
            self.runs.remove(&start);
        }
        self.runs.insert(low, high);
    }

    /// Takes out `first..=last`. A run that is cut in two may add one run beyond the bound.
    pub fn remove_run(&mut self, first: u64, last: u64) {
        let touched: Vec<(u64, u64)> = self
            .runs
            .range(..=last)
            .rev()
            .take_while(|(_, end)| **end >= first)
            .map(|(&s, &e)| (s, e))
            .collect();
        for (start, end) in touched {
            self.runs.remove(&start);
            if start < first {
                self.runs.insert(start, first - 1);
            }
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
    }

    /// The end of the run that starts at 1; 0 if there is none.
    pub fn contiguous(&self) -> u64 {
        self.runs.get(&1).copied().unwrap_or(0)
    }

    /// The highest number; 0 if empty.
    pub fn last(&self) -> u64 {
        self.runs.values().next_back().copied().unwrap_or(0)
    }

    /// How many numbers are in it.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The runs, lowest first.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(&first, &last)| (first, last))
    }

    /// Numbers of `1..=last` that are not in it, as runs, lowest first.
    pub fn holes_up_to(&self, last: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut next = 1;
        for (first, end) in self.runs() {
            if first > last {
                break;
            }
            if first > next {
                holes.push((next, first - 1));
            }
            // Nothing is beyond the highest number of all.
            let Some(after) = end.checked_add(1) else { return holes };
            next = after;
        }
        if next <= last {
            holes.push((next, last));
        }
        holes
    }

    /// The numbers that are not in `other`, as runs, lowest first.
    pub fn without(&self, other: &Self) -> Vec<(u64, u64)> {
        let mut left = self.clone();
        for (first, last) in other.runs() {
            left.remove_run(first, last);
        }
        left.runs().collect()
    }

    /// Whether every number of `other` is in it.
    pub fn includes(&self, other: &Self) -> bool {
        other
            .runs()
            .all(|(first, last)| self.runs.range(..=first).next_back().is_some_and(|(_, &end)| end >= last))
    }

    /// The numbers in both.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let mut runs = BTreeMap::new();
        let mut theirs = other.runs().peekable();
        for (first, last) in self.runs() {
            while let Some(&(a, b)) = theirs.peek() {
                if a > last {
                    break;
                }
                if b >= first {
                    runs.insert(first.max(a), last.min(b));
                }
                if b > last {
                    break;
                }
                theirs.next();
            }
        }
        Self { runs }
    }
}

/// For each origin, the effects applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    origins: BTreeMap<Origin, SeqSet>,
    /// Origins of which nothing counts any more but what is covered.
    sealed: BTreeSet<Origin>,
}

impl Cover {
    /// Whether effect `seq` of `origin` was applied, or counts no more.
    pub fn contains(&self, origin: Origin, seq: u64) -> bool {
        self.origins.get(&origin).is_some_and(|set| set.contains(seq)) || self.is_sealed(origin)
    }

    /// From now on nothing more of `origin` counts.
    pub fn seal(&mut self, origin: Origin) {
        self.sealed.insert(origin);
    }

    /// Whether nothing more of `origin` counts.
    pub fn is_sealed(&self, origin: Origin) -> bool {
        !self.sealed.is_empty() && self.sealed.contains(&origin)
    }

    /// The same effects, and nothing sealed.
    #[must_use]
    pub fn unsealed(&self) -> Self {
        Self { origins: self.origins.clone(), sealed: BTreeSet::new() }
    }

    /// The origins of which nothing more counts.
    pub fn sealed(&self) -> impl Iterator<Item = Origin> + Clone {
        self.sealed.iter().copied()
    }

    /// Marks one effect as applied; `Ok(false)` when it was already.
    pub fn insert(&mut self, origin: Origin, seq: u64) -> Result<bool, TooManyGaps> {
        if self.is_sealed(origin) {
            return Ok(false);
        }
        self.origins.entry(origin).or_default().insert(seq)
    }

    /// What is covered of `origin`.
    pub fn of(&self, origin: Origin) -> Option<&SeqSet> {
        self.origins.get(&origin)
    }

    /// Replaces what is covered of `origin`.
    pub fn set(&mut self, origin: Origin, seqs: SeqSet) {
        if seqs.is_empty() {
            self.origins.remove(&origin);
        } else {
            self.origins.insert(origin, seqs);
        }
    }

    /// All origins with what is covered of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &SeqSet)> {
        self.origins.iter().map(|(&origin, set)| (origin, set))
    }

    /// Whether everything in `other` is in it.
    pub fn includes(&self, other: &Self) -> bool {
        other.iter().all(|(origin, set)| self.of(origin).is_some_and(|mine| mine.includes(set)))
    }

    /// What is in both: the greatest lower bound, which is what two copies together may call durable.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let mut cover = Self::default();
        for (origin, mine) in self.iter() {
            if let Some(theirs) = other.of(origin) {
                cover.set(origin, mine.meet(theirs));
            }
        }
        cover.sealed = self.sealed.intersection(&other.sealed).copied().collect();
        cover
    }

    /// Adds what is in the other one; what is sealed there is not sealed here.
    pub(crate) fn join(&mut self, other: &Self) {
        for (origin, theirs) in other.iter() {
            let mine = self.origins.entry(origin).or_default();
            theirs.runs().for_each(|(first, last)| mine.insert_run_unbounded(first, last));
        }
    }

    /// Number of effects in it.
    pub fn len(&self) -> u64 {
        self.origins.values().map(SeqSet::len).sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set_of(seqs: &[u64]) -> SeqSet {
        let mut set = SeqSet::default();
        for &seq in seqs {
            set.insert(seq).unwrap();
        }
        set
    }

    #[test]
    fn the_highest_number_of_all_is_one_like_others() {
        let mut set = SeqSet::default();
        set.insert_run(u64::MAX - 1, u64::MAX).unwrap();
        assert_eq!(set.holes_up_to(u64::MAX), [(1, u64::MAX - 2)]);
        assert!(SeqSet::up_to(u64::MAX).holes_up_to(u64::MAX).is_empty());
        // At the bound it is looked whether a run touches another.
        (1..RUNS_MAX as u64).for_each(|n| set.insert_run(2 * n, 2 * n).unwrap());
        assert_eq!(set.insert_run(u64::MAX, u64::MAX), Ok(()));
        assert_eq!(set.insert_run(1 << 40, 1 << 40), Err(TooManyGaps));
    }

    #[test]
    fn gaps_close() {
        let mut set = set_of(&[1, 2, 5, 4]);
        assert_eq!((set.contiguous(), set.last(), set.len()), (2, 5, 4));
        assert_eq!(set.holes_up_to(7), vec![(3, 3), (6, 7)]);
        assert_eq!(set.insert(3), Ok(true));
        assert_eq!(set.insert(3), Ok(false));
        assert_eq!(set.runs().collect::<Vec<_>>(), vec![(1, 5)]);
    }

    #[test]
    fn the_number_of_runs_is_bounded() {
        let mut set = SeqSet::default();
        for n in 0..RUNS_MAX as u64 {
            set.insert(1 + n * 2).unwrap();
        }
        assert_eq!(set.insert(1_000_000), Err(TooManyGaps));
        assert_eq!(set.insert(2), Ok(true));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            a in prop::collection::vec(1u64..60, 0..40),
            b in prop::collection::vec(1u64..60, 0..40),
            cut in (1u64..60, 0u64..10),
        ) {
            let (x, y) = (set_of(&a), set_of(&b));
            let (px, py): (BTreeSet<_>, BTreeSet<_>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let members = |s: &SeqSet| s.runs().flat_map(|(f, l)| f..=l).collect::<BTreeSet<_>>();
            prop_assert_eq!(members(&x), px.clone());
            prop_assert_eq!(members(&x.meet(&y)), px.intersection(&py).copied().collect());
            prop_assert_eq!(x.includes(&y), py.is_subset(&px));
            let without: BTreeSet<_> = x.without(&y).into_iter().flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(without, px.difference(&py).copied().collect());
            let holes: BTreeSet<_> = x.holes_up_to(59).into_iter().flat_map(|(f, l)| f..=l).collect();
            prop_assert_eq!(holes, (1..60).filter(|n| !px.contains(n)).collect());
            let mut z = x;
            let (first, last) = (cut.0, cut.0 + cut.1);
            z.remove_run(first, last);
            prop_assert_eq!(members(&z), px.iter().copied().filter(|n| *n < first || *n > last).collect());
            z.insert_run(first, last).unwrap();
            prop_assert_eq!(members(&z), px.into_iter().chain(first..=last).collect());
        }
    }
}
