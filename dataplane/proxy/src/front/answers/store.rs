//! `MAS.*`: acknowledgement levels, tokens, and who serves here.

use std::time::Duration;

use mas_core::config::AckLevel;

use super::Ask;
use super::connection::extra;
use crate::front::dispatch::Flow;
use crate::front::limits;
use crate::front::replication::Refusal;
use crate::front::session::Slot;
use crate::resp::encode;

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
        let answer = self.state.replication.token(written);
        self.later(async move {
            let mut out = Vec::new();
            match answer.await {
                Ok(token) => encode::bulk(&mut out, token.as_bytes()),
                Err(Refusal(error)) => encode::error(&mut out, &error),
            }
            out
        })
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
