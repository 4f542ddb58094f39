//! What clients do. Keys change every few seconds, so that each moment of a run leaves traces that are checked at its end.

mod expiry;
mod mixed;
mod travel;

use std::thread;
use std::time::Duration;

use crate::client::{Common, Link, Process};
use crate::history::{Level, Op};

/// How long keys are written to before others take their place.
const PERIOD: Duration = Duration::from_secs(5);

/// Levels of a region's processes that do a bit of everything.
const MIXED: [Level; 4] = [Level::Queued, Level::Queued, Level::Local, Level::Remote];

/// What one process does.
#[derive(Clone, Copy)]
enum Job {
    Mixed(Level),
    Expiry,
    Travel,
}

/// Runs all processes until they are to stop; what they did, unsorted.
pub(crate) fn run(common: &Common) -> Vec<Op> {
    let jobs = || MIXED.map(Job::Mixed).into_iter().chain([Job::Expiry, Job::Travel]);
    let regions = 0..common.endpoints.len();
    let all: Vec<(usize, Job)> = regions.flat_map(|region| jobs().map(move |job| (region, job))).collect();
    thread::scope(|scope| {
        let start = |(number, (region, job)): (u32, (usize, Job))| {
            scope.spawn(move || {
                let mut process = Process::new(number, common);
                while !process.stopped() {
                    match job {
                        Job::Mixed(level) => mixed::work(&mut process, &mut Link::new(region, level)),
                        Job::Expiry => expiry::work(&mut process, &mut Link::new(region, Level::Queued)),
                        Job::Travel => travel::work(&mut process, region, common.endpoints.len()),
                    }
                }
                process.into_ops()
            })
        };
        let threads: Vec<_> = (0..).zip(all).map(start).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

/// The number of the period in which `process` is.
fn period(process: &Process<'_>) -> u64 {
    process.elapsed().as_secs() / PERIOD.as_secs()
}
