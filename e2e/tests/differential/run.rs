//! Runs one random sequence against both servers, in pipelines, until a reply differs or the sequence ends.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::generators::{self, Entry};
use crate::resp::{Raw, Reply, Words, show};
use crate::rules::{self, Rule, flat};
use crate::{dice, finish, words};

/// Stands for a token that the connection gets just before.
pub(crate) const TOKEN: &str = "<token>";

/// Longest pipeline.
const PIPELINE: usize = 24;
/// How much of the past is shown with a difference.
const PAST: usize = 25;
const EXPIRY_LIMIT: Duration = Duration::from_secs(10);

/// Where the two servers are.
#[derive(Clone, Debug)]
pub(crate) struct Sides {
    /// The region's endpoint.
    pub(crate) store: String,
    /// Plain Redis.
    pub(crate) plain: String,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// Of all random choices.
    pub(crate) seed: u64,
    /// 2 or 3.
    pub(crate) protocol: u8,
    /// How many requests.
    pub(crate) requests: usize,
    /// Sent as `MAS.ACK` before; `None`: both sides are plain Redis, which checks the rules themselves.
    pub(crate) level: Option<&'static str>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Requests by command.
    pub(crate) requests: BTreeMap<&'static str, usize>,
    /// How many of them ended in (the same) error.
    pub(crate) errors: usize,
}

/// A request that is to be sent.
struct Item {
    name: &'static str,
    rule: Rule,
    words: Words,
}

struct Run {
    sides: Sides,
    store: Raw,
    plain: Raw,
    dice: Dice,
    sequence: Sequence,
    past: Vec<Words>,
    summary: Summary,
}

/// Runs it. An error tells what differed.
pub(crate) fn run(sides: &Sides, sequence: Sequence) -> Result<Summary, String> {
    let text = |error: io::Error| format!("{sequence:?}: {error}");
    let mut run = Run {
        sides: sides.clone(),
        store: Raw::connect(&sides.store).map_err(text)?,
        plain: Raw::connect(&sides.plain).map_err(text)?,
        dice: Dice::new(sequence.seed, sequence.protocol),
        sequence,
        past: Vec::new(),
        summary: Summary::default(),
    };
    run.greet().map_err(text)?;
    run.both(&words!["FLUSHALL"]).map_err(text)?;
    let choices: Vec<&Entry> = generators::all()
        .filter(|(name, _, _)| sequence.level.is_some() || Rule::of(name) != Rule::Own)
        .flat_map(|entry| std::iter::repeat_n(entry, entry.1 as usize))
        .collect();
    let mut left = sequence.requests;
    let mut batch = Vec::new();
    let mut size = 1;
    while left > 0 {
        left -= 1;
        let item = run.make(&choices);
        if item.rule.is_alone() || is_expiring(&item.words) || lexical_key(&item.words).is_some() {
            run.pipeline(&std::mem::take(&mut batch))?;
            run.alone(&item)?;
        } else {
            batch.push(item);
        }
        if batch.len() >= size {
            run.pipeline(&std::mem::take(&mut batch))?;
            size = 1 + run.dice.below(PIPELINE);
        }
    }
    run.pipeline(&batch)?;
    if let Err((key, what)) = finish::compare(&mut run.store, &mut run.plain) {
        return Err(format!(
            "{sequence:?}: at the end {what}
{}",
            run.history(&words!["", key])
        ));
    }
    Ok(run.summary)
}

impl Run {
    fn make(&mut self, choices: &[&Entry]) -> Item {
        let (name, _, make) = choices[self.dice.below(choices.len())];
        let mut words = make(&mut self.dice);
        let rule = Rule::of(name);
        // Seldom a word too few or too many.
        if !matches!(rule, Rule::Quit | Rule::Reset | Rule::Own | Rule::Scan)
            && *name != "HELLO"
            && self.dice.chance(2)
        {
            if self.dice.chance(50) && words.len() > 1 + usize::from(name.contains('|')) {
                words.pop();
            } else {
                words.push(words[words.len() - 1].clone());
            }
        }
        if self.dice.chance(10) {
            words[0].make_ascii_lowercase();
        }
        Item { name, rule, words }
    }

    fn pipeline(&mut self, batch: &[Item]) -> Result<(), String> {
        let requests: Vec<&Words> = batch.iter().map(|item| &item.words).collect();
        let sent = self.plain.send(requests.iter().copied()).and_then(|()| self.store.send(requests));
        sent.map_err(|error| self.fail(&batch[0], &format!("sending failed: {error}")))?;
        for (at, item) in batch.iter().enumerate() {
            let replies = self.plain.receive().and_then(|plain| Ok((self.store.receive()?, plain)));
            let (store, plain) = replies.map_err(|error| self.fail(item, &format!("no reply: {error}")))?;
            if item.rule == Rule::Dump
                && let Reply::Bulk(dump) = &plain
            {
                self.dice.dumps.push(dump.clone());
            }
            self.judge(item, &store, &plain, rules::same(item.rule, &store, &plain)).map_err(|what| {
                let before: Vec<_> =
                    batch[..at].iter().map(|item| format!("\n    {}", show(&item.words))).collect();
                format!("{what}\n  before it in the pipeline:{}", before.concat())
            })?;
        }
        Ok(())
    }

    fn judge(&mut self, item: &Item, store: &Reply, plain: &Reply, same: bool) -> Result<(), String> {
        *self.summary.requests.entry(item.name).or_default() += 1;
        self.summary.errors += usize::from(store.is_error());
        if !same {
            return Err(self.fail(item, &format!("the store answers {store}\n  plain Redis    {plain}")));
        }
        self.past.push(item.words.clone());
        Ok(())
    }

    fn alone(&mut self, item: &Item) -> Result<(), String> {
        self.try_alone(item).unwrap_or_else(|error| Err(self.fail(item, &format!("no reply: {error}"))))
    }

    /// The outer error is the connection's, the inner one a difference.
    fn try_alone(&mut self, item: &Item) -> io::Result<Result<(), String>> {
        let words = &item.words;
        if let Some(key) = lexical_key(words) {
            self.level_scores(key)?;
        }
        match item.rule {
            Rule::Own => {
                let mut words = words.clone();
                if let Some(word) = words.iter_mut().find(|word| *word == TOKEN.as_bytes()) {
                    *word = self.store.ask(&words!["MAS.TOKEN"])?.bytes();
                }
                let reply = self.store.ask(&words)?;
                return Ok(self.judge(
                    item,
                    &reply,
                    &Reply::Simple(b"(does not have it)".to_vec()),
                    !reply.is_error(),
                ));
            }
            Rule::Quit => {
                let mut ends = Vec::new();
                for address in [&self.sides.store, &self.sides.plain] {
                    let mut raw = Raw::connect(address)?;
                    ends.push((raw.ask(words)?, raw.is_closed()));
                }
                return Ok(self.judge(item, &ends[0].0, &ends[1].0, ends[0] == ends[1]));
            }
            Rule::Scan => {
                let (store, plain) = (iterate(&mut self.store, words)?, iterate(&mut self.plain, words)?);
                return Ok(self.judge(item, &store, &plain, store == plain));
            }
            Rule::Size => {
                let mut touch = words!["TOUCH"];
                touch.extend(dice::all_keys());
                self.both(&touch)?;
            }
            Rule::Picks => {
                let there = self.members(words)?;
                let (store, plain) = self.both(words)?;
                return Ok(self.judge(
                    item,
                    &store,
                    &plain,
                    rules::same_picks(words, &store, &plain, &there),
                ));
            }
            Rule::Sum => {
                let (store, plain) = self.both(words)?;
                let same = rules::same_sum(&store, &plain, words.last().map_or(b"", |added| added));
                if same && store != plain {
                    self.sum_alike(words, &store)?;
                }
                return Ok(self.judge(item, &store, &plain, same));
            }
            Rule::Pop => {
                let there = self.members(words)?;
                let (store, plain) = self.both(words)?;
                self.pop_alike(words, &store, &plain)?;
                return Ok(self.judge(
                    item,
                    &store,
                    &plain,
                    rules::same_picks(words, &store, &plain, &there),
                ));
            }
            _ => {}
        }
        let (store, plain) = self.both(words)?;
        let judged = self.judge(item, &store, &plain, store == plain);
        if item.rule == Rule::Reset {
            self.greet()?;
        } else if judged.is_ok() && is_expiring(words) {
            self.wait_gone(words)?;
        }
        Ok(judged)
    }

    fn both(&mut self, words: &Words) -> io::Result<(Reply, Reply)> {
        Ok((self.store.ask(words)?, self.plain.ask(words)?))
    }

    fn greet(&mut self) -> io::Result<()> {
        self.both(&words!["HELLO", self.sequence.protocol.to_string()])?;
        let Some(level) = self.sequence.level else { return Ok(()) };
        let reply = self.store.ask(&words!["MAS.ACK", level])?;
        if reply.is_error() { Err(io::Error::other(reply.to_string())) } else { Ok(()) }
    }

    /// What plain Redis has under the key of a random pick: names, and values or scores.
    fn members(&mut self, words: &Words) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let Some(key) = words.get(1).cloned() else { return Ok(BTreeMap::new()) };
        let (paired, request) = match words[0].to_ascii_uppercase().first() {
            Some(b'H') => (true, words!["HGETALL", key]),
            Some(b'Z') => (true, words!["ZRANGE", key, "0", "-1", "WITHSCORES"]),
            _ => (false, words!["SMEMBERS", key]),
        };
        let reply = self.plain.ask(&request)?;
        if reply.is_error() {
            return Ok(BTreeMap::new());
        }
        let leaves = flat(&reply);
        Ok(if paired {
            leaves.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        } else {
            leaves.into_iter().map(|name| (name, Vec::new())).collect()
        })
    }

    /// Takes from plain Redis what the store has picked, and gives it back what it picked itself.
    fn pop_alike(&mut self, words: &Words, store: &Reply, plain: &Reply) -> io::Result<()> {
        if store.is_error() || plain.is_error() {
            return Ok(());
        }
        let (gone, own) = (flat(store), flat(plain));
        let mut changed = false;
        for (command, members, others) in [("SADD", &own, &gone), ("SREM", &gone, &own)] {
            let different: Words =
                members.iter().filter(|member| !others.contains(member)).cloned().collect();
            if !different.is_empty() {
                let mut request = words![command, words[1].clone()];
                request.extend(different);
                self.plain.ask(&request)?;
                changed = true;
            }
        }
        if changed {
            // How a set is held depends on what was ever in it: here it begins anew.
            self.both(&words!["SUNIONSTORE", words[1].clone(), words[1].clone()])?;
        }
        Ok(())
    }

    /// Redis leaves open what a range of members is among different scores (it depends on random numbers).
    fn level_scores(&mut self, key: &[u8]) -> io::Result<()> {
        let key = key.to_vec();
        if self.plain.ask(&words!["TYPE", key.clone()])?.bytes() == b"zset" {
            self.both(&words!["ZUNIONSTORE", key.clone(), "1", key, "WEIGHTS", "0"])?;
        }
        Ok(())
    }

    /// Gives plain Redis the sum that the store has.
    fn sum_alike(&mut self, words: &Words, store: &Reply) -> io::Result<()> {
        let request = if words.len() == 3 {
            words!["SET", words[1].clone(), store.bytes(), "KEEPTTL"]
        } else {
            words!["HSET", words[1].clone(), words[2].clone(), store.bytes()]
        };
        self.plain.ask(&request).map(drop)
    }

    /// Waits until a key with a very short time to live is gone on both sides.
    fn wait_gone(&mut self, words: &Words) -> io::Result<()> {
        let started = Instant::now();
        let request = words!["EXISTS", words[1].clone()];
        loop {
            let (store, plain) = self.both(&request)?;
            if store == Reply::Int(0) && plain == Reply::Int(0) {
                return Ok(());
            }
            if started.elapsed() > EXPIRY_LIMIT {
                return Err(io::Error::other(format!(
                    "not gone {EXPIRY_LIMIT:?} after its end: store {store}, plain {plain}"
                )));
            }
        }
    }

    fn fail(&self, item: &Item, what: &str) -> String {
        // The two connections may be in the middle of a pipeline.
        let fresh = [&self.sides.store, &self.sides.plain].map(|address| Raw::connect(address));
        let data = match fresh {
            [Ok(mut store), Ok(mut plain)] => finish::compare(&mut store, &mut plain),
            _ => Ok(()),
        };
        let (key, data) = data.err().unwrap_or_default();
        format!(
            "{:?}, request {}:\n{}\n  {}\n  {what}\n  behind the pipeline, {data}\n{}",
            self.sequence,
            self.past.len(),
            self.history(&item.words),
            show(&item.words),
            if key.is_empty() { String::new() } else { self.history(&words!["", key]) },
        )
    }

    /// The last requests that share a word with `words`, its first one aside.
    fn history(&self, words: &Words) -> String {
        let shared = |past: &&Words| past[1..].iter().any(|word| word.len() > 1 && words[1..].contains(word));
        let mut past: Vec<_> = self
            .past
            .iter()
            .rev()
            .filter(shared)
            .take(PAST)
            .map(|words| format!("    {}", show(words)))
            .collect();
        past.reverse();
        past.join("\n")
    }
}

/// Whether a request gives a key a time to live of a few milliseconds.
fn is_expiring(words: &Words) -> bool {
    let short = |word: &Vec<u8>| matches!(word.as_slice(), b"1" | b"2" | b"3");
    match words[0].to_ascii_uppercase().as_slice() {
        b"PEXPIRE" => words.len() == 3 && short(&words[2]),
        b"PSETEX" => words.len() == 4 && short(&words[2]),
        b"SET" => words.len() == 5 && words[3] == b"PX" && short(&words[4]),
        _ => false,
    }
}

/// The key whose members a request takes by a range of members.
fn lexical_key(words: &Words) -> Option<&[u8]> {
    let name = words[0].to_ascii_uppercase();
    let at = if name == b"ZRANGESTORE" { 2 } else { 1 };
    let by_members = name.ends_with(b"LEX")
        || name == b"ZLEXCOUNT"
        || name.starts_with(b"ZRANGE") && words.iter().any(|word| word == b"BYLEX");
    words.get(at).filter(|_| by_members).map(Vec::as_slice)
}

/// A whole iteration as one reply: what was found, once each and sorted, or the first error.
fn iterate(raw: &mut Raw, words: &Words) -> io::Result<Reply> {
    let at = words.iter().position(|word| word == b"0").unwrap_or(1);
    let paired = matches!(words[0].to_ascii_uppercase().as_slice(), b"HSCAN" | b"ZSCAN");
    let mut request = words.clone();
    let mut found = Vec::new();
    for _ in 0..100_000 {
        let reply = raw.ask(&request)?;
        let [cursor, page] = reply.items() else { return Ok(reply) };
        let step = if paired { 2 } else { 1 };
        found.extend(page.items().chunks(step).map(|chunk| Reply::Array(chunk.to_vec())));
        if cursor.bytes() == b"0" {
            found.sort();
            found.dedup();
            return Ok(Reply::Array(found));
        }
        request[at] = cursor.bytes();
    }
    Err(io::Error::other("the iteration does not end"))
}
