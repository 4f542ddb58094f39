//! A store on one machine: the same components as child processes on loopback addresses, from the same manifest.
//!
//! [`Store::start`] starts everything and keeps it running until [`Store::stop`]; `masctl up` is a thin shell around
//! it, and tests use it directly. Nothing here decides who is master: that is [`crate::procedures::shard`].

mod assemble;
mod binaries;
mod broker;
mod bundle;
mod component;
mod control;
mod cuts;
mod layout;
mod operations;
mod plan;
mod ports;
mod process;
mod proxies;
mod rebuild;
mod record;
mod relay;
mod removal;
mod secrets;
mod set_aside;
mod shared;
mod stale;
mod store;
mod verify;
mod world;

pub use crate::health::proxy::fetch_metrics;
pub use binaries::{Binaries, BinariesError, Overrides};
pub use bundle::collect as collect_bundle;
pub use component::{BadComponent, Component};
pub use control::{Client, ControlError, Fault, Request};
pub use layout::{Layout, LayoutError};
pub use plan::plan;
pub use ports::PortsError;
pub use record::{Record, RecordError, RegionRecord, ShardRecord};
pub use stale::sweep as sweep_stale_processes;
pub use store::{Options, StartError, Store, StoreError, delete_data};
