//! Faults on demand.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fault, and the requests that trigger it.
///
/// As JSON, for `POST /sim/faults`: `{"fault":"die","after_lines":3,"model":"tiny","count":1}`.
///
/// ```
/// use llamatower_sim::{Ending, Fault, FaultKind};
///
/// let fault = Fault::new(FaultKind::die_after(3, Ending::Reset)).for_model("tiny").times(1);
/// let read: Fault = serde_json::from_str(
///     r#"{"fault":"die","after_lines":3,"ending":"reset","model":"tiny","count":1}"#,
/// ).expect("well-formed");
/// assert_eq!(read, fault);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// The kind of the fault.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// The exact path of the requests; any path except those under `/sim` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The model of the requests, as they write it; any model if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The number of matching requests that pass before the fault is triggered.
    #[serde(default)]
    pub skip: u32,
    /// The number of requests that trigger it; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

impl Fault {
    /// A fault for every request, until it is cleared.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            path: None,
            model: None,
            skip: 0,
            count: None,
        }
    }

    /// Limits the fault to requests for this exact path.
    pub fn for_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Limits the fault to requests for this model, as they write it.
    pub fn for_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Limits the fault to `count` requests.
    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// Lets `skip` matching requests pass first.
    pub fn after_requests(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// The reason why the fault can never be triggered, if there is one.
    pub(crate) fn invalid_reason(&self) -> Option<&'static str> {
        (self.model.is_some() && self.kind.applies_before_body())
            .then_some("slow_read and early_answer apply before the body is read, so they cannot depend on its model")
    }
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self::new(kind)
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// With FIN, like at the end of a process.
    #[default]
    Fin,
    /// With RST, like from a host that has lost the connection.
    Reset,
    /// Not at all, until the client closes it.
    Hold,
}

/// The place in an answer where a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cut {
    /// Between two chunks.
    #[default]
    Boundary,
    /// After a complete chunk that contains half of the next line.
    InsideLine,
    /// Inside of a chunk that declared more data.
    InsideChunk,
}

/// The kind of a fault. A "line" is one item of a stream (an NDJSON line, an event), which Ollama
/// sends as one HTTP chunk. An answer that is not a stream counts as one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// 503 with Ollama's message for a full queue, in the dialect of the route.
    Busy,
    /// 500 with Ollama's message for an engine that did not start, in the dialect of the route.
    LoadFailure,
    /// Any status, with this body as `text/plain`.
    Status {
        /// The status, 200 to 599.
        status: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// No answer, until the client disconnects.
    Hang,
    /// Silence for some time, then the usual answer.
    Silence {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection ends before the first byte of the answer.
    Drop {
        /// How it ends.
        #[serde(default)]
        ending: Ending,
    },
    /// The connection ends during the answer.
    Die {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
        /// How it ends.
        #[serde(default)]
        ending: Ending,
        /// Where it ends.
        #[serde(default)]
        cut: Cut,
    },
    /// The engine dies during a stream, as in recordings of real servers: a native stream gets an
    /// error line and a clean end; a /v1 stream ends cleanly without its last event. An answer that
    /// is not a stream is a 500.
    EngineDies {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
    },
    /// The stream ends cleanly, but too early, without another line.
    Truncate {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
    },
    /// Bytes that are not HTTP, in place of the answer or after some lines of it.
    Garbage {
        /// Lines sent before; if absent, only garbage is sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_lines: Option<u64>,
    },
    /// The stream stops for some time or for ever; the connection stays open.
    Stall {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
        /// Milliseconds; for ever if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ms: Option<u64>,
    },
    /// The request body is read slowly, one piece at a time.
    SlowRead {
        /// Milliseconds before each piece, of at most 16 KiB.
        ms: u64,
    },
    /// An immediate answer, without reading the request body.
    EarlyAnswer {
        /// The status, 200 to 599.
        status: u16,
    },
    /// These bytes in place of the answer.
    Raw {
        /// The bytes, with the head.
        bytes: String,
        /// How the connection ends after them.
        #[serde(default)]
        ending: Ending,
    },
    /// Two contradictory Content-Length fields (RFC 9112 6.3: the answer is invalid).
    TwoLengths,
    /// Content-Length together with chunked framing (RFC 9112 6.3: a smuggling attempt).
    LengthAndChunked,
    /// 101 without a requested upgrade.
    SwitchingProtocols,
    /// The usual answer with an additional long header field.
    BigHeader {
        /// The length of the field's value in bytes.
        bytes: u32,
    },
    /// An answer with a long first token.
    HugeLine {
        /// The length of the token in bytes.
        bytes: u32,
    },
    /// The listener is closed: connections are refused. Takes effect at once, without a request.
    Refuse {
        /// The duration in milliseconds.
        ms: u64,
    },
    /// Each connection is reset after it was accepted. Takes effect at once, without a request.
    ResetAccepts {
        /// The duration in milliseconds.
        ms: u64,
    },
}

impl FaultKind {
    /// The connection ends between two lines.
    pub fn die_after(lines: u64, ending: Ending) -> Self {
        Self::Die {
            after_lines: lines,
            ending,
            cut: Cut::Boundary,
        }
    }

    /// The answer comes after a silence.
    pub fn silence(silence: Duration) -> Self {
        Self::Silence {
            ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The stream stops for ever.
    pub fn stall_after(lines: u64) -> Self {
        Self::Stall {
            after_lines: lines,
            ms: None,
        }
    }

    fn applies_before_body(&self) -> bool {
        matches!(self, Self::SlowRead { .. } | Self::EarlyAnswer { .. })
    }
}

/// The faults that wait for a request.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    armed: Mutex<Vec<Fault>>,
}

impl Faults {
    fn armed(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn arm(&self, fault: Fault) {
        self.armed().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.armed().clear();
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.armed().clone()
    }

    /// The fault to apply before the body of this request is read.
    pub(crate) fn before_body(&self, path: &str) -> Option<FaultKind> {
        self.trigger(|fault| fault.kind.applies_before_body() && fits(&fault.path, path))
    }

    /// The fault to apply after the request was read.
    pub(crate) fn after_body(&self, path: &str, model: Option<&str>) -> Option<FaultKind> {
        self.trigger(|fault| {
            !fault.kind.applies_before_body()
                && fits(&fault.path, path)
                && (fault.model.is_none() || fault.model.as_deref() == model)
        })
    }

    fn trigger(&self, fits: impl Fn(&Fault) -> bool) -> Option<FaultKind> {
        let mut armed = self.armed();
        let at = armed.iter().position(fits)?;
        let fault = &mut armed[at];
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        let kind = fault.kind.clone();
        match &mut fault.count {
            Some(0 | 1) => {
                armed.remove(at);
            }
            Some(count) => *count -= 1,
            None => {}
        }
        Some(kind)
    }
}

fn fits(wanted: &Option<String>, path: &str) -> bool {
    wanted.as_deref().is_none_or(|wanted| wanted == path)
}
