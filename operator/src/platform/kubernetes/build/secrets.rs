//! Secrets: the store's own, mounted nowhere, of which those of each part are made. Each part gets what it needs, and as files:
//! nothing of it is in a command line or an environment.

use serde_json::{Value, json};

use super::proxy;
use crate::platform::kubernetes::check::{Checked, CheckedRegion};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::{Kind, Object};
use crate::render;

/// All passwords. Stays with the volumes: what is in them can be used with these alone.
pub(crate) fn credentials(store: &Checked) -> Object {
    let name = &store.spec.name;
    let passwords = &store.passwords;
    let mut data = json!({
        "engine": passwords.engine,
        "replication": passwords.replication,
        "erlang-cookie": passwords.cookie,
        "client": passwords.client,
    });
    for (region, of) in &passwords.brokers {
        data[format!("broker-{region}")] = json!(of.proxy);
        data[format!("peers-{region}")] = json!(of.peers);
    }
    let object = secret(labels::credentials_name(name), &labels::store(name), "Opaque", &data);
    if store.keeps_data() { object.kept() } else { object }
}

/// What the pods of a region mount.
pub(super) fn of_region(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let labels = |part| labels::part(of, here, region.id, part);
    let passwords = &store.passwords;
    let users = render::redis_users(&passwords.engine, &passwords.replication, true);
    let redis = json!({"users.conf": users});
    let own = store.broker_passwords(here);
    let definitions = render::definitions(of, &own.proxy, &own.peers);
    let broker = json!({"definitions.json": definitions, "erlang-cookie": passwords.cookie});
    let mut proxy = json!({"engine": passwords.engine, "client": passwords.client});
    for member in store.members() {
        let of = store.broker_passwords(&member.spec.name);
        let password = if member.id == region.id { of.proxy } else { of.peers };
        proxy[format!("broker-{}", member.spec.name)] = json!(password);
    }
    let parts = [(Part::Redis, redis), (Part::Broker, broker), (Part::Proxy, proxy)];
    let parts = parts
        .into_iter()
        .map(|(part, data)| secret(labels::part_name(of, here, part), &labels(part), "Opaque", &data));
    parts.collect()
}

/// What an application mounts, in the keys of the Service Binding specification.
pub(super) fn app(store: &Checked, region: &CheckedRegion) -> Object {
    let (of, here) = (&store.spec.name, &region.spec.name);
    let host = format!("{}.{}.svc", labels::region_name(of, here), store.namespace);
    let (user, password) = (&store.passwords.client_user, &store.passwords.client);
    let port = proxy::CLIENTS;
    let data = json!({
        "type": "redis",
        "provider": "multi-active-store",
        "host": host,
        "port": port.to_string(),
        "username": user,
        "password": password,
        "uri": format!("redis://{user}:{password}@{host}:{port}/0"),
    });
    let labels = labels::region(of, here, region.id);
    secret(labels::app_name(of, here), &labels, "servicebinding.io/redis", &data)
}

fn secret(name: String, labels: &Value, kind: &str, data: &Value) -> Object {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let data: serde_json::Map<String, Value> = data
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), encode(value.as_str()?).into())))
        .collect();
    Object::new(Kind::Secret, name, labels, json!({"type": kind, "data": data}))
}
