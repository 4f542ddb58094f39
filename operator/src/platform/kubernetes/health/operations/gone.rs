//! A region that is gone for good, as a person says by a `StoreOperation` of type `Remove` with `force`: which region that is about, whether
//! anything of it answers all the same, and what may be lost with it.

use std::time::Duration;

use crds::{OperationOutcome, StoreOperation, StoreOperationSpec};
use futures_util::future::join_all;
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::Operation;
use mas_core::procedures::removal::{LEFT_MS, Observed};
use tokio::time::timeout;

use super::removal::platform;
use super::{Held, RegionHandle, Runner, ShardHandle, of_store};
use crate::operations::removal::{Left, lost};
use crate::operations::scale_out::ActionError;
use crate::platform::kubernetes::identity::{Identity, Removing};
use crate::procedures::shard::Seen;

/// Whether it is said that a region is gone.
pub(super) enum Declared {
    /// By this operation.
    Yes(String),
    /// The operation that said so was deleted.
    NoMore,
}

/// What a person's operation is about, which has no label: the region that it has declared gone, or is to declare so.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// That one, by its id.
    Region(u16),
    /// It leaves, and is to be declared gone.
    Declare(u16),
    /// It is there no more.
    Gone,
    /// Nothing is to be done, and why.
    Refused(String),
}

pub(super) fn subject(
    identity: &Identity,
    name: &str,
    spec: &StoreOperationSpec,
    has_begun: bool,
) -> Subject {
    if !spec.force {
        let words = "a removal without force is the operator's: take the region out of spec.regions";
        return Subject::Refused(words.into());
    }
    if let Some(known) = identity.regions.iter().find(|known| known.gone.as_deref() == Some(name)) {
        return Subject::Region(known.id);
    }
    match identity.region(&spec.region) {
        // Another one of that name, perhaps.
        None => {}
        Some(known) if known.joining && has_begun => {}
        Some(known) if known.is_member() && known.removing.is_some() => return Subject::Declare(known.id),
        Some(known) if has_begun || known.leaving || known.removing.is_some() => {
            return Subject::Region(known.id);
        }
        Some(_) => {
            let words =
                "the manifest has the region: take it out of spec.regions, and make this operation then";
            return Subject::Refused(words.into());
        }
    }
    if has_begun {
        return Subject::Gone;
    }
    Subject::Refused(format!("there is no region '{}' that leaves", spec.region))
}

impl Runner {
    /// Whose word it is that a member is gone for good, if somebody says so.
    pub(super) fn declared_by(&self, identity: &Identity, id: u16) -> Option<Declared> {
        let known = identity.regions.iter().find(|known| known.id == id && known.is_member())?;
        let name = known.gone.clone()?;
        let mut all = of_store(&self.shared, &self.namespace, &self.store).into_iter();
        Some(if all.any(|other| other.name_any() == name) { Declared::Yes(name) } else { Declared::NoMore })
    }

    /// What of the region answers, in words. Its broker's word are the links of those that stay.
    pub(super) fn who_answers(&self, region: &RegionHandle) -> Option<String> {
        let answers = |seen: &Seen| matches!(seen, Seen::Answers { .. } | Seen::Loading);
        for shard in &region.shards {
            if let Some(number) = shard.view.borrow().members.iter().position(answers) {
                return Some(format!(
                    "{} answers",
                    shard.names.get(number).map_or("a server", String::as_str)
                ));
            }
        }
        if Self::reports(region).iter().any(|report| report.ready) {
            return Some("a proxy of it answers".to_owned());
        }
        let others = self.regions.iter().filter(|of| of.id != region.id);
        others.into_iter().find_map(|other| {
            let reports = Self::reports(other);
            let links = reports.iter().filter(|report| report.ready).flat_map(|report| &report.links);
            let reached =
                links.filter(|link| link.peer == region.name).any(|link| link.state != "Disconnected");
            reached.then(|| format!("its broker answers {}", other.name))
        })
    }

    /// Keeps what may be lost with a region that is gone, as long as those that stay remember what it told them.
    pub(super) async fn measure_loss(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        next: &Operation,
        world: &Observed,
        region: &RegionHandle,
    ) -> Result<(), ActionError> {
        let mut shards: Vec<Left> = (0..self.shards).map(|_| Left::default()).collect();
        for member in &world.members {
            for (left, stayer) in shards.iter_mut().zip(&member.shards) {
                left.covers.extend(stayer.as_ref().map(|stayer| stayer.cover.clone()));
            }
            let Some(of) = self.regions.iter().find(|of| of.name == member.name) else { continue };
            for link in Self::reports(of).iter().flat_map(|report| &report.links) {
                let shard = link.shard.filter(|_| link.peer == region.name);
                if let Some(left) = shard.and_then(|shard| shards.get_mut(usize::from(shard))) {
                    left.told(&link.issued);
                }
            }
        }
        let rpo_effects = lost(world.region, &shards);
        let outcome = OperationOutcome { rpo_effects, ..OperationOutcome::default() };
        let object = held.current(object);
        self.keep_measured(&object, held, next, Some(outcome)).await
    }

    /// Nobody promotes anything of a region that is gone, should it come back.
    pub(super) async fn abandon(&self, region: &RegionHandle) -> Result<(), ActionError> {
        region.set_gates(false);
        let rest = join_all(region.shards.iter().map(ShardHandle::rests));
        let late = |_| platform("its controllers are busy yet");
        timeout(Duration::from_millis(LEFT_MS), rest).await.map_err(late)?;
        self.set_removing(region.id, Removing::Settled).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(regions: &str) -> crds::Validated {
        let kind = format!("apiVersion: {}\nkind: {}", crds::API_VERSION, crds::KIND);
        let spec = format!("spec: {{regions: [{regions}], broker: {{replicas: 1}}}}");
        crds::load(&format!("{kind}\nmetadata: {{name: shop}}\n{spec}\n")).unwrap()
    }

    #[test]
    fn a_persons_operation_is_about_what_leaves() {
        let spec = |region: &str, force| StoreOperationSpec {
            store_ref: crds::StoreRef { name: "shop".into() },
            kind: crds::OperationType::Remove,
            region: region.into(),
            shard: None,
            source: None,
            target: None,
            force,
            action: crds::OperationAction::Run,
            attempt: 1,
        };
        let mut identity = Identity::new(&store("{name: a}, {name: b}"));
        identity.founded = Some("now".into());
        let of =
            |identity: &Identity, region: &str, begun| subject(identity, "x", &spec(region, true), begun);
        let is_refused = |subject: Subject| matches!(subject, Subject::Refused(_));
        assert!(is_refused(of(&identity, "b", false)) && is_refused(of(&identity, "z", false)));
        identity.take_in(&store("{name: a}"), |_| true);
        assert!(
            is_refused(subject(&identity, "x", &spec("b", false), false)),
            "without force it is made by the operator"
        );
        assert_eq!(of(&identity, "b", false), Subject::Declare(2));
        identity.declare_gone(2, "x");
        assert_eq!(of(&identity, "b", true), Subject::Region(2));
        identity.set_removing(2, Removing::Forgotten);
        assert_eq!(of(&identity, "b", true), Subject::Region(2));
        identity.let_go(2);
        assert_eq!(of(&identity, "b", true), Subject::Region(2));
        identity.forget(2);
        assert_eq!(of(&identity, "b", true), Subject::Gone);
        identity.take_in(&store("{name: a}, {name: b}"), |_| true);
        assert_eq!(of(&identity, "b", true), Subject::Gone, "that is another one");
    }
}
