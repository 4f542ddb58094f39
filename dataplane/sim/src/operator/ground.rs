//! What [`mas_core::procedures::scale_out`] wants to know, asked from engines and proxies. Nothing is seen at one moment: what was asked
//! first may have changed since. The counterpart of `operator/src/operations/scale_out.rs`.

use std::rc::Rc;

use mas_core::cover::Cover;
use mas_core::procedures::identity::{EngineState, Identity, Role};
use mas_core::procedures::marker::{self, Marker};
use mas_core::procedures::scale_out::{Copy, Master, Member, Observed, Shard, Verification};
use mas_core::procedures::shard::Seen;
use mas_core::slot::even_ranges;
use mas_core::stamp::{Incarnation, RegionId};

use super::Operator;
use super::links::Summed;
use super::rebuild::in_the_way;
use crate::controller::identity;
use crate::engine::{About, Engine, Spot};
use crate::network::CONTROL;
use crate::proxy::membership::Report;
use crate::registry::{Row, Standing, Work};
use crate::world::World;

/// What an operation that copies shards is about.
pub(super) struct Ground {
    pub(super) region: u16,
    pub(super) ticket: u64,
    /// The regions that serve.
    pub(super) members: Vec<u16>,
    /// The shards that join.
    pub(super) shards: Vec<u16>,
}

impl Ground {
    pub(super) fn new(world: &World, row: &Row, ticket: u64) -> Self {
        let shards: Vec<u16> = match row.work {
            Work::ScaleOut => (0..world.schedule.setup.shards).collect(),
            Work::Rebuild => row.lost.iter().map(|(shard, _)| *shard).collect(),
            Work::Remove => Vec::new(),
        };
        // A region that has lost the shard too has nothing to tell, and waits for its turn: this one must not wait for it.
        let registry = world.registry.borrow();
        let lost = |region: u16| shards.iter().any(|shard| registry.is_rebuilt(region, *shard));
        let mut members = registry.members();
        members.retain(|member| *member != row.region && !lost(*member));
        Self { region: row.region, ticket, members, shards }
    }

    /// The key of a member's marker.
    pub(super) fn key(&self, world: &World, shard: u16, member: u16) -> String {
        marker::key(self.ticket, RegionId(member), &even_ranges(shard, world.schedule.setup.shards))
    }

    /// The engine that is looked at: the master, once the shard's controller has one; until then the first member.
    pub(super) fn engine(&self, world: &World, shard: u16) -> Rc<Engine> {
        let master = world.controller(self.region).view(shard).master;
        world.engine(self.region, shard, master.unwrap_or(0))
    }

    /// Where a member's master is now.
    pub(super) fn spot(world: &World, member: u16, shard: u16) -> Option<Spot> {
        let master = world.controller(member).view(shard).master?;
        Some(Spot { region: member, member: master })
    }
}

impl Operator {
    pub(super) async fn observe(&self, world: &Rc<World>, row: &Row, ground: &Ground) -> Observed {
        let mut members = Vec::new();
        for member in &ground.members {
            members.push(self.look_at_member(world, ground, *member).await);
        }
        let reports = self.reports(world, ground.region).await;
        let mut shards = Vec::new();
        for shard in &ground.shards {
            shards.push(self.look_at_shard(world, (row, ground), *shard, &reports).await);
        }
        let verification = match &*self.verifying.borrow() {
            (of, verification) if *of == ground.ticket => verification.clone(),
            _ => Verification::None,
        };
        let registry = world.registry.borrow();
        Observed {
            region: RegionId(ground.region),
            ticket: ground.ticket,
            membership: registry.membership,
            missing: missing(world, row, ground, &reports),
            members,
            shards,
            wanted_source: None,
            verification,
            joined: match row.work {
                Work::ScaleOut => registry.regions.get(&row.region) != Some(&Standing::Joining),
                Work::Rebuild => row.measured,
                Work::Remove => true,
            },
        }
    }

    /// What the proxies of a region say that answer.
    pub(super) async fn reports(&self, world: &World, region: u16) -> Vec<Report> {
        let asked: Vec<_> = world
            .proxies(region)
            .into_iter()
            .map(|proxy| {
                let node = Rc::clone(&proxy.node);
                world.network.call(&self.node, &node, CONTROL, super::CALL, move || proxy.report())
            })
            .collect();
        let mut reports = Vec::new();
        for asked in asked {
            reports.extend(asked.await.ok());
        }
        reports
    }

    async fn look_at_member(&self, world: &World, ground: &Ground, member: u16) -> Member {
        let reports = self.reports(world, member).await;
        let generation = world.registry.borrow().generation;
        let peers = ground.members.iter().filter(|peer| **peer != member);
        let links = peers.map(|peer| Summed::of(*peer, &ground.shards, &reports));
        let behind = links.filter_map(|link| link.trouble()).collect();
        let mut shards = Vec::new();
        for shard in &ground.shards {
            shards.push(self.look_at_master(world, ground, member, *shard).await);
        }
        Member {
            id: RegionId(member),
            name: format!("r{member}"),
            told: is_told(&reports, generation),
            behind,
            shards,
        }
    }

    async fn look_at_master(
        &self,
        world: &World,
        ground: &Ground,
        member: u16,
        shard: u16,
    ) -> Option<Master> {
        let view = world.controller(member).view(shard);
        let master = view.master?;
        let Some(Seen::Answers { identity, .. }) = view.members.get(master) else { return None };
        let engine = world.engine(member, shard, master);
        let key = ground.key(world, shard, member);
        let marker = self.asked(world, &engine, move |e| e.string(&key));
        let said = self.asked(world, &engine, |e| e.word());
        let (marker, said) = (marker.await.ok()?, said.await.ok()?);
        Some(Master {
            incarnation: Incarnation::parse(&identity.incarnation)?,
            recovered: identity.recovered,
            membership: identity.membership,
            cover: said.cover,
            waiting: identity.waiting.clone(),
            marker: marker.and_then(Marker::decode),
            bytes: 1,
        })
    }

    async fn look_at_shard(
        &self,
        world: &World,
        (row, ground): (&Row, &Ground),
        number: u16,
        reports: &[Report],
    ) -> Shard {
        let in_the_way = in_the_way(world, row, number);
        let nothing = |copy| Shard {
            number,
            in_the_way: in_the_way.clone(),
            copy,
            cover: Cover::default(),
            markers: Vec::new(),
            links: Vec::new(),
        };
        let engine = ground.engine(world, number);
        if !engine.node.is_up() {
            return nothing(Copy::Silent("is not running".into()));
        }
        let Ok(about) = self.ask(world, &engine, |e| e.about()).await else {
            return nothing(Copy::Silent("does not answer".into()));
        };
        if about.loading {
            return nothing(Copy::Loading(0));
        }
        let Ok(said) = self.ask(world, &engine, |e| e.word()).await else {
            return nothing(Copy::Silent("does not tell what it has".into()));
        };
        let mut markers = Vec::new();
        for member in &ground.members {
            let key = ground.key(world, number, *member);
            let value = self.ask(world, &engine, move |e| e.string(&key)).await;
            let marker = value.ok().flatten().and_then(Marker::decode);
            markers.extend(marker.map(|marker| (RegionId(*member), marker)));
        }
        let links = ground.members.iter().map(|peer| Summed::of(*peer, &ground.shards, reports).link());
        Shard {
            number,
            in_the_way: in_the_way.clone(),
            copy: copy(world, ground, number, &about),
            cover: said.cover,
            markers,
            links: links.collect(),
        }
    }
}

/// Every proxy that answers has this configuration, or a later one.
pub(super) fn is_told(reports: &[Report], generation: u64) -> bool {
    !reports.is_empty() && reports.iter().all(|report| report.generation >= generation)
}

fn missing(world: &World, row: &Row, ground: &Ground, reports: &[Report]) -> Vec<String> {
    let mut all = world.engines();
    if row.work == Work::Rebuild {
        all.retain(|e| e.member == 0 && ground.shards.contains(&e.shard));
        let down = all.iter().filter(|e| e.region == ground.region && !e.node.is_up());
        return down.map(|e| e.node.name.clone()).collect();
    }
    let down = all.iter().filter(|e| e.region == ground.region && !e.node.is_up());
    let mut missing: Vec<String> = down.map(|e| e.node.name.clone()).collect();
    let broker = world.broker(ground.region);
    missing.extend((!broker.node.is_up()).then(|| broker.node.name.clone()));
    missing.extend(reports.is_empty().then(|| "a proxy".to_owned()));
    missing
}

fn copy(world: &World, ground: &Ground, shard: u16, about: &About) -> Copy {
    let Identity { region, role, state, recovered, joining, .. } = identity(about);
    if region == 0 {
        return Copy::Blank { received: 0 };
    }
    if region == ground.region {
        return Copy::Own {
            // Nothing is left of the attempt once it serves.
            ticket: joining.as_ref().map_or(ground.ticket, |joining| joining.ticket),
            joining,
            promoted: role == Role::Master && state != EngineState::Fenced,
            serving: state == EngineState::Serving && recovered,
            saved: about.saved,
        };
    }
    let wanted = Ground::spot(world, region, shard).filter(|_| ground.members.contains(&region));
    Copy::Foreign {
        region: RegionId(region),
        incarnation: about.incarnation,
        seq: about.seq,
        epoch: about.epoch,
        in_sync: role == Role::Replica && about.link_up && about.follows.is_some() && about.follows == wanted,
        received: 0,
    }
}
