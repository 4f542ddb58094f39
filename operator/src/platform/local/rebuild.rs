//! Shards of which nothing is left, on this machine: noticing them, beginning to rebuild them, putting out of the way what cannot be used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crds::{OperationOutcome, OperationPhase, StoreOperationStatus};
use mas_core::stamp::RegionId;

use super::component::Component;
use super::operations::{reports, runs};
use super::process::{Order, ProcessStatus};
use super::record::{OperationRecord, Record, is_over};
use super::set_aside::move_aside;
use super::shared::{MANY_RESTARTS, Parts, Shared};
use super::store::StartError;
use super::world::RegionPlan;
use super::{ports, world};
use crate::health::status::{build_link_of, evacuated_to};
use crate::operations::now_ms;
use crate::operations::rebuild::{self, Sight, Told, Watch};
use crate::operations::scale_out::ActionError;
use crate::procedures::identity::Identity;
use crate::procedures::shard::Seen;
use crate::view::ProcessPhase;

/// All shards over time, by region and number.
pub(super) type Watches = Mutex<BTreeMap<(String, u16), Watch>>;

/// Begins rebuilds.
#[derive(Default)]
pub(super) struct Watcher {
    /// What fails again and again is logged once.
    said: String,
}

impl Watcher {
    /// Looks at all shards, and begins to rebuild those of which nothing is left.
    pub(super) async fn look(&mut self, shared: &Arc<Shared>) {
        let record = shared.workshop.record.peek();
        if record.founded.is_none() {
            return;
        }
        let parts = shared.parts();
        let now_ms = now_ms();
        let regions: Vec<&RegionPlan> = parts.world.regions.iter().filter(|of| !of.joining).collect();
        for number in 0..parts.store.shards {
            let mut lost = Vec::new();
            for region in &regions {
                if see(shared, &parts, &record, region, number).is_certain(now_ms) {
                    lost.push(region.name.clone());
                }
            }
            open_gates(&parts, &record, &regions, number);
            let outcome = if lost.len() == regions.len() {
                begin_from_streams(shared, &lost, number).await
            } else {
                rebuild_all(shared, &record, &lost, number).await
            };
            self.tell(outcome.err());
        }
    }

    fn tell(&mut self, error: Option<StartError>) {
        let Some(error) = error else { return };
        let words = error.to_string();
        if words != self.said {
            tracing::warn!(error = words, "a rebuild could not begin; it is tried again");
        }
        self.said = words;
    }
}

async fn rebuild_all(
    shared: &Arc<Shared>,
    record: &Record,
    lost: &[String],
    number: u16,
) -> Result<(), StartError> {
    for region in lost {
        // One that was given up is a person's to try again.
        let name = record.rebuild_name(region, number);
        let known = record.operations.iter().any(|row| row.name == name);
        if !known && record.rebuilding(region, number).is_none() {
            begin(shared, region, number, None).await?;
        }
    }
    Ok(())
}

/// Takes another look at a shard.
fn see(shared: &Shared, parts: &Parts, record: &Record, region: &RegionPlan, number: u16) -> Watch {
    let sight = sight(parts, record, region, number);
    let mut watches = shared.watches.lock().unwrap_or_else(PoisonError::into_inner);
    let watch = watches.entry((region.name.clone(), number)).or_default();
    watch.see(sight, now_ms());
    watch.clone()
}

fn name_of(region: &str, shard: u16) -> String {
    format!("{region}/shard-{shard}")
}

fn sight(parts: &Parts, record: &Record, region: &RegionPlan, shard: u16) -> Sight {
    let view = parts.shards.get(&(region.name.clone(), shard)).map(|of| of.view.borrow().clone());
    let view = view.unwrap_or_default();
    let master = view.master.and_then(|master| seen_identity(view.members.get(master)?));
    let others = parts.world.regions.iter().filter(|other| !other.joining && other.name != region.name);
    let links =
        others.map(|other| build_link_of(&region.name, std::iter::once(shard), &reports(parts, other)));
    Sight {
        master: master.map(|id| (id.incarnation.clone(), id.seq)),
        lag_ms: links.filter_map(|link| link.lag_millis).min(),
        is_evacuated: evacuated_to(shard, &reports(parts, region)).is_some(),
        is_lost: record.shard(&name_of(&region.name, shard)).is_lost(&view.members),
    }
}

/// A shard's controller acts again when its rebuild is over, however it ended.
fn open_gates(parts: &Parts, record: &Record, regions: &[&RegionPlan], shard: u16) {
    for region in regions.iter().filter(|region| record.rebuilding(&region.name, shard).is_none()) {
        if let Some(gate) = parts.gates.get(&(region.name.clone(), shard)) {
            gate.send_if_modified(|open| !std::mem::replace(open, true));
        }
    }
}

/// No region has the shard: each begins with what its own stream holds.
async fn begin_from_streams(shared: &Shared, regions: &[String], number: u16) -> Result<(), StartError> {
    let change = |record: &mut Record| {
        for region in regions {
            record.epochs.entry(name_of(region, number)).or_default().from_stream = true;
        }
        let under_way = record.operations.iter_mut().filter(|row| row.spec.shard == Some(number));
        for row in under_way.filter(|row| !is_over(row.status.phase)) {
            row.status.phase = OperationPhase::Failed;
            row.status.message =
                Some("no region has the shard any more: it begins with what its stream holds".into());
        }
        Ok(())
    };
    Ok(shared.workshop.record.update(change).await?)
}

/// Begins to rebuild a shard. Returns the operation's name.
async fn begin(
    shared: &Arc<Shared>,
    region: &str,
    number: u16,
    source: Option<&str>,
) -> Result<String, StartError> {
    let _turn = shared.changing.lock().await;
    let watches = || shared.watches.lock().unwrap_or_else(PoisonError::into_inner);
    let watch = watches().get(&(region.to_owned(), number)).cloned().unwrap_or_default();
    let mut parts = Parts::clone(&shared.parts());
    let mut record = shared.workshop.record.get().await;
    let epoch = record.shard(&name_of(region, number)).epoch;
    let name = record.rebuild(region, number, source, watch.loss(epoch));
    let known: Vec<_> = record.ports.keys().cloned().collect();
    let names = world::port_names(&parts.store, &record);
    ports::assign(&shared.layout, &mut record.ports, &names)?;
    ports::check_free(record.ports.iter().filter(|(name, _)| !known.contains(name)))?;
    parts.world = world::plan(&parts.store, &record);
    let row = record.operations.pop();
    let change = |current: &mut Record| {
        current.ports = record.ports;
        current.operations.extend(row);
        Ok(())
    };
    shared.workshop.record.update(change).await?;
    shared.workshop.build(&mut parts).await?;
    shared.set_parts(parts);
    tracing::warn!(operation = name, "a shard is rebuilt");
    Ok(name)
}

/// Begins to rebuild a shard because a person says so.
pub(super) async fn order(
    shared: &Arc<Shared>,
    region: &str,
    number: u16,
    source: Option<&str>,
) -> Result<String, String> {
    let parts = shared.parts();
    let record = shared.workshop.record.peek();
    let known = || parts.world.regions.iter().map(|of| of.name.as_str()).collect::<Vec<_>>().join(", ");
    let plan = |name: &str| {
        let found = parts.world.region(name);
        found.ok_or_else(|| format!("there is no region '{name}': the regions are {}", known()))
    };
    let of = plan(region)?;
    if let Some(source) = source {
        plan(source)?;
    }
    if number >= parts.store.shards {
        let words =
            format!("there is no shard {number}: the store has {}, numbered from 0", parts.store.shards);
        return Err(words);
    }
    if record.founded.is_none() || of.joining {
        return Err(format!("{region} is no member of the store yet: there is nothing to rebuild"));
    }
    let name = record.rebuild_name(region, number);
    if let Some(row) = record.operations.iter().find(|row| row.name == name) {
        let words = if is_over(row.status.phase) { "has ended" } else { "is under way" };
        return Err(format!("{name} {words}: see `masctl op show {name}`, or `masctl op retry {name}`"));
    }
    if let Some(why) = refusal(&wanted(&parts, of, number, source)) {
        return Err(why);
    }
    begin(shared, region, number, source).await.map_err(|error| error.to_string())
}

/// What decides whether an order to rebuild is carried out.
struct Wanted {
    /// `beijing/shard-0`.
    about: String,
    served: bool,
    /// What it lacks another region would not give it.
    lapsed: bool,
    /// Its controller has tried to promote a copy, and could not.
    stuck: bool,
    members: Vec<Member>,
    /// Other regions that serve the shard.
    sources: usize,
}

struct Member {
    component: String,
    seen: Seen,
    process: ProcessStatus,
    /// It holds data of this shard.
    holds: bool,
}

fn wanted(parts: &Parts, region: &RegionPlan, shard: u16, source: Option<&str>) -> Wanted {
    let key = (region.name.clone(), shard);
    let view = parts.shards.get(&key).map(|of| of.view.borrow().clone()).unwrap_or_default();
    let members = parts.members.get(&key).into_iter().flatten().zip(&view.members);
    let members = members.filter_map(|((component, _), seen)| {
        let process = parts.keepers.get(component)?.status().borrow().clone();
        let holds = seen_identity(seen).is_some_and(|id| !id.empty && is_of(parts, region, shard, id));
        Some(Member { component: component.to_string(), seen: seen.clone(), process, holds })
    });
    let serves = |other: &&RegionPlan| {
        let view = parts.shards.get(&(other.name.clone(), shard)).map(|of| of.view.borrow().master);
        !other.joining
            && other.name != region.name
            && source.is_none_or(|source| source == other.name)
            && view.flatten().is_some()
    };
    let lapsed = |report: &crate::health::proxy::ProxyReport| {
        report.links.iter().any(|link| link.shard == Some(shard) && link.state == "Lapsed")
    };
    Wanted {
        about: name_of(&region.name, shard),
        served: view.master.is_some(),
        lapsed: reports(parts, region).iter().any(lapsed),
        stuck: view.notices.iter().any(|notice| notice.reason == "ActionFailed"),
        members: members.collect(),
        sources: parts.world.regions.iter().filter(serves).count(),
    }
}

fn seen_identity(seen: &Seen) -> Option<&Identity> {
    match seen {
        Seen::Answers { identity, .. } => Some(identity),
        Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => None,
    }
}

fn is_of(parts: &Parts, region: &RegionPlan, shard: u16, id: &Identity) -> bool {
    (id.store.as_str(), id.region, id.shard) == (&parts.store.name, region.id, shard)
}

/// Why a shard is not rebuilt on order: a copy that may be good is not put aside.
fn refusal(of: &Wanted) -> Option<String> {
    let about = &of.about;
    if of.served && !of.lapsed {
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
        let Member { component, seen, process, holds } = member;
        let why = match seen {
            Seen::Answers { .. } if *holds && !of.stuck => {
                "holds data of this shard and may be promoted: wait, and see `masctl status`".to_owned()
            }
            Seen::Loading => "is loading its data: wait".to_owned(),
            Seen::Silent => "runs, and does not answer yet: wait".to_owned(),
            Seen::Paused => format!("was stopped by somebody: `masctl fault resume {component}` first"),
            Seen::Absent if process.phase == ProcessPhase::Held => {
                format!("was stopped by somebody: `masctl fault resume {component}` first")
            }
            Seen::Absent if process.restarts < MANY_RESTARTS => {
                format!("is being started: wait until it is up, or has failed {MANY_RESTARTS} times")
            }
            // It answers with what is of no use, or does not stay up.
            Seen::Answers { .. } | Seen::Absent => return None,
        };
        Some(format!("{component} {why}"))
    })
}

/// Servers of the shard that have to run before it can be copied.
pub(super) fn missing(parts: &Parts, region: &RegionPlan, shards: Range<u16>) -> Vec<String> {
    let first = |shard: u16| region.shards.get(usize::from(shard))?.first();
    let absent = shards.filter_map(first).filter(|node| !runs(parts, &node.component));
    absent.map(|node| node.component.to_string()).collect()
}

/// Members that hold what was there before the rebuild began, or cannot start with it.
pub(super) fn in_the_way(
    parts: &Parts,
    region: &RegionPlan,
    row: &OperationRecord,
    shard: u16,
) -> Vec<usize> {
    let Some(loss) = row.status.loss.as_ref().filter(|_| row.spec.shard == Some(shard)) else {
        return Vec::new();
    };
    let key = (region.name.clone(), shard);
    let view = parts.shards.get(&key).map(|of| of.view.borrow().clone()).unwrap_or_default();
    let members = parts.members.get(&key).into_iter().flatten().zip(&view.members).enumerate();
    let stands = |((component, _), seen): (&(Component, _), &Seen)| match seen {
        Seen::Answers { identity, .. } if identity.empty => false,
        Seen::Answers { identity, .. } if identity.region == region.id => {
            identity.epoch <= loss.epoch || !is_of(parts, region, shard, identity)
        }
        Seen::Answers { identity, .. } => identity.store != parts.store.name || identity.shard != shard,
        Seen::Absent => parts.keepers.get(component).is_some_and(|keeper| {
            let process = keeper.status().borrow().clone();
            process.phase == ProcessPhase::Restarting && process.restarts >= MANY_RESTARTS
        }),
        Seen::Paused | Seen::Silent | Seen::Loading => false,
    };
    members.filter(|(_, (of, seen))| stands((of, seen))).map(|(member, _)| member).collect()
}

/// Moves a member's files away, and starts it with nothing.
pub(super) async fn set_aside(
    shared: &Shared,
    parts: &Parts,
    region: &RegionPlan,
    (number, member): (u16, usize),
    row: &OperationRecord,
) -> Result<(), ActionError> {
    let members = parts.members.get(&(region.name.clone(), number));
    let Some((component, _)) = members.and_then(|members| members.get(member)) else { return Ok(()) };
    let Some(keeper) = parts.keepers.get(component) else { return Ok(()) };
    let epoch = row.status.loss.as_ref().map_or(0, |loss| loss.epoch);
    let (layout, of, label) = (shared.layout.clone(), component.clone(), format!("before-rebuild-{epoch}"));
    keeper.order(Order::Kill { hold: true }).await;
    let moved = tokio::task::spawn_blocking(move || move_aside(&layout, &of, &label)).await;
    keeper.order(Order::Resume).await;
    let moved = moved.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    moved.map_err(|error| ActionError::Platform(error.to_string()))
}

/// Adds to an operation's state what the other regions know of the loss, before anything is made anew.
pub(super) fn learn(
    parts: &Parts,
    region: &RegionPlan,
    row: &OperationRecord,
    status: &mut StoreOperationStatus,
) {
    let (Some(shard), Some(loss)) = (row.spec.shard, status.loss.as_mut()) else { return };
    if evacuated_to(shard, &reports(parts, region)).is_some() {
        rebuild::served(loss, now_ms());
    }
    if matches!(status.step.as_deref(), Some("Replay" | "Verify" | "Serve") | None) {
        return;
    }
    let others = parts.world.regions.iter().filter(|other| other.name != region.name);
    let reports: Vec<_> = others.flat_map(|other| reports(parts, other)).collect();
    let links = reports.iter().flat_map(|report| &report.links);
    let links = links.filter(|link| link.peer == region.name && link.shard == Some(shard));
    let told = links.map(|link| Told { issued: &link.issued, behind_millis: link.behind_millis });
    rebuild::learn(loss, &told.collect::<Vec<_>>());
}

/// What the loss has cost.
pub(super) async fn measure(
    parts: &Parts,
    region: &RegionPlan,
    row: &OperationRecord,
) -> Result<OperationOutcome, ActionError> {
    let shard = row.spec.shard.unwrap_or_default();
    let mut covers = Vec::new();
    for of in parts.world.regions.iter().filter(|of| !of.joining) {
        let key = (of.name.clone(), shard);
        let master = parts.shards.get(&key).and_then(|of| of.view.borrow().master);
        if let Some((_, engine)) = master.and_then(|master| parts.members.get(&key)?.get(master)) {
            covers.push(engine.engine.cover().await?);
        }
    }
    let loss = row.status.loss.clone().unwrap_or_default();
    Ok(rebuild::measure(&loss, RegionId(region.id), &covers, now_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(phase: ProcessPhase, restarts: u32) -> ProcessStatus {
        ProcessStatus { phase, pid: None, paused: false, restarts, last_exit: None }
    }

    fn member(seen: Seen, process: ProcessStatus) -> Member {
        Member { component: "a/shard-0/redis-0".into(), seen, process, holds: false }
    }

    fn lost(member: Member) -> Wanted {
        let about = "a/shard-0".into();
        Wanted { about, served: false, lapsed: false, stuck: false, members: vec![member], sources: 1 }
    }

    fn answers() -> Seen {
        let fields = "store s region 1 shard 0 role master state fenced recovered 0 epoch 3 incarnation 00000000000000ff seq 1 \
                      clock 1 outbox-effects 0 outbox-bytes 0 keys 1 empty 0";
        let fields: Vec<String> = fields.split_whitespace().map(ToOwned::to_owned).collect();
        let identity = Box::new(Identity::parse(&fields).unwrap());
        Seen::Answers { identity, follows: None, subsumed: false }
    }

    #[test]
    fn a_copy_that_may_be_good_is_not_put_aside() {
        let words = |seen, phase, restarts| refusal(&lost(member(seen, process(phase, restarts))));
        let says = |words: Option<String>, what: &str| {
            assert!(words.as_ref().is_some_and(|words| words.contains(what)), "{what}: {words:?}");
        };
        says(words(Seen::Loading, ProcessPhase::Running, 0), "is loading its data");
        says(words(Seen::Silent, ProcessPhase::Running, 0), "does not answer yet");
        says(words(Seen::Absent, ProcessPhase::Held, 0), "masctl fault resume a/shard-0/redis-0");
        says(words(Seen::Paused, ProcessPhase::Running, 0), "masctl fault resume a/shard-0/redis-0");
        says(words(Seen::Absent, ProcessPhase::Restarting, 1), "is being started");
        assert_eq!(
            words(Seen::Absent, ProcessPhase::Restarting, MANY_RESTARTS),
            None,
            "its files are damaged"
        );
        assert_eq!(words(answers(), ProcessPhase::Running, 0), None, "data of another store");
        let good = || Member { holds: true, ..member(answers(), process(ProcessPhase::Running, 0)) };
        says(refusal(&lost(good())), "may be promoted");
        assert_eq!(refusal(&Wanted { stuck: true, ..lost(good()) }), None, "it cannot be promoted");
        let served = Wanted { served: true, ..lost(good()) };
        says(refusal(&served), "nothing to rebuild");
        assert_eq!(refusal(&Wanted { lapsed: true, ..served }), None, "others refuse it");
        says(refusal(&Wanted { lapsed: true, sources: 0, ..lost(good()) }), "no other region");
    }
}
