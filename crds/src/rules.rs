//! The rules that the API server checks before a manifest is stored, in CEL, each with a sentence that says what to write
//! instead. [`crate::validate`] refuses the same, so that a laptop and a cluster agree; transitions (what cannot change, or only
//! grow) are here alone.

use serde_json::{Value, json};

/// One rule.
pub(crate) struct Rule {
    /// The object, list item or value that it is about.
    pub(crate) path: &'static str,
    /// What must hold.
    pub(crate) rule: String,
    /// A CEL expression that makes the sentence.
    pub(crate) message: String,
}

impl Rule {
    pub(crate) fn to_json(&self) -> Value {
        // The fixed message is only seen if the expression fails.
        json!({"rule": self.rule, "messageExpression": self.message, "message": "is refused: see docs/api.md"})
    }
}

/// A number of bytes, from a quantity.
fn bytes(field: &str) -> String {
    format!("quantity(string({field})).asInteger()")
}

/// A duration, from our form, which knows days besides.
fn span(field: &str) -> String {
    format!(
        "({field}.contains('d') ? duration(string(int({field}.split('d')[0]) * 24) + 'h') + ({field}.endsWith('d') ? duration('0s') : \
         duration({field}.split('d')[1])) : duration({field}))"
    )
}

fn rule(path: &'static str, rule: impl Into<String>, message: &str) -> Rule {
    Rule { path, rule: rule.into(), message: message.to_owned() }
}

fn range(path: &'static str, field: &'static str, least: u32, most: u32) -> Rule {
    let at = path.rsplit('.').next().unwrap_or(path);
    rule(
        path,
        format!("self.{field} >= {least} && self.{field} <= {most}"),
        &format!("'{at}.{field}: ' + string(self.{field}) + ' is out of range: write {least} to {most}'"),
    )
}

fn name_rules(path: &'static str, of: &'static str, example: &'static str) -> Vec<Rule> {
    vec![
        rule(path, format!("size({of}) > 0"), &format!("'name is empty: write a name such as {example}'")),
        rule(
            path,
            format!("size({of}) <= 24"),
            &format!("'name ' + {of} + ' has ' + string(size({of})) + ' characters: write at most 24'"),
        ),
        rule(
            path,
            format!("!{of}.contains('--')"),
            &format!(
                "'name ' + {of} + ' contains --, which separates names in child objects: write a single -'"
            ),
        ),
        rule(
            path,
            format!("{of}.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"),
            &format!(
                "'name ' + {of} + ' is not a DNS label: write lower-case letters, digits and -, starting with a letter and not ending with -'"
            ),
        ),
    ]
}

/// A field that can only be set once.
fn immutable(path: &'static str, field: &'static str, why: &str) -> Rule {
    let at = path.rsplit('.').next().unwrap_or(path);
    rule(
        path,
        format!(
            "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
        ),
        &format!(
            "'{at}.{field} cannot change: {why}; ' + (has(oldSelf.{field}) ? 'write ' + string(oldSelf.{field}) + ' again' : 'leave it out')"
        ),
    )
}

fn storage_rules(path: &'static str) -> Vec<Rule> {
    let (size, old) = (bytes("self.size"), bytes("oldSelf.size"));
    vec![
        rule(
            path,
            format!("{size} >= {}", 256 << 20),
            "'storage.size: ' + string(self.size) + ' is too small: write at least 256Mi'",
        ),
        rule(
            path,
            format!("{size} >= {old}"),
            "'storage.size: volumes only grow: ' + string(self.size) + ' is less than ' + string(oldSelf.size) + '; write ' + string(oldSelf.size) + ' or more'",
        ),
        immutable(path, "className", "the volumes are of that class"),
    ]
}

/// All of them.
pub(crate) fn all() -> Vec<Rule> {
    let mut all = name_rules("", "self.metadata.name", "shop");
    all.extend([
        rule(
            "",
            "self.spec.regions.all(r, size(r.name) + size(self.metadata.name) <= 32 || size(r.name) > 24 || size(self.metadata.name) > 24)",
            "'the names of the store and of a region have more than 32 characters together: shorten ' + self.spec.regions.filter(r, size(r.name) + size(self.metadata.name) > 32)[0].name + ' or ' + self.metadata.name",
        ),
        range("spec", "shards", 1, 64),
        immutable("spec", "shards", "resharding does not exist yet"),
        rule(
            "spec",
            "oldSelf.regions.all(o, self.regions.exists(n, n.name == o.name))",
            "'region ' + oldSelf.regions.filter(o, !self.regions.exists(n, n.name == o.name))[0].name + ' cannot leave: removing regions does not exist yet; put it back'",
        ),
        rule(
            "spec",
            "!(self.replication.ack == 'Remote' && has(self.replication.remoteAcks)) || self.replication.remoteAcks < size(self.regions)",
            "'replication.remoteAcks: ' + string(self.replication.remoteAcks) + ' needs as many other regions, and there are ' + string(size(self.regions) - 1) + ': write less, or add regions'",
        ),
        rule(
            "spec",
            "self.replication.ack != 'Remote' || has(self.replication.remoteAcks) || size(self.regions) > 1",
            "'replication.ack: Remote needs another region: write Queued, or add a region'",
        ),
        rule(
            "spec",
            format!(
                "self.shards * ({} + {}) <= {}",
                bytes("self.replication.retention.bytes"),
                16 << 20,
                bytes("self.broker.storage.size")
            ),
            "'broker.storage.size: ' + string(self.broker.storage.size) + ' does not hold ' + string(self.shards) + ' streams of ' + string(self.replication.retention.bytes) + ' and a segment of 16Mi each: write more, or a smaller replication.retention.bytes'",
        ),
    ]);
    all.extend(name_rules("spec.regions[]", "self.name", "beijing"));
    all.extend([
        range("spec.redis", "replicas", 0, 5),
        rule(
            "spec.redis",
            "self.replicas > 0 || self.appendOnly == 'Always'",
            "'redis.replicas: 0 leaves every write in one place: write appendOnly: Always beside it, or at least 1 replica'",
        ),
        rule(
            "spec.redis",
            "self.replicas >= oldSelf.replicas",
            "'redis.replicas is ' + string(oldSelf.replicas) + ' and cannot become ' + string(self.replicas) + ': a member that is taken away may have the most data; write at least ' + string(oldSelf.replicas)",
        ),
        rule(
            "spec.redis",
            format!("{} >= {}", bytes("self.maxMemory"), 16 << 20),
            "'redis.maxMemory: ' + string(self.maxMemory) + ' is too small: write at least 16Mi'",
        ),
        rule(
            "spec.redis",
            format!("{} >= 2 * {}", bytes("self.storage.size"), bytes("self.maxMemory")),
            "'redis.storage.size: ' + string(self.storage.size) + ' does not hold the log and its rewrite: write at least twice maxMemory, ' + string(self.maxMemory)",
        ),
        rule(
            "spec.broker",
            "self.replicas in [1, 3, 5]",
            "'broker.replicas: ' + string(self.replicas) + ' gives no clear majority: write 1, 3 or 5'",
        ),
        immutable("spec.broker", "replicas", "changing the size of a broker does not exist yet"),
        range("spec.proxy", "replicas", 1, 64),
        range("spec.proxy", "maxConnections", 1, 100_000),
        rule(
            "spec.replication",
            "!has(self.remoteAcks) || self.ack == 'Remote'",
            "'replication.remoteAcks means nothing here: write ack: Remote beside it, or leave it out'",
        ),
        rule(
            "spec.replication",
            "!has(self.remoteAcks) || self.remoteAcks > 0",
            "'replication.remoteAcks: 0 waits for nobody: write at least 1, or ack: Queued'",
        ),
        rule(
            "spec.replication",
            format!("{0} >= duration('100ms') && {0} <= {1}", span("self.maxLag"), span("self.retention.duration")),
            "'replication.maxLag: ' + self.maxLag + ' is out of range: write 100ms to the duration of the retention'",
        ),
        rule(
            "spec.replication.retention",
            format!("{0} >= duration('1m') && {0} <= duration('720h')", span("self.duration")),
            "'retention.duration: ' + self.duration + ' is out of range: write 1m to 30d'",
        ),
        rule(
            "spec.replication.retention",
            format!("{} >= {}", bytes("self.bytes"), 64 << 20),
            "'retention.bytes: ' + string(self.bytes) + ' is too small: write at least 64Mi'",
        ),
        rule(
            "spec.clock",
            format!("{0} >= duration('1ms') && {0} <= duration('60s')", span("self.maxSkew")),
            "'clock.maxSkew: ' + self.maxSkew + ' is out of range: write 1ms to 60s (1s suits NTP)'",
        ),
        rule(
            "spec.auth.secretRef",
            "size(self.name) > 0",
            "'auth.secretRef.name is empty: name the Secret, or leave out spec.auth'",
        ),
        rule(
            "spec.regions[].overrides",
            "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "'overrides.storageClassName cannot change: the volumes are of that class; write what was there before'",
        ),
    ]);
    all.extend(storage_rules("spec.redis.storage"));
    all.extend(storage_rules("spec.broker.storage"));
    all
}
