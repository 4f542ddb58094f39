//! Where a store runs.

pub mod local;
