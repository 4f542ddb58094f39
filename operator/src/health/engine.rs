//! The control connection to one Redis server: asks who it is, gives it its orders. Every call is bounded in time.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use mas_core::cover::Cover;
use mas_core::stamp::Incarnation;
use mas_core::wire::Reader;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Value, cmd};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::procedures::identity::Identity;
use crate::render::REPLICATION_USER;

const CALL: Duration = Duration::from_millis(900);
/// Promoting may have to wait for a fsync.
const PROMOTE: Duration = Duration::from_secs(5);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// No connection, no answer in time, or an error reply.
    #[error("asking {engine} for {what} failed: {source}")]
    Redis { engine: String, what: &'static str, source: redis::RedisError },
    /// Nothing came.
    #[error("asking {engine} for {what} failed: no answer within {} ms", .after.as_millis())]
    Timeout { engine: String, what: &'static str, after: Duration },
    /// Not what was expected.
    #[error("{engine}: {message}")]
    Odd { engine: String, message: String },
}

impl EngineError {
    /// The server did answer, if only with an error.
    pub(crate) fn is_an_answer(&self) -> bool {
        match self {
            Self::Redis { source, .. } => source.code().is_some(),
            Self::Timeout { .. } => false,
            Self::Odd { .. } => true,
        }
    }
}

/// One answer of a healthy server.
#[derive(Debug)]
pub(crate) enum Answer {
    Loading,
    Identity {
        identity: Box<Identity>,
        /// `host:port` of the master that it replicates from, as it was told.
        follows: Option<String>,
    },
}

/// What a copy is to become, and which copy is meant.
pub(crate) struct Join<'a> {
    pub(crate) ticket: u64,
    pub(crate) epoch: u64,
    pub(crate) store: &'a str,
    pub(crate) region: u16,
    pub(crate) shard: u16,
    pub(crate) source: u16,
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
}

/// One Redis server.
pub(crate) struct Engine {
    name: String,
    password: String,
    connection: Mutex<Connection>,
}

/// Where it is, and the connection there.
#[derive(Default)]
struct Connection {
    address: Option<String>,
    open: Option<MultiplexedConnection>,
}

impl Engine {
    /// `address`: `host:port`, if it is known already.
    pub(crate) fn new(name: String, password: &str, address: Option<String>) -> Self {
        let connection = Mutex::new(Connection { address, open: None });
        Self { name, password: password.to_owned(), connection }
    }

    /// It is to be found there from now on.
    pub(crate) async fn move_to(&self, address: &str) {
        let mut held = self.connection.lock().await;
        if held.address.as_deref() != Some(address) {
            *held = Connection { address: Some(address.to_owned()), open: None };
        }
    }

    /// Who it is and whom it follows.
    pub(crate) async fn ask(&self) -> Result<Answer, EngineError> {
        let flat = match self.call::<Value>("its identity", &cmd("MAS.IDENTITY"), CALL).await {
            Ok(value) => strings(&value),
            Err(EngineError::Redis { source, .. }) if source.code() == Some("LOADING") => {
                return Ok(Answer::Loading);
            }
            Err(error) => return Err(error),
        };
        let identity = Identity::parse(&flat)
            .map_err(|error| EngineError::Odd { engine: self.name.clone(), message: error.to_string() })?;
        let role = strings(&self.call::<Value>("its role", &cmd("ROLE"), CALL).await?);
        let follows = match role.as_slice() {
            [role, host, port, ..] if role == "slave" => Some(format!("{host}:{port}")),
            _ => None,
        };
        Ok(Answer::Identity { identity: Box::new(identity), follows })
    }

    /// Which effects it holds, of all origins.
    pub(crate) async fn cover(&self) -> Result<Cover, EngineError> {
        let answer: Vec<Value> = self.call("its cover", &cmd("MAS.COVER"), CALL).await?;
        let odd = |message: String| EngineError::Odd { engine: self.name.clone(), message };
        let Some(Value::BulkString(bytes)) = answer.into_iter().next() else {
            return Err(odd("it gives no cover".to_owned()));
        };
        Reader::new(bytes.into()).cover().map_err(|error| odd(error.to_string()))
    }

    /// Promotes it; from then on replicas may log in.
    pub(crate) async fn promote(
        &self,
        epoch: u64,
        store: &str,
        region: u16,
        shard: u16,
        was_replica: bool,
    ) -> Result<(), EngineError> {
        if was_replica {
            self.call::<Value>("the end of its replication", cmd("REPLICAOF").arg("NO").arg("ONE"), CALL)
                .await?;
        }
        let promote = cmd("MAS.PROMOTE").arg(epoch).arg(store).arg(region).arg(shard).to_owned();
        self.call::<Value>("its promotion", &promote, PROMOTE).await?;
        self.open_to_replicas(true).await
    }

    /// A copy of another region's shard becomes a shard of its own, if it is still the copy that was meant.
    pub(crate) async fn join(&self, join: &Join<'_>) -> Result<(), EngineError> {
        self.call::<Value>("the end of its replication", cmd("REPLICAOF").arg("NO").arg("ONE"), CALL).await?;
        let order = cmd("MAS.JOIN")
            .arg(join.ticket)
            .arg(join.epoch)
            .arg(join.store)
            .arg(join.region)
            .arg(join.shard)
            .arg(join.source)
            .arg(join.incarnation.to_string())
            .arg(join.seq)
            .to_owned();
        self.call::<Value>("its new identity", &order, PROMOTE).await?;
        self.open_to_replicas(true).await
    }

    /// It may serve from now on.
    pub(crate) async fn joined(&self, incarnation: &str) -> Result<(), EngineError> {
        let order = cmd("MAS.JOINED").arg(incarnation).to_owned();
        self.call::<Value>("its opening", &order, CALL).await.map(drop)
    }

    /// A string that it holds.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, EngineError> {
        let value: Option<Vec<u8>> = self.call("a key", cmd("GET").arg(key), CALL).await?;
        Ok(value.map(Bytes::from))
    }

    /// Fields of its `INFO`, by name.
    pub(crate) async fn info(&self) -> Result<HashMap<String, String>, EngineError> {
        let text: String = self.call("its state", &cmd("INFO"), CALL).await?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Lets replicas log in, or not.
    pub(crate) async fn open_to_replicas(&self, open: bool) -> Result<(), EngineError> {
        let switch = if open { "on" } else { "off" };
        let acl = cmd("ACL").arg("SETUSER").arg(REPLICATION_USER).arg(switch).to_owned();
        self.call::<Value>("its replication user", &acl, CALL).await?;
        if !open {
            let kill = cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").to_owned();
            self.call::<Value>("the end of its replicas' connections", &kill, CALL).await?;
        }
        Ok(())
    }

    /// Fences a superseded master.
    pub(crate) async fn fence(&self) -> Result<(), EngineError> {
        self.call::<Value>("its fence", &cmd("MAS.FENCE"), CALL).await?;
        self.open_to_replicas(false).await
    }

    /// Makes it a replica of the server at `master`, `host:port`.
    pub(crate) async fn follow(&self, master: &str) -> Result<(), EngineError> {
        self.open_to_replicas(false).await?;
        let (host, port) = master.rsplit_once(':').unwrap_or((master, ""));
        let order = cmd("REPLICAOF").arg(host).arg(port).to_owned();
        self.call::<Value>("its replication", &order, CALL).await?;
        Ok(())
    }

    async fn call<T: FromRedisValue>(
        &self,
        what: &'static str,
        command: &Cmd,
        limit: Duration,
    ) -> Result<T, EngineError> {
        let fail = |source| EngineError::Redis { engine: self.name.clone(), what, source };
        let late = |_| EngineError::Timeout { engine: self.name.clone(), what, after: limit };
        let mut connection = timeout(limit, self.connect()).await.map_err(late)?.map_err(fail)?;
        let result = timeout(limit, command.query_async(&mut connection)).await;
        let broken = match &result {
            Ok(Err(error)) => error.is_unrecoverable_error() || error.is_timeout(),
            Err(_) => true,
            Ok(Ok(_)) => false,
        };
        if broken {
            self.connection.lock().await.open = None;
        }
        result.map_err(late)?.map_err(fail)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &held.open {
            return Ok(connection.clone());
        }
        let Some(address) = &held.address else {
            return Err((redis::ErrorKind::InvalidClientConfig, "its address is not known yet").into());
        };
        let url = format!("redis://:{}@{address}/", self.password);
        // The limits are those of the call.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?;
        held.open = Some(connection.clone());
        Ok(connection)
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::Map(pairs) => pairs.iter().flat_map(|(k, v)| [text(k), text(v)]).collect(),
        other => vec![text(other)],
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    }
}
