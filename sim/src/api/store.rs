//! Routes for installed models.

use std::sync::PoisonError;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Call, is_get, new_id};
use crate::name::Name;
use crate::sim::{Installed, Server};
use crate::wire::answer::NDJSON;
use crate::wire::{Problem, SimBody, answer, json as go};

#[derive(Serialize)]
struct Details<'a> {
    parent_model: &'a str,
    format: &'a str,
    family: &'a str,
    families: [&'a str; 1],
    parameter_size: String,
    quantization_level: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_length: Option<usize>,
}

impl Details<'static> {
    fn of(model: &Installed) -> Self {
        Self {
            parent_model: "",
            format: "gguf",
            family: "llama",
            families: ["llama"],
            parameter_size: model.spec.parameter_size(),
            quantization_level: "unknown",
            context_length: None,
            embedding_length: None,
        }
    }

    fn with_lengths(mut self, model: &Installed) -> Self {
        self.context_length = Some(model.spec.context_length);
        self.embedding_length = Some(model.spec.embedding_length);
        self
    }
}

#[derive(Serialize)]
struct TagRow<'a> {
    name: &'a str,
    model: &'a str,
    modified_at: String,
    size: u64,
    digest: &'a str,
    details: Details<'a>,
    capabilities: &'a [String],
}

#[derive(Serialize)]
struct PsRow<'a> {
    name: &'a str,
    model: &'a str,
    size: u64,
    digest: String,
    details: Details<'a>,
    expires_at: String,
    size_vram: u64,
    context_length: u64,
}

#[derive(Serialize)]
struct Rows<T> {
    models: Vec<T>,
}

/// The digest of an upload whose body is not read because its blob exists.
pub(super) fn existing_blob(server: &Server, method: &Method, path: &str) -> Option<String> {
    let digest = path.strip_prefix("/api/blobs/")?;
    let is_upload = *method == Method::POST;
    let blobs = server.blobs.lock().unwrap_or_else(PoisonError::into_inner);
    (is_upload && blobs.contains(digest)).then(|| digest.to_owned())
}

/// Answers a route of the store.
pub(super) async fn answer(method: &Method, path: &str, call: Call) -> Response<SimBody> {
    let dialect = call.dialect();
    let answered = match path {
        "/api/version" => Ok(answer::ok(&json!({ "version": call.server.version }))),
        "/api/status" => Ok(answer::ok(
            &json!({"cloud": {"disabled": false, "source": "none"}}),
        )),
        "/api/tags" => Ok(tags(&call.server)),
        "/api/ps" => Ok(ps(&call.server)),
        "/v1/models" => Ok(models(&call.server)),
        "/api/me" | "/api/signout" => Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized")),
        "/api/show" => show(&call),
        "/api/copy" => copy(&call),
        "/api/delete" => delete(&call),
        "/api/pull" => Ok(pull(&call)),
        "/api/push" => push(&call),
        "/api/create" => create(&call),
        path => match (
            path.strip_prefix("/v1/models/"),
            path.strip_prefix("/api/blobs/"),
        ) {
            (Some(name), _) => model(&call.server, name),
            (_, Some(digest)) if is_get(method) => blob_exists(&call.server, digest),
            (_, Some(digest)) => upload(&call, digest),
            _ => return answer::unknown_path(),
        },
    };
    answered.unwrap_or_else(|problem| problem.answer(dialect, new_id))
}

/// The installed models, newest first.
fn installed(server: &Server) -> Vec<Installed> {
    let mut models: Vec<_> = server.models().values().cloned().collect();
    models.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then(a.name.cmp(&b.name)));
    models
}

fn tags(server: &Server) -> Response<SimBody> {
    let models = installed(server);
    let rows = models.iter().map(|model| TagRow {
        name: &model.name,
        model: &model.name,
        modified_at: model.modified_at.to_string(),
        size: model.spec.size,
        digest: &model.digest,
        details: Details::of(model).with_lengths(model),
        capabilities: &model.spec.capabilities,
    });
    answer::ok(&Rows {
        models: rows.collect(),
    })
}

fn ps(server: &Server) -> Response<SimBody> {
    let resident = server.scheduler.resident();
    let rows = resident.iter().filter_map(|resident| {
        let model = server.find(&resident.name)?;
        Some(PsRow {
            name: &resident.name,
            model: &resident.name,
            size: model.spec.size,
            digest: model.digest.clone(),
            details: Details::of(&model),
            expires_at: resident.expires_at.to_string(),
            size_vram: 0,
            context_length: resident.context_length,
        })
    });
    answer::ok(&Rows {
        models: rows.collect(),
    })
}

fn v1_row(model: &Installed, id: &str) -> String {
    format!(
        "{{\"id\":{},\"object\":\"model\",\"created\":{},\"owned_by\":\"library\"}}",
        go::to_string(id),
        model.modified_at.as_second(),
    )
}

fn models(server: &Server) -> Response<SimBody> {
    let rows: Vec<_> = installed(server)
        .iter()
        .map(|model| v1_row(model, &model.name))
        .collect();
    let body = format!("{{\"object\":\"list\",\"data\":[{}]}}\n", rows.join(","));
    answer::bytes(StatusCode::OK, answer::JSON, body)
}

fn model(server: &Server, name: &str) -> Result<Response<SimBody>, Problem> {
    let model = server.find(name).ok_or_else(|| missing_with_tag(name))?;
    let body = v1_row(&model, name) + "\n";
    Ok(answer::bytes(StatusCode::OK, answer::JSON, body))
}

fn missing_with_tag(name: &str) -> Problem {
    let shown = Name::parse(name).map_or_else(|| name.to_owned(), |name| name.short());
    Problem::not_found(format!("model '{shown}' not found"))
}

/// The model name in a body: `model`, otherwise `name`.
fn name_in(call: &Call) -> Result<&str, Problem> {
    if call.body.is_empty() {
        return Err(Problem::bad_request("missing request body").by_middleware());
    }
    let field = |key: &str| {
        call.json
            .get(key)
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
    };
    field("model")
        .or(field("name"))
        .ok_or_else(|| Problem::bad_request("model is required"))
}

fn show(call: &Call) -> Result<Response<SimBody>, Problem> {
    let name = name_in(call)?;
    let model = call
        .server
        .find(name)
        .ok_or_else(|| missing_with_tag(name))?;
    let spec = &model.spec;
    let info = json!({
        "general.architecture": "llama", "general.file_type": 0, "general.parameter_count": spec.parameters,
        "general.quantization_version": 2, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": 0.00001, "llama.block_count": 2,
        "llama.context_length": spec.context_length, "llama.embedding_length": spec.embedding_length,
        "llama.feed_forward_length": 128, "llama.rope.dimension_count": 16, "llama.vocab_size": 293,
        "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": false,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": null, "tokenizer.ggml.token_type": null,
        "tokenizer.ggml.tokens": null, "tokenizer.ggml.unknown_token_id": 0,
    });
    let file = format!(
        "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM with:\n# FROM {}\n\nFROM /models/blobs/sha256-{}\nTEMPLATE \"{TEMPLATE}\"\nPARAMETER num_predict 24\n",
        model.name,
        spec.weights(),
    );
    let body = format!(
        "{{\"modelfile\":{},\"parameters\":\"num_predict                    24\",\"template\":{},\"details\":{},\"model_info\":{info},\"tensors\":[{}],\"capabilities\":{},\"modified_at\":\"{}\"}}",
        go::to_string(&file),
        go::to_string(TEMPLATE),
        go::to_string(&Details::of(&model)),
        tensors(spec.embedding_length),
        go::to_string(&spec.capabilities),
        model.modified_at,
    );
    Ok(answer::bytes(StatusCode::OK, answer::JSON_UTF8, body))
}

const TEMPLATE: &str = "{{ if .System }}system: {{ .System }}\n{{ end }}{{ if .Tools }}tools: {{ .Tools }}\n{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: ";

/// The list that makes this answer too long for a Content-Length.
fn tensors(width: usize) -> String {
    let parts = [
        "attn_k",
        "attn_norm",
        "attn_output",
        "attn_q",
        "attn_v",
        "ffn_down",
        "ffn_gate",
        "ffn_norm",
        "ffn_up",
    ];
    let blocks = [0, 1].into_iter();
    let blocks = blocks.flat_map(|block| parts.map(|part| format!("blk.{block}.{part}")));
    let rows = ["output", "output_norm", "token_embd"]
        .map(str::to_owned)
        .into_iter()
        .chain(blocks)
        .map(|name| {
            format!("{{\"name\":\"{name}.weight\",\"type\":\"F32\",\"shape\":[{width},{width}]}}")
        });
    rows.collect::<Vec<_>>().join(",")
}

fn copy(call: &Call) -> Result<Response<SimBody>, Problem> {
    let field = |key: &str| {
        call.json
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (source, destination) = (field("source"), field("destination"));
    let model = call.server.find(source);
    let mut model =
        model.ok_or_else(|| Problem::not_found(format!("model {source:?} not found")))?;
    let name = Name::parse(destination);
    let name = name
        .ok_or_else(|| Problem::bad_request(format!("destination {destination:?} is invalid")))?;
    model.name = name.short();
    model.modified_at = Timestamp::now();
    call.server.models().insert(name.key(), model);
    Ok(answer::empty(StatusCode::OK))
}

fn delete(call: &Call) -> Result<Response<SimBody>, Problem> {
    let name = name_in(call)?;
    let missing = || Problem::not_found(format!("model '{name}' not found"));
    let key = Name::parse(name).ok_or_else(missing)?.key();
    call.server.models().remove(&key).ok_or_else(missing)?;
    Ok(answer::empty(StatusCode::OK))
}

fn progress(call: &Call, steps: &[String]) -> Response<SimBody> {
    let wants_stream = call
        .json
        .get("stream")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if !wants_stream {
        let last = steps.last().cloned().unwrap_or_default();
        return answer::bytes(StatusCode::OK, answer::JSON, last);
    }
    let lines = steps.iter().map(|step| Bytes::from(format!("{step}\n")));
    let mut answer = Response::new(SimBody::lines(lines.collect()));
    let content_type = http::HeaderValue::from_static(NDJSON);
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, content_type);
    answer
}

fn status(text: &str) -> String {
    format!("{{\"status\":{}}}", go::to_string(text))
}

/// A pull never uses the network: it fails like a pull without a network, unless the model is
/// installed or in the simulated registry. A model of the registry is installed with the last line.
fn pull(call: &Call) -> Response<SimBody> {
    let name = name_in(call).unwrap_or_default();
    if call.server.find(name).is_some() {
        let steps = [
            "pulling manifest",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ];
        return progress(call, &steps.map(status));
    }
    let key = Name::parse(name).map(|name| name.key());
    if let Some(key) = key
        && let Some(model) = call.server.registry.get(&key)
    {
        return pull_from_registry(call, key, model.clone());
    }
    let manifest = Name::parse(name)
        .map(|name| name.manifest())
        .unwrap_or_default();
    let host = Name::parse(name)
        .map(|name| name.host().to_owned())
        .unwrap_or_default();
    let reason = format!(
        "pull model manifest: Get \"{manifest}\": dial tcp: lookup {host} on 198.51.100.53:53: no such host"
    );
    if call.json.get("stream").and_then(Value::as_bool) == Some(false) {
        return Problem::internal(reason)
            .by_progress()
            .answer(call.dialect(), new_id);
    }
    let error = format!("{{\"error\":{}}}", go::to_string(&reason));
    progress(call, &[status("pulling manifest"), error])
}

fn pull_from_registry(call: &Call, key: String, model: Installed) -> Response<SimBody> {
    let digest = format!("sha256:{}", model.digest);
    let total = model.spec.size;
    let layer = |completed: u64| {
        let status = format!("pulling {}", &model.digest[..12.min(model.digest.len())]);
        json!({"status": status, "digest": digest, "total": total, "completed": completed})
            .to_string()
    };
    let steps = [
        status("pulling manifest"),
        layer(total / 2),
        layer(total),
        status("verifying sha256 digest"),
        status("writing manifest"),
        status("success"),
    ];
    let mut answer = progress(call, &steps);
    let server = call.server.clone();
    let install = move || {
        server.models().insert(key, model);
    };
    match answer.body().is_lines() {
        true => answer.body_mut().at_last_line(install),
        false => install(),
    }
    answer
}

fn push(call: &Call) -> Result<Response<SimBody>, Problem> {
    let name = name_in(call)?;
    if call.server.find(name).is_none() {
        let file = Name::parse(name)
            .map(|name| name.file())
            .unwrap_or_default();
        let reason = format!("open /models/manifests/{file}: no such file or directory");
        return Err(Problem::internal(reason).by_progress());
    }
    Ok(progress(
        call,
        &["retrieving manifest", "success"].map(status),
    ))
}

fn create(call: &Call) -> Result<Response<SimBody>, Problem> {
    let name = name_in(call)?;
    let parsed = Name::parse(name).ok_or_else(|| Problem::bad_request("invalid model name"))?;
    let from = call.json.get("from").and_then(Value::as_str);
    let spec = match from {
        Some(from) => match call.server.find(from) {
            Some(model) => model.spec,
            None => {
                let manifest = Name::parse(from)
                    .map(|name| name.manifest())
                    .unwrap_or_default();
                let reason = format!(
                    "pull model manifest: Get \"{manifest}\": dial tcp: lookup registry.ollama.ai on 198.51.100.53:53: no such host"
                );
                return Err(Problem::internal(reason).by_progress());
            }
        },
        None => {
            check_files(call)?;
            crate::ModelSpec::new(name).into()
        }
    };
    let installed = Installed {
        name: parsed.short(),
        digest: HEXLOWER.encode(&Sha256::digest(&call.body)),
        modified_at: Timestamp::now(),
        spec,
    };
    let layer = installed.digest.clone();
    call.server.models().insert(parsed.key(), installed);
    let existing = format!("using existing layer sha256:{layer}");
    let new = call.json.get("system");
    let new = new.map(|_| format!("creating new layer sha256:{layer}"));
    let steps: Vec<_> = [existing.clone()]
        .into_iter()
        .chain(new)
        .chain([existing, "writing manifest".into(), "success".into()])
        .map(|step| status(&step))
        .collect();
    Ok(progress(call, &steps))
}

/// Checks that the blobs for a new model have been uploaded.
fn check_files(call: &Call) -> Result<(), Problem> {
    let files = call.json.get("files").and_then(Value::as_object);
    let files =
        files.ok_or_else(|| Problem::bad_request("neither 'from' or 'files' was specified"))?;
    let blobs = call
        .server
        .blobs
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let mut digests = files.values().filter_map(Value::as_str);
    match digests.all(|digest| blobs.contains(digest)) {
        true => Ok(()),
        false => Err(Problem::bad_request("no such blob").by_progress()),
    }
}

fn is_digest(digest: &str) -> bool {
    let hex = digest
        .strip_prefix("sha256:")
        .or(digest.strip_prefix("sha256-"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn blob_exists(server: &Server, digest: &str) -> Result<Response<SimBody>, Problem> {
    if !is_digest(digest) {
        return Err(Problem::bad_request("invalid digest format"));
    }
    let blobs = server.blobs.lock().unwrap_or_else(PoisonError::into_inner);
    match blobs.contains(digest) {
        true => Ok(answer::empty(StatusCode::OK)),
        false => Err(Problem::not_found(format!("blob {digest:?} not found"))),
    }
}

fn upload(call: &Call, digest: &str) -> Result<Response<SimBody>, Problem> {
    if !is_digest(digest) {
        return Err(Problem::bad_request("invalid digest format"));
    }
    let found = format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&call.body)));
    if found != digest {
        return Err(Problem::bad_request(format!(
            "digest mismatch, expected {digest:?}, got {found:?}"
        )));
    }
    let mut blobs = call
        .server
        .blobs
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    blobs.insert(digest.to_owned());
    Ok(answer::empty(StatusCode::CREATED))
}
