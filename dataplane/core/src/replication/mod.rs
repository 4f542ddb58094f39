//! Replication as state machines: what to publish and when, who may be told that a write is safe, what to merge and
//! where reading goes on. No I/O, no clock, no randomness: times, ids and random numbers are arguments, so that the
//! simulator and the proxy run the same code.

pub mod ack;
pub mod batcher;
pub mod health;
pub mod heartbeat;
pub mod parts;
pub mod reader;
pub mod recovery;
pub mod repair;
pub mod sealing;
pub mod token;
