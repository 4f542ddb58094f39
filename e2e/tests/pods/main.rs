//! The operator on a Kubernetes with nodes: real kubelets run the images' real redis-servers, RabbitMQ brokers and proxies. Two nodes
//! are two regions. (`KUBECONFIG` names another cluster.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deletion;
mod faults;
mod growth;
mod joining;
mod orders;
mod people;
mod rights;
mod story;
mod verification;

use std::time::Duration;

use e2e::cluster::{Cluster, Deployed, Namespace, Operator};
use e2e::wait::wait_until;

/// How long a store may take to be there, images and volumes included.
const FOUNDING: Duration = Duration::from_mins(4);
/// How long it may take to be well again after something bad.
const RECOVERY: Duration = Duration::from_mins(2);

/// A small store, one region on each node.
fn manifest(name: &str, more: &str) -> String {
    let region = |name: &str, node: u8| {
        format!(
            "{{name: {name}, placement: {{nodeSelector: {{topology.kubernetes.io/region: region-{node}}}}}}}"
        )
    };
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: {name}}}\nspec: {{regions: [{}, {}], \
         broker: {{replicas: 1, storage: {{size: 8Gi}}, resources: {SMALL}}}, redis: {{maxMemory: 64Mi, resources: {SMALL}}}, \
         proxy: {{replicas: 1, resources: {SMALL}}}, replication: {{retention: {{bytes: 512Mi}}}}{more}}}\n",
        region("a", 1),
        region("b", 2),
    )
}

/// Two cores are all there is.
const SMALL: &str = "{requests: {cpu: 50m}}";

/// One store, from its founding to its end. (A founding takes most of a minute: the parts of this story share one.)
#[test]
fn the_life_of_a_store() {
    let mut place = Place::found();
    story::a_manifest_becomes_a_store_that_is_written_in_both_regions(&place);
    people::exact_numbers_come_from_the_proxies(&place);
    people::a_support_bundle_tells_all_but_passwords(&place);
    verification::what_differs_is_found_on_schedule_told_and_repaired(&mut place);
    story::a_row_that_is_deleted_is_made_anew(&place);
    faults::what_is_killed_comes_back_and_nothing_is_lost(&mut place);
    story::what_happened_is_told_in_events(&place);
    faults::a_region_that_is_silent_is_left_alone(&place);
    growth::claims_grow_around_running_pods(&mut place);
    growth::what_needs_a_restart_is_restarted_one_by_one(&mut place);
    orders::what_people_order_is_done_once_and_nothing_is_lost(&mut place);
    people::a_copy_that_cannot_be_used_is_put_away_on_order(&mut place);
    joining::a_region_that_leaves_before_it_has_joined_leaves_nothing(&place);
    joining::operations_that_ended_long_ago_are_forgotten(&place);
    rights::what_is_wrong_is_told_in_an_event(&place);
    deletion::what_is_retained_is_there_again(&place);
    deletion::with_delete_nothing_is_left(&place);
    rights::the_roles_are_exactly_what_was_asked_for(&place.namespace);
}

/// Runs operators of which each is killed right after its first few writes, until something is done, so the store goes through many pictures
/// that a crash can leave. Returns how many were killed. (A promotion takes two writes: who is always killed after one never gets to it.)
fn crash_until(namespace: &Namespace, what: &str, is_done: &dyn Fn() -> bool) -> u64 {
    let mut crashes = 0;
    while !is_done() {
        if crashes == 200 {
            let said = namespace.kubectl(&["get", "mas,masr,pods", "-o", "yaml"]).unwrap();
            panic!("{what}: not done after {crashes} crashes: {said}");
        }
        let lease = format!("{what}-{crashes}");
        // The first write is that of the lease.
        let writes = (2 + crashes % 4).to_string();
        let mut operator = namespace.operator(&["--crash-after", &writes, "--lease", &lease]).unwrap();
        let ended = wait_until("a crash, or the end", FOUNDING, || {
            if operator.wait_end(Duration::ZERO).is_ok() || is_done() {
                return Ok(());
            }
            Err("neither".to_owned())
        });
        ended.unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log()));
        crashes += 1;
    }
    println!("{what}: done after {crashes} crashes");
    crashes
}

/// A namespace with a store that is active, and its operator.
struct Place {
    namespace: Namespace,
    operator: Operator,
}

impl Place {
    /// Founds the store, through crashes.
    fn found() -> Self {
        let namespace = Cluster::with_nodes().namespace("life").unwrap();
        namespace.apply(&manifest("shop", "")).unwrap();
        let store = Deployed::new(&namespace, "shop", &["a", "b"]);
        let crashes = crash_until(&namespace, "founding", &|| store.wait_active(Duration::ZERO).is_ok());
        assert!(crashes > 20, "{crashes} crashes: more was to be written");
        let operator = namespace.operator(&["--identity", "first"]).unwrap();
        let place = Self { namespace, operator };
        place.well("the founding");
        place
    }

    /// Waits until all is well.
    fn well(&self, after: &str) {
        let well = self.store().wait_active(RECOVERY);
        well.unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", self.picture()));
    }

    fn store(&self) -> Deployed<'_> {
        Deployed::new(&self.namespace, "shop", &["a", "b"])
    }

    /// For a person who looks for what went wrong.
    fn picture(&self) -> String {
        let ask = |args: &[&str]| self.namespace.kubectl(args).unwrap_or_else(|error| error.to_string());
        format!(
            "{}\n{}\n{}",
            ask(&["get", "mas,masr,pods", "-o", "wide"]),
            ask(&["get", "events", "--sort-by=.lastTimestamp"]),
            self.operator.log()
        )
    }
}
