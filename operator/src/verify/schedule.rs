//! When a run is due. Pure.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// After a run that failed it is tried again after this part of the interval.
const AGAIN: u32 = 10;

/// The run before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    /// When it ended, unix milliseconds.
    pub(crate) ended_ms: u64,
    /// It came to its end.
    pub(crate) whole: bool,
}

/// When the next run is due, unix milliseconds; `None`: never (`interval: 0s`). The interval is jittered by a tenth, or all stores of
/// an operator would be compared at the same time each hour; by who it is and when the last run was, so that it does not change
/// with each question. Before the first run half an interval passes: a store that was just founded is empty.
pub(super) fn due_ms(store: &str, began_ms: u64, last: Option<Last>, interval: Duration) -> Option<u64> {
    if interval.is_zero() {
        return None;
    }
    let (from, pause) = match last {
        None => (began_ms, interval / 2),
        Some(last) if last.whole => (last.ended_ms, interval),
        Some(last) => (last.ended_ms, interval / AGAIN),
    };
    let part = xxh3_64_with_seed(store.as_bytes(), from) % 201;
    let jittered = pause.as_millis() as u64 / 1000 * (900 + part) + pause.as_millis() as u64 % 1000;
    Some(from + jittered)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_run_follows_the_last_after_about_the_interval() {
        let last = |ended_ms, whole| Some(Last { ended_ms, whole });
        let due: Vec<u64> = (0..100)
            .filter_map(|n| due_ms("shop", 5, last(n * 1000, true), HOUR).map(|due| due - n * 1000))
            .collect();
        assert_eq!(due.len(), 100);
        assert!(due.iter().all(|ms| (3_240_000..=3_960_000).contains(ms)), "{due:?}");
        assert!(due.iter().max() > due.iter().min().map(|min| min + 300_000).as_ref(), "jittered: {due:?}");
        assert_eq!(
            due_ms("shop", 5, last(7, true), HOUR),
            due_ms("shop", 9, last(7, true), HOUR),
            "it stands still"
        );
        assert!(due_ms("shop", 0, last(0, false), HOUR) < Some(400_000), "what failed is tried again sooner");
        assert!(due_ms("shop", 0, None, HOUR) < Some(2_000_000));
        assert_eq!(due_ms("shop", 0, None, Duration::ZERO), None, "switched off");
    }
}
