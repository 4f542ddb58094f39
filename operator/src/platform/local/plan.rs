//! What `up` with a changed manifest would do to a store that is kept on this machine, in words.

use super::layout::{Layout, io_error};
use super::record::{self, RecordError};

/// Compares `store` with what is kept in `layout`. What is refused comes back as an error.
pub fn plan(layout: &Layout, store: &crds::Validated) -> Result<String, RecordError> {
    if record::read(layout)?.is_none() {
        return Ok(format!("creates {}: {}\n", store.name, parts(store)));
    }
    record::open(layout, store)?;
    let path = layout.manifest();
    let text = std::fs::read_to_string(&path).map_err(|e| io_error("reading", &path, e))?;
    let Ok(old) = crds::load(&text) else {
        return Ok(
            "the manifest that was applied last is not readable; everything starts from this one\n".into()
        );
    };
    let changes = changes(&old, store);
    if changes.is_empty() {
        return Ok("nothing changes\n".into());
    }
    let mut text = changes.join("\n");
    text.push_str("\nAt the next `masctl down` and `masctl up` all processes start with this; data and endpoints stay.\n");
    Ok(text)
}

fn parts(store: &crds::Validated) -> String {
    let masters = usize::from(store.shards) * store.regions.len();
    format!(
        "{} regions, {} Redis servers, {} brokers, {} proxies",
        store.regions.len(),
        masters * (1 + usize::from(store.redis.replicas)),
        store.regions.len() * usize::from(store.broker.replicas),
        store.regions.len() * usize::from(store.proxy.replicas),
    )
}

fn changes(old: &crds::Validated, new: &crds::Validated) -> Vec<String> {
    let rows = [
        ("spec.redis.replicas", old.redis.replicas.to_string(), new.redis.replicas.to_string()),
        ("spec.redis.maxMemory", old.redis.max_memory.to_string(), new.redis.max_memory.to_string()),
        (
            "spec.redis.appendOnly",
            format!("{:?}", old.redis.append_only),
            format!("{:?}", new.redis.append_only),
        ),
        ("spec.proxy.replicas", old.proxy.replicas.to_string(), new.proxy.replicas.to_string()),
        (
            "spec.proxy.maxConnections",
            old.proxy.max_connections.to_string(),
            new.proxy.max_connections.to_string(),
        ),
        ("spec.replication.ack", format!("{:?}", old.replication.ack), format!("{:?}", new.replication.ack)),
        (
            "spec.replication.remoteAcks",
            old.replication.remote_acks.to_string(),
            new.replication.remote_acks.to_string(),
        ),
        (
            "spec.replication.onBrokerLoss",
            format!("{:?}", old.replication.on_broker_loss),
            format!("{:?}", new.replication.on_broker_loss),
        ),
        (
            "spec.replication.retention.duration",
            old.replication.retention.to_string(),
            new.replication.retention.to_string(),
        ),
        (
            "spec.replication.retention.bytes",
            old.replication.retention_bytes.to_string(),
            new.replication.retention_bytes.to_string(),
        ),
        ("spec.replication.maxLag", old.replication.max_lag.to_string(), new.replication.max_lag.to_string()),
        ("spec.clock.maxSkew", old.max_skew.to_string(), new.max_skew.to_string()),
        ("spec.auth", format!("{:?}", old.auth_secret), format!("{:?}", new.auth_secret)),
    ];
    rows.into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(path, old, new)| format!("{path}: {old} -> {new}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(spec: &str) -> crds::Validated {
        crds::load(&format!(
            "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: shop}}\nspec: {{regions: [{{name: a}}], {spec}}}"
        ))
        .unwrap()
    }

    #[test]
    fn differences_are_named() {
        let old = store("proxy: {replicas: 2}");
        let new = store("proxy: {replicas: 3}, replication: {maxLag: 2s}");
        assert_eq!(changes(&old, &new), ["spec.proxy.replicas: 2 -> 3", "spec.replication.maxLag: 1s -> 2s"]);
        assert_eq!(parts(&new), "1 regions, 2 Redis servers, 3 brokers, 3 proxies");
    }
}
