//! The region's RabbitMQ cluster.

use serde_json::{Value, json};

use super::pods;
use crate::platform::broker;
use crate::platform::kubernetes::check::{Checked, CheckedRegion};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::{Kind, Object, digest_of};
use crate::render::{self, BrokerFile, BrokerUsers};

/// AMQP.
pub(crate) const AMQP: u16 = 5672;
/// The port mapper, and the nodes' own connections.
pub(super) const EPMD: u16 = 4369;
pub(super) const DISTRIBUTION: u16 = 25_672;
/// Management, and metrics.
pub(crate) const MANAGEMENT: u16 = 15_672;
pub(super) const METRICS: u16 = 15_692;
/// Every address.
const ANY: &str = "::";
/// Memory of a node, bytes, unless something else is asked for.
const MEMORY: u64 = 1 << 30;
const FILES: &str = "/etc/multiactive";
const SECRETS: &str = "/run/secrets/multiactive";
const HOME: &str = "/var/lib/rabbitmq";
/// A file that is there once all nodes have been ready: before, the first of them may make a cluster.
pub(crate) const FORMED: &str = "formed";
/// How long a node may take to start, seconds; and one that may have to take over all streams. It then goes on where it was.
const STARTS_WITHIN: u64 = 600;
const JOINS_WITHIN: u64 = 3600;

/// Configuration, headless Service, disruption budget, StatefulSet.
pub(super) fn objects(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let name = labels::part_name(of, here, Part::Broker);
    let labels = labels::part(of, here, region.id, Part::Broker);
    let config = config(store, here);
    let mut files = json!({"rabbitmq.conf": config, "enabled_plugins": PLUGINS});
    let mut digested = config;
    if is_cluster(store) {
        for (name, text) in broker::FILES {
            files[name] = json!(text);
            digested.push_str(text);
        }
        if region.formed {
            files[FORMED] = json!("");
        }
    }
    let ports: Vec<Value> =
        ports().map(|(name, port)| json!({"name": name, "port": port, "targetPort": name})).collect();
    vec![
        Object::new(Kind::ConfigMap, name.clone(), &labels, json!({"data": files})),
        pods::headless_service(&name, &labels, &json!(ports)),
        pods::disruption_budget(&name, &labels),
        stateful_set(store, region, &name, &labels, &digest_of(&digested)),
    ]
}

const PLUGINS: &str = "[rabbitmq_management,rabbitmq_prometheus].\n";

fn is_cluster(store: &Checked) -> bool {
    store.spec.broker.replicas > 1
}

fn ports() -> impl Iterator<Item = (&'static str, u16)> {
    [
        ("amqp", AMQP),
        ("epmd", EPMD),
        ("distribution", DISTRIBUTION),
        ("management", MANAGEMENT),
        ("metrics", METRICS),
    ]
    .into_iter()
}

/// `host:port` of every node.
pub(super) fn addresses(store: &Checked, region: &str) -> Vec<String> {
    hosts(store, region).map(|host| format!("{host}:{AMQP}")).collect()
}

fn hosts(store: &Checked, region: &str) -> impl Iterator<Item = String> {
    let set = labels::part_name(&store.spec.name, region, Part::Broker);
    let namespace = store.namespace.clone();
    (0..store.spec.broker.replicas).map(move |ordinal| format!("{set}-{ordinal}.{set}.{namespace}.svc"))
}

fn nodes(store: &Checked, region: &str) -> impl Iterator<Item = String> {
    hosts(store, region).map(|host| format!("rabbit@{host}"))
}

fn config(store: &Checked, region: &str) -> String {
    let nodes: Vec<String> = nodes(store, region).collect();
    render::rabbitmq(&BrokerFile {
        bind: ANY,
        amqp: AMQP,
        management: MANAGEMENT,
        users: BrokerUsers::Definitions(&format!("{SECRETS}/definitions.json")),
        nodes: &nodes,
        memory: watermark(store),
        storage: Some(store.spec.broker.storage.as_bytes()),
    })
}

/// Memory at which a node holds publishers back: below its limit, where the kernel would end it, and before that there is no alarm.
fn watermark(store: &Checked) -> u64 {
    let resources = resources(store);
    let limit = resources["limits"]["memory"].as_str().and_then(|limit| limit.parse().ok());
    limit.map_or(MEMORY, crds::Quantity::as_bytes) / 10 * 6
}

fn resources(store: &Checked) -> Value {
    pods::resources(store.spec.broker.resources.as_ref(), "250m", MEMORY)
}

/// The program, its environment, and how long it may take to start, seconds.
fn start(store: &Checked, region: &str) -> (Value, Vec<Value>, u64) {
    if !is_cluster(store) {
        return (json!(["rabbitmq-server"]), Vec::new(), STARTS_WITHIN);
    }
    let nodes: Vec<_> = nodes(store, region).map(|node| (node, DISTRIBUTION)).collect();
    let told = broker::environment(&nodes, (ANY, AMQP), &format!("{FILES}/{FORMED}"));
    let told = told.map(|(name, value)| json!({"name": name, "value": value}));
    let command = json!(["bash", format!("{FILES}/{}", broker::START)]);
    (command, told.to_vec(), JOINS_WITHIN)
}

fn stateful_set(store: &Checked, region: &CheckedRegion, name: &str, labels: &Value, digest: &str) -> Object {
    let (command, told, starts_within) = start(store, &region.spec.name);
    let broker = &store.spec.broker;
    let cookie = format!("install -m 0400 {SECRETS}/erlang-cookie {HOME}/.erlang.cookie");
    let home = json!({"name": "home", "mountPath": HOME});
    let secrets = json!({"name": "secrets", "mountPath": SECRETS, "readOnly": true});
    let init = json!({
        "name": "cookie",
        "image": store.images.broker,
        "command": ["/bin/sh", "-c", cookie],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": pods::container_security(),
        "volumeMounts": [home, secrets],
    });
    let own = json!([
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "HOME", "value": HOME},
        {"name": "RABBITMQ_USE_LONGNAME", "value": "true"},
        {"name": "RABBITMQ_NODENAME", "value": format!("rabbit@$(POD).{name}.{}.svc", store.namespace)},
        {"name": "RABBITMQ_CONFIG_FILE", "value": format!("{FILES}/rabbitmq.conf")},
        {"name": "RABBITMQ_ENABLED_PLUGINS_FILE", "value": format!("{FILES}/enabled_plugins")},
        {"name": "RABBITMQ_MNESIA_BASE", "value": "/data"},
        {"name": "RABBITMQ_LOGS", "value": "-"},
        // A log of upgrades goes there, whatever the other logs do.
        {"name": "RABBITMQ_LOG_BASE", "value": "/tmp"},
        // A dump of a crash is as large as the memory was, and has clients' data in it.
        {"name": "ERL_CRASH_DUMP_SECONDS", "value": "0"},
    ]);
    let env = [own.as_array().cloned().unwrap_or_default(), told].concat();
    let container = json!({
        "name": "broker",
        "image": store.images.broker,
        "command": command,
        "env": env,
        "ports": ports().map(|(name, port)| json!({"name": name, "containerPort": port})).collect::<Vec<_>>(),
        "resources": resources(store),
        "startupProbe": {"tcpSocket": {"port": "amqp"}, "periodSeconds": 5, "failureThreshold": starts_within.div_ceil(5)},
        "readinessProbe": {"tcpSocket": {"port": "amqp"}, "periodSeconds": 5, "failureThreshold": 2},
        "securityContext": pods::container_security(),
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": FILES, "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp"},
            home, secrets,
        ],
    });
    let inner = json!({
        "initContainers": [init],
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "secrets", "secret": {"secretName": name, "defaultMode": 0o440}},
            {"name": "home", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
    });
    let template = json!({
        "metadata": {
            "labels": labels,
            "annotations": {"multiactive.dev/config": digest},
        },
        "spec": pods::spec(&region.spec.placement, labels, 120, inner),
    });
    let class = region.spec.storage_class.as_ref().or(broker.storage_class.as_ref());
    let claim = pods::claim(labels, broker.storage, class);
    pods::stateful_set(name, labels, broker.replicas, store.keeps_data(), &template, &claim)
}
