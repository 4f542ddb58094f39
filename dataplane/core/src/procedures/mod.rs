//! The procedures: pure decisions over an observed world, with the time as an argument. No I/O, no clock.

pub mod handover;
pub mod identity;
pub mod marker;
pub mod operation;
pub mod rebuild;
pub mod removal;
pub mod scale_out;
pub mod shard;

#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod scale_out_tests;
#[cfg(test)]
mod shard_tests;
