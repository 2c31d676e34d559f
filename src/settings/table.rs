//! The table of all settings: names, types, defaults and descriptions.
//!
//! [`Settings`] and its sections, `llamatower check`, the reference in the guide, the list of known
//! variables and the tests are all derived from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::Budget;

use super::parse::*;
use super::reader::Reader;
use super::secret::Secret;
use super::setting::{Form, Setting};
use super::values::{ExtraPath, KeyLimits, ListingRate, ServerName, SizeOrShare, Slots};
use crate::edge::{BasePath, Hosts, ListenAddr, Origins, TrustedProxies};
use crate::ollama::upstream::{Address, Authorities, Authorization};
use crate::telemetry::LogFormat;

/// A row is `field: type = parser, "VARIABLE" Form "default" "description"`; its key in the file is
/// `section.field`.
macro_rules! settings {
    ($($(#[$doc:meta])* $section:ident: $Section:ident {
        $($field:ident: $type:ty = $parse:expr, $variable:literal $form:ident $default:literal $about:literal)*
    })*) => {
        /// All settings, by section.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            key: concat!(stringify!($section), ".", stringify!($field)),
            variable: $variable,
            form: Form::$form,
            default: $default,
            about: $about,
        },)*)*];

        /// All settings, by section.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(#[$doc])* pub $section: $Section,)*
        }

        $($(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $Section {
            $(#[doc = $about] pub $field: $type,)*
        })*

        impl Settings {
            /// Reads every setting, so that all errors are reported together.
            pub(super) fn read(reader: &mut Reader) -> Option<Self> {
                $(let $section = {
                    let ($($field,)*) = ($(
                        reader.parsed(
                            concat!(stringify!($section), ".", stringify!($field)),
                            $parse,
                        ),
                    )*);
                    (|| Some($Section { $($field: $field?,)* }))()
                };)*
                Some(Self { $($section: $section?,)* })
            }
        }
    };
}

settings! {
    /// Listeners.
    listen: Listen {
        public: Vec<ListenAddr> = addresses, "LLAMATOWER_LISTEN" List "127.0.0.1:3000"
            "Where clients connect: IPv4 and IPv6 addresses with a port, and `unix:/path`. Set it to `0.0.0.0:3000` for other machines."
        admin: Vec<ListenAddr> = or_off(addresses), "LLAMATOWER_ADMIN_LISTEN" List "127.0.0.1:3001"
            "Where `/metrics` and `/health` are served for operators; `off` for nowhere. Open it to other machines, as `0.0.0.0:3001`, only where a collector must reach it and strangers cannot."
        base_path: Option<BasePath> = unless("/", some(plain)), "LLAMATOWER_BASE_PATH" Text ""
            "A prefix of all paths, like `/ollama`, for clients with `OLLAMA_HOST=https://gateway/ollama`. Set it where the gateway shares an address with other services and its prefix is not taken off on the way."
        origins: Origins = origins, "OLLAMA_ORIGINS" List ""
            "Origins of web pages that may call besides Ollama's defaults, each with at most one `*`. Add the address of each chat page that is not on the machine of its browser."
        allowed_hosts: Hosts = hosts, "LLAMATOWER_ALLOWED_HOSTS" List ""
            "Names in `Host` that a listener on loopback answers to, besides `localhost`, this machine's name and private addresses: `gateway.example`, `*.example.com`, or `*` for all. The check of names keeps out web pages whose own name points to 127.0.0.1; with `LLAMATOWER_API_KEYS` it is off for clients. Add your public name where a proxy on the same machine passes it on and no keys are asked for."
        trusted_proxies: TrustedProxies = trusted_proxies, "LLAMATOWER_TRUSTED_PROXIES" List ""
            "Proxies from which the client's address is read, in `X-Forwarded-For` or `Forwarded`, for limits, logs and traces: addresses, networks like `10.0.0.0/8`, and `unix` for all that connect by a unix socket. Set it where clients come through a proxy, to exactly its addresses: a client that is trusted can claim any address."
        max_connections: NonZeroUsize = count, "LLAMATOWER_MAX_CONNECTIONS" Count "4096"
            "Client connections open at a time; one more is answered 503 and closed. Raise it when `/metrics` shows connections refused: a connection with a stream takes up to 45 kB."
        max_head_bytes: usize = head_size, "LLAMATOWER_MAX_HEAD_BYTES" Size "128KiB"
            "The largest head of a request: its line and its header fields; a larger one is answered 431. Raise it where cookies or tokens of other services make heads larger."
        max_head_fields: NonZeroUsize = count, "LLAMATOWER_MAX_HEAD_FIELDS" Count "100"
            "The most header fields of a request; more are answered 431. Raise it where proxies on the way add more."
    }
    /// The Ollama servers.
    backends: Backends {
        urls: Vec<Address> = backends, "OLLAMA_URL" List "http://localhost:11434"
            "The Ollama servers, one or several, like `http://gpu-1:11434` or, over TLS and under a path, `https://gpu.example/ollama`. A name stands for all of its addresses: a server each, found and lost as they come and go. Name all of them: a request goes to one that has its model."
        tokens: Vec<(ServerName, Authorization)> = tokens, "LLAMATOWER_BACKEND_TOKENS" ServerSecrets ""
            "What servers behind a proxy of their own want to be shown in `Authorization`, each `HOST[:PORT]=TOKEN` for a bearer token or `HOST[:PORT]=basic USER:PASSWORD`; with commas, or a line each. Basic is taken in base64 as well, for passwords with commas. Set it where a server answers 401 or 403 without."
        ca_file: Option<Authorities> = optional(authorities), "LLAMATOWER_BACKEND_CA_FILE" File ""
            "A file of certificates (PEM) of authorities whose word for `https` servers is taken besides that of the system's. Set it where the certificates of servers come from an authority of your own."
        default_model: Option<Arc<str>> = optional(text), "DEFAULT_OLLAMA_MODEL" Text ""
            "The model of an inference request that names none; without it such a request is the backend's to refuse. Set it for clients that send none."
        management: Option<ServerName> = optional(server_name), "LLAMATOWER_MANAGEMENT_BACKEND" Text ""
            "Which of the servers pulls, creates, copies and deletes models; the first if not set. Set it to the server where models are kept."
        slots: Slots = or_off(slots), "LLAMATOWER_SLOTS" Slots "off"
            "How many requests a server is sent at a time for one model, as in its `OLLAMA_NUM_PARALLEL`; further ones wait in the gateway, where they are ordered, bounded and seen. `4` for all servers, `gpu-1:11434=4` for one, several with commas. Set it where one busy model delays the others."
        extra_paths: Vec<ExtraPath> = extra_paths, "LLAMATOWER_EXTRA_PATHS" List ""
            "Exact paths that Ollama has and this version does not know, like `POST /api/rerank`; their JSON body is routed by its `model`. Add one when a newer Ollama answers it and the gateway says 404."
        dns_servers: Vec<SocketAddr> = list(dns_server), "LLAMATOWER_DNS_SERVERS" List ""
            "Who is asked for the addresses of servers, like `10.0.0.2` or `127.0.0.1:8600`; the system's own servers if not set. Set it where servers are found by a name service of their own, like Consul."
        dns_min_ttl: Duration = duration, "LLAMATOWER_DNS_MIN_TTL" Duration "1s"
            "The addresses of servers are asked for again when they expire, but not earlier than this. Raise it when the resolver is asked too often."
        probe_interval: Duration = duration, "LLAMATOWER_PROBE_INTERVAL" Duration "5s"
            "How often each server is asked for its models; one that is down is asked every second. Raise it for very many servers."
        probe_timeout: Duration = duration, "LLAMATOWER_PROBE_TIMEOUT" Duration "2s"
            "How long a server may take to answer the gateway's own questions before it counts as down. Raise it when busy servers are taken for dead ones."
        pool_idle: NonZeroUsize = count, "LLAMATOWER_POOL_IDLE" Count "128"
            "Idle connections kept to each server. Raise it when more requests than this come and go at a time."
        pool_idle_timeout: Duration = duration, "LLAMATOWER_POOL_IDLE_TIMEOUT" Duration "90s"
            "How long an idle connection to a server is kept. Lower it when something between closes idle connections earlier."
    }
    /// Time-outs; `None` means off.
    timeouts: Timeouts {
        ollama: Option<Duration> = optional(duration), "OLLAMA_TIMEOUT" OptionalDuration ""
            "The longest wait between two bytes of an answer, the first included; never a total. When set it is the default of `LLAMATOWER_FIRST_BYTE_TIMEOUT` and `LLAMATOWER_IDLE_TIMEOUT`. Set it to have one clock for both."
        connect: Duration = duration, "LLAMATOWER_CONNECT_TIMEOUT" Duration "2s"
            "How long a connection to a server may take to open; then another server is asked. Raise it for servers far away."
        first_byte: Option<Duration> = optional(duration), "LLAMATOWER_FIRST_BYTE_TIMEOUT" OptionalDuration "900s"
            "How long a server may say nothing after a request was sent. Ollama sends nothing before a model is loaded and the prompt is read, and with `stream:false` nothing before the answer is whole. Lower it to give up sooner on servers that hang, raise it for long answers without streaming."
        idle: Option<Duration> = optional(duration), "LLAMATOWER_IDLE_TIMEOUT" OptionalDuration "900s"
            "How long a server may pause within an answer. Ollama sends nothing while it collects the arguments of a tool call, which takes minutes for a long file. The clock is only for a server that hangs: one that dies ends its answer by itself, and one whose machine is gone is found by TCP keep-alive. Lower it where no request has tools."
        management: Option<Duration> = optional(duration), "LLAMATOWER_MANAGEMENT_TIMEOUT" OptionalDuration "off"
            "How long a server may say nothing before and within the answer to a request that manages models (pull, push, create, copy, delete, blobs), in the place of the first-byte and the idle time-out. Ollama sends nothing while it verifies what it has fetched, and with `stream:false` nothing before all is done. Set it where pulls are started by programs that wait for ever."
        total: Option<Duration> = optional(duration), "LLAMATOWER_TOTAL_TIMEOUT" OptionalDuration "off"
            "How long an answer may take in all. A long answer is no fault, so there is none by default. Set it where a runaway answer costs more than one cut off."
        heartbeat: Option<Duration> = optional(duration), "LLAMATOWER_HEARTBEAT" OptionalDuration "off"
            "Event streams (the `/v1` routes) are sent a comment each time that they have been waited for so long, in the queue, while a model is loaded or while a prompt is read: clients skip it, and what gives up on silence goes on waiting. The answer has its status 200 from then on, so a later failure is told as an error event. Set it below the time-out of a proxy or client, like `20s`."
        write_stall: Duration = duration, "LLAMATOWER_WRITE_STALL_TIMEOUT" Duration "60s"
            "How long a client may read nothing of what it is sent before its request is given up. Lower it when slots are held by clients that have gone."
        header: Duration = duration, "LLAMATOWER_HEADER_TIMEOUT" Duration "30s"
            "How long a client may take to send the head of a request. Lower it where strangers can connect."
        keep_alive: Duration = duration, "LLAMATOWER_KEEP_ALIVE_TIMEOUT" Duration "120s"
            "How long a client's idle connection is kept; longer than what clients keep, so that they close first. Raise it above the idle time-out of a load balancer in front."
        body_read: Duration = duration, "LLAMATOWER_BODY_READ_TIMEOUT" Duration "30s"
            "How long a client may pause while it sends the body of a request. Raise it for clients on slow links."
        drain_delay: Duration = pause, "LLAMATOWER_DRAIN_DELAY" Duration "1s"
            "After SIGTERM: how long idle connections stay open, while `/health` says 503. Raise it to how long whoever balances in front takes to see that."
        drain: Duration = pause, "LLAMATOWER_DRAIN_TIMEOUT" Duration "30s"
            "After that: how long requests under way may take before they are cut off with an error. Make it as long as your longest answers, and the grace period of whoever stops the gateway longer still."
    }
    /// Limits.
    limits: Limits {
        in_flight: NonZeroUsize = count, "LLAMATOWER_MAX_IN_FLIGHT" Count "4096"
            "Requests under way at a time; further ones are refused at once (503). Keep it above what may wait in all queues."
        body: u64 = size, "LLAMATOWER_BODY_LIMIT" Size "128MiB"
            "The largest body of an inference request; images count. Uploads of blobs are not limited. Raise it for many or large images."
        body_memory: SizeOrShare = size_or_share, "LLAMATOWER_BODY_MEMORY" SizeOrShare "25%"
            "Memory for the bodies of all requests under way; a share is one of the memory limit of the container or machine. Raise it when requests are refused for their size while memory is free."
        first_byte_target: Option<Duration> = optional(duration), "LLAMATOWER_FIRST_BYTE_TARGET" OptionalDuration "off"
            "A limit on requests under way that finds its own height: it falls while streams begin later than this, and rises while they do not; what exceeds it is refused at once (503). Set it for servers whose slots are not known; with `LLAMATOWER_SLOTS` requests wait instead."
        rate: Option<Quota> = optional(rate), "LLAMATOWER_RATE_LIMIT" Rate "off"
            "Requests that run a model, from all clients together; further ones are refused (429). Set it to what all servers together can bear."
        key_rate: Option<Quota> = optional(rate), "LLAMATOWER_KEY_RATE_LIMIT" Rate "off"
            "Requests that run a model, from each client; further ones are refused (429). A client is a key, or an address where no key is shown. Set it where one client could take the servers from the others."
        listing_rate: ListingRate = listing_rate, "LLAMATOWER_LISTING_RATE_LIMIT" RateOrAuto "auto"
            "Requests that run no model (lists, `/api/show`, management), from each client; further ones are refused (429). `auto` is `50/s` where requests that run a model are limited, and no limit elsewhere. `/`, `/api/version` and `/health` are never limited. Raise it for editors and chat pages that are refused their list of models."
        key_tokens: Vec<Budget> = or_off(list(token_budget)), "LLAMATOWER_KEY_TOKEN_LIMIT" TokenBudgets "off"
            "Tokens that each client may use, prompts and answers together, in each minute, day or month of the calendar; several with commas. Set it where clients have shares of what servers can compute."
        key_limits: BTreeMap<Arc<str>, KeyLimits> = key_limits, "LLAMATOWER_KEY_LIMITS" KeyLimits ""
            "What single keys have instead, by the names in `LLAMATOWER_API_KEYS`: `ada:rate=60/m`, `ada:tokens=100000/day`, `ada:weight=2` (a share of the slots twice as large), `ada:priority=high` (or `low`); several with commas. Set it for the few that need more, or deserve less, than all."
        time_zone: TimeZone = time_zone, "LLAMATOWER_TIME_ZONE" Text "UTC"
            "The time zone, like `Europe/Zurich`, at whose midnight days and months of token limits begin. Set it to where your clients are."
    }
    /// The queue for slots.
    queue: Queue {
        max_waiting: NonZeroUsize = count, "LLAMATOWER_QUEUE_MAX_WAITING" Count "512"
            "Requests that may wait for a slot of one model; further ones are refused at once (503). Lower it when clients would rather be told than wait."
        max_waiting_per_key: Option<NonZeroUsize> = optional(count), "LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY" OptionalCount "off"
            "Those of one client among them; further ones are refused (429). Set it where one client could fill the queue."
        max_predicted_wait: Option<Duration> = optional(duration), "LLAMATOWER_QUEUE_MAX_PREDICTED_WAIT" OptionalDuration "5m"
            "A request that would wait longer than this, by how long requests took of late, is refused at once (503). Set it to how long your clients wait, as an early no is better than a late one."
        max_wait: Option<Duration> = optional(duration), "LLAMATOWER_QUEUE_MAX_WAIT" OptionalDuration "5m"
            "A request that has waited so long is refused (503). Set it to how long your clients wait."
        ageing: Option<Duration> = optional(duration), "LLAMATOWER_QUEUE_AGEING" OptionalDuration "30s"
            "After so long a waiting request rises by one priority, so that the urgent do not starve the others. Raise it to let the urgent go first for longer; `off` lets them always."
    }
    /// The circuit breaker of a backend.
    breaker: Breaking {
        failures: Option<NonZeroU32> = optional(count), "LLAMATOWER_BREAKER_FAILURES" OptionalCount "5"
            "After this many failures in a row the breaker of a server opens: while another server can serve a request, this one gets none for a while. Where no other can, the breaker stops nothing. Failures are time-outs, connections that break, 502 and 504; a server that refuses connections counts as down without this. Lower it where another server can take over at once."
        ratio: f64 = number, "LLAMATOWER_BREAKER_RATIO" Number "0.5"
            "The breaker opens as well when this share of the recent requests has failed; above 1 it never does. Lower it for servers that fail by half."
        min_requests: NonZeroU32 = count, "LLAMATOWER_BREAKER_MIN_REQUESTS" Count "20"
            "The fewest recent requests for which that share counts. Lower it where there are few requests."
        window: Duration = duration, "LLAMATOWER_BREAKER_WINDOW" Duration "30s"
            "How far back that share looks. Raise it where requests are few and slow."
        open_for: Duration = duration, "LLAMATOWER_BREAKER_OPEN_FOR" Duration "2s"
            "How long a breaker stays open; then one request tries the server. Twice as long each time that it fails. Raise it for servers that take long to come back."
        open_at_most: Duration = duration, "LLAMATOWER_BREAKER_OPEN_AT_MOST" Duration "60s"
            "The longest that a breaker stays open. Lower it to have a repaired server back sooner."
    }
    /// The cache of responses.
    cache: Cache {
        max_bytes: Option<u64> = optional(size), "LLAMATOWER_CACHE" OptionalSize "off"
            "Memory for answers that need not be computed twice: embeddings, and requests that are deterministic by their own words (temperature 0 or a seed). Clients never see each other's; `Cache-Status` says what was done. Set it where the same texts are embedded again and again."
        time_to_live: Option<Duration> = optional(duration), "LLAMATOWER_CACHE_TIME_TO_LIVE" OptionalDuration "1h"
            "How long such an answer is kept. Lower it to hold less, raise it when the same texts come again."
    }
    /// Retries.
    retry: Retry {
        attempts: NonZeroU32 = count, "LLAMATOWER_RETRY_ATTEMPTS" Count "3"
            "How many times a request is sent in all while its client has not seen a byte; 1 for no retries. A request that a server answered with 503 is sent again only to another server. Raise it for many servers that come and go."
        budget_ratio: f64 = number, "LLAMATOWER_RETRY_BUDGET_RATIO" Number "0.2"
            "Retries allowed for each request of the last seconds, over all requests. Lower it where retries add to an overload."
        budget_floor: f64 = number, "LLAMATOWER_RETRY_BUDGET_FLOOR" Number "10"
            "Retries a second that are allowed however few requests there are. Raise it where requests are few and servers come and go."
    }
    /// API keys.
    keys: Keys {
        api: Vec<Secret> = digests, "LLAMATOWER_API_KEYS" SecretList ""
            "Digests of the keys that clients must show, each `name=sha256:<64 hex digits>` as `llamatower keygen` prints it; without any, no key is asked for. Set it wherever others than you can connect."
        admin: Vec<Secret> = digests, "LLAMATOWER_ADMIN_KEYS" SecretList ""
            "Digests of the keys that may also manage models (pull, push, create, copy, delete, blobs); without any, management is off. Set it for whoever may change what models there are."
        required: bool = switch, "LLAMATOWER_REQUIRE_KEYS" Switch "false"
            "Whether the gateway refuses to start (exit code 2) when `LLAMATOWER_API_KEYS` holds no key. Set it to `true` wherever others than you can connect: a Secret or a variable that is missing then stops the gateway in place of opening it."
        groq: Option<Secret> = optional(secret), "GROQ_API_KEY" Secret ""
            "A key of the cloud service that requests may overflow to. Nothing uses it yet."
    }
    /// Logs, metrics and traces.
    telemetry: Telemetry {
        log: String = log_filter, "LLAMATOWER_LOG" Text "info"
            "Which log lines are written, in the syntax of `RUST_LOG`; `info,llamatower::access=off` drops the line for each request. A word that is neither a level (`off`, `error`, `warn`, `info`, `debug`, `trace`) nor a part of the program (`llamatower`, `hyper`, ..) is an error. Set it to `debug` for a fault that the lines do not explain."
        log_format: LogFormat = one_of(&LOG_FORMATS), "LLAMATOWER_LOG_FORMAT" Text "auto"
            "`human`, `json`, or `auto`: human on a terminal, JSON elsewhere. Set it where the guess is wrong."
        trust_trace: bool = switch, "LLAMATOWER_TRUST_TRACE" Switch "true"
            "Whether a trace that a client names in `traceparent` is continued. Set it to `false` where strangers can connect."
    }
    /// Threads.
    runtime: Runtime {
        worker_threads: Option<NonZeroUsize> = unless("auto", some(count)), "LLAMATOWER_WORKER_THREADS" Text "auto"
            "Threads that serve requests; `auto` for as many as there are CPUs. Set 1 where a CPU is shared with a model."
    }    /// How settings are read.
    config: Config {
        allow_unknown: bool = switch, "LLAMATOWER_ALLOW_UNKNOWN" Switch "false"
            "Whether a variable that begins with `LLAMATOWER_` and is no setting, or a key of the file that is none, is a warning in place of an error. Set it to `true` to run an older version with the settings of a newer one, or where other programs have variables with this prefix."
    }
}
