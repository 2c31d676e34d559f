//! How slots are learned from requests.

use super::*;

#[test]
fn one_more_slot_is_tried_only_with_a_request_that_may_wait() {
    let mut stage = Stage::new(1, &["m"]);
    stage.list(0, &["m"]);
    stage.serve("m", 0.0);
    let (m, id, now) = (model("m"), stage.servers[0], stage.now);
    let lane = lane(&mut stage.policy.models, &m, id).unwrap();
    lane.slots.waited_behind(2, now);
    stage.pass(60.0);
    stage.send("m");
    stage.send("m");
    assert!(stage.choose_with("m", 0.0, 8, false).is_none());
    assert!(stage.choose_with("m", 0.0, 8, true).is_some());
}

#[test]
fn while_the_slots_are_unknown_any_request_finds_more_of_them() {
    let mut stage = Stage::new(1, &["m"]);
    stage.list(0, &["m"]);
    stage.serve("m", 0.0);
    stage.send("m");
    assert!(stage.choose_with("m", 0.0, 8, false).is_some());
}
