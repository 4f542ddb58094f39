//! Where the front and the replication side of a proxy meet: effects go one way, acknowledgements the other.

use bytes::Bytes;
use mas_core::config::AckLevel;
use mas_core::stamp::{Hlc, Incarnation, ShardId};

/// What an engine said about one write (the note of `MAS.EXEC`).
#[derive(Clone, Debug)]
pub struct Note {
    /// The incarnation that issued it.
    pub incarnation: Incarnation,
    /// The effect's number; without an effect, the last number issued before.
    pub seq: u64,
    /// The engine's clock.
    pub hlc: Hlc,
    /// The encoded effect; empty when the command changed nothing.
    pub effect: Bytes,
}

/// Where an acknowledgement goes: a worker, and a number that the worker gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Index of the worker's event queue.
    pub worker: u16,
    /// Chosen by the worker.
    pub token: u64,
}

/// The level that a write asks for, and who waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// `Queued` or `Remote`; a `Local` write waits for nothing.
    pub level: AckLevel,
    /// With `Remote`: how many other regions.
    pub regions: u16,
    /// Who is told.
    pub waiter: Waiter,
}

/// One write's way to the replication side.
#[derive(Clone, Debug)]
pub struct Shipment {
    /// The shard.
    pub shard: ShardId,
    /// What the engine said.
    pub note: Note,
    /// Who waits, if anybody. Without an effect: told when all that the shard had issued before has reached the level.
    pub wait: Option<Wait>,
}

/// How an acknowledgement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The level was reached.
    Yes,
    /// The broker is away and the store degrades to `Local`: applied, to be published later.
    Degraded,
    /// The broker is away and the store rejects: applied, to be published later, but not acknowledged (`-QUEUEUNAVAILABLE`).
    Unavailable,
    /// The level cannot be reached any more (the incarnation ended), or not in time.
    Failed,
}

/// Sent to a worker's event queue.
#[derive(Clone, Copy, Debug)]
pub struct AckEvent {
    /// The number that the worker gave.
    pub token: u64,
    /// How it ended.
    pub outcome: Acknowledged,
}
