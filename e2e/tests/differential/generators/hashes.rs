//! Hashes.

use super::{Entry, with};
use crate::dice::{Dice, Kind::Hash};
use crate::resp::Words;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("HDEL", 3, |d| {
        let key = d.key(Hash);
        with(words!["HDEL", key], d.members(4))
    }),
    ("HEXISTS", 2, |d| words!["HEXISTS", d.key(Hash), d.member()]),
    ("HGET", 3, |d| words!["HGET", d.key(Hash), d.member()]),
    ("HGETALL", 3, |d| words!["HGETALL", d.key(Hash)]),
    ("HINCRBY", 4, |d| words!["HINCRBY", d.key(Hash), d.member(), d.integer()]),
    ("HINCRBYFLOAT", 3, |d| words!["HINCRBYFLOAT", d.key(Hash), d.member(), d.decimal()]),
    ("HKEYS", 2, |d| words!["HKEYS", d.key(Hash)]),
    ("HLEN", 2, |d| words!["HLEN", d.key(Hash)]),
    ("HMGET", 2, |d| {
        let key = d.key(Hash);
        with(words!["HMGET", key], d.members(4))
    }),
    ("HMSET", 2, |d| pairs(d, "HMSET")),
    ("HRANDFIELD", 2, |d| {
        let mut words = words!["HRANDFIELD", d.key(Hash)];
        if d.chance(60) {
            words.extend(words![d.count()]);
            d.maybe(50, &["WITHVALUES"], &mut words);
        }
        words
    }),
    ("HSCAN", 1, |d| words!["HSCAN", d.key(Hash), "0", "COUNT", d.pick(&["1", "5", "1000"])]),
    ("HSET", 6, |d| pairs(d, "HSET")),
    ("HSETNX", 2, |d| words!["HSETNX", d.key(Hash), d.member(), d.value()]),
    ("HSTRLEN", 2, |d| words!["HSTRLEN", d.key(Hash), d.member()]),
    ("HVALS", 2, |d| words!["HVALS", d.key(Hash)]),
];

fn pairs(d: &mut Dice, name: &str) -> Words {
    let mut words = words![name, d.key(Hash)];
    for member in d.members(4) {
        words.push(member);
        let value = if d.chance(30) { d.integer().into_bytes() } else { d.value() };
        words.push(value);
    }
    words
}
