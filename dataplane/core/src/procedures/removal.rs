//! Removal: a region leaves while the others serve, and takes along nothing that only it has.
//!
//! 1. **Drain**: its proxies send all requests to other regions, so its clients do not notice.
//! 2. **Settle**: its engines take no more writes; once every region that stays has all that it ever numbered, they are stopped, before the
//!    pause is over.
//! 3. **Forget**: the membership without it is announced. From then on no tombstone waits for it, and nobody reads its streams: that is
//!    why it has to be settled first.
//! 4. **Delete**: what it had is kept or deleted, as the manifest says.
//!
//! **Forced**, for a region that is gone for good: nothing of it answers, and a person says that nothing ever will. Then nothing can be asked of
//! it; those that stay make each other equal on what they have of it (what one of them lacks, it takes over from the others as state:
//! [`crate::replication::health`]), and only then forget it. What nobody has is lost.
//!
//! A runner that dies leaves a pause that ends by itself, or a region that is stopped or forgotten: each is seen, and gone on from.

use crate::cover::{Cover, SeqSet};
use crate::procedures::operation::{Look, Progress, Step, Verdict};
use crate::stamp::RegionId;

/// Clients come back to it as soon as the manifest says so: until then it may wait.
const DRAIN_MS: u64 = 10 * 60_000;
/// Everything else moves within seconds.
const STEP_MS: u64 = 5 * 60_000;
/// Engines are asked for a pause of so long, milliseconds.
pub const PAUSE_MS: u64 = 10_000;
/// So much of it must be left for them to be stopped: what was looked at stays true until they are.
pub const LEFT_MS: u64 = 4_000;

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The master of this shard takes nothing that changes data, for [`PAUSE_MS`].
    Pause {
        /// The shard.
        shard: usize,
    },
    /// All engines of the region, and its proxies, are stopped within [`LEFT_MS`] of the look; that they are is kept, and they are not
    /// started again.
    Stop,
    /// The region is no member any more; the others are told.
    Forget,
    /// What it had is kept or deleted.
    Delete,
}

/// Everything that is looked at.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The region that leaves.
    pub region: RegionId,
    /// Every proxy of it sends all requests elsewhere.
    pub away: bool,
    /// A person has declared it gone.
    pub gone: bool,
    /// What of it answers all the same, in words.
    pub answers: Option<String>,
    /// Its shards. They are looked at before the members.
    pub shards: Vec<Shard>,
    /// It is kept that its engines were stopped when every region that stays had all they had, and are not started again.
    pub settled: bool,
    /// Any of its engines runs.
    pub runs: bool,
    /// The regions that stay.
    pub members: Vec<Member>,
    /// It is no member any more.
    pub forgotten: bool,
    /// The epoch of the membership.
    pub membership: u64,
    /// Nothing of it is left where the store runs.
    pub deleted: bool,
}

/// A shard of the region that leaves.
#[derive(Clone, Debug)]
pub enum Shard {
    /// No master answers, in words.
    Silent(String),
    /// It has a master.
    Runs {
        /// It has read its own stream back.
        recovered: bool,
        /// It takes no writes for so long yet, milliseconds.
        paused_ms: u64,
        /// What it has.
        cover: Cover,
    },
}

/// A region that stays.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// All of its proxies that run use a configuration without the region.
    pub told: bool,
    /// Its shards; `None`: there is no master now, or a copy does not answer.
    pub shards: Vec<Option<Stayer>>,
}

/// A serving master of a region that stays.
#[derive(Clone, Debug)]
pub struct Stayer {
    /// The epoch of the membership that it knows.
    pub membership: u64,
    /// What it has and cannot lose with its master: what every copy of the shard has. Nobody could give it again once the region is gone.
    pub cover: Cover,
}

impl Stayer {
    /// From what every copy of the shard has, the master's first: a master may be lost with what its replicas lack. `None`: nobody was asked.
    pub fn of_copies(membership: u64, copies: &[Cover]) -> Option<Self> {
        let (master, replicas) = copies.split_first()?;
        let cover = replicas.iter().fold(master.clone(), |all, replica| all.meet(replica));
        Some(Self { membership, cover })
    }
}

/// The steps.
pub const STEPS: [Step<Observed, Action>; 4] = [
    Step { name: "Drain", patience_ms: DRAIN_MS, look: drain },
    Step { name: SETTLE, patience_ms: STEP_MS, look: settle },
    Step { name: "Forget", patience_ms: STEP_MS, look: forget },
    Step { name: "Delete", patience_ms: STEP_MS, look: delete },
];
/// The step that a region that runs again goes back to.
const SETTLE: &str = "Settle";

fn drain(o: &Observed) -> Look<Action> {
    if o.away || o.forgotten || o.settled {
        return Verdict::Done.into();
    }
    if o.gone {
        // Nobody is there that could be handed over.
        return answers(o).unwrap_or(Verdict::Done).into();
    }
    if o.answers.is_none() {
        let words = "nothing of the region answers: it goes on when it is back; if it is gone for good, that has to be declared";
        return Verdict::blocked("RegionAway", words).into();
    }
    Verdict::wait("waiting until all of its proxies send their requests to another region").into()
}

fn settle(o: &Observed) -> Look<Action> {
    if o.forgotten || rests(o) {
        return Verdict::Done.into();
    }
    if o.gone {
        return equal(o);
    }
    if o.settled {
        return stop();
    }
    let (mut actions, mut lacking, mut total, mut paused) = (Vec::new(), 0, 0, true);
    let unsettled = mutation!(RemovalUnsettled);
    for (number, shard) in o.shards.iter().enumerate() {
        let (recovered, paused_ms, cover) = match shard {
            Shard::Silent(why) => {
                let words = format!(
                    "shard {number} of the region {why}: what only it has cannot be asked for; it goes on once the shard serves"
                );
                return Verdict::blocked("RegionAway", words).into();
            }
            Shard::Runs { recovered, paused_ms, cover } => (recovered, paused_ms, cover),
        };
        if !recovered {
            let words = format!("shard {number} of the region has not read its own stream back yet");
            return Verdict::blocked("RegionRecovering", words).into();
        }
        for member in &o.members {
            let Some(stayer) = member.shards.get(number).and_then(Option::as_ref) else {
                let words = format!(
                    "shard {number} of {} has no master, or not every copy of it answers: what only some have could be lost with them",
                    member.name
                );
                return Verdict::blocked("MemberAway", words).into();
            };
            let (missing, all) = lacking_of(o.region, &stayer.cover, cover);
            let missing = if unsettled { 0 } else { missing };
            (lacking, total) = (lacking + missing, total + all);
        }
        if *paused_ms < LEFT_MS {
            paused = false;
            actions.push(Action::Pause { shard: number });
        }
    }
    if lacking == 0 && paused {
        return stop();
    }
    // As long as much is missing, nobody is kept from anything.
    if lacking > 0 {
        actions.clear();
    }
    let message = format!("the regions that stay lack {lacking} of its effects");
    let progress = Some(Progress { done: total - lacking, total, unit: "effects" });
    Look { verdict: Verdict::Wait { progress, message }, actions }
}

/// It is settled, and still is.
fn rests(o: &Observed) -> bool {
    o.settled && !o.runs && answers(o).is_none()
}

/// What answers is not gone: it has what only it has, and may number more.
fn answers(o: &Observed) -> Option<Verdict> {
    let who = o.answers.as_ref().filter(|_| o.gone)?;
    let words = format!(
        "{who}: it is not gone, and what only it has would be lost; mend it, or end what is left of it"
    );
    Some(Verdict::blocked("RegionAnswers", words))
}

/// Whether every region that stays has all that any of them has of it.
fn equal(o: &Observed) -> Look<Action> {
    if let Some(verdict) = answers(o) {
        return verdict.into();
    }
    let shards = o.members.iter().map(|member| member.shards.len()).max().unwrap_or_default();
    let (mut lacking, mut total) = (0, 0);
    for shard in 0..shards {
        let mut covers = Vec::new();
        for member in &o.members {
            let Some(stayer) = member.shards.get(shard).and_then(Option::as_ref) else {
                let words = format!(
                    "shard {shard} of {} has no master, or not every copy of it answers: what it has of the region, the others may lack",
                    member.name
                );
                return Verdict::blocked("MemberAway", words).into();
            };
            covers.push(&stayer.cover);
        }
        let all = together(o.region, &covers);
        for cover in covers {
            let (missing, of) = lacking_of(o.region, cover, &all);
            (lacking, total) = (lacking + missing, total + of);
        }
    }
    if lacking == 0 {
        return stop();
    }
    let message = format!(
        "the regions that stay lack {lacking} of its effects that another of them has: they take them over"
    );
    let progress = Some(Progress { done: total - lacking, total, unit: "effects" });
    Verdict::Wait { progress, message }.into()
}

/// What any of these has of what a region numbered.
pub fn together(region: RegionId, covers: &[&Cover]) -> Cover {
    let mut all = Cover::default();
    for (origin, set) in covers.iter().flat_map(|cover| cover.iter()).filter(|(o, _)| o.region == region) {
        let mut union = all.of(origin).cloned().unwrap_or_default();
        // Bounded by those of the covers together.
        set.runs().for_each(|(first, last)| union.insert_run_unbounded(first, last));
        all.set(origin, union);
    }
    all
}

fn stop() -> Look<Action> {
    let message = "every region that stays has all that it had: it is stopped".to_owned();
    Look { verdict: Verdict::Wait { progress: None, message }, actions: vec![Action::Stop] }
}

/// How many of what the region itself numbered, up to what is in `all`, are missing in `cover`; and how many there are.
fn lacking_of(region: RegionId, cover: &Cover, all: &Cover) -> (u64, u64) {
    let mut counts = (0, 0);
    // What is sealed is ignored by everyone, alike.
    for (origin, set) in all.iter().filter(|(o, _)| o.region == region && !cover.is_sealed(*o)) {
        let nothing = SeqSet::default();
        let missing = set.without(cover.of(origin).unwrap_or(&nothing));
        let missing: u64 = missing.iter().map(|(first, last)| last - first + 1).sum();
        counts = (counts.0 + missing, counts.1 + set.len());
    }
    counts
}

fn forget(o: &Observed) -> Look<Action> {
    if !o.forgotten {
        if !rests(o) {
            let why = "the region runs again".to_owned();
            return Verdict::Back { to: SETTLE, why }.into();
        }
        let message = "the regions that stay are told".to_owned();
        return Look { verdict: Verdict::Wait { progress: None, message }, actions: vec![Action::Forget] };
    }
    let late = o.members.iter().find_map(|member| {
        if !member.told {
            return Some(format!(
                "the proxies of {} do not all use the configuration without it",
                member.name
            ));
        }
        member.shards.iter().enumerate().find_map(|(shard, stayer)| match stayer {
            None => Some(format!(
                "shard {shard} of {} has no master, or not every copy of it answers",
                member.name
            )),
            Some(stayer) if stayer.membership < o.membership => {
                Some(format!("shard {shard} of {} has not been told yet", member.name))
            }
            Some(_) => None,
        })
    });
    late.map_or(Verdict::Done, |words| Verdict::blocked("MembershipNotConfirmed", words)).into()
}

fn delete(o: &Observed) -> Look<Action> {
    if o.deleted {
        return Verdict::Done.into();
    }
    let message = "its files are kept or deleted, as the manifest says".to_owned();
    Look { verdict: Verdict::Wait { progress: None, message }, actions: vec![Action::Delete] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedures::operation::{Operation, Phase};
    use crate::stamp::{Incarnation, Origin};

    const A: RegionId = RegionId(1);
    const B: RegionId = RegionId(2);
    const LEAVING: RegionId = RegionId(3);

    fn cover(of: &[(RegionId, u64)]) -> Cover {
        let mut cover = Cover::default();
        for (region, last) in of {
            let origin = Origin { region: *region, incarnation: Incarnation(u64::from(region.0)) };
            cover.set(origin, SeqSet::up_to(*last));
        }
        cover
    }

    fn member(name: &str, last: u64) -> Member {
        let stayer = Stayer { membership: 3, cover: cover(&[(A, 9), (B, 9), (LEAVING, last)]) };
        Member { name: name.into(), told: true, shards: vec![Some(stayer)] }
    }

    fn running(last: u64, paused_ms: u64) -> Shard {
        Shard::Runs { recovered: true, paused_ms, cover: cover(&[(A, 900), (LEAVING, last)]) }
    }

    /// All is drained, and everybody has everything.
    fn world() -> Observed {
        Observed {
            region: LEAVING,
            away: true,
            gone: false,
            answers: Some("a proxy answers".into()),
            shards: vec![running(50, 0)],
            settled: false,
            runs: true,
            members: vec![member("a", 50), member("b", 50)],
            forgotten: false,
            membership: 3,
            deleted: false,
        }
    }

    fn at(step: usize) -> Operation {
        Operation { phase: Phase::Running, step, ..Operation::default() }
    }

    fn look(operation: &mut Operation, world: &Observed) -> Vec<Action> {
        operation.advance(&STEPS, world, 1000)
    }

    #[test]
    fn it_goes_through_its_steps() {
        let mut operation = Operation::default();
        let mut world = world();
        world.away = false;
        assert_eq!((look(&mut operation, &world), operation.step), (vec![], 0));
        assert_eq!(operation.blocked, None);
        look(&mut operation, &Observed { answers: None, ..world.clone() });
        assert_eq!(operation.blocked.as_ref().map(|(o, _)| o.reason), Some("RegionAway"));
        world.away = true;
        assert_eq!(look(&mut operation, &world), [Action::Pause { shard: 0 }]);
        world.shards = vec![running(50, 9_000)];
        assert_eq!((look(&mut operation, &world), operation.step), (vec![Action::Stop], 1));
        world.settled = true;
        assert_eq!(look(&mut operation, &world), [Action::Stop], "one was left running");
        world.runs = false;
        assert_eq!((look(&mut operation, &world), operation.step), (vec![Action::Forget], 2));
        (world.forgotten, world.membership) = (true, 4);
        assert!(look(&mut operation, &world).is_empty());
        assert_eq!(operation.blocked.as_ref().map(|(o, _)| o.reason), Some("MembershipNotConfirmed"));
        for member in &mut world.members {
            member.shards[0].as_mut().unwrap().membership = 4;
        }
        assert_eq!(look(&mut operation, &world), [Action::Delete]);
        world.deleted = true;
        assert!(look(&mut operation, &world).is_empty());
        assert_eq!(operation.phase, Phase::Succeeded);
    }

    #[test]
    fn nothing_is_stopped_while_a_region_that_stays_lacks_something() {
        let mut world = world();
        world.members[1] = member("b", 49);
        world.shards = vec![running(50, 9_000)];
        let mut operation = at(1);
        assert!(look(&mut operation, &world).is_empty());
        let progress = operation.steps[1].progress.unwrap();
        assert_eq!((progress.done, progress.total), (99, 100));
        // Beyond a gap.
        let mut holes = SeqSet::up_to(50);
        holes.insert(60).unwrap();
        let mut cover = Cover::default();
        cover.set(Origin { region: LEAVING, incarnation: Incarnation(3) }, holes);
        world.members[1] = member("b", 50);
        world.shards = vec![Shard::Runs { recovered: true, paused_ms: 9_000, cover }];
        assert!(look(&mut operation, &world).is_empty());
    }

    #[test]
    fn what_only_a_master_has_does_not_count() {
        let stayer = Stayer::of_copies(3, &[cover(&[(LEAVING, 50)]), cover(&[(LEAVING, 49)])]);
        let mut world = world();
        world.shards = vec![running(50, 9_000)];
        world.members[1].shards = vec![stayer];
        assert!(look(&mut at(1), &world).is_empty());
        assert!(Stayer::of_copies(3, &[]).is_none());
    }

    #[test]
    fn nothing_is_stopped_that_could_number_more_before_it_is() {
        let mut world = world();
        world.shards = vec![running(50, LEFT_MS - 1), running(50, 9_000)];
        for member in &mut world.members {
            let same = member.shards[0].clone();
            member.shards.push(same);
        }
        assert_eq!(look(&mut at(1), &world), [Action::Pause { shard: 0 }]);
    }

    #[test]
    fn what_cannot_be_asked_is_waited_for() {
        let reason = |world: &Observed| {
            let mut operation = at(1);
            assert!(look(&mut operation, world).is_empty());
            operation.blocked.map(|(obstacle, _)| obstacle.reason)
        };
        let silent = Shard::Silent("has no master".into());
        assert_eq!(reason(&Observed { shards: vec![silent], ..world() }), Some("RegionAway"));
        let recovering = Shard::Runs { recovered: false, paused_ms: 0, cover: Cover::default() };
        assert_eq!(reason(&Observed { shards: vec![recovering], ..world() }), Some("RegionRecovering"));
        let mut away = world();
        away.members[0].shards[0] = None;
        assert_eq!(reason(&away), Some("MemberAway"));
    }

    #[test]
    fn a_region_that_runs_again_is_settled_again() {
        let mut operation = at(2);
        assert!(look(&mut operation, &world()).is_empty());
        assert_eq!((operation.step, operation.steps[1].repeats), (1, 1));
        let gone = Observed { forgotten: true, deleted: true, ..world() };
        look(&mut operation, &gone);
        assert_eq!(operation.phase, Phase::Succeeded, "what is forgotten stays so");
    }

    /// Nothing of it answers, and a person has said that it is gone.
    fn gone(members: Vec<Member>) -> Observed {
        let silent = vec![Shard::Silent("has no master".into())];
        Observed { away: false, gone: true, answers: None, shards: silent, runs: false, members, ..world() }
    }

    #[test]
    fn one_that_is_gone_is_forgotten_once_the_others_are_equal() {
        let mut operation = Operation::default();
        let mut world = gone(vec![member("a", 50), member("b", 47)]);
        assert!(look(&mut operation, &world).is_empty());
        assert_eq!(operation.step, 1, "nobody is there to be drained");
        let progress = operation.steps[1].progress.unwrap();
        assert_eq!((progress.done, progress.total), (97, 100));
        world.members[1] = member("b", 50);
        assert_eq!(look(&mut operation, &world), [Action::Stop], "so that it is not started again");
        world.settled = true;
        assert_eq!((look(&mut operation, &world), operation.step), (vec![Action::Forget], 2));
        world.forgotten = true;
        look(&mut operation, &world);
        world.deleted = true;
        look(&mut operation, &world);
        assert_eq!(operation.phase, Phase::Succeeded);
    }

    /// Each has what the other one lacks: none of them has all.
    #[test]
    fn what_different_regions_have_counts_together() {
        let mut holes = member("b", 0);
        let mut set = SeqSet::default();
        set.insert_run(40, 60).unwrap();
        let origin = Origin { region: LEAVING, incarnation: Incarnation(3) };
        holes.shards[0].as_mut().unwrap().cover.set(origin, set);
        let mut operation = at(1);
        assert!(look(&mut operation, &gone(vec![member("a", 50), holes])).is_empty());
        let progress = operation.steps[1].progress.unwrap();
        assert_eq!((progress.total - progress.done, progress.total), (10 + 39, 120));
    }

    #[test]
    fn what_answers_is_not_gone_and_who_is_away_is_waited_for() {
        let reason = |step: usize, world: &Observed| {
            let mut operation = at(step);
            assert!(look(&mut operation, world).is_empty());
            operation.blocked.map(|(obstacle, _)| obstacle.reason)
        };
        let both = || vec![member("a", 50), member("b", 50)];
        let answers = Observed { answers: Some("its broker answers".into()), ..gone(both()) };
        assert_eq!(
            (reason(0, &answers), reason(1, &answers)),
            (Some("RegionAnswers"), Some("RegionAnswers"))
        );
        let mut away = gone(both());
        away.members[1].shards[0] = None;
        assert_eq!(reason(1, &away), Some("MemberAway"));
        // It comes back after all were equal, and before it is forgotten.
        let mut operation = at(2);
        let late = Observed { settled: true, ..answers };
        look(&mut operation, &late);
        assert_eq!((operation.step, operation.steps[1].repeats), (1, 1));
        assert_eq!(reason(1, &late), Some("RegionAnswers"));
    }
}
