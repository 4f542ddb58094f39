//! How long a write takes to be seen in the other region: from the moment it is sent until a reader there, who asks
//! again and again, gets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use e2e::Store;
use hdrhistogram::Histogram;

const PACE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(30);

/// A running measurement in one direction.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    worker: JoinHandle<Result<Histogram<u64>>>,
}

impl Probe {
    /// Writes in `from` and looks in `to`.
    pub(crate) fn start(store: &Store, from: &str, to: &str) -> Result<Self> {
        let (mut writer, mut reader) = (store.connect(from)?, store.connect(to)?);
        let key = format!("probe:{from}");
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            let mut lags = Histogram::<u64>::new(3).context("making a histogram failed")?;
            for n in 1_u64.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let sent = Instant::now();
                redis::cmd("SET").arg(&key).arg(n).exec(&mut writer).context("a probe was not written")?;
                loop {
                    let seen: Option<u64> = redis::cmd("GET").arg(&key).query(&mut reader)?;
                    if seen >= Some(n) {
                        break;
                    }
                    if sent.elapsed() > LONGEST {
                        bail!("a probe was not seen in the other region within {LONGEST:?}");
                    }
                }
                lags.record(sent.elapsed().as_micros() as u64).context("noting a lag failed")?;
                thread::sleep(PACE);
            }
            Ok(lags)
        });
        Ok(Self { stop, worker })
    }

    /// Ends the measurement; microseconds.
    pub(crate) fn finish(self) -> Result<Histogram<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().map_err(|_| anyhow!("the probe panicked"))?
    }
}

/// `0.8 ms / 2.1 ms`: median and 99th percentile.
pub(crate) fn show(lags: &Histogram<u64>) -> String {
    let ms = |quantile| lags.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.1} ms, p99 {:.1} ms ({} probes)", ms(0.5), ms(0.99), lags.len())
}
