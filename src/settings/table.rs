//! The table of all settings: names, types, defaults and descriptions.
//!
//! [`Settings`] and its sections, `llamatower check`, the reference in the guide, the list of known
//! variables and the tests are all derived from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use llamatower_layers::model_alias::Aliases;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::redis::RedisAddress;
use llamatower_layers::token_limit::Budget;

use super::aliases::{aliases, key_models};
use super::cloud::{CloudModels, CloudWhen, cloud_models, cloud_url, cloud_when};
use super::declared_models::DeclaredModels;
use super::keys_file::KeysFile;
use super::parse::*;
use super::reader::Reader;
use super::secret::Secret;
use super::setting::{Form, Setting};
use super::tls::{CLIENT_CERTIFICATES, HTTP2, Http2, TlsListeners, client_names, tls_listeners};
use super::values::{
    ExtraPath, KeyLimits, ListingRate, NumCtx, PerServer, PlacedModel, ServerName, SizeOrShare,
};
use crate::edge::{BasePath, Hosts, ListenAddr, Origins, TrustedProxies};
use crate::ollama::fleet::ModelPattern;
use crate::ollama::fleet::SlotRule;
use crate::ollama::upstream::{Address, Authorities, Authorization};
use crate::shared::{PeersName, WithoutRedis};
use crate::telemetry::{LogFormat, Semconv};
use crate::tls::{ClientCertificates, ClientNames};

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
            /// The table `[models]` of the file: the models that servers are to have.
            pub declared: Arc<DeclaredModels>,
            /// The keys of the keys file. Their limits and models are in the other settings, too.
            pub keys_file: Arc<KeysFile>,
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
                Some(Self {
                    $($section: $section?,)*
                    declared: reader.texts.declared().clone(),
                    keys_file: Arc::default(),
                })
            }
        }
    };
}

settings! {
    /// Client connections.
    listen: Listen {
        public: Vec<ListenAddr> = addresses, "LLAMATOWER_LISTEN" List "127.0.0.1:3000"
            "The addresses where clients connect: IPv4 and IPv6 addresses with a port, and `unix:/path`. Set `0.0.0.0:3000` to accept clients from other machines."
        admin: Vec<ListenAddr> = or_off(addresses), "LLAMATOWER_ADMIN_LISTEN" List "127.0.0.1:3001"
            "The addresses that serve `/metrics`, `/status` and `/health` for operators; `off` for none. From other machines `/metrics` (which names keys) and `/status` need no key; the status page, usage and changes need an administrator's. Open it to other machines, for example with `0.0.0.0:3001`, only in a trusted network."
        metrics: Vec<ListenAddr> = or_off(addresses), "LLAMATOWER_METRICS_LISTEN" List "off"
            "Addresses that serve `/metrics` and `/health` and nothing else; `off` for none. They ask for no keys, and the metrics tell what each key uses by its name. The admin listener keeps `/metrics`. Set it, for example to `0.0.0.0:9090`, if the scraper is on another machine and the admin listener should not be reachable from there."
        base_path: Option<BasePath> = unless("/", some(plain)), "LLAMATOWER_BASE_PATH" Text ""
            "A prefix of all paths, like `/ollama`, for clients with `OLLAMA_HOST=https://gateway/ollama`. Set it if the gateway shares an address with other services and the proxy in front does not remove the prefix."
        origins: Origins = origins, "OLLAMA_ORIGINS" List ""
            "Origins of web pages that may call the gateway, besides Ollama's defaults; each may hold one `*`. Add the origin of each chat page that is not served from the user's own machine."
        allowed_hosts: Hosts = hosts, "LLAMATOWER_ALLOWED_HOSTS" List ""
            "Names that a loopback listener accepts in `Host`, besides `localhost`, this machine's name and private addresses: `gateway.example`, `*.example.com`, or `*` for all. The check protects against DNS rebinding by web pages; it is off for clients if `LLAMATOWER_API_KEYS` is set. Add your public name if a proxy on the same machine passes it on and you use no keys."
        trusted_proxies: TrustedProxies = trusted_proxies, "LLAMATOWER_TRUSTED_PROXIES" List ""
            "Proxies whose `X-Forwarded-For` or `Forwarded` gives the client's address for limits, logs and traces: addresses, networks like `10.0.0.0/8`, and `unix` for all connections by a unix socket. Set it to exactly the addresses of your proxies, because a trusted peer can claim any client address, and may cancel any number of requests of an HTTP/2 connection."
        proxy_protocol: bool = one_of(&PROXY_PROTOCOL), "LLAMATOWER_PROXY_PROTOCOL" Text "off"
            "Whether each connection to `LLAMATOWER_LISTEN` must begin with a header of the PROXY protocol (version 1 or 2), which tells the client's address: `off` or `required`. With `required`, connections that are not from `LLAMATOWER_TRUSTED_PROXIES`, or have no such header, are closed, also those of health checks that do not send it; `/health` of `LLAMATOWER_ADMIN_LISTEN` needs none. Set it if a load balancer passes on connections and not requests, and sends this header."
        max_connections: NonZeroUsize = count, "LLAMATOWER_MAX_CONNECTIONS" Count "4096"
            "The maximum number of open client connections; further ones are answered with 503 and closed. Raise it if `/metrics` shows refused connections; a connection with a stream takes up to 45 kB."
        max_head_bytes: usize = head_size, "LLAMATOWER_MAX_HEAD_BYTES" Size "128KiB"
            "The maximum size of a request head (request line and header fields); a larger one is answered with 431. Raise it if cookies or tokens of other services make heads larger."
        max_head_fields: NonZeroUsize = count, "LLAMATOWER_MAX_HEAD_FIELDS" Count "100"
            "The maximum number of header fields in a request; a request with more is answered with 431. Raise it if proxies in front add many fields."
        http2: Http2 = one_of(&HTTP2), "LLAMATOWER_HTTP2" Text "tls"
            "Where HTTP/2 is served: `tls` over TLS, to clients that choose it; `all` also without TLS, to clients that begin with it (prior knowledge); `off` nowhere. Set it to `all` behind a proxy that speaks HTTP/2 to its servers without TLS."
    }
    /// TLS on the listeners.
    tls: Tls {
        cert: Option<PathBuf> = optional(text), "LLAMATOWER_TLS_CERT" File ""
            "The PEM file of the gateway's certificate, followed by those of intermediate authorities. With it, `LLAMATOWER_LISTEN` speaks TLS (see `LLAMATOWER_TLS_LISTENERS`). A change of the file is in force within a second, for new connections. Set it if clients connect over a network that is not trusted and no proxy in front speaks TLS."
        key: Option<PathBuf> = optional(text), "LLAMATOWER_TLS_KEY" File ""
            "The PEM file of the certificate's private key, without a password. It is read again together with the certificate."
        client_ca: Option<PathBuf> = optional(text), "LLAMATOWER_TLS_CLIENT_CA" File ""
            "A PEM file of the authorities that sign clients' certificates; a client with a certificate of another authority is not accepted. It is read again when it changes. Set it to authenticate clients by certificates."
        client_certs: Option<ClientCertificates> = unless("auto", some(one_of(&CLIENT_CERTIFICATES))), "LLAMATOWER_TLS_CLIENT_CERTS" Text "auto"
            "Whether requests need a client's certificate: `required` (all but `/health` get 403 without one) or `optional`; `auto` is `required` if `LLAMATOWER_TLS_CLIENT_CA` is set. Set it to `optional` if some clients authenticate by keys only."
        client_identities: ClientNames = client_names, "LLAMATOWER_TLS_CLIENT_IDENTITIES" List ""
            "The keys that clients' certificates stand for: `SUBJECT=KEY`, with the name of a key in `LLAMATOWER_API_KEYS` or `LLAMATOWER_ADMIN_KEYS`; comma-separated. The subject is the common name, or without one the first DNS name, URI or e-mail address. If there are no entries, the subject is the name of the key; otherwise a certificate without an entry stands for no key. Set it if subjects are no names of keys, like `spiffe://cluster/ada=ada`."
        listeners: TlsListeners = tls_listeners, "LLAMATOWER_TLS_LISTENERS" List "auto"
            "The listeners that speak TLS if there is a certificate: `public`, `admin`, `metrics`, and single addresses of these; comma-separated. `auto` is all addresses for clients, and those for operators and metrics that are not on loopback. Unix sockets never speak TLS. Set it to `public` if your scraper reads metrics without TLS."
    }
    /// The servers.
    backends: Backends {
        urls: Vec<Address> = backends, "OLLAMA_URL" List "http://localhost:11434"
            "The addresses of all servers: of Ollama servers like `http://gpu-1:11434` or, with TLS and a path, `https://gpu.example/ollama`; of OpenAI-compatible servers (vLLM, llama.cpp, LM Studio) like `openai+http://gpu-1:8000/v1` or `openai+https://gpu.example/v1`. A request goes to a server that has its model. If a name resolves to several addresses, each address is a server; servers are added and removed when DNS changes."
        tokens: Vec<(ServerName, Authorization)> = tokens, "LLAMATOWER_BACKEND_TOKENS" ServerSecrets ""
            "The credentials that the gateway sends to servers in `Authorization`: `HOST[:PORT]=TOKEN` for a bearer token, `HOST[:PORT]=basic USER:PASSWORD` for Basic; separated by commas or line breaks. If a password contains a comma, give `USER:PASSWORD` in base64. Set it for servers that answer 401 or 403 without credentials."
        ca_file: Option<Authorities> = optional(authorities), "LLAMATOWER_BACKEND_CA_FILE" File ""
            "A PEM file of certificate authorities to trust for `https` servers, besides those of the system. Set it if your servers have certificates of a private authority."
        default_model: Option<Arc<str>> = optional(text), "DEFAULT_OLLAMA_MODEL" Text ""
            "The model for inference requests that name none. If it is not set, the server refuses such requests. Set it for clients that send no model."
        management: Option<ServerName> = optional(server_name), "LLAMATOWER_MANAGEMENT_BACKEND" Text ""
            "The server that pulls, creates, copies and deletes models; by default the first Ollama. Set it to the server where your models are stored."
        slots: PerServer<SlotRule> = slots, "LLAMATOWER_SLOTS" Slots "learn"
            "The maximum number of concurrent requests to a server for one model, equal to its `OLLAMA_NUM_PARALLEL`; further requests wait in the gateway's queue, which is fair, limited and visible. `learn` finds it from the responses, `4` is for all servers, `gpu-1:11434=4` for one, `off` sends all requests at once; comma-separated. Set it if you know it, so that nothing has to be tried."
        max_in_flight: PerServer<Option<NonZeroUsize>> = server_limits, "LLAMATOWER_BACKEND_MAX_IN_FLIGHT" Slots "off"
            "The maximum number of concurrent requests that run a model on a server, over all of its models; further requests wait in the gateway's queue. `8` for all servers, `gpu-1:11434=8` for one, comma-separated. Set it if several models share the memory or the processors of a server."
        weights: Vec<(ServerName, f64)> = weights, "LLAMATOWER_BACKEND_WEIGHTS" ServerWeights ""
            "The speed of servers as a factor, 1 if it is not set: `gpu-1:11434=2` for a server that is twice as fast as the others. Set it if servers differ and the gateway has not measured them yet."
        labels: Vec<(ServerName, Arc<str>)> = labels, "LLAMATOWER_BACKEND_LABELS" ServerLabels ""
            "Words that describe servers, shown on `/status`: `gpu-1:11434=a100`, once for each word. Set it to see which server is which."
        models: Vec<(ServerName, ModelPattern)> = allowed_models, "LLAMATOWER_BACKEND_MODELS" ServerModels ""
            "The models that clients may use on a server, by name or by a pattern with `*`: `gpu-1:11434=llama3*`, once for each name; comma-separated. Other models of that server are neither listed nor used; they can still be managed. Servers without an entry serve all of their models. Set it to keep a server free for some models."
        preload: Vec<PlacedModel> = placed_models, "LLAMATOWER_PRELOAD_MODELS" PlacedModels ""
            "Models that the gateway loads on a server once after it has come up: `gpu-1:11434=llama3.2` on one server, `llama3.2` on each server that has it installed; comma-separated. They leave memory like other models. Set it so that the first request after a start does not wait for the load."
        pinned: Vec<PlacedModel> = placed_models, "LLAMATOWER_PINNED_MODELS" PlacedModels ""
            "Models that are loaded in the same way and kept in memory: with `keep_alive: -1`, also in place of what a client asks for, and again if another model has taken their place and the server is idle. A load that needs the place of one is avoided if another server can do it. Set it for models that must always respond at once."
        models_sync: Option<Duration> = optional(duration), "LLAMATOWER_MODELS_SYNC" OptionalDuration "off"
            "The interval at which the gateway compares the installed models with the table `[models]` of the file, and pulls those that are missing; it deletes nothing. A server that comes up is compared at once. Set it, for example to `10m`, so that a replaced server gets its models without a command."
        extra_paths: Vec<ExtraPath> = extra_paths, "LLAMATOWER_EXTRA_PATHS" List ""
            "Additional paths to pass on, like `POST /api/rerank`; requests are routed by the `model` of their JSON body. Add a path that a newer Ollama supports and this version answers with 404."
        dns_servers: Vec<SocketAddr> = list(dns_server), "LLAMATOWER_DNS_SERVERS" List ""
            "The DNS servers that resolve the names of servers, like `10.0.0.2` or `127.0.0.1:8600`; by default those of the system. Set it if your servers are registered in a separate DNS, like Consul's."
        dns_min_ttl: Duration = duration, "LLAMATOWER_DNS_MIN_TTL" Duration "1s"
            "The minimum time before the names of servers are resolved again; otherwise the TTL of the answer decides. Raise it if the DNS server gets too many queries."
        probe_interval: Duration = duration, "LLAMATOWER_PROBE_INTERVAL" Duration "5s"
            "The time between two probes of a server, which ask for its models; a server that is down is probed every second. Raise it for very many servers."
        probe_timeout: Duration = duration, "LLAMATOWER_PROBE_TIMEOUT" Duration "2s"
            "The time-out of a probe; a server that does not answer in time counts as down. Five times as long is the first-byte time-out of requests that only ask what a server knows of a model. Raise it if busy servers are reported as down."
        pool_idle: NonZeroUsize = count, "LLAMATOWER_POOL_IDLE" Count "128"
            "The maximum number of idle connections kept to each server. Raise it if more requests than this run concurrently."
        pool_idle_timeout: Duration = duration, "LLAMATOWER_POOL_IDLE_TIMEOUT" Duration "90s"
            "The time after which an idle connection to a server is closed. Lower it if a device between the gateway and the server closes idle connections earlier."
    }
    /// Time-outs; `None` means off.
    timeouts: Timeouts {
        ollama: Option<Duration> = optional(duration), "OLLAMA_TIMEOUT" OptionalDuration ""
            "The longest wait between two bytes of a response, including the first; it does not limit the total. It is the default of `LLAMATOWER_FIRST_BYTE_TIMEOUT`, `LLAMATOWER_LOAD_TIMEOUT` and `LLAMATOWER_IDLE_TIMEOUT`. Set it to use one value for all."
        connect: Duration = duration, "LLAMATOWER_CONNECT_TIMEOUT" Duration "2s"
            "The time-out for opening a connection to a server; after it the gateway tries another server. Raise it for distant servers."
        first_byte: Option<Duration> = optional(duration), "LLAMATOWER_FIRST_BYTE_TIMEOUT" OptionalDuration "900s"
            "The longest wait for the first byte of a response if the model is in memory. Ollama sends nothing while it reads the prompt and, with `stream:false`, nothing before the response is complete. Lower it to detect hanging servers sooner; raise it for long responses without streaming."
        load: Option<Duration> = optional(duration), "LLAMATOWER_LOAD_TIMEOUT" OptionalDuration "900s"
            "The longest wait for the first byte of a response if the server has to load the model for it; it replaces the first-byte time-out. It includes the time to read the prompt and, with `stream:false`, to generate the response. If it is not set, it is at least the first-byte time-out. Raise it if large models are read from slow disks."
        idle: Option<Duration> = optional(duration), "LLAMATOWER_IDLE_TIMEOUT" OptionalDuration "900s"
            "The longest pause within a response. Ollama sends nothing while it collects the arguments of a tool call, which takes minutes for a long file. The time-out is needed only for a server that hangs: a server that dies closes the connection, and TCP keep-alive detects a machine that is gone. Lower it if no request uses tools."
        management: Option<Duration> = optional(duration), "LLAMATOWER_MANAGEMENT_TIMEOUT" OptionalDuration "off"
            "The longest wait for the first byte, and the longest pause, of a response to a management request (pull, push, create, copy, delete, blobs); it replaces the first-byte and the idle time-out. Ollama sends nothing while it verifies a download and, with `stream:false`, nothing before the request is complete. Set it if programs that start pulls have no time-out of their own."
        total: Option<Duration> = optional(duration), "LLAMATOWER_TOTAL_TIMEOUT" OptionalDuration "off"
            "The maximum duration of a whole response; off by default, because a long response is no fault. Set it to stop runaway responses."
        heartbeat: Option<Duration> = optional(duration), "LLAMATOWER_HEARTBEAT" OptionalDuration "off"
            "The interval of comments in an event stream (`/v1` routes) that has not begun: while the request waits in the queue, the model loads, or the prompt is read. Clients skip the comments, and proxies do not close the silent connection. The response then has status 200, so a later failure is reported as an error event. Set it below the time-out of your proxy or client, for example `20s`."
        write_stall: Duration = duration, "LLAMATOWER_WRITE_STALL_TIMEOUT" Duration "60s"
            "The longest time that a client may read nothing while there is data to send; then its request is cancelled. Lower it if clients that are gone hold slots."
        header: Duration = duration, "LLAMATOWER_HEADER_TIMEOUT" Duration "30s"
            "The time-out for receiving a request head. Lower it if untrusted clients can connect."
        keep_alive: Duration = duration, "LLAMATOWER_KEEP_ALIVE_TIMEOUT" Duration "120s"
            "The time after which an idle client connection is closed. Keep it longer than the idle time-out of clients and load balancers, so that they close first."
        body_read: Duration = duration, "LLAMATOWER_BODY_READ_TIMEOUT" Duration "30s"
            "The longest pause while a client sends a request body. Raise it for clients with slow connections."
        drain_delay: Duration = pause, "LLAMATOWER_DRAIN_DELAY" Duration "1s"
            "The time between SIGTERM and the closing of idle connections; `/health` answers 503 meanwhile. Raise it to the time that your load balancer needs to notice the 503."
        drain: Duration = pause, "LLAMATOWER_DRAIN_TIMEOUT" Duration "30s"
            "The time that requests in flight have to end after that; then they are cut off with an error. Set it to the length of your longest responses, and set a longer grace period in the service manager (systemd, Kubernetes)."
    }
    /// Limits.
    limits: Limits {
        in_flight: NonZeroUsize = count, "LLAMATOWER_MAX_IN_FLIGHT" Count "4096"
            "The maximum number of requests in flight; further ones are refused at once (503). Keep it above the number of requests that may wait in all queues."
        body: u64 = size, "LLAMATOWER_BODY_LIMIT" Size "128MiB"
            "The maximum size of the body of an inference request, including images; uploads of blobs have no limit. Raise it for many or large images."
        body_memory: SizeOrShare = size_or_share, "LLAMATOWER_BODY_MEMORY" SizeOrShare "25%"
            "The memory for the bodies of all requests in flight; a share refers to the memory limit of the container or machine. Raise it if requests are refused for lack of body memory while memory is free."
        first_byte_target: Option<Duration> = optional(duration), "LLAMATOWER_FIRST_BYTE_TARGET" OptionalDuration "off"
            "The target of an adaptive limit on requests in flight: the limit falls while streams begin later than this, and rises otherwise; requests above it are refused at once (503). Set it if you do not know the slots of your servers; with `LLAMATOWER_SLOTS` requests wait instead."
        rate: Option<Quota> = optional(rate), "LLAMATOWER_RATE_LIMIT" Rate "off"
            "The rate limit for inference requests of all clients together; further ones are refused (429). Set it to the capacity of all servers."
        key_rate: Option<Quota> = optional(rate), "LLAMATOWER_KEY_RATE_LIMIT" Rate "off"
            "The rate limit for inference requests of each client; further ones are refused (429). A client is a key, or an address if it sends no key. Set it to keep one client from using all of the capacity."
        listing_rate: ListingRate = listing_rate, "LLAMATOWER_LISTING_RATE_LIMIT" RateOrAuto "auto"
            "The rate limit of each client for requests that run no model (lists, `/api/show`, management); further ones are refused (429). `auto` is `50/s` if inference requests are limited, and no limit otherwise. `/`, `/api/version` and `/health` are never limited. Raise it if editors or chat pages cannot get their list of models."
        key_tokens: Vec<Budget> = or_off(list(token_budget)), "LLAMATOWER_KEY_TOKEN_LIMIT" TokenBudgets "off"
            "The token budget of each client, for prompts and responses together, in each minute, day or month of the calendar; comma-separated. Set it to divide the capacity among clients."
        user_rate: Option<Quota> = optional(rate), "LLAMATOWER_USER_RATE_LIMIT" Rate "off"
            "The rate limit for inference requests of each user of a key in `LLAMATOWER_DELEGATING_KEYS`; further ones are refused (429). The limit of the key also counts, for all of its users together. Set it so that one user cannot use up what the key may use."
        user_tokens: Vec<Budget> = or_off(list(token_budget)), "LLAMATOWER_USER_TOKEN_LIMIT" TokenBudgets "off"
            "The token budget of each user of a key in `LLAMATOWER_DELEGATING_KEYS`, in each minute, day or month of the calendar; comma-separated. The budget of the key also counts, for all of its users together. Set it so that one user cannot use up what the key may use."
        key_concurrency: Option<NonZeroU32> = optional(count), "LLAMATOWER_KEY_CONCURRENCY" OptionalCount "off"
            "The maximum number of inference requests of each client that run at a time; further ones wait for their turn, and are refused (429) after `LLAMATOWER_QUEUE_MAX_WAIT`, or if more of the client wait than `LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY` (or `LLAMATOWER_QUEUE_MAX_WAITING`). A client is a key, or an address if it sends no key. Several gateways divide it, and each allows at least one. Set it so that one client with many parallel requests cannot hold all slots; without it each client gets its share as soon as others wait."
        user_concurrency: Option<NonZeroU32> = optional(count), "LLAMATOWER_USER_CONCURRENCY" OptionalCount "off"
            "The same for each user of a key in `LLAMATOWER_DELEGATING_KEYS`. The limit of the key also counts, for all of its users together. Set it so that one user of a chat page cannot hold the slots of all."
        key_limits: BTreeMap<Arc<str>, KeyLimits> = key_limits, "LLAMATOWER_KEY_LIMITS" KeyLimits ""
            "Limits of single keys that replace the general ones, by the names in `LLAMATOWER_API_KEYS`: `ada:rate=60/m`, `ada:tokens=100000/day`, `ada:rate=off` (no limit), `ada:concurrency=2` (requests at a time), `ada:weight=2` (twice the share of the slots), `ada:priority=high` (or `low`); comma-separated. Set it for clients that need more, or should get less, than the others."
        key_models: BTreeMap<Arc<str>, Vec<ModelPattern>> = key_models, "LLAMATOWER_KEY_MODELS" KeyModels ""
            "The models and aliases that single keys may use, by the names in `LLAMATOWER_API_KEYS`, by name or by a pattern with `*`: `ada=qwen*|llama3.2`; comma-separated. Requests for other models are refused (403), and lists do not show them. An alias that is allowed allows what it stands for, but not its models by their own names. Keys without an entry may use all models. Set it to restrict a client to some models."
        failed_key_rate: Option<Quota> = optional(rate), "LLAMATOWER_FAILED_KEY_RATE_LIMIT" Rate "30/m"
            "The number of requests with a wrong key from one address, within the time after the `/`, that get 401; further ones get 429 with `Retry-After`, so that a client with an old key slows down. Requests with a valid key are never limited by it, also from the same address. Set it to `off` if many clients share an address and need to know that their keys are wrong."
        num_ctx: NumCtx = one_of(&NUM_CTX), "LLAMATOWER_NUM_CTX" Text "keep"
            "What happens if a request asks for another `options.num_ctx` than the model in memory has, so that its server would load the model again: with `keep` the request gets the context in memory if that is at least as large; with `exact` the server gets what the client has written, unless Ollama would read it as 4 tokens. The response header `x-llamatower-num-ctx` has the value that was sent. Set it to `exact` if clients need exactly their own context size."
        max_num_ctx: Option<NonZeroU64> = optional(count), "LLAMATOWER_MAX_NUM_CTX" OptionalCount "off"
            "The maximum of `options.num_ctx`, in tokens; larger values are lowered to it, which the response header `x-llamatower-num-ctx` and the log say. Requests without `options.num_ctx` are not changed. Set it if large contexts use up the memory of the servers."
        max_output_tokens: Option<NonZeroU64> = optional(count), "LLAMATOWER_MAX_OUTPUT_TOKENS" OptionalCount "off"
            "The maximum of tokens that a request may generate (`options.num_predict`, `max_tokens`, `max_completion_tokens`, `max_output_tokens`). Larger values are lowered to it, and requests without a limit (none, null, zero or a negative number) get it, which the response header `x-llamatower-max-output-tokens` and the log say. It also replaces `PARAMETER num_predict` of a Modelfile in requests without a limit. Set it so that no request holds a slot of a server for long."
        min_keep_alive: Option<Duration> = optional(duration), "LLAMATOWER_MIN_KEEP_ALIVE" OptionalDuration "5m"
            "The minimum of `keep_alive` in requests with a key of `LLAMATOWER_API_KEYS`; shorter times are raised to it, and below 10 s they need an administrator's key. The model stays in memory for other users. Set it to `off` if clients should free the memory early."
        max_keep_alive: Option<Duration> = optional(duration), "LLAMATOWER_MAX_KEEP_ALIVE" OptionalDuration "30m"
            "The maximum of `keep_alive` in requests with a key of `LLAMATOWER_API_KEYS`; longer times and negative ones (for ever) are lowered to it. Without it one client can hold the memory of a server. Raise it if the models in use rarely change."
        time_zone: TimeZone = time_zone, "LLAMATOWER_TIME_ZONE" Text "UTC"
            "The time zone, like `Europe/Zurich`, in which the days and months of token budgets begin at midnight. Set it to the time zone of your clients."
    }
    /// Which model a request gets.
    routing: Routing {
        aliases: Aliases = aliases, "LLAMATOWER_ALIASES" Aliases ""
            "Names that clients may use in place of models: `gpt-4o-mini=qwen2.5-coder:7b`; comma-separated. With several models (`fast=qwen2.5:7b|llama3.2:3b`) the next is tried if one is missing, its queue is full or its servers fail. `*` gives weights (`chat=qwen2.5:7b*9|qwen3:8b*1`: nine clients of ten get the first, each client always the same); `cheapest(..)` takes the model that could answer soonest, `resident(..)` those in memory. A model without a capability that the request needs is left out. The response names the alias, its header `x-llamatower-model` the model. Set it for clients whose model cannot be changed, or to have another model when one is busy."
        list_aliases: bool = switch, "LLAMATOWER_LIST_ALIASES" Switch "false"
            "Whether `/api/tags` and `/v1/models` list the aliases that an installed model can serve. Set it to `true` for programs that offer only listed models."
    }
    /// Overflow to a cloud service.
    cloud: Cloud {
        when: CloudWhen = cloud_when, "LLAMATOWER_CLOUD_WHEN" CloudWhen "off"
            "When a request goes to the cloud service in place of the servers: `down` if all servers that could answer are down or fail, `missing` if no server has the model, `busy` if the queue refuses the request or the expected wait is above `LLAMATOWER_CLOUD_BUSY_AFTER`; comma-separated. Only models in `LLAMATOWER_CLOUD_MODELS` are sent. Set it if clients should be answered although their prompts then leave your network."
        url: Address = cloud_url, "LLAMATOWER_CLOUD_URL" Text "https://api.groq.com/openai/v1"
            "The base address of the cloud service: Groq, or any other service that is OpenAI-compatible. Its key is `GROQ_API_KEY`. For `https`, the variables `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` apply, which servers in `OLLAMA_URL` do not use. Set it to use another service."
        models: CloudModels = cloud_models, "LLAMATOWER_CLOUD_MODELS" CloudModels ""
            "The models that may be sent to the cloud service, each with its name there: `qwen2.5-coder:7b=openai/gpt-oss-20b`; comma-separated. An alias is sent as the first of its models that is in the list. Set it to the models for which the service has an equivalent."
        anonymous: bool = switch, "LLAMATOWER_CLOUD_ANONYMOUS" Switch "false"
            "Whether requests without a key may use the cloud: the cloud service, and the models that Ollama itself runs in its cloud (`gpt-oss:120b-cloud`). Set it to `true` only if everyone who can connect may spend your quota."
        keys_opt_out: Vec<Arc<str>> = list(text), "LLAMATOWER_CLOUD_KEYS_OPT_OUT" List ""
            "The names of keys in `LLAMATOWER_API_KEYS` whose requests never go to a cloud, neither to the cloud service nor to Ollama's own; comma-separated. Set it for clients whose prompts must not leave your network."
        busy_after: Option<Duration> = optional(duration), "LLAMATOWER_CLOUD_BUSY_AFTER" OptionalDuration "30s"
            "The longest wait before a request counts as `busy`: one whose expected wait, for a slot and for a load of its model, is longer goes to the cloud service at once, and one that has waited this long for a slot leaves the queue; `off` if only a refusal of the queue counts. Lower it if a quick response is worth its price; below the time of a load, models that are not in memory are not loaded by such requests."
        tokens: Option<NonZeroU64> = optional(count), "LLAMATOWER_CLOUD_TOKENS" OptionalCount "500000"
            "The maximum number of tokens, of prompts and responses together, that all clients use at the cloud service on one day of the calendar (`LLAMATOWER_TIME_ZONE`). Each request reserves its prompt and the output that it allows, so give it room for the requests that run at the same time. Set it to what you want to pay for."
        key_tokens: Option<NonZeroU64> = optional(count), "LLAMATOWER_CLOUD_KEY_TOKENS" OptionalCount "off"
            "The same for each client: a key, or an address if it sends no key. Set it so that one client cannot use up the tokens of all."
    }
    /// The queue of requests that wait for a slot.
    queue: Queue {
        max_waiting: NonZeroUsize = count, "LLAMATOWER_QUEUE_MAX_WAITING" Count "512"
            "The maximum number of requests that wait for a slot of one model; further ones are refused at once (503). Lower it if clients prefer an early error to a long wait."
        max_waiting_per_key: Option<NonZeroUsize> = optional(count), "LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY" OptionalCount "off"
            "The maximum number of waiting requests of one client for one model; further ones are refused: 429, or 503 if the client sends no key, since many can share its address. Set it if one client could fill the queue."
        max_predicted_wait: Option<Duration> = optional(duration), "LLAMATOWER_QUEUE_MAX_PREDICTED_WAIT" OptionalDuration "5m"
            "The longest predicted wait: a request that would wait longer, by the duration of recent requests, is refused at once (503), unless fewer requests wait than there are slots, or fewer than four requests for the model have ended. If it is not set, it is at most `LLAMATOWER_QUEUE_MAX_WAIT`. Set it to the time that your clients wait before they give up."
        max_wait: Option<Duration> = optional(duration), "LLAMATOWER_QUEUE_MAX_WAIT" OptionalDuration "5m"
            "The longest wait for a slot; then the request is refused (503). Set it to the time that your clients wait before they give up."
        ageing: Option<Duration> = optional(duration), "LLAMATOWER_QUEUE_AGEING" OptionalDuration "30s"
            "The waiting time after which a request rises by one priority, so that requests of low priority do not starve; `off` for never. Raise it to favour requests of high priority for longer."
    }
    /// The circuit breakers of the servers.
    breaker: Breaking {
        failures: Option<NonZeroU32> = optional(count), "LLAMATOWER_BREAKER_FAILURES" OptionalCount "5"
            "The number of failures in a row that opens the breaker of a server. While it is open, requests go to other servers; a request that no other server can serve is still sent to this one. Failures are time-outs, broken connections, 502 and 504. A server that refuses connections counts as down without the breaker. Lower it if another server can take over at once."
        ratio: f64 = number, "LLAMATOWER_BREAKER_RATIO" Number "0.5"
            "The share of failures among recent requests that also opens the breaker; above 1 it never does. Lower it for servers that often fail in part."
        min_requests: NonZeroU32 = count, "LLAMATOWER_BREAKER_MIN_REQUESTS" Count "20"
            "The minimum number of recent requests before that share counts. Lower it if there are few requests."
        window: Duration = duration, "LLAMATOWER_BREAKER_WINDOW" Duration "30s"
            "The time span of the recent requests that the share is computed from. Raise it if requests are few and slow."
        open_for: Duration = duration, "LLAMATOWER_BREAKER_OPEN_FOR" Duration "2s"
            "The time that a breaker stays open before one request tests the server; the time doubles with each failed test. Raise it for servers that need long to recover."
        open_at_most: Duration = duration, "LLAMATOWER_BREAKER_OPEN_AT_MOST" Duration "60s"
            "The longest time that a breaker stays open. Lower it to use a repaired server sooner."
    }
    /// The cache of responses.
    cache: Cache {
        max_bytes: Option<u64> = optional(size), "LLAMATOWER_CACHE" OptionalSize "off"
            "The memory for cached responses: embeddings, and requests that are deterministic (temperature 0, or a seed other than -1). Each client has its own entries; `Cache-Status` in the response reports a hit or miss. Set it if the same texts are embedded repeatedly."
        time_to_live: Option<Duration> = optional(duration), "LLAMATOWER_CACHE_TIME_TO_LIVE" OptionalDuration "1h"
            "The time that a response stays in the cache. Lower it to use less memory; raise it if the same texts come back later."
    }
    /// Retries.
    retry: Retry {
        attempts: NonZeroU32 = count, "LLAMATOWER_RETRY_ATTEMPTS" Count "3"
            "The maximum number of times that a request is sent before the client has received a byte; 1 for no retries. After a 500 or 503 the request is sent only to another server. Raise it if many servers come and go."
        budget_ratio: f64 = number, "LLAMATOWER_RETRY_BUDGET_RATIO" Number "0.2"
            "The number of retries allowed for each recent request, over all requests. Lower it if retries add to an overload."
        budget_floor: f64 = number, "LLAMATOWER_RETRY_BUDGET_FLOOR" Number "10"
            "The number of retries per second that are always allowed. Raise it if requests are few and servers come and go."
    }
    /// Several gateways that share limits, usage and cordons.
    sharing: Sharing {
        redis: Option<RedisAddress> = optional(plain), "LLAMATOWER_REDIS_URL" Secret ""
            "The Redis (6 or later) or Valkey through which several gateways share limits of requests and tokens, usage and cordons: `redis://USER:PASSWORD@HOST:6379/0`, `redis+sentinel://HOST:26379,HOST:26379/NAME` with sentinels, or `redis+cluster://HOST:6379,HOST:6379` for a Redis Cluster; `rediss://`, `rediss+sentinel://` and `rediss+cluster://` with TLS; user, password and database can be missing. Set it if more than one gateway runs, so that each limit counts once and not once for each gateway."
        redis_prefix: String = redis_prefix, "LLAMATOWER_REDIS_PREFIX" Text "llamatower:"
            "What all keys in Redis begin with. Gateways with the same prefix share limits. Set it if several groups of gateways, or other programs, use the same database. In a Redis Cluster keys begin with it in braces, like `{llamatower}:`, so that all are on one server."
        redis_timeout: Duration = duration, "LLAMATOWER_REDIS_TIMEOUT" Duration "50ms"
            "The longest wait for Redis, which a request can have to wait for each limit that applies to it. After one late response all requests go on without Redis, and without a wait, until it responds in time again. Raise it if Redis is far away."
        rates_without_redis: WithoutRedis = one_of(&WITHOUT_REDIS), "LLAMATOWER_REDIS_DOWN_RATES" Text "share"
            "What happens to requests with a limit of requests while Redis does not answer: with `share` each gateway applies its part of the limit, by the number of gateways that it knew last; with `open` requests pass without a limit; with `closed` they are refused (503). Set it to `closed` if the limit must never be exceeded."
        tokens_without_redis: WithoutRedis = one_of(&WITHOUT_REDIS), "LLAMATOWER_REDIS_DOWN_TOKENS" Text "share"
            "The same for limits of tokens, of keys and of the cloud service. With `share`, what this gateway has used before counts in its part."
        slots_without_redis: WithoutRedis = one_of(&SLOTS_WITHOUT_REDIS), "LLAMATOWER_REDIS_DOWN_SLOTS" Text "share"
            "What happens to configured slots and to the most requests in flight of a server while Redis does not answer: with `share` each gateway uses its part of them, by the number of gateways that it knew last, rounded down and at least 1; with `open` each gateway uses all of them. Set it to `open` if servers may queue requests of several gateways themselves."
        peers: Option<PeersName> = optional(plain), "LLAMATOWER_PEERS" Text ""
            "A name whose addresses in DNS are those of all gateways: in Kubernetes the headless Service of the gateway's own pods, like `backend-peers.model-hosting`. Limits of requests and tokens are divided by the number of addresses while there is no Redis or it does not answer. Set it if more than one gateway runs without Redis."
    }
    /// What is kept over a restart.
    state: State {
        directory: Option<PathBuf> = optional(text), "LLAMATOWER_STATE_DIR" Directory ""
            "The directory of the file that keeps usage, the token budgets of days and months, and cordons over a restart; without it they are in memory only. A service of systemd with `StateDirectory=` needs no setting. Set it to a directory that the gateway can write, and that no other gateway uses."
        usage_days: NonZeroU32 = count, "LLAMATOWER_USAGE_DAYS" Count "400"
            "The number of days that usage is kept, today included; without a state directory at most 31. Raise it if you need more than a year; 20 keys that use 20 models each day take 36 MB for a year."
    }
    /// Authentication.
    keys: Keys {
        api: Vec<Secret> = digests, "LLAMATOWER_API_KEYS" SecretList ""
            "Digests of the keys that clients must send, each `name=sha256:<64 hex digits>` as printed by `llamatower keygen`; if there are none, no key is required. Set it if others can connect."
        admin: Vec<Secret> = digests, "LLAMATOWER_ADMIN_KEYS" SecretList ""
            "Digests of the keys that may also manage models (pull, push, create, copy, delete, blobs); if there are none, management is off. Set it for the people who manage models."
        file: Option<PathBuf> = optional(text), "LLAMATOWER_KEYS_FILE" File "off"
            "The path of a TOML file with a table for each key: digests, limits, models, permissions and expiry, see below. Keys in it count like those of `LLAMATOWER_API_KEYS` and `LLAMATOWER_ADMIN_KEYS`. Set it to change, replace and revoke keys while the gateway serves."
        required: bool = switch, "LLAMATOWER_REQUIRE_KEYS" Switch "false"
            "Whether the gateway refuses to start (exit code 2) if neither `LLAMATOWER_API_KEYS` nor the keys file holds a key. Set it to `true` if others can connect, so that a missing Secret or variable does not open the gateway."
        networks: Vec<(IpNet, Arc<str>)> = networks, "LLAMATOWER_NETWORK_IDENTITIES" NetworkNames ""
            "Names for clients without a key, by their network: `10.1.0.0/16=lab, 192.168.7.4=buildbot`; comma-separated, the longest network that contains the address counts. The name is used like that of a key: in `LLAMATOWER_KEY_LIMITS` and `LLAMATOWER_KEY_MODELS`, in logs, metrics and usage. All machines of a network are one client. Behind proxies it is the address that they report (`LLAMATOWER_TRUSTED_PROXIES`). Set it to give machines or rooms names and limits without keys."
        networks_replace_keys: bool = switch, "LLAMATOWER_NETWORKS_REPLACE_KEYS" Switch "false"
            "Whether clients from the networks in `LLAMATOWER_NETWORK_IDENTITIES` need no key where `LLAMATOWER_API_KEYS` is set. They may then do what a key of `LLAMATOWER_API_KEYS` may, also use a cloud, whatever credential they send; to manage models they still need an administrator's key. Set it to `true` only if everyone and every program in these networks may use the models."
        delegating: Vec<Arc<str>> = list(text), "LLAMATOWER_DELEGATING_KEYS" List ""
            "The names of keys in `LLAMATOWER_API_KEYS` that name their user in a header (`LLAMATOWER_USER_HEADERS`), like the key of a chat server with many users; comma-separated. Each user is then a client of its own, `webui/ada@example.org`: in the queue, for `LLAMATOWER_USER_RATE_LIMIT` and `LLAMATOWER_USER_TOKEN_LIMIT`, in logs and usage. The limits of the key bound the sum of its users. Set it for programs that authenticate their users themselves."
        user_headers: Vec<HeaderName> = list(user_header), "LLAMATOWER_USER_HEADERS" List "X-OpenWebUI-User-Email"
            "The headers in which keys of `LLAMATOWER_DELEGATING_KEYS` name their user; comma-separated, the first that has a value counts. Without one the request counts for the key. They are ignored for other clients, and are not sent to servers. Set it to the headers that your program sends."
        groq: Option<Secret> = optional(secret), "GROQ_API_KEY" Secret ""
            "The key of the cloud service in `LLAMATOWER_CLOUD_URL`. It has no effect without `LLAMATOWER_CLOUD_WHEN`. Set it to use that service."
    }
    /// Logs and traces.
    telemetry: Telemetry {
        log: String = log_filter, "LLAMATOWER_LOG" Text "info"
            "The log filter, in the syntax of `RUST_LOG`; `info,llamatower::access=off` turns off the line for each request. A word that is neither a level (`off`, `error`, `warn`, `info`, `debug`, `trace`) nor a part of the program (`llamatower`, `hyper`, ..) is an error. Set it to `debug` to find a fault."
        log_format: LogFormat = one_of(&LOG_FORMATS), "LLAMATOWER_LOG_FORMAT" Text "auto"
            "The format of log lines: `human`, `json`, or `auto` for human on a terminal and JSON elsewhere. Set it if `auto` chooses the wrong one."
        semconv: Semconv = one_of(&SEMCONV), "LLAMATOWER_SEMCONV" Text "v0.1.0"
            "The names of the GenAI metrics: `v0.1.0` for those of OpenTelemetry's conventions for GenAI, `v1.41` for those of its general conventions up to version 1.41 (`gen_ai.client.token.usage`), `both` for both. Set it to `both` while you have dashboards with the old names."
        trust_trace: bool = switch, "LLAMATOWER_TRUST_TRACE" Switch "true"
            "Whether the gateway continues a trace from a client's `traceparent`. Set it to `false` if untrusted clients can connect."
        trace_url: Option<String> = optional(trace_url), "LLAMATOWER_TRACE_URL" Text ""
            "The address of a trace in your viewer of traces, with `{trace_id}` in place of its id, like `http://jaeger:16686/trace/{trace_id}`. Set it so that requests on the status page link to their traces."
    }
    /// Threads.
    runtime: Runtime {
        worker_threads: Option<NonZeroUsize> = unless("auto", some(threads)), "LLAMATOWER_WORKER_THREADS" CountOrAuto "auto"
            "The number of threads that serve requests, at most 1024; `auto` for the number of CPUs. Set it to 1 if the machine also runs models on its CPU."
    }
    /// How settings are read.
    config: Config {
        watch_files: bool = switch, "LLAMATOWER_WATCH_FILES" Switch "true"
            "Whether the gateway reloads the settings within a second after a change of the settings file, the keys file or a secret's file. With `false` only SIGHUP reloads them. Set it to `false` if several files must change together."
        allow_unknown: bool = switch, "LLAMATOWER_ALLOW_UNKNOWN" Switch "false"
            "Whether an unknown variable that begins with `LLAMATOWER_`, or an unknown key in the file, is a warning instead of an error. Set it to `true` to run an older version with the settings of a newer one, or if other programs use variables with this prefix."
    }
}
