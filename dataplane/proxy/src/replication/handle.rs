//! The handle that the front holds: hands over effects, asks questions. Everything else happens on the thread.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mas_core::config::{AckLevel, OnBrokerLoss};
use mas_core::cover::Cover;
use mas_core::replication::token::ShardNeed;
use mas_core::stamp::ShardId;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};

use super::StartError;
use super::ask::Ask;
use super::hub::{Hub, Inbox, Published};
use super::metrics::Metrics;
use crate::front::replication::{Answer, LinkStatus, Refusal, Replication, Wiring, Written};
use crate::link::Shipment;

/// Most questions that wait at a time.
const ASKS_MAX: usize = 4096;

/// The replication side of this proxy. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Replicator {
    inbox: Arc<Inbox>,
    asks: mpsc::Sender<Ask>,
    published: Arc<Published>,
    metrics: Metrics,
    config: watch::Receiver<Arc<mas_core::config::ProxyConfig>>,
}

impl Replicator {
    /// Starts the thread. Brokers and engines may come later; it keeps trying.
    pub fn start(wiring: Wiring) -> Result<Self, StartError> {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let handle = Self {
            inbox: Arc::default(),
            asks,
            published: Arc::default(),
            metrics: Metrics::default(),
            config: wiring.config.clone(),
        };
        handle.metrics.prepare(&wiring.config.borrow());
        handle.published.degraded.store(true, std::sync::atomic::Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (inbox, published) = (Arc::clone(&handle.inbox), Arc::clone(&handle.published));
        let metrics = handle.metrics.clone();
        std::thread::Builder::new().name("replication".to_owned()).spawn(move || {
            let hub = Rc::new(Hub::new(wiring, inbox, published, metrics));
            runtime.block_on(super::run(hub, asked));
        })?;
        Ok(handle)
    }

    fn ask<T: Send + 'static>(
        &self,
        build: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Ask,
    ) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.try_send(build(reply));
        Box::pin(async move {
            if sent.is_err() {
                return Err(Refusal("ERR too many questions wait in this proxy: try again".to_owned()));
            }
            answer.await.unwrap_or_else(|_| Err(Refusal("ERR the proxy is shutting down".to_owned())))
        })
    }
}

impl Replication for Replicator {
    fn ship(&self, shipments: Vec<Shipment>) {
        self.inbox.put(shipments);
    }

    fn effective(&self, asked: AckLevel) -> AckLevel {
        let degrades = self.config.borrow().on_broker_loss == OnBrokerLoss::Degrade;
        if degrades && self.published.is_degraded() { AckLevel::Local } else { asked }
    }

    fn token(&self, writes: Vec<Written>, elsewhere: Vec<ShardNeed>) -> Answer<String> {
        self.ask(|reply| Ask::Token { writes, elsewhere, reply })
    }

    fn token_of(&self, shard: ShardId) -> Answer<String> {
        self.ask(|reply| Ask::TokenOf { shard, reply })
    }

    fn last_known(&self, shard: ShardId) -> Answer<Cover> {
        self.ask(|reply| Ask::LastKnown { shard, reply })
    }

    fn await_token(&self, token: Vec<u8>, timeout: Duration) -> Answer<bool> {
        self.ask(|reply| Ask::AwaitToken { token, timeout, reply })
    }

    fn wait_regions(&self, writes: Vec<Written>, regions: u16, timeout: Duration) -> Answer<u16> {
        self.ask(|reply| Ask::WaitRegions { writes, regions, timeout, reply })
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.published.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn info(&self) -> Vec<(String, String)> {
        self.published.info.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    fn drain(&self, timeout: Duration) -> Answer<()> {
        self.ask(|reply| Ask::Drain { timeout, reply })
    }
}
