//! `kill -9` of every part under load: no acknowledged write is missing afterwards, at the level at which it was
//! acknowledged, and the regions are equal.
//!
//! Three groups of writers run at once, one at each level. What SEMANTICS promises: `Local` survives the loss of a
//! proxy or a broker, `Queued` the loss of the region's Redis, `Remote` that of the region. `moments.rs` chooses when a proxy
//! dies: between apply and publish, and between merge and the next read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod moments;

use std::fs;
use std::time::{Duration, Instant};

use e2e::keyspace;
use e2e::load::{Load, Plan, Report};
use e2e::{Store, manifest, one_at_a_time, wait_for};

const SPEC: &str =
    "  shards: 1\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
const REGIONS: [&str; 2] = ["east", "west"];
/// Name, arguments of `MAS.ACK`, and how many writes are waited for before, during and after: a `Remote` one takes
/// until the peer's next heartbeat.
const LEVELS: [(&str, &[&str], u64); 3] =
    [("local", &["LOCAL"], 500), ("queued", &["QUEUED"], 200), ("remote", &["REMOTE", "1"], 30)];
const WRITERS: usize = 2;
/// So many that every proxy has some of each level.
const MANY_WRITERS: usize = 6;
/// The pause of a writer after each write. Without one, two cores have nothing left for a broker that starts.
const PACE: Duration = Duration::from_millis(4);
const SERVES_AGAIN_WITHIN: Duration = Duration::from_mins(1);
const EQUAL_WITHIN: Duration = Duration::from_mins(1);

/// From which level on nothing may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    Local,
    Queued,
}

/// Writes at all levels in both regions, calls `strike` in the middle, and counts. Gives what the writers of each level saw.
fn under_load(store: &Store, name: &str, promise: Promise, strike: impl FnOnce()) -> Vec<Report> {
    under_load_of(WRITERS, store, name, promise, strike)
}

/// The same with so many writers at each level in each region.
fn under_load_of(
    writers: usize,
    store: &Store,
    name: &str,
    promise: Promise,
    strike: impl FnOnce(),
) -> Vec<Report> {
    let started = Instant::now();
    let prefixes = LEVELS.map(|(level, ..)| format!("{name}-{level}"));
    let loads: Vec<Load> = LEVELS
        .iter()
        .zip(&prefixes)
        .map(|((_, level, _), prefix)| {
            let plan = Plan { regions: &REGIONS, writers, prefix, level, pace: PACE };
            Load::start(store, &plan).unwrap()
        })
        .collect();
    let more = |what: &str| {
        for (load, (level, _, count)) in loads.iter().zip(LEVELS) {
            if let Err(error) = load.wait_for_more(count, SERVES_AGAIN_WITHIN) {
                let status = store.status().map(|status| status.summary());
                panic!("{name}: no writes at {level} {what}: {error:#}; {status:?}");
            }
        }
    };
    more("before the strike");
    strike();
    more("after the strike");
    store.wait_active().unwrap();
    more("after everything was Active again");
    let reports: Vec<Report> = loads.into_iter().map(|load| load.stop().unwrap()).collect();
    let space = keyspace::wait_equal(store, &format!("{name}-*"), EQUAL_WITHIN).unwrap();
    println!("{name}: {} keys equal in both regions, {:.1} s", space.len(), started.elapsed().as_secs_f64());
    let mut broken = Vec::new();
    for ((level, ..), report) in LEVELS.iter().zip(&reports) {
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
        let promised = promise == Promise::Local || *level != "local";
        if findings.surplus > 0 || (promised && findings.missing > 0) {
            broken.push(format!("{level}: {findings}"));
        }
    }
    assert!(broken.is_empty(), "{name}: {}", broken.join("; "));
    reports
}

fn strike_and_wait(store: &Store, component: &str) {
    let pid = store.kill(component).unwrap();
    store.wait_restarted(component, pid).unwrap();
}

#[test]
fn at_chosen_moments() {
    let _alone = one_at_a_time();
    let store = Store::start(&manifest("moments", &REGIONS, SPEC)).unwrap();
    let reports = under_load_of(MANY_WRITERS, &store, "unpublished", Promise::Local, || {
        for region in REGIONS {
            moments::between_apply_and_publish(&store, region);
        }
    });
    for ((level, ..), report) in LEVELS.iter().zip(&reports).skip(1) {
        assert!(report.ledger.unknown() > 0, "no write at {level} was under way when its proxy died");
    }
    under_load(&store, "reader", Promise::Local, || {
        for (region, peer) in [("west", "east"), ("east", "west")] {
            moments::between_merge_and_read(&store, region, peer);
        }
    });
    store.finish().unwrap();
}

#[test]
fn with_replicas_and_appends_synced_every_second() {
    let _alone = one_at_a_time();
    let store = Store::start(&manifest("kill", &REGIONS, SPEC)).unwrap();

    under_load(&store, "proxy", Promise::Local, || {
        for component in ["east/proxy-0", "east/proxy-1", "west/proxy-0", "west/proxy-1"] {
            strike_and_wait(&store, component);
        }
    });
    under_load(&store, "broker", Promise::Local, || strike_and_wait(&store, "east/broker-0"));
    under_load(&store, "master", Promise::Queued, || {
        let master = store.master("east", 0).unwrap();
        store.kill(&master).unwrap();
    });
    under_load(&store, "files", Promise::Queued, || lose_files(&store, "west"));
    under_load(&store, "all", Promise::Queued, || {
        for component in ["east/proxy-0", "west/broker-0"] {
            store.kill(component).unwrap();
        }
        store.kill(&store.master("west", 0).unwrap()).unwrap();
    });
    store.finish().unwrap();
}

#[test]
fn alone_with_every_append_synced() {
    let _alone = one_at_a_time();
    let spec = "  shards: 1\n  redis: {replicas: 0, appendOnly: Always, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
    let store = Store::start(&manifest("synced", &REGIONS, spec)).unwrap();
    under_load(&store, "synced", Promise::Local, || strike_and_wait(&store, "east/shard-0/redis-0"));
    store.finish().unwrap();
}

/// The master dies and its disk with it.
fn lose_files(store: &Store, region: &str) {
    let master = store.master(region, 0).unwrap();
    store.hold(&master).unwrap();
    let appends = store.folder_of(&master).join("appendonlydir");
    fs::remove_dir_all(&appends).unwrap_or_else(|error| panic!("removing {}: {error}", appends.display()));
    let _ = fs::remove_file(store.folder_of(&master).join("dump.rdb"));
    wait_for("another master", SERVES_AGAIN_WITHIN, || {
        store.master(region, 0).ok().filter(|now| *now != master)
    })
    .unwrap();
    store.resume(&master).unwrap();
}
