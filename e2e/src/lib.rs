//! The harness of the end-to-end tests and the demonstration: starts a whole store with real servers, does to it what
//! the world does to stores, and compares what its regions hold. It knows the store only from outside: through the
//! `masctl` program, the clients' endpoints and the processes' ids.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod admin;
pub mod bundle;
pub mod cluster;
pub mod keyspace;
pub mod ledger;
pub mod load;
mod parts;
pub mod process;
mod status;
pub mod store;
pub mod wait;

pub use parts::Parts;
pub use status::{
    Blocked, Broker, Link, Operation, OperationSpec, OperationStatus, Outcome, Process, Region, Shard,
    Status, Step,
};
pub use store::{Keep, Store, manifest};
pub use wait::{wait_for, wait_until};

/// How many rounds a test runs: `MAS_ROUNDS` where it is set, else `default`.
pub fn rounds(default: usize) -> usize {
    std::env::var("MAS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Tests that start stores take turns: two machines' worth of servers on two cores only make each other slow.
/// `cargo test` runs one file after the other; this is for those in one file.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
