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

/// Neither API server nor the other region: clients in the region do not notice, not even those that connect anew by name.
pub(crate) fn a_region_without_the_world_serves_its_clients(place: &Installation) {
    alone(place, "isolated", "U=$URI", || ());
}

/// Nor names: a client that knows the address does not notice, and who has connected keeps the addresses that it knows.
pub(crate) fn a_region_without_names_serves_its_clients(place: &Installation) {
    let cluster = place.namespace.cluster();
    let Some(server) = cluster.name_server("node-2").unwrap() else {
        return println!(
            "skipped: the cluster that KUBECONFIG names has a name server that this cannot stop"
        );
    };
    let resolved = "H=${URI#*@}; H=${H%%:*}; U=$(echo $URI | sed s/$H/$(getent hosts $H | cut -d' ' -f1)/)";
    alone(place, "nameless", resolved, || e2e::process::pause(server).unwrap());
    e2e::process::resume(server).unwrap();
}

const WRITES: usize = 300;

/// Cuts west off from everything for 20 s while a pod there writes, with a connection for each write. Every one must succeed.
fn alone(place: &Installation, name: &str, prepare: &str, meanwhile: impl FnOnce()) {
    let cluster = place.namespace.cluster();
    if cluster.audit().is_none() {
        return println!("skipped: the cluster that KUBECONFIG names has no cables that this can pull");
    }
    let script = format!(
        "{prepare}; i=0; while [ $i -lt {WRITES} ]; do i=$((i+1)); \
         timeout 3 redis-cli --no-auth-warning -u $U set {name}:$i $i 2>&1 || echo failed; sleep 0.1; done"
    );
    place.start_client(name, "west", &script).unwrap();
    let runs = |pod: &Value| pod["status"]["phase"] == "Running";
    place.namespace.wait("pod", name, RECOVERY, runs).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    cluster.tool(&["cut", "node-2"]).unwrap();
    meanwhile();
    std::thread::sleep(Duration::from_secs(20));
    cluster.tool(&["heal", "node-2"]).unwrap();
    let said = place.client_said(name).unwrap();
    let served = said.lines().filter(|line| *line == "OK").count();
    assert_eq!(served, WRITES, "{said}");
    place.namespace.kubectl(&["delete", "pod", name]).unwrap();
    let space = e2e::keyspace::wait_equal(&place.store(), &format!("{name}:*"), RECOVERY).unwrap();
    assert_eq!(space.len(), WRITES);
}
