//! Repair of a key that two regions hold differently, though neither lacks an effect: what one holds of it is shipped to the other and
//! merged by the ordinary merge, each operation with its own stamp. (What a region lacks effects of comes as a
//! [`crate::transfer`].)
//!
//! Rules that keep it from losing or resurrecting anything; each names what would go wrong without it:
//! * Only what is at or below `until` is shipped, and only to who has merged through that: it is told nothing that it has not been told.
//!   So nothing comes here before its effect, of which a failover of the sender could leave no other trace.
//! * The sender must have merged through all that the receiver has forgotten tombstones of (else a deleted value that a sender
//!   which was rolled back still has, or a piece that comes late, would bring it back), and the receiver through all that the
//!   sender has (else what the sender does not know any more would be asked of it).
//! * A total of a sealed incarnation that the receiver does not know is not taken over: what it counted went over to a live one
//!   ([`crate::folding`]), and would count twice.
//!
//! With both met and different holdings one of the two went wrong, and what is present wins: a tombstone that nobody has any
//! more cannot be told from one that never was. Of two values under one stamp the one that is shipped wins: whoever
//! repairs chooses the direction.

use bytes::Bytes;

use crate::effect::{Change, Effect, Op, Value};
use crate::keyspace::Keyspace;
use crate::shard::{Shard, entry};
use crate::stamp::{Hlc, Origin};
use crate::transfer::{cell_state, head_state, key_state};
use crate::wire::{self, Reader, WireError, Writer};

/// Size after which a piece ends, bytes: an engine does nothing else while it makes or merges one.
pub const PIECE_BYTES: usize = 256 << 10;

/// Which elements of a key are shipped; what is about the whole key always is.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All behind this name; `None`: from the first on.
    After(Option<&'a [u8]>),
    /// These.
    Only(&'a [&'a [u8]]),
}

/// Why a piece was not merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReshipError {
    /// It cannot be read.
    #[error("the piece cannot be decoded: {0}")]
    Decode(#[from] WireError),
    /// Effects are under way that it tells of.
    #[error("not everything that the piece tells of was merged here yet")]
    Early,
    /// Tombstones were forgotten on one side that the other has not merged through.
    #[error(
        "what was deleted could return: one side has forgotten tombstones that the other has not merged through"
    )]
    Forgotten,
}

/// What a merged piece did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reshipped {
    /// Operations that took effect.
    pub applied: u64,
    /// Operations that were overruled, or known.
    pub overruled: u64,
    /// For replicas and AOF.
    pub entry: Bytes,
}

/// What one region holds of a key.
struct Piece {
    until: Hlc,
    through: Hlc,
    collected: Hlc,
    effect: Effect,
}

impl Piece {
    fn encode(&self, origin: Origin) -> Bytes {
        let mut w = Writer::with_capacity(256);
        w.origin(origin);
        w.u64(self.until.0);
        w.u64(self.through.0);
        w.u64(self.collected.0);
        w.raw(&wire::encode_effect(&self.effect, origin));
        w.finish()
    }

    fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let origin = r.origin("piece")?;
        let (until, through) = (Hlc(r.u64("piece")?), Hlc(r.u64("piece")?));
        let collected = Hlc(r.u64("piece")?);
        let effect = wire::decode_effect(&r.rest(), origin)?;
        Ok(Self { until, through, collected, effect })
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.effect.changes.iter().flat_map(|change| match change {
            Change::Key { ops, .. } => &ops[..],
            Change::Slots { .. } => &[],
        })
    }
}

/// The latest clock that an operation tells of.
fn told(op: &Op) -> Hlc {
    match op {
        Op::Floor(stamp) | Op::ValuesFloor(stamp) | Op::ClearTtl(stamp) | Op::Put { stamp, .. } => stamp.hlc,
        Op::Count { started, latest, .. } => started.hlc.max(*latest),
        Op::Expire { stamp, life, .. } => stamp.hlc.max(life.hlc),
        Op::Kill { life, register, at, .. } => life.hlc.max(register.hlc).max(*at),
    }
}

impl Shard {
    /// What this copy holds of a key and was told up to `until`: a piece, and the name to go on behind if there is more.
    pub fn reship(
        &self,
        key: &[u8],
        which: Which<'_>,
        until: Hlc,
        ks: &mut dyn Keyspace,
    ) -> (Option<Bytes>, Bytes) {
        let (mut ops, next) = self.table().read(key, |meta| match which {
            Which::After(after) => {
                let (mut ops, _, next) = key_state(meta, key, after, Hlc::ZERO, PIECE_BYTES, ks);
                if after.is_some() {
                    head_state(meta, Hlc::ZERO, &mut ops);
                }
                (ops, next)
            }
            Which::Only(names) => {
                let mut ops = Vec::new();
                head_state(meta, Hlc::ZERO, &mut ops);
                let cells = names.iter().filter_map(|name| Some((*name, meta.cells.get(name)?)));
                if let Some(kind) = meta.cells.kind() {
                    let death = meta.death();
                    for (name, cell) in cells {
                        cell_state(cell, key, kind, name, Hlc::ZERO, death, ks, &mut ops);
                    }
                }
                (ops, None)
            }
        });
        // A floor may be older than the effect that it comes from: whether that has arrived is known only where nothing of the key is newer.
        let settled = self.table().read(key, |meta| meta.latest() <= until);
        ops.retain(|op| match op {
            Op::Floor(_) | Op::ValuesFloor(_) => settled && told(op) <= until,
            // Who has a value no more has nothing to ship.
            Op::Put { value: Some(Value::Gone), .. } => false,
            Op::Put { .. } | Op::Count { .. } | Op::Expire { .. } | Op::Kill { .. } | Op::ClearTtl(_) => {
                told(op) <= until
            }
        });
        let changes = vec![Change::Key { key: Bytes::copy_from_slice(key), ops }];
        let piece = Piece {
            until,
            through: self.merged_through().hlc,
            collected: self.table().collected(),
            effect: Effect { seq: 1, hlc: until, changes },
        };
        (next, piece.encode(self.identity.origin()))
    }

    /// Merges a piece, if it may be.
    pub fn take_reshipped(&mut self, bytes: &Bytes, ks: &mut dyn Keyspace) -> Result<Reshipped, ReshipError> {
        let piece = Piece::decode(bytes.clone())?;
        let own = self.merged_through().hlc;
        if piece.until > own || piece.ops().any(|op| told(op) > piece.until) {
            return Err(ReshipError::Early);
        }
        let forgotten = piece.through < self.table().collected() || own < piece.collected;
        if forgotten && !mutation!(TransferIgnoresGcCover) {
            return Err(ReshipError::Forgotten);
        }
        let mut w = Writer::with_capacity(bytes.len() + 1);
        w.u8(entry::RESHIPPED);
        w.raw(bytes);
        let (applied, overruled) = self.merge_reshipped(piece, ks);
        Ok(Reshipped { applied, overruled, entry: w.finish() })
    }

    /// The same as the master did.
    pub(crate) fn apply_reshipped(&mut self, bytes: Bytes, ks: &mut dyn Keyspace) -> Result<(), WireError> {
        let piece = Piece::decode(bytes)?;
        self.merge_reshipped(piece, ks);
        Ok(())
    }

    fn merge_reshipped(&mut self, piece: Piece, ks: &mut dyn Keyspace) -> (u64, u64) {
        let (mut applied, mut overruled) = (0, 0);
        for mut change in piece.effect.changes {
            if let Change::Key { key, ops } = &mut change {
                ops.retain(|op| !self.may_be_folded(key, op));
            }
            let outcome = self.merge_change(&change, ks);
            self.stats.missing += outcome.missing;
            applied += outcome.applied;
            overruled += outcome.overruled;
        }
        self.stats.reshipped += applied;
        (applied, overruled)
    }

    /// Whether it is a total of a sealed incarnation that is not known here.
    fn may_be_folded(&self, key: &[u8], op: &Op) -> bool {
        let Op::Count { name, started, .. } = op else { return false };
        let sealed = self.cover.is_sealed(started.origin);
        sealed
            && self.table().read(key, |meta| {
                let counter = meta.cells.get(name).and_then(|cell| cell.counter.as_ref());
                !counter.is_some_and(|counter| counter.totals.iter().any(|t| t.started == *started))
            })
    }
}
