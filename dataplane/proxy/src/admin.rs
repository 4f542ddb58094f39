//! The admin port: /healthz, /readyz, /metrics, /status. For probes, Prometheus, the operator and masctl.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

use crate::front::replication::{LinkStatus, Replication};
use crate::front::routing::Masters;
use crate::front::settings::Settings;
use crate::front::state::Shared;
use crate::metrics;

/// What the answers are made of.
#[derive(Clone)]
pub struct Admin {
    /// The configuration.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Why the file's latest state is not in use, if it is not.
    pub refused: watch::Receiver<Option<String>>,
    /// Who is master.
    pub masters: watch::Receiver<Arc<Masters>>,
    /// The other side of the proxy.
    pub replication: Arc<dyn Replication>,
    /// Numbers and flags of the front.
    pub shared: Arc<Shared>,
    /// All metrics.
    pub registry: Arc<Registry>,
}

/// `GET /status`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    proxy: String,
    region: String,
    generation: u64,
    /// Why a newer file is not in use; absent when the file is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    draining: bool,
    connections: i64,
    links: Vec<LinkStatus>,
    shards: Vec<ShardStatus>,
    ack: AckStatus,
}

/// One shard, as this proxy routes to it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShardStatus {
    shard: usize,
    master: Option<String>,
    incarnation: Option<String>,
    epoch: u64,
    state: &'static str,
    /// Without a master: what the members say.
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// Members that nothing is heard of, `host:port`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<String>,
    /// The region that this proxy sends its requests to meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    evacuated_to: Option<String>,
}

/// Acknowledgement levels.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AckStatus {
    configured: String,
    effective: String,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .with_state(admin)
}

/// Ready: takes clients. A shard without a master does not make it unready: the proxy holds requests for a while, and
/// would be taken out together with all others.
async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.shared.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    let generation = admin.settings.borrow().config.generation;
    (StatusCode::OK, format!("ready, generation {generation}\n"))
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::text(&admin.registry))
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    let settings = admin.settings.borrow().clone();
    let masters = admin.masters.borrow().clone();
    let config = &settings.config;
    let shard = |(shard, known): (usize, &crate::front::routing::ShardMaster)| {
        let master = known.master.as_ref();
        ShardStatus {
            shard,
            master: master.map(|m| m.address.clone()),
            incarnation: master.map(|m| m.incarnation.to_string()),
            epoch: master.map_or(0, |m| m.epoch),
            state: if master.is_some() { "Serving" } else { "Unavailable" },
            why: known.why.clone(),
            unreachable: known.unreachable.clone(),
            evacuated_to: admin.shared.totals.detours.of(shard as u16).pop(),
        }
    };
    Json(Status {
        proxy: config.proxy.clone(),
        region: config.region.name.clone(),
        generation: config.generation,
        refused: admin.refused.borrow().clone(),
        draining: admin.shared.draining.load(Ordering::Relaxed),
        connections: admin.shared.totals.connections.load(Ordering::Relaxed),
        links: admin.replication.links(),
        shards: masters.shards.iter().enumerate().map(shard).collect(),
        ack: AckStatus {
            configured: format!("{:?}", config.ack),
            effective: format!("{:?}", admin.replication.effective(config.ack)),
        },
    })
}
