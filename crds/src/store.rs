//! `MultiActiveStore` as people write it. Everything that has a default is optional here and is filled in by
//! validation, and by the API server. A field enters together with its behaviour.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MultiActiveStoreStatus, Quantity, Span};

/// A manifest in a file, as [`crate::load`] reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// `multiactive.dev/v1alpha1`.
    pub api_version: String,
    /// `MultiActiveStore`.
    pub kind: String,
    /// The store's name and labels.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: MultiActiveStoreSpec,
}

/// Name and labels, as everywhere in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The store's name: a DNS label without `--`.
    pub name: String,
    /// Where the objects live.
    pub namespace: Option<String>,
    /// Free for people's use.
    pub labels: BTreeMap<String, String>,
    /// Free for people's use.
    pub annotations: BTreeMap<String, String>,
}

/// A store that is open for reads and writes in several regions at once.
#[allow(clippy::duplicated_attributes)] // each is about another column
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multiactive.dev",
    version = "v1alpha1",
    kind = "MultiActiveStore",
    plural = "multiactivestores",
    shortname = "mas",
    category = "all",
    category = "multiactive",
    namespaced,
    status = "MultiActiveStoreStatus",
    derive = "PartialEq",
    printcolumn(name = "Regions", type_ = "string", json_path = ".status.regionsActive"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].status"
    ),
    printcolumn(
        name = "Degraded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Degraded')].status"
    ),
    printcolumn(name = "Max-Lag", type_ = "string", json_path = ".status.maxLag"),
    printcolumn(name = "Operation", type_ = "string", json_path = ".status.operation"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(name = "Ack", type_ = "string", json_path = ".spec.replication.ack", priority = 1),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards", priority = 1),
    printcolumn(name = "Release", type_ = "string", json_path = ".spec.release", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MultiActiveStoreSpec {
    /// Shards of every region, 1 to 64, fixed when the store is made. Default 1.
    pub shards: Option<u32>,
    /// The regions, 1 to 16.
    pub regions: Vec<RegionSpec>,
    /// Entry of the release catalog: images and versions. Defaulted once, then pinned.
    pub release: Option<String>,
    /// The shards' Redis servers.
    pub redis: Option<RedisSpec>,
    /// The region's RabbitMQ cluster.
    pub broker: Option<BrokerSpec>,
    /// The region's front.
    pub proxy: Option<ProxySpec>,
    /// How writes travel and when they are answered.
    pub replication: Option<ReplicationSpec>,
    /// What is expected of the machines' clocks.
    pub clock: Option<ClockSpec>,
    /// The client's credentials.
    pub auth: Option<AuthSpec>,
    /// Comparing what the regions hold, on a schedule.
    pub verification: Option<VerificationSpec>,
    /// What happens to volumes when the store is deleted. Default `Retain`.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Changes of the manifest are not acted upon; failover goes on. Default false.
    pub paused: Option<bool>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionSpec {
    /// Its name: a DNS label without `--`, unique in the store.
    pub name: String,
    /// Whether its clients are served by its own shards. Default `Active`.
    #[serde(default)]
    pub traffic: Traffic,
    /// Where its pods may run.
    pub placement: Option<Placement>,
    /// The Service that clients connect to.
    pub service: Option<ServiceSpec>,
    /// Where this region differs from the store.
    pub overrides: Option<Overrides>,
}

/// Who serves a region's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Traffic {
    /// Its own shards.
    #[default]
    Active,
    /// Another region: its proxies send all requests there, and its shards go on being replicated.
    Drained,
}

/// Where pods may run; each field is Kubernetes' own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// Affinity.
    pub affinity: Option<Affinity>,
    /// Spread over failure domains.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority of the pods.
    pub priority_class_name: Option<String>,
}

/// The Service of a region's endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Its type. Default `ClusterIP`.
    #[serde(rename = "type")]
    pub kind: ServiceKind,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// With `LoadBalancer`: which implementation.
    pub load_balancer_class: Option<String>,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceKind {
    /// Reachable inside the cluster.
    #[default]
    ClusterIP,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable through a load balancer.
    LoadBalancer,
}

/// Where a region differs from the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Overrides {
    /// Storage class of all volumes of the region.
    pub storage_class_name: Option<String>,
    /// Requests and limits of the Redis servers of the region.
    pub resources: Option<Resources>,
}

/// Requests and limits, as in a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Reserved amounts.
    pub requests: BTreeMap<String, Amount>,
    /// Upper bounds.
    pub limits: BTreeMap<String, Amount>,
}

/// An image in place of the catalog's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The image's reference.
    pub reference: String,
    /// The version of the server in it.
    pub version: String,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// Its size. Default 10Gi.
    pub size: Option<Quantity>,
    /// Its storage class.
    pub class_name: Option<String>,
}

/// The shards' Redis servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisSpec {
    /// Replicas of each master, 0 to 5. Default 1.
    pub replicas: Option<u32>,
    /// Memory for data; headroom for merging is kept on top. Default 1Gi.
    pub max_memory: Option<Quantity>,
    /// Volume of each server.
    pub storage: Option<Storage>,
    /// How the log is flushed. Default `EverySecond`.
    pub append_only: Option<AppendOnly>,
    /// Requests and limits; derived from `maxMemory` when absent.
    pub resources: Option<Resources>,
    /// An own image.
    pub image: Option<Image>,
}

/// When Redis flushes its log to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AppendOnly {
    /// Before every reply.
    Always,
    /// Once a second.
    #[default]
    EverySecond,
}

/// The region's RabbitMQ cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerSpec {
    /// Nodes: 1, 3 or 5. Default 3.
    pub replicas: Option<u32>,
    /// Volume of each node.
    pub storage: Option<Storage>,
    /// Requests and limits.
    pub resources: Option<Resources>,
    /// An own image.
    pub image: Option<Image>,
}

/// The region's front.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxySpec {
    /// Proxies in each region, 1 to 64. Default 2.
    pub replicas: Option<u32>,
    /// Requests and limits.
    pub resources: Option<Resources>,
    /// Most client connections of one proxy. Default 10000.
    pub max_connections: Option<u32>,
    /// An own image.
    pub image: Option<Image>,
}

/// How writes travel and when they are answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicationSpec {
    /// When a write is answered. Default `Queued`.
    pub ack: Option<Ack>,
    /// With `Remote`: how many other regions. Default 1.
    pub remote_acks: Option<u32>,
    /// What a `Queued` write does while the region's broker is away. Default `Degrade`.
    pub on_broker_loss: Option<OnBrokerLoss>,
    /// Bound of each shard's stream.
    pub retention: Option<Retention>,
    /// Above this lag a region counts as catching up. Default 1s.
    pub max_lag: Option<Span>,
}

/// Acknowledgement level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ack {
    /// The shard applied it.
    Local,
    /// The region's stream confirmed it.
    #[default]
    Queued,
    /// Other regions have it.
    Remote,
}

/// What a `Queued` write does while the region's broker is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBrokerLoss {
    /// Falls back to `Local`, and says so.
    #[default]
    Degrade,
    /// Is refused.
    Reject,
}

/// Bound of each shard's stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// For how long a region may be away. Default 24h.
    pub duration: Option<Span>,
    /// How large the stream may grow. Default 1Gi.
    pub bytes: Option<Quantity>,
}

/// What is expected of the machines' clocks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClockSpec {
    /// Largest difference that is not alarmed. Default 1s.
    pub max_skew: Option<Span>,
}

/// The client's credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// The Secret that holds them.
    pub secret_ref: SecretRef,
}

/// A Secret by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    pub name: String,
}

/// Comparing what the regions hold, on a schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VerificationSpec {
    /// Time between two runs, jittered by a tenth; `0s`: only when somebody asks. Default 1h.
    pub interval: Option<Span>,
    /// Percentage of each region's keys, chosen at random, whose values are compared besides: digests tell of versions alone. 0 to 100.
    /// Default 1.
    pub sample_percent: Option<u32>,
    /// What is done about differences. Default `Automatic`.
    pub repair: Option<VerificationRepair>,
}

/// What is done about differences between regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationRepair {
    /// The winner is shipped again, through the ordinary merge.
    #[default]
    Automatic,
    /// They are told.
    ReportOnly,
}

/// What happens to volumes when the store is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Retain,
    /// They go.
    Delete,
}
