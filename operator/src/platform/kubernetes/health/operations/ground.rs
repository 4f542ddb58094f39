//! What the procedures look at in a cluster.

use std::ops::Range;
use std::sync::Arc;

use crds::{OperationType, StoreOperation};
use mas_core::stamp::RegionId;

use super::{RegionHandle, Runner, lock};
use crate::health::member::{Phase, Process as _};
use crate::health::proxy::ProxyReport;
use crate::health::status::{LinkStatus, build_link_of};
use crate::operations::rebuild;
use crate::operations::scale_out::{
    ActionError, AsEngine, Front, Ground, MasterGround, MemberGround, ShardGround,
};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::health::pods::PodProcess;
use crate::platform::kubernetes::labels::Part;
use crate::procedures::shard::Seen;

impl Runner {
    pub(super) async fn ground(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        object: &StoreOperation,
        ticket: u64,
    ) -> Result<Ground, ActionError> {
        let id = |name: &str| self.regions.iter().find(|of| of.name == name).map(|of| RegionId(of.id));
        let range = match object.spec.shard {
            Some(number) => number..number + 1,
            None => 0..self.shards,
        };
        let only = object.spec.shard;
        let members = self.serving(region, only).map(|of| self.member(checked, of, (region, only), &range));
        let links = self.links(region, (region, only), &range);
        let row = region.row.status().await.map_err(|error| ActionError::Platform(error.to_string()))?;
        let recorded = checked.identity.region(&region.name).map(|of| of.epochs.clone()).unwrap_or_default();
        let shards = range.clone().filter_map(|number| {
            let shard = region.shards.get(usize::from(number))?;
            let looked_at = shard.view.borrow().master.unwrap_or_default();
            let runs = shard.process(&self.shared, &self.namespace, looked_at).phase() == Phase::Running;
            let issued = row.shards.iter().find(|state| state.shard == number);
            let recorded = recorded.get(usize::from(number)).copied().unwrap_or_default();
            Some(ShardGround {
                number,
                in_the_way: self.in_the_way(region, number, object),
                first: Arc::clone(&shard.members[0]) as Arc<dyn AsEngine>,
                engine: Arc::clone(&shard.members[looked_at]) as Arc<dyn AsEngine>,
                absent: (!runs).then(|| "is not running".to_owned()),
                epoch: issued.map_or(0, |state| state.epoch).max(recorded),
                links: links.clone(),
            })
        });
        let outcome = object.status.as_ref().and_then(|status| status.outcome.as_ref());
        Ok(Ground {
            store: self.store.clone(),
            region: RegionId(region.id),
            membership: checked.identity.membership,
            missing: match object.spec.kind {
                OperationType::Rebuild => first_servers(region, &range),
                _ => self.missing(region),
            },
            members: members.collect(),
            shards: shards.collect(),
            slots: checked.identity.slots.clone(),
            wanted_source: object.spec.source.as_deref().and_then(id),
            verification: self.verifying.of(ticket),
            joined: match object.spec.kind {
                OperationType::Rebuild => outcome.is_some(),
                _ => !region.joining,
            },
        })
    }

    /// The regions that serve, beside the one that copies; `only`: the shard, if it is one. Who has lost that, too, has nothing to tell, and
    /// its turn comes: if each waited for the other, neither would get anything.
    pub(super) fn serving<'a>(
        &'a self,
        beside: &'a RegionHandle,
        only: Option<u16>,
    ) -> impl Iterator<Item = &'a RegionHandle> + 'a {
        let lost = move |of: &RegionHandle| {
            let waiting = lock(&self.waiting);
            only.is_some_and(|shard| waiting.get(&of.name).is_some_and(|shards| shards.contains(&shard)))
        };
        self.regions.iter().filter(move |of| !of.joining && of.name != beside.name && !lost(of))
    }

    /// Copies that are there are put out of the way when a person says so, and never by themselves.
    fn in_the_way(&self, region: &RegionHandle, shard: u16, object: &StoreOperation) -> Vec<usize> {
        let loss = object.status.as_ref().and_then(|status| status.loss.as_ref());
        let Some(loss) = loss.filter(|_| super::rebuild::is_ordered(object)) else { return Vec::new() };
        rebuild::in_the_way(&self.place(region, shard), loss.epoch, &self.servers(region, shard))
    }

    pub(super) fn reports(region: &RegionHandle) -> Vec<ProxyReport> {
        region.proxies.borrow().clone().unwrap_or_default()
    }

    /// What `of` reads of those that serve, beside the one that copies.
    fn links(
        &self,
        of: &RegionHandle,
        (copies, only): (&RegionHandle, Option<u16>),
        shards: &Range<u16>,
    ) -> Vec<LinkStatus> {
        let reports = Self::reports(of);
        let peers = self.serving(copies, only).filter(|peer| peer.name != of.name);
        peers.map(|peer| build_link_of(&peer.name, shards.clone(), &reports)).collect()
    }

    fn member(
        &self,
        checked: &Checked,
        member: &RegionHandle,
        copies: (&RegionHandle, Option<u16>),
        shards: &Range<u16>,
    ) -> MemberGround {
        let reports = Self::reports(member);
        let generation = build::proxy_generation(checked, &member.name);
        let links = self.links(member, copies, shards);
        let shards = shards.clone().filter_map(|number| member.shards.get(usize::from(number)));
        let shards = shards.map(|shard| {
            let view = shard.view.borrow().clone();
            let of = view.master.and_then(|at| shard.members.get(at));
            MasterGround {
                master: view.master,
                seen: view.members,
                engine: of.map(|member| Arc::clone(member) as Arc<dyn AsEngine>),
                address: of.map(|member| member.host.clone()),
            }
        });
        MemberGround {
            id: RegionId(member.id),
            name: member.name.clone(),
            told: generation.is_some_and(|generation| are_told(&reports, generation)),
            links,
            front: self.front(checked, member.id),
            shards: shards.collect(),
        }
    }

    /// Any ready proxy of the region: the Service's name may mean nothing where the operator runs.
    fn front(&self, checked: &Checked, region: u16) -> Front {
        let pods = self.shared.pods.of_part(&self.namespace, &self.store, region, Part::Proxy);
        let mut proxies = pods.iter().map(|pod| PodProcess::of(pod, Part::Proxy, build::client_port()));
        let address = proxies.find(|proxy| proxy.ready).and_then(|proxy| proxy.address());
        let passwords = &checked.passwords;
        let login = Some((passwords.client_user.clone(), passwords.client.clone()));
        Front { address: address.unwrap_or_default(), login }
    }

    fn missing(&self, region: &RegionHandle) -> Vec<String> {
        let mut missing = Vec::new();
        for shard in &region.shards {
            for (number, name) in shard.names.iter().enumerate() {
                if shard.process(&self.shared, &self.namespace, number).phase() != Phase::Running {
                    missing.push(name.clone());
                }
            }
        }
        let brokers = self.shared.pods.of_part(&self.namespace, &self.store, region.id, Part::Broker);
        let ready = brokers.iter().filter(|pod| PodProcess::of(pod, Part::Broker, 0).ready).count();
        if ready < usize::from(self.brokers) {
            missing.push(format!("its broker ({ready} of {} nodes are ready)", self.brokers));
        }
        if !Self::reports(region).iter().any(|report| report.ready) {
            missing.push("a proxy".to_owned());
        }
        missing
    }
}

/// Those that become copies, as far as they do not answer yet.
fn first_servers(region: &RegionHandle, shards: &Range<u16>) -> Vec<String> {
    let of = shards.clone().filter_map(|number| region.shards.get(usize::from(number)));
    let silent = of.filter(|shard| {
        let view = shard.view.borrow();
        !matches!(view.members.first(), Some(Seen::Answers { .. }))
    });
    silent.filter_map(|shard| shard.names.first().cloned()).collect()
}

/// Whether a region's proxies use a configuration: all that are ready, and one at least is.
pub(super) fn are_told(reports: &[ProxyReport], generation: u64) -> bool {
    reports.iter().any(|report| report.ready)
        && reports.iter().all(|report| !report.ready || report.generation >= generation)
}
