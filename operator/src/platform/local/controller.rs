//! The controller of a local store: looks at the engines a few times a second, asks the procedure what to do, and
//! does it. The record is changed before the action that it announces.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Component;
use super::engine::{Answer, Engine, EngineError};
use super::layout::{Layout, LayoutError, io_error, make_private_folder};
use super::process::{Keeper, Order, ProcessPhase};
use super::record::{RecordError, RecordFile};
use super::world::RedisNode;
use crate::procedures::shard::{
    Action, Control, Notice, Place, Plan, Record, Seen, members_to_compare, step,
};

/// How often an engine is asked.
const LOOK: Duration = Duration::from_millis(200);
/// How often the procedure looks at what was answered.
const TICK: Duration = Duration::from_millis(100);
/// A server that runs but has not answered for this long hangs; its end is evidence, its silence was not.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// Pause after an action that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Most copies of superseded members' files that are kept of one member.
const MAX_SET_ASIDE: usize = 3;

/// An action that did not succeed.
#[derive(Debug, thiserror::Error)]
enum ActionError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("{0}")]
    Full(String),
}

/// One Redis server as the controller sees it.
pub(super) struct Member {
    pub(super) node: RedisNode,
    pub(super) engine: Engine,
    pub(super) keeper: Arc<Keeper>,
    seen: watch::Sender<Observed>,
    /// Looks begun, and the look that `seen` comes from.
    begun: AtomicU64,
    published: AtomicU64,
}

/// What was seen, and of which process.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    pid: Option<u32>,
    seen: SeenAlone,
}

/// As [`Seen`], with the followed master's port instead of its number.
#[derive(Clone, Debug, PartialEq)]
enum SeenAlone {
    Plain(Seen),
    Follows(Seen, u16),
}

impl Member {
    pub(super) fn new(node: RedisNode, engine: Engine, keeper: Arc<Keeper>) -> Self {
        let (seen, _) = watch::channel(Observed { pid: None, seen: SeenAlone::Plain(Seen::Absent) });
        Self { node, engine, keeper, seen, begun: AtomicU64::new(0), published: AtomicU64::new(0) }
    }

    /// Looks at the server for as long as it is polled.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut process = self.keeper.status();
        let mut answered = Instant::now();
        loop {
            let status = process.borrow_and_update().clone();
            let look = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let (seen, hangs) = if status.paused {
                (SeenAlone::Plain(Seen::Paused), false)
            } else if status.phase == ProcessPhase::Running {
                self.look().await
            } else {
                (SeenAlone::Plain(Seen::Absent), false)
            };
            // An answer counts only for the process that gave it.
            let seen = if process.borrow().pid == status.pid { seen } else { SeenAlone::Plain(Seen::Absent) };
            if !hangs {
                answered = Instant::now();
            } else if answered.elapsed() > HANGS_AFTER {
                tracing::warn!(component = %self.node.component, "runs but has not answered for long, killed");
                self.keeper.order(Order::Kill { hold: false }).await;
                answered = Instant::now();
            }
            self.seen.send_if_modified(|old| {
                let new = Observed { pid: status.pid, seen };
                let changed = *old != new;
                *old = new;
                changed
            });
            self.published.store(look, Ordering::SeqCst);
            let _ = timeout(LOOK, process.changed()).await;
        }
    }

    /// What it answers, and whether it seems to hang. One that answers with an error does not.
    async fn look(&self) -> (SeenAlone, bool) {
        match self.engine.ask().await {
            Ok(Answer::Loading) => (SeenAlone::Plain(Seen::Loading), false),
            Ok(Answer::Identity { identity, follows }) => {
                let seen = Seen::Answers { identity, follows: None, subsumed: false };
                (follows.map_or(SeenAlone::Plain(seen.clone()), |port| SeenAlone::Follows(seen, port)), false)
            }
            Err(error) => {
                tracing::debug!(%error, "no answer");
                (SeenAlone::Plain(Seen::Silent), !error.is_an_answer())
            }
        }
    }

    fn seen(&self, members: &[Arc<Self>]) -> Seen {
        match self.seen.borrow().seen.clone() {
            SeenAlone::Follows(Seen::Answers { identity, .. }, port) => {
                let follows = members.iter().position(|other| other.node.port == port);
                Seen::Answers { identity, follows, subsumed: false }
            }
            SeenAlone::Plain(seen) | SeenAlone::Follows(seen, _) => seen,
        }
    }

    /// The look after which everything that has happened until now is seen.
    fn next_look(&self) -> u64 {
        self.begun.load(Ordering::SeqCst) + 1
    }

    fn has_published(&self, look: u64) -> bool {
        self.published.load(Ordering::SeqCst) >= look
    }

    fn pid(&self) -> Option<u32> {
        self.seen.borrow().pid
    }
}

/// What all members of a shard look like now.
pub(super) fn look_at(members: &[Arc<Member>]) -> Vec<Seen> {
    members.iter().map(|member| member.seen(members)).collect()
}

/// A shard as the controller saw it last.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardView {
    pub(super) members: Vec<Seen>,
    pub(super) master: Option<usize>,
    pub(super) notices: Vec<Notice>,
    /// There has been a proved master since the store was started.
    pub(super) ever_served: bool,
}

/// One shard's controller.
pub(super) struct ShardController {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) members: Vec<Arc<Member>>,
    pub(super) record: Arc<RecordFile>,
    pub(super) layout: Layout,
    pub(super) view: watch::Sender<ShardView>,
}

impl ShardController {
    /// Keeps the shard served, from the store's founding on.
    pub(super) async fn run(self, mut founded: watch::Receiver<bool>, epoch: Instant) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut control = Control::default();
        // The master whose replication user is known to be on, by its process.
        let mut opened: Option<(u64, Option<u32>)> = None;
        // What fails again and again is logged once.
        let mut last_failure = None;
        // After actions nothing is decided before everyone was looked at again: they must not be repeated on old news.
        let mut wanted_looks = vec![0; self.members.len()];
        loop {
            tick.tick().await;
            if !self.members.iter().zip(&wanted_looks).all(|(member, look)| member.has_published(*look)) {
                continue;
            }
            let mut members = look_at(&self.members);
            if !*founded.borrow_and_update() {
                self.publish(members, Plan::default(), None);
                continue;
            }
            let record = self.record.shard(&self.name).await.for_procedure();
            self.compare_covers(&record, &mut members).await;
            let now = epoch.elapsed().as_millis() as u64;
            let plan = step(&mut control, &self.place, &record, &members, now);
            let failure = self.carry_out(&record, &plan, &mut opened).await.err();
            let words = failure.as_ref().map(ToString::to_string);
            if let Some(error) = words.as_ref().filter(|_| words != last_failure) {
                tracing::warn!(shard = self.name, error, "an action failed");
            }
            last_failure = words;
            if !plan.actions.is_empty() {
                wanted_looks = self.members.iter().map(|member| member.next_look()).collect();
            }
            self.publish(members, plan, failure.as_ref());
            if failure.is_some() {
                sleep(AFTER_FAILURE).await;
            }
        }
    }

    /// Notes which members hold nothing that the master does not hold, where that is in doubt. Theirs is asked for
    /// first: being fenced they get nothing new, and the master's only grows.
    async fn compare_covers(&self, record: &Record, members: &mut [Seen]) {
        let Some((master, doubtful)) = members_to_compare(record, members) else { return };
        for member in doubtful {
            let Ok(theirs) = self.members[member].engine.cover().await else { continue };
            let Ok(masters) = self.members[master].engine.cover().await else { return };
            if let Seen::Answers { subsumed, .. } = &mut members[member] {
                *subsumed = masters.includes(&theirs);
            }
        }
    }

    fn publish(&self, members: Vec<Seen>, plan: Plan, failure: Option<&ActionError>) {
        self.view.send_modify(|view| {
            view.ever_served |= plan.master.is_some();
            view.members = members;
            view.master = plan.master;
            view.notices = plan.notices;
            if let Some(error) = failure {
                view.notices.push(Notice { reason: "ActionFailed", message: error.to_string() });
            }
        });
    }

    async fn carry_out(
        &self,
        record: &Record,
        plan: &Plan,
        opened: &mut Option<(u64, Option<u32>)>,
    ) -> Result<(), ActionError> {
        if let Some(master) = plan.master {
            let life = Some((record.epoch, self.members[master].pid()));
            if *opened != life {
                self.members[master].engine.open_to_replicas(true).await?;
                *opened = life;
            }
        }
        for action in &plan.actions {
            tracing::info!(shard = self.name, ?action, "acting");
            self.act(record, action).await?;
        }
        Ok(())
    }

    async fn act(&self, record: &Record, action: &Action) -> Result<(), ActionError> {
        match action {
            Action::Promote { member, epoch, was_replica, basis } => {
                self.record.issue(&self.name, *epoch, *member, basis).await?;
                let Place { store, region, shard } = &self.place;
                self.members[*member].engine.promote(*epoch, store, *region, *shard, *was_replica).await?;
            }
            Action::Follow { member, master } => self.follow(*member, *master).await?,
            Action::Fence { member } => self.members[*member].engine.fence().await?,
            Action::SetAside { member, master } => {
                let component = self.members[*member].node.component.clone();
                let layout = self.layout.clone();
                let label = format!("before-epoch-{}", record.epoch);
                tokio::task::spawn_blocking(move || set_aside(&layout, &component, &label))
                    .await
                    .map_err(|error| ActionError::Full(error.to_string()))??;
                self.follow(*member, *master).await?;
            }
        }
        Ok(())
    }

    async fn follow(&self, member: usize, master: usize) -> Result<(), ActionError> {
        Ok(self.members[member].engine.follow(self.members[master].node.port).await?)
    }
}

/// Where a member's files were set aside, if they were.
pub(super) fn find_set_aside(layout: &Layout, component: &Component) -> Option<PathBuf> {
    let kept = folder_for_copies(layout, component);
    kept.is_dir().then_some(kept)
}

fn folder_for_copies(layout: &Layout, component: &Component) -> PathBuf {
    layout.set_aside().join(component.to_string().replace('/', "."))
}

/// Copies a member's files, so that what only it has can be looked at later.
fn set_aside(layout: &Layout, component: &Component, label: &str) -> Result<(), ActionError> {
    let kept = folder_for_copies(layout, component);
    make_private_folder(&kept)?;
    let count = std::fs::read_dir(&kept).map_err(|e| io_error("reading", &kept, e))?.count();
    let target = kept.join(label);
    if count >= MAX_SET_ASIDE && !target.exists() {
        return Err(ActionError::Full(format!(
            "{component} holds effects that may be nowhere else and cannot be resynced: {} already holds {MAX_SET_ASIDE} copies; look at them and delete them",
            kept.display()
        )));
    }
    tracing::warn!(component = %component, copy = %target.display(), "set aside what a superseded member alone may have");
    Ok(copy_folder(&layout.component(component), &target)?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), LayoutError> {
    make_private_folder(to)?;
    for entry in std::fs::read_dir(from).map_err(|e| io_error("reading", from, e))? {
        let entry = entry.map_err(|e| io_error("reading", from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|e| io_error("reading", &source, e))?;
        if kind.is_dir() {
            copy_folder(&source, &target)?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target).map_err(|e| io_error("copying", &source, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_made_up_to_a_bound_and_never_replaced_in_silence() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let component: Component = "a/shard-0/redis-1".parse().unwrap();
        let data = layout.component(&component).join("appendonlydir");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("log"), "x").unwrap();
        for epoch in 2..5 {
            set_aside(&layout, &component, &format!("before-epoch-{epoch}")).unwrap();
        }
        let copy = layout.set_aside().join("a.shard-0.redis-1/before-epoch-4/appendonlydir/log");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), "x");
        let error = set_aside(&layout, &component, "before-epoch-5").unwrap_err().to_string();
        assert!(error.contains("already holds 3 copies"), "{error}");
    }
}
