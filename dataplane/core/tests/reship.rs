//! Repair of keys that regions hold differently: it makes them equal, brings back nothing that was deleted, and changes
//! nothing where nothing differs, however late a piece comes. Starts no server.

#[allow(dead_code, unreachable_pub)]
mod common;

use bytes::Bytes;
use common::{Region, Write};
use mas_core::effect::{Effect, Kind, Value};
use mas_core::elements::LookBounds;
use mas_core::keyspace::Keyspace;
use mas_core::record::{Body, Record};
use mas_core::reship::{ReshipError, Which};
use mas_core::shard::Shard;
use mas_core::slot::slot_of;
use mas_core::stamp::{Hlc, RegionId};
use mas_core::wire;
use proptest::prelude::*;

const KEYS: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Write),
    /// A region reads another's log to its end.
    Read(usize, usize),
    /// A region damages what it is about to read: it counts an effect of the other as merged that it drops.
    Lose(usize, usize),
    Beat(usize),
    Collect(usize),
    Sleep(u16),
    /// A piece of a key is made by one region for another ...
    Ship(usize, usize, u8),
    /// ... and comes, some time later.
    Arrive(prop::sample::Index),
}

fn write() -> impl Strategy<Value = Write> {
    let k = 0..KEYS;
    prop_oneof![
        3 => (k.clone(), any::<u16>()).prop_map(|(k, v)| Write::Set(k, v)),
        2 => (k.clone(), -50i16..50).prop_map(|(k, n)| Write::Incr(k, n)),
        3 => k.clone().prop_map(Write::Del),
        2 => (k.clone(), 0u8..3, any::<u16>()).prop_map(|(k, f, v)| Write::HSet(k, f, v)),
        3 => (k.clone(), 0u8..3).prop_map(|(k, f)| Write::HDel(k, f)),
        2 => (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, f, n)| Write::HIncr(k, f, n)),
        2 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SAdd(k, m)),
        3 => (k.clone(), 0u8..3).prop_map(|(k, m)| Write::SRem(k, m)),
        2 => (k.clone(), 0u8..3, -50i16..50).prop_map(|(k, m, s)| Write::ZIncr(k, m, s)),
        1 => (k, 0u8..3).prop_map(|(k, m)| Write::ZRem(k, m)),
        1 => Just(Write::Flush),
    ]
}

fn with_ttl() -> impl Strategy<Value = Write> {
    let k = 0..KEYS;
    prop_oneof![
        4 => write(),
        1 => (k.clone(), any::<u16>(), 0u16..60).prop_map(|(k, v, t)| Write::SetEx(k, v, t)),
        2 => (k.clone(), 0u16..60).prop_map(|(k, t)| Write::Expire(k, t)),
        1 => k.prop_map(Write::Persist),
    ]
}

fn steps(write: impl Strategy<Value = Write>) -> impl Strategy<Value = Vec<Step>> {
    let pair = || (0usize..3, 1usize..3).prop_map(|(a, off)| (a, (a + off) % 3));
    let step = prop_oneof![
        8 => (0usize..3, write).prop_map(|(r, w)| Step::Write(r, w)),
        5 => pair().prop_map(|(to, from)| Step::Read(to, from)),
        2 => pair().prop_map(|(to, from)| Step::Lose(to, from)),
        4 => (0usize..3).prop_map(Step::Beat),
        3 => (0usize..3).prop_map(Step::Collect),
        1 => (0u16..30).prop_map(Step::Sleep),
        3 => (pair(), 0..KEYS).prop_map(|((from, to), k)| Step::Ship(from, to, k)),
        3 => any::<prop::sample::Index>().prop_map(Step::Arrive),
    ];
    prop::collection::vec(step, 1..90)
}

fn name(k: u8) -> Vec<u8> {
    format!("k{k}").into_bytes()
}

/// What a region shows, and its digests.
fn picture(region: &Region) -> (common::Map, Vec<u64>) {
    let digests = (0..KEYS).map(|k| region.shard.table().digest(slot_of(&name(k)), 0)).collect();
    (region.map.clone(), digests)
}

/// The same record with its effects emptied: who merges it has them in its cover, and lacks what they did.
fn emptied(record: &Bytes) -> Bytes {
    let mut record = Record::decode(record.clone()).expect("a record");
    let origin = record.origin;
    if let Body::Effects(effects) = &mut record.body {
        for bytes in effects {
            let effect = wire::decode_effect(bytes, origin).expect("an effect");
            *bytes = wire::encode_effect(&Effect { changes: Vec::new(), ..effect }, origin);
        }
    }
    record.encode()
}

struct Run {
    regions: Vec<Region>,
    read: [[usize; 3]; 3],
    now: u64,
    under_way: Vec<(usize, Bytes)>,
    damaged: bool,
}

impl Run {
    fn new() -> Self {
        let mut regions: Vec<Region> = (1..=3).map(Region::new).collect();
        for region in &mut regions {
            region.shard.set_members(1, (1..=3).map(RegionId).collect()).expect("a newer list");
        }
        Self { regions, read: [[0; 3]; 3], now: 10_000, under_way: Vec::new(), damaged: false }
    }

    fn read(&mut self, to: usize, from: usize, lose: bool) {
        let mut records = self.regions[from].log[self.read[to][from]..].to_vec();
        if let Some(first) = records.first_mut().filter(|_| lose) {
            *first = emptied(first);
            self.damaged = true;
        }
        self.read[to][from] = self.regions[from].log.len();
        self.regions[to].merge(from as u16 + 1, &records, self.now);
    }

    fn ship(&mut self, from: usize, to: usize, k: u8) -> Bytes {
        let until = self.regions[to].shard.merged_through().hlc;
        let Region { shard, map, .. } = &mut self.regions[from];
        shard.reship(&name(k), Which::After(None), until, map).1
    }

    fn arrive(&mut self, to: usize, piece: &Bytes) -> Result<(), ReshipError> {
        let now = self.now;
        let Region { shard, map, .. } = &mut self.regions[to];
        map.expire(now);
        let done = shard.take_reshipped(piece, map);
        map.expire(now);
        done.map(drop)
    }

    fn step(&mut self, step: &Step, damaging: bool) -> Result<(), TestCaseError> {
        self.now += 1;
        match step {
            Step::Write(r, write) => self.regions[*r].write(write, self.now),
            Step::Read(to, from) => self.read(*to, *from, false),
            Step::Lose(to, from) => self.read(*to, *from, damaging),
            Step::Beat(r) => self.regions[*r].beat(),
            Step::Collect(r) => self.regions[*r].collect(self.now),
            Step::Sleep(ms) => self.now += u64::from(*ms),
            Step::Ship(from, to, k) => {
                let piece = self.ship(*from, *to, *k);
                self.under_way.push((*to, piece));
            }
            Step::Arrive(which) => {
                if self.under_way.is_empty() {
                    return Ok(());
                }
                let (to, piece) = self.under_way[which.index(self.under_way.len())].clone();
                self.regions[to].map.expire(self.now);
                let before = picture(&self.regions[to]);
                let missing = self.regions[to].shard.stats.missing;
                let done = self.arrive(to, &piece);
                // Values that had expired before their renewal came may come back with a piece: a hole that is filled.
                if !self.damaged && missing == 0 {
                    prop_assert_eq!(before, picture(&self.regions[to]), "{:?} at {}", done, to);
                }
            }
        }
        Ok(())
    }

    /// Everybody has read everything, and says so.
    fn level(&mut self) {
        for _ in 0..3 {
            self.now += 1;
            for region in &mut self.regions {
                region.shard.tick(self.now);
                region.beat();
            }
            for (to, from) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                self.read(to, from, false);
            }
        }
    }

    /// As the verifier does it: one region's to all, then all to it, and again its to all.
    fn repair(&mut self, k: u8) {
        for (from, to) in [(0, 1), (0, 2), (1, 0), (2, 0), (0, 1), (0, 2)] {
            let piece = self.ship(from, to, k);
            self.arrive(to, &piece).expect("all have merged all");
        }
    }
}

fn run(steps: &[Step], damaging: bool) -> Result<Run, TestCaseError> {
    let mut run = Run::new();
    for step in steps {
        run.step(step, damaging)?;
    }
    run.level();
    Ok(run)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_nothing_differs_a_repair_changes_nothing_however_late_it_comes(steps in steps(with_ttl())) {
        let mut run = run(&steps, false)?;
        run.now += 100;
        for region in &mut run.regions {
            region.map.expire(run.now);
        }
        let before: Vec<_> = run.regions.iter().map(picture).collect();
        (0..KEYS).for_each(|k| run.repair(k));
        if run.regions.iter().all(|region| region.shard.stats.missing == 0) {
            prop_assert_eq!(before, run.regions.iter().map(picture).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_differs_is_equal_afterwards_and_stays_so(steps in steps(write())) {
        let mut run = run(&steps, true)?;
        (0..KEYS).for_each(|k| run.repair(k));
        let first = picture(&run.regions[0]);
        for other in &run.regions[1..] {
            prop_assert_eq!(&first, &picture(other), "region {}", other.id.0);
        }
        // Forgetting, then merging again what was under way, brings back nothing.
        run.level();
        for r in 0..3 {
            run.regions[r].collect(run.now);
        }
        for (to, piece) in run.under_way.clone() {
            let _ = run.arrive(to, &piece);
        }
        run.level();
        for region in &run.regions {
            prop_assert_eq!(&first, &picture(region), "region {} later", region.id.0);
        }
    }

    #[test]
    fn what_is_not_equal_is_seen_in_the_elements(steps in steps(write())) {
        let mut run = run(&steps, true)?;
        for k in 0..KEYS {
            let of = |region: &mut Region| {
                let Region { shard, map, .. } = region;
                let all = shard.elements(&name(k), None, LookBounds::DEFAULT, map);
                prop_assert!(all.elements.iter().all(|e| e.fits), "{:?}", all);
                let sum = all.elements.iter().fold(0, |sum: u64, e| sum.wrapping_add(e.digest));
                prop_assert_eq!(sum, shard.table().digest(slot_of(&name(k)), 0));
                let live = all.elements.into_iter().filter(|e| e.digest != 0);
                Ok(live.map(|e| (e.name, e.digest, e.shown)).collect::<Vec<_>>())
            };
            let (mine, theirs) = (of(&mut run.regions[0])?, of(&mut run.regions[1])?);
            let same = run.regions[0].map.keys.get(&name(k)) == run.regions[1].map.keys.get(&name(k));
            if !same {
                prop_assert_ne!(mine, theirs);
            }
        }
    }
}

/// Two regions that know each other, level.
fn two() -> Run {
    let mut run = Run::new();
    run.regions.truncate(2);
    for region in &mut run.regions {
        region.shard.set_members(1, [RegionId(1), RegionId(2)].into()).expect("a newer list");
    }
    run
}

fn exchange(run: &mut Run) {
    run.now += 10;
    for _ in 0..3 {
        for region in &mut run.regions {
            region.shard.tick(run.now);
            region.beat();
        }
        run.read(0, 1, false);
        run.read(1, 0, false);
    }
}

#[test]
fn a_piece_that_tells_of_what_was_forgotten_since_is_refused() {
    let mut run = two();
    run.regions[0].write(&Write::HSet(0, 1, 7), run.now);
    exchange(&mut run);
    let late = run.ship(0, 1, 0);
    run.regions[1].write(&Write::HDel(0, 1), run.now);
    exchange(&mut run);
    run.regions[1].collect(run.now);
    assert_eq!(run.arrive(1, &late), Err(ReshipError::Forgotten));
    assert!(run.regions[1].map.keys.is_empty());
}

#[test]
fn a_piece_that_tells_of_what_is_under_way_is_refused() {
    let mut run = two();
    exchange(&mut run);
    run.regions[0].write(&Write::Set(0, 7), run.now + 5);
    let until = run.regions[0].shard.clock();
    let Region { shard, map, .. } = &mut run.regions[0];
    let (_, piece) = shard.reship(&name(0), Which::After(None), until, map);
    assert_eq!(run.arrive(1, &piece), Err(ReshipError::Early));
    // What the receiver was told of alone is in a piece for it.
    let piece = run.ship(0, 1, 0);
    run.arrive(1, &piece).unwrap();
    assert!(run.regions[1].map.keys.is_empty());
    let mut torn = piece.to_vec();
    torn.truncate(20);
    assert!(matches!(run.arrive(1, &torn.into()), Err(ReshipError::Decode(_))));
}

#[test]
fn of_two_values_under_one_stamp_the_one_that_is_shipped_wins_and_only_that() {
    let mut run = two();
    run.regions[0].write(&Write::HSet(0, 1, 7), run.now);
    run.regions[0].write(&Write::HSet(0, 2, 7), run.now);
    exchange(&mut run);
    for (f, value) in [(1, "damaged"), (2, "other")] {
        let value = Value::Bytes(Bytes::from(value));
        run.regions[1].map.write(b"k0", Kind::Hash, &[b'f', f], &value);
    }
    let looked = |run: &mut Run, r: usize| {
        let Region { shard, map, .. } = &mut run.regions[r];
        shard.elements(b"k0", None, LookBounds::DEFAULT, map).elements
    };
    let (mine, theirs) = (looked(&mut run, 0), looked(&mut run, 1));
    assert_eq!(mine[0].digest, theirs[0].digest);
    assert_ne!(mine[0].shown, theirs[0].shown);
    let until = run.regions[1].shard.merged_through().hlc;
    let Region { shard, map, .. } = &mut run.regions[0];
    let (_, piece) = shard.reship(b"k0", Which::Only(&[&[b'f', 1]]), until, map);
    run.arrive(1, &piece).unwrap();
    let repaired = looked(&mut run, 1);
    assert_eq!(repaired[0].shown, mine[0].shown);
    assert_eq!(repaired[1].shown, theirs[1].shown, "that one was not shipped");
}

#[test]
fn what_is_shown_and_not_in_the_metadata_does_not_fit() {
    let mut region = Region::new(1);
    region.write(&Write::HIncr(0, 1, 7), 20_000);
    region.write(&Write::SAdd(1, 1), 20_001);
    region.map.write(b"k0", Kind::Hash, &[b'f', 1], &Value::Bytes("8".into()));
    region.map.remove(b"k1", Kind::Set, &[b'f', 1]);
    for key in [b"k0", b"k1"] {
        let Region { shard, map, .. } = &mut region;
        let all = shard.elements(key, None, LookBounds::DEFAULT, map).elements;
        assert_eq!(all.iter().map(|e| e.fits).collect::<Vec<_>>(), [false], "{all:?}");
    }
}

#[test]
fn large_keys_are_looked_at_and_shipped_piece_by_piece() {
    let mut run = two();
    for f in 0..200 {
        run.regions[0].write(&Write::HSet(0, f, u16::from(f)), run.now);
    }
    run.level_two_with_nothing_merged();
    let bounds = LookBounds { elements: 7, ..LookBounds::DEFAULT };
    let (mut after, mut seen) = (None::<Bytes>, 0);
    loop {
        let Region { shard, map, .. } = &mut run.regions[0];
        let some = shard.elements(b"k0", after.as_deref(), bounds, map);
        assert!(some.elements.is_sorted_by_key(|e| e.name.clone()) && some.elements.len() <= 7);
        seen += some.elements.len();
        after = some.elements.last().map(|e| e.name.clone());
        if !some.more {
            break;
        }
    }
    assert_eq!(seen, 200);
    let mut pieces = 0;
    let mut after = None::<Bytes>;
    loop {
        let until = run.regions[1].shard.merged_through().hlc;
        assert_ne!(until, Hlc::ZERO);
        let Region { shard, map, .. } = &mut run.regions[0];
        let (next, piece) = shard.reship(b"k0", Which::After(after.as_deref()), until, map);
        run.arrive(1, &piece).unwrap();
        pieces += 1;
        let Some(next) = next else { break };
        after = Some(next);
    }
    println!("{pieces} pieces");
    assert_eq!(picture(&run.regions[0]), picture(&run.regions[1]));
}

impl Run {
    /// Region 2 counts all of region 1's effects as merged, and has none.
    fn level_two_with_nothing_merged(&mut self) {
        let lost: Vec<Bytes> = self.regions[0].log.iter().map(emptied).collect();
        self.regions[1].merge(1, &lost, self.now);
        self.read[1][0] = self.regions[0].log.len();
        exchange(self);
    }
}

#[test]
fn a_replica_does_what_its_master_did() {
    let mut run = two();
    for f in 0..20 {
        run.regions[0].write(&Write::HIncr(0, f, 3), run.now);
    }
    run.level_two_with_nothing_merged();
    // A copy of the receiver, as replicas are.
    let mut loader = mas_core::save::Loader::default();
    run.regions[1].shard.save(&mut |chunk| loader.chunk(Bytes::copy_from_slice(chunk)).expect("a chunk"));
    let mut replica: Shard = loader.finish().expect("the state");
    let mut map = run.regions[1].map.clone();
    let piece = run.ship(0, 1, 0);
    let Region { shard, map: masters, .. } = &mut run.regions[1];
    let done = shard.take_reshipped(&piece, masters).unwrap();
    assert!(done.applied > 0, "{done:?}");
    replica.apply(done.entry, run.now, &mut map).unwrap();
    assert_eq!(map, run.regions[1].map);
    let digest = |shard: &Shard| shard.table().digest(slot_of(b"k0"), 0);
    assert_eq!(digest(&replica), digest(&run.regions[1].shard));
}
