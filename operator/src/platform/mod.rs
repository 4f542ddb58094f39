//! Where a store runs.

pub mod kubernetes;
pub mod local;
