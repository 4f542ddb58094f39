//! What the API server stores of a manifest, and what it refuses, in which words.

use e2e::cluster::Cluster;

use crate::manifest;

/// Bad specs beside `regions: [{name: a}, {name: b}]`, and what the server says of each.
const BAD: [(&str, &str); 43] = [
    ("shards: 0", "spec.shards: Invalid value: \"integer\": is out of range: write 1 to 64"),
    ("shards: 65", "spec.shards: Invalid value: \"integer\": is out of range: write 1 to 64"),
    ("shards: two", ".spec.shards: expected numeric (int or float), got string"),
    ("shard: 2", ".spec.shard: field not declared in schema"),
    ("traffic: Drained", ".spec.traffic: field not declared in schema"),
    (
        "redis: {replicas: 6}",
        "spec.redis.replicas: Invalid value: \"integer\": is out of range: write 0 to 5",
    ),
    (
        "redis: {replicas: -1}",
        "spec.redis.replicas: Invalid value: -1: spec.redis.replicas in body should be greater than or equal to 0",
    ),
    (
        "redis: {replicas: 0}",
        "spec.redis.replicas: Invalid value: \"object\": 0 leaves every write in one place: write appendOnly: Always beside it, or at least 1 replica",
    ),
    (
        "redis: {maxMemory: 1Mi}",
        "spec.redis.maxMemory: Invalid value: \"\": is too small: write at least 16Mi",
    ),
    (
        "redis: {maxMemory: a lot}",
        "spec.redis.maxMemory: Invalid value: \"a lot\": spec.redis.maxMemory in body should match '^[0-9]+(\\.[0-9]{1,6})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$'",
    ),
    (
        "redis: {maxMemory: 6Gi}",
        "spec.redis.storage.size: Invalid value: \"object\": does not hold the log and its rewrite: write at least twice redis.maxMemory",
    ),
    (
        "redis: {storage: {size: 100Mi}, maxMemory: 16Mi}",
        "spec.redis.storage.size: Invalid value: \"\": is too small: write at least 256Mi",
    ),
    (
        "redis: {appendOnly: Never}",
        "spec.redis.appendOnly: Unsupported value: \"Never\": supported values: \"Always\", \"EverySecond\"",
    ),
    ("redis: {image: {reference: r}}", "spec.redis.image.version: Required value"),
    ("redis: {memory: 1Gi}", ".spec.redis.memory: field not declared in schema"),
    (
        "broker: {replicas: 2}",
        "spec.broker.replicas: Invalid value: \"integer\": gives no clear majority: write 1, 3 or 5",
    ),
    (
        "broker: {replicas: 7}",
        "spec.broker.replicas: Invalid value: \"integer\": gives no clear majority: write 1, 3 or 5",
    ),
    (
        "shards: 20",
        "spec.broker.storage.size: Invalid value: \"object\": does not hold a stream of replication.retention.bytes and a segment of 16Mi for each shard: write more, or retain less",
    ),
    (
        "broker: {storage: {size: 1Mi}}",
        "spec.broker.storage.size: Invalid value: \"\": is too small: write at least 256Mi",
    ),
    (
        "proxy: {replicas: 0}",
        "spec.proxy.replicas: Invalid value: \"integer\": is out of range: write 1 to 64",
    ),
    (
        "proxy: {replicas: 65}",
        "spec.proxy.replicas: Invalid value: \"integer\": is out of range: write 1 to 64",
    ),
    (
        "proxy: {maxConnections: 0}",
        "spec.proxy.maxConnections: Invalid value: \"integer\": is out of range: write 1 to 100000",
    ),
    (
        "proxy: {maxConnections: 100001}",
        "spec.proxy.maxConnections: Invalid value: \"integer\": is out of range: write 1 to 100000",
    ),
    (
        "proxy: {resources: {limits: {memory: much}}}",
        "spec.proxy.resources.limits.memory: Invalid value: \"much\": spec.proxy.resources.limits.memory in body should match '^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$'",
    ),
    (
        "replication: {ack: Sync}",
        "spec.replication.ack: Unsupported value: \"Sync\": supported values: \"Local\", \"Queued\", \"Remote\"",
    ),
    (
        "replication: {remoteAcks: 1}",
        "spec.replication.remoteAcks: Invalid value: \"object\": means nothing here: write ack: Remote beside it, or leave it out",
    ),
    (
        "replication: {ack: Remote, remoteAcks: 0}",
        "spec.replication.remoteAcks: Invalid value: \"integer\": 0 waits for nobody: write at least 1, or ack: Queued",
    ),
    (
        "replication: {ack: Remote, remoteAcks: 2}",
        "spec.replication.remoteAcks: Invalid value: \"object\": needs as many other regions, and there are fewer: write less, or add regions",
    ),
    (
        "replication: {onBrokerLoss: Panic}",
        "spec.replication.onBrokerLoss: Unsupported value: \"Panic\": supported values: \"Degrade\", \"Reject\"",
    ),
    (
        "replication: {retention: {duration: 5s}}",
        "spec.replication.retention.duration: Invalid value: \"string\": is out of range: write 1m to 720h",
    ),
    (
        "replication: {retention: {duration: 721h}}",
        "spec.replication.retention.duration: Invalid value: \"string\": is out of range: write 1m to 720h",
    ),
    (
        "replication: {retention: {duration: soon}}",
        "spec.replication.retention.duration: Invalid value: \"soon\": spec.replication.retention.duration in body should match '^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$'",
    ),
    (
        "replication: {retention: {bytes: 1Mi}}",
        "spec.replication.retention.bytes: Invalid value: \"\": is too small: write at least 64Mi",
    ),
    (
        "replication: {maxLag: 1ms}",
        "spec.replication.maxLag: Invalid value: \"object\": is out of range: write 100ms to the duration of the retention",
    ),
    (
        "replication: {maxLag: 2h, retention: {duration: 1h}}",
        "spec.replication.maxLag: Invalid value: \"object\": is out of range: write 100ms to the duration of the retention",
    ),
    (
        "clock: {maxSkew: 2m}",
        "spec.clock.maxSkew: Invalid value: \"string\": is out of range: write 1ms to 60s (1s suits NTP)",
    ),
    (
        "clock: {maxSkew: 0s}",
        "spec.clock.maxSkew: Invalid value: \"string\": is out of range: write 1ms to 60s (1s suits NTP)",
    ),
    (
        "verification: {interval: 9s}",
        "spec.verification.interval: Invalid value: \"string\": is out of range: write 10s to 720h, or 0s for no schedule",
    ),
    (
        "verification: {samplePercent: 101}",
        "spec.verification.samplePercent: Invalid value: \"integer\": is out of range: write 0 to 100",
    ),
    (
        "verification: {repair: Never}",
        "spec.verification.repair: Unsupported value: \"Never\": supported values: \"Automatic\", \"ReportOnly\"",
    ),
    (
        "auth: {secretRef: {name: ''}}",
        "spec.auth.secretRef.name: Invalid value: \"string\": is empty: name the Secret, or leave out spec.auth",
    ),
    (
        "deletionPolicy: Keep",
        "spec.deletionPolicy: Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\"",
    ),
    ("paused: maybe", ".spec.paused: expected boolean, got &{maybe}"),
];

/// Bad regions, and bad names.
const BAD_NAMES: [(&str, &str, &str); 12] = [
    ("shop", "[]", "spec.regions: Invalid value: 0: spec.regions in body should have at least 1 items"),
    ("shop", "[{name: a}, {name: a}]", ".spec.regions: duplicate entries for key [name=\"a\"]"),
    (
        "shop",
        "[{name: ''}]",
        "spec.regions[0].name: Invalid value: \"string\": is empty: write a name such as beijing",
    ),
    (
        "shop",
        "[{name: a--b}]",
        "spec.regions[0].name: Invalid value: \"string\": contains '--', which separates names in child objects: write a single '-'",
    ),
    (
        "shop",
        "[{name: Beijing}]",
        "spec.regions[0].name: Invalid value: \"string\": is not a DNS label: write lower-case letters, digits and '-', starting with a letter and not ending with '-'",
    ),
    ("shop", "[{name: a23456789012345678901234x}]", "has more than 24 characters: write at most 24"),
    (
        "shop",
        "[{name: a, service: {type: Ingress}}]",
        "spec.regions[0].service.type: Unsupported value: \"Ingress\": supported values: \"ClusterIP\", \"NodePort\", \"LoadBalancer\"",
    ),
    ("shop", "[{name: a, weight: 1}]", ".spec.regions[name=\"a\"].weight: field not declared in schema"),
    (
        "s--p",
        "[{name: a}]",
        "metadata.name contains '--', which separates names in child objects: write a single '-'",
    ),
    (
        "1shop",
        "[{name: a}]",
        "metadata.name is not a DNS label: write lower-case letters, digits and '-', starting with a letter and not ending with '-'",
    ),
    (
        "s234567890123456789012345",
        "[{name: a}]",
        "metadata.name has more than 24 characters: write at most 24",
    ),
    (
        "s23456789012345678901",
        "[{name: a23456789012}]",
        "metadata.name and the name of a region have more than 32 characters together: shorten one of them",
    ),
];

#[test]
fn bad_manifests_are_refused_in_words() {
    let cluster = Cluster::shared();
    let named =
        BAD_NAMES.map(|(name, regions, words)| (manifest(name, &format!("{{regions: {regions}}}")), words));
    let specs = BAD.map(|(spec, words)| {
        (manifest("shop", &format!("{{regions: [{{name: a}}, {{name: b}}], {spec}}}")), words)
    });
    let mut wrong = Vec::new();
    for (text, words) in specs.iter().chain(&named) {
        match cluster.try_apply("default", text) {
            Ok(_) => wrong.push(format!("is stored: {text}")),
            Err(error) if !error.to_string().contains(words) => {
                wrong.push(format!("{text}\n  should be refused with: {words}\n  and was with: {error}"));
            }
            // A laptop refuses the same.
            Err(_) if crds::load(text).is_ok() => wrong.push(format!("is fine on a laptop: {text}")),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Bad operations, and what the server says of each.
const BAD_OPERATIONS: [(&str, &str); 13] = [
    (
        "type: Rebuild, region: a",
        "spec.shard: Invalid value: \"object\": a Rebuild, a Switchover and a Failover need the shard, and nothing else has one",
    ),
    (
        "type: Failover, region: a",
        "spec.shard: Invalid value: \"object\": a Rebuild, a Switchover and a Failover need",
    ),
    (
        "type: Switchover, region: a",
        "spec.shard: Invalid value: \"object\": a Rebuild, a Switchover and a Failover need",
    ),
    (
        "type: ScaleOut, region: a, shard: 0",
        "spec.shard: Invalid value: \"object\": a Rebuild, a Switchover and a Failover need the shard, and nothing else has one",
    ),
    (
        "type: Repair, shard: 0",
        "spec.shard: Invalid value: \"object\": a Rebuild, a Switchover and a Failover need",
    ),
    (
        "type: Switchover, shard: 0",
        "spec.region: Invalid value: \"object\": Verify and Repair compare all regions and have none, and everything else needs one",
    ),
    (
        "type: Verify, region: a",
        "spec.region: Invalid value: \"object\": Verify and Repair compare all regions and have none, and everything else needs one",
    ),
    (
        "type: Failover, region: a, shard: 0, target: 1",
        "spec.target: Invalid value: \"object\": is whom a Switchover makes master, and means nothing elsewhere: leave it out",
    ),
    (
        "type: Switchover, region: a, shard: 0, source: b",
        "spec.source: Invalid value: \"object\": is what is copied, and only a ScaleOut and a Rebuild copy: leave it out",
    ),
    (
        "type: Verify, force: true",
        "spec.force: Invalid value: \"object\": means something for a Remove alone: leave it out",
    ),
    (
        "type: Rebuild, region: a, shard: 0, source: a",
        "spec.source: Invalid value: \"object\": is the region itself, and a region is not copied from itself: name another one, or leave it out",
    ),
    ("type: Rebuild, region: a, shard: -1", "spec.shard: Invalid value: -1"),
    ("type: Restore, region: a", "spec.type: Unsupported value: \"Restore\""),
];

#[test]
fn bad_operations_are_refused_in_words() {
    let cluster = Cluster::shared();
    let object = |spec: &str| {
        let kind = "apiVersion: multiactive.dev/v1alpha1\nkind: StoreOperation";
        format!("{kind}\nmetadata: {{name: bad}}\nspec: {{storeRef: {{name: shop}}, {spec}}}\n")
    };
    for (spec, words) in BAD_OPERATIONS {
        let said = cluster.try_apply("default", &object(spec)).expect_err(spec).to_string();
        assert!(said.contains(words), "{spec}\n  should be refused with: {words}\n  and was with: {said}");
    }
    for spec in [
        "type: Rebuild, region: a, shard: 0, source: b",
        "type: Switchover, region: a, shard: 0, target: 1",
        "type: Failover, region: a, shard: 0",
        "type: Verify",
        "type: Repair",
    ] {
        cluster.try_apply("default", &object(spec)).unwrap();
    }
}

#[test]
fn every_default_is_filled_in() {
    let stored = Cluster::shared().try_apply("default", &manifest("shop", "{regions: [{name: a}]}")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    let wanted = serde_json::json!({
        "shards": 1,
        "regions": [{"name": "a", "traffic": "Active", "service": {"type": "ClusterIP"}}],
        "redis": {"replicas": 1, "maxMemory": "1Gi", "storage": {"size": "10Gi"}, "appendOnly": "EverySecond"},
        "broker": {"replicas": 3, "storage": {"size": "10Gi"}},
        "proxy": {"replicas": 2, "maxConnections": 10000},
        "replication": {
            "ack": "Queued",
            "onBrokerLoss": "Degrade",
            "retention": {"duration": "24h", "bytes": "1Gi"},
            "maxLag": "1s",
        },
        "clock": {"maxSkew": "1s"},
        "verification": {"interval": "1h", "samplePercent": 1, "repair": "Automatic"},
        "deletionPolicy": "Retain",
        "paused": false,
    });
    assert_eq!(stored["spec"], wanted);
}

#[test]
fn what_cannot_change_is_refused() {
    let namespace = Cluster::shared().namespace("schema").unwrap();
    let spec = |more: &str| {
        manifest(
            "shop",
            &format!(
                "{{shards: 2, regions: [{{name: a}}, {{name: b}}], redis: {{replicas: 2, storage: {{size: 20Gi, className: fast}}}}{more}}}"
            ),
        )
    };
    namespace.apply(&spec("")).unwrap();
    let refused = |from: &str, to: &str, words: &str| {
        let text = spec("").replace(from, to);
        assert_ne!(text, spec(""), "{from}");
        let error = namespace.apply(&text).map(|_| ()).expect_err(to).to_string();
        assert!(error.contains(words), "{to}: {error}");
    };
    refused(
        "shards: 2",
        "shards: 1",
        "spec.shards: Invalid value: \"integer\": cannot change: resharding does not exist yet",
    );
    refused(
        "{name: a}, {name: b}",
        "{name: c}",
        "spec.regions: Invalid value: \"object\": replaces all regions at once",
    );
    refused(
        "replicas: 2",
        "replicas: 1",
        "spec.redis.replicas: Invalid value: \"integer\": is less than before",
    );
    refused(
        "size: 20Gi",
        "size: 10Gi",
        "spec.redis.storage.size: Invalid value: \"\": is less than before, and volumes only grow",
    );
    refused(
        "className: fast",
        "className: slow",
        "spec.redis.storage.className: Invalid value: \"object\": cannot change: the volumes are of that class",
    );
    refused(
        "shards: 2",
        "shards: 2, broker: {replicas: 1}",
        "spec.broker.replicas: Invalid value: \"integer\": cannot change",
    );
    namespace.apply(&spec("").replace("20Gi", "30Gi")).unwrap();
}

#[test]
fn every_example_is_stored() {
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../examples");
    let mut stored = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        Cluster::shared().try_apply("default", &text).unwrap();
        stored += 1;
    }
    assert!(stored >= 3, "{stored} examples");
}
