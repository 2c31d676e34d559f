//! One record for a request: what came of it, completed exactly once, at the end of the answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Extensions, StatusCode};

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It has not.
    #[default]
    Open,
    /// The answer was sent whole.
    Complete,
    /// The client went away first.
    Cancelled,
    /// The answer broke off on the backend's or the gateway's side.
    Broken,
}

/// What came of a request. Whoever knows a field fills it in, through the [`Record`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// When the request's head had been read.
    pub started: Instant,
    /// The model's name as the client wrote it.
    pub model: Option<Arc<str>>,
    /// Whether the answer was to be a stream.
    pub stream: bool,
    /// The name of the key that the client showed.
    pub identity: Option<Arc<str>>,
    /// The backend that gave the answer.
    pub backend: Option<Arc<str>>,
    /// How many times a backend was asked.
    pub attempts: u32,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// From the start to the answer's first byte.
    pub time_to_first_byte: Option<Duration>,
    /// Why it failed: [`Failure::kind`](crate::Failure::kind).
    pub error: Option<&'static str>,
    /// How it ended.
    pub ending: Ending,
}

impl Outcome {
    /// The record of a request that starts now.
    pub fn starting(now: Instant) -> Self {
        Self {
            started: now,
            model: None,
            stream: false,
            identity: None,
            backend: None,
            attempts: 0,
            status: None,
            time_to_first_byte: None,
            error: None,
            ending: Ending::Open,
        }
    }
}

/// Who is told of outcomes: telemetry, a log, a test.
pub trait Observer: Send + Sync {
    /// The request has ended, and the record with it.
    fn finished(&self, outcome: &Outcome);
}

/// The record while the request is under way; an extension of the request.
#[derive(Clone, Debug)]
pub struct Record(Arc<Mutex<Outcome>>);

impl Record {
    /// A record to be filled in.
    pub fn new(outcome: Outcome) -> Self {
        Self(Arc::new(Mutex::new(outcome)))
    }

    /// Changes the record of the request that these extensions belong to, if it has one.
    pub fn update_in(extensions: &Extensions, change: impl FnOnce(&mut Outcome)) {
        if let Some(record) = extensions.get::<Self>() {
            record.update(change);
        }
    }

    /// Changes the record.
    pub fn update(&self, change: impl FnOnce(&mut Outcome)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is known so far.
    pub fn snapshot(&self) -> Outcome {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
