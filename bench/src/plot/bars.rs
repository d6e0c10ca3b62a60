//! A bar for each file and key.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{
    FONT, GRID, INK, LABEL_PX, MARGIN_PX, colour, failed, label_style, legend, named, number,
    read_json, sheet, short,
};
use crate::cli::BarsArgs;
use crate::crew::Failure;

/// Space between the bars of neighbouring files, in pixels.
const GAP_PX: u32 = 18;
const LEFT_PX: u32 = 76;

pub(super) fn draw(args: &BarsArgs) -> Result<(), Failure> {
    let picture = &args.picture;
    let keys: Vec<(String, &str)> = args.keys.iter().map(|text| named(text)).collect();
    let mut names = Vec::new();
    // For each key, the value of each file.
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); keys.len()];
    for text in &args.files {
        let (name, file) = named(text);
        let json = read_json(file)?;
        for ((_, key), values) in keys.iter().zip(&mut values) {
            values.push(number(&json, key, file)? / picture.divisor);
        }
        names.push(name);
    }
    let high = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max) * 1.15;
    let area = sheet(picture)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(MARGIN_PX)
        .x_label_area_size(40)
        .y_label_area_size(LEFT_PX)
        .build_cartesian_2d((0..names.len() - 1).into_segmented(), 0.0..high)
        .map_err(|error| failed(picture, &error))?;
    let default = args.keys.join(", ");
    let one = keys.len() as u32;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .y_desc(picture.y_label.as_deref().unwrap_or(&default))
        .x_label_formatter(&|at| match at {
            SegmentValue::CenterOf(at) => names.get(*at).cloned().unwrap_or_default(),
            _ => String::new(),
        })
        .y_label_formatter(&|y| short(*y))
        .label_style(label_style())
        .axis_desc_style((FONT, LABEL_PX, &INK))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .draw()
        .map_err(|error| failed(picture, &error))?;
    let (width, _) = chart.plotting_area().dim_in_pixel();
    let step = (width / names.len() as u32).saturating_sub(GAP_PX) / one;
    for (index, ((label, _), values)) in keys.iter().zip(&values).enumerate() {
        let fill = colour(index).filled();
        let left = GAP_PX / 2 + step * index as u32;
        let right = GAP_PX / 2 + step * (one - 1 - index as u32);
        let bars = values.iter().enumerate().map(|(at, value)| {
            let corners = [(SegmentValue::Exact(at), 0.0), (SegmentValue::Exact(at + 1), *value)];
            let mut bar = Rectangle::new(corners, fill);
            bar.set_margin(0, 0, left, right);
            bar
        });
        chart
            .draw_series(bars)
            .map_err(|error| failed(picture, &error))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 6), (x + 14, y + 6)], fill));
        let centre = (left + step / 2) as i32;
        let figures = values.iter().enumerate().map(|(at, value)| {
            let place = EmptyElement::at((SegmentValue::Exact(at), *value));
            let style = label_style().pos(Pos::new(HPos::Center, VPos::Bottom));
            place + Text::new(short(*value), (centre, -4), style)
        });
        chart.draw_series(figures).map_err(|error| failed(picture, &error))?;
    }
    if keys.len() > 1 {
        legend(&mut chart, SeriesLabelPosition::UpperRight, picture)?;
    }
    area.present().map_err(|error| failed(picture, &error))
}
