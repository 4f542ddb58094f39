//! What the operator asks of the API server: nothing when nothing changes, and from one operator alone.

use std::time::Duration;

use e2e::cluster::Cluster;
use serde_json::Value;

use crate::{small, wait_reconciled};

/// How long a quiet store is watched.
const QUIET: Duration = Duration::from_secs(20);

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
