//! The pulse of one shard, a few times a second: who is master, what it has, duties, heartbeats, recovery, sweeping.

use std::rc::Rc;

use mas_core::outbox::SWEEP_EFFECTS_MAX;
use mas_core::record::{Body, Record};
use mas_core::replication::batcher::Pushed;
use mas_core::replication::heartbeat::{Durable, HEARTBEAT_MS, Members, Word, build_heartbeat};
use mas_core::replication::recovery::{Action, Observed, Recovery};
use mas_core::replication::sealing::{Facts, Sealing};
use mas_core::stamp::{Hlc, Origin, RegionId, ShardId};

use super::{Proxy, REPLY_LIMIT, Seat, Shard};
use crate::engine::{About, Engine, Phase, Refusal};
use crate::executor::{MS, Time};
use crate::network::{CONTROL, Lost};

/// Time between two pulses while the engine recovers.
const RECOVERING: Time = 20 * MS;
/// A duty is this proxy's for so long, and claimed again so often.
const CLAIM_MS: u64 = 2000;
const CLAIM_AGAIN_MS: u64 = 600;
/// How long a member that is not the master may take to answer.
const MEMBER_LIMIT: Time = 500 * MS;
/// Effects this old that nobody confirmed are swept.
const SWEEP_AGE_MS: u64 = 400;
/// Time between two sweeps, with up to half of it added at random.
const SWEEP_MS: u64 = 300;
/// Bytes of one sweep.
const SWEEP_BYTES: usize = 1 << 20;
/// How long what was swept is this proxy's.
const SWEEP_CLAIM_MS: u64 = 5000;
/// Confirmed effects are gathered for so long before they are trimmed.
const TRIM_GATHER: Time = 4 * MS;
/// Time between two looks for tombstones that are stable.
const COLLECT_MS: u64 = 1000;

/// The call failed; whatever the cause, the pulse leaves its seat.
#[derive(Debug)]
pub(super) struct Failed;

impl From<Lost> for Failed {
    fn from(_: Lost) -> Self {
        Self
    }
}

impl From<Refusal> for Failed {
    fn from(_: Refusal) -> Self {
        Self
    }
}

/// What one shard's pulse remembers.
struct Pulse {
    members: Members,
    own_duty: bool,
    claimed_ms: Option<u64>,
    swept_ms: u64,
    beat_ms: u64,
    recovery: Option<Recovery>,
    collect_ms: u64,
    sealing: Sealing,
}

impl Proxy {
    /// Asks an engine of this region, with the usual limit.
    pub(super) async fn ask<T: 'static>(
        &self,
        shard: u16,
        member: usize,
        limit: Time,
        f: impl FnOnce(&Rc<Engine>) -> T + 'static,
    ) -> Result<T, Lost> {
        let engine = self.world.engine(self.region, shard, member);
        let node = Rc::clone(&engine.node);
        self.world.network.call(&self.node, &node, CONTROL, limit, move || f(&engine)).await
    }

    pub(super) async fn run_pulse(self: Rc<Self>, shard: Rc<Shard>) {
        let sim = self.world.sim.clone();
        let mut pulse = Pulse {
            members: Members::default(),
            own_duty: false,
            claimed_ms: None,
            swept_ms: 0,
            beat_ms: 0,
            recovery: None,
            collect_ms: 0,
            sealing: Sealing::default(),
        };
        loop {
            let recovering = if let Ok(recovering) = self.beat(&shard, &mut pulse).await {
                recovering
            } else {
                Self::leave(&shard, &mut pulse);
                self.ask_again.notify();
                false
            };
            let next = sim.now() + if recovering { RECOVERING } else { HEARTBEAT_MS * MS };
            while shard.pulse.wait_until(&sim, next).await {
                if shard.outbox_wanted.take() {
                    self.ask_outbox(&shard).await;
                    sim.sleep(5 * MS).await;
                }
            }
        }
    }

    /// There is no master now.
    fn leave(shard: &Shard, pulse: &mut Pulse) {
        shard.set_seat(None);
        shard.set_duties(Vec::new());
        pulse.own_duty = false;
        pulse.claimed_ms = None;
    }

    async fn beat(&self, shard: &Rc<Shard>, pulse: &mut Pulse) -> Result<bool, Failed> {
        let asked_ms = self.now_ms();
        let Some((member, about)) = self.find_master(shard.id).await? else {
            Self::leave(shard, pulse);
            return Ok(false);
        };
        let seat = Seat {
            member,
            incarnation: about.incarnation,
            epoch: about.epoch,
            serving: about.phase == Phase::Serving,
            recovered: about.recovered,
        };
        if shard.seat().is_none_or(|old| old.incarnation != seat.incarnation) {
            pulse.own_duty = false;
            pulse.claimed_ms = None;
            pulse.recovery = None;
            pulse.sealing = Sealing::default();
            shard.set_duties(Vec::new());
        }
        shard.set_seat(Some(seat.clone()));
        shard.acks.borrow_mut().live(seat.incarnation, asked_ms, self.now_ms());
        self.tell_outbox(shard, &about);
        let word = self.ask(shard.id, member, REPLY_LIMIT, |e| e.word()).await?;
        if word.incarnation != seat.incarnation {
            Self::leave(shard, pulse);
            return Ok(false);
        }
        self.observe(shard.id, word.clock);
        for row in shard.links.borrow_mut().values_mut() {
            row.health.heard(&word);
        }
        *shard.word.borrow_mut() = word;
        shard.poke_readers();
        self.claim(shard, &seat, pulse).await?;
        if pulse.own_duty {
            let now_ms = self.now_ms();
            if now_ms + HEARTBEAT_MS / 4 >= pulse.beat_ms + HEARTBEAT_MS {
                pulse.beat_ms = now_ms;
                self.heartbeat(shard, &seat, &about, pulse).await?;
            }
            // Who joins recovers once it may: its own stream is as good as empty.
            if about.joining.is_none() {
                self.recover(shard, &seat, &about, pulse).await?;
            }
            if seat.recovered {
                self.collect(shard, &seat, pulse).await?;
            }
        }
        self.sweep(shard, &seat, &about, pulse).await?;
        Ok(!seat.recovered && pulse.own_duty && about.joining.is_none())
    }

    /// The serving master that the front found, or else a recovering one, by asking the members.
    async fn find_master(&self, shard: u16) -> Result<Option<(usize, About)>, Failed> {
        let known = self.masters.borrow()[usize::from(shard)].map(|m| m.member);
        if let Some(member) = known {
            let about = self.ask(shard, member, REPLY_LIMIT, |e| e.about()).await?;
            if about.master && about.phase != Phase::Fenced && !about.loading {
                return Ok(Some((member, about)));
            }
        }
        let words = self.ask_all(shard).await;
        let highest = words.iter().map(|(_, a)| a.epoch).max().unwrap_or(0);
        Ok(words.into_iter().find(|(_, a)| a.epoch == highest && a.master && a.phase != Phase::Fenced))
    }

    /// What all members that answer say.
    pub(super) async fn ask_all(&self, shard: u16) -> Vec<(usize, About)> {
        let count = self.world.members(self.region);
        let asked: Vec<_> = (0..count)
            .map(|member| {
                let engine = self.world.engine(self.region, shard, member);
                let node = Rc::clone(&engine.node);
                self.world.network.call(&self.node, &node, CONTROL, MEMBER_LIMIT, move || engine.about())
            })
            .collect();
        let mut words = Vec::new();
        for (member, asked) in asked.into_iter().enumerate() {
            if let Ok(about) = asked.await
                && !about.loading
            {
                words.push((member, about));
            }
        }
        words
    }

    fn tell_outbox(&self, shard: &Shard, about: &About) {
        let first = about.outbox_first.iter().find(|(of, _)| *of == about.incarnation).map(|(_, seq)| *seq);
        shard.acks.borrow_mut().outbox(about.incarnation, first, about.seq);
        if shard.acks.borrow().has_done() {
            self.pump.notify();
        }
    }

    async fn ask_outbox(&self, shard: &Shard) {
        let Some(seat) = shard.seat() else { return };
        if let Ok(about) = self.ask(shard.id, seat.member, REPLY_LIMIT, |e| e.about()).await
            && about.incarnation == seat.incarnation
        {
            self.tell_outbox(shard, &about);
        }
    }

    async fn claim(&self, shard: &Shard, seat: &Seat, pulse: &mut Pulse) -> Result<(), Failed> {
        let now_ms = self.now_ms();
        if pulse.claimed_ms.is_some_and(|at| now_ms < at + CLAIM_AGAIN_MS) {
            return Ok(());
        }
        pulse.claimed_ms = Some(now_ms);
        let (name, incarnation) = (self.name, seat.incarnation);
        let own = self
            .ask(shard.id, seat.member, REPLY_LIMIT, move |e| {
                e.claim(incarnation, "own".to_owned(), name, CLAIM_MS)
            })
            .await??;
        // Who cannot reach a peer leaves its stream to others.
        let peers: Vec<u16> = {
            let links = shard.links.borrow();
            links
                .iter()
                .filter(|(r, row)| **r != self.region && row.link.connected)
                .map(|(r, _)| *r)
                .collect()
        };
        let asked = peers.clone();
        let claimed = self
            .ask(shard.id, seat.member, REPLY_LIMIT, move |e| {
                asked
                    .into_iter()
                    .map(|peer| e.claim(incarnation, format!("read:{peer}"), name, CLAIM_MS))
                    .collect::<Result<Vec<bool>, Refusal>>()
            })
            .await??;
        let mut duties = Vec::new();
        if own {
            duties.push(self.region);
        }
        duties.extend(peers.into_iter().zip(claimed).filter(|(_, claimed)| *claimed).map(|(peer, _)| peer));
        pulse.own_duty = own;
        shard.set_duties(duties);
        Ok(())
    }

    /// Says that nothing more of an ended incarnation counts, once that is so.
    fn seal(
        &self,
        shard: &Shard,
        seat: &Seat,
        about: &About,
        pulse: &mut Pulse,
        word: &Word,
        durable: &Durable,
    ) {
        let holds = about.outbox_first.iter().any(|(of, _)| *of != seat.incarnation)
            || shard.batcher.borrow().holds_other_than(seat.incarnation);
        let acks = shard.acks.borrow();
        let peers = self.peers();
        let peers: Vec<_> = peers.iter().map(|region| acks.peer_cover(RegionId(*region))).collect();
        let facts = Facts {
            region: RegionId(self.region),
            ended: &word.ended,
            cover: &word.cover,
            durable: &durable.cover,
            settled: seat.recovered && !holds && pulse.members.all_follow(seat.incarnation),
            peers: &peers,
        };
        if let Some(incarnation) = pulse.sealing.step(facts, self.now_ms()) {
            self.world.judge.note(|| format!("{} seals {incarnation}", self.node.name));
            let origin = Origin { region: RegionId(self.region), incarnation: seat.incarnation };
            let (id, body) = (self.world.sim.new_id(), Body::Sealed(incarnation));
            let record = Record { id, shard: ShardId(shard.id), origin, body };
            shard.batcher.borrow_mut().push_seal(&record);
            self.pump.notify();
        }
    }

    async fn heartbeat(
        &self,
        shard: &Shard,
        seat: &Seat,
        about: &About,
        pulse: &mut Pulse,
    ) -> Result<(), Failed> {
        let count = self.world.members(self.region);
        let names: Vec<String> = (0..count).map(|member| format!("redis-{member}")).collect();
        pulse.members.configure(names.iter().map(String::as_str));
        let always = self.world.fsync_always(self.region);
        let asked: Vec<_> = (0..count)
            .filter(|member| *member != seat.member)
            .map(|member| {
                let engine = self.world.engine(self.region, shard.id, member);
                let node = Rc::clone(&engine.node);
                let call = self.world.network.call(&self.node, &node, CONTROL, MEMBER_LIMIT, move || {
                    (!engine.about().loading).then(|| engine.word())
                });
                (member, call)
            })
            .collect();
        for (member, call) in asked {
            if let Ok(Some(word)) = call.await {
                pulse.members.heard(&names[member], &word);
            }
        }
        // The master last: its cover includes all that the others have, and its clock all stamps in them.
        let word = self.ask(shard.id, seat.member, REPLY_LIMIT, |e| e.word()).await?;
        if word.incarnation != seat.incarnation {
            return Ok(());
        }
        pulse.members.heard(&names[seat.member], &word);
        let durable = pulse.members.durable(&word, always);
        self.seal(shard, seat, about, pulse, &word, &durable);
        let members: Vec<_> = (0..count).map(|m| self.world.engine(self.region, shard.id, m)).collect();
        self.world.judge.beat(&members, &durable.cover, &word);
        let id = self.world.sim.new_id();
        let record =
            build_heartbeat(id, RegionId(self.region), ShardId(shard.id), seat.epoch, &word, durable);
        shard.batcher.borrow_mut().push_heartbeat(&record);
        let outlet = self.outlet.borrow().clone();
        if let Some(outlet) = outlet {
            self.world.broker(self.region).fan_out(&outlet.connection, record.encode());
        }
        self.pump.notify();
        Ok(())
    }

    async fn recover(
        &self,
        shard: &Shard,
        seat: &Seat,
        about: &About,
        pulse: &mut Pulse,
    ) -> Result<(), Failed> {
        if seat.recovered {
            pulse.recovery = None;
            return Ok(());
        }
        let now_ms = self.now_ms();
        let recovery = match &mut pulse.recovery {
            Some(recovery) if recovery.incarnation() == seat.incarnation => recovery,
            other => other.insert(Recovery::new(seat.incarnation, now_ms)),
        };
        let old_in_outbox = about.outbox_first.iter().any(|(of, _)| *of != seat.incarnation);
        let own = shard.own.get();
        let seen = Observed {
            serving: seat.serving,
            recovered: seat.recovered,
            online: shard.batcher.borrow().is_online(),
            old_effects: old_in_outbox || shard.batcher.borrow().holds_other_than(seat.incarnation),
            merged_nonce: own.merged_nonce,
            progress: shard.progress.get(),
            clock: own.clock,
        };
        let incarnation = seat.incarnation;
        let action = recovery.step(seen, now_ms, self.world.sim.new_id());
        match action {
            Action::Wait | Action::Done => {}
            Action::Sweep => self.sweep_once(shard, seat, 0, pulse).await?,
            Action::PublishNonce(nonce) => {
                let origin = Origin { region: RegionId(self.region), incarnation };
                let id = self.world.sim.new_id();
                let record = Record { id, shard: ShardId(shard.id), origin, body: Body::Nonce(nonce) };
                shard.batcher.borrow_mut().push_nonce(&record);
                self.pump.notify();
            }
            Action::ServeFull(clock) => {
                self.ask(shard.id, seat.member, REPLY_LIMIT, move |e| e.serve(incarnation, true, clock))
                    .await??;
                shard.set_seat(Some(Seat { serving: true, recovered: true, ..seat.clone() }));
                self.ask_again.notify();
            }
            Action::ServeDegraded => {
                self.ask(shard.id, seat.member, REPLY_LIMIT, move |e| e.serve(incarnation, false, Hlc::ZERO))
                    .await??;
                self.ask_again.notify();
            }
        }
        Ok(())
    }

    /// Forgets tombstones that are stable. The members are the regions that the configuration names: one that joins counts from
    /// the moment that it is named.
    async fn collect(&self, shard: &Shard, seat: &Seat, pulse: &mut Pulse) -> Result<(), Failed> {
        let now_ms = self.now_ms();
        if now_ms < pulse.collect_ms {
            return Ok(());
        }
        pulse.collect_ms = now_ms + COLLECT_MS;
        let incarnation = seat.incarnation;
        let (membership, regions) = {
            let config = self.config.borrow();
            (config.membership, config.regions.iter().copied().map(RegionId).collect())
        };
        let collect = move |e: &Rc<Engine>| e.collect(incarnation, membership, regions);
        match self.ask(shard.id, seat.member, REPLY_LIMIT, collect).await? {
            // This proxy will be told of the new list, too; until then it has nothing forgotten.
            Ok(_) | Err(Refusal::Membership) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn sweep(
        &self,
        shard: &Shard,
        seat: &Seat,
        about: &About,
        pulse: &mut Pulse,
    ) -> Result<(), Failed> {
        let now_ms = self.now_ms();
        if now_ms < pulse.swept_ms || about.outbox_effects == 0 || !shard.batcher.borrow().is_online() {
            return Ok(());
        }
        pulse.swept_ms = now_ms + SWEEP_MS + self.world.sim.random(|r| r.below(SWEEP_MS / 2));
        self.sweep_once(shard, seat, SWEEP_AGE_MS, pulse).await
    }

    async fn sweep_once(
        &self,
        shard: &Shard,
        seat: &Seat,
        min_age_ms: u64,
        pulse: &mut Pulse,
    ) -> Result<(), Failed> {
        let bytes = SWEEP_BYTES.min(self.world.schedule.setup.batcher_max / 4);
        if !shard.batcher.borrow().has_room(bytes) {
            return Ok(());
        }
        let (incarnation, name) = (seat.incarnation, self.name);
        let effects = self
            .ask(shard.id, seat.member, REPLY_LIMIT, move |e| {
                e.sweep(incarnation, name, min_age_ms, bytes, SWEEP_CLAIM_MS)
            })
            .await??;
        let size: usize = effects.iter().map(|(.., e)| e.len()).sum();
        if size >= bytes / 2 || effects.len() >= SWEEP_EFFECTS_MAX {
            // The rest soon.
            pulse.swept_ms = 0;
        }
        for (incarnation, seq, effect) in effects {
            if shard.batcher.borrow_mut().push(incarnation, seq, effect) == Pushed::Full {
                break;
            }
        }
        self.pump.notify();
        Ok(())
    }

    /// Tells the engine what was confirmed, gathered over a few milliseconds.
    pub(super) async fn run_trim(self: Rc<Self>, shard: Rc<Shard>) {
        let sim = self.world.sim.clone();
        loop {
            shard.trim.wait_until(&sim, u64::MAX / 2).await;
            sim.sleep(TRIM_GATHER).await;
            let trims = shard.batcher.borrow_mut().take_trims();
            let Some(seat) = shard.seat() else { continue };
            for (origin, ranges) in trims {
                let incarnation = seat.incarnation;
                // What is lost on the way is swept, published and confirmed once more.
                let _ = self
                    .ask(shard.id, seat.member, REPLY_LIMIT, move |e| e.trim(incarnation, origin, &ranges))
                    .await;
            }
        }
    }
}
