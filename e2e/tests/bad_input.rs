//! Clients that send nonsense, too much, or nothing at all: they get an error and lose their connection, memory stays
//! bounded, and a well-behaved client beside them notices nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Store, manifest, process, wait_for};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

const SPEC: &str = "  shards: 1\n  redis: {replicas: 0, appendOnly: Always, maxMemory: 512Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2, maxConnections: 10000}";
const PROXIES: [&str; 2] = ["here/proxy-0", "here/proxy-1"];
const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// A client that goes on all the time and must never be refused.
struct Canary<'a> {
    stop: &'a AtomicBool,
    slowest_us: &'a AtomicU64,
    rounds: &'a AtomicU64,
}

impl Canary<'_> {
    fn live(&self, store: &Store) {
        let mut connection = store.connect("here").unwrap();
        for n in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let started = Instant::now();
            redis::cmd("SET").arg("canary").arg(n).exec(&mut connection).expect("a write was refused");
            let seen: u64 =
                redis::cmd("GET").arg("canary").query(&mut connection).expect("a read was refused");
            assert_eq!(seen, n);
            self.slowest_us.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
            self.rounds.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What a proxy says to `bytes` until it closes (`true`) or has said nothing more for a second (`false`).
fn say(store: &Store, bytes: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(store.endpoint("here")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    // The proxy may close before all is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return (String::from_utf8_lossy(&answer).into_owned(), true),
            Ok(n) => answer.extend_from_slice(&chunk[..n.min(4096)]),
            Err(error) => {
                let reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                return (String::from_utf8_lossy(&answer).into_owned(), reset);
            }
        }
    }
}

fn memory(store: &Store) -> u64 {
    PROXIES.iter().map(|proxy| process::resident_bytes(store.pid(proxy).unwrap()).unwrap()).sum()
}

#[test]
fn others_are_undisturbed() {
    process::raise_open_files();
    let store = Store::start(&manifest("bad", &["here"], SPEC)).unwrap();
    let pids = PROXIES.map(|proxy| store.pid(proxy).unwrap());
    let (stop, slowest_us, rounds) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let canary = Canary { stop: &stop, slowest_us: &slowest_us, rounds: &rounds };
    thread::scope(|scope| {
        let living = scope.spawn(|| canary.live(&store));
        // Whatever fails here must end the canary, too.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (what, step) in STEPS {
                let (started, before) = (Instant::now(), memory(&store));
                slowest_us.store(0, Ordering::Relaxed);
                let rounds_before = rounds.load(Ordering::Relaxed);
                step(&store);
                assert!(!living.is_finished(), "{what}: the well-behaved client was disturbed");
                println!(
                    "{what}: {:.1} s, proxies' memory {} -> {} MiB; beside it {} rounds, slowest {:.1} ms",
                    started.elapsed().as_secs_f64(),
                    before / MIB,
                    memory(&store) / MIB,
                    rounds.load(Ordering::Relaxed) - rounds_before,
                    slowest_us.load(Ordering::Relaxed) as f64 / 1000.0,
                );
            }
        }));
        stop.store(true, Ordering::Relaxed);
        living.join().unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(pids, PROXIES.map(|proxy| store.pid(proxy).unwrap()), "a proxy was restarted");
    store.finish().unwrap();
}

/// Something bad that is done to a store.
type Step = fn(&Store);

const STEPS: [(&str, Step); 7] = [
    ("garbage", garbage),
    ("broken frames", broken_frames),
    ("huge frames", huge_frames),
    ("wrong commands and types", wrong_commands),
    ("huge values", huge_values),
    ("slow readers", slow_readers),
    ("10,000 idle connections", idle_connections),
];

fn garbage(store: &Store) {
    let mut random = StdRng::seed_from_u64(7);
    for size in [1, 10, 1000, 100_000, 1_000_000] {
        let mut bytes = vec![0; size];
        random.fill_bytes(&mut bytes);
        say(store, &bytes);
    }
    // Half a command, and then nothing: the connection ends with the client.
    say(store, b"*3\r\n$3\r\nSET\r\n$3\r\nfo");
}

fn broken_frames(store: &Store) {
    for frame in [
        &b"*1\r\n*1\r\n$4\r\nPING\r\n"[..],
        b"*-5\r\n$4\r\nPING\r\nx\r\n*x\r\n",
        b"*1\r\n$-4\r\nPING\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n:1\r\n",
        b"*99999999999999999999\r\n",
        b"*2147483648\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*1\r\n$9223372036854775807\r\n",
    ] {
        let (answer, closed) = say(store, frame);
        let shown = String::from_utf8_lossy(frame).into_owned();
        assert!(closed, "{shown:?} left the connection open: {answer:?}");
        assert!(answer.lines().last().is_some_and(|line| line.starts_with('-')), "{shown:?} got {answer:?}");
    }
    let (answer, closed) = say(store, "*1\r\n".repeat(500_000).as_bytes());
    assert!(closed && answer.len() < 1000, "deep nesting got {answer:?}");
    let (answer, closed) = say(store, &vec![b'x'; 2 << 20]);
    assert!(closed && answer.starts_with('-'), "an endless line got {answer:?}");
}

/// Many begin a frame that is larger than anything that may come, or just large, and do not go on.
fn huge_frames(store: &Store) {
    let before = memory(store);
    let (answer, closed) = say(store, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000000000\r\n");
    assert!(closed && answer.starts_with('-'), "a frame of 2 GB got {answer:?}");
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(store.endpoint("here")).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n");
        let _ = stream.write_all(&vec![b'v'; MIB as usize]);
        streams.push(stream);
    }
    // One sends a million arguments.
    say(store, format!("*1000001\r\n$3\r\nDEL\r\n{}", "$1\r\nk\r\n".repeat(1000)).as_bytes());
    let grown = memory(store).saturating_sub(before);
    assert!(
        grown < 300 * MIB,
        "50 clients that sent 1 MiB each made the proxies grow by {} MiB",
        grown / MIB
    );
}

fn wrong_commands(store: &Store) {
    let mut connection = store.connect("here").unwrap();
    redis::cmd("HSET").arg("hash").arg("f").arg("v").exec(&mut connection).unwrap();
    for (words, answer) in [
        ("INCR hash", "WRONGTYPE"),
        ("SADD hash x", "WRONGTYPE"),
        ("GET", "wrong number of arguments"),
        ("SET k", "wrong number of arguments"),
        ("NOSUCH k", "unknown command"),
        ("LPUSH list x", "not supported"),
        ("SUBSCRIBE channel", "not supported"),
        ("MAS.MERGE x", "unknown command"),
        ("DEBUG SLEEP 1", "not supported"),
        ("HINCRBY hash f 1", "not an integer"),
        ("EXPIRE hash x", "not an integer"),
        ("SET k v EX 0", "invalid expire"),
        ("SELECT 1", "there is one database"),
    ] {
        let mut parts = words.split(' ');
        let mut command = redis::cmd(parts.next().unwrap());
        for part in parts {
            command.arg(part);
        }
        let error = command.exec(&mut connection).expect_err(words).to_string();
        let found = error.to_lowercase().contains(&answer.to_lowercase());
        assert!(found, "{words} got {error:?}, which does not say {answer:?}");
    }
    let value: String = redis::cmd("HGET").arg("hash").arg("f").query(&mut connection).unwrap();
    assert_eq!(value, "v");
}

fn huge_values(store: &Store) {
    let mut connection = store.connect("here").unwrap();
    let value = vec![b'v'; 8 << 20];
    redis::cmd("SET").arg("huge").arg(&value).exec(&mut connection).unwrap();
    let back: Vec<u8> = redis::cmd("GET").arg("huge").query(&mut connection).unwrap();
    assert!(back == value, "a value of 8 MiB came back changed");
    redis::cmd("DEL").arg("huge").exec(&mut connection).unwrap();
}

/// They ask for far more than fits their sockets and do not read. (Values of a megabyte, asked for by all of them in
/// one burst, would fill the engine's output buffers up to `maxMemory`, as they would plain Redis'.)
fn slow_readers(store: &Store) {
    let before = memory(store);
    let mut connection = store.connect("here").unwrap();
    redis::cmd("SET").arg("big").arg(vec![b'v'; 64 << 10]).exec(&mut connection).unwrap();
    let request = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(200);
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(store.endpoint("here")).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = stream.write_all(&request);
        streams.push(stream);
    }
    let mut most = 0;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        most = most.max(memory(store).saturating_sub(before));
        thread::sleep(Duration::from_millis(50));
    }
    println!("  250 MiB asked for and not read: the proxies grew by {} MiB at most", most / MIB);
    assert!(most < 400 * MIB, "slow readers made the proxies grow by {} MiB", most / MIB);
    drop(streams);
    wait_for("a GET after the slow readers", SOON, || {
        redis::cmd("GET").arg("canary").query::<Option<String>>(&mut connection).ok()
    })
    .unwrap();
    redis::cmd("DEL").arg("big").exec(&mut connection).unwrap();
}

fn idle_connections(store: &Store) {
    // As many as this process may open: two proxies take 10,000 each.
    let wanted = 10_000.min(process::raise_open_files().saturating_sub(500)) as usize;
    let before = memory(store);
    let mut idle = Vec::with_capacity(wanted);
    for n in 0..wanted {
        match TcpStream::connect(store.endpoint("here")) {
            Ok(stream) => idle.push(stream),
            Err(error) => panic!("connection {n} of {wanted} failed: {error}"),
        }
    }
    // All are served, not only accepted by the kernel.
    for stream in idle.iter_mut().step_by(97) {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
    }
    let grown = memory(store).saturating_sub(before);
    println!("  {wanted} idle connections: {} bytes each", grown / wanted as u64);
    assert!(grown < 300 * MIB, "{wanted} idle connections cost {} MiB", grown / MIB);
}
