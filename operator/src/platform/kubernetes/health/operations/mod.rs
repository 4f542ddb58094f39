//! Operations of a store in a cluster: each is a `StoreOperation`. Its state is written, over the version that was read, before what it
//! announces is done.

mod brief;
mod comparison;
mod failover;
mod gone;
mod ground;
mod lost;
mod people;
mod rebuild;
mod removal;
mod scale_out;
mod step;
mod switchover;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::{OperationOutcome, OperationPhase, OperationType, StoreOperation, StoreOperationStatus};
use kube::core::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use mas_core::procedures::operation::{Obstacle, Operation};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

pub(super) use lost::Watches;
pub(super) use rebuild::Rebuilding;
pub(super) use words::{phase, rebuilding, removal_phase, summary};

use super::pods::PodProcess;
use super::record::{IdentityRecord, RecordError, Row};
use super::{Latest, Shared};
use crate::health::member::Member;
use crate::health::proxy::ProxyReport;
use crate::health::shard::{ShardView, Wishes};
use crate::operations::scale_out::{ActionError, Verifying};
use crate::operations::{names, now_ms, restore, show, with_measures};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::client::{ClientError, Namespace};
use crate::platform::kubernetes::labels::Part;
use crate::platform::kubernetes::object::Kind;
use crate::platform::kubernetes::status::{Round, replacing};
use crate::verify::Asks;

/// How often an operation is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Mere progress is written no more often.
const WRITTEN_EVERY: Duration = Duration::from_secs(3);
/// How long a write may take.
const CALL: Duration = Duration::from_secs(3);
/// An obstacle that is still there after this time is an event.
const TOLD_AFTER_MS: u64 = 10_000;
/// So many are kept of those that have succeeded, of those that were taken back, and of those that failed and leave nothing to mend.
const KEPT: usize = 10;

/// A region, as the health loop looks after it.
pub(super) struct RegionHandle {
    pub(super) name: String,
    pub(super) id: u16,
    pub(super) joining: bool,
    pub(super) removing: bool,
    pub(super) row: Arc<Row>,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) proxies: watch::Receiver<Option<Vec<ProxyReport>>>,
}

/// One shard of it.
pub(super) struct ShardHandle {
    pub(super) names: Vec<String>,
    pub(super) members: Vec<Arc<Member<PodProcess>>>,
    pub(super) view: watch::Receiver<ShardView>,
    /// Where its controller is asked for another master.
    pub(super) wishes: Wishes,
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
    /// Where runs of the whole store's verification are asked for.
    pub(super) asks: Asks,
    pub(super) watches: Watches,
    /// Shards whose controllers wait for their rebuild.
    pub(super) waiting: Mutex<Rebuilding>,
    /// When these tasks began.
    pub(super) begun: Instant,
}

/// An operation as it was read or written last.
#[derive(Default)]
struct Held {
    /// Of which object: one of the same name is another.
    uid: Option<String>,
    /// Over which version it was written, and what came of it.
    written: Option<(Option<String>, StoreOperation)>,
    at: Option<Instant>,
    /// The obstacle that was told last.
    told: Option<&'static str>,
    /// What was asked for and is not answered yet.
    asked: Option<brief::Asked>,
}

impl Runner {
    /// Looks again and again, for as long as it is polled.
    pub(super) async fn run(self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        let mut said = String::new();
        let mut founded = false;
        loop {
            tick.tick().await;
            self.hold_gates().await;
            let latest = Arc::clone(&self.latest.borrow());
            founded |= latest.round.store().is_some_and(|store| store.identity.founded.is_some());
            let watched = if founded { self.watch().await } else { Ok(()) };
            // While the store is paused, or cannot be brought about, nothing moves.
            let looked = match &latest.round {
                Round::Applied(checked, _) => self.look(checked, &mut held).await,
                Round::Refused(_) | Round::Failed(_) | Round::Paused(_) => Ok(()),
            };
            let words = watched.and(looked).err().map(|error| error.to_string()).unwrap_or_default();
            // What fails again and again is logged once.
            if !words.is_empty() && words != said {
                tracing::warn!(store = self.store, error = words, "an action failed; it is tried again");
            }
            said = words;
        }
    }

    /// One look at all operations. One that moves data keeps the others waiting that do.
    async fn look(&self, checked: &Checked, held: &mut BTreeMap<String, Held>) -> Result<(), ActionError> {
        let mut operations = of_store(&self.shared, &self.namespace, &self.store);
        // What was lost is mended first: a region that joins or leaves waits for all masters of the others.
        let begun = |of: &StoreOperation| (of.creation_timestamp(), of.name_any());
        operations.sort_by_key(|of| (of.spec.kind != OperationType::Rebuild, begun(of)));
        held.retain(|name, _| operations.iter().any(|operation| operation.name_any() == *name));
        self.forget(&operations).await?;
        let mut rebuilding = Rebuilding::new();
        for seen in &operations {
            let current =
                held.get(&seen.name_any()).map_or_else(|| (**seen).clone(), |held| held.current(seen));
            rebuild::note(&mut rebuilding, &current);
        }
        self.settle_gates(checked, rebuilding).await?;
        let mut first: Option<String> = None;
        for seen in operations {
            let name = seen.name_any();
            let held = held.entry(name.clone()).or_default();
            if held.uid != seen.metadata.uid {
                *held = Held { uid: seen.metadata.uid.clone(), ..Held::default() };
            }
            let object = held.current(&seen);
            let phase = object.status.as_ref().map_or(OperationPhase::Pending, |status| status.phase);
            let over = match phase {
                OperationPhase::Succeeded => true,
                // A region that was kept may be sent off again.
                OperationPhase::RolledBack => {
                    object.spec.kind != OperationType::Remove || checked.removing.is_empty()
                }
                OperationPhase::Pending | OperationPhase::Running | OperationPhase::Failed => false,
            };
            if over {
                continue;
            }
            let goes_on = match object.spec.kind {
                OperationType::ScaleOut => self.scale_out(checked, &object, held, first.as_deref()).await?,
                OperationType::Remove => self.removal(checked, &object, held, first.as_deref()).await?,
                OperationType::Rebuild => self.rebuild(checked, &object, held, first.as_deref()).await?,
                OperationType::Switchover
                | OperationType::Failover
                | OperationType::Verify
                | OperationType::Repair => {
                    self.brief(checked, &object, held).await?;
                    false
                }
            };
            first = first.or_else(|| goes_on.then_some(name));
        }
        Ok(())
    }

    /// Of operations that ended only the last ones are kept.
    async fn forget(&self, operations: &[Arc<StoreOperation>]) -> Result<(), ActionError> {
        for phase in [OperationPhase::Succeeded, OperationPhase::RolledBack, OperationPhase::Failed] {
            let ended = |operation: &&Arc<StoreOperation>| {
                operation.status.as_ref().is_some_and(|status| status.phase == phase)
                    && (phase != OperationPhase::Failed || operation.spec.kind.is_brief())
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

    fn want_round(&self) {
        let _ = self.shared.rounds.send(ObjectRef::new(&self.store).within(&self.namespace));
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
        self.keep_measured(object, held, next, None).await
    }

    /// The same with what was measured now.
    async fn keep_measured(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        next: &Operation,
        outcome: Option<OperationOutcome>,
    ) -> Result<(), ActionError> {
        let last = object.status.clone().unwrap_or_default();
        let shown = with_measures(show(next, &names(object.spec.kind), object.spec.attempt), &last);
        let outcome = outcome.or(shown.outcome.clone());
        let shown = StoreOperationStatus { outcome, ..shown };
        self.keep_shown(object, held, shown).await
    }

    async fn keep_shown(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        shown: StoreOperationStatus,
    ) -> Result<(), ActionError> {
        let last = object.status.clone().unwrap_or_default();
        if shown == last {
            return Ok(());
        }
        held.at = Some(Instant::now());
        let over = object.metadata.resource_version.clone();
        let written = self.write(object, &last, &shown).await;
        held.written = written.as_ref().ok().map(|written| (over, written.clone()));
        written.map_err(|error| ActionError::Platform(error.to_string()))?;
        if let Some((bad, reason, words)) = words::event(&object.spec, &last, &shown) {
            tracing::info!(operation = object.name_any(), reason, words, "operation");
            self.tell(bad, &reason, words).await;
        }
        Ok(())
    }

    async fn tell(&self, bad: bool, reason: &str, words: String) {
        let store = Arc::clone(&self.latest.borrow().store);
        self.shared.publish(&store, bad, reason, words).await;
    }

    /// What goes by itself within seconds is nothing that a person should know.
    async fn tell_obstacle(&self, object: &StoreOperation, held: &mut Held, next: &Operation) {
        let blocked = next.blocked.as_ref();
        let blocked = blocked.filter(|(_, since)| now_ms().saturating_sub(*since) > TOLD_AFTER_MS);
        let reason = blocked.map(|(obstacle, _)| obstacle.reason);
        if let Some((obstacle, _)) = blocked.filter(|_| held.told != reason) {
            let about = words::about(&object.spec);
            let words = format!("{about}: {}: {}", obstacle.reason, obstacle.message);
            self.tell(true, &format!("{:?}Blocked", object.spec.kind), words).await;
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
}

/// The operations of a store.
pub(super) fn of_store(shared: &Shared, namespace: &str, store: &str) -> Vec<Arc<StoreOperation>> {
    let of = |operation: &StoreOperation| {
        operation.metadata.namespace.as_deref() == Some(namespace) && operation.spec.store_ref.name == store
    };
    shared.operations.state().into_iter().filter(|operation| of(operation)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
