//! The gateways that use one Redis: which there are, and the servers that operators have cordoned.
//!
//! Once a second each gateway registers itself, with what it tells of itself, and exchanges cordons. A change by an operator is sent to
//! Redis, and the others apply it. Cordons that only this gateway knows, of an earlier run or because Redis
//! has lost its data, are added.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use llamatower_layers::redis::{Redis, RedisScript};
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::registered::{About, MOST, Member, Members};
use super::{Gateways, Registered, Sharing};
use crate::ollama::fleet::Cordons;
use crate::telemetry::FleetView;

static EXCHANGE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("members.lua")));

/// The time between two exchanges.
const EVERY: Duration = Duration::from_secs(1);
/// A gateway that has not registered for so long counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// Cordons expire if no gateway has run for so long.
const CORDONS_LAST: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The task that registers this gateway and exchanges cordons.
pub struct Membership {
    redis: Redis,
    /// `None` if `LLAMATOWER_PEERS` tells the number.
    gateways: Option<Gateways>,
    registered: Registered,
    about: Box<dyn Fn() -> About + Send + Sync>,
    cordons: Cordons,
    fleet: Arc<dyn FleetView>,
    id: String,
    /// What Redis said last, with the changes of operators since. `None` before the first answer.
    agreed: Option<BTreeMap<String, bool>>,
    /// Since when fewer gateways are registered than before.
    fewer_since: Option<Instant>,
}

impl Membership {
    /// For the cordons of `fleet`. The number of gateways is told to `gateways`, and which they are to
    /// `sharing`; `about` is what this one tells of itself.
    ///
    /// `None` if Redis is not used.
    pub fn new(
        sharing: &Sharing,
        gateways: Option<Gateways>,
        cordons: Cordons,
        fleet: Arc<dyn FleetView>,
        about: impl Fn() -> About + Send + Sync + 'static,
    ) -> Option<Self> {
        Some(Self {
            redis: sharing.redis()?.clone(),
            gateways,
            registered: sharing.registered().clone(),
            about: Box::new(about),
            cordons,
            fleet,
            id: Uuid::new_v4().to_string(),
            agreed: None,
            fewer_since: None,
        })
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.redis.connected().await;
            self.exchange().await;
        }
    }

    async fn exchange(&mut self) {
        let names = self.cordons.names();
        let cordoned: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
        let millis = |time: Duration| time.as_millis().to_string();
        let mut arguments = vec![self.id.clone(), millis(GONE_AFTER), millis(CORDONS_LAST)];
        arguments.extend([(self.about)().to_text(), MOST.to_string()]);
        for (name, is_cordoned, mode) in changes(self.agreed.as_ref(), &cordoned) {
            arguments.extend([name, u8::from(is_cordoned).to_string(), mode.to_owned()]);
        }
        let keys = [
            self.redis.key("gateways", "all"),
            self.redis.key("cordons", "all"),
            self.redis.key("gateways:about", "all"),
        ];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // The observer has told of a failure.
        let Ok(answer) = self
            .redis
            .run("members", &EXCHANGE, &keys, &arguments)
            .await
        else {
            return;
        };
        let Some(answer) = Answer::parse(&answer) else {
            return;
        };
        self.note_number(answer.number);
        self.note_members(answer.number, answer.members);
        let servers = answer
            .servers
            .chunks_exact(2)
            .map(|row| (row[0].clone(), row[1] == "1"));
        let agreed: BTreeMap<String, bool> = servers.collect();
        for (name, is_cordoned) in &agreed {
            if cordoned.contains(name) != *is_cordoned {
                tracing::info!(backend = name, is_cordoned, "cordoned at another gateway");
                if !self.fleet.set_cordoned(name, *is_cordoned) {
                    // A server that this gateway does not know yet.
                    self.cordons.set(name, *is_cordoned);
                }
            }
        }
        self.agreed = Some(agreed);
    }
}

impl Membership {
    fn note_members(&self, number: NonZeroU32, rows: &[[String; 3]]) {
        let now = Instant::now();
        let shown = rows.iter().map(|row| Member::parse(row, &self.id, now));
        let number = usize::try_from(number.get()).unwrap_or(usize::MAX);
        self.registered.set(Members {
            shown: shown.collect(),
            not_shown: number.saturating_sub(rows.len()),
        });
    }

    /// A lower number counts only after a while: when Redis answers again, the others have not registered
    /// yet.
    fn note_number(&mut self, number: NonZeroU32) {
        let Some(gateways) = &self.gateways else {
            return;
        };
        let is_lower = number < gateways.number();
        let since = is_lower.then(|| self.fewer_since.unwrap_or_else(Instant::now));
        self.fewer_since = since;
        if since.is_none_or(|since| since.elapsed() >= GONE_AFTER) {
            gateways.set(number);
        }
    }
}

/// The parts of the script's answer.
struct Answer<'a> {
    /// The number of gateways.
    number: NonZeroU32,
    /// Some of them, in the form of [`Member::parse`].
    members: &'a [[String; 3]],
    /// Each server, followed by 1 if it is cordoned.
    servers: &'a [String],
}

impl<'a> Answer<'a> {
    fn parse(answer: &'a [String]) -> Option<Self> {
        let [number, rows, rest @ ..] = answer else {
            return None;
        };
        let rows: usize = rows.parse().ok()?;
        let (rows, servers) = rest.split_at_checked(rows.checked_mul(3)?)?;
        Some(Self {
            number: number.parse().unwrap_or(NonZeroU32::MIN),
            members: rows.as_chunks().0,
            servers,
        })
    }
}

/// What is to be sent: an operator's changes since the last answer, and what Redis does not know.
fn changes(
    agreed: Option<&BTreeMap<String, bool>>,
    cordoned: &BTreeSet<String>,
) -> Vec<(String, bool, &'static str)> {
    let mut changes = Vec::new();
    for name in cordoned {
        match agreed.map(|agreed| agreed.get(name)) {
            Some(Some(true)) => {}
            Some(Some(false)) => changes.push((name.clone(), true, "set")),
            // A new cordon, or one that Redis has lost.
            Some(None) | None => changes.push((name.clone(), true, "keep")),
        }
    }
    let known = agreed.into_iter().flatten();
    let ended = known.filter(|(name, is_cordoned)| **is_cordoned && !cordoned.contains(*name));
    changes.extend(ended.map(|(name, _)| (name.clone(), false, "set")));
    // Redis can have lost its data since: then these are set again.
    let kept = agreed.into_iter().flatten();
    let kept = kept.filter(|(name, is_cordoned)| **is_cordoned && cordoned.contains(*name));
    changes.extend(kept.map(|(name, _)| (name.clone(), true, "keep")));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_s_change_wins_over_redis_and_an_earlier_run_does_not() {
        let cordoned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let restored = changes(None, &cordoned(&["gpu-1"]));
        assert_eq!(restored, [("gpu-1".to_owned(), true, "keep")]);
        let agreed = BTreeMap::from([("gpu-1".to_owned(), false), ("gpu-2".to_owned(), true)]);
        let found = changes(Some(&agreed), &cordoned(&["gpu-1", "gpu-3"]));
        let expected = [
            ("gpu-1".to_owned(), true, "set"),
            ("gpu-3".to_owned(), true, "keep"),
            ("gpu-2".to_owned(), false, "set"),
        ];
        assert_eq!(found, expected);
        let found = changes(Some(&agreed), &cordoned(&["gpu-2"]));
        assert_eq!(found, [("gpu-2".to_owned(), true, "keep")]);
    }
}
