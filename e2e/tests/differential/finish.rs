//! Compares everything that the two servers hold.

use std::collections::BTreeMap;
use std::io;

use crate::resp::{Raw, Reply, Words, text};
use crate::rules::{self, Rule};
use crate::words;

/// All keys of both, with type, encoding, value and end. An error names a key and says what differs.
pub(crate) fn compare(store: &mut Raw, plain: &mut Raw) -> Result<(), (Vec<u8>, String)> {
    let fail = |error: io::Error| (Vec::new(), format!("reading failed: {error}"));
    let one = read(store).map_err(fail)?;
    let other = read(plain).map_err(fail)?;
    for key in one.keys().chain(other.keys()) {
        let (Some(mine), Some(theirs)) = (one.get(key), other.get(key)) else {
            let who = if one.contains_key(key) { "the store" } else { "plain Redis" };
            return Err((key.clone(), format!("only {who} has {}", text(key))));
        };
        for ((rule, mine), (_, theirs)) in mine.iter().zip(theirs) {
            if !rules::same(*rule, mine, theirs) {
                return Err((
                    key.clone(),
                    format!("under {} the store has {mine}\n  plain Redis {theirs}", text(key)),
                ));
            }
        }
    }
    Ok(())
}

type Space = BTreeMap<Vec<u8>, Vec<(Rule, Reply)>>;

fn read(raw: &mut Raw) -> io::Result<Space> {
    let keys = raw.ask(&words!["KEYS", "*"])?;
    let mut space = Space::new();
    for key in rules::flat(&keys) {
        let kind = raw.ask(&words!["TYPE", key.clone()])?;
        let (rule, request): (Rule, Words) = match kind.bytes().as_slice() {
            b"hash" => (Rule::UnorderedPairs, words!["HGETALL", key.clone()]),
            b"set" => (Rule::Unordered, words!["SMEMBERS", key.clone()]),
            b"zset" => (Rule::Exact, words!["ZRANGE", key.clone(), "0", "-1", "WITHSCORES"]),
            _ => (Rule::Exact, words!["GET", key.clone()]),
        };
        let content = raw.ask(&request)?;
        let encoding = raw.ask(&words!["OBJECT", "ENCODING", key.clone()])?;
        let end = raw.ask(&words!["PEXPIRETIME", key.clone()])?;
        let parts =
            vec![(Rule::Exact, kind), (rule, content), (Rule::Encoding, encoding), (Rule::Within(5000), end)];
        space.insert(key, parts);
    }
    Ok(space)
}
