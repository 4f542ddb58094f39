//! One child process, kept running: started, restarted with backoff when it dies, paused, killed, stopped in order.
//!
//! Children are in process groups of their own, so that a terminal's Ctrl-C reaches only the supervisor, and they
//! die with the supervisor (`setpriv --pdeathsig`). That signal is tied to the *thread* that started the child, so
//! one thread, the spawner, starts them all and lives as long as the store.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::Component;
use super::stale::{Roster, group_runs};
use crate::health::member::{Phase, Process};
use crate::view::ProcessPhase;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A child that ran for this long is taken to be well: the backoff starts anew.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// How long to wait for a killed group to be gone.
const GROUP_GONE: Duration = Duration::from_secs(1);
/// Size at which a log is set aside and begun anew.
const MAX_LOG: u64 = 16 << 20;

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct ProcessSpec {
    pub(super) component: Component,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// The whole environment; PATH is added.
    pub(super) env: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    /// How long it may take to end after SIGTERM.
    pub(super) grace: Duration,
}

impl ProcessSpec {
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// What is known of a child.
#[derive(Clone, Debug)]
pub(super) struct ProcessStatus {
    pub(super) phase: ProcessPhase,
    pub(super) pid: Option<u32>,
    pub(super) paused: bool,
    pub(super) restarts: u32,
    pub(super) last_exit: Option<String>,
}

impl Process for ProcessStatus {
    fn phase(&self) -> Phase {
        match (self.paused, self.phase) {
            (true, _) => Phase::Paused,
            (false, ProcessPhase::Running) => Phase::Running,
            (
                false,
                ProcessPhase::Restarting | ProcessPhase::Held | ProcessPhase::Stopped | ProcessPhase::Pending,
            ) => Phase::Absent,
        }
    }

    fn life(&self) -> Option<String> {
        self.pid.map(|pid| pid.to_string())
    }
}

/// Orders to a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Start it if it is held.
    Start,
    /// SIGKILL; it is started again unless `hold`.
    Kill {
        /// Do not start it again until told.
        hold: bool,
    },
    /// SIGSTOP.
    Pause,
    /// SIGCONT; starts it if it is held.
    Resume,
    /// SIGTERM, then SIGKILL; for good.
    Stop,
}

/// Handle of a kept child.
pub(super) struct Keeper {
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    status: watch::Receiver<ProcessStatus>,
}

impl Keeper {
    /// Keeps `spec` running; `held`: only from the first `Start` on.
    pub(super) fn start(spec: ProcessSpec, held: bool, spawner: Spawner, roster: Arc<Roster>) -> Self {
        let (orders, inbox) = mpsc::channel(8);
        let phase = if held { ProcessPhase::Held } else { ProcessPhase::Restarting };
        let first = ProcessStatus { phase, pid: None, paused: false, restarts: 0, last_exit: None };
        let (publish, status) = watch::channel(first);
        let keeping = Keeping { spec, spawner, roster, inbox, publish, backoff: BACKOFF_FIRST };
        tokio::spawn(keeping.run(held));
        Self { orders, status }
    }

    pub(super) fn status(&self) -> watch::Receiver<ProcessStatus> {
        self.status.clone()
    }

    /// Gives an order and waits until it is carried out.
    pub(super) async fn order(&self, order: Order) {
        let (done, wait) = oneshot::channel();
        if self.orders.send((order, done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

struct Keeping {
    spec: ProcessSpec,
    spawner: Spawner,
    roster: Arc<Roster>,
    inbox: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    publish: watch::Sender<ProcessStatus>,
    backoff: Duration,
}

/// What to do after a child has ended, or could not be started.
enum Next {
    Restart,
    Hold,
    End,
}

/// How a child came to its end.
struct Ended {
    exit: io::Result<ExitStatus>,
    next: Next,
    /// Whom to tell once nothing of it is left, if it ended by order.
    told: Option<oneshot::Sender<()>>,
}

impl Keeping {
    async fn run(mut self, held: bool) {
        let mut next = if held { Next::Hold } else { Next::Restart };
        let mut first = true;
        loop {
            next = match next {
                Next::Restart if first => {
                    first = false;
                    self.run_once().await
                }
                Next::Restart => match self.pause_before_restart().await {
                    Next::Restart => self.run_once().await,
                    other @ (Next::Hold | Next::End) => other,
                },
                Next::Hold => self.wait_while_held().await,
                Next::End => {
                    self.set(ProcessPhase::Stopped, None);
                    return;
                }
            };
        }
    }

    fn set(&self, phase: ProcessPhase, pid: Option<u32>) {
        self.publish.send_modify(|status| {
            status.phase = phase;
            status.pid = pid;
            status.paused = false;
        });
    }

    async fn wait_while_held(&mut self) -> Next {
        self.set(ProcessPhase::Held, None);
        loop {
            let Some((order, done)) = self.inbox.recv().await else { return Next::End };
            let _ = done.send(());
            match order {
                Order::Start | Order::Resume => {
                    self.backoff = Duration::ZERO;
                    return Next::Restart;
                }
                Order::Stop => return Next::End,
                Order::Kill { .. } | Order::Pause => {}
            }
        }
    }

    async fn pause_before_restart(&mut self) -> Next {
        self.set(ProcessPhase::Restarting, None);
        let jittered = self.backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        self.backoff = (self.backoff * 2).clamp(BACKOFF_FIRST, BACKOFF_MAX);
        tokio::select! {
            () = sleep(jittered) => Next::Restart,
            order = self.inbox.recv() => {
                let Some((order, done)) = order else { return Next::End };
                let _ = done.send(());
                match order {
                    Order::Kill { hold: true } => Next::Hold,
                    Order::Stop => Next::End,
                    Order::Start | Order::Kill { hold: false } | Order::Pause | Order::Resume => Next::Restart,
                }
            }
        }
    }

    async fn run_once(&mut self) -> Next {
        let started = Instant::now();
        let name = self.spec.component.to_string();
        let mut child = match self.spawner.spawn(&self.spec).await {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(component = name, %error, "starting failed");
                self.publish.send_modify(|s| s.last_exit = Some(format!("starting failed: {error}")));
                return Next::Restart;
            }
        };
        let Some(pid) = child.id() else { return Next::Restart };
        self.roster.started(&name, pid);
        tracing::info!(component = name, pid, "started");
        self.set(ProcessPhase::Running, Some(pid));
        let Ended { exit, next, told } = self.watch(&mut child, pid).await;
        // What it has left behind goes too; its own exit has just been seen, so the group is still this one.
        end_group(pid).await;
        self.roster.ended(&name);
        let exit = exit.map_or_else(|e| e.to_string(), describe_exit);
        tracing::info!(component = name, pid, exit, "ended");
        if started.elapsed() >= WELL_AFTER {
            self.backoff = BACKOFF_FIRST;
        }
        self.publish.send_modify(|status| {
            status.last_exit = Some(exit);
            status.restarts += u32::from(matches!(next, Next::Restart));
        });
        // Only now: whoever gave the order may delete the folder next.
        if let Some(told) = told {
            let _ = told.send(());
        }
        next
    }

    /// Until the child has ended.
    async fn watch(&mut self, child: &mut Child, pid: u32) -> Ended {
        let mut check_log = tokio::time::interval(Duration::from_secs(30));
        let log = self.spec.log();
        loop {
            tokio::select! {
                exit = child.wait() => return Ended { exit, next: Next::Restart, told: None },
                _ = check_log.tick() => bound_log(&log),
                order = self.inbox.recv() => {
                    let Some((order, done)) = order else {
                        signal(pid, Signal::KILL);
                        return Ended { exit: child.wait().await, next: Next::End, told: None };
                    };
                    match order {
                        Order::Start => {}
                        Order::Pause => {
                            signal(pid, Signal::STOP);
                            self.publish.send_modify(|status| status.paused = true);
                        }
                        Order::Resume => {
                            signal(pid, Signal::CONT);
                            self.publish.send_modify(|status| status.paused = false);
                        }
                        Order::Kill { hold } => {
                            signal(pid, Signal::KILL);
                            let next = if hold { Next::Hold } else { Next::Restart };
                            return Ended { exit: child.wait().await, next, told: Some(done) };
                        }
                        Order::Stop => {
                            return Ended { exit: self.stop(child, pid).await, next: Next::End, told: Some(done) };
                        }
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    async fn stop(&self, child: &mut Child, pid: u32) -> io::Result<ExitStatus> {
        signal(pid, Signal::TERM);
        signal(pid, Signal::CONT);
        if let Ok(exit) = timeout(self.spec.grace, child.wait()).await {
            return exit;
        }
        tracing::warn!(component = %self.spec.component, pid, "did not end in time, killed");
        signal(pid, Signal::KILL);
        child.wait().await
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may just have ended by itself; then it is waited for all the same.
        let _ = kill_process(pid, signal);
    }
}

/// Kills what is left of a group and waits, a second at most, until nothing of it runs and writes any more.
async fn end_group(pid: u32) {
    let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let deadline = Instant::now() + GROUP_GONE;
    while kill_process_group(group, Signal::KILL).is_ok() && group_runs(pid) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".into(),
    }
}

/// A log that has grown too long is copied once and emptied; the child goes on appending.
fn bound_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|meta| meta.len() > MAX_LOG) {
        let kept = fs::copy(log, log.with_extension("1")).is_ok();
        if kept && let Ok(file) = OpenOptions::new().write(true).open(log) {
            let _ = file.set_len(0);
        }
    }
}

type Job = (ProcessSpec, oneshot::Sender<io::Result<Child>>);

/// The thread that starts children.
#[derive(Clone)]
pub(super) struct Spawner {
    jobs: Arc<Mutex<std_mpsc::Sender<Job>>>,
}

impl Spawner {
    /// Starts the thread; it ends when the last handle is dropped.
    pub(super) fn start(setpriv: Option<PathBuf>) -> io::Result<Self> {
        let (jobs, inbox) = std_mpsc::channel::<Job>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            let _inside = runtime.enter();
            for (spec, reply) in inbox {
                let _ = reply.send(spawn(&spec, setpriv.as_deref()));
            }
        })?;
        Ok(Self { jobs: Arc::new(Mutex::new(jobs)) })
    }

    async fn spawn(&self, spec: &ProcessSpec) -> io::Result<Child> {
        let (reply, wait) = oneshot::channel();
        let gone = || io::Error::other("the spawner has ended");
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((spec.clone(), reply))
            .map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

fn spawn(spec: &ProcessSpec, setpriv: Option<&Path>) -> io::Result<Child> {
    bound_log(&spec.log());
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(spec.log())?;
    let mut command = match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(&spec.program);
            command
        }
        None => Command::new(&spec.program),
    };
    command
        .args(&spec.args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(&spec.env)
        .current_dir(&spec.folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        keeper: Keeper,
    }

    /// Keeps a shell command running.
    fn keep(script: &str, grace: Duration) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let spec = ProcessSpec {
            component: Component::Epmd,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::new(),
            folder: folder.path().to_owned(),
            grace,
        };
        let keeper =
            Keeper::start(spec, false, Spawner::start(None).unwrap(), Arc::new(Roster::new(&layout)));
        Fixture { folder, keeper }
    }

    async fn wait_for(keeper: &Keeper, what: impl Fn(&ProcessStatus) -> bool) -> ProcessStatus {
        let mut status = keeper.status();
        timeout(Duration::from_secs(10), status.wait_for(what)).await.unwrap().unwrap().clone()
    }

    fn is_running(status: &ProcessStatus) -> bool {
        status.phase == ProcessPhase::Running
    }

    #[tokio::test]
    async fn one_that_is_killed_comes_back_as_another_process() {
        let fixture = keep("exec sleep 60", Duration::from_secs(5));
        let first = wait_for(&fixture.keeper, is_running).await;
        fixture.keeper.order(Order::Kill { hold: false }).await;
        let second = wait_for(&fixture.keeper, |s| is_running(s) && s.pid != first.pid).await;
        assert_eq!((second.restarts, second.last_exit.as_deref()), (1, Some("signal 9")));
        fixture.keeper.order(Order::Stop).await;
    }

    #[tokio::test]
    async fn one_that_is_held_stays_down_until_it_is_resumed() {
        let fixture = keep("exec sleep 60", Duration::from_secs(5));
        wait_for(&fixture.keeper, is_running).await;
        fixture.keeper.order(Order::Kill { hold: true }).await;
        wait_for(&fixture.keeper, |s| s.phase == ProcessPhase::Held && s.pid.is_none()).await;
        fixture.keeper.order(Order::Resume).await;
        wait_for(&fixture.keeper, is_running).await;
        fixture.keeper.order(Order::Stop).await;
        wait_for(&fixture.keeper, |s| s.phase == ProcessPhase::Stopped).await;
    }

    #[tokio::test]
    async fn once_it_is_told_to_be_stopped_nothing_of_it_is_left() {
        let fixture = keep("trap '' TERM; sleep 60 & wait; sleep 60", Duration::from_millis(200));
        let status = wait_for(&fixture.keeper, is_running).await;
        fixture.keeper.order(Order::Pause).await;
        assert!(wait_for(&fixture.keeper, |s| s.paused).await.pid == status.pid);
        let roster = Layout::new(fixture.folder.path()).unwrap().roster();
        let listed = || fs::read_to_string(&roster).unwrap().contains("epmd");
        assert!(listed());
        fixture.keeper.order(Order::Stop).await;
        // At once: whoever gave the order deletes the folder next.
        assert!(!listed());
        assert!(!group_runs(status.pid.unwrap()), "something of its group is left");
        wait_for(&fixture.keeper, |s| s.phase == ProcessPhase::Stopped).await;
    }

    #[tokio::test]
    async fn one_that_cannot_start_is_tried_again() {
        let fixture = keep("exit 3", Duration::from_secs(1));
        let status = wait_for(&fixture.keeper, |s| s.restarts >= 3).await;
        assert_eq!(status.last_exit.as_deref(), Some("exit code 3"));
        fixture.keeper.order(Order::Stop).await;
    }
}
