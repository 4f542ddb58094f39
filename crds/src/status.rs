//! What the operator reports of a store: small, and reconstructible at any time. Details of a region are in its
//! [`crate::StoreRegion`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MultiActiveStoreStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available`, `Progressing`, `Degraded`, `Paused`, `RestartPending`, `UpdateAvailable`, `Verified`: each with a reason and a sentence.
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
    /// What is under way, in a few words, `scale-out chengdu: SyncReplica 42%`; the `StoreOperation` has the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The last run of verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
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
    /// Where its clients connect, `host:port`; absent while it joins.
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

/// A run of verification: whether all regions hold the same. All of it is written each time: a merge patch leaves what is not said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VerificationStatus {
    /// The last request (annotation `multiactive.dev/verify`) that a run has answered.
    pub request: Option<String>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// How long it took, milliseconds.
    pub duration_millis: u64,
    /// Whether differences were to be repaired.
    pub repair: bool,
    /// Keys that the regions have.
    pub keys_compared: u64,
    /// Keys of the random sample.
    pub keys_sampled: u64,
    /// Keys that differed.
    pub different_keys: u64,
    /// Of these, keys that are equal now.
    pub repaired_keys: u64,
    /// What could not be decided: it was written to all the time.
    pub undecided: u64,
    /// The first ten of the keys that differed.
    pub keys: Vec<DifferentKey>,
    /// In a sentence.
    pub result: String,
    /// Why it ended early.
    pub failed: Option<String>,
}

/// A key that regions held differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DifferentKey {
    /// Its name.
    pub key: String,
    /// Its shard.
    pub shard: u16,
    /// What differed, in words.
    pub what: String,
    /// `Found`, `Repaired` or `NotRepaired`.
    pub outcome: String,
    /// Why it is not repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
