//! Reads everything that a store's manifest refers to, and what was made of it before.

use std::collections::{BTreeMap, BTreeSet};

use crds::MultiActiveStore;
use mas_core::config::ProxyConfig;

use super::build::BROKER_FORMED;
use super::client::{ClientError, Namespace};
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
    for region in &store.spec.regions {
        let told = namespace.text(&labels::part_name(&name, &region.name, Part::Proxy), "proxy.json").await?;
        if let Some(config) = told.and_then(|text| serde_json::from_str(&text).ok()) {
            proxy_configs.insert(region.name.clone(), config);
        }
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
    }
    Ok(World {
        store: store.clone(),
        identity: namespace.identity(&labels::identity_name(&name)).await?,
        credentials: namespace.secret(&labels::credentials_name(&name)).await?,
        client,
        proxy_configs,
        proxies,
        ready_brokers,
        formed_brokers,
    })
}
