//! The identity record of a store: a ConfigMap without owner, so that it outlives the store's object as its volumes do. What is
//! in it never changes its meaning: ids of regions, the number of shards, the slots.

use mas_core::slot::even_ranges;
use serde::{Deserialize, Serialize};

/// Version of the record's format.
const FORMAT: u32 = 1;
/// The ConfigMap's key.
pub(crate) const KEY: &str = "record.json";

/// A store's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// When it was founded; from then on an empty engine is a loss and no beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub founded: Option<String>,
    /// Its regions.
    pub regions: Vec<RegionIdentity>,
    /// The id that the next new region gets.
    pub next_region_id: u16,
    /// Shards of every region.
    pub shards: u16,
    /// Slots of each shard, as inclusive ranges.
    pub slots: Vec<Vec<(u16, u16)>>,
    /// Raised whenever a region joins or leaves.
    #[serde(default)]
    pub membership: u64,
}

/// A region's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionIdentity {
    /// Its name.
    pub name: String,
    /// Its id: never used again.
    pub id: u16,
    /// Highest epoch known of each shard.
    pub epochs: Vec<u64>,
    /// It joins, and is no member yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
}

impl Identity {
    /// That of a new store.
    pub(crate) fn new(store: &crds::Validated) -> Self {
        let mut identity = Self {
            format: FORMAT,
            founded: None,
            regions: Vec::new(),
            next_region_id: 1,
            shards: store.shards,
            slots: (0..store.shards).map(|shard| even_ranges(shard, store.shards)).collect(),
            membership: 1,
        };
        identity.take_in(store);
        identity
    }

    /// Reads a record; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let identity: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if identity.format == FORMAT { Ok(identity) } else { Err(format!("format {}", identity.format)) }
    }

    /// As it is kept.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Gives ids to the store's regions. Once it is founded, a new one joins by scale-out.
    pub(crate) fn take_in(&mut self, store: &crds::Validated) {
        let joining = self.founded.is_some();
        for region in &store.regions {
            if self.region(&region.name).is_none() {
                let epochs = vec![0; usize::from(store.shards)];
                self.regions.push(RegionIdentity {
                    name: region.name.clone(),
                    id: self.next_region_id,
                    epochs,
                    joining,
                });
                self.next_region_id += 1;
                self.membership += u64::from(joining);
            }
        }
    }

    /// A region is a member like the others; whether that is news.
    pub(crate) fn joined(&mut self, region: &str) -> bool {
        let region = self.regions.iter_mut().find(|known| known.name == region);
        region.is_some_and(|region| std::mem::take(&mut region.joining))
    }

    /// Notes that `epoch` was issued for a shard; whether that is news.
    pub(crate) fn raise(&mut self, region: &str, shard: u16, epoch: u64) -> bool {
        let region = self.regions.iter_mut().find(|known| known.name == region);
        let known = region.and_then(|region| region.epochs.get_mut(usize::from(shard)));
        known.is_some_and(|known| {
            let news = epoch > *known;
            *known = epoch.max(*known);
            news
        })
    }

    /// The region of that name, if it is a member.
    pub fn region(&self, name: &str) -> Option<&RegionIdentity> {
        self.regions.iter().find(|region| region.name == name)
    }
}
