//! Masters, brokers, proxies and operators are killed under load: they come back, and nothing that was acknowledged is lost.

use std::time::Duration;

use e2e::cluster::Deployed;
use e2e::keyspace;
use e2e::load::{Load, Plan};
use e2e::wait::wait_until;

use crate::{Place, RECOVERY};

const PLAN: Plan<'_> =
    Plan { regions: &["a", "b"], writers: 2, prefix: "load", level: &[], pace: Duration::from_millis(5) };

pub(crate) fn what_is_killed_comes_back_and_nothing_is_lost(place: &mut Place) {
    let store = Deployed::new(&place.namespace, "shop", &["a", "b"]);
    let load = Load::start(&store, &PLAN).unwrap();
    let epoch = || store.shard("a", 0).unwrap()["epoch"].as_u64().unwrap_or_default();
    let well = |what: &str| {
        place.well(what);
        load.wait_for_more(50, RECOVERY)
            .unwrap_or_else(|error| panic!("after {what}: {error:#}\n{}", place.picture()));
    };
    let raised = |what: &str, from: u64| {
        wait_until("a new epoch", RECOVERY, || {
            if epoch() > from { Ok(()) } else { Err(format!("it is {}", epoch())) }
        })
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
