//! Verification: whether all regions of a store hold the same, and repair of what they do not. The same on every platform: it works
//! against the addresses of the engines' masters.
//!
//! A run goes from the cheap to the exact (`run`): digests of all slots, again and again until only those are left that differ each time;
//! the keys of these; the elements of keys that differ. Besides, a random sample of keys has its values compared, for
//! digests are of stamps. What counts as a difference, and how it is repaired, is decided in `compare`; when a run is due, in
//! `schedule`. Only `engine` talks to servers.

mod compare;
mod engine;
mod report;
mod run;
mod schedule;
mod service;

pub use report::{ElementReport, Held, KeyReport, Outcome, Report};
pub use run::VerifyError;
pub(crate) use run::{Place, Region, compare_once};
pub(crate) use schedule::Last;
pub(crate) use service::{Ask, Asks, Service, asks, run};
