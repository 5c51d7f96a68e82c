//! What `bench` measures: as events, and as rows for people.

use std::fmt::Write;
use std::time::Duration;

use lockstep_bench::{Flow, Measured, Prediction};
use lockstep_transport::PathStats;
use serde::Serialize;

use crate::units;

/// One stage measured in one way.
#[derive(Default, Serialize)]
pub(crate) struct Bench {
    pub(crate) stage: Stage,
    /// `here`, or the other machine as it was named.
    pub(crate) place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) engine: Option<&'static str>,
    /// Whether runs work like this on this volume where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chosen: Option<bool>,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) cpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_cached: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) level: Option<i32>,
    /// Bytes that came out of packing for each that went in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<f64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) wire: Option<Wire>,
}

/// What kind of work it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    #[default]
    Hash,
    Digest,
    ZeroTest,
    Read,
    Write,
    ReadBack,
    Pack,
    Net,
}

/// What is known of a link.
#[derive(Serialize)]
pub(crate) struct Wire {
    pub(crate) direction: &'static str,
    pub(crate) transport: &'static str,
    pub(crate) rtt_seconds: f64,
    /// The smallest of its connections; none where they are the remote shell's.
    pub(crate) mtu: Option<u16>,
    pub(crate) packets_sent: u64,
    pub(crate) packets_lost: u64,
    pub(crate) bytes_resent: u64,
    pub(crate) cpu_seconds_sender: f64,
    pub(crate) connections: Vec<Connection>,
}

/// One connection, as its sender saw it meanwhile.
#[derive(Serialize)]
pub(crate) struct Connection {
    pub(crate) carries: &'static str,
    pub(crate) bytes_per_second: f64,
    pub(crate) mtu: u16,
    pub(crate) rtt_seconds: f64,
    pub(crate) window: u64,
    pub(crate) packets_sent: u64,
    pub(crate) packets_lost: u64,
    pub(crate) bytes_resent: u64,
    pub(crate) congestion_events: u64,
}

/// How long a resync is expected to take.
#[derive(Serialize)]
pub(crate) struct Predicted {
    pub(crate) kind: &'static str,
    pub(crate) size: u64,
    pub(crate) changed_percent: Option<f64>,
    pub(crate) seconds: f64,
    pub(crate) bytes_on_link: u64,
    pub(crate) bottleneck: Option<&'static str>,
    pub(crate) mainly: Option<&'static str>,
    pub(crate) lift: &'static str,
    pub(crate) parts: Vec<PartSeconds>,
    /// What was not measured, and what was taken for it.
    pub(crate) assumed: Vec<String>,
}

/// How long one part of both machines is busy.
#[derive(Serialize)]
pub(crate) struct PartSeconds {
    pub(crate) part: &'static str,
    pub(crate) seconds: f64,
    pub(crate) mainly: &'static str,
}

impl Bench {
    /// A stage with nothing but its measure.
    pub(crate) fn of(stage: Stage, place: &str, measured: Measured) -> Bench {
        Bench {
            stage,
            place: place.to_owned(),
            bytes: measured.bytes,
            seconds: measured.elapsed.as_secs_f64(),
            bytes_per_second: measured.rate(),
            cpu_seconds: measured.cpu.as_secs_f64(),
            ..Bench::default()
        }
    }

    /// A direction of a link.
    pub(crate) fn of_flow(place: &str, rtt: Duration, flow: &Flow) -> Bench {
        let seconds = flow.received.elapsed.as_secs_f64();
        let sum = |count: fn(&PathStats) -> u64| flow.paths.iter().map(count).sum();
        let bulk = flow.paths.iter().filter(|path| path.carries_bulk);
        Bench {
            wire: Some(Wire {
                direction: flow.direction.word(),
                transport: flow.via.word(),
                rtt_seconds: rtt.as_secs_f64(),
                mtu: bulk.map(|path| path.mtu).min(),
                packets_sent: sum(|path| path.packets_sent),
                packets_lost: sum(|path| path.packets_lost),
                bytes_resent: sum(|path| path.bytes_lost),
                cpu_seconds_sender: flow.sender_cpu.as_secs_f64(),
                connections: (flow.paths.iter())
                    .map(|path| Connection::of(path, seconds))
                    .collect(),
            }),
            ..Bench::of(Stage::Net, place, flow.received)
        }
    }

    /// What it is, as rows and bars call it.
    pub(crate) fn label(&self) -> String {
        let stage = match self.stage {
            Stage::Hash => "hash",
            Stage::Digest => "page digests",
            Stage::ZeroTest => "zero test",
            Stage::Read => "read",
            Stage::Write => "write",
            Stage::ReadBack => "read back",
            Stage::Pack => "compress",
            Stage::Net => "net",
        };
        let mut label = stage.to_owned();
        // Writing to a string does not fail.
        if let Some(wire) = &self.wire {
            let _ = write!(
                label,
                " {} {}, {}",
                wire.direction, self.place, wire.transport
            );
            return label;
        }
        if let Some(method) = self.method {
            let _ = write!(label, ", {method}");
        }
        if let Some(engine) = self.engine {
            let _ = write!(label, ", {engine}");
        }
        match self.threads {
            Some(1) => label.push_str(", 1 thread"),
            Some(threads) => {
                let _ = write!(label, ", {threads} threads");
            }
            None => {}
        }
        if let Some(level) = self.level {
            let _ = write!(label, ", zstd {level}");
        }
        if self.place != HERE {
            let _ = write!(label, ", {}", self.place);
        }
        label
    }

    /// What else is worth a look.
    fn remark(&self) -> String {
        if let Some(wire) = &self.wire {
            return wire.remark();
        }
        let mut parts = Vec::new();
        if let Some(cached) = self.bytes_cached {
            parts.push(format!("{} from memory", percent(cached, self.bytes)));
        }
        if let Some(share) = self.share {
            parts.push(format!("to {:.1} % of its size", share * 100.0));
        }
        if self.chosen == Some(true) {
            parts.push("as runs do".to_owned());
        }
        parts.join(", ")
    }

    /// The row of the table.
    pub(crate) fn row(&self) -> String {
        let row = format!(
            "{:<44} {:>11}  {}",
            self.label(),
            rate(self.bytes_per_second),
            self.remark()
        );
        row.trim_end().to_owned()
    }

    /// Rows for each connection, where there are several.
    pub(crate) fn connection_rows(&self) -> Vec<String> {
        let Some(wire) = self.wire.as_ref().filter(|wire| wire.connections.len() > 1) else {
            return Vec::new();
        };
        (wire.connections.iter().zip(1..))
            .map(|(connection, number)| {
                format!(
                    "{:<44} {:>11}  {}",
                    format!("  connection {number}, {}", connection.carries),
                    rate(connection.bytes_per_second),
                    connection.remark()
                )
            })
            .collect()
    }
}

/// This machine, as a place.
pub(crate) const HERE: &str = "here";

impl Wire {
    fn remark(&self) -> String {
        let rtt = format!("RTT {}", millis(self.rtt_seconds));
        match self.mtu {
            Some(mtu) => format!(
                "{rtt}, packets of {mtu} B, {} lost, {} sent again",
                percent(self.packets_lost, self.packets_sent),
                units::amount(self.bytes_resent)
            ),
            None => rtt,
        }
    }
}

impl Connection {
    fn of(path: &PathStats, seconds: f64) -> Connection {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let sent = path.bytes_sent as f64;
        Connection {
            carries: match path.carries_bulk {
                true => "data",
                false => "control",
            },
            bytes_per_second: match seconds > 0.0 {
                true => sent / seconds,
                false => 0.0,
            },
            mtu: path.mtu,
            rtt_seconds: path.rtt.as_secs_f64(),
            window: path.window,
            packets_sent: path.packets_sent,
            packets_lost: path.packets_lost,
            bytes_resent: path.bytes_lost,
            congestion_events: path.congestion_events,
        }
    }

    fn remark(&self) -> String {
        format!(
            "RTT {} under load, packets of {} B, window {}, {} lost, {} sent again",
            millis(self.rtt_seconds),
            self.mtu,
            units::amount(self.window),
            percent(self.packets_lost, self.packets_sent),
            units::amount(self.bytes_resent)
        )
    }
}

impl Predicted {
    pub(crate) fn of(
        prediction: &Prediction,
        size: u64,
        percent: f64,
        assumed: &[String],
    ) -> Predicted {
        let bottleneck = prediction.bottleneck();
        Predicted {
            kind: prediction.kind.word(),
            size,
            changed_percent: match prediction.kind {
                lockstep_bench::Kind::Full => None,
                lockstep_bench::Kind::Differential => Some(percent),
            },
            seconds: prediction.seconds,
            bytes_on_link: whole(prediction.bytes_on_link),
            bottleneck: bottleneck.map(|load| load.part.word()),
            mainly: bottleneck.map(|load| load.mainly),
            lift: prediction.lift(),
            parts: (prediction.loads.iter())
                .map(|load| PartSeconds {
                    part: load.part.word(),
                    seconds: load.seconds,
                    mainly: load.mainly,
                })
                .collect(),
            assumed: assumed.to_vec(),
        }
    }

    /// The lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let what = match self.changed_percent {
            None => "a full resync".to_owned(),
            Some(percent) => format!("a resync with {percent} % changed"),
        };
        let size = units::volume_size(self.size);
        let mut first = format!("{what} of {size}: about {}", span(self.seconds));
        if let (Some(part), Some(mainly)) = (self.bottleneck, self.mainly) {
            let _ = write!(first, ", held back by the {part} ({mainly})");
        }
        if let Some(next) = self.parts.get(1).filter(|next| next.seconds > 0.0) {
            let _ = write!(first, "; next is the {}, {}", next.part, span(next.seconds));
        }
        vec![first, format!("  what would lift it: {}", self.lift)]
    }
}

/// A rate in powers of 1000, as `1.2 GB/s`.
fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", units::amount(whole(bytes_per_second)))
}

/// A number that is none, or negative, is 0.
fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "such casts saturate, and are meant to"
    )]
    let whole = value as u64;
    whole
}

/// A time that may be short.
fn span(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        _ => units::span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
    }
}

fn millis(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1000.0)
}

fn percent(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let percent = match whole {
        0 => 0.0,
        whole => part as f64 * 100.0 / whole as f64,
    };
    match percent > 0.0 && percent < 0.05 {
        true => "< 0.1 %".to_owned(),
        false => format!("{percent:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bench, HERE, Predicted, Stage, percent};
    use lockstep_bench::{Direction, Flow, Job, Kind, Measured, predict};
    use lockstep_bench::{LinkRates, PackRates, Rates, Side, WriteRate};
    use lockstep_transport::{PathStats, Via};
    use std::time::Duration;

    fn second(bytes: u64) -> Measured {
        Measured {
            bytes,
            elapsed: Duration::from_secs(1),
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn a_row_says_what_how_and_how_fast() {
        let bench = Bench {
            method: Some("pages"),
            threads: Some(2),
            chosen: Some(true),
            ..Bench::of(Stage::Hash, HERE, second(3_810_000_000))
        };
        assert_eq!(
            bench.row().split_whitespace().collect::<Vec<_>>().join(" "),
            "hash, pages, 2 threads 3.8 GB/s as runs do"
        );
        let line = serde_json::to_value(&bench).unwrap();
        assert_eq!(line["stage"], "hash");
        assert!(line.get("engine").is_none() && line.get("mtu").is_none());
    }

    #[test]
    fn a_flow_shows_its_connections_and_its_smallest_packets() {
        let path = |carries_bulk, mtu| PathStats {
            carries_bulk,
            mtu,
            rtt: Duration::from_millis(3),
            window: 1_000_000,
            packets_sent: 1000,
            packets_lost: 5,
            bytes_lost: 7000,
            congestion_events: 1,
            bytes_sent: 500_000_000,
            bytes_received: 0,
        };
        let flow = Flow {
            direction: Direction::To,
            via: Via::Quic,
            received: second(1_000_000_000),
            sender_cpu: Duration::from_millis(400),
            paths: vec![path(false, 1200), path(true, 8952), path(true, 1452)],
        };
        let bench = Bench::of_flow("db2", Duration::from_micros(250), &flow);
        let row = bench.row();
        for part in [
            "net to db2, quic",
            "1.0 GB/s",
            "RTT 0.25 ms",
            "1452 B",
            "0.5 % lost",
            "21 kB sent again",
        ] {
            assert!(row.contains(part), "{part} in {row}");
        }
        let rows = bench.connection_rows();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].contains("connection 2, data") && rows[1].contains("500 MB/s"));
        let line = serde_json::to_value(&bench).unwrap();
        assert_eq!(line["connections"][0]["carries"], "control");
        assert_eq!(line["mtu"], 1452);
    }

    #[test]
    fn a_prediction_names_what_holds_it_back() {
        let side = Side {
            cores: 2.0,
            hash_cpu: 1e-9,
            scan: 1e9,
            read_cpu: 0.0,
            read_back: 1e9,
            write: WriteRate::LikeReading,
        };
        let rates = Rates {
            source: side,
            target: side,
            one_machine: false,
            one_disk: false,
            link: Some(LinkRates {
                rate: 1e7,
                sender_cpu: 0.0,
                receiver_cpu: 0.0,
            }),
            pack: PackRates {
                cpu: 1e-9,
                share: 0.5,
                data_share: 1.0,
            },
        };
        let job = Job {
            size: f64::from(1u32 << 30),
            data: f64::from(1u32 << 30),
            changed: 0.5,
        };
        let prediction = predict(&rates, &job, Kind::Differential);
        let lines = Predicted::of(&prediction, 1 << 30, 50.0, &[]).lines();
        assert!(
            lines[0].contains("a resync with 50 % changed of 1.0 GiB: about 26.9 s"),
            "{lines:?}"
        );
        assert!(
            lines[0].contains("held back by the link (sending); next is the target disk"),
            "{lines:?}"
        );
        assert!(lines[1].contains("faster link"));
    }

    #[test]
    fn a_trace_of_loss_is_not_none() {
        assert_eq!(percent(0, 10), "0.0 %");
        assert_eq!(percent(1, 1_000_000), "< 0.1 %");
        assert_eq!(percent(1, 0), "0.0 %");
    }
}
