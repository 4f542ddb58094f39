//! What people order of a store in a cluster, as StoreOperations.

use std::time::{Duration, Instant};

use crds::{OperationAction, OperationPhase, OperationType, StoreOperation, StoreOperationSpec, StoreRef};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::ResourceExt as _;
use serde_json::json;
use tokio::time::sleep;

use super::access::{AccessError, is_conflict};
use super::{POLL, Remote};
use crate::platform::kubernetes::labels;

/// How long the operator is given to refuse an order. One that says nothing until then may be away, and takes it later.
const WORD: Duration = Duration::from_secs(10);

impl Remote {
    /// Orders that a shard is made again from another region's copy; the operation's name. The inner error says why it is refused.
    pub async fn rebuild(
        &self,
        region: &str,
        shard: u16,
        source: Option<&str>,
    ) -> Result<Result<String, String>, AccessError> {
        let store = self.store().await?;
        let known: Vec<&str> = store.spec.regions.iter().map(|region| region.name.as_str()).collect();
        if let Some(name) = [Some(region), source].into_iter().flatten().find(|name| !known.contains(name)) {
            return Ok(Err(format!("there is no region '{name}': the regions are {}", known.join(", "))));
        }
        let shards = store.spec.shards.unwrap_or(1);
        if u32::from(shard) >= shards {
            return Ok(Err(format!("there is no shard {shard}: the store has {shards}, numbered from 0")));
        }
        // There is one for each epoch, whoever makes it.
        let rows = self.rows().await?;
        let row = rows.iter().find(|row| row.spec.region == region).and_then(|row| row.status.as_ref());
        let state = row.and_then(|row| row.shards.iter().find(|state| state.shard == shard));
        let name = labels::rebuild_name(&self.name, region, shard, state.map_or(0, |state| state.epoch));
        let object: StoreOperation = serde_json::from_value(json!({
            "apiVersion": crds::API_VERSION,
            "kind": "StoreOperation",
            "metadata": {"name": name, "labels": {labels::STORE: self.name}},
            "spec": {
                "storeRef": {"name": self.name},
                "type": "Rebuild",
                "region": region,
                "shard": shard,
                "source": source,
            },
        }))
        .map_err(|error| AccessError::Other { what: name.clone(), why: error.to_string() })?;
        match self.api::<StoreOperation>().create(&PostParams::default(), &object).await {
            Ok(made) => self.first_word(&made, name).await,
            Err(error) if is_conflict(&error) => Ok(Err(format!(
                "{name} is there already: see `masctl op show {name}`, or `masctl op retry {name}`"
            ))),
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message)),
            Err(error) => Err(self.cluster.explain(&format!("operation '{name}'"), &error)),
        }
    }

    /// Orders what is over in a moment: another master for a shard, or a comparison of all regions, which have no name and no shard. The
    /// operation's name. The inner error says why it is refused.
    pub async fn start(
        &self,
        kind: OperationType,
        region: &str,
        shard: Option<u16>,
        target: Option<u16>,
    ) -> Result<Result<String, String>, AccessError> {
        let spec = StoreOperationSpec {
            store_ref: StoreRef { name: self.name.clone() },
            kind,
            region: region.to_owned(),
            shard,
            source: None,
            target,
            force: false,
            action: OperationAction::Run,
            attempt: 1,
        };
        let mut object = StoreOperation::new("", spec);
        let about = shard.map(|shard| format!("{region}-{shard}-")).unwrap_or_default();
        let word = format!("{kind:?}").to_lowercase();
        object.metadata.name = None;
        object.metadata.generate_name = Some(format!("{}--{word}--{about}", self.name));
        object.metadata.labels = Some([(labels::STORE.to_owned(), self.name.clone())].into());
        match self.api::<StoreOperation>().create(&PostParams::default(), &object).await {
            Ok(made) => self.first_word(&made, made.name_any()).await,
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message)),
            Err(error) => Err(self.cluster.explain(&format!("an operation of type {kind:?}"), &error)),
        }
    }

    /// Waits for what the operator says of an order that was just made. One that it refuses is taken away again.
    async fn first_word(
        &self,
        made: &StoreOperation,
        name: String,
    ) -> Result<Result<String, String>, AccessError> {
        let api = self.api::<StoreOperation>();
        let explain = |error| self.cluster.explain(&format!("operation '{name}'"), &error);
        let began = Instant::now();
        while began.elapsed() < WORD {
            let now = api.get_opt(&name).await.map_err(explain)?;
            let status = now.and_then(|now| now.status).unwrap_or_default();
            if status.phase == OperationPhase::Failed && status.started_at.is_none() {
                let preconditions = Preconditions { uid: made.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                // Where that is not allowed it stays, and says the same.
                let _ = api.delete(&name, &params).await;
                return Ok(Err(status.message.unwrap_or_default()));
            }
            let is_over = !matches!(status.phase, OperationPhase::Pending | OperationPhase::Running);
            if status.loss.is_some() || status.started_at.is_some() || is_over {
                break;
            }
            sleep(POLL).await;
        }
        Ok(Ok(name))
    }
}
