//! The proxy's configuration file: types only, shared by whoever writes it (operator, masctl) and the proxy.
//! Which engine is master is never part of it; proxies ask the members.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// When a write is answered. See docs/concepts.md.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckLevel {
    /// The shard applied it.
    Local,
    /// The region's stream confirmed the batch.
    #[default]
    Queued,
    /// `remoteAcks` other regions' durable cover includes it.
    Remote,
}

/// What a `Queued` write does while the region's broker is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnBrokerLoss {
    /// Fall back to `Local`, and say so.
    #[default]
    Degrade,
    /// Answer `-QUEUEUNAVAILABLE`.
    Reject,
}

/// Everything that one proxy process needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    /// Raised with every change; reported at /readyz and in `INFO multiactive`.
    pub generation: u64,
    /// The store's name.
    pub store: String,
    /// This proxy's name, unique in its region.
    pub proxy: String,
    /// The region that this proxy belongs to.
    pub region: RegionRef,
    /// Client port, `host:port`. Bound with `SO_REUSEPORT`: the proxies of a region share it on one host.
    pub listen: String,
    /// Admin port (`/healthz`, `/readyz`, `/metrics`), `host:port`.
    pub admin: String,
    /// The region's shards, in order of number.
    pub shards: Vec<ShardConfig>,
    /// The region's own brokers.
    pub broker: BrokerConfig,
    /// The other regions.
    pub peers: Vec<PeerConfig>,
    /// Orders the lists of regions: raised whenever one joins or leaves.
    #[serde(default)]
    pub membership: u64,
    /// Default acknowledgement level.
    pub ack: AckLevel,
    /// With `Remote`: how many other regions.
    pub remote_acks: u16,
    /// See [`OnBrokerLoss`].
    pub on_broker_loss: OnBrokerLoss,
    /// Bounds of each shard's stream.
    pub retention: Retention,
    /// Above this lag a region counts as catching up, in milliseconds.
    pub max_lag_ms: u64,
    /// How long a shard is without a serving master before its requests go to a peer region, in milliseconds. A failover
    /// should be over by then, and no client have been told that there is no master.
    #[serde(default = "evacuate_after_ms")]
    pub evacuate_after_ms: u64,
    /// Requests go to a peer region though the shards here could serve them: the region is drained, or leaves the store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// Ids of peers that are gone for good: what others have of them, they tell each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<u16>,
    /// File with the password of the engines' `default` user; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_password_file: Option<PathBuf>,
    /// Client credentials; absent: no authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// Most client connections at a time.
    pub max_connections: usize,
    /// Worker threads; 0: one a core.
    #[serde(default)]
    pub workers: usize,
}

/// Where nothing else is written.
pub fn evacuate_after_ms() -> u64 {
    4000
}

/// A region by name and id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionRef {
    /// Its name in the manifest.
    pub name: String,
    /// Its id, assigned once.
    pub id: u16,
}

/// One shard of the region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardConfig {
    /// 0-based number.
    pub shard: u16,
    /// All engines that may be its master, `host:port`.
    pub members: Vec<String>,
    /// Inclusive slot ranges.
    pub slots: Vec<(u16, u16)>,
    /// The master fsyncs every write (`appendOnly: Always`): its own cover is durable.
    #[serde(default)]
    pub fsync_always: bool,
}

/// A RabbitMQ cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BrokerConfig {
    /// `host:port` of each node.
    pub nodes: Vec<String>,
    /// Virtual host.
    pub vhost: String,
    /// User name.
    pub username: String,
    /// File with the password.
    pub password_file: PathBuf,
}

/// Another region, as seen from this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerConfig {
    /// The region.
    pub region: RegionRef,
    /// Its brokers, by the addresses that reach them from here.
    pub broker: BrokerConfig,
    /// Where its proxies take clients, `host:port`, as reached from here; absent: nothing is forwarded there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// Bounds of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// Oldest record that peers may rely on, in seconds; the stream's `max-age` is twice that.
    pub seconds: u64,
    /// Size of the stream in bytes.
    pub bytes: u64,
}

/// Client credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientAuth {
    /// User name (`default` when clients send only a password).
    pub username: String,
    /// File with the password.
    pub password_file: PathBuf,
}
