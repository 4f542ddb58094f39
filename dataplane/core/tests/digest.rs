//! Equal covers make equal digests, whatever was forgotten where; and what is kept up to date is what counting anew gives.
//! Starts no server.

#[allow(dead_code, unreachable_pub)]
mod common;

use bytes::Bytes;
use common::{Region, Write};
use mas_core::record::{Body, Record};
use mas_core::save::Loader;
use mas_core::shard::Shard;
use mas_core::slot::{SLOTS, slot_of};
use mas_core::stamp::{RegionId, ShardId};
use mas_core::transfer::{Cursor, PieceBounds, State, Want};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Write),
    /// Region `to` merges some records of `from`, again or not yet.
    Deliver {
        to: usize,
        from: usize,
        start: usize,
        len: usize,
    },
    Sleep(u16),
    Beat(usize),
    Collect(usize),
    /// Region 2 takes all state from region 3.
    Transfer,
}

fn write() -> impl Strategy<Value = Write> {
    let k = 0u8..4;
    prop_oneof![
        3 => (k.clone(), any::<u16>()).prop_map(|(k, v)| Write::Set(k, v)),
        2 => (k.clone(), any::<u16>(), 0u16..60).prop_map(|(k, v, t)| Write::SetEx(k, v, t)),
        2 => (k.clone(), -50i16..50).prop_map(|(k, n)| Write::Incr(k, n)),
        2 => k.clone().prop_map(Write::Del),
        2 => (k.clone(), 0u8..3, any::<u16>()).prop_map(|(k, f, v)| Write::HSet(k, f, v)),
        2 => (k.clone(), 0u8..3).prop_map(|(k, f)| Write::HDel(k, f)),
        2 => (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, f, n)| Write::HIncr(k, f, n)),
        2 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SAdd(k, m)),
        2 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SRem(k, m)),
        2 => (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, m, s)| Write::ZIncr(k, m, s)),
        1 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::ZRem(k, m)),
        4 => (k.clone(), 0u16..60).prop_map(|(k, t)| Write::Expire(k, t)),
        1 => k.prop_map(Write::Persist),
        1 => Just(Write::Flush),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..3, write()).prop_map(|(r, w)| Step::Write(r, w)),
        4 => (0usize..3, 1usize..3, 0usize..30, 1usize..6)
            .prop_map(|(to, off, start, len)| Step::Deliver { to, from: (to + off) % 3, start, len }),
        2 => (0u16..60).prop_map(Step::Sleep),
        2 => (0usize..3).prop_map(Step::Beat),
        2 => (0usize..3).prop_map(Step::Collect),
        1 => Just(Step::Transfer),
    ];
    prop::collection::vec(step, 1..70)
}

fn slots() -> impl Iterator<Item = u16> {
    (0..4).map(|k| slot_of(format!("k{k}").as_bytes()))
}

fn transfer(regions: &mut [Region], now: u64) {
    let since = regions[1].shard.merged_through().hlc;
    let mut cursor = Cursor::START;
    while cursor != Cursor::Done {
        let want = Want { of: RegionId(3), transfer: now, since, cursor };
        let source = &mut regions[2];
        let (next, chunk) = source.shard.export(&want, PieceBounds { keys: 2, bytes: 60 }, &mut source.map);
        let state = State::parts(RegionId(2), &[chunk]).remove(0);
        let record = Record { id: 5, shard: ShardId(0), origin: source.origin(), body: Body::State(state) };
        regions[1].merge(3, &[record.encode()], now);
        cursor = next;
    }
}

fn run(steps: &[Step], collecting: bool) -> Result<(Vec<Region>, u64), TestCaseError> {
    let mut now = 10_000;
    let mut regions: Vec<Region> = (1..=3).map(Region::new).collect();
    for region in &mut regions {
        region.shard.set_members(1, (1..=3).map(RegionId).collect()).expect("a newer list");
    }
    for step in steps {
        now += 1;
        match step {
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
            Step::Transfer if collecting => transfer(&mut regions, now),
            Step::Collect(_) | Step::Transfer => {}
        }
        for region in &regions {
            is_exact(&region.shard)?;
        }
    }
    deliver_all(&mut regions, now);
    Ok((regions, now))
}

fn deliver_all(regions: &mut [Region], now: u64) {
    for to in 0..3 {
        for from in (0..3).filter(|f| *f != to) {
            let log = regions[from].log.clone();
            regions[to].merge(from as u16 + 1, &log, now + 7 * to as u64);
        }
    }
}

/// What is kept up to date is what counting anew gives.
fn is_exact(shard: &Shard) -> Result<(), TestCaseError> {
    for slot in slots() {
        for beyond in [0, 10_030, u64::MAX] {
            let table = shard.table();
            prop_assert_eq!(table.digest(slot, beyond), table.recount(slot, beyond), "beyond {}", beyond);
        }
    }
    Ok(())
}

/// All copies have the same digests, of what expires after everybody's last forgetting, and of what expires later.
fn are_equal(shards: &[&Shard]) -> Result<(), TestCaseError> {
    let forgotten = shards.iter().map(|s| s.table().expired().millis()).max().unwrap_or(0);
    for later in [0, 5, 40, u64::MAX - forgotten] {
        let of = |shard: &Shard| -> Vec<u64> {
            slots().map(|slot| shard.table().digest(slot, forgotten + later)).collect()
        };
        for other in &shards[1..] {
            prop_assert_eq!(of(shards[0]), of(other), "what expires after {} + {}", forgotten, later);
        }
    }
    Ok(())
}

fn reload(shard: &Shard) -> Shard {
    let mut loader = Loader::default();
    shard.save(&mut |chunk| loader.chunk(Bytes::copy_from_slice(chunk)).expect("a chunk"));
    loader.finish().expect("the state")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_covers_make_equal_digests(steps in steps()) {
        let (kept, _) = run(&steps, false)?;
        let (mut collected, mut now) = run(&steps, true)?;
        let all: Vec<&Shard> = kept.iter().map(|r| &r.shard).collect();
        are_equal(&all)?;
        let all: Vec<&Shard> = collected.iter().map(|r| &r.shard).collect();
        are_equal(&all)?;
        // One after the other forgets everything that it may.
        for _ in 0..3 {
            now += 50;
            for region in &mut collected {
                region.shard.tick(now);
                region.beat();
            }
            deliver_all(&mut collected, now);
        }
        for at in 0..3 {
            collected[at].collect(now);
            is_exact(&collected[at].shard)?;
            let loaded = reload(&collected[at].shard);
            is_exact(&loaded)?;
            let mut all: Vec<&Shard> = collected.iter().map(|r| &r.shard).collect();
            all.push(&loaded);
            are_equal(&all)?;
        }
    }

    #[test]
    fn what_is_missing_is_seen(steps in steps(), missing in any::<prop::sample::Index>()) {
        let (regions, now) = run(&steps, false)?;
        let records: Vec<(u16, &Bytes)> =
            regions.iter().flat_map(|r| r.log.iter().map(|record| (r.id.0, record))).collect();
        prop_assume!(!records.is_empty());
        let mut fresh = Region::new(9);
        let skipped = missing.index(records.len());
        for (at, (from, record)) in records.iter().enumerate() {
            if at != skipped {
                fresh.merge(*from, std::slice::from_ref(*record), now);
            }
        }
        let mut whole = regions.into_iter().next().expect("a region");
        for region in [&mut whole, &mut fresh] {
            region.map.expire(now);
        }
        let of = |region: &Region| -> Vec<u64> {
            slots().map(|slot| region.shard.table().digest(slot, 0)).collect()
        };
        if of(&whole) == of(&fresh) && [&whole, &fresh].iter().all(|r| r.shard.stats.missing == 0) {
            prop_assert_eq!(&whole.map.keys, &fresh.map.keys);
        }
    }
}

#[test]
fn a_zero_that_was_counted_is_seen() {
    for write in [Write::Incr(0, 0), Write::HIncr(0, 0, 0), Write::ZIncr(0, 0, 0)] {
        let mut region = Region::new(1);
        region.write(&write, 20_000);
        assert_ne!(region.shard.table().digest(slot_of(b"k0"), 0), 0, "{write:?}");
    }
}

#[test]
fn a_local_flush_leaves_nothing() {
    let mut region = Region::new(1);
    for k in 0..4 {
        region.write(&Write::Set(k, 1), 20_000);
    }
    assert!(slots().any(|slot| region.shard.table().digest(slot, 0) != 0));
    region.write(&Write::Flush, 20_001);
    assert_eq!(slots().map(|slot| region.shard.table().digest(slot, 0)).sum::<u64>(), 0);
    assert_eq!((0..SLOTS).map(|slot| region.shard.table().recount(slot, 0)).sum::<u64>(), 0);
}
