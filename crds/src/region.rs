//! `StoreRegion`: one row a region, written by the operator alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One region of a store, as the operator sees it. Written by the operator alone; people read it.
#[allow(clippy::duplicated_attributes)] // each is about another column
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multiactive.dev",
    version = "v1alpha1",
    kind = "StoreRegion",
    plural = "storeregions",
    shortname = "masr",
    category = "multiactive",
    namespaced,
    status = "StoreRegionStatus",
    derive = "PartialEq",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Shards", type_ = "string", json_path = ".status.shardsServing"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag"),
    printcolumn(name = "Backlog", type_ = "string", json_path = ".status.backlog"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StoreRegionSpec {
    /// The store that it is of.
    pub store_ref: StoreRef,
    /// Its name in the store.
    pub region: String,
    /// Its id: assigned once, never used again.
    pub id: u16,
}

/// A store by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StoreRef {
    /// Its name.
    pub name: String,
}

/// What a region does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RegionPhase {
    /// Its parts are being made, or it waits to join.
    #[default]
    Provisioning,
    /// It joins, and copies another region.
    Syncing,
    /// It joins, and reads what was published meanwhile.
    Replaying,
    /// It joins, and is compared with the others.
    Verifying,
    /// Serves, within the allowed lag of all others.
    Active,
    /// Serves, but is behind.
    CatchingUp,
    /// A shard has no serving master here: another region serves it meanwhile.
    Evacuated,
    /// Its clients are being handed to another region.
    Draining,
    /// Another region serves its clients, as the manifest says.
    Drained,
    /// It leaves the store.
    Removing,
    /// Effects are gone from a stream before they were read: it needs a rebuild.
    Lapsed,
    /// Nothing of it answers. Nothing is done about it: unreachable is not gone.
    Unknown,
}

impl RegionPhase {
    /// Nothing is wrong with it, and nothing under way: it does what the manifest says.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Active | Self::Drained)
    }
}

/// State of a region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreRegionStatus {
    /// The generation of the store's spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What it does.
    pub phase: RegionPhase,
    /// What is not well, in a sentence; absent when all is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Where its clients connect, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Shards with a serving master of all, `2/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards_serving: Option<String>,
    /// The largest lag behind any other region, rounded up: `100ms`, `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// Bytes of other regions' streams that wait to be read, `12Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<String>,
    /// The acknowledgement level in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<String>,
    /// Ready proxies of all, `2/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<String>,
    /// Ready broker nodes of all, `3/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers: Option<String>,
    /// The shards, by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardState>,
    /// The streams that it reads, by peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkState>,
    /// `Reachable`, `Serving`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One shard of a region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ShardState {
    /// Its number.
    pub shard: u16,
    /// The highest epoch issued. Raised here, by compare-and-swap on the object's resourceVersion, before it is used.
    pub epoch: u64,
    /// Ordinal of the member that it was issued to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<u16>,
    /// What that member held when it was promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// A member has served it, or was given another region's copy: from then on it is lost when no member holds anything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
    /// No region has a copy of it any more: it begins with what its own stream holds, under the next epoch.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_stream: bool,
    /// The master's pod, while it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_pod: Option<String>,
    /// Its incarnation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Replicas that follow it.
    pub replicas_in_sync: u16,
    /// What is waited for; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A point in an incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Basis {
    /// The incarnation, 16 hex digits.
    pub incarnation: String,
    /// The last number held.
    pub seq: u64,
}

/// The way from one peer to this region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkState {
    /// The region that is read from.
    pub peer: String,
    /// `Connected`, `CatchingUp`, `Disconnected`, `Silent`, `Held`, `ClockSkew`, `Missing`, `Lapsed`, `Unknown`.
    pub state: String,
    /// How old this region's state is against the peer's, in milliseconds, rounded up to 100, 250, 500, 1000 ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_millis: Option<u64>,
    /// Effects that are not here yet, rounded up to 10, 100, 1000 ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_effects: Option<u64>,
    /// Bytes that were read and wait, rounded up to 10Mi, 100Mi ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog_bytes: Option<u64>,
    /// Since when it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}
