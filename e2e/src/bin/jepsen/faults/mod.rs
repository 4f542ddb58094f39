//! What is done to the store: [`schedule`] draws it, this carries it out and notes when.

pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod schedule;
pub(crate) mod watch;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::{Store, process, wait_until};

use crate::history::Fault;
use clock::Clocks;
use disk::Disk;
use schedule::{Part, Planned, What};

/// How long a part that was hit is waited for.
const READY_WITHIN: Duration = Duration::from_secs(40);
/// It has to look ready so often in a row.
const READY_TIMES: u32 = 8;

/// Whom it is done to.
pub(crate) struct Victim<'a> {
    pub(crate) store: &'a Store,
    pub(crate) regions: &'a [String],
    pub(crate) clocks: &'a Clocks,
    pub(crate) disks: &'a [Disk],
    pub(crate) begun: Instant,
    pub(crate) noted: &'a Mutex<Vec<Fault>>,
}

/// What a fault is called, what it hit, and whether an engine may be lost by it.
struct Hit {
    kind: String,
    target: String,
    region: Option<usize>,
    engine: bool,
}

impl Victim<'_> {
    /// Carries out one track. What cannot be done now (a part that is down already) is left out.
    pub(crate) fn run(&self, track: &[Planned]) {
        for planned in track {
            let at = Duration::from_millis(planned.at);
            thread::sleep(at.saturating_sub(self.begun.elapsed()));
            let start = self.micros();
            match self.strike(planned) {
                Ok(hit) => {
                    let Hit { kind, target, region, engine } = hit;
                    self.wait_ready(&target, region);
                    let fault = Fault { kind, target, region, engine, start, end: self.micros() };
                    self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
                }
                Err(error) => eprintln!("  left out: {:?}: {error:#}", planned.what),
            }
        }
    }

    /// Waits until what was hit, and all that is like it, is ready again.
    fn wait_ready(&self, target: &str, region: Option<usize>) {
        let Some((region, part)) = region.map(|region| &self.regions[region]).zip(target.split('/').nth(1))
        else {
            return;
        };
        let prefix = format!("{region}/{}", part.split('-').next().unwrap_or_default());
        let mut times = 0;
        // What does not come back is left to the end of the run.
        let _ = wait_until("all to be ready", READY_WITHIN, || {
            let status = self.store.status().map_err(|error| error.to_string())?;
            let masters = status.region(region).is_some_and(|r| r.shards.iter().all(|s| s.master.is_some()));
            let mut alike = status.processes.iter().filter(|process| process.component.starts_with(&prefix));
            // What has just been killed is shown as ready for a moment.
            times = if masters && alike.all(|process| process.ready) { times + 1 } else { 0 };
            if times >= READY_TIMES { Ok(()) } else { Err("not yet".into()) }
        });
    }

    fn micros(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn strike(&self, planned: &Planned) -> Result<Hit> {
        let lasts = Duration::from_millis(planned.lasts);
        let region = self.regions[planned.region].as_str();
        let other = |other: usize| self.regions[(planned.region + other) % self.regions.len()].as_str();
        let hit = |part: Part, done: &str, target: &str| Hit {
            kind: format!("{} {done}", part.name()),
            target: target.to_owned(),
            region: Some(planned.region),
            engine: matches!(part, Part::Master | Part::Replica),
        };
        let net = |kind: &str, from: &str, to: &str| Hit {
            kind: kind.to_owned(),
            target: format!("{from} {to}"),
            region: None,
            engine: false,
        };
        match &planned.what {
            What::Kill(part) => {
                let target = self.find(*part, planned)?;
                self.store.kill(&target)?;
                Ok(hit(*part, "killed", &target))
            }
            What::Hold(part) => {
                let target = self.find(*part, planned)?;
                self.store.hold(&target)?;
                thread::sleep(lasts);
                self.store.resume(&target)?;
                Ok(hit(*part, "killed and held down", &target))
            }
            What::Pause(part) => {
                let target = self.find(*part, planned)?;
                self.store.pause(&target)?;
                thread::sleep(lasts);
                self.store.resume(&target)?;
                Ok(hit(*part, "paused and replaced", &target))
            }
            What::Freeze(part) => {
                let target = self.find(*part, planned)?;
                let pid = self.store.pid(&target)?;
                process::pause(pid)?;
                thread::sleep(lasts);
                // Its supervisor may have killed it for its silence.
                let _ = process::resume(pid);
                Ok(hit(*part, "frozen", &target))
            }
            What::Cut { other: number } => {
                self.store.cut(region, other(*number))?;
                thread::sleep(lasts);
                self.store.heal(region, other(*number))?;
                Ok(net("regions cut off", region, other(*number)))
            }
            What::CutOneWay { other: number } => {
                self.store.cut_one_way(region, other(*number))?;
                thread::sleep(lasts);
                self.store.heal(region, other(*number))?;
                Ok(net("regions cut off one way", region, other(*number)))
            }
            What::SkewRegion(millis) => {
                let parts = self.clocked(region)?;
                let set = |millis| parts.iter().try_for_each(|part| self.clocks.set(part, millis));
                set(*millis)?;
                thread::sleep(lasts);
                set(0)?;
                let (kind, region) = (skew("region", *millis), Some(planned.region));
                Ok(Hit {
                    kind,
                    target: format!("{} by {millis} ms", self.regions[planned.region]),
                    region,
                    engine: false,
                })
            }
            What::SkewPart(part, millis) => {
                let target = self.find(*part, planned)?;
                self.clocks.set(&target, *millis)?;
                thread::sleep(lasts);
                self.clocks.set(&target, 0)?;
                let (kind, region) = (skew(part.name(), *millis), Some(planned.region));
                Ok(Hit { kind, target: format!("{target} by {millis} ms"), region, engine: false })
            }
            What::Fill(number) => {
                let disk = &self.disks[*number];
                disk.fill()?;
                thread::sleep(lasts);
                disk.free()?;
                let region = disk.component.split('/').next().unwrap_or_default();
                let number = self.regions.iter().position(|name| name == region);
                let engine = disk.component.contains("redis");
                let kind = if engine { "engine's disk full" } else { "broker's disk full" };
                Ok(Hit { kind: kind.to_owned(), target: disk.component.clone(), region: number, engine })
            }
        }
    }

    /// The part of that kind whose turn it is.
    fn find(&self, part: Part, planned: &Planned) -> Result<String> {
        let region = self.regions[planned.region].as_str();
        let status = self.store.status()?;
        let shards = status.region(region).map_or(0, |region| region.shards.len()).max(1);
        let shard = (planned.choice % shards) as u16;
        let prefix = match part {
            Part::Master => return self.store.master(region, shard),
            Part::Replica => format!("{region}/shard-{shard}/"),
            Part::Proxy => format!("{region}/proxy-"),
            Part::Broker => format!("{region}/broker-"),
        };
        let master = if part == Part::Replica { self.store.master(region, shard).ok() } else { None };
        let all = status.processes.into_iter().map(|process| process.component);
        let all: Vec<String> =
            all.filter(|name| name.starts_with(&prefix) && Some(name) != master.as_ref()).collect();
        let count = all.len().max(1);
        all.into_iter().nth(planned.choice % count).with_context(|| format!("there is no {prefix}"))
    }

    /// The parts of a region whose clocks can be set.
    fn clocked(&self, region: &str) -> Result<Vec<String>> {
        let all = self.store.status()?.processes.into_iter().map(|process| process.component);
        let prefix = format!("{region}/");
        Ok(all.filter(|name| name.starts_with(&prefix) && !name.contains("broker")).collect())
    }
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Replica => "replica",
            Self::Proxy => "proxy",
            Self::Broker => "broker",
        }
    }
}

fn skew(whose: &str, millis: i64) -> String {
    let which = if millis > 0 { "ahead" } else { "back" };
    format!("{whose}'s clock set {which}")
}
