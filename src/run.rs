//! One run of the program, for each of its commands.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use crate::cli::{Arguments, Command, Exit};
use crate::demo;
use crate::edge::Shutdown;
use crate::gateway::{Gateway, StartError};
use crate::ollama::upstream::{Address, Upstream, has_user};
use crate::settings::{self, Environment, Loaded, Problem, Settings};
use crate::telemetry::{Telemetry, TelemetryConfig};

/// How long exporters may take to send what they hold when the process ends.
const TELEMETRY_FLUSH: Duration = Duration::from_secs(5);

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> Exit {
    let config = arguments.config.as_deref();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => with_settings(config, serve),
        Command::Demo => with_settings(config, demo),
        Command::Check => with_settings(config, |loaded| check(&loaded)),
        Command::Healthcheck { url } => healthcheck(&url),
        Command::Keygen { name } => keygen(&name),
        Command::Sleep { seconds } => {
            std::thread::sleep(Duration::from_secs(seconds));
            Exit::Done
        }
        Command::Reference { example: true, .. } => print(settings::example_file()),
        Command::Reference {
            environment: true, ..
        } => print(settings::example_environment()),
        Command::Reference { .. } => print(settings::reference()),
    }
}

fn with_settings(config: Option<&Path>, then: impl FnOnce(Loaded) -> Exit) -> Exit {
    match Settings::load(config, &Environment::of_process()) {
        Ok(loaded) => then(loaded),
        Err(error) => complain(error, Exit::WrongSetting),
    }
}

fn check(loaded: &Loaded) -> Exit {
    let rows = &loaded.effective;
    let width =
        |of: fn(&settings::EffectiveSetting) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let names = width(|row| row.setting.variable.len());
    let values = width(|row| row.value.len());
    let lines = rows.iter().map(|row| {
        let (name, value) = (row.setting.variable, &row.value);
        format!("{name:names$}  {value:values$}  {}\n", row.source)
    });
    let text: String = lines.collect();
    for warning in &loaded.warnings {
        eprintln!("llamatower: warning: {warning}");
    }
    print(text)
}

fn serve(loaded: Loaded) -> Exit {
    let (settings, warnings) = (&loaded.settings, &loaded.warnings);
    with_runtime(settings, serve_until_signal(settings, warnings))
}

fn demo(loaded: Loaded) -> Exit {
    let mut settings = loaded.settings;
    let is_default = |key| {
        let mut rows = loaded.effective.iter();
        rows.any(|row| row.setting.key == key && row.source == "default")
    };
    if is_default("telemetry.log") {
        settings.telemetry.log = "warn,llamatower::access=info".to_owned();
    }
    let runtime_settings = settings.clone();
    with_runtime(&runtime_settings, async move {
        let backends = match demo::start().await {
            Ok(backends) => backends,
            Err(error) => return complain(error, Exit::Failed),
        };
        settings.backends.urls = backends.addresses();
        settings.backends.management = None;
        if let Some(address) = settings.listen.public.first() {
            let _ = io::stdout().write_all(demo::what_to_try(address).as_bytes());
        }
        serve_until_signal(&settings, &loaded.warnings).await
    })
}

fn with_runtime(settings: &Settings, work: impl Future<Output = Exit>) -> Exit {
    match runtime(settings) {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => complain(
            format!("the runtime cannot be started: {error}"),
            Exit::Failed,
        ),
    }
}

fn runtime(settings: &Settings) -> io::Result<Runtime> {
    let threads = settings.runtime.worker_threads.map(NonZeroUsize::get);
    let threads = threads.or_else(|| {
        std::thread::available_parallelism()
            .ok()
            .map(NonZeroUsize::get)
    });
    // One thread has nobody to share its work with, and does it for less without the means to.
    let mut builder = match threads {
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

async fn serve_until_signal(settings: &Settings, warnings: &[Problem]) -> Exit {
    let config = TelemetryConfig {
        log_filter: settings.telemetry.log.clone(),
        log_format: settings.telemetry.log_format,
        trusts_inbound_trace: settings.telemetry.trust_trace,
    };
    let telemetry = match Telemetry::start(&config, &|name| std::env::var(name).ok()) {
        Ok(telemetry) => Arc::new(telemetry),
        Err(error) => return complain(error, Exit::WrongSetting),
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let exit = match serve_gateway(settings, &telemetry).await {
        Ok(()) => Exit::Done,
        Err(StartError::Bind(error)) => complain(error, Exit::CannotListen),
        Err(StartError::Setting(error)) => complain(error, Exit::WrongSetting),
        Err(StartError::Signals(error)) => complain(error, Exit::Failed),
    };
    match Arc::try_unwrap(telemetry) {
        Ok(telemetry) => telemetry.shutdown(TELEMETRY_FLUSH).await,
        Err(_) => tracing::warn!("telemetry is still in use and is not flushed"),
    }
    exit
}

async fn serve_gateway(settings: &Settings, telemetry: &Arc<Telemetry>) -> Result<(), StartError> {
    let shutdown = Shutdown::on_signals().map_err(StartError::Signals)?;
    let gateway = Gateway::bind(settings, telemetry).await?;
    let drained = gateway.serve(shutdown).await;
    tracing::info!(completed = drained.completed, cut = drained.cut, "drained");
    Ok(())
}

fn healthcheck(url: &str) -> Exit {
    let Some((address, path)) = split(url) else {
        return complain(
            match has_user(url) {
                true => "what was given is no URL like http://127.0.0.1:3000/health".to_owned(),
                false => format!("{url:?} is no URL like http://127.0.0.1:3000/health"),
            },
            Exit::Failed,
        );
    };
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let asked = asked.map(|runtime| {
        let request = Request::get(path).body(Empty::<Bytes>::new());
        runtime.block_on(async { Upstream::new(address).oneshot(request?).await })
    });
    match asked {
        Ok(Ok(answer)) if answer.status().is_success() => Exit::Done,
        Ok(Ok(answer)) => complain(format!("{url} answered {}", answer.status()), Exit::Failed),
        Ok(Err(error)) => complain(error, Exit::Failed),
        Err(error) => complain(error, Exit::Failed),
    }
}

fn split(url: &str) -> Option<(Address, String)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "health"));
    Some((authority.parse().ok()?, format!("/{path}")))
}

fn keygen(name: &str) -> Exit {
    match llamatower_layers::api_key::generate_key(name) {
        Ok((key, line)) => print(format!(
            "key, for the client:          {key}\nLLAMATOWER_API_KEYS, for you: {line}\n"
        )),
        Err(error) => complain(error, Exit::Failed),
    }
}

fn print(text: impl AsRef<str>) -> Exit {
    match io::stdout().write_all(text.as_ref().as_bytes()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

fn complain(error: impl Display, exit: Exit) -> Exit {
    eprintln!("llamatower: {error}");
    exit
}
