//! The pods as the API server tells of them: which process of ours runs where.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use kube::api::Api;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::health::member::{Phase, Process};
use crate::operations::rebuild::MANY_RESTARTS;
use crate::platform::kubernetes::FIELD_MANAGER;
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::rolling::PodSeen;

/// All pods that the operator's objects have made. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pods {
    known: reflector::Store<Pod>,
    changes: watch::Receiver<u64>,
}

impl Pods {
    /// Watches them, for as long as the second part is polled.
    pub(crate) fn watch(api: Api<Pod>) -> (Self, impl Future<Output = ()> + Send) {
        let (known, writer) = reflector::store();
        let (change, changes) = watch::channel(0);
        let ours =
            watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"));
        let stream = reflector::reflector(writer, watcher(api, ours)).default_backoff();
        let run = stream.for_each(move |event| {
            match event {
                Ok(_) => change.send_modify(|changes| *changes += 1),
                Err(error) => tracing::warn!(%error, "watching pods failed; trying again"),
            }
            std::future::ready(())
        });
        (Self { known, changes }, run)
    }

    /// Until they are known.
    pub(crate) async fn wait_known(&self) {
        let _ = self.known.wait_until_ready().await;
    }

    /// Until something changes, or `most` is over.
    pub(crate) async fn changed(&mut self, most: Duration) {
        let _ = timeout(most, self.changes.changed()).await;
    }

    /// One pod's process.
    pub(crate) fn process(&self, namespace: &str, name: &str, what: Part, port: u16) -> PodProcess {
        let pod = self.known.get(&ObjectRef::new(name).within(namespace));
        pod.map_or_else(PodProcess::default, |pod| PodProcess::of(&pod, what, port))
    }

    /// One pod.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.known.get(&ObjectRef::new(name).within(namespace))
    }

    /// The pods of a part of a region.
    pub(crate) fn of_part(&self, namespace: &str, store: &str, region: u16, part: Part) -> Vec<Arc<Pod>> {
        let region = region.to_string();
        self.known.state_filter(|pod| {
            let of = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
            pod.metadata.namespace.as_deref() == Some(namespace)
                && of(labels::STORE) == Some(store)
                && of(labels::REGION_ID) == Some(&region)
                && of("app.kubernetes.io/component") == Some(part.as_str())
        })
    }

    /// One pod of a StatefulSet, as rolling changes look at it.
    pub(crate) fn seen(
        &self,
        namespace: &str,
        name: &str,
        what: Part,
        revisions: &BTreeMap<String, String>,
    ) -> PodSeen {
        let name = name.to_owned();
        let Some(pod) = self.known.get(&ObjectRef::new(&name).within(namespace)) else {
            return PodSeen { name, ..PodSeen::default() };
        };
        PodSeen {
            name,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            outdated: is_outdated(&pod, revisions),
            ready: PodProcess::of(&pod, what, 0).ready,
            ends: pod.metadata.deletion_timestamp.is_some(),
            stuck: is_stuck(&pod),
        }
    }

    /// Pods whose StatefulSet has another template by now. `revisions`: the current one of each StatefulSet.
    pub(crate) fn outdated(&self, namespace: &str, revisions: &BTreeMap<String, String>) -> Vec<String> {
        let is =
            |pod: &Pod| pod.metadata.namespace.as_deref() == Some(namespace) && is_outdated(pod, revisions);
        let mut names: Vec<String> =
            self.known.state_filter(is).into_iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        names.sort();
        names
    }
}

fn is_outdated(pod: &Pod, revisions: &BTreeMap<String, String>) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let wanted = owners.find_map(|owner| revisions.get(&owner.name));
    let runs = pod.metadata.labels.as_ref().and_then(|labels| labels.get("controller-revision-hash"));
    wanted.is_some() && runs.is_some() && runs != wanted
}

/// No node takes it, or the kubelet waits for something else than its own work.
fn is_stuck(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let unplaced =
        status.conditions.iter().flatten().any(|c| c.type_ == "PodScheduled" && c.status == "False");
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let mut reasons = containers.filter_map(|of| of.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    unplaced || reasons.any(|reason| !["ContainerCreating", "PodInitializing"].contains(&reason))
}

/// The process in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodProcess {
    running: bool,
    life: Option<String>,
    address: Option<String>,
    /// As the kubelet's readiness probe found it last.
    pub(crate) ready: bool,
    /// It does not stay up: the kubelet waits before it starts it again, and has done so several times.
    pub(crate) failing: bool,
    /// The cluster hears nothing of its node. By itself that is evidence of nothing.
    unheard: bool,
    /// Nor do those that would: see [`PodProcess::missed_by`].
    missed: bool,
}

impl PodProcess {
    /// A container that waits or has ended, and a pod that is gone or was never placed, are evidence. A kubelet that is not
    /// heard of is none: what it said last stands.
    pub(crate) fn of(pod: &Pod, what: Part, port: u16) -> Self {
        let Some(status) = &pod.status else { return Self::default() };
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let Some(container) = containers.iter().find(|container| container.name == what.as_str()) else {
            return Self::default();
        };
        Self {
            running: is_running(container),
            life: container.container_id.clone(),
            address: status.pod_ip.as_deref().map(|ip| host_port(ip, port)),
            ready: container.ready
                && status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True"),
            failing: is_failing(container),
            unheard: is_unheard(status, container),
            missed: false,
        }
    }

    /// The same process, which counts as gone when nothing is heard of its node and `nobody` who should hears anything of itself. It may run
    /// on, cut off, and take writes: another one is promoted beside it, and what both took is merged.
    pub(crate) fn missed_by(self, nobody: bool) -> Self {
        Self { missed: self.unheard && nobody, ..self }
    }

    /// Where it answers, if it runs.
    pub(crate) fn reachable(&self) -> Option<&str> {
        self.address.as_deref().filter(|_| self.running)
    }
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// The kubelet's last word is that the container is ready, and the cluster's that the pod is not: it has given its node up. Later it wants
/// the pods of such a node to go.
fn is_unheard(status: &PodStatus, container: &ContainerStatus) -> bool {
    let conditions = || status.conditions.iter().flatten();
    let given_up = container.ready && conditions().any(|c| c.type_ == "Ready" && c.status == "False");
    let evicted = |c: &PodCondition| {
        c.type_ == "DisruptionTarget" && c.reason.as_deref() == Some("DeletionByTaintManager")
    };
    given_up || conditions().any(evicted)
}

fn is_failing(container: &ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    reason == Some("CrashLoopBackOff")
        && u32::try_from(container.restart_count).is_ok_and(|count| count >= MANY_RESTARTS)
}

fn host_port(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

impl Process for PodProcess {
    fn phase(&self) -> Phase {
        if self.running && !self.missed { Phase::Running } else { Phase::Absent }
    }

    fn life(&self) -> Option<String> {
        self.life.clone()
    }

    fn address(&self) -> Option<String> {
        self.address.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(status: &str) -> PodProcess {
        let pod = serde_yaml::from_str(&format!("{{metadata: {{name: p}}, status: {status}}}")).unwrap();
        PodProcess::of(&pod, Part::Redis, 6379)
    }

    #[test]
    fn what_ended_is_absent_and_what_was_seen_running_is_not() {
        let runs = process(
            "{phase: Running, podIP: 10.1.0.3, conditions: [{type: Ready, status: 'False'}], containerStatuses: [{name: redis, ready: false, \
             restartCount: 1, image: i, imageID: i, containerID: 'c://2', state: {running: {}}}]}",
        );
        assert_eq!((runs.phase(), runs.life().as_deref()), (Phase::Running, Some("c://2")));
        assert_eq!(
            (runs.reachable(), runs.ready),
            (Some("10.1.0.3:6379"), false),
            "a node that is not heard of: no evidence"
        );
        let given_up = |ready: &str, more: &str| {
            process(&format!(
                "{{phase: Running, podIP: 10.1.0.3, conditions: [{{type: Ready, status: 'False'}}{more}], containerStatuses: [{{name: redis, \
                 ready: {ready}, restartCount: 1, image: i, imageID: i, containerID: 'c://2', state: {{running: {{}}}}}}]}}"
            ))
        };
        let evicted = ", {type: DisruptionTarget, status: 'True', reason: DeletionByTaintManager}";
        let phase = |process: PodProcess, nobody| process.missed_by(nobody).phase();
        assert_eq!(phase(given_up("true", ""), false), Phase::Running, "somebody hears of it");
        assert_eq!(phase(given_up("true", ""), true), Phase::Absent);
        assert_eq!(
            phase(given_up("false", ""), true),
            Phase::Running,
            "its kubelet says that it is not ready"
        );
        assert_eq!(phase(given_up("false", evicted), true), Phase::Absent);
        let ended = process(
            "{phase: Running, podIP: 10.1.0.3, containerStatuses: [{name: redis, ready: false, restartCount: 1, image: i, imageID: i, \
             containerID: 'c://2', state: {terminated: {exitCode: 137}}}]}",
        );
        assert_eq!((ended.phase(), ended.reachable(), ended.failing), (Phase::Absent, None, false));
        let fails = |count: u32, reason: &str| {
            process(&format!(
                "{{phase: Running, containerStatuses: [{{name: redis, ready: false, restartCount: {count}, image: i, imageID: i, \
                 state: {{waiting: {{reason: {reason}}}}}}}]}}"
            ))
            .failing
        };
        assert_eq!(
            [fails(4, "CrashLoopBackOff"), fails(5, "CrashLoopBackOff"), fails(9, "ContainerCreating")],
            [false, true, false]
        );
        let pod = |status: &str| {
            is_stuck(&serde_yaml::from_str(&format!("{{metadata: {{name: p}}, status: {status}}}")).unwrap())
        };
        let waits = |reason: &str| {
            pod(&format!(
                "{{containerStatuses: [{{name: redis, ready: false, restartCount: 1, image: i, imageID: i, state: {{waiting: {{reason: {reason}}}}}}}]}}"
            ))
        };
        assert!(waits("ImagePullBackOff") && waits("CrashLoopBackOff") && !waits("ContainerCreating"));
        assert!(pod("{conditions: [{type: PodScheduled, status: 'False'}]}") && !pod("{phase: Pending}"));
        assert_eq!(process("{phase: Pending}").phase(), Phase::Absent);
        assert_eq!(host_port("fd00::1", 1), "[fd00::1]:1");
    }
}
