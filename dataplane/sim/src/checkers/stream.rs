//! What every region's streams ever held.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mas_core::record::{Body, Record};
use mas_core::wire::peek_effect;

use super::Judge;
use super::ledger::covers;
use crate::engine::Engine;

/// Effects of a shard that its region's stream has confirmed.
#[derive(Default)]
pub(super) struct Logged {
    effects: BTreeSet<(u64, u64)>,
    /// In their order.
    pub(super) order: Vec<(u64, u64)>,
    parts: BTreeMap<(u64, u64), BTreeSet<u32>>,
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
    pub(crate) fn logged(&self, region: u16, shard: u16, record: &Bytes) {
        let Ok(record) = Record::decode(record.clone()) else {
            self.violate("stream", format!("region {region} published what is no record"));
            return;
        };
        let incarnation = record.origin.incarnation.0;
        let mut state = self.state.borrow_mut();
        let logged = state.logged.entry((region, shard)).or_default();
        match record.body {
            Body::Effects(effects) => {
                for effect in effects {
                    if let Ok((seq, _)) = peek_effect(&effect) {
                        logged.add(incarnation, seq);
                    }
                }
            }
            Body::Part { seq, index, count, .. } => {
                let parts = logged.parts.entry((incarnation, seq)).or_default();
                parts.insert(index);
                if parts.len() == count as usize {
                    logged.add(incarnation, seq);
                }
            }
            Body::Heartbeat(_) | Body::Nonce(_) => {}
        }
    }

    /// An engine serves; `full`: it says that it has read its own stream back.
    pub(crate) fn serves(&self, engine: &Engine, full: bool) {
        // What was in a stream that is lost cannot be read back.
        if !full || self.lossy {
            return;
        }
        self.checked("recovery");
        let (cover, incarnation) = engine.look(|s, _| (s.cover(), s.identity().incarnation.0));
        let state = self.state.borrow();
        let count = state.logged_before.get(&incarnation).copied().unwrap_or(0);
        let logged = state.logged.get(&(engine.region, engine.shard));
        let lacks = logged.and_then(|logged| {
            let mut before = logged.order.iter().take(count);
            before.find(|(incarnation, seq)| !covers(&cover, (engine.region, *incarnation, *seq))).copied()
        });
        drop(state);
        if let Some((incarnation, seq)) = lacks {
            self.violate(
                "recovery",
                format!("{} serves without effect {seq} of {incarnation:016x}, which its own stream had", engine.node.name),
            );
        }
    }
}
