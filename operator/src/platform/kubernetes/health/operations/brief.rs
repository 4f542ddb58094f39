//! One look at an order that is over in a moment ([`crate::operations::orders`]): taken or refused, kept, and told. What it does is in
//! [`super::switchover`], [`super::failover`] and [`super::comparison`]. None of them keeps other operations waiting.

use crds::{
    MasterBefore, OperationAction, OperationOutcome, OperationPhase, OperationType, StoreOperation,
    StoreOperationStatus,
};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::{Obstacle, Operation, Phase};
use tokio::sync::oneshot;

use super::rebuild::is_under_way;
use super::{Held, RegionHandle, Runner, ShardHandle, of_store};
use crate::operations::orders::{self, ShardSeen};
use crate::operations::scale_out::ActionError;
use crate::operations::{names, now_ms, restore, show};
use crate::platform::kubernetes::check::Checked;
use crate::procedures::handover::Outcome;
use crate::verify::Report;

/// What was asked for, and is not answered yet. It goes with these tasks: who comes after them looks at what has become of it.
pub(super) enum Asked {
    Handover(oneshot::Receiver<Outcome>),
    Comparison(oneshot::Receiver<Report>),
}

/// An order as it stands.
pub(super) struct Order {
    pub(super) operation: Operation,
    pub(super) before: Option<MasterBefore>,
    pub(super) outcome: Option<OperationOutcome>,
}

/// The shard that an order is about.
pub(super) struct About<'a> {
    pub(super) region: &'a RegionHandle,
    pub(super) shard: &'a ShardHandle,
    pub(super) number: u16,
}

impl Order {
    fn of(status: &StoreOperationStatus) -> Self {
        Self { operation: restore(status), before: status.before.clone(), outcome: None }
    }

    pub(super) fn begin(&mut self, kind: OperationType, step: usize, words: &str) {
        orders::go_on(&mut self.operation, names(kind).len(), step, words, now_ms());
    }

    pub(super) fn wait(&mut self, obstacle: Obstacle) {
        orders::wait(&mut self.operation, obstacle, now_ms());
    }

    pub(super) fn end(&mut self, phase: Phase, words: String) {
        orders::end(&mut self.operation, phase, words, now_ms());
    }
}

impl Runner {
    /// One look at it.
    pub(super) async fn brief(
        &self,
        checked: &Checked,
        object: &StoreOperation,
        held: &mut Held,
    ) -> Result<(), ActionError> {
        let status = object.status.clone().unwrap_or_default();
        if object.spec.action == OperationAction::Rollback {
            held.asked = None;
            let mut order = Order::of(&status);
            order.end(Phase::RolledBack, "given up: what had begun ends by itself".into());
            return self.keep_order(object, held, &order).await;
        }
        if status.phase == OperationPhase::Failed && status.attempt == object.spec.attempt {
            held.asked = None;
            self.adopt(object, held).await?;
            return Ok(());
        }
        if self.adopt(object, held).await? {
            return Ok(());
        }
        // What was tried before does not count.
        let fresh = status.phase == OperationPhase::Failed;
        let order = Order::of(&if fresh { StoreOperationStatus::default() } else { status });
        match object.spec.kind {
            OperationType::Switchover => self.switchover(checked, object, held, order).await,
            OperationType::Failover => self.failover(checked, object, held, order).await,
            OperationType::Verify | OperationType::Repair => {
                self.comparison(checked, object, held, order).await
            }
            OperationType::ScaleOut | OperationType::Remove | OperationType::Rebuild => Ok(()),
        }
    }

    /// The shard that an order is about. None: these tasks are of another picture of the store, and end soon. An error says why there is no
    /// such thing.
    pub(super) fn shard_of(
        &self,
        checked: &Checked,
        object: &StoreOperation,
    ) -> Result<Option<About<'_>>, String> {
        let Some((region, number)) = self.about(checked, object)? else { return Ok(None) };
        if region.removing {
            return Err(format!("{} leaves the store: its masters stay as they are until then", region.name));
        }
        Ok(region.shards.get(usize::from(number)).map(|shard| About { region, shard, number }))
    }

    /// Why an order may not begin yet.
    pub(super) fn in_the_way_of(&self, object: &StoreOperation) -> Option<Obstacle> {
        let spec = &object.spec;
        let all = of_store(&self.shared, &self.namespace, &self.store);
        let same = |of: &&std::sync::Arc<StoreOperation>| {
            (&of.spec.region, of.spec.shard) == (&spec.region, spec.shard)
                && of.metadata.uid != object.metadata.uid
        };
        let runs = |of: &StoreOperation| {
            of.spec.kind.is_brief()
                && of.status.as_ref().is_some_and(|status| status.phase == OperationPhase::Running)
        };
        all.iter().filter(same).find_map(|other| {
            let name = other.name_any();
            if is_under_way(other) {
                let words = format!("the shard is made again from another region's copy, by {name}");
                return Some(Obstacle::new("ShardIsRebuilt", words));
            }
            runs(other).then(|| Obstacle::new("WaitsForAnother", format!("{name} has to end first")))
        })
    }

    /// The shard as it is now. None: it was not looked at yet.
    pub(super) async fn look_at_shard(&self, about: &About<'_>) -> Result<Option<ShardSeen>, ActionError> {
        let view = about.shard.view.borrow().clone();
        if view.members.is_empty() {
            return Ok(None);
        }
        let record = about.region.row.record(about.number, &view.members).await;
        let record = record.map_err(|error| ActionError::Platform(error.to_string()))?;
        let uid = |name: &String| {
            let pod = self.shared.pods.pod(&self.namespace, name)?;
            pod.metadata.uid.clone().filter(|_| pod.metadata.deletion_timestamp.is_none())
        };
        Ok(Some(ShardSeen {
            names: about.shard.names.clone(),
            pods: about.shard.names.iter().map(uid).collect(),
            members: view.members,
            master: view.master,
            epoch: record.epoch,
            holder: record.master,
        }))
    }

    /// Writes how it stands, if that is news, and tells of it.
    pub(super) async fn keep_order(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        order: &Order,
    ) -> Result<(), ActionError> {
        let shown = show(&order.operation, &names(object.spec.kind), object.spec.attempt);
        let total_millis = shown.outcome.as_ref().and_then(|outcome| outcome.total_millis);
        let measured = order.outcome.clone().map(|outcome| OperationOutcome { total_millis, ..outcome });
        let outcome = measured.or(shown.outcome.clone());
        let shown = StoreOperationStatus { before: order.before.clone(), outcome, ..shown };
        self.keep_shown(object, held, shown).await?;
        self.tell_obstacle(object, held, &order.operation).await;
        Ok(())
    }

    /// It is over, and failed.
    pub(super) async fn fail_order(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        mut order: Order,
        why: String,
    ) -> Result<(), ActionError> {
        order.end(Phase::Failed, why);
        self.keep_order(object, held, &order).await
    }
}
