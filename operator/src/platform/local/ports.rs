//! Ports of local stores: chosen free once, kept for the life of the store, and noted in one file a user so that
//! stores that are down keep theirs.
//!
//! Ports lie below the range from which Linux takes the ports of outgoing connections, so that none of those sits
//! on a store's port while the store is down.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::Rng;

use super::layout::{Layout, LayoutError, io_error, make_private_folder, write_private};

const FIRST: u16 = 10_240;
const LAST: u16 = 32_000;

/// No ports to be had.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// All taken.
    #[error(
        "{wanted} free ports between {FIRST} and {LAST} were not found: end other stores (`masctl down --delete-data`)"
    )]
    NoneFree {
        /// How many were wanted.
        wanted: usize,
    },
    /// One of the store's own is taken by somebody else.
    #[error("port {port} of {name} is taken by another process: end it, or run `masctl up --new-ports`")]
    Taken {
        /// What it is for.
        name: String,
        /// The port.
        port: u16,
    },
    /// The list of ports could not be read or written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Completes `ports` with a free port for every name in `wanted`, and forgets names that are no longer wanted.
pub(super) fn assign(
    layout: &Layout,
    ports: &mut BTreeMap<String, u16>,
    wanted: &[String],
) -> Result<(), PortsError> {
    ports.retain(|name, _| wanted.contains(name));
    let missing: Vec<_> = wanted.iter().filter(|name| !ports.contains_key(*name)).collect();
    let registry = Registry::open()?;
    let mut book = registry.read();
    if !missing.is_empty() {
        let own: Vec<u16> = ports.values().copied().collect();
        let others = book.iter().filter(|(root, _)| Path::new(root) != layout.root());
        let reserved: Vec<u16> = others.flat_map(|(_, taken)| taken.iter().copied()).chain(own).collect();
        let base =
            find_run(missing.len(), &reserved).ok_or(PortsError::NoneFree { wanted: missing.len() })?;
        for (name, port) in missing.into_iter().zip(base..) {
            ports.insert(name.clone(), port);
        }
    }
    book.insert(layout.root().display().to_string(), ports.values().copied().collect());
    registry.write(&book)?;
    Ok(())
}

/// Forgets the ports of a store whose data is deleted.
pub(super) fn release(layout: &Layout) -> Result<(), LayoutError> {
    let registry = Registry::open()?;
    let mut book = registry.read();
    if book.remove(&layout.root().display().to_string()).is_some() {
        registry.write(&book)?;
    }
    Ok(())
}

/// Whether all of these are free now.
pub(super) fn check_free<'a>(
    mut ports: impl Iterator<Item = (&'a String, &'a u16)>,
) -> Result<(), PortsError> {
    match ports.find(|(_, port)| !is_free(**port)) {
        Some((name, port)) => Err(PortsError::Taken { name: name.clone(), port: *port }),
        None => Ok(()),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The first of `count` neighbouring ports, none reserved, all free.
fn find_run(count: usize, reserved: &[u16]) -> Option<u16> {
    let count = u16::try_from(count).ok()?;
    let span = (LAST - FIRST).checked_sub(count)?;
    (0..500).find_map(|_| {
        let base = FIRST + rand::rng().random_range(0..=span);
        let run = base..base + count;
        let clear = !reserved.iter().any(|port| run.contains(port));
        (clear && run.clone().all(is_free)).then_some(base)
    })
}

/// The user's list of ports in use, locked while open.
struct Registry {
    path: PathBuf,
    _lock: fs::File,
}

type Book = BTreeMap<String, Vec<u16>>;

impl Registry {
    fn open() -> Result<Self, LayoutError> {
        let folder = Layout::default_root().unwrap_or_else(|_| {
            std::env::temp_dir().join(format!("multiactive-{}", rustix::process::getuid().as_raw()))
        });
        make_private_folder(&folder)?;
        let lock = folder.join("ports.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(|e| io_error("opening", &lock, e))?;
        file.lock().map_err(|e| io_error("locking", &lock, e))?;
        Ok(Self { path: folder.join("ports.json"), _lock: file })
    }

    /// Entries of folders that are gone are dropped. An unreadable list is an empty one: it only saves collisions.
    fn read(&self) -> Book {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut book: Book = serde_json::from_str(&text).unwrap_or_default();
        book.retain(|root, _| Path::new(root).is_dir());
        book
    }

    fn write(&self, book: &Book) -> Result<(), LayoutError> {
        let text = serde_json::to_vec_pretty(book).unwrap_or_default();
        write_private(&self.path, &text, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_avoids_reserved_and_taken_ports() {
        let reserved: Vec<u16> = (FIRST..LAST).step_by(50).collect();
        let base = find_run(20, &reserved).expect("there are gaps of 49");
        assert!((base..base + 20).all(|port| !reserved.contains(&port) && is_free(port)));
        assert_eq!(find_run(60, &reserved), None);
        assert_eq!(find_run(60_000, &[]), None);
    }
}
