//! A store on Kubernetes. One pipeline, read from the list of files: dereference (what there is), validate (what is wanted, checked
//! against what there is), build (pure: the objects), apply (only what differs), update status. Nothing here decides
//! who is master: that is [`crate::procedures::shard`].

mod apply;
pub mod build;
pub mod catalog;
mod changes;
mod check;
mod client;
mod crash;
mod delay;
mod dereference;
mod endpoint;
mod health;
mod identity;
mod labels;
mod lease;
mod object;
mod reconcile;
mod remote;
mod removal;
mod rolling;
mod run;
mod status;

pub use catalog::{Catalog, CatalogError};
pub use check::{Checked, Refusal, check};
pub use dereference::World;
pub use identity::{Identity, RegionIdentity};
pub use object::{Kind, Object};
pub use remote::{Access, AccessError, Expected, NO_LIVE_NUMBERS, PlanError, Remote};
pub use run::{Options, RunError, run};

/// Who owns the fields that the operator sets.
pub const FIELD_MANAGER: &str = "multiactive-operator";
