//! A region leaves a store of three on a Kubernetes with nodes, under load, while operators die; before that it is kept once, and later its
//! name is a new region's: `make e2e`. (`KUBECONFIG` names another cluster, with nodes of the regions `region-1` to `region-3`.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Deployed, Namespace, Operator};
use e2e::keyspace;
use e2e::load::{Load, Plan};
use e2e::process;
use e2e::wait::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// How long a store or a region may take to be there, images and volumes included.
const JOINING: Duration = Duration::from_mins(6);
/// How long anything else may take.
const RECOVERY: Duration = Duration::from_mins(3);
/// Operators that die, at most.
const DEATHS: u32 = 16;
/// The operation by which the third region leaves; and what its name is when it has come again.
const C: &str = "shop--remove--c-3";
const C_AGAIN: &str = "shop--remove--c-4";
/// Two cores are all there is.
const SMALL: &str = "{requests: {cpu: 50m}}";
const TWO: [&str; 2] = ["a", "b"];
const THREE: [&str; 3] = ["a", "b", "c"];
/// What is made for a region, volumes aside.
const MADE: &str = "services,configmaps,secrets,networkpolicies,poddisruptionbudgets,statefulsets,deployments,storeregions,pods";

/// A small store with these regions, each at a node.
fn manifest(regions: &[&str], more: &str) -> String {
    let region = |(at, name): (usize, &&str)| {
        format!(
            "{{name: {name}, placement: {{nodeSelector: {{topology.kubernetes.io/region: region-{}}}}}}}",
            at + 1
        )
    };
    let regions: Vec<String> = regions.iter().enumerate().map(region).collect();
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: shop}}\nspec: {{regions: [{}], \
         broker: {{replicas: 1, storage: {{size: 8Gi}}, resources: {SMALL}}}, redis: {{maxMemory: 64Mi, resources: {SMALL}}}, \
         proxy: {{replicas: 1, resources: {SMALL}}}, replication: {{retention: {{bytes: 512Mi}}}}{more}}}\n",
        regions.join(", ")
    )
}

fn plan<'a>(regions: &'a [&'a str], prefix: &'a str) -> Plan<'a> {
    Plan { regions, writers: 1, prefix, level: &[], pace: Duration::from_millis(10) }
}

/// One store that all of it happens to. (A founding takes most of a minute.)
#[test]
#[ignore = "takes some six minutes: `make e2e`"]
fn a_region_leaves_and_its_name_is_used_again() {
    let Some(cluster) = Cluster::with_three_nodes() else {
        println!("skipped: the cluster that KUBECONFIG names has no node of region-3");
        return;
    };
    let mut place = Place::found(cluster);
    place.what_would_lose_the_data_is_refused();
    place.one_leaves_while_operators_die();
    place.its_name_is_a_new_regions_once_its_volumes_are_gone();
    place.its_volumes_go_where_the_manifest_says_so();
}

struct Place {
    namespace: Namespace,
    operator: Operator,
    started: Instant,
}

impl Place {
    fn found(cluster: &'static Cluster) -> Self {
        let namespace = cluster.namespace("leaves").unwrap();
        namespace.apply(&manifest(&THREE, "")).unwrap();
        let operator = namespace.operator(&[]).unwrap();
        let place = Self { namespace, operator, started: Instant::now() };
        place.active(&THREE, "the founding");
        place
    }

    /// Says what has been done, and when.
    fn step(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn store(&self, regions: &[&str]) -> Deployed<'_> {
        Deployed::new(&self.namespace, "shop", regions)
    }

    fn active(&self, regions: &[&str], after: &str) {
        let active = self.store(regions).wait_active(JOINING);
        active.unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", self.picture()));
        self.step(after);
    }

    /// For a person who looks for what went wrong.
    fn picture(&self) -> String {
        let ask = |args: &[&str]| self.namespace.kubectl(args).unwrap_or_else(|error| error.to_string());
        format!(
            "{}\n{}\n{}\n{}\n{}",
            ask(&["get", "mas,maso,masr,pods", "-o", "wide"]),
            ask(&["get", "maso", "-o", "yaml"]),
            ask(&["get", "configmap", "shop--identity", "-o", "yaml"]),
            ask(&["get", "events", "--sort-by=.lastTimestamp"]),
            self.operator.log()
        )
    }

    fn wait(&self, what: &str, limit: Duration, done: impl Fn() -> Result<(), String>) {
        wait_until(what, limit, done).unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
    }

    /// The status of an operation; of one that has none yet, nothing.
    fn operation(&self, name: &str) -> Value {
        self.namespace.get("maso", name).map_or(Value::Null, |operation| operation["status"].clone())
    }

    fn ends(&self, name: &str, phase: &str) {
        self.wait(&format!("{name} to be {phase}"), JOINING, || {
            let status = self.operation(name);
            if status["phase"] == phase { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// The identity record.
    fn identity(&self) -> Value {
        let map = self.namespace.get("configmap", "shop--identity").unwrap();
        serde_json::from_str(map["data"]["record.json"].as_str().unwrap()).unwrap()
    }

    /// What the record says of a region.
    fn known(&self, region: &str) -> Value {
        let identity = self.identity();
        let regions = identity["regions"].as_array().cloned().unwrap_or_default();
        regions.into_iter().find(|known| known["name"] == region).unwrap_or_default()
    }

    fn masctl(&self, args: &[&str]) -> String {
        let said = self.namespace.masctl(args).unwrap();
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.picture());
        said.out + &said.err
    }

    /// Names of what is there of a region, by its id.
    fn left(&self, kinds: &str, id: u16) -> Vec<String> {
        let label = |object: &Value| object["metadata"]["labels"]["multiactive.dev/region-id"].clone();
        let objects = self.namespace.list(kinds).unwrap();
        let id = Value::from(id.to_string());
        let of = objects.iter().filter(|object| label(object) == id);
        of.map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect()
    }

    fn told(&self, reason: &str) {
        self.wait(&format!("an event {reason}"), RECOVERY, || {
            let events = self.namespace.list("events.events.k8s.io").unwrap();
            let reasons: Vec<_> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
            if reasons.contains(&reason) { Ok(()) } else { Err(format!("{reasons:?}")) }
        });
    }

    /// What a region's proxies are told.
    fn config(&self, region: &str) -> Value {
        let map = self.namespace.get("configmap", &format!("shop--{region}--proxy")).unwrap();
        serde_json::from_str(map["data"]["proxy.json"].as_str().unwrap()).unwrap()
    }

    fn what_would_lose_the_data_is_refused(&self) {
        let refused = self.namespace.apply(&manifest(&["d"], "")).unwrap_err().to_string();
        assert!(refused.contains("replaces all regions at once"), "{refused}");
    }

    /// Whoever cannot read what it has keeps it from leaving; and whoever changes his mind meanwhile keeps it.
    fn is_held_back_and_kept(&self) {
        let pods = self.namespace.list("pods").unwrap();
        let proxy = pods.iter().map(name).find(|name| name.starts_with("shop--a--proxy")).unwrap();
        let stopped = self.store(&["a"]).processes(&proxy, "proxy").unwrap();
        for pid in &stopped {
            process::pause(*pid).unwrap();
        }
        // So long clients of `c` write what `a` does not read.
        std::thread::sleep(Duration::from_secs(3));
        self.namespace.apply(&manifest(&TWO, "")).unwrap();
        self.wait("the operation", RECOVERY, || {
            let status = self.operation(C);
            if status["step"].is_string() { Ok(()) } else { Err(status.to_string()) }
        });
        std::thread::sleep(Duration::from_secs(10));
        let status = self.operation(C);
        assert!(status["phase"] == "Running", "{status}");
        assert_eq!(self.known("c")["removing"], "Draining", "{}", self.picture());
        let row = self.namespace.get("masr", "shop--c").unwrap();
        assert!(["Draining", "Removing"].contains(&row["status"]["phase"].as_str().unwrap()), "{row}");
        let refused = self.namespace.masctl(&["op", "rollback", C]).unwrap();
        assert!(refused.code == Some(1) && refused.err.contains("into the manifest again"), "{refused:?}");
        self.namespace.apply(&manifest(&THREE, "")).unwrap();
        self.ends(C, "RolledBack");
        for pid in &stopped {
            process::resume(*pid).unwrap();
        }
        self.active(&THREE, "c was held back, and was kept");
        self.told("RemoveRolledBack");
    }

    /// Nothing of it is deleted before nobody counts it.
    fn is_not_torn_down_early(&self) {
        let sets = self.namespace.list("statefulsets,deployments").unwrap();
        let of_c = sets.iter().filter(|set| name(set).starts_with("shop--c--")).count();
        if of_c < 3 {
            for region in TWO {
                let config = self.config(region);
                assert_eq!(config["peers"].as_array().map(Vec::len), Some(1), "{config}");
            }
            let removing = self.known("c")["removing"].clone();
            assert!(removing.is_null(), "it is {removing}, and parts of it are gone");
        }
    }

    /// Each operator ends after a few requests that write, as if it was killed; later ones live longer, so that it gets on.
    fn one_leaves_while_operators_die(&mut self) {
        let seed: u64 =
            std::env::var("MAS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
        println!("MAS_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let three = self.store(&THREE);
        let stay = Load::start(&three, &plan(&TWO, "stay")).unwrap();
        let leave = Load::start(&three, &plan(&["c"], "leave")).unwrap();
        leave.wait_for_more(300, RECOVERY).unwrap();
        self.is_held_back_and_kept();
        leave.wait_for_more(100, RECOVERY).unwrap();

        let planned = self.masctl_plan(&manifest(&TWO, ""));
        assert!(planned.contains("Region c leaves, once the others have all that it has"), "{planned}");
        self.namespace.apply(&manifest(&TWO, "")).unwrap();
        let mut deaths = Vec::new();
        let mut number = 0;
        while self.operation(C)["phase"] != "Succeeded" {
            let (writes, name) = (random.random_range(1..5 + number).to_string(), format!("leaves-{number}"));
            let dies = ["--crash-after", &writes, "--lease", &name];
            // The first of them is killed wherever it is.
            let args: &[&str] = if number < DEATHS { &dies } else { &[] };
            self.operator = self.namespace.operator(args).unwrap();
            number += 1;
            let begun = Instant::now();
            while self.operation(C)["phase"] != "Succeeded" {
                self.is_not_torn_down_early();
                assert!(begun.elapsed() < JOINING, "{}", self.picture());
                if self.operator.wait_end(Duration::ZERO).is_ok() {
                    let (status, known) = (self.operation(C), self.known("c"));
                    let step = status["step"].as_str().unwrap_or("?");
                    let state = known["removing"].as_str().unwrap_or("let go");
                    deaths.push(format!("{step} ({state})"));
                    break;
                }
            }
        }
        self.operator = self.namespace.operator(&["--lease", "leaves-last"]).unwrap();
        self.step(&format!("c has left; {} operators died: {}", deaths.len(), deaths.join(", ")));
        assert!(deaths.len() > 2, "{deaths:?}");
        self.print(C);
        self.nothing_is_left(3, C);
        assert!(!self.left("persistentvolumeclaims", 3).is_empty(), "deletionPolicy: Retain");
        self.active(&TWO, "the two that stay are Active");

        let two = self.store(&TWO);
        stay.wait_for_more(100, RECOVERY).unwrap();
        for (what, load, pattern) in [("stay", stay, "stay:*"), ("leave", leave, "leave:*")] {
            let report = load.stop().unwrap();
            let space = keyspace::wait_equal(&two, pattern, RECOVERY)
                .unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
            let findings = report.ledger.check(&space);
            self.step(&format!(
                "{what}: {} writes acknowledged, {} with no known end, longest gap {:.1?}; {findings}",
                report.ledger.acknowledged(),
                report.ledger.unknown(),
                report.longest_gap
            ));
            assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", self.picture());
        }
    }

    fn masctl_plan(&self, manifest: &str) -> String {
        let file = std::env::temp_dir().join(format!("{}-plan.yaml", self.namespace.name));
        std::fs::write(&file, manifest).unwrap();
        let planned = self.masctl(&["plan", "-f", file.to_str().unwrap()]);
        let _ = std::fs::remove_file(file);
        planned
    }

    /// Nobody counts it, and all that was made for it is gone, volumes aside.
    fn nothing_is_left(&self, id: u16, operation: &str) {
        self.wait("what was made for c to go", RECOVERY, || {
            let left = self.left(MADE, id);
            if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
        });
        let identity = self.identity();
        assert_eq!(identity["regions"].as_array().map(Vec::len), Some(2), "{identity}");
        self.wait("the others to be told", RECOVERY, || {
            let right = |config: &Value| {
                config["membership"] == identity["membership"]
                    && config["peers"].as_array().map(Vec::len) == Some(1)
            };
            let configs = TWO.map(|region| self.config(region));
            if configs.iter().all(right) { Ok(()) } else { Err(format!("{configs:?}")) }
        });
        for reason in ["RemoveBegan", "RemoveSucceeded"] {
            self.told(reason);
        }
        let list = self.masctl(&["op", "list"]);
        assert!(list.contains(operation) && list.contains("Succeeded"), "{list}");
        let shown = self.masctl(&["op", "show", operation, "--watch"]);
        assert!(shown.contains("Succeeded after") && shown.contains("✓ Settle"), "{shown}");
        self.wait("the store to say nothing of it", RECOVERY, || {
            let status =
                self.namespace.get("mas", "shop").map_err(|error| error.to_string())?["status"].clone();
            let names: Vec<_> =
                status["regions"].as_array().into_iter().flatten().map(|of| &of["name"]).collect();
            let well = names == TWO && status["operation"].is_null() && status["regionsActive"] == "2/2";
            if well { Ok(()) } else { Err(status.to_string()) }
        });
    }

    fn print(&self, name: &str) {
        let operation = self.operation(name);
        for step in operation["steps"].as_array().unwrap() {
            let time = |field: &str| step[field].as_str()?.parse::<jiff::Timestamp>().ok();
            if let (Some(from), Some(to)) = (time("startedAt"), time("finishedAt")) {
                let ms = to.as_millisecond() - from.as_millisecond();
                println!("          {:12} {ms:6} ms", step["name"].as_str().unwrap());
            }
        }
    }

    fn its_name_is_a_new_regions_once_its_volumes_are_gone(&self) {
        self.namespace.apply(&manifest(&THREE, ", deletionPolicy: Delete")).unwrap();
        let command = "kubectl delete pvc -l multiactive.dev/store=shop,multiactive.dev/region-id=3";
        self.wait("the store to say what c waits for", RECOVERY, || {
            let conditions = self.namespace.get("mas", "shop").unwrap()["status"]["conditions"].to_string();
            if conditions.contains(command) { Ok(()) } else { Err(conditions) }
        });
        let args: Vec<&str> = command.split(' ').skip(1).collect();
        self.namespace.kubectl(&args).unwrap();
        self.ends("shop--scale-out--c-4", "Succeeded");
        self.active(&THREE, "c has joined as a new region");
        assert_eq!(self.known("c")["id"], 4);
        for pattern in ["stay:*", "leave:*"] {
            keyspace::wait_equal(&self.store(&THREE), pattern, RECOVERY).unwrap();
        }
    }

    fn its_volumes_go_where_the_manifest_says_so(&self) {
        self.namespace.apply(&manifest(&TWO, ", deletionPolicy: Delete")).unwrap();
        self.ends(C_AGAIN, "Succeeded");
        self.nothing_is_left(4, C_AGAIN);
        self.wait("its volumes to go", RECOVERY, || {
            let left = self.left("persistentvolumeclaims", 4);
            if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
        });
        self.active(&TWO, "c has left again, with its volumes");
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
