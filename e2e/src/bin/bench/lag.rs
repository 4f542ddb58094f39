//! How long a write takes until the other region shows it: 1,000 probes a second beside 5,000 other writes.
//!
//! A probe is timed from just before it is sent to just after the first read in the other region that shows it or a
//! later one. The reader asks again as soon as it is answered, so its own round trip is part of the figure.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use redis::Connection;

use crate::load::VALUE_BYTES;
use crate::rounds::progress;
use crate::stop;
use crate::targets::{Target, Targets};

const PROBES_A_SECOND: u64 = 1000;
const WRITES_A_SECOND: u64 = 5000;
const TICK: Duration = Duration::from_millis(1);
/// Between two reads: fast enough for the figure, slow enough not to take a core.
const READ_PAUSE: Duration = Duration::from_micros(150);
const LAST_PROBE_LIMIT: Duration = Duration::from_secs(20);

/// In milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    /// How many probes were seen.
    pub(crate) probes: u64,
    /// Writes beside them, a second, as achieved.
    pub(crate) writes: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

/// Measures for `seconds`, at `Queued`.
pub(crate) fn measure(targets: &Targets, seconds: u64, keys: u64) -> Result<Lag> {
    progress(&format!("lag: {PROBES_A_SECOND} probes and {WRITES_A_SECOND} writes a second for {seconds} s"));
    targets.prepare(Target::PairQueued)?;
    targets.settle(Target::PairQueued, u64::MAX / 2)?;
    let port = targets.port(Target::PairQueued)?;
    let ticks = seconds * PROBES_A_SECOND;
    let sent = Arc::new(Mutex::new(Vec::<Instant>::new()));
    let stopped = Arc::new(AtomicBool::new(false));
    let reader = {
        let (sent, stopped, far) = (Arc::clone(&sent), Arc::clone(&stopped), targets.connect_far()?);
        thread::spawn(move || watch(far, ticks as usize, &sent, &stopped))
    };
    let writes = thread::spawn(move || write_beside(port, ticks, keys));
    let probed = send_probes(port, ticks, &sent);
    let last = wait_for_last(&reader, ticks, &stopped);
    let rate = writes.join().map_err(|_| anyhow!("the writer panicked"))??;
    stopped.store(true, Ordering::Relaxed);
    let lags = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    probed?;
    last?;
    progress("");
    if lags.len() < ticks {
        bail!("only {} of {ticks} probes were seen in the other region", lags.len());
    }
    let at = |quantile| lags.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Lag {
        probes: lags.len(),
        writes: rate,
        p50: at(0.5),
        p99: at(0.99),
        most: lags.max() as f64 / 1000.0,
    })
}

/// The reader ends by itself when it has seen the last probe.
fn wait_for_last<T>(reader: &thread::JoinHandle<T>, ticks: u64, stopped: &AtomicBool) -> Result<()> {
    let seen = e2e::wait_for(&format!("the last of {ticks} probes"), LAST_PROBE_LIMIT, || {
        reader.is_finished().then_some(())
    });
    stopped.store(true, Ordering::Relaxed);
    seen
}

/// Calls `send` at every tick; a late one is followed by the next at once.
fn pace(ticks: u64, mut send: impl FnMut(u64) -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    for tick in 0..ticks {
        stop::check()?;
        let due = started + TICK * u32::try_from(tick).unwrap_or(u32::MAX);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        send(tick)?;
    }
    Ok(started.elapsed())
}

fn send_probes(port: u16, ticks: u64, sent: &Mutex<Vec<Instant>>) -> Result<()> {
    let mut stream = open(port)?;
    pace(ticks, |tick| {
        let number = (tick + 1).to_string();
        let request = format!("*3\r\n$3\r\nSET\r\n$5\r\nprobe\r\n${}\r\n{number}\r\n", number.len());
        sent.lock().map_err(|_| anyhow!("the reader panicked"))?.push(Instant::now());
        stream.write_all(request.as_bytes()).context("sending a probe failed")
    })?;
    Ok(())
}

/// Gives the writes a second.
fn write_beside(port: u16, ticks: u64, keys: u64) -> Result<f64> {
    let mut stream = open(port)?;
    let value = "y".repeat(VALUE_BYTES);
    let each = WRITES_A_SECOND / PROBES_A_SECOND;
    let took = pace(ticks, |tick| {
        let mut requests = String::new();
        for n in 0..each {
            let key = (tick * each + n) * 7919 % keys.max(1);
            write!(requests, "*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${VALUE_BYTES}\r\n{value}\r\n")?;
        }
        stream.write_all(requests.as_bytes()).context("sending writes failed")
    })?;
    Ok((ticks * each) as f64 / took.as_secs_f64())
}

/// A connection whose replies are read and dropped by a thread of its own.
fn open(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting failed")?;
    stream.set_nodelay(true)?;
    let mut replies = stream.try_clone()?;
    thread::spawn(move || {
        let mut buffer = [0; 1 << 14];
        while replies.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    Ok(stream)
}

/// Reads the probe in the other region until the last one is there; microseconds of each.
fn watch(
    mut far: Connection,
    last: usize,
    sent: &Mutex<Vec<Instant>>,
    stopped: &AtomicBool,
) -> Result<Histogram<u64>> {
    let mut lags =
        Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).context("making a histogram failed")?;
    let mut seen = 0;
    let mut command = redis::cmd("GET");
    command.arg("probe");
    let mut last_progress = Instant::now();
    while seen < last && !stopped.load(Ordering::Relaxed) && last_progress.elapsed() < LAST_PROBE_LIMIT {
        let shown: Option<usize> = command.query(&mut far).context("reading the probe failed")?;
        let now = Instant::now();
        let shown = shown.unwrap_or(0);
        if shown > seen {
            let times = sent.lock().map_err(|_| anyhow!("the sender panicked"))?;
            for time in &times[seen..shown.min(times.len())] {
                let micros = u64::try_from((now - *time).as_micros()).unwrap_or(u64::MAX);
                lags.saturating_record(micros.max(1));
            }
            seen = shown;
            last_progress = now;
        }
        thread::sleep(READ_PAUSE);
    }
    Ok(lags)
}
