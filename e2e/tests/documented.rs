//! Every command in the shell blocks of README.md and docs/*.md: run here as it stands there, or listed with what covers it.
//! What is documented and not listed fails the test, and so does what is listed and not documented.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Parts, Status, wait_for};

/// What is done with a documented command.
enum How {
    /// It is run.
    Run,
    /// This is run in its place.
    RunAs(&'static str),
    /// It is not run; this covers it.
    Covered(&'static str),
}

use How::{Covered, Run, RunAs};

/// In the order in which they are run.
const COMMANDS: [(&str, How); 77] = [
    ("make test", Covered("this test is a part of it; .ci/run runs it")),
    ("make scale", Covered("eight minutes of load; its program is asked for its options below")),
    ("make scale SCALE='--running --stores 1,10'", RunAs("scale --help")),
    ("make smoke", Covered("four minutes; .ci/run runs it")),
    ("make e2e", Covered("some seven minutes; docs/e2e.md has the last run")),
    ("make e2e KIND=1", Covered("not run: kind needs Docker, and the page says so")),
    ("make bench", Covered("some five minutes of load; its program is asked for its options below")),
    (
        "cargo build --release",
        Covered("make build, before make demo; these programs come from the same sources"),
    ),
    (
        "make jepsen",
        Covered("this test runs beside it in .ci/run; its program is asked for its options below"),
    ),
    ("make jepsen MINUTES=10 JEPSEN='--seed 7 --regions 3 --brokers 3'", RunAs("jepsen --help")),
    ("make jepsen JEPSEN='--history run.jsonl'", RunAs("jepsen --help")),
    ("make jepsen JEPSEN='--check run.jsonl'", RunAs("jepsen --help")),
    ("make sim", Covered("two minutes; its program runs some seeds below, and its tests some more")),
    ("make soak", Covered("it runs until stopped; the same program as make sim")),
    ("make mutations", Covered("some minutes; docs/correctness.md has the last run's table")),
    ("cargo run -p sim -- --seed 42 --trace", RunAs("sim --seed 42 --trace | tail -1")),
    ("cargo run -p sim -- --seeds 1..1000 --jobs 2", RunAs("sim --seeds 1..4 --jobs 2")),
    (
        "cargo run -p sim --features mutations -- --seeds 1..300 --mutation AckBeforeConfirm",
        Covered("planted bugs need a build of their own: make mutations"),
    ),
    ("make fuzz", Covered(".ci/run runs it, for some seconds")),
    ("make fuzz-corpus", Covered("the same script; it would change the tree")),
    (
        "cargo fuzz run --sanitizer none request",
        Covered("runs until stopped; make fuzz builds and runs the same target"),
    ),
    (
        "cargo run --manifest-path fuzz/Cargo.toml --example seeds",
        Covered("a build of its own; it would write the committed seeds again"),
    ),
    (
        "operator crds | kubectl apply --server-side -f -",
        Covered("the operator's tests install the definitions so"),
    ),
    ("kubectl apply -f charts/multiactive/files/rbac.yaml", Covered("the operator's tests do it")),
    (
        "operator run --namespace default --listen 127.0.0.1:8090",
        Covered("the operator's tests run it so, in namespaces of their own"),
    ),
    ("kubectl apply -f examples/two-regions.yaml", Covered("the operator's tests apply every example")),
    ("kubectl get mas,masr", Covered("the operator's tests read that table")),
    ("kubectl apply -f examples/third-region.yaml", Covered("the operator's tests apply every example")),
    ("kubectl get mas,maso,masr", Covered("the operator's tests read that table")),
    ("make images", Covered("the tests of pods build them, with buildah")),
    (
        "helm install multiactive charts/multiactive -n multiactive-system --create-namespace --set images.registry=registry.example.com/team",
        Covered("make chart-test installs the chart"),
    ),
    (
        "helm install multiactive charts/multiactive -n multiactive-system --create-namespace",
        Covered("make chart-test installs the chart"),
    ),
    (
        "kubectl -n multiactive-system rollout status deployment/multiactive-operator",
        Covered("nodes would have to run pods; make chart-test waits until they are admitted"),
    ),
    (
        "kubectl get secret shop--beijing--app -o yaml",
        Covered("make smoke: its clients have that Secret's URI in their environment"),
    ),
    ("helm uninstall multiactive -n multiactive-system", Covered("make chart-test does it")),
    ("kubectl delete mas shop", Covered("the tests of pods delete their store")),
    ("kind create cluster --name multiactive", Covered("not run: kind needs Docker, and the page says so")),
    (
        "kind load docker-image --name multiactive multiactive/redis:0.1.0 multiactive/broker:0.1.0 multiactive/proxy:0.1.0 multiactive/operator:0.1.0",
        Covered("not run: kind needs Docker, and the page says so"),
    ),
    ("make cluster-test", Covered("it needs Go and builds Kubernetes, some minutes the first time")),
    ("make cluster-up", Covered("make cluster-test starts clusters with the same program")),
    ("tools/cluster kubectl get namespaces", Covered("make cluster-test runs kubectl")),
    ("tools/cluster up --name three --nodes 3", Covered("make cluster-test, as root and with containerd")),
    ("tools/cluster down --name three", Covered("make cluster-test, as root and with containerd")),
    ("tools/cluster status", Covered("make cluster-test asks for it")),
    ("make cluster-down", Covered("make cluster-test ends what it started")),
    // Without the release build, into a folder of this test.
    (
        "make install",
        RunAs(
            "make -o build install RELEASE=target/release/ PREFIX=$MAS_STATE_DIR.bin && \
             $MAS_STATE_DIR.bin/kubectl-mas --help | grep 'kubectl mas status'",
        ),
    ),
    ("kubectl mas status", Covered("the tests of operator and pods run kubectl with the plugin")),
    ("kubectl mas plan -f examples/two-regions.yaml", Covered("the operator's tests plan")),
    ("kubectl mas top", Covered("the test of pods asks for two rounds, under load")),
    ("kubectl mas endpoints beijing", Covered("the operator's tests ask for endpoints")),
    (
        "kubectl mas support-bundle",
        Covered("the tests of operator and pods make bundles, and look into them"),
    ),
    (
        "masctl --namespace prod --context cn-north status --watch",
        Covered("it runs until stopped; the operator's tests ask once"),
    ),
    ("make demo", RunAs("CI=true demo")),
    ("make bench BENCH=--help", RunAs("bench --help")),
    ("target/release/masctl up -f examples/two-regions.yaml --detach", Run),
    ("target/release/masctl status", Run),
    ("target/release/masctl endpoints", Run),
    ("redis-cli -p PORT_OF_BEIJING  SET greeting hello", Run),
    // It takes a moment to get there, and without a terminal redis-cli leaves the quotes out.
    (
        "redis-cli -p PORT_OF_SHANGHAI GET greeting",
        RunAs("until redis-cli -p PORT_OF_SHANGHAI --no-raw GET greeting | grep hello; do sleep 0.1; done"),
    ),
    ("target/release/masctl cut beijing shanghai", Run),
    ("target/release/masctl heal beijing shanghai", Run),
    ("masctl handover beijing 0", Run),
    ("kubectl mas handover beijing 0", Covered("the test of pods does it, under load")),
    (
        "kubectl mas op start failover --region beijing --shard 0",
        Covered("the test of pods orders the same by an object, and other orders by this command"),
    ),
    (
        "masctl apply -f store.yaml",
        RunAs(
            "sed 's/- name: shanghai/&\\n    traffic: Drained/' examples/two-regions.yaml > $MAS_STATE_DIR.yaml && \
             masctl apply -f $MAS_STATE_DIR.yaml && until masctl status | grep Drained; do sleep 0.1; done",
        ),
    ),
    ("masctl apply -f examples/third-region.yaml", Run),
    // The same in a cluster: the test of regions that join (make e2e).
    ("kubectl mas op list", RunAs("masctl op list | grep chengdu")),
    ("kubectl mas op wait shop--scale-out--chengdu-3", RunAs("masctl op wait shop--scale-out--chengdu-3")),
    (
        "kubectl mas op show shop--scale-out--chengdu-3 --watch",
        RunAs("masctl op show shop--scale-out--chengdu-3 --watch | grep 'Succeeded after'"),
    ),
    (
        "kubectl mas op retry shop--scale-out--chengdu-3",
        Covered("the test of regions that join does it; this one has joined"),
    ),
    (
        "kubectl mas op rollback shop--scale-out--chengdu-3",
        Covered("the tests of regions that join do it; this one has joined"),
    ),
    ("masctl op list", Run),
    ("masctl op show shop--rebuild--beijing-0-3", Covered("rebuild.rs shows those that it has made")),
    (
        "kubectl mas op start rebuild --region beijing --shard 0",
        Covered("rebuilding.rs orders one, by the same command"),
    ),
    (
        "masctl op start rebuild --region beijing --shard 0",
        RunAs("masctl op start rebuild --region beijing --shard 0 2>&1 | grep 'nothing to rebuild'"),
    ),
    (
        "masctl op start remove --region beijing --force",
        RunAs("masctl op start remove --region beijing --force 2>&1 | grep 'is in the manifest'"),
    ),
    ("target/release/masctl down", Run),
];
const TIDY_UP: &str = "target/release/masctl down --delete-data";
const LIMIT: Duration = Duration::from_mins(6);

/// Where the tree is now, and not where it was built.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("..")
}

/// The commands of a page, without their comments, each with the output that is shown below it.
fn shell_lines(page: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let (mut open, mut inside) = (false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            open = !open;
            inside = open && line != "```yaml";
            continue;
        }
        let command = line
            .strip_prefix("$ ")
            .or_else(|| ["make ", "cargo "].iter().any(|start| line.starts_with(start)).then_some(line));
        match command {
            Some(command) if inside => {
                let command = command.split(" #").next().unwrap_or(command).trim_end();
                found.push((command.to_owned(), Vec::new()));
            }
            _ if inside && !line.is_empty() => {
                if let Some((_, output)) = found.last_mut() {
                    output.push(line.to_owned());
                }
            }
            _ => {}
        }
    }
    found
}

fn documented() -> BTreeMap<String, Vec<String>> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut all = BTreeMap::new();
    for page in pages.chain([root().join("README.md")]) {
        for (command, output) in shell_lines(&fs::read_to_string(&page).unwrap()) {
            all.entry(command).or_insert_with(Vec::new).extend(output);
        }
    }
    all
}

#[test]
fn every_documented_command_is_listed_here() {
    let documented: BTreeSet<String> = documented().into_keys().collect();
    let listed: BTreeSet<String> = COMMANDS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<_> = documented.difference(&listed).collect();
    assert!(missing.is_empty(), "documented, but neither run nor covered: {missing:?}");
    let surplus: Vec<_> = listed.difference(&documented).collect();
    assert!(surplus.is_empty(), "listed, but not documented: {surplus:?}");
}

/// A folder for the store, in which it ends when the test does.
struct Place {
    folder: tempfile::TempDir,
    programs: PathBuf,
}

impl Place {
    /// Runs a command in the tree's root; its output.
    fn run(&self, command: &str) -> Result<String, String> {
        let programs = self.programs.display();
        let mut line = command.replace("target/release/", &format!("{programs}/"));
        for (region, name) in [("beijing", "PORT_OF_BEIJING"), ("shanghai", "PORT_OF_SHANGHAI")] {
            if line.contains(name) {
                line = line.replace(name, &self.port(region)?);
            }
        }
        // The store goes on behind `up`, so the output goes to a file and not through a pipe that it would hold open.
        let output = self.folder.path().join("output");
        let file = fs::File::create(&output).unwrap();
        let mut child = Command::new("bash")
            .args(["-c", &line])
            .current_dir(root())
            .env("MAS_STATE_DIR", self.folder.path().join("s"))
            .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let ended = wait_for(command, LIMIT, || child.try_wait().ok().flatten());
        let said = fs::read_to_string(&output).unwrap_or_default();
        match ended {
            Ok(exit) if exit.success() => Ok(said),
            Ok(exit) => Err(format!("`{command}` ended with {exit}: {said}")),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("{error:#}: {said}"))
            }
        }
    }

    fn port(&self, region: &str) -> Result<String, String> {
        let text = self.run("target/release/masctl status -o json")?;
        let status: Status = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let endpoint = status.region(region).map(|region| region.endpoint.clone()).unwrap_or_default();
        endpoint.rsplit(':').next().map(ToOwned::to_owned).ok_or_else(|| format!("no port in {endpoint}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.run(TIDY_UP) {
            eprintln!("{error}");
        }
    }
}

#[test]
fn documented_commands_do_what_they_say() {
    let programs = Parts::find().unwrap().masctl.parent().map(Path::to_owned).unwrap();
    let folder = tempfile::Builder::new().prefix("mas-").tempdir().unwrap();
    let place = Place { folder, programs };
    let documented = documented();
    for (name, how) in &COMMANDS {
        let started = Instant::now();
        let output = match how {
            Run => place.run(name).unwrap(),
            RunAs(other) => place.run(other).unwrap(),
            Covered(by) => {
                println!("{name}: not run ({by})");
                continue;
            }
        };
        println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
        for line in documented.get(*name).into_iter().flatten() {
            assert!(output.contains(line.as_str()), "`{name}` should print {line:?}, but prints: {output}");
        }
    }
}
