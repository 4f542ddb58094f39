//! The state of a store as people and programs read it (`masctl status`), wherever it runs: each platform builds the same.

use serde::{Deserialize, Serialize};

pub use crate::health::status::{HandoverStatus, LinkStatus, ShardStatus};
pub use crds::RegionPhase;

/// `masctl status -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// The store's name.
    pub store: String,
    /// Its regions.
    pub regions: Vec<RegionStatus>,
    /// Where the network is cut.
    pub cuts: Vec<CutStatus>,
    /// What a person should know.
    pub conditions: Vec<Condition>,
    /// The child processes; in a cluster the pods.
    pub processes: Vec<ProcessRow>,
    /// Runs of procedures, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationRow>,
}

/// One run of a procedure: in a cluster a `StoreOperation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationRow {
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub spec: crds::StoreOperationSpec,
    /// How far it is.
    pub status: crds::StoreOperationStatus,
}

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutStatus {
    /// One region; with `oneWay` the one whose writes do not arrive.
    pub from: String,
    /// The other.
    pub to: String,
    /// The other way is open.
    pub one_way: bool,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub phase: RegionPhase,
    /// Where clients connect, `host:port`.
    pub endpoint: String,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// Its broker.
    pub broker: BrokerStatus,
    /// Acknowledgement level in effect, if a proxy says.
    pub ack: Option<String>,
    /// The streams of its peers.
    pub links: Vec<LinkStatus>,
}

/// A region's broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Where it takes AMQP, `host:port`.
    pub amqp: String,
    /// Its management page, `host:port`.
    pub management: String,
    /// Nodes that take connections.
    pub ready: usize,
    /// All nodes.
    pub nodes: usize,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about: a shard, a component or the store.
    pub about: String,
    /// In a cluster, of a condition of the store's object: its type ...
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// ... and `True`, `False` or `Unknown`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<String>,
    /// PascalCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessPhase {
    /// It runs.
    Running,
    /// It ended and will be started again.
    Restarting,
    /// It is not to run for now.
    Held,
    /// It was stopped for good.
    Stopped,
    /// Its pod waits for a node, a volume or an image.
    Pending,
}

/// One child process, or pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// Its name, as `masctl fault` takes it.
    pub component: String,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
    /// How it is.
    pub phase: ProcessPhase,
    /// It is stopped by a person.
    pub paused: bool,
    /// It answers as it should.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_exit: Option<String>,
    /// Its port (Redis: data, broker: AMQP, proxy: admin).
    pub port: Option<u16>,
    /// Its folder; in a cluster it has none.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub folder: String,
    /// Its pod, in a cluster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
}

impl Condition {
    /// One that is no condition of a Kubernetes object.
    pub(crate) fn note(about: &str, reason: &str, message: impl Into<String>) -> Self {
        Self {
            about: about.to_owned(),
            kind: None,
            status: None,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

impl StoreStatus {
    /// Every region is active, or drained as the manifest says, or about to leave.
    pub fn is_active(&self) -> bool {
        self.regions.iter().all(|region| region.phase.is_settled() || region.phase == RegionPhase::Removing)
    }
}

/// Where clients of a region connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The region.
    pub region: String,
    /// `host:port`.
    pub address: String,
    /// User and password, where there are any and they can be read.
    pub login: Option<(String, String)>,
    /// A load balancer's: reachable from outside the cluster as well.
    pub balanced: bool,
}

impl Endpoint {
    /// As redis-cli and client libraries take it.
    pub fn uri(&self) -> String {
        match &self.login {
            Some((user, password)) => format!("redis://{user}:{password}@{}", self.address),
            None => format!("redis://{}", self.address),
        }
    }
}
