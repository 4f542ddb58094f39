//! Heartbeats: what a shard may call durable, and what it tells the other regions several times a second.

use std::collections::BTreeMap;

use crate::cover::Cover;
use crate::record::{Body, Heartbeat, Record};
use crate::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};

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
}

/// The members of a shard in this region, and the last cover each was heard to have.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// `None`: never heard.
    covers: BTreeMap<String, Option<Cover>>,
}

impl Members {
    /// Takes over the list of those that may be promoted; what is known of members that stay is kept.
    pub fn configure<'a>(&mut self, members: impl Iterator<Item = &'a str>) {
        let mut old = std::mem::take(&mut self.covers);
        self.covers = members.map(|name| (name.to_owned(), old.remove(name).flatten())).collect();
    }

    /// A member answered.
    pub fn heard(&mut self, member: &str, cover: Cover) {
        if let Some(known) = self.covers.get_mut(member) {
            *known = Some(cover);
        }
    }

    /// What the shard will still have whichever member is promoted: the meet of all. A member that cannot be reached
    /// keeps its last known cover, for it may still be promoted; one that was never heard may be empty. `fsync_always`
    /// is enough only for a master without replicas, which comes back with all it has: where there are others, one of
    /// them may be promoted while it is away.
    pub fn durable(&self, master: &Cover, fsync_always: bool) -> Cover {
        if (fsync_always && self.covers.len() <= 1) || mutation!(VolatileIsDurable) {
            return master.clone();
        }
        let mut durable = master.clone();
        for cover in self.covers.values() {
            match cover {
                Some(cover) => durable = durable.meet(cover),
                None if mutation!(UnheardIsDurable) => {}
                None => return Cover::default(),
            }
        }
        durable
    }
}

/// The heartbeat of a master that said `master`, under `epoch`, with a durable cover computed from covers that were
/// asked for before the master was.
pub fn build_heartbeat(
    id: u64,
    region: RegionId,
    shard: ShardId,
    epoch: u64,
    master: &Word,
    durable: Cover,
) -> Record {
    let origin = Origin { region, incarnation: master.incarnation };
    // The master's cover includes the durable one, and its clock is at least every stamp that it has.
    let issued = if mutation!(MissingIssuedNumber) { 0 } else { master.issued };
    let beat = Heartbeat { epoch, clock: master.clock, issued, cover: durable };
    Record { id, shard, origin, body: Body::Heartbeat(beat) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::SeqSet;

    fn cover(last: u64) -> Cover {
        let mut cover = Cover::default();
        cover.set(Origin { region: RegionId(1), incarnation: Incarnation(1) }, SeqSet::up_to(last));
        cover
    }

    #[test]
    fn durable_is_what_every_member_has() {
        let mut m = Members::default();
        m.configure(["a", "b"].into_iter());
        m.heard("a", cover(9));
        assert_eq!(m.durable(&cover(9), false), Cover::default(), "b was never heard");
        m.heard("b", cover(5));
        assert_eq!(m.durable(&cover(9), false), cover(5));
        m.heard("stranger", cover(1));
        m.configure(["a", "b", "c"].into_iter());
        assert_eq!(m.durable(&cover(9), false), Cover::default());
        m.configure(["a"].into_iter());
        assert_eq!(m.durable(&cover(9), false), cover(9));
    }

    #[test]
    fn a_replica_that_lags_may_be_promoted_while_a_master_with_fsync_is_away() {
        let mut m = Members::default();
        m.configure(["a", "b"].into_iter());
        m.heard("a", cover(9));
        m.heard("b", cover(5));
        assert_eq!(m.durable(&cover(9), true), cover(5));
        m.configure(["a"].into_iter());
        assert_eq!(m.durable(&cover(9), true), cover(9), "alone it comes back with all it has");
    }

    #[test]
    fn never_more_than_the_master_has() {
        let mut m = Members::default();
        m.configure(["a"].into_iter());
        m.heard("a", cover(12));
        assert_eq!(m.durable(&cover(9), false), cover(9), "an older answer of the master");
    }
}
