//! One measurement with `redis-benchmark`, the same client for everybody.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::wait_for;

use crate::stop;

const LIMIT: Duration = Duration::from_mins(3);
/// Length of the values.
pub(crate) const VALUE_BYTES: usize = 40;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load {
    /// `SET` or `GET`.
    pub(crate) command: &'static str,
    /// Requests that are sent together.
    pub(crate) pipeline: u32,
    /// Connections.
    pub(crate) clients: u32,
}

impl Load {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 4] = [
        Self { command: "SET", pipeline: 32, clients: 20 },
        Self { command: "GET", pipeline: 32, clients: 20 },
        Self { command: "SET", pipeline: 1, clients: 50 },
        Self { command: "GET", pipeline: 1, clients: 50 },
    ];
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Requests per second.
    pub(crate) rate: f64,
    /// In milliseconds.
    pub(crate) p50: f64,
    /// In milliseconds.
    pub(crate) p99: f64,
}

/// Sends `requests` to `port`.
pub(crate) fn run(load: Load, port: u16, requests: u64, keys: u64) -> Result<Outcome> {
    let mut child = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "redis-benchmark",
            "-h",
            "127.0.0.1",
            "--csv",
            "-t",
            &load.command.to_lowercase(),
        ])
        .args(["-p", &port.to_string(), "-n", &requests.to_string(), "-r", &keys.to_string()])
        .args([
            "-d",
            &VALUE_BYTES.to_string(),
            "-P",
            &load.pipeline.to_string(),
            "-c",
            &load.clients.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting redis-benchmark failed")?;
    // Its output is a few lines: no pipe fills up before it ends.
    let ended = wait_for("redis-benchmark", LIMIT, || match child.try_wait() {
        Ok(None) if !stop::is_wanted() => None,
        other => Some(other),
    });
    if !matches!(ended, Ok(Ok(Some(_)))) {
        let _ = child.kill();
    }
    let output = child.wait_with_output().context("waiting for redis-benchmark failed")?;
    stop::check()?;
    ended?.context("waiting for redis-benchmark failed")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let Some(outcome) = parse(&text).filter(|_| output.status.success()) else {
        bail!("redis-benchmark on port {port} failed ({}): {text} {said}", output.status);
    };
    Ok(outcome)
}

/// The line behind the heading: name, rate, average, least, p50, p95, p99, most.
fn parse(csv: &str) -> Option<Outcome> {
    let line = csv.lines().find(|line| line.starts_with("\"SET\"") || line.starts_with("\"GET\""))?;
    let numbers: Vec<f64> =
        line.split(',').skip(1).filter_map(|field| field.trim_matches('"').parse().ok()).collect();
    match numbers[..] {
        [rate, _, _, p50, _, p99, _] => Some(Outcome { rate, p50, p99 }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_read() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                   \"p99_latency_ms\",\"max_latency_ms\"\n\"SET\",\"800000.00\",\"0.7\",\"0.1\",\"0.5\",\"0.9\",\"1.2\",\"3.0\"\n";
        assert_eq!(parse(csv), Some(Outcome { rate: 800_000.0, p50: 0.5, p99: 1.2 }));
        assert_eq!(parse("Error: refused"), None);
    }
}
