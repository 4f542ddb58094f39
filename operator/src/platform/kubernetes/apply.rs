//! Brings the cluster to what was built: reads each object, and sends it only if something that we set is missing or another.
//! A quiet store causes no writes.

use std::collections::BTreeMap;

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
) -> Result<Applied, ClientError> {
    let mut applied = Applied::default();
    for object in objects {
        let wanted = complete(object, owner);
        let live = namespace.get(wanted.kind, &wanted.name).await?;
        let shown = format!("{} {}", wanted.kind, wanted.name);
        match compare(&wanted, live.as_ref(), owner) {
            Difference::None => applied.revisions.extend(live.as_ref().and_then(revision)),
            Difference::Taken => applied.taken.push(shown),
            Difference::Some => {
                if wanted.kind == Kind::StatefulSet
                    && let Some(live) = &live
                {
                    grow(namespace, &wanted, live).await?;
                }
                namespace.apply(&wanted).await?;
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
fn complete(mut object: Object, owner: &Owner) -> Object {
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

#[derive(Debug, PartialEq, Eq)]
enum Difference {
    None,
    Some,
    /// It is controlled by somebody else, or nobody's and not ours.
    Taken,
}

fn compare(wanted: &Object, live: Option<&DynamicObject>, owner: &Owner) -> Difference {
    let Some(live) = live else { return Difference::Some };
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
    if contains(&live, &wanted) { Difference::None } else { Difference::Some }
}

/// Whether `live` has all that is wanted. Defaults of the API server, and other managers' fields, are beside it.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(name, wanted)| {
            let empty = || wanted.as_object().is_some_and(serde_json::Map::is_empty);
            live.get(name).map_or_else(empty, |live| contains(live, wanted))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| contains(live, wanted))
        }
        _ => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
