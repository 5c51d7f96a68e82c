//! The mail: text for people, with the report's JSON attached. Pure.
//!
//! What is not ASCII is encoded, so that every server takes it. Nothing here comes as it is from
//! another machine: `Line` has no line ends, ids and mailboxes have no blanks.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use lockstep_cluster::file::Mail;

use crate::report::Report;

/// Bytes that a line of base64 holds: 76 characters.
const LINE_BYTES: usize = 57;
/// Bytes that an encoded word holds: 75 characters with its frame (RFC 2047).
const WORD_BYTES: usize = 45;
/// Where a header's line is folded.
const FOLD: usize = 76;

/// A whole message, every line ended by CR LF.
pub(super) fn message(mail: &Mail, report: &Report) -> String {
    let id = report.id.as_str();
    let boundary = format!("=_lockstep-{id}");
    let to: Vec<&str> = mail.to.iter().map(|to| to.as_str()).collect();
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push_str("\r\n");
    };
    line(&format!("From: {}", mail.from.as_str()));
    line(&format!("To: {}", to.join(",\r\n ")));
    line(&subject(&report.subject()));
    line(&format!("Date: {}", date(report.ended_unix_ms)));
    line(&format!("Message-ID: <{id}@{}>", domain(mail)));
    line(&format!("Lockstep-Id: {id}"));
    line("Auto-Submitted: auto-generated");
    line("MIME-Version: 1.0");
    line(&format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\""
    ));
    line("");
    line(&format!("--{boundary}"));
    line("Content-Type: text/plain; charset=utf-8");
    line(&part(&report.text()));
    line(&format!("--{boundary}"));
    line(&format!(
        "Content-Type: application/json; name=\"lockstep-{id}.json\""
    ));
    line(&format!(
        "Content-Disposition: attachment; filename=\"lockstep-{id}.json\""
    ));
    line(&base64_part(&report.json()));
    line(&format!("--{boundary}--"));
    text
}

fn domain(mail: &Mail) -> &str {
    let from = mail.from.as_str();
    from.split_once('@').map_or(from, |(_, domain)| domain)
}

fn date(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    // Years before 0 have no such date, and there are none.
    DateTimePrinter::new()
        .timestamp_to_string(&at)
        .unwrap_or_default()
}

/// The rest of a part's head, and its body: as it is if it is short lines of ASCII.
fn part(text: &str) -> String {
    match text.is_ascii() && text.lines().all(|line| line.len() < 990) {
        true => {
            let body: Vec<&str> = text.lines().collect();
            format!(
                "Content-Transfer-Encoding: 7bit\r\n\r\n{}\r\n",
                body.join("\r\n")
            )
        }
        false => base64_part(text),
    }
}

fn base64_part(text: &str) -> String {
    let mut part = "Content-Transfer-Encoding: base64\r\n".to_owned();
    for piece in text.as_bytes().chunks(LINE_BYTES) {
        let _ = write!(part, "\r\n{}", STANDARD.encode(piece));
    }
    part
}

/// The subject's header, folded; as encoded words if it is not ASCII or looks like one.
fn subject(text: &str) -> String {
    let words: Vec<String> = match text.is_ascii() && !text.contains("=?") {
        true => text.split(' ').map(str::to_owned).collect(),
        false => pieces(text)
            .into_iter()
            .map(|piece| format!("=?utf-8?B?{}?=", STANDARD.encode(piece)))
            .collect(),
    };
    let mut header = "Subject:".to_owned();
    let mut length = header.len();
    for word in words {
        if length + 1 + word.len() > FOLD && !word.is_empty() {
            header.push_str("\r\n");
            length = 0;
        }
        let _ = write!(header, " {word}");
        length += 1 + word.len();
    }
    header
}

/// Cuts a text between characters.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for character in text.chars() {
        match pieces.last_mut() {
            Some(last) if last.len() + character.len_utf8() <= WORD_BYTES => last.push(character),
            _ => pieces.push(character.to_string()),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::{message, subject};
    use crate::report::{Line, Report, ReportId};
    use lockstep_cluster::file::{Ending, Mail};
    use proptest::prelude::{any, proptest};

    fn mail() -> Mail {
        Mail {
            to: vec!["a@b".parse().unwrap(), "c@d".parse().unwrap()],
            from: "lockstep@example.org".parse().unwrap(),
            smtp: "smtp://h".parse().unwrap(),
            login: None,
            on: Ending::ALL.to_vec(),
        }
    }

    fn report(error: &str) -> Report {
        let test = Report::of_test(ReportId::new("id-1").unwrap(), "prod", "db1", "ops", 0);
        Report {
            test: false,
            volume: Line::new(error),
            error: Some(Line::new(error)),
            ..test
        }
    }

    #[test]
    fn headers_are_what_receivers_look_for() {
        let message = message(&mail(), &report("x"));
        for part in [
            "From: lockstep@example.org\r\nTo: a@b,\r\n c@d\r\nSubject: [lockstep] OK prod/x: no",
            "\r\nDate: Thu, 1 Jan 1970 00:00:00 -0000\r\nMessage-ID: <id-1@example.org>\r\nLockstep-Id: id-1\r\n",
            "\r\nError: x\r\n",
        ] {
            assert!(message.contains(part), "{part}\nis not in\n{message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_header_a_bare_line_end_or_a_long_line(text in any::<String>(), times in 1_usize..99) {
            let report = report(&text.repeat(times));
            let message = message(&mail(), &report);
            assert!(message.is_ascii());
            let head = message.split("\r\n\r\n").next().unwrap();
            let begins = |line: &&str| !line.starts_with(' ');
            assert_eq!(head.split("\r\n").filter(begins).count(), 9, "{head}");
            for line in message.split("\r\n") {
                assert!(!line.contains(['\r', '\n']) && line.len() < 998, "{line}");
            }
        }
    }

    #[test]
    fn long_subjects_are_folded() {
        let folded = subject(&"word ".repeat(40));
        assert!(
            folded.split("\r\n").all(|line| line.len() <= 77),
            "{folded}"
        );
        let encoded = subject(&"ü".repeat(60));
        assert!(
            encoded.split("\r\n").all(|line| line.len() <= 77),
            "{encoded}"
        );
        assert!(
            encoded.starts_with("Subject:\r\n =?utf-8?B?w7zDvM"),
            "{encoded}"
        );
    }
}
