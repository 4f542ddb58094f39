//! `masctl up` and `masctl down`: the life of a store.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use operator::platform::local::{
    Binaries, Client, ControlError, Layout, Options, Overrides, Request, Store, delete_data,
    sweep_stale_processes,
};
use operator::view::StoreStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::args::{self, Place};
use crate::failure::Failure;
use crate::locate;
use crate::place::of_machine;
use crate::progress::{EVERY, Progress};
use crate::table;

/// How long `down` waits for everything to end.
const DOWN_PATIENCE: Duration = Duration::from_mins(1);
/// Size at which the supervisor's own log is begun anew.
const MAX_LOG: u64 = 8 << 20;

/// `masctl up`.
pub(crate) fn up(place: &Place, args: &args::Up) -> Result<(), Failure> {
    let manifest = read(&args.file)?;
    let store = crds::load(&manifest)
        .map_err(|invalid| Failure::configuration(format!("{}: {invalid}", args.file.display())))?;
    let layout = locate::for_store(place, &store.name)?;
    // What cannot be changed is said before anything is started.
    operator::platform::local::plan(&layout, &store)?;
    let binaries = Overrides { engine_module: args.engine_module.clone(), proxy: args.proxy.clone() };
    if !store.cluster_only.is_empty() && !args.background {
        eprintln!(
            "masctl: on one machine these fields mean nothing and are ignored: {}",
            store.cluster_only.join(", ")
        );
    }
    let options =
        Options { state_dir: layout.root().to_owned(), manifest, binaries, new_ports: args.new_ports };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting the runtime failed: {error}")))?;
    if args.detach {
        // What can be found wrong at once is said here and not in a log.
        Binaries::find(&options.binaries).map_err(|error| Failure::failed(error.to_string()))?;
        return runtime.block_on(detach(&layout, args));
    }
    drop(layout.lock()?);
    start_log(&layout)?;
    runtime.block_on(foreground(&options, args))
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file)
        .map_err(|error| Failure::failed(format!("reading {} failed: {error}", file.display())))
}

fn start_log(layout: &Layout) -> Result<(), Failure> {
    let path = layout.log();
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_LOG) {
        let _ = fs::rename(&path, path.with_extension("log.1"));
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Failure::failed(format!("opening {} failed: {error}", path.display())))?;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log).init();
    Ok(())
}

async fn foreground(options: &Options, args: &args::Up) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::failed(format!("listening for signals failed: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    // A terminal that goes away must not take the store with it in disorder.
    let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
    let store = Store::start(options).await?;
    let coming_up = async {
        let active =
            come_up(Duration::from_secs(args.timeout), || std::future::ready(Ok(store.status()))).await?;
        if !args.background {
            say_up(&active, store.manifest().auth_secret.is_some(), store.layout());
            eprintln!("Ctrl-C ends it; its data stays in {}.", store.layout().root().display());
        }
        Ok::<(), Failure>(())
    };
    let life = async {
        // A store that is slow to come up goes on all the same: `status` says what is missing.
        if let Err(failure) = coming_up.await {
            failure.print();
        }
        store.end_wanted().await;
    };
    tokio::select! {
        () = life => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    if !args.background {
        eprintln!("ending the store ...");
    }
    store.stop().await;
    Ok(())
}

async fn detach(layout: &Layout, args: &args::Up) -> Result<(), Failure> {
    drop(layout.lock()?);
    let failed = |what: &str, error: std::io::Error| Failure::failed(format!("{what} failed: {error}"));
    let program = std::env::current_exe().map_err(|e| failed("finding this program", e))?;
    let errors = layout.root().join("startup.err");
    let stderr = fs::File::create(&errors).map_err(|e| failed("opening startup.err", e))?;
    let mut command = Command::new(program);
    command
        .arg("--state-dir")
        .arg(layout.root())
        .args(["up", "--background", "--timeout", &args.timeout.to_string(), "--file"])
        .arg(&args.file)
        .args(args.new_ports.then_some("--new-ports"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0);
    for (variable, path) in [("MAS_ENGINE_MODULE", &args.engine_module), ("MAS_PROXY", &args.proxy)] {
        if let Some(path) = path {
            command.env(variable, std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        }
    }
    let mut child = command.spawn().map_err(|e| failed("starting the background process", e))?;
    let client = Client::new(layout);
    let mut told = async || {
        if let Ok(Some(exit)) = child.try_wait() {
            let words = fs::read_to_string(&errors).unwrap_or_default();
            let words = words.trim().trim_start_matches("masctl: ").to_owned();
            let why =
                if words.is_empty() { format!("the background process ended with {exit}") } else { words };
            return Err(if exit.code() == Some(64) {
                Failure::configuration(why)
            } else {
                Failure::failed(why)
            });
        }
        match client.status().await {
            Ok(status) => Ok(Some(status)),
            Err(ControlError::NotRunning(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while told().await?.is_none() {
        if Instant::now() > deadline {
            return Err(Failure::failed("the background process does not answer: see supervisor.log"));
        }
        sleep(EVERY).await;
    }
    let active = come_up(Duration::from_secs(args.timeout), async || {
        told()
            .await?
            .ok_or_else(|| Failure::failed("the store has ended while it was starting: see supervisor.log"))
    })
    .await?;
    let has_auth = layout.secrets().join("client").exists();
    say_up(&active, has_auth, layout);
    eprintln!("It runs in the background: `masctl status`, `masctl down`.");
    Ok(())
}

/// Shows the progress until every region is active.
async fn come_up(
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<StoreStatus, Failure>,
) -> Result<StoreStatus, Failure> {
    let deadline = Instant::now() + limit;
    let mut progress = Progress::new();
    loop {
        let status = look().await?;
        progress.show(&status);
        if status.is_active() {
            progress.end();
            return Ok(status);
        }
        if Instant::now() > deadline {
            progress.end();
            return Err(Failure::failed(format!(
                "not every region is active after {} s, it goes on trying: see `masctl status`",
                limit.as_secs()
            )));
        }
        sleep(EVERY).await;
    }
}

fn say_up(status: &StoreStatus, has_auth: bool, layout: &Layout) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{} is up", status.store);
    let mut endpoints = of_machine(status, layout);
    if !has_auth {
        for endpoint in &mut endpoints {
            endpoint.login = None;
        }
    }
    let _ = write!(out, "{}", table::endpoints(&endpoints));
}

/// `masctl down`.
pub(crate) fn down(place: &Place, args: &args::Down) -> Result<(), Failure> {
    let layout = locate::existing(place)?;
    if layout.is_running() {
        crate::block(async {
            match Client::new(&layout).ask(&Request::Down).await {
                // The connection may break off before the reply is read.
                Ok(_) | Err(ControlError::Io(_) | ControlError::Odd(_)) => {}
                Err(
                    error @ (ControlError::NotRunning(_) | ControlError::Timeout | ControlError::Refused(_)),
                ) => {
                    return Err(error.into());
                }
            }
            let deadline = Instant::now() + DOWN_PATIENCE;
            while layout.is_running() {
                if Instant::now() > deadline {
                    return Err(Failure::failed(
                        "the store has not ended in time: see supervisor.log in its state directory",
                    ));
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })?;
    } else if layout.root().is_dir() {
        let lock = layout.lock()?;
        let left = sweep_stale_processes(&layout);
        drop(lock);
        if left > 0 {
            eprintln!("masctl: ended {left} processes that a killed supervisor had left");
        } else if !args.delete_data {
            eprintln!("masctl: the store in {} was not running", layout.root().display());
        }
    }
    if args.delete_data {
        delete_data(&layout)?;
        eprintln!("masctl: deleted {}", layout.root().display());
    }
    Ok(())
}
