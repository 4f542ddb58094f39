//! What users get, as they get it: the chart, the images and an example's manifest, on a Kubernetes with nodes of two regions.
//! (`KUBECONFIG` names another cluster, with nodes of the regions `east` and `west` that have the images.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::cluster::chart::{EXAMPLE, FOUNDING, Installation, RECOVERY, REGIONS};
use e2e::keyspace;
use e2e::load::{Endpoints as _, Load, Plan};
use e2e::wait::wait_until;
use redis::Commands as _;

const LOAD: Plan<'_> =
    Plan { regions: &REGIONS, writers: 2, prefix: "load", level: &[], pace: Duration::from_millis(5) };

/// Characters of a password.
const PASSWORD: usize = 32;

/// One installation, from the chart to what is left when the chart is gone. (A founding takes most of a minute.)
#[test]
fn from_the_chart_to_data_that_outlives_store_and_chart() {
    let place = Installation::new().unwrap();
    place.namespace.apply(EXAMPLE).unwrap();
    place.well_within(FOUNDING, "the manifest was applied");
    place.step("the store is Active in both regions");
    passwords_are_in_secrets_and_files_alone(&place);
    place.step("no password is in an object, a command line or an environment");
    clients_in_the_cluster_write_in_one_region_and_read_in_the_other(&place);
    place.step("a pod wrote in east, a pod read it in west");
    what_is_deleted_under_load_loses_nothing(&place);
    place.step("a proxy, a broker and a master were deleted under load");
    a_store_that_is_deleted_and_applied_again_has_its_data(&place);
    place.step("the store was deleted and applied again");
    stores_outlive_the_chart(&place);
    place.step("the chart was uninstalled and installed again");
}

/// Whoever may list pods, or processes on a node, sees none.
fn passwords_are_in_secrets_and_files_alone(place: &Installation) {
    let secrets = place.namespace.list("secrets").unwrap();
    let values = secrets.iter().filter_map(|secret| secret["data"].as_object()).flatten();
    let decoded = values.filter_map(|(name, value)| {
        let text = e2e::cluster::decode(value.as_str()?).ok()?;
        (name.contains("password") || text.len() == PASSWORD && !text.contains(char::is_whitespace))
            .then_some(text)
    });
    let passwords: std::collections::BTreeSet<String> = decoded.collect();
    assert!(
        passwords.len() >= 4,
        "the credentials of engine, proxies, peers and applications: {}",
        passwords.len()
    );
    let told = |text: &str| passwords.iter().any(|password| text.contains(password));
    for kinds in ["pods", "statefulsets", "deployments", "configmaps", "mas,masr", "events"] {
        let text = place.namespace.kubectl(&["get", kinds, "-o", "json"]).unwrap();
        assert!(!told(&text), "a password is in {kinds}");
    }
    assert!(!told(&place.chart.log()), "a password is in the operator's log");
    if place.namespace.cluster().audit().is_none() {
        return println!(
            "skipped: the processes of the cluster that KUBECONFIG names are not on this machine"
        );
    }
    let mut looked_at = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(process.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            looked_at += usize::from(text.contains("redis-server") || text.contains("mas-proxy"));
            assert!(
                !told(&text),
                "a password is in {file} of {}",
                text.split('\0').next().unwrap_or_default()
            );
        }
    }
    assert!(looked_at >= 8, "servers and proxies of two regions: {looked_at}");
}

fn clients_in_the_cluster_write_in_one_region_and_read_in_the_other(place: &Installation) {
    place
        .start_client("writer", "east", "redis-cli --no-auth-warning -u $URI set greeting hello-from-east")
        .unwrap();
    assert_eq!(place.client_said("writer").unwrap().trim(), "OK");
    let script = "for i in $(seq 100); do v=$(redis-cli --no-auth-warning -u $URI get greeting); [ -n \"$v\" ] && break; sleep 0.1; done; echo $v";
    place.start_client("reader", "west", script).unwrap();
    assert_eq!(place.client_said("reader").unwrap().trim(), "hello-from-east");
    for pod in ["writer", "reader"] {
        place.namespace.kubectl(&["delete", "pod", pod]).unwrap();
    }
}

fn what_is_deleted_under_load_loses_nothing(place: &Installation) {
    let store = place.store();
    let load = Load::start(&store, &LOAD).unwrap();
    let flows = |what: &str| {
        place.well(what);
        load.wait_for_more(50, RECOVERY)
            .unwrap_or_else(|error| panic!("after {what}: {error:#}\n{}", place.picture()));
    };
    flows("the beginning");
    let proxies = "multiactive.dev/region=east,app.kubernetes.io/component=proxy";
    let proxy = place.namespace.kubectl(&["get", "pods", "-l", proxies, "-o", "name"]).unwrap();
    place.namespace.kubectl(&["delete", proxy.lines().next().unwrap()]).unwrap();
    flows("a proxy was deleted");
    place.namespace.kubectl(&["delete", "pod", "shop--east--broker-0"]).unwrap();
    flows("a broker was deleted");
    let before = store.epoch("west", 0).unwrap();
    let master = store.master("west", 0).unwrap();
    place.namespace.kubectl(&["delete", "pod", &master]).unwrap();
    store
        .wait_epoch_above(before, "west", 0, RECOVERY)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    flows("a master was deleted");
    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, "load:*", RECOVERY).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "         {} writes acknowledged, {} with no known end, longest gap {:?}; {findings}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", place.picture());
}

fn a_store_that_is_deleted_and_applied_again_has_its_data(place: &Installation) {
    let store = place.store();
    let before = keyspace::wait_equal(&store, "load:*", RECOVERY).unwrap();
    place.namespace.kubectl(&["delete", "mas", "shop"]).unwrap();
    let selector = "multiactive.dev/store=shop";
    place.namespace.kubectl(&["wait", "--for=delete", "pods", "-l", selector, "--timeout=120s"]).unwrap();
    assert!(!place.namespace.list("persistentvolumeclaims").unwrap().is_empty(), "Retain is the default");
    place.namespace.apply(EXAMPLE).unwrap();
    place.well("it was applied again");
    assert_eq!(keyspace::wait_equal(&store, "load:*", RECOVERY).unwrap(), before);
}

/// Whoever uninstalls an operator loses the operator, and no data.
fn stores_outlive_the_chart(place: &Installation) {
    let store = place.store();
    let pods = || -> Vec<String> {
        let pods = place.namespace.list("pods").unwrap();
        let mut uids: Vec<_> = pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
        uids.sort();
        uids
    };
    let before = pods();
    place.chart.uninstall().unwrap();
    let () = store.connect_to("east").unwrap().set("without", "operator").unwrap();
    let space = keyspace::wait_equal(&store, "without", RECOVERY).unwrap();
    assert_eq!(space.len(), 1);
    assert_eq!(place.namespace.get("mas", "shop").unwrap()["status"]["regionsActive"], "2/2");
    place.chart.upgrade(&[]).unwrap();
    let master = store.master("east", 0).unwrap();
    place.namespace.kubectl(&["delete", "pod", &master]).unwrap();
    wait_until("the new operator to promote", RECOVERY, || {
        let row = store.shard("east", 0).map_err(|error| error.to_string())?;
        let () = store
            .connect_to("east")
            .and_then(|mut east| Ok(east.set("with", "operator")?))
            .map_err(|error| format!("{error:#}; {row}"))?;
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
    place.well("the chart was installed again");
    let after = pods();
    let same = before.iter().filter(|uid| after.contains(uid)).count();
    assert!(same + 1 >= before.len(), "pods were made anew: {before:?} {after:?}");
}
