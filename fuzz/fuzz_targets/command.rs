//! Requests against the table of commands: keys as arity and routing promise, parts that hold every word once, and replies
//! that are joined in the order of the keys.

#![no_main]

use fuzz::{bounded::bounded, redis};
use libfuzzer_sys::fuzz_target;
use mas_commands::{Command, KeySpec, Routing, Support, lookup, lookup_sub, resolve};
use mas_core::slot::slot_of;
use mas_core::stamp::ShardId;
use mas_proxy::front::gather::{Cursor, Gather};
use mas_proxy::front::split::{join_of, split};
use mas_proxy::resp::{encode, reply};

const SHARDS: u16 = 3;

fn shard_of(key: &[u8]) -> ShardId {
    assert_eq!(slot_of(key), redis::slot(key));
    ShardId(slot_of(key) % SHARDS)
}

fn check_keys(command: &'static Command, words: &[&[u8]]) {
    let half_a_pair = command.takes_pairs() && words.len().is_multiple_of(2);
    let fits = command.arity_fits(words.len()) && !half_a_pair;
    let keys = command.keys(words).map(Iterator::collect::<Vec<usize>>);
    let written = command.written_keys(words).map(Iterator::collect::<Vec<usize>>);
    match &keys {
        Ok(keys) => {
            assert!(keys.iter().all(|at| (1..words.len()).contains(at)), "{keys:?}");
            assert!(keys.windows(2).all(|two| two[0] < two[1]), "{keys:?}: in order, each once");
            assert_eq!(command.keys == KeySpec::None, keys.is_empty(), "{keys:?}");
            if let Ok(written) = &written {
                assert!(written.iter().all(|at| keys.contains(at)), "{written:?} of {keys:?}");
            }
        }
        Err(why) => {
            assert!(!why.to_string().is_empty());
            let counted = matches!(command.keys, KeySpec::NumKeys { .. });
            assert!(!fits || counted, "{} with {} words: {why}", command.name, words.len());
        }
    }
    if let Some((option, why)) = command.refused_option(words) {
        assert!(!why.is_empty() && words.iter().any(|word| word.eq_ignore_ascii_case(option.as_bytes())));
    }
    assert_eq!(command.routing == Routing::Refused, matches!(command.support, Support::No(_)));
    let group = match command.routing {
        Routing::SplitSum | Routing::SplitValues => 1,
        Routing::SplitPairs => 2,
        _ => return,
    };
    if fits {
        assert_eq!(keys, Ok((1..words.len()).step_by(group).collect()), "what is split are the keys");
        check_split(command, words, group);
    }
}

fn check_split(command: &Command, words: &[&[u8]], group: usize) {
    let budget = 8192 + 512 * words.iter().map(|word| word.len() + 1).sum::<usize>();
    let (parts, order) = bounded(budget, || split(words, group, shard_of));
    let keys: Vec<&[u8]> = words[1..].iter().step_by(group).copied().collect();
    assert_eq!(order.len(), keys.len());
    let mut replies = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let mut frame = Vec::new();
        encode::array(&mut frame, part.words);
        frame.extend_from_slice(&part.body);
        let (sent, rest) = redis::request(&frame).expect("a request");
        assert!(rest.is_empty());
        assert_eq!(sent[0], words[0]);
        // The part's words are those of its keys, in order; and every word is in one part.
        let own = words[1..].chunks(group).zip(&order).filter(|(_, at)| usize::from(**at) == n);
        assert_eq!(sent[1..], own.flat_map(|(words, _)| words.iter().copied()).collect::<Vec<_>>());
        assert!(sent[1..].iter().step_by(group).all(|key| shard_of(key) == part.shard));
        let mut reply = Vec::new();
        match command.routing {
            Routing::SplitSum => encode::integer(&mut reply, (sent.len() as i64 - 1) / group as i64),
            Routing::SplitValues => {
                encode::array(&mut reply, sent.len() - 1);
                sent[1..].iter().for_each(|word| encode::bulk(&mut reply, word));
            }
            _ => encode::simple(&mut reply, "OK"),
        }
        replies.push(reply);
    }
    let join = join_of(command.routing, order, 0).expect("split commands are joined");
    let mut gather = Gather::new(join, parts.len());
    for (n, reply) in replies.iter().enumerate().rev() {
        assert_eq!(gather.finish(), None);
        gather.reply(n as u16, reply, false, 0);
    }
    let joined = gather.finish().expect("all are here");
    match command.routing {
        Routing::SplitSum => assert_eq!(reply::head(&joined).map(|(n, _)| n), Some(keys.len() as i64)),
        Routing::SplitValues => {
            let values: Vec<&[u8]> = reply::elements(&joined).filter_map(reply::bulk).collect();
            assert_eq!(values, keys);
        }
        _ => assert_eq!(joined, b"+OK\r\n"),
    }
}

/// What a client sends back is where the scan goes on.
fn check_cursor(word: &[u8]) {
    let Some(cursor) = Cursor::parse(word, SHARDS) else { return };
    assert!(cursor.shard < SHARDS);
    let number: u64 = std::str::from_utf8(word).expect("digits").parse().expect("a number");
    assert_eq!(cursor.inner * u64::from(SHARDS) + u64::from(cursor.shard), number);
}

fuzz_target!(|data: &[u8]| {
    // The names that the table knows are short; keys and values are whatever is between spaces.
    let words: Vec<&[u8]> = data.split(|byte| *byte == b' ').collect();
    let command = lookup(words[0]).map(|command| match words.get(1) {
        Some(sub) if command.container => lookup_sub(command, sub).unwrap_or(command),
        _ => command,
    });
    assert_eq!(resolve(&words[..]), command);
    words.iter().skip(1).for_each(|word| check_cursor(word));
    if let Some(command) = command {
        let (name, sub) = command.name.split_once('|').unwrap_or((command.name, ""));
        assert!(words[0].eq_ignore_ascii_case(name.as_bytes()));
        assert!(sub.is_empty() || words[1].eq_ignore_ascii_case(sub.as_bytes()));
        check_keys(command, &words);
    }
});
