//! Checks of single steps: what an engine issues, merges, shows, gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mas_core::cover::Cover;
use mas_core::meta::KeyMeta;
use mas_core::replication::heartbeat::Word;
use mas_core::replication::reader::{Merge, Reader};
use mas_core::shard::{Merged, Position, Shard};
use mas_core::slot::SLOTS;

use super::Judge;
use super::ledger::{Commit, Fact, St, covers, lacking, runs, size};
use super::model::expected;
use crate::engine::Engine;
use crate::keyspace::Data;

/// Most bytes that a reader may hold: what it may look ahead, and one record.
const READER_BYTES_MAX: u64 = (64 << 20) + (16 << 20);

impl Judge {
    /// An effect was issued by a copy that had `before`.
    pub(crate) fn committed(&self, commit: Commit, before: &Cover) {
        self.checked("causality");
        self.after_stable(&commit);
        let mut state = self.state.borrow_mut();
        let mut seen: Option<(u64, super::ledger::Name)> = None;
        for (region, incarnation, first, last) in runs(before) {
            // Within an incarnation stamps rise with the numbers: the last one is enough, if it is known.
            let latest = (first..=last)
                .rev()
                .find_map(|seq| state.ledger.of_name(commit.shard, (region, incarnation, seq)));
            if let Some(latest) = latest {
                seen = seen.max(Some((latest.hlc, latest.name)));
            }
        }
        let own: Vec<u64> = commit.facts.iter().filter_map(|fact| own_clock(fact, &commit)).collect();
        let early = own.iter().min().copied().filter(|clock| seen.is_some_and(|(seen, _)| *clock <= seen));
        let (number, name) = (commit.number, commit.name);
        let renews =
            commit.facts.iter().any(|f| matches!(f, Fact::Expire { stamp, life, .. } if stamp != life));
        let takes_away = commit.facts.iter().any(|f| matches!(f, Fact::Expire { at_ms: None, .. }));
        let carries = commit.facts.iter().any(|f| matches!(f, Fact::Put { .. } | Fact::Count { .. }));
        let bare = renews
            && !carries
            && commit.key.as_ref().is_some_and(|key| {
                let known = state.ledger.of_key(commit.shard, key);
                expected(known.filter(|c| covers(before, c.name))).at_ms.is_some()
            });
        let fresh = state.ledger.add(commit);
        drop(state);
        if !fresh {
            self.violate(
                "identity",
                format!("two effects are called {name:?}, the second is operation #{number}"),
            );
        }
        // (A new key under a time-to-live that had not ended takes that away, and has nothing to carry yet.)
        if bare && !takes_away {
            self.violate(
                "expiry",
                format!("operation #{number} renews a time-to-live without the key's values"),
            );
        }
        if let (Some(clock), Some((latest, of))) = (early, seen) {
            self.violate(
                "causality",
                format!(
                    "operation #{number} got clock {clock}, although its copy had {of:?} of clock {latest}"
                ),
            );
        }
    }

    /// Totals of a counter became one: nothing is unknown here that ends one of them and not the other.
    pub(crate) fn folded(&self, fold: &Commit, before: &Cover) {
        let Some(key) = &fold.key else { return };
        let counts = fold.facts.iter().filter_map(|fact| match fact {
            Fact::Count { name, started, .. } => Some((name, *started)),
            _ => None,
        });
        let mut starts: BTreeMap<_, (St, St)> = BTreeMap::new();
        for (name, started) in counts {
            let range = starts.entry(name).or_insert((started, started));
            *range = (range.0.min(started), range.1.max(started));
        }
        let between = |fact: &Fact| {
            starts.iter().any(|(name, (first, last))| match fact {
                Fact::Put { name: of, stamp, .. } => of == *name && first < stamp && stamp < last,
                Fact::Floor(stamp) => first < stamp && stamp < last,
                _ => false,
            })
        };
        let state = self.state.borrow();
        let unknown = state.ledger.of_key(fold.shard, key).filter(|commit| !covers(before, commit.name));
        let late = unknown.into_iter().find(|commit| commit.facts.iter().any(between)).map(|c| c.name);
        drop(state);
        if let Some(late) = late {
            let name = fold.name;
            self.violate(
                "folding",
                format!("{name:?} folds totals that {late:?}, unknown there, sets apart"),
            );
        }
    }

    /// A copy shows this of a key.
    pub(crate) fn shown(&self, engine: &Engine, key: &str, shown: Option<&Data>) {
        if may_be_missing(key.as_bytes()) {
            return;
        }
        let (cover, at_ms, receiving) = engine
            .look(|shard, keys| (shard.cover(), keys.expiry(key.as_bytes()), shard.transfer().is_some()));
        if receiving {
            // It shows more than its cover says, until it is told that it has all of it.
            return;
        }
        let right = {
            let state = self.state.borrow();
            let known = state.ledger.of_key(engine.shard, key.as_bytes());
            expected(known.filter(|commit| covers(&cover, commit.name)))
        };
        if key.starts_with('e') {
            self.checked("expiry");
            // One that is not shown has expired here: it must have a time-to-live at least.
            if shown.is_none() && right.at_ms.is_some() {
                return;
            }
            if shown.is_some() && at_ms != right.at_ms {
                let who = &engine.node.name;
                self.violate(
                    "expiry",
                    format!("{who} ends {key} at {at_ms:?}, it should at {:?}", right.at_ms),
                );
            }
        }
        self.checked("state");
        let right = right.data;
        if right.as_ref() != shown {
            self.violate(
                "state",
                format!(
                    "{} shows {key} = {}, it should be {}",
                    engine.node.name,
                    short(shown),
                    short(right.as_ref())
                ),
            );
        }
    }

    /// A copy has taken over state: from now on it says that it has all of that.
    pub(crate) fn all_shown(&self, engine: &Rc<Engine>) {
        self.checked("state wholly taken over");
        engine.expire_now();
        let keys: Vec<_> = self.state.borrow().ledger.keys(engine.shard).cloned().collect();
        for key in keys {
            if let Ok(name) = std::str::from_utf8(&key) {
                self.shown(engine, name, engine.shows(&key).as_ref());
            }
        }
    }

    /// A merge ended. `latest_ms`: clocks beyond it are to be held back.
    #[allow(clippy::too_many_arguments)] // before, after, and what was asked for
    pub(crate) fn merged(
        &self,
        engine: &Engine,
        before: &Cover,
        after: &Cover,
        (stored, moved): (Option<Position>, Option<Position>),
        (region, merge): (u16, &Merge),
        receiving: bool,
        merged: Option<&Merged>,
        latest_ms: u64,
    ) {
        self.checked("merge");
        if let Some(merged) = merged {
            let excused = self.state.borrow().held_back || self.state.borrow().procedures.had_more;
            if merged.adopted > 0 && !self.lossy && !excused {
                self.violate(
                    "transfer",
                    format!("{} fetches state, although no stream has lost anything", engine.node.name),
                );
            }
            (0..merged.adopted).for_each(|_| self.checked("state taken over"));
            (0..merged.refused).for_each(|_| self.checked("state refused"));
        }
        let who = &engine.node.name;
        let grown = size(after) - size(before).min(size(after));
        match merged {
            Some(_) if stored != merge.expected => {
                self.violate(
                    "merge",
                    format!("{who} merged after {:?}, although {stored:?} was stored", merge.expected),
                );
            }
            // The end of a transfer of state takes over what the source had.
            Some(merged)
                if merged.merged != grown
                    && !((receiving || merged.adopted > 0) && merged.merged < grown) =>
            {
                self.violate(
                    "merge",
                    format!("{who} merged {} effects, its cover grew by {grown}", merged.merged),
                );
            }
            None if grown > 0 || moved != stored => {
                self.violate("merge", format!("{who} refused a merge, and changed all the same"));
            }
            Some(_) | None => {}
        }
        if merged.is_some() {
            self.position(engine, region, after, stored, moved);
        }
        // Of what was merged, nothing is beyond the hard limit of clocks.
        let state = self.state.borrow();
        let ahead = lacking(after, before).filter_map(|name| state.ledger.of_name(engine.shard, name));
        let ahead = ahead.filter(|commit| commit.hlc >> 16 > latest_ms).map(|commit| commit.name).next();
        drop(state);
        if let Some(name) = ahead {
            self.violate("merge", format!("{who} merged {name:?}, whose clock is beyond the hard limit"));
        }
    }

    /// Effects left an outbox.
    pub(crate) fn trimmed(&self, engine: &Engine, before: &[(u64, u64)], after: &[(u64, u64)]) {
        self.checked("outbox");
        let left: BTreeSet<(u64, u64)> = after.iter().copied().collect();
        let state = self.state.borrow();
        let logged = state.logged.get(&(engine.region, engine.shard));
        let lost = before
            .iter()
            .find(|effect| !left.contains(effect) && logged.is_none_or(|l| !l.has(effect.0, effect.1)));
        let lost = lost.copied();
        drop(state);
        if let Some((incarnation, seq)) = lost {
            self.violate(
                "outbox",
                format!(
                    "{} gave up effect {seq} of {incarnation:016x}, which no stream has",
                    engine.node.name
                ),
            );
        }
    }

    /// A copy is saved: what is loaded from it is the same.
    pub(crate) fn saved(&self, engine: &Engine, shard: &Shard, loaded: Option<&Shard>) {
        self.checked("persistence");
        let same = loaded.is_some_and(|loaded| {
            let floors = |s: &Shard| (0..SLOTS).map(|slot| s.table().slot_floor(slot)).collect::<Vec<_>>();
            shard.identity() == loaded.identity()
                && (shard.seq(), shard.clock()) == (loaded.seq(), loaded.clock())
                && shard.cover() == loaded.cover()
                && shard.positions() == loaded.positions()
                && shard.outbox().iter().eq(loaded.outbox().iter())
                && floors(shard) == floors(loaded)
                && named(shard) == named(loaded)
                && shard.stability() == loaded.stability()
                && shard.transfer() == loaded.transfer()
                && shard.joining() == loaded.joining()
                && self.loaded_digests(shard, loaded, engine.shard)
        });
        if !same {
            self.violate(
                "persistence",
                format!("{}: what was saved is not what there was", engine.node.name),
            );
        }
    }

    /// Effects were held back for their clock.
    pub(crate) fn held_back(&self) {
        self.state.borrow_mut().held_back = true;
    }

    /// A member loses what it has: a crash, or a full sync.
    pub(crate) fn loses(&self, engine: &Engine, cover: &Cover) {
        let mut state = self.state.borrow_mut();
        let held = state.held.entry((engine.region, engine.shard, engine.member)).or_default();
        for (region, incarnation, first, last) in runs(cover) {
            held.extend((first..=last).map(|seq| (region, incarnation, seq)));
        }
    }

    /// A copy that ends has counted values that it could not show again.
    pub(crate) fn missing(&self, values: u64) {
        self.state.borrow_mut().missing |= values > 0;
    }

    /// A shard calls this durable: every member that may be promoted has, or once had, all of it.
    pub(crate) fn beat(&self, members: &[Rc<Engine>], durable: &Cover, word: &Word) {
        self.checked("durable");
        if let Some(first) = members.first() {
            let mut state = self.state.borrow_mut();
            let before = state.durable.entry((first.region, first.shard)).or_default();
            if lacking(before, durable).next().is_none() {
                *before = durable.clone();
            }
        }
        for member in members {
            let has = member.look(|shard, _| shard.cover());
            let state = self.state.borrow();
            let held = state.held.get(&(member.region, member.shard, member.member));
            let lacks = lacking(durable, &has).find(|name| held.is_none_or(|h| !h.contains(name)));
            drop(state);
            if let Some(name) = lacks {
                self.violate(
                    "durable",
                    format!("{} never had {name:?}, which is called durable", member.node.name),
                );
                return;
            }
        }
        if let Some(name) = lacking(durable, &word.cover).next() {
            self.violate("durable", format!("{name:?} is called durable, and the master lacks it"));
        }
        // The clock is at least every stamp in the cover.
        let state = self.state.borrow();
        let shard = members.first().map_or(0, |m| m.shard);
        let late = runs(durable).find_map(|(region, incarnation, first, last)| {
            let latest = (first..=last)
                .rev()
                .find_map(|seq| state.ledger.of_name(shard, (region, incarnation, seq)))?;
            (latest.hlc > word.clock.0).then_some(latest.name)
        });
        drop(state);
        if let Some(name) = late {
            self.violate("durable", format!("a heartbeat's clock is below that of {name:?} in its cover"));
        }
    }

    /// What a reader holds.
    pub(crate) fn reader(&self, reader: &Reader) {
        self.bound("reader", reader.backlog_bytes(), READER_BYTES_MAX);
    }
}

/// All keys with full metadata, in order.
pub(super) fn named(shard: &Shard) -> BTreeMap<&[u8], &KeyMeta> {
    shard.table().rich_entries().collect()
}

/// Keys whose values may be lost to an expiry before a renewal of it arrives: counted, and not repaired yet. Sets and pure
/// counters are not among them.
pub(super) fn may_be_missing(key: &[u8]) -> bool {
    key.starts_with(b"e") && !key.starts_with(b"es") && !key.starts_with(b"ec")
}

/// The clock of what an effect says in its own name; renewals carry what others said.
fn own_clock(fact: &Fact, commit: &Commit) -> Option<u64> {
    let own = |stamp: &St| (stamp.1, stamp.2) == (commit.name.0, commit.name.1);
    let renewal = commit.facts.iter().any(|f| matches!(f, Fact::Expire { .. }));
    match fact {
        Fact::Floor(stamp) | Fact::Expire { stamp, .. } if own(stamp) => Some(stamp.0),
        Fact::Put { stamp, .. } if own(stamp) && !renewal => Some(stamp.0),
        Fact::Count { latest, .. } if !renewal => Some(*latest),
        _ => None,
    }
}

/// A value, cut to a readable length.
pub(super) fn short(data: Option<&Data>) -> String {
    let text = match data {
        None => "nothing".to_owned(),
        Some(Data::Str(value)) if value.len() > 40 => format!("{} bytes", value.len()),
        Some(data) => format!("{data:?}"),
    };
    text.chars().take(200).collect()
}
