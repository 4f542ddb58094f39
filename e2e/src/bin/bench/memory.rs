//! Memory of a key with a short string: the same keys in plain Redis and in the regions, `used_memory` before and after.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::wait_until;
use redis::{Connection, Pipeline};

use crate::load::VALUE_BYTES;
use crate::rounds::progress;
use crate::stop;
use crate::targets::{Target, Targets};

const BATCH: u64 = 1000;
const LIMIT: Duration = Duration::from_mins(3);

/// Bytes for each key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// How many keys there were.
    pub(crate) keys: u64,
    /// In plain Redis.
    pub(crate) plain: f64,
    /// In the engine of a region that took the writes.
    pub(crate) region: f64,
    /// In the engine of a region that merged them.
    pub(crate) peer: f64,
}

/// Fills all targets with `keys` keys.
pub(crate) fn fill_and_measure(targets: &Targets, keys: u64) -> Result<Memory> {
    let mut filled = Vec::new();
    let peer_before = used(&mut targets.far_engine()?)?;
    for target in [Target::Plain, Target::Alone, Target::PairQueued] {
        targets.prepare(target)?;
        let before = used(&mut targets.engine(target)?)?;
        fill(&mut targets.connect(target)?, keys, target.name())?;
        targets.settle(target, 1)?;
        let mut engine = targets.engine(target)?;
        // What waits for the broker is no part of a key.
        if target != Target::Plain {
            wait_until("the outbox to be empty", LIMIT, || {
                outbox(&mut engine)
                    .and_then(|n| if n == 0 { Ok(()) } else { Err(format!("{n} effects are left")) })
            })?;
        }
        filled.push((used(&mut engine)? - before) / keys as f64);
    }
    let peer = (used(&mut targets.far_engine()?)? - peer_before) / keys as f64;
    Ok(Memory { keys, plain: filled[0], region: filled[1], peer })
}

/// The keys of `redis-benchmark -r`, every one of them.
fn fill(connection: &mut Connection, keys: u64, name: &str) -> Result<()> {
    let value = "x".repeat(VALUE_BYTES);
    for first in (0..keys).step_by(BATCH as usize) {
        stop::check()?;
        if first % 100_000 == 0 {
            progress(&format!("filling {name}: {first} of {keys} keys"));
        }
        let mut pipe = Pipeline::with_capacity(BATCH as usize);
        for key in first..keys.min(first + BATCH) {
            pipe.cmd("SET").arg(format!("key:{key:012}")).arg(&value).ignore();
        }
        pipe.exec(connection).with_context(|| format!("filling {name} failed"))?;
    }
    progress("");
    Ok(())
}

fn used(connection: &mut Connection) -> Result<f64> {
    let info: String = redis::cmd("INFO").arg("memory").query(connection).context("INFO memory failed")?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .context("INFO memory has no used_memory")?;
    line.trim().parse().context("used_memory is no number")
}

fn outbox(connection: &mut Connection) -> Result<u64, String> {
    let fields: Vec<String> =
        redis::cmd("MAS.IDENTITY").query(connection).map_err(|error| error.to_string())?;
    let found =
        fields.chunks(2).find(|pair| pair[0] == "outbox-effects").and_then(|pair| pair.get(1)?.parse().ok());
    found.ok_or_else(|| "MAS.IDENTITY has no outbox-effects".to_owned())
}
