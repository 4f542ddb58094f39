//! What clients were told: every write that was acknowledged, and those of which nobody knows. Afterwards it counts
//! what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::keyspace::{Content, Keyspace};

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered: it must be there.
    Acknowledged,
    /// The connection broke or an error came back: it may be there.
    Unknown,
}

/// One write that can be found again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// A key of its own, set to its own name.
    Key(String),
    /// A member of its own in a shared set.
    Member(String, String),
    /// A field of its own in a shared hash.
    Field(String, String),
    /// A member of its own in a shared sorted set.
    Scored(String, String),
    /// One added to a shared counter.
    Increment(String),
}

/// All that happened to some writers.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    acknowledged: BTreeSet<Write>,
    unknown: BTreeSet<Write>,
    counters: BTreeMap<String, Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    acknowledged: u64,
    unknown: u64,
}

/// What is not as the clients were told.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Acknowledged writes that are not there.
    pub missing: u64,
    /// Increments that nobody asked for.
    pub surplus: u64,
    /// Some of them, in words.
    pub examples: Vec<String>,
}

impl Ledger {
    /// Notes what became of `write`.
    pub fn note(&mut self, write: Write, outcome: Outcome) {
        match (write, outcome) {
            (Write::Increment(key), outcome) => {
                let sum = self.counters.entry(key).or_default();
                match outcome {
                    Outcome::Acknowledged => sum.acknowledged += 1,
                    Outcome::Unknown => sum.unknown += 1,
                }
            }
            (write, Outcome::Acknowledged) => drop(self.acknowledged.insert(write)),
            (write, Outcome::Unknown) => drop(self.unknown.insert(write)),
        }
    }

    /// Takes over what another has noted.
    pub fn absorb(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        for (key, sum) in other.counters {
            let own = self.counters.entry(key).or_default();
            own.acknowledged += sum.acknowledged;
            own.unknown += sum.unknown;
        }
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64 + self.counters.values().map(|sum| sum.acknowledged).sum::<u64>()
    }

    /// How many writes had no known end.
    pub fn unknown(&self) -> u64 {
        self.unknown.len() as u64 + self.counters.values().map(|sum| sum.unknown).sum::<u64>()
    }

    /// Looks for everything in `space`.
    pub fn check(&self, space: &Keyspace) -> Findings {
        let mut findings = Findings::default();
        for write in &self.acknowledged {
            if !is_there(write, space) {
                findings.add_missing(1, &format!("{write:?}"));
            }
        }
        for (key, sum) in &self.counters {
            let value = text(space, key).and_then(|text| text.parse().ok()).unwrap_or(0);
            if value < sum.acknowledged {
                let what = format!("{key} is {value}, {} increments were acknowledged", sum.acknowledged);
                findings.add_missing(sum.acknowledged - value, &what);
            }
            let most = sum.acknowledged + sum.unknown;
            if value > most {
                findings.surplus += value - most;
                findings.examples.push(format!("{key} is {value}, at most {most} increments were sent"));
            }
        }
        findings
    }
}

impl Findings {
    fn add_missing(&mut self, count: u64, what: &str) {
        self.missing += count;
        if self.examples.len() < 10 {
            self.examples.push(what.to_owned());
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} missing, {} too many", self.missing, self.surplus)?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

fn text<'a>(space: &'a Keyspace, key: &str) -> Option<&'a str> {
    match &space.get(key.as_bytes())?.content {
        Content::Text(text) => std::str::from_utf8(text).ok(),
        Content::Hash(_) | Content::Set(_) | Content::Sorted(_) => None,
    }
}

fn is_there(write: &Write, space: &Keyspace) -> bool {
    let content = |key: &str| space.get(key.as_bytes()).map(|entry| &entry.content);
    match write {
        Write::Key(key) | Write::Increment(key) => text(space, key) == Some(key),
        Write::Member(key, member) => match content(key) {
            Some(Content::Set(members)) => members.contains(member.as_bytes()),
            _ => false,
        },
        Write::Scored(key, member) => match content(key) {
            Some(Content::Sorted(members)) => members.contains_key(member.as_bytes()),
            _ => false,
        },
        Write::Field(key, field) => match content(key) {
            Some(Content::Hash(fields)) => fields.contains_key(field.as_bytes()),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Entry;

    #[test]
    fn what_is_missing_is_counted() {
        let mut ledger = Ledger::default();
        for (write, outcome) in [
            (Write::Key("a".into()), Outcome::Acknowledged),
            (Write::Key("b".into()), Outcome::Acknowledged),
            (Write::Key("c".into()), Outcome::Unknown),
            (Write::Increment("n".into()), Outcome::Acknowledged),
            (Write::Increment("n".into()), Outcome::Acknowledged),
            (Write::Increment("n".into()), Outcome::Unknown),
        ] {
            ledger.note(write, outcome);
        }
        let entry = |text: &str| Entry { content: Content::Text(text.into()), expires_at: None };
        let space =
            |count: &str| Keyspace::from([(b"a".to_vec(), entry("a")), (b"n".to_vec(), entry(count))]);
        assert_eq!((ledger.acknowledged(), ledger.unknown()), (4, 2));
        let found = |count: &str| ledger.check(&space(count));
        assert_eq!((found("1").missing, found("1").surplus), (2, 0));
        assert_eq!((found("3").missing, found("3").surplus), (1, 0));
        assert_eq!((found("4").missing, found("4").surplus), (1, 1));
    }
}
