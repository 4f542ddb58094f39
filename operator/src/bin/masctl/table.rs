//! Tables for people, as text. Pure.

use std::fmt::Write;

use operator::view::{Condition, CutStatus, Endpoint, LinkStatus, RegionStatus, StoreStatus};

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// `127 ms`, `3.4 s`, `-` when it is not known.
pub(crate) fn millis(value: Option<u64>) -> String {
    match value {
        None => "-".into(),
        Some(ms) if ms < 10_000 => format!("{ms} ms"),
        Some(ms) => format!("{:.1} s", ms as f64 / 1000.0),
    }
}

/// `12 KiB`, `-` when it is not known.
pub(crate) fn bytes(value: Option<u64>) -> String {
    match value {
        None => "-".into(),
        Some(n) if n < 1 << 10 => format!("{n} B"),
        Some(n) if n < 1 << 20 => format!("{:.1} KiB", n as f64 / f64::from(1 << 10)),
        Some(n) => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
    }
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "-".into(), |n| n.to_string())
}

/// `masctl status`.
pub(crate) fn status(status: &StoreStatus) -> String {
    let mut text = String::new();
    let mut regions =
        vec![row(&["REGION", "PHASE", "SHARDS", "LAG", "BACKLOG", "ACK", "ENDPOINT", "BROKER"])];
    regions.extend(status.regions.iter().map(|region| {
        let serving = region.shards.iter().filter(|shard| shard.state == "serving").count();
        vec![
            region.name.clone(),
            format!("{:?}", region.phase),
            format!("{serving}/{}", region.shards.len()),
            millis(worst_lag(region)),
            bytes(region.links.iter().map(|link| link.backlog_bytes).sum::<Option<u64>>()),
            region.ack.clone().unwrap_or_else(|| "-".into()),
            region.endpoint.clone(),
            format!("{} ({}/{})", region.broker.amqp, region.broker.ready, region.broker.nodes),
        ]
    }));
    text += &table(&regions);
    // Where engines are not asked, the columns of what only they know would be empty.
    let exact = status.regions.iter().flat_map(|region| &region.shards).any(|shard| shard.seq.is_some());
    let columns = if exact { 9 } else { 6 };
    let mut shards =
        vec![row(&["SHARD", "STATE", "MASTER", "EPOCH", "INCARNATION", "REPLICAS", "SEQ", "OUTBOX", "KEYS"])];
    for region in &status.regions {
        shards.extend(region.shards.iter().map(|shard| {
            let recovered =
                if shard.state == "serving" && !shard.recovered { " (not recovered)" } else { "" };
            let elsewhere = shard.evacuated_to.as_ref().map(|peer| format!(" (served by {peer})"));
            vec![
                format!("{}/{}", region.name, shard.shard),
                format!("{}{recovered}{}", shard.state, elsewhere.unwrap_or_default()),
                shard.master.clone().unwrap_or_else(|| "-".into()),
                shard.epoch.to_string(),
                shard.incarnation.clone(),
                if shard.replicas.is_empty() { "-".into() } else { shard.replicas.join(",") },
                number(shard.seq),
                number(shard.outbox_effects),
                number(shard.keys),
            ]
        }));
    }
    for row in &mut shards {
        row.truncate(columns);
    }
    let _ = write!(text, "\n{}", table(&shards));
    if status.regions.iter().any(|region| !region.links.is_empty()) {
        let mut links = vec![row(&["READS", "FROM", "STATE", "LAG", "EFFECTS", "BACKLOG"])];
        for region in &status.regions {
            links.extend(region.links.iter().map(|link| link_row(region, link)));
        }
        let _ = write!(text, "\n{}", table(&links));
    }
    for CutStatus { from, to, one_way } in &status.cuts {
        let what = if *one_way {
            format!("What {from} writes does not reach {to}")
        } else {
            format!("The network between {from} and {to} is cut")
        };
        let _ = write!(text, "\n{what}: `masctl heal {from} {to}` gives it back.\n");
    }
    let (of_object, notes): (Vec<&Condition>, Vec<_>) =
        status.conditions.iter().partition(|condition| condition.kind.is_some());
    if !of_object.is_empty() {
        let mut rows = vec![row(&["CONDITION", "STATUS", "REASON", "MESSAGE"])];
        rows.extend(of_object.into_iter().map(|condition| {
            let cells =
                [condition.kind.as_deref(), condition.status.as_deref()].map(Option::unwrap_or_default);
            row(&[cells[0], cells[1], &condition.reason, &condition.message])
        }));
        let _ = write!(text, "\n{}", table(&rows));
    }
    for note in notes {
        let _ = write!(text, "\n{}", self::note(note));
    }
    text
}

/// `shop NoLiveNumbers: what it means`.
pub(crate) fn note(condition: &Condition) -> String {
    format!("{} {}: {}\n", condition.about, condition.reason, condition.message)
}

fn link_row(region: &RegionStatus, link: &LinkStatus) -> Vec<String> {
    vec![
        region.name.clone(),
        link.peer.clone(),
        link.state.clone(),
        millis(link.lag_millis),
        number(link.lag_effects),
        bytes(link.backlog_bytes),
    ]
}

/// The largest lag of a region behind any peer; nothing if one is not known.
pub(crate) fn worst_lag(region: &RegionStatus) -> Option<u64> {
    region.links.iter().map(|link| link.lag_millis).collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// `masctl endpoints`.
pub(crate) fn endpoints(endpoints: &[Endpoint]) -> String {
    let rows: Vec<_> =
        endpoints.iter().map(|endpoint| vec![endpoint.region.clone(), endpoint.uri()]).collect();
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(&[row(&["A", "LONG", "C"]), row(&["wide", "b", ""])]);
        assert_eq!(text, "A     LONG  C\nwide  b\n");
    }

    #[test]
    fn units_are_for_people() {
        assert_eq!(
            (millis(None), millis(Some(9)), millis(Some(12_340))),
            ("-".into(), "9 ms".into(), "12.3 s".into())
        );
        assert_eq!(
            (bytes(Some(9)), bytes(Some(1536)), bytes(Some(3 << 20))),
            ("9 B".into(), "1.5 KiB".into(), "3.0 MiB".into())
        );
    }
}
