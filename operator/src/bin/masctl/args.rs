//! The command line: flags, help and completion come from here alone.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Runs and inspects multi-active stores: Redis-compatible, open for reads and writes in several regions at once.
///
/// `masctl up` starts a store on this machine from the same manifest that a cluster takes: real redis-server shards
/// with replicas, a real RabbitMQ broker and proxies for every region, as child processes on loopback addresses. The
/// other commands talk to a store that is up.
#[derive(Debug, Parser)]
#[command(name = "masctl", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  masctl up -f examples/two-regions.yaml          run a store; Ctrl-C ends it, its data stays
  masctl up -f examples/two-regions.yaml --detach run it in the background
  masctl status --watch                           how it is
  redis-cli -u $(masctl endpoints beijing)        talk to one region
  masctl cut beijing shanghai                     cut the network between two regions ...
  masctl heal beijing shanghai                    ... and give it back
  masctl down --delete-data                       end it, and forget it

Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration.";

/// Which store.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Folder in which the store keeps everything [default: multiactive/STORE in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, global = true, value_name = "DIR", env = "MAS_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The store's name; needed only when several are kept in the default folder
    #[arg(long, global = true, value_name = "STORE", conflicts_with = "state_dir")]
    pub(crate) store: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the store of a manifest on this machine, until Ctrl-C or `masctl down`
    Up(Up),
    /// End a running store in order: proxies drain, engines write their logs, brokers stop
    Down(Down),
    /// Show how the store is
    Status(Status),
    /// Print where clients connect
    Endpoints(Endpoints),
    /// Stop all traffic between two regions, both ways: both go on serving, and converge after `heal`
    ///
    /// Connections freeze and new ones hang, as when packets are lost. The cut lasts until `heal` or `down`.
    Cut(Cut),
    /// Let the traffic between two regions go on, both ways
    ///
    /// Connections that were frozen are closed, so that both sides connect anew.
    Heal(Pair),
    /// Compare what the regions hold, key by key where it differs
    ///
    /// The masters of all regions are asked for digests of what they hold. What differs while writes are under way is
    /// looked at again; a key counts only when both regions have merged all that was said of it. Exit code 1: keys
    /// differ, or it could not be decided.
    Verify(Verify),
    /// Show live rates and lags
    Top(Top),
    /// Say what `up` with this manifest would change, without doing it
    Plan(Plan),
    /// Kill, freeze or thaw one process of the store, to see what happens
    #[command(
        after_help = "Components: REGION/shard-N/redis-N, REGION/broker-N, REGION/proxy-N, epmd; `masctl status -o json` lists them."
    )]
    Fault(FaultArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "For example: masctl completion bash > ~/.local/share/bash-completion/completions/masctl"
    )]
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// The manifest (kind MultiActiveStore)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Return as soon as every region is active; the store goes on in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// How long to wait for every region to be active
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
    /// Choose all ports anew, should some of the old ones be taken
    #[arg(long)]
    pub(crate) new_ports: bool,
    /// The engine's module [default: libmas_engine.so beside masctl]
    #[arg(long, value_name = "FILE", env = "MAS_ENGINE_MODULE")]
    pub(crate) engine_module: Option<PathBuf>,
    /// The proxy's program [default: mas-proxy beside masctl, or in PATH]
    #[arg(long, value_name = "FILE", env = "MAS_PROXY")]
    pub(crate) proxy: Option<PathBuf>,
    /// This process is the background part of --detach
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    /// Delete the store's data, identity and ports as well
    #[arg(long)]
    pub(crate) delete_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Go on, once a second, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Wait until every region is active, at most this long
    #[arg(long, value_name = "SECONDS", conflicts_with = "watch")]
    pub(crate) wait_active: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Endpoints {
    /// Only this region's, and nothing else on the line
    pub(crate) region: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pair {
    /// One region
    #[arg(value_name = "A")]
    pub(crate) a: String,
    /// The other
    #[arg(value_name = "B")]
    pub(crate) b: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cut {
    #[command(flatten)]
    pub(crate) pair: Pair,
    /// Only what A writes no longer reaches B; what B writes reaches A
    #[arg(long)]
    pub(crate) one_way: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Also compare the values of so many random keys: digests tell of versions alone
    #[arg(long, value_name = "KEYS", default_value_t = 0)]
    pub(crate) sample: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Print this many rounds and end, instead of going on until Ctrl-C
    #[arg(short = 'n', long, value_name = "ROUNDS")]
    pub(crate) rounds: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The manifest
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultKind {
    /// kill -9
    Kill,
    /// Freeze (SIGSTOP); the controller replaces a frozen master by its replica
    Pause,
    /// Thaw, or start what was killed with --no-restart
    Resume,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FaultArgs {
    /// What to do
    #[arg(value_enum)]
    pub(crate) kind: FaultKind,
    /// To which process
    pub(crate) component: String,
    /// With kill: it stays down until `resume`
    #[arg(long)]
    pub(crate) no_restart: bool,
}

#[cfg(test)]
mod tests {
    use super::Args;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
