//! The chart, installed on a cluster as a person would do it, and a store of the example's manifest.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, Deployed, Namespace, root};

/// How long a store may take to be there, images and volumes included.
pub const FOUNDING: Duration = Duration::from_mins(4);
/// How long it may take to be well again after something bad.
pub const RECOVERY: Duration = Duration::from_mins(2);
/// The manifest, and its regions.
pub const EXAMPLE: &str = include_str!("../../../examples/cluster.yaml");
/// The example's.
pub const REGIONS: [&str; 2] = ["east", "west"];

/// The release, and what its objects are called.
const RELEASE: &str = "multiactive";

/// See the module.
pub struct Chart {
    namespace: Namespace,
}

impl Chart {
    /// Installs it in a namespace of its own, and waits until its operators are ready.
    pub fn install(cluster: &'static Cluster) -> Result<Self> {
        let chart = Self { namespace: cluster.namespace("multiactive-system")? };
        chart.upgrade(&[])?;
        Ok(chart)
    }

    /// The same with the chart before this one, as it was packaged.
    pub fn install_previous(cluster: &'static Cluster) -> Result<Self> {
        let chart = Self { namespace: cluster.namespace("multiactive-system")? };
        let mut packaged = std::fs::read_dir(root()?.join("charts/tests/previous"))?;
        let packaged = packaged.next().context("no chart in charts/tests/previous")??;
        chart.upgrade_to(&packaged.path(), &[])?;
        Ok(chart)
    }

    /// `helm upgrade --install` with further arguments; waits until the operators are ready.
    pub fn upgrade(&self, args: &[&str]) -> Result<()> {
        self.upgrade_to(&root()?.join("charts/multiactive"), args)
    }

    /// The version of the chart that is installed, as its objects say.
    pub fn version(&self) -> Result<String> {
        let named = self.namespace.get("deployment", &format!("{RELEASE}-operator"))?;
        let version = named["metadata"]["labels"]["helm.sh/chart"].as_str().context("no label of a chart")?;
        Ok(version.to_owned())
    }

    fn upgrade_to(&self, chart: &Path, args: &[&str]) -> Result<()> {
        let chart = chart.display().to_string();
        let all = [&["upgrade", "--install", RELEASE, &chart, "--wait", "--timeout", "2m"], args].concat();
        self.helm(&all)?;
        Ok(())
    }

    /// `helm uninstall`; waits until the operators are gone.
    pub fn uninstall(&self) -> Result<()> {
        self.helm(&["uninstall", RELEASE, "--wait", "--timeout", "2m"])?;
        Ok(())
    }

    /// Helm, in the chart's namespace.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(root()?.join("tools/chart"))
            .arg("helm")
            .args(args)
            .args(["-n", &self.namespace.name])
            .env("KUBECONFIG", &self.namespace.cluster().kubeconfig)
            .output()?;
        ensure!(output.status.success(), "helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Where the operators run.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What the operators have logged.
    pub fn log(&self) -> String {
        let selector = format!("app.kubernetes.io/instance={RELEASE}");
        let asked = ["logs", "-l", &selector, "--tail=-1", "--prefix", "--all-containers"];
        self.namespace.kubectl(&asked).unwrap_or_else(|error| error.to_string())
    }

    /// Deletes the operators' pods as if their nodes had failed.
    pub fn kill_operators(&self) -> Result<()> {
        let selector = format!("app.kubernetes.io/instance={RELEASE}");
        self.namespace.kubectl(&[
            "delete",
            "pods",
            "-l",
            &selector,
            "--grace-period=0",
            "--force",
            "--wait=false",
            "--ignore-not-found",
        ])?;
        Ok(())
    }
}

/// The chart, and a namespace for stores.
pub struct Installation {
    /// The operators.
    pub chart: Chart,
    /// The stores'.
    pub namespace: Namespace,
    started: Instant,
}

impl Installation {
    /// On a cluster with nodes. There is no store yet.
    pub fn new() -> Result<Self> {
        Self::with(Chart::install)
    }

    /// The same with the chart before this one.
    pub fn previous() -> Result<Self> {
        Self::with(Chart::install_previous)
    }

    fn with(install: fn(&'static Cluster) -> Result<Chart>) -> Result<Self> {
        let (cluster, started) = (Cluster::for_chart(), Instant::now());
        let installation = Self { chart: install(cluster)?, namespace: cluster.namespace("shop")?, started };
        installation.step(&format!("the chart is installed: {}", installation.chart.version()?));
        Ok(installation)
    }

    /// Says what has been done, and when.
    pub fn step(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// The example's store.
    pub fn store(&self) -> Deployed<'_> {
        Deployed::new(&self.namespace, "shop", &REGIONS)
    }

    /// Waits until all is well.
    ///
    /// # Panics
    ///
    /// When it does not become so; with all that may say why.
    pub fn well(&self, after: &str) {
        self.well_within(RECOVERY, after);
    }

    /// As [`Installation::well`].
    ///
    /// # Panics
    ///
    /// Likewise.
    pub fn well_within(&self, limit: Duration, after: &str) {
        let well = self.store().wait_active(limit);
        well.unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", self.picture()));
    }

    /// For a person who looks for what went wrong.
    pub fn picture(&self) -> String {
        self.picture_of(&self.namespace)
    }

    /// As [`Installation::picture`], of another namespace.
    pub fn picture_of(&self, namespace: &Namespace) -> String {
        let ask = |args: &[&str]| namespace.kubectl(args).unwrap_or_else(|error| error.to_string());
        format!(
            "{}\n{}\n{}",
            ask(&["get", "mas,masr,pods,pvc", "-o", "wide"]),
            ask(&["get", "events", "--sort-by=.lastTimestamp"]),
            self.chart.log()
        )
    }

    /// Starts a pod with a shell, as an application runs in `region`: that region's Secret in its environment (`$URI`), a Redis client.
    pub fn start_client(&self, name: &str, region: &str, script: &str) -> Result<()> {
        let script = serde_json::to_string(script)?;
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
             nodeSelector: {{topology.kubernetes.io/region: {region}}}\n  \
             securityContext: {{runAsNonRoot: true, runAsUser: 10001, seccompProfile: {{type: RuntimeDefault}}}}\n  \
             containers:\n  - name: client\n    image: multiactive/redis:0.1.0\n    imagePullPolicy: IfNotPresent\n    \
             command: [sh, -c, {script}]\n    \
             env: [{{name: URI, valueFrom: {{secretKeyRef: {{name: shop--{region}--app, key: uri}}}}}}]\n    \
             securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}\n"
        );
        self.namespace.apply(&pod)?;
        Ok(())
    }

    /// Waits until such a pod has ended; what it printed.
    pub fn client_said(&self, name: &str) -> Result<String> {
        let ended =
            |pod: &serde_json::Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        self.namespace.wait("pod", name, RECOVERY, ended)?;
        self.namespace.kubectl(&["logs", name])
    }
}
