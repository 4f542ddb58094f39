//! What a run found and did: for people, and for programs. Never a value: sizes and hashes tell them apart.

use serde::{Deserialize, Serialize};

/// Keys that a report lists; of more it says how many.
pub(super) const KEYS_MAX: usize = 1000;
/// Elements that it lists of a key.
pub(super) const ELEMENTS_MAX: usize = 20;
/// Of names longer than this, bytes, it has the beginning.
const NAME_MAX: usize = 200;

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The store's name.
    pub store: String,
    /// What it was asked for by; absent: it was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it began and ended.
    pub started_at: String,
    /// See `startedAt`.
    pub finished_at: String,
    /// How long it took.
    pub duration_millis: u64,
    /// The regions.
    pub regions: Vec<String>,
    /// Whether differences were to be repaired.
    pub repair: bool,
    /// Slots compared, of all regions.
    pub slots: u64,
    /// Keys that the regions have, as far as the largest of each shard tells.
    pub keys_compared: u64,
    /// Keys of the random sample: their values were compared.
    pub keys_sampled: u64,
    /// Keys that differed.
    pub different_keys: u64,
    /// Of these, keys that are equal now.
    pub repaired_keys: u64,
    /// Keys, and slots without a key to name, that could not be decided: writes were under way all the time.
    pub undecided: u64,
    /// The keys that differed, the first thousand.
    pub keys: Vec<KeyReport>,
    /// How many more there were.
    pub keys_unlisted: u64,
    /// What could not be decided, the first of them.
    pub undecided_listed: Vec<String>,
    /// Why the run ended early: nothing can be said of the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A key that regions held differently, though each had merged all that was said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyReport {
    /// Its name.
    pub key: String,
    /// Its slot.
    pub slot: u16,
    /// Its shard.
    pub shard: u16,
    /// Its type, in the first region that has it.
    #[serde(rename = "type")]
    pub kind: String,
    /// What differed.
    pub elements: Vec<ElementReport>,
    /// How many more elements did.
    pub elements_unlisted: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it is not repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What became of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing was done: the run was not to repair.
    Found,
    /// All regions hold the same now.
    Repaired,
    /// They do not.
    NotRepaired,
}

/// One element that differed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ElementReport {
    /// A field or member; absent where it is about the string or the key itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<String>,
    /// `metadata` (a write that one has and another not), `value` (another value under the same stamp), `shown` (what is shown is not
    /// what the region's own metadata says), `expiry`.
    pub what: String,
    /// How each region held it.
    pub held: Vec<Held>,
}

/// How a region held something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The region.
    pub region: String,
    /// What it held, in words: live or not, who wrote it and when, size and hash of what is shown.
    pub holds: String,
}

impl Report {
    /// Keys that still differ.
    pub fn remaining(&self) -> u64 {
        self.different_keys.saturating_sub(self.repaired_keys)
    }

    /// The whole store was compared, and its regions hold the same now.
    pub fn is_well(&self) -> bool {
        self.failed.is_none() && self.remaining() == 0
    }

    /// As a condition has it: status and reason.
    pub(crate) fn verdict(&self) -> (&'static str, &'static str) {
        match self {
            _ if self.remaining() > 0 => ("False", "RegionsDiffer"),
            Self { failed: Some(_), .. } => ("Unknown", "VerificationFailed"),
            _ if self.different_keys > 0 => ("True", "Repaired"),
            _ => ("True", "NoDifferences"),
        }
    }

    /// In a sentence.
    pub fn words(&self) -> String {
        let seconds = self.duration_millis as f64 / 1000.0;
        let found = match (self.different_keys, self.repaired_keys) {
            (0, _) => "no differences".to_owned(),
            (found, repaired) if found == repaired => format!("{found} differed and were repaired"),
            (found, 0) => format!("{found} differ between regions"),
            (found, repaired) => format!("{found} differed between regions, {repaired} were repaired"),
        };
        let mut parts =
            vec![format!("{} keys in {seconds:.1} s, {found}{}", self.keys_compared, self.first_left())];
        if self.undecided > 0 {
            parts.push(format!(
                "{} were written to all the time and are left to the next run",
                self.undecided
            ));
        }
        parts.extend(self.failed.iter().map(|why| format!("ended early: {why}")));
        parts.join("; ")
    }

    /// The first keys that still differ.
    fn first_left(&self) -> String {
        let left = self.keys.iter().filter(|key| key.outcome != Outcome::Repaired);
        let first: Vec<&str> = left.take(3).map(|key| key.key.as_str()).collect();
        match self.remaining() {
            0 => String::new(),
            1..=3 => format!(" ({})", first.join(", ")),
            _ => format!(" ({}, ...)", first.join(", ")),
        }
    }

    pub(super) fn add(&mut self, key: KeyReport) {
        self.different_keys += 1;
        self.repaired_keys += u64::from(key.outcome == Outcome::Repaired);
        if self.keys.len() < KEYS_MAX {
            self.keys.push(key);
        } else {
            self.keys_unlisted += 1;
        }
    }

    pub(super) fn leave_open(&mut self, what: String) {
        self.undecided += 1;
        if self.undecided_listed.len() < ELEMENTS_MAX {
            self.undecided_listed.push(what);
        }
    }
}

/// A name as text.
pub(super) fn name(bytes: &[u8]) -> String {
    let text = bytes[..bytes.len().min(NAME_MAX)].escape_ascii().to_string();
    let text = std::str::from_utf8(bytes).map_or(text, |utf8| utf8.chars().take(NAME_MAX).collect());
    if bytes.len() > NAME_MAX { format!("{text}... ({} bytes)", bytes.len()) } else { text }
}
