//! What people see while a store starts: a bar a region at a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use operator::view::{RegionPhase, StoreStatus};

/// Shows how a store comes up.
pub(crate) enum Progress {
    Bars { _all: MultiProgress, regions: Vec<ProgressBar> },
    Lines { last: Vec<String>, since: Instant },
}

impl Progress {
    /// For this terminal, or this log.
    pub(crate) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars { _all: MultiProgress::new(), regions: Vec::new() }
        } else {
            Self::Lines { last: Vec::new(), since: Instant::now() }
        }
    }

    /// Shows this state.
    pub(crate) fn show(&mut self, status: &StoreStatus) {
        let steps: Vec<_> = status.regions.iter().map(|region| step(status, &region.name)).collect();
        match self {
            Self::Bars { _all: all, regions } => {
                if regions.is_empty() {
                    let style = ProgressStyle::with_template("{prefix:>14} {bar:24} {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_bar());
                    regions.extend(status.regions.iter().zip(&steps).map(|(region, step)| {
                        let bar = all.add(ProgressBar::new(step.total)).with_style(style.clone());
                        bar.set_prefix(region.name.clone());
                        bar
                    }));
                }
                for (bar, step) in regions.iter().zip(&steps) {
                    bar.set_position(step.done);
                    bar.set_message(step.words.clone());
                }
            }
            Self::Lines { last, since } => {
                last.resize(steps.len(), String::new());
                for ((region, step), last) in status.regions.iter().zip(&steps).zip(last) {
                    if step.words != *last {
                        eprintln!(
                            "[{:5.1} s] {}: {}",
                            since.elapsed().as_secs_f64(),
                            region.name,
                            step.words
                        );
                        last.clone_from(&step.words);
                    }
                }
            }
        }
    }

    /// Ends the display.
    pub(crate) fn end(self) {
        if let Self::Bars { regions, .. } = self {
            for bar in regions {
                bar.abandon();
            }
        }
    }
}

/// Time between two looks.
pub(crate) const EVERY: Duration = Duration::from_millis(150);

struct Step {
    done: u64,
    total: u64,
    words: String,
}

/// How far a region is: its processes that are ready, its shards that serve, its peers that are read.
fn step(status: &StoreStatus, name: &str) -> Step {
    let Some(region) = status.regions.iter().find(|region| region.name == name) else {
        return Step { done: 0, total: 1, words: String::new() };
    };
    let prefix = format!("{name}/");
    let count = |kind: &str| {
        let rows = || {
            status
                .processes
                .iter()
                .filter(|row| row.component.starts_with(&prefix) && row.component.contains(kind))
        };
        (rows().filter(|row| row.ready).count(), rows().count())
    };
    let (redis, brokers, proxies) = (count("/redis-"), count("/broker-"), count("/proxy-"));
    let serving = region.shards.iter().filter(|shard| shard.state == "serving" && shard.recovered).count();
    let reading = region.links.iter().filter(|link| link.lag_millis.is_some()).count();
    let done = redis.0 + brokers.0 + proxies.0 + serving + reading;
    let total = redis.1 + brokers.1 + proxies.1 + region.shards.len() + region.links.len();
    let words = if region.phase == RegionPhase::Active {
        format!("active at {}", region.endpoint)
    } else if matches!(region.phase, RegionPhase::Draining | RegionPhase::Drained) {
        format!("{:?}: another region serves the clients of {}", region.phase, region.endpoint).to_lowercase()
    } else if redis.0 < redis.1 {
        format!("starting engines ({} of {})", redis.0, redis.1)
    } else if brokers.0 < brokers.1 {
        "starting its broker".into()
    } else if proxies.0 < proxies.1 {
        format!("starting proxies ({} of {})", proxies.0, proxies.1)
    } else if serving < region.shards.len() {
        format!("reading its own streams back ({serving} of {} shards serve)", region.shards.len())
    } else {
        "reading its peers".into()
    };
    Step { done: done as u64, total: total as u64, words }
}
