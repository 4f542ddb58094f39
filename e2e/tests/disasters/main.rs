//! What happens to stores that run for years, on a Kubernetes with nodes of two regions, from the chart: `make e2e`. (`KUBECONFIG` names
//! another cluster, with nodes of the regions `east` and `west` that have the images; what only the cluster of this repository can do
//! is skipped there, and said.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod brokers;
mod changes;
mod network;
mod nodes;
mod operators;
mod shards;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use e2e::cluster::chart::{Installation, RECOVERY, REGIONS};
use e2e::keyspace;
use e2e::load::{Load, Plan};

const LOAD: Plan<'_> =
    Plan { regions: &REGIONS, writers: 1, prefix: "load", level: &[], pace: Duration::from_millis(10) };

/// One installation for all tests, and one test at a time. It begins with the chart that people may have.
fn installation() -> MutexGuard<'static, Installation> {
    static PLACE: OnceLock<Mutex<Installation>> = OnceLock::new();
    let place = PLACE.get_or_init(|| Mutex::new(Installation::previous().unwrap()));
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "takes some six minutes: `make e2e`"]
fn each_volume_of_a_broker_is_lost() {
    brokers::each_volume_of_a_broker_is_lost(&installation());
}

/// One store that all of it happens to. (A founding takes most of a minute.)
#[test]
#[ignore = "takes some seven minutes: `make e2e`"]
fn everything_that_happens_to_a_store() {
    let place = installation();
    operators::one_that_dies_in_every_phase_founds_the_store(&place);
    place.step("the store was founded by operators of which each died in the next phase");
    under_load(&place, "the previous chart is upgraded to this one", changes::the_chart_is_upgraded);
    under_load(&place, "a shard loads for a while", shards::a_shard_that_loads_is_not_ready);
    under_load(
        &place,
        "a replica that lacks much is promoted",
        shards::a_shard_is_not_writable_before_it_is_complete,
    );
    under_load(
        &place,
        "operators die while a master does",
        operators::a_master_and_the_operators_die_together,
    );
    under_load(&place, "a master comes back empty", nodes::a_master_that_comes_back_empty_wipes_nobody);
    under_load(
        &place,
        "the regions are cut off from each other for a minute",
        network::regions_that_are_cut_off_both_serve,
    );
    network::a_region_without_the_world_serves_its_clients(&place);
    place.step("west was cut off from everything for 20 s: its clients were served");
    network::a_region_without_names_serves_its_clients(&place);
    place.well("west was alone");
    place.step("west was cut off from everything for 20 s, and had no name server: its clients were served");
    under_load(&place, "a node is switched off and on", nodes::a_node_that_was_off_comes_back);
    under_load(&place, "storage grows", changes::claims_grow);
    under_load(
        &place,
        "paused: changes wait, promotions do not",
        changes::a_paused_store_is_promoted_and_not_changed,
    );
    changes::a_second_store_has_data_of_its_own(&place);
    place.step("a second store beside it has data of its own");
    changes::a_namespace_that_is_deleted_goes(&place);
    place.step("the namespace was deleted, and went");
}

/// Nothing that was acknowledged meanwhile may be lost, and both regions must be the same in the end.
fn under_load(place: &Installation, what: &str, happens: fn(&Installation, &Load)) {
    let store = place.store();
    // Keys of another part would be found as surplus.
    let prefix: String =
        what.split(' ').map(|word| word.replace([',', ':'], "")).collect::<Vec<_>>().join("-");
    let load = Load::start(&store, &Plan { prefix: &prefix, ..LOAD }).unwrap();
    flows(place, &load, "the beginning");
    happens(place, &load);
    place.well(what);
    flows(place, &load, what);
    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, &format!("{prefix}:*"), RECOVERY)
        .unwrap_or_else(|error| panic!("after {what}: {error:#}\n{}", place.picture()));
    let findings = report.ledger.check(&space);
    place.step(&format!(
        "{what}: {} writes acknowledged, {} with no known end, longest gap {:.1?}; {findings}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap
    ));
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", place.picture());
}

/// Waits until every writer has written some more.
fn flows(place: &Installation, load: &Load, after: &str) {
    load.wait_for_more(20, RECOVERY)
        .unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", place.picture()));
}
