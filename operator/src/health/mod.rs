//! The health loop, apart from whatever makes processes: looks at engines and proxies, asks the procedures what to do, and does it.
//! Platforms say where a process is, whether it runs, and where a decision is recorded.

pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod member;
pub(crate) mod proxy;
pub(crate) mod shard;
pub(crate) mod status;
