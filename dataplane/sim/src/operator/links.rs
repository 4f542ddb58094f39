//! What the proxies of a region say of a link, as the operator sums it up (`operator/src/health/status.rs`).

use mas_core::procedures::scale_out::Link;
use mas_core::replication::health::LinkState;

use crate::proxy::membership::{LinkReport, Report};

fn is_broken(state: Option<LinkState>) -> bool {
    !matches!(state, Some(LinkState::Connected | LinkState::CatchingUp | LinkState::Held))
}

/// A link as a whole; no state: nobody tells of some shard's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summed {
    peer: u16,
    state: Option<LinkState>,
    lag_effects: u64,
}

impl Summed {
    /// The link to `peer` from what all proxies of a region say: the worst of these shards.
    pub(super) fn of(peer: u16, shards: &[u16], reports: &[Report]) -> Self {
        let of_shard = |shard: &u16| {
            let rows = reports.iter().flat_map(|report| &report.links);
            merged(&rows.filter(|row| row.peer == peer && row.shard == *shard).collect::<Vec<_>>())
        };
        let rows: Option<Vec<LinkReport>> = shards.iter().map(of_shard).collect();
        let rows = rows.unwrap_or_default();
        let worst = rows.iter().max_by_key(|row| (is_broken(Some(row.state)), row.lag_ms));
        Self {
            peer,
            state: worst.map(|row| row.state),
            lag_effects: rows.iter().map(|row| row.lag_effects).sum(),
        }
    }

    /// Why the stream cannot be read to its end now.
    pub(super) fn trouble(&self) -> Option<String> {
        is_broken(self.state).then(|| format!("cannot read region {} ({:?})", self.peer, self.state))
    }

    /// As the procedure takes it.
    pub(super) fn link(&self) -> Link {
        Link {
            peer: self.peer.to_string(),
            connected: self.state == Some(LinkState::Connected),
            ran_out: matches!(self.state, Some(LinkState::Missing | LinkState::Lapsed)),
            lag_effects: self.lag_effects,
            state: format!("{:?}", self.state),
        }
    }
}

fn merged(rows: &[&LinkReport]) -> Option<LinkReport> {
    let well = rows.iter().filter(|row| !is_broken(Some(row.state)));
    if let Some(reader) = well.min_by_key(|row| row.lag_ms) {
        return Some(**reader);
    }
    rows.iter().min_by_key(|row| row.state == LinkState::Standby).map(|row| **row)
}
