//! Operations of a local store: each is a row of the record. They run one after the other; a change of the manifest starts them, a loss
//! ([`super::rebuild`]), or a person.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{OperationAction, OperationPhase, OperationType, StoreOperationStatus};
use mas_core::procedures::operation::{Obstacle, Operation, Phase};
use mas_core::stamp::{Incarnation, RegionId};
use tokio::time::{MissedTickBehavior, interval};

use super::component::Component;
use super::layout::write_private;
use super::rebuild::{self, Watcher};
use super::record::{OperationRecord, Record, RecordError, is_over};
use super::shared::{Parts, ShardAccess, Shared};
use super::store::StartError;
use super::world::{RegionPlan, address};
use super::{ports, removal, secrets, world};
use crate::health::proxy::ProxyReport;
use crate::health::status::build_link_of;
use crate::operations::scale_out::{
    self, ActionError, AsEngine, Compared, Front, Ground, Hands, MasterGround, MemberGround, ShardGround,
};
use crate::operations::{
    names, nothing_to_order, now_ms, restore, show, steps, sync_step_of, ticket, with_measures,
};
use crate::procedures::shard::Basis;
use crate::verify;
use crate::view::{OperationRow, ProcessPhase, RegionPhase};

/// How often an operation is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Mere progress is written no more often.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);

/// Carries out what the record lists, until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = Instant::now();
    let mut said = String::new();
    let mut watcher = Watcher::default();
    loop {
        tick.tick().await;
        watcher.look(&shared).await;
        let record = shared.workshop.record.get().await;
        let waiting = || record.operations.iter().filter(|operation| !is_over(operation.status.phase));
        // What was lost is mended first: a region that joins or leaves waits for all masters of the others.
        let Some(first) = waiting().min_by_key(|operation| operation.spec.kind != OperationType::Rebuild)
        else {
            continue;
        };
        for other in waiting().filter(|other| other.name != first.name) {
            wait_for(&shared, other, &first.name).await;
        }
        let outcome = match (first.spec.kind, first.spec.action) {
            (OperationType::ScaleOut | OperationType::Rebuild, OperationAction::Run) => {
                step(&shared, &record, first, &mut written).await
            }
            (OperationType::ScaleOut | OperationType::Rebuild, OperationAction::Rollback) => {
                roll_back(&shared, first).await
            }
            (OperationType::Remove, OperationAction::Run) => removal::step(&shared, first).await,
            (OperationType::Remove, OperationAction::Rollback) => removal::roll_back(&shared, first).await,
            // Here they are answered at once, and are no rows.
            (
                OperationType::Switchover
                | OperationType::Failover
                | OperationType::Verify
                | OperationType::Repair,
                _,
            ) => Ok(()),
        };
        // What fails again and again is logged once.
        let words = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        if !words.is_empty() && words != said {
            tracing::warn!(operation = first.name, error = words, "an action failed; it is tried again");
        }
        said = words;
    }
}

/// One data-moving operation at a time.
async fn wait_for(shared: &Shared, operation: &OperationRecord, first: &str) {
    let mut state = restore(&operation.status);
    if state.blocked.is_none() {
        let obstacle = Obstacle::new("WaitsForAnother", format!("{first} has to end first"));
        state.blocked = Some((obstacle, now_ms()));
    }
    let shown = show(&state, &names(operation.spec.kind), operation.spec.attempt);
    let mut shown = with_measures(shown, &operation.status);
    let parts = shared.parts();
    if let Some(region) = parts.world.region(&operation.spec.region) {
        rebuild::learn(&parts, region, operation, &mut shown);
    }
    if shown != operation.status {
        let _ = keep(shared, &operation.name, shown).await;
    }
}

pub(super) async fn keep(
    shared: &Shared,
    name: &str,
    status: StoreOperationStatus,
) -> Result<(), RecordError> {
    let change = |record: &mut Record| {
        if let Some(row) = record.operations.iter_mut().find(|row| row.name == name) {
            row.status = status;
        }
        Ok(())
    };
    shared.workshop.record.update(change).await
}

async fn step(
    shared: &Arc<Shared>,
    record: &Record,
    row: &OperationRecord,
    written: &mut Instant,
) -> Result<(), ActionError> {
    let kind = row.spec.kind;
    let mut operation = restore(&row.status);
    if row.status.attempt != row.spec.attempt {
        operation.retry();
    }
    let uid = format!("{}/{}", record.store, row.name);
    let ticket = ticket(&uid, row.spec.attempt, &operation, sync_step_of(kind));
    let parts = shared.parts();
    let Some(region) = parts.world.region(&row.spec.region) else { return Ok(()) };
    let ground = ground(shared, &parts, record, region, row, ticket);
    let (next, actions) = scale_out::step_of(steps(kind), &ground, &operation, ticket, now_ms()).await;
    open_gates(&parts, &ground, region, row.status.loss.as_ref().map_or(0, |loss| loss.epoch)).await;
    let mut shown = with_measures(show(&next, &names(kind), row.spec.attempt), &row.status);
    rebuild::learn(&parts, region, row, &mut shown);
    let moved = |a: &Operation, b: &Operation| {
        (a.phase, a.step) != (b.phase, b.step)
            || a.blocked.as_ref().map(|b| b.0.reason) != b.blocked.as_ref().map(|b| b.0.reason)
    };
    if shown != row.status
        && (moved(&operation, &next) || !actions.is_empty() || written.elapsed() > WRITTEN_EVERY)
    {
        keep(shared, &row.name, shown).await.map_err(|error| ActionError::Platform(error.to_string()))?;
        *written = Instant::now();
    }
    if (operation.phase, operation.step) != (next.phase, next.step) {
        let step = next.phase.is_final().then_some("").or_else(|| names(kind).get(next.step).copied());
        tracing::info!(operation = row.name, phase = ?next.phase, step, why = next.message, "operation");
    }
    let hands = LocalHands { shared, parts: &parts, region, row, ticket };
    let mut outcome = Ok(());
    for action in &actions {
        tracing::debug!(operation = row.name, ?action, "acting");
        crash::before_action(action);
        // The others are independent of one that fails.
        if let Err(error) = scale_out::act(&ground, &hands, ticket, action).await {
            outcome = Err(error);
        }
    }
    outcome
}

/// A shard's controller acts from the moment that an engine has the region's identity, above the epoch of what was lost.
async fn open_gates(parts: &Parts, ground: &Ground, region: &RegionPlan, lost: u64) {
    for shard in &ground.shards {
        let Some(gate) = parts.gates.get(&(region.name.clone(), shard.number)) else { continue };
        let Ok(crate::health::engine::Answer::Identity { identity, .. }) = shard.first.engine().ask().await
        else {
            continue; // as it was
        };
        let own = identity.region == region.id && identity.epoch > lost;
        gate.send_if_modified(|open| std::mem::replace(open, own) != own);
    }
}

/// What the proxies of a region say.
pub(super) fn reports(parts: &Parts, region: &RegionPlan) -> Vec<ProxyReport> {
    let of = |node: &world::ProxyNode| parts.proxies.get(&node.component).map(|seen| seen.borrow().clone());
    region.proxies.iter().filter_map(of).collect()
}

pub(super) fn runs(parts: &Parts, component: &Component) -> bool {
    let status = parts.keepers.get(component).map(|keeper| keeper.status().borrow().clone());
    status.is_some_and(|status| status.phase == ProcessPhase::Running && !status.paused)
}

fn ground(
    shared: &Shared,
    parts: &Parts,
    record: &Record,
    region: &RegionPlan,
    row: &OperationRecord,
    ticket: u64,
) -> Ground {
    let shards = match row.spec.shard {
        Some(number) => number..number + 1,
        None => 0..parts.store.shards,
    };
    let serving = || serving(parts, record, row);
    let links = |of: &RegionPlan| {
        let reports = reports(parts, of);
        let peers = serving().filter(|peer| peer.name != of.name);
        peers.map(|peer| build_link_of(&peer.name, shards.clone(), &reports)).collect::<Vec<_>>()
    };
    let members = serving().map(|member| {
        let reports = reports(parts, member);
        MemberGround {
            id: RegionId(member.id),
            name: member.name.clone(),
            told: reports.iter().any(|report| report.ready)
                && reports.iter().all(|report| !report.ready || report.generation >= record.generation),
            links: links(member),
            front: front(shared, parts, member),
            shards: shards.clone().map(|shard| master(parts, region, member, shard)).collect(),
        }
    });
    let members = members.collect();
    let own_links = links(region);
    let grounds = shards.clone().filter_map(|shard| {
        let key = (region.name.clone(), shard);
        let members = parts.members.get(&key)?;
        let first = members.first()?;
        let master = parts.shards.get(&key).and_then(|view| members.get(view.view.borrow().master?));
        let (component, engine) = master.unwrap_or(first);
        let absent = (!runs(parts, component)).then(|| "is not running".to_owned());
        let epoch = record.epochs.get(&format!("{}/shard-{shard}", region.name)).map_or(0, |of| of.epoch);
        let engine = Arc::clone(engine) as Arc<dyn AsEngine>;
        let first = Arc::clone(&first.1) as Arc<dyn AsEngine>;
        let in_the_way = rebuild::in_the_way(parts, region, row, shard);
        Some(ShardGround {
            number: shard,
            in_the_way,
            first,
            engine,
            absent,
            epoch,
            links: own_links.clone(),
        })
    });
    let source = row.spec.source.as_deref().and_then(|name| parts.world.region(name));
    Ground {
        store: parts.store.name.clone(),
        region: RegionId(region.id),
        membership: record.membership,
        missing: match row.spec.kind {
            OperationType::Rebuild => rebuild::missing(parts, region, shards.clone()),
            _ => missing(parts, region),
        },
        members,
        shards: grounds.collect(),
        slots: record.slots.clone(),
        wanted_source: source.map(|source| RegionId(source.id)),
        verification: shared.verifying.of(ticket),
        joined: match row.spec.kind {
            OperationType::Rebuild => row.status.outcome.is_some(),
            _ => !region.joining,
        },
    }
}

/// The regions that serve, beside the one that copies. One that has lost the shard, too, has nothing to tell, and its turn comes: if each
/// waited for the other, neither would get anything.
fn serving<'a>(
    parts: &'a Parts,
    record: &Record,
    row: &OperationRecord,
) -> impl Iterator<Item = &'a RegionPlan> {
    let lost = |of: &RegionPlan| {
        let mends = |other: &&OperationRecord| {
            other.spec.kind == OperationType::Rebuild
                && (&other.spec.region, other.spec.shard) == (&of.name, row.spec.shard)
                && !matches!(other.status.phase, OperationPhase::Succeeded | OperationPhase::RolledBack)
        };
        row.spec.shard.is_some() && record.operations.iter().any(|other| mends(&other))
    };
    let lost: Vec<u16> = parts.world.regions.iter().filter(|of| lost(of)).map(|of| of.id).collect();
    let own = row.spec.region.clone();
    parts.world.regions.iter().filter(move |of| !of.joining && of.name != own && !lost.contains(&of.id))
}

fn missing(parts: &Parts, region: &RegionPlan) -> Vec<String> {
    let servers = region.shards.iter().flatten().map(|node| &node.component);
    let mut missing: Vec<_> = servers.filter(|c| !runs(parts, c)).map(ToString::to_string).collect();
    let ready = |node: &&world::BrokerNode| !parts.is_ready(&node.component);
    missing.extend(region.brokers.iter().filter(ready).map(|node| node.component.to_string()));
    let reports = reports(parts, region);
    if !reports.iter().any(|report| report.ready) {
        missing.push(format!("a proxy of {}", region.name));
    }
    missing
}

fn front(shared: &Shared, parts: &Parts, region: &RegionPlan) -> Front {
    let password = parts
        .store
        .auth_secret
        .as_ref()
        .and_then(|_| std::fs::read_to_string(shared.layout.secrets().join("client")).ok());
    let login = password.map(|password| ("default".to_owned(), password.trim().to_owned()));
    Front { address: address(region.client), login }
}

fn master(parts: &Parts, joining: &RegionPlan, member: &RegionPlan, shard: u16) -> MasterGround {
    let key = (member.name.clone(), shard);
    let view = parts.shards.get(&key).map(|of| of.view.borrow().clone()).unwrap_or_default();
    let of = view.master.and_then(|at| parts.members.get(&key)?.get(at));
    MasterGround {
        master: view.master,
        seen: view.members,
        engine: of.map(|(_, member)| Arc::clone(member) as Arc<dyn AsEngine>),
        address: of.and_then(|(component, _)| parts.world.way(&joining.name, component)).map(address),
    }
}

struct LocalHands<'a> {
    shared: &'a Arc<Shared>,
    parts: &'a Parts,
    region: &'a RegionPlan,
    row: &'a OperationRecord,
    ticket: u64,
}

impl Hands for LocalHands<'_> {
    async fn set_aside(&self, shard: u16, member: usize) -> Result<(), ActionError> {
        rebuild::set_aside(self.shared, self.parts, self.region, (shard, member), self.row).await
    }

    async fn issue(
        &self,
        shard: usize,
        epoch: u64,
        incarnation: Incarnation,
        seq: u64,
    ) -> Result<(), ActionError> {
        let name = format!("{}/shard-{shard}", self.region.name);
        let basis = Basis { incarnation: incarnation.to_string(), seq };
        let issued = self.shared.workshop.record.issue(&name, epoch, 0, &basis, true).await;
        issued.map_err(|error| ActionError::Platform(error.to_string()))
    }

    async fn verify(&self) -> Result<(), ActionError> {
        let parts = self.parts;
        let record = self.shared.workshop.record.get().await;
        let serving: Vec<&RegionPlan> = serving(parts, &record, self.row).collect();
        let regions = || serving.iter().copied().chain(std::iter::once(self.region));
        let mut masters = HashMap::new();
        for ((region, shard), ShardAccess { view, .. }) in &parts.shards {
            let nodes = parts.world.region(region).and_then(|of| of.shards.get(usize::from(*shard)));
            if let Some(node) = view.borrow().master.and_then(|master| nodes?.get(master)) {
                masters.insert((region.clone(), *shard), address(node.port));
            }
        }
        let password = secrets::ensure(&self.shared.layout, "engine");
        let compared = Compared {
            store: parts.store.name.clone(),
            regions: regions().map(|of| verify::Region { name: of.name.clone(), id: of.id }).collect(),
            shards: parts.store.shards,
            only: self.row.spec.shard,
            password: password.map_err(|error| ActionError::Platform(error.to_string()))?.value,
            masters,
        };
        let verifying = self.shared.verifying.clone();
        self.shared.workshop.nursery.spawn(verifying.compare(self.ticket, compared));
        Ok(())
    }

    async fn finish(&self) -> Result<(), ActionError> {
        match self.row.spec.kind {
            OperationType::Rebuild => {
                let outcome = rebuild::measure(self.parts, self.region, self.row).await?;
                let status = StoreOperationStatus { outcome: Some(outcome), ..self.row.status.clone() };
                let kept = keep(self.shared, &self.row.name, status).await;
                kept.map_err(|error| ActionError::Platform(error.to_string()))
            }
            _ => self.become_member().await,
        }
    }
}

impl LocalHands<'_> {
    async fn become_member(&self) -> Result<(), ActionError> {
        let fail = |error: &dyn std::fmt::Display| ActionError::Platform(error.to_string());
        let _turn = self.shared.changing.lock().await;
        let change = |record: &mut Record| {
            record.regions.iter_mut().filter(|r| r.name == self.region.name).for_each(|r| r.joining = false);
            Ok(())
        };
        self.shared.workshop.record.update(change).await.map_err(|e| fail(&e))?;
        // The ways that only a joining region has stay until the store is started again: replication over them has ended.
        let mut parts = Parts::clone(&self.shared.parts());
        parts.world.regions.iter_mut().filter(|r| r.name == self.region.name).for_each(|r| r.joining = false);
        self.shared.set_parts(parts);
        Ok(())
    }
}

/// Takes back a region that was to join: the others never noticed. A shard that was to be rebuilt stays as it is.
async fn roll_back(shared: &Arc<Shared>, row: &OperationRecord) -> Result<(), ActionError> {
    let fail = |error: &dyn std::fmt::Display| ActionError::Platform(error.to_string());
    let _turn = shared.changing.lock().await;
    let region = &row.spec.region;
    let parts = shared.parts();
    let is_joining = parts.world.region(region).is_some_and(|region| region.joining);
    if is_joining {
        stop_region(shared, &parts, region).await;
        let change = |record: &mut Record| {
            record.leave_out(region);
            Ok(())
        };
        shared.workshop.record.update(change).await.map_err(|e| fail(&e))?;
        let mut parts = Parts::clone(&parts);
        forget_region(&mut parts, region);
        shared.workshop.build(&mut parts).await.map_err(|e| fail(&e))?;
        shared.set_parts(parts);
    }
    let mut operation = restore(&row.status);
    operation.moved_at = now_ms();
    let words = match row.spec.kind {
        OperationType::Rebuild => "given up; another region goes on serving the shard",
        _ => "taken back; the others never noticed",
    };
    operation.end(Phase::RolledBack, words.into());
    let status = show(&operation, &names(row.spec.kind), row.spec.attempt);
    keep(shared, &row.name, with_measures(status, &row.status)).await.map_err(|e| fail(&e))
}

async fn stop_region(shared: &Shared, parts: &Parts, region: &str) {
    for (key, gate) in &parts.gates {
        if key.0 == *region {
            gate.send_replace(false);
        }
    }
    shared.stop_all(|component| component.region() == Some(region)).await;
}

pub(super) fn forget_region(parts: &mut Parts, region: &str) {
    parts.keepers.retain(|component, _| component.region() != Some(region));
    parts.brokers.retain(|component, _| component.region() != Some(region));
    parts.proxies.retain(|component, _| component.region() != Some(region));
    parts.members.retain(|(of, _), _| of != region);
    parts.gates.retain(|(of, _), _| of != region);
    parts.shards.retain(|(of, _), _| of != region);
    parts.was_active.remove(region);
    parts.store.regions.retain(|of| of.name != region);
    parts.world.regions.retain(|of| of.name != region);
    // Relays that run go on listening: nobody asks them any more.
    parts.world.links.retain(|link| link.from != region && link.to != region);
}

/// A changed manifest of a running store.
pub(super) async fn apply(shared: &Arc<Shared>, manifest: &str) -> Result<Vec<String>, StartError> {
    let store = crds::load(manifest)?;
    let _turn = shared.changing.lock().await;
    let mut parts = Parts::clone(&shared.parts());
    let mut record = shared.workshop.record.get().await;
    let before = record.clone();
    record.apply(&store)?;
    let store = record.with_leaving(&store);
    let mut others = store.clone();
    others.regions.clone_from(&parts.store.regions);
    others.cluster_only.clone_from(&parts.store.cluster_only);
    if others != parts.store {
        return Err(RecordError::Immutable(
            "only regions can be added, drained and removed while the store runs: for other changes `masctl down` and `masctl up` it"
                .into(),
        )
        .into());
    }
    if record.founded.is_none() && store.regions != parts.store.regions {
        return Err(RecordError::Immutable(
            "the store is not founded yet: wait until it is active, or `masctl down` and `masctl up` it"
                .into(),
        )
        .into());
    }
    let started = record.operations.iter().filter(|row| !before.operations.contains(row));
    let started = started.map(|operation| operation.name.clone()).collect::<Vec<_>>();
    write_private(&shared.layout.manifest(), manifest.as_bytes(), true)?;
    if started.is_empty() && store.regions == parts.store.regions {
        return Ok(started);
    }
    let known: Vec<_> = record.ports.keys().cloned().collect();
    let names = world::port_names(&store, &record);
    ports::assign(&shared.layout, &mut record.ports, &names)?;
    ports::check_free(record.ports.iter().filter(|(name, _)| !known.contains(name)))?;
    record.generation += 1;
    parts.world = world::plan(&store, &record);
    parts.store = store;
    shared
        .workshop
        .record
        .update(|current| {
            // Epochs and operations move meanwhile.
            current.regions = record.regions;
            current.next_region_id = record.next_region_id;
            current.ports = record.ports;
            current.generation = record.generation;
            current.membership = record.membership;
            let news = record.operations.into_iter().filter(|operation| started.contains(&operation.name));
            for row in news {
                current.operations.retain(|old| old.name != row.name);
                current.operations.push(row);
            }
            Ok(())
        })
        .await?;
    shared.workshop.build(&mut parts).await?;
    shared.set_parts(parts);
    Ok(started)
}

/// The operations, as they are shown.
pub(super) fn rows(record: &Record) -> Vec<OperationRow> {
    let row = |row: &OperationRecord| OperationRow {
        name: row.name.clone(),
        spec: row.spec.clone(),
        status: row.status.clone(),
    };
    record.operations.iter().map(row).collect()
}

/// Tries a failed one again, or takes one back.
pub(super) async fn order(shared: &Shared, name: &str, rollback: bool) -> Result<(), String> {
    let change = |record: &mut Record| {
        let known: Vec<_> = record.operations.iter().map(|row| row.name.clone()).collect();
        let refuse = |words: String| Err(RecordError::Immutable(words));
        let Some(row) = record.operations.iter_mut().find(|row| row.name == name) else {
            return refuse(format!("there is no operation '{name}': there are {}", known.join(", ")));
        };
        if let Some(why) = nothing_to_order(name, row.status.phase, rollback) {
            return refuse(why);
        }
        if rollback && row.spec.kind == OperationType::Remove {
            return refuse(format!(
                "write the region '{}' into the manifest again, and `masctl apply` it: then it stays",
                row.spec.region
            ));
        }
        if rollback {
            row.spec.action = OperationAction::Rollback;
            row.status.phase = OperationPhase::Running;
        } else {
            row.spec.attempt += 1;
            let loss = row.status.loss.take();
            row.status = StoreOperationStatus { loss, ..StoreOperationStatus::default() };
        }
        Ok(())
    };
    shared.workshop.record.update(change).await.map_err(|error| error.to_string())
}

/// What a joining region does, by the step of its operation.
pub(super) fn phase(operations: &[OperationRecord], region: &str) -> RegionPhase {
    let running = operations.iter().find(|row| row.spec.region == region && !is_over(row.status.phase));
    match running.and_then(|row| row.status.step.as_deref()) {
        Some("SyncReplica" | "Mark" | "Promote") => RegionPhase::Syncing,
        Some("Replay") => RegionPhase::Replaying,
        Some("Verify" | "Serve") => RegionPhase::Verifying,
        Some(_) | None => RegionPhase::Provisioning,
    }
}

/// For tests: ends the process, as `kill -9` would, before its Nth action. What is announced is kept by then, and not done.
pub(super) mod crash {
    use std::collections::BTreeSet;
    use std::fmt::Debug;
    use std::sync::{Mutex, PoisonError};

    /// `N`, from 1.
    const VARIABLE: &str = "MAS_CRASH_BEFORE_ACTION";

    /// What is decided again, because it is not done yet, is no other action.
    pub(in super::super) fn before_action(action: &impl Debug) {
        static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let Some(most) = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<usize>().ok()) else {
            return;
        };
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let words = format!("{action:?}");
        seen.insert(words.split(", incarnation").next().unwrap_or_default().to_owned());
        if seen.len() >= most {
            tracing::warn!(VARIABLE, ?action, "a test ends this process here");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
