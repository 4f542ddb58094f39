//! A store on a cluster with nodes, as its clients and the people who look after it see it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use redis::Client;
use serde_json::Value;

use super::Namespace;
use crate::admin::metric_of;
use crate::load::{Endpoints, Source};
use crate::wait::wait_until;

/// Port of clients at a proxy.
const CLIENTS: u16 = 6379;
/// Its own: metrics.
const ADMIN: u16 = 8080;
/// How long a shard may be without a master.
const MASTER: Duration = Duration::from_mins(1);

/// See the module.
pub struct Deployed<'a> {
    namespace: &'a Namespace,
    name: String,
    regions: Vec<String>,
}

impl<'a> Deployed<'a> {
    /// The store `name`, whatever its state.
    pub fn new(namespace: &'a Namespace, name: &str, regions: &[&str]) -> Self {
        Self { namespace, name: name.to_owned(), regions: regions.iter().map(ToString::to_string).collect() }
    }

    /// Waits until all regions are active; the store's words are part of the error.
    pub fn wait_active(&self, limit: Duration) -> Result<Value> {
        let all = format!("{0}/{0}", self.regions.len());
        wait_until("all regions to be active", limit, || {
            let store = self.namespace.get("mas", &self.name).map_err(|error| error.to_string())?;
            if store["status"]["regionsActive"] == all.as_str() {
                Ok(store)
            } else {
                Err(format!("{} {}", store["status"]["regionsActive"], store["status"]["why"]))
            }
        })
    }

    /// What the row of `region` says of its shard.
    pub fn shard(&self, region: &str, shard: usize) -> Result<Value> {
        let row = self.namespace.get("masr", &format!("{}--{region}", self.name))?;
        Ok(row["status"]["shards"][shard].clone())
    }

    /// The epoch of a shard's master; 0 before the first.
    pub fn epoch(&self, region: &str, shard: usize) -> Result<u64> {
        Ok(self.shard(region, shard)?["epoch"].as_u64().unwrap_or_default())
    }

    /// Waits until somebody is master of a shard under a higher epoch than `before`.
    pub fn wait_epoch_above(&self, before: u64, region: &str, shard: usize, limit: Duration) -> Result<()> {
        wait_until("a new epoch", limit, || match self.epoch(region, shard) {
            Ok(now) if now > before => Ok(()),
            Ok(now) => Err(format!("it is {now}")),
            Err(error) => Err(error.to_string()),
        })
    }

    /// The pod of a shard's master; waits for one.
    pub fn master(&self, region: &str, shard: usize) -> Result<String> {
        wait_until("a master", MASTER, || {
            let row = self.shard(region, shard).map_err(|error| error.to_string())?;
            row["masterPod"].as_str().map(ToOwned::to_owned).ok_or_else(|| format!("no master in {row}"))
        })
    }

    /// Ends the process of a pod's container as the kernel would (SIGKILL), and leaves the pod.
    pub fn kill(&self, pod: &str, container: &str) -> Result<()> {
        let processes = self.processes(pod, container)?;
        // With the first of them the others go by themselves.
        let killed = processes.iter().filter(|pid| crate::process::kill(**pid).is_ok()).count();
        ensure!(killed > 0, "no process of {container} in {pod} could be killed");
        Ok(())
    }

    /// Deletes the pods of a part of a region (`redis`, `broker`) and their claims, with all that is in them.
    pub fn lose(&self, region: &str, what: &str) -> Result<()> {
        let selector = format!("multiactive.dev/store={},{what}", self.name);
        let pods = self.namespace.list("pods")?;
        let mine = |pod: &&Value| {
            let labels = &pod["metadata"]["labels"];
            labels["multiactive.dev/store"] == self.name.as_str()
                && labels["multiactive.dev/region"] == region
        };
        let id = pods.iter().find(mine).context("no pod of the region")?;
        let id = id["metadata"]["labels"]["multiactive.dev/region-id"].as_str().context("no id")?;
        let selector = format!("{selector},multiactive.dev/region-id={id}");
        // A claim goes with the last pod that uses it.
        self.namespace.kubectl(&["delete", "pvc", "-l", &selector, "--wait=false"])?;
        self.namespace.kubectl(&["delete", "pods", "-l", &selector, "--grace-period=0", "--force"])?;
        Ok(())
    }

    /// A connection to a pod's Redis, with all rights.
    pub fn engine(&self, pod: &str) -> Result<redis::Connection> {
        let secret = self.namespace.get("secret", &format!("{}--credentials", self.name))?;
        let password = decode(secret["data"]["engine"].as_str().context("no password")?)?;
        let pod = self.namespace.get("pod", pod)?;
        let ip = pod["status"]["podIP"].as_str().context("the pod has no address")?;
        let client = Client::open(format!("redis://:{password}@{ip}:{CLIENTS}/"))?;
        Ok(client.get_connection_with_timeout(Duration::from_secs(5))?)
    }

    /// Makes a server that holds nothing one of another store, with a key.
    pub fn make_foreign(&self, pod: &str) -> Result<()> {
        let mut engine = self.engine(pod)?;
        // Higher at each try.
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let promote = redis::cmd("MAS.PROMOTE").arg(epoch).arg("stall").arg(7).arg(0).to_owned();
        let incarnation: String = promote.query(&mut engine)?;
        redis::cmd("MAS.SERVE").arg(incarnation).arg("full").arg(0).exec(&mut engine)?;
        redis::cmd("SET").arg("of-another-store").arg(1).exec(&mut engine)?;
        Ok(())
    }

    /// The processes of a pod's container, on this machine.
    pub fn processes(&self, pod: &str, container: &str) -> Result<Vec<u32>> {
        let pod = self.namespace.get("pod", pod)?;
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let status = statuses.iter().find(|status| status["name"] == container);
        let id = status.and_then(|status| status["containerID"].as_str()?.rsplit('/').next());
        let id = id.with_context(|| format!("{container} does not run: {}", pod["status"]))?;
        let all = std::fs::read_dir("/proc")?.flatten().filter(|process| is_in(&process.path(), id));
        let found: Vec<u32> = all.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect();
        ensure!(!found.is_empty(), "container {id} has no processes on this machine");
        Ok(found)
    }

    /// A metric of a region's proxies, of all of them together; with the beginning of its labels (`NAME{peer="a"`) of those rows alone.
    pub fn metric(&self, region: &str, name: &str) -> Result<f64> {
        let text = self.namespace.kubectl(&["get", "pods", "-l", &self.proxies(region), "-o", "json"])?;
        let pods: Value = serde_json::from_str(&text)?;
        let addresses =
            pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["status"]["podIP"].as_str());
        addresses.map(|address| metric_of((address.parse()?, ADMIN), name)).sum()
    }

    /// Which pods are a region's proxies.
    fn proxies(&self, region: &str) -> String {
        format!(
            "multiactive.dev/store={},multiactive.dev/region={region},app.kubernetes.io/component=proxy",
            self.name
        )
    }

    /// What an application mounts in `region`.
    pub fn binding(&self, region: &str) -> Result<(String, String)> {
        let secret = self.namespace.get("secret", &format!("{}--{region}--app", self.name))?;
        let text = |key: &str| -> Result<String> {
            let data = secret["data"][key].as_str().with_context(|| format!("no {key}"))?;
            decode(data)
        };
        Ok((text("username")?, text("password")?))
    }
}

/// Whether a process is of a container: its control group is named after that.
fn is_in(process: &Path, container: &str) -> bool {
    std::fs::read_to_string(process.join("cgroup")).is_ok_and(|groups| groups.contains(container))
}

/// What a Secret holds.
pub fn decode(text: &str) -> Result<String> {
    Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text)?)?)
}

impl Endpoints for Deployed<'_> {
    fn regions(&self) -> Vec<&str> {
        self.regions.iter().map(String::as_str).collect()
    }

    /// A ready proxy of the region, another one at every connect: pods come and go. While nobody can be asked, those of before.
    fn source(&self, region: &str) -> Result<Source> {
        let (user, password) = self.binding(region)?;
        let selector = self.proxies(region);
        let (cluster, namespace) = (self.namespace.cluster(), self.namespace.name.clone());
        let (known, turn) = (Mutex::new(Value::Null), AtomicUsize::new(0));
        Ok(Arc::new(move || {
            let asked = cluster.kubectl(&["get", "pods", "-n", &namespace, "-l", &selector, "-o", "json"]);
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(text) = &asked {
                *known = serde_json::from_str(text)?;
            }
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array();
                pod["metadata"]["deletionTimestamp"].is_null()
                    && conditions
                        .is_some_and(|of| of.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
            };
            let pods = known["items"].as_array().cloned().unwrap_or_default();
            let ready: Vec<&Value> = pods.iter().filter(ready).collect();
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let pod = ready.get(turn % ready.len().max(1)).context("no proxy is ready")?;
            let ip = pod["status"]["podIP"].as_str().context("the proxy has no address")?;
            Ok(Client::open(format!("redis://{user}:{password}@{ip}:{CLIENTS}/"))?)
        }))
    }
}
