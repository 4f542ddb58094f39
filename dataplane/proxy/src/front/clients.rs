//! The clients of a worker: places with numbers, and what is known of each.

use std::net::SocketAddr;
use std::task::Waker;

use mas_core::config::AckLevel;
use mas_core::stamp::{Hlc, Origin, ShardId};
use tokio::net::TcpStream;

use super::limits;
use super::replication::Written;
use super::session::Session;
use crate::resp::request::Progress;

/// Buffers that are kept for the next client; larger ones are given back.
const POOL_BUFFERS: usize = 256;
/// Incarnations of one shard that a connection remembers to have written to.
const INCARNATIONS_MAX: usize = 4;
/// Largest buffer that is kept.
const POOL_BYTES: usize = 64 * 1024;

/// One client connection.
pub struct Client {
    /// The socket.
    pub stream: TcpStream,
    /// Unique in this proxy.
    pub id: u64,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The replies that it is owed.
    pub session: Session,
    /// A request that has partly arrived, or requests that wait until others are answered.
    pub input: Vec<u8>,
    /// How far the first of them was looked at.
    pub progress: Option<Box<Progress>>,
    /// Replies that are ready.
    pub out: Vec<u8>,
    /// How much of them was handed to the socket.
    pub out_sent: usize,
    /// Since when the socket takes nothing, on the worker's clock.
    pub stuck_since: Option<u32>,
    /// Wakes its task.
    pub waker: Option<Waker>,
    /// Why no more requests are taken now.
    pub pause: Pause,
    /// How it ends.
    pub closing: Closing,
    /// About the size of its largest replies of late; 0: all are small.
    large_reply: usize,
    /// Replies that it may be owed as long as they are small.
    allowance: usize,
    /// What of its output is counted in the worker's total.
    pub counted_output: usize,
    /// Whether it is in the list of those with new output.
    pub dirty: bool,
    /// Whether it speaks RESP3.
    pub resp3: bool,
    /// Whether it has shown who it is.
    pub authenticated: bool,
    /// What few clients use.
    pub extra: Option<Box<Extra>>,
    /// What it has written, by shard and incarnation.
    pub written: Vec<Written>,
}

/// What is set by commands that few clients send.
#[derive(Debug, Default)]
pub struct Extra {
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_version: Vec<u8>,
    /// `MAS.ACK`, with the number of regions.
    pub level: Option<(AckLevel, u16)>,
}

/// Why a client's requests are not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// They are.
    No,
    /// Too many replies are owed, or wait to be taken.
    Crowded,
    /// Too much is under way to some engine; ends when that engine has answered.
    Engine,
    /// The next request needs all before it to be answered.
    Barrier,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It does not.
    No,
    /// When everything owed was handed to the socket.
    WhenAnswered,
    /// At once.
    Now,
}

impl Client {
    /// A connection just accepted; requests are numbered from `base`.
    pub fn new(stream: TcpStream, peer: SocketAddr, id: u64, base: u32, authenticated: bool) -> Self {
        Self {
            stream,
            id,
            peer,
            session: Session::starting_at(base),
            input: Vec::new(),
            progress: None,
            out: Vec::new(),
            out_sent: 0,
            stuck_since: None,
            waker: None,
            pause: Pause::No,
            closing: Closing::No,
            large_reply: 0,
            allowance: limits::OWED_AT_FIRST,
            counted_output: 0,
            dirty: false,
            resp3: false,
            authenticated,
            extra: None,
            written: Vec::new(),
        }
    }

    /// Output that waits to be taken.
    pub fn pending_output(&self) -> usize {
        self.out.len() - self.out_sent
    }

    /// Whether it is owed as much as it may be.
    pub fn is_crowded(&self) -> bool {
        self.session.owed() >= self.owed_max() || self.pending_output() > limits::OUTPUT_PAUSE_BYTES
    }

    /// Replies that it may be owed: fewer when they are large, so that a long pipeline of large reads is answered
    /// piece by piece and not from a heap of replies.
    fn owed_max(&self) -> usize {
        match self.large_reply {
            0 => self.allowance,
            large => (limits::OWED_BYTES / large).clamp(1, self.allowance),
        }
    }

    /// Notes the size of a reply.
    pub fn note_reply(&mut self, bytes: usize) {
        if bytes > limits::LARGE_REPLY_BYTES {
            self.large_reply = self.large_reply.max(bytes);
        } else {
            self.large_reply -= (self.large_reply / 8 + 1).min(self.large_reply);
            self.allowance = (self.allowance + 1).min(limits::OWED_MAX);
        }
    }

    /// Whether the reason for its pause is over. Half of the bound, so that it does not stop and go for every reply.
    pub fn may_resume(&self) -> bool {
        match self.pause {
            Pause::No | Pause::Engine => false,
            Pause::Crowded => {
                self.session.owed() <= self.owed_max() / 2
                    && self.pending_output() <= limits::OUTPUT_PAUSE_BYTES / 2
            }
            Pause::Barrier => self.session.is_idle(),
        }
    }

    /// Wakes its task.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The level that this connection asked for itself.
    pub fn level(&self) -> Option<(AckLevel, u16)> {
        self.extra.as_ref().and_then(|extra| extra.level)
    }

    /// Notes that a write was answered, for tokens.
    pub fn note_written(&mut self, shard: ShardId, origin: Origin, seq: u64, hlc: Hlc, local: bool) {
        let local_only = if local { seq } else { 0 };
        if let Some(known) = self.written.iter_mut().find(|w| w.shard == shard && w.origin == origin) {
            known.seq = known.seq.max(seq);
            known.hlc = known.hlc.max(hlc);
            known.local_only = known.local_only.max(local_only);
            return;
        }
        // After some failovers during one connection the oldest incarnation is forgotten: its tail was read back,
        // or was reported as lost, long ago.
        let known = self.written.iter().filter(|w| w.shard == shard).count();
        if known >= INCARNATIONS_MAX
            && let Some(oldest) = self.written.iter().position(|w| w.shard == shard)
        {
            self.written.remove(oldest);
        }
        self.written.push(Written { shard, origin, seq, hlc, local_only });
    }
}

/// Clients by place. A place is used again, but the numbers of its requests go on.
#[derive(Default)]
pub struct Clients {
    places: Vec<Place>,
    free: Vec<u32>,
    count: usize,
    pool: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Place {
    client: Option<Box<Client>>,
    base: u32,
}

impl Clients {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Gives a new client a place; `make` gets the number of its first request.
    pub fn insert(&mut self, make: impl FnOnce(u32) -> Client) -> u32 {
        let key = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[key as usize];
        place.client = Some(Box::new(make(place.base)));
        self.count += 1;
        key
    }

    /// The client in a place.
    pub fn get(&mut self, key: u32) -> Option<&mut Client> {
        self.places.get_mut(key as usize)?.client.as_deref_mut()
    }

    /// The client in a place, with a buffer for output.
    pub fn get_for_reply(&mut self, key: u32) -> Option<&mut Client> {
        let client = self.places.get_mut(key as usize)?.client.as_deref_mut()?;
        if client.out.capacity() == 0
            && let Some(buffer) = self.pool.pop()
        {
            client.out = buffer;
        }
        Some(client)
    }

    /// Takes a client out.
    pub fn remove(&mut self, key: u32) -> Option<Box<Client>> {
        let place = self.places.get_mut(key as usize)?;
        let client = place.client.take()?;
        place.base = client.session.next();
        self.free.push(key);
        self.count -= 1;
        Some(client)
    }

    /// The places that are taken.
    pub fn keys(&self) -> Vec<u32> {
        (0..self.places.len() as u32).filter(|key| self.places[*key as usize].client.is_some()).collect()
    }

    /// All clients, with their places.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Client)> {
        self.places
            .iter_mut()
            .enumerate()
            .filter_map(|(n, place)| Some((n as u32, place.client.as_deref_mut()?)))
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        let useful = (1..=POOL_BYTES).contains(&buffer.capacity());
        if useful && self.pool.len() < POOL_BUFFERS {
            buffer.clear();
            self.pool.push(buffer);
        }
    }
}
