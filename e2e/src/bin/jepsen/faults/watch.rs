//! Notes when shards changed their masters, whatever made them do so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::Store;

use crate::history::{Change, Micros};

const EVERY: Duration = Duration::from_millis(700);
/// A master may have served for so long before the controller's state shows it.
const SHOWN_LATE: Micros = 2_000_000;

/// Looks until it is to stop. A shard without a master is one that changes.
pub(crate) fn watch(store: &Store, begun: Instant, stop: &AtomicBool) -> Vec<Change> {
    let micros = || begun.elapsed().as_micros() as Micros;
    let mut changes = Vec::new();
    let mut last: BTreeMap<(usize, u16), (String, Micros)> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = micros();
        if let Ok(status) = store.status() {
            for (region, shard) in status
                .regions
                .iter()
                .enumerate()
                .flat_map(|(r, region)| region.shards.iter().map(move |s| (r, s)))
            {
                let Some(_) = &shard.master else { continue };
                let now = (shard.incarnation.clone(), asked);
                if let Some((before, seen)) = last.insert((region, shard.shard), now)
                    && before != shard.incarnation
                {
                    changes.push(Change { region, start: seen.saturating_sub(SHOWN_LATE), end: micros() });
                }
            }
        }
        thread::sleep(EVERY);
    }
    changes
}
