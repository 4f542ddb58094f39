//! A deterministic simulation of whole multi-active stores: the production state machines of `mas-core`, driven through
//! failures by a seed, and judged by checkers that share no code with them. Starts no server and reads no clock, save to
//! bound a batch of runs.

mod batch;
mod broker;
mod checkers;
pub mod cli;
mod client;
mod clock;
mod controller;
mod engine;
mod executor;
mod faults;
mod inject;
mod keyspace;
mod mutations;
mod network;
mod operator;
mod proxy;
mod registry;
mod rng;
mod schedule;
mod settle;
mod setup;
mod shrink;
mod situation;
mod stories;
mod workload;
mod world;
