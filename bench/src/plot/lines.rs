//! One value by another: throughput or memory by connections, or a run's samples over its time.

use plotters::prelude::*;
use serde_json::Value;

use super::{
    FONT, GRID, INK, LABEL_PX, MARGIN_PX, colour, failed, label_style, legend, named, number,
    read_json, sheet, short,
};
use crate::cli::{LinesArgs, PictureArgs, SeriesArgs};
use crate::crew::Failure;

/// Points up to which each is marked.
const MARKED_MAX: usize = 40;

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// A line for each group of files, a point for each file.
pub(super) fn by_key(args: &LinesArgs) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for text in &args.files {
        let (name, files) = named(text);
        let mut points = Vec::new();
        for file in files.split(',') {
            let json = read_json(file)?;
            let y = number(&json, &args.y, file)? / args.picture.divisor;
            points.push((number(&json, &args.x, file)?, y));
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        lines.push(Line { name, points });
    }
    let y_label = args.picture.y_label.as_deref().unwrap_or(&args.y);
    draw(&args.picture, &lines, &args.x_label, y_label)
}

/// A line for each file, from its samples.
pub(super) fn over_time(args: &SeriesArgs) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for text in &args.files {
        let (name, file) = named(text);
        let json = read_json(file)?;
        let point = |pair: &Value| {
            let (ms, value) = (pair[0].as_f64()?, pair[1].as_f64()?);
            Some((ms / 1e3, value / args.picture.divisor))
        };
        let samples = json[&args.key].as_array();
        let points: Vec<(f64, f64)> = samples.into_iter().flatten().filter_map(point).collect();
        if points.is_empty() {
            return Err(Failure::Usage(format!("{file} has no samples at {}", args.key)));
        }
        lines.push(Line { name, points });
    }
    let y_label = args.picture.y_label.as_deref().unwrap_or(&args.key);
    draw(&args.picture, &lines, "time (s)", y_label)
}

fn draw(
    picture: &PictureArgs,
    lines: &[Line],
    x_label: &str,
    y_label: &str,
) -> Result<(), Failure> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let right = all().map(|(x, _)| *x).fold(f64::MIN_POSITIVE, f64::max) * 1.02;
    let high = all().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max) * 1.15;
    let area = sheet(picture)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(MARGIN_PX)
        .x_label_area_size(50)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..right, 0.0..high)
        .map_err(|error| failed(picture, &error))?;
    chart
        .configure_mesh()
        .x_desc(x_label)
        .y_desc(y_label)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .label_style(label_style())
        .axis_desc_style((FONT, LABEL_PX, &INK))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .draw()
        .map_err(|error| failed(picture, &error))?;
    for (index, Line { name, points }) in lines.iter().enumerate() {
        let style = colour(index).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(|error| failed(picture, &error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        if points.len() <= MARKED_MAX {
            let dots = points.iter().map(|point| Circle::new(*point, 4, colour(index).filled()));
            chart.draw_series(dots).map_err(|error| failed(picture, &error))?;
        }
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft, picture)?;
    area.present().map_err(|error| failed(picture, &error))
}
