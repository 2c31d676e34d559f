//! The manifests, parsed as Kubernetes types: the requirements of the existing installation.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Probe, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;

/// The image up to its tag, in two pieces, since a name without a tag stands nowhere.
const IMAGE: &str = concat!("arnoldt04/", "backend:");

/// The version of the program, in Cargo.toml.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap()
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("k8s/base")
        .join(name);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn deployment() -> DeploymentSpec {
    let deployment: Deployment = read("backend-deployment.yaml");
    assert_eq!(deployment.metadata.name.as_deref(), Some("backend"));
    deployment.spec.unwrap()
}

fn pod() -> PodSpec {
    deployment().template.spec.unwrap()
}

fn container() -> Container {
    let containers = pod().containers;
    assert_eq!(containers.len(), 1);
    containers.into_iter().next().unwrap()
}

fn variable(name: &str) -> EnvVar {
    let variables = container().env.unwrap();
    variables.into_iter().find(|row| row.name == name).unwrap()
}

fn app_backend() -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), "backend".to_owned())])
}

#[test]
fn the_selector_is_unchanged_because_it_is_immutable() {
    let spec = deployment();
    assert_eq!(spec.selector.match_labels, Some(app_backend()));
    assert_eq!(spec.selector.match_expressions, None);
    assert_eq!(spec.template.metadata.unwrap().labels, Some(app_backend()));
    assert_eq!(spec.replicas, Some(2));
}

#[test]
fn the_service_has_its_ports() {
    let service: Service = read("backend-service.yaml");
    assert_eq!(service.metadata.name.as_deref(), Some("backend"));
    let spec = service.spec.unwrap();
    assert_eq!(spec.type_.as_deref(), Some("NodePort"));
    assert_eq!(spec.selector, Some(app_backend()));
    let ports = spec.ports.unwrap();
    assert_eq!(
        (ports.len(), ports[0].port, ports[0].node_port),
        (1, 80, Some(30080))
    );
    assert_eq!(ports[0].target_port, Some(IntOrString::Int(3000)));
}

#[test]
fn the_variables_of_the_contract_are_inline() {
    for (name, value) in [
        (
            "OLLAMA_URL",
            "http://ollama-service.model-hosting.svc.cluster.local:11434",
        ),
        ("DEFAULT_OLLAMA_MODEL", "qwen2.5-coder:7b"),
        ("OLLAMA_TIMEOUT", "60"),
    ] {
        assert_eq!(variable(name).value.as_deref(), Some(value));
    }
    // 60 s would end streams that collect the arguments of a tool call, or load a model.
    for name in ["LLAMATOWER_FIRST_BYTE_TIMEOUT", "LLAMATOWER_IDLE_TIMEOUT"] {
        assert_eq!(variable(name).value.as_deref(), Some("600s"), "{name}");
    }
    let secret = variable("GROQ_API_KEY")
        .value_from
        .unwrap()
        .secret_key_ref
        .unwrap();
    assert_eq!(secret.optional, Some(true));
    let settings = container().env_from.unwrap();
    let settings = settings[0].config_map_ref.clone().unwrap();
    assert_eq!(
        settings.optional,
        Some(true),
        "the file can be applied alone"
    );
}

#[test]
fn probes_resources_and_image_match_the_contract() {
    let container = container();
    let path = |probe: Option<Probe>| probe.unwrap().http_get.unwrap().path;
    for probe in [
        container.startup_probe,
        container.readiness_probe,
        container.liveness_probe,
    ] {
        assert_eq!(path(probe).as_deref(), Some("/health"));
    }
    let resources = container.resources.unwrap();
    let amounts =
        |of: Option<BTreeMap<_, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            let of: BTreeMap<String, _> = of.unwrap();
            (of["memory"].0.clone(), of["cpu"].0.clone())
        };
    assert_eq!(amounts(resources.requests), ("128Mi".into(), "100m".into()));
    assert_eq!(amounts(resources.limits), ("256Mi".into(), "500m".into()));
    assert_eq!(container.image.as_deref(), Some("arnoldt04/backend:1.0.0"));
    assert_eq!(VERSION, "1.0.0");
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(container.ports.unwrap()[0].container_port, 3000);
}

#[test]
fn a_rollout_never_has_too_few_replicas() {
    let rolling = deployment().strategy.unwrap().rolling_update.unwrap();
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(0)));
    assert_eq!(rolling.max_surge, Some(IntOrString::Int(1)));
    let budget: PodDisruptionBudget = read("backend-pdb.yaml");
    assert_eq!(
        budget.spec.unwrap().min_available,
        Some(IntOrString::Int(1))
    );
}

#[test]
fn the_grace_period_is_longer_than_the_shutdown() {
    let drain = variable("LLAMATOWER_DRAIN_TIMEOUT").value.unwrap();
    let drain: i64 = drain.trim_end_matches('s').parse().unwrap();
    let before = container()
        .lifecycle
        .unwrap()
        .pre_stop
        .unwrap()
        .exec
        .unwrap();
    let pause: i64 = before.command.unwrap().last().unwrap().parse().unwrap();
    assert_eq!((pause, drain), (5, 600));
    let grace = pod().termination_grace_period_seconds;
    assert_eq!(grace, Some(630));
    assert!(grace > Some(pause + 1 + drain + 1));
}

#[test]
fn a_pod_has_only_the_rights_that_it_needs() {
    let pod = pod();
    assert_eq!(pod.automount_service_account_token, Some(false));
    let security = pod.security_context.unwrap();
    assert_eq!(security.run_as_non_root, Some(true));
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let security = container().security_context.unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(
        security.capabilities.unwrap().drop,
        Some(vec!["ALL".to_owned()])
    );
}

#[test]
fn the_state_has_a_volume_of_a_limited_size_although_the_root_is_read_only() {
    let directory = "/var/lib/llamatower";
    let set = variable("LLAMATOWER_STATE_DIR").value;
    assert_eq!(set.as_deref(), Some(directory));
    let mounts = container().volume_mounts.unwrap();
    let mount = mounts.iter().find(|mount| mount.mount_path == directory);
    let name = &mount.unwrap().name;
    let volumes = pod().volumes.unwrap();
    let volume = volumes.iter().find(|volume| volume.name == *name).unwrap();
    let limit = volume.empty_dir.as_ref().unwrap().size_limit.as_ref();
    assert_eq!(limit.unwrap().0, "256Mi");
    let image = text("Dockerfile");
    assert!(image.contains(&format!("ENV LLAMATOWER_STATE_DIR={directory}\n")));
    assert!(image.contains(&format!(
        "--chown=65532:65532 --chmod=700 /state {directory}\n"
    )));
    let service = text("deploy/llamatower.service");
    assert!(service.contains("\nStateDirectory=llamatower\n"));
}

#[test]
fn every_file_that_names_the_image_names_the_version_of_the_program() {
    // What the guide calls the next version.
    let next = {
        let (start, patch) = VERSION.rsplit_once('.').unwrap();
        format!("{start}.{}", patch.parse::<u32>().unwrap() + 1)
    };
    for (name, expected) in [
        ("Dockerfile", &[VERSION][..]),
        ("compose.yaml", &[VERSION]),
        ("k8s/base/backend-deployment.yaml", &[VERSION]),
        ("docs/k3s.md", &[VERSION, &next]),
    ] {
        let text = text(name);
        let tags = text.split(IMAGE).skip(1);
        let tags = tags.map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
            rest[..end.unwrap_or(rest.len())].trim_end_matches('.')
        });
        let tags: std::collections::BTreeSet<_> = tags.collect();
        assert_eq!(tags, expected.iter().copied().collect(), "{name}");
    }
    assert!(text("Dockerfile").contains(&format!("\nARG VERSION={VERSION}\n")));
}

#[test]
fn without_the_secret_the_port_of_the_nodes_is_not_open() {
    assert_eq!(
        variable("LLAMATOWER_REQUIRE_KEYS").value.as_deref(),
        Some("true")
    );
    assert_eq!(
        variable("LLAMATOWER_LISTEN").value.as_deref(),
        Some("0.0.0.0:3000")
    );
    let keys = variable("LLAMATOWER_API_KEYS").value_from.unwrap();
    let keys = keys.secret_key_ref.unwrap();
    assert_eq!(keys.name, "backend-secrets");
    assert_eq!(
        keys.optional,
        Some(true),
        "the gateway itself says what is missing"
    );
}

/// What a container would be given, without and with the Secret.
#[test]
fn the_variables_of_the_manifest_are_sound_with_a_key_and_refused_without() {
    use llamatower::settings::{Environment, Settings};
    let variables = container().env.unwrap().into_iter();
    let variables: Vec<_> = variables
        .filter_map(|row| Some((row.name, row.value?)))
        .collect();
    let error = Settings::load(None, &variables.iter().cloned().collect::<Environment>());
    let error = error.expect_err("no Secret").to_string();
    assert!(error.contains("LLAMATOWER_REQUIRE_KEYS"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let key = format!("ada=sha256:{}", "0".repeat(64));
    let key = [("LLAMATOWER_API_KEYS".to_owned(), key)];
    let loaded = Settings::load(None, &variables.into_iter().chain(key).collect());
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}
