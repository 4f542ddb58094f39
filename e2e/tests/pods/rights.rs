//! What the operator asks of the API server, over the whole life of a store: nothing that its roles do not allow, and all that they do.

use std::collections::BTreeSet;

use e2e::cluster::Namespace;
use serde_json::Value;

use crate::growth::rolled;
use crate::{Place, RECOVERY};

/// The second time it is the same event, seen again.
pub(crate) fn what_is_wrong_is_told_in_an_event(place: &Place) {
    let reason = |store: &Value, wanted: &str| {
        let conditions = store["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Progressing" && condition["reason"] == wanted)
    };
    for times in 1..=2 {
        place
            .namespace
            .apply(&rolled().replace("spec: {", "spec: {auth: {secretRef: {name: missing}}, "))
            .unwrap();
        place.namespace.wait("mas", "shop", RECOVERY, |store| reason(store, "SecretMissing")).unwrap();
        let count = |event: &Value| event["series"]["count"].as_u64().unwrap_or(1);
        e2e::wait::wait_until("the event", RECOVERY, || {
            let events = place.namespace.list("events.events.k8s.io").map_err(|error| error.to_string())?;
            let told: Vec<&Value> =
                events.iter().filter(|event| event["reason"] == "SecretMissing").collect();
            if told.iter().map(|event| count(event)).sum::<u64>() >= times {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .unwrap();
        place.namespace.apply(&rolled()).unwrap();
        place.namespace.wait("mas", "shop", RECOVERY, |store| reason(store, "Reconciled")).unwrap();
    }
}

pub(crate) fn the_roles_are_exactly_what_was_asked_for(namespace: &Namespace) {
    let cluster = namespace.cluster();
    if cluster.audit().is_none() {
        println!("skipped: the cluster that KUBECONFIG names writes no log of requests");
        return;
    }
    let requests = namespace.requests(0).unwrap();
    let denied: Vec<_> = requests.iter().filter(|event| event["responseStatus"]["code"] == 403).collect();
    assert!(denied.is_empty(), "the role lacks a verb: {denied:?}");
    let mut used: BTreeSet<String> = requests.iter().map(right).collect();
    // Applying what is not there yet needs the right to create it.
    let applied: Vec<String> =
        used.iter().filter(|right| right.starts_with("patch ") && !right.contains('/')).cloned().collect();
    used.extend(
        applied
            .iter()
            .filter(|right| !right.contains("multiactivestores"))
            .map(|right| right.replace("patch ", "create ")),
    );
    let given: BTreeSet<String> = ["multiactive-operator", "multiactive-operator-lease"]
        .iter()
        .filter_map(|role| cluster.get("default", "clusterrole", role).unwrap()["rules"].as_array().cloned())
        .flatten()
        .flat_map(|rule| rights(&rule))
        .collect();
    let unused: Vec<_> = given.difference(&used).filter(|right| !right.ends_with("finalizers")).collect();
    assert!(unused.is_empty(), "rights that nothing needs: {unused:?}");
}

/// `patch apps/statefulsets`.
fn right(event: &Value) -> String {
    let object = &event["objectRef"];
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let resource = [text("resource"), text("subresource")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    format!("{} {} {resource}", event["verb"].as_str().unwrap_or_default(), text("apiGroup"))
}

fn rights(rule: &Value) -> Vec<String> {
    let words = |name: &str| -> Vec<String> {
        rule[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect()
    };
    let mut all = Vec::new();
    for verb in words("verbs") {
        for group in words("apiGroups") {
            all.extend(words("resources").iter().map(|resource| format!("{verb} {group} {resource}")));
        }
    }
    all
}
