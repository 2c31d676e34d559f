//! Compares the gateway with nginx, HAProxy and other gateways: the cost of each in front of the
//! same two simulated backends, with the same load, on the same machine, in alternating rounds.
//!
//! ```text
//!  core 1                     core 0                core 1, the same thread
//!  load generator ──HTTP──▶ the proxy ──HTTP──▶ two simulated backends
//! ```
//!
//! `cargo run --release -p llamatower-versus` runs everything; `--help` shows how to run a part.

mod backend;
mod contenders;
mod cores;
mod cpu;
mod dialects;
mod growth;
mod http1;
mod latency;
mod load;
mod observed;
mod pacer;
mod plain_proxy;
mod plot;
mod report;
mod rounds;
mod running;
mod shapes;
mod shared;
mod tls;

use std::{
    env, fs, net::SocketAddr, num::NonZeroUsize, os::unix::process::CommandExt as _, path::PathBuf,
    process::ExitCode, time::Instant,
};

use clap::{Parser, Subcommand};
use llamatower_proxies::{Error, build_gateway, until_terminated, workspace};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cpu::Priority,
    report::Report,
    rounds::Bench,
    shapes::{SHAPES, Shape},
};

/// Set in the process that is bound to its core.
const PINNED: &str = "LLAMATOWER_VERSUS_PINNED";

/// Compares the gateway with other proxies: CPU time, latency, memory.
#[derive(Debug, Parser)]
#[command(name = "llamatower-versus")]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Number of rounds, in which each contender runs each shape [default: 5, or 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a measurement in seconds; the number of requests is proportional to it [default:
    /// 4, or 1 with --quick].
    #[arg(long)]
    seconds: Option<f64>,
    /// A quick run: one round of one second.
    #[arg(long)]
    quick: bool,
    /// Maximum number of repetitions of a measurement that other work on the machine disturbed.
    #[arg(long, default_value_t = 0)]
    again: usize,
    /// Comma-separated list of shapes to measure [default: all].
    #[arg(long, value_delimiter = ',')]
    shape: Vec<String>,
    /// Comma-separated list of contenders to measure [default: all installed ones].
    #[arg(long, value_delimiter = ',')]
    contender: Vec<String>,
    /// The gateway's binary; by default it is built from this workspace.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// A second gateway binary to compare with, as `llamatower-base`.
    #[arg(long)]
    gateway_base: Option<PathBuf>,
    /// The program of LiteLLM, if it is not in PATH.
    #[arg(long)]
    litellm: Option<PathBuf>,
    /// `build/start-server.js` of @portkey-ai/gateway.
    #[arg(long)]
    portkey: Option<PathBuf>,
    /// The core of the proxy.
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    /// The core of the load generator and the backends.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Measure only the gateway, with growing numbers of models, backends and idle connections,
    /// which should not slow a request.
    #[arg(long)]
    growth: bool,
    /// Measure only the gateway, in front of Ollama servers and of OpenAI-compatible ones: lines
    /// that it passes, and lines that it translates.
    #[arg(long)]
    dialects: bool,
    /// Measure only the gateway, without observers, and with a collector that hangs, a scrape of the
    /// metrics each second, and ten open status pages.
    #[arg(long)]
    observed: bool,
    /// Measure only the gateway, without limits, with limits in memory, and with the same limits in a
    /// Redis on the core of the load generator.
    #[arg(long)]
    shared: bool,
    /// Measure only nginx, the gateway and plain hyper, each without and with TLS for clients.
    #[arg(long)]
    tls: bool,
    /// The number of streams that are open at the same time, in all shapes of paced streams [default: that
    /// in the shape's name].
    #[arg(long)]
    streams: Option<NonZeroUsize>,
    /// Write docs/versus.md and its plots.
    #[arg(long)]
    write_docs: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The contender `plain hyper`.
    #[command(hide = true)]
    PlainProxy {
        listen: SocketAddr,
        upstreams: Vec<SocketAddr>,
        /// The certificate, if it speaks TLS.
        #[arg(long, requires = "key")]
        cert: Option<PathBuf>,
        #[arg(long, requires = "cert")]
        key: Option<PathBuf>,
    },
    /// Keeps a core from being idle.
    #[command(hide = true)]
    Fill { parent: u32 },
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All proxies.
    Proxies,
    /// nginx, the gateway and plain hyper, without and with TLS.
    Tls,
    /// The gateway alone: growing numbers of models, backends and idle connections.
    Growth,
    /// The gateway alone: lines that it passes, and lines that it translates.
    Dialects,
    /// The gateway alone: without and with observers.
    Observed,
    /// The gateway alone: limits in memory and in Redis.
    Shared,
}

impl Args {
    fn part(&self) -> Part {
        let flags = [
            (self.tls, Part::Tls),
            (self.growth, Part::Growth),
            (self.dialects, Part::Dialects),
            (self.shared, Part::Shared),
            (self.observed, Part::Observed),
        ];
        let chosen = flags.into_iter().find(|(is_given, _)| *is_given);
        chosen.map_or(Part::Proxies, |(_, part)| part)
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 })
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 1.0 } else { 4.0 })
    }

    /// The shapes to measure.
    fn shapes(&self) -> Vec<Shape> {
        let wanted = SHAPES.into_iter().filter(|shape| self.has(shape));
        let shapes = wanted.map(|shape| match self.streams {
            Some(count) => shape.with_streams(count.get()),
            None => shape,
        });
        shapes.collect()
    }

    fn has(&self, shape: &Shape) -> bool {
        if !self.shape.is_empty() {
            return self.shape.iter().any(|name| name == shape.name);
        }
        match self.part() {
            Part::Tls => tls::SHAPES.contains(&shape.name),
            Part::Shared => shared::SHAPES.contains(&shape.name),
            _ => true,
        }
    }

    /// Whether a contender is selected. The first two are always needed.
    fn wants(&self, name: &str) -> bool {
        self.contender.is_empty()
            || ["direct", "nginx"].contains(&name)
            || self.contender.iter().any(|wanted| wanted == name)
    }
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("llamatower-versus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut args: Args) -> Result<ExitCode, Error> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    match args.role {
        Some(Role::PlainProxy {
            listen,
            upstreams,
            cert,
            key,
        }) => {
            let files = cert.zip(key);
            let acceptor = files.map(|(cert, key)| tls::acceptor(&cert, &key));
            runtime()?.block_on(plain_proxy::serve(listen, upstreams, acceptor.transpose()?))?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Role::Fill { parent }) => {
            cores::fill(parent)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    if let Some(wrong) = args.shape.iter().find(|name| Shape::named(name).is_none()) {
        let names = SHAPES.map(|shape| shape.name).join(", ");
        return Err(format!("--shape {wrong}: the shapes are {names}").into());
    }
    if env::var_os(PINNED).is_none() {
        if args.gateway.is_none() {
            args.gateway = Some(build_gateway()?);
        }
        return Err(pin(&args));
    }
    runtime()?.block_on(until_terminated(compare(&args)))
}

/// Replaces this process by the same program, bound to its core and with a higher limit of open
/// files. Returns only on failure.
fn pin(args: &Args) -> Error {
    let this = match env::current_exe() {
        Ok(this) => this,
        Err(error) => return error.into(),
    };
    // The proxy inherits the limit.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let needed = args.shapes().iter().map(Shape::open_files).max();
    if let Some((maximum, needed)) = maximum.zip(needed)
        && maximum < needed
    {
        let first = "the system allows a process";
        return format!(
            "{first} {maximum} open files, and these shapes need {needed}; raise the hard limit \
             (ulimit -Hn) or choose others with --shape or --streams"
        )
        .into();
    }
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        return error.into();
    }
    // Without a priority: this process is never idle while latencies are measured.
    let mut command = cpu::command_on(args.load_core, Priority::Usual);
    command
        .arg(this)
        .args(env::args_os().skip(1))
        .env(PINNED, "1");
    if let Some(gateway) = &args.gateway
        && !env::args_os()
            .any(|arg| arg.to_string_lossy().starts_with("--gateway=") || arg == "--gateway")
    {
        command.arg("--gateway").arg(gateway);
    }
    format!("taskset of util-linux is needed: {}", command.exec()).into()
}

async fn compare(args: &Args) -> Result<(), Error> {
    let (installed, mut notes) = contenders::find(args)?;
    let epoch = Instant::now();
    let part = args.part();
    let contenders = match part {
        Part::Proxies => installed,
        Part::Tls => tls::contenders(&installed)?,
        Part::Growth | Part::Dialects | Part::Observed | Part::Shared => {
            // They tell of other proxies, and of latencies.
            notes.clear();
            let gateway = installed.iter().find(|one| one.name == "llamatower");
            let gateway =
                gateway.ok_or("--growth, --dialects, --observed and --shared need the gateway")?;
            match part {
                Part::Growth => {
                    println!("{}", growth::measure(args, epoch, gateway).await?);
                    return Ok(());
                }
                Part::Dialects => dialects::contenders(gateway).into(),
                Part::Shared => {
                    let priority = match cpu::can_run_first(args.load_core) {
                        true => Priority::First,
                        false => Priority::Usual,
                    };
                    shared::contenders(gateway, args.load_core, priority).into()
                }
                _ => observed::contenders(gateway).into(),
            }
        }
    };
    if let Some(count) = args.streams {
        notes.push(format!(
            "Each shape of streams had {count} of them at the same time, whatever its name says."
        ));
    }
    let backends = vec![backend::start(epoch).await?, backend::start(epoch).await?];
    let (samples, failures) = Bench {
        args,
        epoch,
        backends,
    }
    .run(&contenders)
    .await;
    notes.extend(failures);
    let report = Report {
        samples,
        contenders,
        machine: cpu::machine(),
        notes,
        rounds: args.rounds(),
        seconds: args.seconds(),
    };
    let table = match part {
        Part::Dialects => dialects::table(&report),
        Part::Observed => observed::table(&report),
        Part::Shared => shared::table(&report),
        Part::Tls => tls::table(&report),
        Part::Proxies | Part::Growth => return write(&report, args),
    };
    println!("{table}");
    Ok(())
}

/// Prints the comparison of all proxies, and writes it into the guide if that is asked for.
fn write(report: &Report, args: &Args) -> Result<(), Error> {
    println!("{}", report.page(&[]));
    if report.samples.is_empty() {
        return Err("nothing could be measured".into());
    }
    if args.write_docs {
        let docs = workspace().join("docs");
        let plots = plot::plots(report);
        let files: Vec<_> = plots
            .iter()
            .map(|(title, file, _)| (title.clone(), file.clone()))
            .collect();
        fs::write(docs.join("versus.md"), report.page(&files))?;
        for (_, file, svg) in plots {
            fs::write(docs.join(file), svg)?;
        }
    }
    Ok(())
}
