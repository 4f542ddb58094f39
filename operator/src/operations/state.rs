//! An operation's state as people and the API server have it, and back.

use crds::{Blocked, OperationOutcome, OperationPhase, OperationStep, StepProgress, StoreOperationStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use mas_core::procedures::operation::{Obstacle, Operation, Phase, Progress, StepState};

/// Units and reasons are words of the procedures; those read back are among them, or were of an older version.
const WORDS: [&str; 4] = ["bytes", "effects", "markers", "keys"];
/// See [`WORDS`].
const REASONS: [&str; 16] = [
    "MembershipNotConfirmed",
    "NoSource",
    "MarkerUnderWay",
    "SourceRecovering",
    "SourceHasLess",
    "LogRanOut",
    "WaitsForAnother",
    "RegionAway",
    "RegionRecovering",
    "MemberAway",
    "RegionAnswers",
    "NotFounded",
    "NoMaster",
    "NoReplicaInSync",
    "ShardIsRebuilt",
    "VerificationBusy",
];

fn word(of: &'static [&'static str], text: &str) -> &'static str {
    of.iter().find(|word| **word == text).copied().unwrap_or("Other")
}

fn time(ms: u64) -> Option<MicroTime> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok().map(MicroTime)
}

fn millis(time: Option<&MicroTime>) -> Option<u64> {
    u64::try_from(time?.0.as_millisecond()).ok()
}

/// As it is shown and kept. `names`: of the steps.
pub(crate) fn show(operation: &Operation, names: &[&str], attempt: u32) -> StoreOperationStatus {
    let steps: Vec<OperationStep> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let state = operation.steps.get(at).cloned().unwrap_or_default();
            OperationStep {
                name: (*name).to_owned(),
                started_at: state.started_at.and_then(time),
                finished_at: state.finished_at.and_then(time),
                progress: state.progress.map(|p| StepProgress {
                    done: p.done,
                    total: p.total,
                    unit: p.unit.to_owned(),
                }),
                message: state.message,
                repeats: state.repeats,
            }
        })
        .collect();
    let started = operation.steps.first().and_then(|step| step.started_at);
    let finished = operation.phase.is_final().then_some(operation.moved_at);
    let current = steps.get(operation.step).filter(|_| !operation.phase.is_final());
    let said =
        if operation.phase.is_final() { Some(&operation.message) } else { current.map(|step| &step.message) };
    StoreOperationStatus {
        phase: match operation.phase {
            Phase::Pending => OperationPhase::Pending,
            Phase::Running => OperationPhase::Running,
            Phase::Succeeded => OperationPhase::Succeeded,
            Phase::Failed => OperationPhase::Failed,
            Phase::RolledBack => OperationPhase::RolledBack,
        },
        attempt,
        step: names.get(operation.step).map(|name| (*name).to_owned()),
        progress: current.and_then(|step| step.progress.as_ref()).map(percent),
        message: said.filter(|words| !words.is_empty()).cloned(),
        blocked: operation.blocked.as_ref().map(|(obstacle, since)| Blocked {
            reason: obstacle.reason.to_owned(),
            message: obstacle.message.clone(),
            since: time(*since),
        }),
        steps,
        outcome: started.zip(finished).filter(|_| operation.phase == Phase::Succeeded).map(|(from, to)| {
            OperationOutcome { total_millis: Some(to.saturating_sub(from)), ..OperationOutcome::default() }
        }),
        loss: None,
        before: None,
        started_at: started.and_then(time),
        finished_at: finished.and_then(time),
        moved_at: time(operation.moved_at),
    }
}

fn percent(progress: &StepProgress) -> String {
    if progress.total == 0 {
        return "0%".into();
    }
    format!("{}%", progress.done.saturating_mul(100) / progress.total)
}

/// As the procedure takes it.
pub(crate) fn restore(status: &StoreOperationStatus) -> Operation {
    let step = |name: &String| status.steps.iter().position(|step| step.name == *name);
    Operation {
        phase: match status.phase {
            OperationPhase::Pending => Phase::Pending,
            OperationPhase::Running => Phase::Running,
            OperationPhase::Succeeded => Phase::Succeeded,
            OperationPhase::Failed => Phase::Failed,
            OperationPhase::RolledBack => Phase::RolledBack,
        },
        step: match &status.step {
            Some(name) => step(name).unwrap_or_default(),
            None if status.phase == OperationPhase::Succeeded => status.steps.len(),
            None => 0,
        },
        steps: status
            .steps
            .iter()
            .map(|step| StepState {
                started_at: millis(step.started_at.as_ref()),
                finished_at: millis(step.finished_at.as_ref()),
                progress: step.progress.as_ref().map(|p| Progress {
                    done: p.done,
                    total: p.total,
                    unit: word(&WORDS, &p.unit),
                }),
                message: step.message.clone(),
                repeats: step.repeats,
            })
            .collect(),
        blocked: status.blocked.as_ref().map(|blocked| {
            let obstacle = Obstacle::new(word(&REASONS, &blocked.reason), blocked.message.clone());
            (obstacle, millis(blocked.since.as_ref()).unwrap_or_default())
        }),
        moved_at: millis(status.moved_at.as_ref()).unwrap_or_default(),
        message: status.message.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mas_core::procedures::scale_out::STEPS;

    #[test]
    fn what_is_shown_is_enough_to_go_on() {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        let mut operation =
            Operation { phase: Phase::Running, step: 3, moved_at: 5000, ..Operation::default() };
        operation.steps.resize_with(names.len(), StepState::default);
        operation.steps[0] =
            StepState { started_at: Some(1000), finished_at: Some(2000), ..StepState::default() };
        operation.steps[3] = StepState {
            started_at: Some(3000),
            progress: Some(Progress { done: 5, total: 20, unit: "bytes" }),
            message: "copies".into(),
            repeats: 2,
            ..StepState::default()
        };
        operation.blocked = Some((Obstacle::new("NoSource", "nobody"), 4000));
        let shown = show(&operation, &names, 2);
        assert_eq!((shown.step.as_deref(), shown.progress.as_deref()), (Some("SyncReplica"), Some("25%")));
        assert_eq!(shown.message.as_deref(), Some("copies"));
        let again = restore(&shown);
        assert_eq!(Operation { message: String::new(), ..again }, operation);
        operation.step = names.len();
        operation.end(Phase::Succeeded, String::new());
        let shown = show(&operation, &names, 2);
        assert_eq!(shown.outcome.as_ref().and_then(|o| o.total_millis), Some(4000));
        assert_eq!((restore(&shown).step, restore(&shown).phase), (names.len(), Phase::Succeeded));
    }
}
