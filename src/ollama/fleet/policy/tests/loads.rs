//! Which server loads a model, when, and which model has to go.

use super::*;

#[test]
fn one_request_loads_a_model_and_the_others_wait_for_it() {
    let mut stage = Stage::new(1, &["m"]);
    let first = stage.choose("m", 0.0, 1).unwrap();
    assert!(first.loads);
    assert!(stage.choose("m", 0.0, 1).is_none());
    stage.pass(8.0);
    let first = first.flight;
    stage.policy.first_byte(&model("m"), first, stage.now);
    assert!(!stage.choose("m", 8.0, 1).unwrap().loads);
}

#[test]
fn a_server_that_keeps_its_models_loads_none_whatever_context_is_asked_for() {
    let mut stage = Stage::new(0, &[]);
    let id = stage.policy.add_server(ServerSpec {
        keeps_models: true,
        slots: Some(8),
        ..ServerSpec::new("gpu-1".into())
    });
    stage.servers.push(id);
    stage.list(0, &[]);
    stage.policy.set_installed(id, &[(model("m"), 0)]);
    for num_ctx in [None, Some(8192), Some(512), None] {
        let model = model("m");
        let ask = Ask {
            num_ctx,
            may_change_num_ctx: true,
            ..ask(&model, stage.now)
        };
        let grant = stage.policy.choose(&ask, healthy).unwrap();
        assert!(!grant.loads, "{num_ctx:?}");
        stage.policy.first_byte(&model, grant.flight, stage.now);
        stage.list(0, &[]);
    }
}

/// The list of models in memory can be asked for before a request and answered after it.
#[test]
fn a_request_before_the_first_list_is_the_only_one_until_it_is_answered() {
    let mut stage = Stage::new(0, &[]);
    let id = stage.policy.add_server(ServerSpec {
        slots: Some(1),
        ..ServerSpec::new("gpu".into())
    });
    stage.servers.push(id);
    stage.policy.set_installed(id, &[(model("m"), 0)]);
    let (_, first) = stage.send("m");
    stage.list(0, &[]);
    assert!(stage.choose("m", 0.0, 1).is_none());
    stage.answer("m", first, 0.0);
    assert!(!stage.choose("m", 0.0, 1).unwrap().loads);
}

#[test]
fn a_load_that_fails_is_tried_again() {
    let mut stage = Stage::new(1, &["m"]);
    let first = stage.choose("m", 0.0, 1).unwrap();
    stage.policy.end(&model("m"), first.flight, None, stage.now);
    assert!(stage.choose("m", 0.0, 1).unwrap().loads);
}

#[test]
fn a_second_copy_is_loaded_only_if_many_wait() {
    let mut stage = Stage::new(2, &["m"]);
    stage.serve("m", 8.0);
    let limit = 2;
    for _ in 0..limit {
        assert!(!stage.choose("m", 0.0, 1).unwrap().loads);
    }
    assert!(stage.choose("m", 0.0, 1).is_none(), "one waits");
    let copy = stage.choose("m", 0.0, 40).unwrap();
    assert!(copy.loads, "forty wait");
}

#[test]
fn before_the_first_response_a_second_copy_is_loaded_when_all_slots_were_taken_for_three_loads() {
    let mut stage = Stage::new(2, &["m"]);
    stage.list(0, &["m"]);
    let id = stage.servers[0];
    // What is assumed for a model of 8 GB.
    let load = 8.5;
    while let Some(grant) = stage.choose("m", 0.0, 1) {
        assert!(grant.server == id && !grant.loads);
    }
    stage.pass(2.9 * load);
    assert!(stage.choose("m", 0.0, 1).is_none());
    stage.pass(0.2 * load);
    let copy = stage.choose("m", 0.0, 1).unwrap();
    assert!(copy.server == stage.servers[1] && copy.loads);
}

/// A response took 3 s, those in all slots take much longer.
#[test]
fn responses_that_are_longer_than_usual_do_not_keep_a_request_from_an_idle_server() {
    let mut stage = Stage::new(2, &["m"]);
    let (first, _) = (stage.serve("m", 8.0), stage.pass(60.0));
    while let Some(grant) = stage.choose("m", 0.0, 1) {
        assert!(stage.servers[first] == grant.server && !grant.loads);
    }
    stage.pass(15.0);
    assert!(
        stage.choose("m", 0.0, 1).is_none(),
        "the slots are taken for 15 s"
    );
    stage.pass(15.0);
    let copy = stage.choose("m", 0.0, 1).unwrap();
    assert!(stage.servers[first] != copy.server && copy.loads);
}

/// Its own slots are free, and for how long says nothing.
#[test]
fn a_server_that_is_full_with_another_model_is_waited_for_as_usual() {
    let mut stage = Stage::new(0, &[]);
    for max_in_flight in [Some(1), None] {
        let id = stage.policy.add_server(ServerSpec {
            max_in_flight,
            ..ServerSpec::new(format!("gpu-{}", stage.servers.len()).into())
        });
        stage.servers.push(id);
    }
    let both = ["m", "n"].map(|name| (model(name), 8_000_000_000));
    let (full, idle) = (stage.servers[0], stage.servers[1]);
    stage.policy.set_installed(full, &both);
    stage.policy.set_installed(idle, &both[..1]);
    stage.list(0, &["m", "n"]);
    stage.list(1, &[]);
    assert_eq!(stage.serve("m", 0.0), 0);
    stage.pass(3600.0);
    assert_eq!(stage.serve("n", 0.0), 0);
    let _held = stage.send("n");
    stage.list(0, &["m", "n"]);
    assert!(stage.choose("m", 0.0, 1).is_none());
}

#[test]
fn a_request_does_not_wait_for_the_slots_of_a_server_that_is_down() {
    let mut stage = Stage::new(1, &["m"]);
    stage.serve("m", 8.0);
    while stage.choose("m", 0.0, 1).is_some() {}
    let with = |policy: &mut Policy, availability| {
        let model = model("m");
        let view = View {
            availability,
            was_tried: false,
            is_trial: false,
        };
        let grant = policy.choose(&ask(&model, stage.now), |_| Some(view));
        grant.is_some_and(|grant| {
            let shown = policy.decision(grant.decision).unwrap();
            assert!(shown.candidates[0].is_open, "it was sent there");
            true
        })
    };
    for (availability, is_sent) in [
        (Availability::Avoided, false),
        (Availability::BreakerOpen, false),
        (Availability::Down, true),
        (Availability::DownAndOpen, true),
    ] {
        assert_eq!(
            with(&mut stage.policy, availability),
            is_sent,
            "{availability:?}"
        );
    }
}

#[test]
fn a_busy_model_is_not_unloaded_before_it_has_had_its_time() {
    let mut stage = Stage::new(1, &["a", "b"]);
    // Only one model fits.
    stage.serve("a", 8.0);
    stage.list(0, &["a"]);
    stage.serve("b", 8.0);
    stage.list(0, &["b"]);
    let (_, busy) = stage.send("b");
    assert!(stage.choose("a", 0.0, 1).is_none(), "it is busy");
    stage.policy.set_waiting(&model("a"), 1);
    stage.policy.set_waiting(&model("b"), 5);
    stage.answer("b", busy, 0.0);
    assert!(stage.choose("a", 5.0, 1).is_none(), "others wait for it");
    // Then it gets no more requests, and is unloaded once it is idle.
    let (_, busy) = stage.send("b");
    stage.pass(100.0);
    assert!(stage.choose("a", 100.0, 1).is_none(), "it is busy");
    assert!(stage.choose("b", 1.0, 5).is_none(), "it rests");
    stage.answer("b", busy, 0.0);
    assert!(stage.choose("a", 102.0, 1).unwrap().loads);
}

#[test]
fn requests_for_a_model_that_nobody_waits_for_any_more_free_the_resting_one() {
    let mut stage = Stage::new(1, &["a", "b"]);
    stage.serve("a", 8.0);
    stage.list(0, &["a"]);
    stage.serve("b", 8.0);
    stage.list(0, &["b"]);
    let _busy = stage.send("b");
    stage.pass(100.0);
    stage.policy.set_waiting(&model("a"), 1);
    assert!(stage.choose("a", 100.0, 1).is_none());
    assert!(stage.choose("b", 0.0, 1).is_none(), "it rests");
    stage.policy.set_waiting(&model("a"), 0);
    assert!(stage.choose("b", 0.0, 1).is_some());
}

#[test]
fn a_model_with_room_beside_a_busy_one_is_loaded_at_once() {
    let mut stage = Stage::new(1, &["a", "b"]);
    stage.list(0, &["a", "b"]);
    stage.list(0, &["a"]);
    let _busy = stage.send("a");
    assert!(stage.choose("b", 0.0, 1).unwrap().loads);
}

/// Two servers with room for one model each: the first has `pinned` in memory, the second `busy`,
/// for which requests have come.
fn one_server_with_a_pinned_model(is_pinned: bool) -> Stage {
    let mut stage = Stage::new(2, &["pinned", "busy", "m"]);
    for (server, name) in [(0, "pinned"), (1, "busy")] {
        stage.list(server, &[name]);
        let id = stage.servers[server];
        stage.fill(id);
    }
    for _ in 0..10 {
        assert_eq!(stage.serve("busy", 0.0), 1);
    }
    let id = stage.servers[0];
    let lane = lane(&mut stage.policy.models, &model("pinned"), id);
    lane.unwrap().is_pinned = is_pinned;
    stage
}

#[test]
fn a_model_takes_the_place_of_a_busy_one_rather_than_of_a_pinned_one() {
    let of_another = one_server_with_a_pinned_model(false).send("m").0;
    assert_eq!(of_another, 0, "nobody asks for the model there");
    assert_eq!(one_server_with_a_pinned_model(true).send("m").0, 1);
}

#[test]
fn a_model_takes_the_place_of_a_pinned_one_where_there_is_no_other() {
    let mut stage = one_server_with_a_pinned_model(true);
    stage.policy.remove_server(stage.servers[1]);
    let grant = stage.choose("m", 0.0, 1).unwrap();
    assert!(grant.loads && grant.may_load);
    assert!(grant.terms.load > 2.0 * 8.0, "{:?}", grant.terms);
}

fn begins(load: &OwnLoad) -> bool {
    matches!(load, OwnLoad::Begin(_))
}

#[test]
fn the_gateway_loads_a_model_itself_where_there_is_room() {
    let mut stage = Stage::new(1, &["m", "other"]);
    let Some(OwnLoad::Begin(grant)) = Some(stage.load("m", &[])) else {
        panic!("the memory is empty");
    };
    assert!(stage.choose("m", 0.0, 1).is_none(), "requests wait for it");
    assert!(matches!(stage.load("other", &[]), OwnLoad::Later));
    stage
        .policy
        .first_byte(&model("m"), grant.flight, stage.now);
    let took = Phases {
        load: Duration::from_secs(3),
        ..Phases::default()
    };
    let report = Report {
        phases: Some(took),
        ..Report::default()
    };
    stage
        .policy
        .end(&model("m"), grant.flight, Some(report), stage.now);
    assert!(matches!(stage.load("m", &[]), OwnLoad::InMemory));
    let grant = stage.choose("m", 0.0, 1).unwrap();
    assert!(!grant.loads && !grant.may_load);
    let id = stage.servers[0];
    let lane = stage.policy.models[&model("m")].lane(id).unwrap();
    assert_eq!(lane.rates.load.get(), Some(3.0));
    assert_eq!(lane.rates.service.get(), None);
}

#[test]
fn the_gateway_unloads_a_model_for_its_own_load_only_after_the_server_was_idle_for_a_load_time() {
    let mut stage = Stage::new(1, &["m", "other"]);
    stage.list(0, &["other"]);
    stage.fill(stage.servers[0]);
    let (_, flight) = stage.send("other");
    stage.pass(100.0);
    assert!(matches!(stage.load("m", &[]), OwnLoad::Later), "it is busy");
    stage.answer("other", flight, 0.0);
    stage.pass(8.0);
    assert!(matches!(stage.load("m", &[]), OwnLoad::Later));
    stage.pass(1.0);
    assert!(begins(&stage.load("m", &[])));
}

#[test]
fn the_gateway_does_not_load_a_model_itself_while_a_request_waits_for_another_load() {
    let mut stage = Stage::new(1, &["m", "other"]);
    stage.policy.set_waiting(&model("other"), 1);
    assert!(matches!(stage.load("m", &[]), OwnLoad::Later));
    stage.policy.set_waiting(&model("other"), 0);
    assert!(begins(&stage.load("m", &[])));
}

#[test]
fn two_models_that_must_stay_do_not_unload_each_other() {
    let mut stage = Stage::new(1, &["m", "other"]);
    stage.list(0, &["other"]);
    stage.fill(stage.servers[0]);
    let kept = [model("other")];
    let OwnLoad::NoRoom(others) = stage.load("m", &kept) else {
        panic!("there is room for one");
    };
    assert_eq!(others, kept);
    assert!(begins(&stage.load("m", &[])));
}

#[test]
fn a_model_whose_time_is_over_may_have_to_be_loaded() {
    let mut stage = Stage::new(1, &["m"]);
    stage.list(0, &["m"]);
    let mut may_load = |seconds| {
        stage.pass(seconds);
        let grant = stage.choose("m", 0.0, 1).unwrap();
        stage.policy.end(&model("m"), grant.flight, None, stage.now);
        (grant.loads, grant.may_load)
    };
    assert_eq!(may_load(299.0), (false, false));
    assert_eq!(may_load(1.0), (false, true));
}

#[test]
fn loads_that_were_not_measured_are_expected_to_be_as_fast_as_those_that_were() {
    let mut stage = Stage::new(2, &["m", "other"]);
    let expected = |stage: &Stage, name: &str, server: usize| {
        let lane = stage.policy.models[&model(name)].lane(stage.servers[server]);
        lane.unwrap().load_seconds()
    };
    let before = expected(&stage, "other", 1);
    let server = stage.serve("m", 0.1 * expected(&stage, "m", 0));
    assert!((expected(&stage, "other", server) - 0.1 * before).abs() < 1e-9);
    assert!((expected(&stage, "m", 1 - server) - 0.1 * before).abs() < 1e-9);
}

/// Two servers: the model `busy` is in the memory of the first one and runs there. A request for `m` has
/// waited for ten seconds and avoids the second one, which has failed to load it.
fn a_request_that_avoids_the_idle_server() -> Stage {
    let mut stage = Stage::new(2, &["m", "busy", "other"]);
    stage.fill(stage.servers[0]);
    stage.list(0, &["busy"]);
    stage.send("busy");
    let (m, second) = (model("m"), stage.servers[1]);
    let view = |id| {
        let availability = match id == second {
            true => Availability::Avoided,
            false => Availability::Healthy,
        };
        Some(View {
            availability,
            was_tried: false,
            is_trial: false,
        })
    };
    stage.pass(10.0);
    let ask = Ask {
        since: stage.now - Duration::from_secs(10),
        ..ask(&m, stage.now)
    };
    stage.policy.set_waiting(&m, 1);
    assert!(stage.policy.choose(&ask, view).is_none(), "it waits");
    stage
}

#[test]
fn a_model_is_loaded_on_a_server_that_an_older_request_cannot_use() {
    let mut stage = a_request_that_avoids_the_idle_server();
    let grant = stage.choose("other", 1.0, 1).unwrap();
    assert!(grant.loads && grant.server == stage.servers[1]);
}

#[test]
fn the_gateway_loads_a_model_itself_on_a_server_that_a_waiting_request_cannot_use() {
    let mut stage = a_request_that_avoids_the_idle_server();
    let (second, now) = (stage.servers[1], stage.now);
    let load = stage
        .policy
        .begin_own_load(second, &model("other"), &[], now);
    assert!(begins(&load));
}
