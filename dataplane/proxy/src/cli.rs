//! The command line of `mas-proxy`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// The front of one region of a multi-active store: speaks RESP to clients, routes to the region's shards,
/// publishes their effects to the region's broker and merges those of the other regions.
#[derive(Debug, Parser)]
#[command(name = "mas-proxy", version)]
pub struct Cli {
    /// The configuration, a JSON file written by the operator or masctl. Watched: most changes need no restart.
    #[arg(long, value_name = "FILE", env = "MAS_PROXY_CONFIG")]
    pub config: PathBuf,

    /// This proxy's name, unique in its region, in place of the one in the configuration: proxies that share one file need it.
    #[arg(long, value_name = "NAME", env = "MAS_PROXY_NAME")]
    pub name: Option<String>,

    /// Read and check the configuration, say what is wrong with it, and end (exit code 64 if it cannot be used).
    #[arg(long)]
    pub check: bool,

    /// How log lines are written to stderr.
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "MAS_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or levels by module.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "MAS_LOG")]
    pub log: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
