//! The rounds: each contender runs each shape in each round, in a rotating order.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    Args, Error,
    contenders::Contender,
    cores::LostTimeMeter,
    cpu::{self, CpuTimes, Processes},
    latency::Latency,
    load::{self, Streams, Target},
    running::Running,
    shapes::{Answer, Load, SHAPES, Shape},
    shared,
};

/// The share of a core from which a measurement counts as disturbed.
pub(crate) const DISTURBED_SHARE: f64 = 0.1;

/// The highest rate at which the load generator is punctual, in requests per second.
const MAX_PUNCTUAL_RATE: f64 = 20_000.0;

/// The measurement of one contender with one shape in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) shape: &'static str,
    pub(crate) contender: &'static str,
    /// The proxy's CPU time for each request or chunk, in microseconds.
    pub(crate) cpu: Option<f64>,
    /// Requests per second in the closed loop.
    pub(crate) rate: Option<f64>,
    /// The share of its core that the proxy used.
    pub(crate) busy: Option<f64>,
    /// The time to the first byte at half load, or of `--shared` at its own rate.
    pub(crate) first_byte: Option<Latency>,
    /// The time to the first byte without a proxy, at the same rate.
    pub(crate) unproxied: Option<Latency>,
    /// The delay of a line of a paced stream.
    pub(crate) delay: Option<Latency>,
    /// The share of the due lines that arrived.
    pub(crate) delivered: Option<f64>,
    /// The number of open streams.
    pub(crate) streams: Option<usize>,
    /// Resident memory before any load and under load, in kB.
    pub(crate) memory: Option<(u64, u64)>,
    /// The time from the start of the process to its first answer, in milliseconds.
    pub(crate) cold_start: Option<f64>,
    /// The share of a core that other processes used.
    pub(crate) disturbed: f64,
}

/// The data that all measurements of a run share.
pub(crate) struct Bench<'a> {
    pub(crate) args: &'a Args,
    pub(crate) epoch: Instant,
    pub(crate) backends: Vec<SocketAddr>,
}

impl Bench<'_> {
    /// Runs all rounds. Also returns a sentence for each contender that failed with a shape.
    pub(crate) async fn run(&self, contenders: &[Contender]) -> (Vec<Sample>, Vec<String>) {
        let shapes = self.args.shapes();
        let (mut samples, mut failures) = (Vec::new(), BTreeMap::new());
        for round in 0..self.args.rounds() {
            for (nth, shape) in shapes.iter().enumerate() {
                for turn in 0..contenders.len() {
                    let contender = &contenders[(turn + round + nth) % contenders.len()];
                    if !shape.speaks(contender.dialect()) {
                        continue;
                    }
                    match self.undisturbed(round, shape, contender).await {
                        Ok(sample) => {
                            eprintln!("{}", line(&sample, shape));
                            samples.push(sample);
                        }
                        Err(error) => {
                            let error = format!("{} under {}: {error}", contender.name, shape.name);
                            eprintln!("round {} FAILED {error}", round + 1);
                            let key = (contender.name, shape.title);
                            failures.entry(key).or_insert((0, error)).0 += 1;
                        }
                    }
                }
            }
        }
        let sentences = failures.into_iter().map(|((name, title), (times, error))| {
            let error = error.lines().collect::<Vec<_>>().join("; ");
            let rounds = self.args.rounds();
            format!("{name} failed in {times} of {rounds} rounds of “{title}” (`{error}`).")
        });
        (samples, sentences.collect())
    }

    /// Measures until a try is undisturbed or the tries are used up, and returns the best try.
    async fn undisturbed(
        &self,
        round: usize,
        shape: &Shape,
        contender: &Contender,
    ) -> Result<Sample, Error> {
        let mut best = self.measure(round, shape, contender).await?;
        for _ in 0..self.args.again {
            if best.disturbed <= DISTURBED_SHARE {
                break;
            }
            if let Ok(sample) = self.measure(round, shape, contender).await
                && sample.disturbed < best.disturbed
            {
                best = sample;
            }
        }
        Ok(best)
    }

    async fn measure(
        &self,
        round: usize,
        shape: &Shape,
        contender: &Contender,
    ) -> Result<Sample, Error> {
        let headers = contender.headers(&self.backends);
        let probe = SHAPES[0].request(contender.dialect(), &headers, 0);
        let running = contender.start(&self.backends, &probe).await?;
        // Work of a process at its start is not part of the load.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut sample = Sample {
            round,
            shape: shape.name,
            contender: contender.name,
            cold_start: running.cold_start.map(|time| time.as_secs_f64() * 1e3),
            ..Sample::default()
        };
        let processes = running.group().map(Processes::of_group).transpose()?;
        let processes = processes.as_ref();
        let idle = processes.map(Processes::resident).transpose()?;
        match shape.load {
            Load::Closed { .. } => {
                self.closed(shape, contender, &running, processes, &headers, &mut sample)
                    .await?;
            }
            Load::Streams { count } => {
                let count = (count / contender.slower()).max(1);
                self.streams(
                    shape,
                    contender,
                    &running,
                    processes,
                    &headers,
                    count,
                    &mut sample,
                )
                .await?;
            }
        }
        let loaded = processes.map(Processes::resident).transpose()?;
        if sample.memory.is_none() {
            sample.memory = idle.zip(loaded);
        } else if let (Some(memory), Some(idle)) = (&mut sample.memory, idle) {
            memory.0 = idle;
        }
        Ok(sample)
    }

    async fn closed(
        &self,
        shape: &Shape,
        contender: &Contender,
        running: &Running,
        processes: Option<&Processes>,
        headers: &str,
        sample: &mut Sample,
    ) -> Result<(), Error> {
        let Load::Closed {
            connections,
            requests,
            churn,
        } = shape.load
        else {
            return Ok(());
        };
        let target = Target {
            addresses: running.addresses.clone(),
            tls: running.tls.clone(),
            request: shape.request(contender.dialect(), headers, 0).into(),
            lines: if let Answer::Burst(lines) = shape.answer {
                lines
            } else {
                0
            },
            bytes: if let Answer::Embeddings(size) = shape.answer {
                size * 9 / 10
            } else {
                200
            },
        };
        let total = (requests as f64 * self.args.seconds()) as usize / contender.slower();
        load::closed(&target, connections, (total / 10).max(connections), churn).await?;
        let meter = Meter::start(self.args, processes)?;
        let took = load::closed(&target, connections, total, churn).await?;
        meter.stop(took, total, sample)?;
        let most = total as f64 / took.as_secs_f64();
        sample.rate = Some(most);
        let rate = (most / 2.0).min(if self.args.shared {
            shared::RATE
        } else {
            MAX_PUNCTUAL_RATE
        });
        let duration = Duration::from_secs_f64(self.args.seconds());
        let meter = contender.loss_meter(processes).await?;
        sample.first_byte = Some(load::open(&target, rate, duration, churn, meter).await?);
        if processes.is_some() {
            let target = Target {
                addresses: self.backends.clone(),
                tls: None,
                ..target
            };
            let meter = LostTimeMeter::own_core();
            sample.unproxied = Some(load::open(&target, rate, duration, churn, meter).await?);
        }
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the inputs of one measurement, at one call site"
    )]
    async fn streams(
        &self,
        shape: &Shape,
        contender: &Contender,
        running: &Running,
        processes: Option<&Processes>,
        headers: &str,
        count: usize,
        sample: &mut Sample,
    ) -> Result<(), Error> {
        let Answer::Paced(pace) = shape.answer else {
            return Ok(());
        };
        let window = Duration::from_secs_f64(self.args.seconds());
        // A handshake costs the load generator most of a millisecond.
        let each = if running.tls.is_some() { 4 } else { 1 };
        let opening = Duration::from_millis(300 + count as u64 / 2) * each;
        let settling = Duration::from_millis(500);
        let all = opening + settling + window * 2 + settling;
        let lines = (all.as_secs_f64() / pace.as_secs_f64()) as usize;
        let target = Target {
            addresses: running.addresses.clone(),
            tls: running.tls.clone(),
            request: shape.request(contender.dialect(), headers, lines).into(),
            lines,
            bytes: 0,
        };
        let streams = Streams::open(&target, self.epoch, count, opening);
        tokio::time::sleep(opening + settling).await;
        let meter = Meter::start(self.args, processes)?;
        let (begin, first) = (Instant::now(), streams.lines());
        tokio::time::sleep(window).await;
        let (took, seen) = (begin.elapsed(), streams.lines() - first);
        meter.stop(took, seen, sample)?;
        let loaded = processes.map(Processes::resident).transpose()?;
        sample.memory = loaded.map(|loaded| (0, loaded));
        sample.streams = Some(count);
        let due = count as f64 * took.as_secs_f64() / pace.as_secs_f64();
        sample.delivered = Some(seen as f64 / due);
        let meter = contender.loss_meter(processes).await?;
        sample.delay = Some(streams.watch(window, meter).await);
        streams.finish(all + Duration::from_secs(20)).await
    }
}

/// Measures the time used between two moments: by the proxy, by the load generator, and of their
/// cores.
struct Meter<'a> {
    args: &'a Args,
    proxy: Option<&'a Processes>,
    before: Reading,
}

#[derive(Default)]
struct Reading {
    proxy: CpuTimes,
    own: CpuTimes,
    proxy_core: Duration,
    load_core: Duration,
}

impl<'a> Meter<'a> {
    fn start(args: &'a Args, proxy: Option<&'a Processes>) -> Result<Self, Error> {
        let mut meter = Self {
            args,
            proxy,
            before: Reading::default(),
        };
        meter.before = meter.read()?;
        Ok(meter)
    }

    fn read(&self) -> Result<Reading, Error> {
        Ok(Reading {
            proxy: self.proxy.map_or(Ok(CpuTimes::default()), Processes::cpu)?,
            own: Processes::own().cpu()?,
            proxy_core: cpu::core_used(self.args.proxy_core)?,
            load_core: cpu::core_used(self.args.load_core)?,
        })
    }

    /// Sets the cost of `units` requests or chunks.
    fn stop(self, took: Duration, units: usize, sample: &mut Sample) -> Result<(), Error> {
        let (before, after) = (&self.before, self.read()?);
        let others = |core: Duration, measured: Duration| {
            (core.as_secs_f64() - measured.as_secs_f64()) / took.as_secs_f64()
        };
        let load_core = after.load_core.saturating_sub(before.load_core);
        sample.disturbed = others(load_core, after.own.since(&before.own));
        if self.proxy.is_some() {
            let used = after.proxy.since(&before.proxy);
            sample.cpu = Some(used.as_secs_f64() * 1e6 / units as f64);
            sample.busy = Some(used.as_secs_f64() / took.as_secs_f64());
            let proxy_core = after.proxy_core.saturating_sub(before.proxy_core);
            sample.disturbed = sample.disturbed.max(others(proxy_core, used));
        }
        Ok(())
    }
}

/// A latency, and the share of the times that were quiet and counted.
fn latency_text(latency: Latency) -> String {
    match latency.quiet {
        Some(quiet) => format!("{latency} us of {:.0} %", quiet * 100.0),
        None => format!("{latency} us, never quiet"),
    }
}

/// The text of a sample, printed during the run.
fn line(sample: &Sample, shape: &Shape) -> String {
    let mut text = format!(
        "round {} {:12} {:16}",
        sample.round + 1,
        sample.shape,
        sample.contender
    );
    if let Some(cpu) = sample.cpu {
        text += &format!(" {cpu:7.2} us CPU/{}", shape.unit());
    }
    if let Some(busy) = sample.busy {
        text += &format!(", {:.0} % of its core", busy * 100.0);
    }
    if let Some(rate) = sample.rate {
        text += &format!(", {rate:.0} requests/s");
    }
    if let Some(latency) = sample.first_byte {
        text += &format!(", first byte {}", latency_text(latency));
    }
    if let Some(latency) = sample.unproxied {
        text += &format!(" (no proxy {})", latency_text(latency));
    }
    if let Some(latency) = sample.delay {
        text += &format!(", line {}", latency_text(latency));
    }
    if let Some(delivered) = sample.delivered {
        text += &format!(", {:.0} % delivered", delivered * 100.0);
    }
    if let Some((idle, loaded)) = sample.memory {
        text += &format!(
            ", {:.1} to {:.1} MB",
            idle as f64 / 1e3,
            loaded as f64 / 1e3
        );
    }
    if let Some(cold) = sample.cold_start {
        text += &format!(", up in {cold:.0} ms");
    }
    if sample.disturbed > DISTURBED_SHARE {
        text += &format!(" [others used {:.0} % of a core]", sample.disturbed * 100.0);
    }
    text
}
