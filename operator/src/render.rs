//! Configuration files of the servers, as text. Pure.

use std::path::Path;

use base64::Engine as _;
use crds::AppendOnly;
use mas_core::config::{AckLevel, OnBrokerLoss, Retention};
use serde_json::json;

/// What one Redis server needs to know.
pub(crate) struct RedisConfig<'a> {
    pub(crate) bind: &'a str,
    pub(crate) port: u16,
    pub(crate) folder: &'a Path,
    pub(crate) module: &'a Path,
    /// A name for logs; `None`: the host's.
    pub(crate) node: Option<&'a str>,
    pub(crate) users: Users<'a>,
    pub(crate) max_memory: u64,
    pub(crate) append_only: AppendOnly,
    pub(crate) max_skew_ms: u64,
}

/// Where a Redis server has its users from.
pub(crate) enum Users<'a> {
    /// From this text ([`redis_users`]).
    Text(&'a str),
    /// From a file with such a text.
    File(&'a str),
}

/// Name of the user that replicas log in as. It is off at every start and switched on by promotion, so that no
/// replica can sync from a master that was not proved: one that came back empty would wipe it.
pub(crate) const REPLICATION_USER: &str = "replication";

/// Memory kept on top of `maxMemory`, so that merging goes on when local writes are refused.
fn merge_headroom(max_memory: u64) -> u64 {
    (max_memory / 8).max(16 << 20)
}

/// Bound of the engine's outbox.
fn outbox_bytes(max_memory: u64) -> u64 {
    (max_memory / 4).clamp(4 << 20, 64 << 20)
}

/// Who may log in to a Redis server. The replication user is switched on by promotion. `probed`: somebody without a password
/// may ask whether it lives, and nothing else.
pub(crate) fn redis_users(password: &str, replication_password: &str, probed: bool) -> String {
    let probe = if probed { "user probe on nopass resetkeys resetchannels -@all +ping\n" } else { "" };
    format!(
        r#"user default on ">{password}" ~* &* +@all
user {REPLICATION_USER} off ">{replication_password}" resetkeys resetchannels -@all +psync +replconf +ping
{probe}masteruser {REPLICATION_USER}
masterauth "{replication_password}"
"#
    )
}

pub(crate) fn redis(config: &RedisConfig<'_>) -> String {
    let headroom = merge_headroom(config.max_memory);
    let fsync = match config.append_only {
        AppendOnly::Always => "always",
        AppendOnly::EverySecond => "everysec",
    };
    let users = match config.users {
        Users::Text(text) => text.to_owned(),
        Users::File(path) => format!("include {path}\n"),
    };
    let node = config.node.map(|node| format!("node {node} ")).unwrap_or_default();
    format!(
        r#"# Written by Multi-Active Store; changes are lost.
bind {bind}
port {port}
protected-mode yes
daemonize no
supervised no
dir "{folder}"
logfile ""
loglevel notice
always-show-logo no
databases 1
maxclients 4096
tcp-keepalive 60

# Who may log in.
{users}
# Memory: {headroom} bytes on top of maxMemory are for merging.
maxmemory {max_memory}
maxmemory-policy noeviction

# The log is what survives; its base is an RDB because the engine's metadata has no log form of its own.
appendonly yes
appendfsync {fsync}
aof-use-rdb-preamble yes
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
save ""
stop-writes-on-bgsave-error no

repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-diskless-load disabled
repl-backlog-size 16mb
repl-timeout 10
repl-ping-replica-period 2
replica-serve-stale-data yes
replica-read-only yes
client-output-buffer-limit replica 256mb 128mb 60

loadmodule "{module}" {node}max-skew-ms {skew} outbox-max-bytes {outbox} merge-headroom-bytes {headroom}
"#,
        bind = config.bind,
        port = config.port,
        folder = config.folder.display(),
        max_memory = config.max_memory + headroom,
        module = config.module.display(),
        skew = config.max_skew_ms,
        outbox = outbox_bytes(config.max_memory),
    )
}

/// The user that a region's proxies log in as at their own broker, and the one of other regions' proxies, who only read.
pub(crate) const BROKER_USER: &str = "multiactive";
/// See [`BROKER_USER`].
pub(crate) const PEER_USER: &str = "peers";

/// What one RabbitMQ node needs to know.
pub(crate) struct BrokerFile<'a> {
    pub(crate) bind: &'a str,
    pub(crate) amqp: u16,
    pub(crate) management: u16,
    pub(crate) users: BrokerUsers<'a>,
    /// Names of all nodes of the region's cluster.
    pub(crate) nodes: &'a [String],
    /// Memory that it may have, bytes.
    pub(crate) memory: u64,
    /// Size of its volume, bytes; `None`: a disk that it shares.
    pub(crate) storage: Option<u64>,
}

/// Where a RabbitMQ node has its users from.
pub(crate) enum BrokerUsers<'a> {
    /// One, made at the first start, with this password.
    Default(&'a str),
    /// From a file that is imported at every start ([`definitions`]).
    Definitions(&'a str),
}

pub(crate) fn rabbitmq(config: &BrokerFile<'_>) -> String {
    let users = match config.users {
        BrokerUsers::Default(password) => {
            format!("default_user = {BROKER_USER}\ndefault_pass = {password}\nloopback_users = none\n")
        }
        BrokerUsers::Definitions(path) => format!("load_definitions = {path}\nloopback_users = none\n"),
    };
    // Absolute, so that they do not depend on what else runs.
    let disk = config.storage.map_or(128 << 20, |size| (size / 20).clamp(128 << 20, 1 << 30));
    let mut text = format!(
        r"# Written by Multi-Active Store; changes are lost.
listeners.tcp.1 = {bind}:{amqp}
management.tcp.ip = {bind}
management.tcp.port = {management}
management.rates_mode = none
collect_statistics_interval = 10000
{users}vm_memory_high_watermark.absolute = {memory}
disk_free_limit.absolute = {disk}
log.console = true
log.console.level = info
log.file = false
heartbeat = 10
",
        bind = config.bind,
        amqp = config.amqp,
        management = config.management,
        memory = config.memory,
    );
    if config.nodes.len() > 1 {
        text.push_str("cluster_formation.peer_discovery_backend = classic_config\n");
        text.extend(
            (1..)
                .zip(config.nodes)
                .map(|(i, node)| format!("cluster_formation.classic_config.nodes.{i} = {node}\n")),
        );
        text.extend([format!("cluster_formation.target_cluster_size_hint = {}\n", config.nodes.len())]);
        text.push_str("cluster_partition_handling = pause_minority\n");
    }
    text
}

/// Users of a broker in RabbitMQ's own format: the region's proxies may do everything with this store's streams, those of other
/// regions may read them, and have queues of their own for heartbeats.
pub(crate) fn definitions(store: &str, proxies: &str, peers: &str) -> String {
    let store = store.replace('-', "\\-");
    let own = format!("^(mas\\.{store}\\..*|amq\\.gen.*)$");
    // Records go through the default exchange, by the stream's name. Who may write to it reaches every queue: no peers.
    let written = format!("^(mas\\.{store}\\..*|amq\\.gen.*|amq\\.default)$");
    let permission = |user: &str, configure: &str, write: &str| json!({"user": user, "vhost": "/", "configure": configure, "write": write, "read": own});
    let user = |name: &str, password: &str| {
        json!({
            "name": name,
            "password_hash": password_hash(password),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": [],
        })
    };
    let text = json!({
        "vhosts": [{"name": "/"}],
        "users": [user(BROKER_USER, proxies), user(PEER_USER, peers)],
        "permissions": [
            permission(BROKER_USER, &own, &written),
            permission(PEER_USER, "^amq\\.gen.*$", "^amq\\.gen.*$"),
        ],
    });
    serde_json::to_string_pretty(&text).unwrap_or_default()
}

/// As RabbitMQ keeps passwords: base64 of a salt of four bytes and the SHA-256 of salt and password. The salt follows from the
/// password, so that the same password always gives the same text; passwords here are random and long.
fn password_hash(password: &str) -> String {
    let digest = |parts: &[&[u8]]| {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for part in parts {
            context.update(part);
        }
        context.finish()
    };
    let first = digest(&[b"salt", password.as_bytes()]);
    let salt = &first.as_ref()[..4];
    let hash = digest(&[salt, password.as_bytes()]);
    base64::engine::general_purpose::STANDARD.encode([salt, hash.as_ref()].concat())
}

/// The level as the proxy's file has it.
pub(crate) fn ack_level(ack: crds::Ack) -> AckLevel {
    match ack {
        crds::Ack::Local => AckLevel::Local,
        crds::Ack::Queued => AckLevel::Queued,
        crds::Ack::Remote => AckLevel::Remote,
    }
}

/// The same of what happens without a broker.
pub(crate) fn on_broker_loss(wanted: crds::OnBrokerLoss) -> OnBrokerLoss {
    match wanted {
        crds::OnBrokerLoss::Degrade => OnBrokerLoss::Degrade,
        crds::OnBrokerLoss::Reject => OnBrokerLoss::Reject,
    }
}

/// The same of what the streams keep.
pub(crate) fn retention(replication: &crds::Replication) -> Retention {
    Retention {
        seconds: replication.retention.as_millis().div_ceil(1000),
        bytes: replication.retention_bytes.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_file_says_what_matters() {
        let text = redis(&RedisConfig {
            bind: "127.0.0.1",
            port: 7001,
            folder: Path::new("/tmp/x y"),
            module: Path::new("/lib/libmas_engine.so"),
            node: Some("beijing/shard-0/redis-1"),
            users: Users::Text(&redis_users("pw", "rp", false)),
            max_memory: 256 << 20,
            append_only: AppendOnly::Always,
            max_skew_ms: 1000,
        });
        for line in [
            "bind 127.0.0.1",
            "dir \"/tmp/x y\"",
            "appendfsync always",
            "aof-use-rdb-preamble yes",
            "maxmemory 301989888",
            "maxmemory-policy noeviction",
            "user replication off \">rp\" resetkeys resetchannels -@all +psync +replconf +ping",
            "loadmodule \"/lib/libmas_engine.so\" node beijing/shard-0/redis-1 max-skew-ms 1000 outbox-max-bytes 67108864 merge-headroom-bytes 33554432",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("replicaof"), "whom to follow is the controller's to say");
    }

    #[test]
    fn only_a_cluster_has_peers() {
        let one = BrokerFile {
            bind: "127.0.0.1",
            amqp: 1,
            management: 2,
            users: BrokerUsers::Default("p"),
            nodes: &["a@localhost".into()],
            memory: 1 << 30,
            storage: None,
        };
        assert!(!rabbitmq(&one).contains("cluster_formation"));
        let nodes: Vec<_> = (0..3).map(|i| format!("a-{i}@localhost")).collect();
        let three = BrokerFile { nodes: &nodes, users: BrokerUsers::Definitions("/d.json"), ..one };
        assert!(rabbitmq(&three).contains("classic_config.nodes.3 = a-2@localhost"));
    }

    /// From RabbitMQ's documentation: the hash of test12 with the salt 908DC60A; and that the same comes out twice.
    #[test]
    fn passwords_are_hashed_as_rabbitmq_does() {
        let salt = [0x90, 0x8d, 0xc6, 0x0a];
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&salt);
        context.update(b"test12");
        let hash = context.finish();
        let text = base64::engine::general_purpose::STANDARD.encode([&salt, hash.as_ref()].concat());
        assert_eq!(text, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
        assert_eq!(password_hash("x"), password_hash("x"));
        assert!(definitions("shop", "a", "b").contains("hashing_algorithm"));
    }
}
