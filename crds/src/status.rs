//! What the operator reports of a store: small, and reconstructible at any time. Details of a region are in its
//! [`crate::StoreRegion`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MultiActiveStoreStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available`, `Progressing`, `Degraded`, `Paused`, `RestartPending`, `UpdateAvailable`: each with a reason and a sentence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Active regions of all, `1/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions_active: Option<String>,
    /// The largest lag between any two regions, `120ms`; absent while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lag: Option<String>,
    /// What is not well, in a few words; absent when all is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The regions, in the order of the spec.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionSummary>,
}

/// One region of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegionSummary {
    /// Its name.
    pub name: String,
    /// What it does; see [`crate::RegionPhase`].
    pub phase: crate::RegionPhase,
    /// Where its clients connect, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The Secret with all that a client needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

/// A Secret that an application mounts: `host`, `port`, `username`, `password`, `uri`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Binding {
    /// Its name.
    pub name: String,
}
