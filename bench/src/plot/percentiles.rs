//! Latency by percentile, as the curves of `.hgrm` files: each step to the right leaves a tenth of
//! the messages above it.

use plotters::prelude::*;

use super::{
    FONT, GRID, INK, LABEL_PX, MARGIN_PX, colour, failed, label_style, legend, named, read, sheet,
    short,
};
use crate::cli::PercentilesArgs;
use crate::crew::Failure;

/// Points of a curve: `1 / (1 - quantile)`, and the value in microseconds.
type Curve = Vec<(f64, f64)>;

pub(super) fn draw(args: &PercentilesArgs) -> Result<(), Failure> {
    let mut curves = Vec::new();
    for text in &args.files {
        let (name, file) = named(text);
        let curve = parse(&read(file)?);
        if curve.is_empty() {
            return Err(Failure::Usage(format!("{file} has no percentiles; is it an .hgrm file?")));
        }
        curves.push((name, curve));
    }
    let picture = &args.picture;
    let all = || curves.iter().flat_map(|(_, curve)| curve);
    let last = all().map(|(x, _)| *x).fold(10.0, f64::max);
    let scaled = |value: f64| value / picture.divisor;
    let low = all().map(|(_, y)| scaled(*y)).filter(|y| *y > 0.0).fold(f64::MAX, f64::min);
    let high = all().map(|(_, y)| scaled(*y)).fold(low, f64::max);
    let area = sheet(picture)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(MARGIN_PX)
        .x_label_area_size(50)
        .y_label_area_size(76)
        .build_cartesian_2d((1.0..last * 1.1).log_scale(), (low * 0.8..high * 1.3).log_scale())
        .map_err(|error| failed(picture, &error))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc(picture.y_label.as_deref().unwrap_or("latency (us)"))
        .x_label_formatter(&|x| percentile(*x))
        .y_label_formatter(&|y| short(*y))
        .label_style(label_style())
        .axis_desc_style((FONT, LABEL_PX, &INK))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .draw()
        .map_err(|error| failed(picture, &error))?;
    for (index, (name, curve)) in curves.iter().enumerate() {
        let style = colour(index).stroke_width(2);
        let points = curve.iter().map(|(x, y)| (*x, scaled(*y).max(low)));
        chart
            .draw_series(LineSeries::new(points, style))
            .map_err(|error| failed(picture, &error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight, picture)?;
    area.present().map_err(|error| failed(picture, &error))
}

/// The rows of a `.hgrm` file. The last one, whose percentile is 100, has no place on the axis.
fn parse(text: &str) -> Curve {
    let rows = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let value: f64 = fields.next()?.parse().ok()?;
        let quantile: f64 = fields.next()?.parse().ok()?;
        Some((quantile, value))
    });
    rows.filter(|(quantile, _)| *quantile < 1.0)
        .map(|(q, value)| (1.0 / (1.0 - q), value))
        .collect()
}

/// Label of a position on the axis: 10 is the 90th percentile.
fn percentile(x: f64) -> String {
    let text = format!("{:.6}", 100.0 - 100.0 / x);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_points_and_the_axis_names_them() {
        let text = "  Value   Percentile TotalCount 1/(1-Percentile)\n\n \
                    10.000 0.000000000000 1 1.00\n 20.500 0.900000000000 9 10.00\n \
                    30.000 1.000000000000 10\n#[Mean = 1]\n";
        let curve = parse(text);
        assert_eq!(curve.len(), 2);
        assert!((curve[1].0 - 10.0).abs() < 1e-9 && (curve[1].1 - 20.5).abs() < 1e-9);
        assert_eq!([1.0, 10.0, 100.0, 1e4].map(percentile), ["0%", "90%", "99%", "99.99%"]);
    }
}
