//! What the kernel knows of a process: whether it lives, and how much memory it holds.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Whether `pid` runs (a zombie does not).
pub fn is_alive(pid: u32) -> bool {
    let zombie = || {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        text.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    to_pid(pid).is_some_and(|pid| test_kill_process(pid).is_ok()) && !zombie()
}

/// `kill -9`.
pub fn kill(pid: u32) -> Result<()> {
    send(pid, Signal::KILL)
}

/// `kill -TERM`.
pub fn terminate(pid: u32) -> Result<()> {
    send(pid, Signal::TERM)
}

/// `kill -STOP`.
pub fn pause(pid: u32) -> Result<()> {
    send(pid, Signal::STOP)
}

/// `kill -CONT`.
pub fn resume(pid: u32) -> Result<()> {
    send(pid, Signal::CONT)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .with_context(|| format!("process {pid} has no memory"))?;
    let kib: u64 =
        line.split_whitespace().nth(1).unwrap_or_default().parse().context("VmRSS is no number")?;
    Ok(kib << 10)
}

/// Raises this process's limit of open files to what it may have, and says how many that are.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let id = to_pid(pid).with_context(|| format!("{pid} is no process id"))?;
    kill_process(id, signal).with_context(|| format!("sending {signal:?} to process {pid} failed"))
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
