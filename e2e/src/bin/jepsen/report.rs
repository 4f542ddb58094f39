//! What a run comes to, for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::check::{Verdict, Violation};
use crate::history::{History, Level, Op, Outcome};

/// Violations and operations of each that are printed.
const SHOWN_VIOLATIONS: usize = 5;
const SHOWN_OPS: usize = 60;

/// Operations by kind and outcome, faults by kind, longest times without an answered write, and what the checkers say.
pub(crate) fn report(history: &History, verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} regions, seed {}, {} s of clients and faults",
        history.run.regions.len(),
        history.run.seed,
        history.run.seconds
    );
    operations(history, &mut text);
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &history.faults {
        *faults.entry(&fault.kind).or_default() += 1;
    }
    let _ = writeln!(text, "faults ({})", history.faults.len());
    for (kind, count) in faults {
        let _ = writeln!(text, "  {kind:<32}{count:>6}");
    }
    for what in &history.run.left_out {
        let _ = writeln!(text, "  not possible here: {what}");
    }
    let _ = writeln!(text, "longest time without an acknowledged write, at any level and at Queued");
    for (number, region) in history.run.regions.iter().enumerate() {
        let gap = |level| longest_gap(history, number, level) as f64 / 1e6;
        let _ = writeln!(text, "  {region:<28}{:>8.1} s{:>8.1} s", gap(Level::Local), gap(Level::Queued));
    }
    let _ = writeln!(text, "{:<14}{:>10}{:>8}{:>12}", "checks", "made", "open", "violations");
    for verdict in verdicts {
        let Verdict { checker, checked, open, violations } = verdict;
        let _ = writeln!(text, "  {checker:<12}{checked:>10}{open:>8}{:>12}", violations.len());
    }
    for verdict in verdicts {
        for violation in verdict.violations.iter().take(SHOWN_VIOLATIONS) {
            show(history, verdict.checker, violation, &mut text);
        }
    }
    text
}

fn operations(history: &History, text: &mut String) {
    let mut kinds: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = [0; 3];
    for op in &history.ops {
        let place = match &op.outcome {
            Outcome::Ok(_) => 0,
            Outcome::Failed(_) => 1,
            Outcome::Unknown(_) => 2,
        };
        kinds.entry(&op.words[0]).or_default()[place] += 1;
        all[place] += 1;
        if let Outcome::Failed(why) | Outcome::Unknown(why) = &op.outcome {
            *reasons.entry(why.chars().take(60).collect()).or_default() += 1;
        }
    }
    let _ = writeln!(text, "{:<14}{:>8}{:>8}{:>9}", "operations", "ok", "failed", "unknown");
    for (kind, [ok, failed, unknown]) in kinds.into_iter().chain([("all", all)]) {
        let _ = writeln!(text, "  {kind:<12}{ok:>8}{failed:>8}{unknown:>9}");
    }
    for (reason, count) in reasons {
        let _ = writeln!(text, "  {count:>6} x {}", reason.replace('\n', " "));
    }
}

/// The longest time in which no write was acknowledged in a region, at this level or above.
fn longest_gap(history: &History, region: usize, level: Level) -> u64 {
    let writes = |op: &&Op| {
        let reads = ["GET", "SMEMBERS", "HGETALL", "ZRANGE", "MAS.TOKEN", "MAS.AWAIT"];
        op.region == region
            && op.level >= level
            && op.reply().is_some()
            && !reads.contains(&op.words[0].as_str())
    };
    let mut times: Vec<u64> = history.ops.iter().filter(writes).map(|op| op.end).collect();
    times.extend([0, history.run.seconds * 1_000_000]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn show(history: &History, checker: &str, violation: &Violation, text: &mut String) {
    let _ = writeln!(text, "\nVIOLATION of {checker}: {}", violation.what);
    let ops: Vec<&Op> = violation.ops.iter().filter_map(|place| history.ops.get(*place)).collect();
    let skipped = ops.len().saturating_sub(SHOWN_OPS);
    if skipped > 0 {
        let _ = writeln!(text, "  ({skipped} earlier operations are not shown)");
    }
    for op in &ops[skipped..] {
        let region = history.run.regions.get(op.region).map_or("?", String::as_str);
        let _ = writeln!(
            text,
            "  {:>11.6} {:>11.6} {region} process {} session {} {:?}: {} -> {}",
            op.start as f64 / 1e6,
            op.end as f64 / 1e6,
            op.process,
            op.session,
            op.level,
            op.words.join(" "),
            outcome(&op.outcome)
        );
    }
    let Some((first, last)) = ops.first().zip(ops.last()) else { return };
    for fault in history.faults.iter().filter(|f| f.end + 15_000_000 > first.start && f.start < last.end) {
        let (start, end) = (fault.start as f64 / 1e6, fault.end as f64 / 1e6);
        let _ = writeln!(text, "  {start:>11.6} {end:>11.6} fault: {} ({})", fault.kind, fault.target);
    }
}

fn outcome(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Ok(reply) => format!("{reply:?}"),
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::Unknown(why) => format!("unknown: {why}"),
    };
    text.chars().take(160).collect()
}
