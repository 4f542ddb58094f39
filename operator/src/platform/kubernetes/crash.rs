//! For tests: ends the process, as `kill -9` would, right after its Nth request that writes. Between two writes nothing changes in the
//! cluster, so these are all the moments at which a crash can leave another picture.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tower::{Layer, Service};

/// Puts the crash between the operator and the API server.
#[derive(Clone, Debug)]
pub(crate) struct CrashLayer {
    /// Writes that are let through.
    most: u64,
    writes: Arc<AtomicU64>,
}

impl CrashLayer {
    pub(crate) fn new(most: u64) -> Self {
        Self { most, writes: Arc::default() }
    }
}

impl<S> Layer<S> for CrashLayer {
    type Service = Crashing<S>;

    fn layer(&self, inner: S) -> Crashing<S> {
        Crashing { inner, layer: self.clone() }
    }
}

/// See [`CrashLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Crashing<S> {
    inner: S,
    layer: CrashLayer,
}

impl<S, B> Service<http::Request<B>> for Crashing<S>
where
    S: Service<http::Request<B>>,
    S::Future: Send + 'static,
    S::Response: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let reads = request.method() == http::Method::GET;
        let last = !reads && self.layer.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.layer.most;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if last {
                std::process::abort();
            }
            answer
        })
    }
}
