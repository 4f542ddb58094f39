//! The program beside real redis-servers (without the engine, which does not change what PING answers).
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the operator writes for probes, beside a default user with a password.
const USERS: &str =
    "user default on >secret ~* &* +@all\nuser probe on nopass resetkeys resetchannels -@all +ping\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// A redis-server. Killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Started, and there; maybe still loading.
    fn start(folder: &Path, config: &str) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let file = folder.join("redis.conf");
        let dir = folder.display();
        let all = format!("bind 127.0.0.1\nport {port}\ndir {dir}\nlogfile redis.log\nsave \"\"\n{config}\n");
        std::fs::write(&file, all).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("starting redis-server: make setup installs it");
        let server = Self { child, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let log = || std::fs::read_to_string(folder.join("redis.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "redis-server is not there: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn probe(&self, command: &str) -> (i32, String) {
        probe(&[command, "--port", &self.port.to_string()])
    }

    /// Waits until the probe says this.
    fn wait(&self, command: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, said) = self.probe(command);
            if said.contains(wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{command} says {said}, not {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn cli(&self, words: &[&str]) -> String {
        let done = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output();
        String::from_utf8(done.expect("redis-cli: make setup installs it").stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exit code and the one line on stderr.
fn probe(words: &[&str]) -> (i32, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_mas-probe")).args(words).output().unwrap();
    assert!(done.stdout.is_empty(), "{done:?}");
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(said.matches('\n').count(), 1, "{said}");
    (done.status.code().unwrap(), said.trim_end().to_owned())
}

#[test]
fn a_server_that_wants_a_password_lives_and_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), USERS);
    server.wait("redis-ready", "mas-probe: ready");
    assert_eq!(server.probe("redis-ready"), (0, "mas-probe: ready".into()));
    let (code, said) = server.probe("redis-live");
    assert!(code == 0 && said.contains("-NOAUTH"), "{said}");
    // A replica without its master is as ready as any.
    assert_eq!(server.cli(&["-a", "secret", "--no-auth-warning", "REPLICAOF", "127.0.0.1", "1"]), "OK");
    assert_eq!(server.probe("redis-ready").0, 0);
}

#[test]
fn a_server_without_the_user_says_what_is_missing() {
    for users in
        ["", "requirepass secret\n", "user default on nopass ~* &* +@all\nuser probe on nopass -@all\n"]
    {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), users);
        server.wait("redis-ready", "the user 'probe' may not log in and PING");
        assert_eq!(server.probe("redis-ready").0, 1, "{users}");
        assert_eq!(server.probe("redis-live").0, 0, "{users}");
    }
}

#[test]
fn a_server_that_loads_lives_and_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::start(folder.path(), "enable-debug-command yes\n");
    first.wait("redis-live", "+PONG");
    assert_eq!(first.cli(&["DEBUG", "POPULATE", "2000"]), "OK");
    assert_eq!(first.cli(&["SAVE"]), "OK");
    drop(first);
    // Two seconds, at a millisecond a key.
    let slowly = "key-load-delay 1000\nloading-process-events-interval-bytes 1024\n";
    let server = Server::start(folder.path(), &format!("{USERS}{slowly}"));
    server.wait("redis-live", "live, it answers");
    let (code, said) = server.probe("redis-ready");
    assert!(code == 1 && said.contains("it is loading its data: wait (-LOADING"), "{code} {said}");
    server.wait("redis-ready", "mas-probe: ready");
}

#[test]
fn a_server_that_is_stopped_does_not_live() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), USERS);
    server.wait("redis-ready", "mas-probe: ready");
    let signal = |name: &str| {
        let id = server.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    signal("-STOP");
    let (code, said) = probe(&["redis-live", "--port", &server.port.to_string(), "--timeout-ms", "200"]);
    signal("-CONT");
    assert!(code == 1 && said.contains("within 200 ms: the server is stopped or busy"), "{code} {said}");
    server.wait("redis-ready", "mas-probe: ready");
}

#[test]
fn a_bad_command_line_is_another_exit_code() {
    // No server is started here.
    let (code, said) = probe(&["redis-write"]);
    assert!(code == 2 && said.contains("mas-probe --help"), "{code} {said}");
}
