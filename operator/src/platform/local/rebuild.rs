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
use super::shared::{Parts, Shared};
use super::store::StartError;
use super::world::RegionPlan;
use super::{ports, world};
use crate::health::status::{build_link_of, evacuated_to};
use crate::operations::now_ms;
use crate::operations::rebuild::{self, MANY_RESTARTS, Member, Sight, Start, Told, Wanted, Watch, refusal};
use crate::operations::scale_out::ActionError;
use crate::procedures::identity::Identity;
use crate::procedures::shard::{Place, Seen};
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

fn wanted(parts: &Parts, region: &RegionPlan, shard: u16, source: Option<&str>) -> Wanted {
    let key = (region.name.clone(), shard);
    let view = parts.shards.get(&key).map(|of| of.view.borrow().clone()).unwrap_or_default();
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
        place: place(parts, region, shard),
        members: members(parts, region, shard),
        master: view.master,
        lapsed: reports(parts, region).iter().any(lapsed),
        stuck: view.notices.iter().any(|notice| notice.reason == "ActionFailed"),
        sources: parts.world.regions.iter().filter(serves).count(),
    }
}

fn place(parts: &Parts, region: &RegionPlan, shard: u16) -> Place {
    Place { store: parts.store.name.clone(), region: region.id, shard }
}

fn members(parts: &Parts, region: &RegionPlan, shard: u16) -> Vec<Member> {
    let key = (region.name.clone(), shard);
    let view = parts.shards.get(&key).map(|of| of.view.borrow().clone()).unwrap_or_default();
    let members = parts.members.get(&key).into_iter().flatten().zip(view.members);
    let member = |((component, _), seen): (&(Component, _), Seen)| {
        let process = parts.keepers.get(component).map(|keeper| keeper.status().borrow().clone());
        Member { name: component.to_string(), seen, start: process.as_ref().map_or(Start::Going, start) }
    };
    members.map(member).collect()
}

fn start(process: &ProcessStatus) -> Start {
    match process.phase {
        ProcessPhase::Held => Start::Held,
        ProcessPhase::Restarting if process.restarts >= MANY_RESTARTS => Start::Failing,
        ProcessPhase::Restarting | ProcessPhase::Running | ProcessPhase::Stopped | ProcessPhase::Pending => {
            Start::Going
        }
    }
}

fn seen_identity(seen: &Seen) -> Option<&Identity> {
    match seen {
        Seen::Answers { identity, .. } => Some(identity),
        Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => None,
    }
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
    rebuild::in_the_way(&place(parts, region, shard), loss.epoch, &members(parts, region, shard))
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
