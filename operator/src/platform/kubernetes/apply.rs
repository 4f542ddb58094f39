//! Brings the cluster to what was built: reads each object, and sends it only if something that we set is missing or another.
//! A quiet store causes no writes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use kube::core::Resource as _;
use serde_json::{Value, json};

use super::client::{ClientError, Namespace};
use super::object::{Kind, Object, digest_of};

/// Name of the annotation with the digest of what was applied last: a field that is no longer wanted changes it.
const APPLIED: &str = "multiactive.dev/applied";

/// What applying did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Objects that were sent.
    pub(crate) changed: Vec<String>,
    /// Objects that belong to somebody else, and were left alone.
    pub(crate) taken: Vec<String>,
    /// The template that each StatefulSet's pods should run by now.
    pub(crate) revisions: BTreeMap<String, String>,
}

/// A change that the API server calls invalid is not sent again for so long, unless it or the object has become another.
const INVALID_AGAIN: Duration = Duration::from_mins(5);

/// Changes that the API server calls invalid, by the uid of the object: one at most for each.
#[derive(Default)]
pub(crate) struct Invalid(Mutex<HashMap<String, Refused>>);

struct Refused {
    /// Digest of what was sent.
    sent: String,
    /// Generation of the object that it was sent to.
    generation: Option<i64>,
    at: Instant,
    error: ClientError,
}

impl Invalid {
    /// What the API server would say again.
    fn known(&self, live: &DynamicObject, wanted: &Object) -> Option<ClientError> {
        let refused = self.all();
        let last = refused.get(live.metadata.uid.as_deref()?)?;
        let same =
            last.generation == live.metadata.generation && last.sent == digest_of(&wanted.json.to_string());
        (same && last.at.elapsed() < INVALID_AGAIN).then(|| last.error.clone())
    }

    fn note(&self, live: &DynamicObject, wanted: &Object, result: &Result<(), ClientError>) {
        let Some(uid) = live.metadata.uid.clone() else { return };
        let mut all = self.all();
        all.retain(|_, refused| refused.at.elapsed() < INVALID_AGAIN);
        match result {
            Err(error) if error.is_invalid() => {
                let sent = digest_of(&wanted.json.to_string());
                let generation = live.metadata.generation;
                all.insert(uid, Refused { sent, generation, at: Instant::now(), error: error.clone() });
            }
            Ok(()) | Err(_) => drop(all.remove(&uid)),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who owns what goes with the store.
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Applies all objects, in their order.
pub(crate) async fn apply(
    namespace: &Namespace,
    owner: &Owner,
    objects: Vec<Object>,
    invalid: &Invalid,
) -> Result<Applied, ClientError> {
    let mut applied = Applied::default();
    for object in objects {
        let wanted = complete(object, owner);
        let live = namespace.get(wanted.kind, &wanted.name).await?;
        let shown = format!("{} {}", wanted.kind, wanted.name);
        match compare(&wanted, live.as_ref(), owner) {
            Difference::None => applied.revisions.extend(live.as_ref().and_then(revision)),
            Difference::Taken => applied.taken.push(shown),
            Difference::Some(_) => {
                if let Some(live) = &live {
                    if let Some(error) = invalid.known(live, &wanted) {
                        return Err(error);
                    }
                    if wanted.kind == Kind::StatefulSet {
                        grow(namespace, &wanted, live).await?;
                    }
                }
                let result = namespace.apply(&wanted).await;
                if let Some(live) = &live {
                    invalid.note(live, &wanted, &result);
                }
                result?;
                applied.changed.push(shown);
            }
        }
    }
    Ok(applied)
}

/// The template that a StatefulSet's pods should run, once its controller has seen the last change.
fn revision(live: &DynamicObject) -> Option<(String, String)> {
    let status = live.data.get("status")?;
    let seen = status.get("observedGeneration")?.as_i64() == live.metadata.generation;
    let revision = status.get("updateRevision")?.as_str()?.to_owned();
    Some((live.metadata.name.clone()?, revision)).filter(|_| seen)
}

const STORAGE: &str = "/spec/volumeClaimTemplates/0/spec/resources/requests/storage";

/// Grows the claims of a StatefulSet. Its template of them is immutable: the StatefulSet is deleted, its pods stay, and the next apply
/// makes it anew around them.
async fn grow(namespace: &Namespace, wanted: &Object, live: &DynamicObject) -> Result<(), ClientError> {
    let storage = |object: &Value| object.pointer(STORAGE)?.as_str().map(ToOwned::to_owned);
    let (Some(new), Some(old)) = (storage(&wanted.json), live.data.pointer(STORAGE).and_then(Value::as_str))
    else {
        return Ok(());
    };
    let bytes = |text: &str| text.parse().map_or(0, crds::Quantity::as_bytes);
    if bytes(&new) <= bytes(old) {
        return Ok(());
    }
    let replicas = wanted.json.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or_default();
    for ordinal in 0..replicas {
        let claim = format!("data-{}-{ordinal}", wanted.name);
        if namespace.grow_claim(&claim, &new).await? {
            tracing::info!(claim, from = old, to = new, "claim grown");
        }
    }
    namespace.orphan(&wanted.name, live.metadata.uid.as_deref().unwrap_or_default()).await
}

/// Adds owner and digest.
pub(super) fn complete(mut object: Object, owner: &Owner) -> Object {
    if object.owned {
        object.json["metadata"]["ownerReferences"] = json!([{
            "apiVersion": crds::API_VERSION,
            "kind": crds::KIND,
            "name": owner.name,
            "uid": owner.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }]);
    }
    match object.over.as_deref() {
        // Others write it, too, and know of no digest.
        Some("") => {}
        Some(version) => object.json["metadata"]["resourceVersion"] = json!(version),
        None => {
            let digest = digest_of(&object.json.to_string());
            object.json["metadata"]["annotations"][APPLIED] = json!(digest);
        }
    }
    object
}

/// What applying would do to an object.
#[derive(Debug, PartialEq)]
pub(super) enum Difference {
    None,
    /// It would be made, or these fields of it changed.
    Some(Vec<Field>),
    /// It is controlled by somebody else, or nobody's and not ours.
    Taken,
}

/// A field that is not as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    /// `spec.template.spec.containers[redis].image`.
    pub(super) path: String,
    pub(super) live: Option<Value>,
    pub(super) wanted: Value,
}

pub(super) fn compare(wanted: &Object, live: Option<&DynamicObject>, owner: &Owner) -> Difference {
    let Some(live) = live else { return Difference::Some(Vec::new()) };
    let controller = live.meta().owner_references.iter().flatten().find(|of| of.controller == Some(true));
    // What stays with the volumes has no owner; it is ours by its label.
    let ours = controller.map_or_else(
        || {
            let labels = live.meta().labels.as_ref();
            labels.and_then(|labels| labels.get(super::labels::STORE)) == Some(&owner.name)
        },
        |controller| controller.uid == owner.uid,
    );
    if !ours {
        return Difference::Taken;
    }
    let live = serde_json::to_value(live).unwrap_or_default();
    // What has changed since it was read is no difference: the next round reads it.
    let mut wanted = wanted.json.clone();
    if let Some(meta) = wanted["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
    }
    let mut fields = Vec::new();
    differ(Some(&live), &wanted, "", &mut fields);
    if fields.is_empty() { Difference::None } else { Difference::Some(fields) }
}

/// What is wanted and not there, or another. Defaults of the API server, and other managers' fields, are beside it.
fn differ(live: Option<&Value>, wanted: &Value, path: &str, fields: &mut Vec<Field>) {
    match (live, wanted) {
        (Some(Value::Object(live)), Value::Object(wanted)) => {
            for (name, wanted) in wanted {
                differ(live.get(name), wanted, &below(path, name), fields);
            }
        }
        (Some(Value::Array(live)), Value::Array(wanted)) if live.len() == wanted.len() => {
            for (at, (live, wanted)) in live.iter().zip(wanted).enumerate() {
                let name = wanted.get("name").and_then(Value::as_str);
                let name = name.map_or_else(|| at.to_string(), ToOwned::to_owned);
                differ(Some(live), wanted, &format!("{path}[{name}]"), fields);
            }
        }
        // An empty object says nothing.
        (None, Value::Object(wanted)) if wanted.is_empty() => {}
        (Some(live), wanted) if live == wanted => {}
        (live, wanted) => {
            fields.push(Field { path: path.to_owned(), live: live.cloned(), wanted: wanted.clone() });
        }
    }
}

/// The path of a field of an object; names with dots stand in brackets.
fn below(path: &str, name: &str) -> String {
    match (path, name.contains(['.', '/'])) {
        ("", _) => name.to_owned(),
        (_, true) => format!("{path}[{name}]"),
        (_, false) => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(live: &Value, wanted: &Value) -> bool {
        let mut fields = Vec::new();
        differ(Some(live), wanted, "", &mut fields);
        fields.is_empty()
    }

    #[test]
    fn differences_are_named_by_their_paths() {
        let live =
            json!({"spec": {"replicas": 1, "containers": [{"name": "redis", "image": "a"}], "odd": []}});
        let wanted = json!({"spec": {"replicas": 1, "containers": [{"name": "redis", "image": "b"}], "odd": [1], "new": 2},
            "metadata": {"annotations": {"a/b": "c"}}, "data": {}});
        let mut fields = Vec::new();
        differ(Some(&live), &wanted, "", &mut fields);
        let mut paths: Vec<_> = fields.iter().map(|field| field.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["metadata", "spec.containers[redis].image", "spec.new", "spec.odd"]);
        let live = json!({"metadata": {"annotations": {"x": "y"}}, "spec": wanted["spec"]});
        fields.clear();
        differ(Some(&live), &wanted, "", &mut fields);
        assert_eq!(fields[0].path, "metadata.annotations[a/b]");
    }

    #[test]
    fn what_others_set_is_no_difference() {
        let wanted = json!({"spec": {"replicas": 1, "list": [{"a": 1}]}});
        assert!(contains(
            &json!({"spec": {"replicas": 1, "list": [{"a": 1, "b": 2}], "more": 3}, "status": {}}),
            &wanted
        ));
        assert!(!contains(&json!({"spec": {"replicas": 2, "list": [{"a": 1}]}}), &wanted));
        assert!(!contains(&json!({"spec": {"replicas": 1, "list": []}}), &wanted));
        assert!(!contains(&json!({"spec": {"list": [{"a": 1}]}}), &wanted));
    }
}
