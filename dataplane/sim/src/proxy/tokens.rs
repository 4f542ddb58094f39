//! `MAS.TOKEN` and `MAS.AWAIT`.

use std::rc::Rc;

use mas_core::replication::token::{ShardNeed, Token, add_written};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};

use super::{Proxy, REPLY_LIMIT, Shard};
use crate::engine::STORE;
use crate::executor::{MS, SEC, Time};

/// How often an engine is asked while somebody awaits a token.
const POLL: Time = 20 * MS;
/// How long what a failed master had may still turn up in the stream.
const LATE: Time = 2 * SEC;

/// What a connection has written to a shard in one incarnation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrote {
    pub(crate) shard: u16,
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
    pub(crate) hlc: Hlc,
    pub(crate) local_only: u64,
}

impl Proxy {
    /// A token of what the connection has written and what this region has, and by which incarnations it is told.
    pub(crate) async fn token(&self, wrote: &[Wrote]) -> Option<(String, Vec<(u16, Incarnation)>)> {
        let mut told = Vec::new();
        let mut token = Token::default();
        for shard in &self.shards {
            let seat = shard.seat()?;
            let word = self.ask(shard.id, seat.member, REPLY_LIMIT, |e| e.word()).await.ok()?;
            told.push((shard.id, word.incarnation));
            let mut need =
                ShardNeed { shard: ShardId(shard.id), cover: word.cover, hlc: word.clock, local_only: None };
            for written in wrote.iter().filter(|w| w.shard == shard.id) {
                let origin = Origin { region: RegionId(self.region), incarnation: written.incarnation };
                add_written(&mut need.cover, origin, written.seq);
                need.hlc = need.hlc.max(written.hlc);
                if written.local_only > 0 {
                    need.local_only = Some((origin, written.local_only));
                }
            }
            if !need.cover.is_empty() || need.hlc > Hlc::ZERO {
                token.shards.push(need);
            }
        }
        Some((token.encode(STORE).ok()?, told))
    }

    /// Waits until this region covers the token. By shard, the incarnation that does; `None`: not in time, or never.
    pub(crate) async fn await_token(&self, text: &str, timeout: Time) -> Option<Vec<(u16, Incarnation)>> {
        let token = Token::parse(text.as_bytes(), STORE);
        let Ok(token) = token else {
            self.world.judge.violate("session", format!("a token cannot be read: {token:?}"));
            return None;
        };
        let deadline = self.world.sim.now() + timeout;
        let mut covered = Vec::new();
        for need in &token.shards {
            let shard = self.shards.get(usize::from(need.shard.0))?;
            covered.push((need.shard.0, self.await_shard(shard, need, deadline).await?));
        }
        Some(covered)
    }

    async fn await_shard(&self, shard: &Rc<Shard>, need: &ShardNeed, deadline: Time) -> Option<Incarnation> {
        let sim = &self.world.sim;
        let start = sim.now();
        loop {
            if let Some(seat) = shard.seat()
                && let Ok(word) = self.ask(shard.id, seat.member, REPLY_LIMIT, |e| e.word()).await
            {
                if need.covered_by(&word.cover) {
                    return Some(word.incarnation);
                }
                let lost = need.first_missing(&word.cover).is_some_and(|(origin, _)| {
                    origin.region == RegionId(self.region) && origin.incarnation != seat.incarnation
                });
                if seat.recovered && sim.now() >= start + LATE && lost {
                    return None;
                }
            }
            if sim.now() >= deadline {
                return None;
            }
            sim.sleep(POLL).await;
        }
    }
}
