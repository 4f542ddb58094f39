//! Ctrl-C ends the run at the next step, and with it everything that was started.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

static WANTED: AtomicBool = AtomicBool::new(false);

/// Listens for Ctrl-C and SIGTERM. The second one ends the process on the spot.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("listening for signals failed")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
            loop {
                tokio::select! {
                    pressed = tokio::signal::ctrl_c() => if pressed.is_err() { return },
                    _ = terminated.recv() => {}
                }
                if WANTED.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

/// Whether the run is to end.
pub(crate) fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// An error if it is.
pub(crate) fn check() -> Result<()> {
    if is_wanted() {
        bail!("interrupted");
    }
    Ok(())
}
