//! A webhook: one POST of the report's JSON, signed.

use std::time::Duration;

use aws_lc_rs::hmac;
use lockstep_cluster::file::Webhook;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};

use super::{CONNECT, Refusal, WHOLE, chain, secret, tls};
use crate::report::{Report, hex};

const ID: &str = "Lockstep-Id";
const SIGNATURE: &str = "Lockstep-Signature";
const AGENT: &str = concat!("lockstep/", env!("CARGO_PKG_VERSION"));
/// Most bytes of an answer that are shown.
const MAX_SHOWN: usize = 200;

pub(super) async fn send(webhook: &Webhook, report: &Report) -> Result<(), Refusal> {
    let body = report.json();
    let mut request = client()
        .await?
        .post(webhook.url.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(ID, report.id.as_str());
    if let Some(file) = &webhook.secret_file {
        let secret = secret(file).await?;
        request = request.header(SIGNATURE, signature(&secret, body.as_bytes()));
    }
    let response = request.body(body).send().await.map_err(unreachable)?;
    match response.status().is_success() {
        true => Ok(()),
        false => Err(refused(response).await),
    }
}

async fn client() -> Result<Client, Refusal> {
    Client::builder()
        .tls_backend_preconfigured(tls::client().await?)
        .user_agent(AGENT)
        // Names have no case; not every receiver knows.
        .http1_title_case_headers()
        // Where a redirect leads nobody has configured.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT)
        .timeout(WHOLE)
        .build()
        .map_err(|error| Refusal::for_now(chain(&error), "please report this"))
}

/// HMAC-SHA256 of the body.
fn signature(secret: &[u8], body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("sha256={}", hex(hmac::sign(&key, body).as_ref()))
}

fn unreachable(error: reqwest::Error) -> Refusal {
    // Its path can be a secret.
    let error = error.without_url();
    if error.is_builder() {
        return Refusal::for_good(chain(&error), "correct `url` in the cluster file");
    }
    Refusal::for_now(
        chain(&error),
        "see whether the receiver runs, whether this machine reaches it, and whether its certificate is of an authority that this machine trusts",
    )
}

async fn refused(mut response: Response) -> Refusal {
    let status = response.status();
    let pause = retry_after(&response);
    // The first piece is enough to say why; the rest is never read.
    let piece = response.chunk().await.ok().flatten().unwrap_or_default();
    let shown = String::from_utf8_lossy(&piece[..piece.len().min(MAX_SHOWN)]);
    let what = match shown.trim() {
        "" => format!("the answer is {status}"),
        shown => format!("the answer is {status}: {shown}"),
    };
    if is_for_now(status) {
        return Refusal {
            pause,
            ..Refusal::for_now(what, "see what the receiver's log says")
        };
    }
    Refusal::for_good(
        what,
        match status.is_redirection() {
            true => "write where the redirect leads as `url` in the cluster file",
            false => "correct `url` or `secret_file` in the cluster file, or the receiver",
        },
    )
}

/// Whether the same request can succeed later.
fn is_for_now(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{StatusCode, is_for_now, signature};

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // Test cases 1 and 2.
        assert_eq!(
            signature(&[0x0b; 20], b"Hi There"),
            "sha256=b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn only_some_refusals_are_for_good() {
        let for_now = |code: u16| is_for_now(StatusCode::from_u16(code).unwrap());
        for code in [408, 429, 500, 502, 503, 504] {
            assert!(for_now(code), "{code}");
        }
        for code in [301, 302, 307, 400, 401, 403, 404, 410, 413, 422] {
            assert!(!for_now(code), "{code}");
        }
    }
}
