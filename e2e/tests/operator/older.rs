//! Objects that were stored before the definitions had today's schema, defaults and rules. In a cluster of its own: definitions are the
//! cluster's.

use e2e::cluster::Cluster;
use serde_json::json;

use crate::{LIMIT, condition, manifest, small, wait_reconciled};

#[test]
fn older_objects_are_served_or_say_what_to_mend() {
    if std::env::var_os("KUBECONFIG").is_some() {
        println!("skipped: the definitions of the cluster that KUBECONFIG names are left alone");
        return;
    }
    let cluster = Cluster::fresh();
    let mut definition = cluster.get("default", "crd", "multiactivestores.multiactive.dev").unwrap();
    // As an older version may have been: nothing was checked and nothing filled in.
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    definition["metadata"] = json!({"name": definition["metadata"]["name"]});
    cluster.kubectl(&["delete", "crd", "multiactivestores.multiactive.dev"]).unwrap();
    // Without any, masctl says what to install.
    let nowhere = cluster.namespace("nowhere").unwrap();
    e2e::wait::wait_until("the definition's end", LIMIT, || {
        let said = nowhere.masctl(&["status"]).map_err(|error| error.to_string())?;
        let is_known = said.code == Some(1) && said.err.contains("operator crds | kubectl apply");
        if is_known { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .unwrap();
    cluster.apply("default", &definition.to_string()).unwrap();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).unwrap();
    let namespace = cluster.namespace("older").unwrap();
    let legacy = small(", legacy: {field: 1}");
    e2e::wait::wait_until("the older definition", LIMIT, || {
        namespace.apply(&legacy).map_err(|e| e.to_string())
    })
    .unwrap();
    let two_of_one_name = "{regions: [{name: a}, {name: a}], broker: {replicas: 2}}";
    namespace.apply(&manifest("odd", two_of_one_name)).unwrap();

    cluster.install().unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    let shop = wait_reconciled(&namespace, "shop");
    assert_eq!(condition(&shop, "Progressing")["reason"], "Reconciled");
    assert_eq!(shop["spec"]["deletionPolicy"], "Retain", "defaults are there when it is read");
    namespace.get("statefulset", "shop--b--shard-0-redis").unwrap();

    let refused = |store: &serde_json::Value| condition(store, "Progressing")["reason"] == "InvalidSpec";
    let odd = namespace.wait("mas", "odd", LIMIT, refused).unwrap();
    let why = odd["status"]["why"].as_str().unwrap();
    assert!(why.contains("spec.broker.replicas") && why.contains("write 1, 3 or 5"), "{why}");
    let sets = namespace.list("statefulsets").unwrap();
    assert!(sets.iter().all(|set| !set["metadata"]["name"].as_str().unwrap().starts_with("odd")));
    namespace.kubectl(&["delete", "mas", "odd"]).unwrap();
    namespace.apply(&manifest("odd", "{regions: [{name: a}, {name: b}], broker: {replicas: 1}}")).unwrap();
    namespace.wait("statefulset", "odd--a--broker", LIMIT, |_| true).unwrap();
}
