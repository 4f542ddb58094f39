//! Good and bad manifests, with the exact words of the refusals.

use std::fs;
use std::path::Path;

use crds::{Ack, AppendOnly, Quantity, Span, Validated};

const HEAD: &str = "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\n";

fn load(body: &str) -> Result<Validated, Vec<String>> {
    crds::load(&format!("{HEAD}{body}"))
        .map_err(|invalid| invalid.problems.iter().map(ToString::to_string).collect())
}

fn spec(spec: &str) -> Result<Validated, Vec<String>> {
    load(&format!(
        "metadata: {{name: shop}}\nspec: {{regions: [{{name: beijing}}, {{name: shanghai}}], {spec}}}"
    ))
}

#[track_caller]
fn refused(result: Result<Validated, Vec<String>>, words: &[&str]) {
    assert_eq!(result.expect_err("should be refused"), words);
}

#[test]
fn every_example_is_valid() {
    // Where the tree is now, and not where it was built.
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&package).join("../examples");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let store =
                crds::load(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            names.push(store.name);
        }
    }
    names.sort();
    assert_eq!(names, ["mini", "shop", "shop", "shop", "world"]);
}

#[test]
fn defaults_are_filled_in() {
    let store = load("metadata: {name: shop}\nspec: {regions: [{name: beijing}]}").unwrap();
    assert_eq!(store.shards, 1);
    assert_eq!(store.redis.replicas, 1);
    assert_eq!(store.redis.max_memory, Quantity::gib(1));
    assert_eq!(store.redis.append_only, AppendOnly::EverySecond);
    assert_eq!(store.broker.replicas, 3);
    assert_eq!((store.proxy.replicas, store.proxy.max_connections), (2, 10_000));
    assert_eq!((store.replication.ack, store.replication.remote_acks), (Ack::Queued, 1));
    assert_eq!(store.replication.retention, Span::secs(86_400));
    assert_eq!(store.replication.retention_bytes, Quantity::gib(1));
    assert_eq!((store.replication.max_lag, store.max_skew), (Span::secs(1), Span::secs(1)));
    assert!(store.cluster_only.is_empty());
}

#[test]
fn cluster_fields_are_accepted_and_named() {
    let store = load(
        "metadata: {name: shop, namespace: prod}\nspec:\n  release: '1'\n  regions:\n  - name: beijing\n    placement: {nodeSelector: {a: b}, \
         tolerations: [{key: x, operator: Exists}], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}}\n    service: {type: LoadBalancer}\n  redis: {storage: \
         {size: 20Gi, className: fast}, image: {reference: r, version: '7.0'}}\n  proxy: {resources: {requests: {cpu: '1'}}}",
    )
    .unwrap();
    assert_eq!(
        store.cluster_only,
        [
            "metadata.namespace",
            "spec.regions[0].placement",
            "spec.regions[0].service",
            "spec.release",
            "spec.redis.storage",
            "spec.redis.image",
            "spec.proxy.resources"
        ]
    );
}

#[test]
fn unknown_fields_are_named_with_path_and_suggestion() {
    refused(spec("shard: 2"), &["spec.shard: unknown field; did you mean 'shards'?"]);
    refused(
        spec("redis: {maxmemory: 1Gi}"),
        &["spec.redis.maxmemory: unknown field; did you mean 'maxMemory'?"],
    );
    refused(
        spec("replication: {retention: {durations: 1h}, onBrokerLost: Reject}"),
        &[
            "spec.replication.onBrokerLost: unknown field; did you mean 'onBrokerLoss'?",
            "spec.replication.retention.durations: unknown field; did you mean 'duration'?",
        ],
    );
    refused(
        load("metadata: {name: shop}\nspec: {regions: [{name: a}, {nmae: b}]}"),
        &["spec.regions[1].nmae: unknown field; did you mean 'name'?"],
    );
    refused(
        spec("proxy: {threads: 4}"),
        &["spec.proxy.threads: unknown field; known here: image, maxConnections, replicas, resources"],
    );
    refused(spec("tls: {mode: x}"), &["spec.tls: is not supported yet: TLS comes later; leave it out"]);
    refused(
        load("metadata: {name: shop}\nspec: {regions: [{name: a, traffic: Drained}]}"),
        &["spec.regions: are all Drained: leave one whose traffic is Active"],
    );
}

#[test]
fn wrong_types_are_named_with_path() {
    refused(
        spec("shards: two"),
        &["spec.shards: string \"two\" was found where a whole number from 0 up is expected"],
    );
    refused(
        spec("shards: -1"),
        &["spec.shards: integer '-1' was found where a whole number from 0 up is expected"],
    );
    refused(
        spec("redis: {appendOnly: sometimes}"),
        &["spec.redis.appendOnly: 'sometimes' is not a choice: write Always, or EverySecond"],
    );
    refused(
        spec("redis: {maxMemory: 1gb}"),
        &[
            "spec.redis.maxMemory: '1gb' is not a quantity of bytes: write a number with a unit, such as 512Mi or 1Gi",
        ],
    );
    refused(
        spec("replication: {maxLag: 3}"),
        &[
            "spec.replication.maxLag: integer '3' was found where a duration with its unit, such as 3s or 24h is expected",
        ],
    );
    refused(
        spec("replication: {maxLag: 1.5s}"),
        &[
            "spec.replication.maxLag: '1.5s' is not a duration: write numbers with units from large to small, such as 24h, 1h30m, 3s or 500ms",
        ],
    );
    refused(
        load("metadata: {name: shop}\nspec: {shards: 1}"),
        &["spec: the field 'regions' is missing: add it"],
    );
    refused(load("metadata: {name: shop}"), &["the field 'spec' is missing: add it"]);
}

#[test]
fn what_is_no_manifest_is_refused() {
    let words = |text: &str| crds::load(text).unwrap_err().to_string();
    assert_eq!(words(""), "the file is empty: start from examples/minimal.yaml");
    assert_eq!(words("- 1"), "the file is no manifest: start from examples/minimal.yaml");
    assert_eq!(
        words("kind: MultiActiveStore"),
        "apiVersion: is missing: write apiVersion: multiactive.dev/v1alpha1"
    );
    assert_eq!(
        words("apiVersion: v1\nkind: Pod"),
        "apiVersion: \"v1\" is not known here: write multiactive.dev/v1alpha1"
    );
    assert_eq!(
        words("apiVersion: multiactive.dev/v1alpha1\nkind: Store"),
        "kind: \"Store\" is not known here: write MultiActiveStore"
    );
    assert_eq!(
        words(&format!("{HEAD}---\n{HEAD}")),
        "the file holds more than one document: put each store into a file of its own"
    );
    assert!(words("a: [").starts_with("the file is not YAML: "));
    assert!(words("a: 1\na: 2").starts_with("the file is not YAML: "), "a field that is there twice");
    assert_eq!(words("1: x"), ": field names are text; put 1 into quotes");
    assert_eq!(words("a: !x y"), "a: YAML tags (!x) are not used here");
    assert!(words(&"[".repeat(10_000)).starts_with("the file "));
}

#[test]
fn names_are_checked() {
    let named = |store: &str, regions: &str| {
        load(&format!("metadata: {{name: {store}}}\nspec: {{regions: [{regions}]}}"))
    };
    refused(named("''", "{name: a}"), &["metadata.name: is missing: write a name such as shop"]);
    refused(
        named("my--shop", "{name: a}"),
        &[
            "metadata.name: 'my--shop' contains '--', which separates names in child objects: write a single '-'",
        ],
    );
    let label = "is not a DNS label: write lower-case letters, digits and '-', starting with a letter and not ending with '-'";
    for bad in ["Shop", "1shop", "-shop", "shop-", "sh_op", "sh.op", "shöp"] {
        refused(named(bad, "{name: a}"), &[&format!("metadata.name: '{bad}' {label}")]);
    }
    refused(
        named("abcdefghijklmnopqrstuvwxy", "{name: a}"),
        &["metadata.name: 'abcdefghijklmnopqrstuvwxy' has 25 characters: write at most 24"],
    );
    refused(
        named("abcdefghijklmnopqrstuvwx", "{name: abcdefghi}"),
        &[
            "spec.regions[0].name: 'abcdefghijklmnopqrstuvwx' and 'abcdefghi' have 33 characters together: shorten one so that they have at \
           most 32",
        ],
    );
    refused(
        named("shop", "{name: a}, {name: a}"),
        &["spec.regions[1].name: 'a' is there twice: give each region a name of its own"],
    );
    refused(named("shop", ""), &["spec.regions: has 0 regions: write 1 to 16"]);
    let many: Vec<_> = (0..17).map(|i| format!("{{name: r{i}}}")).collect();
    refused(named("shop", &many.join(", ")), &["spec.regions: has 17 regions: write 1 to 16"]);
}

#[test]
fn numbers_are_checked() {
    refused(spec("shards: 0"), &["spec.shards: 0 is out of range: write 1 to 64"]);
    refused(
        spec("shards: 65, replication: {retention: {bytes: 64Mi}}"),
        &["spec.shards: 65 is out of range: write 1 to 64"],
    );
    refused(
        spec("redis: {replicas: 0}"),
        &[
            "spec.redis.replicas: 0 leaves every write in one place: write appendOnly: Always beside it, or at least 1 replica",
        ],
    );
    assert_eq!(spec("redis: {replicas: 0, appendOnly: Always}").unwrap().redis.replicas, 0);
    refused(spec("redis: {replicas: 6}"), &["spec.redis.replicas: 6 is out of range: write 0 to 5"]);
    refused(
        spec("redis: {maxMemory: 1Mi}"),
        &["spec.redis.maxMemory: 1Mi is too small: write at least 16Mi"],
    );
    refused(
        spec("redis: {maxMemory: 6Gi}"),
        &[
            "spec.redis.storage.size: 10Gi does not hold the log and its rewrite: write at least twice maxMemory, 12Gi",
        ],
    );
    refused(
        spec("broker: {replicas: 2}"),
        &["spec.broker.replicas: 2 gives no clear majority: write 1, 3 or 5"],
    );
    refused(spec("proxy: {replicas: 0}"), &["spec.proxy.replicas: 0 is out of range: write 1 to 64"]);
    refused(
        spec("proxy: {maxConnections: 1000000}"),
        &["spec.proxy.maxConnections: 1000000 is out of range: write 1 to 100000"],
    );
    refused(
        spec("verification: {interval: 5s, samplePercent: 101}"),
        &[
            "spec.verification.interval: 5s is out of range: write 10s to 720h, or 0s for no schedule",
            "spec.verification.samplePercent: 101 is out of range: write 0 to 100",
        ],
    );
    refused(
        spec("clock: {maxSkew: 5m}"),
        &["spec.clock.maxSkew: 5m is out of range: write 1ms to 60s (1s suits NTP)"],
    );
    refused(
        spec("auth: {secretRef: {name: ''}}"),
        &["spec.auth.secretRef.name: is empty: name the Secret, or leave out spec.auth"],
    );
}

#[test]
fn replication_is_checked() {
    assert_eq!(spec("replication: {ack: Remote}").unwrap().replication.remote_acks, 1);
    refused(
        spec("replication: {ack: Remote, remoteAcks: 2}"),
        &[
            "spec.replication.remoteAcks: 2 needs as many other regions, and there are 1: write less, or add regions",
        ],
    );
    refused(
        spec("replication: {ack: Remote, remoteAcks: 0}"),
        &["spec.replication.remoteAcks: 0 waits for nobody: write at least 1, or ack: Queued"],
    );
    refused(
        spec("replication: {remoteAcks: 1}"),
        &["spec.replication.remoteAcks: means nothing here: write ack: Remote beside it, or leave it out"],
    );
    refused(
        spec("replication: {retention: {duration: 5s, bytes: 1Mi}}"),
        &[
            "spec.replication.retention.duration: 5s is out of range: write 1m to 720h",
            "spec.replication.retention.bytes: 1Mi is too small: write at least 64Mi",
        ],
    );
    refused(
        spec("replication: {maxLag: 1ms}"),
        &["spec.replication.maxLag: 1ms is out of range: write 100ms to the retention's duration"],
    );
    refused(
        spec("shards: 16"),
        &[
            "spec.broker.storage.size: 10Gi does not hold 16 streams of 1Gi and a segment of 16Mi each, 16640Mi together: write more, or a \
           smaller spec.replication.retention.bytes",
        ],
    );
}

#[test]
fn all_faults_are_reported_at_once() {
    let faults = spec("shards: 0, redis: {replicas: 9}, broker: {replicas: 4}").unwrap_err();
    assert_eq!(faults.len(), 3);
}
