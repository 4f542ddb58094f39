//! Asks a proxy's admin port from outside the cluster: through the API server, as `kubectl port-forward` does.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use super::access::{is_forbidden, words};
use crate::health::http;
use crate::platform::kubernetes::build;

/// The way is long: this machine, the API server, the kubelet, the pod.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a proxy did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("port-forward is not allowed: {0}")]
    Forbidden(String),
    #[error("port-forward failed: {0}")]
    Failed(String),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("it answered {0}")]
    Answered(u16),
}

/// What a proxy answers to `GET path`.
pub(super) async fn get(pods: &Api<Pod>, pod: &str, path: &str) -> Result<String, ForwardError> {
    timeout(PATIENCE, fetch(pods, pod, path)).await.unwrap_or(Err(ForwardError::Late))
}

async fn fetch(pods: &Api<Pod>, pod: &str, path: &str) -> Result<String, ForwardError> {
    let port = build::admin_port();
    let mut forwarder = pods.portforward(pod, &[port]).await.map_err(|error| {
        if is_forbidden(&error) {
            ForwardError::Forbidden(words(&error))
        } else {
            ForwardError::Failed(words(&error))
        }
    })?;
    let failed = |why: &str| ForwardError::Failed(why.to_owned());
    let stream = forwarder.take_stream(port).ok_or_else(|| failed("no stream"))?;
    let answer = http::get_over(stream, pod, path).await;
    forwarder.abort();
    match answer.ok_or_else(|| failed("the connection was closed"))? {
        (200, body) => Ok(body),
        (code, _) => Err(ForwardError::Answered(code)),
    }
}
