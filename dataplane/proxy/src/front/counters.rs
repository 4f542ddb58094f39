//! What the front counts. Workers count in plain memory of their own and add it to the shared numbers a few times a
//! second, so that the way of a request touches nothing that another core touches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Declares the counters: name in code, name of the metric, unit, help.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $unit:expr, $help:literal;)*) => {
        /// A number that only grows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $(#[doc = $help] $variant,)* }

        /// Metric name, unit and help of each counter, in the order of [`Count`].
        pub const COUNTS: &[(&str, Option<&str>, &str)] = &[$(($name, $unit, $help),)*];
    };
}

counters! {
    ConnectionsAccepted = "connections_accepted", None, "Client connections that were accepted";
    ConnectionsRefused = "connections_refused", None, "Client connections that were refused because maxConnections was reached";
    BytesRead = "client_read", Some("bytes"), "Bytes read from clients";
    BytesWritten = "client_written", Some("bytes"), "Bytes written to clients";
    ProtocolErrors = "protocol_errors", None, "Client connections closed because they sent what is no RESP";
    SlowReaders = "slow_readers_closed", None, "Client connections closed because they did not read their replies";
    InputOverflows = "input_overflows", None, "Client connections closed because half-sent requests took too much memory";
    AuthFailures = "auth_failures", None, "AUTH and HELLO with a wrong name or password";
    UnsupportedCommands = "unsupported_commands", None, "Requests refused because the command is unknown or not supported";
    CrossSlot = "cross_slot_refusals", None, "Requests refused because their keys are in different slots";
    EngineConnections = "engine_connections_opened", None, "Connections to engines that were opened";
    EngineLosses = "engine_connections_lost", None, "Connections to engines that broke or were given up";
    Retried = "requests_retried", None, "Requests sent again after an engine had refused them or a read had lost its connection";
    HeldExpired = "requests_without_master", None, "Requests refused because their shard had no master in time";
    Forwarded = "requests_forwarded", None, "Requests sent to another region because their shard has no master here";
    ForwardedHere = "requests_forwarded_here", None, "Requests that another region sent here, where their shard has no master";
    ForwardsLate = "forwards_late", None, "Requests refused because the other region did not get in time what their connection had written";
    UnknownWrites = "writes_unknown", None, "Writes whose connection broke before the reply (MASUNKNOWN)";
    AcksReached = "acks_reached", None, "Writes that reached their acknowledgement level";
    AcksDegraded = "acks_degraded", None, "Writes answered at Local because the broker is away";
    AcksUnavailable = "acks_unavailable", None, "Writes answered with QUEUEUNAVAILABLE";
    AcksFailed = "acks_failed", None, "Writes answered with MASUNACKNOWLEDGED";
}

/// Upper ends of the buckets of the time that writes wait for their acknowledgement, in seconds.
pub const ACK_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Times that something took, in the buckets of [`ACK_BUCKETS`].
#[derive(Debug, Default)]
struct Times {
    buckets: [u64; ACK_BUCKETS.len() + 1],
    micros: u64,
}

impl Times {
    fn took(&mut self, micros: u32) {
        let seconds = f64::from(micros) / 1e6;
        let bucket = ACK_BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(ACK_BUCKETS.len());
        self.buckets[bucket] += 1;
        self.micros += u64::from(micros);
    }
}

/// The same of all workers together.
#[derive(Debug, Default)]
pub struct TotalTimes {
    buckets: [AtomicU64; ACK_BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl TotalTimes {
    fn add(&self, times: &mut Times) {
        for (total, n) in self.buckets.iter().zip(&mut times.buckets) {
            add(total, std::mem::take(n));
        }
        add(&self.micros, std::mem::take(&mut times.micros));
    }

    /// Sum in seconds, number, and buckets.
    pub fn histogram(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let numbers: Vec<u64> = self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let ends = ACK_BUCKETS.iter().copied().chain([f64::INFINITY]);
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        (sum, numbers.iter().sum(), ends.zip(numbers.iter().copied()).collect())
    }
}

fn add(total: &AtomicU64, n: u64) {
    if n > 0 {
        total.fetch_add(n, Ordering::Relaxed);
    }
}

/// A worker's own numbers since it last published them.
#[derive(Debug)]
pub struct Counters {
    counts: [u64; COUNTS.len()],
    calls: Box<[u32]>,
    failures: Box<[u32]>,
    acks: Times,
    forwards: Times,
}

impl Default for Counters {
    fn default() -> Self {
        let commands = mas_commands::all().len();
        Self {
            counts: [0; COUNTS.len()],
            calls: vec![0; commands].into(),
            failures: vec![0; commands].into(),
            acks: Times::default(),
            forwards: Times::default(),
        }
    }
}

impl Counters {
    /// Adds one.
    pub fn count(&mut self, count: Count) {
        self.add(count, 1);
    }

    /// Adds `n`.
    pub fn add(&mut self, count: Count, n: usize) {
        self.counts[count as usize] += n as u64;
    }

    /// A request of that command (by its place in the table).
    pub fn call(&mut self, command: u16) {
        self.calls[usize::from(command)] += 1;
    }

    /// It was answered with an error.
    pub fn failure(&mut self, command: u16) {
        self.failures[usize::from(command)] += 1;
    }

    /// A write waited so long for its acknowledgement.
    pub fn ack_waited(&mut self, micros: u32) {
        self.acks.took(micros);
    }

    /// A request waited so long until it was sent to another region.
    pub fn forward_waited(&mut self, micros: u32) {
        self.forwards.took(micros);
    }

    /// Adds everything to the shared numbers and starts again from 0.
    pub fn publish(&mut self, totals: &Totals) {
        for (total, n) in totals.counts.iter().zip(&mut self.counts) {
            add(total, std::mem::take(n));
        }
        for (total, n) in totals.calls.iter().zip(&mut self.calls) {
            add(total, u64::from(std::mem::take(n)));
        }
        for (total, n) in totals.failures.iter().zip(&mut self.failures) {
            add(total, u64::from(std::mem::take(n)));
        }
        totals.acks.add(&mut self.acks);
        totals.forwards.add(&mut self.forwards);
    }
}

/// The numbers of all workers together.
#[derive(Debug)]
pub struct Totals {
    counts: Vec<AtomicU64>,
    calls: Vec<AtomicU64>,
    failures: Vec<AtomicU64>,
    /// How long writes waited for their acknowledgement.
    pub acks: TotalTimes,
    /// How long requests waited until they were sent to another region.
    pub forwards: TotalTimes,
    /// Shards whose requests go to another region, or went.
    pub detours: Detours,
    /// The region is drained: requests go to another one as they should.
    pub drained: AtomicBool,
    /// Client connections that are open.
    pub connections: AtomicI64,
    /// Replies that clients are owed, by worker.
    pub owed: Vec<AtomicI64>,
    /// Requests that wait for a master, by worker.
    pub held: Vec<AtomicI64>,
}

impl Totals {
    /// All zero.
    pub fn new(workers: usize) -> Self {
        let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
        let gauges = || (0..workers).map(|_| AtomicI64::new(0)).collect();
        let commands = mas_commands::all().len();
        Self {
            counts: zeros(COUNTS.len()),
            calls: zeros(commands),
            failures: zeros(commands),
            acks: TotalTimes::default(),
            forwards: TotalTimes::default(),
            detours: Detours::default(),
            drained: AtomicBool::default(),
            connections: AtomicI64::new(0),
            owed: gauges(),
            held: gauges(),
        }
    }

    /// A counter's value.
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// All counters, in the order of [`COUNTS`].
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|n| n.load(Ordering::Relaxed))
    }

    /// Calls and failures by command, those that were called.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        mas_commands::all().iter().zip(self.calls.iter().zip(&self.failures)).filter_map(
            |(command, (calls, failures))| {
                let calls = calls.load(Ordering::Relaxed);
                (calls > 0).then(|| (command.name, calls, failures.load(Ordering::Relaxed)))
            },
        )
    }
}

/// A shard, and the region that its requests go to.
pub type Way = (u16, String);

/// What went to other regions, by way. Looked at only while something does, and by who asks for numbers.
#[derive(Debug, Default)]
pub struct Detours(Mutex<BTreeMap<Way, OnTheWay>>);

/// One way's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnTheWay {
    /// Connections that are there now, of all workers.
    pub open: u32,
    /// Requests that were ever sent.
    pub requests: u64,
}

impl Detours {
    fn change(&self, way: &Way, change: impl FnOnce(&mut OnTheWay)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(way.clone()).or_default());
    }

    /// A worker sends requests that way from now on.
    pub fn begin(&self, way: &Way) {
        self.change(way, |numbers| numbers.open += 1);
    }

    /// It does no more.
    pub fn end(&self, way: &Way) {
        self.change(way, |numbers| numbers.open -= 1);
    }

    /// It has sent so many.
    pub fn add(&self, way: &Way, requests: u64) {
        if requests > 0 {
            self.change(way, |numbers| numbers.requests += requests);
        }
    }

    /// All ways.
    pub fn all(&self) -> BTreeMap<Way, OnTheWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a shard's requests go now.
    pub fn of(&self, shard: u16) -> Vec<String> {
        let all = self.all().into_iter();
        all.filter(|((of, _), numbers)| *of == shard && numbers.open > 0).map(|((_, peer), _)| peer).collect()
    }
}

/// The sum of a number that each worker keeps.
pub fn sum(gauges: &[AtomicI64]) -> i64 {
    gauges.iter().map(|n| n.load(Ordering::Relaxed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_publish_what_they_counted_once() {
        let totals = Totals::new(1);
        let mut counters = Counters::default();
        counters.add(Count::BytesRead, 7);
        let get = mas_commands::lookup(b"GET").expect("known");
        counters.call(get.index);
        counters.failure(get.index);
        counters.ack_waited(1500);
        counters.ack_waited(u32::MAX);
        counters.publish(&totals);
        counters.publish(&totals);
        assert_eq!(totals.count(Count::BytesRead), 7);
        assert_eq!(totals.commands().collect::<Vec<_>>(), [("GET", 1, 1)]);
        let (_, number, buckets) = totals.acks.histogram();
        assert_eq!(number, 2);
        assert_eq!(buckets[2], (0.002, 1));
        assert_eq!(buckets[14].1, 1);
    }
}
