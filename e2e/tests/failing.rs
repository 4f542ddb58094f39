//! What fails in a region of two nodes, under load: the node of a master, and the API server while both copies of a shard die: `make e2e`.
//! (`KUBECONFIG` names a cluster that this cannot do these things to: skipped there, and said.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Deployed, Namespace, Operator};
use e2e::keyspace;
use e2e::load::{Load, Plan};
use e2e::process;
use e2e::wait::wait_until;
use serde_json::Value;

/// How long a store may take to be there, images and volumes included.
const FOUNDED: Duration = Duration::from_mins(6);
/// How long anything else may take. Kubernetes gives a node up after most of a minute.
const RECOVERY: Duration = Duration::from_mins(4);
/// Two cores are all there is.
const SMALL: &str = "{requests: {cpu: 50m}}";
const REGIONS: [&str; 2] = ["a", "b"];
const SHARD: &str = "shop--a--shard-0-redis";

/// Region `a` has two nodes, `b` one.
fn manifest() -> String {
    let on = |nodes: &str| {
        format!(
            "{{affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchExpressions: [{{key: \
             topology.kubernetes.io/region, operator: In, values: [{nodes}]}}]}}]}}}}}}}}"
        )
    };
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: shop}}\nspec: {{regions: [{{name: a, placement: {}}}, \
         {{name: b, placement: {}}}], broker: {{replicas: 1, storage: {{size: 8Gi}}, resources: {SMALL}}}, \
         redis: {{maxMemory: 64Mi, resources: {SMALL}}}, proxy: {{replicas: 2, resources: {SMALL}}}, \
         replication: {{retention: {{bytes: 512Mi}}}}}}\n",
        on("region-1, region-3"),
        on("region-2")
    )
}

/// One store that both happens to. (A founding takes most of a minute.)
#[test]
#[ignore = "takes some five minutes: `make e2e`"]
fn a_region_of_two_nodes_goes_on_with_one() {
    let Some(cluster) = Cluster::with_three_nodes().filter(|cluster| cluster.audit().is_some()) else {
        println!("skipped: the cluster that KUBECONFIG names has nodes that this cannot switch off");
        return;
    };
    let mut place = Place::found(cluster);
    place.both_copies_die_while_the_api_server_is_away();
    place.the_node_of_a_master_is_switched_off();
}

struct Place {
    namespace: Namespace,
    operator: Operator,
    started: Instant,
}

impl Place {
    fn found(cluster: &'static Cluster) -> Self {
        let namespace = cluster.namespace("fails").unwrap();
        namespace.apply(&manifest()).unwrap();
        let operator = namespace.operator(&[]).unwrap();
        let place = Self { namespace, operator, started: Instant::now() };
        place.active(FOUNDED, "the founding");
        place
    }

    /// Says what has been done, and when.
    fn step(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn store(&self) -> Deployed<'_> {
        Deployed::new(&self.namespace, "shop", &REGIONS)
    }

    fn active(&self, limit: Duration, after: &str) {
        let active = self.store().wait_active(limit);
        active.unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", self.picture()));
        self.step(after);
    }

    /// For a person who looks for what went wrong.
    fn picture(&self) -> String {
        let ask = |args: &[&str]| self.namespace.kubectl(args).unwrap_or_else(|error| error.to_string());
        format!(
            "{}\n{}\n{}\n{}",
            ask(&["get", "mas,masr,pods", "-o", "wide"]),
            ask(&["get", "masr,pods", "-o", "yaml"]),
            ask(&["get", "events", "--sort-by=.lastTimestamp"]),
            self.operator.log()
        )
    }

    fn wait(&self, what: &str, limit: Duration, done: impl Fn() -> Result<(), String>) {
        wait_until(what, limit, done).unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
    }

    fn node_of(&self, pod: &str) -> String {
        let pod = self.namespace.get("pod", pod).unwrap();
        pod["spec"]["nodeName"].as_str().unwrap_or_else(|| panic!("{pod}")).to_owned()
    }

    /// A replica follows the master of `a`.
    fn in_sync(&self) {
        self.wait("a replica in sync", RECOVERY, || {
            let shard = self.store().shard("a", 0).map_err(|error| error.to_string())?;
            if shard["replicasInSync"] == 1 { Ok(()) } else { Err(shard.to_string()) }
        });
    }

    fn load(&self, prefix: &'static str) -> Load {
        let plan =
            Plan { regions: &REGIONS, writers: 2, prefix, level: &[], pace: Duration::from_millis(10) };
        let load = Load::start(&self.store(), &plan).unwrap();
        self.flows(&load, prefix);
        load
    }

    /// Waits until every writer has written some more.
    fn flows(&self, load: &Load, when: &str) {
        load.wait_for_more(100, RECOVERY)
            .unwrap_or_else(|error| panic!("{when}: {error:#}\n{}", self.picture()));
    }

    /// Regions are equal, and every acknowledged write is in them, and nothing else.
    fn check(&self, load: Load, prefix: &str) {
        self.flows(&load, prefix);
        let report = load.stop().unwrap();
        let space = keyspace::wait_equal(&self.store(), &format!("{prefix}:*"), RECOVERY)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
        let findings = report.ledger.check(&space);
        self.step(&format!(
            "{prefix}: {} writes acknowledged, {} with no known end, longest gap {:.1?}; {findings}; {:?}",
            report.ledger.acknowledged(),
            report.ledger.unknown(),
            report.longest_gap,
            report.errors
        ));
        assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", self.picture());
    }

    /// Kubelets start the servers again, and nobody promotes one: the proxies of `a` send its clients' requests to `b`.
    fn both_copies_die_while_the_api_server_is_away(&mut self) {
        let cluster = self.namespace.cluster();
        let load = self.load("apiless");
        let before = self.store().epoch("a", 0).unwrap();
        let pods = [0, 1].map(|ordinal| format!("{SHARD}-{ordinal}"));
        let processes: Vec<u32> =
            pods.iter().flat_map(|pod| self.store().processes(pod, "redis").unwrap()).collect();
        cluster.tool(&["stop", "kube-apiserver"]).unwrap();
        for pid in &processes {
            // With the first of a container the others go by themselves.
            let _ = process::kill(*pid);
        }
        // All writers, so those of `a`, too, and more than was under way.
        for _ in 0..3 {
            load.wait_for_more(100, RECOVERY).unwrap();
        }
        self.step("300 writes of every client, without an API server and without a master in a");
        cluster.tool(&["start", "kube-apiserver"]).unwrap();
        // An operator that could not renew its lease has ended, and a pod's kubelet would start it again.
        let since = Instant::now();
        while self.store().epoch("a", 0).map_or(true, |epoch| epoch <= before) {
            assert!(since.elapsed() < RECOVERY, "{}", self.picture());
            if self.operator.wait_end(Duration::ZERO).is_ok() {
                self.operator = self.namespace.operator(&[]).unwrap();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.active(RECOVERY, "a shard died while the API server was away");
        self.check(load, "apiless");
    }

    /// Nobody says that it has ended: the cluster hears nothing of the node, and neither operator nor proxies of the master.
    fn the_node_of_a_master_is_switched_off(&self) {
        let cluster = self.namespace.cluster();
        // Without its broker a region waits for what that has confirmed: it has to be at the other node.
        let broker = self.node_of("shop--a--broker-0");
        let pods = [0, 1].map(|ordinal| format!("{SHARD}-{ordinal}"));
        let [one, other] = [0, 1].map(|at: usize| self.node_of(&pods[at]));
        assert_ne!(one, other, "copies are kept apart");
        let (master, node) = if one == broker { (&pods[1], other) } else { (&pods[0], one) };
        self.in_sync();
        let load = self.load("off");
        if self.store().master("a", 0).unwrap() != *master {
            let before = self.store().epoch("a", 0).unwrap();
            let there = if *master == pods[0] { &pods[1] } else { &pods[0] };
            self.namespace.kubectl(&["delete", "pod", there, "--wait=false"]).unwrap();
            self.store().wait_epoch_above(before, "a", 0, RECOVERY).unwrap();
            self.active(RECOVERY, "a master's pod was deleted");
            assert_eq!(self.store().master("a", 0).unwrap(), *master);
            self.in_sync();
        }
        let before = self.store().epoch("a", 0).unwrap();
        cluster.tool(&["stop", &node]).unwrap();
        let since = Instant::now();
        self.flows(&load, "its node is off");
        self.step(&format!(
            "100 more writes of every client, {:.1?} after {node} was switched off",
            since.elapsed()
        ));
        self.store()
            .wait_epoch_above(before, "a", 0, RECOVERY)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
        self.step(&format!("another master, {:.1?} after {node} was switched off", since.elapsed()));
        assert_ne!(self.store().master("a", 0).unwrap(), *master);
        self.flows(&load, "another one is master");
        let still: Value = self.namespace.get("pod", master).unwrap();
        assert!(
            still["status"]["containerStatuses"][0]["state"]["running"].is_object(),
            "nobody says that it ended: {still}"
        );
        cluster.tool(&["start", &node]).unwrap();
        self.active(RECOVERY, "its node is on again");
        self.in_sync();
        self.check(load, "off");
    }
}
