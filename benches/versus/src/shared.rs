//! What limits cost that several gateways share through Redis, beside the same limits in memory: a rate for
//! all clients, and a rate and a token budget for the key.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use llamatower_proxies::{ProcessGroup, free_address};
use tokio::net::TcpStream;

use crate::{
    Error,
    contenders::Contender,
    cpu::{self, Priority},
    report::Report,
    rounds::Sample,
};

/// The shape that is measured by default: a small request.
pub(crate) const SHAPES: [&str; 1] = ["unary"];

/// The rate at which the time to the first byte is measured, in requests per second; at most half load. Redis
/// shares a core with the load generator and the backend, so that near its full load their queue is what is
/// measured.
pub(crate) const RATE: f64 = 1000.0;

/// The key of the client, and its line in the settings.
const KEY: &str = "versus-secret";
const KEY_LINE: &str =
    "versus=sha256:85c8050443a2869f3c81c159be51c51f043143cb7eae345e429ced76caf1259a";

/// Where the limits of a gateway are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Limits {
    #[default]
    None,
    InMemory,
    /// In a Redis on this core.
    InRedis {
        core: usize,
        priority: Priority,
    },
}

const MEMORY: &str = "limits in memory";
const REDIS: &str = "limits in Redis";

/// The gateway without limits, with limits in memory, and in Redis.
pub(crate) fn contenders(gateway: &Contender, core: usize, priority: Priority) -> [Contender; 3] {
    [
        gateway.limited("no limits", Limits::None),
        gateway.limited(MEMORY, Limits::InMemory),
        gateway.limited(REDIS, Limits::InRedis { core, priority }),
    ]
}

/// The header by which a client shows its key.
pub(crate) fn header(limits: Limits) -> String {
    match limits {
        Limits::None => String::new(),
        Limits::InMemory | Limits::InRedis { .. } => format!("Authorization: Bearer {KEY}\r\n"),
    }
}

/// A Redis for one run of a gateway. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Redis {
    group: ProcessGroup,
    address: SocketAddr,
}

impl Redis {
    /// Starts one if the limits are to be in Redis, and waits until it accepts connections.
    pub(crate) async fn start(limits: Limits) -> Result<Option<Self>, Error> {
        let Limits::InRedis { core, priority } = limits else {
            return Ok(None);
        };
        let address = free_address()?;
        let mut command = cpu::command_on(core, priority);
        command.args([
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
        ]);
        command.arg(address.port().to_string());
        let group = ProcessGroup::spawn(command.stdout(Stdio::null()))?;
        let mut redis = Self { group, address };
        let begin = Instant::now();
        while TcpStream::connect(redis.address).await.is_err() {
            if redis.group.has_ended()? || begin.elapsed() > Duration::from_secs(10) {
                return Err("redis-server does not start; --shared needs it".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Some(redis))
    }
}

/// Sets the limits of a gateway. No request reaches them.
pub(crate) fn configure(command: &mut Command, limits: Limits, redis: Option<&Redis>) {
    if limits == Limits::None {
        return;
    }
    command.envs([
        ("LLAMATOWER_API_KEYS", KEY_LINE),
        ("LLAMATOWER_RATE_LIMIT", "500000/s"),
        ("LLAMATOWER_KEY_RATE_LIMIT", "500000/s"),
        (
            "LLAMATOWER_KEY_TOKEN_LIMIT",
            "1000000000000/minute,1000000000000/day",
        ),
        // The first request after the start must not be without Redis.
        ("LLAMATOWER_REDIS_DOWN_RATES", "closed"),
    ]);
    command.envs(redis.map(|redis| ("LLAMATOWER_REDIS_URL", format!("redis://{}", redis.address))));
}

/// A table for each shape: CPU time, also beside that with limits in memory, and the time to the first byte at
/// [`RATE`].
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for shape in report.shapes() {
        let unit = shape.unit();
        // Writing to a `String` cannot fail.
        writeln!(
            text,
            "| {} | CPU for a {unit}, µs | of that in memory | first byte, median, µs | p99, µs |\n\
             |---|---:|---:|---:|---:|",
            shape.title
        )
        .ok();
        let first_byte = |sample: &Sample| sample.first_byte.map(|latency| latency.median);
        let p99 = |sample: &Sample| sample.first_byte.map(|latency| latency.p99);
        for name in ["no limits", MEMORY, REDIS] {
            let cpu = report.spread(shape.name, name, |sample| sample.cpu);
            let ratio = report.ratio_to(MEMORY, shape.name, name, |sample| sample.cpu);
            if let Some((cpu, ratio)) = cpu.zip(ratio) {
                let shown = |figure: fn(&Sample) -> Option<f64>| {
                    let spread = report.spread(shape.name, name, figure);
                    spread.map_or_else(|| "–".to_owned(), |spread| spread.text(0))
                };
                let (cpu, ratio) = (cpu.text(1), ratio.text(2));
                let (median, p99) = (shown(first_byte), shown(p99));
                writeln!(text, "| {name} | {cpu} | {ratio} | {median} | {p99} |").ok();
            }
        }
        text.push('\n');
    }
    text += report.disturbance().trim_start();
    for note in &report.notes {
        write!(text, "\n{note}\n").ok();
    }
    text
}
