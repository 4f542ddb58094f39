//! Places.

use super::{Entry, with};
use crate::dice::{Dice, Kind::Places};
use crate::resp::Words;
use crate::words;

pub(super) const ALL: &[Entry] = &[
    ("GEOADD", 6, |d| {
        let mut words = words!["GEOADD", d.key(Places)];
        d.maybe(20, &["NX", "XX"], &mut words);
        d.maybe(20, &["CH"], &mut words);
        for member in d.members(3) {
            words.extend(words![longitude(d), latitude(d), member]);
        }
        words
    }),
    ("GEODIST", 2, |d| {
        let mut words = words!["GEODIST", d.key(Places), d.member(), d.member()];
        d.maybe(50, &["m", "km", "mi", "ft", "parsec"], &mut words);
        words
    }),
    ("GEOHASH", 2, |d| {
        let key = d.key(Places);
        with(words!["GEOHASH", key], d.members(3))
    }),
    ("GEOPOS", 2, |d| {
        let key = d.key(Places);
        with(words!["GEOPOS", key], d.members(3))
    }),
    ("GEORADIUS", 2, |d| {
        let keys = d.keys_together(Places, 2);
        let words = words!["GEORADIUS", keys[0].clone(), longitude(d), latitude(d), radius(d), "km"];
        stored(d, words, &keys[1])
    }),
    ("GEORADIUSBYMEMBER", 2, |d| {
        let keys = d.keys_together(Places, 2);
        let words = words!["GEORADIUSBYMEMBER", keys[0].clone(), d.member(), radius(d), "km"];
        stored(d, words, &keys[1])
    }),
    ("GEORADIUSBYMEMBER_RO", 1, |d| {
        let words = words!["GEORADIUSBYMEMBER_RO", d.key(Places), d.member(), radius(d), "mi"];
        shown(d, words)
    }),
    ("GEORADIUS_RO", 1, |d| {
        let words = words!["GEORADIUS_RO", d.key(Places), longitude(d), latitude(d), radius(d), "m"];
        shown(d, words)
    }),
    ("GEOSEARCH", 3, |d| {
        let words = words!["GEOSEARCH", d.key(Places)];
        let words = search(d, words);
        shown(d, words)
    }),
    ("GEOSEARCHSTORE", 2, |d| {
        let keys = d.keys_together(Places, 2);
        let words = with(words!["GEOSEARCHSTORE"], keys);
        let mut words = search(d, words);
        d.maybe(30, &["STOREDIST"], &mut words);
        words
    }),
];

fn longitude(d: &mut Dice) -> String {
    if d.chance(2) { "181".into() } else { format!("{}", f64::from(d.between(-40, 40) as i32) / 4.0) }
}

fn latitude(d: &mut Dice) -> String {
    if d.chance(2) { "abc".into() } else { format!("{}", f64::from(d.between(-40, 40) as i32) / 4.0) }
}

fn radius(d: &mut Dice) -> String {
    if d.chance(3) { "-1".into() } else { d.between(0, 3000).to_string() }
}

fn search(d: &mut Dice, mut words: Words) -> Words {
    if d.chance(50) {
        words.extend(words!["FROMMEMBER", d.member()]);
    } else {
        words.extend(words!["FROMLONLAT", longitude(d), latitude(d)]);
    }
    if d.chance(50) {
        words.extend(words!["BYRADIUS", radius(d), "km"]);
    } else {
        words.extend(words!["BYBOX", radius(d), radius(d), "km"]);
    }
    order(d, &mut words);
    words
}

fn order(d: &mut Dice, words: &mut Words) {
    d.maybe(50, &["ASC", "DESC"], words);
    if d.chance(30) {
        words.extend(words!["COUNT", d.count()]);
        d.maybe(20, &["ANY"], words);
    }
}

fn shown(d: &mut Dice, mut words: Words) -> Words {
    for option in ["WITHCOORD", "WITHDIST", "WITHHASH"] {
        d.maybe(25, &[option], &mut words);
    }
    if !words.iter().any(|word| word == b"COUNT") {
        order(d, &mut words);
    }
    words
}

fn stored(d: &mut Dice, mut words: Words, to: &str) -> Words {
    if d.chance(50) {
        return shown(d, words);
    }
    order(d, &mut words);
    words.extend(words![d.pick(&["STORE", "STOREDIST"]), to]);
    words
}
