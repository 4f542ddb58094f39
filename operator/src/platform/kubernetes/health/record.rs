//! Where decisions about shards are recorded: a region's `StoreRegion` (epochs, by compare-and-swap on its resourceVersion), and a copy of
//! the epochs in the store's identity record, which outlives it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{ShardState, StoreRegion, StoreRegionStatus};
use kube::runtime::reflector::{self, ObjectRef};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::health::shard::Ledger;
use crate::platform::kubernetes::client::{ClientError, Namespace};
use crate::platform::kubernetes::identity::Identity;
use crate::platform::kubernetes::object::Kind;
use crate::platform::kubernetes::status::replacing;
use crate::procedures::shard::{Basis, Record, Seen, reconstruct};

/// How long a write may take; what was not answered is looked at anew.
const CALL: Duration = Duration::from_secs(3);
/// How far behind our own writes a watch may be before what it tells counts.
const WATCH_LAGS: Duration = Duration::from_secs(5);

/// Why nothing could be recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no answer from the API server within {} s", CALL.as_secs())]
    Late,
    #[error("the {0} is missing; it is made again by the next round")]
    Missing(String),
    #[error("the identity record cannot be read: {0}")]
    Unreadable(String),
    #[error("promoting under epoch {wanted} failed: {recorded} was issued already; it is looked at again")]
    Overtaken { wanted: u64, recorded: u64 },
    #[error(
        "redis-{0} was superseded while it held effects that no broker has confirmed, and they could not be published: it is left as it is. \
         Look at it (redis-cli), then delete its claim and its pod, and it is synchronized anew"
    )]
    HoldsMore(usize),
}

/// A store's identity record, as the health loop changes it.
pub(crate) struct IdentityRecord {
    namespace: Namespace,
    name: String,
    /// All shards write it: one after the other.
    turn: Mutex<()>,
}

impl IdentityRecord {
    pub(crate) fn new(namespace: Namespace, name: String) -> Self {
        Self { namespace, name, turn: Mutex::default() }
    }

    pub(crate) async fn read(&self) -> Result<(Identity, String), RecordError> {
        let found = within(self.namespace.identity(&self.name)).await?;
        let (text, version) =
            found.ok_or_else(|| RecordError::Missing(format!("ConfigMap {}", self.name)))?;
        Ok((Identity::parse(&text).map_err(RecordError::Unreadable)?, version))
    }

    /// Changes it, if nobody else has meanwhile. `change` says whether there is something to write.
    pub(crate) async fn update(
        &self,
        change: impl FnOnce(&mut Identity) -> bool + Send,
    ) -> Result<(), RecordError> {
        let _turn = self.turn.lock().await;
        let (mut identity, version) = self.read().await?;
        if change(&mut identity) {
            within(self.namespace.write_identity(&self.name, &identity.text(), &version)).await?;
        }
        Ok(())
    }
}

async fn within<T>(call: impl Future<Output = Result<T, ClientError>>) -> Result<T, RecordError> {
    Ok(timeout(CALL, call).await.map_err(|_| RecordError::Late)??)
}

/// A region's row. All that writes its status goes through here, one after the other.
pub(crate) struct Row {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    pub(crate) region: String,
    /// Other regions have its shards: what is lost here is made again from theirs.
    pub(crate) others: bool,
    pub(crate) identity: Arc<IdentityRecord>,
    /// The rows as the watch brings them.
    pub(crate) seen: reflector::Store<StoreRegion>,
    pub(crate) held: Mutex<Held>,
}

/// The row as it was read or written last, and when.
#[derive(Default)]
pub(crate) struct Held(Option<(StoreRegion, Instant)>);

impl Held {
    /// What it still stands for: somebody may have deleted the row or changed it. The watch tells, if not of what we have just written.
    fn current(&self, seen: Option<&StoreRegion>) -> Option<StoreRegion> {
        let (row, at) = self.0.as_ref()?;
        let same = seen.is_some_and(|seen| seen.metadata.resource_version == row.metadata.resource_version);
        (same || at.elapsed() < WATCH_LAGS).then(|| row.clone())
    }
}

impl Row {
    /// The row as it was read or written last.
    pub(crate) async fn status(&self) -> Result<StoreRegionStatus, RecordError> {
        let mut held = self.held.lock().await;
        Ok(self.load(&mut held).await?.status.unwrap_or_default())
    }

    async fn load(&self, held: &mut Held) -> Result<StoreRegion, RecordError> {
        let seen = self.seen.get(&ObjectRef::new(&self.name).within(self.namespace.name()));
        if let Some(row) = held.current(seen.as_deref()) {
            return Ok(row);
        }
        let found = within(self.namespace.get(Kind::StoreRegion, &self.name)).await?;
        let row = found.and_then(|row| row.try_parse::<StoreRegion>().ok());
        let row = row.ok_or_else(|| RecordError::Missing(format!("StoreRegion {}", self.name)))?;
        *held = Held(Some((row.clone(), Instant::now())));
        Ok(row)
    }

    async fn write(&self, held: &mut Held, next: &StoreRegionStatus) -> Result<(), RecordError> {
        let row = self.load(held).await?;
        let last = row.status.clone().unwrap_or_default();
        // Whatever comes of it, what is held is not current any more.
        *held = Held::default();
        let patch = replacing(&json!(last), &json!(next));
        let version = row.metadata.resource_version.as_deref();
        let written = within(self.namespace.patch_status(&self.name, version, &patch)).await?;
        *held = Held(Some((written, Instant::now())));
        Ok(())
    }

    /// Writes what `build` makes of the row as it was, beside what was decided: epochs, their holders and what these had. Returns the row
    /// before and after, if it was written.
    pub(crate) async fn report(
        &self,
        build: impl FnOnce(&StoreRegionStatus) -> Option<StoreRegionStatus> + Send,
    ) -> Result<Option<(StoreRegionStatus, StoreRegionStatus)>, RecordError> {
        let mut held = self.held.lock().await;
        let last = self.load(&mut held).await?.status.unwrap_or_default();
        let Some(next) = build(&last).filter(|next| *next != last) else { return Ok(None) };
        self.write(&mut held, &next).await?;
        Ok(Some((last, next)))
    }

    /// What was decided of a shard.
    pub(super) async fn record(&self, shard: u16, members: &[Seen]) -> Result<Record, RecordError> {
        let mut held = self.held.lock().await;
        let status = self.load(&mut held).await?.status.unwrap_or_default();
        let known = status.shards.iter().find(|state| state.shard == shard);
        let rebuilt = self.others && !known.is_some_and(|state| state.from_stream);
        if let Some(state) = known.filter(|state| state.epoch > 0) {
            return Ok(Record {
                epoch: state.epoch,
                master: state.master.map(usize::from),
                basis: state
                    .basis
                    .as_ref()
                    .map(|basis| Basis { incarnation: basis.incarnation.clone(), seq: basis.seq }),
                served: state.served,
                rebuilt,
            });
        }
        // The row is new, or was lost: the identity record knows the highest epoch, the engines the rest.
        let (identity, _) = self.identity.read().await?;
        let of = identity.region(&self.region).and_then(|region| region.epochs.get(usize::from(shard)));
        let record = Record { rebuilt, ..reconstruct(of.copied().unwrap_or_default(), members) };
        if let (1.., Some(master)) = (record.epoch, record.master) {
            tracing::info!(
                row = self.name,
                shard,
                record.epoch,
                master,
                "the row was lost: taken from the engines"
            );
            let state = ShardState {
                shard,
                epoch: record.epoch,
                master: u16::try_from(master).ok(),
                served: record.served,
                ..ShardState::default()
            };
            self.write(&mut held, &with(status, state)).await?;
        }
        Ok(record)
    }

    /// No region has the shard: it begins with what its own stream holds.
    pub(super) async fn begin_from_stream(&self, shard: u16) -> Result<(), RecordError> {
        let mut held = self.held.lock().await;
        let mut status = self.load(&mut held).await?.status.unwrap_or_default();
        let known = status.shards.iter().find(|state| state.shard == shard);
        let state = ShardState { shard, from_stream: true, ..known.cloned().unwrap_or_default() };
        if known != Some(&state) {
            status = with(status, state);
            self.write(&mut held, &status).await?;
        }
        Ok(())
    }

    /// Somebody serves the shard, which is kept once.
    pub(super) async fn served(&self, shard: u16) -> Result<(), RecordError> {
        let mut held = self.held.lock().await;
        let status = self.load(&mut held).await?.status.unwrap_or_default();
        let known = status.shards.iter().find(|state| state.shard == shard && !state.served).cloned();
        let Some(state) = known else { return Ok(()) };
        self.write(&mut held, &with(status, ShardState { served: true, ..state })).await
    }

    /// `copied`: the member holds a copy of another region's.
    pub(super) async fn issue(
        &self,
        shard: u16,
        epoch: u64,
        member: usize,
        basis: &Basis,
        copied: bool,
    ) -> Result<(), RecordError> {
        let mut held = self.held.lock().await;
        let status = self.load(&mut held).await?.status.unwrap_or_default();
        let known = status.shards.iter().find(|state| state.shard == shard);
        let (recorded, served) = known.map_or((0, false), |state| (state.epoch, state.served));
        if recorded >= epoch {
            return Err(RecordError::Overtaken { wanted: epoch, recorded });
        }
        let state = ShardState {
            shard,
            epoch,
            master: u16::try_from(member).ok(),
            basis: Some(crds::Basis { incarnation: basis.incarnation.clone(), seq: basis.seq }),
            served: served || copied,
            ..ShardState::default()
        };
        self.write(&mut held, &with(status, state)).await?;
        drop(held);
        self.identity.update(|identity| identity.raise(&self.region, shard, epoch)).await
    }
}

fn with(mut status: StoreRegionStatus, state: ShardState) -> StoreRegionStatus {
    status.shards.retain(|other| other.shard != state.shard);
    status.shards.push(state);
    status.shards.sort_by_key(|state| state.shard);
    status
}

/// One shard of a row.
pub(crate) struct ShardLedger {
    pub(crate) row: Arc<Row>,
    pub(crate) shard: u16,
}

impl Ledger for ShardLedger {
    type Error = RecordError;

    async fn record(&self, members: &[Seen]) -> Result<Record, RecordError> {
        self.row.record(self.shard, members).await
    }

    async fn issue(&self, epoch: u64, member: usize, basis: &Basis) -> Result<(), RecordError> {
        self.row.issue(self.shard, epoch, member, basis, false).await
    }

    async fn served(&self) -> Result<(), RecordError> {
        self.row.served(self.shard).await
    }

    async fn set_aside(&self, member: usize, _: u64) -> Result<(), RecordError> {
        Err(RecordError::HoldsMore(member))
    }
}
