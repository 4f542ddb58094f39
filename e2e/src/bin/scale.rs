//! What the operator costs: time from apply to objects and to Available, its memory, its requests, the duration of its rounds, for some
//! numbers of stores. Prints a table; judges nothing. (`make scale`; docs/benchmarks.md has figures.)

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use e2e::admin::histogram;
use e2e::cluster::{Cluster, Namespace};
use e2e::process::resident_bytes;
use e2e::wait::wait_until;
use serde_json::Value;

/// Measures an operator that looks after many stores, on a Kubernetes that is made for it
#[derive(Debug, Parser)]
#[command(name = "scale")]
struct Args {
    /// How many stores, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    stores: Vec<usize>,
    /// Run their pods, on two nodes (needs root), and wait until all are Active; without it there are objects only
    #[arg(long)]
    running: bool,
    /// How long the operator is watched when all is done, seconds
    #[arg(long, default_value_t = 60)]
    quiet: u64,
    /// How long the stores may take, seconds
    #[arg(long, default_value_t = 900)]
    limit: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cluster = if args.running { Cluster::with_nodes() } else { Cluster::shared() };
    ensure!(
        cluster.audit().is_some(),
        "requests are counted in a log that the cluster of KUBECONFIG does not write: unset it"
    );
    println!(
        "| stores | objects, s | {} memory, MiB | rounds | p50, ms | p99, ms | reads | writes | idle reads/min | idle writes/min |",
        if args.running { "Active, s |" } else { "" }
    );
    println!("|{}", " ---: |".repeat(if args.running { 11 } else { 10 }));
    for stores in &args.stores {
        measure(&args, cluster, *stores)?;
    }
    Ok(())
}

fn measure(args: &Args, cluster: &'static Cluster, stores: usize) -> Result<()> {
    let namespace = cluster.namespace(&format!("scale-{stores}"))?;
    let port = free_port()?;
    let operator = namespace.operator(&["--listen", &format!("127.0.0.1:{port}")])?;
    let limit = Duration::from_secs(args.limit);
    let text: Vec<String> = (0..stores).map(manifest).collect();
    let started = Instant::now();
    namespace.apply(&text.join("---\n"))?;
    wait_all(&namespace, stores, limit, "objects", |store| {
        let conditions = store["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "Progressing" && condition["reason"] == "Reconciled")
    })?;
    let objects = started.elapsed();
    let mut row = format!("| {stores} | {:.1} |", objects.as_secs_f64());
    if args.running {
        wait_all(&namespace, stores, limit, "Active", |store| store["status"]["regionsActive"] == "2/2")?;
        row = format!("{row} {:.1} |", started.elapsed().as_secs_f64());
    }
    let done = namespace.requests(0)?;
    let rounds = histogram(port, "mas_operator_reconcile_duration_seconds")?;
    // What the controllers make of it brings some more rounds.
    std::thread::sleep(Duration::from_secs(20));
    let from = namespace.requests_so_far()?;
    std::thread::sleep(Duration::from_secs(args.quiet));
    let idle = namespace.requests(from)?;
    let a_minute = |count: usize| count as u64 * 60 / args.quiet.max(1);
    let (reads, writes) = split(&done);
    let (idle_reads, idle_writes) = split(&idle);
    println!(
        "{row} {:.0} | {} | {:.0} | {:.0} | {reads} | {writes} | {} | {} |",
        resident_bytes(operator.pid())? as f64 / f64::from(1 << 20),
        rounds.count(),
        rounds.quantile(0.5) * 1000.0,
        rounds.quantile(0.99) * 1000.0,
        a_minute(idle_reads),
        a_minute(idle_writes),
    );
    drop(operator);
    namespace.kubectl(&["delete", "mas", "--all", "--wait=true"])?;
    Ok(())
}

/// A small store: every part once.
fn manifest(number: usize) -> String {
    let region = |name: &str, node: u8| {
        format!(
            "{{name: {name}, placement: {{nodeSelector: {{topology.kubernetes.io/region: region-{node}}}}}}}"
        )
    };
    let resources = |memory: &str| format!("resources: {{requests: {{cpu: 40m, memory: {memory}}}}}");
    let (redis, broker, proxy) = (resources("205Mi"), resources("512Mi"), resources("128Mi"));
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: shop-{number}}}\nspec: {{regions: [{}, {}], \
         deletionPolicy: Delete, redis: {{maxMemory: 64Mi, replicas: 0, appendOnly: Always, {redis}}}, \
         broker: {{replicas: 1, storage: {{size: 8Gi}}, {broker}}}, proxy: {{replicas: 1, {proxy}}}, \
         replication: {{retention: {{bytes: 512Mi}}}}}}\n",
        region("a", 1),
        region("b", 2),
    )
}

fn wait_all(
    namespace: &Namespace,
    stores: usize,
    limit: Duration,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Result<()> {
    wait_until(what, limit, || {
        let list = namespace.list("mas").map_err(|error| error.to_string())?;
        // kubectl costs as much as some pods do.
        std::thread::sleep(Duration::from_millis(500));
        let there = list.iter().filter(|store| is(store)).count();
        let why = || list.iter().filter(|store| !is(store)).find_map(|store| store["status"]["why"].as_str());
        if there == stores {
            Ok(())
        } else {
            Err(format!("{there} of {stores}: {}", why().unwrap_or_default()))
        }
    })
}

/// Reads and writes, the Lease aside. A watch counts as one read.
fn split(requests: &[Value]) -> (usize, usize) {
    let others = requests.iter().filter(|event| event["objectRef"]["resource"] != "leases");
    let reads = |event: &&Value| matches!(event["verb"].as_str(), Some("get" | "list" | "watch"));
    let (reads, writes): (Vec<_>, Vec<_>) = others.partition(reads);
    (reads.len(), writes.len())
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}
