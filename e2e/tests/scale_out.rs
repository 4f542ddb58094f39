//! A third region joins a store of two under load, whatever is killed or cut meanwhile: nobody misses an acknowledged write, and all
//! regions are equal afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::time::{Duration, Instant};

use e2e::load::{Endpoints, Load, Plan, Report};
use e2e::store::{Keep, Store, manifest};
use e2e::{OperationStatus, keyspace, one_at_a_time, process, rounds, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const LIMIT: Duration = Duration::from_mins(8);
const SPEC: &str =
    "  shards: 2\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
const TWO: [&str; 2] = ["beijing", "shanghai"];
const THREE: [&str; 3] = ["beijing", "shanghai", "chengdu"];
const OPERATION: &str = "shop--scale-out--chengdu-3";

fn two() -> Store {
    Store::start(&manifest("shop", &TWO, SPEC)).unwrap()
}

fn load(store: &Store, regions: &[&str], prefix: &str) -> Load {
    let pace = Duration::from_millis(2);
    Load::start(store, &Plan { regions, writers: 2, prefix, level: &[], pace }).unwrap()
}

/// Every acknowledged write is in every region, and nothing else.
fn check(store: &impl Endpoints, report: &Report, what: &str) {
    let space = keyspace::wait_equal(store, "*", LIMIT).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "{what}: {} writes acknowledged, {} of unknown outcome: {findings}; longest pause {} ms",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap.as_millis()
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{:?}", report.errors);
    assert!(!space.keys().any(|key| key.starts_with(b"mas:marker")), "markers are taken away");
}

fn print(operation: &OperationStatus) {
    for (step, ms, repeats) in operation.steps_done() {
        println!("  {step:12} {ms:6} ms, begun anew {repeats} times");
    }
}

#[test]
fn a_region_joins_under_load() {
    let _alone = one_at_a_time();
    let mut store = two();
    let before = load(&store, &TWO, "before");
    before.wait_for_more(2000, LIMIT).unwrap();
    let begun = Instant::now();
    store.apply(&manifest("shop", &THREE, SPEC)).unwrap();
    print(&store.wait_operation(OPERATION, LIMIT).unwrap());
    println!("chengdu has joined after {:.1} s", begun.elapsed().as_secs_f64());
    store.wait_active().unwrap();
    before.wait_for_more(500, LIMIT).unwrap();
    let report = before.stop().unwrap();
    assert!(report.longest_gap < Duration::from_secs(5), "the others never notice: {report:?}");
    let after = load(&store, &THREE, "after");
    after.wait_for_more(1500, LIMIT).unwrap();
    let mut all = report;
    all.ledger.absorb(after.stop().unwrap().ledger);
    check(&store, &all, "under load");

    // A whole life goes on: down, up, and a master lost in the new region.
    store.down().unwrap();
    store.up().unwrap();
    let again = load(&store, &THREE, "again");
    let master = store.master("chengdu", 0).unwrap();
    store.kill(&master).unwrap();
    again.wait_for_more(2000, LIMIT).unwrap();
    all.ledger.absorb(again.stop().unwrap().ledger);
    check(&store, &all, "after a restart");
    store.finish().unwrap();
}

/// The supervisor is killed before its first action, and in each next life when it has done something: before every action. With it ends
/// every server.
#[test]
fn a_supervisor_that_dies_between_any_two_actions_goes_on() {
    let _alone = one_at_a_time();
    let spec = SPEC.replace("shards: 2", "shards: 1");
    let crash =
        |action: u32| vec![("MAS_CRASH_BEFORE_ACTION".to_owned(), OsString::from(action.to_string()))];
    let folder = Store::new_folder().unwrap();
    let mut store = Store::start_in(folder, &manifest("shop", &TWO, &spec), Keep::OnPanic, crash(1)).unwrap();
    let load = load(&store, &TWO, "crash");
    load.wait_for_more(500, LIMIT).unwrap();
    store.apply(&manifest("shop", &THREE, &spec)).unwrap();
    let mut steps = Vec::new();
    loop {
        let ended = wait_until("the end of the operation, or of its supervisor", LIMIT, || {
            let Ok(status) = store.status() else { return Ok(None) };
            let last = status.operations.last().map(|op| op.status.clone()).unwrap_or_default();
            if last.phase == "Succeeded" { Ok(Some(())) } else { Err(format!("{last:?}")) }
        })
        .unwrap();
        if ended.is_some() {
            break;
        }
        steps.push(store.recorded_step().unwrap());
        assert!(steps.len() < 40, "it does not get on: {steps:?}");
        // What a life has to do again (markers of masters that were started anew) comes before what is new: one more each time.
        let again = steps.iter().rev().take_while(|step| Some(*step) == steps.last()).count();
        store.set_environment(crash(1 + again as u32));
        // It may end again before everything is up.
        let _ = store.start_again();
    }
    print(&store.wait_operation(OPERATION, LIMIT).unwrap());
    println!("the supervisor was killed {} times: {}", steps.len(), steps.join(", "));
    for step in ["SyncReplica", "Mark", "Promote", "Verify", "Serve"] {
        assert!(steps.iter().any(|at| at == step), "no death at {step}");
    }
    store.wait_active().unwrap();
    load.wait_for_more(500, LIMIT).unwrap();
    check(&store, &load.stop().unwrap(), "killed at every action");
    store.finish().unwrap();
}

/// Servers of all kinds are killed at random while the region joins.
#[test]
fn servers_are_killed_while_a_region_joins() {
    let _alone = one_at_a_time();
    let seed = std::env::var("MAS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("MAS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..rounds(1) {
        let mut store = two();
        let load = load(&store, &TWO, "kill");
        load.wait_for_more(1000, LIMIT).unwrap();
        store.apply(&manifest("shop", &THREE, SPEC)).unwrap();
        let mut killed = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while store.operation(OPERATION).unwrap().phase != "Succeeded" {
            assert!(Instant::now() < deadline, "{:?}", store.operation(OPERATION));
            let status = store.status().unwrap();
            let alive: Vec<_> =
                status.processes.iter().filter(|p| p.component != "epmd" && p.pid.is_some()).collect();
            let step = store.operation(OPERATION).unwrap().step.unwrap_or_default();
            // Provisioning is long, and there is least to break.
            let most = if step == "Provision" { 1 } else { 7 };
            if killed.len() < most && !alive.is_empty() {
                let victim = alive[random.random_range(0..alive.len())];
                // A shard that loses master and replica at once loses what only they had at Local; here all is at Queued.
                process::kill(victim.pid.unwrap()).unwrap();
                killed.push(format!("{} at {step}", victim.component));
            }
            std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        }
        println!("round {round}: killed {}", killed.join(", "));
        print(&store.operation(OPERATION).unwrap());
        store.wait_active().unwrap();
        load.wait_for_more(500, LIMIT).unwrap();
        check(&store, &load.stop().unwrap(), "under kills");
        store.finish().unwrap();
    }
}

#[test]
fn who_is_cut_off_is_waited_for_and_a_join_can_be_taken_back() {
    let _alone = one_at_a_time();
    let mut store = two();
    let load = load(&store, &TWO, "cut");
    store.cut("beijing", "shanghai").unwrap();
    store.apply(&manifest("shop", &THREE, SPEC)).unwrap();
    let blocked = |store: &Store| {
        wait_until("the operation to say what it waits for", LIMIT, || {
            let operation = store.operation(OPERATION).map_err(|error| format!("{error:#}"))?;
            operation.blocked.ok_or_else(|| format!("{:?}", operation.step))
        })
        .unwrap()
    };
    let mut why = blocked(&store);
    // At first the cut may not have been noticed.
    wait_until("the cut to be named", LIMIT, || {
        why = blocked(&store);
        if why.message.contains("shanghai") { Ok(()) } else { Err(why.message.clone()) }
    })
    .unwrap();
    println!("blocked: {}: {}", why.reason, why.message);
    load.wait_for_more(500, LIMIT).unwrap();
    store.masctl(&["op", "rollback", OPERATION]).unwrap();
    wait_until("the operation to be taken back", LIMIT, || {
        match store.operation(OPERATION).unwrap().phase.as_str() {
            "RolledBack" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .unwrap();
    assert_eq!(store.status().unwrap().regions.len(), 2);
    let refused = store.masctl(&["op", "retry", OPERATION]).unwrap_err().to_string();
    assert!(refused.contains("taken back"), "{refused}");
    store.heal("beijing", "shanghai").unwrap();

    store.apply(&manifest("shop", &THREE, SPEC)).unwrap();
    store.cut("chengdu", "shanghai").unwrap();
    let again = "shop--scale-out--chengdu-4";
    std::thread::sleep(Duration::from_secs(5));
    store.heal("chengdu", "shanghai").unwrap();
    store.wait_operation(again, LIMIT).unwrap();
    store.wait_active().unwrap();
    let report = load.stop().unwrap();
    check(&store, &report, "after a cut and a rollback");
    store.finish().unwrap();
}
