//! The loss of all copies of a shard: when it is certain, what it has cost, and what a person may order. Pure.

use std::collections::BTreeMap;

use crds::{Loss, OperationOutcome};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use mas_core::cover::Cover;
use mas_core::replication::heartbeat::HEARTBEAT_MS;
use mas_core::stamp::{Incarnation, Origin, RegionId};

use crate::procedures::identity::Identity;
use crate::procedures::shard::{PATIENCE_MS, Place, Seen};

/// A server that has failed to start so often cannot use its files.
pub(crate) const MANY_RESTARTS: u32 = 5;

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
        rpo_effects: Some(gone),
        // What was told is told once a heartbeat.
        rpo_millis: if gone == 0 { Some(0) } else { loss.behind_millis.map(|ms| ms.max(HEARTBEAT_MS)) },
        rto_millis: failed.map(|failed| again.saturating_sub(failed)),
        wrt_millis: Some(now_ms.saturating_sub(again)),
        ..OperationOutcome::default()
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

/// What is known of a server's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// A person has stopped it.
    Held,
    /// It runs, or is being started.
    Going,
    /// It has failed [`MANY_RESTARTS`] times.
    Failing,
}

/// A server of the shard.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// As people know it.
    pub(crate) name: String,
    pub(crate) seen: Seen,
    pub(crate) start: Start,
}

/// What decides whether an order to rebuild is carried out.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// `beijing/shard-0`.
    pub(crate) about: String,
    pub(crate) place: Place,
    pub(crate) members: Vec<Member>,
    pub(crate) master: Option<usize>,
    /// What it lacks another region would not give it.
    pub(crate) lapsed: bool,
    /// Its controller has tried to promote a copy, and could not.
    pub(crate) stuck: bool,
    /// Other regions that serve the shard.
    pub(crate) sources: usize,
}

impl Member {
    fn identity(&self) -> Option<&Identity> {
        match &self.seen {
            Seen::Answers { identity, .. } => Some(identity),
            Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => None,
        }
    }

    /// It has data of the shard that may be good. A copy that still joins was given up: what it lacks nobody has told it.
    fn holds(&self, place: &Place) -> bool {
        self.identity().is_some_and(|id| !id.empty && is_of(place, id) && id.joining.is_none())
    }
}

fn is_of(place: &Place, id: &Identity) -> bool {
    (&id.store, id.region, id.shard) == (&place.store, place.region, place.shard)
}

/// Why a shard is not rebuilt on order: a copy that may be good is not put aside.
pub(crate) fn refusal(of: &Wanted) -> Option<String> {
    let about = &of.about;
    let master = of.master.and_then(|master| of.members.get(master)?.identity());
    if master.is_some_and(|id| id.joining.is_none()) && !of.lapsed {
        return Some(format!("{about} is served by a copy of its own: there is nothing to rebuild"));
    }
    if of.sources == 0 {
        return Some(format!(
            "no other region that could be copied serves the shard now: {about} stays as it is"
        ));
    }
    if of.lapsed {
        return None;
    }
    of.members.iter().find_map(|member| {
        let name = &member.name;
        let why = match (&member.seen, member.start) {
            (Seen::Answers { .. }, _) if member.holds(&of.place) && !of.stuck => {
                "holds data of this shard and may be promoted: wait, and see `masctl status`".to_owned()
            }
            (Seen::Loading, _) => "is loading its data: wait".to_owned(),
            (Seen::Silent, _) => "runs, and does not answer yet: wait".to_owned(),
            (Seen::Paused, _) | (Seen::Absent, Start::Held) => {
                format!("was stopped by somebody: `masctl fault resume {name}` first")
            }
            (Seen::Absent, Start::Going) => {
                format!("is being started: wait until it is up, or has failed {MANY_RESTARTS} times")
            }
            // It answers with what is of no use, or does not stay up.
            (Seen::Answers { .. }, _) | (Seen::Absent, Start::Failing) => return None,
        };
        Some(format!("{name} {why}"))
    })
}

/// Members that hold what was there before the rebuild began, or cannot start with it. `lost`: the highest epoch under which there was a
/// copy.
pub(crate) fn in_the_way(place: &Place, lost: u64, members: &[Member]) -> Vec<usize> {
    let stands = |member: &Member| match &member.seen {
        Seen::Answers { identity, .. } if identity.empty => false,
        Seen::Answers { identity, .. } if identity.region == place.region => {
            identity.epoch <= lost || !is_of(place, identity)
        }
        Seen::Answers { identity, .. } => identity.store != place.store || identity.shard != place.shard,
        Seen::Absent => member.start == Start::Failing,
        Seen::Paused | Seen::Silent | Seen::Loading => false,
    };
    (0..members.len()).filter(|at| stands(&members[*at])).collect()
}

/// A member that has data of the shard after all, though nothing was made anew.
pub(crate) fn came_back<'a>(place: &Place, members: &'a [Member]) -> Option<&'a str> {
    members.iter().find(|member| member.holds(place)).map(|member| member.name.as_str())
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

    fn member(seen: Seen, start: Start) -> Member {
        Member { name: "a/shard-0/redis-0".into(), seen, start }
    }

    fn lost(member: Member) -> Wanted {
        let (about, place) = ("a/shard-0".into(), Place { store: "s".into(), region: 1, shard: 0 });
        Wanted { about, place, members: vec![member], master: None, lapsed: false, stuck: false, sources: 1 }
    }

    fn answers(store: &str, epoch: u64) -> Seen {
        let fields = format!(
            "store {store} region 1 shard 0 role master state fenced recovered 0 epoch {epoch} incarnation 00000000000000ff seq 1 \
             clock 1 outbox-effects 0 outbox-bytes 0 keys 1 empty 0"
        );
        let fields: Vec<String> = fields.split_whitespace().map(ToOwned::to_owned).collect();
        let identity = Box::new(Identity::parse(&fields).unwrap());
        Seen::Answers { identity, follows: None, subsumed: false }
    }

    #[test]
    fn a_copy_that_may_be_good_is_not_put_aside() {
        let words = |seen, start| refusal(&lost(member(seen, start)));
        let says = |words: Option<String>, what: &str| {
            assert!(words.as_ref().is_some_and(|words| words.contains(what)), "{what}: {words:?}");
        };
        says(words(Seen::Loading, Start::Going), "is loading its data");
        says(words(Seen::Silent, Start::Going), "does not answer yet");
        says(words(Seen::Absent, Start::Held), "masctl fault resume a/shard-0/redis-0");
        says(words(Seen::Paused, Start::Going), "masctl fault resume a/shard-0/redis-0");
        says(words(Seen::Absent, Start::Going), "is being started");
        assert_eq!(words(Seen::Absent, Start::Failing), None, "its files are damaged");
        assert_eq!(words(answers("other", 3), Start::Going), None, "data of another store");
        let good = || lost(member(answers("s", 3), Start::Going));
        says(refusal(&good()), "may be promoted");
        assert_eq!(refusal(&Wanted { stuck: true, ..good() }), None, "it cannot be promoted");
        let served = Wanted { master: Some(0), ..good() };
        says(refusal(&served), "nothing to rebuild");
        assert_eq!(refusal(&Wanted { lapsed: true, ..served.clone() }), None, "others refuse it");
        says(refusal(&Wanted { lapsed: true, sources: 0, ..good() }), "no other region");
        let mut given_up = served;
        let Seen::Answers { identity, .. } = &mut given_up.members[0].seen else { unreachable!() };
        let (source, brought) = (RegionId(2), Cover::default());
        identity.joining = Some(mas_core::joining::Joining { ticket: 1, source, brought });
        assert_eq!(refusal(&given_up), None, "a copy that another rebuild has left half made");
    }

    #[test]
    fn what_was_there_before_is_in_the_way_and_what_was_made_since_is_not() {
        let place = Place { store: "s".into(), region: 1, shard: 0 };
        let of = |seen, start| in_the_way(&place, 3, &[member(seen, start)]).len();
        assert_eq!([of(answers("s", 3), Start::Going), of(answers("s", 4), Start::Going)], [1, 0]);
        assert_eq!([of(answers("other", 9), Start::Going), of(Seen::Silent, Start::Failing)], [1, 0]);
        assert_eq!([of(Seen::Absent, Start::Going), of(Seen::Absent, Start::Failing)], [0, 1]);
        let back = |store| came_back(&place, &[member(answers(store, 3), Start::Going)]).is_some();
        assert!(back("s") && !back("other"));
    }
}
