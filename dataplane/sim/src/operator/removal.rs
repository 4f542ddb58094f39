//! A region leaves: what [`mas_core::procedures::removal`] looks at, and what it decides. The counterpart of
//! `operator/src/platform/local/removal.rs`.

use std::rc::Rc;

use mas_core::procedures::removal::{Action, LEFT_MS, Member, Observed, PAUSE_MS, STEPS, Shard, Stayer};
use mas_core::stamp::RegionId;

use super::Operator;
use super::ground::{Ground, is_told};
use crate::executor::{MS, Time};
use crate::registry::{Row, Standing};
use crate::world::World;

impl Operator {
    /// One look, and what follows from it.
    pub(super) async fn remove(self: &Rc<Self>, world: &Rc<World>, at: usize, row: &Row) {
        let looked = world.sim.now();
        let observed = self.observe_removal(world, row).await;
        let mut next = row.operation.clone();
        let actions = next.advance(&STEPS, &observed, world.sim.now() / MS);
        self.keep(world, at, row, &next, &STEPS);
        for action in actions {
            self.before_action(world, &action).await;
            if self.act_on_removal(world, row.region, &action, looked).await.is_none() {
                return;
            }
        }
    }

    async fn observe_removal(&self, world: &World, row: &Row) -> Observed {
        let region = row.region;
        let standing = world.registry.borrow().regions.get(&region).copied();
        let mut shards = Vec::new();
        for shard in (0..world.schedule.setup.shards).filter(|_| standing.is_some()) {
            shards.push(self.look_at_leaver(world, region, shard).await);
        }
        // After the region's own shards: what these have, the others may have got meanwhile, but not the other way round.
        let mut stay = world.registry.borrow().members();
        stay.retain(|of| *of != region);
        let mut members = Vec::new();
        for member in stay {
            members.push(self.look_at_stayer(world, member).await);
        }
        let reports = self.reports(world, region).await;
        Observed {
            region: RegionId(region),
            gone: false,
            answers: None,
            away: !reports.is_empty() && reports.iter().all(|report| report.away),
            shards,
            settled: standing == Some(Standing::Settled),
            // What is down and not settled is being started.
            runs: standing == Some(Standing::Leaving) || world.servers(region).iter().any(|n| n.is_up()),
            members,
            forgotten: standing.is_none(),
            membership: world.registry.borrow().membership,
            deleted: standing.is_none() && !world.broker(region).node.is_up(),
        }
    }

    async fn look_at_leaver(&self, world: &World, region: u16, shard: u16) -> Shard {
        let silent = || Shard::Silent("has no master that answers".into());
        let Some(spot) = Ground::spot(world, region, shard) else { return silent() };
        let engine = world.engine(region, shard, spot.member);
        // How long the pause lasts is asked first: what it has at the second answer stays as it is for that long.
        let Ok(about) = self.ask(world, &engine, |e| e.about()).await else { return silent() };
        let Ok(said) = self.ask(world, &engine, |e| e.word()).await else { return silent() };
        if about.loading {
            return silent();
        }
        Shard::Runs { recovered: about.recovered, paused_ms: about.paused_ms, cover: said.cover }
    }

    async fn look_at_stayer(&self, world: &World, member: u16) -> Member {
        let reports = self.reports(world, member).await;
        let generation = world.registry.borrow().generation;
        let mut shards = Vec::new();
        for shard in 0..world.schedule.setup.shards {
            shards.push(self.stayer(world, member, shard).await);
        }
        Member { name: format!("r{member}"), told: is_told(&reports, generation), shards }
    }

    async fn stayer(&self, world: &World, member: u16, shard: u16) -> Option<Stayer> {
        let spot = Ground::spot(world, member, shard)?;
        let engine = world.engine(member, shard, spot.member);
        let about = self.asked(world, &engine, |e| e.about());
        let said = self.asked(world, &engine, |e| e.word());
        let (about, said) = (about.await.ok()?, said.await.ok()?);
        let mut copies = vec![said.cover];
        for other in (0..world.members(member)).filter(|other| *other != spot.member) {
            let replica = world.engine(member, shard, other);
            let said = self.ask(world, &replica, |e| (!e.is_loading()).then(|| e.word())).await.ok()??;
            copies.push(said.cover);
        }
        Stayer::of_copies(about.membership, &copies)
    }

    async fn act_on_removal(
        &self,
        world: &Rc<World>,
        region: u16,
        action: &Action,
        looked: Time,
    ) -> Option<()> {
        match action {
            Action::Pause { shard } => {
                let number = *shard as u16;
                let spot = Ground::spot(world, region, number)?;
                let engine = world.engine(region, number, spot.member);
                let about = self.ask(world, &engine, |e| e.about()).await.ok()?;
                self.ask(world, &engine, move |e| e.pause(about.incarnation, PAUSE_MS)).await.ok()?.ok()
            }
            Action::Stop => self.stop_region(world, region, looked).await,
            Action::Forget => {
                world.judge.note(|| format!("region {region} is forgotten"));
                world.registry.borrow_mut().forget(region);
                world.end_region(region);
                world.tell_proxies();
                Some(())
            }
            Action::Delete => {
                world.end_region(region);
                Some(())
            }
        }
    }

    /// Stops the region's engines and proxies, and keeps that. Its broker goes on: what it has, nobody lacks, but nobody is cut off
    /// either.
    async fn stop_region(&self, world: &Rc<World>, region: u16, looked: Time) -> Option<()> {
        for shard in 0..world.schedule.setup.shards {
            world.controller(region).set_gate(shard, false);
        }
        let kept = world.registry.borrow().regions.get(&region) == Some(&Standing::Settled);
        self.holding.set(Some(region));
        for node in world.servers(region) {
            let takes = world.sim.random(|r| if r.chance(30) { r.range(1, 3000) } else { r.range(1, 80) });
            world.sim.sleep(takes * MS).await;
            if node.is_up() {
                world.stop_server(&node);
            }
        }
        self.holding.set(None);
        if kept {
            return Some(());
        }
        if world.sim.now() < looked + LEFT_MS * MS {
            world.registry.borrow_mut().settle(region);
            return Some(());
        }
        // They may have taken writes: they are looked at again.
        world.judge.checked("stopped too late");
        world.resume_servers(region);
        None
    }
}
