//! Operations of a store in a cluster: each is a `StoreOperation`. Its state is written, over the version that was read, before what it
//! announces is done.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{OperationPhase, RegionPhase, StoreOperation, StoreOperationStatus};
use kube::runtime::reflector::ObjectRef;
use mas_core::procedures::operation::Operation;
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
use crate::platform::kubernetes::status::replacing;
use crate::procedures::shard::Basis;
use crate::verify;

/// How often an operation is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Mere progress is written no more often.
const WRITTEN_EVERY: Duration = Duration::from_secs(3);
/// How long a write may take.
const CALL: Duration = Duration::from_secs(3);

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
            let Some(checked) = latest.round.store() else { continue };
            // One after the other: each moves data.
            let Some(region) = self.regions.iter().find(|region| region.joining) else { return };
            let name = labels::operation_name(&self.store, &region.name, region.id);
            let held = held.entry(name.clone()).or_default();
            let Some(object) = self.current(&name, held) else { continue };
            let words = match self.step(checked, region, &name, object, held).await {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            // What fails again and again is logged once.
            if !words.is_empty() && words != said {
                tracing::warn!(operation = name, error = words, "an action failed; it is tried again");
            }
            said = words;
        }
    }

    /// The operation: the watch may not have brought our own last write yet.
    fn current(&self, name: &str, held: &Held) -> Option<StoreOperation> {
        let seen = self.shared.operations.get(&ObjectRef::new(name).within(&self.namespace))?;
        match &held.written {
            Some((over, written)) if *over == seen.metadata.resource_version => Some(written.clone()),
            Some(_) | None => Some((*seen).clone()),
        }
    }

    async fn step(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        name: &str,
        object: StoreOperation,
        held: &mut Held,
    ) -> Result<(), ActionError> {
        let status = object.status.clone().unwrap_or_default();
        let attempt = object.spec.attempt;
        let mut operation = restore(&status);
        if status.attempt != attempt {
            operation.retry();
        }
        if operation.phase.is_final() {
            return Ok(());
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let ticket = ticket(&uid, attempt, &operation, sync_step());
        let ground = self.ground(checked, region, &object, ticket);
        let (next, actions) = scale_out::step(&ground, &operation, ticket, now_ms()).await;
        open_gates(&ground, region).await;
        let shown = show(&next, &scale_out::names(), attempt);
        let reason = |of: &Operation| of.blocked.as_ref().map(|blocked| blocked.0.reason);
        let moved =
            (operation.phase, operation.step, reason(&operation)) != (next.phase, next.step, reason(&next));
        let due = held.at.is_none_or(|at| at.elapsed() > WRITTEN_EVERY);
        if shown != status && (moved || !actions.is_empty() || due) {
            held.at = Some(Instant::now());
            let over = object.metadata.resource_version.clone();
            let written = self.write(name, &object, &status, &shown).await;
            held.written = written.as_ref().ok().map(|written| (over, written.clone()));
            written.map_err(|error| ActionError::Platform(error.to_string()))?;
        }
        if moved {
            tracing::info!(operation = name, phase = ?next.phase, step = shown.step, why = next.message, "operation");
        }
        let hands = ClusterHands { runner: self, region, ticket };
        let mut outcome = Ok(());
        for action in &actions {
            tracing::info!(operation = name, ?action, "acting");
            if let Err(error) = scale_out::act(&ground, &hands, ticket, action).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn write(
        &self,
        name: &str,
        object: &StoreOperation,
        last: &StoreOperationStatus,
        next: &StoreOperationStatus,
    ) -> Result<StoreOperation, RecordError> {
        let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
        let patch = replacing(&json!(last), &json!(next));
        let version = object.metadata.resource_version.as_deref();
        let call = namespace.patch_status::<StoreOperation>(name, version, &patch);
        let written: Result<StoreOperation, ClientError> =
            timeout(CALL, call).await.map_err(|_| RecordError::Late)?;
        Ok(written?)
    }

    fn ground(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        object: &StoreOperation,
        ticket: u64,
    ) -> Ground {
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
        let epochs = checked.identity.region(&region.name).map(|of| of.epochs.clone()).unwrap_or_default();
        let mut shards: Vec<ShardGround> = shards.collect();
        for (shard, epoch) in shards.iter_mut().zip(epochs) {
            shard.epoch = epoch;
        }
        Ground {
            store: self.store.clone(),
            region: RegionId(region.id),
            membership: checked.identity.membership,
            missing: self.missing(region),
            members: members.collect(),
            shards,
            slots: checked.identity.slots.clone(),
            wanted_source: object.spec.source.as_deref().and_then(id),
            verification: self.verifying.of(ticket),
            joined: false,
        }
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

impl ShardHandle {
    fn process(&self, shared: &Shared, namespace: &str, number: usize) -> PodProcess {
        let name = self.names.get(number).map(String::as_str).unwrap_or_default();
        shared.pods.process(namespace, name, Part::Redis, build::redis_port())
    }
}

/// A shard's controller acts from the moment that an engine has the region's identity.
async fn open_gates(ground: &Ground, region: &RegionHandle) {
    for (shard, of) in region.shards.iter().zip(&ground.shards) {
        // One that does not answer leaves it as it was.
        let Ok(Answer::Identity { identity, .. }) = of.first.engine().ask().await else { continue };
        let own = identity.region == region.id;
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
        let store = ObjectRef::new(&runner.store).within(&runner.namespace);
        let _ = runner.shared.rounds.send(store);
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
