//! Every default, once: validation fills them in on a laptop, the API server in a cluster.

use serde_json::{Value, json};

use crate::{Quantity, Span};

pub(crate) const SHARDS: u32 = 1;
pub(crate) const REDIS_REPLICAS: u32 = 1;
pub(crate) const MAX_MEMORY: Quantity = Quantity::gib(1);
pub(crate) const STORAGE: Quantity = Quantity::gib(10);
pub(crate) const BROKER_REPLICAS: u32 = 3;
pub(crate) const PROXY_REPLICAS: u32 = 2;
pub(crate) const MAX_CONNECTIONS: u32 = 10_000;
pub(crate) const REMOTE_ACKS: u32 = 1;
pub(crate) const RETENTION: Span = Span::secs(24 * 3600);
pub(crate) const RETENTION_BYTES: Quantity = Quantity::gib(1);
pub(crate) const MAX_LAG: Span = Span::secs(1);
pub(crate) const MAX_SKEW: Span = Span::secs(1);
pub(crate) const VERIFY_INTERVAL: Span = Span::secs(3600);
pub(crate) const SAMPLE_PERCENT: u32 = 1;

/// Those that the API server fills in, by path. An object that holds defaults is one itself, so that they show in full.
/// (`remoteAcks` has its default in validation alone: beside another level than `Remote` it is a mistake.)
pub(crate) fn by_path() -> Vec<(&'static str, Value)> {
    vec![
        ("spec.shards", json!(SHARDS)),
        ("spec.redis", json!({})),
        ("spec.redis.replicas", json!(REDIS_REPLICAS)),
        ("spec.redis.maxMemory", json!(MAX_MEMORY)),
        ("spec.redis.storage", json!({})),
        ("spec.redis.storage.size", json!(STORAGE)),
        ("spec.redis.appendOnly", json!(crate::AppendOnly::default())),
        ("spec.broker", json!({})),
        ("spec.broker.replicas", json!(BROKER_REPLICAS)),
        ("spec.broker.storage", json!({})),
        ("spec.broker.storage.size", json!(STORAGE)),
        ("spec.proxy", json!({})),
        ("spec.proxy.replicas", json!(PROXY_REPLICAS)),
        ("spec.proxy.maxConnections", json!(MAX_CONNECTIONS)),
        ("spec.replication", json!({})),
        ("spec.replication.ack", json!(crate::Ack::default())),
        ("spec.replication.onBrokerLoss", json!(crate::OnBrokerLoss::default())),
        ("spec.replication.retention", json!({})),
        ("spec.replication.retention.duration", json!(RETENTION)),
        ("spec.replication.retention.bytes", json!(RETENTION_BYTES)),
        ("spec.replication.maxLag", json!(MAX_LAG)),
        ("spec.clock", json!({})),
        ("spec.clock.maxSkew", json!(MAX_SKEW)),
        ("spec.verification", json!({})),
        ("spec.verification.interval", json!(VERIFY_INTERVAL)),
        ("spec.verification.samplePercent", json!(SAMPLE_PERCENT)),
        ("spec.verification.repair", json!(crate::VerificationRepair::default())),
        ("spec.deletionPolicy", json!(crate::DeletionPolicy::default())),
        ("spec.paused", json!(false)),
        ("spec.regions[].traffic", json!(crate::Traffic::default())),
        ("spec.regions[].service", json!({})),
        ("spec.regions[].service.type", json!(crate::ServiceKind::default())),
    ]
}
