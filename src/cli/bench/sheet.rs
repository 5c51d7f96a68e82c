//! What was measured so far: told as it comes, kept for the picture.

use std::sync::Arc;
use std::time::Duration;

use lockstep_bench::{Bar, svg};

use crate::events::{Event, SourceCounts, Summary};
use crate::measures::{Bench, HERE, Predicted, Stage};
use crate::output::Output;

/// The sheet of one command.
pub(super) struct Sheet {
    output: Arc<Output>,
    bars: Vec<Bar>,
    bytes_read: u64,
    bytes_hashed: u64,
    size: u64,
}

impl Sheet {
    pub(super) fn new(output: Arc<Output>) -> Sheet {
        Sheet {
            output,
            bars: Vec::new(),
            bytes_read: 0,
            bytes_hashed: 0,
            size: 0,
        }
    }

    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// The volume that all of this is about.
    pub(super) fn is_about(&mut self, size: u64) {
        self.size = size;
    }

    /// Tells a measurement.
    pub(super) fn add(&mut self, bench: Bench) {
        self.output.result(&bench.row());
        for row in bench.connection_rows() {
            self.output.result(&row);
        }
        self.bars.push(Bar {
            label: bench.label(),
            rate: bench.bytes_per_second,
        });
        // The summary counts what this machine did.
        match bench.stage {
            _ if bench.place != HERE => {}
            Stage::Hash => self.bytes_hashed += bench.bytes,
            Stage::Read => self.bytes_read += bench.bytes,
            _ => {}
        }
        self.output.event(&Event::Bench(Box::new(bench)));
    }

    /// Tells what is to be expected.
    pub(super) fn predict(&self, predicted: Predicted) {
        for line in predicted.lines() {
            self.output.result(&line);
        }
        self.output.event(&Event::Prediction(predicted));
    }

    /// Something that is worth knowing about the measurements.
    pub(super) fn note(&self, text: &str) {
        self.output.warn(text);
        self.output.event(&Event::Warning(crate::events::Warning {
            target: None,
            message: text.to_owned(),
        }));
    }

    pub(super) fn picture(&self) -> String {
        svg("lockstep bench", &self.bars)
    }

    pub(super) fn summary(&self, elapsed: Duration) -> Summary {
        Summary {
            size: self.size,
            seconds: elapsed.as_secs_f64(),
            source: SourceCounts {
                bytes_read: self.bytes_read,
                bytes_hashed: self.bytes_hashed,
            },
            ..Summary::blank()
        }
    }
}
