//! What the pods of all parts have in common: the `restricted` Pod Security Standard, placement, no token, no service links.

use crds::Placement;
use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, PodAntiAffinity, WeightedPodAffinityTerm};
use serde_json::{Value, json};

use crate::platform::kubernetes::labels;
use crate::platform::kubernetes::object::{Kind, Object};

/// The user that everything runs as.
const USER: u32 = 10_001;

/// A container's security context.
pub(super) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
    })
}

/// A pod's spec around its containers and volumes. `grace`: seconds that it gets to end.
pub(super) fn spec(placement: &Placement, labels: &Value, grace: u32, inner: Value) -> Value {
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": affinity(placement.affinity.as_ref(), labels),
    });
    let Placement { node_selector, tolerations, topology_spread_constraints, priority_class_name, .. } =
        placement;
    if !node_selector.is_empty() {
        spec["nodeSelector"] = json!(node_selector);
    }
    if !tolerations.is_empty() {
        spec["tolerations"] = json!(tolerations);
    }
    if !topology_spread_constraints.is_empty() {
        spec["topologySpreadConstraints"] = json!(topology_spread_constraints);
    }
    if let Some(class) = priority_class_name {
        spec["priorityClassName"] = json!(class);
    }
    if let (Value::Object(spec), Value::Object(inner)) = (&mut spec, inner) {
        spec.extend(inner);
    }
    spec
}

/// The wanted affinity; without one about other pods, those that do the same are kept apart where that is possible.
fn affinity(wanted: Option<&Affinity>, labels: &Value) -> Value {
    let mut affinity = wanted.cloned().unwrap_or_default();
    if affinity.pod_anti_affinity.is_none() {
        let same = serde_json::from_value(json!({"matchLabels": labels::selector(labels)})).ok();
        let term = PodAffinityTerm {
            label_selector: same,
            topology_key: "kubernetes.io/hostname".into(),
            ..PodAffinityTerm::default()
        };
        affinity.pod_anti_affinity = Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..PodAntiAffinity::default()
        });
    }
    json!(affinity)
}

/// Requests and limits: what was asked for, and for the rest what is derived.
pub(super) fn resources(wanted: Option<&crds::Resources>, cpu: &str, memory: u64) -> Value {
    let memory = crds::Quantity::bytes(memory.next_multiple_of(1 << 20)).to_string();
    let mut requests = json!({"cpu": cpu, "memory": memory});
    let mut limits = json!({"memory": memory});
    if let Some(wanted) = wanted {
        for (all, given) in [(&mut requests, &wanted.requests), (&mut limits, &wanted.limits)] {
            for (name, amount) in given {
                all[name] = json!(amount);
            }
        }
    }
    json!({"requests": requests, "limits": limits})
}

/// At most one of these pods may be away for a planned reason.
pub(super) fn disruption_budget(name: &str, labels: &Value) -> Object {
    let body = json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels::selector(labels)}}});
    Object::new(Kind::PodDisruptionBudget, name.to_owned(), labels, body)
}

/// A headless Service that gives each pod of a StatefulSet its name, ready or not: an engine that is fenced must be found.
pub(super) fn headless_service(name: &str, labels: &Value, ports: &Value) -> Object {
    let body = json!({"spec": {
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": labels::selector(labels),
        "ports": ports,
    }});
    Object::new(Kind::Service, name.to_owned(), labels, body)
}

/// A StatefulSet whose pods are replaced by us alone, one by one.
pub(super) fn stateful_set(
    name: &str,
    labels: &Value,
    replicas: u16,
    keeps_data: bool,
    template: &Value,
    claim: &Value,
) -> Object {
    let retention = if keeps_data { "Retain" } else { "Delete" };
    let body = json!({"spec": {
        "serviceName": name,
        "replicas": replicas,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": retention, "whenScaled": "Retain"},
        "selector": {"matchLabels": labels::selector(labels)},
        "template": template,
        "volumeClaimTemplates": [claim],
    }});
    Object::new(Kind::StatefulSet, name.to_owned(), labels, body)
}

/// The claim of a data volume.
pub(super) fn claim(labels: &Value, size: crds::Quantity, class: Option<&String>) -> Value {
    let mut spec =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size.to_string()}}});
    if let Some(class) = class {
        spec["storageClassName"] = json!(class);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": labels::selector(labels)},
        "spec": spec,
    })
}
