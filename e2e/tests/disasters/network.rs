//! Networks that are cut.

use std::time::Duration;

use e2e::cluster::chart::{Installation, RECOVERY};
use e2e::load::Load;
use serde_json::Value;

fn link_is_broken(row: &Value) -> bool {
    let state = row["status"]["links"][0]["state"].as_str().unwrap_or_default();
    row["status"]["phase"] == "Unknown" || !["Connected", "Standby", ""].contains(&state)
}

pub(crate) fn regions_that_are_cut_off_both_serve(place: &Installation, load: &Load) {
    let cluster = place.namespace.cluster();
    if cluster.audit().is_none() {
        return println!("skipped: the cluster that KUBECONFIG names has no cables that this can pull");
    }
    cluster.tool(&["cut", "node-2", "--peers"]).unwrap();
    // The operators are in one of the regions, and do not reach the other: that one is Unknown to them. Its peer says so of the link.
    for region in ["shop--east", "shop--west"] {
        place.namespace.wait("masr", region, RECOVERY, link_is_broken).unwrap();
    }
    let mas = place.namespace.get("mas", "shop").unwrap();
    assert!(mas["status"]["why"].is_string(), "{mas}");
    std::thread::sleep(Duration::from_mins(1));
    crate::flows(place, load, "a minute without each other");
    cluster.tool(&["heal", "node-2"]).unwrap();
}

/// Neither API server, nor names of others, nor the other region: a client in the region does not notice.
pub(crate) fn a_region_without_the_world_serves_its_clients(place: &Installation) {
    let cluster = place.namespace.cluster();
    if cluster.audit().is_none() {
        return println!("skipped: the cluster that KUBECONFIG names has no cables that this can pull");
    }
    // A connection each, and a name each: what an application does that is started meanwhile. Says when it was served, and whether it was.
    let script = "i=0; while [ $i -lt 450 ]; do i=$((i+1)); \
                  if [ \"$(timeout 3 redis-cli --no-auth-warning -u $URI set isolated:$i $i 2>&1)\" = OK ]; then echo ok; else echo failed; fi; sleep 0.1; done";
    place.start_client("isolated", "west", script).unwrap();
    let runs = |pod: &Value| pod["status"]["phase"] == "Running";
    place.namespace.wait("pod", "isolated", RECOVERY, runs).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    cluster.tool(&["cut", "node-2"]).unwrap();
    std::thread::sleep(Duration::from_secs(30));
    cluster.tool(&["heal", "node-2"]).unwrap();
    let said = place.client_said("isolated").unwrap();
    let failed = said.lines().filter(|line| *line != "ok").count();
    assert!(said.lines().count() == 450, "{said}");
    assert!(failed == 0, "{failed} of 450 writes failed while the region was alone");
    place.namespace.kubectl(&["delete", "pod", "isolated"]).unwrap();
    place.well("west was alone");
    let space = e2e::keyspace::wait_equal(&place.store(), "isolated:*", RECOVERY).unwrap();
    assert_eq!(space.len(), 450);
}
