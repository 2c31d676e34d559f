//! Threads that share layers, with requests that end in every possible way at the same time.
//!
//! Shared state is one atomic or one short lock each, so there are no memory orderings to
//! enumerate. What can fail is an ending that releases something twice or never. Each test runs for
//! `STRESS_SECONDS` (default 3) on twice as many threads as processors.

use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{join_all, poll_fn};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::body::{MemoryBudget, ReplayBody};
use llamatower_layers::body_limit::BodyLimitLayer;
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::queue::QueueLayer;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{Backoff, RetryBudget, RetryLayer};
use llamatower_layers::usage::UsageLayer;
use llamatower_layers::{BoxError, Ending, EndpointTable, Observer, Outcome, OutcomeLayer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

/// Runs `work` on many threads until the time is up; each gets its number.
fn on_many_threads<F: Future<Output = ()>>(work: impl Fn(u64, Instant) -> F + Sync) {
    let seconds = std::env::var("STRESS_SECONDS").ok();
    let seconds = seconds.map_or(3, |text| text.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds);
    let threads = 2 * std::thread::available_parallelism().map_or(2, NonZeroUsize::get) as u64;
    std::thread::scope(|scope| {
        for number in 0..threads {
            let work = &work;
            scope.spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_time().build().expect("a runtime");
                runtime.block_on(work(number, until));
            });
        }
    });
}

/// A small generator (splitmix64): the same numbers for the same seed.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// Counts the requests of a backend, which must never exceed its slots.
#[derive(Clone, Default)]
struct Slots {
    in_use: Arc<AtomicUsize>,
}

const SLOTS: usize = 5;

struct Slot(Arc<AtomicUsize>);

impl Slots {
    fn take(&self) -> Slot {
        let others = self.in_use.fetch_add(1, SeqCst);
        assert!(others < SLOTS, "{others} others have slots");
        Slot(self.in_use.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A stream of lines that ends properly or breaks at random.
struct RandomBody {
    random: Random,
    slot: Option<Slot>,
}

impl Body for RandomBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = |text: &'static str| Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))));
        let throw = self.random.below(40);
        if throw > 35 {
            // The backend's work is done; nothing is held any longer.
            self.slot = None;
        }
        match throw {
            _ if self.slot.is_none() && throw <= 35 => Poll::Ready(None),
            0..20 => frame("{\"done\":false}\n"),
            20..36 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            36 => Poll::Ready(Some(Err("the backend died".into()))),
            37 => resume_unwind(Box::new("the backend's answer panicked")),
            38 => Poll::Ready(None),
            _ => frame("{\"done\":true,\"eval_count\":3}\n"),
        }
    }
}

async fn random_backend<B>(
    request: Request<B>,
    slots: Slots,
) -> Result<Response<RandomBody>, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let seed = request
        .headers()
        .get("x-seed")
        .expect("each request has a seed");
    let seed: u64 = seed.to_str()?.parse()?;
    let attempt = request.extensions().len() as u64;
    let mut random = Random(seed ^ attempt << 60);
    let slot = slots.take();
    if random.below(10) > 0 {
        let mut body = pin!(request.into_body());
        while let Some(frame) = body.frame().await {
            frame.map_err(Into::into)?;
        }
    }
    for _ in 0..random.below(4) {
        tokio::task::yield_now().await;
    }
    let status = match random.below(30) {
        0 => return Err("no answer".into()),
        1 => resume_unwind(Box::new("the backend panicked")),
        2..5 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/x-ndjson");
    let slot = Some(slot);
    Ok(answer.body(RandomBody { random, slot })?)
}

/// A client that may leave at any time.
async fn random_client<S, B, R>(service: S, mut random: Random, body: B)
where
    S: Service<Request<B>, Response = Response<R>, Error = std::convert::Infallible>,
    R: Body<Data = Bytes>,
{
    let seed = random.below(u64::MAX);
    let request = Request::post("/api/chat").header("x-seed", seed);
    let request = request.body(body).expect("a valid request");
    let Some(Ok(answer)) = with_random_timeout(&mut random, service.oneshot(request)).await else {
        return;
    };
    let mut body = pin!(answer.into_body());
    loop {
        match with_random_timeout(&mut random, poll_fn(|cx| body.as_mut().poll_frame(cx))).await {
            Some(Some(Ok(_))) if random.below(60) > 0 => {}
            _ => return,
        }
    }
}

/// The future's value, unless the client cancels, which is rare.
async fn with_random_timeout<F: Future>(random: &mut Random, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if random.below(40) == 0 => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

#[derive(Default)]
struct EndingCounts {
    started: AtomicUsize,
    complete: AtomicUsize,
    refused: AtomicUsize,
    cancelled: AtomicUsize,
    broken: AtomicUsize,
}

impl Observer for EndingCounts {
    fn started(&self, _: &Outcome) {
        self.started.fetch_add(1, SeqCst);
    }

    fn finished(&self, outcome: &Outcome) {
        let count = match outcome.ending {
            Ending::Open => panic!("a record ended as open"),
            Ending::Complete if outcome.error.is_none() => &self.complete,
            Ending::Complete => &self.refused,
            Ending::Cancelled => &self.cancelled,
            Ending::Broken => &self.broken,
        };
        count.fetch_add(1, SeqCst);
    }
}

#[test]
#[ignore = "keeps all processors busy for seconds; tests/full/stress runs it"]
fn everything_is_released_however_requests_end() {
    let ends = Arc::new(EndingCounts::default());
    let admission = AdmissionLayer::new(NonZeroUsize::new(40).expect("not zero"));
    let memory = MemoryBudget::new(64 << 10);
    let queue = QueueLayer::new(NonZeroUsize::new(SLOTS).expect("not zero"))
        .with_max_waiting(20)
        .with_max_predicted_wait(None);
    let adaptive = AdaptiveLayer::new(Duration::from_secs(1));
    let eager = BreakerPolicy::default().with_open_for(Duration::ZERO, Duration::ZERO);
    let breaker = Breaker::new(eager);
    let slots = Slots::default();
    let backend = slots.clone();
    let service = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(OutcomeLayer::new(ends.clone()))
        .layer(RescueLayer::new())
        .layer(PanicGuardLayer::new())
        .layer(admission.clone())
        .layer(BodyLimitLayer::new(memory.clone()))
        .layer(LlmRequestLayer::new())
        .layer(RetryLayer::new(RetryBudget::new(1.0, 100.0)).with_backoff(
            Backoff::new(Duration::ZERO, Duration::ZERO).with_retry_after_limit(Duration::ZERO),
        ))
        .layer(queue.clone())
        .layer(adaptive.clone())
        .layer(UsageLayer::new())
        .layer(BreakerLayer::new(breaker.clone()))
        .layer(StreamClocksLayer::new())
        .service(service_fn(move |request| {
            random_backend(request, backend.clone())
        }));

    on_many_threads(async |number, until| {
        let mut random = Random(number);
        while Instant::now() < until {
            let clients = (0..16).map(|_| {
                let mut random = Random(random.below(u64::MAX));
                let pieces = (0..random.below(5)).map(|_| Bytes::from("{\"a\":1} ".repeat(400)));
                let pieces = pieces.map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
                let head = Bytes::from(r#"{"model":"m","messages":[{"role":"user"}]}"#);
                let frames = [Ok(Frame::data(head))].into_iter().chain(pieces);
                let frames: Vec<_> = frames.collect();
                let body = StreamBody::new(futures_util::stream::iter(frames));
                random_client(service.clone(), random, body)
            });
            join_all(clients).await;
        }
    });

    let count = |count: &AtomicUsize| count.load(SeqCst);
    let sorts = [&ends.complete, &ends.refused, &ends.cancelled, &ends.broken];
    let [complete, refused, cancelled, broken] = sorts.map(count);
    println!("{complete} complete, {refused} refused, {cancelled} cancelled, {broken} broken");
    assert!(
        complete.min(cancelled).min(broken) > 100,
        "all kinds of endings"
    );
    assert_eq!(
        count(&ends.started),
        complete + refused + cancelled + broken
    );
    assert_eq!(admission.in_flight(), 0);
    assert_eq!(memory.available(), memory.capacity());
    assert_eq!(adaptive.in_flight(), 0);
    assert_eq!(
        (queue.queue().waiting(), queue.queue().dispatch().in_use()),
        (0, 0)
    );
    assert_eq!(count(&slots.in_use), 0);
    breaker.half_open();
    assert!(breaker.acquire().is_ok(), "no probe is still in progress");
}

#[test]
#[ignore = "keeps all processors busy for seconds; tests/full/stress runs it"]
fn threads_get_no_more_than_the_rate() {
    let quota = Quota::new(
        NonZeroU32::new(50_000).expect("not zero"),
        Duration::from_secs(1),
    )
    .and_then(|quota| quota.with_burst(NonZeroU32::new(1_000).expect("not zero")))
    .expect("a valid quota");
    for is_keyed in [false, true] {
        let given = AtomicUsize::new(0);
        let refused = AtomicUsize::new(0);
        let answer = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(())));
        let all = RateLimitLayer::global(quota).layer(answer);
        let each = RateLimitLayer::per_key(quota, |_: &_| Some("ada")).layer(answer);
        let begun = Instant::now();
        on_many_threads(async |_, until| {
            while Instant::now() < until {
                let answer = match is_keyed {
                    true => each.clone().oneshot(Request::new(())).await,
                    false => all.clone().oneshot(Request::new(())).await,
                };
                let count = if answer.is_ok() { &given } else { &refused };
                count.fetch_add(1, SeqCst);
            }
        });
        let most = 1_000.0 + 50_000.0 * begun.elapsed().as_secs_f64();
        let given = given.into_inner();
        println!("{given} of {most:.0}, keyed: {is_keyed}");
        assert!(
            given as f64 <= most,
            "{given} were admitted, at most {most} are allowed"
        );
        assert!(
            refused.into_inner() > 0,
            "the threads requested more than the quota"
        );
    }
}

#[test]
#[ignore = "keeps all processors busy for seconds; tests/full/stress runs it"]
fn retries_on_many_threads_stay_within_their_budget() {
    const RATIO: f64 = 0.1;
    const FLOOR: f64 = 50.0;
    let retries = Arc::new(AtomicUsize::new(0));
    let counted = retries.clone();
    let layer = RetryLayer::new(RetryBudget::new(RATIO, FLOOR))
        .with_replayable(|_, _| true)
        .with_backoff(Backoff::new(Duration::ZERO, Duration::ZERO))
        .with_observer(move |event| {
            counted.fetch_add(usize::from(event.is_retry()), SeqCst);
        });
    let sent = AtomicUsize::new(0);
    let asked = Arc::new(AtomicUsize::new(0));
    let backend = asked.clone();
    let service = layer.layer(service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
        backend.fetch_add(1, SeqCst);
        let busy = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        let busy = busy.body(Empty::<Bytes>::new());
        std::future::ready(busy.map_err(BoxError::from))
    }));
    let begun = Instant::now();
    on_many_threads(async |_, until| {
        while Instant::now() < until {
            sent.fetch_add(1, SeqCst);
            let request = Request::new(ReplayBody::from(Bytes::from("{}")));
            service.clone().oneshot(request).await.expect("an answer");
        }
    });
    let (sent, retries) = (sent.into_inner(), retries.load(SeqCst));
    // The budget at the start, and the budget that was added in the meantime.
    let most = sent as f64 * RATIO + FLOOR * (1.0 + begun.elapsed().as_secs_f64());
    println!("{retries} retries of {most:.0} for {sent} requests");
    assert!(retries as f64 <= most);
    assert!(retries as f64 > most * 0.9, "the budget was used");
    assert_eq!(asked.load(SeqCst), sent + retries);
}
