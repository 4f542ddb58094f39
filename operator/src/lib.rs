//! Runs multi-active stores: the procedures, written once, and the platforms that carry them out.

pub mod platform;
pub mod procedures;
