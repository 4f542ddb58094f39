//! The replication side of the proxy with real brokers and real engines: what is confirmed, what is merged, and what
//! happens when a part goes away.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod evacuation;
mod own_stream;
mod publishing;
mod reading;
mod region;
mod relay;
mod servers;
