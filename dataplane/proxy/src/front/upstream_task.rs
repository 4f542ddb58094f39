//! One engine connection's task: connects to the shard's master, writes what was queued, scans what comes back.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::counters::Count;
use super::detour_task;
use super::engine;
use super::limits;
use super::pipe::{Header, set_header};
use super::routing::Master;
use super::state::{Cell, Link, State};
use crate::resp::reply::{BadReply, Scanner};

/// First and longest pause between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A reply buffer larger than this is given back when it is empty.
const KEEP_BYTES: usize = 1024 * 1024;

/// Serves connection `up` as long as the worker lives.
pub(super) async fn run(cell: Cell, up: usize) {
    let mut pause = PAUSES.0;
    loop {
        let Target::Master(master) = poll_fn(|cx| target(&mut cell.borrow_mut(), up, cx)).await else {
            detour_task::run(&cell, up).await;
            continue;
        };
        let (password, resp3, shard) = {
            let state = cell.borrow();
            (state.settings.engine_password.clone(), state.upstreams[up].resp3, state.upstreams[up].shard.0)
        };
        let login = password.as_ref().map(|password| [password.as_str()]);
        let login = login.as_ref().map_or(&[][..], |words| &words[..]);
        let connected = engine::connect(&master.address, login, resp3, limits::CONNECT).await;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                warn!(shard, engine = master.address, %error, "connecting to the master failed");
                cell.borrow().shared.ask_again.notify_one();
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
        };
        pause = PAUSES.0;
        info!(shard, engine = master.address, incarnation = %master.incarnation, resp3, "connected to the master");
        attach(&mut cell.borrow_mut(), up, master);
        let mut replies = Replies::default();
        let why = poll_fn(|cx| drive(&mut cell.borrow_mut(), up, &mut stream, &mut replies, cx)).await;
        debug!(shard, why, "left the master");
        let state = &mut *cell.borrow_mut();
        if why != HANDOVER {
            warn!(shard, why, "lost the connection to the master");
            state.counters.count(Count::EngineLosses);
        }
        let now = state.now();
        state.lost(up, now);
    }
}

const HANDOVER: &str = "others serve the shard now";

/// Where a shard's requests are to go.
enum Target {
    /// To its master.
    Master(Master),
    /// To another region.
    Peer,
}

/// Where to connect, once there is somebody to connect to and somebody wants it.
fn target(state: &mut State, up: usize, cx: &mut Context<'_>) -> Poll<Target> {
    let away = state.may_leave(up);
    let upstream = &mut state.upstreams[up];
    upstream.woken = false;
    upstream.waker = Some(cx.waker().clone());
    if !upstream.wanted {
        return Poll::Pending;
    }
    if away {
        return Poll::Ready(Target::Peer);
    }
    let round = state.masters.round(upstream.shard);
    match state.masters.master(upstream.shard) {
        // It has just said that it does not serve: wait for a fresh word.
        Some(master)
            if upstream.refused.is_some_and(|(inc, at)| inc == master.incarnation && round <= at) =>
        {
            Poll::Pending
        }
        Some(master) => Poll::Ready(Target::Master(master.clone())),
        None => Poll::Pending,
    }
}

/// Connected: first goes what was refused or lost elsewhere, then what came meanwhile.
fn attach(state: &mut State, up: usize, master: Master) {
    let now = state.now();
    state.counters.count(Count::EngineConnections);
    let upstream = &mut state.upstreams[up];
    let header = Header::new(master.incarnation.0, state.clocks.seen(upstream.shard).0);
    upstream.link = Link::Up(master);
    upstream.heard = now;
    for mut held in upstream.retry.drain(..).chain(upstream.hold.drain(..)) {
        if held.ticket.write {
            set_header(&mut held.frame, header);
        }
        upstream.pipe.push(held.ticket, |buf| buf.extend_from_slice(&held.frame));
    }
    upstream.held_bytes = 0;
}

/// What was read and not used yet.
#[derive(Default)]
pub(super) struct Replies {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    scanner: Scanner,
}

impl Replies {
    /// Makes room for reading: moves the rest to the front, grows if one reply fills everything.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buf.len() > KEEP_BYTES {
                self.buf = Vec::new();
            }
        } else if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buf.len() < limits::REPLY_BYTES {
            self.buf.resize(limits::REPLY_BYTES, 0);
        } else if self.end == self.buf.len() {
            self.buf.resize(self.buf.len() * 2, 0);
        }
        &mut self.buf[self.end..]
    }

    /// `n` bytes were read into [`Replies::room`].
    pub(super) fn take(&mut self, n: usize) {
        self.end += n;
    }

    /// The next whole reply.
    pub(super) fn next(&mut self) -> Option<Result<&[u8], BadReply>> {
        match self.scanner.scan(&self.buf[self.start..self.end]) {
            Ok(None) => None,
            Ok(Some(len)) => {
                self.start += len;
                Some(Ok(&self.buf[self.start - len..self.start]))
            }
            Err(bad) => Some(Err(bad)),
        }
    }
}

/// Goes on until the socket has to be waited for. Ready: the connection is over, and why.
fn drive(
    state: &mut State,
    up: usize,
    stream: &mut TcpStream,
    replies: &mut Replies,
    cx: &mut Context<'_>,
) -> Poll<&'static str> {
    let now = state.now();
    let no_master = state.has_no_master(state.upstreams[up].shard);
    let drained = state.is_drained() && state.may_leave(up);
    let upstream = &mut state.upstreams[up];
    upstream.woken = false;
    if upstream.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        upstream.waker = Some(cx.waker().clone());
    }
    if no_master {
        return Poll::Ready("the shard had no serving master for too long");
    }
    if drained && let Link::Up(master) = &upstream.link {
        upstream.link = Link::Leaving { since: now, incarnation: master.incarnation };
    }
    if !upstream.pipe.is_empty() && now.wrapping_sub(upstream.heard) > limits::micros(limits::ENGINE_STUCK) {
        return Poll::Ready("the engine does not answer");
    }
    while !upstream.pipe.unsent().is_empty() && matches!(upstream.link, Link::Up(_)) {
        match Pin::new(&mut *stream).poll_write(cx, upstream.pipe.unsent()) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready("writing failed"),
            Poll::Ready(Ok(n)) => upstream.pipe.mark_sent(n),
            Poll::Pending => break,
        }
    }
    let mut again = true;
    for _ in 0..limits::READS_IN_A_ROW {
        let mut read = ReadBuf::new(replies.room());
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Pending => {
                again = false;
                break;
            }
            Poll::Ready(Err(_)) => return Poll::Ready("reading failed"),
            Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready("the engine closed it"),
            Poll::Ready(Ok(())) => {
                let len = read.filled().len();
                replies.take(len);
            }
        }
        let taken = take_replies(state, up, replies, now);
        state.ship();
        state.flush_dirty();
        if taken.is_err() {
            return Poll::Ready("the engine sent what is no reply");
        }
    }
    state.release_crowded(up);
    if let Link::Leaving { since, .. } = state.upstreams[up].link {
        let patience_over = now.wrapping_sub(since) > limits::micros(limits::HANDOVER);
        // What was not sent is not waited for.
        if state.upstreams[up].pipe.sent_requests() == 0 || patience_over {
            return Poll::Ready(HANDOVER);
        }
    }
    if again {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// Hands every whole reply on.
fn take_replies(state: &mut State, up: usize, replies: &mut Replies, now: u32) -> Result<(), ()> {
    while let Some(reply) = replies.next() {
        let reply = reply.map_err(|_| ())?;
        // Out-of-band messages of RESP3; nothing that the proxy sends asks for any.
        if reply[0] != b'>' {
            state.on_reply(up, reply, now).map_err(|_| ())?;
        }
    }
    Ok(())
}
