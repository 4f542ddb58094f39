//! Where a store runs.

mod broker;
pub mod kubernetes;
pub mod local;
