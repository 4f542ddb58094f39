//! What people see of a store that runs: `kubectl mas`.

use std::time::Duration;

use e2e::bundle::{check_hidden, unpack};
use e2e::load::{Load, Plan};
use e2e::wait::wait_until;
use serde_json::Value;

use crate::{Place, RECOVERY};

const PLAN: Plan<'_> =
    Plan { regions: &["a", "b"], writers: 1, prefix: "seen", level: &[], pace: Duration::from_millis(5) };

fn kubectl_mas(place: &Place, args: &[&str]) -> String {
    let namespace = ["--namespace", &place.namespace.name];
    place.namespace.cluster().kubectl_mas(&[args, &namespace].concat()).unwrap()
}

/// Under load: lags that are not rounded up, and rates.
pub(crate) fn exact_numbers_come_from_the_proxies(place: &Place) {
    let store = place.store();
    let load = Load::start(&store, &PLAN).unwrap();
    load.wait_for_more(50, RECOVERY).unwrap();
    let status: Value = serde_json::from_str(&kubectl_mas(place, &["status", "-o", "json"])).unwrap();
    for region in status["regions"].as_array().unwrap() {
        let (shard, link) = (&region["shards"][0], &region["links"][0]);
        assert_eq!((&region["phase"], &shard["state"]), (&"Active".into(), &"serving".into()), "{status}");
        assert_eq!(
            (&link["state"], shard["replicas"].as_array().map(Vec::len)),
            (&"Connected".into(), Some(1))
        );
        // The operator writes 100, 250, 500 ...; the proxies know better.
        assert!(link["lagMillis"].as_u64().is_some_and(|lag| lag != 100 && lag < 5000), "{link}");
    }
    let ready = |pod: &Value| pod["ready"] == true && pod["phase"] == "Running";
    assert!(status["processes"].as_array().unwrap().iter().all(ready), "{status}");
    let screen = kubectl_mas(place, &["status"]);
    assert!(!screen.contains("NoLiveNumbers") && screen.contains("RegionsServe"), "{screen}");

    let top = kubectl_mas(place, &["top", "-n", "2"]);
    let rounds: Vec<&str> = top.split("REGION").skip(1).collect();
    assert_eq!(rounds.len(), 2, "{top}");
    for row in rounds[1].lines().filter(|row| row.starts_with("a ") || row.starts_with("b ")) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let rates: Vec<u64> = cells[2..5].iter().map(|rate| rate.parse().unwrap()).collect();
        assert!(rates.iter().all(|rate| *rate > 0), "requests, writes and merged effects in {top}");
    }
    load.stop().unwrap();
}

pub(crate) fn a_support_bundle_tells_all_but_passwords(place: &Place) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.tar.gz");
    kubectl_mas(place, &["support-bundle", "-o", &file.display().to_string()]);
    let texts = unpack(&file).unwrap();
    check_hidden(&texts, &place.namespace.passwords("shop").unwrap()).unwrap();
    let logs: Vec<&String> = texts.keys().filter(|name| name.starts_with("logs/")).collect();
    for part in ["redis-0/redis.log", "redis-1/redis.log", "broker-0/broker.log", "/proxy.log"] {
        let found = logs.iter().filter(|name| name.ends_with(part) && !texts[**name].is_empty());
        assert_eq!(found.count(), 2, "{part} in {logs:?}");
    }
    let with = |start: &str, end: &str, words: &str| {
        let of = texts.iter().filter(|(name, _)| name.starts_with(start) && name.ends_with(end));
        assert!(
            of.clone().count() == 2 && of.clone().all(|(_, text)| text.contains(words)),
            "{start} {end} {words}"
        );
    };
    with("proxies/", "/metrics.txt", "mas_proxy_connections");
    with("proxies/", "/status.json", "\"links\"");
    // Which of them a crash took along is chance.
    assert!(texts["events.txt"].contains("MultiActiveStore/shop"), "{}", texts["events.txt"]);
    assert!(texts["status.yaml"].contains("phase: Active"));
    // This test runs the operator as a process: all that is missing is its Deployment.
    let readme = &texts["README.txt"];
    let missing: Vec<&str> = readme.split("What could not be read").nth(1).unwrap().lines().skip(1).collect();
    assert!(missing.len() == 1 && missing[0].contains("the operator: no Deployment"), "{readme}");
}

/// A server that holds another store's data is in the way of a rebuild. Its pod and its claim are deleted when a person says so.
pub(crate) fn a_copy_that_cannot_be_used_is_put_away_on_order(place: &mut Place) {
    let epoch = place.store().epoch("a", 0).unwrap();
    place.operator.terminate().unwrap();
    assert!(place.operator.wait_end(RECOVERY).unwrap(), "{}", place.operator.log());
    place.store().lose("a", "multiactive.dev/shard=0").unwrap();
    wait_until("a server that holds nothing", RECOVERY, || {
        place.store().make_foreign("shop--a--shard-0-redis-0").map_err(|error| error.to_string())
    })
    .unwrap();
    place.operator = place.namespace.operator(&["--identity", "rebuilder"]).unwrap();
    let args = ["op", "start", "rebuild", "--region", "a", "--shard", "0"];
    wait_until("the order to be taken", RECOVERY, || {
        let said = place.namespace.masctl(&args).unwrap();
        if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .unwrap();
    let name = format!("shop--rebuild--a-0-{epoch}");
    let done = |operation: &Value| operation["status"]["phase"] == "Succeeded";
    place
        .namespace
        .wait("maso", &name, RECOVERY, done)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    place.well("a copy was put away");
    place.namespace.kubectl(&["delete", "maso", "--all"]).unwrap();
}
