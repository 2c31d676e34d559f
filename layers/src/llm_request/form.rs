//! Multipart forms: an audio file with other fields.

use bytes::Bytes;
use futures_util::stream;
use multer::{Constraints, Multipart, SizeLimit};

use super::MalformedBody;
use super::scan::{MAX_NAME_BYTES, ScanError, Scanned, is_plausible_name};
use crate::{Endpoint, Failure};

/// The boundary between a form's fields, if the content type is a form.
pub(super) fn boundary(headers: &http::HeaderMap) -> Option<String> {
    let content_type = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    multer::parse_boundary(content_type).ok()
}

/// Finds the field `model`.
pub(super) async fn scan_form(
    segments: Vec<Bytes>,
    boundary: String,
    endpoint: &Endpoint,
) -> Result<Scanned, Failure> {
    let fail = |reason| Failure::from(MalformedBody::at(endpoint, reason));
    let invalid = |_: multer::Error| fail(ScanError::InvalidForm);
    let pieces = stream::iter(segments.into_iter().map(Ok::<_, std::convert::Infallible>));
    let limits = SizeLimit::new().for_field("model", MAX_NAME_BYTES as u64);
    let limits = Constraints::new().size_limit(limits);
    let mut form = Multipart::with_constraints(pieces, boundary, limits);
    let mut scanned = Scanned::default();
    while let Some(field) = form.next_field().await.map_err(invalid)? {
        if field.name() != Some("model") {
            tokio::task::yield_now().await;
            continue;
        }
        if scanned.model.is_some() {
            return Err(fail(ScanError::AmbiguousKey { key: "model" }));
        }
        let name = field.text().await.map_err(invalid)?;
        if !is_plausible_name(&name) {
            return Err(fail(ScanError::InvalidModelName));
        }
        scanned.model = (!name.is_empty()).then(|| name.into());
    }
    Ok(scanned)
}
