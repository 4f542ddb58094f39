//! Reads everything that a store's manifest refers to, and what was made of it before.

use std::collections::BTreeMap;

use crds::{MultiActiveStore, StoreRegion};
use mas_core::config::ProxyConfig;

use super::client::{ClientError, Namespace};
use super::identity::KEY;
use super::labels::{self, Part};
use super::object::Kind;

/// What there is.
#[derive(Clone, Debug)]
pub struct World {
    /// The store as it was read.
    pub store: MultiActiveStore,
    /// The text of its identity record.
    pub identity: Option<String>,
    /// Its passwords.
    pub credentials: Option<BTreeMap<String, String>>,
    /// The client's credentials, where the manifest names a Secret: user and password.
    pub client: Option<(String, String)>,
    /// What each region's proxies were told last.
    pub proxy_configs: BTreeMap<String, ProxyConfig>,
    /// The regions' rows.
    pub regions: BTreeMap<String, StoreRegion>,
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
    let mut regions = BTreeMap::new();
    for region in &store.spec.regions {
        let of = region.name.clone();
        let told = namespace.text(&labels::part_name(&name, &of, Part::Proxy), "proxy.json").await?;
        if let Some(config) = told.and_then(|text| serde_json::from_str(&text).ok()) {
            proxy_configs.insert(of.clone(), config);
        }
        let row = namespace.get(Kind::StoreRegion, &labels::region_name(&name, &of)).await?;
        if let Some(row) = row.and_then(|row| row.try_parse().ok()) {
            regions.insert(of, row);
        }
    }
    Ok(World {
        store: store.clone(),
        identity: namespace.text(&labels::identity_name(&name), KEY).await?,
        credentials: namespace.secret(&labels::credentials_name(&name)).await?,
        client,
        proxy_configs,
        regions,
    })
}
