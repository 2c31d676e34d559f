//! Parsers of limits: rates, token budgets, slots, and the limits of single keys.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::queue::Priority;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::{Budget, Window};

use super::{Parsed, count, items, one_of, server_name, without_user};
use crate::ollama::fleet::SlotRule;
use crate::settings::values::{KeyLimit, KeyLimits, ListingRate, PerServer};

pub(in crate::settings) fn rate(text: &str) -> Parsed<Quota> {
    let (requests, per) = text
        .split_once('/')
        .ok_or("it must end with /s, /m or /h")?;
    let per = one_of(&[("s", 1), ("m", 60), ("h", 3600)])(per.trim());
    let per = per.map_err(|_| "what follows the / must be s, m or h")?;
    let quota = Quota::new(count(requests)?, Duration::from_secs(per));
    quota.map_err(|error| error.to_string())
}

pub(in crate::settings) fn listing_rate(text: &str) -> Parsed<ListingRate> {
    match text {
        "" | "auto" => Ok(ListingRate::Auto),
        "off" => Ok(ListingRate::Off),
        text => Ok(ListingRate::Of(rate(text)?)),
    }
}

/// A limit of one key; without a text the general one.
pub(in crate::settings) fn key_limit<T>(
    parse: impl Fn(&str) -> Parsed<T>,
) -> impl Fn(&str) -> Parsed<KeyLimit<T>> {
    move |text| match text {
        "" => Ok(KeyLimit::General),
        "off" => Ok(KeyLimit::Off),
        text => parse(text).map(KeyLimit::Of),
    }
}

/// Adds a budget to those of a key, or `off`, which must be alone.
pub(in crate::settings) fn add_budget(
    budgets: &mut KeyLimit<Vec<Budget>>,
    text: &str,
) -> Parsed<()> {
    match (key_limit(token_budget)(text)?, budgets) {
        (KeyLimit::General, _) => return Err("a token budget is empty".to_owned()),
        (KeyLimit::Off, budgets @ KeyLimit::General) => *budgets = KeyLimit::Off,
        (KeyLimit::Of(budget), budgets @ KeyLimit::General) => {
            *budgets = KeyLimit::Of(vec![budget]);
        }
        (KeyLimit::Of(budget), KeyLimit::Of(budgets)) => budgets.push(budget),
        _ => return Err("off must be the only token budget of a key".to_owned()),
    }
    Ok(())
}

pub(in crate::settings) fn token_budget(text: &str) -> Parsed<Budget> {
    let parts = text.split_once('/');
    let (tokens, window) = parts.ok_or("it must end with /minute, /day or /month")?;
    let windows = [
        ("minute", Window::Minute),
        ("day", Window::Day),
        ("month", Window::Month),
    ];
    Ok(Budget::new(
        count(tokens)?,
        one_of(&windows)(window.trim())
            .map_err(|_| "what follows the / must be minute, day or month")?,
    ))
}

/// A value for all servers, and values for named ones, like `4, gpu-1:11434=2`.
fn per_server<T: Default>(text: &str, value: impl Fn(&str) -> Parsed<T>) -> Parsed<PerServer<T>> {
    without_user(text)?;
    let mut of = PerServer::default();
    for item in items(text) {
        match item.split_once('=') {
            None => of.others = value(item)?,
            Some((name, text)) => of.named.push((server_name(name)?, value(text)?)),
        }
    }
    Ok(of)
}

pub(in crate::settings) fn slots(text: &str) -> Parsed<PerServer<SlotRule>> {
    per_server(text, slot_rule)
}

pub(in crate::settings) fn server_limits(text: &str) -> Parsed<PerServer<Option<NonZeroUsize>>> {
    per_server(text, |text| match text.trim() {
        "off" => Ok(None),
        number => count(number).map(Some),
    })
}

fn slot_rule(text: &str) -> Parsed<SlotRule> {
    Ok(match text.trim() {
        "learn" => SlotRule::Learn,
        "off" => SlotRule::Off,
        number => SlotRule::Count(count(number)?),
    })
}

pub(in crate::settings) fn priority(text: &str) -> Parsed<Priority> {
    one_of(&[
        ("high", Priority::High),
        ("normal", Priority::Normal),
        ("low", Priority::Low),
    ])(text)
}

pub(in crate::settings) fn key_limits(text: &str) -> Parsed<BTreeMap<Arc<str>, KeyLimits>> {
    let mut limits: BTreeMap<Arc<str>, KeyLimits> = BTreeMap::new();
    for item in items(text) {
        let parts = item.split_once(':').and_then(|(name, limit)| {
            let (kind, value) = limit.split_once('=')?;
            Some((name.trim(), kind.trim(), value.trim()))
        });
        let (name, kind, value) = parts.ok_or(format!("{item:?} is not like ada:rate=60/m"))?;
        let limits = limits.entry(name.into()).or_default();
        match kind {
            "rate" => limits.rate = key_limit(rate)(value)?,
            "tokens" => add_budget(&mut limits.tokens, value)?,
            "concurrency" => limits.concurrency = key_limit(count)(value)?,
            "weight" => limits.share.weight = count(value)?,
            "priority" => limits.share.priority = priority(value)?,
            _ => {
                let kinds = "rate, tokens, concurrency, weight, priority";
                return Err(format!("{kind:?} must be one of {kinds}"));
            }
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_key_has_budgets_or_none_but_not_both() {
        let of_ada = |text: &str| key_limits(text).map(|limits| limits["ada"].tokens.clone());
        assert_eq!(of_ada("ada:weight=2"), Ok(KeyLimit::General));
        assert_eq!(of_ada("ada:tokens=off"), Ok(KeyLimit::Off));
        let two = of_ada("ada:tokens=5/day, ada:tokens=9/month");
        assert!(matches!(two, Ok(KeyLimit::Of(budgets)) if budgets.len() == 2));
        for text in [
            "ada:tokens=off, ada:tokens=5/day",
            "ada:tokens=5/day, ada:tokens=off",
            "ada:tokens=",
        ] {
            assert!(of_ada(text).is_err(), "{text}");
        }
    }
}
