//! Faults on demand.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One fault, and which requests it is for.
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
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Only requests for this exact path; any path but those under `/sim` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only requests that name this model, as they write it; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How many requests it strikes; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

impl Fault {
    /// A fault that strikes every request, until it is cleared.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            path: None,
            model: None,
            skip: 0,
            count: None,
        }
    }

    /// Strikes only requests for this exact path.
    pub fn for_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Strikes only requests that name this model, spelled as they spell it.
    pub fn for_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Strikes so many requests, then no more.
    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// Lets so many matching requests pass first.
    pub fn after_requests(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Why it can never strike, if that is so.
    pub(crate) fn unsound(&self) -> Option<&'static str> {
        (self.model.is_some() && self.kind.strikes_before_body())
            .then_some("slow_read and early_answer strike before the body is read, so they cannot depend on its model")
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
    /// With FIN, as when a process exits.
    #[default]
    Fin,
    /// With RST, as when a host forgets the connection.
    Reset,
    /// Not at all, until the client closes it.
    Hold,
}

/// Where in an answer a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cut {
    /// Between two chunks.
    #[default]
    Boundary,
    /// After a whole chunk that holds half of the next line.
    InsideLine,
    /// In the data of a chunk that announced more.
    InsideChunk,
}

/// What goes wrong. "Lines" are items of a stream (an NDJSON line, an event): what Ollama sends
/// as one HTTP chunk. An answer that is no stream counts as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// 503 with the text of a full queue, in the dialect of the route.
    Busy,
    /// 500 with the text of an engine that did not start, in the dialect of the route.
    LoadFailure,
    /// Any status, with this body as `text/plain`.
    Status {
        /// The status, 200 to 599.
        status: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// No answer, until the client goes away.
    Hang,
    /// Nothing for so long, then the usual answer.
    Silence {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection ends before a byte of the answer.
    Drop {
        /// How it ends.
        #[serde(default)]
        ending: Ending,
    },
    /// The connection ends in mid-answer.
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
    /// The engine dies in mid-stream, as recorded of real servers: a native stream gets a line
    /// with an error and a clean end, a /v1 stream ends cleanly without its terminal event.
    /// An answer that is no stream is a 500.
    EngineDies {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
    },
    /// The stream ends cleanly, too early, with no more said.
    Truncate {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
    },
    /// Bytes that are not HTTP, in place of the answer or after so many lines of it.
    Garbage {
        /// Lines sent before; without it, garbage is all that is sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_lines: Option<u64>,
    },
    /// The stream stops for a while, or for good; the connection stays open.
    Stall {
        /// Lines sent before.
        #[serde(default)]
        after_lines: u64,
        /// Milliseconds; for good when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ms: Option<u64>,
    },
    /// The body of the request is read a piece at a time.
    SlowRead {
        /// Milliseconds before each piece, of at most 16 KiB.
        ms: u64,
    },
    /// An answer at once, the body of the request unread.
    EarlyAnswer {
        /// The status, 200 to 599.
        status: u16,
    },
    /// These bytes, in place of the answer.
    Raw {
        /// The bytes, head and all.
        bytes: String,
        /// How the connection ends after them.
        #[serde(default)]
        ending: Ending,
    },
    /// Two Content-Length fields that disagree (RFC 9112 6.3: the answer is invalid).
    TwoLengths,
    /// Content-Length together with chunked framing (RFC 9112 6.3: a smuggling attempt).
    LengthAndChunked,
    /// 101 although nobody asked for an upgrade.
    SwitchingProtocols,
    /// The usual answer with a header field of so many bytes more.
    BigHeader {
        /// The length of the field's value.
        bytes: u32,
    },
    /// The first token of the answer is so long.
    HugeLine {
        /// Its length.
        bytes: u32,
    },
    /// The listener is closed: connections are refused. Strikes at once, no request.
    Refuse {
        /// For so many milliseconds.
        ms: u64,
    },
    /// Every connection is reset as soon as it is accepted. Strikes at once, no request.
    ResetAccepts {
        /// For so many milliseconds.
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

    /// The stream stops for good.
    pub fn stall_after(lines: u64) -> Self {
        Self::Stall {
            after_lines: lines,
            ms: None,
        }
    }

    fn strikes_before_body(&self) -> bool {
        matches!(self, Self::SlowRead { .. } | Self::EarlyAnswer { .. })
    }
}

/// The faults that are waiting for a request.
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

    /// The fault that strikes before the body of this request is read.
    pub(crate) fn before_body(&self, path: &str) -> Option<FaultKind> {
        self.strike(|fault| fault.kind.strikes_before_body() && fits(&fault.path, path))
    }

    /// The fault that strikes once the request is read.
    pub(crate) fn after_body(&self, path: &str, model: Option<&str>) -> Option<FaultKind> {
        self.strike(|fault| {
            !fault.kind.strikes_before_body()
                && fits(&fault.path, path)
                && (fault.model.is_none() || fault.model.as_deref() == model)
        })
    }

    fn strike(&self, fits: impl Fn(&Fault) -> bool) -> Option<FaultKind> {
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
