//! Heartbeats: what a shard may call durable, and what it tells the other regions several times a second.

use std::collections::{BTreeMap, BTreeSet};

use crate::cover::Cover;
use crate::record::{Body, Heartbeat, Record};
use crate::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use crate::transfer::Progress;

/// Time between two heartbeats of a shard, milliseconds.
pub const HEARTBEAT_MS: u64 = 200;

/// What a member said (`MAS.COVER`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// What it has.
    pub cover: Cover,
    /// Its clock.
    pub clock: Hlc,
    /// Its live incarnation.
    pub incarnation: Incarnation,
    /// The last number that it issued.
    pub issued: u64,
    /// What it has merged through ([`crate::stability`]).
    pub merged_through: Hlc,
    /// The state that it receives from another region.
    pub transfer: Option<Progress>,
    /// Earlier incarnations of its region that are not sealed.
    pub ended: BTreeSet<Incarnation>,
}

/// What a shard has, whichever member is promoted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Effects.
    pub cover: Cover,
    /// What it has merged through.
    pub stable: Hlc,
}

/// The members of a shard in this region, and the last cover each was heard to have.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// `None`: never heard. With the incarnation that it follows.
    heard: BTreeMap<String, Option<(Durable, Incarnation)>>,
}

impl Members {
    /// Takes over the list of those that may be promoted; what is known of members that stay is kept.
    pub fn configure<'a>(&mut self, members: impl Iterator<Item = &'a str>) {
        let mut old = std::mem::take(&mut self.heard);
        self.heard = members.map(|name| (name.to_owned(), old.remove(name).flatten())).collect();
    }

    /// A member answered.
    pub fn heard(&mut self, member: &str, word: &Word) {
        if let Some(known) = self.heard.get_mut(member) {
            let durable = Durable { cover: word.cover.clone(), stable: word.merged_through };
            *known = Some((durable, word.incarnation));
        }
    }

    /// Whether every member has said that it follows this incarnation: no copy of what was before is left.
    pub fn all_follow(&self, live: Incarnation) -> bool {
        self.heard.values().all(|member| member.as_ref().is_some_and(|(_, of)| *of == live))
    }

    /// What the shard will still have whichever member is promoted: the meet of all. A member that cannot be reached
    /// keeps its last known cover, for it may still be promoted; one that was never heard may be empty. `fsync_always`
    /// is enough only for a master without replicas, which comes back with all it has: where there are others, one of
    /// them may be promoted while it is away.
    pub fn durable(&self, master: &Word, fsync_always: bool) -> Durable {
        let mut durable = Durable { cover: master.cover.clone(), stable: master.merged_through };
        if (fsync_always && self.heard.len() <= 1) || mutation!(VolatileIsDurable) {
            return durable;
        }
        for member in self.heard.values() {
            match member {
                Some((member, _)) => {
                    durable.cover = durable.cover.meet(&member.cover);
                    if !mutation!(VolatileIsStable) {
                        durable.stable = durable.stable.min(member.stable);
                    }
                }
                None if mutation!(UnheardIsDurable) => {}
                None => return Durable::default(),
            }
        }
        durable
    }
}

/// The heartbeat of a master that said `master`, under `epoch`, with what is durable computed from words that were
/// asked for before the master was.
pub fn build_heartbeat(
    id: u64,
    region: RegionId,
    shard: ShardId,
    epoch: u64,
    master: &Word,
    durable: Durable,
) -> Record {
    let origin = Origin { region, incarnation: master.incarnation };
    // The master's cover includes the durable one, and its clock is at least every stamp that it has.
    let issued = if mutation!(MissingIssuedNumber) { 0 } else { master.issued };
    let Durable { cover, stable } = durable;
    let beat = Heartbeat { epoch, clock: master.clock, issued, stable, cover };
    Record { id, shard, origin, body: Body::Heartbeat(beat) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::SeqSet;

    fn word(last: u64) -> Word {
        let mut cover = Cover::default();
        cover.set(Origin { region: RegionId(1), incarnation: Incarnation(1) }, SeqSet::up_to(last));
        Word { cover, merged_through: Hlc(last), ..Word::default() }
    }

    fn durable(last: u64) -> Durable {
        Durable { cover: word(last).cover, stable: Hlc(last) }
    }

    #[test]
    fn durable_is_what_every_member_has() {
        let mut m = Members::default();
        m.configure(["a", "b"].into_iter());
        m.heard("a", &word(9));
        assert_eq!(m.durable(&word(9), false), Durable::default(), "b was never heard");
        m.heard("b", &word(5));
        assert_eq!(m.durable(&word(9), false), durable(5));
        m.heard("stranger", &word(1));
        m.configure(["a", "b", "c"].into_iter());
        assert_eq!(m.durable(&word(9), false), Durable::default());
        m.configure(["a"].into_iter());
        assert_eq!(m.durable(&word(9), false), durable(9));
    }

    #[test]
    fn a_replica_that_lags_may_be_promoted_while_a_master_with_fsync_is_away() {
        let mut m = Members::default();
        m.configure(["a", "b"].into_iter());
        m.heard("a", &word(9));
        m.heard("b", &word(5));
        assert_eq!(m.durable(&word(9), true), durable(5));
        m.configure(["a"].into_iter());
        assert_eq!(m.durable(&word(9), true), durable(9), "alone it comes back with all it has");
    }

    #[test]
    fn never_more_than_the_master_has() {
        let mut m = Members::default();
        m.configure(["a"].into_iter());
        m.heard("a", &word(12));
        assert_eq!(m.durable(&word(9), false), durable(9), "an older answer of the master");
    }
}
