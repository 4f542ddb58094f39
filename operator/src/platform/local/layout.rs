//! Where a local store keeps its files, and the lock that makes sure that one supervisor runs it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Component;

/// A Unix socket's path has room for 108 bytes.
const MAX_SOCKET_PATH: usize = 107;

/// A state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file or folder could not be made or read.
    #[error("{action} {path} failed: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The control socket would not fit.
    #[error(
        "the state directory {0} has too long a path for a socket in it: choose a shorter one with --state-dir"
    )]
    PathTooLong(PathBuf),
    /// Characters that would break configuration files.
    #[error(
        "the state directory {0} has a quote, a line break or characters that are not UTF-8 in its path: choose another with --state-dir"
    )]
    OddPath(PathBuf),
    /// Another supervisor holds the lock.
    #[error("the store in {0} is already running: see `masctl status`, or end it with `masctl down`")]
    Running(PathBuf),
    /// Nothing is kept there.
    #[error("there is no store in {0}")]
    NoStore(PathBuf),
    /// No home directory.
    #[error("neither XDG_STATE_HOME nor HOME is set: name a folder with --state-dir")]
    NoHome,
}

/// The files of one store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A store in `root`, which need not exist yet. Relative paths are taken from the current directory.
    pub fn new(root: &Path) -> Result<Self, LayoutError> {
        let root = std::path::absolute(root).map_err(|e| io_error("resolving", root, e))?;
        let layout = Self { root };
        let clean = layout.root.to_str().is_some_and(|path| !path.contains(['"', '\'', '\n', '\r', '\\']));
        if !clean {
            return Err(LayoutError::OddPath(layout.root));
        }
        if layout.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(LayoutError::PathTooLong(layout.root));
        }
        Ok(layout)
    }

    /// The folder that holds all stores that were started without `--state-dir`.
    pub fn default_root() -> Result<PathBuf, LayoutError> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .map(|base| base.join("multiactive"))
            .ok_or(LayoutError::NoHome)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The identity record.
    pub fn record(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// Is there once the nodes of a region's broker have all been ready.
    pub fn formed(&self, region: &str) -> PathBuf {
        self.root.join(region).join("broker-formed")
    }

    /// The manifest that was applied last.
    pub fn manifest(&self) -> PathBuf {
        self.root.join("manifest.yaml")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Which processes were started, to recognise what a killed supervisor left.
    pub fn roster(&self) -> PathBuf {
        self.root.join("processes.json")
    }

    /// The report of the last verification.
    pub fn verification(&self) -> PathBuf {
        self.root.join("verification.json")
    }

    /// What the supervisor says.
    pub fn log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// Passwords.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// What superseded members alone had, copied before they were resynced.
    pub fn set_aside(&self) -> PathBuf {
        self.root.join("set-aside")
    }

    /// What a region has.
    pub fn region(&self, region: &str) -> PathBuf {
        self.root.join(region)
    }

    /// What regions had that were removed, by region and id.
    pub fn removed(&self) -> PathBuf {
        self.root.join("removed")
    }

    /// The folder of one component.
    pub fn component(&self, component: &Component) -> PathBuf {
        self.root.join(component.folder())
    }

    /// Makes the folder and takes the lock; it is held for as long as the file is.
    pub fn lock(&self) -> Result<File, LayoutError> {
        make_private_folder(&self.root)?;
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(LayoutError::Running(self.root.clone())),
            Err(TryLockError::Error(e)) => Err(io_error("locking", &self.lock_path(), e)),
        }
    }

    /// Whether a supervisor holds the lock.
    pub fn is_running(&self) -> bool {
        self.lock_path().exists() && matches!(self.lock(), Err(LayoutError::Running(_)))
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn lock_file(&self) -> Result<File, LayoutError> {
        let path = self.lock_path();
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        options.open(&path).map_err(|e| io_error("opening", &path, e))
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> LayoutError {
    LayoutError::Io { action, path: path.to_owned(), source }
}

/// Makes a folder, and those above it, that only the owner can enter.
pub(super) fn make_private_folder(path: &Path) -> Result<(), LayoutError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| io_error("making", path, e))
}

/// Writes a file that only the owner can read, in one step: readers see the old or the new content.
/// `durable`: it is on the disk when this returns.
pub(super) fn write_private(path: &Path, content: &[u8], durable: bool) -> Result<(), LayoutError> {
    write_with_mode(path, content, durable, 0o600)
}

/// As [`write_private`], with another mode.
pub(super) fn write_with_mode(
    path: &Path,
    content: &[u8],
    durable: bool,
    mode: u32,
) -> Result<(), LayoutError> {
    let fail = |e| io_error("writing", path, e);
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        Ok(()) | Err(_) => {}
    }
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    if durable {
        file.sync_all().map_err(fail)?;
    }
    fs::rename(&temporary, path).map_err(fail)?;
    if durable && let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    }
    Ok(())
}
