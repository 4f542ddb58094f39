//! The batcher: effects of one shard in, records for its stream out, confirms back in, ranges to trim out.
//!
//! It keeps what it took until the broker confirmed it, within a bound in bytes. Beyond the bound it takes nothing:
//! such effects stay in the engine's outbox, and a sweep brings them back later. It never forgets and never confirms
//! anything on its own: only [`Batcher::settle`] with a confirmation releases an effect.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hashbrown::HashMap;

use crate::cover::SeqSet;
use crate::record::{BATCH_BYTES, Body, PART_BYTES, Record};
use crate::stamp::{Incarnation, Origin, RegionId, ShardId};

/// What an effect takes beyond its bytes while it is kept, its number in the set of those kept included.
const EFFECT_COST: usize = 96;
/// Most heartbeats and nonces that wait to be published; the oldest heartbeat goes first.
const BARE_MAX: usize = 8;

/// How eagerly records are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Shortest time between two records while none is unconfirmed, microseconds.
    pub idle_gap_us: u64,
    /// Shortest time between two records while some are unconfirmed, microseconds; a full batch goes at once.
    pub busy_gap_us: u64,
    /// The gap grows by so much for every effect in the last record, microseconds: many writers at once gather in few
    /// records, a single one never waits for others.
    pub effect_gap_us: u64,
    /// No gap is longer, microseconds.
    pub gap_max_us: u64,
    /// Most records that may be unconfirmed at a time.
    pub unconfirmed_max: usize,
    /// After a record was refused (nack, returned): how long until it is published again, microseconds.
    pub refused_wait_us: u64,
    /// Bound of what is kept, bytes.
    pub bytes_max: usize,
}

impl Default for Pace {
    /// Few messages, for a broker's cost is by the message: at most some 1000 a second and shard, half of it when
    /// many write, until batches are full.
    fn default() -> Self {
        Self {
            idle_gap_us: 300,
            busy_gap_us: 1000,
            effect_gap_us: 200,
            gap_max_us: 2000,
            unconfirmed_max: 16,
            refused_wait_us: 100_000,
            bytes_max: 32 << 20,
        }
    }
}

/// What became of an effect that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It will be published.
    Taken,
    /// It is kept already (swept although it was on its way).
    Known,
    /// The bound is reached; it stays in the engine's outbox.
    Full,
}

/// A record to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Names it in [`Batcher::settle`].
    pub ticket: u64,
    /// The record's random id.
    pub id: u64,
    /// The encoded record.
    pub record: Bytes,
    /// How many effects are in it.
    pub effects: usize,
}

/// What a confirmation released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Who numbered the effects.
    pub incarnation: Incarnation,
    /// Their numbers, as inclusive ranges.
    pub ranges: Vec<(u64, u64)>,
    /// How long the record was under way, microseconds.
    pub took_us: u64,
}

#[derive(Clone, Debug)]
enum Content {
    Effects(Vec<(u64, u64)>),
    Part(u64),
    Heartbeat,
    Nonce,
    /// A request for state, or a piece of it.
    Want,
    State,
}

impl Content {
    /// Not published again when it was lost: a newer one follows, or it is asked for again.
    fn is_volatile(&self) -> bool {
        matches!(self, Self::Heartbeat | Self::Want | Self::State)
    }
}

#[derive(Clone, Debug)]
struct Flight {
    id: u64,
    record: Bytes,
    incarnation: Incarnation,
    content: Content,
    effects: usize,
    cost: usize,
    sent_us: u64,
}

#[derive(Clone, Debug)]
struct Pending {
    incarnation: Incarnation,
    seq: u64,
    effect: Bytes,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Batcher {
    shard: ShardId,
    region: RegionId,
    pace: Pace,
    pending: VecDeque<Pending>,
    /// Bytes of `pending`.
    pending_bytes: usize,
    /// Records that are made up already: parts, and what was not confirmed.
    ready: VecDeque<Flight>,
    flights: BTreeMap<u64, Flight>,
    next_ticket: u64,
    /// Cost of everything kept, bytes.
    kept_bytes: usize,
    /// Numbers of the effects kept; `bytes_max` bounds them, however scattered (proxies take turns) they are.
    held: HashMap<Incarnation, SeqSet>,
    /// Large effects: how many parts are not confirmed yet, and the whole cost.
    large: HashMap<(Incarnation, u64), u32>,
    trims: BTreeMap<Incarnation, SeqSet>,
    online: bool,
    last_us: Option<u64>,
    /// Effects in the last record that had any.
    last_effects: usize,
    hold_until_us: u64,
}

impl Batcher {
    /// A batcher of one shard of this region. It starts offline.
    pub fn new(region: RegionId, shard: ShardId, pace: Pace) -> Self {
        Self {
            shard,
            region,
            pace,
            pending: VecDeque::new(),
            pending_bytes: 0,
            ready: VecDeque::new(),
            flights: BTreeMap::new(),
            next_ticket: 1,
            kept_bytes: 0,
            held: HashMap::new(),
            large: HashMap::new(),
            trims: BTreeMap::new(),
            online: false,
            last_us: None,
            last_effects: 0,
            hold_until_us: 0,
        }
    }

    /// Takes an effect, if there is room.
    pub fn push(&mut self, incarnation: Incarnation, seq: u64, effect: Bytes) -> Pushed {
        let held = self.held.entry(incarnation).or_default();
        if held.contains(seq) {
            return Pushed::Known;
        }
        let cost = effect.len() + EFFECT_COST;
        // A lone effect larger than the bound must still get through.
        if self.kept_bytes > 0 && self.kept_bytes + cost > self.pace.bytes_max {
            return Pushed::Full;
        }
        held.insert_run_unbounded(seq, seq);
        self.kept_bytes += cost;
        self.pending_bytes += effect.len();
        self.pending.push_back(Pending { incarnation, seq, effect });
        Pushed::Taken
    }

    /// Whether an effect is kept here, on its way.
    pub fn holds(&self, incarnation: Incarnation, seq: u64) -> bool {
        self.held.get(&incarnation).is_some_and(|held| held.contains(seq))
    }

    /// Whether effects of another incarnation than this are kept here.
    pub fn holds_other_than(&self, incarnation: Incarnation) -> bool {
        self.held.iter().any(|(&i, held)| i != incarnation && !held.is_empty())
    }

    /// Takes a heartbeat; of several that wait, only the newest is published.
    pub fn push_heartbeat(&mut self, record: &Record) {
        self.ready.retain(|f| !matches!(f.content, Content::Heartbeat));
        self.push_bare(record, Content::Heartbeat);
    }

    /// Takes a nonce; it is published behind everything taken before it.
    pub fn push_nonce(&mut self, record: &Record) {
        self.push_bare(record, Content::Nonce);
    }

    /// Takes a request for state; of several that wait, only the newest is published.
    pub fn push_want(&mut self, record: &Record) {
        self.ready.retain(|f| !matches!(f.content, Content::Want));
        self.push_flight(record, Content::Want, 0);
    }

    /// Takes a seal; one that is lost is published again by whoever decides about it.
    pub fn push_seal(&mut self, record: &Record) {
        self.push_flight(record, Content::State, 0);
    }

    /// Takes the parts of a piece of state, unless there is much to publish already: who asked asks again.
    pub fn push_state(&mut self, records: &[Record]) {
        let bytes: usize = records.iter().map(Record::size_hint).sum();
        if self.online && (self.is_idle() || self.has_room(bytes)) {
            for record in records {
                self.push_flight(record, Content::State, record.size_hint());
            }
        }
    }

    fn push_bare(&mut self, record: &Record, content: Content) {
        let bare =
            self.ready.iter().filter(|f| matches!(f.content, Content::Heartbeat | Content::Nonce)).count();
        if bare < BARE_MAX {
            self.push_flight(record, content, 0);
        }
    }

    fn push_flight(&mut self, record: &Record, content: Content, cost: usize) {
        let bytes = record.encode();
        self.kept_bytes += cost;
        self.ready.push_back(Flight {
            id: record.id,
            record: bytes,
            incarnation: record.origin.incarnation,
            content,
            effects: 0,
            cost,
            sent_us: 0,
        });
    }

    /// The broker's stream can be published to now.
    pub fn go_online(&mut self) {
        self.online = true;
        self.hold_until_us = 0;
    }

    /// The connection is lost: nothing that was under way counts as confirmed; it is published again later.
    pub fn go_offline(&mut self) {
        self.online = false;
        let flights = std::mem::take(&mut self.flights);
        for (_, flight) in flights.into_iter().rev() {
            if flight.content.is_volatile() {
                self.kept_bytes -= flight.cost;
            } else if !mutation!(LostFlightForgotten) {
                self.ready.push_front(flight);
            }
        }
    }

    /// Whether it was told that the stream can be published to.
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// The next record to publish now, if any. `new_id` draws random record ids.
    pub fn poll(&mut self, now_us: u64, new_id: &mut dyn FnMut() -> u64) -> Option<Publish> {
        if !self.may_publish(now_us) {
            return None;
        }
        if self.ready.is_empty() {
            self.make_records(new_id);
        }
        let mut flight = self.ready.pop_front()?;
        flight.sent_us = now_us;
        self.last_us = Some(now_us);
        if flight.effects > 0 {
            self.last_effects = flight.effects;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let publish =
            Publish { ticket, id: flight.id, record: flight.record.clone(), effects: flight.effects };
        self.flights.insert(ticket, flight);
        Some(publish)
    }

    fn due_us(&self) -> Option<u64> {
        if !self.online || self.flights.len() >= self.pace.unconfirmed_max {
            return None;
        }
        if self.ready.is_empty() && self.pending.is_empty() {
            return None;
        }
        let full = !self.ready.is_empty() || self.pending_bytes >= BATCH_BYTES;
        let shortest = if self.flights.is_empty() { self.pace.idle_gap_us } else { self.pace.busy_gap_us };
        let gap = (self.last_effects as u64 * self.pace.effect_gap_us).clamp(shortest, self.pace.gap_max_us);
        let due = if full { 0 } else { self.last_us.map_or(0, |last| last + gap) };
        Some(due.max(self.hold_until_us))
    }

    fn may_publish(&self, now_us: u64) -> bool {
        self.due_us().is_some_and(|due| due <= now_us)
    }

    /// When [`Self::poll`] is worth calling again without any other input, microseconds.
    pub fn wake_us(&self) -> Option<u64> {
        self.due_us()
    }

    /// Moves a batch, or the parts of a large effect, from `pending` to `ready`.
    fn make_records(&mut self, new_id: &mut dyn FnMut() -> u64) {
        let Some(front) = self.pending.front() else { return };
        let incarnation = front.incarnation;
        let origin = Origin { region: self.region, incarnation };
        if front.effect.len() > PART_BYTES {
            let Some(Pending { seq, effect, .. }) = self.pending.pop_front() else { return };
            self.pending_bytes -= effect.len();
            let count = effect.len().div_ceil(PART_BYTES) as u32;
            self.large.insert((incarnation, seq), count);
            for index in 0..count {
                let from = index as usize * PART_BYTES;
                let bytes = effect.slice(from..(from + PART_BYTES).min(effect.len()));
                let id = new_id();
                let cost = bytes.len() + if index == 0 { EFFECT_COST } else { 0 };
                let record =
                    Record { id, shard: self.shard, origin, body: Body::Part { seq, index, count, bytes } };
                self.ready.push_back(Flight {
                    id,
                    record: record.encode(),
                    incarnation,
                    content: Content::Part(seq),
                    effects: usize::from(index == 0),
                    cost,
                    sent_us: 0,
                });
            }
            return;
        }
        let mut batch: Vec<Pending> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.pending.front() {
            let len = next.effect.len();
            if next.incarnation != incarnation
                || len > PART_BYTES
                || (!batch.is_empty() && bytes + len > BATCH_BYTES)
            {
                break;
            }
            bytes += len;
            batch.extend(self.pending.pop_front());
        }
        self.pending_bytes -= bytes;
        // Several workers hand over what one shard numbered; in order it compresses to few ranges.
        batch.sort_unstable_by_key(|p| p.seq);
        let ranges = ranges_of(batch.iter().map(|p| p.seq));
        let (id, effects) = (new_id(), batch.len());
        let body = Body::Effects(batch.into_iter().map(|p| p.effect).collect());
        let record = Record { id, shard: self.shard, origin, body }.encode();
        let cost = bytes + effects * EFFECT_COST;
        self.ready.push_back(Flight {
            id,
            record,
            incarnation,
            content: Content::Effects(ranges),
            effects,
            cost,
            sent_us: 0,
        });
    }

    /// Tells how a publication ended. Only a broker's positive confirmation of a message that was not returned counts.
    /// `None` when nothing was released by it.
    pub fn settle(&mut self, ticket: u64, confirmed: bool, now_us: u64) -> Option<Released> {
        let flight = self.flights.remove(&ticket)?;
        if !confirmed && !mutation!(RefusedIsConfirmed) {
            self.hold_until_us = now_us + self.pace.refused_wait_us;
            if flight.content.is_volatile() {
                self.kept_bytes -= flight.cost;
            } else {
                self.ready.push_front(flight);
            }
            return None;
        }
        self.kept_bytes -= flight.cost;
        let ranges = match flight.content {
            Content::Effects(ranges) if mutation!(ReleasesTooMuch) => {
                ranges.into_iter().map(|(_, last)| (1, last)).collect()
            }
            Content::Effects(ranges) => ranges,
            Content::Part(seq) => {
                let key = (flight.incarnation, seq);
                let left = self.large.get_mut(&key)?;
                *left -= 1;
                if *left > 0 && !mutation!(OnePartConfirms) {
                    return None;
                }
                self.large.remove(&key);
                vec![(seq, seq)]
            }
            Content::Heartbeat | Content::Nonce | Content::Want | Content::State => return None,
        };
        let incarnation = flight.incarnation;
        if let Some(held) = self.held.get_mut(&incarnation) {
            for &(first, last) in &ranges {
                held.remove_run(first, last);
            }
            if held.is_empty() {
                self.held.remove(&incarnation);
            }
        }
        let trims = self.trims.entry(incarnation).or_default();
        for &(first, last) in &ranges {
            // Beyond the bound on runs the effect is swept and confirmed once more, which is harmless.
            let _ = trims.insert_run(first, last);
        }
        Some(Released { incarnation, ranges, took_us: now_us.saturating_sub(flight.sent_us) })
    }

    /// Confirmed and not yet trimmed: takes all of it.
    pub fn take_trims(&mut self) -> Vec<(Incarnation, Vec<(u64, u64)>)> {
        std::mem::take(&mut self.trims).into_iter().map(|(i, set)| (i, set.runs().collect())).collect()
    }

    /// Whether something can be trimmed.
    pub fn has_trims(&self) -> bool {
        !self.trims.is_empty()
    }

    /// Records that were published and not confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.flights.len()
    }

    /// Since when the oldest of them is under way, microseconds.
    pub fn oldest_us(&self) -> Option<u64> {
        self.flights.values().next().map(|f| f.sent_us)
    }

    /// Cost of what is kept, bytes.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether nothing is left to publish or to be confirmed, heartbeats apart.
    pub fn is_idle(&self) -> bool {
        self.kept_bytes == 0
    }

    /// Whether there is room for a sweep of `bytes`.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.kept_bytes + bytes <= self.pace.bytes_max / 2
    }
}

/// Rising numbers as inclusive ranges.
fn ranges_of(seqs: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for seq in seqs {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => ranges.push((seq, seq)),
        }
    }
    ranges
}

#[cfg(test)]
#[path = "batcher_tests.rs"]
mod tests;
