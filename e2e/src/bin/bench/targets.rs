//! What is measured: plain Redis, nutcracker, a region alone, and a region with a live peer at two levels.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::{Keep, Status, Store, manifest, wait_until};
use redis::{Client, Connection};
use tempfile::TempDir;

use crate::cpu::Roles;
use crate::servers::Server;
use crate::stop;

/// The regions' names.
pub(crate) const NEAR: &str = "near";
const FAR: &str = "far";
const LIMIT: Duration = Duration::from_mins(2);

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Plain `redis-server`.
    Plain,
    /// nutcracker before the same server.
    Nutcracker,
    /// A store of one region, `Queued`.
    Alone,
    /// A store of two regions, `Local`.
    PairLocal,
    /// The same, `Queued`.
    PairQueued,
}

impl Target {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 5] =
        [Self::Plain, Self::Nutcracker, Self::Alone, Self::PairLocal, Self::PairQueued];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "redis-server",
            Self::Nutcracker => "nutcracker",
            Self::Alone => "region alone, Queued",
            Self::PairLocal => "region, live peer, Local",
            Self::PairQueued => "region, live peer, Queued",
        }
    }
}

/// Everything that runs.
pub(crate) struct Targets {
    plain: Server,
    nutcracker: Server,
    alone: Store,
    pair: Store,
    folder: TempDir,
}

impl Targets {
    /// Starts all.
    pub(crate) fn start(durable: bool) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("mas-bench-").tempdir().context("making a folder failed")?;
        eprintln!("starting redis-server, nutcracker, a store of one region and one of two");
        let plain = Server::redis(folder.path(), durable)?;
        let nutcracker = Server::nutcracker(folder.path(), plain.port)?;
        let redis = if durable { "replicas: 1" } else { "replicas: 0, appendOnly: Always" };
        let rest = format!(
            "  shards: 1\n  redis: {{{redis}, maxMemory: 2Gi}}\n  broker: {{replicas: 1}}\n  proxy: {{replicas: 1}}"
        );
        stop::check()?;
        let alone = Store::start_with(&manifest("alone", &[NEAR], &rest), Keep::Nothing)?;
        stop::check()?;
        let pair = Store::start_with(&manifest("pair", &[NEAR, FAR], &rest), Keep::Nothing)?;
        let targets = Self { plain, nutcracker, alone, pair, folder };
        if !durable {
            targets.stop_writing_files()?;
        }
        Ok(targets)
    }

    /// Stops all and removes what it has written.
    pub(crate) fn finish(self) -> Result<()> {
        drop(self.nutcracker);
        drop(self.plain);
        let ended = self.alone.finish().and(self.pair.finish());
        self.folder.close().context("removing the folder failed")?;
        ended
    }

    /// Prints where everything is and waits for Ctrl-C.
    pub(crate) fn hold(&self) -> Result<()> {
        for target in Target::ALL {
            println!("{:<26} port {:<6} {:?}", target.name(), self.port(target)?, self.roles(target)?);
        }
        while !stop::is_wanted() {
            sleep(Duration::from_millis(200));
        }
        stop::check()
    }

    /// Both stores.
    fn store(&self, target: Target) -> Option<&Store> {
        match target {
            Target::Plain | Target::Nutcracker => None,
            Target::Alone => Some(&self.alone),
            Target::PairLocal | Target::PairQueued => Some(&self.pair),
        }
    }

    /// Where clients connect.
    pub(crate) fn port(&self, target: Target) -> Result<u16> {
        let Some(store) = self.store(target) else {
            return Ok(if target == Target::Plain { self.plain.port } else { self.nutcracker.port });
        };
        let endpoint = store.endpoint(NEAR);
        let port = endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
        port.with_context(|| format!("the endpoint {endpoint} has no port"))
    }

    /// A client's connection.
    pub(crate) fn connect(&self, target: Target) -> Result<Connection> {
        open("", self.port(target)?)
    }

    /// A client's connection to the far region.
    pub(crate) fn connect_far(&self) -> Result<Connection> {
        self.pair.connect(FAR)
    }

    /// Which processes take part.
    pub(crate) fn roles(&self, target: Target) -> Result<Roles> {
        let Some(store) = self.store(target) else {
            let mut roles = vec![("redis", self.plain.pid())];
            if target == Target::Nutcracker {
                roles.push(("nutcracker", self.nutcracker.pid()));
            }
            return Ok(roles);
        };
        let status = store.status()?;
        let mut roles = Roles::new();
        for process in &status.processes {
            let Some(pid) = process.pid else { continue };
            let far = process.component.starts_with(FAR);
            let role = match process.component.split('/').next_back().and_then(|part| part.split('-').next())
            {
                Some("proxy") => {
                    if far {
                        "peer's proxy"
                    } else {
                        "proxy"
                    }
                }
                Some("redis") => {
                    if far {
                        "peer's engine"
                    } else {
                        "engine"
                    }
                }
                Some("broker") => {
                    if far {
                        "peer's broker"
                    } else {
                        "broker"
                    }
                }
                _ => continue,
            };
            roles.push((role, pid));
        }
        // What masctl does for a network between regions.
        let known: Vec<u32> = status.processes.iter().filter_map(|process| process.pid).collect();
        let others = store.pids().into_iter().filter(|pid| !known.contains(pid) && is_masctl(*pid));
        roles.extend(others.map(|pid| ("relay", pid)));
        Ok(roles)
    }

    /// Makes the store that serves `target` answer at its level.
    pub(crate) fn prepare(&self, target: Target) -> Result<()> {
        let level = match target {
            Target::PairLocal => "Local",
            Target::PairQueued => "Queued",
            Target::Plain | Target::Nutcracker | Target::Alone => return Ok(()),
        };
        for region in [NEAR, FAR] {
            set_level(&self.pair, region, level)?;
        }
        Ok(())
    }

    /// Waits until all that was written before is everywhere, so that its cost is counted too.
    pub(crate) fn settle(&self, target: Target, number: u64) -> Result<()> {
        if !matches!(target, Target::PairLocal | Target::PairQueued) {
            return Ok(());
        }
        let (mut near, mut far) = (self.connect(target)?, self.connect_far()?);
        redis::cmd("SET").arg("settled").arg(number).exec(&mut near)?;
        wait_until("the peer to have everything", LIMIT, || {
            let seen: Option<u64> =
                redis::cmd("GET").arg("settled").query(&mut far).map_err(|e| e.to_string())?;
            if seen == Some(number) { Ok(()) } else { Err(format!("it has mark {seen:?}")) }
        })
    }

    /// A direct connection to the server that holds the data of `target`.
    pub(crate) fn engine(&self, target: Target) -> Result<Connection> {
        let Some(store) = self.store(target) else { return open("", self.plain.port) };
        engine(store, &store.status()?, NEAR)
    }

    /// The same for the peer of the pair.
    pub(crate) fn far_engine(&self) -> Result<Connection> {
        engine(&self.pair, &self.pair.status()?, FAR)
    }

    /// As plain Redis beside them: nothing is kept on disk.
    fn stop_writing_files(&self) -> Result<()> {
        for (store, region) in [(&self.alone, NEAR), (&self.pair, NEAR), (&self.pair, FAR)] {
            let mut engine = engine(store, &store.status()?, region)?;
            redis::cmd("CONFIG")
                .arg("SET")
                .arg("appendonly")
                .arg("no")
                .exec(&mut engine)
                .context("switching the append-only file off failed")?;
        }
        Ok(())
    }
}

fn engine(store: &Store, status: &Status, region: &str) -> Result<Connection> {
    let found = status.region(region).and_then(|region| region.shards.first()?.master.clone());
    let address = found.with_context(|| format!("{region} has no master"))?;
    let port =
        address.rsplit(':').next().unwrap_or_default().parse().context("the master's address has no port")?;
    let password = fs::read_to_string(store.state_dir().join("secrets/engine"))
        .context("reading the engines' password failed")?;
    open(&format!(":{}@", password.trim()), port)
}

fn open(login: &str, port: u16) -> Result<Connection> {
    let client = Client::open(format!("redis://{login}127.0.0.1:{port}/"))?;
    client.get_connection_with_timeout(LIMIT).with_context(|| format!("connecting to port {port} failed"))
}

fn is_masctl(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "masctl")
}

/// Changes the level in the proxy's file, as the operator does; the proxy takes it over without a restart.
fn set_level(store: &Store, region: &str, level: &str) -> Result<()> {
    let path = store.folder_of(&format!("{region}/proxy-0")).join("config.json");
    let text = fs::read_to_string(&path).context("reading the proxy's configuration failed")?;
    let mut config: serde_json::Value =
        serde_json::from_str(&text).context("reading the proxy's configuration failed")?;
    if config["ack"] == level {
        return Ok(());
    }
    let Some(generation) = config["generation"].as_u64() else {
        bail!("the proxy's configuration has no generation")
    };
    config["ack"] = level.into();
    config["generation"] = (generation + 1).into();
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(&config)?)
        .context("writing the proxy's configuration failed")?;
    fs::rename(&new, &path).context("writing the proxy's configuration failed")?;
    let mut connection = store.connect(region)?;
    wait_until(&format!("{region} to answer at {level}"), LIMIT, || {
        let info: String =
            redis::cmd("INFO").arg("multiactive").query(&mut connection).map_err(|e| e.to_string())?;
        if info.lines().any(|line| line == format!("ack_effective:{level}")) { Ok(()) } else { Err(info) }
    })
}
