//! What gateways tell each other of themselves, for operators.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The number of gateways that operators see.
pub(super) const MOST: usize = 50;
/// The longest text of another gateway, in characters.
const LONGEST: usize = 200;
/// What another gateway tells is not read if it has more bytes.
const LARGEST: usize = 8 * 1024;

/// What a gateway tells of itself. Another version may tell less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The name of its machine or pod.
    pub host: String,
    /// The address of its first listener for clients.
    pub address: String,
    /// Its version.
    pub version: String,
    /// Requests in flight, also those that wait.
    pub in_flight: u64,
    /// Waiting requests.
    pub waiting: u64,
    /// Whether it is about to end.
    pub is_draining: bool,
}

impl About {
    /// What is sent to Redis.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What Redis returned; `None` if nothing, or if it is not what gateways write.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > LARGEST {
            return None;
        }
        let about: Self = serde_json::from_str(text).ok()?;
        let short = |text: String| text.chars().take(LONGEST).collect();
        Some(Self {
            host: short(about.host),
            address: short(about.address),
            version: short(about.version),
            ..about
        })
    }
}

/// A gateway that has registered itself in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, a new one at each start.
    pub id: String,
    /// Whether it is this gateway.
    pub is_this: bool,
    /// What it tells; `None` if it is of a version that tells nothing.
    pub about: Option<About>,
    /// When it registered last.
    pub seen_at: Instant,
}

impl Member {
    /// A row of the script's answer: id, what it tells, the milliseconds since it registered.
    pub(super) fn parse([id, about, age]: &[String; 3], this: &str, now: Instant) -> Self {
        let age = Duration::from_millis(age.parse().unwrap_or(0));
        Self {
            is_this: id == this,
            id: id.chars().take(LONGEST).collect(),
            about: About::parse(about),
            seen_at: now.checked_sub(age).unwrap_or(now),
        }
    }
}

/// The registered gateways, when Redis answered last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// At most 50, this one first, then by id.
    pub shown: Vec<Member>,
    /// The number of the others.
    pub not_shown: usize,
}

/// The registered gateways. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registered(Arc<ArcSwap<Members>>);

impl Registered {
    /// The registered gateways, when Redis answered last.
    pub fn get(&self) -> Arc<Members> {
        self.0.load_full()
    }

    pub(super) fn set(&self, members: Members) {
        self.0.store(Arc::new(members));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(about: &str) -> Member {
        let now = Instant::now();
        let row = ["b".to_owned(), about.to_owned(), "1500".to_owned()];
        let member = Member::parse(&row, "a", now);
        assert_eq!(now - member.seen_at, Duration::from_millis(1500));
        member
    }

    #[tokio::test]
    async fn what_a_gateway_tells_is_read_as_it_was_written() {
        let about = About {
            host: "backend-0".to_owned(),
            address: "0.0.0.0:3000".to_owned(),
            version: "1.0.0".to_owned(),
            in_flight: 3,
            waiting: 1,
            is_draining: true,
        };
        assert_eq!(member(&about.to_text()).about, Some(about));
    }

    #[tokio::test]
    async fn what_no_gateway_writes_is_bounded_or_not_read() {
        for text in ["", "[1", "7", "{\"host\": 7}", &"x".repeat(LARGEST + 1)] {
            assert_eq!(member(text).about, None, "{text}");
        }
        let long = format!("{{\"host\": \"{}\", \"of_later\": [1]}}", "é".repeat(1000));
        assert_eq!(member(&long).about.unwrap().host.chars().count(), LONGEST);
        let row = ["a".to_owned(), String::new(), "-1".to_owned()];
        assert!(Member::parse(&row, "a", Instant::now()).is_this);
    }
}
