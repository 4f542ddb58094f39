//! Puts a local store together: files, ports, relays, processes and the tasks that look after them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::binaries::Binaries;
use super::component::Component;
use super::layout::{Layout, LayoutError, make_private_folder, write_private};
use super::process::{Keeper, Order, ProcessSpec, ProcessStatus, Spawner};
use super::proxies::{self, PasswordFiles};
use super::rebuild::Watches;
use super::record::{self, Leaving, RecordFile, ShardLedger};
use super::secrets::{self, Secret};
use super::set_aside::CONFIGURATION;
use super::shared::{Gates, Members, Parts, ShardAccess, Shared};
use super::stale::{self, Roster};
use super::store::{Options, StartError};
use super::world::{self, RegionPlan, World, address};
use super::{broker, control, operations, ports, relay, verify};
use crate::health::engine::Engine;
use crate::health::member::{End, look_at};
use crate::health::proxy::{self, ProxyReport};
use crate::health::shard::{ShardController, ShardView, Wishes};
use crate::operations::scale_out::Verifying;
use crate::procedures::shard::{Notice, Place, bootstrap_obstacles};
use crate::render::{self, RedisConfig, Users};
use crate::view::ProcessPhase;

/// How long a region's proxies wait for its broker before they start without it.
const BROKER_PATIENCE: Duration = Duration::from_secs(30);
/// The same at the very first start: what is declared before all nodes are there stays on those that are.
const FORMING_PATIENCE: Duration = Duration::from_mins(3);
/// How long the first proxy may take to declare the streams.
const DECLARING_PATIENCE: Duration = Duration::from_secs(20);
const PROBE: Duration = Duration::from_millis(250);

type Member = crate::health::member::Member<ProcessStatus>;

/// What all regions share, and the password of each region's broker.
struct Passwords {
    engine: Secret,
    replication: Secret,
    cookie: Secret,
    brokers: BTreeMap<String, Secret>,
    client: Option<Secret>,
}

/// Makes the parts of regions: those that there are at the start, and those that join later.
pub(super) struct Workshop {
    layout: Layout,
    binaries: Binaries,
    spawner: Spawner,
    roster: Arc<Roster>,
    pub(super) record: Arc<RecordFile>,
    pub(super) nursery: Nursery,
    started: Instant,
}

/// Runs tasks until whoever holds the other end is gone.
#[derive(Clone)]
pub(super) struct Nursery(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl Nursery {
    fn start(tasks: &mut JoinSet<()>) -> Self {
        let (sender, mut wanted) = mpsc::unbounded_channel::<BoxFuture<'static, ()>>();
        tasks.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                tokio::select! {
                    task = wanted.recv() => match task {
                        Some(task) => drop(running.spawn(task)),
                        None => return,
                    },
                    _ = running.join_next(), if !running.is_empty() => {}
                }
            }
        });
        Self(sender)
    }

    /// Runs it.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Nobody receives when all ends anyway.
        let _ = self.0.send(Box::pin(task));
    }
}

/// Starts everything. The tasks go into `tasks`; the file is the store's lock.
pub(super) async fn assemble(
    options: &Options,
    tasks: &mut JoinSet<()>,
) -> Result<(Arc<Shared>, File), StartError> {
    let store = crds::load(&options.manifest)?;
    let layout = Layout::new(&options.state_dir)?;
    record::open(&layout, &store)?;
    let binaries = Binaries::find(&options.binaries)?;
    let lock = layout.lock()?;
    let swept = stale::sweep(&layout);
    if swept > 0 {
        tracing::warn!(swept, "ended processes that an earlier supervisor had left");
    }
    let mut record = record::open(&layout, &store)?;
    let store = record.with_leaving(&store);
    if options.new_ports {
        record.ports.clear();
    }
    let names = world::port_names(&store, &record);
    ports::assign(&layout, &mut record.ports, &names)?;
    ports::check_free(record.ports.iter())?;
    record.generation += 1;
    let world = world::plan(&store, &record);
    write_private(&layout.manifest(), options.manifest.as_bytes(), true)?;

    let spawner = Spawner::start(binaries.setpriv.clone())
        .map_err(|source| StartError::Io { what: "the spawner".into(), source })?;
    let roster = Arc::new(Roster::new(&layout));
    let founded = record.founded.is_some();
    let workshop = Workshop {
        layout: layout.clone(),
        binaries,
        spawner,
        roster,
        record: Arc::new(RecordFile::create(&layout, record)?),
        nursery: Nursery::start(tasks),
        started: Instant::now(),
    };
    let mut parts = Parts::new(store, world);
    workshop.start_epmd(&mut parts)?;
    workshop.build(&mut parts).await?;
    let (notices_set, founding) = watch::channel(Vec::new());
    if !founded {
        let (members, gates) = (parts.members.clone(), parts.gates.clone());
        workshop.nursery.spawn(found(members, Arc::clone(&workshop.record), gates, notices_set));
    }
    let nursery = workshop.nursery.clone();
    let last = verify::last(&layout);
    let (asks, asked) = crate::verify::asks();
    let shared = Arc::new(Shared {
        verify: asks,
        verified: std::sync::Mutex::new(last.as_ref().map(|report| verify::condition(&layout, report))),
        layout,
        parts: RwLock::new(Arc::new(parts)),
        workshop,
        founding,
        changing: Mutex::default(),
        watches: Watches::default(),
        verifying: Verifying::default(),
        end_wanted: Notify::new(),
    });
    let verified = verify::Verified { shared: Arc::clone(&shared) };
    let turn = Arc::new(Semaphore::new(1));
    nursery.spawn(crate::verify::run(verified, last.as_ref().and_then(verify::when), asked, turn));
    let listener = control::bind(&shared.layout)?;
    nursery.spawn(control::serve(listener, Arc::clone(&shared)));
    nursery.spawn(operations::run(Arc::clone(&shared)));
    Ok((shared, lock))
}

impl Workshop {
    fn keep(&self, spec: ProcessSpec, held: bool) -> Arc<Keeper> {
        Arc::new(Keeper::start(spec, held, self.spawner.clone(), Arc::clone(&self.roster)))
    }

    fn start_epmd(&self, parts: &mut Parts) -> Result<(), LayoutError> {
        let spec = epmd(&self.layout, &self.binaries, parts.world.epmd)?;
        parts.keepers.insert(Component::Epmd, self.keep(spec, false));
        Ok(())
    }

    /// Makes what is planned and not there yet, and tells all proxies.
    pub(super) async fn build(&self, parts: &mut Parts) -> Result<(), StartError> {
        let record = self.record.get().await;
        let passwords = passwords(&self.layout, &parts.store)?;
        let world = parts.world.clone();
        start_relays(&world, parts, &self.nursery).await?;
        for region in &world.regions {
            let files = PasswordFiles {
                engine: passwords.engine.file.clone(),
                brokers: passwords
                    .brokers
                    .iter()
                    .map(|(name, secret)| (name.clone(), secret.file.clone()))
                    .collect(),
                client: passwords.client.as_ref().map(|secret| secret.file.clone()),
            };
            for node in &region.proxies {
                let config = proxies::build_config(&parts.store, &world, region, node, &record, &files);
                let spec = proxies::prepare(&self.layout, &self.binaries, node, &config)?;
                // One that runs reads the file again.
                if !parts.keepers.contains_key(&node.component) {
                    parts.keepers.insert(node.component.clone(), self.keep(spec, true));
                }
            }
            if !parts.was_active.contains_key(&region.name) {
                self.build_region(parts, region, &record, &passwords)?;
            }
        }
        Ok(())
    }

    fn build_region(
        &self,
        parts: &mut Parts,
        region: &RegionPlan,
        record: &record::Record,
        passwords: &Passwords,
    ) -> Result<(), StartError> {
        let founded = record.founded.is_some();
        for node in &region.brokers {
            let (password, cookie) = (&passwords.brokers[&region.name], &passwords.cookie);
            let epmd = parts.world.epmd;
            let spec = broker::prepare(&self.layout, &self.binaries, region, node, epmd, password, cookie)?;
            parts.keepers.insert(node.component.clone(), self.keep(spec, false));
        }
        let settled = record.leaving(&region.name) == Some(Leaving::Settled);
        for (shard, nodes) in (0u16..).zip(&region.shards) {
            let mut of_shard = Vec::new();
            for node in nodes {
                let spec = redis(&self.layout, &self.binaries, &parts.store, node, passwords)?;
                let keeper = self.keep(spec, settled);
                parts.keepers.insert(node.component.clone(), Arc::clone(&keeper));
                of_shard.push((node.component.clone(), Arc::new(member(node, &keeper, &passwords.engine))));
            }
            // Who joins is no shard of its own before its operation has made it one.
            let open = founded && !settled && !record.joining().contains(&region.name);
            self.start_controller(parts, region, shard, of_shard, open);
        }
        start_broker_probes(region, parts, &self.nursery);
        if !settled {
            start_gate(&self.layout, region, parts, &self.nursery);
        }
        start_proxy_probes(region, parts, &self.nursery);
        parts.was_active.insert(region.name.clone(), Arc::default());
        Ok(())
    }

    fn start_controller(
        &self,
        parts: &mut Parts,
        region: &RegionPlan,
        shard: u16,
        members: Vec<(Component, Arc<Member>)>,
        open: bool,
    ) {
        for (_, member) in &members {
            self.nursery.spawn(Arc::clone(member).watch());
        }
        let (gate, is_open) = watch::channel(open);
        let (view, seen) = watch::channel(ShardView::default());
        let (wishes, asked) = Wishes::new();
        let name = format!("{}/shard-{shard}", region.name);
        let controller = ShardController {
            name: name.clone(),
            place: Place { store: parts.store.name.clone(), region: region.id, shard },
            members: members.iter().map(|(_, member)| Arc::clone(member)).collect(),
            ledger: ShardLedger {
                shard: name,
                record: Arc::clone(&self.record),
                layout: self.layout.clone(),
                members: members.iter().map(|(component, _)| component.clone()).collect(),
            },
            view,
            wishes: asked,
        };
        self.nursery.spawn(controller.run(is_open, self.started));
        let key = (region.name.clone(), shard);
        parts.gates.insert(key.clone(), Arc::new(gate));
        parts.shards.insert(key.clone(), ShardAccess { view: seen, wishes });
        parts.members.insert(key, members);
    }
}

fn member(node: &world::RedisNode, keeper: &Arc<Keeper>, password: &Secret) -> Member {
    let host = address(node.port);
    let engine = Engine::new(node.component.to_string(), &password.value, Some(host.clone()));
    let of = Arc::clone(keeper);
    let end: End = Box::new(move || {
        let keeper = Arc::clone(&of);
        Box::pin(async move { keeper.order(Order::Kill { hold: false }).await })
    });
    Member::new(host, engine, keeper.status(), Some(end))
}

fn passwords(layout: &Layout, store: &crds::Validated) -> Result<Passwords, LayoutError> {
    let brokers = store.regions.iter().map(|region| {
        secrets::ensure(layout, &format!("broker-{}", region.name))
            .map(|secret| (region.name.clone(), secret))
    });
    Ok(Passwords {
        engine: secrets::ensure(layout, "engine")?,
        replication: secrets::ensure(layout, "replication")?,
        cookie: secrets::ensure(layout, "erlang-cookie")?,
        brokers: brokers.collect::<Result<_, _>>()?,
        client: store.auth_secret.as_ref().map(|_| secrets::ensure(layout, "client")).transpose()?,
    })
}

fn epmd(layout: &Layout, binaries: &Binaries, port: u16) -> Result<ProcessSpec, LayoutError> {
    let folder = layout.component(&Component::Epmd);
    make_private_folder(&folder)?;
    Ok(ProcessSpec {
        component: Component::Epmd,
        program: binaries.epmd.clone(),
        args: ["-address", "127.0.0.1", "-port"]
            .map(ToOwned::to_owned)
            .into_iter()
            .chain([port.to_string()])
            .collect(),
        env: BTreeMap::new(),
        folder,
        grace: Duration::from_secs(2),
    })
}

fn redis(
    layout: &Layout,
    binaries: &Binaries,
    store: &crds::Validated,
    node: &world::RedisNode,
    passwords: &Passwords,
) -> Result<ProcessSpec, LayoutError> {
    let folder = layout.component(&node.component);
    make_private_folder(&folder)?;
    let text = render::redis(&RedisConfig {
        bind: "127.0.0.1",
        port: node.port,
        folder: &folder,
        module: &binaries.engine_module,
        node: Some(&node.component.to_string()),
        users: Users::Text(&render::redis_users(
            &passwords.engine.value,
            &passwords.replication.value,
            false,
        )),
        max_memory: store.redis.max_memory.as_bytes(),
        append_only: store.redis.append_only,
        max_skew_ms: store.max_skew.as_millis(),
    });
    let file = folder.join(CONFIGURATION);
    write_private(&file, text.as_bytes(), false)?;
    Ok(ProcessSpec {
        component: node.component.clone(),
        program: binaries.redis.clone(),
        args: vec![file.display().to_string()],
        env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
        folder,
        grace: Duration::from_secs(20),
    })
}

/// Those that are not there yet.
async fn start_relays(world: &World, parts: &mut Parts, nursery: &Nursery) -> Result<(), StartError> {
    for link in &world.links {
        if parts.relays.contains(&link.port) {
            continue;
        }
        let way = (link.from.clone(), link.to.clone());
        let cut = parts.cuts.entry(way).or_insert_with(|| Arc::new(watch::channel(false).0));
        let what = format!("the relay from {} to {} ({})", link.from, link.to, link.what);
        let listener = relay::bind(link.port).await.map_err(|source| StartError::Io { what, source })?;
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, link.target));
        nursery.spawn(relay::run(listener, target, cut.subscribe()));
        parts.relays.insert(link.port);
    }
    Ok(())
}

/// Founds the store once every engine answers and is empty.
async fn found(members: Members, record: Arc<RecordFile>, gates: Gates, notices: watch::Sender<Vec<Notice>>) {
    loop {
        let seen: Vec<_> = members
            .values()
            .flat_map(|shard| {
                let (names, members): (Vec<_>, Vec<_>) = shard.iter().cloned().unzip();
                names.into_iter().map(|name| name.to_string()).zip(look_at(&members))
            })
            .collect();
        let mut obstacles = bootstrap_obstacles(seen.iter().map(|(name, seen)| (name.clone(), seen)));
        if obstacles.is_empty() {
            let now = jiff::Timestamp::now().to_string();
            let written = record
                .update(|record| {
                    record.founded = Some(now);
                    Ok(())
                })
                .await;
            match written {
                Ok(()) => {
                    tracing::info!("founded");
                    notices.send_replace(Vec::new());
                    for gate in gates.values() {
                        gate.send_replace(true);
                    }
                    return;
                }
                Err(error) => obstacles.push(Notice { reason: "RecordFailed", message: error.to_string() }),
            }
        }
        notices.send_replace(obstacles);
        sleep(PROBE).await;
    }
}

fn start_broker_probes(region: &RegionPlan, parts: &mut Parts, nursery: &Nursery) {
    for node in &region.brokers {
        let (ready, receiver) = watch::channel(false);
        let mut process = parts.keepers[&node.component].status();
        let port = node.amqp;
        // Asked only until it is ready: every probe is a line in the broker's log.
        nursery.spawn(async move {
            loop {
                let status = process.borrow_and_update().clone();
                let running = status.phase == ProcessPhase::Running;
                let is_ready = running && broker::is_ready(port).await;
                ready.send_replace(is_ready);
                if is_ready || !running {
                    if process.changed().await.is_err() {
                        return;
                    }
                } else {
                    let _ = timeout(PROBE, process.changed()).await;
                }
            }
        });
        parts.brokers.insert(node.component.clone(), receiver);
    }
}

/// Starts the region's proxies when its broker is ready, so that the first write already finds it. On several nodes the
/// first proxy declares the streams alone: RabbitMQ 3.10 forms its coordinator of streams at the first declaration, and
/// two of them at once, on two nodes, make two, of which one is lost with its node, and the streams with it.
fn start_gate(layout: &Layout, region: &RegionPlan, parts: &Parts, nursery: &Nursery) {
    let RegionPlan { name, brokers: nodes, proxies, .. } = region;
    let mut ready: Vec<_> = nodes.iter().map(|node| parts.brokers[&node.component].clone()).collect();
    let proxies: Vec<_> =
        proxies.iter().map(|node| (node.admin, Arc::clone(&parts.keepers[&node.component]))).collect();
    let one_first = nodes.len() > 1;
    let formed = layout.formed(name);
    nursery.spawn(async move {
        let patience = if one_first && !formed.exists() { FORMING_PATIENCE } else { BROKER_PATIENCE };
        let _ = timeout(patience, all_ready(&mut ready)).await;
        for (number, (admin, proxy)) in (0..).zip(proxies) {
            proxy.order(Order::Start).await;
            if one_first && number == 0 {
                let _ = timeout(DECLARING_PATIENCE, has_declared(admin)).await;
            }
        }
        all_ready(&mut ready).await;
        if let Err(error) = write_private(&formed, b"", true) {
            tracing::warn!(%error, "the broker's nodes are not told that all of them were there");
        }
    });
}

async fn all_ready(nodes: &mut [watch::Receiver<bool>]) {
    for node in nodes {
        let _ = node.wait_for(|ready| *ready).await;
    }
}

/// Until a proxy has declared the region's streams.
async fn has_declared(admin: u16) {
    while !proxy::has_declared(&address(admin)).await {
        sleep(PROBE).await;
    }
}

fn start_proxy_probes(region: &RegionPlan, parts: &mut Parts, nursery: &Nursery) {
    for node in &region.proxies {
        let (report, receiver) = watch::channel(ProxyReport::default());
        let mut process = parts.keepers[&node.component].status();
        let admin = node.admin;
        nursery.spawn(async move {
            loop {
                let running = process.borrow_and_update().phase == ProcessPhase::Running;
                report.send_replace(if running {
                    proxy::fetch_report(&address(admin)).await
                } else {
                    ProxyReport::default()
                });
                let _ = timeout(PROBE, process.changed()).await;
            }
        });
        parts.proxies.insert(node.component.clone(), receiver);
    }
}
