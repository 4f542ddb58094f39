//! What the operator asks of the API server: nothing when nothing changes, and nothing that its role does not need.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::cluster::Cluster;
use e2e::wait::wait_until;
use serde_json::Value;

use crate::{small, wait_reconciled};

/// How long a quiet store is watched.
const QUIET: Duration = Duration::from_secs(60);

/// The Lease aside.
fn is_write(event: &Value) -> bool {
    event["objectRef"]["resource"] != "leases"
        && !matches!(event["verb"].as_str(), Some("get" | "list" | "watch"))
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
    let mut operator = namespace.operator(&[]).unwrap();
    wait_reconciled(&namespace, "shop");
    // What the controllers make of it brings some more rounds.
    std::thread::sleep(Duration::from_secs(5));
    let from = namespace.requests_so_far().unwrap();
    std::thread::sleep(QUIET);
    let requests = namespace.requests(from).unwrap();
    let writes: Vec<_> = requests.iter().filter(|event| is_write(event)).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert!(requests.len() < 200, "{} requests in {QUIET:?}: a hot loop?", requests.len());
    // A new operator finds everything as it should be. (The first one gives its lease up.)
    operator.terminate().unwrap();
    assert!(operator.wait_end(crate::LIMIT).unwrap(), "{}", operator.log());
    let from = namespace.requests_so_far().unwrap();
    let _operator = namespace.operator(&[]).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let requests = namespace.requests(from).unwrap();
    assert!(requests.iter().any(|event| event["objectRef"]["resource"] == "statefulsets"), "it has looked");
    let writes: Vec<_> = requests.iter().filter(|event| is_write(event)).collect();
    assert!(writes.is_empty(), "{writes:?}");
}

#[test]
fn the_roles_are_exactly_what_is_asked_for() {
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
    let requests = wait_until("a renewed lease", crate::LIMIT, || {
        let requests = namespace.requests(0).map_err(|error| error.to_string())?;
        let renewed = requests.iter().any(|event| right(event).starts_with("update "));
        if renewed { Ok(requests) } else { Err("none yet".to_owned()) }
    })
    .unwrap();
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
    let given: BTreeSet<String> = ["multiactive-operator", "multiactive-operator-lease"]
        .iter()
        .flat_map(|role| cluster.get("default", "clusterrole", role).unwrap()["rules"].as_array().cloned())
        .flatten()
        .flat_map(|rule| rights(&rule))
        .collect();
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

#[test]
fn of_two_operators_one_acts() {
    let namespace = Cluster::shared().namespace("leader").unwrap();
    let holder = |name: &str| {
        let is = |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default() == name;
        namespace.wait("lease", "multiactive-operator", crate::LIMIT, is).unwrap();
    };
    let first = namespace.operator(&["--identity", "first"]).unwrap();
    holder("first");
    let mut second = namespace.operator(&["--identity", "second"]).unwrap();
    namespace.apply(&small("")).unwrap();
    wait_reconciled(&namespace, "shop");
    assert!(second.log().contains("another operator leads: waiting"), "{}", second.log());
    // Killed, it holds the lease for a while; then the other one goes on.
    drop(first);
    namespace.apply(&small(", proxy: {replicas: 3}")).unwrap();
    holder("second");
    namespace.wait("deployment", "shop--a--proxy", crate::LIMIT, |d| d["spec"]["replicas"] == 3).unwrap();
    // One that was frozen for longer than its lease ends when it wakes up.
    e2e::process::pause(second.pid()).unwrap();
    let third = namespace.operator(&["--identity", "third"]).unwrap();
    holder("third");
    e2e::process::resume(second.pid()).unwrap();
    assert!(!second.wait_end(crate::LIMIT).unwrap());
    assert!(second.log().contains("the lease was lost"), "{}", second.log());
    // One that is told to end gives the lease up.
    third.terminate().unwrap();
    holder("");
}
