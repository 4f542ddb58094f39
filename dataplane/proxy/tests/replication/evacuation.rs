//! Whole proxies and nobody who promotes: a master that came back fenced stays so, and its clients are served by the other region.

use std::process::{Child, Command, Stdio};

use mas_core::config::ProxyConfig;
use redis::{Commands, Connection};
use tempfile::TempDir;

use super::region::{config, promote, wait_serving};
use super::servers::{Broker, Engine, free_port, wait_for};

/// A `mas-proxy` process.
struct Process {
    child: Child,
    _folder: TempDir,
}

impl Process {
    fn start(config: &ProxyConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.json");
        std::fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mas-proxy"))
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, _folder: folder }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{address}/")).unwrap();
    wait_for("the proxy", 20, || client.get_connection().ok())
}

fn is_evacuated(connection: &mut Connection) -> bool {
    let info: String = redis::cmd("INFO").arg("multiactive").query(connection).unwrap();
    info.contains("shard0_evacuated_to:region-2")
}

#[test]
fn without_a_controller_the_other_region_serves() {
    let (one, two) = (Broker::start(), Broker::start());
    let (mut a, b) = (Engine::start(), Engine::start());
    promote(&a, 1, 1);
    promote(&b, 1, 2);
    let endpoints = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let configs =
        [config(1, &a, &one, &[(2, two.address(), &two)]), config(2, &b, &two, &[(1, one.address(), &one)])];
    let mut processes = Vec::new();
    for (n, mut config) in configs.into_iter().enumerate() {
        config.listen.clone_from(&endpoints[n]);
        config.admin = format!("127.0.0.1:{}", free_port());
        config.peers[0].endpoint = Some(endpoints[1 - n].clone());
        processes.push(Process::start(&config));
    }
    wait_serving(&a, true);
    wait_serving(&b, true);
    let (mut session, mut other) = (connect(&endpoints[0]), connect(&endpoints[1]));
    let () = session.set("k", 1).unwrap();

    a.restart();
    assert_eq!(a.identity("state"), "fenced");
    assert_eq!(session.get::<_, u64>("k").unwrap(), 1, "what it wrote at home");
    assert!(is_evacuated(&mut session));
    for n in 2..50 {
        let () = session.set("k", n).unwrap();
        let () = other.incr("n", 1).unwrap();
        assert_eq!(session.get::<_, u64>("k").unwrap(), n);
        assert_eq!(session.incr::<_, _, u64>("n", 1).unwrap(), 2 * (n - 1), "both write to one engine");
    }
    assert_eq!(a.identity("state"), "fenced");

    promote(&a, 2, 1);
    let mut n = 50;
    wait_for("requests to come back", 60, || {
        let () = session.set("k", n).unwrap();
        assert_eq!(session.get::<_, u64>("k").unwrap(), n);
        n += 1;
        (!is_evacuated(&mut session)).then_some(())
    });
    let () = session.set("k", n).unwrap();
    assert_eq!(a.get("k"), Some(n.to_string()), "executed at home");
    wait_for("the last write in the other region", 20, || {
        (other.get::<_, u64>("k").unwrap() == n).then_some(())
    });
    assert_eq!((a.get("n"), b.get("n")), (Some("96".into()), Some("96".into())));
}
