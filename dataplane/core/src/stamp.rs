//! Time and names: hybrid logical clock, regions, incarnations, and the stamps that order writes.
//!
//! Nothing here reads a clock; the time is always an argument.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A region's id within a store: short, assigned once, never reused. 0 is invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegionId(pub u16);

/// A shard's 0-based number within a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

/// One life of one shard's data in one region: 64 random bits, never reused. Its order means nothing;
/// it only breaks ties between equal clocks. 0 stands for "none".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// No incarnation.
    pub const NONE: Self = Self(0);

    /// Reads the 16 hex digits that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who numbers a run of effects of one shard: an incarnation in a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The region.
    pub region: RegionId,
    /// The incarnation.
    pub incarnation: Incarnation,
}

/// A hybrid logical clock reading: 48 bits of unix milliseconds, 16 bits of counter
/// (Kulkarni et al., "Logical Physical Clocks", 2014). A full counter carries into the milliseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The first reading of a millisecond.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms << 16)
    }

    /// Unix milliseconds.
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// The counter within the millisecond.
    pub const fn counter(self) -> u16 {
        self.0 as u16
    }

    /// The next reading.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.counter())
    }
}

/// Orders writes: clock, then region, then incarnation. No two effects share one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The clock.
    pub hlc: Hlc,
    /// Who issued it.
    pub origin: Origin,
}

impl Stamp {
    /// Before every real stamp; stands for "none".
    pub const ZERO: Self =
        Self { hlc: Hlc::ZERO, origin: Origin { region: RegionId(0), incarnation: Incarnation::NONE } };

    /// A stamp of `origin` at `hlc`.
    pub const fn new(hlc: Hlc, origin: Origin) -> Self {
        Self { hlc, origin }
    }

    /// Whether it stands for "none".
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// The stamp, unless it stands for "none".
    pub fn some(self) -> Option<Self> {
        (!self.is_zero()).then_some(self)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}:{}", self.hlc, self.origin.region.0, self.origin.incarnation)
    }
}

/// The clock of one shard's master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    latest: Hlc,
}

impl Clock {
    /// A clock that stands at `latest`.
    pub const fn at(latest: Hlc) -> Self {
        Self { latest }
    }

    /// The highest reading issued or observed.
    pub const fn latest(self) -> Hlc {
        self.latest
    }

    /// Issues the next reading: above everything issued or observed, and not below the wall clock.
    pub fn tick(&mut self, wall_ms: u64) -> Hlc {
        self.latest = self.latest.next().max(Hlc::from_millis(wall_ms));
        if mutation!(ClockGoesBack) && Hlc::from_millis(wall_ms).millis() + 50 < self.latest.millis() {
            self.latest = Hlc::from_millis(wall_ms);
        }
        self.latest
    }

    /// Moves forward to a reading seen elsewhere. Never moves back.
    pub fn observe(&mut self, seen: Hlc) {
        self.latest = self.latest.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_grow_when_the_wall_stands_still_or_goes_back() {
        let mut clock = Clock::default();
        let a = clock.tick(1000);
        let b = clock.tick(1000);
        let c = clock.tick(10);
        assert!(a < b && b < c);
        assert_eq!(c.millis(), 1000);
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let mut clock = Clock::at(Hlc(Hlc::from_millis(7).0 | 0xffff));
        assert_eq!(clock.tick(7), Hlc::from_millis(8));
    }

    #[test]
    fn the_last_reading_saturates() {
        assert_eq!(Clock::at(Hlc(u64::MAX)).tick(0), Hlc(u64::MAX));
    }

    #[test]
    fn incarnations_round_trip_as_text() {
        let inc = Incarnation(0x00ab_cdef_0123_4567);
        assert_eq!(Incarnation::parse(&inc.to_string()), Some(inc));
        assert_eq!(Incarnation::parse("12"), None);
    }
}
