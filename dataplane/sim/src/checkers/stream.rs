//! What every region's streams ever held.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mas_core::cover::Cover;
use mas_core::record::{Body, Record};
use mas_core::shard::Position;
use mas_core::wire::peek_effect;

use super::Judge;
use super::ledger::done_with;
use crate::engine::Engine;

/// Effects of a shard that its region's stream has confirmed.
#[derive(Default)]
pub(super) struct Logged {
    effects: BTreeSet<(u64, u64)>,
    /// In their order.
    pub(super) order: Vec<(u64, u64)>,
    parts: BTreeMap<(u64, u64), BTreeSet<u32>>,
    /// What each record holds, by its offset. (After a lost stream offsets begin anew; nobody looks then.)
    records: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Logged {
    pub(super) fn has(&self, incarnation: u64, seq: u64) -> bool {
        self.effects.contains(&(incarnation, seq))
    }

    fn add(&mut self, incarnation: u64, seq: u64) {
        if self.effects.insert((incarnation, seq)) {
            self.order.push((incarnation, seq));
        }
    }
}

impl Judge {
    /// A record was confirmed, or stayed although it was not.
    pub(crate) fn logged(&self, region: u16, shard: u16, offset: u64, record: &Bytes) {
        let Ok(record) = Record::decode(record.clone()) else {
            self.violate("stream", format!("region {region} published what is no record"));
            return;
        };
        let incarnation = record.origin.incarnation.0;
        let mut state = self.state.borrow_mut();
        let logged = state.logged.entry((region, shard)).or_default();
        let mut names = Vec::new();
        match record.body {
            Body::Effects(effects) => {
                for effect in effects {
                    if let Ok((seq, _)) = peek_effect(&effect) {
                        logged.add(incarnation, seq);
                        names.push((incarnation, seq));
                    }
                }
            }
            Body::Part { seq, index, count, .. } => {
                let parts = logged.parts.entry((incarnation, seq)).or_default();
                parts.insert(index);
                names.push((incarnation, seq));
                if parts.len() == count as usize {
                    logged.add(incarnation, seq);
                }
            }
            Body::Heartbeat(_) | Body::Nonce(_) | Body::Sealed(_) | Body::Want(_) | Body::State(_) => {}
        }
        logged.records.insert(offset, names);
    }

    /// Before it serves, a new master has published what it still held of the incarnations before.
    fn published_before(&self, engine: &Engine) {
        let unpublished = engine.look(|shard, _| {
            let state = self.state.borrow();
            let logged = state.logged.get(&(engine.region, engine.shard));
            let live = shard.identity().incarnation;
            let mut old = shard.outbox().iter().filter(|(incarnation, ..)| *incarnation != live);
            old.find(|(incarnation, seq, _)| logged.is_none_or(|l| !l.has(incarnation.0, *seq)))
                .map(|(incarnation, seq, _)| (incarnation, seq))
        });
        if let Some((incarnation, seq)) = unpublished {
            self.violate(
                "recovery",
                format!("{} serves and has not published effect {seq} of {incarnation}", engine.node.name),
            );
        }
    }

    /// A position moved: it never passes what is not wholly in the cover.
    pub(super) fn position(
        &self,
        engine: &Engine,
        region: u16,
        cover: &Cover,
        from: Option<Position>,
        to: Option<Position>,
    ) {
        // In a log that was truncated or lost it passes what nobody can read any more.
        if self.lossy || from == to {
            return;
        }
        self.checked("position");
        let state = self.state.borrow();
        let Some(logged) = state.logged.get(&(region, engine.shard)) else { return };
        let start = Position::default();
        let (from, to) = (from.filter(|at| *at != start), to.filter(|at| *at != start));
        let (first, Some(to)) = (from.map_or(0, |at| at.offset + 1), to) else { return };
        let passed = logged.records.range(first..first.max(to.offset + 1));
        let lacks =
            passed.flat_map(|(_, names)| names).find(|(inc, seq)| !done_with(cover, (region, *inc, *seq)));
        let lacks = lacks.copied();
        drop(state);
        if let Some((incarnation, seq)) = lacks {
            self.violate(
                "position",
                format!(
                    "{} goes on after effect {seq} of {incarnation:016x}, which it lacks",
                    engine.node.name
                ),
            );
        }
    }

    /// An engine serves; `full`: it says that it has read its own stream back.
    pub(crate) fn serves(&self, engine: &Engine, full: bool) {
        if !full {
            return;
        }
        self.checked("recovery");
        self.published_before(engine);
        // What was in a stream that is lost cannot be read back.
        if self.lossy {
            return;
        }
        let (cover, incarnation) = engine.look(|s, _| (s.cover(), s.identity().incarnation.0));
        let state = self.state.borrow();
        let count = state.logged_before.get(&incarnation).copied().unwrap_or(0);
        let logged = state.logged.get(&(engine.region, engine.shard));
        let lacks = logged.and_then(|logged| {
            let mut before = logged.order.iter().take(count);
            before.find(|(incarnation, seq)| !done_with(&cover, (engine.region, *incarnation, *seq))).copied()
        });
        drop(state);
        if let Some((incarnation, seq)) = lacks {
            self.violate(
                "recovery",
                format!(
                    "{} serves without effect {seq} of {incarnation:016x}, which its own stream had",
                    engine.node.name
                ),
            );
        }
    }
}
