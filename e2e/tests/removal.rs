//! A region is drained, and leaves, under load: its clients are served by others, nobody misses an acknowledged write, and those that
//! stay are equal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::time::Duration;

use e2e::load::{Load, Plan, Report};
use e2e::store::{Keep, Store, manifest};
use e2e::{keyspace, one_at_a_time, wait_until};

const LIMIT: Duration = Duration::from_mins(5);
const SPEC: &str = "  shards: 2\n  redis: {replicas: 0, maxMemory: 128Mi, appendOnly: Always}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
const TWO: [&str; 2] = ["beijing", "shanghai"];
const THREE: [&str; 3] = ["beijing", "shanghai", "chengdu"];
const REMOVAL: &str = "shop--remove--chengdu-3";

fn load(store: &Store, regions: &[&str], prefix: &str) -> Load {
    let pace = Duration::from_millis(2);
    Load::start(store, &Plan { regions, writers: 2, prefix, level: &[], pace }).unwrap()
}

/// Every acknowledged write is in every region, and nothing else.
fn check(store: &Store, report: &Report, what: &str) {
    let space = keyspace::wait_equal(store, "*", LIMIT).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "{what}: {} writes acknowledged, {} of unknown outcome: {findings}; longest pause {} ms",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap.as_millis()
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{:?}", report.errors);
}

fn drained(regions: &[&str], region: &str) -> String {
    let text = manifest("shop", regions, SPEC);
    text.replace(&format!("- name: {region}\n"), &format!("- name: {region}\n    traffic: Drained\n"))
}

fn wait_phase(store: &Store, region: &str, phase: &str) {
    wait_until(&format!("{region} to be {phase}"), LIMIT, || {
        let status = store.status().map_err(|error| format!("{error:#}"))?;
        match status.regions.iter().find(|of| of.name == region) {
            Some(of) if of.phase == phase => Ok(()),
            _ => Err(status.summary()),
        }
    })
    .unwrap();
}

/// The last number of the region's first shard.
fn numbered(store: &Store, region: &str) -> u64 {
    let master =
        store.status().unwrap().regions.iter().find(|of| of.name == region).unwrap().shards[0].clone();
    let mut engine = store.connect_engine(&master.master.unwrap()).unwrap();
    let flat: Vec<String> = redis::cmd("MAS.IDENTITY").query(&mut engine).unwrap();
    let at = flat.iter().position(|word| word == "seq").unwrap();
    flat[at + 1].parse().unwrap()
}

#[test]
fn a_region_is_drained_and_serves_again() {
    let _alone = one_at_a_time();
    let mut store = Store::start(&manifest("shop", &TWO, SPEC)).unwrap();
    let all = load(&store, &TWO, "drain");
    all.wait_for_more(1000, LIMIT).unwrap();
    store.apply(&drained(&TWO, "shanghai")).unwrap();
    wait_phase(&store, "shanghai", "Drained");
    let (here, there) = (numbered(&store, "shanghai"), numbered(&store, "beijing"));
    all.wait_for_more(1000, LIMIT).unwrap();
    assert_eq!(numbered(&store, "shanghai"), here, "its shards take no writes");
    assert!(numbered(&store, "beijing") > there);
    let refused = store.apply(
        &drained(&TWO, "shanghai").replace("- name: beijing", "- name: beijing\n    traffic: Drained"),
    );
    assert!(format!("{:#}", refused.unwrap_err()).contains("all Drained"));
    store.apply(&manifest("shop", &TWO, SPEC)).unwrap();
    wait_phase(&store, "shanghai", "Active");
    all.wait_for_more(1000, LIMIT).unwrap();
    assert!(numbered(&store, "shanghai") > here, "it serves again");
    let report = all.stop().unwrap();
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(report.longest_gap < Duration::from_secs(5), "{report:?}");
    check(&store, &report, "drained and back");
    store.finish().unwrap();
}

#[test]
fn a_region_leaves_under_load_and_joins_anew() {
    let _alone = one_at_a_time();
    let mut store = Store::start(&manifest("shop", &THREE, SPEC)).unwrap();
    let stay = load(&store, &TWO, "stay");
    let leave = load(&store, &["chengdu"], "leave");
    leave.wait_for_more(500, LIMIT).unwrap();

    // Who cannot read it keeps it from leaving; and whoever changes his mind meanwhile keeps it.
    store.cut_one_way("chengdu", "shanghai").unwrap();
    leave.wait_for_more(200, LIMIT).unwrap();
    store.apply(&manifest("shop", &TWO, SPEC)).unwrap();
    wait_until("it to wait for who stays", LIMIT, || {
        let operation = store.operation(REMOVAL).map_err(|error| format!("{error:#}"))?;
        let words = operation.message.clone().unwrap_or_default();
        if words.contains("lack") { Ok(()) } else { Err(format!("{operation:?}")) }
    })
    .unwrap();
    leave.wait_for_more(200, LIMIT).unwrap();
    let refused = store.masctl(&["op", "rollback", REMOVAL]).unwrap_err().to_string();
    assert!(refused.contains("into the manifest again"), "{refused}");
    store.apply(&manifest("shop", &THREE, SPEC)).unwrap();
    store.heal("chengdu", "shanghai").unwrap();
    wait_phase(&store, "chengdu", "Active");
    assert_eq!(store.operation(REMOVAL).unwrap().phase, "RolledBack");
    leave.wait_for_more(200, LIMIT).unwrap();

    store.apply(&manifest("shop", &TWO, SPEC)).unwrap();
    // Its clients are handed over, and told when it ends.
    let left = leave.stop().unwrap();
    let operation = store.wait_operation(REMOVAL, LIMIT).unwrap();
    println!("{}", operation.message.unwrap_or_default());
    assert!(!store.state_dir().join("chengdu").exists());
    assert!(store.state_dir().join("removed/chengdu-3/shard-0").exists(), "its files are kept");
    stay.wait_for_more(500, LIMIT).unwrap();
    let mut all = stay.stop().unwrap();
    assert!(all.longest_gap < Duration::from_secs(5), "the others never notice: {all:?}");
    all.ledger.absorb(left.ledger);
    store.look_again().unwrap();
    assert_eq!(store.regions(), TWO);
    check(&store, &all, "after it has left");

    // Tombstones are forgotten without it, and it comes back as a new one.
    let after = load(&store, &TWO, "after");
    store.apply(&manifest("shop", &THREE, SPEC)).unwrap();
    store.wait_operation("shop--scale-out--chengdu-4", LIMIT).unwrap();
    store.wait_active().unwrap();
    all.ledger.absorb(after.stop().unwrap().ledger);
    check(&store, &all, "after it has joined anew");
    store.finish().unwrap();
}

/// The supervisor, and with it every server, is killed before every action. A pause ends with its life, so each of them needs
/// that once more before it can stop the region.
#[test]
fn a_supervisor_that_dies_between_any_two_actions_of_a_removal_goes_on() {
    let _alone = one_at_a_time();
    let spec = SPEC.replace("shards: 2", "shards: 1");
    let crash =
        |action: u32| vec![("MAS_CRASH_BEFORE_ACTION".to_owned(), OsString::from(action.to_string()))];
    let folder = Store::new_folder().unwrap();
    let mut store =
        Store::start_in(folder, &manifest("shop", &THREE, &spec), Keep::OnPanic, crash(1)).unwrap();
    let stay = load(&store, &TWO, "stay");
    let leave = load(&store, &["chengdu"], "leave");
    leave.wait_for_more(500, LIMIT).unwrap();
    store.apply(&manifest("shop", &TWO, &spec)).unwrap();
    let left = leave.stop().unwrap();
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
        assert!(steps.len() < 20, "it does not get on: {steps:?}");
        store.set_environment(crash(2 + (steps.len() as u32 + 1) % 2));
        // It may end again before everything is up.
        let _ = store.start_again();
    }
    println!("the supervisor was killed {} times: {}", steps.len(), steps.join(", "));
    for step in ["Settle", "Forget", "Delete"] {
        assert!(steps.iter().any(|at| at == step), "no death at {step}");
    }
    store.wait_active().unwrap();
    stay.wait_for_more(500, LIMIT).unwrap();
    let mut all = stay.stop().unwrap();
    all.ledger.absorb(left.ledger);
    store.set_environment(Vec::new());
    store.down().unwrap();
    store.up().unwrap();
    check(&store, &all, "killed at every action");
    store.finish().unwrap();
}

/// It is cut off from one of the others, which lacks what the other one has of it; then all of it ends, for good.
#[test]
fn a_region_that_is_gone_for_good_is_forgotten_once_the_others_are_equal() {
    let _alone = one_at_a_time();
    let mut store = Store::start(&manifest("shop", &THREE, SPEC)).unwrap();
    let stay = load(&store, &TWO, "stay");
    let mut chengdu = store.connect("chengdu").unwrap();
    let write = |connection: &mut redis::Connection, prefix: &str| {
        for n in 0..300 {
            redis::cmd("SET").arg(format!("{prefix}:{n}")).arg(n).query::<()>(connection).unwrap();
        }
    };
    let has = |region: &str, prefix: &str| {
        wait_until(&format!("{region} to have {prefix}"), LIMIT, || {
            let mut connection = store.connect(region).map_err(|error| format!("{error:#}"))?;
            let keys = (0..300).map(|n| format!("{prefix}:{n}")).collect::<Vec<_>>();
            let found: Vec<Option<String>> =
                redis::cmd("MGET").arg(keys).query(&mut connection).map_err(|error| error.to_string())?;
            let found = found.iter().flatten().count();
            if found == 300 { Ok(()) } else { Err(format!("{found}")) }
        })
        .unwrap();
    };
    write(&mut chengdu, "all");
    has("shanghai", "all");
    store.cut_one_way("chengdu", "shanghai").unwrap();
    write(&mut chengdu, "half");
    has("beijing", "half");
    for part in ["shard-0/redis-0", "shard-1/redis-0", "proxy-0", "proxy-1"] {
        store.hold(&format!("chengdu/{part}")).unwrap();
    }

    let declare = ["op", "start", "remove", "--region", "chengdu", "--force"];
    let refused = store.masctl(&declare).unwrap_err().to_string();
    assert!(refused.contains("is in the manifest"), "{refused}");
    store.apply(&manifest("shop", &TWO, SPEC)).unwrap();
    store.masctl(&declare).unwrap();
    wait_until("its broker to hold it back", LIMIT, || {
        let operation = store.operation(REMOVAL).map_err(|error| format!("{error:#}"))?;
        let reason = operation.blocked.as_ref().map(|blocked| blocked.reason.clone());
        if reason.as_deref() == Some("RegionAnswers") { Ok(()) } else { Err(format!("{operation:?}")) }
    })
    .unwrap();
    store.hold("chengdu/broker-0").unwrap();
    let operation = store.wait_operation(REMOVAL, LIMIT).unwrap();
    println!("{:?}", operation.outcome);
    assert!(operation.outcome.unwrap().rpo_effects.is_some(), "what may be lost is said");
    let shown = store.masctl(&["op", "show", REMOVAL]).unwrap();
    assert!(shown.contains("lost with it: "), "{shown}");
    assert!(store.state_dir().join("removed/chengdu-3/shard-0").exists(), "its files are kept");
    stay.wait_for_more(300, LIMIT).unwrap();
    let all = stay.stop().unwrap();
    store.look_again().unwrap();
    assert_eq!(store.regions(), TWO);
    for prefix in ["all", "half"] {
        assert_eq!(keyspace::wait_equal(&store, &format!("{prefix}:*"), LIMIT).unwrap().len(), 300);
    }
    let space = keyspace::wait_equal(&store, "stay*", LIMIT).unwrap();
    let findings = all.ledger.check(&space);
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}");
    store.finish().unwrap();
}

#[test]
fn what_would_lose_the_data_is_refused() {
    let _alone = one_at_a_time();
    let mut store = Store::start(&manifest("shop", &TWO, SPEC)).unwrap();
    store.apply(&manifest("shop", &["beijing"], SPEC)).unwrap();
    let refused = format!("{:#}", store.apply(&manifest("shop", &["chengdu"], SPEC)).unwrap_err());
    assert!(refused.contains("no other region has the store's data"), "{refused}");
    store.wait_operation("shop--remove--shanghai-2", LIMIT).unwrap();
    let mut client = store.connect("beijing").unwrap();
    redis::cmd("SET").arg("alone").arg("1").query::<()>(&mut client).unwrap();
    let refused = format!("{:#}", store.apply(&manifest("shop", &["chengdu"], SPEC)).unwrap_err());
    assert!(refused.contains("no other region has the store's data"), "{refused}");
    store.finish().unwrap();
}
