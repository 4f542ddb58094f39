//! Verification of a local store: the supervisor runs it, and keeps the last report in the state directory.

use std::sync::Arc;

use jiff::Timestamp;

use super::layout::{Layout, write_private};
use super::shared::Shared;
use super::store::what_is_missing;
use super::world::address;
use crate::verify::{Last, Place, Region, Report, Service};
use crate::view::Condition;

/// The store as verification sees it.
pub(super) struct Verified {
    pub(super) shared: Arc<Shared>,
}

impl Place for Verified {
    fn store(&self) -> String {
        self.shared.parts().store.name.clone()
    }

    fn regions(&self) -> Vec<Region> {
        let region = |of: &super::world::RegionPlan| Region { name: of.name.clone(), id: of.id };
        // Who joins is compared by its operation.
        self.shared.parts().world.regions.iter().filter(|of| !of.joining).map(region).collect()
    }

    fn shards(&self) -> u16 {
        self.shared.parts().store.shards
    }

    fn master(&self, region: &str, shard: u16) -> Option<String> {
        let parts = self.shared.parts();
        let master = parts.shards.get(&(region.to_owned(), shard))?.borrow().master?;
        let nodes = parts.world.region(region)?.shards.get(usize::from(shard))?;
        Some(address(nodes.get(master)?.port))
    }

    fn password(&self) -> String {
        super::secrets::ensure(&self.shared.layout, "engine").map(|secret| secret.value).unwrap_or_default()
    }
}

impl Service for Verified {
    fn settings(&self) -> crds::Verification {
        self.shared.parts().store.verification
    }

    fn obstacle(&self) -> Option<String> {
        let status = self.shared.status();
        (!status.is_active())
            .then(|| format!("regions are compared while all are Active: {}", what_is_missing(&status)))
    }

    async fn done(&self, report: &Report) {
        let written = serde_json::to_vec_pretty(report).map_err(|error| error.to_string()).and_then(|text| {
            write_private(&self.shared.layout.verification(), &text, false).map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            tracing::warn!(error, "the report of a verification was not written");
        }
        *self.shared.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(condition(&self.shared.layout, report));
    }
}

/// The last report of an earlier supervisor, if there is one.
pub(super) fn last(layout: &Layout) -> Option<Report> {
    serde_json::from_slice(&std::fs::read(layout.verification()).ok()?).ok()
}

/// When that was.
pub(super) fn when(report: &Report) -> Option<Last> {
    let ended = report.finished_at.parse::<Timestamp>().ok()?;
    Some(Last { ended_ms: u64::try_from(ended.as_millisecond()).ok()?, whole: report.failed.is_none() })
}

pub(super) fn condition(layout: &Layout, report: &Report) -> Condition {
    let (status, reason) = report.verdict();
    let place =
        if report.is_well() { String::new() } else { format!("; see {}", layout.verification().display()) };
    Condition {
        about: report.store.clone(),
        kind: Some("Verified".into()),
        status: Some(status.into()),
        reason: reason.into(),
        message: format!("{}{place}", report.words()),
    }
}
