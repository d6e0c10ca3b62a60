//! Examines the applications that take part: each address, as the server would use it.

use std::sync::Arc;

use super::finding::{Finding, State};
use crate::backend::links::{LinkReport, examine_links};
use crate::backend::{BackendSettings, UrlReport, examine_backend};
use crate::config::Config;

/// The difference of clocks from which on signatures may be rejected soon (s).
const CLOCK_DIFFERENCE_MAX_S: i64 = 60;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    if config.backends.is_empty() {
        return Vec::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return vec![unreachable("", &format!("cannot examine them: {error}"))],
    };
    let examine_one = |settings: &Arc<BackendSettings>| {
        let mut findings = match runtime.block_on(examine_backend(settings)) {
            Ok(reports) => reports.iter().flat_map(examine_report).collect(),
            Err(error) => vec![unreachable(&settings.name, &error)],
        };
        match runtime.block_on(examine_links(settings)) {
            Ok(reports) => findings.extend(reports.iter().flat_map(examine_link)),
            Err(error) => findings.push(unlinked(&settings.name, &error)),
        }
        findings
    };
    config.backends.iter().flat_map(examine_one).collect()
}

const WHY: &str = "Applications receive events and answer questions there";

fn unreachable(name: &str, error: &str) -> Finding {
    let remedy = "start the application, or correct its address in [[backend]] or [[app]]; until \
                  then `serve` starts, events wait, and what the application decides on is \
                  `unavailable`";
    let found = format!("{name}: {error}");
    Finding::new("backend", WHY, found).unless(false, State::Warning, remedy)
}

fn examine_report(report: &UrlReport) -> Vec<Finding> {
    let url = &report.url;
    let status = match &report.status {
        Ok(status) => *status,
        Err(error) => return vec![unreachable(url, error)],
    };
    let found = if report.is_of_app {
        format!("{url}: status {status} for a webhook without events")
    } else {
        format!("{url}: status {status} for a request of the type `test`")
    };
    let remedy = match status {
        401 | 403 if report.is_of_app => {
            "the app's backend rejects the signature: give it the key and secret of the [[app]], \
             and verify the body as it was received"
        }
        401 | 403 => {
            "the application rejects the signature: give it the secret of one of secret_files, and \
             verify the body as it was received"
        }
        404 | 405 => "no handler accepts POST there: correct the address in [[backend]] or [[app]]",
        300..=399 => {
            "redirects are not followed: write the final address in [[backend]] or [[app]]"
        }
        _ if report.is_of_app => "answer webhooks without events with a status from 200 to 299",
        _ => "answer requests of the type `test` with a status from 200 to 299",
    };
    let is_accepted = (200..300).contains(&status);
    let mut findings =
        vec![Finding::new("backend", WHY, found).unless(is_accepted, State::Failure, remedy)];
    findings.extend(is_accepted.then(|| examine_signature(report)));
    // Webhooks of apps have no timestamp.
    let ahead_s = report.ahead_s.filter(|_| !report.is_of_app);
    findings.extend(ahead_s.map(|ahead_s| examine_clock(url, ahead_s)));
    findings
}

fn examine_signature(report: &UrlReport) -> Finding {
    let verb = if report.takes_wrong_signature { "accepts" } else { "rejects" };
    let found = format!("{}: {verb} a wrong signature", report.url);
    Finding::new(
        "backend signature",
        "Without verification, any host that reaches the application can make up clients' events \
         and questions",
        found,
    )
    .unless(
        !report.takes_wrong_signature,
        State::Warning,
        if report.is_of_app {
            "verify X-Pusher-Signature with a server library of the protocol"
        } else {
            "verify webhook-signature with a library of Standard Webhooks"
        },
    )
}

fn examine_clock(url: &str, ahead_s: i64) -> Finding {
    let found = match ahead_s {
        ..0 => format!("{url}: {} s behind this host's", -ahead_s),
        _ => format!("{url}: {ahead_s} s ahead of this host's"),
    };
    Finding::new(
        "backend clock",
        "Applications reject signatures whose timestamp is too old or too new",
        found,
    )
    .unless(
        ahead_s.abs() <= CLOCK_DIFFERENCE_MAX_S,
        State::Warning,
        "synchronize the clocks of both hosts (NTP)",
    )
}

fn unlinked(place: &str, error: &str) -> Finding {
    let remedy =
        "start the application, or correct links; until then new clients of gateways get 503";
    let found = format!("{place}: {error}");
    Finding::new("backend link", WHY_LINKS, found).unless(false, State::Warning, remedy)
}

const WHY_LINKS: &str = "Applications exchange messages with clients of gateways there";

fn examine_link(report: &LinkReport) -> Vec<Finding> {
    let place = &report.place;
    let instance = match &report.instance {
        Ok(instance) => instance,
        Err(error) => return vec![unlinked(place, error)],
    };
    let found = format!("{place}: `hello` from {instance:?}");
    let mut findings =
        vec![Finding::new("backend link", WHY_LINKS, found).unless(true, State::Warning, "")];
    findings.extend(report.takes_wrong_token.map(|takes_wrong_token| {
        let verb = if takes_wrong_token { "accepts" } else { "rejects" };
        let found = format!("{place}: {verb} a wrong token");
        let why = "Without a check of the token, any program that reaches the application can make \
                   up clients' messages";
        let remedy = "answer an upgrade whose token differs from link_token_file with status 401";
        Finding::new("backend token", why, found).unless(!takes_wrong_token, State::Warning, remedy)
    }));
    findings
}
