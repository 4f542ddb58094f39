//! Parts of large effects, as records in any order: they are put together exactly when all are there.

#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use fuzz::bounded::bounded;
use fuzz::pieces::cut;
use libfuzzer_sys::fuzz_target;
use mas_core::record::{Body, Record};
use mas_core::replication::parts::{Assembly, Part, Taken};
use mas_core::shard::Position;

fuzz_target!(|data: &[u8]| {
    let records = cut(data);
    bounded(16384 + 512 * data.len(), || {
        let mut assembly = Assembly::default();
        // The parts that are waiting, and where the first of them is.
        let mut model: BTreeMap<_, (u32, u64, BTreeMap<u32, Bytes>)> = BTreeMap::new();
        let mut before = None;
        for (offset, record) in (1..).zip(records) {
            let Ok(record) = Record::decode(record) else { continue };
            let read = Position { offset, record: record.id };
            if let Body::Part { seq, index, count, bytes } = record.body {
                let key = (record.origin, seq);
                let part = Part { origin: record.origin, seq, index, count, bytes: bytes.clone() };
                let taken = assembly.take(part, before);
                let known = model.get(&key).map(|(known, ..)| *known);
                if count > 65 || known.is_some_and(|known| known != count) {
                    assert!(matches!(taken, Taken::Bad(why) if !why.is_empty()));
                } else {
                    let entry = model.entry(key).or_insert((count, offset, BTreeMap::new()));
                    entry.2.insert(index, bytes);
                    if entry.2.len() == count as usize {
                        let whole: Vec<u8> = entry.2.values().flatten().copied().collect();
                        model.remove(&key);
                        assert_eq!(taken, Taken::Whole(whole.into()));
                    } else {
                        assert_eq!(taken, Taken::Kept);
                    }
                }
            }
            assert_eq!((assembly.len(), assembly.is_empty()), (model.len(), model.is_empty()));
            // The position stays before the first part of whatever is not whole.
            let first = model.values().map(|(_, first, _)| *first).min();
            let safe = assembly.safe(read).map(|position| position.offset);
            match first {
                None => assert_eq!(safe, Some(offset)),
                Some(first) => assert!(safe.unwrap_or(0) < first),
            }
            before = Some(read);
        }
        assembly.forget(&|_, _| true);
        assert!(assembly.is_empty() && !assembly.must_reread());
    });
});
