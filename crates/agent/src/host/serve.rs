//! A port for the data of one run, open for one dialer and a short time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockstep_engine::{Cancel, Cause, ServeOptions, Served, sentence, serve};
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::quic::{self, Listening, OneTimeKey, PublicKey, QuicOptions};

use crate::config::Config;
use crate::talk::{Talk, TalkError};
use crate::wire::{Hex32, ServingAt};

/// How long the dialer may take.
const DIAL_LIMIT: Duration = Duration::from_secs(30);
/// How often is looked whether the run is over, and whether the call still stands.
const GLANCE: Duration = Duration::from_millis(50);

/// The data's side of a run. Dropping it ends the run and waits for that.
pub(super) struct Serving {
    cancel: Arc<Cancel>,
    ended: Receiver<Result<Served, Failure>>,
    thread: Option<JoinHandle<()>>,
}

/// How waiting for a run ended.
pub(super) struct Ended {
    /// How the run ended.
    pub(super) result: Result<Served, Failure>,
    /// Why the call cannot go on, if it cannot.
    pub(super) lost: Option<TalkError>,
}

impl Serving {
    /// Opens the port, and serves whoever proves to be the dialer.
    pub(super) fn open(
        config: &Config,
        dialer: Hex32,
        options: ServeOptions,
    ) -> Result<(Self, ServingAt), Failure> {
        let unready = |error: &dyn std::error::Error| {
            let message = format!("no port for the data: {}", sentence(error));
            Failure::new(FailureKind::Temporary, message)
        };
        let key = OneTimeKey::generate().map_err(|error| unready(&error))?;
        let mut token = [0; quic::TOKEN_LEN];
        getrandom::fill(&mut token).map_err(|error| {
            Failure::new(FailureKind::Internal, format!("no randomness: {error}"))
        })?;
        let listening = quic::listen(
            config.data_address(),
            key,
            PublicKey(dialer.0),
            token,
            QuicOptions::default(),
        )
        .map_err(|error| unready(&error))?;
        let at = ServingAt {
            ports: listening.ports(),
            key: Hex32(listening.public_key().0),
            token: Hex32(token),
        };
        let cancel = Arc::new(Cancel::new());
        let (tell, ended) = channel();
        let cancelled = Arc::clone(&cancel);
        let thread = std::thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || {
                // Nobody listens any more if the call's thread is gone.
                let _ = tell.send(attend(listening, options, cancelled));
            })
            .map_err(|error| unready(&error))?;
        let serving = Self {
            cancel,
            ended,
            thread: Some(thread),
        };
        Ok((serving, at))
    }

    pub(super) fn cancel(&self) -> &Arc<Cancel> {
        &self.cancel
    }

    /// Waits until the run is over; it is ended if the call is lost, or says anything meanwhile.
    pub(super) fn wait(self, talk: &mut dyn Talk) -> Ended {
        let mut lost = None;
        let result = loop {
            match self.ended.recv_timeout(GLANCE) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(Failure::new(
                        FailureKind::Internal,
                        "the thread of a run ended without a word",
                    ));
                }
            }
            if lost.is_some() {
                continue;
            }
            lost = match talk.recv(Duration::from_millis(1)) {
                Err(TalkError::Silent(_)) => None,
                Err(error) => Some(error),
                Ok(_) => Some(TalkError::Unread(
                    "something was said while the data was on its way".to_owned(),
                )),
            };
            if lost.is_some() {
                self.cancel.request(Cause::Abandoned);
            }
        };
        Ended { result, lost }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.cancel.request(Cause::Abandoned);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own thread.
            let _ = thread.join();
        }
    }
}

fn attend(
    listening: Listening,
    options: ServeOptions,
    cancel: Arc<Cancel>,
) -> Result<Served, Failure> {
    let deadline = Instant::now() + DIAL_LIMIT;
    let link = listening
        .accept_unless(deadline, || cancel.cause().is_some())
        .map_err(|error| match cancel.cause() {
            Some(Cause::Fenced) => {
                Failure::new(FailureKind::Fenced, "a newer run took the volume over")
            }
            _ => Failure::new(FailureKind::Temporary, sentence(&error))
                .hint("see whether UDP gets through from the primary: `lockstep doctor`"),
        })?;
    serve(link, options, cancel)
}
