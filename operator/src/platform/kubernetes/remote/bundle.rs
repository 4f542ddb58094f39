//! What a support bundle tells of a store in a cluster. Each thing that cannot be read is noted, and the next one follows.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, Secret};
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde::Serialize;
use serde_json::{Value, json};

use super::access::words;
use super::plan::operator_namespace_of;
use super::{Remote, forward, running_proxies};
use crate::bundle::{Bundle, BundleError, LOG_BYTES, LOG_LINES};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::object::Kind;

/// Keys of Secrets that hold nothing secret.
const PUBLIC: [&str; 5] = ["type", "provider", "host", "port", "username"];
/// Kinds of which everything of the store is shown.
const KINDS: [Kind; 8] = [
    Kind::StoreRegion,
    Kind::StoreOperation,
    Kind::StatefulSet,
    Kind::Deployment,
    Kind::Service,
    Kind::ConfigMap,
    Kind::NetworkPolicy,
    Kind::PodDisruptionBudget,
];
/// What the pods of every operator are labelled with; the stores' NetworkPolicies go by it.
const OPERATOR: &str = "app.kubernetes.io/name=multiactive-operator";
/// Where it is installed when nothing else is said.
const OPERATOR_NAMESPACE: &str = "multiactive-system";

impl Remote {
    /// Puts all of it into the bundle. The operator runs in `operator_namespace`, if not where the store's NetworkPolicies say.
    pub async fn collect(
        &self,
        bundle: &mut Bundle,
        operator_namespace: Option<&str>,
    ) -> Result<(), BundleError> {
        // First what has to be taken out of all the rest.
        let secrets = self.secrets(bundle).await;
        for (name, shown) in secrets {
            bundle.yaml(&format!("objects/Secret/{name}.yaml"), &shown)?;
        }
        match self.cluster.client.apiserver_version().await {
            Ok(version) => bundle.yaml("apiserver-version.yaml", &version)?,
            Err(error) => bundle.missing("the API server's version", &words(&error)),
        }
        match self.status().await {
            Ok(status) => bundle.yaml("status.yaml", &status)?,
            Err(error) => bundle.missing("status", &error),
        }
        match self.api::<crds::MultiActiveStore>().get(&self.name).await {
            Ok(store) => bundle.yaml(&file_of("MultiActiveStore", &self.name), &clean(&store))?,
            Err(error) => bundle.missing("MultiActiveStore", &words(&error)),
        }
        let mut found_operator = None;
        for kind in KINDS {
            let objects = self.list(&kind.resource(), bundle).await;
            for object in objects {
                let name = object.metadata.name.clone().unwrap_or_default();
                if kind == Kind::NetworkPolicy {
                    found_operator = found_operator.or_else(|| operator_namespace_of(&object.data));
                }
                bundle.yaml(&file_of(&kind.to_string(), &name), &clean(&object))?;
            }
        }
        let claims = GroupVersionKind::gvk("", "v1", "PersistentVolumeClaim");
        let claims = ApiResource::from_gvk_with_plural(&claims, "persistentvolumeclaims");
        for object in self.list(&claims, bundle).await {
            let name = object.metadata.name.clone().unwrap_or_default();
            bundle.yaml(&file_of("PersistentVolumeClaim", &name), &clean(&object))?;
        }
        let pods = match self.api::<Pod>().list(&self.ours()).await {
            Ok(list) => list.items,
            Err(error) => {
                bundle.missing("Pod", &words(&error));
                Vec::new()
            }
        };
        self.events(bundle).await?;
        self.pods(&self.api(), &pods, "", bundle).await?;
        self.proxies(&pods, bundle).await?;
        let operator = operator_namespace.map(ToOwned::to_owned).or(found_operator);
        self.operator(&operator.unwrap_or_else(|| OPERATOR_NAMESPACE.to_owned()), bundle).await
    }

    /// The store's Secrets as they are shown; their values are hidden from now on.
    async fn secrets(&self, bundle: &mut Bundle) -> Vec<(String, Value)> {
        let store = self.store().await.ok();
        let regions = store.iter().flat_map(|store| &store.spec.regions).map(|region| region.name.as_str());
        let mut names = BTreeSet::from([labels::credentials_name(&self.name)]);
        for region in regions {
            names.insert(labels::app_name(&self.name, region));
            names.extend(
                [Part::Redis, Part::Broker, Part::Proxy]
                    .map(|part| labels::part_name(&self.name, region, part)),
            );
        }
        let own = store
            .as_ref()
            .and_then(|store| store.spec.auth.as_ref())
            .map(|auth| auth.secret_ref.name.clone());
        names.extend(own);
        let api = self.api::<Secret>();
        let read = join_all(names.iter().map(|name| api.get(name))).await;
        let mut shown = Vec::new();
        for (name, secret) in names.into_iter().zip(read) {
            match secret {
                Ok(secret) => {
                    hide(&secret, bundle);
                    shown.push((name, outline(&secret)));
                }
                Err(error) => bundle.missing(
                    &format!("Secret {name}"),
                    &format!(
                        "{} (passwords in it that somebody has logged could not be looked for)",
                        words(&error)
                    ),
                ),
            }
        }
        shown
    }

    async fn list(&self, resource: &ApiResource, bundle: &mut Bundle) -> Vec<DynamicObject> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.cluster.client.clone(), &self.cluster.namespace, resource);
        match api.list(&self.ours()).await {
            Ok(list) => list.items,
            Err(error) => {
                bundle.missing(&resource.kind, &words(&error));
                Vec::new()
            }
        }
    }

    /// What happened to the store and all that is named after it, oldest first.
    async fn events(&self, bundle: &mut Bundle) -> Result<(), BundleError> {
        let events = match self.api::<Event>().list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => {
                bundle.missing("Event", &words(&error));
                return Ok(());
            }
        };
        let mut lines: Vec<String> =
            events.iter().filter(|event| self.is_about_us(event)).map(event_line).collect();
        lines.sort();
        bundle.text("events.txt", &lines.concat())
    }

    fn is_about_us(&self, event: &Event) -> bool {
        let name = event.involved_object.name.as_deref().unwrap_or_default();
        name == self.name || name.contains(&format!("{}--", self.name))
    }

    /// Pods, and the ends of their logs.
    async fn pods(
        &self,
        api: &Api<Pod>,
        pods: &[Pod],
        folder: &str,
        bundle: &mut Bundle,
    ) -> Result<(), BundleError> {
        for pod in pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            bundle.yaml(&format!("{folder}{}", file_of("Pod", name)), &clean(pod))?;
            for (container, before) in containers(pod) {
                let lives: &[(bool, &str)] =
                    if before { &[(false, ""), (true, ".previous")] } else { &[(false, "")] };
                for (previous, suffix) in lives {
                    let file = format!("{folder}logs/{name}/{container}{suffix}.log");
                    let wanted = LogParams {
                        container: Some(container.to_owned()),
                        previous: *previous,
                        tail_lines: Some(LOG_LINES as i64),
                        // More than is kept: this many from the beginning of those lines, and the end is wanted.
                        limit_bytes: Some(4 * LOG_BYTES as i64),
                        timestamps: true,
                        ..LogParams::default()
                    };
                    match api.logs(name, &wanted).await {
                        Ok(text) => bundle.log(&file, &text)?,
                        Err(error) => bundle.missing(&file, &words(&error)),
                    }
                }
            }
        }
        Ok(())
    }

    async fn proxies(&self, pods: &[Pod], bundle: &mut Bundle) -> Result<(), BundleError> {
        let api = self.api::<Pod>();
        let asked = running_proxies(pods).flat_map(|(_, pod)| {
            [("/status", "status.json"), ("/metrics", "metrics.txt")].map(|of| (pod, of))
        });
        let answers = join_all(asked.map(async |(pod, (path, file))| {
            (format!("proxies/{pod}/{file}"), forward::get(&api, pod, path).await)
        }));
        for (file, answer) in answers.await {
            match answer {
                Ok(text) => bundle.text(&file, &text)?,
                Err(error) => bundle.missing(&file, &error),
            }
        }
        Ok(())
    }

    async fn operator(&self, namespace: &str, bundle: &mut Bundle) -> Result<(), BundleError> {
        let params = ListParams::default().labels(OPERATOR);
        let deployments: Api<Deployment> = Api::namespaced(self.cluster.client.clone(), namespace);
        match deployments.list(&params).await {
            Ok(list) if list.items.is_empty() => {
                bundle
                    .missing("the operator", &format!("no Deployment {OPERATOR} in namespace '{namespace}'"));
            }
            Ok(list) => {
                for deployment in list.items {
                    let name = deployment.metadata.name.clone().unwrap_or_default();
                    bundle
                        .yaml(&format!("operator/{}", file_of("Deployment", &name)), &clean(&deployment))?;
                }
            }
            Err(error) => bundle.missing("the operator's Deployment", &words(&error)),
        }
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), namespace);
        match api.list(&params).await {
            Ok(list) => self.pods(&api, &list.items, "operator/", bundle).await,
            Err(error) => {
                bundle.missing("the operator's pods", &words(&error));
                Ok(())
            }
        }
    }
}

fn file_of(kind: &str, name: &str) -> String {
    format!("objects/{kind}/{name}.yaml")
}

fn hide(secret: &Secret, bundle: &mut Bundle) {
    for (key, value) in secret.data.iter().flatten() {
        if !PUBLIC.contains(&key.as_str())
            && let Ok(text) = std::str::from_utf8(&value.0)
        {
            bundle.hide(text);
        }
    }
}

/// A Secret without what is in it. (Annotations are left out: `kubectl apply` keeps a copy of all values in one.)
fn outline(secret: &Secret) -> Value {
    let sizes = secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), json!(format!("{} bytes", value.0.len()))));
    json!({
        "kind": "Secret",
        "metadata": {"name": secret.metadata.name, "labels": secret.metadata.labels, "creationTimestamp": secret.metadata.creation_timestamp},
        "type": secret.type_,
        "data": sizes.collect::<serde_json::Map<_, _>>(),
    })
}

/// An object without what nobody reads, and without values of variables that are named like secrets.
fn clean(object: &impl Serialize) -> Value {
    let mut json = json!(object);
    if let Some(meta) = json["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    if let Some(annotations) = json.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    hide_variables(&mut json);
    json
}

fn hide_variables(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            for variable in fields.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                let name = variable["name"].as_str().unwrap_or_default().to_ascii_uppercase();
                if ["PASSWORD", "SECRET", "TOKEN", "CREDENTIAL"].iter().any(|word| name.contains(word))
                    && variable.get("value").is_some()
                {
                    variable["value"] = json!("***");
                }
            }
            fields.values_mut().for_each(hide_variables);
        }
        Value::Array(items) => items.iter_mut().for_each(hide_variables),
        _ => {}
    }
}

/// Containers of a pod, and whether each has a life before this one.
fn containers(pod: &Pod) -> Vec<(&str, bool)> {
    let status = pod.status.as_ref();
    let of = |statuses: Option<&Vec<ContainerStatus>>, name: &str| {
        statuses.into_iter().flatten().any(|status| status.name == name && status.restart_count > 0)
    };
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten().map(|container| {
        let name = container.name.as_str();
        (name, of(status.and_then(|status| status.init_container_statuses.as_ref()), name))
    });
    let main = spec.map(|spec| &spec.containers).into_iter().flatten().map(|container| {
        let name = container.name.as_str();
        (name, of(status.and_then(|status| status.container_statuses.as_ref()), name))
    });
    init.chain(main).collect()
}

fn event_line(event: &Event) -> String {
    let series =
        event.series.as_ref().and_then(|series| Some((series.count?, series.last_observed_time.clone()?)));
    let (count, time) = match series {
        Some((count, time)) => (count, Some(time.0)),
        None => (
            event.count.unwrap_or(1),
            event.last_timestamp.as_ref().map(|time| time.0).or(event.event_time.as_ref().map(|time| time.0)),
        ),
    };
    let about = &event.involved_object;
    format!(
        "{} {:<7} {:<22} {}/{} (x{count}): {}\n",
        time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}")),
        event.type_.as_deref().unwrap_or("-"),
        event.reason.as_deref().unwrap_or("-"),
        about.kind.as_deref().unwrap_or("-"),
        about.name.as_deref().unwrap_or("-"),
        event.message.as_deref().unwrap_or_default().trim(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_without_its_values() {
        let secret: Secret = serde_yaml::from_str(
            "{metadata: {name: s, labels: {a: b}, annotations: {kubectl.kubernetes.io/last-applied-configuration: c2VjcmV0}}, \
             type: Opaque, data: {password: c2VjcmV0}}",
        )
        .unwrap();
        let shown = outline(&secret);
        assert_eq!(shown["data"], json!({"password": "6 bytes"}));
        assert!(!shown.to_string().contains("c2VjcmV0"), "{shown}");
    }

    #[test]
    fn variables_that_are_named_like_secrets_are_hidden() {
        let pod = json!({"metadata": {"name": "p", "managedFields": [], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x", "a": "b"}},
            "spec": {"containers": [{"env": [{"name": "API_TOKEN", "value": "x"}, {"name": "HOME", "value": "/"}, {"name": "MY_PASSWORD"}]}]}});
        assert_eq!(
            clean(&pod),
            json!({"metadata": {"name": "p", "annotations": {"a": "b"}},
                "spec": {"containers": [{"env": [{"name": "API_TOKEN", "value": "***"}, {"name": "HOME", "value": "/"}, {"name": "MY_PASSWORD"}]}]}})
        );
    }
}
