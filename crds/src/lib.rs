//! The manifest of a multi-active store: types, strict reading, defaults and validation.
//!
//! [`load`] turns text into a [`Validated`] store or into all [`Problem`]s at once, each with the path of the
//! field and a sentence that says what to write instead. Nothing else reaches the rest of the system. No I/O.

mod crd;
mod defaults;
mod document;
mod duration;
mod operation;
mod problem;
mod quantity;
mod reference;
mod region;
mod rules;
mod status;
mod store;
mod strict;
mod validate;
mod validated;

pub use crd::{definitions, definitions_yaml};
pub use duration::{BadDuration, Span};
pub use operation::*;
pub use problem::{Invalid, Problem};
pub use quantity::{BadQuantity, Quantity};
pub use reference::reference;
pub use region::*;
pub use status::*;
pub use store::*;
pub use validate::redis_memory;
pub use validated::*;

/// API group and version of every kind here.
pub const API_VERSION: &str = "multiactive.dev/v1alpha1";
/// The kind that people write.
pub const KIND: &str = "MultiActiveStore";

/// Reads one manifest: parses strictly, fills in defaults, validates.
pub fn load(text: &str) -> Result<Validated, Invalid> {
    validate::validate(&parse(text)?)
}

/// Reads one manifest without validating it: unknown fields and wrong types are refused, values are not looked at.
pub fn parse(text: &str) -> Result<Manifest, Invalid> {
    strict::read(text)
}

/// Checks a manifest and fills in its defaults.
pub fn validate(store: &Manifest) -> Result<Validated, Invalid> {
    validate::validate(store)
}

/// The manifest that an object of a cluster is.
pub fn manifest_of(store: &MultiActiveStore) -> Manifest {
    Manifest {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        metadata: Metadata {
            name: store.metadata.name.clone().unwrap_or_default(),
            namespace: store.metadata.namespace.clone(),
            ..Metadata::default()
        },
        spec: store.spec.clone(),
    }
}

/// The JSON schema of the manifest, as [`load`] uses it to find unknown fields.
pub fn schema() -> serde_json::Value {
    strict::schema()
}
