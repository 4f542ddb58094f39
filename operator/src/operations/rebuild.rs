//! The loss of all copies of a shard: when it is certain, and what it has cost. Pure.

use std::collections::BTreeMap;

use crds::{Loss, OperationOutcome};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use mas_core::cover::Cover;
use mas_core::replication::heartbeat::HEARTBEAT_MS;
use mas_core::stamp::{Incarnation, Origin, RegionId};

use crate::procedures::shard::PATIENCE_MS;

/// What is seen of a shard now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// Incarnation and last number of its proved master, if it has one.
    pub(crate) master: Option<(String, u64)>,
    /// How far behind it the region is that is closest.
    pub(crate) lag_ms: Option<u64>,
    /// Another region serves its clients.
    pub(crate) is_evacuated: bool,
    /// All members answer, and hold nothing.
    pub(crate) is_lost: bool,
}

/// A shard over time, Unix milliseconds. Forgetting it costs only time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    failed_ms: Option<u64>,
    evacuated_ms: Option<u64>,
    lost_ms: Option<u64>,
    /// As they were when it was last well.
    master: Option<(String, u64)>,
    lag_ms: Option<u64>,
}

impl Watch {
    /// Takes another look.
    pub(crate) fn see(&mut self, sight: Sight, now_ms: u64) {
        if sight.master.is_some() {
            *self = Self { master: sight.master, lag_ms: sight.lag_ms, ..Self::default() };
            return;
        }
        self.failed_ms.get_or_insert(now_ms);
        if sight.is_evacuated {
            self.evacuated_ms.get_or_insert(now_ms);
        }
        self.lost_ms = sight.is_lost.then(|| self.lost_ms.unwrap_or(now_ms));
    }

    /// Nothing was there for so long that it is not for a moment.
    pub(crate) fn is_certain(&self, now_ms: u64) -> bool {
        self.lost_ms.is_some_and(|since| now_ms >= since + PATIENCE_MS)
    }

    /// What is known when the rebuild begins. `epoch`: the highest under which there was a copy.
    pub(crate) fn loss(&self, epoch: u64) -> Loss {
        Loss {
            failed_at: self.failed_ms.and_then(time),
            served_at: self.evacuated_ms.and_then(time),
            epoch,
            issued: self.master.clone().into_iter().collect(),
            behind_millis: self.lag_ms,
        }
    }
}

/// What one of the other regions was told of a lost shard.
#[derive(Clone, Debug)]
pub(crate) struct Told<'a> {
    /// The last number of each incarnation.
    pub(crate) issued: &'a BTreeMap<String, u64>,
    /// How much of the lost shard's time it has not wholly.
    pub(crate) behind_millis: Option<u64>,
}

/// Adds what is known now, while nothing was made anew.
pub(crate) fn learn(loss: &mut Loss, told: &[Told<'_>]) {
    for (incarnation, last) in told.iter().flat_map(|told| told.issued) {
        let known = loss.issued.entry(incarnation.clone()).or_default();
        *known = (*known).max(*last);
    }
    let spoke = told.iter().filter(|told| !told.issued.is_empty());
    loss.behind_millis = loss.behind_millis.or_else(|| spoke.filter_map(|told| told.behind_millis).min());
}

/// Notes when another region began to serve.
pub(crate) fn served(loss: &mut Loss, now_ms: u64) {
    if loss.served_at.is_none() {
        loss.served_at = time(now_ms);
    }
}

/// What the loss has cost, now that the shard serves again. `recovered`: what the regions have.
pub(crate) fn measure(loss: &Loss, region: RegionId, recovered: &[Cover], now_ms: u64) -> OperationOutcome {
    let gone: u64 =
        loss.issued.iter().map(|(incarnation, last)| missing(region, incarnation, *last, recovered)).sum();
    let (failed, served) = (millis(loss.failed_at.as_ref()), millis(loss.served_at.as_ref()));
    // Without another region clients had to wait for the shard itself.
    let again = served.unwrap_or(now_ms);
    OperationOutcome {
        total_millis: None,
        rpo_effects: Some(gone),
        // What was told is told once a heartbeat.
        rpo_millis: if gone == 0 { Some(0) } else { loss.behind_millis.map(|ms| ms.max(HEARTBEAT_MS)) },
        rto_millis: failed.map(|failed| again.saturating_sub(failed)),
        wrt_millis: Some(now_ms.saturating_sub(again)),
    }
}

/// How many of an incarnation's numbers nobody has. What is sealed all regions had alike.
fn missing(region: RegionId, incarnation: &str, last: u64, recovered: &[Cover]) -> u64 {
    let Some(incarnation) = Incarnation::parse(incarnation) else { return 0 };
    let origin = Origin { region, incarnation };
    if recovered.iter().any(|cover| cover.is_sealed(origin)) {
        return 0;
    }
    let of = |cover: &Cover| {
        cover
            .of(origin)
            .map_or(last, |set| set.holes_up_to(last).into_iter().map(|(first, last)| last - first + 1).sum())
    };
    // One region that has all but a few is as good as all together: they tell each other what one of them has.
    recovered.iter().map(of).min().unwrap_or(last)
}

fn time(ms: u64) -> Option<MicroTime> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok().map(MicroTime)
}

fn millis(time: Option<&MicroTime>) -> Option<u64> {
    u64::try_from(time?.0.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use mas_core::cover::SeqSet;

    use super::*;

    const LOST: Sight = Sight { master: None, lag_ms: None, is_evacuated: false, is_lost: true };
    const REGION: RegionId = RegionId(1);
    const OLD: Incarnation = Incarnation(7);

    #[test]
    fn a_loss_is_certain_when_it_lasts() {
        let mut watch = Watch::default();
        watch.see(Sight { is_lost: false, ..LOST }, 1000);
        watch.see(LOST, 2000);
        assert!(!watch.is_certain(2000 + PATIENCE_MS - 1));
        assert!(watch.is_certain(2000 + PATIENCE_MS));
        watch.see(Sight { is_lost: false, is_evacuated: true, ..LOST }, 3000);
        assert!(!watch.is_certain(9000), "a member does not answer: it may have something");
        watch.see(LOST, 4000);
        let loss = watch.loss(5);
        assert_eq!(
            (millis(loss.failed_at.as_ref()), millis(loss.served_at.as_ref())),
            (Some(1000), Some(3000))
        );
        assert_eq!((loss.issued.len(), loss.behind_millis), (0, None));
        watch.see(Sight { master: Some((OLD.to_string(), 9)), lag_ms: Some(40), ..LOST }, 5000);
        assert!(!watch.is_certain(u64::MAX), "it is back");
        watch.see(LOST, 6000);
        let loss = watch.loss(5);
        assert_eq!((loss.issued[&OLD.to_string()], loss.behind_millis), (9, Some(40)), "as it was last seen");
    }

    fn cover(runs: &[(u64, u64)]) -> Cover {
        let mut set = SeqSet::default();
        for (first, last) in runs {
            set.insert_run(*first, *last).unwrap();
        }
        let mut cover = Cover::default();
        cover.set(Origin { region: REGION, incarnation: OLD }, set);
        cover
    }

    #[test]
    fn what_was_told_and_nobody_has_is_lost() {
        let mut loss = Loss { failed_at: time(1000), served_at: time(1800), ..Loss::default() };
        let (one, other) = ([(OLD.to_string(), 90)].into(), [(OLD.to_string(), 100)].into());
        let told = |issued, behind| Told { issued, behind_millis: Some(behind) };
        learn(&mut loss, &[told(&one, 700), told(&other, 400)]);
        learn(&mut loss, &[told(&one, 100)]);
        assert_eq!((loss.issued[&OLD.to_string()], loss.behind_millis), (100, Some(400)));
        let all = measure(&loss, REGION, &[cover(&[(1, 80)]), cover(&[(1, 100)])], 9000);
        assert_eq!((all.rpo_effects, all.rpo_millis), (Some(0), Some(0)));
        assert_eq!((all.rto_millis, all.wrt_millis), (Some(800), Some(7200)));
        let some = measure(&loss, REGION, &[cover(&[(1, 80), (91, 95)])], 9000);
        assert_eq!((some.rpo_effects, some.rpo_millis), (Some(15), Some(400)));
        assert_eq!(measure(&loss, REGION, &[Cover::default()], 9000).rpo_effects, Some(100));
        let mut sealed = cover(&[(1, 80)]);
        sealed.seal(Origin { region: REGION, incarnation: OLD });
        assert_eq!(measure(&loss, REGION, &[sealed], 9000).rpo_effects, Some(0), "all had the same of it");
    }

    #[test]
    fn without_another_region_clients_waited_for_the_shard() {
        let loss = Loss { failed_at: time(1000), ..Loss::default() };
        let outcome = measure(&loss, REGION, &[], 9000);
        assert_eq!((outcome.rto_millis, outcome.wrt_millis), (Some(8000), Some(0)));
    }
}
