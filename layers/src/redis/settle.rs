//! Sends settlements in the background.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::Cmd;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::ask::open_of;
use super::{Redis, RedisScript};

static SETTLE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("settle.lua")));

/// The settlements that can wait. One takes about 200 bytes.
const QUEUE: usize = 4096;
/// The settlements of one call, if so many have waited for the answer to the one before.
const BATCH: usize = 256;
/// A call waits for so many settlements. Redis takes about 10 µs for each, and answers no request meanwhile.
const ENOUGH: usize = 16;
/// It does not wait longer than this: meanwhile the reservations count.
const LINGER: Duration = Duration::from_millis(10);
/// After so many refusals a batch is dropped, so that it does not hold up the others.
const ATTEMPTS: u32 = 100;
/// The wait after Redis has refused a batch, as it does without memory.
const PAUSE: Duration = Duration::from_millis(200);

/// The used tokens of a reservation.
#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) account: String,
    pub(super) reservation: String,
    pub(super) used: u64,
}

/// The queue of settlements. Its task ends when the last clone is dropped and the queue is empty.
#[derive(Clone)]
pub(super) struct Settlements {
    queue: mpsc::Sender<Settlement>,
    dropped: Arc<AtomicU64>,
    /// Those that are in the queue or under way.
    waiting: Arc<watch::Sender<usize>>,
}

impl Settlements {
    pub(super) fn start(redis: Redis) -> Self {
        let (queue, settlements) = mpsc::channel(QUEUE);
        let waiting = Arc::new(watch::Sender::new(0));
        let dropped = Arc::<AtomicU64>::default();
        let (told, lost) = (waiting.clone(), dropped.clone());
        tokio::spawn(send_all(redis, settlements, told, lost));
        Self {
            queue,
            dropped,
            waiting,
        }
    }

    pub(super) fn send(&self, settlement: Settlement) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        if self.queue.try_send(settlement).is_err() {
            self.waiting.send_modify(|waiting| *waiting -= 1);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) async fn settled(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|waiting| *waiting == 0).await;
    }
}

async fn send_all(
    redis: Redis,
    mut queue: mpsc::Receiver<Settlement>,
    waiting: Arc<watch::Sender<usize>>,
    dropped: Arc<AtomicU64>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, 1).await > 0 {
        let enough = async {
            while batch.len() < ENOUGH {
                let room = BATCH - batch.len();
                if queue.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        };
        let _ = timeout(LINGER, enough).await;
        let mut attempts = 0;
        loop {
            redis.connected().await;
            if send(&redis, &batch, attempts == 0).await {
                break;
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                break;
            }
            sleep(PAUSE).await;
        }
        let sent = batch.len();
        batch.clear();
        waiting.send_modify(|waiting| *waiting -= sent);
    }
}

/// Sends a batch in one call. Returns whether all of it has arrived.
pub(super) async fn send(redis: &Redis, batch: &[Settlement], is_first: bool) -> bool {
    let command = |is_first: bool| {
        let mut call = Cmd::with_capacity(4 + 4 * batch.len(), 64 + 256 * batch.len());
        call.arg("EVALSHA").arg(SETTLE.hash()).arg(2 * batch.len());
        for settlement in batch {
            let account = &settlement.account;
            call.arg(account).arg(open_of(account));
        }
        call.arg(u8::from(is_first));
        for settlement in batch {
            call.arg(&settlement.reservation).arg(settlement.used);
        }
        call
    };
    let sent = redis
        .call("settle", async |mut connection| {
            SETTLE.call::<()>(&command(is_first), &mut connection).await
        })
        .await;
    sent.is_ok()
}
