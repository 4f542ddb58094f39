//! The thinnest whole path: what is written in either region is read in both, through cuts and restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::{Store, keyspace, manifest, one_at_a_time, process, wait_for};
use redis::{Commands, Connection};

const SMALL: &str =
    "  shards: 2\n  redis: {replicas: 1, maxMemory: 64Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
const SOON: Duration = Duration::from_secs(30);

fn seen(connection: &mut Connection, key: &str) -> Option<String> {
    connection.get(key).unwrap()
}

#[test]
fn written_in_one_read_in_both() {
    let _alone = one_at_a_time();
    let mut store = Store::start(&manifest("smoke", &["east", "west"], SMALL)).unwrap();
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());

    // Both directions, both shards.
    for n in 0..20 {
        let () = east.set(format!("from-east:{n}"), n).unwrap();
        let () = west.set(format!("from-west:{n}"), n).unwrap();
    }
    wait_for("east's last write in west", SOON, || seen(&mut west, "from-east:19")).unwrap();
    wait_for("west's last write in east", SOON, || seen(&mut east, "from-west:19")).unwrap();
    assert_eq!(keyspace::wait_equal(&store, "*", SOON).unwrap().len(), 40);

    // Cut: nothing passes, both go on. Healed: both are equal.
    store.cut("east", "west").unwrap();
    let () = east.set("during", "east").unwrap();
    let () = east.set("only-east", 1).unwrap();
    let () = west.set("during", "west").unwrap();
    let status = wait_for("the cut to be seen", SOON, || {
        let status = store.status().ok()?;
        status.regions.iter().all(|region| region.phase != "Active").then_some(status)
    });
    assert!(status.is_ok(), "{status:?}");
    assert_eq!(seen(&mut east, "during").as_deref(), Some("east"));
    assert_eq!(seen(&mut west, "during").as_deref(), Some("west"));
    assert_eq!(seen(&mut west, "only-east"), None);
    store.heal("east", "west").unwrap();
    keyspace::wait_equal(&store, "*", SOON).unwrap();
    assert_eq!(seen(&mut east, "during").as_deref(), Some("west"), "the later write wins");
    store.wait_active().unwrap();

    // Status has what API.md says.
    let status: serde_json::Value =
        serde_json::from_str(&store.masctl(&["status", "-o", "json"]).unwrap()).unwrap();
    assert_eq!(status["store"], "smoke");
    let region = &status["regions"][0];
    assert_eq!(region["name"], "east");
    assert_eq!(region["endpoint"], store.endpoint("east"));
    assert_eq!(region["shards"].as_array().map(Vec::len), Some(2));
    for field in ["shard", "master", "epoch", "incarnation", "replicas"] {
        assert!(!region["shards"][1][field].is_null(), "{field} is missing in {region}");
    }
    for field in ["amqp", "management"] {
        assert!(region["broker"][field].is_string(), "{field} is missing in {region}");
    }
    for field in ["peer", "state", "lagMillis", "lagEffects", "backlogBytes"] {
        assert!(!region["links"][0][field].is_null(), "{field} is missing in {region}");
    }

    // A support bundle tells it all, without passwords.
    let file = store.state_dir().with_extension("tar.gz");
    store.masctl(&["support-bundle", "-o", &file.display().to_string()]).unwrap();
    let texts = e2e::bundle::unpack(&file).unwrap();
    let secrets = std::fs::read_dir(store.state_dir().join("secrets")).unwrap();
    let secrets: Vec<String> = secrets
        .map(|secret| std::fs::read_to_string(secret.unwrap().path()).unwrap().trim().to_owned())
        .collect();
    e2e::bundle::check_hidden(&texts, &secrets).unwrap();
    assert!(texts["README.txt"].contains("Everything could be read."), "{}", texts["README.txt"]);
    let shown = |name: &str, words: &str| assert!(texts[name].contains(words), "no {words} in {name}");
    shown("files/state.json", "\"founded\"");
    shown("files/east/shard-0/redis-0/redis.conf", "***");
    shown("files/east/proxy-0/log", "INFO");
    shown("proxies/west/proxy-1/metrics.txt", "mas_proxy_connections");
    shown("status.yaml", "phase: Active");

    // Down and up: the same endpoints, the same data, and still one store.
    let before = keyspace::wait_equal(&store, "*", SOON).unwrap();
    let endpoints = [store.endpoint("east").to_owned(), store.endpoint("west").to_owned()];
    let pids = store.pids();
    assert!(pids.len() >= 2 * (4 + 1 + 2), "{pids:?}");
    store.down().unwrap();
    let left: Vec<_> = pids.into_iter().filter(|pid| process::is_alive(*pid)).collect();
    assert!(left.is_empty(), "processes outlived `down`: {left:?}");
    store.up().unwrap();
    assert_eq!(endpoints, [store.endpoint("east").to_owned(), store.endpoint("west").to_owned()]);
    assert_eq!(keyspace::wait_equal(&store, "*", SOON).unwrap(), before);
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());
    let () = west.set("after", "up").unwrap();
    wait_for("a write after the restart", SOON, || seen(&mut east, "after")).unwrap();
    store.finish().unwrap();
}

#[test]
fn two_stores_side_by_side() {
    let _alone = one_at_a_time();
    let tiny = "  redis: {replicas: 0, appendOnly: Always, maxMemory: 64Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
    let one = Store::start(&manifest("same-name", &["here"], tiny)).unwrap();
    let other = Store::start(&manifest("same-name", &["here"], tiny)).unwrap();
    let (mut in_one, mut in_other) = (one.connect("here").unwrap(), other.connect("here").unwrap());
    let () = in_one.set("who", "one").unwrap();
    assert_eq!(seen(&mut in_other, "who"), None);
    let () = in_other.set("who", "other").unwrap();
    one.finish().unwrap();
    assert_eq!(seen(&mut in_other, "who").as_deref(), Some("other"));
    other.finish().unwrap();
}
