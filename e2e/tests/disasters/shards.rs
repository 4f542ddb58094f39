//! Shards that are not complete yet: those that still load, and those that lack what their region has confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::cluster::Deployed;
use e2e::cluster::chart::{Installation, RECOVERY};
use e2e::load::{Endpoints as _, Load};
use e2e::wait::wait_until;
use redis::Commands as _;
use serde_json::Value;

const PODS: [&str; 2] = ["shop--east--shard-0-redis-0", "shop--east--shard-0-redis-1"];
/// Each takes a millisecond to load.
const KEYS: usize = 40_000;

/// Both servers of a shard end, and load for the better part of a minute: their pods are not ready meanwhile, nobody is promoted, and then
/// somebody is, with all the data.
pub(crate) fn a_shard_that_loads_is_not_ready(place: &Installation, _: &Load) {
    let store = place.store();
    let mut pipe = redis::pipe();
    for n in 0..KEYS {
        pipe.set(format!("bulk:{n}"), n).ignore();
    }
    let () = pipe.query(&mut store.connect_to("east").unwrap()).unwrap();
    slow_down(place);
    let before = store.epoch("east", 0).unwrap();
    let restarts: Vec<_> = PODS.iter().map(|pod| restarts_of(&look(place, pod))).collect();
    let killed: Vec<u32> = PODS.iter().flat_map(|pod| store.processes(pod, "redis").unwrap()).collect();
    for pid in killed {
        // With the first process of a pod the others go by themselves.
        let _ = e2e::process::kill(pid);
    }
    let (mut loading, started) = (0, Instant::now());
    while store.epoch("east", 0).unwrap() == before {
        assert!(started.elapsed() < RECOVERY, "nobody was promoted\n{}", place.picture());
        let seen: Vec<_> = PODS.iter().map(|pod| look(place, pod)).collect();
        let epoch = store.epoch("east", 0).unwrap();
        // Asked last: what loads now was loading, or not there, when it was looked at.
        for (pod, before) in seen.iter().zip(&restarts) {
            if restarts_of(pod) > *before && loads(pod) {
                loading += 1;
                assert_eq!(is_ready(pod), Some(false), "it loads: {}", pod["status"]);
            }
        }
        if seen.iter().all(loads) {
            assert_eq!(epoch, before, "promoted while all of them were loading");
        }
        thread::sleep(Duration::from_millis(200));
    }
    assert!(loading >= 3, "{loading} times seen loading: too few to tell");
    patch(place, "mas", "shop", r#"{"spec": {"paused": false}}"#);
    place.well("loading");
    for region in ["east", "west"] {
        let keys: Vec<String> = (0..KEYS).map(|n| format!("bulk:{n}")).collect();
        let there: usize = store.connect_to(region).unwrap().exists(&keys).unwrap();
        assert_eq!(there, KEYS, "in {region}");
    }
}

/// Makes the next loading of east's servers slow. Configuration is the operator's, so the store is paused meanwhile.
fn slow_down(place: &Installation) {
    patch(place, "mas", "shop", r#"{"spec": {"paused": true}}"#);
    let paused = |store: &Value| {
        let conditions = store["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
    };
    place.namespace.wait("mas", "shop", RECOVERY, paused).unwrap();
    let map = place.namespace.get("configmap", "shop--east--shard-0-redis").unwrap();
    let text = map["data"]["redis.conf"].as_str().unwrap();
    let slow = format!("{text}key-load-delay 1000\nloading-process-events-interval-bytes 1024\n");
    let data = serde_json::json!({"data": {"redis.conf": slow}}).to_string();
    patch(place, "configmap", "shop--east--shard-0-redis", &data);
    let mut looks = 0;
    for pod in PODS {
        wait_until("the file in the pod", RECOVERY, || {
            // A kubelet looks at what is mounted when the pod changes, and else once a minute.
            looks += 1;
            let looked = format!("looked={looks}");
            place
                .namespace
                .kubectl(&["annotate", "pod", pod, &looked, "--overwrite"])
                .map_err(|e| e.to_string())?;
            let asked = ["exec", pod, "--", "grep", "-c", "key-load-delay", "/etc/multiactive/redis.conf"];
            place.namespace.kubectl(&asked).map_err(|error| error.to_string())
        })
        .unwrap();
    }
}

fn patch(place: &Installation, kind: &str, name: &str, patch: &str) {
    place.namespace.kubectl(&["patch", kind, name, "--type=merge", "-p", patch]).unwrap();
}

fn look(place: &Installation, pod: &str) -> Value {
    place.namespace.get("pod", pod).unwrap()
}

fn restarts_of(pod: &Value) -> Option<u64> {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
}

fn is_ready(pod: &Value) -> Option<bool> {
    pod["status"]["containerStatuses"][0]["ready"].as_bool()
}

/// Whether the server in a pod says that it loads.
fn loads(pod: &Value) -> bool {
    let asked = || {
        let address = pod["status"]["podIP"].as_str()?;
        let client = redis::Client::open(format!("redis://probe:any@{address}/")).ok()?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        redis::cmd("PING").query::<String>(&mut connection).err()
    };
    asked().is_some_and(|error| error.to_string().contains("loading") || error.code() == Some("LOADING"))
}

/// More than the sockets between two servers hold.
const LARGE: (usize, usize) = (400, 64 << 10);

/// A replica that was frozen while much was confirmed becomes master when the master is lost with its volume: it takes no write before it
/// has read from the region's stream what it lacks. (It then would take what it must refuse.)
pub(crate) fn a_shard_is_not_writable_before_it_is_complete(place: &Installation, _: &Load) {
    let store = place.store();
    let master = store.master("east", 0).unwrap();
    let replica = PODS.into_iter().find(|pod| *pod != master).unwrap();
    let (epoch, read_back) = (store.epoch("east", 0).unwrap(), read_back(&store));
    let frozen = store.processes(replica, "redis").unwrap();
    let victims = store.processes(&master, "redis").unwrap();
    for pid in &frozen {
        e2e::process::pause(*pid).unwrap();
    }
    let mut client = store.connect_to("east").unwrap();
    let value = "x".repeat(LARGE.1);
    for n in 0..LARGE.0 {
        let () = client.set(format!("large:{}", n % 40), &value).unwrap();
    }
    let () = client.set("theirs", "first").unwrap();
    place.namespace.kubectl(&["delete", "pvc", &format!("data-{master}"), "--wait=false"]).unwrap();
    place.namespace.kubectl(&["delete", "pod", &master, "--grace-period=0", "--force"]).unwrap();
    for pid in victims {
        // The kubelet may have been faster.
        let _ = e2e::process::kill(pid);
    }
    let (stop, source) = (Arc::new(AtomicBool::new(false)), store.source("east").unwrap());
    let intruder = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut answers: Vec<Option<String>> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = source().and_then(|client| Ok(client.get_connection()?)) else {
                    continue;
                };
                while !stop.load(Ordering::Relaxed) {
                    match redis::cmd("SET").arg("theirs").arg("second").arg("NX").query(&mut client) {
                        Ok(answer) => answers.push(answer),
                        Err(_) => break,
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
            answers
        }
    });
    thread::sleep(Duration::from_secs(1));
    for pid in &frozen {
        e2e::process::resume(*pid).unwrap();
    }
    let raised = store.wait_epoch_above(epoch, "east", 0, RECOVERY);
    raised.unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    place.well("a frozen replica was promoted");
    stop.store(true, Ordering::Relaxed);
    let answers = intruder.join().unwrap();
    assert!(answers.len() > 20, "it was refused {} times: too few to tell", answers.len());
    assert_eq!(answers.iter().flatten().next(), None, "a write that the confirmed one forbids was taken");
    assert_eq!(store.master("east", 0).unwrap(), replica);
    let came = self::read_back(&store) - read_back;
    assert!(came >= 1.0, "{came} effects came from the region's own stream: the replica lacked none");
}

/// Effects that came from the region's own stream.
fn read_back(store: &Deployed<'_>) -> f64 {
    store.metric("east", "mas_replication_merged_effects_total{peer=\"east\"").unwrap()
}
