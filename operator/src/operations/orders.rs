//! What people order that is over in a moment: another master for a shard, and a comparison of the regions. Pure: what is seen becomes the
//! next step. What it began with is kept before anything is done, so whoever comes later sees whether it has happened, and does it once.

use crds::{MasterBefore, OperationOutcome};
use mas_core::procedures::operation::{Obstacle, Operation, Phase, StepState};

use crate::procedures::identity::{EngineState, Identity, Role};
use crate::procedures::shard::Seen;
use crate::verify::Report;

/// For so long an order that has not begun waits for something else. Then it fails: nobody expects it any more.
pub(crate) const PATIENCE_MS: u64 = 60_000;
/// The steps of a `Switchover`.
pub(crate) const SWITCHOVER: [&str; 1] = ["HandOver"];
/// The same of a `Failover`.
pub(crate) const FAILOVER: [&str; 2] = ["EndMaster", "TakeOver"];
/// The same of `Verify` and `Repair`.
pub(crate) const COMPARISON: [&str; 1] = ["Compare"];

/// A shard, as orders look at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardSeen {
    /// Its members' names.
    pub(crate) names: Vec<String>,
    /// What is seen of them.
    pub(crate) members: Vec<Seen>,
    /// The proved master.
    pub(crate) master: Option<usize>,
    /// The highest epoch ever issued.
    pub(crate) epoch: u64,
    /// To whom that was issued.
    pub(crate) holder: Option<usize>,
    /// The uids of the members' pods; none of those that are ending.
    pub(crate) pods: Vec<Option<String>>,
}

impl ShardSeen {
    fn identity(&self, member: usize) -> Option<(&Identity, Option<usize>)> {
        match self.members.get(member)? {
            Seen::Answers { identity, follows, .. } => Some((identity, *follows)),
            Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => None,
        }
    }

    /// The master, and its epoch, if clients are served.
    fn serves(&self) -> Option<(usize, u64)> {
        let master = self.master?;
        let (identity, _) = self.identity(master)?;
        (identity.state == EngineState::Serving).then_some((master, identity.epoch))
    }

    fn name(&self, member: usize) -> String {
        self.names.get(member).cloned().unwrap_or_else(|| format!("redis-{member}"))
    }

    fn no_master(&self) -> Obstacle {
        let who = self.holder.map_or_else(|| "nobody".to_owned(), |holder| self.name(holder));
        Obstacle::new("NoMaster", format!("the shard has no master that serves now, {who} was it last"))
    }

    /// It is a replica that has what the holder of the last epoch began with, and what that has written since as far as is known.
    fn could_take_over(&self, holder: usize, member: usize) -> bool {
        let Some((own, follows)) = self.identity(member) else { return false };
        let level = match self.identity(holder) {
            Some((of, _)) => {
                follows == Some(holder) && own.master_link_up && own.incarnation == of.incarnation
            }
            // It hangs: how far its replicas have got is all that is known.
            None => true,
        };
        member != holder && own.role == Role::Replica && own.epoch == self.epoch && self.epoch > 0 && level
    }

    /// Why nobody could take over, however long one waits.
    fn hopeless(&self) -> Option<String> {
        let words = "the shard has one member alone: there is no replica that could take over";
        (self.names.len() < 2).then(|| words.to_owned())
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It cannot be, or was not to be like this.
    Fail(String),
    /// Something else has to happen first.
    Wait(Obstacle),
    /// Keep this; then it begins.
    Begin(MasterBefore),
    /// Do it now: hand over, or end the pod that was the master's.
    Act,
    /// It is done, and what comes of it is not seen yet.
    Await(String),
    /// It has happened; how long clients waited, if that is known.
    Done(String, Option<u64>),
}

/// A handover, when none is under way that this process has asked for.
pub(crate) fn switchover(before: Option<&MasterBefore>, target: Option<usize>, seen: &ShardSeen) -> Next {
    if let Some(why) = seen.hopeless() {
        return Next::Fail(why);
    }
    let members = seen.names.len();
    if target.is_some_and(|target| target >= members) {
        return Next::Fail(format!("the shard has members redis-0 to redis-{}", members - 1));
    }
    let Some((master, epoch)) = seen.serves() else { return Next::Wait(seen.no_master()) };
    let Some(before) = before else {
        if target == Some(master) {
            return Next::Done(format!("{} is master already; nobody waited", seen.name(master)), Some(0));
        }
        let member = u16::try_from(master).unwrap_or_default();
        return Next::Begin(MasterBefore { member, epoch, pod: String::new() });
    };
    let from = usize::from(before.member);
    if epoch == before.epoch {
        return Next::Act;
    }
    let name = seen.name(master);
    if master == from {
        return Next::Fail(format!(
            "{name} has begun anew meanwhile, under epoch {epoch}: there was no handover"
        ));
    }
    if target.is_some_and(|target| target != master) {
        return Next::Fail(format!("{name} has become master meanwhile"));
    }
    let from = seen.name(from);
    Next::Done(
        format!("{name} is master in place of {from}; nobody has measured how long clients waited"),
        None,
    )
}

/// In words, how a handover ended well.
pub(crate) fn handed_over(names: &[String], from: usize, to: usize, pause_ms: u64) -> String {
    let name = |member: usize| names.get(member).cloned().unwrap_or_else(|| format!("redis-{member}"));
    format!("{} is master in place of {}; clients waited for {pause_ms} ms", name(to), name(from))
}

/// The server of a shard's master is ended.
pub(crate) fn failover(before: Option<&MasterBefore>, seen: &ShardSeen) -> Next {
    if let Some(before) = before {
        return take_over(before, seen);
    }
    if let Some(why) = seen.hopeless() {
        return Next::Fail(why);
    }
    let Some(holder) = seen.holder else { return Next::Wait(seen.no_master()) };
    let is_there = match seen.members.get(holder) {
        Some(Seen::Answers { .. }) => seen.master == Some(holder),
        // One that hangs is what this is for.
        Some(Seen::Silent) => true,
        Some(Seen::Absent | Seen::Paused | Seen::Loading) | None => false,
    };
    let pod = seen.pods.get(holder).cloned().flatten();
    let Some(pod) = pod.filter(|_| is_there) else { return Next::Wait(seen.no_master()) };
    if !(0..seen.members.len()).any(|member| seen.could_take_over(holder, member)) {
        let words = format!("no replica has all that {} has: nobody could take over", seen.name(holder));
        return Next::Wait(Obstacle::new("NoReplicaInSync", words));
    }
    Next::Begin(MasterBefore { member: u16::try_from(holder).unwrap_or_default(), epoch: seen.epoch, pod })
}

fn take_over(before: &MasterBefore, seen: &ShardSeen) -> Next {
    let from = usize::from(before.member);
    let name = seen.name(from);
    match seen.serves() {
        Some((master, epoch)) if epoch > before.epoch && master == from => {
            let words =
                format!("{name} serves again, under epoch {epoch}: it was back before another took over");
            return Next::Done(words, None);
        }
        Some((master, epoch)) if epoch > before.epoch => {
            return Next::Done(format!("{} is master in place of {name}", seen.name(master)), None);
        }
        Some(_) | None => {}
    }
    // Under another epoch it has happened already, and whoever has that goes on.
    if seen.epoch == before.epoch && seen.pods.get(from).and_then(Option::as_ref) == Some(&before.pod) {
        return Next::Act;
    }
    Next::Await(format!("{name} is told to end: a replica takes over once its node says that it has ended"))
}

/// What a comparison has found: whether all is equal, in words, in numbers.
pub(crate) fn compared(report: &Report, repair: bool) -> (Phase, String, OperationOutcome) {
    let is_well = report.is_well() && report.undecided == 0;
    let outcome = OperationOutcome {
        keys_compared: Some(report.keys_compared),
        different_keys: Some(report.different_keys),
        repaired_keys: repair.then_some(report.repaired_keys),
        ..OperationOutcome::default()
    };
    (if is_well { Phase::Succeeded } else { Phase::Failed }, report.words(), outcome)
}

/// It waits for something else; for too long, and it fails.
pub(crate) fn wait(operation: &mut Operation, obstacle: Obstacle, now_ms: u64) {
    let known = operation.blocked.as_ref().filter(|(known, _)| known.reason == obstacle.reason);
    let since = known.map_or(now_ms, |(_, since)| *since);
    if now_ms.saturating_sub(since) > PATIENCE_MS {
        end(operation, Phase::Failed, obstacle.message, now_ms);
        return;
    }
    operation.blocked = Some((obstacle, since));
}

/// It is at this step.
pub(crate) fn go_on(operation: &mut Operation, steps: usize, step: usize, words: &str, now_ms: u64) {
    operation.steps.resize_with(steps, StepState::default);
    if operation.phase != Phase::Running || operation.step != step {
        operation.moved_at = now_ms;
    }
    (operation.phase, operation.step, operation.blocked) = (Phase::Running, step, None);
    for done in operation.steps.iter_mut().take(step) {
        done.started_at.get_or_insert(now_ms);
        done.finished_at.get_or_insert(now_ms);
        done.message.clear();
    }
    if let Some(state) = operation.steps.get_mut(step) {
        state.started_at.get_or_insert(now_ms);
        words.clone_into(&mut state.message);
    }
}

/// It is over.
pub(crate) fn end(operation: &mut Operation, phase: Phase, words: String, now_ms: u64) {
    operation.moved_at = now_ms;
    if phase == Phase::Succeeded {
        for state in &mut operation.steps {
            state.started_at.get_or_insert(now_ms);
            state.finished_at.get_or_insert(now_ms);
            state.message.clear();
        }
        operation.step = operation.steps.len();
    }
    operation.end(phase, words);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: Role, epoch: u64) -> Seen {
        let identity = Identity {
            store: "shop".into(),
            region: 1,
            shard: 0,
            role,
            state: if role == Role::Master { EngineState::Serving } else { EngineState::Fenced },
            recovered: true,
            epoch,
            incarnation: format!("{epoch:016x}"),
            seq: 5,
            clock: 0,
            outbox_effects: 0,
            outbox_bytes: 0,
            master_link_up: role == Role::Replica,
            offset: 100,
            paused_ms: 0,
            keys: 1,
            empty: false,
            waiting: Vec::new(),
            membership: 1,
            joining: None,
        };
        Seen::Answers { identity: Box::new(identity), follows: None, subsumed: false }
    }

    /// Two members, of which one is master.
    fn shard(master: usize, epoch: u64) -> ShardSeen {
        let replica = |at: usize| match member(Role::Replica, epoch) {
            Seen::Answers { identity, subsumed, .. } => {
                Seen::Answers { identity, follows: Some(1 - at), subsumed }
            }
            other => other,
        };
        let of = |at| if at == master { member(Role::Master, epoch) } else { replica(at) };
        ShardSeen {
            names: vec!["redis-0".into(), "redis-1".into()],
            members: vec![of(0), of(1)],
            master: Some(master),
            epoch,
            holder: Some(master),
            pods: vec![Some("u0".into()), Some("u1".into())],
        }
    }

    fn before(member: u16, epoch: u64, pod: &str) -> MasterBefore {
        MasterBefore { member, epoch, pod: pod.into() }
    }

    fn one_alone() -> ShardSeen {
        let mut seen = shard(0, 3);
        seen.names.truncate(1);
        seen.members.truncate(1);
        seen
    }

    #[test]
    fn a_handover_is_kept_then_done_and_never_done_twice() {
        let seen = shard(0, 3);
        assert_eq!(switchover(None, None, &seen), Next::Begin(before(0, 3, "")));
        let begun = before(0, 3, "");
        assert_eq!(switchover(Some(&begun), None, &seen), Next::Act, "also by one who comes later");
        // It has happened, and whoever had asked is gone.
        let Next::Done(words, None) = switchover(Some(&begun), None, &shard(1, 4)) else {
            panic!("not done")
        };
        assert!(words.starts_with("redis-1 is master in place of redis-0;"), "{words}");
        assert!(matches!(switchover(Some(&begun), Some(1), &shard(1, 4)), Next::Done(_, None)));
        assert!(
            matches!(switchover(Some(&begun), Some(2), &shard(1, 4)), Next::Fail(_)),
            "there is no redis-2"
        );
        // Back again: the order was not for that.
        assert!(matches!(switchover(Some(&begun), None, &shard(0, 4)), Next::Fail(_)));
        // An epoch is issued that nobody serves under yet.
        let none = ShardSeen { master: None, epoch: 4, holder: Some(1), ..seen };
        let Next::Wait(obstacle) = switchover(Some(&begun), None, &none) else { panic!("does not wait") };
        assert_eq!(obstacle.reason, "NoMaster");
    }

    #[test]
    fn a_handover_to_nobody_is_refused_and_to_the_master_is_done() {
        assert!(matches!(switchover(None, None, &one_alone()), Next::Fail(_)));
        assert!(matches!(switchover(None, Some(2), &shard(0, 3)), Next::Fail(_)));
        assert!(matches!(switchover(None, Some(0), &shard(0, 3)), Next::Done(_, Some(0))));
    }

    #[test]
    fn a_master_is_ended_once_and_only_when_somebody_can_take_over() {
        let seen = shard(1, 3);
        let begun = before(1, 3, "u1");
        assert_eq!(failover(None, &seen), Next::Begin(begun.clone()));
        assert_eq!(failover(Some(&begun), &seen), Next::Act);
        // Its pod ends, or is another one by now.
        let ends = ShardSeen { pods: vec![Some("u0".into()), None], ..seen.clone() };
        assert!(matches!(failover(Some(&begun), &ends), Next::Await(_)));
        let other = ShardSeen { pods: vec![Some("u0".into()), Some("u2".into())], ..seen.clone() };
        assert!(matches!(failover(Some(&begun), &other), Next::Await(_)));
        // Somebody was faster, with the same pod still there: that is left alone.
        let faster = ShardSeen { master: None, epoch: 4, holder: Some(0), ..seen.clone() };
        assert!(matches!(failover(Some(&begun), &faster), Next::Await(_)));
        assert!(matches!(failover(Some(&begun), &shard(0, 4)), Next::Done(_, None)));
        assert!(matches!(failover(Some(&begun), &shard(1, 4)), Next::Done(_, None)), "it was back at once");

        assert!(matches!(failover(None, &one_alone()), Next::Fail(_)));
        let reason = |seen: &ShardSeen| match failover(None, seen) {
            Next::Wait(obstacle) => obstacle.reason,
            other => panic!("{other:?}"),
        };
        let mut away = seen.clone();
        away.members[0] = Seen::Absent;
        assert_eq!(reason(&away), "NoReplicaInSync");
        let mut behind = seen.clone();
        behind.members[0] = member(Role::Replica, 2);
        assert_eq!(reason(&behind), "NoReplicaInSync");
        assert_eq!(reason(&ends), "NoMaster", "it ends already");
        // One that hangs is ended, if there is somebody.
        let mut hangs = seen.clone();
        (hangs.members[1], hangs.master) = (Seen::Silent, None);
        assert_eq!(failover(None, &hangs), Next::Begin(begun));
        hangs.members[1] = Seen::Absent;
        assert_eq!(reason(&hangs), "NoMaster", "others take over by themselves");
    }

    #[test]
    fn regions_that_differ_are_no_success() {
        let of = |report: &Report, repair| {
            let (phase, words, outcome) = compared(report, repair);
            (phase, words, outcome.different_keys, outcome.repaired_keys)
        };
        let equal = Report { keys_compared: 9, ..Report::default() };
        assert_eq!(
            of(&equal, false),
            (Phase::Succeeded, "9 keys in 0.0 s, no differences".into(), Some(0), None)
        );
        let found = Report { different_keys: 2, ..equal.clone() };
        assert_eq!(of(&found, false).0, Phase::Failed);
        let repaired = Report { repaired_keys: 2, ..found };
        assert_eq!((of(&repaired, true).0, of(&repaired, true).3), (Phase::Succeeded, Some(2)));
        assert_eq!(of(&Report { undecided: 1, ..equal.clone() }, true).0, Phase::Failed);
        assert_eq!(of(&Report { failed: Some("b is away".into()), ..equal }, true).0, Phase::Failed);
    }

    #[test]
    fn an_order_waits_for_a_minute_and_no_longer() {
        let mut operation = Operation::default();
        let obstacle = || Obstacle::new("NoMaster", "nobody serves");
        wait(&mut operation, obstacle(), 1_000);
        wait(&mut operation, obstacle(), 1_000 + PATIENCE_MS);
        assert_eq!(
            (operation.phase, operation.blocked.as_ref().map(|of| of.1)),
            (Phase::Pending, Some(1_000))
        );
        wait(&mut operation, obstacle(), 1_001 + PATIENCE_MS);
        assert_eq!((operation.phase, operation.message.as_str()), (Phase::Failed, "nobody serves"));

        let mut operation = Operation::default();
        go_on(&mut operation, 2, 0, "ends", 5);
        go_on(&mut operation, 2, 1, "waits", 7);
        assert_eq!((operation.step, operation.steps[0].finished_at, operation.moved_at), (1, Some(7), 7));
        end(&mut operation, Phase::Succeeded, "done".into(), 9);
        assert_eq!((operation.step, operation.steps[1].finished_at), (2, Some(9)));
    }
}
