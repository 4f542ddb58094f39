//! What one session may rely on: it reads what it wrote, never something older than it has seen, and its writes come
//! after what it has seen; within one incarnation, and in another region after its token was covered there.
//! Looked at on keys that are only ever set.

use std::collections::BTreeMap;

use mas_core::replication::token::Token;
use mas_core::stamp::Incarnation;

use super::Judge;
use super::ledger::{St, covers, lacking};
use crate::engine::Engine;
use crate::engine::commands::Reply;
use crate::keyspace::Data;
use crate::proxy::front::Written;
use crate::proxy::tokens::Wrote;
use crate::workload::Command;

#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: St,
    /// Where this must be seen.
    by: Incarnation,
    wrote: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Seen {
    keys: BTreeMap<(u16, String), Known>,
}

impl Judge {
    /// A token names all that its session wrote.
    pub(crate) fn token(&self, region: u16, token: &Token, wrote: &[Wrote]) {
        self.checked("session");
        let named = |w: &Wrote| {
            let name = (region, w.incarnation.0, w.seq);
            token.shards.iter().any(|need| need.shard.0 == w.shard && covers(&need.cover, name))
        };
        if let Some(lost) = wrote.iter().find(|w| w.seq > 0 && !named(w)) {
            self.violate("session", format!("a token does not name what its session wrote: {lost:?}"));
        }
    }

    /// An engine is said to cover a token.
    pub(crate) fn covered(&self, engine: &Engine, token: &Token) {
        self.checked("session");
        let cover = engine.look(|shard, _| shard.cover());
        let lacks = token.shards.iter().filter(|need| need.shard.0 == engine.shard);
        let lacks = lacks.flat_map(|need| lacking(&need.cover, &cover)).next();
        if let Some(name) = lacks {
            self.violate(
                "session",
                format!("{} is said to cover a token, and lacks {name:?}", engine.node.name),
            );
        }
    }
}

impl Seen {
    /// A write was answered.
    pub(crate) fn wrote(&mut self, judge: &Judge, shard: u16, command: &Command, note: &Written) {
        let Command::Set { key, .. } = command else { return };
        if !key.starts_with('r') {
            return;
        }
        let Some(stamp) = judge.stamp_of(shard, note.incarnation, note.seq) else { return };
        let known = self.keys.get(&(shard, key.clone()));
        if let Some(known) = known.filter(|k| k.by == note.incarnation) {
            judge.checked("session");
            if known.stamp >= stamp {
                judge.violate(
                    "causality",
                    format!(
                        "a write of {key} at {stamp:?} comes before {:?}, which its session had seen",
                        known.stamp
                    ),
                );
            }
        }
        self.keys.insert((shard, key.clone()), Known { stamp, by: note.incarnation, wrote: true });
    }

    /// A read was answered by `by`.
    pub(crate) fn read(
        &mut self,
        judge: &Judge,
        shard: u16,
        command: &Command,
        reply: &Reply,
        by: Incarnation,
    ) {
        let Command::Get(key) = command else { return };
        if !key.starts_with('r') {
            return;
        }
        let stamp = match reply {
            Reply::Value(Some(Data::Str(value))) => {
                let text = &value[1..value.iter().position(|b| *b == b'.').unwrap_or(value.len())];
                let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
                number.and_then(|number| judge.stamp_of_number(number)).unwrap_or((0, 0, 0))
            }
            _ => judge.stamp_of_nothing(shard),
        };
        if let Some(known) = self.keys.get(&(shard, key.clone())).filter(|k| k.by == by) {
            judge.checked("session");
            if stamp < known.stamp {
                let what = if known.wrote { "wrote" } else { "had read" };
                judge.violate(
                    "session",
                    format!("{key} read at {stamp:?}, although the session {what} {:?}", known.stamp),
                );
            }
        }
        self.keys.insert((shard, key.clone()), Known { stamp, by, wrote: false });
    }

    /// The session went elsewhere with its token, which was taken from the incarnations `from`, and is covered by `to`.
    pub(crate) fn moved(&mut self, from: &[(u16, Incarnation)], to: &[(u16, Incarnation)]) {
        self.keys.retain(|(shard, _), known| {
            let held = known.wrote || from.contains(&(*shard, known.by));
            match to.iter().find(|(of, _)| of == shard) {
                Some((_, by)) if held => {
                    known.by = *by;
                    true
                }
                Some(_) | None => false,
            }
        });
    }
}
