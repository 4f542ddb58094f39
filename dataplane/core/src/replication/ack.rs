//! Acknowledgements: which writes have reached which level, and who waits for it.
//!
//! `Queued` is known from two sources, both exact: what this proxy got confirmed itself, and the engine's outbox, which
//! gives up exactly what some proxy got confirmed. `Remote` is known from the durable covers in peers' heartbeats.
//! Nothing is ever answered "reached" because of a time that passed.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::config::OnBrokerLoss;
use crate::cover::{Cover, SeqSet};
use crate::stamp::{Incarnation, Origin, RegionId};

/// Most writes of one shard that may wait at a time; beyond it they fail at once.
pub const WAITING_MAX: usize = 1 << 18;
/// How long a write of an incarnation that has ended may still wait for its confirmation, milliseconds.
pub const ENDED_GRACE_MS: u64 = 2000;
/// How long a master's word is good, milliseconds: without a newer one nobody is told of a confirmation, for the incarnation may have
/// ended and been sealed ([`super::sealing`]).
pub const FRESH_MS: u64 = 5000;
/// Most confirmations that wait for a newer word; beyond it their writes fail.
const UNSURE_MAX: usize = 4096;
/// Most incarnations of this region that are remembered.
const LANES_MAX: usize = 16;

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The region's stream confirmed it.
    Queued,
    /// So many other regions' durable covers include it.
    Remote(u16),
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The level was reached.
    Reached,
    /// The broker is away, and the store degrades to `Local`.
    Degraded,
    /// The broker is away, and the store rejects.
    Unavailable,
    /// Not in time, or never: the incarnation ended, or too many wait.
    Failed,
}

/// A write that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Who numbered it.
    pub incarnation: Incarnation,
    /// Its number; without an effect, the last number issued before.
    pub seq: u64,
    /// Whether it changed something. If not, it waits for all that was issued up to `seq`.
    pub effect: bool,
    /// What it waits for.
    pub level: Level,
}

#[derive(Clone, Copy, Debug)]
struct Waiting<W> {
    who: W,
    effect: bool,
    level: Level,
    deadline_ms: u64,
}

/// What sort of event tells a waiting write. Each sort has its own table, so that a frequent event of one does not walk
/// past those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// `Queued`, with an effect: its own confirmation.
    Effect,
    /// `Queued`, without: all before it.
    Unchanged,
    /// A peer's cover.
    Remote,
}

/// A confirmation that waits for a newer word of the master.
#[derive(Clone, Debug)]
struct Unsure {
    incarnation: Incarnation,
    ranges: Vec<(u64, u64)>,
    at_ms: u64,
}

#[derive(Clone, Debug)]
struct Lane<W> {
    confirmed: SeqSet,
    /// One table a sort, by number and a counter.
    waiting: [BTreeMap<(u64, u64), Waiting<W>>; 3],
}

impl<W> Lane<W> {
    fn is_idle(&self) -> bool {
        self.waiting.iter().all(BTreeMap::is_empty)
    }
}

/// The waiting writes of one shard. `W` names who is told.
#[derive(Clone, Debug)]
pub struct Acks<W> {
    region: RegionId,
    on_loss: OnBrokerLoss,
    away: bool,
    live: Incarnation,
    /// The word of the live incarnation's master is good until then.
    fresh_until_ms: u64,
    /// Confirmations of incarnations before it count until then.
    ended_until_ms: u64,
    /// Confirmations that came without a good word.
    unsure: Vec<Unsure>,
    lanes: BTreeMap<Incarnation, Lane<W>>,
    peers: HashMap<RegionId, (u64, Cover)>,
    count: usize,
    counter: u64,
    done: Vec<(W, Outcome)>,
}

impl<W: Copy> Acks<W> {
    /// Nobody waits. The broker counts as away until [`Self::broker`] says otherwise.
    pub fn new(region: RegionId, on_loss: OnBrokerLoss) -> Self {
        Self {
            region,
            on_loss,
            away: true,
            live: Incarnation::NONE,
            fresh_until_ms: 0,
            ended_until_ms: 0,
            unsure: Vec::new(),
            lanes: BTreeMap::new(),
            peers: HashMap::new(),
            count: 0,
            counter: 0,
            done: Vec::new(),
        }
    }

    /// What happens to `Queued` writes while the broker is away.
    pub fn set_policy(&mut self, on_loss: OnBrokerLoss) {
        self.on_loss = on_loss;
    }

    fn lane(&mut self, incarnation: Incarnation) -> &mut Lane<W> {
        self.lanes.entry(incarnation).or_insert_with(|| Lane {
            confirmed: SeqSet::default(),
            waiting: std::array::from_fn(|_| BTreeMap::new()),
        })
    }

    fn reached(
        &self,
        lane: &Lane<W>,
        incarnation: Incarnation,
        seq: u64,
        effect: bool,
        level: Level,
    ) -> bool {
        let has = |set: &SeqSet| {
            if effect || mutation!(UnchangedAckedEarly) { set.contains(seq) } else { set.contiguous() >= seq }
        };
        match level {
            Level::Queued => has(&lane.confirmed) || mutation!(AckBeforeConfirm),
            Level::Remote(n) => {
                let origin = Origin { region: self.region, incarnation };
                let have = self.peers.values().filter(|(_, cover)| cover.of(origin).is_some_and(has)).count();
                seq == 0 || have + usize::from(mutation!(RemoteCountsOneLess)) >= usize::from(n)
            }
        }
    }

    /// A write begins to wait, at most until `deadline_ms`; it is told through [`Self::take`], maybe at once.
    pub fn wait(&mut self, write: Write, who: W, deadline_ms: u64) {
        let Write { incarnation, seq, effect, level } = write;
        self.lane(incarnation);
        let Some(lane) = self.lanes.get(&incarnation) else { return };
        if self.reached(lane, incarnation, seq, effect, level) {
            self.done.push((who, Outcome::Reached));
        } else if self.away {
            self.done.push((who, self.loss()));
        } else if self.count >= WAITING_MAX {
            self.done.push((who, Outcome::Failed));
        } else {
            self.count += 1;
            self.counter += 1;
            let key = (seq, self.counter);
            let sort = match level {
                Level::Remote(_) => Sort::Remote,
                Level::Queued if effect => Sort::Effect,
                Level::Queued => Sort::Unchanged,
            };
            let waiting = Waiting { who, effect, level, deadline_ms };
            self.lane(incarnation).waiting[sort as usize].insert(key, waiting);
        }
    }

    fn loss(&self) -> Outcome {
        match self.on_loss {
            OnBrokerLoss::Degrade if mutation!(LossIsReached) => Outcome::Reached,
            OnBrokerLoss::Degrade => Outcome::Degraded,
            OnBrokerLoss::Reject => Outcome::Unavailable,
        }
    }

    /// The broker confirmed effects that this proxy published.
    pub fn confirmed(&mut self, incarnation: Incarnation, ranges: &[(u64, u64)], now_ms: u64) {
        if mutation!(StaleConfirmationTold) {
            self.count_confirmed(incarnation, ranges);
        } else if now_ms > self.fresh_until_ms {
            if self.unsure.len() < UNSURE_MAX {
                self.unsure.push(Unsure { incarnation, ranges: ranges.to_vec(), at_ms: now_ms });
            }
        } else if incarnation == self.live || now_ms <= self.ended_until_ms {
            self.count_confirmed(incarnation, ranges);
        }
    }

    fn count_confirmed(&mut self, incarnation: Incarnation, ranges: &[(u64, u64)]) {
        let lane = self.lane(incarnation);
        let before = lane.confirmed.contiguous();
        for &(first, last) in ranges {
            // Beyond the bound on runs the engine's outbox will tell.
            let _ = lane.confirmed.insert_run(first, last);
        }
        let after = lane.confirmed.contiguous();
        for &(first, last) in ranges {
            self.release_queued(incarnation, Sort::Effect, first, last);
        }
        if after > before {
            self.release_queued(incarnation, Sort::Unchanged, 0, after);
        }
    }

    /// The engine's outbox, as of one moment: `first` is the smallest number of the incarnation still in it, `issued`
    /// the last number issued. All below was confirmed to some proxy.
    pub fn outbox(&mut self, incarnation: Incarnation, first: Option<u64>, issued: u64) {
        let last = first.map_or(issued, |first| first.saturating_sub(1).min(issued));
        let last = last + u64::from(mutation!(OutboxFirstConfirmed) && last < issued);
        let lane = self.lane(incarnation);
        let _ = lane.confirmed.insert_run(1, last);
        let contiguous = lane.confirmed.contiguous();
        self.release_queued(incarnation, Sort::Effect, 0, last);
        self.release_queued(incarnation, Sort::Unchanged, 0, contiguous);
    }

    /// Tells `Queued` writes of one sort in `first..=last`, all of which was confirmed.
    fn release_queued(&mut self, incarnation: Incarnation, sort: Sort, first: u64, last: u64) {
        let Some(lane) = self.lanes.get_mut(&incarnation) else { return };
        let table = &mut lane.waiting[sort as usize];
        while let Some((&key, waiting)) = table.range((first, 0)..=(last, u64::MAX)).next() {
            self.done.push((waiting.who, Outcome::Reached));
            self.count -= 1;
            table.remove(&key);
        }
    }

    /// A heartbeat of a peer: its durable cover. Lower epochs than one seen are ignored.
    pub fn peer(&mut self, region: RegionId, epoch: u64, cover: Cover) {
        if self.peers.get(&region).is_some_and(|(seen, _)| *seen > epoch) && !mutation!(OldEpochHeard) {
            return;
        }
        self.peers.insert(region, (epoch, cover));
        let incarnations: Vec<_> = self.lanes.keys().copied().collect();
        for incarnation in incarnations {
            let Some(lane) = self.lanes.get(&incarnation) else { continue };
            let keys: Vec<_> = lane.waiting[Sort::Remote as usize]
                .iter()
                .filter(|((seq, _), w)| self.reached(lane, incarnation, *seq, w.effect, w.level))
                .map(|(&key, _)| key)
                .collect();
            for key in keys {
                if let Some(waiting) = self.lane(incarnation).waiting[Sort::Remote as usize].remove(&key) {
                    self.count -= 1;
                    self.done.push((waiting.who, Outcome::Reached));
                }
            }
        }
    }

    /// The last heard durable cover of a peer.
    pub fn peer_cover(&self, region: RegionId) -> Option<&Cover> {
        self.peers.get(&region).map(|(_, cover)| cover)
    }

    /// Regions that are no members any more do not count.
    pub fn keep_peers(&mut self, keep: &dyn Fn(RegionId) -> bool) {
        self.peers.retain(|&region, _| keep(region));
    }

    /// How many other regions' durable covers include everything up to `seq` of an origin.
    pub fn regions_with(&self, origin: Origin, seq: u64) -> u16 {
        let has = |cover: &Cover| seq == 0 || cover.of(origin).is_some_and(|set| set.contiguous() >= seq);
        self.peers.values().filter(|(_, cover)| has(cover)).count() as u16
    }

    /// The broker can be reached, or is away. While it is away nobody waits.
    pub fn broker(&mut self, away: bool) {
        self.away = away;
        if away {
            let outcome = self.loss();
            for table in self.lanes.values_mut().flat_map(|lane| &mut lane.waiting) {
                self.done.extend(std::mem::take(table).into_values().map(|w| (w.who, outcome)));
            }
            self.count = 0;
        }
    }

    /// A master, asked at `asked_ms`, said that this incarnation lives. Writes of those before it have a short time left to be
    /// confirmed, or none if that is news after a long silence.
    pub fn live(&mut self, incarnation: Incarnation, asked_ms: u64, now_ms: u64) {
        let fresh = now_ms <= self.fresh_until_ms;
        self.fresh_until_ms = self.fresh_until_ms.max(asked_ms + FRESH_MS);
        let unsure = std::mem::take(&mut self.unsure);
        let (sure, unsure): (Vec<_>, Vec<_>) = unsure.into_iter().partition(|one| one.at_ms <= asked_ms);
        self.unsure = unsure;
        let stays = self.live == incarnation;
        for one in sure.into_iter().filter(|one| stays && one.incarnation == incarnation) {
            self.count_confirmed(one.incarnation, &one.ranges);
        }
        if self.live == incarnation {
            return;
        }
        self.live = incarnation;
        self.ended_until_ms = if fresh { now_ms + ENDED_GRACE_MS } else { 0 };
        for (&other, lane) in &mut self.lanes {
            if other != incarnation {
                for waiting in lane.waiting.iter_mut().flat_map(BTreeMap::values_mut) {
                    waiting.deadline_ms = waiting.deadline_ms.min(self.ended_until_ms);
                }
            }
        }
        if self.lanes.len() > LANES_MAX {
            self.lanes.retain(|&i, lane| i == incarnation || !lane.is_idle());
        }
    }

    /// Deadlines. Looks at all that wait; call it a few times a second.
    pub fn tick(&mut self, now_ms: u64) {
        for table in self.lanes.values_mut().flat_map(|lane| &mut lane.waiting) {
            let before = table.len();
            let done = &mut self.done;
            table.retain(|_, w| {
                let stays = w.deadline_ms > now_ms;
                if !stays {
                    done.push((w.who, Outcome::Failed));
                }
                stays
            });
            self.count -= before - table.len();
        }
    }

    /// Whether writes wait that changed nothing: the engine should be asked for its outbox soon.
    pub fn has_unchanged(&self) -> bool {
        self.lanes.values().any(|lane| !lane.waiting[Sort::Unchanged as usize].is_empty())
    }

    /// Whether effects are waited for that this proxy does not hold: the engine should be asked for its outbox now and
    /// then. Looks at all that wait.
    pub fn has_unheld(&self, held: &dyn Fn(Incarnation, u64) -> bool) -> bool {
        self.lanes.iter().any(|(&incarnation, lane)| {
            lane.waiting[Sort::Effect as usize].keys().any(|(seq, _)| !held(incarnation, *seq))
        })
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.count
    }

    /// Whether somebody is to be told.
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Who is to be told, and what.
    pub fn take(&mut self) -> Vec<(W, Outcome)> {
        std::mem::take(&mut self.done)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);
    const HERE: RegionId = RegionId(1);

    fn acks() -> Acks<u64> {
        let mut acks = Acks::new(HERE, OnBrokerLoss::Degrade);
        acks.broker(false);
        acks.live(A, 0, 0);
        acks
    }

    fn write(seq: u64, effect: bool, level: Level) -> Write {
        Write { incarnation: A, seq, effect, level }
    }

    fn cover(last: u64) -> Cover {
        let mut cover = Cover::default();
        cover.set(Origin { region: HERE, incarnation: A }, SeqSet::up_to(last));
        cover
    }

    #[test]
    fn queued_is_told_when_exactly_that_effect_was_confirmed() {
        let mut a = acks();
        a.wait(write(1, true, Level::Queued), 10, 100);
        a.wait(write(2, true, Level::Queued), 20, 100);
        a.confirmed(A, &[(2, 2)], 0);
        assert_eq!(a.take(), [(20, Outcome::Reached)]);
        a.confirmed(A, &[(1, 1)], 0);
        assert_eq!(a.take(), [(10, Outcome::Reached)]);
        a.wait(write(2, true, Level::Queued), 30, 100);
        assert_eq!(a.take(), [(30, Outcome::Reached)], "confirmed already");
    }

    #[test]
    fn nobody_is_told_of_a_confirmation_while_the_masters_word_is_old() {
        let mut a = acks();
        a.wait(write(1, true, Level::Queued), 10, u64::MAX);
        a.wait(write(2, true, Level::Queued), 20, u64::MAX);
        a.confirmed(A, &[(1, 1)], FRESH_MS + 1);
        assert!(a.take().is_empty(), "the incarnation may have been sealed");
        a.live(A, FRESH_MS, FRESH_MS + 2);
        assert!(a.take().is_empty(), "asked before");
        a.live(A, FRESH_MS + 3, FRESH_MS + 3);
        assert_eq!(a.take(), [(10, Outcome::Reached)]);
        a.confirmed(A, &[(2, 2)], 9 * FRESH_MS);
        a.live(B, 10 * FRESH_MS, 10 * FRESH_MS);
        a.confirmed(A, &[(2, 2)], 10 * FRESH_MS);
        a.tick(10 * FRESH_MS);
        assert_eq!(a.take(), [(20, Outcome::Failed)], "news after a long silence: no grace");
    }

    #[test]
    fn a_write_without_effect_waits_for_all_before_it() {
        let mut a = acks();
        a.wait(write(3, false, Level::Queued), 10, 100);
        a.wait(write(0, false, Level::Queued), 11, 100);
        assert_eq!(a.take(), [(11, Outcome::Reached)], "nothing was issued before");
        a.confirmed(A, &[(2, 3)], 0);
        assert!(a.take().is_empty(), "another proxy has number 1");
        assert!(a.has_unchanged());
        a.outbox(A, Some(1), 9);
        assert!(a.take().is_empty());
        a.outbox(A, Some(2), 9);
        assert_eq!(a.take(), [(10, Outcome::Reached)], "trimmed up to 1, and 2 to 3 are its own");
        assert!(!a.has_unchanged());
    }

    #[test]
    fn the_outbox_tells_of_what_others_published() {
        let mut a = acks();
        a.wait(write(5, true, Level::Queued), 10, 100);
        assert!(!a.has_unheld(&|_, _| true) && a.has_unheld(&|_, _| false));
        a.outbox(A, None, 4);
        assert!(a.take().is_empty());
        a.outbox(A, None, 5);
        assert_eq!(a.take(), [(10, Outcome::Reached)]);
    }

    #[test]
    fn remote_counts_durable_covers_of_the_highest_epoch() {
        let mut a = acks();
        a.wait(write(4, true, Level::Remote(2)), 10, 100);
        a.confirmed(A, &[(1, 4)], 0);
        a.peer(RegionId(2), 7, cover(4));
        a.peer(RegionId(2), 7, cover(5));
        a.peer(RegionId(3), 2, cover(3));
        assert!(a.take().is_empty());
        a.peer(RegionId(3), 1, cover(9));
        assert!(a.take().is_empty(), "a superseded master's word");
        a.peer(RegionId(3), 3, cover(4));
        assert_eq!(a.take(), [(10, Outcome::Reached)]);
        let mine = Origin { region: HERE, incarnation: A };
        assert_eq!((a.regions_with(mine, 4), a.regions_with(mine, 5)), (2, 1));
    }

    #[test]
    fn without_a_broker_nobody_waits() {
        let mut a = acks();
        a.wait(write(1, true, Level::Queued), 10, 100);
        a.broker(true);
        a.wait(write(2, true, Level::Queued), 20, 100);
        assert_eq!(a.take(), [(10, Outcome::Degraded), (20, Outcome::Degraded)]);
        a.set_policy(OnBrokerLoss::Reject);
        a.wait(write(3, true, Level::Remote(1)), 30, 100);
        assert_eq!(a.take(), [(30, Outcome::Unavailable)]);
        a.broker(false);
        a.wait(write(4, true, Level::Queued), 40, 100);
        assert!(a.take().is_empty() && a.waiting() == 1);
    }

    #[test]
    fn an_ended_incarnation_fails_unless_confirmed_soon() {
        let mut a = acks();
        a.wait(write(1, true, Level::Queued), 10, 60_000);
        a.wait(write(2, true, Level::Queued), 20, 60_000);
        a.live(B, 1000, 1000);
        a.confirmed(A, &[(2, 2)], 1000);
        a.tick(1000 + ENDED_GRACE_MS);
        assert_eq!(a.take(), [(20, Outcome::Reached), (10, Outcome::Failed)]);
        assert_eq!(a.waiting(), 0);
    }

    proptest! {
        /// Under any order of confirmations nobody is told early, and everybody is told once.
        #[test]
        fn never_early_and_exactly_once(
            waits in prop::collection::vec((1u64..40, any::<bool>()), 1..60),
            events in prop::collection::vec((0u8..3, 1u64..40, 0u64..6), 0..60),
        ) {
            let mut a = acks();
            let mut truth: BTreeSet<u64> = BTreeSet::new();
            let mut open: Vec<(u64, u64, bool)> = Vec::new();
            let mut waits = waits.into_iter().enumerate();
            let mut told = BTreeSet::new();
            let mut total = 0;
            let mut step = |a: &mut Acks<u64>, truth: &BTreeSet<u64>, open: &[(u64, u64, bool)]| {
                for (who, outcome) in a.take() {
                    assert_eq!(outcome, Outcome::Reached);
                    assert!(told.insert(who));
                    let (_, seq, effect) = open.iter().find(|(w, ..)| *w == who).unwrap();
                    let reached = if *effect { truth.contains(seq) } else { (1..=*seq).all(|s| truth.contains(&s)) };
                    assert!(reached, "told early");
                }
                told.len()
            };
            for (kind, first, len) in events {
                match kind {
                    0 => {
                        if let Some((who, (seq, effect))) = waits.next() {
                            open.push((who as u64, seq, effect));
                            total += 1;
                            a.wait(write(seq, effect, Level::Queued), who as u64, u64::MAX);
                        }
                    }
                    1 => {
                        truth.extend(first..=first + len);
                        a.confirmed(A, &[(first, first + len)], 0);
                    }
                    _ => {
                        // The outbox truth: all below its first were confirmed by somebody.
                        truth.extend(1..first);
                        a.outbox(A, Some(first), 100);
                    }
                }
                step(&mut a, &truth, &open);
            }
            truth.extend(1..100);
            a.outbox(A, None, 99);
            prop_assert_eq!(step(&mut a, &truth, &open), total);
        }
    }
}
