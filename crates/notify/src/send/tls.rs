//! Whom TLS trusts: the machine's own certificates of authorities, or those of `SSL_CERT_FILE`.
//!
//! They are read at each delivery: one that is renewed or added counts at once.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::{Refusal, apart};

/// The certificates that can be used.
pub(super) async fn roots() -> Result<Vec<CertificateDer<'static>>, Refusal> {
    apart(|| Ok(read_roots())).await
}

fn read_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!("a certificate of an authority cannot be used: {error}");
    }
    let mut usable = found.certs;
    usable.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    usable
}

/// TLS for a webhook.
pub(super) async fn client() -> Result<ClientConfig, Refusal> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots().await?);
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Refusal::for_now(format!("TLS: {error}"), "please report this"))?;
    Ok(config.with_root_certificates(store).with_no_client_auth())
}
