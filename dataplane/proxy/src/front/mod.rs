//! The front of a proxy: client connections, routing, and the pipelines to the engines.

pub mod replication;
pub mod routing;
