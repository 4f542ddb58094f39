//! All copies of a shard of a region are lost with their volumes, on a Kubernetes with nodes, under load, while operators die or are away: another
//! region serves its clients, the shard is rebuilt, and no acknowledged write is missing: `make e2e`. (`KUBECONFIG` names another cluster,
//! with nodes of the regions `region-1` and `region-2`.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Deployed, Namespace, Operator};
use e2e::keyspace;
use e2e::load::{Endpoints as _, Load, Plan};
use e2e::wait::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::Commands as _;
use serde_json::Value;

/// How long a store may take to be there, or a rebuild.
const REBUILT: Duration = Duration::from_mins(6);
/// How long anything else may take.
const RECOVERY: Duration = Duration::from_mins(3);
/// Operators that die, at most.
const DEATHS: u32 = 16;
/// Two cores are all there is.
const SMALL: &str = "{requests: {cpu: 50m}}";
const REGIONS: [&str; 2] = ["a", "b"];

/// A small store of two shards, one region at each node. What no broker confirms is refused, so that all that is acknowledged counts.
fn manifest() -> String {
    let region = |(at, name): (usize, &&str)| {
        format!(
            "{{name: {name}, placement: {{nodeSelector: {{topology.kubernetes.io/region: region-{}}}}}}}",
            at + 1
        )
    };
    let regions: Vec<String> = REGIONS.iter().enumerate().map(region).collect();
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: shop}}\nspec: {{regions: [{}], shards: 2, \
         broker: {{replicas: 1, storage: {{size: 8Gi}}, resources: {SMALL}}}, redis: {{maxMemory: 64Mi, resources: {SMALL}}}, \
         proxy: {{replicas: 1, resources: {SMALL}}}, replication: {{retention: {{bytes: 512Mi}}, onBrokerLoss: Reject}}}}\n",
        regions.join(", ")
    )
}

fn plan(prefix: &'static str, level: &'static [&'static str]) -> Plan<'static> {
    Plan { regions: &REGIONS, writers: 1, prefix, level, pace: Duration::from_millis(10) }
}

/// One store that all of it happens to. (A founding takes most of a minute.)
#[test]
#[ignore = "takes some eight minutes: `make e2e`"]
fn shards_of_which_nothing_is_left_are_rebuilt() {
    let mut place = Place::found(Cluster::with_nodes());
    place.a_shard_is_rebuilt_while_operators_die();
    place.what_is_lost_while_no_operator_runs_is_rebuilt();
    place.orders_are_refused_in_words();
    place.a_copy_of_another_store_is_put_away_on_order();
    place.a_whole_region_is_rebuilt_shard_by_shard();
}

struct Place {
    namespace: Namespace,
    operator: Option<Operator>,
    started: Instant,
}

impl Place {
    fn found(cluster: &'static Cluster) -> Self {
        let namespace = cluster.namespace("rebuilds").unwrap();
        namespace.apply(&manifest()).unwrap();
        let operator = Some(namespace.operator(&[]).unwrap());
        let place = Self { namespace, operator, started: Instant::now() };
        place.active("the founding");
        place
    }

    /// Says what has been done, and when.
    fn step(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn store(&self) -> Deployed<'_> {
        Deployed::new(&self.namespace, "shop", &REGIONS)
    }

    fn active(&self, after: &str) {
        let active = self.store().wait_active(REBUILT);
        active.unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", self.picture()));
        self.step(after);
    }

    /// For a person who looks for what went wrong.
    fn picture(&self) -> String {
        let ask = |args: &[&str]| self.namespace.kubectl(args).unwrap_or_else(|error| error.to_string());
        format!(
            "{}\n{}\n{}\n{}",
            ask(&["get", "mas,maso,masr,pods,pvc", "-o", "wide"]),
            ask(&["get", "maso,masr", "-o", "yaml"]),
            ask(&["get", "events", "--sort-by=.lastTimestamp"]),
            self.operator.as_ref().map(Operator::log).unwrap_or_default()
        )
    }

    fn wait(&self, what: &str, limit: Duration, done: impl Fn() -> Result<(), String>) {
        wait_until(what, limit, done).unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
    }

    /// The status of an operation; of one that has none yet, nothing.
    fn operation(&self, name: &str) -> Value {
        self.namespace.get("maso", name).map_or(Value::Null, |operation| operation["status"].clone())
    }

    fn row(&self, region: &str) -> Value {
        self.namespace
            .get("masr", &format!("shop--{region}"))
            .map_or(Value::Null, |row| row["status"].clone())
    }

    /// The rebuild of a shard as it would be called if it was lost now.
    fn name(&self, region: &str, shard: usize) -> String {
        format!("shop--rebuild--{region}-{shard}-{}", self.store().epoch(region, shard).unwrap())
    }

    fn ends(&self, name: &str) {
        self.wait(&format!("{name} to succeed"), REBUILT, || {
            let status = self.operation(name);
            if status["phase"] == "Succeeded" { Ok(()) } else { Err(status.to_string()) }
        });
    }

    fn load(&self, prefix: &'static str, level: &'static [&'static str]) -> Load {
        let load = Load::start(&self.store(), &plan(prefix, level)).unwrap();
        load.wait_for_more(300, RECOVERY).unwrap();
        load
    }

    /// Regions are equal, and every acknowledged write is in them, and nothing else.
    fn check(&self, load: Load, pattern: &str) {
        load.wait_for_more(100, RECOVERY).unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
        let report = load.stop().unwrap();
        let space = keyspace::wait_equal(&self.store(), pattern, RECOVERY)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
        let findings = report.ledger.check(&space);
        self.step(&format!(
            "{pattern} {} writes acknowledged, {} with no known end, longest gap {:.1?}; {findings}; {:?}",
            report.ledger.acknowledged(),
            report.ledger.unknown(),
            report.longest_gap,
            report.errors
        ));
        assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", self.picture());
        assert_eq!(keyspace::wait_equal(&self.store(), "mas:marker*", RECOVERY).unwrap().len(), 0);
    }

    /// What the operation has measured; prints its steps.
    fn measured(&self, name: &str) -> Value {
        let operation = self.operation(name);
        self.step(name);
        for step in operation["steps"].as_array().unwrap() {
            let time = |field: &str| step[field].as_str()?.parse::<jiff::Timestamp>().ok();
            if let (Some(from), Some(to)) = (time("startedAt"), time("finishedAt")) {
                let ms = to.as_millisecond() - from.as_millisecond();
                println!("          {:12} {ms:6} ms", step["name"].as_str().unwrap());
            }
        }
        println!("          {}", operation["outcome"]);
        for field in ["totalMillis", "rpoEffects", "rtoMillis", "wrtMillis"] {
            assert!(operation["outcome"][field].is_u64(), "{field} in {operation}");
        }
        operation["outcome"].clone()
    }

    /// Each operator ends after a few requests that write, as if it was killed.
    fn a_shard_is_rebuilt_while_operators_die(&mut self) {
        let seed: u64 =
            std::env::var("MAS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
        println!("MAS_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let load = self.load("deaths", &["QUEUED"]);
        let name = self.name("a", 0);
        self.operator = None;
        self.store().lose("a", "multiactive.dev/shard=0").unwrap();
        let (mut deaths, mut evacuated) = (Vec::new(), false);
        let mut number = 0;
        while self.operation(&name)["phase"] != "Succeeded" {
            let (writes, lease) = (random.random_range(3..12).to_string(), format!("rebuilds-{number}"));
            let dies = ["--crash-after", &writes, "--lease", &lease];
            let args: &[&str] = if number < DEATHS { &dies } else { &["--lease", "rebuilds-last"] };
            let mut operator = self.namespace.operator(args).unwrap();
            number += 1;
            let begun = Instant::now();
            while self.operation(&name)["phase"] != "Succeeded" {
                let row = self.row("a");
                evacuated |= row["phase"] == "Evacuated"
                    && row["shards"][0]["why"].as_str().is_some_and(|why| why.contains(&name));
                assert!(begun.elapsed() < REBUILT, "{}", self.picture());
                if operator.wait_end(Duration::ZERO).is_ok() {
                    let step = self.operation(&name)["step"].as_str().unwrap_or("?").to_owned();
                    deaths.push(step);
                    break;
                }
            }
            self.operator = Some(operator);
        }
        self.operator = None;
        self.operator = Some(self.namespace.operator(&["--lease", "rebuilds-whole"]).unwrap());
        self.step(&format!("{name}; {} operators died: {}", deaths.len(), deaths.join(", ")));
        assert!(deaths.iter().any(|step| step != "?" && step != "Clear"), "none died on the way: {deaths:?}");
        assert!(evacuated, "its row has not said so");
        self.active("a shard was rebuilt while operators died");
        assert_eq!(self.measured(&name)["rpoEffects"], 0);
        let all = self.namespace.list("maso").unwrap();
        assert_eq!(all.len(), 1, "one loss, one operation: {all:?}");
        let shown = self.namespace.masctl(&["op", "show", &name]).unwrap();
        assert!(shown.out.contains("lost for good (RPO): 0 effects"), "{shown:?}");
        self.check(load, "deaths:*");
    }

    fn what_is_lost_while_no_operator_runs_is_rebuilt(&mut self) {
        let load = self.load("away", &["QUEUED"]);
        let name = self.name("a", 1);
        self.operator = None;
        self.store().lose("a", "multiactive.dev/shard=1").unwrap();
        // Its clients are served all the same.
        load.wait_for_more(500, RECOVERY).unwrap_or_else(|error| panic!("{error:#}\n{}", self.picture()));
        self.step("500 writes without an operator");
        self.operator = Some(self.namespace.operator(&["--lease", "rebuilds-away"]).unwrap());
        self.ends(&name);
        self.active("a shard was rebuilt that was lost while no operator ran");
        assert_eq!(self.measured(&name)["rpoEffects"], 0);
        self.wait("an event", RECOVERY, || {
            let events = self.namespace.list("events.events.k8s.io").map_err(|error| error.to_string())?;
            let told = |reason: &str| events.iter().any(|event| event["reason"] == reason);
            if told("AllCopiesLost") && told("RebuildSucceeded") {
                Ok(())
            } else {
                Err(format!("{events:?}"))
            }
        });
        self.check(load, "away:*");
    }

    fn order(&self, args: &[&str]) -> e2e::cluster::Said {
        self.namespace.masctl(&[&["op", "start", "rebuild", "--region"], args].concat()).unwrap()
    }

    fn orders_are_refused_in_words(&self) {
        let refused = |args: &[&str], words: &str| {
            let said = self.order(args);
            assert!(said.code == Some(1) && said.err.contains(words), "{said:?}\n{}", self.picture());
        };
        refused(&["c", "--shard", "0"], "there is no region 'c': the regions are a, b");
        refused(&["a", "--shard", "7"], "there is no shard 7: the store has 2");
        refused(&["a", "--shard", "0", "--source", "a"], "a region is not copied from itself");
        refused(
            &["a", "--shard", "0"],
            "a/shard-0 is served by a copy of its own: there is nothing to rebuild",
        );
        assert!(self.namespace.get("maso", &self.name("a", 0)).is_err(), "what is refused is taken away");
        let kind = "apiVersion: multiactive.dev/v1alpha1\nkind: StoreOperation\nmetadata: {name: mine}";
        let spec = "{storeRef: {name: shop}, type: Rebuild, region: b, shard: 1}";
        self.namespace.apply(&format!("{kind}\nspec: {spec}\n")).unwrap();
        self.wait("the answer", RECOVERY, || {
            let mine = self.namespace.get("maso", "mine").map_err(|error| error.to_string())?;
            let words = mine["status"]["message"].as_str().unwrap_or_default();
            let adopted = mine["metadata"]["ownerReferences"][0]["name"] == "shop"
                && mine["metadata"]["labels"]["multiactive.dev/store"] == "shop";
            let failed = mine["status"]["phase"] == "Failed";
            if failed && adopted && words.contains("nothing to rebuild") {
                Ok(())
            } else {
                Err(mine.to_string())
            }
        });
        self.namespace.kubectl(&["delete", "maso", "mine"]).unwrap();
        self.active("orders were refused");
    }

    fn a_copy_of_another_store_is_put_away_on_order(&mut self) {
        let load = self.load("order", &["QUEUED"]);
        let name = self.name("a", 0);
        self.operator = None;
        self.store().lose("a", "multiactive.dev/shard=0").unwrap();
        let pod = "shop--a--shard-0-redis-0";
        self.wait("a server that holds nothing", RECOVERY, || {
            self.store().make_foreign(pod).map_err(|error| error.to_string())
        });
        let uid = || self.namespace.get("pvc", &format!("data-{pod}")).unwrap()["metadata"]["uid"].clone();
        let before = uid();
        self.operator = Some(self.namespace.operator(&["--lease", "rebuilds-order"]).unwrap());
        self.wait("the row to say what is in the way", RECOVERY, || {
            let row = self.row("a");
            let why = row["shards"][0]["why"].as_str().unwrap_or_default();
            if why.contains("holds data of store 'stall'") { Ok(()) } else { Err(row.to_string()) }
        });
        assert!(self.namespace.get("maso", &name).is_err(), "not by itself");
        self.wait("the order to be taken", RECOVERY, || {
            let said = self.order(&["a", "--shard", "0"]);
            if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}")) }
        });
        self.ends(&name);
        assert_ne!(uid(), before, "the claim is another one");
        self.active("a copy of another store was put away");
        assert_eq!(self.measured(&name)["rpoEffects"], 0);
        self.check(load, "order:*");
    }

    /// The broker's volume, too: what another region has confirmed is there.
    fn a_whole_region_is_rebuilt_shard_by_shard(&mut self) {
        let load = self.load("region", &["REMOTE", "1"]);
        let names = [self.name("a", 0), self.name("a", 1)];
        for part in ["redis", "broker"] {
            self.store().lose("a", &format!("app.kubernetes.io/component={part}")).unwrap();
        }
        for name in &names {
            self.ends(name);
            self.measured(name);
        }
        self.active("a whole region was rebuilt");
        self.check(load, "region:*");
        let mut client = self.store().connect_to("a").unwrap();
        let () = client.set("after", 1).unwrap();
    }
}
