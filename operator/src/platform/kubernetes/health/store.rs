//! One store's task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{MultiActiveStore, MultiActiveStoreStatus, StoreRegionStatus, VerificationStatus};
use futures_util::future::join_all;
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::pods::PodProcess;
use super::record::{IdentityRecord, RecordError, Row, ShardLedger};
use super::rollout::Rollout;
use super::rows::{self, Measured, ShardMeasured};
use super::verification::{self, Known, ShardOf, Verified, Verifier};
use super::{Latest, Pods, Shared, operations};
use crate::health::engine::Engine;
use crate::health::member::{Member, look_at};
use crate::health::proxy::{ProxyReport, fetch_report, has_declared, none_hears};
use crate::health::shard::{ShardController, ShardView, Wishes};
use crate::health::status::{build_link, build_shard, is_away};
use crate::operations::scale_out::Verifying;
use crate::platform::kubernetes::build;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::client::Namespace;
use crate::platform::kubernetes::endpoint::{ShownPhase, ShownVerification};
use crate::platform::kubernetes::labels::{self, Part};
use crate::platform::kubernetes::status::{self, Rolling, Round};
use crate::procedures::shard::{Notice, Place, Seen, bootstrap_obstacles};
use crate::verify;

/// How often the store is looked at as a whole.
const TICK: Duration = Duration::from_millis(500);
/// How often its proxies are asked.
const ASK_PROXIES: Duration = Duration::from_secs(1);
/// How often a round is asked for while a region lacks its first proxy.
const ASK_ROUND: Duration = Duration::from_secs(3);
/// The same while a region of the manifest waits for something to go.
const ASK_WAITING: Duration = Duration::from_secs(10);
/// Pause of a row that could not be written.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Looks after the store until it is gone.
pub(super) async fn run(shared: Shared, mut latest: watch::Receiver<Arc<Latest>>) {
    let key = ObjectRef::from_obj(&*latest.borrow().store);
    let uid = latest.borrow().store.metadata.uid.clone();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut runner: Option<Runner> = None;
    let mut report = StoreReport::default();
    let mut verified: Option<VerificationStatus> = None;
    let mut rollout = Rollout::default();
    let mut asked = Instant::now();
    shared.pods.wait_known().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = latest.changed() => if changed.is_err() { return },
        }
        let live = shared.stores.get(&key).filter(|live| live.metadata.uid == uid);
        let Some(live) = live.filter(|live| live.metadata.deletion_timestamp.is_none()) else { return };
        let now = Arc::clone(&latest.borrow_and_update());
        if let Some(checked) = now.round.store() {
            // Nothing that starts rounds tells of claims that go.
            if checked.regions.iter().any(|region| !region.is_member) && asked.elapsed() > ASK_WAITING {
                asked = Instant::now();
                let _ = shared.rounds.send(key.clone());
            }
            let plan = Plan::of(checked);
            if runner.as_ref().is_none_or(|runner| runner.plan != plan) {
                let settings = checked.spec.verification;
                runner = Some(Runner::start(&shared, plan, latest.clone(), &live, settings));
            }
            if let Some(runner) = runner.as_mut().filter(|_| checked.identity.founded.is_some()) {
                runner.open();
            }
        }
        let generation = now.store.metadata.generation;
        let mut rows = BTreeMap::new();
        let mut rolling = Rolling::default();
        if let Some(runner) = &mut runner {
            if !runner.has_looked() {
                continue; // what was reported before still stands
            }
            runner.found(&shared, &live).await;
            rows = runner.report(&shared, &live, generation).await;
            if let Some(checked) = now.round.store().filter(|checked| checked.identity.founded.is_some()) {
                runner.look_at_verification(&live, checked.spec.verification, &rows);
            }
            verified = runner.verifier.result().or(verified);
            if let Round::Applied(_, applied) = &now.round {
                rolling = rollout.advance(&shared, &live, runner, applied, &rows).await;
            }
        }
        report.write(&shared, &live, &now, &rows, verified.as_ref(), &rolling).await;
    }
}

/// The only writer of the store's status.
#[derive(Default)]
struct StoreReport {
    /// What was written last, and over which version.
    written: Option<(Option<String>, MultiActiveStore)>,
    said: Option<String>,
}

impl StoreReport {
    async fn write(
        &mut self,
        shared: &Shared,
        live: &Arc<MultiActiveStore>,
        latest: &Latest,
        rows: &BTreeMap<String, StoreRegionStatus>,
        verified: Option<&VerificationStatus>,
        rolling: &Rolling,
    ) {
        // The watch may not have brought our own last write yet.
        let base = match &self.written {
            Some((over, written)) if *over == live.metadata.resource_version => written,
            Some(_) | None => live,
        };
        let next = status::build_store(
            &latest.store,
            base.status.as_ref(),
            &latest.round,
            rows,
            verified,
            rolling,
            Timestamp::now(),
        );
        let name = live.metadata.name.as_deref().unwrap_or_default();
        let namespace = live.metadata.namespace.as_deref().unwrap_or_default();
        let operation = operations::summary(&operations::of_store(shared, namespace, name));
        let next = MultiActiveStoreStatus { operation, ..next };
        if base.status.as_ref() == Some(&next) {
            return;
        }
        let namespace =
            Namespace::new(shared.client.clone(), live.metadata.namespace.as_deref().unwrap_or_default());
        match status::update_store(&namespace, base, &next).await {
            Ok(written) => self.written = Some((live.metadata.resource_version.clone(), written)),
            Err(error) => {
                // Somebody was faster, and the watch brings what there is now; or the API server is away.
                self.written = None;
                tracing::debug!(%error, "the store's status was not written");
                return;
            }
        }
        self.tell(shared, live, &next).await;
    }

    async fn tell(&mut self, shared: &Shared, live: &MultiActiveStore, next: &MultiActiveStoreStatus) {
        let bad = status::trouble(next);
        let said = bad.as_ref().map(|(reason, _)| reason.clone());
        if let Some((reason, words)) = bad.filter(|_| said != self.said) {
            shared.publish(live, true, &reason, words).await;
        }
        self.said = said;
    }
}

/// What decides which engines there are.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) store: String,
    pub(super) namespace: String,
    /// Regions with their ids.
    regions: Vec<(String, u16)>,
    /// Those of them that join.
    joining: Vec<String>,
    /// Those of them that leave.
    removing: Vec<String>,
    shards: u16,
    members: u16,
    pub(super) brokers: u16,
    pub(super) proxies: u16,
    max_lag_ms: u64,
    engine_password: String,
}

impl Plan {
    fn of(store: &Checked) -> Self {
        Self {
            store: store.spec.name.clone(),
            namespace: store.namespace.clone(),
            regions: store.members().map(|region| (region.spec.name.clone(), region.id)).collect(),
            joining: store.members().filter(|r| r.joining).map(|r| r.spec.name.clone()).collect(),
            removing: store.members().filter(|r| r.removing.is_some()).map(|r| r.spec.name.clone()).collect(),
            shards: store.spec.shards,
            members: store.spec.redis.replicas + 1,
            brokers: store.spec.broker.replicas,
            proxies: store.spec.proxy.replicas,
            max_lag_ms: store.spec.replication.max_lag.as_millis(),
            engine_password: store.passwords.engine.clone(),
        }
    }

    /// Members of which the others should have everything: neither who joins nor who leaves.
    fn staying(&self) -> impl Iterator<Item = &(String, u16)> {
        self.regions.iter().filter(|(name, _)| !self.joining.contains(name) && !self.removing.contains(name))
    }
}

/// The tasks that look after the engines and proxies of one plan. They end with it.
pub(super) struct Runner {
    pub(super) plan: Plan,
    pub(super) regions: Vec<Region>,
    identity: Arc<IdentityRecord>,
    founded: bool,
    obstacles: Vec<Notice>,
    verifier: Verifier,
    /// When a round was asked for last, for the first proxies.
    asked: Option<Instant>,
    _tasks: JoinSet<()>,
}

pub(super) struct Region {
    pub(super) name: String,
    id: u16,
    /// The operation by which it joins, while it does.
    joining: Option<String>,
    /// The operation by which it leaves, while it does.
    pub(super) removing: Option<String>,
    row: Arc<Row>,
    pub(super) shards: Vec<Shard>,
    /// Those that run; `None`: not asked yet.
    pub(super) proxies: watch::Receiver<Option<Vec<ProxyReport>>>,
    /// As it was read or written last.
    known: Option<StoreRegionStatus>,
    written: Instant,
    failed: Option<Instant>,
    shown: ShownPhase,
}

pub(super) struct Shard {
    pub(super) names: Vec<String>,
    members: Vec<Arc<Member<PodProcess>>>,
    pub(super) view: watch::Receiver<ShardView>,
    pub(super) wishes: Wishes,
    /// Whether its controller may act.
    gate: watch::Sender<bool>,
}

impl Runner {
    fn start(
        shared: &Shared,
        plan: Plan,
        latest: watch::Receiver<Arc<Latest>>,
        live: &Arc<MultiActiveStore>,
        settings: crds::Verification,
    ) -> Self {
        let namespace = Namespace::new(shared.client.clone(), &plan.namespace);
        let name = labels::identity_name(&plan.store);
        let identity = Arc::new(IdentityRecord::new(namespace.clone(), name));
        let mut tasks = JoinSet::new();
        let mut pumped = Vec::new();
        let started = Instant::now();
        let is_member = |name: &String| !plan.joining.contains(name);
        let row = |region: &str| {
            let mut others = plan.regions.iter().filter(|(name, _)| is_member(name));
            Arc::new(Row {
                namespace: namespace.clone(),
                name: labels::region_name(&plan.store, region),
                region: region.to_owned(),
                others: others.any(|(name, _)| name != region),
                identity: Arc::clone(&identity),
                seen: shared.rows.clone(),
                held: Mutex::default(),
            })
        };
        let mut regions = Vec::new();
        for (region, id) in &plan.regions {
            let row = row(region);
            let (reports, proxies) = watch::channel(None);
            let mut shards = Vec::new();
            for shard in 0..plan.shards {
                let (names, members) = members(shared, &plan, region, shard, &proxies, &mut pumped);
                for member in &members {
                    tasks.spawn(Arc::clone(member).watch());
                }
                let (view, seen_view) = watch::channel(ShardView::default());
                let (gate, open) = watch::channel(false);
                let (wishes, asked) = Wishes::new();
                let controller = ShardController {
                    name: format!("{}/{}", plan.namespace, labels::shard_name(&plan.store, region, shard)),
                    place: Place { store: plan.store.clone(), region: *id, shard },
                    members: members.clone(),
                    ledger: ShardLedger { row: Arc::clone(&row), shard },
                    view,
                    wishes: asked,
                };
                tasks.spawn(controller.run(open, started));
                shards.push(Shard { names, members, view: seen_view, wishes, gate });
            }
            let (pods, of) = (shared.pods.clone(), (plan.namespace.clone(), plan.store.clone(), *id));
            tasks.spawn(ask_proxies(pods, of, reports));
            let name = region.clone();
            let joining =
                plan.joining.contains(region).then(|| labels::operation_name(&plan.store, region, *id));
            let removing =
                plan.removing.contains(region).then(|| labels::removal_name(&plan.store, region, *id));
            let metrics = Arc::clone(&shared.metrics);
            let shown = ShownPhase::new(metrics, &plan.namespace, &plan.store, region);
            regions.push(Region {
                name,
                id: *id,
                joining,
                removing,
                row,
                shards,
                proxies,
                known: None,
                written: Instant::now(),
                failed: None,
                shown,
            });
        }
        tasks.spawn(pump(shared.pods.clone(), plan.namespace.clone(), pumped));
        let verifier = start_verification(shared, &plan, &regions, live, settings, &mut tasks);
        let runner = operations::Runner {
            shared: shared.clone(),
            store: plan.store.clone(),
            namespace: plan.namespace.clone(),
            brokers: plan.brokers,
            shards: plan.shards,
            regions: regions.iter().map(Region::handle).collect(),
            identity: Arc::clone(&identity),
            latest,
            password: plan.engine_password.clone(),
            verifying: Verifying::default(),
            asks: verifier.asks.clone(),
            watches: operations::Watches::default(),
            waiting: std::sync::Mutex::default(),
            begun: started,
        };
        tasks.spawn(runner.run());
        Self {
            plan,
            regions,
            identity,
            founded: false,
            obstacles: Vec::new(),
            verifier,
            asked: None,
            _tasks: tasks,
        }
    }

    /// The store is founded: the controllers of its members may act. Those of a region that joins or leaves are its operation's.
    fn open(&mut self) {
        if !std::mem::replace(&mut self.founded, true) {
            let stays = |region: &&Region| region.joining.is_none() && region.removing.is_none();
            for shard in self.regions.iter().filter(stays).flat_map(|of| &of.shards) {
                shard.gate.send_replace(true);
            }
        }
    }

    fn look_at_verification(
        &mut self,
        live: &MultiActiveStore,
        settings: crds::Verification,
        rows: &BTreeMap<String, StoreRegionStatus>,
    ) {
        let phase = |name: &String| rows.get(name).map(|row| row.phase).unwrap_or_default();
        // Who joins is compared by its operation.
        let waits = self.plan.staying().find(|(name, _)| !phase(name).is_settled());
        let obstacle = waits.map(|(name, _)| {
            format!("regions are compared while all are Active, and {name} is {:?}", phase(name))
        });
        self.verifier.look(live, Known { settings, obstacle });
    }

    /// Everything has been looked at since this began.
    fn has_looked(&self) -> bool {
        let shard = |shard: &Shard| !shard.view.borrow().members.is_empty();
        self.regions.iter().all(|region| region.proxies.borrow().is_some() && region.shards.iter().all(shard))
    }

    /// Founds the store once every broker has its streams, and every engine answers and is empty.
    async fn found(&mut self, shared: &Shared, live: &MultiActiveStore) {
        if self.founded {
            if !self.plan.joining.is_empty() {
                self.want_declaring_proxies(shared, live);
            }
            return;
        }
        let seen: Vec<(String, Seen)> = self
            .regions
            .iter()
            .flat_map(|region| &region.shards)
            .flat_map(|shard| shard.names.iter().cloned().zip(look_at(&shard.members)))
            .collect();
        self.obstacles = bootstrap_obstacles(seen.iter().map(|(name, seen)| (name.clone(), seen)));
        if !self.obstacles.is_empty() {
            return;
        }
        self.want_declaring_proxies(shared, live);
        for region in &self.regions {
            if !self.has_declared(shared, region).await {
                let message = format!("the broker of {} has no streams yet", region.name);
                self.obstacles.push(Notice { reason: "DeclaringStreams", message });
                return;
            }
        }
        let now = Timestamp::now().to_string();
        let regions: Vec<&String> = self.plan.regions.iter().map(|(name, _)| name).collect();
        let mut done = false;
        let written = self.identity.update(|identity| {
            let same = identity.regions.iter().map(|region| &region.name).eq(regions);
            done = same;
            if same && identity.founded.is_none() {
                identity.founded = Some(now);
            }
            same
        });
        match written.await {
            Ok(()) if done => {
                tracing::info!(store = self.plan.store, namespace = self.plan.namespace, "founded");
                self.open();
                // Now all proxies may run.
                let _ = shared.rounds.send(ObjectRef::from_obj(live));
                shared
                    .publish(
                        live,
                        false,
                        "Founded",
                        "all engines are empty and all streams declared: the store is founded".into(),
                    )
                    .await;
            }
            Ok(()) => {}
            Err(error) => {
                self.obstacles = vec![Notice { reason: "RecordFailed", message: error.to_string() }];
            }
        }
    }

    /// Asks for a round when a broker is complete and its region has no proxy yet: nothing that starts rounds tells of pods that become
    /// ready.
    fn want_declaring_proxies(&mut self, shared: &Shared, live: &MultiActiveStore) {
        let of = |region: &Region, part| {
            shared.pods.of_part(&self.plan.namespace, &self.plan.store, region.id, part)
        };
        let waits = |region: &Region| {
            let brokers = of(region, Part::Broker);
            let ready = brokers.iter().filter(|pod| PodProcess::of(pod, Part::Broker, 0).ready).count();
            ready >= usize::from(self.plan.brokers) && of(region, Part::Proxy).is_empty()
        };
        let several = self.plan.brokers > 1;
        if several
            && self.asked.is_none_or(|asked| asked.elapsed() >= ASK_ROUND)
            && self.regions.iter().any(waits)
        {
            self.asked = Some(Instant::now());
            let _ = shared.rounds.send(ObjectRef::from_obj(live));
        }
    }

    async fn has_declared(&self, shared: &Shared, region: &Region) -> bool {
        let pods = shared.pods.of_part(&self.plan.namespace, &self.plan.store, region.id, Part::Proxy);
        let proxies: Vec<_> =
            pods.iter().map(|pod| PodProcess::of(pod, Part::Proxy, build::admin_port())).collect();
        let asked = proxies.iter().filter_map(PodProcess::reachable).map(has_declared);
        join_all(asked).await.contains(&true)
    }

    /// Writes the regions' rows; returns all of them.
    async fn report(
        &mut self,
        shared: &Shared,
        live: &MultiActiveStore,
        generation: Option<i64>,
    ) -> BTreeMap<String, StoreRegionStatus> {
        let measured: Vec<Measured> =
            self.regions.iter().map(|region| self.measure(shared, region, live, generation)).collect();
        let reports = self.regions.iter_mut().zip(measured).map(|(region, measured)| async move {
            let status = region.report(shared, live, &measured).await;
            (region.name.clone(), status)
        });
        join_all(reports).await.into_iter().filter_map(|(name, status)| Some((name, status?))).collect()
    }

    fn measure(
        &self,
        shared: &Shared,
        region: &Region,
        live: &MultiActiveStore,
        generation: Option<i64>,
    ) -> Measured {
        let plan = &self.plan;
        let wanted = live.spec.regions.iter().find(|spec| spec.name == region.name);
        let drained = wanted.is_some_and(|spec| spec.traffic == crds::Traffic::Drained);
        let reports = region.proxies.borrow().clone().unwrap_or_default();
        // One that joins writes nothing yet; whether all is read that one has which leaves, its operation says.
        let stays = |peer: &&Region| peer.joining.is_none() && peer.removing.is_none();
        let peers = self.regions.iter().filter(stays).map(|peer| &peer.name);
        let peers = peers.filter(|name| **name != region.name);
        let operation = |name: &String| shared.operations.get(&ObjectRef::new(name).within(&plan.namespace));
        let joining = region.joining.as_ref().map(|name| operations::phase(operation(name).as_deref()));
        let removing =
            region.removing.as_ref().map(|name| operations::removal_phase(operation(name).as_deref()));
        let brokers = shared.pods.of_part(&plan.namespace, &plan.store, region.id, Part::Broker);
        let all = operations::of_store(shared, &plan.namespace, &plan.store);
        let shards = (0u16..).zip(&region.shards).map(|(number, shard)| {
            let rebuilding = operations::rebuilding(&all, &region.name, number);
            shard.measure(number, &reports, rebuilding)
        });
        let shards: Vec<ShardMeasured> = shards.collect();
        let answers = |shard: &Shard| {
            shard.view.borrow().members.iter().any(|seen| matches!(seen, Seen::Answers { .. }))
        };
        Measured {
            any_engine_answers: region.shards.iter().any(answers),
            joining,
            removing,
            drained: drained.then(|| is_away(plan.shards, &reports)),
            links: peers.map(|peer| build_link(peer, plan.shards, &reports)).collect(),
            ready_proxies: reports.iter().filter(|report| report.ready).count(),
            proxies: plan.proxies,
            ready_brokers: brokers.iter().filter(|pod| PodProcess::of(pod, Part::Broker, 0).ready).count(),
            brokers: plan.brokers,
            ack: reports.iter().map(|report| &report.ack.effective).find(|ack| !ack.is_empty()).cloned(),
            max_lag_ms: plan.max_lag_ms,
            store_waits: self.obstacles.first().map(|notice| notice.message.clone()),
            endpoint: status::endpoint(&plan.store, &region.name, &plan.namespace),
            generation,
            shards,
        }
    }
}

impl Region {
    /// Writes the row if that is due; returns it.
    async fn report(
        &mut self,
        shared: &Shared,
        live: &MultiActiveStore,
        measured: &Measured,
    ) -> Option<StoreRegionStatus> {
        if self.failed.is_some_and(|failed| failed.elapsed() < AFTER_FAILURE) {
            return self.known.clone();
        }
        self.failed = None;
        let since = self.written.elapsed();
        let written = self.row.report(|last| {
            let next = rows::build(measured, last, Timestamp::now());
            rows::is_due(last, &next, since).then_some(next)
        });
        match written.await {
            Ok(Some((last, next))) => {
                self.written = Instant::now();
                for (bad, reason, words) in rows::events(&self.name, &last, &next) {
                    if reason == rows::PROMOTED {
                        shared.metrics.promoted();
                    }
                    shared.publish(live, bad, reason, words).await;
                }
                self.known = Some(next);
            }
            Ok(None) => self.known = self.row.status().await.ok().or(self.known.take()),
            // Somebody was faster: the next look reads it anew.
            Err(RecordError::Client(error)) if error.is_conflict() => {}
            Err(error) => {
                tracing::debug!(%error, region = self.name, "a row was not written");
                self.failed = Some(Instant::now());
            }
        }
        if let Some(known) = &self.known {
            self.shown.show(known.phase);
        }
        self.known.clone()
    }
}

impl Region {
    /// What its operation needs of it.
    fn handle(&self) -> operations::RegionHandle {
        let shards = self.shards.iter().map(|shard| operations::ShardHandle {
            names: shard.names.clone(),
            members: shard.members.clone(),
            view: shard.view.clone(),
            wishes: shard.wishes.clone(),
            gate: shard.gate.clone(),
        });
        operations::RegionHandle {
            name: self.name.clone(),
            id: self.id,
            joining: self.joining.is_some(),
            removing: self.removing.is_some(),
            row: Arc::clone(&self.row),
            shards: shards.collect(),
            proxies: self.proxies.clone(),
        }
    }
}

impl Shard {
    fn measure(
        &self,
        number: u16,
        reports: &[ProxyReport],
        rebuilding: Option<(&'static str, String)>,
    ) -> ShardMeasured {
        let view = self.view.borrow();
        let rebuilding = rebuilding.filter(|_| view.master.is_none());
        let status = build_shard(number, &view.members, view.master, &self.names, reports);
        let notices = view.notices.iter().map(|notice| (notice.reason, notice.message.clone()));
        let notices = rebuilding.into_iter().chain(notices).collect();
        ShardMeasured { status, notices }
    }
}

fn start_verification(
    shared: &Shared,
    plan: &Plan,
    regions: &[Region],
    live: &Arc<MultiActiveStore>,
    settings: crds::Verification,
    tasks: &mut JoinSet<()>,
) -> Verifier {
    let obstacle = Some("its regions were not looked at yet".to_owned());
    let (known, known_seen) = watch::channel(Known { settings, obstacle });
    let (result, seen) = watch::channel(None);
    let (asks, asked) = verify::asks();
    let shards = regions.iter().flat_map(|region| {
        (0u16..).zip(&region.shards).map(|(number, shard)| {
            let of = ShardOf { view: shard.view.clone(), members: shard.members.clone() };
            ((region.name.clone(), number), of)
        })
    });
    let shown = ShownVerification::new(Arc::clone(&shared.metrics), &plan.namespace, &plan.store);
    if let Some(known) = live.status.as_ref().and_then(|status| status.verification.as_ref()) {
        shown.restore(known);
    }
    let store = Verified {
        key: ObjectRef::from_obj(&**live),
        shared: shared.clone(),
        store: plan.store.clone(),
        regions: plan
            // Who joins is compared by its operation.
            .staying()
            .map(|(name, id)| verify::Region { name: name.clone(), id: *id })
            .collect(),
        shards: plan.shards,
        password: plan.engine_password.clone(),
        of: shards.collect(),
        known: known_seen,
        result,
        shown,
    };
    tasks.spawn(verify::run(store, verification::last(live), asked, Arc::clone(&shared.verifying)));
    Verifier { asks, known, result: seen, asked: None }
}

/// A member whose pod is looked at.
struct Pumped {
    pod: String,
    shard: u16,
    /// `host:port`.
    host: String,
    /// The proxies of its region.
    proxies: watch::Receiver<Option<Vec<ProxyReport>>>,
    process: watch::Sender<PodProcess>,
}

impl Pumped {
    fn look(&self, pods: &Pods, namespace: &str) -> PodProcess {
        let now = pods.process(namespace, &self.pod, Part::Redis, build::redis_port());
        let nobody =
            self.proxies.borrow().as_ref().is_some_and(|all| none_hears(all, self.shard, &self.host));
        now.missed_by(nobody)
    }
}

/// A shard's members, by pod name.
fn members(
    of: &Shared,
    plan: &Plan,
    region: &str,
    shard: u16,
    proxies: &watch::Receiver<Option<Vec<ProxyReport>>>,
    pumped: &mut Vec<Pumped>,
) -> (Vec<String>, Vec<Arc<Member<PodProcess>>>) {
    let set = labels::shard_name(&plan.store, region, shard);
    let member = |ordinal: u16| {
        let pod = format!("{set}-{ordinal}");
        let host = format!("{pod}.{set}.{}.svc:{}", plan.namespace, build::redis_port());
        let now = of.pods.process(&plan.namespace, &pod, Part::Redis, build::redis_port());
        let (sender, process) = watch::channel(now);
        let (name, at, proxies) = (pod.clone(), host.clone(), proxies.clone());
        pumped.push(Pumped { pod: name, shard, host: at, proxies, process: sender });
        let engine = Engine::new(pod.clone(), &plan.engine_password, None);
        (pod, Arc::new(Member::new(host, engine, process, None)))
    };
    (0..plan.members).map(member).unzip()
}

/// Tells the members of their pods.
async fn pump(mut pods: Pods, namespace: String, members: Vec<Pumped>) {
    loop {
        for member in &members {
            let now = member.look(&pods, &namespace);
            member.process.send_if_modified(|last| {
                let changed = *last != now;
                *last = now;
                changed
            });
        }
        pods.changed(ASK_PROXIES).await;
    }
}

/// Asks all proxies of a region again and again.
async fn ask_proxies(
    pods: Pods,
    (namespace, store, region): (String, String, u16),
    reports: watch::Sender<Option<Vec<ProxyReport>>>,
) {
    loop {
        let found = pods.of_part(&namespace, &store, region, Part::Proxy);
        let of: Vec<_> =
            found.iter().map(|pod| PodProcess::of(pod, Part::Proxy, build::admin_port())).collect();
        let asked = join_all(of.iter().filter_map(PodProcess::reachable).map(fetch_report)).await;
        reports.send_replace(Some(asked));
        sleep(ASK_PROXIES).await;
    }
}
