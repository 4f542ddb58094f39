//! The operator's process: watches stores and what was made of them, and reconciles, some at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{MultiActiveStore, StoreOperation, StoreRegion};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::client::ClientBuilder;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::{Semaphore, mpsc};

use super::FIELD_MANAGER;
use super::apply::Invalid;
use super::catalog::{Catalog, CatalogError};
use super::changes::{changes, owner, row_of};
use super::client::ClientError;
use super::crash::CrashLayer;
use super::delay::DelayLayer;
use super::endpoint::{Metrics, serve};
use super::health::{Health, Pods, Shared};
use super::lease::Election;
use super::reconcile::{Context, Failures, reconcile};

/// Stores that are reconciled at the same time, at most.
const CONCURRENCY: u16 = 8;
/// Everything is looked at again after this time, whatever was seen.
const RESYNC: Duration = Duration::from_mins(5);
/// Pause after a round in which somebody was faster: the watch brings what there is now.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);
/// First pause after a round that failed for another reason; the next is twice as long, up to [`RESYNC`].
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only this namespace; `None`: all of the cluster.
    pub watch_namespace: Option<String>,
    /// Where the operator itself runs.
    pub namespace: String,
    /// The release catalog, if not the built-in one.
    pub catalog: Option<PathBuf>,
    /// Where to answer probes and serve metrics, `host:port`.
    pub listen: String,
    /// Name of the Lease that several operators of one namespace compete for.
    pub lease: String,
    /// This operator's name in it: unique.
    pub identity: String,
    /// For tests: end as if killed after so many requests that write.
    pub crash_after: Option<u64>,
    /// For tests: what is watched comes so much later.
    pub delay_watches: Option<Duration>,
}

/// Why the operator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to the API server.
    #[error("connecting to the API server failed: {0}; check the kubeconfig, or the service account")]
    Connect(#[source] Box<kube::Error>),
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The port is taken, or no address.
    #[error("listening on {address} failed: {source}; choose another --listen")]
    Listen {
        /// What was asked for.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Another operator may act now.
    #[error("the lease was lost: another operator may act now, so this one ends and is started again")]
    LeaseLost,
    /// The kinds are not there.
    #[error(
        "watching MultiActiveStores failed: {0}; are the CustomResourceDefinitions installed (operator crds | kubectl apply -f -)?"
    )]
    NoKinds(#[source] Box<kube::Error>),
}

/// Runs until `stop` is done.
pub async fn run(
    options: Options,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> Result<(), RunError> {
    let catalog = options.catalog.as_deref().map(Catalog::read).transpose()?.unwrap_or_default();
    let client = connect(&options).await.map_err(|error| RunError::Connect(Box::new(error)))?;
    let stores: Api<MultiActiveStore> = match &options.watch_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let listener = tokio::net::TcpListener::bind(&options.listen)
        .await
        .map_err(|source| RunError::Listen { address: options.listen.clone(), source })?;
    stores
        .list(&kube::api::ListParams::default().limit(1))
        .await
        .map_err(|error| RunError::NoKinds(Box::new(error)))?;
    let metrics = Arc::new(Metrics::new());
    tokio::spawn(serve(listener, Arc::clone(&metrics)));
    let stop = stop.shared();
    let election =
        Election::new(client.clone(), &options.namespace, &options.lease, options.identity.clone());
    tokio::select! {
        () = election.win() => {}
        () = stop.clone() => return Ok(()),
    }
    metrics.leads();
    tracing::info!(watch = options.watch_namespace.as_deref().unwrap_or("all namespaces"), "operator leads");
    let scope = Scope { client: client.clone(), namespace: options.watch_namespace };
    let (rounds, mut wanted) = mpsc::unbounded_channel();
    let wanted = futures_util::stream::poll_fn(move |context| wanted.poll_recv(context));
    let (rows, rows_writer) = reflector::store();
    let (seen, stores_writer) = reflector::store();
    let (operations, operations_writer) = reflector::store();
    let controller =
        controller(&scope, seen.clone(), stores_writer, rows_writer, operations_writer).reconcile_on(wanted);
    let (pods, watch_pods) = Pods::watch(scope.api());
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(options.identity) };
    let recorder = Recorder::new(client.clone(), reporter);
    let shared = Shared {
        client: client.clone(),
        pods,
        stores: seen,
        rows,
        operations,
        recorder,
        metrics: Arc::clone(&metrics),
        verifying: Arc::new(Semaphore::new(1)),
        rounds,
    };
    let context = Arc::new(Context {
        client,
        catalog,
        namespace: options.namespace,
        metrics,
        health: Health::new(shared),
        failures: Failures::default(),
        invalid: Invalid::default(),
    });
    let ended = tokio::select! {
        () = election.hold() => Err(RunError::LeaseLost),
        () = watch_pods => Ok(()),
        () = watch(controller, Arc::clone(&context), stop) => Ok(()),
    };
    if ended.is_ok() {
        context.health.stop().await;
        election.release().await;
        tracing::info!("operator stopped");
    }
    ended
}

/// Rounds of stores that changed, and of those of which something that they are made of did.
fn controller(
    scope: &Scope,
    reader: reflector::Store<MultiActiveStore>,
    writer: reflector::store::Writer<MultiActiveStore>,
    rows: reflector::store::Writer<StoreRegion>,
    operations: reflector::store::Writer<StoreOperation>,
) -> Controller<MultiActiveStore> {
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"));
    let stores = watcher(scope.api(), watcher::Config::default()).default_backoff().reflect(writer);
    let rows = watcher(scope.api(), ours).default_backoff().reflect(rows);
    // People make some, without our labels.
    let operations = watcher(scope.api(), watcher::Config::default()).default_backoff().reflect(operations);
    Controller::for_stream(futures_util::stream::pending(), reader)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(Duration::from_millis(100)))
        .reconcile_on(changes(stores, |store| Some(ObjectRef::from_obj(store)), &[]))
        .reconcile_on(changes(rows, row_of, &[]))
        .reconcile_on(changes(operations, owner, &[]))
        // Which template its pods should run is known once its controller has seen the last change.
        .reconcile_on(scope.owned::<StatefulSet>(&["observedGeneration", "updateRevision"]))
        .reconcile_on(scope.owned::<Deployment>(&[]))
        .reconcile_on(scope.owned::<Service>(&[]))
        .reconcile_on(scope.owned::<ConfigMap>(&[]))
        .reconcile_on(scope.owned::<NetworkPolicy>(&[]))
        .reconcile_on(scope.owned::<PodDisruptionBudget>(&[]))
}

/// Reconciles whatever changes, until `stop` is done and the rounds under way have ended.
async fn watch(
    controller: Controller<MultiActiveStore>,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    controller
        .graceful_shutdown_on(stop)
        .run(one, failed, context)
        .for_each(|done| async {
            match done {
                // It went while its round waited.
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "a round failed"),
            }
        })
        .await;
}

async fn connect(options: &Options) -> Result<kube::Client, kube::Error> {
    let config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    let client = ClientBuilder::try_from(config)?;
    Ok(match (options.crash_after, options.delay_watches) {
        (Some(most), _) => client.with_layer(&CrashLayer::new(most)).build(),
        (None, Some(delay)) => client.with_layer(&DelayLayer(delay)).build(),
        (None, None) => client.build(),
    })
}

struct Scope {
    client: kube::Client,
    namespace: Option<String>,
}

impl Scope {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// The stores of objects of one kind that are made of stores, as they change.
    fn owned<K>(
        &self,
        seen: &'static [&'static str],
    ) -> impl Stream<Item = ObjectRef<MultiActiveStore>> + Send + use<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let ours =
            watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"));
        changes(watcher(self.api::<K>(), ours).default_backoff(), owner, seen)
    }
}

async fn one(store: Arc<MultiActiveStore>, context: Arc<Context>) -> Result<Action, ClientError> {
    let (metrics, started) = (Arc::clone(&context.metrics), Instant::now());
    let done = reconcile(store, context).await;
    metrics.round(done.is_ok(), started.elapsed());
    done.map(|()| Action::requeue(jittered(RESYNC)))
}

#[allow(clippy::needless_pass_by_value)] // as kube wants it
fn failed(store: Arc<MultiActiveStore>, error: &ClientError, context: Arc<Context>) -> Action {
    let pause = if error.is_conflict() {
        AFTER_CONFLICT
    } else {
        let doubled = context.failures.count(&store).saturating_sub(1).min(16);
        AFTER_FAILURE.saturating_mul(1 << doubled).min(RESYNC)
    };
    Action::requeue(jittered(pause))
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.8..1.2))
}
