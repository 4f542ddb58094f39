//! Keys: deleting, expiring, copying, renaming, looking.

use super::{Entry, with};
use crate::dice::{Dice, Kind};
use crate::resp::Words;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("COPY", 3, |d| {
        let keys = d.any_keys_together(2);
        let mut words = with(words!["COPY"], keys);
        d.maybe(50, &["REPLACE"], &mut words);
        words
    }),
    ("DEL", 3, |d| with(words!["DEL"], d.keys_anywhere(4))),
    ("DUMP", 2, |d| words!["DUMP", d.any_key()]),
    ("EXISTS", 2, |d| with(words!["EXISTS"], d.keys_anywhere(4))),
    ("EXPIRE", 3, |d| {
        let words = words!["EXPIRE", d.any_key(), d.seconds()];
        condition(d, words)
    }),
    ("EXPIREAT", 2, |d| {
        let words = words!["EXPIREAT", d.any_key(), d.at_seconds()];
        condition(d, words)
    }),
    ("EXPIRETIME", 2, |d| words!["EXPIRETIME", d.any_key()]),
    ("KEYS", 1, |d| words!["KEYS", d.pick(&["*", "*s?", "{a}*", "{b}t[0-1]", "nothing", "[", "\\{a}*"])]),
    ("OBJECT|ENCODING", 3, |d| words!["OBJECT", "ENCODING", d.any_key()]),
    ("OBJECT|HELP", 1, |_| words!["OBJECT", "HELP"]),
    ("OBJECT|IDLETIME", 1, |d| words!["OBJECT", "IDLETIME", d.any_key()]),
    ("OBJECT|REFCOUNT", 1, |d| words!["OBJECT", "REFCOUNT", d.any_key()]),
    ("PERSIST", 2, |d| words!["PERSIST", d.any_key()]),
    ("PEXPIRE", 3, |d| {
        // A short one, so that keys also end by themselves: see `Rule::Expiring`.
        if d.chance(15) {
            return words!["PEXPIRE", d.any_key(), d.between(1, 3)];
        }
        let words = words!["PEXPIRE", d.any_key(), d.millis()];
        condition(d, words)
    }),
    ("PEXPIREAT", 2, |d| {
        let words = words!["PEXPIREAT", d.any_key(), d.at_millis()];
        condition(d, words)
    }),
    ("PEXPIRETIME", 2, |d| words!["PEXPIRETIME", d.any_key()]),
    ("PTTL", 2, |d| words!["PTTL", d.any_key()]),
    ("RANDOMKEY", 1, |_| words!["RANDOMKEY"]),
    ("RENAME", 2, |d| {
        let keys = d.any_keys_together(2);
        with(words!["RENAME"], keys)
    }),
    ("RENAMENX", 2, |d| {
        let keys = d.any_keys_together(2);
        with(words!["RENAMENX"], keys)
    }),
    ("RESTORE", 2, restore),
    ("SCAN", 1, |d| {
        let mut words = words!["SCAN", "0"];
        if d.chance(50) {
            words.extend(words!["COUNT", d.pick(&["1", "3", "1000"])]);
        }
        if d.chance(40) {
            words.extend(words!["MATCH", d.pick(&["*", "{a}*", "*h*", "[", "x"])]);
        }
        if d.chance(40) {
            words.extend(words!["TYPE", d.pick(&["string", "hash", "set", "zset", "list"])]);
        }
        words
    }),
    ("SORT", 2, |d| {
        let kind = if d.chance(50) { Kind::Set } else { Kind::Sorted };
        sort(d, "SORT", kind)
    }),
    ("SORT_RO", 2, |d| sort(d, "SORT_RO", Kind::Set)),
    ("TOUCH", 1, |d| with(words!["TOUCH"], d.keys_anywhere(4))),
    ("TTL", 2, |d| words!["TTL", d.any_key()]),
    ("TYPE", 2, |d| words!["TYPE", d.any_key()]),
    ("UNLINK", 2, |d| with(words!["UNLINK"], d.keys_anywhere(4))),
];

fn condition(d: &mut Dice, mut words: Words) -> Words {
    d.maybe(40, &["NX", "XX", "GT", "LT", "ZZ"], &mut words);
    d.maybe(5, &["NX", "GT", "LT"], &mut words);
    words
}

fn restore(d: &mut Dice) -> Words {
    let payload = if d.dumps.is_empty() || d.chance(5) {
        b"no dump".to_vec()
    } else {
        let n = d.below(d.dumps.len());
        d.dumps[n].clone()
    };
    if d.chance(25) {
        let mut words = words!["RESTORE", d.any_key(), d.at_millis(), payload, "ABSTTL"];
        d.maybe(60, &["REPLACE"], &mut words);
        return words;
    }
    let time = if d.chance(60) { "0".into() } else { d.millis() };
    let mut words = words!["RESTORE", d.any_key(), time, payload];
    d.maybe(60, &["REPLACE"], &mut words);
    words
}

fn sort(d: &mut Dice, name: &str, kind: Kind) -> Words {
    let mut words = words![name, d.key(kind)];
    if d.chance(40) {
        words.extend(words!["LIMIT", d.between(0, 3), d.between(-1, 5)]);
    }
    d.maybe(40, &["ASC", "DESC"], &mut words);
    d.maybe(70, &["ALPHA"], &mut words);
    words
}
