//! Totals of each client since the gateway has started.

use foldhash::HashMap;

use super::FinishedRequest;
use crate::clients::Client;

/// The number of clients that are kept. The others share one row.
const CLIENTS: usize = 256;

/// What a client has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that ran a model.
    pub requests: u64,
    /// Requests that the gateway refused.
    pub refused: u64,
    /// The tokens of the prompts.
    pub prompt_tokens: u64,
    /// The tokens of the responses.
    pub output_tokens: u64,
}

impl Totals {
    fn tokens(&self) -> u64 {
        self.prompt_tokens + self.output_tokens
    }
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    known: HashMap<Client, Totals>,
    others: Option<Totals>,
}

impl Clients {
    pub(super) fn add(&mut self, request: &FinishedRequest) {
        // Anyone can send requests that are refused, from any number of addresses.
        let is_named = request.client.as_ref().is_some_and(Client::is_identified);
        let has_room = self.known.len() < CLIENTS && (is_named || !request.was_refused());
        let known = request.client.as_ref();
        let known = known.and_then(|client| self.known.get_mut(client));
        let totals = match (known, &request.client) {
            (Some(totals), _) => totals,
            (None, Some(client)) if has_room => self.known.entry(client.clone()).or_default(),
            (None, _) => self.others.get_or_insert_default(),
        };
        totals.requests += 1;
        totals.refused += u64::from(request.was_refused());
        if let Some(usage) = request.usage {
            totals.prompt_tokens += usage.prompt_tokens;
            totals.output_tokens += usage.output_tokens;
        }
    }

    pub(super) fn by_tokens(&self) -> Vec<(Option<Client>, Totals)> {
        let known = self.known.iter();
        let mut rows: Vec<_> = known
            .map(|(client, totals)| (Some(client.clone()), *totals))
            .collect();
        rows.sort_by_cached_key(|(client, totals)| {
            let name = client.as_ref().map(ToString::to_string);
            (std::cmp::Reverse(totals.tokens()), name)
        });
        rows.extend(self.others.map(|totals| (None, totals)));
        rows
    }
}
