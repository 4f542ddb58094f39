use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const INC: Incarnation = Incarnation(9);

fn batcher() -> Batcher {
    let mut b = Batcher::new(RegionId(1), ShardId(0), Pace::default());
    b.go_online();
    b
}

fn ids() -> impl FnMut() -> u64 {
    let mut next = 0;
    move || {
        next += 1;
        next
    }
}

fn effect(n: usize) -> Bytes {
    Bytes::from(vec![1; n])
}

#[test]
fn publishes_at_once_when_idle_and_gathers_when_busy() {
    let (mut b, mut ids) = (batcher(), ids());
    b.push(INC, 1, effect(10));
    let first = b.poll(1000, &mut ids).expect("idle: at once");
    b.push(INC, 2, effect(10));
    b.push(INC, 3, effect(10));
    assert_eq!(b.poll(1500, &mut ids), None, "one is unconfirmed");
    assert_eq!(b.wake_us(), Some(2000));
    let second = b.poll(2000, &mut ids).expect("after the gap");
    assert_eq!(second.effects, 2);
    assert_eq!(b.settle(second.ticket, true, 2100).expect("released").ranges, [(2, 3)]);
    assert_eq!(b.settle(first.ticket, true, 2200).expect("released").took_us, 1200);
    assert_eq!(b.take_trims(), vec![(INC, vec![(1, 3)])]);
    assert!(b.is_idle() && b.take_trims().is_empty());
}

#[test]
fn many_writers_gather_for_longer_than_one() {
    let (mut b, mut ids) = (batcher(), ids());
    for seq in 1..=8 {
        b.push(INC, seq, effect(10));
    }
    let first = b.poll(1000, &mut ids).expect("at once");
    assert!(b.settle(first.ticket, true, 1100).is_some());
    b.push(INC, 9, effect(10));
    assert_eq!(b.wake_us(), Some(1000 + 8 * 200));
    let second = b.poll(2600, &mut ids).expect("after the gap");
    assert!(b.settle(second.ticket, true, 2700).is_some());
    b.push(INC, 10, effect(10));
    assert_eq!(b.wake_us(), Some(2900), "one writer: the shortest gap");
}

#[test]
fn a_full_batch_does_not_wait() {
    let (mut b, mut ids) = (batcher(), ids());
    b.push(INC, 1, effect(10));
    b.poll(0, &mut ids).expect("first");
    for seq in 2..10 {
        b.push(INC, seq, effect(BATCH_BYTES / 4));
    }
    assert_eq!(b.poll(1, &mut ids).expect("full").effects, 4);
}

#[test]
fn a_large_effect_travels_in_parts_and_is_released_with_the_last() {
    let (mut b, mut ids) = (batcher(), ids());
    assert_eq!(b.push(INC, 1, effect(PART_BYTES * 2 + 5)), Pushed::Taken);
    let tickets: Vec<_> = (0..3).map(|_| b.poll(0, &mut ids).expect("part").ticket).collect();
    assert_eq!(b.poll(0, &mut ids), None);
    assert_eq!(b.settle(tickets[2], true, 1), None);
    assert_eq!(b.settle(tickets[0], true, 1), None);
    assert!(b.holds(INC, 1));
    assert_eq!(b.settle(tickets[1], true, 1).expect("whole").ranges, [(1, 1)]);
    assert!(b.is_idle() && !b.holds(INC, 1));
}

#[test]
fn what_was_refused_or_lost_is_published_again() {
    let (mut b, mut ids) = (batcher(), ids());
    b.push(INC, 1, effect(10));
    let one = b.poll(0, &mut ids).expect("published");
    assert_eq!(b.settle(one.ticket, false, 10), None);
    assert_eq!(b.poll(11, &mut ids), None, "a pause first");
    let again = b.poll(200_000, &mut ids).expect("again");
    assert_eq!(again.record, one.record);
    b.go_offline();
    assert_eq!(b.poll(900_000, &mut ids), None);
    assert_eq!(b.settle(again.ticket, true, 900_000), None, "a late word about a lost connection");
    b.go_online();
    let third = b.poll(900_001, &mut ids).expect("once more");
    assert!(b.settle(third.ticket, true, 900_002).is_some());
}

#[test]
fn the_bound_is_kept_and_what_is_beyond_stays_outside() {
    let mut b = batcher();
    let mut seq = 0;
    loop {
        seq += 1;
        if b.push(INC, seq, effect(100_000)) == Pushed::Full {
            break;
        }
    }
    assert!(b.kept_bytes() <= Pace::default().bytes_max && seq > 300);
    assert!(!b.holds(INC, seq) && b.holds(INC, 1));
    assert_eq!(b.push(INC, 1, effect(1)), Pushed::Known);
}

/// While a broker is away, each of two proxies keeps every other effect of a busy shard.
#[test]
fn however_scattered_effects_are_kept_up_to_the_bound() {
    let mut b = batcher();
    for seq in (1..40_000).step_by(2) {
        assert_eq!(b.push(INC, seq, effect(10)), Pushed::Taken);
    }
}

#[test]
fn heartbeats_do_not_pile_up() {
    let (mut b, mut ids) = (batcher(), ids());
    b.go_offline();
    let origin = Origin { region: RegionId(1), incarnation: INC };
    for id in 100..200 {
        let body = Body::Heartbeat(crate::record::Heartbeat::default());
        b.push_heartbeat(&Record { id, shard: ShardId(0), origin, body });
    }
    b.go_online();
    assert_eq!(b.poll(0, &mut ids).map(|p| p.id), Some(199));
    assert_eq!(b.poll(0, &mut ids), None);
}

proptest! {
    /// Whatever order confirms, refusals and lost connections come in: exactly what a broker confirmed is released,
    /// and at the end everything was.
    #[test]
    fn releases_exactly_what_was_confirmed(steps in prop::collection::vec((0u8..6, 0usize..8), 1..200)) {
        let (mut b, mut ids) = (batcher(), ids());
        let mut now = 0u64;
        let mut seq = 0u64;
        let mut open: Vec<Publish> = Vec::new();
        let mut confirmed: BTreeSet<u64> = BTreeSet::new();
        let mut parts: HashMap<u64, BTreeSet<u32>> = HashMap::new();
        let mut released: BTreeSet<u64> = BTreeSet::new();
        let mut confirm = |b: &mut Batcher, p: Publish, now: u64, released: &mut BTreeSet<u64>| {
            match Record::decode(p.record).unwrap().body {
                Body::Effects(effects) => confirmed.extend(effects.iter().map(|e| e.len() as u64)),
                Body::Part { seq, index, count, .. } => {
                    let got = parts.entry(seq).or_default();
                    got.insert(index);
                    if got.len() == count as usize {
                        confirmed.insert(seq);
                    }
                }
                _ => {}
            }
            if let Some(r) = b.settle(p.ticket, true, now) {
                for (first, last) in r.ranges {
                    for seq in first..=last {
                        assert!(released.insert(seq), "released twice");
                    }
                }
            }
            assert!(released.is_subset(&confirmed));
        };
        for (kind, n) in steps {
            now += 400;
            match kind {
                0 | 1 => {
                    seq += 1;
                    // An effect's length names it; a few are large.
                    if n == 0 && seq.is_multiple_of(5) {
                        b.push(INC, seq, effect(PART_BYTES + 1));
                    } else {
                        b.push(INC, seq, effect(seq as usize));
                    }
                }
                2 => open.extend(b.poll(now, &mut ids)),
                3 if !open.is_empty() => {
                    let p = open.remove(n % open.len());
                    confirm(&mut b, p, now, &mut released);
                }
                4 if !open.is_empty() => {
                    let p = open.remove(n % open.len());
                    prop_assert_eq!(b.settle(p.ticket, false, now), None);
                }
                5 if n == 0 => {
                    b.go_offline();
                    open.clear();
                    b.go_online();
                }
                _ => {}
            }
        }
        for p in std::mem::take(&mut open) {
            confirm(&mut b, p, now, &mut released);
        }
        while !b.is_idle() {
            now += 200_000;
            let p = b.poll(now, &mut ids).expect("something is left");
            confirm(&mut b, p, now, &mut released);
        }
        prop_assert_eq!(released, (1..=seq).collect::<BTreeSet<_>>());
        let trims = b.take_trims();
        prop_assert_eq!(trims, if seq == 0 { vec![] } else { vec![(INC, vec![(1, seq)])] });
    }
}
