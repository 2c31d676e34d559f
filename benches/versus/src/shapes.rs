//! The shapes of traffic, and their requests.
//!
//! The prompt contains the shape. Every proxy forwards the prompt, so a backend needs no other data
//! to choose the right answer.

use std::time::Duration;

/// The API dialect of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Ollama's own API, `/api/generate`.
    Ollama,
    /// Ollama's own API, `/api/chat`.
    OllamaChat,
    /// OpenAI's chat completions, for gateways without Ollama's API.
    OpenAi,
}

/// The answer of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One small JSON object.
    Unary,
    /// This many lines, written at once.
    Burst(usize),
    /// Lines at this pace; the prompt gives their number.
    Paced(Duration),
    /// Embeddings: a JSON object of this many bytes.
    Embeddings(usize),
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Connections that each send the next request after the last answer.
    Closed {
        connections: usize,
        /// The number of requests for each second of `--seconds`; the same number for each
        /// contender.
        requests: usize,
        /// Opens a new connection for each request.
        churn: bool,
    },
    /// Streams that are all open at the same time.
    Streams { count: usize },
}

/// A shape of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The name on the command line and in the prompt.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) answer: Answer,
    pub(crate) load: Load,
    /// Bytes of padding in the prompt.
    pub(crate) padding: usize,
}

/// The pace of a model with 40 tokens per second.
const PACE: Duration = Duration::from_millis(25);

/// The pace at which the load generator can serve 2,000 streams on one core.
const SLOW_PACE: Duration = Duration::from_millis(100);

/// All shapes, in the order of the report.
pub(crate) const SHAPES: [Shape; 7] = [
    Shape {
        name: "unary",
        title: "small answers",
        answer: Answer::Unary,
        load: closed(32, 8_000),
        padding: 0,
    },
    Shape {
        name: "upload",
        title: "requests of 200 kB",
        answer: Answer::Unary,
        load: closed(32, 1_000),
        padding: 200_000,
    },
    Shape {
        name: "burst",
        title: "streams of 20 lines in one burst",
        answer: Answer::Burst(20),
        load: closed(32, 6_000),
        padding: 0,
    },
    Shape {
        name: "paced-300",
        title: "300 streams, a line each 25 ms",
        answer: Answer::Paced(PACE),
        load: Load::Streams { count: 300 },
        padding: 0,
    },
    Shape {
        name: "paced-2000",
        title: "2,000 streams, a line each 100 ms",
        answer: Answer::Paced(SLOW_PACE),
        load: Load::Streams { count: 2_000 },
        padding: 0,
    },
    Shape {
        name: "embed",
        title: "embeddings of 1 MB",
        answer: Answer::Embeddings(1_000_000),
        load: closed(32, 300),
        padding: 0,
    },
    Shape {
        name: "churn",
        title: "a connection for each request",
        answer: Answer::Unary,
        load: Load::Closed {
            connections: 32,
            requests: 4_000,
            churn: true,
        },
        padding: 0,
    },
];

const fn closed(connections: usize, requests: usize) -> Load {
    Load::Closed {
        connections,
        requests,
        churn: false,
    }
}

impl Shape {
    pub(crate) fn named(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// The same shape, with this number of streams if it has streams.
    pub(crate) fn with_streams(self, count: usize) -> Self {
        let load = match self.load {
            Load::Streams { .. } => Load::Streams { count },
            load @ Load::Closed { .. } => load,
        };
        Self { load, ..self }
    }

    /// The open files of the load generator, which has both ends of each stream, and of a proxy.
    pub(crate) fn open_files(&self) -> u64 {
        let connections = match self.load {
            Load::Closed { connections, .. } => connections,
            Load::Streams { count } => count,
        };
        2 * connections as u64 + 100
    }

    /// The unit of a figure: a request, or a line of a stream.
    pub(crate) fn unit(&self) -> &'static str {
        match self.load {
            Load::Closed { .. } => "request",
            Load::Streams { .. } => "chunk",
        }
    }

    /// Whether the shape exists in this dialect.
    pub(crate) fn speaks(&self, dialect: Dialect) -> bool {
        dialect == Dialect::Ollama || !matches!(self.answer, Answer::Embeddings(_))
    }

    /// The bytes of a request, with head and body. `headers` are additional lines with line ends;
    /// `lines` is only used for paced streams.
    pub(crate) fn request(&self, dialect: Dialect, headers: &str, lines: usize) -> Vec<u8> {
        let prompt = format!(
            "shape={} lines={lines};{}",
            self.name,
            "x".repeat(self.padding)
        );
        let stream = matches!(self.answer, Answer::Burst(_) | Answer::Paced(_));
        let (path, body) = match (dialect, self.answer) {
            (Dialect::Ollama, Answer::Embeddings(_)) => (
                "/api/embed",
                format!(r#"{{"model":"bench","input":"{prompt}"}}"#),
            ),
            (Dialect::Ollama, _) => (
                "/api/generate",
                format!(r#"{{"model":"bench","stream":{stream},"prompt":"{prompt}"}}"#),
            ),
            (Dialect::OllamaChat | Dialect::OpenAi, _) => (
                match dialect {
                    Dialect::OpenAi => "/v1/chat/completions",
                    _ => "/api/chat",
                },
                format!(
                    r#"{{"model":"bench","stream":{stream},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
                ),
            ),
        };
        let connection = match self.load {
            Load::Closed { churn: true, .. } => "Connection: close\r\n",
            _ => "",
        };
        format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{connection}{headers}Accept: */*\r\n\
             User-Agent: llamatower-versus\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// The shape and the number of lines in the body of a request.
pub(crate) fn requested_shape(body: &[u8]) -> Option<(Shape, usize)> {
    let start = memchr::memmem::find(body, b"shape=")? + b"shape=".len();
    let rest = &body[start..];
    let end = memchr::memchr(b';', rest)?;
    let text = std::str::from_utf8(&rest[..end]).ok()?;
    let (name, lines) = text.split_once(" lines=")?;
    Some((Shape::named(name)?, lines.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_reads_the_requested_shape_in_all_dialects() {
        for shape in SHAPES {
            for dialect in [Dialect::Ollama, Dialect::OllamaChat, Dialect::OpenAi] {
                let request = shape.request(dialect, "", 7);
                assert_eq!(requested_shape(&request), Some((shape, 7)));
            }
        }
        assert_eq!(requested_shape(b"{}"), None);
    }
}
