//! A region that was to join and does not: nothing is left of it. (Regions that join: `e2e/tests/joining.rs`.)

use e2e::wait::wait_until;
use serde_json::Value;

use crate::growth::rolled;
use crate::{Place, RECOVERY};

const OPERATION: &str = "shop--scale-out--c-3";

/// It can be nowhere, so its pods wait for a node.
pub(crate) fn a_region_that_leaves_before_it_has_joined_leaves_nothing(place: &Place) {
    let third = "{name: c, placement: {nodeSelector: {topology.kubernetes.io/region: nowhere}}}, {name: b,";
    place.namespace.apply(&rolled().replace("{name: b,", third)).unwrap();
    let phase = |wanted: &'static str| move |operation: &Value| operation["status"]["phase"] == wanted;
    place.namespace.wait("maso", OPERATION, RECOVERY, phase("Running")).unwrap();
    let column = |store: &Value| store["status"]["operation"] == "scale-out c: Provision";
    place.namespace.wait("mas", "shop", RECOVERY, column).unwrap();
    let row =
        place.namespace.wait("masr", "shop--c", RECOVERY, |row| row["status"]["why"].is_string()).unwrap();
    assert!(row["status"]["endpoint"].is_null(), "{row}");
    place.namespace.apply(&rolled()).unwrap();
    place.namespace.wait("maso", OPERATION, RECOVERY, phase("RolledBack")).unwrap();
    let of_c = |kinds: &str| {
        let selector = ["-l", "multiactive.dev/region-id=3", "-o", "name"];
        place.namespace.kubectl(&[&["get", kinds], &selector[..]].concat()).unwrap()
    };
    let kinds = "statefulsets,deployments,pods,storeregions,configmaps,secrets,services,networkpolicies,poddisruptionbudgets";
    wait_until("what was made for it to go", RECOVERY, || {
        let left = of_c(kinds);
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .unwrap();
    place.well("a region left before it had joined");
    let claims = of_c("persistentvolumeclaims");
    assert_eq!(claims.lines().count(), 3, "deletionPolicy: Retain: {claims}");
    place.namespace.kubectl(&["delete", "pvc", "-l", "multiactive.dev/region-id=3"]).unwrap();
}

/// The last ten of a kind are kept.
pub(crate) fn operations_that_ended_long_ago_are_forgotten(place: &Place) {
    let names = || {
        let all = place.namespace.list("maso").unwrap();
        all.iter().map(|of| of["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for n in 10..22 {
        let name = format!("shop--scale-out--x-{n}");
        let labels = "{app.kubernetes.io/managed-by: multiactive-operator, multiactive.dev/store: shop}";
        let spec = "{storeRef: {name: shop}, type: ScaleOut, region: x}";
        let kind = "apiVersion: multiactive.dev/v1alpha1\nkind: StoreOperation";
        let object = format!("{kind}\nmetadata: {{name: {name}, labels: {labels}}}\nspec: {spec}\n");
        place.namespace.apply(&object).unwrap();
        let ended = r#"{"status": {"phase": "RolledBack"}}"#;
        let patch = ["patch", "maso", &name, "--subresource=status", "--type=merge", "-p", ended];
        place.namespace.kubectl(&patch).unwrap();
    }
    wait_until("ten to be left", RECOVERY, || {
        let left = names();
        if left.len() == 10 { Ok(()) } else { Err(left.join(" ")) }
    })
    .unwrap();
    let left = names();
    assert!(
        left.contains(&"shop--scale-out--x-21".to_owned()) && !left.contains(&OPERATION.to_owned()),
        "{left:?}"
    );
    place.namespace.kubectl(&["delete", "maso", "--all"]).unwrap();
}
