//! The service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::MalformedBody;
use super::future::{LlmRequestFuture, Scan, Waiting};
use super::layer::Config;
use super::plan::{JsonScan, Plan, RemainingScan, endpoint_of, settle};
use crate::body::ReplayBody;
use crate::service::accessors;
use crate::{BoxError, Endpoint, Failure};

/// The service of [`LlmRequestLayer`](super::LlmRequestLayer).
#[derive(Clone)]
pub struct LlmRequestService<S> {
    pub(super) inner: S,
    pub(super) config: Arc<Config>,
}

accessors!([S] LlmRequestService<S>, super::LlmRequestLayer);

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

    fn call(&mut self, mut request: Request<ReplayBody<B>>) -> Self::Future {
        let rest = match self.read(&mut request) {
            Ok(Reading::Over) => return LlmRequestFuture::called(self.inner.call(request)),
            Ok(Reading::RemainingScan(rest)) => rest,
            Err(failure) => return LlmRequestFuture::refused(failure),
        };
        // The instance whose readiness was polled waits with the request.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        LlmRequestFuture::scanning(Waiting {
            scan: rest.scan,
            request,
            inner,
            endpoint: rest.endpoint,
            config: self.config.clone(),
            is_json: rest.is_json,
        })
    }
}

/// The state of a scan at the end of the call.
enum Reading {
    Over,
    RemainingScan(Unread),
}

struct Unread {
    scan: Scan,
    endpoint: Arc<Endpoint>,
    is_json: bool,
}

impl<S> LlmRequestService<S> {
    /// Scans a short body, or returns how to scan a longer one.
    fn read<B>(&self, request: &mut Request<ReplayBody<B>>) -> Result<Reading, Failure> {
        let Some(endpoint) = endpoint_of(request) else {
            return Ok(Reading::Over);
        };
        let plan = Plan::of(request, &endpoint)?;
        let Some(segments) = request.body().segments() else {
            return Ok(Reading::Over);
        };
        let rest = match plan {
            Plan::Pass => return Ok(Reading::Over),
            Plan::Zstd => RemainingScan::Zstd,
            Plan::Form { boundary } => RemainingScan::Form { boundary },
            Plan::Json => {
                let fail = |reason| MalformedBody::at(&endpoint, reason);
                let mut scan = JsonScan::new(&endpoint, &self.config);
                if !scan.step(segments).map_err(fail)? {
                    let scanned = scan.finish().map_err(fail)?;
                    settle(request, &endpoint, scanned, true, &self.config)?;
                    return Ok(Reading::Over);
                }
                RemainingScan::Json(Box::new(scan))
            }
        };
        let is_json = matches!(rest, RemainingScan::Json(_));
        let (segments, config) = (segments.to_vec(), self.config.clone());
        Ok(Reading::RemainingScan(Unread {
            scan: Box::pin(rest.scan(segments, endpoint.clone(), config)),
            endpoint,
            is_json,
        }))
    }
}
