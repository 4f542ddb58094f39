//! What the targets share: a bound on memory, sequences in one input, what is compared, and independent readings of
//! two formats.

pub mod bounded;
pub mod pieces;
pub mod redis;
pub mod state;
pub mod token;

/// The core's test region: a shard with a map for values.
#[allow(missing_docs, clippy::pedantic, reason = "a file of the core's tests, shared as it is")]
#[path = "../../dataplane/core/tests/common/mod.rs"]
pub mod region;
