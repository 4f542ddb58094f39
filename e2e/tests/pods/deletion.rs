//! A store that is deleted: what is kept, and what is not.

use e2e::keyspace;
use e2e::load::Endpoints as _;
use e2e::wait::wait_until;
use redis::Commands as _;

use crate::growth::rolled;
use crate::{Place, RECOVERY};

const PODS: &str = "statefulsets,deployments,pods,storeregions";

fn wait_gone(place: &Place, kinds: &str) {
    wait_until("everything to go", RECOVERY, || {
        let left = place.namespace.list(kinds).map_err(|error| error.to_string())?;
        let ours = |object: &&serde_json::Value| {
            object["metadata"]["name"].as_str().is_some_and(|name| name.contains("shop"))
        };
        let names: Vec<_> =
            left.iter().filter(ours).map(|object| object["metadata"]["name"].to_string()).collect();
        if names.is_empty() { Ok(()) } else { Err(names.join(" ")) }
    })
    .unwrap();
}

pub(crate) fn what_is_retained_is_there_again(place: &Place) {
    let store = place.store();
    {
        let (mut a, mut b) = (store.connect_to("a").unwrap(), store.connect_to("b").unwrap());
        let () = a.set("kept:a", "1").unwrap();
        let () = b.hset("kept:b", "field", "2").unwrap();
    }
    let before = keyspace::wait_equal(&store, "kept:*", RECOVERY).unwrap();
    assert_eq!(before.len(), 2);
    let binding = store.binding("a").unwrap();
    let identity = |place: &Place| {
        let map = place.namespace.get("configmap", "shop--identity").unwrap();
        let record: serde_json::Value =
            serde_json::from_str(map["data"]["record.json"].as_str().unwrap()).unwrap();
        (record["founded"].clone(), record["regions"][0]["epochs"][0].clone())
    };
    let (founded, epoch) = identity(place);
    assert!(founded.is_string() && epoch.as_u64() > Some(0), "{founded} {epoch}");

    // Retain is the default: data, credentials and identity outlive the store.
    place.namespace.kubectl(&["delete", "mas", "shop"]).unwrap();
    wait_gone(place, PODS);
    assert!(!place.namespace.list("persistentvolumeclaims").unwrap().is_empty());
    place.namespace.apply(&rolled()).unwrap();
    place.well("applying it again");
    assert_eq!(keyspace::wait_equal(&store, "kept:*", RECOVERY).unwrap(), before);
    assert_eq!(store.binding("a").unwrap(), binding, "the same credentials");
    assert_eq!(identity(place).0, founded, "the same store");
    assert!(identity(place).1.as_u64() > epoch.as_u64(), "promoted anew, under a higher epoch");
}

pub(crate) fn with_delete_nothing_is_left(place: &Place) {
    place
        .namespace
        .apply(&rolled().replace("shop}\nspec: {", "shop}\nspec: {deletionPolicy: Delete, "))
        .unwrap();
    place
        .namespace
        .wait("statefulset", "shop--a--broker", RECOVERY, |set| {
            set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
        })
        .unwrap();
    let owned = |map: &serde_json::Value| map["metadata"]["ownerReferences"][0]["name"] == "shop";
    place.namespace.wait("configmap", "shop--identity", RECOVERY, owned).unwrap();
    place.namespace.wait("secret", "shop--credentials", RECOVERY, owned).unwrap();
    place.namespace.kubectl(&["delete", "mas", "shop"]).unwrap();
    wait_gone(
        place,
        "statefulsets,deployments,pods,storeregions,persistentvolumeclaims,configmaps,secrets,services,networkpolicies,poddisruptionbudgets",
    );
}
