//! What goes wrong while a procedure is under way.

use super::{Situation, other_than, proxy};
use crate::executor::{MS, SEC, Time};
use crate::faults::{Fault, Kind, Moment, Place};
use crate::rng::Rng;
use crate::setup::Setup;

/// Steps of a scale-out, or a rebuild, in which something can go wrong.
const STEPS: [&str; 10] = [
    "Provision",
    "Announce",
    "Clear",
    "HoldLogs",
    "SyncReplica",
    "Mark",
    "Promote",
    "Replay",
    "Verify",
    "Serve",
];

/// Those of a removal.
const REMOVING: [&str; 4] = ["Drain", "Settle", "Forget", "Delete"];

impl Situation {
    pub(super) fn joining(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let mut faults = Vec::new();
        if rng.chance(350) {
            faults.extend(self.unpublished(rng, setup));
        }
        if rng.chance(300) {
            faults.extend(self.late_source(rng, setup));
        }
        if rng.chance(250) {
            // It does not read what somebody else writes meanwhile.
            let other = other_than(rng, setup.regions.len() as u64, self.region);
            let (both, time) = (rng.chance(500), rng.range(2, 7) * SEC);
            let cut = Kind::CutRegions { from: other, to: self.region, both, time };
            let step = *rng.pick(&["Mark", "Promote"]);
            faults.push(Fault::in_the_moment(Moment::Step(step), self.at, cut));
        }
        faults.extend(self.troubles(rng, setup));
        faults
    }

    pub(super) fn rebuilding(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, other, at, .. } = self;
        let shard = rng.below(u64::from(setup.shards)) as u16;
        let down = rng.range(50, 1500) * MS;
        let mut faults = vec![Fault::new(at, Kind::ShardLoss { region, shard, down })];
        if rng.chance(250) {
            // Where nobody else has the shard, a person has to decide what to begin with.
            let region = if rng.chance(500) || setup.regions.len() < 3 { region } else { other };
            let again = Kind::ShardLoss { region, shard, down: rng.range(50, 1500) * MS };
            faults.push(if rng.below(3) == 0 {
                Fault::new(at + rng.below(3000) * MS, again)
            } else {
                let step = *rng.pick(&STEPS);
                Fault::in_the_moment(Moment::Step(step), at + rng.below(2000) * MS, again)
            });
        }
        if rng.chance(300) {
            faults.extend(self.unpublished(rng, setup));
        }
        if rng.chance(400) {
            faults.extend(self.late_source(rng, setup));
        }
        faults.extend(self.troubles(rng, setup));
        faults
    }

    pub(super) fn leaving(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, at, .. } = self;
        let mut faults = Vec::new();
        let moment = |rng: &mut Rng| {
            let step = *rng.pick(&REMOVING);
            Moment::Step(step)
        };
        for other in (1..=setup.regions.len() as u16).filter(|other| *other != region) {
            // Who stays hears late of it, and its replicas later; then it loses what only its master has.
            if rng.chance(300) {
                let (both, time) = (rng.chance(500), rng.range(500, 4000) * MS);
                let cut = Kind::CutRegions { from: region, to: other, both, time };
                faults.push(Fault::in_the_moment(moment(rng), at, cut));
            }
            if rng.chance(400) {
                let shard = rng.below(u64::from(setup.shards)) as u16;
                for member in 0..setup.regions[usize::from(other) - 1].members {
                    let (lag, time) = (rng.range(1000, 6000) * MS, rng.range(2, 8) * SEC);
                    let lag = Kind::ReplicaLag { region: other, shard, member, lag, time };
                    faults.push(match rng.below(2) {
                        0 => Fault::new(at - rng.below(1000) * MS, lag),
                        _ => Fault::in_the_moment(moment(rng), at, lag),
                    });
                }
                // For so long that another one becomes master.
                let down = if rng.chance(500) { rng.range(4, 7) * SEC } else { rng.range(50, 3000) * MS };
                let lost = Kind::MasterPowerLoss { region: other, shard, down };
                let step = *rng.pick(&["Settle", "Forget", "Forget"]);
                faults.push(Fault::in_the_moment(Moment::Step(step), at, lost));
            }
        }
        for _ in 0..rng.below(4) {
            let (kind, at) = (self.trouble(rng, setup), at + rng.below(1500) * MS);
            faults.push(Fault::in_the_moment(moment(rng), at, kind));
        }
        if rng.chance(400) {
            let (action, down) = (rng.below(5), rng.range(50, 2000) * MS);
            faults.push(Fault::new(at, Kind::Crash { action, down }));
        }
        faults
    }

    fn troubles(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let mut faults = Vec::new();
        if rng.chance(500) {
            let (action, down) = (rng.below(14), rng.range(50, 2000) * MS);
            faults.push(Fault::new(self.at, Kind::Crash { action, down }));
        }
        for _ in 0..rng.below(5) {
            let step = *rng.pick(&STEPS);
            let kind = self.trouble(rng, setup);
            let at = self.at + rng.below(1500) * MS;
            faults.push(Fault::in_the_moment(Moment::Step(step), at, kind));
        }
        faults
    }

    /// Something happens to somebody who takes part.
    fn trouble(self, rng: &mut Rng, setup: &Setup) -> Kind {
        let Self { region, other, .. } = self;
        let regions = setup.regions.len() as u64;
        let shard = rng.below(u64::from(setup.shards)) as u16;
        let either = if rng.chance(500) { region } else { other };
        let third = other_than(rng, regions, region);
        let first = Place::Engine { region, shard, member: 0 };
        let time = brief(rng);
        let down = time.min(5 * SEC);
        match rng.below(15) {
            0 | 1 => Kind::Kill { place: Place::Operator, down },
            2 => Kind::Kill { place: first, down },
            3 => Kind::PowerLoss { place: first, down },
            4 | 5 => Kind::MasterPowerLoss { region: other, shard, down },
            6 => Kind::MasterPowerLoss { region: third, shard, down },
            7 => Kind::Handover { region: other, shard, to: None },
            8 => Kind::CutRegions { from: region, to: third, both: rng.chance(600), time },
            9 => Kind::CutRegions { from: other, to: third, both: rng.chance(600), time },
            10 => Kind::Kill { place: Place::Broker { region: either }, down },
            11 => Kind::Kill { place: proxy(rng, setup, either), down },
            12 => Kind::Kill { place: Place::Controller { region: either }, down },
            13 => {
                let (lag, time) = (rng.range(50, 2000) * MS, rng.range(1, 6) * SEC);
                Kind::ReplicaLag { region, shard, member: 0, lag, time }
            }
            _ => Kind::Pause { place: if rng.chance(500) { first } else { Place::Operator }, time },
        }
    }

    /// The source cannot publish what its clients write, and its replicas lag; the copy has it, and the source loses it.
    fn unpublished(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let region = self.other;
        let time = rng.range(4, 9) * SEC;
        let begins = *rng.pick(&["SyncReplica", "Mark"]);
        let mut faults =
            vec![Fault::in_the_moment(Moment::Step(begins), self.at, Kind::Block { region, time })];
        for shard in 0..setup.shards {
            for member in 0..setup.regions[usize::from(region) - 1].members {
                let lag = Kind::ReplicaLag { region, shard, member, lag: 5 * SEC, time };
                faults.push(Fault::in_the_moment(Moment::Step(begins), self.at, lag));
            }
            let ends = *rng.pick(&["Promote", "Replay", "Replay"]);
            let lost = Kind::MasterPowerLoss { region, shard, down: rng.range(50, 4000) * MS };
            faults.push(Fault::in_the_moment(Moment::Step(ends), self.at, lost));
        }
        faults
    }

    /// The source hears late of what another region writes.
    fn late_source(self, rng: &mut Rng, setup: &Setup) -> Vec<Fault> {
        let Self { region, other, at, .. } = self;
        let members = (1..=setup.regions.len() as u16).filter(|member| ![region, other].contains(member));
        let (extra, time) = (rng.range(400, 900) * MS, rng.range(4, 12) * SEC);
        let mut faults = Vec::new();
        for member in members {
            for proxy in 0..setup.regions[usize::from(other) - 1].proxies {
                let (from, to) = (Place::Broker { region: member }, Place::Proxy { region: other, proxy });
                faults.push(Fault::new(at, Kind::Slow { from, to, extra, time }));
            }
        }
        faults
    }
}

fn brief(rng: &mut Rng) -> Time {
    if rng.chance(600) { rng.range(50, 1500) * MS } else { rng.range(1, 6) * SEC }
}
