//! Who is master of a shard: bootstrap, cold start, a restart in place, a replica in a lost master's place.
//!
//! SEMANTICS, "Every promotion begins a new incarnation": all reachable members are compared by the highest persisted
//! epoch, then by how much of that epoch's incarnation they hold. An engine that is empty or below the recorded epoch
//! is promoted only if every member answers and none has more, and an empty one only if no other region has the shard: else it is made
//! again from theirs ([`super::rebuild`]). The recorded epoch is raised before it is acted upon.

use super::handover::{self, Outcome, UnderWay, Wish};
use super::identity::{EngineState, Identity, Role};

/// How long members that do not answer are waited for before the others are compared without them.
pub const PATIENCE_MS: u64 = 3_000;
/// How long a member that is loading its data is waited for.
pub const LOADING_PATIENCE_MS: u64 = 120_000;
/// How long a superseded member's outbox may take to be swept before its files are set aside.
pub const DRAIN_MS: u64 = 10_000;
/// Shortest time between two attempts to promote.
pub const RETRY_MS: u64 = 1_000;

/// What the controller has persisted about a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Highest epoch ever issued; 0: none yet.
    pub epoch: u64,
    /// Which member it was issued to.
    pub master: Option<usize>,
    /// What that member held when it was promoted: what a superseded member has beyond this is only its own.
    pub basis: Option<Basis>,
    /// A member has served the shard, or was given another region's copy. Before that nobody was told that anything is here: an epoch may
    /// have been issued for a promotion that never came.
    pub served: bool,
    /// When no copy is left, the shard is rebuilt from another region's: no empty member is promoted.
    pub rebuilt: bool,
}

impl Record {
    /// Every member answers, and none holds anything of a shard that there was: all copies are gone.
    pub fn is_lost(&self, members: &[Seen]) -> bool {
        let blank = |seen: &Seen| seen.identity().is_some_and(|id| id.empty && id.epoch == 0);
        self.served && !members.is_empty() && members.iter().all(blank)
    }
}

/// A point in an incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The incarnation.
    pub incarnation: String,
    /// The last number held.
    pub seq: u64,
}

/// What is seen of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its process is not running: it was seen to end, or was never started. This is evidence.
    Absent,
    /// A person has stopped it on purpose: taken as evidence, too.
    Paused,
    /// Its process runs, but nothing answers. This is no evidence of anything.
    Silent,
    /// It answers that it is loading its data.
    Loading,
    /// It answers.
    Answers {
        /// Who it says it is.
        identity: Box<Identity>,
        /// The member that it replicates from, if it is a replica and that address is one of ours.
        follows: Option<usize>,
        /// The proved master's cover was compared with its own and includes it: it holds nothing of its own.
        subsumed: bool,
    },
}

impl Seen {
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Answers { identity, .. } => Some(identity),
            Self::Absent | Self::Paused | Self::Silent | Self::Loading => None,
        }
    }
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Persist the epoch and its holder first, then promote it.
    Promote {
        /// Whom.
        member: usize,
        /// Under which epoch.
        epoch: u64,
        /// It is a replica and has to stop replicating before.
        was_replica: bool,
        /// What it holds.
        basis: Basis,
    },
    /// Make `member` a replica of `master`, which is proved.
    Follow {
        /// Whom.
        member: usize,
        /// Of whom.
        master: usize,
    },
    /// Fence a superseded master.
    Fence {
        /// Whom.
        member: usize,
    },
    /// Let the master take no writes for so long; 0: let it go on.
    Pause {
        /// Whom.
        member: usize,
        /// Of which incarnation: another one is not meant.
        incarnation: String,
        /// After which it goes on by itself.
        ms: u64,
    },
    /// Copy the member's files aside, and only then make it a replica.
    SetAside {
        /// Whom.
        member: usize,
        /// Of whom it then becomes a replica.
        master: usize,
    },
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// PascalCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// The outcome of one look at the shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is to be done.
    pub actions: Vec<Action>,
    /// What it waits for, or what is odd.
    pub notices: Vec<Notice>,
    /// The proved master.
    pub master: Option<usize>,
    /// A handover has come to its end.
    pub handover: Option<Outcome>,
}

impl Plan {
    pub(super) fn notice(&mut self, reason: &'static str, message: String) {
        self.notices.push(Notice { reason, message });
    }
}

/// What the controller remembers of a shard between two looks. Losing it costs only time.
#[derive(Clone, Debug, Default)]
pub struct Control {
    unserved_since: Option<u64>,
    last_attempt: Option<u64>,
    draining_since: Vec<Option<u64>>,
    handover: Option<UnderWay>,
}

impl Control {
    /// Notes that another master is wanted. Not while another wish is under way: it is given back.
    pub fn wish(&mut self, wish: Wish, now: u64) -> Result<(), Wish> {
        if self.handover.is_some() {
            return Err(wish);
        }
        self.handover = Some(UnderWay::new(wish, now));
        Ok(())
    }

    /// Clients wait for a handover: look again soon.
    pub fn is_handing_over(&self) -> bool {
        self.handover.as_ref().is_some_and(UnderWay::pauses)
    }
}

/// Where the shard belongs, to recognise data of another store.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store's name.
    pub store: String,
    /// The region's id.
    pub region: u16,
    /// The shard.
    pub shard: u16,
}

/// Whether a store may be founded: every engine of every shard answers, is fenced and is empty.
/// Returns what is missing or wrong; nothing: found it.
pub fn bootstrap_obstacles<'a>(members: impl Iterator<Item = (String, &'a Seen)>) -> Vec<Notice> {
    members
        .filter_map(|(name, seen)| match seen {
            Seen::Answers { identity, .. } if !identity.empty || identity.epoch > 0 => Some(Notice {
                reason: "RetainedDataMismatch",
                message: format!(
                    "{name} holds data of an earlier store that this record knows nothing of: give back the record that belongs to it, or use other volumes"
                ),
            }),
            Seen::Answers { .. } => None,
            Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => {
                Some(Notice { reason: "Starting", message: format!("{name} does not answer yet") })
            }
        })
        .collect()
}

/// Looks at a founded shard once and says what to do. `now` in milliseconds of any steady clock.
pub fn step(control: &mut Control, place: &Place, record: &Record, members: &[Seen], now: u64) -> Plan {
    let mut plan = Plan::default();
    control.draining_since.resize(members.len(), None);
    match disagreement(place, record, members) {
        Some(problem) => plan.notices.push(problem),
        None => keep_served(control, record, members, now, &mut plan),
    }
    if let Some(under_way) = &mut control.handover {
        plan.handover = handover::advance(under_way, record, members, now, &mut plan);
        if plan.handover.is_some() {
            control.handover = None;
        }
        if plan.actions.iter().any(|action| matches!(action, Action::Promote { .. })) {
            control.last_attempt = Some(now);
        }
    }
    plan
}

/// Fences who is superseded, and has the others follow the master, or promotes one.
fn keep_served(control: &mut Control, record: &Record, members: &[Seen], now: u64, plan: &mut Plan) {
    for (member, seen) in members.iter().enumerate() {
        if seen.identity().is_some_and(|id| {
            id.state != EngineState::Fenced && id.role == Role::Master && id.epoch < record.epoch
        }) {
            plan.actions.push(Action::Fence { member });
        }
    }
    plan.master = proved_master(record, members);
    if let Some(master) = plan.master {
        control.unserved_since = None;
        follow(control, record, members, master, now, plan);
    } else {
        let since = *control.unserved_since.get_or_insert(now);
        promote(control, record, members, now.saturating_sub(since), now, plan);
    }
}

/// The record of a shard of which nothing is left but the highest epoch ever issued (a copy that is made before an epoch is
/// used): who serves under it, is whom it was issued to. What that one held then is not known any more.
pub fn reconstruct(epoch: u64, members: &[Seen]) -> Record {
    let serves = |id: &Identity| {
        id.role == Role::Master && id.state != EngineState::Fenced && id.epoch == epoch && epoch > 0
    };
    let master = members.iter().position(|seen| seen.identity().is_some_and(serves));
    Record { epoch, master, basis: None, served: epoch > 0, rebuilt: false }
}

/// The members whose cover should be compared with the master's: making them replicas might discard something.
pub fn members_to_compare(record: &Record, members: &[Seen]) -> Option<(usize, Vec<usize>)> {
    let master = proved_master(record, members)?;
    let doubtful = |(member, seen): (usize, &Seen)| {
        let Seen::Answers { identity, follows, .. } = seen else { return None };
        let quiet = identity.state == EngineState::Fenced && *follows != Some(master);
        (member != master && quiet && !holds_nothing_of_its_own(record, identity)).then_some(member)
    };
    let doubtful: Vec<_> = members.iter().enumerate().filter_map(doubtful).collect();
    (!doubtful.is_empty()).then_some((master, doubtful))
}

/// The member that holds the recorded epoch and is not fenced.
fn proved_master(record: &Record, members: &[Seen]) -> Option<usize> {
    let master = record.master?;
    let identity = members.get(master)?.identity()?;
    let proved = identity.role == Role::Master
        && identity.state != EngineState::Fenced
        && identity.epoch == record.epoch;
    proved.then_some(master)
}

/// Engines and record tell different stories: nothing is done.
fn disagreement(place: &Place, record: &Record, members: &[Seen]) -> Option<Notice> {
    members.iter().enumerate().find_map(|(i, seen)| {
        let id = seen.identity()?;
        if !id.store.is_empty() && (id.store != place.store || id.region != place.region || id.shard != place.shard) {
            return Some(Notice {
                reason: "RetainedDataMismatch",
                message: format!(
                    "redis-{i} holds data of store '{}', region {}, shard {}: move its files away, or give back the record they belong to",
                    id.store, id.region, id.shard
                ),
            });
        }
        let stranger = id.role == Role::Master
            && id.state != EngineState::Fenced
            && id.epoch == record.epoch
            && record.master != Some(i);
        (id.epoch > record.epoch || stranger).then(|| Notice {
            reason: "RecordMismatch",
            message: format!(
                "redis-{i} says epoch {}, the record epoch {} for {}: nothing is done until they agree (was the record put back from a copy?)",
                id.epoch,
                record.epoch,
                record.master.map_or("nobody".into(), |m| format!("redis-{m}"))
            ),
        })
    })
}

/// Brings everyone else behind the proved master.
fn follow(
    control: &mut Control,
    record: &Record,
    members: &[Seen],
    master: usize,
    now: u64,
    plan: &mut Plan,
) {
    for (member, seen) in members.iter().enumerate() {
        if member == master {
            continue;
        }
        let Seen::Answers { identity, follows, subsumed } = seen else {
            if *seen != Seen::Loading {
                plan.notice("ReplicaAway", format!("redis-{member} {}", describe(seen)));
            }
            continue;
        };
        if *follows == Some(master) && identity.role == Role::Replica {
            control.draining_since[member] = None;
            continue;
        }
        if identity.role == Role::Master && identity.state != EngineState::Fenced {
            continue; // it is being fenced in this round; looked at again in the next
        }
        if *subsumed || holds_nothing_of_its_own(record, identity) {
            control.draining_since[member] = None;
            plan.actions.push(Action::Follow { member, master });
            continue;
        }
        let since = *control.draining_since[member].get_or_insert(now);
        if now.saturating_sub(since) >= DRAIN_MS {
            plan.actions.push(Action::SetAside { member, master });
        } else {
            plan.notice(
                "ExportingSuperseded",
                format!(
                    "redis-{member} was superseded and holds {} effects that may be nowhere else; waiting for a proxy to publish them",
                    identity.outbox_effects
                ),
            );
        }
    }
}

/// Whether making this member a replica discards nothing: what it holds is confirmed by the broker or was in the
/// promoted member's data.
fn holds_nothing_of_its_own(record: &Record, identity: &Identity) -> bool {
    identity.empty
        || identity.outbox_effects == 0
        || record
            .basis
            .as_ref()
            .is_some_and(|b| b.incarnation == identity.incarnation && identity.seq <= b.seq)
}

/// Chooses a member by the rule and promotes it, or says what is waited for.
fn promote(control: &mut Control, record: &Record, members: &[Seen], waited: u64, now: u64, plan: &mut Plan) {
    for (member, seen) in members.iter().enumerate() {
        let patience = match seen {
            Seen::Answers { .. } | Seen::Paused => 0,
            Seen::Loading => LOADING_PATIENCE_MS,
            // Unreachable is unknown, never gone: whoever owns the process ends it if it hangs, and that is evidence.
            Seen::Silent if record.master == Some(member) => u64::MAX,
            Seen::Absent | Seen::Silent => PATIENCE_MS,
        };
        if waited < patience {
            plan.notice("ComparingMembers", format!("no master yet: redis-{member} {}", describe(seen)));
        }
    }
    if !plan.notices.is_empty() {
        return;
    }
    let Some((member, identity)) = best(record, members) else {
        plan.notice("NoMember", "no member answers".into());
        return;
    };
    let lacks = record.epoch > 0 && (identity.empty || identity.epoch < record.epoch);
    let lacks = lacks && !mutation!(EmptyMasterPromoted);
    let unheard: Vec<_> = (0..members.len()).filter(|m| members[*m].identity().is_none()).collect();
    if lacks && !unheard.is_empty() {
        let names: Vec<_> = unheard.iter().map(|m| format!("redis-{m}")).collect();
        plan.notice(
            "MayHaveMore",
            format!(
                "redis-{member} {} and is not promoted while {} may have more",
                if identity.empty { "is empty" } else { "is behind the recorded epoch" },
                names.join(" and ")
            ),
        );
        return;
    }
    if record.rebuilt && record.is_lost(members) {
        plan.notice(
            "AllCopiesLost",
            "no member holds anything: the shard is rebuilt from another region".into(),
        );
        return;
    }
    if control.last_attempt.is_some_and(|last| now.saturating_sub(last) < RETRY_MS) {
        return;
    }
    control.last_attempt = Some(now);
    plan.actions.push(Action::Promote {
        member,
        epoch: record.epoch + 1,
        was_replica: identity.role == Role::Replica,
        basis: Basis { incarnation: identity.incarnation.clone(), seq: identity.seq },
    });
}

/// The member with the highest epoch, then most of its incarnation, then the highest clock; then the one that was
/// master, then the first.
fn best<'a>(record: &Record, members: &'a [Seen]) -> Option<(usize, &'a Identity)> {
    members
        .iter()
        .enumerate()
        .filter_map(|(i, seen)| seen.identity().map(|id| (i, id)))
        .max_by_key(|(i, id)| rank(record, *i, id))
}

fn rank(
    record: &Record,
    member: usize,
    id: &Identity,
) -> (bool, u64, u64, u64, bool, std::cmp::Reverse<usize>) {
    if mutation!(OldestPromoted) {
        let least = |n: u64| u64::MAX - n;
        let first = std::cmp::Reverse(member);
        return (id.empty, least(id.epoch), least(id.seq), least(id.clock), false, first);
    }
    (!id.empty, id.epoch, id.seq, id.clock, record.master == Some(member), std::cmp::Reverse(member))
}

fn describe(seen: &Seen) -> &'static str {
    match seen {
        Seen::Absent => "is not running",
        Seen::Paused => "is paused",
        Seen::Silent => "runs but does not answer",
        Seen::Loading => "is loading its data",
        Seen::Answers { .. } => "answers",
    }
}
