//! Why an engine command is refused. Each message starts with the word that callers match on.

use mas_core::shard::{MergeError, Position};
use mas_core::stamp::Incarnation;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Fenced.
    #[error(
        "MASFENCED this engine is fenced (just started, or superseded): ask the other members of the shard"
    )]
    Fenced,
    /// Promoted, and still reading its own stream back.
    #[error("MASRECOVERING this engine is reading its own stream back: wait")]
    Recovering,
    /// A replica.
    #[error("MASREPLICA this engine is a replica: ask the shard's master")]
    Replica,
    /// The request meant another incarnation.
    #[error("MASINCARNATION {0}")]
    Incarnation(Incarnation),
    /// The position is another one.
    #[error("MASPOSITION {}", position(*.0))]
    Position(Option<Position>),
    /// A record is damaged.
    #[error("MASDECODE {0} {1}")]
    Decode(usize, String),
    /// The outbox is at its bound.
    #[error(
        "OUTBOXFULL {0} bytes wait for the region's broker, the bound is {1}: try again once it takes messages"
    )]
    OutboxFull(u64, u64),
    /// The epoch is not above the one seen.
    #[error("MASEPOCH {0}")]
    Epoch(u64),
    /// The list of regions is older than the one known.
    #[error("MASMEMBERS {0}")]
    Membership(u64),
    /// Joins the store, and has not shown yet that it has everything.
    #[error("MASJOINING this engine joins the store: it serves once its operation says so")]
    Joining,
    /// A clock is too far off.
    #[error("MASSKEW {0}")]
    Skew(String),
    /// A clock in a record is beyond the hard limit.
    #[error("MASHELD {0}")]
    Held(u64),
    /// Too many gaps in the cover.
    #[error("MASGAPS too many gaps in the cover of one origin: wait until earlier effects have arrived")]
    Gaps,
    /// A repair that may not be.
    #[error("MASREPAIR {0}")]
    Repair(String),
    /// Out of memory.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    /// Out of memory, headroom included.
    #[error("OOM merging stopped: used memory is beyond 'maxmemory' and the headroom for merges")]
    OutOfHeadroom,
    /// Anything else.
    #[error("ERR {0}")]
    Other(String),
}

impl Refusal {
    /// An error without a word of its own.
    pub(crate) fn other(why: impl Into<String>) -> Self {
        Self::Other(why.into())
    }

    /// Wrong number of words.
    pub(crate) fn arity(usage: &str) -> Self {
        Self::Other(format!("wrong number of arguments: {usage}"))
    }
}

fn position(position: Option<Position>) -> String {
    position.map_or_else(|| "-1 0".into(), |p| format!("{} {}", p.offset, p.record))
}

impl From<MergeError> for Refusal {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Position(stored) => Self::Position(stored),
            MergeError::Decode { index, why } => Self::Decode(index, why.to_string()),
            MergeError::Held { ahead_ms } => Self::Held(ahead_ms),
            MergeError::Gaps(_) => Self::Gaps,
        }
    }
}
