//! The command line: flags, help and completion come from here alone.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use operator::platform::kubernetes::Access;

/// Runs and inspects multi-active stores: Redis-compatible, open for reads and writes in several regions at once.
///
/// `masctl up` starts a store on this machine from the same manifest that a cluster takes: real redis-server shards
/// with replicas, a real RabbitMQ broker and proxies for every region, as child processes on loopback addresses. The
/// other commands talk to a store that is up; with --namespace, --context or --kubeconfig, to one in a cluster.
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
  masctl --namespace prod status                  the same, of a store in a cluster

Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration.";

const ABOUT_PLUGIN: &str = "Inspects multi-active stores of a cluster: Redis-compatible, open for reads and writes in several regions at once";
const LONG_ABOUT_PLUGIN: &str = "\
Inspects multi-active stores of a cluster: Redis-compatible, open for reads and writes in several regions at once.

Reads with your rights, through the kubeconfig's current context and namespace unless others are named. Only `op`, `handover` and `verify` change anything. \
(It is masctl under another name, which also runs stores on this machine.)";

const EXAMPLES_PLUGIN: &str = "\
Examples:
  kubectl mas status                              how the store of this namespace is
  kubectl mas status -n prod --store shop --watch the same, of another one, again and again
  kubectl mas plan -f store.yaml                  what applying a manifest would change and restart
  kubectl mas top                                 live rates and lags
  kubectl mas endpoints beijing                   where clients of a region connect
  kubectl mas support-bundle                      all that tells how it is, without passwords

Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration.";

/// The name that this program was called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// For stores on this machine, unless a cluster is named.
    Masctl,
    /// kubectl's plugin: for stores in a cluster.
    Plugin,
}

impl Called {
    pub(crate) fn now() -> Self {
        Self::by(std::env::args_os().next().as_deref().map(Path::new))
    }

    fn by(path: Option<&Path>) -> Self {
        let name = path.and_then(Path::file_name).map(|name| name.to_string_lossy());
        if name.is_some_and(|name| name.starts_with("kubectl-mas")) { Self::Plugin } else { Self::Masctl }
    }

    /// As people write it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Masctl => "masctl",
            Self::Plugin => "kubectl mas",
        }
    }

    /// As the program's file is called.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Masctl => "masctl",
            Self::Plugin => "kubectl-mas",
        }
    }

    /// The command line under this name.
    pub(crate) fn command(self) -> clap::Command {
        match self {
            Self::Masctl => Args::command(),
            Self::Plugin => Args::command()
                .name(self.file())
                .bin_name(self.words())
                .display_name(self.words())
                .about(ABOUT_PLUGIN)
                .long_about(LONG_ABOUT_PLUGIN)
                .after_help(EXAMPLES_PLUGIN),
        }
    }
}

/// Reads the command line.
pub(crate) fn parse(called: Called) -> Result<Args, clap::Error> {
    read(called, called.command().try_get_matches()?)
}

fn read(called: Called, mut matches: ArgMatches) -> Result<Args, clap::Error> {
    // A variable that is set for stores on this machine says nothing of those in a cluster.
    let state_dir = matches.value_source("state_dir") == Some(ValueSource::CommandLine);
    let mut args = Args::from_arg_matches_mut(&mut matches)?;
    let place = &mut args.place;
    let in_cluster = called == Called::Plugin || place.names_a_cluster();
    let conflict = if state_dir && in_cluster {
        Some(
            "--state-dir is of stores on this machine, not in a cluster: leave it out, or --context, --namespace and --kubeconfig",
        )
    } else if place.state_dir.is_some() && place.store.is_some() && !in_cluster {
        Some("--state-dir (or MAS_STATE_DIR) names one store, and --store another way: leave one of them out")
    } else {
        None
    };
    if let Some(words) = conflict {
        return Err(called.command().error(clap::error::ErrorKind::ArgumentConflict, words));
    }
    if in_cluster {
        place.state_dir = None;
    }
    Ok(args)
}

/// Which store.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Folder in which a store on this machine keeps everything [default: multiactive/STORE in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, global = true, value_name = "DIR", env = "MAS_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The store's name; needed only when there are several
    #[arg(long, global = true, value_name = "STORE")]
    pub(crate) store: Option<String>,
    /// A store in a cluster: in this namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) namespace: Option<String>,
    /// A store in a cluster: the one of this context of the kubeconfig [default: the current one]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// A store in a cluster: the one of this kubeconfig [default: $KUBECONFIG, ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl Place {
    fn names_a_cluster(&self) -> bool {
        self.namespace.is_some() || self.context.is_some() || self.kubeconfig.is_some()
    }

    /// The cluster that is meant, if one is.
    pub(crate) fn cluster(&self) -> Option<Access> {
        (Called::now() == Called::Plugin || self.names_a_cluster()).then(|| Access {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
        })
    }
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
    /// Make a replica the master of a shard, in order: nothing is lost, and clients wait for a moment
    ///
    /// The master takes no writes until its replica has all of them (a second at most, else all stays as it is), the replica is
    /// promoted, and the old master follows it. Prints how long clients waited.
    Handover(Handover),
    /// Compare what the regions hold, key by key where it differs; with --repair make it equal
    ///
    /// The masters of all regions are asked for digests of what they hold, and what differs is looked into down to fields and members. What
    /// differs while writes are under way is looked at again; it counts only when all regions have merged all that was said of
    /// it. Exit code 1: keys still differ, or it could not be decided.
    Verify(Verify),
    /// Change a store that runs on this machine to what a manifest says: regions that are new in it join while the others serve
    Apply(Apply),
    /// Look at operations (a region that joins, a shard that is rebuilt), begin one, try them again, take them back
    #[command(subcommand)]
    Op(OpCommand),
    /// Show live rates and lags
    Top(Top),
    /// Say what `up` with this manifest would change (in a cluster: applying it), and what restarts, without doing it
    Plan(Plan),
    /// Collect all that tells how the store is into one file, without passwords
    ///
    /// Status, objects or files, events, the ends of logs, metrics. What cannot be read is listed in its README.
    SupportBundle(SupportBundle),
    /// Kill, freeze or thaw one process of the store, to see what happens
    #[command(
        after_help = "Components: REGION/shard-N/redis-N, REGION/broker-N, REGION/proxy-N, epmd; `masctl status -o json` lists them."
    )]
    Fault(FaultArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "For example: masctl completion bash > ~/.local/share/bash-completion/completions/masctl\nCalled as kubectl-mas, it completes that name."
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
pub(crate) struct Apply {
    /// The manifest
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OpCommand {
    /// All of them: those that ended are kept for a while
    List {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// One of them, step by step
    Show {
        /// Its name
        name: String,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Go on, once a second, until it ends
        #[arg(short, long)]
        watch: bool,
    },
    /// Begin one
    #[command(subcommand)]
    Start(StartCommand),
    /// Wait until it has succeeded; exit code 1 when it has not
    Wait {
        /// Its name
        name: String,
        /// How long
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
    },
    /// Try one that failed again, from its first step: what is done already is found done
    Retry {
        /// Its name
        name: String,
    },
    /// Take one back that has not ended: a region that was to join is stopped and forgotten, a shard that was to be rebuilt stays served by
    /// another region
    Rollback {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StartCommand {
    /// Make a shard of a region again from another region's copy
    ///
    /// By itself this begins when all copies of a shard are gone. It is to be ordered when copies are there and cannot be used: their files
    /// are damaged, they are of another store, or the region was away so long that others refuse it (`Lapsed`). On this machine their
    /// files are moved to `set-aside` in the state directory, and what only they had stays there. In a cluster their pods are deleted and
    /// their claims with them: take a VolumeSnapshot before. Clients are served by another region meanwhile.
    /// Refused: a shard with a copy that may be good, and one that no other region serves.
    #[command(after_help = "For example: masctl op start rebuild --region beijing --shard 0")]
    Rebuild {
        /// The region
        #[arg(long, value_name = "REGION")]
        region: String,
        /// The shard, from 0
        #[arg(long, value_name = "N")]
        shard: u16,
        /// The region that is copied [default: the healthiest]
        #[arg(long, value_name = "REGION")]
        source: Option<String>,
    },
    /// Let the others forget a region that is gone for good
    ///
    /// A region leaves when it is taken out of the manifest; that waits for what only it has. When nothing of it answers and nothing ever
    /// will, say so with `--force`: the others make each other equal on what they have of it, and forget it. What nobody has is lost; the
    /// operation says how much that may be. Refused: a region that the manifest still has. It waits while anything of the region answers.
    #[command(after_help = "For example: masctl op start remove --region beijing --force")]
    Remove {
        /// The region
        #[arg(long, value_name = "REGION")]
        region: String,
        /// Nothing of it answers, and nothing ever will. Without it: it is there after all
        #[arg(long)]
        force: bool,
    },
    /// In a cluster: make a replica the master of a shard, in order
    ///
    /// What `masctl handover` does as well, which waits until it is done. On this machine there is only that.
    #[command(after_help = "For example: kubectl mas op start switchover --region beijing --shard 0")]
    Switchover {
        /// The region
        #[arg(long, value_name = "REGION")]
        region: String,
        /// The shard, from 0
        #[arg(long, value_name = "N")]
        shard: u16,
        /// The member that is to be master: 1 is redis-1 [default: the replica that has most]
        #[arg(long, value_name = "N")]
        to: Option<u16>,
    },
    /// In a cluster: end the server that is a shard's master, so that a replica takes over
    ///
    /// For a master that hangs, and to see what happens. Its pod is deleted. Clients wait for some seconds; with a master that answers,
    /// `switchover` is better. Refused: a shard without a replica that could take over.
    #[command(after_help = "For example: kubectl mas op start failover --region beijing --shard 0")]
    Failover {
        /// The region
        #[arg(long, value_name = "REGION")]
        region: String,
        /// The shard, from 0
        #[arg(long, value_name = "N")]
        shard: u16,
    },
    /// In a cluster: compare what the regions hold; it has failed when they differ
    ///
    /// What `masctl verify` does as well, which waits and lists the keys. On this machine there is only that.
    Verify,
    /// In a cluster: compare what the regions hold, and make it equal
    Repair,
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
pub(crate) struct Handover {
    /// The region
    pub(crate) region: String,
    /// The shard's number
    pub(crate) shard: u16,
    /// The member that is to be master: 1 is redis-1 [default: the replica that has most]
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Ship the winners again, through the ordinary merge; without it nothing is changed
    #[arg(long)]
    pub(crate) repair: bool,
    /// Compare the values of so many of a hundred keys besides, chosen at random: digests tell of versions alone [default: as
    /// the manifest says]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) sample: Option<u8>,
    /// How long to wait for the operator's answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Cluster")]
    pub(crate) timeout: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Print this many rounds and end, instead of going on until Ctrl-C
    #[arg(short = 'n', long, value_name = "ROUNDS", value_parser = rounds)]
    pub(crate) rounds: Option<u32>,
    /// A store in a cluster: in this namespace (here without -n, which stands for rounds)
    // The global option, without its short form.
    #[arg(id = "namespace", long = "namespace", value_name = "NAME", help_heading = "Cluster")]
    _namespace: Option<String>,
}

fn rounds(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("-n is the number of rounds here; for a namespace write --namespace {text}"))
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The manifest
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The operator's release catalog, YAML [default: the built-in one, and the images that run]
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) catalog: Option<PathBuf>,
    /// The namespace that the operator runs in [default: what the store's NetworkPolicies say, or multiactive-system]
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) operator_namespace: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SupportBundle {
    /// The file to write; it must not exist [default: STORE-support-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The namespace that the operator runs in [default: what the store's NetworkPolicies say, or multiactive-system]
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) operator_namespace: Option<String>,
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
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Called::Masctl.command().debug_assert();
        Called::Plugin.command().debug_assert();
    }

    fn parsed(called: Called, line: &str) -> Result<Args, String> {
        let words = line.split_whitespace();
        let matches = called.command().try_get_matches_from(words).map_err(|error| error.to_string())?;
        read(called, matches).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cluster_is_named_before_or_behind_the_command() {
        for line in [
            "masctl -n prod status",
            "masctl status -n prod",
            "masctl top -n 2 --namespace prod",
            "masctl -n prod top -n 2",
        ] {
            let args = parsed(Called::Masctl, line).unwrap();
            let cluster = args.place.cluster().unwrap();
            assert_eq!(cluster.namespace.as_deref(), Some("prod"), "{line}");
        }
        assert!(parsed(Called::Masctl, "masctl status").unwrap().place.cluster().is_none());
        let odd = parsed(Called::Plugin, "kubectl-mas top -n prod").unwrap_err();
        assert!(odd.contains("write --namespace prod"), "{odd}");
    }

    #[test]
    fn this_machine_and_a_cluster_exclude_each_other() {
        for (called, line) in [
            (Called::Masctl, "masctl --state-dir x --context y status"),
            (Called::Masctl, "masctl --state-dir x --store y status"),
            (Called::Plugin, "kubectl-mas status --state-dir x"),
        ] {
            let error = parsed(called, line).unwrap_err();
            assert!(error.contains("leave"), "{line}: {error}");
        }
    }

    #[test]
    fn the_plugin_is_known_by_its_name() {
        let by = |path: &str| Called::by(Some(Path::new(path)));
        assert_eq!(
            (by("/usr/local/bin/kubectl-mas"), by("kubectl-mas.exe")),
            (Called::Plugin, Called::Plugin)
        );
        assert_eq!((by("/kubectl-mas/masctl"), Called::by(None)), (Called::Masctl, Called::Masctl));
        let help = Called::Plugin.command().render_long_help().to_string();
        assert!(help.contains("Usage: kubectl mas ") && !help.contains("masctl up"), "{help}");
    }
}
