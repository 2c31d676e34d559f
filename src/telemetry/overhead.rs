//! The gateway's own part of the time of a request.

use std::time::Duration;

use llamatower_layers::Outcome;

/// How long the gateway took for a request, without the waits: for the client's body, in the queue,
/// and for backends. `None` if no backend has answered, or the response has no head.
///
/// ```text
/// head read ── body ── queue ── sent ── backend's head ── head to the client ── frames .. end
/// ▓▓▓▓▓▓▓▓▓▓▓▓▓░░░░▓▓▓▓░░░░░▓▓▓▓░░░░░░░░░░░░░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓                       ▓ counted
/// ```
///
/// The work on the frames after the head is not measured: that would cost a clock for each frame.
/// If the head was sent before the backend had answered, to keep the connection alive, the time
/// after the backend's head is not counted.
pub(super) fn overhead(outcome: &Outcome) -> Option<Duration> {
    let answered = outcome.last_answered?;
    let head = outcome.started + outcome.time_to_first_byte?;
    let waited = outcome.waited + outcome.queued.unwrap_or_default();
    let before = answered.saturating_duration_since(outcome.started);
    Some(before.saturating_sub(waited) + head.saturating_duration_since(answered))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A request that was sent after 30 ms and answered after 100 ms, with a head after `head` ms.
    fn answered(head: u64) -> Outcome {
        let now = Instant::now();
        let mut outcome = Outcome::starting(now);
        outcome.attempted(now + ms(30), now + ms(100));
        outcome.time_to_first_byte = Some(ms(head));
        outcome
    }

    #[test]
    fn it_is_the_time_before_the_attempt_and_after_its_answer() {
        assert_eq!(overhead(&answered(105)), Some(ms(35)));
    }

    #[test]
    fn waits_for_the_body_and_in_the_queue_are_left_out() {
        let mut outcome = answered(105);
        outcome.waited += ms(10);
        outcome.queued = Some(ms(17));
        assert_eq!(overhead(&outcome), Some(ms(8)));
    }

    #[test]
    fn each_of_several_attempts_is_left_out() {
        let mut outcome = answered(300);
        let now = outcome.started;
        outcome.attempted(now + ms(110), now + ms(290));
        assert_eq!(overhead(&outcome), Some(ms(50)));
        assert_eq!(outcome.first_sent, Some(now + ms(30)));
    }

    #[test]
    fn a_head_that_was_sent_before_the_answer_adds_nothing() {
        assert_eq!(overhead(&answered(50)), Some(ms(30)));
    }

    #[test]
    fn a_request_that_no_backend_has_answered_has_none() {
        let mut outcome = Outcome::starting(Instant::now());
        outcome.time_to_first_byte = Some(ms(1));
        assert_eq!(overhead(&outcome), None);
    }
}
