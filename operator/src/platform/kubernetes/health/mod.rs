//! The health loop of all stores, apart from reconciling: each store has a task that looks at its engines and proxies, keeps its shards
//! served, and is the only writer of its status and of its regions' rows. A round of reconciling tells it what came of it.

mod operations;
mod pods;
mod record;
mod rows;
mod store;
mod verification;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crds::{MultiActiveStore, StoreOperation, StoreRegion};
use kube::core::Resource as _;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{self, ObjectRef};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

pub(crate) use pods::{PodProcess, Pods};
pub(crate) use rows::words;
pub(crate) use verification::ANNOTATION;

use super::endpoint::Metrics;
use super::status::Round;

/// What a round found and did.
pub(crate) struct Latest {
    /// The store as it was read.
    pub(crate) store: Arc<MultiActiveStore>,
    pub(crate) round: Round,
}

/// What the tasks share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) client: kube::Client,
    pub(crate) pods: Pods,
    /// The stores as the watch brings them.
    pub(crate) stores: reflector::Store<MultiActiveStore>,
    /// The regions' rows, likewise.
    pub(crate) rows: reflector::Store<StoreRegion>,
    /// The operations, likewise.
    pub(crate) operations: reflector::Store<StoreOperation>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    /// One store is verified at a time.
    pub(crate) verifying: Arc<Semaphore>,
    /// Asks for a round: once a store, when it is founded.
    pub(crate) rounds: mpsc::UnboundedSender<ObjectRef<MultiActiveStore>>,
}

impl Shared {
    /// Tells people what happened. It may get lost.
    async fn publish(&self, about: &MultiActiveStore, bad: bool, reason: &str, note: String) {
        let event = Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: "Observed".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &about.object_ref(&())).await {
            tracing::warn!(%error, reason, "an event was lost");
        }
    }
}

/// See the module.
pub(crate) struct Health {
    shared: Shared,
    running: Mutex<Running>,
}

/// A store's uid, and the way to tell its task.
type Task = (Option<String>, watch::Sender<Arc<Latest>>);

#[derive(Default)]
struct Running {
    stores: HashMap<ObjectRef<MultiActiveStore>, Task>,
    tasks: JoinSet<()>,
}

impl Health {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, running: Mutex::default() }
    }

    /// A round has ended.
    pub(crate) fn tell(&self, store: Arc<MultiActiveStore>, round: Round) {
        let key = ObjectRef::from_obj(&*store);
        let uid = store.metadata.uid.clone();
        let latest = Arc::new(Latest { store, round });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A task ends with its store; one of the same name is another.
        running.stores.retain(|_, (_, task)| !task.is_closed());
        if let Some((_, task)) = running.stores.get(&key).filter(|(of, _)| *of == uid) {
            task.send_replace(latest);
            return;
        }
        let (task, receiver) = watch::channel(latest);
        running.tasks.spawn(store::run(self.shared.clone(), receiver));
        running.stores.insert(key, (uid, task));
        self.shared.metrics.looks_after(running.stores.len());
        while running.tasks.try_join_next().is_some() {}
    }

    /// Ends all of it.
    pub(crate) async fn stop(&self) {
        let mut tasks =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner)).tasks;
        tasks.shutdown().await;
    }
}
