//! What people do to a store.

use std::collections::BTreeMap;

use e2e::cluster::Deployed;
use e2e::cluster::chart::{EXAMPLE, FOUNDING, Installation, RECOVERY, REGIONS};
use e2e::load::{Endpoints as _, Load};
use e2e::wait::wait_until;
use redis::Commands as _;
use serde_json::Value;

pub(crate) fn claims_grow(place: &Installation, _: &Load) {
    let bigger =
        EXAMPLE.replace("    maxMemory: 128Mi\n", "    maxMemory: 128Mi\n    storage: {size: 20Gi}\n");
    assert_ne!(bigger, EXAMPLE);
    place.namespace.apply(&bigger).unwrap();
    for region in REGIONS {
        for ordinal in [0, 1] {
            let name = format!("data-shop--{region}--shard-0-redis-{ordinal}");
            let grown = |claim: &Value| claim["status"]["capacity"]["storage"] == "20Gi";
            place.namespace.wait("pvc", &name, RECOVERY, grown).unwrap();
        }
    }
}

/// Goes on from [`claims_grow`].
pub(crate) fn a_paused_store_is_promoted_and_not_changed(place: &Installation, _: &Load) {
    let patch = |patch: &str| {
        place.namespace.kubectl(&["patch", "mas", "shop", "--type=merge", "-p", patch]).unwrap();
    };
    let replicas =
        || place.namespace.get("deployment", "shop--east--proxy").unwrap()["spec"]["replicas"].clone();
    patch(r#"{"spec": {"paused": true, "proxy": {"replicas": 1}}}"#);
    let paused = |store: &Value| {
        let conditions = store["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
    };
    place.namespace.wait("mas", "shop", RECOVERY, paused).unwrap();
    let store = place.store();
    let before = store.epoch("east", 0).unwrap();
    store.kill(&store.master("east", 0).unwrap(), "redis").unwrap();
    store
        .wait_epoch_above(before, "east", 0, RECOVERY)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    assert_eq!(replicas(), 2, "the change waits");
    patch(r#"{"spec": {"paused": false}}"#);
    wait_until("the change", RECOVERY, || if replicas() == 1 { Ok(()) } else { Err(replicas().to_string()) })
        .unwrap();
}

/// From the previous chart to this one: the definitions are this one's, and stores do not notice.
pub(crate) fn the_chart_is_upgraded(place: &Installation, _: &Load) {
    let pods = || -> Vec<String> {
        let selector = "multiactive.dev/store=shop";
        let text = place.namespace.kubectl(&[
            "get",
            "pods",
            "-l",
            selector,
            "-o",
            "jsonpath={.items[*].metadata.uid}",
        ]);
        let text = text.unwrap();
        let mut uids: Vec<_> = text.split(' ').map(ToOwned::to_owned).collect();
        uids.sort();
        uids
    };
    let (before, version) = (pods(), place.chart.version().unwrap());
    place.chart.upgrade(&[]).unwrap();
    place.well("the upgrade");
    assert_ne!(place.chart.version().unwrap(), version);
    let wanted = definitions(place, &["create", "--dry-run=client", "-f", CHARTS_DEFINITIONS, "-o", "json"]);
    let live = definitions(place, &["get", "crd", "-o", "json"]);
    assert!(!wanted.is_empty() && wanted == live, "definitions: {wanted:#?}, and there are {live:#?}");
    assert_eq!(pods(), before, "no pod of a store was restarted");
}

const CHARTS_DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/multiactive.dev.yaml");

/// Versions of the store's definitions, by name, as kubectl says; one JSON object after the other, or a list.
fn definitions(place: &Installation, asked: &[&str]) -> BTreeMap<String, Value> {
    let said = place.namespace.cluster().kubectl(asked).unwrap();
    let mut all: Vec<Value> =
        serde_json::Deserializer::from_str(&said).into_iter().collect::<Result<_, _>>().unwrap();
    if let Some(items) = all.first().and_then(|list| list["items"].as_array()).cloned() {
        all = items;
    }
    let ours = all.iter().filter(|of| of["spec"]["group"] == "multiactive.dev");
    ours.map(|of| (of["metadata"]["name"].to_string(), of["spec"]["versions"].clone())).collect()
}

pub(crate) fn a_second_store_has_data_of_its_own(place: &Installation) {
    let manifest = EXAMPLE.replace("name: shop", "name: cart").replace("replicas: 2", "replicas: 1");
    place.namespace.apply(&manifest).unwrap();
    let cart = Deployed::new(&place.namespace, "cart", &REGIONS);
    cart.wait_active(FOUNDING).unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    place.well("a second store was founded beside it");
    let shop = place.store();
    let () = shop.connect_to("east").unwrap().set("whose", "shop").unwrap();
    let () = cart.connect_to("west").unwrap().set("whose", "cart").unwrap();
    for (store, whose) in [(&shop, "shop"), (&cart, "cart")] {
        for region in REGIONS {
            wait_until("the value", RECOVERY, || {
                let read = || anyhow::Ok(store.connect_to(region)?.get::<_, Option<String>>("whose")?);
                match read() {
                    Ok(Some(value)) if value == whose => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .unwrap();
        }
    }
    // Credentials of the one are none of the other.
    assert_ne!(shop.binding("east").unwrap(), cart.binding("east").unwrap());
}

/// With two stores, their volumes, and an operator that runs.
pub(crate) fn a_namespace_that_is_deleted_goes(place: &Installation) {
    let name = &place.namespace.name;
    place.namespace.cluster().kubectl(&["delete", "namespace", name, "--timeout=180s"]).unwrap();
}
