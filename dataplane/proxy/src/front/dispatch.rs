//! One request of a client: what becomes of it. Default deny: only what the table of commands supports goes anywhere.

use mas_commands::{Args, Command, Routing, Support};
use mas_core::stamp::ShardId;

use super::answers;
use super::counters::Count;
use super::forwarded::Mark;
use super::gather::{Cursor, Gather, Join};
use super::limits;
use super::pipe::{Header, Held, Ticket, write_frame};
use super::session::Slot;
use super::split::{Part, join_of, split};
use super::state::{Link, State};
use crate::resp::encode;
use crate::resp::request::Request;

/// Whether the next request may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It may.
    Next,
    /// Not before everything owed is answered; then this one has to be given again.
    AfterAnswers,
    /// Nothing more is read from this client.
    End,
}

const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

impl State {
    /// Takes one request of the client in place `key`.
    pub fn request(&mut self, key: u32, request: Request<'_>, now: u32) -> Flow {
        let command = match self.find(&request) {
            Ok(command) => command,
            Err(error) => return self.refuse(key, &error),
        };
        let Some(client) = self.clients.get(key) else { return Flow::End };
        if !client.authenticated && !command.flags.has("no_auth") {
            return self.refuse(key, "NOAUTH Authentication required.");
        }
        if let Some(error) = unsupported(command, &request) {
            self.counters.count(Count::UnsupportedCommands);
            return self.refuse(key, &error);
        }
        if command.routing == Routing::Proxy {
            return answers::answer(self, key, command, &request);
        }
        self.counters.call(command.index);
        self.forward(key, command, &request, now)
    }

    /// Takes one request that a proxy of another region sent here, for `shard` alone. It goes to that shard's engine, and never
    /// to another region: then it would go in circles where no region has a master.
    pub fn forwarded(
        &mut self,
        key: u32,
        shard: ShardId,
        mark: Mark,
        request: Request<'_>,
        now: u32,
    ) -> Flow {
        let command = match self.find(&request) {
            Ok(command) => command,
            Err(error) => return self.refuse(key, &error),
        };
        let Some(client) = self.clients.get(key) else { return Flow::End };
        if !client.authenticated {
            return self.refuse(key, "NOAUTH Authentication required.");
        }
        if let Some(error) = unsupported(command, &request) {
            self.counters.count(Count::UnsupportedCommands);
            return self.refuse(key, &error);
        }
        if command.routing == Routing::Proxy {
            return self.refuse(key, "ERR MAS.FORWARD is for commands that engines execute");
        }
        let elsewhere = |i| self.settings.shard_of(request.arg(i)) != shard;
        if command.keys(&request).is_ok_and(|mut keys| keys.any(elsewhere)) {
            return self.refuse(key, "CROSSSLOT Keys in request are not of the shard that MAS.FORWARD names");
        }
        self.counters.call(command.index);
        self.counters.count(Count::ForwardedHere);
        self.send_whole(key, command, shard, mark, &request, now);
        Flow::Next
    }

    /// The command that a request asks for, or the error for it.
    fn find(&mut self, request: &Request<'_>) -> Result<&'static Command, String> {
        let Some(mut command) = mas_commands::lookup(request.arg(0)) else {
            self.counters.count(Count::UnsupportedCommands);
            return Err(unknown_command(request));
        };
        if command.container && request.count() > 1 {
            match mas_commands::lookup_sub(command, request.arg(1)) {
                Some(sub) => command = sub,
                None if matches!(command.support, Support::Yes) => {
                    let sub = String::from_utf8_lossy(&request.arg(1)[..request.arg(1).len().min(128)]);
                    self.counters.count(Count::UnsupportedCommands);
                    return Err(format!("ERR unknown subcommand '{sub}'. Try {} HELP.", command.name));
                }
                None => {}
            }
        }
        let half_a_pair = command.takes_pairs() && request.count().is_multiple_of(2);
        if half_a_pair || !command.arity_fits(request.count()) {
            let name = command.name.to_ascii_lowercase();
            return Err(format!("ERR wrong number of arguments for '{name}' command"));
        }
        Ok(command)
    }

    /// Sends a request to the shard or shards that it belongs to.
    fn forward(&mut self, key: u32, command: &'static Command, request: &Request<'_>, now: u32) -> Flow {
        match command.routing {
            Routing::Slot => match self.one_slot(command, request) {
                Ok(shard) => self.send_whole(key, command, shard, Mark::NONE, request, now),
                Err(error) => {
                    self.counters.count(Count::CrossSlot);
                    self.counters.failure(command.index);
                    return self.refuse(key, error);
                }
            },
            Routing::SplitSum | Routing::SplitValues => self.send_split(key, command, request, 1, now),
            Routing::SplitPairs => self.send_split(key, command, request, 2, now),
            Routing::FanOutSum | Routing::FanOutJoin | Routing::FanOutOk | Routing::FanOutPick => {
                self.send_everywhere(key, command, request, now);
            }
            Routing::Scan => {
                let shards = self.settings.shards();
                let Some(cursor) = Cursor::parse(request.arg(1), shards) else {
                    return self.refuse(key, "ERR invalid cursor");
                };
                self.send_scan(key, command, request, cursor, now);
            }
            // Answered or refused before.
            Routing::Proxy | Routing::Refused => {}
        }
        Flow::Next
    }

    /// The shard of a request whose keys must all be in one slot.
    fn one_slot(&self, command: &Command, request: &Request<'_>) -> Result<ShardId, &'static str> {
        // Without keys, or with a count of keys that makes no sense, any engine can say what is wrong with it.
        let Ok(mut keys) = command.keys(request) else { return Ok(ShardId(0)) };
        let Some(first) = keys.next() else { return Ok(ShardId(0)) };
        let slot = mas_core::slot::slot_of(request.arg(first));
        for other in keys {
            if mas_core::slot::slot_of(request.arg(other)) != slot {
                return Err(CROSS_SLOT);
            }
        }
        Ok(self.settings.shard_of_slot(slot))
    }

    fn send_whole(
        &mut self,
        key: u32,
        command: &Command,
        shard: ShardId,
        mark: Mark,
        request: &Request<'_>,
        now: u32,
    ) {
        let Some(client) = self.clients.get(key) else { return };
        let seq = client.session.open(Slot::Waiting);
        let up = Self::upstream_of(shard, client.resp3);
        let ticket = Ticket { mark, ..ticket(key, seq, 0, command) };
        if command.is_write() {
            self.send(up, ticket, now, |buf, header| {
                write_frame(buf, request.count(), request.body(), header);
            });
        } else {
            self.send(up, ticket, now, |buf, _| buf.extend_from_slice(request.frame));
        }
    }

    fn send_split(&mut self, key: u32, command: &Command, request: &Request<'_>, group: usize, now: u32) {
        let settings = self.settings.clone();
        let first = settings.shard_of(request.arg(1));
        if (1..request.count()).step_by(group).all(|i| settings.shard_of(request.arg(i)) == first) {
            return self.send_whole(key, command, first, Mark::NONE, request, now);
        }
        let (parts, order) = split(request, group, |key| settings.shard_of(key));
        if let Some(join) = join_of(command.routing, order, 0) {
            self.send_parts(key, command, join, &parts, now);
        }
    }

    fn send_everywhere(&mut self, key: u32, command: &Command, request: &Request<'_>, now: u32) {
        let part =
            |shard| Part { shard: ShardId(shard), words: request.count(), body: request.body().to_vec() };
        let parts: Vec<Part> = (0..self.settings.shards()).map(part).collect();
        if let Some(join) = join_of(command.routing, Vec::new(), rand::random()) {
            self.send_parts(key, command, join, &parts, now);
        }
    }

    fn send_scan(&mut self, key: u32, command: &Command, request: &Request<'_>, cursor: Cursor, now: u32) {
        let mut body = Vec::new();
        encode::bulk(&mut body, request.arg(0));
        encode::bulk(&mut body, cursor.inner.to_string().as_bytes());
        for word in 2..request.count() {
            encode::bulk(&mut body, request.arg(word));
        }
        let join = Join::Scan { shard: cursor.shard, shards: self.settings.shards() };
        let part = Part { shard: ShardId(cursor.shard), words: request.count(), body };
        self.send_parts(key, command, join, &[part], now);
    }

    fn send_parts(&mut self, key: u32, command: &Command, join: Join, parts: &[Part], now: u32) {
        let Some(client) = self.clients.get(key) else { return };
        let resp3 = client.resp3;
        let seq = client.session.open(Slot::Gathering(Box::new(Gather::new(join, parts.len()))));
        for (n, part) in parts.iter().enumerate() {
            let up = Self::upstream_of(part.shard, resp3);
            let ticket = ticket(key, seq, n as u16, command);
            self.send(up, ticket, now, |buf, header| {
                if ticket.write {
                    write_frame(buf, part.words, &part.body, header);
                } else {
                    encode::array(buf, part.words);
                    buf.extend_from_slice(&part.body);
                }
            });
        }
    }

    /// Puts a request on its way, or keeps it until its shard has a master.
    fn send(&mut self, up: usize, ticket: Ticket, now: u32, write: impl FnOnce(&mut Vec<u8>, Header)) {
        let upstream = &mut self.upstreams[up];
        if let Link::Up(master) = &upstream.link {
            let header = Header::new(master.incarnation.0, self.clocks.seen(upstream.shard).0);
            if upstream.pipe.is_empty() {
                upstream.heard = now;
            }
            upstream.pipe.push(ticket, |buf| write(buf, header));
            if !std::mem::replace(&mut upstream.listed, true) {
                self.filled.push(up);
            }
            return;
        }
        let news = !std::mem::replace(&mut upstream.wanted, true) || upstream.detour.is_some();
        if news && !std::mem::replace(&mut upstream.listed, true) {
            self.filled.push(up);
        }
        if upstream.held() >= limits::HELD_MAX || upstream.held_bytes >= limits::HELD_BYTES_MAX {
            let error = format!(
                "MASNOMASTER shard {} has no serving master, and too many requests wait",
                upstream.shard.0
            );
            self.counters.count(Count::HeldExpired);
            self.fail(ticket, &error, now);
            return;
        }
        let mut frame = Vec::new();
        write(&mut frame, Header::default());
        upstream.held_bytes += frame.len();
        upstream.hold.push_back(Held { ticket, frame: frame.into(), since: now });
    }

    /// Answers a request with an error line (without `-` and line end).
    pub fn refuse(&mut self, key: u32, error: &str) -> Flow {
        let mut line = Vec::new();
        encode::error(&mut line, error);
        self.reply(key, &line)
    }

    /// Answers a request with bytes that are ready.
    pub fn reply(&mut self, key: u32, bytes: &[u8]) -> Flow {
        let Some(client) = self.clients.get_for_reply(key) else { return Flow::End };
        let seq = client.session.open(Slot::Waiting);
        client.session.answer(seq, bytes, &mut client.out);
        Flow::Next
    }
}

fn ticket(client: u32, seq: u32, part: u16, command: &Command) -> Ticket {
    Ticket {
        client,
        seq,
        part,
        command: command.index,
        write: command.is_write(),
        attempts: 0,
        mark: Mark::NONE,
    }
}

/// In the words of Redis, which some clients look at.
fn unknown_command(request: &Request<'_>) -> String {
    let lossy =
        |bytes: &[u8], most: usize| String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned();
    let mut args = String::new();
    for i in 1..request.count() {
        if args.len() >= 128 {
            break;
        }
        let word = lossy(request.arg(i), 128 - args.len());
        args.extend(["'", &word, "' "]);
    }
    format!("ERR unknown command '{}', with args beginning with: {args}", lossy(request.arg(0), 128))
}

/// Why a command that is known is not served.
fn unsupported(command: &Command, request: &Request<'_>) -> Option<String> {
    if let Support::No(why) = command.support {
        let name = command.name.replace('|', " ");
        return Some(format!("ERR '{name}' is not supported by a multi-active store: {why}"));
    }
    let (option, why) = command.refused_option(request)?;
    let name = command.name.replace('|', " ");
    Some(format!("ERR '{name}' with {option} is not supported by a multi-active store: {why}"))
}
