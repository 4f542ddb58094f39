//! The operator's own port: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use crds::{RegionPhase, VerificationStatus};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::verify::Report;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// A region, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRegion {
    namespace: String,
    store: String,
    region: String,
    phase: String,
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStore {
    namespace: String,
    store: String,
}

const DONE: &str = "done";
const FAILED: &str = "failed";

/// What verification found.
#[derive(Default)]
struct VerificationMetrics {
    different: Family<OfStore, Gauge>,
    undecided: Family<OfStore, Gauge>,
    ended: Family<OfStore, Gauge<f64, AtomicU64>>,
    took: Family<OfStore, Gauge<f64, AtomicU64>>,
    compared: Family<OfStore, Counter>,
    sampled: Family<OfStore, Counter>,
    repaired: Family<OfStore, Counter>,
    failed: Family<OfStore, Counter>,
}

impl VerificationMetrics {
    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("verification");
        registry.register(
            "different_keys",
            "Keys that differ between regions, as the last run left them",
            self.different.clone(),
        );
        registry.register(
            "undecided_keys",
            "Keys that the last run could not decide: they were written to all the time",
            self.undecided.clone(),
        );
        registry.register_with_unit(
            "last_run_timestamp",
            "When the last run ended",
            Unit::Seconds,
            self.ended.clone(),
        );
        registry.register_with_unit(
            "duration",
            "How long the last run took",
            Unit::Seconds,
            self.took.clone(),
        );
        registry.register("keys_compared", "Keys compared between regions", self.compared.clone());
        registry.register("keys_sampled", "Keys whose values were compared", self.sampled.clone());
        registry.register("repaired_keys", "Keys that differed and were made equal", self.repaired.clone());
        registry.register("failures", "Runs that ended early", self.failed.clone());
    }

    fn remove(&self, of: &OfStore) {
        self.different.remove(of);
        self.undecided.remove(of);
        self.ended.remove(of);
        self.took.remove(of);
        self.compared.remove(of);
        self.sampled.remove(of);
        self.repaired.remove(of);
        self.failed.remove(of);
    }
}

/// What the operator counts.
pub(crate) struct Metrics {
    rounds: Family<Outcome, Counter>,
    seconds: Histogram,
    leads: Gauge,
    stores: Gauge,
    promotions: Counter,
    phases: Family<OfRegion, Gauge>,
    verification: VerificationMetrics,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut all = Self {
            rounds: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            leads: Gauge::default(),
            stores: Gauge::default(),
            promotions: Counter::default(),
            phases: Family::default(),
            verification: VerificationMetrics::default(),
            registry: Registry::with_prefix("mas_operator"),
        };
        let registry = &mut all.registry;
        registry.register("reconciles", "Rounds of reconciling, by how they ended", all.rounds.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of a round",
            Unit::Seconds,
            all.seconds.clone(),
        );
        registry.register("leads", "1: this operator acts; 0: another one does", all.leads.clone());
        registry.register("stores", "Stores that are looked after", all.stores.clone());
        registry.register("promotions", "Masters that were seen to be promoted", all.promotions.clone());
        registry.register("region_phase", "1 for the phase that a region is in", all.phases.clone());
        all.verification.register(registry);
        // Shown from the start, so that the first failure is a change.
        for outcome in [DONE, FAILED] {
            drop(all.rounds.get_or_create(&Outcome { outcome }));
        }
        all
    }

    /// A round ended.
    pub(crate) fn round(&self, well: bool, took: Duration) {
        self.rounds.get_or_create(&Outcome { outcome: if well { DONE } else { FAILED } }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn looks_after(&self, stores: usize) {
        self.stores.set(stores as i64);
    }

    pub(crate) fn promoted(&self) {
        self.promotions.inc();
    }

    pub(crate) fn leads(&self) {
        self.leads.set(1);
    }
}

/// The phase of a region, as the metrics show it while it is looked after.
pub(crate) struct ShownPhase {
    metrics: Arc<Metrics>,
    of: OfRegion,
}

impl ShownPhase {
    /// None is shown yet.
    pub(crate) fn new(metrics: Arc<Metrics>, namespace: &str, store: &str, region: &str) -> Self {
        let [namespace, store, region] = [namespace, store, region].map(ToOwned::to_owned);
        Self { metrics, of: OfRegion { namespace, store, region, phase: String::new() } }
    }

    pub(crate) fn show(&mut self, phase: RegionPhase) {
        let phase = format!("{phase:?}");
        if phase != self.of.phase {
            self.metrics.phases.remove(&self.of);
            self.of.phase = phase;
            self.metrics.phases.get_or_create(&self.of).set(1);
        }
    }
}

impl Drop for ShownPhase {
    fn drop(&mut self) {
        self.metrics.phases.remove(&self.of);
    }
}

/// What verification found of a store, as the metrics show it while it is looked after.
pub(crate) struct ShownVerification {
    metrics: Arc<Metrics>,
    of: OfStore,
}

impl ShownVerification {
    /// Nothing was found yet.
    pub(crate) fn new(metrics: Arc<Metrics>, namespace: &str, store: &str) -> Self {
        let of = OfStore { namespace: namespace.to_owned(), store: store.to_owned() };
        // Shown from the start, so that the first ones are a change.
        let all = &metrics.verification;
        for counter in [&all.compared, &all.sampled, &all.repaired, &all.failed] {
            drop(counter.get_or_create(&of));
        }
        Self { metrics, of }
    }

    /// What an operator before this one found.
    pub(crate) fn restore(&self, known: &VerificationStatus) {
        let all = &self.metrics.verification;
        let left = known.different_keys.saturating_sub(known.repaired_keys);
        all.different.get_or_create(&self.of).set(left as i64);
        all.undecided.get_or_create(&self.of).set(known.undecided as i64);
        all.took.get_or_create(&self.of).set(known.duration_millis as f64 / 1000.0);
        if let Some(at) = &known.finished_at {
            all.ended.get_or_create(&self.of).set(at.0.as_second() as f64);
        }
    }

    pub(crate) fn show(&self, report: &Report) {
        let all = &self.metrics.verification;
        all.compared.get_or_create(&self.of).inc_by(report.keys_compared);
        all.sampled.get_or_create(&self.of).inc_by(report.keys_sampled);
        all.repaired.get_or_create(&self.of).inc_by(report.repaired_keys);
        all.failed.get_or_create(&self.of).inc_by(u64::from(report.failed.is_some()));
        // A run that ended early says nothing of what it did not get to.
        if report.failed.is_none() || report.remaining() > 0 {
            all.different.get_or_create(&self.of).set(report.remaining() as i64);
            all.undecided.get_or_create(&self.of).set(report.undecided as i64);
        }
        all.took.get_or_create(&self.of).set(report.duration_millis as f64 / 1000.0);
        all.ended.get_or_create(&self.of).set(jiff::Timestamp::now().as_second() as f64);
    }
}

impl Drop for ShownVerification {
    fn drop(&mut self) {
        self.metrics.verification.remove(&self.of);
    }
}

/// Serves them until the process ends. Who waits for the lease is ready, too: it would act if it had to.
pub(crate) async fn serve(listener: tokio::net::TcpListener, metrics: Arc<Metrics>) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(text))
        .with_state(metrics);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the port for probes and metrics is closed");
    }
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let leads = metrics.leads.get() == 1;
    (StatusCode::OK, if leads { "leads\n" } else { "waits for the lease\n" })
}

async fn text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &metrics.registry);
    let code = if encoded.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (code, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_one_phase_and_none_when_nobody_looks_after_it() {
        let metrics = Arc::new(Metrics::new());
        let rows = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &metrics.registry).unwrap();
            text.lines()
                .filter(|line| line.starts_with("mas_operator_region_phase{"))
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>()
        };
        let mut shown = ShownPhase::new(Arc::clone(&metrics), "prod", "shop", "east");
        assert_eq!(rows(), Vec::<String>::new());
        shown.show(RegionPhase::Provisioning);
        shown.show(RegionPhase::Active);
        shown.show(RegionPhase::Active);
        let row =
            r#"mas_operator_region_phase{namespace="prod",store="shop",region="east",phase="Active"} 1"#;
        assert_eq!(rows(), [row]);
        drop(shown);
        assert_eq!(rows(), Vec::<String>::new());
    }

    /// Run with `BLESS=1` to write the page.
    #[test]
    fn the_page_of_metrics_is_up_to_date() {
        let metrics = Arc::new(Metrics::new());
        let mut shown = ShownPhase::new(Arc::clone(&metrics), "prod", "shop", "east");
        shown.show(RegionPhase::Active);
        let registry = &metrics.registry;
        let now = mas_proxy::metrics::markdown(registry, "the operator", "its own port (`--listen`)");
        // Where the tree is now, and not where it was built.
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let path = std::path::Path::new(&package).join("../docs/operator-metrics.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == now, "docs/operator-metrics.md is out of date: run `make generate`");
    }
}
