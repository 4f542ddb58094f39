//! `masctl apply` and `masctl op`: changes of a running store, and the operations that carry them out.

use std::fmt::Write as _;
use std::fs;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crds::{OperationOutcome, OperationPhase, OperationType, StepProgress, StoreOperationSpec};
use jiff::Timestamp;
use operator::platform::local::{Client, Request};
use operator::view::OperationRow;
use tokio::time::sleep;

use crate::args::{self, OpCommand, Output, Place, StartCommand};
use crate::failure::{Failure, say};
use crate::inspect::print;
use crate::locate;
use crate::place::Where;

/// Characters of a bar.
const BAR: usize = 24;

/// `masctl apply`.
pub(crate) async fn apply(place: &Place, args: &args::Apply) -> Result<(), Failure> {
    let manifest = fs::read_to_string(&args.file)
        .map_err(|error| Failure::failed(format!("reading {} failed: {error}", args.file.display())))?;
    let store = crds::load(&manifest)
        .map_err(|invalid| Failure::configuration(format!("{}: {invalid}", args.file.display())))?;
    let layout = locate::for_store(place, &store.name)?;
    let started = Client::new(&layout).ask(&Request::Apply { manifest }).await?;
    let started: Vec<String> = serde_json::from_value(started).unwrap_or_default();
    if started.is_empty() {
        say("nothing changes");
    }
    for name in started {
        say(&format!("{name} has begun: `masctl op show {name} --watch`"));
    }
    Ok(())
}

/// `masctl op`.
pub(crate) async fn op(place: &Place, command: &OpCommand) -> Result<(), Failure> {
    match command {
        OpCommand::List { output } => {
            let rows = Where::find(place).await?.operations().await?;
            print(&render(&rows, *output, table)?)
        }
        OpCommand::Show { name, output, watch } => show(place, name, *output, *watch).await,
        OpCommand::Start(StartCommand::Rebuild { region, shard, source }) => {
            let name = Where::find(place).await?.rebuild(region, *shard, source.as_deref()).await?;
            say(&format!("{name} has begun: `masctl op show {name} --watch`"));
            Ok(())
        }
        OpCommand::Start(StartCommand::Remove { region, force }) => {
            let name = Where::find(place).await?.remove(region, *force).await?;
            say(&format!("{name} has begun: `masctl op show {name} --watch`"));
            Ok(())
        }
        OpCommand::Start(StartCommand::Switchover { region, shard, to }) => {
            start(place, OperationType::Switchover, region, Some(*shard), *to).await
        }
        OpCommand::Start(StartCommand::Failover { region, shard }) => {
            start(place, OperationType::Failover, region, Some(*shard), None).await
        }
        OpCommand::Start(StartCommand::Verify) => start(place, OperationType::Verify, "", None, None).await,
        OpCommand::Start(StartCommand::Repair) => start(place, OperationType::Repair, "", None, None).await,
        OpCommand::Wait { name, timeout } => wait(place, name, Duration::from_secs(*timeout)).await,
        OpCommand::Retry { name } => order(place, name, false).await,
        OpCommand::Rollback { name } => order(place, name, true).await,
    }
}

/// Begins what is over in a moment.
async fn start(
    place: &Place,
    kind: OperationType,
    region: &str,
    shard: Option<u16>,
    target: Option<u16>,
) -> Result<(), Failure> {
    let name = Where::find(place).await?.start(kind, region, shard, target).await?;
    say(&format!("{name} has begun: `masctl op show {name} --watch`"));
    Ok(())
}

async fn one(at: &Where, name: &str) -> Result<OperationRow, Failure> {
    let rows = at.operations().await?;
    let known: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    rows.into_iter().find(|row| row.name == name).ok_or_else(|| {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::usage(format!("there is no operation '{name}': there are {known}"))
    })
}

async fn order(place: &Place, name: &str, rollback: bool) -> Result<(), Failure> {
    Where::find(place).await?.order(name, rollback).await?;
    say(&format!(
        "{name} is {}: `masctl op show {name} --watch`",
        if rollback { "taken back" } else { "tried again" }
    ));
    Ok(())
}

async fn show(place: &Place, name: &str, output: Output, watch: bool) -> Result<(), Failure> {
    let at = Where::find(place).await?;
    let mut last: Option<(u64, Instant, usize)> = None;
    loop {
        let row = one(&at, name).await?;
        let rate = rate(&row, &mut last);
        let text = render(&row, output, |row| describe(row, rate))?;
        if !watch {
            return print(&text);
        }
        if std::io::stdout().is_terminal() {
            print(&format!("\x1b[H\x1b[J{text}"))?;
        } else {
            print(&format!("{text}\n"))?;
        }
        if is_over(row.status.phase) {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn wait(place: &Place, name: &str, limit: Duration) -> Result<(), Failure> {
    let row = until_over(&Where::find(place).await?, name, limit).await?;
    if row.status.phase == OperationPhase::Succeeded {
        return Ok(());
    }
    print(&describe(&row, None))?;
    let how = if is_over(row.status.phase) { "has not succeeded" } else { "is not done yet" };
    Err(Failure::failed(format!("{name} {how}")))
}

/// An operation once it is over, or as it is when that takes too long.
pub(crate) async fn until_over(at: &Where, name: &str, limit: Duration) -> Result<OperationRow, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let row = one(at, name).await?;
        if is_over(row.status.phase) || Instant::now() > deadline {
            return Ok(row);
        }
        sleep(at.pace()).await;
    }
}

/// What is done a second of the step that it is at, since the look before.
fn rate(row: &OperationRow, last: &mut Option<(u64, Instant, usize)>) -> Option<f64> {
    let at = row.status.steps.iter().position(|step| Some(&step.name) == row.status.step.as_ref())?;
    let done = row.status.steps[at].progress.as_ref()?.done;
    let now = Instant::now();
    let before = last.replace((done, now, at));
    let (then, when, step) = before?;
    let seconds = now.duration_since(when).as_secs_f64();
    (step == at && done > then && seconds > 0.1).then(|| (done - then) as f64 / seconds)
}

fn is_over(phase: OperationPhase) -> bool {
    match phase {
        OperationPhase::Pending | OperationPhase::Running => false,
        OperationPhase::Succeeded | OperationPhase::Failed | OperationPhase::RolledBack => true,
    }
}

fn render<T: serde::Serialize + ?Sized>(
    what: &T,
    output: Output,
    table: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    let odd = |error: String| Failure::failed(format!("writing the operation failed: {error}"));
    match output {
        Output::Table => Ok(table(what)),
        Output::Json => {
            serde_json::to_string_pretty(what).map(|text| text + "\n").map_err(|e| odd(e.to_string()))
        }
        Output::Yaml => serde_yaml::to_string(what).map_err(|e| odd(e.to_string())),
    }
}

#[allow(clippy::ptr_arg)] // as `render` gives it
fn table(rows: &Vec<OperationRow>) -> String {
    if rows.is_empty() {
        return "no operations\n".into();
    }
    let wide = rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max(4);
    let mut text =
        format!("{:wide$}  TYPE        ABOUT         PHASE       STEP         PROGRESS  BLOCKED\n", "NAME");
    for row in rows {
        let status = &row.status;
        let _ = writeln!(
            text,
            "{:wide$}  {:10}  {:12}  {:10}  {:11}  {:8}  {}",
            row.name,
            format!("{:?}", row.spec.kind),
            about(row),
            format!("{:?}", status.phase),
            status.step.as_deref().unwrap_or("-"),
            status.progress.as_deref().unwrap_or("-"),
            status.blocked.as_ref().map_or("-", |blocked| blocked.reason.as_str()),
        );
    }
    text
}

fn describe(row: &OperationRow, rate: Option<f64>) -> String {
    let status = &row.status;
    let mut text = format!("{}  {:?} of {}: {:?}", row.name, row.spec.kind, about(row), status.phase);
    if let (Some(from), Some(to)) = (&status.started_at, &status.finished_at) {
        let _ = write!(text, " after {}", seconds(from.0, to.0));
    }
    text.push('\n');
    for step in &status.steps {
        let current = Some(&step.name) == status.step.as_ref() && !is_over(status.phase);
        let sign = match (&step.finished_at, current) {
            (Some(_), _) => "✓",
            (None, true) => "▸",
            (None, false) => "·",
        };
        let time = match (&step.started_at, &step.finished_at) {
            (Some(from), Some(to)) => seconds(from.0, to.0),
            (Some(from), None) if current => seconds(from.0, Timestamp::now()),
            _ => String::new(),
        };
        let _ = write!(text, "  {sign} {:12} {time:>9}", step.name);
        if let Some(progress) = step.progress.as_ref().filter(|_| current) {
            let _ = write!(text, "  {}", bar(progress, rate));
        }
        if step.repeats > 0 {
            let _ = write!(text, "  (begun anew {} times)", step.repeats);
        }
        text.push('\n');
        if current && !step.message.is_empty() {
            let _ = writeln!(text, "      {}", step.message);
        }
    }
    if let Some(blocked) = &status.blocked {
        let since = blocked.since.as_ref().map(|since| seconds(since.0, Timestamp::now()));
        let _ = writeln!(text, "  blocked ({}, for {})", blocked.reason, since.unwrap_or_default());
    }
    if let Some(message) = status.message.as_ref().filter(|_| is_over(status.phase)) {
        let _ = writeln!(text, "  {message}");
    }
    text.push_str(&status.outcome.as_ref().map(|outcome| measured(&row.spec, outcome)).unwrap_or_default());
    text
}

/// What a rebuild, or the removal of a region that was gone, has measured; nothing of other operations.
fn measured(spec: &StoreOperationSpec, outcome: &OperationOutcome) -> String {
    if spec.kind == OperationType::Remove {
        return match outcome.rpo_effects {
            _ if !spec.force => String::new(),
            Some(lost) => format!("  lost with it: {lost} effects that it told of and nobody has\n"),
            None => "  lost with it: not known; nobody remembers what it told\n".to_owned(),
        };
    }
    let Some(lost) = outcome.rpo_effects else { return String::new() };
    let time = |ms: Option<u64>| {
        ms.map_or("unknown".to_owned(), |ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100))
    };
    let span = if lost == 0 { String::new() } else { format!(", of at most {}", time(outcome.rpo_millis)) };
    format!(
        "  lost for good (RPO): {lost} effects{span}\n  until clients were served again (RTO): {}\n  from then to full repair (WRT): {}\n",
        time(outcome.rto_millis),
        time(outcome.wrt_millis)
    )
}

/// The region, the shard, or all.
fn about(row: &OperationRow) -> String {
    let region = &row.spec.region;
    if region.is_empty() {
        return "all regions".to_owned();
    }
    row.spec.shard.map_or_else(|| region.clone(), |shard| format!("{region}/shard-{shard}"))
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    let ms = to.as_millisecond().saturating_sub(from.as_millisecond());
    if ms < 10_000 { format!("{}.{} s", ms / 1000, ms % 1000 / 100) } else { format!("{} s", ms / 1000) }
}

fn bar(progress: &StepProgress, rate: Option<f64>) -> String {
    let StepProgress { done, total, unit } = progress;
    if unit == "effects" {
        return format!("{total} effects behind");
    }
    let full = usize::try_from(done.saturating_mul(BAR as u64) / (*total).max(1)).unwrap_or(BAR).min(BAR);
    let amount = |n: u64| if unit == "bytes" { bytes(n) } else { n.to_string() };
    let mut text =
        format!("[{}{}] {} of {}", "█".repeat(full), "░".repeat(BAR - full), amount(*done), amount(*total));
    if unit != "bytes" {
        let _ = write!(text, " {unit}");
    }
    if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
        let left = (total.saturating_sub(*done) as f64 / rate).ceil();
        let _ = write!(text, ", {}/s, {left} s left", amount(rate as u64));
    }
    text
}

fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} kB", n / 1000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_loss_has_cost_is_told() {
        let spec = |kind, force| StoreOperationSpec {
            store_ref: crds::StoreRef { name: "shop".into() },
            kind,
            region: "b".into(),
            shard: None,
            source: None,
            target: None,
            force,
            action: crds::OperationAction::Run,
            attempt: 1,
        };
        let measured =
            |outcome: &OperationOutcome| super::measured(&spec(OperationType::Rebuild, false), outcome);
        assert_eq!(measured(&OperationOutcome { total_millis: Some(5), ..OperationOutcome::default() }), "");
        let some = OperationOutcome {
            total_millis: None,
            rpo_effects: Some(3),
            rpo_millis: Some(250),
            rto_millis: Some(1840),
            ..OperationOutcome::default()
        };
        assert_eq!(
            measured(&some),
            "  lost for good (RPO): 3 effects, of at most 0.2 s\n  until clients were served again (RTO): 1.8 s\n  from then to full repair (WRT): unknown\n"
        );
        let gone = |force, of: &OperationOutcome| super::measured(&spec(OperationType::Remove, force), of);
        assert_eq!(gone(true, &some), "  lost with it: 3 effects that it told of and nobody has\n");
        assert!(
            gone(true, &OperationOutcome::default()).contains("not known") && gone(false, &some).is_empty()
        );
        let none = measured(&OperationOutcome { rpo_effects: Some(0), ..some });
        assert!(none.starts_with("  lost for good (RPO): 0 effects\n"), "{none}");
    }

    #[test]
    fn a_bar_says_how_much_how_fast_and_how_long() {
        let progress = StepProgress { done: 50_000_000, total: 100_000_000, unit: "bytes".into() };
        let text = bar(&progress, Some(10_000_000.0));
        assert_eq!(text, "[████████████░░░░░░░░░░░░] 50 MB of 100 MB, 10 MB/s, 5 s left");
        let none = StepProgress { done: 0, total: 0, unit: "markers".into() };
        assert_eq!(bar(&none, None), "[░░░░░░░░░░░░░░░░░░░░░░░░] 0 of 0 markers");
    }
}
