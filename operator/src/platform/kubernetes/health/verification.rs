//! Verification of a store in a cluster: on schedule, and when its annotation asks. The operator reaches the engines; people do not.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{DifferentKey, MultiActiveStore, VerificationStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::watch;

use super::Shared;
use super::pods::PodProcess;
use crate::health::member::Member;
use crate::health::shard::ShardView;
use crate::platform::kubernetes::endpoint::ShownVerification;
use crate::verify::{Ask, Asks, KeyReport, Last, Place, Region, Report, Service};

/// Asks for a run: a name that was not answered yet (a time), then, if it is not to be as the manifest says, `repair` or `report`,
/// and `sample=PERCENT`.
pub(crate) const ANNOTATION: &str = "multiactive.dev/verify";
/// Keys that the status lists.
const KEYS_MAX: usize = 10;

/// The members of a shard, and what is known of them.
pub(super) struct ShardOf {
    pub(super) view: watch::Receiver<ShardView>,
    pub(super) members: Vec<Arc<Member<PodProcess>>>,
}

/// What may change while a store is looked after.
#[derive(Clone, PartialEq)]
pub(super) struct Known {
    pub(super) settings: crds::Verification,
    pub(super) obstacle: Option<String>,
}

/// One store as verification sees it.
pub(super) struct Verified {
    pub(super) key: ObjectRef<MultiActiveStore>,
    pub(super) shared: Shared,
    pub(super) store: String,
    pub(super) regions: Vec<Region>,
    pub(super) shards: u16,
    pub(super) password: String,
    pub(super) of: BTreeMap<(String, u16), ShardOf>,
    pub(super) known: watch::Receiver<Known>,
    pub(super) result: watch::Sender<Option<VerificationStatus>>,
    pub(super) shown: ShownVerification,
}

impl Place for Verified {
    fn store(&self) -> String {
        self.store.clone()
    }

    fn regions(&self) -> Vec<Region> {
        self.regions.clone()
    }

    fn shards(&self) -> u16 {
        self.shards
    }

    fn master(&self, region: &str, shard: u16) -> Option<String> {
        let of = self.of.get(&(region.to_owned(), shard))?;
        let master = of.view.borrow().master?;
        of.members.get(master)?.address()
    }

    fn password(&self) -> String {
        self.password.clone()
    }
}

impl Service for Verified {
    fn settings(&self) -> crds::Verification {
        self.known.borrow().settings
    }

    fn obstacle(&self) -> Option<String> {
        self.known.borrow().obstacle.clone()
    }

    async fn done(&self, report: &Report) {
        self.shown.show(report);
        let status = build_status(report);
        if let Some(store) = self.shared.stores.get(&self.key)
            && let Some((bad, reason)) = event(report)
        {
            self.shared.publish(&store, bad, reason, report.words()).await;
        }
        self.result.send_replace(Some(status));
    }
}

/// What people are told of.
fn event(report: &Report) -> Option<(bool, &'static str)> {
    match report.verdict() {
        ("True", "NoDifferences") => None,
        ("True", reason) => Some((false, reason)),
        (_, reason) => Some((true, reason)),
    }
}

fn build_status(report: &Report) -> VerificationStatus {
    VerificationStatus {
        request: report.request.clone(),
        finished_at: report.finished_at.parse().ok().map(Time),
        duration_millis: report.duration_millis,
        repair: report.repair,
        keys_compared: report.keys_compared,
        keys_sampled: report.keys_sampled,
        different_keys: report.different_keys,
        repaired_keys: report.repaired_keys,
        undecided: report.undecided,
        keys: report.keys.iter().take(KEYS_MAX).map(different_key).collect(),
        result: report.words(),
        failed: report.failed.clone(),
    }
}

fn different_key(of: &KeyReport) -> DifferentKey {
    let element = |element: &crate::verify::ElementReport| {
        let name = element.element.as_ref().map(|name| format!(" of '{name}'")).unwrap_or_default();
        let held: Vec<String> =
            element.held.iter().map(|held| format!("{}: {}", held.region, held.holds)).collect();
        format!("{}{name} ({})", element.what, held.join("; "))
    };
    let first: Vec<String> = of.elements.iter().take(1).map(element).collect();
    let more = of.elements.len().saturating_sub(1) as u64 + of.elements_unlisted;
    let more = if more > 0 { format!(", and {more} more elements") } else { String::new() };
    DifferentKey {
        key: of.key.clone(),
        shard: of.shard,
        what: format!("{}{more}", first.join("")),
        outcome: format!("{:?}", of.outcome),
        why: of.why.clone(),
    }
}

/// The last run, as the status tells of it.
pub(super) fn last(store: &MultiActiveStore) -> Option<Last> {
    let known = store.status.as_ref()?.verification.as_ref()?;
    let ended_ms = u64::try_from(known.finished_at.as_ref()?.0.as_millisecond()).ok()?;
    Some(Last { ended_ms, whole: known.failed.is_none() })
}

/// The way to ask for runs of one store.
pub(super) struct Verifier {
    pub(super) asks: Asks,
    pub(super) known: watch::Sender<Known>,
    pub(super) result: watch::Receiver<Option<VerificationStatus>>,
    /// The request that was handed over last.
    pub(super) asked: Option<String>,
}

impl Verifier {
    /// What came of the last run since this began.
    pub(super) fn result(&self) -> Option<VerificationStatus> {
        self.result.borrow().clone()
    }

    /// Tells what may have changed, and hands over what the annotation asks for.
    pub(super) fn look(&mut self, live: &MultiActiveStore, known: Known) {
        self.known.send_if_modified(|old| {
            let changed = *old != known;
            *old = known;
            changed
        });
        let wanted = live.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
        let status = live.status.as_ref().and_then(|status| status.verification.as_ref());
        let answered = status.and_then(|status| status.request.as_ref());
        if let Some(wanted) =
            wanted.filter(|wanted| Some(*wanted) != answered && Some(*wanted) != self.asked.as_ref())
            && self.request_verification(wanted)
        {
            self.asked = Some(wanted.clone());
        }
    }

    /// Asks for a run by the words of [`ANNOTATION`]; `false`: too many wait already, ask again. Its report names the request.
    pub(super) fn request_verification(&self, words: &str) -> bool {
        self.asks.try_send(parse_request(words)).is_ok()
    }
}

fn parse_request(words: &str) -> Ask {
    let mut ask = Ask { request: Some(words.to_owned()), ..Ask::default() };
    for word in words.split_whitespace().skip(1) {
        match (word, word.strip_prefix("sample=").and_then(|percent| percent.parse::<u8>().ok())) {
            ("repair", _) => ask.repair = Some(true),
            ("report", _) => ask.repair = Some(false),
            (_, percent @ Some(0..=100)) => ask.sample_percent = percent,
            _ => {}
        }
    }
    ask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{ElementReport, Held, Outcome};

    #[test]
    fn a_request_says_what_is_to_be_otherwise() {
        let of = |words: &str| {
            let ask = parse_request(words);
            assert_eq!(ask.request.as_deref(), Some(words));
            (ask.repair, ask.sample_percent)
        };
        assert_eq!(of("2026-11-22T10:00:00Z"), (None, None));
        assert_eq!(of("2026-11-22T10:00:00Z repair"), (Some(true), None));
        assert_eq!(of("2026-11-22T10:00:00Z report sample=100"), (Some(false), Some(100)));
        assert_eq!(of("2026-11-22T10:00:00Z sample=101 nonsense"), (None, None));
    }

    #[test]
    fn the_status_is_bounded_and_says_what_differs() {
        let held = |region: &str, holds: &str| Held { region: region.into(), holds: holds.into() };
        let key = KeyReport {
            key: "cart".into(),
            slot: 5,
            shard: 0,
            kind: "hash".into(),
            elements: vec![ElementReport {
                element: Some("milk".into()),
                what: "metadata".into(),
                held: vec![held("east", "live"), held("west", "not there")],
            }],
            elements_unlisted: 2,
            outcome: Outcome::Found,
            why: None,
        };
        let report = Report {
            keys: vec![key; 30],
            different_keys: 30,
            keys_compared: 900,
            duration_millis: 1500,
            ..Report::default()
        };
        let status = build_status(&report);
        assert_eq!(status.keys.len(), KEYS_MAX);
        assert_eq!(
            status.keys[0].what,
            "metadata of 'milk' (east: live; west: not there), and 2 more elements"
        );
        assert_eq!(status.result, "900 keys in 1.5 s, 30 differ between regions (cart, cart, cart, ...)");
        assert_eq!(event(&report), Some((true, "RegionsDiffer")));
        assert_eq!(event(&Report::default()), None);
        let repaired = Report { repaired_keys: 30, ..report };
        assert_eq!(event(&repaired), Some((false, "Repaired")));
    }
}
