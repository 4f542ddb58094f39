//! What a person sees who applies a manifest.

use std::time::Duration;

use e2e::keyspace;
use e2e::load::Endpoints as _;
use e2e::wait::{wait_for, wait_until};
use redis::Commands as _;

use crate::{Place, RECOVERY};

pub(crate) fn a_manifest_becomes_a_store_that_is_written_in_both_regions(place: &Place) {
    let store = place.store();
    let (mut a, mut b) = (store.connect_to("a").unwrap(), store.connect_to("b").unwrap());
    for n in 0..20 {
        let () = a.set(format!("from-a:{n}"), n).unwrap();
        let () = b.set(format!("from-b:{n}"), n).unwrap();
    }
    let space = keyspace::wait_equal(&store, "from-*", RECOVERY).unwrap();
    assert_eq!(space.len(), 40);

    // One screen tells how it is.
    let screen = place.namespace.kubectl(&["get", "mas,masr"]).unwrap();
    for word in ["2/2", "Active", "1/1", "shop--a.life"] {
        assert!(screen.contains(word), "no {word} in\n{screen}");
    }
    let mas = place.namespace.get("mas", "shop").unwrap();
    assert!(mas["status"]["why"].is_null(), "{mas}");
    let row = place.namespace.get("masr", "shop--a").unwrap();
    let status = &row["status"];
    assert_eq!((&status["proxies"], &status["brokers"]), (&"1/1".into(), &"1/1".into()));
    assert_eq!((&status["ack"], &status["links"][0]["state"]), (&"Queued".into(), &"Connected".into()));
    let shard = &status["shards"][0];
    assert!(shard["epoch"].as_u64() >= Some(1) && shard["replicasInSync"] == 1, "{row}");
    assert_eq!(shard["incarnation"].as_str().map(str::len), Some(16));
    // A store that is well, and idle, causes no writes.
    if place.namespace.cluster().audit().is_some() {
        std::thread::sleep(Duration::from_secs(15));
        let from = place.namespace.requests_so_far().unwrap();
        std::thread::sleep(Duration::from_mins(1));
        let requests = place.namespace.requests(from).unwrap();
        let writes: Vec<_> = requests
            .iter()
            .filter(|event| event["objectRef"]["resource"] != "leases")
            .filter(|event| !matches!(event["verb"].as_str(), Some("get" | "list" | "watch")))
            .collect();
        assert!(writes.is_empty(), "{writes:?}");
    }
}

/// From what engines and the identity record say.
pub(crate) fn a_row_that_is_deleted_is_made_anew(place: &Place) {
    let store = place.store();
    let before = store.shard("a", 0).unwrap();
    place.namespace.kubectl(&["delete", "masr", "shop--a"]).unwrap();
    wait_for("the row, as it was", RECOVERY, || {
        let now = store.shard("a", 0).ok()?;
        (now["epoch"] == before["epoch"] && now["incarnation"] == before["incarnation"]).then_some(())
    })
    .unwrap();
}

/// After some faults.
pub(crate) fn what_happened_is_told_in_events(place: &Place) {
    let reasons = || -> Vec<String> {
        let events = place.namespace.list("events.events.k8s.io").unwrap();
        events.iter().filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect()
    };
    wait_until("the events", RECOVERY, || {
        let reasons = reasons();
        let missing = ["Promoted", "RegionCatchingUp", "RegionActive"]
            .iter()
            .find(|wanted| !reasons.iter().any(|r| r == *wanted));
        missing.map_or(Ok(()), |missing| Err(format!("no {missing} in {reasons:?}")))
    })
    .unwrap();
}
