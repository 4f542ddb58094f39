//! What is reported: conditions with the times of their changes, and a row a region. Built by pure functions; written only when it
//! says something new.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{
    Binding, MultiActiveStore, MultiActiveStoreStatus, RegionPhase, RegionSummary, StoreRegionStatus,
    VerificationStatus,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::apply::Applied;
use super::build::client_port;
use super::check::{Checked, Refusal};
use super::client::{ClientError, Namespace};
use super::labels;

/// How a round ended.
pub(crate) enum Round {
    /// Nothing was done.
    Refused(Refusal),
    /// Something could not be read or written; it is tried again.
    Failed(String),
    /// `spec.paused`.
    Paused(Arc<Checked>),
    /// The objects are as they should be, save those that belong to somebody else.
    Applied(Arc<Checked>, Applied),
}

impl Round {
    /// The store, if it may be built.
    pub(crate) fn store(&self) -> Option<&Checked> {
        match self {
            Self::Refused(_) | Self::Failed(_) => None,
            Self::Paused(store) | Self::Applied(store, _) => Some(store),
        }
    }
}

/// How far a change has got that restarts pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rolling {
    /// Pods that run an older template than their StatefulSet has.
    pub(crate) outdated: Vec<String>,
    /// What is being done, or waited for; empty: nothing.
    pub(crate) now: String,
}

/// Where a region's clients connect.
pub(crate) fn endpoint(store: &str, region: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc:{}", labels::region_name(store, region), client_port())
}

/// The store's status after a round. `rows`: of its regions, by name.
pub(crate) fn build_store(
    store: &MultiActiveStore,
    last: Option<&MultiActiveStoreStatus>,
    round: &Round,
    rows: &BTreeMap<String, StoreRegionStatus>,
    verified: Option<&VerificationStatus>,
    rolling: &Rolling,
    now: Timestamp,
) -> MultiActiveStoreStatus {
    let last = last.cloned().unwrap_or_default();
    let generation = store.metadata.generation;
    let regions = round.store().map_or_else(
        || last.regions.clone(),
        |store| {
            // One that leaves and is in the manifest again, too late, is there once.
            let wanted = |name: &String| store.regions.iter().any(|region| region.spec.name == *name);
            let leaving = store.removing.iter().filter(|region| !wanted(&region.spec.name));
            store.regions.iter().chain(leaving).map(|region| summary(rows, store, region, &last)).collect()
        },
    );
    let active = regions.iter().filter(|region| region.phase.is_settled()).count();
    let verification = verified.cloned().or(last.verification);
    let mut wanted = conditions(rows, round, &regions, active, rolling);
    wanted.extend(verification.as_ref().map(verified_condition));
    let why = wanted.iter().find(|wanted| wanted.bad).map(|wanted| wanted.message.clone());
    let lags = rows.values().flat_map(|row| &row.links).filter_map(|link| link.lag_millis);
    MultiActiveStoreStatus {
        observed_generation: generation,
        conditions: wanted.into_iter().map(|wanted| wanted.keep(&last.conditions, generation, now)).collect(),
        regions_active: Some(format!("{active}/{}", store.spec.regions.len())),
        max_lag: lags.max().map(super::health::words),
        why,
        operation: None,
        verification,
        regions,
    }
}

/// What the last run of verification came to.
fn verified_condition(of: &VerificationStatus) -> Wanted {
    let (status, reason) = match of {
        _ if of.different_keys > of.repaired_keys => ("False", "RegionsDiffer"),
        VerificationStatus { failed: Some(_), .. } => ("Unknown", "VerificationFailed"),
        _ if of.different_keys > 0 => ("True", "Repaired"),
        _ => ("True", "NoDifferences"),
    };
    let see = if status == "False" { "; status.verification has the first of them" } else { "" };
    Wanted {
        kind: "Verified",
        status,
        reason: reason.to_owned(),
        message: format!("{}{see}", of.result),
        bad: status == "False",
    }
}

/// What is wrong with the store as a whole: a reason and a sentence.
pub(crate) fn trouble(status: &MultiActiveStoreStatus) -> Option<(String, String)> {
    let progressing = status.conditions.iter().find(|condition| condition.type_ == "Progressing")?;
    let quiet = ["Reconciled", "Paused", "Rolling"].contains(&progressing.reason.as_str());
    (!quiet).then(|| (progressing.reason.clone(), progressing.message.clone()))
}

fn summary(
    rows: &BTreeMap<String, StoreRegionStatus>,
    store: &Checked,
    region: &super::check::CheckedRegion,
    last: &MultiActiveStoreStatus,
) -> RegionSummary {
    let (of, name) = (&store.spec.name, &region.spec.name);
    let known = last.regions.iter().find(|known| known.name == *name).map(|known| known.phase);
    let known = known.filter(|_| region.is_member);
    let serves = region.is_member && !region.joining;
    // Of one that the others have forgotten nothing is looked at any more.
    let unknown = if region.removing.is_some() { RegionPhase::Removing } else { RegionPhase::default() };
    RegionSummary {
        name: name.clone(),
        // A row that could not be read just now is as it was.
        phase: rows.get(name).map(|row| row.phase).or(known).unwrap_or(unknown),
        endpoint: serves.then(|| endpoint(of, name, &store.namespace)),
        binding: serves.then(|| Binding { name: labels::app_name(of, name) }),
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
            "Degraded" | "Paused" | "RestartPending" => holds,
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

fn conditions(
    rows: &BTreeMap<String, StoreRegionStatus>,
    round: &Round,
    regions: &[RegionSummary],
    active: usize,
    rolling: &Rolling,
) -> Vec<Wanted> {
    let waiting: Vec<String> = regions
        .iter()
        .filter(|region| !region.phase.is_settled())
        .map(|region| {
            let of = round.store().and_then(|of| of.regions.iter().find(|of| of.spec.name == region.name));
            let row = rows.get(&region.name).and_then(|row| row.why.clone());
            let row = of.and_then(|of| of.waits.clone()).or(row);
            format!(
                "{} is {:?}{}",
                region.name,
                region.phase,
                row.map(|why| format!(" ({why})")).unwrap_or_default()
            )
        })
        .collect();
    let all = regions.len();
    let words = match all {
        0 => "no region has been made yet".to_owned(),
        _ if waiting.is_empty() => format!("all {all} regions are Active"),
        _ => waiting.join("; "),
    };
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
        Round::Failed(words) => vec![
            Wanted { bad: true, ..Wanted::new("Progressing", false, "ApplyFailed", words.clone()) },
            available,
        ],
        Round::Applied(_, applied) if applied.taken.is_empty() => {
            let progress = if rolling.now.is_empty() {
                Wanted::new("Progressing", active < all, "Reconciled", words.clone())
            } else {
                let message = format!("{}; pods to go: {}", rolling.now, rolling.outdated.len());
                Wanted::new("Progressing", true, "Rolling", message)
            };
            vec![progress, available]
        }
        Round::Applied(_, Applied { taken, .. }) => vec![
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
    // A region that joins, or does not yet, or leaves, is missing nowhere.
    let is_counted = |region: &RegionSummary| {
        let mut known = round.store().into_iter().flat_map(|store| &store.regions);
        let known = known.find(|known| known.spec.name == region.name);
        known.map_or(round.store().is_none(), |known| known.is_member && !known.joining)
    };
    let away = |region: &&RegionSummary| is_counted(region) && !region.phase.is_settled();
    let degraded = active > 0 && regions.iter().any(|region| away(&region));
    list.push(Wanted::new("Degraded", degraded, "Regions", words));
    if !rolling.outdated.is_empty() {
        let pods = rolling.outdated.join(", ");
        let words = format!("{pods} run an older template and are restarted one by one");
        list.push(Wanted::new("RestartPending", true, "PodsOutdated", words));
    }
    if let Some(store) = round.store().filter(|store| store.release != store.newest) {
        let words = format!("write spec.release: '{}' to change to it", store.newest);
        list.push(Wanted::new("UpdateAvailable", true, "NewerRelease", words));
    }
    list
}

/// Writes the store's status over `base`, if that is still what there is.
pub(crate) async fn update_store(
    namespace: &Namespace,
    base: &MultiActiveStore,
    status: &MultiActiveStoreStatus,
) -> Result<MultiActiveStore, ClientError> {
    let name = base.metadata.name.as_deref().unwrap_or_default();
    let patch = replacing(&json!(base.status.clone().unwrap_or_default()), &json!(status));
    namespace.patch_status(name, base.metadata.resource_version.as_deref(), &patch).await
}

/// A merge patch that also takes away what is not said any more.
pub(crate) fn replacing(last: &Value, next: &Value) -> Value {
    let mut patch = next.clone();
    for name in last.as_object().into_iter().flat_map(|last| last.keys()) {
        if next.get(name).is_none() {
            patch[name] = Value::Null;
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the API server merges (RFC 7386).
    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return target.clone_from(patch) };
        if !target.is_object() {
            *target = json!({});
        }
        for (name, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(name);
            } else {
                merge(&mut target[name], value);
            }
        }
    }

    #[test]
    fn what_was_written_says_nothing_of_what_was_before() {
        let verification = VerificationStatus {
            request: Some("now".into()),
            keys: vec![crds::DifferentKey::default()],
            failed: Some("no master".into()),
            different_keys: 1,
            ..VerificationStatus::default()
        };
        let last = MultiActiveStoreStatus {
            why: Some("keys differ".into()),
            verification: Some(verification),
            ..MultiActiveStoreStatus::default()
        };
        let next = MultiActiveStoreStatus {
            verification: Some(VerificationStatus::default()),
            ..MultiActiveStoreStatus::default()
        };
        let mut stored = json!(last);
        merge(&mut stored, &replacing(&json!(last), &json!(next)));
        assert_eq!(serde_json::from_value::<MultiActiveStoreStatus>(stored).unwrap(), next);
    }
}
