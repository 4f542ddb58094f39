//! A shard is made again from another region's copy: by itself when nothing is left of it ([`super::lost`]), or because a person says so.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    Loss, OperationAction, OperationOutcome, OperationPhase, OperationType, StoreOperation,
    StoreOperationStatus,
};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::{self, Operation};
use mas_core::stamp::RegionId;

use super::{Held, RegionHandle, Runner, WRITTEN_EVERY, lock};
use crate::health::status::evacuated_to;
use crate::operations::rebuild::{self, Member, Start, Told};
use crate::operations::scale_out::ActionError;
use crate::operations::{names, now_ms, restore, show};
use crate::platform::kubernetes::build::LOSS;
use crate::platform::kubernetes::check::Checked;
use crate::procedures::shard::Place;

/// Shards that are made again, by region.
pub(in super::super) type Rebuilding = BTreeMap<String, BTreeSet<u16>>;

/// A person has ordered it: what the operator begins by itself says what was lost.
pub(super) fn is_ordered(object: &StoreOperation) -> bool {
    !object.annotations().contains_key(LOSS)
}

/// Whether it is under way: what was lost is known then.
pub(super) fn is_under_way(object: &StoreOperation) -> bool {
    let goes_on = |status: &StoreOperationStatus| match status.phase {
        OperationPhase::Pending | OperationPhase::Running => status.loss.is_some(),
        OperationPhase::Failed => status.loss.is_some() && status.attempt != object.spec.attempt,
        OperationPhase::Succeeded | OperationPhase::RolledBack => false,
    };
    object.spec.kind == OperationType::Rebuild && object.status.as_ref().is_some_and(goes_on)
}

pub(super) fn note(rebuilding: &mut Rebuilding, object: &StoreOperation) {
    if let Some(shard) = object.spec.shard.filter(|_| is_under_way(object)) {
        rebuilding.entry(object.spec.region.clone()).or_default().insert(shard);
    }
}

impl Runner {
    /// One look at it; whether it is under way. `first`: another operation that is.
    pub(super) async fn rebuild(
        &self,
        checked: &Checked,
        object: &StoreOperation,
        held: &mut Held,
        first: Option<&str>,
    ) -> Result<bool, ActionError> {
        let status = object.status.clone().unwrap_or_default();
        if object.spec.action == OperationAction::Rollback {
            let words = "given up; another region goes on serving the shard";
            self.end(object, held, operation::Phase::RolledBack, words.into()).await?;
            return Ok(false);
        }
        if status.phase == OperationPhase::Failed && status.attempt == object.spec.attempt {
            self.adopt(object, held).await?;
            return Ok(false);
        }
        let (region, shard) = match self.about(checked, object) {
            Ok(Some(about)) => about,
            // These tasks are of another picture of the store, and end soon.
            Ok(None) => return Ok(false),
            Err(why) => {
                self.end(object, held, operation::Phase::Failed, why).await?;
                return Ok(false);
            }
        };
        let Some(loss) = &status.loss else {
            return self.begin(region, shard, object, held).await;
        };
        if self.adopt(object, held).await? {
            return Ok(true);
        }
        if let Some(first) = first {
            self.wait_for(object, held, first).await?;
            let object = held.current(object);
            let mut shown = object.status.clone().unwrap_or_default();
            self.learn(region, &object, &mut shown);
            if held.at.is_none_or(|at| at.elapsed() > WRITTEN_EVERY) {
                self.keep_shown(&object, held, shown).await?;
            }
            return Ok(false);
        }
        if let Some(why) = self.is_needless(region, shard, object, loss).await? {
            self.end(object, held, operation::Phase::Failed, why).await?;
            return Ok(false);
        }
        if is_ordered(object) && status.phase == OperationPhase::Pending {
            // The copies that are to be put away may have got another epoch since it was ordered. From now on they do not.
            if let Some(of) = region.shards.get(usize::from(shard)) {
                of.gate.send_replace(false);
            }
            let epoch = self.lost(region, shard).await?.epoch;
            if epoch != loss.epoch {
                let loss = Some(Loss { epoch, ..loss.clone() });
                self.keep_shown(object, held, StoreOperationStatus { loss, ..status }).await?;
                return Ok(true);
            }
        }
        self.step(checked, region, object, held).await
    }

    /// The region and the number of the shard; an error says why there is no such thing.
    pub(super) fn about(
        &self,
        checked: &Checked,
        object: &StoreOperation,
    ) -> Result<Option<(&RegionHandle, u16)>, String> {
        let spec = &object.spec;
        let known =
            || checked.identity.regions.iter().map(|of| of.name.as_str()).collect::<Vec<_>>().join(", ");
        for name in [Some(&spec.region), spec.source.as_ref()].into_iter().flatten() {
            if checked.identity.region(name).is_none() {
                return Err(format!("there is no region '{name}': the regions are {}", known()));
            }
        }
        let shards = checked.identity.shards;
        let shard = spec.shard.unwrap_or_default();
        if shard >= shards {
            return Err(format!("there is no shard {shard}: the store has {shards}, numbered from 0"));
        }
        let is_member =
            |of: &crate::platform::kubernetes::identity::RegionIdentity| !of.joining && !of.leaving;
        if checked.identity.founded.is_none() || !checked.identity.region(&spec.region).is_some_and(is_member)
        {
            let region = &spec.region;
            let what = if spec.kind == OperationType::Rebuild { "rebuild" } else { "hand over" };
            return Err(format!("{region} is no member of the store: there is nothing to {what}"));
        }
        let region = self.regions.iter().find(|of| of.name == spec.region && !of.joining);
        Ok(region.map(|region| (region, shard)))
    }

    /// Takes an order, or refuses it: from then on the loss is known, and the shard's controller waits.
    async fn begin(
        &self,
        region: &RegionHandle,
        shard: u16,
        object: &StoreOperation,
        held: &mut Held,
    ) -> Result<bool, ActionError> {
        let known = object.annotations().get(LOSS).and_then(|text| serde_json::from_str::<Loss>(text).ok());
        let loss = if let Some(loss) = known {
            loss
        } else {
            if let Some(why) = self.refused(region, shard, object) {
                self.end(object, held, operation::Phase::Failed, why).await?;
                return Ok(false);
            }
            self.lost(region, shard).await?
        };
        let attempt = object.spec.attempt;
        let shown = show(&Operation::default(), &names(OperationType::Rebuild), attempt);
        self.keep_shown(object, held, StoreOperationStatus { loss: Some(loss), ..shown }).await?;
        Ok(true)
    }

    /// What is known of a loss now.
    pub(super) async fn lost(&self, region: &RegionHandle, shard: u16) -> Result<Loss, ActionError> {
        let members = region.shards.get(usize::from(shard)).map(|of| of.view.borrow().members.clone());
        let record = region.row.record(shard, &members.unwrap_or_default()).await;
        let epoch = record.map_err(|error| ActionError::Platform(error.to_string()))?.epoch;
        Ok(self.watch_of(region, shard).loss(epoch))
    }

    pub(super) fn place(&self, region: &RegionHandle, shard: u16) -> Place {
        Place { store: self.store.clone(), region: region.id, shard }
    }

    /// The shard's servers, by pod.
    pub(super) fn servers(&self, region: &RegionHandle, shard: u16) -> Vec<Member> {
        let Some(of) = region.shards.get(usize::from(shard)) else { return Vec::new() };
        let seen = of.view.borrow().members.clone();
        let member = |(number, (name, seen)): (usize, (&String, _))| {
            let failing = of.process(&self.shared, &self.namespace, number).failing;
            Member { name: name.clone(), seen, start: if failing { Start::Failing } else { Start::Going } }
        };
        of.names.iter().zip(seen).enumerate().map(member).collect()
    }

    /// Why a rebuild is not to go on: no region has the shard any more, or data that was away is there again, and nothing was made anew.
    async fn is_needless(
        &self,
        region: &RegionHandle,
        shard: u16,
        object: &StoreOperation,
        loss: &Loss,
    ) -> Result<Option<String>, ActionError> {
        let row = region.row.status().await.map_err(|error| ActionError::Platform(error.to_string()))?;
        let state = row.shards.into_iter().find(|state| state.shard == shard).unwrap_or_default();
        if state.from_stream {
            let words = "no region has the shard any more: it begins with what its stream holds";
            return Ok(Some(words.to_owned()));
        }
        let members = self.servers(region, shard);
        let back = rebuild::came_back(&self.place(region, shard), &members);
        let back = back.filter(|_| state.epoch <= loss.epoch && !is_ordered(object));
        Ok(back.map(|name| {
            format!("{name} holds data of the shard again, which may be good: the shard goes on with that")
        }))
    }

    async fn end(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        phase: operation::Phase,
        words: String,
    ) -> Result<(), ActionError> {
        let mut operation = restore(&object.status.clone().unwrap_or_default());
        operation.moved_at = now_ms();
        operation.end(phase, words);
        self.keep(object, held, &operation).await
    }

    /// Adds what the other regions know of a loss, before anything is made anew.
    pub(super) fn learn(
        &self,
        region: &RegionHandle,
        object: &StoreOperation,
        status: &mut StoreOperationStatus,
    ) {
        let (Some(shard), Some(loss)) = (object.spec.shard, status.loss.as_mut()) else { return };
        if evacuated_to(shard, &Self::reports(region)).is_some() {
            rebuild::served(loss, now_ms());
        }
        if matches!(status.step.as_deref(), Some("Replay" | "Verify" | "Serve") | None) {
            return;
        }
        let others = self.regions.iter().filter(|other| other.name != region.name);
        let reports: Vec<_> = others.flat_map(Self::reports).collect();
        let links = reports.iter().flat_map(|report| &report.links);
        let links = links.filter(|link| link.peer == region.name && link.shard == Some(shard));
        let told = links.map(|link| Told { issued: &link.issued, behind_millis: link.behind_millis });
        rebuild::learn(loss, &told.collect::<Vec<_>>());
    }

    /// What the loss has cost.
    pub(super) async fn measure(
        &self,
        region: &RegionHandle,
        object: &StoreOperation,
    ) -> Result<OperationOutcome, ActionError> {
        let shard = usize::from(object.spec.shard.unwrap_or_default());
        let mut covers = Vec::new();
        for of in self.regions.iter().filter(|of| !of.joining) {
            let Some(of) = of.shards.get(shard) else { continue };
            let master = of.view.borrow().master.and_then(|master| of.members.get(master));
            if let Some(master) = master {
                covers.push(master.engine.cover().await?);
            }
        }
        let loss = object.status.as_ref().and_then(|status| status.loss.clone()).unwrap_or_default();
        Ok(rebuild::measure(&loss, RegionId(region.id), &covers, now_ms()))
    }

    /// Has controllers act again whose rebuild is over, however it ended, and lets those that copy reach what they copy.
    pub(super) async fn settle_gates(&self, checked: &Checked, now: Rebuilding) -> Result<(), ActionError> {
        let before = std::mem::replace(&mut *lock(&self.waiting), now.clone());
        for region in self.regions.iter().filter(|region| !region.joining) {
            let over = before.get(&region.name).into_iter().flatten();
            let over = over.filter(|shard| !now.get(&region.name).is_some_and(|now| now.contains(shard)));
            for shard in over.filter_map(|shard| region.shards.get(usize::from(*shard))) {
                shard.gate.send_replace(true);
            }
        }
        let known = checked.identity.regions.iter().filter(|region| !region.rebuilding.is_empty());
        let known: Rebuilding =
            known.map(|region| (region.name.clone(), region.rebuilding.clone())).collect();
        if known == now {
            return Ok(());
        }
        let mut news = false;
        let written = self.identity.update(|identity| {
            news = identity.rebuild(&now);
            news
        });
        written.await.map_err(|error| ActionError::Platform(error.to_string()))?;
        if news {
            self.want_round();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_under_way_once_the_loss_is_known_and_until_it_ends() {
        let of = |phase, loss: bool, attempt| {
            let spec = serde_json::from_value(serde_json::json!({
                "storeRef": {"name": "shop"}, "type": "Rebuild", "region": "a", "shard": 1, "attempt": attempt,
            }));
            let mut object = StoreOperation::new("o", spec.unwrap());
            let loss = loss.then(Loss::default);
            object.status =
                Some(StoreOperationStatus { phase, loss, attempt: 1, ..StoreOperationStatus::default() });
            let mut noted = Rebuilding::new();
            note(&mut noted, &object);
            noted.get("a").is_some_and(|shards| shards.contains(&1))
        };
        assert!(!of(OperationPhase::Pending, false, 1), "an order that was not taken yet");
        assert!(of(OperationPhase::Pending, true, 1) && of(OperationPhase::Running, true, 1));
        assert!(!of(OperationPhase::Failed, true, 1) && of(OperationPhase::Failed, true, 2), "tried again");
        assert!(!of(OperationPhase::Succeeded, true, 1) && !of(OperationPhase::RolledBack, true, 2));
    }
}
