//! The health of one link: how far a region is behind another's stream, and whether something is missing that will not
//! come. Computed from heartbeats and the own cover, never from a link's own word, and never from a timer alone.

use std::collections::BTreeSet;

use crate::cover::{Cover, SeqSet};
use crate::record::Heartbeat;
use crate::replication::heartbeat::{HEARTBEAT_MS, Word};
use crate::stamp::{Incarnation, Origin, RegionId};

/// Something issued before a heartbeat and not here when the peer's own clock has moved on by this much counts as
/// missing, milliseconds. What is late only, because its proxy died, was swept and published by then. The clock of a peer
/// that is not written to stands still, so as many heartbeats as are sent in that time count too.
pub const MISSING_AFTER_MS: u64 = 10_000;
/// See [`MISSING_AFTER_MS`].
const MISSING_AFTER_BEATS: u64 = MISSING_AFTER_MS / HEARTBEAT_MS;
/// Without a heartbeat for so long, nothing is known to flow, milliseconds.
pub const STALE_MS: u64 = 3000;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The peer's broker cannot be reached.
    Disconnected,
    /// Attached, but no heartbeat came for a while: the peer does not publish.
    Silent,
    /// Within the allowed lag.
    Connected,
    /// Behind by more than the allowed lag.
    CatchingUp,
    /// Effects are missing that were issued before the first record left in the log.
    Lapsed,
    /// Effects are missing, whatever the cause.
    Missing,
    /// Effects are held back: a clock is too far ahead.
    ClockSkew,
    /// Effects are held back: memory is short, or too many gaps are open.
    Held,
    /// Another proxy of this region reads it.
    Standby,
}

impl LinkState {
    /// As shown to people and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "Disconnected",
            Self::Silent => "Silent",
            Self::Connected => "Connected",
            Self::CatchingUp => "CatchingUp",
            Self::Lapsed => "Lapsed",
            Self::Missing => "Missing",
            Self::ClockSkew => "ClockSkew",
            Self::Held => "Held",
            Self::Standby => "Standby",
        }
    }
}

/// What the shell knows of a link beside heartbeats and cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The peer's broker can be reached.
    pub connected: bool,
    /// This proxy does the reading.
    pub reads: bool,
    /// Attached to the stream.
    pub attached: bool,
    /// The stored record was not in the log.
    pub truncated: bool,
    /// The peer's state cannot be taken over: one of the two was rolled back behind what was forgotten since.
    pub refused: bool,
    /// The last merge held effects back.
    pub held: bool,
    /// Because of a clock.
    pub skewed: bool,
    /// Above it a link is catching up, milliseconds.
    pub max_lag_ms: u64,
}

#[derive(Clone, Debug)]
struct Suspects {
    /// The peer's clock when they were noted, milliseconds.
    clock_ms: u64,
    /// Heartbeats heard by then.
    beats: u64,
    runs: Vec<(Origin, u64, u64)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Health {
    peer: RegionId,
    own: RegionId,
    /// Regions of which nothing comes any more: what the peer has of theirs and this region lacks, it is to give.
    gone: BTreeSet<RegionId>,
    epoch: u64,
    /// The latest heartbeat: what its region has issued and still has, and what it has of earlier incarnations of this one and of regions
    /// that are gone.
    issued: Vec<(Origin, SeqSet)>,
    clock_ms: u64,
    heard_ms: Option<u64>,
    beats: u64,
    behind: u64,
    /// The peer's clock at the newest heartbeat of which everything is here.
    level_clock_ms: u64,
    suspects: Option<Suspects>,
    /// The own incarnation that the suspects were noted under.
    live: Incarnation,
    missing: u64,
    /// Some of the peer's state was taken over, and not all.
    partial: bool,
    state: Option<LinkState>,
    since_ms: u64,
}

impl Health {
    /// Nothing was heard yet of `peer`, here in region `own`.
    pub fn new(peer: RegionId, own: RegionId) -> Self {
        Self {
            peer,
            own,
            gone: BTreeSet::new(),
            epoch: 0,
            issued: Vec::new(),
            clock_ms: 0,
            heard_ms: None,
            beats: 0,
            behind: 0,
            level_clock_ms: 0,
            suspects: None,
            live: Incarnation::NONE,
            missing: 0,
            partial: false,
            state: None,
            since_ms: 0,
        }
    }

    /// Regions that are gone for good, from the next heartbeat on.
    pub fn set_gone(&mut self, gone: impl IntoIterator<Item = RegionId>) {
        self.gone = gone.into_iter().collect();
    }

    /// A heartbeat was read. `false` when it is of a lower epoch than one before, and ignored.
    pub fn beat(&mut self, origin: Origin, beat: &Heartbeat, now_ms: u64) -> bool {
        if beat.epoch < self.epoch {
            return false;
        }
        self.epoch = beat.epoch;
        self.heard_ms = Some(now_ms);
        self.beats += 1;
        self.clock_ms = beat.clock.millis();
        self.issued = beat
            .cover
            .iter()
            .filter(|(o, _)| *o != origin)
            .filter(|(o, _)| o.region == self.peer || o.region == self.own || self.gone.contains(&o.region))
            .map(|(o, set)| (o, set.clone()))
            .collect();
        self.issued.push((origin, SeqSet::up_to(beat.issued)));
        true
    }

    /// What the own master says.
    pub fn heard(&mut self, own: &Word) {
        self.covered(&own.cover, own.incarnation);
        self.partial = own.transfer.as_ref().is_some_and(|transfer| transfer.source == self.peer);
    }

    /// The own cover, as of now, and the own live incarnation.
    fn covered(&mut self, own: &Cover, live: Incarnation) {
        if self.live != live {
            // Another master here: what it lacks may be on its way to it.
            (self.live, self.suspects) = (live, None);
        }
        let live = Origin { region: self.own, incarnation: live };
        let none = SeqSet::default();
        let lacking =
            self.issued.iter().filter(|(origin, _)| *origin != live).flat_map(|(origin, theirs)| {
                let runs = theirs.without(own.of(*origin).unwrap_or(&none));
                runs.into_iter().map(|(first, last)| (*origin, first, last))
            });
        let runs: Vec<(Origin, u64, u64)> = lacking.collect();
        self.behind = runs.iter().map(|(_, first, last)| last - first + 1).sum();
        if self.behind == 0 {
            self.level_clock_ms = self.clock_ms;
            self.suspects = None;
            self.missing = 0;
            return;
        }
        let due = match &self.suspects {
            None => true,
            Some(suspects) => {
                self.clock_ms >= suspects.clock_ms + MISSING_AFTER_MS
                    || self.beats >= suspects.beats + MISSING_AFTER_BEATS
            }
        };
        if !due {
            // What came meanwhile is not missing any more.
            if self.missing > 0 {
                self.missing = self.missing.min(self.behind);
            }
            return;
        }
        if let Some(suspects) = self.suspects.take() {
            self.missing =
                suspects.runs.iter().map(|&(o, first, last)| still_missing(own, o, first, last)).sum();
            if mutation!(HolesNotCounted) {
                self.missing = 0;
            }
        }
        self.suspects = Some(Suspects { clock_ms: self.clock_ms, beats: self.beats, runs });
    }

    /// Effects issued and not here.
    pub fn lag_effects(&self) -> u64 {
        self.behind
    }

    /// The incarnations of the peer that its last heartbeat names, with the last number of each that is or was there.
    pub fn issued(&self) -> impl Iterator<Item = (Incarnation, u64)> {
        let of_peer = self.issued.iter().filter(|(origin, _)| origin.region == self.peer);
        of_peer.map(|(origin, set)| (origin.incarnation, set.last()))
    }

    /// How much of the peer's own time is not wholly here, by its last heartbeat, milliseconds.
    pub fn behind_ms(&self) -> u64 {
        if self.behind == 0 {
            return 0;
        }
        self.clock_ms.saturating_sub(self.level_clock_ms.max(self.first_clock_ms()))
    }

    /// How old the state here is against the peer's, milliseconds: 0 when everything that the last heartbeat names is
    /// here and heartbeats flow.
    pub fn lag_ms(&self, now_ms: u64) -> u64 {
        let Some(heard_ms) = self.heard_ms else { return 0 };
        let silent_ms = now_ms.saturating_sub(heard_ms);
        let silent_ms = if silent_ms > STALE_MS { silent_ms } else { 0 };
        // Against the peer's clock: the two regions' clocks need not agree.
        self.behind_ms() + silent_ms
    }

    fn first_clock_ms(&self) -> u64 {
        // Never level yet: since the first heartbeat that named what is missing.
        match (&self.suspects, self.level_clock_ms) {
            (Some(suspects), 0) => suspects.clock_ms,
            _ => 0,
        }
    }

    /// Effects that are missing and will not come by themselves. Of state that is here in part something is, though the peer
    /// itself may have lost it meanwhile.
    pub fn missing(&self) -> u64 {
        self.missing.max(u64::from(self.partial))
    }

    /// The state now, and since when it holds, unix milliseconds.
    pub fn state(&mut self, link: Link, now_ms: u64) -> (LinkState, u64) {
        let fresh = self.heard_ms.is_some_and(|heard| now_ms.saturating_sub(heard) <= STALE_MS);
        let state = if !link.connected {
            LinkState::Disconnected
        } else if !link.reads {
            LinkState::Standby
        } else if !link.attached {
            LinkState::Disconnected
        } else if link.held {
            if link.skewed { LinkState::ClockSkew } else { LinkState::Held }
        } else if self.missing() > 0 && (link.truncated || link.refused) {
            LinkState::Lapsed
        } else if self.missing() > 0 {
            LinkState::Missing
        } else if !fresh {
            LinkState::Silent
        } else if self.lag_ms(now_ms) > link.max_lag_ms {
            LinkState::CatchingUp
        } else {
            LinkState::Connected
        };
        if self.state != Some(state) {
            self.state = Some(state);
            self.since_ms = now_ms;
        }
        (state, self.since_ms)
    }
}

fn still_missing(own: &Cover, origin: Origin, first: u64, last: u64) -> u64 {
    let Some(set) = own.of(origin) else { return last - first + 1 };
    set.holes_up_to(last).into_iter().filter(|&(_, b)| b >= first).map(|(a, b)| b - a.max(first) + 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::SeqSet;
    use crate::stamp::{Hlc, Incarnation};
    use crate::transfer::{Cursor, Progress};

    const PEER: RegionId = RegionId(2);
    const OWN: RegionId = RegionId(1);
    const LIVE: Origin = Origin { region: PEER, incarnation: Incarnation(7) };
    const LINK: Link = Link {
        connected: true,
        reads: true,
        attached: true,
        truncated: false,
        refused: false,
        held: false,
        skewed: false,
        max_lag_ms: 1000,
    };

    fn beat(epoch: u64, clock_ms: u64, issued: u64) -> Heartbeat {
        Heartbeat {
            stable: Hlc::ZERO,
            epoch,
            clock: Hlc::from_millis(clock_ms),
            issued,
            cover: Cover::default(),
        }
    }

    fn own(runs: &[(u64, u64)]) -> Cover {
        let mut set = SeqSet::default();
        for &(a, b) in runs {
            set.insert_run(a, b).unwrap();
        }
        let mut cover = Cover::default();
        cover.set(LIVE, set);
        cover
    }

    #[test]
    fn lag_in_effects_and_time() {
        let mut h = Health::new(PEER, OWN);
        h.beat(LIVE, &beat(1, 1000, 5), 50);
        h.covered(&own(&[(1, 5)]), Incarnation(1));
        assert_eq!((h.lag_effects(), h.lag_ms(60), h.state(LINK, 60).0), (0, 0, LinkState::Connected));
        h.beat(LIVE, &beat(1, 4000, 9), 3050);
        h.covered(&own(&[(1, 6), (8, 8)]), Incarnation(1));
        assert_eq!((h.lag_effects(), h.lag_ms(3060)), (2, 3000));
        assert_eq!((h.issued().collect::<Vec<_>>(), h.behind_ms()), (vec![(LIVE.incarnation, 9)], 3000));
        assert_eq!(h.state(LINK, 3060), (LinkState::CatchingUp, 3060));
        h.covered(&own(&[(1, 9)]), Incarnation(1));
        assert_eq!((h.lag_ms(3070), h.state(LINK, 3070)), (0, (LinkState::Connected, 3070)));
        assert_eq!(h.state(LINK, 3070 + STALE_MS).0, LinkState::Silent);
        assert_eq!(h.behind_ms(), 0, "silence loses nothing");
    }

    #[test]
    fn state_that_is_here_in_part_counts_as_missing() {
        let mut h = Health::new(PEER, OWN);
        h.beat(LIVE, &beat(1, 1000, 5), 0);
        let transfer = Progress { id: 1, source: PEER, since: Hlc::ZERO, next: Cursor::Done };
        let mut word = Word { cover: own(&[(1, 5)]), transfer: Some(transfer), ..Word::default() };
        h.heard(&word);
        assert_eq!((h.missing(), h.state(LINK, 10).0), (1, LinkState::Missing));
        word.transfer = None;
        h.heard(&word);
        assert_eq!((h.missing(), h.state(LINK, 10).0), (0, LinkState::Connected));
    }

    #[test]
    fn heartbeats_of_a_superseded_master_are_ignored() {
        let mut h = Health::new(PEER, OWN);
        assert!(h.beat(LIVE, &beat(5, 1000, 5), 0));
        assert!(!h.beat(LIVE, &beat(4, 9000, 500), 0));
        h.covered(&own(&[(1, 5)]), Incarnation(1));
        assert_eq!(h.lag_effects(), 0);
    }

    #[test]
    fn what_stays_away_counts_as_missing_and_lapsed_when_the_log_was_truncated() {
        let mut h = Health::new(PEER, OWN);
        let lapsed = Link { truncated: true, ..LINK };
        h.beat(LIVE, &beat(1, 1000, 5), 0);
        h.covered(&own(&[(3, 5)]), Incarnation(1));
        assert_eq!(h.missing(), 0, "it may come yet");
        h.beat(LIVE, &beat(1, 1000 + MISSING_AFTER_MS, 9), 0);
        h.covered(&own(&[(3, 5)]), Incarnation(1));
        assert_eq!((h.missing(), h.lag_effects()), (2, 6), "6 to 9 may come yet");
        assert_eq!(h.state(lapsed, 0).0, LinkState::Lapsed);
        assert_eq!(h.state(LINK, 0).0, LinkState::Missing);
        h.covered(&own(&[(1, 9)]), Incarnation(1));
        assert_eq!((h.missing(), h.state(lapsed, 0).0), (0, LinkState::Connected));
    }

    #[test]
    fn a_hole_is_missing_although_the_peers_clock_stands_still() {
        let mut h = Health::new(PEER, OWN);
        for n in 0..=MISSING_AFTER_BEATS {
            assert_eq!(h.missing(), 0, "after {n} heartbeats");
            h.beat(LIVE, &beat(1, 1000, 5), n * HEARTBEAT_MS);
            h.covered(&own(&[(1, 3)]), Incarnation(1));
        }
        assert_eq!((h.missing(), h.state(LINK, 0).0), (2, LinkState::Missing));
    }

    #[test]
    fn what_a_new_master_here_lacks_is_looked_at_anew() {
        let mut h = Health::new(PEER, OWN);
        h.beat(LIVE, &beat(1, 1000, 5), 0);
        h.covered(&own(&[(1, 3)]), Incarnation(1));
        h.beat(LIVE, &beat(1, 1000 + MISSING_AFTER_MS, 5), 0);
        h.covered(&own(&[(1, 2)]), Incarnation(2));
        assert_eq!((h.missing(), h.lag_effects()), (0, 3), "it has only begun to read");
        h.beat(LIVE, &beat(1, 1000 + 2 * MISSING_AFTER_MS, 5), 0);
        h.covered(&own(&[(1, 2)]), Incarnation(2));
        assert_eq!(h.missing(), 3);
    }

    #[test]
    fn what_is_held_back_is_shown_with_its_cause() {
        let mut h = Health::new(PEER, OWN);
        let held = Link { held: true, ..LINK };
        assert_eq!(h.state(held, 5), (LinkState::Held, 5));
        assert_eq!(h.state(Link { skewed: true, ..held }, 9), (LinkState::ClockSkew, 9));
        assert_eq!(h.state(Link { reads: false, ..held }, 9).0, LinkState::Standby);
    }

    #[test]
    fn what_an_ended_incarnation_never_got_out_is_not_missing() {
        let mut h = Health::new(PEER, OWN);
        let mut b = beat(1, 1000, 0);
        let old = Origin { region: PEER, incarnation: Incarnation(3) };
        let mut set = SeqSet::up_to(4);
        set.insert_run(7, 9).unwrap();
        b.cover.set(old, set.clone());
        h.beat(LIVE, &b, 0);
        let mut cover = Cover::default();
        cover.set(old, set);
        h.covered(&cover, Incarnation(5));
        assert_eq!(h.lag_effects(), 0, "5 and 6 are void: the peer lacks them too");
    }

    #[test]
    fn an_idle_peer_has_not_lapsed() {
        let mut h = Health::new(PEER, OWN);
        for n in 0..100 {
            h.beat(LIVE, &beat(1, 1000 * n, 5), 1000 * n);
            h.covered(&own(&[(1, 5)]), Incarnation(1));
        }
        assert_eq!(h.state(Link { truncated: true, ..LINK }, 99_000).0, LinkState::Connected);
    }

    #[test]
    fn earlier_incarnations_of_the_peer_and_of_the_own_region_count_too() {
        let mut h = Health::new(PEER, OWN);
        let mut b = beat(1, 1000, 2);
        let old = Origin { region: PEER, incarnation: Incarnation(3) };
        b.cover.set(old, SeqSet::up_to(4));
        b.cover.set(Origin { region: RegionId(9), incarnation: Incarnation(4) }, SeqSet::up_to(100));
        let mine = |incarnation| Origin { region: OWN, incarnation: Incarnation(incarnation) };
        b.cover.set(mine(8), SeqSet::up_to(3));
        b.cover.set(mine(5), SeqSet::up_to(70));
        h.beat(LIVE, &b, 0);
        let mut cover = own(&[(1, 2)]);
        cover.set(mine(8), SeqSet::up_to(2));
        h.covered(&cover, Incarnation(5));
        assert_eq!(h.lag_effects(), 4 + 1);
    }

    /// What another one has of a region that is gone is missing here like what it issued itself; of one that is not, its own stream brings it.
    #[test]
    fn what_is_left_of_a_region_that_is_gone_is_the_peers_to_give() {
        let third = Origin { region: RegionId(3), incarnation: Incarnation(9) };
        let mut h = Health::new(PEER, OWN);
        let mut theirs = Cover::default();
        theirs.set(third, SeqSet::up_to(4));
        let hear = |h: &mut Health, clock: u64| {
            h.beat(LIVE, &Heartbeat { cover: theirs.clone(), ..beat(1, clock, 0) }, clock);
            h.covered(&Cover::default(), Incarnation(1));
        };
        for clock in [1000, 20_000, 40_000] {
            hear(&mut h, clock);
        }
        assert_eq!((h.lag_effects(), h.missing()), (0, 0));
        h.set_gone([RegionId(3)]);
        hear(&mut h, 60_000);
        assert_eq!((h.lag_effects(), h.missing()), (4, 0), "it may be under way");
        hear(&mut h, 60_000 + MISSING_AFTER_MS);
        assert_eq!(h.missing(), 4);
        assert_eq!(h.issued().count(), 1, "the peer has not issued it");
        h.covered(&theirs, Incarnation(1));
        assert_eq!((h.lag_effects(), h.missing()), (0, 0));
    }
}
