//! A region joins: its operation, by what the identity record says of the region.

use crds::{OperationAction, OperationPhase, StoreOperation};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation;

use super::{Held, RegionHandle, Runner};
use crate::operations::scale_out::{self, ActionError};
use crate::operations::{now_ms, restore};
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::labels;

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
}
