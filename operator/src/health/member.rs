//! One Redis server as the health loop sees it: its process, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use super::engine::{Answer, Engine};
use crate::procedures::shard::Seen;

/// How often an engine is asked.
const LOOK: Duration = Duration::from_millis(200);
/// A server that runs but has not answered for this long hangs; its end is evidence, its silence was not.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// What a platform knows of a process without asking it.
pub(crate) trait Process: Clone + Send + Sync + 'static {
    /// Whether it runs. Not running is evidence.
    fn phase(&self) -> Phase;
    /// Which process it is: no two have the same. `None` while there is none.
    fn life(&self) -> Option<String>;
    /// Where it answers, `host:port`, if that is known only now.
    fn address(&self) -> Option<String> {
        None
    }
}

/// See [`Process::phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Absent,
    /// A person has stopped it on purpose.
    Paused,
    Running,
}

/// Ends a process that hangs.
pub(crate) type End = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// See the module.
pub(crate) struct Member<P> {
    /// Where its replicas find it, `host:port`.
    pub(crate) host: String,
    pub(crate) engine: Engine,
    process: watch::Receiver<P>,
    /// Where nobody else ends what hangs.
    end: Option<End>,
    seen: watch::Sender<Observed>,
    /// Looks begun, and the look that `seen` comes from.
    begun: AtomicU64,
    published: AtomicU64,
}

/// What was seen, and of which process.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    life: Option<String>,
    seen: SeenAlone,
}

/// As [`Seen`], with the followed master's address instead of its number.
#[derive(Clone, Debug, PartialEq)]
enum SeenAlone {
    Plain(Seen),
    Follows(Seen, String),
}

impl<P: Process> Member<P> {
    pub(crate) fn new(host: String, engine: Engine, process: watch::Receiver<P>, end: Option<End>) -> Self {
        let (seen, _) = watch::channel(Observed { life: None, seen: SeenAlone::Plain(Seen::Absent) });
        Self { host, engine, process, end, seen, begun: AtomicU64::new(0), published: AtomicU64::new(0) }
    }

    /// Looks at the server for as long as it is polled.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut process = self.process.clone();
        let mut answered = Instant::now();
        loop {
            let now = process.borrow_and_update().clone();
            let life = now.life();
            let look = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let (seen, hangs) = match now.phase() {
                Phase::Paused => (SeenAlone::Plain(Seen::Paused), false),
                Phase::Absent => (self.look_whether_gone(&now).await, false),
                Phase::Running => {
                    if let Some(address) = now.address() {
                        self.engine.move_to(&address).await;
                    }
                    self.look().await
                }
            };
            // An answer counts only for the process that gave it.
            let same = process.borrow().life() == life;
            let seen = if same { seen } else { SeenAlone::Plain(Seen::Absent) };
            if !hangs {
                answered = Instant::now();
            } else if let Some(end) = self.end.as_ref().filter(|_| answered.elapsed() > HANGS_AFTER) {
                tracing::warn!(redis = self.host, "runs but has not answered for long, killed");
                end().await;
                answered = Instant::now();
            }
            self.seen.send_if_modified(|old| {
                let new = Observed { life, seen };
                let changed = *old != new;
                *old = new;
                changed
            });
            self.published.store(look, Ordering::SeqCst);
            if let Ok(Err(_)) = timeout(LOOK, process.changed()).await {
                return; // whoever looked after the process is gone, and with it the store
            }
        }
    }

    /// What is told of a process may be old: one that answers is there.
    async fn look_whether_gone(&self, now: &P) -> SeenAlone {
        let Some(address) = now.address() else { return SeenAlone::Plain(Seen::Absent) };
        self.engine.move_to(&address).await;
        match self.look().await.0 {
            SeenAlone::Plain(Seen::Silent) => SeenAlone::Plain(Seen::Absent),
            seen => seen,
        }
    }

    /// What it answers, and whether it seems to hang. One that answers with an error does not.
    async fn look(&self) -> (SeenAlone, bool) {
        match self.engine.ask().await {
            Ok(Answer::Loading) => (SeenAlone::Plain(Seen::Loading), false),
            Ok(Answer::Identity { identity, follows }) => {
                let seen = Seen::Answers { identity, follows: None, subsumed: false };
                (follows.map_or(SeenAlone::Plain(seen.clone()), |host| SeenAlone::Follows(seen, host)), false)
            }
            Err(error) => {
                tracing::debug!(%error, "no answer");
                (SeenAlone::Plain(Seen::Silent), !error.is_an_answer())
            }
        }
    }

    /// Where its engine answers, `host:port`, while its process runs.
    pub(crate) fn address(&self) -> Option<String> {
        let process = self.process.borrow();
        (process.phase() == Phase::Running).then(|| process.address()).flatten()
    }

    fn seen(&self, members: &[Arc<Self>]) -> Seen {
        match self.seen.borrow().seen.clone() {
            SeenAlone::Follows(Seen::Answers { identity, .. }, host) => {
                let follows = members.iter().position(|other| other.host == host);
                Seen::Answers { identity, follows, subsumed: false }
            }
            SeenAlone::Plain(seen) | SeenAlone::Follows(seen, _) => seen,
        }
    }

    /// The look after which everything that has happened until now is seen.
    pub(super) fn next_look(&self) -> u64 {
        self.begun.load(Ordering::SeqCst) + 1
    }

    pub(super) fn has_published(&self, look: u64) -> bool {
        self.published.load(Ordering::SeqCst) >= look
    }

    /// Which process was seen last.
    pub(super) fn life(&self) -> Option<String> {
        self.seen.borrow().life.clone()
    }
}

/// What all members of a shard look like now.
pub(crate) fn look_at<P: Process>(members: &[Arc<Member<P>>]) -> Vec<Seen> {
    members.iter().map(|member| member.seen(members)).collect()
}
