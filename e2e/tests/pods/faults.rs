//! Masters, brokers, proxies and operators are killed under load: they come back, and nothing that was acknowledged is lost.

use std::time::Duration;

use e2e::cluster::Deployed;
use e2e::keyspace;
use e2e::load::{Endpoints as _, Load, Plan};
use redis::Commands as _;

use crate::{Place, RECOVERY};

const PLAN: Plan<'_> =
    Plan { regions: &["a", "b"], writers: 2, prefix: "load", level: &[], pace: Duration::from_millis(5) };

pub(crate) fn what_is_killed_comes_back_and_nothing_is_lost(place: &mut Place) {
    let store = Deployed::new(&place.namespace, "shop", &["a", "b"]);
    let load = Load::start(&store, &PLAN).unwrap();
    let epoch = || store.epoch("a", 0).unwrap();
    let well = |what: &str| {
        place.well(what);
        load.wait_for_more(50, RECOVERY)
            .unwrap_or_else(|error| panic!("after {what}: {error:#}\n{}", place.picture()));
    };
    let raised = |what: &str, from: u64| {
        store
            .wait_epoch_above(from, "a", 0, RECOVERY)
            .unwrap_or_else(|error| panic!("after {what}: {error:#}\n{}", place.picture()));
        well(what);
    };
    well("the beginning");

    // The master's process ends: it starts again in place, and serves again under a new epoch.
    let before = epoch();
    let master = store.master("a", 0).unwrap();
    store.kill(&master, "redis").unwrap();
    raised("the master's process was killed", before);

    // The master's pod goes: whoever has most is master.
    let before = epoch();
    let master = store.master("a", 0).unwrap();
    place.namespace.kubectl(&["delete", "pod", &master, "--grace-period=0", "--force"]).unwrap();
    raised("the master's pod was deleted", before);

    store.kill("shop--b--broker-0", "broker").unwrap();
    well("a broker was killed");
    let selector = "multiactive.dev/region=b,app.kubernetes.io/component=proxy";
    place.namespace.kubectl(&["delete", "pods", "-l", selector, "--wait=false"]).unwrap();
    well("a proxy was deleted");

    // An operator that froze, and woke up when another one led, does no harm; nor does one that hears of everything late.
    e2e::process::pause(place.operator.pid()).unwrap();
    let second = place.namespace.operator(&["--identity", "second", "--delay-watches", "2000"]).unwrap();
    let leads = |lease: &serde_json::Value| lease["spec"]["holderIdentity"] == "second";
    place.namespace.wait("lease", "multiactive-operator", RECOVERY, leads).unwrap();
    let before = epoch();
    let master = store.master("a", 0).unwrap();
    store.kill(&master, "redis").unwrap();
    raised("the master was killed under the second operator", before);
    let (before, master) = (epoch(), store.master("a", 0).unwrap());
    e2e::process::resume(place.operator.pid()).unwrap();
    well("the first operator woke up");
    assert_eq!((epoch(), store.master("a", 0).unwrap()), (before, master), "{}", second.log());

    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, "load:*", RECOVERY).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "{} writes acknowledged, {} with no known end, longest gap {:?}; {findings}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", place.picture());
    place.operator = second;
}

/// Unreachable is unknown, and not gone: nothing is done about it, and the other region serves.
pub(crate) fn a_region_that_is_silent_is_left_alone(place: &Place) {
    let cluster = place.namespace.cluster();
    if cluster.audit().is_none() {
        println!("skipped: the cluster that KUBECONFIG names has no cable to pull");
        return;
    }
    let store = place.store();
    let phase = |wanted: &'static str| move |row: &serde_json::Value| row["status"]["phase"] == wanted;
    let before = store.shard("b", 0).unwrap();
    cluster.tool(&["cut", "node-2"]).unwrap();
    let row = place.namespace.wait("masr", "shop--b", RECOVERY, phase("Unknown")).unwrap();
    let conditions = row["status"]["conditions"].as_array().unwrap();
    let reachable = conditions.iter().find(|condition| condition["type"] == "Reachable").unwrap();
    assert_eq!(reachable["status"], "Unknown", "{row}");
    let () = store.connect_to("a").unwrap().set("during", "the cut").unwrap();
    let mas = place.namespace.get("mas", "shop").unwrap();
    assert!(mas["status"]["why"].as_str().is_some_and(|why| why.contains("b is Unknown")), "{mas}");
    cluster.tool(&["heal", "node-2"]).unwrap();
    place.well("the cut");
    let after = store.shard("b", 0).unwrap();
    let same = |field: &str| assert_eq!(before[field], after[field], "{field}");
    ["epoch", "incarnation", "masterPod"].into_iter().for_each(same);
    keyspace::wait_equal(&store, "during", RECOVERY).unwrap();
}
