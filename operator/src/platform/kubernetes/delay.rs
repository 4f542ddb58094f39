//! For tests: what the operator watches reaches it late, as from an API server that lags. What it reads by name is current.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

/// Puts the delay between the operator and the API server.
#[derive(Clone, Debug)]
pub(crate) struct DelayLayer(pub(crate) Duration);

impl<S> Layer<S> for DelayLayer {
    type Service = Delaying<S>;

    fn layer(&self, inner: S) -> Delaying<S> {
        Delaying { inner, delay: self.0 }
    }
}

/// See [`DelayLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Delaying<S> {
    inner: S,
    delay: Duration,
}

impl<S, A, B> Service<http::Request<A>> for Delaying<S>
where
    S: Service<http::Request<A>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    B: Body,
{
    type Response = http::Response<Late<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<A>) -> Self::Future {
        let watches = request.uri().query().is_some_and(|query| query.contains("watch="));
        let delay = if watches { self.delay } else { Duration::ZERO };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let late =
                |body| Late { body: Box::pin(body), delay, ended: false, held: VecDeque::new(), sleep: None };
            Ok(answer.await?.map(late))
        })
    }
}

/// A part of a body, and when it is due.
type Due<B> = (Instant, Result<Frame<<B as Body>::Data>, <B as Body>::Error>);

/// A body of which every part comes later.
pub(crate) struct Late<B: Body> {
    body: Pin<Box<B>>,
    delay: Duration,
    ended: bool,
    held: VecDeque<Due<B>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> Body for Late<B>
where
    B: Body,
    B::Data: Unpin,
    B::Error: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        while !this.ended {
            match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(frame)) => this.held.push_back((Instant::now() + this.delay, frame)),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => break,
            }
        }
        let Some((due, _)) = this.held.front() else {
            return if this.ended { Poll::Ready(None) } else { Poll::Pending };
        };
        let due = *due;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        ready!(sleep.as_mut().poll(cx));
        this.sleep = None;
        Poll::Ready(this.held.pop_front().map(|(_, frame)| frame))
    }
}
