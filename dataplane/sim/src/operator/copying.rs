//! Scale-out and rebuild: one look, and what follows from it.

use std::rc::Rc;

use mas_core::procedures::marker::{self, Marker};
use mas_core::procedures::operation::Step;
use mas_core::procedures::scale_out::{Action, Observed};
use mas_core::procedures::shard::Basis;
use mas_core::stamp::RegionId;

use super::ground::Ground;
use super::{Operator, sync_step, ticket};
use crate::client::on;
use crate::engine::copying::Join;
use crate::executor::{Promise, SEC};
use crate::proxy::front::Answer;
use crate::registry::{Row, Work};
use crate::workload::{Asked, Command};
use crate::world::World;

/// How long a write of a marker may take.
const FRONT: u64 = 5 * SEC;

impl Operator {
    pub(super) async fn copy(
        self: &Rc<Self>,
        world: &Rc<World>,
        at: usize,
        row: &Row,
        steps: &[Step<Observed, Action>],
    ) {
        let ground = Ground::new(world, row, ticket(row, sync_step(steps)));
        let observed = self.observe(world, row, &ground).await;
        let mut next = row.operation.clone();
        let actions = next.advance(steps, &observed, world.sim.now() / 1000);
        self.open_gates(world, row, &ground).await;
        self.keep(world, at, row, &next, steps);
        for action in actions {
            self.before_action(world, &action).await;
            // The others are independent of one that fails; it is decided again.
            let _ = self.act(world, (at, row), &ground, &action).await;
        }
    }

    /// A shard's controller acts from the moment that an engine has the region's identity, above the epoch of what was lost.
    async fn open_gates(&self, world: &World, row: &Row, ground: &Ground) {
        let lost = row.lost.map_or(0, |(_, epoch)| epoch);
        for shard in &ground.shards {
            let first = world.engine(ground.region, *shard, 0);
            let Ok(about) = self.ask(world, &first, |e| e.about()).await else { continue };
            if !about.loading {
                let own = about.region == ground.region && about.epoch > lost;
                world.controller(ground.region).set_gate(*shard, own);
            }
        }
    }

    async fn act(
        self: &Rc<Self>,
        world: &Rc<World>,
        (at, row): (usize, &Row),
        ground: &Ground,
        action: &Action,
    ) -> Option<()> {
        match action {
            Action::SetAside { shard, member } => {
                let engine = world.engine(ground.region, ground.shards[*shard], *member);
                engine.stop(false);
                engine.lose_files();
                world.start_engine(&engine);
                Some(())
            }
            Action::Follow { shard, source } => self.follow(world, ground, *shard, *source).await,
            Action::Mark { shard, member } => self.mark(world, ground, *shard, member.0).await,
            Action::Join { shard, source, incarnation, seq, epoch } => {
                let number = ground.shards[*shard];
                let controller = world.controller(ground.region);
                let epoch = controller.record(number).epoch.max(*epoch) + 1;
                // Recorded before it is used.
                let basis = Basis { incarnation: incarnation.to_string(), seq: *seq };
                if !controller.issue_to_copy(number, epoch, &basis) {
                    return None;
                }
                let (source, incarnation, seq) = (*source, *incarnation, *seq);
                let join = Join { ticket: ground.ticket, epoch, source, incarnation, seq };
                let first = world.engine(ground.region, number, 0);
                self.ask(world, &first, |e| e.stop_replication()).await.ok()?;
                self.ask(world, &first, move |e| e.join(&join)).await.ok()?.ok()
            }
            Action::Verify => {
                self.verify(world, ground);
                Some(())
            }
            Action::Open { shard } => {
                let engine = ground.engine(world, ground.shards[*shard]);
                let about = self.ask(world, &engine, |e| e.about()).await.ok()?;
                self.ask(world, &engine, move |e| e.joined(about.incarnation)).await.ok()?.ok()
            }
            Action::Finish => {
                self.remove_markers(world, ground).await;
                Self::finish(world, at, row);
                Some(())
            }
        }
    }

    /// It tries by itself for as long as it was told; telling it again would break off a sync under way.
    async fn follow(&self, world: &World, ground: &Ground, shard: usize, source: RegionId) -> Option<()> {
        let number = ground.shards[shard];
        let spot = Ground::spot(world, source.0, number)?;
        let first = world.engine(ground.region, number, 0);
        let about = self.ask(world, &first, |e| e.about()).await.ok()?;
        if about.follows == Some(spot) || about.loading {
            return None;
        }
        self.ask(world, &first, move |e| e.follow(spot)).await.ok()
    }

    async fn mark(
        self: &Rc<Self>,
        world: &Rc<World>,
        ground: &Ground,
        shard: usize,
        member: u16,
    ) -> Option<()> {
        let number = ground.shards[shard];
        let spot = Ground::spot(world, member, number)?;
        let engine = world.engine(member, number, spot.member);
        // What it has, and in which life, both before the marker is written.
        let about = self.ask(world, &engine, |e| e.about()).await.ok()?;
        let said = self.ask(world, &engine, |e| e.word()).await.ok()?;
        let marker = Marker { incarnation: about.incarnation, cover: said.cover };
        let key = ground.key(world, number, member);
        let ttl_ms = marker::EXPIRES_S * 1000;
        self.through(world, member, Command::Mark { key, value: marker.encode(), ttl_ms }).await
    }

    /// A write through a region's front door. One that sends its clients elsewhere has another region's proxy carry it out.
    async fn through(self: &Rc<Self>, world: &Rc<World>, region: u16, command: Command) -> Option<()> {
        let (members, drained) = {
            let registry = world.registry.borrow();
            (registry.members(), registry.config().drained)
        };
        let served_by = std::iter::once(region).chain(members).find(|of| !drained.contains(of))?;
        let proxy = world.some_proxy(served_by)?;
        self.number.set(self.number.get() + 1);
        let number = self.number.get();
        let answered = Promise::new();
        let late = answered.clone();
        world.sim.at(world.sim.now() + FRONT, move || late.give(Answer::Unknown(None)));
        let (asking, done, sent) = (Rc::clone(world), answered.clone(), command.clone());
        world.sim.spawn(&self.node.process(), async move {
            let of = Rc::clone(&proxy.process);
            let answer =
                on(&asking, &of, async move { proxy.execute(number, &sent, Asked::Queued).await }).await;
            done.give(answer.unwrap_or(Answer::Unknown(None)));
        });
        let answer = answered.await;
        world.judge.note(|| format!("operator: #{number} {command:?} -> {answer:?}"));
        matches!(answer, Answer::Written { .. }).then_some(())
    }

    /// What cannot be removed expires.
    async fn remove_markers(self: &Rc<Self>, world: &Rc<World>, ground: &Ground) {
        for shard in &ground.shards {
            for member in &ground.members {
                let key = ground.key(world, *shard, *member);
                let _ = self.through(world, *member, Command::Del(key)).await;
            }
        }
    }

    fn finish(world: &World, at: usize, row: &Row) {
        match row.work {
            Work::ScaleOut => {
                world.registry.borrow_mut().joined(row.region);
                world.set_open(row.region, true);
            }
            Work::Remove => {}
            Work::Rebuild => world.registry.borrow_mut().operations[at].measured = true,
        }
    }
}
