//! A region of one shard in a test: an engine, a broker, and one or more replication sides as proxies have them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mas_core::config::{
    AckLevel, BrokerConfig, OnBrokerLoss, PeerConfig, ProxyConfig, RegionRef, Retention, ShardConfig,
};
use mas_core::stamp::{Hlc, Incarnation, ShardId};
use mas_proxy::front::replication::{Clocks, LinkStatus, Replication, Wiring};
use mas_proxy::front::routing::{Master, Masters, ShardMaster};
use mas_proxy::link::{AckEvent, Acknowledged, Note, Shipment, Wait, Waiter};
use mas_proxy::replication::Replicator;
use tokio::sync::{mpsc, watch};

use super::servers::{Broker, Engine, wait_for};

pub const STORE: &str = "shop";

pub fn broker_config(address: &str, broker: &Broker) -> BrokerConfig {
    BrokerConfig {
        nodes: vec![address.to_owned()],
        vhost: "/".into(),
        username: "guest".into(),
        password_file: broker.password_file(),
    }
}

pub fn region_ref(id: u16) -> RegionRef {
    RegionRef { name: format!("region-{id}"), id }
}

/// The configuration of a proxy of region `id`. `peers`: their brokers by the addresses that reach them.
pub fn config(id: u16, engine: &Engine, broker: &Broker, peers: &[(u16, String, &Broker)]) -> ProxyConfig {
    ProxyConfig {
        generation: 1,
        store: STORE.into(),
        proxy: format!("proxy-{id}"),
        region: region_ref(id),
        listen: "127.0.0.1:0".into(),
        admin: "127.0.0.1:0".into(),
        shards: vec![ShardConfig {
            shard: 0,
            members: vec![engine.address()],
            slots: vec![(0, 16383)],
            fsync_always: true,
        }],
        broker: broker_config(&broker.address(), broker),
        peers: peers
            .iter()
            .map(|(id, address, broker)| PeerConfig {
                region: region_ref(*id),
                broker: broker_config(address, broker),
                endpoint: None,
            })
            .collect(),
        membership: 1,
        ack: AckLevel::Queued,
        remote_acks: 1,
        on_broker_loss: OnBrokerLoss::Degrade,
        retention: Retention { seconds: 3600, bytes: 64 << 20 },
        max_lag_ms: 1000,
        evacuate_after_ms: mas_core::config::evacuate_after_ms(),
        drained: false,
        gone: Vec::new(),
        engine_password_file: None,
        client_auth: None,
        max_connections: 100,
        workers: 1,
    }
}

/// The replication side of one proxy, with a stand-in for its front.
pub struct Proxy {
    pub replication: Replicator,
    pub config: watch::Sender<Arc<ProxyConfig>>,
    events: std::sync::Mutex<mpsc::UnboundedReceiver<Vec<AckEvent>>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start(config: ProxyConfig) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_env("MAS_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let (config_sender, config_receiver) = watch::channel(Arc::new(config));
        let (masters_sender, masters) = watch::channel(Arc::new(Masters::default()));
        let (send, events) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let wiring = Wiring {
            config: config_receiver.clone(),
            masters,
            ask_again: Arc::default(),
            clocks: Clocks::new(1),
            acks: vec![send],
        };
        let replication = Replicator::start(wiring).expect("it starts");
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let member = config_receiver.borrow().shards[0].members[0].clone();
                let masters =
                    Masters { shards: vec![ShardMaster { master: ask(&member), ..ShardMaster::default() }] };
                masters_sender.send_if_modified(|old| {
                    let changed = **old != masters;
                    *old = Arc::new(masters);
                    changed
                });
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { replication, config: config_sender, events: std::sync::Mutex::new(events), stop }
    }

    /// Executes a write as a front does, and ships it; the acknowledgement, if one was asked for.
    pub fn write(&self, engine: &Engine, words: &[&[u8]], level: Option<AckLevel>) -> Option<Acknowledged> {
        let shipment = execute(engine, words, level);
        self.replication.ship(vec![shipment]);
        level.map(|_| self.acknowledged(20))
    }

    pub fn set(
        &self,
        engine: &Engine,
        key: &str,
        value: &str,
        level: Option<AckLevel>,
    ) -> Option<Acknowledged> {
        self.write(engine, &[b"SET", key.as_bytes(), value.as_bytes()], level)
    }

    pub fn acknowledged(&self, seconds: u64) -> Acknowledged {
        let mut events = self.events.lock().expect("events");
        wait_for("an acknowledgement", seconds, || events.try_recv().ok())[0].outcome
    }

    pub fn link(&self) -> LinkStatus {
        self.replication.links().into_iter().next().unwrap_or_default()
    }

    pub fn wait_state(&self, state: &str) {
        wait_for(state, 30, || (self.link().state == state).then_some(()));
    }

    /// One value of the metrics, summed over labels.
    pub fn metric(&self, name: &str) -> f64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.replication.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
        let lines = text.lines().filter(|l| {
            let end = l.find(['{', ' ']).unwrap_or(l.len());
            l[..end] == *name
        });
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs a write through `MAS.EXEC`; what a front would ship then.
pub fn execute(engine: &Engine, words: &[&[u8]], level: Option<AckLevel>) -> Shipment {
    let incarnation = Incarnation::parse(&engine.identity("incarnation")).expect("an incarnation");
    let mut header = incarnation.0.to_le_bytes().to_vec();
    header.extend([0; 8]);
    let mut all: Vec<&[u8]> = vec![b"MAS.EXEC", &header];
    all.extend(words);
    let (_, note): (redis::Value, Vec<u8>) = engine.call_bytes(&all).expect("the write is taken");
    let number = |at: usize| u64::from_le_bytes(note[at..at + 8].try_into().expect("8 bytes"));
    let note = Note {
        incarnation,
        seq: number(0),
        hlc: Hlc(number(8)),
        effect: Bytes::copy_from_slice(&note[16..]),
    };
    let waiter = Waiter { worker: 0, token: 1 };
    let wait = level.map(|level| Wait { level, regions: 1, waiter });
    Shipment { shard: ShardId(0), note, wait }
}

fn ask(address: &str) -> Option<Master> {
    let client = redis::Client::open(format!("redis://{address}/")).ok()?;
    let mut connection = client.get_connection_with_timeout(Duration::from_millis(500)).ok()?;
    let fields: Vec<String> = redis::cmd("MAS.IDENTITY").query(&mut connection).ok()?;
    let field = |name: &str| fields.iter().position(|f| f == name).and_then(|at| fields.get(at + 1));
    (field("state")? == "serving").then_some(())?;
    Some(Master {
        address: address.to_owned(),
        incarnation: Incarnation::parse(field("incarnation")?)?,
        epoch: field("epoch")?.parse().ok()?,
    })
}

/// Promotes a fenced engine, as the controller would.
pub fn promote(engine: &Engine, epoch: u64, region: u16) {
    let (epoch, region) = (epoch.to_string(), region.to_string());
    let _: String = engine.call(&["MAS.PROMOTE", &epoch, STORE, &region, "0"]).expect("promoted");
}

/// Waits until the proxies have recovered the engine.
pub fn wait_serving(engine: &Engine, recovered: bool) {
    let want = if recovered { "1" } else { "0" };
    wait_for("serving", 40, || {
        (engine.identity("state") == "serving" && engine.identity("recovered") == want).then_some(())
    });
}
