//! What is done to a store, and when: drawn from the seed at once, bounded in number and time. Pure.
//!
//! Four tracks run side by side, each with one fault at a time: processes, network, clocks, disks. All stays within what
//! `docs/limits.md` allows: clocks are far from the hard limit, nothing on a disk is lost, and no power.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// A part of the store, found when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The master of a shard.
    Master,
    /// Another member of a shard.
    Replica,
    /// A proxy.
    Proxy,
    /// The broker.
    Broker,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// `kill -9`; its supervisor starts it again.
    Kill(Part),
    /// `kill -9`, and it stays down for the time given.
    Hold(Part),
    /// SIGSTOP, of which the controller knows nothing.
    Freeze(Part),
    /// SIGSTOP through `masctl`: the controller replaces a master.
    Pause(Part),
    /// Nothing passes between two regions.
    Cut { other: usize },
    /// What the region writes does not reach the other.
    CutOneWay { other: usize },
    /// All clocks of the region are off by so many milliseconds.
    SkewRegion(i64),
    /// The clock of one part is.
    SkewPart(Part, i64),
    /// The disk of the n-th part that has one of its own is full.
    Fill(usize),
}

/// When, what, where, for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Milliseconds from the start.
    pub(crate) at: u64,
    /// Milliseconds.
    pub(crate) lasts: u64,
    /// In this region.
    pub(crate) region: usize,
    /// This.
    pub(crate) what: What,
    /// Chooses among several parts of a kind.
    pub(crate) choice: usize,
}

/// The tracks of a run of so many milliseconds.
pub(crate) fn plan(seed: u64, regions: usize, millis: u64, disks: usize) -> Vec<Vec<Planned>> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6a65_7073_656e);
    let mut tracks = vec![
        track(&mut rng, regions, millis, 4_000..9_000, process_deck),
        track(&mut rng, regions, millis, 9_000..18_000, |_, rng| network_deck(regions, rng)),
        track(&mut rng, regions, millis, 5_000..14_000, |_, rng| clock_deck(rng)),
    ];
    if disks > 0 {
        tracks.push(track(&mut rng, regions, millis, 14_000..24_000, |_, rng| disk_deck(disks, rng)));
    }
    tracks
}

/// Deals a deck again and again, with pauses from `gap`, until the time is over.
fn track(
    rng: &mut StdRng,
    regions: usize,
    millis: u64,
    gap: std::ops::Range<u64>,
    deck: impl Fn(usize, &mut StdRng) -> Vec<(What, std::ops::Range<u64>)>,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut at = rng.random_range(gap.clone()) / 2;
    for round in 0.. {
        let mut cards = deck(round, rng);
        cards.shuffle(rng);
        for (what, lasts) in cards {
            let lasts = rng.random_range(lasts);
            if at + lasts > millis {
                return planned;
            }
            let (region, choice) = (rng.random_range(0..regions), rng.random_range(0..64));
            planned.push(Planned { at, lasts, region, what, choice });
            at += lasts + rng.random_range(gap.clone());
        }
    }
    planned
}

fn process_deck(round: usize, _: &mut StdRng) -> Vec<(What, std::ops::Range<u64>)> {
    let mut deck = vec![
        (What::Kill(Part::Master), 1..2),
        (What::Kill(Part::Proxy), 1..2),
        (What::Kill(Part::Replica), 1..2),
        (What::Hold(Part::Master), 1_000..6_000),
        (What::Freeze(Part::Master), 300..6_000),
        (What::Pause(Part::Master), 1_000..8_000),
        (What::Freeze(Part::Proxy), 300..5_000),
        (What::Freeze(Part::Broker), 500..6_000),
        (What::Kill(Part::Broker), 1..2),
    ];
    if round % 2 == 1 {
        deck.extend([(What::Hold(Part::Broker), 3_000..9_000), (What::Freeze(Part::Replica), 500..9_000)]);
    }
    deck
}

fn network_deck(regions: usize, rng: &mut StdRng) -> Vec<(What, std::ops::Range<u64>)> {
    let other = rng.random_range(1..regions);
    vec![(What::Cut { other }, 2_000..12_000), (What::CutOneWay { other }, 2_000..12_000)]
}

fn clock_deck(rng: &mut StdRng) -> Vec<(What, std::ops::Range<u64>)> {
    let mut off = |most: i64| rng.random_range(300..=most) * if rng.random() { 1 } else { -1 };
    vec![
        (What::SkewRegion(off(20_000)), 4_000..12_000),
        (What::SkewRegion(off(2_000)), 4_000..12_000),
        (What::SkewPart(Part::Master, off(20_000)), 4_000..12_000),
        (What::SkewPart(Part::Replica, off(20_000)), 4_000..12_000),
        (What::SkewPart(Part::Proxy, off(20_000)), 4_000..12_000),
    ]
}

fn disk_deck(disks: usize, _: &mut StdRng) -> Vec<(What, std::ops::Range<u64>)> {
    (0..disks).map(|disk| (What::Fill(disk), 3_000..9_000)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_all_end_in_time() {
        for seed in 0..50 {
            let tracks = plan(seed, 3, 120_000, 2);
            assert_eq!(tracks, plan(seed, 3, 120_000, 2));
            assert_eq!(tracks.len(), 4);
            for planned in tracks.iter().flatten() {
                assert!(planned.at + planned.lasts <= 120_000 && planned.region < 3);
                if let What::Cut { other } | What::CutOneWay { other } = planned.what {
                    assert!((1..3).contains(&other));
                }
            }
            assert!((4..60).contains(&tracks.iter().flatten().count()));
        }
        assert_ne!(plan(1, 2, 120_000, 0), plan(2, 2, 120_000, 0));
    }
}
