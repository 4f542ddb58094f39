//! The stateless RESP front of a region, and its replication to and from the brokers.

pub mod front;
pub mod link;
pub mod resp;
