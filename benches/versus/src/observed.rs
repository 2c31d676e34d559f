//! What those who look at a gateway cost its clients: a collector that hangs, a Prometheus that scrapes
//! each second, and open status pages.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{Error, contenders::Contender, report::Report, running::Running};

/// The number of open pages.
const PAGES: usize = 10;

/// Who looks at the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Observers {
    #[default]
    Nobody,
    /// A collector that accepts connections and never answers.
    HangingCollector,
    /// A Prometheus that reads the metrics each second.
    Scraper,
    /// Browsers with the status page.
    Pages,
}

const ALL: [(&str, &str, Observers); 4] = [
    ("unobserved", "nobody", Observers::Nobody),
    (
        "collector",
        "an OTLP endpoint that hangs",
        Observers::HangingCollector,
    ),
    (
        "scraper",
        "a scrape of the metrics each second",
        Observers::Scraper,
    ),
    ("pages", "ten open status pages", Observers::Pages),
];

/// The gateway with each kind of observers.
pub(crate) fn contenders(gateway: &Contender) -> [Contender; ALL.len()] {
    ALL.map(|(name, _, observers)| gateway.observed_by(name, observers))
}

/// The tasks of observers. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    /// The address of the collector, for the gateway's settings.
    pub(crate) collector: Option<SocketAddr>,
    tasks: JoinSet<()>,
}

impl Watching {
    /// Starts what must be there before the gateway.
    pub(crate) async fn before(observers: Observers) -> Result<Self, Error> {
        let mut watching = Self::default();
        if observers == Observers::HangingCollector {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            watching.collector = Some(listener.local_addr()?);
            watching.tasks.spawn(async move {
                let mut open = Vec::new();
                while let Ok((socket, _)) = listener.accept().await {
                    open.push(socket);
                }
            });
        }
        Ok(watching)
    }

    /// Starts the others; `admin` is the gateway's listener for operators.
    pub(crate) fn begin(&mut self, observers: Observers, admin: SocketAddr) {
        match observers {
            Observers::Nobody | Observers::HangingCollector => {}
            Observers::Scraper => {
                self.tasks.spawn(async move {
                    let mut seconds = interval(Duration::from_secs(1));
                    loop {
                        seconds.tick().await;
                        read(admin, "/metrics").await.ok();
                    }
                });
            }
            Observers::Pages => {
                for _ in 0..PAGES {
                    self.tasks.spawn(async move {
                        // The events of a page have no end.
                        if let Ok(mut events) = ask(admin, "/status/events").await {
                            copy(&mut events, &mut sink()).await.ok();
                        }
                    });
                }
            }
        }
    }
}

/// Sends requests until the gateway has noticed that the collector hangs. Before, requests cost as much as with one
/// that answers.
pub(crate) async fn until_no_trace_is_made(
    gateway: &Running,
    probe: &[u8],
    admin: SocketAddr,
) -> Result<(), Error> {
    let limit = Instant::now() + Duration::from_secs(30);
    while Instant::now() < limit {
        gateway.answer(probe).await?;
        let metrics = read(admin, "/metrics").await?;
        let left_out = metrics
            .lines()
            .find_map(|line| line.strip_prefix("llamatower_requests_without_trace_total "));
        if left_out.is_some_and(|count| count != "0") {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err("the gateway makes traces 30 s after its collector hung".into())
}

/// Reads a response to its end.
async fn read(address: SocketAddr, path: &str) -> Result<String, Error> {
    let mut response = Vec::new();
    ask(address, path).await?.read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// Sends a request and leaves its response to the caller.
async fn ask(address: SocketAddr, path: &str) -> Result<TcpStream, Error> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    Ok(socket)
}

/// A table for each shape: CPU time and the 99th percentile of the delay, with each kind of observers.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for shape in report.shapes() {
        let unit = shape.unit();
        // Writing to a `String` cannot fail.
        writeln!(
            text,
            "| {} | CPU for a {unit}, µs | of unobserved | p99, µs | of unobserved |\n|---|---:|---:|---:|---:|",
            shape.title
        )
        .ok();
        for (name, title, _) in ALL {
            let p99 = |sample: &crate::rounds::Sample| {
                let latency = sample.delay.as_ref().or(sample.first_byte.as_ref());
                latency.map(|latency| latency.p99)
            };
            let cpu = report.spread(shape.name, name, |sample| sample.cpu);
            let cpu_ratio = report.ratio_to(ALL[0].0, shape.name, name, |sample| sample.cpu);
            let late = report.spread(shape.name, name, p99);
            let late_ratio = report.ratio_to(ALL[0].0, shape.name, name, p99);
            if let (Some(cpu), Some(cpu_ratio)) = (cpu, cpu_ratio) {
                let late = late.map_or_else(|| "–".to_owned(), |late| late.text(0));
                let late_ratio = late_ratio.map_or_else(|| "–".to_owned(), |ratio| ratio.text(2));
                let (cpu, cpu_ratio) = (cpu.text(1), cpu_ratio.text(2));
                writeln!(
                    text,
                    "| {title} | {cpu} | {cpu_ratio} | {late} | {late_ratio} |"
                )
                .ok();
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
