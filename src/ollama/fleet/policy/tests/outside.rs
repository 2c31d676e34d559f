//! Servers that tell how many requests they have.

use super::*;

/// Two servers with the model in memory, each of which has answered a request within 3 s.
fn two_measured() -> Stage {
    let mut stage = Stage::new(2, &["m"]);
    stage.list(0, &["m"]);
    stage.list(1, &["m"]);
    let (one, first) = stage.send("m");
    let (other, second) = stage.send("m");
    assert_ne!(one, other);
    stage.pass(1.0);
    stage.answer("m", first, 0.0);
    stage.answer("m", second, 0.0);
    stage
}

fn report(stage: &mut Stage, server: usize, running: u32, waiting: u32, own: u32) {
    let id = stage.servers[server];
    let load = ReportedLoad { running, waiting };
    stage.policy.set_reported(id, Some(load), own);
}

#[test]
fn a_queue_of_others_is_a_wait_at_the_pace_of_the_server() {
    let mut stage = two_measured();
    report(&mut stage, 0, 4, 8, 0);
    for _ in 0..4 {
        assert_eq!(stage.serve("m", 0.0), 1);
    }
    report(&mut stage, 1, 4, 80, 0);
    let grant = stage.choose("m", 0.0, 1).unwrap();
    assert_eq!(grant.server, stage.servers[0]);
    // Nine requests, this one included, have to begin; four run at a time.
    let service = 3.0;
    assert!(
        (grant.terms.wait - service * 9.0 / 4.0).abs() < 0.5,
        "{grant:?}"
    );
}

/// The requests of others on the first server.
fn others_of_first(stage: &Stage) -> u32 {
    let server = stage.policy.server(stage.servers[0]);
    server.unwrap().outside.others
}

#[test]
fn own_requests_do_not_count_as_those_of_others() {
    let mut stage = two_measured();
    report(&mut stage, 0, 1, 0, 1);
    assert_eq!(others_of_first(&stage), 0);
    report(&mut stage, 0, 1, 0, 3);
    assert_eq!(others_of_first(&stage), 0);
    report(&mut stage, 0, 5, 1, 2);
    assert_eq!(others_of_first(&stage), 4);
}

#[test]
fn a_server_that_was_restarted_or_tells_nothing_any_more_has_no_others() {
    let mut stage = two_measured();
    let id = stage.servers[0];
    report(&mut stage, 0, 4, 8, 0);
    stage.policy.restarted(id, stage.now);
    assert_eq!(stage.policy.snapshot(stage.now)[&id].outside.others, 0);
    report(&mut stage, 0, 4, 8, 0);
    stage.policy.set_reported(id, None, 0);
    assert_eq!(stage.policy.snapshot(stage.now)[&id].outside.others, 0);
}
