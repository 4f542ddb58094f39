//! What the operator asks of the API server: nothing when nothing changes, and nothing that its role does not need.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::cluster::Cluster;
use serde_json::Value;

use crate::{small, wait_reconciled};

/// How long a quiet store is watched.
const QUIET: Duration = Duration::from_secs(60);

fn is_write(event: &Value) -> bool {
    !matches!(event["verb"].as_str(), Some("get" | "list" | "watch"))
}

#[test]
fn a_quiet_store_causes_no_writes() {
    let cluster = Cluster::shared();
    if cluster.audit().is_none() {
        println!("skipped: the cluster that KUBECONFIG names writes no log of requests");
        return;
    }
    let namespace = cluster.namespace("quiet").unwrap();
    namespace.apply(&small("")).unwrap();
    let operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    // What the controllers make of it brings some more rounds.
    std::thread::sleep(Duration::from_secs(5));
    let from = namespace.requests_so_far().unwrap();
    std::thread::sleep(QUIET);
    let requests = namespace.requests(from).unwrap();
    let writes: Vec<_> = requests.iter().filter(|event| is_write(event)).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert!(requests.len() < 200, "{} requests in {QUIET:?}: a hot loop?", requests.len());
    // A new operator finds everything as it should be.
    drop(operator);
    let from = namespace.requests_so_far().unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let requests = namespace.requests(from).unwrap();
    assert!(requests.iter().any(|event| event["objectRef"]["resource"] == "statefulsets"), "it has looked");
    let writes: Vec<_> = requests.iter().filter(|event| is_write(event)).collect();
    assert!(writes.is_empty(), "{writes:?}");
}

#[test]
fn the_role_is_exactly_what_is_asked_for() {
    let cluster = Cluster::shared();
    if cluster.audit().is_none() {
        println!("skipped: the cluster that KUBECONFIG names writes no log of requests");
        return;
    }
    let namespace = cluster.namespace("role").unwrap();
    namespace.apply(&small("")).unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    namespace.apply(&small(", proxy: {replicas: 3}")).unwrap();
    wait_reconciled(&namespace, "shop");
    // A region that comes later has a row of its own, whose status is written.
    let record = namespace.get("configmap", "shop--identity").unwrap();
    let text = record["data"]["record.json"].as_str().unwrap();
    let founded = text.replacen('{', "{\"founded\": \"2026-01-01T00:00:00Z\",", 1);
    let patch = serde_json::json!({"data": {"record.json": founded}}).to_string();
    namespace.kubectl(&["patch", "configmap", "shop--identity", "--type=merge", "-p", &patch]).unwrap();
    namespace.apply(&small(", proxy: {replicas: 3}").replace("{name: b}", "{name: b}, {name: c}")).unwrap();
    namespace
        .wait("masr", "shop--c", crate::LIMIT, |row| {
            row["status"]["why"].as_str().is_some_and(|why| why.contains("scale-out"))
        })
        .unwrap();
    let requests = namespace.requests(0).unwrap();
    let denied: Vec<_> = requests.iter().filter(|event| event["responseStatus"]["code"] == 403).collect();
    assert!(denied.is_empty(), "the role lacks a verb: {denied:?}");
    let mut used: BTreeSet<String> = requests.iter().map(right).collect();
    // Applying what is not there yet needs the right to create it.
    let applied: Vec<String> =
        used.iter().filter(|right| right.starts_with("patch ") && !right.contains('/')).cloned().collect();
    used.extend(
        applied
            .iter()
            .filter(|right| !right.contains("multiactivestores"))
            .map(|right| right.replace("patch ", "create ")),
    );
    let role = cluster.get("default", "clusterrole", "multiactive-operator").unwrap();
    let given: BTreeSet<String> = role["rules"].as_array().into_iter().flatten().flat_map(rights).collect();
    let unused: Vec<_> = given.difference(&used).filter(|right| !right.ends_with("finalizers")).collect();
    assert!(unused.is_empty(), "rights that nothing needs: {unused:?}");
}

/// `patch apps/statefulsets`.
fn right(event: &Value) -> String {
    let object = &event["objectRef"];
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let resource = [text("resource"), text("subresource")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    format!("{} {} {resource}", event["verb"].as_str().unwrap_or_default(), text("apiGroup"))
}

fn rights(rule: &Value) -> Vec<String> {
    let words = |name: &str| -> Vec<String> {
        rule[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect()
    };
    let mut all = Vec::new();
    for verb in words("verbs") {
        for group in words("apiGroups") {
            all.extend(words("resources").iter().map(|resource| format!("{verb} {group} {resource}")));
        }
    }
    all
}
