//! Access to the API server: every call that the operator makes goes through here, and names the object that it is about.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use serde_json::Value;

use super::FIELD_MANAGER;
use super::object::{Kind, Object};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {kind} {name}: {source}")]
pub(crate) struct ClientError {
    verb: &'static str,
    kind: String,
    name: String,
    source: Box<kube::Error>,
}

impl ClientError {
    /// The object was changed since it was read.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 409)
    }
}

/// One namespace of a cluster.
#[derive(Clone)]
pub(crate) struct Namespace {
    client: kube::Client,
    name: String,
}

impl Namespace {
    pub(crate) fn new(client: kube::Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &kind.resource())
    }

    /// An object as it is.
    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Result<Option<DynamicObject>, ClientError> {
        self.api(kind).get_opt(name).await.map_err(|source| fail("getting", kind, name, source))
    }

    /// One text of a ConfigMap.
    pub(crate) async fn text(&self, name: &str, key: &str) -> Result<Option<String>, ClientError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.name);
        let found =
            api.get_opt(name).await.map_err(|source| fail("getting", Kind::ConfigMap, name, source))?;
        Ok(found.and_then(|map| map.data?.remove(key)))
    }

    /// All texts of a Secret. Secrets are read by name; they are never listed.
    pub(crate) async fn secret(
        &self,
        name: &str,
    ) -> Result<Option<std::collections::BTreeMap<String, String>>, ClientError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.name);
        let found = api.get_opt(name).await.map_err(|source| fail("getting", Kind::Secret, name, source))?;
        Ok(found.map(|secret| {
            let data = secret.data.unwrap_or_default();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
            data.into_iter().filter_map(|(key, value)| Some((key, text(value.0)?))).collect()
        }))
    }

    /// Server-side apply: our fields become these, everybody else's stay.
    pub(crate) async fn apply(&self, object: &Object) -> Result<(), ClientError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            force: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::default()
        };
        let applied = self.api(object.kind).patch(&object.name, &params, &Patch::Apply(&object.json)).await;
        applied.map(drop).map_err(|source| fail("applying", object.kind, &object.name, source))
    }

    /// Merges `status` into an object's status, if the object is still the one that was read (`version`: its
    /// `resourceVersion`; absent: whatever it is).
    pub(crate) async fn patch_status<K>(
        &self,
        name: &str,
        version: Option<&str>,
        status: &Value,
    ) -> Result<K, ClientError>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let mut body = serde_json::json!({"status": status});
        if let Some(version) = version {
            body["metadata"] = serde_json::json!({"resourceVersion": version});
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.name);
        api.patch_status(name, &params, &Patch::Merge(&body)).await.map_err(|source| ClientError {
            verb: "reporting the status of",
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// Pins the release of a store that names none.
    pub(crate) async fn pin_release(&self, store: &str, release: &str) -> Result<(), ClientError> {
        let api: Api<crds::MultiActiveStore> = Api::namespaced(self.client.clone(), &self.name);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = serde_json::json!({"spec": {"release": release}});
        let patched = api.patch(store, &params, &Patch::Merge(&patch)).await;
        patched.map(drop).map_err(|source| ClientError {
            verb: "pinning the release of",
            kind: "MultiActiveStore".into(),
            name: store.to_owned(),
            source: Box::new(source),
        })
    }
}

fn fail(verb: &'static str, kind: Kind, name: &str, source: kube::Error) -> ClientError {
    ClientError { verb, kind: kind.to_string(), name: name.to_owned(), source: Box::new(source) }
}
