//! Markers: writes that go through the front door of every member while a region joins. A marker that the joining copy shows, beside
//! everything that the marker names, proves that the whole way from that member through the source to the copy is live.

use bytes::Bytes;

use crate::cover::Cover;
use crate::slot::slot_of;
use crate::stamp::{Incarnation, RegionId};
use crate::wire::{Reader, Writer};

/// What reserved keys begin with. They go when the operation ends, and expire by themselves if it never does.
pub const PREFIX: &str = "mas:marker";
/// Seconds after which a marker that nobody took away is gone.
pub const EXPIRES_S: u64 = 24 * 3600;

/// One marker as somebody shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The member's incarnation when it was written.
    pub incarnation: Incarnation,
    /// What the member had before it was written.
    pub cover: Cover,
}

/// The key of a member's marker in a shard with these slots (inclusive ranges; not empty).
pub fn key(ticket: u64, member: RegionId, slots: &[(u16, u16)]) -> String {
    let inside = |slot: u16| slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
    let name = |n: u32| format!("{PREFIX}:{ticket:016x}:{}:{{{n:x}}}", member.0);
    (0..u32::MAX).map(name).find(|name| inside(slot_of(name.as_bytes()))).unwrap_or_default()
}

impl Marker {
    /// As it is written.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(64);
        w.u64(self.incarnation.0);
        w.cover(&self.cover);
        w.finish()
    }

    /// Reads a value; `None` when it is no marker.
    pub fn decode(value: Bytes) -> Option<Self> {
        let mut r = Reader::new(value);
        let incarnation = Incarnation(r.u64("marker").ok()?);
        let cover = r.cover().ok()?;
        r.end("marker").ok()?;
        Some(Self { incarnation, cover })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cover::SeqSet;
    use crate::slot::even_ranges;
    use crate::stamp::Origin;

    #[test]
    fn a_marker_lives_in_its_shard_and_says_what_it_was_told() {
        for shards in [1, 3, 64] {
            for shard in 0..shards {
                let slots = even_ranges(shard, shards);
                let key = key(7, RegionId(2), &slots);
                let slot = slot_of(key.as_bytes());
                assert!(slots.iter().any(|(a, b)| (*a..=*b).contains(&slot)), "{key}");
            }
        }
        let mut cover = Cover::default();
        cover.set(Origin { region: RegionId(2), incarnation: Incarnation(9) }, SeqSet::up_to(5));
        let marker = Marker { incarnation: Incarnation(9), cover };
        assert_eq!(Marker::decode(marker.encode()), Some(marker));
        assert_eq!(Marker::decode(Bytes::from_static(b"hello")), None);
    }
}
