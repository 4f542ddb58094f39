//! What the front asks of the replication side: ship effects, say which level holds, tokens and waits.
//!
//! The front never blocks on it: [`Replication::ship`] takes a batch and returns, acknowledgements come back
//! through each worker's event queue, and the rare questions are futures. The real implementation is
//! `crate::replication`; tests of the front bring a small one of their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mas_core::config::{AckLevel, ProxyConfig};
use mas_core::cover::Cover;
use mas_core::replication::token::ShardNeed;
use mas_core::stamp::{Hlc, Origin, ShardId};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::routing::Masters;
use crate::link::{AckEvent, Shipment};

/// An answer that takes a while. It may be awaited on another thread than the one that asked.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// Why the replication side says no: the whole error line for the client, without the leading `-`,
/// for example `ERR token names region 7, which this store does not have`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What one connection has written to one shard in one incarnation, of this region or of one that it was forwarded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The shard.
    pub shard: ShardId,
    /// Who numbered the writes.
    pub origin: Origin,
    /// The highest number that this connection was told.
    pub seq: u64,
    /// The highest clock that this connection was told.
    pub hlc: Hlc,
    /// The highest number that was answered at `Local` only (also after degrading); 0: none.
    pub local_only: u64,
}

/// A worker's event queue, seen from the sending side. Unbounded, because there is at most one event for each
/// write that waits, and the sessions bound those.
pub type AckSender = mpsc::UnboundedSender<Vec<AckEvent>>;

/// The replication side of a proxy.
pub trait Replication: Send + Sync + 'static {
    /// Takes the effects of one batch of replies, in the order in which the shards numbered them, and never
    /// blocks. For each shipment with a wait, exactly one [`AckEvent`] goes to the worker named there.
    fn ship(&self, shipments: Vec<Shipment>);

    /// The level that a write at `asked` would be answered at now (`Local` while `Queued` is degraded).
    fn effective(&self, asked: AckLevel) -> AckLevel;

    /// A token of what a connection has written and seen, for `MAS.TOKEN`. `elsewhere`: shards whose requests another
    /// region serves now, and what that region has of them.
    fn token(&self, writes: Vec<Written>, elsewhere: Vec<ShardNeed>) -> Answer<String>;

    /// A token of all that the master of one shard has, for a proxy of another region that forwards requests here.
    fn token_of(&self, shard: ShardId) -> Answer<String>;

    /// What the shard's master was last known to have, for when there is none any more.
    fn last_known(&self, shard: ShardId) -> Answer<Cover>;

    /// Waits until this region covers the token; `false` when the time is over.
    fn await_token(&self, token: Vec<u8>, timeout: Duration) -> Answer<bool>;

    /// Waits until `regions` other regions cover the writes; the number that do at the end, also after a timeout.
    fn wait_regions(&self, writes: Vec<Written>, regions: u16, timeout: Duration) -> Answer<u16>;

    /// The links, for `/status` and `INFO multiactive`.
    fn links(&self) -> Vec<LinkStatus>;

    /// Lines `name:value` for `INFO multiactive`, beyond those of the links.
    fn info(&self) -> Vec<(String, String)>;

    /// Adds its metrics.
    fn register(&self, registry: &mut Registry);

    /// Called once, after the last write was answered: publish what is under way, at most until `timeout`.
    fn drain(&self, timeout: Duration) -> Answer<()>;
}

/// One peer's stream of one shard, as this proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// The peer region's name.
    pub peer: String,
    /// The shard.
    pub shard: u16,
    /// `Connected`, `CatchingUp`, `Disconnected`, `Lapsed`, `ClockSkew` …
    pub state: String,
    /// How far behind, in milliseconds.
    pub lag_millis: u64,
    /// How far behind, in effects.
    pub lag_effects: u64,
    /// How far behind, in bytes, as far as known.
    pub backlog_bytes: u64,
    /// Since when the state holds, unix milliseconds.
    pub since: u64,
    /// What the peer had issued by its last word: the last number of each incarnation.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issued: BTreeMap<String, u64>,
    /// How much of the peer's own time is not wholly here, by that word, milliseconds.
    pub behind_millis: u64,
}

/// The highest clock seen for each shard, in either direction. Every `MAS.EXEC` carries it, so that a later
/// write never gets a lower stamp than what this proxy has already shown to anybody.
#[derive(Clone, Debug)]
pub struct Clocks(Arc<[AtomicU64]>);

impl Clocks {
    /// Clocks of `shards` shards, nothing seen yet.
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes a clock reading of a shard.
    pub fn observe(&self, shard: ShardId, hlc: Hlc) {
        if let Some(clock) = self.0.get(usize::from(shard.0)) {
            clock.fetch_max(hlc.0, Ordering::Relaxed);
        }
    }

    /// The highest reading noted for a shard.
    pub fn seen(&self, shard: ShardId) -> Hlc {
        self.0.get(usize::from(shard.0)).map_or(Hlc::ZERO, |clock| Hlc(clock.load(Ordering::Relaxed)))
    }
}

/// What the replication side is given at its start: `mas_proxy::replication::start(wiring)` returns an
/// `anyhow::Result<Arc<dyn Replication>>`. It is called once, inside the tokio runtime that it may spawn on (not one of
/// the workers'), before any port is bound.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// The configuration, validated; changes as the file does.
    pub config: watch::Receiver<Arc<ProxyConfig>>,
    /// Who is master of each shard now, as the front's discovery sees it.
    pub masters: watch::Receiver<Arc<Masters>>,
    /// Send on it to have all members asked at once, after an error that says the master may have changed.
    pub ask_again: Arc<tokio::sync::Notify>,
    /// Clocks that both sides move.
    pub clocks: Clocks,
    /// The workers' event queues, by worker number.
    pub acks: Vec<AckSender>,
}
