//! Draws the state.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{self, HighlightSpacing, Paragraph, TableState};

use super::panes::Pane;
use super::state::{Mode, State};
use super::table::{Column, GAP, Row, Table, Tone};
use super::text::{escaped, fit, width};
use super::{head, layout, problems, windows};

/// The mark of the selected row.
const MARK: &str = "> ";

/// How the state is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    /// Whether there are colours.
    pub(super) is_colored: bool,
    /// The number of rows above the first one that is shown, of each table.
    offsets: [usize; Pane::ALL.len()],
    /// The number of lines of the window that do not fit.
    pub(super) hidden: u16,
}

impl Screen {
    pub(super) fn new(is_colored: bool) -> Self {
        Self {
            is_colored,
            ..Self::default()
        }
    }

    /// Draws the state.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, state: &State) {
        let area = frame.area();
        if area.width < layout::LEAST.0 || area.height < layout::LEAST.1 {
            return too_small(frame);
        }
        let replicas = head::replicas(state.shown());
        let facts = 2 + usize::from(replicas.is_some());
        let rows = usize::from(area.height).saturating_sub(facts + 1);
        let most = rows.saturating_sub(layout::LEAST_OF_TABLES);
        let problems = problems::fit_lines(problems::all(state), most);
        let heads = length(facts + problems.len());
        let [above, tables, below] = Layout::vertical([
            Constraint::Length(heads),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(area);
        self.draw_head(frame, above, state, replicas, problems);
        self.draw_tables(frame, tables, state);
        self.draw_foot(frame, below, state);
        self.hidden = windows::draw(frame, tables, state, self);
    }

    pub(super) fn style(&self, tone: Tone) -> Style {
        let style = match tone {
            Tone::Plain | Tone::Good | Tone::Warned => Style::new(),
            Tone::Bad => Style::new().add_modifier(Modifier::BOLD),
            Tone::Hint => Style::new().add_modifier(Modifier::DIM),
        };
        let color = match tone {
            _ if !self.is_colored => return style,
            Tone::Plain | Tone::Hint => return style,
            Tone::Good => Color::Green,
            Tone::Warned => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        style.fg(color)
    }

    fn draw_head(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        state: &State,
        replicas: Option<String>,
        problems: Vec<String>,
    ) {
        let (gateway, (condition, tone)) = head::gateway(state);
        let columns = usize::from(area.width);
        let space = columns.saturating_sub(width(&condition) + 1);
        let gateway = fit(&gateway, space);
        let padding = " ".repeat(columns.saturating_sub(width(&gateway) + width(&condition)));
        let mut lines = vec![
            Line::from(vec![
                Span::styled(gateway, Modifier::BOLD),
                Span::raw(padding),
                Span::styled(condition, self.style(tone)),
            ]),
            Line::raw(fit(&head::now(state.shown()), columns)),
        ];
        lines.extend(replicas.map(|text| Line::raw(fit(&text, columns))));
        lines.extend(problems.into_iter().map(|text| {
            let style = self.style(Tone::Bad).add_modifier(Modifier::REVERSED);
            Line::styled(fit(&text, columns), style)
        }));
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn draw_tables(&mut self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let tables = Pane::ALL.map(|pane| state.table(pane));
        let wanted = tables.each_ref().map(|table| match table.rows.len() {
            0 => 1,
            _ => 1 + table.rows.iter().map(Row::height).sum::<usize>(),
        });
        let focus = state.focus as usize;
        let heights = layout::heights(usize::from(area.height), wanted, focus);
        let mut left = area;
        for ((pane, table), height) in Pane::ALL.into_iter().zip(tables).zip(heights) {
            let height = u16::try_from(height).unwrap_or(u16::MAX);
            let rest = [
                Constraint::Length(1),
                Constraint::Length(height),
                Constraint::Min(0),
            ];
            let [title, body, next] = Layout::vertical(rest).areas(left);
            left = next;
            let is_focused = pane == state.focus;
            frame.render_widget(title_line(&table, is_focused, title.width), title);
            let selected = state.selected(pane, &table);
            self.draw_table(frame, body, pane, &table, selected.filter(|_| is_focused));
        }
    }

    fn draw_table(
        &mut self,
        frame: &mut Frame<'_>,
        area: Rect,
        pane: Pane,
        table: &Table,
        selected: Option<usize>,
    ) {
        if table.rows.is_empty() {
            let line = Line::styled(format!("  {}", table.empty), self.style(Tone::Hint));
            return frame.render_widget(line, area);
        }
        let available = usize::from(area.width).saturating_sub(MARK.len());
        let widths = table.widths(usize::from(area.width), available);
        // The widget leaves out a selected row that is higher than its area.
        let most = area.height.saturating_sub(1).max(1);
        let rows = table.rows.iter().map(|row| {
            let height = length(row.height()).min(most);
            self.row(table, row, &widths).height(height)
        });
        let titles = widths.iter().map(|&(index, columns)| {
            let column = &table.columns[index];
            Text::raw(fit(column.title, columns)).alignment(alignment(column))
        });
        let titles = widgets::Row::new(titles).style(self.style(Tone::Hint));
        let constraints = widths.iter().map(|of| Constraint::Length(length(of.1)));
        let widget = widgets::Table::new(rows, constraints)
            .header(titles)
            .column_spacing(length(GAP))
            .highlight_symbol(MARK)
            .highlight_spacing(HighlightSpacing::Always)
            .row_highlight_style(Modifier::REVERSED);
        let offset = &mut self.offsets[pane as usize];
        *offset = (*offset).min(table.rows.len().saturating_sub(1));
        let mut place = TableState::new()
            .with_offset(*offset)
            .with_selected(selected);
        frame.render_stateful_widget(widget, area, &mut place);
        *offset = place.offset();
    }

    fn row(&self, table: &Table, row: &Row, widths: &[(usize, usize)]) -> widgets::Row<'static> {
        let cells = widths.iter().map(|&(index, columns)| {
            let lines = row
                .cells
                .get(index)
                .into_iter()
                .flat_map(|cell| cell.lines());
            let lines: Vec<_> = lines
                .map(|(text, tone)| Line::styled(fit(text, columns), self.style(*tone)))
                .collect();
            Text::from(lines).alignment(alignment(&table.columns[index]))
        });
        widgets::Row::new(cells.collect::<Vec<_>>()).height(length(row.height()))
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let action = match state.focus {
            Pane::Servers => "c cordon  ",
            Pane::Queue => "x cancel  ",
            _ => "",
        };
        let keys =
            format!("Tab table  ↑↓ row  Enter details  {action}/ filter  p pause  ? help  q quit");
        let columns = usize::from(area.width);
        let filter = escaped(&state.filter);
        let line = match (&state.note, &state.mode) {
            (Some(note), _) => {
                let tone = if note.is_error { Tone::Bad } else { Tone::Good };
                Line::styled(fit(&escaped(&note.text), columns), self.style(tone))
            }
            (None, Mode::Filter) => Line::raw(fit(&format!("filter: {filter}_"), columns)),
            (None, _) if !filter.is_empty() => {
                Line::raw(fit(&format!("filter: {filter}  (Esc ends it)"), columns))
            }
            (None, _) => Line::styled(fit(&keys, columns), self.style(Tone::Hint)),
        };
        frame.render_widget(line, area);
    }
}

/// The title of a table, in a line across the screen.
fn title_line(table: &Table, is_focused: bool, columns: u16) -> Line<'static> {
    let (line, style) = match is_focused {
        true => ("═", Modifier::BOLD),
        false => ("─", Modifier::empty()),
    };
    let columns = usize::from(columns);
    let title = fit(&format!("{line} {} ", table.title), columns);
    let rest = line.repeat(columns.saturating_sub(width(&title)));
    Line::styled(title + &rest, style)
}

fn alignment(column: &Column) -> Alignment {
    match column.is_number {
        true => Alignment::Right,
        false => Alignment::Left,
    }
}

/// A number of columns or lines.
pub(super) fn length(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn too_small(frame: &mut Frame<'_>) {
    let (area, (columns, rows)) = (frame.area(), layout::LEAST);
    let (width, height) = (area.width, area.height);
    let lines = [
        format!("This terminal has {width} columns and {height} rows."),
        format!("llamatower top needs {columns} and {rows}."),
        "q quits.".to_owned(),
    ];
    let text = Text::from_iter(lines);
    frame.render_widget(
        Paragraph::new(text).wrap(widgets::Wrap { trim: true }),
        area,
    );
}
