//! Estimates of what a request will cost, learned from the requests of its client for its model.
//!
//! The queue charges a request with its expected cost until the real one is known, so an estimate
//! that is far too high makes a client's few requests in flight count like many. Requests of one
//! client for one model are alike: a completion in an editor costs 20 tokens, a chat 800.

use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use llamatower_layers::ModelName;
use llamatower_layers::usage::Usage;

use crate::clients::Client;

/// The output tokens to expect while nothing is known about the model.
const UNKNOWN_OUTPUT: f64 = 128.0;
/// About as many bytes of text are one token.
const BYTES_PER_TOKEN: f64 = 4.0;
/// The weight of the latest request in the moving averages.
const LATEST_WEIGHT: f64 = 0.1;
/// The most averages in memory, about 1 MB. Beyond it, the half that was used by no request for the
/// longest time is forgotten; the clients concerned start again from the average of their model.
const MOST_AVERAGES: usize = 4096;

/// What requests cost, by model and client.
#[derive(Debug, Default)]
pub(crate) struct Estimates(Mutex<Averages>);

#[derive(Debug, Default)]
struct Averages {
    all: HashMap<(ModelName, Whose), Average>,
    /// The number of requests that were recorded.
    recorded: u64,
}

/// The requests of which an average is taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    /// All requests for the model.
    All,
    /// The requests of one client for the model.
    Client(Option<Client>),
}

/// The moving averages of some requests.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    body_bytes: f64,
    prompt_tokens: f64,
    output_tokens: f64,
    requests: u32,
    /// The number of its last request.
    last: u64,
}

/// The tokens that a request is expected to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Prompt tokens, estimated from the size of the request with the tokens for each byte that
    /// earlier prompts of the client had.
    pub(crate) prompt_tokens: f64,
    /// Output tokens: the average of the client's earlier requests for the model, else of all
    /// clients', else 128.
    pub(crate) output_tokens: f64,
}

impl Expected {
    /// The expected cost in tokens, at least 1.
    pub(crate) fn cost(self) -> u32 {
        cost(self.prompt_tokens, self.output_tokens).max(1)
    }
}

/// The cost in tokens: an output token costs about twice as much as a prompt token.
fn cost(prompt_tokens: f64, output_tokens: f64) -> u32 {
    // A float that is too large becomes the largest integer.
    (prompt_tokens + 2.0 * output_tokens).ceil() as u32
}

/// The cost in tokens of a request that has ended.
pub(crate) fn real_cost(usage: &Usage) -> u32 {
    cost(usage.prompt_tokens as f64, usage.output_tokens as f64)
}

impl Estimates {
    /// What to expect of a request with a body of this length, in which images count as little
    /// (`LlmRequest::prompt_bytes`).
    pub(crate) fn expected(
        &self,
        model: Option<&ModelName>,
        client: Option<&Client>,
        body_bytes: u64,
    ) -> Expected {
        let body_bytes = body_bytes as f64;
        match self.average(model, client) {
            Some(average) => Expected {
                prompt_tokens: average.prompt_tokens(body_bytes),
                output_tokens: average.output_tokens,
            },
            None => Expected {
                prompt_tokens: body_bytes / BYTES_PER_TOKEN,
                output_tokens: UNKNOWN_OUTPUT,
            },
        }
    }

    /// Learns from a request that has ended.
    pub(crate) fn record(
        &self,
        model: &ModelName,
        client: Option<&Client>,
        body_bytes: u64,
        usage: &Usage,
    ) {
        let mut averages = self.averages();
        averages.recorded += 1;
        for whose in [Whose::All, Whose::Client(client.cloned())] {
            let now = averages.recorded;
            let average = averages.all.entry((model.clone(), whose)).or_default();
            average.add(body_bytes, usage);
            average.last = now;
        }
        averages.forget_if_many();
    }

    fn average(&self, model: Option<&ModelName>, client: Option<&Client>) -> Option<Average> {
        let averages = self.averages();
        let of = |whose| averages.all.get(&(model?.clone(), whose)).copied();
        of(Whose::Client(client.cloned())).or_else(|| of(Whose::All))
    }

    fn averages(&self) -> MutexGuard<'_, Averages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Averages {
    fn forget_if_many(&mut self) {
        if self.all.len() <= MOST_AVERAGES {
            return;
        }
        let mut last: Vec<u64> = self.all.values().map(|average| average.last).collect();
        let middle = last.len() / 2;
        let (_, &mut middle, _) = last.select_nth_unstable(middle);
        self.all.retain(|_, average| average.last > middle);
    }
}

impl Average {
    fn add(&mut self, body_bytes: u64, usage: &Usage) {
        self.requests = self.requests.saturating_add(1);
        // The first requests count equally.
        let weight = LATEST_WEIGHT.max(1.0 / f64::from(self.requests));
        for (average, latest) in [
            (&mut self.body_bytes, body_bytes),
            (&mut self.prompt_tokens, usage.prompt_tokens),
            (&mut self.output_tokens, usage.output_tokens),
        ] {
            *average += weight * (latest as f64 - *average);
        }
    }

    /// The prompt tokens to expect of a body.
    fn prompt_tokens(&self, body_bytes: f64) -> f64 {
        match self.body_bytes > 0.0 {
            true => body_bytes * self.prompt_tokens / self.body_bytes,
            false => self.prompt_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    fn key(name: &str) -> Client {
        Client::Key(name.into())
    }

    fn usage(prompt_tokens: u64, output_tokens: u64) -> Usage {
        let mut usage = Usage::default();
        usage.prompt_tokens = prompt_tokens;
        usage.output_tokens = output_tokens;
        usage
    }

    #[test]
    fn without_earlier_requests_the_cost_is_the_size_and_an_allowance() {
        let estimates = Estimates::default();
        let (m, ada) = (model("m"), key("ada"));
        assert_eq!(
            estimates.expected(Some(&m), Some(&ada), 400).cost(),
            100 + 256
        );
        assert_eq!(estimates.expected(None, None, 0).cost(), 256);
        let long = estimates.expected(Some(&m), None, 300_000).cost();
        assert_eq!(long, 75_000 + 256);
        assert_eq!(
            estimates.expected(Some(&m), Some(&ada), 0).output_tokens,
            128.0
        );
    }

    #[test]
    fn each_client_is_expected_to_go_on_as_before_and_a_new_one_like_all() {
        let estimates = Estimates::default();
        let (m, editor, chat) = (model("m"), key("editor"), key("chat"));
        for _ in 0..20 {
            estimates.record(&m, Some(&editor), 400, &usage(200, 10));
            estimates.record(&m, Some(&chat), 400, &usage(100, 800));
        }
        let cost_of = |client| estimates.expected(Some(&m), client, 800).cost();
        assert_eq!(cost_of(Some(&editor)), 400 + 2 * 10);
        assert_eq!(cost_of(Some(&chat)), 200 + 2 * 800);
        let output = estimates
            .expected(Some(&m), Some(&key("new")), 0)
            .output_tokens;
        assert!((350.0..500.0).contains(&output), "{output}");
        assert_eq!(estimates.expected(Some(&m), None, 0).output_tokens, output);
        let other = model("other");
        assert_eq!(
            estimates
                .expected(Some(&other), Some(&editor), 0)
                .output_tokens,
            128.0
        );
    }

    #[test]
    fn the_latest_requests_count_more() {
        let estimates = Estimates::default();
        let m = model("m");
        for output in [1000; 50].into_iter().chain([10; 50]) {
            estimates.record(&m, None, 0, &usage(0, output));
        }
        let output = estimates.expected(Some(&m), None, 0).output_tokens;
        assert!((10.0..20.0).contains(&output), "{output}");
    }

    #[test]
    fn a_request_never_costs_nothing_and_a_huge_one_not_too_much() {
        let estimates = Estimates::default();
        let m = model("m");
        estimates.record(&m, None, 400, &usage(0, 0));
        assert_eq!(estimates.expected(Some(&m), None, 400).cost(), 1);
        estimates.record(&m, None, u64::MAX, &usage(u64::MAX, u64::MAX));
        assert_eq!(
            estimates.expected(Some(&m), None, u64::MAX).cost(),
            u32::MAX
        );
        assert_eq!(real_cost(&usage(u64::MAX, u64::MAX)), u32::MAX);
        assert_eq!(real_cost(&usage(30, 7)), 44);
    }

    #[test]
    fn the_clients_that_sent_nothing_for_the_longest_time_are_forgotten() {
        let estimates = Estimates::default();
        let (m, regular) = (model("m"), key("regular"));
        let visitor = |n: usize| key(&format!("visitor-{n}"));
        for n in 0..3 * MOST_AVERAGES {
            if n % 100 == 0 {
                estimates.record(&m, Some(&regular), 0, &usage(0, 50));
            }
            estimates.record(&m, Some(&visitor(n)), 0, &usage(0, 1000));
            assert!(estimates.averages().all.len() <= MOST_AVERAGES);
        }
        let output_of = |client| estimates.expected(Some(&m), Some(&client), 0).output_tokens;
        assert_eq!(output_of(regular), 50.0);
        assert_eq!(output_of(visitor(3 * MOST_AVERAGES - 1)), 1000.0);
        let all = estimates
            .expected(Some(&m), Some(&key("new")), 0)
            .output_tokens;
        assert_eq!(output_of(visitor(0)), all, "as of a new client");
    }
}
