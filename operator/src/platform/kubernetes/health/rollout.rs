//! Rolling changes of one store: what is seen of its pods and engines becomes the next step ([`crate::platform::kubernetes::rolling`]), which is carried out here.
//! What is remembered is only what people were told, and the handover that is waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::{MultiActiveStore, StoreRegionStatus};
use tokio::task::JoinSet;

use super::Shared;
use super::store::{Region, Runner, Shard};
use crate::health::proxy::ProxyReport;
use crate::platform::kubernetes::apply::Applied;
use crate::platform::kubernetes::client::Namespace;
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::rolling::{PodSeen, RegionSeen, ShardSeen, Step, next, not_well};
use crate::platform::kubernetes::status::Rolling;
use crate::procedures::handover::{Outcome, Wish};
use crate::procedures::identity::EngineState;
use crate::procedures::shard::Seen;

/// Pause after a handover that came to nothing: its clients were held up for it.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub(super) struct Rollout {
    told: Told,
    /// In words, who hands over to whom.
    handing_over: String,
    handover: JoinSet<Outcome>,
    not_before: Option<Instant>,
}

/// What people were told of a rollout. The status comes first: an operator that dies again and again would tell it for ever.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Told {
    /// There is none.
    #[default]
    Nothing,
    /// It is about to be in the status.
    Begun,
    /// It is there, and the event was sent.
    All,
}

impl Rollout {
    /// Goes on by one step at most.
    pub(super) async fn advance(
        &mut self,
        shared: &Shared,
        live: &MultiActiveStore,
        runner: &Runner,
        applied: &Applied,
        rows: &BTreeMap<String, StoreRegionStatus>,
    ) -> Rolling {
        let outdated = shared.pods.outdated(&runner.plan.namespace, &applied.revisions);
        if let Some(Ok(outcome)) = self.handover.try_join_next() {
            self.handed_over(shared, live, outcome).await;
        }
        if !self.handover.is_empty() {
            return Rolling { outdated, now: self.handing_over.clone() };
        }
        if live.spec.paused == Some(true) {
            return Rolling { outdated, now: "spec.paused: it waits".to_owned() };
        }
        // What leaves is left as it is.
        let regions = runner.regions.iter().filter(|region| region.removing.is_none());
        let regions: Vec<RegionSeen> =
            regions.map(|region| see(shared, runner, region, applied, rows)).collect();
        let step = next(&regions);
        if step == Step::Done {
            let last = regions.iter().find_map(not_well).filter(|_| self.told != Told::Nothing);
            if let Some(why) = last {
                return Rolling { outdated, now: format!("waits: {why}") };
            }
            if std::mem::take(&mut self.told) != Told::Nothing {
                shared.publish(live, false, "RolledOut", "all pods run the newest template".into()).await;
            }
            return Rolling { outdated, now: String::new() };
        }
        let in_status = is_pending(live);
        if self.told == Told::Begun && in_status {
            let words = format!("{} run an older template and are restarted one by one", outdated.join(", "));
            shared.publish(live, false, "RollingOut", words).await;
        }
        self.told = if in_status { Told::All } else { Told::Begun };
        let now = self.carry_out(shared, live, runner, step).await;
        Rolling { outdated, now }
    }

    /// What is being done, or waited for.
    async fn carry_out(
        &mut self,
        shared: &Shared,
        live: &MultiActiveStore,
        runner: &Runner,
        step: Step,
    ) -> String {
        match step {
            Step::Done => String::new(),
            Step::Waits(why) => format!("waits: {why}"),
            Step::Restart { pod, uid } => {
                let namespace = Namespace::new(shared.client.clone(), &runner.plan.namespace);
                match namespace.delete_pod(&pod, &uid).await {
                    Ok(true) => {
                        shared.metrics.restarted();
                        let words = format!("{pod} is restarted with its new template");
                        shared.publish(live, false, "Restarting", words.clone()).await;
                        words
                    }
                    // It has gone meanwhile, and the watch brings what there is now.
                    Ok(false) => format!("waits: {pod} is another one by now"),
                    Err(error) => format!("waits: {error}"),
                }
            }
            Step::HandOver { region, shard, from } => {
                if self.not_before.is_some_and(|at| Instant::now() < at) {
                    return format!("waits: {region}, shard {shard}: the last handover came to nothing");
                }
                let of = runner.regions.iter().find(|of| of.name == region);
                let Some(of) = of.and_then(|of| of.shards.get(usize::from(shard))) else {
                    return String::new();
                };
                let reason = "its template has changed".to_owned();
                let (wishes, wish) = (of.wishes.clone(), Wish { to: None, from, reason });
                self.handover.spawn(async move { wishes.ask(wish).await });
                self.handing_over = format!(
                    "{} hands over, to be restarted",
                    of.names.get(from).map_or("a master", String::as_str)
                );
                self.handing_over.clone()
            }
        }
    }

    async fn handed_over(&mut self, shared: &Shared, live: &MultiActiveStore, outcome: Outcome) {
        let what = std::mem::take(&mut self.handing_over);
        match outcome {
            Outcome::Done { to, pause_ms, .. } => {
                shared.metrics.handed_over(Duration::from_millis(pause_ms));
                let words = format!("{what}: redis-{to} serves; clients waited for {pause_ms} ms");
                shared.publish(live, false, "HandedOver", words).await;
            }
            Outcome::Abandoned { why } => {
                self.not_before = Some(Instant::now() + AFTER_FAILURE);
                let words = format!("{what}: it came to nothing and is tried again: {why}");
                shared.publish(live, true, "HandoverFailed", words).await;
            }
        }
    }
}

/// Whether the store's status says that pods are to be restarted.
fn is_pending(store: &MultiActiveStore) -> bool {
    let conditions = store.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|c| c.type_ == "RestartPending").any(|c| c.status == "True")
}

fn see(
    shared: &Shared,
    runner: &Runner,
    region: &Region,
    applied: &Applied,
    rows: &BTreeMap<String, StoreRegionStatus>,
) -> RegionSeen {
    let plan = &runner.plan;
    let pod = |name: &str, part| shared.pods.seen(&plan.namespace, name, part, &applied.revisions);
    let broker = labels::part_name(&plan.store, &region.name, Part::Broker);
    let row = rows.get(&region.name);
    let inactive = row.filter(|row| !row.phase.is_settled()).map(|row| {
        let why = row.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        format!("is {:?}{why}", row.phase)
    });
    let proxies = region.proxies.borrow();
    let confirms = |report: &ProxyReport| !report.ready || report.ack.effective == report.ack.configured;
    let all_confirm = proxies.iter().flatten().all(confirms);
    RegionSeen {
        name: region.name.clone(),
        inactive: inactive.or_else(|| row.is_none().then(|| "is not known".to_owned())),
        shards: (0u16..)
            .zip(&region.shards)
            .map(|(number, shard)| {
                let pods = shard.names.iter().map(|name| pod(name, Part::Redis)).collect();
                see_shard(number, pods, shard)
            })
            .collect(),
        brokers: (0..plan.brokers).map(|node| pod(&format!("{broker}-{node}"), Part::Broker)).collect(),
        brokers_wait: (!all_confirm).then(|| "the broker does not confirm what proxies publish".to_owned()),
        proxies_ready: proxies.iter().flatten().filter(|report| report.ready).count(),
        proxies: usize::from(plan.proxies),
    }
}

fn see_shard(number: u16, pods: Vec<PodSeen>, shard: &Shard) -> ShardSeen {
    let view = shard.view.borrow();
    let identity = |member: usize| match view.members.get(member) {
        Some(Seen::Answers { identity, follows, .. }) => Some((identity, *follows)),
        Some(Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading) | None => None,
    };
    let master = view.master.and_then(|master| Some((master, identity(master)?.0)));
    let in_sync = |member: usize| {
        let (Some((master, of)), Some((own, follows))) = (master, identity(member)) else { return false };
        follows == Some(master)
            && own.master_link_up
            && own.epoch == of.epoch
            && own.incarnation == of.incarnation
    };
    let serves = master.filter(|(_, of)| of.state == EngineState::Serving && of.recovered);
    ShardSeen {
        number,
        master: serves.map(|(master, _)| master),
        in_sync: (0..pods.len()).map(in_sync).collect(),
        pods,
    }
}
