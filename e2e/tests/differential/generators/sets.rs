//! Sets.

use super::{Entry, with};
use crate::dice::{Dice, Kind::Set};
use crate::resp::Words;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("SADD", 8, |d| {
        let key = d.key(Set);
        with(words!["SADD", key], d.members(5))
    }),
    ("SCARD", 2, |d| words!["SCARD", d.key(Set)]),
    ("SDIFF", 2, |d| together(d, "SDIFF", 1)),
    ("SDIFFSTORE", 2, |d| together(d, "SDIFFSTORE", 2)),
    ("SINTER", 2, |d| together(d, "SINTER", 1)),
    ("SINTERCARD", 2, |d| {
        let count = 1 + d.below(3);
        let keys = d.keys_together(Set, count);
        let mut words = with(words!["SINTERCARD", count.to_string()], keys);
        if d.chance(40) {
            words.extend(words!["LIMIT", d.count()]);
        }
        words
    }),
    ("SINTERSTORE", 2, |d| together(d, "SINTERSTORE", 2)),
    ("SISMEMBER", 2, |d| words!["SISMEMBER", d.key(Set), d.member()]),
    ("SMEMBERS", 3, |d| words!["SMEMBERS", d.key(Set)]),
    ("SMISMEMBER", 2, |d| {
        let key = d.key(Set);
        with(words!["SMISMEMBER", key], d.members(4))
    }),
    ("SMOVE", 3, |d| {
        let keys = d.keys_together(Set, 2);
        with(with(words!["SMOVE"], keys), [d.member()])
    }),
    ("SPOP", 3, |d| {
        let mut words = words!["SPOP", d.key(Set)];
        if d.chance(60) {
            words.extend(words![d.count()]);
        }
        words
    }),
    ("SRANDMEMBER", 2, |d| {
        let mut words = words!["SRANDMEMBER", d.key(Set)];
        if d.chance(60) {
            words.extend(words![d.count()]);
        }
        words
    }),
    ("SREM", 3, |d| {
        let key = d.key(Set);
        with(words!["SREM", key], d.members(4))
    }),
    ("SSCAN", 1, |d| words!["SSCAN", d.key(Set), "0", "COUNT", d.pick(&["1", "5", "1000"])]),
    ("SUNION", 2, |d| together(d, "SUNION", 1)),
    ("SUNIONSTORE", 2, |d| together(d, "SUNIONSTORE", 2)),
];

fn together(d: &mut Dice, name: &str, least: usize) -> Words {
    let count = least + d.below(3);
    let keys = d.keys_together(Set, count);
    with(words![name], keys)
}
