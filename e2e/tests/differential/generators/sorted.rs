//! Sorted sets.

use super::{Entry, with};
use crate::dice::{
    Dice,
    Kind::{Set, Sorted},
};
use crate::resp::Words;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("ZADD", 8, zadd),
    ("ZCARD", 2, |d| words!["ZCARD", d.key(Sorted)]),
    ("ZCOUNT", 2, |d| words!["ZCOUNT", d.key(Sorted), d.score_bound(), d.score_bound()]),
    ("ZDIFF", 2, |d| {
        let mut words = counted(d, words!["ZDIFF"], 0);
        d.maybe(50, &["WITHSCORES"], &mut words);
        words
    }),
    ("ZDIFFSTORE", 2, |d| counted(d, words!["ZDIFFSTORE"], 1)),
    ("ZINCRBY", 4, |d| words!["ZINCRBY", d.key(Sorted), d.score(), d.member()]),
    ("ZINTER", 2, |d| {
        let words = counted(d, words!["ZINTER"], 0);
        weighed(d, words, true)
    }),
    ("ZINTERCARD", 2, |d| {
        let mut words = counted(d, words!["ZINTERCARD"], 0);
        if d.chance(40) {
            words.extend(words!["LIMIT", d.count()]);
        }
        words
    }),
    ("ZINTERSTORE", 2, |d| {
        let words = counted(d, words!["ZINTERSTORE"], 1);
        weighed(d, words, false)
    }),
    ("ZLEXCOUNT", 2, |d| words!["ZLEXCOUNT", d.key(Sorted), d.lex_bound(), d.lex_bound()]),
    ("ZMPOP", 3, |d| {
        let mut words = counted(d, words!["ZMPOP"], 0);
        d.maybe(95, &["MIN", "MAX"], &mut words);
        if d.chance(50) {
            words.extend(words!["COUNT", d.count()]);
        }
        words
    }),
    ("ZMSCORE", 2, |d| {
        let key = d.key(Sorted);
        with(words!["ZMSCORE", key], d.members(4))
    }),
    ("ZPOPMAX", 2, |d| pop(d, "ZPOPMAX")),
    ("ZPOPMIN", 2, |d| pop(d, "ZPOPMIN")),
    ("ZRANDMEMBER", 2, |d| {
        let mut words = words!["ZRANDMEMBER", d.key(Sorted)];
        if d.chance(60) {
            words.extend(words![d.count()]);
            d.maybe(50, &["WITHSCORES"], &mut words);
        }
        words
    }),
    ("ZRANGE", 4, |d| {
        let words = words!["ZRANGE", d.key(Sorted)];
        let mut words = range(d, words);
        d.maybe(40, &["WITHSCORES"], &mut words);
        words
    }),
    ("ZRANGEBYLEX", 2, |d| {
        let words = words!["ZRANGEBYLEX", d.key(Sorted), d.lex_bound(), d.lex_bound()];
        limited(d, words)
    }),
    ("ZRANGEBYSCORE", 2, |d| {
        let mut words = words!["ZRANGEBYSCORE", d.key(Sorted), d.score_bound(), d.score_bound()];
        d.maybe(40, &["WITHSCORES"], &mut words);
        limited(d, words)
    }),
    ("ZRANGESTORE", 2, |d| {
        let keys = d.keys_together(Sorted, 2);
        let words = with(words!["ZRANGESTORE"], keys);
        range(d, words)
    }),
    ("ZRANK", 2, |d| words!["ZRANK", d.key(Sorted), d.member()]),
    ("ZREM", 3, |d| {
        let key = d.key(Sorted);
        with(words!["ZREM", key], d.members(4))
    }),
    ("ZREMRANGEBYLEX", 1, |d| words!["ZREMRANGEBYLEX", d.key(Sorted), d.lex_bound(), d.lex_bound()]),
    ("ZREMRANGEBYRANK", 1, |d| words!["ZREMRANGEBYRANK", d.key(Sorted), d.index(), d.index()]),
    ("ZREMRANGEBYSCORE", 1, |d| words!["ZREMRANGEBYSCORE", d.key(Sorted), d.score_bound(), d.score_bound()]),
    ("ZREVRANGE", 2, |d| {
        let mut words = words!["ZREVRANGE", d.key(Sorted), d.index(), d.index()];
        d.maybe(40, &["WITHSCORES"], &mut words);
        words
    }),
    ("ZREVRANGEBYLEX", 2, |d| {
        let words = words!["ZREVRANGEBYLEX", d.key(Sorted), d.lex_bound(), d.lex_bound()];
        limited(d, words)
    }),
    ("ZREVRANGEBYSCORE", 2, |d| {
        let mut words = words!["ZREVRANGEBYSCORE", d.key(Sorted), d.score_bound(), d.score_bound()];
        d.maybe(40, &["WITHSCORES"], &mut words);
        limited(d, words)
    }),
    ("ZREVRANK", 2, |d| words!["ZREVRANK", d.key(Sorted), d.member()]),
    ("ZSCAN", 1, |d| words!["ZSCAN", d.key(Sorted), "0", "COUNT", d.pick(&["1", "5", "1000"])]),
    ("ZSCORE", 2, |d| words!["ZSCORE", d.key(Sorted), d.member()]),
    ("ZUNION", 2, |d| {
        let words = counted(d, words!["ZUNION"], 0);
        weighed(d, words, true)
    }),
    ("ZUNIONSTORE", 2, |d| {
        let words = counted(d, words!["ZUNIONSTORE"], 1);
        weighed(d, words, false)
    }),
];

fn zadd(d: &mut Dice) -> Words {
    let mut words = words!["ZADD", d.key(Sorted)];
    d.maybe(25, &["NX", "XX"], &mut words);
    d.maybe(15, &["GT", "LT"], &mut words);
    d.maybe(15, &["CH"], &mut words);
    let increment = d.chance(12);
    if increment {
        words.extend(words!["INCR"]);
    }
    let most = if increment && d.chance(90) { 1 } else { 4 };
    for member in d.members(most) {
        words.extend(words![d.score(), member]);
    }
    words
}

/// Sorted sets, and seldom a set, behind their number; a destination before it, if wanted.
fn counted(d: &mut Dice, words: Words, destinations: usize) -> Words {
    let count = 1 + d.below(3);
    let kind = if d.chance(15) { Set } else { Sorted };
    let mut keys = d.keys_together(kind, destinations + count);
    let sources = keys.split_off(destinations);
    with(with(with(words, keys), [count.to_string()]), sources)
}

fn weighed(d: &mut Dice, mut words: Words, scores: bool) -> Words {
    let at = words.iter().position(|word| word.len() == 1 && word[0].is_ascii_digit()).unwrap_or(1);
    let count: usize = String::from_utf8_lossy(&words[at]).parse().unwrap_or(1);
    if d.chance(30) {
        words.extend(words!["WEIGHTS"]);
        for _ in 0..count {
            words.extend(words![d.pick(&["1", "2", "-1", "0.5", "0", "inf"])]);
        }
    }
    if d.chance(40) {
        words.extend(words!["AGGREGATE", d.pick(&["SUM", "MIN", "MAX", "sum", "AVG"])]);
    }
    if scores {
        d.maybe(50, &["WITHSCORES"], &mut words);
    }
    words
}

fn limited(d: &mut Dice, mut words: Words) -> Words {
    if d.chance(40) {
        words.extend(words!["LIMIT", d.between(-1, 3), d.between(-1, 5)]);
    }
    words
}

fn range(d: &mut Dice, words: Words) -> Words {
    let mut words = match d.below(3) {
        0 => with(words, words![d.index(), d.index()]),
        1 => with(words, words![d.score_bound(), d.score_bound(), "BYSCORE"]),
        _ => with(words, words![d.lex_bound(), d.lex_bound(), "BYLEX"]),
    };
    d.maybe(30, &["REV"], &mut words);
    if words.iter().any(|word| word.starts_with(b"BY")) {
        words = limited(d, words);
    }
    words
}

fn pop(d: &mut Dice, name: &str) -> Words {
    let mut words = words![name, d.key(Sorted)];
    if d.chance(60) {
        words.extend(words![d.count()]);
    }
    words
}
