//! A real Kubernetes API server for tests: the one that `KUBECONFIG` names, or one that is made for this test process and ends with
//! it (`tools/cluster`). Everything is done with kubectl, as a person would.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::wait::wait_until;

pub mod chart;
mod deployed;

pub use deployed::{Deployed, decode};

/// The cluster ends by itself after this time, seconds, should its owner not.
const LIFETIME: &str = "3600";

/// See the module.
pub struct Cluster {
    tool: PathBuf,
    folder: PathBuf,
    kubeconfig: PathBuf,
    audit: Option<PathBuf>,
}

impl Cluster {
    /// The one of this process; made when it is asked for first, with the CustomResourceDefinitions and the operator's role.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(0).expect("a Kubernetes cluster for tests"))
    }

    /// Another one, for a test that changes what belongs to a whole cluster.
    pub fn fresh() -> &'static Self {
        Box::leak(Box::new(Self::start(0).expect("a Kubernetes cluster for a test")))
    }

    /// The one of this process with nodes that run pods, each a region of its own (`region-1`, `region-2`), and the images on them. A
    /// cluster that `KUBECONFIG` names must have both already.
    pub fn with_nodes() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let cluster = Self::start(2).expect("a Kubernetes cluster with nodes for tests");
            cluster.load_images(&["redis", "broker", "proxy"]).expect("the images on its nodes");
            cluster
        })
    }

    /// As [`Cluster::with_nodes`], with three nodes. `None`: the cluster that `KUBECONFIG` names has no `region-3`.
    pub fn with_three_nodes() -> Option<&'static Self> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        let cluster = SHARED.get_or_init(|| {
            let cluster = Self::start(3).expect("a Kubernetes cluster with nodes for tests");
            cluster.load_images(&["redis", "broker", "proxy"]).expect("the images on its nodes");
            cluster
        });
        let third = ["get", "nodes", "-l", "topology.kubernetes.io/region=region-3", "-o", "name"];
        cluster.kubectl(&third).is_ok_and(|nodes| !nodes.trim().is_empty()).then_some(cluster)
    }

    /// The one of this process with two nodes, in regions `east` and `west`, and all images on them, for the chart to be installed on. A
    /// cluster that `KUBECONFIG` names must have all of it already.
    pub fn for_chart() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let cluster = Self::up(2, "east,west").expect("a Kubernetes cluster with nodes for tests");
            cluster.load_images(&["operator", "redis", "broker", "proxy"]).expect("the images on its nodes");
            cluster
        })
    }

    /// Builds the images of the programs beside this test, and brings them to the nodes.
    fn load_images(&self, names: &[&str]) -> Result<()> {
        if self.audit.is_none() {
            return Ok(());
        }
        let images = self.folder.join("images");
        let programs = operator_program()?;
        let target = programs.parent().and_then(Path::parent).context("the target folder")?;
        let tools = self.tool.parent().context("the tools' folder")?;
        let built = Command::new(tools.join("images"))
            .args(["--offline", "--debug", "--no-build", "--out"])
            .arg(&images)
            .args(names)
            .env("CARGO_TARGET_DIR", target)
            .status()?;
        ensure!(built.success(), "tools/images failed: its words are above");
        for image in names {
            let file = images.join(format!("{image}.tar"));
            self.tool(&["load", &file.display().to_string()])?;
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Runs `tools/cluster` about this cluster.
    pub fn tool(&self, args: &[&str]) -> Result<String> {
        let output =
            Command::new(&self.tool).args(args).arg("--dir").arg(self.folder.join("cluster")).output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// With the CustomResourceDefinitions and the operator's role.
    fn start(nodes: u16) -> Result<Self> {
        let cluster = Self::up(nodes, "")?;
        cluster.install()?;
        cluster.apply(
            "default",
            &std::fs::read_to_string(root()?.join("charts/multiactive/files/rbac.yaml"))?,
        )?;
        Ok(cluster)
    }

    fn up(nodes: u16, regions: &str) -> Result<Self> {
        let root = root()?;
        let tool = root.join("tools/cluster");
        let folder = tempfile::Builder::new().prefix("mas-cluster-").tempdir()?.keep();
        Ok(if let Some(given) = std::env::var_os("KUBECONFIG") {
            Self { tool, folder, kubeconfig: given.into(), audit: None }
        } else {
            let dir = folder.join("cluster");
            let up = Command::new(&tool)
                .args([
                    "up",
                    "--audit",
                    "--lifetime",
                    LIFETIME,
                    "--nodes",
                    &nodes.to_string(),
                    "--regions",
                    regions,
                    "--owner-pid",
                    &std::process::id().to_string(),
                    "--dir",
                ])
                .arg(&dir)
                .stdout(Stdio::null())
                .status()
                .with_context(|| format!("running {}", tool.display()))?;
            ensure!(up.success(), "{} up failed: its words are above", tool.display());
            Self { tool, folder, kubeconfig: dir.join("kubeconfig"), audit: Some(dir.join("logs/audit.log")) }
        })
    }

    /// Brings the CustomResourceDefinitions of the operator beside this test.
    pub fn install(&self) -> Result<()> {
        let definitions = Command::new(operator_program()?).arg("crds").output()?;
        self.apply("default", &String::from_utf8(definitions.stdout)?)?;
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])?;
        Ok(())
    }

    /// The process id of the name server of a node's pods, if this cluster is of this repository.
    pub fn name_server(&self, node: &str) -> Result<Option<u32>> {
        let config = self.folder.join(format!("cluster/nodes/{node}/Corefile")).display().to_string();
        for process in std::fs::read_dir("/proc")?.flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).split('\0').any(|word| word == config) {
                return Ok(process.file_name().to_str().and_then(|pid| pid.parse().ok()));
            }
        }
        Ok(None)
    }

    /// The log of requests, one JSON object a line, if this cluster writes one.
    pub fn audit(&self) -> Option<&Path> {
        self.audit.as_deref()
    }

    /// Runs kubectl; an error has what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(&self.tool)
            .arg("kubectl")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("kubectl's input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim())
        }
    }

    /// `kubectl apply` by the server, as a person would do it.
    pub fn apply(&self, namespace: &str, text: &str) -> Result<String> {
        self.kubectl_with(&["apply", "--server-side", "-n", namespace, "-f", "-"], text)
    }

    /// As [`Cluster::apply`], and nothing is stored.
    pub fn try_apply(&self, namespace: &str, text: &str) -> Result<String> {
        self.kubectl_with(
            &["apply", "--server-side", "--dry-run=server", "-o", "json", "-n", namespace, "-f", "-"],
            text,
        )
    }

    /// An object.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", kind, name, "-n", namespace, "-o", "json"])?)?)
    }

    /// All objects of some kinds (`statefulsets,services`).
    pub fn list(&self, namespace: &str, kinds: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", kinds, "-n", namespace, "-o", "json"])?;
        let mut list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// A new namespace, with the `restricted` Pod Security Standard enforced.
    pub fn namespace(&'static self, prefix: &str) -> Result<Namespace> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        self.kubectl(&["create", "namespace", &name])?;
        let label = "pod-security.kubernetes.io/enforce=restricted";
        self.kubectl(&["label", "namespace", &name, label])?;
        Ok(Namespace { cluster: self, name })
    }

    /// A kubeconfig of the operator of one namespace: it may do there what its role allows, and nothing else.
    fn operators_kubeconfig(&self, namespace: &str) -> Result<PathBuf> {
        if self.audit.is_none() {
            return Ok(self.kubeconfig.clone());
        }
        self.kubeconfig_of(
            &format!("operator-{namespace}"),
            namespace,
            &["multiactive-operator", "multiactive-operator-lease"],
        )
    }

    /// A kubeconfig of a user who may do in a namespace what these ClusterRoles allow, and nothing else. Not for a cluster that `KUBECONFIG`
    /// names.
    pub fn kubeconfig_of(&self, user: &str, namespace: &str, roles: &[&str]) -> Result<PathBuf> {
        let path = self.folder.join(format!("{user}.{namespace}.kubeconfig"));
        if !path.exists() {
            for role in roles {
                let (role_arg, user_arg) = (format!("--clusterrole={role}"), format!("--user={user}"));
                let name = format!("{user}-{role}");
                self.kubectl(&["create", "rolebinding", &name, &role_arg, &user_arg, "-n", namespace])?;
            }
            let text = self.tool(&["kubeconfig", "--user", user])?;
            std::fs::write(&path, text)?;
        }
        Ok(path)
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl with masctl as its plugin in PATH: `kubectl mas ...`.
    pub fn kubectl_mas(&self, args: &[&str]) -> Result<String> {
        let folder = self.folder.join("plugins");
        let link = folder.join("kubectl-mas");
        if !link.exists() {
            std::fs::create_dir_all(&folder)?;
            std::os::unix::fs::symlink(program("masctl")?, &link)?;
        }
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new(&self.tool)
            .args(["kubectl", "mas"])
            .args(args)
            .env("PATH", path)
            .env("KUBECONFIG", &self.kubeconfig)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A namespace of a test. It stays until the cluster ends, so that it can be looked at.
pub struct Namespace {
    cluster: &'static Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// The cluster that it is in.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// `kubectl apply`.
    pub fn apply(&self, text: &str) -> Result<String> {
        self.cluster.apply(&self.name, text)
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", &self.name], args].concat())
    }

    /// An object.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.cluster.get(&self.name, kind, name)
    }

    /// All objects of some kinds.
    pub fn list(&self, kinds: &str) -> Result<Vec<Value>> {
        self.cluster.list(&self.name, kinds)
    }

    /// Waits until an object is as wanted.
    pub fn wait(
        &self,
        kind: &str,
        name: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_until(&format!("{kind} {name}"), limit, || {
            let object = self.get(kind, name).map_err(|error| error.to_string())?;
            if wanted(&object) { Ok(object) } else { Err(format!("it is {object}")) }
        })
    }

    /// Starts an operator for this namespace alone, with the rights of its role; further arguments of `operator run`.
    pub fn operator(&self, args: &[&str]) -> Result<Operator> {
        let log = self.cluster.folder.join(format!("{}.operator.log", self.name));
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let listen: &[&str] = if args.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let child = Command::new(operator_program()?)
            .args(["run", "--watch-namespace", &self.name, "--namespace", &self.name])
            .args(listen)
            .args(args)
            .env("KUBECONFIG", self.cluster.operators_kubeconfig(&self.name)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()?;
        Ok(Operator { child, log })
    }

    /// Requests that this namespace's operator has made, from the `skip`ped first lines of the log on.
    pub fn requests(&self, skip: usize) -> Result<Vec<Value>> {
        self.requests_of(&format!("operator-{}", self.name), skip)
    }

    /// Requests of another user, likewise.
    pub fn requests_of(&self, user: &str, skip: usize) -> Result<Vec<Value>> {
        let log = self.cluster.audit.as_ref().context("this cluster writes no log of requests")?;
        let text = std::fs::read_to_string(log)?;
        let lines = text.lines().skip(skip).filter(|line| line.contains(user));
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events.filter(|event| event["user"]["username"] == user).collect())
    }

    /// Runs masctl about this namespace, as the administrator.
    pub fn masctl(&self, args: &[&str]) -> Result<Said> {
        self.masctl_as(&self.cluster.kubeconfig, args)
    }

    /// As [`Namespace::masctl`], with another kubeconfig.
    pub fn masctl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<Said> {
        let output = Command::new(program("masctl")?)
            .args(["--namespace", &self.name, "--kubeconfig"])
            .arg(kubeconfig)
            .args(args)
            .output()?;
        Ok(Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// The values of the store's passwords.
    pub fn passwords(&self, store: &str) -> Result<Vec<String>> {
        let secret = self.get("secret", &format!("{store}--credentials"))?;
        let data = secret["data"].as_object().context("no data")?;
        data.values().filter_map(Value::as_str).map(deployed::decode).collect()
    }

    /// Lines of the log of requests until now.
    pub fn requests_so_far(&self) -> Result<usize> {
        let log = self.cluster.audit.as_ref().context("this cluster writes no log of requests")?;
        Ok(std::fs::read_to_string(log)?.lines().count())
    }
}

/// What a program has said, and its exit code.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// On stdout.
    pub out: String,
    /// On stderr.
    pub err: String,
}

/// A running operator; dropping it kills it.
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        crate::process::terminate(self.child.id())
    }

    /// Waits until it ends by itself; whether it did so without an error.
    pub fn wait_end(&mut self, limit: Duration) -> Result<bool> {
        let child = &mut self.child;
        let status = wait_until("the operator's end", limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })?;
        Ok(status.success())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The repository.
fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

/// The operator beside this program: in its folder, or, for a test, in the one above.
fn operator_program() -> Result<PathBuf> {
    program("operator")
}

fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("no {name} beside {}: cargo build --workspace --bins", own.display()))
}
