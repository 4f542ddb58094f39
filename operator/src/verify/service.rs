//! Runs when they are due, and when somebody asks. One at a time: verification of a second store waits for its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::VerificationRepair;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::report::Report;
use super::run::{How, Place, verify};
use super::schedule::{Last, due_ms};

/// How often it is looked whether a run is due.
const TICK: Duration = Duration::from_secs(1);
/// How long a run that was asked for waits until it may begin.
const PATIENCE: Duration = Duration::from_mins(1);
/// Requests that wait.
const ASKS_MAX: usize = 4;

/// What a platform adds to the schedule.
pub(crate) trait Service: Place {
    /// What the manifest says, now.
    fn settings(&self) -> crds::Verification;
    /// Why no run may begin now: a region is not Active.
    fn obstacle(&self) -> Option<String>;
    /// Takes what came of a run.
    fn done(&self, report: &Report) -> impl Future<Output = ()> + Send;
}

/// A run that somebody asks for.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    /// A name for it, which the report repeats.
    pub(crate) request: Option<String>,
    /// Otherwise as the manifest says.
    pub(crate) repair: Option<bool>,
    pub(crate) sample_percent: Option<u8>,
    /// Who waits for the report.
    pub(crate) reply: Option<oneshot::Sender<Report>>,
}

/// Asks for runs.
pub(crate) type Asks = mpsc::Sender<Ask>;

/// A way to ask, and its other end for [`run`].
pub(crate) fn asks() -> (Asks, mpsc::Receiver<Ask>) {
    mpsc::channel(ASKS_MAX)
}

fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Runs what is due or asked for, until nobody can ask any more. `turn`: shared by all stores.
pub(crate) async fn run(
    of: impl Service,
    mut last: Option<Last>,
    mut asks: mpsc::Receiver<Ask>,
    turn: Arc<Semaphore>,
) {
    let (store, began_ms) = (of.store(), now_ms());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = tick.tick() => None,
            ask = asks.recv() => match ask {
                Some(ask) => Some(ask),
                None => return,
            },
        };
        let settings = of.settings();
        let due = due_ms(&store, began_ms, last, settings.interval.to_std());
        let ask = match asked {
            Some(ask) => ask,
            None if due.is_some_and(|due| now_ms() >= due) && of.obstacle().is_none() => Ask::default(),
            None => continue,
        };
        let Ok(_turn) = turn.acquire().await else { return };
        let how = How {
            repair: ask.repair.unwrap_or(settings.repair == VerificationRepair::Automatic),
            sample_percent: ask.sample_percent.unwrap_or(settings.sample_percent),
            seed: rand::random(),
        };
        let report = match wait_ready(&of).await {
            None => verify(&of, how, ask.request).await,
            Some(why) => Report {
                store: store.clone(),
                request: ask.request,
                started_at: Timestamp::now().to_string(),
                finished_at: Timestamp::now().to_string(),
                failed: Some(why),
                ..Report::default()
            },
        };
        tracing::info!(store, request = report.request, result = report.words(), "verified");
        last = Some(Last { ended_ms: now_ms(), whole: report.failed.is_none() });
        of.done(&report).await;
        if let Some(reply) = ask.reply {
            // Who asked may have gone.
            let _ = reply.send(report);
        }
    }
}

/// Until all regions are Active; why they are not, if that takes too long.
async fn wait_ready(of: &impl Service) -> Option<String> {
    let began = Instant::now();
    loop {
        let why = of.obstacle()?;
        if began.elapsed() > PATIENCE {
            return Some(why);
        }
        sleep(TICK / 2).await;
    }
}
