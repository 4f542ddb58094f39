//! The publishing connection to the region's own broker: connects, declares, watches, reconnects. What is published on
//! it is the pump's business.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use futures_util::StreamExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ErrorKind, Event};
use mas_core::config::{BrokerConfig, ProxyConfig};
use mas_core::stamp::ShardId;
use tokio::sync::{Notify, watch};

use super::broker::{self, Backoff, BrokerConnection, BrokerError, DECLARE_LIMIT};
use super::hub::Hub;
use super::metrics::OfBroker;

/// How long the broker may block this connection before it is made anew.
const BLOCKED_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// A connection on which can be published.
pub(crate) struct Outlet {
    /// Grows with every connection; words about an earlier one are void.
    pub(crate) generation: u64,
    connection: BrokerConnection,
    store: String,
    channels: HashMap<ShardId, Channel>,
    /// Without confirms: heartbeats for listeners, dead letters.
    extras: Channel,
    blocked: Cell<bool>,
    broken: Notify,
    why: RefCell<Option<String>>,
    refused: RefCell<Vec<ShardId>>,
}

impl Outlet {
    /// The channel of a shard.
    pub(crate) fn channel(&self, shard: ShardId) -> Option<&Channel> {
        self.channels.get(&shard)
    }

    /// The stream of a shard.
    pub(crate) fn stream(&self, shard: ShardId) -> String {
        broker::stream_name(&self.store, shard.0)
    }

    /// The broker has blocked it (memory or disk alarm).
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// An error on it was seen.
    pub(crate) fn broke(&self, why: &str) {
        self.why.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.broken.notify_one();
    }

    /// A record was returned or refused: the stream may be gone.
    pub(crate) fn refused(&self, shard: ShardId) {
        let mut refused = self.refused.borrow_mut();
        if !refused.contains(&shard) {
            refused.push(shard);
        }
        self.broken.notify_one();
    }

    /// Publishes heartbeats for listeners and dead letters; at most once, and unnoticed when it fails.
    pub(crate) fn publish_extras(&self, hub: &Hub) {
        if self.is_blocked() {
            return;
        }
        let letters = std::mem::take(&mut *hub.dead_letters.borrow_mut());
        let beats = std::mem::take(&mut *hub.beats.borrow_mut());
        if letters.is_empty() && beats.is_empty() {
            return;
        }
        let (extras, store) = (self.extras.clone(), self.store.clone());
        tokio::task::spawn_local(async move {
            let options = BasicPublishOptions::default();
            let durable = BasicProperties::default().with_delivery_mode(2);
            let queue = broker::dead_letters_name(&store);
            for letter in letters {
                let sent =
                    extras.basic_publish("".into(), queue.clone().into(), options, &letter, durable.clone());
                if let Err(error) = sent.await {
                    tracing::warn!(%error, "a dead letter was lost");
                }
            }
            let exchange = broker::beats_name(&store);
            for beat in beats {
                let plain = BasicProperties::default();
                let _ = extras.basic_publish(exchange.clone().into(), "".into(), options, &beat, plain).await;
            }
        });
    }
}

/// Keeps an outlet open; tells the pump through `outlet`.
pub(crate) async fn run(hub: Rc<Hub>, outlet: watch::Sender<Option<Rc<Outlet>>>) {
    let mut config = hub.config.clone();
    let mut backoff = Backoff::new();
    let mut generation = 0;
    loop {
        let now = hub.config();
        generation += 1;
        match open(&hub, &now, generation).await {
            Ok(open) => {
                tracing::info!(broker = %open.connection.address, "publishing");
                let of = OfBroker { region: now.region.name.clone(), purpose: "publish" };
                hub.metrics.reconnects.get_or_create(&of).inc();
                let open = Rc::new(open);
                outlet.send_replace(Some(Rc::clone(&open)));
                let since = tokio::time::Instant::now();
                let why = hold(&open, &now, &mut config).await;
                outlet.send_replace(None);
                tracing::warn!(broker = %open.connection.address, %why, "publishing stopped");
                backoff.held(since.elapsed());
            }
            Err(error) => backoff.tell(|| tracing::warn!(%error, "cannot publish")),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn open(hub: &Hub, config: &ProxyConfig, generation: u64) -> Result<Outlet, BrokerError> {
    let connection =
        broker::connect(&config.broker, &format!("{} {} publish", config.store, config.proxy)).await?;
    let setup = async {
        let extras = connection.connection.create_channel().await?;
        broker::declare_beats(&extras, &broker::beats_name(&config.store)).await?;
        declare(&connection, config, None).await?;
        let mut channels = HashMap::new();
        for shard in &hub.shards {
            declare(&connection, config, Some(shard.id)).await?;
            let channel = connection.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            channels.insert(shard.id, channel);
        }
        Ok::<_, lapin::Error>((extras, channels))
    };
    let limit = DECLARE_LIMIT + DECLARE_LIMIT * u32::try_from(hub.shards.len()).unwrap_or(1) / 8;
    let silent = |_| BrokerError::Silent(connection.address.clone());
    let (extras, channels) = tokio::time::timeout(limit, setup).await.map_err(silent)??;
    Ok(Outlet {
        generation,
        connection,
        store: config.store.clone(),
        channels,
        extras,
        blocked: Cell::new(false),
        broken: Notify::new(),
        why: RefCell::default(),
        refused: RefCell::default(),
    })
}

/// Declares a shard's stream, or (without a shard) the dead letters. One that is there with other bounds stays as it
/// is: a change of configuration never resets a stream.
async fn declare(
    connection: &BrokerConnection,
    config: &ProxyConfig,
    shard: Option<ShardId>,
) -> lapin::Result<()> {
    let channel = connection.connection.create_channel().await?;
    let (name, declared) = if let Some(shard) = shard {
        let name = broker::stream_name(&config.store, shard.0);
        let declared = broker::declare_stream(&channel, &name, config.retention).await;
        (name, declared)
    } else {
        let name = broker::dead_letters_name(&config.store);
        let declared = broker::declare_dead_letters(&channel, &name).await;
        (name, declared)
    };
    match declared {
        Err(error) if matches!(error.kind(), ErrorKind::ProtocolError(e) if e.get_id() == 406) => {
            tracing::warn!(queue = %name, %error, "declared with other bounds before: left as it is");
            let channel = connection.connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.into(), options, FieldTable::default()).await?;
            let _ = channel.close(200, "done".into()).await;
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => {
            let _ = channel.close(200, "done".into()).await;
            Ok(())
        }
    }
}

/// Watches an outlet until it can be used no more; says why.
async fn hold(
    outlet: &Rc<Outlet>,
    with: &ProxyConfig,
    config: &mut watch::Receiver<std::sync::Arc<ProxyConfig>>,
) -> String {
    let mut events = Box::pin(outlet.connection.connection.events_listener());
    let mut blocked_since = None;
    loop {
        let blocked_out = async {
            match blocked_since {
                Some(since) => tokio::time::sleep_until(since + BLOCKED_LIMIT).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(why)) => {
                    tracing::warn!(%why, "the broker has blocked publishing");
                    outlet.blocked.set(true);
                    blocked_since = Some(tokio::time::Instant::now());
                }
                Some(Event::ConnectionUnblocked) => {
                    outlet.blocked.set(false);
                    blocked_since = None;
                }
                // Errors of one channel are told here too.
                Some(Event::Error(error)) if !outlet.connection.connection.status().connected() => {
                    return error.to_string();
                }
                Some(_) => {}
                None => return "the connection is gone".to_owned(),
            },
            () = outlet.broken.notified() => {
                if let Some(why) = outlet.why.borrow().clone() {
                    return why;
                }
                let refused = std::mem::take(&mut *outlet.refused.borrow_mut());
                for shard in refused {
                    let again = declare(&outlet.connection, with, Some(shard));
                    match tokio::time::timeout(DECLARE_LIMIT, again).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return error.to_string(),
                        Err(_) => return "a declaration was not answered".to_owned(),
                    }
                }
            }
            () = blocked_out => return "blocked for too long".to_owned(),
            changed = config.changed() => {
                let moved = |a: &BrokerConfig| *a != with.broker;
                if changed.is_err() || moved(&config.borrow().broker) {
                    return "the configuration names another broker".to_owned();
                }
            }
        }
    }
}
