//! One worker: a thread with its own listener, clients and engine connections. Nothing in it is shared but counters.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mas_core::stamp::ShardId;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::clients::Client;
use super::counters::Count;
use super::limits;
use super::routing::Masters;
use super::settings::Settings;
use super::state::{Cell, Link, Parts, State};
use super::{client_task, upstream_task};
use crate::link::AckEvent;
use crate::resp::encode;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// What a worker is told while it runs.
pub struct Channels {
    /// The configuration.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Who is master.
    pub masters: watch::Receiver<Arc<Masters>>,
    /// Acknowledgements.
    pub acks: mpsc::UnboundedReceiver<Vec<AckEvent>>,
    /// Changes when it is time to stop.
    pub stop: watch::Receiver<bool>,
}

/// A listener on `address` that shares its port with the other workers, and with other proxies of this host.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Runs a worker until it is told to stop and its clients are gone, or the time for that is over.
pub fn run(parts: Parts, listener: std::net::TcpListener, channels: Channels) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let cell: Cell = Rc::new(RefCell::new(State::new(parts)));
        cell.borrow_mut().cell = Rc::downgrade(&cell);
        let upstreams = cell.borrow().upstreams.len();
        for up in 0..upstreams {
            tokio::task::spawn_local(upstream_task::run(cell.clone(), up));
        }
        let listener = TcpListener::from_std(listener)?;
        let accepting = tokio::task::spawn_local(accept(cell.clone(), listener));
        control(cell, channels, accepting).await;
        Ok(())
    })
}

/// Takes connections. Errors (no file descriptors left) pass; the pause keeps them from filling the processor.
async fn accept(cell: Cell, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(&cell, stream, peer),
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(cell: &Cell, stream: TcpStream, peer: SocketAddr) {
    let state = &mut *cell.borrow_mut();
    let most = i64::try_from(state.settings.config.max_connections).unwrap_or(i64::MAX);
    if state.shared.totals.connections.fetch_add(1, Ordering::Relaxed) >= most {
        state.shared.totals.connections.fetch_sub(1, Ordering::Relaxed);
        state.counters.count(Count::ConnectionsRefused);
        tokio::task::spawn_local(turn_away(stream));
        return;
    }
    state.counters.count(Count::ConnectionsAccepted);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_mins(5)).with_interval(Duration::from_secs(100));
    // A connection works without both; a socket that refuses them is about to report why.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let id = state.shared.next_client.fetch_add(1, Ordering::Relaxed);
    let open = state.settings.credentials.is_none();
    let key = state.clients.insert(|base| Client::new(stream, peer, id, base, open));
    tokio::task::spawn_local(client_task::run(cell.clone(), key));
}

async fn turn_away(mut stream: TcpStream) {
    let mut line = Vec::new();
    encode::error(&mut line, "ERR max number of clients reached");
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&line)).await;
}

/// Takes news from the rest of the proxy, looks after deadlines, and ends the worker.
async fn control(cell: Cell, channels: Channels, accepting: tokio::task::JoinHandle<()>) {
    let Channels { mut settings, mut masters, mut acks, mut stop } = channels;
    take_masters(&mut cell.borrow_mut(), masters.borrow_and_update().clone());
    let mut tick = tokio::time::interval(limits::TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut draining_since: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            Some(events) = acks.recv() => {
                let state = &mut *cell.borrow_mut();
                let now = state.now();
                for event in events {
                    state.acknowledged(event, now);
                }
                while let Ok(events) = acks.try_recv() {
                    for event in events {
                        state.acknowledged(event, now);
                    }
                }
                state.flush_dirty();
            }
            Ok(()) = masters.changed() => {
                let news = masters.borrow_and_update().clone();
                take_masters(&mut cell.borrow_mut(), news);
            }
            Ok(()) = settings.changed() => {
                let news = settings.borrow_and_update().clone();
                debug!(generation = news.config.generation, "took over a new configuration");
                cell.borrow_mut().settings = news;
            }
            Ok(()) = stop.changed(), if draining_since.is_none() => {
                draining_since = Some(Instant::now());
                accepting.abort();
                wake_clients(&mut cell.borrow_mut());
            }
            _ = tick.tick() => {
                let state = &mut *cell.borrow_mut();
                on_tick(state);
                if let Some(since) = draining_since {
                    wake_clients(state);
                    if state.clients.is_empty() || since.elapsed() > limits::DRAIN {
                        return;
                    }
                }
            }
        }
    }
}

fn on_tick(state: &mut State) {
    let now = state.now();
    state.expire(now);
    for up in &mut state.upstreams {
        let overdue =
            !up.pipe.is_empty() && now.wrapping_sub(up.heard) > limits::micros(limits::ENGINE_STUCK);
        if overdue || matches!(up.link, Link::Leaving { .. }) || up.detour.is_some() {
            up.wake();
        }
        if let Some(detour) = &mut up.detour {
            let of = (up.shard.0, detour.peer.name.clone());
            state.shared.totals.detours.add(&of, std::mem::take(&mut detour.uncounted));
        }
    }
    for up in 0..state.upstreams.len() {
        // Nobody else wakes them when the time has come.
        if state.is_drained() || state.has_no_master(state.upstreams[up].shard) {
            state.upstreams[up].wake();
        }
    }
    let owed: usize = state.clients.iter_mut().map(|(_, client)| client.session.owed()).sum();
    let held: usize = state.upstreams.iter().map(super::state::Upstream::held).sum();
    let worker = usize::from(state.worker);
    let shared = state.shared.clone();
    shared.totals.drained.store(state.settings.config.drained, Ordering::Relaxed);
    if let (Some(owed_now), Some(held_now)) = (shared.totals.owed.get(worker), shared.totals.held.get(worker))
    {
        owed_now.store(owed as i64, Ordering::Relaxed);
        held_now.store(held as i64, Ordering::Relaxed);
    }
    state.counters.publish(&shared.totals);
}

fn wake_clients(state: &mut State) {
    for (_, client) in state.clients.iter_mut() {
        client.wake();
    }
}

/// A shard may have another master: leaves the old one, and lets those who waited go on.
fn take_masters(state: &mut State, masters: Arc<Masters>) {
    let now = state.now();
    state.masters = masters;
    for (shard, since) in (0..).zip(&mut state.alone_since) {
        match state.masters.master(ShardId(shard)) {
            Some(_) => *since = None,
            None => _ = since.get_or_insert_with(Instant::now),
        }
    }
    for up in &mut state.upstreams {
        if let (Link::Up(old), Some(new)) = (&up.link, state.masters.master(up.shard))
            && (old.address != new.address || old.incarnation != new.incarnation)
        {
            up.link = Link::Leaving { since: now, incarnation: old.incarnation };
        }
        up.wake();
    }
}
