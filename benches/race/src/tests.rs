//! The check of the instrument itself.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::trace::tiny;

/// One server and no proxy: what is measured on sockets is what arithmetic says.
#[test]
fn one_server_without_a_proxy_gives_the_arithmetic() {
    let args = Args::parse_from(["llamatower-race", "--trace", "tiny.csv"]);
    let [trace, _] = tiny();
    let length = Length {
        seconds: 60.0,
        round: 0,
    };
    let mut scenario = Scenario::named("healthy", &[trace], length).unwrap();
    scenario.servers.truncate(1);
    let oracle = oracle::best(&scenario);
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let clients = Builder::new_current_thread().enable_all().build().unwrap();
    let driven = clients.block_on(async {
        let fleet = Fleet::start(&scenario, args.speed, servers.handle())
            .await
            .unwrap();
        let client = Client::new(fleet.addresses()[0]);
        client::drive(&scenario, &client, args.speed).await.unwrap()
    });
    let measured: Vec<f64> = driven.outcomes.iter().filter_map(|one| one.first).collect();
    assert_eq!(
        measured.len(),
        oracle.first.len(),
        "{}",
        failures(&driven.outcomes)
    );
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (measured, expected) = (mean(&measured), mean(&oracle.first));
    assert!(
        (measured / expected - 1.0).abs() < 0.03,
        "{measured} s, expected {expected} s"
    );
}
