//! What a proxy says about itself on its admin endpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::http;

/// What a proxy's admin endpoint says (`GET /status`). Everything may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ProxyReport {
    /// The proxy answers `GET /readyz` with 200.
    #[serde(skip)]
    pub(crate) ready: bool,
    /// Of the configuration that it uses.
    pub(crate) generation: u64,
    pub(crate) links: Vec<LinkReport>,
    pub(crate) ack: AckReport,
    pub(crate) shards: Vec<ShardReport>,
}

/// One shard of its own region, as a proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ShardReport {
    pub(crate) shard: u16,
    pub(crate) incarnation: Option<String>,
    pub(crate) epoch: u64,
    /// `Serving`, or `Unavailable`.
    pub(crate) state: String,
    /// Members that it hears nothing of, `host:port`.
    pub(crate) unreachable: Vec<String>,
    /// The region that it sends the shard's requests to meanwhile.
    pub(crate) evacuated_to: Option<String>,
}

/// One peer's stream of one shard, as a proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LinkReport {
    pub(crate) peer: String,
    pub(crate) shard: Option<u16>,
    pub(crate) state: String,
    pub(crate) lag_millis: Option<u64>,
    pub(crate) lag_effects: Option<u64>,
    pub(crate) backlog_bytes: Option<u64>,
    pub(crate) since: serde_json::Value,
    /// What the peer had issued by its last word: the last number of each incarnation.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) issued: BTreeMap<String, u64>,
    /// How much of the peer's own time is not wholly here, by that word.
    pub(crate) behind_millis: Option<u64>,
}

/// Acknowledgement levels, wanted and in effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AckReport {
    pub(crate) configured: String,
    pub(crate) effective: String,
}

/// All proxies that answer, one at least, hear nothing of the shard's member at `host` (`host:port`).
pub(crate) fn none_hears(reports: &[ProxyReport], shard: u16, host: &str) -> bool {
    let misses = |of: &ProxyReport| {
        of.shards.iter().any(|of| of.shard == shard && of.unreachable.iter().any(|name| name == host))
    };
    let mut answering = reports.iter().filter(|report| report.generation > 0).peekable();
    answering.peek().is_some() && answering.all(misses)
}

/// Asks a proxy how it is. No answer: not ready, nothing known.
pub(crate) async fn fetch_report(admin: &str) -> ProxyReport {
    let (ready, status) = tokio::join!(http::get(admin, "/readyz"), http::get(admin, "/status"));
    let report = match status {
        Some((200, body)) => parse_report(&body).unwrap_or_default(),
        Some(_) | None => ProxyReport::default(),
    };
    ProxyReport { ready: ready.is_some_and(|(code, _)| code == 200), ..report }
}

/// What `GET /status` answers.
pub(crate) fn parse_report(body: &str) -> Option<ProxyReport> {
    serde_json::from_str(body).ok()
}

/// The metrics of the proxy with this admin endpoint (`host:port`), in Prometheus' text format; nothing if it does not answer in time.
pub async fn fetch_metrics(admin: &str) -> Option<String> {
    http::get(admin, "/metrics").await.and_then(|(code, body)| (code == 200).then_some(body))
}

/// Whether a proxy has declared its region's streams: it publishes only afterwards.
pub(crate) async fn has_declared(admin: &str) -> bool {
    fetch_metrics(admin).await.is_some_and(|metrics| publishes(&metrics))
}

/// Whether a proxy has had a connection to publish on.
fn publishes(metrics: &str) -> bool {
    let rows = metrics.lines().filter(|row| row.starts_with("mas_replication_reconnects_total{"));
    let mut counts =
        rows.filter(|row| row.contains("purpose=\"publish\"")).filter_map(|row| row.rsplit(' ').next());
    counts.any(|count| count != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_missed_when_all_that_answer_miss_it() {
        let report = |generation, unreachable: &[&str]| {
            let unreachable = unreachable.iter().map(|host| (*host).to_owned()).collect();
            ProxyReport {
                generation,
                shards: vec![ShardReport { shard: 1, unreachable, ..ShardReport::default() }],
                ..ProxyReport::default()
            }
        };
        let (misses, hears, silent) = (report(7, &["x:1", "y:1"]), report(7, &[]), report(0, &[]));
        assert!(none_hears(&[misses.clone(), silent.clone()], 1, "x:1"), "who does not answer is not asked");
        assert!(!none_hears(&[misses.clone(), hears], 1, "x:1"));
        let alone = std::slice::from_ref(&misses);
        assert!(!none_hears(alone, 1, "z:1") && !none_hears(alone, 0, "x:1"));
        assert!(!none_hears(&[silent], 1, "x:1") && !none_hears(&[], 1, "x:1"), "nobody says anything");
    }

    #[test]
    fn a_proxy_that_was_connected_publishes() {
        let row = |purpose: &str, count: u64| {
            format!("mas_replication_reconnects_total{{region=\"a\",purpose=\"{purpose}\"}} {count}\n")
        };
        assert!(publishes(&(row("read", 1) + &row("publish", 1))));
        assert!(!publishes(&(row("read", 1) + &row("publish", 0))));
        assert!(!publishes(""));
    }
}
