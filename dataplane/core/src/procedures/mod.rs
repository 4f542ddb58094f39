//! The procedures: pure decisions over an observed world, with the time as an argument. No I/O, no clock.

pub mod handover;
pub mod identity;
pub mod shard;

#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod shard_tests;
