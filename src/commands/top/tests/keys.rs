//! What keys and documents change.

use ratatui::crossterm::event::KeyCode::{self, Backspace, Char, Down, End, Enter, Esc, Home, Up};

use super::*;
use crate::commands::top::actions::Action;
use crate::commands::top::panes::Pane;
use crate::commands::top::state::Mode;

fn selected(state: &State) -> String {
    state.selected_key().unwrap()
}

#[test]
fn keys_move_between_tables_and_rows() {
    let mut state = state();
    assert_eq!(selected(&state), "gpu-1:11434");
    for (key, row) in [
        (Down, "gpu-2:11434"),
        (Char('j'), "gpu-3:11434"),
        (Char('k'), "gpu-2:11434"),
        (End, "10.0.0.7:8000/vllm"),
        (Down, "10.0.0.7:8000/vllm"),
        (Home, "gpu-1:11434"),
        (Up, "gpu-1:11434"),
        (KeyCode::PageDown, "10.0.0.7:8000/vllm"),
    ] {
        press(&mut state, key);
        assert_eq!(selected(&state), row, "{key:?}");
    }
    for (key, pane) in [
        (KeyCode::Tab, Pane::Queue),
        (KeyCode::Right, Pane::Requests),
        (KeyCode::Left, Pane::Queue),
        (KeyCode::BackTab, Pane::Servers),
        (KeyCode::BackTab, Pane::Clients),
        (KeyCode::Tab, Pane::Servers),
        (Char('4'), Pane::Models),
    ] {
        press(&mut state, key);
        assert_eq!(state.focus, pane, "{key:?}");
    }
    press(&mut state, Char('1'));
    assert_eq!(
        selected(&state),
        "10.0.0.7:8000/vllm",
        "each table keeps its row"
    );
}

#[test]
fn the_selection_stays_at_its_row_and_then_at_its_place() {
    let mut state = state();
    press(&mut state, Char('2'));
    press(&mut state, Down);
    assert_eq!(selected(&state), "19");
    let row = |id: u64| format!(r#"{{"id": {id}}}"#);
    state.receive(
        "waiting",
        format!("[{},{},{}]", row(3), row(17), row(19)).as_bytes(),
    );
    assert_eq!(selected(&state), "19");
    state.receive("waiting", format!("[{},{}]", row(3), row(17)).as_bytes());
    assert_eq!(selected(&state), "17");
    state.receive("waiting", b"[]");
    assert_eq!(state.selected_key(), None);
    press(&mut state, Down);
    press(&mut state, Enter);
    press(&mut state, Char('x'));
    assert_eq!(state.mode, Mode::Tables);
}

#[test]
fn the_first_row_stays_selected_when_others_come_above_it() {
    let mut state = state();
    press(&mut state, Char('3'));
    let first = selected(&state);
    let mut overview = state.shown().clone();
    let mut row = overview.activity.requests[0].clone();
    row.request_id = Some("later".to_owned());
    overview.activity.requests.insert(0, row);
    state.set(overview);
    assert_ne!(selected(&state), first);
}

#[test]
fn a_server_is_cordoned_and_uncordoned_after_a_question() {
    let mut state = state();
    assert_eq!(press(&mut state, Char('c')), None);
    assert!(screen_of(&state, 80, 24).contains("Cordon gpu-1:11434?"));
    // Neither the Enter key nor any other is a yes.
    for key in [Enter, Down, Char('c')] {
        assert_eq!(press(&mut state, key), None);
        assert!(matches!(state.mode, Mode::Question(_)));
    }
    press(&mut state, Char('n'));
    assert_eq!(state.mode, Mode::Tables);
    for (index, is_cordoned) in [(0, true), (1, false)] {
        press(&mut state, Char('c'));
        let server = format!("gpu-{}:11434", index + 1);
        let action = Action::Cordon {
            server,
            is_cordoned,
        };
        assert_eq!(press(&mut state, Char('y')), Some(Command::Do(action)));
        press(&mut state, Down);
    }
}

#[test]
fn a_waiting_request_is_cancelled_after_a_question() {
    let mut state = state();
    press(&mut state, Char('x'));
    let note = &state.note.as_ref().unwrap().text;
    assert_eq!(note, "select a waiting request of the queue to cancel it");
    press(&mut state, Char('2'));
    assert_eq!(state.note, None, "a key ends a note");
    press(&mut state, Char('x'));
    let screen = screen_of(&state, 80, 24);
    assert!(screen.contains("The request of key:ada for llama3.3:70b ends with an error (503)."));
    let command = press(&mut state, Char('y'));
    assert!(matches!(
        command,
        Some(Command::Do(Action::Cancel { id: 17, .. }))
    ));
    state.tell(Ok("the request was cancelled".to_owned()));
    assert!(screen_of(&state, 80, 24).contains("the request was cancelled"));
}

#[test]
fn a_filter_leaves_the_rows_with_its_text() {
    let mut state = state();
    type_text(&mut state, "/GPU-2q");
    press(&mut state, Backspace);
    press(&mut state, Enter);
    let rows = Pane::ALL.map(|pane| state.table(pane).rows.len());
    assert_eq!(rows, [1, 0, 1, 3, 0]);
    assert!(screen_of(&state, 80, 24).contains("filter: GPU-2  (Esc ends it)"));
    press(&mut state, Esc);
    assert_eq!(state.table(Pane::Servers).rows.len(), 4);
    type_text(&mut state, "/nothing");
    let screen = screen_of(&state, 80, 24);
    assert!(screen.contains("filter: nothing_"), "{screen}");
    assert!(
        screen.contains("No row has the text of the filter"),
        "{screen}"
    );
}

#[test]
fn while_it_is_paused_nothing_changes() {
    let mut state = state();
    press(&mut state, Char('p'));
    state.receive("waiting", b"[]");
    assert_eq!(state.table(Pane::Queue).rows.len(), 2);
    assert!(screen_of(&state, 80, 24).contains("paused"));
    press(&mut state, Char('p'));
    assert_eq!(state.table(Pane::Queue).rows.len(), 0);
}

#[test]
fn keys_that_quit_do_so() {
    for keys in ["q", "?\u{3}", "/q\u{3}", "c\u{3}", "\n\u{3}", "?qq"] {
        let mut state = state();
        let commands = keys.chars().map(|key| match key {
            '\u{3}' => state.press(KeyEvent::new(Char('c'), KeyModifiers::CONTROL)),
            '\n' => press(&mut state, Enter),
            key => press(&mut state, Char(key)),
        });
        assert_eq!(commands.last().unwrap(), Some(Command::Quit), "{keys:?}");
    }
    assert_eq!(press(&mut state(), Char('z')), None);
}

#[test]
fn a_part_that_cannot_be_read_is_told_and_the_others_are_read() {
    let mut state = state();
    state.receive("waiting", b"{}");
    let note = &state.note.as_ref().unwrap().text;
    assert!(
        note.starts_with("waiting of the gateway cannot be read"),
        "{note}"
    );
    assert_eq!(state.table(Pane::Queue).rows.len(), 2);
    state.receive("of_a_later_version", b"[1]");
    state.receive(
        "clients",
        br#"[{"client": "key:bob", "of_a_later_version": true}]"#,
    );
    assert_eq!(state.table(Pane::Clients).rows.len(), 1);
}

#[test]
fn without_a_connection_the_data_is_marked_as_old() {
    let mut state = state();
    state.now = "2026-01-01T12:00:09.5Z".parse().unwrap();
    state.lose("connection refused".to_owned());
    let screen = screen_of(&state, 80, 24);
    assert!(screen.contains("old data"), "{screen}");
    let told = "No connection to the gateway, the data is 9.0 s old: connection refused";
    assert!(screen.contains(told), "{screen}");
    state.receive("waiting", b"[]");
    let screen = screen_of(&state, 80, 24);
    assert!(
        screen.contains("live") && !screen.contains("old"),
        "{screen}"
    );
}

#[test]
fn details_are_kept_when_their_row_has_gone() {
    let mut state = state();
    press(&mut state, Char('2'));
    press(&mut state, Enter);
    state.receive(
        "waiting",
        br#"[{"id": 17, "priority": "high", "client": "key:ada"}]"#,
    );
    assert!(screen_of(&state, 80, 24).contains("high"));
    state.receive("waiting", b"[]");
    assert!(screen_of(&state, 80, 24).contains("key:ada"));
    press(&mut state, Esc);
    assert_eq!(state.mode, Mode::Tables);
}
