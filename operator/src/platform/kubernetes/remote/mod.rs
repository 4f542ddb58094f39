//! A store in a cluster as people look at it from outside: `masctl --namespace NAME ...` and `kubectl mas`. Reads with the rights of whoever
//! asks, says what those do not reach, and changes nothing but the annotation that asks for a verification.

mod access;
mod bundle;
mod forward;
mod orders;
mod plan;
mod view;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::{
    MultiActiveStore, OperationAction, OperationPhase, OperationType, StoreOperation, StoreOperationSpec,
    StoreRef, StoreRegion, VerificationStatus,
};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use tokio::time::sleep;

use access::{Cluster, connect, words};
use forward::ForwardError;
use view::Seen;

use super::build::{admin_port, client_port};
use super::health::{ANNOTATION, PodProcess};
use super::labels::{self, Part};
use crate::health::proxy::{ProxyReport, parse_report};
use crate::view::{Condition, Endpoint, OperationRow, ProcessRow, StoreStatus};

pub use access::{Access, AccessError};
pub use plan::{Expected, PlanError};

/// Reason of the note that proxies could not be asked.
pub const NO_LIVE_NUMBERS: &str = "NoLiveNumbers";

/// How often the operator's answer is looked for.
const POLL: Duration = Duration::from_secs(1);

/// One store of a cluster.
pub struct Remote {
    cluster: Cluster,
    name: String,
}

impl Remote {
    /// The store of that name; without one, the only store of the namespace.
    pub async fn find(access: &Access, name: Option<&str>) -> Result<Self, AccessError> {
        let cluster = connect(access).await?;
        let namespace = cluster.namespace.clone();
        if let Some(name) = name {
            let remote = Self { cluster, name: name.to_owned() };
            remote.store().await?;
            return Ok(remote);
        }
        let mut known = stores(&cluster).await?;
        match (known.pop(), known.is_empty()) {
            (None, _) => Err(AccessError::NoStore(namespace)),
            (Some(name), true) => Ok(Self { cluster, name }),
            (Some(last), false) => {
                known.push(last);
                Err(AccessError::SeveralStores { namespace, known })
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is.
    pub async fn status(&self) -> Result<StoreStatus, AccessError> {
        let mut notes = Vec::new();
        let store = self.store().await?;
        let rows = self.read::<StoreRegion>("regions (StoreRegion)", &mut notes).await;
        let operations = self.read::<StoreOperation>("operations (StoreOperation)", &mut notes).await;
        let pods = self.read::<Pod>("pods", &mut notes).await;
        let reports = self.ask_proxies(&pods, &mut notes).await;
        Ok(view::build_status(&Seen { store, rows, operations, pods, reports, notes }))
    }

    /// The store's operations, the oldest first.
    pub async fn operations(&self) -> Result<Vec<OperationRow>, AccessError> {
        let what = format!("the operations of store '{}'", self.name);
        let list = self.api::<StoreOperation>().list(&self.ours()).await;
        Ok(view::build_operations(list.map_err(|error| self.cluster.explain(&what, &error))?.items))
    }

    async fn rows(&self) -> Result<Vec<StoreRegion>, AccessError> {
        let what = format!("the regions of store '{}'", self.name);
        let list = self.api::<StoreRegion>().list(&self.ours()).await;
        Ok(list.map_err(|error| self.cluster.explain(&what, &error))?.items)
    }

    /// Has the operator try a failed operation again, or take one back. The inner error says why there is nothing to do.
    pub async fn order(&self, name: &str, rollback: bool) -> Result<Result<(), String>, AccessError> {
        let what = format!("operation '{name}'");
        let api = self.api::<StoreOperation>();
        let explain = |error| self.cluster.explain(&what, &error);
        let Some(operation) = api.get_opt(name).await.map_err(explain)? else {
            let known: Vec<String> = self.operations().await?.into_iter().map(|row| row.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Ok(Err(format!("there is no operation '{name}': there are {known}")));
        };
        let phase = operation.status.as_ref().map_or(OperationPhase::Pending, |status| status.phase);
        if let Some(why) = crate::operations::nothing_to_order(name, phase, rollback) {
            return Ok(Err(why));
        }
        if rollback && operation.spec.kind == OperationType::Remove {
            return Ok(Err(format!(
                "write the region '{}' into the manifest again, and apply it: then it stays",
                operation.spec.region
            )));
        }
        let spec = if rollback {
            serde_json::json!({"action": "Rollback"})
        } else {
            serde_json::json!({"attempt": operation.spec.attempt + 1})
        };
        let version = &operation.metadata.resource_version;
        let patch = serde_json::json!({"metadata": {"resourceVersion": version}, "spec": spec});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(explain)?;
        Ok(Ok(()))
    }

    /// Declares a region gone for good that leaves: makes the operation, and returns its name. Without `force`, takes that back. The inner
    /// error says why there is nothing to do.
    pub async fn remove(&self, region: &str, force: bool) -> Result<Result<String, String>, AccessError> {
        let row = labels::region_name(&self.name, region);
        let what = format!("region '{region}' (StoreRegion {row})");
        let explain = |error| self.cluster.explain(&what, &error);
        let Some(known) = self.api::<StoreRegion>().get_opt(&row).await.map_err(explain)? else {
            return Ok(Err(format!("there is no region '{region}' in store '{}'", self.name)));
        };
        if self.store().await?.spec.regions.iter().any(|of| of.name == region) {
            return Ok(Err(format!(
                "region '{region}' is in the manifest: take it out of spec.regions and apply that; what is gone for good can be declared so then"
            )));
        }
        let api = self.api::<StoreOperation>();
        let name = labels::forced_removal_name(&self.name, region, known.spec.id);
        let what = format!("operation '{name}'");
        let explain = |error| self.cluster.explain(&what, &error);
        if !force {
            let deleted = api.delete(&name, &kube::api::DeleteParams::default()).await;
            deleted.map_err(explain)?;
            return Ok(Ok(labels::removal_name(&self.name, region, known.spec.id)));
        }
        let spec = StoreOperationSpec {
            store_ref: StoreRef { name: self.name.clone() },
            kind: OperationType::Remove,
            region: region.to_owned(),
            shard: None,
            source: None,
            target: None,
            force: true,
            action: OperationAction::Run,
            attempt: 1,
        };
        let made = api.create(&PostParams::default(), &StoreOperation::new(&name, spec)).await;
        made.map_err(explain)?;
        Ok(Ok(name))
    }

    /// The metrics of a proxy, one of the rows of the status.
    pub async fn metrics(&self, proxy: &ProcessRow) -> Option<String> {
        forward::get(&self.api(), proxy.pod.as_ref()?, "/metrics").await.ok()
    }

    /// Where clients connect, with the password of the application's Secret; and what could not be read.
    pub async fn endpoints(&self) -> Result<(Vec<Endpoint>, Vec<String>), AccessError> {
        let store = self.store().await?;
        let (mut endpoints, mut notes) = (Vec::new(), Vec::new());
        for region in &store.spec.regions {
            let secret = labels::app_name(&self.name, &region.name);
            let login = match self.api::<Secret>().get(&secret).await {
                Ok(secret) => login(&secret),
                Err(error) => {
                    notes.push(format!("{} has no password here: {}", region.name, words(&error)));
                    None
                }
            };
            let endpoint = |address: String, balanced| Endpoint {
                region: region.name.clone(),
                address,
                login: login.clone(),
                balanced,
            };
            endpoints.push(endpoint(
                super::status::endpoint(&self.name, &region.name, &self.cluster.namespace),
                false,
            ));
            let service = self.api::<Service>().get_opt(&labels::region_name(&self.name, &region.name)).await;
            match service {
                Ok(service) => {
                    let hosts = service.iter().flat_map(balancers);
                    endpoints.extend(hosts.map(|host| endpoint(format!("{host}:{}", client_port()), true)));
                }
                Err(error) => notes.push(format!("load balancers of {}: {}", region.name, words(&error))),
            }
        }
        Ok((endpoints, notes))
    }

    /// Has the operator compare what the regions hold, by an annotation, and waits for its answer in the status.
    pub async fn verify(
        &self,
        repair: bool,
        sample_percent: Option<u8>,
        limit: Duration,
    ) -> Result<VerificationStatus, AccessError> {
        let mut request = format!("{} {}", jiff::Timestamp::now(), if repair { "repair" } else { "report" });
        if let Some(percent) = sample_percent {
            request = format!("{request} sample={percent}");
        }
        let patch = serde_json::json!({"metadata": {"annotations": {ANNOTATION: request}}});
        let api = self.api::<MultiActiveStore>();
        let asked = api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        asked.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 403 => AccessError::MayNotAsk(status.message.clone()),
            _ => self.cluster.explain("the answer to the annotation of the store", &error),
        })?;
        let began = Instant::now();
        loop {
            let answer = self.store().await?.status.and_then(|status| status.verification);
            if let Some(answer) = answer.filter(|answer| answer.request.as_ref() == Some(&request)) {
                return Ok(answer);
            }
            if began.elapsed() > limit {
                return Err(AccessError::NoAnswer { seconds: limit.as_secs() });
            }
            sleep(POLL).await;
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    /// All of a kind that belong to the store.
    fn ours(&self) -> ListParams {
        ListParams::default().labels(&format!("{}={}", labels::STORE, self.name))
    }

    async fn store(&self) -> Result<MultiActiveStore, AccessError> {
        let what = format!("store '{}'", self.name);
        let found = self.api::<MultiActiveStore>().get_opt(&self.name).await;
        match found.map_err(|error| self.cluster.explain(&what, &error))? {
            Some(store) => Ok(store),
            None => Err(AccessError::NoSuchStore {
                wanted: self.name.clone(),
                namespace: self.cluster.namespace.clone(),
                known: stores(&self.cluster).await?,
            }),
        }
    }

    /// What cannot be read is left out, and noted.
    async fn read<K>(&self, what: &str, notes: &mut Vec<Condition>) -> Vec<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        match self.api::<K>().list(&self.ours()).await {
            Ok(list) => list.items,
            Err(error) => {
                notes.push(Condition::note(what, "NotRead", words(&error)));
                Vec::new()
            }
        }
    }

    /// What the proxies that run say of themselves, by region.
    async fn ask_proxies(
        &self,
        pods: &[Pod],
        notes: &mut Vec<Condition>,
    ) -> BTreeMap<String, Vec<ProxyReport>> {
        let api = self.api::<Pod>();
        let asked = running_proxies(pods).map(async |(region, pod)| {
            let answer = forward::get(&api, pod, "/status").await;
            (region, pod, answer)
        });
        let mut reports: BTreeMap<String, Vec<ProxyReport>> = BTreeMap::new();
        for (region, pod, answer) in join_all(asked).await {
            match answer {
                Ok(body) => reports.entry(region.to_owned()).or_default().extend(parse_report(&body)),
                Err(ForwardError::Forbidden(why)) => {
                    // One note for all: the right is the same.
                    let words = format!(
                        "lags and states are as the operator wrote them, rounded up: exact ones come from the proxies, through the rights \
                         get and create of pods/portforward ({why})"
                    );
                    notes.retain(|note| note.reason != NO_LIVE_NUMBERS);
                    notes.push(Condition::note(&self.name, NO_LIVE_NUMBERS, words));
                    return BTreeMap::new();
                }
                Err(error) => notes.push(Condition::note(pod, NO_LIVE_NUMBERS, error.to_string())),
            }
        }
        reports
    }
}

/// Names of the stores of the namespace.
async fn stores(cluster: &Cluster) -> Result<Vec<String>, AccessError> {
    let what = format!("the stores of namespace '{}'", cluster.namespace);
    let api: Api<MultiActiveStore> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let list = api.list(&ListParams::default()).await.map_err(|error| cluster.explain(&what, &error))?;
    Ok(list.items.into_iter().filter_map(|store| store.metadata.name).collect())
}

/// Region and pod of each proxy whose container runs.
fn running_proxies(pods: &[Pod]) -> impl Iterator<Item = (&str, &str)> {
    pods.iter().filter_map(|pod| {
        let is_proxy = labels::part_of(pod) == Some(Part::Proxy);
        let runs = PodProcess::of(pod, Part::Proxy, admin_port()).reachable().is_some();
        let region = pod.metadata.labels.as_ref()?.get(labels::REGION)?;
        Some((region.as_str(), pod.metadata.name.as_deref()?)).filter(|_| is_proxy && runs)
    })
}

fn login(secret: &Secret) -> Option<(String, String)> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some((text("username")?, text("password")?))
}

/// Addresses of a Service's load balancers.
fn balancers(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|of| of.hostname.clone().or_else(|| of.ip.clone())).collect()
}
