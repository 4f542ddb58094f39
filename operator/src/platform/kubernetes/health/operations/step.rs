//! One look at an operation that copies: a region that joins, or a shard that is made again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crds::{OperationOutcome, OperationType, StoreOperation, StoreOperationStatus};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::{Operation, Phase};
use mas_core::stamp::Incarnation;

use super::{Held, RegionHandle, Runner, WRITTEN_EVERY};
use crate::health::engine::Answer;
use crate::health::member::Process as _;
use crate::operations::scale_out::{self, ActionError, Compared, Ground, Hands};
use crate::operations::{names, now_ms, restore, show, steps, sync_step_of, ticket, with_measures};
use crate::platform::kubernetes::check::Checked;
use crate::procedures::shard::Basis;
use crate::verify;

impl Runner {
    /// Looks, keeps what follows, and does it; whether it is under way.
    pub(super) async fn step(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        object: &StoreOperation,
        held: &mut Held,
    ) -> Result<bool, ActionError> {
        let kind = object.spec.kind;
        let status = object.status.clone().unwrap_or_default();
        let attempt = object.spec.attempt;
        let mut operation = restore(&status);
        if operation.phase == Phase::Failed && status.attempt != attempt {
            operation.retry();
        }
        if operation.phase.is_final() {
            return Ok(false);
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let ticket = ticket(&uid, attempt, &operation, sync_step_of(kind));
        let ground = self.ground(checked, region, object, ticket).await?;
        let (next, actions) = scale_out::step_of(steps(kind), &ground, &operation, ticket, now_ms()).await;
        open_gates(&ground, region, ticket, status.loss.as_ref().map_or(0, |loss| loss.epoch)).await;
        let reason = |of: &Operation| of.blocked.as_ref().map(|blocked| blocked.0.reason);
        let moved =
            (operation.phase, operation.step, reason(&operation)) != (next.phase, next.step, reason(&next));
        let due = held.at.is_none_or(|at| at.elapsed() > WRITTEN_EVERY);
        if moved || !actions.is_empty() || due {
            let mut shown = with_measures(show(&next, &names(kind), attempt), &status);
            self.learn(region, object, &mut shown);
            self.keep_shown(object, held, shown).await?;
        }
        let name = object.name_any();
        if moved {
            let step = names(kind).get(next.step).copied();
            tracing::info!(operation = name, phase = ?next.phase, step, why = next.message, "operation");
        }
        self.tell_obstacle(object, held, &next).await;
        let hands = ClusterHands { runner: self, region, object, ticket, measured: Mutex::default() };
        let mut outcome = Ok(());
        for action in &actions {
            tracing::info!(operation = name, ?action, "acting");
            if let Err(error) = scale_out::act(&ground, &hands, ticket, action).await {
                outcome = Err(error);
            }
        }
        let measured = hands.measured.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(measured) = measured {
            let current = held.current(object);
            let last = current.status.clone().unwrap_or_default();
            let status = StoreOperationStatus { outcome: Some(measured), ..last };
            self.keep_shown(&current, held, status).await?;
        }
        outcome.map(|()| !next.phase.is_final())
    }
}

/// A shard's controller acts from the moment that an engine has the region's identity, by this attempt, and above the epoch of what was
/// lost.
async fn open_gates(ground: &Ground, region: &RegionHandle, ticket: u64, lost: u64) {
    for of in &ground.shards {
        let Some(shard) = region.shards.get(usize::from(of.number)) else { continue };
        // One that does not answer leaves it as it was.
        let Ok(Answer::Identity { identity, .. }) = of.first.engine().ask().await else { continue };
        let of_this_attempt = identity.joining.as_ref().is_none_or(|joining| joining.ticket == ticket);
        let own = identity.region == region.id && of_this_attempt && identity.epoch > lost;
        shard.gate.send_if_modified(|open| std::mem::replace(open, own) != own);
    }
}

struct ClusterHands<'a> {
    runner: &'a Runner,
    region: &'a RegionHandle,
    object: &'a StoreOperation,
    ticket: u64,
    /// What a rebuild has cost, to be kept.
    measured: Mutex<Option<OperationOutcome>>,
}

impl Hands for ClusterHands<'_> {
    async fn set_aside(&self, shard: u16, member: usize) -> Result<(), ActionError> {
        self.runner.discard(self.region, shard, member, self.object).await
    }

    async fn issue(
        &self,
        shard: usize,
        epoch: u64,
        incarnation: Incarnation,
        seq: u64,
    ) -> Result<(), ActionError> {
        let basis = Basis { incarnation: incarnation.to_string(), seq };
        let shard = u16::try_from(shard).unwrap_or_default();
        let issued = self.region.row.issue(shard, epoch, 0, &basis, true).await;
        issued.map_err(|error| ActionError::Platform(error.to_string()))
    }

    async fn verify(&self) -> Result<(), ActionError> {
        let runner = self.runner;
        let serving = || runner.serving(self.region, self.object.spec.shard);
        let regions = || serving().chain(std::iter::once(self.region));
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
            only: self.object.spec.shard,
            password: runner.password.clone(),
            masters,
        };
        tokio::spawn(runner.verifying.clone().compare(self.ticket, compared));
        Ok(())
    }

    async fn finish(&self) -> Result<(), ActionError> {
        let runner = self.runner;
        if self.object.spec.kind == OperationType::Rebuild {
            let measured = runner.measure(self.region, self.object).await?;
            *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
            return Ok(());
        }
        let region = &self.region.name;
        let written = runner.identity.update(|identity| identity.joined(region)).await;
        written.map_err(|error| ActionError::Platform(error.to_string()))?;
        // The next round knows it, and with it everybody.
        runner.want_round();
        Ok(())
    }
}
