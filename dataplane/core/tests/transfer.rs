//! State taken from another region: what streams have lost is there afterwards, whatever is written meanwhile.
//! Starts no server; the simulator and the engine's own tests run the same steps.

#[allow(dead_code, unreachable_pub)]
mod common;

use common::{Region, Write};
use mas_core::cover::Cover;
use mas_core::record::{Body, Record};
use mas_core::replication::reader::Reader;
use mas_core::stamp::{RegionId, ShardId};
use mas_core::transfer::{Cursor, PieceBounds, State, Want};
use proptest::prelude::*;

const SMALL: PieceBounds = PieceBounds { keys: 1, bytes: 40 };

/// The piece that `to` is given by `from`, as a record of `from`'s stream.
fn piece(regions: &mut [Region], from: usize, to: usize, want: &Want) -> (Cursor, bytes::Bytes) {
    let source = &mut regions[from];
    let (next, chunk) = source.shard.export(want, SMALL, &mut source.map);
    let state = State::parts(RegionId(to as u16 + 1), &[chunk]).remove(0);
    let record = Record { id: 5, shard: ShardId(0), origin: source.origin(), body: Body::State(state) };
    (next, record.encode())
}

/// Asks for one more piece of the transfer that is under way, or begins one; whether that was all.
fn fetch(regions: &mut [Region], from: usize, to: usize, now: u64) -> bool {
    let receiver = &regions[to].shard;
    let want = match receiver.transfer() {
        Some(progress) if progress.next != Cursor::Done => {
            assert_eq!(progress.source, RegionId(from as u16 + 1));
            Want { of: progress.source, transfer: progress.id, since: progress.since, cursor: progress.next }
        }
        // None, or one that began before the source had all: it is followed by another.
        Some(_) | None => Want {
            of: RegionId(from as u16 + 1),
            transfer: 77,
            since: receiver.merged_through().hlc,
            cursor: Cursor::START,
        },
    };
    let (next, record) = piece(regions, from, to, &want);
    let adopted = regions[to].shard.stats.adopted;
    regions[to].merge(from as u16 + 1, &[record], now);
    assert_eq!(regions[to].shard.stats.adopted, adopted + 1, "{:?}", regions[to].shard.stats);
    next == Cursor::Done || regions[to].shard.transfer().is_none()
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Write),
    /// A region reads another's log to its end. Region 2 never gets what it has lost.
    Read(usize, usize),
    Beat(usize),
    Collect(usize),
    Sleep(u16),
    /// Region 2 gets the next piece of state.
    Fetch,
}

fn write() -> impl Strategy<Value = Write> {
    let k = 0u8..5;
    prop_oneof![
        4 => (k.clone(), any::<u16>()).prop_map(|(k, v)| Write::Set(k, v)),
        2 => (k.clone(), -50i16..50).prop_map(|(k, n)| Write::Incr(k, n)),
        2 => k.clone().prop_map(Write::Del),
        2 => (k.clone(), 0u8..5, any::<u16>()).prop_map(|(k, f, v)| Write::HSet(k, f, v)),
        2 => (k.clone(), 0u8..5).prop_map(|(k, f)| Write::HDel(k, f)),
        1 => (k.clone(), 0u8..5, -50i16..50).prop_map(|(k, f, n)| Write::HIncr(k, f, n)),
        2 => (k.clone(), 0u8..5).prop_map(|(k, m)| Write::SAdd(k, m)),
        1 => (k.clone(), 0u8..5).prop_map(|(k, m)| Write::SRem(k, m)),
        1 => (k.clone(), 0u8..5, -50i16..50).prop_map(|(k, m, s)| Write::ZIncr(k, m, s)),
        1 => (k, 0u8..5).prop_map(|(k, m)| Write::ZRem(k, m)),
        1 => Just(Write::Flush),
    ]
}

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
        6 => (0usize..3, write).prop_map(|(r, w)| Step::Write(r, w)),
        3 => (0usize..3, 1usize..3).prop_map(|(to, off)| Step::Read(to, (to + off) % 3)),
        1 => (0usize..3).prop_map(Step::Beat),
        1 => (0usize..3).prop_map(Step::Collect),
        1 => (0u16..30).prop_map(Step::Sleep),
        2 => Just(Step::Fetch),
    ];
    prop::collection::vec(step, 1..70)
}

struct Run {
    regions: Vec<Region>,
    now: u64,
    /// Where in the log of region 1 reading begins for region 2, and where it ends for a while: what is between is lost to it.
    lost: (usize, usize),
    read: [[usize; 3]; 3],
}

impl Run {
    fn read(&mut self, to: usize, from: usize) {
        let log = self.regions[from].log.clone();
        let mut records = Vec::new();
        for (at, record) in log.iter().enumerate().skip(self.read[to][from]) {
            let lost = (from, to) == (0, 1) && (self.lost.0..self.lost.1).contains(&at);
            if !lost {
                records.push(record.clone());
            }
        }
        self.read[to][from] = log.len();
        self.regions[to].merge(from as u16 + 1, &records, self.now + 7 * to as u64);
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match step {
            Step::Write(r, write) => self.regions[*r].write(write, self.now + 7 * *r as u64),
            Step::Read(to, from) => self.read(*to, *from),
            Step::Beat(r) => self.regions[*r].beat(),
            Step::Collect(r) => self.regions[*r].collect(self.now + 7 * *r as u64),
            Step::Sleep(ms) => self.now += u64::from(*ms),
            Step::Fetch => {
                if self.regions[1].shard.transfer().is_none_or(|t| t.next != Cursor::Done) {
                    fetch(&mut self.regions, 2, 1, self.now);
                }
            }
        }
    }

    fn level(&mut self) {
        for _ in 0..2 {
            for (to, from) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                self.read(to, from);
            }
        }
    }
}

fn run(steps: &[Step], lost: (usize, usize)) -> Vec<Region> {
    let mut regions: Vec<Region> = (1..=3).map(Region::new).collect();
    for region in &mut regions {
        region.shard.set_members(1, (1..=3).map(RegionId).collect()).expect("a newer list");
    }
    let mut run = Run { regions, now: 10_000, lost: (lost.0, lost.0 + lost.1), read: [[0; 3]; 3] };
    for step in steps {
        run.step(step);
    }
    run.level();
    // What is under way goes on to its end; then another one, for what that began too early for.
    for _ in 0..2 {
        while !fetch(&mut run.regions, 2, 1, run.now) {
            run.now += 1;
        }
        run.level();
    }
    run.now += 50;
    for region in &mut run.regions {
        region.map.expire(run.now);
    }
    run.regions
}

fn assert_equal(regions: &[Region]) -> Result<(), TestCaseError> {
    for other in &regions[1..] {
        prop_assert_eq!(regions[0].shard.cover(), other.shard.cover(), "region {}", other.id.0);
        prop_assert_eq!(&regions[0].map.keys, &other.map.keys, "region {}", other.id.0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_stream_has_lost_comes_as_state(steps in steps(write()), lost in (0usize..10, 0usize..10)) {
        assert_equal(&run(&steps, lost))?;
    }

    #[test]
    fn times_to_live_come_along(steps in steps(prop_oneof![write(), expiring_write()]), lost in (0usize..10, 0usize..10)) {
        let regions = run(&steps, lost);
        if regions.iter().all(|r| r.shard.stats.missing == 0) {
            assert_equal(&regions)?;
        }
    }
}

#[test]
fn who_lost_everything_has_not_merged_through_what_it_had_issued() {
    let both = || [RegionId(1), RegionId(2)].into_iter().collect();
    let mut b = Region::new(2);
    b.shard.set_members(1, both()).expect("a newer list");
    let mut a = Region::new(1);
    a.write(&Write::Set(0, 1), 1000);
    b.merge(1, &a.log.clone(), 1001);
    b.write(&Write::Set(1, 1), 1002);
    b.beat();
    // Its copies and its stream are lost.
    let mut a = Region { shard: mas_core::shard::Shard::new((1, 99)), log: Vec::new(), ..Region::new(1) };
    a.promote(2, 1002, 1003);
    a.shard.set_members(1, both()).expect("a newer list");
    a.merge(2, &b.log.clone(), 1004);
    assert_eq!(a.shard.merged_through().hlc, mas_core::stamp::Hlc::ZERO);
}

fn start(of: u16) -> Want {
    Want { of: RegionId(of), transfer: 5, since: mas_core::stamp::Hlc::ZERO, cursor: Cursor::START }
}

#[test]
fn pieces_wait_until_their_source_cannot_lose_what_is_in_them() {
    let mut regions: Vec<Region> = (1..=2).map(Region::new).collect();
    regions[1].beat();
    regions[1].write(&Write::Set(0, 1), 1000);
    let (_, piece) = piece(&mut regions, 1, 0, &start(2));
    let first = regions[1].log[0].clone();
    regions[1].beat();
    let last = regions[1].log.last().cloned().expect("a heartbeat");
    let mut reader = Reader::new(RegionId(2), ShardId(0), RegionId(1), None);
    reader.begin(None, Cover::default(), 0);
    let merged = |reader: &mut Reader, now_ms| {
        let bodies = reader.next_merge(now_ms).map(|merge| merge.bodies).unwrap_or_default();
        reader.merged(mas_core::replication::reader::Merged::Done, now_ms);
        bodies.into_iter().any(|body| matches!(Record::decode(body), Ok(Record { body: Body::State(_), .. })))
    };
    for (offset, record) in [(0, &first), (1, &piece), (2, &first)] {
        reader.delivered(offset, record.clone(), offset);
        assert!(!merged(&mut reader, offset), "no heartbeat says yet that it is durable");
    }
    reader.delivered(3, last, 3);
    assert!(merged(&mut reader, 3));
}

#[test]
fn what_was_taken_of_a_transfer_counts_when_another_one_follows() {
    let mut regions: Vec<Region> = (1..=2).map(Region::new).collect();
    regions[1].write(&Write::Set(0, 1), 1000);
    regions[1].write(&Write::Set(1, 1), 1001);
    let (next, first) = piece(&mut regions, 1, 0, &start(2));
    assert_ne!(next, Cursor::Done);
    regions[0].merge(2, &[first], 1002);
    // Its successor has nothing of that.
    let log = std::mem::replace(&mut regions[1], Region::new(2)).log;
    regions[1].promote(2, 77, 1003);
    let mut cursor = Cursor::START;
    while cursor != Cursor::Done {
        let (next, record) = piece(&mut regions, 1, 0, &Want { cursor, ..start(2) });
        regions[0].merge(2, &[record], 1004);
        assert_eq!(regions[0].shard.transfer().map(|t| t.next), Some(next.clone()), "it is not at its end");
        cursor = next;
    }
    regions[0].merge(2, &log, 1005);
    assert_eq!(regions[0].shard.transfer(), None);
}
