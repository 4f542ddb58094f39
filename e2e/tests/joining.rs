//! A third region joins a store of two on a Kubernetes with nodes, under load, while operators die; another one is taken back, comes
//! again, and its namespace goes: `make e2e`. (`KUBECONFIG` names another cluster, with nodes of the regions `region-1` to `region-3`.)

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
const DEATHS: u32 = 12;
/// What the third region is called, and the operation by which it joins.
const C: &str = "shop--scale-out--c-3";
/// The same of the fourth, which is taken back.
const D: &str = "shop--scale-out--d-4";
/// Two cores are all there is.
const SMALL: &str = "{requests: {cpu: 50m}}";

/// A small store with these regions, each at a node: the fourth beside the first.
fn manifest(regions: &[&str], more: &str) -> String {
    let region = |(at, name): (usize, &&str)| {
        format!(
            "{{name: {name}, placement: {{nodeSelector: {{topology.kubernetes.io/region: region-{}}}}}}}",
            at % 3 + 1
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

const LOAD: Plan<'_> =
    Plan { regions: &["a", "b"], writers: 1, prefix: "before", level: &[], pace: Duration::from_millis(10) };

/// One store that all of it happens to. (A founding takes most of a minute.)
#[test]
#[ignore = "takes some six minutes: `make e2e`"]
fn regions_come_and_are_taken_back() {
    let Some(cluster) = Cluster::with_three_nodes() else {
        println!("skipped: the cluster that KUBECONFIG names has no node of region-3");
        return;
    };
    let mut place = Place::found(cluster);
    place.a_region_joins_while_operators_die();
    place.one_that_is_deleted_or_tried_again_begins_anew();
    place.one_is_taken_back_and_leaves_its_volumes();
    place.one_that_leaves_the_manifest_is_taken_back_with_its_volumes();
    place.a_namespace_goes_while_a_region_joins();
}

struct Place {
    namespace: Namespace,
    operator: Operator,
    started: Instant,
}

impl Place {
    fn found(cluster: &'static Cluster) -> Self {
        let namespace = cluster.namespace("joins").unwrap();
        namespace.apply(&manifest(&["a", "b"], "")).unwrap();
        let operator = namespace.operator(&[]).unwrap();
        let place = Self { namespace, operator, started: Instant::now() };
        place.active(&["a", "b"], "the founding");
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
            "{}\n{}\n{}\n{}",
            ask(&["get", "mas,maso,masr,pods", "-o", "wide"]),
            ask(&["get", "maso", "-o", "yaml"]),
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

    fn joins(&self, region: &str) -> bool {
        let identity = self.identity();
        let regions = identity["regions"].as_array().cloned().unwrap_or_default();
        regions.iter().any(|known| known["name"] == region && known["joining"] == true)
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

    fn reasons(&self) -> Vec<String> {
        let events = self.namespace.list("events.events.k8s.io").unwrap();
        events.iter().filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect()
    }

    fn told(&self, reason: &str) {
        self.wait(&format!("an event {reason}"), RECOVERY, || {
            let reasons = self.reasons();
            if reasons.iter().any(|told| told == reason) { Ok(()) } else { Err(format!("{reasons:?}")) }
        });
    }

    /// Whoever joins serves nobody: what is read first was so no later than what is read last.
    fn serves_nobody(&self, region: &str) {
        let row = self.namespace.get("masr", &format!("shop--{region}"));
        let front = self.namespace.list("services,secrets").unwrap();
        if !self.joins(region) {
            return;
        }
        let service = format!("shop--{region}");
        let published =
            front.iter().any(|of| [service.clone(), format!("{service}--app")].contains(&name(of)));
        assert!(!published, "{region} joins, and its clients are told where it is");
        if let Ok(row) = row {
            let status = &row["status"];
            assert!(status["phase"] != "Active" && status["endpoint"].is_null(), "{row}");
            let opened = self.operation(C)["step"] == "Serve";
            assert!(opened || status["shardsServing"] != "1/1", "{row}");
        }
    }

    /// Each operator ends after a few requests that write, as if it was killed, and at least one after the region's servers were there.
    fn a_region_joins_while_operators_die(&mut self) {
        let seed: u64 =
            std::env::var("MAS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
        println!("MAS_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let two = self.store(&["a", "b"]);
        let load = Load::start(&two, &LOAD).unwrap();
        load.wait_for_more(300, RECOVERY).unwrap();
        self.namespace.apply(&manifest(&["a", "b", "c"], "")).unwrap();
        self.wait("the operation", RECOVERY, || {
            self.serves_nobody("c");
            if self.operation(C)["step"].is_string() { Ok(()) } else { Err("it has not begun".into()) }
        });
        let mut deaths = Vec::new();
        let mut number = 0;
        while self.operation(C)["phase"] != "Succeeded" {
            let (writes, lease) = (random.random_range(3..12).to_string(), format!("joins-{number}"));
            let dies = ["--crash-after", &writes, "--lease", &lease];
            // The first of them is killed wherever it is.
            let args: &[&str] = if number < DEATHS { &dies } else { &[] };
            self.operator = self.namespace.operator(args).unwrap();
            number += 1;
            let begun = Instant::now();
            while self.operation(C)["phase"] != "Succeeded" {
                self.serves_nobody("c");
                assert!(begun.elapsed() < JOINING, "{}", self.picture());
                if self.operator.wait_end(Duration::ZERO).is_ok() {
                    let step = self.operation(C)["step"].as_str().unwrap_or("?").to_owned();
                    deaths.push(step);
                    break;
                }
            }
        }
        self.operator = self.namespace.operator(&["--lease", "joins-last"]).unwrap();
        self.step(&format!("c has joined; {} operators died: {}", deaths.len(), deaths.join(", ")));
        assert!(deaths.iter().any(|step| step != "Provision"), "none died while data moved: {deaths:?}");
        self.active(&["a", "b", "c"], "all three are Active");
        self.print(C);
        self.is_a_member_like_the_others("c");

        let three = self.store(&["a", "b", "c"]);
        let plan = Plan { regions: &["a", "b", "c"], prefix: "after", ..LOAD };
        let after = Load::start(&three, &plan).unwrap();
        after.wait_for_more(300, RECOVERY).unwrap();
        load.wait_for_more(50, RECOVERY).unwrap();
        for (what, load, pattern) in [("before", load, "before:*"), ("after", after, "after:*")] {
            let report = load.stop().unwrap();
            let space = keyspace::wait_equal(&three, pattern, RECOVERY)
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
        assert_eq!(keyspace::wait_equal(&three, "mas:marker*", RECOVERY).unwrap().len(), 0);
    }

    fn is_a_member_like_the_others(&self, region: &str) {
        let operation = self.operation(C);
        let steps = operation["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 9);
        assert!(steps.iter().all(|step| step["startedAt"].is_string() && step["finishedAt"].is_string()));
        assert!(operation["outcome"]["totalMillis"].as_u64() > Some(0), "{operation}");
        let address = format!("shop--{region}.{}.svc:6379", self.namespace.name);
        self.wait("the store to say that it is well", RECOVERY, || {
            let store = self.namespace.get("mas", "shop").map_err(|error| error.to_string())?;
            let status = &store["status"];
            let holds = |kind: &str| {
                let all = status["conditions"].as_array().into_iter().flatten();
                all.clone().find(|of| of["type"] == kind).map(|of| of["status"].clone())
            };
            let conditions = ["Available", "Degraded", "Progressing"].map(holds);
            let well = conditions == [Some("True".into()), Some("False".into()), Some("False".into())]
                && status["operation"].is_null()
                && status["regions"][2]["endpoint"] == address.as_str();
            if well { Ok(()) } else { Err(status.to_string()) }
        });
        self.namespace.get("service", &format!("shop--{region}")).unwrap();
        for reason in ["ScaleOutBegan", "ScaleOutSucceeded"] {
            self.told(reason);
        }
        let list = self.masctl(&["op", "list"]);
        assert!(list.contains(C) && list.contains("Succeeded"), "{list}");
        let shown = self.masctl(&["op", "show", C, "--watch"]);
        assert!(shown.contains("Succeeded after") && shown.contains("✓ SyncReplica"), "{shown}");
        self.masctl(&["op", "wait", C]);
        let refused = self.namespace.masctl(&["op", "rollback", C]).unwrap();
        assert!(refused.code == Some(1) && refused.err.contains("is done"), "{refused:?}");
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

    /// Stops the proxy of `d` as soon as its data moves: then it cannot read what it has to, and the operation waits.
    fn stop_proxy_of_d(&self) -> Vec<u32> {
        let pods = || self.namespace.list("pods").unwrap();
        let proxy = |pod: &Value| name(pod).starts_with("shop--d--proxy");
        let stopped = || {
            let pod = pods().iter().find(|pod| proxy(pod)).map(name).ok_or("no pod")?;
            self.store(&["d"]).processes(&pod, "proxy").map_err(|error| error.to_string())
        };
        let processes = wait_until("the proxy of d to run", JOINING, stopped).unwrap();
        self.wait("d to have its servers", JOINING, || {
            let status = self.operation(D);
            let data_moves = status["step"].as_str().is_some_and(|step| step != "Provision");
            if data_moves { Ok(()) } else { Err(status.to_string()) }
        });
        for pid in &processes {
            process::pause(*pid).unwrap();
        }
        self.wait("the operation to be at Replay", RECOVERY, || {
            let status = self.operation(D);
            if status["step"] == "Replay" { Ok(()) } else { Err(status.to_string()) }
        });
        processes
    }

    fn one_that_is_deleted_or_tried_again_begins_anew(&self) {
        self.namespace.apply(&manifest(&["a", "b", "c", "d"], "")).unwrap();
        let stopped = self.stop_proxy_of_d();
        let uid = || self.namespace.get("maso", D).map_or(Value::Null, |of| of["metadata"]["uid"].clone());
        let store = self.namespace.get("mas", "shop").unwrap();
        let words = store["status"]["operation"].as_str().unwrap_or_default();
        assert!(words.starts_with("scale-out d: "), "{store}");

        let before = uid();
        self.namespace.kubectl(&["delete", "maso", D]).unwrap();
        self.wait("the operation to be made again", RECOVERY, || {
            let (now, step) = (uid(), self.operation(D)["step"].clone());
            if now != before && step == "Provision" { Ok(()) } else { Err(format!("{now} at {step}")) }
        });
        for pid in &stopped {
            process::resume(*pid).unwrap();
        }
        let stopped = self.stop_proxy_of_d();
        self.step("the operation of d was deleted, was made again, and copied anew");

        let failed = r#"{"status": {"phase": "Failed", "message": "as a test says"}}"#;
        let patch = ["patch", "maso", D, "--subresource=status", "--type=merge", "-p", failed];
        self.namespace.kubectl(&patch).unwrap();
        self.masctl(&["op", "retry", D]);
        self.wait("the second attempt", RECOVERY, || {
            let status = self.operation(D);
            if status["attempt"] == 2 && status["phase"] == "Running" {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
        self.step("the operation of d failed, and was tried again");
        for pid in &stopped {
            process::resume(*pid).unwrap();
        }
        let stopped = self.stop_proxy_of_d();
        self.masctl(&["op", "rollback", D]);
        for pid in &stopped {
            process::resume(*pid).unwrap();
        }
    }

    fn one_is_taken_back_and_leaves_its_volumes(&self) {
        self.ends(D, "RolledBack");
        self.told("ScaleOutRolledBack");
        let gone = "services,configmaps,secrets,networkpolicies,poddisruptionbudgets,statefulsets,deployments,storeregions,pods";
        self.wait("what was made for d to go", RECOVERY, || {
            let left = self.left(gone, 4);
            if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
        });
        assert!(!self.left("persistentvolumeclaims", 4).is_empty(), "deletionPolicy: Retain");
        self.nobody_counts_d(3);
        let why = self.namespace.get("mas", "shop").unwrap()["status"]["conditions"].to_string();
        assert!(why.contains("d is Provisioning (was taken back: take it out of spec.regions"), "{why}");
        self.namespace.apply(&manifest(&["a", "b", "c"], "")).unwrap();
        self.active(&["a", "b", "c"], "d was taken back by hand; its volumes are there");
    }

    /// The members are told: of a membership above all that had `d`.
    fn nobody_counts_d(&self, regions: usize) {
        let identity = self.identity();
        assert_eq!(identity["regions"].as_array().map(Vec::len), Some(regions), "{identity}");
        let told = |region: &str| -> Value {
            let map = self.namespace.get("configmap", &format!("shop--{region}--proxy")).unwrap();
            serde_json::from_str(map["data"]["proxy.json"].as_str().unwrap()).unwrap()
        };
        self.wait("the members to be told", RECOVERY, || {
            let of = ["a", "b", "c"].map(told);
            let right = of.iter().all(|config| {
                config["membership"] == identity["membership"]
                    && config["peers"].as_array().map(Vec::len) == Some(regions - 1)
            });
            if right { Ok(()) } else { Err(format!("{of:?}")) }
        });
    }

    /// Beside volumes of an earlier region of that name it does not begin.
    fn one_that_leaves_the_manifest_is_taken_back_with_its_volumes(&self) {
        let policy = ", deletionPolicy: Delete";
        let epoch = self.identity()["membership"].as_u64().unwrap();
        self.namespace.apply(&manifest(&["a", "b", "c", "d"], policy)).unwrap();
        let command = "kubectl delete pvc -l multiactive.dev/store=shop,multiactive.dev/region-id=4";
        self.wait("the store to say what d waits for", RECOVERY, || {
            let conditions = self.namespace.get("mas", "shop").unwrap()["status"]["conditions"].to_string();
            if conditions.contains(command) { Ok(()) } else { Err(conditions) }
        });
        let args: Vec<&str> = command.split(' ').skip(1).collect();
        self.namespace.kubectl(&args).unwrap();
        let begun = |id: u16| {
            let name = format!("shop--scale-out--d-{id}");
            self.wait("d to be on its way", JOINING, || {
                let status = self.operation(&name);
                if status["phase"] == "Running" { Ok(()) } else { Err(status.to_string()) }
            });
            name
        };
        let name = begun(5);
        self.wait("d to have volumes", RECOVERY, || {
            let claims = self.left("persistentvolumeclaims", 5);
            if claims.len() == 3 { Ok(()) } else { Err(claims.join(" ")) }
        });
        self.namespace.apply(&manifest(&["a", "b", "c"], policy)).unwrap();
        self.ends(&name, "RolledBack");
        self.wait("what was made for d to go", RECOVERY, || {
            let left =
                self.left("services,statefulsets,deployments,storeregions,pods,persistentvolumeclaims", 5);
            if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
        });
        self.nobody_counts_d(3);
        assert!(self.identity()["membership"].as_u64() > Some(epoch));
        self.active(&["a", "b", "c"], "d left the manifest, and was taken back with its volumes");
    }

    fn a_namespace_goes_while_a_region_joins(&self) {
        self.namespace.apply(&manifest(&["a", "b", "c", "d"], ", deletionPolicy: Delete")).unwrap();
        self.wait("d to be on its way", JOINING, || {
            let status = self.operation("shop--scale-out--d-6");
            if status["phase"] == "Running" { Ok(()) } else { Err(status.to_string()) }
        });
        let cluster = self.namespace.cluster();
        cluster.kubectl(&["delete", "namespace", &self.namespace.name, "--timeout=180s"]).unwrap();
        self.step("the namespace was deleted while d joined, and went");
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
