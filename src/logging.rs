//! What the parts of the program log, on stderr.

use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::output::{Color, Output};

/// `--log-format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Starts logging; `LOCKSTEP_LOG` overrides the level that `-q` and `-v` choose.
pub(crate) fn start(level: &str, format: LogFormat, color: Color, output: &Arc<Output>) {
    let directives = std::env::var("LOCKSTEP_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color.wanted())
        .with_writer(AboveBars(Arc::clone(output)));
    // A second start, in one process, would keep the first: nothing is lost.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// stderr, without tearing the bars.
struct AboveBars(Arc<Output>);

struct Line {
    output: Arc<Output>,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            output: Arc::clone(&self.0),
            bytes: Vec::new(),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.output.write_stderr(&self.bytes);
    }
}
