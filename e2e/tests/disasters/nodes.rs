//! Nodes that are switched off, and volumes that are gone.

use std::time::Duration;

use e2e::cluster::chart::{Installation, RECOVERY};
use e2e::load::Load;
use e2e::wait::wait_until;

/// Its replica has the data: that becomes master, whoever is first.
pub(crate) fn a_master_that_comes_back_empty_wipes_nobody(place: &Installation, _: &Load) {
    let store = place.store();
    let before = store.shard("west", 0).unwrap();
    let master = store.master("west", 0).unwrap();
    let claim = format!("data-{master}");
    place.namespace.kubectl(&["delete", "pvc", &claim, "--wait=false"]).unwrap();
    place.namespace.kubectl(&["delete", "pod", &master, "--grace-period=0", "--force"]).unwrap();
    wait_until("the replica to be promoted, and the other to follow it", RECOVERY, || {
        let now = store.shard("west", 0).map_err(|error| error.to_string())?;
        let other = now["masterPod"].as_str().is_some_and(|pod| pod != master);
        let done = other && now["epoch"].as_u64() > before["epoch"].as_u64() && now["replicasInSync"] == 1;
        if done { Ok(()) } else { Err(now.to_string()) }
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    let claim = place.namespace.get("pvc", &claim).unwrap();
    assert!(claim["metadata"]["deletionTimestamp"].is_null(), "it is a new one: {claim}");
}

pub(crate) fn a_node_that_was_off_comes_back(place: &Installation, _: &Load) {
    let cluster = place.namespace.cluster();
    if cluster.audit().is_none() {
        return println!("skipped: the cluster that KUBECONFIG names has nodes that this cannot switch off");
    }
    cluster.tool(&["stop", "node-2"]).unwrap();
    let silent = |row: &serde_json::Value| row["status"]["phase"] == "Unknown";
    place.namespace.wait("masr", "shop--west", RECOVERY, silent).unwrap();
    std::thread::sleep(Duration::from_secs(10));
    cluster.tool(&["start", "node-2"]).unwrap();
}
