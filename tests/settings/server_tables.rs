//! Servers: their lists in the environment, and their tables in the TOML file.

use super::*;

const TWO: &str = r#"
[[backends.servers]]
url = "http://gpu-1:11434"
weight = 2
slots = 4
max_in_flight = 8
labels = ["a100", "zone=b"]
models = ["llama3*", "qwen3:4b"]
preload = "qwen3:4b"
pinned = ["llama3", "llama3.2"]

[[backends.servers]]
url = "http://gpu-2:11434"
weight = 0.5
"#;

/// The rules and the slots of each server.
fn servers(loaded: &Loaded) -> Vec<String> {
    let backends = &loaded.settings.backends;
    let rules = backends.rules_of_each().into_iter();
    let rows = backends
        .urls
        .iter()
        .zip(rules.zip(backends.slots_of_each()));
    let rows = rows.map(|(url, (rules, slots))| {
        let labels = rules.labels.join("+");
        let (weight, limit) = (rules.weight, rules.max_in_flight);
        let numbers = (
            limit.map_or(0, |n| n.get()),
            slots.count().map_or(0, |n| n.get()),
        );
        let allows = |model: &str| {
            let model = llamatower_layers::ModelName::parse(model).expect("a name");
            u8::from(rules.models.allow(&model))
        };
        let allowed = ["llama3.2", "qwen3:4b", "qwen3"].map(allows);
        let preloads = rules.preloads.iter().map(|preload| {
            let mark = if preload.is_pinned { "!" } else { "" };
            format!(" {}{mark}", preload.model)
        });
        let preloads: String = preloads.collect();
        format!("{url} {weight} {numbers:?} {labels} {allowed:?}{preloads}")
    });
    rows.collect()
}

#[test]
fn a_table_for_each_server_is_the_same_as_the_lists() {
    let from_file = load_file(TWO, &[]).unwrap_or_else(|error| panic!("{error}"));
    let expected = [
        "gpu-1:11434 2 (8, 4) a100+zone=b [1, 1, 0] llama3:latest! llama3.2:latest! qwen3:4b",
        "gpu-2:11434 0.5 (0, 0)  [1, 1, 1]",
    ];
    assert_eq!(servers(&from_file), expected);
    let lists = load(&[
        ("OLLAMA_URL", "gpu-1, gpu-2"),
        ("LLAMATOWER_SLOTS", "gpu-1=4"),
        ("LLAMATOWER_BACKEND_MAX_IN_FLIGHT", "gpu-1=8"),
        ("LLAMATOWER_BACKEND_WEIGHTS", "gpu-1=2, gpu-2:11434=0.5"),
        ("LLAMATOWER_BACKEND_LABELS", "gpu-1=a100, gpu-1=zone=b"),
        ("LLAMATOWER_BACKEND_MODELS", "gpu-1=llama3*, gpu-1=qwen3:4b"),
        ("LLAMATOWER_PRELOAD_MODELS", "gpu-1=qwen3:4b"),
        ("LLAMATOWER_PINNED_MODELS", "gpu-1=llama3, gpu-1=llama3.2"),
    ]);
    let lists = lists.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(servers(&lists), expected);
}

#[test]
fn a_number_for_all_servers_stays_valid_for_those_without_their_own() {
    let text = format!("[backends]\nslots = 2\nurls = \"gpu-3\"\nmax_in_flight = [3]\n{TWO}");
    let loaded = load_file(&text, &[]).unwrap_or_else(|error| panic!("{error}"));
    let expected = [
        "gpu-3:11434 1 (3, 2)  [1, 1, 1]",
        "gpu-1:11434 2 (8, 4) a100+zone=b [1, 1, 0] llama3:latest! llama3.2:latest! qwen3:4b",
        "gpu-2:11434 0.5 (3, 2)  [1, 1, 1]",
    ];
    assert_eq!(servers(&loaded), expected);
}

#[test]
fn the_environment_overrides_a_column_of_the_tables() {
    let weights = ("LLAMATOWER_BACKEND_WEIGHTS", "gpu-2=7");
    let loaded = load_file(TWO, &[weights]).unwrap_or_else(|error| panic!("{error}"));
    let expected = [
        "gpu-1:11434 1 (8, 4) a100+zone=b [1, 1, 0] llama3:latest! llama3.2:latest! qwen3:4b",
        "gpu-2:11434 7 (0, 0)  [1, 1, 1]",
    ];
    assert_eq!(servers(&loaded), expected);
    let error = load_file(TWO, &[("OLLAMA_URL", "gpu-1")]).expect_err("gpu-2 has a weight");
    let error = error.to_string();
    assert!(error.starts_with("backends.weights in /"), "{error}");
    assert!(error.contains("http://gpu-2:11434 is not a server in OLLAMA_URL"));
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn an_error_in_a_table_names_the_table_and_the_key() {
    let url = "url = \"http://gpu-1:11434\"";
    for (table, place, reason) in [
        (
            format!("{url}\nweight = 0"),
            "weight in table 1",
            "it is not a number above 0 (it is \"0\")",
        ),
        (
            format!("{url}\nweight = -1.5"),
            "weight in table 1",
            "above 0 (it is \"-1.5\")",
        ),
        (
            format!("{url}\nweight = nan"),
            "weight in table 1",
            "not a number above 0",
        ),
        (
            format!("{url}\nweight = inf"),
            "weight in table 1",
            "not a number above 0",
        ),
        (
            format!("{url}\nweight = {{}}"),
            "weight in table 1",
            "it has the type table",
        ),
        (
            format!("{url}\nslots = 0"),
            "slots in table 1",
            "a whole number above 0",
        ),
        (
            format!("{url}\nmax_in_flight = 1.5"),
            "max_in_flight in table 1",
            "a whole number above 0",
        ),
        (
            format!("{url}\nlabels = [\"a b\"]"),
            "labels in table 1",
            "only letters",
        ),
        (
            format!("{url}\nlabels = []"),
            "labels in table 1",
            "it is empty",
        ),
        (
            format!("{url}\nmodels = [\"a\", \"llama 3*\"]"),
            "models in table 1",
            "pattern like llama3* or *:70b (it is \"llama 3*\")",
        ),
        (
            format!("{url}\nmodels = \"\""),
            "models in table 1",
            "it is empty",
        ),
        (
            format!("{url}\nwieght = 2"),
            "wieght in table 1",
            "it has url, weight, slots",
        ),
        (
            "weight = 2".to_owned(),
            "url in table 1",
            "each server needs one",
        ),
        (
            "url = 3".to_owned(),
            "url in table 1",
            "each server needs one",
        ),
        (
            "url = \"ftp://gpu-1\"".to_owned(),
            "url in table 1",
            "is not the address of a backend",
        ),
        (
            format!("{url}\n[[backends.servers]]\nurl = \"GPU-1\""),
            "url in table 2",
            "GPU-1 is the server of table 1 too",
        ),
    ] {
        let text = format!("[[backends.servers]]\n{table}\n[queue]\nmax_waiting = 1\n");
        let error = load_file(&text, &[("LLAMATOWER_SLOTS", "1")]).expect_err(&table);
        let error = error.to_string();
        assert!(
            error.starts_with(&format!("{place} of backends.servers in /")),
            "{error}"
        );
        assert!(error.contains(reason), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn servers_that_are_no_tables_are_told_how_to_be_written() {
    for text in [
        "[backends]\nservers = [\"gpu-1\"]",
        "[backends.servers]\nurl = \"gpu-1\"",
    ] {
        let error = load_file(text, &[]).expect_err(text).to_string();
        assert!(error.starts_with("backends.servers in /"), "{error}");
        assert!(error.contains("write [[backends.servers]]"), "{error}");
    }
}

#[test]
fn a_password_in_a_table_is_not_repeated() {
    let text = "[[backends.servers]]\nurl = \"http://ada:hunter2@gpu-1\"\nweight = 2";
    let error = load_file(text, &[]).expect_err("a password").to_string();
    assert!(error.contains("LLAMATOWER_BACKEND_TOKENS"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn one_server_in_a_table_and_in_the_list_is_an_error() {
    let text = format!("[backends]\nurls = [\"gpu-1\"]\n{TWO}");
    let error = load_file(&text, &[]).expect_err("gpu-1 is there twice");
    assert!(error.to_string().contains("are the same server"), "{error}");
    let text = format!("[backends]\nslots = \"gpu-1=2\"\n{TWO}");
    let error = load_file(&text, &[]).expect_err("gpu-1 has slots twice");
    let told = "there are two numbers of slots for gpu-1:11434";
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn an_error_in_a_list_names_the_variable_and_the_item() {
    for (variable, value, reason) in [
        (
            "LLAMATOWER_BACKEND_WEIGHTS",
            "gpu-1=0",
            "\"gpu-1=0\": it is not a number above 0",
        ),
        (
            "LLAMATOWER_BACKEND_WEIGHTS",
            "gpu-1=-2",
            "it is not a number above 0",
        ),
        ("LLAMATOWER_BACKEND_WEIGHTS", "2", "\"2\" names no server"),
        (
            "LLAMATOWER_BACKEND_WEIGHTS",
            "gpu-9=2",
            "gpu-9 is not a server in OLLAMA_URL",
        ),
        (
            "LLAMATOWER_BACKEND_WEIGHTS",
            "gpu-1=2,gpu-1:11434=3",
            "there are two weights for gpu-1:11434",
        ),
        (
            "LLAMATOWER_SLOTS",
            "gpu-1=2,gpu-1:11434=3",
            "there are two numbers of slots for gpu-1:11434",
        ),
        (
            "LLAMATOWER_BACKEND_MAX_IN_FLIGHT",
            "gpu-9=2",
            "gpu-9 is not a server in OLLAMA_URL",
        ),
        (
            "LLAMATOWER_BACKEND_MAX_IN_FLIGHT",
            "gpu-1=2,gpu-1=2",
            "there are two limits for gpu-1:11434",
        ),
        (
            "LLAMATOWER_BACKEND_MAX_IN_FLIGHT",
            "0",
            "not a whole number above 0",
        ),
        (
            "LLAMATOWER_BACKEND_LABELS",
            "gpu-9=a100",
            "gpu-9 is not a server in OLLAMA_URL",
        ),
        ("LLAMATOWER_BACKEND_LABELS", "gpu-1=a 100", "only letters"),
        (
            "LLAMATOWER_BACKEND_MODELS",
            "gpu-9=llama3",
            "gpu-9 is not a server in OLLAMA_URL",
        ),
        (
            "LLAMATOWER_BACKEND_MODELS",
            "gpu-1=a *b",
            "\"gpu-1=a *b\": it is neither a model's name nor a pattern",
        ),
    ] {
        let error = load(&[("OLLAMA_URL", "gpu-1,gpu-2"), (variable, value)]).expect_err(value);
        let error = error.to_string();
        assert!(
            error.starts_with(variable) && error.contains(reason),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_model_without_a_server_is_for_each_server_that_may_serve_it() {
    let loaded = load(&[
        ("OLLAMA_URL", "gpu-1, gpu-2"),
        ("LLAMATOWER_BACKEND_MODELS", "gpu-1=llama3*"),
        ("LLAMATOWER_PRELOAD_MODELS", "llama3, qwen3"),
        ("LLAMATOWER_PINNED_MODELS", "gpu-2=llama3"),
    ]);
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    let expected = [
        "gpu-1:11434 1 (0, 0)  [1, 0, 0] llama3:latest",
        "gpu-2:11434 1 (0, 0)  [1, 1, 1] llama3:latest! qwen3:latest",
    ];
    assert_eq!(servers(&loaded), expected);
}
