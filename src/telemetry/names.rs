//! All names in telemetry: metrics, attributes, span fields, log targets.
//!
//! Names follow OpenTelemetry's conventions where these define one: HTTP, which is stable, and GenAI
//! in the version that [`Semconv`](super::Semconv) selects. Our own begin with `llamatower.`. On the
//! Prometheus page, dots become underscores, and units and `_total` are appended.

/// Target of the log line at the end of each request.
pub const ACCESS_LOG: &str = "llamatower::access";
/// Target of the log's spans of requests and attempts.
pub const SPANS: &str = "llamatower::spans";
/// The instrumentation scope of spans and metrics.
pub const SCOPE: &str = "llamatower";

// === metrics ===

/// Histogram, seconds: from a request's head to the end of its response.
pub const HTTP_SERVER_REQUEST_DURATION: &str = "http.server.request.duration";
/// Gauge: requests in flight, including streams.
pub const HTTP_SERVER_ACTIVE_REQUESTS: &str = "http.server.active_requests";
/// Histogram, seconds: the same for requests that run a model, by model.
pub const GEN_AI_SERVER_REQUEST_DURATION: &str = "gen_ai.server.request.duration";
/// Histogram, seconds: from a request's head to the first byte of a stream.
pub const GEN_AI_SERVER_TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
/// Histogram, seconds: time per output token after the first, by the backend's own clock.
pub const GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";
/// Histogram, seconds: from sending an inference request to a backend to the end of its response,
/// with all attempts.
pub const GEN_AI_CLIENT_INFERENCE_DURATION: &str = "gen_ai.client.inference.duration";
/// Histogram, seconds: the same for embeddings, and in version 1.41 for all requests.
pub const GEN_AI_CLIENT_OPERATION_DURATION: &str = "gen_ai.client.operation.duration";
/// Histogram, seconds: from sending a request to the first byte of the backend's stream.
pub const GEN_AI_CLIENT_TIME_TO_FIRST_CHUNK: &str = "gen_ai.client.inference.time_to_first_chunk";
/// The same in version 1.41.
pub const GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK: &str =
    "gen_ai.client.operation.time_to_first_chunk";
/// Counter, tokens: of prompts, as counted by backends.
pub const GEN_AI_CLIENT_INPUT_TOKENS: &str = "gen_ai.client.inference.usage.input_tokens";
/// Counter, tokens: of responses, as counted by backends.
pub const GEN_AI_CLIENT_OUTPUT_TOKENS: &str = "gen_ai.client.inference.usage.output_tokens";
/// Counter, tokens: of prompts, those that the backend took from its cache. A part of
/// [`GEN_AI_CLIENT_INPUT_TOKENS`].
pub const GEN_AI_CLIENT_CACHED_TOKENS: &str =
    "gen_ai.client.inference.usage.cache_read.input_tokens";
/// Counter, tokens: of responses, those of the model's reasoning. A part of
/// [`GEN_AI_CLIENT_OUTPUT_TOKENS`].
pub const GEN_AI_CLIENT_REASONING_TOKENS: &str =
    "gen_ai.client.inference.usage.reasoning.output_tokens";
/// Histogram, tokens: of the prompt of one request.
pub const GEN_AI_CLIENT_OPERATION_INPUT_TOKENS: &str =
    "gen_ai.client.inference.operation.input_tokens";
/// Histogram, tokens: of the response of one request.
pub const GEN_AI_CLIENT_OPERATION_OUTPUT_TOKENS: &str =
    "gen_ai.client.inference.operation.output_tokens";
/// Histogram, tokens: as counted by backends, by `gen_ai.token.type`. Only in version 1.41.
pub const GEN_AI_CLIENT_TOKEN_USAGE: &str = "gen_ai.client.token.usage";
/// Histogram, seconds: the time of a request in the gateway in which it waited for nothing.
pub const OVERHEAD: &str = "llamatower.overhead";
/// Gauge: 1 if the backend is up, else 0.
pub const BACKEND_UP: &str = "llamatower.backend_up";
/// Gauge: requests in flight at a backend.
pub const BACKEND_IN_FLIGHT: &str = "llamatower.backend_in_flight";
/// Gauge: limit of concurrent requests for one model at a backend: as configured, or as learned for
/// each model that is in its memory or has requests there.
pub const BACKEND_SLOTS: &str = "llamatower.backend_slots";
/// Gauge: state of a backend's circuit breaker.
pub const BREAKER_STATE: &str = "llamatower.breaker_state";
/// Gauge: models for which a backend is avoided, because it failed with them or was too slow.
pub const BACKEND_AVOIDED_MODELS: &str = "llamatower.backend_avoided_models";
/// Gauge: idle connections to a backend; only for plain HTTP.
pub const BACKEND_IDLE_CONNECTIONS: &str = "llamatower.backend_idle_connections";
/// Counter: idle connections that a backend has closed; only for plain HTTP.
pub const BACKEND_CLOSED_CONNECTIONS: &str = "llamatower.backend_closed_connections";
/// Gauge: requests that wait for a slot, by model.
pub const QUEUE_DEPTH: &str = "llamatower.queue_depth";
/// Gauge, seconds: how long the request that waits longest has waited, by model; 0 if none waits.
pub const QUEUE_OLDEST: &str = "llamatower.queue_oldest";
/// Histogram, seconds: how long requests waited for a slot.
pub const QUEUE_WAIT: &str = "llamatower.queue_wait";
/// Counter: requests that loaded a model, by model and backend.
pub const MODEL_LOADS: &str = "llamatower.model_loads";
/// Histogram, seconds: the time of a load by the backend's own clock.
pub const MODEL_LOAD: &str = "llamatower.model_load";
/// Counter: retried attempts, by reason.
pub const RETRIES: &str = "llamatower.retries";
/// Counter: requests for an alias for which the next of its models was tried, by alias and reason.
pub const FALLBACKS: &str = "llamatower.fallbacks";
/// Counter: requests that the gateway refused, by `error.type`.
pub const REFUSALS: &str = "llamatower.refusals";
/// Counter: refusals with 429.
pub const RATE_LIMITED: &str = "llamatower.rate_limited";
/// Counter: requests whose client disconnected before the end.
pub const CANCELLED: &str = "llamatower.cancelled";
/// Counter: requests for which the cloud service was asked, by reason and result.
pub const CLOUD_REQUESTS: &str = "llamatower.cloud_requests";
/// Counter, tokens: used at the cloud service, by reason and `gen_ai.token.type`.
pub const CLOUD_TOKENS: &str = "llamatower.cloud_tokens";
/// Counter: pulls of declared models that the gateway began by itself, by backend and result.
pub const MODEL_SYNC_PULLS: &str = "llamatower.model_sync_pulls";
/// Counter: inference requests, by the name of the client's key.
pub const KEY_REQUESTS: &str = "llamatower.key_requests";
/// Counter, tokens: as counted by backends, by the name of the client's key and `gen_ai.token.type`.
pub const KEY_TOKENS: &str = "llamatower.key_tokens";
/// Gauge: inference requests that wait until another one of their client ends.
pub const KEY_CONCURRENCY_WAITING: &str = "llamatower.key_concurrency_waiting";
/// Gauge, tokens: used of a budget in its current window; those of requests under way are estimated.
pub const TOKEN_BUDGET_USED: &str = "llamatower.token_budget_used";
/// Gauge, tokens: the size of a budget.
pub const TOKEN_BUDGET_LIMIT: &str = "llamatower.token_budget_limit";
/// Counter: requests that the response cache could serve, by result.
pub const CACHE_REQUESTS: &str = "llamatower.cache_requests";
/// Gauge: cached responses.
pub const CACHE_ENTRIES: &str = "llamatower.cache_entries";
/// Gauge, bytes: the size of the cached responses.
pub const CACHE_BYTES: &str = "llamatower.cache_size";
/// Counter: requests whose key was refused, by reason.
pub const FAILED_KEYS: &str = "llamatower.failed_keys";
/// Counter: reloads of the settings, by result.
pub const RELOADS: &str = "llamatower.reloads";
/// Gauge, seconds since 1970: when the settings were reloaded last, by result.
pub const LAST_RELOAD: &str = "llamatower.last_reload_time";
/// Gauge: changed settings that need a restart.
pub const SETTINGS_PENDING: &str = "llamatower.settings_pending";
/// Gauge: 1 if usage, token budgets and cordons are kept over a restart, 0 if they cannot be written.
pub const STATE_WRITTEN: &str = "llamatower.state_written";
/// Histogram, seconds: calls of Redis, by operation and result.
pub const REDIS_CALL: &str = "llamatower.redis_call";
/// Gauge: 1 if Redis is connected, else 0.
pub const REDIS_UP: &str = "llamatower.redis_up";
/// Counter: the used tokens of so many requests were not counted in Redis, because too many waited.
pub const REDIS_SETTLEMENTS_DROPPED: &str = "llamatower.redis_settlements_dropped";
/// Gauge: gateways that share limits or divide them.
pub const GATEWAYS: &str = "llamatower.gateways";
/// Gauge: open client connections.
pub const CONNECTIONS: &str = "llamatower.connections";
/// Counter: connections that were refused because too many were open.
pub const CONNECTIONS_REFUSED: &str = "llamatower.connections_refused";
/// Counter: requests that were refused before their head was parsed: too large, too late, or not
/// HTTP/1.
pub const HEADS_REFUSED: &str = "llamatower.heads_refused";
/// Counter: HTTP/2 connections closed because the client had cancelled too many requests.
pub const HTTP2_CONNECTIONS_CLOSED: &str = "llamatower.http2_connections_closed";
/// Counter: TLS handshakes that failed or were not completed in time.
pub const TLS_HANDSHAKES_FAILED: &str = "llamatower.tls_handshakes_failed";
/// Gauge, seconds of Unix time: when the certificate in force expires.
pub const TLS_CERTIFICATE_EXPIRY: &str = "llamatower.tls_certificate_expiry";
/// Counter: changes of the files for TLS, by result.
pub const TLS_RELOADS: &str = "llamatower.tls_reloads";
/// Counter: failed calls of `accept`, for example because no file descriptor was free.
pub const ACCEPT_ERRORS: &str = "llamatower.accept_errors";
/// Counter: log lines that were dropped because the log's reader did not read.
pub const LOG_LINES_DROPPED: &str = "llamatower.log_lines_dropped";
/// Counter: requests that began while the OTLP endpoint did not take traces, also those that the sampler
/// would have left out.
pub const REQUESTS_WITHOUT_TRACE: &str = "llamatower.requests_without_trace";
/// Gauge, always 1, with the running version as attributes.
pub const BUILD_INFO: &str = "llamatower.build_info";
/// Gauge: threads that serve requests.
pub const TOKIO_WORKERS: &str = "tokio.workers";
/// Gauge: tasks of the runtime that have not ended.
pub const TOKIO_ALIVE_TASKS: &str = "tokio.alive_tasks";
/// Gauge: tasks that wait for any of the workers.
pub const TOKIO_GLOBAL_QUEUE_DEPTH: &str = "tokio.global_queue_depth";
/// Counter, seconds: how long the workers were busy, together.
pub const TOKIO_WORKER_BUSY: &str = "tokio.worker_busy";
/// Gauge, seconds since 1970: when the process started. The name is Prometheus' own.
pub const PROCESS_START_TIME: &str = "process_start_time";
/// Counter, seconds: processor time of the process.
pub const PROCESS_CPU_TIME: &str = "process.cpu.time";
/// Gauge, bytes: resident memory of the process.
pub const PROCESS_MEMORY_USAGE: &str = "process.memory.usage";
/// Gauge: open file descriptors, including sockets.
pub const PROCESS_OPEN_FILE_DESCRIPTORS: &str = "process.open_file_descriptor.count";

macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(#[doc = concat!("Attribute `", $text, "`.")] $(#[$doc])* pub const $name: &str = $text;)*
    };
}

// === attributes of the conventions ===

attributes! {
    ERROR_TYPE = "error.type";
    HTTP_REQUEST_METHOD = "http.request.method";
    /// How often this request was sent before.
    HTTP_REQUEST_RESEND_COUNT = "http.request.resend_count";
    HTTP_RESPONSE_STATUS_CODE = "http.response.status_code";
    HTTP_ROUTE = "http.route";
    URL_PATH = "url.path";
    URL_SCHEME = "url.scheme";
    /// Of an attempt.
    URL_FULL = "url.full";
    NETWORK_PROTOCOL_VERSION = "network.protocol.version";
    USER_AGENT_ORIGINAL = "user_agent.original";
    /// Behind trusted proxies, the client's address, not the nearest proxy's.
    CLIENT_ADDRESS = "client.address";
    SERVER_ADDRESS = "server.address";
    SERVER_PORT = "server.port";
    GEN_AI_OPERATION_NAME = "gen_ai.operation.name";
    GEN_AI_PROVIDER_NAME = "gen_ai.provider.name";
    GEN_AI_REQUEST_MODEL = "gen_ai.request.model";
    /// The model that answered: another one than the request's if that is an alias.
    GEN_AI_RESPONSE_MODEL = "gen_ai.response.model";
    GEN_AI_REQUEST_STREAM = "gen_ai.request.stream";
    GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens";
    GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens";
    /// `error` if the response broke off or the client left. Other reasons are not read.
    GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons";
    /// Seconds from first sending the request, of streams.
    GEN_AI_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk";
    /// What the tokens stand for.
    GEN_AI_TOKEN_MODALITY = "gen_ai.token.modality";
    /// `input` or `output`.
    GEN_AI_TOKEN_TYPE = "gen_ai.token.type";
    /// An attribute of the resource.
    SERVICE_VERSION = "service.version";
}

/// The value of `error.type` for an error without its own name.
pub const ERROR_TYPE_OTHER: &str = "_OTHER";
/// The value of `http.request.method` for a method that HTTP does not define.
pub const METHOD_OTHER: &str = "_OTHER";
/// The value of `gen_ai.provider.name` for a server that uses Ollama's dialects.
pub const OLLAMA: &str = "ollama";
/// The value of `gen_ai.provider.name` for Groq.
pub const GROQ: &str = "groq";
/// The value of `gen_ai.provider.name` for another OpenAI-compatible server. `openai` would be OpenAI
/// itself.
pub const OPENAI_COMPATIBLE: &str = "openai_compatible";

// === our own attributes ===

attributes! {
    /// The backend's name in the settings.
    BACKEND = "llamatower.backend";
    /// How the request ended (`complete`, `cancelled`, `broken`).
    ENDING = "llamatower.ending";
    /// The number of attempts; 0 if the gateway has answered by itself.
    ATTEMPTS = "llamatower.attempts";
    /// Seconds until the model is in memory: a term of the cost by which the backend was chosen.
    CHOICE_LOAD = "llamatower.choice.load";
    /// Seconds until a slot is free.
    CHOICE_WAIT = "llamatower.choice.wait";
    /// Seconds to process the prompt and to generate the response.
    CHOICE_WORK = "llamatower.choice.work";
    /// Seconds of the work that the prefix cache saves, as a negative number.
    CHOICE_AFFINITY = "llamatower.choice.affinity";
    /// Seconds in the queue.
    QUEUED = "llamatower.queued";
    /// Seconds of the load, by the backend's clock.
    LOAD_TIME = "llamatower.load_time";
    /// The request's id, as the client sees it.
    REQUEST_ID = "llamatower.request_id";
    /// The name of the client's key.
    IDENTITY = "llamatower.identity";
    /// Why an attempt was retried, or why the cloud service was asked.
    REASON = "reason";
    /// What became of a question to the cloud service, of a pull, or of a call of Redis.
    RESULT = "result";
    /// What Redis was called for.
    OPERATION = "operation";
    /// The running version.
    VERSION = "version";
    /// The alias that a request asked for.
    ALIAS = "llamatower.alias";
    /// Whose budget it is.
    BUDGET = "budget";
    /// The window of a budget.
    WINDOW = "window";
    /// What a listener serves.
    LISTENER = "listener";
}

// === events of the span of a request that runs a model ===

/// The request has left the queue, with or without a slot.
pub const EVENT_QUEUE: &str = "llamatower.queue_left";
/// A backend was chosen, and the request is sent to it.
pub const EVENT_CHOICE: &str = "llamatower.backend_chosen";
/// The model is in memory; only if it had to be loaded.
pub const EVENT_LOADED: &str = "llamatower.model_loaded";
/// The first chunk of a stream.
pub const EVENT_FIRST_CHUNK: &str = "llamatower.first_chunk";

/// The value of `gen_ai.token.modality` if the backend gives no breakdown.
pub const MODALITY_UNKNOWN: &str = "unknown";
/// The label value for everything that is not in a bounded set.
pub const OTHER: &str = "other";

// === values of labels ===

/// The values of `error.type` in [`REFUSALS`]: the kinds of failures with which the gateway refuses
/// a request before a backend is asked.
pub const REFUSALS_BY_KIND: [&str; 56] = [
    "ambiguous_credential",
    "ambiguous_key",
    "at_capacity",
    "backend_down",
    "backend_unreachable",
    "body_memory_exhausted",
    "body_read_timeout",
    "body_too_large",
    "cancelled_by_operator",
    "client_body_failed",
    "cloud_not_allowed",
    "cordoned",
    "expired_key",
    "foreign_host",
    "foreign_origin",
    "head_timeout",
    "head_too_large",
    "invalid_keep_alive",
    "invalid_model_name",
    "invalid_user",
    "key_concurrency",
    "key_queue_full",
    "limit_reached",
    "malformed_body",
    "malformed_head",
    "malformed_host",
    "malformed_request",
    "management_refused",
    "missing_body",
    "missing_key",
    "model_not_allowed",
    "model_not_found",
    "no_capable_model",
    "no_client_certificate",
    "no_websocket",
    "panic",
    "plain_http",
    "queue_full",
    "queue_timeout",
    "rate_limited",
    "request_body_broken",
    "request_body_timeout",
    "shutting_down",
    "target_too_long",
    "tokens_exhausted",
    "too_many_failed_keys",
    "too_many_connections",
    "unknown_expectation",
    "unknown_path",
    "unlimited_output",
    "unload_refused",
    "unsupported_encoding",
    "unsupported_transfer_encoding",
    "unusable_targets",
    "wrong_key",
    "wrong_method",
];
/// The values of `error.type` in [`RATE_LIMITED`]: those with status 429.
pub const RATE_LIMITED_BY_KIND: [&str; 5] = [
    "key_concurrency",
    "key_queue_full",
    "rate_limited",
    "tokens_exhausted",
    "too_many_failed_keys",
];
/// The reasons in [`CLOUD_REQUESTS`].
pub const CLOUD_REASONS: [&str; 3] = ["down", "missing", "busy"];
/// The results in [`CLOUD_REQUESTS`]: it answered; it failed or refused the request; it rests; no tokens
/// are left of the day's.
pub const CLOUD_RESULTS: [&str; 4] = ["answered", "failed", "resting", "no_tokens"];
/// The reasons in [`FALLBACKS`].
pub const FALLBACK_REASONS: [&str; 2] = ["missing", "unavailable"];
/// The results in [`RELOADS`].
pub const RELOAD_RESULTS: [&str; 2] = ["applied", "failed"];
/// The value of [`IDENTITY`] for requests without a key.
pub const ANONYMOUS: &str = "anonymous";
/// The reasons in [`RETRIES`]: the kinds of retryable failures, and the retryable statuses.
pub const RETRY_REASONS: [&str; 12] = [
    "backend_down",
    "connect_failed",
    "connect_timeout",
    "connection_lost",
    "first_byte_timeout",
    "invalid_answer",
    "no_equivalent",
    "not_offered",
    "stale_connection",
    "status_500",
    "status_503",
    "token_refused",
];

// === buckets ===

/// The buckets of the HTTP convention.
pub const HTTP_SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// The buckets of the GenAI convention for whole requests.
pub const GEN_AI_SECONDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
/// The buckets of the GenAI convention for one token.
pub const OUTPUT_TOKEN_SECONDS: [f64; 13] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
/// Buckets for loads of models: from the page cache to a slow disk.
pub const LOAD_SECONDS: [f64; 14] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
/// Buckets for calls of Redis: from this machine to beyond the default time-out.
pub const REDIS_SECONDS: [f64; 10] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
];
/// The buckets of the GenAI convention for numbers of tokens.
pub const TOKENS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
/// The buckets of the GenAI convention for the first token, extended for models that have to be
/// loaded.
pub const FIRST_TOKEN_SECONDS: [f64; 21] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    15.0, 20.0, 30.0, 45.0, 60.0,
];
/// Buckets for the gateway's own time: from 10 µs to 1 s.
pub const OVERHEAD_SECONDS: [f64; 16] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0,
];
