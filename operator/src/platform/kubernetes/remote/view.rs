//! The view of a store in a cluster, from its objects and from what its proxies say. Pure.

use std::collections::BTreeMap;

use crds::{
    LinkState, MultiActiveStore, RegionPhase, ShardState, StoreOperation, StoreRegion, StoreRegionStatus,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::health::proxy::ProxyReport;
use crate::health::status::{build_link, evacuated_to};
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::health::PodProcess;
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::status::endpoint;
use crate::view::{
    BrokerStatus, Condition, LinkStatus, OperationRow, ProcessPhase, ProcessRow, RegionStatus, ShardStatus,
    StoreStatus,
};

/// What was read of a store.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) store: MultiActiveStore,
    pub(super) rows: Vec<StoreRegion>,
    pub(super) operations: Vec<StoreOperation>,
    pub(super) pods: Vec<Pod>,
    /// What proxies say of themselves, by region; of a region without any, its row counts.
    pub(super) reports: BTreeMap<String, Vec<ProxyReport>>,
    /// What could not be read, and what that means.
    pub(super) notes: Vec<Condition>,
}

/// The view.
pub(super) fn build_status(seen: &Seen) -> StoreStatus {
    let name = seen.store.metadata.name.clone().unwrap_or_default();
    let wanted: Vec<&String> = seen.store.spec.regions.iter().map(|region| &region.name).collect();
    let told = seen.store.status.iter().flat_map(|status| &status.regions).map(|region| &region.name);
    // Those that leave are in the status alone.
    let leaving = told.filter(|name| !wanted.contains(name));
    let regions: Vec<RegionStatus> =
        (wanted.iter().copied().chain(leaving)).map(|region| build_region(seen, &name, region)).collect();
    let mut processes: Vec<ProcessRow> = seen.pods.iter().filter_map(build_process).collect();
    processes.sort_by(|a, b| a.component.cmp(&b.component));
    StoreStatus {
        conditions: conditions(seen, &name),
        store: name,
        regions,
        cuts: Vec::new(),
        processes,
        operations: build_operations(seen.operations.clone()),
    }
}

/// Operations, the oldest first.
pub(super) fn build_operations(mut operations: Vec<StoreOperation>) -> Vec<OperationRow> {
    operations.sort_by_key(|operation| {
        (operation.metadata.creation_timestamp.clone(), operation.metadata.name.clone())
    });
    let row = |operation: StoreOperation| OperationRow {
        name: operation.metadata.name.unwrap_or_default(),
        spec: operation.spec,
        status: operation.status.unwrap_or_default(),
    };
    operations.into_iter().map(row).collect()
}

fn conditions(seen: &Seen, name: &str) -> Vec<Condition> {
    let status = seen.store.status.clone().unwrap_or_default();
    let mut all: Vec<Condition> = status
        .conditions
        .into_iter()
        .map(|condition| Condition {
            about: name.to_owned(),
            kind: Some(condition.type_),
            status: Some(condition.status),
            reason: condition.reason,
            message: condition.message,
        })
        .collect();
    match status.observed_generation {
        None => all.push(Condition::note(
            name,
            "NotReported",
            "the operator has not said anything of it yet: does it run, and does it look after this namespace?",
        )),
        observed if observed != seen.store.metadata.generation => all.push(Condition::note(
            name,
            "ManifestPending",
            "the operator has not looked at the last change of the manifest yet",
        )),
        Some(_) => {}
    }
    for row in &seen.rows {
        for shard in row.status.iter().flat_map(|status| &status.shards) {
            let Some(why) = &shard.why else { continue };
            let (reason, words) = why.split_once(": ").unwrap_or(("Waits", why));
            all.push(Condition::note(&format!("{}/shard-{}", row.spec.region, shard.shard), reason, words));
        }
    }
    all.extend(seen.notes.iter().cloned());
    all
}

fn build_region(seen: &Seen, store: &str, name: &str) -> RegionStatus {
    let namespace = seen.store.metadata.namespace.as_deref().unwrap_or_default();
    let found = seen.rows.iter().find(|row| row.spec.region == name).and_then(|row| row.status.clone());
    let row = found.unwrap_or_else(|| from_summary(&seen.store, name));
    let replicas = seen.store.spec.redis.as_ref().and_then(|redis| redis.replicas).unwrap_or(1);
    let members = replicas as usize + 1;
    let shards = u16::try_from(seen.store.spec.shards.unwrap_or(1)).unwrap_or(u16::MAX);
    let reports = seen.reports.get(name).map(Vec::as_slice).unwrap_or_default();
    let (ready, nodes) = fraction(row.brokers.as_deref());
    let (amqp, management) = build::broker_ports();
    let broker = format!("{}.{namespace}.svc", labels::part_name(store, name, Part::Broker));
    let live_ack = reports.iter().map(|report| &report.ack.effective).find(|ack| !ack.is_empty());
    RegionStatus {
        name: name.to_owned(),
        phase: row.phase,
        endpoint: row.endpoint.clone().unwrap_or_else(|| endpoint(store, name, namespace)),
        shards: row
            .shards
            .iter()
            .map(|shard| {
                build_shard(&labels::shard_name(store, name, shard.shard), shard, &row, members, reports)
            })
            .collect(),
        broker: BrokerStatus {
            amqp: format!("{broker}:{amqp}"),
            management: format!("{broker}:{management}"),
            ready,
            nodes,
        },
        ack: live_ack.cloned().or(row.ack.clone()),
        links: row
            .links
            .iter()
            .map(
                |link| {
                    if reports.is_empty() { written(link) } else { build_link(&link.peer, shards, reports) }
                },
            )
            .collect(),
    }
}

/// What the store's own status says of a region whose row cannot be read.
fn from_summary(store: &MultiActiveStore, name: &str) -> StoreRegionStatus {
    let mut summaries = store.status.iter().flat_map(|status| &status.regions);
    let known = summaries.find(|region| region.name == name).map(|region| StoreRegionStatus {
        phase: region.phase,
        endpoint: region.endpoint.clone(),
        ..StoreRegionStatus::default()
    });
    known.unwrap_or_default()
}

/// A link as the operator wrote it, rounded up.
fn written(link: &LinkState) -> LinkStatus {
    LinkStatus {
        peer: link.peer.clone(),
        state: link.state.clone(),
        lag_millis: link.lag_millis,
        lag_effects: link.lag_effects,
        backlog_bytes: link.backlog_bytes,
        since: link.since.as_ref().map(|since| since.0.as_millisecond().into()),
    }
}

fn build_shard(
    set: &str,
    shard: &ShardState,
    row: &StoreRegionStatus,
    members: usize,
    reports: &[ProxyReport],
) -> ShardStatus {
    let in_sync = usize::from(shard.replicas_in_sync);
    let others: Vec<String> = (0..members)
        .map(|ordinal| format!("{set}-{ordinal}"))
        .filter(|pod| shard.master_pod.as_ref() != Some(pod))
        .collect();
    let mut told = reports.iter().flat_map(|report| &report.shards).filter(|told| told.shard == shard.shard);
    let serves = told.clone().any(|told| told.state == "Serving");
    let all_serve = || {
        let (serving, all) = fraction(row.shards_serving.as_deref());
        serving == all
    };
    let state = match shard.master_pod {
        None => "none",
        Some(_) if serves || (reports.is_empty() && all_serve()) => "serving",
        Some(_) if told.next().is_some() => "recovering",
        Some(_) => "unknown",
    };
    let reads_back = format!("shard {} reads its own stream back", shard.shard);
    ShardStatus {
        shard: shard.shard,
        master: shard.master_pod.clone(),
        epoch: shard.epoch,
        incarnation: shard.incarnation.clone().unwrap_or_default(),
        replicas: if in_sync == others.len() { others } else { vec!["?".to_owned(); in_sync] },
        state: state.to_owned(),
        recovered: row.phase == RegionPhase::Active || row.why.as_ref() != Some(&reads_back),
        evacuated_to: evacuated_to(shard.shard, reports),
        seq: None,
        outbox_effects: None,
        keys: None,
        handover: None,
    }
}

/// `2/3`.
fn fraction(text: Option<&str>) -> (usize, usize) {
    let parts = text.and_then(|text| text.split_once('/'));
    parts.map_or((0, 0), |(part, all)| (part.parse().unwrap_or(0), all.parse().unwrap_or(0)))
}

/// A pod of the store, if it is of one of its parts.
fn build_process(pod: &Pod) -> Option<ProcessRow> {
    let name = pod.metadata.name.as_deref()?;
    let part = labels::part_of(pod)?;
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key);
    let region = label(labels::REGION)?;
    let last = name.rsplit('-').next()?;
    let component = match part {
        Part::Redis => format!("{region}/shard-{}/redis-{last}", label(labels::SHARD)?),
        Part::Broker => format!("{region}/broker-{last}"),
        // Nothing counts them: the end of the pod's name does.
        Part::Proxy => {
            format!("{region}/proxy-{}", name.rsplit_once("--proxy-").map_or(last, |(_, end)| end))
        }
    };
    let listens = match part {
        Part::Redis => build::redis_port(),
        Part::Broker => build::broker_ports().0,
        Part::Proxy => build::admin_port(),
    };
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let container = statuses.into_iter().flatten().find(|container| container.name == part.as_str());
    let process = PodProcess::of(pod, part, listens);
    let restarts = container.map_or(0, |container| container.restart_count.unsigned_abs());
    let last_exit = container.and_then(last_exit);
    Some(ProcessRow {
        component,
        pid: None,
        phase: match process.reachable() {
            Some(_) => ProcessPhase::Running,
            None if restarts > 0 || last_exit.is_some() => ProcessPhase::Restarting,
            None => ProcessPhase::Pending,
        },
        paused: false,
        ready: process.ready,
        restarts,
        last_exit,
        port: Some(listens),
        folder: String::new(),
        pod: Some(name.to_owned()),
    })
}

/// `OOMKilled, exit code 137`.
fn last_exit(container: &ContainerStatus) -> Option<String> {
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    let reason = ended.reason.as_deref().unwrap_or("ended");
    Some(format!("{reason}, exit code {}", ended.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let store = "{metadata: {name: shop, namespace: prod, generation: 2}, \
             spec: {regions: [{name: a}, {name: b}], shards: 1, redis: {replicas: 1}}, \
             status: {observedGeneration: 2, regions: [{name: b, phase: Unknown}], conditions: [{type: Available, status: 'True', \
             reason: RegionsServe, message: 1 of 2 regions are Active, lastTransitionTime: '2026-01-01T00:00:00Z'}]}}";
        let row = "{metadata: {name: shop--a}, spec: {storeRef: {name: shop}, region: a, id: 1}, status: {phase: Active, \
             endpoint: 'shop--a.prod.svc:6379', shardsServing: 1/1, ack: Queued, brokers: 2/3, shards: [{shard: 0, epoch: 3, masterPod: \
             shop--a--shard-0-redis-1, incarnation: 00aa, replicasInSync: 1}], links: [{peer: b, state: Connected, lagMillis: 100}]}}";
        let pod = "{metadata: {name: shop--a--proxy-7d-x2, labels: {app.kubernetes.io/component: proxy, multiactive.dev/region: a}}, \
             status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{name: proxy, ready: true, \
             restartCount: 2, image: i, imageID: i, containerID: 'c://1', state: {running: {}}, lastState: {terminated: {exitCode: 137, \
             reason: OOMKilled}}}]}}";
        let full = |text: &str, kind: &str| {
            format!("{{apiVersion: multiactive.dev/v1alpha1, kind: {kind}, {}", &text[1..])
        };
        Seen {
            store: serde_yaml::from_str(&full(store, "MultiActiveStore")).unwrap(),
            rows: vec![serde_yaml::from_str(&full(row, "StoreRegion")).unwrap()],
            operations: Vec::new(),
            pods: vec![serde_yaml::from_str(pod).unwrap()],
            reports: BTreeMap::new(),
            notes: vec![Condition::note("b", "NoLiveNumbers", "why")],
        }
    }

    #[test]
    fn objects_become_the_same_view_as_on_one_machine() {
        let status = build_status(&seen());
        let a = &status.regions[0];
        assert_eq!((a.phase, a.endpoint.as_str()), (RegionPhase::Active, "shop--a.prod.svc:6379"));
        assert_eq!(
            (a.broker.amqp.as_str(), a.broker.ready, a.broker.nodes),
            ("shop--a--broker.prod.svc:5672", 2, 3)
        );
        assert_eq!((a.links[0].lag_millis, a.ack.as_deref()), (Some(100), Some("Queued")));
        let shard = &a.shards[0];
        assert_eq!((shard.state.as_str(), shard.epoch, shard.recovered), ("serving", 3, true));
        assert_eq!(shard.master.as_deref(), Some("shop--a--shard-0-redis-1"));
        assert_eq!((&shard.replicas[..], shard.keys), (&["shop--a--shard-0-redis-0".to_owned()][..], None));
        let b = &status.regions[1];
        assert_eq!(b.phase, RegionPhase::Unknown, "without a row the store's own status counts");
        assert_eq!(b.endpoint, "shop--b.prod.svc:6379");
        assert_eq!(status.conditions[0].kind.as_deref(), Some("Available"));
        assert_eq!(status.conditions[1].reason, "NoLiveNumbers");
        let proxy = &status.processes[0];
        assert_eq!(
            (proxy.component.as_str(), proxy.phase, proxy.ready),
            ("a/proxy-7d-x2", ProcessPhase::Running, true)
        );
        assert_eq!((proxy.restarts, proxy.last_exit.as_deref()), (2, Some("OOMKilled, exit code 137")));
        // Programs that read the status of a store on one machine find the same names.
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["regions"][0]["links"][0]["lagMillis"], 100);
        assert_eq!(json["regions"][0]["shards"][0]["incarnation"], "00aa");
    }

    #[test]
    fn what_proxies_say_counts_more_than_what_was_written() {
        let report = r#"{"links": [{"peer": "b", "shard": 0, "state": "CatchingUp", "lagMillis": 1234, "lagEffects": 7}],
             "ack": {"configured": "Queued", "effective": "Local"}, "shards": [{"shard": 0, "state": "Unavailable", "evacuatedTo": "b"}]}"#;
        let reports =
            BTreeMap::from([("a".to_owned(), vec![crate::health::proxy::parse_report(report).unwrap()])]);
        let a = build_status(&Seen { reports, ..seen() }).regions.remove(0);
        assert_eq!((a.links[0].lag_millis, a.links[0].lag_effects), (Some(1234), Some(7)));
        assert_eq!((a.ack.as_deref(), a.shards[0].state.as_str()), (Some("Local"), "recovering"));
        assert_eq!(a.shards[0].evacuated_to.as_deref(), Some("b"));
    }

    #[test]
    fn what_the_operator_has_not_seen_is_said() {
        let mut seen = seen();
        seen.store.metadata.generation = Some(3);
        let reasons = |seen: &Seen| -> Vec<String> {
            build_status(seen).conditions.into_iter().filter(|c| c.kind.is_none()).map(|c| c.reason).collect()
        };
        assert_eq!(reasons(&seen), ["ManifestPending", "NoLiveNumbers"]);
        seen.store.status = None;
        assert_eq!(reasons(&seen), ["NotReported", "NoLiveNumbers"]);
    }
}
