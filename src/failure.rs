//! Failures on their way to the user: other crates' errors as a [`Failure`], and its text.

use std::fmt::Display;

use lockstep_protocol::{Failure, FailureKind};

/// Arguments that cannot be carried out.
pub(crate) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// An error with its causes, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some errors already name their cause.
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

/// The failure in two lines at most: what happened, and what to do next.
pub(crate) fn lines(failure: &Failure, about: Option<&dyn Display>) -> Vec<String> {
    let first = match about {
        Some(name) => format!("{name}: {}", failure.message),
        None => failure.message.clone(),
    };
    let hint = (!failure.hint.is_empty()).then(|| format!("hint: {}", failure.hint));
    std::iter::once(first).chain(hint).collect()
}
