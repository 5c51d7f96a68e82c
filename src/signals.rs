//! Signals: the first one asks the run to end truthfully, a second interrupt ends it at once.

use std::sync::Arc;

use lockstep_engine::{Cancel, Cause};
use lockstep_protocol::{Failure, FailureKind};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::events::Summary;
use crate::output::Output;

/// What the first signal does.
pub(crate) enum Reaction {
    /// Asks the run to end; it still says how.
    Cancel(Arc<Cancel>),
    /// Ends the process: nothing is being changed.
    Exit,
}

/// Watches for signals until the process ends. `on_usr1` is called for each SIGUSR1.
///
/// # Errors
/// The kernel would not let handlers be installed.
pub(crate) fn watch(
    reaction: Reaction,
    output: Arc<Output>,
    on_usr1: impl Fn() + Send + 'static,
) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]).map_err(|error| {
        Failure::new(FailureKind::Internal, format!("signal handlers: {error}"))
    })?;
    let mut interrupts = 0;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGUSR1 {
                    on_usr1();
                    continue;
                }
                interrupts += u32::from(signal == SIGINT);
                match &reaction {
                    Reaction::Cancel(cancel) if interrupts < 2 => cancel.request(cause(signal)),
                    Reaction::Cancel(_) | Reaction::Exit => exit_now(signal, &output),
                }
            }
        })
        .map_err(|error| Failure::new(FailureKind::Internal, format!("signal thread: {error}")))?;
    Ok(())
}

/// A failure that says which signal came.
pub(crate) fn by_signal(number: u8) -> Failure {
    Failure::new(
        FailureKind::Signal(number),
        format!("ended by signal {number}"),
    )
}

/// The failure of a command that was ended while it waited for others.
pub(crate) fn by_cause(cause: Cause) -> Failure {
    match cause {
        Cause::Signal(number) => by_signal(number),
        _ => Failure::new(FailureKind::Interrupted, "it was ended"),
    }
}

fn cause(signal: i32) -> Cause {
    Cause::Signal(number(signal))
}

fn number(signal: i32) -> u8 {
    u8::try_from(signal).unwrap_or(u8::MAX)
}

fn exit_now(signal: i32, output: &Output) -> ! {
    let failure = by_signal(number(signal));
    output.summary(Summary::failed(&failure));
    std::process::exit(i32::from(failure.kind.exit_code()))
}
