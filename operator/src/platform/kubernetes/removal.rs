//! Takes away what was made for a region that has left, or was to join and does not. Its volumes go with their StatefulSets, or stay, as `deletionPolicy`
//! says.

use super::apply::Owner;
use super::build::of_region;
use super::check::{Checked, CheckedRegion};
use super::client::{ClientError, Namespace};
use super::identity::Identity;
use super::labels;

/// Deletes it; whether a region is forgotten now, for nothing was left of it.
pub(super) async fn remove_leaving(
    namespace: &Namespace,
    owner: &Owner,
    store: &Checked,
) -> Result<bool, ClientError> {
    let mut forgotten = false;
    for region in &store.leaving {
        if !remove(namespace, owner, store, region).await? {
            forgotten |= forget(namespace, store, region).await?;
        }
    }
    Ok(forgotten)
}

/// Whether there was something.
async fn remove(
    namespace: &Namespace,
    owner: &Owner,
    store: &Checked,
    region: &CheckedRegion,
) -> Result<bool, ClientError> {
    let id = region.id.to_string();
    let mut deleted = Vec::new();
    for object in of_region(store, region) {
        let Some(live) = namespace.get(object.kind, &object.name).await? else { continue };
        let of = live.metadata.labels.as_ref().and_then(|labels| labels.get(labels::REGION_ID));
        let mut owners = live.metadata.owner_references.iter().flatten();
        let ours = owners.any(|of| of.controller == Some(true) && of.uid == owner.uid);
        if !ours || of != Some(&id) {
            continue;
        }
        namespace.delete(object.kind, &object.name, live.metadata.uid.as_deref().unwrap_or_default()).await?;
        deleted.push(format!("{} {}", object.kind, object.name));
    }
    if !deleted.is_empty() {
        let deleted = deleted.join(", ");
        tracing::info!(
            store = owner.name,
            region = region.spec.name,
            deleted,
            "a region is no member: deleted"
        );
        return Ok(true);
    }
    Ok(false)
}

async fn forget(namespace: &Namespace, store: &Checked, region: &CheckedRegion) -> Result<bool, ClientError> {
    let name = labels::identity_name(&store.spec.name);
    let Some((text, version)) = namespace.identity(&name).await? else { return Ok(false) };
    let Ok(mut identity) = Identity::parse(&text) else { return Ok(false) };
    if !identity.forget(region.id) {
        return Ok(false);
    }
    namespace.write_identity(&name, &identity.text(), &version).await?;
    Ok(true)
}
