//! Digests are what they say: equal for copies with equal covers, whatever each has forgotten; and kept up to date as
//! counting anew would have it.

use std::collections::BTreeSet;
use std::rc::Rc;

use mas_core::shard::Shard;
use mas_core::slot::{SLOTS, slot_of};

use super::Judge;
use crate::engine::Engine;

/// The digests of these slots, of all that expires after `beyond_ms`.
fn digests(shard: &Shard, slots: &[u16], beyond_ms: u64) -> Vec<u64> {
    slots.iter().map(|slot| shard.table().digest(*slot, beyond_ms)).collect()
}

/// A slot whose digest is not what counting anew gives.
fn wrong_slot(shard: &Shard, slots: &[u16]) -> Option<u16> {
    let table = shard.table();
    slots
        .iter()
        .copied()
        .find(|slot| [0, u64::MAX].iter().any(|b| table.digest(*slot, *b) != table.recount(*slot, *b)))
}

impl Judge {
    /// The slots that clients write to.
    fn slots_of(&self, shard: u16) -> Vec<u16> {
        let state = self.state.borrow();
        let slots: BTreeSet<u16> = state.ledger.keys(shard).map(|key| slot_of(key)).collect();
        slots.into_iter().collect()
    }

    /// Copies of this engine's shard, at any moment.
    pub(crate) fn digests(&self, shard: u16) {
        let engines: Vec<Rc<Engine>> =
            self.engines.borrow().iter().filter_map(std::rc::Weak::upgrade).collect();
        let copies = engines.into_iter().filter(|e| e.shard == shard && e.node.is_up() && !e.is_loading());
        // State that is being fetched is beyond the cover until all of it is here.
        let copies: Vec<_> = copies.filter(|e| e.look(|s, _| s.transfer().is_none())).collect();
        self.check_digests(&copies, &self.slots_of(shard));
    }

    /// The last look, at all slots.
    pub(super) fn all_digests(&self, copies: &[Rc<Engine>]) {
        self.check_digests(copies, &(0..SLOTS).collect::<Vec<_>>());
    }

    fn check_digests(&self, copies: &[Rc<Engine>], slots: &[u16]) {
        // What had expired by then may be forgotten by some.
        let forgotten = copies.iter().map(|e| e.look(|s, _| s.table().expired().millis()));
        let beyond_ms = forgotten.max().unwrap_or(0);
        let all: Vec<_> =
            copies.iter().map(|e| (e, e.look(|s, _| (s.cover(), digests(s, slots, beyond_ms))))).collect();
        for (at, (one, (cover, mine))) in all.iter().enumerate() {
            self.checked("digest");
            if let Some(slot) = one.look(|s, _| wrong_slot(s, slots)) {
                let text = format!("{}: the digest of slot {slot} is not what it holds", one.node.name);
                self.violate("digest", text);
                return;
            }
            for (other, (theirs, digests)) in &all[at + 1..] {
                if cover != theirs {
                    continue;
                }
                self.checked("equal digests");
                if mine != digests {
                    let slot = (0..slots.len()).find(|at| mine[*at] != digests[*at]).map(|at| slots[at]);
                    self.violate(
                        "digest",
                        format!(
                            "{} and {} have equal covers, and different digests of slot {slot:?} beyond {beyond_ms}: {:?} and {:?}",
                            one.node.name,
                            other.node.name,
                            slot.map(|slot| one.look(|s, _| keys_of(s, slot))),
                            slot.map(|slot| other.look(|s, _| keys_of(s, slot))),
                        ),
                    );
                    return;
                }
            }
        }
    }

    /// What was loaded has the digests of what was saved.
    pub(super) fn loaded_digests(&self, saved: &Shard, loaded: &Shard, shard: u16) -> bool {
        let slots = self.slots_of(shard);
        wrong_slot(loaded, &slots).is_none() && digests(saved, &slots, 0) == digests(loaded, &slots, 0)
    }
}

/// For the text of a violation.
fn keys_of(shard: &Shard, slot: u16) -> Vec<String> {
    let named = shard.table().rich_entries().filter(|(key, _)| slot_of(key) == slot);
    named.map(|(key, meta)| format!("{}: {meta:?}", String::from_utf8_lossy(key))).collect()
}
