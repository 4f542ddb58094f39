//! The replication side of a proxy: publishes what the front hands over, reads what other regions published, keeps
//! heartbeats and recovery going, and says which level a write has reached. Thin shells around the state machines of
//! `mas_core::replication`, on one thread of its own.

mod ask;
mod broker;
mod collecting;
mod engine;
mod feed;
mod fetching;
mod handle;
mod hub;
mod metrics;
mod own_duty;
mod publisher;
mod pulse;
mod pump;
mod reading;
mod status;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mas_core::config::RegionRef;
use mas_core::replication::health::{Health, Link};
use mas_core::stamp::RegionId;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use self::ask::Ask;
pub use self::handle::Replicator;
use self::hub::{Hub, LinkRow};
use self::pulse::Pulse;
use self::pump::Pump;

/// Why the replication side cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread, or no runtime on it.
    #[error("cannot start the replication thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The thread's life: everything runs until all handles are gone.
async fn run(hub: Rc<Hub>, asks: mpsc::Receiver<Ask>) {
    let local = LocalSet::new();
    local.run_until(supervise(hub, asks)).await;
}

async fn supervise(hub: Rc<Hub>, asks: mpsc::Receiver<Ask>) {
    // First of all: a connection that was made without the password would be kept.
    read_password(&hub);
    let (outlet, outlets) = watch::channel(None);
    tokio::task::spawn_local(publisher::run(Rc::clone(&hub), outlet));
    tokio::task::spawn_local(Pump::new(Rc::clone(&hub), outlets).run());
    for shard in &hub.shards {
        tokio::task::spawn_local(Pulse::new(Rc::clone(&hub), Rc::clone(shard)).run());
        tokio::task::spawn_local(pulse::trim(Rc::clone(&hub), Rc::clone(shard)));
    }
    tokio::task::spawn_local(status::run(Rc::clone(&hub)));
    let configured = tokio::task::spawn_local(follow_config(Rc::clone(&hub)));
    ask::run(hub, asks).await;
    configured.abort();
}

fn read_password(hub: &Hub) {
    if let Err(error) = hub.engines.set_password_file(hub.config().engine_password_file.as_deref()) {
        tracing::error!(%error, "cannot read the engines' password file: the one before stays in use");
    }
}

/// Starts and stops readers as peers come and go; hands changed policies on.
async fn follow_config(hub: Rc<Hub>) {
    let mut config = hub.config.clone();
    let mut readers: HashMap<u16, Vec<JoinHandle<()>>> = HashMap::new();
    loop {
        let now = Arc::clone(&config.borrow_and_update());
        read_password(&hub);
        hub.metrics.prepare(&now);
        let members: Vec<&String> = now.shards.iter().flat_map(|s| &s.members).collect();
        hub.engines.keep(&|address| members.iter().any(|m| *m == address));
        let regions: Vec<RegionRef> =
            std::iter::once(now.region.clone()).chain(now.peers.iter().map(|p| p.region.clone())).collect();
        readers.retain(|id, tasks| {
            let stays = regions.iter().any(|r| r.id == *id);
            if !stays {
                tasks.iter().for_each(JoinHandle::abort);
            }
            stays
        });
        for shard in &hub.shards {
            let mut acks = shard.acks.borrow_mut();
            acks.set_policy(now.on_broker_loss);
            acks.keep_peers(&|region| now.peers.iter().any(|p| p.region.id == region.0));
            let mut links = shard.links.borrow_mut();
            links.retain(|id, _| regions.iter().any(|r| r.id == id.0));
            for region in &regions {
                let id = RegionId(region.id);
                let row = links.entry(id).or_insert_with(|| LinkRow {
                    name: region.name.clone(),
                    health: Health::new(id, hub.region()),
                    link: Link::default(),
                    backlog_bytes: 0,
                    shown: None,
                });
                row.name.clone_from(&region.name);
                row.link.max_lag_ms = now.max_lag_ms;
                row.health.set_gone(now.gone.iter().map(|id| RegionId(*id)));
            }
        }
        for region in regions {
            readers.entry(region.id).or_insert_with(|| {
                let (send, feed) = watch::channel(None);
                let mut tasks =
                    vec![tokio::task::spawn_local(feed::run(Rc::clone(&hub), region.clone(), send))];
                for shard in &hub.shards {
                    let (hub, shard) = (Rc::clone(&hub), Rc::clone(shard));
                    let read = reading::run(hub, shard, region.clone(), feed.clone());
                    tasks.push(tokio::task::spawn_local(read));
                }
                tasks
            });
        }
        if config.changed().await.is_err() {
            return;
        }
    }
}
