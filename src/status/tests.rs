#![allow(clippy::unwrap_used)]

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::*;

/// The schema of all documents, by path.
fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let mut paths = Map::new();
    fn add<T: JsonSchema>(
        generator: &mut SchemaGenerator,
        paths: &mut Map<String, Value>,
        path: &str,
    ) {
        let schema = generator.subschema_for::<T>();
        paths.insert(path.to_owned(), schema.to_value());
    }
    add::<Status>(&mut generator, &mut paths, "/status");
    add::<Decisions>(&mut generator, &mut paths, "/status/decisions");
    add::<Models>(&mut generator, &mut paths, "/status/models");
    add::<Overview>(&mut generator, &mut paths, "/status/overview");
    add::<Activity>(&mut generator, &mut paths, "/status/requests");
    add::<UsageReport>(&mut generator, &mut paths, "/status/usage");
    let definitions = generator.take_definitions(true);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The documents for operators on the admin listener, by path",
        "type": "object",
        "properties": paths,
        "$defs": definitions,
    })
}

#[test]
fn the_schema_in_the_docs_is_that_of_the_documents() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/status.schema.json");
    let now = format!("{:#}\n", schema());
    if std::env::var_os("LLAMATOWER_WRITE_SCHEMA").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let saved = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        saved == now,
        "docs/status.schema.json is not the schema of the documents; \
         LLAMATOWER_WRITE_SCHEMA=1 cargo test --lib schema saves it"
    );
}

#[test]
fn a_document_is_read_as_it_was_written() {
    let status = Status {
        gateway: Gateway {
            version: "1.0.0".to_owned(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            in_flight: 1,
            connections: 2,
            is_draining: false,
            trace_url: Some("https://traces.example/{trace_id}".to_owned()),
            last_reload: None,
            expiring_keys: Vec::new(),
            log_problem: None,
            tls: None,
        },
        backends: Vec::new(),
        queue: Vec::new(),
        digests_differ: Vec::new(),
        cloud: CloudState::default(),
        models_sync: ModelsSync::default(),
        sharing: SharingState {
            gateways: 2,
            peers: None,
            redis: Some(RedisState {
                address: "redis://cache:6379/0".to_owned(),
                is_connected: false,
                since: "2026-01-01T00:00:00Z".to_owned(),
                problem: Some("no response within 50ms".to_owned()),
                requests_meanwhile: "not limited".to_owned(),
                tokens_meanwhile: "refused".to_owned(),
            }),
            registered: vec![RegisteredGateway {
                id: "1".to_owned(),
                host: Some("backend-0".to_owned()),
                in_flight: Some(3),
                ..RegisteredGateway::default()
            }],
            not_listed: 0,
        },
        state: StateFile::default(),
    };
    let text = serde_json::to_string(&status).unwrap();
    assert!(
        text.ends_with(r#""cloud":{"is_on":false},"models_sync":{"is_on":false},"state":{"is_kept":false,"file":null,"problem":null,"written_at":null},"sharing":{"gateways":2,"peers":null,"redis":{"address":"redis://cache:6379/0","is_connected":false,"since":"2026-01-01T00:00:00Z","problem":"no response within 50ms","requests_meanwhile":"not limited","tokens_meanwhile":"refused"},"registered":[{"id":"1","is_this":false,"host":"backend-0","address":null,"version":null,"in_flight":3,"waiting":null,"is_draining":null,"seen_ago":0}],"not_listed":0}}"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
}

#[test]
fn a_document_of_another_version_is_read() {
    let newer = r#"{"gateway": {"version": "9.0.0", "of_later": {"a": 1}}, "of_later": [1]}"#;
    let status: Status = serde_json::from_str(newer).unwrap();
    assert_eq!(status.gateway.version, "9.0.0");
    let older =
        r#"{"gateway": {}, "backends": [{"name": "gpu-1", "is_up": true}], "requests": []}"#;
    let overview: Overview = serde_json::from_str(older).unwrap();
    assert!(overview.status.backends[0].is_up);
    assert_eq!(overview.status.backends[0].resident, None);
    assert!(!overview.status.cloud.is_on);
}

#[test]
fn numbers_of_seconds_have_no_more_digits_than_are_information() {
    assert_eq!(rounded(1.234_567_89), 1.234_568);
    assert_eq!(rounded(-1e-9).to_string(), "0");
}
