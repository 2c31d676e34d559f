//! The gateway that requests are passed on to, and what it lets the key do.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use llamatower_layers::BoxError;
use serde::Deserialize;
use tower::ServiceExt;

use crate::commands::manage::error_text;
use crate::ollama::upstream::{Access, Address, Authorization, PoolLimits, Trust, Upstream};

/// The time to open a connection, with TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// The time for each answer at the start.
const ANSWER: Duration = Duration::from_secs(20);
/// The most bytes of such an answer that are read.
const MAX_ANSWER: usize = 8 << 20;

/// A blob that no server has. To ask for it needs the same key as to manage models, and changes nothing.
const NO_BLOB: &str =
    "/api/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A gateway, with the key for it.
pub(super) struct Gateway {
    pub(super) address: Address,
    access: Access,
}

/// What the gateway offers.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// The models that the key may use.
    pub(super) models: Vec<String>,
    /// Whether the key may manage models.
    pub(super) may_manage: bool,
}

/// Why the gateway cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("the gateway at {url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("the gateway at {url} refuses the key: {reason}")]
    WrongKey { url: String, reason: String },
    #[error(
        "the gateway at {0} requires a key; write it to a file and give --key-file FILE, or set LLAMATOWER_KEY"
    )]
    NoKey(String),
    #[error("{url} is not a gateway or an Ollama, or cannot serve: {reason}{advice}")]
    Other {
        url: String,
        reason: String,
        advice: &'static str,
    },
}

#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

impl Gateway {
    pub(super) fn new(address: Address, key: Option<Authorization>, trust: Option<Trust>) -> Self {
        let tokens = key.map(|key| (address.clone(), key)).into_iter().collect();
        let access = Access::new(tokens).with_setting("the address of the gateway");
        let access = access.with_authorities_setting("--ca");
        let access = access.with_environment_proxies();
        Self {
            access: match trust {
                Some(trust) => access.with_trust(trust),
                None => access,
            },
            address,
        }
    }

    /// A client. Each request has a connection of its own: a person sends few, and the gateway or a
    /// proxy may close an idle one at the moment at which it is used again.
    pub(super) fn client<B>(&self) -> Upstream<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limits = PoolLimits {
            max_idle: 0,
            ..PoolLimits::default()
        };
        Upstream::with_access(self.address.clone(), CONNECT, limits, &self.access)
    }

    /// Asks what the key may do.
    ///
    /// # Errors
    /// There is no answer, or the key is refused.
    pub(super) async fn ask(&self, has_key: bool) -> Result<Offer, NotReady> {
        let (status, page) = self.get(Method::GET, "/api/tags").await?;
        let url = self.address.url();
        let reason = || error_text(&page).unwrap_or_else(|| format!("it responded with {status}"));
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(match has_key {
                true => NotReady::WrongKey {
                    url,
                    reason: reason(),
                },
                false => NotReady::NoKey(url),
            });
        }
        let tags: Option<Tags> = serde_json::from_slice(&page).ok();
        let Some(tags) = tags.filter(|_| status.is_success()) else {
            // The address of an OpenAI client.
            let advice = match url.ends_with("/v1") {
                true => "; give the address without /v1 at its end",
                false => "",
            };
            return Err(NotReady::Other {
                url,
                reason: reason(),
                advice,
            });
        };
        let (status, _) = self.get(Method::HEAD, NO_BLOB).await?;
        let models = match self.names().await? {
            Some(names) => names,
            None => tags.models.into_iter().map(|tag| tag.name).collect(),
        };
        Ok(Offer {
            models,
            may_manage: matches!(status, StatusCode::OK | StatusCode::NOT_FOUND),
        })
    }

    /// The names of the models as operators wrote them: in `/api/tags` an alias has a tag, as all names
    /// have there.
    async fn names(&self) -> Result<Option<Vec<String>>, NotReady> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let (status, page) = self.get(Method::GET, "/v1/models").await?;
        let models: Option<Models> = serde_json::from_slice(&page).ok();
        let models = models.filter(|_| status.is_success());
        Ok(models.map(|models| models.data.into_iter().map(|model| model.id).collect()))
    }

    async fn get(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), NotReady> {
        let exchange = async {
            let request = Request::builder().method(method).uri(path);
            let answer = self
                .client()
                .oneshot(request.body(Empty::<Bytes>::new())?)
                .await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, BoxError>((head.status, body))
        };
        let reason = match tokio::time::timeout(ANSWER, exchange).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => innermost(&*error),
            Err(_) => format!("it did not answer within {ANSWER:?}"),
        };
        let url = self.address.url();
        Err(NotReady::Unreachable { url, reason })
    }
}

/// The innermost cause tells the reason; the outer ones speak of a backend.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
