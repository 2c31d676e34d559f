//! Asks the service for its models.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use llamatower_layers::{BoxError, Failure};
use tokio::time::timeout;
use tower::ServiceExt;

use super::Cloud;
use crate::ollama::upstream::{PoolLimits, Upstream};
use crate::openai::error::text_of;
use crate::openai::models;

/// Limit of the list, in bytes. Services with many hundred models send about a megabyte.
const MAX_LIST: usize = 16 * 1024 * 1024;

/// Why the service has told no models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoList {
    /// It cannot be reached; the text is the reason.
    Unreachable(String),
    /// It responded with this status and text.
    Status(StatusCode, String),
    /// Its response is not a list of models.
    NotAList,
}

/// The models that requests may be sent to, and those that the service lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The names in the service of the models in `LLAMATOWER_CLOUD_MODELS` that it does not list.
    pub unlisted: Vec<String>,
    /// The number of models that it lists.
    pub listed: usize,
}

impl Cloud {
    /// The path of the list, below the address.
    pub fn list_path(&self) -> &'static str {
        match self.address.has_v1() {
            true => "/v1/models",
            false => "/models",
        }
    }

    /// Asks for the list of models, with the key. `connect` and `limit` are the time-outs of the
    /// connection and of the whole exchange.
    ///
    /// # Errors
    /// There is no such list.
    pub async fn listing(&self, connect: Duration, limit: Duration) -> Result<Listing, NoList> {
        let asked = timeout(limit, self.list(connect)).await;
        let late = || NoList::Unreachable(format!("no response within {limit:?}"));
        let (status, page) = asked
            .map_err(|_| late())?
            .map_err(|error| NoList::Unreachable(innermost(&*error)))?;
        if status != StatusCode::OK {
            return Err(NoList::Status(status, text_of(&page)));
        }
        let listed = models::read(&page).map_err(|_| NoList::NotAList)?;
        // An Ollama lists a name without a tag with its tag.
        let is_listed = |name: &&str| {
            let mut listed = listed.iter().map(|model| &*model.id);
            listed.any(|id| id == *name || id.strip_suffix(":latest") == Some(name))
        };
        let names = self.models.names_there();
        Ok(Listing {
            unlisted: names
                .filter(|name| !is_listed(name))
                .map(str::to_owned)
                .collect(),
            listed: listed.len(),
        })
    }

    async fn list(&self, connect: Duration) -> Result<(StatusCode, Bytes), BoxError> {
        let limits = PoolLimits::default();
        let upstream = Upstream::with_access(self.address.clone(), connect, limits, &self.access);
        let request = Request::get(self.list_path()).body(Empty::<Bytes>::new())?;
        let (head, body) = upstream.oneshot(request).await?.into_parts();
        let page = Limited::new(body, MAX_LIST).collect().await?;
        Ok((head.status, page.to_bytes()))
    }
}

/// The text of a failure, or else of the innermost cause, which tells the reason.
fn innermost(error: &(dyn Error + 'static)) -> String {
    match Failure::find(error) {
        Some(failure) => failure.to_string(),
        None => {
            let causes = std::iter::successors(Some(error), |&error| error.source());
            causes.last().map(ToString::to_string).unwrap_or_default()
        }
    }
}
