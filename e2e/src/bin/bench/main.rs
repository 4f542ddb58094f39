//! `make bench`: plain Redis, nutcracker before it, and regions of this store, measured side by side in one run with
//! the same client. It measures and reports; it judges nothing but says what the project aims at.

mod cpu;
mod lag;
mod load;
mod machine;
mod memory;
mod report;
mod rounds;
mod servers;
mod stop;
mod targets;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use targets::Targets;

/// Measures plain Redis, nutcracker and regions of this store side by side.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Requests of a measurement with pipelines of 32.
    #[arg(long, default_value_t = 500_000)]
    pipelined: u64,
    /// Requests of a measurement without pipelines.
    #[arg(long, default_value_t = 50_000)]
    single: u64,
    /// Keys that are there before, and that the requests choose from.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Seconds for which the lag between regions is measured.
    #[arg(long, default_value_t = 10)]
    lag_seconds: u64,
    /// All servers write an append-only file that is synced every second, and every shard has a replica.
    #[arg(long)]
    durable: bool,
    /// Also write the results into this file, between its marks.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/benchmarks.md")]
    write: Option<PathBuf>,
    /// Only bring the servers up, print their addresses and process ids, and wait for Ctrl-C: for profilers.
    #[arg(long)]
    hold: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match stop::watch().and_then(|()| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if stop::is_wanted() => {
            eprintln!("interrupted; everything was stopped and removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let targets = Targets::start(options.durable)?;
    let measured =
        if options.hold { targets.hold().map(|()| None) } else { measure(&targets, options).map(Some) };
    let ended = targets.finish();
    let results = measured?;
    ended?;
    let Some(results) = results else { return Ok(()) };
    println!("{}", results.text());
    if let Some(path) = &options.write {
        let old = fs::read_to_string(path).unwrap_or_default();
        let new = report::replace(&old, &results.markdown());
        fs::write(path, new).with_context(|| format!("writing {} failed", path.display()))?;
        eprintln!("written into {}", path.display());
    }
    Ok(())
}

fn measure(targets: &Targets, options: &Options) -> Result<report::Results> {
    let memory = memory::fill_and_measure(targets, options.keys)?;
    let cells = rounds::run(targets, options)?;
    let lag = lag::measure(targets, options.lag_seconds, options.keys)?;
    Ok(report::Results {
        machine: machine::describe(),
        durable: options.durable,
        rounds: options.rounds,
        memory,
        cells,
        lag,
    })
}
