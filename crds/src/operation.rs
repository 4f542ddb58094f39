//! `StoreOperation`: one run of a procedure, a thing to look at.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::StoreRef;

/// One run of a procedure. What belongs to the manifest (a region that joins or leaves), and what mends a loss, is made by the operator;
/// people order a `Rebuild` of copies that are there and cannot be used, a `Remove` with `force` of a region that is gone for good, another
/// master for a shard (`Switchover`, `Failover`), and that regions are compared (`Verify`, `Repair`).
#[allow(clippy::duplicated_attributes)] // each is about another column
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multiactive.dev",
    version = "v1alpha1",
    kind = "StoreOperation",
    plural = "storeoperations",
    shortname = "maso",
    category = "multiactive",
    namespaced,
    status = "StoreOperationStatus",
    derive = "PartialEq",
    printcolumn(name = "Store", type_ = "string", json_path = ".spec.storeRef.name"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Blocked", type_ = "string", json_path = ".status.blocked.reason"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreOperationSpec {
    /// The store that it is about, in the same namespace.
    pub store_ref: StoreRef,
    /// The procedure.
    #[serde(rename = "type")]
    pub kind: OperationType,
    /// The region that it is about. `Verify` and `Repair` are about all of them, and have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// `Rebuild`, `Switchover` and `Failover`, and only there: the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u16>,
    /// The region that is copied; the healthiest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `Switchover`, and only there: the member that is to be master, 1 for redis-1; the replica that has most when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u16>,
    /// `Remove`, and only there: the region is gone for good, and nothing of it will ever answer. It is out of the manifest already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Go on, or take it back.
    #[serde(default)]
    pub action: OperationAction,
    /// Raise it to try again what has failed.
    #[serde(default = "first")]
    pub attempt: u32,
}

fn first() -> u32 {
    1
}

/// A procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperationType {
    /// A region joins while the others serve.
    ScaleOut,
    /// A region leaves while the others serve.
    Remove,
    /// A shard of a region of which no copy is left is made again from another region's.
    Rebuild,
    /// A replica becomes master of a shard, in order: nothing is lost, and clients wait for a moment.
    Switchover,
    /// The server that is a shard's master is ended, so that a replica takes over.
    Failover,
    /// What the regions hold is compared; nothing is changed.
    Verify,
    /// What the regions hold is compared, and made equal where it differs.
    Repair,
}

impl OperationType {
    /// It moves no shard from one region to another, and is over in a moment. What has failed leaves nothing to mend.
    pub const fn is_brief(self) -> bool {
        match self {
            Self::ScaleOut | Self::Remove | Self::Rebuild => false,
            Self::Switchover | Self::Failover | Self::Verify | Self::Repair => true,
        }
    }
}

/// What is to be done with an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperationAction {
    /// Carry it out.
    #[default]
    Run,
    /// Take back what it has changed.
    Rollback,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperationPhase {
    /// Something else has to end first.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Given up; raise `spec.attempt` to try again.
    Failed,
    /// Taken back.
    RolledBack,
}

/// State of an operation. All that it needs to go on is here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreOperationStatus {
    /// How far it is.
    pub phase: OperationPhase,
    /// The attempt that this is about.
    pub attempt: u32,
    /// The step that it is at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// How much of that step is done, `42%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// What it does or waits for, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What has to happen first that the operation cannot bring about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// The steps, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<OperationStep>,
    /// `Rebuild`: what is known of the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// `Switchover`, `Failover`: who was the shard's master when it began. Another one, or another epoch, and it has happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<MasterBefore>,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OperationOutcome>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// When it moved last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<MicroTime>,
}

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Blocked {
    /// PascalCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationStep {
    /// Its name.
    pub name: String,
    /// When it began (last).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// How much is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<StepProgress>,
    /// What it does or waits for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How often it was begun anew.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants a reference
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// So much of so much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StepProgress {
    /// Done.
    pub done: u64,
    /// Of so much, as far as it is known now.
    pub total: u64,
    /// Of what: `bytes`, `effects`, `markers`, `keys`.
    pub unit: String,
}

/// What is known of the loss of all copies of a shard, while it is mended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Loss {
    /// When the shard was first seen without a master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<MicroTime>,
    /// When another region was first seen to serve its clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_at: Option<MicroTime>,
    /// The highest epoch under which there was a copy.
    pub epoch: u64,
    /// What the lost copies had issued, as far as other regions were told: the last number of each incarnation.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issued: BTreeMap<String, u64>,
    /// For how long, of what other regions were told, none of them had everything, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_millis: Option<u64>,
}

/// A shard's master, as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MasterBefore {
    /// Which member, 0 for redis-0.
    pub member: u16,
    /// Under which epoch.
    pub epoch: u64,
    /// `Failover`: the uid of its pod. No other pod is ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
}

/// What an operation measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationOutcome {
    /// From its beginning to its end, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_millis: Option<u64>,
    /// `Rebuild`: effects that other regions were told of and that nobody has (recovery point).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_effects: Option<u64>,
    /// `Rebuild`: the time in which they were written, milliseconds; 0 when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_millis: Option<u64>,
    /// `Rebuild`: from the first failure seen until another region served the clients, milliseconds (recovery time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_millis: Option<u64>,
    /// `Rebuild`: from then until the shard served again, milliseconds (work recovery time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrt_millis: Option<u64>,
    /// `Switchover`: how long clients waited, milliseconds; absent when nobody was there to measure it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_millis: Option<u64>,
    /// `Verify`, `Repair`: keys that were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_compared: Option<u64>,
    /// `Verify`, `Repair`: those of them that differed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub different_keys: Option<u64>,
    /// `Repair`: those of them that are equal now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repaired_keys: Option<u64>,
}
