//! The identity record of a local store (`state.json`): what must outlive every process. It is on the disk before
//! anything that it announces is done, and it changes in one step.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crds::{
    Loss, OperationAction, OperationPhase, OperationType, StoreOperationSpec, StoreOperationStatus, StoreRef,
};
use mas_core::slot::even_ranges;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::Component;
use super::layout::{Layout, LayoutError, io_error, write_private};
use super::set_aside::set_aside;
use crate::health::shard::Ledger;
use crate::procedures::shard;

/// Version of the file's format.
const FORMAT: u32 = 1;
/// Operations that ended and are still shown.
const OPERATIONS_KEPT: usize = 20;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Reading or writing failed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The file is damaged or of another version.
    #[error(
        "{path} is no record of this version ({why}): give back a copy, or start anew with `masctl down --delete-data`"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// Something that cannot be changed.
    #[error("{0}")]
    Immutable(String),
    /// A member's files were not copied.
    #[error("{0}")]
    SetAside(String),
    /// Somebody else has issued an epoch.
    #[error(
        "promoting {shard} under epoch {epoch} failed: the record already says {recorded}; it is looked at again"
    )]
    Overtaken {
        /// The shard.
        shard: String,
        /// What was wanted.
        epoch: u64,
        /// What is there.
        recorded: u64,
    },
}

/// What is persisted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The store's name.
    pub store: String,
    /// When it was founded: from then on an empty engine is a loss and no beginning.
    pub founded: Option<String>,
    /// The regions, in the manifest's order.
    pub regions: Vec<RegionRecord>,
    /// The id that the next new region gets; ids are never used again.
    pub next_region_id: u16,
    /// Shards of every region.
    pub shards: u16,
    /// Slots of each shard, as inclusive ranges.
    pub slots: Vec<Vec<(u16, u16)>>,
    /// Replicas of each master.
    pub redis_replicas: u16,
    /// Nodes of each broker.
    pub broker_replicas: u16,
    /// Raised whenever the proxies' configuration changes.
    pub generation: u64,
    /// Ports by what they are for.
    pub ports: BTreeMap<String, u16>,
    /// Epochs by shard (`beijing/shard-0`).
    pub epochs: BTreeMap<String, ShardRecord>,
    /// Raised whenever a region joins or leaves.
    #[serde(default)]
    pub membership: u64,
    /// Runs of procedures, the oldest first.
    #[serde(default)]
    pub operations: Vec<OperationRecord>,
}

/// One run of a procedure: in a cluster a `StoreOperation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationRecord {
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub spec: StoreOperationSpec,
    /// How far it is.
    pub status: StoreOperationStatus,
}

/// A region's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionRecord {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u16,
    /// It joins, and is no member yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joining: bool,
    /// It leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// A person says that it is gone for good: what others have of it, they tell each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// How far a region that leaves is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// Its clients are handed to others, which read what it has.
    Draining,
    /// They have it all: its engines were stopped, and are not started again.
    Settled,
}

/// Who was made master of a shard last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardRecord {
    /// Highest epoch issued.
    pub epoch: u64,
    /// To which member.
    pub master: Option<usize>,
    /// The incarnation that it held then.
    pub basis_incarnation: String,
    /// And how much of it.
    pub basis_seq: u64,
    /// A member has served the shard, or was given another region's copy: from then on it is lost when nobody holds anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
    /// No region has a copy: it begins with what its own stream holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_stream: bool,
}

impl ShardRecord {
    /// As the procedure takes it; `others`: other regions have the shard.
    pub(super) fn for_procedure(&self, others: bool) -> shard::Record {
        shard::Record {
            rebuilt: others && !self.from_stream,
            served: self.served,
            epoch: self.epoch,
            master: self.master,
            basis: self
                .master
                .map(|_| shard::Basis { incarnation: self.basis_incarnation.clone(), seq: self.basis_seq }),
        }
    }
}

impl Record {
    /// The record of a new store.
    fn new(store: &crds::Validated) -> Self {
        let regions: Vec<_> = (1u16..)
            .zip(&store.regions)
            .map(|(id, region)| RegionRecord {
                name: region.name.clone(),
                id,
                joining: false,
                leaving: None,
                gone: false,
            })
            .collect();
        Self {
            format: FORMAT,
            store: store.name.clone(),
            founded: None,
            next_region_id: regions.len() as u16 + 1,
            regions,
            shards: store.shards,
            slots: (0..store.shards).map(|shard| even_ranges(shard, store.shards)).collect(),
            redis_replicas: store.redis.replicas,
            broker_replicas: store.broker.replicas,
            generation: 0,
            ports: BTreeMap::new(),
            epochs: BTreeMap::new(),
            membership: 1,
            operations: Vec::new(),
        }
    }

    /// Regions that are no members yet.
    pub(super) fn joining(&self) -> Vec<String> {
        self.regions.iter().filter(|region| region.joining).map(|region| region.name.clone()).collect()
    }

    /// A region that the manifest has and the store has not: of a founded store it joins by an operation.
    fn take_in(&mut self, region: &str) {
        let (id, joining) = (self.next_region_id, self.founded.is_some());
        self.next_region_id += 1;
        self.regions.push(RegionRecord { name: region.to_owned(), id, joining, leaving: None, gone: false });
        self.membership += 1;
        if joining {
            self.start("scale-out", OperationType::ScaleOut, region, id);
        }
    }

    /// The operation for that, from its beginning; one that was taken back begins anew.
    fn start(&mut self, word: &str, kind: OperationType, region: &str, id: u16) {
        let name = format!("{}--{word}--{region}-{id}", self.store);
        let before = self.operations.iter().position(|row| row.name == name);
        let before = before.map(|at| self.operations.remove(at));
        let spec = StoreOperationSpec {
            store_ref: StoreRef { name: self.store.clone() },
            kind,
            region: region.to_owned(),
            shard: None,
            source: None,
            target: None,
            force: false,
            action: OperationAction::Run,
            attempt: before.map_or(1, |row| row.spec.attempt + 1),
        };
        self.operations.push(OperationRecord { name, spec, status: StoreOperationStatus::default() });
        self.forget_operations();
    }

    /// A region that the store has and the manifest has not: it leaves by an operation.
    fn send_off(&mut self, region: &str) -> Result<(), RecordError> {
        let refuse = |words: String| Err(RecordError::Immutable(words));
        if self.founded.is_none() {
            return refuse(format!(
                "region '{region}' cannot leave a store that is not founded yet: put it back, or start anew with `masctl down --delete-data`"
            ));
        }
        let stays = |of: &&RegionRecord| of.name != region && !of.joining && of.leaving.is_none();
        if !self.regions.iter().any(|of| stays(&of)) {
            return refuse(format!(
                "region '{region}' cannot leave: no other region has the store's data; put it back"
            ));
        }
        let Some(of) = self.regions.iter_mut().find(|of| of.name == region) else { return Ok(()) };
        if of.joining {
            let operation = format!("{}--scale-out--{region}-{}", self.store, of.id);
            return refuse(format!(
                "region '{region}' joins: write `masctl op rollback {operation}`, and then take it out of the manifest"
            ));
        }
        if of.leaving.is_none() {
            of.leaving = Some(Leaving::Draining);
            let id = of.id;
            self.start("remove", OperationType::Remove, region, id);
        }
        Ok(())
    }

    /// A region that leaves, and is in the manifest again: it stays.
    fn keep(&mut self, region: &str) {
        let Some(of) = self.regions.iter_mut().find(|of| of.name == region && of.leaving.is_some()) else {
            return;
        };
        (of.leaving, of.gone) = (None, false);
        let rows = self.operations.iter_mut();
        for row in rows.filter(|row| row.spec.region == region && row.spec.kind == OperationType::Remove) {
            if !matches!(row.status.phase, OperationPhase::Succeeded | OperationPhase::RolledBack) {
                row.spec.action = OperationAction::Rollback;
                row.status.phase = OperationPhase::Running;
            }
        }
    }

    /// A person says that a region which leaves is gone for good, or that it is not. Returns the operation's name.
    pub(super) fn declare_gone(&mut self, region: &str, gone: bool) -> Result<String, RecordError> {
        let refuse = |words: String| Err(RecordError::Immutable(words));
        let Some(of) = self.regions.iter_mut().find(|of| of.name == region) else {
            return refuse(format!("there is no region '{region}'"));
        };
        if of.leaving.is_none() {
            return refuse(format!(
                "region '{region}' is in the manifest: take it out of that, and `masctl apply` it; what is gone for good can be declared so then"
            ));
        }
        of.gone = gone;
        if of.leaving == Some(Leaving::Settled) {
            // Who answers after all may have more than the others.
            of.leaving = Some(Leaving::Draining);
        }
        let name = format!("{}--remove--{region}-{}", self.store, of.id);
        if let Some(row) = self.operations.iter_mut().find(|row| row.name == name) {
            row.spec.force = gone;
            row.spec.attempt += 1;
            row.status = StoreOperationStatus::default();
        }
        self.generation += 1;
        Ok(name)
    }

    /// The ids of regions that are gone for good, and still members.
    pub(super) fn gone(&self) -> Vec<u16> {
        self.regions.iter().filter(|of| of.gone).map(|of| of.id).collect()
    }

    /// How far a region that leaves is.
    pub(super) fn set_leaving(&mut self, region: &str, to: Leaving) {
        for of in self.regions.iter_mut().filter(|of| of.name == region && of.leaving.is_some()) {
            of.leaving = Some(to);
        }
    }

    /// Whether a region leaves.
    pub(super) fn leaving(&self, region: &str) -> Option<Leaving> {
        self.regions.iter().find(|of| of.name == region)?.leaving
    }

    /// The regions of `store`, and those that still leave: on one machine a region is no more than its name.
    pub(super) fn with_leaving(&self, store: &crds::Validated) -> crds::Validated {
        let mut store = store.clone();
        for gone in self.regions.iter().filter(|region| region.leaving.is_some()) {
            if let Some(like) = store.regions.first().cloned() {
                store.regions.push(crds::Region { name: gone.name.clone(), ..like });
            }
        }
        store
    }

    /// A region that has left: nobody waits for it any more.
    pub(super) fn forget(&mut self, region: &str) {
        if self.leaving(region).is_some() {
            self.remove(region);
        }
    }

    /// Who was made master of `shard` (`beijing/shard-0`) last, as the procedure takes it.
    pub(super) fn shard(&self, shard: &str) -> shard::Record {
        let members = self.regions.iter().filter(|region| !region.joining).count();
        self.epochs.get(shard).cloned().unwrap_or_default().for_procedure(members > 1)
    }

    /// The name of the rebuild of a shard as it is lost now: there is one for each epoch.
    pub(super) fn rebuild_name(&self, region: &str, shard: u16) -> String {
        let epoch = self.shard(&format!("{region}/shard-{shard}")).epoch;
        format!("{}--rebuild--{region}-{shard}-{epoch}", self.store)
    }

    /// Begins to rebuild a shard. Returns the operation's name.
    pub(super) fn rebuild(&mut self, region: &str, shard: u16, source: Option<&str>, loss: Loss) -> String {
        let name = self.rebuild_name(region, shard);
        let spec = StoreOperationSpec {
            store_ref: StoreRef { name: self.store.clone() },
            kind: OperationType::Rebuild,
            region: region.to_owned(),
            shard: Some(shard),
            source: source.map(ToOwned::to_owned),
            target: None,
            force: false,
            action: OperationAction::Run,
            attempt: 1,
        };
        let status = StoreOperationStatus { loss: Some(loss), ..StoreOperationStatus::default() };
        self.operations.push(OperationRecord { name: name.clone(), spec, status });
        self.forget_operations();
        name
    }

    /// The rebuild of a shard that is under way, if one is.
    pub(super) fn rebuilding(&self, region: &str, shard: u16) -> Option<&OperationRecord> {
        let of = |row: &&OperationRecord| row.spec.region == region && row.spec.shard == Some(shard);
        self.operations.iter().filter(|row| !is_over(row.status.phase)).find(of)
    }

    /// Whether a region copies a shard of others.
    pub(super) fn copies(&self, region: &str, shard: u16) -> bool {
        let joins = |of: &RegionRecord| of.name == region && of.joining;
        self.regions.iter().any(joins) || self.rebuilding(region, shard).is_some()
    }

    /// A region that was to join and does not.
    pub(super) fn leave_out(&mut self, region: &str) {
        if self.joining().iter().any(|joining| joining == region) {
            self.remove(region);
        }
    }

    fn remove(&mut self, region: &str) {
        self.regions.retain(|known| known.name != region);
        let of = format!("{region}/");
        self.epochs.retain(|shard, _| !shard.starts_with(&of));
        self.membership += 1;
        self.generation += 1;
    }

    /// The operation that still removes a region which is no member any more.
    fn removal_of(&self, region: &str) -> Option<&OperationRecord> {
        let gone = !self.regions.iter().any(|of| of.name == region);
        self.operations.iter().find(|row| {
            gone && row.spec.region == region
                && row.spec.kind == OperationType::Remove
                && !is_over(row.status.phase)
        })
    }

    /// Of operations that ended only the last ones are kept.
    fn forget_operations(&mut self) {
        let ended = |operation: &OperationRecord| is_over(operation.status.phase);
        let mut extra = self.operations.iter().filter(|o| ended(o)).count().saturating_sub(OPERATIONS_KEPT);
        self.operations.retain(|operation| {
            let goes = extra > 0 && ended(operation);
            extra -= usize::from(goes);
            !goes
        });
    }

    /// Takes over what a changed manifest may change, and refuses the rest.
    pub(super) fn apply(&mut self, store: &crds::Validated) -> Result<(), RecordError> {
        let immutable = |words: String| Err(RecordError::Immutable(words));
        if store.name != self.store {
            return immutable(format!(
                "this state directory belongs to store '{}', the manifest is of '{}': give each store a directory of its own",
                self.store, store.name
            ));
        }
        if store.shards != self.shards {
            return immutable(format!(
                "spec.shards is {} and cannot become {}: resharding does not exist yet; write {} again",
                self.shards, store.shards, self.shards
            ));
        }
        let old: Vec<_> = self.regions.iter().map(|r| r.name.clone()).collect();
        let new: Vec<_> = store.regions.iter().map(|r| r.name.as_str()).collect();
        if store.redis.replicas < self.redis_replicas {
            return immutable(format!(
                "spec.redis.replicas is {} and cannot become {}: a member that is taken away may have the most data; write at least {}",
                self.redis_replicas, store.redis.replicas, self.redis_replicas
            ));
        }
        if store.broker.replicas != self.broker_replicas {
            return immutable(format!(
                "spec.broker.replicas is {} and cannot become {}: changing a broker's size does not exist yet; write {} again",
                self.broker_replicas, store.broker.replicas, self.broker_replicas
            ));
        }
        for name in &old {
            if new.contains(&name.as_str()) {
                self.keep(name);
            } else {
                self.send_off(name)?;
            }
        }
        for name in &new {
            if let Some(row) = self.removal_of(name) {
                return immutable(format!(
                    "region '{name}' is being removed: wait for `masctl op wait {}`, and then add it anew",
                    row.name
                ));
            }
        }
        self.redis_replicas = store.redis.replicas;
        for added in new.iter().filter(|name| !old.iter().any(|old| old == *name)) {
            self.take_in(added);
        }
        Ok(())
    }
}

/// Nothing more happens to it by itself.
pub(super) fn is_over(phase: OperationPhase) -> bool {
    match phase {
        OperationPhase::Pending | OperationPhase::Running => false,
        OperationPhase::Succeeded | OperationPhase::Failed | OperationPhase::RolledBack => true,
    }
}

/// The record and its file.
pub(super) struct RecordFile {
    path: PathBuf,
    record: Mutex<Record>,
    /// As it was written last.
    seen: watch::Sender<Arc<Record>>,
}

/// Reads the record in `layout`, if there is one.
pub(super) fn read(layout: &Layout) -> Result<Option<Record>, RecordError> {
    let path = layout.record();
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|e| io_error("reading", &path, e))?;
    let record: Record = serde_json::from_str(&text)
        .map_err(|e| RecordError::Unreadable { path: path.clone(), why: e.to_string() })?;
    if record.format != FORMAT {
        return Err(RecordError::Unreadable { path, why: format!("format {}", record.format) });
    }
    Ok(Some(record))
}

/// Reads the record, or makes one, and takes over what `store` changes. Nothing is written yet.
pub(super) fn open(layout: &Layout, store: &crds::Validated) -> Result<Record, RecordError> {
    match read(layout)? {
        Some(mut record) => record.apply(store).map(|()| record),
        None => Ok(Record::new(store)),
    }
}

impl RecordFile {
    /// Writes `record` and keeps it.
    pub(super) fn create(layout: &Layout, record: Record) -> Result<Self, RecordError> {
        let path = layout.record();
        write(&path, &record)?;
        let seen = watch::Sender::new(Arc::new(record.clone()));
        Ok(Self { path, record: Mutex::new(record), seen })
    }

    /// As it was written last.
    pub(super) fn peek(&self) -> Arc<Record> {
        Arc::clone(&self.seen.borrow())
    }

    /// A copy of the record.
    pub(super) async fn get(&self) -> Record {
        self.record.lock().await.clone()
    }

    /// Who was made master of `shard` last, as the procedure takes it.
    pub(super) async fn shard(&self, shard: &str) -> shard::Record {
        self.record.lock().await.shard(shard)
    }

    /// Changes the record; the change is on the disk when this returns, or has not happened.
    pub(super) async fn update<T>(
        &self,
        change: impl FnOnce(&mut Record) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let mut current = self.record.lock().await;
        let mut next = current.clone();
        let value = change(&mut next)?;
        if next != *current {
            let path = self.path.clone();
            let (next, written) = tokio::task::spawn_blocking(move || {
                let written = write(&path, &next);
                (next, written)
            })
            .await
            .map_err(|e| RecordError::Unreadable { path: self.path.clone(), why: e.to_string() })?;
            written?;
            self.seen.send_replace(Arc::new(next.clone()));
            *current = next;
        }
        Ok(value)
    }

    /// Somebody serves the shard, which is kept once.
    async fn served(&self, shard: &str) -> Result<(), RecordError> {
        self.update(|record| {
            if let Some(entry) = record.epochs.get_mut(shard) {
                entry.served = true;
            }
            Ok(())
        })
        .await
    }

    /// Issues an epoch: compare-and-swap on the epoch before it. `copied`: the member holds a copy of another region's.
    pub(super) async fn issue(
        &self,
        shard: &str,
        epoch: u64,
        member: usize,
        basis: &shard::Basis,
        copied: bool,
    ) -> Result<(), RecordError> {
        self.update(|record| {
            let entry = record.epochs.entry(shard.to_owned()).or_default();
            if entry.epoch >= epoch {
                return Err(RecordError::Overtaken { shard: shard.to_owned(), epoch, recorded: entry.epoch });
            }
            *entry = ShardRecord {
                epoch,
                master: Some(member),
                basis_incarnation: basis.incarnation.clone(),
                basis_seq: basis.seq,
                served: entry.served || copied,
                from_stream: false,
            };
            Ok(())
        })
        .await
    }
}

/// One shard in the record.
pub(super) struct ShardLedger {
    pub(super) shard: String,
    pub(super) record: Arc<RecordFile>,
    pub(super) layout: Layout,
    pub(super) members: Vec<Component>,
}

impl Ledger for ShardLedger {
    type Error = RecordError;

    async fn record(&self, _: &[shard::Seen]) -> Result<shard::Record, RecordError> {
        Ok(self.record.shard(&self.shard).await)
    }

    async fn issue(&self, epoch: u64, member: usize, basis: &shard::Basis) -> Result<(), RecordError> {
        self.record.issue(&self.shard, epoch, member, basis, false).await
    }

    async fn served(&self) -> Result<(), RecordError> {
        self.record.served(&self.shard).await
    }

    async fn set_aside(&self, member: usize, epoch: u64) -> Result<(), RecordError> {
        let (layout, component) = (self.layout.clone(), self.members[member].clone());
        let label = format!("before-epoch-{epoch}");
        tokio::task::spawn_blocking(move || set_aside(&layout, &component, &label))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map_err(|error| RecordError::SetAside(error.to_string()))
    }
}

fn write(path: &std::path::Path, record: &Record) -> Result<(), RecordError> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|e| RecordError::Unreadable { path: path.to_owned(), why: e.to_string() })?;
    Ok(write_private(path, &text, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(spec: &str) -> crds::Validated {
        crds::load(&format!(
            "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: shop}}\nspec: {{{spec}}}"
        ))
        .unwrap()
    }

    const TWO: &str = "regions: [{name: a}, {name: b}], shards: 2";

    #[test]
    fn what_cannot_change_is_refused_in_words() {
        let record = Record::new(&store(TWO));
        let words = |spec: &str| record.clone().apply(&store(spec)).unwrap_err().to_string();
        assert!(
            words("regions: [{name: a}, {name: b}], shards: 3")
                .starts_with("spec.shards is 2 and cannot become 3:")
        );
        let unfounded = "region 'b' cannot leave a store that is not founded yet:";
        assert!(words("regions: [{name: a}], shards: 2").starts_with(unfounded));
        let none = format!("{TWO}, redis: {{replicas: 0, appendOnly: Always}}");
        assert!(words(&none).starts_with("spec.redis.replicas is 1 and cannot become 0:"));
        assert!(words(&format!("{TWO}, broker: {{replicas: 1}}")).starts_with("spec.broker.replicas is 3"));
        let more = format!("{TWO}, redis: {{replicas: 2}}, proxy: {{replicas: 5}}");
        assert!(record.clone().apply(&store(&more)).is_ok());
    }

    #[test]
    fn a_region_that_comes_later_joins_by_an_operation() {
        let mut record = Record { founded: Some("now".into()), ..Record::new(&store(TWO)) };
        let three = "regions: [{name: a}, {name: b}, {name: c}], shards: 2";
        record.apply(&store(three)).unwrap();
        assert_eq!((record.joining(), record.membership), (vec!["c".to_owned()], 2));
        assert_eq!(record.operations[0].name, "shop--scale-out--c-3");
        let once = record.clone();
        record.apply(&store(three)).unwrap();
        assert_eq!(record, once, "once");
        record.leave_out("c");
        record.apply(&store(three)).unwrap();
        assert_eq!(record.operations[1].name, "shop--scale-out--c-4", "ids are never used again");
        let mut new = Record::new(&store(TWO));
        new.apply(&store(three)).unwrap();
        assert!(new.joining().is_empty() && new.operations.is_empty(), "it is founded with all of them");
    }

    #[test]
    fn a_region_leaves_by_an_operation_or_stays_after_all() {
        let (both, one) = (store(TWO), store("regions: [{name: a}], shards: 2"));
        let mut record = Record { founded: Some("now".into()), ..Record::new(&both) };
        record.apply(&one).unwrap();
        assert_eq!((record.leaving("b"), record.membership), (Some(Leaving::Draining), 1));
        assert_eq!(record.operations[0].name, "shop--remove--b-2");
        let before = record.clone();
        record.apply(&one).unwrap();
        assert_eq!(record, before, "once");
        let names: Vec<_> = record.with_leaving(&one).regions.into_iter().map(|of| of.name).collect();
        assert_eq!(names, ["a", "b"]);
        let last = record.clone().apply(&store("regions: [{name: c}], shards: 2")).unwrap_err().to_string();
        assert!(last.contains("no other region has the store's data"), "{last}");

        record.apply(&both).unwrap();
        assert_eq!(record.leaving("b"), None);
        assert_eq!(record.operations[0].spec.action, OperationAction::Rollback);
        record.operations[0].status.phase = OperationPhase::RolledBack;
        record.apply(&one).unwrap();
        assert_eq!((record.operations.len(), record.operations[0].spec.attempt), (1, 2));

        record.forget("b");
        assert_eq!((record.regions.len(), record.membership), (1, 2));
        let early = record.clone().apply(&both).unwrap_err().to_string();
        assert!(early.contains("is being removed"), "{early}");
        record.operations[0].status.phase = OperationPhase::Succeeded;
        record.apply(&both).unwrap();
        assert_eq!(record.regions[1].id, 3, "another one of that name");
    }

    #[tokio::test]
    async fn epochs_are_issued_once_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let file = RecordFile::create(&layout, Record::new(&store(TWO))).unwrap();
        let basis = shard::Basis { incarnation: "ff".into(), seq: 7 };
        file.issue("a/shard-0", 1, 0, &basis, false).await.unwrap();
        assert!(matches!(
            file.issue("a/shard-0", 1, 1, &basis, false).await,
            Err(RecordError::Overtaken { epoch: 1, recorded: 1, .. })
        ));
        let again = open(&layout, &store(TWO)).unwrap();
        assert_eq!(again, file.get().await);
        assert_eq!(again.shard("a/shard-0").basis, Some(basis));
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        fs::write(layout.record(), "{").unwrap();
        assert!(matches!(open(&layout, &store(TWO)), Err(RecordError::Unreadable { .. })));
    }
}
