//! The interleaved rounds: in each, every load runs on every target once, so that a noisy minute hurts all alike.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stderr};

use anyhow::{Context, Result};

use crate::load::{self, Load, Outcome};
use crate::targets::{Target, Targets};
use crate::{Options, cpu, stop};

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What the client saw.
    pub(crate) outcome: Outcome,
    /// Microseconds for each request by kind of process.
    pub(crate) cpu: BTreeMap<&'static str, f64>,
}

/// All measurements.
pub(crate) type Cells = BTreeMap<(Load, Target), Vec<Sample>>;

/// Runs them.
pub(crate) fn run(targets: &Targets, options: &Options) -> Result<Cells> {
    let mut cells = Cells::new();
    let mut number = 0;
    let total = usize::from(options.rounds) * Load::ALL.len() * Target::ALL.len();
    for _ in 0..options.rounds {
        for load in Load::ALL {
            for target in Target::ALL {
                stop::check()?;
                number += 1;
                progress(&format!("{number}/{total} {} P {} {}", load.command, load.pipeline, target.name()));
                let requests = if load.pipeline > 1 { options.pipelined } else { options.single };
                let sample = measure(targets, target, load, requests, options.keys, number as u64)
                    .with_context(|| format!("measuring {} with {load:?} failed", target.name()))?;
                cells.entry((load, target)).or_default().push(sample);
            }
        }
    }
    progress("");
    Ok(cells)
}

fn measure(
    targets: &Targets,
    target: Target,
    load: Load,
    requests: u64,
    keys: u64,
    number: u64,
) -> Result<Sample> {
    targets.prepare(target)?;
    targets.settle(target, 2 * number)?;
    let roles = targets.roles(target)?;
    let before = cpu::read(&roles)?;
    let outcome = load::run(load, targets.port(target)?, requests, keys)?;
    targets.settle(target, 2 * number + 1)?;
    let used = cpu::difference(&before, &cpu::read(&roles)?);
    let cpu = used.into_iter().map(|(role, micros)| (role, micros as f64 / requests as f64)).collect();
    Ok(Sample { outcome, cpu })
}

/// One line that is overwritten at a terminal.
pub(crate) fn progress(text: &str) {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
        let _ = stderr().flush();
    } else if !text.is_empty() {
        eprintln!("{text}");
    }
}
