//! One run over all shards of a store. Bounded in memory: one shard at a time, of that the keys of some slots, of these a few keys at
//! once, of a key some elements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use jiff::Timestamp;
use tokio::time::sleep;

use super::compare::{Comparison, Found, Next, plan, why_left};
use super::engine::{Master, SLOTS};
use super::report::{ELEMENTS_MAX, ElementReport, Held, KeyReport, Outcome, Report, name};
use mas_core::slot::slot_of;

/// How often what differs is looked at before it is left undecided, and the time in between: effects are under way for
/// less, unless a region is away.
const ROUNDS: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);
/// How long a shard may have no serving master before the run ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// Keys that expire sooner are not compared: each region forgets them in its own time.
const SOON_MS: u64 = 15_000;
/// Keys whose names are held at once, in each region, about.
const KEYS_AT_ONCE: u64 = 50_000;
/// Slots that are walked for at once, at most.
const SLOTS_AT_ONCE: u64 = 1024;
/// Keys of a shard that are remembered as reported; of more, some may be counted twice.
const TOLD_MAX: usize = 1_000_000;
/// Keys that are looked at side by side.
const SIDE_BY_SIDE: usize = 8;
/// Repairs of one key before it is given up; each takes up to a thousand elements.
const REPAIRS: usize = 100;
/// Repairs in a row after which a key is no better.
const REPAIRS_IN_VAIN: usize = 3;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No master to ask.
    #[error("shard {shard} of {region} has no master")]
    NoMaster {
        /// The region.
        region: String,
        /// The shard.
        shard: u16,
    },
    /// It did not answer, or not as it should.
    #[error("asking the master of shard {shard} of {region} failed: {why}")]
    Engine {
        /// The region.
        region: String,
        /// The shard.
        shard: u16,
        /// Why.
        why: String,
    },
}

/// A region of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) id: u16,
}

/// What a run needs of the platform.
pub(crate) trait Place: Send + Sync + 'static {
    /// The store's name.
    fn store(&self) -> String;
    /// Its regions.
    fn regions(&self) -> Vec<Region>;
    /// Its shards.
    fn shards(&self) -> u16;
    /// Those that are compared.
    fn compared(&self) -> Range<u16> {
        0..self.shards()
    }
    /// Where the master of a shard answers, `host:port`.
    fn master(&self, region: &str, shard: u16) -> Option<String>;
    /// The engines' password.
    fn password(&self) -> String;
}

/// How to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    pub(super) repair: bool,
    pub(super) sample_percent: u8,
    /// Random.
    pub(super) seed: u64,
}

/// Compares the regions of `place` once, and repairs nothing.
pub(crate) async fn compare_once(place: &impl Place, sample_percent: u8) -> Report {
    verify(place, How { repair: false, sample_percent, seed: rand::random() }, None).await
}

/// Compares all regions. What was found until it failed is in the report, too.
pub(super) async fn verify(place: &impl Place, how: How, request: Option<String>) -> Report {
    let began = Instant::now();
    let mut regions = place.regions();
    regions.sort_by_key(|region| region.id);
    let report = Report {
        store: place.store(),
        request,
        started_at: Timestamp::now().to_string(),
        regions: regions.iter().map(|region| region.name.clone()).collect(),
        repair: how.repair,
        ..Report::default()
    };
    let mut run = Run {
        how,
        names: regions.iter().map(|region| (region.id, region.name.clone())).collect(),
        shard: 0,
        masters: Vec::new(),
        told: HashSet::new(),
        report,
    };
    for shard in place.compared() {
        if let Err(error) = run.shard(place, &regions, shard).await {
            run.report.failed = Some(error.to_string());
            break;
        }
    }
    let mut report = run.report;
    report.duration_millis = began.elapsed().as_millis() as u64;
    report.finished_at = Timestamp::now().to_string();
    report
}

struct Run {
    how: How,
    names: BTreeMap<u16, String>,
    shard: u16,
    /// Of the shard at hand, in the order of the regions' ids.
    masters: Vec<Master>,
    /// Hashes of its keys that were reported: the sample meets some of them again.
    told: HashSet<u64>,
    report: Report,
}

/// What is known of a key after some looks.
enum Judged {
    Equal,
    Open,
    Differs(Found),
}

impl Run {
    async fn shard(&mut self, place: &impl Place, regions: &[Region], shard: u16) -> Result<(), VerifyError> {
        self.shard = shard;
        self.told.clear();
        let began = Instant::now();
        self.masters = loop {
            match connect(place, regions, shard).await {
                // One may just be promoted.
                Err(_) if began.elapsed() < PATIENCE => sleep(PAUSE).await,
                connected => break connected?,
            }
        };
        let largest = self.masters.iter().map(|master| master.keys).max().unwrap_or(0);
        self.slots(largest).await?;
        self.report.slots += SLOTS as u64;
        self.report.keys_compared += largest;
        self.sample().await
    }

    async fn beyond(&mut self) -> Result<u64, VerifyError> {
        let clocks = try_join_all(self.masters.iter_mut().map(Master::clock_ms)).await?;
        Ok(clocks.into_iter().max().unwrap_or(0) + SOON_MS)
    }

    /// The slots of `among` (`None`: all) whose digests differ each time that they are looked at.
    async fn differing(&mut self, among: Option<BTreeSet<u16>>) -> Result<BTreeSet<u16>, VerifyError> {
        let mut differ = among;
        for _ in 0..ROUNDS {
            let beyond_ms = self.beyond().await?;
            let all = try_join_all(self.masters.iter_mut().map(|master| master.digests(beyond_ms))).await?;
            let differs = |slot: &usize| all.iter().any(|digests| digests[*slot] != all[0][*slot]);
            let now: BTreeSet<u16> = (0..SLOTS).filter(differs).map(|slot| slot as u16).collect();
            let left =
                differ.map_or_else(|| now.clone(), |before| before.intersection(&now).copied().collect());
            if left.is_empty() {
                return Ok(left);
            }
            differ = Some(left);
            sleep(PAUSE).await;
        }
        Ok(differ.unwrap_or_default())
    }

    /// Compares by digests, and looks into what differs.
    async fn slots(&mut self, keys: u64) -> Result<(), VerifyError> {
        let differ: Vec<u16> = self.differing(None).await?.into_iter().collect();
        let at_once = (KEYS_AT_ONCE * SLOTS as u64 / keys.max(1)).clamp(1, SLOTS_AT_ONCE) as usize;
        let mut nameless = BTreeSet::new();
        for slots in differ.chunks(at_once) {
            let beyond_ms = self.beyond().await?;
            let all =
                try_join_all(self.masters.iter_mut().map(|master| master.keys(slots, beyond_ms))).await?;
            let candidates = candidates(&all);
            let named: BTreeSet<u16> = candidates.iter().map(|key| slot_of(key)).collect();
            nameless.extend(slots.iter().copied().filter(|slot| !named.contains(slot)));
            for keys in candidates.chunks(SIDE_BY_SIDE) {
                self.settle(keys.to_vec()).await?;
            }
        }
        if !nameless.is_empty() {
            for slot in self.differing(Some(nameless)).await? {
                let words =
                    format!("slot {slot} of shard {} differs, and no key of it that has a name", self.shard);
                self.report.leave_open(words);
            }
        }
        Ok(())
    }

    /// Compares the values of a random sample of each region's keys.
    async fn sample(&mut self) -> Result<(), VerifyError> {
        let How { sample_percent, seed, .. } = self.how;
        if sample_percent == 0 {
            return Ok(());
        }
        for region in 0..self.masters.len() {
            let mut cursor = Vec::new();
            loop {
                // Each region gives other keys.
                let first = region * usize::from(sample_percent) % 100;
                let asked = self.masters[region].sample(seed, first, sample_percent, &cursor).await?;
                cursor = asked.0;
                self.report.keys_sampled += asked.1.len() as u64;
                for keys in asked.1.chunks(SIDE_BY_SIDE) {
                    self.settle(keys.to_vec()).await?;
                }
                if cursor.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks at some keys until each is decided, repairs what differs, and reports.
    async fn settle(&mut self, mut open: Vec<Vec<u8>>) -> Result<(), VerifyError> {
        open.retain(|key| !self.told.contains(&hash(key)));
        let mut doubtful: HashMap<Vec<u8>, Found> = HashMap::new();
        for round in 0..ROUNDS {
            if round > 0 {
                sleep(PAUSE).await;
            }
            let judged = self.look_at(&open).await?;
            let mut left = Vec::new();
            for (key, judged) in open.into_iter().zip(judged) {
                match judged {
                    Judged::Equal => drop(doubtful.remove(&key)),
                    Judged::Open => left.push(key),
                    // Seen twice: the first time might still be a moment in between.
                    Judged::Differs(found) if doubtful.contains_key(&key) => {
                        doubtful.remove(&key);
                        self.differs(&key, found).await?;
                    }
                    Judged::Differs(found) => {
                        doubtful.insert(key.clone(), found);
                        left.push(key);
                    }
                }
            }
            open = left;
            if open.is_empty() {
                return Ok(());
            }
        }
        for key in open {
            self.tell(&key);
            let words = format!("'{}' of shard {} was written to all the time", name(&key), self.shard);
            self.report.leave_open(words);
        }
        Ok(())
    }

    async fn look_at(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Judged>, VerifyError> {
        let beyond_ms = self.beyond().await?;
        let looks = keys.iter().map(|key| compare(self.masters.clone(), &self.names, key, beyond_ms));
        let found = join_all(looks).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let judged = found.into_iter().map(|found| match (found.differs(), found.open) {
            (true, _) => Judged::Differs(found),
            (false, true) => Judged::Open,
            (false, false) => Judged::Equal,
        });
        Ok(judged.collect())
    }

    /// A key differs: repairs it, if that is wanted, and reports.
    async fn differs(&mut self, key: &[u8], found: Found) -> Result<(), VerifyError> {
        let (outcome, why) = if self.how.repair {
            let why = self.repair(key, found.clone()).await?;
            (if why.is_some() { Outcome::NotRepaired } else { Outcome::Repaired }, why)
        } else {
            (Outcome::Found, None)
        };
        self.tell(key);
        let regions: Vec<&String> = self.names.values().collect();
        let elements = found.differences.iter().take(ELEMENTS_MAX).map(|difference| ElementReport {
            element: difference.name.as_deref().map(name),
            what: difference.what.word().to_owned(),
            held: (regions.iter().zip(&difference.held))
                .map(|(region, held)| Held { region: (*region).clone(), holds: held.clone() })
                .collect(),
        });
        let elements: Vec<_> = elements.collect();
        self.report.add(KeyReport {
            key: name(key),
            slot: slot_of(key),
            shard: self.shard,
            kind: found.kind.clone(),
            elements_unlisted: (found.differences.len() - elements.len()) as u64 + found.unlisted,
            elements,
            outcome,
            why,
        });
        Ok(())
    }

    fn tell(&mut self, key: &[u8]) {
        if self.told.len() < TOLD_MAX {
            self.told.insert(hash(key));
        }
    }

    /// Repairs a key; why it is not equal afterwards, if it is not. What a piece could not bring, for effects were under way, is brought by the
    /// next; and a key of many elements needs several.
    async fn repair(&mut self, key: &[u8], mut found: Found) -> Result<Option<String>, VerifyError> {
        let mut in_vain = 0;
        for _ in 0..REPAIRS {
            let before = found.differences.len() as u64 + found.unlisted;
            let refused = self.carry_out(key, &found).await;
            let mut rounds = 0;
            found = loop {
                match self.look_at(&[key.to_vec()]).await?.pop() {
                    None | Some(Judged::Equal) => return Ok(None),
                    Some(Judged::Differs(found)) => break found,
                    Some(Judged::Open) if rounds < ROUNDS => rounds += 1,
                    Some(Judged::Open) => {
                        return Ok(Some(
                            "it is written to all the time: the next run looks at it again".into(),
                        ));
                    }
                }
                sleep(PAUSE).await;
            };
            in_vain = if found.differences.len() as u64 + found.unlisted < before { 0 } else { in_vain + 1 };
            if in_vain >= REPAIRS_IN_VAIN {
                return Ok(Some(refused.err().unwrap_or_else(|| why_left(&found))));
            }
            sleep(PAUSE).await;
        }
        Ok(Some(why_left(&found)))
    }

    async fn carry_out(&mut self, key: &[u8], found: &Found) -> Result<(), String> {
        for step in plan(found, self.masters.len()) {
            let until = found.merged[step.to];
            let mut after: Option<Vec<u8>> = None;
            loop {
                let source = &mut self.masters[step.from];
                let (piece, next) = source.ship(key, &step.only, after.as_deref(), until).await?;
                self.masters[step.to].take(&piece).await?;
                if next.is_none() {
                    break;
                }
                after = next;
            }
        }
        Ok(())
    }
}

/// The masters of a shard in all regions.
async fn connect(place: &impl Place, regions: &[Region], shard: u16) -> Result<Vec<Master>, VerifyError> {
    let password = place.password();
    let masters = regions.iter().map(async |region| {
        let missing = || VerifyError::NoMaster { region: region.name.clone(), shard };
        let address = place.master(&region.name, shard).ok_or_else(missing)?;
        Master::connect(&region.name, shard, &address, &password).await
    });
    try_join_all(masters).await
}

fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Keys that not all regions have with the same digest.
fn candidates(all: &[HashMap<Vec<u8>, u64>]) -> Vec<Vec<u8>> {
    let differs = |key: &&Vec<u8>| {
        let of = |keys: &HashMap<Vec<u8>, u64>| keys.get(*key).copied().unwrap_or(0);
        all.iter().any(|keys| of(keys) != of(&all[0]))
    };
    let names: BTreeSet<&Vec<u8>> = all.iter().flat_map(|keys| keys.keys()).filter(differs).collect();
    names.into_iter().cloned().collect()
}

/// One key in all regions.
async fn compare(
    mut masters: Vec<Master>,
    names: &BTreeMap<u16, String>,
    key: &[u8],
    beyond_ms: u64,
) -> Result<Found, VerifyError> {
    let mut comparison = Comparison::new(masters.len(), beyond_ms);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let looks = masters.iter_mut().map(|master| master.look(key, after.as_deref()));
        let looks = try_join_all(looks).await?;
        match comparison.feed(&looks, names) {
            (_, Next::Done(found)) => return Ok(found),
            (Some(next), Next::Behind(name)) => (comparison, after) = (next, Some(name)),
            (None, Next::Behind(_)) => return Ok(Found::default()),
        }
    }
}
