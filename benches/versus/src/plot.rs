//! Bar plots in SVG.

use std::fmt::Write as _;

use crate::report::{Report, Spread};

/// A plot with a group of bars for each shape and a bar for each proxy.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// The names in the legend.
    pub(crate) bars: Vec<&'a str>,
    /// The name of each group, and a value for each bar.
    pub(crate) groups: Vec<(&'a str, Vec<Option<Spread>>)>,
    /// The value at which to draw a line.
    pub(crate) line: Option<f64>,
    pub(crate) digits: usize,
}

const COLOURS: [&str; 8] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f", "#bab0ac",
];
const BAR: f64 = 14.0;
const LEFT: f64 = 250.0;
const WIDTH: f64 = 420.0;

impl Plot<'_> {
    /// The SVG image. The bars are horizontal, for readable names.
    pub(crate) fn svg(&self) -> String {
        let values = self
            .groups
            .iter()
            .flat_map(|(_, values)| values.iter().flatten());
        let most = values
            .map(|spread| spread.median)
            .fold(self.line.unwrap_or(0.0), f64::max);
        let scale = if most > 0.0 { WIDTH / most } else { 0.0 };
        let mut marks = String::new();
        let mut y = 44.0 + 18.0 * self.bars.len() as f64;
        let top = y;
        for (name, values) in &self.groups {
            let middle = y + BAR * values.len() as f64 / 2.0 + 4.0;
            let x = LEFT - 10.0;
            write!(
                marks,
                r#"<text x="{x}" y="{middle}" text-anchor="end">{name}</text>"#
            )
            .ok();
            for (nth, value) in values.iter().enumerate() {
                if let Some(spread) = value {
                    let colour = COLOURS[nth % COLOURS.len()];
                    let (width, end) = self.bar(spread, scale);
                    let (thick, base) = (BAR - 3.0, y + BAR - 5.0);
                    let digits = self.digits;
                    write!(
                        marks,
                        r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{thick}" fill="{colour}"/><text x="{end:.1}" y="{base}" font-size="10">{:.digits$}</text>"#,
                        spread.median
                    )
                    .ok();
                }
                y += BAR;
            }
            y += 12.0;
        }
        if let Some(line) = self.line {
            let x = LEFT + line * scale;
            write!(
                marks,
                r##"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{y}" stroke="#555" stroke-dasharray="3 3"/>"##
            )
            .ok();
        }
        let width = LEFT + WIDTH + 70.0;
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="12" fill="#222"><rect width="{width}" height="{y}" fill="#fff"/><text x="10" y="22" font-size="15">{}</text>{}{marks}</svg>
"##,
            self.title,
            self.legend()
        )
    }

    /// The width of a bar, and the position of its number.
    fn bar(&self, spread: &Spread, scale: f64) -> (f64, f64) {
        let width = (spread.median * scale).max(0.0);
        (width, LEFT + width + 4.0)
    }

    fn legend(&self) -> String {
        let mut text = String::new();
        for (nth, name) in self.bars.iter().enumerate() {
            let y = 36.0 + 18.0 * nth as f64;
            let colour = COLOURS[nth % COLOURS.len()];
            write!(
                text,
                r#"<rect x="10" y="{y}" width="12" height="12" fill="{colour}"/><text x="28" y="{}">{name}</text>"#,
                y + 10.0
            )
            .ok();
        }
        text
    }
}

/// The plots of a report: title, file name and image.
pub(crate) fn plots(report: &Report) -> Vec<(String, String, String)> {
    // The other bars would not be visible beside values a hundred times as large.
    let of_one_kind = |name: &str| {
        report
            .contenders
            .iter()
            .any(|one| one.name == name && one.slower() == 1)
    };
    let mut bars = report.proxies();
    bars.retain(|name| of_one_kind(name));
    let shapes = report.shapes();
    let groups = |cell: &dyn Fn(&'static str, &str) -> Option<Spread>| {
        let group = |name| bars.iter().map(|bar| cell(name, bar)).collect::<Vec<_>>();
        let all = shapes.iter().map(|shape| (shape.title, group(shape.name)));
        all.filter(|(_, values)| values.iter().any(Option::is_some))
            .collect::<Vec<_>>()
    };
    let plot = |title: &str, file: &str, groups: Vec<_>, line, digits| {
        let plot = Plot {
            title,
            bars: bars.clone(),
            groups,
            line,
            digits,
        };
        (!plot.groups.is_empty()).then(|| (title.to_owned(), file.to_owned(), plot.svg()))
    };
    let cpu = groups(&|shape, name| report.ratio(shape, name, |s| s.cpu));
    let first =
        groups(&|shape, name| report.first_byte_added(shape, name, |latency| latency.median));
    let chunk = groups(&|shape, name| report.delay_added(shape, name, |latency| latency.median));
    [
        plot(
            "CPU time, as a multiple of nginx's",
            "versus-cpu.svg",
            cpu,
            Some(1.0),
            2,
        ),
        plot(
            "Time added to the first byte (median, µs)",
            "versus-first-byte.svg",
            first,
            None,
            0,
        ),
        plot(
            "Time added to a chunk (median, µs)",
            "versus-chunk.svg",
            chunk,
            None,
            0,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let spread = |median| {
            Some(Spread {
                median,
                least: median,
                most: median,
            })
        };
        let plot = Plot {
            title: "t",
            bars: vec!["a", "b"],
            groups: vec![("g", vec![spread(1.0), spread(2.0)])],
            line: Some(1.0),
            digits: 1,
        };
        let svg = plot.svg();
        assert!(
            svg.contains(r#"width="420.0""#) && svg.contains(r#"width="210.0""#),
            "{svg}"
        );
    }
}
