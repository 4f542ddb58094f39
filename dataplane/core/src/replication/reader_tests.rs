use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::cover::SeqSet;
use crate::effect::Effect;
use crate::wire::encode_effect;

const THERE: RegionId = RegionId(2);
const SHARD: ShardId = ShardId(0);

fn origin(n: u64) -> Origin {
    Origin { region: THERE, incarnation: Incarnation(n) }
}

fn effect(seq: u64) -> Bytes {
    encode_effect(&Effect { seq, hlc: Hlc::from_millis(seq), changes: Vec::new() }, origin(1))
}

fn record(id: u64, inc: u64, body: Body) -> Bytes {
    Record { id, shard: SHARD, origin: origin(inc), body }.encode()
}

fn effects(id: u64, seqs: &[u64]) -> Bytes {
    record(id, 1, Body::Effects(seqs.iter().map(|&s| effect(s)).collect()))
}

fn part(id: u64, seq: u64, index: u32, count: u32) -> Bytes {
    let whole = effect(seq);
    let cut = whole.len() / count as usize;
    let end = if index + 1 == count { whole.len() } else { cut * (index as usize + 1) };
    record(id, 1, Body::Part { seq, index, count, bytes: whole.slice(cut * index as usize..end) })
}

fn beat(id: u64) -> Bytes {
    record(id, 1, Body::Heartbeat(Heartbeat::default()))
}

fn at(offset: u64, record: u64) -> Position {
    Position { offset, record }
}

fn reader() -> Reader {
    let mut reader = Reader::new(THERE, SHARD, RegionId(99), None);
    assert_eq!(reader.begin(None, Cover::default(), 0), Attach::First);
    reader
}

#[test]
fn merges_in_order_and_moves_the_position() {
    let mut r = reader();
    r.delivered(0, effects(100, &[1, 2]), 1);
    r.delivered(1, effects(101, &[3]), 2);
    let merge = r.next_merge(0).expect("a merge");
    assert_eq!((merge.expected, merge.to, merge.bodies.len()), (None, at(1, 101), 2));
    assert_eq!(merge.hlc, Hlc::from_millis(3));
    r.delivered(2, effects(102, &[4]), 3);
    assert_eq!(r.next_merge(0), None, "one at a time");
    assert_eq!(r.merged(Merged::Done, 5), (Some(2), None));
    let merge = r.next_merge(5).expect("the next");
    assert_eq!((merge.expected, merge.to), (Some(at(1, 101)), at(2, 102)));
    assert!(!r.is_merged_up_to(2) && !r.is_merged_up_to(1));
    r.merged(Merged::Done, 6);
    assert!(r.is_merged_up_to(2));
}

#[test]
fn the_stored_record_must_be_there() {
    let mut r = reader();
    assert_eq!(r.begin(Some(at(7, 70)), Cover::default(), 0), Attach::At(7));
    assert_eq!(r.delivered(7, effects(70, &[1]), 1), Seen::default());
    r.delivered(8, effects(71, &[2]), 2);
    assert!(!r.is_truncated());
    assert_eq!(r.next_merge(0).map(|m| (m.expected, m.to)), Some((Some(at(7, 70)), at(8, 71))));

    r.begin(Some(at(7, 70)), Cover::default(), 0);
    assert_eq!(r.delivered(7, effects(99, &[1]), 1).reattach, Some(Attach::First), "another log");
    assert!(r.is_truncated());
    r.delivered(0, effects(5, &[1]), 2);
    assert_eq!(r.next_merge(0).map(|m| (m.expected, m.to)), Some((Some(at(7, 70)), at(0, 5))));

    r.begin(Some(at(7, 70)), Cover::default(), 0);
    assert_eq!(r.delivered(40, effects(99, &[9]), 1).reattach, None, "the broker gave the first one left");
    assert!(r.is_truncated());
    assert_eq!(r.next_merge(0).map(|m| m.to), Some(at(40, 99)));

    r.begin(Some(at(7, 70)), Cover::default(), 0);
    r.attached(100);
    assert_eq!(r.silent(100 + SILENCE_MS - 1), None);
    assert_eq!(r.silent(100 + SILENCE_MS), Some(Attach::First), "the log is shorter now");
}

#[test]
fn the_position_waits_for_all_parts() {
    let mut r = reader();
    r.delivered(0, effects(100, &[1]), 1);
    r.delivered(1, part(101, 2, 0, 2), 2);
    r.delivered(2, effects(102, &[3]), 3);
    let merge = r.next_merge(0).expect("what is whole is merged");
    assert_eq!((merge.to, merge.bodies.len()), (at(0, 100), 2));
    r.merged(Merged::Done, 0);
    assert_eq!(r.next_merge(COMMIT_MS * 2), None, "nothing to store");
    r.delivered(3, part(103, 2, 1, 2), 4);
    let merge = r.next_merge(0).expect("whole");
    assert_eq!((merge.expected, merge.to), (Some(at(0, 100)), at(3, 103)));
    let whole = Record::decode(merge.bodies[0].clone()).expect("a record");
    assert_eq!(whole.body, Body::Effects(vec![effect(2)]));
}

#[test]
fn a_record_that_cannot_be_read_is_skipped_and_reported() {
    let mut r = reader();
    assert!(r.delivered(0, Bytes::from_static(b"junk"), 1).dead.is_some());
    r.delivered(1, effects(101, &[1]), 2);
    r.delivered(2, effects(102, &[2]), 3);
    r.next_merge(0).expect("a merge");
    let (tag, dead) = r.merged(Merged::Undecodable(1), 0);
    assert_eq!((tag, dead), (None, Some(effects(102, &[2]))));
    let merge = r.next_merge(0).expect("again without it");
    assert_eq!((merge.to, merge.bodies), (at(2, 102), vec![effects(101, &[1])]));
    let alien = Record { id: 9, shard: ShardId(5), origin: origin(1), body: Body::Nonce(1) }.encode();
    r.merged(Merged::Done, 0);
    assert!(r.delivered(3, alien, 4).dead.is_some());
}

#[test]
fn heartbeats_store_the_position_now_and_then() {
    let mut r = reader();
    assert!(r.delivered(0, beat(100), 0).beat.is_some());
    let merge = r.next_merge(0).expect("that there is this origin must not be missed");
    assert_eq!((merge.to, merge.bodies), (at(0, 100), vec![beat(100)]));
    r.merged(Merged::Done, 0);
    for n in 1..100 {
        assert!(r.delivered(n, beat(100 + n), n).beat.is_some());
    }
    assert_eq!(r.idle_tag(), Some(99));
    let merge = r.next_merge(COMMIT_MS).expect("due");
    assert_eq!((merge.to, merge.bodies), (at(99, 199), vec![beat(199)]), "the last one tells the engine");
    r.merged(Merged::Done, COMMIT_MS);
    r.delivered(100, beat(200), 100);
    assert_eq!(r.next_merge(COMMIT_MS + 1), None);
    assert_eq!(r.wake_ms(), Some(COMMIT_MS * 2));
}

#[test]
fn on_the_own_stream_only_other_incarnations_are_merged() {
    let mut r = Reader::new(THERE, SHARD, THERE, Some(Incarnation(1)));
    r.begin(None, Cover::default(), 0);
    r.delivered(0, effects(100, &[1]), 1);
    let old = record(101, 5, Body::Effects(vec![effect(9)]));
    r.delivered(1, old.clone(), 2);
    assert_eq!(r.delivered(2, record(102, 1, Body::Nonce(77)), 3).nonce, Some(77));
    assert_eq!(r.next_merge(0).map(|m| m.bodies), Some(vec![old]));
}

#[test]
fn held_back_effects_are_tried_again_later() {
    let mut r = reader();
    r.delivered(0, effects(100, &[1]), 1);
    r.next_merge(0).expect("a merge");
    r.merged(Merged::Held, 50);
    assert_eq!((r.next_merge(60), r.wake_ms()), (None, Some(50 + HELD_WAIT_MS)));
    assert!(r.next_merge(50 + HELD_WAIT_MS).is_some());
}

#[test]
fn what_closes_gaps_is_merged_first() {
    let mut r = reader();
    r.delivered(0, effects(100, &[5]), 1);
    assert_eq!(r.next_merge(0).map(|m| m.bodies.len()), Some(1));
    r.merged(Merged::Gaps, 0);
    assert!(r.looks_ahead());
    assert_eq!(r.next_merge(1), None, "nothing further on yet");
    r.delivered(1, beat(101), 2);
    r.delivered(2, effects(102, &[3]), 3);
    r.delivered(3, effects(103, &[4]), 4);
    let merge = r.next_merge(2).expect("further on");
    assert_eq!((merge.expected, merge.to), (None, START), "the position stays");
    assert_eq!(merge.bodies, [beat(101), effects(102, &[3]), effects(103, &[4])]);
    r.merged(Merged::Done, 3);
    let merge = r.next_merge(4).expect("the front again, at once");
    assert_eq!((merge.expected, merge.to, merge.bodies.len()), (Some(START), at(3, 103), 1));
    assert_eq!(r.merged(Merged::Done, 5), (Some(4), None));
    assert!(!r.looks_ahead());
}

#[test]
fn with_gaps_that_stay_the_front_is_tried_now_and_then() {
    let mut r = reader();
    r.delivered(0, effects(100, &[5]), 1);
    for n in 0..3 {
        let now = n * HELD_WAIT_MS;
        assert!(r.next_merge(now).is_some());
        r.merged(Merged::Gaps, now);
        assert_eq!((r.next_merge(now + 1), r.wake_ms()), (None, Some(now + HELD_WAIT_MS)));
    }
}

/// A log, and an engine that keeps a cover and a position as one.
#[derive(Clone, Default)]
struct Engine {
    cover: BTreeSet<u64>,
    stored: Option<Position>,
    /// A rollback is a promotion, so it begins a new one; merges that mean another one are refused.
    incarnation: u64,
}

impl Engine {
    fn cover(&self) -> Cover {
        let mut set = SeqSet::default();
        for &seq in &self.cover {
            set.insert(seq).unwrap();
        }
        let mut cover = Cover::default();
        cover.set(origin(1), set);
        cover
    }

    fn merge(&mut self, merge: &Merge, incarnation: u64) -> bool {
        if self.stored != merge.expected || self.incarnation != incarnation {
            return false;
        }
        for body in &merge.bodies {
            let effects = match Record::decode(body.clone()).unwrap().body {
                Body::Effects(effects) => effects,
                Body::Heartbeat(_) => continue,
                other => panic!("{other:?}"),
            };
            self.cover.extend(effects.iter().map(|e| peek_effect(e).unwrap().0));
        }
        self.stored = Some(merge.to);
        true
    }
}

proptest! {
    /// Two proxies read side by side, crash, lose replies; the engine is rolled back; records come twice and parts far
    /// apart. The position never passes something that is not in the cover, and in the end everything is.
    #[test]
    fn positions_are_safe_under_any_interleaving(
        layout in prop::collection::vec((0u8..5, 1usize..4), 1..40),
        steps in prop::collection::vec((0usize..2, 0u8..8), 0..200),
    ) {
        // The log.
        let mut log: Vec<Bytes> = Vec::new();
        let mut needs: Vec<(usize, u64)> = Vec::new();
        let mut parts_of: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let mut late: Vec<(u64, u32)> = Vec::new();
        let mut seq = 0;
        for (kind, n) in layout {
            let id = log.len() as u64 + 1000;
            match kind {
                0 => log.push(beat(id)),
                1 => {
                    seq += 1;
                    parts_of.entry(seq).or_default().push(log.len());
                    log.push(part(id, seq, 0, 2));
                    late.push((seq, 1));
                }
                2 if !late.is_empty() => {
                    let (seq, index) = late.remove(n % late.len());
                    parts_of.entry(seq).or_default().push(log.len());
                    log.push(part(id, seq, index, 2));
                }
                3 if seq > 0 => log.push(effects(id, &[seq])),
                _ => {
                    let seqs: Vec<u64> = (0..n).map(|_| { seq += 1; seq }).collect();
                    needs.extend(seqs.iter().map(|&s| (log.len(), s)));
                    log.push(effects(id, &seqs));
                }
            }
        }
        for (seq, index) in late {
            parts_of.entry(seq).or_default().push(log.len());
            log.push(part(log.len() as u64 + 1000, seq, index, 2));
        }
        for (seq, at) in parts_of {
            needs.push((at[0], seq));
        }

        let mut engine = Engine::default();
        let mut saved = engine.clone();
        let mut readers = [reader(), reader()];
        let mut next = [0usize; 2];
        let mut meant = [0u64; 2];
        let mut now = 0;
        let begin = |r: &mut Reader, e: &Engine, now| match r.begin(e.stored, e.cover(), now) {
            Attach::First => 0,
            Attach::At(offset) => offset as usize,
        };
        let check = |e: &Engine| {
            if let Some(p) = e.stored.filter(|p| p.record != 0) {
                assert_eq!(Record::peek_id(&log[p.offset as usize]), Some(p.record));
                for (at, seq) in &needs {
                    assert!(*at > p.offset as usize || e.cover.contains(seq), "{seq} at {at} was passed: {p:?}");
                }
            }
        };
        for (who, what) in steps {
            now += 300;
            let r = &mut readers[who];
            match what {
                0..=3 => {
                    if let Some(bytes) = log.get(next[who]) {
                        next[who] += 1;
                        if let Some(attach) = r.delivered(next[who] as u64 - 1, bytes.clone(), 0).reattach {
                            next[who] = match attach { Attach::First => 0, Attach::At(o) => o as usize };
                        }
                    }
                }
                4 | 5 => {
                    if let Some(merge) = r.next_merge(now) {
                        let ok = engine.merge(&merge, meant[who]);
                        // 5: the reply is lost; the reader begins again with what is stored.
                        if ok && what == 4 {
                            r.merged(Merged::Done, now);
                        } else {
                            next[who] = begin(r, &engine, now);
                            meant[who] = engine.incarnation;
                        }
                    }
                }
                6 => saved = engine.clone(),
                _ => engine = Engine { incarnation: engine.incarnation + 1, ..saved.clone() },
            }
            check(&engine);
        }
        let r = &mut readers[0];
        let mut at = begin(r, &engine, now);
        while at < log.len() {
            now += 2000;
            match r.delivered(at as u64, log[at].clone(), 0).reattach {
                Some(Attach::First) => at = 0,
                Some(Attach::At(o)) => at = o as usize,
                None => at += 1,
            }
            if let Some(merge) = r.next_merge(now) {
                prop_assert!(engine.merge(&merge, engine.incarnation));
                r.merged(Merged::Done, now);
            }
            check(&engine);
        }
        while let Some(merge) = r.next_merge(now) {
            prop_assert!(engine.merge(&merge, engine.incarnation));
            r.merged(Merged::Done, now);
            now += 2000;
        }
        prop_assert_eq!(engine.cover.clone(), (1..=seq).collect::<BTreeSet<_>>());
        prop_assert_eq!(engine.stored.map(|p| p.offset + 1), Some(log.len() as u64));
    }
}
