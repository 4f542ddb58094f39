//! The control socket of a running store: one JSON request a line, one JSON reply a line. Both ends of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::component::Component;
use super::layout::Layout;
use super::shared::Shared;
use super::store::StartError;
use super::{operations, rebuild, removal};
use crate::procedures::handover::HANDOVER_MS;
use crate::verify::{Ask, Report};
use crate::view::{HandoverStatus, StoreStatus};

/// Longest request.
const MAX_REQUEST: u64 = 64 << 10;
/// Longest reply that a client takes.
const MAX_REPLY: u64 = 64 << 20;
const MAX_CLIENTS: usize = 64;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What can be asked of a running store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "camelCase")]
pub enum Request {
    /// Its state.
    Status,
    /// Stop the traffic between two regions.
    Cut {
        /// One.
        a: String,
        /// The other.
        b: String,
        /// Only what `a` writes on its way to `b`.
        #[serde(default)]
        one_way: bool,
    },
    /// Let it go on, both ways.
    Heal {
        /// One.
        a: String,
        /// The other.
        b: String,
    },
    /// Make another member master of a shard, in order.
    Handover {
        /// Its region.
        region: String,
        /// Its number.
        shard: u16,
        /// Whom; nobody named: the replica that has most.
        #[serde(default)]
        to: Option<u16>,
    },
    /// Hurt a component.
    Fault {
        /// Its name.
        component: String,
        /// What to do.
        fault: Fault,
    },
    /// Another manifest.
    Apply {
        /// Its text.
        manifest: String,
    },
    /// Make a shard again from another region's copy.
    Rebuild {
        /// Its region.
        region: String,
        /// Its number.
        shard: u16,
        /// The region that is copied; nobody named: the healthiest.
        #[serde(default)]
        source: Option<String>,
    },
    /// A region that leaves is gone for good, or is not after all.
    Remove {
        /// Its name.
        region: String,
        /// Nothing of it will ever answer.
        force: bool,
    },
    /// Try a failed operation again, or take one back.
    Operation {
        /// Its name.
        name: String,
        /// Take it back.
        rollback: bool,
    },
    /// Compare what the regions hold.
    #[serde(rename_all = "camelCase")]
    Verify {
        /// Repair what differs; otherwise tell.
        repair: bool,
        /// Percentage of keys whose values are compared, if not as the manifest says.
        #[serde(default)]
        sample_percent: Option<u8>,
    },
    /// End the store.
    Down,
}

/// What can be done to a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// `kill -9`; it is started again as after any death.
    Kill,
    /// `kill -9`, and it stays down until [`Fault::Resume`].
    KillAndHold,
    /// Freeze it. The controller takes this as evidence that it does not serve.
    Pause,
    /// Thaw it, or start it when it was held down.
    Resume,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reply {
    Ok(serde_json::Value),
    Error(String),
}

/// Why a running store could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("the store in {0} is not running: start it with `masctl up -f FILE`")]
    NotRunning(PathBuf),
    /// The conversation broke off.
    #[error("talking to the store's supervisor failed ({0}): see supervisor.log in its state directory")]
    Io(#[from] io::Error),
    /// It did not answer in time.
    #[error("the store's supervisor did not answer within {} s: see supervisor.log in its state directory", CLIENT_TIMEOUT.as_secs())]
    Timeout,
    /// The answer was not understood.
    #[error("the store's supervisor answered something odd ({0}): is it of another version?")]
    Odd(#[from] serde_json::Error),
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// Binds the socket; an old one is replaced, as the caller holds the store's lock.
pub(super) fn bind(layout: &Layout) -> Result<UnixListener, StartError> {
    let path = layout.socket();
    let fail = |source| StartError::Io { what: format!("the control socket {}", path.display()), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        Ok(()) | Err(_) => {}
    }
    // The folder is open to its owner only, and so is the socket.
    UnixListener::bind(&path).map_err(fail)
}

/// Answers requests until it is dropped.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = Arc::clone(&shared);
                    clients.spawn(async move {
                        let _ = converse(stream, &shared).await;
                        drop(slot);
                    });
                } else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            _ = clients.join_next(), if !clients.is_empty() => {}
        }
    }
}

async fn converse(stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        let received = timeout(CLIENT_TIMEOUT * 20, (&mut read).take(MAX_REQUEST).read_line(&mut line)).await;
        match received {
            Ok(Ok(n)) if n > 0 => {}
            Ok(Ok(_)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
        let reply = match serde_json::from_str(&line) {
            Ok(request) => answer(request, shared).await,
            Err(error) => Reply::Error(format!("the request is not understood: {error}")),
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
    }
}

async fn answer(request: Request, shared: &Arc<Shared>) -> Reply {
    let done = |result: Result<(), super::store::StoreError>| match result {
        Ok(()) => Reply::Ok(serde_json::Value::Null),
        Err(error) => Reply::Error(error.to_string()),
    };
    match request {
        Request::Status => match serde_json::to_value(shared.status()) {
            Ok(value) => Reply::Ok(value),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Cut { a, b, one_way } => done(shared.set_cut(&a, &b, one_way, true)),
        Request::Heal { a, b } => done(shared.set_cut(&a, &b, false, false)),
        Request::Handover { region, shard, to } => match shared.handover(&region, shard, to).await {
            Ok(done) => serde_json::to_value(done).map_or_else(|e| Reply::Error(e.to_string()), Reply::Ok),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Fault { component, fault } => match component.parse::<Component>() {
            Ok(component) => done(shared.fault(&component, fault).await),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Apply { manifest } => match operations::apply(shared, &manifest).await {
            Ok(started) => Reply::Ok(serde_json::json!(started)),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Rebuild { region, shard, source } => {
            match rebuild::order(shared, &region, shard, source.as_deref()).await {
                Ok(name) => Reply::Ok(serde_json::json!(name)),
                Err(why) => Reply::Error(why),
            }
        }
        Request::Remove { region, force } => match removal::declare(shared, &region, force).await {
            Ok(name) => Reply::Ok(serde_json::json!(name)),
            Err(why) => Reply::Error(why),
        },
        Request::Operation { name, rollback } => match operations::order(shared, &name, rollback).await {
            Ok(()) => Reply::Ok(serde_json::Value::Null),
            Err(why) => Reply::Error(why),
        },
        Request::Verify { repair, sample_percent } => {
            let (reply, report) = oneshot::channel();
            let ask = Ask {
                request: Some("masctl".into()),
                repair: Some(repair),
                sample_percent,
                reply: Some(reply),
            };
            if shared.verify.try_send(ask).is_err() {
                return Reply::Error("too many verifications wait already: wait for them".into());
            }
            match report.await.map(serde_json::to_value) {
                Ok(Ok(report)) => Reply::Ok(report),
                Ok(Err(error)) => Reply::Error(error.to_string()),
                Err(_) => Reply::Error("the store ended meanwhile".into()),
            }
        }
        Request::Down => {
            shared.end_wanted.notify_one();
            Reply::Ok(serde_json::Value::Null)
        }
    }
}

/// Asks a running store.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The store in `layout`.
    pub fn new(layout: &Layout) -> Self {
        Self { socket: layout.socket() }
    }

    /// The state of everything.
    pub async fn status(&self) -> Result<StoreStatus, ControlError> {
        Ok(serde_json::from_value(self.ask(&Request::Status).await?)?)
    }

    /// Compares what the regions hold. Takes as long as it takes.
    pub async fn verify(&self, repair: bool, sample_percent: Option<u8>) -> Result<Report, ControlError> {
        let report = self.exchange(&Request::Verify { repair, sample_percent }).await?;
        Ok(serde_json::from_value(report)?)
    }

    /// Makes another member master of a shard.
    pub async fn handover(
        &self,
        region: &str,
        shard: u16,
        to: Option<u16>,
    ) -> Result<HandoverStatus, ControlError> {
        let request = Request::Handover { region: region.to_owned(), shard, to };
        Ok(serde_json::from_value(self.ask(&request).await?)?)
    }

    /// Any other request.
    pub async fn ask(&self, request: &Request) -> Result<serde_json::Value, ControlError> {
        let limit = match request {
            // It has limits of its own, and says which was reached.
            Request::Handover { .. } => Duration::from_millis(HANDOVER_MS) + CLIENT_TIMEOUT,
            _ => CLIENT_TIMEOUT,
        };
        timeout(limit, self.exchange(request)).await.map_err(|_| ControlError::Timeout)?
    }

    async fn exchange(&self, request: &Request) -> Result<serde_json::Value, ControlError> {
        let folder = self.socket.parent().unwrap_or(Path::new("/")).to_owned();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning(folder),
            _ => ControlError::Io(error),
        })?;
        let (read, mut write) = stream.into_split();
        let mut text = serde_json::to_string(request)?;
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(read).take(MAX_REPLY).read_line(&mut line).await?;
        match serde_json::from_str(&line)? {
            Reply::Ok(value) => Ok(value),
            Reply::Error(why) => Err(ControlError::Refused(why)),
        }
    }
}
