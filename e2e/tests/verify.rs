//! Verification on real servers: equal regions are equal, also while they are written to; what a damaged log has made different is found by its
//! name, down to fields and members, and repaired; a report alone changes nothing; what is due comes by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::{Store, keyspace, manifest, one_at_a_time, wait_until};
use redis::{Commands, Connection};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(2);
const WEST: &str = "west/shard-0/redis-0";

/// One member a shard, whose log is all that there is: it comes back with what is in it.
const SPEC: &str = "  shards: 1\n  redis: {replicas: 0, appendOnly: Always, maxMemory: 64Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";

/// Runs `masctl verify`: whether all is equal (now), and the report.
fn verify(store: &Store, more: &[&str]) -> (bool, Value) {
    let out = std::process::Command::new(store.masctl_path())
        .args(["verify", "-o", "json"])
        .args(more)
        .arg("--state-dir")
        .arg(store.state_dir())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {out:?}"));
    assert!(matches!(out.status.code(), Some(0 | 1)), "{out:?}");
    (out.status.success(), report)
}

/// What differs: by key the elements, each with what of it.
fn differences(report: &Value) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |key: &Value| {
        let elements = key["elements"].as_array().unwrap().iter();
        elements.map(|element| (text(&element["element"]), text(&element["what"]))).collect()
    };
    report["keys"].as_array().unwrap().iter().map(|key| (text(&key["key"]), of(key))).collect()
}

/// Writes things of every type in east, two effects of a kind where the second is the one that will be damaged.
fn write_all(east: &mut Connection) {
    let () = east.hset("cart", "milk-aa", "1").unwrap();
    let () = east.hset("cart", "bread", "2").unwrap();
    let () = east.set("greeting", "value-one").unwrap();
    let () = east.sadd("team", &["ann", "bob-dead"]).unwrap();
    let () = east.srem("team", "bob-dead").unwrap();
    let () = east.set("session-aa", "x").unwrap();
    let () = east.expire("session-aa", 5000).unwrap();
    let () = east.zadd("board", "ann-aa", 5).unwrap();
    let () = east.incr("hits-aa", 7).unwrap();
    let () = east.hincr("views", "page-aa", 3).unwrap();
    let () = east.set("gone-aa", "v").unwrap();
}

/// What the damage of west's log puts in the place of what (its last occurrence): as long, so that the log can still be read.
const DAMAGE: [(&str, &str); 8] = [
    ("milk-aa", "milk-zz"),
    ("value-one", "value-two"),
    ("bob-dead", "bob-gone"),
    ("session-aa", "session-zz"),
    ("ann-aa", "ann-zz"),
    ("hits-aa", "hits-zz"),
    ("page-aa", "page-zz"),
    ("gone-aa", "gone-zz"),
];

/// What must be found then. (`bob-dead` was removed, in east alone.)
fn expected() -> BTreeMap<String, BTreeSet<(String, String)>> {
    let all: [(&str, &[&str], &str); 11] = [
        ("cart", &["milk-aa", "milk-zz"], "metadata"),
        ("greeting", &[""], "value"),
        ("team", &["bob-dead"], "metadata"),
        ("session-aa", &[""], "expiry"),
        ("session-zz", &[""], "expiry"),
        ("board", &["ann-aa", "ann-zz"], "metadata"),
        ("hits-aa", &[""], "metadata"),
        ("hits-zz", &[""], "metadata"),
        ("views", &["page-aa", "page-zz"], "metadata"),
        ("gone-aa", &[""], "metadata"),
        ("gone-zz", &[""], "metadata"),
    ];
    let of = |(key, elements, what): (&str, &[&str], &str)| {
        (key.to_owned(), elements.iter().map(|element| ((*element).to_owned(), what.to_owned())).collect())
    };
    all.into_iter().map(of).collect()
}

/// Ends west's server, damages its log, and lets it come back: it has merged all, and lacks some of it.
fn damage(store: &Store) {
    store.hold(WEST).unwrap();
    wait_until("the server to be gone", LIMIT, || match store.process(WEST) {
        Ok(process) if process.pid.is_none() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let folder = store.folder_of(WEST).join("appendonlydir");
    let mut done = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(".incr.aof") {
            continue;
        }
        let mut log = std::fs::read(&path).unwrap();
        for (from, to) in DAMAGE {
            let last = log.windows(from.len()).rposition(|bytes| bytes == from.as_bytes());
            if let Some(at) = last {
                log[at..at + to.len()].copy_from_slice(to.as_bytes());
                done.insert(from);
            }
        }
        std::fs::write(&path, log).unwrap();
    }
    assert_eq!(done.len(), DAMAGE.len(), "only {done:?} are in the log");
    store.resume(WEST).unwrap();
    store.wait_active().unwrap();
}

fn reshipped(store: &Store) -> Vec<i64> {
    store.regions().iter().map(|region| store.engine_counters(region).unwrap()["reshipped"]).collect()
}

fn verified(store: &Store) -> Option<(String, String)> {
    let status = store.masctl(&["status", "-o", "json"]).unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    let conditions = status["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == "Verified")?;
    Some((found["reason"].as_str()?.to_owned(), found["message"].as_str()?.to_owned()))
}

#[test]
fn equal_regions_are_equal_and_differences_are_named_and_repaired() {
    let _alone = one_at_a_time();
    let spec = format!("{SPEC}\n  verification: {{interval: 0s}}");
    let store = Store::start(&manifest("verified", &["east", "west"], &spec)).unwrap();
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());
    for n in 0..10 {
        let () = west.set(format!("s{n}"), n).unwrap();
        let () = east.hset(format!("h{n}"), "field", n).unwrap();
        let () = west.sadd("m", n).unwrap();
        let () = east.incr("c", n).unwrap();
        let () = west.incr("c", n).unwrap();
        let () = east.set_ex(format!("e{n}"), n, if n < 5 { 1 } else { 1000 }).unwrap();
        let () = west.zincr("z", n, 1).unwrap();
    }
    let () = east.del("s9").unwrap();
    let () = west.srem("m", 3).unwrap();
    write_all(&mut east);
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    let said = store.masctl(&["verify", "--sample", "100"]).unwrap();
    assert!(said.contains("no differences"), "{said}");
    assert_eq!(verified(&store).unwrap().0, "NoDifferences");

    damage(&store);
    let (equal, report) = verify(&store, &["--sample", "100"]);
    assert!(!equal);
    assert_eq!(differences(&report), expected(), "{report:#}");
    assert_eq!((&report["repairedKeys"], &report["keys"][0]["outcome"]), (&0.into(), &"Found".into()));
    assert_eq!(reshipped(&store), [0, 0], "a report alone changes nothing");
    assert_eq!(verified(&store).unwrap().0, "RegionsDiffer");
    let file = std::fs::read(store.state_dir().join("verification.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&file).unwrap(), report);

    // Without a sample, other values under the same stamps stay unseen: digests are of stamps.
    let (_, blind) = verify(&store, &["--sample", "0"]);
    let mut seen = expected();
    seen.remove("greeting");
    assert_eq!(differences(&blind), seen, "{blind:#}");

    let (equal, repaired) = verify(&store, &["--sample", "100", "--repair"]);
    assert!(equal, "{repaired:#}");
    assert_eq!(differences(&repaired), expected(), "{repaired:#}");
    assert_eq!(repaired["repairedKeys"], 11, "{repaired:#}");
    assert!(reshipped(&store).iter().all(|operations| *operations > 0));
    println!("{}", store.masctl(&["verify", "--sample", "100"]).unwrap());
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    let greeting: String = west.get("greeting").unwrap();
    assert_eq!(greeting, "value-one", "who wrote it knows");
    let milk: Option<String> = west.hget("cart", "milk-aa").unwrap();
    assert_eq!(milk.as_deref(), Some("1"));
    let ttl: i64 = west.ttl("session-aa").unwrap();
    assert!((1..=5000).contains(&ttl), "{ttl}");

    // The repair is in the log, too.
    let before = store.kill(WEST).unwrap();
    store.wait_restarted(WEST, before).unwrap();
    store.wait_active().unwrap();
    let (equal, report) = verify(&store, &["--sample", "100"]);
    assert!(equal && differences(&report).is_empty(), "{report:#}");
    store.finish().unwrap();
}

#[test]
fn under_traffic_nothing_is_taken_for_a_difference_and_what_differs_is_repaired() {
    let _alone = one_at_a_time();
    let spec = format!("{SPEC}\n  verification: {{interval: 10s, samplePercent: 100, repair: ReportOnly}}");
    let store = Store::start(&manifest("busy", &["east", "west"], &spec)).unwrap();
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());
    write_all(&mut east);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for connection in [&mut east, &mut west] {
            let stop = &stop;
            scope.spawn(move || {
                for n in 0u64.. {
                    let () = connection.set(format!("s{}", n % 200), n).unwrap();
                    let () = connection.hincr("hot", "n", 1).unwrap();
                    let () = connection.hset("cart", format!("f{}", n % 50), n).unwrap();
                    let () = connection.sadd("team", n % 50).unwrap();
                    let () = connection.srem("team", (n + 25) % 50).unwrap();
                    let () = connection.set_ex(format!("e{}", n % 50), n, 1 + n % 40).unwrap();
                    let () = connection.del(format!("s{}", (n + 100) % 200)).unwrap();
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        // A panic must not leave the writers writing.
        let runs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..5).map(|_| verify(&store, &["--sample", "100"]).1).collect::<Vec<_>>()
        }));
        stop.store(true, Ordering::Relaxed);
        for report in runs.unwrap() {
            // A key may never be seen to stand still; but none is taken for different.
            assert_eq!(differences(&report), BTreeMap::new(), "{report:#}");
            assert_eq!(report["failed"], Value::Null, "{report:#}");
            println!("{} ms, {} undecided", report["durationMillis"], report["undecided"]);
        }
    });
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    damage(&store);
    // What is due comes by itself, and tells.
    wait_until("the schedule to find it", LIMIT, || match verified(&store) {
        Some((reason, words)) if reason == "RegionsDiffer" => Ok(println!("{words}")),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert_eq!(reshipped(&store), [0, 0], "ReportOnly");
    // Repaired beside a writer of the same keys.
    let mut writer = store.connect("west").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0u64.. {
                let () = writer.hset("cart", "hot", n).unwrap();
                let () = writer.zincr("board", "hot", 1).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let report = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            verify(&store, &["--sample", "100", "--repair"]).1
        }));
        stop.store(true, Ordering::Relaxed);
        let report = report.unwrap();
        println!("{} found, {} repaired", report["differentKeys"], report["repairedKeys"]);
        assert!(report["repairedKeys"].as_u64().unwrap() > 0, "{report:#}");
    });
    let (_, report) = verify(&store, &["--sample", "100", "--repair"]);
    assert_eq!(report["differentKeys"], report["repairedKeys"], "{report:#}");
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    let (equal, report) = verify(&store, &["--sample", "100"]);
    assert!(equal, "{report:#}");
    store.finish().unwrap();
}
