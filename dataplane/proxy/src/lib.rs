//! The stateless RESP front of a region, and its replication to and from the brokers.

pub mod admin;
pub mod cli;
pub mod config_file;
pub mod front;
pub mod link;
pub mod metrics;
pub mod replication;
pub mod resp;
pub mod run;
