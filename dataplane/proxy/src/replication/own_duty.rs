//! What only the proxy that has a shard's own duty knows, and shows: its engines' numbers, and tombstones. One proxy of a region shows a
//! shard, so nothing counts twice; one that loses the duty shows none of it any more, and not what it knew last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use mas_core::stamp::ShardId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::engine::Engines;

/// Time between two looks at a shard's engines.
const PAUSE: Duration = Duration::from_secs(5);
/// How long one may take to answer.
const LIMIT: Duration = Duration::from_millis(500);

/// Numbers of one engine, from `INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineInfo {
    is_replica: bool,
    is_loading: bool,
    is_linked: bool,
    memory: u64,
    memory_max: u64,
    clients: u64,
    keys: u64,
    offset: u64,
    aof: u64,
    aof_base: u64,
    is_rewriting: bool,
    is_saving: bool,
    aof_failed: bool,
    rewrite_failed: bool,
}

impl EngineInfo {
    pub(crate) fn parse(text: &str) -> Self {
        let rows: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let number = |name: &str| rows.get(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        let is = |name: &str, value: &str| rows.get(name) == Some(&value);
        let is_replica = is("role", "slave");
        let keys = rows.get("db0").and_then(|db| db.strip_prefix("keys=")?.split(',').next()?.parse().ok());
        Self {
            is_replica,
            is_loading: is("loading", "1"),
            is_linked: is("master_link_status", "up"),
            memory: number("used_memory"),
            memory_max: number("maxmemory"),
            clients: number("connected_clients"),
            keys: keys.unwrap_or_default(),
            offset: number(if is_replica { "slave_repl_offset" } else { "master_repl_offset" }),
            aof: number("aof_current_size"),
            aof_base: number("aof_base_size"),
            is_rewriting: is("aof_rewrite_in_progress", "1"),
            is_saving: is("rdb_bgsave_in_progress", "1"),
            aof_failed: is("aof_last_write_status", "err"),
            rewrite_failed: is("aof_last_bgrewrite_status", "err"),
        }
    }
}

/// Of one shard.
#[derive(Debug, Default)]
struct Seen {
    /// By member; `None`: it does not answer.
    engines: BTreeMap<String, Option<EngineInfo>>,
    /// The incarnation's master, by member.
    master: String,
    tombstones: Option<Tombstones>,
}

/// What a walk through the slots told.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    pub(crate) held: u64,
    pub(crate) stable_age: Duration,
    /// By region, how many wait for it.
    pub(crate) held_by: Vec<(String, u64)>,
}

/// The shards of which this proxy has the own duty.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnDuties(Arc<Mutex<BTreeMap<u16, Seen>>>);

impl OwnDuties {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u16, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The duty is another proxy's.
    pub(crate) fn forget(&self, shard: ShardId) {
        self.all().remove(&shard.0);
    }

    pub(crate) fn tombstones(&self, shard: ShardId, seen: Tombstones) {
        self.all().entry(shard.0).or_default().tombstones = Some(seen);
    }

    fn engines(&self, shard: ShardId, master: &str, engines: BTreeMap<String, Option<EngineInfo>>) {
        let mut all = self.all();
        let seen = all.entry(shard.0).or_default();
        member_name(master).clone_into(&mut seen.master);
        seen.engines = engines;
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let engines = Box::new(OfEngines(self.clone()));
        registry.sub_registry_with_prefix("mas_engine").register_collector(engines);
        let tombstones = Box::new(OfTombstones(self.clone()));
        registry.sub_registry_with_prefix("mas_replication").register_collector(tombstones);
    }
}

/// When to look at a shard's engines.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    next_ms: u64,
}

impl Looks {
    /// Looks, if that is due.
    pub(crate) async fn step(
        &mut self,
        duties: &OwnDuties,
        engines: &Engines,
        (shard, master): (ShardId, &str),
        members: &[String],
        now_ms: u64,
    ) {
        if now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + PAUSE.as_millis() as u64;
        let asked = members.iter().map(|address| async move {
            let info = tokio::time::timeout(LIMIT, engines.info(address)).await;
            (member_name(address).to_owned(), info.ok().and_then(Result::ok))
        });
        duties.engines(shard, master, join_all(asked).await.into_iter().collect());
    }
}

/// In a cluster a pod's name, which its DNS name begins with; else the address.
fn member_name(address: &str) -> &str {
    let is_name = address.starts_with(|first: char| first.is_ascii_alphabetic());
    if is_name { address.split(['.', ':']).next().unwrap_or(address) } else { address }
}

/// One gauge of an engine: its name, what it means, its unit, its value.
type OfEngine = (&'static str, &'static str, Option<Unit>, fn(&EngineInfo) -> u64);

fn gauges() -> [OfEngine; 13] {
    [
        ("loading", "1 while it loads its data", None, |e| e.is_loading.into()),
        ("memory_used", "Memory of its data", Some(Unit::Bytes), |e| e.memory),
        (
            "memory_max",
            "Bound of that, with what is kept for merging: an eighth of redis.maxMemory, 16 MiB at least",
            Some(Unit::Bytes),
            |e| e.memory_max,
        ),
        ("keys", "Keys", None, |e| e.keys),
        ("clients", "Connections to it, those of proxies, replicas and the operator", None, |e| e.clients),
        (
            "replication_offset",
            "How far it is in the master's stream of replication",
            Some(Unit::Bytes),
            |e| e.offset,
        ),
        ("replication_linked", "1 for a replica that is connected to its master", None, |e| {
            (e.is_replica && e.is_linked).into()
        }),
        ("aof", "Size of its append-only file", Some(Unit::Bytes), |e| e.aof),
        ("aof_base", "That size after the last rewrite", Some(Unit::Bytes), |e| e.aof_base),
        ("aof_rewriting", "1 while that file is rewritten", None, |e| e.is_rewriting.into()),
        ("saving", "1 while a snapshot is written, for a replica", None, |e| e.is_saving.into()),
        ("aof_write_failed", "1 when the last write to the append-only file failed", None, |e| {
            e.aof_failed.into()
        }),
        ("aof_rewrite_failed", "1 when the last rewrite of it failed", None, |e| e.rewrite_failed.into()),
    ]
}

#[derive(Debug)]
struct OfEngines(OwnDuties);

impl Collector for OfEngines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.all();
        let engines = || {
            all.iter().flat_map(|(shard, seen)| {
                seen.engines.iter().map(move |(member, info)| (*shard, seen, member, info))
            })
        };
        let answering = || {
            engines().filter_map(|(shard, seen, member, info)| Some((shard, seen, member, info.as_ref()?)))
        };
        let up = engines().map(|(shard, _, member, info)| (of(shard, member), u64::from(info.is_some())));
        gauge(&mut encoder, "up", "1 for an engine that answers", None, up)?;
        let masters =
            engines().map(|(shard, seen, member, _)| (of(shard, member), u64::from(*member == seen.master)));
        gauge(&mut encoder, "master", "1 for the shard's master", None, masters)?;
        for (name, help, unit, value) in gauges() {
            let rows = answering().map(|(shard, _, member, info)| (of(shard, member), value(info)));
            gauge(&mut encoder, name, help, unit.as_ref(), rows)?;
        }
        let lags = answering().filter_map(|(shard, seen, member, info)| {
            let master = seen.engines.get(&seen.master)?.as_ref()?;
            Some((of(shard, member), master.offset.saturating_sub(info.offset)))
                .filter(|_| *member != seen.master)
        });
        gauge(
            &mut encoder,
            "replication_lag",
            "What a replica still lacks of the master's stream of replication",
            Some(&Unit::Bytes),
            lags,
        )
    }
}

#[derive(Debug)]
struct OfTombstones(OwnDuties);

impl Collector for OfTombstones {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.all();
        let seen =
            || all.iter().filter_map(|(shard, seen)| Some((shard.to_string(), seen.tombstones.as_ref()?)));
        let all_held = seen().map(|(shard, seen)| ([("shard", shard)], seen.held));
        gauge(&mut encoder, "tombstones", "Tombstones held", None, all_held)?;
        let held_by = seen().flat_map(|(shard, seen)| {
            seen.held_by
                .iter()
                .map(move |(region, held)| ([("region", region.clone()), ("shard", shard.clone())], *held))
        });
        gauge(
            &mut encoder,
            "tombstones_held_by",
            "Tombstones held until this region has everything up to them",
            None,
            held_by,
        )?;
        let ages = seen().map(|(shard, seen)| ([("shard", shard)], seen.stable_age.as_secs_f64()));
        let help = "How long ago the time is up to which all regions have everything";
        gauge(&mut encoder, "stable_age", help, Some(&Unit::Seconds), ages)
    }
}

fn of(shard: u16, member: &str) -> [(&'static str, String); 2] {
    [("shard", shard.to_string()), ("member", member.to_owned())]
}

fn gauge<const LABELS: usize, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    rows: impl Iterator<Item = ([(&'static str, String); LABELS], V)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in rows {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "# Clients\r\nconnected_clients:4\r\n# Memory\r\nused_memory:1000\r\nmaxmemory:2000\r\n# Persistence\r\nloading:0\r\n\
        rdb_bgsave_in_progress:0\r\naof_rewrite_in_progress:1\r\naof_last_bgrewrite_status:ok\r\naof_last_write_status:err\r\n\
        aof_current_size:300\r\naof_base_size:100\r\n# Replication\r\nrole:master\r\nmaster_repl_offset:70\r\n# Keyspace\r\ndb0:keys=5,expires=2,avg_ttl=0\r\n";
    const REPLICA: &str = "loading:1\r\nrole:slave\r\nmaster_link_status:up\r\nslave_repl_offset:50\r\nmaster_repl_offset:60\r\n";

    fn text(duties: &OwnDuties) -> String {
        let mut registry = Registry::default();
        duties.register(&mut registry);
        crate::metrics::text(&registry)
    }

    #[test]
    fn an_engine_is_shown_by_who_has_the_duty_and_by_nobody_else() {
        let duties = OwnDuties::default();
        let (one, other) = ("set-0.set.space.svc:6379", "set-1.set.space.svc:6379");
        let seen = [
            (member_name(one).to_owned(), Some(EngineInfo::parse(MASTER))),
            (member_name(other).to_owned(), Some(EngineInfo::parse(REPLICA))),
            ("127.0.0.1:7001".to_owned(), None),
        ];
        duties.engines(ShardId(3), one, seen.into());
        let held_by = vec![("far".to_owned(), 8)];
        duties
            .tombstones(ShardId(3), Tombstones { held: 9, stable_age: Duration::from_millis(1500), held_by });
        let shown = text(&duties);
        for row in [
            "mas_engine_up{shard=\"3\",member=\"127.0.0.1:7001\"} 0",
            "mas_engine_up{shard=\"3\",member=\"set-1\"} 1",
            "mas_engine_master{shard=\"3\",member=\"set-0\"} 1",
            "mas_engine_master{shard=\"3\",member=\"set-1\"} 0",
            "mas_engine_memory_used_bytes{shard=\"3\",member=\"set-0\"} 1000",
            "mas_engine_keys{shard=\"3\",member=\"set-0\"} 5",
            "mas_engine_aof_write_failed{shard=\"3\",member=\"set-0\"} 1",
            "mas_engine_aof_rewriting{shard=\"3\",member=\"set-0\"} 1",
            "mas_engine_loading{shard=\"3\",member=\"set-1\"} 1",
            "mas_engine_replication_linked{shard=\"3\",member=\"set-1\"} 1",
            "mas_engine_replication_lag_bytes{shard=\"3\",member=\"set-1\"} 20",
            "mas_replication_tombstones{shard=\"3\"} 9",
            "mas_replication_tombstones_held_by{region=\"far\",shard=\"3\"} 8",
            "mas_replication_stable_age_seconds{shard=\"3\"} 1.5",
        ] {
            assert!(shown.lines().any(|line| line == row), "{row}\nin\n{shown}");
        }
        duties.forget(ShardId(3));
        let shown = text(&duties);
        assert!(shown.lines().all(|line| line.starts_with('#')), "{shown}");
    }
}
