//! The proxies of a region: their configuration files and their processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mas_core::config::{BrokerConfig, ClientAuth, PeerConfig, ProxyConfig, RegionRef, ShardConfig};

use super::binaries::Binaries;
use super::layout::{Layout, LayoutError, make_private_folder, write_private};
use super::process::ProcessSpec;
use super::record::Record;
use super::world::{self, ProxyNode, RegionPlan, World, address};
use crate::render;

/// Files with passwords that proxies read.
#[derive(Clone, Debug)]
pub(super) struct PasswordFiles {
    pub(super) engine: PathBuf,
    /// By region.
    pub(super) brokers: BTreeMap<String, PathBuf>,
    pub(super) client: Option<PathBuf>,
}

/// The configuration of one proxy. Pure.
pub(super) fn build_config(
    store: &crds::Validated,
    world: &World,
    region: &RegionPlan,
    proxy: &ProxyNode,
    record: &Record,
    passwords: &PasswordFiles,
) -> ProxyConfig {
    let broker = |region: &str, nodes: Vec<String>| BrokerConfig {
        nodes,
        vhost: "/".into(),
        username: render::BROKER_USER.into(),
        password_file: passwords.brokers.get(region).cloned().unwrap_or_default(),
    };
    let reference = |region: &RegionPlan| RegionRef { name: region.name.clone(), id: region.id };
    let peers = world.regions.iter().filter(|peer| peer.name != region.name).map(|peer| {
        let ways = peer.brokers.iter().filter_map(|node| world.way(&region.name, &node.component));
        PeerConfig {
            region: reference(peer),
            broker: broker(&peer.name, ways.map(address).collect()),
            // One that is drained takes no requests of others either.
            endpoint: world
                .way(&region.name, &world::clients(&peer.name))
                .filter(|_| !peer.drained)
                .map(address),
        }
    });
    let shards = (0u16..).zip(&region.shards).map(|(shard, members)| ShardConfig {
        shard,
        members: members.iter().map(|node| address(node.port)).collect(),
        slots: record.slots.get(usize::from(shard)).cloned().unwrap_or_default(),
        fsync_always: store.redis.append_only == crds::AppendOnly::Always,
    });
    let replication = &store.replication;
    ProxyConfig {
        generation: record.generation,
        store: store.name.clone(),
        proxy: proxy.component.to_string().replace('/', "."),
        region: reference(region),
        listen: address(region.client),
        admin: address(proxy.admin),
        shards: shards.collect(),
        broker: broker(&region.name, region.brokers.iter().map(|node| address(node.amqp)).collect()),
        peers: peers.collect(),
        membership: record.membership,
        ack: render::ack_level(replication.ack),
        remote_acks: replication.remote_acks,
        on_broker_loss: render::on_broker_loss(replication.on_broker_loss),
        retention: render::retention(replication),
        max_lag_ms: replication.max_lag.as_millis(),
        evacuate_after_ms: mas_core::config::evacuate_after_ms(),
        drained: region.drained,
        gone: record.gone().into_iter().filter(|id| *id != region.id).collect(),
        engine_password_file: Some(passwords.engine.clone()),
        client_auth: passwords
            .client
            .clone()
            .map(|password_file| ClientAuth { username: "default".into(), password_file }),
        max_connections: store.proxy.max_connections as usize,
        workers: workers(store.proxy.replicas),
    }
}

/// Threads of each proxy: the proxies of a region share the machine's cores.
fn workers(proxies: u16) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / usize::from(proxies.max(1))).clamp(1, 8)
}

/// Writes the configuration and says how to run the proxy.
pub(super) fn prepare(
    layout: &Layout,
    binaries: &Binaries,
    node: &ProxyNode,
    config: &ProxyConfig,
) -> Result<ProcessSpec, LayoutError> {
    let folder = layout.component(&node.component);
    make_private_folder(&folder)?;
    let file = folder.join("config.json");
    write_private(&file, &serde_json::to_vec_pretty(config).unwrap_or_default(), false)?;
    let passed_on = ["RUST_LOG", "RUST_BACKTRACE", "MAS_LOG"];
    let env = passed_on.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    Ok(ProcessSpec {
        component: node.component.clone(),
        program: binaries.proxy.clone(),
        args: vec!["--config".into(), file.display().to_string()],
        env: env.collect(),
        folder,
        grace: Duration::from_secs(10),
    })
}
