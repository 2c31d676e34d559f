//! What is drawn.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::Color;

use super::*;
use crate::commands::top::snapshot;

#[test]
fn the_tables_share_a_small_screen() {
    assert_screen("80x24", &screen_of(&state(), 80, 24));
}

#[test]
fn a_larger_screen_has_more_rows_and_columns() {
    let mut state = state();
    press(&mut state, KeyCode::Char('3'));
    press(&mut state, KeyCode::Char('j'));
    assert_screen("120x40", &screen_of(&state, 120, 40));
}

#[test]
fn a_wide_screen_shows_everything() {
    let screen = screen_of(&state(), 200, 60);
    assert_screen("200x60", &screen);
    for text in [
        "3.2 s",
        "wait 800 ms + work 2.4 s - cached prompt 500 ms",
        "cloud: missing",
    ] {
        assert!(screen.contains(text), "{text}");
    }
}

#[test]
fn the_details_of_a_request_have_the_servers_it_could_go_to() {
    let mut state = state();
    press(&mut state, KeyCode::Char('3'));
    let command = press(&mut state, KeyCode::Enter);
    assert_eq!(command, Some(Command::AskForDecisions));
    state.receive_decisions(decisions());
    assert_screen("request-100x30", &screen_of(&state, 100, 30));
}

#[test]
fn the_details_of_a_server_have_all_that_is_known_of_it() {
    let mut state = state();
    press(&mut state, KeyCode::Enter);
    assert_screen("server-100x30", &screen_of(&state, 100, 30));
}

#[test]
fn details_that_do_not_fit_are_scrolled() {
    let mut state = state();
    press(&mut state, KeyCode::Enter);
    let mut terminal = Terminal::new(TestBackend::new(60, 16)).unwrap();
    let mut screen = Screen::new(true);
    let mut drawn_after = |key: KeyCode, times: usize| {
        for _ in 0..times {
            press(&mut state, key);
            terminal.draw(|frame| screen.draw(frame, &state)).unwrap();
            state.scroll_at_most(screen.hidden);
        }
        text_of(&terminal)
    };
    assert!(!drawn_after(KeyCode::Home, 1).contains("Avoided for"));
    assert!(drawn_after(KeyCode::Down, 100).contains("Avoided for"));
    assert!(!drawn_after(KeyCode::Up, 5).contains("Avoided for"));
    assert!(drawn_after(KeyCode::Up, 30).contains("│ Server "));
}

#[test]
fn the_help_names_the_keys() {
    let mut state = state();
    press(&mut state, KeyCode::Char('?'));
    assert_screen("help-80x24", &screen_of(&state, 80, 24));
}

#[test]
fn a_snapshot_is_plain_text() {
    assert_screen("snapshot", &snapshot::text(&state()));
}

#[test]
fn names_cannot_control_the_terminal() {
    let mut state = state();
    for pane in ['1', '2', '3', '4', '5'] {
        press(&mut state, KeyCode::Char(pane));
        for _ in 0..5 {
            press(&mut state, KeyCode::Enter);
            let screen = screen_of(&state, 200, 60);
            let is_unsafe = |of: char| (of.is_control() && of != '\n') || of == '\u{202e}';
            assert!(!screen.contains(is_unsafe));
            assert!(screen.contains("tiny\\u001b[31m\\u202egpj"));
            press(&mut state, KeyCode::Esc);
            press(&mut state, KeyCode::Down);
        }
    }
    assert!(!snapshot::text(&state).contains('\u{1b}'));
}

#[test]
fn a_screen_that_is_too_small_says_so() {
    let small = screen_of(&state(), 59, 16);
    assert!(small.contains("59 columns and 16 rows"), "{small}");
    assert!(small.contains("needs 60 and 16"), "{small}");
    assert!(screen_of(&state(), 60, 16).contains("Servers"));
    // Nothing to see, and no panic.
    for (columns, rows) in [(0, 0), (1, 1), (5, 2), (60, 1), (1, 60)] {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        let state = state();
        terminal
            .draw(|frame| Screen::new(true).draw(frame, &state))
            .unwrap();
    }
}

#[test]
fn every_size_is_drawn_in_every_mode() {
    for keys in ["", "3", "5G", "?", "c", "2x", "/q", "3\n", "\n"] {
        let mut state = state();
        for key in keys.chars() {
            press(
                &mut state,
                match key {
                    '\n' => KeyCode::Enter,
                    key => KeyCode::Char(key),
                },
            );
        }
        for columns in [60, 75, 131] {
            for rows in [16, 25, 60] {
                screen_of(&state, columns, rows);
            }
        }
    }
}

#[test]
fn without_colours_words_and_marks_say_the_same() {
    let mut state = state();
    state.lose("connection refused".to_owned());
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    let mut plain = Screen::new(false);
    terminal.draw(|frame| plain.draw(frame, &state)).unwrap();
    let without = text_of(&terminal);
    let mut cells = terminal.backend().buffer().content.iter();
    assert!(cells.all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert_eq!(without, screen_of(&state, 120, 40));
    for words in [
        "down",
        "cordoned",
        "breaker half-open",
        "old data",
        "> gpu-1:11434",
        "rests",
    ] {
        assert!(without.contains(words), "{words}:\n{without}");
    }
}

#[test]
fn the_selected_row_is_always_on_the_screen() {
    let mut state = state();
    let mut overview = state.shown().clone();
    let rows = (0..40).map(|index| {
        let mut row = overview.activity.requests[0].clone();
        row.request_id = Some(format!("request-{index}"));
        row.model = Some(format!("model-{index}"));
        row
    });
    overview.activity.requests = rows.collect();
    state.set(overview);
    press(&mut state, KeyCode::Char('3'));
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let mut screen = Screen::new(true);
    let mut assert_selected = |state: &State, index: usize| {
        terminal.draw(|frame| screen.draw(frame, state)).unwrap();
        let drawn = text_of(&terminal);
        let line = drawn.lines().find(|line| line.starts_with("> "));
        assert!(
            line.unwrap().contains(&format!("model-{index} ")),
            "{drawn}"
        );
    };
    for index in 0..40 {
        assert_selected(&state, index);
        press(&mut state, KeyCode::Down);
    }
    for index in (0..40).rev() {
        assert_selected(&state, index);
        press(&mut state, KeyCode::Up);
    }
}

#[test]
fn a_selected_row_that_is_higher_than_its_table_is_on_the_screen() {
    for servers in [3, 1] {
        let mut state = state();
        let mut overview = state.shown().clone();
        let server = &mut overview.status.backends[0];
        let model = server.models[0].clone();
        server.models = vec![model; 20];
        overview.status.backends.truncate(servers);
        state.set(overview);
        let drawn = screen_of(&state, 80, 24);
        assert!(
            drawn.lines().any(|line| line.starts_with("> gpu-1")),
            "{drawn}"
        );
    }
}

#[test]
fn the_help_can_be_scrolled_to_its_end_on_a_low_screen() {
    let mut state = state();
    state.lose("connection refused".to_owned());
    press(&mut state, KeyCode::Char('?'));
    let mut terminal = Terminal::new(TestBackend::new(80, 16)).unwrap();
    let mut screen = Screen::new(true);
    terminal.draw(|frame| screen.draw(frame, &state)).unwrap();
    assert!(!text_of(&terminal).contains("Ctrl-C"));
    for _ in 0..20 {
        press(&mut state, KeyCode::Down);
    }
    terminal.draw(|frame| screen.draw(frame, &state)).unwrap();
    let drawn = text_of(&terminal);
    assert!(drawn.contains("Ctrl-C"), "{drawn}");
}

#[test]
fn a_line_says_why_usage_is_not_kept_while_it_is_not() {
    let mut state = state();
    let line = "Usage, token budgets and cordons are not kept over a restart: no space left";
    let kept = br#"{"is_kept": true, "file": "/state.redb", "problem": null, "written_at": null}"#;
    let problem =
        br#"{"is_kept": false, "file": "/state.redb", "problem": "no space left", "written_at": null}"#;
    for (part, is_told) in [(&kept[..], false), (&problem[..], true), (&kept[..], false)] {
        state.receive("state", part);
        let drawn = screen_of(&state, 100, 30);
        assert_eq!(drawn.contains(line), is_told, "{drawn}");
        assert_eq!(
            crate::commands::top::snapshot::text(&state).contains(line),
            is_told
        );
    }
}
