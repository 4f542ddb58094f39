//! Registers, counters, sets, hashes and leaderboards, which all processes of all regions share.

use rand::Rng;

use super::period;
use crate::client::{Link, Process};
use crate::history::{Outcome, Reply};

/// Of each kind at a time.
const KEYS: u64 = 3;
const FIELDS: u64 = 6;
const REMEMBERED: usize = 40;

/// Goes on until the process is stopped.
pub(crate) fn work(process: &mut Process<'_>, link: &mut Link) {
    // Members that were added or seen, and may be removed.
    let mut members: Vec<(String, String)> = Vec::new();
    while !process.stopped() {
        let (at, key) = (period(process), process.rng.random_range(0..KEYS));
        let field = format!("f{}", process.rng.random_range(0..FIELDS));
        let by = process.rng.random_range(1..=9).to_string();
        let unique = process.unique();
        let name = |kind: &str| format!("{kind}:{at}:{key}");
        let dice = process.rng.random_range(0..=40);
        let mut ask = |words: &[&str]| process.ask(link, words);
        match dice {
            0..=5 => drop(ask(&["SET", &name("reg"), &unique])),
            6..=9 => drop(ask(&["GET", &name("reg")])),
            10..=12 => drop(ask(&["INCRBY", &name("count"), &by])),
            13 => drop(ask(&["HINCRBY", &name("hcount"), "n", &by])),
            14 => drop(ask(&["ZINCRBY", &name("zcount"), &by, "n"])),
            // Quarters: exact as decimals and as doubles.
            15 => drop(ask(&["INCRBYFLOAT", &name("fcount"), &format!("{by}.25")])),
            16..=19 => {
                let key = name("set");
                if ask(&["SADD", &key, &unique]).is_some() {
                    members.push((key, unique));
                }
            }
            20..=22 => {
                if !members.is_empty() {
                    let chosen = process.rng.random_range(0..members.len());
                    let (key, member) = members.swap_remove(chosen);
                    process.ask(link, &["SREM", &key, &member]);
                }
            }
            23 => {
                let key = name("set");
                if let Some(Outcome::Ok(Reply::List(seen))) = ask(&["SMEMBERS", &key]) {
                    members.extend(seen.into_iter().take(3).map(|member| (key.clone(), member)));
                }
            }
            24..=28 => drop(ask(&["HSET", &name("hash"), &field, &unique])),
            29..=30 => drop(ask(&["HDEL", &name("hash"), &field])),
            31 => drop(ask(&["HGETALL", &name("hash")])),
            32..=34 => drop(ask(&["HSET", &name("dhash"), &field, &unique])),
            35 => drop(ask(&["DEL", &name("dhash")])),
            36..=38 => {
                // Scores are unique, too.
                let score = (process.next * 100 + u64::from(process.number)).to_string();
                process.ask(link, &["ZADD", &name("board"), &score, &field]);
            }
            39 => drop(ask(&["ZREM", &name("board"), &field])),
            _ => drop(ask(&["ZRANGE", &name("board"), "0", "-1", "WITHSCORES"])),
        }
        let surplus = members.len().saturating_sub(REMEMBERED);
        members.drain(..surplus);
    }
}
