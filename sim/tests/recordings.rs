//! Compares the simulated server with recordings of real servers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use llamatower_sim::recording::{CASES, Difference, KILLED_CASES, Recording, compare};
use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};

/// The simulated version.
const CURRENT: &str = "v0.33.0-rc2";
/// An older version.
const OLDER: &str = "v0.17.4";

/// The intended differences from a real server: recording, part, reason.
const DEPARTURES: &[(&str, &str, &str)] = &[(
    "chat_logprobs",
    "body",
    "its tokens have no probabilities: no client of the simulation reads them",
)];

/// The differences of the older version: recording, parts, reason.
const VERSION_DIFFERENCES: &[(&str, &[&str], &str)] = &[
    (
        "embed_no_model",
        &["status", "body"],
        "500 for an unqualified name",
    ),
    (
        "generate_name_digest",
        &["status", "body"],
        "404, not 400 for an invalid name",
    ),
    (
        "generate_name_dotdot",
        &["status", "body"],
        "404, not 400 for an invalid name",
    ),
    (
        "generate_name_newline",
        &["status", "body"],
        "404, not 400 for an invalid name",
    ),
    (
        "killed_v1_chat_stream",
        &["body"],
        "every chunk names the role",
    ),
    (
        "percent_path",
        &["body"],
        "another store; rows have no lengths and capabilities",
    ),
    ("ps_empty", &["body"], "nothing was in memory"),
    ("show_missing", &["body"], "the name without its tag"),
    (
        "show_model",
        &["body"],
        "model_info has no general.quantization_version",
    ),
    (
        "show_name",
        &["body"],
        "model_info has no general.quantization_version",
    ),
    (
        "tags_get",
        &["body"],
        "another store; rows have no lengths and capabilities",
    ),
    (
        "v1_chat_missing_model",
        &["body"],
        "api_error, not not_found_error",
    ),
    ("v1_chat_stream", &["body"], "every chunk names the role"),
    (
        "v1_chat_stream_usage",
        &["body"],
        "every chunk names the role",
    ),
    (
        "v1_embeddings_missing_model",
        &["body"],
        "api_error, not not_found_error",
    ),
    (
        "v1_images_unsupported",
        &[
            "status",
            "framing",
            "content-length",
            "content-type",
            "transfer-encoding",
            "body",
        ],
        "an empty stream",
    ),
    (
        "v1_model_missing",
        &["body"],
        "api_error, and the name without its tag",
    ),
    ("v1_models", &["body"], "another store"),
];

fn recordings(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/recordings/{version}"))
}

/// `None` if the version has no such recording.
fn load(version: &str, name: &str) -> Option<Recording> {
    match Recording::load(&recordings(version), name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

/// The recorded server, with its models in the order of their ages.
async fn server() -> SimHandle {
    let model = |name: &str, modified_at: &str, embedding_length| {
        ModelSpec::new(name)
            .with_slots(2)
            .with_embedding_length(embedding_length)
            .with_modified_at(modified_at.parse().unwrap())
    };
    let sim = Sim::builder()
        .version("0.0.0")
        .model(model("large", "2026-11-23T07:05:11Z", 1024))
        .model(model("tiny", "2026-11-23T07:05:09Z", 64))
        .model(model("small", "2026-11-23T07:05:08Z", 512))
        .start()
        .await
        .unwrap();
    // The recorder's first list shows a model that an earlier run had left in memory.
    let earlier = load(CURRENT, "load_stream_true").unwrap();
    earlier.request.send(sim.addr(), &[]).await.unwrap();
    sim
}

async fn differences(sim: &SimHandle, recording: &Recording) -> Vec<Difference> {
    let answer = recording.request.send(sim.addr(), &[]).await;
    let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", recording.name));
    compare(&recording.answer, &answer)
}

#[tokio::test]
async fn answers_are_those_of_the_recorded_server() {
    let sim = server().await;
    let mut wrong = Vec::new();
    let mut departed = BTreeSet::new();
    for name in CASES {
        // Cases that were not recorded with the current version use the older recording.
        let recording = load(CURRENT, name).or_else(|| load(OLDER, name)).unwrap();
        for difference in differences(&sim, &recording).await {
            let on_purpose = DEPARTURES
                .iter()
                .find(|(case, what, _)| *case == name && *what == difference.what);
            match on_purpose {
                Some(departure) => drop(departed.insert(departure)),
                None => wrong.push(format!("{name}: {difference}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        DEPARTURES.iter().all(|known| departed.contains(known)),
        "some listed differences do not exist: {departed:?}"
    );
}

#[tokio::test]
async fn streams_of_a_dead_engine_end_as_recorded() {
    let sim = server().await;
    for name in KILLED_CASES {
        let recording = load(CURRENT, name).unwrap();
        sim.arm(Fault::new(FaultKind::EngineDies { after_lines: 9 }).times(1));
        let wrong = differences(&sim, &recording).await;
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
}

/// So the older version's recordings are valid for the simulated server too, except for those
/// listed.
#[test]
fn the_older_version_has_only_the_listed_differences() {
    let mut differences = Vec::new();
    for name in CASES.iter().chain(&KILLED_CASES) {
        let (Some(mut older), Some(current)) = (load(OLDER, name), load(CURRENT, name)) else {
            continue;
        };
        // The engines were killed with different models.
        for chunk in &mut older.answer.chunks {
            let text = String::from_utf8_lossy(chunk);
            *chunk = text
                .replace(r#""model":"small","#, r#""model":"large","#)
                .into();
        }
        let found = compare(&older.answer, &current.answer).into_iter();
        differences.extend(found.map(|difference| (*name, difference)));
    }
    let found: BTreeSet<_> = differences
        .iter()
        .map(|(name, difference)| (*name, &*difference.what))
        .collect();
    let listed: BTreeSet<_> = VERSION_DIFFERENCES
        .iter()
        .flat_map(|(name, whats, _)| whats.iter().map(|what| (*name, *what)))
        .collect();
    assert_eq!(found, listed, "{differences:#?}");
}
