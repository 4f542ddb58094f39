//! The heart of a multi-active store, without I/O: stamps, effects, merge, covers, codec, and the replication
//! logic as state machines. No clock is read and no randomness drawn here: both are arguments.

#[macro_use]
pub mod mutation;

pub mod amount;
pub mod config;
pub mod cover;
pub mod digest;
pub mod effect;
pub mod elements;
pub mod folding;
pub mod joining;
pub mod keyspace;
pub mod merge;
pub mod meta;
pub mod outbox;
pub mod procedures;
pub mod record;
pub mod replication;
pub mod reship;
pub mod save;
pub mod shard;
pub mod slot;
pub mod stability;
pub mod stamp;
pub mod table;
pub mod transfer;
pub mod wire;
