//! The chart, installed on a cluster as a person would do it.

use std::process::Command;

use anyhow::{Result, ensure};

use super::{Cluster, Namespace, root};

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

    /// `helm upgrade --install` with further arguments; waits until the operators are ready.
    pub fn upgrade(&self, args: &[&str]) -> Result<()> {
        let chart = root()?.join("charts/multiactive").display().to_string();
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
            "delete", "pods", "-l", &selector, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found",
        ])?;
        Ok(())
    }
}
