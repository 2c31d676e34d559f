//! What an operator can do, each after a question.

use super::panes::Pane;
use super::state::{Mode, State};

/// What an operator can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Take a server out of the choice, or back into it.
    Cordon { server: String, is_cordoned: bool },
    /// End the wait of a request.
    Cancel {
        id: u64,
        client: Option<String>,
        model: Option<String>,
    },
}

impl State {
    /// Asks whether to cordon or uncordon the selected server.
    pub(super) fn ask_to_cordon(&mut self) {
        if self.focus != Pane::Servers {
            return self.tell(Err("select a server to cordon or uncordon it".to_owned()));
        }
        let Some(server) = self.selected_key() else {
            return;
        };
        let mut servers = self.latest().status.backends.iter();
        if let Some(row) = servers.find(|row| row.name == server) {
            let is_cordoned = !row.is_cordoned;
            self.mode = Mode::Question(Action::Cordon {
                server,
                is_cordoned,
            });
        }
    }

    /// Asks whether to cancel the selected request.
    pub(super) fn ask_to_cancel(&mut self) {
        if self.focus != Pane::Queue {
            let hint = "select a waiting request of the queue to cancel it";
            return self.tell(Err(hint.to_owned()));
        }
        let Some(key) = self.selected_key() else {
            return;
        };
        let mut waiting = self.shown().waiting.iter();
        if let Some(row) = waiting.find(|row| row.id.to_string() == key) {
            self.mode = Mode::Question(Action::Cancel {
                id: row.id,
                client: row.client.clone(),
                model: row.model.clone(),
            });
        }
    }
}
