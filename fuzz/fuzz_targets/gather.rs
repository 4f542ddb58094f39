//! Replies of several shards joined to one: one reply comes out, whatever they say and in whatever order they come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mas_proxy::front::gather::{Gather, Join};
use mas_proxy::resp::reply::{Scanner, head, length};

const ERROR: &[u8] = b"-ERR the level was not reached\r\n";

fn join_of(kind: u8, number: u8, parts: usize) -> Join {
    let order = |keys: u8| (0..keys).map(|key| (usize::from(key) % parts) as u16).collect();
    match kind % 6 {
        0 => Join::Sum,
        1 => Join::Values { order: order(number % 32) },
        2 => Join::First,
        3 => Join::Arrays,
        4 => Join::Pick(number.into()),
        _ => Join::Scan { shard: u16::from(number % 5), shards: 5 },
    }
}

fuzz_target!(|data: &[u8]| {
    let &[kind, number, acks, ref rest @ ..] = data else { return };
    let mut replies = Vec::new();
    let mut rest = rest;
    while let Ok(Some(len)) = Scanner::default().scan(rest) {
        let (reply, tail) = rest.split_at(len);
        replies.push(reply);
        rest = tail;
    }
    if replies.is_empty() {
        return;
    }
    let join = join_of(kind, number, replies.len());
    let joined = |backwards: bool| {
        let mut gather = Gather::new(join.clone(), replies.len());
        let mut places: Vec<usize> = (0..replies.len()).collect();
        if backwards {
            places.reverse();
        }
        for &place in &places {
            assert_eq!(gather.finish(), None);
            gather.reply(place as u16, replies[place], acks & 1 == 1, 3);
            // A second answer of the same part changes nothing.
            gather.reply(place as u16, b"-ERR again\r\n", true, 4);
        }
        if acks & 1 == 1 {
            assert_eq!((gather.finish(), gather.acking_since()), (None, Some(3)));
            places.iter().for_each(|_| gather.acknowledged((acks & 2 == 2).then_some(ERROR)));
        }
        gather.finish().expect("nothing is missing")
    };
    let out = joined(false);
    assert_eq!(out, joined(true));
    assert_eq!(length(&out), Some(out.len()), "{}", out.escape_ascii());
    if let Some(error) = replies.iter().find(|reply| reply[0] == b'-') {
        return assert_eq!(out, *error);
    }
    if acks & 3 == 3 {
        return assert_eq!(out, ERROR);
    }
    if join == Join::Sum && out[0] != b'-' {
        let parts = replies.iter().map(|reply| head(reply).expect("an integer").0);
        let sum: i128 = parts.map(i128::from).sum();
        assert_eq!(out, format!(":{sum}\r\n").as_bytes());
    }
});
