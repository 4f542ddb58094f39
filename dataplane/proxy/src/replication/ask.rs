//! Questions of clients that take a while: tokens, waiting for a token, waiting for regions, draining.

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use mas_core::config::ProxyConfig;
use mas_core::cover::Cover;
use mas_core::replication::heartbeat::Word;
use mas_core::replication::token::{ShardNeed, Token, add_written};
use mas_core::stamp::{Hlc, Origin, RegionId, ShardId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::engine::EngineError;
use super::hub::{Hub, Seat, Shard};
use crate::front::replication::{Refusal, Written};

/// How often an engine is asked for its cover while somebody awaits a token.
const POLL: Duration = Duration::from_millis(5);
/// How long what a failed master had may still turn up in the stream.
const LATE: Duration = Duration::from_secs(2);

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A question.
#[derive(Debug)]
pub(crate) enum Ask {
    /// See [`crate::front::replication::Replication::token`].
    Token { writes: Vec<Written>, elsewhere: Vec<ShardNeed>, reply: Reply<String> },
    /// See [`crate::front::replication::Replication::token_of`].
    TokenOf { shard: ShardId, reply: Reply<String> },
    /// See [`crate::front::replication::Replication::last_known`].
    LastKnown { shard: ShardId, reply: Reply<Cover> },
    /// See [`crate::front::replication::Replication::await_token`].
    AwaitToken { token: Vec<u8>, timeout: Duration, reply: Reply<bool> },
    /// See [`crate::front::replication::Replication::wait_regions`].
    WaitRegions { writes: Vec<Written>, regions: u16, timeout: Duration, reply: Reply<u16> },
    /// See [`crate::front::replication::Replication::drain`].
    Drain { timeout: Duration, reply: Reply<()> },
}

/// Answers questions, side by side, until nobody can ask any more.
pub(crate) async fn run(hub: Rc<Hub>, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        let hub = Rc::clone(&hub);
        tokio::task::spawn_local(async move {
            // Who asked may be gone; then nobody is told.
            match ask {
                Ask::Token { writes, elsewhere, reply } => {
                    drop(reply.send(token(&hub, &writes, elsewhere).await));
                }
                Ask::TokenOf { shard, reply } => drop(reply.send(token_of(&hub, shard).await)),
                Ask::LastKnown { shard, reply } => {
                    let known = hub.shard(shard).map(|shard| shard.word.borrow().cover.clone());
                    drop(reply.send(Ok(known.unwrap_or_default())));
                }
                Ask::AwaitToken { token, timeout, reply } => {
                    drop(reply.send(await_token(&hub, &token, timeout).await));
                }
                Ask::WaitRegions { writes, regions, timeout, reply } => {
                    drop(reply.send(Ok(wait_regions(&hub, &writes, regions, timeout).await)));
                }
                Ask::Drain { timeout, reply } => {
                    drain(&hub, timeout).await;
                    drop(reply.send(Ok(())));
                }
            }
        });
    }
}

async fn word_of(hub: &Hub, shard: &Shard) -> Result<(Seat, Word), Refusal> {
    let refuse = |why: &str| Refusal(format!("ERR shard {} has no master that answers: {why}", shard.id.0));
    let seat = shard.seat().ok_or_else(|| refuse("none is known"))?;
    let word = hub.engines.cover(&seat.address).await.map_err(|e: EngineError| refuse(&e.to_string()))?;
    Ok((seat, word))
}

/// Many may wait for one shard: they share an answer that is at most [`POLL`] old.
async fn recent_word_of(hub: &Hub, shard: &Shard) -> Result<(Seat, Word), Refusal> {
    let mut recent = shard.recent.lock().await;
    if let Some((at, seat, word)) = &*recent
        && at.elapsed() < POLL
    {
        return Ok((seat.clone(), word.clone()));
    }
    let (seat, word) = word_of(hub, shard).await?;
    *recent = Some((Instant::now(), seat.clone(), word.clone()));
    Ok((seat, word))
}

async fn token(hub: &Hub, writes: &[Written], elsewhere: Vec<ShardNeed>) -> Result<String, Refusal> {
    let here = |shard: &&Rc<Shard>| elsewhere.iter().all(|need| need.shard != shard.id);
    let here = hub.shards.iter().filter(here).map(|shard| need_of(hub, shard));
    let here: Result<Vec<ShardNeed>, Refusal> = join_all(here).await.into_iter().collect();
    let mut token = Token { shards: here? };
    token.shards.extend(elsewhere);
    for need in &mut token.shards {
        for written in writes.iter().filter(|w| w.shard == need.shard) {
            add_written(&mut need.cover, written.origin, written.seq);
            need.hlc = need.hlc.max(written.hlc);
            if written.local_only > 0 {
                need.local_only = Some((written.origin, written.local_only));
            }
        }
    }
    token.shards.retain(|need| !need.cover.is_empty() || need.hlc > Hlc::ZERO);
    token.encode(&hub.config().store).map_err(|e| Refusal(format!("ERR {e}")))
}

async fn token_of(hub: &Hub, shard: ShardId) -> Result<String, Refusal> {
    let unknown = || Refusal(format!("ERR there is no shard {}", shard.0));
    let shard = hub.shard(shard).ok_or_else(unknown)?;
    if !shard.seat().is_some_and(|seat| seat.serving) {
        return Err(Refusal(format!("ERR shard {} has no serving master", shard.id.0)));
    }
    let mut need = need_of(hub, shard).await?;
    // Regions tell each other in heartbeats what is sealed; tokens do not.
    need.cover = need.cover.unsealed();
    Token { shards: vec![need] }.encode_exact(&hub.config().store).map_err(|e| Refusal(format!("ERR {e}")))
}

/// All that a shard's master has.
async fn need_of(hub: &Hub, shard: &Shard) -> Result<ShardNeed, Refusal> {
    let (_, word) = word_of(hub, shard).await?;
    Ok(ShardNeed { shard: shard.id, cover: word.cover, hlc: word.clock, local_only: None })
}

async fn await_token(hub: &Hub, text: &[u8], timeout: Duration) -> Result<bool, Refusal> {
    let config = hub.config();
    let token = Token::parse(text, &config.store).map_err(|e| Refusal(format!("ERR {e}")))?;
    check_names(&config, &token)?;
    let deadline = Instant::now() + timeout;
    for need in &token.shards {
        let Some(shard) = hub.shard(need.shard) else { continue };
        if !await_shard(hub, shard, need, deadline).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_names(config: &ProxyConfig, token: &Token) -> Result<(), Refusal> {
    for need in &token.shards {
        if !config.shards.iter().any(|s| s.shard == need.shard.0) {
            let shard = need.shard.0;
            return Err(Refusal(format!(
                "ERR the token names shard {shard}, which this store does not have"
            )));
        }
    }
    Ok(())
}

/// An effect that is not here and cannot come: nobody reads that region's stream. Of a region that has left, all is here.
fn foreign(config: &ProxyConfig, need: &ShardNeed, word: &Word) -> Option<RegionId> {
    let (origin, _) = need.first_missing(&word.cover)?;
    let id = origin.region.0;
    let known = id == config.region.id || config.peers.iter().any(|peer| peer.region.id == id);
    (!known).then_some(origin.region)
}

async fn await_shard(hub: &Hub, shard: &Shard, need: &ShardNeed, deadline: Instant) -> Result<bool, Refusal> {
    let start = Instant::now();
    loop {
        if let Ok((seat, word)) = recent_word_of(hub, shard).await {
            if need.covered_by(&word.cover) {
                return Ok(true);
            }
            if let Some(region) = foreign(&hub.config(), need, &word) {
                let id = region.0;
                return Err(Refusal(format!(
                    "ERR the token names region {id}, which this store does not have"
                )));
            }
            if seat.recovered
                && start.elapsed() >= LATE
                && let Some((origin, seq)) = void(hub.region(), &seat, need, &word)
            {
                let local = need.local_only.is_some_and(|(of, last)| of == origin && seq <= last);
                let level = if local { ", acknowledged at Local only" } else { "" };
                return Err(Refusal(format!(
                    "ERR the token names effect {seq} of incarnation {} of shard {}{level}: it was lost in a failover",
                    origin.incarnation, need.shard.0
                )));
            }
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(false);
        }
        tokio::time::sleep_until((now + POLL).min(deadline)).await;
    }
}

/// An effect that cannot come any more: an ended incarnation of this region numbered it, and the region's own stream
/// was read back without it.
fn void(region: RegionId, seat: &Seat, need: &ShardNeed, word: &Word) -> Option<(Origin, u64)> {
    let (origin, seq) = need.first_missing(&word.cover)?;
    (origin.region == region && origin.incarnation != seat.incarnation).then_some((origin, seq))
}

async fn wait_regions(hub: &Hub, writes: &[Written], regions: u16, timeout: Duration) -> u16 {
    hub.want_beats.send_if_modified(|want| !std::mem::replace(want, true));
    let deadline = Instant::now() + timeout;
    let reached = || {
        let of = |w: &Written| {
            hub.shard(w.shard).map_or(0, |shard| shard.acks.borrow().regions_with(w.origin, w.seq))
        };
        writes.iter().map(of).min().unwrap_or(hub.config.borrow().peers.len() as u16)
    };
    loop {
        let have = reached();
        if have >= regions || Instant::now() >= deadline {
            return have;
        }
        let mut moved = FuturesUnordered::new();
        for shard in writes.iter().filter_map(|w| hub.shard(w.shard)) {
            moved.push(shard.peers_moved.notified());
        }
        let until = deadline.min(Instant::now() + LATE);
        tokio::select! {
            Some(()) = moved.next() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn drain(hub: &Hub, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    let busy = || hub.shards.iter().any(|s| !s.batcher.borrow().is_idle() || s.batcher.borrow().has_trims());
    hub.pump.notify_one();
    // The pump takes the inbox before it waits again.
    tokio::time::sleep(POLL).await;
    while busy() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
}
