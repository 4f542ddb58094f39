//! What was promised to clients: at the moment of the answer, and at the end.

use std::rc::Rc;

use super::Judge;
use super::ledger::{Name, covers};
use crate::engine::Engine;
use crate::engine::commands::Reply;
use crate::proxy::front::{Answered, Written};
use crate::workload::Command;

/// A write that was answered.
pub(super) struct Acknowledged {
    pub(super) number: usize,
    pub(super) shard: u16,
    pub(super) name: Name,
    pub(super) level: Answered,
}

impl Judge {
    /// A client is told that its write has reached a level.
    #[allow(clippy::too_many_arguments)] // what was asked, where, and all of the answer
    pub(crate) fn answered(
        &self,
        engines: &[Rc<Engine>],
        (region, shard, number): (u16, u16, usize),
        command: &Command,
        reply: &Reply,
        note: &Written,
        level: Answered,
    ) {
        self.checked("acknowledgement");
        let name = (region, note.incarnation.0, note.seq);
        let names = || {
            let first = if note.effect { note.seq } else { 1 };
            (first..=note.seq).map(|seq| (region, note.incarnation.0, seq))
        };
        let what = format!("operation #{number} ({command:?} -> {reply:?})");
        match level {
            Answered::Local => {}
            // Nothing was issued before: there is nothing to wait for.
            _ if note.seq == 0 => {}
            Answered::Queued => {
                let state = self.state.borrow();
                let logged = state.logged.get(&(region, shard));
                let lacks = names().find(|n| logged.is_none_or(|l| !l.has(n.1, n.2)));
                drop(state);
                if let Some(lacks) = lacks {
                    self.violate(
                        "acknowledgement",
                        format!("{what} was answered Queued, the stream lacks {lacks:?}"),
                    );
                }
            }
            Answered::Remote(n) => {
                let mut regions: Vec<u16> =
                    engines.iter().map(|e| e.region).filter(|r| *r != region).collect();
                regions.dedup();
                let durable = |other: &u16| {
                    let mut members = engines.iter().filter(|e| e.region == *other && e.shard == shard);
                    members.all(|member| names().all(|name| self.held(member, name)))
                };
                let have = regions.iter().filter(|r| durable(r)).count();
                if have < usize::from(n) {
                    self.violate(
                        "acknowledgement",
                        format!("{what} was answered Remote({n}), {have} regions have it"),
                    );
                }
            }
        }
        if note.effect {
            let mut state = self.state.borrow_mut();
            state.acknowledged.push(Acknowledged { number, shard, name, level });
        }
    }

    /// A heartbeat was heard: one of a superseded master changes nothing.
    pub(crate) fn heard(&self, superseded: bool, before: u16, after: u16) {
        self.checked("heartbeat");
        if superseded && before != after {
            self.violate(
                "heartbeat",
                format!("a superseded master's word counts: {before} regions, then {after}"),
            );
        }
    }

    /// Whether a member has an effect, or had it before it lost something.
    fn held(&self, member: &Engine, name: Name) -> bool {
        let has = member.look(|shard, _| covers(&shard.cover(), name));
        let state = self.state.borrow();
        has || state
            .held
            .get(&(member.region, member.shard, member.member))
            .is_some_and(|held| held.contains(&name))
    }
}
