//! What operations are said to do: phases of regions, columns, events.

use std::sync::Arc;

use crds::{
    OperationPhase, OperationType, RegionPhase, StoreOperation, StoreOperationSpec, StoreOperationStatus,
};
use kube::core::ResourceExt as _;

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

/// The same of a region that leaves.
pub(in super::super) fn removal_phase(operation: Option<&StoreOperation>) -> (RegionPhase, Option<String>) {
    let Some(status) = operation.and_then(|operation| operation.status.as_ref()) else {
        return (RegionPhase::Draining, None);
    };
    let words = status.message.clone().map(|words| match status.phase {
        OperationPhase::Failed => format!("leaving failed: {words}"),
        _ => words,
    });
    let drains = matches!(status.step.as_deref(), None | Some("Drain"));
    (if drains { RegionPhase::Draining } else { RegionPhase::Removing }, words)
}

/// What is under way, in a few words: `scale-out c: Replay 42%`.
pub(in super::super) fn summary(operations: &[Arc<StoreOperation>]) -> Option<String> {
    let words = |operation: &Arc<StoreOperation>| {
        let status = operation.status.as_ref()?;
        // What was over in a moment left nothing to mend.
        if operation.spec.kind.is_brief() && status.phase == OperationPhase::Failed {
            return None;
        }
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

/// What a shard waits for that is made again, or was to be: a reason and a sentence. The last operation counts.
pub(in super::super) fn rebuilding(
    operations: &[Arc<StoreOperation>],
    region: &str,
    shard: u16,
) -> Option<(&'static str, String)> {
    let about = |of: &&Arc<StoreOperation>| {
        of.spec.kind == OperationType::Rebuild && of.spec.region == region && of.spec.shard == Some(shard)
    };
    let last = operations.iter().filter(about).max_by_key(|of| (of.creation_timestamp(), of.name_any()))?;
    let (name, status) = (last.name_any(), last.status.clone().unwrap_or_default());
    let now = status.blocked.map_or_else(
        || status.step.unwrap_or_else(|| "begins".to_owned()),
        |blocked| format!("waits ({})", blocked.reason),
    );
    match status.phase {
        OperationPhase::Pending | OperationPhase::Running => {
            Some(("Rebuilding", format!("it is made again from another region's copy, by {name}: {now}")))
        }
        OperationPhase::Failed => {
            let why = status.message.unwrap_or_default();
            let words = format!("{name} has failed ({why}): `kubectl mas op retry {name}` tries it again");
            Some(("RebuildFailed", words))
        }
        OperationPhase::Succeeded | OperationPhase::RolledBack => None,
    }
}

/// A procedure, as it is in names.
const fn verb(kind: OperationType) -> &'static str {
    match kind {
        OperationType::ScaleOut => "scale-out",
        OperationType::Remove => "remove",
        OperationType::Rebuild => "rebuild",
        OperationType::Switchover => "switchover",
        OperationType::Failover => "failover",
        OperationType::Verify => "verify",
        OperationType::Repair => "repair",
    }
}

/// What it is about: a region, a shard of it, or all.
pub(super) fn about(spec: &StoreOperationSpec) -> String {
    if spec.region.is_empty() {
        return "all regions".to_owned();
    }
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
                OperationType::Switchover => format!("{about} is handed over"),
                OperationType::Failover => format!("the master of {about} is ended, a replica takes over"),
                OperationType::Verify => format!("{about} are compared"),
                OperationType::Repair => format!("{about} are compared and made equal"),
            };
            (false, "Began", words)
        }
        OperationPhase::Pending | OperationPhase::Running => return None,
        OperationPhase::Succeeded if spec.kind.is_brief() => {
            (false, "Succeeded", format!("{about}: {words}"))
        }
        OperationPhase::Succeeded => {
            let ms = next.outcome.as_ref().and_then(|outcome| outcome.total_millis).unwrap_or_default();
            let done = match spec.kind {
                OperationType::ScaleOut => "is a member like the others",
                OperationType::Remove => "has left",
                _ => "serves again",
            };
            let cost = next.outcome.as_ref().and_then(|outcome| outcome.rpo_effects);
            let cost = cost.map(|effects| format!("; lost for good: {effects} effects")).unwrap_or_default();
            (false, "Succeeded", format!("{about} {done}, after {} s{cost}", ms / 1000))
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
            target: None,
            force: false,
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
    fn a_shard_says_by_what_it_is_rebuilt() {
        let of = |phase| {
            let kind = OperationType::Rebuild;
            let spec = StoreOperationSpec { kind, region: "a".into(), shard: Some(1), ..spec() };
            let message = Some("as a test says".to_owned());
            let status = Some(StoreOperationStatus { message, ..status(phase) });
            let all = [Arc::new(StoreOperation { status, ..StoreOperation::new("o", spec) })];
            assert_eq!(rebuilding(&all, "a", 0), None);
            rebuilding(&all, "a", 1).map(|(reason, words)| format!("{reason}: {words}"))
        };
        let words = "Rebuilding: it is made again from another region's copy, by o: Replay";
        assert_eq!(of(OperationPhase::Running).as_deref(), Some(words));
        let words = "RebuildFailed: o has failed (as a test says): `kubectl mas op retry o` tries it again";
        assert_eq!(of(OperationPhase::Failed).as_deref(), Some(words));
        assert_eq!(of(OperationPhase::Succeeded), None);
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

    #[test]
    fn what_is_over_in_a_moment_says_what_came_of_it() {
        let kind = OperationType::Verify;
        let spec = StoreOperationSpec { kind, region: String::new(), ..spec() };
        let of = |phase| {
            let message = Some("9 keys in 0.1 s, no differences".to_owned());
            StoreOperationStatus {
                message,
                step: Some("Compare".into()),
                phase,
                ..StoreOperationStatus::default()
            }
        };
        let told = event(&spec, &of(OperationPhase::Running), &of(OperationPhase::Succeeded));
        let words = "all regions: 9 keys in 0.1 s, no differences".to_owned();
        assert_eq!(told, Some((false, "VerifySucceeded".to_owned(), words)));
        let said = |phase| {
            let status = Some(of(phase));
            summary(&[Arc::new(StoreOperation { status, ..StoreOperation::new("o", spec.clone()) })])
        };
        assert_eq!(said(OperationPhase::Running).as_deref(), Some("verify all regions: Compare"));
        assert_eq!(said(OperationPhase::Failed), None);
    }
}
