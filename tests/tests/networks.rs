//! Calls from networks that let little through, and what `zynk doctor` says there. The networks are namespaces of the
//! test's own; the clients are Chromium with LiveKit's SDK, driven by `tests/browser/networks.mjs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[path = "networks/internet.rs"]
mod internet;
#[allow(dead_code, unused_imports, reason = "the browser and interop tests use the rest")]
mod rig;
#[path = "networks/services.rs"]
mod services;

use std::path::Path;
use std::time::Duration;

use internet::{Firewall, RELAYS, SERVER};
use services::{API_KEY, API_SECRET, Services};

/// A call in two browsers, at most.
const LIMIT: Duration = Duration::from_secs(120);

/// Holds a call between alice and bob, and asserts that it succeeds within [`LIMIT`].
fn call(services: &Services, scenario: &str) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/networks.mjs");
    let mut command = services.internet.on("server", "timeout");
    command
        .args(["--kill-after=5", &LIMIT.as_secs().to_string(), "node"])
        .arg(program)
        .arg(scenario)
        .env("ZYNK_URL", format!("http://{SERVER}:7880"))
        .env("ZYNK_API_KEY", API_KEY)
        .env("ZYNK_API_SECRET", API_SECRET);
    let output = command.output().expect("timeout (coreutils) and node start");
    println!("{}", internet::text(&output));
    assert!(output.status.success(), "{scenario} failed; the server's log ends:\n{}", services.log());
}

fn assert_says(words: &str, expected: &[&str]) {
    for expected in expected {
        assert!(words.contains(expected), "{expected:?} is not in\n{words}");
    }
}

#[test]
fn two_clients_behind_symmetric_nats_call_directly() {
    let services = Services::start();
    for client in ["alice", "bob"] {
        let (is_well, words) = services.doctor(client);
        assert!(is_well);
        let expected = [
            "turn:198.18.1.10:3478?transport=udp: sees us as ",
            ", through a NAT (",
            "nat             symmetric: another address for each server",
            "Clients here connect over UDP; this works too: TCP, a relay over UDP, a relay over TCP, a relay over TLS.\n",
        ];
        assert_says(&words, &expected);
        assert!(!words.contains("FAIL"), "{words}");
    }
    call(&services, "direct");
}

#[test]
fn a_client_whose_udp_is_blocked_comes_by_tcp() {
    let services = Services::start();
    services.internet.close("bob", Firewall::NoUdp);
    let (is_well, words) = services.doctor("bob");
    assert!(is_well);
    let expected = [
        "FAIL  media udp       198.18.0.10:7882: no answer within 3 s\n",
        "UDP to 198.18.0.10:7882 gets no answer, while this works: TCP, a relay over TCP, a relay over TLS. Either UDP \
         port 7882 is not open at the server, or a firewall here or on the way drops UDP",
        "FAIL  relay stun      turn:198.18.1.10:3478?transport=udp: no answer within 3 s\n",
        "UDP to 198.18.1.10:3478 gets no answer, while TCP and TLS to the same machine work: a firewall",
        "skip  nat             cannot tell: nothing answers over UDP\n",
        "Clients here connect over TCP; this works too: a relay over TCP, a relay over TLS. What does not work: UDP, a \
         relay over UDP.\n",
    ];
    assert_says(&words, &expected);
    call(&services, "tcp");
}

#[test]
fn a_client_that_has_port_443_alone_comes_by_a_relay_over_tls() {
    let services = Services::start();
    services.internet.close("bob", Firewall::WebOnly);
    let (is_well, words) = services.doctor("bob");
    assert!(is_well);
    let expected = [
        "FAIL  media udp       198.18.0.10:7882: no answer within 3 s\n",
        "FAIL  media tcp       198.18.0.10:7881: no answer within 3 s\n",
        "FAIL  relay connect   turn:198.18.2.10:3478?transport=tcp: no answer within 3 s\n",
        "TCP to 198.18.2.10:3478 gets no answer, while TLS to the same machine works: a firewall",
        "Clients here connect over TLS only, through a relay. What does not work: UDP, TCP, a relay over UDP, a relay \
         over TCP.\n",
    ];
    assert_says(&words, &expected);
    call(&services, "tls");
}

#[test]
fn each_client_goes_by_the_relay_of_its_region() {
    let services = Services::start();
    call(&services, "regions");
}

#[test]
fn a_client_whose_relay_dies_is_back_through_another_within_5_s() {
    let services = Services::start();
    call(&services, "killed");
    let (dead, _) = RELAYS[0];
    assert!(!services.turn(dead, &["list"]).0, "the relay is gone");
    let (is_well, words) = services.doctor("alice");
    assert!(is_well);
    let expected = [
        "FAIL  relay stun      turn:198.18.1.10:3478?transport=udp: connection refused\n",
        "nothing listens at 198.18.1.10:3478: start it there",
        "ok    relay data      turn:198.18.2.10:3478?transport=udp: through the relay to media at 198.18.0.10:7882 and back",
    ];
    assert_says(&words, &expected);
}

#[test]
fn a_client_whose_relays_machine_is_gone_is_back_through_another_within_5_s() {
    let services = Services::start();
    call(&services, "vanished");
    let (is_well, words) = services.doctor("bob");
    assert!(is_well);
    let expected = [
        "FAIL  relay stun      turn:198.18.1.10:3478?transport=udp: ",
        "FAIL  relay connect   turns:198.18.1.10:443?transport=tcp: ",
        "Clients here connect over UDP; this works too: TCP, a relay over UDP, a relay over TCP, a relay over TLS.\n",
    ];
    assert_says(&words, &expected);
}
