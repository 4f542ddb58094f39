//! The way to a cluster: which kubeconfig, context and namespace, and what a person can do when it leads nowhere.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig [default: `KUBECONFIG`, `~/.kube/config`, or the pod's service account].
    pub kubeconfig: Option<PathBuf>,
    /// A context of it, if not the current one.
    pub context: Option<String>,
    /// The namespace, if not the context's.
    pub namespace: Option<String>,
}

/// Why a store in a cluster cannot be looked at. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No usable kubeconfig.
    #[error("reading the kubeconfig failed: {0}; name one with --kubeconfig, or set KUBECONFIG")]
    Kubeconfig(String),
    /// It has no such context.
    #[error("there is no context '{wanted}' in the kubeconfig: {}", known_contexts(.known))]
    NoContext {
        /// What was asked for.
        wanted: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Nobody answers.
    #[error(
        "reaching the API server {server} failed: {why}; is the cluster up, and is this the right --context?"
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        why: String,
    },
    /// It does not know who asks.
    #[error(
        "the API server {server} does not accept the kubeconfig's credentials ({why}): log in again, or name another --context"
    )]
    Unauthenticated {
        /// Its address.
        server: String,
        /// Its words.
        why: String,
    },
    /// The kinds are not installed.
    #[error(
        "this cluster does not know MultiActiveStores: install their definitions (operator crds | kubectl apply --server-side -f -), or name another --context"
    )]
    NoKinds,
    /// Not allowed.
    #[error("reading {what} is not allowed: {why}; docs/masctl.md lists the rights that are needed")]
    Forbidden {
        /// What was read.
        what: String,
        /// The API server's words.
        why: String,
    },
    /// Not allowed to annotate the store.
    #[error(
        "asking the operator (an annotation of the store) is not allowed: {0}; docs/masctl.md lists the rights that are needed"
    )]
    MayNotAsk(String),
    /// The operator did not answer.
    #[error(
        "the operator has not answered within {seconds} s: it compares when all regions are Active (`kubectl get masr`), and other stores may be before; \
         the answer will be in status.verification"
    )]
    NoAnswer {
        /// How long was waited.
        seconds: u64,
    },
    /// There is none.
    #[error(
        "there is no store in namespace '{0}': make one with `kubectl apply -f FILE`, or name another namespace with --namespace"
    )]
    NoStore(String),
    /// Not this one.
    #[error("there is no store '{wanted}' in namespace '{namespace}': {}", known_stores(.known))]
    NoSuchStore {
        /// What was asked for.
        wanted: String,
        /// Where.
        namespace: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Which one?
    #[error("there are several stores in namespace '{namespace}': name one with --store ({})", .known.join(", "))]
    SeveralStores {
        /// Where.
        namespace: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Anything else.
    #[error("reading {what} failed: {why}")]
    Other {
        /// What was read.
        what: String,
        /// Why not.
        why: String,
    },
}

fn known_contexts(known: &[String]) -> String {
    if known.is_empty() { "it has none".into() } else { format!("it has {}", known.join(", ")) }
}

fn known_stores(known: &[String]) -> String {
    if known.is_empty() {
        "there is none; look into another with --namespace".into()
    } else {
        format!("there is {}", known.join(", "))
    }
}

impl AccessError {
    /// The command line should name more.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NoContext { .. } | Self::SeveralStores { .. })
    }
}

/// A cluster that can be asked.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) server: String,
    pub(super) namespace: String,
}

/// Makes a client. Nothing is asked yet.
pub(super) async fn connect(access: &Access) -> Result<Cluster, AccessError> {
    let config = config(access).await?;
    let (server, own) = (config.cluster_url.to_string(), config.default_namespace.clone());
    // Another one may be there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let why = |error: &dyn std::error::Error| AccessError::Kubeconfig(root_cause(error));
    let client = Client::try_from(config).map_err(|error| why(&error))?;
    let server = server.trim_end_matches('/').to_owned();
    Ok(Cluster { client, server, namespace: access.namespace.clone().unwrap_or(own) })
}

async fn config(access: &Access) -> Result<Config, AccessError> {
    let read = match &access.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match read {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => {
            let in_a_pod = (access.kubeconfig.is_none() && access.context.is_none()).then(Config::incluster);
            return in_a_pod
                .and_then(Result::ok)
                .ok_or_else(|| AccessError::Kubeconfig(no_kubeconfig(&error)));
        }
    };
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    if let Some(wanted) = access.context.clone().filter(|wanted| !known.contains(wanted)) {
        return Err(AccessError::NoContext { wanted, known });
    }
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map_err(|error| AccessError::Kubeconfig(root_cause(&error)))
}

fn no_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(source, path) => format!("{}: {source}", path.display()),
        other => root_cause(other),
    }
}

/// The innermost reason: what wraps it says little to a person.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

impl Cluster {
    /// What an error of the API server means to a person who reads `what`.
    pub(super) fn explain(&self, what: &str, error: &kube::Error) -> AccessError {
        let server = self.server.clone();
        let kube::Error::Api(status) = error else {
            let is_network = matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_));
            let why = root_cause(error);
            return if is_network {
                AccessError::Unreachable { server, why }
            } else {
                AccessError::Other { what: what.to_owned(), why }
            };
        };
        let why = status.message.clone();
        match status.code {
            401 => AccessError::Unauthenticated { server, why },
            403 => AccessError::Forbidden { what: what.to_owned(), why },
            // An object that is not there is no error: it is the kind that is not known.
            404 => AccessError::NoKinds,
            _ => AccessError::Other { what: what.to_owned(), why },
        }
    }
}

/// Whether an object of that name is there already, or has changed.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether the API server refused for want of a right.
pub(super) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// What the API server says, in short.
pub(super) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => root_cause(other),
    }
}
