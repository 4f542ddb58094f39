//! Leader election on a Lease: of several operators one acts. Whoever cannot renew it in time ends, so that nobody acts on what was
//! true once; what is written anyway is refused by the objects' versions, and by the engines' epochs.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{sleep, timeout};

/// How long a lease holds without being renewed.
const HOLDS: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at by those who wait.
const RENEW: Duration = Duration::from_secs(3);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(2);

/// What was seen of the lease, by the clock of who looked: clocks of others are not believed.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// Holder, and when it says that it renewed last.
    seen: Option<(String, Option<Timestamp>)>,
    since: Option<Instant>,
}

/// What to do with the lease.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Take,
    Wait,
}

impl Watch {
    /// Notes what the lease says now.
    fn look(&mut self, spec: Option<&LeaseSpec>, me: &str, now: Instant) -> Decision {
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref().map(|time| time.0));
        if holder.is_empty() || holder == me {
            return Decision::Take;
        }
        let seen = Some((holder, renewed));
        if self.seen != seen {
            (self.seen, self.since) = (seen, Some(now));
        }
        let stale = self.since.is_some_and(|since| now.duration_since(since) > HOLDS);
        if stale { Decision::Take } else { Decision::Wait }
    }
}

/// A lease that this process competes for.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
}

impl Election {
    pub(crate) fn new(client: kube::Client, namespace: &str, name: &str, me: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me }
    }

    /// Waits until the lease is ours.
    pub(crate) async fn win(&self) {
        let mut watch = Watch::default();
        let mut told = false;
        loop {
            match self.attempt(&mut watch).await {
                Ok(true) => return,
                Ok(false) if !told => {
                    let holder = watch.seen.as_ref().map(|(holder, _)| holder.as_str());
                    tracing::info!(lease = self.name, holder, "another operator leads: waiting");
                    told = true;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(lease = self.name, error, "the lease cannot be had"),
            }
            sleep(RENEW).await;
        }
    }

    /// Renews the lease for as long as that succeeds in time. Returns when it is lost.
    pub(crate) async fn hold(&self) {
        let mut renewed = Instant::now();
        let mut watch = Watch::default();
        loop {
            sleep(RENEW).await;
            match self.attempt(&mut watch).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return,
                Err(error) => tracing::warn!(lease = self.name, error, "renewing the lease failed"),
            }
            // The others take it once it has stood still for as long: we must have ended by then.
            if renewed.elapsed() + RENEW + REQUEST > HOLDS {
                return;
            }
        }
    }

    /// Gives it up, so that the next one need not wait.
    pub(crate) async fn release(&self) {
        let Ok(Ok(Some(mut lease))) = timeout(REQUEST, self.api.get_opt(&self.name)).await else { return };
        let ours = |spec: &LeaseSpec| spec.holder_identity.as_deref() == Some(&self.me);
        if let Some(spec) = lease.spec.as_mut().filter(|spec| ours(spec)) {
            spec.holder_identity = None;
            let _ = timeout(REQUEST, self.api.replace(&self.name, &PostParams::default(), &lease)).await;
        }
    }

    /// Takes or renews the lease if that may be; whether it is ours now.
    async fn attempt(&self, watch: &mut Watch) -> Result<bool, String> {
        let words = |error: kube::Error| error.to_string();
        let late = |_| format!("no answer within {} s", REQUEST.as_secs());
        let live = timeout(REQUEST, self.api.get_opt(&self.name)).await.map_err(late)?.map_err(words)?;
        if watch.look(live.as_ref().and_then(|lease| lease.spec.as_ref()), &self.me, Instant::now())
            == Decision::Wait
        {
            return Ok(false);
        }
        let next = self.next(live.as_ref());
        let params = PostParams::default();
        let written = if live.is_some() {
            timeout(REQUEST, self.api.replace(&self.name, &params, &next)).await
        } else {
            timeout(REQUEST, self.api.create(&params, &next)).await
        };
        match written.map_err(late)? {
            Ok(_) => Ok(true),
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(words(error)),
        }
    }

    fn next(&self, live: Option<&Lease>) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let last = live.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let same = last.holder_identity.as_deref() == Some(&self.me);
        Lease {
            metadata: live.map_or_else(
                || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
                acquire_time: if same { last.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(last.lease_transitions.unwrap_or(0) + i32::from(!same)),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_has_stood_still_and_not_by_its_own_times() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(watch.look(None, "me", at(0)), Decision::Take);
        assert_eq!(watch.look(Some(&spec("me", 1)), "me", at(0)), Decision::Take);
        // Its times are of long ago: the other's clock may just be wrong.
        assert_eq!(watch.look(Some(&spec("other", 1)), "me", at(0)), Decision::Wait);
        assert_eq!(watch.look(Some(&spec("other", 4)), "me", at(9)), Decision::Wait);
        assert_eq!(watch.look(Some(&spec("other", 4)), "me", at(19)), Decision::Wait);
        assert_eq!(watch.look(Some(&spec("other", 4)), "me", at(20)), Decision::Take);
        assert_eq!(watch.look(Some(&spec("", 4)), "me", at(20)), Decision::Take);
    }
}
