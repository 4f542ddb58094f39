//! `masctl top`: live rates and lags, from two looks at the store and its proxies' metrics a second apart.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use operator::platform::local::{Client, RegionStatus, StoreStatus, fetch_metrics};
use tokio::time::sleep;

use crate::args::{self, Place};
use crate::failure::Failure;
use crate::inspect::print;
use crate::{locate, table};

const EVERY: Duration = Duration::from_secs(1);

/// What is counted. Counts of two incarnations, or of two lives of a proxy, are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counter {
    /// Requests that a proxy has answered.
    Requests { proxy: String, pid: Option<u32> },
    /// Effects of peers that a proxy has merged.
    Merged { proxy: String, pid: Option<u32> },
    /// Effects that a shard has issued.
    Writes { region: String, shard: u16, incarnation: String },
}

impl Counter {
    fn is_of(&self, region: &str) -> bool {
        match self {
            Self::Requests { proxy, .. } | Self::Merged { proxy, .. } => {
                proxy.split('/').next() == Some(region)
            }
            Self::Writes { region: own, .. } => own == region,
        }
    }
}

type Counts = HashMap<Counter, u64>;

/// `masctl top`.
pub(crate) async fn top(place: &Place, args: &args::Top) -> Result<(), Failure> {
    let client = Client::new(&locate::existing(place)?);
    let mut before = (Instant::now(), count(&client.status().await?).await);
    let mut round = 0;
    while args.rounds.is_none_or(|rounds| round < rounds) {
        sleep(EVERY).await;
        let status = client.status().await?;
        let now = (Instant::now(), count(&status).await);
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

async fn count(status: &StoreStatus) -> Counts {
    let mut counts = Counts::new();
    for region in &status.regions {
        for shard in &region.shards {
            let (region, incarnation) = (region.name.clone(), shard.incarnation.clone());
            counts.insert(Counter::Writes { region, shard: shard.shard, incarnation }, shard.seq);
        }
    }
    let proxies = status.processes.iter().filter(|row| row.component.contains("/proxy-"));
    let metrics = join_all(
        proxies.map(async |row| Some((row, fetch_metrics(&format!("127.0.0.1:{}", row.port?)).await?))),
    )
    .await;
    for (row, text) in metrics.into_iter().flatten() {
        let (proxy, pid) = (row.component.clone(), row.pid);
        counts.insert(Counter::Merged { proxy: proxy.clone(), pid }, sum_of(&text, "merged_effects_total"));
        counts.insert(Counter::Requests { proxy, pid }, sum_of(&text, "commands_total"));
    }
    counts
}

/// The sum over all labels of the counter whose name ends with `name`.
fn sum_of(metrics: &str, name: &str) -> u64 {
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let found = sample.split('{').next()?.ends_with(name);
            found.then(|| value.parse::<f64>().ok())?
        })
        .sum::<f64>() as u64
}

/// How much what `which` selects has grown, per second.
fn rate(before: &Counts, now: &Counts, elapsed: Duration, which: impl Fn(&Counter) -> bool) -> String {
    let grown: u64 = now
        .iter()
        .filter(|(counter, _)| which(counter))
        .map(|(counter, count)| count.saturating_sub(before.get(counter).copied().unwrap_or(*count)))
        .sum();
    format!("{:.0}", grown as f64 / elapsed.as_secs_f64().max(0.001))
}

fn render(status: &StoreStatus, before: &Counts, now: &Counts, elapsed: Duration) -> String {
    let head = [
        "REGION",
        "PHASE",
        "REQUESTS/S",
        "WRITES/S",
        "MERGED/S",
        "OUTBOX",
        "KEYS",
        "PEER",
        "STATE",
        "LAG",
        "EFFECTS",
        "BACKLOG",
    ];
    let mut rows = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    for region in &status.regions {
        let of_region = |counter: &Counter| counter.is_of(&region.name);
        let row = vec![
            region.name.clone(),
            format!("{:?}", region.phase),
            rate(before, now, elapsed, |c| of_region(c) && matches!(c, Counter::Requests { .. })),
            rate(before, now, elapsed, |c| of_region(c) && matches!(c, Counter::Writes { .. })),
            rate(before, now, elapsed, |c| of_region(c) && matches!(c, Counter::Merged { .. })),
            region.shards.iter().map(|shard| shard.outbox_effects).sum::<u64>().to_string(),
            region.shards.iter().map(|shard| shard.keys).sum::<u64>().to_string(),
        ];
        rows.extend(with_links(row, region));
    }
    table::table(&rows)
}

/// One line a peer; what is the region's own stands on the first.
fn with_links(mut row: Vec<String>, region: &RegionStatus) -> Vec<Vec<String>> {
    let own = row.len();
    if region.links.is_empty() {
        return vec![row];
    }
    let line = |link: &operator::platform::local::LinkStatus| {
        let mut line = std::mem::replace(&mut row, vec![String::new(); own]);
        line.extend([
            link.peer.clone(),
            link.state.clone(),
            table::millis(link.lag_millis),
            link.lag_effects.map_or_else(|| "-".into(), |n| n.to_string()),
            table::bytes(link.backlog_bytes),
        ]);
        line
    };
    region.links.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_their_labels() {
        let text = "# TYPE mas_proxy_commands counter\nmas_proxy_commands_total{command=\"get\",outcome=\"ok\"} 3\n\
                    mas_proxy_commands_total{command=\"set\",outcome=\"ok\"} 4\nother_total 9\n";
        assert_eq!((sum_of(text, "commands_total"), sum_of(text, "none")), (7, 0));
    }

    #[test]
    fn a_counter_that_is_new_does_not_jump() {
        let counter = |pid| Counter::Requests { proxy: "a/proxy-0".into(), pid: Some(pid) };
        let (before, now) =
            (Counts::from([(counter(1), 10)]), Counts::from([(counter(1), 30), (counter(2), 500)]));
        assert_eq!(rate(&before, &now, Duration::from_secs(2), |c| c.is_of("a")), "10");
        assert_eq!(rate(&before, &now, Duration::from_secs(2), |c| c.is_of("b")), "0");
    }
}
