//! Runs the program's commands.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::MissedTickBehavior;

use super::arguments::{Arguments, CheckArguments, Command, Exit, SimulateArguments};
use super::connect::ConnectArguments;
use super::doctor::Options;
use super::healthcheck::Target;
use super::keygen::KeygenArguments;
use super::manage::ManageError;
use super::simulate::SimulateError;
use super::{check, connect as connecting, demo, doctor, manage, manual, top};
use crate::edge::Shutdown;
use crate::gateway::{Gateway, StartError};
use crate::reload::{Cause, Difference, EXPIRY_INTERVAL, Reloader};
use crate::settings::{self, Environment, Listener, Loaded, Settings};
use crate::signals::{Hangup, Hangups};
use crate::telemetry::{Metrics, Telemetry, TelemetryConfig, suppresses_warnings};
use crate::version;

/// Time limit for exporters to send pending data at exit.
const TELEMETRY_FLUSH: Duration = Duration::from_secs(5);

/// Runs the command of the arguments.
pub fn run(arguments: Arguments) -> Exit {
    let config = arguments.config_file();
    let config = config.as_deref();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => with_settings(config, |loaded| serve(&loaded, config)),
        Command::Demo => with_settings(config, |loaded| demo(loaded, config)),
        Command::Check(arguments) => check(config, &arguments),
        Command::Doctor { json, load } => doctor(config, json, load),
        Command::Healthcheck { url } => healthcheck(config, url.as_deref()),
        Command::Keygen(arguments) => keygen(&arguments),
        Command::Sleep { seconds } => {
            std::thread::sleep(Duration::from_secs(seconds));
            Exit::Done
        }
        Command::Connect(arguments) => connect(&arguments),
        Command::Models(arguments) => managed(manage::run(&arguments, config)),
        Command::Top(arguments) => managed(top::run(&arguments, config)),
        Command::Cordon(arguments) => managed(manage::cordon(&arguments, true, config)),
        Command::Uncordon(arguments) => managed(manage::cordon(&arguments, false, config)),
        Command::Drain(arguments) => managed(manage::drain(&arguments, config)),
        Command::Usage(arguments) => managed(manage::usage(&arguments, config)),
        Command::Simulate(arguments) => simulate(&arguments),
        Command::Reference { example: true, .. } => print(settings::example_file()),
        Command::Reference {
            environment: true, ..
        } => print(settings::example_environment()),
        Command::Reference { .. } => print(settings::reference()),
        Command::Completions { shell } => print(manual::completions(shell)),
        Command::Man { directory } => man(directory.as_deref()),
    }
}

fn with_settings(config: Option<&Path>, then: impl FnOnce(Loaded) -> Exit) -> Exit {
    match Settings::load(config, &Environment::of_process()) {
        Ok(loaded) => then(loaded),
        Err(error) => print_error(error, Exit::WrongSetting),
    }
}

fn check(config: Option<&Path>, arguments: &CheckArguments) -> Exit {
    let as_json = arguments.gateway.json;
    let loaded = Settings::load(config, &Environment::of_process());
    let exit = match &loaded {
        Ok(_) => Exit::Done,
        Err(_) => Exit::WrongSetting,
    };
    if let (Ok(loaded), true) = (&loaded, arguments.diff) {
        return check_diff(config, arguments, loaded);
    }
    if as_json {
        return print_then(format!("{:#}\n", check::json(&loaded)), exit);
    }
    match loaded {
        Ok(loaded) => {
            let exit = print(check::text(&loaded));
            // On a terminal, the end of the output is what is seen.
            print_warnings(&loaded);
            exit
        }
        Err(error) => print_error(error, exit),
    }
}

/// Prints what a reload would change in a running gateway.
fn check_diff(config: Option<&Path>, arguments: &CheckArguments, loaded: &Loaded) -> Exit {
    let difference = check::difference(loaded, &arguments.gateway, config);
    let difference = match block_on_current_thread(difference) {
        Ok(Ok(difference)) => difference,
        Ok(Err(error)) => {
            let exit = error.exit();
            return print_error(error, exit);
        }
        Err(error) => return print_error(error, Exit::Failed),
    };
    let exit = match &difference {
        Difference {
            refused: Some(_), ..
        } => Exit::WrongSetting,
        difference if difference.needs_restart() => Exit::NeedsRestart,
        _ => Exit::Done,
    };
    let text = match arguments.gateway.json {
        true => format!("{:#}\n", json!(difference)),
        false => difference.text(),
    };
    print_warnings(loaded);
    print_then(text, exit)
}

fn look_up(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn doctor(config: Option<&Path>, as_json: bool, load: Option<String>) -> Exit {
    let loaded = Settings::load(config, &Environment::of_process());
    let report = match loaded {
        Err(error) if as_json => {
            let json = json!({ "is_fine": false, "errors": check::problems(error.problems()) });
            return print_then(format!("{json:#}\n"), Exit::WrongSetting);
        }
        Err(error) => return print_error(error, Exit::WrongSetting),
        Ok(loaded) => {
            let examined = async move { doctor::examine(&loaded, &Options { load }).await };
            match block_on_current_thread(examined) {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => return print_error(error, Exit::WrongSetting),
                Err(error) => return print_error(error, Exit::Failed),
            }
        }
    };
    let text = match as_json {
        true => format!("{:#}\n", report.json()),
        false => report.text(),
    };
    let exit = match report.is_fine() {
        true => Exit::Done,
        false => Exit::Failed,
    };
    print_then(text, exit)
}

fn serve(loaded: &Loaded, config: Option<&Path>) -> Exit {
    let settings = &loaded.settings;
    with_runtime(settings, serve_until_signal(settings, loaded, config, None))
}

fn demo(loaded: Loaded, config: Option<&Path>) -> Exit {
    let mut settings = loaded.settings.clone();
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
            Err(error) => return print_error(error, Exit::Failed),
        };
        settings.backends.urls = backends.addresses();
        settings.backends.management = None;
        let public = settings.listening(Listener::Public);
        let admin = settings.listening(Listener::Admin);
        let commands = demo::commands_to_try(&public, &admin);
        serve_until_signal(&settings, &loaded, config, commands).await
    })
}

fn with_runtime(settings: &Settings, work: impl Future<Output = Exit>) -> Exit {
    match runtime(settings) {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => print_error(format!("cannot start the runtime: {error}"), Exit::Failed),
    }
}

fn runtime(settings: &Settings) -> io::Result<Runtime> {
    let threads = settings.runtime.worker_threads.map(NonZeroUsize::get);
    let threads = threads.or_else(|| {
        std::thread::available_parallelism()
            .ok()
            .map(NonZeroUsize::get)
    });
    // A single thread has no other to share its work with, and the current-thread runtime is
    // cheaper.
    let mut builder = match threads {
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// `settings` are those of `loaded`, except for what the demo changes. The `greeting` is printed when
/// clients can connect.
async fn serve_until_signal(
    settings: &Settings,
    loaded: &Loaded,
    config: Option<&Path>,
    greeting: Option<String>,
) -> Exit {
    let telemetry = TelemetryConfig {
        log_filter: settings.telemetry.log.clone(),
        log_format: settings.telemetry.log_format,
        trusts_inbound_trace: settings.telemetry.trust_trace,
        semconv: settings.telemetry.semconv,
    };
    // The log would suppress them.
    if suppresses_warnings(&telemetry.log_filter) {
        print_warnings(loaded);
    }
    let telemetry = match Telemetry::start(&telemetry, &look_up) {
        Ok(telemetry) => Arc::new(telemetry),
        Err(error) => return print_error(error, Exit::WrongSetting),
    };
    tracing::info!(
        version = version::VERSION,
        commit = version::COMMIT,
        build = version::BUILD,
        "llamatower"
    );
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let exit = match serve_gateway(settings, loaded, config, greeting, &telemetry).await {
        Ok(()) => Exit::Done,
        Err(StartError::Bind(error)) => print_error(error, Exit::CannotListen),
        Err(StartError::Setting(error)) => print_error(error, Exit::WrongSetting),
        Err(StartError::Tls(error)) => print_error(error, Exit::WrongSetting),
        Err(StartError::Signals(error)) => print_error(error, Exit::Failed),
    };
    match Arc::try_unwrap(telemetry) {
        Ok(telemetry) => telemetry.shutdown(TELEMETRY_FLUSH).await,
        Err(_) => tracing::warn!("telemetry is still in use and is not flushed"),
    }
    exit
}

async fn serve_gateway(
    settings: &Settings,
    loaded: &Loaded,
    config: Option<&Path>,
    greeting: Option<String>,
    telemetry: &Arc<Telemetry>,
) -> Result<(), StartError> {
    let shutdown = Shutdown::on_signals().map_err(StartError::Signals)?;
    let hangups = Hangups::listen().map_err(StartError::Signals)?;
    let gateway = Gateway::bind(settings, telemetry).await?;
    if let Some(greeting) = greeting {
        let _ = io::stdout().write_all(greeting.as_bytes());
    }
    let reloader = Reloader::new(
        config.map(Path::to_owned),
        loaded,
        gateway.live(),
        telemetry.log_filter(),
    );
    let metrics = telemetry.metrics().clone();
    let reloading = tokio::spawn(reload_on(hangups, reloader, metrics, shutdown.clone()));
    let drained = gateway.serve(shutdown).await;
    reloading.abort();
    tracing::info!(completed = drained.completed, cut = drained.cut, "drained");
    Ok(())
}

/// Reloads the settings at each SIGHUP, and after each change of a file. A SIGHUP because the terminal is gone is treated like
/// SIGTERM, because the user could not stop the process any more.
async fn reload_on(
    mut hangups: Hangups,
    mut reloader: Reloader,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) {
    let mut expiry = tokio::time::interval(EXPIRY_INTERVAL);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let cause = tokio::select! {
            _ = expiry.tick() => {
                reloader.tell_expiry();
                continue;
            }
            hangup = hangups.next() => match hangup {
                Some(Hangup::Reload) => Cause::Signal,
                Some(Hangup::TerminalGone) => {
                    shutdown.drain();
                    continue;
                }
                None => return,
            },
            () = reloader.file_changed() => Cause::File,
        };
        reloader.reload_and_log(cause, &metrics).await;
    }
}

fn healthcheck(config: Option<&Path>, url: Option<&str>) -> Exit {
    let target = match url {
        Some(url) => url.parse().map(|target: Target| {
            let listening = Settings::listeners(config, &Environment::of_process()).ok();
            target.with_certificate(listening.and_then(|it| it.cert).as_deref())
        }),
        None => match Settings::checked_listeners(config, &Environment::of_process()) {
            Ok(listeners) => Target::for_listeners(&listeners),
            Err(error) => return print_error(error, Exit::WrongSetting),
        },
    };
    let target = match target {
        Ok(target) => target,
        Err(error) => return print_error(error, Exit::Failed),
    };
    match block_on_current_thread(async { target.ask().await }) {
        Ok(Ok(health)) if health.status.is_success() => Exit::Done,
        Ok(Ok(health)) => print_error(
            format!("the gateway at {target} responded with {}", health.status),
            Exit::Failed,
        ),
        Ok(Err(error)) => print_error(error, Exit::Failed),
        Err(error) => print_error(error, Exit::Failed),
    }
}

/// Runs a future on the current thread and waits for it.
fn block_on_current_thread<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?.block_on(work))
}

fn keygen(arguments: &KeygenArguments) -> Exit {
    match crate::commands::keygen::run(arguments) {
        Ok(text) => print(text),
        Err(error) => print_error(error, Exit::Failed),
    }
}

/// Runs a command for a running gateway.
fn managed(work: impl Future<Output = Result<(), ManageError>>) -> Exit {
    match block_on_current_thread(work) {
        Ok(Ok(())) => Exit::Done,
        // The reader of the output has left, like `head`; nobody would read the error.
        Ok(Err(ManageError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
            Exit::Failed
        }
        Ok(Err(error)) => {
            let exit = error.exit();
            print_error(error, exit)
        }
        Err(error) => print_error(error, Exit::Failed),
    }
}

fn connect(arguments: &ConnectArguments) -> Exit {
    match block_on_current_thread(connecting::run(arguments)) {
        Ok(Ok(())) => Exit::Done,
        Ok(Err(error)) => {
            let exit = error.exit();
            print_error(error, exit)
        }
        Err(error) => print_error(error, Exit::Failed),
    }
}

fn simulate(arguments: &SimulateArguments) -> Exit {
    match crate::commands::simulate::run(arguments, &mut io::stdout().lock()) {
        Ok(()) => Exit::Done,
        // The reader of the output has left; nobody would read the error.
        Err(SimulateError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Exit::Failed
        }
        Err(error) if error.is_of_arguments() => print_error(error, Exit::WrongSetting),
        Err(error) => print_error(error, Exit::Failed),
    }
}

fn man(directory: Option<&Path>) -> Exit {
    let Some(directory) = directory else {
        return match manual::page() {
            Ok(page) => print(page),
            Err(error) => print_error(error, Exit::Failed),
        };
    };
    match manual::write_pages(directory) {
        Ok(()) => Exit::Done,
        Err(error) => print_error(
            format!("cannot write the pages to {}: {error}", directory.display()),
            Exit::Failed,
        ),
    }
}

fn print(text: impl AsRef<[u8]>) -> Exit {
    match io::stdout().write_all(text.as_ref()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

/// Prints a command's output, and returns the exit code.
fn print_then(text: String, exit: Exit) -> Exit {
    match print(text) {
        Exit::Done => exit,
        failed => failed,
    }
}

fn print_warnings(loaded: &Loaded) {
    for warning in loaded.all_warnings() {
        eprintln!("llamatower: warning: {warning}");
    }
}

fn print_error(error: impl Display, exit: Exit) -> Exit {
    eprintln!("llamatower: {error}");
    exit
}
