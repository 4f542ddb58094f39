//! The front of the proxy on real sockets, before engines that live in the test.
// Threads of tests have stacks enough for their buffers.
#![allow(missing_docs, clippy::unwrap_used, clippy::large_stack_arrays)]

mod abuse;
mod acks;
mod connection;
mod evacuation;
mod failover;
mod fake_engine;
mod harness;
mod keys;
