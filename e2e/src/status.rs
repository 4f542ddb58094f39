//! What `masctl status -o json` says, as far as tests look at it.

use jiff::Timestamp;
use serde::Deserialize;

/// A store.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Its name.
    pub store: String,
    /// Its regions, in the manifest's order.
    pub regions: Vec<Region>,
    /// The child processes.
    pub processes: Vec<Process>,
    /// Runs of procedures, the oldest first.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// One run of a procedure.
#[derive(Clone, Debug, Deserialize)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub spec: OperationSpec,
    /// How far it is.
    pub status: OperationStatus,
}

/// What an operation is about.
#[derive(Clone, Debug, Deserialize)]
pub struct OperationSpec {
    /// `ScaleOut`, `Rebuild`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The region.
    pub region: String,
    /// The shard, of a rebuild.
    pub shard: Option<u16>,
}

/// How far an operation is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationStatus {
    /// `Running`, `Succeeded` ...
    pub phase: String,
    /// The step that it is at.
    pub step: Option<String>,
    /// In words.
    pub message: Option<String>,
    /// What it waits for.
    pub blocked: Option<Blocked>,
    /// The steps.
    pub steps: Vec<Step>,
    /// What was measured.
    pub outcome: Option<Outcome>,
}

impl OperationStatus {
    /// The steps that are done: name, milliseconds, how often each was begun anew.
    pub fn steps_done(&self) -> Vec<(&str, i64, u32)> {
        let time = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
        let took = |step: &Step| {
            let (from, to) = (time(&step.started_at)?, time(&step.finished_at)?);
            Some(to.as_millisecond() - from.as_millisecond())
        };
        self.steps.iter().filter_map(|step| Some((step.name.as_str(), took(step)?, step.repeats))).collect()
    }
}

/// What an operation measured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Outcome {
    /// Effects lost for good.
    pub rpo_effects: Option<u64>,
    /// The time in which they were written.
    pub rpo_millis: Option<u64>,
    /// From the first failure seen until clients were served again.
    pub rto_millis: Option<u64>,
    /// From then to full repair.
    pub wrt_millis: Option<u64>,
}

/// What an operation waits for.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Blocked {
    /// PascalCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// One step of an operation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started_at: Option<String>,
    /// When it was done.
    pub finished_at: Option<String>,
    /// How often it was begun anew.
    pub repeats: u32,
}

/// A region.
#[derive(Clone, Debug, Deserialize)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// `Active`, `CatchingUp` ...
    pub phase: String,
    /// Where clients connect, `host:port`.
    pub endpoint: String,
    /// Its shards.
    pub shards: Vec<Shard>,
    /// Its broker.
    pub broker: Broker,
    /// How it receives from the others.
    pub links: Vec<Link>,
}

/// A shard of a region.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// Its number.
    pub shard: u16,
    /// Who is master, `host:port`.
    pub master: Option<String>,
    /// Of the master.
    pub epoch: u64,
    /// Of the master.
    pub incarnation: String,
    /// Replicas that are in sync, `host:port`.
    pub replicas: Vec<String>,
    /// Keys.
    pub keys: u64,
}

/// A region's broker.
#[derive(Clone, Debug, Deserialize)]
pub struct Broker {
    /// `host:port`.
    pub amqp: String,
    /// `host:port`.
    pub management: String,
}

/// What a region knows of one peer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The peer's name.
    pub peer: String,
    /// `Connected`, `Disconnected` ...
    pub state: String,
    /// How far behind.
    pub lag_millis: Option<u64>,
    /// How many effects are missing here.
    pub lag_effects: Option<u64>,
}

/// A child process.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// `beijing/proxy-0`, `beijing/shard-0/redis-1`, `beijing/broker-0`.
    pub component: String,
    /// Absent while it does not run.
    pub pid: Option<u32>,
    /// It answers as it should.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Its port (Redis: data, broker: AMQP, proxy: admin).
    pub port: Option<u16>,
}

impl Status {
    /// The region called `name`.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// Whether every region is `Active`, every shard has a master and every link flows.
    pub fn all_active(&self) -> bool {
        let active =
            |region: &Region| region.phase == "Active" && region.shards.iter().all(|s| s.master.is_some());
        !self.regions.is_empty() && self.regions.iter().all(active)
    }

    /// In one line, for errors.
    pub fn summary(&self) -> String {
        let region = |region: &Region| {
            let masters = region.shards.iter().filter(|shard| shard.master.is_some()).count();
            let links: Vec<_> =
                region.links.iter().map(|link| format!("{} {}", link.peer, link.state)).collect();
            format!(
                "{} {} ({masters}/{} masters; {})",
                region.name,
                region.phase,
                region.shards.len(),
                links.join(", ")
            )
        };
        self.regions.iter().map(region).collect::<Vec<_>>().join(" | ")
    }
}
