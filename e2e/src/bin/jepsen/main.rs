//! Histories of real servers, in the manner of Jepsen: clients in all regions note what they ask and are told while
//! processes die and freeze, networks are cut, clocks are off and disks are full; then all is healed, and checkers that know
//! nothing but the history judge what is left. `docs/correctness.md` says what they demand.

mod check;
mod client;
mod faults;
mod history;
mod report;
mod settle;
mod setup;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use check::Verdict;
use client::Common;
use faults::{Victim, schedule};
use history::{History, Run};

/// Runs a store on this machine, hurts it, and checks what its clients were told
#[derive(Debug, Parser)]
#[command(name = "jepsen")]
struct Args {
    /// How long clients and faults go on
    #[arg(long, default_value_t = 2)]
    minutes: u64,
    /// Decides what clients ask and which faults come when [default: another every time]
    #[arg(long)]
    seed: Option<u64>,
    /// How many regions
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
    regions: u8,
    /// How many shards
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    shards: u8,
    /// How many nodes every region's broker has: 1 or 3
    #[arg(long, default_value_t = 1)]
    brokers: u8,
    /// Save the history there, as JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Start nothing; check a history that was saved
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.check.is_none() {
        faults::disk::isolate();
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all promises were kept.
fn run(args: &Args) -> Result<bool> {
    if let Some(path) = &args.check {
        let history = History::load(path)?;
        return Ok(judge(&history));
    }
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let size = setup::Size {
        regions: usize::from(args.regions),
        shards: usize::from(args.shards),
        brokers: usize::from(args.brokers),
    };
    println!("== jepsen: seed {seed}: starting {} regions", size.regions);
    let running = setup::start(size).context("starting the store failed")?;
    println!("== jepsen: clients and faults for {} min", args.minutes);
    let mut history = strike(&running, seed, args.minutes * 60);
    println!(
        "== jepsen: {} operations, {} faults; waiting for quiet",
        history.ops.len(),
        history.faults.len()
    );
    settle::settle(&running.store, &mut history)?;
    history.run.left_out.clone_from(&running.left_out);
    if let Some(path) = &args.history {
        history.save(path)?;
    }
    let good = judge(&history);
    if !good {
        let path = running.store.state_dir().with_file_name("history.jsonl");
        history.save(&path)?;
        println!("the history is in {}", path.display());
    }
    running.finish(!good)?;
    Ok(good)
}

/// Clients and faults side by side.
fn strike(running: &setup::Running, seed: u64, seconds: u64) -> History {
    let begun = Instant::now();
    let endpoints = running.regions.iter().map(|region| running.store.endpoint(region).to_owned());
    let common = Common {
        begun,
        stop: AtomicBool::new(false),
        sessions: AtomicU32::new(0),
        endpoints: endpoints.collect(),
        seed,
    };
    let noted = Mutex::new(Vec::new());
    let victim = Victim {
        store: &running.store,
        regions: &running.regions,
        clocks: &running.clocks,
        disks: &running.disks,
        begun,
        noted: &noted,
    };
    let tracks = schedule::plan(seed, running.regions.len(), seconds * 1000, running.disks.len());
    let (ops, changes) = thread::scope(|scope| {
        let clients = scope.spawn(|| work::run(&common));
        let watcher = scope.spawn(|| faults::watch::watch(&running.store, begun, &common.stop));
        let tracks: Vec<_> = tracks.iter().map(|track| scope.spawn(|| victim.run(track))).collect();
        for track in tracks {
            let _ = track.join();
        }
        thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
        common.stop.store(true, Ordering::Relaxed);
        (clients.join().unwrap_or_default(), watcher.join().unwrap_or_default())
    });
    let faults = noted.into_inner().unwrap_or_else(PoisonError::into_inner);
    let run = Run { seed, regions: running.regions.clone(), seconds, ..Run::default() };
    let mut history = History { run, ops, faults, changes, ends: Vec::new() };
    history.sort();
    history
}

/// Checks and prints.
fn judge(history: &History) -> bool {
    let verdicts: Vec<Verdict> = check::all(history);
    print!("{}", report::report(history, &verdicts));
    verdicts.iter().all(|verdict| verdict.violations.is_empty())
}
