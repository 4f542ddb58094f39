//! A store that is started for one purpose and leaves nothing behind: no process, no file, also after a panic.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::{Client, Connection};
use tempfile::TempDir;

use crate::{OperationStatus, Parts, Process, Region, Status, process, wait_for, wait_until};

/// A whole start with two brokers takes some 15 s on two idle cores; tests share them.
const START_LIMIT: Duration = Duration::from_mins(3);
const ACTIVE_LIMIT: Duration = Duration::from_mins(2);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);

/// What is left of the files when a store is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Everything, if the thread panics; its path is printed.
    OnPanic,
    /// Everything; its path is printed.
    Everything,
}

/// A running store.
pub struct Store {
    parts: Parts,
    folder: Option<TempDir>,
    state: PathBuf,
    manifest: PathBuf,
    regions: Vec<Region>,
    keep: Keep,
    environment: Vec<(String, OsString)>,
}

/// A manifest of `name` with `regions`; `rest` are further lines of the spec, two blanks in.
pub fn manifest(name: &str, regions: &[&str], rest: &str) -> String {
    let regions: Vec<String> = regions.iter().map(|region| format!("  - name: {region}")).collect();
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata:\n  name: {name}\n\
         spec:\n  regions:\n{}\n{rest}\n",
        regions.join("\n")
    )
}

impl Store {
    /// Starts a store and waits until all its regions are `Active`.
    pub fn start(manifest: &str) -> Result<Self> {
        Self::start_with(manifest, Keep::OnPanic)
    }

    /// As [`Store::start`].
    pub fn start_with(manifest: &str, keep: Keep) -> Result<Self> {
        Self::start_in(Self::new_folder()?, manifest, keep, Vec::new())
    }

    /// A folder for a store.
    pub fn new_folder() -> Result<TempDir> {
        // Short paths: a Unix socket lies in there.
        tempfile::Builder::new().prefix("mas-").tempdir().context("making a folder failed")
    }

    /// As [`Store::start_with`], in a folder that was made ready before (the state directory is [`Store::state_in`] it),
    /// with variables for `masctl`.
    pub fn start_in(
        folder: TempDir,
        manifest: &str,
        keep: Keep,
        environment: Vec<(String, OsString)>,
    ) -> Result<Self> {
        let parts = Parts::find()?;
        let state = Self::state_in(folder.path());
        let path = folder.path().join("store.yaml");
        fs::write(&path, manifest).context("writing the manifest failed")?;
        let regions = Vec::new();
        let mut store =
            Self { parts, state, manifest: path, regions, folder: Some(folder), keep, environment };
        store.up()?;
        Ok(store)
    }

    /// The state directory of a store in `folder`.
    pub fn state_in(folder: &Path) -> PathBuf {
        folder.join("s")
    }

    /// Variables for `masctl` from now on.
    pub fn set_environment(&mut self, environment: Vec<(String, OsString)>) {
        self.environment = environment;
    }

    /// From now on, what is left of the files is this.
    pub fn set_keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// Starts it (again), whatever becomes of it.
    pub fn start_again(&self) -> Result<()> {
        let manifest = self.manifest.to_string_lossy().into_owned();
        self.masctl_within(START_LIMIT, &["up", "-f", &manifest, "--detach"]).map(drop)
    }

    /// Starts it (again), and waits until all its regions are `Active`.
    pub fn up(&mut self) -> Result<()> {
        self.start_again()?;
        self.look_again()
    }

    /// Waits until all its regions are `Active`: those that there are now.
    pub fn look_again(&mut self) -> Result<()> {
        self.regions = self.wait_active()?.regions;
        Ok(())
    }

    /// Changes it to another manifest; it is this one's from then on.
    pub fn apply(&mut self, manifest: &str) -> Result<()> {
        fs::write(&self.manifest, manifest).context("writing the manifest failed")?;
        let path = self.manifest.to_string_lossy().into_owned();
        self.masctl(&["apply", "-f", &path])?;
        self.regions = self.status()?.regions;
        Ok(())
    }

    /// The operation of that name, now.
    pub fn operation(&self, name: &str) -> Result<OperationStatus> {
        let found = self.status()?.operations.into_iter().find(|operation| operation.name == name);
        Ok(found.with_context(|| format!("there is no operation {name}"))?.status)
    }

    /// The step that the last operation is at, by the record of a store that may be down.
    pub fn recorded_step(&self) -> Result<String> {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(self.state.join("state.json"))?)?;
        let last = record["operations"].as_array().and_then(|all| all.last());
        let step = last.and_then(|last| last["status"]["step"].as_str());
        Ok(step.context("the record lists no operation")?.to_owned())
    }

    /// Waits until an operation has succeeded.
    pub fn wait_operation(&self, name: &str, limit: Duration) -> Result<OperationStatus> {
        wait_until(&format!("{name} to succeed"), limit, || {
            let operation = self.operation(name).map_err(|error| format!("{error:#}"))?;
            if operation.phase == "Succeeded" { Ok(operation) } else { Err(format!("{operation:?}")) }
        })
    }

    /// Stops it; its data stays.
    pub fn down(&self) -> Result<()> {
        self.masctl(&["down"]).map(drop)
    }

    /// What `masctl status` says now.
    pub fn status(&self) -> Result<Status> {
        let text = self.masctl(&["status", "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("reading masctl's status failed: {text}"))
    }

    /// Waits until all regions are `Active`.
    pub fn wait_active(&self) -> Result<Status> {
        wait_until("all regions to be Active", ACTIVE_LIMIT, || {
            let status = self.status().map_err(|error| format!("{error:#}"))?;
            if status.all_active() { Ok(status) } else { Err(status.summary()) }
        })
    }

    /// The regions' names.
    pub fn regions(&self) -> Vec<&str> {
        self.regions.iter().map(|region| region.name.as_str()).collect()
    }

    /// Where clients of `region` connect, `host:port`.
    pub fn endpoint(&self, region: &str) -> &str {
        let found = self.regions.iter().find(|candidate| candidate.name == region);
        found.map_or("", |region| region.endpoint.as_str())
    }

    /// A client of `region`.
    pub fn client(&self, region: &str) -> Result<Client> {
        let url = format!("redis://{}/", self.endpoint(region));
        Client::open(url).with_context(|| format!("region {region} has no endpoint"))
    }

    /// A connection to `region`, which some proxy of the region accepts.
    pub fn connect(&self, region: &str) -> Result<Connection> {
        let connection = self
            .client(region)?
            .get_connection_with_timeout(CLIENT_TIMEOUT)
            .with_context(|| format!("connecting to {region} at {} failed", self.endpoint(region)))?;
        connection.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        connection.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        Ok(connection)
    }

    /// Stops all traffic between two regions, both ways.
    pub fn cut(&self, one: &str, other: &str) -> Result<()> {
        self.masctl(&["cut", one, other]).map(drop)
    }

    /// Keeps what `from` writes from reaching `to`; the other way stays open.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.masctl(&["cut", from, to, "--one-way"]).map(drop)
    }

    /// Undoes [`Store::cut`] and [`Store::cut_one_way`].
    pub fn heal(&self, one: &str, other: &str) -> Result<()> {
        self.masctl(&["heal", one, other]).map(drop)
    }

    /// `kill -9` of a part, which stays down until [`Store::resume`].
    pub fn hold(&self, component: &str) -> Result<()> {
        self.masctl(&["fault", "kill", component, "--no-restart"]).map(drop)
    }

    /// Freezes a part; its supervisor knows.
    pub fn pause(&self, component: &str) -> Result<()> {
        self.masctl(&["fault", "pause", component]).map(drop)
    }

    /// Thaws a part, or starts one that is held.
    pub fn resume(&self, component: &str) -> Result<()> {
        self.masctl(&["fault", "resume", component]).map(drop)
    }

    /// One child process, by the name of its part.
    pub fn process(&self, component: &str) -> Result<Process> {
        let status = self.status()?;
        let found = status.processes.into_iter().find(|process| process.component == component);
        found.with_context(|| format!("masctl status lists no process {component}"))
    }

    /// The process id of a part that runs.
    pub fn pid(&self, component: &str) -> Result<u32> {
        wait_for(&format!("{component} to run"), ACTIVE_LIMIT, || self.process(component).ok()?.pid)
    }

    /// `kill -9` of a part; whoever supervises it starts it again. Gives the id it had.
    pub fn kill(&self, component: &str) -> Result<u32> {
        let pid = self.pid(component)?;
        process::kill(pid)?;
        Ok(pid)
    }

    /// Waits until a part runs with another process id than `before`.
    pub fn wait_restarted(&self, component: &str, before: u32) -> Result<u32> {
        wait_for(&format!("{component} to run again"), ACTIVE_LIMIT, || {
            self.process(component).ok()?.pid.filter(|pid| *pid != before)
        })
    }

    /// The part that is master of a shard (`beijing/shard-0/redis-1`).
    pub fn master(&self, region: &str, shard: u16) -> Result<String> {
        let status = self.status()?;
        let region_status = status.region(region).with_context(|| format!("there is no region {region}"))?;
        let address = region_status.shards.iter().find(|s| s.shard == shard).and_then(|s| s.master.clone());
        let address = address.with_context(|| format!("shard {shard} of {region} has no master"))?;
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let prefix = format!("{region}/shard-{shard}/");
        let found = status.processes.iter().find(|p| p.component.starts_with(&prefix) && p.port == port);
        Ok(found.with_context(|| format!("no member of {prefix} listens at {address}"))?.component.clone())
    }

    /// A connection to the engine at `address` that no proxy stands in front of.
    pub fn connect_engine(&self, address: &str) -> Result<Connection> {
        let path = self.state.join("secrets/engine");
        let password =
            fs::read_to_string(&path).with_context(|| format!("reading {} failed", path.display()))?;
        let client = Client::open(format!("redis://:{}@{address}/", password.trim()))?;
        let connection = client.get_connection_with_timeout(CLIENT_TIMEOUT)?;
        connection.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        Ok(connection)
    }

    /// What the masters of a region have counted (`MAS.STATS`), summed over its shards.
    pub fn engine_counters(&self, region: &str) -> Result<BTreeMap<String, i64>> {
        let status = self.status()?;
        let mut sums = BTreeMap::new();
        for shard in &status.region(region).with_context(|| format!("there is no region {region}"))?.shards {
            let Some(master) = &shard.master else { continue };
            let counters: BTreeMap<String, i64> =
                redis::cmd("MAS.STATS").query(&mut self.connect_engine(master)?)?;
            for (name, count) in counters {
                *sums.entry(name).or_default() += count;
            }
        }
        Ok(sums)
    }

    /// The folder of a part.
    pub fn folder_of(&self, component: &str) -> PathBuf {
        self.state.join(component)
    }

    /// Deletes what a Redis server or a broker node that does not run has on its disk.
    pub fn lose_volume(&self, component: &str) -> Result<()> {
        let folder = self.folder_of(component);
        if component.contains("/broker-") {
            fs::remove_dir_all(folder.join("data"))?;
            return Ok(fs::create_dir(folder.join("data"))?);
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != "redis.conf" {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The `masctl` that runs it.
    pub fn masctl_path(&self) -> &Path {
        &self.parts.masctl
    }

    /// Ids of all processes that are this store's, its supervisor too: those that have its folder in their command
    /// line or as working directory.
    pub fn pids(&self) -> Vec<u32> {
        pids_in(&self.state)
    }

    /// The process that looks after all others.
    pub fn supervisor(&self) -> Result<u32> {
        let runs_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.first().is_some_and(|program| program.ends_with(b"masctl")) && words.contains(&&b"up"[..])
        };
        self.pids().into_iter().find(runs_it).context("the store has no supervisor")
    }

    /// Runs `masctl` on this store and gives what it prints.
    pub fn masctl(&self, args: &[&str]) -> Result<String> {
        self.masctl_within(Duration::from_secs(90), args)
    }

    fn masctl_within(&self, limit: Duration, args: &[&str]) -> Result<String> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let [out, err] =
            ["out", "err"].map(|end| self.state.with_file_name(format!("{}-{call}.{end}", args[0])));
        let mut child = Command::new(&self.parts.masctl)
            .args(args)
            .arg("--state-dir")
            .arg(&self.state)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&err)?)
            .spawn()
            .with_context(|| format!("starting {} failed", self.parts.masctl.display()))?;
        let ended =
            wait_for(&format!("masctl {}", args.join(" ")), limit, || child.try_wait().ok().flatten());
        let exit = match ended {
            Ok(exit) => exit,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(&err).unwrap_or_default();
                return Err(error.context(format!("it said: {said}")));
            }
        };
        let [text, said] = [&out, &err].map(|path| fs::read_to_string(path).unwrap_or_default());
        let _ = (fs::remove_file(&out), fs::remove_file(&err));
        if !exit.success() {
            bail!("masctl {} failed ({exit}): {}", args.join(" "), said.trim());
        }
        Ok(text)
    }

    /// Stops everything and removes all files. Errors are for whoever wants to know; dropping does the same.
    pub fn finish(mut self) -> Result<()> {
        self.clean_up()
    }

    fn clean_up(&mut self) -> Result<()> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        let keep = self.keep == Keep::Everything
            || (self.keep == Keep::OnPanic && std::thread::panicking())
            || std::env::var_os("MAS_KEEP").is_some();
        let down = if keep { self.masctl(&["down"]) } else { self.masctl(&["down", "--delete-data"]) };
        let left = pids_in(&self.state);
        for pid in &left {
            let _ = process::kill(*pid);
        }
        if keep {
            eprintln!("the store's files and logs are kept in {}", folder.keep().display());
        } else {
            folder.close().context("removing the store's folder failed")?;
        }
        down?;
        if left.is_empty() { Ok(()) } else { bail!("masctl down left {} processes: {left:?}", left.len()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("ending the store failed: {error:#}");
        }
    }
}

fn pids_in(state: &Path) -> Vec<u32> {
    let needle = state.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let belongs = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let there = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&needle) || there.starts_with(state)
    };
    ids.filter(|pid| *pid != std::process::id() && belongs(pid) && process::is_alive(*pid)).collect()
}
