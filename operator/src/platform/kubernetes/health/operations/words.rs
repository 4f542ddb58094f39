//! What operations are said to do: phases of regions, columns, events.

use std::sync::Arc;

use crds::{
    OperationPhase, OperationType, RegionPhase, StoreOperation, StoreOperationSpec, StoreOperationStatus,
};

/// What a joining region does, by the step of its operation, and in words.
pub(in super::super) fn phase(operation: Option<&StoreOperation>) -> (RegionPhase, Option<String>) {
    let Some(status) = operation.and_then(|operation| operation.status.as_ref()) else {
        return (RegionPhase::Provisioning, None);
    };
    let words = status.message.clone().map(|words| match status.phase {
        OperationPhase::Failed => format!("joining failed: {words}"),
        _ => words,
    });
    let phase = match status.step.as_deref() {
        Some("SyncReplica" | "Mark" | "Promote") => RegionPhase::Syncing,
        Some("Replay") => RegionPhase::Replaying,
        Some("Verify" | "Serve") => RegionPhase::Verifying,
        Some(_) | None => RegionPhase::Provisioning,
    };
    (phase, words)
}

/// What is under way, in a few words: `scale-out c: Replay 42%`.
pub(in super::super) fn summary(operations: &[Arc<StoreOperation>]) -> Option<String> {
    let words = |operation: &Arc<StoreOperation>| {
        let status = operation.status.as_ref()?;
        let now = match (status.phase, &status.blocked) {
            (OperationPhase::Succeeded | OperationPhase::RolledBack, _) => return None,
            (OperationPhase::Failed, _) => "failed".to_owned(),
            (_, Some(blocked)) => format!("waits ({})", blocked.reason),
            (OperationPhase::Pending | OperationPhase::Running, None) => {
                let of =
                    [status.step.as_deref().unwrap_or("begins"), status.progress.as_deref().unwrap_or("")];
                of.join(" ").trim_end().to_owned()
            }
        };
        Some(format!("{} {}: {now}", verb(operation.spec.kind), about(&operation.spec)))
    };
    let all: Vec<String> = operations.iter().filter_map(words).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// A procedure, as it is in names.
const fn verb(kind: OperationType) -> &'static str {
    match kind {
        OperationType::ScaleOut => "scale-out",
        OperationType::Remove => "remove",
        OperationType::Rebuild => "rebuild",
    }
}

/// What it is about: a region, or a shard of it.
fn about(spec: &StoreOperationSpec) -> String {
    let shard = spec.shard.map(|shard| format!("/shard-{shard}"));
    format!("{}{}", spec.region, shard.unwrap_or_default())
}

/// What a person may want to be told of: whether it is bad, a reason, a sentence.
pub(super) fn event(
    spec: &StoreOperationSpec,
    last: &StoreOperationStatus,
    next: &StoreOperationStatus,
) -> Option<(bool, String, String)> {
    if last.phase == next.phase {
        return None;
    }
    let about = about(spec);
    let words = next.message.as_deref().unwrap_or_default();
    let (bad, what, words) = match next.phase {
        OperationPhase::Running if last.phase == OperationPhase::Pending => {
            let words = match spec.kind {
                OperationType::ScaleOut => format!("{about} joins while the others serve"),
                OperationType::Remove => format!("{about} leaves while the others serve"),
                OperationType::Rebuild => format!("{about} is made again from another region's copy"),
            };
            (false, "Began", words)
        }
        OperationPhase::Pending | OperationPhase::Running => return None,
        OperationPhase::Succeeded => {
            let ms = next.outcome.as_ref().and_then(|outcome| outcome.total_millis).unwrap_or_default();
            let done = match spec.kind {
                OperationType::ScaleOut => "is a member like the others",
                OperationType::Remove => "has left",
                OperationType::Rebuild => "serves again",
            };
            (false, "Succeeded", format!("{about} {done}, after {} s", ms / 1000))
        }
        OperationPhase::Failed => (true, "Failed", format!("{about}: {words}")),
        OperationPhase::RolledBack => (false, "RolledBack", format!("{about}: {words}")),
    };
    Some((bad, format!("{:?}{what}", spec.kind), words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: OperationPhase) -> StoreOperationStatus {
        let step = (phase != OperationPhase::Succeeded).then(|| "Replay".to_owned());
        StoreOperationStatus { phase, step, progress: Some("42%".into()), ..StoreOperationStatus::default() }
    }

    fn spec() -> StoreOperationSpec {
        StoreOperationSpec {
            store_ref: crds::StoreRef { name: "shop".into() },
            kind: OperationType::ScaleOut,
            region: "c".into(),
            shard: None,
            source: None,
            action: crds::OperationAction::Run,
            attempt: 1,
        }
    }

    fn operation(status: StoreOperationStatus) -> Arc<StoreOperation> {
        Arc::new(StoreOperation { status: Some(status), ..StoreOperation::new("o", spec()) })
    }

    #[test]
    fn what_is_under_way_is_said_in_a_few_words() {
        let of = |status| summary(&[operation(status)]);
        assert_eq!(of(status(OperationPhase::Running)).as_deref(), Some("scale-out c: Replay 42%"));
        assert_eq!(of(status(OperationPhase::Failed)).as_deref(), Some("scale-out c: failed"));
        assert_eq!(of(status(OperationPhase::Succeeded)), None);
        let blocked = crds::Blocked { reason: "NoSource".into(), ..crds::Blocked::default() };
        let blocked = StoreOperationStatus { blocked: Some(blocked), ..status(OperationPhase::Running) };
        assert_eq!(of(blocked).as_deref(), Some("scale-out c: waits (NoSource)"));
    }

    #[test]
    fn begin_and_end_are_events() {
        use OperationPhase::{Failed, Pending, RolledBack, Running, Succeeded};
        let reason =
            |from, to| event(&spec(), &status(from), &status(to)).map(|(bad, reason, _)| (bad, reason));
        let some = |bad, reason: &str| Some((bad, reason.to_owned()));
        assert_eq!(reason(Pending, Running), some(false, "ScaleOutBegan"));
        assert_eq!(reason(Running, Running), None);
        assert_eq!(reason(Running, Succeeded), some(false, "ScaleOutSucceeded"));
        assert_eq!(reason(Running, Failed), some(true, "ScaleOutFailed"));
        assert_eq!(reason(Failed, RolledBack), some(false, "ScaleOutRolledBack"));
    }
}
