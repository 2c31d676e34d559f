//! The tables of known APIs.

use http::Method;

use super::{Endpoint, EndpointTable, Operation};
use crate::Dialect::{self, Anthropic, Ollama, OpenAi, Responses, Text};

type Row = (&'static str, &'static [Method], Dialect, Operation);

const GET: &[Method] = &[Method::GET];
const GET_HEAD: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];
const HEAD_POST: &[Method] = &[Method::HEAD, Method::POST];

/// Ollama's own routes, beside which it serves a part of OpenAI's and Anthropic's API.
const OLLAMA: &[Row] = &[
    ("/", GET_HEAD, Text, Operation::Root),
    ("/api/version", GET_HEAD, Ollama, Operation::Version),
    ("/api/status", GET, Ollama, Operation::Status),
    ("/api/tags", GET_HEAD, Ollama, Operation::Tags),
    ("/api/ps", GET, Ollama, Operation::Ps),
    ("/api/show", POST, Ollama, Operation::Show),
    ("/api/generate", POST, Ollama, Operation::Generate),
    ("/api/chat", POST, Ollama, Operation::Chat),
    ("/api/embed", POST, Ollama, Operation::Embed),
    ("/api/embeddings", POST, Ollama, Operation::Embed),
    ("/api/pull", POST, Ollama, Operation::Pull),
    ("/api/push", POST, Ollama, Operation::Push),
    ("/api/create", POST, Ollama, Operation::Create),
    ("/api/blobs/{}", HEAD_POST, Ollama, Operation::Blob),
    ("/api/copy", POST, Ollama, Operation::Copy),
    ("/api/delete", DELETE, Ollama, Operation::Delete),
    ("/api/me", POST, Ollama, Operation::Account),
    ("/api/signout", POST, Ollama, Operation::Account),
    ("/api/user/keys/{}", DELETE, Ollama, Operation::Account),
    (
        "/api/experimental/web_search",
        POST,
        Ollama,
        Operation::Account,
    ),
    (
        "/api/experimental/web_fetch",
        POST,
        Ollama,
        Operation::Account,
    ),
];

/// The part of OpenAI's API that Ollama serves too.
const OPENAI_COMMON: &[Row] = &[
    ("/v1/chat/completions", POST, OpenAi, Operation::Chat),
    ("/v1/completions", POST, OpenAi, Operation::Generate),
    ("/v1/embeddings", POST, OpenAi, Operation::Embed),
    ("/v1/models", GET, OpenAi, Operation::Models),
    ("/v1/models/{}", GET, OpenAi, Operation::Model),
    (
        "/v1/audio/transcriptions",
        POST,
        OpenAi,
        Operation::Transcribe,
    ),
    ("/v1/responses", POST, Responses, Operation::Chat),
];

const OPENAI_MORE: &[Row] = &[(
    "/v1/audio/translations",
    POST,
    OpenAi,
    Operation::Transcribe,
)];

/// The part of Anthropic's API that Ollama serves too.
const ANTHROPIC_COMMON: &[Row] = &[("/v1/messages", POST, Anthropic, Operation::Chat)];

const ANTHROPIC_MORE: &[Row] = &[
    (
        "/v1/messages/count_tokens",
        POST,
        Anthropic,
        Operation::CountTokens,
    ),
    ("/v1/models", GET, Anthropic, Operation::Models),
    ("/v1/models/{}", GET, Anthropic, Operation::Model),
];

impl EndpointTable {
    /// The routes of Ollama 0.33. Unknown paths and methods are refused in plain text, as it does.
    pub fn ollama() -> Self {
        Self::of_rows(&[OLLAMA, OPENAI_COMMON, ANTHROPIC_COMMON]).with_refusal_dialect(Text)
    }

    /// The routes of OpenAI's API that run a model or list models; vLLM, llama.cpp and others serve
    /// them too. A server's further routes can be added by [`route`](Self::route).
    pub fn openai() -> Self {
        Self::of_rows(&[OPENAI_COMMON, OPENAI_MORE])
    }

    /// The routes of Anthropic's API that run a model or list models.
    ///
    /// [`merge`](Self::merge)d with [`openai`](Self::openai), the later one determines the format of
    /// `/v1/models`.
    pub fn anthropic() -> Self {
        Self::of_rows(&[ANTHROPIC_COMMON, ANTHROPIC_MORE])
    }

    fn of_rows(groups: &[&[Row]]) -> Self {
        let mut table = Self::new();
        for &(route, methods, dialect, operation) in groups.iter().copied().flatten() {
            table.insert(Endpoint::new(route, methods, dialect, operation).into());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_presets_could_be_added_by_hand() {
        for group in [
            OLLAMA,
            OPENAI_COMMON,
            OPENAI_MORE,
            ANTHROPIC_COMMON,
            ANTHROPIC_MORE,
        ] {
            for &(path, methods, dialect, operation) in group {
                let table = EndpointTable::new().route(path, methods, dialect, operation);
                assert!(table.is_ok(), "{path}");
            }
        }
    }

    #[test]
    fn only_ollama_streams_by_default() {
        let streams = |table: EndpointTable| {
            let rows = table.endpoints().filter(|row| row.streams_by_default);
            rows.map(|row| row.route.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            streams(EndpointTable::ollama()),
            [
                "/api/chat",
                "/api/create",
                "/api/generate",
                "/api/pull",
                "/api/push"
            ]
        );
        let others = EndpointTable::openai().merge(EndpointTable::anthropic());
        assert!(streams(others).is_empty());
    }
}
