//! /metrics: the front's numbers in the form of Prometheus. docs/metrics.md is generated from the same registry.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::front::counters::{COUNTS, sum};
use crate::front::state::Shared;

/// Prefix of the front's metrics; the replication side has one of its own.
pub const PREFIX: &str = "mas_proxy";

/// A registry with the front's metrics in it, for the replication side to add its own.
pub fn registry(shared: Arc<Shared>) -> Registry {
    let mut registry = Registry::default();
    registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(Front(shared)));
    registry
}

/// Reads the shared numbers at each scrape.
struct Front(Arc<Shared>);

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Front")
    }
}

impl Collector for Front {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let totals = &self.0.totals;
        for ((name, unit, help), value) in COUNTS.iter().zip(totals.counts()) {
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let help =
            "Requests by command (only commands of the table, so that clients cannot add labels) and outcome";
        let mut metric = encoder.encode_descriptor("commands", help, None, MetricType::Counter)?;
        for (name, calls, failures) in totals.commands() {
            let name = name.to_ascii_lowercase();
            for (outcome, value) in [("ok", calls.saturating_sub(failures)), ("error", failures)] {
                let labels = [("command", name.as_str()), ("outcome", outcome)];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        let gauges = [
            ("connections", "Client connections that are open", totals.connections.load(Ordering::Relaxed)),
            ("replies_owed", "Requests whose reply has not left yet", sum(&totals.owed)),
            ("requests_held", "Requests that wait for their shard to get a master", sum(&totals.held)),
            (
                "drained",
                "1 while all requests go to another region, as the manifest says",
                i64::from(totals.drained.load(Ordering::Relaxed)),
            ),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let ways = totals.detours.all();
        let help = "Requests sent to another region, by shard and region";
        let mut metric = encoder.encode_descriptor("shard_forwarded", help, None, MetricType::Counter)?;
        for ((shard, peer), numbers) in &ways {
            let labels = [("shard", shard.to_string()), ("peer", peer.clone())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&numbers.requests, None)?;
        }
        let drained = totals.drained.load(Ordering::Relaxed);
        let help = "1 while a shard's requests go to another region, for it has no serving master here";
        let mut metric = encoder.encode_descriptor("shard_evacuated", help, None, MetricType::Gauge)?;
        for ((shard, peer), numbers) in &ways {
            let labels = [("shard", shard.to_string()), ("peer", peer.clone())];
            metric.encode_family(&labels)?.encode_gauge(&i64::from(numbers.open > 0 && !drained))?;
        }
        let acks = "Time from the shard's reply to the acknowledgement of a write at its level";
        let forwards = "Time until a request was sent to another region: for that to be chosen, and to have what the connection wrote";
        for (name, help, times) in
            [("ack_wait", acks, &totals.acks), ("forward_wait", forwards, &totals.forwards)]
        {
            let (sum, count, buckets) = times.histogram();
            encoder
                .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// The registry as text.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

/// A page of docs/, from the head lines of the text: metrics `of` what, `on` which port.
pub fn markdown(registry: &Registry, of: &str, on: &str) -> String {
    let text = text(registry);
    let mut out = format!(
        "# Metrics of {of}\n\nGenerated from the registry; do not edit. `GET /metrics` on {on}, in the text format of \
         Prometheus.\n\n| metric | type | unit | meaning |\n| --- | --- | --- | --- |\n",
    );
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let (mut kind, mut unit) = ("", "");
        while let Some(next) =
            lines.next_if(|next| next.starts_with("# TYPE ") || next.starts_with("# UNIT "))
        {
            let value = next.rsplit(' ').next().unwrap_or_default();
            *(if next.starts_with("# TYPE ") { &mut kind } else { &mut unit }) = value;
        }
        let suffix = if kind == "counter" { "_total" } else { "" };
        let help = help.trim_end_matches('.');
        let _ = writeln!(out, "| `{name}{suffix}` | {kind} | {unit} | {help} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::Instant;

    use mas_core::config::{PeerConfig, RegionRef};
    use tokio::sync::watch;

    use super::*;
    use crate::front::counters::{Counters, Totals};
    use crate::front::replication::{Clocks, Replication as _, Wiring};
    use crate::front::settings::tests::config;
    use crate::replication::Replicator;

    pub(crate) fn shared() -> Arc<Shared> {
        Arc::new(Shared {
            totals: Totals::new(1),
            next_client: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            ask_again: Arc::default(),
            started: Instant::now(),
        })
    }

    #[test]
    fn numbers_are_shown_with_help_and_unit() {
        let shared = shared();
        let mut counters = Counters::default();
        counters.call(mas_commands::lookup(b"GET").expect("known").index);
        counters.ack_waited(900);
        counters.publish(&shared.totals);
        let text = text(&registry(shared));
        for line in [
            "# HELP mas_proxy_client_read_bytes Bytes read from clients",
            "# UNIT mas_proxy_client_read_bytes bytes",
            "mas_proxy_commands_total{command=\"get\",outcome=\"ok\"} 1",
            "mas_proxy_ack_wait_seconds_bucket{le=\"0.001\"} 1",
            "mas_proxy_connections 0",
        ] {
            assert!(text.contains(line), "{line}\n in\n{text}");
        }
    }

    #[test]
    fn the_table_has_a_row_a_metric() {
        let table = markdown(&registry(shared()), "a proxy", "the admin port");
        assert!(
            table.contains("| `mas_proxy_writes_unknown_total` | counter |  | Writes whose connection broke"),
            "{table}"
        );
        assert!(table.contains("| `mas_proxy_ack_wait_seconds` | histogram | seconds |"), "{table}");
    }

    /// Run with `BLESS=1` to write the page.
    #[test]
    fn the_committed_page_is_up_to_date() {
        let mut with_peer = config(1);
        let there = RegionRef { name: "there".into(), id: 2 };
        with_peer.peers.push(PeerConfig { region: there, broker: with_peer.broker.clone(), endpoint: None });
        let (_config, config) = watch::channel(Arc::new(with_peer));
        let (_masters, masters) = watch::channel(Arc::default());
        let (ask_again, clocks) = (Arc::default(), Clocks::new(1));
        let wiring = Wiring { config, masters, ask_again, clocks, acks: Vec::new() };
        let mut registry = registry(shared());
        Replicator::start(wiring).expect("a thread").register(&mut registry);
        let now = markdown(&registry, "a proxy", "the admin port");
        // Where the tree is now, and not where it was built.
        let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let path = std::path::Path::new(&package).join("../../docs/metrics.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &now).expect("docs/ is writable");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == now,
            "docs/metrics.md is out of date: run BLESS=1 cargo test -p mas-proxy metrics"
        );
    }
}
