//! What a call promises to those who keep the rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Lab, SOON, ask, eventually, node};
use crate::control::limits::STREAMS;
use crate::control::{
    CALLS_PER_CONNECTION, CONNECTIONS_PER_KEY, CallError, Connection, Incoming, MAX_CALL_FRAME,
    MAX_FIRST_FRAME, Server,
};

fn frame(len: usize, seed: u8) -> Bytes {
    let byte = |at: usize| (at % 251) as u8 ^ seed;
    (0..len).map(byte).collect()
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order_both_ways_and_so_does_the_end() {
    let lab = Lab::new();
    let connection = lab.connect().await;
    assert_eq!(connection.peer(), lab.key.public());
    assert_eq!(connection.remote_address(), lab.address());
    let mut call = connection.call().await.unwrap();
    assert_eq!(call.peer(), lab.key.public());
    let lengths = [1, MAX_FIRST_FRAME, MAX_CALL_FRAME, 5, 4, 3, MAX_CALL_FRAME];
    for (seed, len) in (0..).zip(lengths) {
        call.send(frame(len, seed)).await.unwrap();
        assert_eq!(call.recv().await.unwrap().unwrap(), frame(len, seed));
    }
    call.finish().unwrap();
    assert_eq!(call.recv().await, Ok(None));
    assert_eq!(call.recv().await, Ok(None), "a second time");
    assert!(matches!(call.finish(), Err(CallError::Closed { .. })));
    assert!(matches!(
        call.send("x".into()).await,
        Err(CallError::Closed { .. })
    ));
}

#[tokio::test]
async fn the_called_one_knows_who_calls_from_where_and_what_for() {
    let lab = Lab::silent();
    let connection = lab.connect().await;
    let mut call = connection.call().await.unwrap();
    call.send("status".into()).await.unwrap();
    let Incoming {
        call: mut called,
        first,
    } = lab.server.accept().await.unwrap();
    assert_eq!(first, "status");
    assert_eq!(called.peer(), lab.friend.public());
    assert!(called.remote_address().ip().is_loopback());
    called.send("fine".into()).await.unwrap();
    called.finish().unwrap();
    let delivered = called.delivered();
    let received = async { (call.recv().await, call.recv().await) };
    let (delivered, received) = tokio::join!(delivered, received);
    assert_eq!(delivered, Ok(()));
    assert_eq!(received, (Ok(Some("fine".into())), Ok(None)));
}

#[tokio::test]
async fn frames_that_do_not_fit_are_not_sent_and_harm_nothing() {
    let lab = Lab::new();
    let mut call = lab.connect().await.call().await.unwrap();
    let refused = |len, limit| Err(CallError::FrameSize { len, limit });
    let too_large = frame(MAX_FIRST_FRAME + 1, 0);
    assert_eq!(call.send(Bytes::new()).await, refused(0, MAX_FIRST_FRAME));
    assert_eq!(
        call.send(too_large).await,
        refused(MAX_FIRST_FRAME + 1, MAX_FIRST_FRAME)
    );
    call.send("first".into()).await.unwrap();
    let too_large = frame(MAX_CALL_FRAME + 1, 0);
    assert_eq!(
        call.send(too_large).await,
        refused(MAX_CALL_FRAME + 1, MAX_CALL_FRAME)
    );
    call.finish().unwrap();
    assert_eq!(call.recv().await.unwrap().unwrap(), "first");
    assert_eq!(call.recv().await, Ok(None));
}

#[tokio::test]
async fn waiting_can_be_cut_short_within_a_frame_and_nothing_is_lost() {
    let lab = Lab::silent();
    let connection = lab.connect().await;
    let mut call = connection.call().await.unwrap();
    call.send("first".into()).await.unwrap();
    let mut called = lab.server.accept().await.unwrap().call;
    let short = Duration::from_millis(30);
    let late = CallError::TimedOut { waited: short };
    assert_eq!(called.recv_within(short).await, Err(late));
    // Larger than the window of a call: it cannot be there before it is received.
    let large = frame(MAX_CALL_FRAME, 9);
    let sent = large.clone();
    let sending = tokio::spawn(async move {
        call.send(sent).await.unwrap();
        call
    });
    let mut cuts = 0;
    let received = loop {
        match called.recv_within(Duration::from_micros(100)).await {
            Ok(frame) => break frame.unwrap(),
            Err(CallError::TimedOut { .. }) => cuts += 1,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(received == large, "after {cuts} cuts");
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_call_dropped_halfway_is_not_taken_for_a_finished_one() {
    let lab = Lab::silent();
    let connection = lab.connect().await;
    let mut call = connection.call().await.unwrap();
    call.send("first".into()).await.unwrap();
    let mut called = lab.server.accept().await.unwrap().call;
    called.send("half of the answer".into()).await.unwrap();
    assert_eq!(call.recv().await.unwrap().unwrap(), "half of the answer");
    drop(called);
    let given_up = CallError::Closed {
        reason: "the other end gave up the call".to_owned(),
    };
    assert_eq!(call.recv().await, Err(given_up.clone()));
    let more = async {
        loop {
            call.send("more".into()).await?;
            tokio::task::yield_now().await;
        }
    };
    let more: Result<(), CallError> = tokio::time::timeout(SOON, more).await.unwrap();
    assert_eq!(more, Err(given_up));
}

#[tokio::test]
async fn directions_can_be_used_by_two_tasks() {
    let lab = Lab::new();
    let (mut sender, mut receiver) = lab.connect().await.call().await.unwrap().split();
    let sending = async {
        sender.send("first".into()).await.unwrap();
        for seed in 0..20 {
            sender.send(frame(300_000, seed)).await.unwrap();
        }
        sender.finish().unwrap();
    };
    let receiving = async {
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "first");
        for seed in 0..20 {
            assert!(receiver.recv().await.unwrap().unwrap() == frame(300_000, seed));
        }
        assert_eq!(receiver.recv().await, Ok(None));
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn a_call_that_nobody_reads_does_not_hold_up_the_others() {
    let lab = Lab::silent();
    let connection = lab.connect().await;
    let mut stuck = Vec::new();
    for _ in 1..CALLS_PER_CONNECTION {
        let mut call = connection.call().await.unwrap();
        call.send("first".into()).await.unwrap();
        let called = lab.server.accept().await.unwrap();
        let filling =
            tokio::spawn(async move { while call.send(frame(65_536, 0)).await.is_ok() {} });
        stuck.push((called, filling));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let serving = tokio::spawn(super::echo(Arc::clone(&lab.server)));
    assert!(ask(&connection).await.unwrap() < SOON);
    assert!(stuck.iter().all(|(_, filling)| !filling.is_finished()));
    serving.abort();
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_for_a_place() {
    let lab = Lab::silent();
    let connection = lab.connect().await;
    let mut going_on = Vec::new();
    let short = Duration::from_millis(200);
    while let Ok(call) = tokio::time::timeout(short, connection.call()).await {
        let mut call = call.unwrap();
        call.send("first".into()).await.unwrap();
        going_on.push((call, lab.server.accept().await.unwrap()));
    }
    assert_eq!(going_on.len(), STREAMS);
    // All but one of those that are promised go on, and the others still come and go.
    going_on.truncate(CALLS_PER_CONNECTION - 1);
    tokio::spawn(super::echo(Arc::clone(&lab.server)));
    for _ in 0..20 {
        ask(&connection).await.unwrap();
    }
}

#[tokio::test]
async fn the_server_says_why_it_closes_and_then_nobody_answers() {
    let lab = Lab::new();
    let connection = lab.connect().await;
    let mut call = connection.call().await.unwrap();
    call.send("first".into()).await.unwrap();
    call.recv().await.unwrap();
    lab.server.close("restarting\u{1b}[2J").await;
    let reason = "restarting\\u{1b}[2J".to_owned();
    assert_eq!(
        call.recv().await,
        Err(CallError::Closed {
            reason: reason.clone()
        })
    );
    assert_eq!(
        connection.call().await.err(),
        Some(CallError::Closed { reason })
    );
    assert!(lab.server.accept().await.is_none());
}

#[tokio::test]
async fn a_connection_that_is_closed_or_dropped_ends_its_calls_at_the_server() {
    let lab = Lab::silent();
    for dropped in [false, true] {
        let connection = lab.connect().await;
        let mut call = connection.call().await.unwrap();
        call.send("first".into()).await.unwrap();
        let mut called = lab.server.accept().await.unwrap().call;
        match dropped {
            true => drop((call, connection)),
            false => connection.close("that is all").await,
        }
        let ended = tokio::time::timeout(SOON, called.recv()).await.unwrap();
        assert!(matches!(ended, Err(CallError::Closed { .. })), "{ended:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_after_the_timeout() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let (before, limit) = (Instant::now(), Duration::from_millis(300));
    let error = Connection::connect(&[address], &node(), &[node().public()], limit).await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(before.elapsed() >= limit && before.elapsed() < SOON);
    let none = Connection::connect(&[], &node(), &[node().public()], limit).await;
    assert!(matches!(none, Err(CallError::Unreachable { .. })));
}

#[tokio::test]
async fn the_address_that_answers_is_found_among_those_that_do_not() {
    let lab = Lab::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = Server::bind(([127, 0, 0, 1], 0).into(), node(), lab.list.clone()).unwrap();
    let addresses = [
        silent.local_addr().unwrap(),
        other.local_addr(),
        lab.address(),
        "192.0.2.1:9".parse().unwrap(),
    ];
    let peers = [lab.key.public()];
    let connection = Connection::connect(&addresses, &lab.friend, &peers, SOON)
        .await
        .unwrap();
    assert_eq!(connection.remote_address(), lab.address());
    ask(&connection).await.unwrap();
}

#[tokio::test]
async fn a_server_on_all_addresses_serves_both_families() {
    let (key, friend) = (node(), node());
    let any: SocketAddr = "[::]:0".parse().unwrap();
    let server = match Server::bind(any, key.clone(), Arc::new(friend.public())) {
        Ok(server) => Arc::new(server),
        Err(error) => return eprintln!("skipped: no IPv6 here: {error}"),
    };
    tokio::spawn(super::echo(Arc::clone(&server)));
    for host in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(host.parse().unwrap(), server.local_addr().port());
        let connection = Connection::connect(&[address], &friend, &[key.public()], SOON).await;
        ask(&connection.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn one_key_has_its_share_of_connections_and_gets_a_place_when_one_goes() {
    let lab = Lab::new();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS_PER_KEY {
        let connection = lab.connect().await;
        let mut call = connection.call().await.unwrap();
        call.send(frame(1, 1)).await.unwrap();
        call.recv_within(SOON).await.unwrap().unwrap();
        connections.push((connection, call));
    }
    let (addresses, peers) = ([lab.address()], [lab.key.public()]);
    let short = Duration::from_millis(400);
    let error = Connection::connect(&addresses, &lab.friend, &peers, short)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CallError::Unreachable { what } if what.contains("16 connections")),
        "{error}"
    );
    for (connection, _) in &connections {
        ask(connection).await.unwrap();
    }
    let waiting = Connection::connect(&addresses, &lab.friend, &peers, SOON);
    let making_room = async {
        tokio::time::sleep(short).await;
        connections.pop();
    };
    let (connected, ()) = tokio::join!(waiting, making_room);
    ask(&connected.unwrap()).await.unwrap();
}

/// A program that is killed says no goodbye; there may be many of them within the time of a timeout.
#[tokio::test]
async fn connections_that_carry_no_call_keep_nobody_out() {
    let lab = Lab::new();
    let mut left_behind = Vec::new();
    for _ in 0..CONNECTIONS_PER_KEY * 2 {
        let connection = lab.connect().await;
        ask(&connection).await.unwrap();
        left_behind.push(connection);
    }
    assert_eq!(lab.server.connections(), CONNECTIONS_PER_KEY);
    let closed = || left_behind.iter().filter(|it| !it.is_open()).count();
    eventually("the oldest made room", || closed() == CONNECTIONS_PER_KEY).await;
    ask(left_behind.last().unwrap()).await.unwrap();
}
