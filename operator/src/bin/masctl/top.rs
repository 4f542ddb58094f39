//! `masctl top`: live rates and lags, from two looks at the store and its proxies' metrics a second apart.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use operator::platform::kubernetes::NO_LIVE_NUMBERS;
use operator::view::{LinkStatus, RegionStatus, StoreStatus};
use tokio::time::sleep;

use crate::args::{self, Place};
use crate::failure::Failure;
use crate::inspect::print;
use crate::place::Where;
use crate::table;

const EVERY: Duration = Duration::from_secs(1);

/// Which life of which proxy: its name, its process and how often it was started again.
type Proxy = (String, Option<u32>, u32);

/// What is counted. Counts of two incarnations, or of two lives of a proxy, are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counter {
    /// Requests that a proxy has answered.
    Requests { proxy: Proxy },
    /// Effects of peers that a proxy has merged.
    Merged { proxy: Proxy },
    /// Effects that a proxy has published: the region's writes, where engines are not asked.
    Published { proxy: Proxy },
    /// Effects that a shard has issued.
    Writes { region: String, shard: u16, incarnation: String },
}

impl Counter {
    fn is_of(&self, region: &str) -> bool {
        match self {
            Self::Requests { proxy } | Self::Merged { proxy } | Self::Published { proxy } => {
                proxy.0.split('/').next() == Some(region)
            }
            Self::Writes { region: own, .. } => own == region,
        }
    }
}

type Counts = HashMap<Counter, u64>;

/// `masctl top`.
pub(crate) async fn top(place: &Place, args: &args::Top) -> Result<(), Failure> {
    let store = Where::find(place).await?;
    let mut before = (Instant::now(), count(&store, &store.status().await?).await);
    let mut round = 0;
    while args.rounds.is_none_or(|rounds| round < rounds) {
        sleep(EVERY).await;
        let status = store.status().await?;
        let now = (Instant::now(), count(&store, &status).await);
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

async fn count(store: &Where, status: &StoreStatus) -> Counts {
    let mut counts = Counts::new();
    for region in &status.regions {
        for shard in &region.shards {
            let (region, incarnation) = (region.name.clone(), shard.incarnation.clone());
            let counter = Counter::Writes { region, shard: shard.shard, incarnation };
            counts.extend(shard.seq.map(|seq| (counter, seq)));
        }
    }
    for (row, text) in store.metrics(status).await {
        let proxy = (row.component.clone(), row.pid, row.restarts);
        counts.extend([
            (Counter::Merged { proxy: proxy.clone() }, sum_of(&text, "merged_effects_total")),
            (Counter::Published { proxy: proxy.clone() }, sum_of(&text, "published_effects_total")),
            (Counter::Requests { proxy }, sum_of(&text, "commands_total")),
        ]);
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

/// How much what `which` selects has grown, per second; `-` where nothing is counted.
fn rate(before: &Counts, now: &Counts, elapsed: Duration, which: impl Fn(&Counter) -> bool) -> String {
    let counted = now.iter().filter(|(counter, _)| which(counter));
    let grown = |(counter, count): (&Counter, &u64)| {
        count.saturating_sub(before.get(counter).copied().unwrap_or(*count))
    };
    let Some(grown) = counted.map(grown).reduce(|a, b| a + b) else { return "-".into() };
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
    let exact = now.keys().any(|counter| matches!(counter, Counter::Writes { .. }));
    let is_write = |counter: &Counter| match counter {
        Counter::Writes { .. } => exact,
        Counter::Published { .. } => !exact,
        Counter::Requests { .. } | Counter::Merged { .. } => false,
    };
    for region in &status.regions {
        let of_region = |counter: &Counter| counter.is_of(&region.name);
        let sum = |part: fn(&operator::view::ShardStatus) -> Option<u64>| {
            let sum = region.shards.iter().map(part).sum::<Option<u64>>();
            sum.map_or_else(|| "-".to_owned(), |sum| sum.to_string())
        };
        let row = vec![
            region.name.clone(),
            format!("{:?}", region.phase),
            rate(before, now, elapsed, |c| of_region(c) && matches!(c, Counter::Requests { .. })),
            rate(before, now, elapsed, |c| of_region(c) && is_write(c)),
            rate(before, now, elapsed, |c| of_region(c) && matches!(c, Counter::Merged { .. })),
            sum(|shard| shard.outbox_effects),
            sum(|shard| shard.keys),
        ];
        rows.extend(with_links(row, region));
    }
    let notes =
        status.conditions.iter().filter(|condition| condition.reason == NO_LIVE_NUMBERS).map(table::note);
    table::table(&rows) + &notes.collect::<String>()
}

/// One line a peer; what is the region's own stands on the first.
fn with_links(mut row: Vec<String>, region: &RegionStatus) -> Vec<Vec<String>> {
    let own = row.len();
    if region.links.is_empty() {
        return vec![row];
    }
    let line = |link: &LinkStatus| {
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
        let counter = |pid| Counter::Requests { proxy: ("a/proxy-0".into(), Some(pid), 0) };
        let (before, now) =
            (Counts::from([(counter(1), 10)]), Counts::from([(counter(1), 30), (counter(2), 500)]));
        assert_eq!(rate(&before, &now, Duration::from_secs(2), |c| c.is_of("a")), "10");
        assert_eq!(rate(&before, &now, Duration::from_secs(2), |c| c.is_of("b")), "-");
    }
}
