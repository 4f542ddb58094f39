//! What the tasks of a running store share, and what people may ask of it: its state, faults, cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crds::OperationPhase;
use tokio::sync::{Notify, watch};

use super::assemble::Workshop;
use super::component::Component;
use super::control::Fault;
use super::cuts::build_cuts;
use super::layout::Layout;
use super::operations;
use super::process::{Keeper, Order, ProcessStatus};
use super::rebuild::Watches;
use super::record::is_over;
use super::set_aside::find_set_aside;
use super::store::StoreError;
use super::world::{RegionPlan, World, address};
use crate::health::member::Member;
use crate::health::proxy::ProxyReport;
use crate::health::shard::{ShardView, Wishes};
use crate::health::status::{
    PhaseInput, build_handover, build_link, build_phase, build_shard, evacuated_to, is_away,
};
use crate::operations::rebuild::MANY_RESTARTS;
use crate::operations::scale_out::Verifying;
use crate::procedures::handover::{Outcome, Wish};
use crate::procedures::shard::{Notice, Seen};
use crate::verify::Asks;
use crate::view::{
    BrokerStatus, Condition, HandoverStatus, ProcessPhase, ProcessRow, RegionPhase, RegionStatus,
    ShardStatus, StoreStatus,
};

/// One shard's controller, from outside.
#[derive(Clone)]
pub(super) struct ShardAccess {
    pub(super) view: watch::Receiver<ShardView>,
    pub(super) wishes: Wishes,
}

/// By region and shard.
pub(super) type Members = BTreeMap<(String, u16), Vec<(Component, Arc<Member<ProcessStatus>>)>>;
/// By region and shard: whether its controller may act.
pub(super) type Gates = BTreeMap<(String, u16), Arc<watch::Sender<bool>>>;

/// The parts of a running store. They change as a whole: whoever has them keeps what he has.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: crds::Validated,
    pub(super) world: World,
    pub(super) keepers: BTreeMap<Component, Arc<Keeper>>,
    pub(super) members: Members,
    pub(super) gates: Gates,
    pub(super) shards: BTreeMap<(String, u16), ShardAccess>,
    pub(super) brokers: BTreeMap<Component, watch::Receiver<bool>>,
    pub(super) proxies: BTreeMap<Component, watch::Receiver<ProxyReport>>,
    /// By reader and writer: what the second writes does not reach the first.
    pub(super) cuts: BTreeMap<(String, String), Arc<watch::Sender<bool>>>,
    /// Ports of relays that run.
    pub(super) relays: BTreeSet<u16>,
    pub(super) was_active: BTreeMap<String, Arc<AtomicBool>>,
}

impl Parts {
    pub(super) fn new(store: crds::Validated, world: World) -> Self {
        Self {
            store,
            world,
            keepers: BTreeMap::new(),
            members: BTreeMap::new(),
            gates: BTreeMap::new(),
            shards: BTreeMap::new(),
            brokers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            cuts: BTreeMap::new(),
            relays: BTreeSet::new(),
            was_active: BTreeMap::new(),
        }
    }
}

impl Parts {
    pub(super) fn is_ready(&self, component: &Component) -> bool {
        match component {
            Component::Redis { region, shard, node } => {
                self.shards.get(&(region.clone(), *shard)).is_some_and(|of| {
                    matches!(of.view.borrow().members.get(usize::from(*node)), Some(Seen::Answers { .. }))
                })
            }
            Component::Broker { .. } => self.brokers.get(component).is_some_and(|ready| *ready.borrow()),
            Component::Proxy { .. } => {
                self.proxies.get(component).is_some_and(|report| report.borrow().ready)
            }
            Component::Epmd => true,
        }
    }

    fn port(&self, component: &Component) -> Option<u16> {
        match component {
            Component::Redis { region, shard, node } => Some(
                self.world.region(region)?.shards.get(usize::from(*shard))?.get(usize::from(*node))?.port,
            ),
            Component::Broker { region, node } => {
                Some(self.world.region(region)?.brokers.get(usize::from(*node))?.amqp)
            }
            Component::Proxy { region, node } => {
                Some(self.world.region(region)?.proxies.get(usize::from(*node))?.admin)
            }
            Component::Epmd => Some(self.world.epmd),
        }
    }
}

/// The running store.
pub(super) struct Shared {
    pub(super) layout: Layout,
    pub(super) parts: RwLock<Arc<Parts>>,
    pub(super) workshop: Workshop,
    pub(super) founding: watch::Receiver<Vec<Notice>>,
    /// One change of the parts at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Asks for a verification, and what came of the last one.
    pub(super) verify: Asks,
    pub(super) verified: std::sync::Mutex<Option<Condition>>,
    /// Shards that may have to be rebuilt.
    pub(super) watches: Watches,
    /// The comparison that an operation has asked for.
    pub(super) verifying: Verifying,
    /// Somebody has asked for the store's end.
    pub(super) end_wanted: Notify,
}

impl Shared {
    /// The parts as they are now.
    pub(super) fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other parts from now on.
    pub(super) fn set_parts(&self, parts: Parts) {
        *self.parts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(parts);
    }

    /// The state of everything, now.
    pub(super) fn status(&self) -> StoreStatus {
        let parts = &*self.parts();
        let processes = self.processes(parts);
        let mut conditions: Vec<_> =
            self.founding.borrow().iter().map(|notice| condition(&parts.store.name, notice)).collect();
        for ((region, shard), ShardAccess { view, .. }) in &parts.shards {
            let about = format!("{region}/shard-{shard}");
            conditions.extend(view.borrow().notices.iter().map(|notice| condition(&about, notice)));
        }
        for region in parts.world.regions.iter().filter(|region| !region.drained) {
            let reports = operations::reports(parts, region);
            for shard in 0..parts.store.shards {
                if let Some(peer) = evacuated_to(shard, &reports) {
                    let words =
                        format!("{peer} serves its requests until a member here has everything again");
                    let about = format!("{}/shard-{shard}", region.name);
                    conditions.push(Condition::note(&about, "Evacuated", words));
                }
            }
        }
        conditions.extend(processes.iter().filter(|row| row.restarts >= MANY_RESTARTS && !row.ready).map(
            |row| {
                let words = format!(
                    "was started {} times and ended with {}: see {}/log",
                    row.restarts,
                    row.last_exit.as_deref().unwrap_or("nothing"),
                    row.folder
                );
                Condition::note(&row.component, "DoesNotStayUp", words)
            },
        ));
        conditions.extend(parts.keepers.keys().filter_map(|component| {
            let kept = find_set_aside(&self.layout, component)?;
            let words = format!(
                "was superseded while it held effects that no broker had confirmed, or could not be used; a copy is in {}: delete it when it has been looked at",
                kept.display()
            );
            Some(Condition::note(&component.to_string(), "SetAside", words))
        }));
        conditions.extend(self.verified.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let record = self.workshop.record.peek();
        for row in &record.operations {
            if let Some(blocked) = row.status.blocked.as_ref().filter(|_| !is_over(row.status.phase)) {
                conditions.push(Condition::note(&row.name, &blocked.reason, blocked.message.clone()));
            }
            if row.status.phase == OperationPhase::Failed {
                let why = row.status.message.clone().unwrap_or_default();
                let words = format!("{why}: `masctl op retry {0}`, or `masctl op rollback {0}`", row.name);
                conditions.push(Condition::note(&row.name, "OperationFailed", words));
            }
        }
        StoreStatus {
            store: parts.store.name.clone(),
            regions: parts.world.regions.iter().map(|region| self.region(parts, region)).collect(),
            cuts: build_cuts(parts.cuts.iter().filter(|(_, cut)| *cut.borrow()).map(|(way, _)| way)),
            conditions,
            processes,
            operations: operations::rows(&record),
        }
    }

    pub(super) fn region(&self, parts: &Parts, region: &RegionPlan) -> RegionStatus {
        let reports = operations::reports(parts, region);
        let mut any_engine_answers = false;
        let shards: Vec<_> = (0u16..)
            .zip(&region.shards)
            .map(|(number, members)| {
                let of = parts.shards.get(&(region.name.clone(), number));
                let view = of.map(|of| of.view.borrow().clone()).unwrap_or_default();
                any_engine_answers |= view.members.iter().any(|seen| matches!(seen, Seen::Answers { .. }));
                let addresses: Vec<_> = members.iter().map(|node| address(node.port)).collect();
                ShardStatus {
                    handover: view.handover.as_ref().and_then(|done| build_handover(done, &addresses)),
                    ..build_shard(number, &view.members, view.master, &addresses, &reports)
                }
            })
            .collect();
        let links: Vec<_> = parts
            .world
            .regions
            .iter()
            .filter(|peer| peer.name != region.name && !peer.joining)
            .map(|peer| build_link(&peer.name, parts.store.shards, &reports))
            .collect();
        let was_active = parts.was_active.get(&region.name);
        let phase = build_phase(&PhaseInput {
            shards: &shards,
            links: &links,
            any_engine_answers,
            any_proxy_ready: reports.iter().any(|report| report.ready),
            was_active: was_active.is_some_and(|active| active.load(Ordering::Relaxed)),
            drained: region.drained.then(|| is_away(parts.store.shards, &reports)),
            max_lag_ms: parts.store.replication.max_lag.as_millis(),
        });
        let record = self.workshop.record.peek();
        let phase = if region.joining {
            operations::phase(&record.operations, &region.name)
        } else if record.leaving(&region.name).is_some() {
            RegionPhase::Removing
        } else {
            phase
        };
        if phase == RegionPhase::Active
            && let Some(active) = was_active
        {
            active.store(true, Ordering::Relaxed);
        }
        let ready = |node: &super::world::BrokerNode| {
            parts.brokers.get(&node.component).is_some_and(|ready| *ready.borrow())
        };
        RegionStatus {
            name: region.name.clone(),
            phase,
            endpoint: address(region.client),
            shards,
            broker: BrokerStatus {
                amqp: region.brokers.first().map(|node| address(node.amqp)).unwrap_or_default(),
                management: region.brokers.first().map(|node| address(node.management)).unwrap_or_default(),
                ready: region.brokers.iter().filter(|node| ready(node)).count(),
                nodes: region.brokers.len(),
            },
            ack: reports.iter().map(|report| &report.ack.effective).find(|ack| !ack.is_empty()).cloned(),
            links,
        }
    }

    fn processes(&self, parts: &Parts) -> Vec<ProcessRow> {
        parts
            .keepers
            .iter()
            .map(|(component, keeper)| {
                let status = keeper.status().borrow().clone();
                let running = status.phase == ProcessPhase::Running && !status.paused;
                ProcessRow {
                    component: component.to_string(),
                    pid: status.pid,
                    phase: status.phase,
                    paused: status.paused,
                    ready: running && parts.is_ready(component),
                    restarts: status.restarts,
                    last_exit: status.last_exit,
                    port: parts.port(component),
                    folder: self.layout.component(component).display().to_string(),
                    pod: None,
                }
            })
            .collect()
    }

    /// Cuts the network between two regions, or heals it; `one_way`: only what `a` writes on its way to `b`.
    pub(super) fn set_cut(&self, a: &str, b: &str, one_way: bool, cut: bool) -> Result<(), StoreError> {
        let parts = self.parts();
        let regions = || parts.world.regions.iter().map(|r| r.name.clone()).collect::<Vec<_>>().join(", ");
        for name in [a, b] {
            if parts.world.region(name).is_none() {
                return Err(StoreError::NoRegion { name: name.to_owned(), known: regions() });
            }
        }
        let there = [(b, a)];
        let both = [(b, a), (a, b)];
        for (reader, writer) in if one_way { &there[..] } else { &both[..] } {
            let way = ((*reader).to_owned(), (*writer).to_owned());
            let switch = parts.cuts.get(&way).ok_or_else(|| StoreError::SameRegion(a.to_owned()))?;
            switch.send_replace(cut);
        }
        tracing::info!(a, b, one_way, cut, "network");
        Ok(())
    }

    /// Makes another member master of a shard, in order; `to`: which one.
    pub(super) async fn handover(
        &self,
        region: &str,
        shard: u16,
        to: Option<u16>,
    ) -> Result<HandoverStatus, StoreError> {
        let parts = self.parts();
        let known = || parts.world.regions.iter().map(|r| r.name.clone()).collect::<Vec<_>>().join(", ");
        let plan = parts.world.region(region);
        let plan = plan.ok_or_else(|| StoreError::NoRegion { name: region.to_owned(), known: known() })?;
        let key = (region.to_owned(), shard);
        let (Some(of), Some(members)) = (parts.shards.get(&key), plan.shards.get(usize::from(shard))) else {
            return Err(StoreError::NoShard { shard, shards: parts.store.shards });
        };
        let from = of.view.borrow().master.ok_or(StoreError::NoMaster { shard })?;
        let wish = Wish { to: to.map(usize::from), from, reason: "asked for on the control socket".into() };
        let outcome = of.wishes.ask(wish).await;
        let addresses: Vec<_> = members.iter().map(|node| address(node.port)).collect();
        match (build_handover(&outcome, &addresses), outcome) {
            (Some(done), _) => Ok(done),
            (None, Outcome::Abandoned { why }) => Err(StoreError::NoHandover(why)),
            (None, Outcome::Done { .. }) => Err(StoreError::NoMaster { shard }),
        }
    }

    /// Does something bad to a component, or ends that.
    pub(super) async fn fault(&self, component: &Component, fault: Fault) -> Result<(), StoreError> {
        let parts = self.parts();
        let keeper =
            parts.keepers.get(component).ok_or_else(|| StoreError::NoComponent(component.to_string()))?;
        tracing::info!(%component, ?fault, "fault");
        keeper
            .order(match fault {
                Fault::Kill => Order::Kill { hold: false },
                Fault::KillAndHold => Order::Kill { hold: true },
                Fault::Pause => Order::Pause,
                Fault::Resume => Order::Resume,
            })
            .await;
        Ok(())
    }

    /// Stops all components of some kind, side by side.
    pub(super) async fn stop_all(&self, which: impl Fn(&Component) -> bool) {
        let parts = self.parts();
        let stops =
            parts.keepers.iter().filter(|(component, _)| which(component)).map(|(_, k)| k.order(Order::Stop));
        futures_util::future::join_all(stops).await;
    }
}

fn condition(about: &str, notice: &Notice) -> Condition {
    Condition::note(about, notice.reason, notice.message.clone())
}
