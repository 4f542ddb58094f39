//! How a copy of another region's shard is made, and becomes a shard of its own: replication across regions, `MAS.JOIN`,
//! `MAS.JOINED`. The counterpart of `dataplane/engine/src/commands/control.rs`.

use std::rc::Rc;

use bytes::Bytes;
use mas_core::shard::{Identity, Shard};
use mas_core::stamp::{Incarnation, RegionId, ShardId};

use super::disk::{Entry, Snapshot};
use super::steps::STORE;
use super::{Engine, Following, Phase, Refusal, State};
use crate::executor::MS;
use crate::keyspace::{Data, Keys};

/// What `MAS.JOIN` names: which copy is meant, and what it becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    pub(crate) ticket: u64,
    pub(crate) epoch: u64,
    pub(crate) source: RegionId,
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
}

impl Engine {
    /// The file of a full sync from another region is here. Redis empties itself, loads it, and writes files of its own in the background.
    pub(super) fn load_copy(
        self: &Rc<Self>,
        state: &mut State,
        asked: Following,
        snapshot: Snapshot,
        at: (u64, u64),
    ) {
        self.judge.loses(self, &state.shard.cover());
        self.judge.missing(state.shard.stats.missing);
        let (hash, takes) = self.sim.random(|r| ((r.next(), r.next()), r.range(2, 400) * MS));
        (state.shard, state.keys, state.damaged) = (Shard::new(hash), Keys::default(), false);
        state.disk.fall_behind();
        self.loading_until.set(self.sim.now() + takes);
        self.judge.note(|| format!("{} loads a copy of {:?}", self.node.name, asked.spot));
        let (engine, process) = (Rc::clone(self), self.node.process());
        self.sim.at(self.sim.now() + takes, move || {
            if process.is_alive() {
                engine.loaded(asked, &snapshot, at);
            }
        });
    }

    fn loaded(self: &Rc<Self>, asked: Following, snapshot: &Snapshot, (history, offset): (u64, u64)) {
        let order = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let Some(following) = state.following.as_mut().filter(|f| f.order == asked.order) else { return };
            let Some((shard, keys)) = snapshot.load() else {
                self.judge.violate("persistence", format!("{}: a copy cannot be read", self.node.name));
                return;
            };
            (following.history, following.offset) = (history, offset);
            (state.shard, state.keys) = (shard, keys);
            following.order
        };
        // What was issued meanwhile is asked for.
        self.follow_moved.notify();
        self.judge.note(|| format!("{} has a copy: {}", self.node.name, self.describe()));
        self.judge.copied(self);
        let (engine, process) = (Rc::clone(self), self.node.process());
        let takes = self.sim.random(|r| if r.chance(200) { r.range(1, 4000) } else { r.range(1, 300) }) * MS;
        self.sim.at(self.sim.now() + takes, move || {
            let mut state = engine.state.borrow_mut();
            if process.is_alive() && state.orders == order && state.disk.is_behind() {
                let snapshot = engine.snapshot(&state);
                state.disk.rewrite(snapshot);
            }
        });
    }

    /// `REPLICAOF NO ONE`.
    pub(crate) fn stop_replication(&self) {
        let mut state = self.state.borrow_mut();
        if state.following.take().is_some() {
            (state.phase, state.recovered, state.paused_until) = (Phase::Fenced, false, 0);
            state.claims.clear();
            state.history = self.sim.new_id();
            state.backlog.clear();
            state.end = 0;
        }
    }

    /// `MAS.JOIN`.
    pub(crate) fn join(self: &Rc<Self>, join: &Join) -> Result<(), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let known = state.shard.identity().clone();
        if self.is_loading()
            || state.following.is_some()
            || state.phase != Phase::Fenced
            || state.damaged
            || join.epoch <= known.epoch
        {
            return Err(Refusal::Other);
        }
        // A full sync may have begun again since whoever asks had looked: then this is not the copy that was meant.
        let meant = (known.store.as_str(), known.region, known.shard, known.incarnation)
            == (STORE, join.source, ShardId(self.shard), join.incarnation);
        if !meant || state.shard.seq() < join.seq {
            return Err(Refusal::Other);
        }
        let to = Identity {
            store: STORE.into(),
            region: RegionId(self.region),
            shard: ShardId(self.shard),
            epoch: join.epoch,
            incarnation: Incarnation(self.sim.new_id()),
            previous: Incarnation::NONE,
        };
        let before = (state.shard.cover(), state.shard.positions().clone());
        let entry = state.shard.join(to, join.ticket, self.wall_ms());
        (state.phase, state.recovered) = (Phase::Recovering, false);
        let now = state.shard.identity().incarnation;
        self.log(state, Entry::Step(entry));
        drop(guard);
        self.judge.note(|| format!("{} takes an identity of its own: {}", self.node.name, self.describe()));
        self.judge.promoted(self, join.epoch, now, join.epoch, &[]);
        self.judge.joins(self, &before.0, &before.1);
        Ok(())
    }

    /// `MAS.JOINED`.
    pub(crate) fn joined(self: &Rc<Self>, meant: Incarnation) -> Result<(), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.check_promoted(state, meant)?;
        let Some(joining) = state.shard.joining().cloned() else { return Ok(()) };
        if let Some(entry) = state.shard.joined() {
            self.log(state, Entry::Step(entry));
        }
        drop(guard);
        self.judge.note(|| format!("{} may serve", self.node.name));
        self.judge.admitted(self, &joining);
        Ok(())
    }

    /// `GET`, of a string.
    pub(crate) fn string(&self, key: &str) -> Option<Bytes> {
        match self.state.borrow().keys.get(key.as_bytes()) {
            Some(Data::Str(value)) => Some(value.clone()),
            _ => None,
        }
    }

    /// Its files are gone; it does not run.
    pub(crate) fn lose_files(&self) {
        self.state.borrow_mut().disk.wipe();
    }
}
