//! The identity record of a store: a ConfigMap without owner, so that it outlives the store's object as its volumes do. What is
//! in it never changes its meaning: ids of regions, the number of shards, the slots.

use std::collections::{BTreeMap, BTreeSet};

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
    /// It is a member, and leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removing: Option<Removing>,
    /// The operation by which a person says that it is gone for good: what others have of it, they tell each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<String>,
    /// It is no member any more, or was to be one and will not: what was made for it is being deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// Shards that copy another region's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rebuilding: BTreeSet<u16>,
}

/// How far a member that leaves is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Removing {
    /// Its clients are handed to others, which read what it has.
    Draining,
    /// They have it all: its engines were fenced, and are not promoted again.
    Settled,
    /// It is no member any more, and the others are told.
    Forgotten,
}

impl RegionIdentity {
    /// It has the store's data, and is counted by the others.
    pub(crate) fn is_member(&self) -> bool {
        !self.joining && !self.leaving && self.removing != Some(Removing::Forgotten)
    }
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

    /// Why regions that the manifest has not any more cannot leave, if so: a region and a sentence.
    pub(crate) fn keeps_from_leaving(&self, store: &crds::Validated) -> Option<(String, &'static str)> {
        let is_wanted = |name: &str| store.regions.iter().any(|region| region.name == name);
        let goes = |known: &&RegionIdentity| {
            known.is_member() && known.removing.is_none() && !is_wanted(&known.name)
        };
        let goes = self.regions.iter().find(goes)?.name.clone();
        if self.founded.is_none() {
            return Some((
                goes,
                "the store is not founded yet; put it back, or delete the store and begin anew",
            ));
        }
        let stays = self.regions.iter().any(|known| known.is_member() && is_wanted(&known.name));
        (!stays).then_some((goes, "no other region has the store's data; put it back"))
    }

    /// Gives ids to the store's regions, to new ones if they `may` be taken in. Once it is founded, a new one joins by scale-out; one that
    /// joins and is no longer in the manifest is taken back, and a member leaves. One that leaves and is in the manifest again stays, as
    /// long as the others count it.
    pub(crate) fn take_in(&mut self, store: &crds::Validated, may: impl Fn(&str) -> bool) {
        let joining = self.founded.is_some();
        let is_wanted = |name: &String| store.regions.iter().any(|region| region.name == *name);
        let names: Vec<String> = self.regions.iter().map(|region| region.name.clone()).collect();
        for name in names.iter().filter(|name| !is_wanted(name)) {
            self.leave(name);
        }
        for known in self.regions.iter_mut().filter(|known| known.is_member()) {
            match (is_wanted(&known.name), known.removing) {
                (true, Some(_)) => (known.removing, known.gone) = (None, None),
                (false, None) => known.removing = Some(Removing::Draining),
                (true, None) | (false, Some(_)) => {}
            }
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
                    removing: None,
                    gone: None,
                    leaving: false,
                    rebuilding: BTreeSet::new(),
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

    /// How far a member that leaves is; whether that is news. One that stays after all, or is no member any more, is left alone.
    pub(crate) fn set_removing(&mut self, id: u16, to: Removing) -> bool {
        let leaves = |known: &&mut RegionIdentity| {
            known.id == id && known.is_member() && known.removing.is_some_and(|now| now != to)
        };
        let Some(region) = self.regions.iter_mut().find(leaves) else { return false };
        region.removing = Some(to);
        self.membership += u64::from(to == Removing::Forgotten);
        true
    }

    /// A person's operation says that a member which leaves is gone for good; whether that is news.
    pub(crate) fn declare_gone(&mut self, id: u16, operation: &str) -> bool {
        let leaves = |known: &&mut RegionIdentity| {
            known.id == id && known.is_member() && known.removing.is_some() && known.gone.is_none()
        };
        let Some(region) = self.regions.iter_mut().find(leaves) else { return false };
        region.gone = Some(operation.to_owned());
        true
    }

    /// Nobody says so any more; whether that is news. Who answers after all may have more than the others.
    pub(crate) fn retract_gone(&mut self, id: u16) -> bool {
        let gone = |known: &&mut RegionIdentity| known.id == id && known.is_member() && known.gone.is_some();
        let Some(region) = self.regions.iter_mut().find(gone) else { return false };
        (region.removing, region.gone) = (Some(Removing::Draining), None);
        true
    }

    /// What was made for a region that is no member any more is deleted from now on; whether that is news.
    pub(crate) fn let_go(&mut self, id: u16) -> bool {
        let gone =
            |known: &&mut RegionIdentity| known.id == id && known.removing == Some(Removing::Forgotten);
        let Some(region) = self.regions.iter_mut().find(gone) else { return false };
        (region.removing, region.leaving) = (None, true);
        true
    }

    /// Nothing is left of a region that leaves; whether that is news.
    pub(crate) fn forget(&mut self, id: u16) -> bool {
        let before = self.regions.len();
        self.regions.retain(|region| !(region.leaving && region.id == id));
        self.regions.len() < before
    }

    /// Notes which shards copy another region's, by region; whether that is news.
    pub(crate) fn rebuild(&mut self, shards: &BTreeMap<String, BTreeSet<u16>>) -> bool {
        let mut news = false;
        for region in &mut self.regions {
            let now = shards.get(&region.name).cloned().unwrap_or_default();
            news |= std::mem::replace(&mut region.rebuilding, now.clone()) != now;
        }
        news
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
    fn shards_that_are_copied_are_noted_while_they_are() {
        let mut identity = founded();
        let before = identity.clone();
        let of_b = BTreeMap::from([("b".to_owned(), BTreeSet::from([0]))]);
        assert!(identity.rebuild(&of_b) && !identity.rebuild(&of_b));
        assert_eq!(Identity::parse(&identity.text()), Ok(identity.clone()));
        assert!(identity.rebuild(&BTreeMap::new()));
        assert_eq!(identity, before);
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

    #[test]
    fn a_member_that_leaves_the_manifest_leaves_and_stays_if_it_comes_back_in_time() {
        let two = store("{name: a}, {name: b}");
        let mut identity = founded();
        identity.take_in(&store(THREE), |_| true);
        identity.joined("c");
        let state = |identity: &Identity| identity.region("c").and_then(|c| c.removing);
        identity.take_in(&two, |_| true);
        assert_eq!((state(&identity), identity.membership), (Some(Removing::Draining), 2));
        assert!(identity.set_removing(3, Removing::Settled) && !identity.set_removing(3, Removing::Settled));
        identity.take_in(&two, |_| true);
        assert_eq!(state(&identity), Some(Removing::Settled), "a round changes nothing of it");
        assert_eq!(Identity::parse(&identity.text()), Ok(identity.clone()));
        identity.take_in(&store(THREE), |_| true);
        assert_eq!((state(&identity), identity.membership), (None, 2), "it stays");
        assert!(!identity.set_removing(3, Removing::Settled), "what stays is not settled");

        identity.take_in(&two, |_| true);
        assert!(!identity.let_go(3), "the others are told before");
        assert!(identity.set_removing(3, Removing::Forgotten));
        assert_eq!((state(&identity), identity.membership), (Some(Removing::Forgotten), 3));
        identity.take_in(&store(THREE), |_| true);
        assert_eq!(state(&identity), Some(Removing::Forgotten), "now it is too late");
        assert!(!identity.forget(3) && identity.let_go(3) && identity.forget(3));
        identity.take_in(&store(THREE), |_| true);
        assert_eq!(identity.region("c").map(|c| (c.id, c.joining)), Some((4, true)), "a new one");
    }

    #[test]
    fn only_what_leaves_is_declared_gone_and_that_can_be_taken_back() {
        let one = store("{name: a}");
        let mut identity = founded();
        assert!(!identity.declare_gone(2, "x"), "it is in the manifest");
        identity.take_in(&one, |_| true);
        assert!(identity.declare_gone(2, "x") && !identity.declare_gone(2, "y"), "one says so");
        identity.set_removing(2, Removing::Settled);
        assert_eq!(Identity::parse(&identity.text()), Ok(identity.clone()));
        assert!(identity.retract_gone(2) && !identity.retract_gone(2));
        let b = identity.region("b").unwrap();
        assert_eq!((b.removing, b.gone.clone()), (Some(Removing::Draining), None), "it is asked what it has");
        identity.declare_gone(2, "z");
        identity.set_removing(2, Removing::Forgotten);
        assert!(!identity.retract_gone(2), "now it is too late");
        let mut kept = founded();
        kept.take_in(&one, |_| true);
        kept.declare_gone(2, "x");
        kept.take_in(&store("{name: a}, {name: b}"), |_| true);
        assert_eq!(kept, founded(), "it stays");
    }

    #[test]
    fn who_has_the_last_copy_of_the_data_does_not_leave() {
        let mut identity = founded();
        let why = |identity: &Identity, regions: &str| identity.keeps_from_leaving(&store(regions));
        assert_eq!(why(&identity, "{name: a}"), None);
        assert!(why(&identity, "{name: c}").is_some(), "all at once");
        identity.take_in(&store(THREE), |_| true);
        assert!(why(&identity, "{name: c}").is_some(), "c has nothing yet");
        identity.joined("c");
        assert_eq!(why(&identity, "{name: c}"), None);
        identity.take_in(&store("{name: c}"), |_| true);
        assert!(why(&identity, "{name: d}").is_some());
        assert_eq!(why(&identity, "{name: a}"), None, "a stays after all");
        let refused = why(&Identity::new(&store("{name: a}, {name: b}")), "{name: a}");
        assert!(refused.is_some_and(|(region, why)| region == "b" && why.contains("not founded")));
    }
}
