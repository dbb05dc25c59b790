//! Pictures.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Colours that the colour-blind can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line, with a band where there are bounds.
    Line,
    /// The same, dashed.
    Dashed,
    /// Points, with bars where there are bounds.
    Points,
}

/// Points (x, y) with half the width of y's interval.
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Line or points.
    pub style: Style,
    /// Series of one colour belong together.
    pub colour: usize,
    /// x, y, half width (0 for none).
    pub points: Vec<(f64, f64, f64)>,
}

impl Series {
    /// A series without intervals.
    pub fn plain(name: &str, style: Style, colour: usize, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().map(|(x, y)| (x, y, 0.0)).collect();
        Self { name: name.into(), style, colour, points }
    }
}

/// One system of axes.
pub struct Chart<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// At its left.
    pub y: &'a str,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// Draws charts side by side.
///
/// # Errors
/// If the file cannot be written.
pub fn draw(file: &Path, charts: &[Chart]) -> Result<()> {
    let wrong = |e: &dyn std::fmt::Display| anyhow!("{}: {e}", file.display());
    let root = SVGBackend::new(file, (520 * charts.len() as u32, 380)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| wrong(&e))?;
    for (area, chart) in root.split_evenly((1, charts.len())).iter().zip(charts) {
        one(area, chart).map_err(|e| wrong(&e))?;
    }
    root.present().map_err(|e| wrong(&e))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn one(area: &Area, chart: &Chart) -> Result<()> {
    let all = || chart.series.iter().flat_map(|s| &s.points);
    // Lines may end at the frame, points may not.
    let has_points = chart.series.iter().any(|s| s.style == Style::Points);
    let x = range(all().map(|p| p.0), if has_points { 0.04 } else { 0.0 });
    let mut y = range(all().flat_map(|p| [p.1 - p.2, p.1 + p.2]), 0.06);
    let named = chart.series.iter().filter(|s| !s.name.is_empty()).count();
    // Room for the legend above everything.
    y.end += (y.end - y.start) * 0.09 * named as f64;
    let mut axes = ChartBuilder::on(area)
        .caption(chart.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(54)
        .build_cartesian_2d(x, y)
        .map_err(|e| anyhow!("{e}"))?;
    axes.configure_mesh().x_desc(chart.x).y_desc(chart.y).light_line_style(WHITE).draw().map_err(|e| anyhow!("{e}"))?;
    for series in &chart.series {
        let colour = COLOURS[series.colour % COLOURS.len()];
        let line = || series.points.iter().map(|p| (p.0, p.1));
        let legend_style = colour.stroke_width(2);
        let style = series.style;
        if series.points.iter().any(|p| p.2 > 0.0) {
            if style == Style::Points {
                let bars = series
                    .points
                    .iter()
                    .map(|(x, y, h)| ErrorBar::new_vertical(*x, y - h, *y, y + h, colour.filled(), 7));
                axes.draw_series(bars).map_err(|e| anyhow!("{e}"))?;
            } else {
                let upper = series.points.iter().map(|(x, y, h)| (*x, y + h));
                let lower = series.points.iter().rev().map(|(x, y, h)| (*x, y - h));
                let band: Vec<(f64, f64)> = upper.chain(lower).collect();
                axes.draw_series(std::iter::once(Polygon::new(band, colour.mix(0.15)))).map_err(|e| anyhow!("{e}"))?;
            }
        }
        let drawn = match style {
            Style::Line => axes.draw_series(LineSeries::new(line(), legend_style)),
            Style::Dashed => axes.draw_series(DashedLineSeries::new(line(), 5, 4, legend_style)),
            Style::Points => axes.draw_series(line().map(|p| Circle::new(p, 3, colour.filled()))),
        };
        let drawn = drawn.map_err(|e| anyhow!("{e}"))?;
        if !series.name.is_empty() {
            drawn.label(&series.name).legend(move |(x, y)| match style {
                Style::Line => PathElement::new(vec![(x, y), (x + 18, y)], legend_style).into_dyn(),
                Style::Dashed => {
                    plotters::element::DashedPathElement::new(vec![(x, y), (x + 18, y)], 5, 4, legend_style).into_dyn()
                }
                Style::Points => Circle::new((x + 9, y), 3, colour.filled()).into_dyn(),
            });
        }
    }
    if named > 0 {
        axes.configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .draw()
            .map_err(|e| anyhow!("{e}"))?;
    }
    Ok(())
}

/// From the least to the greatest finite value, and `margin` of the width more at either side.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let values = values.filter(|v| v.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match high - low {
        width if width > 0.0 => low - margin * width..high + margin * width,
        0.0 => low - 0.5..high + 0.5,
        _ => 0.0..1.0,
    }
}
