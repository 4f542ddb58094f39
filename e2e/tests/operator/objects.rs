//! The objects of a store: made, kept as they should be, and left alone where they are somebody else's.

use e2e::cluster::Cluster;
use serde_json::json;

use crate::{LIMIT, condition, picture, small, wait_reconciled};

#[test]
fn a_manifest_becomes_objects_that_the_restricted_standard_admits() {
    let namespace = Cluster::shared().namespace("objects").unwrap();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    let store = wait_reconciled(&namespace, "shop");
    assert_eq!(store["spec"]["release"], "1", "pinned");
    assert_eq!(store["status"]["regionsActive"], "0/2");
    assert_eq!(condition(&store, "Available")["status"], "False");
    assert_eq!(store["status"]["regions"][1]["binding"]["name"], "shop--b--app");
    let kinds = |kind: &str| namespace.list(kind).unwrap().len();
    assert_eq!((kinds("statefulsets"), kinds("deployments"), kinds("poddisruptionbudgets")), (4, 2, 6));
    assert_eq!((kinds("networkpolicies"), kinds("storeregions"), kinds("services")), (6, 2, 6));
    // The controllers make the pods; the namespace admits none that is not restricted.
    let pods =
        namespace.wait("statefulset", "shop--a--shard-0-redis", LIMIT, |set| set["status"]["replicas"] == 2);
    pods.unwrap();
    e2e::wait::wait_until("all pods", LIMIT, || {
        let pods = namespace.list("pods").map_err(|error| error.to_string())?;
        if pods.len() == 2 * (2 + 1 + 2) { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    })
    .unwrap();
    for pod in namespace.list("pods").unwrap() {
        let text = pod.to_string();
        assert!(!text.contains("password") && !text.contains("AUTH"), "a password in {text}");
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    }
    let table = namespace.kubectl(&["get", "mas,masr"]).unwrap();
    assert!(
        table.contains("a is Provisioning (shop--a--shard-0-redis-0 does not answer yet); b is Provisioning"),
        "{table}"
    );
}

#[test]
fn drift_is_repaired_and_foreign_fields_survive() {
    let namespace = Cluster::shared().namespace("drift").unwrap();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    let before = picture(&namespace);
    let scale = json!({"spec": {"replicas": 7}, "metadata": {"annotations": {"example.com/mine": "yes"}}});
    namespace
        .kubectl(&["patch", "deployment", "shop--a--proxy", "--type=merge", "-p", &scale.to_string()])
        .unwrap();
    namespace.kubectl(&["delete", "service", "shop--b", "--wait=true"]).unwrap();
    let text = json!({"data": {"redis.conf": "port 1"}});
    namespace
        .kubectl(&["patch", "configmap", "shop--a--shard-0-redis", "--type=merge", "-p", &text.to_string()])
        .unwrap();
    let deployment =
        namespace.wait("deployment", "shop--a--proxy", LIMIT, |d| d["spec"]["replicas"] == 2).unwrap();
    assert_eq!(deployment["metadata"]["annotations"]["example.com/mine"], "yes");
    namespace.wait("service", "shop--b", LIMIT, |_| true).unwrap();
    namespace
        .wait("configmap", "shop--a--shard-0-redis", LIMIT, |map| {
            map["data"]["redis.conf"].as_str().is_some_and(|text| text.contains("port 6379"))
        })
        .unwrap();
    assert_eq!(picture(&namespace), before);
}

#[test]
fn what_belongs_to_somebody_else_is_left_alone() {
    let namespace = Cluster::shared().namespace("conflict").unwrap();
    namespace.kubectl(&["create", "configmap", "shop--a--broker", "--from-literal=mine=yes"]).unwrap();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    let store = wait_reconciled(&namespace, "shop");
    let progressing = condition(&store, "Progressing");
    assert_eq!((&progressing["reason"], &progressing["status"]), (&json!("NameConflict"), &json!("False")));
    let words = progressing["message"].as_str().unwrap();
    assert!(words.starts_with("ConfigMap shop--a--broker belong"), "{words}");
    assert_eq!(namespace.get("configmap", "shop--a--broker").unwrap()["data"], json!({"mine": "yes"}));
}

#[test]
fn deletion_keeps_or_takes_what_the_policy_says() {
    for (policy, kept) in [("Retain", true), ("Delete", false)] {
        let namespace = Cluster::shared().namespace("delete").unwrap();
        let text = small(&format!(", deletionPolicy: {policy}"));
        namespace.apply(&text).unwrap();
        let _operator = namespace.operator(&[]).unwrap();
        wait_reconciled(&namespace, "shop");
        let secret = |name: &str| namespace.get("secret", name).ok().map(|secret| secret["data"].clone());
        let passwords = secret("shop--credentials").unwrap();
        namespace.kubectl(&["delete", "mas", "shop", "--wait=true"]).unwrap();
        let gone = |kind: &str, name: &str| {
            e2e::wait::wait_until(&format!("the end of {kind} {name}"), LIMIT, || {
                let list = namespace.list(kind).map_err(|error| error.to_string())?;
                let there = list.iter().any(|object| object["metadata"]["name"] == name);
                if there { Err("it is there".to_owned()) } else { Ok(()) }
            })
            .unwrap();
        };
        gone("statefulset", "shop--a--shard-0-redis");
        gone("secret", "shop--a--app");
        gone("storeregion", "shop--a");
        if !kept {
            gone("secret", "shop--credentials");
            gone("configmap", "shop--identity");
            continue;
        }
        assert_eq!(secret("shop--credentials").as_ref(), Some(&passwords));
        // Made again it is the same store.
        namespace.apply(&text).unwrap();
        wait_reconciled(&namespace, "shop");
        assert_eq!(secret("shop--credentials").as_ref(), Some(&passwords));
        // And no other one takes its data.
        namespace.kubectl(&["delete", "mas", "shop", "--wait=true"]).unwrap();
        namespace.apply(&small(&format!(", shards: 2, deletionPolicy: {policy}"))).unwrap();
        let store = namespace
            .wait("mas", "shop", LIMIT, |store| {
                condition(store, "Progressing")["reason"] == "RetainedDataMismatch"
            })
            .unwrap();
        let why = store["status"]["why"].as_str().unwrap();
        assert!(why.contains("the volumes hold 1 shards") && why.contains("write spec.shards: 1"), "{why}");
    }
}
