#![allow(clippy::unwrap_used)]

mod keys;
mod problems;
mod screens;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::render::Screen;
use super::state::{Command, State};
use crate::status::{Decisions, Overview};

/// A gateway with everything that can be shown, at 12:00.
fn state() -> State {
    let overview: Overview = serde_json::from_str(include_str!("overview.json")).unwrap();
    let mut state = State::new("2026-01-01T12:00:00Z".parse().unwrap(), TimeZone::UTC);
    state.set(overview);
    state
}

fn decisions() -> Decisions {
    serde_json::from_str(include_str!("decisions.json")).unwrap()
}

fn press(state: &mut State, code: KeyCode) -> Option<Command> {
    state.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_text(state: &mut State, text: &str) {
    for character in text.chars() {
        press(state, KeyCode::Char(character));
    }
}

/// The screen as text, one line for each row.
fn screen_of(state: &State, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let mut screen = Screen::new(true);
    terminal.draw(|frame| screen.draw(frame, state)).unwrap();
    text_of(&terminal)
}

fn text_of(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let columns = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(columns).map(|cells| {
        let mut skipped = 0;
        let mut line = String::new();
        for cell in cells {
            // The cell right of a wide character belongs to that.
            if skipped > 0 {
                skipped -= 1;
                continue;
            }
            line.push_str(cell.symbol());
            skipped = super::text::width(cell.symbol()).saturating_sub(1);
        }
        assert!(super::text::width(&line) == columns, "{line:?}");
        line.truncate(line.trim_end().len());
        line + "\n"
    });
    rows.collect()
}

/// Compares a screen with the one in a file.
#[track_caller]
fn assert_screen(name: &str, screen: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/top/tests");
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os("LLAMATOWER_WRITE_SCREENS").is_some() {
        std::fs::write(&path, screen).unwrap();
    }
    let saved = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        saved == screen,
        "{} is not the screen; LLAMATOWER_WRITE_SCREENS=1 cargo test --lib top saves it:\n{screen}",
        path.display()
    );
}
