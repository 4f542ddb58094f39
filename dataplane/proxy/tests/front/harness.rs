//! A front with fake engines behind it, a replication side that does what the test says, and a client.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mas_core::config::{
    AckLevel, BrokerConfig, OnBrokerLoss, PeerConfig, ProxyConfig, RegionRef, Retention, ShardConfig,
};
use mas_core::cover::Cover;
use mas_core::replication::token::{ShardNeed, Token};
use mas_core::slot::even_ranges;
use mas_core::stamp::{Hlc, ShardId};
use mas_proxy::front::counters::{Count, Totals};
use mas_proxy::front::limits::OutputBounds;
use mas_proxy::front::replication::{AckSender, Answer, Clocks, LinkStatus, Refusal, Replication, Written};
use mas_proxy::front::settings::Settings;
use mas_proxy::front::state::Shared;
use mas_proxy::front::{self, Front, discovery};
use mas_proxy::link::{AckEvent, Acknowledged, Shipment};
use mas_proxy::resp::reply::Scanner;
use tokio::sync::{mpsc, watch};

use crate::fake_engine::FakeEngine;

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The replication side of the tests: keeps what is shipped, acknowledges when and as it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    acks: Mutex<Vec<AckSender>>,
    shipped: Mutex<Vec<Shipment>>,
    waiting: Mutex<Vec<mas_proxy::link::Waiter>>,
    at_once: Mutex<Option<Acknowledged>>,
    /// What a region that forwards here is told of this one's shards; `None`: they have no master.
    has: Mutex<Option<Cover>>,
    last_known: Mutex<Cover>,
    /// Tokens of other regions are never covered here.
    behind: AtomicBool,
}

impl Recorder {
    /// From now on acknowledgements come at once, like this; `None`: when [`Recorder::release`] is called.
    pub(crate) fn answer_at_once(&self, outcome: Option<Acknowledged>) {
        *self.at_once.lock().unwrap() = outcome;
    }

    /// What this region's shards have, as it tells others.
    pub(crate) fn has(&self, cover: Option<Cover>) {
        *self.has.lock().unwrap() = cover;
    }

    /// What the master of all shards was last known to have.
    pub(crate) fn was_known(&self, cover: Cover) {
        *self.last_known.lock().unwrap() = cover;
    }

    /// Whether tokens of other regions are covered here.
    pub(crate) fn is_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::SeqCst);
    }

    /// Ends all waits, the newest first.
    pub(crate) fn release(&self, outcome: Acknowledged) -> usize {
        let waiting: Vec<_> = self.waiting.lock().unwrap().drain(..).rev().collect();
        for waiter in &waiting {
            self.send(*waiter, outcome);
        }
        waiting.len()
    }

    pub(crate) fn shipped(&self) -> usize {
        self.shipped.lock().unwrap().len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    fn send(&self, waiter: mas_proxy::link::Waiter, outcome: Acknowledged) {
        let event = AckEvent { token: waiter.token, outcome };
        let _ = self.acks.lock().unwrap()[usize::from(waiter.worker)].send(vec![event]);
    }
}

impl Replication for Recorder {
    fn ship(&self, shipments: Vec<Shipment>) {
        for shipment in shipments {
            if let Some(wait) = shipment.wait {
                let at_once = *self.at_once.lock().unwrap();
                match at_once {
                    Some(outcome) => self.send(wait.waiter, outcome),
                    None => self.waiting.lock().unwrap().push(wait.waiter),
                }
            }
            self.shipped.lock().unwrap().push(shipment);
        }
    }

    fn effective(&self, asked: AckLevel) -> AckLevel {
        asked
    }

    fn token(&self, writes: Vec<Written>, elsewhere: Vec<ShardNeed>) -> Answer<String> {
        let write = |w: &Written| {
            let region = match w.origin.region.0 {
                1 => String::new(),
                other => format!("{other}/"),
            };
            format!("{}:{region}{}:{}:{}", w.shard.0, w.origin.incarnation, w.seq, w.local_only)
        };
        let there = |need: &ShardNeed| format!("{}:{} effects there", need.shard.0, need.cover.len());
        let text: Vec<String> = writes.iter().map(write).chain(elsewhere.iter().map(there)).collect();
        Box::pin(async move { Ok(text.join(",")) })
    }

    fn token_of(&self, shard: ShardId) -> Answer<String> {
        let has = self.has.lock().unwrap().clone();
        Box::pin(async move {
            let cover = has.ok_or_else(|| Refusal("ERR no master".to_owned()))?;
            let need = ShardNeed { shard, cover, hlc: Hlc(1 << 60), local_only: None };
            Ok(Token { shards: vec![need] }.encode_exact("shop").unwrap())
        })
    }

    fn last_known(&self, _: ShardId) -> Answer<Cover> {
        let cover = self.last_known.lock().unwrap().clone();
        Box::pin(async move { Ok(cover) })
    }

    fn await_token(&self, token: Vec<u8>, timeout: Duration) -> Answer<bool> {
        let behind = self.behind.load(Ordering::SeqCst);
        Box::pin(async move {
            match token.as_slice() {
                b"known" => Ok(true),
                token if !behind && Token::parse(token, "shop").is_ok() => Ok(true),
                b"bad" => Err(Refusal("ERR bad token".to_owned())),
                _ => {
                    tokio::time::sleep(timeout).await;
                    Ok(false)
                }
            }
        })
    }

    fn wait_regions(&self, _: Vec<Written>, regions: u16, _: Duration) -> Answer<u16> {
        Box::pin(async move { Ok(regions.min(1)) })
    }

    fn links(&self) -> Vec<LinkStatus> {
        Vec::new()
    }

    fn info(&self) -> Vec<(String, String)> {
        vec![("outbox".to_owned(), "empty".to_owned())]
    }

    fn register(&self, _: &mut prometheus_client::registry::Registry) {}

    fn drain(&self, _: Duration) -> Answer<()> {
        Box::pin(async { Ok(()) })
    }
}

/// A running front.
pub(crate) struct Harness {
    pub(crate) address: String,
    pub(crate) replication: Arc<Recorder>,
    pub(crate) shared: Arc<Shared>,
    front: Option<Front>,
    settings: watch::Sender<Arc<Settings>>,
    _runtime: tokio::runtime::Runtime,
}

/// A configuration with the given members a shard.
pub(crate) fn config(shards: &[Vec<String>]) -> ProxyConfig {
    let broker = BrokerConfig {
        nodes: vec!["127.0.0.1:1".into()],
        vhost: "/".into(),
        username: "u".into(),
        password_file: "/dev/null".into(),
    };
    let count = shards.len() as u16;
    let shard = |(n, members): (usize, &Vec<String>)| ShardConfig {
        shard: n as u16,
        members: members.clone(),
        slots: even_ranges(n as u16, count),
        fsync_always: false,
    };
    ProxyConfig {
        generation: 1,
        store: "shop".into(),
        proxy: "p1".into(),
        region: RegionRef { name: "here".into(), id: 1 },
        listen: "127.0.0.1:0".into(),
        admin: "127.0.0.1:0".into(),
        shards: shards.iter().enumerate().map(shard).collect(),
        broker: broker.clone(),
        membership: 1,
        peers: vec![PeerConfig { region: RegionRef { name: "there".into(), id: 2 }, broker, endpoint: None }],
        ack: AckLevel::Local,
        remote_acks: 1,
        on_broker_loss: OnBrokerLoss::Degrade,
        retention: Retention { seconds: 60, bytes: 1 << 20 },
        max_lag_ms: 1000,
        evacuate_after_ms: 200,
        gone: Vec::new(),
        drained: false,
        engine_password_file: None,
        client_auth: None,
        max_connections: 1000,
        workers: 2,
    }
}

/// A front before one member a shard.
pub(crate) fn front_of(engines: &[&FakeEngine]) -> Harness {
    let members: Vec<Vec<String>> = engines.iter().map(|e| vec![e.address.clone()]).collect();
    front_with(config(&members))
}

pub(crate) fn front_with(config: ProxyConfig) -> Harness {
    front_bounded(config, OutputBounds::default())
}

/// A front that keeps so much output for clients.
pub(crate) fn front_bounded(config: ProxyConfig, output: OutputBounds) -> Harness {
    let first = Arc::new(Settings::check(config).expect("a valid configuration"));
    let workers = front::workers(&first);
    let shards = usize::from(first.shards());
    let (settings, watched) = watch::channel(first);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let shared = Arc::new(Shared {
        totals: Totals::new(workers),
        next_client: AtomicU64::new(1),
        draining: AtomicBool::new(false),
        ask_again: Arc::default(),
        started: Instant::now(),
    });
    let masters = discovery::start(watched.clone(), shared.ask_again.clone());
    let (send, acks): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
    let replication = Arc::new(Recorder { acks: Mutex::new(send), ..Recorder::default() });
    let front = front::start(front::Start {
        settings: watched,
        masters,
        shared: shared.clone(),
        replication: replication.clone(),
        clocks: Clocks::new(shards),
        acks,
        output,
    })
    .expect("a free port");
    drop(inside);
    let address = front.address.to_string();
    Harness { address, replication, shared, front: Some(front), settings, _runtime: runtime }
}

impl Harness {
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    pub(crate) fn set_config(&self, config: ProxyConfig) {
        self.settings.send_replace(Arc::new(Settings::check(config).expect("a valid configuration")));
    }

    pub(crate) fn count(&self, count: Count) -> u64 {
        self.shared.totals.count(count)
    }

    pub(crate) fn drain(mut self) {
        self.front.take().expect("once").drain().expect("workers end");
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client that speaks bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buf: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buf: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends words as a request.
    pub(crate) fn request(&mut self, words: &[&str]) {
        let bytes = frame(words);
        self.send(&bytes);
    }

    /// The next reply, as it came; panics if the connection ends.
    pub(crate) fn reply(&mut self) -> String {
        self.try_reply().expect("a reply before the connection ends")
    }

    /// The next reply; `None` when the connection ends.
    pub(crate) fn try_reply(&mut self) -> Option<String> {
        loop {
            if let Some(len) = Scanner::default().scan(&self.buf).expect("RESP") {
                let reply: Vec<u8> = self.buf.drain(..len).collect();
                return Some(String::from_utf8_lossy(&reply).into_owned());
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return None;
                }
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    /// One request and its reply.
    pub(crate) fn ask(&mut self, words: &[&str]) -> String {
        self.request(words);
        self.reply()
    }

    /// Whether no reply comes for a little while.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut chunk = [0; 1];
        let silent = matches!(self.stream.peek(&mut chunk), Err(e) if e.kind() == ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        silent && self.buf.is_empty()
    }
}

/// Words as a request's bytes.
pub(crate) fn frame(words: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    mas_proxy::resp::encode::array(&mut bytes, words.len());
    for word in words {
        mas_proxy::resp::encode::bulk(&mut bytes, word.as_bytes());
    }
    bytes
}
