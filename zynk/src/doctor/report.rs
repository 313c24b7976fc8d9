//! What was looked at, and what came of it.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::table::printable;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    Fail,
    Skip,
}

/// One check: a line for people, an object for machines.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    outcome: Outcome,
    /// What was looked at, as `media udp`.
    check: &'static str,
    /// Where, as an address or a URL without secrets.
    target: String,
    /// What was seen.
    detail: String,
    /// Why it probably fails, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    #[serde(rename = "ms", skip_serializing_if = "Option::is_none", serialize_with = "as_ms")]
    took: Option<Duration>,
}

fn as_ms<S: Serializer>(took: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let ms = took.map(|took| (took.as_secs_f64() * 10_000.0).round() / 10.0);
    ms.serialize(serializer)
}

impl Check {
    pub(super) fn ok(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, check, target.into(), detail.into())
    }

    pub(super) fn fail(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Outcome::Fail, check, target.into(), detail.into())
    }

    pub(super) fn skip(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Outcome::Skip, check, target.into(), detail.into())
    }

    fn new(outcome: Outcome, check: &'static str, target: String, detail: String) -> Self {
        // Servers say much of this: a terminal must not obey them.
        let [target, detail] = [target, detail].map(|text| printable(&text));
        Self { outcome, check, target, detail, advice: None, took: None }
    }

    /// With how long it took.
    pub(super) fn took(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }

    /// With what to do about it.
    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(printable(&advice.into())), ..self }
    }
}

/// Everything that was seen.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether a client here could make a call.
    ok: bool,
    /// In words, what works.
    summary: String,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(ok: bool, summary: String, checks: Vec<Check>) -> Self {
        Self { ok, summary, checks }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }

    /// For people: a line for each check, advice below it, and what works at the end.
    pub(super) fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Check { outcome, check, target, detail, advice, took } in &self.checks {
            let outcome = match outcome {
                Outcome::Ok => "ok",
                Outcome::Fail => "FAIL",
                Outcome::Skip => "skip",
            };
            let took = took.map(|took| format!(" ({})", ms(took))).unwrap_or_default();
            let target = if target.is_empty() { String::new() } else { format!("{target}: ") };
            let _ = writeln!(text, "{outcome:<4}  {check:<width$}  {target}{detail}{took}");
            if let Some(advice) = advice {
                let _ = writeln!(text, "      {:<width$}  {advice}", "");
            }
        }
        let _ = writeln!(text, "\n{}", self.summary);
        text
    }
}

/// A time as people read it.
pub(super) fn ms(time: Duration) -> String {
    match time.as_millis() {
        0..10 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        millis => format!("{millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_for_people_and_for_machines() {
        let checks = vec![
            Check::ok("nat", "", "none").took(Duration::from_micros(1_240)),
            Check::fail("media udp", "192.0.2.1:1", "no answer\u{1b}[2J").advise("open the port"),
        ];
        let report = Report::new(false, "Nothing works.".into(), checks);
        assert_eq!(
            report.text(),
            "ok    nat        none (1.2 ms)\n\
             FAIL  media udp  192.0.2.1:1: no answer\u{fffd}[2J\n                 open the port\n\
             \nNothing works.\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][0]["ms"], 1.2);
        assert_eq!(json["checks"][1]["outcome"], "fail");
        assert_eq!(json["checks"][1]["advice"], "open the port");
        assert!(json["checks"][0].get("advice").is_none());
    }
}
