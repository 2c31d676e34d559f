//! Generates tokens at a pace, in the format of a route.

mod render;
mod text;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::clock::{Clock, Timer};
use crate::model::ModelSpec;
use crate::scheduler::Lease;

pub(crate) use render::{Shape, Times, ToolCall, created_at, seconds};
pub(crate) use text::tokens_of;

/// A generation request.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) spec: Arc<ModelSpec>,
    pub(crate) shape: Shape,
    pub(crate) prompt_tokens: u64,
    /// The leading tokens that need no processing, because they are in the cache.
    pub(crate) cached_tokens: u64,
    pub(crate) clock: Clock,
    /// The length of the answer that the prompt asks for, if it does.
    pub(crate) reply: Option<u64>,
    /// The token limit of the request, if it has one.
    pub(crate) limit: Option<u64>,
    /// The length of the first token, to test very long lines.
    pub(crate) first_token_bytes: Option<usize>,
    pub(crate) seed: u64,
    /// The word that every token of the answer repeats, if the prompt asks for it.
    pub(crate) echo: Option<String>,
    /// A tool call in place of text.
    pub(crate) tool_call: Option<ToolCall>,
    /// Thinking output before the text.
    pub(crate) thinks: bool,
}

/// A generation in progress. It holds its slot until it has ended or the client has disconnected.
pub(crate) struct Generation {
    order: Order,
    lease: Option<Lease>,
    began: Instant,
    prompt_time: Duration,
    done: u64,
    text: String,
    /// The time of the last tokens, and the timer of the next ones.
    last: Instant,
    timer: Option<Timer>,
    ready: VecDeque<Bytes>,
    has_begun: bool,
    has_ended: bool,
}

impl Generation {
    /// Processes the prompt and generates the first token: the response head is sent after that.
    pub(crate) async fn begin(order: Order, lease: Lease, began: Instant) -> Self {
        let rate = order.spec.prompt_rate;
        let prompt_time = rate.map_or(Duration::ZERO, |rate| {
            // The last token of a prompt is always processed.
            let new = order.prompt_tokens.saturating_sub(order.cached_tokens);
            Duration::from_secs_f64(new.max(1) as f64 / rate)
        });
        let wait = prompt_time + order.spec.pace;
        // At a high speed, the delays of timers must not add up from request to request.
        let start = match order.clock {
            Clock::Precise => lease.since(),
            Clock::Runtime => Instant::now(),
        };
        let last = start + wait;
        if !wait.is_zero() {
            order.clock.sleep_until(last).await;
        }
        Self {
            order,
            lease: Some(lease),
            began,
            prompt_time,
            done: 0,
            text: String::new(),
            last,
            timer: None,
            ready: VecDeque::new(),
            has_begun: false,
            has_ended: false,
        }
    }

    /// Generates to the end and returns the whole answer.
    pub(crate) async fn whole(mut self) -> Vec<u8> {
        std::future::poll_fn(|cx| {
            while self.done < self.count() {
                ready!(self.poll_tokens(cx));
            }
            Poll::Ready(())
        })
        .await;
        self.order
            .shape
            .whole(&self.order, &self.text, &self.times())
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.has_ended && self.ready.is_empty()
    }

    /// The next chunk of the stream.
    pub(crate) fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Poll::Ready(Some(line));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            if !std::mem::replace(&mut self.has_begun, true) {
                self.ready.extend(self.order.shape.opening(&self.order));
                continue;
            }
            if self.done < self.count() {
                let place = self.done;
                let tokens = ready!(self.poll_tokens(cx));
                let line = self.order.shape.token(&self.order, &tokens, place);
                self.ready.push_back(line);
                continue;
            }
            self.has_ended = true;
            let times = self.times();
            self.ready
                .extend(self.order.shape.closing(&self.order, &self.text, &times));
            if let Some(mut lease) = self.lease.take()
                && self.order.clock == Clock::Precise
            {
                lease.end_at(self.last);
            }
        }
    }

    fn count(&self) -> u64 {
        let spec = &self.order.spec;
        match self.order.tool_call {
            Some(_) => 0,
            None => {
                let reply = self.order.reply;
                let wanted = match self.order.limit {
                    Some(limit) => limit.min(reply.unwrap_or(limit)),
                    None => reply.unwrap_or(spec.reply_tokens),
                };
                wanted.min(spec.longest_reply.unwrap_or(u64::MAX))
            }
        }
    }

    /// The tokens of the next line.
    fn poll_tokens(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let spec = &self.order.spec;
        let tokens = match self.done {
            0 => 1,
            done => spec.line_tokens.min(self.count() - done),
        };
        if self.done > 0 && !spec.pace.is_zero() {
            let at = self.last + spec.pace * u32::try_from(tokens).unwrap_or(u32::MAX);
            let clock = self.order.clock;
            let timer = self.timer.get_or_insert_with(|| clock.sleep_until(at));
            ready!(Pin::new(timer).poll(cx));
            self.timer = None;
            self.last = at;
        }
        let text: String = match (self.order.first_token_bytes, &self.order.echo) {
            (Some(bytes), _) if self.done == 0 => "x".repeat(bytes),
            (_, Some(word)) => (0..tokens).flat_map(|_| [" ", word]).collect(),
            _ => (self.done..self.done + tokens)
                .map(|place| text::token(self.order.seed, place))
                .collect(),
        };
        self.done += tokens;
        self.text.push_str(&text);
        Poll::Ready(text)
    }

    fn times(&self) -> Times {
        let load = self
            .lease
            .as_ref()
            .map_or(Duration::ZERO, Lease::load_duration);
        Times {
            total: self.began.elapsed(),
            load,
            prompt: self.prompt_time.max(Duration::from_micros(1)),
            eval: self.order.spec.pace * u32::try_from(self.done).unwrap_or(u32::MAX)
                + Duration::from_micros(1),
            tokens: self.done,
            hit_limit: self.order.limit.is_some_and(|limit| self.done >= limit),
        }
    }
}
