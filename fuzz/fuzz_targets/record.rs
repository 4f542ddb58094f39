//! Records: round trips, heads read without the rest, bounded memory, and the arithmetic of a heartbeat's cover.

#![no_main]

use bytes::Bytes;
use fuzz::bounded::bounded;
use libfuzzer_sys::fuzz_target;
use mas_core::cover::{Cover, RUNS_MAX, SeqSet};
use mas_core::record::{Body, Record};
use mas_core::transfer::Chunk;

fn check_set(set: &SeqSet) {
    assert!(!set.is_empty() && set.runs().count() <= RUNS_MAX + 1);
    // Runs and holes together are all numbers up to the last, each once.
    let mut all: Vec<(u64, u64)> = set.runs().chain(set.holes_up_to(set.last())).collect();
    all.sort_unstable();
    let mut before = 0;
    for (first, last) in all {
        assert!(first == before + 1 && first <= last, "{first}..={last} after {before}");
        before = last;
    }
    assert_eq!(before, set.last());
    // However it is put together.
    let mut other = SeqSet::default();
    let mut runs: Vec<_> = set.runs().collect();
    runs.reverse();
    for (first, last) in runs {
        assert!(set.contains(first) && set.contains(last));
        other.insert_run_unbounded(first, last);
    }
    assert_eq!(&other, set);
    let (mut left, mut right) = (set.clone(), set.clone());
    let middle = set.last() / 2;
    left.remove_run(middle.saturating_add(1), u64::MAX);
    right.remove_run(0, middle);
    assert!(left.meet(&right).is_empty() && set.includes(&left) && set.includes(&right));
    for (first, last) in right.runs() {
        left.insert_run_unbounded(first, last);
    }
    assert_eq!(&left, set);
}

fn check_cover(cover: &Cover) {
    assert!(cover.includes(cover) && &cover.meet(cover) == cover);
    cover.iter().for_each(|(_, set)| check_set(set));
}

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let record = match bounded(4096 + 512 * data.len(), || Record::decode(bytes.clone())) {
        Ok(record) => record,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    let encoded = record.encode();
    assert_eq!(Record::decode(encoded.clone()).as_ref(), Ok(&record));
    assert_eq!(Record::peek_id(&bytes), Some(record.id));
    let holds_effects = matches!(record.body, Body::Effects(_) | Body::Part { .. });
    assert_eq!(Record::peek_effects_of(&bytes), holds_effects.then_some(record.origin));
    match &record.body {
        Body::Effects(effects) => {
            assert!(effects.iter().map(Bytes::len).sum::<usize>() <= data.len());
        }
        Body::Part { index, count, .. } => assert!(index < count),
        Body::Heartbeat(beat) => check_cover(&beat.cover),
        Body::Nonce(_) | Body::Sealed(_) => assert_eq!(encoded, bytes),
        Body::Want(_) => {}
        Body::State(state) => {
            for chunk in state.chunks().into_iter().flatten() {
                let bytes = chunk.len();
                let _ = bounded(4096 + 512 * bytes, || Chunk::decode(chunk, record.origin).map(drop));
            }
        }
    }
});
