//! Reading connections: one a broker (each peer's, and the region's own), shared by the readers of all shards. Keeps
//! it open while the configuration names it, and listens to heartbeats there for who asks about other regions.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::Event;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use mas_core::config::{BrokerConfig, RegionRef};
use mas_core::record::{Body, Record};
use mas_core::stamp::RegionId;
use tokio::sync::watch;

use super::broker::{self, Backoff, BrokerConnection};
use super::hub::Hub;
use super::metrics::OfBroker;

/// Most heartbeats that wait for a listener, and for how long, milliseconds.
const BEATS_KEPT: (i32, i32) = (256, 2000);

/// The connection, when there is one.
pub(crate) type Feed = watch::Receiver<Option<Rc<BrokerConnection>>>;

/// Keeps a connection to a region's broker until the configuration names it no more.
pub(crate) async fn run(hub: Rc<Hub>, region: RegionRef, feed: watch::Sender<Option<Rc<BrokerConnection>>>) {
    let mut config = hub.config.clone();
    let mut backoff = Backoff::new();
    loop {
        let now = hub.config();
        let Some(broker) = broker_of(&now, region.id) else { return };
        let name = format!("{} {} {} read", now.store, now.region.name, now.proxy);
        match broker::connect(&broker, &name).await {
            Ok(connection) => {
                tracing::info!(peer = %region.name, broker = %connection.address, "reading");
                let of = OfBroker { region: region.name.clone(), purpose: "read" };
                hub.metrics.reconnects.get_or_create(&of).inc();
                let connection = Rc::new(connection);
                mark(&hub, &region, true);
                feed.send_replace(Some(Rc::clone(&connection)));
                let since = tokio::time::Instant::now();
                let why = hold(&hub, &connection, &region, &broker, &mut config).await;
                mark(&hub, &region, false);
                feed.send_replace(None);
                tracing::warn!(peer = %region.name, %why, "reading stopped");
                backoff.held(since.elapsed());
            }
            Err(error) => backoff.tell(|| tracing::warn!(peer = %region.name, %error, "cannot read")),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            changed = config.changed() => if changed.is_err() { return },
        }
    }
}

fn mark(hub: &Hub, region: &RegionRef, connected: bool) {
    for shard in &hub.shards {
        if let Some(row) = shard.links.borrow_mut().get_mut(&RegionId(region.id)) {
            row.link.connected = connected;
        }
    }
}

/// The broker of a region, if the configuration has it.
pub(crate) fn broker_of(config: &mas_core::config::ProxyConfig, region: u16) -> Option<BrokerConfig> {
    if config.region.id == region {
        return Some(config.broker.clone());
    }
    config.peers.iter().find(|p| p.region.id == region).map(|p| p.broker.clone())
}

async fn hold(
    hub: &Rc<Hub>,
    connection: &Rc<BrokerConnection>,
    region: &RegionRef,
    broker: &BrokerConfig,
    config: &mut watch::Receiver<std::sync::Arc<mas_core::config::ProxyConfig>>,
) -> String {
    let mut events = Box::pin(connection.connection.events_listener());
    let mut want = hub.want_beats.subscribe();
    let is_peer = hub.config().region.id != region.id;
    let mut listening = None;
    loop {
        if is_peer && listening.is_none() && *want.borrow_and_update() {
            let listen = listen(Rc::clone(hub), Rc::clone(connection), region.id);
            listening = Some(tokio::task::spawn_local(listen));
        }
        tokio::select! {
            event = events.next() => match event {
                // Errors of one channel are told here too.
                Some(Event::Error(error)) if !connection.connection.status().connected() => {
                    return error.to_string();
                }
                Some(_) => {}
                None => return "the connection is gone".to_owned(),
            },
            changed = want.changed() => if changed.is_err() { return "shutting down".to_owned() },
            changed = config.changed() => {
                if changed.is_err() || broker_of(&config.borrow(), region.id).as_ref() != Some(broker) {
                    return "the configuration names another broker".to_owned();
                }
            }
        }
    }
}

/// Listens to the heartbeats of a region, of all shards.
async fn listen(hub: Rc<Hub>, connection: Rc<BrokerConnection>, region: u16) {
    if let Err(error) = try_listen(&hub, &connection, region).await {
        tracing::debug!(%error, "heartbeats are not heard");
    }
}

async fn try_listen(hub: &Hub, connection: &BrokerConnection, region: u16) -> lapin::Result<()> {
    let channel = connection.connection.create_channel().await?;
    let exchange = broker::beats_name(&hub.config().store);
    broker::declare_beats(&channel, &exchange).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(BEATS_KEPT.0));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(BEATS_KEPT.1));
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, arguments).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind(queue.name().clone(), exchange.into(), "".into(), bind, FieldTable::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut beats =
        channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = beats.next().await {
        let Ok(record) = Record::decode(Bytes::from(delivery?.data)) else { continue };
        let Body::Heartbeat(beat) = record.body else { continue };
        if record.origin.region.0 != region {
            continue;
        }
        if let Some(shard) = hub.shard(record.shard) {
            hub.peer_beat(shard, record.origin, beat.epoch, beat.cover);
        }
    }
    Ok(())
}
