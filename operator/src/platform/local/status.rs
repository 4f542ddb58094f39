//! The state of a local store as people and programs read it. Built from observations by pure functions.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::process::ProcessPhase;
pub use crate::health::status::{LinkStatus, ShardStatus};
pub use crds::RegionPhase;

/// `masctl status -o json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// The store's name.
    pub store: String,
    /// Its regions.
    pub regions: Vec<RegionStatus>,
    /// Where the network is cut.
    pub cuts: Vec<CutStatus>,
    /// What a person should know.
    pub conditions: Vec<Condition>,
    /// The child processes.
    pub processes: Vec<ProcessRow>,
}

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutStatus {
    /// One region; with `oneWay` the one whose writes do not arrive.
    pub from: String,
    /// The other.
    pub to: String,
    /// The other way is open.
    pub one_way: bool,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub phase: RegionPhase,
    /// Where clients connect, `host:port`.
    pub endpoint: String,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// Its broker.
    pub broker: BrokerStatus,
    /// Acknowledgement level in effect, if a proxy says.
    pub ack: Option<String>,
    /// The streams of its peers.
    pub links: Vec<LinkStatus>,
}

/// A region's broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Where it takes AMQP, `host:port`.
    pub amqp: String,
    /// Its management page, `host:port`.
    pub management: String,
    /// Nodes that take connections.
    pub ready: usize,
    /// All nodes.
    pub nodes: usize,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about: a shard, a component or the store.
    pub about: String,
    /// PascalCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// One child process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// Its name, as `masctl fault` takes it.
    pub component: String,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
    /// How it is.
    pub phase: ProcessPhase,
    /// It is stopped by a person.
    pub paused: bool,
    /// It answers as it should.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_exit: Option<String>,
    /// Its port (Redis: data, broker: AMQP, proxy: admin).
    pub port: Option<u16>,
    /// Its folder.
    pub folder: String,
}

impl StoreStatus {
    /// Every region is active.
    pub fn is_active(&self) -> bool {
        self.regions.iter().all(|region| region.phase == RegionPhase::Active)
    }
}

/// The cuts, each once, from the ways (reader, writer) that are closed.
pub(super) fn build_cuts<'a>(closed: impl Iterator<Item = &'a (String, String)>) -> Vec<CutStatus> {
    let closed: BTreeSet<&(String, String)> = closed.collect();
    let cut = |(reader, writer): &&(String, String)| {
        let one_way = !closed.contains(&(writer.clone(), reader.clone()));
        let shown = one_way || writer < reader;
        shown.then(|| CutStatus { from: writer.clone(), to: reader.clone(), one_way })
    };
    closed.iter().filter_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_of_both_ways_is_shown_once() {
        let way = |reader: &str, writer: &str| (reader.to_owned(), writer.to_owned());
        let cut = |from: &str, to: &str, one_way| CutStatus { from: from.into(), to: to.into(), one_way };
        let closed = [way("b", "a"), way("a", "b"), way("a", "c")];
        assert_eq!(build_cuts(closed.iter()), [cut("c", "a", true), cut("a", "b", false)]);
    }
}
