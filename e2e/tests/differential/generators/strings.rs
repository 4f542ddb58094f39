//! Strings, counters and bitmaps.

use super::{Entry, with};
use crate::dice::{
    Dice,
    Kind::{Number, Text},
};
use crate::resp::Words;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("APPEND", 3, |d| words!["APPEND", d.key(Text), d.value()]),
    ("DECR", 2, |d| words!["DECR", d.key(Number)]),
    ("DECRBY", 2, |d| words!["DECRBY", d.key(Number), d.integer()]),
    ("GET", 4, |d| words!["GET", text(d)]),
    ("GETDEL", 2, |d| words!["GETDEL", text(d)]),
    ("GETEX", 3, |d| {
        let words = words!["GETEX", text(d)];
        time(d, words, &["PERSIST"])
    }),
    ("GETRANGE", 2, |d| words!["GETRANGE", text(d), d.index(), d.index()]),
    ("GETSET", 2, |d| words!["GETSET", text(d), d.value()]),
    ("INCR", 3, |d| words!["INCR", d.key(Number)]),
    ("INCRBY", 3, |d| words!["INCRBY", d.key(Number), d.integer()]),
    ("INCRBYFLOAT", 3, |d| words!["INCRBYFLOAT", d.key(Number), d.decimal()]),
    ("LCS", 2, |d| {
        let keys = d.keys_together(Text, 2);
        let mut words = with(words!["LCS"], keys);
        d.maybe(30, &["LEN", "IDX"], &mut words);
        d.maybe(20, &["WITHMATCHLEN"], &mut words);
        words
    }),
    ("MGET", 3, |d| with(words!["MGET"], d.keys_anywhere(5))),
    ("MSET", 3, |d| {
        let mut words = words!["MSET"];
        for key in d.keys_anywhere(4) {
            words.extend(words![key, d.value()]);
        }
        words
    }),
    ("MSETNX", 2, |d| {
        let mut words = words!["MSETNX"];
        let count = 1 + d.below(3);
        for key in d.keys_together(Text, count) {
            words.extend(words![key, d.value()]);
        }
        words
    }),
    ("PSETEX", 2, |d| {
        let time = if d.chance(15) { d.between(1, 3).to_string() } else { d.millis() };
        words!["PSETEX", text(d), time, d.value()]
    }),
    ("SET", 8, set),
    ("SETEX", 2, |d| words!["SETEX", text(d), d.seconds(), d.value()]),
    ("SETNX", 2, |d| words!["SETNX", text(d), d.value()]),
    ("SETRANGE", 2, |d| words!["SETRANGE", d.key(Text), offset(d, 300), d.value()]),
    ("STRLEN", 2, |d| words!["STRLEN", text(d)]),
    ("SUBSTR", 1, |d| words!["SUBSTR", text(d), d.index(), d.index()]),
    ("BITCOUNT", 2, |d| {
        let mut words = words!["BITCOUNT", text(d)];
        if d.chance(60) {
            words.extend(words![d.index(), d.index()]);
            d.maybe(50, &["BIT", "BYTE", "NIBBLE"], &mut words);
        }
        words
    }),
    ("BITFIELD", 3, |d| {
        let mut words = words!["BITFIELD", d.key(Text)];
        for _ in 0..=d.below(3) {
            d.maybe(30, &["OVERFLOW"], &mut words);
            if words.last().is_some_and(|last| last == b"OVERFLOW") {
                words.extend(words![d.pick(&["WRAP", "SAT", "FAIL", "fail", "ODD"])]);
            }
            match d.below(3) {
                0 => words.extend(words!["GET", field(d), place(d)]),
                1 => words.extend(words!["SET", field(d), place(d), d.integer()]),
                _ => words.extend(words!["INCRBY", field(d), place(d), d.integer()]),
            }
        }
        words
    }),
    ("BITFIELD_RO", 2, |d| words!["BITFIELD_RO", text(d), "GET", field(d), place(d)]),
    ("BITOP", 2, |d| {
        let operation = d.pick(&["AND", "OR", "XOR", "NOT", "not", "NAND"]);
        let count = if operation.eq_ignore_ascii_case("not") { 2 } else { 2 + d.below(3) };
        let keys = d.keys_together(Text, count);
        with(words!["BITOP", operation], keys)
    }),
    ("BITPOS", 2, |d| {
        let mut words = words!["BITPOS", text(d), d.pick(&["0", "1", "1", "2"])];
        for _ in 0..d.below(3) {
            words.extend(words![d.index()]);
        }
        if words.len() == 5 {
            d.maybe(50, &["BIT", "BYTE"], &mut words);
        }
        words
    }),
    ("GETBIT", 2, |d| words!["GETBIT", text(d), offset(d, 2000)]),
    ("SETBIT", 3, |d| words!["SETBIT", d.key(Text), offset(d, 2000), d.pick(&["0", "1", "1", "2"])]),
];

fn text(d: &mut Dice) -> String {
    let kind = if d.chance(30) { Number } else { Text };
    d.key(kind)
}

fn offset(d: &mut Dice, most: i64) -> String {
    match d.below(20) {
        0 => d.pick(&["-1", "abc", "4294967296", "9223372036854775807"]).into(),
        _ => d.between(0, most).to_string(),
    }
}

fn field(d: &mut Dice) -> String {
    d.pick(&["u8", "i8", "u3", "i16", "u32", "i64", "u63", "u64", "i1"]).into()
}

fn place(d: &mut Dice) -> String {
    let mark = if d.chance(20) { "#" } else { "" };
    format!("{mark}{}", offset(d, 100))
}

/// Options that set a time to live, or others.
fn time(d: &mut Dice, mut words: Words, others: &[&str]) -> Words {
    match d.below(10) {
        0 => words.extend(words!["EX", d.seconds()]),
        1 => words.extend(words!["PX", d.millis()]),
        2 => words.extend(words!["EXAT", d.at_seconds()]),
        3 => words.extend(words!["PXAT", d.at_millis()]),
        4 | 5 => d.maybe(100, others, &mut words),
        _ => {}
    }
    d.maybe(3, &["KEEPTTL", "PERSIST", "ODD"], &mut words);
    words
}

fn set(d: &mut Dice) -> Words {
    let key = text(d);
    let value = if d.chance(30) { d.integer().into_bytes() } else { d.value() };
    let mut words = words!["SET", key, value];
    if d.chance(5) {
        words.extend(words!["PX", d.between(1, 3)]);
        return words;
    }
    if d.chance(50) {
        return words;
    }
    d.maybe(40, &["NX", "XX", "nx"], &mut words);
    d.maybe(40, &["GET"], &mut words);
    time(d, words, &["KEEPTTL"])
}
