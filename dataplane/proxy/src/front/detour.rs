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
            Stage::Stopping { since } if now >= since + STOP_FOR => {
                self.enter(Stage::Out { until: now + AGAIN });
            }
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
                let Flight::Request { held, .. } = std::mem::replace(flight, Flight::Over) else {
                    return None;
                };
                (self.owed, self.bytes) = (self.owed - 1, self.bytes - held.frame.len());
                Event::Reply { ticket: held.ticket, bytes }
            }
            (Flight::Token { .. }, Message::Reply(bytes)) => {
                let Flight::Token { turn, asking } = std::mem::replace(flight, Flight::Over) else {
                    return None;
                };
                Event::Token(self.take_token(turn, asking, bytes, now))
            }
            (Flight::Token { .. }, Message::Written { .. } | Message::LocalOnly) | (Flight::Over, _) => {
                return None;
            }
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
            Flight::Request { held, end, .. } if held.ticket.write && end <= sent => {
                Some(Fate::Unknown(held.ticket))
            }
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

#[cfg(test)]
mod tests {
    use mas_core::config::BrokerConfig;
    use mas_core::config::RegionRef;
    use mas_core::stamp::Incarnation;

    use super::*;

    const SHARD: ShardId = ShardId(0);
    const HERE: RegionId = RegionId(1);
    const THERE: RegionId = RegionId(2);

    fn origin(region: RegionId, incarnation: u64) -> Origin {
        Origin { region, incarnation: Incarnation(incarnation) }
    }

    fn need(seqs: &[(Origin, u64)], hlc: u64) -> ShardNeed {
        let mut cover = Cover::default();
        for &(origin, seq) in seqs {
            cover.set(origin, SeqSet::up_to(seq));
        }
        ShardNeed { shard: SHARD, cover, hlc: Hlc(hlc), local_only: None }
    }

    fn detour(seen: &[(Origin, u64)], clock: Hlc, now: Instant) -> Detour {
        let peer = Peer { name: "there".into(), region: THERE, endpoint: "there:1".into() };
        Detour::new(peer, "shop", need(&[], 0), (need(seen, 0).cover, clock), now)
    }

    fn held(seq: u32, write: bool) -> Held {
        let ticket = Ticket { client: 1, seq, part: 0, command: 0, write, attempts: 0, mark: Mark::NONE };
        let mut frame = Vec::new();
        let body = b"$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
        if write {
            super::super::pipe::write_frame(&mut frame, 3, body, super::super::pipe::Header::default());
        } else {
            frame = [b"*3\r\n", &body[..]].concat();
        }
        Held { ticket, frame: frame.into(), since: 0 }
    }

    fn said(number: u32, message: Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        forwarded::message(&mut bytes, number, message);
        bytes
    }

    fn token(need: ShardNeed) -> Vec<u8> {
        let mut bytes = Vec::new();
        let text = Token { shards: vec![need] }.encode_exact("shop").expect("short");
        encode::bulk(&mut bytes, text.as_bytes());
        bytes
    }

    /// The peer answers question `number` with a token.
    fn told(detour: &mut Detour, number: u32, seqs: &[(Origin, u64)], now: Instant) -> Step {
        let bytes = said(number, Message::Reply(&token(need(seqs, 1))));
        match detour.hear(&bytes, now) {
            Some(Event::Token(step)) => step,
            other => panic!("{other:?}"),
        }
    }

    fn written(origin: Origin, seq: u64) -> Written {
        Written { shard: SHARD, origin, seq, hlc: Hlc(1), local_only: 0 }
    }

    #[test]
    fn the_nearest_peer_that_is_reached_is_tried_first() {
        let broker = BrokerConfig {
            nodes: vec![],
            vhost: "/".into(),
            username: "u".into(),
            password_file: "/dev/null".into(),
        };
        let peer = |id: u16, endpoint: Option<&str>| PeerConfig {
            region: RegionRef { name: format!("r{id}"), id },
            broker: broker.clone(),
            endpoint: endpoint.map(ToOwned::to_owned),
        };
        let link = |id: u16, shard, state: &str, lag_millis| LinkStatus {
            peer: format!("r{id}"),
            shard,
            state: state.into(),
            lag_millis,
            ..LinkStatus::default()
        };
        let peers = [
            peer(2, Some("2:1")),
            peer(3, Some("3:1")),
            peer(4, Some("4:1")),
            peer(5, Some("5:1")),
            peer(6, None),
        ];
        let links = [
            link(2, 0, "CatchingUp", 5000),
            link(3, 0, "Standby", 10),
            link(3, 1, "Disconnected", 0),
            link(4, 0, "Disconnected", 0),
            link(5, 0, "Lapsed", 0),
        ];
        let names = |shard| -> Vec<String> {
            choose(&peers, &links, ShardId(shard)).into_iter().map(|peer| peer.name).collect()
        };
        assert_eq!(names(0), ["r3", "r2"]);
        assert_eq!(names(1), ["r2", "r4", "r5"], "nothing is known of their links");
    }

    #[test]
    fn nothing_is_sent_before_the_peer_has_what_was_seen_here() {
        let now = Instant::now();
        let clock = Hlc::from_millis(1_000_000);
        let mut d = detour(&[(origin(HERE, 7), 5)], clock, now);
        assert!(!d.is_open(now, 2_000_000));
        assert_eq!(d.step(now, false), Step::Stay);
        assert_eq!(d.step(now + REFRESH_AWAITED, false), Step::Ask);
        d.ask(now);
        assert_eq!(told(&mut d, 1, &[(origin(HERE, 7), 5)], now), Step::Stay);
        assert!(!d.is_open(now, 1_000_000), "its clock is below what was shown here");
        assert!(d.is_open(now, 1_000_001 + SKEW_MS));
        // What never comes is not waited for.
        let mut d = detour(&[(origin(HERE, 7), 5)], Hlc::ZERO, now);
        assert!(!d.is_open(now, 0) && d.is_open(now + SEEN_FOR, 0));
    }

    #[test]
    fn what_a_connection_wrote_is_compared_with_what_the_peer_has() {
        let now = Instant::now();
        let mut d = detour(&[], Hlc::ZERO, now);
        d.ask(now);
        told(&mut d, 1, &[(origin(HERE, 7), 5)], now);
        let wrote = [written(origin(HERE, 7), 5), written(origin(THERE, 8), 3)];
        assert_eq!(d.lacks(&wrote[..1]), None);
        assert_eq!(d.lacks(&wrote), Some(&wrote[1]));
        assert_eq!(d.lacks(&[Written { shard: ShardId(1), ..wrote[1] }]), None, "another shard's");
        // What it numbered itself, it has, whatever an older token says.
        d.push(held(0, true), Mark::new(AckLevel::Queued, 0));
        let note = Message::Written { incarnation: Incarnation(8), seq: 3, hlc: Hlc(9) };
        let bytes = said(2, note);
        assert!(matches!(d.hear(&bytes, now), Some(Event::Written { seq: 3, local: false, .. })));
        assert_eq!(d.lacks(&wrote), None);
    }

    #[test]
    fn requests_come_home_after_the_last_token() {
        let now = Instant::now();
        let mut d = detour(&[], Hlc::ZERO, now);
        assert!(d.is_open(now, 0));
        d.push(held(0, true), Mark::new(AckLevel::Remote, 1));
        assert_eq!(d.step(now, true), Step::Ask);
        d.ask(now);
        let Step::Await { turn, limit: FOLLOW_FOR, .. } = told(&mut d, 2, &[(origin(THERE, 8), 1)], now)
        else {
            panic!("it follows")
        };
        assert!(d.is_open(now, 0), "requests still go there");
        d.arrived(turn, true);
        assert_eq!(d.step(now, true), Step::Stay);
        assert!(!d.is_open(now, 0), "no more");
        // Executed, though not acknowledged: that may take as long as it likes.
        let bytes = said(1, Message::Written { incarnation: Incarnation(8), seq: 2, hlc: Hlc(9) });
        d.hear(&bytes, now).expect("a note");
        assert_eq!(d.step(now, true), Step::Ask);
        d.ask(now);
        d.arrived(turn, true);
        assert_eq!(d.step(now, true), Step::Stay, "the answer to an earlier question");
        let Step::Await { turn, limit: STOP_FOR, .. } = told(&mut d, 3, &[(origin(THERE, 8), 2)], now) else {
            panic!("it arrives")
        };
        d.arrived(turn, true);
        assert_eq!(d.step(now, true), Step::Home);
        assert!(d.is_owed());
        assert!(matches!(d.end_all()[..], [Fate::Unacknowledged(_)]));
    }

    #[test]
    fn requests_stay_there_when_the_engine_here_takes_too_long() {
        let now = Instant::now();
        let mut d = detour(&[], Hlc::ZERO, now);
        assert!(d.is_open(now, 0));
        assert_eq!(d.step(now, true), Step::Ask);
        d.ask(now);
        let Step::Await { turn, .. } = told(&mut d, 1, &[], now) else { panic!("it follows") };
        d.arrived(turn, false);
        assert_eq!(d.step(now, true), Step::Stay);
        assert!(d.is_open(now, 0));
        // Again, and a request is not executed in time.
        let later = now + AGAIN;
        assert_eq!(d.step(later, true), Step::Ask);
        d.push(held(0, false), Mark::new(AckLevel::Local, 0));
        d.ask(later);
        let Step::Await { turn, .. } = told(&mut d, 3, &[], later) else { panic!("it follows") };
        d.arrived(turn, true);
        d.step(later, true);
        assert!(!d.is_open(later, 0));
        d.step(later + STOP_FOR, true);
        assert!(d.is_open(later + STOP_FOR, 0), "requests are not held for longer");
        // The master here goes away again.
        d.step(later + STOP_FOR + AGAIN, true);
        d.step(later + STOP_FOR + AGAIN, false);
        assert!(d.is_open(later, 0));
    }

    #[test]
    fn a_peer_that_is_silent_or_has_no_master_is_left() {
        let now = Instant::now();
        let mut d = detour(&[], Hlc::ZERO, now);
        let mut at = now;
        for number in 1..8 {
            at += REFRESH;
            assert_eq!(d.step(at, false), Step::Ask);
            d.ask(at);
            told(&mut d, number, &[], at);
        }
        d.push(held(0, false), Mark::new(AckLevel::Local, 0));
        assert!(matches!(
            d.step(at + SILENCE + REFRESH, false),
            Step::Leave("the other region does not answer")
        ));
        let refusal = said(9, Message::Reply(b"-ERR no master\r\n"));
        d.ask(at);
        d.hear(&refusal, at + SILENCE + REFRESH).expect("a reply");
        let left = d.step(at + SILENCE + REFRESH, false);
        assert_eq!(left, Step::Leave("the shard has no master there either"));
        assert!(d.hear(b"+OK\r\n", at).is_none() && d.hear(&refusal, at).is_none(), "answered already");
    }

    #[test]
    fn a_broken_connection_leaves_each_request_its_fate() {
        let now = Instant::now();
        let mut d = detour(&[], Hlc::ZERO, now);
        for (seq, write) in [(0, true), (1, false), (2, true), (3, true), (4, true)] {
            d.push(held(seq, write), Mark::new(AckLevel::Queued, 0));
        }
        let one = d.unsent().len() / 5;
        d.mark_sent(4 * one);
        let note = said(3, Message::Written { incarnation: Incarnation(8), seq: 3, hlc: Hlc(9) });
        d.hear(&note, now).expect("a note");
        let bytes = said(1, Message::Reply(b"+OK\r\n"));
        assert!(matches!(d.hear(&bytes, now), Some(Event::Reply { bytes: b"+OK\r\n", .. })));
        let fates: Vec<(char, u32)> = d
            .end_all()
            .into_iter()
            .map(|fate| match fate {
                Fate::Again(held) => ('a', held.ticket.seq),
                Fate::Unknown(ticket) => ('u', ticket.seq),
                Fate::Unacknowledged(ticket) => ('w', ticket.seq),
            })
            .collect();
        assert_eq!(fates, [('a', 1), ('w', 2), ('u', 3), ('a', 4)]);
    }
}
