//! A running local store: start it, look at it, hurt it, stop it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::binaries::{BinariesError, Overrides};
use super::component::Component;
use super::control::Fault;
use super::layout::LayoutError;
use super::ports::PortsError;
use super::record::RecordError;
use super::shared::Shared;
use super::{Layout, assemble, ports};
use crate::view::{HandoverStatus, StoreStatus};

/// How to start a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps everything.
    pub state_dir: PathBuf,
    /// The manifest's text.
    pub manifest: String,
    /// Where engine and proxy are.
    pub binaries: Overrides,
    /// Choose all ports anew.
    pub new_ports: bool,
}

/// Why a store was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The manifest is bad.
    #[error("the manifest is refused: {0}")]
    Manifest(#[from] crds::Invalid),
    /// A program is missing.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The record cannot be used, or the manifest does not fit it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A socket could not be bound, or a thread not be started.
    #[error("starting {what} failed: {source}")]
    Io {
        /// What it was.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl StartError {
    /// The configuration is at fault, and not the machine.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Manifest(_) | Self::Record(RecordError::Immutable(_)) => true,
            Self::Binaries(_) | Self::Layout(_) | Self::Record(_) | Self::Ports(_) | Self::Io { .. } => false,
        }
    }
}

/// Why something that was asked of a running store was not done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such region.
    #[error("there is no region '{name}': the regions are {known}")]
    NoRegion {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A region has no link to itself.
    #[error("'{0}' was named twice: name two regions")]
    SameRegion(String),
    /// No such shard.
    #[error("there is no shard {shard}: the store has {shards}, numbered from 0")]
    NoShard {
        /// What was asked for.
        shard: u16,
        /// How many there are.
        shards: u16,
    },
    /// Nobody can hand over.
    #[error("shard {shard} has no master at the moment: see `masctl status`")]
    NoMaster {
        /// Which one.
        shard: u16,
    },
    /// Another master was asked for and there is none.
    #[error("the master was not handed over: {0}")]
    NoHandover(String),
    /// No such component.
    #[error("there is no {0}: see `masctl status -o json` for the names under processes")]
    NoComponent(String),
    /// It took too long.
    #[error("the store is not active after {} s: {why}", .after.as_secs())]
    NotActive {
        /// How long was waited.
        after: Duration,
        /// What is missing.
        why: String,
    },
}

/// A running store. Dropping it kills its processes; [`Store::stop`] ends them in order.
pub struct Store {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    _lock: File,
}

impl Store {
    /// Starts everything, or continues what is in the state directory. Returns once all processes are being started.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let mut tasks = JoinSet::new();
        let (shared, lock) = assemble::assemble(options, &mut tasks).await?;
        Ok(Self { shared, tasks, _lock: lock })
    }

    /// The state of everything, now.
    pub fn status(&self) -> StoreStatus {
        self.shared.status()
    }

    /// The manifest that it runs.
    pub fn manifest(&self) -> crds::Validated {
        self.shared.parts().store.clone()
    }

    /// Where it keeps everything.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Where clients of `region` connect, `host:port`.
    pub fn endpoint(&self, region: &str) -> Option<String> {
        self.shared.parts().world.region(region).map(|region| super::world::address(region.client))
    }

    /// Process id of a component, while it runs.
    pub fn pid(&self, component: &Component) -> Option<u32> {
        self.shared.parts().keepers.get(component)?.status().borrow().pid
    }

    /// Waits until every region is active, or says what is missing.
    pub async fn wait_active(&self, limit: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status();
            if status.is_active() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(StoreError::NotActive { after: limit, why: what_is_missing(&status) });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the traffic between two regions, both ways.
    pub fn cut(&self, a: &str, b: &str) -> Result<(), StoreError> {
        self.shared.set_cut(a, b, false, true)
    }

    /// Lets the traffic between two regions go on.
    pub fn heal(&self, a: &str, b: &str) -> Result<(), StoreError> {
        self.shared.set_cut(a, b, false, false)
    }

    /// Makes another member master of a shard, in order; `to`: which one.
    pub async fn handover(
        &self,
        region: &str,
        shard: u16,
        to: Option<u16>,
    ) -> Result<HandoverStatus, StoreError> {
        self.shared.handover(region, shard, to).await
    }

    /// Does something bad to a component, or ends that.
    pub async fn fault(&self, component: &Component, fault: Fault) -> Result<(), StoreError> {
        self.shared.fault(component, fault).await
    }

    /// Waits until somebody asks for the store's end through the control socket.
    pub async fn end_wanted(&self) {
        self.shared.end_wanted.notified().await;
    }

    /// Ends everything in order: proxies drain, then engines write their logs and brokers stop.
    pub async fn stop(mut self) {
        self.shared.stop_all(|c| matches!(c, Component::Proxy { .. })).await;
        // Nobody must be promoted any more, and nothing is left to relay.
        self.tasks.shutdown().await;
        self.shared.stop_all(|c| matches!(c, Component::Redis { .. } | Component::Broker { .. })).await;
        self.shared.stop_all(|c| matches!(c, Component::Epmd)).await;
        let _ = std::fs::remove_file(self.shared.layout.socket());
        let _ = std::fs::remove_file(self.shared.layout.roster());
    }
}

/// In words, why a store is not active yet.
pub(super) fn what_is_missing(status: &StoreStatus) -> String {
    let mut parts: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| format!("{}: {}", condition.about, condition.message))
        .collect();
    let waiting: Vec<_> =
        status.processes.iter().filter(|row| !row.ready).map(|row| row.component.as_str()).collect();
    if !waiting.is_empty() {
        parts.push(format!("not ready: {}", waiting.join(", ")));
    }
    for region in status.regions.iter().filter(|region| !region.phase.is_settled()) {
        parts.push(format!("{} is {:?}", region.name, region.phase));
        parts.extend(region.links.iter().map(|link| {
            let lag = link.lag_millis.map_or_else(|| "unknown".into(), |ms| format!("{ms} ms"));
            format!("{} reads {}: {}, lag {lag}", region.name, link.peer, link.state)
        }));
    }
    parts.join("; ")
}

/// Deletes a stopped store's data, and gives its ports back. Refuses a folder that is none.
pub fn delete_data(layout: &Layout) -> Result<(), LayoutError> {
    if !layout.record().exists() {
        return Err(LayoutError::NoStore(layout.root().to_owned()));
    }
    let lock = layout.lock()?;
    super::stale::sweep(layout);
    std::fs::remove_dir_all(layout.root())
        .map_err(|e| super::layout::io_error("deleting", layout.root(), e))?;
    drop(lock);
    ports::release(layout)
}
