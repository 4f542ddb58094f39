//! Operations: the procedures of [`mas_core::procedures`] carried out. What is decided is pure and the same everywhere; here the world is looked
//! at and acted upon, through what a platform offers ([`scale_out::Ground`]); the platforms keep the state where it outlives them.

pub(crate) mod orders;
pub(crate) mod rebuild;
pub(crate) mod removal;
pub(crate) mod scale_out;
mod state;

pub(crate) use state::{restore, show};

use crds::{OperationOutcome, OperationPhase, OperationType, StoreOperationStatus};
use mas_core::procedures::operation::{Operation, Step};
use mas_core::procedures::scale_out::{Action, Observed, SYNC};

/// The steps of a procedure that copies a region.
pub(crate) fn steps(of: OperationType) -> &'static [Step<Observed, Action>] {
    match of {
        // They look at another world.
        OperationType::Remove
        | OperationType::Switchover
        | OperationType::Failover
        | OperationType::Verify
        | OperationType::Repair => &[],
        OperationType::ScaleOut => &mas_core::procedures::scale_out::STEPS,
        OperationType::Rebuild => &mas_core::procedures::rebuild::STEPS,
    }
}

/// Their names.
pub(crate) fn names(of: OperationType) -> Vec<&'static str> {
    match of {
        OperationType::Remove => mas_core::procedures::removal::STEPS.iter().map(|step| step.name).collect(),
        OperationType::Switchover => orders::SWITCHOVER.to_vec(),
        OperationType::Failover => orders::FAILOVER.to_vec(),
        OperationType::Verify | OperationType::Repair => orders::COMPARISON.to_vec(),
        OperationType::ScaleOut | OperationType::Rebuild => steps(of).iter().map(|step| step.name).collect(),
    }
}

/// Names an attempt: what an earlier one has left does not count. A sync that has to begin anew makes a new one.
pub(crate) fn ticket(uid: &str, attempt: u32, operation: &Operation, sync: usize) -> u64 {
    let repeats = operation.steps.get(sync).map_or(0, |step| step.repeats);
    // FNV-1a: the same in every version of this program, as an operation may outlive it.
    let text = format!("{uid}/{attempt}/{repeats}");
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, hash).max(1)
}

/// Why an operation is neither tried again nor taken back, if so.
pub(crate) fn nothing_to_order(name: &str, phase: OperationPhase, rollback: bool) -> Option<String> {
    match (rollback, phase) {
        (_, OperationPhase::Succeeded) => Some(format!("'{name}' is done: nothing is left to do")),
        (_, OperationPhase::RolledBack) => Some(format!("'{name}' is taken back: nothing is left to do")),
        (false, OperationPhase::Pending | OperationPhase::Running) => {
            Some(format!("'{name}' is under way: only a failed one can be tried again"))
        }
        (false, OperationPhase::Failed)
        | (true, OperationPhase::Pending | OperationPhase::Running | OperationPhase::Failed) => None,
    }
}

/// A state as it is shown, with what was measured until now.
pub(crate) fn with_measures(
    shown: StoreOperationStatus,
    before: &StoreOperationStatus,
) -> StoreOperationStatus {
    let total_millis = shown.outcome.as_ref().and_then(|outcome| outcome.total_millis);
    let measured = before.outcome.clone().map(|outcome| OperationOutcome { total_millis, ..outcome });
    StoreOperationStatus {
        loss: before.loss.clone(),
        before: before.before.clone(),
        outcome: measured.or(shown.outcome.clone()),
        ..shown
    }
}

/// The step that a procedure goes back to.
pub(crate) fn sync_step_of(procedure: OperationType) -> usize {
    steps(procedure).iter().position(|step| step.name == SYNC).unwrap_or_default()
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
