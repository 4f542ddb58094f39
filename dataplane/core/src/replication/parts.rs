//! Parts: puts the pieces of large effects together again, within a bound, and says how far a position may move while
//! pieces are missing.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::record::PART_BYTES;
use crate::shard::Position;
use crate::stamp::Origin;
use crate::wire::EFFECT_BYTES_MAX;

/// Bound of all unfinished effects of one stream, bytes.
pub const ASSEMBLY_BYTES_MAX: usize = 2 * EFFECT_BYTES_MAX;
/// Most parts of one effect.
const COUNT_MAX: u32 = (EFFECT_BYTES_MAX / PART_BYTES) as u32 + 1;

/// One piece.
#[derive(Clone, Debug)]
pub struct Part {
    /// Who numbered the effect.
    pub origin: Origin,
    /// The effect's number.
    pub seq: u64,
    /// Which piece, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// The piece.
    pub bytes: Bytes,
}

/// What taking a piece came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// More are missing.
    Kept,
    /// The whole effect.
    Whole(Bytes),
    /// The pieces contradict each other, or there are too many.
    Bad(&'static str),
    /// The bound is reached. The position stays before this effect, and it must be read again once others are whole.
    Full,
}

#[derive(Clone, Debug)]
struct Unfinished {
    /// Where a reader must go on to see all pieces again.
    before: Option<Position>,
    count: u32,
    pieces: BTreeMap<u32, Bytes>,
    /// Pieces were refused for want of room.
    dropped: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Assembly {
    unfinished: BTreeMap<(Origin, u64), Unfinished>,
    bytes: usize,
}

impl Assembly {
    /// Takes a piece that was read right after position `before`.
    pub fn take(&mut self, part: Part, before: Option<Position>) -> Taken {
        let Part { origin, seq, index, count, bytes } = part;
        if count > COUNT_MAX || bytes.len() > PART_BYTES {
            return Taken::Bad("a part is beyond its bound");
        }
        let full = self.bytes + bytes.len() > ASSEMBLY_BYTES_MAX;
        let entry = self.unfinished.entry((origin, seq)).or_insert_with(|| Unfinished {
            before,
            count,
            pieces: BTreeMap::new(),
            dropped: false,
        });
        if entry.count != count {
            return Taken::Bad("parts of one effect disagree on their number");
        }
        if full {
            entry.dropped = true;
            self.bytes -= std::mem::take(&mut entry.pieces).values().map(Bytes::len).sum::<usize>();
            return Taken::Full;
        }
        if entry.dropped {
            return Taken::Full;
        }
        self.bytes += bytes.len();
        if let Some(old) = entry.pieces.insert(index, bytes) {
            self.bytes -= old.len();
        }
        if entry.pieces.len() < count as usize {
            return Taken::Kept;
        }
        let mut whole = BytesMut::new();
        if let Some(entry) = self.unfinished.remove(&(origin, seq)) {
            for piece in entry.pieces.into_values() {
                self.bytes -= piece.len();
                whole.extend_from_slice(&piece);
            }
        }
        Taken::Whole(whole.freeze())
    }

    /// Forgets effects that came another way.
    pub fn forget(&mut self, covered: &dyn Fn(Origin, u64) -> bool) {
        let bytes = &mut self.bytes;
        self.unfinished.retain(|&(origin, seq), entry| {
            let stays = !covered(origin, seq);
            if !stays {
                *bytes -= entry.pieces.values().map(Bytes::len).sum::<usize>();
            }
            stays
        });
    }

    /// How far the position may move when everything up to `read` was read: not past an unfinished effect. `None`: not
    /// at all from the start of the log.
    pub fn safe(&self, read: Position) -> Option<Position> {
        let earliest =
            self.unfinished.values().map(|u| u.before).min_by_key(|before| before.map(|p| p.offset));
        if mutation!(PositionPastParts) {
            return Some(read);
        }
        earliest.unwrap_or(Some(read))
    }

    /// Whether the log must be read again from the safe position: nothing is under way any more but what was dropped.
    pub fn must_reread(&self) -> bool {
        !self.unfinished.is_empty() && self.unfinished.values().all(|u| u.dropped)
    }

    /// How many effects are unfinished.
    pub fn len(&self) -> usize {
        self.unfinished.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Incarnation, RegionId};

    const ORIGIN: Origin = Origin { region: RegionId(1), incarnation: Incarnation(7) };

    fn part(seq: u64, index: u32, count: u32, len: usize) -> Part {
        Part { origin: ORIGIN, seq, index, count, bytes: Bytes::from(vec![index as u8; len]) }
    }

    fn at(offset: u64) -> Position {
        Position { offset, record: offset * 10 }
    }

    #[test]
    fn pieces_in_any_order_twice() {
        let mut a = Assembly::default();
        assert_eq!(a.take(part(1, 2, 3, 2), Some(at(4))), Taken::Kept);
        assert_eq!(a.take(part(1, 0, 3, 2), Some(at(5))), Taken::Kept);
        assert_eq!(a.take(part(1, 0, 3, 2), Some(at(6))), Taken::Kept);
        assert_eq!(a.safe(at(7)), Some(at(4)));
        assert_eq!(
            a.take(part(1, 1, 3, 2), Some(at(7))),
            Taken::Whole(Bytes::from_static(&[0, 0, 1, 1, 2, 2]))
        );
        assert_eq!((a.safe(at(8)), a.bytes, a.is_empty()), (Some(at(8)), 0, true));
    }

    #[test]
    fn the_position_stays_before_the_earliest_unfinished_effect() {
        let mut a = Assembly::default();
        a.take(part(1, 0, 2, 1), Some(at(4)));
        a.take(part(2, 0, 2, 1), Some(at(6)));
        assert_eq!(a.safe(at(9)), Some(at(4)));
        a.take(part(1, 1, 2, 1), Some(at(9)));
        assert_eq!(a.safe(at(10)), Some(at(6)));
        a.forget(&|_, seq| seq == 2);
        assert_eq!(a.safe(at(10)), Some(at(10)));
        a.take(part(3, 0, 2, 1), None);
        assert_eq!(a.safe(at(11)), None, "the log began in the middle of it");
    }

    #[test]
    fn memory_is_bounded_and_what_was_dropped_is_read_again() {
        let mut a = Assembly::default();
        a.take(part(1, 0, 2, PART_BYTES), Some(at(0)));
        let mut seq = 1;
        loop {
            seq += 1;
            if a.take(part(seq, 0, 2, PART_BYTES), Some(at(seq))) == Taken::Full {
                break;
            }
        }
        assert!(a.bytes <= ASSEMBLY_BYTES_MAX);
        assert_eq!(a.take(part(seq, 1, 2, 1), Some(at(seq + 1))), Taken::Full);
        for done in 1..seq {
            assert!(!a.must_reread());
            assert!(matches!(a.take(part(done, 1, 2, 0), Some(at(1000))), Taken::Whole(_)));
        }
        assert!(a.must_reread());
        assert_eq!(a.safe(at(2000)), Some(at(seq)));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut a = Assembly::default();
        assert!(matches!(a.take(part(1, 0, COUNT_MAX + 1, 1), None), Taken::Bad(_)));
        assert_eq!(a.take(part(1, 0, 2, 1), None), Taken::Kept);
        assert!(matches!(a.take(part(1, 1, 3, 1), None), Taken::Bad(_)));
    }
}
