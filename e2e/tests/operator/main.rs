//! The operator on a real Kubernetes API server without nodes: what is stored, what is refused, and the objects that are made. No
//! pod runs here. (`KUBECONFIG` names another cluster.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod crashes;
mod masctl;
mod objects;
mod older;
mod quiet;
mod schema;

use std::time::Duration;

use e2e::cluster::Namespace;
use serde_json::{Value, json};

/// How long the operator may take for anything.
const LIMIT: Duration = Duration::from_mins(1);
/// All that the operator makes, and what is made of that.
const KINDS: &str = "configmaps,secrets,services,networkpolicies,poddisruptionbudgets,statefulsets,deployments,storeregions,storeoperations";

/// A manifest; `spec` in YAML's flow style.
fn manifest(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// A small store with two regions.
fn small(more: &str) -> String {
    manifest(
        "shop",
        &format!(
            "{{regions: [{{name: a}}, {{name: b}}], broker: {{replicas: 1}}, redis: {{maxMemory: 64Mi}}{more}}}"
        ),
    )
}

/// Waits until the operator has done a whole round with the manifest as it is now.
fn wait_reconciled(namespace: &Namespace, store: &str) -> Value {
    namespace.wait("mas", store, LIMIT, is_reconciled).unwrap()
}

fn is_reconciled(store: &Value) -> bool {
    store["status"]["observedGeneration"] == store["metadata"]["generation"]
        && !store["spec"]["release"].is_null()
}

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or(Value::Null)
}

/// Everything that the operator made in the namespace, without what differs from run to run.
fn picture(namespace: &Namespace) -> Vec<(String, Value)> {
    let mut objects: Vec<(String, Value)> = namespace
        .list(KINDS)
        .unwrap()
        .into_iter()
        .filter(|object| object["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("shop--")))
        .map(|mut object| {
            let name = format!("{} {}", object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"]);
            let meta = object["metadata"].take();
            object["metadata"] = json!({"labels": meta["labels"], "owners": owners(&meta)});
            object["status"] = Value::Null;
            for volatile in ["clusterIP", "clusterIPs"] {
                if let Some(spec) = object["spec"].as_object_mut() {
                    spec.remove(volatile);
                }
            }
            // Passwords are random; how many there are is not.
            if let Some(data) = object["data"].as_object_mut().filter(|_| name.starts_with("Secret")) {
                data.values_mut().for_each(|value| *value = Value::Null);
            }
            (name, object)
        })
        .collect();
    objects.sort_by(|a, b| a.0.cmp(&b.0));
    objects
}

fn owners(meta: &Value) -> Vec<Value> {
    meta["ownerReferences"].as_array().into_iter().flatten().map(|owner| owner["kind"].clone()).collect()
}
