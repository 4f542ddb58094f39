//! A shard's master is handed over in order, because a person says so ([`crate::procedures::handover`]). Who was master is kept before it is
//! asked for: an operator that comes after this one sees by that whether it has happened.

use std::time::Duration;

use crds::{OperationOutcome, OperationType, StoreOperation};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::Phase;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use super::brief::{About, Asked, Order};
use super::{Held, Runner};
use crate::operations::orders::{self, Next};
use crate::operations::scale_out::ActionError;
use crate::platform::kubernetes::check::Checked;
use crate::procedures::handover::{HANDOVER_MS, Outcome, Wish};

/// A controller that says nothing until then does not act: its shard begins to be made again.
const ANSWERED: Duration = Duration::from_millis(HANDOVER_MS + 30_000);

impl Runner {
    /// One look at a `Switchover`.
    pub(super) async fn switchover(
        &self,
        checked: &Checked,
        object: &StoreOperation,
        held: &mut Held,
        mut order: Order,
    ) -> Result<(), ActionError> {
        let about = match self.shard_of(checked, object) {
            Ok(Some(about)) => about,
            Ok(None) => return Ok(()),
            Err(why) => return self.fail_order(object, held, order, why).await,
        };
        if let Some(Asked::Handover(mut answer)) = held.asked.take() {
            match answer.try_recv() {
                Ok(outcome) => return self.handed_over(object, held, order, &about, outcome).await,
                Err(TryRecvError::Empty) => {
                    held.asked = Some(Asked::Handover(answer));
                    return Ok(());
                }
                // What is seen tells.
                Err(TryRecvError::Closed) => {}
            }
        }
        if order.before.is_none()
            && let Some(obstacle) = self.in_the_way_of(object)
        {
            order.wait(obstacle);
            return self.keep_order(object, held, &order).await;
        }
        let Some(seen) = self.look_at_shard(&about).await? else { return Ok(()) };
        let target = object.spec.target.map(usize::from);
        match orders::switchover(order.before.as_ref(), target, &seen) {
            Next::Fail(why) => order.end(Phase::Failed, why),
            Next::Wait(obstacle) => order.wait(obstacle),
            Next::Begin(before) => {
                let words = format!("{} hands over", about.name(before.member));
                order.before = Some(before);
                order.begin(OperationType::Switchover, 0, &words);
            }
            Next::Act => {
                let from = order.before.as_ref().map(|before| before.member).unwrap_or_default();
                order.begin(OperationType::Switchover, 0, &format!("{} hands over", about.name(from)));
                self.keep_order(object, held, &order).await?;
                held.asked = Some(ask(&about, target, usize::from(from), object));
                return Ok(());
            }
            Next::Await(words) => order.begin(OperationType::Switchover, 0, &words),
            Next::Done(words, pause_millis) => {
                order.outcome = Some(OperationOutcome { pause_millis, ..OperationOutcome::default() });
                order.end(Phase::Succeeded, words);
            }
        }
        self.keep_order(object, held, &order).await
    }

    async fn handed_over(
        &self,
        object: &StoreOperation,
        held: &mut Held,
        mut order: Order,
        about: &About<'_>,
        outcome: Outcome,
    ) -> Result<(), ActionError> {
        match outcome {
            Outcome::Done { from, to, pause_ms } => {
                self.shared.metrics.handed_over(Duration::from_millis(pause_ms));
                let pause_millis = Some(pause_ms);
                order.outcome = Some(OperationOutcome { pause_millis, ..OperationOutcome::default() });
                order.end(Phase::Succeeded, orders::handed_over(&about.shard.names, from, to, pause_ms));
            }
            Outcome::Abandoned { why } => order.end(Phase::Failed, why),
        }
        self.keep_order(object, held, &order).await
    }
}

impl About<'_> {
    pub(super) fn name(&self, member: u16) -> &str {
        self.shard.names.get(usize::from(member)).map_or("the master", String::as_str)
    }
}

/// Asks the shard's controller. It may take longer than a look.
fn ask(about: &About<'_>, to: Option<usize>, from: usize, object: &StoreOperation) -> Asked {
    let (answer, outcome) = oneshot::channel();
    let wishes = about.shard.wishes.clone();
    let wish = Wish { to, from, reason: format!("{} orders it", object.name_any()) };
    tokio::spawn(async move {
        let late = |_| Outcome::Abandoned { why: "nobody may act on the shard now".to_owned() };
        let outcome = timeout(ANSWERED, wishes.ask(wish)).await.unwrap_or_else(late);
        // Whoever asked may be gone.
        let _ = answer.send(outcome);
    });
    Asked::Handover(outcome)
}
