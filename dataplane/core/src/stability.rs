//! Causal stability: up to which stamp every region has everything, so that no effect with a lower one can arrive any
//! more, and whoever writes from now on has seen it all. What only guards against such late effects (tombstones, floors, ended lives) is then
//! forgotten.
//!
//! Two clocks in each region's heartbeats say it, both about what the region has durably:
//! * `clock`, with `issued`: effects of this origin up to `clock` have numbers up to `issued`. A receiver that has those has
//!   *merged through* that clock. The least of these over all origins is what the receiver itself has merged through.
//! * `stable`: what the sender had merged through.
//!
//! The least of all regions' `stable` is stable everywhere. An origin counts until it is sealed ([`crate::replication::sealing`]),
//! also when its incarnation has ended: a late batch of it may still come.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::cover::Cover;
use crate::shard::Shard;
use crate::slot::SLOTS;
use crate::stamp::{Hlc, Origin, RegionId};
use crate::wire::{Reader, WireError, Writer};

/// What an origin's heartbeat said about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its clock.
    pub clock: Hlc,
    /// The last number that it had issued.
    pub issued: u64,
    /// What its region had merged through, durably.
    pub stable: Hlc,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// The latest heartbeat of which all `issued` are here.
    settled: Told,
    /// One that waits for that. Later ones are not kept meanwhile, or it might never settle.
    pending: Option<Told>,
}

/// What a shard knows of the progress of all origins but its own live one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stability {
    /// The regions of the store, this one too; empty until told.
    members: BTreeSet<RegionId>,
    /// Orders what is told of the members: an older list never replaces a newer one.
    membership: u64,
    origins: BTreeMap<Origin, Progress>,
}

/// Up to where something holds, and for whom it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stable {
    /// Everything at or below.
    pub hlc: Hlc,
    /// The origin that holds it back; `None`: nobody else does.
    pub held_by: Option<Origin>,
}

impl Stability {
    /// The regions of the store.
    pub fn members(&self) -> &BTreeSet<RegionId> {
        &self.members
    }

    /// The epoch of the membership.
    pub fn membership(&self) -> u64 {
        self.membership
    }

    pub(crate) fn set_members(&mut self, membership: u64, members: BTreeSet<RegionId>) {
        self.members = members;
        self.membership = membership;
        // Who is no member has nothing to say; what came from it stays in the cover.
        self.origins.retain(|origin, _| self.members.contains(&origin.region));
    }

    pub(crate) fn restore_membership(&mut self, membership: u64) {
        self.membership = membership;
    }

    /// What every origin has told that settled.
    pub(crate) fn all_told(&self) -> impl Iterator<Item = (Origin, Told)> {
        self.origins.iter().map(|(origin, progress)| (*origin, progress.settled))
    }

    /// An origin said this. `cover` is what is here now.
    pub(crate) fn hear(&mut self, origin: Origin, told: Told, cover: &Cover) {
        if cover.is_sealed(origin) {
            return;
        }
        if mutation!(EndedIgnored) {
            self.origins.retain(|other, _| *other == origin || other.region != origin.region);
        }
        let progress = self.origins.entry(origin).or_default();
        progress.settle(origin, cover);
        // An idle origin's clock stands still while what it has merged grows.
        let newer = told.clock >= progress.settled.clock && told.stable >= progress.settled.stable;
        if newer && told != progress.settled && progress.pending.is_none() {
            progress.pending = Some(told);
            progress.settle(origin, cover);
        }
    }

    /// More of these origins is here now.
    pub(crate) fn grown(&mut self, origins: impl Iterator<Item = Origin>, cover: &Cover) {
        for origin in origins {
            if let Some(progress) = self.origins.get_mut(&origin) {
                progress.settle(origin, cover);
            }
        }
    }

    /// An incarnation of this region has ended, of which this copy has numbers up to `told.issued`.
    pub(crate) fn ended(&mut self, origin: Origin, told: Told) {
        if mutation!(EndedIgnored) {
            return;
        }
        self.origins.insert(origin, Progress { settled: told, pending: None });
    }

    /// Nothing more of this origin counts.
    pub(crate) fn seal(&mut self, origin: Origin) {
        self.origins.remove(&origin);
    }

    /// Whether it is known that there is, or was, such an origin.
    pub(crate) fn knows(&self, origin: Origin) -> bool {
        self.origins.contains_key(&origin)
    }

    /// Origins that something is known of.
    pub(crate) fn origins(&self) -> impl Iterator<Item = Origin> {
        self.origins.keys().copied()
    }

    fn least(&self, own: Origin, cover: &Cover, of: impl Fn(&Told) -> Hlc) -> Option<(Hlc, Origin)> {
        // An origin that was never heard, but of which there are effects, may still send older ones.
        let covered = cover.iter().map(|(origin, _)| origin).filter(|o| self.members.contains(&o.region));
        let covered = covered.filter(|o| !cover.is_sealed(*o));
        let silent = self.members.iter().filter(|region| {
            !mutation!(SilentRegionIgnored)
                && **region != own.region
                && !self.origins.keys().any(|origin| origin.region == **region)
        });
        let silent = silent.map(|&region| Origin { region, ..own });
        let counts = |o: &Origin| {
            let ended = o.region == own.region || self.origins.keys().any(|other| other.region == o.region);
            *o != own && !(mutation!(EndedIgnored) && ended && !self.origins.contains_key(o))
        };
        let unheard = covered.filter(|o| counts(o) && !self.origins.contains_key(o)).chain(silent);
        let heard = self.origins.iter().filter(|(origin, _)| counts(origin));
        heard.map(|(origin, p)| (of(&p.settled), *origin)).chain(unheard.map(|o| (Hlc::ZERO, o))).min()
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.varint(self.members.len() as u64);
        for member in &self.members {
            w.u16(member.0);
        }
        w.varint(self.origins.len() as u64);
        for (origin, progress) in &self.origins {
            w.origin(*origin);
            write_told(w, progress.settled);
            w.u8(u8::from(progress.pending.is_some()));
            if let Some(told) = progress.pending {
                write_told(w, told);
            }
        }
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Self, WireError> {
        let mut all = Self::default();
        for _ in 0..r.count(2, "members")? {
            all.members.insert(RegionId(r.u16("member")?));
        }
        for _ in 0..r.count(28, "origins")? {
            let origin = r.origin("origin")?;
            let settled = read_told(r)?;
            let pending = if r.u8("origin")? == 1 { Some(read_told(r)?) } else { None };
            all.origins.insert(origin, Progress { settled, pending });
        }
        Ok(all)
    }
}

impl Progress {
    fn settle(&mut self, origin: Origin, cover: &Cover) {
        let has = |told: &Told| {
            told.issued == 0
                || mutation!(SettlesAtOnce)
                || cover.of(origin).is_some_and(|set| set.contiguous() >= told.issued)
        };
        if let Some(told) = self.pending.take_if(|told| has(told)) {
            self.settled = told;
        }
    }
}

/// Writes what was told.
fn write_told(w: &mut Writer, told: Told) {
    w.u64(told.clock.0);
    w.varint(told.issued);
    w.u64(told.stable.0);
}

/// Reads what was told.
fn read_told(r: &mut Reader) -> Result<Told, WireError> {
    Ok(Told { clock: Hlc(r.u64("told")?), issued: r.varint("told")?, stable: Hlc(r.u64("told")?) })
}

/// Writes what several origins told.
pub(crate) fn write_all_told(w: &mut Writer, all: &[(Origin, Told)]) {
    w.varint(all.len() as u64);
    for (origin, told) in all {
        w.origin(*origin);
        write_told(w, *told);
    }
}

/// Reads what several origins told.
pub(crate) fn read_all_told(r: &mut Reader) -> Result<Vec<(Origin, Told)>, WireError> {
    (0..r.count(27, "told")?).map(|_| Ok((r.origin("told")?, read_told(r)?))).collect()
}

/// What one step of [`Shard::collect`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Keys (and slots' floors) of which something was forgotten.
    pub dropped: u64,
    /// Tombstones left in the slots that were looked at.
    pub held: u64,
    /// The slot to go on with; 0 after the last one.
    pub next_slot: u16,
    /// What is stable.
    pub stable: Stable,
    /// For replicas and AOF; empty when nothing was done.
    pub entry: Bytes,
}

impl Shard {
    /// What this copy has merged through: every effect of every region with a stamp at or below is here.
    pub fn merged_through(&self) -> Stable {
        let none = Stable { hlc: Hlc::ZERO, held_by: None };
        if self.stability.members.is_empty() {
            return none;
        }
        self.bounded(self.stability.least(self.identity.origin(), &self.cover, |told| told.clock))
    }

    /// What every region has merged through, durably.
    pub fn stable(&self) -> Stable {
        let own = self.merged_through();
        if self.stability.members.is_empty() {
            return own;
        }
        let others = self.bounded(self.stability.least(self.identity.origin(), &self.cover, |t| t.stable));
        if others.hlc < own.hlc { others } else { own }
    }

    fn bounded(&self, least: Option<(Hlc, Origin)>) -> Stable {
        match least {
            Some((hlc, origin)) if hlc < self.clock() => Stable { hlc, held_by: Some(origin) },
            Some(_) | None => Stable { hlc: self.clock(), held_by: None },
        }
    }

    /// What is known of others' progress.
    pub fn stability(&self) -> &Stability {
        &self.stability
    }

    /// Tells which regions the store has since this epoch of its membership. Returns the log entry, if that is news; fails with
    /// the epoch that is known when that is a later one: whoever tells an older list must not have tombstones forgotten by it.
    pub fn set_members(
        &mut self,
        membership: u64,
        members: BTreeSet<RegionId>,
    ) -> Result<Option<Bytes>, u64> {
        let known = &self.stability;
        if membership < known.membership {
            return Err(known.membership);
        }
        if members == known.members && membership == known.membership {
            return Ok(None);
        }
        let mut w = Writer::with_capacity(9 + members.len() * 2);
        w.u8(crate::shard::entry::MEMBERSHIP);
        w.u64(membership);
        for member in &members {
            w.u16(member.0);
        }
        self.stability.set_members(membership, members);
        Ok(Some(w.finish()))
    }

    /// Forgets what is stable, in slots from `first` on with some `keys` keys. Nothing that is shown changes.
    pub fn collect(&mut self, first: u16, keys: u64, wall_ms: u64) -> Collected {
        let mut stable = self.stable();
        if mutation!(TombstoneByAge) {
            stable.hlc = Hlc::from_millis(wall_ms.saturating_sub(3000));
        }
        let end = self.table.slots_with(first.min(SLOTS - 1), keys);
        let (dropped, held) = self.table.collect(first, end, stable.hlc, wall_ms, &self.cover);
        let next_slot = if end >= SLOTS { 0 } else { end };
        let mut entry = Bytes::new();
        if dropped > 0 {
            let mut w = Writer::with_capacity(24);
            w.u8(crate::shard::entry::COLLECTED);
            w.u16(first);
            w.u16(end);
            w.u64(stable.hlc.0);
            w.u64(wall_ms);
            entry = w.finish();
        }
        self.stats.collected += dropped;
        Collected { dropped, held, next_slot, stable, entry }
    }
}
