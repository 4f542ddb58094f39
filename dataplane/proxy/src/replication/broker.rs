//! Connections to brokers: one attempt at a time, every wait bounded, a hung connection hung up for good. Declares what
//! a store needs there: a stream a shard, the dead letters, and an exchange that copies heartbeats to who wants them.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::tcp::AMQPUriTcpExt;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ExchangeKind};
use mas_core::config::{BrokerConfig, Retention};
use rand::Rng;
use rand::seq::SliceRandom;

/// AMQP heartbeat, seconds: a link that is cut silently is noticed within twice that.
const HEARTBEAT_S: u16 = 2;
/// How long connecting and the handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long a declaration may take. A cluster may have to elect a leader for a stream first.
pub(crate) const DECLARE_LIMIT: Duration = Duration::from_secs(10);
/// A connection that held for so long was a success.
const HELD: Duration = Duration::from_secs(5);
/// First and longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// Of attempts that fail in a row, every so many-th is told.
const TELL_EVERY: u32 = 20;
/// Most records that the dead letters keep, and their bytes.
const DEAD_LETTERS: (i64, i64) = (10_000, 64 << 20);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// The password cannot be read.
    #[error("cannot read the broker's password file {path}: {why}")]
    Password {
        /// The file.
        path: String,
        /// The cause.
        why: std::io::Error,
    },
    /// No node in the configuration.
    #[error("the configuration names no broker node")]
    NoNode,
    /// The address is not `host:port`.
    #[error("the broker address {0:?} is not host:port")]
    Address(String),
    /// It does not answer in time.
    #[error("the broker at {0} does not answer")]
    Silent(String),
    /// It refuses, or the connection broke.
    #[error("the broker refuses: {0}")]
    Refused(#[from] lapin::Error),
}

/// A connection, and the means to end it whatever state it is in.
pub(crate) struct BrokerConnection {
    pub(crate) connection: Connection,
    pub(crate) address: String,
    socket: Arc<Mutex<Option<std::net::TcpStream>>>,
}

impl Drop for BrokerConnection {
    /// A hung peer never answers a polite close; without this its thread and buffers would stay.
    fn drop(&mut self) {
        hang_up(&self.socket);
    }
}

fn hang_up(socket: &Mutex<Option<std::net::TcpStream>>) {
    let socket = socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(socket) = socket {
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Connects to one of the nodes, in random order.
pub(crate) async fn connect(broker: &BrokerConfig, name: &str) -> Result<BrokerConnection, BrokerError> {
    let password = std::fs::read_to_string(&broker.password_file)
        .map_err(|why| BrokerError::Password { path: broker.password_file.display().to_string(), why })?;
    let mut nodes = broker.nodes.clone();
    nodes.shuffle(&mut rand::rng());
    let mut last = BrokerError::NoNode;
    for node in nodes {
        match connect_node(broker, &node, password.trim_end(), name).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_node(
    broker: &BrokerConfig,
    node: &str,
    password: &str,
    name: &str,
) -> Result<BrokerConnection, BrokerError> {
    let address = || BrokerError::Address(node.to_owned());
    let (host, port) = node.rsplit_once(':').ok_or_else(address)?;
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: broker.username.clone(), password: password.to_owned() },
            host: host.to_owned(),
            port: port.parse().map_err(|_| address())?,
        },
        vhost: broker.vhost.clone(),
        query: AMQPQueryString { heartbeat: Some(HEARTBEAT_S), ..AMQPQueryString::default() },
    };
    let socket = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&socket);
    let runtime = lapin::runtime::default_runtime()?;
    let reactor = runtime.clone();
    let open = async move |uri: AMQPUri, _| {
        let stream = uri.connect_async(&reactor).await?;
        if let AsyncTcpStream::Plain(plain) = &stream
            && let Ok(fd) = plain.get_ref().as_fd().try_clone_to_owned()
        {
            let mut kept = keep.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *kept = Some(std::net::TcpStream::from(fd));
        }
        Ok(stream)
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connector(uri, runtime, open, properties);
    let Ok(connection) = tokio::time::timeout(CONNECT_LIMIT, connecting).await else {
        hang_up(&socket);
        return Err(BrokerError::Silent(node.to_owned()));
    };
    Ok(BrokerConnection { connection: connection?, address: node.to_owned(), socket })
}

/// The stream of a shard.
pub(crate) fn stream_name(store: &str, shard: u16) -> String {
    format!("mas.{store}.{shard}")
}

/// Where records go that cannot be decoded.
pub(crate) fn dead_letters_name(store: &str) -> String {
    format!("mas.{store}.dead-letters")
}

/// The exchange that copies heartbeats to proxies that do not read the stream.
pub(crate) fn beats_name(store: &str) -> String {
    format!("mas.{store}.heartbeats")
}

/// Declares the stream of a shard. Safe to repeat; refused by the broker if it is there with other bounds.
pub(crate) async fn declare_stream(channel: &Channel, name: &str, retention: Retention) -> lapin::Result<()> {
    let bytes = i64::try_from(retention.bytes).unwrap_or(i64::MAX);
    // Retention works by whole segments, so they are small against the bound.
    let segment = (bytes / 8).clamp(64 << 10, 16 << 20);
    let mut arguments = FieldTable::default();
    let text = |s: String| AMQPValue::LongString(s.into());
    arguments.insert("x-queue-type".into(), text("stream".to_owned()));
    arguments.insert("x-max-age".into(), text(format!("{}s", retention.seconds.saturating_mul(2))));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
    arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(segment));
    declare(channel, name, arguments).await
}

/// Declares the dead letters: a bounded queue that forgets the oldest.
pub(crate) async fn declare_dead_letters(channel: &Channel, name: &str) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(DEAD_LETTERS.0));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(DEAD_LETTERS.1));
    declare(channel, name, arguments).await
}

async fn declare(channel: &Channel, name: &str, arguments: FieldTable) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.map(drop)
}

/// Declares the exchange of heartbeats.
pub(crate) async fn declare_beats(channel: &Channel, name: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::Fanout, options, FieldTable::default()).await
}

/// Pauses between attempts: exponential, jittered, bounded.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: BACKOFF.0, failures: 0 }
    }

    /// After a connection that held for so long: one that is taken and closed at once is no success.
    pub(crate) fn held(&mut self, time: Duration) {
        if time >= HELD {
            *self = Self::new();
        }
    }

    /// Says why an attempt failed: the first time, and then now and then.
    pub(crate) fn tell(&mut self, say: impl FnOnce()) {
        if self.failures.is_multiple_of(TELL_EVERY) {
            say();
        }
        self.failures += 1;
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..1.0));
        self.next = (self.next * 2).min(BACKOFF.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_bounds_and_start_again() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= BACKOFF.0 / 2 && pause <= BACKOFF.1);
        }
        assert!(backoff.pause() >= BACKOFF.1 / 2);
        backoff.held(HELD / 2);
        assert!(backoff.pause() >= BACKOFF.1 / 2, "taken and closed at once: no success");
        backoff.held(HELD);
        assert!(backoff.pause() <= BACKOFF.0);
    }
}
