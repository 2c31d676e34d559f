//! Compares the gateway with recordings of real servers: through the gateway, a client gets the
//! same answers as without it, except for the differences listed here (docs/departures.md lists
//! them for users).
//!
//! With `OLLAMA_BIN` (the program) and `OLLAMA_TEST_MODEL_GGUF` (a small model), a real server is
//! tested too, directly and through the gateway.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::recording::{Answer, CASES, Difference, End, KILLED_CASES, Recording, compare};
use llamatower_sim::{Cut, Ending, Fault, FaultKind, ModelSpec, Sim, SimHandle};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, Command};

/// Header fields that an answer may have besides, and why.
const MORE_HEADERS: [(&str, &str); 5] = [
    (
        "x-llamatower-backend",
        "it names the backend that sent the response",
    ),
    (
        "x-llamatower-servers",
        "it names the backends that have unloaded a model",
    ),
    (
        "x-request-id",
        "it identifies the request in logs and traces",
    ),
    (
        "x-accel-buffering",
        "it keeps proxies in front from buffering the stream",
    ),
    (
        "access-control-expose-headers",
        "a page can read when to try again",
    ),
];

/// An intended difference of the gateway.
struct Departure {
    cases: &'static [&'static str],
    /// The parts that differ, and a part of the gateway's value.
    seen: &'static [(&'static str, &'static str)],
    why: &'static str,
}

const DEPARTURES: &[Departure] = &[
    Departure {
        cases: &["health_path"],
        seen: &[
            ("status", "200"),
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("body", r#"{"status":"ok"}"#),
        ],
        why: "it reports the state of the gateway",
    },
    Departure {
        cases: &["cors_get_other", "cors_preflight_other"],
        seen: &[
            ("content-type", "application/json"),
            ("body", "web pages of this origin may not call"),
        ],
        why: "Ollama's own client takes an empty 403 for success",
    },
    Departure {
        cases: &["cors_preflight_localhost"],
        seen: &[("access-control-allow-headers", "X-Api-Key")],
        why: "web pages can use either library",
    },
    Departure {
        cases: &["percent_path"],
        seen: &[
            ("status", "404"),
            ("content-type", "text/plain"),
            ("body", "404 page not found"),
        ],
        why: "a path has one spelling, so that no other spelling can bypass a rule",
    },
    Departure {
        cases: &[
            "generate_uppercase_model_key",
            "generate_duplicate_model_key",
        ],
        seen: &[
            ("status", "400"),
            (
                "body",
                r#"the key \"model\" must occur once in the request"#,
            ),
        ],
        why: "the gateway and the server must read the same model",
    },
    Departure {
        cases: &["generate_invalid_utf8"],
        seen: &[
            ("status", "400"),
            ("body", "the request body must be UTF-8"),
        ],
        why: "JSON is UTF-8 (RFC 8259 8.1), and a name must have one reading",
    },
    Departure {
        cases: &["generate_gzip_body"],
        seen: &[("status", "415"), ("body", "unsupported Content-Encoding")],
        why: "Ollama cannot read it either; this error names the cause",
    },
    Departure {
        cases: &[
            "killed_v1_chat_stream",
            "killed_v1_completions_stream",
            "killed_v1_responses_stream",
            "killed_v1_messages_stream",
        ],
        seen: &[
            ("body", "ended its response before it was complete"),
            ("end", "Cut"),
        ],
        why: "Ollama ends the stream as if it were complete, so a client cannot detect the failure",
    },
];

/// Differences only from a server older than 0.33.
const OLDER_SERVER_DEPARTURES: &[Departure] = &[
    Departure {
        cases: &["generate_name_newline", "generate_name_dotdot"],
        seen: &[("status", "400"), ("body", "invalid model name")],
        why: "an impossible name is not sent to a server; the response is that of 0.33",
    },
    Departure {
        cases: &["v1_images_unsupported"],
        seen: &[
            ("status", "404"),
            ("framing", "Length"),
            ("content-length", "is there"),
            ("content-type", "text/plain"),
            ("transfer-encoding", ""),
            ("body", "404 page not found"),
        ],
        why: "0.33 does not have the route",
    },
];

/// A difference of the simulated server that the gateway cannot remove.
const SIMULATION_DIFFERENCE: (&str, &str) = ("chat_logprobs", "body");

#[tokio::test]
async fn answers_are_those_of_the_recorded_server() {
    let sim = simulated().await;
    let gateway = Gateway::start(&sim.url()).await;
    let mut tally = Tally::default();
    for name in CASES.into_iter().chain(KILLED_CASES) {
        if KILLED_CASES.contains(&name) {
            let fault = Fault::new(FaultKind::EngineDies { after_lines: 9 });
            sim.arm(fault.for_model("large").times(1));
        }
        let recording = load(name);
        let mut differences = compare(&recording.answer, &gateway.ask(&recording).await);
        differences.retain(|found| (name, &*found.what) != SIMULATION_DIFFERENCE);
        tally.add(name, &differences);
    }
    tally.expect_nothing_else();
    for departure in DEPARTURES {
        for case in departure.cases {
            let is_seen = tally.departed.contains(case);
            assert!(is_seen, "{case} does not differ: {}", departure.why);
        }
    }
}

#[tokio::test]
async fn answers_are_those_of_the_real_server_behind_it() {
    let (Some(program), Some(weights)) = (
        env::var_os("OLLAMA_BIN"),
        env::var_os("OLLAMA_TEST_MODEL_GGUF"),
    ) else {
        eprintln!(
            "skipped: OLLAMA_BIN (the program) and OLLAMA_TEST_MODEL_GGUF (a small model) are not both set"
        );
        return;
    };
    // One server for each side, because the cases change its state.
    let alone = Ollama::start(&program, &weights).await;
    let mut expected: Vec<Answer> = Vec::new();
    for name in CASES {
        let answer = load(name).request.send(alone.address, &[]).await;
        expected.push(answer.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    alone.stop().await;
    let behind = Ollama::start(&program, &weights).await;
    let gateway = Gateway::start(&format!("http://{}", behind.address)).await;
    let mut tally = Tally::default();
    for (name, expected) in CASES.into_iter().zip(&expected) {
        tally.add(name, &compare(expected, &gateway.ask(&load(name)).await));
    }
    behind.stop().await;
    tally.expect_nothing_else();
}

#[tokio::test]
async fn the_data_before_a_break_inside_a_line_is_forwarded() {
    let sim = simulated().await;
    let gateway = Gateway::start(&sim.url()).await;
    sim.arm(Fault::new(FaultKind::Die {
        after_lines: 3,
        ending: Ending::Fin,
        cut: Cut::InsideLine,
    }));
    let answer = gateway.ask(&load("generate_default")).await;
    let text = String::from_utf8(answer.body()).unwrap();
    let whole = text.lines().filter(|line| line.ends_with('}'));
    let (told, whole): (Vec<_>, Vec<_>) = whole.partition(|line| line.starts_with("{\"error\""));
    assert_eq!((answer.status, whole.len(), told.len()), (200, 3, 1));
    assert_eq!(answer.end, End::Cut);
}

#[test]
fn every_difference_is_documented() {
    let documented = include_str!("../docs/departures.md");
    let departures = DEPARTURES.iter().chain(OLDER_SERVER_DEPARTURES);
    let headers = MORE_HEADERS.iter().map(|(_, why)| *why);
    for why in departures.map(|known| known.why).chain(headers) {
        assert!(documented.contains(&format!("| {why} |")), "missing: {why}");
    }
}

/// The differences found.
#[derive(Default)]
struct Tally {
    equal: usize,
    departed: BTreeSet<&'static str>,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, name: &'static str, differences: &[Difference]) {
        let mut departures = DEPARTURES.iter().chain(OLDER_SERVER_DEPARTURES);
        let departure = departures.find(|known| known.cases.contains(&name));
        let is_header = |what: &str| MORE_HEADERS.iter().any(|(header, _)| *header == what);
        let mut is_equal = true;
        for difference in differences.iter().filter(|found| !is_header(&found.what)) {
            is_equal = false;
            let expected = departure.and_then(|known| {
                let mut seen = known.seen.iter();
                seen.find(|(what, _)| *what == difference.what)
            });
            match expected {
                Some((_, "")) if difference.seen.is_empty() => drop(self.departed.insert(name)),
                Some((_, part)) if !part.is_empty() && difference.seen.contains(part) => {
                    self.departed.insert(name);
                }
                _ => self.wrong.push(format!("{name}: {difference}")),
            }
        }
        self.equal += usize::from(is_equal);
    }

    fn expect_nothing_else(&self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        let Self {
            equal, departed, ..
        } = self;
        println!("{equal} answers are equal, {} differ", departed.len());
    }
}

fn load(name: &str) -> Recording {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    match Recording::load(&recordings.join("v0.33.0-rc2"), name) {
        // Cases that were not recorded with this version use the older recording.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Recording::load(&recordings.join("v0.17.4"), name).unwrap()
        }
        read => read.unwrap(),
    }
}

/// The recorded server, with its models in the order of their ages.
async fn simulated() -> SimHandle {
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
    let earlier = load("load_stream_true").request;
    earlier.send(sim.addr(), &[]).await.unwrap();
    sim
}

/// A gateway process.
struct Gateway {
    address: SocketAddr,
    key: String,
    _process: Child,
}

impl Gateway {
    async fn start(backend: &str) -> Self {
        let (key, line) = generate_key("admin").unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_llamatower"))
            .env_clear()
            .env("LLAMATOWER_LISTEN", "127.0.0.1:0")
            .env("LLAMATOWER_ADMIN_LISTEN", "off")
            .env("LLAMATOWER_ADMIN_KEYS", line)
            .env("LLAMATOWER_LOG_FORMAT", "json")
            .env("OLLAMA_URL", backend)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("it listens");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" && line["for"] == "clients" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        drain_output(lines);
        Self {
            address,
            key: key.to_string(),
            _process: process,
        }
    }

    async fn ask(&self, recording: &Recording) -> Answer {
        let key = [("x-api-key", &*self.key)];
        let answer = recording.request.send(self.address, &key).await;
        answer.unwrap_or_else(|error| panic!("{}: {error}", recording.name))
    }
}

/// A real server with one model.
struct Ollama {
    address: SocketAddr,
    process: Child,
    _store: TempDir,
}

impl Ollama {
    async fn start(program: &OsStr, weights: &OsStr) -> Self {
        let store = TempDir::new().unwrap();
        let mut process = Command::new(program)
            .arg("serve")
            .env("HOME", store.path())
            .env("OLLAMA_HOST", "127.0.0.1:0")
            .env("OLLAMA_MODELS", store.path().join("models"))
            .env("OLLAMA_NUM_PARALLEL", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address: SocketAddr = loop {
            let line = lines.next_line().await.unwrap().expect("it listens");
            if let Some((_, rest)) = line.split_once("Listening on ") {
                break rest.split(' ').next().unwrap().parse().unwrap();
            }
        };
        drain_output(lines);
        let file = store.path().join("Modelfile");
        let weights = Path::new(weights).display();
        let template = "{{ if .System }}system: {{ .System }}\n{{ end }}{{ if .Tools }}tools: {{ .Tools }}\n{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: ";
        let text =
            format!("FROM {weights}\nTEMPLATE \"\"\"{template}\"\"\"\nPARAMETER num_predict 24\n");
        std::fs::write(&file, text).unwrap();
        let created = Command::new(program)
            .args(["create", "tiny", "-f"])
            .arg(&file)
            .env("HOME", store.path())
            .env("OLLAMA_HOST", address.to_string())
            .output()
            .await
            .unwrap();
        assert!(created.status.success(), "{created:?}");
        Self {
            address,
            process,
            _store: store,
        }
    }

    /// With SIGTERM: after SIGKILL its engines would continue to run.
    async fn stop(mut self) {
        let id = self.process.id().unwrap().to_string();
        let ended = Command::new("kill").arg(id).status().await.unwrap();
        assert!(ended.success());
        self.process.wait().await.unwrap();
    }
}

/// Reads the output of a process, so that the process never blocks on a full pipe.
fn drain_output<R: AsyncRead + Unpin + Send + 'static>(mut lines: Lines<BufReader<R>>) {
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
}
