//! The server that is a shard's master is ended, because a person says so, and a replica takes over as after any failure. Which pod that is
//! is kept before it is deleted: no other one is, whoever carries it out.

use std::num::NonZeroU32;

use crds::{MasterBefore, OperationOutcome, OperationType, StoreOperation};
use kube::core::ResourceExt as _;
use mas_core::procedures::operation::Phase;

use super::brief::{About, Order};
use super::{Held, Runner};
use crate::operations::orders::{self, Next};
use crate::operations::scale_out::ActionError;
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::client::Namespace;

/// It gets so long to end in order. (Not 0: then the API server would forget the pod of a node that is not heard of, whose server may go on.)
const GRACE_SECONDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

impl Runner {
    /// One look at a `Failover`.
    pub(super) async fn failover(
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
        if order.before.is_none()
            && let Some(obstacle) = self.in_the_way_of(object)
        {
            order.wait(obstacle);
            return self.keep_order(object, held, &order).await;
        }
        let Some(seen) = self.look_at_shard(&about).await? else { return Ok(()) };
        let kind = OperationType::Failover;
        match orders::failover(order.before.as_ref(), &seen) {
            Next::Fail(why) => order.end(Phase::Failed, why),
            Next::Wait(obstacle) => order.wait(obstacle),
            Next::Begin(before) => {
                order.begin(kind, 0, &format!("{} is about to be ended", about.name(before.member)));
                order.before = Some(before);
            }
            Next::Act => {
                let Some(before) = order.before.clone() else { return Ok(()) };
                self.end_master(&about, &before, object).await?;
                return Ok(());
            }
            Next::Await(words) => order.begin(kind, 1, &words),
            Next::Done(words, pause_millis) => {
                order.outcome = Some(OperationOutcome { pause_millis, ..OperationOutcome::default() });
                order.end(Phase::Succeeded, words);
            }
        }
        self.keep_order(object, held, &order).await
    }

    async fn end_master(
        &self,
        about: &About<'_>,
        before: &MasterBefore,
        object: &StoreOperation,
    ) -> Result<(), ActionError> {
        let name = about.name(before.member);
        let namespace = Namespace::new(self.shared.client.clone(), &self.namespace);
        let deleted = namespace.delete_pod_within(name, &before.pod, Some(GRACE_SECONDS)).await;
        if deleted.map_err(|error| ActionError::Platform(error.to_string()))? {
            tracing::warn!(pod = name, order = object.name_any(), "the pod is deleted");
        }
        Ok(())
    }
}
