//! What the engines counted while they merged, summed by region.

use std::collections::BTreeMap;

use anyhow::Result;
use e2e::Store;

/// Counters by region and name.
pub(crate) struct Counters(BTreeMap<String, BTreeMap<String, i64>>);

impl Counters {
    /// As of now.
    pub(crate) fn read(store: &Store) -> Result<Self> {
        let mut all = BTreeMap::new();
        for region in store.regions() {
            all.insert(region.to_owned(), store.engine_counters(region)?);
        }
        Ok(Self(all))
    }

    /// What has been counted since `before`, in sentences.
    pub(crate) fn since(&self, before: &Self) -> Sentences {
        let of = |all: &Self, region: &str, name: &str| {
            all.0.get(region).and_then(|counters| counters.get(name)).copied().unwrap_or_default()
        };
        let grown = |region: &str, name: &str| of(self, region, name) - of(before, region, name);
        let lines = self.0.keys().map(|region| {
            format!(
                "{region} merged {} effects of the other side; {} of their operations were overruled by later ones, {} effects came twice and were refused",
                grown(region, "merged"), grown(region, "overruled"), grown(region, "duplicates"),
            )
        });
        Sentences(lines.collect())
    }
}

/// Lines to print.
pub(crate) struct Sentences(Vec<String>);

impl Sentences {
    pub(crate) fn lines(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}
