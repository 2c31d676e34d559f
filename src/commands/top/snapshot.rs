//! The state as plain text.

use super::panes::Pane;
use super::state::State;
use super::{head, problems};

/// The state as plain text, with all columns in full.
pub(super) fn text(state: &State) -> String {
    let (gateway, (condition, _)) = head::gateway(state);
    let mut lines = vec![format!("{gateway}: {condition}"), head::now(state.shown())];
    lines.extend(head::replicas(state.shown()));
    lines.extend(problems::all(state));
    for pane in Pane::ALL {
        let table = state.table(pane);
        lines.push(String::new());
        lines.push(table.title.clone());
        let indented = table.lines(usize::MAX, usize::MAX);
        lines.extend(indented.iter().map(|line| format!("  {line}")));
    }
    lines.push(String::new());
    lines.join("\n")
}
