//! An object as the operator wants it: only the fields that it sets. It is sent by server-side apply with strict field
//! validation, so the API server itself refuses a field that does not exist.

use std::fmt;

use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Map, Value};

/// The kinds that the operator writes. Their order is the order of applying: what is mounted comes before what mounts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/ConfigMap`
    ConfigMap,
    /// `v1/Secret`
    Secret,
    /// `multiactive.dev/v1alpha1/StoreRegion`
    StoreRegion,
    /// `multiactive.dev/v1alpha1/StoreOperation`
    StoreOperation,
    /// `v1/Service`
    Service,
    /// `networking.k8s.io/v1/NetworkPolicy`
    NetworkPolicy,
    /// `policy/v1/PodDisruptionBudget`
    PodDisruptionBudget,
    /// `apps/v1/StatefulSet`
    StatefulSet,
    /// `apps/v1/Deployment`
    Deployment,
}

impl Kind {
    const fn row(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::StoreRegion => ("multiactive.dev", "v1alpha1", "StoreRegion", "storeregions"),
            Self::StoreOperation => ("multiactive.dev", "v1alpha1", "StoreOperation", "storeoperations"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
        }
    }

    /// As kube's dynamic API takes it.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.row();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// `apps/v1`.
    pub fn api_version(self) -> String {
        let (group, version, ..) = self.row();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
    }
}

/// A short name for a text: another text, another name.
pub(crate) fn digest_of(text: &str) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// It goes with the store. What does not stays with the volumes.
    pub owned: bool,
    /// It is written only over this `resourceVersion`; empty: only if there is none yet. What others write too is not overrun.
    pub over: Option<String>,
    /// The whole object, `apiVersion` and `metadata` included.
    pub json: Value,
}

impl Object {
    /// An object with these labels; `body` has everything beside `apiVersion`, `kind` and `metadata`.
    pub(crate) fn new(kind: Kind, name: String, labels: &Value, body: Value) -> Self {
        let mut json = Map::new();
        json.insert("apiVersion".into(), kind.api_version().into());
        json.insert("kind".into(), kind.to_string().into());
        json.insert("metadata".into(), serde_json::json!({"name": name, "labels": labels}));
        if let Value::Object(body) = body {
            json.extend(body);
        }
        Self { kind, name, owned: true, over: None, json: Value::Object(json) }
    }

    /// The same, and it stays when the store goes.
    pub(crate) fn kept(self) -> Self {
        Self { owned: false, ..self }
    }

    /// The same, written only over this version.
    pub(crate) fn over(self, version: &str) -> Self {
        Self { over: Some(version.to_owned()), ..self }
    }

    /// The same with annotations.
    pub(crate) fn annotated(mut self, annotations: &Value) -> Self {
        self.json["metadata"]["annotations"] = annotations.clone();
        self
    }
}
