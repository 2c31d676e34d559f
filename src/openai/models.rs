//! The list of `/v1/models`, in the forms of Ollama's lists.
//!
//! The list tells little: the ids, and on some servers the size of the context. The other fields of
//! Ollama's rows are empty, or say that nothing is known.

use jiff::Timestamp;
use llamatower_layers::ModelName;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// A model of an OpenAI-compatible server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model<'a> {
    /// The server's id, which requests must repeat exactly.
    pub id: String,
    /// When it was created, if the server tells that.
    pub created: Option<Timestamp>,
    /// Tokens of its context.
    pub context: Option<u64>,
    /// Its size in bytes; 0 if it is not known.
    pub size: u64,
    /// The row itself.
    pub row: &'a str,
}

/// A digest of zeros, for models whose contents are not known: Ollama's programs cut digests and
/// need one of full length.
pub const UNKNOWN_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// These models stay in memory; Ollama names a date far away too.
const NEVER_EXPIRES: &str = "2200-01-01T00:00:00Z";

/// Reads a list. Rows without an id are skipped.
///
/// # Errors
/// It is not such a list.
pub fn read(page: &[u8]) -> serde_json::Result<Vec<Model<'_>>> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        data: Option<Vec<&'a RawValue>>,
    }
    let page: Page<'_> = serde_json::from_slice(page)?;
    let rows = page.data.unwrap_or_default();
    Ok(rows.into_iter().filter_map(model).collect())
}

fn model(row: &RawValue) -> Option<Model<'_>> {
    let members: Map<String, Value> = serde_json::from_str(row.get()).ok()?;
    let meta = members.get("meta");
    let number = |name: &str| members.get(name).and_then(Value::as_u64);
    let in_meta = |name: &str| meta?.get(name)?.as_u64();
    // vLLM, Groq and OpenRouter, and llama.cpp.
    let context = number("max_model_len")
        .or_else(|| number("context_window"))
        .or_else(|| number("context_length"))
        .or_else(|| in_meta("n_ctx"))
        .or_else(|| in_meta("n_ctx_train"));
    let created = members.get("created").and_then(Value::as_i64);
    Some(Model {
        id: members.get("id")?.as_str()?.to_owned(),
        created: created.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        context: context.filter(|tokens| *tokens > 0),
        size: in_meta("size").unwrap_or(0),
        row: row.get(),
    })
}

impl Model<'_> {
    /// A model of which only the id is known.
    pub fn named(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            created: None,
            context: None,
            size: 0,
            row: "",
        }
    }

    /// The name under which the gateway knows the model; `None` if it cannot be one in Ollama's
    /// dialect.
    pub fn name(&self) -> Option<ModelName> {
        ModelName::parse(&self.id).ok()
    }

    /// The name as Ollama's lists show it: always with a tag.
    fn listed(&self) -> String {
        let last = self.id.rsplit('/').next().unwrap_or_default();
        match last.contains(':') {
            true => self.id.clone(),
            false => format!("{}:latest", self.id),
        }
    }

    fn modified_at(&self) -> String {
        self.created.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
    }
}

/// The list in the form of `/api/tags`.
pub fn tags(models: &[Model<'_>]) -> String {
    let rows = models.iter().map(tag);
    json!({ "models": rows.collect::<Vec<_>>() }).to_string()
}

/// A row of `/api/tags`.
pub fn tag(model: &Model<'_>) -> Value {
    let name = model.listed();
    json!({
        "name": name,
        "model": name,
        "modified_at": model.modified_at(),
        "size": model.size,
        "digest": UNKNOWN_DIGEST,
        "details": details(),
    })
}

/// A row of `/v1/models`, as Ollama writes it for the models on its disk.
pub fn row(model: &Model<'_>) -> Value {
    let created = model.created.map_or(0, Timestamp::as_second);
    json!({ "id": model.id, "object": "model", "created": created, "owned_by": "library" })
}

/// The list in the form of `/api/ps`: such a server has all of its models in memory.
pub fn ps(models: &[Model<'_>]) -> String {
    let rows = models.iter().map(|model| {
        let name = model.listed();
        let mut row = json!({
            "name": name,
            "model": name,
            "size": model.size,
            "digest": UNKNOWN_DIGEST,
            "details": details(),
            "expires_at": NEVER_EXPIRES,
            "size_vram": model.size,
        });
        if let Some(context) = model.context {
            row["context_length"] = context.into();
        }
        row
    });
    json!({ "models": rows.collect::<Vec<_>>() }).to_string()
}

/// A model in the form of `/api/show`.
///
/// The capabilities are those that every server of this dialect may have; whether the model has
/// them is not known.
pub fn show(model: &Model<'_>) -> String {
    let told = "is served by an OpenAI-compatible server, which has no Modelfile";
    described(model, told, &["completion", "tools"])
}

/// A model that a cloud service runs, in the form of `/api/show`. What it can do beside completions is
/// not known.
pub fn show_of_cloud(model: &Model<'_>) -> String {
    let told = "is served by a cloud service now, which has no Modelfile";
    described(model, told, &["completion"])
}

fn described(model: &Model<'_>, told: &str, capabilities: &[&str]) -> String {
    let mut info = json!({ "general.architecture": "unknown" });
    if let Some(context) = model.context {
        info["unknown.context_length"] = context.into();
    }
    json!({
        "modelfile": format!("# {} {told}.\n", model.id),
        "parameters": "",
        "template": "",
        "details": details(),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": model.modified_at(),
    })
    .to_string()
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ollama::fleet::{Installed, Resident};

    const VLLM: &[u8] = br#"{"object":"list","data":[{"id":"Qwen/Qwen2.5-7B","object":"model","created":1720000000,"owned_by":"vllm","root":"Qwen/Qwen2.5-7B","max_model_len":32768,"permission":[]}]}"#;
    const LLAMA_CPP: &[u8] = br#"{"models":[{"name":"x"}],"object":"list","data":[{"id":"tiny.gguf","object":"model","created":1720000000,"owned_by":"llamacpp","meta":{"n_vocab":300,"n_ctx_train":2048,"n_params":120000,"size":487851}},{"no":"id"},{"id":"/srv/x.gguf"}]}"#;

    #[test]
    fn the_gateway_understands_its_own_lists() {
        let models = read(VLLM).unwrap();
        let installed = Installed::read_list(tags(&models).as_bytes()).unwrap();
        assert_eq!(installed[0].name.to_string(), "Qwen/Qwen2.5-7B:latest");
        assert_eq!(&*installed[0].digest, "", "it is not known");
        let resident = Resident::read_list(ps(&models).as_bytes()).unwrap();
        assert_eq!(resident[0].context_length, Some(32768));
        assert!(resident[0].expires_at > Some(Timestamp::now()));
    }

    #[test]
    fn context_and_size_are_read_where_the_server_tells_them() {
        let models = read(LLAMA_CPP).unwrap();
        assert_eq!(models.len(), 2, "a row without an id is skipped");
        assert_eq!((models[0].context, models[0].size), (Some(2048), 487_851));
        assert_eq!(models[0].name(), ModelName::parse("tiny.gguf").ok());
        assert_eq!(models[1].name(), None);
        let shown: Value = serde_json::from_str(&show(&models[0])).unwrap();
        assert_eq!(shown["model_info"]["unknown.context_length"], 2048);
        assert_eq!(shown["modified_at"], "2024-07-03T09:46:40Z");
    }

    #[test]
    fn another_page_is_no_list_and_an_empty_one_is_empty() {
        for page in ["", "<html>", "[]"] {
            assert!(read(page.as_bytes()).is_err(), "{page}");
        }
        assert_eq!(read(br#"{"data":null}"#).unwrap(), []);
        assert_eq!(tags(&[]), r#"{"models":[]}"#);
    }
}
