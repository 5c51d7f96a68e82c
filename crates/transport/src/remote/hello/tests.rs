use super::{Decision, FarAddress, Greeting, HelloError, NearHello, Reply};
use crate::quic::{MtuChoice, PublicKey, QuicOptions};
use crate::remote::{MAX_PAYLOAD, Policy};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use std::time::Duration;

fn hello() -> NearHello {
    NearHello {
        version: "0.1.0".to_owned(),
        key: PublicKey([7; 32]),
        token: [9; 32],
        policy: Policy::Auto,
        options: QuicOptions {
            connections: 3,
            mtu: MtuChoice::Fixed(1400),
            window_bytes: 32 << 20,
            idle_timeout: Duration::from_millis(1234),
            keep_alive: Duration::from_millis(200),
            rate: None,
        },
        payload: (0..=255).collect(),
    }
}

#[test]
fn the_greeting_is_found_behind_whatever_a_login_shell_prints() {
    let greeting = Greeting::line("0.1.0");
    let noises = [
        "",
        "Welcome!\nLast login: today\n",
        "no newline at the end",
        "LOCKSTEP-REMOTE is a fine program\n",
        "LOCKSTEP-REMOTE LOCKSTEP-REMOTE ",
        "\u{1b}[0m\0\r\n",
    ];
    for noise in noises {
        let heard = format!("{noise}{greeting}");
        let (found, end) = Greeting::find(heard.as_bytes()).unwrap();
        assert_eq!(
            (found.handshake, found.version.as_str()),
            (1, "0.1.0"),
            "after {noise:?}"
        );
        assert_eq!(end, heard.len());
    }
    assert_eq!(
        Greeting::find(b"LOCKSTEP-REMOTE 1 0.1.0"),
        None,
        "the line is not complete"
    );
    let (terminal, _) = Greeting::find(b"LOCKSTEP-REMOTE 1 0.1.0\r\n").unwrap();
    assert_eq!(terminal.version, "0.1.0");
}

#[test]
fn a_hello_says_the_same_after_the_journey() {
    for policy in [Policy::Auto, Policy::Quic, Policy::Ssh] {
        let hello = NearHello { policy, ..hello() };
        assert_eq!(NearHello::parse(&hello.line()), Ok(hello));
    }
}

#[test]
fn a_hello_out_of_range_is_refused_and_names_the_field() {
    let with = |change: fn(&mut NearHello)| {
        let mut hello = hello();
        change(&mut hello);
        NearHello::parse(&hello.line())
    };
    assert_eq!(
        with(|hello| hello.options.connections = 0),
        Err(HelloError::Field("number of connections"))
    );
    assert_eq!(
        with(|hello| hello.options.connections = 17),
        Err(HelloError::Field("number of connections"))
    );
    assert_eq!(
        with(|hello| hello.payload = vec![0; MAX_PAYLOAD + 1]),
        Err(HelloError::Field("payload"))
    );
    assert_eq!(
        with(|hello| hello.options.window_bytes = u64::MAX)
            .unwrap()
            .options
            .window_bytes,
        1 << 30
    );
    assert_eq!(
        NearHello::parse("LOCKSTEP-NEAR 2 0.2.0 00"),
        Err(HelloError::Handshake(2))
    );
    assert_eq!(
        NearHello::parse("LOCKSTEP-NEAR 1 0.1.0 zz"),
        Err(HelloError::Field("hex text"))
    );
    assert_eq!(
        NearHello::parse("LOCKSTEP-NEAR 1 0.1.0 00"),
        Err(HelloError::Field("key"))
    );
    assert!(matches!(
        NearHello::parse("hello"),
        Err(HelloError::NotAHello(_))
    ));
}

#[test]
fn replies_and_decisions_say_the_same_after_the_journey() {
    let listening = |address: Option<&str>| {
        Reply::Listening(FarAddress {
            key: PublicKey([1; 32]),
            ports: vec![1, 65_535],
            address: address.map(|address| address.parse().unwrap()),
            boot_id: "a-b".to_owned(),
        })
    };
    let replies = [
        listening(None),
        listening(Some("10.0.0.1")),
        listening(Some("fe80::1")),
        Reply::Pipe,
        Reply::NoUdp("no more sockets".to_owned()),
    ];
    for reply in replies {
        assert_eq!(Reply::parse(&reply.line()), Ok(reply));
    }
    for decision in [Decision::Quic, Decision::Pipe] {
        assert_eq!(Decision::parse(decision.line()), Ok(decision));
    }
    let many_ports = format!(
        "LOCKSTEP-FAR key={} ports={} address= boot=",
        "00".repeat(32),
        "1,".repeat(99)
    );
    assert_eq!(Reply::parse(&many_ports), Err(HelloError::Field("ports")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_line_makes_the_parsers_panic_or_grow(line in ".{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = NearHello::parse(&line);
        let _ = Reply::parse(&line);
        let _ = Decision::parse(&line);
        if let Some((greeting, end)) = Greeting::find(&bytes) {
            prop_assert!(end <= bytes.len());
            prop_assert!(greeting.version.len() <= 64);
        }
        prop_assert_eq!(super::from_hex(&super::to_hex(&bytes)), Some(bytes));
    }
}
