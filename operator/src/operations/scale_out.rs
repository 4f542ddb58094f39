//! Scale-out and rebuild against real servers: what [`mas_core::procedures::scale_out`] looks at, and what it decides, through what a
//! platform offers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use mas_core::cover::Cover;
use mas_core::procedures::identity::{EngineState, Identity, Role};
use mas_core::procedures::marker::{self, Marker};
use mas_core::procedures::operation::{Operation, Step};
use mas_core::procedures::scale_out::{Action, Copy, Link, Master, Member, Observed, Shard, Verification};
use mas_core::stamp::{Incarnation, RegionId};
use redis::{AsyncConnectionConfig, Client, cmd};
use tokio::time::timeout;

use crate::health::engine::{Answer, Engine, EngineError, Join};
use crate::health::status::{LinkStatus, is_broken};
use crate::procedures::shard::Seen;
use crate::verify::{self, Place, Region};

/// How long a write of a marker may take.
const FRONT: Duration = Duration::from_secs(5);

/// Percentage of keys whose values are compared, besides all digests, before a region serves.
const SAMPLE_PERCENT: u8 = 1;

/// The store, as a platform gives it to be looked at for one region of which shards join: all, or those that are rebuilt.
pub(crate) struct Ground {
    pub(crate) store: String,
    pub(crate) region: RegionId,
    pub(crate) membership: u64,
    /// What of the region is not ready, in words.
    pub(crate) missing: Vec<String>,
    /// The regions that serve.
    pub(crate) members: Vec<MemberGround>,
    /// The region's shards that join.
    pub(crate) shards: Vec<ShardGround>,
    /// Slots of each of the store's shards.
    pub(crate) slots: Vec<Vec<(u16, u16)>>,
    pub(crate) wanted_source: Option<RegionId>,
    pub(crate) verification: Verification,
    pub(crate) joined: bool,
}

impl Ground {
    /// Of the shard at that place.
    fn slots_of(&self, at: usize) -> &[(u16, u16)] {
        let slots = self.shards.get(at).and_then(|shard| self.slots.get(usize::from(shard.number)));
        slots.map_or(&[], Vec::as_slice)
    }
}

/// A region that serves.
pub(crate) struct MemberGround {
    pub(crate) id: RegionId,
    pub(crate) name: String,
    pub(crate) told: bool,
    pub(crate) links: Vec<LinkStatus>,
    pub(crate) front: Front,
    /// As in [`Ground::shards`].
    pub(crate) shards: Vec<MasterGround>,
}

/// The master of one of its shards, if there is one.
pub(crate) struct MasterGround {
    pub(crate) seen: Vec<Seen>,
    pub(crate) master: Option<usize>,
    pub(crate) engine: Option<Arc<dyn AsEngine>>,
    /// Where the joining region reaches it, `host:port`.
    pub(crate) address: Option<String>,
}

/// One shard that joins.
pub(crate) struct ShardGround {
    pub(crate) number: u16,
    /// Members that hold what is not to be kept.
    pub(crate) in_the_way: Vec<usize>,
    /// The first member: it becomes the copy.
    pub(crate) first: Arc<dyn AsEngine>,
    /// The master, once the shard's controller has one; until then the first member. It is the one that is looked at.
    pub(crate) engine: Arc<dyn AsEngine>,
    /// Why it cannot be asked, if so.
    pub(crate) absent: Option<String>,
    /// The highest epoch issued for this shard.
    pub(crate) epoch: u64,
    pub(crate) links: Vec<LinkStatus>,
}

/// Whoever has an engine.
pub(crate) trait AsEngine: Send + Sync {
    fn engine(&self) -> &Engine;
}

impl<P: Send + Sync> AsEngine for crate::health::member::Member<P> {
    fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// A region's front door.
#[derive(Clone, Default)]
pub(crate) struct Front {
    /// `host:port`.
    pub(crate) address: String,
    /// User and password.
    pub(crate) login: Option<(String, String)>,
}

/// Why an action was not carried out. It is looked at anew and, if it still stands, tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("writing a marker through {address} failed: {why}")]
    Front { address: String, why: String },
    #[error("{0}")]
    Platform(String),
}

/// What only the platform can do.
pub(crate) trait Hands: Sync {
    /// Puts what a member of the region's shard holds out of the way.
    fn set_aside(&self, _shard: u16, _member: usize) -> impl Future<Output = Result<(), ActionError>> + Send {
        async { Err(ActionError::Platform("files cannot be set aside here".into())) }
    }
    /// Keeps that `epoch` was issued to the first member of the region's shard: compare-and-swap.
    fn issue(
        &self,
        shard: usize,
        epoch: u64,
        incarnation: Incarnation,
        seq: u64,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// Begins to compare the region with its source.
    fn verify(&self) -> impl Future<Output = Result<(), ActionError>> + Send;
    /// The region is a member like the others from now on.
    fn finish(&self) -> impl Future<Output = Result<(), ActionError>> + Send;
}

/// Looks at everything that the procedure wants to know.
pub(crate) async fn observe(ground: &Ground, ticket: u64) -> Observed {
    let members = join_all(ground.members.iter().map(|member| look_at_member(ground, member, ticket))).await;
    let shards = (0..ground.shards.len()).map(|shard| look_at_shard(ground, shard, ticket));
    let shards = join_all(shards).await;
    Observed {
        region: ground.region,
        ticket,
        membership: ground.membership,
        missing: ground.missing.clone(),
        members,
        shards,
        wanted_source: ground.wanted_source,
        verification: ground.verification.clone(),
        joined: ground.joined,
    }
}

async fn look_at_member(ground: &Ground, member: &MemberGround, ticket: u64) -> Member {
    let shards = member.shards.iter().enumerate().map(|(shard, of)| async move {
        let engine = of.engine.as_ref()?.engine();
        let Some(Seen::Answers { identity, .. }) = of.seen.get(of.master?) else { return None };
        let key = marker::key(ticket, member.id, ground.slots_of(shard));
        let (marker, cover, info) = tokio::join!(engine.get(&key), engine.cover(), engine.info());
        Some(Master {
            incarnation: Incarnation::parse(&identity.incarnation)?,
            recovered: identity.recovered,
            membership: identity.membership,
            cover: cover.ok()?,
            waiting: identity.waiting.clone(),
            marker: marker.ok()?.and_then(Marker::decode),
            bytes: info.ok()?.get("used_memory_dataset").and_then(|text| text.parse().ok()).unwrap_or(1),
        })
    });
    let behind = member.links.iter().filter(|link| is_broken(&link.state));
    Member {
        id: member.id,
        name: member.name.clone(),
        told: member.told,
        behind: behind.map(|link| format!("cannot read {} ({})", link.peer, link.state)).collect(),
        shards: join_all(shards).await,
    }
}

async fn look_at_shard(ground: &Ground, at: usize, ticket: u64) -> Shard {
    let of = &ground.shards[at];
    let in_the_way = of.in_the_way.clone();
    let nothing = |copy| {
        let (cover, markers, links) = (Cover::default(), Vec::new(), Vec::new());
        Shard { number: of.number, in_the_way: in_the_way.clone(), copy, cover, markers, links }
    };
    if let Some(why) = &of.absent {
        return nothing(Copy::Silent(why.clone()));
    }
    let engine = of.engine.engine();
    let info = engine.info().await;
    let number = |info: &HashMap<String, String>, name: &str| {
        info.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
    };
    let (identity, follows) = match engine.ask().await {
        Ok(Answer::Loading) => {
            let loaded = info.map(|info| number(&info, "loading_loaded_bytes")).unwrap_or_default();
            return nothing(Copy::Loading(loaded));
        }
        Ok(Answer::Identity { identity, follows }) => (identity, follows),
        Err(error) => return nothing(Copy::Silent(format!("does not answer ({error})"))),
    };
    let info = info.unwrap_or_default();
    let received = number(&info, "master_sync_read_bytes").max(number(&info, "loading_loaded_bytes"));
    let saved = number(&info, "aof_enabled") == 1
        && number(&info, "aof_rewrite_in_progress") + number(&info, "aof_rewrite_scheduled") == 0
        && info.get("aof_last_bgrewrite_status").is_some_and(|status| status.trim() == "ok");
    let Ok(cover) = engine.cover().await else {
        return nothing(Copy::Silent("does not tell what it has".into()));
    };
    let keys = ground.members.iter().map(|member| async move {
        let key = marker::key(ticket, member.id, ground.slots_of(at));
        let value = engine.get(&key).await.ok()??;
        Some((member.id, Marker::decode(value)?))
    });
    let markers = join_all(keys).await.into_iter().flatten().collect();
    let links = of.links.iter().map(link).collect();
    Shard {
        number: of.number,
        in_the_way: in_the_way.clone(),
        copy: copy(ground, at, &identity, follows.as_deref(), (received, saved), ticket),
        cover,
        markers,
        links,
    }
}

fn link(link: &LinkStatus) -> Link {
    Link {
        peer: link.peer.clone(),
        connected: link.state == "Connected",
        ran_out: matches!(link.state.as_str(), "Missing" | "Lapsed"),
        lag_effects: link.lag_effects.unwrap_or_default(),
        state: link.state.clone(),
    }
}

fn copy(
    ground: &Ground,
    at: usize,
    identity: &Identity,
    follows: Option<&str>,
    (received, saved): (u64, bool),
    ticket: u64,
) -> Copy {
    if identity.region == 0 {
        return Copy::Blank { received };
    }
    let region = RegionId(identity.region);
    if region == ground.region {
        return Copy::Own {
            // Nothing is left of the attempt once it serves.
            ticket: identity.joining.as_ref().map_or(ticket, |joining| joining.ticket),
            joining: identity.joining.clone(),
            promoted: identity.role == Role::Master && identity.state != EngineState::Fenced,
            serving: identity.state == EngineState::Serving && identity.recovered,
            saved,
        };
    }
    let source = ground.members.iter().find(|member| member.id == region);
    let wanted = source.and_then(|member| member.shards[at].address.as_deref());
    Copy::Foreign {
        region,
        incarnation: Incarnation::parse(&identity.incarnation).unwrap_or(Incarnation::NONE),
        seq: identity.seq,
        epoch: identity.epoch,
        in_sync: identity.role == Role::Replica
            && identity.master_link_up
            && follows.is_some()
            && follows == wanted,
        received,
    }
}

/// Carries out one action.
pub(crate) async fn act<H: Hands>(
    ground: &Ground,
    hands: &H,
    ticket: u64,
    action: &Action,
) -> Result<(), ActionError> {
    match action {
        Action::SetAside { shard, member } => hands.set_aside(ground.shards[*shard].number, *member).await,
        Action::Follow { shard, source } => follow(ground, *shard, *source).await,
        Action::Mark { shard, member } => mark(ground, *shard, *member, ticket).await,
        Action::Join { shard, source, incarnation, seq, epoch } => {
            let number = ground.shards[*shard].number;
            let epoch = ground.shards[*shard].epoch.max(*epoch) + 1;
            // Recorded before it is used.
            hands.issue(usize::from(number), epoch, *incarnation, *seq).await?;
            let join = Join {
                ticket,
                epoch,
                store: &ground.store,
                region: ground.region.0,
                shard: number,
                source: source.0,
                incarnation: *incarnation,
                seq: *seq,
            };
            Ok(ground.shards[*shard].first.engine().join(&join).await?)
        }
        Action::Verify => hands.verify().await,
        Action::Open { shard } => {
            let engine = ground.shards[*shard].engine.engine();
            let Answer::Identity { identity, .. } = engine.ask().await? else { return Ok(()) };
            Ok(engine.joined(&identity.incarnation).await?)
        }
        Action::Finish => {
            remove_markers(ground, ticket).await;
            hands.finish().await
        }
    }
}

async fn follow(ground: &Ground, shard: usize, source: RegionId) -> Result<(), ActionError> {
    let member = ground.members.iter().find(|member| member.id == source);
    let address = member.and_then(|member| member.shards[shard].address.as_deref());
    let Some(address) = address else { return Ok(()) };
    let engine = ground.shards[shard].first.engine();
    // It tries by itself for as long as it was told; telling it again would break off a sync under way.
    if let Answer::Identity { follows: Some(now), .. } = engine.ask().await?
        && now == address
    {
        return Ok(());
    }
    Ok(engine.follow(address).await?)
}

async fn mark(ground: &Ground, shard: usize, member: RegionId, ticket: u64) -> Result<(), ActionError> {
    let Some(of) = ground.members.iter().find(|of| of.id == member) else { return Ok(()) };
    let Some(engine) = of.shards[shard].engine.as_ref() else { return Ok(()) };
    let engine = engine.engine();
    // What it has, and in which life, both before the marker is written.
    let Answer::Identity { identity, .. } = engine.ask().await? else { return Ok(()) };
    let Some(incarnation) = Incarnation::parse(&identity.incarnation) else { return Ok(()) };
    let marker = Marker { incarnation, cover: engine.cover().await? };
    let key = marker::key(ticket, member, ground.slots_of(shard));
    let mut set = cmd("SET");
    set.arg(key).arg(&marker.encode()[..]).arg("EX").arg(marker::EXPIRES_S);
    through(&of.front, &set).await
}

/// A write through a front door.
async fn through(front: &Front, command: &redis::Cmd) -> Result<(), ActionError> {
    let fail = |why: String| ActionError::Front { address: front.address.clone(), why };
    let write = async {
        let login = front.login.as_ref().map(|(user, password)| format!("{user}:{password}@"));
        let client = Client::open(format!("redis://{}{}/", login.unwrap_or_default(), front.address))?;
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        command.query_async::<redis::Value>(&mut connection).await
    };
    match timeout(FRONT, write).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail(format!("no answer within {} s", FRONT.as_secs()))),
    }
}

/// What cannot be removed expires.
async fn remove_markers(ground: &Ground, ticket: u64) {
    for (at, of) in ground.shards.iter().enumerate() {
        for member in &ground.members {
            let delete = cmd("DEL").arg(marker::key(ticket, member.id, ground.slots_of(at))).to_owned();
            if let Err(error) = through(&member.front, &delete).await {
                tracing::debug!(%error, shard = of.number, "a marker stays until it expires");
            }
        }
    }
}

/// One look, and what follows from it: the operation's next state, which has to be kept before the actions are carried out.
pub(crate) async fn step_of(
    steps: &[Step<Observed, Action>],
    ground: &Ground,
    operation: &Operation,
    ticket: u64,
    now_ms: u64,
) -> (Operation, Vec<Action>) {
    let observed = observe(ground, ticket).await;
    let mut next = operation.clone();
    let actions = next.advance(steps, &observed, now_ms);
    (next, actions)
}

/// The names of the steps.
pub(crate) fn names() -> Vec<&'static str> {
    super::names(crds::OperationType::ScaleOut)
}

/// The region and the members, as they are compared: with the masters that they have now.
pub(crate) struct Compared {
    pub(crate) store: String,
    pub(crate) regions: Vec<Region>,
    pub(crate) shards: u16,
    /// This shard alone.
    pub(crate) only: Option<u16>,
    pub(crate) password: String,
    /// Where the masters answer.
    pub(crate) masters: HashMap<(String, u16), String>,
}

impl Place for Compared {
    fn store(&self) -> String {
        self.store.clone()
    }

    fn regions(&self) -> Vec<Region> {
        self.regions.clone()
    }

    fn shards(&self) -> u16 {
        self.shards
    }

    fn compared(&self) -> Range<u16> {
        self.only.map_or(0..self.shards, |only| only..only + 1)
    }

    fn master(&self, region: &str, shard: u16) -> Option<String> {
        self.masters.get(&(region.to_owned(), shard)).cloned()
    }

    fn password(&self) -> String {
        self.password.clone()
    }
}

/// A comparison under way, or how it ended, of one attempt.
#[derive(Clone, Default)]
pub(crate) struct Verifying(Arc<Mutex<Option<(u64, Verification)>>>);

impl Verifying {
    /// How it stands, of this attempt.
    pub(crate) fn of(&self, ticket: u64) -> Verification {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.filter(|(of, _)| *of == ticket).map(|(_, verification)| verification).unwrap_or_default()
    }

    fn set(&self, ticket: u64, to: Verification) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((ticket, to));
    }

    /// Compares; to be spawned.
    pub(crate) async fn compare(self, ticket: u64, place: Compared) {
        self.set(ticket, Verification::Running);
        let report = verify::compare_once(&place, SAMPLE_PERCENT).await;
        self.set(
            ticket,
            match (&report.failed, report.different_keys, report.undecided) {
                (None, 0, 0) => Verification::Equal,
                (None, 1.., _) => Verification::Differs(report.words()),
                // A master moved, or writes were under way all the time: again.
                (Some(_), ..) | (None, 0, _) => Verification::None,
            },
        );
    }
}
