//! Children that a killed supervisor left behind: recognised by process id *and* start time, so that a stranger who
//! got the same id is never touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use serde::{Deserialize, Serialize};

use super::layout::{Layout, write_private};

/// One running child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    pid: u32,
    /// In clock ticks since boot, from `/proc/PID/stat`.
    started: u64,
    /// The boot during which it was started.
    boot: String,
}

/// The list of running children, mirrored in a file.
pub(super) struct Roster {
    path: PathBuf,
    boot: String,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Roster {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { path: layout.roster(), boot: boot_id(), entries: Mutex::default() }
    }

    pub(super) fn started(&self, name: &str, pid: u32) {
        if let Some(started) = start_time(pid) {
            let entry = Entry { pid, started, boot: self.boot.clone() };
            self.change(|entries| entries.insert(name.to_owned(), entry));
        }
    }

    pub(super) fn ended(&self, name: &str) {
        self.change(|entries| entries.remove(name));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Entry>) -> Option<Entry>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut entries);
        let text = serde_json::to_vec_pretty(&*entries).unwrap_or_default();
        if let Err(error) = write_private(&self.path, &text, false) {
            tracing::warn!(%error, "the list of processes could not be written");
        }
    }
}

/// Ends what an earlier supervisor of this store has left running, and says how many that were.
/// Call it with the store's lock held.
pub fn sweep(layout: &Layout) -> usize {
    let text = fs::read_to_string(layout.roster()).unwrap_or_default();
    let entries: BTreeMap<String, Entry> = serde_json::from_str(&text).unwrap_or_default();
    let boot = boot_id();
    let left: Vec<_> = entries
        .values()
        .filter(|entry| entry.boot == boot && start_time(entry.pid) == Some(entry.started))
        .filter_map(|entry| i32::try_from(entry.pid).ok().and_then(Pid::from_raw))
        .collect();
    for pid in &left {
        let _ = kill_process(*pid, Signal::KILL);
        let _ = kill_process_group(*pid, Signal::KILL);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while left.iter().any(|pid| test_kill_process(*pid).is_ok() && !is_zombie(*pid))
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = fs::remove_file(layout.roster());
    left.len()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The fields of `/proc/PID/stat` after the program's name, which may itself hold spaces.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(ToOwned::to_owned).collect())
}

fn start_time(pid: u32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

fn is_zombie(pid: Pid) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()).ok().and_then(stat).is_some_and(|fields| fields[0] == "Z")
}

/// Whether a process of this group still runs; one that is dead and only not yet waited for does not.
pub(super) fn group_runs(group: u32) -> bool {
    let group = group.to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(stat).any(|fields| fields[0] != "Z" && fields.get(2) == Some(&group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_very_process_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let mut ours = Command::new("sleep").arg("60").spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        let roster = Roster::new(&layout);
        roster.started("ours", ours.id());
        let wrong = Entry { pid: stranger.id(), started: 1, boot: boot_id() };
        roster.change(|entries| entries.insert("stranger".into(), wrong));
        assert_eq!(sweep(&layout), 1);
        assert!(!ours.wait().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(sweep(&layout), 0);
    }
}
