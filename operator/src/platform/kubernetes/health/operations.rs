//! Operations of a store in a cluster: each is a `StoreOperation`. Its state is written, over the version that was read, before what it
//! announces is done.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{OperationAction, OperationPhase, RegionPhase, StoreOperation, StoreOperationStatus};
use kube::core::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use mas_core::procedures::operation::{self, Obstacle, Operation};
use mas_core::stamp::{Incarnation, RegionId};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::pods::PodProcess;
use super::record::{IdentityRecord, RecordError, Row};
use super::{Latest, Shared};
use crate::health::engine::Answer;
use crate::health::member::{Member, Phase, Process as _};
use crate::health::proxy::ProxyReport;
use crate::health::shard::ShardView;
use crate::health::status::{LinkStatus, build_link};
use crate::operations::scale_out::{
    self, ActionError, AsEngine, Compared, Front, Ground, Hands, MasterGround, MemberGround, ShardGround,
    Verifying,
};
use crate::operations::{now_ms, restore, show, sync_step, ticket};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::client::{ClientError, Namespace};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::Kind;
use crate::platform::kubernetes::status::{Round, replacing};
use crate::procedures::shard::Basis;
use crate::verify;

/// How often an operation is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Mere progress is written no more often.
const WRITTEN_EVERY: Duration = Duration::from_secs(3);
/// How long a write may take.
const CALL: Duration = Duration::from_secs(3);
/// An obstacle that is still there after this time is an event.
const TOLD_AFTER_MS: u64 = 10_000;
/// So many are kept of those that have succeeded, and of those that were taken back.
const KEPT: usize = 10;

/// A region, as the health loop looks after it.
pub(super) struct RegionHandle {
    pub(super) name: String,
    pub(super) id: u16,
    pub(super) joining: bool,
    pub(super) row: Arc<Row>,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) proxies: watch::Receiver<Option<Vec<ProxyReport>>>,
}

/// One shard of it.
pub(super) struct ShardHandle {
    pub(super) names: Vec<String>,
    pub(super) members: Vec<Arc<Member<PodProcess>>>,
    pub(super) view: watch::Receiver<ShardView>,
    /// Whether its controller may act.
    pub(super) gate: watch::Sender<bool>,
}

/// Carries out the operations of one plan.
pub(super) struct Runner {
    pub(super) shared: Shared,
    pub(super) store: String,
    pub(super) namespace: String,
    pub(super) brokers: u16,
    pub(super) shards: u16,
    pub(super) regions: Vec<RegionHandle>,
    pub(super) identity: Arc<IdentityRecord>,
    pub(super) latest: watch::Receiver<Arc<Latest>>,
    pub(super) password: String,
    pub(super) verifying: Verifying,
}

/// An operation as it was read or written last.
#[derive(Default)]
struct Held {
    /// Over which version it was written, and what came of it.
    written: Option<(Option<String>, StoreOperation)>,
    at: Option<Instant>,
    /// The obstacle that was told last.
    told: Option<&'static str>,
}

/// What is to become of an operation, by the identity record: that decides who is a member.
enum Fate<'a> {
    /// Its region joins.
    Joins(&'a RegionHandle),
    /// Its region has become a member.
    Joined(&'a RegionHandle),
    /// Its region is being taken back.
    Leaves,
    /// There is no such region any more.
    Gone,
}

impl Runner {
    /// Looks again and again, for as long as it is polled.
    pub(super) async fn run(self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        let mut said = String::new();
        loop {
            tick.tick().await;
            let latest = Arc::clone(&self.latest.borrow());
            // While the store is paused, or cannot be brought about, nothing moves.
            let Round::Applied(checked, _) = &latest.round else { continue };
            let outcome = self.look(checked, &mut held).await;
            let words = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            // What fails again and again is logged once.
            if !words.is_empty() && words != said {
                tracing::warn!(store = self.store, error = words, "an action failed; it is tried again");
            }
            said = words;
        }
    }

    /// One look at all operations.
    async fn look(&self, checked: &Checked, held: &mut BTreeMap<String, Held>) -> Result<(), ActionError> {
        let mut operations = of_store(&self.shared, &self.namespace, &self.store);
        operations.sort_by_key(|operation| operation.creation_timestamp());
        held.retain(|name, _| operations.iter().any(|operation| operation.name_any() == *name));
        self.forget(&operations).await?;
        let mut first: Option<String> = None;
        for seen in operations {
            let name = seen.name_any();
            let held = held.entry(name.clone()).or_default();
            let object = held.current(&seen);
            let phase = object.status.as_ref().map_or(OperationPhase::Pending, |status| status.phase);
            if matches!(phase, OperationPhase::Succeeded | OperationPhase::RolledBack) {
                continue;
            }
            match self.fate(checked, &object) {
                None => {}
                Some(Fate::Gone) => {
                    let mut operation = restore(&object.status.clone().unwrap_or_default());
                    operation.moved_at = now_ms();
                    operation
                        .end(operation::Phase::RolledBack, "taken back; the others never noticed".into());
                    self.keep(&object, held, &operation).await?;
                }
                Some(Fate::Leaves) => self.say_leaving(&object, held).await?,
                Some(Fate::Joins(region)) if object.spec.action == OperationAction::Rollback => {
                    self.take_back(region).await?;
                }
                // One after the other: each moves data.
                Some(Fate::Joins(_)) if first.is_some() && phase != OperationPhase::Failed => {
                    self.wait_for(&object, held, first.as_deref().unwrap_or_default()).await?;
                }
                Some(Fate::Joins(region) | Fate::Joined(region)) => {
                    let goes_on = self.step(checked, region, &object, held).await?;
                    first = first.or_else(|| goes_on.then_some(name));
                }
            }
        }
        Ok(())
    }

    fn fate(&self, checked: &Checked, object: &StoreOperation) -> Option<Fate<'_>> {
        let id: u16 = object.labels().get(labels::REGION_ID)?.parse().ok()?;
        let Some(known) = checked.identity.regions.iter().find(|region| region.id == id) else {
            // An id that this record has not given yet is of a newer one.
            return (id < checked.identity.next_region_id).then_some(Fate::Gone);
        };
        if known.leaving {
            return Some(Fate::Leaves);
        }
        // Else these tasks are of another picture of the store, and end soon.
        let region = self.regions.iter().find(|of| of.id == id && of.joining == known.joining)?;
        Some(if known.joining { Fate::Joins(region) } else { Fate::Joined(region) })
    }

    /// Of operations that ended only the last ones are kept.
    async fn forget(&self, operations: &[Arc<StoreOperation>]) -> Result<(), ActionError> {
        for phase in [OperationPhase::Succeeded, OperationPhase::RolledBack] {
            let ended = |operation: &&Arc<StoreOperation>| {
                operation.status.as_ref().is_some_and(|status| status.phase == phase)
                    && operation.metadata.deletion_timestamp.is_none()
            };
            let ended: Vec<_> = operations.iter().filter(ended).collect();
            for operation in ended.iter().take(ended.len().saturating_sub(KEPT)) {
                let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
                let uid = operation.metadata.uid.as_deref().unwrap_or_default();
                let name = operation.name_any();
                let deleted = namespace.delete(Kind::StoreOperation, &name, uid).await;
                deleted.map_err(|error| ActionError::Platform(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// From the identity record on it is no member any more; the next round deletes what was made for it.
    async fn take_back(&self, region: &RegionHandle) -> Result<(), ActionError> {
        let written = self.identity.update(|identity| identity.take_back(&region.name)).await;
        written.map_err(|error| ActionError::Platform(error.to_string()))?;
        self.want_round();
        Ok(())
    }

    fn want_round(&self) {
        let _ = self.shared.rounds.send(ObjectRef::new(&self.store).within(&self.namespace));
    }

    async fn say_leaving(&self, object: &StoreOperation, held: &mut Held) -> Result<(), ActionError> {
        let mut operation = restore(&object.status.clone().unwrap_or_default());
        let words = "taken back: what was made for the region is being deleted";
        operation.phase = operation::Phase::Running;
        operation.blocked = None;
        operation.steps.resize_with(scale_out::names().len(), Default::default);
        if let Some(step) = operation.steps.get_mut(operation.step) {
            step.message = words.into();
            step.progress = None;
        }
        self.keep(object, held, &operation).await
    }

    async fn wait_for(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        first: &str,
    ) -> Result<(), ActionError> {
        let mut operation = restore(&object.status.clone().unwrap_or_default());
        if operation.blocked.is_some() {
            return Ok(());
        }
        let obstacle = Obstacle::new("WaitsForAnother", format!("{first} has to end first"));
        operation.blocked = Some((obstacle, now_ms()));
        self.keep(object, held, &operation).await
    }

    /// Writes an operation as it is now, if that is news, and tells of it.
    async fn keep(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        next: &Operation,
    ) -> Result<(), ActionError> {
        let last = object.status.clone().unwrap_or_default();
        let shown = show(next, &scale_out::names(), object.spec.attempt);
        if shown == last {
            return Ok(());
        }
        held.at = Some(Instant::now());
        let over = object.metadata.resource_version.clone();
        let written = self.write(object, &last, &shown).await;
        held.written = written.as_ref().ok().map(|written| (over, written.clone()));
        written.map_err(|error| ActionError::Platform(error.to_string()))?;
        if let Some((bad, reason, words)) = event(&object.spec.region, &last, &shown) {
            tracing::info!(operation = object.name_any(), reason, words, "operation");
            self.tell(bad, reason, words).await;
        }
        Ok(())
    }

    async fn tell(&self, bad: bool, reason: &str, words: String) {
        let store = Arc::clone(&self.latest.borrow().store);
        self.shared.publish(&store, bad, reason, words).await;
    }

    /// One look at one operation; whether it is under way.
    async fn step(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        object: &StoreOperation,
        held: &mut Held,
    ) -> Result<bool, ActionError> {
        let status = object.status.clone().unwrap_or_default();
        let attempt = object.spec.attempt;
        let mut operation = restore(&status);
        if operation.phase == operation::Phase::Failed && status.attempt != attempt {
            operation.retry();
        }
        if operation.phase.is_final() {
            return Ok(false);
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let ticket = ticket(&uid, attempt, &operation, sync_step());
        let ground = self.ground(checked, region, object, ticket).await?;
        let (next, actions) = scale_out::step(&ground, &operation, ticket, now_ms()).await;
        open_gates(&ground, region, ticket).await;
        let reason = |of: &Operation| of.blocked.as_ref().map(|blocked| blocked.0.reason);
        let moved =
            (operation.phase, operation.step, reason(&operation)) != (next.phase, next.step, reason(&next));
        let due = held.at.is_none_or(|at| at.elapsed() > WRITTEN_EVERY);
        if moved || !actions.is_empty() || due {
            self.keep(object, held, &next).await?;
        }
        let name = object.name_any();
        if moved {
            let step = scale_out::names().get(next.step).copied();
            tracing::info!(operation = name, phase = ?next.phase, step, why = next.message, "operation");
        }
        self.tell_obstacle(object, held, &next).await;
        let hands = ClusterHands { runner: self, region, ticket };
        let mut outcome = Ok(());
        for action in &actions {
            tracing::info!(operation = name, ?action, "acting");
            if let Err(error) = scale_out::act(&ground, &hands, ticket, action).await {
                outcome = Err(error);
            }
        }
        outcome.map(|()| !next.phase.is_final())
    }

    /// What goes by itself within seconds is nothing that a person should know.
    async fn tell_obstacle(&self, object: &StoreOperation, held: &mut Held, next: &Operation) {
        let blocked = next.blocked.as_ref();
        let blocked = blocked.filter(|(_, since)| now_ms().saturating_sub(*since) > TOLD_AFTER_MS);
        let reason = blocked.map(|(obstacle, _)| obstacle.reason);
        if let Some((obstacle, _)) = blocked.filter(|_| held.told != reason) {
            let words = format!("{}: {}: {}", object.spec.region, obstacle.reason, obstacle.message);
            self.tell(true, "ScaleOutBlocked", words).await;
        }
        held.told = reason;
    }

    async fn write(
        &self,
        object: &StoreOperation,
        last: &StoreOperationStatus,
        next: &StoreOperationStatus,
    ) -> Result<StoreOperation, RecordError> {
        let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
        let patch = replacing(&json!(last), &json!(next));
        let version = object.metadata.resource_version.as_deref();
        let name = object.name_any();
        let call = namespace.patch_status::<StoreOperation>(&name, version, &patch);
        let written: Result<StoreOperation, ClientError> =
            timeout(CALL, call).await.map_err(|_| RecordError::Late)?;
        Ok(written?)
    }

    async fn ground(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        object: &StoreOperation,
        ticket: u64,
    ) -> Result<Ground, ActionError> {
        let id = |name: &str| self.regions.iter().find(|of| of.name == name).map(|of| RegionId(of.id));
        let members = self.regions.iter().filter(|of| !of.joining).map(|of| self.member(checked, of));
        let links = self.links(region);
        let shards = (0u16..).zip(&region.shards).map(|(number, shard)| {
            let looked_at = shard.view.borrow().master.unwrap_or_default();
            let runs = shard.process(&self.shared, &self.namespace, looked_at).phase() == Phase::Running;
            ShardGround {
                number,
                in_the_way: Vec::new(),
                first: Arc::clone(&shard.members[0]) as Arc<dyn AsEngine>,
                engine: Arc::clone(&shard.members[looked_at]) as Arc<dyn AsEngine>,
                absent: (!runs).then(|| "is not running".to_owned()),
                epoch: 0,
                links: links.clone(),
            }
        });
        let mut shards: Vec<ShardGround> = shards.collect();
        let row = region.row.status().await.map_err(|error| ActionError::Platform(error.to_string()))?;
        let recorded = checked.identity.region(&region.name).map(|of| of.epochs.clone()).unwrap_or_default();
        for (number, shard) in shards.iter_mut().enumerate() {
            let issued = row.shards.iter().find(|state| usize::from(state.shard) == number);
            let recorded = recorded.get(number).copied().unwrap_or_default();
            shard.epoch = issued.map_or(0, |state| state.epoch).max(recorded);
        }
        Ok(Ground {
            store: self.store.clone(),
            region: RegionId(region.id),
            membership: checked.identity.membership,
            missing: self.missing(region),
            members: members.collect(),
            shards,
            slots: checked.identity.slots.clone(),
            wanted_source: object.spec.source.as_deref().and_then(id),
            verification: self.verifying.of(ticket),
            joined: !region.joining,
        })
    }

    fn reports(region: &RegionHandle) -> Vec<ProxyReport> {
        region.proxies.borrow().clone().unwrap_or_default()
    }

    fn links(&self, region: &RegionHandle) -> Vec<LinkStatus> {
        let reports = Self::reports(region);
        let peers = self.regions.iter().filter(|peer| peer.name != region.name && !peer.joining);
        peers.map(|peer| build_link(&peer.name, self.shards, &reports)).collect()
    }

    fn member(&self, checked: &Checked, member: &RegionHandle) -> MemberGround {
        let reports = Self::reports(member);
        let generation = build::proxy_generation(checked, &member.name);
        let shards = member.shards.iter().map(|shard| {
            let view = shard.view.borrow().clone();
            let of = view.master.and_then(|at| shard.members.get(at));
            MasterGround {
                master: view.master,
                seen: view.members,
                engine: of.map(|member| Arc::clone(member) as Arc<dyn AsEngine>),
                address: of.map(|member| member.host.clone()),
            }
        });
        MemberGround {
            id: RegionId(member.id),
            name: member.name.clone(),
            told: generation.is_some_and(|generation| {
                reports.iter().any(|report| report.ready)
                    && reports.iter().all(|report| !report.ready || report.generation >= generation)
            }),
            links: self.links(member),
            front: self.front(checked, member.id),
            shards: shards.collect(),
        }
    }

    /// Any ready proxy of the region: the Service's name may mean nothing where the operator runs.
    fn front(&self, checked: &Checked, region: u16) -> Front {
        let pods = self.shared.pods.of_part(&self.namespace, &self.store, region, Part::Proxy);
        let mut proxies = pods.iter().map(|pod| PodProcess::of(pod, Part::Proxy, build::client_port()));
        let address = proxies.find(|proxy| proxy.ready).and_then(|proxy| proxy.address());
        let passwords = &checked.passwords;
        let login = Some((passwords.client_user.clone(), passwords.client.clone()));
        Front { address: address.unwrap_or_default(), login }
    }

    fn missing(&self, region: &RegionHandle) -> Vec<String> {
        let mut missing = Vec::new();
        for shard in &region.shards {
            for (number, name) in shard.names.iter().enumerate() {
                if shard.process(&self.shared, &self.namespace, number).phase() != Phase::Running {
                    missing.push(name.clone());
                }
            }
        }
        let brokers = self.shared.pods.of_part(&self.namespace, &self.store, region.id, Part::Broker);
        let ready = brokers.iter().filter(|pod| PodProcess::of(pod, Part::Broker, 0).ready).count();
        if ready < usize::from(self.brokers) {
            missing.push(format!("its broker ({ready} of {} nodes are ready)", self.brokers));
        }
        if !Self::reports(region).iter().any(|report| report.ready) {
            missing.push("a proxy".to_owned());
        }
        missing
    }
}

impl Held {
    /// The operation: the watch may not have brought our own last write yet.
    fn current(&self, seen: &StoreOperation) -> StoreOperation {
        match &self.written {
            Some((over, written)) if *over == seen.metadata.resource_version => written.clone(),
            Some(_) | None => seen.clone(),
        }
    }
}

impl ShardHandle {
    fn process(&self, shared: &Shared, namespace: &str, number: usize) -> PodProcess {
        let name = self.names.get(number).map(String::as_str).unwrap_or_default();
        shared.pods.process(namespace, name, Part::Redis, build::redis_port())
    }
}

/// A shard's controller acts from the moment that an engine has the region's identity, by this attempt.
async fn open_gates(ground: &Ground, region: &RegionHandle, ticket: u64) {
    for (shard, of) in region.shards.iter().zip(&ground.shards) {
        // One that does not answer leaves it as it was.
        let Ok(Answer::Identity { identity, .. }) = of.first.engine().ask().await else { continue };
        let of_this_attempt = identity.joining.as_ref().is_none_or(|joining| joining.ticket == ticket);
        let own = identity.region == region.id && of_this_attempt;
        shard.gate.send_if_modified(|open| std::mem::replace(open, own) != own);
    }
}

struct ClusterHands<'a> {
    runner: &'a Runner,
    region: &'a RegionHandle,
    ticket: u64,
}

impl Hands for ClusterHands<'_> {
    async fn issue(
        &self,
        shard: usize,
        epoch: u64,
        incarnation: Incarnation,
        seq: u64,
    ) -> Result<(), ActionError> {
        let basis = Basis { incarnation: incarnation.to_string(), seq };
        let shard = u16::try_from(shard).unwrap_or_default();
        let issued = self.region.row.issue(shard, epoch, 0, &basis).await;
        issued.map_err(|error| ActionError::Platform(error.to_string()))
    }

    async fn verify(&self) -> Result<(), ActionError> {
        let runner = self.runner;
        let regions = || runner.regions.iter().filter(|of| !of.joining || of.name == self.region.name);
        let mut masters = HashMap::new();
        for region in regions() {
            for (number, shard) in (0u16..).zip(&region.shards) {
                let master = shard.view.borrow().master;
                let address =
                    master.and_then(|at| shard.process(&runner.shared, &runner.namespace, at).address());
                masters.extend(address.map(|address| ((region.name.clone(), number), address)));
            }
        }
        let compared = Compared {
            store: runner.store.clone(),
            regions: regions().map(|of| verify::Region { name: of.name.clone(), id: of.id }).collect(),
            shards: runner.shards,
            only: None,
            password: runner.password.clone(),
            masters,
        };
        tokio::spawn(runner.verifying.clone().compare(self.ticket, compared));
        Ok(())
    }

    async fn finish(&self) -> Result<(), ActionError> {
        let runner = self.runner;
        let region = &self.region.name;
        let written = runner.identity.update(|identity| identity.joined(region)).await;
        written.map_err(|error| ActionError::Platform(error.to_string()))?;
        // The next round knows it, and with it everybody.
        runner.want_round();
        Ok(())
    }
}

/// What a joining region does, by the step of its operation, and in words.
pub(super) fn phase(operation: Option<&StoreOperation>) -> (RegionPhase, Option<String>) {
    let Some(status) = operation.and_then(|operation| operation.status.as_ref()) else {
        return (RegionPhase::Provisioning, None);
    };
    let words = status.message.clone().map(|words| match status.phase {
        OperationPhase::Failed => format!("joining failed: {words}"),
        _ => words,
    });
    let phase = match status.step.as_deref() {
        Some("SyncReplica" | "Mark" | "Promote") => RegionPhase::Syncing,
        Some("Replay") => RegionPhase::Replaying,
        Some("Verify" | "Serve") => RegionPhase::Verifying,
        Some(_) | None => RegionPhase::Provisioning,
    };
    (phase, words)
}

/// The operations of a store.
pub(super) fn of_store(shared: &Shared, namespace: &str, store: &str) -> Vec<Arc<StoreOperation>> {
    let of = |operation: &StoreOperation| {
        operation.metadata.namespace.as_deref() == Some(namespace) && operation.spec.store_ref.name == store
    };
    shared.operations.state().into_iter().filter(|operation| of(operation)).collect()
}

/// What is under way, in a few words: `scale-out c: Replay 42%`.
pub(super) fn summary(operations: &[Arc<StoreOperation>]) -> Option<String> {
    let words = |operation: &Arc<StoreOperation>| {
        let status = operation.status.as_ref()?;
        let now = match (status.phase, &status.blocked) {
            (OperationPhase::Succeeded | OperationPhase::RolledBack, _) => return None,
            (OperationPhase::Failed, _) => "failed".to_owned(),
            (_, Some(blocked)) => format!("waits ({})", blocked.reason),
            (OperationPhase::Pending | OperationPhase::Running, None) => {
                let of =
                    [status.step.as_deref().unwrap_or("begins"), status.progress.as_deref().unwrap_or("")];
                of.join(" ").trim_end().to_owned()
            }
        };
        Some(format!("scale-out {}: {now}", operation.spec.region))
    };
    let all: Vec<String> = operations.iter().filter_map(words).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What a person may want to be told of: whether it is bad, a reason, a sentence.
fn event(
    region: &str,
    last: &StoreOperationStatus,
    next: &StoreOperationStatus,
) -> Option<(bool, &'static str, String)> {
    if last.phase == next.phase {
        return None;
    }
    let words = next.message.as_deref().unwrap_or_default();
    match next.phase {
        OperationPhase::Running if last.phase == OperationPhase::Pending => {
            Some((false, "ScaleOutBegan", format!("{region} joins while the others serve")))
        }
        OperationPhase::Pending | OperationPhase::Running => None,
        OperationPhase::Succeeded => {
            let ms = next.outcome.as_ref().and_then(|outcome| outcome.total_millis).unwrap_or_default();
            let words = format!("{region} is a member like the others, after {} s", ms / 1000);
            Some((false, "ScaleOutSucceeded", words))
        }
        OperationPhase::Failed => Some((true, "ScaleOutFailed", format!("{region}: {words}"))),
        OperationPhase::RolledBack => Some((false, "ScaleOutRolledBack", format!("{region} was {words}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: OperationPhase) -> StoreOperationStatus {
        let step = (phase != OperationPhase::Succeeded).then(|| "Replay".to_owned());
        StoreOperationStatus { phase, step, progress: Some("42%".into()), ..StoreOperationStatus::default() }
    }

    fn operation(status: StoreOperationStatus) -> Arc<StoreOperation> {
        let spec = crds::StoreOperationSpec {
            store_ref: crds::StoreRef { name: "shop".into() },
            kind: crds::OperationType::ScaleOut,
            region: "c".into(),
            shard: None,
            source: None,
            action: OperationAction::Run,
            attempt: 1,
        };
        Arc::new(StoreOperation { status: Some(status), ..StoreOperation::new("o", spec) })
    }

    #[test]
    fn what_is_under_way_is_said_in_a_few_words() {
        let of = |status| summary(&[operation(status)]);
        assert_eq!(of(status(OperationPhase::Running)).as_deref(), Some("scale-out c: Replay 42%"));
        assert_eq!(of(status(OperationPhase::Failed)).as_deref(), Some("scale-out c: failed"));
        assert_eq!(of(status(OperationPhase::Succeeded)), None);
        let blocked = crds::Blocked { reason: "NoSource".into(), ..crds::Blocked::default() };
        let blocked = StoreOperationStatus { blocked: Some(blocked), ..status(OperationPhase::Running) };
        assert_eq!(of(blocked).as_deref(), Some("scale-out c: waits (NoSource)"));
    }

    #[test]
    fn begin_and_end_are_events() {
        use OperationPhase::{Failed, Pending, RolledBack, Running, Succeeded};
        let reason = |from, to| event("c", &status(from), &status(to)).map(|(bad, reason, _)| (bad, reason));
        assert_eq!(reason(Pending, Running), Some((false, "ScaleOutBegan")));
        assert_eq!(reason(Running, Running), None);
        assert_eq!(reason(Running, Succeeded), Some((false, "ScaleOutSucceeded")));
        assert_eq!(reason(Running, Failed), Some((true, "ScaleOutFailed")));
        assert_eq!(reason(Failed, RolledBack), Some((false, "ScaleOutRolledBack")));
    }
}
