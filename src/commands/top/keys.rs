//! What each key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::panes::Pane;
use super::state::{Command, Mode, State};

/// The number of rows of a page.
const PAGE: isize = 10;

/// The keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 11] = [
    ("Tab, left, right, 1 to 5", "another table"),
    ("up, down, j, k, PgUp, PgDn", "another row"),
    ("Home, End, g, G", "the first row, the last row"),
    ("Enter", "details of the row"),
    ("/", "show only rows with a text; Esc ends it"),
    ("p", "pause, and go on"),
    ("c", "cordon or uncordon the server"),
    ("x", "cancel the waiting request"),
    ("Esc", "close this"),
    ("?", "help"),
    ("q, Ctrl-C", "quit"),
];

impl State {
    /// Takes a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Command> {
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if has_control && key.code == KeyCode::Char('c') {
            return Some(Command::Quit);
        }
        if has_control {
            return None;
        }
        self.note = None;
        match &self.mode {
            Mode::Tables => self.press_in_tables(key.code),
            Mode::Filter => {
                self.press_in_filter(key.code);
                None
            }
            Mode::Help { .. } | Mode::Details(_) => {
                self.press_in_window(key.code);
                None
            }
            Mode::Question(action) => match key.code {
                KeyCode::Char('y' | 'Y') => {
                    let action = action.clone();
                    self.mode = Mode::Tables;
                    Some(Command::Do(action))
                }
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
                    self.mode = Mode::Tables;
                    None
                }
                _ => None,
            },
        }
    }

    fn press_in_tables(&mut self, key: KeyCode) -> Option<Command> {
        match key {
            KeyCode::Char('q') => return Some(Command::Quit),
            KeyCode::Enter => return self.open(),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.move_focus(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => self.move_focus(-1),
            KeyCode::Char(digit @ '1'..='5') => {
                let index = usize::from(digit as u8 - b'1');
                self.focus = Pane::ALL[index];
            }
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::PageDown => self.select(PAGE),
            KeyCode::PageUp => self.select(-PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p') => self.pause(),
            KeyCode::Char('c') => self.ask_to_cordon(),
            KeyCode::Char('x') => self.ask_to_cancel(),
            KeyCode::Char('?') => self.mode = Mode::Help { scrolled: 0 },
            _ => {}
        }
        None
    }

    fn press_in_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::Tables,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Tables;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
    }

    fn press_in_window(&mut self, key: KeyCode) {
        if let KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?') = key {
            self.mode = Mode::Tables;
        }
        if let Some(lines) = self.scrolled() {
            *lines = match key {
                KeyCode::Down | KeyCode::Char('j') => lines.saturating_add(1),
                KeyCode::Up | KeyCode::Char('k') => lines.saturating_sub(1),
                KeyCode::Home | KeyCode::Char('g') => 0,
                _ => *lines,
            };
        }
    }
}
