//! The outbox: effects that were issued and are not yet known to be in the region's stream. Bounded in bytes;
//! given up exactly as confirmed, never by a watermark.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::stamp::Incarnation;

/// What an entry takes beyond its effect, bytes.
const ENTRY_BYTES: u64 = 48;
/// Most effects that one sweep takes.
pub const SWEEP_EFFECTS_MAX: usize = 4096;

#[derive(Clone, Debug)]
struct Entry {
    effect: Bytes,
    at_ms: u64,
    /// Who takes care of it, until when. Volatile.
    claim: Option<(u64, u64)>,
}

/// Effects of one incarnation by number, in rising order; an entry is empty once its effect was confirmed. The first
/// is not. Numbers may be left out, however many: what a file or a log says must not take memory for what is not there.
#[derive(Clone, Debug, Default)]
struct Lane {
    entries: VecDeque<(u64, Option<Entry>)>,
}

impl Lane {
    /// The smallest number that is waiting.
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(seq, _)| *seq)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    lanes: BTreeMap<Incarnation, Lane>,
    effects: u64,
    bytes: u64,
}

impl Outbox {
    /// Number of effects.
    pub fn len(&self) -> u64 {
        self.effects
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.effects == 0
    }

    /// Memory taken, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds an effect. Numbers of one incarnation come in rising order.
    pub fn push(&mut self, incarnation: Incarnation, seq: u64, effect: Bytes, now_ms: u64) {
        let lane = self.lanes.entry(incarnation).or_default();
        if lane.entries.back().is_some_and(|(last, _)| *last >= seq) {
            return;
        }
        self.effects += 1;
        self.bytes += effect.len() as u64 + ENTRY_BYTES;
        lane.entries.push_back((seq, Some(Entry { effect, at_ms: now_ms, claim: None })));
    }

    /// Gives up `first..=last` of an incarnation; says how many were there.
    pub fn trim(&mut self, incarnation: Incarnation, first: u64, last: u64) -> u64 {
        let Some(lane) = self.lanes.get_mut(&incarnation) else { return 0 };
        let first = if mutation!(TrimByWatermark) { 1 } else { first };
        let low = lane.entries.partition_point(|(seq, _)| *seq < first);
        let high = lane.entries.partition_point(|(seq, _)| *seq <= last);
        let mut released = 0;
        for (_, slot) in lane.entries.range_mut(low.min(high)..high) {
            if let Some(entry) = slot.take() {
                released += 1;
                self.bytes -= entry.effect.len() as u64 + ENTRY_BYTES;
            }
        }
        while lane.entries.front().is_some_and(|(_, entry)| entry.is_none()) {
            lane.entries.pop_front();
        }
        if lane.entries.is_empty() {
            self.lanes.remove(&incarnation);
        }
        self.effects -= released;
        released
    }

    /// Takes effects that are older than `min_age_ms` and that nobody else claims, up to `max_bytes` (but at least one),
    /// and claims them for `proxy` until `now_ms + claim_ms`.
    pub fn sweep(
        &mut self,
        proxy: u64,
        now_ms: u64,
        min_age_ms: u64,
        max_bytes: usize,
        claim_ms: u64,
    ) -> Vec<(Incarnation, u64, Bytes)> {
        let mut taken = Vec::new();
        let mut size = 0;
        for (&incarnation, lane) in &mut self.lanes {
            for (seq, entry) in &mut lane.entries {
                let Some(entry) = entry else { continue };
                // What is of a later time is old: the clock was set back.
                if entry.at_ms <= now_ms && now_ms - entry.at_ms < min_age_ms {
                    continue;
                }
                let holds = |until| is_held(until, claim_ms, now_ms);
                if entry.claim.is_some_and(|(holder, until)| holder != proxy && holds(until)) {
                    continue;
                }
                size += entry.effect.len();
                if !taken.is_empty() && (size > max_bytes || taken.len() >= SWEEP_EFFECTS_MAX) {
                    return taken;
                }
                entry.claim = Some((proxy, now_ms.saturating_add(claim_ms)));
                taken.push((incarnation, *seq, entry.effect.clone()));
            }
        }
        taken
    }

    /// All effects, by incarnation and number.
    pub fn iter(&self) -> impl Iterator<Item = (Incarnation, u64, &Bytes)> {
        self.lanes.iter().flat_map(|(&incarnation, lane)| {
            lane.entries.iter().filter_map(move |(seq, e)| Some((incarnation, *seq, &e.as_ref()?.effect)))
        })
    }

    /// Each incarnation with effects that wait, and the smallest number that does: all below was confirmed.
    pub fn firsts(&self) -> impl Iterator<Item = (Incarnation, u64)> {
        self.lanes.iter().filter_map(|(&incarnation, lane)| Some((incarnation, lane.first()?)))
    }

    /// The smallest number of an incarnation that is still waiting.
    pub fn first_of(&self, incarnation: Incarnation) -> Option<u64> {
        self.lanes.get(&incarnation)?.first()
    }
}

/// Whether a claim for `ttl_ms` that was good until `until_ms` still holds. One that seems to hold for longer than it can is of a
/// clock that was set back since, and does not: claims only choose who does something, and must not keep everybody from it.
pub fn is_held(until_ms: u64, ttl_ms: u64, now_ms: u64) -> bool {
    until_ms > now_ms && until_ms - now_ms <= ttl_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const INC: Incarnation = Incarnation(7);

    fn outbox(n: u64) -> Outbox {
        let mut outbox = Outbox::default();
        for seq in 1..=n {
            outbox.push(INC, seq, Bytes::from(vec![0; 10]), 100);
        }
        outbox
    }

    fn seqs(outbox: &Outbox) -> Vec<u64> {
        outbox.iter().map(|(_, seq, _)| seq).collect()
    }

    #[test]
    fn gives_up_exactly_what_was_confirmed() {
        let mut o = outbox(6);
        assert_eq!(o.trim(INC, 4, 5), 2);
        assert_eq!(seqs(&o), [1, 2, 3, 6]);
        assert_eq!(o.trim(INC, 1, 2), 2);
        assert_eq!(o.trim(INC, 1, 2), 0);
        assert_eq!((seqs(&o), o.first_of(INC)), (vec![3, 6], Some(3)));
        assert_eq!(o.firsts().collect::<Vec<_>>(), [(INC, 3)]);
        assert_eq!(o.trim(INC, 1, 99), 2);
        assert_eq!((o.len(), o.bytes(), o.is_empty()), (0, 0, true));
        o.push(INC, 7, Bytes::new(), 0);
        assert_eq!(seqs(&o), [7]);
    }

    #[test]
    fn numbers_that_are_left_out_take_no_room() {
        let mut o = outbox(2);
        for seq in [1 << 60, u64::MAX, 7] {
            o.push(INC, seq, Bytes::new(), 100);
        }
        assert_eq!(seqs(&o), [1, 2, 1 << 60, u64::MAX]);
        assert_eq!(o.trim(INC, 2, 1 << 60), 2);
        assert_eq!((o.trim(INC, 1, 1), o.first_of(INC)), (1, Some(u64::MAX)));
        assert_eq!((o.trim(INC, 0, u64::MAX), o.is_empty()), (1, true));
    }

    #[test]
    fn a_claim_keeps_others_away_until_its_deadline() {
        let mut o = outbox(3);
        assert!(o.sweep(1, 105, 10, 1000, 50).is_empty(), "too young");
        assert_eq!(o.sweep(1, 110, 10, 20, 50).len(), 2);
        assert_eq!(o.sweep(2, 110, 10, 1000, 50).iter().map(|t| t.1).collect::<Vec<_>>(), [3]);
        assert_eq!(o.sweep(1, 111, 10, 1000, 50).len(), 2, "its own again");
        assert_eq!(o.sweep(2, 161, 10, 1000, 50).len(), 3);
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nobody_from_sweeping() {
        let mut o = Outbox::default();
        o.push(Incarnation(1), 1, Bytes::from_static(b"effect"), 20_000);
        assert_eq!(o.sweep(1, 20_100, 50, 1000, 500).len(), 1);
        // Proxy 1 is gone, and the clock is what it was 19 seconds ago.
        assert_eq!(o.sweep(2, 1000, 50, 1000, 500).len(), 1);
    }
}
