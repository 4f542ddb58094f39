//! One round for one store: dereference, check, build, apply. Every round may be the first and may be cut short anywhere:
//! nothing is remembered between two of them but what is in the cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crds::MultiActiveStore;
use kube::core::Resource as _;
use rand::Rng as _;
use rand::distr::Alphanumeric;

use super::apply::{Applied, Invalid, Owner, apply};
use super::build::build;
use super::catalog::Catalog;
use super::check::{Checked, check};
use super::client::{ClientError, Namespace};
use super::dereference::dereference;
use super::endpoint::Metrics;
use super::health::Health;
use super::removal::remove_leaving;
use super::status::Round;

/// Characters of a password: about 190 bits.
const PASSWORD: usize = 32;

/// What all rounds share.
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) catalog: Catalog,
    /// Where the operator itself runs.
    pub(crate) namespace: String,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    pub(crate) failures: Failures,
    pub(crate) invalid: Invalid,
}

/// One round. Its outcome is told to the health loop, which reports it.
pub(crate) async fn reconcile(
    store: Arc<MultiActiveStore>,
    context: Arc<Context>,
) -> Result<(), ClientError> {
    if store.meta().deletion_timestamp.is_some() {
        // What is owned goes by itself; what is kept, is kept.
        return Ok(());
    }
    match round(&store, &context).await {
        Ok(done) => {
            context.failures.forget(&store);
            context.health.tell(store, done);
            Ok(())
        }
        Err(error) => {
            // Somebody was faster, and the watch brings what there is now: nothing that a person should know.
            if !error.is_conflict() {
                context.health.tell(store, Round::Failed(error.to_string()));
            }
            Err(error)
        }
    }
}

async fn round(store: &MultiActiveStore, context: &Context) -> Result<Round, ClientError> {
    let meta = store.meta();
    let namespace = Namespace::new(context.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let world = dereference(store, &namespace).await?;
    let mut new_password =
        || rand::rng().sample_iter(Alphanumeric).take(PASSWORD).map(char::from).collect::<String>();
    let checked = match check(&world, &context.catalog, &context.namespace, &mut new_password) {
        Ok(checked) => Arc::new(checked),
        Err(refusal) => {
            tracing::warn!(
                store = meta.name,
                namespace = meta.namespace,
                reason = refusal.reason,
                why = refusal.message,
                "refused"
            );
            return Ok(Round::Refused(refusal));
        }
    };
    if checked.spec.paused {
        return Ok(Round::Paused(checked));
    }
    let (applied, forgotten) = carry_out(&namespace, store, &checked, &context.invalid).await?;
    if forgotten {
        // The name may be that of another region from now on.
        return Box::pin(round(store, context)).await;
    }
    Ok(Round::Applied(checked, applied))
}

/// What was applied, and whether a region that was taken back is forgotten now.
async fn carry_out(
    namespace: &Namespace,
    store: &MultiActiveStore,
    checked: &Checked,
    invalid: &Invalid,
) -> Result<(Applied, bool), ClientError> {
    let meta = store.meta();
    let owner =
        Owner { name: meta.name.clone().unwrap_or_default(), uid: meta.uid.clone().unwrap_or_default() };
    if store.spec.release.is_none() {
        namespace.pin_release(&owner.name, &checked.release).await?;
    }
    let applied = apply(namespace, &owner, build(checked), invalid).await?;
    if !applied.changed.is_empty() {
        let changed = applied.changed.join(", ");
        tracing::info!(store = owner.name, namespace = meta.namespace, changed, "applied");
    }
    let forgotten = remove_leaving(namespace, &owner, checked).await?;
    Ok((applied, forgotten))
}

/// How often a store's rounds have failed, one after the other.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    fn forget(&self, store: &MultiActiveStore) {
        self.counts().remove(&key(store));
    }

    /// Counts one more; how many there are now.
    pub(crate) fn count(&self, store: &MultiActiveStore) -> u32 {
        let mut counts = self.counts();
        let count = counts.entry(key(store)).or_default();
        *count += 1;
        *count
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(store: &MultiActiveStore) -> String {
    store.metadata.uid.clone().unwrap_or_default()
}
