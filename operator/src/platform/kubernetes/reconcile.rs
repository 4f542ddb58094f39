//! One round for one store: dereference, check, build, apply, report. Every round may be the first and may be cut short anywhere:
//! nothing is remembered between two of them but what is in the cluster.

use std::sync::Arc;

use crds::MultiActiveStore;
use jiff::Timestamp;
use kube::core::Resource as _;
use rand::Rng as _;
use rand::distr::Alphanumeric;

use super::apply::{Applied, Owner, apply};
use super::build::build;
use super::catalog::Catalog;
use super::check::{Checked, check};
use super::client::{ClientError, Namespace};
use super::dereference::{World, dereference};
use super::endpoint::Metrics;
use super::status::{Round, build_store, build_waiting_region, update_region, update_store};

/// Characters of a password: about 190 bits.
const PASSWORD: usize = 32;

/// What all rounds share.
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) catalog: Catalog,
    /// Where the operator itself runs.
    pub(crate) namespace: String,
    pub(crate) metrics: Arc<Metrics>,
}

/// One round.
pub(crate) async fn reconcile(
    store: Arc<MultiActiveStore>,
    context: Arc<Context>,
) -> Result<(), ClientError> {
    let meta = store.meta();
    if meta.deletion_timestamp.is_some() {
        // What is owned goes by itself; what is kept, is kept.
        return Ok(());
    }
    let namespace = Namespace::new(context.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let world = dereference(&store, &namespace).await?;
    let mut new_password =
        || rand::rng().sample_iter(Alphanumeric).take(PASSWORD).map(char::from).collect::<String>();
    let checked = match check(&world, &context.catalog, &context.namespace, &mut new_password) {
        Ok(checked) => checked,
        Err(refusal) => {
            tracing::warn!(
                store = meta.name,
                namespace = meta.namespace,
                reason = refusal.reason,
                why = refusal.message,
                "refused"
            );
            return report(&namespace, &world, &Round::Refused(&refusal)).await;
        }
    };
    if checked.spec.paused {
        return report(&namespace, &world, &Round::Paused(&checked)).await;
    }
    let applied = carry_out(&namespace, &store, &checked).await?;
    let round = Round::Applied { store: &checked, taken: &applied.taken };
    report(&namespace, &world, &round).await
}

async fn carry_out(
    namespace: &Namespace,
    store: &MultiActiveStore,
    checked: &Checked,
) -> Result<Applied, ClientError> {
    let meta = store.meta();
    let owner =
        Owner { name: meta.name.clone().unwrap_or_default(), uid: meta.uid.clone().unwrap_or_default() };
    if store.spec.release.is_none() {
        namespace.pin_release(&owner.name, &checked.release).await?;
    }
    let applied = apply(namespace, &owner, build(checked)).await?;
    if !applied.changed.is_empty() {
        let changed = applied.changed.join(", ");
        tracing::info!(store = owner.name, namespace = meta.namespace, changed, "applied");
    }
    Ok(applied)
}

async fn report(namespace: &Namespace, world: &World, round: &Round<'_>) -> Result<(), ClientError> {
    let generation = world.store.metadata.generation;
    if let Round::Applied { store, .. } = round {
        let waiting = store.regions.iter().filter(|region| !region.is_member);
        for row in waiting.filter_map(|region| world.regions.get(&region.spec.name)) {
            update_region(namespace, row, &build_waiting_region(row, generation)).await?;
        }
    }
    let status = build_store(world, round, Timestamp::now());
    update_store(namespace, world, &status).await.map(drop)
}
