//! What starts a round: changes of what rounds read and set. What controllers and the health loop say in `status` starts none, or a store
//! whose pods come and go would be reconciled at each word of it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crds::{MultiActiveStore, StoreRegion};
use futures_util::{Stream, StreamExt as _};
use kube::ResourceExt as _;
use kube::core::Resource;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use serde::Serialize;

/// Namespace and name.
type Key = (Option<String>, String);

/// The stores of the objects that were made, changed in anything but their status, or are gone. `seen` names what counts of a status.
pub(super) fn changes<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    store_of: fn(&K) -> Option<ObjectRef<MultiActiveStore>>,
    seen: &'static [&'static str],
) -> impl Stream<Item = ObjectRef<MultiActiveStore>> + Send
where
    K: Resource<DynamicType = ()> + Serialize + Send,
{
    let mut known = Known::default();
    events.flat_map(move |event| {
        let changed = match event {
            Ok(Event::Init) => {
                known.older = std::mem::take(&mut known.objects);
                Vec::new()
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let now = (fingerprint(&object, seen), store_of(&object));
                known.is_now(key(&object), now).into_iter().collect()
            }
            Ok(Event::Delete(object)) => {
                known.objects.remove(&key(&object));
                store_of(&object).into_iter().collect()
            }
            // What is not there any more went while nobody watched.
            Ok(Event::InitDone) => known.older.drain().filter_map(|(_, (_, store))| store).collect(),
            Err(error) => {
                tracing::warn!(%error, kind = %K::kind(&()), "watching failed; trying again");
                Vec::new()
            }
        };
        futures_util::stream::iter(changed)
    })
}

/// The store that owns it.
pub(super) fn owner<K: Resource>(object: &K) -> Option<ObjectRef<MultiActiveStore>> {
    let owners = object.meta().owner_references.iter().flatten();
    let store = owners.into_iter().find(|of| of.controller == Some(true) && of.kind == crds::KIND)?;
    Some(ObjectRef::new(&store.name).within(object.meta().namespace.as_deref()?))
}

/// The store of a row, which owns it not: what is kept with the volumes outlives the store.
pub(super) fn row_of(row: &StoreRegion) -> Option<ObjectRef<MultiActiveStore>> {
    Some(ObjectRef::new(&row.spec.store_ref.name).within(row.metadata.namespace.as_deref()?))
}

/// A fingerprint, and whose store it is.
type Last = (u64, Option<ObjectRef<MultiActiveStore>>);

#[derive(Default)]
struct Known {
    objects: HashMap<Key, Last>,
    /// Those of the watch before this one, while this one begins.
    older: HashMap<Key, Last>,
}

impl Known {
    /// The store, if this is another than was known.
    fn is_now(&mut self, key: Key, now: Last) -> Option<ObjectRef<MultiActiveStore>> {
        let last = self.older.remove(&key).or_else(|| self.objects.get(&key).cloned());
        let store = now.1.clone();
        let same = last.is_some_and(|last| last == now);
        self.objects.insert(key, now);
        store.filter(|_| !same)
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    (object.namespace(), object.name_any())
}

fn fingerprint<K: Serialize>(object: &K, seen: &[&str]) -> u64 {
    let mut json = serde_json::to_value(object).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    let status = json.as_object_mut().and_then(|object| object.remove("status")).unwrap_or_default();
    for field in seen {
        status[field].to_string().hash(&mut hasher);
    }
    if let Some(meta) = json["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
        meta.remove("managedFields");
    }
    json.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::json;

    use super::*;

    fn set(name: &str, label: &str, ready: u64, revision: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "resourceVersion": ready.to_string(), "labels": {"l": label},
                "ownerReferences": [{"apiVersion": "v", "kind": crds::KIND, "name": "shop", "uid": "u", "controller": true}]},
            "spec": {"serviceName": "s", "selector": {}, "template": {}},
            "status": {"replicas": 1, "readyReplicas": ready, "updateRevision": revision},
        }))
        .expect("a StatefulSet")
    }

    /// How many rounds these start.
    async fn rounds(events: Vec<Event<StatefulSet>>) -> usize {
        let events = futures_util::stream::iter(events.into_iter().map(Ok));
        changes(events, owner, &["updateRevision"])
            .inspect(|store| assert_eq!(*store, ObjectRef::new("shop").within("n")))
            .count()
            .await
    }

    #[tokio::test]
    async fn what_rounds_set_or_read_starts_one_and_other_status_does_not() {
        let applied = |label, ready, revision| Event::Apply(set("a", label, ready, revision));
        assert_eq!(rounds(vec![applied("x", 0, "1")]).await, 1);
        assert_eq!(rounds(vec![applied("x", 0, "1"), applied("x", 1, "1"), applied("x", 0, "1")]).await, 1);
        assert_eq!(rounds(vec![applied("x", 0, "1"), applied("y", 0, "1")]).await, 2);
        assert_eq!(rounds(vec![applied("x", 0, "1"), applied("x", 0, "2")]).await, 2);
    }

    #[tokio::test]
    async fn what_is_gone_starts_one_also_when_nobody_watched() {
        let of = |name| set(name, "x", 0, "1");
        let first =
            || vec![Event::Init, Event::InitApply(of("a")), Event::InitApply(of("b")), Event::InitDone];
        assert_eq!(rounds(first()).await, 2);
        let mut deleted = first();
        deleted.push(Event::Delete(of("a")));
        assert_eq!(rounds(deleted).await, 3);
        let mut again = first();
        again.extend([Event::Init, Event::InitApply(of("b")), Event::InitDone]);
        assert_eq!(rounds(again).await, 3, "a went meanwhile, b is as it was");
    }
}
