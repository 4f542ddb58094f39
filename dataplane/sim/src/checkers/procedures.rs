//! What a shard that joins or is rebuilt may do, and when: it serves nobody before it has all that the regions had acknowledged, and what it
//! shows is safe where it came from.

use std::collections::{BTreeMap, BTreeSet};

use mas_core::cover::Cover;
use mas_core::joining::Joining;
use mas_core::shard::Position;
use mas_core::stamp::{Incarnation, RegionId};

use super::Judge;
use super::ledger::{Name, covers, done_with, lacking, runs};
use crate::engine::Engine;
use crate::proxy::front::Answered;

/// How many writes had been acknowledged.
#[derive(Clone, Debug, Default)]
struct Stages {
    /// When the first copy had come: markers that were written since then count for one that another source sends, too.
    copied: Option<usize>,
    /// When it took an identity of its own.
    joined: usize,
    /// What it had then.
    brought: Cover,
}

/// See the module.
#[derive(Default)]
pub(super) struct Procedures {
    /// By region and shard.
    stages: BTreeMap<(u16, u16), Stages>,
    /// Incarnations that may not serve.
    closed: BTreeSet<u64>,
    /// A copy had effects that no stream had yet: if its source loses them, it has to fetch them from there.
    pub(super) had_more: bool,
}

impl Judge {
    fn acknowledged_so_far(&self) -> usize {
        self.state.borrow().acknowledged.len()
    }

    /// An engine has loaded a copy of another region's shard.
    pub(crate) fn copied(&self, engine: &Engine) {
        self.checked("copied");
        let so_far = self.acknowledged_so_far();
        let mut state = self.state.borrow_mut();
        let stages = state.procedures.stages.entry((engine.region, engine.shard)).or_default();
        stages.copied.get_or_insert(so_far);
    }

    /// A copy becomes a shard of its own. It had `cover` and `positions`.
    pub(crate) fn joins(&self, engine: &Engine, cover: &Cover, positions: &BTreeMap<RegionId, Position>) {
        self.checked("joins");
        let so_far = self.acknowledged_so_far();
        let at = (engine.region, engine.shard);
        let mut state = self.state.borrow_mut();
        let stages = state.procedures.stages.entry(at).or_default();
        stages.joined = so_far;
        stages.brought = cover.clone();
        let copied = stages.copied.take().unwrap_or_default();
        state.procedures.closed.insert(engine.look(|s, _| s.identity().incarnation.0));
        drop(state);
        let name = &engine.node.name;
        let (now, kept, outbox) =
            engine.look(|s, _| (s.cover(), s.positions() == positions, s.outbox().is_empty()));
        if let Some(lost) = lacking(cover, &now).next() {
            self.violate("procedure", format!("{name} loses {lost:?} as it takes an identity of its own"));
        }
        if !kept || !outbox {
            let what = if kept { "keeps its source's outbox" } else { "forgets where to go on reading" };
            self.violate("procedure", format!("{name} {what} as it takes an identity of its own"));
        }
        self.has_all(engine, copied, "takes an identity of its own");
        if let Some(joining) = engine.look(|s, _| s.joining().cloned()) {
            let has_more = self.only_there(engine, joining.source).is_some();
            self.state.borrow_mut().procedures.had_more |= has_more;
        }
    }

    /// Of what had been acknowledged by then, it has everything.
    fn has_all(&self, engine: &Engine, count: usize, what: &str) {
        // What was in a stream that is lost may be fetched later.
        if self.lossy {
            return;
        }
        let cover = engine.look(|s, _| s.cover());
        let state = self.state.borrow();
        let mut due = state.acknowledged[..count].iter();
        let lacks =
            due.find(|w| w.shard == engine.shard && w.level != Answered::Local && !done_with(&cover, w.name));
        let lacks = lacks.map(|w| (w.number, w.name));
        drop(state);
        if let Some((number, of)) = lacks {
            let name = &engine.node.name;
            self.violate("procedure", format!("{name} {what} without operation #{number} ({of:?})"));
        }
    }

    /// A shard may serve from now on.
    pub(crate) fn admitted(&self, engine: &Engine, joining: &Joining) {
        self.checked("admitted");
        let mut state = self.state.borrow_mut();
        let joined = state.procedures.stages.get(&(engine.region, engine.shard)).map_or(0, |s| s.joined);
        state.procedures.closed.remove(&engine.look(|s, _| s.identity().incarnation.0));
        drop(state);
        self.has_all(engine, joined, "may serve");
        self.is_grounded(engine, joining);
        self.is_counted(engine);
    }

    /// What it brought of its source is in the source's stream: a source that loses it would never publish it.
    fn is_grounded(&self, engine: &Engine, joining: &Joining) {
        if self.lossy {
            return;
        }
        // (What its source had lost, that may have fetched from it as state.)
        let engines: Vec<_> = self.engines.borrow().iter().filter_map(std::rc::Weak::upgrade).collect();
        let mut source = engines.iter().filter(|e| e.shard == engine.shard && e.region == joining.source.0);
        let Some(of) = self.only_there(engine, joining.source) else { return };
        if !source.any(|e| e.look(|s, _| done_with(&s.cover(), of))) {
            let name = &engine.node.name;
            self.violate("procedure", format!("{name} may serve {of:?}, which its source may lose"));
        }
    }

    /// An effect that a copy brought of its source's own, and that the source's stream has not.
    fn only_there(&self, engine: &Engine, source: RegionId) -> Option<Name> {
        let state = self.state.borrow();
        let logged = state.logged.get(&(source.0, engine.shard));
        let brought = &state.procedures.stages.get(&(engine.region, engine.shard))?.brought;
        let cover = engine.look(|s, _| s.cover());
        let of_source = runs(brought).filter(|run| run.0 == source.0);
        let mut all = of_source
            .flat_map(|(region, inc, first, last)| (first..=last).map(move |seq| (region, inc, seq)));
        all.find(|name| {
            let sealed = done_with(&cover, *name) && !covers(&cover, *name);
            !sealed && logged.is_none_or(|logged| !logged.has(name.1, name.2))
        })
    }

    /// Every region has been told that this one counts, before it serves.
    fn is_counted(&self, engine: &Engine) {
        let region = RegionId(engine.region);
        let engines: Vec<_> = self.engines.borrow().iter().filter_map(std::rc::Weak::upgrade).collect();
        let mut told: BTreeMap<u16, bool> = BTreeMap::new();
        for other in engines.iter().filter(|e| e.shard == engine.shard && e.region != engine.region) {
            let (serves, knows) = other.look(|s, _| {
                let own = s.identity().region.0 == other.region;
                (own, own && s.stability().members().contains(&region))
            });
            if serves {
                *told.entry(other.region).or_default() |= knows;
            }
        }
        if let Some((other, _)) = told.iter().find(|(_, knows)| !**knows) {
            let name = &engine.node.name;
            self.violate("procedure", format!("{name} may serve, and region {other} does not count it"));
        }
    }

    /// An incarnation has executed a command for a client.
    pub(crate) fn admits(&self, engine: &Engine, incarnation: Incarnation, joins: bool) {
        if joins || self.state.borrow().procedures.closed.contains(&incarnation.0) {
            self.violate("procedure", format!("{} serves before it may", engine.node.name));
        }
    }
}
