//! The state of shards, links and regions, from what engines and proxies say. Pure.

use crds::RegionPhase;
use serde::{Deserialize, Serialize};

use super::proxy::{LinkReport, ProxyReport};
use crate::procedures::handover::Outcome;
use crate::procedures::identity::EngineState;
use crate::procedures::shard::Seen;

/// One shard of a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// Its master, `host:port`; in a cluster its pod.
    pub master: Option<String>,
    /// The master's epoch.
    pub epoch: u64,
    /// The master's incarnation.
    pub incarnation: String,
    /// Its replicas that are in sync, likewise; `?` for one whose name is not known.
    pub replicas: Vec<String>,
    /// `fenced`, `recovering`, `serving`, or `none` without a master; `unknown` where nobody says.
    pub state: String,
    /// The region's own stream was read back.
    pub recovered: bool,
    /// The region that serves it meanwhile, for it has no serving master.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evacuated_to: Option<String>,
    /// Number of the last effect issued in this incarnation. This and what follows is known on this machine alone, where engines
    /// are asked.
    pub seq: Option<u64>,
    /// Effects that the broker has not confirmed.
    pub outbox_effects: Option<u64>,
    /// Keys.
    pub keys: Option<u64>,
    /// The last planned handover since the store was started, likewise.
    #[serde(default)]
    pub handover: Option<HandoverStatus>,
}

/// A planned handover that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoverStatus {
    /// Who was master, as [`ShardStatus::master`].
    pub from: Option<String>,
    /// Who is.
    pub to: Option<String>,
    /// How long its clients were held up.
    pub pause_millis: u64,
}

pub(crate) fn build_handover(outcome: &Outcome, addresses: &[String]) -> Option<HandoverStatus> {
    match *outcome {
        Outcome::Done { from, to, pause_ms } => Some(HandoverStatus {
            from: addresses.get(from).cloned(),
            to: addresses.get(to).cloned(),
            pause_millis: pause_ms,
        }),
        Outcome::Abandoned { .. } => None,
    }
}

/// One peer's streams, the worst of all shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// The peer.
    pub peer: String,
    /// As the proxies say; `Unknown` while none says anything.
    pub state: String,
    /// How old the newest thing is that is missing.
    pub lag_millis: Option<u64>,
    /// How many effects are missing.
    pub lag_effects: Option<u64>,
    /// How many bytes that is.
    pub backlog_bytes: Option<u64>,
    /// Since when it is in this state.
    pub since: Option<serde_json::Value>,
}

/// Link states under which something does not flow, whatever the lag says. `Standby` alone means that nobody reads.
const BROKEN: [&str; 7] = ["Disconnected", "Silent", "Lapsed", "Missing", "ClockSkew", "Standby", "Unknown"];

pub(crate) fn is_broken(state: &str) -> bool {
    BROKEN.contains(&state)
}

/// A shard from what was seen of it. `addresses`: of all members, in order; `reports`: of the region's proxies.
pub(crate) fn build_shard(
    shard: u16,
    seen: &[Seen],
    master: Option<usize>,
    addresses: &[String],
    reports: &[ProxyReport],
) -> ShardStatus {
    let identity = master.and_then(|m| match seen.get(m) {
        Some(Seen::Answers { identity, .. }) => Some(identity),
        Some(Seen::Absent | Seen::Paused | Seen::Silent | Seen::Loading) | None => None,
    });
    let in_sync = |member: &Seen| {
        matches!(member, Seen::Answers { identity, follows, .. }
            if master.is_some() && *follows == master && identity.master_link_up)
    };
    ShardStatus {
        shard,
        master: master.filter(|_| identity.is_some()).and_then(|m| addresses.get(m).cloned()),
        epoch: identity.map_or(0, |id| id.epoch),
        incarnation: identity.map_or_else(String::new, |id| id.incarnation.clone()),
        replicas: seen.iter().zip(addresses).filter(|(s, _)| in_sync(s)).map(|(_, a)| a.clone()).collect(),
        state: match identity.map(|id| id.state) {
            Some(EngineState::Fenced) => "fenced",
            Some(EngineState::Recovering) => "recovering",
            Some(EngineState::Serving) => "serving",
            None => "none",
        }
        .to_owned(),
        recovered: identity.is_some_and(|id| id.recovered),
        evacuated_to: evacuated_to(shard, reports),
        seq: Some(identity.map_or(0, |id| id.seq)),
        outbox_effects: Some(identity.map_or(0, |id| id.outbox_effects)),
        keys: Some(identity.map_or(0, |id| id.keys)),
        handover: None,
    }
}

/// The region that some proxy sends a shard's requests to.
pub(crate) fn evacuated_to(shard: u16, reports: &[ProxyReport]) -> Option<String> {
    let mut of_shard = reports.iter().flat_map(|report| &report.shards).filter(|told| told.shard == shard);
    of_shard.find_map(|told| told.evacuated_to.clone())
}

/// What the proxies of a region say together about one peer's stream of one shard. The one that reads counts. When
/// none does, the largest lag counts: a proxy that has not heard from the peer yet knows of none.
fn merge_reports(rows: &[&LinkReport]) -> Option<LinkReport> {
    if let Some(reader) = rows.iter().filter(|row| !is_broken(&row.state)).min_by_key(|row| row.lag_millis) {
        return Some((*reader).clone());
    }
    let worst = rows.iter().min_by_key(|row| row.state == "Standby")?;
    Some(LinkReport {
        lag_millis: rows.iter().filter_map(|row| row.lag_millis).max(),
        lag_effects: rows.iter().filter_map(|row| row.lag_effects).max(),
        backlog_bytes: rows.iter().filter_map(|row| row.backlog_bytes).max(),
        ..(*worst).clone()
    })
}

/// The link to `peer` from what all proxies of the region say: the worst of all shards.
pub(crate) fn build_link(peer: &str, shards: u16, reports: &[ProxyReport]) -> LinkStatus {
    build_link_of(peer, 0..shards, reports)
}

/// The same of these shards.
pub(crate) fn build_link_of(
    peer: &str,
    shards: impl Iterator<Item = u16>,
    reports: &[ProxyReport],
) -> LinkStatus {
    let of_shard = |shard: u16| {
        let rows = reports.iter().flat_map(|report| &report.links);
        let rows: Vec<_> =
            rows.filter(|row| row.peer == peer && row.shard.is_none_or(|s| s == shard)).collect();
        merge_reports(&rows)
    };
    let rows: Option<Vec<LinkReport>> = shards.map(of_shard).collect();
    let rows = rows.unwrap_or_default();
    let worst =
        rows.iter().max_by_key(|row| (is_broken(&row.state), row.lag_millis.is_none(), row.lag_millis));
    let sum = |part: fn(&LinkReport) -> Option<u64>| {
        rows.iter().map(part).sum::<Option<u64>>().filter(|_| worst.is_some())
    };
    LinkStatus {
        peer: peer.to_owned(),
        state: worst.map_or_else(|| "Unknown".to_owned(), |row| row.state.clone()),
        lag_millis: worst.and_then(|row| row.lag_millis),
        lag_effects: sum(|row| row.lag_effects),
        backlog_bytes: sum(|row| row.backlog_bytes),
        since: worst.map(|row| row.since.clone()).filter(|since| !since.is_null()),
    }
}

/// What decides a region's phase.
pub(crate) struct PhaseInput<'a> {
    pub(crate) shards: &'a [ShardStatus],
    pub(crate) links: &'a [LinkStatus],
    pub(crate) any_engine_answers: bool,
    pub(crate) any_proxy_ready: bool,
    pub(crate) was_active: bool,
    /// The manifest says that others serve its clients; whether they do.
    pub(crate) drained: Option<bool>,
    pub(crate) max_lag_ms: u64,
}

/// Whether every proxy that is ready sends the requests of every shard to another region.
pub(crate) fn is_away(shards: u16, reports: &[ProxyReport]) -> bool {
    let mut ready = reports.iter().filter(|report| report.ready).peekable();
    let of = |report: &ProxyReport| report.shards.iter().filter(|s| s.evacuated_to.is_some()).count();
    ready.peek().is_some() && ready.all(|report| of(report) >= usize::from(shards))
}

pub(crate) fn build_phase(input: &PhaseInput<'_>) -> RegionPhase {
    let shards_well = input.shards.iter().all(|s| s.master.is_some() && s.state == "serving" && s.recovered);
    let links_well = input
        .links
        .iter()
        .all(|link| !is_broken(&link.state) && link.lag_millis.is_some_and(|lag| lag <= input.max_lag_ms));
    if let Some(drained) = input.drained
        && input.any_proxy_ready
    {
        if drained { RegionPhase::Drained } else { RegionPhase::Draining }
    } else if input.shards.iter().any(|shard| shard.evacuated_to.is_some()) {
        RegionPhase::Evacuated
    } else if !input.any_engine_answers && input.was_active {
        RegionPhase::Unknown
    } else if input.links.iter().any(|link| link.state == "Lapsed") {
        RegionPhase::Lapsed
    } else if shards_well && links_well && input.any_proxy_ready {
        RegionPhase::Active
    } else if input.was_active {
        RegionPhase::CatchingUp
    } else {
        RegionPhase::Provisioning
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::proxy::ShardReport;

    fn shard(state: &str, recovered: bool) -> ShardStatus {
        let master = Some("127.0.0.1:1".to_owned());
        ShardStatus { state: state.into(), recovered, master, ..build_shard(0, &[], None, &[], &[]) }
    }

    fn row(peer: &str, shard: u16, state: &str, lag: Option<u64>) -> LinkReport {
        LinkReport {
            peer: peer.into(),
            shard: Some(shard),
            state: state.into(),
            lag_millis: lag,
            lag_effects: lag,
            ..LinkReport::default()
        }
    }

    fn report(links: Vec<LinkReport>) -> ProxyReport {
        ProxyReport { ready: true, links, ..ProxyReport::default() }
    }

    #[test]
    fn the_reader_counts_and_the_worst_shard_shows() {
        let reports = [
            report(vec![row("b", 0, "Connected", Some(5)), row("b", 1, "Standby", Some(0))]),
            report(vec![row("b", 0, "Standby", None), row("b", 1, "Connected", Some(40))]),
        ];
        let link = build_link("b", 2, &reports);
        assert_eq!(
            (link.state.as_str(), link.lag_millis, link.lag_effects),
            ("Connected", Some(40), Some(45))
        );
        assert_eq!(build_link("b", 3, &reports).state, "Unknown", "one shard is not read by anybody");
        assert_eq!(build_link("c", 2, &reports).lag_millis, None);
        let unread = [report(vec![row("b", 0, "Standby", Some(0))])];
        assert_eq!(build_link("b", 1, &unread).state, "Standby");
        let both = [
            report(vec![row("b", 0, "Disconnected", Some(0))]),
            report(vec![row("b", 0, "Standby", Some(7000))]),
        ];
        let link = build_link("b", 1, &both);
        assert_eq!((link.state.as_str(), link.lag_millis), ("Disconnected", Some(7000)));
        let cut = [report(vec![row("b", 0, "Disconnected", Some(9)), row("b", 1, "Connected", Some(90))])];
        assert_eq!(build_link("b", 2, &cut).state, "Disconnected");
    }

    #[test]
    fn phases() {
        let well = [shard("serving", true)];
        let link = |state: &str, lag| [build_link("b", 1, &[report(vec![row("b", 0, state, lag)])])];
        let phase = |shards: &[ShardStatus], links: &[LinkStatus], answers, was_active| {
            let any_proxy_ready = true;
            build_phase(&PhaseInput {
                shards,
                links,
                any_engine_answers: answers,
                any_proxy_ready,
                was_active,
                drained: None,
                max_lag_ms: 1000,
            })
        };
        assert_eq!(phase(&well, &link("Connected", Some(3)), true, false), RegionPhase::Active);
        assert_eq!(phase(&well, &[], true, false), RegionPhase::Active, "a region alone has no links");
        assert_eq!(phase(&well, &link("Connected", Some(3000)), true, true), RegionPhase::CatchingUp);
        assert_eq!(phase(&well, &link("Disconnected", Some(3)), true, true), RegionPhase::CatchingUp);
        assert_eq!(phase(&[shard("serving", false)], &[], true, true), RegionPhase::CatchingUp);
        assert_eq!(phase(&[shard("recovering", false)], &[], true, false), RegionPhase::Provisioning);
        assert_eq!(phase(&well, &[], false, true), RegionPhase::Unknown);
        assert_eq!(phase(&well, &link("Lapsed", Some(3)), true, true), RegionPhase::Lapsed);
        let told = ShardReport { evacuated_to: Some("b".into()), ..ShardReport::default() };
        let reports = [report(vec![]), ProxyReport { shards: vec![told], ..report(vec![]) }];
        let away = build_shard(0, &[], None, &[], &reports);
        assert_eq!(away.evacuated_to.as_deref(), Some("b"));
        assert_eq!(phase(&[away], &link("Standby", None), false, true), RegionPhase::Evacuated);
        assert_eq!(build_shard(1, &[], None, &[], &reports).evacuated_to, None);
    }

    #[test]
    fn a_region_is_drained_once_every_proxy_sends_every_shard_elsewhere() {
        let of = |ready, away: &[bool]| ProxyReport {
            ready,
            shards: (away.iter())
                .map(|away| ShardReport { evacuated_to: away.then(|| "b".into()), ..ShardReport::default() })
                .collect(),
            ..ProxyReport::default()
        };
        assert!(is_away(2, &[of(true, &[true, true]), of(false, &[])]));
        assert!(!is_away(2, &[of(true, &[true, true]), of(true, &[true, false])]));
        assert!(!is_away(2, &[of(false, &[])]), "nothing is known");
        let phase = |drained| {
            build_phase(&PhaseInput {
                shards: &[shard("serving", true)],
                links: &[],
                any_engine_answers: true,
                any_proxy_ready: true,
                was_active: true,
                drained: Some(drained),
                max_lag_ms: 1000,
            })
        };
        assert_eq!((phase(false), phase(true)), (RegionPhase::Draining, RegionPhase::Drained));
    }
}
