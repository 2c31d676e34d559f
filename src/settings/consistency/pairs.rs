//! Pairs of settings that contradict each other, as a table.

use crate::settings::Settings;
use crate::settings::error::Severity::{self, Error, Warning};
use crate::settings::reader::Reader;
use crate::state::DAYS_IN_MEMORY;

/// Two settings that contradict each other if `holds`.
pub(super) struct Pair {
    severity: Severity,
    /// The key of the setting at the beginning of the message.
    one: &'static str,
    /// Its relation to the other setting, as part of a sentence: `is above`.
    relation: &'static str,
    other: &'static str,
    holds: fn(&Settings) -> bool,
    /// The consequence, and what to do.
    consequence: &'static str,
    /// The check applies only if these settings were given explicitly.
    given: &'static [&'static str],
}

/// A row is `Severity: "one" relation "other" (given "key") if condition => "consequence"`.
macro_rules! pairs {
    ($($severity:ident: $one:literal $relation:literal $other:literal $(given $given:literal)?
        if |$settings:ident| $holds:expr => $consequence:literal;)*) => {
        &[$(Pair {
            severity: $severity,
            one: $one,
            relation: $relation,
            other: $other,
            holds: |$settings| $holds,
            consequence: $consequence,
            given: &[$($given)?],
        },)*]
    };
}

const PAIRS: &[Pair] = pairs! {
    // Proxies.
    Error: "listen.proxy_protocol" "needs the addresses of the proxies in" "listen.trusted_proxies"
        if |all| all.listen.proxy_protocol && all.listen.trusted_proxies.is_empty()
        => "every connection would be closed; write them, or set the first to off";

    // API keys.
    Error: "keys.required" "requires keys, but there is none in" "keys.api"
        if |all| all.keys.required && !all.has_user_keys()
        => "all clients could use the gateway; add a key (`llamatower keygen` generates one)";
    Warning: "backends.management" "has no effect without" "keys.admin"
        if |all| all.backends.management.is_some() && !all.has_admin_keys()
        => "managing models is off; add an administrator's key";

    Warning: "limits.user_rate" "has no effect without" "keys.delegating"
        if |all| all.limits.user_rate.is_some() && all.keys.delegating.is_empty()
        => "no key names its users; write the keys that do";
    Warning: "limits.user_concurrency" "has no effect without" "keys.delegating"
        if |all| all.limits.user_concurrency.is_some() && all.keys.delegating.is_empty()
        => "no key names its users; write the keys that do";
    Warning: "limits.user_tokens" "has no effect without" "keys.delegating"
        if |all| !all.limits.user_tokens.is_empty() && all.keys.delegating.is_empty()
        => "no key names its users; write the keys that do";
    Warning: "keys.user_headers" "has no effect without" "keys.delegating" given "keys.user_headers"
        if |all| all.keys.delegating.is_empty()
        => "no key names its users; write the keys that do";

    Warning: "keys.networks" "has no effect beside" "keys.api"
        if |all| !all.keys.networks.is_empty() && all.has_user_keys() && !all.keys.networks_replace_keys
        => "each client needs a key, whose name counts; set LLAMATOWER_NETWORKS_REPLACE_KEYS=true if these \
            networks need none";
    Warning: "keys.networks_replace_keys" "has no effect without" "keys.networks"
        if |all| all.keys.networks_replace_keys && all.keys.networks.is_empty()
        => "no network is named; name those that need no key";
    Warning: "keys.networks_replace_keys" "has no effect without" "keys.api"
        if |all| all.keys.networks_replace_keys && !all.keys.networks.is_empty() && !all.has_user_keys()
        => "no client needs a key";

    // The state.
    Warning: "state.usage_days" "has no effect above 31 without" "state.directory" given "state.usage_days"
        if |all| all.state.usage_days.get() > DAYS_IN_MEMORY && all.state.directory.is_none()
        => "usage is in memory only; set a directory to keep it for longer";

    // Several gateways.
    Warning: "sharing.redis_prefix" "has no effect without" "sharing.redis" given "sharing.redis_prefix"
        if |all| all.sharing.redis.is_none() => "gateways share nothing; set the address of Redis";
    Warning: "sharing.redis_timeout" "has no effect without" "sharing.redis" given "sharing.redis_timeout"
        if |all| all.sharing.redis.is_none() => "gateways share nothing; set the address of Redis";
    Warning: "sharing.rates_without_redis" "has no effect without" "sharing.redis" given "sharing.rates_without_redis"
        if |all| all.sharing.redis.is_none() => "gateways share nothing; set the address of Redis";
    Warning: "sharing.tokens_without_redis" "has no effect without" "sharing.redis" given "sharing.tokens_without_redis"
        if |all| all.sharing.redis.is_none() => "gateways share nothing; set the address of Redis";
    Warning: "sharing.slots_without_redis" "has no effect without" "sharing.redis" given "sharing.slots_without_redis"
        if |all| all.sharing.redis.is_none() => "gateways share nothing; set the address of Redis";

    // Limits.
    Warning: "limits.in_flight" "is below" "queue.max_waiting"
        if |all| all.limits.in_flight < all.queue.max_waiting
        => "requests are refused before the queue is full; raise the one or lower the other";
    Warning: "listen.max_connections" "is below" "limits.in_flight" given "limits.in_flight"
        if |all| all.listen.max_connections < all.limits.in_flight
        => "each request needs a connection, so that the second limit is never reached";
    Warning: "queue.max_waiting_per_key" "is above" "queue.max_waiting"
        if |all| all.queue.max_waiting_per_key.is_some_and(|own| own > all.queue.max_waiting)
        => "it has no effect: one client can fill the queue";
    Warning: "queue.max_predicted_wait" "is above" "queue.max_wait"
        if |all| is_above(all.queue.max_predicted_wait, all.queue.max_wait)
        => "requests enter the queue and are then refused because they waited too long; lower the first";
    Warning: "queue.ageing" "is not below" "queue.max_wait" given "queue.ageing"
        if |all| is_at_least(all.queue.ageing, all.queue.max_wait)
        => "it has no effect: a request is refused before its priority rises";
    Warning: "cache.time_to_live" "has no effect without" "cache.max_bytes" given "cache.time_to_live"
        if |all| all.cache.max_bytes.is_none()
        => "the cache is off";

    // Time-outs.
    Error: "breaker.open_for" "is above" "breaker.open_at_most"
        if |all| all.breaker.open_for > all.breaker.open_at_most
        => "a breaker cannot stay open for longer than the longest time; lower the first or raise the second";
    Warning: "timeouts.first_byte" "is above" "timeouts.total" given "timeouts.first_byte"
        if |all| is_above(all.timeouts.first_byte, all.timeouts.total)
        => "it has no effect: the response is cut off before";
    Warning: "timeouts.load" "is above" "timeouts.total" given "timeouts.load"
        if |all| is_above(all.timeouts.load, all.timeouts.total)
        => "it has no effect: the response is cut off before";
    Warning: "timeouts.load" "is below" "timeouts.first_byte" given "timeouts.load"
        if |all| is_above(all.timeouts.first_byte, all.timeouts.load)
        => "a request that has to load its model gets less time than others; raise the first";
    Warning: "timeouts.idle" "is above" "timeouts.total" given "timeouts.idle"
        if |all| is_above(all.timeouts.idle, all.timeouts.total)
        => "it has no effect: the response is cut off before";
    Warning: "timeouts.connect" "is above" "timeouts.total" given "timeouts.connect"
        if |all| is_above(Some(all.timeouts.connect), all.timeouts.total)
        => "it has no effect: the response is cut off before";
    Warning: "timeouts.heartbeat" "is above" "timeouts.first_byte"
        if |all| is_above(all.timeouts.heartbeat, all.timeouts.first_byte)
        => "it has no effect while a server is silent: the request times out before the first comment; lower the first";
    Warning: "limits.first_byte_target" "is not below" "timeouts.first_byte"
        if |all| is_at_least(all.limits.first_byte_target, all.timeouts.first_byte)
        => "the limit never falls, because such a slow request times out before; lower the first";
    Warning: "backends.probe_timeout" "is below" "timeouts.connect" given "backends.probe_timeout"
        if |all| all.backends.probe_timeout < all.timeouts.connect
        => "a server counts as down before a connection to it times out; lower the second";

    Error: "limits.min_keep_alive" "is above" "limits.max_keep_alive"
        if |all| is_above(all.limits.min_keep_alive, all.limits.max_keep_alive)
        => "no time is within both; lower the first or raise the second";

    // Settings that need another setting to have an effect.
    Warning: "queue.max_waiting" "has no effect without" "backends.slots" given "queue.max_waiting"
        if |all| !all.backends.slots.are_counted()
        => "no request waits in the gateway if slots are not counted";
    Warning: "queue.max_waiting_per_key" "has no effect without" "backends.slots"
        given "queue.max_waiting_per_key" if |all| !all.backends.slots.are_counted()
        => "no request waits in the gateway if slots are not counted";
    Warning: "queue.max_wait" "has no effect without" "backends.slots" given "queue.max_wait"
        if |all| !all.backends.slots.are_counted()
        => "no request waits in the gateway if slots are not counted";
    Warning: "limits.min_keep_alive" "has no effect without" "keys.api" given "limits.min_keep_alive"
        if |all| !all.has_user_keys()
        => "only clients with a key are limited";
    Warning: "limits.max_keep_alive" "has no effect without" "keys.api" given "limits.max_keep_alive"
        if |all| !all.has_user_keys()
        => "only clients with a key are limited";
    Warning: "backends.ca_file" "has no effect without an https server in" "backends.urls"
        given "backends.ca_file" if |all| {
            let cloud = all.cloud.when.is_on().then_some(&all.cloud.url);
            !all.backends.urls.iter().chain(cloud).any(|url| url.is_https())
        }
        => "only certificates of https servers are verified";

    // The cloud.
    Error: "cloud.when" "needs the service's key in" "keys.groq"
        if |all| all.cloud.when.is_on() && all.keys.groq.is_none()
        => "set the key, or set the first to off";
    Error: "cloud.when" "needs the models that may be sent, in" "cloud.models"
        if |all| all.cloud.when.is_on() && all.cloud.models.is_empty()
        => "write them like qwen2.5-coder:7b=openai/gpt-oss-20b, or set the first to off";
    Warning: "cloud.when" "has no effect without" "keys.api"
        if |all| all.cloud.when.is_on() && !all.has_user_keys() && !all.cloud.anonymous
        => "requests without a key are not sent to the cloud unless LLAMATOWER_CLOUD_ANONYMOUS is true";
    Warning: "cloud.models" "has no effect without" "cloud.when" given "cloud.models"
        if |all| !all.cloud.when.is_on()
        => "no request is sent to the cloud; set the second to down, missing or busy";
    Warning: "cloud.when" "sends without a limit, because there is none in" "cloud.tokens"
        if |all| all.cloud.when.is_on() && all.cloud.tokens.is_none()
        => "set the tokens that may be used on one day";
};

/// A time-out that is off counts as infinite.
fn is_above<T: PartialOrd>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one > other)
}

fn is_at_least<T: PartialOrd>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one >= other)
}

pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    for pair in PAIRS {
        let is_told = pair.given.iter().all(|key| reader.texts.is_given(key));
        let is_valid = reader.is_valid(pair.one) && reader.is_valid(pair.other);
        if is_told && is_valid && (pair.holds)(settings) {
            let other = reader.named(pair.other);
            let reason = format!("it {} {other}: {}", pair.relation, pair.consequence);
            reader.report(pair.severity, pair.one, &reason);
        }
    }
}
