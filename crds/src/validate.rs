//! Checks a manifest's values and fills in its defaults. Pure: every fault is found, none stops the search.

use std::collections::BTreeSet;

use crate::defaults;
use crate::validated::{Broker, Proxy, Redis, Region, Replication, Verification};
use crate::{
    Ack, AppendOnly, BrokerSpec, Invalid, Manifest, Problem, ProxySpec, Quantity, RedisSpec, RegionSpec,
    ReplicationSpec, Resources, Span, Storage, Traffic, Validated, VerificationSpec,
};

/// Longest name of a store or a region: children are called `<store>--<region>--shard-63-redis` and must stay
/// under 52 characters (a StatefulSet's pods get a hash appended, which must fit a label of 63).
const MAX_NAME: usize = 24;
/// Longest names of a store and one of its regions together.
const MAX_NAMES: usize = 32;
/// Streams are truncated by whole segments, so each may exceed its bound by one of this size.
const SEGMENT: Quantity = Quantity::mib(16);

struct Faults(Vec<Problem>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), message: message.into() });
    }

    fn range(
        &mut self,
        path: &str,
        value: Option<u32>,
        default: u32,
        allowed: std::ops::RangeInclusive<u32>,
    ) -> u32 {
        let value = value.unwrap_or(default);
        if !allowed.contains(&value) {
            self.add(
                path,
                format!("{value} is out of range: write {} to {}", allowed.start(), allowed.end()),
            );
        }
        value
    }
}

/// Checks `manifest` and fills in its defaults.
pub(crate) fn validate(manifest: &Manifest) -> Result<Validated, Invalid> {
    let mut faults = Faults(Vec::new());
    let spec = &manifest.spec;
    let name = manifest.metadata.name.clone();
    check_name("metadata.name", &name, "shop", &mut faults);
    let shards = faults.range("spec.shards", spec.shards, defaults::SHARDS, 1..=64);
    let regions = regions(&name, &spec.regions, &mut faults);
    let redis = redis(spec.redis.as_ref(), &mut faults);
    let broker = broker(spec.broker.as_ref(), &mut faults);
    let proxy = proxy(spec.proxy.as_ref(), &mut faults);
    let replication = replication(spec.replication.as_ref(), regions.len(), &mut faults);
    check_streams_fit(shards, &broker, &replication, &mut faults);
    let max_skew = spec.clock.as_ref().and_then(|c| c.max_skew).unwrap_or(defaults::MAX_SKEW);
    if max_skew.as_millis() == 0 || max_skew > Span::secs(60) {
        faults.add(
            "spec.clock.maxSkew",
            format!("{max_skew} is out of range: write 1ms to 60s (1s suits NTP)"),
        );
    }
    let verification = verification(spec.verification.as_ref(), &mut faults);
    let auth_secret = spec.auth.as_ref().map(|auth| auth.secret_ref.name.clone());
    if auth_secret.as_deref() == Some("") {
        faults.add("spec.auth.secretRef.name", "is empty: name the Secret, or leave out spec.auth");
    }
    if !faults.0.is_empty() {
        return Err(Invalid { problems: faults.0 });
    }
    Ok(Validated {
        name,
        namespace: manifest.metadata.namespace.clone(),
        shards: shards as u16,
        regions,
        release: spec.release.clone(),
        redis,
        broker,
        proxy,
        replication,
        max_skew,
        verification,
        auth_secret,
        deletion_policy: spec.deletion_policy.unwrap_or_default(),
        paused: spec.paused.unwrap_or(false),
        cluster_only: cluster_only(manifest),
    })
}

fn check_name(path: &str, name: &str, example: &str, faults: &mut Faults) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() {
        faults.add(path, format!("is missing: write a name such as {example}"));
    } else if name.len() > MAX_NAME {
        faults.add(path, format!("'{name}' has {} characters: write at most {MAX_NAME}", name.len()));
    } else if name.contains("--") {
        faults.add(
            path,
            format!("'{name}' contains '--', which separates names in child objects: write a single '-'"),
        );
    } else if !name.chars().all(allowed)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.ends_with('-')
    {
        faults.add(
            path,
            format!("'{name}' is not a DNS label: write lower-case letters, digits and '-', starting with a letter and not ending with '-'"),
        );
    }
}

fn regions(store: &str, specs: &[RegionSpec], faults: &mut Faults) -> Vec<Region> {
    if specs.is_empty() || specs.len() > 16 {
        faults.add("spec.regions", format!("has {} regions: write 1 to 16", specs.len()));
    }
    let mut seen = BTreeSet::new();
    for (i, region) in specs.iter().enumerate() {
        let path = format!("spec.regions[{i}].name");
        check_name(&path, &region.name, "beijing", faults);
        if !seen.insert(&region.name) {
            faults
                .add(&path, format!("'{}' is there twice: give each region a name of its own", region.name));
        }
        if store.len() + region.name.len() > MAX_NAMES
            && store.len() <= MAX_NAME
            && region.name.len() <= MAX_NAME
        {
            faults.add(
                &path,
                format!(
                    "'{store}' and '{}' have {} characters together: shorten one so that they have at most {MAX_NAMES}",
                    region.name,
                    store.len() + region.name.len()
                ),
            );
        }
    }
    if !specs.is_empty() && specs.iter().all(|spec| spec.traffic == Traffic::Drained) {
        faults.add("spec.regions", "are all Drained: leave one whose traffic is Active".to_owned());
    }
    specs
        .iter()
        .map(|spec| Region {
            name: spec.name.clone(),
            traffic: spec.traffic,
            placement: spec.placement.clone().unwrap_or_default(),
            service: spec.service.clone().unwrap_or_default(),
            storage_class: spec.overrides.as_ref().and_then(|o| o.storage_class_name.clone()),
            resources: spec.overrides.as_ref().and_then(|o| o.resources.clone()),
        })
        .collect()
}

fn storage(path: &str, spec: Option<&Storage>, faults: &mut Faults) -> (Quantity, Option<String>) {
    let size = spec.and_then(|s| s.size).unwrap_or(defaults::STORAGE);
    if size < Quantity::mib(256) {
        faults.add(format!("{path}.size"), format!("{size} is too small: write at least 256Mi"));
    }
    (size, spec.and_then(|s| s.class_name.clone()))
}

fn redis(spec: Option<&RedisSpec>, faults: &mut Faults) -> Redis {
    let empty = RedisSpec::default();
    let spec = spec.unwrap_or(&empty);
    let replicas = faults.range("spec.redis.replicas", spec.replicas, defaults::REDIS_REPLICAS, 0..=5);
    let append_only = spec.append_only.unwrap_or_default();
    if replicas == 0 && append_only != AppendOnly::Always {
        faults.add(
            "spec.redis.replicas",
            "0 leaves every write in one place: write appendOnly: Always beside it, or at least 1 replica",
        );
    }
    let max_memory = spec.max_memory.unwrap_or(defaults::MAX_MEMORY);
    if max_memory < Quantity::mib(16) {
        faults.add("spec.redis.maxMemory", format!("{max_memory} is too small: write at least 16Mi"));
    }
    let (size, storage_class) = storage("spec.redis.storage", spec.storage.as_ref(), faults);
    if size.as_bytes() < max_memory.as_bytes().saturating_mul(2) {
        faults.add(
            "spec.redis.storage.size",
            format!(
                "{size} does not hold the log and its rewrite: write at least twice maxMemory, {}",
                Quantity::bytes(max_memory.as_bytes().saturating_mul(2))
            ),
        );
    }
    let least = Quantity::bytes(redis_memory(max_memory.as_bytes()));
    check_memory("spec.redis.resources", spec.resources.as_ref(), least, faults);
    Redis {
        replicas: replicas as u16,
        max_memory,
        storage: size,
        storage_class,
        append_only,
        resources: spec.resources.clone(),
        image: spec.image.clone(),
    }
}

/// A limit below what the server needs would have it killed, a Redis server while it saves or merges.
fn check_memory(path: &str, resources: Option<&Resources>, least: Quantity, faults: &mut Faults) {
    for (which, amounts) in resources.iter().flat_map(|r| [("requests", &r.requests), ("limits", &r.limits)])
    {
        let Some(amount) = amounts.get("memory") else { continue };
        match amount.0.parse::<Quantity>() {
            Ok(given) if given < least => faults.add(
                format!("{path}.{which}.memory"),
                format!("{given} is too small: write at least {least}, or leave it out"),
            ),
            Ok(_) => {}
            Err(error) => faults.add(format!("{path}.{which}.memory"), error.to_string()),
        }
    }
}

/// Memory that a Redis server with so much data may need, bytes: 1.6 times, for a fork that saves and for merging, in whole MiB.
pub fn redis_memory(max_memory: u64) -> u64 {
    (max_memory.saturating_add(64 << 20) / 10).saturating_mul(16).next_multiple_of(1 << 20)
}

fn broker(spec: Option<&BrokerSpec>, faults: &mut Faults) -> Broker {
    let empty = BrokerSpec::default();
    let spec = spec.unwrap_or(&empty);
    let replicas = spec.replicas.unwrap_or(defaults::BROKER_REPLICAS);
    if ![1, 3, 5].contains(&replicas) {
        faults.add("spec.broker.replicas", format!("{replicas} gives no clear majority: write 1, 3 or 5"));
    }
    let (storage, storage_class) = storage("spec.broker.storage", spec.storage.as_ref(), faults);
    check_memory("spec.broker.resources", spec.resources.as_ref(), Quantity::mib(512), faults);
    Broker {
        replicas: replicas as u16,
        storage,
        storage_class,
        resources: spec.resources.clone(),
        image: spec.image.clone(),
    }
}

fn proxy(spec: Option<&ProxySpec>, faults: &mut Faults) -> Proxy {
    let empty = ProxySpec::default();
    let spec = spec.unwrap_or(&empty);
    check_memory("spec.proxy.resources", spec.resources.as_ref(), Quantity::mib(64), faults);
    Proxy {
        replicas: faults.range("spec.proxy.replicas", spec.replicas, defaults::PROXY_REPLICAS, 1..=64) as u16,
        max_connections: faults.range(
            "spec.proxy.maxConnections",
            spec.max_connections,
            defaults::MAX_CONNECTIONS,
            1..=100_000,
        ),
        resources: spec.resources.clone(),
        image: spec.image.clone(),
    }
}

fn replication(spec: Option<&ReplicationSpec>, regions: usize, faults: &mut Faults) -> Replication {
    let empty = ReplicationSpec::default();
    let spec = spec.unwrap_or(&empty);
    let ack = spec.ack.unwrap_or_default();
    let remote_acks = spec.remote_acks.unwrap_or(defaults::REMOTE_ACKS);
    if spec.remote_acks.is_some() && ack != Ack::Remote {
        faults.add(
            "spec.replication.remoteAcks",
            "means nothing here: write ack: Remote beside it, or leave it out",
        );
    } else if ack == Ack::Remote && remote_acks == 0 {
        faults.add("spec.replication.remoteAcks", "0 waits for nobody: write at least 1, or ack: Queued");
    } else if ack == Ack::Remote && remote_acks as usize >= regions.max(1) {
        faults.add(
            "spec.replication.remoteAcks",
            format!(
                "{remote_acks} needs as many other regions, and there are {}: write less, or add regions",
                regions.saturating_sub(1)
            ),
        );
    }
    let retention = spec.retention.as_ref();
    let duration = retention.and_then(|r| r.duration).unwrap_or(defaults::RETENTION);
    if duration < Span::secs(60) || duration > Span::secs(30 * 24 * 3600) {
        faults.add(
            "spec.replication.retention.duration",
            format!("{duration} is out of range: write 1m to 720h"),
        );
    }
    let bytes = retention.and_then(|r| r.bytes).unwrap_or(defaults::RETENTION_BYTES);
    if bytes < Quantity::mib(64) {
        faults.add("spec.replication.retention.bytes", format!("{bytes} is too small: write at least 64Mi"));
    }
    let max_lag = spec.max_lag.unwrap_or(defaults::MAX_LAG);
    if max_lag < Span::millis(100) || max_lag > duration {
        faults.add(
            "spec.replication.maxLag",
            format!("{max_lag} is out of range: write 100ms to the retention's duration"),
        );
    }
    Replication {
        ack,
        remote_acks: remote_acks.min(16) as u16,
        on_broker_loss: spec.on_broker_loss.unwrap_or_default(),
        retention: duration,
        retention_bytes: bytes,
        max_lag,
    }
}

fn verification(spec: Option<&VerificationSpec>, faults: &mut Faults) -> Verification {
    let empty = VerificationSpec::default();
    let spec = spec.unwrap_or(&empty);
    let interval = spec.interval.unwrap_or(defaults::VERIFY_INTERVAL);
    let off = interval == Span::secs(0);
    if !off && (interval < Span::secs(10) || interval > Span::secs(720 * 3600)) {
        faults.add(
            "spec.verification.interval",
            format!("{interval} is out of range: write 10s to 720h, or 0s for no schedule"),
        );
    }
    let path = "spec.verification.samplePercent";
    let sample = faults.range(path, spec.sample_percent, defaults::SAMPLE_PERCENT, 0..=100);
    Verification { interval, sample_percent: sample.min(100) as u8, repair: spec.repair.unwrap_or_default() }
}

fn check_streams_fit(shards: u32, broker: &Broker, replication: &Replication, faults: &mut Faults) {
    let each = replication.retention_bytes.as_bytes().saturating_add(SEGMENT.as_bytes());
    let sum = Quantity::bytes(each.saturating_mul(u64::from(shards.clamp(1, 64))));
    if sum > broker.storage {
        faults.add(
            "spec.broker.storage.size",
            format!(
                "{} does not hold {shards} streams of {} and a segment of {SEGMENT} each, {sum} together: write more, or a smaller spec.replication.retention.bytes",
                broker.storage, replication.retention_bytes
            ),
        );
    }
}

/// Paths of the given fields that only mean something in a cluster.
fn cluster_only(manifest: &Manifest) -> Vec<String> {
    let spec = &manifest.spec;
    let mut given = Vec::new();
    let mut note = |is_given: bool, path: String| {
        if is_given {
            given.push(path);
        }
    };
    note(manifest.metadata.namespace.is_some(), "metadata.namespace".into());
    for (i, region) in spec.regions.iter().enumerate() {
        note(region.placement.is_some(), format!("spec.regions[{i}].placement"));
        note(region.service.is_some(), format!("spec.regions[{i}].service"));
        note(region.overrides.is_some(), format!("spec.regions[{i}].overrides"));
    }
    note(spec.release.is_some(), "spec.release".into());
    if let Some(redis) = &spec.redis {
        note(redis.storage.is_some(), "spec.redis.storage".into());
        note(redis.resources.is_some(), "spec.redis.resources".into());
        note(redis.image.is_some(), "spec.redis.image".into());
    }
    if let Some(broker) = &spec.broker {
        note(broker.storage.is_some(), "spec.broker.storage".into());
        note(broker.resources.is_some(), "spec.broker.resources".into());
        note(broker.image.is_some(), "spec.broker.image".into());
    }
    if let Some(proxy) = &spec.proxy {
        note(proxy.resources.is_some(), "spec.proxy.resources".into());
        note(proxy.image.is_some(), "spec.proxy.image".into());
    }
    note(spec.deletion_policy.is_some(), "spec.deletionPolicy".into());
    note(spec.paused.is_some(), "spec.paused".into());
    given
}
