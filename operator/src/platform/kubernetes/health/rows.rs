//! A region's row: what is measured, in a form that changes only when something has. Pure.

use std::time::Duration;

use crds::{LinkState, RegionPhase, ShardState, StoreRegionStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::health::status::{LinkStatus, PhaseInput, ShardStatus, build_phase, is_broken};

/// What is measured is written at most so often.
const MEASURED_EVERY: Duration = Duration::from_secs(10);
/// A sentence that has changed and nothing else is written at most so often: who is waited for may change with each look.
const SAID_EVERY: Duration = Duration::from_secs(3);
/// What got better is written after this time only: a number at the border of two buckets must not be written for ever.
const BETTER_AFTER: Duration = Duration::from_secs(30);
/// Upper ends of the buckets of times, milliseconds.
const LAGS: [u64; 13] =
    [100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 86_400_000];

/// Reason of the event that somebody is master.
pub(crate) const PROMOTED: &str = "Promoted";

/// What is known of a region now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) shards: Vec<ShardMeasured>,
    pub(crate) links: Vec<LinkStatus>,
    pub(crate) any_engine_answers: bool,
    /// Its requests are to go to another region; whether they do.
    pub(crate) drained: Option<bool>,
    /// While it joins: what its operation does, also in words.
    pub(crate) joining: Option<(RegionPhase, Option<String>)>,
    /// The same while it leaves.
    pub(crate) removing: Option<(RegionPhase, Option<String>)>,
    pub(crate) ready_proxies: usize,
    pub(crate) proxies: u16,
    pub(crate) ready_brokers: usize,
    pub(crate) brokers: u16,
    pub(crate) ack: Option<String>,
    pub(crate) max_lag_ms: u64,
    /// What the whole store waits for.
    pub(crate) store_waits: Option<String>,
    pub(crate) endpoint: String,
    pub(crate) generation: Option<i64>,
}

/// One shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardMeasured {
    pub(crate) status: ShardStatus,
    /// What is waited for, by reason.
    pub(crate) notices: Vec<(&'static str, String)>,
}

/// The row as it should be after `last`.
pub(crate) fn build(measured: &Measured, last: &StoreRegionStatus, now: Timestamp) -> StoreRegionStatus {
    let was_active = match last.phase {
        RegionPhase::Provisioning
        | RegionPhase::Syncing
        | RegionPhase::Replaying
        | RegionPhase::Verifying => false,
        RegionPhase::Active
        | RegionPhase::CatchingUp
        | RegionPhase::Evacuated
        | RegionPhase::Draining
        | RegionPhase::Drained
        | RegionPhase::Removing
        | RegionPhase::Lapsed
        | RegionPhase::Unknown => true,
    };
    let statuses: Vec<ShardStatus> = measured.shards.iter().map(|shard| shard.status.clone()).collect();
    let phase = build_phase(&PhaseInput {
        shards: &statuses,
        links: &measured.links,
        any_engine_answers: measured.any_engine_answers,
        any_proxy_ready: measured.ready_proxies > 0,
        was_active,
        drained: measured.drained,
        max_lag_ms: measured.max_lag_ms,
    });
    let operation = measured.joining.as_ref().or(measured.removing.as_ref());
    let phase = operation.map_or(phase, |(phase, _)| *phase);
    let serving = statuses.iter().filter(|shard| serves(shard)).count();
    let links: Vec<LinkState> = measured.links.iter().map(link).collect();
    let why = match operation {
        Some((_, words)) => words.clone(),
        None => (phase != RegionPhase::Active).then(|| why(measured, phase)).flatten(),
    };
    let reachable = match (measured.any_engine_answers, was_active) {
        (true, _) => ("True", "Answers", "engines answer".to_owned()),
        (false, true) => (
            "Unknown",
            "NothingAnswers",
            "no engine answers; nothing is done about it: unreachable is not gone".to_owned(),
        ),
        (false, false) => ("False", "Starting", "no engine answers yet".to_owned()),
    };
    let all = statuses.len();
    let is_serving = (
        if serving == all { "True" } else { "False" },
        if serving == all { "AllShards" } else { "ShardsWait" },
        format!("{serving} of {all} shards serve"),
    );
    let conditions = [("Reachable", reachable), ("Serving", is_serving)];
    let lags: Option<Vec<u64>> = links.iter().map(|link| link.lag_millis).collect();
    StoreRegionStatus {
        observed_generation: measured.generation,
        phase,
        why,
        // That of one that joins is not published.
        endpoint: measured.joining.is_none().then(|| measured.endpoint.clone()),
        shards_serving: Some(format!("{serving}/{all}")),
        lag: lags.and_then(|lags| lags.into_iter().max()).map(words),
        backlog: links
            .iter()
            .map(|link| link.backlog_bytes)
            .sum::<Option<u64>>()
            .filter(|_| !links.is_empty())
            .map(|bytes| crds::Quantity::bytes(bytes).to_string()),
        ack: measured.ack.clone(),
        proxies: Some(format!("{}/{}", measured.ready_proxies, measured.proxies)),
        brokers: Some(format!("{}/{}", measured.ready_brokers, measured.brokers)),
        shards: measured.shards.iter().map(|of| shard(of, last)).collect(),
        links,
        conditions: conditions
            .into_iter()
            .map(|(kind, (status, reason, message))| {
                let known = last.conditions.iter().find(|c| c.type_ == kind && c.status == status);
                Condition {
                    type_: kind.to_owned(),
                    status: status.to_owned(),
                    reason: reason.to_owned(),
                    message,
                    observed_generation: measured.generation,
                    last_transition_time: known.map_or(Time(now), |c| c.last_transition_time.clone()),
                }
            })
            .collect(),
    }
}

fn serves(shard: &ShardStatus) -> bool {
    shard.master.is_some() && shard.state == "serving"
}

/// What is not well, worst first, in a sentence.
fn why(measured: &Measured, phase: RegionPhase) -> Option<String> {
    if phase == RegionPhase::Unknown {
        return Some("nothing of it answers; nothing is done about it: unreachable is not gone".to_owned());
    }
    let elsewhere = |of: &ShardMeasured| {
        let peer = of.status.evacuated_to.as_ref()?;
        let why = of.notices.first().filter(|_| of.status.master.is_none());
        let why = why.map(|(_, words)| format!(": {words}")).unwrap_or_default();
        Some(format!("shard {} is served by {peer}{why}", of.status.shard))
    };
    let shard = |of: &ShardMeasured| {
        let (_, words) = of.notices.first().filter(|_| of.status.master.is_none())?;
        Some(format!("shard {}: {words}", of.status.shard))
    };
    let recovers = |of: &ShardMeasured| {
        let reading = of.status.state == "recovering" || !of.status.recovered;
        (of.status.master.is_some() && reading)
            .then(|| format!("shard {} reads its own stream back", of.status.shard))
    };
    let brokers = || {
        let (ready, all) = (measured.ready_brokers, usize::from(measured.brokers));
        (ready < all).then(|| format!("{ready} of {all} broker nodes are ready"))
    };
    let proxies = || (measured.ready_proxies == 0).then(|| "no proxy is ready".to_owned());
    let link = |of: &LinkStatus| {
        let lag =
            of.lag_millis.map_or_else(|| "not measured yet".to_owned(), |lag| words(bucket(lag, &LAGS)));
        let behind = of.lag_millis.is_none_or(|lag| lag > measured.max_lag_ms);
        if is_broken(&of.state) {
            Some(format!("{} is {}", of.peer, of.state))
        } else {
            behind.then(|| format!("behind {}: {lag}", of.peer))
        }
    };
    (measured.store_waits.clone())
        .or_else(|| measured.shards.iter().find_map(elsewhere))
        .or_else(|| measured.shards.iter().find_map(shard))
        .or_else(proxies)
        .or_else(|| measured.shards.iter().find_map(recovers))
        .or_else(|| measured.links.iter().find_map(link))
        .or_else(brokers)
}

fn shard(of: &ShardMeasured, last: &StoreRegionStatus) -> ShardState {
    let status = &of.status;
    let known = last.shards.iter().find(|known| known.shard == status.shard).cloned().unwrap_or_default();
    let waits = of.notices.first();
    ShardState {
        shard: status.shard,
        master_pod: status.master.clone(),
        incarnation: status.master.as_ref().map(|_| status.incarnation.clone()),
        replicas_in_sync: u16::try_from(status.replicas.len()).unwrap_or(u16::MAX),
        why: waits.map(|(reason, words)| format!("{reason}: {words}")),
        ..known
    }
}

fn link(of: &LinkStatus) -> LinkState {
    let since = of.since.as_ref().and_then(serde_json::Value::as_i64).filter(|ms| *ms > 0);
    LinkState {
        peer: of.peer.clone(),
        state: of.state.clone(),
        lag_millis: of.lag_millis.map(|lag| bucket(lag, &LAGS)),
        lag_effects: of.lag_effects.map(next_power),
        backlog_bytes: of.backlog_bytes.map(|bytes| next_power(bytes.div_ceil(1 << 20)) << 20),
        since: since.and_then(|ms| Timestamp::from_millisecond(ms / 1000 * 1000).ok()).map(Time),
    }
}

/// The upper end of its bucket.
fn bucket(value: u64, ends: &[u64]) -> u64 {
    ends.iter().copied().find(|end| value <= *end).unwrap_or(value)
}

/// 0, 10, 100, 1000 ...
fn next_power(value: u64) -> u64 {
    let mut end = 10;
    while end < value && end < 1 << 40 {
        end *= 10;
    }
    if value == 0 { 0 } else { end }
}

/// `120ms`, `5s`, `2m`.
pub(crate) fn words(ms: u64) -> String {
    crds::Span::millis(ms).to_string()
}

/// Whether `next` is to be written: what happened at once, what is measured now and then.
pub(crate) fn is_due(last: &StoreRegionStatus, next: &StoreRegionStatus, since: Duration) -> bool {
    if facts(last) != facts(next) {
        return true;
    }
    if said(last) != said(next) && since >= SAID_EVERY {
        return true;
    }
    let worse = last.links.iter().zip(&next.links).any(|(last, next)| {
        next.lag_millis > last.lag_millis
            || next.lag_effects > last.lag_effects
            || next.backlog_bytes > last.backlog_bytes
    });
    last != next && since >= if worse { MEASURED_EVERY } else { BETTER_AFTER }
}

/// Sentences, for people.
fn said(status: &StoreRegionStatus) -> Vec<Option<&String>> {
    let shards = status.shards.iter().map(|shard| shard.why.as_ref());
    let conditions = status.conditions.iter().map(|condition| Some(&condition.message));
    [status.why.as_ref()].into_iter().chain(shards).chain(conditions).collect()
}

/// Everything but what is measured or said.
fn facts(status: &StoreRegionStatus) -> StoreRegionStatus {
    let mut facts = StoreRegionStatus { lag: None, backlog: None, why: None, ..status.clone() };
    facts.shards.iter_mut().for_each(|shard| shard.why = None);
    facts.conditions.iter_mut().for_each(|condition| condition.message.clear());
    for link in &mut facts.links {
        (link.lag_millis, link.lag_effects, link.backlog_bytes) = (None, None, None);
    }
    facts
}

/// What a person may want to be told of: whether it is bad, a reason, a sentence.
pub(crate) fn events(
    region: &str,
    last: &StoreRegionStatus,
    next: &StoreRegionStatus,
) -> Vec<(bool, &'static str, String)> {
    let mut events = Vec::new();
    for shard in &next.shards {
        let known = last.shards.iter().find(|known| known.shard == shard.shard);
        let Some(incarnation) = &shard.incarnation else { continue };
        if known.and_then(|known| known.incarnation.as_ref()) != Some(incarnation) {
            let pod = shard.master_pod.as_deref().unwrap_or("?");
            let words = format!(
                "{region}, shard {}: {pod} is master under epoch {} (incarnation {incarnation})",
                shard.shard, shard.epoch
            );
            events.push((false, PROMOTED, words));
        }
    }
    for link in &next.links {
        let before =
            last.links.iter().find(|known| known.peer == link.peer).map_or("Unknown", |known| &known.state);
        if is_broken(&link.state) && !is_broken(before) {
            events.push((
                true,
                "LinkBroken",
                format!("{region}: the link from {} is {}", link.peer, link.state),
            ));
        } else if !is_broken(&link.state) && is_broken(before) && before != "Unknown" {
            events.push((
                false,
                "LinkHealed",
                format!("{region}: the link from {} is {}", link.peer, link.state),
            ));
        }
    }
    if last.phase != next.phase {
        let why = next.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let (bad, reason) = match next.phase {
            RegionPhase::Active => (false, "RegionActive"),
            RegionPhase::Provisioning => (false, "RegionProvisioning"),
            RegionPhase::Syncing => (false, "RegionSyncing"),
            RegionPhase::Replaying => (false, "RegionReplaying"),
            RegionPhase::Verifying => (false, "RegionVerifying"),
            RegionPhase::CatchingUp => (true, "RegionCatchingUp"),
            RegionPhase::Evacuated => (true, "RegionEvacuated"),
            RegionPhase::Draining => (false, "RegionDraining"),
            RegionPhase::Drained => (false, "RegionDrained"),
            RegionPhase::Removing => (false, "RegionRemoving"),
            RegionPhase::Lapsed => (true, "RegionLapsed"),
            RegionPhase::Unknown => (true, "RegionUnknown"),
        };
        events.push((bad, reason, format!("{region} is {:?}{why}", next.phase)));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::status::build_shard;

    fn shard_of(state: &str, master: bool) -> ShardMeasured {
        let status = ShardStatus {
            state: state.into(),
            recovered: state == "serving",
            master: master.then(|| "shop--a--shard-0-redis-0".into()),
            ..build_shard(0, &[], None, &[], &[])
        };
        let notices = if master { vec![] } else { vec![("NoMember", "no member answers".to_owned())] };
        ShardMeasured { status, notices }
    }

    fn measured(shard: ShardMeasured, lag: u64) -> Measured {
        let link = LinkStatus {
            peer: "b".into(),
            state: "Connected".into(),
            lag_millis: Some(lag),
            lag_effects: Some(3),
            backlog_bytes: Some(0),
            since: Some(serde_json::json!(1_790_000_000_123_u64)),
        };
        Measured {
            shards: vec![shard],
            links: vec![link],
            any_engine_answers: true,
            ready_proxies: 2,
            proxies: 2,
            ready_brokers: 1,
            brokers: 1,
            max_lag_ms: 5000,
            endpoint: "shop--a.prod.svc:6379".into(),
            ..Measured::default()
        }
    }

    #[test]
    fn what_is_well_says_so_and_what_is_not_says_why() {
        let now = Timestamp::UNIX_EPOCH;
        let last = StoreRegionStatus::default();
        let well = build(&measured(shard_of("serving", true), 37), &last, now);
        assert_eq!((well.phase, well.why.as_deref()), (RegionPhase::Active, None));
        assert_eq!((well.lag.as_deref(), well.shards_serving.as_deref()), (Some("100ms"), Some("1/1")));
        let away = build(&measured(shard_of("none", false), 37), &well, now);
        assert_eq!(away.phase, RegionPhase::CatchingUp);
        assert_eq!(away.why.as_deref(), Some("shard 0: no member answers"));
        let mut elsewhere = shard_of("none", false);
        elsewhere.status.evacuated_to = Some("b".into());
        let elsewhere = build(&measured(elsewhere, 37), &well, now);
        assert_eq!(elsewhere.phase, RegionPhase::Evacuated);
        assert_eq!(elsewhere.why.as_deref(), Some("shard 0 is served by b: no member answers"));
        assert_eq!(events("a", &well, &elsewhere)[0].1, "RegionEvacuated");
        let behind = build(&measured(shard_of("serving", true), 7000), &well, now);
        assert_eq!(behind.why.as_deref(), Some("behind b: 10s"));
        let silent = Measured { any_engine_answers: false, ..measured(shard_of("none", false), 37) };
        let unknown = build(&silent, &well, now);
        assert_eq!(unknown.phase, RegionPhase::Unknown);
        assert_eq!(unknown.conditions[0].status, "Unknown");
        let happened = events("a", &well, &unknown);
        assert_eq!(happened.iter().map(|event| event.1).collect::<Vec<_>>(), ["RegionUnknown"]);
    }

    #[test]
    fn numbers_are_written_when_their_bucket_changes_and_not_too_often() {
        let now = Timestamp::UNIX_EPOCH;
        let row = |lag| build(&measured(shard_of("serving", true), lag), &StoreRegionStatus::default(), now);
        let day = Duration::from_hours(24);
        assert_eq!(row(30), row(80), "the same bucket");
        assert!(!is_due(&row(30), &row(80), day));
        assert!(!is_due(&row(30), &row(130), Duration::from_secs(9)));
        assert!(is_due(&row(30), &row(130), Duration::from_secs(10)), "it got worse");
        assert!(!is_due(&row(130), &row(30), Duration::from_secs(29)), "it got better, perhaps");
        assert!(is_due(&row(130), &row(30), Duration::from_secs(30)));
        let fallen = build(&measured(shard_of("none", false), 30), &row(30), now);
        assert!(is_due(&row(30), &fallen, Duration::ZERO), "what happens is written at once");
        let waits = |who: &str| StoreRegionStatus { why: Some(who.into()), ..row(30) };
        assert!(!is_due(&waits("a"), &waits("b"), Duration::from_secs(2)), "words come at each look");
        assert!(is_due(&waits("a"), &waits("b"), Duration::from_secs(3)));
        assert_eq!([0, 1, 10, 11, 1_000_001].map(next_power), [0, 10, 10, 100, 10_000_000]);
    }
}
