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

/// A server that does not respond any more was perhaps the fastest one until then.
#[test]
fn without_a_limit_a_silent_server_gets_few_more_requests_than_it_has_run_at_once() {
    let mut stage = Stage::new(0, &[]);
    for (name, weight) in [("fast", 2.0), ("slow", 1.0)] {
        let spec = ServerSpec {
            weight,
            slots: Some(NO_LIMIT),
            ..ServerSpec::new(name.into())
        };
        let id = stage.policy.add_server(spec);
        stage.policy.set_installed(id, &[(model("m"), 0)]);
        stage.servers.push(id);
    }
    stage.list(0, &["m"]);
    stage.list(1, &["m"]);
    assert_eq!(stage.serve("m", 0.0), 0);
    let mut unanswered = 0;
    for _ in 0..30 {
        let (server, flight) = stage.send("m");
        match server {
            0 => unanswered += 1,
            _ => {
                stage.pass(1.0);
                stage.answer("m", flight, 0.0);
            }
        }
    }
    assert!((1..=3).contains(&unanswered), "{unanswered}");
}

#[test]
fn a_model_that_a_server_lists_again_keeps_the_count_of_its_requests() {
    let mut stage = Stage::new(0, &[]);
    let spec = ServerSpec {
        slots: Some(2),
        ..ServerSpec::new("gpu-0".into())
    };
    let id = stage.policy.add_server(spec);
    stage.servers.push(id);
    let list = |stage: &mut Stage, models: &[(ModelName, u64)]| {
        stage.policy.set_installed(id, models);
    };
    let installed = [(model("m"), 8_000_000_000)];
    list(&mut stage, &installed);
    let [first, second] = [stage.send("m").1, stage.send("m").1];
    list(&mut stage, &[]);
    assert!(stage.choose("m", 0.0, 1).is_none(), "no server has it");
    stage.answer("m", first, 0.0);
    list(&mut stage, &installed);
    let (_, third) = stage.send("m");
    assert!(stage.choose("m", 0.0, 1).is_none(), "two are in flight");
    stage.answer("m", second, 0.0);
    stage.answer("m", third, 0.0);
    stage.send("m");
    stage.send("m");
    assert!(
        stage.choose("m", 0.0, 1).is_none(),
        "two are in flight again"
    );
    let lane = stage.policy.models[&model("m")].lane(id).unwrap();
    assert_eq!(
        lane.rates.service.get(),
        Some(3.0),
        "the speed is still known"
    );
}
