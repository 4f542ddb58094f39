//! Who may connect to whom. Everything else is refused where the cluster's network enforces policies.

use serde_json::{Value, json};

use super::{broker, proxy, redis};
use crate::platform::kubernetes::check::{Checked, CheckedRegion};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::{Kind, Object};

/// One policy a part.
pub(super) fn policies(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let labels = |part| labels::part(of, here, region.id, part);
    let own = |part| json!({"podSelector": {"matchLabels": labels::selector(&labels(part))}});
    let all_proxies = json!({"podSelector": {"matchLabels": {
        labels::STORE: of,
        "app.kubernetes.io/component": Part::Proxy.as_str(),
    }}});
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": store.operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "multiactive-operator"}},
    });
    let policy = |part: Part, ingress: Value| {
        let body = json!({"spec": {
            "podSelector": {"matchLabels": labels::selector(&labels(part))},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        }});
        Object::new(Kind::NetworkPolicy, labels::part_name(of, here, part), &labels(part), body)
    };
    // Who joins copies what the others have.
    let joining = store.members().filter(|other| other.joining && other.id != region.id).map(|other| {
        let labels = labels::part(of, &other.spec.name, other.id, Part::Redis);
        json!({"podSelector": {"matchLabels": labels::selector(&labels)}})
    });
    let mut to_redis = vec![own(Part::Proxy), own(Part::Redis), operator.clone()];
    to_redis.extend(joining);
    // So do shards that are made again.
    let rebuilt = store.members().filter(|other| !other.joining && other.id != region.id).flat_map(|other| {
        let known = store.identity.region(&other.spec.name);
        let shards = known.map(|known| known.rebuilding.clone()).unwrap_or_default();
        shards.into_iter().map(move |shard| labels::shard(of, &other.spec.name, other.id, shard))
    });
    to_redis.extend(rebuilt.map(|labels| json!({"podSelector": {"matchLabels": labels::selector(&labels)}})));
    vec![
        policy(Part::Redis, json!([{"from": to_redis, "ports": ports(&[redis::PORT])}])),
        policy(
            Part::Broker,
            json!([
                {"from": [all_proxies], "ports": ports(&[broker::AMQP])},
                {"from": [own(Part::Broker)], "ports": ports(&[broker::EPMD, broker::DISTRIBUTION])},
                {"from": [operator], "ports": ports(&[broker::AMQP, broker::MANAGEMENT])},
                {"ports": ports(&[broker::METRICS])},
            ]),
        ),
        // Clients come from anywhere that the Service can be reached from; so do those who read metrics.
        policy(Part::Proxy, json!([{"ports": ports(&[proxy::CLIENTS, proxy::ADMIN])}])),
    ]
}

fn ports(ports: &[u16]) -> Value {
    ports.iter().map(|port| json!({"protocol": "TCP", "port": port})).collect()
}
