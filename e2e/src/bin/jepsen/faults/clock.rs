//! Wall clocks that are off, of single processes while they run: a small library, made from `clock.c`, is loaded into every
//! redis-server and proxy by scripts that stand before them in `PATH`. It adds what a file of that process says.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use e2e::{Parts, Store};

const SOURCE: &str = include_str!("clock.c");

/// The clocks of a store.
pub(crate) struct Clocks {
    folder: PathBuf,
}

impl Clocks {
    /// Makes library and scripts in `place`, for the store that will be there. Also gives variables for `masctl`.
    pub(crate) fn prepare(place: &Path, components: &[String]) -> Result<(Self, Vec<(String, OsString)>)> {
        let [programs, folder] = ["programs", "clocks"].map(|name| place.join(name));
        fs::create_dir_all(&programs)?;
        let (source, library) = (programs.join("clock.c"), programs.join("clock.so"));
        fs::write(&source, SOURCE)?;
        let made = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .context("running cc failed")?;
        if !made.status.success() {
            bail!("cc failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let redis = std::env::split_paths(&path).map(|folder| folder.join("redis-server"));
        let redis = redis.into_iter().find(|file| file.is_file()).context("there is no redis-server")?;
        let state = Store::state_in(place);
        for (name, program) in [("redis-server", redis), ("mas-proxy", Parts::find()?.proxy)] {
            // A part's processes run in its folder.
            let script = format!(
                "#!/bin/sh\nexport MAS_CLOCK_FILE=\"{}/${{PWD#{}/}}\" LD_PRELOAD=\"{}\"\nexec \"{}\" \"$@\"\n",
                folder.display(),
                state.display(),
                library.display(),
                program.display()
            );
            let file = programs.join(name);
            fs::write(&file, script)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        let clocks = Self { folder };
        for component in components {
            let file = clocks.folder.join(component);
            fs::create_dir_all(file.parent().unwrap_or(place))?;
            fs::write(file, 0_i64.to_ne_bytes())?;
        }
        let first = std::iter::once(programs.clone()).chain(std::env::split_paths(&path));
        let variables = vec![
            ("PATH".to_owned(), std::env::join_paths(first)?),
            ("MAS_PROXY".to_owned(), programs.join("mas-proxy").into_os_string()),
        ];
        Ok((clocks, variables))
    }

    /// Sets the clock of `component` off by `millis`.
    pub(crate) fn set(&self, component: &str, millis: i64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let path = self.folder.join(component);
        // In place: the processes have it mapped.
        let file = fs::OpenOptions::new().write(true).open(&path);
        let file = file.with_context(|| format!("there is no clock {}", path.display()))?;
        Ok(file.write_all_at(&(millis * 1_000_000).to_ne_bytes(), 0)?)
    }
}
