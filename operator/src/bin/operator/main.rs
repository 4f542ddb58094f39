//! The operator: `operator run` in a cluster, `operator crds` for the definitions that it needs there.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use operator::platform::kubernetes::{Options, run};
use tracing_subscriber::EnvFilter;

/// Runs multi-active stores on Kubernetes: turns each MultiActiveStore into a store that is open for reads and writes in several
/// regions at once.
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile until stopped. Uses the pod's service account, or the kubeconfig (KUBECONFIG)
    Run(Box<Run>),
    /// Print the CustomResourceDefinitions: `operator crds | kubectl apply --server-side -f -`
    Crds,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Look after this namespace alone [default: all of the cluster]
    #[arg(long, value_name = "NAME", env = "MAS_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,

    /// The namespace that the operator itself runs in: its pods may reach the engines
    #[arg(long, value_name = "NAME", env = "MAS_OPERATOR_NAMESPACE", default_value = "multiactive-system")]
    namespace: String,

    /// The release catalog, YAML [default: the built-in one]
    #[arg(long, value_name = "FILE", env = "MAS_CATALOG")]
    catalog: Option<PathBuf>,

    /// Where to answer probes (/healthz, /readyz) and serve /metrics
    #[arg(long, value_name = "HOST:PORT", env = "MAS_LISTEN", default_value = "0.0.0.0:8080")]
    listen: String,

    /// The Lease, in the operator's own namespace, that several operators compete for: one of them acts
    #[arg(long, value_name = "NAME", env = "MAS_LEASE", default_value = "multiactive-operator")]
    lease: String,

    /// This operator's name in the Lease [default: the host's name and the process id]
    #[arg(long, value_name = "NAME", env = "MAS_IDENTITY")]
    identity: Option<String>,

    /// How log lines are written to stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "MAS_LOG_FORMAT")]
    log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or levels by module
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MAS_LOG")]
    log: String,

    /// For tests: end as if killed after the Nth request that writes
    #[arg(long, value_name = "N", hide = true)]
    crash_after: Option<u64>,
    /// For tests: what is watched comes so many milliseconds later
    #[arg(long, hide = true, value_name = "MS", conflicts_with = "crash_after")]
    delay_watches: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Crds => {
            print!("{}", crds::definitions_yaml());
            ExitCode::SUCCESS
        }
        Command::Run(args) => match serve(*args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("operator: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(args: Run) -> Result<(), Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(&args.log)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "installing the TLS provider: there is another one already")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let identity = args.identity.unwrap_or_else(|| format!("{}_{}", host.trim(), std::process::id()));
    let options = Options {
        watch_namespace: args.watch_namespace,
        namespace: args.namespace,
        catalog: args.catalog,
        listen: args.listen,
        lease: args.lease,
        identity,
        crash_after: args.crash_after,
        delay_watches: args.delay_watches.map(std::time::Duration::from_millis),
    };
    Ok(runtime.block_on(run(options, stop_signal()))?)
}

/// Until SIGTERM or Ctrl-C.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
