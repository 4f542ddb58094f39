//! Keys that end, each with one writer: set for a moment; renewed; cleared; shortened; counted after its end.

use std::thread;
use std::time::Duration;

use rand::Rng;

use crate::client::{Link, Process};
use crate::history::Outcome;

/// Longer than any run: what has this to live has to be there at the end.
pub(crate) const LONG: &str = "7200000";

/// Goes on until the process is stopped.
pub(crate) fn work(process: &mut Process<'_>, link: &mut Link) {
    while !process.stopped() {
        script(process, link);
    }
}

/// One key's life. Whoever does not know what became of a request leaves the key alone from then on.
fn script(process: &mut Process<'_>, link: &mut Link) {
    let value = process.unique();
    let key = format!("exp:{value}");
    let short = process.rng.random_range(30..900);
    let before = Duration::from_millis(process.rng.random_range(0..1000));
    let millis = short.to_string();
    let mut ask = |words: &[&str]| matches!(process.ask(link, words), Some(Outcome::Ok(_)));
    // A number, so that it can be counted on.
    let steps: &[&[&str]] = match short % 6 {
        0 => &[&["SET", &key, "100", "PX", &millis]],
        1 => &[&["SET", &key, "100", "PX", &millis], &["PEXPIRE", &key, LONG], &["GET", &key]],
        2 => &[&["SET", &key, "100", "PX", &millis], &["PERSIST", &key]],
        3 => &[&["SET", &key, "100", "PX", LONG], &["PEXPIRE", &key, &millis]],
        4 => &[&["SET", &key, "100", "PX", &millis], &["INCRBY", &key, "1"], &["GET", &key]],
        _ => &[
            &["SET", &key, "100", "PX", &millis],
            &["INCRBY", &key, "1"],
            &["PEXPIRE", &key, LONG],
            &["INCRBY", &key, "1"],
        ],
    };
    for (number, step) in steps.iter().enumerate() {
        if number == 1 {
            thread::sleep(before);
        }
        if !ask(step) {
            return;
        }
    }
}
