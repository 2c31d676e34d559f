//! Sends settlements in the background, and asks for the counts of clients.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::redis::{Cmd, RedisWrite};
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::ask::{Account, Seen, Words};
use super::{Redis, RedisScript};
use crate::token_limit::Window;

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
/// The wait before the counts of all known clients are asked for again.
const RENEWAL: Duration = Duration::from_secs(2);
/// The wait after each call of it, if there are more clients than one call has.
const BETWEEN_CALLS: Duration = Duration::from_millis(500);

/// The used tokens of a reservation.
pub(super) struct Settlement {
    pub(super) account: Arc<Account>,
    pub(super) reservation: String,
    pub(super) used: u64,
}

/// The queue of settlements. Its task ends when the last clone is dropped and the queue is empty.
#[derive(Clone)]
pub(super) struct Settlements {
    queue: mpsc::Sender<Settlement>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    dropped: AtomicU64,
    /// Those that are in the queue or under way.
    waiting: AtomicUsize,
    /// Told when [`ENOUGH`] are waiting: a wake for each would cost more than the settlement.
    enough: Notify,
    /// Told when none is waiting.
    none: Notify,
    /// The accounts whose counts are renewed.
    accounts: Mutex<Vec<Weak<Account>>>,
}

impl Settlements {
    pub(super) fn start(redis: Redis) -> Self {
        let (queue, settlements) = mpsc::channel(QUEUE);
        let state = Arc::<State>::default();
        tokio::spawn(renew_all(redis.clone(), Arc::downgrade(&state)));
        tokio::spawn(send_all(redis, settlements, state.clone()));
        Self { queue, state }
    }

    pub(super) fn send(&self, settlement: Settlement) {
        let before = self.state.waiting.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(settlement).is_err() {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
            self.state.done(1);
        } else if before + 1 == ENOUGH {
            self.state.enough.notify_one();
        }
    }

    /// From now on the counts of this account are renewed in the background, as long as it is in use.
    pub(super) fn renew(&self, account: &Arc<Account>) {
        self.state.accounts().push(Arc::downgrade(account));
    }

    pub(super) fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    pub(super) async fn settled(&self) {
        loop {
            let none = self.state.none.notified();
            if self.state.waiting.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl State {
    fn done(&self, settlements: usize) {
        if self.waiting.fetch_sub(settlements, Ordering::AcqRel) == settlements {
            self.none.notify_waiters();
        }
    }

    fn accounts(&self) -> MutexGuard<'_, Vec<Weak<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The accounts that are in use.
    fn known_accounts(&self) -> Vec<Arc<Account>> {
        let mut known = Vec::new();
        self.accounts().retain(|account| {
            let account = account.upgrade();
            known.extend(account.clone());
            account.is_some()
        });
        known
    }
}

/// Asks for the counts of all known clients from time to time, because other processes change them. Ends when
/// the last clone of [`Settlements`] is dropped.
async fn renew_all(redis: Redis, state: Weak<State>) {
    loop {
        sleep(RENEWAL).await;
        let Some(accounts) = state.upgrade().map(|state| state.known_accounts()) else {
            return;
        };
        for accounts in accounts.chunks(BATCH) {
            let asking: Vec<_> = accounts.iter().filter_map(Settlement::of_nothing).collect();
            if !asking.is_empty() && redis.is_connected() {
                send(&redis, &asking, true).await;
                sleep(BETWEEN_CALLS).await;
            }
        }
    }
}

impl Settlement {
    /// Changes nothing: it asks for the counts of the windows that are known of the account.
    fn of_nothing(account: &Arc<Account>) -> Option<Self> {
        use std::fmt::Write;
        let mut reservation = String::new();
        for window in Window::ALL {
            let start = account.seen()[window as usize].start;
            if start != Timestamp::default() {
                // A text accepts every write.
                let _ = write!(reservation, ";{}:{}:0", window.name(), start.as_second());
            }
        }
        (!reservation.is_empty()).then(|| Self {
            account: account.clone(),
            reservation,
            used: 0,
        })
    }
}

/// Records the counts that the script returns. `None` if the text is malformed.
fn note(accounts: &[&Arc<Account>], text: &str) -> Option<()> {
    let mut words = text.split_ascii_whitespace();
    while let Some(number) = words.next() {
        let account = accounts.get(number.parse::<usize>().ok()?)?;
        let name = words.next()?;
        let start = Timestamp::from_second(words.next()?.parse().ok()?).ok()?;
        let used = words.next()?.parse().ok()?;
        let window = Window::ALL
            .into_iter()
            .find(|window| window.name() == name)?;
        let mut seen = account.seen();
        let seen = &mut seen[window as usize];
        if start >= seen.start {
            *seen = Seen { start, used };
        }
    }
    Some(())
}

async fn send_all(redis: Redis, mut queue: mpsc::Receiver<Settlement>, state: Arc<State>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, 1).await > 0 {
        // A notification may be older than the batch before.
        let enough = async {
            while state.waiting.load(Ordering::Acquire) < ENOUGH {
                state.enough.notified().await;
            }
        };
        let _ = timeout(LINGER, enough).await;
        while batch.len() < BATCH
            && let Ok(settlement) = queue.try_recv()
        {
            batch.push(settlement);
        }
        let mut attempts = 0;
        loop {
            redis.connected().await;
            if send(&redis, &batch, attempts == 0).await {
                break;
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                let dropped = batch.len() as u64;
                state.dropped.fetch_add(dropped, Ordering::Relaxed);
                break;
            }
            sleep(PAUSE).await;
        }
        state.done(batch.len());
        batch.clear();
    }
}

/// Sends a batch in one call, and records the counts that it leads to. Returns whether all of it has arrived.
pub(super) async fn send(redis: &Redis, batch: &[Settlement], is_first: bool) -> bool {
    let (accounts, numbers) = accounts(batch);
    let sent = redis
        .call("settle", async |mut connection| {
            let command = command(batch, &accounts, &numbers, is_first);
            SETTLE.call::<String>(&command, &mut connection).await
        })
        .await;
    if let Ok(text) = &sent {
        note(&accounts, text);
    }
    sent.is_ok()
}

/// The accounts of a batch, each once, and for each settlement the number of its account: a busy client
/// has several requests in a batch.
fn accounts(batch: &[Settlement]) -> (Vec<&Arc<Account>>, Vec<usize>) {
    let mut accounts: Vec<&Arc<Account>> = Vec::with_capacity(batch.len());
    let numbers = batch.iter().map(|Settlement { account, .. }| {
        let known = accounts
            .iter()
            .position(|known| Arc::ptr_eq(known, account));
        known.unwrap_or_else(|| {
            accounts.push(account);
            accounts.len() - 1
        })
    });
    let numbers = numbers.collect();
    (accounts, numbers)
}

/// The call of the script `settle.lua`.
fn command(
    batch: &[Settlement],
    accounts: &[&Arc<Account>],
    numbers: &[usize],
    is_first: bool,
) -> Cmd {
    let size = 64 + 128 * accounts.len() + 128 * batch.len();
    let mut call = Cmd::with_capacity(4 + 2 * accounts.len(), size);
    call.arg("EVALSHA")
        .arg(SETTLE.hash())
        .arg(2 * accounts.len());
    for account in accounts {
        call.arg(&account.key).arg(&account.open);
    }
    let mut words = Words(call.writer_for_next_arg());
    words.number(u8::from(is_first));
    for (settlement, account) in batch.iter().zip(numbers) {
        words.number(*account);
        words.word(&settlement.reservation);
        words.number(settlement.used);
    }
    drop(words);
    call
}
