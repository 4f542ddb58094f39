//! Redis replication: a replica asks for what comes after its offset, gets that or a full sync, and then every step as
//! it happens, a little later. What a replica has is always a prefix of what its master had.

use std::rc::Rc;

use super::disk::{Entry, Snapshot};
use super::{Engine, Following, Phase, Spot};
use crate::executor::{MS, Process, SEC};
use crate::network::REPLICATE;

/// Answer to `PSYNC`.
enum Synced {
    Continue(Vec<Entry>),
    Full { snapshot: Box<Snapshot>, history: u64, offset: u64 },
    NotNow,
}

impl Engine {
    /// `REPLICAOF`. A new role begins fenced.
    pub(crate) fn follow(self: &Rc<Self>, spot: Spot) {
        {
            let mut state = self.state.borrow_mut();
            if state.following.is_some_and(|f| f.spot == spot) {
                return;
            }
            state.orders += 1;
            let order = state.orders;
            state.phase = Phase::Fenced;
            state.recovered = false;
            state.paused_until = 0;
            state.claims.clear();
            state.following = Some(Following { spot, order, link_up: false, history: 0, offset: 0 });
        }
        self.judge.note(|| format!("{} follows {spot:?}", self.node.name));
        self.follow_moved.notify();
    }

    /// Connects to the master whenever there is one to follow and no link.
    pub(super) fn spawn_follower(self: &Rc<Self>, process: &Rc<Process>) {
        let (weak, sim, moved) = (Rc::downgrade(self), self.sim.clone(), self.follow_moved.clone());
        self.sim.spawn(process, async move {
            loop {
                let Some(engine) = weak.upgrade() else { return };
                let following = engine.state.borrow().following;
                if let Some(following) = following.filter(|f| !f.link_up && !engine.is_loading())
                    && let Some(master) = engine.at(following.spot)
                {
                    let (node, target) = (Rc::clone(&engine.node), Rc::clone(&master.node));
                    let asked = engine.network.call(&node, &target, REPLICATE, SEC, move || {
                        master.sync(following.history, following.offset)
                    });
                    if let Ok(synced) = asked.await {
                        engine.synced(following, synced);
                        // What was issued while the answer was under way.
                        if let Some(master) = engine.at(following.spot) {
                            master.push_soon();
                        }
                    }
                }
                let pause = engine.sim.random(|r| r.range(50, 400)) * MS;
                drop(engine);
                moved.wait_until(&sim, sim.now() + pause).await;
            }
        });
    }

    fn sync(&self, history: u64, offset: u64) -> Synced {
        let state = self.state.borrow();
        // Replicas may log in only to a master that was proved: one that came back empty would wipe them.
        if state.following.is_some() || state.phase == Phase::Fenced || self.is_loading() {
            return Synced::NotNow;
        }
        let behind = state.end.saturating_sub(offset) as usize;
        if history == state.history && offset <= state.end && behind <= state.backlog.len() {
            let from = state.backlog.len() - behind;
            return Synced::Continue(state.backlog.iter().skip(from).cloned().collect());
        }
        let snapshot = Box::new(self.snapshot(&state));
        Synced::Full { snapshot, history: state.history, offset: state.end }
    }

    fn synced(self: &Rc<Self>, asked: Following, synced: Synced) {
        let wall_ms = self.wall_ms();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(following) = state.following.as_mut().filter(|f| f.order == asked.order) else { return };
        match synced {
            Synced::NotNow => {}
            Synced::Continue(entries) => {
                following.link_up = true;
                following.offset += entries.len() as u64;
                for entry in entries {
                    state.damaged |= !entry.apply(&mut state.shard, &mut state.keys, wall_ms);
                    state.disk.append(entry);
                }
            }
            Synced::Full { snapshot, history, offset } if asked.spot.region != self.region => {
                self.load_copy(state, asked, *snapshot, (history, offset));
            }
            Synced::Full { snapshot, history, offset } => {
                (following.link_up, following.history, following.offset) = (true, history, offset);
                let Some((shard, keys)) = snapshot.load() else {
                    self.judge
                        .violate("persistence", format!("{}: a full sync cannot be read", self.node.name));
                    return;
                };
                self.judge.loses(self, &state.shard.cover());
                self.judge.missing(state.shard.stats.missing);
                (state.shard, state.keys, state.damaged) = (shard, keys, false);
                state.disk.rewrite(*snapshot);
                self.judge.note(|| format!("{} synchronized in full", self.node.name));
            }
        }
    }

    /// Sends what is new to the replicas, in a moment and once for all of it.
    pub(super) fn push_soon(self: &Rc<Self>) {
        if self.pushing.replace(true) {
            return;
        }
        let engine = Rc::clone(self);
        self.sim.at(self.sim.now() + 50, move || engine.push());
    }

    fn push(self: &Rc<Self>) {
        self.pushing.set(false);
        if !self.node.is_up() {
            return;
        }
        for replica in self.kin.borrow().values().filter_map(std::rc::Weak::upgrade) {
            if replica.follows() != Some(self.spot()) || !replica.node.is_up() {
                continue;
            }
            let same =
                replica.state.borrow().following.is_some_and(|f| f.history == self.state.borrow().history);
            match self.network.transit(&self.node, &replica.node, REPLICATE) {
                Some(at) if same => {
                    let (master, end, history) =
                        (Rc::clone(self), self.state.borrow().end, self.state.borrow().history);
                    let process = replica.node.process();
                    self.sim
                        .at(at + replica.lag.get(), move || replica.pushed(&master, &process, history, end));
                }
                // Connected to a process before this one: it finds out now at the latest.
                Some(_) | None => replica.lose_link(),
            }
        }
    }

    pub(super) fn lose_link(&self) {
        if let Some(following) = &mut self.state.borrow_mut().following {
            following.link_up = false;
        }
    }

    fn pushed(self: &Rc<Self>, master: &Rc<Self>, process: &Rc<Process>, history: u64, end: u64) {
        if !process.is_alive() {
            return;
        }
        let paused = process.paused_until();
        if paused > self.sim.now() {
            let (replica, master, process) = (Rc::clone(self), Rc::clone(master), Rc::clone(process));
            self.sim.at(paused, move || replica.pushed(&master, &process, history, end));
            return;
        }
        let wall_ms = self.wall_ms();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(following) = &mut state.following else { return };
        if following.spot != master.spot() || following.history != history || !following.link_up {
            return;
        }
        let theirs = master.state.borrow();
        if theirs.history != history || following.offset >= end {
            return;
        }
        let behind = (theirs.end - following.offset) as usize;
        if behind > theirs.backlog.len() {
            following.link_up = false;
            return;
        }
        let count = (end - following.offset) as usize;
        for entry in theirs.backlog.iter().skip(theirs.backlog.len() - behind).take(count) {
            state.damaged |= !entry.apply(&mut state.shard, &mut state.keys, wall_ms);
            state.disk.append(entry.clone());
            following.offset += 1;
        }
        if state.damaged {
            self.judge.violate(
                "persistence",
                format!("{}: a step of the master cannot be applied", self.node.name),
            );
        }
    }
}
