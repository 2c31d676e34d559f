//! Routes that run a model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Call, new_id};
use crate::duration;
use crate::engine::{Generation, Order, Shape, ToolCall, created_at, tokens_of};
use crate::name::Name;
use crate::prefix::Prefixes;
use crate::scheduler::{KeepAlive, Lease, RunnerOptions, RunnerRequest};
use crate::sim::Installed;
use crate::wire::answer::{EVENTS, JSON_UTF8, NDJSON};
use crate::wire::{Dialect, Problem, SimBody, answer, json as go, read};

/// Options whose change makes Ollama reload a model.
const RUNNER_OPTIONS: [&str; 5] = ["num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"];

/// Answers `/api/generate`, `/api/chat` and the equivalent routes under `/v1`.
pub(super) async fn generate(call: Call) -> Response<SimBody> {
    let dialect = call.dialect();
    match try_generate(call).await {
        Ok(answer) => answer,
        Err(problem) => problem.answer(dialect, new_id),
    }
}

async fn try_generate(call: Call) -> Result<Response<SimBody>, Problem> {
    check_body(&call)?;
    let began = Instant::now();
    let request = &call.json;
    let is_native = call.dialect() == Dialect::Native;
    let model = text(request, "model");
    let keep_alive = keep_alive(request)?;
    let installed = find(&call, model)?;
    let prompt = prompt_of(request);
    let prompt_tokens = tokens_of(prompt.len());
    if is_native && has_no_prompt(&call) {
        return load_or_unload(&call, &installed, model, keep_alive).await;
    }
    check_request(&call, &installed, model)?;
    let options = request.get("options").unwrap_or(&Value::Null);
    let limit = match is_native {
        true => number(options, "num_predict")?,
        false => ["max_tokens", "max_completion_tokens", "max_output_tokens"]
            .iter()
            .find_map(|key| request.get(key)?.as_u64()),
    };
    let shape = shape_of(&call, model);
    let wants_stream = request
        .get("stream")
        .and_then(Value::as_bool)
        .unwrap_or(is_native);
    let mut order = Order {
        spec: installed.spec.clone(),
        shape,
        prompt_tokens,
        cached_tokens: 0,
        clock: call.server.clock,
        reply: installed
            .spec
            .reply_from_prompt
            .then(|| reply_in(&prompt))
            .flatten(),
        limit,
        first_token_bytes: call.first_token_bytes,
        seed: call.server.seed,
        echo: installed
            .spec
            .echo_from_prompt
            .then(|| echo_in(&prompt))
            .flatten(),
        tool_call: tool_call(request),
        thinks: request
            .get("think")
            .and_then(Value::as_bool)
            .unwrap_or(false),
    };
    let lease = acquire(&call, &installed, keep_alive, true).await?;
    let prefixes = call.server.prefixes().map(|cache| {
        let prefixes = Prefixes::of(lease.load_number(), &prompt);
        order.cached_tokens = cache.cached_tokens(&prefixes);
        prefixes
    });
    let generation = Generation::begin(order, lease, began).await;
    if let (Some(mut cache), Some(prefixes)) = (call.server.prefixes(), prefixes) {
        cache.add(&prefixes);
    }
    if wants_stream {
        let content_type = if is_native { NDJSON } else { EVENTS };
        return Ok(stream(generation, content_type, call.dialect()));
    }
    let whole = generation.whole().await;
    let content_type = if is_native { JSON_UTF8 } else { answer::JSON };
    Ok(answer::bytes(http::StatusCode::OK, content_type, whole))
}

fn stream(
    generation: Generation,
    content_type: &'static str,
    dialect: Dialect,
) -> Response<SimBody> {
    let mut answer = Response::new(SimBody::generation(generation));
    let headers = answer.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static(content_type),
    );
    if matches!(dialect, Dialect::Anthropic | Dialect::Responses) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    answer
}

fn shape_of(call: &Call, model: &str) -> Shape {
    let request = &call.json;
    let model = model.to_owned();
    let number = call.server.next_id();
    let with_usage = request
        .pointer("/stream_options/include_usage")
        .and_then(Value::as_bool)
        == Some(true);
    match call.path.as_str() {
        "/api/generate" => Shape::Generate {
            model,
            has_context: request.get("raw").and_then(Value::as_bool) != Some(true),
        },
        "/api/chat" => Shape::Chat { model },
        "/v1/completions" => Shape::OpenAiCompletion {
            model,
            id: format!("cmpl-{number}"),
            with_usage,
        },
        "/v1/responses" => Shape::Responses {
            model,
            id: format!("resp_{number}"),
            max_output_tokens: request.get("max_output_tokens").and_then(Value::as_u64),
            temperature: request.get("temperature").cloned().unwrap_or(json!(1)),
        },
        "/v1/messages" => Shape::Messages {
            model,
            id: format!("msg_{number:024x}"),
        },
        _ => Shape::OpenAiChat {
            model,
            id: format!("chatcmpl-{number}"),
            with_usage,
        },
    }
}

/// A model calls its first tool if the last message contains the tool's name.
fn tool_call(request: &Value) -> Option<ToolCall> {
    let tool = request.get("tools")?.as_array()?.first()?;
    let messages = request.get("messages")?.as_array()?;
    let last = messages.last()?.get("content")?.as_str()?;
    let name = tool.pointer("/function/name")?.as_str()?;
    last.contains(name).then(|| ToolCall {
        name: name.to_owned(),
        arguments: json!({}),
    })
}

/// The answer of every JSON route to a body that it cannot parse.
fn check_body(call: &Call) -> Result<(), Problem> {
    let is_native = call.dialect() == Dialect::Native;
    if call.body.is_empty() {
        let text = if is_native {
            "missing request body"
        } else {
            "EOF"
        };
        return Err(Problem::bad_request(text).by_middleware());
    }
    match type_error(call) {
        None => Ok(()),
        Some(parse_error) => Err(Problem::bad_request(parse_error).by_middleware()),
    }
}

fn type_error(call: &Call) -> Option<String> {
    if call.unreadable.is_some() {
        return call.unreadable.clone();
    }
    let (package, of) = match call.path.as_str() {
        "/api/generate" => ("api", "GenerateRequest"),
        "/api/chat" => ("api", "ChatRequest"),
        "/api/embed" => ("api", "EmbedRequest"),
        "/api/embeddings" => ("api", "EmbeddingRequest"),
        "/v1/chat/completions" => ("openai", "ChatCompletionRequest"),
        "/v1/completions" => ("openai", "CompletionRequest"),
        "/v1/embeddings" => ("openai", "EmbedRequest"),
        "/v1/responses" => ("openai", "ResponsesRequest"),
        _ => ("anthropic", "MessagesRequest"),
    };
    let unreadable =
        |value: &Value| format!("json: cannot unmarshal {} into Go", read::kind(value));
    let Value::Object(fields) = &call.json else {
        let what = unreadable(&call.json);
        return Some(format!("{what} value of type {package}.{of}"));
    };
    [("model", "string"), ("stream", "bool")]
        .into_iter()
        .find_map(|(name, wanted)| {
            let value = fields.get(name)?;
            let is_right = value.is_null() || read::kind(value) == wanted;
            (!is_right).then(|| {
                let what = unreadable(value);
                format!("{what} struct field {of}.{name} of type {wanted}")
            })
        })
}

fn check_request(call: &Call, installed: &Installed, model: &str) -> Result<(), Problem> {
    let request = &call.json;
    let spec = &installed.spec;
    let messages = request.get("messages").and_then(Value::as_array);
    match call.path.as_str() {
        "/v1/messages"
            if request
                .get("max_tokens")
                .and_then(Value::as_u64)
                .unwrap_or(0)
                == 0 =>
        {
            return Err(
                Problem::bad_request("max_tokens is required and must be positive").by_middleware(),
            );
        }
        "/v1/chat/completions" if messages.is_none_or(Vec::is_empty) => {
            return Err(Problem::bad_request("[] is too short - 'messages'").by_middleware());
        }
        _ => {}
    }
    let full = || {
        Name::parse(model)
            .map(|name| name.full())
            .unwrap_or_default()
    };
    if request
        .get("suffix")
        .and_then(Value::as_str)
        .is_some_and(|text| !text.is_empty())
        && !spec.can("insert")
    {
        return Err(Problem::bad_request(format!(
            "{} does not support insert",
            full()
        )));
    }
    if request.get("think").and_then(Value::as_bool) == Some(true) && !spec.can("thinking") {
        return Err(Problem::bad_request(format!(
            "{model:?} does not support thinking"
        )));
    }
    let format = request.get("format").unwrap_or(&Value::Null);
    if format
        .as_str()
        .is_some_and(|text| !text.is_empty() && text != "json")
    {
        let text = go::to_string(&go::to_string(format));
        return Err(Problem::internal(format!(
            "invalid format: {text}; expected \"json\" or a valid JSON Schema object"
        )));
    }
    let images = request.get("images").and_then(Value::as_array);
    let is_base64 = |image: &Value| {
        image.as_str().is_some_and(|text| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        })
    };
    if images.is_some_and(|images| !images.iter().all(is_base64)) {
        return Err(Problem::bad_request("illegal base64 data at input byte 0").by_middleware());
    }
    Ok(())
}

fn has_no_prompt(call: &Call) -> bool {
    let is_empty = |key: &str| match call.json.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    match call.path.as_str() {
        "/api/generate" => is_empty("prompt"),
        _ => is_empty("messages"),
    }
}

async fn load_or_unload(
    call: &Call,
    installed: &Installed,
    model: &str,
    keep_alive: Option<KeepAlive>,
) -> Result<Response<SimBody>, Problem> {
    let reason = match keep_alive {
        Some(KeepAlive::For(Duration::ZERO)) => {
            call.server.scheduler.expire(&installed.spec.weights());
            "unload"
        }
        _ => {
            drop(acquire(call, installed, keep_alive, false).await?);
            "load"
        }
    };
    let content = match call.path.as_str() {
        "/api/generate" => "\"response\":\"\"",
        _ => "\"message\":{\"role\":\"assistant\",\"content\":\"\"}",
    };
    let body = format!(
        "{{\"model\":{},\"created_at\":\"{}\",{content},\"done\":true,\"done_reason\":\"{reason}\"}}",
        go::to_string(model),
        created_at(),
    );
    Ok(answer::bytes(http::StatusCode::OK, JSON_UTF8, body))
}

async fn acquire(
    call: &Call,
    installed: &Installed,
    keep_alive: Option<KeepAlive>,
    slot: bool,
) -> Result<Lease, Problem> {
    // The other dialects have no options.
    let options = match call.dialect() {
        Dialect::Native => call.json.get("options").unwrap_or(&Value::Null),
        _ => &Value::Null,
    };
    let context = context_size(options)?.unwrap_or(installed.spec.context_length);
    let others: BTreeMap<&'static str, String> = RUNNER_OPTIONS
        .into_iter()
        .filter_map(|name| Some((name, options.get(name)?.to_string())))
        .collect();
    let want = RunnerRequest {
        name: installed.name.clone(),
        runner: installed.spec.weights(),
        spec: installed.spec.clone(),
        options: RunnerOptions::new(context, others),
        keep_alive,
        slot,
    };
    call.server
        .scheduler
        .acquire(want)
        .await
        .map_err(|_| Problem::busy())
}

/// Answers the three embedding routes.
pub(super) async fn embed(call: Call) -> Response<SimBody> {
    let dialect = call.dialect();
    match try_embed(&call).await {
        Ok(answer) => answer,
        Err(problem) => problem.answer(dialect, new_id),
    }
}

async fn try_embed(call: &Call) -> Result<Response<SimBody>, Problem> {
    check_body(call)?;
    let began = Instant::now();
    let request = &call.json;
    let model = text(request, "model");
    let keep_alive = keep_alive(request)?;
    if model.is_empty() && call.path == "/api/embeddings" {
        return Err(Problem::bad_request("model is required"));
    }
    let input = request
        .get("input")
        .or(request.get("prompt"))
        .unwrap_or(&Value::Null);
    let inputs: Vec<&str> = match input {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        Value::Null => Vec::new(),
        _ => return Err(Problem::bad_request("invalid input type")),
    };
    let installed = call.server.find(model).ok_or_else(|| match model {
        "" => Problem::not_found("model '' not found"),
        model => Problem::not_found(format!("model {model:?} not found, try pulling it first")),
    })?;
    let spec: &Arc<_> = &installed.spec;
    let vectors: Vec<Value> = inputs
        .iter()
        .map(|text| vector(text, spec.embedding_length))
        .collect();
    let tokens: u64 = inputs.iter().map(|text| tokens_of(text.len())).sum();
    if inputs.is_empty() && call.path == "/api/embed" {
        return Ok(answer::bytes(
            http::StatusCode::OK,
            JSON_UTF8,
            format!("{{\"model\":{},\"embeddings\":[]}}", go::to_string(model)),
        ));
    }
    let lease = acquire(call, &installed, keep_alive, true).await?;
    if !spec.pace.is_zero() {
        tokio::time::sleep(spec.pace).await;
    }
    let first = vectors.first().cloned().unwrap_or(json!([]));
    Ok(match call.path.as_str() {
        "/api/embeddings" => answer::bytes(
            http::StatusCode::OK,
            JSON_UTF8,
            format!("{{\"embedding\":{first}}}"),
        ),
        "/v1/embeddings" => {
            let is_base64 = text(request, "encoding_format") == "base64";
            let rows: Vec<String> = vectors
                .iter()
                .enumerate()
                .map(|(index, vector)| {
                    let vector = if is_base64 {
                        packed(vector)
                    } else {
                        vector.clone()
                    };
                    format!("{{\"object\":\"embedding\",\"embedding\":{vector},\"index\":{index}}}")
                })
                .collect();
            let body = format!(
                "{{\"object\":\"list\",\"data\":[{}],\"model\":{},\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}\n",
                rows.join(","),
                go::to_string(model),
            );
            answer::bytes(http::StatusCode::OK, answer::JSON, body)
        }
        _ => {
            let body = format!(
                "{{\"model\":{},\"embeddings\":{},\"total_duration\":{},\"load_duration\":{},\"prompt_eval_count\":{tokens}}}",
                go::to_string(model),
                Value::Array(vectors),
                began.elapsed().as_nanos().max(1),
                lease.load_duration().as_nanos().max(1),
            );
            answer::bytes(http::StatusCode::OK, JSON_UTF8, body)
        }
    })
}

/// A vector that depends only on the text.
fn vector(text: &str, length: usize) -> Value {
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let numbers = (0..length).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // As many digits as a single-precision number has.
        let number = (state >> 40) as f64 / f64::from(1 << 24) - 0.5;
        json!((number * 1e8).round() / 1e8)
    });
    Value::Array(numbers.collect())
}

/// A vector in OpenAI's base64 format: little-endian numbers.
fn packed(vector: &Value) -> Value {
    let numbers = vector.as_array().into_iter().flatten();
    let bytes: Vec<u8> = numbers
        .filter_map(Value::as_f64)
        .flat_map(|number| (number as f32).to_le_bytes())
        .collect();
    Value::String(BASE64_STANDARD.encode(bytes))
}

/// Answers a transcription request, from its form field.
pub(super) async fn transcribe(call: Call) -> Response<SimBody> {
    let body = String::from_utf8_lossy(&call.body).into_owned();
    let field = body.split("name=\"model\"").nth(1);
    let model = field.and_then(|rest| {
        rest.trim_start()
            .lines()
            .find(|line| !line.trim().is_empty())
    });
    let model = model.unwrap_or_default().trim();
    match call.server.find(model) {
        Some(_) => answer::ok_v1(&json!({ "text": "the llama tower" })),
        None => {
            Problem::not_found(format!("model '{model}' not found")).answer(Dialect::OpenAi, new_id)
        }
    }
}

fn find(call: &Call, model: &str) -> Result<Installed, Problem> {
    if model.is_empty() && call.path != "/api/generate" {
        return Err(Problem::bad_request("model is required"));
    }
    if model.contains(['@', '\n']) || model.contains("..") {
        return Err(Problem::bad_request("invalid model name"));
    }
    let found = call.server.find(model);
    found.ok_or_else(|| Problem::not_found(format!("model '{model}' not found")))
}

fn text<'a>(request: &'a Value, key: &str) -> &'a str {
    request.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(options: &Value, key: &str) -> Result<Option<u64>, Problem> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_u64()),
        Some(_) => Err(Problem::internal(format!(
            "option {key:?} must be of type integer"
        ))),
    }
}

/// `num_ctx`, at least 4. Like in Ollama, what does not fit into a 64-bit integer becomes negative,
/// and a fraction is cut off.
fn context_size(options: &Value) -> Result<Option<u64>, Problem> {
    number(options, "num_ctx")?;
    let asked = options.get("num_ctx").and_then(Value::as_f64);
    Ok(asked.map(|asked| match asked {
        asked if asked < i64::MAX as f64 => (asked as u64).max(4),
        _ => 4,
    }))
}

fn keep_alive(request: &Value) -> Result<Option<KeepAlive>, Problem> {
    let length = match request.get("keep_alive") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => {
            let seconds = number.as_f64().unwrap_or_default();
            match Duration::try_from_secs_f64(seconds) {
                Ok(length) => KeepAlive::For(length),
                Err(_) => KeepAlive::Forever,
            }
        }
        Some(Value::String(text)) => match duration::parse_signed(text) {
            Ok((_, true)) => KeepAlive::Forever,
            Ok((length, false)) => KeepAlive::For(length),
            Err(reason) => return Err(Problem::bad_request(reason).by_middleware()),
        },
        Some(_) => return Err(Problem::bad_request("invalid keep_alive").by_middleware()),
    };
    Ok(Some(length))
}

/// The text of the prompt.
fn prompt_of(request: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    ["system", "prompt", "messages", "input"]
        .iter()
        .filter_map(|key| request.get(key))
        .map(text)
        .collect()
}

/// The word after the last `echo=` of a prompt.
fn echo_in(prompt: &str) -> Option<String> {
    let (_, rest) = prompt.rsplit_once("echo=")?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
    let word = &rest[..end.unwrap_or(rest.len())];
    (!word.is_empty()).then(|| word.to_owned())
}

/// The number after the last `reply=` of a prompt.
fn reply_in(prompt: &str) -> Option<u64> {
    let (_, rest) = prompt.rsplit_once("reply=")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    rest[..digits.unwrap_or(rest.len())].parse().ok()
}
