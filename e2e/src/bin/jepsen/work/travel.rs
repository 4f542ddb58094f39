//! Sessions that change their region: what was written and read in one is seen in the next, once its token is covered.

use rand::Rng;

use super::expiry::LONG;
use super::period;
use crate::client::{Link, Process};
use crate::history::{Level, Outcome, Reply};

const AWAIT_MILLIS: &str = "2000";

/// One connection in each of two regions, until one of them breaks.
pub(crate) fn work(process: &mut Process<'_>, home: usize, regions: usize) {
    let away = (home + process.rng.random_range(1..regions)) % regions;
    let mut here = Link::new(home, Level::Queued);
    let mut there = Link::new(away, Level::Queued);
    for _ in 0..50 {
        if process.stopped() || travel(process, &mut here, &mut there).is_none() {
            break;
        }
        std::mem::swap(&mut here, &mut there);
    }
}

/// Writes and reads here, goes there, reads and writes. `None`: something was not answered.
fn travel(process: &mut Process<'_>, here: &mut Link, there: &mut Link) -> Option<()> {
    let value = process.unique();
    let (own, short) = (format!("tok:{value}"), format!("exp:{value}"));
    let shared = format!("reg:{}:{}", period(process), process.rng.random_range(0..3));
    let millis = process.rng.random_range(50..3000).to_string();
    let mut ask = |link: &mut Link, words: &[&str]| match process.ask(link, words) {
        Some(Outcome::Ok(reply)) => Some(reply),
        Some(Outcome::Failed(_) | Outcome::Unknown(_)) | None => None,
    };
    ask(here, &["SET", &own, &value])?;
    ask(here, &["SET", &short, "100", "PX", &millis])?;
    ask(here, &["GET", &shared])?;
    let Reply::Text(token) = ask(here, &["MAS.TOKEN"])? else { return None };
    ask(there, &["MAS.AWAIT", &token, AWAIT_MILLIS])?;
    ask(there, &["GET", &own])?;
    ask(there, &["GET", &shared])?;
    ask(there, &["PEXPIRE", &short, LONG])?;
    ask(there, &["SET", &own, &format!("{value}-again")])?;
    Some(())
}
