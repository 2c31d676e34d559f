//! Tables: rows of cells, and the widths of their columns.

use super::text::{escaped, fit, width};

/// The space between two columns.
pub(super) const GAP: usize = 1;

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    /// What it shows, with the number of rows.
    pub(super) title: String,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    /// What stands there if it has no rows.
    pub(super) empty: &'static str,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Numbers are aligned to the right.
    pub(super) is_number: bool,
    /// Its values can be of any length, and are cut if there is not enough space.
    pub(super) is_flexible: bool,
    /// Its width if its values are shorter, so that it does not change with each of them.
    pub(super) least: usize,
    /// The width of the screen from which on it is shown.
    pub(super) from: usize,
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// What the row is about; it stays selected when other rows come and go.
    pub(super) key: String,
    /// One for each column.
    pub(super) cells: Vec<Cell>,
}

/// The lines of a cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell(Vec<(String, Tone)>);

/// How a text is emphasized. The words say the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warned,
    Bad,
    Hint,
}

impl Column {
    /// A column for names.
    pub(super) const fn name(title: &'static str) -> Self {
        Self {
            title,
            is_number: false,
            is_flexible: true,
            least: 0,
            from: 0,
        }
    }

    /// A column for a few known words.
    pub(super) const fn word(title: &'static str, least: usize) -> Self {
        Self {
            title,
            is_number: false,
            is_flexible: false,
            least,
            from: 0,
        }
    }

    /// A column for numbers.
    pub(super) const fn number(title: &'static str, least: usize) -> Self {
        Self {
            title,
            is_number: true,
            is_flexible: false,
            least,
            from: 0,
        }
    }

    /// Only shown on screens of this width and wider ones.
    pub(super) const fn from(self, from: usize) -> Self {
        Self { from, ..self }
    }
}

impl Cell {
    /// No line.
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    /// One line, whatever the text contains.
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self::default().and(text, Tone::Plain)
    }

    /// One line with an emphasis.
    pub(super) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self::default().and(text, tone)
    }

    /// With one more line. All texts come in here, and control characters in them are escaped.
    pub(super) fn and(mut self, text: impl AsRef<str>, tone: Tone) -> Self {
        self.0.push((escaped(text.as_ref()), tone));
        self
    }

    /// With one more plain line.
    pub(super) fn line(self, text: impl AsRef<str>) -> Self {
        self.and(text, Tone::Plain)
    }

    pub(super) fn lines(&self) -> &[(String, Tone)] {
        &self.0
    }

    fn width(&self) -> usize {
        let widths = self.0.iter().map(|(text, _)| width(text));
        widths.max().unwrap_or(0)
    }
}

impl Row {
    pub(super) fn new(key: impl ToString, cells: impl Into<Vec<Cell>>) -> Self {
        Self {
            key: key.to_string(),
            cells: cells.into(),
        }
    }

    /// The number of lines.
    pub(super) fn height(&self) -> usize {
        let heights = self.cells.iter().map(|cell| cell.lines().len());
        heights.max().unwrap_or(0).max(1)
    }

    /// Whether one of its texts contains this, in whatever case.
    fn contains(&self, lowercase: &str) -> bool {
        let mut lines = self.cells.iter().flat_map(Cell::lines);
        lines.any(|(text, _)| text.to_lowercase().contains(lowercase))
    }
}

impl Table {
    /// Keeps the rows that contain this text.
    pub(super) fn filter(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let (wanted, all) = (escaped(text).to_lowercase(), self.rows.len());
        self.rows.retain(|row| row.contains(&wanted));
        if all > 0 {
            self.empty = "No row has the text of the filter";
            self.title
                .push_str(&format!(", {} with the text", self.rows.len()));
        }
    }

    /// The columns on a screen of this width, with the width of each. `available` is the width for all
    /// of them with the gaps.
    pub(super) fn widths(&self, screen: usize, available: usize) -> Vec<(usize, usize)> {
        let columns = self.columns.iter().enumerate();
        let mut widths: Vec<_> = columns
            .filter(|(_, column)| column.from <= screen)
            .map(|(index, _)| (index, self.natural_width(index)))
            .collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        let is_flexible = |index: usize| self.columns[index].is_flexible;
        let fixed = widths.iter().filter(|(index, _)| !is_flexible(*index));
        let fixed: usize = fixed.map(|(_, width)| width).sum();
        let mut left = available.saturating_sub(fixed + gaps);
        // The narrow ones get what they need, and the wide ones the same part of what is left.
        let mut flexible: Vec<_> = widths.iter_mut().filter(|of| is_flexible(of.0)).collect();
        flexible.sort_by_key(|(_, width)| *width);
        let number = flexible.len();
        for (index, (_, width)) in flexible.into_iter().enumerate() {
            *width = (*width).min(left / (number - index));
            left -= *width;
        }
        widths
    }

    /// The table as text, with the names of the columns. `screen` and `available` are as for
    /// [`widths`](Self::widths).
    pub(super) fn lines(&self, screen: usize, available: usize) -> Vec<String> {
        if self.rows.is_empty() {
            return vec![self.empty.to_owned()];
        }
        let widths = self.widths(screen, available);
        let titles = widths.iter().map(|of| self.columns[of.0].title);
        let mut lines = vec![self.line(&widths, titles)];
        for row in &self.rows {
            for index in 0..row.height() {
                let texts = widths.iter().map(|of| {
                    let line = row.cells.get(of.0).and_then(|cell| cell.lines().get(index));
                    line.map_or("", |(text, _)| text)
                });
                lines.push(self.line(&widths, texts));
            }
        }
        lines
    }

    fn line<'a>(&self, widths: &[(usize, usize)], texts: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (&(index, columns), text) in widths.iter().zip(texts) {
            let text = fit(text, columns);
            let space = " ".repeat(columns.saturating_sub(width(&text)));
            line.push_str(&match self.columns[index].is_number {
                true => space + &text,
                false => text + &space,
            });
            line.push_str(&" ".repeat(GAP));
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn natural_width(&self, index: usize) -> usize {
        let column = &self.columns[index];
        let cells = self.rows.iter().filter_map(|row| row.cells.get(index));
        let widest = cells.map(Cell::width).max().unwrap_or(0);
        widest.max(column.least).max(width(column.title))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            title: "Servers (2)".to_owned(),
            columns: vec![
                Column::name("Server"),
                Column::number("N", 3),
                Column::name("Model").from(50),
            ],
            rows: vec![
                Row::new(
                    "a",
                    [Cell::new("gpu-1"), Cell::new("1"), Cell::new("A").line("b")],
                ),
                Row::new(
                    "b",
                    [
                        Cell::new("模型模型模型模型"),
                        Cell::new("2"),
                        Cell::new("c"),
                    ],
                ),
            ],
            empty: "none",
        }
    }

    #[test]
    fn wide_columns_share_what_the_others_leave() {
        assert_eq!(table().widths(80, 40), [(0, 16), (1, 3), (2, 5)]);
        assert_eq!(table().widths(80, 20), [(0, 10), (1, 3), (2, 5)]);
        assert_eq!(table().widths(80, 12), [(0, 4), (1, 3), (2, 3)]);
        assert_eq!(table().widths(40, 20), [(0, 16), (1, 3)]);
        assert_eq!(table().widths(40, 0), [(0, 0), (1, 3)]);
    }

    #[test]
    fn a_filter_finds_a_text_in_any_cell() {
        let mut filtered = table();
        filtered.filter("B");
        assert_eq!(filtered.rows.len(), 1);
        assert_eq!(filtered.rows[0].height(), 2);
        assert_eq!(filtered.title, "Servers (2), 1 with the text");
    }
}
