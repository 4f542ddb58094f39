//! Real redis-servers on loopback with the built module, a small client, and what compares them.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used)]

mod client;
pub mod random;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
pub use client::{Client, Value};
use mas_core::record::{Body, Heartbeat, Record};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use mas_core::wire::Reader;

/// Stands for "without the module" among the words of a configuration.
const PLAIN: &str = "plain";

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `f` gives something.
pub fn wait_for<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn module() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    [deps.join("libmas_engine.so"), deps.join("../libmas_engine.so")]
        .into_iter()
        .find(|path| path.exists())
        .expect("the module is built with the tests")
}

/// A key's type, its value in an order of its own, and its time-to-live.
pub type Shown = (String, Vec<Vec<u8>>, i64);

/// The same, with times to live that two servers were told as distances, at slightly different times, made equal.
pub fn roughly(dump: BTreeMap<Vec<u8>, Shown>) -> BTreeMap<Vec<u8>, Shown> {
    let rough = |at: i64| if (0..random::FAR_FUTURE_MS as i64).contains(&at) { 0 } else { at };
    dump.into_iter().map(|(key, (kind, value, at))| (key, (kind, value, rough(at)))).collect()
}

/// A redis-server with the engine. Ended when dropped.
pub struct Engine {
    child: Child,
    dir: tempfile::TempDir,
    pub port: u16,
    pub region: u16,
    extra: Vec<String>,
    pub client: Client,
}

impl Engine {
    /// Started, fenced. `extra`: words of the configuration.
    pub fn start(region: u16, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let (child, port, client) = launch(dir.path(), &extra);
        Self { child, dir, port, region, extra, client }
    }

    /// A plain redis-server, without the engine, to compare with.
    pub fn plain() -> Self {
        Self::start(0, &[PLAIN])
    }

    /// Started, promoted, serving.
    pub fn serving(region: u16) -> Self {
        Self::serving_with(region, &[])
    }

    /// The same, with words of the configuration.
    pub fn serving_with(region: u16, extra: &[&str]) -> Self {
        let mut engine = Self::start(region, extra);
        engine.promote(1);
        engine.serve();
        engine
    }

    pub fn call(&mut self, words: &[&str]) -> Value {
        self.client.call(words)
    }

    /// Runs a command in one string; the words have no blanks.
    pub fn run(&mut self, line: &str) -> Value {
        self.client.call(&line.split(' ').collect::<Vec<_>>())
    }

    pub fn promote(&mut self, epoch: u64) -> String {
        let region = self.region.to_string();
        let reply = self.call(&["MAS.PROMOTE", &epoch.to_string(), "shop", &region, "0"]);
        assert!(!reply.is_error(), "{reply:?}");
        reply.text()
    }

    pub fn serve(&mut self) {
        let incarnation = self.incarnation();
        assert_eq!(self.call(&["MAS.SERVE", &incarnation, "full", "0"]), Value::Simple("OK".into()));
    }

    pub fn identity(&mut self, field: &str) -> String {
        self.fields(&["MAS.IDENTITY"])[field].clone()
    }

    pub fn stat(&mut self, field: &str) -> u64 {
        self.fields(&["MAS.STATS"])[field].parse().unwrap()
    }

    /// The answer of a command that gives names and values.
    pub fn fields(&mut self, words: &[&str]) -> BTreeMap<String, String> {
        let Value::Many(items) = self.call(words) else { panic!("no fields in {words:?}") };
        items.chunks(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
    }

    pub fn incarnation(&mut self) -> String {
        self.identity("incarnation")
    }

    pub fn origin(&mut self) -> Origin {
        let incarnation = Incarnation::parse(&self.incarnation()).unwrap();
        Origin { region: RegionId(self.region), incarnation }
    }

    /// The bytes of a header for this engine.
    pub fn header(&mut self) -> Vec<u8> {
        let mut header = self.origin().incarnation.0.to_le_bytes().to_vec();
        header.extend([0; 8]);
        header
    }

    /// `MAS.EXEC` of a line; the words have no blanks.
    pub fn exec(&mut self, line: &str) -> Done {
        let words: Vec<Vec<u8>> = line.split(' ').map(|w| w.as_bytes().to_vec()).collect();
        self.exec_words(&words)
    }

    pub fn exec_words(&mut self, words: &[Vec<u8>]) -> Done {
        let header = self.header();
        let mut all: Vec<&[u8]> = vec![b"MAS.EXEC", &header];
        all.extend(words.iter().map(Vec::as_slice));
        match self.client.call_bytes(&all) {
            Value::Many(mut parts) if parts.len() == 2 => {
                let Value::Bulk(note) = parts.pop().unwrap() else { panic!("no note") };
                let number = |at: usize| u64::from_le_bytes(note[at..at + 8].try_into().unwrap());
                let effect = Bytes::copy_from_slice(&note[16..]);
                Done { reply: parts.pop().unwrap(), seq: number(0), hlc: number(8), effect }
            }
            reply => Done { reply, seq: 0, hlc: 0, effect: Bytes::new() },
        }
    }

    /// A record of this engine's effects, as a proxy publishes them.
    pub fn record(&mut self, effects: Vec<Bytes>) -> Bytes {
        let body = Body::Effects(effects);
        Record { id: 7, shard: ShardId(0), origin: self.origin(), body }.encode()
    }

    /// All that is in the outbox, as one record for each incarnation.
    pub fn outbox(&mut self) -> Vec<Bytes> {
        let incarnation = self.incarnation();
        let Value::Many(items) = self.call(&["MAS.OUTBOX", &incarnation, "1", "0", "100000000", "0"]) else {
            panic!("no outbox")
        };
        let mut by_origin: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
        for item in items.chunks(3) {
            by_origin.entry(item[0].text()).or_default().push(Bytes::from(item[2].bytes().to_vec()));
        }
        let region = RegionId(self.region);
        by_origin
            .into_iter()
            .map(|(incarnation, effects)| {
                let origin = Origin { region, incarnation: Incarnation::parse(&incarnation).unwrap() };
                Record { id: 7, shard: ShardId(0), origin, body: Body::Effects(effects) }.encode()
            })
            .collect()
    }

    /// Takes the effects out of the outbox, as a proxy does that has published them.
    pub fn take_outbox(&mut self) -> Vec<Bytes> {
        let incarnation = self.incarnation();
        let Value::Many(items) = self.call(&["MAS.OUTBOX", &incarnation, "1", "0", "100000000", "0"]) else {
            panic!("no outbox")
        };
        let mut effects = Vec::new();
        for item in items.chunks(3) {
            let (origin, seq) = (item[0].text(), item[1].text());
            assert_eq!(self.call(&["MAS.TRIM", &incarnation, &origin, &seq, &seq]), Value::Integer(1));
            effects.push(Bytes::from(item[2].bytes().to_vec()));
        }
        effects
    }

    /// Merges records of a region's stream, wherever its position is.
    pub fn merge(&mut self, region: u16, records: &[Bytes]) -> Value {
        let Value::Many(positions) = self.call(&["MAS.POSITIONS"]) else { panic!("no positions") };
        let known = positions.chunks(3).find(|p| p[0].text() == region.to_string());
        let (offset, id) = known.map_or(("-1".into(), "0".into()), |p| (p[1].text(), p[2].text()));
        let next = (offset.parse::<i64>().unwrap() + 1).to_string();
        let (incarnation, region) = (self.incarnation(), region.to_string());
        let mut words: Vec<&[u8]> = vec![b"MAS.MERGE"];
        for word in [&incarnation, &region, &offset, &id, &next] {
            words.push(word.as_bytes());
        }
        words.push(b"9");
        words.extend(records.iter().map(|r| &r[..]));
        self.client.call_bytes(&words)
    }

    /// A heartbeat as a proxy publishes it: nobody else may be promoted, so what this engine has is durable.
    pub fn heartbeat(&mut self) -> Bytes {
        let Value::Many(words) = self.call(&["MAS.COVER"]) else { panic!("no cover") };
        let number = |at: usize| words[at].text().parse().unwrap();
        let mut reader = Reader::new(Bytes::copy_from_slice(words[0].bytes()));
        let beat = Heartbeat {
            epoch: 1,
            clock: Hlc(number(1)),
            issued: number(3),
            stable: Hlc(number(4)),
            cover: reader.cover().unwrap(),
        };
        Record { id: 8, shard: ShardId(0), origin: self.origin(), body: Body::Heartbeat(beat) }.encode()
    }

    /// Everything that the server shows: type, value in an order of its own, time-to-live.
    pub fn dump(&mut self) -> BTreeMap<Vec<u8>, Shown> {
        let Value::Many(keys) = self.call(&["KEYS", "*"]) else { panic!("no keys") };
        let keys: Vec<Vec<u8>> = keys.iter().map(|k| k.bytes().to_vec()).collect();
        keys.into_iter().filter_map(|key| self.dump_key(&key).map(|shown| (key, shown))).collect()
    }

    fn dump_key(&mut self, key: &[u8]) -> Option<Shown> {
        let kind = self.client.call_bytes(&[b"TYPE", key]).text();
        let value = match kind.as_str() {
            "none" => return None,
            "string" => self.client.call_bytes(&[b"GET", key]),
            "hash" => self.client.call_bytes(&[b"HGETALL", key]),
            "set" => self.client.call_bytes(&[b"SMEMBERS", key]),
            "zset" => self.client.call_bytes(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
            other => panic!("a key of type {other}"),
        };
        let mut flat = match value {
            Value::Many(items) => items.iter().map(|i| i.bytes().to_vec()).collect(),
            other => vec![other.bytes().to_vec()],
        };
        if kind == "set" {
            flat.sort();
        } else if kind == "hash" {
            let mut pairs: Vec<&[Vec<u8>]> = flat.chunks(2).collect();
            pairs.sort();
            flat = pairs.concat();
        }
        let Value::Integer(at) = self.client.call_bytes(&[b"PEXPIRETIME", key]) else { panic!("no expiry") };
        Some((kind, flat, at))
    }

    /// What the engine knows beside the keys, as far as clients can see it.
    pub fn state(&mut self) -> Vec<Value> {
        let Value::Many(mut cover) = self.call(&["MAS.COVER"]) else { panic!("no cover") };
        // A clock that ticked for a write that changed nothing is nobody else's business.
        cover.remove(1);
        cover.truncate(3);
        let mut state = vec![Value::Many(cover), self.call(&["MAS.POSITIONS"])];
        let counters = self.fields(&["MAS.STATS"]);
        for field in ["plain-keys", "rich-keys", "tombstones", "outbox-effects", "outbox-bytes", "damaged"] {
            state.push(Value::Simple(format!("{field} {}", counters[field])));
        }
        let keys: Vec<Vec<u8>> = self.dump().into_keys().collect();
        for key in keys {
            state.push(self.client.call_bytes(&[b"MAS.STAMP", &key]));
        }
        state
    }

    /// `kill -9`, and start again with the same files.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, port, client) = launch(self.dir.path(), &self.extra);
        (self.child, self.port, self.client) = (child, port, client);
    }

    /// Follows another server, until it is in sync.
    pub fn follow(&mut self, master: &mut Engine) {
        self.call(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
        self.catch_up(master);
    }

    /// Waits until this replica has what the master has now.
    pub fn catch_up(&mut self, master: &mut Engine) {
        let offset: u64 = wait_for("the master's offset", || master.identity("repl-offset").parse().ok());
        wait_for("the replica to catch up", || {
            let here = self.client.call(&["MAS.IDENTITY"]);
            let Value::Many(items) = here else { return None };
            let field = |name: &str| items.chunks(2).find(|p| p[0].text() == name).map(|p| p[1].text());
            let up = field("master-link").as_deref() == Some("up");
            let at: u64 = field("repl-offset")?.parse().ok()?;
            (up && at >= offset).then_some(())
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("---- the last lines of region {}'s server:", self.region);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn launch(dir: &Path, extra: &[String]) -> (Child, u16, Client) {
    for _ in 0..10 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (module_args, config): (Vec<&String>, Vec<&String>) = match extra.iter().position(|w| w == "--") {
            Some(at) => (extra[at + 1..].iter().collect(), extra[..at].iter().collect()),
            None => (Vec::new(), extra.iter().collect()),
        };
        let plain = config.first().is_some_and(|w| *w == PLAIN);
        // Another server than the one that is installed, to test with.
        let server = std::env::var("MAS_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let mut command = Command::new(server);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--logfile", "log"])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            .args(["--repl-backlog-size", "1mb", "--dir"])
            .arg(dir)
            .stdout(Stdio::null());
        if !plain {
            command.args(config).arg("--loadmodule").arg(module()).args(module_args);
        }
        let mut child = command.spawn().expect("redis-server is installed");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            if let Some(client) = Client::ready(port) {
                return (child, port, client);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    panic!("redis-server does not start:\n{log}");
}

/// What `MAS.EXEC` answered.
#[derive(Debug)]
pub struct Done {
    pub reply: Value,
    pub seq: u64,
    pub hlc: u64,
    pub effect: Bytes,
}
