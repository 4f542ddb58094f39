//! The front of a proxy: client connections, routing, and the pipelines to the engines.
//!
//! Each worker is a thread that owns its listener, its clients and its engine connections; requests never leave
//! their worker. `client_task` reads requests, `dispatch` decides where they go, `upstream_task` carries them to an
//! engine and brings replies back, `replies` gives those to the clients in order. `detour_task` carries them to another region
//! while no engine of the shard serves here. The other files are what these
//! decide with, without I/O.

mod answers;
mod client_task;
pub mod clients;
pub mod counters;
pub mod detour;
mod detour_task;
pub mod discovery;
pub mod dispatch;
pub mod engine;
pub mod forwarded;
pub mod gather;
pub mod limits;
pub mod outcome;
pub mod pipe;
pub mod replication;
pub mod replies;
pub mod routing;
pub mod session;
pub mod settings;
pub mod split;
pub mod state;
mod upstream_task;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

use self::limits::OutputBounds;
use self::replication::{Clocks, Replication};
use self::routing::Masters;
use self::settings::Settings;
use self::state::{Parts, Shared};
use crate::link::AckEvent;

/// What the front is started with.
pub struct Start {
    /// The configuration; changes as the file does.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Who is master; see [`discovery`].
    pub masters: watch::Receiver<Arc<Masters>>,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The other side of the proxy.
    pub replication: Arc<dyn Replication>,
    /// Clocks that both sides move.
    pub clocks: Clocks,
    /// One event queue a worker; their number is the number of workers.
    pub acks: Vec<mpsc::UnboundedReceiver<Vec<AckEvent>>>,
    /// How much output may wait for clients.
    pub output: OutputBounds,
}

/// A running front.
pub struct Front {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

/// How many workers a configuration asks for: what it says, or one a core.
pub fn workers(settings: &Settings) -> usize {
    match settings.config.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n.min(usize::from(u8::MAX)),
    }
}

/// Binds the port and starts the workers.
pub fn start(start: Start) -> io::Result<Front> {
    let Start { settings, masters, shared, replication, clocks, acks, output } = start;
    let now = settings.borrow().clone();
    let mut address = now.listen;
    let mut listeners = Vec::with_capacity(acks.len());
    for _ in 0..acks.len() {
        let listener = worker::listen(address)?;
        // With port 0, the others take the port that the first was given.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    let (stop, stopped) = watch::channel(false);
    let mut workers = Vec::with_capacity(listeners.len());
    for (n, (listener, acks)) in listeners.into_iter().zip(acks).enumerate() {
        let parts = Parts {
            worker: n as u16,
            shared: shared.clone(),
            replication: replication.clone(),
            clocks: clocks.clone(),
            settings: now.clone(),
            output,
        };
        let channels = worker::Channels {
            settings: settings.clone(),
            masters: masters.clone(),
            acks,
            stop: stopped.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("worker-{n}"));
        workers.push(thread.spawn(move || worker::run(parts, listener, channels))?);
    }
    Ok(Front { address, shared, stop, workers })
}

impl Front {
    /// Takes no new connections, lets what is under way end (at most [`limits::DRAIN`]), and ends the workers.
    /// Blocks meanwhile.
    pub fn drain(self) -> io::Result<()> {
        self.shared.draining.store(true, Ordering::Relaxed);
        // Without receivers the workers are gone already.
        let _ = self.stop.send(true);
        for worker in self.workers {
            worker.join().map_err(|_| io::Error::other("a worker panicked"))??;
        }
        Ok(())
    }
}
