//! Writers that keep on writing whatever happens to the store, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use redis::{Client, Cmd, Connection, ConnectionLike};

use crate::ledger::{Ledger, Outcome, Write};
use crate::{Store, wait_until};

/// A client that waits longer than this gives up and connects anew.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const COUNTERS: u64 = 16;
/// Kinds of writes.
const KINDS: u64 = 5;

/// Running writers.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Report>>,
}

/// What the writers have seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every write.
    pub ledger: Ledger,
    /// The longest time that a writer went without an answered write.
    pub longest_gap: Duration,
    /// Errors that came back, in words, the first few.
    pub errors: Vec<String>,
}

/// How to write.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// In these regions.
    pub regions: &'a [&'a str],
    /// Writers in each.
    pub writers: usize,
    /// All keys begin with it.
    pub prefix: &'a str,
    /// Arguments of `MAS.ACK`, sent on every connection; empty: the store's default.
    pub level: &'a [&'a str],
    /// The pause after each write of a writer.
    pub pace: Duration,
}

/// Gives a client of one region, as often as a writer connects.
pub type Source = Arc<dyn Fn() -> Result<Client> + Send + Sync>;

/// A store that can be written to.
pub trait Endpoints {
    /// Its regions.
    fn regions(&self) -> Vec<&str>;
    /// Where a region is reached.
    fn source(&self, region: &str) -> Result<Source>;

    /// A connection to `region`.
    fn connect_to(&self, region: &str) -> Result<Connection> {
        let connection = self.source(region)?()?.get_connection_with_timeout(ANSWER_LIMIT)?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(connection)
    }
}

impl Endpoints for Store {
    fn regions(&self) -> Vec<&str> {
        Self::regions(self)
    }

    fn source(&self, region: &str) -> Result<Source> {
        let client = self.client(region)?;
        Ok(Arc::new(move || Ok(client.clone())))
    }
}

struct Writer {
    source: Source,
    prefix: String,
    name: String,
    level: Vec<String>,
    pace: Duration,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    report: Report,
}

impl Load {
    /// Starts the writers of `plan`.
    pub fn start(store: &impl Endpoints, plan: &Plan<'_>) -> Result<Self> {
        let mut load = Self { stop: Arc::default(), answered: Arc::default(), workers: Vec::new() };
        for region in plan.regions {
            for number in 0..plan.writers {
                let writer = Writer {
                    source: store.source(region)?,
                    prefix: plan.prefix.to_owned(),
                    name: format!("{region}-{number}"),
                    level: plan.level.iter().map(ToString::to_string).collect(),
                    pace: plan.pace,
                    stop: Arc::clone(&load.stop),
                    answered: Arc::clone(&load.answered),
                    report: Report::default(),
                };
                load.workers.push(thread::spawn(move || writer.run()));
            }
        }
        Ok(load)
    }

    /// How many writes were acknowledged so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `count` more writes are acknowledged.
    pub fn wait_for_more(&self, count: u64, limit: Duration) -> Result<()> {
        let wanted = self.answered() + count;
        wait_until(&format!("{count} more writes"), limit, || {
            let answered = self.answered();
            if answered >= wanted { Ok(()) } else { Err(format!("{} are still to come", wanted - answered)) }
        })
    }

    /// Ends the writers and gives what they have seen.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for worker in self.workers.drain(..) {
            let Ok(report) = worker.join() else { bail!("a writer panicked") };
            all.ledger.absorb(report.ledger);
            all.longest_gap = all.longest_gap.max(report.longest_gap);
            all.errors.extend(report.errors);
        }
        all.errors.sort();
        all.errors.dedup();
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    fn run(mut self) -> Report {
        let mut connection = None;
        let mut last_answer = Instant::now();
        for n in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let Some(open) = self.connection(&mut connection) else { continue };
            let (command, write) = self.write(n);
            let answer = command.query::<redis::Value>(open);
            let outcome = match answer {
                Ok(_) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    self.report.longest_gap = self.report.longest_gap.max(last_answer.elapsed());
                    last_answer = Instant::now();
                    Outcome::Acknowledged
                }
                Err(error) => {
                    if !open.is_open() || error.is_io_error() || error.is_unrecoverable_error() {
                        connection = None;
                    }
                    self.note_error(&error.to_string());
                    Outcome::Unknown
                }
            };
            self.report.ledger.note(write, outcome);
            thread::sleep(self.pace);
        }
        self.report
    }

    fn connection<'a>(&mut self, slot: &'a mut Option<Connection>) -> Option<&'a mut Connection> {
        if slot.is_none() {
            match self.connect() {
                Ok(connection) => *slot = Some(connection),
                Err(error) => {
                    self.note_error(&error.to_string());
                    thread::sleep(RECONNECT_PAUSE);
                }
            }
        }
        slot.as_mut()
    }

    fn connect(&self) -> Result<Connection> {
        let mut connection = (self.source)()?.get_connection_with_timeout(ANSWER_LIMIT)?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.set_write_timeout(Some(ANSWER_LIMIT))?;
        if !self.level.is_empty() {
            redis::cmd("MAS.ACK").arg(&self.level).exec(&mut connection)?;
        }
        Ok(connection)
    }

    fn note_error(&mut self, words: &str) {
        if self.report.errors.len() < 20 && !self.report.errors.iter().any(|known| known == words) {
            self.report.errors.push(words.to_owned());
        }
    }

    /// The writer's n-th write: of every kind in turn.
    fn write(&self, n: u64) -> (Cmd, Write) {
        let own = format!("{}-{n}", self.name);
        let shared = |kind: &str| format!("{}:{kind}:{}", self.prefix, n / KINDS % COUNTERS);
        match n % KINDS {
            0 => {
                let key = format!("{}:key:{own}", self.prefix);
                let mut command = redis::cmd("SET");
                command.arg(&key).arg(&key);
                (command, Write::Key(key))
            }
            1 => {
                let key = shared("counter");
                let mut command = redis::cmd("INCR");
                command.arg(&key);
                (command, Write::Increment(key))
            }
            2 => {
                let key = shared("set");
                let mut command = redis::cmd("SADD");
                command.arg(&key).arg(&own);
                (command, Write::Member(key, own))
            }
            3 => {
                let key = shared("board");
                let mut command = redis::cmd("ZADD");
                command.arg(&key).arg(n).arg(&own);
                (command, Write::Scored(key, own))
            }
            _ => {
                let key = shared("hash");
                let mut command = redis::cmd("HSET");
                command.arg(&key).arg(&own).arg(n);
                (command, Write::Field(key, own))
            }
        }
    }
}
