//! One process: asks one thing after the other, on connections of its own, and notes what it was told.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use redis::{Client, Connection, ConnectionLike, RedisError, Value};

use crate::history::{Level, Op, Outcome, Reply};

/// Whoever waits longer gives up: nobody knows then.
const PATIENCE: Duration = Duration::from_secs(3);
/// After every request.
const PACE: Duration = Duration::from_millis(25);
/// After one that nobody knows the end of: an outage is not to fill the history.
const PAUSE_UNKNOWN: Duration = Duration::from_millis(250);
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Errors that say that nothing was done: refused before it was carried out.
const CERTAIN: [&str; 7] =
    ["MASNOMASTER", "OUTBOXFULL", "OOM", "MISCONF", "LOADING", "MASTIMEOUT", "WRONGTYPE"];

/// What all processes of a run share.
pub(crate) struct Common {
    pub(crate) begun: Instant,
    pub(crate) stop: AtomicBool,
    pub(crate) sessions: AtomicU32,
    /// `host:port` by region.
    pub(crate) endpoints: Vec<String>,
    pub(crate) seed: u64,
}

/// A process.
pub(crate) struct Process<'a> {
    pub(crate) number: u32,
    pub(crate) rng: StdRng,
    /// Counts what it writes: every value is written once.
    pub(crate) next: u64,
    common: &'a Common,
    ops: Vec<Op>,
}

/// Its way to one region.
pub(crate) struct Link {
    pub(crate) region: usize,
    level: Level,
    open: Option<Connection>,
    session: u32,
}

impl Link {
    /// Not connected yet.
    pub(crate) fn new(region: usize, level: Level) -> Self {
        Self { region, level, open: None, session: 0 }
    }
}

impl<'a> Process<'a> {
    pub(crate) fn new(number: u32, common: &'a Common) -> Self {
        let rng = StdRng::seed_from_u64(common.seed ^ (u64::from(number) << 32));
        Self { number, rng, next: 0, common, ops: Vec::new() }
    }

    /// It is to end.
    pub(crate) fn stopped(&self) -> bool {
        self.common.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.common.begun.elapsed()
    }

    /// A value that nobody else writes.
    pub(crate) fn unique(&mut self) -> String {
        self.next += 1;
        format!("p{}-{}", self.number, self.next)
    }

    /// All that it did.
    pub(crate) fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Asks. `None`: it did not even get a connection, and has paused.
    pub(crate) fn ask(&mut self, link: &mut Link, words: &[&str]) -> Option<Outcome> {
        if link.open.is_none() {
            let Ok(connection) = self.connect(link) else {
                thread::sleep(RECONNECT_PAUSE);
                return None;
            };
            link.open = Some(connection);
            link.session = self.common.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        }
        let connection = link.open.as_mut()?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let start = self.micros();
        let answer = command.query::<Value>(connection);
        let end = self.micros();
        let outcome = match answer {
            Ok(value) => Outcome::Ok(reply(value)),
            Err(error) => {
                if !connection.is_open() || error.is_io_error() || error.is_unrecoverable_error() {
                    link.open = None;
                }
                failure(&error)
            }
        };
        self.ops.push(Op {
            process: self.number,
            session: link.session,
            region: link.region,
            level: link.level,
            words: words.iter().map(ToString::to_string).collect(),
            start,
            end,
            outcome: outcome.clone(),
        });
        let unknown = matches!(outcome, Outcome::Unknown(_));
        thread::sleep(if unknown { PAUSE_UNKNOWN } else { PACE });
        Some(outcome)
    }

    fn micros(&self) -> u64 {
        self.common.begun.elapsed().as_micros() as u64
    }

    fn connect(&self, link: &Link) -> Result<Connection, RedisError> {
        let url = format!("redis://{}/", self.common.endpoints[link.region]);
        let mut connection = Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let mut ack = redis::cmd("MAS.ACK");
        match link.level {
            Level::Local => ack.arg("LOCAL").exec(&mut connection)?,
            Level::Remote => ack.arg("REMOTE").arg(1).exec(&mut connection)?,
            Level::Queued => {}
        }
        Ok(connection)
    }
}

fn failure(error: &RedisError) -> Outcome {
    let certain = error.code().is_some_and(|code| CERTAIN.contains(&code));
    let words = error.to_string();
    if certain { Outcome::Failed(words) } else { Outcome::Unknown(words) }
}

fn reply(value: Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Int(number),
        Value::BulkString(bytes) => Reply::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => Reply::Text(text),
        Value::Okay => Reply::Text("OK".into()),
        Value::Array(items) => Reply::List(
            items
                .into_iter()
                .map(|item| match reply(item) {
                    Reply::Text(text) => text,
                    Reply::Int(number) => number.to_string(),
                    Reply::Nil | Reply::List(_) => String::new(),
                })
                .collect(),
        ),
        _ => Reply::Nil,
    }
}
