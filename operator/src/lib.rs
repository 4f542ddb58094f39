//! Runs multi-active stores: the procedures, written once, and the platforms that carry them out.

pub mod bundle;
mod health;
mod operations;
pub mod platform;
mod render;
pub mod verify;
pub mod view;

/// The procedures are in the core, where the simulator runs them too.
pub use mas_core::procedures;
