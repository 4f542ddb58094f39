//! A region joins: its operation, by what the identity record says of the region.

use std::collections::HashMap;

use crds::{OperationAction, OperationPhase, StoreOperation};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::{self, Operation};
use mas_core::stamp::Incarnation;

use super::{Held, RegionHandle, Runner, WRITTEN_EVERY};
use crate::health::engine::Answer;
use crate::health::member::Process as _;
use crate::operations::scale_out::{self, ActionError, Compared, Ground, Hands};
use crate::operations::{now_ms, restore, sync_step, ticket};
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::labels;
use crate::procedures::shard::Basis;
use crate::verify;

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
    /// One look at the operation by which a region joins; whether it is under way. `first`: another one that is.
    pub(super) async fn scale_out(
        &self,
        checked: &Checked,
        object: &StoreOperation,
        held: &mut Held,
        first: Option<&str>,
    ) -> Result<bool, ActionError> {
        let status = object.status.clone().unwrap_or_default();
        match self.fate(checked, object) {
            None => {}
            Some(Fate::Gone) => {
                let mut operation = restore(&status);
                operation.moved_at = now_ms();
                operation.end(operation::Phase::RolledBack, "taken back; the others never noticed".into());
                self.keep(object, held, &operation).await?;
            }
            Some(Fate::Leaves) => self.say_leaving(object, held).await?,
            Some(Fate::Joins(region)) if object.spec.action == OperationAction::Rollback => {
                self.take_back(region).await?;
            }
            Some(Fate::Joins(region) | Fate::Joined(region)) => match first {
                Some(first) if region.joining && status.phase != OperationPhase::Failed => {
                    self.wait_for(object, held, first).await?;
                }
                Some(_) | None => return self.step(checked, region, object, held).await,
            },
        }
        Ok(false)
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

    /// From the identity record on it is no member any more; the next round deletes what was made for it.
    async fn take_back(&self, region: &RegionHandle) -> Result<(), ActionError> {
        let written = self.identity.update(|identity| identity.take_back(&region.name)).await;
        written.map_err(|error| ActionError::Platform(error.to_string()))?;
        self.want_round();
        Ok(())
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
