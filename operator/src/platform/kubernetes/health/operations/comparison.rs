//! The regions are compared, and repaired if so ordered, because a person says so: the same run as the store's annotation asks for
//! ([`crate::verify`]). It waits for nothing but its turn; one whose operator is gone is asked for again.

use crds::{OperationType, StoreOperation};
use mas_core::procedures::operation::{Obstacle, Phase};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::brief::{Asked, Order};
use super::{Held, Runner};
use crate::operations::orders;
use crate::operations::scale_out::ActionError;
use crate::platform::kubernetes::check::Checked;
use crate::verify::Ask;

impl Runner {
    /// One look at a `Verify` or a `Repair`.
    pub(super) async fn comparison(
        &self,
        checked: &Checked,
        object: &StoreOperation,
        held: &mut Held,
        mut order: Order,
    ) -> Result<(), ActionError> {
        let kind = object.spec.kind;
        let repair = kind == OperationType::Repair;
        if let Some(Asked::Comparison(mut answer)) = held.asked.take() {
            match answer.try_recv() {
                Ok(report) => {
                    let (phase, words, outcome) = orders::compared(&report, repair);
                    order.outcome = Some(outcome);
                    order.end(phase, words);
                    return self.keep_order(object, held, &order).await;
                }
                Err(TryRecvError::Empty) => {
                    held.asked = Some(Asked::Comparison(answer));
                    return Ok(());
                }
                Err(TryRecvError::Closed) => {}
            }
        }
        if checked.identity.founded.is_none() {
            order.wait(Obstacle::new(
                "NotFounded",
                "the store is not founded yet: there is nothing to compare",
            ));
            return self.keep_order(object, held, &order).await;
        }
        if order.operation.phase != Phase::Running {
            let words =
                if repair { "the regions are compared and made equal" } else { "the regions are compared" };
            order.begin(kind, 0, words);
            return self.keep_order(object, held, &order).await;
        }
        // The report has no name: that of the store's annotation stays what was answered last.
        let (reply, report) = oneshot::channel();
        let ask = Ask { repair: Some(repair), reply: Some(reply), ..Ask::default() };
        if self.asks.try_send(ask).is_ok() {
            held.asked = Some(Asked::Comparison(report));
            return Ok(());
        }
        order.wait(Obstacle::new("VerificationBusy", "other comparisons wait for their turn already"));
        self.keep_order(object, held, &order).await
    }
}
