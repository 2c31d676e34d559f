//! The formats of answers: native, three of OpenAI, Anthropic.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Order;
use crate::wire::json as go;

/// The format of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Generate {
        model: String,
        /// A raw prompt gives no context.
        has_context: bool,
    },
    Chat {
        model: String,
    },
    OpenAiChat {
        model: String,
        id: String,
        with_usage: bool,
    },
    OpenAiCompletion {
        model: String,
        id: String,
        with_usage: bool,
    },
    Responses {
        model: String,
        id: String,
        max_output_tokens: Option<u64>,
        temperature: Value,
    },
    Messages {
        model: String,
        id: String,
    },
}

/// A tool call in place of text.
#[derive(Clone, Debug)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// The durations of a generation, and its end.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) total: Duration,
    pub(crate) load: Duration,
    pub(crate) prompt: Duration,
    pub(crate) eval: Duration,
    pub(crate) tokens: u64,
    pub(crate) hit_limit: bool,
}

impl Times {
    fn reason(&self) -> &'static str {
        if self.hit_limit { "length" } else { "stop" }
    }
}

/// A time in Go's format.
pub(crate) fn created_at() -> String {
    Timestamp::now().to_string()
}

fn quoted(text: &str) -> String {
    go::to_string(text)
}

impl Shape {
    /// The output before the first token.
    pub(super) fn opening(&self, order: &Order) -> Vec<Bytes> {
        match self {
            Self::Messages { model, id } => vec![
                event(
                    "message_start",
                    &format!(
                        r#"{{"type":"message_start","message":{{"id":{},"type":"message","role":"assistant","model":{},"content":[],"usage":{{"input_tokens":{},"output_tokens":0}}}}}}"#,
                        quoted(id),
                        quoted(model),
                        order.prompt_tokens,
                    ),
                ),
                event(
                    "content_block_start",
                    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
                ),
            ],
            Self::Responses { id, .. } => {
                let started = self.response_object("in_progress", "", None);
                vec![
                    event(
                        "response.created",
                        &format!(
                            r#"{{"response":{started},"sequence_number":0,"type":"response.created"}}"#
                        ),
                    ),
                    event(
                        "response.in_progress",
                        &format!(
                            r#"{{"response":{started},"sequence_number":1,"type":"response.in_progress"}}"#
                        ),
                    ),
                    event(
                        "response.output_item.added",
                        &format!(
                            r#"{{"item":{{"content":[],"id":{},"role":"assistant","status":"in_progress","type":"message"}},"output_index":0,"sequence_number":2,"type":"response.output_item.added"}}"#,
                            quoted(&item_id(id)),
                        ),
                    ),
                    event(
                        "response.content_part.added",
                        &format!(
                            r#"{{"content_index":0,"item_id":{},"output_index":0,"part":{{"annotations":[],"logprobs":[],"text":"","type":"output_text"}},"sequence_number":3,"type":"response.content_part.added"}}"#,
                            quoted(&item_id(id)),
                        ),
                    ),
                ]
            }
            Self::Chat { model } if order.thinks => vec![Bytes::from(format!(
                "{{\"model\":{},\"created_at\":\"{}\",\"message\":{{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"Hm.\"}},\"done\":false}}\n",
                quoted(model),
                created_at(),
            ))],
            _ => Vec::new(),
        }
    }

    /// One token.
    pub(super) fn token(&self, _: &Order, token: &str, place: u64) -> Bytes {
        let text = quoted(token);
        match self {
            Self::Generate { model, .. } => Bytes::from(format!(
                "{{\"model\":{},\"created_at\":\"{}\",\"response\":{text},\"done\":false}}\n",
                quoted(model),
                created_at(),
            )),
            Self::Chat { model } => Bytes::from(format!(
                "{{\"model\":{},\"created_at\":\"{}\",\"message\":{{\"role\":\"assistant\",\"content\":{text}}},\"done\":false}}\n",
                quoted(model),
                created_at(),
            )),
            Self::OpenAiChat { .. } => {
                let role = if place == 0 {
                    r#""role":"assistant","#
                } else {
                    ""
                };
                data(&self.chunk(
                    &format!(
                        r#"[{{"index":0,"delta":{{{role}"content":{text}}},"finish_reason":null}}]"#
                    ),
                    "",
                ))
            }
            Self::OpenAiCompletion { .. } => data(&self.completion_chunk(&text, "null")),
            Self::Responses { id, .. } => event(
                "response.output_text.delta",
                &format!(
                    r#"{{"content_index":0,"delta":{text},"item_id":{},"logprobs":[],"output_index":0,"sequence_number":{},"type":"response.output_text.delta"}}"#,
                    quoted(&item_id(id)),
                    place + 4,
                ),
            ),
            Self::Messages { .. } => event(
                "content_block_delta",
                &format!(
                    r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":{text}}}}}"#,
                ),
            ),
        }
    }

    /// The output after the last token.
    pub(super) fn closing(&self, order: &Order, text: &str, times: &Times) -> Vec<Bytes> {
        let prompt = order.prompt_tokens;
        match self {
            Self::Generate { .. } | Self::Chat { .. } => {
                let mut line = self.native(order, "", times);
                line.push(b'\n');
                vec![line.into()]
            }
            Self::OpenAiChat { with_usage, .. } => {
                let delta = match &order.tool_call {
                    Some(call) => format!(
                        r#"{{"role":"assistant","content":"","tool_calls":[{}]}}"#,
                        open_ai_call(call)
                    ),
                    None => "{}".to_owned(),
                };
                let reason = if order.tool_call.is_some() {
                    "tool_calls"
                } else {
                    times.reason()
                };
                let mut last = self.chunk(
                    &format!(r#"[{{"index":0,"delta":{delta},"finish_reason":"{reason}"}}]"#),
                    "",
                );
                if *with_usage {
                    last = format!(
                        "{last}\n\ndata: {}",
                        self.chunk("[]", &usage(prompt, times.tokens))
                    );
                }
                vec![Bytes::from(format!("data: {last}\n\ndata: [DONE]\n\n"))]
            }
            Self::OpenAiCompletion { with_usage, .. } => {
                let mut last = self.completion_chunk("\"\"", &format!("\"{}\"", times.reason()));
                if *with_usage {
                    let counts = usage(prompt, times.tokens);
                    last.truncate(last.len() - 1);
                    last = format!("{last}{counts}}}");
                }
                vec![Bytes::from(format!("data: {last}\n\ndata: [DONE]\n\n"))]
            }
            Self::Responses { id, .. } => self.responses_closing(id, order, text, times),
            Self::Messages { .. } => vec![
                event(
                    "content_block_stop",
                    r#"{"type":"content_block_stop","index":0}"#,
                ),
                event(
                    "message_delta",
                    &format!(
                        r#"{{"type":"message_delta","delta":{{"stop_reason":"{}"}},"usage":{{"input_tokens":{prompt},"output_tokens":{}}}}}"#,
                        anthropic_reason(times),
                        times.tokens,
                    ),
                ),
                event("message_stop", r#"{"type":"message_stop"}"#),
            ],
        }
    }

    fn responses_closing(&self, id: &str, order: &Order, text: &str, times: &Times) -> Vec<Bytes> {
        let (item, text) = (quoted(&item_id(id)), quoted(text));
        let next = times.tokens + 4;
        let whole = self.response_object(
            "completed",
            &text,
            Some((order.prompt_tokens, times.tokens)),
        );
        vec![
            event(
                "response.output_text.done",
                &format!(
                    r#"{{"content_index":0,"item_id":{item},"logprobs":[],"output_index":0,"sequence_number":{next},"text":{text},"type":"response.output_text.done"}}"#
                ),
            ),
            event(
                "response.content_part.done",
                &format!(
                    r#"{{"content_index":0,"item_id":{item},"output_index":0,"part":{{"annotations":[],"logprobs":[],"text":{text},"type":"output_text"}},"sequence_number":{},"type":"response.content_part.done"}}"#,
                    next + 1
                ),
            ),
            event(
                "response.output_item.done",
                &format!(
                    r#"{{"item":{{"content":[{{"annotations":[],"logprobs":[],"text":{text},"type":"output_text"}}],"id":{item},"role":"assistant","status":"completed","type":"message"}},"output_index":0,"sequence_number":{},"type":"response.output_item.done"}}"#,
                    next + 2
                ),
            ),
            event(
                "response.completed",
                &format!(
                    r#"{{"response":{whole},"sequence_number":{},"type":"response.completed"}}"#,
                    next + 3
                ),
            ),
        ]
    }

    /// The whole answer.
    pub(super) fn whole(&self, order: &Order, text: &str, times: &Times) -> Vec<u8> {
        let (prompt, tokens) = (order.prompt_tokens, times.tokens);
        let quoted_text = quoted(text);
        let whole = match self {
            Self::Generate { .. } | Self::Chat { .. } => return self.native(order, text, times),
            Self::OpenAiChat { model, id, .. } => {
                let (calls, reason) = match &order.tool_call {
                    Some(call) => (
                        format!(r#","tool_calls":[{}]"#, open_ai_call(call)),
                        "tool_calls",
                    ),
                    None => (String::new(), times.reason()),
                };
                format!(
                    r#"{{"id":{},"object":"chat.completion","created":{},"model":{},"system_fingerprint":"fp_ollama","choices":[{{"index":0,"message":{{"role":"assistant","content":{quoted_text}{calls}}},"finish_reason":"{reason}"}}]{}}}"#,
                    quoted(id),
                    seconds(),
                    quoted(model),
                    usage(prompt, tokens),
                )
            }
            Self::OpenAiCompletion { model, id, .. } => format!(
                r#"{{"id":{},"object":"text_completion","created":{},"model":{},"system_fingerprint":"fp_ollama","choices":[{{"text":{quoted_text},"index":0,"finish_reason":"{}"}}]{}}}"#,
                quoted(id),
                seconds(),
                quoted(model),
                times.reason(),
                usage(prompt, tokens),
            ),
            Self::Responses { .. } => self.whole_response(&quoted_text, prompt, tokens),
            Self::Messages { model, id } => format!(
                r#"{{"id":{},"type":"message","role":"assistant","model":{},"content":[{{"type":"text","text":{quoted_text}}}],"stop_reason":"{}","usage":{{"input_tokens":{prompt},"output_tokens":{tokens}}}}}"#,
                quoted(id),
                quoted(model),
                anthropic_reason(times),
            ),
        };
        (whole + "\n").into_bytes()
    }

    /// A native answer, or the last line of a native stream.
    fn native(&self, order: &Order, text: &str, times: &Times) -> Vec<u8> {
        let (model, middle, context) = match self {
            Self::Generate { model, has_context } => (
                model,
                format!("\"response\":{}", quoted(text)),
                if *has_context {
                    ",\"context\":[1,2,3]"
                } else {
                    ""
                },
            ),
            Self::Chat { model } => {
                let calls = order.tool_call.as_ref().map(|call| {
                    let call = json!([{"id": "call_1", "function": {"index": 0, "name": call.name, "arguments": call.arguments}}]);
                    format!(",\"tool_calls\":{}", go::to_string(&call))
                });
                let message = format!(
                    "{{\"role\":\"assistant\",\"content\":{}{}}}",
                    quoted(text),
                    calls.unwrap_or_default()
                );
                (model, format!("\"message\":{message}"), "")
            }
            _ => return Vec::new(),
        };
        let mut numbers = String::new();
        for (name, value) in [
            ("total_duration", times.total.as_nanos()),
            ("load_duration", times.load.as_nanos()),
            ("prompt_eval_count", u128::from(order.prompt_tokens)),
            ("prompt_eval_duration", times.prompt.as_nanos()),
            ("eval_count", u128::from(times.tokens)),
            ("eval_duration", times.eval.as_nanos()),
        ] {
            if value > 0 {
                numbers.push_str(&format!(",\"{name}\":{value}"));
            }
        }
        format!(
            "{{\"model\":{},\"created_at\":\"{}\",{middle},\"done\":true,\"done_reason\":\"{}\"{context}{numbers}}}",
            quoted(model), created_at(), times.reason(),
        )
        .into_bytes()
    }

    fn chunk(&self, choices: &str, usage: &str) -> String {
        let Self::OpenAiChat { model, id, .. } = self else {
            return String::new();
        };
        format!(
            r#"{{"id":{},"object":"chat.completion.chunk","created":{},"model":{},"system_fingerprint":"fp_ollama","choices":{choices}{usage}}}"#,
            quoted(id),
            seconds(),
            quoted(model),
        )
    }

    fn completion_chunk(&self, text: &str, reason: &str) -> String {
        let Self::OpenAiCompletion { model, id, .. } = self else {
            return String::new();
        };
        format!(
            r#"{{"id":{},"object":"text_completion","created":{},"choices":[{{"text":{text},"index":0,"finish_reason":{reason}}}],"model":{},"system_fingerprint":"fp_ollama"}}"#,
            quoted(id),
            seconds(),
            quoted(model),
        )
    }

    /// The object in the events of a response, with its keys in alphabetical order.
    fn response_object(&self, status: &str, text: &str, counts: Option<(u64, u64)>) -> String {
        let Self::Responses {
            model,
            id,
            max_output_tokens,
            temperature,
        } = self
        else {
            return String::new();
        };
        let (completed, output, usage) = match counts {
            None => ("null".to_owned(), "[]".to_owned(), "null".to_owned()),
            Some((prompt, tokens)) => (
                seconds().to_string(),
                format!(
                    r#"[{{"content":[{{"annotations":[],"logprobs":[],"text":{text},"type":"output_text"}}],"id":{},"role":"assistant","status":"completed","type":"message"}}]"#,
                    quoted(&item_id(id))
                ),
                format!(
                    r#"{{"input_tokens":{prompt},"input_tokens_details":{{"cached_tokens":0}},"output_tokens":{tokens},"output_tokens_details":{{"reasoning_tokens":0}},"total_tokens":{}}}"#,
                    prompt + tokens
                ),
            ),
        };
        let limit = max_output_tokens.map_or("null".to_owned(), |limit| limit.to_string());
        format!(
            r#"{{"background":false,"completed_at":{completed},"created_at":{},"error":null,"frequency_penalty":0,"id":{},"incomplete_details":null,"instructions":null,"max_output_tokens":{limit},"max_tool_calls":null,"metadata":{{}},"model":{},"object":"response","output":{output},"parallel_tool_calls":true,"presence_penalty":0,"previous_response_id":null,"prompt_cache_key":null,"reasoning":null,"safety_identifier":null,"service_tier":"default","status":"{status}","store":false,"temperature":{temperature},"text":{{"format":{{"type":"text"}}}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1,"truncation":"disabled","usage":{usage}}}"#,
            seconds(),
            quoted(id),
            quoted(model),
        )
    }

    fn whole_response(&self, text: &str, prompt: u64, tokens: u64) -> String {
        let Self::Responses {
            model,
            id,
            max_output_tokens,
            temperature,
        } = self
        else {
            return String::new();
        };
        let now = seconds();
        let limit = max_output_tokens.map_or("null".to_owned(), |limit| limit.to_string());
        format!(
            r#"{{"id":{},"object":"response","created_at":{now},"completed_at":{now},"status":"completed","incomplete_details":null,"model":{},"previous_response_id":null,"instructions":null,"output":[{{"id":{},"type":"message","status":"completed","role":"assistant","content":[{{"type":"output_text","text":{text},"annotations":[],"logprobs":[]}}]}}],"error":null,"tools":[],"tool_choice":"auto","truncation":"disabled","parallel_tool_calls":true,"text":{{"format":{{"type":"text"}}}},"top_p":1,"presence_penalty":0,"frequency_penalty":0,"top_logprobs":0,"temperature":{temperature},"reasoning":null,"usage":{{"input_tokens":{prompt},"output_tokens":{tokens},"total_tokens":{},"input_tokens_details":{{"cached_tokens":0}},"output_tokens_details":{{"reasoning_tokens":0}}}},"max_output_tokens":{limit},"max_tool_calls":null,"store":false,"background":false,"service_tier":"default","metadata":{{}},"safety_identifier":null,"prompt_cache_key":null}}"#,
            quoted(id),
            quoted(model),
            quoted(&item_id(id)),
            prompt + tokens,
        )
    }
}

fn open_ai_call(call: &ToolCall) -> String {
    let arguments = go::to_string(&call.arguments);
    format!(
        r#"{{"id":"call_1","index":0,"type":"function","function":{{"name":{},"arguments":{}}}}}"#,
        quoted(&call.name),
        quoted(&arguments),
    )
}

fn anthropic_reason(times: &Times) -> &'static str {
    if times.hit_limit {
        "max_tokens"
    } else {
        "end_turn"
    }
}

fn usage(prompt: u64, tokens: u64) -> String {
    format!(
        r#","usage":{{"prompt_tokens":{prompt},"completion_tokens":{tokens},"total_tokens":{}}}"#,
        prompt + tokens,
    )
}

fn item_id(response: &str) -> String {
    response.replace("resp_", "msg_")
}

pub(crate) fn seconds() -> i64 {
    Timestamp::now().as_second()
}

fn data(json: &str) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

fn event(name: &str, json: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {json}\n\n"))
}
