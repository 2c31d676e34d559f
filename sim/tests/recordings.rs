//! The simulated server against recordings of real ones.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::{Path, PathBuf};

use llamatower_sim::recording::{CASES, Difference, KILLED_CASES, Recording, compare};
use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};

/// Where the simulated server differs from a real 0.33 on purpose, in what, and why.
const DEPARTURES: &[(&str, &str, &str)] = &[(
    "chat_logprobs",
    "body",
    "its tokens have no probabilities: nothing in front of it looks at them",
)];

fn recordings(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/recordings/{version}"))
}

/// None if the version has no such recording.
fn load(version: &str, name: &str) -> Option<Recording> {
    match Recording::load(&recordings(version), name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

/// The recorded server: its models, listed in the order of their ages.
async fn server() -> SimHandle {
    let model = |name: &str, modified_at: &str, embedding_length| {
        ModelSpec::new(name)
            .with_slots(2)
            .with_embedding_length(embedding_length)
            .with_modified_at(modified_at.parse().unwrap())
    };
    Sim::builder()
        .version("0.0.0")
        .model(model("large", "2026-11-23T07:05:11Z", 1024))
        .model(model("tiny", "2026-11-23T07:05:09Z", 64))
        .model(model("small", "2026-11-23T07:05:08Z", 512))
        .start()
        .await
        .unwrap()
}

fn is_on_purpose(name: &str, difference: &Difference) -> bool {
    DEPARTURES
        .iter()
        .any(|(case, what, _)| *case == name && *what == difference.what)
}

async fn differences(sim: &SimHandle, recording: &Recording) -> Vec<String> {
    let name = &recording.name;
    let answer = recording.request.send(sim.addr(), &[]).await;
    let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
    compare(&recording.answer, &answer)
        .iter()
        .filter(|difference| !is_on_purpose(name, difference))
        .map(|difference| format!("{name}: {difference}"))
        .collect()
}

#[tokio::test]
async fn it_answers_as_the_recorded_server_did() {
    let sim = server().await;
    // The recorder's first list shows what an earlier run had left in memory.
    let earlier = load("v0.33.0-rc2", "load_stream_true").unwrap();
    earlier.request.send(sim.addr(), &[]).await.unwrap();
    let mut wrong = Vec::new();
    for name in CASES {
        if let Some(recording) = load("v0.33.0-rc2", name) {
            wrong.extend(differences(&sim, &recording).await);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn its_streams_end_as_those_of_a_killed_engine_did() {
    let sim = server().await;
    let mut wrong = Vec::new();
    for name in KILLED_CASES {
        let recording = load("v0.33.0-rc2", name).unwrap();
        sim.arm(Fault::new(FaultKind::EngineDies { after_lines: 9 }).times(1));
        wrong.extend(differences(&sim, &recording).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
