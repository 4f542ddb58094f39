//! What the procedures look at in a cluster.

use std::sync::Arc;

use crds::StoreOperation;
use mas_core::stamp::RegionId;

use super::{RegionHandle, Runner};
use crate::health::member::{Phase, Process as _};
use crate::health::proxy::ProxyReport;
use crate::health::status::{LinkStatus, build_link};
use crate::operations::scale_out::{
    ActionError, AsEngine, Front, Ground, MasterGround, MemberGround, ShardGround,
};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::health::pods::PodProcess;
use crate::platform::kubernetes::labels::Part;

impl Runner {
    pub(super) async fn ground(
        &self,
        checked: &Checked,
        region: &RegionHandle,
        object: &StoreOperation,
        ticket: u64,
    ) -> Result<Ground, ActionError> {
        let id = |name: &str| self.regions.iter().find(|of| of.name == name).map(|of| RegionId(of.id));
        let members = self.regions.iter().filter(|of| !of.joining).map(|of| self.member(checked, of));
        let links = self.links(region);
        let shards = (0u16..).zip(&region.shards).map(|(number, shard)| {
            let looked_at = shard.view.borrow().master.unwrap_or_default();
            let runs = shard.process(&self.shared, &self.namespace, looked_at).phase() == Phase::Running;
            ShardGround {
                number,
                in_the_way: Vec::new(),
                first: Arc::clone(&shard.members[0]) as Arc<dyn AsEngine>,
                engine: Arc::clone(&shard.members[looked_at]) as Arc<dyn AsEngine>,
                absent: (!runs).then(|| "is not running".to_owned()),
                epoch: 0,
                links: links.clone(),
            }
        });
        let mut shards: Vec<ShardGround> = shards.collect();
        let row = region.row.status().await.map_err(|error| ActionError::Platform(error.to_string()))?;
        let recorded = checked.identity.region(&region.name).map(|of| of.epochs.clone()).unwrap_or_default();
        for (number, shard) in shards.iter_mut().enumerate() {
            let issued = row.shards.iter().find(|state| usize::from(state.shard) == number);
            let recorded = recorded.get(number).copied().unwrap_or_default();
            shard.epoch = issued.map_or(0, |state| state.epoch).max(recorded);
        }
        Ok(Ground {
            store: self.store.clone(),
            region: RegionId(region.id),
            membership: checked.identity.membership,
            missing: self.missing(region),
            members: members.collect(),
            shards,
            slots: checked.identity.slots.clone(),
            wanted_source: object.spec.source.as_deref().and_then(id),
            verification: self.verifying.of(ticket),
            joined: !region.joining,
        })
    }

    pub(super) fn reports(region: &RegionHandle) -> Vec<ProxyReport> {
        region.proxies.borrow().clone().unwrap_or_default()
    }

    fn links(&self, region: &RegionHandle) -> Vec<LinkStatus> {
        let reports = Self::reports(region);
        let peers = self.regions.iter().filter(|peer| peer.name != region.name && !peer.joining);
        peers.map(|peer| build_link(&peer.name, self.shards, &reports)).collect()
    }

    fn member(&self, checked: &Checked, member: &RegionHandle) -> MemberGround {
        let reports = Self::reports(member);
        let generation = build::proxy_generation(checked, &member.name);
        let shards = member.shards.iter().map(|shard| {
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
            told: generation.is_some_and(|generation| {
                reports.iter().any(|report| report.ready)
                    && reports.iter().all(|report| !report.ready || report.generation >= generation)
            }),
            links: self.links(member),
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
