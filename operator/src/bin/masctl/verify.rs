//! `masctl verify`: whether all regions hold the same, and repair of what they do not.

use std::fmt::Write;
use std::time::Duration;

use crds::VerificationStatus;
use operator::platform::kubernetes::Remote;
use operator::platform::local::Client;
use operator::verify::Report;
use serde::Serialize;

use crate::args::{self, Output, Place};
use crate::failure::Failure;
use crate::inspect::print;
use crate::place::Where;
use crate::table;

/// `masctl verify`.
pub(crate) async fn verify(place: &Place, args: &args::Verify) -> Result<(), Failure> {
    match Where::find(place).await? {
        Where::Machine(layout) => {
            let report = Client::new(&layout).verify(args.repair, args.sample).await?;
            show(args, &report, || render(&report))?;
            conclude(report.remaining(), report.undecided, report.failed.as_deref())
        }
        Where::Cluster(remote) => in_cluster(&remote, args).await,
    }
}

/// The operator runs it, for it reaches the engines; its answer is in the status of the store.
async fn in_cluster(remote: &Remote, args: &args::Verify) -> Result<(), Failure> {
    let status = remote.verify(args.repair, args.sample, Duration::from_secs(args.timeout)).await?;
    show(args, &status, || render_status(&status))?;
    let left = status.different_keys.saturating_sub(status.repaired_keys);
    conclude(left, status.undecided, status.failed.as_deref())
}

fn show<T: Serialize>(args: &args::Verify, found: &T, table: impl FnOnce() -> String) -> Result<(), Failure> {
    let odd = |error: String| Failure::failed(format!("writing the result failed: {error}"));
    print(&match args.output {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(found).map_err(|e| odd(e.to_string()))? + "\n",
        Output::Yaml => serde_yaml::to_string(found).map_err(|e| odd(e.to_string()))?,
    })
}

fn conclude(left: u64, undecided: u64, failed: Option<&str>) -> Result<(), Failure> {
    if left > 0 {
        return Err(Failure::failed(format!("the regions differ in {left} keys")));
    }
    if let Some(why) = failed {
        return Err(Failure::failed(format!("the comparison ended early: {why}")));
    }
    if undecided > 0 {
        return Err(Failure::failed(format!(
            "{undecided} comparisons could not be decided: try again when `masctl status` shows no lag"
        )));
    }
    Ok(())
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    if !report.keys.is_empty() {
        let head = ["KEY", "SHARD", "SLOT", "OUTCOME", "DIFFERS IN", "ELEMENT", "REGION", "HOLDS"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for key in &report.keys {
            for element in &key.elements {
                for held in &element.held {
                    rows.push(vec![
                        key.key.clone(),
                        key.shard.to_string(),
                        key.slot.to_string(),
                        format!("{:?}", key.outcome),
                        element.what.clone(),
                        element.element.clone().unwrap_or_default(),
                        held.region.clone(),
                        held.holds.clone(),
                    ]);
                }
            }
        }
        text += &table::table(&rows);
        text.push('\n');
    }
    for key in report.keys.iter().filter(|key| key.elements_unlisted > 0) {
        let _ = writeln!(text, "{}: and {} more elements", key.key, key.elements_unlisted);
    }
    for key in &report.keys {
        if let Some(why) = &key.why {
            let _ = writeln!(text, "{} is not repaired: {why}", key.key);
        }
    }
    if report.keys_unlisted > 0 {
        let _ = writeln!(text, "And {} more keys.", report.keys_unlisted);
    }
    for open in &report.undecided_listed {
        let _ = writeln!(text, "Undecided: {open}");
    }
    let (regions, words) = (report.regions.join(", "), report.words());
    let _ = writeln!(text, "Compared {regions}: {words} (values of {} keys).", report.keys_sampled);
    text
}

fn render_status(status: &VerificationStatus) -> String {
    let mut text = String::new();
    if !status.keys.is_empty() {
        let mut rows = vec![["KEY", "SHARD", "OUTCOME", "WHAT"].map(str::to_owned).to_vec()];
        for key in &status.keys {
            rows.push(vec![key.key.clone(), key.shard.to_string(), key.outcome.clone(), key.what.clone()]);
        }
        text += &table::table(&rows);
        text.push('\n');
    }
    for key in &status.keys {
        if let Some(why) = &key.why {
            let _ = writeln!(text, "{} is not repaired: {why}", key.key);
        }
    }
    let more = status.different_keys.saturating_sub(status.keys.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "And {more} more keys.");
    }
    let _ = writeln!(text, "{} (values of {} keys).", status.result, status.keys_sampled);
    text
}
