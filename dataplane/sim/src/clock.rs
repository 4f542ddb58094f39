//! Wall clocks: each node has its own, which drifts, jumps and goes back. Monotonic time is the simulation's.

use std::cell::Cell;

use crate::executor::{MS, Time};

/// Unix milliseconds at the start of every run.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// One node's wall clock.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    /// Ahead of true time by so much at `since`, microseconds.
    offset_us: Cell<i64>,
    /// Runs fast by so many microseconds a second.
    drift: Cell<i64>,
    since: Cell<Time>,
}

impl WallClock {
    /// How far it is ahead of true time, microseconds.
    pub(crate) fn ahead_us(&self, now: Time) -> i64 {
        let passed = now.saturating_sub(self.since.get()) as i64;
        self.offset_us.get() + passed * self.drift.get() / 1_000_000
    }

    /// What it shows, unix milliseconds.
    pub(crate) fn wall_ms(&self, now: Time) -> u64 {
        let true_us = (START_MS * MS + now) as i64;
        (true_us + self.ahead_us(now)) as u64 / MS
    }

    /// Is set to be ahead by `offset_us`, and drifts from now on.
    pub(crate) fn set(&self, now: Time, offset_us: i64, drift: i64) {
        self.offset_us.set(offset_us);
        self.drift.set(drift);
        self.since.set(now);
    }

    /// Jumps.
    pub(crate) fn jump(&self, now: Time, by_us: i64) {
        self.set(now, self.ahead_us(now) + by_us, self.drift.get());
    }
}
