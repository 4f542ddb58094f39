//! One shard's controller: looks at its members a few times a second, asks the procedure what to do, and does it. What is
//! decided is recorded before it is done.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::engine::EngineError;
use super::member::{Member, Process, look_at};
use crate::procedures::handover::{Outcome, Wish};
use crate::procedures::shard::{
    Action, Basis, Control, Notice, Place, Plan, Record, Seen, members_to_compare, step,
};

/// How often the procedure looks at what was answered.
const TICK: Duration = Duration::from_millis(100);
/// The same while clients wait for a handover.
const QUICK: Duration = Duration::from_millis(20);
/// Pause after an action that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Where a platform keeps what is decided about one shard.
pub(crate) trait Ledger: Send + Sync + 'static {
    /// Why something could not be kept.
    type Error: Error + Send + Sync + 'static;

    /// What was decided last.
    fn record(&self, members: &[Seen]) -> impl Future<Output = Result<Record, Self::Error>> + Send;

    /// Keeps that `epoch` is `member`'s, if no other epoch was issued since: compare-and-swap.
    fn issue(
        &self,
        epoch: u64,
        member: usize,
        basis: &Basis,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Keeps that the shard has been served: from now on it is lost when nobody holds anything.
    fn served(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Copies what a superseded member holds, as it is before `epoch`; it is resynced afterwards.
    fn set_aside(&self, member: usize, epoch: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// An action that did not succeed.
#[derive(Debug, thiserror::Error)]
enum ActionError<L: Error> {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Ledger(L),
}

/// A shard as the controller saw it last.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardView {
    /// Empty: not looked at yet.
    pub(crate) members: Vec<Seen>,
    pub(crate) master: Option<usize>,
    pub(crate) notices: Vec<Notice>,
    /// There has been a proved master since the store was started.
    pub(crate) ever_served: bool,
    /// How the last planned handover ended.
    pub(crate) handover: Option<Outcome>,
}

/// A wish, and who waits for what becomes of it.
pub(crate) struct Asked {
    wish: Wish,
    answer: oneshot::Sender<Outcome>,
}

/// Where to ask a shard's controller for another master.
#[derive(Clone)]
pub(crate) struct Wishes(mpsc::Sender<Asked>);

impl Wishes {
    /// The second part is the controller's.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (wishes, asked) = mpsc::channel(1);
        (Self(wishes), asked)
    }

    /// Has another member made master, and waits for how that ends. One at a time.
    pub(crate) async fn ask(&self, wish: Wish) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let nobody = || Outcome::Abandoned { why: "the shard is not looked after any more".to_owned() };
        match self.0.try_send(Asked { wish, answer }) {
            Ok(()) => outcome.await.unwrap_or_else(|_| nobody()),
            Err(mpsc::error::TrySendError::Full(_)) => busy(),
            Err(mpsc::error::TrySendError::Closed(_)) => nobody(),
        }
    }
}

fn busy() -> Outcome {
    Outcome::Abandoned { why: "another handover of this shard is under way".to_owned() }
}

/// Under which epoch, and as which process, a master was opened to replicas.
type Life = Option<(u64, Option<String>)>;

/// One shard's controller.
pub(crate) struct ShardController<P, L> {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) members: Vec<Arc<Member<P>>>,
    pub(crate) ledger: L,
    pub(crate) view: watch::Sender<ShardView>,
    pub(crate) wishes: mpsc::Receiver<Asked>,
}

impl<P: Process, L: Ledger> ShardController<P, L> {
    /// Keeps the shard served, from the store's founding on.
    pub(crate) async fn run(mut self, mut founded: watch::Receiver<bool>, epoch: Instant) {
        let mut control = Control::default();
        // Who waits for the handover that is under way.
        let mut asked = None;
        // The master whose replication user is known to be on, by its process.
        let mut opened: Life = None;
        // What fails again and again is logged once.
        let mut last_failure = None;
        // Nothing is decided before everyone was looked at, and after actions again: they must not be repeated on old news.
        let mut wanted_looks = vec![1; self.members.len()];
        loop {
            sleep(if control.is_handing_over() { QUICK } else { TICK }).await;
            if !self.members.iter().zip(&wanted_looks).all(|(member, look)| member.has_published(*look)) {
                continue;
            }
            let mut members = look_at(&self.members);
            if !*founded.borrow_and_update() {
                self.publish(members, Plan::default(), None);
                continue;
            }
            let record = match self.ledger.record(&members).await {
                Ok(record) => record,
                Err(error) => {
                    self.publish(members, Plan::default(), Some(&error.to_string()));
                    sleep(AFTER_FAILURE).await;
                    continue;
                }
            };
            self.compare_covers(&record, &mut members).await;
            let now = epoch.elapsed().as_millis() as u64;
            // Nobody is paused for somebody who does not wait any more.
            if let Some(Asked { wish, answer }) =
                self.wishes.try_recv().ok().filter(|asked| !asked.answer.is_closed())
            {
                tracing::info!(shard = self.name, ?wish, "a handover is asked for");
                match control.wish(wish, now) {
                    Ok(()) => asked = Some(answer),
                    Err(_) => drop(answer.send(busy())),
                }
            }
            let plan = step(&mut control, &self.place, &record, &members, now);
            if let Some(outcome) = &plan.handover {
                tracing::info!(shard = self.name, ?outcome, "a handover has ended");
                // Whoever asked may be gone.
                let _ = asked.take().map(|answer: oneshot::Sender<Outcome>| answer.send(outcome.clone()));
            }
            let failure = self.carry_out(&record, &plan, &mut opened).await.err();
            let words = failure.as_ref().map(ToString::to_string);
            if let Some(error) = words.as_ref().filter(|_| words != last_failure) {
                tracing::warn!(shard = self.name, error, "an action failed");
            }
            last_failure = words;
            if !plan.actions.is_empty() {
                wanted_looks = self.members.iter().map(|member| member.next_look()).collect();
            }
            if control.is_handing_over() || !plan.actions.is_empty() {
                self.members.iter().for_each(|member| member.look_now());
            }
            self.publish(members, plan, last_failure.as_deref());
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

    fn publish(&self, members: Vec<Seen>, plan: Plan, failure: Option<&str>) {
        self.view.send_modify(|view| {
            view.ever_served |= plan.master.is_some();
            view.members = members;
            view.master = plan.master;
            view.notices = plan.notices;
            view.handover = plan.handover.or(view.handover.take());
            if let Some(error) = failure {
                view.notices.push(Notice { reason: "ActionFailed", message: error.to_owned() });
            }
        });
    }

    async fn carry_out(
        &self,
        record: &Record,
        plan: &Plan,
        opened: &mut Life,
    ) -> Result<(), ActionError<L::Error>> {
        if let Some(master) = plan.master {
            if !record.served {
                self.ledger.served().await.map_err(ActionError::Ledger)?;
            }
            let life = Some((record.epoch, self.members[master].life()));
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

    async fn act(&self, record: &Record, action: &Action) -> Result<(), ActionError<L::Error>> {
        match action {
            Action::Promote { member, epoch, was_replica, basis } => {
                self.ledger.issue(*epoch, *member, basis).await.map_err(ActionError::Ledger)?;
                let Place { store, region, shard } = &self.place;
                self.members[*member].engine.promote(*epoch, store, *region, *shard, *was_replica).await?;
            }
            Action::Follow { member, master } => self.follow(*member, *master).await?,
            Action::Pause { member, incarnation, ms } => {
                self.members[*member].engine.pause(incarnation, *ms).await?;
            }
            Action::Fence { member } => self.members[*member].engine.fence().await?,
            Action::SetAside { member, master } => {
                self.ledger.set_aside(*member, record.epoch).await.map_err(ActionError::Ledger)?;
                self.follow(*member, *master).await?;
            }
        }
        Ok(())
    }

    async fn follow(&self, member: usize, master: usize) -> Result<(), ActionError<L::Error>> {
        Ok(self.members[member].engine.follow(&self.members[master].host).await?)
    }
}
