//! A store full of data: a region joins it under load, a shard of it is lost and rebuilt, its regions are compared.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::load::{Load, Plan};
use e2e::{OperationStatus, Store, manifest, wait_until};

use crate::probe::active;

const SPEC: &str = "  shards: 1\n  redis: {replicas: 1, maxMemory: MEMORYMi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
const TWO: [&str; 2] = ["east", "west"];
const THREE: [&str; 3] = ["east", "west", "north"];
const VALUE: usize = 10 << 10;
/// Values of one pipeline.
const BATCH: u64 = 64;
const LIMIT: Duration = Duration::from_mins(20);
const LOST: [&str; 2] = ["west/shard-0/redis-0", "west/shard-0/redis-1"];

/// All of it, with so much data.
pub(crate) fn run(megabytes: u64) -> Result<()> {
    println!(
        "\n== a store that holds {megabytes} MiB, values of {} KiB, one shard, one replica",
        VALUE >> 10
    );
    // Metadata, and what is written meanwhile, come on top.
    let spec = SPEC.replace("MEMORY", &(megabytes * 3 / 2 + 256).to_string());
    let mut store = Store::start(&manifest("full", &TWO, &spec))?;
    let begun = Instant::now();
    fill(&store, megabytes)?;
    let took = begun.elapsed().as_secs_f64();
    println!(
        "filled through the proxy of east in {took:.1} s ({:.0} MiB/s); west follows",
        megabytes as f64 / took
    );
    level(&store)?;
    let quiet = rate(&store, Duration::from_secs(15))?;

    let load = load(&store, &TWO, "joining")?;
    load.wait_for_more(500, LIMIT)?;
    store.apply(&manifest("full", &THREE, &spec))?;
    let operation = store.wait_operation("full--scale-out--north-3", LIMIT)?;
    let report = load.stop()?;
    steps("scale-out of a third region under four writers", &operation);
    println!(
        "{} writes acknowledged meanwhile, longest wait of a writer {} ms, errors {:?}",
        report.ledger.acknowledged(),
        report.longest_gap.as_millis(),
        report.errors
    );
    level(&store)?;

    rebuild(&store)?;
    level(&store)?;
    verification(&store, quiet)?;
    store.finish()
}

/// Writes that many MiB.
fn fill(store: &Store, megabytes: u64) -> Result<()> {
    let mut connection = store.connect("east")?;
    // Values that cannot be compressed to nothing, and differ.
    let mut value: Vec<u8> = (0..VALUE).map(|_| rand::random()).collect();
    let keys = megabytes * (1 << 20) / VALUE as u64;
    for first in (0..keys).step_by(BATCH as usize) {
        let mut pipe = redis::pipe();
        for number in first..(first + BATCH).min(keys) {
            value[..8].copy_from_slice(&number.to_le_bytes());
            pipe.set(format!("full:{number}"), &value[..]).ignore();
        }
        pipe.exec(&mut connection).context("filling the store failed")?;
    }
    Ok(())
}

/// Waits until all regions are level.
fn level(store: &Store) -> Result<()> {
    wait_until("all regions to be Active", LIMIT, || active(store))
}

fn load(store: &Store, regions: &[&str], prefix: &str) -> Result<Load> {
    let pace = Duration::from_millis(2);
    Load::start(store, &Plan { regions, writers: 2, prefix, level: &[], pace })
}

/// Writes a second of four clients without a pause in the two old regions.
fn rate(store: &Store, time: Duration) -> Result<f64> {
    let plan = Plan { regions: &TWO, writers: 2, prefix: "rate", level: &[], pace: Duration::ZERO };
    let load = Load::start(store, &plan)?;
    let begun = Instant::now();
    std::thread::sleep(time);
    let rate = load.answered() as f64 / begun.elapsed().as_secs_f64();
    load.stop()?;
    Ok(rate)
}

fn steps(what: &str, operation: &OperationStatus) {
    println!("\n| {what}: step | ms |\n| --- | ---: |");
    for (step, ms, _) in operation.steps_done() {
        println!("| `{step}` | {ms} |");
    }
}

fn rebuild(store: &Store) -> Result<()> {
    let load = load(store, &TWO, "rebuilt")?;
    load.wait_for_more(500, LIMIT)?;
    for part in LOST {
        store.hold(part)?;
    }
    for part in LOST {
        store.lose_volume(part)?;
        store.resume(part)?;
    }
    let operation = wait_until("the rebuild", LIMIT, || {
        let status = store.status().map_err(|error| format!("{error:#}"))?;
        match status.operations.last() {
            Some(last) if last.spec.kind == "Rebuild" && last.status.phase == "Succeeded" => {
                Ok(last.status.clone())
            }
            last => Err(format!("{last:?}")),
        }
    })?;
    let report = load.stop()?;
    steps("rebuild of the shard of one region", &operation);
    let outcome = operation.outcome.context("the rebuild measured nothing")?;
    println!(
        "RPO {} effects, RTO {} ms, WRT {} ms; {} writes acknowledged meanwhile, longest wait of a writer {} ms",
        outcome.rpo_effects.unwrap_or_default(),
        outcome.rto_millis.unwrap_or_default(),
        outcome.wrt_millis.unwrap_or_default(),
        report.ledger.acknowledged(),
        report.longest_gap.as_millis()
    );
    Ok(())
}

/// Compares digests, then the values of a sample, beside clients.
fn verification(store: &Store, quiet: f64) -> Result<()> {
    let digests = Compared::run(store, "0")?;
    let sampled = Compared::run(store, "20")?;
    let beside = std::thread::scope(|scope| -> Result<f64> {
        let verifying = scope.spawn(|| Compared::run(store, "20"));
        let beside = rate(store, Duration::from_secs(15))?;
        ensure!(
            verifying.join().is_ok_and(|compared| compared.is_ok()),
            "the comparison beside writers failed"
        );
        Ok(beside)
    })?;
    println!("\n| verification of three regions | |\n| --- | ---: |");
    println!("| digests of {} keys | {:.1} s |", digests.keys, digests.seconds);
    println!("| and the values of {} | {:.1} s |", sampled.values, sampled.seconds);
    println!("| values compared a second | {:.0} |", sampled.values as f64 / sampled.seconds);
    println!("| writes a second of four clients, without it | {quiet:.0} |");
    println!("| beside it | {beside:.0} |");
    Ok(())
}

/// A comparison without a difference.
struct Compared {
    keys: u64,
    /// Keys of which the values were compared, in all regions.
    values: u64,
    seconds: f64,
}

impl Compared {
    /// `percent` of the keys of each region have their values compared.
    fn run(store: &Store, percent: &str) -> Result<Self> {
        let text = store.masctl(&["verify", "--sample", percent, "-o", "json"])?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        let number = |name: &str| report[name].as_u64().with_context(|| format!("no {name} in {text}"));
        Ok(Self {
            keys: number("keysCompared")?,
            values: number("keysSampled")?,
            seconds: number("durationMillis")? as f64 / 1000.0,
        })
    }
}
