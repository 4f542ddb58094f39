//! Random writes in three regions, delivered in any order, with duplicates, late: all regions show the same.
//! Starts no server; the engine's own tests run the same steps in a real Redis.

#[allow(dead_code, unreachable_pub)]
mod common;

use common::{Region, Write};
use mas_core::stamp::RegionId;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Write),
    /// Region `to` merges some records of `from`: start and length within what it has not merged yet, or again.
    Deliver {
        to: usize,
        from: usize,
        start: usize,
        len: usize,
    },
    Sleep(u16),
    /// A region tells how far it is.
    Beat(usize),
    /// A region forgets what is causally stable.
    Collect(usize),
}

fn write() -> impl Strategy<Value = Write> {
    let k = 0u8..4;
    prop_oneof![
        (k.clone(), any::<u16>()).prop_map(|(k, v)| Write::Set(k, v)),
        (k.clone(), -50i16..50).prop_map(|(k, n)| Write::Incr(k, n)),
        k.clone().prop_map(Write::Del),
        (k.clone(), 0u8..3, any::<u16>()).prop_map(|(k, f, v)| Write::HSet(k, f, v)),
        (k.clone(), 0u8..3).prop_map(|(k, f)| Write::HDel(k, f)),
        (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, f, n)| Write::HIncr(k, f, n)),
        (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SAdd(k, m)),
        (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SRem(k, m)),
        (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, m, s)| Write::ZAdd(k, m, s)),
        (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, m, s)| Write::ZIncr(k, m, s)),
        (k, 0u8..3).prop_map(|(k, m)| Write::ZRem(k, m)),
        Just(Write::Flush),
    ]
}

/// Keys whose values the metadata knows, or a renewal carries: strings that are set whole, counters, sets.
fn expiring_write() -> impl Strategy<Value = Write> {
    let (s, m) = (0u8..2, 4u8..6);
    prop_oneof![
        (s.clone(), any::<u16>(), 0u16..40).prop_map(|(k, v, t)| Write::SetEx(k, v, t)),
        (s.clone(), any::<u16>()).prop_map(|(k, v)| Write::Set(k, v)),
        (s.clone(), -50i16..50).prop_map(|(k, n)| Write::Incr(k, n)),
        (m.clone(), 0u8..3).prop_map(|(k, f)| Write::SAdd(k, f)),
        (m.clone(), 0u8..3).prop_map(|(k, f)| Write::SRem(k, f)),
        prop_oneof![s.clone(), m.clone()]
            .prop_flat_map(|k| (Just(k), 0u16..40))
            .prop_map(|(k, t)| Write::Expire(k, t)),
        prop_oneof![s.clone(), m.clone()].prop_map(Write::Persist),
        prop_oneof![s, m].prop_map(Write::Del),
    ]
}

fn steps(write: impl Strategy<Value = Write>) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0usize..3, write).prop_map(|(r, w)| Step::Write(r, w)),
        3 => (0usize..3, 1usize..3, 0usize..30, 1usize..6)
            .prop_map(|(to, off, start, len)| Step::Deliver { to, from: (to + off) % 3, start, len }),
        1 => (0u16..30).prop_map(Step::Sleep),
        1 => (0usize..3).prop_map(Step::Beat),
        1 => (0usize..3).prop_map(Step::Collect),
    ];
    prop::collection::vec(step, 1..60)
}

/// Runs the steps and delivers everything; returns the regions and the time.
fn run(steps: &[Step]) -> (Vec<Region>, u64) {
    run_with(steps, false)
}

/// The same, where regions may forget.
fn run_with(steps: &[Step], collecting: bool) -> (Vec<Region>, u64) {
    let mut now = 10_000;
    let mut regions: Vec<Region> = (1..=3).map(Region::new).collect();
    for region in &mut regions {
        region.shard.set_members(1, (1..=3).map(RegionId).collect()).expect("a newer list");
    }
    for step in steps {
        now += 1;
        match step {
            // Region clocks are apart by some milliseconds.
            Step::Write(r, write) => regions[*r].write(write, now + 7 * *r as u64),
            Step::Deliver { to, from, start, len } => {
                let log = regions[*from].log.clone();
                if !log.is_empty() {
                    let start = start % log.len();
                    let end = (start + len).min(log.len());
                    regions[*to].merge(*from as u16 + 1, &log[start..end], now + 7 * *to as u64);
                }
            }
            Step::Sleep(ms) => now += u64::from(*ms),
            Step::Beat(r) => regions[*r].beat(),
            Step::Collect(r) if collecting => regions[*r].collect(now + 7 * *r as u64),
            Step::Collect(_) => {}
        }
    }
    for to in 0..3 {
        for from in (0..3).filter(|f| *f != to) {
            let log = regions[from].log.clone();
            regions[to].merge(from as u16 + 1, &log, now + 7 * to as u64);
        }
    }
    now += 50;
    for region in &mut regions {
        region.map.expire(now);
    }
    (regions, now)
}

fn assert_equal(regions: &[Region]) -> Result<(), TestCaseError> {
    for other in &regions[1..] {
        prop_assert_eq!(&regions[0].map.keys, &other.map.keys, "regions 1 and {}", other.id.0);
        prop_assert_eq!(regions[0].shard.cover(), other.shard.cover());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn regions_converge(steps in steps(write())) {
        let (regions, _) = run(&steps);
        assert_equal(&regions)?;
    }

    #[test]
    fn regions_converge_with_expiry(steps in steps(expiring_write())) {
        let (regions, _) = run(&steps);
        // A value that expired here before a renewal of it by somebody who did not have it: counted, and fetched by
        // state repair. Everything else converges.
        if regions.iter().all(|r| r.shard.stats.missing == 0) {
            assert_equal(&regions)?;
        }
    }

    #[test]
    fn what_is_stable_is_forgotten_and_nobody_notices(steps in steps(prop_oneof![write(), expiring_write()])) {
        let (kept, _) = run(&steps);
        let (collected, _) = run_with(&steps, true);
        // Values that expired before their renewal are a hole that repair fills; see above.
        if kept.iter().all(|r| r.shard.stats.missing == 0) {
            assert_equal(&collected)?;
            for (one, other) in kept.iter().zip(&collected) {
                prop_assert_eq!(&one.map.keys, &other.map.keys, "region {}", one.id.0);
            }
        }
    }

    #[test]
    fn after_everybody_has_told_nothing_is_left_but_what_is_shown(steps in steps(prop_oneof![write(), expiring_write()])) {
        let (mut regions, mut now) = run_with(&steps, true);
        // Twice: first what each has, then that each has that.
        for _ in 0..3 {
            now += 1000;
            for region in &mut regions {
                region.shard.tick(now);
                region.beat();
            }
            for to in 0..3 {
                for from in (0..3).filter(|f| *f != to) {
                    let log = regions[from].log.clone();
                    regions[to].merge(from as u16 + 1, &log, now);
                }
            }
        }
        for region in &mut regions {
            region.collect(now);
            let left: Vec<_> = region
                .shard
                .table()
                .rich_entries()
                .filter(|(_, meta)| meta.tombstones() > 0 || !meta.is_live())
                .collect();
            prop_assert!(left.is_empty(), "region {}: {left:?}", region.id.0);
        }
    }

    #[test]
    fn a_replica_that_applies_the_log_is_the_same(steps in steps(write())) {
        let (regions, now) = run(&steps);
        // Merge everything of region 1 into a fresh region in one go: the same as piecemeal.
        let mut fresh = Region::new(9);
        for (from, region) in (1..).zip(&regions) {
            fresh.merge(from, &region.log, now);
        }
        prop_assert_eq!(&regions[0].map.keys, &fresh.map.keys);
        // And once more: nothing changes.
        let before = fresh.map.clone();
        fresh.merge(1, &regions[0].log, now);
        prop_assert_eq!(before, fresh.map.clone());
    }

    #[test]
    fn any_order_and_any_grouping_give_the_same(
        steps in steps(write()),
        order in prop::collection::vec(any::<prop::sample::Index>(), 300),
        group in 1usize..5,
    ) {
        let (regions, now) = run(&steps);
        let records: Vec<(u16, bytes::Bytes)> = regions
            .iter()
            .flat_map(|r| r.log.iter().map(|record| (r.id.0, record.clone())))
            .collect();
        prop_assume!(!records.is_empty());
        // Every record at least once, in an order drawn at random, with duplicates in between.
        let mut drawn: Vec<&(u16, bytes::Bytes)> = order.iter().map(|i| i.get(&records)).collect();
        drawn.extend(&records);
        let mut fresh = Region::new(9);
        for chunk in drawn.chunks(group) {
            for (from, record) in chunk {
                fresh.merge(*from, std::slice::from_ref(record), now);
            }
        }
        prop_assert_eq!(&regions[0].map.keys, &fresh.map.keys);
    }
}
