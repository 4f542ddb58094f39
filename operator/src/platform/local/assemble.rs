//! Puts a local store together: files, ports, relays, processes and the tasks that look after them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::binaries::Binaries;
use super::component::Component;
use super::layout::{Layout, LayoutError, make_private_folder, write_private};
use super::process::{Keeper, Order, ProcessSpec, ProcessStatus, Spawner};
use super::proxies::{self, PasswordFiles};
use super::record::{self, RecordFile, ShardLedger};
use super::secrets::{self, Secret};
use super::shared::Shared;
use super::stale::{self, Roster};
use super::store::{Options, StartError};
use super::world::{self, RegionPlan, World, address};
use super::{broker, control, ports, relay};
use crate::health::engine::Engine;
use crate::health::member::{End, look_at};
use crate::health::proxy::{self, ProxyReport};
use crate::health::shard::{ShardController, ShardView};
use crate::procedures::shard::{Notice, Place, bootstrap_obstacles};
use crate::render::{self, RedisConfig, Users};
use crate::view::ProcessPhase;

/// How long a region's proxies wait for its broker before they start without it.
const BROKER_PATIENCE: Duration = Duration::from_secs(30);
/// The same at the very first start: what is declared before all nodes are there stays on those that are.
const FOUNDING_PATIENCE: Duration = Duration::from_mins(3);
/// How long the first proxy may take to declare the streams.
const DECLARING_PATIENCE: Duration = Duration::from_secs(20);
const PROBE: Duration = Duration::from_millis(250);

type Member = crate::health::member::Member<ProcessStatus>;

struct Passwords {
    engine: Secret,
    replication: Secret,
    cookie: Secret,
    brokers: BTreeMap<String, Secret>,
    client: Option<Secret>,
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
    if options.new_ports {
        record.ports.clear();
    }
    ports::assign(&layout, &mut record.ports, &world::port_names(&store))?;
    ports::check_free(&record.ports)?;
    record.generation += 1;
    let ids = record.regions.iter().map(|region| (region.name.clone(), region.id)).collect();
    let world = world::plan(&store, &ids, &record.ports);
    let passwords = passwords(&layout, &store)?;
    write_private(&layout.manifest(), options.manifest.as_bytes(), true)?;

    let spawner = Spawner::start(binaries.setpriv.clone())
        .map_err(|source| StartError::Io { what: "the spawner".into(), source })?;
    let roster = Arc::new(Roster::new(&layout));
    let keep = |spec: ProcessSpec, held: bool| {
        Arc::new(Keeper::start(spec, held, spawner.clone(), Arc::clone(&roster)))
    };
    let cuts = start_relays(&world, tasks).await?;

    let mut keepers = BTreeMap::new();
    keepers.insert(Component::Epmd, keep(epmd(&layout, &binaries, world.epmd)?, false));
    let mut members = BTreeMap::new();
    for region in &world.regions {
        for node in &region.brokers {
            let password = &passwords.brokers[&region.name];
            let spec =
                broker::prepare(&layout, &binaries, region, node, world.epmd, password, &passwords.cookie)?;
            keepers.insert(node.component.clone(), keep(spec, false));
        }
        for (shard, nodes) in (0u16..).zip(&region.shards) {
            let mut of_shard = Vec::new();
            for node in nodes {
                let keeper = keep(redis(&layout, &binaries, &store, node, &passwords)?, false);
                keepers.insert(node.component.clone(), Arc::clone(&keeper));
                of_shard.push((node.component.clone(), Arc::new(member(node, &keeper, &passwords.engine))));
            }
            members.insert((region.name.clone(), shard), of_shard);
        }
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
            let config =
                proxies::build_config(&store, &world, region, node, &record.slots, &files, record.generation);
            keepers.insert(
                node.component.clone(),
                keep(proxies::prepare(&layout, &binaries, node, &config)?, true),
            );
        }
    }

    let record = Arc::new(RecordFile::create(&layout, record)?);
    let (shards, founding) = start_controllers(&layout, &store, &world, &members, &record, tasks).await;
    let brokers = start_broker_probes(&world, &keepers, tasks);
    let is_founded = record.get().await.founded.is_some();
    start_gates(&world, &keepers, &brokers, is_founded, tasks);
    let proxies = start_proxy_probes(&world, &keepers, tasks);
    let was_active =
        world.regions.iter().map(|region| (region.name.clone(), AtomicBool::new(false))).collect();
    let shared = Arc::new(Shared {
        layout,
        store,
        world,
        keepers,
        shards,
        brokers,
        proxies,
        cuts,
        founding,
        was_active,
        end_wanted: Notify::new(),
    });
    let listener = control::bind(&shared.layout)?;
    tasks.spawn(control::serve(listener, Arc::clone(&shared)));
    Ok((shared, lock))
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
    let file = folder.join("redis.conf");
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

async fn start_relays(
    world: &World,
    tasks: &mut JoinSet<()>,
) -> Result<BTreeMap<(String, String), watch::Sender<bool>>, StartError> {
    let mut cuts = BTreeMap::new();
    for link in &world.links {
        let way = (link.from.clone(), link.to.clone());
        let cut = cuts.entry(way).or_insert_with(|| watch::channel(false).0);
        let what = format!("the relay from {} to {} ({:?})", link.from, link.to, link.what);
        let listener = relay::bind(link.port).await.map_err(|source| StartError::Io { what, source })?;
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, link.target));
        tasks.spawn(relay::run(listener, target, cut.subscribe()));
    }
    Ok(cuts)
}

type Members = BTreeMap<(String, u16), Vec<(Component, Arc<Member>)>>;
type ShardViews = BTreeMap<(String, u16), watch::Receiver<ShardView>>;

async fn start_controllers(
    layout: &Layout,
    store: &crds::Validated,
    world: &World,
    members: &Members,
    record: &Arc<RecordFile>,
    tasks: &mut JoinSet<()>,
) -> (ShardViews, watch::Receiver<Vec<Notice>>) {
    let founded = record.get().await.founded.is_some();
    let (founded_set, founded_seen) = watch::channel(founded);
    let (notices_set, notices) = watch::channel(Vec::new());
    let started = Instant::now();
    let mut views = BTreeMap::new();
    for region in &world.regions {
        for (shard, _) in (0u16..).zip(&region.shards) {
            let key = (region.name.clone(), shard);
            for (_, member) in &members[&key] {
                tasks.spawn(Arc::clone(member).watch());
            }
            let (view, seen) = watch::channel(ShardView::default());
            let controller = ShardController {
                name: format!("{}/shard-{shard}", region.name),
                place: Place { store: store.name.clone(), region: region.id, shard },
                members: members[&key].iter().map(|(_, member)| Arc::clone(member)).collect(),
                ledger: ShardLedger {
                    shard: format!("{}/shard-{shard}", region.name),
                    record: Arc::clone(record),
                    layout: layout.clone(),
                    members: members[&key].iter().map(|(component, _)| component.clone()).collect(),
                },
                view,
            };
            tasks.spawn(controller.run(founded_seen.clone(), started));
            views.insert(key, seen);
        }
    }
    if !founded {
        tasks.spawn(found(members.clone(), Arc::clone(record), founded_set, notices_set));
    }
    (views, notices)
}

/// Founds the store once every engine answers and is empty.
async fn found(
    members: Members,
    record: Arc<RecordFile>,
    founded: watch::Sender<bool>,
    notices: watch::Sender<Vec<Notice>>,
) {
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
                    founded.send_replace(true);
                    return;
                }
                Err(error) => obstacles.push(Notice { reason: "RecordFailed", message: error.to_string() }),
            }
        }
        notices.send_replace(obstacles);
        sleep(PROBE).await;
    }
}

fn start_broker_probes(
    world: &World,
    keepers: &BTreeMap<Component, Arc<Keeper>>,
    tasks: &mut JoinSet<()>,
) -> BTreeMap<Component, watch::Receiver<bool>> {
    let mut seen = BTreeMap::new();
    for node in world.regions.iter().flat_map(|region| &region.brokers) {
        let (ready, receiver) = watch::channel(false);
        let mut process = keepers[&node.component].status();
        let port = node.amqp;
        // Asked only until it is ready: every probe is a line in the broker's log.
        tasks.spawn(async move {
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
        seen.insert(node.component.clone(), receiver);
    }
    seen
}

/// Starts each region's proxies when its broker is ready, so that the first write already finds it. On several nodes the
/// first proxy declares the streams alone: RabbitMQ 3.10 forms its coordinator of streams at the first declaration, and
/// two of them at once, on two nodes, make two, of which one is lost with its node, and the streams with it.
fn start_gates(
    world: &World,
    keepers: &BTreeMap<Component, Arc<Keeper>>,
    brokers: &BTreeMap<Component, watch::Receiver<bool>>,
    founded: bool,
    tasks: &mut JoinSet<()>,
) {
    for RegionPlan { brokers: nodes, proxies, .. } in &world.regions {
        let mut ready: Vec<_> = nodes.iter().map(|node| brokers[&node.component].clone()).collect();
        let proxies: Vec<_> =
            proxies.iter().map(|node| (node.admin, Arc::clone(&keepers[&node.component]))).collect();
        let one_first = nodes.len() > 1;
        tasks.spawn(async move {
            let all_ready = async {
                for node in &mut ready {
                    let _ = node.wait_for(|ready| *ready).await;
                }
            };
            let patience = if one_first && !founded { FOUNDING_PATIENCE } else { BROKER_PATIENCE };
            let _ = timeout(patience, all_ready).await;
            for (number, (admin, proxy)) in (0..).zip(proxies) {
                proxy.order(Order::Start).await;
                if one_first && number == 0 {
                    let _ = timeout(DECLARING_PATIENCE, has_declared(admin)).await;
                }
            }
        });
    }
}

/// Until a proxy has declared the region's streams.
async fn has_declared(admin: u16) {
    while !proxy::has_declared(&address(admin)).await {
        sleep(PROBE).await;
    }
}

fn start_proxy_probes(
    world: &World,
    keepers: &BTreeMap<Component, Arc<Keeper>>,
    tasks: &mut JoinSet<()>,
) -> BTreeMap<Component, watch::Receiver<ProxyReport>> {
    let mut seen = BTreeMap::new();
    for node in world.regions.iter().flat_map(|region| &region.proxies) {
        let (report, receiver) = watch::channel(ProxyReport::default());
        let mut process = keepers[&node.component].status();
        let admin = node.admin;
        tasks.spawn(async move {
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
        seen.insert(node.component.clone(), receiver);
    }
    seen
}
