//! The rules that the API server checks before a manifest is stored, in CEL, each with words that say what to write instead; the server
//! puts the field and its value before them. [`crate::validate()`] refuses the same, so that a laptop and a cluster agree;
//! transitions (what cannot change, or only grow) are here alone.
//!
//! The words are fixed: the API server holds expressions that put numbers into sentences for too dear.

use serde_json::{Value, json};

/// One rule.
pub(crate) struct Rule {
    /// The object, list item or value that it is about.
    pub(crate) path: &'static str,
    /// The field below it that is at fault, if it is one.
    field: Option<&'static str>,
    /// What must hold.
    holds: String,
    /// What to write instead.
    message: &'static str,
}

impl Rule {
    pub(crate) fn to_json(&self) -> Value {
        let mut json = json!({"rule": self.holds, "message": self.message});
        if let Some(field) = self.field {
            json["fieldPath"] = json!(format!(".{field}"));
        }
        json
    }

    const fn at(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }
}

fn rule(path: &'static str, holds: impl Into<String>, message: &'static str) -> Rule {
    Rule { path, field: None, holds: holds.into(), message }
}

/// A number of bytes, from a quantity.
fn bytes(field: &str) -> String {
    format!("quantity(string({field})).asInteger()")
}

/// Rules of a name; `of`: how it is reached from `path`.
fn name_rules(path: &'static str, of: &'static str, words: [&'static str; 4]) -> Vec<Rule> {
    let [empty, long, double, label] = words;
    vec![
        rule(path, format!("size({of}) > 0"), empty),
        rule(path, format!("size({of}) <= 24"), long),
        rule(path, format!("!{of}.contains('--')"), double),
        rule(path, format!("{of}.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"), label),
    ]
}

/// A field that can be set once, or never.
fn immutable(path: &'static str, field: &'static str, message: &'static str) -> Rule {
    let same = format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    );
    rule(path, same, message).at(field)
}

fn size_rules(path: &'static str) -> Vec<Rule> {
    let size = bytes("self");
    vec![
        rule(path, format!("{size} >= {}", 256 << 20), "is too small: write at least 256Mi"),
        rule(
            path,
            format!("{size} >= {}", bytes("oldSelf")),
            "is less than before, and volumes only grow: write as much, or more",
        ),
    ]
}

/// All of them.
pub(crate) fn all() -> Vec<Rule> {
    let mut all = name_rules(
        "",
        "self.metadata.name",
        [
            "metadata.name is empty: write a name such as shop",
            "metadata.name has more than 24 characters: write at most 24",
            "metadata.name contains '--', which separates names in child objects: write a single '-'",
            "metadata.name is not a DNS label: write lower-case letters, digits and '-', starting with a letter and not ending with '-'",
        ],
    );
    all.push(rule(
        "",
        "self.spec.regions.all(r, size(r.name) > 24 || size(self.metadata.name) > 24 || size(r.name) + size(self.metadata.name) <= 32)",
        "metadata.name and the name of a region have more than 32 characters together: shorten one of them",
    ));
    all.extend(name_rules("spec.regions[].name", "self", [
        "is empty: write a name such as beijing",
        "has more than 24 characters: write at most 24",
        "contains '--', which separates names in child objects: write a single '-'",
        "is not a DNS label: write lower-case letters, digits and '-', starting with a letter and not ending with '-'",
    ]));
    all.extend([
        rule(
            "spec.regions",
            "self.exists(r, !has(r.traffic) || r.traffic == 'Active')",
            "are all Drained: leave one whose traffic is Active",
        ),
        rule("spec.shards", "self >= 1 && self <= 64", "is out of range: write 1 to 64"),
        rule("spec.shards", "self == oldSelf", "cannot change: resharding does not exist yet; write what was there before"),
        // Whether those that stay have the store's data, the operator knows.
        rule(
            "",
            "oldSelf.spec.regions.exists(o, self.spec.regions.exists(n, n.name == o.name))",
            "replaces all regions at once: none would be left that has the store's data; keep one until a new one has joined",
        )
        .at("spec.regions"),
        rule(
            "spec",
            "!has(self.replication.remoteAcks) || self.replication.remoteAcks < size(self.regions)",
            "needs as many other regions, and there are fewer: write less, or add regions",
        )
        .at("replication.remoteAcks"),
        rule(
            "spec",
            "self.replication.ack != 'Remote' || size(self.regions) > 1",
            "Remote needs another region: write Queued, or add a region",
        )
        .at("replication.ack"),
        rule(
            "spec",
            format!(
                "self.shards * ({} + {}) <= {}",
                bytes("self.replication.retention.bytes"),
                16 << 20,
                bytes("self.broker.storage.size")
            ),
            "does not hold a stream of replication.retention.bytes and a segment of 16Mi for each shard: write more, or retain less",
        )
        .at("broker.storage.size"),
        rule("spec.redis.replicas", "self >= 0 && self <= 5", "is out of range: write 0 to 5"),
        rule(
            "spec.redis.replicas",
            "self >= oldSelf",
            "is less than before: a member that is taken away may have the most data; write as many, or more",
        ),
        rule(
            "spec.redis",
            "self.replicas > 0 || self.appendOnly == 'Always'",
            "0 leaves every write in one place: write appendOnly: Always beside it, or at least 1 replica",
        )
        .at("replicas"),
        rule("spec.redis.maxMemory", format!("{} >= {}", bytes("self"), 16 << 20), "is too small: write at least 16Mi"),
        rule(
            "spec.redis",
            format!("{} >= 2 * {}", bytes("self.storage.size"), bytes("self.maxMemory")),
            "does not hold the log and its rewrite: write at least twice redis.maxMemory",
        )
        .at("storage.size"),
        rule("spec.broker.replicas", "self in [1, 3, 5]", "gives no clear majority: write 1, 3 or 5"),
        rule(
            "spec.broker.replicas",
            "self == oldSelf",
            "cannot change: changing the size of a broker does not exist yet; write what was there before",
        ),
        rule("spec.proxy.replicas", "self >= 1 && self <= 64", "is out of range: write 1 to 64"),
        rule("spec.proxy.maxConnections", "self >= 1 && self <= 100000", "is out of range: write 1 to 100000"),
        rule(
            "spec.replication",
            "!has(self.remoteAcks) || self.ack == 'Remote'",
            "means nothing here: write ack: Remote beside it, or leave it out",
        )
        .at("remoteAcks"),
        rule("spec.replication.remoteAcks", "self > 0", "0 waits for nobody: write at least 1, or ack: Queued"),
        rule(
            "spec.replication",
            "duration(self.maxLag) >= duration('100ms') && duration(self.maxLag) <= duration(self.retention.duration)",
            "is out of range: write 100ms to the duration of the retention",
        )
        .at("maxLag"),
        rule(
            "spec.replication.retention.duration",
            "duration(self) >= duration('1m') && duration(self) <= duration('720h')",
            "is out of range: write 1m to 720h",
        ),
        rule(
            "spec.replication.retention.bytes",
            format!("{} >= {}", bytes("self"), 64 << 20),
            "is too small: write at least 64Mi",
        ),
        rule(
            "spec.clock.maxSkew",
            "duration(self) >= duration('1ms') && duration(self) <= duration('60s')",
            "is out of range: write 1ms to 60s (1s suits NTP)",
        ),
        rule(
            "spec.verification.interval",
            "duration(self) == duration('0s') || (duration(self) >= duration('10s') && duration(self) <= duration('720h'))",
            "is out of range: write 10s to 720h, or 0s for no schedule",
        ),
        rule("spec.verification.samplePercent", "self >= 0 && self <= 100", "is out of range: write 0 to 100"),
        rule("spec.auth.secretRef.name", "size(self) > 0", "is empty: name the Secret, or leave out spec.auth"),
        immutable("spec.redis.storage", "className", "cannot change: the volumes are of that class; write what was there before"),
        immutable("spec.broker.storage", "className", "cannot change: the volumes are of that class; write what was there before"),
        immutable(
            "spec.regions[].overrides",
            "storageClassName",
            "cannot change: the volumes are of that class; write what was there before",
        ),
    ]);
    all.extend(size_rules("spec.redis.storage.size"));
    all.extend(size_rules("spec.broker.storage.size"));
    all
}
