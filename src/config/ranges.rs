//! Range checks: each number of a file must be within the range that the table states for it.

use super::file::table::Number;
use super::file::{File, TOP};
use super::{Faults, at};

/// Checks the sections that occur once. Listeners, routes and channels are checked together with
/// their other options, where errors name the entry.
pub(super) fn check_single_sections(file: &File, faults: &mut Faults) {
    faults.0.extend(
        TOP.rows.iter().filter_map(|row| Some(at(row.key, row.range_error(file.shards.into())?))),
    );
    check_section("engine", file.engine.numbers(), faults);
    check_section("limits", file.limits.numbers(), faults);
    check_section("rates", file.rates.numbers(), faults);
    check_section("timeouts", file.timeouts.numbers(), faults);
    check_section("drain", file.drain.numbers(), faults);
    check_section("metrics", file.metrics.numbers(), faults);
    check_section("hub", file.hub.numbers(), faults);
    check_section("cluster", file.cluster.numbers(), faults);
    check_section("auth", file.auth.numbers(), faults);
    check_section("resume", file.resume.numbers(), faults);
    check_section("tls", file.tls.numbers(), faults);
    check_section("acme", file.acme.numbers(), faults);
}

fn check_section(section: &str, numbers: impl Iterator<Item = Number>, faults: &mut Faults) {
    for (key, problem) in find_errors(numbers) {
        faults.0.push(at(&format!("{section}.{key}"), problem));
    }
}

/// Returns the keys of numbers outside their ranges, each with the problem as text that follows the
/// key.
pub(super) fn find_errors(
    numbers: impl Iterator<Item = Number>,
) -> impl Iterator<Item = (&'static str, String)> {
    numbers.filter_map(|(row, value)| Some((row.key, row.range_error(value)?)))
}
