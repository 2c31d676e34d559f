//! The simulated Ollama server as a program.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use llamatower_sim::{Fault, ModelSpec, Sim};

/// A simulated Ollama server: it answers like a real one, needs no GPU, and fails on demand.
///
/// Faults: POST /sim/faults with JSON like
/// {"fault":"die","after_lines":3,"ending":"reset","model":"tiny","count":1}.
/// Received requests: GET /sim/requests, GET /sim/state.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The listen address.
    #[arg(long, default_value = "127.0.0.1:11434")]
    listen: SocketAddr,
    /// A model: NAME[,load=300ms][,pace=15ms][,slots=2][,prompt-rate=5000][,reply=24][,longest-reply=24][,line-tokens=1][,reply-from-prompt][,echo-from-prompt][,embedding-only]..
    #[arg(long = "model", required = true)]
    models: Vec<ModelSpec>,
    /// Maximum number of requests that wait for a load.
    #[arg(long, default_value_t = 512)]
    max_queue: usize,
    /// Maximum number of models in memory.
    #[arg(long, default_value_t = 3)]
    max_loaded: usize,
    /// How many times faster than real time it runs.
    #[arg(long)]
    speed: Option<f64>,
    /// Number of tokens of recent prompts to cache: a prompt that begins like one of them takes less time.
    #[arg(long)]
    prefix_cache: Option<u64>,
    /// A fault from the start, as for POST /sim/faults.
    #[arg(long = "fault", value_name = "JSON", value_parser = fault)]
    faults: Vec<Fault>,
    /// Number of requests to keep for /sim/requests.
    #[arg(long, default_value_t = 4096)]
    remember: usize,
    /// The version in /api/version.
    #[arg(long, default_value = "0.33.0-rc2")]
    version_says: String,
}

fn fault(text: &str) -> Result<Fault, String> {
    serde_json::from_str(text).map_err(|why| why.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut builder = Sim::builder()
        .listen(arguments.listen)
        .max_queue(arguments.max_queue)
        .max_loaded(arguments.max_loaded)
        .log_capacity(arguments.remember)
        .version(arguments.version_says);
    if let Some(speed) = arguments.speed {
        builder = builder.speed(speed);
    }
    if let Some(tokens) = arguments.prefix_cache {
        builder = builder.prefix_cache(tokens);
    }
    let builder = arguments
        .models
        .into_iter()
        .fold(builder, |builder, model| builder.model(model));
    let sim = match builder.start().await {
        Ok(sim) => sim,
        Err(error) => {
            eprintln!(
                "llamatower-sim: cannot listen on {}: {error}",
                arguments.listen
            );
            return ExitCode::FAILURE;
        }
    };
    for fault in arguments.faults {
        if let Err(reason) = sim.try_arm(fault) {
            eprintln!("llamatower-sim: --fault: {reason}");
            return ExitCode::FAILURE;
        }
    }
    println!("llamatower-sim listens on {}", sim.addr());
    let mut terminate =
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(_) => return ExitCode::FAILURE,
        };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    ExitCode::SUCCESS
}
