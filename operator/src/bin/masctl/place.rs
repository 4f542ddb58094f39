//! Where the store is that a command means: the one place in which this machine and a cluster differ.

use std::time::Duration;

use crds::OperationType;
use futures_util::future::join_all;
use operator::platform::kubernetes::Remote;
use operator::platform::local::{Client, Layout, Request, fetch_metrics};
use operator::view::{Endpoint, OperationRow, ProcessRow, StoreStatus};

use crate::args::{Command, Place};
use crate::failure::Failure;
use crate::locate;

/// A store that can be asked.
pub(crate) enum Where {
    /// Run by a supervisor on this machine.
    Machine(Layout),
    /// Run by the operator.
    Cluster(Box<Remote>),
}

impl Where {
    /// The one that is meant.
    pub(crate) async fn find(place: &Place) -> Result<Self, Failure> {
        match place.cluster() {
            None => Ok(Self::Machine(locate::existing(place)?)),
            Some(access) => Ok(Self::Cluster(Box::new(Remote::find(&access, place.store.as_deref()).await?))),
        }
    }

    /// How it is.
    pub(crate) async fn status(&self) -> Result<StoreStatus, Failure> {
        match self {
            Self::Machine(layout) => Ok(Client::new(layout).status().await?),
            Self::Cluster(remote) => Ok(remote.status().await?),
        }
    }

    /// The runs of procedures, the oldest first.
    pub(crate) async fn operations(&self) -> Result<Vec<OperationRow>, Failure> {
        match self {
            Self::Machine(layout) => Ok(Client::new(layout).status().await?.operations),
            Self::Cluster(remote) => Ok(remote.operations().await?),
        }
    }

    /// Has an operation tried again, or taken back.
    pub(crate) async fn order(&self, name: &str, rollback: bool) -> Result<(), Failure> {
        match self {
            Self::Machine(layout) => {
                let request = Request::Operation { name: name.to_owned(), rollback };
                Client::new(layout).ask(&request).await?;
                Ok(())
            }
            Self::Cluster(remote) => remote.order(name, rollback).await?.map_err(Failure::failed),
        }
    }

    /// Has a shard made again from another region's copy; the operation's name.
    pub(crate) async fn rebuild(
        &self,
        region: &str,
        shard: u16,
        source: Option<&str>,
    ) -> Result<String, Failure> {
        match self {
            Self::Machine(layout) => {
                let source = source.map(ToOwned::to_owned);
                let request = Request::Rebuild { region: region.to_owned(), shard, source };
                let name = Client::new(layout).ask(&request).await?;
                Ok(name.as_str().unwrap_or_default().to_owned())
            }
            Self::Cluster(remote) => remote.rebuild(region, shard, source).await?.map_err(Failure::failed),
        }
    }

    /// Declares a region gone for good that leaves, or takes that back; the operation's name.
    pub(crate) async fn remove(&self, region: &str, force: bool) -> Result<String, Failure> {
        match self {
            Self::Machine(layout) => {
                let request = Request::Remove { region: region.to_owned(), force };
                let name = Client::new(layout).ask(&request).await?;
                Ok(name.as_str().unwrap_or_default().to_owned())
            }
            Self::Cluster(remote) => remote.remove(region, force).await?.map_err(Failure::failed),
        }
    }

    /// Begins what is over in a moment; the operation's name. On this machine other commands do that.
    pub(crate) async fn start(
        &self,
        kind: OperationType,
        region: &str,
        shard: Option<u16>,
        target: Option<u16>,
    ) -> Result<String, Failure> {
        match self {
            Self::Machine(_) => Err(Failure::usage(format!(
                "that is no operation on this machine: write `{}`",
                instead_on_a_machine(kind)
            ))),
            Self::Cluster(remote) => {
                remote.start(kind, region, shard, target).await?.map_err(Failure::failed)
            }
        }
    }

    /// How long to pause before it is asked again in a loop.
    pub(crate) const fn pace(&self) -> Duration {
        match self {
            Self::Machine(_) => Duration::from_millis(100),
            Self::Cluster(_) => Duration::from_secs(1),
        }
    }

    /// The metrics of the proxies of a status, of those that answer.
    pub(crate) async fn metrics<'a>(&self, status: &'a StoreStatus) -> Vec<(&'a ProcessRow, String)> {
        let proxies = status.processes.iter().filter(|row| row.component.contains("/proxy-"));
        let asked = proxies.map(async |row| {
            let text = match self {
                Self::Machine(_) => fetch_metrics(&format!("127.0.0.1:{}", row.port?)).await,
                Self::Cluster(remote) => remote.metrics(row).await,
            };
            Some((row, text?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Where clients connect, and what could not be read of that.
    pub(crate) async fn endpoints(&self) -> Result<(Vec<Endpoint>, Vec<String>), Failure> {
        match self {
            Self::Machine(layout) => Ok((of_machine(&self.status().await?, layout), Vec::new())),
            Self::Cluster(remote) => Ok(remote.endpoints().await?),
        }
    }
}

/// Where clients of a store on this machine connect.
pub(crate) fn of_machine(status: &StoreStatus, layout: &Layout) -> Vec<Endpoint> {
    let password = std::fs::read_to_string(layout.secrets().join("client")).ok();
    let login = password.map(|password| ("default".to_owned(), password.trim().to_owned()));
    let endpoint = |region: &operator::view::RegionStatus| Endpoint {
        region: region.name.clone(),
        address: region.endpoint.clone(),
        login: login.clone(),
        balanced: false,
    };
    status.regions.iter().map(endpoint).collect()
}

/// What does on this machine what is an operation in a cluster.
const fn instead_on_a_machine(kind: OperationType) -> &'static str {
    match kind {
        OperationType::Switchover => "masctl handover REGION SHARD",
        OperationType::Failover => "masctl fault kill REGION/shard-N/redis-N",
        OperationType::Verify => "masctl verify",
        OperationType::Repair => "masctl verify --repair",
        OperationType::ScaleOut | OperationType::Remove => "masctl apply -f FILE",
        OperationType::Rebuild => "masctl op start rebuild",
    }
}

/// What to do in a cluster instead, of commands that only this machine knows.
pub(crate) fn instead_in_a_cluster(command: &Command) -> Option<&'static str> {
    match command {
        Command::Up(_) => Some("up runs a store on this machine; in a cluster write `kubectl apply -f FILE`"),
        Command::Down(_) => Some(
            "down ends a store on this machine; in a cluster write `kubectl delete multiactivestore NAME` (spec.deletionPolicy says what \
             happens to its volumes)",
        ),
        Command::Cut(_) | Command::Heal(_) => Some(
            "cut and heal work on this machine's stores only; in a cluster the network is the cluster's: use its own tools",
        ),
        Command::Apply(_) => {
            Some("apply changes a store on this machine; in a cluster write `kubectl apply -f FILE`")
        }
        Command::Fault(_) => {
            Some("fault works on this machine's stores only; in a cluster write `kubectl delete pod POD`")
        }
        Command::Handover(_)
        | Command::Verify(_)
        | Command::Status(_)
        | Command::Endpoints(_)
        | Command::Top(_)
        | Command::Plan(_)
        | Command::Op(_)
        | Command::SupportBundle(_)
        | Command::Completion { .. } => None,
    }
}
