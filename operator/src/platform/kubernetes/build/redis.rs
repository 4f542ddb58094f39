//! The Redis servers of a region's shards.

use serde_json::{Value, json};

use super::pods;
use crate::platform::kubernetes::check::{Checked, CheckedRegion};
use crate::platform::kubernetes::labels;
use crate::platform::kubernetes::object::{Kind, Object, digest_of};
use crate::render::{self, RedisConfig, Users};

/// Port of every Redis server.
pub(crate) const PORT: u16 = 6379;
/// Where the users' file is mounted.
const SECRETS: &str = "/run/secrets/multiactive";
/// Where the image has the engine.
const MODULE: &str = "/usr/lib/multiactive/libmas_engine.so";
/// Loading is waited for as if it read so many bytes a second, and a minute longer.
const LOADS_PER_SECOND: u64 = 20 << 20;

/// Of every shard: configuration, headless Service, disruption budget, StatefulSet.
pub(super) fn objects(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    (0..store.spec.shards).flat_map(|shard| of_shard(store, region, shard)).collect()
}

/// Names of a shard's servers, as everybody in the cluster reaches them.
pub(super) fn members(store: &Checked, region: &str, shard: u16) -> Vec<String> {
    let set = labels::shard_name(&store.spec.name, region, shard);
    let host = |ordinal: u16| format!("{set}-{ordinal}.{set}.{}.svc:{PORT}", store.namespace);
    (0..=store.spec.redis.replicas).map(host).collect()
}

fn of_shard(store: &Checked, region: &CheckedRegion, shard: u16) -> Vec<Object> {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let name = labels::shard_name(of, here, shard);
    let labels = labels::shard(of, here, region.id, shard);
    let config = config(store);
    vec![
        Object::new(Kind::ConfigMap, name.clone(), &labels, json!({"data": {"redis.conf": config}})),
        pods::headless_service(
            &name,
            &labels,
            &json!([{"name": "redis", "port": PORT, "targetPort": "redis"}]),
        ),
        pods::disruption_budget(&name, &labels),
        stateful_set(store, region, &name, &labels, &config),
    ]
}

/// No password is in it: those are in a file of their own.
fn config(store: &Checked) -> String {
    let redis = &store.spec.redis;
    render::redis(&RedisConfig {
        bind: "* -::*",
        port: PORT,
        folder: "/data".as_ref(),
        module: MODULE.as_ref(),
        node: None,
        users: Users::File(&format!("{SECRETS}/users.conf")),
        max_memory: redis.max_memory.as_bytes(),
        append_only: redis.append_only,
        max_skew_ms: store.spec.max_skew.as_millis(),
    })
}

fn stateful_set(store: &Checked, region: &CheckedRegion, name: &str, labels: &Value, config: &str) -> Object {
    let redis = &store.spec.redis;
    let probed = |what: &str, period: u64, failures: u64, timeout: u64| {
        // A little less than the kubelet waits, so that the answer is the reason and not that there was none.
        let patience = (timeout * 1000 - 500).to_string();
        json!({
            "exec": {"command": ["mas-probe", what, "--timeout-ms", patience]},
            "periodSeconds": period,
            "failureThreshold": failures,
            "timeoutSeconds": timeout,
        })
    };
    let loading = 60 + redis.max_memory.as_bytes() / LOADS_PER_SECOND;
    let container = json!({
        "name": "redis",
        "image": store.images.redis,
        "command": ["redis-server", "/etc/multiactive/redis.conf"],
        "ports": [{"name": "redis", "containerPort": PORT}],
        "resources": pods::resources(
            region.spec.resources.as_ref().or(redis.resources.as_ref()),
            "250m",
            crds::redis_memory(redis.max_memory.as_bytes()),
        ),
        "startupProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 2, "failureThreshold": loading.div_ceil(2)},
        // Each is a process in the container, which costs a node far more than the server's answer: no more often than is of use.
        "readinessProbe": probed("redis-ready", 10, 2, 2),
        "livenessProbe": probed("redis-live", 20, 3, 5),
        "securityContext": pods::container_security(),
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/multiactive", "readOnly": true},
            {"name": "users", "mountPath": SECRETS, "readOnly": true},
        ],
    });
    let inner = json!({
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "users", "secret": {
                "secretName": labels::part_name(&store.spec.name, &region.spec.name, labels::Part::Redis),
                "defaultMode": 0o440,
            }},
        ],
    });
    let template = json!({
        "metadata": {
            "labels": labels,
            "annotations": {"multiactive.dev/config": digest_of(config)},
        },
        "spec": pods::spec(&region.spec.placement, labels, 60, inner),
    });
    let class = region.spec.storage_class.as_ref().or(redis.storage_class.as_ref());
    let claim = pods::claim(labels, redis.storage, class);
    pods::stateful_set(name, labels, redis.replicas + 1, store.keeps_data(), &template, &claim)
}
