//! Recording files.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::answer::{Answer, End, Framing};

/// The recordings of a healthy server, in the order of their making: some change the state that
/// later ones see.
pub const CASES: [&str; 126] = [
    "root_get",
    "root_head",
    "version_get",
    "version_head",
    "tags_get",
    "tags_head",
    "ps_empty",
    "ps_head",
    "status_get",
    "unknown_path",
    "health_path",
    "metrics_path",
    "wrong_method_chat",
    "wrong_method_delete",
    "double_slash",
    "trailing_slash",
    "dot_segments",
    "percent_path",
    "load_stream_true",
    "ps_loaded",
    "generate_default",
    "generate_no_stream",
    "generate_stream_string",
    "generate_stream_null",
    "generate_no_content_type",
    "generate_form_content_type",
    "generate_chunked_request",
    "generate_gzip_accepted",
    "generate_raw",
    "generate_format_json",
    "generate_suffix_unsupported",
    "generate_keep_alive_bad",
    "generate_keep_alive_minus1",
    "generate_keep_alive_10m",
    "generate_keep_alive_null",
    "generate_option_bad_type",
    "generate_option_unknown",
    "generate_image_bad_base64",
    "generate_model_after_200kB",
    "generate_uppercase_model_key",
    "generate_duplicate_model_key",
    "generate_trailing_garbage",
    "generate_model_not_string",
    "generate_model_null",
    "generate_model_absent_key",
    "generate_missing_model",
    "generate_empty_body",
    "generate_malformed",
    "generate_body_array",
    "generate_invalid_utf8",
    "generate_bom",
    "generate_name_upper_tag",
    "generate_name_library",
    "generate_name_full_host",
    "generate_name_digest",
    "generate_name_newline",
    "generate_name_dotdot",
    "generate_gzip_body",
    "chat_default",
    "chat_no_stream",
    "chat_empty_messages",
    "chat_load_stream_true",
    "chat_tools",
    "chat_think_unsupported",
    "chat_logprobs",
    "chat_missing_model",
    "chat_no_model_key",
    "chat_empty_body",
    "chat_format_schema_bad",
    "embed_one",
    "embed_many",
    "embed_empty_input",
    "embed_missing_model",
    "embed_no_model",
    "embed_bad_input",
    "embeddings_one",
    "embeddings_missing_model",
    "show_model",
    "show_name",
    "show_missing",
    "show_no_model",
    "copy_model",
    "copy_missing",
    "delete_missing",
    "delete_name",
    "delete_empty",
    "pull_no_network",
    "pull_no_network_stream",
    "push_missing",
    "create_from",
    "create_from_no_stream",
    "create_from_missing",
    "delete_made",
    "blob_head_absent",
    "blob_bad_digest",
    "blob_post",
    "blob_post_exists",
    "blob_post_wrong_digest",
    "v1_models",
    "v1_model",
    "v1_model_missing",
    "v1_chat",
    "v1_chat_stream",
    "v1_chat_stream_usage",
    "v1_chat_missing_model",
    "v1_chat_no_messages",
    "v1_chat_empty_body",
    "v1_chat_malformed",
    "v1_chat_tools",
    "v1_completions",
    "v1_completions_stream",
    "v1_embeddings",
    "v1_embeddings_missing_model",
    "v1_responses",
    "v1_responses_stream",
    "v1_messages",
    "v1_messages_stream",
    "v1_messages_no_max_tokens",
    "v1_messages_missing_model",
    "v1_images_unsupported",
    "cors_preflight_localhost",
    "cors_preflight_other",
    "cors_get_other",
    "unload",
    "chat_unload",
    "ps_after_unload",
];

/// The recordings of a server whose engine was killed during the answer.
pub const KILLED_CASES: [&str; 7] = [
    "killed_generate",
    "killed_generate_no_stream",
    "killed_chat",
    "killed_v1_chat_stream",
    "killed_v1_completions_stream",
    "killed_v1_responses_stream",
    "killed_v1_messages_stream",
];

/// One recorded exchange.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Recording {
    /// The name; the file is `NAME.json`.
    pub name: String,
    /// The request.
    pub request: RecordedRequest,
    /// The answer.
    #[serde(rename = "response", deserialize_with = "answer")]
    pub answer: Answer,
}

/// A recorded request, without `Host`, `Connection` and `Content-Length`.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The target, as in the request line.
    pub path: String,
    /// The other header fields.
    pub headers: Vec<(String, String)>,
    /// The body, if there is one.
    #[serde(deserialize_with = "optional_data")]
    pub body: Option<Bytes>,
}

impl Recording {
    /// Reads `DIRECTORY/NAME.json`.
    ///
    /// # Errors
    /// The file does not exist ([`io::ErrorKind::NotFound`]), or is not a recording
    /// ([`io::ErrorKind::InvalidData`]).
    pub fn load(directory: &Path, name: &str) -> io::Result<Self> {
        let path = directory.join(format!("{name}.json"));
        let explained =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let text = std::fs::read(&path).map_err(explained)?;
        serde_json::from_slice(&text).map_err(|error| explained(error.into()))
    }
}

/// Text, or `{"base64": ..}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Text(String),
    Encoded { base64: String },
}

impl Data {
    fn decode<E: Error>(self) -> Result<Bytes, E> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Encoded { base64 } => {
                let data = BASE64_STANDARD.decode(base64).map_err(E::custom)?;
                Ok(data.into())
            }
        }
    }
}

fn optional_data<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
    Option::<Data>::deserialize(from)?
        .map(Data::decode)
        .transpose()
}

fn answer<'de, D: Deserializer<'de>>(from: D) -> Result<Answer, D::Error> {
    #[derive(Deserialize)]
    struct Recorded {
        status: u16,
        headers: Vec<(String, String)>,
        framing: String,
        chunks: Vec<Chunk>,
        end: String,
    }
    #[derive(Deserialize)]
    struct Chunk {
        data: Data,
    }
    let recorded = Recorded::deserialize(from)?;
    let chunks = recorded.chunks.into_iter();
    Ok(Answer {
        status: recorded.status,
        headers: recorded.headers,
        framing: match &*recorded.framing {
            "chunked" => Framing::Chunked,
            "length" => Framing::Length,
            "close" => Framing::Close,
            "none" => Framing::None,
            other => return Err(D::Error::custom(format!("unknown framing {other:?}"))),
        },
        chunks: chunks
            .map(|chunk| chunk.data.decode())
            .collect::<Result<_, _>>()?,
        end: match &*recorded.end {
            "clean" => End::Clean,
            "cut" => End::Cut,
            other => return Err(D::Error::custom(format!("unknown end {other:?}"))),
        },
    })
}
