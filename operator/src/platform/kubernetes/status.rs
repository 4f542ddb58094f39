//! What is reported: conditions with the times of their changes, and a row a region. Built by pure functions; written only when it
//! says something new.

use crds::{Binding, MultiActiveStoreStatus, RegionPhase, RegionSummary, StoreRegion, StoreRegionStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::build::client_port;
use super::check::{Checked, Refusal};
use super::client::{ClientError, Namespace};
use super::dereference::World;
use super::labels;

/// How a round ended.
#[derive(Debug)]
pub(crate) enum Round<'a> {
    /// Nothing was done.
    Refused(&'a Refusal),
    /// `spec.paused`.
    Paused(&'a Checked),
    /// The objects are as they should be, save those that belong to somebody else.
    Applied { store: &'a Checked, taken: &'a [String] },
}

impl Round<'_> {
    const fn store(&self) -> Option<&Checked> {
        match self {
            Self::Refused(_) => None,
            Self::Paused(store) | Self::Applied { store, .. } => Some(store),
        }
    }
}

/// The store's status after a round.
pub(crate) fn build_store(world: &World, round: &Round<'_>, now: Timestamp) -> MultiActiveStoreStatus {
    let last = world.store.status.clone().unwrap_or_default();
    let generation = world.store.metadata.generation;
    let regions = round.store().map_or_else(
        || last.regions.clone(),
        |store| store.regions.iter().map(|region| summary(world, store, region)).collect(),
    );
    let active = regions.iter().filter(|region| region.phase == RegionPhase::Active).count();
    let wanted = conditions(world, round, &regions, active);
    let why = wanted.iter().find(|wanted| wanted.bad).map(|wanted| wanted.message.clone());
    MultiActiveStoreStatus {
        observed_generation: generation,
        conditions: wanted.into_iter().map(|wanted| wanted.keep(&last.conditions, generation, now)).collect(),
        regions_active: Some(format!("{active}/{}", world.store.spec.regions.len())),
        max_lag: last.max_lag,
        why,
        regions,
    }
}

fn summary(world: &World, store: &Checked, region: &super::check::CheckedRegion) -> RegionSummary {
    let (of, name) = (&store.spec.name, &region.spec.name);
    let row = world.regions.get(name).and_then(|row| row.status.clone()).unwrap_or_default();
    let host = format!("{}.{}.svc:{}", labels::region_name(of, name), store.namespace, client_port());
    RegionSummary {
        name: name.clone(),
        phase: row.phase,
        endpoint: region.is_member.then_some(host),
        binding: region.is_member.then(|| Binding { name: labels::app_name(of, name) }),
    }
}

/// A condition as it should be.
struct Wanted {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
    bad: bool,
}

impl Wanted {
    fn new(kind: &'static str, holds: bool, reason: &str, message: String) -> Self {
        let status = if holds { "True" } else { "False" };
        let bad = match kind {
            "Available" => !holds,
            "Degraded" | "Paused" => holds,
            _ => false,
        };
        Self { kind, status, reason: reason.to_owned(), message, bad }
    }

    /// With the time since when it is so.
    fn keep(self, last: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
        let known = last.iter().find(|known| known.type_ == self.kind && known.status == self.status);
        Condition {
            type_: self.kind.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason,
            message: self.message,
            observed_generation: generation,
            last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
        }
    }
}

fn conditions(world: &World, round: &Round<'_>, regions: &[RegionSummary], active: usize) -> Vec<Wanted> {
    let waiting: Vec<String> = regions
        .iter()
        .filter(|region| region.phase != RegionPhase::Active)
        .map(|region| {
            let row = world.regions.get(&region.name).and_then(|row| row.status.as_ref()?.why.clone());
            format!(
                "{} is {:?}{}",
                region.name,
                region.phase,
                row.map(|why| format!(" ({why})")).unwrap_or_default()
            )
        })
        .collect();
    let all = regions.len();
    let words = if waiting.is_empty() { format!("all {all} regions are Active") } else { waiting.join("; ") };
    let available = if active > 0 {
        Wanted::new("Available", true, "RegionsServe", format!("{active} of {all} regions are Active"))
    } else {
        Wanted::new("Available", false, "NoActiveRegion", words.clone())
    };
    let mut list = match round {
        Round::Refused(refusal) => vec![
            Wanted {
                bad: true,
                ..Wanted::new("Progressing", false, refusal.reason, refusal.message.clone())
            },
            available,
        ],
        Round::Paused(_) => vec![
            Wanted::new("Paused", true, "SpecPaused", "spec.paused: changes of the manifest wait".into()),
            Wanted::new("Progressing", false, "Paused", "nothing is changed".into()),
            available,
        ],
        Round::Applied { taken: [], .. } => {
            vec![Wanted::new("Progressing", active < all, "Reconciled", words.clone()), available]
        }
        Round::Applied { taken, .. } => vec![
            Wanted {
                bad: true,
                ..Wanted::new(
                    "Progressing",
                    false,
                    "NameConflict",
                    format!(
                        "{} belong to somebody else and are left alone: rename the store, or remove them",
                        taken.join(", ")
                    ),
                )
            },
            available,
        ],
    };
    list.push(Wanted::new("Degraded", active > 0 && active < all, "Regions", words));
    list
}

/// The row of a region that is no member yet.
pub(crate) fn build_waiting_region(row: &StoreRegion, generation: Option<i64>) -> StoreRegionStatus {
    StoreRegionStatus {
        observed_generation: generation,
        phase: RegionPhase::Provisioning,
        why: Some("waits for scale-out, which does not exist yet".into()),
        ..row.status.clone().unwrap_or_default()
    }
}

/// Writes the store's status, if it says something new.
pub(crate) async fn update_store(
    namespace: &Namespace,
    world: &World,
    status: &MultiActiveStoreStatus,
) -> Result<bool, ClientError> {
    let name = world.store.metadata.name.as_deref().unwrap_or_default();
    let last = world.store.status.clone().unwrap_or_default();
    if *status == last {
        return Ok(false);
    }
    let _: crds::MultiActiveStore =
        namespace.patch_status(name, None, &replacing(&json!(last), &json!(status))).await?;
    Ok(true)
}

/// Writes a region's status, if it says something new.
pub(crate) async fn update_region(
    namespace: &Namespace,
    row: &StoreRegion,
    status: &StoreRegionStatus,
) -> Result<bool, ClientError> {
    let last = row.status.clone().unwrap_or_default();
    if *status == last {
        return Ok(false);
    }
    let name = row.metadata.name.as_deref().unwrap_or_default();
    let version = row.metadata.resource_version.as_deref();
    let _: StoreRegion =
        namespace.patch_status(name, version, &replacing(&json!(last), &json!(status))).await?;
    Ok(true)
}

/// A merge patch that also takes away what is not said any more.
fn replacing(last: &Value, next: &Value) -> Value {
    let mut patch = next.clone();
    for name in last.as_object().into_iter().flat_map(|last| last.keys()) {
        if next.get(name).is_none() {
            patch[name] = Value::Null;
        }
    }
    patch
}
