//! Lists of models, and single models, from the server's list.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use llamatower_layers::body::Buffered;
use llamatower_layers::{BoxError, Dialect, Failure, ModelName};
use serde::Deserialize;
use tower::Service;

use super::{Answered, Exchange, error_answer, uri, whole_answer};
use crate::openai::error::{InvalidAnswer, text_of};
use crate::openai::lines::{TranslatedBody, broken};
use crate::openai::models::{self, Model};

impl<S> Exchange<S> {
    /// Answers a list from that of the models.
    pub(super) async fn list<B, R>(
        &mut self,
        request: Request<B>,
        form: impl Fn(&[Model<'_>]) -> String,
    ) -> Answered<R>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Default,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let page = self.page(request).await?;
        let models = self.models(&page)?;
        Ok(whole_answer(StatusCode::OK, form(&models)))
    }

    pub(super) async fn show<B, R>(&mut self, request: Request<B>) -> Answered<R>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Buffered + Default,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        #[derive(Default, Deserialize)]
        struct Show {
            model: Option<String>,
            name: Option<String>,
        }
        let body = request.body().segments().unwrap_or_default().concat();
        let asked: Show = serde_json::from_slice(&body).unwrap_or_default();
        // Ollama's own program sends an empty `model` beside the `name`.
        let model = asked.model.filter(|model| !model.is_empty());
        let asked = model.or(asked.name).unwrap_or_default();
        let page = self.page(request).await?;
        let models = self.models(&page)?;
        Ok(match find(&models, &asked) {
            Some(model) => whole_answer(StatusCode::OK, models::show(model)),
            None => error_answer(StatusCode::NOT_FOUND, &format!("model '{asked}' not found")),
        })
    }

    /// One model in OpenAI's form, from a server that has only the list.
    pub(super) async fn model<B, R>(&mut self, id: &str) -> Answered<R>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Default,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let page = self.page(Request::new(B::default())).await?;
        let models = self.models(&page)?;
        Ok(match find(&models, id) {
            Some(model) => whole_answer(StatusCode::OK, model.row.to_owned()),
            None => {
                let text = format!("model '{id}' not found");
                let answer = Dialect::OpenAi.error_response(StatusCode::NOT_FOUND, &*text);
                answer.map(TranslatedBody::whole)
            }
        })
    }

    /// The list of models.
    async fn page<B, R>(&mut self, request: Request<B>) -> Result<Bytes, BoxError>
    where
        S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
        B: Default,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let path = self.server.path("/models");
        let (mut head, _) = request.into_parts();
        head.uri = uri(&path)?;
        head.method = Method::GET;
        head.headers.remove(CONTENT_TYPE);
        head.headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = Request::from_parts(head, B::default());
        let answer = self.client.call(request).await?;
        let status = answer.status();
        self.check_token(status)?;
        let body = self.read(answer.into_body()).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let hint = match status {
            StatusCode::NOT_FOUND => "; is the path in OLLAMA_URL that of its OpenAI API?",
            _ => "",
        };
        let error = InvalidAnswer {
            reason: format!("{path} answered {status}: {}{hint}", text_of(&body)).into(),
            server: self.server.name().clone(),
        };
        Err(Failure::from(error).into())
    }

    /// The models of a list; they are recorded.
    fn models<'a>(&self, page: &'a [u8]) -> Result<Vec<Model<'a>>, BoxError> {
        let reason = "it is not a list of models";
        let models = models::read(page).map_err(|_| broken(self.server.name(), reason))?;
        self.server.set_models(&models);
        Ok(models)
    }
}

fn find<'a, 'b>(models: &'a [Model<'b>], asked: &str) -> Option<&'a Model<'b>> {
    let name = ModelName::parse(asked).ok();
    let has_name = |model: &&Model<'_>| name.is_some() && model.name() == name;
    let exact = models.iter().find(|model| model.id == asked);
    exact.or_else(|| models.iter().find(has_name))
}
