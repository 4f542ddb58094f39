//! A region leaves a local store: what [`mas_core::procedures::removal`] looks at, and what it decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{DeletionPolicy, OperationOutcome, StoreOperationStatus};
use futures_util::future::join_all;
use mas_core::procedures::operation::{Operation, Phase};
use mas_core::procedures::removal::{Action, LEFT_MS, Member, Observed, PAUSE_MS, STEPS, Shard};
use mas_core::stamp::RegionId;

use super::component::Component;
use super::layout::{io_error, make_private_folder};
use super::operations::{forget_region, keep, reports};
use super::process::Order;
use super::record::{Leaving, OperationRecord, Record};
use super::shared::{Parts, Shared};
use super::world::RegionPlan;
use crate::health::engine::Answer;
use crate::health::status::is_away;
use crate::operations::removal::{Left, look_at_copies, lost, master_first};
use crate::operations::scale_out::{ActionError, AsEngine};
use crate::operations::{names, now_ms, restore, show, with_measures};
use crate::view::ProcessPhase;

/// One look, and what follows from it.
pub(super) async fn step(shared: &Arc<Shared>, row: &OperationRecord) -> Result<(), ActionError> {
    let mut operation = restore(&row.status);
    if row.status.attempt != row.spec.attempt {
        operation.retry();
    }
    let looked = Instant::now();
    let parts = shared.parts();
    let record = shared.workshop.record.get().await;
    let world = observe(shared, &parts, &record, row).await;
    let mut next = operation.clone();
    let actions = next.advance(&STEPS, &world, now_ms());
    let shown = with_measures(show(&next, &names(row.spec.kind), row.spec.attempt), &row.status);
    if shown != row.status {
        keep(shared, &row.name, shown).await.map_err(platform)?;
    }
    if (operation.phase, operation.step) != (next.phase, next.step) {
        let step = names(row.spec.kind).get(next.step).copied();
        tracing::info!(operation = row.name, phase = ?next.phase, step, why = next.message, "operation");
    }
    for action in &actions {
        tracing::debug!(operation = row.name, ?action, "acting");
        super::operations::crash::before_action(action);
        if *action == Action::Stop && world.gone {
            measure(shared, &parts, row, &world).await?;
        }
        act(shared, &parts, row, action, looked).await?;
    }
    Ok(())
}

fn platform(error: impl std::fmt::Display) -> ActionError {
    ActionError::Platform(error.to_string())
}

async fn observe(shared: &Shared, parts: &Parts, record: &Record, row: &OperationRecord) -> Observed {
    let name = &row.spec.region;
    let id = id(row);
    let region = parts.world.region(name).filter(|region| region.id == id);
    let shards = parts.store.shards;
    let leaving = match region {
        Some(region) => join_all((0..shards).map(|shard| look_at_leaver(parts, region, shard))).await,
        None => Vec::new(),
    };
    // After the region's own shards: what these have, the others may have got meanwhile, but not the other way round.
    let members = parts.world.regions.iter().filter(|of| of.id != id && !of.joining);
    let members = members.map(|member| look_at_member(parts, record, member));
    let folder = shared.layout.region(name);
    Observed {
        region: RegionId(id),
        away: region.is_some_and(|region| is_away(shards, &reports(parts, region))),
        gone: record.gone().contains(&id),
        answers: region.and_then(|region| who_answers(parts, region)),
        shards: leaving,
        settled: record.leaving(name) == Some(Leaving::Settled),
        runs: region.is_some_and(|region| servers(parts, region).any(|(_, runs)| runs)),
        members: join_all(members).await,
        forgotten: !record.regions.iter().any(|of| of.id == id),
        membership: record.membership,
        deleted: !folder.exists(),
    }
}

/// Any part of the region that answers, in words.
fn who_answers(parts: &Parts, region: &RegionPlan) -> Option<String> {
    let brokers = region.brokers.iter().map(|node| &node.component);
    let mut all = servers(parts, region).map(|(component, _)| component).chain(brokers);
    all.find(|component| parts.is_ready(component)).map(|component| format!("{component} answers"))
}

/// Keeps what may be lost with a region that is gone, as long as those that stay remember what it told them.
async fn measure(
    shared: &Shared,
    parts: &Parts,
    row: &OperationRecord,
    world: &Observed,
) -> Result<(), ActionError> {
    let mut shards: Vec<Left> = (0..parts.store.shards).map(|_| Left::default()).collect();
    for member in &world.members {
        for (left, stayer) in shards.iter_mut().zip(&member.shards) {
            left.covers.extend(stayer.as_ref().map(|stayer| stayer.cover.clone()));
        }
        let Some(region) = parts.world.region(&member.name) else { continue };
        for link in reports(parts, region).iter().flat_map(|report| &report.links) {
            let told = link.shard.filter(|_| link.peer == row.spec.region);
            if let Some(left) = told.and_then(|number| shards.get_mut(usize::from(number))) {
                left.told(&link.issued);
            }
        }
    }
    let outcome =
        OperationOutcome { rpo_effects: lost(world.region, &shards), ..OperationOutcome::default() };
    let record = shared.workshop.record.get().await;
    let Some(now) = record.operations.iter().find(|of| of.name == row.name) else { return Ok(()) };
    let status = StoreOperationStatus { outcome: Some(outcome), ..now.status.clone() };
    keep(shared, &row.name, status).await.map_err(platform)
}

/// A person declares a region gone for good that leaves, or takes that back. Returns the operation's name.
pub(super) async fn declare(shared: &Arc<Shared>, region: &str, gone: bool) -> Result<String, String> {
    let _turn = shared.changing.lock().await;
    let mut name = String::new();
    let change = |record: &mut Record| {
        name = record.declare_gone(region, gone)?;
        Ok(())
    };
    shared.workshop.record.update(change).await.map_err(|error| error.to_string())?;
    let mut parts = Parts::clone(&shared.parts());
    shared.workshop.build(&mut parts).await.map_err(|error| error.to_string())?;
    if let Some(of) = parts.world.region(region).filter(|_| !gone) {
        // It is asked what it has.
        resume(&parts, of).await;
        set_gates(&parts, region, true);
    }
    shared.set_parts(parts);
    Ok(name)
}

/// The region's id is in the operation's name: another one may have got its name since.
fn id(row: &OperationRecord) -> u16 {
    row.name.rsplit('-').next().and_then(|id| id.parse().ok()).unwrap_or_default()
}

/// The region's engines and proxies, and whether they run.
fn servers<'a>(parts: &'a Parts, region: &'a RegionPlan) -> impl Iterator<Item = (&'a Component, bool)> {
    let engines = region.shards.iter().flatten().map(|node| &node.component);
    let all = engines.chain(region.proxies.iter().map(|node| &node.component));
    all.filter_map(|component| {
        let phase = parts.keepers.get(component)?.status().borrow().phase;
        Some((component, matches!(phase, ProcessPhase::Running | ProcessPhase::Restarting)))
    })
}

async fn look_at_leaver(parts: &Parts, region: &RegionPlan, shard: u16) -> Shard {
    let Some(engine) = master(parts, region, shard) else {
        return Shard::Silent("has no master that answers".into());
    };
    let engine = engine.engine();
    // How long the pause lasts is asked first: what it has at the second answer stays as it is for that long.
    match (engine.ask().await, engine.cover().await) {
        (Ok(Answer::Identity { identity, .. }), Ok(cover)) => {
            Shard::Runs { recovered: identity.recovered, paused_ms: identity.paused_ms, cover }
        }
        (Ok(Answer::Loading), _) => Shard::Silent("loads its data".into()),
        (Err(error), _) | (_, Err(error)) => Shard::Silent(format!("does not answer ({error})")),
    }
}

fn master(parts: &Parts, region: &RegionPlan, shard: u16) -> Option<Arc<dyn AsEngine>> {
    let key = (region.name.clone(), shard);
    let master = parts.shards.get(&key)?.view.borrow().master?;
    let (_, member) = parts.members.get(&key)?.get(master)?;
    Some(Arc::clone(member) as Arc<dyn AsEngine>)
}

/// All engines of a shard, its master first; none where there is no master.
fn copies(parts: &Parts, region: &RegionPlan, shard: u16) -> Vec<Arc<dyn AsEngine>> {
    let key = (region.name.clone(), shard);
    let master = parts.shards.get(&key).and_then(|of| of.view.borrow().master);
    let members = parts.members.get(&key).into_iter().flatten();
    master_first(members.map(|(_, member)| Arc::clone(member) as Arc<dyn AsEngine>).collect(), master)
}

async fn look_at_member(parts: &Parts, record: &Record, member: &RegionPlan) -> Member {
    let reports = reports(parts, member);
    let shards = (0..parts.store.shards)
        .map(|shard| async move { look_at_copies(&copies(parts, member, shard)).await });
    Member {
        name: member.name.clone(),
        told: reports.iter().any(|report| report.ready)
            && reports.iter().all(|report| !report.ready || report.generation >= record.generation),
        shards: join_all(shards).await,
    }
}

async fn act(
    shared: &Arc<Shared>,
    parts: &Parts,
    row: &OperationRecord,
    action: &Action,
    looked: Instant,
) -> Result<(), ActionError> {
    let name = &row.spec.region;
    match action {
        Action::Pause { shard } => {
            let number = u16::try_from(*shard).unwrap_or_default();
            let Some(region) = parts.world.region(name) else { return Ok(()) };
            let Some(engine) = master(parts, region, number) else { return Ok(()) };
            let Answer::Identity { identity, .. } = engine.engine().ask().await? else { return Ok(()) };
            Ok(engine.engine().pause(&identity.incarnation, PAUSE_MS).await?)
        }
        Action::Stop => stop(shared, parts, name, looked).await,
        Action::Forget => forget(shared, name).await,
        Action::Delete => delete(shared, parts, row),
    }
}

/// Stops the region's engines and proxies, and keeps that. Its broker goes on: what it has, nobody lacks, but nobody is cut off either.
async fn stop(shared: &Shared, parts: &Parts, name: &str, looked: Instant) -> Result<(), ActionError> {
    let Some(region) = parts.world.region(name) else { return Ok(()) };
    set_gates(parts, name, false);
    hold(parts, region).await;
    let in_time = looked.elapsed() < Duration::from_millis(LEFT_MS);
    let kept = if in_time {
        let settle = |record: &mut Record| {
            record.set_leaving(name, Leaving::Settled);
            Ok(())
        };
        shared.workshop.record.update(settle).await.map_err(platform)
    } else {
        Err(platform("stopping its engines took longer than their pause"))
    };
    if kept.is_err() {
        // They may have taken writes: they are looked at again.
        resume(parts, region).await;
        set_gates(parts, name, true);
    }
    kept
}

fn set_gates(parts: &Parts, region: &str, open: bool) {
    for (_, gate) in parts.gates.iter().filter(|((of, _), _)| of == region) {
        gate.send_replace(open);
    }
}

async fn hold(parts: &Parts, region: &RegionPlan) {
    let keepers = servers(parts, region).filter_map(|(component, _)| parts.keepers.get(component));
    join_all(keepers.map(|keeper| keeper.order(Order::Kill { hold: true }))).await;
}

async fn resume(parts: &Parts, region: &RegionPlan) {
    let keepers = servers(parts, region).filter_map(|(component, _)| parts.keepers.get(component));
    join_all(keepers.map(|keeper| keeper.order(Order::Start))).await;
}

/// The region is no member any more, and all of it ends.
async fn forget(shared: &Arc<Shared>, name: &str) -> Result<(), ActionError> {
    let _turn = shared.changing.lock().await;
    let mut parts = Parts::clone(&shared.parts());
    let change = |record: &mut Record| {
        record.forget(name);
        Ok(())
    };
    shared.workshop.record.update(change).await.map_err(platform)?;
    shared.stop_all(|component| component.region() == Some(name)).await;
    forget_region(&mut parts, name);
    shared.workshop.build(&mut parts).await.map_err(platform)?;
    shared.set_parts(parts);
    Ok(())
}

/// Its files are put aside, or deleted.
fn delete(shared: &Shared, parts: &Parts, row: &OperationRecord) -> Result<(), ActionError> {
    let folder = shared.layout.region(&row.spec.region);
    match parts.store.deletion_policy {
        DeletionPolicy::Delete => {
            std::fs::remove_dir_all(&folder).map_err(|e| platform(io_error("deleting", &folder, e)))
        }
        DeletionPolicy::Retain => {
            let removed = shared.layout.removed();
            make_private_folder(&removed).map_err(platform)?;
            let kept = removed.join(format!("{}-{}", row.spec.region, id(row)));
            tracing::info!(region = row.spec.region, kept = %kept.display(), "what the region had is kept");
            std::fs::rename(&folder, &kept).map_err(|e| platform(io_error("moving", &folder, e)))
        }
    }
}

/// The manifest has the region again: it stays, and serves.
pub(super) async fn roll_back(shared: &Arc<Shared>, row: &OperationRecord) -> Result<(), ActionError> {
    let parts = shared.parts();
    let region = parts.world.region(&row.spec.region);
    if let Some(region) = region {
        resume(&parts, region).await;
        set_gates(&parts, &region.name, true);
    }
    let mut operation: Operation = restore(&row.status);
    operation.moved_at = now_ms();
    operation.end(Phase::RolledBack, "the manifest has the region again: it stays".into());
    keep(shared, &row.name, show(&operation, &names(row.spec.kind), row.spec.attempt)).await.map_err(platform)
}
