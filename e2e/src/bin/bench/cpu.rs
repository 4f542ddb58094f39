//! Processor time of processes, from the kernel's books.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// The kernel counts in hundredths of a second on every platform that this runs on.
const MICROS_OF_A_TICK: u64 = 10_000;

/// Processes by what they are, and the microseconds that each kind has used.
pub(crate) type Used = BTreeMap<&'static str, u64>;

/// Processes by what they are.
pub(crate) type Roles = Vec<(&'static str, u32)>;

/// What they have used so far.
pub(crate) fn read(roles: &Roles) -> Result<Used> {
    let mut used = Used::new();
    for (role, pid) in roles {
        *used.entry(*role).or_default() += micros(*pid)?;
    }
    Ok(used)
}

/// What they have used in between.
pub(crate) fn difference(before: &Used, after: &Used) -> Used {
    after
        .iter()
        .map(|(role, micros)| (*role, micros - before.get(role).copied().unwrap_or(0).min(*micros)))
        .collect()
}

fn micros(pid: u32) -> Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    parse(&text).with_context(|| format!("reading the processor time of process {pid} failed"))
}

/// User and system time: the 14th and 15th field, of which the second may hold blanks.
fn parse(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((user + system) * MICROS_OF_A_TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_odd_names() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(parse(stat), Some(3_000_000));
        assert_eq!(parse("7 (a) S 1"), None);
    }
}
