//! Finds the programs that a local store runs, or says which package brings them.

use std::env;
use std::path::{Path, PathBuf};

/// Where programs are looked for before the usual places.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The engine, `libmas_engine.so`. Else `MAS_ENGINE_MODULE`, else beside this program.
    pub engine_module: Option<PathBuf>,
    /// The proxy. Else `MAS_PROXY`, else beside this program, else in PATH.
    pub proxy: Option<PathBuf>,
}

/// The programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `redis-server`.
    pub redis: PathBuf,
    /// RabbitMQ's start script.
    pub rabbitmq: PathBuf,
    /// Erlang's port mapper.
    pub epmd: PathBuf,
    /// The engine.
    pub engine_module: PathBuf,
    /// The proxy.
    pub proxy: PathBuf,
    /// Ends a child when its parent dies; without it the next `up` clears away what was left.
    pub setpriv: Option<PathBuf>,
}

/// A program that is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinariesError {
    /// A server of the distribution.
    #[error("{program} was not found in PATH: install it (Debian and Ubuntu: apt-get install {package})")]
    NotInstalled {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// A part of this project.
    #[error(
        "{what} was not found beside {beside}: build it (cargo build -p {package}), or name it with {flag} or {variable}"
    )]
    NotBuilt {
        /// What it is.
        what: &'static str,
        /// Where it was looked for.
        beside: String,
        /// The crate that makes it.
        package: &'static str,
        /// The flag that names it.
        flag: &'static str,
        /// The variable that names it.
        variable: &'static str,
    },
    /// A named file is not there.
    #[error("{path} (named by {by}) is no file")]
    NoFile {
        /// The path.
        path: String,
        /// What named it.
        by: &'static str,
    },
}

/// RabbitMQ's own script. Debian's wrapper in /usr/sbin insists on its system user and its log files.
const RABBITMQ_SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

impl Binaries {
    /// Finds everything.
    pub fn find(overrides: &Overrides) -> Result<Self, BinariesError> {
        let rabbitmq = Some(PathBuf::from(RABBITMQ_SCRIPT)).filter(|path| path.is_file());
        Ok(Self {
            redis: installed("redis-server", "redis-server")?,
            rabbitmq: rabbitmq.map_or_else(|| installed("rabbitmq-server", "rabbitmq-server"), Ok)?,
            epmd: installed("epmd", "erlang-base")?,
            engine_module: own(
                overrides.engine_module.as_deref(),
                "libmas_engine.so",
                "mas-engine",
                "--engine-module",
                "MAS_ENGINE_MODULE",
            )?,
            proxy: own(overrides.proxy.as_deref(), "mas-proxy", "mas-proxy", "--proxy", "MAS_PROXY")?,
            setpriv: in_path("setpriv"),
        })
    }
}

fn installed(program: &'static str, package: &'static str) -> Result<PathBuf, BinariesError> {
    in_path(program).ok_or(BinariesError::NotInstalled { program, package })
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin".into());
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn own(
    named: Option<&Path>,
    file: &'static str,
    package: &'static str,
    flag: &'static str,
    variable: &'static str,
) -> Result<PathBuf, BinariesError> {
    let from_variable = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = named.map(|path| (path.to_owned(), flag)).or(from_variable.map(|path| (path, variable)));
    if let Some((path, by)) = named {
        let absolute = std::path::absolute(&path).unwrap_or(path);
        return if absolute.is_file() {
            Ok(absolute)
        } else {
            Err(BinariesError::NoFile { path: absolute.display().to_string(), by })
        };
    }
    let here = env::current_exe().and_then(std::fs::canonicalize).unwrap_or_default();
    // A test's program lives in target/debug/deps, what it tests one folder up.
    let folders = here.ancestors().skip(1).take(2);
    folders
        .map(|folder| folder.join(file))
        .find(|candidate| candidate.is_file())
        .or_else(|| in_path(file))
        .ok_or_else(|| BinariesError::NotBuilt {
            what: file,
            beside: here.display().to_string(),
            package,
            flag,
            variable,
        })
}
