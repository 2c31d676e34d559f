//! Plots of the times to the first token.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::figures::Figures;
use super::{PATIENCE, SimulateError};

const SIZE: (u32, u32) = (760, 420);
/// Shorter times are drawn at the left edge.
const SHORTEST: f64 = 0.05;
/// So many points are drawn of each line.
const POINTS: usize = 400;
/// One for each policy, told apart by people who see few colours.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

/// The cumulative distributions of the time to the first token in one scenario.
#[derive(Debug)]
pub(super) struct Plot {
    name: &'static str,
    about: &'static str,
    lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// Creates the directory of the plots.
///
/// # Errors
/// It cannot be created.
pub(super) fn create_dir(dir: &Path) -> Result<(), SimulateError> {
    fs::create_dir_all(dir).map_err(|source| failed(dir, source))
}

fn failed(
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> SimulateError {
    SimulateError::Plot {
        path: path.to_owned(),
        source: source.into(),
    }
}

impl Plot {
    /// A plot without lines.
    pub(super) fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            lines: Vec::new(),
        }
    }

    /// Adds the line of a policy.
    pub(super) fn add(&mut self, policy: &'static str, figures: &Figures) {
        let points = (0..=POINTS).map(|nth| {
            let part = nth as f64 / POINTS as f64;
            (figures.percentile(part).max(SHORTEST), 100.0 * part)
        });
        self.lines.push((policy, points.collect()));
    }

    /// Writes the plot as an SVG file that has the name of the scenario.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, dir: &Path) -> Result<(), SimulateError> {
        let path = dir.join(format!("{}.svg", self.name));
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|error| failed(&path, error.to_string()))?;
        fs::write(&path, svg).map_err(|source| failed(&path, source))
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let title = format!("{}: {}", self.name, self.about);
        let area = area.titled(&title, ("sans-serif", 14))?;
        let times = (SHORTEST..PATIENCE).log_scale();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(times, 0.0..100.0)?;
        chart
            .configure_mesh()
            .x_desc("seconds to the first token")
            .y_desc("% of the requests")
            .light_line_style(WHITE)
            .draw()?;
        for ((policy, points), colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2));
            chart.draw_series(line)?.label(*policy).legend(key);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        drop(chart);
        drop(area);
        Ok(())
    }
}
