//! The service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::future::{LlmRequestFuture, Waiting};
use super::layer::Config;
use super::plan::{Plan, endpoint_of, scan_at_once, scan_in_slices, settle};
use crate::body::ReplayBody;
use crate::{BoxError, Failure};

/// The service of [`LlmRequestLayer`](super::LlmRequestLayer).
#[derive(Clone)]
pub struct LlmRequestService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> LlmRequestService<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S: fmt::Debug> fmt::Debug for LlmRequestService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmRequestService")
            .field("inner", &self.inner)
            .field("config", &self.config)
            .finish()
    }
}

impl<S, B> Service<Request<ReplayBody<B>>> for LlmRequestService<S>
where
    S: Service<Request<ReplayBody<B>>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = LlmRequestFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReplayBody<B>>) -> Self::Future {
        self.start(request)
            .unwrap_or_else(|failure| LlmRequestFuture::refused(failure))
    }
}

impl<S> LlmRequestService<S> {
    fn start<B>(
        &mut self,
        mut request: Request<ReplayBody<B>>,
    ) -> Result<LlmRequestFuture<S, B>, Failure>
    where
        S: Service<Request<ReplayBody<B>>> + Clone,
    {
        let Some(endpoint) = endpoint_of(&request) else {
            return Ok(LlmRequestFuture::called(self.inner.call(request)));
        };
        let plan = Plan::of(&request, &endpoint)?;
        let (Some(segments), Some(len)) = (request.body().segments(), request.body().len()) else {
            return Ok(LlmRequestFuture::called(self.inner.call(request)));
        };
        let at_once = match plan {
            Plan::Pass => return Ok(LlmRequestFuture::called(self.inner.call(request))),
            Plan::Json => scan_at_once(segments, len, &endpoint),
            Plan::Zstd | Plan::Form { .. } => None,
        };
        if let Some(scanned) = at_once {
            let default_model = self.config.default_model.as_ref();
            settle(&mut request, &endpoint, scanned?, true, default_model);
            return Ok(LlmRequestFuture::called(self.inner.call(request)));
        }
        let is_json = matches!(plan, Plan::Json);
        let config = self.config.clone();
        let scan = scan_in_slices(plan, segments.to_vec(), endpoint.clone(), config.clone());
        // The inner service that was asked to be ready waits with the request.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        Ok(LlmRequestFuture::scanning(Waiting {
            scan: Box::pin(scan),
            request,
            inner,
            endpoint,
            config,
            is_json,
        }))
    }
}
