//! Where the words of random requests come from. Few keys, few members and many corner cases: things must meet.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::resp::Words;

/// What a key usually holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any string.
    Text,
    /// A string that is a number.
    Number,
    /// A hash.
    Hash,
    /// A set.
    Set,
    /// A sorted set.
    Sorted,
    /// A sorted set of places.
    Places,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Text, "t"),
    (Kind::Number, "n"),
    (Kind::Hash, "h"),
    (Kind::Set, "s"),
    (Kind::Sorted, "z"),
    (Kind::Places, "g"),
];

/// Tags in different shards of two, and none.
const TAGS: [&str; 4] = ["{a}", "{b}", "{c}", ""];

const KEYS_OF_A_KIND: u32 = 3;

/// All keys that there can be.
pub(crate) fn all_keys() -> impl Iterator<Item = Vec<u8>> {
    let named = |tag: &'static str| {
        KINDS.iter().flat_map(move |(_, letter)| {
            (0..KEYS_OF_A_KIND).map(move |n| format!("{tag}{letter}{n}").into_bytes())
        })
    };
    TAGS.into_iter().flat_map(named)
}

/// Random choices from one seed.
pub(crate) struct Dice {
    rng: StdRng,
    /// The protocol that the connection speaks.
    pub(crate) protocol: u8,
    /// Values that `DUMP` has given, as in `RESTORE` they come back.
    pub(crate) dumps: Vec<Vec<u8>>,
}

impl Dice {
    /// The same seed gives the same requests, as long as the servers answer alike.
    pub(crate) fn new(seed: u64, protocol: u8) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), protocol, dumps: Vec::new() }
    }

    /// A number from 0 to below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// A number in the range, both ends included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        self.rng.random_range(low..=high)
    }

    /// True in `percent` of all cases.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// One of them.
    pub(crate) fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// One of them, or nothing.
    pub(crate) fn maybe(&mut self, percent: u32, of: &[&str], words: &mut Words) {
        if self.chance(percent) {
            let word = self.pick(of).as_bytes().to_vec();
            words.push(word);
        }
    }

    fn name(&mut self, tag: &str, kind: Kind) -> String {
        // Now and then a key of another type, so that wrong types are met too.
        let kind = if self.chance(6) { KINDS[self.below(KINDS.len())].0 } else { kind };
        let letter = KINDS.iter().find(|(candidate, _)| *candidate == kind).map_or("t", |(_, letter)| letter);
        format!("{tag}{letter}{}", self.rng.random_range(0..KEYS_OF_A_KIND))
    }

    /// A key that is likely of that kind, in any slot.
    pub(crate) fn key(&mut self, kind: Kind) -> String {
        let tag = self.pick(&TAGS);
        self.name(tag, kind)
    }

    /// A key of any kind in any slot.
    pub(crate) fn any_key(&mut self) -> String {
        let kind = KINDS[self.below(KINDS.len())].0;
        self.key(kind)
    }

    /// `count` keys in one slot.
    pub(crate) fn keys_together(&mut self, kind: Kind, count: usize) -> Vec<String> {
        let tag = self.pick(&TAGS[..3]);
        (0..count).map(|_| self.name(tag, kind)).collect()
    }

    /// `count` keys of any kind in one slot.
    pub(crate) fn any_keys_together(&mut self, count: usize) -> Vec<String> {
        let kind = KINDS[self.below(KINDS.len())].0;
        self.keys_together(kind, count)
    }

    /// Keys in any slots.
    pub(crate) fn keys_anywhere(&mut self, most: usize) -> Vec<String> {
        let count = 1 + self.below(most);
        (0..count).map(|_| self.any_key()).collect()
    }

    /// A value of a string.
    pub(crate) fn value(&mut self) -> Vec<u8> {
        match self.below(10) {
            0 => Vec::new(),
            1 => self.integer().into_bytes(),
            2 => vec![0, 255, b'\r', b'\n', 128],
            3 => vec![b'x'; self.rng.random_range(40..300)],
            4 => (0..self.rng.random_range(1..30)).map(|i| b"the quick brown fox"[i % 19]).collect(),
            5 => b"1.5".to_vec(),
            _ => format!("v{}", self.rng.random_range(0..50)).into_bytes(),
        }
    }

    /// A whole number, seldom a large one or none.
    pub(crate) fn integer(&mut self) -> String {
        match self.below(30) {
            0 => "9223372036854775807".into(),
            1 => "-9223372036854775808".into(),
            2 => self.pick(&["abc", "", " 1", "1 ", "01", "+1", "1.0", "9223372036854775808", "-0"]).into(),
            _ => self.rng.random_range(-20..200).to_string(),
        }
    }

    /// An index or a rank.
    pub(crate) fn index(&mut self) -> String {
        match self.below(20) {
            0 => self.integer(),
            _ => self.rng.random_range(-12..12).to_string(),
        }
    }

    /// A number that binary and decimal fractions both hold exactly, so that sums have one spelling.
    pub(crate) fn decimal(&mut self) -> String {
        match self.below(14) {
            0 => self.pick(&["abc", "", "nan", " 1", "1e2", "5.0e3"]).into(),
            1 => "0".into(),
            _ => format!("{}", f64::from(self.rng.random_range(-400..400)) / 8.0),
        }
    }

    /// A score.
    pub(crate) fn score(&mut self) -> String {
        match self.below(16) {
            0 => "inf".into(),
            1 => "-inf".into(),
            2 => "+inf".into(),
            _ => self.decimal(),
        }
    }

    /// One end of a range of scores.
    pub(crate) fn score_bound(&mut self) -> String {
        let open = if self.chance(25) { "(" } else { "" };
        let score = self.score();
        format!("{open}{score}")
    }

    /// One end of a range of members.
    pub(crate) fn lex_bound(&mut self) -> String {
        match self.below(5) {
            0 => "-".into(),
            1 => "+".into(),
            n => {
                let member = String::from_utf8_lossy(&self.member()).into_owned();
                format!("{}{member}", if n == 2 { "(" } else { "[" })
            }
        }
    }

    /// A member or a field.
    pub(crate) fn member(&mut self) -> Vec<u8> {
        match self.below(40) {
            0 => Vec::new(),
            1 => vec![b'm'; 80],
            2 => vec![0, 254],
            3..14 => self.rng.random_range(0..12).to_string().into_bytes(),
            _ => format!("m{}", self.rng.random_range(0..12)).into_bytes(),
        }
    }

    /// Some members.
    pub(crate) fn members(&mut self, most: usize) -> Words {
        // Seldom so many that the encoding changes.
        let count = if self.chance(1) { 150 } else { 1 + self.below(most) };
        if count > most {
            return (0..count).map(|n| format!("many{n}").into_bytes()).collect();
        }
        (0..count).map(|_| self.member()).collect()
    }

    /// A count, mostly small.
    pub(crate) fn count(&mut self) -> String {
        self.rng.random_range(-3..6).to_string()
    }

    /// A time to live in seconds that does not end while the test runs, or has ended already.
    pub(crate) fn seconds(&mut self) -> String {
        match self.below(12) {
            0 => self.pick(&["0", "-1", "abc", "9223372036854775807", "1.5"]).into(),
            _ => self.rng.random_range(1000..5000).to_string(),
        }
    }

    /// The same in milliseconds.
    pub(crate) fn millis(&mut self) -> String {
        match self.below(12) {
            0 => self.pick(&["0", "-1", "abc", "9223372036854775807"]).into(),
            _ => self.rng.random_range(1_000_000..5_000_000).to_string(),
        }
    }

    /// A point in time in seconds.
    pub(crate) fn at_seconds(&mut self) -> String {
        match self.below(12) {
            0 => self.pick(&["1", "0", "-1", "abc"]).into(),
            _ => (4_000_000_000 + self.rng.random_range(0..1000_i64)).to_string(),
        }
    }

    /// A point in time in milliseconds.
    pub(crate) fn at_millis(&mut self) -> String {
        match self.below(12) {
            0 => self.pick(&["1", "0", "-1", "abc"]).into(),
            _ => (4_000_000_000_000 + self.rng.random_range(0..1_000_000_i64)).to_string(),
        }
    }
}
