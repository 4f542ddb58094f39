//! Checks a store against what there is: its manifest, its identity record, its secrets, the catalog. Pure; only what passes
//! here reaches [`super::build`].

use std::collections::BTreeMap;

use mas_core::config::ProxyConfig;

use super::catalog::Catalog;
use super::dereference::World;
use super::identity::{Identity, Removing};
use super::labels;

/// Why nothing is done for a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// PascalCase, for conditions.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A store that may be built.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The manifest with every default.
    pub spec: crds::Validated,
    /// Where it lives.
    pub namespace: String,
    /// What it is, for good.
    pub identity: Identity,
    /// Version of the record that this comes from; empty: there was none.
    pub(crate) identity_version: String,
    /// The entry of the catalog.
    pub release: String,
    /// The entry that a new store would get.
    pub(crate) newest: String,
    pub(crate) passwords: Passwords,
    pub(crate) images: Images,
    pub(crate) regions: Vec<CheckedRegion>,
    /// Regions that leave by their operation. What the manifest said of them is gone: their pods are left as they are.
    pub(crate) removing: Vec<CheckedRegion>,
    /// Regions that are no members any more, or were to join and do not: what was made for them goes.
    pub(crate) leaving: Vec<CheckedRegion>,
    pub(crate) operator_namespace: String,
}

/// One region of the manifest.
#[derive(Clone, Debug)]
pub(crate) struct CheckedRegion {
    pub(crate) spec: crds::Region,
    /// 0 while it is no member.
    pub(crate) id: u16,
    /// Its objects are made. (A plan knows of regions that have no id yet.)
    pub(crate) is_member: bool,
    /// It joins: its operation says when it is a member like the others.
    pub(crate) joining: bool,
    /// It leaves: its operation says how far that is.
    pub(crate) removing: Option<Removing>,
    /// A person says that it is gone for good.
    pub(crate) gone: bool,
    /// Why it is no member, and what to do.
    pub(crate) waits: Option<String>,
    /// What its proxies were told last.
    pub(crate) proxy_config: Option<ProxyConfig>,
    /// Proxies to run now.
    pub(crate) proxy_replicas: u16,
    /// All nodes of its broker have been ready.
    pub(crate) formed: bool,
}

/// All passwords of a store.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Passwords {
    pub(crate) engine: String,
    pub(crate) replication: String,
    pub(crate) cookie: String,
    pub(crate) client_user: String,
    pub(crate) client: String,
    /// By region.
    pub(crate) brokers: BTreeMap<String, BrokerPasswords>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords(..)")
    }
}

/// Those of one region's broker.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct BrokerPasswords {
    pub(crate) proxy: String,
    pub(crate) peers: String,
}

/// What the pods run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Images {
    pub(crate) redis: String,
    pub(crate) broker: String,
    pub(crate) proxy: String,
}

impl Checked {
    /// The store's volumes outlive it, and with them what is needed to use them.
    pub(crate) fn keeps_data(&self) -> bool {
        self.spec.deletion_policy == crds::DeletionPolicy::Retain
    }

    /// Who is counted by the others, and who joins.
    pub(crate) fn members(&self) -> impl Iterator<Item = &CheckedRegion> {
        self.regions.iter().chain(&self.removing).filter(|region| region.is_member)
    }

    pub(crate) fn broker_passwords(&self, region: &str) -> BrokerPasswords {
        self.passwords.brokers.get(region).cloned().unwrap_or_default()
    }
}

/// Checks a store. `new_password` draws one.
pub fn check(
    world: &World,
    catalog: &Catalog,
    operator_namespace: &str,
    new_password: &mut dyn FnMut() -> String,
) -> Result<Checked, Refusal> {
    let refuse = |reason, message: String| Err(Refusal { reason, message });
    let spec = match crds::validate(&crds::manifest_of(&world.store)) {
        Ok(spec) => spec,
        Err(invalid) => return refuse("InvalidSpec", invalid.to_string()),
    };
    let namespace = world.store.metadata.namespace.clone().unwrap_or_default();
    let identity = identity(world, &spec)?;
    let release = spec.release.clone().unwrap_or_else(|| catalog.default.clone());
    let Some(entry) = catalog.releases.get(&release) else {
        let known: Vec<_> = catalog.releases.keys().map(String::as_str).collect();
        return refuse(
            "UnknownRelease",
            format!("spec.release '{release}' is not in the catalog: write {}", known.join(" or ")),
        );
    };
    let image = |own: &Option<crds::Image>, catalog: &super::catalog::CatalogImage| {
        own.as_ref().map_or_else(|| catalog.reference.clone(), |own| own.reference.clone())
    };
    let images = Images {
        redis: image(&spec.redis.image, &entry.redis),
        broker: image(&spec.broker.image, &entry.broker),
        proxy: image(&spec.proxy.image, &entry.proxy),
    };
    let checked = |region: &crds::Region| {
        let member = identity.region(&region.name);
        CheckedRegion {
            spec: region.clone(),
            id: member.map_or(0, |member| member.id),
            is_member: member.is_some_and(|member| member.joining || member.is_member()),
            joining: member.is_some_and(|member| member.joining),
            removing: member.and_then(|member| member.removing),
            gone: member.is_some_and(|member| member.gone.is_some()),
            waits: waits(world, &identity, &spec.name, &region.name),
            proxy_config: world.proxy_configs.get(&region.name).cloned(),
            formed: is_formed(world, &spec, &region.name),
            proxy_replicas: proxy_replicas(world, &spec, &identity, &region.name),
        }
    };
    let regions = spec.regions.iter().map(checked).collect();
    // Of a region that is not in the manifest there is the name, and that it serves nobody.
    let named = |name: &str| crds::Region {
        name: name.to_owned(),
        traffic: crds::Traffic::Drained,
        ..spec.regions[0].clone()
    };
    let removing = identity.regions.iter().filter(|region| region.removing.is_some());
    let removing = removing.map(|region| checked(&named(&region.name))).collect();
    let leaving = identity.regions.iter().filter(|region| region.leaving);
    let leaving = leaving.map(|region| checked(&named(&region.name))).collect();
    let passwords = passwords(world, &spec, &identity, new_password)?;
    let operator_namespace = operator_namespace.to_owned();
    let identity_version = world.identity.as_ref().map(|(_, version)| version.clone()).unwrap_or_default();
    Ok(Checked {
        spec,
        namespace,
        identity,
        identity_version,
        release,
        newest: catalog.default.clone(),
        passwords,
        images,
        regions,
        removing,
        leaving,
        operator_namespace,
    })
}

/// Why a region of the manifest is no member.
fn waits(world: &World, identity: &Identity, store: &str, region: &str) -> Option<String> {
    let known = identity.region(region);
    if known.is_some_and(|known| known.removing == Some(Removing::Forgotten)) {
        return Some("is being removed: it joins as a new region when that is done".into());
    }
    if known.is_some_and(|known| known.leaving) {
        return Some("has left, or was taken back: what was made for it is being deleted".into());
    }
    if identity.taken_back.iter().any(|name| name == region) {
        return Some("was taken back: take it out of spec.regions; to try again, add it again".into());
    }
    let claim = world.old_claims.get(region)?;
    Some(format!(
        "waits until the volumes of an earlier region of that name are gone, for what is in them is not of this one: \
         kubectl delete pvc -l {}={store},{}={}",
        labels::STORE,
        labels::REGION_ID,
        claim.region_id,
    ))
}

/// Until a store is founded, and while a region joins: no proxy before all nodes of its region's broker are ready, and then one, which declares the streams alone.
/// RabbitMQ 3.10 forms its coordinator of streams at the first declaration, of the nodes that are there; and two at once make two.
fn proxy_replicas(world: &World, spec: &crds::Validated, identity: &Identity, region: &str) -> u16 {
    let wanted = spec.proxy.replicas;
    let joining = identity.region(region).is_some_and(|region| region.joining);
    if (identity.founded.is_some() && !joining) || spec.broker.replicas == 1 {
        return wanted;
    }
    let running = world.proxies.get(region).copied().unwrap_or_default();
    running.max(u16::from(is_formed(world, spec, region))).min(wanted)
}

fn is_formed(world: &World, spec: &crds::Validated, region: &str) -> bool {
    let ready = world.ready_brokers.get(region).copied().unwrap_or_default();
    world.formed_brokers.contains(region) || ready >= spec.broker.replicas
}

/// The record that there is, with new regions taken in, or a new one.
fn identity(world: &World, spec: &crds::Validated) -> Result<Identity, Refusal> {
    let name = labels::identity_name(&spec.name);
    let Some((text, _)) = &world.identity else { return Ok(Identity::new(spec)) };
    let mut identity = Identity::parse(text).map_err(|why| Refusal {
        reason: "RetainedDataMismatch",
        message: format!(
            "the identity record (ConfigMap {name}) cannot be read ({why}): give back a copy of it"
        ),
    })?;
    let mismatch = |message: String| Err(Refusal { reason: "RetainedDataMismatch", message });
    if identity.shards != spec.shards {
        return mismatch(format!(
            "the volumes hold {} shards (ConfigMap {name}) and the manifest says {}: write spec.shards: {}",
            identity.shards, spec.shards, identity.shards
        ));
    }
    if let Some((region, why)) = identity.keeps_from_leaving(spec) {
        return Err(Refusal {
            reason: "CannotLeave",
            message: format!("region '{region}' cannot leave: {why}"),
        });
    }
    identity.take_in(spec, |region| !world.old_claims.contains_key(region));
    Ok(identity)
}

fn passwords(
    world: &World,
    spec: &crds::Validated,
    identity: &Identity,
    new_password: &mut dyn FnMut() -> String,
) -> Result<Passwords, Refusal> {
    let name = labels::credentials_name(&spec.name);
    if world.credentials.is_none() && identity.founded.is_some() {
        return Err(Refusal {
            reason: "RetainedDataMismatch",
            message: format!(
                "the Secret {name} is gone, and the volumes cannot be used without it: give it back"
            ),
        });
    }
    let empty = BTreeMap::new();
    let known = world.credentials.as_ref().unwrap_or(&empty);
    let mut of = |key: &str| known.get(key).cloned().unwrap_or_else(&mut *new_password);
    let brokers = identity.regions.iter().map(|region| {
        let name = &region.name;
        let passwords =
            BrokerPasswords { proxy: of(&format!("broker-{name}")), peers: of(&format!("peers-{name}")) };
        (name.clone(), passwords)
    });
    let brokers = brokers.collect();
    let (client_user, client) = match (&spec.auth_secret, &world.client) {
        (None, _) => ("default".to_owned(), of("client")),
        (Some(_), Some((user, password))) => (user.clone(), password.clone()),
        (Some(secret), None) => {
            return Err(Refusal {
                reason: "SecretMissing",
                message: format!(
                    "spec.auth.secretRef names the Secret '{secret}', which does not exist or has no key 'password': make it, or leave out spec.auth"
                ),
            });
        }
    };
    Ok(Passwords {
        engine: of("engine"),
        replication: of("replication"),
        cookie: of("erlang-cookie"),
        client_user,
        client,
        brokers,
    })
}
