//! How long the procedures take, on real servers on this machine: failover, planned handover, a region that joins a store full of data,
//! a shard that is rebuilt, verification and what it costs. Prints tables; judges nothing. (`make timings`)

mod full;
mod masters;
mod probe;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Measures the procedures with real servers on this machine; nothing is judged
#[derive(Debug, Parser)]
#[command(name = "timings")]
struct Args {
    /// What is measured, one after the other
    #[arg(long, value_delimiter = ',', default_value = "failover,handover,full")]
    what: Vec<What>,
    /// How many failovers, and how many handovers
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// How much the store holds for which regions join and shards are rebuilt, MiB
    #[arg(long, default_value_t = 1024)]
    megabytes: u64,
}

/// One part of it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// A master is killed, again and again
    Failover,
    /// A master hands over, again and again
    Handover,
    /// A region joins a store full of data, a shard of it is rebuilt, regions are compared
    Full,
}

fn main() -> Result<()> {
    let args = Args::parse();
    for what in &args.what {
        match what {
            What::Failover => masters::failover(args.rounds)?,
            What::Handover => masters::handover(args.rounds)?,
            What::Full => full::run(args.megabytes)?,
        }
    }
    Ok(())
}
