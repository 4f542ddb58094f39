//! Shards of which nothing is left: noticing them, and beginning to make them again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crds::{OperationPhase, OperationType};
use kube::core::ResourceExt as _;

use super::{RegionHandle, Runner, lock, of_store};
use crate::health::status::{build_link_of, evacuated_to};
use crate::operations::now_ms;
use crate::operations::rebuild::{Sight, Watch};
use crate::operations::scale_out::ActionError;
use crate::platform::kubernetes::apply::{Owner, complete};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::client::Namespace;
use crate::platform::kubernetes::labels;
use crate::procedures::shard::Seen;

/// All shards over time, by region and number.
pub(in super::super) type Watches = Mutex<BTreeMap<(String, u16), Watch>>;

impl Runner {
    /// Looks at all shards, and begins to make those again of which nothing is left.
    pub(super) async fn watch(&self) -> Result<(), ActionError> {
        let regions: Vec<&RegionHandle> = self.regions.iter().filter(|of| !of.joining).collect();
        for number in 0..self.shards {
            let now_ms = now_ms();
            let mut lost = Vec::new();
            for region in &regions {
                if self.see(region, number, now_ms).await.is_certain(now_ms) {
                    lost.push(*region);
                }
            }
            if lost.len() < regions.len() {
                for region in lost {
                    self.begin_rebuild(region, number).await?;
                }
            } else if lost.len() > 1 {
                // Where a region is alone, it is so anyway.
                self.begin_from_streams(&lost, number).await?;
            }
        }
        Ok(())
    }

    pub(super) fn watch_of(&self, region: &RegionHandle, shard: u16) -> Watch {
        lock(&self.watches).get(&(region.name.clone(), shard)).cloned().unwrap_or_default()
    }

    /// Takes another look at a shard.
    async fn see(&self, region: &RegionHandle, number: u16, now_ms: u64) -> Watch {
        let sight = self.sight(region, number).await;
        let mut watches = lock(&self.watches);
        let watch = watches.entry((region.name.clone(), number)).or_default();
        watch.see(sight, now_ms);
        watch.clone()
    }

    async fn sight(&self, region: &RegionHandle, number: u16) -> Sight {
        let Some(shard) = region.shards.get(usize::from(number)) else { return Sight::default() };
        let view = shard.view.borrow().clone();
        let master = view.master.and_then(|master| match view.members.get(master)? {
            Seen::Answers { identity, .. } => Some((identity.incarnation.clone(), identity.seq)),
            Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading => None,
        });
        // What cannot be read now is no evidence.
        let is_lost = master.is_none()
            && region.row.record(number, &view.members).await.is_ok_and(|of| of.is_lost(&view.members));
        let links = self
            .serving(region, None)
            .map(|other| build_link_of(&region.name, std::iter::once(number), &Self::reports(other)));
        Sight {
            master,
            lag_ms: links.filter_map(|link| link.lag_millis).min(),
            is_evacuated: evacuated_to(number, &Self::reports(region)).is_some(),
            is_lost,
        }
    }

    /// Makes the operation, if there is none. One that was given up is a person's to try again.
    async fn begin_rebuild(&self, region: &RegionHandle, number: u16) -> Result<(), ActionError> {
        let loss = self.lost(region, number).await?;
        let name = labels::rebuild_name(&self.store, &region.name, number, loss.epoch);
        let known = of_store(&self.shared, &self.namespace, &self.store).into_iter().any(|of| {
            let phase = of.status.as_ref().map_or(OperationPhase::Pending, |status| status.phase);
            let same = of.spec.kind == OperationType::Rebuild
                && (&of.spec.region, of.spec.shard) == (&region.name, Some(number));
            of.name_any() == name
                || same && matches!(phase, OperationPhase::Pending | OperationPhase::Running)
        });
        if known {
            return Ok(());
        }
        let store = Arc::clone(&self.latest.borrow().store);
        let owner = Owner { name: store.name_any(), uid: store.metadata.uid.clone().unwrap_or_default() };
        let object = build::rebuild(&self.store, (&region.name, region.id), number, &loss);
        let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
        match namespace.apply(&complete(object, &owner)).await {
            Ok(()) => {
                let region = &region.name;
                let words =
                    format!("{region}, shard {number}: no server holds anything; it is made again by {name}");
                tracing::warn!(operation = name, "a shard is rebuilt");
                self.tell(true, "AllCopiesLost", words).await;
                Ok(())
            }
            // It is there, and the watch brings it.
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(ActionError::Platform(error.to_string())),
        }
    }

    /// No region has the shard: each begins with what its own stream holds.
    async fn begin_from_streams(&self, regions: &[&RegionHandle], number: u16) -> Result<(), ActionError> {
        for region in regions {
            let written = region.row.begin_from_stream(number).await;
            written.map_err(|error| ActionError::Platform(error.to_string()))?;
        }
        Ok(())
    }
}
