//! All copies of a shard of a region are lost with their volumes, under load: another region serves its clients, the shard is rebuilt by
//! itself, and no acknowledged write is missing afterwards that was promised to survive.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

use e2e::load::{Load, Plan, Report};
use e2e::store::{Keep, Store, manifest};
use e2e::{OperationStatus, Outcome, keyspace, one_at_a_time, wait_until};
use redis::Commands;

const LIMIT: Duration = Duration::from_mins(6);
const SPEC: &str =
    "  shards: 2\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
const REGIONS: [&str; 2] = ["east", "west"];
const TAIL: u64 = 100;
const LOST: [&str; 2] = ["east/shard-0/redis-0", "east/shard-0/redis-1"];

fn start() -> Store {
    Store::start(&manifest("shop", &REGIONS, SPEC)).unwrap()
}

fn load(store: &Store, prefix: &str, level: &'static [&'static str]) -> Load {
    let pace = Duration::from_millis(3);
    Load::start(store, &Plan { regions: &REGIONS, writers: 2, prefix, level, pace }).unwrap()
}

/// Kills these parts, deletes their volumes, does `meanwhile`, and starts them again, empty.
fn lose(store: &Store, parts: &[&str], meanwhile: impl FnOnce()) {
    for part in parts {
        store.hold(part).unwrap();
    }
    for part in parts {
        store.lose_volume(part).unwrap();
    }
    meanwhile();
    for part in parts {
        store.resume(part).unwrap();
    }
}

/// Waits until the shard of east was rebuilt so many times; gives the last one.
fn rebuilt(store: &Store, shard: u16, times: usize) -> (String, OperationStatus) {
    wait_until(&format!("rebuild {times} of shard {shard}"), LIMIT, || {
        let status = store.status().map_err(|error| format!("{error:#}"))?;
        let of_shard = |op: &&e2e::Operation| op.spec.kind == "Rebuild" && op.spec.shard == Some(shard);
        let all: Vec<_> = status.operations.iter().filter(of_shard).collect();
        match all.last() {
            Some(last) if all.len() == times && last.status.phase == "Succeeded" => {
                Ok((last.name.clone(), last.status.clone()))
            }
            last => Err(format!("{last:?}; {}", status.summary())),
        }
    })
    .unwrap()
}

fn print(what: &str, operation: &OperationStatus) -> Outcome {
    println!("{what}");
    for (step, ms, repeats) in operation.steps_done() {
        println!("  {step:12} {ms:6} ms, begun anew {repeats} times");
    }
    let outcome = operation.outcome.clone().unwrap();
    println!("  {outcome:?}");
    outcome
}

/// Regions are equal, and every acknowledged write is in them, and nothing else.
fn check(store: &Store, report: &Report, what: &str) {
    store.wait_active().unwrap();
    let space = keyspace::wait_equal(store, "*", LIMIT).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "{what}: {} writes acknowledged, {} of unknown outcome: {findings}; longest pause {} ms; {:?}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap.as_millis(),
        report.errors
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{:?}", report.errors);
    assert!(!space.keys().any(|key| key.starts_with(b"mas:marker")), "markers are taken away");
    let verified = store.masctl(&["verify"]).unwrap();
    println!("{}", verified.trim());
}

#[test]
fn a_shard_of_which_nothing_is_left_is_rebuilt_by_itself() {
    let _alone = one_at_a_time();
    let store = start();
    let load = load(&store, "lost", &["QUEUED"]);
    load.wait_for_more(2000, LIMIT).unwrap();
    let begun = Instant::now();
    // Another region serves its clients meanwhile.
    lose(&store, &LOST, || load.wait_for_more(1000, LIMIT).unwrap());
    let (name, operation) = rebuilt(&store, 0, 1);
    println!(
        "rebuilt {:.1} s after the loss, of which it was without servers for a while",
        begun.elapsed().as_secs_f64()
    );
    let outcome = print(&name, &operation);
    assert_eq!((outcome.rpo_effects, outcome.rpo_millis), (Some(0), Some(0)));
    let ended = operation.steps.iter().all(|step| step.finished_at.is_some());
    assert!(ended && outcome.rto_millis.is_some() && outcome.wrt_millis.is_some());
    let shown = store.masctl(&["op", "show", &name]).unwrap();
    assert!(shown.contains("lost for good (RPO): 0 effects"), "{shown}");
    store.wait_active().unwrap();
    load.wait_for_more(1000, LIMIT).unwrap();

    // What the source had not read is read from the region's own stream.
    store.cut_one_way("east", "west").unwrap();
    load.wait_for_more(1000, LIMIT).unwrap();
    lose(&store, &LOST, || ());
    store.heal("east", "west").unwrap();
    let (name, operation) = rebuilt(&store, 0, 2);
    assert_eq!(print(&name, &operation).rpo_effects, Some(0));
    store.wait_active().unwrap();
    load.wait_for_more(1000, LIMIT).unwrap();
    let mut report = load.stop().unwrap();
    check(&store, &report, "two losses");

    // A whole life goes on, and its epochs with it.
    let again = self::load(&store, "again", &["QUEUED"]);
    let master = store.master("east", 0).unwrap();
    store.kill(&master).unwrap();
    again.wait_for_more(1000, LIMIT).unwrap();
    report.ledger.absorb(again.stop().unwrap().ledger);
    check(&store, &report, "after a failover");
    store.finish().unwrap();
}

/// The supervisor is killed before its first action, its second in its next life, and so on, and with it every server.
#[test]
fn a_supervisor_that_dies_between_any_two_actions_goes_on() {
    let _alone = one_at_a_time();
    let spec = SPEC.replace("shards: 2", "shards: 1");
    let crash =
        |action: u32| vec![("MAS_CRASH_BEFORE_ACTION".to_owned(), OsString::from(action.to_string()))];
    let folder = Store::new_folder().unwrap();
    let text = manifest("shop", &REGIONS, &spec);
    let mut store = Store::start_in(folder, &text, Keep::OnPanic, crash(1)).unwrap();
    let load = load(&store, "crash", &["QUEUED"]);
    load.wait_for_more(500, LIMIT).unwrap();
    lose(&store, &LOST, || ());
    let mut steps = Vec::new();
    for action in 2.. {
        let ended = wait_until("the end of the operation, or of its supervisor", LIMIT, || {
            let Ok(status) = store.status() else { return Ok(None) };
            let last = status.operations.last().map(|op| op.status.clone()).unwrap_or_default();
            if last.phase == "Succeeded" { Ok(Some(())) } else { Err(format!("{last:?}")) }
        })
        .unwrap();
        if ended.is_some() {
            break;
        }
        let step = store.recorded_step().unwrap();
        // From then on nothing has to be done again in a new life: one action in each.
        let joined = ["Verify", "Serve"].contains(&step.as_str());
        steps.push(step);
        assert!(action < 40, "it does not get on: {steps:?}");
        store.set_environment(crash(if joined { 2 } else { action }));
        // It may end again before everything is up.
        let _ = store.up();
    }
    let (name, operation) = rebuilt(&store, 0, 1);
    print(&name, &operation);
    println!("the supervisor was killed {} times: {}", steps.len(), steps.join(", "));
    for step in ["SyncReplica", "Mark", "Promote", "Verify", "Serve"] {
        assert!(steps.iter().any(|at| at == step), "no death at {step}");
    }
    store.wait_active().unwrap();
    load.wait_for_more(500, LIMIT).unwrap();
    check(&store, &load.stop().unwrap(), "killed at every action");
    store.finish().unwrap();
}

/// The broker's volume, too: what only it had is lost, and counted, but not what another region has confirmed.
#[test]
fn a_region_of_which_nothing_is_left_is_rebuilt_shard_by_shard() {
    let _alone = one_at_a_time();
    // Else what waits for its level when the broker dies is answered at Local, and may be lost.
    let spec = format!("{SPEC}\n  replication: {{onBrokerLoss: Reject}}");
    let store = Store::start(&manifest("shop", &REGIONS, &spec)).unwrap();
    let load = load(&store, "region", &["REMOTE", "1"]);
    load.wait_for_more(200, LIMIT).unwrap();
    let parts = [
        "east/shard-0/redis-0",
        "east/shard-0/redis-1",
        "east/shard-1/redis-0",
        "east/shard-1/redis-1",
        "east/broker-0",
    ];
    // Nobody else hears of these.
    store.cut_one_way("east", "west").unwrap();
    let mut east = store.connect("east").unwrap();
    for n in 0..TAIL {
        let () = east.set(format!("tail:{n}"), n).unwrap();
    }
    // What is counted is what the supervisor saw last: it looks a few times a second.
    std::thread::sleep(Duration::from_secs(2));
    lose(&store, &parts, || ());
    store.heal("east", "west").unwrap();
    let mut lost = 0;
    for shard in 0..2 {
        let (name, operation) = rebuilt(&store, shard, 1);
        lost += print(&name, &operation).rpo_effects.unwrap();
    }
    store.wait_active().unwrap();
    load.wait_for_more(200, LIMIT).unwrap();
    let missing = (0..TAIL).filter(|n| !east.exists::<_, bool>(format!("tail:{n}")).unwrap()).count() as u64;
    println!("{missing} of {TAIL} writes that only the region had are lost; measured: {lost} effects");
    assert!(missing > 0 && lost >= missing, "the loss is told");
    check(&store, &load.stop().unwrap(), "a whole region");
    store.finish().unwrap();
}

/// Copies that cannot be used are put aside when a person says so, and good ones are not.
#[test]
fn copies_that_cannot_be_used_are_set_aside_on_order() {
    let _alone = one_at_a_time();
    let store = start();
    let load = load(&store, "damaged", &["QUEUED"]);
    load.wait_for_more(500, LIMIT).unwrap();
    let order = |region: &str, shard: &str| {
        store.masctl(&["op", "start", "rebuild", "--region", region, "--shard", shard])
    };
    let refused = |region: &str, shard: &str, words: &str| {
        let said = order(region, shard).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    };
    refused("south", "0", "there is no region 'south': the regions are east, west");
    refused("east", "7", "there is no shard 7");
    refused("east", "0", "east/shard-0 is served by a copy of its own: there is nothing to rebuild");

    for part in LOST {
        store.hold(part).unwrap();
    }
    // At first the other copy serves.
    wait_until("a copy that may be good to be in the way", LIMIT, || {
        let said = order("east", "0").unwrap_err().to_string();
        if said.contains("masctl fault resume") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    for part in LOST {
        damage(&store, part);
    }
    for part in LOST {
        store.resume(part).unwrap();
    }
    wait_until("the servers to have failed often enough", LIMIT, || {
        order("east", "0").map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
    refused("east", "0", "is under way");
    let (name, operation) = rebuilt(&store, 0, 1);
    assert_eq!(print(&name, &operation).rpo_effects, Some(0));
    for part in LOST {
        let kept = store.state_dir().join("set-aside").join(part.replace('/', "."));
        assert!(kept.read_dir().unwrap().count() == 1, "{} is kept", kept.display());
    }
    store.wait_active().unwrap();
    load.wait_for_more(500, LIMIT).unwrap();
    check(&store, &load.stop().unwrap(), "damaged files");
    store.finish().unwrap();
}

/// Spoils the files that a server that does not run would begin with.
fn damage(store: &Store, part: &str) {
    for file in fs::read_dir(store.folder_of(part).join("appendonlydir")).unwrap() {
        fs::write(file.unwrap().path(), "no file of Redis").unwrap();
    }
}
