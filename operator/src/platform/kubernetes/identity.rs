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
    /// Regions that the manifest names and that a person has taken back: they join again when they come back into the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_back: Vec<String>,
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
    /// It was to join and does not: what was made for it is being deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
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
            taken_back: Vec::new(),
        };
        identity.take_in(store, |_| true);
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

    /// Gives ids to the store's regions, to new ones if they `may` be taken in. Once it is founded, a new one joins by scale-out; one that
    /// joins and is no longer in the manifest is taken back.
    pub(crate) fn take_in(&mut self, store: &crds::Validated, may: impl Fn(&str) -> bool) {
        let joining = self.founded.is_some();
        let is_wanted = |name: &String| store.regions.iter().any(|region| region.name == *name);
        let names: Vec<String> = self.regions.iter().map(|region| region.name.clone()).collect();
        for name in names.iter().filter(|name| !is_wanted(name)) {
            self.leave(name);
        }
        self.taken_back.retain(is_wanted);
        for region in &store.regions {
            let is_new = self.region(&region.name).is_none() && !self.taken_back.contains(&region.name);
            if is_new && may(&region.name) {
                let epochs = vec![0; usize::from(store.shards)];
                self.regions.push(RegionIdentity {
                    name: region.name.clone(),
                    id: self.next_region_id,
                    epochs,
                    joining,
                    leaving: false,
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

    /// A region that was to join does not; whether that is news. The others count it no more from the next membership on.
    fn leave(&mut self, region: &str) -> bool {
        let joins = |known: &&mut RegionIdentity| known.name == region && known.joining;
        let Some(region) = self.regions.iter_mut().find(joins) else { return false };
        (region.joining, region.leaving) = (false, true);
        self.membership += 1;
        true
    }

    /// The same, by a person's order, whatever the manifest says.
    pub(crate) fn take_back(&mut self, region: &str) -> bool {
        let news = self.leave(region);
        if news {
            self.taken_back.push(region.to_owned());
        }
        news
    }

    /// Nothing is left of a region that leaves; whether that is news.
    pub(crate) fn forget(&mut self, id: u16) -> bool {
        let before = self.regions.len();
        self.regions.retain(|region| !(region.leaving && region.id == id));
        self.regions.len() < before
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

#[cfg(test)]
mod tests {
    use super::*;

    fn store(regions: &str) -> crds::Validated {
        let spec = format!("spec: {{regions: [{regions}], broker: {{replicas: 1}}}}");
        let kind = format!("apiVersion: {}\nkind: {}", crds::API_VERSION, crds::KIND);
        crds::load(&format!("{kind}\nmetadata: {{name: shop}}\n{spec}\n")).unwrap()
    }

    fn founded() -> Identity {
        let mut identity = Identity::new(&store("{name: a}, {name: b}"));
        identity.founded = Some("now".into());
        identity
    }

    const THREE: &str = "{name: a}, {name: b}, {name: c}";

    #[test]
    fn a_region_that_comes_later_joins_and_is_counted_at_once() {
        let mut identity = founded();
        identity.take_in(&store(THREE), |_| true);
        let c = identity.region("c").unwrap().clone();
        assert_eq!((c.id, c.joining, identity.membership), (3, true, 2));
        assert!(identity.joined("c") && !identity.joined("c"));
        assert!(!identity.take_back("c"), "a member is not taken back");
        assert_eq!(Identity::parse(&identity.text()), Ok(identity));
    }

    #[test]
    fn one_that_is_taken_back_comes_again_under_another_id_and_not_by_itself() {
        let mut identity = founded();
        identity.take_in(&store(THREE), |_| true);
        assert!(identity.take_back("c") && !identity.take_back("c"));
        assert_eq!((identity.region("c").map(|c| c.leaving), identity.membership), (Some(true), 3));
        assert!(identity.forget(3) && !identity.forget(3));
        identity.take_in(&store(THREE), |_| true);
        assert_eq!(identity.region("c"), None, "the manifest still names it");
        identity.take_in(&store("{name: a}, {name: b}"), |_| true);
        identity.take_in(&store(THREE), |_| false);
        assert_eq!(identity.region("c"), None, "something of the earlier one is left");
        identity.take_in(&store(THREE), |_| true);
        assert_eq!(identity.region("c").map(|c| (c.id, c.joining)), Some((4, true)));
    }

    #[test]
    fn one_that_leaves_the_manifest_while_it_joins_is_taken_back() {
        let mut identity = founded();
        identity.take_in(&store(THREE), |_| true);
        identity.take_in(&store("{name: a}, {name: b}"), |_| true);
        assert_eq!(identity.region("c").map(|c| (c.joining, c.leaving)), Some((false, true)));
        identity.take_in(&store(THREE), |_| true);
        assert_eq!(identity.region("c").map(|c| c.id), Some(3), "not before the first has gone");
        identity.forget(3);
        identity.take_in(&store(THREE), |_| true);
        assert_eq!(identity.region("c").map(|c| c.id), Some(4));
    }
}
