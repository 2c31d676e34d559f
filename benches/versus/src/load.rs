//! The load generator: requests in a closed loop, at a fixed rate, or as many open streams.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};

use crate::{
    Error,
    backend::{STAMP, STAMP_DIGITS, stamp},
    cores::LostTimeMeter,
    http1::{Decoder, response_head},
    latency::{Latency, Recorder},
    tls::{Tls, Wire},
};

/// The number of connections while latencies are measured. It limits the backlog of a proxy after a
/// pause of the machine. If each such request opened a new connection, the load generator would be
/// the first to fall behind.
const CONNECTIONS: usize = 64;

/// The request, its destination, and the condition for a valid answer.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The addresses; connections use them in turn.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) request: Arc<[u8]>,
    pub(crate) tls: Option<Tls>,
    /// The number of lines with a time.
    pub(crate) lines: usize,
    /// The minimum number of body bytes.
    pub(crate) bytes: usize,
}

/// A client connection.
struct Client {
    stream: Wire,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(target: &Target, nth: usize) -> Result<Self, Error> {
        let stream = TcpStream::connect(target.addresses[nth % target.addresses.len()]).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: Wire::new(stream, target.tls.as_ref()).await?,
            buffer: vec![0; 16_384],
        })
    }

    /// Sends the request and reads its answer. Returns the time of the first byte.
    ///
    /// Calls `on_line` with the time in each line that has one.
    async fn exchange(
        &mut self,
        target: &Target,
        mut on_line: impl FnMut(u64),
    ) -> Result<Instant, Error> {
        self.stream.send(&target.request).await?;
        let mut filled = 0;
        let mut first = None;
        let head = loop {
            if filled == self.buffer.len() {
                return Err("the head of an answer is longer than 16 kB".into());
            }
            match self.stream.read(&mut self.buffer[filled..]).await? {
                0 => return Err("the connection ended before an answer".into()),
                n => filled += n,
            }
            first.get_or_insert_with(Instant::now);
            if let Some(head) = response_head(&self.buffer[..filled])? {
                break head;
            }
        };
        if head.status != 200 {
            let body = String::from_utf8_lossy(&self.buffer[head.len..filled]).into_owned();
            return Err(format!("an answer with status {}: {body}", head.status).into());
        }
        let (mut bytes, mut lines, mut stamps) = (0, 0, Stamps::default());
        let mut sink = |data: &[u8]| {
            bytes += data.len();
            stamps.feed(data, |stamp| {
                lines += 1;
                on_line(stamp);
            });
        };
        let mut decoder = Decoder::new(head.framing);
        decoder.feed(&self.buffer[head.len..filled], &mut sink)?;
        while !decoder.is_done() {
            match self.stream.read(&mut self.buffer).await? {
                0 if decoder == Decoder::UntilClose => break,
                0 => return Err("an answer was cut off".into()),
                n => decoder.feed(&self.buffer[..n], &mut sink)?,
            };
        }
        if lines != target.lines || bytes < target.bytes {
            return Err(format!("an answer of {lines} lines and {bytes} bytes").into());
        }
        first.ok_or_else(|| "no answer".into())
    }
}

/// Finds the times in a body with any split.
#[derive(Default)]
struct Stamps {
    /// The number of missing digits.
    left: usize,
    value: u64,
}

impl Stamps {
    fn feed(&mut self, mut data: &[u8], mut found: impl FnMut(u64)) {
        loop {
            if self.left == 0 {
                let Some(at) = memchr::memchr(STAMP, data) else {
                    return;
                };
                data = &data[at + 1..];
                (self.left, self.value) = (STAMP_DIGITS, 0);
            }
            let n = self.left.min(data.len());
            for digit in &data[..n] {
                self.value = self.value * 10 + u64::from(digit.wrapping_sub(b'0'));
            }
            data = &data[n..];
            self.left -= n;
            if self.left > 0 {
                return;
            }
            found(self.value);
        }
    }
}

/// Whether a first answer arrives within `limit`.
pub(crate) async fn answers(target: &Target, limit: Duration) -> Result<(), Error> {
    tokio::time::timeout(limit, async {
        Client::connect(target, 0)
            .await?
            .exchange(target, drop)
            .await?;
        Ok(())
    })
    .await?
}

/// Sends `total` requests over `connections`; each connection waits for its answer. Returns the
/// total duration. With `churn` each request opens a connection.
pub(crate) async fn closed(
    target: &Target,
    connections: usize,
    total: usize,
    churn: bool,
) -> Result<Duration, Error> {
    let sent = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let mut tasks = JoinSet::<Result<(), Error>>::new();
    for nth in 0..connections {
        let (target, sent) = (target.clone(), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut client = None;
            while let request = sent.fetch_add(1, Relaxed)
                && request < total
            {
                let mut connection = match client.take() {
                    Some(client) => client,
                    None => Client::connect(&target, nth + request).await?,
                };
                connection.exchange(&target, drop).await?;
                client = (!churn).then_some(connection);
            }
            Ok(())
        });
    }
    join(&mut tasks).await?;
    Ok(begin.elapsed())
}

/// Sends `rate` requests per second for `duration`, without waiting for answers, over open
/// connections or with `churn` over new ones. Returns the times from when each request was due to
/// its first byte. If all connections are busy, a request waits, and the wait counts.
pub(crate) async fn open(
    target: &Target,
    rate: f64,
    duration: Duration,
    churn: bool,
    meter: LostTimeMeter,
) -> Result<Latency, Error> {
    let idle = Arc::new(Mutex::new(Vec::<Client>::new()));
    let is_free = Arc::new(Semaphore::new(CONNECTIONS));
    for nth in (0..CONNECTIONS).filter(|_| !churn) {
        let client = Client::connect(target, nth).await?;
        lock(&idle).push(client);
    }
    let total = (rate * duration.as_secs_f64()).ceil() as u32;
    let begin = Instant::now();
    let mut tasks = JoinSet::<Result<u64, Error>>::new();
    let mut times = Recorder::start(meter);
    for nth in 0..total {
        let due = begin + Duration::from_secs_f64(f64::from(nth) / rate);
        // A timer has a precision of a millisecond, which is too coarse for this measurement.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        let (target, idle, is_free) = (target.clone(), Arc::clone(&idle), Arc::clone(&is_free));
        tasks.spawn(async move {
            let _turn = is_free.acquire_owned().await?;
            let free = lock(&idle).pop();
            let mut client = match free {
                Some(client) => client,
                None => Client::connect(&target, nth as usize).await?,
            };
            let first = client.exchange(&target, drop).await?;
            if !churn {
                lock(&idle).push(client);
            }
            Ok(u64::try_from((first - due).as_nanos())?)
        });
        while let Some(done) = tasks.try_join_next() {
            times.push(Instant::now(), done??);
        }
    }
    // This core must not be idle here either.
    while !tasks.is_empty() {
        tokio::task::yield_now().await;
        while let Some(done) = tasks.try_join_next() {
            times.push(Instant::now(), done??);
        }
    }
    Ok(times.finish())
}

/// Streams that are all open at the same time.
pub(crate) struct Streams {
    tasks: JoinSet<Result<(), Error>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    lines: AtomicUsize,
    /// Set while delays are measured.
    delays: Mutex<Option<Recorder>>,
}

impl Streams {
    /// Opens `count` streams, evenly distributed over a time.
    pub(crate) fn open(target: &Target, epoch: Instant, count: usize, over: Duration) -> Self {
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        let begin = tokio::time::Instant::now();
        for nth in 0..count {
            let (target, seen) = (target.clone(), Arc::clone(&seen));
            let at = begin + over.mul_f64(nth as f64 / count as f64);
            tasks.spawn(async move {
                tokio::time::sleep_until(at).await;
                let on_line = |sent| {
                    seen.lines.fetch_add(1, Relaxed);
                    if let Some(delays) = &mut *lock(&seen.delays) {
                        delays.push(Instant::now(), stamp(epoch).saturating_sub(sent));
                    }
                };
                Client::connect(&target, nth)
                    .await?
                    .exchange(&target, on_line)
                    .await?;
                Ok(())
            });
        }
        Self { tasks, seen }
    }

    /// The number of lines so far.
    pub(crate) fn lines(&self) -> usize {
        self.seen.lines.load(Relaxed)
    }

    /// Measures the delay of each line for a time.
    pub(crate) async fn watch(&self, duration: Duration, meter: LostTimeMeter) -> Latency {
        *lock(&self.seen.delays) = Some(Recorder::start(meter));
        tokio::time::sleep(duration).await;
        let delays = lock(&self.seen.delays).take();
        delays.map(Recorder::finish).unwrap_or_default()
    }

    /// Waits until all streams have ended properly.
    pub(crate) async fn finish(mut self, limit: Duration) -> Result<(), Error> {
        tokio::time::timeout(limit, join(&mut self.tasks))
            .await
            .map_err(|_| "streams did not end in time")?
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn join(tasks: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_with_any_split() {
        let body = b"{\"a\":\" @000000000000123\"}\n{\"a\":\" @999999999999999\"}\n";
        for step in 1..body.len() {
            let (mut stamps, mut found) = (Stamps::default(), Vec::new());
            for part in body.chunks(step) {
                stamps.feed(part, |stamp| found.push(stamp));
            }
            assert_eq!(found, [123, 999_999_999_999_999]);
        }
    }
}
