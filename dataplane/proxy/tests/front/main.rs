//! The front of the proxy on real sockets, before engines that live in the test.
#![allow(missing_docs, clippy::unwrap_used)]

mod abuse;
mod acks;
mod connection;
mod failover;
mod fake_engine;
mod harness;
mod keys;
