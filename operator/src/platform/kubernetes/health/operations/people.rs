//! What people order: taken or refused in words, adopted, and what it puts away.

use std::sync::Arc;

use crds::StoreOperation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ResourceExt as _;
use serde_json::json;

use super::rebuild::is_under_way;
use super::{Held, RegionHandle, Runner, of_store};
use crate::operations::rebuild::{self, Wanted};
use crate::operations::scale_out::ActionError;
use crate::platform::kubernetes::client::{ClientError, Namespace};
use crate::platform::kubernetes::labels;

impl Runner {
    /// Why a shard is not rebuilt on order.
    pub(super) fn refused(
        &self,
        region: &RegionHandle,
        shard: u16,
        object: &StoreOperation,
    ) -> Option<String> {
        let same = |of: &StoreOperation| {
            (&of.spec.region, of.spec.shard) == (&object.spec.region, object.spec.shard)
                && of.metadata.uid != object.metadata.uid
        };
        let all = of_store(&self.shared, &self.namespace, &self.store);
        if let Some(other) = all.iter().find(|of| is_under_way(of) && same(of)) {
            return Some(format!("{} is under way", other.name_any()));
        }
        let source = object.spec.source.as_ref();
        let serves = |of: &&RegionHandle| {
            let served =
                of.shards.get(usize::from(shard)).is_some_and(|of| of.view.borrow().master.is_some());
            served && source.is_none_or(|source| *source == of.name)
        };
        let reports = Self::reports(region);
        let mut links = reports.iter().flat_map(|report| &report.links);
        let view =
            region.shards.get(usize::from(shard)).map(|of| of.view.borrow().clone()).unwrap_or_default();
        rebuild::refusal(&Wanted {
            about: format!("{}/shard-{shard}", region.name),
            place: self.place(region, shard),
            members: self.servers(region, shard),
            master: view.master,
            lapsed: links.any(|link| link.shard == Some(shard) && link.state == "Lapsed"),
            stuck: view.notices.iter().any(|notice| notice.reason == "ActionFailed"),
            sources: self.serving(region, Some(shard)).filter(serves).count(),
        })
    }

    /// What a person has made gets the store's labels, and goes with it; whether that was to be done.
    pub(super) async fn adopt(&self, object: &StoreOperation, held: &mut Held) -> Result<bool, ActionError> {
        let store = Arc::clone(&self.latest.borrow().store);
        let id = self.regions.iter().find(|of| of.name == object.spec.region).map(|of| of.id);
        let wanted = match id {
            Some(id) => labels::region(&self.store, &object.spec.region, id),
            None => labels::store(&self.store),
        };
        let has = |(key, value): (&String, &serde_json::Value)| {
            object.labels().get(key).map(String::as_str) == value.as_str()
        };
        let labelled = wanted.as_object().is_some_and(|wanted| wanted.iter().all(has));
        let owned = !object.owner_references().is_empty();
        if labelled && owned {
            return Ok(false);
        }
        let store_as_owner = OwnerReference {
            api_version: crds::API_VERSION.into(),
            kind: crds::KIND.into(),
            name: self.store.clone(),
            uid: store.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let mut metadata = json!({"labels": wanted});
        if !owned {
            metadata["ownerReferences"] = json!([store_as_owner]);
        }
        let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
        let over = object.metadata.resource_version.clone();
        let patched = namespace.patch_operation(&object.name_any(), over.as_deref(), &metadata).await;
        held.written = patched.as_ref().ok().map(|patched| (over, patched.clone()));
        patched.map(|_| true).map_err(|error| ActionError::Platform(error.to_string()))
    }

    /// Deletes the claim and the pod of a member that holds what cannot be used. A person has ordered it.
    pub(super) async fn discard(
        &self,
        region: &RegionHandle,
        shard: u16,
        member: usize,
        object: &StoreOperation,
    ) -> Result<(), ActionError> {
        let name = region.shards.get(usize::from(shard)).and_then(|of| of.names.get(member));
        // One that has gone comes again, and is looked at anew.
        let Some(pod) = name.and_then(|name| self.shared.pods.pod(&self.namespace, name)) else {
            return Ok(());
        };
        let (name, meta) = (pod.name_any(), &pod.metadata);
        let (Some(uid), Some(made)) = (&meta.uid, &meta.creation_timestamp) else { return Ok(()) };
        let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
        let fail = |error: ClientError| ActionError::Platform(error.to_string());
        // The claim first: it goes with the pod, and the next pod gets another one.
        namespace.delete_claim(&format!("data-{name}"), made).await.map_err(fail)?;
        if namespace.delete_pod(&name, uid).await.map_err(fail)? {
            let order = object.name_any();
            tracing::warn!(pod = name, order, "the pod and its claim are deleted");
            let words = format!("{name} and its claim are deleted, as {order} orders");
            self.tell(true, "SetAside", words).await;
        }
        Ok(())
    }
}
