//! `masctl top`: live rates and lags, from two looks at the store a second apart.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use operator::platform::local::{Client, StoreStatus};
use tokio::time::sleep;

use crate::args::{self, Place};
use crate::failure::Failure;
use crate::inspect::print;
use crate::{locate, table};

const EVERY: Duration = Duration::from_secs(1);

/// Effects issued, by region, shard and incarnation: counts of two incarnations are not compared.
type Counts = HashMap<(String, u16, String), u64>;

/// `masctl top`.
pub(crate) async fn top(place: &Place, args: &args::Top) -> Result<(), Failure> {
    let client = Client::new(&locate::existing(place)?);
    let mut before = (Instant::now(), counts(&client.status().await?));
    let mut round = 0;
    while args.rounds.is_none_or(|rounds| round < rounds) {
        sleep(EVERY).await;
        let status = client.status().await?;
        let now = (Instant::now(), counts(&status));
        let text = render(&status, &before.1, &now.1, now.0 - before.0);
        if std::io::stdout().is_terminal() && args.rounds.is_none() {
            print(&format!("\x1b[H\x1b[J{text}"))?;
        } else {
            print(&format!("{text}\n"))?;
        }
        before = now;
        round += 1;
    }
    Ok(())
}

fn counts(status: &StoreStatus) -> Counts {
    let mut counts = Counts::new();
    for region in &status.regions {
        for shard in &region.shards {
            counts.insert((region.name.clone(), shard.shard, shard.incarnation.clone()), shard.seq);
        }
    }
    counts
}

fn render(status: &StoreStatus, before: &Counts, now: &Counts, elapsed: Duration) -> String {
    let head =
        ["REGION", "PHASE", "WRITES/S", "OUTBOX", "KEYS", "PEER", "STATE", "LAG", "EFFECTS", "BACKLOG"];
    let mut rows = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    for region in &status.regions {
        let issued: u64 = now
            .iter()
            .filter(|(key, _)| key.0 == region.name)
            .map(|(key, count)| count.saturating_sub(before.get(key).copied().unwrap_or(0)))
            .sum();
        let mut row = vec![
            region.name.clone(),
            format!("{:?}", region.phase),
            format!("{:.0}", issued as f64 / elapsed.as_secs_f64()),
            region.shards.iter().map(|shard| shard.outbox_effects).sum::<u64>().to_string(),
            region.shards.iter().map(|shard| shard.keys).sum::<u64>().to_string(),
        ];
        for link in &region.links {
            row.extend([
                link.peer.clone(),
                link.state.clone(),
                table::millis(link.lag_millis),
                link.lag_effects.map_or_else(|| "-".into(), |n| n.to_string()),
                table::bytes(link.backlog_bytes),
            ]);
            rows.push(std::mem::replace(&mut row, vec![String::new(); 5]));
        }
        if region.links.is_empty() {
            rows.push(row);
        }
    }
    table::table(&rows)
}
