//! The region's front: the proxies, the Service that clients connect to, and the Secret that tells them how.

use mas_core::config::{BrokerConfig, ClientAuth, PeerConfig, ProxyConfig, RegionRef, ShardConfig};
use serde_json::{Value, json};

use super::{broker, pods, redis};
use crate::platform::kubernetes::check::{Checked, CheckedRegion};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::{Kind, Object};
use crate::platform::kubernetes::status;
use crate::render;

/// Clients, and admin (probes, metrics, status).
pub(crate) const CLIENTS: u16 = 6379;
pub(crate) const ADMIN: u16 = 8080;
const SECRETS: &str = "/run/secrets/multiactive";
/// Memory of a proxy, bytes, unless something else is asked for.
const MEMORY: u64 = 256 << 20;

/// Configuration, disruption budget, Deployment.
pub(super) fn objects(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let name = labels::part_name(of, here, Part::Proxy);
    let labels = labels::part(of, here, region.id, Part::Proxy);
    vec![
        configuration(store, region),
        pods::disruption_budget(&name, &labels),
        deployment(store, region, &name, &labels),
    ]
}

/// The file that every proxy of the region reads.
pub(super) fn configuration(store: &Checked, region: &CheckedRegion) -> Object {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let labels = labels::part(of, here, region.id, Part::Proxy);
    let config = serde_json::to_string_pretty(&config(store, region)).unwrap_or_default();
    let body = json!({"data": {"proxy.json": config}});
    Object::new(Kind::ConfigMap, labels::part_name(of, here, Part::Proxy), &labels, body)
}

/// What every proxy of the region reads. Its generation is raised when anything else in it changes.
pub(super) fn config(store: &Checked, region: &CheckedRegion) -> ProxyConfig {
    let spec = &store.spec;
    let secret = |name: &str| format!("{SECRETS}/{name}").into();
    let cluster = |of: &str, username: &str| BrokerConfig {
        nodes: broker::addresses(store, of),
        vhost: "/".into(),
        username: username.to_owned(),
        password_file: secret(&format!("broker-{of}")),
    };
    let reference = |region: &CheckedRegion| RegionRef { name: region.spec.name.clone(), id: region.id };
    let peers = store.members().filter(|peer| peer.id != region.id);
    let shard = |shard: u16| ShardConfig {
        shard,
        members: redis::members(store, &region.spec.name, shard),
        slots: store.identity.slots.get(usize::from(shard)).cloned().unwrap_or_default(),
        fsync_always: spec.redis.append_only == crds::AppendOnly::Always,
    };
    let replication = &spec.replication;
    let mut config = ProxyConfig {
        generation: 0,
        store: spec.name.clone(),
        proxy: String::new(),
        region: reference(region),
        listen: format!("0.0.0.0:{CLIENTS}"),
        admin: format!("0.0.0.0:{ADMIN}"),
        shards: (0..spec.shards).map(shard).collect(),
        broker: cluster(&region.spec.name, render::BROKER_USER),
        peers: peers
            .map(|peer| PeerConfig {
                region: reference(peer),
                broker: cluster(&peer.spec.name, render::PEER_USER),
                // One that joins has none yet, and one that is drained takes no requests of others either.
                endpoint: (!peer.joining && peer.spec.traffic == crds::Traffic::Active)
                    .then(|| status::endpoint(&spec.name, &peer.spec.name, &store.namespace)),
            })
            .collect(),
        membership: store.identity.membership,
        ack: render::ack_level(replication.ack),
        remote_acks: replication.remote_acks,
        on_broker_loss: render::on_broker_loss(replication.on_broker_loss),
        retention: render::retention(replication),
        max_lag_ms: replication.max_lag.as_millis(),
        evacuate_after_ms: mas_core::config::evacuate_after_ms(),
        drained: region.spec.traffic == crds::Traffic::Drained,
        gone: store.members().filter(|peer| peer.gone && peer.id != region.id).map(|peer| peer.id).collect(),
        engine_password_file: Some(secret("engine")),
        client_auth: Some(ClientAuth {
            username: store.passwords.client_user.clone(),
            password_file: secret("client"),
        }),
        max_connections: spec.proxy.max_connections as usize,
        workers: 0,
    };
    let (generation, same) = match &region.proxy_config {
        Some(last) => (last.generation, ProxyConfig { generation: 0, ..last.clone() } == config),
        None => (0, false),
    };
    config.generation = generation + u64::from(!same);
    config
}

/// What clients connect to.
pub(super) fn service(store: &Checked, region: &CheckedRegion) -> Object {
    let labels = labels::part(&store.spec.name, &region.spec.name, region.id, Part::Proxy);
    let wanted = &region.spec.service;
    let mut body = json!({"spec": {
        "type": wanted.kind,
        "selector": labels::selector(&labels),
        "ports": [{"name": "redis", "port": CLIENTS, "targetPort": "redis", "appProtocol": "redis"}],
    }});
    if let Some(class) = &wanted.load_balancer_class {
        body["spec"]["loadBalancerClass"] = json!(class);
    }
    let name = labels::region_name(&store.spec.name, &region.spec.name);
    let object = Object::new(Kind::Service, name, &labels, body);
    if wanted.annotations.is_empty() { object } else { object.annotated(&json!(wanted.annotations)) }
}

fn deployment(store: &Checked, region: &CheckedRegion, name: &str, labels: &Value) -> Object {
    let proxy = &store.spec.proxy;
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "admin"}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 2});
    let container = json!({
        "name": "proxy",
        "image": store.images.proxy,
        "command": ["mas-proxy", "--config", "/etc/multiactive/proxy.json", "--log-format", "json"],
        "env": [{"name": "MAS_PROXY_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "redis", "containerPort": CLIENTS}, {"name": "admin", "containerPort": ADMIN}],
        "resources": pods::resources(proxy.resources.as_ref(), "250m", MEMORY),
        "startupProbe": probe("/healthz", 1, 60),
        "readinessProbe": probe("/readyz", 2, 2),
        "livenessProbe": probe("/healthz", 10, 3),
        "securityContext": pods::container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/multiactive", "readOnly": true},
            {"name": "secrets", "mountPath": SECRETS, "readOnly": true},
        ],
    });
    let inner = json!({
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "secrets", "secret": {"secretName": name, "defaultMode": 0o440}},
        ],
    });
    let body = json!({"spec": {
        "replicas": region.proxy_replicas,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": labels::selector(labels)},
        // The configuration is watched: a change of it starts nothing anew.
        "template": {"metadata": {"labels": labels}, "spec": pods::spec(&region.spec.placement, labels, 60, inner)},
    }});
    Object::new(Kind::Deployment, name.to_owned(), labels, body)
}
