//! What applying a manifest would change: the operator's own checks and objects, compared with what there is, as it compares before it
//! applies. Writes nothing; the API server is asked for its own rules by a dry run, where that is allowed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crds::MultiActiveStore;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::Remote;
use super::access::{Access, AccessError, Cluster, connect, is_forbidden, words};
use crate::platform::kubernetes::apply::{Difference, Field, Owner, compare, complete};
use crate::platform::kubernetes::build::build;
use crate::platform::kubernetes::catalog::{Catalog, CatalogImage, Release};
use crate::platform::kubernetes::check::{Checked, CheckedRegion, check};
use crate::platform::kubernetes::client::{ClientError, Namespace};
use crate::platform::kubernetes::dereference::{World, dereference};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::{Kind, Object};

/// What masctl cannot see of the operator.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Its release catalog [default: the built-in one, and for a release that runs, the images that run].
    pub catalog: Option<Catalog>,
    /// Where it runs [default: what the store's NetworkPolicies say].
    pub operator_namespace: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The cluster cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Something could not be read.
    #[error("{0}; docs/masctl.md lists the rights that are needed")]
    Read(String),
    /// The API server would not take the manifest.
    #[error("the API server would refuse it: {0}")]
    Refused(String),
    /// The operator would not act upon it.
    #[error("the operator would refuse it ({reason}): {message}")]
    NotCarriedOut {
        /// The condition's reason.
        reason: &'static str,
        /// What to do.
        message: String,
    },
}

impl From<ClientError> for PlanError {
    fn from(error: ClientError) -> Self {
        Self::Read(error.to_string())
    }
}

/// What becomes of one object.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Created,
    Changed(Vec<Field>),
    Unchanged,
    /// It belongs to somebody else.
    Taken,
    /// It could not be compared.
    Unknown(String),
}

impl Remote {
    /// What applying a manifest would change in its namespace, in words.
    pub async fn plan(
        access: &Access,
        manifest: &crds::Manifest,
        expected: &Expected,
    ) -> Result<String, PlanError> {
        let cluster = connect(access).await?;
        let name = &manifest.metadata.name;
        let api: Api<MultiActiveStore> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let live =
            api.get_opt(name).await.map_err(|error| cluster.explain(&format!("store '{name}'"), &error))?;
        let wanted = wanted(manifest, live.as_ref(), &cluster.namespace);
        let asked = ask_server(live.as_ref(), &wanted, &cluster).await?;

        let mut namespace = Namespace::new(cluster.client.clone(), &cluster.namespace);
        let world = match dereference(&wanted, &namespace).await {
            Err(error) if error.is_forbidden() && error.is_about(Kind::Secret) => {
                namespace = namespace.without_secrets();
                dereference(&wanted, &namespace).await?
            }
            other => other?,
        };
        let catalog = match &expected.catalog {
            Some(catalog) => catalog.clone(),
            None => catalog_of(&namespace, live.as_ref()).await,
        };
        let operator = match &expected.operator_namespace {
            Some(name) => name.clone(),
            None => {
                operator_namespace(&namespace, &wanted).await.unwrap_or_else(|| "multiactive-system".into())
            }
        };
        let (objects, leaving) = desired(&world, &catalog, &operator)?;
        let uid = live.as_ref().and_then(|live| live.metadata.uid.clone()).unwrap_or_default();
        let owner = Owner { name: name.clone(), uid };
        let mut fates = Vec::new();
        for object in objects {
            let object = complete(object, &owner);
            let fate = fate(&namespace, &object, &owner).await;
            fates.push((object, fate));
        }
        let mut text = render(&fates);
        text.extend(leaving.iter().map(|line| format!("{line}\n")));
        if wanted.spec.paused == Some(true) {
            text.push_str("The store is paused: nothing of this is done until spec.paused is taken away.\n");
        }
        if !asked {
            text.push_str(
                "The API server was not asked whether it takes the manifest (volumes only grow, shards cannot change ...): that needs the right \
                 to create or update multiactivestores; nothing would be stored.\n",
            );
        }
        Ok(text)
    }
}

/// The store as it would be: a release that was pinned stays.
fn wanted(manifest: &crds::Manifest, live: Option<&MultiActiveStore>, namespace: &str) -> MultiActiveStore {
    let mut wanted = live
        .cloned()
        .unwrap_or_else(|| MultiActiveStore::new(&manifest.metadata.name, manifest.spec.clone()));
    let pinned = wanted.spec.release.take();
    wanted.spec = manifest.spec.clone();
    wanted.spec.release = wanted.spec.release.take().or(pinned);
    wanted.metadata.namespace = Some(namespace.to_owned());
    wanted
}

/// Asks the API server whether it would take the manifest; whether that was allowed.
async fn ask_server(
    live: Option<&MultiActiveStore>,
    wanted: &MultiActiveStore,
    cluster: &Cluster,
) -> Result<bool, PlanError> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let kind = ApiResource::erase::<MultiActiveStore>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &kind);
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    let body = serde_json::from_value(without_nulls(json!(wanted)));
    let body: DynamicObject = body.map_err(|error| PlanError::Read(error.to_string()))?;
    let answer = match live {
        None => api.create(&params, &body).await,
        Some(_) => replace(&api, name, &params, body).await,
    };
    match answer {
        Ok(_) => Ok(true),
        // A quota forbids, too, in other words.
        Err(error) if is_forbidden(&error) && words(&error).contains(" cannot ") => Ok(false),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 409 | 422) => {
            Err(PlanError::Refused(status.message.clone()))
        }
        Err(error) => Err(cluster.explain("the answer to a dry run", &error).into()),
    }
}

/// Over whatever version there is: the operator writes the store's status meanwhile.
async fn replace(
    api: &Api<DynamicObject>,
    name: &str,
    params: &PostParams,
    mut body: DynamicObject,
) -> Result<DynamicObject, kube::Error> {
    for _ in 0..ATTEMPTS {
        match api.replace(name, params, &body).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                body.metadata.resource_version = api.get(name).await?.metadata.resource_version;
            }
            other => return other,
        }
    }
    api.replace(name, params, &body).await
}

/// Versions that are tried, before it is said that they change too fast.
const ATTEMPTS: usize = 5;

/// What is not given is left out, as in a manifest: a null is no default.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(given.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// The objects that the operator would make, and what it says of regions that leave.
fn desired(
    world: &World,
    catalog: &Catalog,
    operator_namespace: &str,
) -> Result<(Vec<Object>, Vec<String>), PlanError> {
    let mut new_password = || "new".to_owned();
    let checked = check(world, catalog, operator_namespace, &mut new_password);
    let checked = checked
        .map_err(|refusal| PlanError::NotCarriedOut { reason: refusal.reason, message: refusal.message })?;
    let leaving = checked.removing.iter().map(|region| farewell(&checked, region)).collect();
    Ok((build(&checked), leaving))
}

/// What becomes of a region that the manifest has not any more.
fn farewell(store: &Checked, region: &CheckedRegion) -> String {
    let volumes = if store.keeps_data() { "stay (deletionPolicy: Retain)" } else { "are deleted" };
    format!(
        "Region {} leaves, once the others have all that it has: its clients are served by them, then its pods and what else was made for it \
         are deleted, its volumes {volumes}; until it is forgotten it stays if it is put back",
        region.spec.name
    )
}

async fn fate(namespace: &Namespace, object: &Object, owner: &Owner) -> Fate {
    if object.kind == Kind::Secret && namespace.is_without_secrets() {
        return Fate::Unknown("no right to read Secrets".into());
    }
    match namespace.get(object.kind, &object.name).await {
        Err(error) => Fate::Unknown(error.to_string()),
        Ok(None) => Fate::Created,
        Ok(live) => match compare(object, live.as_ref(), owner) {
            Difference::None => Fate::Unchanged,
            Difference::Taken => Fate::Taken,
            Difference::Some(fields) => Fate::Changed(fields),
        },
    }
}

/// The built-in catalog, with what runs for the release that runs: which images those are is the operator's to say.
async fn catalog_of(namespace: &Namespace, live: Option<&MultiActiveStore>) -> Catalog {
    let mut catalog = Catalog::default();
    let Some(live) = live else { return catalog };
    let (Some(release), Some(region)) = (live.spec.release.clone(), live.spec.regions.first()) else {
        return catalog;
    };
    let store = live.metadata.name.as_deref().unwrap_or_default();
    let spec = &live.spec;
    let own = [
        spec.redis.as_ref().is_some_and(|redis| redis.image.is_some()),
        spec.broker.as_ref().is_some_and(|broker| broker.image.is_some()),
        spec.proxy.as_ref().is_some_and(|proxy| proxy.image.is_some()),
    ];
    let sets = [
        (Kind::StatefulSet, labels::shard_name(store, &region.name, 0)),
        (Kind::StatefulSet, labels::part_name(store, &region.name, Part::Broker)),
        (Kind::Deployment, labels::part_name(store, &region.name, Part::Proxy)),
    ];
    let known = catalog.releases.get(&catalog.default).cloned();
    let Some(mut entry) = catalog.releases.get(&release).cloned().or(known) else { return catalog };
    let Release { redis, broker, proxy } = &mut entry;
    for ((image, (kind, name)), own) in [redis, broker, proxy].into_iter().zip(sets).zip(own) {
        let found = namespace.get(kind, &name).await.ok().flatten();
        let runs = found.and_then(|set| {
            Some(set.data.pointer("/spec/template/spec/containers/0/image")?.as_str()?.to_owned())
        });
        if let Some(reference) = runs.filter(|_| !own) {
            *image = CatalogImage { reference, ..image.clone() };
        }
    }
    catalog.releases.insert(release, entry);
    catalog
}

/// The namespace whose operator the store's engines let in.
async fn operator_namespace(namespace: &Namespace, store: &MultiActiveStore) -> Option<String> {
    let name =
        labels::part_name(store.metadata.name.as_deref()?, &store.spec.regions.first()?.name, Part::Redis);
    let policy = namespace.get(Kind::NetworkPolicy, &name).await.ok()??;
    operator_namespace_of(&policy.data)
}

/// See [`crate::platform::kubernetes::build`]: the one peer that is chosen by its namespace.
pub(super) fn operator_namespace_of(policy: &Value) -> Option<String> {
    let rules = policy.pointer("/spec/ingress")?.as_array()?;
    let mut peers = rules.iter().filter_map(|rule| rule.get("from")?.as_array()).flatten();
    let name = peers.find_map(|peer| {
        peer.get("namespaceSelector")?.get("matchLabels")?.get("kubernetes.io/metadata.name")?.as_str()
    })?;
    Some(name.to_owned())
}

fn render(fates: &[(Object, Fate)]) -> String {
    let mut text = String::new();
    let mut unchanged = 0;
    for (object, fate) in fates {
        let shown = format!("{} {}", object.kind, object.name);
        let _ = match fate {
            Fate::Unchanged => {
                unchanged += 1;
                Ok(())
            }
            Fate::Created => writeln!(text, "created    {shown}"),
            Fate::Taken => writeln!(
                text,
                "conflict   {shown} belongs to somebody else and would be left alone: rename the store, or remove it"
            ),
            Fate::Unknown(why) => writeln!(text, "unknown    {shown}: {why}"),
            Fate::Changed(fields) => {
                let mut lines: Vec<String> =
                    fields.iter().flat_map(|field| describe(object.kind, field)).collect();
                if lines.is_empty() {
                    lines.push("a field that is no longer set".into());
                }
                writeln!(text, "changed    {shown}\n             {}", lines.join("\n             "))
            }
        };
    }
    if unchanged == fates.len() {
        return "nothing changes\n".into();
    }
    if unchanged > 0 {
        let _ = writeln!(text, "unchanged  {unchanged} more");
    }
    for line in consequences(fates) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What happens to pods and volumes.
fn consequences(fates: &[(Object, Fate)]) -> Vec<String> {
    let (mut restart, mut rolling, mut grow, mut more) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (object, fate) in fates {
        let Fate::Changed(fields) = fate else { continue };
        let touches = |path: &str| fields.iter().any(|field| field.path.starts_with(path));
        match object.kind {
            Kind::StatefulSet => {
                let number = |field: &Field| Some((field.live.as_ref()?.as_u64()?, field.wanted.as_u64()?));
                let replicas = fields.iter().find(|field| field.path == "spec.replicas").and_then(number);
                let running =
                    object.json.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or_default();
                if touches("spec.template.") {
                    let old = replicas.map_or(running, |(old, _)| old);
                    restart.push(restarts(object, old));
                }
                if touches("spec.volumeClaimTemplates") {
                    grow.push(object.name.clone());
                }
                more.extend(replicas.map(|(old, new)| format!("{} {old} -> {new}", object.name)));
            }
            Kind::Deployment => {
                if touches("spec.template.") {
                    rolling.push(object.name.clone());
                }
                if touches("spec.replicas") {
                    more.push(object.name.clone());
                }
            }
            Kind::ConfigMap
            | Kind::Secret
            | Kind::StoreRegion
            | Kind::StoreOperation
            | Kind::Service
            | Kind::NetworkPolicy
            | Kind::PodDisruptionBudget => {}
        }
    }
    let mut said = Vec::new();
    if !restart.is_empty() {
        said.push(RESTARTS.to_owned());
        said.extend(restart);
    }
    let lines = [
        (rolling, "Kubernetes replaces the pods of these Deployments, each new one before an old one drains"),
        (grow, "Volumes grow, around running pods"),
        (more, "Numbers of pods change"),
    ];
    let lines = lines.into_iter().filter(|(names, _)| !names.is_empty());
    said.extend(lines.map(|(names, words)| format!("{words}: {}", names.join(", "))));
    said
}

const RESTARTS: &str =
    "Restarts, one pod at a time and one region at a time, the next one when all is well again:";

/// In which order a StatefulSet's pods are restarted, and what clients notice.
fn restarts(object: &Object, pods: u64) -> String {
    let name = &object.name;
    let last = pods.saturating_sub(1);
    let is_broker = object.json.pointer(COMPONENT).and_then(Value::as_str) == Some(Part::Broker.as_str());
    let words = match (is_broker, pods) {
        (true, 0..=1) => {
            "its only node: while it is away writes are acknowledged at Local, or refused (onBrokerLoss)"
                .into()
        }
        (true, _) => format!("its {pods} nodes, one after the other: clients notice nothing"),
        (false, 0..=1) => "its only server: the shard does not answer for some seconds".into(),
        (false, _) => format!(
            "the {last} that {} not master, then the master, which hands over before: its clients wait for some hundred milliseconds",
            if last == 1 { "is" } else { "are" }
        ),
    };
    format!("             {name}: {words}")
}

const COMPONENT: &str = "/metadata/labels/app.kubernetes.io~1component";

/// Lines of a text that are shown of a change.
const LINES: usize = 4;

/// One changed field. Of Secrets never what is in them.
fn describe(kind: Kind, field: &Field) -> Vec<String> {
    let path = &field.path;
    // Digests: of a configuration, which is shown with its ConfigMap, and of all that was applied last.
    if ["multiactive.dev/config", "multiactive.dev/applied"].iter().any(|digest| path.contains(digest)) {
        return Vec::new();
    }
    if kind == Kind::Secret {
        return vec![path.clone()];
    }
    let texts = (field.live.as_ref().and_then(Value::as_str), field.wanted.as_str());
    if let (Some(old), Some(new)) = texts
        && (old.contains('\n') || new.contains('\n'))
    {
        return changed_lines(path, old, new);
    }
    let short = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        if text.chars().count() > 60 { text.chars().take(57).chain("...".chars()).collect() } else { text }
    };
    let old = field.live.as_ref().map_or_else(|| "(not set)".to_owned(), short);
    vec![format!("{path}: {old} -> {}", short(&field.wanted))]
}

/// Lines that only one of two texts has.
fn changed_lines(path: &str, old: &str, new: &str) -> Vec<String> {
    let counts = |text: &str| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines() {
            *counts.entry(line.trim().to_owned()).or_default() += 1;
        }
        counts
    };
    let (olds, news) = (counts(old), counts(new));
    let only = |sign: char, text: &str, others: &BTreeMap<String, usize>| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !others.contains_key(*line));
        lines.map(|line| format!("{path}: {sign} {line}")).collect()
    };
    let mut lines = only('-', old, &news);
    lines.extend(only('+', new, &olds));
    if lines.len() > LINES {
        let more = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("{path}: and {more} more lines"));
    }
    if lines.is_empty() { vec![format!("{path}: the order of its lines")] } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, name: &str) -> Object {
        Object::new(kind, name.into(), &json!({}), json!({"spec": {"replicas": 2}}))
    }

    fn field(path: &str, live: Value, wanted: Value) -> Field {
        Field { path: path.into(), live: Some(live), wanted }
    }

    #[test]
    fn a_plan_tells_what_changes_and_what_restarts() {
        let config =
            field("data[redis.conf]", json!("port 1\nmaxmemory 64\n"), json!("port 1\nmaxmemory 96\n"));
        let memory = field(
            "spec.template.spec.containers[redis].resources.limits.memory",
            json!("205Mi"),
            json!("256Mi"),
        );
        let digest =
            field("spec.template.metadata.annotations[multiactive.dev/config]", json!("a"), json!("b"));
        let storage = field(
            "spec.volumeClaimTemplates[0].spec.resources.requests.storage",
            json!("10Gi"),
            json!("20Gi"),
        );
        let fates = [
            (object(Kind::ConfigMap, "c"), Fate::Changed(vec![config])),
            (
                object(Kind::Secret, "s"),
                Fate::Changed(vec![field("data.client", json!("b2xk"), json!("bmV3"))]),
            ),
            (object(Kind::Service, "v"), Fate::Taken),
            (object(Kind::StatefulSet, "r"), Fate::Changed(vec![memory.clone(), digest, storage])),
            (object(Kind::Deployment, "p"), Fate::Changed(vec![memory])),
            (object(Kind::StatefulSet, "n"), Fate::Created),
            (object(Kind::NetworkPolicy, "u"), Fate::Unchanged),
        ];
        let text = render(&fates);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "changed    ConfigMap c",
                "             data[redis.conf]: - maxmemory 64",
                "             data[redis.conf]: + maxmemory 96",
                "changed    Secret s",
                "             data.client",
                "conflict   Service v belongs to somebody else and would be left alone: rename the store, or remove it",
                "changed    StatefulSet r",
                "             spec.template.spec.containers[redis].resources.limits.memory: 205Mi -> 256Mi",
                "             spec.volumeClaimTemplates[0].spec.resources.requests.storage: 10Gi -> 20Gi",
                "changed    Deployment p",
                "             spec.template.spec.containers[redis].resources.limits.memory: 205Mi -> 256Mi",
                "created    StatefulSet n",
                "unchanged  1 more",
                "Restarts, one pod at a time and one region at a time, the next one when all is well again:",
                "             r: the 1 that is not master, then the master, which hands over before: its clients wait for some hundred milliseconds",
                "Kubernetes replaces the pods of these Deployments, each new one before an old one drains: p",
                "Volumes grow, around running pods: r",
            ]
        );
        assert_eq!(render(&[(object(Kind::Service, "v"), Fate::Unchanged)]), "nothing changes\n");
    }

    #[test]
    fn a_plan_says_what_clients_notice() {
        let set = |part: Part| {
            let labels = json!({"app.kubernetes.io/component": part.as_str()});
            Object::new(Kind::StatefulSet, "s".into(), &labels, json!({}))
        };
        for (part, pods, words) in [
            (Part::Redis, 1, "its only server: the shard does not answer"),
            (Part::Redis, 3, "the 2 that are not master, then the master"),
            (Part::Broker, 1, "its only node: while it is away"),
            (Part::Broker, 3, "its 3 nodes, one after the other"),
        ] {
            let said = restarts(&set(part), pods);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn the_operators_namespace_is_read_off_a_policy() {
        let from = json!([{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}]);
        assert_eq!(
            operator_namespace_of(&json!({"spec": {"ingress": [{"ports": []}, {"from": from}]}})),
            Some("ops".into())
        );
        assert_eq!(operator_namespace_of(&json!({"spec": {}})), None);
    }
}
