//! Sealing: when nothing of an ended incarnation of this region may come any more, the region says so in its stream
//! ([`crate::record::Body::Sealed`]). Then what was deleted since need not be remembered on its account.
//!
//! A record of an ended incarnation may be late: its proxy was frozen, or cut off. Behind the seal everybody ignores it,
//! so nobody may be told that what it holds is safe:
//! * no copy may be left whose outbox could give such a record: every member follows the live incarnation, whose outbox holds nothing
//!   of the old one;
//! * a proxy tells of a confirmation only while its word of a master is fresh ([`super::ack::FRESH_MS`]), or so long after that
//!   it learns of another one ([`super::ack::ENDED_GRACE_MS`]). No master of the old incarnation gives it a word once every member follows the
//!   new one, so [`QUIET_MS`] after that no proxy tells of an old confirmation any more. (Durations on two clocks are
//!   compared, not times.)
//! * every region has the same of it, durably: what only some have would be missing for good elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::cover::{Cover, SeqSet};
use crate::stamp::{Incarnation, Origin, RegionId};

/// How long all must have been well before an incarnation is sealed, milliseconds.
pub const QUIET_MS: u64 = 30_000;
/// A seal is published again after this time, milliseconds, while somebody does not know of it.
pub const AGAIN_MS: u64 = 5000;

/// What is known when the next step is decided.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// This region.
    pub region: RegionId,
    /// Earlier incarnations of it that are not sealed.
    pub ended: &'a BTreeSet<Incarnation>,
    /// What the master has.
    pub cover: &'a Cover,
    /// What it has durably.
    pub durable: &'a Cover,
    /// Every member follows the live incarnation, and its outbox and this proxy hold nothing of others.
    pub settled: bool,
    /// The last heard durable cover of every other region; `None`: none was heard.
    pub peers: &'a [Option<&'a Cover>],
}

/// See the module. One for each shard, at the proxy that has its own duty.
#[derive(Clone, Debug, Default)]
pub struct Sealing {
    /// Since when an incarnation could be sealed.
    since: BTreeMap<Incarnation, u64>,
    published_ms: Option<u64>,
}

impl Sealing {
    /// The incarnation to seal now, if any.
    pub fn step(&mut self, facts: Facts<'_>, now_ms: u64) -> Option<Incarnation> {
        let ready = |incarnation: &Incarnation| {
            let origin = Origin { region: facts.region, incarnation: *incarnation };
            let none = SeqSet::default();
            let of = |cover: &Cover| cover.of(origin).unwrap_or(&none).clone();
            let has = of(facts.cover);
            facts.settled
                && of(facts.durable) == has
                && facts.peers.iter().all(|peer| peer.is_some_and(|cover| of(cover) == has))
        };
        let ready: BTreeSet<Incarnation> = facts.ended.iter().copied().filter(ready).collect();
        self.since.retain(|incarnation, _| ready.contains(incarnation));
        for incarnation in &ready {
            self.since.entry(*incarnation).or_insert(now_ms);
        }
        if self.published_ms.is_some_and(|at| now_ms < at + AGAIN_MS) {
            return None;
        }
        let quiet = if mutation!(SealedAtOnce) { 0 } else { QUIET_MS };
        let due = self.since.iter().find(|(_, since)| now_ms >= **since + quiet).map(|(&i, _)| i);
        // Somebody may have missed a seal, with a stream that was truncated, or joined later.
        let missed = || {
            let own = facts.cover.sealed().filter(|origin| origin.region == facts.region);
            let mut own = own.filter(|o| facts.peers.iter().flatten().any(|peer| !peer.is_sealed(*o)));
            own.next().map(|origin| origin.incarnation)
        };
        let next = due.or_else(missed)?;
        self.published_ms = Some(now_ms);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: RegionId = RegionId(1);
    const OLD: Incarnation = Incarnation(7);

    fn cover(last: u64) -> Cover {
        let mut cover = Cover::default();
        cover.set(Origin { region: REGION, incarnation: OLD }, SeqSet::up_to(last));
        cover
    }

    fn run(
        machine: &mut Sealing,
        peer: &Cover,
        settled: bool,
        own: &Cover,
        now_ms: u64,
    ) -> Option<Incarnation> {
        let origin = Origin { region: REGION, incarnation: OLD };
        let ended = if own.is_sealed(origin) { BTreeSet::new() } else { BTreeSet::from([OLD]) };
        let peers = [Some(peer)];
        let facts = Facts { region: REGION, ended: &ended, cover: own, durable: own, settled, peers: &peers };
        machine.step(facts, now_ms)
    }

    #[test]
    fn only_when_all_have_the_same_and_no_late_confirmation_can_be_told() {
        let mut m = Sealing::default();
        assert_eq!(run(&mut m, &cover(4), true, &cover(5), 0), None);
        assert_eq!(run(&mut m, &cover(5), true, &cover(5), 10), None);
        assert_eq!(run(&mut m, &cover(5), false, &cover(5), QUIET_MS), None, "begins anew");
        assert_eq!(run(&mut m, &cover(5), true, &cover(5), QUIET_MS + 10), None);
        assert_eq!(run(&mut m, &cover(5), true, &cover(5), 2 * QUIET_MS + 10), Some(OLD));
        assert_eq!(run(&mut m, &cover(5), true, &cover(5), 2 * QUIET_MS + 11), None);
        assert_eq!(run(&mut m, &cover(5), true, &cover(5), 2 * QUIET_MS + 10 + AGAIN_MS), Some(OLD));
    }

    #[test]
    fn who_missed_it_hears_it_again() {
        let mut m = Sealing::default();
        let mut own = cover(5);
        own.seal(Origin { region: REGION, incarnation: OLD });
        assert_eq!(run(&mut m, &cover(5), true, &own, 0), Some(OLD));
        assert_eq!(run(&mut m, &own.clone(), true, &own, AGAIN_MS), None);
    }
}
