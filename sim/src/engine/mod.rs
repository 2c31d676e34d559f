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
use tokio::time::{Instant, Sleep, sleep, sleep_until};

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
    /// The token limit of the request, if it has one.
    pub(crate) limit: Option<u64>,
    /// The length of the first token, to test very long lines.
    pub(crate) first_token_bytes: Option<usize>,
    pub(crate) seed: u64,
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
    due: Option<(Instant, Pin<Box<Sleep>>)>,
    ready: VecDeque<Bytes>,
    has_begun: bool,
    has_ended: bool,
}

impl Generation {
    /// Processes the prompt and generates the first token: the response head is sent after that.
    pub(crate) async fn begin(order: Order, lease: Lease, began: Instant) -> Self {
        let rate = order.spec.prompt_rate;
        let prompt_time = rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(order.prompt_tokens as f64 / rate)
        });
        let wait = prompt_time + order.spec.pace;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Self {
            order,
            lease: Some(lease),
            began,
            prompt_time,
            done: 0,
            text: String::new(),
            due: None,
            ready: VecDeque::new(),
            has_begun: false,
            has_ended: false,
        }
    }

    /// Generates to the end and returns the whole answer.
    pub(crate) async fn whole(mut self) -> Vec<u8> {
        std::future::poll_fn(|cx| {
            while self.done < self.count() {
                ready!(self.poll_token(cx));
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
                let token = ready!(self.poll_token(cx));
                let line = self.order.shape.token(&self.order, &token, self.done - 1);
                self.ready.push_back(line);
                continue;
            }
            self.has_ended = true;
            let times = self.times();
            self.ready
                .extend(self.order.shape.closing(&self.order, &self.text, &times));
            self.lease = None;
        }
    }

    fn count(&self) -> u64 {
        let spec = &self.order.spec;
        match self.order.tool_call {
            Some(_) => 0,
            None => {
                let wanted = self.order.limit.unwrap_or(spec.reply_tokens);
                wanted.min(spec.longest_reply.unwrap_or(u64::MAX))
            }
        }
    }

    fn poll_token(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let pace = self.order.spec.pace;
        if self.done > 0 && !pace.is_zero() {
            let (at, timer) = self.due.get_or_insert_with(|| {
                let at = Instant::now() + pace;
                (at, Box::pin(sleep_until(at)))
            });
            ready!(timer.as_mut().poll(cx));
            *at += pace;
            let next = *at;
            timer.as_mut().reset(next);
        }
        let token = match self.order.first_token_bytes {
            Some(bytes) if self.done == 0 => "x".repeat(bytes),
            _ => text::token(self.order.seed, self.done).to_owned(),
        };
        self.done += 1;
        self.text.push_str(&token);
        Poll::Ready(token)
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
