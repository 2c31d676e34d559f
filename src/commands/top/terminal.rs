//! The terminal: keys in, the screen out, and its state from before when the program ends.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

use super::actions::Action;
use super::connection::{self, Told};
use super::render::Screen;
use super::state::{Command, State};
use crate::commands::manage::{GatewayClient, ManageError};

/// How often the screen is drawn if nothing comes, because times go on.
const TICK: Duration = Duration::from_secs(1);
/// The number of messages between two drawings.
const BATCH: usize = 64;

/// What the program waits for.
#[derive(Debug)]
enum Message {
    Told(Told),
    Terminal(io::Result<Event>),
}

impl From<Told> for Message {
    fn from(told: Told) -> Self {
        Self::Told(told)
    }
}

/// Whether there is a terminal that can show the screen.
pub(super) fn is_there() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// Whether the user has nothing against colours: <https://no-color.org>.
fn wants_colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows the gateway until the user quits, or the program gets SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// The gateway does not answer at the start, or the terminal cannot be used.
pub(super) async fn run(gateway: GatewayClient) -> Result<(), ManageError> {
    let gateway = Arc::new(gateway);
    // Before the screen is taken, so that an error stays on the terminal.
    let events = connection::open(&gateway).await?;
    let mut signals = Signals::new().map_err(ManageError::Terminal)?;
    let terminal = Restored::new().map_err(ManageError::Terminal)?;
    let (sender, messages) = mpsc::channel(BATCH);
    let following = connection::follow(gateway.clone(), events, sender.clone());
    let following = tokio::spawn(following);
    read_keys(sender.clone()).map_err(ManageError::Terminal)?;
    let program = Program {
        state: State::new(Timestamp::now(), TimeZone::system()),
        screen: Screen::new(wants_colors()),
        terminal,
        gateway,
        sender,
        actions: TaskTracker::new(),
    };
    tokio::select! {
        result = program.run(messages) => result,
        () = signals.any() => Ok(()),
        // It goes on as long as the program, if it does not panic.
        ended = following => Err(ManageError::Failed {
            action: "follow the gateway".to_owned(),
            reason: ended.err().map(|error| error.to_string()).unwrap_or_default(),
        }),
    }
}

/// The terminal; dropping it makes the terminal as it was before. After a panic, the hook of
/// [`ratatui::try_init`] does.
struct Restored(DefaultTerminal);

impl Restored {
    fn new() -> io::Result<Self> {
        let terminal = ratatui::try_init();
        if terminal.is_err() {
            let _ = ratatui::try_restore();
        }
        terminal.map(Self)
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = ratatui::try_restore();
    }
}

struct Program {
    state: State,
    screen: Screen,
    terminal: Restored,
    gateway: Arc<GatewayClient>,
    sender: mpsc::Sender<Message>,
    /// What operators have said yes to; it is done also if they quit at once.
    actions: TaskTracker,
}

impl Program {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) -> Result<(), ManageError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                _ = messages.recv_many(&mut batch, BATCH) => tick.reset(),
                _ = tick.tick() => {}
            }
            self.state.now = Timestamp::now();
            for message in batch.drain(..) {
                let command = match message {
                    Message::Told(told) => {
                        self.told(told);
                        None
                    }
                    Message::Terminal(event) => self.key(&event.map_err(ManageError::Terminal)?),
                };
                match command {
                    Some(Command::Quit) => {
                        drop((self.terminal, messages));
                        self.actions.close();
                        self.actions.wait().await;
                        return Ok(());
                    }
                    Some(Command::AskForDecisions) => self.ask_for_decisions(),
                    Some(Command::Do(action)) => self.begin(action),
                    None => {}
                }
            }
            let (screen, state) = (&mut self.screen, &self.state);
            let drawn = self.terminal.0.draw(|frame| screen.draw(frame, state));
            drawn.map_err(ManageError::Terminal)?;
            self.state.scroll_at_most(self.screen.hidden);
        }
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Part { name, data } => self.state.receive(&name, &data),
            Told::Lost(reason) => self.state.lose(reason),
            Told::Decisions(decisions) => self.state.receive_decisions(decisions),
            Told::Done(result) => self.state.tell(result),
        }
    }

    fn key(&mut self, event: &Event) -> Option<Command> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.state.press(*key),
            _ => None,
        }
    }

    /// Asks for the choices of servers. Nobody waits for the answer when the program ends.
    fn ask_for_decisions(&self) {
        let (gateway, sender) = (self.gateway.clone(), self.sender.clone());
        tokio::spawn(async move {
            if let Some(told) = connection::decisions(&gateway).await {
                let _ = sender.send(told.into()).await;
            }
        });
    }

    /// Begins what an operator has said yes to.
    fn begin(&self, action: Action) {
        let (gateway, sender) = (self.gateway.clone(), self.sender.clone());
        self.actions.spawn(async move {
            let told = connection::act(&gateway, action).await;
            let _ = sender.send(told.into()).await;
        });
    }
}

/// Reads keys in a thread of their own, which ends with the process.
fn read_keys(sender: mpsc::Sender<Message>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("keys".to_owned());
    thread.spawn(move || {
        loop {
            let event = event::read();
            let is_last = event.is_err();
            if sender.blocking_send(Message::Terminal(event)).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(())
}

/// The signals that end the program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
