//! Access to the API server: every call that the operator makes goes through here, and names the object that it is about.

use std::num::NonZeroU32;
use std::sync::Arc;

use crds::StoreOperation;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
    ValidationDirective,
};
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use super::identity::KEY;
use super::labels;
use super::object::{Kind, Object};

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{verb} {kind} {name}: {}", words(.source))]
pub(crate) struct ClientError {
    verb: &'static str,
    kind: String,
    name: String,
    source: Arc<kube::Error>,
}

/// What the API server says, without the rest of its answer.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

impl ClientError {
    /// The object was changed since it was read.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 409)
    }

    /// What was sent can never be: an immutable field, a value out of its range.
    pub(crate) fn is_invalid(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 422)
    }

    /// Whoever asks has no right to it.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 403)
    }

    pub(crate) fn is_about(&self, kind: Kind) -> bool {
        self.kind == kind.to_string()
    }
}

/// A claim that a region has left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldClaim {
    /// The id of that region.
    pub(crate) region_id: String,
}

/// One namespace of a cluster.
#[derive(Clone)]
pub(crate) struct Namespace {
    client: kube::Client,
    name: String,
    without_secrets: bool,
}

impl Namespace {
    pub(crate) fn new(client: kube::Client, name: &str) -> Self {
        Self { client, name: name.to_owned(), without_secrets: false }
    }

    /// The same for somebody who may not read Secrets: every one seems to be there, with an empty password. For plans alone.
    pub(crate) fn without_secrets(self) -> Self {
        Self { without_secrets: true, ..self }
    }

    pub(crate) fn is_without_secrets(&self) -> bool {
        self.without_secrets
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &kind.resource())
    }

    /// An object as it is.
    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Result<Option<DynamicObject>, ClientError> {
        self.api(kind).get_opt(name).await.map_err(|source| fail("getting", kind, name, source))
    }

    /// A small number in an object, by JSON pointer.
    pub(crate) async fn number(
        &self,
        kind: Kind,
        name: &str,
        pointer: &str,
    ) -> Result<Option<u16>, ClientError> {
        let found = self.get(kind, name).await?;
        let number = |object: DynamicObject| object.data.pointer(pointer)?.as_u64()?.try_into().ok();
        Ok(found.and_then(number))
    }

    /// The text of an identity record, and its version.
    pub(crate) async fn identity(&self, name: &str) -> Result<Option<(String, String)>, ClientError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.name);
        let found =
            api.get_opt(name).await.map_err(|source| fail("getting", Kind::ConfigMap, name, source))?;
        Ok(found.and_then(|map| Some((map.data?.remove(KEY)?, map.metadata.resource_version?))))
    }

    /// Writes an identity record over `version`.
    pub(crate) async fn write_identity(
        &self,
        name: &str,
        text: &str,
        version: &str,
    ) -> Result<(), ClientError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.name);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = json!({"metadata": {"resourceVersion": version}, "data": {KEY: text}});
        let written = api.patch(name, &params, &Patch::Merge(&patch)).await;
        written.map(drop).map_err(|source| fail("writing", Kind::ConfigMap, name, source))
    }

    /// Asks for more storage for a claim; whether it had less.
    pub(crate) async fn grow_claim(&self, name: &str, storage: &str) -> Result<bool, ClientError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.name);
        let fail = |verb, source| ClientError {
            verb,
            kind: "PersistentVolumeClaim".into(),
            name: name.to_owned(),
            source: Arc::new(source),
        };
        let Some(claim) = api.get_opt(name).await.map_err(|source| fail("getting", source))? else {
            return Ok(false);
        };
        let has = claim.spec.and_then(|spec| spec.resources?.requests?.remove("storage"));
        let bytes = |text: &str| text.parse().map_or(0, crds::Quantity::as_bytes);
        if has.is_some_and(|has| bytes(&has.0) >= bytes(storage)) {
            return Ok(false);
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = json!({"spec": {"resources": {"requests": {"storage": storage}}}});
        let grown = api.patch(name, &params, &Patch::Merge(&patch)).await;
        grown.map(|_| true).map_err(|source| fail("growing", source))
    }

    /// A claim, if there is one.
    pub(crate) async fn old_claim(&self, name: &str) -> Result<Option<OldClaim>, ClientError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.name);
        let found = api.get_opt(name).await.map_err(|source| ClientError {
            verb: "getting",
            kind: "PersistentVolumeClaim".into(),
            name: name.to_owned(),
            source: Arc::new(source),
        })?;
        Ok(found.map(|claim| {
            let id = claim.metadata.labels.and_then(|mut labels| labels.remove(labels::REGION_ID));
            OldClaim { region_id: id.unwrap_or_default() }
        }))
    }

    /// Deletes an object, if it is still the one with this `uid`.
    pub(crate) async fn delete(&self, kind: Kind, name: &str, uid: &str) -> Result<(), ClientError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api(kind).delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop).map_err(|source| fail("deleting", kind, name, source)),
        }
    }

    /// Deletes a StatefulSet and leaves its pods, if it is still the one with this `uid`.
    pub(crate) async fn orphan(&self, name: &str, uid: &str) -> Result<(), ClientError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Orphan),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        let deleted = self.api(Kind::StatefulSet).delete(name, &params).await;
        deleted.map(drop).map_err(|source| fail("deleting", Kind::StatefulSet, name, source))
    }

    /// Has a pod end, if it is still this one; whether it is.
    pub(crate) async fn delete_pod(&self, name: &str, uid: &str) -> Result<bool, ClientError> {
        self.delete_pod_within(name, uid, None).await
    }

    /// The same; it has so many seconds to end, when not as many as it says itself. 0 would make the API server forget it before anybody has
    /// seen it end.
    pub(crate) async fn delete_pod_within(
        &self,
        name: &str,
        uid: &str,
        seconds: Option<NonZeroU32>,
    ) -> Result<bool, ClientError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        let params = DeleteParams {
            grace_period_seconds: seconds.map(NonZeroU32::get),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(source) => {
                let (name, source) = (name.to_owned(), Arc::new(source));
                Err(ClientError { verb: "deleting", kind: "Pod".into(), name, source })
            }
        }
    }

    /// Deletes a claim that was there before `moment`, if nobody has yet: what is newer is another one. The volume goes as its reclaim
    /// policy says, once no pod uses it.
    pub(crate) async fn delete_claim(&self, name: &str, before: &Time) -> Result<(), ClientError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.name);
        let fail = |verb, source| ClientError {
            verb,
            kind: "PersistentVolumeClaim".into(),
            name: name.to_owned(),
            source: Arc::new(source),
        };
        let Some(claim) = api.get_opt(name).await.map_err(|source| fail("getting", source))? else {
            return Ok(());
        };
        let meta = claim.metadata;
        if meta.deletion_timestamp.is_some() || meta.creation_timestamp.is_none_or(|made| made > *before) {
            return Ok(());
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: meta.uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            deleted => deleted.map(drop).map_err(|source| fail("deleting", source)),
        }
    }

    /// Changes an operation's metadata, if it is still the version that was read.
    pub(crate) async fn patch_operation(
        &self,
        name: &str,
        version: Option<&str>,
        metadata: &Value,
    ) -> Result<StoreOperation, ClientError> {
        let api: Api<StoreOperation> = Api::namespaced(self.client.clone(), &self.name);
        let mut metadata = metadata.clone();
        metadata["resourceVersion"] = json!(version);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patched = api.patch(name, &params, &Patch::Merge(json!({"metadata": metadata}))).await;
        patched.map_err(|source| fail("adopting", Kind::StoreOperation, name, source))
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
        if self.without_secrets {
            return Ok(Some([("password".to_owned(), String::new())].into()));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.name);
        let found = api.get_opt(name).await.map_err(|source| fail("getting", Kind::Secret, name, source))?;
        Ok(found.map(|secret| {
            let data = secret.data.unwrap_or_default();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
            data.into_iter().filter_map(|(key, value)| Some((key, text(value.0)?))).collect()
        }))
    }

    /// Server-side apply: our fields become these, everybody else's stay. What must not exist yet is created.
    pub(crate) async fn apply(&self, object: &Object) -> Result<(), ClientError> {
        if object.over.as_deref() == Some("") {
            let fail = |source| fail("creating", object.kind, &object.name, source);
            let new: DynamicObject =
                serde_json::from_value(object.json.clone()).map_err(|e| fail(kube::Error::SerdeError(e)))?;
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
            return self.api(object.kind).create(&params, &new).await.map(drop).map_err(fail);
        }
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
        let mut body = json!({"status": status});
        if let Some(version) = version {
            body["metadata"] = json!({"resourceVersion": version});
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.name);
        api.patch_status(name, &params, &Patch::Merge(&body)).await.map_err(|source| ClientError {
            verb: "reporting the status of",
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source: Arc::new(source),
        })
    }

    /// Pins the release of a store that names none.
    pub(crate) async fn pin_release(&self, store: &str, release: &str) -> Result<(), ClientError> {
        let api: Api<crds::MultiActiveStore> = Api::namespaced(self.client.clone(), &self.name);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = json!({"spec": {"release": release}});
        let patched = api.patch(store, &params, &Patch::Merge(&patch)).await;
        patched.map(drop).map_err(|source| ClientError {
            verb: "pinning the release of",
            kind: "MultiActiveStore".into(),
            name: store.to_owned(),
            source: Arc::new(source),
        })
    }
}

fn fail(verb: &'static str, kind: Kind, name: &str, source: kube::Error) -> ClientError {
    ClientError { verb, kind: kind.to_string(), name: name.to_owned(), source: Arc::new(source) }
}
