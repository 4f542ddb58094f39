//! Reads everything that a store's manifest refers to, and what was made of it before.

use std::collections::{BTreeMap, BTreeSet};

use crds::MultiActiveStore;
use mas_core::config::ProxyConfig;

use super::build::BROKER_FORMED;
use super::client::{ClientError, Namespace, OldClaim};
use super::identity::Identity;
use super::labels::{self, Part};
use super::object::Kind;

/// What there is.
#[derive(Clone, Debug)]
pub struct World {
    /// The store as it was read.
    pub store: MultiActiveStore,
    /// The text of its identity record, and its version.
    pub identity: Option<(String, String)>,
    /// Its passwords.
    pub credentials: Option<BTreeMap<String, String>>,
    /// The client's credentials, where the manifest names a Secret: user and password.
    pub client: Option<(String, String)>,
    /// What each region's proxies were told last.
    pub proxy_configs: BTreeMap<String, ProxyConfig>,
    /// How many proxies each region's Deployment has; only of interest before the store is founded.
    pub proxies: BTreeMap<String, u16>,
    /// How many nodes of each region's broker are ready; the same.
    pub ready_brokers: BTreeMap<String, u16>,
    /// Regions whose brokers' nodes were told that all of them have been ready.
    pub formed_brokers: BTreeSet<String>,
    /// A claim that an earlier region of that name has left, of each region that would be new to a founded store.
    pub(crate) old_claims: BTreeMap<String, OldClaim>,
}

/// Reads all of it.
pub(crate) async fn dereference(
    store: &MultiActiveStore,
    namespace: &Namespace,
) -> Result<World, ClientError> {
    let name = store.metadata.name.clone().unwrap_or_default();
    let client = match &store.spec.auth {
        None => None,
        Some(auth) => namespace.secret(&auth.secret_ref.name).await?.and_then(|mut data| {
            let user = data.remove("username").unwrap_or_else(|| "default".into());
            Some((user, data.remove("password")?))
        }),
    };
    let mut proxy_configs = BTreeMap::new();
    let (mut proxies, mut ready_brokers) = (BTreeMap::new(), BTreeMap::new());
    let mut formed_brokers = BTreeSet::new();
    let identity = namespace.identity(&labels::identity_name(&name)).await?;
    let record = identity.as_ref().and_then(|(text, _)| Identity::parse(text).ok());
    let mut old_claims = BTreeMap::new();
    let known = record.iter().flat_map(|record| &record.regions);
    let removing: Vec<&String> = known.filter(|of| of.removing.is_some()).map(|of| &of.name).collect();
    for region in store.spec.regions.iter().map(|region| &region.name).chain(removing) {
        let told = namespace.text(&labels::part_name(&name, region, Part::Proxy), "proxy.json").await?;
        if let Some(config) = told.and_then(|text| serde_json::from_str(&text).ok()) {
            proxy_configs.insert(region.clone(), config);
        }
    }
    for region in &store.spec.regions {
        let of_part = |part| labels::part_name(&name, &region.name, part);
        if let Some(number) =
            namespace.number(Kind::Deployment, &of_part(Part::Proxy), "/spec/replicas").await?
        {
            proxies.insert(region.name.clone(), number);
        }
        let broker = of_part(Part::Broker);
        if let Some(number) = namespace.number(Kind::StatefulSet, &broker, "/status/readyReplicas").await? {
            ready_brokers.insert(region.name.clone(), number);
        }
        if namespace.text(&broker, BROKER_FORMED).await?.is_some() {
            formed_brokers.insert(region.name.clone());
        }
        let is_new = |record: &Identity| record.founded.is_some() && record.region(&region.name).is_none();
        if record.as_ref().is_some_and(is_new)
            && let Some(claim) = old_claim(store, namespace, &region.name).await?
        {
            old_claims.insert(region.name.clone(), claim);
        }
    }
    Ok(World {
        store: store.clone(),
        identity,
        credentials: namespace.secret(&labels::credentials_name(&name)).await?,
        client,
        proxy_configs,
        proxies,
        ready_brokers,
        formed_brokers,
        old_claims,
    })
}

/// A claim that the pods of a region would find.
async fn old_claim(
    store: &MultiActiveStore,
    namespace: &Namespace,
    region: &str,
) -> Result<Option<OldClaim>, ClientError> {
    let name = store.metadata.name.as_deref().unwrap_or_default();
    let number = |number: Option<u32>, default| u16::try_from(number.unwrap_or(default)).unwrap_or(u16::MAX);
    let members = number(store.spec.redis.as_ref().and_then(|redis| redis.replicas), 1) + 1;
    let nodes = number(store.spec.broker.as_ref().and_then(|broker| broker.replicas), 3);
    let shards =
        (0..number(store.spec.shards, 1)).map(|shard| (labels::shard_name(name, region, shard), members));
    let broker = (labels::part_name(name, region, Part::Broker), nodes);
    for (set, replicas) in shards.chain([broker]) {
        for ordinal in 0..replicas {
            if let Some(claim) = namespace.old_claim(&format!("data-{set}-{ordinal}")).await? {
                return Ok(Some(claim));
            }
        }
    }
    Ok(None)
}
