//! Plain Redis, and nutcracker before it: child processes that end with this one.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::wait_until;

const START_LIMIT: Duration = Duration::from_secs(15);

/// A server.
pub(crate) struct Server {
    child: Child,
    /// Its port on the loopback.
    pub(crate) port: u16,
}

impl Server {
    /// A plain `redis-server`.
    pub(crate) fn redis(folder: &Path, durable: bool) -> Result<Self> {
        let port = free_port()?;
        let mut command = tied("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--loglevel",
            "warning",
            "--port",
            &port.to_string(),
        ]);
        command
            .args(["--appendonly", if durable { "yes" } else { "no" }, "--appendfsync", "everysec", "--dir"])
            .arg(folder);
        Self::start(command, port, "redis-server")
    }

    /// nutcracker before the server on `behind`.
    pub(crate) fn nutcracker(folder: &Path, behind: u16) -> Result<Self> {
        let (port, stats) = (free_port()?, free_port()?);
        let file = folder.join("nutcracker.yml");
        let text = format!(
            "bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  \
             timeout: 10000\n  servers:\n   - 127.0.0.1:{behind}:1\n"
        );
        fs::write(&file, text).context("writing nutcracker's configuration failed")?;
        let mut command = tied("nutcracker");
        command.arg("-c").arg(&file).args(["-a", "127.0.0.1", "-s", &stats.to_string(), "-v", "0", "-o"]);
        command.arg(folder.join("nutcracker.log")).arg("-p").arg(folder.join("nutcracker.pid"));
        Self::start(command, port, "nutcracker")
    }

    fn start(mut command: Command, port: u16, name: &str) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().with_context(|| {
            format!("starting {name} failed: is it installed? `make setup` says what is missing")
        })?;
        let mut server = Self { child, port };
        wait_until(&format!("{name} to listen"), START_LIMIT, || match server.child.try_wait() {
            Ok(Some(end)) => Err(format!("it ended with {end}")),
            _ => TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string()),
        })?;
        Ok(server)
    }

    /// Its process id. (`setpriv` becomes the server.)
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that ends when this process does, however that ends.
fn tied(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port failed")?;
    Ok(listener.local_addr().context("finding a free port failed")?.port())
}
