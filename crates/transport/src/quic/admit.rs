//! The token that makes a connection part of a link.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use quinn::{
    Connection, ConnectionError, Incoming, ReadExactError, RecvStream, SendStream, ServerConfig,
    VarInt,
};
use std::sync::Arc;
use tokio::time::timeout;

use super::TOKEN_LEN;
use super::carrier::{CODE_REFUSED, describe};

/// How long one incoming connection may take from its first packet to its token.
const ADMISSION_LIMIT: Duration = Duration::from_secs(10);
/// The byte that says that the token was right.
const ADMITTED: u8 = 1;

/// A connection whose two ends have proved themselves, and the stream they did it on.
pub(super) struct Proven {
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
}

/// The dialer's part: shows the token, waits to be admitted.
pub(super) async fn show_token(
    connection: Connection,
    token: &[u8; TOKEN_LEN],
) -> Result<Proven, String> {
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|error| describe(&error))?;
    send.write_all(token)
        .await
        .map_err(|_| why_closed(&connection))?;
    let mut answer = [0];
    recv.read_exact(&mut answer)
        .await
        .map_err(|error| unread(&connection, error))?;
    match answer {
        [ADMITTED] => Ok(Proven {
            connection,
            send,
            recv,
        }),
        [other] => Err(format!("it answered the token with {other:#04x}")),
    }
}

/// The listener's part: takes a connection, closes it if the first bytes are not the token.
pub(super) async fn admit(
    incoming: Incoming,
    config: Arc<ServerConfig>,
    token: [u8; TOKEN_LEN],
) -> Result<Proven, String> {
    let from = incoming.remote_address();
    let admitted = timeout(ADMISSION_LIMIT, check_token(incoming, config, token));
    let refusal = match admitted.await {
        Ok(Ok(proven)) => return Ok(proven),
        Ok(Err(refusal)) => refusal,
        Err(_) => "no token in time".to_owned(),
    };
    Err(format!("{from}: {refusal}"))
}

async fn check_token(
    incoming: Incoming,
    config: Arc<ServerConfig>,
    token: [u8; TOKEN_LEN],
) -> Result<Proven, String> {
    let connecting = incoming
        .accept_with(config)
        .map_err(|error| describe(&error))?;
    let connection = connecting.await.map_err(|error| describe(&error))?;
    let (mut send, mut recv) = connection
        .accept_bi()
        .await
        .map_err(|error| describe(&error))?;
    let mut shown = [0; TOKEN_LEN];
    recv.read_exact(&mut shown)
        .await
        .map_err(|error| unread(&connection, error))?;
    if verify_slices_are_equal(&shown, &token).is_err() {
        connection.close(VarInt::from_u32(CODE_REFUSED), b"wrong token");
        // The endpoint sends the refusal before the last handle to the connection goes.
        let _: ConnectionError = connection.closed().await;
        return Err("wrong token".to_owned());
    }
    send.write_all(&[ADMITTED])
        .await
        .map_err(|_| why_closed(&connection))?;
    Ok(Proven {
        connection,
        send,
        recv,
    })
}

fn unread(connection: &Connection, error: ReadExactError) -> String {
    match error {
        ReadExactError::FinishedEarly(_) => "the stream ended within the token exchange".to_owned(),
        ReadExactError::ReadError(_) => why_closed(connection),
    }
}

fn why_closed(connection: &Connection) -> String {
    match connection.close_reason() {
        Some(error) => describe(&error),
        None => "the stream was reset within the token exchange".to_owned(),
    }
}
