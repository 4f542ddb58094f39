//! What removals on all platforms share: how those that stay are looked at, and what a region that is gone for good may have cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use mas_core::cover::Cover;
use mas_core::procedures::removal::{Stayer, together};
use mas_core::stamp::{Incarnation, Origin, RegionId};

use super::scale_out::AsEngine;
use crate::health::engine::Answer;

/// The copies of a shard, its master first; none where there is no master.
pub(crate) fn master_first<T>(mut copies: Vec<T>, master: Option<usize>) -> Vec<T> {
    match master.filter(|master| *master < copies.len()) {
        Some(master) => copies[..=master].rotate_right(1),
        None => copies.clear(),
    }
    copies
}

/// A shard of a region that stays, by its copies, the master first. `None`: there is none, or one of them does not answer: it may be promoted,
/// and nobody could give it what it lacks once the other region is gone.
pub(crate) async fn look_at_copies(copies: &[Arc<dyn AsEngine>]) -> Option<Stayer> {
    let Ok(Answer::Identity { identity, .. }) = copies.first()?.engine().ask().await else { return None };
    let covers = join_all(copies.iter().map(|copy| copy.engine().cover())).await;
    let covers = covers.into_iter().collect::<Result<Vec<Cover>, _>>().ok()?;
    Stayer::of_copies(identity.membership, &covers)
}

/// What those that stay know of one shard of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    /// The last number of each incarnation that its heartbeats told of, as far as somebody remembers.
    pub(crate) issued: BTreeMap<String, u64>,
    /// What they have.
    pub(crate) covers: Vec<Cover>,
}

impl Left {
    /// Somebody was told of these.
    pub(crate) fn told(&mut self, issued: &BTreeMap<String, u64>) {
        for (incarnation, last) in issued {
            let known = self.issued.entry(incarnation.clone()).or_default();
            *known = (*known).max(*last);
        }
    }
}

/// Effects that it told of and that nobody has; `None`: of some shard nobody remembers what it told.
pub(crate) fn lost(region: RegionId, shards: &[Left]) -> Option<u64> {
    let known = shards.iter().all(|left| !left.issued.is_empty());
    known.then(|| shards.iter().map(|left| lost_of(region, left)).sum())
}

fn lost_of(region: RegionId, left: &Left) -> u64 {
    let covers: Vec<&Cover> = left.covers.iter().collect();
    let all = together(region, &covers);
    let missing = |(incarnation, last): (&String, &u64)| {
        let origin = Origin { region, incarnation: Incarnation::parse(incarnation)? };
        // What is sealed all regions had alike.
        if covers.iter().any(|cover| cover.is_sealed(origin)) {
            return None;
        }
        let holes = all.of(origin).map_or_else(|| vec![(1, *last)], |set| set.holes_up_to(*last));
        Some(
            holes
                .into_iter()
                .filter(|(first, _)| first <= last)
                .map(|(first, last)| last - first + 1)
                .sum::<u64>(),
        )
    };
    left.issued.iter().filter_map(missing).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_comes_first_and_without_one_nobody_is_asked() {
        let of = |master| master_first(vec![0, 1, 2], master);
        assert_eq!(
            [of(Some(0)), of(Some(2)), of(None), of(Some(3))],
            [vec![0, 1, 2], vec![2, 0, 1], vec![], vec![]]
        );
    }
    use mas_core::cover::SeqSet;

    const GONE: RegionId = RegionId(3);

    fn cover(runs: &[(u64, u64)]) -> Cover {
        let mut set = SeqSet::default();
        for (first, last) in runs {
            set.insert_run(*first, *last).unwrap();
        }
        let mut cover = Cover::default();
        cover.set(Origin { region: GONE, incarnation: Incarnation(7) }, set);
        cover
    }

    fn left(told: &[(u64, u64)], covers: &[Cover]) -> Left {
        let mut left = Left { covers: covers.to_vec(), ..Left::default() };
        for (incarnation, last) in told {
            left.told(&[(Incarnation(*incarnation).to_string(), *last)].into());
        }
        left
    }

    #[test]
    fn what_it_told_of_and_nobody_has_is_lost() {
        let some = left(&[(7, 40), (7, 50)], &[cover(&[(1, 40)]), cover(&[(1, 38), (45, 48)])]);
        assert_eq!(lost(GONE, std::slice::from_ref(&some)), Some(4 + 2), "41..44 and 49, 50");
        let nobody = left(&[(8, 3)], &[cover(&[(1, 40)])]);
        assert_eq!(lost(GONE, &[some.clone(), nobody]), Some(6 + 3));
        assert_eq!(lost(GONE, &[left(&[(7, 0)], &[])]), Some(0), "it had numbered nothing");
        let mut sealed = cover(&[(1, 40)]);
        sealed.seal(Origin { region: GONE, incarnation: Incarnation(7) });
        assert_eq!(lost(GONE, &[left(&[(7, 50)], &[sealed])]), Some(0));
        assert_eq!(lost(GONE, &[some, Left::default()]), None, "nobody remembers");
    }
}
