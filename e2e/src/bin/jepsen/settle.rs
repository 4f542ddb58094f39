//! The end of a run: all faults are over; waits until the store is quiet, and reads what every region holds.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use e2e::keyspace::{self, Content, Entry, Keyspace};
use e2e::{Store, wait_until};

use crate::history::{End, History};

/// Generous: a loaded machine starts its brokers in a minute.
const EQUAL_WITHIN: Duration = Duration::from_mins(4);
/// Keys that end have ended when this is over: longer than clocks were off.
const ENDED_WITHIN: Duration = Duration::from_mins(2);
/// Keys with more to live than this are meant to live on.
const LONG: i64 = 600_000;

/// Fills in the end of `history`.
pub(crate) fn settle(store: &Store, history: &mut History) -> Result<()> {
    let quiet = store.wait_active().and_then(|_| keyspace::wait_equal(store, "*", EQUAL_WITHIN));
    let quiet = quiet.and_then(|_| {
        wait_until("short times to live to be over", ENDED_WITHIN, || {
            let spaces = read(store, "exp:*").map_err(|error| format!("{error:#}"))?;
            let soon = now() + LONG;
            let ends = |entry: &&Entry| entry.expires_at.is_some_and(|at| at < soon);
            match spaces.iter().flat_map(Keyspace::values).filter(ends).count() {
                0 => Ok(()),
                left => Err(format!("{left} keys are still there")),
            }
        })?;
        keyspace::wait_equal(store, "*", EQUAL_WITHIN)
    });
    history.run.unsettled = quiet.err().map(|error| format!("{error:#}; {}", said(store)));
    history.run.ended_at = now();
    for (region, space) in read(store, "*")?.into_iter().enumerate() {
        history.ends.extend(space.into_iter().map(|(key, entry)| end(region, &key, entry)));
    }
    Ok(())
}

fn said(store: &Store) -> String {
    store.status().map_or_else(|error| error.to_string(), |status| status.summary())
}

fn read(store: &Store, pattern: &str) -> Result<Vec<Keyspace>> {
    let read = |region: &str| keyspace::read(&mut store.connect(region)?, pattern);
    store.regions().into_iter().map(read).collect()
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

fn end(region: usize, key: &[u8], entry: Entry) -> End {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let pairs = |pairs: std::collections::BTreeMap<Vec<u8>, Vec<u8>>| {
        pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    };
    let (kind, parts) = match entry.content {
        Content::Text(value) => ("string", vec![(String::new(), text(value))]),
        Content::Hash(fields) => ("hash", pairs(fields)),
        Content::Sorted(members) => ("zset", pairs(members)),
        Content::Set(members) => {
            ("set", members.into_iter().map(|name| (text(name), String::new())).collect())
        }
    };
    End { region, key: text(key.to_vec()), kind: kind.to_owned(), parts, expires_at: entry.expires_at }
}
