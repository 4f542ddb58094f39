//! Changes of a store that runs.

use e2e::load::Endpoints as _;
use redis::Commands as _;

use crate::{Place, RECOVERY, manifest};

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

pub(crate) fn what_needs_a_restart_says_so(place: &Place) {
    let store = place.store();
    let () = store.connect_to("a").unwrap().set("k", "v").unwrap();

    // More memory needs a restart: it is said which pods wait for it, and until when.
    place.namespace.apply(&bigger().replace("maxMemory: 64Mi", "maxMemory: 96Mi")).unwrap();
    let pending = |store: &serde_json::Value| -> Option<String> {
        let conditions = store["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == "RestartPending")?;
        Some(condition["message"].as_str()?.to_owned())
    };
    let names_all = |store: &serde_json::Value| {
        pending(store).is_some_and(|words| words.contains(PODS[0]) && words.contains("b--shard-0-redis-1"))
    };
    place.namespace.wait("mas", "shop", RECOVERY, names_all).unwrap();
    for region in ["a", "b"] {
        let master = store.master(region, 0).unwrap();
        let set = format!("shop--{region}--shard-0-redis");
        let mut members = [format!("{set}-0"), format!("{set}-1")];
        members.sort_by_key(|member| *member == master); // replicas before masters
        for member in members {
            place.namespace.kubectl(&["delete", "pod", &member]).unwrap();
            let ready = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["ready"] == true;
            place.namespace.wait("pod", &member, RECOVERY, ready).unwrap();
            place.well("a planned restart");
        }
    }
    place.namespace.wait("mas", "shop", RECOVERY, |store| pending(store).is_none()).unwrap();
    let value: String = store.connect_to("b").unwrap().get("k").unwrap();
    assert_eq!(value, "v");
}
