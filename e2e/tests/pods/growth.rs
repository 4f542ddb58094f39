//! Changes of a store that runs.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::keyspace;
use e2e::load::{Load, Plan};
use serde_json::Value;

use crate::{Place, RECOVERY, SMALL, manifest};

/// Six pods, each of which has to be ready again, on two cores.
const ROLLED_OUT: Duration = Duration::from_mins(12);
const PACE: Duration = Duration::from_millis(10);

const PODS: [&str; 3] = ["shop--a--shard-0-redis-0", "shop--a--shard-0-redis-1", "shop--a--broker-0"];

pub(crate) fn bigger() -> String {
    manifest("shop", "").replace("redis: {", "redis: {storage: {size: 20Gi}, ")
}

pub(crate) fn claims_grow_around_running_pods(place: &mut Place) {
    place.operator.terminate().unwrap();
    assert!(place.operator.wait_end(RECOVERY).unwrap(), "{}", place.operator.log());
    let uid = |pod: &str| place.namespace.get("pod", pod).unwrap()["metadata"]["uid"].clone();
    let before = PODS.map(uid);
    let claim = place.namespace.get("pvc", "data-shop--a--shard-0-redis-0").unwrap();
    assert_ne!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
    place.namespace.apply(&bigger()).unwrap();
    let template = |name: &str| {
        let set = place.namespace.get("statefulset", name).ok()?;
        Some(set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"].clone())
    };
    crate::crash_until(&place.namespace, "growing", &|| {
        ["a", "b"]
            .iter()
            .all(|region| template(&format!("shop--{region}--shard-0-redis")) == Some("20Gi".into()))
    });
    for ordinal in [0, 1] {
        let name = format!("data-shop--b--shard-0-redis-{ordinal}");
        let grown = |claim: &serde_json::Value| claim["status"]["capacity"]["storage"] == "20Gi";
        place.namespace.wait("pvc", &name, RECOVERY, grown).unwrap();
    }
    assert_eq!(PODS.map(uid), before, "no pod was restarted");
    place.operator = place.namespace.operator(&["--identity", "third"]).unwrap();
    place.well("growing");
}

/// More memory for Redis, and more of a processor for brokers.
pub(crate) fn rolled() -> String {
    let more = bigger().replace("maxMemory: 64Mi", "maxMemory: 96Mi");
    let broker = format!("storage: {{size: 8Gi}}, resources: {SMALL}");
    assert!(more.contains(&broker));
    more.replace(&broker, "storage: {size: 8Gi}, resources: {requests: {cpu: 60m}}")
}

/// Under load, by operators of which the first ones are killed in the middle: replicas, a handover, the old masters, brokers.
pub(crate) fn what_needs_a_restart_is_restarted_one_by_one(place: &mut Place) {
    let all: Vec<String> = ["a", "b"].iter().flat_map(|region| pods_of(region)).collect();
    let store = place.store();
    let plan = Plan { regions: &["a", "b"], writers: 2, prefix: "roll", level: &[], pace: PACE };
    let load = Load::start(&store, &plan).unwrap();
    load.wait_for_more(50, RECOVERY).unwrap();
    // All in one answer, or what is restarted between two questions would be away in both.
    let look = || {
        let pods = place.namespace.list("pods").unwrap();
        let named = |name: &String| pods.iter().find(|pod| pod["metadata"]["name"] == *name).cloned();
        all.iter().map(|name| named(name).unwrap_or_default()).collect::<Vec<Value>>()
    };
    let uids =
        |pods: &[Value]| -> Vec<Value> { pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect() };
    let before = uids(&look());
    let masters = ["a", "b"].map(|region| store.master(region, 0).unwrap());

    place.namespace.apply(&rolled()).unwrap();
    let mut most_away: Vec<String> = Vec::new();
    let mut killed = 0;
    let mut were_ready = BTreeSet::new();
    let limit = Instant::now() + ROLLED_OUT;
    loop {
        let pods = look();
        let new =
            uids(&pods).iter().zip(&before).filter(|(now, before)| !now.is_null() && now != before).count();
        // One that was ready, and fails a probe on a machine without time, was not taken away.
        let away = pods.iter().zip(&before).filter(|(pod, before)| {
            let (uid, ends) = (&pod["metadata"]["uid"], !pod["metadata"]["deletionTimestamp"].is_null());
            if pod["status"]["containerStatuses"][0]["ready"] == true {
                were_ready.insert(uid.to_string());
            }
            ends || uid.is_null() || (uid != *before && !were_ready.contains(&uid.to_string()))
        });
        let away: Vec<String> = away.map(|(pod, _)| format!("{pod:#}")).collect();
        if away.len() > most_away.len() {
            most_away = away;
        }
        let status = place.namespace.get("mas", "shop").unwrap()["status"].clone();
        let says = |kind: &str, reason: &str| {
            let conditions = status["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|of| of["type"] == kind && of["reason"] == reason))
        };
        if new == all.len() && !says("RestartPending", "PodsOutdated") && says("Progressing", "Reconciled") {
            break;
        }
        assert!(Instant::now() < limit, "{new} of {} pods are new: {}", all.len(), place.picture());
        // After the first replica, and in the middle of it.
        if killed < 2 && new > killed * 3 {
            killed += 1;
            e2e::process::kill(place.operator.pid()).unwrap();
            place.operator = place.namespace.operator(&["--identity", &format!("roller-{killed}")]).unwrap();
        }
        sleep(Duration::from_millis(500));
    }
    place.well("a rolling change");
    load.wait_for_more(50, RECOVERY).unwrap();
    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&place.store(), "roll:*", RECOVERY).unwrap();
    let findings = report.ledger.check(&space);
    let events = place.namespace.list("events.events.k8s.io").unwrap();
    let told: Vec<String> = events
        .iter()
        .filter(|event| {
            ["HandedOver", "HandoverFailed", "RolledOut"].iter().any(|reason| event["reason"] == *reason)
        })
        .filter_map(|event| Some(format!("{}: {}", event["reason"].as_str()?, event["note"].as_str()?)))
        .collect();
    println!(
        "rolled out, operators killed: {killed}, at most {} pods away at once: {} writes acknowledged, {} with no known \
         end, longest gap {:?}, {:?}; {findings}; {told:#?}",
        most_away.len(),
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap,
        report.errors,
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", place.picture());
    assert_eq!(most_away.len(), 1, "one pod at a time: {}", most_away.join("\n"));
    // A master is restarted only when somebody else has become it.
    for (region, before) in ["a", "b"].iter().zip(masters) {
        assert_ne!(place.store().master(region, 0).unwrap(), before);
    }
    let memory = &look()[0]["spec"]["containers"][0]["resources"]["limits"]["memory"];
    let set = place.namespace.get("statefulset", "shop--a--shard-0-redis").unwrap();
    assert_eq!(memory, &set["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]);
}

/// Those that a StatefulSet makes.
fn pods_of(region: &str) -> [String; 3] {
    ["shard-0-redis-0", "shard-0-redis-1", "broker-0"].map(|part| format!("shop--{region}--{part}"))
}
