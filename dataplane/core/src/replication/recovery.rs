//! Recovery of a promoted engine: publish the outbox it still holds under its old origins, publish a nonce, read the
//! region's own stream up to that nonce, then let it serve. If the broker does not answer in time it serves degraded,
//! and this is finished when the broker is back.

use crate::stamp::{Hlc, Incarnation};

/// Without any progress for so long the engine serves degraded, milliseconds.
pub const PATIENCE_MS: u64 = 2000;
/// A nonce that was not read back for so long, while nothing else moved, is published again, milliseconds.
pub const NONCE_AGAIN_MS: u64 = 5000;
/// The same, whatever moves: heartbeats go on also when the nonce is gone, with a stream that was lost. Any of them will do.
pub const NONCE_LATEST_MS: u64 = 60_000;
/// How many are waited for at once, the last ones.
const NONCES_MAX: usize = 16;

/// What is seen of one engine and its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The engine serves already (degraded).
    pub serving: bool,
    /// Its own stream was read back.
    pub recovered: bool,
    /// The stream can be published to.
    pub online: bool,
    /// Its outbox, or this proxy, still has effects of earlier incarnations that are not confirmed.
    pub old_effects: bool,
    /// The last nonce read from the own stream of which everything before it is merged.
    pub merged_nonce: Option<u64>,
    /// Grows whenever something moves: effects confirmed, records read.
    pub progress: u64,
    /// The highest clock in a heartbeat of the own stream.
    pub clock: Hlc,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing to do but read on and wait.
    Wait,
    /// Sweep the outbox and publish it.
    Sweep,
    /// Publish this nonce.
    PublishNonce(u64),
    /// `MAS.SERVE inc full hlc`.
    ServeFull(Hlc),
    /// `MAS.SERVE inc degraded 0`.
    ServeDegraded,
    /// It is recovered.
    Done,
}

/// The recovery of one incarnation.
#[derive(Clone, Debug)]
pub struct Recovery {
    incarnation: Incarnation,
    /// Those published since the stream could last be published to.
    nonces: Vec<u64>,
    nonce_ms: u64,
    progress: u64,
    progress_ms: u64,
}

impl Recovery {
    /// Begins at `now_ms`.
    pub fn new(incarnation: Incarnation, now_ms: u64) -> Self {
        Self { incarnation, nonces: Vec::new(), nonce_ms: 0, progress: 0, progress_ms: now_ms }
    }

    /// The incarnation that it is about.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The next action. `random` becomes the nonce, when one is published. Safe to repeat: an action that had no effect
    /// comes again.
    pub fn step(&mut self, seen: Observed, now_ms: u64, random: u64) -> Action {
        if seen.recovered {
            return Action::Done;
        }
        if seen.progress != self.progress {
            self.progress = seen.progress;
            self.progress_ms = now_ms;
        }
        if mutation!(OwnStreamNotRead) && !seen.serving {
            return Action::ServeFull(seen.clock);
        }
        let read =
            seen.merged_nonce.is_some_and(|nonce| self.nonces.contains(&nonce) || mutation!(AnyNonceWillDo));
        let swept = !seen.old_effects || mutation!(OldEffectsIgnored);
        if seen.online && !self.nonces.is_empty() && read && swept {
            return Action::ServeFull(seen.clock);
        }
        let still_ms = now_ms.saturating_sub(self.progress_ms);
        if !seen.serving && still_ms >= PATIENCE_MS {
            return Action::ServeDegraded;
        }
        if !seen.online {
            // What was published before the connection was lost may not be there.
            self.nonces.clear();
            return Action::Wait;
        }
        if seen.old_effects && !mutation!(OldEffectsIgnored) {
            return Action::Sweep;
        }
        let since_ms = now_ms.saturating_sub(self.nonce_ms);
        let wait = still_ms.min(since_ms) < NONCE_AGAIN_MS && since_ms < NONCE_LATEST_MS;
        if wait && !self.nonces.is_empty() {
            return Action::Wait;
        }
        let old = self.nonces.len().saturating_sub(NONCES_MAX - 1);
        self.nonces.drain(..old);
        self.nonces.push(random);
        self.nonce_ms = now_ms;
        Action::PublishNonce(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INC: Incarnation = Incarnation(4);

    #[test]
    fn publishes_reads_back_then_serves() {
        let mut r = Recovery::new(INC, 0);
        let mut seen = Observed { online: true, old_effects: true, ..Observed::default() };
        assert_eq!(r.step(seen, 0, 1), Action::Sweep);
        seen.progress = 1;
        seen.old_effects = false;
        assert_eq!(r.step(seen, 100, 77), Action::PublishNonce(77));
        assert_eq!(r.step(seen, 200, 78), Action::Wait);
        seen.merged_nonce = Some(5);
        assert_eq!(r.step(seen, 300, 79), Action::Wait, "another proxy's, or an earlier one");
        seen.merged_nonce = Some(77);
        seen.clock = Hlc::from_millis(9);
        assert_eq!(r.step(seen, 400, 80), Action::ServeFull(Hlc::from_millis(9)));
        seen.recovered = true;
        assert_eq!(r.step(seen, 500, 80), Action::Done);
    }

    #[test]
    fn a_long_log_is_read_with_patience() {
        let mut r = Recovery::new(INC, 0);
        let mut seen = Observed { online: true, ..Observed::default() };
        assert_eq!(r.step(seen, 0, 7), Action::PublishNonce(7));
        for n in 1..100 {
            seen.progress = n;
            assert_eq!(r.step(seen, n * 500, 8), Action::Wait);
        }
    }

    #[test]
    fn heartbeats_do_not_hide_that_the_nonce_is_lost() {
        let mut r = Recovery::new(INC, 0);
        let mut seen = Observed { online: true, ..Observed::default() };
        assert_eq!(r.step(seen, 0, 7), Action::PublishNonce(7));
        for n in 1..300 {
            seen.progress = n;
            assert_eq!(r.step(seen, n * 200, 8), Action::Wait);
        }
        assert_eq!(r.step(seen, NONCE_LATEST_MS, 8), Action::PublishNonce(8));
        seen.merged_nonce = Some(7);
        assert!(matches!(r.step(seen, NONCE_LATEST_MS, 9), Action::ServeFull(_)), "it was only slow");
    }

    #[test]
    fn without_a_broker_it_serves_degraded_and_finishes_later() {
        let mut r = Recovery::new(INC, 1000);
        let mut seen = Observed::default();
        assert_eq!(r.step(seen, 1100, 1), Action::Wait);
        assert_eq!(r.step(seen, 1000 + PATIENCE_MS, 1), Action::ServeDegraded);
        seen.serving = true;
        assert_eq!(r.step(seen, 9000, 2), Action::Wait);
        seen.online = true;
        seen.old_effects = true;
        assert_eq!(r.step(seen, 20_000, 3), Action::Sweep);
        seen.old_effects = false;
        assert_eq!(r.step(seen, 20_100, 4), Action::PublishNonce(4));
        seen.online = false;
        assert_eq!(r.step(seen, 20_200, 5), Action::Wait);
        seen.online = true;
        assert_eq!(r.step(seen, 20_300, 6), Action::PublishNonce(6), "the one before may be lost");
        assert_eq!(r.step(seen, 20_300 + NONCE_AGAIN_MS, 9), Action::PublishNonce(9));
        seen.merged_nonce = Some(9);
        assert_eq!(r.step(seen, 30_000, 6), Action::ServeFull(Hlc::ZERO));
    }
}
