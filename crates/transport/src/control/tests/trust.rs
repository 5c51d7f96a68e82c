//! Who gets in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Lab, SOON, ask, eventually, node};
use crate::control::{CallError, Connection, NodeKey, PublicKey, Server, Trust};
use crate::quic::tls;

/// A refusal, and one that did not take until the timeout.
async fn refused(address: SocketAddr, key: &NodeKey, peers: &[PublicKey]) -> String {
    let before = Instant::now();
    let limit = Duration::from_secs(60);
    let error = Connection::connect(&[address], key, peers, limit)
        .await
        .unwrap_err();
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
    match error {
        CallError::Refused { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    let lab = Lab::new();
    let what = refused(lab.address(), &lab.friend, &[node().public()]).await;
    assert!(what.contains("does not have the key"), "{what}");
    refused(lab.address(), &lab.friend, &[]).await;
    let peers = [node().public()];
    let error = Connection::connect(&[lab.address()], &lab.friend, &peers, SOON).await;
    let shows = Some(lab.key.public());
    assert!(
        matches!(error, Err(CallError::Refused { shown, .. }) if shown == shows),
        "what it shows is told"
    );
    ask(&lab.connect().await).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_is_not_trusted_is_told_so() {
    let lab = Lab::new();
    let what = refused(lab.address(), &lab.stranger, &[lab.key.public()]).await;
    assert!(what.contains("does not trust this key"), "{what}");
    assert!(what.contains(&lab.address().to_string()), "{what}");
    ask(&lab.connect().await).await.unwrap();
}

#[tokio::test]
async fn a_caller_with_a_stolen_public_key_is_refused() {
    let lab = Lab::new();
    let thief = NodeKey(lab.stranger.0.claiming(lab.friend.public()));
    refused(lab.address(), &thief, &[lab.key.public()]).await;
    assert_eq!(lab.server.connections(), 0);
}

#[tokio::test]
async fn a_server_with_a_stolen_public_key_is_refused() {
    let lab = Lab::new();
    let thief = NodeKey(lab.stranger.0.claiming(lab.key.public()));
    let trust: Arc<dyn Trust> = lab.list.clone();
    let server = Server::bind(([127, 0, 0, 1], 0).into(), thief, trust).unwrap();
    refused(server.local_addr(), &lab.friend, &[lab.key.public()]).await;
}

#[tokio::test]
async fn a_refusal_counts_for_more_than_an_address_that_does_not_answer() {
    let lab = Lab::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap(), lab.address()];
    let limit = Duration::from_millis(700);
    let peers = [lab.key.public()];
    let error = Connection::connect(&addresses, &lab.stranger, &peers, limit).await;
    assert!(matches!(error, Err(CallError::Refused { .. })));
}

#[tokio::test]
async fn trust_withdrawn_between_calls_closes_the_connection_with_the_next() {
    let lab = Lab::new();
    let connection = lab.connect().await;
    ask(&connection).await.unwrap();
    lab.list.set(&[&lab.stranger]);
    let error = ask(&connection).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Refused { what, .. } if what.contains("no longer")),
        "{error}"
    );
    let error = connection.call().await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error}");
    refused(lab.address(), &lab.friend, &[lab.key.public()]).await;
    ask(&lab.connect_as(&lab.stranger).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_call_that_waited_while_its_key_was_removed_is_not_handed_out() {
    let lab = Lab::silent();
    let mut call = lab.connect().await.call().await.unwrap();
    call.send("overwrite everything".into()).await.unwrap();
    eventually("the call is in the queue", || {
        lab.server.calls_waiting() == 1
    })
    .await;
    lab.list.set(&[&lab.stranger]);
    let other = lab.connect_as(&lab.stranger).await.unwrap();
    let mut late = other.call().await.unwrap();
    late.send("mine".into()).await.unwrap();
    assert_eq!(lab.server.accept().await.unwrap().first, "mine");
    assert!(matches!(call.recv().await, Err(CallError::Refused { .. })));
}

#[tokio::test]
async fn a_recheck_ends_calls_that_go_on() {
    let lab = Lab::new();
    let (removed, kept) = (lab.connect().await, node());
    lab.list.set(&[&lab.friend, &kept]);
    let kept_connection = lab.connect_as(&kept).await.unwrap();
    let mut call = removed.call().await.unwrap();
    call.send("first".into()).await.unwrap();
    call.recv().await.unwrap();
    lab.list.set(&[&kept]);
    lab.server.recheck();
    assert!(matches!(call.recv().await, Err(CallError::Refused { .. })));
    ask(&kept_connection).await.unwrap();
    eventually("the place is free", || lab.server.connections() == 1).await;
}

#[tokio::test]
async fn while_keys_change_either_is_good_on_both_sides() {
    let (old, new) = (node(), node());
    let lab = Lab::new();
    lab.list.set(&[&lab.friend, &lab.stranger]);
    let peers = [old.public(), new.public()];
    for key in [&old, &new] {
        let trust: Arc<dyn Trust> = lab.list.clone();
        let server =
            Arc::new(Server::bind(([127, 0, 0, 1], 0).into(), key.clone(), trust).unwrap());
        tokio::spawn(super::echo(Arc::clone(&server)));
        for caller in [&lab.friend, &lab.stranger] {
            let addresses = [server.local_addr()];
            let connection = Connection::connect(&addresses, caller, &peers, SOON)
                .await
                .unwrap();
            assert_eq!(connection.peer(), key.public());
            ask(&connection).await.unwrap();
        }
    }
}

#[tokio::test]
async fn another_protocol_is_no_question_of_keys() {
    let lab = Lab::new();
    let tls = tls::client(&lab.friend.0, Arc::new(lab.key.public()), b"lockstep/2").unwrap();
    let error = Connection::connect_with(&[lab.address()], Arc::new(tls), SOON).await;
    let error = error.unwrap_err();
    assert!(
        matches!(&error, CallError::Protocol { what } if what.contains("another protocol")),
        "{error}"
    );
}

#[test]
fn debugging_does_not_tell_the_key() {
    let key = node();
    let shown = format!("{key:?}");
    assert_eq!(
        shown,
        format!("NodeKey {{ public: {:?}, .. }}", key.public())
    );
}
