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
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A region joins.
    ScaleOut,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) region: u16,
    /// Grows when somebody tries it again.
    pub(crate) attempt: u64,
    pub(crate) operation: Operation,
}

impl Row {
    /// As a timeline names it.
    pub(crate) fn name(&self) -> String {
        format!("{:?} of region {}", self.work, self.region)
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
        self.begin(Work::ScaleOut, region);
    }

    /// It is a member like the others.
    pub(crate) fn joined(&mut self, region: u16) {
        self.regions.insert(region, Standing::Active);
    }

    /// It is no member any more.
    pub(crate) fn forget(&mut self, region: u16) {
        self.regions.remove(&region);
        self.membership += 1;
        self.generation += 1;
    }

    fn begin(&mut self, work: Work, region: u16) {
        self.operations.push(Row { work, region, attempt: 1, operation: Operation::default() });
    }

    /// Regions that serve.
    pub(crate) fn members(&self) -> Vec<u16> {
        let active = |(_, standing): &(&u16, &Standing)| **standing == Standing::Active;
        self.regions.iter().filter(active).map(|(region, _)| *region).collect()
    }

    /// The operation that is carried out now: they run one after the other.
    pub(crate) fn first(&self) -> Option<(usize, &Row)> {
        self.operations.iter().enumerate().find(|(_, row)| !row.operation.phase.is_final())
    }

    /// What proxies are told.
    pub(crate) fn config(&self) -> Config {
        Config {
            generation: self.generation,
            membership: self.membership,
            regions: self.regions.keys().copied().collect(),
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
}
