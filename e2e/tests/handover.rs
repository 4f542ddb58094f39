//! Planned handovers under load: no acknowledged write is missing at any level, no client sees an error, and the regions are equal.
//! Then again while somebody dies in the middle; what is promised then is what is promised of any failure.
//!
//! `MAS_ROUNDS` says how many handovers (20), `MAS_SEED` who dies when.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use e2e::load::{Load, Plan, Report};
use e2e::{Store, keyspace, manifest, one_at_a_time, process, rounds, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SPEC: &str =
    "  shards: 1\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
const REGIONS: [&str; 2] = ["east", "west"];
const LEVELS: [(&str, &[&str], u64); 3] =
    [("local", &["LOCAL"], 100), ("queued", &["QUEUED"], 50), ("remote", &["REMOTE", "1"], 10)];
const WRITERS: usize = 2;
/// Without a pause two cores have nothing left for who hands over.
const PACE: Duration = Duration::from_millis(4);
const LIMIT: Duration = Duration::from_mins(1);

/// Writers at every level in both regions.
struct Loads(Vec<Load>);

impl Loads {
    fn start(store: &Store, name: &str) -> Self {
        let start = |(level, words, _): &(&str, &[&str], u64)| {
            let prefix = format!("{name}-{level}");
            let plan =
                Plan { regions: &REGIONS, writers: WRITERS, prefix: &prefix, level: words, pace: PACE };
            Load::start(store, &plan).unwrap()
        };
        Self(LEVELS.iter().map(start).collect())
    }

    fn wait_for_more(&self) {
        for (load, (level, _, count)) in self.0.iter().zip(LEVELS) {
            load.wait_for_more(count, LIMIT).unwrap_or_else(|error| panic!("{level}: {error:#}"));
        }
    }

    /// Ends them and looks for all that was acknowledged, from the level `from` on.
    fn check(self, store: &Store, name: &str, from: usize) -> Vec<Report> {
        let reports: Vec<Report> = self.0.into_iter().map(|load| load.stop().unwrap()).collect();
        let space = keyspace::wait_equal(store, &format!("{name}-*"), LIMIT).unwrap();
        let mut broken = Vec::new();
        for (n, ((level, ..), report)) in LEVELS.iter().zip(&reports).enumerate() {
            let findings = report.ledger.check(&space);
            println!(
                "  {level:<6} {:>6} acknowledged, {:>3} unknown, {} missing, {} too many, longest wait {:.2} s {:?}",
                report.ledger.acknowledged(),
                report.ledger.unknown(),
                findings.missing,
                findings.surplus,
                report.longest_gap.as_secs_f64(),
                report.errors,
            );
            if findings.surplus > 0 || (n >= from && findings.missing > 0) {
                broken.push(format!("{level}: {findings}"));
            }
        }
        assert!(broken.is_empty(), "{name}: {}", broken.join("; "));
        reports
    }
}

/// One client that writes as fast as it is answered, and notes the longest time between two answers.
struct Probe {
    stop: Arc<AtomicBool>,
    client: thread::JoinHandle<Vec<(Instant, Duration)>>,
}

impl Probe {
    fn start(store: &Store, region: &str) -> Self {
        let mut connection = store.connect(region).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let client = thread::spawn(move || {
            let mut waits = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = redis::cmd("INCR").arg("probe").exec(&mut connection);
                assert!(answer.is_ok() || asked.elapsed().as_secs() >= 5, "{answer:?}");
                waits.push((asked, asked.elapsed()));
                thread::sleep(Duration::from_millis(1));
            }
            waits
        });
        Self { stop, client }
    }

    fn stop(self) -> Vec<(Instant, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().unwrap()
    }
}

/// The smallest that so many of a hundred do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)]
}

fn spread(what: &str, mut millis: Vec<u64>) -> u64 {
    millis.sort_unstable();
    let (middle, high) = (percentile(&millis, 50), percentile(&millis, 99));
    println!("{what}: p50 {middle} ms, p99 {high} ms of {}", millis.len());
    high
}

#[test]
fn handovers_lose_nothing_and_show_no_error() {
    let _alone = one_at_a_time();
    let store = Store::start(&manifest("handover", &REGIONS, SPEC)).unwrap();
    let loads = Loads::start(&store, "calm");
    let probes = REGIONS.map(|region| Probe::start(&store, region));
    let (mut paused, mut waited) = (Vec::new(), Vec::new());
    let mut during = Vec::new();
    for round in 0..rounds(20) {
        loads.wait_for_more();
        let region = REGIONS[round % 2];
        let (before, begun) = (store.master(region, 0).unwrap(), Instant::now());
        let words = store.masctl(&["handover", region, "0"]).unwrap();
        during.push((round % 2, begun, Instant::now()));
        assert_ne!(store.master(region, 0).unwrap(), before, "{words}");
        let pause = words.split_whitespace().rev().nth(1).and_then(|ms| ms.parse::<u64>().ok());
        paused.push(pause.unwrap_or_else(|| panic!("{words}")));
    }
    loads.wait_for_more();
    let answers = probes.map(Probe::stop);
    for (region, begun, ended) in during {
        let of = answers[region].iter().filter(|(asked, wait)| *asked < ended && *asked + *wait > begun);
        waited.push(of.map(|(_, wait)| wait.as_millis() as u64).max().unwrap_or(0));
    }
    let reports = loads.check(&store, "calm", 0);
    let pause = spread("pause, as the controller measures it", paused);
    spread("longest wait of a client that writes all the time", waited);
    for ((level, ..), report) in LEVELS.iter().zip(&reports) {
        // A proxy gives up after 5 s, as in any failover: on a machine that has no time left.
        assert!(report.errors.is_empty() || pause >= 5000, "{level}: clients saw {:?}", report.errors);
    }
    // Who is not there cannot be handed over to.
    let refused = store.masctl(&["handover", "east", "0", "--to", "7"]).unwrap_err().to_string();
    assert!(refused.contains("redis-0 to redis-1"), "{refused}");
    let refused = store.masctl(&["handover", "east", "3"]).unwrap_err().to_string();
    assert!(refused.contains("there is no shard 3"), "{refused}");
    store.finish().unwrap();
}

#[test]
fn who_dies_in_the_middle_costs_time_alone() {
    let _alone = one_at_a_time();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = std::env::var("MAS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now);
    println!("MAS_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut store = Store::start(&manifest("dying", &REGIONS, SPEC)).unwrap();
    let loads = Loads::start(&store, "dying");
    for round in 0..rounds(20) {
        loads.wait_for_more();
        let region = REGIONS[dice.random_range(0..2)];
        let master = store.master(region, 0).unwrap();
        let other = if master.ends_with('0') { "redis-1" } else { "redis-0" };
        let victim = match dice.random_range(0..6) {
            0 => None,
            1 | 2 => Some(master.clone()),
            3 => Some(format!("{region}/shard-0/{other}")),
            4 => Some(format!("{region}/proxy-{}", dice.random_range(0..2))),
            _ => Some(format!("{region}/broker-0")),
        };
        let pid = match &victim {
            Some(component) => store.pid(component).unwrap(),
            None => store.supervisor().unwrap(),
        };
        let later = Duration::from_millis(dice.random_range(0..400));
        let told = thread::scope(|scope| {
            let told = scope.spawn(|| store.masctl(&["handover", region, "0"]));
            thread::sleep(later);
            process::kill(pid).unwrap();
            told.join().unwrap()
        });
        let name = victim.clone().unwrap_or_else(|| "supervisor".into());
        println!(
            "{round}: {name} killed after {later:?}: {}",
            told.unwrap_or_else(|e| format!("{e:#}\n")).trim()
        );
        if victim.is_none() {
            // What it left behind may still be ending, with its ports.
            wait_until("the store to start again", LIMIT, || {
                store.up().map_err(|error| format!("{error:#}"))
            })
            .unwrap();
        }
        // Longer than a broker that gets no time takes to find out that its clients are there.
        wait_until("all regions to be Active", LIMIT * 4, || {
            store.wait_active().map_err(|error| error.to_string())
        })
        .unwrap();
    }
    loads.wait_for_more();
    // `Local` does not survive a Redis that is killed.
    loads.check(&store, "dying", 1);
    store.finish().unwrap();
}
