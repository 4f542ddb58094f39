//! A plain `redis-server` that ends with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::wait_until;

use crate::resp::{Raw, Reply};
use crate::words;

/// A running server.
pub(crate) struct Plain {
    child: Child,
    /// `host:port`.
    pub(crate) address: String,
}

impl Plain {
    /// Starts one that writes no files.
    pub(crate) fn start() -> Self {
        // Between this and the server's start another may take the port: then there is another try.
        for _ in 0..5 {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
            let child = Command::new("setpriv")
                .args([
                    "--pdeathsig",
                    "KILL",
                    "redis-server",
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--databases",
                    "1",
                ])
                .args(["--appendonly", "no", "--loglevel", "warning", "--port", &port.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server starts");
            let mut plain = Self { child, address: format!("127.0.0.1:{port}") };
            let ready = wait_until("redis-server", Duration::from_secs(10), || {
                let ping = Raw::connect(&plain.address).and_then(|mut raw| raw.ask(&words!["PING"]));
                match ping {
                    Ok(Reply::Simple(_)) if plain.child.try_wait().is_ok_and(|end| end.is_none()) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            if ready.is_ok() {
                return plain;
            }
        }
        panic!("redis-server did not start");
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
