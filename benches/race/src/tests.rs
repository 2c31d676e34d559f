//! The check of the instrument itself.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::trace::tiny;

/// The mean times to the first token of one server without a proxy: measured on sockets, and
/// computed.
fn measured_and_computed(name: &'static str, speed: f64) -> (f64, f64) {
    run_first();
    let length = Length {
        seconds: 60.0,
        round: 0,
    };
    let mut scenario = Scenario::named(name, &tiny(), length).unwrap();
    scenario.servers.truncate(1);
    let oracle = oracle::best(&scenario);
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let clients = Builder::new_current_thread().enable_all().build().unwrap();
    let driven = clients.block_on(async {
        let fleet = Fleet::start(&scenario, speed, servers.handle())
            .await
            .unwrap();
        let client = Client::new(fleet.addresses()[0]);
        client::drive(&scenario, &client, speed).await.unwrap()
    });
    assert_eq!(failures(&driven.outcomes), "");
    let measured: Vec<f64> = driven.outcomes.iter().filter_map(|one| one.first).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (mean(&measured), mean(&oracle.first))
}

#[test]
fn one_server_without_a_proxy_answers_everything_and_not_sooner_than_computed() {
    let (measured, computed) = measured_and_computed("healthy", 20.0);
    assert!(measured > computed, "{measured} s, computed {computed} s");
}

#[test]
#[ignore = "looks at the clock on the wall; tests/full/race_instrument runs it"]
fn one_server_without_a_proxy_answers_when_computed() {
    // The few prompts with prefixes do not wait, so a delay of a millisecond is much of their time.
    for (name, speed) in [("healthy", 20.0), ("prefix", 4.0)] {
        let (measured, computed) = measured_and_computed(name, speed);
        println!("{name}: mean time to the first token {measured:.3} s, computed {computed:.3} s");
        assert!((measured / computed - 1.0).abs() < 0.03);
    }
}
