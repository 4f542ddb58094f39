//! The heart of a multi-active store, without I/O: stamps, effects, merge, covers, codec, and the replication
//! logic as state machines. No clock is read and no randomness drawn here: both are arguments.

pub mod config;
pub mod slot;
pub mod stamp;
