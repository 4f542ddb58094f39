//! Finds the programs under test: they are built into the same folder as whoever asks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The project's own programs.
#[derive(Clone, Debug)]
pub struct Parts {
    /// `masctl`; it finds the engine and the proxy beside itself.
    pub masctl: PathBuf,
    /// The engine module.
    pub engine: PathBuf,
    /// The proxy.
    pub proxy: PathBuf,
}

impl Parts {
    /// Looks beside the running program and, for tests (`target/<profile>/deps/<test>`), one folder up.
    pub fn find() -> Result<Self> {
        let here = std::env::current_exe().context("asking for the running program's path failed")?;
        let folders: Vec<&Path> = here.ancestors().skip(1).take(2).collect();
        let Some(folder) = folders.iter().find(|folder| folder.join("masctl").is_file()) else {
            bail!("masctl was not found beside {}: {}", here.display(), how_to_build(&here));
        };
        let parts = Self {
            masctl: folder.join("masctl"),
            engine: folder.join("libmas_engine.so"),
            proxy: folder.join("mas-proxy"),
        };
        for part in [&parts.engine, &parts.proxy] {
            if !part.is_file() {
                bail!("{} is missing: {}", part.display(), how_to_build(&here));
            }
        }
        Ok(parts)
    }
}

fn how_to_build(here: &Path) -> String {
    let release = here.components().any(|part| part.as_os_str() == "release");
    let profile = if release { " --release" } else { "" };
    format!("run `cargo build{profile} -p mas-engine -p mas-proxy -p operator` first")
}
