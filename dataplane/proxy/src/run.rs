//! A proxy process from start to end: check the configuration, bind, serve, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::admin::{Admin, router};
use crate::config_file;
use crate::front::counters::Totals;
use crate::front::replication::{Clocks, Replication, Wiring};
use crate::front::settings::Settings;
use crate::front::state::Shared;
use crate::front::{self, discovery, limits};
use crate::metrics;

/// File descriptors beside those of clients.
const OTHER_FILES: usize = 256;

/// Asks the system for as many open files as it allows, and says so when they will not do.
fn raise_open_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    if allowed.is_some_and(|allowed| allowed < (connections + OTHER_FILES) as u64) {
        warn!(
            allowed,
            connections, "the limit of open files is too low for maxConnections; raise it (ulimit -n)"
        );
    }
}

/// Serves until SIGTERM or SIGINT, then drains. `name`: in place of the one in the file. `replicate` starts the replication side; it is called inside the
/// runtime, before any port is bound.
pub async fn run(
    path: std::path::PathBuf,
    name: Option<String>,
    first: Settings,
    replicate: impl FnOnce(Wiring) -> anyhow::Result<Arc<dyn Replication>>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let workers = front::workers(&first);
    raise_open_files(first.config.max_connections);
    let shards = usize::from(first.shards());
    let (listen, admin_address) = (first.listen, first.admin);
    let watched = config_file::watch(path, name, first);

    let shared = Arc::new(Shared {
        totals: Totals::new(workers),
        next_client: AtomicU64::new(1),
        draining: AtomicBool::new(false),
        ask_again: Arc::default(),
        started: Instant::now(),
    });
    let masters = discovery::start(watched.settings.clone(), shared.ask_again.clone());
    let clocks = Clocks::new(shards);
    let (send, receive): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
    let replication = replicate(Wiring {
        config: watched.config.clone(),
        masters: masters.clone(),
        ask_again: shared.ask_again.clone(),
        clocks: clocks.clone(),
        acks: send,
    })
    .context("starting replication")?;

    let mut registry = metrics::registry(shared.clone());
    replication.register(&mut registry);
    let admin = Admin {
        settings: watched.settings.clone(),
        refused: watched.refused,
        masters: masters.clone(),
        replication: replication.clone(),
        shared: shared.clone(),
        registry: Arc::new(registry),
    };
    let admin_listener = TcpListener::bind(admin_address)
        .await
        .with_context(|| format!("binding the admin port {admin_address}"))?;
    let front = front::start(front::Start {
        settings: watched.settings.clone(),
        masters,
        shared,
        replication: replication.clone(),
        clocks,
        acks: receive,
        output: front::limits::OutputBounds::default(),
    })
    .with_context(|| format!("binding the client port {listen}"))?;
    let serving = tokio::spawn(async move { axum::serve(admin_listener, router(admin)).await });
    let config = watched.config.borrow().clone();
    info!(
        store = config.store,
        region = config.region.name,
        proxy = config.proxy,
        clients = %front.address,
        admin = %admin_address,
        workers,
        "serving"
    );
    drop(config);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("draining: no new connections, requests under way are finished");
    tokio::task::spawn_blocking(move || front.drain()).await.context("draining")?.context("draining")?;
    if let Err(refusal) = replication.drain(limits::DRAIN).await {
        warn!(%refusal, "not everything was published; what is left is in the outbox, and other proxies sweep it");
    }
    serving.abort();
    info!("drained");
    Ok(())
}
