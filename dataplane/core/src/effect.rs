//! Effects: what a write did, as state and not as a command, so that it can be merged in any order, any number of times.

use bytes::Bytes;

use crate::amount::Amount;
use crate::stamp::{Hlc, Stamp};

/// What one command (or one atomic batch) changed. Numbered by its origin, which travels beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Number within the origin's incarnation, from 1.
    pub seq: u64,
    /// The origin's clock when it was issued; not below any stamp of this origin in `changes`.
    pub hlc: Hlc,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

/// A change of one key, or of whole slots.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Operations on one key, merged in order and shown at once.
    Key {
        /// The key.
        key: Bytes,
        /// The operations.
        ops: Vec<Op>,
    },
    /// Everything in slots `first..=last` at or below `floor` is dead (`FLUSHALL`).
    Slots {
        /// First slot.
        first: u16,
        /// Last slot.
        last: u16,
        /// The floor.
        floor: Stamp,
    },
}

/// The Redis types that are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One cell without a name.
    Str,
    /// A cell a field.
    Hash,
    /// A cell a member.
    Set,
    /// A cell a member, with its score.
    Zset,
}

/// What a cell holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string's or a hash field's.
    Bytes(Bytes),
    /// A set member is there.
    Member,
    /// A sorted set member's score. Never NaN.
    Score(f64),
    /// Something was set, but whoever tells of it has it no more: its key had expired there. Only in transfers of state.
    Gone,
}

impl PartialEq for Value {
    /// Scores are compared by their bits: this is an identity of states, not arithmetic.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Member, Self::Member) | (Self::Gone, Self::Gone) => true,
            (Self::Score(a), Self::Score(b)) => a.to_bits() == b.to_bits(),
            _ => false,
        }
    }
}

/// One operation on a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Everything of the key at or below this stamp is dead, time-to-live included (`DEL`, a rewrite).
    Floor(Stamp),
    /// A cell was set, or removed (`None`).
    Put {
        /// Type of the key.
        kind: Kind,
        /// Field or member; empty for a string.
        name: Bytes,
        /// When.
        stamp: Stamp,
        /// What it holds now.
        value: Option<Value>,
        /// A string's: the time-to-live stays (`APPEND`, `SET … KEEPTTL`). Always true for other kinds.
        keep_ttl: bool,
    },
    /// The running total of one origin's increments of a cell.
    Count {
        /// Type of the key; never `Set`.
        kind: Kind,
        /// Field or member; empty for a string.
        name: Bytes,
        /// When the total was started, and by whom: a set or removal at or above it kills the total.
        started: Stamp,
        /// When it last grew.
        latest: Hlc,
        /// The total.
        amount: Amount,
    },
    /// Every value at or below this stamp is dead, and the time-to-live stays. Only in transfers of state: merges make such a
    /// floor of the greatest stamp of a type that lost.
    ValuesFloor(Stamp),
    /// A write took away any time-to-live set at or before (`SET`). Only in transfers of state: an effect says so by that
    /// write.
    ClearTtl(Stamp),
    /// The key's time-to-live was set, or taken away (`None`).
    Expire {
        /// When.
        stamp: Stamp,
        /// The life that it goes on with: stamp of the first register in an unbroken row of renewals.
        life: Stamp,
        /// Unix milliseconds at which the key dies.
        at_ms: Option<u64>,
    },
    /// The writer found the key expired and began anew: what is older than `until_ms` is dead, unless that life was renewed
    /// after `register`, or the time-to-live was cleared.
    Kill {
        /// The life that ended.
        life: Stamp,
        /// The register that it ended under.
        register: Stamp,
        /// The register's time, unix milliseconds.
        until_ms: u64,
        /// When the writer found it expired.
        at: Hlc,
    },
}
