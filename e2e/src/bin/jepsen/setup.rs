//! Starts the store of a run: real servers, with clocks that can be set and some small disks.

use std::ffi::OsString;

use anyhow::Result;
use e2e::{Keep, Store, manifest};

use crate::faults::clock::Clocks;
use crate::faults::disk::{self, Disk};

const REGIONS: [&str; 3] = ["east", "west", "north"];
const PROXIES: usize = 2;
const REPLICAS: usize = 1;
/// A broker takes nothing any more below its limit of free space, 128 MiB, which keeps it from a disk that is really full: on
/// one, RabbitMQ 3.10 loses the record of its stream's home, and does not find it again.
const BROKER_DISK: u64 = 288;
const BROKER_FREE: u64 = 32 << 20;
const ENGINE_DISK: u64 = 96;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) regions: usize,
    pub(crate) shards: usize,
    pub(crate) brokers: usize,
}

/// A store that runs.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) regions: Vec<String>,
    pub(crate) clocks: Clocks,
    pub(crate) disks: Vec<Disk>,
    /// Faults that are not possible here, and why.
    pub(crate) left_out: Vec<String>,
}

/// Starts a store. `onBrokerLoss: Reject`, so that an answer at `Queued` always means that.
pub(crate) fn start(size: Size) -> Result<Running> {
    let regions = &REGIONS[..size.regions];
    let spec = format!(
        "  shards: {}\n  redis: {{replicas: {REPLICAS}, maxMemory: 128Mi}}\n  broker: {{replicas: {}}}\n  \
         proxy: {{replicas: {PROXIES}}}\n  replication: {{onBrokerLoss: Reject}}",
        size.shards, size.brokers
    );
    let mut components = Vec::new();
    for region in regions {
        components.extend((0..PROXIES).map(|number| format!("{region}/proxy-{number}")));
        for shard in 0..size.shards {
            components.extend((0..=REPLICAS).map(|number| format!("{region}/shard-{shard}/redis-{number}")));
        }
    }
    let folder = Store::new_folder()?;
    let (clocks, variables): (Clocks, Vec<(String, OsString)>) = Clocks::prepare(folder.path(), &components)?;
    let state = Store::state_in(folder.path());
    let mut left_out = Vec::new();
    let mut disks = Vec::new();
    let small = [
        (format!("{}/shard-0/redis-0", regions[0]), "", ENGINE_DISK, 0),
        (format!("{}/broker-0", regions[1]), "data", BROKER_DISK, BROKER_FREE),
    ];
    for (component, inside, mebibytes, free) in small {
        match disk::mount(&component, &state.join(&component).join(inside), mebibytes, free) {
            Ok(disk) => disks.push(disk),
            Err(error) => left_out.push(format!("full disk of {component}: {error:#}")),
        }
    }
    let store = Store::start_in(folder, &manifest("jepsen", regions, &spec), Keep::OnPanic, variables)?;
    let regions = regions.iter().map(ToString::to_string).collect();
    Ok(Running { store, regions, clocks, disks, left_out })
}

impl Running {
    /// Ends it. `keep`: files and logs stay, and their place is printed.
    pub(crate) fn finish(mut self, keep: bool) -> Result<()> {
        self.store.set_keep(if keep { Keep::Everything } else { Keep::Nothing });
        self.store.down()?;
        self.disks.iter().try_for_each(|disk| disk.unmount(keep))?;
        self.store.finish()
    }
}
