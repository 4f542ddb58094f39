//! A flush and what it overtakes: the same whichever arrives first. Starts no server.
#![allow(clippy::unwrap_used)] // test helpers

use mas_core::effect::Kind;
use mas_core::meta::{Cells, KeyMeta};
use mas_core::slot::slot_of;
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, Stamp};
use mas_core::table::Table;

fn stamp(at: u64) -> Stamp {
    Stamp::new(Hlc(at), Origin { region: RegionId(1), incarnation: Incarnation(1) })
}

/// A string that expires: written at 10 and 11, below a flush at 20; and once more an expiry above it, at 30.
fn write(table: &mut Table) {
    table.update(b"k", |meta| {
        if meta.enter(Kind::Str, stamp(10)) && stamp(10) > meta.floor {
            let cell = meta.cell_mut(b"").unwrap();
            (cell.base, cell.present) = (stamp(10), true);
        }
        meta.ttl.expire(stamp(11), stamp(11), Some(5));
    });
}

#[test]
fn a_flush_voids_earlier_times_to_live_in_either_order() {
    let slot = slot_of(b"k");
    let mut before = Table::new((1, 2));
    write(&mut before);
    before.raise_slot_floor(slot, stamp(20));
    let mut after = Table::new((1, 2));
    after.raise_slot_floor(slot, stamp(20));
    after.update(b"k", |meta| assert!(!meta.ttl.expire(stamp(11), stamp(11), Some(5))));
    for table in [&mut before, &mut after] {
        assert_eq!(table.read(b"k", KeyMeta::clone), KeyMeta::below(stamp(20)));
        assert_eq!(table.sizes().rich, 0, "nothing is kept beyond the slot's floor");
        table.update(b"k", |meta| assert!(meta.ttl.expire(stamp(30), stamp(30), Some(5))));
        table.read(b"k", |meta| assert_eq!((meta.ttl.at_ms(), &meta.cells), (Some(5), &Cells::None)));
    }
}
