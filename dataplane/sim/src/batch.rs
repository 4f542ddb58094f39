//! Runs many seeds, and adds up what they came to.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::checkers::Violation;
use crate::executor::{SEC, Time};
use crate::schedule::Schedule;
use crate::situation::About;
use crate::world::{self, Outcome};

/// Runs a schedule; a panic is a violation too.
pub(crate) fn run(schedule: &Schedule, trace: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| world::run(schedule, trace))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Outcome { violation: Some(Violation { checker: "panic", text }), ..Outcome::default() }
    })
}

/// What several runs came to.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) runs: u64,
    pub(crate) simulated: Time,
    pub(crate) events: u64,
    pub(crate) commits: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) checks: BTreeMap<&'static str, u64>,
    /// Seeds that failed.
    pub(crate) failed: Vec<(u64, Violation)>,
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        self.simulated += outcome.simulated;
        self.events += outcome.events;
        self.commits += outcome.commits as u64;
        for (name, count) in outcome.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in outcome.checks {
            *self.checks.entry(name).or_default() += count;
        }
        self.failed.extend(outcome.violation.map(|violation| (seed, violation)));
    }

    /// As a table.
    pub(crate) fn print(&self, took: Duration) {
        println!(
            "{} runs, {:.1} simulated hours, {} events, {} effects, {} faults, {} violations, in {:.1} s",
            self.runs,
            self.simulated as f64 / (3600 * SEC) as f64,
            self.events,
            self.commits,
            self.faults.values().sum::<u64>(),
            self.failed.len(),
            took.as_secs_f64()
        );
        for (title, counts) in [("faults", &self.faults), ("checks", &self.checks)] {
            println!("{title}:");
            for (name, count) in counts {
                println!("  {name:<34} {count:>12}");
            }
        }
        for (seed, violation) in &self.failed {
            println!("seed {seed}: {}: {}", violation.checker, violation.text);
        }
    }
}

/// When a batch ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    pub(crate) seed: u64,
    pub(crate) time: Option<Instant>,
    /// Violations after which it stops.
    pub(crate) failures: usize,
}

/// Runs seeds from `first` on, several at a time. `prepare` is called once in each thread.
pub(crate) fn run_seeds(
    first: u64,
    until: Until,
    jobs: usize,
    about: Option<About>,
    prepare: &(dyn Fn() + Sync),
) -> Sums {
    let shared = Mutex::new((first, Sums::default()));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                prepare();
                loop {
                    let seed = {
                        let mut state = lock();
                        let over = state.0 >= until.seed
                            || state.1.failed.len() >= until.failures
                            || until.time.is_some_and(|end| Instant::now() >= end);
                        if over {
                            return;
                        }
                        state.0 += 1;
                        state.0 - 1
                    };
                    let outcome = run(&Schedule::draw(seed, about), false);
                    lock().1.add(seed, outcome);
                }
            });
        }
    });
    let (_, sums) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    sums
}
