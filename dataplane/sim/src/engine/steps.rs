//! The engine's commands, one method each, with the refusals of docs/internals.md.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use mas_core::outbox::is_held;
use mas_core::replication::heartbeat::Word;
use mas_core::replication::reader::Merge;
use mas_core::shard::{Identity, MergeError, Position, SkewLimits, local_entry};
use mas_core::slot::SLOTS;
use mas_core::stamp::{Hlc, Incarnation, RegionId, ShardId};
use mas_core::transfer::{Cursor, PieceBounds, Want};
use mas_core::wire::decode_effect;

use super::commands::{Execution, Reply, read};
use super::disk::Entry;
use super::{About, Engine, Note, Phase, Refusal, State};
use crate::checkers::ledger::Commit;
use crate::executor::MS;
use crate::workload::Command;

/// The store's name.
pub(crate) const STORE: &str = "sim";
/// Bounds of a piece of state: small, so that there are several.
const PIECE: PieceBounds = PieceBounds { keys: 3, bytes: 160 };
/// The tolerated clock skew, milliseconds.
const MAX_SKEW_MS: u64 = 1000;

impl Engine {
    /// `MAS.IDENTITY`.
    pub(crate) fn about(&self) -> About {
        let state = self.state.borrow();
        let id = state.shard.identity();
        About {
            store: id.store.clone(),
            region: id.region.0,
            shard: id.shard.0,
            master: state.following.is_none(),
            phase: state.phase,
            recovered: state.recovered,
            epoch: id.epoch,
            incarnation: id.incarnation,
            seq: state.shard.seq(),
            clock: state.shard.clock(),
            outbox_effects: state.shard.outbox().len(),
            outbox_bytes: state.shard.outbox().bytes(),
            outbox_first: state.shard.outbox().firsts().collect(),
            link_up: state.following.is_some_and(|f| f.link_up),
            offset: state.following.map_or(state.end, |f| f.offset),
            paused_ms: state.paused_until.saturating_sub(self.sim.now()) / MS,
            keys: state.keys.map.len() as u64,
            empty: state.keys.map.is_empty() && state.shard.is_blank(),
            follows: state.following.map(|f| f.spot),
            loading: self.is_loading(),
            membership: state.shard.stability().membership(),
            joining: state.shard.joining().cloned(),
            saved: !state.disk.is_behind(),
        }
    }

    pub(super) fn check_promoted(&self, state: &State, meant: Incarnation) -> Result<(), Refusal> {
        let promoted = state.following.is_none() && state.phase != Phase::Fenced && !self.is_loading();
        if promoted && state.shard.identity().incarnation == meant { Ok(()) } else { Err(Refusal::NotMaster) }
    }

    fn is_paused(&self, state: &State) -> bool {
        state.paused_until > self.sim.now()
    }

    fn check_ahead(&self, clock: Hlc) -> Result<(), Refusal> {
        let ahead = clock.millis().saturating_sub(self.wall_ms());
        if ahead > self.hard_skew_ms { Err(Refusal::Skew) } else { Ok(()) }
    }

    /// `MAS.EXEC`.
    pub(crate) fn exec(
        self: &Rc<Self>,
        meant: Incarnation,
        seen: Hlc,
        number: usize,
        command: &Command,
    ) -> Result<(Reply, Note), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.check_promoted(state, meant)?;
        if state.phase != Phase::Serving || self.is_paused(state) {
            return Err(Refusal::NotMaster);
        }
        self.check_ahead(seen)?;
        state.shard.observe(seen);
        let size = if let Command::Set { bytes, .. } = command { *bytes as u64 } else { 32 };
        if state.shard.outbox().bytes() + size + 96 > self.outbox_max.max(size + 96) {
            return Err(Refusal::OutboxFull);
        }
        self.expire(state);
        let cover = state.shard.cover();
        let execution = Execution {
            shard: &mut state.shard,
            keys: &mut state.keys,
            wall_ms: self.wall_ms(),
            number,
            shards: self.shards,
        };
        let (reply, changed) = execution.write(command);
        let (seq, hlc) = (state.shard.seq(), state.shard.clock());
        let mut note = Note { incarnation: meant, seq, hlc, effect: Bytes::new() };
        if let Some(bytes) = changed {
            self.log(state, Entry::Step(local_entry(&bytes)));
            let origin = state.shard.identity().origin();
            // What the core said, not what it was asked to: it adds to it.
            let Ok(effect) = decode_effect(&bytes, origin) else {
                self.judge.violate("persistence", format!("operation #{number} cannot be decoded"));
                return Err(Refusal::Other);
            };
            note.effect = bytes;
            let commit = Commit::new(number, self.shard, origin, seq, hlc, &effect.changes);
            self.judge.committed(commit, &cover);
        }
        self.judge.admits(self, meant, state.shard.joining().is_some());
        let waiting = state.shard.outbox().bytes();
        self.judge.bound("outbox", waiting, self.outbox_max + size + 4096);
        if let Some(key) = command.key() {
            let shown = state.keys.get(key.as_bytes()).cloned();
            drop(guard);
            self.judge.shown(self, key, shown.as_ref());
        }
        Ok((reply, note))
    }

    /// A native read. Masters and replicas answer it, whatever their state.
    pub(crate) fn read(self: &Rc<Self>, command: &Command) -> Result<(Reply, Incarnation), Refusal> {
        if self.is_loading() {
            return Err(Refusal::NotMaster);
        }
        self.expire_now();
        let key = command.key().unwrap_or_default();
        let (reply, incarnation) = {
            let state = self.state.borrow();
            // One that started again answers before it is promoted anew: what its disk did not keep is not there.
            let live = state.following.is_some() || state.phase != Phase::Fenced;
            let known = state.shard.identity();
            // Whoever asks means the process that was here before: its connection broke when that ended.
            if known.region.0 != self.region && known.region.0 != 0 {
                return Err(Refusal::NotMaster);
            }
            let incarnation = if live { known.incarnation } else { Incarnation::NONE };
            self.judge.admits(self, incarnation, state.shard.joining().is_some());
            (read(&state.keys, key), incarnation)
        };
        if let Reply::Value(shown) = &reply {
            self.judge.shown(self, key, shown.as_ref());
        }
        Ok((reply, incarnation))
    }

    /// `MAS.COVER`.
    pub(crate) fn word(&self) -> Word {
        let state = self.state.borrow();
        Word {
            cover: state.shard.cover(),
            clock: state.shard.clock(),
            incarnation: state.shard.identity().incarnation,
            issued: state.shard.seq(),
            merged_through: state.shard.merged_through().hlc,
            transfer: state.shard.transfer(),
            ended: state.shard.ended(),
        }
    }

    /// `MAS.POSITIONS`, of one region.
    pub(crate) fn position(
        &self,
        incarnation: Incarnation,
        region: u16,
    ) -> Result<Option<Position>, Refusal> {
        let state = self.state.borrow();
        self.check_promoted(&state, incarnation)?;
        Ok(state.shard.positions().get(&RegionId(region)).copied())
    }

    /// `MAS.MERGE`.
    pub(crate) fn merge(
        self: &Rc<Self>,
        meant: Incarnation,
        region: u16,
        merge: &Merge,
    ) -> Result<(), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.check_promoted(state, meant)?;
        if self.is_paused(state) {
            return Err(Refusal::Other);
        }
        self.expire(state);
        let limits = SkewLimits { tolerated_ms: MAX_SKEW_MS, hard_ms: self.hard_skew_ms };
        let (region, wall_ms) = (RegionId(region), self.wall_ms());
        let receiving = state.shard.transfer().is_some();
        let (before, stored) = (state.shard.cover(), state.shard.positions().get(&region).copied());
        let merged = state.shard.merge(
            region,
            merge.expected,
            merge.to,
            &merge.bodies,
            wall_ms,
            limits,
            &mut state.keys,
        );
        let after = state.shard.cover();
        let moved = state.shard.positions().get(&region).copied();
        self.judge.merged(
            self,
            &before,
            &after,
            (stored, moved),
            (region.0, merge),
            receiving,
            merged.as_ref().ok(),
            wall_ms + self.hard_skew_ms,
        );
        if matches!(merged, Err(MergeError::Held { .. })) {
            self.judge.held_back();
        }
        let merged = merged.map_err(|error| match error {
            MergeError::Position(_) => Refusal::Position,
            MergeError::Decode { index, .. } => Refusal::Decode(index),
            MergeError::Held { .. } => Refusal::Skew,
            MergeError::Gaps(_) => Refusal::Gaps,
        })?;
        self.log(state, Entry::Step(merged.entry));
        let settled = receiving && state.shard.transfer().is_none();
        drop(guard);
        if settled {
            self.judge.all_shown(self);
        }
        Ok(())
    }

    /// `MAS.STATE`.
    pub(crate) fn state(
        self: &Rc<Self>,
        meant: Incarnation,
        want: &Want,
    ) -> Result<(Cursor, Bytes), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.check_promoted(state, meant)?;
        self.expire(state);
        state.keys.order = state.history;
        let (next, piece) = state.shard.export(want, PIECE, &mut state.keys);
        self.sends.set(next != Cursor::Done);
        Ok((next, piece))
    }

    /// `MAS.OUTBOX`.
    pub(crate) fn sweep(
        &self,
        meant: Incarnation,
        proxy: u64,
        min_age_ms: u64,
        max_bytes: usize,
        claim_ms: u64,
    ) -> Result<Vec<(Incarnation, u64, Bytes)>, Refusal> {
        let mut state = self.state.borrow_mut();
        self.check_promoted(&state, meant)?;
        let now_ms = self.wall_ms();
        Ok(state.shard.outbox_mut().sweep(proxy, now_ms, min_age_ms, max_bytes, claim_ms))
    }

    /// `MAS.TRIM`.
    pub(crate) fn trim(
        self: &Rc<Self>,
        meant: Incarnation,
        origin: Incarnation,
        ranges: &[(u64, u64)],
    ) -> Result<(), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.check_promoted(state, meant)?;
        let held = |state: &State| -> Vec<(u64, u64)> {
            state.shard.outbox().iter().map(|(inc, seq, _)| (inc.0, seq)).collect()
        };
        let before = held(state);
        let (released, entry) = state.shard.trim(origin, ranges);
        self.judge.trimmed(self, &before, &held(state));
        if released > 0 {
            self.log(state, Entry::Step(entry));
        }
        Ok(())
    }

    /// `MAS.COLLECT`: one call looks at all slots, for the keys are few. Returns how many tombstones are left.
    pub(crate) fn collect(
        self: &Rc<Self>,
        meant: Incarnation,
        membership: u64,
        members: BTreeSet<RegionId>,
    ) -> Result<u64, Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        self.check_promoted(state, meant)?;
        if self.is_paused(state) {
            return Err(Refusal::Other);
        }
        let regions = members.iter().map(|region| region.0).collect::<Vec<_>>();
        if let Some(entry) = state.shard.set_members(membership, members).map_err(|_| Refusal::Membership)? {
            self.log(state, Entry::Step(entry));
        }
        let done = state.shard.collect(0, u64::MAX, self.wall_ms());
        if !done.entry.is_empty() {
            self.log(state, Entry::Step(done.entry));
        }
        let stable = done.stable.hlc;
        let cover = state.shard.cover();
        let folds = state.shard.fold(0, SLOTS, self.wall_ms(), &mut state.keys);
        for bytes in folds {
            self.log(state, Entry::Step(local_entry(&bytes)));
            let origin = state.shard.identity().origin();
            if let Ok(effect) = decode_effect(&bytes, origin) {
                self.judge.checked("folded");
                let commit = Commit::new(0, self.shard, origin, effect.seq, effect.hlc, &effect.changes);
                self.judge.folded(&commit, &cover);
                self.judge.committed(commit, &cover);
            }
        }
        drop(guard);
        self.judge.stable(self, &regions, stable);
        self.judge.digests(self.shard);
        Ok(done.held)
    }

    /// `MAS.CLAIM`.
    pub(crate) fn claim(
        &self,
        meant: Incarnation,
        duty: String,
        proxy: u64,
        ttl_ms: u64,
    ) -> Result<bool, Refusal> {
        let now_ms = self.wall_ms();
        let mut state = self.state.borrow_mut();
        self.check_promoted(&state, meant)?;
        if let Some((holder, until)) = state.claims.get(&duty)
            && *holder != proxy
            && is_held(*until, ttl_ms, now_ms)
        {
            return Ok(false);
        }
        state.claims.insert(duty, (proxy, now_ms + ttl_ms));
        Ok(true)
    }

    /// `REPLICAOF NO ONE`, then `MAS.PROMOTE`.
    pub(crate) fn promote(self: &Rc<Self>, epoch: u64, was_replica: bool) -> Result<(), Refusal> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if self.is_loading() {
            return Err(Refusal::Other);
        }
        if was_replica && state.following.take().is_some() {
            (state.phase, state.recovered) = (Phase::Fenced, false);
            state.claims.clear();
        }
        let known = state.shard.identity().epoch;
        let others = self.other_epochs();
        if state.following.is_some() || state.phase != Phase::Fenced || state.damaged || epoch <= known {
            return Err(Refusal::Other);
        }
        let incarnation = Incarnation(self.sim.new_id());
        let to = Identity {
            store: STORE.into(),
            region: RegionId(self.region),
            shard: ShardId(self.shard),
            epoch,
            incarnation,
            previous: Incarnation::NONE,
        };
        if was_replica {
            state.history = self.sim.new_id();
            state.backlog.clear();
            state.end = 0;
        }
        let entry = state.shard.promote(to, self.wall_ms());
        state.phase = Phase::Recovering;
        state.recovered = false;
        let now = state.shard.identity().incarnation;
        self.log(state, Entry::Step(entry));
        drop(guard);
        self.judge.note(|| format!("{} promoted: {}", self.node.name, self.describe()));
        self.judge.promoted(self, epoch, now, known, &others);
        Ok(())
    }

    /// Epochs that the other members have seen, also those that are down: for the judge.
    fn other_epochs(&self) -> Vec<u64> {
        let kin = self.kin.borrow();
        let others = kin.values().filter_map(std::rc::Weak::upgrade);
        let others = others.filter(|e| e.region == self.region && e.member != self.member);
        others
            .map(|other| {
                let state = other.state.borrow();
                // (What is a copy of another region's shard has seen epochs of that.)
                let own = |shard: &mas_core::shard::Shard| {
                    let known = shard.identity();
                    if known.region.0 == self.region { known.epoch } else { 0 }
                };
                if other.node.is_up() {
                    return own(&state.shard);
                }
                state.disk.load((1, 2), self.wall_ms()).map_or(0, |(shard, _)| own(&shard))
            })
            .collect()
    }

    /// `MAS.SERVE`.
    pub(crate) fn serve(self: &Rc<Self>, meant: Incarnation, full: bool, clock: Hlc) -> Result<(), Refusal> {
        {
            let mut state = self.state.borrow_mut();
            self.check_promoted(&state, meant)?;
            self.check_ahead(clock)?;
            if state.shard.joining().is_some() {
                return Err(Refusal::Other);
            }
            state.phase = Phase::Serving;
            state.recovered |= full;
            state.shard.observe(clock);
            if !full {
                let ahead = Hlc::from_millis(self.wall_ms() + MAX_SKEW_MS);
                state.shard.observe(ahead);
            }
        }
        self.judge.note(|| format!("{} serves, full: {full}", self.node.name));
        self.judge.serves(self, full);
        Ok(())
    }

    /// `MAS.PAUSE`.
    pub(crate) fn pause(&self, meant: Incarnation, ms: u64) -> Result<(), Refusal> {
        let mut state = self.state.borrow_mut();
        self.check_promoted(&state, meant)?;
        if state.phase != Phase::Serving {
            return Err(Refusal::NotMaster);
        }
        state.paused_until = if ms == 0 { 0 } else { self.sim.now() + ms * MS };
        drop(state);
        self.judge.note(|| format!("{} is paused for {ms} ms", self.node.name));
        Ok(())
    }

    /// Whether it is a master that waits for its successor.
    pub(crate) fn hands_over(&self) -> bool {
        let state = self.state.borrow();
        self.node.is_up() && state.phase == Phase::Serving && self.is_paused(&state)
    }

    /// `MAS.FENCE`.
    pub(crate) fn fence(&self) {
        let mut state = self.state.borrow_mut();
        (state.phase, state.recovered, state.paused_until) = (Phase::Fenced, false, 0);
        state.claims.clear();
        drop(state);
        self.judge.note(|| format!("{} fenced", self.node.name));
    }
}
