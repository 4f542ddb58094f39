//! The reader of one region's stream for one shard: where to attach, what to merge next, and how far the stored
//! position may move. The engine's compare-and-set on the position decides; this only proposes.
//!
//! The position never passes a record that is not wholly merged, except one that cannot be decoded and was copied to
//! the dead letters. What was merged beyond the position is refused by the cover when it is read again.
//!
//! Pieces of state do not hold the position, for what is lost is asked for again. They wait here until the region that they come
//! from calls all durable that it had when it made them ([`crate::transfer`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::cover::Cover;
use crate::record::{BATCH_BYTES, Body, Heartbeat, Record};
use crate::replication::parts::{Assembly, Part, Taken};
use crate::shard::Position;
use crate::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use crate::transfer::{STATE_BYTES_MAX, State, Want};
use crate::wire::peek_effect;

/// One merge takes at most so many bytes (or one record): an engine does nothing else meanwhile.
pub const MERGE_BYTES: usize = BATCH_BYTES;
/// A position is stored at least so often while records are read that need no merge, milliseconds.
pub const COMMIT_MS: u64 = 1000;
/// Attached at a stored record, it must be delivered within this time, milliseconds; otherwise it is not there. Less than
/// the patience of a recovery.
pub const SILENCE_MS: u64 = 1000;
/// After effects were held back, the merge is tried again after this time, milliseconds.
pub const HELD_WAIT_MS: u64 = 1000;
/// Bound of what is kept while records further on are looked for that close gaps, bytes.
pub const AHEAD_BYTES_MAX: u64 = 64 << 20;
/// Records taken and not merged yet; beyond it the shell should deliver no more.
pub const QUEUE_MAX: usize = 256;

/// Stored while the log's first effect is still unfinished: names no record, reading goes on at the first one.
const START: Position = Position { offset: 0, record: 0 };

/// Where to attach to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// At this offset.
    At(u64),
    /// At the first record left.
    First,
}

/// What a delivered record came to, beyond being queued.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Attach here again; this delivery and all that follow it on the old attachment are void.
    pub reattach: Option<Attach>,
    /// The record cannot be used: to be copied to the dead letters, with the reason.
    pub dead: Option<String>,
    /// A heartbeat, and who sent it.
    pub beat: Option<(Origin, Heartbeat)>,
    /// A nonce.
    pub nonce: Option<u64>,
    /// The region of this stream asks this one for state.
    pub want: Option<Want>,
}

/// A proposal for `MAS.MERGE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// The position that must be stored.
    pub expected: Option<Position>,
    /// The position to store.
    pub to: Position,
    /// Records, as published.
    pub bodies: Vec<Bytes>,
    /// The clock of the last effect in it, for measuring lag.
    pub hlc: Hlc,
}

/// How a merge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Merged and stored.
    Done,
    /// Body `index` cannot be decoded; nothing was merged.
    Undecodable(usize),
    /// It would open more gaps than a cover holds; nothing was merged. What closes gaps comes later in the log: it is
    /// merged first, and the position waits.
    Gaps,
    /// Held back for now (a clock, memory); nothing was merged.
    Held,
}

/// A part of the queue that is being merged.
#[derive(Clone, Copy, Debug)]
struct Batch {
    start: usize,
    count: usize,
    to: Position,
}

#[derive(Clone, Debug)]
struct Item {
    read: Position,
    /// How far the position may move once everything up to here is merged.
    safe: Option<Position>,
    body: Option<Bytes>,
    hlc: Hlc,
    tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the stored record.
    Verifying(Position, u64),
    Reading,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Reader {
    region: RegionId,
    shard: ShardId,
    /// The region that reads.
    own: RegionId,
    /// On the region's own stream: the incarnation whose effects the engine issued itself.
    live: Option<Incarnation>,
    phase: Phase,
    /// As the engine has it, as far as known.
    stored: Option<Position>,
    /// The last record read on this attachment.
    last: Option<Position>,
    cover: Cover,
    assembly: Assembly,
    /// Parts of a piece of state, as far as they came in order. What is lost is asked for again.
    state: Vec<Bytes>,
    /// A whole piece of state that may not be durable at its source yet; one at a time.
    volatile: Option<(Origin, State)>,
    /// The highest epoch in a heartbeat: superseded masters say nothing of what is durable.
    epoch: u64,
    queue: VecDeque<Item>,
    merging: Option<Batch>,
    /// Records at the front of the queue that are passed over for now, for they would open too many gaps.
    ahead: usize,
    /// Records read since the position was stored that need no merge.
    committed_ms: u64,
    not_before_ms: u64,
    /// The last heartbeat of each origin, until it is handed to the engine.
    told: BTreeMap<Origin, Bytes>,
    told_ms: u64,
    /// Origins of which a heartbeat was merged.
    heard: BTreeSet<Origin>,
    /// The stored record was not in the log any more.
    truncated: bool,
}

impl Reader {
    /// A reader of `region`'s stream, in region `own`. `live`: given on the region's own stream.
    pub fn new(region: RegionId, shard: ShardId, own: RegionId, live: Option<Incarnation>) -> Self {
        Self {
            region,
            shard,
            own,
            live,
            phase: Phase::Reading,
            stored: None,
            last: None,
            cover: Cover::default(),
            assembly: Assembly::default(),
            state: Vec::new(),
            volatile: None,
            epoch: 0,
            queue: VecDeque::new(),
            merging: None,
            ahead: 0,
            committed_ms: 0,
            not_before_ms: 0,
            told: BTreeMap::new(),
            told_ms: 0,
            heard: BTreeSet::new(),
            truncated: false,
        }
    }

    /// Begins (again) with what the engine has stored; says where to attach. All that was queued is forgotten: it is not
    /// in the cover, so it is read again.
    pub fn begin(&mut self, stored: Option<Position>, cover: Cover, now_ms: u64) -> Attach {
        self.stored = stored;
        self.cover = cover;
        self.truncated = false;
        let stored = stored.filter(|p| *p != START);
        self.restart(stored.map_or(Phase::Reading, |p| Phase::Verifying(p, now_ms)))
    }

    fn restart(&mut self, phase: Phase) -> Attach {
        self.phase = phase;
        self.last = None;
        self.assembly = Assembly::default();
        self.state.clear();
        self.volatile = None;
        self.queue.clear();
        self.merging = None;
        self.ahead = 0;
        self.not_before_ms = 0;
        self.heard.clear();
        match phase {
            Phase::Verifying(at, _) => Attach::At(at.offset),
            Phase::Reading => Attach::First,
        }
    }

    /// The engine's cover has grown.
    pub fn covered(&mut self, cover: Cover) {
        self.assembly.forget(&|origin, seq| cover.contains(origin, seq));
        self.cover = cover;
    }

    /// Whether the stored record was not in the log: what was published before the first record left may be missing.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether the shell should deliver more.
    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_MAX || (self.ahead > 0 && self.backlog_bytes() < AHEAD_BYTES_MAX)
    }

    /// The broker has answered: records flow from now on.
    pub fn attached(&mut self, now_ms: u64) {
        if let Phase::Verifying(_, since_ms) = &mut self.phase {
            *since_ms = now_ms;
        }
    }

    /// The stored record did not come in time (or the broker refused the offset): read from the first record left.
    pub fn silent(&mut self, now_ms: u64) -> Option<Attach> {
        match self.phase {
            Phase::Verifying(_, since_ms) if now_ms >= since_ms + SILENCE_MS => Some(self.not_there()),
            Phase::Verifying(..) | Phase::Reading => None,
        }
    }

    /// The broker has no such offset: read from the first record left.
    pub fn not_there(&mut self) -> Attach {
        self.truncated = true;
        self.restart(Phase::Reading)
    }

    /// A record was delivered. `tag` comes back with the merge that it went into.
    pub fn delivered(&mut self, offset: u64, bytes: Bytes, tag: u64) -> Seen {
        let id = Record::peek_id(&bytes);
        if let Phase::Verifying(at, _) = self.phase {
            if offset < at.offset {
                return Seen::default();
            }
            if offset == at.offset && (id.unwrap_or(0) == at.record || mutation!(RecordNotVerified)) {
                self.phase = Phase::Reading;
                self.last = Some(at);
                return Seen::default();
            }
            if offset == at.offset {
                // Another log under the same name, or a rewound one.
                return Seen { reattach: Some(self.not_there()), ..Seen::default() };
            }
            // Truncated: the broker begins at the first record left.
            self.truncated = true;
            self.phase = Phase::Reading;
        }
        if self.last.is_some_and(|last| offset <= last.offset) {
            return Seen::default();
        }
        let read = Position { offset, record: id.unwrap_or(0) };
        let before = self.last;
        self.last = Some(read);
        let mut seen = Seen::default();
        let body = self.read_body(bytes, before, &mut seen);
        let safe = self.assembly.safe(read);
        let hlc = body.as_ref().map_or(Hlc::ZERO, |(_, hlc)| *hlc);
        let body = body.map(|(bytes, _)| bytes);
        // Records that need no merge only move the position: of several in a row the last one counts.
        let free = self.queue.len() > self.merging.map_or(self.ahead, |batch| batch.start + batch.count);
        match self.queue.back_mut() {
            Some(back) if back.body.is_none() && body.is_none() && free => {
                *back = Item { read, safe, body, hlc, tag };
            }
            _ => self.queue.push_back(Item { read, safe, body, hlc, tag }),
        }
        if self.assembly.must_reread() {
            let stored = self.stored.filter(|p| *p != START);
            seen.reattach =
                Some(self.restart(stored.map_or(Phase::Reading, |p| Phase::Verifying(p, u64::MAX / 2))));
        }
        seen
    }

    fn read_body(&mut self, bytes: Bytes, before: Option<Position>, seen: &mut Seen) -> Option<(Bytes, Hlc)> {
        // On the own stream nearly everything is the live incarnation's own: passed over unread.
        if let (Some(live), Some(of)) = (self.live, Record::peek_effects_of(&bytes))
            && (of == (Origin { region: self.region, incarnation: live })
                || (mutation!(OwnTailSkipped) && of.region == self.region))
        {
            return None;
        }
        match Record::decode(bytes.clone()) {
            Err(why) => {
                seen.dead = Some(why.to_string());
                None
            }
            Ok(record) if record.origin.region != self.region || record.shard != self.shard => {
                seen.dead = Some("the record is not of this stream's region and shard".to_owned());
                None
            }
            Ok(record) => self.read_record(record, bytes, before, seen),
        }
    }

    fn read_record(
        &mut self,
        record: Record,
        bytes: Bytes,
        before: Option<Position>,
        seen: &mut Seen,
    ) -> Option<(Bytes, Hlc)> {
        let Record { id, shard, origin, body } = record;
        match body {
            Body::Effects(effects) => {
                let last = effects.last().and_then(|e| peek_effect(e).ok());
                let known = effects
                    .iter()
                    .all(|e| peek_effect(e).is_ok_and(|(seq, _)| self.cover.contains(origin, seq)));
                (!known).then(|| (bytes, last.map_or(Hlc::ZERO, |(_, hlc)| hlc)))
            }
            Body::Part { seq, index, count, bytes } => {
                if self.cover.contains(origin, seq) {
                    return None;
                }
                match self.assembly.take(Part { origin, seq, index, count, bytes }, before) {
                    Taken::Kept | Taken::Full => None,
                    Taken::Bad(why) => {
                        seen.dead = Some(why.to_owned());
                        None
                    }
                    Taken::Whole(effect) => {
                        let hlc = peek_effect(&effect).map_or(Hlc::ZERO, |(_, hlc)| hlc);
                        let whole = Record { id, shard, origin, body: Body::Effects(vec![effect]) };
                        Some((whole.encode(), hlc))
                    }
                }
            }
            Body::Heartbeat(beat) => {
                let (_, beat) = &*seen.beat.insert((origin, beat));
                if self.live == Some(origin.incarnation) {
                    return None;
                }
                // That there is such an incarnation must not be missed: it may never speak again.
                if self.heard.insert(origin) {
                    return Some((bytes, Hlc::ZERO));
                }
                self.told.insert(origin, bytes);
                let state = self.durable_state(origin, beat)?;
                let record = Record { id, shard, origin, body: Body::State(state) };
                Some((record.encode(), Hlc::ZERO))
            }
            Body::Nonce(nonce) => {
                seen.nonce = Some(nonce);
                None
            }
            Body::Want(want) => {
                seen.want = (want.of == self.own && self.region != self.own).then_some(want);
                None
            }
            Body::Sealed(incarnation) => {
                let known = self.cover.is_sealed(Origin { incarnation, ..origin });
                (!known).then_some((bytes, Hlc::ZERO))
            }
            Body::State(state) if state.to == self.own => {
                let whole = self.gather(state)?;
                if mutation!(VolatileStateTaken) {
                    let record = Record { id, shard, origin, body: Body::State(whole) };
                    return Some((record.encode(), Hlc::ZERO));
                }
                // The same asked for again would have to wait longer.
                if self.volatile.as_ref().is_none_or(|(waits, _)| *waits != origin) {
                    self.volatile = Some((origin, whole));
                }
                None
            }
            Body::State(_) => None,
        }
    }

    /// The state that waits, if this heartbeat says that its source cannot lose it any more.
    fn durable_state(&mut self, origin: Origin, beat: &Heartbeat) -> Option<State> {
        if beat.epoch < self.epoch {
            return None;
        }
        self.epoch = beat.epoch;
        let durable = |(from, state): &mut (Origin, State)| *from == origin && state.is_durable(&beat.cover);
        self.volatile.take_if(durable).map(|(_, state)| state)
    }

    /// Puts a piece of state together. Nothing depends on its arrival: it is asked for again.
    fn gather(&mut self, state: State) -> Option<State> {
        if state.is_whole() {
            return Some(state);
        }
        let State { to, index, count, bytes } = state;
        if index == 0 {
            self.state.clear();
        }
        let kept: usize = self.state.iter().map(Bytes::len).sum();
        if self.state.len() != index as usize || kept + bytes.len() > STATE_BYTES_MAX {
            self.state.clear();
            return None;
        }
        self.state.push(bytes);
        let whole = self.state.len() == count as usize;
        whole.then(|| State {
            to,
            index: 0,
            count: 1,
            bytes: std::mem::take(&mut self.state).concat().into(),
        })
    }

    /// The next merge to ask for, if any; one at a time. Without bodies it only stores the position, now and then.
    pub fn next_merge(&mut self, now_ms: u64) -> Option<Merge> {
        if self.merging.is_some() {
            return None;
        }
        if now_ms >= self.not_before_ms {
            self.ahead = 0;
        } else if self.ahead == 0 {
            return None;
        }
        let start = self.ahead;
        let mut bodies = Vec::new();
        let (mut bytes, mut count, mut hlc) = (0usize, 0usize, Hlc::ZERO);
        for item in self.queue.iter().skip(start) {
            if let Some(body) = &item.body {
                if !bodies.is_empty() && bytes + body.len() > MERGE_BYTES {
                    break;
                }
                bytes += body.len();
                hlc = hlc.max(item.hlc);
                bodies.push(body.clone());
            }
            count += 1;
        }
        let last = self.queue.get(start + count.checked_sub(1)?)?;
        let to = if start == 0 { last.safe.or(self.stored) } else { self.stored };
        let commit_due = start == 0 && to != self.stored && now_ms >= self.committed_ms + COMMIT_MS;
        if bodies.is_empty() && !commit_due {
            return None;
        }
        if start == 0 && now_ms >= self.told_ms + COMMIT_MS {
            // What regions tell of their progress goes along; the engine waits until it has what they speak of.
            self.told_ms = now_ms;
            bodies.extend(std::mem::take(&mut self.told).into_values());
        }
        // Nothing may be stored yet and nothing is: merged beyond the start, to be read again from there.
        let to = to.unwrap_or(START);
        self.merging = Some(Batch { start, count, to });
        Some(Merge { expected: self.stored, to, bodies, hlc })
    }

    /// How the merge ended. Returns the highest tag of the records that are done with (with [`Merged::Done`]), or the
    /// record to be copied to the dead letters (with [`Merged::Undecodable`]).
    pub fn merged(&mut self, outcome: Merged, now_ms: u64) -> (Option<u64>, Option<Bytes>) {
        let Some(Batch { start, count, to }) = self.merging.take() else { return (None, None) };
        let batch = self.queue.iter_mut().skip(start).take(count);
        match outcome {
            Merged::Done if start > 0 => {
                // Gaps may be closed now: try again what was passed over.
                batch.for_each(|item| item.body = None);
                self.stored = Some(to);
                self.not_before_ms = 0;
                (None, None)
            }
            Merged::Done => {
                self.stored = Some(to);
                self.committed_ms = now_ms;
                let tag = self.queue.drain(..count.min(self.queue.len())).map(|item| item.tag).max();
                (tag, None)
            }
            Merged::Undecodable(index) => {
                // Beyond the batch it is a heartbeat, of which the next one says more.
                let dead =
                    batch.filter(|item| item.body.is_some()).nth(index).and_then(|item| item.body.take());
                (None, dead)
            }
            Merged::Gaps => {
                if start == 0 {
                    self.not_before_ms = now_ms + HELD_WAIT_MS;
                }
                self.ahead = start + count;
                (None, None)
            }
            Merged::Held => {
                self.not_before_ms = now_ms + HELD_WAIT_MS;
                self.ahead = 0;
                (None, None)
            }
        }
    }

    /// When [`Self::next_merge`] is worth calling again without any delivery, milliseconds.
    pub fn wake_ms(&self) -> Option<u64> {
        if self.merging.is_some() || self.queue.is_empty() {
            return None;
        }
        let due = if self.queue.iter().any(|i| i.body.is_some()) { 0 } else { self.committed_ms + COMMIT_MS };
        Some(due.max(self.not_before_ms))
    }

    /// Looks for records further on that close gaps: deliveries must go on although nothing can be stored.
    pub fn looks_ahead(&self) -> bool {
        self.ahead > 0
    }

    /// Whether everything delivered up to `offset` is merged.
    pub fn is_merged_up_to(&self, offset: u64) -> bool {
        self.merging.is_none() && !self.queue.iter().any(|i| i.body.is_some() && i.read.offset <= offset)
    }

    /// The last record read on this attachment.
    pub fn last_read(&self) -> Option<Position> {
        self.last
    }

    /// The stored position, as far as known.
    pub fn stored(&self) -> Option<Position> {
        self.stored
    }

    /// The highest tag read whose record needs no merge, if nothing is queued before it: it may be acknowledged now.
    pub fn idle_tag(&self) -> Option<u64> {
        match (self.queue.len(), self.queue.back()) {
            (1, Some(only)) if only.body.is_none() && self.merging.is_none() => Some(only.tag),
            _ => None,
        }
    }

    /// Bytes delivered and not merged yet.
    pub fn backlog_bytes(&self) -> u64 {
        self.queue.iter().filter_map(|i| i.body.as_ref()).map(|b| b.len() as u64).sum()
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
