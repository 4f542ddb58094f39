//! `MAS.*`: acknowledgement levels, tokens, and who serves here.

use std::time::Duration;

use mas_core::config::AckLevel;
use mas_core::replication::token::ShardNeed;
use mas_core::stamp::ShardId;
use tokio::sync::oneshot;

use super::Ask;
use super::connection::extra;
use crate::front::dispatch::Flow;
use crate::front::forwarded::{Mark, WORDS};
use crate::front::limits;
use crate::front::replication::Refusal;
use crate::front::session::Slot;
use crate::resp::encode;
use crate::resp::request::{Request, Span};

const GONE: &str = "the connection to it broke; try again";

impl Ask<'_, '_> {
    /// `MAS.ACK [LOCAL | QUEUED | REMOTE n | DEFAULT]`: the level of this connection's writes from here on.
    pub(super) fn ack(&mut self) -> Flow {
        // A write under way takes the level that holds when its reply comes.
        if !self.all_answered() {
            return Flow::AfterAnswers;
        }
        if self.count() == 1 {
            let (level, regions) = self.state.level_of(self.key);
            let effective = self.state.replication.effective(level);
            return self.write(|out| {
                encode::array(out, 3);
                encode::bulk(out, name_of(level).as_bytes());
                encode::integer(out, if level == AckLevel::Remote { i64::from(regions) } else { 0 });
                encode::bulk(out, name_of(effective).as_bytes());
            });
        }
        let level = self.arg(1).to_ascii_uppercase();
        let chosen = match (&level[..], self.count()) {
            (b"DEFAULT", 2) => None,
            (b"LOCAL", 2) => Some((AckLevel::Local, 0)),
            (b"QUEUED", 2) => Some((AckLevel::Queued, 0)),
            (b"REMOTE", 2 | 3) => {
                let peers = self.state.settings.config.peers.len() as u64;
                let regions = if self.count() == 3 { super::number(self.arg(2)) } else { Some(1) };
                match regions.filter(|n| (1..=peers).contains(n)) {
                    Some(regions) => Some((AckLevel::Remote, regions as u16)),
                    None => {
                        return self.error(&format!(
                            "ERR MAS.ACK REMOTE takes a number from 1 to {peers}, the other regions"
                        ));
                    }
                }
            }
            _ => return self.error("ERR MAS.ACK takes LOCAL, QUEUED, REMOTE n, or DEFAULT"),
        };
        if let Some(client) = self.client() {
            extra(client).level = chosen;
        }
        self.ok()
    }

    /// `MAS.REGION`: name and id of the region, the proxy, the store.
    pub(super) fn region(&mut self) -> Flow {
        let resp3 = self.resp3();
        let config = self.state.settings.config.clone();
        self.write(|out| {
            encode::map(out, resp3, 4);
            for (field, value) in
                [("region", &config.region.name), ("store", &config.store), ("proxy", &config.proxy)]
            {
                encode::bulk(out, field.as_bytes());
                encode::bulk(out, value.as_bytes());
            }
            encode::bulk(out, b"id");
            encode::integer(out, i64::from(config.region.id));
        })
    }

    /// `MAS.TOKEN`: what this connection has written and seen.
    pub(super) fn token(&mut self) -> Flow {
        if !self.all_answered() {
            return Flow::AfterAnswers;
        }
        let written = self.client().map(|client| client.written.clone()).unwrap_or_default();
        let elsewhere = self.ask_elsewhere();
        let replication = self.state.replication.clone();
        self.later(async move {
            let asked = futures_util::future::join_all(elsewhere).await;
            // A region that is left just now does not answer: who asks again asks the right one.
            let needs: Result<Vec<_>, _> =
                asked.into_iter().map(|need| need.map_err(|_| GONE.to_owned())?).collect();
            let answer = match needs {
                Ok(needs) => replication.token(written, needs).await,
                Err(error) => {
                    Err(Refusal(format!("ERR the region that serves the shard now has no token: {error}")))
                }
            };
            token_reply(answer)
        })
    }

    /// Asks the regions that serve shards of this one now what they have.
    fn ask_elsewhere(&mut self) -> Vec<oneshot::Receiver<Result<ShardNeed, String>>> {
        let mut answers = Vec::new();
        // One of a shard's two connections is enough.
        for both in self.state.upstreams.chunks_mut(2) {
            if let Some(upstream) = both.iter_mut().find(|upstream| upstream.detour.is_some())
                && let Some(detour) = &mut upstream.detour
            {
                let (asking, answer) = oneshot::channel();
                detour.want_token(asking);
                upstream.wake();
                answers.push(answer);
            }
        }
        answers
    }

    /// `MAS.FORWARD shard level command …`: a request that a proxy of another region sends here, where its own has no master.
    pub(super) fn forward(&mut self) -> Flow {
        let shard = super::number(self.arg(1)).and_then(|n| u16::try_from(n).ok()).map(ShardId);
        let shard = shard.filter(|shard| shard.0 < self.state.settings.shards());
        let (Some(shard), Some(mark)) = (shard, Mark::parse(self.arg(2))) else {
            return self.error("ERR MAS.FORWARD takes a shard, a level, and a command");
        };
        let Some(client) = self.client() else { return Flow::End };
        if !client.session.is_numbered() {
            if !client.session.is_idle() {
                return Flow::AfterAnswers;
            }
            client.session.number_replies();
        }
        if self.count() == WORDS + 1 && self.arg(WORDS).eq_ignore_ascii_case(b"MAS.TOKEN") {
            let answer = self.state.replication.token_of(shard);
            return self.later(async move { token_reply(answer.await) });
        }
        // The client's own request: a head of its own before its words.
        let words = &self.request.words[WORDS..];
        let start = self.request.words[WORDS - 1].1 + 2;
        let mut frame = Vec::with_capacity(self.request.frame.len());
        encode::array(&mut frame, words.len());
        let head = frame.len() as u32;
        frame.extend_from_slice(&self.request.frame[start as usize..]);
        let words: Vec<Span> = words.iter().map(|(a, b)| (a - start + head, b - start + head)).collect();
        let now = self.state.now();
        self.state.forwarded(self.key, shard, mark, Request { frame: &frame, words: &words }, now)
    }

    /// `MAS.AWAIT token timeout-ms`: waits until this region covers the token; an error if it does not in time.
    pub(super) fn await_token(&mut self) -> Flow {
        let Some(timeout) = timeout(self.arg(2)) else { return self.bad_timeout() };
        if !self.all_answered() {
            return Flow::AfterAnswers;
        }
        let answer = self.state.replication.await_token(self.arg(1).to_vec(), timeout);
        self.later(async move {
            let mut out = Vec::new();
            match tokio::time::timeout(timeout + Duration::from_secs(1), answer).await {
                Ok(Ok(true)) => encode::simple(&mut out, "OK"),
                Ok(Err(Refusal(error))) => encode::error(&mut out, &error),
                Ok(Ok(false)) | Err(_) => {
                    encode::error(&mut out, "MASTIMEOUT this region does not cover the token yet");
                }
            }
            out
        })
    }

    /// `MAS.WAIT n timeout-ms`: how many other regions cover this connection's writes, after waiting for n of them.
    pub(super) fn wait_regions(&mut self) -> Flow {
        let Some(timeout) = timeout(self.arg(2)) else { return self.bad_timeout() };
        let Some(regions) = super::number(self.arg(1)).and_then(|n| u16::try_from(n).ok()) else {
            return self.error("ERR MAS.WAIT takes the number of other regions to wait for");
        };
        if !self.all_answered() {
            return Flow::AfterAnswers;
        }
        let written = self.client().map(|client| client.written.clone()).unwrap_or_default();
        let answer = self.state.replication.wait_regions(written, regions, timeout);
        self.later(async move {
            let mut out = Vec::new();
            match tokio::time::timeout(timeout + Duration::from_secs(1), answer).await {
                Ok(Ok(reached)) => encode::integer(&mut out, i64::from(reached)),
                Ok(Err(Refusal(error))) => encode::error(&mut out, &error),
                Err(_) => encode::integer(&mut out, 0),
            }
            out
        })
    }

    fn bad_timeout(&mut self) -> Flow {
        self.error("ERR timeout is not an integer of milliseconds, or longer than an hour")
    }

    /// Owes the reply until `answer` is there; requests behind it go on.
    fn later(&mut self, answer: impl Future<Output = Vec<u8>> + 'static) -> Flow {
        let key = self.key;
        let Some(client) = self.client() else { return Flow::End };
        let seq = client.session.open(Slot::Waiting);
        let cell = self.state.cell.clone();
        tokio::task::spawn_local(async move {
            let reply = answer.await;
            if let Some(cell) = cell.upgrade() {
                let mut state = cell.borrow_mut();
                if let Some(client) = state.clients.get_for_reply(key) {
                    client.session.answer(seq, &reply, &mut client.out);
                    state.touched(key);
                }
                state.flush_dirty();
            }
        });
        Flow::Next
    }
}

fn token_reply(answer: Result<String, Refusal>) -> Vec<u8> {
    let mut out = Vec::new();
    match answer {
        Ok(token) => encode::bulk(&mut out, token.as_bytes()),
        Err(Refusal(error)) => encode::error(&mut out, &error),
    }
    out
}

fn timeout(text: &[u8]) -> Option<Duration> {
    super::number(text).map(Duration::from_millis).filter(|timeout| *timeout <= limits::CLIENT_TIMEOUT_MAX)
}

fn name_of(level: AckLevel) -> &'static str {
    match level {
        AckLevel::Local => "LOCAL",
        AckLevel::Queued => "QUEUED",
        AckLevel::Remote => "REMOTE",
    }
}
