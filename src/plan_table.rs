//! What a resync would do, for people, and as a file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use lockstep_cluster::plan::{MAX_PLAN_BYTES, NodePlan, Plan};
use lockstep_protocol::{Failure, FailureKind};

use crate::consent::plain;
use crate::failure::{chain, usage};
use crate::units;

/// A plan as lines.
pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} on {}, root {}",
        plan.volume,
        units::volume_size(plan.size),
        plan.primary,
        plan.root
    )];
    let columns = (plan.nodes.iter())
        .map(|node| node.node.as_str().len())
        .max()
        .unwrap_or(0);
    for node in &plan.nodes {
        lines.push(format!(
            "  {:columns$}  {}, {} of {} differ, {} to send, {}",
            node.node.as_str(),
            node.state,
            units::amount(node.bytes_differing),
            units::volume_size(plan.size),
            units::amount(node.bytes_to_send),
            times(node),
        ));
        lines.extend(
            details(node)
                .into_iter()
                .map(|line| format!("  {:columns$}  {line}", "")),
        );
    }
    lines
}

fn times(node: &NodePlan) -> String {
    let span = |seconds: Option<f64>| {
        let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        span.map_or_else(
            || "unknown".to_owned(),
            |span| format!("about {}", units::span(span)),
        )
    };
    format!(
        "time {}, downtime {}",
        span(node.estimate.seconds),
        span(node.estimate.downtime_seconds)
    )
}

fn details(node: &NodePlan) -> Vec<String> {
    let mut lines = Vec::new();
    for warning in &node.warnings {
        lines.push(format!("warning: {}", plain(warning)));
    }
    if node.needs_adopt {
        lines.push(format!("needs --adopt {}", node.node));
    }
    for service in &node.services {
        lines.push(format!(
            "{}: {}",
            plain(&service.moment),
            plain(&service.argv.words().join(" "))
        ));
    }
    for file in &node.files {
        lines.push(format!(
            "file {}: {}",
            plain(file.path.as_str()),
            file.what()
        ));
    }
    lines
}

/// Writes plans to a file: one as it is, several as a list.
pub(crate) fn write(path: &Path, plans: &[Plan]) -> Result<(), Failure> {
    let failed = |what: String| {
        Failure::new(
            FailureKind::Io,
            format!("cannot write {}: {what}", path.display()),
        )
        .hint("name a file in a folder that you may write")
    };
    let text = match plans {
        [plan] => plan.to_json(),
        plans => serde_json::to_string_pretty(plans).map(|text| text + "\n"),
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file =
        tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(error.to_string()))?;
    file.write_all(text.as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    file.as_file()
        .sync_all()
        .map_err(|error| failed(error.to_string()))?;
    file.persist(path)
        .map(drop)
        .map_err(|error| failed(error.to_string()))
}

/// Reads the plans of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Plan>, Failure> {
    let bad = |what: String| {
        usage(format!("{} is no plan: {what}", path.display()))
            .hint("name a file that `lockstep plan --out FILE` wrote")
    };
    let size = fs::metadata(path)
        .map_err(|error| bad(error.to_string()))?
        .len();
    if size > MAX_PLAN_BYTES as u64 {
        return Err(bad("it is larger than any".to_owned()));
    }
    let bytes = fs::read(path).map_err(|error| bad(error.to_string()))?;
    match bytes.trim_ascii_start().first() {
        Some(b'[') => {
            let list: Vec<serde_json::Value> =
                serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
            list.iter()
                .map(|one| {
                    Plan::from_json(one.to_string().as_bytes()).map_err(|error| bad(chain(&error)))
                })
                .collect()
        }
        _ => Ok(vec![
            Plan::from_json(&bytes).map_err(|error| bad(chain(&error)))?,
        ]),
    }
}
