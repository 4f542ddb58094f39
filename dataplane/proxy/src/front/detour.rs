//! A shard's requests on their way to another region, and the way back: decisions without I/O.
//!
//! While no engine of a shard serves here, a peer region does. What a connection has written here must be there before its
//! next request is, and what it has written and seen there must be here before it comes back; so the peer is asked for
//! tokens of the shard, all the time, and this region awaits the last of them before it takes the requests again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mas_core::config::{AckLevel, PeerConfig};
use mas_core::cover::{Cover, SeqSet};
use mas_core::replication::token::{ShardNeed, Token};
use mas_core::stamp::{Hlc, Origin, RegionId, ShardId};
use tokio::sync::oneshot;

use super::forwarded::{self, Mark, Message};
use super::limits;
use super::pipe::{Held, Ticket};
use super::replication::{LinkStatus, Written};
use crate::resp::{encode, reply};

/// Pause between two questions for a token while all is well.
const REFRESH: Duration = Duration::from_millis(500);
/// The same while a connection waits for what it wrote.
const REFRESH_AWAITED: Duration = Duration::from_millis(50);
/// After this time without a word, or without a master there, the peer is left.
const SILENCE: Duration = Duration::from_secs(3);
/// How long all wait for what the shard's master here was last known to have. Of that, what came to nobody's knowledge but
/// this region's engines may never come.
const SEEN_FOR: Duration = Duration::from_secs(1);
/// Clocks of regions are at most that far apart, milliseconds.
const SKEW_MS: u64 = 1000;
/// How long the engine here may take to get what the peer has, while requests still go there.
const FOLLOW_FOR: Duration = Duration::from_secs(2);
/// How long requests wait for those before them to be executed there, and then for the engine here to have it all.
const STOP_FOR: Duration = Duration::from_secs(1);
/// Pause after an attempt to come back that took too long.
const AGAIN: Duration = Duration::from_millis(500);

/// A peer that requests can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its id.
    pub region: RegionId,
    /// Where its proxies take clients.
    pub endpoint: String,
}

/// The peers to try for a shard, best first: not those that this region does not reach or cannot merge with any more.
pub fn choose(peers: &[PeerConfig], links: &[LinkStatus], shard: ShardId) -> Vec<Peer> {
    let mut found: Vec<(u64, Peer)> = peers
        .iter()
        .filter_map(|peer| {
            let link = links.iter().find(|link| link.peer == peer.region.name && link.shard == shard.0);
            let well = link.is_none_or(|link| !matches!(link.state.as_str(), "Disconnected" | "Lapsed"));
            let endpoint = peer.endpoint.clone().filter(|_| well)?;
            let region = RegionId(peer.region.id);
            let lag = link.map_or(u64::MAX, |link| link.lag_millis);
            Some((lag, Peer { name: peer.region.name.clone(), region, endpoint }))
        })
        .collect();
    found.sort_by_key(|(lag, _)| *lag);
    found.into_iter().map(|(_, peer)| peer).collect()
}

/// Who wants to know what the peer has.
pub type Asking = oneshot::Sender<Result<ShardNeed, String>>;

/// One request under way.
#[derive(Debug)]
enum Flight {
    /// A client's. It was handed to the socket once `end` bytes were.
    Request { held: Held, end: u64, level: Option<AckLevel>, written: Option<(Origin, u64, Hlc)> },
    /// The question what the peer has, asked in this turn.
    Token { turn: u32, asking: Vec<Asking> },
    /// Answered.
    Over,
}

/// Where the shard's requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There. Coming back is not tried before this time.
    Out { until: Instant },
    /// Still there; the engine here is to get what they have.
    Following,
    /// Nowhere: those under way are to be executed.
    Stopping { since: Instant },
    /// Nowhere: the engine here is to get the last of it.
    Arriving,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Ask the peer what it has.
    Ask,
    /// Await this token here, and tell [`Detour::arrived`].
    Await {
        /// Names the question.
        turn: u32,
        /// What to await.
        token: Vec<u8>,
        /// How long.
        limit: Duration,
    },
    /// The engine here has everything: requests go to it again.
    Home,
    /// Leave the peer; why.
    Leave(&'static str),
}

/// What a message of the peer means.
#[derive(Debug)]
pub enum Event<'a> {
    /// A write was executed there.
    Written {
        /// Whose.
        ticket: Ticket,
        /// Who numbered it.
        origin: Origin,
        /// Its number.
        seq: u64,
        /// The engine's clock.
        hlc: Hlc,
        /// It is answered at `Local`.
        local: bool,
    },
    /// A reply for a client.
    Reply {
        /// Whose.
        ticket: Ticket,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// News for [`Detour::step`].
    Token(Step),
}

/// How a request ended whose connection to the peer broke.
#[derive(Debug)]
pub enum Fate {
    /// It was certainly not executed, or does no harm twice.
    Again(Held),
    /// A write that may have been executed.
    Unknown(Ticket),
    /// A write that was executed, and has not reached its level.
    Unacknowledged(Ticket),
}

/// See the module.
#[derive(Debug)]
pub struct Detour {
    /// Where the requests go.
    pub peer: Peer,
    shard: ShardId,
    store: String,
    flights: VecDeque<Flight>,
    /// The number of the first of them.
    first: u32,
    /// How many of them are clients'.
    owed: usize,
    out: Vec<u8>,
    sent: usize,
    /// Bytes that were ever handed to the socket.
    sent_in_all: u64,
    /// Bytes of the clients' requests under way.
    bytes: usize,
    /// What the peer's master has, at least.
    has: ShardNeed,
    /// And the last that it numbered for this proxy.
    numbered: Option<(Origin, u64)>,
    /// What has to be there before anything is sent; `None`: it is.
    seen: Option<(Cover, Instant, Hlc)>,
    stage: Stage,
    turn: u32,
    /// Whether the token of a turn was covered here in time.
    arrived: Option<(u32, bool)>,
    /// Some connection waits for what it wrote.
    awaited: bool,
    heard: Instant,
    asked: Instant,
    known: Instant,
    asking: Vec<Asking>,
    /// Requests sent and not counted yet.
    pub uncounted: u64,
}

impl Detour {
    /// On the way to `peer`, whose master has `has`; one request, for that, was sent and answered. `seen`: what the master here was
    /// last known to have, and the highest clock that was shown to anybody.
    pub fn new(peer: Peer, store: &str, has: ShardNeed, seen: (Cover, Hlc), now: Instant) -> Self {
        Self {
            peer,
            shard: has.shard,
            store: store.to_owned(),
            flights: VecDeque::new(),
            first: 1,
            owed: 0,
            out: Vec::new(),
            sent: 0,
            sent_in_all: 0,
            bytes: 0,
            has,
            numbered: None,
            seen: Some((seen.0, now + SEEN_FOR, seen.1)),
            stage: Stage::Out { until: now },
            turn: 0,
            arrived: None,
            awaited: false,
            heard: now,
            asked: now,
            known: now,
            asking: Vec::new(),
            uncounted: 0,
        }
    }

    /// Whether requests may be sent.
    pub fn is_open(&mut self, now: Instant, wall_ms: u64) -> bool {
        if let Some((cover, until, clock)) = &self.seen {
            let has = self.has.cover.includes(cover) || now >= *until;
            // Else what is written there could get a lower stamp than what was read here.
            let later = self.has.hlc >= *clock || wall_ms > clock.millis() + SKEW_MS;
            if has && later {
                self.seen = None;
            }
        }
        self.seen.is_none() && matches!(self.stage, Stage::Out { .. } | Stage::Following)
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        // Those that are answered are kept until those before them are.
        self.owed < limits::DETOUR_MAX
            && self.flights.len() < 16 * limits::DETOUR_MAX
            && self.bytes < limits::DETOUR_BYTES_MAX
    }

    /// The first of a connection's writes that the peer does not have.
    pub fn lacks<'a>(&self, written: &'a [Written]) -> Option<&'a Written> {
        let there = |w: &Written| match self.numbered {
            Some((origin, seq)) if origin == w.origin && seq >= w.seq => seq,
            _ => self.has.cover.of(w.origin).map_or(0, SeqSet::contiguous),
        };
        written.iter().find(|w| w.shard == self.shard && w.seq > there(w))
    }

    /// Some connection waits for what it wrote.
    pub fn awaited(&mut self) {
        self.awaited = true;
    }

    /// Puts a request on its way.
    pub fn push(&mut self, held: Held, mark: Mark) {
        let (words, body) = held.words();
        forwarded::frame(&mut self.out, self.shard, mark, words, body);
        self.bytes += held.frame.len();
        (self.owed, self.uncounted) = (self.owed + 1, self.uncounted + 1);
        let (end, level) = (self.end(), mark.level().map(|(level, _)| level));
        self.flights.push_back(Flight::Request { held, end, level, written: None });
    }

    /// Asks the peer what it has.
    pub fn ask(&mut self, now: Instant) {
        let mut body = Vec::new();
        encode::bulk(&mut body, b"MAS.TOKEN");
        forwarded::frame(&mut self.out, self.shard, Mark::new(AckLevel::Local, 0), 1, &body);
        (self.asked, self.awaited) = (now, false);
        let asking = std::mem::take(&mut self.asking);
        self.flights.push_back(Flight::Token { turn: self.turn, asking });
    }

    /// Somebody wants to know what the peer has from now on.
    pub fn want_token(&mut self, asking: Asking) {
        self.asking.push(asking);
    }

    fn end(&self) -> u64 {
        self.sent_in_all + (self.out.len() - self.sent) as u64
    }

    /// The bytes that still have to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// `n` more bytes were handed to the socket.
    pub fn mark_sent(&mut self, n: usize) {
        self.sent += n;
        self.sent_in_all += n as u64;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// Whether replies are owed to clients.
    pub fn is_owed(&self) -> bool {
        self.owed > 0
    }

    /// What is to be done now. `here`: an engine of the shard serves here.
    pub fn step(&mut self, now: Instant, here: bool) -> Step {
        if !self.flights.is_empty() && now.saturating_duration_since(self.heard) > SILENCE {
            return Step::Leave("the other region does not answer");
        }
        if now.saturating_duration_since(self.known) > SILENCE {
            return Step::Leave("the shard has no master there either");
        }
        let arrived = self.arrived.take().filter(|(turn, _)| *turn == self.turn);
        match self.stage {
            Stage::Following | Stage::Stopping { .. } | Stage::Arriving if !here => {
                self.enter(Stage::Out { until: now });
            }
            Stage::Following if arrived.is_some_and(|(_, covered)| covered) => {
                self.enter(Stage::Stopping { since: now });
            }
            Stage::Arriving if arrived.is_some_and(|(_, covered)| covered) => return Step::Home,
            Stage::Following | Stage::Arriving if arrived.is_some() => {
                self.enter(Stage::Out { until: now + AGAIN });
            }
            Stage::Out { until } if here && self.seen.is_none() && now >= until => {
                self.enter(Stage::Following);
                return Step::Ask;
            }
            Stage::Stopping { .. } if self.is_executed() => {
                self.enter(Stage::Arriving);
                return Step::Ask;
            }
            Stage::Stopping { since } if now >= since + STOP_FOR => self.enter(Stage::Out { until: now + AGAIN }),
            Stage::Out { .. } | Stage::Following | Stage::Stopping { .. } | Stage::Arriving => {}
        }
        let hurry = self.awaited || self.seen.is_some();
        let due = if hurry { REFRESH_AWAITED } else { REFRESH };
        let asks = self.flights.iter().any(|flight| matches!(flight, Flight::Token { .. }));
        let wanted = !self.asking.is_empty() || (now >= self.asked + due && !asks);
        if wanted { Step::Ask } else { Step::Stay }
    }

    /// Whether everything under way was executed, if not answered.
    fn is_executed(&self) -> bool {
        self.flights.iter().all(|flight| match flight {
            Flight::Request { written, .. } => written.is_some(),
            Flight::Token { .. } | Flight::Over => true,
        })
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.turn += 1;
    }

    /// The token of `turn` was awaited here; the next [`Detour::step`] goes on from there.
    pub fn arrived(&mut self, turn: u32, covered: bool) {
        self.arrived = Some((turn, covered));
    }

    /// Takes a message of the peer; `None`: it is none.
    pub fn hear<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Option<Event<'a>> {
        self.heard = now;
        let (number, message) = forwarded::parse(bytes)?;
        let flight = self.flights.get_mut(number.wrapping_sub(self.first) as usize)?;
        let event = match (&mut *flight, message) {
            (Flight::Request { held, level, written, .. }, Message::Written { incarnation, seq, hlc }) => {
                let origin = Origin { region: self.peer.region, incarnation };
                *written = Some((origin, seq, hlc));
                let before = self.numbered.filter(|(known, _)| *known == origin).map_or(0, |(_, seq)| seq);
                self.numbered = Some((origin, before.max(seq)));
                let local = *level == Some(AckLevel::Local);
                Event::Written { ticket: held.ticket, origin, seq, hlc, local }
            }
            (Flight::Request { held, written, .. }, Message::LocalOnly) => {
                let (origin, seq, hlc) = (*written)?;
                Event::Written { ticket: held.ticket, origin, seq, hlc, local: true }
            }
            (Flight::Request { .. }, Message::Reply(bytes)) => {
                let Flight::Request { held, .. } = std::mem::replace(flight, Flight::Over) else { return None };
                (self.owed, self.bytes) = (self.owed - 1, self.bytes - held.frame.len());
                Event::Reply { ticket: held.ticket, bytes }
            }
            (Flight::Token { .. }, Message::Reply(bytes)) => {
                let Flight::Token { turn, asking } = std::mem::replace(flight, Flight::Over) else { return None };
                Event::Token(self.take_token(turn, asking, bytes, now))
            }
            (Flight::Token { .. }, Message::Written { .. } | Message::LocalOnly) | (Flight::Over, _) => return None,
        };
        while let Some(Flight::Over) = self.flights.front() {
            self.flights.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        Some(event)
    }

    fn take_token(&mut self, turn: u32, asking: Vec<Asking>, bytes: &[u8], now: Instant) -> Step {
        let need = read_token(bytes, &self.store, self.shard);
        for asking in asking {
            // Who asked may be gone.
            let _ = asking.send(need.clone());
        }
        let is_turn = turn == self.turn;
        match need {
            Ok(need) => {
                (self.has, self.known) = (need, now);
                let limit = match self.stage {
                    Stage::Following if is_turn => FOLLOW_FOR,
                    Stage::Arriving if is_turn => STOP_FOR,
                    Stage::Out { .. } | Stage::Following | Stage::Stopping { .. } | Stage::Arriving => {
                        return Step::Stay;
                    }
                };
                let token = reply::bulk(bytes).unwrap_or_default().to_vec();
                Step::Await { turn, token, limit }
            }
            Err(_) if is_turn && matches!(self.stage, Stage::Following | Stage::Arriving) => {
                self.enter(Stage::Out { until: now + AGAIN });
                Step::Stay
            }
            Err(_) => Step::Stay,
        }
    }

    /// The connection is over: what becomes of the requests under way, in their order.
    pub fn end_all(self) -> Vec<Fate> {
        let sent = self.sent_in_all;
        let fate = |flight| match flight {
            Flight::Request { held, written: Some(_), .. } => Some(Fate::Unacknowledged(held.ticket)),
            Flight::Request { held, end, .. } if held.ticket.write && end <= sent => Some(Fate::Unknown(held.ticket)),
            Flight::Request { held, .. } => Some(Fate::Again(held)),
            Flight::Token { .. } | Flight::Over => None,
        };
        self.flights.into_iter().filter_map(fate).collect()
    }
}

/// What a reply to `MAS.TOKEN` says of a shard, or the peer's error.
pub fn read_token(bytes: &[u8], store: &str, shard: ShardId) -> Result<ShardNeed, String> {
    let Some(text) = reply::bulk(bytes) else {
        return Err(String::from_utf8_lossy(bytes.get(1..).unwrap_or_default().trim_ascii()).into_owned());
    };
    let token = Token::parse(text, store).map_err(|error| error.to_string())?;
    let need = token.shards.into_iter().find(|need| need.shard == shard);
    need.ok_or_else(|| format!("the token does not name shard {}", shard.0))
}
