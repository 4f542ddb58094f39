//! A client that writes one key after the other, and how long it was kept waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::Store;
use redis::Client;

/// A client that waits longer than this gives up and connects anew.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// It writes until it is stopped.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    errors: Arc<AtomicU64>,
    client: JoinHandle<Vec<(Instant, Instant)>>,
}

impl Probe {
    /// Writes in `region`, with a pause of a millisecond after each answer. An error is no answer.
    pub(crate) fn start(store: &Store, region: &str) -> Result<Self> {
        let client = store.client(region)?;
        let (stop, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, failed) = (Arc::clone(&stop), Arc::clone(&errors));
        let client = thread::spawn(move || run(&client, &ended, &failed));
        Ok(Self { stop, errors, client })
    }

    /// Ends it: the times between two answers that lie (partly) within each of `windows`, the longest of each, milliseconds, and
    /// how many errors there were.
    pub(crate) fn longest_waits(self, windows: &[(Instant, Instant)]) -> (Vec<u64>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let gaps = self.client.join().unwrap_or_default();
        let longest = |(from, to): &(Instant, Instant)| {
            let within = gaps.iter().filter(|(asked, answered)| asked < to && answered > from);
            within.map(|(asked, answered)| (*answered - *asked).as_millis() as u64).max().unwrap_or(0)
        };
        (windows.iter().map(longest).collect(), self.errors.load(Ordering::Relaxed))
    }
}

fn run(client: &Client, ended: &AtomicBool, failed: &AtomicU64) -> Vec<(Instant, Instant)> {
    let (mut gaps, mut number) = (Vec::new(), 0u64);
    let mut answered = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let Ok(mut connection) = client.get_connection_with_timeout(ANSWER_LIMIT) else {
            failed.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let _ = connection.set_read_timeout(Some(ANSWER_LIMIT));
        while !ended.load(Ordering::Relaxed) {
            number += 1;
            let key = format!("probe:{}", number % 1000);
            if redis::cmd("SET").arg(key).arg(number).exec(&mut connection).is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
                break;
            }
            gaps.push((std::mem::replace(&mut answered, Instant::now()), answered));
            thread::sleep(Duration::from_millis(1));
        }
    }
    // Each pair is (answer before, this answer).
    gaps
}

/// All regions are Active, and every master has its replica.
pub(crate) fn active(store: &Store) -> Result<(), String> {
    let status = store.status().map_err(|error| format!("{error:#}"))?;
    let replicas = |region: &e2e::Region| region.shards.iter().all(|shard| !shard.replicas.is_empty());
    if status.all_active() && status.regions.iter().all(replicas) { Ok(()) } else { Err(status.summary()) }
}

/// `what: p50, p99 and the most of so many`, milliseconds.
pub(crate) fn spread(what: &str, mut millis: Vec<u64>) {
    millis.sort_unstable();
    // The smallest that so many of a hundred do not exceed.
    let percentile = |of: usize| millis.get((millis.len() * of).div_ceil(100).saturating_sub(1)).copied();
    let (middle, high, most) = (percentile(50), percentile(99), millis.last());
    println!(
        "| {what} | {} | {} | {} | {} |",
        millis.len(),
        middle.unwrap_or_default(),
        high.unwrap_or_default(),
        most.copied().unwrap_or_default()
    );
}

/// The head of a table of [`spread`]s.
pub(crate) fn head() {
    println!("\n| | runs | p50, ms | p99, ms | most, ms |\n| --- | ---: | ---: | ---: | ---: |");
}
