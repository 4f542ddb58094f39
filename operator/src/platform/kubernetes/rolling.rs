//! Rolling changes: which pod is restarted next, or what is waited for. Pure: all that is known is what runs and by which template, so
//! who is killed in the middle goes on where the pods are.
//!
//! Of a shard the replicas come first, then its master hands over, then it comes too; of a broker one node after the other. One region
//! at a time, and one pod at a time: the next one when all of its region, and of those that are done, is well again and every other
//! region is Active.

/// A pod of a StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodSeen {
    pub(crate) name: String,
    /// Which one of that name; empty: there is none.
    pub(crate) uid: String,
    /// Its StatefulSet has another template by now.
    pub(crate) outdated: bool,
    pub(crate) ready: bool,
    /// It was told to end.
    pub(crate) ends: bool,
    /// It cannot start, and says so: no node takes it, its image is missing, it crashes again and again.
    pub(crate) stuck: bool,
}

/// A shard of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardSeen {
    pub(crate) number: u16,
    /// By ordinal.
    pub(crate) pods: Vec<PodSeen>,
    /// The member that serves, and has read its own stream back.
    pub(crate) master: Option<usize>,
    /// Which members follow it and have its data.
    pub(crate) in_sync: Vec<bool>,
}

/// A region of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegionSeen {
    pub(crate) name: String,
    /// Why it is not Active.
    pub(crate) inactive: Option<String>,
    pub(crate) shards: Vec<ShardSeen>,
    pub(crate) brokers: Vec<PodSeen>,
    /// Why no broker node may go now, though all are ready.
    pub(crate) brokers_wait: Option<String>,
    pub(crate) proxies_ready: usize,
    pub(crate) proxies: usize,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Every pod runs its template.
    Done,
    /// Something has to be well first.
    Waits(String),
    /// Delete this pod: its StatefulSet makes it anew.
    Restart { pod: String, uid: String },
    /// Make a replica master, so that the master can be restarted.
    HandOver { region: String, shard: u16, from: usize },
}

/// The next step.
pub(crate) fn next(regions: &[RegionSeen]) -> Step {
    let outdated = |region: &RegionSeen| region.pods().any(|pod| pod.outdated);
    let Some(at) = regions.iter().position(outdated) else { return Step::Done };
    // What cannot start is restarted whatever else there is: nobody waits for it to get well, and nothing of it is lost.
    let mut all = regions.iter().flat_map(RegionSeen::pods);
    if let Some(stuck) = all.find(|pod| pod.outdated && pod.stuck && !pod.ends) {
        return restart(stuck);
    }
    let region = &regions[at];
    // The ones before it, too: one whose last pod was just taken is still called Active, for its state is measured now and then.
    if let Some(why) = regions[..=at].iter().find_map(not_well) {
        return Step::Waits(why);
    }
    let inactive = |other: &RegionSeen| Some(format!("{} {}", other.name, other.inactive.as_ref()?));
    if let Some(why) = regions.iter().find_map(inactive) {
        return Step::Waits(why);
    }
    let shard = region.shards.iter().find_map(ShardSeen::next).map(|next| match next {
        Next::Restart(pod) => restart(pod),
        Next::HandOver(shard, from) => Step::HandOver { region: region.name.clone(), shard, from },
    });
    let broker = || region.brokers.iter().find(|pod| pod.outdated).map(restart);
    shard.or_else(broker).unwrap_or(Step::Done)
}

/// What a region has to be waited for.
pub(crate) fn not_well(region: &RegionSeen) -> Option<String> {
    Some(format!("{}: {}", region.name, region.is_not_well()?))
}

fn restart(pod: &PodSeen) -> Step {
    Step::Restart { pod: pod.name.clone(), uid: pod.uid.clone() }
}

enum Next<'a> {
    Restart(&'a PodSeen),
    HandOver(u16, usize),
}

impl RegionSeen {
    fn pods(&self) -> impl Iterator<Item = &PodSeen> {
        self.shards.iter().flat_map(|shard| &shard.pods).chain(&self.brokers)
    }

    /// What of it has to be waited for, before anything is taken from it.
    fn is_not_well(&self) -> Option<String> {
        (self.pods().find_map(PodSeen::is_not_well))
            .or_else(|| self.shards.iter().find_map(ShardSeen::is_not_well))
            .or_else(|| self.brokers_wait.clone())
            .or_else(|| {
                let (ready, all) = (self.proxies_ready, self.proxies);
                (ready < all).then(|| format!("{ready} of {all} proxies are ready"))
            })
            .or_else(|| self.inactive.as_ref().map(|why| format!("it {why}")))
    }
}

impl PodSeen {
    fn is_not_well(&self) -> Option<String> {
        let what = match (self.uid.is_empty(), self.ends, self.ready) {
            (true, ..) => "is not there",
            (_, true, _) => "ends",
            (_, _, false) => "is not ready",
            (false, false, true) => return None,
        };
        Some(format!("{} {what}", self.name))
    }
}

impl ShardSeen {
    fn is_not_well(&self) -> Option<String> {
        let Some(master) = self.master else { return Some(format!("shard {} does not serve", self.number)) };
        let in_sync = |member: usize| member == master || self.in_sync.get(member) == Some(&true);
        let behind = self.pods.iter().enumerate().find(|(member, _)| !in_sync(*member));
        behind.map(|(_, pod)| format!("{} is not in sync", pod.name))
    }

    /// Replicas first; then the master hands over, if there is anybody to take over.
    fn next(&self) -> Option<Next<'_>> {
        let master = self.master?;
        let replica = self.pods.iter().enumerate().find(|(member, pod)| pod.outdated && *member != master);
        if let Some((_, pod)) = replica {
            return Some(Next::Restart(pod));
        }
        let pod = self.pods.get(master).filter(|pod| pod.outdated)?;
        Some(if self.pods.len() > 1 { Next::HandOver(self.number, master) } else { Next::Restart(pod) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod(name: &str, outdated: bool) -> PodSeen {
        let uid = format!("{name}/{outdated}");
        PodSeen { name: name.into(), uid, outdated, ready: true, ends: false, stuck: false }
    }

    fn region(name: &str, members: usize, brokers: usize) -> RegionSeen {
        let pods = |what: &str, count| (0..count).map(|n| pod(&format!("{name}-{what}-{n}"), true)).collect();
        let shard = |number: u16| ShardSeen {
            number,
            pods: pods(&format!("shard-{number}-redis"), members),
            master: Some(0),
            in_sync: vec![true; members],
        };
        RegionSeen {
            name: name.into(),
            inactive: None,
            shards: (0..2).map(shard).collect(),
            brokers: pods("broker", brokers),
            brokers_wait: None,
            proxies_ready: 2,
            proxies: 2,
        }
    }

    fn pods_of(regions: &mut [RegionSeen]) -> impl Iterator<Item = &mut PodSeen> {
        regions.iter_mut().flat_map(|region| {
            region.shards.iter_mut().flat_map(|shard| &mut shard.pods).chain(&mut region.brokers)
        })
    }

    fn hand_over(regions: &mut [RegionSeen], region: &str, shard: u16, from: usize) {
        let region = regions.iter_mut().find(|of| of.name == region).unwrap();
        let shard = &mut region.shards[usize::from(shard)];
        assert_eq!(shard.master, Some(from));
        shard.master = Some((from + 1) % shard.pods.len());
    }

    /// Does what is said, at once and perfectly; what it was.
    fn carry_out(regions: &mut [RegionSeen]) -> Option<String> {
        match next(regions) {
            Step::Done => None,
            Step::Waits(why) => panic!("waits for {why}"),
            Step::HandOver { region, shard, from } => {
                hand_over(regions, &region, shard, from);
                Some(format!("{region} shard {shard} hands over"))
            }
            Step::Restart { pod: name, .. } => {
                pods_of(regions).filter(|seen| seen.name == name).for_each(|seen| *seen = pod(&name, false));
                Some(name)
            }
        }
    }

    #[test]
    fn replicas_then_masters_then_brokers_region_by_region() {
        let mut regions = [region("a", 2, 1), region("b", 1, 1)];
        let done: Vec<String> = std::iter::from_fn(|| carry_out(&mut regions)).collect();
        assert_eq!(
            done,
            [
                "a-shard-0-redis-1",
                "a shard 0 hands over",
                "a-shard-0-redis-0",
                "a-shard-1-redis-1",
                "a shard 1 hands over",
                "a-shard-1-redis-0",
                "a-broker-0",
                "b-shard-0-redis-0",
                "b-shard-1-redis-0",
                "b-broker-0",
            ]
        );
    }

    fn waits(change: impl FnOnce(&mut [RegionSeen])) -> String {
        let mut regions = [region("a", 2, 3), region("b", 2, 3)];
        change(&mut regions);
        match next(&regions) {
            Step::Waits(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_well_is_waited_for() {
        assert_eq!(waits(|r| r[0].brokers[1].ready = false), "a: a-broker-1 is not ready");
        assert_eq!(waits(|r| r[0].shards[1].pods[0].ends = true), "a: a-shard-1-redis-0 ends");
        assert_eq!(waits(|r| r[0].shards[0].pods[1].uid.clear()), "a: a-shard-0-redis-1 is not there");
        assert_eq!(waits(|r| r[0].shards[1].master = None), "a: shard 1 does not serve");
        assert_eq!(waits(|r| r[0].shards[0].in_sync[1] = false), "a: a-shard-0-redis-1 is not in sync");
        assert_eq!(waits(|r| r[0].proxies_ready = 1), "a: 1 of 2 proxies are ready");
        assert_eq!(waits(|r| r[0].brokers_wait = Some("b-2 is behind".into())), "a: b-2 is behind");
        assert_eq!(waits(|r| r[0].inactive = Some("is CatchingUp".into())), "a: it is CatchingUp");
        assert_eq!(waits(|r| r[1].inactive = Some("is CatchingUp".into())), "b is CatchingUp");
        // Another region that has less than all of its pods, and is Active all the same, is nobody's business.
        let mut regions = [region("a", 2, 3), region("b", 2, 3)];
        regions[1].shards[0].pods[1].ready = false;
        assert!(matches!(next(&regions), Step::Restart { .. }));
    }

    #[test]
    fn the_next_region_waits_for_the_last_pod_of_the_one_before() {
        let mut regions = [region("a", 2, 1), region("b", 2, 1)];
        pods_of(&mut regions[..1]).for_each(|seen| *seen = pod(&seen.name, false));
        // Deleted, not made anew yet, and the region's state was measured before.
        regions[0].brokers[0] = PodSeen { name: "a-broker-0".into(), ..PodSeen::default() };
        assert_eq!(next(&regions), Step::Waits("a: a-broker-0 is not there".into()));
        regions[0].brokers[0] = PodSeen { ready: false, ..pod("a-broker-0", false) };
        assert_eq!(next(&regions), Step::Waits("a: a-broker-0 is not ready".into()));
        regions[0].brokers[0].ready = true;
        assert!(matches!(next(&regions), Step::Restart { .. }));
    }

    #[test]
    fn what_cannot_start_is_not_waited_for() {
        let mut regions = [region("a", 2, 3), region("b", 2, 3)];
        let broken = &mut regions[1].brokers[2];
        (broken.ready, broken.stuck) = (false, true);
        regions[1].inactive = Some("is CatchingUp".into());
        let uid = broken.uid.clone();
        assert_eq!(next(&regions), Step::Restart { pod: "b-broker-2".into(), uid });
        regions[1].brokers[2].outdated = false;
        assert_eq!(
            next(&regions),
            Step::Waits("b is CatchingUp".into()),
            "it has the newest template and does not run"
        );
    }

    /// What happens by itself between two looks.
    #[derive(Clone, Debug)]
    enum Event {
        /// A pod that was away is back.
        Back(usize),
        /// A pod dies.
        Dies(usize),
        /// A master dies, and a replica that is there is promoted.
        Fails(usize, usize),
        /// A region is, or is not, Active.
        Active(usize, bool),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => any::<usize>().prop_map(Event::Back),
            1 => any::<usize>().prop_map(Event::Dies),
            1 => any::<(usize, usize)>().prop_map(|(region, shard)| Event::Fails(region, shard)),
            1 => any::<usize>().prop_map(|region| Event::Active(region, false)),
            3 => any::<usize>().prop_map(|region| Event::Active(region, true)),
        ]
    }

    fn happen(regions: &mut [RegionSeen], event: &Event) {
        let count = pods_of(regions).count();
        let nth = |regions: &mut [RegionSeen], n: usize, ready: bool| {
            let pod = pods_of(regions).nth(n % count).expect("it is there");
            pod.ready = ready;
            if ready && pod.ends {
                *pod = super::tests::pod(&pod.name, false);
            }
        };
        match *event {
            Event::Back(n) => nth(regions, n, true),
            Event::Dies(n) => nth(regions, n, false),
            Event::Fails(region, shard) => {
                let region = region % regions.len();
                let shard = &mut regions[region].shards[shard % 2];
                shard.master = shard.master.map(|master| (master + 1) % shard.pods.len());
            }
            Event::Active(region, active) => {
                let region = region % regions.len();
                regions[region].inactive = (!active).then(|| "is CatchingUp".to_owned());
            }
        }
    }

    proptest! {
        /// Whatever dies meanwhile: nobody takes a broker node while another one of its region is away, so never below quorum, nor a
        /// member of a shard beside another one, nor a master that has somebody to hand over to, nor anything beside a region that
        /// is not Active. And when no more dies, it comes to an end.
        #[test]
        fn a_rollout_never_takes_what_is_needed(
            members in 1usize..4,
            brokers in prop::sample::select(vec![1usize, 3, 5]),
            events in prop::collection::vec(any_event(), 0..120),
        ) {
            let mut regions = [region("a", members, brokers), region("b", members, brokers)];
            let mut steps = events.iter().map(Some).collect::<Vec<_>>();
            steps.extend(std::iter::repeat_n(None, 200));
            for event in steps {
                if let Some(event) = event {
                    happen(&mut regions, event);
                } else {
                    // From here on all is well: what was away comes back.
                    let count = pods_of(&mut regions).count();
                    (0..count).for_each(|n| happen(&mut regions, &Event::Back(n)));
                    (0..2).for_each(|n| happen(&mut regions, &Event::Active(n, true)));
                }
                match next(&regions) {
                    Step::Done | Step::Waits(_) => {}
                    Step::HandOver { region, shard, from } => {
                        prop_assert!(members > 1);
                        hand_over(&mut regions, &region, shard, from);
                    }
                    Step::Restart { pod, .. } => {
                        prop_assert!(regions.iter().all(|region| region.inactive.is_none()));
                        let at = regions.iter().position(|region| region.pods().any(|seen| seen.name == pod)).unwrap();
                        prop_assert!(regions[..at].iter().all(|region| not_well(region).is_none()), "{} beside what is not done", pod);
                        let of = &mut regions[at];
                        prop_assert!(of.pods().all(|seen| seen.ready && !seen.ends), "{} beside another one", pod);
                        let left = of.brokers.iter().filter(|seen| seen.ready && seen.name != pod).count();
                        prop_assert!(brokers == 1 || left > brokers / 2, "{pod} leaves {left} of {brokers}");
                        for shard in &of.shards {
                            let is_master = shard.master.is_some_and(|master| shard.pods[master].name == pod);
                            prop_assert!(members == 1 || !is_master, "{pod} is master");
                        }
                        let mut all = pods_of(&mut regions);
                        let taken = all.find(|seen| seen.name == pod).unwrap();
                        prop_assert!(taken.outdated, "{pod} runs its template");
                        (taken.ready, taken.ends) = (false, true);
                    }
                }
            }
            prop_assert_eq!(next(&regions), Step::Done);
        }
    }
}
