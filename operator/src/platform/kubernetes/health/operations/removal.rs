//! A region leaves: what [`mas_core::procedures::removal`] looks at in a cluster, and what it decides. The identity record says how far it
//! is, and is read anew for every look. Its pods are left as they are until it is no member any more; it is settled by fencing its engines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::StoreOperation;
use futures_util::future::join_all;
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::{self, Operation};
use mas_core::procedures::removal::{Action, LEFT_MS, Member, Observed, PAUSE_MS, STEPS, Shard};
use mas_core::stamp::RegionId;
use tokio::time::timeout;

use super::gone::{Declared, Subject, subject};
use super::ground::are_told;
use super::{CALL, Held, RegionHandle, Runner, ShardHandle, WRITTEN_EVERY};
use crate::health::engine::Answer;
use crate::health::member::{Phase, Process as _};
use crate::health::status::is_away;
use crate::operations::removal::{look_at_copies, master_first};
use crate::operations::scale_out::{ActionError, AsEngine};
use crate::operations::{names, now_ms, restore};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::identity::{Identity, Removing};
use crate::platform::kubernetes::labels;
use crate::procedures::identity::EngineState;
use crate::procedures::shard::Seen;

/// What is to become of an operation, by the identity record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its region leaves, and is so far; `None`: it is no member any more, and all of it goes.
    Goes(Option<Removing>),
    /// The manifest has the region again.
    Stays,
    /// The record is older than the operation.
    Unknown,
}

fn fate(identity: &Identity, id: u16) -> Fate {
    match identity.regions.iter().find(|region| region.id == id) {
        Some(region) if region.leaving => Fate::Goes(None),
        Some(region) => region.removing.map_or(Fate::Stays, |state| Fate::Goes(Some(state))),
        None if id < identity.next_region_id => Fate::Goes(None),
        None => Fate::Unknown,
    }
}

pub(super) fn platform(error: impl std::fmt::Display) -> ActionError {
    ActionError::Platform(error.to_string())
}

impl Runner {
    /// Lets the controllers of regions that leave act until these are settled. Whatever the manifest says meanwhile, their shards are
    /// served until then.
    pub(super) async fn hold_gates(&self) {
        if !self.regions.iter().any(|region| region.removing) {
            return;
        }
        // As they were, if nobody knows.
        let Ok((identity, _)) = self.identity.read().await else { return };
        // What tasks before these ones have sent may still arrive.
        let sure = self.begun.elapsed() >= CALL;
        for region in self.regions.iter().filter(|region| region.removing) {
            let acts = match fate(&identity, region.id) {
                Fate::Goes(Some(Removing::Draining)) | Fate::Stays => true,
                Fate::Goes(Some(Removing::Settled | Removing::Forgotten) | None) | Fate::Unknown => false,
            };
            region.set_gates(acts && sure && identity.founded.is_some());
        }
    }

    /// One look at the operation by which a region leaves; whether it is under way. `first`: another one that is.
    pub(super) async fn removal(
        &self,
        checked: &Checked,
        object: &StoreOperation,
        held: &mut Held,
        first: Option<&str>,
    ) -> Result<bool, ActionError> {
        let (identity, _) = self.identity.read().await.map_err(platform)?;
        let status = object.status.clone().unwrap_or_default();
        let mut operation = restore(&status);
        let name = object.name_any();
        let id = match object.labels().get(labels::REGION_ID).map(|id| id.parse()) {
            Some(Ok(id)) => match self.declared_by(&identity, id) {
                // A person's operation goes on with it.
                Some(Declared::Yes(by)) => {
                    self.wait_for(object, held, &by).await?;
                    return Ok(false);
                }
                Some(Declared::NoMore) => {
                    let written = self.identity.update(|identity| identity.retract_gone(id)).await;
                    written.map_err(platform)?;
                    self.want_round();
                    return Ok(true);
                }
                None => id,
            },
            Some(Err(_)) => return Ok(false),
            None if operation.phase == operation::Phase::RolledBack => return Ok(false),
            None => {
                match subject(&identity, &name, &object.spec, operation.phase == operation::Phase::Running) {
                    Subject::Region(id) => id,
                    // No region has this id.
                    Subject::Gone => 0,
                    Subject::Declare(id) => {
                        let written = self.identity.update(|identity| identity.declare_gone(id, &name)).await;
                        written.map_err(platform)?;
                        self.want_round();
                        return Ok(true);
                    }
                    Subject::Refused(why) => {
                        if operation.phase != operation::Phase::Failed
                            || status.attempt != object.spec.attempt
                        {
                            operation.moved_at = now_ms();
                            operation.end(operation::Phase::Failed, why);
                            self.keep(object, held, &operation).await?;
                        }
                        return Ok(false);
                    }
                }
            }
        };
        match fate(&identity, id) {
            Fate::Unknown => Ok(false),
            Fate::Stays if operation.phase == operation::Phase::RolledBack => Ok(false),
            Fate::Stays => {
                operation.moved_at = now_ms();
                let words = "the manifest has the region again: it stays";
                operation.end(operation::Phase::RolledBack, words.into());
                self.keep(object, held, &operation).await?;
                Ok(false)
            }
            Fate::Goes(state) => {
                let tried_again = status.attempt != object.spec.attempt;
                match operation.phase {
                    // It was kept, and is sent off again.
                    operation::Phase::RolledBack => operation.retry(),
                    // What has gone otherwise, has gone.
                    operation::Phase::Failed if tried_again || state.is_none() => operation.retry(),
                    operation::Phase::Failed | operation::Phase::Succeeded => return Ok(false),
                    operation::Phase::Pending | operation::Phase::Running => {}
                }
                if let Some(first) = first {
                    self.wait_for(object, held, first).await?;
                    return Ok(false);
                }
                self.remove_step(checked, &identity, (id, state), object, held, &operation).await
            }
        }
    }

    async fn remove_step(
        &self,
        checked: &Checked,
        identity: &Identity,
        (id, state): (u16, Option<Removing>),
        object: &StoreOperation,
        held: &mut Held,
        operation: &Operation,
    ) -> Result<bool, ActionError> {
        let looked = Instant::now();
        let region = self.regions.iter().find(|of| of.id == id && of.removing);
        let counts = matches!(state, Some(Removing::Draining | Removing::Settled));
        if counts && region.is_none() {
            return Ok(true); // these tasks are of another picture of the store, and end soon
        }
        let gone = identity.regions.iter().any(|known| known.id == id && known.gone.is_some());
        if let Some(region) = region.filter(|of| state == Some(Removing::Settled) && of.may_act()) {
            // It was settled since this look began, by a write that was given up: nobody may act before it is looked at.
            region.set_gates(false);
            return Ok(true);
        }
        let runs = match region {
            // What answers of one that is gone holds it back all the same.
            Some(region) if state == Some(Removing::Settled) && !gone => self.runs(region).await,
            Some(_) | None => false,
        };
        if runs {
            // Nobody has promoted it; but if somebody has, it may have taken writes.
            tracing::warn!(
                operation = object.name_any(),
                "an engine that was fenced is not: it is settled again"
            );
            self.set_removing(id, Removing::Draining).await?;
            return Ok(true);
        }
        let world = self.observe_leaver(checked, identity, id, state, region).await;
        let mut next = operation.clone();
        let actions = next.advance(&STEPS, &world, now_ms());
        let reason = |of: &Operation| of.blocked.as_ref().map(|blocked| blocked.0.reason);
        let moved =
            (operation.phase, operation.step, reason(operation)) != (next.phase, next.step, reason(&next));
        let due = held.at.is_none_or(|at| at.elapsed() > WRITTEN_EVERY);
        if moved || due {
            self.keep(object, held, &next).await?;
        }
        if moved {
            let step = names(object.spec.kind).get(next.step).copied();
            let name = object.name_any();
            tracing::info!(operation = name, phase = ?next.phase, step, why = next.message, "operation");
        }
        self.tell_obstacle(object, held, &next).await;
        for action in &actions {
            tracing::info!(operation = object.name_any(), ?action, "acting");
            match (action, region) {
                (Action::Stop, Some(region)) if world.gone => {
                    self.measure_loss(object, held, &next, &world, region).await?;
                    self.abandon(region).await?;
                }
                _ => self.remove(id, region, action, looked).await?,
            }
        }
        Ok(!next.phase.is_final())
    }

    async fn observe_leaver(
        &self,
        checked: &Checked,
        identity: &Identity,
        id: u16,
        state: Option<Removing>,
        region: Option<&RegionHandle>,
    ) -> Observed {
        let shards = region.map(|region| region.shards.iter().map(look_at_leaver)).into_iter().flatten();
        let shards = join_all(shards).await;
        // After the region's own shards: what these have, the others may have got meanwhile, but not the other way round.
        let members = self.regions.iter().filter(|of| of.id != id && !of.joining);
        let members = members.map(|member| self.look_at_stayer(checked, identity, member));
        Observed {
            region: RegionId(id),
            away: region.is_some_and(|region| is_away(self.shards, &Self::reports(region))),
            gone: identity.regions.iter().any(|known| known.id == id && known.gone.is_some()),
            answers: region.and_then(|region| self.who_answers(region)),
            shards,
            settled: state == Some(Removing::Settled),
            runs: false,
            members: join_all(members).await,
            forgotten: matches!(state, Some(Removing::Forgotten) | None),
            membership: identity.membership,
            deleted: !identity.regions.iter().any(|of| of.id == id),
        }
    }

    async fn look_at_stayer(&self, checked: &Checked, identity: &Identity, member: &RegionHandle) -> Member {
        let generation = build::proxy_generation(checked, &member.name)
            // What the last round has told may be older than what counts now.
            .filter(|_| checked.identity.membership >= identity.membership);
        let shards = member.shards.iter().map(|shard| async move { look_at_copies(&shard.copies()).await });
        Member {
            name: member.name.clone(),
            told: generation.is_some_and(|generation| are_told(&Self::reports(member), generation)),
            shards: join_all(shards).await,
        }
    }

    async fn remove(
        &self,
        id: u16,
        region: Option<&RegionHandle>,
        action: &Action,
        looked: Instant,
    ) -> Result<(), ActionError> {
        match (action, region) {
            (Action::Pause { shard }, Some(region)) => {
                let Some(engine) = region.shards.get(*shard).and_then(ShardHandle::master) else {
                    return Ok(());
                };
                let Answer::Identity { identity, .. } = engine.engine().ask().await? else { return Ok(()) };
                Ok(engine.engine().pause(&identity.incarnation, PAUSE_MS).await?)
            }
            (Action::Stop, Some(region)) => self.settle(region, looked).await,
            (Action::Pause { .. } | Action::Stop, None) => Ok(()),
            (Action::Forget, _) => {
                self.set_removing(id, Removing::Forgotten).await?;
                self.want_round();
                Ok(())
            }
            (Action::Delete, _) => {
                let written = self.identity.update(|identity| identity.let_go(id)).await;
                written.map_err(platform)?;
                self.want_round();
                Ok(())
            }
        }
    }

    pub(super) async fn set_removing(&self, id: u16, to: Removing) -> Result<(), ActionError> {
        self.identity.update(|identity| identity.set_removing(id, to)).await.map_err(platform)
    }

    /// Fences the region's engines while nobody promotes any, and keeps that. When it fails, or comes too late, the next look lets the
    /// controllers act again.
    async fn settle(&self, region: &RegionHandle, looked: Instant) -> Result<(), ActionError> {
        let left = |looked: Instant| Duration::from_millis(LEFT_MS).checked_sub(looked.elapsed());
        let late = || platform("fencing its engines took longer than their pause");
        region.set_gates(false);
        let rest = join_all(region.shards.iter().map(ShardHandle::rests));
        timeout(left(looked).ok_or_else(late)?, rest).await.map_err(|_| late())?;
        let members = region
            .shards
            .iter()
            .flat_map(|shard| (0..shard.members.len()).map(|number| self.fence(shard, number)));
        for fenced in join_all(members).await {
            fenced?;
        }
        left(looked).ok_or_else(late)?;
        self.set_removing(region.id, Removing::Settled).await
    }

    async fn fence(&self, shard: &ShardHandle, number: usize) -> Result<(), ActionError> {
        // What does not run begins fenced.
        if shard.process(&self.shared, &self.namespace, number).phase() == Phase::Running {
            shard.members[number].engine.fence().await?;
        }
        Ok(())
    }

    /// Whether any engine of a region that was settled is not fenced. One that does not answer was, and is.
    async fn runs(&self, region: &RegionHandle) -> bool {
        let engines = region.shards.iter().flat_map(|shard| &shard.members);
        let answers = join_all(engines.map(|member| member.engine.ask())).await;
        let fenced = |answer: &Answer| match answer {
            Answer::Loading => true,
            Answer::Identity { identity, .. } => identity.state == EngineState::Fenced,
        };
        answers.iter().flatten().any(|answer| !fenced(answer))
    }
}

impl RegionHandle {
    /// Whether the controller of any of its shards may act.
    fn may_act(&self) -> bool {
        self.shards.iter().any(|shard| *shard.gate.borrow())
    }

    /// Whether the controllers of its shards may act.
    pub(super) fn set_gates(&self, open: bool) {
        for shard in &self.shards {
            shard.gate.send_if_modified(|gate| std::mem::replace(gate, open) != open);
        }
    }
}

impl ShardHandle {
    fn master(&self) -> Option<Arc<dyn AsEngine>> {
        let master = self.view.borrow().master?;
        Some(Arc::clone(self.members.get(master)?) as Arc<dyn AsEngine>)
    }

    /// All of its engines, the master first; none where there is no master.
    fn copies(&self) -> Vec<Arc<dyn AsEngine>> {
        let members = self.members.iter().map(|member| Arc::clone(member) as Arc<dyn AsEngine>);
        master_first(members.collect(), self.view.borrow().master)
    }

    /// Waits until its controller, which may not act any more, has ended what it was at: the look that it was in the middle of, and one more.
    pub(super) async fn rests(&self) {
        let mut view = self.view.clone();
        for _ in 0..2 {
            view.mark_unchanged();
            // One that has ended does nothing either.
            if view.changed().await.is_err() {
                return;
            }
        }
    }
}

async fn look_at_leaver(of: &ShardHandle) -> Shard {
    let silent = of.view.borrow().members.iter().position(|seen| *seen == Seen::Silent);
    if let Some(silent) = silent {
        // It may have been master, and serve yet: that it is fenced has to be seen.
        let name = of.names.get(silent).cloned().unwrap_or_default();
        return Shard::Silent(format!("has a server that runs and does not answer ({name})"));
    }
    let Some(engine) = of.master() else { return Shard::Silent("has no master that answers".into()) };
    let engine = engine.engine();
    // How long the pause lasts is asked first: what it has at the second answer stays as it is for that long.
    match (engine.ask().await, engine.cover().await) {
        (Ok(Answer::Identity { identity, .. }), Ok(cover)) => {
            Shard::Runs { recovered: identity.recovered, paused_ms: identity.paused_ms, cover }
        }
        (Ok(Answer::Loading), _) => Shard::Silent("loads its data".into()),
        (Err(error), _) | (_, Err(error)) => Shard::Silent(format!("does not answer ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(regions: &str) -> crds::Validated {
        let kind = format!("apiVersion: {}\nkind: {}", crds::API_VERSION, crds::KIND);
        let spec = format!("spec: {{regions: [{regions}], broker: {{replicas: 1}}}}");
        crds::load(&format!("{kind}\nmetadata: {{name: shop}}\n{spec}\n")).unwrap()
    }

    #[test]
    fn the_identity_record_says_what_becomes_of_an_operation() {
        let two = store("{name: a}, {name: b}");
        let mut identity = Identity::new(&two);
        identity.founded = Some("now".into());
        assert_eq!((fate(&identity, 2), fate(&identity, 3)), (Fate::Stays, Fate::Unknown));
        identity.take_in(&store("{name: a}"), |_| true);
        assert_eq!(fate(&identity, 2), Fate::Goes(Some(Removing::Draining)));
        identity.take_in(&two, |_| true);
        assert_eq!(fate(&identity, 2), Fate::Stays);
        identity.take_in(&store("{name: a}"), |_| true);
        identity.set_removing(2, Removing::Forgotten);
        assert_eq!(fate(&identity, 2), Fate::Goes(Some(Removing::Forgotten)));
        identity.let_go(2);
        assert_eq!(fate(&identity, 2), Fate::Goes(None), "all of it goes");
        identity.forget(2);
        assert_eq!(fate(&identity, 2), Fate::Goes(None), "and has gone");
    }
}
