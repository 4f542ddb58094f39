//! Scale-out: a region joins while the others serve. The paper's four steps (replica sync, marker write, promotion, message replay),
//! made exact for any number of members:
//!
//! 1. **Provision** its servers, all fenced, and **announce** it: from the moment that every member has confirmed the epoch of the
//!    membership that includes it, no tombstone is forgotten that it does not have.
//! 2. **Hold** the logs: the sources can read on in every member's stream. The copies' positions move with those of
//!    their sources, so a log needs to reach back no further than they have read.
//! 3. **Sync**: each shard becomes a replica of that shard in a source.
//! 4. **Mark**: every member writes a marker to every shard; the copy must show it, and have all that it names.
//! 5. **Promote**: the copy takes an identity of its own ([`crate::joining`]), and stays fenced towards clients.
//! 6. **Replay**: it reads every member's stream from the positions that came with the data; duplicates are refused by the cover. What it brought
//!    of its source must be safe there.
//! 7. **Verify**, **serve**, **publish**.

use crate::cover::Cover;
use crate::joining::Joining;
use crate::procedures::marker::Marker;
use crate::procedures::operation::{Look, Progress, Step, Verdict};
use crate::stamp::{Incarnation, Origin, RegionId};

/// Servers have to start, and volumes to be provisioned.
pub(super) const PROVISION_MS: u64 = 20 * 60_000;
/// A sync may have to begin anew some times before it moves.
pub(super) const SYNC_MS: u64 = 10 * 60_000;
/// A shard that was opened serves; the rest, a broker that comes back, may take its time.
pub(super) const SERVE_MS: u64 = 24 * 3600 * 1000;
/// Everything else moves within seconds.
pub(super) const STEP_MS: u64 = 5 * 60_000;

/// What is done. Shards are named by their place in [`Observed::shards`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// What this member holds is put out of the way, so that it holds nothing.
    SetAside {
        /// The shard.
        shard: usize,
        /// The member.
        member: usize,
    },
    /// The first member of this shard becomes a replica of the source's master.
    Follow {
        /// The shard.
        shard: usize,
        /// The region that is copied.
        source: RegionId,
    },
    /// Write a marker through the member's front door.
    Mark {
        /// The shard.
        shard: usize,
        /// The member.
        member: RegionId,
    },
    /// The copy takes its own identity, if it is still the one that was looked at.
    Join {
        /// The shard.
        shard: usize,
        /// Whose copy it is.
        source: RegionId,
        /// Which incarnation.
        incarnation: Incarnation,
        /// It has at least so much of it.
        seq: u64,
        /// The epoch of the source that it has seen; its own must be above.
        epoch: u64,
    },
    /// Compare the region with its source.
    Verify,
    /// The shard may serve.
    Open {
        /// The shard.
        shard: usize,
    },
    /// The region is a member like the others from now on; markers are taken away.
    Finish,
}

/// Everything that is looked at.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The region of which shards join.
    pub region: RegionId,
    /// Names this attempt; what an earlier one has left does not count.
    pub ticket: u64,
    /// The epoch of the membership that includes it.
    pub membership: u64,
    /// Parts of it that are not ready, in words.
    pub missing: Vec<String>,
    /// The other regions, which serve.
    pub members: Vec<Member>,
    /// Its shards that join.
    pub shards: Vec<Shard>,
    /// Which region to copy; `None`: the healthiest.
    pub wanted_source: Option<RegionId>,
    /// How the comparison stands.
    pub verification: Verification,
    /// It is a member like the others.
    pub joined: bool,
}

/// A region that serves.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub id: RegionId,
    /// Its name.
    pub name: String,
    /// All of its proxies that run use a configuration with the new membership.
    pub told: bool,
    /// Peers whose streams it cannot read to the end at the moment, in words.
    pub behind: Vec<String>,
    /// The masters of its shards, as in [`Observed::shards`]; `None`: there is none now.
    pub shards: Vec<Option<Master>>,
}

/// A serving master of a member.
#[derive(Clone, Debug)]
pub struct Master {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// It has read its own stream back.
    pub recovered: bool,
    /// The epoch of the membership that it knows.
    pub membership: u64,
    /// What it has.
    pub cover: Cover,
    /// The smallest number waiting of each incarnation that has any in its outbox.
    pub waiting: Vec<(Incarnation, u64)>,
    /// The marker of this attempt that it shows as its own region's.
    pub marker: Option<Marker>,
    /// Size of its data set, bytes: about what a sync takes.
    pub bytes: u64,
}

/// A shard that joins.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its number.
    pub number: u16,
    /// Members that hold what is not to be kept: they are set aside before anything is copied.
    pub in_the_way: Vec<usize>,
    /// What its first member is now.
    pub copy: Copy,
    /// What it has.
    pub cover: Cover,
    /// The markers that it shows, by member.
    pub markers: Vec<(RegionId, Marker)>,
    /// Its links to the members, once it reads their streams.
    pub links: Vec<Link>,
}

/// What a server of the joining region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Does not answer: in words.
    Silent(String),
    /// Receives or loads a full sync: bytes so far.
    Loading(u64),
    /// Holds nothing.
    Blank {
        /// Bytes of a sync under way.
        received: u64,
    },
    /// Holds another region's data.
    Foreign {
        /// Whose.
        region: RegionId,
        /// Which incarnation.
        incarnation: Incarnation,
        /// How much of it.
        seq: u64,
        /// The highest epoch that it has seen.
        epoch: u64,
        /// It replicates from that region's present master, and the link is up.
        in_sync: bool,
        /// Bytes of a sync under way.
        received: u64,
    },
    /// Is a shard of its own region.
    Own {
        /// The attempt that made it.
        ticket: u64,
        /// What it brought, while it joins.
        joining: Option<Joining>,
        /// Promoted, and not fenced.
        promoted: bool,
        /// Serves, and has read its own stream back.
        serving: bool,
        /// Its data is in files of its own: Redis writes those in the background after a sync, and until then a restart has nothing.
        saved: bool,
    },
}

/// A stream that the joining region reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whose.
    pub peer: String,
    /// Within the allowed lag.
    pub connected: bool,
    /// What was not read has left the log.
    pub ran_out: bool,
    /// Effects that it lacks.
    pub lag_effects: u64,
    /// In words.
    pub state: String,
}

/// How the comparison of the region with its source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Not begun in this attempt.
    #[default]
    None,
    /// Under way.
    Running,
    /// No difference that counts.
    Equal,
    /// In words.
    Differs(String),
}

/// The steps.
pub const STEPS: [Step<Observed, Action>; 9] = [
    Step { name: "Provision", patience_ms: PROVISION_MS, look: provision },
    Step { name: "Announce", patience_ms: STEP_MS, look: announce },
    Step { name: "HoldLogs", patience_ms: STEP_MS, look: hold_logs },
    Step { name: SYNC, patience_ms: SYNC_MS, look: sync },
    Step { name: "Mark", patience_ms: STEP_MS, look: mark },
    Step { name: "Promote", patience_ms: STEP_MS, look: promote },
    Step { name: "Replay", patience_ms: STEP_MS, look: replay },
    Step { name: "Verify", patience_ms: STEP_MS, look: verify },
    Step { name: "Serve", patience_ms: SERVE_MS, look: serve },
];
/// The step that a copy that turned out void goes back to.
pub const SYNC: &str = "SyncReplica";

pub(super) fn provision(o: &Observed) -> Look<Action> {
    if o.missing.is_empty() {
        return Verdict::Done.into();
    }
    Verdict::wait(format!("waiting for {}", o.missing.join(", "))).into()
}

fn announce(o: &Observed) -> Look<Action> {
    unconfirmed(o).map_or(Verdict::Done, |words| Verdict::blocked("MembershipNotConfirmed", words)).into()
}

/// Who has not confirmed that the region belongs to the store: he might forget tombstones that it lacks.
fn unconfirmed(o: &Observed) -> Option<String> {
    if mutation!(MembersNotAwaited) {
        return None;
    }
    let late = o.members.iter().find_map(|member| {
        if !member.told {
            return Some(format!(
                "the proxies of {} do not all use the configuration with it yet",
                member.name
            ));
        }
        member.shards.iter().zip(&o.shards).find_map(|(master, Shard { number, .. })| match master {
            None => Some(format!("shard {number} of {} has no master that answers", member.name)),
            Some(master) if master.membership < o.membership => {
                Some(format!("shard {number} of {} has not been told of it yet", member.name))
            }
            Some(_) => None,
        })
    });
    late.map(|words| format!("waiting until every member counts the region: {words}"))
}

pub(super) fn hold_logs(o: &Observed) -> Look<Action> {
    let without = (0..o.shards.len()).find_map(|shard| source(o, shard).err());
    without.map_or(Verdict::Done, |words| Verdict::blocked("NoSource", words)).into()
}

/// The region that a shard is copied from: the one that it is a copy of already, or else the first healthy one.
fn source(o: &Observed, shard: usize) -> Result<&Member, String> {
    let mut why = Vec::new();
    let number = o.shards[shard].number;
    let mut fit = |member: &&Member| {
        let words = match member.shards.get(shard).and_then(Option::as_ref) {
            None => "has no master that answers".to_owned(),
            Some(master) if !master.recovered => "has not read its own stream back yet".to_owned(),
            Some(_) if !member.behind.is_empty() => member.behind.join(", "),
            Some(_) => return true,
        };
        why.push(format!("shard {number} of {} {words}", member.name));
        false
    };
    if let Some(wanted) = o.wanted_source {
        let member = o.members.iter().find(|member| member.id == wanted);
        let member = member.ok_or_else(|| "the source that was asked for is no member".to_owned())?;
        return if fit(&member) { Ok(member) } else { Err(why.join("; ")) };
    }
    let copied = match &o.shards[shard].copy {
        Copy::Foreign { region, .. } => Some(*region),
        Copy::Silent(_) | Copy::Loading(_) | Copy::Blank { .. } | Copy::Own { .. } => None,
    };
    let copied = o.members.iter().find(|member| Some(member.id) == copied).filter(&mut fit);
    copied
        .or_else(|| o.members.iter().find(fit))
        .ok_or_else(|| format!("no region can be copied: {}", why.join("; ")))
}

/// What a shard still needs before it can take an identity of its own.
enum Need {
    /// Nothing: it has one.
    Joined,
    /// It follows, and receives.
    Sync { action: Option<Action>, done: u64, total: u64, why: String },
    /// It follows; a marker is missing.
    Marker { action: Option<Action>, shown: u64, why: String },
    /// Nothing.
    Ready(Action),
    /// A healthy region.
    Source(String),
}

fn need(o: &Observed, at: usize) -> Need {
    let shard = &o.shards[at];
    if let Copy::Own { ticket, .. } = shard.copy
        && ticket == o.ticket
    {
        return Need::Joined;
    }
    let source = match source(o, at) {
        Ok(source) => source,
        Err(words) => return Need::Source(words),
    };
    let Some(master) = source.shards[at].as_ref() else { return Need::Source(String::new()) };
    let follow = || Some(Action::Follow { shard: at, source: source.id });
    let sync = |action, done: u64, why: String| {
        let total = master.bytes.max(done).max(1);
        Need::Sync { action, done, total, why }
    };
    let number = shard.number;
    match &shard.copy {
        Copy::Silent(why) => sync(None, 0, format!("its server of shard {number} {why}")),
        Copy::Loading(done) => sync(None, *done, format!("shard {number} loads the copy of {}", source.name)),
        Copy::Blank { received } => {
            sync(follow(), *received, format!("shard {number} receives the copy of {}", source.name))
        }
        Copy::Own { .. } => sync(follow(), 0, format!("shard {number} is copied anew from {}", source.name)),
        Copy::Foreign { region, incarnation, seq, epoch, in_sync, received } => {
            if *region != source.id || !in_sync || *incarnation != master.incarnation {
                return sync(follow(), *received, format!("shard {number} follows {} anew", source.name));
            }
            if let Some((action, shown, why)) = missing_marker(o, at).filter(|_| !mutation!(MarkSkipped)) {
                return Need::Marker { action, shown, why };
            }
            let (source, incarnation, seq, epoch) = (*region, *incarnation, *seq, *epoch);
            Need::Ready(Action::Join { shard: at, source, incarnation, seq, epoch })
        }
    }
}

/// The first member whose marker the copy does not show with all that it names; how many it does show.
fn missing_marker(o: &Observed, at: usize) -> Option<(Option<Action>, u64, String)> {
    let shard = &o.shards[at];
    let number = shard.number;
    let mut shown = 0;
    let mut actions = None;
    for member in &o.members {
        let Some(master) = &member.shards[at] else {
            let words = format!("shard {number} of {} has no master that could write a marker", member.name);
            return Some((None, shown, words));
        };
        let at_copy = shard.markers.iter().find(|(of, _)| *of == member.id).map(|(_, marker)| marker);
        // A member that failed over meanwhile is marked again.
        let valid = |marker: &&Marker| marker.incarnation == master.incarnation;
        match at_copy.filter(valid) {
            Some(marker) if shard.cover.includes(&marker.cover) => shown += 1,
            arrived => {
                let written = master.marker.as_ref().is_some_and(|marker| valid(&marker));
                let action = (!written).then_some(Action::Mark { shard: at, member: member.id });
                let words = match arrived {
                    Some(_) => "has come, and not all that it names",
                    None => "has not come through yet",
                };
                let words = format!("the marker of {} in shard {number} {words}", member.name);
                actions.get_or_insert((action, words));
            }
        }
    }
    actions.map(|(action, words)| (action, shown, words))
}

pub(super) fn sync(o: &Observed) -> Look<Action> {
    let mut actions = Vec::new();
    let (mut done_all, mut total_all) = (0, 0);
    let mut waits = None;
    for at in 0..o.shards.len() {
        match need(o, at) {
            Need::Joined | Need::Marker { .. } | Need::Ready(_) => {
                let bytes =
                    source(o, at).ok().and_then(|s| s.shards[at].as_ref()).map_or(1, |m| m.bytes.max(1));
                done_all += bytes;
                total_all += bytes;
            }
            Need::Source(words) => return Verdict::blocked("NoSource", words).into(),
            Need::Sync { action, done, total, why } => {
                actions.extend(action);
                done_all += done.min(total);
                total_all += total;
                waits.get_or_insert(why);
            }
        }
    }
    let verdict = waits.map_or(Verdict::Done, |message| Verdict::Wait {
        progress: Some(Progress { done: done_all, total: total_all, unit: "bytes" }),
        message,
    });
    Look { verdict, actions }
}

pub(super) fn mark(o: &Observed) -> Look<Action> {
    towards(o, |_| None)
}

pub(super) fn promote(o: &Observed) -> Look<Action> {
    towards(o, Some)
}

/// Brings every shard to where it can be promoted; what is lost on the way is mended in place.
fn towards(o: &Observed, ready: fn(Action) -> Option<Action>) -> Look<Action> {
    let mut actions = Vec::new();
    let mut waits: Option<Verdict> = None;
    let each = o.members.len() as u64;
    let mut markers = Progress { done: 0, total: each * o.shards.len() as u64, unit: "markers" };
    for at in 0..o.shards.len() {
        match need(o, at) {
            Need::Joined => markers.done += each,
            Need::Ready(join) => {
                markers.done += each;
                if let Some(join) = ready(join) {
                    actions.push(join);
                    let words = format!("shard {} takes an identity of its own", o.shards[at].number);
                    waits.get_or_insert(Verdict::wait(words));
                }
            }
            Need::Source(words) => waits = Some(Verdict::blocked("NoSource", words)),
            Need::Sync { action, why, .. } => {
                actions.extend(action);
                waits.get_or_insert(Verdict::wait(why));
            }
            Need::Marker { action, shown, why } => {
                markers.done += shown;
                let fresh = action.is_some();
                actions.extend(action);
                // The way is not ours to mend: a member that is cut off from the source is waited for.
                let verdict =
                    if fresh { Verdict::wait(why) } else { Verdict::blocked("MarkerUnderWay", why) };
                waits.get_or_insert(verdict);
            }
        }
    }
    let verdict = match waits {
        None => Verdict::Done,
        Some(Verdict::Wait { message, .. }) => Verdict::Wait { progress: Some(markers), message },
        Some(other) => other,
    };
    Look { verdict, actions }
}

pub(super) fn replay(o: &Observed) -> Look<Action> {
    if let Some(back) = fallen_back(o) {
        return back.into();
    }
    for (at, shard) in o.shards.iter().enumerate() {
        let number = shard.number;
        let (joining, promoted, saved) = match &shard.copy {
            Copy::Own { joining, promoted, saved, .. } => (joining, promoted, saved),
            // Restarted, perhaps: what comes back decides.
            Copy::Silent(why) => return Verdict::wait(format!("its server of shard {number} {why}")).into(),
            Copy::Loading(_) => return Verdict::wait(format!("shard {number} loads its files")).into(),
            Copy::Blank { .. } | Copy::Foreign { .. } => continue,
        };
        if !promoted {
            return Verdict::wait(format!("shard {number} is being promoted again")).into();
        }
        if !saved {
            return Verdict::wait(format!("shard {number} writes what it copied to its own files")).into();
        }
        let brought = joining.as_ref().filter(|_| !mutation!(SourceNotAwaited));
        if let Some(verdict) = brought.and_then(|joining| ungrounded(o, at, joining)) {
            return verdict.into();
        }
    }
    if mutation!(ReplayNotAwaited) {
        return Verdict::Done.into();
    }
    if let Some(link) = links(o).find(|link| link.ran_out) {
        let words = format!(
            "what {} had published left its log before it was read; it is fetched as state ({})",
            link.peer, link.state
        );
        return Verdict::blocked("LogRanOut", words).into();
    }
    let lacking = o.shards.iter().any(|shard| shard.links.len() < o.members.len());
    let behind = links(o).find(|link| !link.connected);
    let lag: u64 = links(o).map(|link| link.lag_effects).sum();
    let message = match behind {
        None if lacking => "its proxies have not told of all streams yet".to_owned(),
        None => return Verdict::Done.into(),
        Some(link) => format!("reads {}: {}, {lag} effects behind in all", link.peer, link.state),
    };
    Verdict::Wait { progress: Some(Progress { done: 0, total: lag, unit: "effects" }), message }.into()
}

fn links(o: &Observed) -> impl Iterator<Item = &Link> {
    o.shards.iter().flat_map(|shard| &shard.links)
}

/// Whether what the shard brought of its source is in the source's stream: it has all of it, and none waits in the outbox any more.
fn ungrounded(o: &Observed, at: usize, joining: &Joining) -> Option<Verdict> {
    // A source that is gone for good was published by its own region, or by nobody: then this copy is as good as any.
    let source = o.members.iter().find(|member| member.id == joining.source)?;
    let (name, number) = (&source.name, o.shards[at].number);
    let Some(master) = source.shards[at].as_ref().filter(|master| master.recovered) else {
        let words = format!("shard {number} of {name} has to read its own stream back first");
        return Some(Verdict::blocked("SourceRecovering", words));
    };
    if !master.cover.includes(&joining.brought) {
        let void = joining.brought.iter().any(|(origin, seqs)| {
            let has = master.cover.of(origin).is_some_and(|known| known.includes(seqs));
            !has && master.cover.is_sealed(origin)
        });
        if void {
            let why = format!("shard {number} holds effects that {name} lost and has sealed");
            return Some(Verdict::Back { to: SYNC, why });
        }
        let words = format!(
            "shard {number} brought effects that {name} lost when it failed over; it fetches them from here"
        );
        return Some(Verdict::blocked("SourceHasLess", words));
    }
    let waiting = master.waiting.iter().any(|(incarnation, first)| {
        joining.brought.contains(Origin { region: joining.source, incarnation: *incarnation }, *first)
    });
    waiting
        .then(|| Verdict::wait(format!("what shard {number} brought is not all in the stream of {name} yet")))
}

/// A shard that does not hold any more what was promoted: there is nothing that could be compared, or served.
fn fallen_back(o: &Observed) -> Option<Verdict> {
    o.shards.iter().find_map(|shard| {
        let why = match &shard.copy {
            Copy::Blank { .. } | Copy::Foreign { .. } => {
                format!("shard {} has lost what it had", shard.number)
            }
            Copy::Own { ticket, .. } if *ticket != o.ticket => {
                format!("shard {} is of an earlier attempt", shard.number)
            }
            Copy::Own { .. } | Copy::Silent(_) | Copy::Loading(_) => return None,
        };
        Some(Verdict::Back { to: SYNC, why })
    })
}

pub(super) fn verify(o: &Observed) -> Look<Action> {
    // A comparison with a shard that has no master ends undecided, and would be begun again for ever.
    if let Some(back) = fallen_back(o) {
        return back.into();
    }
    match &o.verification {
        // (Who has not read everything differs.)
        _ if mutation!(ReplayNotAwaited) => Verdict::Done.into(),
        Verification::None => Look { verdict: Verdict::wait("comparing"), actions: vec![Action::Verify] },
        Verification::Running => Verdict::wait("being compared with the members").into(),
        Verification::Equal => Verdict::Done.into(),
        Verification::Differs(words) => {
            Verdict::Back { to: SYNC, why: format!("the regions differ: {words}") }.into()
        }
    }
}

pub(super) fn serve(o: &Observed) -> Look<Action> {
    if o.joined {
        return Verdict::Done.into();
    }
    // Members may have been restored from something older meanwhile.
    if let Some(words) = unconfirmed(o) {
        return Verdict::blocked("MembershipNotConfirmed", words).into();
    }
    let mut open = Vec::new();
    let mut all = true;
    for (shard, of) in o.shards.iter().enumerate() {
        match &of.copy {
            Copy::Own { joining: Some(_), promoted: true, .. } => open.push(Action::Open { shard }),
            Copy::Own { joining: None, serving: true, .. } => continue,
            Copy::Own { .. } | Copy::Silent(_) | Copy::Loading(_) => {}
            Copy::Blank { .. } | Copy::Foreign { .. } => {
                let why = format!("shard {} has lost what it had", of.number);
                return Verdict::Back { to: SYNC, why }.into();
            }
        }
        all = false;
    }
    if all {
        return Look { verdict: Verdict::wait("becoming a member"), actions: vec![Action::Finish] };
    }
    let words = if open.is_empty() { "the shards read their own streams back" } else { "opening the shards" };
    Look { verdict: Verdict::wait(words), actions: open }
}
