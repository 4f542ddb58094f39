//! What a node knows beside the shard's data: whether it serves, its role, leases. None of it is replicated or persisted.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use mas_core::outbox::is_held;
use mas_core::stamp::RegionId;

use crate::gate::{self, Gate};
use crate::refusal::Refusal;

/// Longest pause: who asked for it may be gone.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Most leases that are held at once.
const CLAIMS_MAX: usize = 1024;

/// Whether a master serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Just started, superseded, or a replica.
    #[default]
    Fenced,
    /// Promoted; has not read its own stream back yet.
    Recovering,
    /// Serves.
    Serving,
}

impl State {
    /// As `MAS.IDENTITY` writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::Recovering => "recovering",
            Self::Serving => "serving",
        }
    }
}

/// Counters since the process started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Writes captured.
    pub(crate) captured: u64,
    /// Of those, native ones that did not come through `MAS.EXEC`.
    pub(crate) captured_natively: u64,
    /// Writes refused.
    pub(crate) refused: u64,
    /// Times that a merge was held back because of a clock.
    pub(crate) held: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Node {
    state: State,
    /// Whether its own stream was read back in this incarnation.
    pub(crate) recovered: bool,
    replica: bool,
    loading: bool,
    /// It takes no writes until then.
    paused_until: Option<Instant>,
    /// Why the server's settings do not allow serving.
    pub(crate) unfit: Option<String>,
    /// Why the copy must not be promoted.
    pub(crate) damaged: Option<String>,
    /// `maxmemory`, bytes; 0: none.
    pub(crate) maxmemory: u64,
    claims: HashMap<Vec<u8>, (u64, u64)>,
    /// Regions whose last records were held back, by how far their clock is ahead, ms.
    held: BTreeMap<RegionId, u64>,
    /// See [`Counters`].
    pub(crate) counters: Counters,
}

impl Node {
    /// Whether it serves.
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether it is a replica.
    pub(crate) fn is_replica(&self) -> bool {
        self.replica
    }

    fn tell_gate(&self) {
        gate::set(match (self.loading, self.replica, self.state) {
            (true, _, _) => Gate::Loading,
            (false, true, _) => Gate::Replica,
            (false, false, State::Serving) => Gate::Serving,
            (false, false, State::Fenced | State::Recovering) => Gate::Closed,
        });
    }

    /// A new role begins fenced.
    pub(crate) fn set_role(&mut self, replica: bool) {
        self.replica = replica;
        self.fence();
    }

    /// Data is being loaded, or that has ended.
    pub(crate) fn set_loading(&mut self, loading: bool) {
        self.loading = loading;
        self.tell_gate();
    }

    /// Any state → fenced.
    pub(crate) fn fence(&mut self) {
        self.state = State::Fenced;
        self.recovered = false;
        self.paused_until = None;
        self.claims.clear();
        self.held.clear();
        self.tell_gate();
    }

    /// Fenced → recovering.
    pub(crate) fn promoted(&mut self) {
        self.state = State::Recovering;
        self.recovered = false;
        self.tell_gate();
    }

    /// Recovering → serving; `full`: the own stream was read back.
    pub(crate) fn serve(&mut self, full: bool) -> Result<(), Refusal> {
        self.check_promoted()?;
        self.state = State::Serving;
        self.recovered |= full;
        self.tell_gate();
        Ok(())
    }

    /// Refuses unless a promoted master.
    pub(crate) fn check_promoted(&self) -> Result<(), Refusal> {
        match (self.replica, self.state) {
            (true, _) => Err(Refusal::Replica),
            (false, State::Fenced) => Err(Refusal::Fenced),
            (false, State::Recovering | State::Serving) => Ok(()),
        }
    }

    /// Refuses unless it takes writes.
    pub(crate) fn check_serving(&self) -> Result<(), Refusal> {
        match (self.replica, self.state) {
            (false, State::Serving) => self.check_running().and_then(|()| self.check_fit()),
            (false, State::Recovering) => Err(Refusal::Recovering),
            (false, State::Fenced) => Err(Refusal::Fenced),
            (true, _) => Err(Refusal::Replica),
        }
    }

    /// Takes nothing that changes data for so long, unless it is told to go on before. No clock of the wall has a say in it.
    pub(crate) fn pause(&mut self, time: Duration) -> Result<(), Refusal> {
        if self.state != State::Serving || self.replica {
            return self.check_promoted().and(Err(Refusal::Recovering));
        }
        self.paused_until = (!time.is_zero()).then(|| Instant::now() + time.min(PAUSE_MAX));
        Ok(())
    }

    /// How long the pause lasts yet.
    pub(crate) fn paused(&self) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Refuses while it is paused.
    pub(crate) fn check_running(&self) -> Result<(), Refusal> {
        if self.paused().is_zero() { Ok(()) } else { Err(Refusal::Paused) }
    }

    /// Refuses when the server's settings do not allow writes.
    pub(crate) fn check_fit(&self) -> Result<(), Refusal> {
        self.unfit.as_ref().map_or(Ok(()), |why| Err(Refusal::other(why.clone())))
    }

    /// A lease on a duty: whether `proxy` has it now, and who has it.
    pub(crate) fn claim(&mut self, duty: &[u8], proxy: u64, ttl_ms: u64, now_ms: u64) -> (bool, u64) {
        if let Some((holder, until)) = self.claims.get(duty)
            && *holder != proxy
            && is_held(*until, ttl_ms, now_ms)
        {
            return (false, *holder);
        }
        if self.claims.len() >= CLAIMS_MAX && !self.claims.contains_key(duty) {
            self.claims.retain(|_, (_, until)| is_held(*until, ttl_ms, now_ms));
            if self.claims.len() >= CLAIMS_MAX {
                return (false, 0);
            }
        }
        self.claims.insert(duty.to_vec(), (proxy, now_ms.saturating_add(ttl_ms)));
        (true, proxy)
    }

    /// A merge from `region` was held back.
    pub(crate) fn hold(&mut self, region: RegionId, ahead_ms: u64) {
        self.counters.held += 1;
        self.held.insert(region, ahead_ms);
    }

    /// A merge from `region` went through.
    pub(crate) fn release(&mut self, region: RegionId) {
        if !self.held.is_empty() {
            self.held.remove(&region);
        }
    }

    /// Refuses writes when all peers, and at least two, say that this clock is far behind. (With one peer nobody can tell
    /// whose clock is wrong.)
    pub(crate) fn check_clock(&self, peers: impl Iterator<Item = RegionId>) -> Result<(), Refusal> {
        if self.held.len() < 2 || peers.into_iter().any(|peer| !self.held.contains_key(&peer)) {
            return Ok(());
        }
        let behind = self.held.values().min().copied().unwrap_or(0);
        Err(Refusal::Skew(format!(
            "this engine's clock is {behind} ms or more behind all its peers: set it right"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_needs_a_promotion_and_a_new_role_ends_it() {
        let mut node = Node::default();
        assert_eq!(node.serve(true), Err(Refusal::Fenced));
        node.promoted();
        assert_eq!(node.check_serving(), Err(Refusal::Recovering));
        node.serve(false).unwrap();
        assert!(!node.recovered);
        node.serve(true).unwrap();
        assert!(node.recovered && node.check_serving().is_ok());
        node.set_role(true);
        assert_eq!(
            (node.check_serving(), node.check_promoted()),
            (Err(Refusal::Replica), Err(Refusal::Replica))
        );
        node.set_role(false);
        assert_eq!(node.check_serving(), Err(Refusal::Fenced));
    }

    #[test]
    fn a_pause_ends_by_itself_when_told_to_and_with_the_role() {
        let mut node = Node::default();
        let long = Duration::from_secs(9);
        assert_eq!(node.pause(long), Err(Refusal::Fenced));
        node.promoted();
        assert_eq!(node.pause(long), Err(Refusal::Recovering));
        node.serve(true).unwrap();
        node.pause(Duration::from_secs(1000)).unwrap();
        assert!(node.paused() > Duration::from_secs(1) && node.paused() <= PAUSE_MAX);
        assert_eq!((node.check_serving(), node.check_promoted()), (Err(Refusal::Paused), Ok(())));
        node.pause(Duration::ZERO).unwrap();
        assert_eq!(node.check_serving(), Ok(()));
        node.pause(Duration::from_nanos(1)).unwrap();
        while !node.paused().is_zero() {}
        assert_eq!(node.check_serving(), Ok(()));
        node.pause(long).unwrap();
        node.fence();
        assert_eq!((node.paused(), node.check_serving()), (Duration::ZERO, Err(Refusal::Fenced)));
    }

    #[test]
    fn a_lease_is_one_holders_until_its_deadline() {
        let mut node = Node::default();
        assert_eq!(node.claim(b"own", 1, 100, 0), (true, 1));
        assert_eq!(node.claim(b"own", 2, 100, 50), (false, 1));
        assert_eq!(node.claim(b"own", 1, 100, 90), (true, 1), "renewed");
        assert_eq!(node.claim(b"own", 2, 100, 150), (false, 1));
        assert_eq!(node.claim(b"own", 2, 100, 190), (true, 2));
        assert_eq!(node.claim(b"own", 1, 100, 20), (true, 1), "the clock was set back");
        assert_eq!(node.claim(b"own", 2, 100, 190), (true, 2));
        for duty in 0..2000u32 {
            node.claim(&duty.to_be_bytes(), 1, 100, 200);
        }
        assert_eq!(node.claim(b"more", 1, 100, 200), (false, 0));
    }

    #[test]
    fn a_clock_behind_all_of_several_peers_stops_writes() {
        let mut node = Node::default();
        let peers = || [RegionId(2), RegionId(3)].into_iter();
        node.hold(RegionId(2), 5_000_000);
        assert!(node.check_clock(peers()).is_ok());
        node.hold(RegionId(3), 4_000_000);
        assert!(matches!(node.check_clock(peers()), Err(Refusal::Skew(_))));
        node.release(RegionId(2));
        assert!(node.check_clock(peers()).is_ok());
    }
}
