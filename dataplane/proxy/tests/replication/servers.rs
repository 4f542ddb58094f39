//! Real servers on loopback: RabbitMQ nodes and Redis with the engine, each in a folder of its own, ended when dropped.

use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PORTS: Range<u16> = 12_000..30_000;
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// One scheduler, no busy waiting: the tests share a small machine.
const ERLANG: &str =
    "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";

/// Waits until `f` gives something, at most `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens on, of those the system gives to no outgoing connection: such a one could take it before the
/// server that it is meant for.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(37);
    for _ in 0..PORTS.len() {
        let n = first.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let port =
            PORTS.start + u16::try_from(n % u32::from(PORTS.end - PORTS.start)).expect("less than a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A RabbitMQ node.
pub struct Broker {
    child: Child,
    dir: TempDir,
    pub port: u16,
    ports: (u16, u16),
    name: String,
}

impl Broker {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (port, ports) = (free_port(), (free_port(), free_port()));
        let name = format!("mas-test-{port}@localhost");
        std::fs::write(dir.path().join("password"), "guest\n").expect("a password");
        let child = Self::launch(dir.path(), port, ports, &name);
        let mut broker = Self { child, dir, port, ports, name };
        broker.wait();
        broker
    }

    fn launch(dir: &Path, port: u16, (distribution, mapper): (u16, u16), name: &str) -> Child {
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a configuration");
            path
        };
        let config =
            format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.console.level = warning\nlog.file = false\n");
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        Command::new(RABBITMQ)
            .env("HOME", dir)
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", name)
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf", &config))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins", "[].\n"))
            .env("RABBITMQ_MNESIA_BASE", dir)
            .env("RABBITMQ_LOG_BASE", dir)
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG)
            // The script becomes the server, so that one process is to be ended.
            .env("detached", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("rabbitmq-server is installed")
    }

    fn wait(&mut self) {
        wait_for("the broker", 60, || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                panic!("the broker ended ({status}) and said:\n{log}");
            }
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    pub fn restart(&mut self) {
        self.kill();
        self.child = Self::launch(self.dir.path(), self.port, self.ports, &self.name);
        self.wait();
    }

    /// Raises or ends the memory alarm, which blocks publishers.
    pub fn alarm(&self, on: bool) {
        let fraction = if on { "0.000001" } else { "0.6" };
        let done = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl")
            .env("HOME", self.dir.path())
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", self.ports.1.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .args(["--node", &self.name, "set_vm_memory_high_watermark", fraction])
            .output()
            .expect("rabbitmqctl runs");
        assert!(done.status.success(), "{done:?}");
    }

    /// `SIGSTOP` or `SIGCONT`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// A channel to look at it with.
    pub async fn channel(&self) -> (lapin::Connection, lapin::Channel) {
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port);
        let connection = lapin::Connection::connect(&uri, lapin::ConnectionProperties::default()).await;
        let connection = connection.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        end(&mut self.child);
        // The port mapper that this node started goes by itself only when asked.
        let _ = Command::new("epmd")
            .env("ERL_EPMD_PORT", self.ports.1.to_string())
            .arg("-kill")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn module() -> PathBuf {
    if let Some(path) = std::env::var_os("MAS_ENGINE") {
        return path.into();
    }
    let here = std::env::current_exe().expect("this program's path");
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("libmas_engine.so"))
        .find(|path| path.is_file())
        .expect("the engine is built: run `cargo build -p mas-engine`, or name it in MAS_ENGINE")
}

/// Where a server has its files.
const FILES: &str = "appendonlydir";

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a file");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// A redis-server with the engine.
pub struct Engine {
    child: Child,
    dir: TempDir,
    pub port: u16,
}

impl Engine {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let engine = Self { child: Self::launch(dir.path(), port), dir, port };
        engine.wait();
        engine
    }

    fn launch(dir: &Path, port: u16) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--enable-debug-command", "yes", "--loadmodule"])
            .arg(module())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed")
    }

    fn wait(&self) {
        wait_for("the engine", 20, || self.call::<String>(&["PING"]).ok());
    }

    pub fn restart(&mut self) {
        end(&mut self.child);
        self.child = Self::launch(self.dir.path(), self.port);
        self.wait();
    }

    /// A copy of its files as they are now.
    pub fn copy_files(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(&self.dir.path().join(FILES), copy.path());
        copy
    }

    /// Ends it and starts it with the files of a copy, or with none.
    pub fn restart_with(&mut self, copy: Option<&TempDir>) {
        end(&mut self.child);
        let files = self.dir.path().join(FILES);
        std::fs::remove_dir_all(&files).expect("its files are removed");
        if let Some(copy) = copy {
            copy_folder(copy.path(), &files);
        }
        self.child = Self::launch(self.dir.path(), self.port);
        self.wait();
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn call<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        self.call_bytes(&words)
    }

    pub fn call_bytes<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        let mut command = redis::cmd(&String::from_utf8_lossy(words[0]));
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut connection)
    }

    /// The value of a field of `MAS.IDENTITY`.
    pub fn identity(&self, field: &str) -> String {
        let fields: Vec<String> = self.call(&["MAS.IDENTITY"]).expect("an identity");
        let at = fields.iter().position(|f| f == field).expect("the field");
        fields[at + 1].clone()
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.call(&["GET", key]).expect("GET")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
