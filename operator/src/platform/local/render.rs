//! Configuration files of the servers, as text. Pure.

use std::path::Path;

use crds::AppendOnly;

/// What one Redis server needs to know.
pub(super) struct RedisConfig<'a> {
    pub(super) port: u16,
    pub(super) folder: &'a Path,
    pub(super) module: &'a Path,
    pub(super) node: &'a str,
    pub(super) password: &'a str,
    pub(super) replication_password: &'a str,
    pub(super) max_memory: u64,
    pub(super) append_only: AppendOnly,
    pub(super) max_skew_ms: u64,
}

/// Name of the user that replicas log in as. It is off at every start and switched on by promotion, so that no
/// replica can sync from a master that was not proved: one that came back empty would wipe it.
pub(super) const REPLICATION_USER: &str = "replication";

/// Memory kept on top of `maxMemory`, so that merging goes on when local writes are refused.
fn merge_headroom(max_memory: u64) -> u64 {
    (max_memory / 8).max(16 << 20)
}

/// Bound of the engine's outbox.
fn outbox_bytes(max_memory: u64) -> u64 {
    (max_memory / 4).clamp(4 << 20, 64 << 20)
}

pub(super) fn redis(config: &RedisConfig<'_>) -> String {
    let headroom = merge_headroom(config.max_memory);
    let fsync = match config.append_only {
        AppendOnly::Always => "always",
        AppendOnly::EverySecond => "everysec",
    };
    format!(
        r#"# Written by masctl at every start; changes are lost.
bind 127.0.0.1
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

# Who may log in. The replication user is switched on by promotion.
user default on ">{password}" ~* &* +@all
user {REPLICATION_USER} off ">{replication_password}" resetkeys resetchannels -@all +psync +replconf +ping
masteruser {REPLICATION_USER}
masterauth "{replication_password}"

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

loadmodule "{module}" node {node} max-skew-ms {skew} outbox-max-bytes {outbox} merge-headroom-bytes {headroom}
"#,
        port = config.port,
        folder = config.folder.display(),
        password = config.password,
        replication_password = config.replication_password,
        max_memory = config.max_memory + headroom,
        module = config.module.display(),
        node = config.node,
        skew = config.max_skew_ms,
        outbox = outbox_bytes(config.max_memory),
    )
}

/// What one RabbitMQ node needs to know.
pub(super) struct BrokerFile<'a> {
    pub(super) amqp: u16,
    pub(super) management: u16,
    pub(super) username: &'a str,
    pub(super) password: &'a str,
    /// Names of all nodes of the region's cluster.
    pub(super) nodes: &'a [String],
}

pub(super) fn rabbitmq(config: &BrokerFile<'_>) -> String {
    let mut text = format!(
        r"# Written by masctl at every start; changes are lost.
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
management.rates_mode = none
collect_statistics_interval = 10000
default_user = {username}
default_pass = {password}
loopback_users = none
# A laptop's measures: absolute, so that they do not depend on what else runs.
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 128MiB
log.console = true
log.console.level = info
log.file = false
heartbeat = 10
",
        amqp = config.amqp,
        management = config.management,
        username = config.username,
        password = config.password,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_file_says_what_matters() {
        let text = redis(&RedisConfig {
            port: 7001,
            folder: Path::new("/tmp/x y"),
            module: Path::new("/lib/libmas_engine.so"),
            node: "beijing/shard-0/redis-1",
            password: "pw",
            replication_password: "rp",
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
            amqp: 1,
            management: 2,
            username: "u",
            password: "p",
            nodes: &["a@localhost".into()],
        };
        assert!(!rabbitmq(&one).contains("cluster_formation"));
        let nodes: Vec<_> = (0..3).map(|i| format!("a-{i}@localhost")).collect();
        let three = BrokerFile { nodes: &nodes, ..one };
        assert!(rabbitmq(&three).contains("classic_config.nodes.3 = a-2@localhost"));
    }
}
