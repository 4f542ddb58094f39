//! `INFO`: what monitoring tools and people ask for, in the sections of Redis, and `multiactive`.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use mas_commands::Args as _;

use super::Ask;
use super::connection::REDIS_VERSION;
use crate::front::counters::Count;
use crate::front::dispatch::Flow;
use crate::front::state::State;
use crate::resp::encode;

const DEFAULT: [&str; 4] = ["server", "clients", "stats", "multiactive"];

impl Ask<'_, '_> {
    pub(super) fn info(&mut self) -> Flow {
        let mut wanted: Vec<String> = Vec::new();
        for i in 1..self.request.count() {
            wanted.push(String::from_utf8_lossy(self.arg(i)).to_ascii_lowercase());
        }
        let all = wanted.is_empty()
            || wanted.iter().any(|w| matches!(w.as_str(), "all" | "default" | "everything"));
        let mut text = String::new();
        for section in DEFAULT.into_iter().chain(["commandstats"]) {
            let default = DEFAULT.contains(&section);
            let everything = wanted.iter().any(|w| w == "all" || w == "everything");
            if (all && default) || everything || wanted.iter().any(|w| w == section) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                section_text(&mut text, self.state, section);
            }
        }
        let resp3 = self.resp3();
        self.write(|out| encode::text(out, resp3, &text))
    }
}

fn section_text(text: &mut String, state: &State, section: &str) {
    let config = &state.settings.config;
    let totals = &state.shared.totals;
    let uptime = state.shared.started.elapsed().as_secs();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, "{name}:{value}\r\n");
    };
    match section {
        "server" => {
            line("# Server\r\nredis_version", &REDIS_VERSION);
            line("redis_mode", &"standalone");
            line("multiactive_version", &env!("CARGO_PKG_VERSION"));
            line("process_id", &std::process::id());
            line("tcp_port", &state.settings.listen.port());
            line("uptime_in_seconds", &uptime);
            line("uptime_in_days", &(uptime / 86400));
        }
        "clients" => {
            line("# Clients\r\nconnected_clients", &totals.connections.load(Ordering::Relaxed));
            line("maxclients", &config.max_connections);
            line("blocked_clients", &0);
        }
        "stats" => {
            let calls: u64 = totals.commands().map(|(_, calls, _)| calls).sum();
            line("# Stats\r\ntotal_connections_received", &totals.count(Count::ConnectionsAccepted));
            line("total_commands_processed", &calls);
            line("total_net_input_bytes", &totals.count(Count::BytesRead));
            line("total_net_output_bytes", &totals.count(Count::BytesWritten));
            line("rejected_connections", &totals.count(Count::ConnectionsRefused));
        }
        "commandstats" => {
            text.push_str("# Commandstats\r\n");
            for (name, calls, failures) in totals.commands() {
                let name = name.to_ascii_lowercase();
                let _ = write!(text, "cmdstat_{name}:calls={calls},failed_calls={failures}\r\n");
            }
        }
        _ => multiactive(text, state),
    }
}

fn multiactive(text: &mut String, state: &State) {
    let config = &state.settings.config;
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, "{name}:{value}\r\n");
    };
    line("# Multiactive\r\nstore", &config.store);
    line("region", &config.region.name);
    line("region_id", &config.region.id);
    line("proxy", &config.proxy);
    line("generation", &config.generation);
    line("ack_configured", &format_args!("{:?}", config.ack));
    line("ack_effective", &format_args!("{:?}", state.replication.effective(config.ack)));
    line("shards", &config.shards.len());
    for (n, shard) in state.masters.shards.iter().enumerate() {
        match &shard.master {
            Some(m) => line(
                &format!("shard{n}"),
                &format_args!(
                    "state=serving,master={},epoch={},incarnation={}",
                    m.address, m.epoch, m.incarnation
                ),
            ),
            None => line(&format!("shard{n}"), &format_args!("state=unavailable,why={}", shard.why)),
        }
        let elsewhere = state.shared.totals.detours.of(n as u16);
        if !elsewhere.is_empty() {
            line(&format!("shard{n}_evacuated_to"), &elsewhere.join(","));
        }
    }
    for (n, link) in state.replication.links().iter().enumerate() {
        line(
            &format!("link{n}"),
            &format_args!(
                "peer={},shard={},state={},lag_ms={},lag_effects={},backlog_bytes={}",
                link.peer, link.shard, link.state, link.lag_millis, link.lag_effects, link.backlog_bytes
            ),
        );
    }
    for (name, value) in state.replication.info() {
        line(&name, &value);
    }
}
