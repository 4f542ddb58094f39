//! A planned handover of a shard: the master pauses, a replica that then has all of it is promoted, and the old master follows
//! that. Nothing has to be read back that the replica lacks, and clients wait as long as it takes to say so.
//!
//! Nothing depends on the controller living through it. A pause has a deadline of its own in the engine; a recorded epoch is acted
//! upon as after any failover. What is remembered here is only who asked, and since when clients wait.

use super::identity::{EngineState, Identity, Role};
use super::shard::{Action, Basis, Plan, Record, Seen};

/// How long a replica may take until it is fit to take over; nobody is paused meanwhile.
pub const PREPARE_MS: u64 = 30_000;
/// How long a pause lasts when nobody lifts it.
pub const PAUSE_MS: u64 = 2_500;
/// How long a paused master waits for its replica. What is left of the pause is enough to promote.
pub const LEVEL_MS: u64 = 1_000;
/// All of it: by then it has happened, or is given up.
pub const HANDOVER_MS: u64 = 60_000;
/// How far behind its master a replica may be when that is paused, in bytes of replication.
pub const BEHIND_MAX: u64 = 1 << 20;

/// Somebody wants another master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Who is to be master; nobody named: the replica that has most.
    pub to: Option<usize>,
    /// Who was master when this was asked for. If another one is by now, it is over.
    pub from: usize,
    /// Why, for the log.
    pub reason: String,
}

/// How a wish ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Another member serves.
    Done {
        /// Who was master.
        from: usize,
        /// Who is.
        to: usize,
        /// From the pause until the new master was seen to serve. 0: nobody was paused for it.
        pause_ms: u64,
    },
    /// All is as it was, or as a failover has made it meanwhile.
    Abandoned {
        /// What was waited for.
        why: String,
    },
}

/// A wish that is being carried out.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    wish: Wish,
    since: u64,
    /// Since when the master is told to pause, and for whom.
    paused: Option<(u64, usize)>,
}

impl UnderWay {
    pub(super) fn new(wish: Wish, now: u64) -> Self {
        Self { wish, since: now, paused: None }
    }

    /// Clients may be waiting.
    pub(super) fn pauses(&self) -> bool {
        self.paused.is_some()
    }
}

/// The next step of what is under way: one action at most. An outcome ends it.
pub(super) fn advance(
    under_way: &mut UnderWay,
    record: &Record,
    members: &[Seen],
    now: u64,
    plan: &mut Plan,
) -> Option<Outcome> {
    let UnderWay { wish, since, paused } = under_way;
    let waited = now.saturating_sub(*since);
    let from = wish.from;
    let Some((master, identity)) = plan.master.and_then(|m| Some((m, members.get(m)?.identity()?))) else {
        let why = "the shard has no master".to_owned();
        return (waited >= HANDOVER_MS).then_some(Outcome::Abandoned { why });
    };
    if master != from {
        return ended(wish, *paused, master, identity, waited, now);
    }
    if wish.to == Some(from) {
        return Some(Outcome::Done { from, to: from, pause_ms: 0 });
    }
    let Some((paused_since, to)) = *paused else {
        match successor(wish.to, master, identity, members) {
            Ok(to) => {
                *paused = Some((now, to));
                if !mutation!(HandoverUnpaused) {
                    let incarnation = identity.incarnation.clone();
                    plan.actions.push(Action::Pause { member: master, incarnation, ms: PAUSE_MS });
                }
            }
            Err(why) if waited >= PREPARE_MS => return Some(Outcome::Abandoned { why }),
            Err(why) => plan.notice("HandoverWaits", why),
        }
        return None;
    };
    if now.saturating_sub(paused_since) >= LEVEL_MS {
        let incarnation = identity.incarnation.clone();
        plan.actions.push(Action::Pause { member: master, incarnation, ms: 0 });
        let why = format!("redis-{to} had not all that redis-{from} has after {LEVEL_MS} ms: it goes on");
        return Some(Outcome::Abandoned { why });
    }
    match level(master, identity, &members[to]) {
        Some(replica) => plan.actions.push(Action::Promote {
            member: to,
            epoch: record.epoch + 1,
            was_replica: true,
            basis: Basis { incarnation: replica.incarnation.clone(), seq: replica.seq },
        }),
        None => plan.notice("HandingOver", format!("redis-{from} is paused for redis-{to}")),
    }
    None
}

/// Another one is master: the wish came true once that serves, if it is the right one.
fn ended(
    wish: &Wish,
    paused: Option<(u64, usize)>,
    master: usize,
    identity: &Identity,
    waited: u64,
    now: u64,
) -> Option<Outcome> {
    if wish.to.is_some_and(|to| to != master) {
        let why = format!("redis-{master} became master meanwhile");
        return Some(Outcome::Abandoned { why });
    }
    if identity.state != EngineState::Serving {
        let why = format!("redis-{master} was promoted and does not serve yet");
        return (waited >= HANDOVER_MS).then_some(Outcome::Abandoned { why });
    }
    let pause_ms = paused.map_or(0, |(since, _)| now.saturating_sub(since));
    Some(Outcome::Done { from: wish.from, to: master, pause_ms })
}

/// Who can take over without a long pause, or why nobody can.
fn successor(
    to: Option<usize>,
    master: usize,
    identity: &Identity,
    members: &[Seen],
) -> Result<usize, String> {
    if identity.state != EngineState::Serving || !identity.recovered {
        return Err(format!("redis-{master} has not read its own stream back yet"));
    }
    if to.is_some_and(|to| to >= members.len()) {
        return Err(format!("the shard has members redis-0 to redis-{}", members.len() - 1));
    }
    let behind = |member: usize| {
        let id = follower(master, identity, &members[member])?;
        Some(identity.offset.saturating_sub(id.offset)).filter(|behind| *behind <= BEHIND_MAX)
    };
    let named = |member: &usize| *member != master && to.is_none_or(|to| to == *member);
    let fit = (0..members.len()).filter(named).filter_map(|member| Some((behind(member)?, member)));
    fit.min().map(|(_, member)| member).ok_or_else(|| match to {
        Some(to) => format!("redis-{to} does not follow redis-{master} closely enough to take over"),
        None if members.len() < 2 => "the shard has no replica to take over".to_owned(),
        None => format!("no replica follows redis-{master} closely enough to take over"),
    })
}

/// What a member says that replicates from the master and has the beginning of its incarnation.
fn follower<'a>(master: usize, identity: &Identity, seen: &'a Seen) -> Option<&'a Identity> {
    let Seen::Answers { identity: id, follows, .. } = seen else { return None };
    let follows = *follows == Some(master) && id.role == Role::Replica && id.master_link_up;
    (follows && id.incarnation == identity.incarnation && id.epoch == identity.epoch).then_some(id)
}

/// What the replica says, if it has all that the master has, which takes no writes.
fn level<'a>(master: usize, identity: &Identity, seen: &'a Seen) -> Option<&'a Identity> {
    let replica = follower(master, identity, seen)?;
    let frozen = identity.paused_ms > 0 || mutation!(HandoverUnpaused);
    let has_all = replica.seq == identity.seq && replica.offset >= identity.offset;
    (frozen && (has_all || mutation!(HandoverNotAwaited))).then_some(replica)
}
