//! What all of `bench` lets the user choose.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lockstep_protocol::{Failure, FailureKind};

use super::sheet::Sheet;
use crate::failure::usage;

/// Shortest and longest measurement, in seconds.
const SECONDS: std::ops::RangeInclusive<f64> = 0.05..=60.0;

/// How long is measured, and where the picture goes.
#[derive(Args, Debug)]
pub(super) struct Measuring {
    /// How long one measurement takes, 0.05 to 60 [default: 3, in memory 1]
    #[arg(long, value_name = "SECONDS", env = "LOCKSTEP_BENCH_SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Draw the rates as bars into this file, whose name ends in .svg
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Measuring {
    pub(super) fn limit(&self, default: Duration) -> Duration {
        self.seconds.map_or(default, Duration::from_secs_f64)
    }

    /// Whether the picture can be written, before anything is measured: only a file of its own kind is
    /// replaced.
    pub(super) fn check_plot(&self) -> Result<(), Failure> {
        let Some(path) = &self.plot else {
            return Ok(());
        };
        let shown = path.display();
        if path.extension().is_none_or(|extension| extension != "svg") {
            return Err(usage(format!("--plot `{shown}` does not end in .svg")));
        }
        if !folder_of(path).is_dir() {
            return Err(usage(format!("there is no folder for --plot `{shown}`")));
        }
        match path.symlink_metadata() {
            Ok(meta) if !meta.is_file() => Err(usage(format!(
                "--plot `{shown}` is there and no plain file"
            ))),
            _ => Ok(()),
        }
    }

    /// Writes the picture, whole or not at all.
    pub(super) fn plot(&self, sheet: &Sheet) -> Result<(), Failure> {
        let Some(path) = &self.plot else {
            return Ok(());
        };
        write_whole(path, sheet.picture().as_bytes()).map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Failure::new(FailureKind::Io, message)
                .hint("name a file in a folder that can be written")
        })
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    /// As a new file usually has them; what was measured is no secret.
    const MODE: u32 = 0o644;
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(bytes)?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(MODE))?;
    file.persist(path)?;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if SECONDS.contains(&seconds) => Ok(seconds),
        _ => Err(format!(
            "not a number of seconds from {} to {}",
            SECONDS.start(),
            SECONDS.end()
        )),
    }
}

/// `--changed`.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("not a percentage from 0 to 100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{percent, seconds};

    #[test]
    fn seconds_and_percentages_have_ranges() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for text in ["0", "0.01", "61", "NaN", "inf", "-1", "", "3s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(percent("1"), Ok(1.0));
        assert_eq!(percent("0.5 %"), Ok(0.5));
        for text in ["-1", "101", "NaN", "", "much"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
