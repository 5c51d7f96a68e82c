//! A report as people and as programs read it. Pure.

use jiff::Timestamp;
use lockstep_cluster::file::Ending;
use serde::Serialize;

use super::{Line, NodeReport, NodeResult, Report};

/// Version of the JSON.
const VERSION: u8 = 1;
const MAX_SUBJECT_CHARACTERS: usize = 180;

impl Report {
    /// One line with the verdict first.
    #[must_use]
    pub fn subject(&self) -> String {
        let text = match self.test {
            true => format!(
                "[lockstep] TEST {}: this is only a test, nothing was resynced",
                self.cluster
            ),
            false => format!(
                "[lockstep] {} {}/{}: {}",
                self.verdict.word().to_uppercase(),
                self.cluster,
                self.volume,
                self.in_short()
            ),
        };
        match text.char_indices().nth(MAX_SUBJECT_CHARACTERS) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }

    fn in_short(&self) -> String {
        if self.verdict == Ending::Fenced {
            return "a newer run took over".to_owned();
        }
        let good = self.nodes.iter().filter(|node| node.is_ok()).count();
        match self.nodes.len() {
            0 => "no secondary was reached".to_owned(),
            1 => format!("{good} of 1 secondary in lockstep"),
            all => format!("{good} of {all} secondaries in lockstep"),
        }
    }

    /// The body of a mail.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = Page::default();
        if self.test {
            page.line("This is a test of Lockstep's notifications. Nothing was read and nothing was overwritten.");
            page.line(
                "A real one tells here what a resync overwrote, and what to type if it failed.",
            );
            page.gap();
            page.fact("Cluster", &self.cluster);
            page.fact("Sent from", &self.primary);
            page.fact("Asked by", &self.who);
            page.fact("Sent", &time(self.ended_unix_ms));
            page.fact("Id", &self.id.as_str());
            return page.text;
        }
        page.line(&format!(
            "{}: {}/{}: {}, primary {}.",
            self.verdict.word().to_uppercase(),
            self.cluster,
            self.volume,
            self.in_short(),
            self.primary
        ));
        if let Some(error) = &self.error {
            page.line(&format!("Error: {error}"));
        }
        page.next(self);
        page.gap();
        page.line("What was overwritten:");
        for node in &self.nodes {
            page.node(node);
        }
        if self.nodes.is_empty() {
            page.line("  nothing");
        }
        page.gap();
        page.facts(self);
        page.text
    }

    /// The body of a webhook, and the attachment of a mail.
    #[must_use]
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            v: u8,
            r#type: &'static str,
            subject: String,
            started: String,
            ended: String,
            #[serde(flatten)]
            report: &'a Report,
        }
        let report = self.tidy();
        let body = Body {
            v: VERSION,
            r#type: "notification",
            subject: report.subject(),
            started: time(report.started_unix_ms),
            ended: time(report.ended_unix_ms),
            report: &report,
        };
        // Strings and finite numbers alone: there is nothing that JSON cannot hold.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl NodeReport {
    fn is_ok(&self) -> bool {
        self.result == NodeResult::Ok
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.gap();
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }

    fn fact(&mut self, name: &str, value: &dyn std::fmt::Display) {
        self.line(&format!("{name:<11}{value}"));
    }

    /// Every command to type, once.
    fn next(&mut self, report: &Report) {
        let of_nodes = report.nodes.iter().filter_map(|node| node.next.as_ref());
        let mut told: Vec<&Line> = Vec::new();
        for command in report.next.iter().chain(of_nodes) {
            if told.contains(&command) {
                continue;
            }
            if told.is_empty() {
                self.gap();
                self.line("What to type next:");
            }
            self.line(&format!("  {command}"));
            told.push(command);
        }
    }

    fn node(&mut self, node: &NodeReport) {
        let result = if node.is_ok() { "ok" } else { "FAILED" };
        let downtime = node.downtime_seconds.map_or_else(
            || "not stopped".to_owned(),
            |down| format!("down for {}", span(down)),
        );
        self.line(&format!("  {}: {result}, {}", node.node, node.state));
        self.line(&format!(
            "    {} differed, {} written, {} sent, in {}, {downtime}",
            bytes(node.bytes_differing),
            bytes(node.bytes_written),
            bytes(node.bytes_sent),
            span(node.seconds)
        ));
        if let Some(error) = &node.error {
            self.line(&format!("    error: {error}"));
        }
    }

    fn facts(&mut self, report: &Report) {
        self.fact("Size", &bytes(report.size));
        if let Some(root) = &report.root {
            self.fact("Root", root);
        }
        self.fact("Started", &time(report.started_unix_ms));
        self.fact("Ended", &time(report.ended_unix_ms));
        self.fact("Took", &span(report.seconds));
        self.fact("Asked by", &report.who);
        if let Some(reason) = &report.reason {
            self.fact("Why", reason);
        }
        let epoch = report
            .epoch
            .map_or_else(String::new, |epoch| format!(", epoch {epoch}"));
        self.fact("Run", &format!("{}{epoch}", report.run));
        self.fact("Exit code", &report.exit_code);
        self.fact("Id", &report.id.as_str());
    }
}

fn time(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", at.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// An amount for people, with all its bytes for scripts that read mail.
fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    let unit = UNITS.iter().find(|(_, unit)| count >= *unit);
    match unit {
        Some((name, unit)) => {
            // Tenths in whole numbers: no rounding of large counts.
            let tenths = u128::from(count) * 10 / u128::from(*unit);
            format!("{}.{} {name} ({count} bytes)", tenths / 10, tenths % 10)
        }
        None => format!("{count} bytes"),
    }
}

fn span(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

#[cfg(test)]
mod tests {
    use super::{Line, NodeReport, NodeResult, Report, bytes};
    use crate::report::ReportId;
    use lockstep_cluster::file::Ending;

    fn node(name: &str, result: NodeResult) -> NodeReport {
        let failed = result == NodeResult::Failed;
        NodeReport {
            node: Line::new(name),
            result,
            state: Line::new(if failed { "inconsistent" } else { "consistent" }),
            bytes_differing: 479_612_928,
            bytes_written: 479_612_928,
            bytes_sent: 1 << 20,
            seconds: 2.04,
            downtime_seconds: failed.then_some(41.0),
            error: failed.then(|| Line::new("no space left\r\nBcc: a@b")),
            next: failed.then(|| Line::new(&format!("lockstep resync pgdata {name}"))),
        }
    }

    fn report(verdict: Ending, nodes: Vec<NodeReport>) -> Report {
        let test = Report::of_test(ReportId::new("id-1").unwrap(), "prod", "db1", "ops", 0);
        Report {
            test: false,
            volume: Line::new("pgdata"),
            verdict,
            nodes,
            ..test
        }
    }

    #[test]
    fn the_verdict_comes_first() {
        let good = [node("db2", NodeResult::Ok), node("db3", NodeResult::Ok)];
        let ok = report(Ending::Ok, good.to_vec());
        assert_eq!(
            ok.subject(),
            "[lockstep] OK prod/pgdata: 2 of 2 secondaries in lockstep"
        );
        let mixed = vec![good[0].clone(), node("db3", NodeResult::Failed)];
        let partial = report(Ending::Partial, mixed).subject();
        assert!(partial.starts_with("[lockstep] PARTIAL prod/pgdata: 1 of 2"));
        let fenced = report(Ending::Fenced, Vec::new()).subject();
        assert_eq!(
            fenced,
            "[lockstep] FENCED prod/pgdata: a newer run took over"
        );
    }

    #[test]
    fn a_mail_says_what_happened_and_what_to_type() {
        let mut failed = report(Ending::Failed, vec![node("db3", NodeResult::Failed)]);
        failed.reason = Some(Line::new("after the crash"));
        failed.epoch = Some(7);
        failed.next = Some(Line::new("lockstep resync pgdata db3"));
        let text = failed.text();
        for part in [
            "FAILED: prod/pgdata: 0 of 1 secondary in lockstep, primary db1.",
            "What to type next:\n  lockstep resync pgdata db3\n\nWhat was",
            "  db3: FAILED, inconsistent\n    457.3 MiB (479612928 bytes) differed",
            "in 2.0 s, down for 41.0 s\n    error: no space left??Bcc: a@b\n",
            "Asked by   ops\nWhy        after the crash\n",
            "epoch 7",
            "1970-01-01T00:00:00.000Z",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert_eq!(text.matches("lockstep resync").count(), 1, "{text}");
    }

    #[test]
    fn the_json_has_everything_and_reads_back() {
        let mut report = report(Ending::Partial, vec![node("db2", NodeResult::Ok)]);
        report.seconds = f64::NAN;
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["v"], 1);
        assert_eq!(value["type"], "notification");
        assert_eq!(value["verdict"], "partial");
        assert_eq!(value["seconds"], 0.0);
        assert_eq!(value["nodes"][0]["bytes_written"], 479_612_928_u64);
        assert_eq!(value["subject"], report.subject());
        let read: Report = serde_json::from_value(value).unwrap();
        assert_eq!(read, report.tidy());
    }

    #[test]
    fn a_test_cannot_be_taken_for_a_resync() {
        let test = Report::of_test(ReportId::new("a").unwrap(), "prod", "db1", "ops", 0);
        assert!(test.subject().contains("TEST"));
        assert!(!test.text().contains("OK"));
        assert!(test.json().contains("\"test\":true"));
    }

    #[test]
    fn amounts_keep_their_bytes() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(
            bytes(u64::MAX),
            "16777215.9 TiB (18446744073709551615 bytes)"
        );
    }
}
