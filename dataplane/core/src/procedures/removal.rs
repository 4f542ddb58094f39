//! Removal: a region leaves while the others serve, and takes along nothing that only it has.
//!
//! 1. **Drain**: its proxies send all requests to other regions, so its clients do not notice.
//! 2. **Settle**: its engines take no more writes; once every region that stays has all that it ever numbered, they are stopped, before the
//!    pause is over.
//! 3. **Forget**: the membership without it is announced. From then on no tombstone waits for it, and nobody reads its streams: that is
//!    why it has to be settled first.
//! 4. **Delete**: what it had is kept or deleted, as the manifest says.
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
    /// The masters of its shards; `None`: there is none now.
    pub shards: Vec<Option<Stayer>>,
}

/// A serving master of a region that stays.
#[derive(Clone, Debug)]
pub struct Stayer {
    /// The epoch of the membership that it knows.
    pub membership: u64,
    /// What it has.
    pub cover: Cover,
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
    Verdict::wait("waiting until all of its proxies send their requests to another region").into()
}

fn settle(o: &Observed) -> Look<Action> {
    if o.forgotten || (o.settled && !o.runs) {
        return Verdict::Done.into();
    }
    if o.settled {
        return stop();
    }
    let (mut actions, mut lacking, mut total, mut paused) = (Vec::new(), 0, 0, true);
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
                let words = format!("shard {number} of {} has no master that answers", member.name);
                return Verdict::blocked("MemberAway", words).into();
            };
            let (missing, all) = lacking_of(o.region, &stayer.cover, cover);
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
        if !o.settled || o.runs {
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
            None => Some(format!("shard {shard} of {} has no master that answers", member.name)),
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
}
