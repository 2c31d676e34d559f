//! A stand-in for Groq: a TLS server that speaks its dialect.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request that the service has got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The request line and the header fields, in lower case.
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// What the service answers, in place of its usual answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status with these header fields, each with its line break, and an error text.
    Refusal(u16, &'static str),
    /// The usual answer with these header fields.
    With(&'static str),
    /// A stream that ends with an error of Groq's own in its middle.
    MidStreamError,
}

/// The service. Dropping it ends it.
pub(crate) struct Cloud {
    url: String,
    authority: tempfile::NamedTempFile,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    replies: Mutex<VecDeque<Reply>>,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        let (acceptor, authority) = acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let served = shared.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = serve(stream, &shared).await;
                    }
                });
            }
        });
        Self {
            url: format!("https://127.0.0.1:{port}/openai/v1"),
            authority,
            shared,
            serving,
        }
    }

    /// The settings of a gateway that uses it, without those that say when.
    pub(crate) fn settings(&self) -> [(&str, &str); 4] {
        [
            ("LLAMATOWER_CLOUD_URL", &self.url),
            (
                "LLAMATOWER_BACKEND_CA_FILE",
                self.authority.path().to_str().unwrap(),
            ),
            ("LLAMATOWER_CLOUD_MODELS", "tiny=openai/gpt-oss-20b"),
            ("GROQ_API_KEY", "gsk-secret"),
        ]
    }

    /// Answers the next requests in another way.
    pub(crate) fn reply(&self, reply: Reply) {
        self.shared.replies.lock().unwrap().push_back(reply);
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A TLS acceptor for 127.0.0.1, and the file of the authority that has signed its certificate.
fn acceptor() -> (TlsAcceptor, tempfile::NamedTempFile) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "the authority of this test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.into()], key)
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let head = head.to_ascii_lowercase();
        let is_list = head.starts_with("get /openai/v1/models ");
        if is_list {
            let reply = shared.replies.lock().unwrap().pop_front();
            stream.write_all(list(&head, reply).as_bytes()).await?;
            stream.flush().await?;
            continue;
        }
        let length = head.split_once("content-length: ").unwrap().1;
        let length = length.split_once("\r\n").unwrap().0.parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let reply = shared.replies.lock().unwrap().pop_front();
        let answer = answer(&body, reply);
        shared.seen.lock().unwrap().push(Seen { head, body });
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// The list of models, for a request with the key.
fn list(head: &str, reply: Option<Reply>) -> String {
    match reply {
        Some(Reply::Refusal(status, fields)) => return refusal(status, fields),
        _ if !head.contains("authorization: bearer gsk-secret\r\n") => return refusal(401, ""),
        _ => {}
    }
    let models = ["openai/gpt-oss-20b", "openai/gpt-oss-120b"];
    let models = models.map(|id| json!({"id": id, "object": "model", "owned_by": "OpenAI"}));
    let body = json!({"object": "list", "data": models}).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn refusal(status: u16, fields: &str) -> String {
    let body = json!({"error": {"message": "over the\u{1b} limit", "type": "tokens"}}).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{fields}\
         content-length: {length}\r\n\r\n{body}"
    )
}

fn answer(request: &Value, reply: Option<Reply>) -> String {
    if let Some(Reply::Refusal(status, fields)) = reply {
        return refusal(status, fields);
    }
    let fields = match reply {
        Some(Reply::With(fields)) => fields,
        _ => "",
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nx-groq-region: test\r\nset-cookie: a=b\r\nx-ratelimit-limit-requests: 1000\r\n{fields}"
    );
    if request["stream"] != true {
        let body = whole(request).to_string();
        let length = body.len();
        return format!(
            "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
    }
    let mut text =
        format!("{head}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut events = stream(request);
    if matches!(reply, Some(Reply::MidStreamError)) {
        events.truncate(3);
        let error = json!({"error": "over capacity in the middle", "id": "req_1"});
        events.push(chunk(request, json!([]), Some(error)).to_string());
    } else {
        events.push("[DONE]".to_owned());
    }
    for event in events {
        let event = format!("data: {event}\n\n");
        text.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
    }
    text.push_str("0\r\n\r\n");
    text
}

fn whole(request: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_764_000_000,
        "model": request["model"],
        "choices": [{
            "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": {"role": "assistant", "content": "Hello", "reasoning": "Say it."},
        }],
        "usage": usage(), "usage_breakdown": null, "system_fingerprint": "fp_1",
        "x_groq": {"id": "req_1", "seed": 1}, "service_tier": "on_demand",
    })
}

/// The chunks of a stream as Groq sends them.
fn stream(request: &Value) -> Vec<String> {
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let none = Value::Null;
    let first = choice(json!({"role": "assistant", "content": ""}), none.clone());
    let last = json!({"id": "req_1", "seed": 1, "usage": usage()});
    let chunks = [
        chunk(request, first, Some(json!({"id": "req_1", "seed": 1}))),
        chunk(
            request,
            choice(json!({"reasoning": "Say it."}), none.clone()),
            None,
        ),
        chunk(
            request,
            choice(json!({"content": "Hel"}), none.clone()),
            None,
        ),
        chunk(request, choice(json!({"content": "lo"}), none), None),
        chunk(request, choice(json!({}), json!("stop")), Some(last)),
    ];
    chunks.iter().map(Value::to_string).collect()
}

fn chunk(request: &Value, choices: Value, x_groq: Option<Value>) -> Value {
    let mut chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_764_000_000,
        "model": request["model"], "system_fingerprint": "fp_1", "choices": choices,
    });
    if let Some(x_groq) = x_groq {
        chunk["x_groq"] = x_groq;
    }
    chunk
}

fn usage() -> Value {
    json!({
        "queue_time": 0.01, "prompt_tokens": 12, "prompt_time": 0.001,
        "completion_tokens": 5, "completion_time": 0.02, "total_tokens": 17, "total_time": 0.021,
    })
}
