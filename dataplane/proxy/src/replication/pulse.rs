//! The pulse of one shard, a few times a second: who is master, what it has, which duties are this proxy's, heartbeats,
//! recovery, and sweeping what was left in the outbox.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use mas_core::outbox::SWEEP_EFFECTS_MAX;
use mas_core::record::{Body, Record};
use mas_core::replication::heartbeat::{Durable, HEARTBEAT_MS, Members, Word, build_heartbeat};
use mas_core::replication::recovery::{Action, Observed, Recovery};
use mas_core::replication::sealing::{Facts, Sealing};
use mas_core::stamp::{Origin, RegionId};
use rand::Rng;

use super::collecting::Collector;
use super::engine::{EngineError, Identity, TRIM_RANGES_MAX};
use super::hub::{Hub, Seat, Shard, new_id};
use super::metrics::Metrics;

/// Time between two pulses while the engine recovers.
const RECOVERING: Duration = Duration::from_millis(20);
/// A duty is this proxy's for so long, and claimed again so often.
const CLAIM: Duration = Duration::from_secs(2);
const CLAIM_AGAIN_MS: u64 = 600;
/// How long a member that is not the master may take to answer.
const MEMBER_LIMIT: Duration = Duration::from_millis(500);
/// Effects this old that nobody confirmed are swept; live ones are on their way in their own proxy until then.
const SWEEP_AGE: Duration = Duration::from_millis(400);
/// Time between two sweeps, with up to half of it added at random so that not all proxies sweep at once.
const SWEEP_MS: u64 = 300;
/// Bytes of one sweep.
const SWEEP_BYTES: usize = 1 << 20;
/// How long what was swept is this proxy's.
const SWEEP_CLAIM: Duration = Duration::from_secs(5);
/// Shortest time between two questions for the outbox.
const OUTBOX_GAP: Duration = Duration::from_millis(5);
/// Confirmed effects are gathered for so long before they are trimmed.
const TRIM_GATHER: Duration = Duration::from_millis(4);

/// See the module.
pub(crate) struct Pulse {
    hub: Rc<Hub>,
    shard: Rc<Shard>,
    members: Members,
    own_duty: bool,
    claimed_ms: Option<u64>,
    swept_ms: u64,
    beat_ms: u64,
    recovery: Option<Recovery>,
    collector: Collector,
    sealing: Sealing,
}

impl Pulse {
    pub(crate) fn new(hub: Rc<Hub>, shard: Rc<Shard>) -> Self {
        Self {
            hub,
            shard,
            members: Members::default(),
            own_duty: false,
            claimed_ms: None,
            swept_ms: 0,
            beat_ms: 0,
            recovery: None,
            collector: Collector::default(),
            sealing: Sealing::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut masters = self.hub.wiring.masters.clone();
        loop {
            let recovering = match self.beat().await {
                Ok(recovering) => recovering,
                Err(error) => {
                    tracing::debug!(shard = self.shard.id.0, %error, "the master does not answer");
                    self.leave();
                    self.hub.wiring.ask_again.notify_one();
                    false
                }
            };
            let pause = if recovering { RECOVERING } else { Duration::from_millis(HEARTBEAT_MS) };
            let shard = Rc::clone(&self.shard);
            let next = tokio::time::sleep(pause);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    changed = masters.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if self.master_moved() {
                            break;
                        }
                    }
                    () = shard.outbox_wanted.notified() => {
                        self.ask_outbox().await;
                        tokio::time::sleep(OUTBOX_GAP).await;
                    }
                }
            }
        }
    }

    fn master_moved(&self) -> bool {
        let masters = self.hub.wiring.masters.borrow();
        let now = masters.master(self.shard.id).map(|m| (m.address.clone(), m.incarnation));
        now.is_some() && now != self.shard.seat().map(|s| (s.address, s.incarnation))
    }

    /// There is no master now.
    fn leave(&mut self) {
        self.shard.seat.send_if_modified(|seat| seat.take().is_some());
        self.shard.duties.send_if_modified(|duties| !std::mem::take(duties).is_empty());
        self.own_duty = false;
        self.claimed_ms = None;
    }

    /// One pulse; whether the engine still recovers.
    async fn beat(&mut self) -> Result<bool, EngineError> {
        let asked_ms = self.hub.now_ms();
        let Some((address, identity)) = self.find_master().await? else {
            self.leave();
            return Ok(false);
        };
        let seat = Seat {
            address,
            incarnation: identity.incarnation,
            epoch: identity.epoch,
            serving: identity.serving,
            recovered: identity.recovered,
        };
        self.take_seat(&seat, &identity, asked_ms);
        let word = self.hub.engines.cover(&seat.address).await?;
        if word.incarnation != seat.incarnation {
            self.leave();
            return Ok(false);
        }
        self.tell_word(&word);
        self.claim(&seat).await?;
        if self.own_duty {
            let now_ms = self.hub.now_ms();
            if now_ms + HEARTBEAT_MS / 4 >= self.beat_ms + HEARTBEAT_MS {
                self.beat_ms = now_ms;
                self.heartbeat(&seat, &identity).await?;
            }
            // Who joins recovers once it may: its own stream is as good as empty.
            if !identity.joining {
                self.recover(&seat, &identity).await?;
            }
            if seat.recovered {
                self.collector.step(&self.hub, &self.shard, &seat).await?;
            }
        }
        self.sweep(&seat, &identity).await?;
        Ok(!seat.recovered && self.own_duty && !identity.joining)
    }

    /// The serving master that the front found, or else a recovering one, by asking the members.
    async fn find_master(&self) -> Result<Option<(String, Identity)>, EngineError> {
        let engines = &self.hub.engines;
        let known = self.hub.wiring.masters.borrow().master(self.shard.id).map(|m| m.address.clone());
        if let Some(address) = known {
            let identity = engines.identity(&address).await?;
            if identity.master && (identity.serving || identity.recovering) {
                return Ok(Some((address, identity)));
            }
        }
        let config = self.hub.config();
        let Some(shard) = config.shards.iter().find(|s| s.shard == self.shard.id.0) else { return Ok(None) };
        let ask = shard.members.iter().map(|address| async move {
            let identity = tokio::time::timeout(MEMBER_LIMIT, engines.identity(address)).await;
            Some((address.clone(), identity.ok()?.ok()?))
        });
        let words: Vec<(String, Identity)> = join_all(ask).await.into_iter().flatten().collect();
        let highest = words.iter().map(|(_, i)| i.epoch).max().unwrap_or(0);
        Ok(words.into_iter().find(|(_, i)| {
            i.epoch == highest
                && i.master
                && (i.recovering || i.serving)
                && i.store == config.store
                && i.shard == self.shard.id.0
        }))
    }

    fn take_seat(&mut self, seat: &Seat, identity: &Identity, asked_ms: u64) {
        let moved = self.shard.seat().is_none_or(|old| old.incarnation != seat.incarnation);
        if moved {
            tracing::info!(shard = self.shard.id.0, master = %seat.address, incarnation = %seat.incarnation, "master");
            self.own_duty = false;
            self.claimed_ms = None;
            self.recovery = None;
            self.sealing = Sealing::default();
            self.shard.duties.send_if_modified(|duties| !std::mem::take(duties).is_empty());
        }
        self.shard.seat.send_if_modified(|old| {
            let changed = old.as_ref() != Some(seat);
            *old = Some(seat.clone());
            changed
        });
        self.shard.acks.borrow_mut().live(seat.incarnation, asked_ms, self.hub.now_ms());
        self.tell_outbox(identity);
    }

    fn tell_outbox(&self, identity: &Identity) {
        let (metrics, of) = (&self.hub.metrics, Metrics::of(self.shard.id));
        metrics.outbox.get_or_create(&of).set(identity.outbox_bytes as i64);
        metrics.outbox_max.get_or_create(&of).set(identity.outbox_max_bytes as i64);
        let mut acks = self.shard.acks.borrow_mut();
        let live = identity.outbox_first.iter().find(|(of, _)| *of == identity.incarnation);
        acks.outbox(identity.incarnation, live.map(|(_, seq)| *seq), identity.seq);
        let done = acks.has_done();
        drop(acks);
        if done {
            self.hub.pump.notify_one();
        }
    }

    async fn ask_outbox(&self) {
        let Some(seat) = self.shard.seat() else { return };
        if let Ok(identity) = self.hub.engines.identity(&seat.address).await
            && identity.incarnation == seat.incarnation
        {
            self.tell_outbox(&identity);
        }
    }

    /// The master's word: for the readers, for the links' lag, for the front's clocks.
    fn tell_word(&self, word: &Word) {
        self.hub.wiring.clocks.observe(self.shard.id, word.clock);
        for row in self.shard.links.borrow_mut().values_mut() {
            row.health.heard(word);
        }
        self.shard.word.send_replace(word.clone());
    }

    /// Claims the duties, and tells the readers which are this proxy's.
    async fn claim(&mut self, seat: &Seat) -> Result<(), EngineError> {
        let now_ms = self.hub.now_ms();
        if self.claimed_ms.is_some_and(|at| now_ms < at + CLAIM_AGAIN_MS) {
            return Ok(());
        }
        self.claimed_ms = Some(now_ms);
        let config = self.hub.config();
        let (engines, proxy) = (&self.hub.engines, self.hub.proxy);
        let claim =
            async |duty: String| engines.claim(&seat.address, seat.incarnation, &duty, proxy, CLAIM).await;
        let own = claim("own".to_owned()).await?;
        // Who cannot reach a peer leaves its stream to others.
        let peers: Vec<RegionId> = {
            let links = self.shard.links.borrow();
            links
                .iter()
                .filter(|(id, row)| id.0 != config.region.id && row.link.connected)
                .map(|(id, _)| *id)
                .collect()
        };
        let claims = join_all(peers.iter().map(|peer| claim(format!("read:{}", peer.0)))).await;
        let mut duties = Vec::new();
        if own {
            duties.push(RegionId(config.region.id));
        }
        for (peer, claimed) in peers.into_iter().zip(claims) {
            if claimed? {
                duties.push(peer);
            }
        }
        self.own_duty = own;
        self.shard.duties.send_if_modified(|old| {
            let changed = *old != duties;
            *old = duties;
            changed
        });
        Ok(())
    }

    async fn heartbeat(&mut self, seat: &Seat, identity: &Identity) -> Result<(), EngineError> {
        let config = self.hub.config();
        let Some(shard) = config.shards.iter().find(|s| s.shard == self.shard.id.0) else { return Ok(()) };
        self.members.configure(shard.members.iter().map(String::as_str));
        let engines = &self.hub.engines;
        let others = shard.members.iter().filter(|m| **m != seat.address);
        let ask = others.map(|address| async move {
            let word = tokio::time::timeout(MEMBER_LIMIT, engines.cover(address)).await;
            Some((address, word.ok()?.ok()?))
        });
        for (address, word) in join_all(ask).await.into_iter().flatten() {
            self.members.heard(address, &word);
        }
        // The master last: its cover includes all that the others have, and its clock all stamps in them.
        let word = engines.cover(&seat.address).await?;
        if word.incarnation != seat.incarnation {
            return Ok(());
        }
        self.members.heard(&seat.address, &word);
        let durable = self.members.durable(&word, shard.fsync_always);
        let region = RegionId(config.region.id);
        self.seal(seat, identity, &word, &durable);
        let record = build_heartbeat(new_id(), region, self.shard.id, seat.epoch, &word, durable);
        self.hub.publish_heartbeat(&self.shard, &record);
        Ok(())
    }

    /// Says that nothing more of an ended incarnation counts, once that is so.
    fn seal(&mut self, seat: &Seat, identity: &Identity, word: &Word, durable: &Durable) {
        let own = word.cover.sealed().next().is_some();
        if !seat.recovered || (word.ended.is_empty() && !own) {
            return;
        }
        let config = self.hub.config();
        self.hub.want_beats.send_if_modified(|want| !std::mem::replace(want, true));
        let holds = identity.outbox_first.iter().any(|(of, _)| *of != seat.incarnation)
            || self.shard.batcher.borrow().holds_other_than(seat.incarnation);
        let sealed = {
            let acks = self.shard.acks.borrow();
            let peers: Vec<_> =
                config.peers.iter().map(|peer| acks.peer_cover(RegionId(peer.region.id))).collect();
            let facts = Facts {
                region: self.hub.region(),
                ended: &word.ended,
                cover: &word.cover,
                durable: &durable.cover,
                settled: !holds && self.members.all_follow(seat.incarnation),
                peers: &peers,
            };
            self.sealing.step(facts, self.hub.now_ms())
        };
        if let Some(incarnation) = sealed {
            tracing::info!(shard = self.shard.id.0, %incarnation, "an ended incarnation is sealed");
            let origin = Origin { region: self.hub.region(), incarnation: seat.incarnation };
            let body = Body::Sealed(incarnation);
            let record = Record { id: new_id(), shard: self.shard.id, origin, body };
            self.shard.batcher.borrow_mut().push_seal(&record);
            self.hub.pump.notify_one();
        }
    }

    async fn recover(&mut self, seat: &Seat, identity: &Identity) -> Result<(), EngineError> {
        if seat.recovered {
            self.recovery = None;
            return Ok(());
        }
        let now_ms = self.hub.now_ms();
        let recovery = match &mut self.recovery {
            Some(recovery) if recovery.incarnation() == seat.incarnation => recovery,
            other => other.insert(Recovery::new(seat.incarnation, now_ms)),
        };
        let old_in_outbox = identity.outbox_first.iter().any(|(of, _)| *of != seat.incarnation);
        let own = self.shard.own.get();
        let seen = Observed {
            serving: seat.serving,
            recovered: seat.recovered,
            online: self.shard.batcher.borrow().is_online(),
            old_effects: old_in_outbox || self.shard.batcher.borrow().holds_other_than(seat.incarnation),
            merged_nonce: own.merged_nonce,
            progress: self.shard.progress.get(),
            clock: own.clock,
        };
        let action = recovery.step(seen, now_ms, new_id());
        if action != Action::Wait {
            tracing::debug!(shard = self.shard.id.0, ?action, ?seen, "recovery");
        }
        match action {
            Action::Wait | Action::Done => {}
            Action::Sweep => self.sweep_once(seat, Duration::ZERO).await?,
            Action::PublishNonce(nonce) => {
                let origin = Origin { region: self.hub.region(), incarnation: seat.incarnation };
                let record = Record { id: new_id(), shard: self.shard.id, origin, body: Body::Nonce(nonce) };
                self.shard.batcher.borrow_mut().push_nonce(&record);
                self.hub.pump.notify_one();
            }
            Action::ServeFull(clock) => {
                self.hub.engines.serve(&seat.address, seat.incarnation, true, clock).await?;
                tracing::info!(shard = self.shard.id.0, incarnation = %seat.incarnation, "recovered");
                self.shard.seat.send_replace(Some(Seat { serving: true, recovered: true, ..seat.clone() }));
                self.hub.wiring.ask_again.notify_one();
            }
            Action::ServeDegraded => {
                let zero = mas_core::stamp::Hlc::ZERO;
                self.hub.engines.serve(&seat.address, seat.incarnation, false, zero).await?;
                tracing::warn!(shard = self.shard.id.0, "serving without the broker's word");
                self.hub.wiring.ask_again.notify_one();
            }
        }
        Ok(())
    }

    async fn sweep(&mut self, seat: &Seat, identity: &Identity) -> Result<(), EngineError> {
        let now_ms = self.hub.now_ms();
        if now_ms < self.swept_ms || identity.outbox_effects == 0 || !self.shard.batcher.borrow().is_online()
        {
            return Ok(());
        }
        self.swept_ms = now_ms + SWEEP_MS + rand::rng().random_range(0..SWEEP_MS / 2);
        self.sweep_once(seat, SWEEP_AGE).await
    }

    async fn sweep_once(&mut self, seat: &Seat, min_age: Duration) -> Result<(), EngineError> {
        if !self.shard.batcher.borrow().has_room(SWEEP_BYTES) {
            return Ok(());
        }
        let engines = &self.hub.engines;
        let effects = engines
            .outbox(&seat.address, seat.incarnation, self.hub.proxy, min_age, SWEEP_BYTES, SWEEP_CLAIM)
            .await?;
        let full = effects.iter().map(|(.., e)| e.len()).sum::<usize>() >= SWEEP_BYTES / 2
            || effects.len() >= SWEEP_EFFECTS_MAX;
        if effects.is_empty() {
            return Ok(());
        }
        if full {
            // The rest soon.
            self.swept_ms = 0;
        }
        let mut taken = 0;
        let mut batcher = self.shard.batcher.borrow_mut();
        for (incarnation, seq, effect) in effects {
            if batcher.push(incarnation, seq, effect) == mas_core::replication::batcher::Pushed::Taken {
                taken += 1;
            }
        }
        drop(batcher);
        self.hub.metrics.swept_effects.get_or_create(&Metrics::of(self.shard.id)).inc_by(taken);
        self.hub.pump.notify_one();
        Ok(())
    }
}

/// Tells the engine what was confirmed, gathered over a few milliseconds. What is lost on the way is swept, published
/// and confirmed once more.
pub(crate) async fn trim(hub: Rc<Hub>, shard: Rc<Shard>) {
    loop {
        shard.trim.notified().await;
        tokio::time::sleep(TRIM_GATHER).await;
        let trims = shard.batcher.borrow_mut().take_trims();
        let Some(seat) = shard.seat() else { continue };
        for (origin, ranges) in trims {
            for some in ranges.chunks(TRIM_RANGES_MAX) {
                if let Err(error) = hub.engines.trim(&seat.address, seat.incarnation, origin, some).await {
                    tracing::debug!(shard = shard.id.0, %error, "confirmed effects stay in the outbox for now");
                }
            }
        }
    }
}
