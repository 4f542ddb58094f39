//! One client's task: reads requests, hands them to dispatch, writes replies. Holds no buffer while it is idle.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clients::{Client, Closing, Pause};
use super::counters::Count;
use super::dispatch::Flow;
use super::limits;
use super::state::{Cell, State};
use crate::resp::encode;
use crate::resp::inline;
use crate::resp::request::{Parsed, ProtocolError, Request, parse};

/// Serves the client in place `key` until its connection ends.
pub(super) async fn run(cell: Cell, key: u32) {
    poll_fn(|cx| {
        let state = &mut *cell.borrow_mut();
        let poll = drive(state, key, cx);
        state.wake_filled();
        poll
    })
    .await;
    let mut state = cell.borrow_mut();
    if let Some(client) = state.clients.remove(key) {
        state.input_bytes -= client.input.len();
        state.output_bytes -= client.counted_output;
        state.clients.recycle(client.out);
        state.shared.totals.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Goes on until the socket or the replies have to be waited for. Ready: the connection is over.
fn drive(state: &mut State, key: u32, cx: &mut Context<'_>) -> Poll<()> {
    let Some(client) = state.clients.get(key) else { return Poll::Ready(()) };
    if client.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        client.waker = Some(cx.waker().clone());
    }
    let mut now = None;
    for _ in 0..limits::READS_IN_A_ROW {
        if flush(state, key, cx).is_break() {
            return Poll::Ready(());
        }
        let draining = state.shared.draining.load(Ordering::Relaxed);
        let Some(client) = state.clients.get(key) else { return Poll::Ready(()) };
        let answered = client.session.is_idle() && client.out.is_empty();
        match client.closing {
            Closing::Now => return Poll::Ready(()),
            Closing::WhenAnswered if answered => return Poll::Ready(()),
            Closing::WhenAnswered => return Poll::Pending,
            Closing::No if draining && answered && client.input.is_empty() => return Poll::Ready(()),
            Closing::No => {}
        }
        if client.pause != Pause::No {
            if !client.may_resume() {
                return Poll::Pending;
            }
            client.pause = Pause::No;
            let now = *now.get_or_insert_with(|| state.now());
            take_input(state, key, None, now);
            continue;
        }
        let mut buf = std::mem::take(&mut state.read_buf);
        let mut read = ReadBuf::new(&mut buf);
        let polled = Pin::new(&mut client.stream).poll_read(cx, &mut read);
        let len = read.filled().len();
        match polled {
            Poll::Pending => {
                state.read_buf = buf;
                return Poll::Pending;
            }
            Poll::Ready(Err(_)) => client.closing = Closing::Now,
            Poll::Ready(Ok(())) if len == 0 => client.closing = Closing::WhenAnswered,
            Poll::Ready(Ok(())) => {
                state.counters.add(Count::BytesRead, len);
                let now = *now.get_or_insert_with(|| state.now());
                take_input(state, key, Some(&buf[..len]), now);
            }
        }
        state.read_buf = buf;
    }
    // Others first; then on.
    if flush(state, key, cx).is_break() {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Hands output to the socket. Breaks when the connection is over.
fn flush(state: &mut State, key: u32, cx: &mut Context<'_>) -> ControlFlow<()> {
    let clock = state.clock;
    let Some(client) = state.clients.get(key) else { return ControlFlow::Break(()) };
    if client.out.is_empty() {
        return ControlFlow::Continue(());
    }
    let before = client.out_sent;
    let flushed = poll_flush(client, cx);
    let sent = client.out_sent - before;
    let pending = client.pending_output();
    state.output_bytes = state.output_bytes + pending - client.counted_output;
    client.counted_output = pending;
    match flushed {
        Poll::Ready(Ok(())) => {
            client.out_sent = 0;
            client.stuck_since = None;
            let buffer = std::mem::take(&mut client.out);
            client.session.shrink();
            state.clients.recycle(buffer);
        }
        Poll::Pending => {
            if sent > 0 || client.stuck_since.is_none() {
                client.stuck_since = Some(clock.now());
            }
            // What was taken is moved out of the way once it is most of the buffer.
            if client.out_sent > client.out.len() / 2 {
                client.out.drain(..client.out_sent);
                client.out_sent = 0;
            }
        }
        Poll::Ready(Err(_)) => return ControlFlow::Break(()),
    }
    state.counters.add(Count::BytesWritten, sent);
    ControlFlow::Continue(())
}

fn poll_flush(client: &mut Client, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
    while client.out_sent < client.out.len() {
        let n = ready!(Pin::new(&mut client.stream).poll_write(cx, &client.out[client.out_sent..]))?;
        if n == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
        }
        client.out_sent += n;
    }
    Poll::Ready(Ok(()))
}

/// Takes requests out of what is buffered and what was just read; the rest is kept.
fn take_input(state: &mut State, key: u32, fresh: Option<&[u8]>, now: u32) {
    let Some(client) = state.clients.get(key) else { return };
    let mut input = std::mem::take(&mut client.input);
    let before = input.len();
    match fresh {
        Some(fresh) if input.is_empty() => {
            let used = requests(state, key, fresh, now);
            input.extend_from_slice(&fresh[used..]);
        }
        fresh => {
            input.extend_from_slice(fresh.unwrap_or_default());
            let used = requests(state, key, &input, now);
            if used == input.len() {
                input = Vec::new();
            } else {
                input.drain(..used);
            }
        }
    }
    state.input_bytes = state.input_bytes + input.len() - before;
    let overflow = state.input_bytes > limits::INPUT_BYTES_MAX && input.len() > before;
    if let Some(client) = state.clients.get(key) {
        client.input = input;
        if overflow {
            client.closing = Closing::Now;
            state.counters.count(Count::InputOverflows);
        }
    }
}

/// Dispatches requests from the start of `bytes`; returns how many bytes they were.
fn requests(state: &mut State, key: u32, bytes: &[u8], now: u32) -> usize {
    let mut at = 0;
    let crowded = state.upstreams.iter().any(|up| up.pipe.bytes() > limits::PIPE_BYTES_MAX);
    loop {
        let Some(client) = state.clients.get(key) else { return bytes.len() };
        if client.closing != Closing::No {
            return bytes.len();
        }
        if crowded || client.is_crowded() {
            client.pause = if crowded { Pause::Engine } else { Pause::Crowded };
            if crowded {
                state.crowded.push(key);
            }
            return at;
        }
        let rest = &bytes[at..];
        let mut words = std::mem::take(&mut state.words);
        let parsed = parse(rest, &mut words, &mut client.progress, client.authenticated);
        let (len, flow) = match parsed {
            Ok(Parsed::Incomplete) => {
                state.words = words;
                return at;
            }
            Ok(Parsed::Nothing(len)) => (len, Flow::Next),
            Ok(Parsed::Request(len)) => {
                let request = Request { frame: &rest[..len], words: &words };
                (len, state.request(key, request, now))
            }
            Ok(Parsed::Inline(len)) => match inline_request(state, key, &rest[..len], now) {
                Ok(flow) => (len, flow),
                Err(error) => (len, protocol_error(state, key, &error)),
            },
            Err(error) => (rest.len(), protocol_error(state, key, &error)),
        };
        state.words = words;
        match flow {
            Flow::Next => at += len,
            Flow::AfterAnswers => {
                if let Some(client) = state.clients.get(key) {
                    client.pause = Pause::Barrier;
                }
                return at;
            }
            Flow::End => return bytes.len(),
        }
    }
}

/// Turns a line of words into a request like any other.
fn inline_request(state: &mut State, key: u32, line: &[u8], now: u32) -> Result<Flow, ProtocolError> {
    let parts = inline::split(line)?;
    if parts.is_empty() {
        return Ok(Flow::Next);
    }
    let mut frame = Vec::with_capacity(line.len() + 16 * parts.len());
    encode::array(&mut frame, parts.len());
    for part in &parts {
        encode::bulk(&mut frame, part);
    }
    let mut words = Vec::with_capacity(parts.len());
    match parse(&frame, &mut words, &mut None, true)? {
        Parsed::Request(_) => Ok(state.request(key, Request { frame: &frame, words: &words }, now)),
        Parsed::Incomplete | Parsed::Nothing(_) | Parsed::Inline(_) => Ok(Flow::Next),
    }
}

fn protocol_error(state: &mut State, key: u32, error: &ProtocolError) -> Flow {
    state.counters.count(Count::ProtocolErrors);
    state.refuse(key, &format!("ERR Protocol error: {error}"));
    if let Some(client) = state.clients.get(key) {
        client.closing = Closing::WhenAnswered;
    }
    Flow::End
}
