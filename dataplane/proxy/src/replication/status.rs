//! What other threads see: the links' states and the lines of `INFO multiactive`, refreshed a few times a second.

use std::rc::Rc;
use std::time::Duration;

use mas_core::replication::health::LinkState;

use super::hub::{Hub, wall_ms};
use super::metrics::{OfLink, OfState};
use crate::front::replication::LinkStatus;

const REFRESH: Duration = Duration::from_millis(200);

/// Refreshes until the thread ends.
pub(crate) async fn run(hub: Rc<Hub>) {
    loop {
        let links = links(&hub);
        let info = info(&hub);
        *hub.published.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = links;
        *hub.published.info.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = info;
        tokio::time::sleep(REFRESH).await;
    }
}

fn links(hub: &Hub) -> Vec<LinkStatus> {
    let own = hub.region();
    let now_ms = wall_ms();
    let mut rows = Vec::new();
    for shard in &hub.shards {
        for (region, row) in shard.links.borrow_mut().iter_mut().filter(|(region, _)| **region != own) {
            let (state, since) = row.health.state(row.link, now_ms);
            let status = LinkStatus {
                peer: row.name.clone(),
                shard: shard.id.0,
                state: state.as_str().to_owned(),
                lag_millis: row.health.lag_ms(now_ms),
                lag_effects: row.health.lag_effects(),
                backlog_bytes: row.backlog_bytes,
                since,
                issued: row.health.issued().map(|(of, last)| (of.to_string(), last)).collect(),
                behind_millis: row.health.behind_ms(),
            };
            let of = OfLink { peer: row.name.clone(), shard: shard.id.0 };
            let metrics = &hub.metrics;
            if row.shown != Some(state.as_str()) {
                let of = |state| OfState { peer: row.name.clone(), shard: shard.id.0, state };
                row.shown.map(|last| metrics.link_state.remove(&of(last)));
                metrics.link_state.get_or_create(&of(state.as_str())).set(1);
                row.shown = Some(state.as_str());
            }
            // Who stands by has heard nothing since it read the stream itself: the one that reads it knows.
            let lag_ms = if state == LinkState::Standby { 0 } else { status.lag_millis };
            metrics.lag_ms.get_or_create(&of).set(lag_ms as i64);
            metrics.lag_effects.get_or_create(&of).set(status.lag_effects as i64);
            metrics.missing.get_or_create(&of).set(row.health.missing() as i64);
            let _ = region;
            rows.push(status);
        }
    }
    rows
}

fn info(hub: &Hub) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let degraded = hub.published.is_degraded();
    lines.push(("broker".to_owned(), if degraded { "away" } else { "connected" }.to_owned()));
    for shard in &hub.shards {
        let n = shard.id.0;
        let batcher = shard.batcher.borrow();
        let state = match &*shard.seat.borrow() {
            Some(seat) if seat.recovered => "serving",
            Some(seat) if seat.serving => "degraded",
            Some(_) => "recovering",
            None => "no-master",
        };
        lines.push((format!("shard{n}_replication"), state.to_owned()));
        lines.push((format!("shard{n}_unconfirmed_bytes"), batcher.kept_bytes().to_string()));
        lines.push((
            format!("shard{n}_reads_own_stream"),
            u8::from(shard.duties.borrow().contains(&hub.region())).to_string(),
        ));
    }
    lines
}
