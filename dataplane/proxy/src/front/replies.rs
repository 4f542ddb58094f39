//! What comes back: replies of engines, acknowledgements, and failures, on their way to the clients.

use mas_core::config::AckLevel;
use mas_core::stamp::{Hlc, Origin, RegionId};

use super::clients::{Client, Closing, Pause};
use super::counters::Count;
use super::forwarded::Message;
use super::limits;
use super::outcome::{Outcome, classify};
use super::pipe::Ticket;
use super::replication::Written;
use super::session::Slot;
use super::state::{Link, State};
use crate::link::{AckEvent, Acknowledged, Note, Shipment, Wait, Waiter};
use crate::resp::encode;

/// The engine said something that no engine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

const UNKNOWN: &[u8] =
    b"-MASUNKNOWN the connection to the shard broke before it answered: the write may have been \
applied or not; read it back before you send it again\r\n";
const UNAVAILABLE: &[u8] =
    b"-QUEUEUNAVAILABLE the region's broker is away: the write was applied here and will be \
replicated later, but is not acknowledged\r\n";
const FAILED: &[u8] =
    b"-MASUNACKNOWLEDGED the write was applied here, but did not reach its acknowledgement level \
in time\r\n";

impl State {
    /// One reply of an engine.
    pub fn on_reply(&mut self, up: usize, bytes: &[u8], now: u32) -> Result<(), Nonsense> {
        let upstream = &mut self.upstreams[up];
        let ticket = upstream.pipe.next().ok_or(Nonsense)?;
        upstream.heard = now;
        let leaving = matches!(upstream.link, Link::Leaving { .. });
        match classify(bytes, ticket.write) {
            // After a refusal, what was read behind it may be older than what the refused write will have written.
            Outcome::Answer(_) if leaving && !ticket.write => self.put_back(up, now),
            Outcome::Answer(bytes) => {
                upstream.pipe.complete();
                self.answer(ticket, bytes, now);
            }
            Outcome::Applied { native, seq, hlc, effect } => {
                upstream.pipe.complete();
                self.applied(up, ticket, native, seq, hlc, effect, now);
            }
            Outcome::Refused => {
                self.put_back(up, now);
                if !leaving {
                    self.leave(up, now);
                }
            }
            Outcome::Nonsense => return Err(Nonsense),
        }
        Ok(())
    }

    /// The master refused: no more to it. Asks who is master now.
    fn leave(&mut self, up: usize, now: u32) {
        let upstream = &mut self.upstreams[up];
        let incarnation = upstream.link.incarnation();
        upstream.refused = Some((incarnation, self.masters.round(upstream.shard)));
        upstream.link = Link::Leaving { since: now, incarnation };
        upstream.wake();
        self.shared.ask_again.notify_one();
    }

    /// The oldest request in flight is to be sent again.
    fn put_back(&mut self, up: usize, now: u32) {
        let upstream = &mut self.upstreams[up];
        let Some(mut held) = upstream.pipe.take_refused(now) else { return };
        held.ticket.attempts += 1;
        if held.ticket.attempts > limits::ATTEMPTS_MAX {
            let error = format!("MASNOMASTER shard {} refused the request again and again", upstream.shard.0);
            self.fail(held.ticket, &error, now);
            return;
        }
        upstream.held_bytes += held.frame.len();
        upstream.retry.push_back(held);
        self.counters.count(Count::Retried);
    }

    /// A reply that needs no acknowledgement.
    pub fn answer(&mut self, ticket: Ticket, bytes: &[u8], now: u32) {
        if bytes.first() == Some(&b'-') {
            self.counters.failure(ticket.command);
        }
        let Some(client) = self.clients.get_for_reply(ticket.client) else { return };
        client.note_reply(bytes.len());
        match client.session.slot(ticket.seq) {
            None => return,
            Some(Slot::Gathering(gather)) => {
                gather.reply(ticket.part, bytes, false, now);
                finish_gather(client, ticket.seq);
            }
            Some(_) => client.session.answer(ticket.seq, bytes, &mut client.out),
        }
        self.touched(ticket.client);
    }

    /// A write was executed: its effect is shipped, its reply leaves now or when its level is reached.
    #[allow(clippy::too_many_arguments)] // the parts of one note
    fn applied(
        &mut self,
        up: usize,
        ticket: Ticket,
        native: &[u8],
        seq: u64,
        hlc: Hlc,
        effect: &[u8],
        now: u32,
    ) {
        let shard = self.upstreams[up].shard;
        let incarnation = self.upstreams[up].link.incarnation();
        self.clocks.observe(shard, hlc);
        let (level, regions) = ticket.mark.level().unwrap_or_else(|| self.level_of(ticket.client));
        let waits = level != AckLevel::Local;
        let origin = Origin { region: RegionId(self.settings.config.region.id), incarnation };
        if ticket.mark.is_set() {
            self.tell(ticket.client, ticket.seq, Message::Written { incarnation, seq, hlc });
        }
        let mut wait = None;
        if let Some(client) = self.clients.get_for_reply(ticket.client)
            && let Some(slot) = client.session.slot(ticket.seq)
        {
            if waits {
                let token = u64::from(ticket.client) << 32 | u64::from(ticket.seq);
                wait = Some(Wait { level, regions, waiter: Waiter { worker: self.worker, token } });
            }
            match slot {
                Slot::Gathering(gather) => {
                    gather.reply(ticket.part, native, waits, now);
                    finish_gather(client, ticket.seq);
                }
                _ if waits => client.session.keep(ticket.seq, native, now),
                _ => client.session.answer(ticket.seq, native, &mut client.out),
            }
            client.note_reply(native.len());
            client.note_written(shard, origin, seq, hlc, !waits);
            self.touched(ticket.client);
        }
        if wait.is_some() || !effect.is_empty() {
            if self.effects.capacity() < effect.len() {
                self.effects.reserve(effect.len().max(limits::EFFECT_BLOCK_BYTES));
            }
            self.effects.extend_from_slice(effect);
            let effect = self.effects.split().freeze();
            let note = Note { incarnation, seq, hlc, effect };
            self.shipments.push(Shipment { shard, note, wait });
        }
    }

    /// Says something to a proxy of another region about a request that it sent.
    fn tell(&mut self, client: u32, seq: u32, message: Message<'_>) {
        let Some(found) = self.clients.get_for_reply(client) else { return };
        if found.session.slot(seq).is_some() {
            found.session.tell(seq, message, &mut found.out);
            self.touched(client);
        }
    }

    /// The acknowledgement level that a client's writes ask for.
    pub fn level_of(&mut self, client: u32) -> (AckLevel, u16) {
        let config = &self.settings.config;
        let own = self.clients.get(client).and_then(|client| client.level());
        own.unwrap_or((config.ack, config.remote_acks))
    }

    /// Hands the effects of a batch of replies to the replication side.
    pub fn ship(&mut self) {
        if !self.shipments.is_empty() {
            self.replication.ship(std::mem::take(&mut self.shipments));
        }
    }

    /// An acknowledgement is over.
    pub fn acknowledged(&mut self, event: AckEvent, now: u32) {
        let (key, seq) = ((event.token >> 32) as u32, event.token as u32);
        let (count, instead) = match event.outcome {
            Acknowledged::Yes => (Count::AcksReached, None),
            Acknowledged::Degraded => (Count::AcksDegraded, None),
            Acknowledged::Unavailable => (Count::AcksUnavailable, Some(UNAVAILABLE)),
            Acknowledged::Failed => (Count::AcksFailed, Some(FAILED)),
        };
        self.counters.count(count);
        if event.outcome == Acknowledged::Degraded {
            self.tell(key, seq, Message::LocalOnly);
        }
        let Some(client) = self.clients.get_for_reply(key) else { return };
        if let Some(Slot::Gathering(gather)) = client.session.slot(seq) {
            gather.acknowledged(instead);
            finish_gather(client, seq);
        } else if let Some(since) = client.session.release(seq, instead, &mut client.out) {
            self.counters.ack_waited(now.wrapping_sub(since));
        }
        if event.outcome == Acknowledged::Degraded {
            // Whatever was written so far may exist in this region's memory only.
            for written in &mut client.written {
                written.local_only = written.seq;
            }
        }
        self.touched(key);
    }

    /// Answers a part of a request with an error line (without `-` and line end).
    pub fn fail(&mut self, ticket: Ticket, error: &str, now: u32) {
        let mut line = Vec::new();
        encode::error(&mut line, error);
        self.answer(ticket, &line, now);
    }

    /// The connection to an engine is gone. Reads and what was not sent whole are sent again; the fate of the
    /// other writes is unknown.
    pub fn lost(&mut self, up: usize, now: u32) {
        let upstream = &mut self.upstreams[up];
        upstream.link = Link::Down;
        let mut unknown = Vec::new();
        for (held, sent) in upstream.pipe.take_all(now) {
            if held.ticket.write && sent {
                unknown.push(held.ticket);
            } else {
                upstream.held_bytes += held.frame.len();
                upstream.retry.push_back(held);
                self.counters.count(Count::Retried);
            }
        }
        self.counters.add(Count::UnknownWrites, unknown.len());
        for ticket in unknown {
            self.answer(ticket, UNKNOWN, now);
        }
        self.flush_dirty();
        self.release_crowded(up);
        self.shared.ask_again.notify_one();
    }

    /// There is room again for clients that were stopped because too much was under way.
    pub fn release_crowded(&mut self, up: usize) {
        if !self.crowded.is_empty() && self.upstreams[up].pipe.bytes() < limits::PIPE_BYTES_MAX / 2 {
            for key in std::mem::take(&mut self.crowded) {
                if let Some(client) = self.clients.get(key)
                    && client.pause == Pause::Engine
                {
                    client.pause = Pause::Crowded;
                    client.wake();
                }
            }
        }
    }

    /// Ends what has waited too long for a master, or for its acknowledgement.
    pub fn expire(&mut self, now: u32) {
        for up in 0..self.upstreams.len() {
            for held in self.upstreams[up].take_overdue(now) {
                let shard = self.upstreams[up].shard;
                self.counters.count(Count::HeldExpired);
                if let Some(error) = self.is_late_elsewhere(up, held.ticket) {
                    self.counters.count(Count::ForwardsLate);
                    self.fail(held.ticket, &error, now);
                    continue;
                }
                let why = self.masters.shards.get(usize::from(shard.0)).map_or("", |s| s.why.as_str());
                let why = if why.is_empty() { "its master cannot be reached" } else { why };
                let error = format!("MASNOMASTER shard {} has no serving master: {why}", shard.0);
                self.fail(held.ticket, &error, now);
            }
        }
        let stuck = limits::micros(limits::OUTPUT_STUCK);
        for key in self.clients.keys() {
            let Some(client) = self.clients.get(key) else { continue };
            if client.stuck_since.is_some_and(|since| now.wrapping_sub(since) > stuck) {
                client.closing = Closing::Now;
                client.wake();
                self.counters.count(Count::SlowReaders);
                continue;
            }
            if client.session.is_idle() {
                continue;
            }
            let Some(client) = self.clients.get_for_reply(key) else { continue };
            let overdue = client.session.overdue(now, limits::micros(limits::ACK_WAIT));
            for seq in &overdue {
                if let Some(Slot::Gathering(gather)) = client.session.slot(*seq) {
                    gather.give_up_acks(FAILED);
                    finish_gather(client, *seq);
                } else {
                    client.session.release(*seq, Some(FAILED), &mut client.out);
                }
            }
            if !overdue.is_empty() {
                self.counters.add(Count::AcksFailed, overdue.len());
                self.touched(key);
            }
        }
        self.flush_dirty();
    }

    /// Where another region serves the shard: why a request could not go there in time.
    fn is_late_elsewhere(&mut self, up: usize, ticket: Ticket) -> Option<String> {
        let upstream = &self.upstreams[up];
        let detour = upstream.detour.as_ref().filter(|_| !ticket.mark.is_set())?;
        let head =
            format!("MASTIMEOUT shard {} is served by region {} now", upstream.shard.0, detour.peer.name);
        let written = self.clients.get(ticket.client).map_or(&[][..], |client| &client.written);
        Some(match detour.lacks(written) {
            Some(Written { origin, seq, local_only, .. }) => {
                let level = if local_only >= seq { ", acknowledged at Local only" } else { "" };
                format!(
                    "{head}, which does not have what this connection wrote: effect {seq} of incarnation {}{level}",
                    origin.incarnation
                )
            }
            None => format!("{head}, and it takes long to get there"),
        })
    }

    /// A client got output, or may go on.
    pub fn touched(&mut self, key: u32) {
        if let Some(client) = self.clients.get(key)
            && !std::mem::replace(&mut client.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Hands new output to the sockets at once; the client's task is woken only if there is something left to do.
    pub fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(client) = self.clients.get(key) else { continue };
            client.dirty = false;
            let before = client.out_sent;
            let flushed = flush(client);
            self.counters.add(Count::BytesWritten, client.out_sent - before);
            let emptied = (client.pending_output() == 0).then(|| {
                client.out_sent = 0;
                std::mem::take(&mut client.out)
            });
            let pending = client.pending_output();
            self.output_bytes = self.output_bytes + pending - client.counted_output;
            client.counted_output = pending;
            if pending > self.output.one_client && client.closing != Closing::Now {
                client.closing = Closing::Now;
                self.counters.count(Count::SlowReaders);
            }
            let ends = client.closing == Closing::Now
                || (client.closing == Closing::WhenAnswered && client.session.is_idle());
            if !flushed || ends || client.may_resume() {
                client.wake();
            }
            if let Some(buffer) = emptied {
                self.clients.recycle(buffer);
            }
        }
        self.dirty = dirty;
        if self.output_bytes > self.output.all_clients {
            self.close_slowest();
        }
    }

    /// All output together is too much: the client that takes the least of its own has to go. What those have who are going
    /// already does not count.
    fn close_slowest(&mut self) {
        let mut total = 0;
        let mut slowest: Option<&mut Client> = None;
        for (_, client) in self.clients.iter_mut().filter(|(_, client)| client.closing != Closing::Now) {
            total += client.pending_output();
            if slowest.as_ref().is_none_or(|most| client.pending_output() > most.pending_output()) {
                slowest = Some(client);
            }
        }
        if let Some(client) = slowest
            && total > self.output.all_clients
        {
            client.closing = Closing::Now;
            client.wake();
            self.counters.count(Count::SlowReaders);
        }
    }
}

/// Hands output to the socket; false if some is left, or the socket is broken (then the client ends).
fn flush(client: &mut Client) -> bool {
    while client.out_sent < client.out.len() {
        match client.stream.try_write(&client.out[client.out_sent..]) {
            Ok(n) => client.out_sent += n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                client.closing = Closing::Now;
                return false;
            }
        }
    }
    client.stuck_since = None;
    true
}

/// Answers a gathered request if nothing is missing any more.
fn finish_gather(client: &mut Client, seq: u32) {
    if let Some(Slot::Gathering(gather)) = client.session.slot(seq)
        && let Some(reply) = gather.finish()
    {
        client.session.answer(seq, &reply, &mut client.out);
    }
}
