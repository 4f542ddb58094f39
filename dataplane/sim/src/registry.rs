//! What the operator has persisted of the store: its regions, the epoch of the membership, operations. It outlives every process. And
//! the configuration that proxies are given of it.

use std::collections::{BTreeMap, BTreeSet};

use mas_core::procedures::operation::Operation;

/// How far a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is announced, and serves nobody yet.
    Joining,
    /// A member like the others.
    Active,
    /// A member whose clients are sent elsewhere.
    Leaving,
    /// The others have all that it has, and its servers are not started again.
    Settled,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A region joins.
    ScaleOut,
    /// A shard of which no copy is left is made again.
    Rebuild,
    /// A region leaves.
    Remove,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) region: u16,
    /// The shard that is rebuilt, and the highest epoch under which there was a copy.
    pub(crate) lost: Option<(u16, u64)>,
    /// What the loss has cost is measured: nothing is left to do.
    pub(crate) measured: bool,
    /// Grows when somebody tries it again.
    pub(crate) attempt: u64,
    pub(crate) operation: Operation,
}

impl Row {
    /// As a timeline names it.
    pub(crate) fn name(&self) -> String {
        let shard = self.lost.map(|(shard, _)| format!(" shard {shard}")).unwrap_or_default();
        format!("{:?} of region {}{shard}", self.work, self.region)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    pub(crate) regions: BTreeMap<u16, Standing>,
    pub(crate) membership: u64,
    /// Grows with every change that proxies are told of.
    pub(crate) generation: u64,
    pub(crate) operations: Vec<Row>,
}

impl Registry {
    /// The store is founded by these regions.
    pub(crate) fn founded(founders: impl Iterator<Item = u16>) -> Self {
        let regions = founders.map(|region| (region, Standing::Active)).collect();
        Self { regions, membership: 1, generation: 1, operations: Vec::new() }
    }

    /// Another region is to join.
    pub(crate) fn add(&mut self, region: u16) {
        self.regions.insert(region, Standing::Joining);
        self.membership += 1;
        self.generation += 1;
        self.begin(Work::ScaleOut, region, None);
    }

    /// It is a member like the others.
    pub(crate) fn joined(&mut self, region: u16) {
        self.regions.insert(region, Standing::Active);
    }

    /// A region is to leave.
    pub(crate) fn leave(&mut self, region: u16) {
        self.regions.insert(region, Standing::Leaving);
        self.generation += 1;
        self.begin(Work::Remove, region, None);
    }

    /// The others have all that it has, and it does not run any more.
    pub(crate) fn settle(&mut self, region: u16) {
        self.regions.insert(region, Standing::Settled);
    }

    /// Regions that leave and may run.
    pub(crate) fn leaving(&self) -> Vec<u16> {
        let leaves = |(_, standing): &(&u16, &Standing)| **standing == Standing::Leaving;
        self.regions.iter().filter(leaves).map(|(region, _)| *region).collect()
    }

    /// It is no member any more.
    pub(crate) fn forget(&mut self, region: u16) {
        self.regions.remove(&region);
        self.membership += 1;
        self.generation += 1;
    }

    /// Begins to rebuild a shard, once for each time that it is lost.
    pub(crate) fn rebuild(&mut self, region: u16, shard: u16, epoch: u64) -> bool {
        let lost = Some((shard, epoch));
        let known = |row: &Row| row.work == Work::Rebuild && row.region == region && row.lost == lost;
        let fresh = !self.operations.iter().any(known) && !self.is_rebuilt(region, shard);
        if fresh {
            self.begin(Work::Rebuild, region, lost);
        }
        fresh
    }

    /// Whether it is being rebuilt.
    pub(crate) fn is_rebuilt(&self, region: u16, shard: u16) -> bool {
        let of = |row: &Row| row.region == region && row.lost.is_some_and(|(lost, _)| lost == shard);
        self.operations.iter().any(|row| of(row) && !row.operation.phase.is_final())
    }

    fn begin(&mut self, work: Work, region: u16, lost: Option<(u16, u64)>) {
        let operation = Operation::default();
        self.operations.push(Row { work, region, lost, measured: false, attempt: 1, operation });
    }

    /// Regions that serve.
    pub(crate) fn members(&self) -> Vec<u16> {
        let serves = |(_, standing): &(&u16, &Standing)| **standing != Standing::Joining;
        self.regions.iter().filter(serves).map(|(region, _)| *region).collect()
    }

    /// The operation that is carried out now: they run one after the other. Rebuilds come first: a region that joins needs all others.
    pub(crate) fn first(&self) -> Option<(usize, &Row)> {
        let left = self.operations.iter().enumerate().filter(|(_, row)| !row.operation.phase.is_final());
        left.min_by_key(|(at, row)| (row.work != Work::Rebuild, *at))
    }

    /// What proxies are told.
    pub(crate) fn config(&self) -> Config {
        Config {
            generation: self.generation,
            membership: self.membership,
            regions: self.regions.keys().copied().collect(),
            drained: self.leaving().into_iter().collect(),
        }
    }
}

/// A proxy's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) generation: u64,
    pub(crate) membership: u64,
    /// All regions of the store.
    pub(crate) regions: BTreeSet<u16>,
    /// Those whose clients are sent elsewhere.
    pub(crate) drained: BTreeSet<u16>,
}
