//! The results as a table for people and as Markdown. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::lag::Lag;
use crate::load::Load;
use crate::memory::Memory;
use crate::rounds::{Cells, Sample};
use crate::targets::Target;

const BEGIN: &str = "<!-- written by `make bench` with --write: begin -->";
const END: &str = "<!-- written by `make bench` with --write: end -->";

/// All that was measured in one run.
pub(crate) struct Results {
    /// In words.
    pub(crate) machine: String,
    /// With files and replicas.
    pub(crate) durable: bool,
    /// How many.
    pub(crate) rounds: u16,
    /// Bytes a key.
    pub(crate) memory: Memory,
    /// Rates, latencies, processor time.
    pub(crate) cells: Cells,
    /// Between regions.
    pub(crate) lag: Lag,
}

/// What others reach of plain Redis's rate, measured the same way on such a machine (see docs/benchmarks.md).
fn anchor(load: Load, target: Target) -> &'static str {
    match (load.command, load.pipeline > 1, target) {
        ("SET", true, Target::Nutcracker) | ("GET", false, Target::Nutcracker) => "0.72",
        ("GET", true, Target::Nutcracker) => "0.41",
        ("SET", false, Target::Nutcracker) => "0.75",
        ("SET", true, Target::PairLocal | Target::PairQueued) => "KeyDB 0.28-0.39",
        ("SET", false, Target::PairLocal | Target::PairQueued) => "KeyDB 0.58",
        ("GET", true, Target::Alone | Target::PairLocal | Target::PairQueued) => "nutcracker 0.41",
        ("GET", false, Target::Alone | Target::PairLocal | Target::PairQueued) => "nutcracker 0.72",
        _ => "",
    }
}

const HEADINGS: [&str; 9] =
    ["target", "requests/s", "range", "ratio", "anchor", "p50 ms", "p99 ms", "CPU us/op", "by process"];

impl Results {
    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.machine, self.conditions());
        for load in Load::ALL {
            let rows = self.rows(load);
            let _ = write!(text, "\n{}\n", title(load));
            let widths: Vec<usize> = (0..HEADINGS.len())
                .map(|column| {
                    rows.iter()
                        .map(|row| row[column].len())
                        .chain([HEADINGS[column].len()])
                        .max()
                        .unwrap_or(0)
                })
                .collect();
            let headings = HEADINGS.map(ToOwned::to_owned);
            for row in std::iter::once(&headings).chain(&rows) {
                // Words to the left, numbers to the right.
                let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                    0 | 8 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                });
                text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
                text.push('\n');
            }
        }
        for line in self.lines() {
            let _ = write!(text, "\n{line}");
        }
        text.push('\n');
        for aim in self.aims() {
            let _ = write!(text, "\n{aim}");
        }
        text
    }

    /// For docs/benchmarks.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}. {}\n", self.machine, self.conditions());
        for load in Load::ALL {
            let _ = write!(
                text,
                "\n### {}\n\n| {} |\n|{}\n",
                title(load),
                HEADINGS.join(" | "),
                " --- |".repeat(HEADINGS.len())
            );
            for row in self.rows(load) {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
        }
        text.push_str("\n### Lag, memory, aims\n\n");
        for line in self.lines().into_iter().chain(self.aims()) {
            let _ = writeln!(text, "* {line}");
        }
        text
    }

    fn conditions(&self) -> String {
        let files = if self.durable {
            "append-only files synced every second everywhere, a replica for each of the store's shards (none for plain Redis)"
        } else {
            "no append-only files and no replicas anywhere"
        };
        format!(
            "{} interleaved rounds, medians and ranges; one shard and one proxy a region; {files}; values of 40 bytes, {} random keys",
            self.rounds, self.memory.keys
        )
    }

    fn rows(&self, load: Load) -> Vec<[String; 9]> {
        let plain = self.median(load, Target::Plain, |sample| sample.outcome.rate);
        Target::ALL
            .into_iter()
            .filter(|target| self.cells.contains_key(&(load, *target)))
            .map(|target| {
                let of = |value: fn(&Sample) -> f64| self.median(load, target, value);
                let (low, high) = self.range(load, target);
                let cpu = self.cpu(load, target);
                let parts: Vec<_> = cpu
                    .iter()
                    .filter(|(_, us)| **us >= 0.005)
                    .map(|(role, us)| format!("{role} {us:.2}"))
                    .collect();
                [
                    target.name().to_owned(),
                    format!("{:.0}", of(|sample| sample.outcome.rate)),
                    format!("{low:.0}-{high:.0}"),
                    format!("{:.2}", of(|sample| sample.outcome.rate) / plain),
                    anchor(load, target).to_owned(),
                    format!("{:.2}", of(|sample| sample.outcome.p50)),
                    format!("{:.2}", of(|sample| sample.outcome.p99)),
                    format!("{:.2}", cpu.values().sum::<f64>()),
                    parts.join(", "),
                ]
            })
            .collect()
    }

    fn lines(&self) -> Vec<String> {
        let lag = &self.lag;
        let memory = &self.memory;
        vec![
            format!(
                "visibility lag between regions, from sending to the first read over there: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms ({} probes at 1,000/s beside {:.0} writes/s, Queued)",
                lag.p50, lag.p99, lag.most, lag.probes, lag.writes
            ),
            format!(
                "memory for a key with a 40-byte string at {} keys (used_memory): plain Redis {:.0} bytes, region {:.0} ({:.2} times), peer that merged it {:.0} ({:.2} times)",
                memory.keys,
                memory.plain,
                memory.region,
                memory.region / memory.plain,
                memory.peer,
                memory.peer / memory.plain
            ),
        ]
    }

    fn aims(&self) -> Vec<String> {
        let rate = |load, target| self.median(load, target, |sample| sample.outcome.rate);
        let plain = |load| rate(load, Target::Plain);
        let verdict = |met: bool| if met { "met" } else { "NOT met" };
        let mut aims = Vec::new();
        for load in Load::ALL.into_iter().filter(|load| load.command == "GET") {
            let (own, other) = (rate(load, Target::PairQueued), rate(load, Target::Nutcracker));
            aims.push(format!(
                "aim: GET at P {} not below nutcracker: {} ({:.2} against {:.2} of plain Redis)",
                load.pipeline,
                verdict(own >= other),
                own / plain(load),
                other / plain(load)
            ));
        }
        for (load, keydb) in Load::ALL.into_iter().filter(|load| load.command == "SET").zip([0.28, 0.58]) {
            let own = rate(load, Target::PairQueued) / plain(load);
            aims.push(format!(
                "aim: SET Queued with a live peer at P {} not below KeyDB's pair: {} ({own:.2} against {keydb:.2} of plain Redis)",
                load.pipeline,
                verdict(own >= keydb)
            ));
        }
        aims.push(format!("aim: lag p99 under 10 ms: {}", verdict(self.lag.p99 < 10.0)));
        let times = self.memory.region.max(self.memory.peer) / self.memory.plain;
        aims.push(format!(
            "aim: memory of a 40-byte string under 1.5 times plain Redis: {} ({times:.2})",
            verdict(times < 1.5)
        ));
        aims
    }

    fn samples(&self, load: Load, target: Target) -> &[Sample] {
        self.cells.get(&(load, target)).map_or(&[], Vec::as_slice)
    }

    fn median(&self, load: Load, target: Target, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples(load, target).iter().map(value).collect())
    }

    fn range(&self, load: Load, target: Target) -> (f64, f64) {
        let rates = || self.samples(load, target).iter().map(|sample| sample.outcome.rate);
        (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max))
    }

    /// The median of each kind of process.
    fn cpu(&self, load: Load, target: Target) -> BTreeMap<&'static str, f64> {
        let samples = self.samples(load, target);
        let roles = samples.iter().flat_map(|sample| sample.cpu.keys().copied());
        let of = |role| {
            median(samples.iter().map(|sample| sample.cpu.get(role).copied().unwrap_or(0.0)).collect())
        };
        roles.map(|role| (role, of(role))).collect()
    }
}

fn title(load: Load) -> String {
    format!("{}, -P {} -c {}", load.command, load.pipeline, load.clients)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// `document` with `results` between the marks, or behind it all when there are none.
pub(crate) fn replace(document: &str, results: &str) -> String {
    let part = format!("{BEGIN}\n\n{}\n\n{END}", results.trim());
    match (document.find(BEGIN), document.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{part}{}", &document[..begin], &document[end + END.len()..])
        }
        _ => format!("{}\n\n{part}\n", document.trim_end()).trim_start().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        let rounded = |values| median(values).round() as i64;
        assert_eq!([vec![], vec![3.0], vec![5.0, 1.0, 3.0], vec![4.0, 2.0]].map(rounded), [0, 3, 3, 3]);
    }

    #[test]
    fn results_take_their_place_in_the_document() {
        let first = replace("# Title\n\ntext\n", "one");
        assert_eq!(first, format!("# Title\n\ntext\n\n{BEGIN}\n\none\n\n{END}\n"));
        assert_eq!(
            replace(&format!("{first}\nmore\n"), "two"),
            format!("# Title\n\ntext\n\n{BEGIN}\n\ntwo\n\n{END}\n\nmore\n")
        );
    }
}
