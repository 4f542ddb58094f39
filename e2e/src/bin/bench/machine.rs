//! The machine, described without names and places.

use std::fs;
use std::process::Command;

/// Cores, processor, memory, and the servers' versions.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let kib: u64 = field("/proc/meminfo", "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let processor = Some(field("/proc/cpuinfo", "model name")).filter(|name| !name.is_empty());
    let redis = Command::new("redis-server")
        .arg("--version")
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let redis =
        redis.ok().and_then(|text| Some(text.split("v=").nth(1)?.split_whitespace().next()?.to_owned()));
    format!(
        "{cores} cores{}, {} GiB of memory, Linux, Redis {}; clients and all servers of all regions on it, pinned nowhere",
        processor.map_or(String::new(), |name| format!(" ({name})")),
        (kib + (1 << 19)) >> 20,
        redis.unwrap_or_else(|| "of unknown version".to_owned()),
    )
}
