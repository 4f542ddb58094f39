//! Masters that are killed, and masters that hand over: how long clients wait.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Store, manifest, wait_until};

use crate::probe::{Probe, active, head, spread};

const SPEC: &str =
    "  shards: 1\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
const REGIONS: [&str; 2] = ["east", "west"];
const LIMIT: Duration = Duration::from_mins(2);

fn start(name: &str) -> Result<Store> {
    Store::start(&manifest(name, &REGIONS, SPEC))
}

/// Kills the master of one region, `rounds` times.
pub(crate) fn failover(rounds: usize) -> Result<()> {
    println!(
        "\n== failover: kill -9 of a master with one replica, default settings, a client that writes all the time"
    );
    let store = start("failover")?;
    let probe = Probe::start(&store, "east")?;
    let mut windows = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        let master = store.master("east", 0)?;
        let before = epoch(&store)?;
        store.kill(&master)?;
        wait_until("another master, and its replica in sync", LIMIT, || {
            let now = epoch(&store).map_err(|error| format!("{error:#}"))?;
            if now <= before {
                return Err(format!("epoch {now}"));
            }
            active(&store)
        })?;
        windows.push((begun, Instant::now()));
        eprintln!("  {} of {rounds}", round + 1);
    }
    let (waits, errors) = probe.longest_waits(&windows);
    head();
    spread("failover: longest wait of the client", waits);
    spread(
        "failover: until all is as before",
        windows.iter().map(|(from, to)| (*to - *from).as_millis() as u64).collect(),
    );
    println!("errors that the client saw: {errors}");
    store.finish()
}

fn epoch(store: &Store) -> Result<u64> {
    let status = store.status()?;
    let region = status.region("east").context("no region east")?;
    Ok(region.shards.first().context("no shard")?.epoch)
}

/// Has the master of one region hand over, `rounds` times.
pub(crate) fn handover(rounds: usize) -> Result<()> {
    println!("\n== planned handover (switchover of a master), a client that writes all the time");
    let store = start("handover")?;
    let probe = Probe::start(&store, "east")?;
    let (mut windows, mut pauses) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let begun = Instant::now();
        let words = store.masctl(&["handover", "east", "0"])?;
        let pause = words.split_whitespace().rev().nth(1).and_then(|ms| ms.parse::<u64>().ok());
        ensure!(pause.is_some(), "masctl handover said: {words}");
        pauses.extend(pause);
        windows.push((begun, Instant::now()));
        wait_until("the old master to follow", LIMIT, || active(&store))?;
        eprintln!("  {} of {rounds}", round + 1);
    }
    let (waits, errors) = probe.longest_waits(&windows);
    head();
    spread("handover: pause, as the controller measures it", pauses);
    spread("handover: longest wait of the client", waits);
    println!("errors that the client saw: {errors}");
    store.finish()
}
