//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Asks `condition` until it gives a value; after `limit` an error says what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    wait_until(what, limit, || condition().ok_or_else(|| "not yet".to_owned()))
}

/// As [`wait_for`]; the last reason why not is part of the error.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(why) if started.elapsed() >= limit => {
                bail!("waiting for {what} took longer than {limit:?}: {why}");
            }
            Err(_) => {}
        }
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
