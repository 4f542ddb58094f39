//! A store that was checked: every default filled in, every bound kept. Only validation makes one.

use crate::{
    Ack, AppendOnly, DeletionPolicy, Image, OnBrokerLoss, Placement, Quantity, Resources, ServiceSpec, Span,
    Traffic, VerificationRepair,
};

/// A store that may be built.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Validated {
    /// The store's name.
    pub name: String,
    /// Namespace, where there are any.
    pub namespace: Option<String>,
    /// Shards of every region, 1 to 64.
    pub shards: u16,
    /// The regions, 1 to 16, with unique names.
    pub regions: Vec<Region>,
    /// Entry of the release catalog.
    pub release: Option<String>,
    /// The shards' Redis servers.
    pub redis: Redis,
    /// The region's RabbitMQ cluster.
    pub broker: Broker,
    /// The region's front.
    pub proxy: Proxy,
    /// How writes travel.
    pub replication: Replication,
    /// Largest difference of clocks that is not alarmed.
    pub max_skew: Span,
    /// Comparing what the regions hold.
    pub verification: Verification,
    /// Name of the Secret with the client's credentials.
    pub auth_secret: Option<String>,
    /// What happens to volumes when the store is deleted.
    pub deletion_policy: DeletionPolicy,
    /// Changes of the manifest are not acted upon.
    pub paused: bool,
    /// Fields that were given and mean nothing on one machine, by path.
    pub cluster_only: Vec<String>,
}

/// One region.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Who serves its clients.
    pub traffic: Traffic,
    /// Where its pods may run.
    pub placement: Placement,
    /// The Service that clients connect to.
    pub service: ServiceSpec,
    /// Storage class of all its volumes, if it differs from the store's.
    pub storage_class: Option<String>,
    /// Requests and limits of its Redis servers, if they differ from the store's.
    pub resources: Option<Resources>,
}

/// The shards' Redis servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Replicas of each master.
    pub replicas: u16,
    /// Memory for data.
    pub max_memory: Quantity,
    /// Size of each server's volume.
    pub storage: Quantity,
    /// Storage class of the volumes.
    pub storage_class: Option<String>,
    /// When the log is flushed.
    pub append_only: AppendOnly,
    /// Requests and limits, where they are not derived.
    pub resources: Option<Resources>,
    /// An image in place of the catalog's.
    pub image: Option<Image>,
}

/// The region's RabbitMQ cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Nodes: 1, 3 or 5.
    pub replicas: u16,
    /// Size of each node's volume.
    pub storage: Quantity,
    /// Storage class of the volumes.
    pub storage_class: Option<String>,
    /// Requests and limits, where they are not derived.
    pub resources: Option<Resources>,
    /// An image in place of the catalog's.
    pub image: Option<Image>,
}

/// The region's front.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Proxies in each region.
    pub replicas: u16,
    /// Most client connections of one proxy.
    pub max_connections: u32,
    /// Requests and limits, where they are not derived.
    pub resources: Option<Resources>,
    /// An image in place of the catalog's.
    pub image: Option<Image>,
}

/// How writes travel.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// When a write is answered.
    pub ack: Ack,
    /// With `Remote`: how many other regions.
    pub remote_acks: u16,
    /// What a `Queued` write does while the region's broker is away.
    pub on_broker_loss: OnBrokerLoss,
    /// For how long a region may be away.
    pub retention: Span,
    /// How large each shard's stream may grow.
    pub retention_bytes: Quantity,
    /// Above this lag a region counts as catching up.
    pub max_lag: Span,
}

/// Comparing what the regions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Time between two runs; zero: none is due by itself.
    pub interval: Span,
    /// Percentage of keys whose values are compared.
    pub sample_percent: u8,
    /// What is done about differences.
    pub repair: VerificationRepair,
}
