//! The simulated backends: they answer like Ollama, whose routes below `/v1` are those of any
//! OpenAI-compatible server, and compute nothing.
//!
//! They run in the thread of the load generator, so both use the same clock: each line of a paced
//! stream contains its write time.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    Error,
    http1::{Decoder, request_head},
    pacer::Pacer,
    shapes::{Answer, Dialect, requested_shape},
};

/// The byte before the time in a line. It occurs nowhere else in an answer.
pub(crate) const STAMP: u8 = b'@';
/// The digits of the time, in nanoseconds since the start of the run.
pub(crate) const STAMP_DIGITS: usize = 15;

const GENERATED_FINAL: &str = r#"{"model":"bench","created_at":"2026-01-01T00:00:00.000000000Z","response":"","done":true,"done_reason":"stop","total_duration":5000000,"load_duration":1000000,"prompt_eval_count":8,"prompt_eval_duration":1000000,"eval_count":20,"eval_duration":3000000}"#;
const CHAT_FINAL: &str = r#"{"model":"bench","created_at":"2026-01-01T00:00:00.000000000Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":5000000,"load_duration":1000000,"prompt_eval_count":8,"prompt_eval_duration":1000000,"eval_count":20,"eval_duration":3000000}"#;
const GENERATED: &str = r#"{"model":"bench","created_at":"2026-01-01T00:00:00.000000000Z","response":"four small words here","done":true,"done_reason":"stop","total_duration":5000000,"load_duration":1000000,"prompt_eval_count":8,"prompt_eval_duration":1000000,"eval_count":20,"eval_duration":3000000}"#;
const CHAT: &str = r#"{"model":"bench","created_at":"2026-01-01T00:00:00.000000000Z","message":{"role":"assistant","content":"four small words here"},"done":true,"done_reason":"stop","total_duration":5000000,"load_duration":1000000,"prompt_eval_count":8,"prompt_eval_duration":1000000,"eval_count":20,"eval_duration":3000000}"#;
const COMPLETION: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1767225600,"model":"bench","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"four small words here"},"finish_reason":"stop"}],"usage":{"prompt_tokens":8,"completion_tokens":20,"total_tokens":28}}"#;

/// The answers, built once.
struct Answers {
    epoch: Instant,
    pacer: Arc<Pacer>,
    tags: String,
    embeddings: Vec<u8>,
}

/// Starts a backend on a port that the system chooses; it ends with the runtime.
pub(crate) async fn start(epoch: Instant) -> Result<SocketAddr, Error> {
    start_with(epoch, &[]).await
}

/// Starts a backend with additional models.
pub(crate) async fn start_with(epoch: Instant, models: &[String]) -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answers: &'static Answers = Box::leak(Box::new(Answers {
        epoch,
        pacer: Pacer::start(),
        tags: tags(models),
        embeddings: embeddings(1_000_000),
    }));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A proxy that ends closes its connections: this is not an error of the run.
            tokio::spawn(async move { serve(stream, answers).await.ok() });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 65_536];
    let mut filled = 0;
    let mut body = Vec::new();
    loop {
        let head = loop {
            if let Some(head) = request_head(&buffer[..filled])? {
                break head;
            }
            if filled == buffer.len() {
                return Err("a head of more than 64 kB".into());
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                n => filled += n,
            }
        };
        body.clear();
        let mut decoder = Decoder::new(head.framing);
        // The prompt begins with the shape; the rest is read and ignored.
        let mut keep = |data: &[u8]| {
            let room = 4096 - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
        };
        let used = decoder.feed(&buffer[head.len..filled], &mut keep)?;
        buffer.copy_within(head.len + used..filled, 0);
        filled -= head.len + used;
        while !decoder.is_done() {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            let used = decoder.feed(&buffer[..n], &mut keep)?;
            buffer.copy_within(used..n, 0);
            filled = n - used;
        }
        answer(&mut stream, answers, &head.path, head.post, &body).await?;
        if head.close {
            return Ok(());
        }
    }
}

async fn answer(
    stream: &mut TcpStream,
    answers: &Answers,
    path: &str,
    post: bool,
    body: &[u8],
) -> Result<(), Error> {
    if !post {
        let body = match path {
            "/api/tags" => &answers.tags,
            "/api/ps" => r#"{"models":[]}"#,
            "/api/version" => r#"{"version":"0.17.4"}"#,
            // What the gateway asks an OpenAI-compatible server.
            "/v1/models" => {
                r#"{"object":"list","data":[{"id":"bench","object":"model","created":1767225600,"owned_by":"library"}]}"#
            }
            _ => "{}",
        };
        return Ok(stream.write_all(&whole(body.as_bytes())).await?);
    }
    let dialect = match path {
        "/api/chat" => Dialect::OllamaChat,
        path if path.starts_with("/v1/") => Dialect::OpenAi,
        _ => Dialect::Ollama,
    };
    let Some((shape, lines)) = requested_shape(body) else {
        // A model request of the gateway itself.
        return Ok(stream.write_all(&whole(b"{}")).await?);
    };
    match shape.answer {
        Answer::Unary => {
            let body = match dialect {
                Dialect::Ollama => GENERATED,
                Dialect::OllamaChat => CHAT,
                Dialect::OpenAi => COMPLETION,
            };
            stream.write_all(&whole(body.as_bytes())).await?;
        }
        Answer::Embeddings(_) => stream.write_all(&answers.embeddings).await?,
        Answer::Burst(lines) => {
            let mut bytes = stream_head(dialect);
            for _ in 0..lines {
                line(&mut bytes, dialect, 0);
            }
            end(&mut bytes, dialect);
            stream.write_all(&bytes).await?;
        }
        Answer::Paced(pace) => paced(stream, answers, dialect, pace, lines).await?,
    }
    Ok(())
}

async fn paced(
    stream: &mut TcpStream,
    answers: &Answers,
    dialect: Dialect,
    pace: Duration,
    lines: usize,
) -> Result<(), Error> {
    let mut bytes = stream_head(dialect);
    let mut next = Instant::now() + answers.pacer.phase(pace);
    for _ in 0..lines {
        answers.pacer.until(next).await;
        line(&mut bytes, dialect, stamp(answers.epoch));
        stream.write_all(&bytes).await?;
        bytes.clear();
        next += pace;
    }
    end(&mut bytes, dialect);
    Ok(stream.write_all(&bytes).await?)
}

/// Nanoseconds since the start of the run.
pub(crate) fn stamp(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn stream_head(dialect: Dialect) -> Vec<u8> {
    let kind = match dialect {
        Dialect::OpenAi => "text/event-stream",
        _ => "application/x-ndjson",
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes()
}

fn whole(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A line of a stream, in its own chunk, as Ollama sends it.
fn line(bytes: &mut Vec<u8>, dialect: Dialect, stamp: u64) {
    let (before, after) = match dialect {
        Dialect::OpenAi => (
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"bench\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" @",
            "\"},\"finish_reason\":null}]}\n\n",
        ),
        Dialect::OllamaChat => (
            "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\"message\":{\"role\":\"assistant\",\"content\":\" @",
            "\"},\"done\":false}\n",
        ),
        Dialect::Ollama => (
            "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\"response\":\" @",
            "\",\"done\":false}\n",
        ),
    };
    let length = before.len() + STAMP_DIGITS + after.len();
    // Writing to a `Vec` cannot fail.
    write!(
        bytes,
        "{length:x}\r\n{before}{stamp:0STAMP_DIGITS$}{after}\r\n"
    )
    .ok();
}

fn end(bytes: &mut Vec<u8>, dialect: Dialect) {
    let last = match dialect {
        Dialect::OpenAi => "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"bench\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".to_owned(),
        Dialect::OllamaChat => format!("{CHAT_FINAL}\n"),
        Dialect::Ollama => format!("{GENERATED_FINAL}\n"),
    };
    write!(bytes, "{:x}\r\n{last}\r\n0\r\n\r\n", last.len()).ok();
}

/// An answer of `/api/tags` with `bench` and these models.
fn tags(models: &[String]) -> String {
    let names = std::iter::once("bench").chain(models.iter().map(String::as_str));
    let entries: Vec<_> = names
        .map(|name| {
            format!(
                r#"{{"name":"{name}:latest","model":"{name}:latest","modified_at":"2026-01-01T00:00:00Z","size":1,"digest":"365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1","details":{{"format":"gguf","family":"llama"}}}}"#
            )
        })
        .collect();
    format!(r#"{{"models":[{}]}}"#, entries.join(","))
}

/// An answer of `/api/embed` with a body of about `size` bytes.
fn embeddings(size: usize) -> Vec<u8> {
    let vector = format!("[{}0.0123456789]", "0.0123456789,".repeat(1023));
    let vectors = vec![vector.as_str(); size / (vector.len() + 1)].join(",");
    let body = format!(
        r#"{{"model":"bench","embeddings":[{vectors}],"total_duration":5000000,"load_duration":1000000,"prompt_eval_count":8}}"#
    );
    whole(body.as_bytes())
}
