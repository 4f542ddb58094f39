//! Carries a shard's requests to a proxy of another region while no engine of the shard serves here, or the region is drained, as an
//! ordinary client of that region's endpoint. What is sent when, [`super::detour`] decides.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mas_core::config::AckLevel;
use mas_core::stamp::ShardId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::counters::Count;
use super::detour::{Detour, Event, Fate, Peer, Step, choose, read_token};
use super::engine;
use super::forwarded::{self, Mark, Message};
use super::limits;
use super::state::{Cell, State};
use super::upstream_task::Replies;

/// How long the first question for a token may take.
const FIRST_TOKEN: Duration = Duration::from_secs(2);
/// Pause after no peer could be used, and after one was left.
const PAUSE: Duration = Duration::from_millis(500);
/// After the way back, how long replies are awaited that wait for their level there.
const LATE_REPLIES: Duration = Duration::from_secs(15);

/// Sends the requests of connection `up` to the best peer that can serve them, until they can be served here again or the peer is lost.
pub(super) async fn run(cell: &Cell, up: usize) {
    let (shard, peers) = {
        let state = cell.borrow();
        let shard = state.upstreams[up].shard;
        (shard, choose(&state.settings.config.peers, &state.replication.links(), shard))
    };
    for peer in peers {
        let (name, endpoint) = (peer.name.clone(), peer.endpoint.clone());
        match open(cell, up, peer).await {
            Ok((stream, detour)) => {
                info!(shard = shard.0, peer = name, endpoint, "the shard's requests go to the other region");
                serve(cell, up, stream, detour).await;
                break;
            }
            Err(error) => {
                debug!(shard = shard.0, peer = name, endpoint, %error, "the other region cannot be used");
            }
        }
    }
    cell.borrow_mut().upstreams[up].detour_after = Some(Instant::now() + PAUSE);
}

/// Connects to a peer that has a master for the shard.
async fn open(cell: &Cell, up: usize, peer: Peer) -> io::Result<(TcpStream, Detour)> {
    let (settings, shard, resp3, known) = {
        let state = cell.borrow();
        let upstream = &state.upstreams[up];
        let known = state.replication.last_known(upstream.shard);
        (state.settings.clone(), upstream.shard, upstream.resp3, known)
    };
    let login = settings.credentials.as_ref().map(|c| [c.username.as_str(), c.password.as_str()]);
    let login = login.as_ref().map_or(&[][..], |words| &words[..]);
    let mut stream = engine::connect(&peer.endpoint, login, resp3, limits::CONNECT).await?;
    let asking = first_token(&mut stream, shard);
    let reply = tokio::time::timeout(FIRST_TOKEN, asking).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let token = match forwarded::parse(&reply) {
        Some((0, Message::Reply(token))) => read_token(token, &settings.config.store, shard),
        _ => Err(format!("it says {:?}", String::from_utf8_lossy(&reply[..reply.len().min(128)]))),
    };
    let has = token.map_err(io::Error::other)?;
    let seen = (known.await.unwrap_or_default(), cell.borrow().clocks.seen(shard));
    Ok((stream, Detour::new(peer, &settings.config.store, has, seen, Instant::now())))
}

async fn first_token(stream: &mut TcpStream, shard: ShardId) -> io::Result<Vec<u8>> {
    let level = Mark::new(AckLevel::Local, 0).to_string();
    engine::ask(stream, &["MAS.FORWARD", &shard.0.to_string(), &level, "MAS.TOKEN"]).await
}

async fn serve(cell: &Cell, up: usize, mut stream: TcpStream, detour: Detour) {
    let (shard, peer) = {
        let state = &mut *cell.borrow_mut();
        let upstream = &mut state.upstreams[up];
        let of = (upstream.shard.0, detour.peer.name.clone());
        upstream.detour = Some(Box::new(detour));
        state.shared.totals.detours.begin(&of);
        of
    };
    let mut replies = Replies::default();
    let end = poll_fn(|cx| drive(&mut cell.borrow_mut(), up, &mut stream, &mut replies, cx)).await;
    let state = &mut *cell.borrow_mut();
    let now = state.now();
    let Some(mut detour) = state.upstreams[up].detour.take() else { return };
    state.shared.totals.detours.add(&(shard, peer.clone()), std::mem::take(&mut detour.uncounted));
    state.shared.totals.detours.end(&(shard, peer.clone()));
    // The shard's other connection may be waiting for this one to be back.
    state.upstreams[up ^ 1].wake();
    match end {
        End::Home => {
            info!(
                shard,
                peer, "the engine here has all that was written in the other region: requests come back"
            );
            if detour.is_owed() {
                tokio::task::spawn_local(await_late(cell.clone(), up, stream, replies, detour));
            }
        }
        End::Lost(why) => {
            warn!(shard, peer, why, "left the other region");
            state.end_detour(up, *detour, now);
        }
    }
}

/// How a detour ends.
enum End {
    Home,
    Lost(&'static str),
}

/// Goes on until the socket or the time has to be waited for.
fn drive(
    state: &mut State,
    up: usize,
    stream: &mut TcpStream,
    replies: &mut Replies,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let upstream = &mut state.upstreams[up];
    upstream.woken = false;
    if upstream.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        upstream.waker = Some(cx.waker().clone());
    }
    let now = Instant::now();
    let config = &state.settings.config;
    let here = !config.drained && state.masters.master(upstream.shard).is_some();
    let Some(detour) = &mut upstream.detour else { return Poll::Ready(End::Lost("nothing is sent there")) };
    let region = detour.peer.region.0;
    if !config.peers.iter().any(|peer| peer.region.id == region && peer.endpoint.is_some()) {
        return Poll::Ready(End::Lost("the other region takes no more requests of this one"));
    }
    let mut step = detour.step(now, here);
    for _ in 0..limits::READS_IN_A_ROW {
        match carry_out(state, up, step, now) {
            Some(end) => return Poll::Ready(end),
            None => state.send_held(up, now, wall_ms()),
        }
        step = Step::Stay;
        if let Err(why) = write(state, up, stream, cx) {
            return Poll::Ready(End::Lost(why));
        }
        let mut read = ReadBuf::new(replies.room());
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(End::Lost("reading failed")),
            Poll::Ready(Ok(())) if read.filled().is_empty() => {
                return Poll::Ready(End::Lost("the other region closed it"));
            }
            Poll::Ready(Ok(())) => {
                let len = read.filled().len();
                replies.take(len);
            }
        }
        while let Some(bytes) = replies.next() {
            let Ok(bytes) = bytes else {
                return Poll::Ready(End::Lost("the other region sent what is no reply"));
            };
            let Some(detour) = &mut state.upstreams[up].detour else { break };
            match detour.hear(bytes, now) {
                Some(Event::Token(next)) => step = next,
                Some(event) => state.deliver(up, &event),
                None => return Poll::Ready(End::Lost("the other region sent what nobody asked for")),
            }
        }
        state.flush_dirty();
    }
    // Others first; then on.
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn write(
    state: &mut State,
    up: usize,
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
) -> Result<(), &'static str> {
    let Some(detour) = &mut state.upstreams[up].detour else { return Ok(()) };
    while !detour.unsent().is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, detour.unsent()) {
            Poll::Ready(Ok(0) | Err(_)) => return Err("writing failed"),
            Poll::Ready(Ok(n)) => detour.mark_sent(n),
            Poll::Pending => break,
        }
    }
    Ok(())
}

/// Does what was decided; gives how the detour ends, if it does.
fn carry_out(state: &mut State, up: usize, step: Step, now: Instant) -> Option<End> {
    match step {
        Step::Stay => {}
        Step::Ask => {
            if let Some(detour) = &mut state.upstreams[up].detour {
                detour.ask(now);
            }
        }
        Step::Await { turn, token, limit } => {
            let answer = state.replication.await_token(token, limit);
            let cell = state.cell.clone();
            tokio::task::spawn_local(async move {
                let answer = tokio::time::timeout(limit + Duration::from_secs(1), answer).await;
                let Some(cell) = cell.upgrade() else { return };
                let upstream = &mut cell.borrow_mut().upstreams[up];
                if let Some(detour) = &mut upstream.detour {
                    detour.arrived(turn, matches!(answer, Ok(Ok(true))));
                    upstream.wake();
                }
            });
        }
        Step::Home => return Some(End::Home),
        Step::Leave(why) => return Some(End::Lost(why)),
    }
    None
}

/// The requests go home again; replies that wait for their level in the other region come from there.
async fn await_late(
    cell: Cell,
    up: usize,
    mut stream: TcpStream,
    mut replies: Replies,
    mut detour: Box<Detour>,
) {
    let reading = poll_fn(|cx| {
        let state = &mut *cell.borrow_mut();
        let polled = read_late(state, up, &mut detour, &mut stream, &mut replies, cx);
        state.flush_dirty();
        polled
    });
    // Whatever it came to: what is left over then is told its fate.
    let _ = tokio::time::timeout(LATE_REPLIES, reading).await;
    let state = &mut *cell.borrow_mut();
    let now = state.now();
    state.end_detour(up, *detour, now);
}

fn read_late(
    state: &mut State,
    up: usize,
    detour: &mut Detour,
    stream: &mut TcpStream,
    replies: &mut Replies,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while detour.is_owed() {
        let mut read = ReadBuf::new(replies.room());
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                let len = read.filled().len();
                replies.take(len);
            }
            Poll::Ready(_) => return Poll::Ready(()),
        }
        while let Some(bytes) = replies.next() {
            match bytes.ok().and_then(|bytes| detour.hear(bytes, Instant::now())) {
                Some(Event::Token(_)) => {}
                Some(event) => state.deliver(up, &event),
                None => return Poll::Ready(()),
            }
        }
    }
    Poll::Ready(())
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

const UNKNOWN: &str = "MASUNKNOWN the connection to the other region, which serves the shard now, broke before it answered: the \
                       write may have been applied or not; read it back before you send it again";
const UNACKNOWLEDGED: &str = "MASUNACKNOWLEDGED the write was applied in the other region, which serves the shard now, but the \
                              connection broke before it said that the level was reached";

impl State {
    /// Sends what waits, as far as the other region has what its clients wrote.
    fn send_held(&mut self, up: usize, now: Instant, wall_ms: u64) {
        let at = self.now();
        let config = &self.settings.config;
        let default = (config.ack, config.remote_acks);
        let upstream = &mut self.upstreams[up];
        let Some(detour) = &mut upstream.detour else { return };
        if !detour.is_open(now, wall_ms) {
            return;
        }
        for queue in [&mut upstream.retry, &mut upstream.hold] {
            for _ in 0..queue.len() {
                let Some(held) = queue.pop_front() else { break };
                let client = self.clients.get(held.ticket.client);
                let waits = client.as_ref().is_some_and(|client| detour.lacks(&client.written).is_some());
                if waits {
                    detour.awaited();
                }
                // What another region sent here goes no further: it would go in circles.
                if waits || held.ticket.mark.is_set() || !detour.has_room() {
                    queue.push_back(held);
                    continue;
                }
                upstream.held_bytes -= held.frame.len();
                self.counters.count(Count::Forwarded);
                self.counters.forward_waited(at.wrapping_sub(held.since));
                let (level, regions) = client.and_then(|client| client.level()).unwrap_or(default);
                detour.push(held, Mark::new(level, regions));
            }
        }
    }

    /// Hands on what the other region said about a request.
    fn deliver(&mut self, up: usize, event: &Event<'_>) {
        let now = self.now();
        match *event {
            Event::Written { ticket, origin, seq, hlc, local } => {
                let shard = self.upstreams[up].shard;
                // So that what is written here afterwards gets a higher stamp.
                self.clocks.observe(shard, hlc);
                if let Some(client) = self.clients.get(ticket.client)
                    && client.session.slot(ticket.seq).is_some()
                {
                    client.note_written(shard, origin, seq, hlc, local);
                }
            }
            Event::Reply { ticket, bytes } => self.answer(ticket, bytes, now),
            Event::Token(_) => {}
        }
    }

    /// The connection to the other region is over: what can be sent again waits for who serves next.
    fn end_detour(&mut self, up: usize, detour: Detour, now: u32) {
        for fate in detour.end_all() {
            match fate {
                Fate::Again(held) => {
                    let upstream = &mut self.upstreams[up];
                    upstream.held_bytes += held.frame.len();
                    upstream.retry.push_back(held);
                    self.counters.count(Count::Retried);
                    upstream.wake();
                }
                Fate::Unknown(ticket) => {
                    self.counters.count(Count::UnknownWrites);
                    self.fail(ticket, UNKNOWN, now);
                }
                Fate::Unacknowledged(ticket) => {
                    self.counters.count(Count::AcksFailed);
                    self.fail(ticket, UNACKNOWLEDGED, now);
                }
            }
        }
        self.flush_dirty();
    }
}
