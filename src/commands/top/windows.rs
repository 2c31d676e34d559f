//! The windows above the tables: the help, the details of a row, and questions.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::actions::Action;
use super::keys::HELP;
use super::panes::or_unknown;
use super::render::{Screen, length};
use super::requests::candidates;
use super::state::{Mode, Opened, State};
use super::table::Tone;
use super::text::{escaped, width};

/// The widest window, in columns.
const WIDEST: u16 = 100;

/// Draws the window of the state, if there is one, above the tables. Returns the number of its lines
/// that do not fit.
pub(super) fn draw(frame: &mut Frame<'_>, tables: Rect, state: &State, screen: &Screen) -> u16 {
    let columns = usize::from(tables.width.min(WIDEST)).saturating_sub(4);
    let (title, lines, scrolled) = match &state.mode {
        Mode::Tables | Mode::Filter => return 0,
        Mode::Help { scrolled } => ("Keys (Esc closes this)", help(), *scrolled),
        Mode::Details(opened) => (
            opened.details.title,
            details(opened, columns, screen),
            opened.scrolled,
        ),
        Mode::Question(action) => ("Question", question(action, columns), 0),
    };
    let height = length(lines.len() + 2).min(tables.height);
    let (width, below) = (length(columns + 4), tables.height - height);
    let area = Rect {
        x: tables.x + (tables.width - width) / 2,
        y: tables.y + below / 2,
        width,
        height,
    };
    let hidden = length(lines.len()).saturating_sub(height - 2);
    let block = Block::bordered()
        .title(Line::styled(format!(" {title} "), Modifier::BOLD))
        .padding(ratatui::widgets::Padding::horizontal(1));
    let block = match hidden {
        0 => block,
        _ => block.title_bottom(" up and down show the rest "),
    };
    let window = Paragraph::new(lines).scroll((scrolled.min(hidden), 0));
    frame.render_widget(Clear, area);
    frame.render_widget(window.block(block), area);
    hidden
}

fn help() -> Vec<Line<'static>> {
    let keys = HELP.iter().map(|(key, _)| width(key)).max().unwrap_or(0);
    let lines = HELP.iter().map(|(key, effect)| {
        let key = format!("{key:keys$}  ");
        Line::from(vec![Span::styled(key, Modifier::BOLD), Span::raw(*effect)])
    });
    lines.collect()
}

fn question(action: &Action, columns: usize) -> Vec<Line<'static>> {
    let (question, effect) = match action {
        Action::Cordon {
            server,
            is_cordoned: true,
        } => (
            format!("Cordon {}?", escaped(server)),
            "It gets no new requests. Requests in progress go on, and those that wait use other \
             servers."
                .to_owned(),
        ),
        Action::Cordon { server, .. } => (
            format!("Uncordon {}?", escaped(server)),
            "It gets requests again.".to_owned(),
        ),
        Action::Cancel { client, model, .. } => {
            let (client, model) = (escaped(or_unknown(client)), escaped(or_unknown(model)));
            (
                "Cancel this request?".to_owned(),
                format!("The request of {client} for {model} ends with an error (503)."),
            )
        }
    };
    let mut lines: Vec<_> = wrapped(&question, columns)
        .map(|line| Line::styled(line, Modifier::BOLD))
        .collect();
    lines.extend(wrapped(&effect, columns).map(Line::raw));
    lines.extend([Line::raw(""), Line::raw("y: yes   n: no")]);
    lines
}

fn details(opened: &Opened, columns: usize, screen: &Screen) -> Vec<Line<'static>> {
    let facts = &opened.details.facts;
    let names = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (name, value) in facts {
        let mut name = *name;
        for (text, tone) in value.lines() {
            for line in wrapped(text, columns.saturating_sub(names + 2)) {
                lines.push(Line::from(vec![
                    Span::styled(format!("{name:names$}  "), screen.style(Tone::Hint)),
                    Span::styled(line, screen.style(*tone)),
                ]));
                name = "";
            }
        }
    }
    if let Some(decision) = &opened.decision {
        let table = candidates(decision);
        lines.push(Line::raw(""));
        lines.push(Line::styled(table.title.clone(), Modifier::BOLD));
        lines.extend(table.lines(columns, columns).into_iter().map(Line::raw));
    }
    lines
}

/// The text in lines of at most so many columns, broken between words where there are some.
fn wrapped(text: &str, columns: usize) -> impl Iterator<Item = String> {
    let columns = columns.max(2);
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let last = lines.last().map_or(0, |line| width(line));
        if last > 0 && last + width(word.trim_end()) > columns {
            lines.push(String::new());
        }
        for character in word.chars() {
            let mut buffer = [0; 4];
            let symbol = &*character.encode_utf8(&mut buffer);
            let is_full = lines
                .last()
                .is_some_and(|line| width(line) + width(symbol) > columns);
            // A space at the end of a line is not needed.
            if is_full && character == ' ' {
                continue;
            }
            if is_full {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(character);
            }
        }
    }
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_between_words_or_inside_of_long_ones() {
        let lines = |text, columns| wrapped(text, columns).collect::<Vec<_>>();
        assert_eq!(lines("ab cd ef", 5), ["ab cd", "ef"]);
        assert_eq!(lines("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(lines("模型模", 4), ["模型", "模"]);
        assert_eq!(lines("", 4), [""]);
    }
}
