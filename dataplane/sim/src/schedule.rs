//! Everything that a run is: the store, what clients do, what goes wrong. Drawn from the seed at once, so that parts of
//! it can be taken away when a failure is made small.

use crate::faults::{self, Fault};
use crate::rng::Rng;
use crate::setup::Setup;
use crate::situation::About;
use crate::workload::{self, Operation, SessionPlan};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
    pub(crate) sessions: Vec<SessionPlan>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) faults: Vec<Fault>,
}

impl Schedule {
    /// All runs are about the same, if that is given.
    pub(crate) fn draw(seed: u64, about: Option<About>) -> Self {
        let mut rng = Rng::new(seed);
        let setup = Setup::draw(&mut rng.fork(), about);
        let (sessions, operations) = workload::draw(&mut rng.fork(), &setup);
        let faults = faults::draw(&mut rng.fork(), &setup);
        Self { seed, setup, sessions, operations, faults }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_situation_comes_up_often() {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for seed in 1..301 {
            *seen.entry(format!("{:?}", Schedule::draw(seed, None).setup.situation.about)).or_default() += 1;
        }
        assert_eq!(seen.len(), 14, "{seen:?}");
        assert!(seen.values().all(|times| *times >= 5), "{seen:?}");
    }
}
