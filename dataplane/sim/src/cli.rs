//! The command line.

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::batch::{self, Until, run_seeds};
use crate::schedule::Schedule;
use crate::situation::About;
use crate::{mutations, shrink};

/// How long a failing schedule is made smaller.
const SHRINK_LIMIT: Duration = Duration::from_mins(1);
/// Lines of a timeline that are printed without `--trace`.
const LINES: usize = 60;

/// Simulates whole multi-active stores and checks what SEMANTICS promises.
///
/// A seed is a whole run: the store, what clients do, what goes wrong and when. The same seed gives the same run. A failing
/// seed is made as small as can be found and printed with its timeline. See docs/correctness.md.
#[derive(Debug, Parser)]
#[command(name = "sim", version)]
struct Args {
    /// Run this seed only, and say what happened
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "seconds", "soak"])]
    seed: Option<u64>,
    /// Run these seeds, the last one excluded
    #[arg(long, value_name = "A..B", value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Run seeds for so long [default without --seeds: 10]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Run seeds until stopped, from a first one drawn from the time unless --seeds says where to begin
    #[arg(long)]
    soak: bool,
    /// Make every run about this situation
    #[arg(long, value_name = "NAME")]
    about: Option<About>,
    /// Print the whole timeline of a seed
    #[arg(long)]
    trace: bool,
    /// Do not make failing schedules smaller
    #[arg(long)]
    no_shrink: bool,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Violations after which a batch stops
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: usize,
    /// Plant this bug (needs --features mutations)
    #[arg(long, value_name = "NAME")]
    mutation: Option<String>,
    /// Name the bugs that can be planted
    #[arg(long)]
    list_mutations: bool,
    /// Plant every bug in turn; fail unless every one is found within --seeds (default 300)
    #[arg(long)]
    mutations: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("two numbers with '..' in between")?;
    let number = |text: &str| text.parse::<u64>().map_err(|why| why.to_string());
    Ok(number(first)?..number(end)?)
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("sim: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    if args.list_mutations {
        return mutations::list().map(|()| true);
    }
    if args.mutations {
        let seeds = args.seeds.clone().unwrap_or(1..301);
        return mutations::check_all(seeds.start, seeds.end - seeds.start, args.jobs, args.about);
    }
    if let Some(name) = &args.mutation {
        mutations::find(name)?;
    }
    let planted = args.mutation.as_deref();
    mutations::plant(planted);
    if let Some(seed) = args.seed {
        return Ok(one(seed, args));
    }
    let soak_from = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_secs() * 1000)
    };
    let seeds =
        args.seeds.clone().unwrap_or_else(|| if args.soak { soak_from()..u64::MAX } else { 1..u64::MAX });
    let seconds = args.seconds.or((args.seeds.is_none() && !args.soak).then_some(10));
    let start = Instant::now();
    let until = Until {
        seed: if args.soak { u64::MAX } else { seeds.end },
        time: seconds.map(|s| start + Duration::from_secs(s)),
        failures: args.failures,
    };
    println!("seeds from {}", seeds.start);
    let sums = run_seeds(seeds.start, until, args.jobs, args.about, &|| mutations::plant(planted));
    sums.print(start.elapsed());
    if let Some((seed, _)) = sums.failed.iter().min_by_key(|(seed, _)| *seed) {
        one(*seed, args);
    }
    Ok(sums.failed.is_empty())
}

/// Runs a seed with its timeline; makes it smaller when it fails. Returns whether it went well.
fn one(seed: u64, args: &Args) -> bool {
    let schedule = Schedule::draw(seed, args.about);
    let outcome = batch::run(&schedule, true);
    let Some(violation) = outcome.violation else {
        if args.trace {
            outcome.timeline.iter().for_each(|line| println!("{line}"));
        }
        println!(
            "seed {seed}: well. {} regions, {} effects, {} faults, {:.1} simulated seconds, {} events",
            schedule.setup.regions.len(),
            outcome.commits,
            outcome.faults.values().sum::<u64>(),
            outcome.simulated as f64 / 1e6,
            outcome.events
        );
        return true;
    };
    println!("seed {seed}: VIOLATION ({}): {}", violation.checker, violation.text);
    println!("replay: cargo run -p sim -- --seed {seed}{}", planted(args));
    let (small, lines) = if args.no_shrink {
        (schedule, outcome.timeline)
    } else {
        let (small, runs) = shrink::shrink(&schedule, violation.checker, Instant::now() + SHRINK_LIMIT);
        println!(
            "shortest schedule found in {runs} runs: {} of {} faults, {} of {} operations",
            small.faults.len(),
            schedule.faults.len(),
            small.operations.len(),
            schedule.operations.len()
        );
        let again = batch::run(&small, true);
        if let Some(violation) = &again.violation {
            println!("it ends: ({}) {}", violation.checker, violation.text);
        }
        (small, again.timeline)
    };
    println!("store: {:?}", small.setup);
    for fault in &small.faults {
        println!("  fault at {:>6} ms: {:?}", fault.at / 1000, fault.kind);
    }
    for operation in small.operations.iter().take(LINES) {
        println!(
            "  operation at {:>6} ms by client {}: #{} {:?}",
            operation.at / 1000,
            operation.session,
            operation.number,
            operation.step
        );
    }
    let from = if args.trace { 0 } else { lines.len().saturating_sub(LINES) };
    println!("timeline{}:", if from > 0 { " (its end; all of it with --trace)" } else { "" });
    lines[from..].iter().for_each(|line| println!("{line}"));
    false
}

fn planted(args: &Args) -> String {
    use clap::ValueEnum;
    let about = args.about.and_then(|about| about.to_possible_value());
    let about = about.map_or(String::new(), |about| format!(" --about {}", about.get_name()));
    about + &args.mutation.as_ref().map_or(String::new(), |name| format!(" --mutation {name}"))
}
