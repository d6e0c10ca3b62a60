//! Pictures of results as SVG: light, with labelled axes and a legend, fit for a document.

mod bars;
mod lines;
mod percentiles;

use std::path::Path;

use plotters::coord::{CoordTranslate, Shift};
use plotters::prelude::*;
use serde_json::Value;

use crate::cli::{PictureArgs, PlotArgs, PlotCommand};
use crate::crew::Failure;

const WIDTH_PX: u32 = 900;
const HEIGHT_PX: u32 = 480;
const FONT: &str = "sans-serif";
const TITLE_PX: i32 = 22;
const MARGIN_PX: u32 = 14;
const LABEL_PX: i32 = 15;
const INK: RGBColor = RGBColor(51, 51, 51);
const GRID: RGBColor = RGBColor(222, 222, 222);
/// Colours that are distinguishable with colour blindness (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// `plot`.
pub fn plot(args: &PlotArgs) -> Result<(), Failure> {
    match &args.command {
        PlotCommand::Percentiles(args) => percentiles::draw(args),
        PlotCommand::Bars(args) => bars::draw(args),
        PlotCommand::Lines(args) => lines::by_key(args),
        PlotCommand::Series(args) => lines::over_time(args),
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a white sheet with a title; returns the area of the chart.
fn sheet(picture: &PictureArgs) -> Result<Area<'_>, Failure> {
    let size = (WIDTH_PX, HEIGHT_PX);
    let area = SVGBackend::new(&picture.out, size).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(picture, &error))?;
    if picture.title.is_empty() {
        return Ok(area);
    }
    let style = TextStyle::from((FONT, TITLE_PX)).color(&INK);
    let area = area.margin(MARGIN_PX, 0, 0, 0);
    area.titled(&picture.title, style).map_err(|error| failed(picture, &error))
}

fn label_style() -> TextStyle<'static> {
    TextStyle::from((FONT, LABEL_PX)).color(&INK)
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

fn failed(picture: &PictureArgs, error: &dyn std::error::Error) -> Failure {
    Failure::Failed(format!("cannot draw {}: {error}", picture.out.display()))
}

/// Draws the legend.
fn legend<'a, 'b: 'a, CT: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, CT>,
    position: SeriesLabelPosition,
    picture: &PictureArgs,
) -> Result<(), Failure> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(label_style())
        .draw()
        .map_err(|error| failed(picture, &error))
}

/// Splits `NAME=FILE`; a bare file is its own name.
fn named(text: &str) -> (String, &str) {
    match text.split_once('=') {
        Some((name, file)) => (name.to_owned(), file),
        None => {
            let stem = Path::new(text).file_stem().unwrap_or_default();
            (stem.to_string_lossy().into_owned(), text)
        }
    }
}

fn read(file: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("cannot read {file}: {error}")))
}

fn read_json(file: &str) -> Result<Value, Failure> {
    serde_json::from_str(&read(file)?)
        .map_err(|error| Failure::Usage(format!("{file} is not the JSON of a run: {error}")))
}

/// The number at `key` of a run's JSON.
fn number(json: &Value, key: &str, file: &str) -> Result<f64, Failure> {
    json[key].as_f64().ok_or_else(|| {
        let keys: Vec<&str> = json
            .as_object()
            .map(|all| all.keys().map(String::as_str).collect())
            .unwrap_or_default();
        Failure::Usage(format!("{file} has no number {key}, but {}", keys.join(", ")))
    })
}

/// Formats a number on an axis: short, without needless digits.
fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size >= 1e6 => trimmed(value / 1e6, "M"),
        _ if size >= 1e4 => trimmed(value / 1e3, "k"),
        _ if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        _ if size >= 1.0 => trimmed(value, ""),
        _ => {
            format!("{value:.2e}").parse::<f64>().map_or_else(|_| String::new(), |v| v.to_string())
        }
    }
}

fn trimmed(value: f64, unit: &str) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let shown = [0.0, 0.05, 1.5, 20.0, 250.0, 15_000.0, 1e6, 2_500_000.0].map(short);
        assert_eq!(shown, ["0", "0.05", "1.5", "20", "250", "15k", "1M", "2.5M"]);
    }

    #[test]
    fn names_come_before_files_or_from_them() {
        assert_eq!(named("a b=x/y.json"), ("a b".to_owned(), "x/y.json"));
        assert_eq!(named("x/y.json"), ("y".to_owned(), "x/y.json"));
    }
}
