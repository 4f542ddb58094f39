//! Names and labels of a store's objects. Labels are the field's own (`app.kubernetes.io/…`), and ours where that has none.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// What a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Redis,
    Broker,
    Proxy,
}

impl Part {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Broker => "broker",
            Self::Proxy => "proxy",
        }
    }
}

/// The label of all that belongs to a store.
pub(crate) const STORE: &str = "multiactive.dev/store";
/// The label of a region's id: a name may come back, an id does not.
pub(crate) const REGION_ID: &str = "multiactive.dev/region-id";
pub(crate) const REGION: &str = "multiactive.dev/region";
pub(crate) const SHARD: &str = "multiactive.dev/shard";

/// The operation by which a region joins. Its id makes it one of its own: a name may come back, an id does not.
pub(crate) fn operation_name(store: &str, region: &str, id: u16) -> String {
    format!("{store}--scale-out--{region}-{id}")
}

/// The operation by which a shard is made again of which no copy is left: one for each epoch under which there was a copy.
pub(crate) fn rebuild_name(store: &str, region: &str, shard: u16, epoch: u64) -> String {
    format!("{store}--rebuild--{region}-{shard}-{epoch}")
}

/// The same of the operation by which it leaves.
pub(crate) fn removal_name(store: &str, region: &str, id: u16) -> String {
    format!("{store}--remove--{region}-{id}")
}

/// The same of the operation by which a person declares it gone for good.
pub(crate) fn forced_removal_name(store: &str, region: &str, id: u16) -> String {
    format!("{}--force", removal_name(store, region, id))
}

/// Labels of what belongs to the whole store.
pub(crate) fn store(store: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "multi-active-store",
        "app.kubernetes.io/instance": store,
        "app.kubernetes.io/managed-by": super::FIELD_MANAGER,
        STORE: store,
    })
}

/// Labels of what belongs to a region.
pub(crate) fn region(of: &str, region: &str, id: u16) -> Value {
    let mut labels = store(of);
    labels[REGION] = json!(region);
    labels[REGION_ID] = json!(id.to_string());
    labels
}

/// Labels of the pods of a part, and of what is made for them.
pub(crate) fn part(of: &str, name: &str, id: u16, part: Part) -> Value {
    let mut labels = region(of, name, id);
    labels["app.kubernetes.io/component"] = json!(part.as_str());
    labels
}

/// Labels of one shard's pods.
pub(crate) fn shard(of: &str, name: &str, id: u16, shard: u16) -> Value {
    let mut labels = part(of, name, id, Part::Redis);
    labels[SHARD] = json!(shard.to_string());
    labels
}

/// What selects them: never a label that may change.
pub(crate) fn selector(labels: &Value) -> Value {
    let chosen = [STORE, REGION_ID, SHARD, "app.kubernetes.io/component"];
    let pairs = chosen.iter().filter_map(|key| Some(((*key).to_owned(), labels.get(*key)?.clone())));
    Value::Object(pairs.collect())
}

/// What a pod of a store is.
pub(crate) fn part_of(pod: &Pod) -> Option<Part> {
    let component = pod.metadata.labels.as_ref()?.get("app.kubernetes.io/component")?;
    [Part::Redis, Part::Broker, Part::Proxy].into_iter().find(|part| part.as_str() == component)
}

pub(crate) fn identity_name(store: &str) -> String {
    format!("{store}--identity")
}

pub(crate) fn credentials_name(store: &str) -> String {
    format!("{store}--credentials")
}

pub(crate) fn region_name(store: &str, region: &str) -> String {
    format!("{store}--{region}")
}

pub(crate) fn shard_name(store: &str, region: &str, shard: u16) -> String {
    format!("{store}--{region}--shard-{shard}-redis")
}

pub(crate) fn part_name(store: &str, region: &str, part: Part) -> String {
    format!("{store}--{region}--{}", part.as_str())
}

pub(crate) fn app_name(store: &str, region: &str) -> String {
    format!("{store}--{region}--app")
}
