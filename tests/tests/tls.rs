//! HTTPS and TURN over TLS on one port, certificates and settings that change while the process runs, and balancers in
//! front, against other people's clients: curl, OpenSSL, coturn's `turnutils_uclient`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/pebble.rs"]
mod pebble;
#[path = "tls/server.rs"]
mod server;

use clients::{Curl, binding_over_tls, shown_certificate, stun_address, uclient};
use pebble::Pebble;
use server::{Keypair, Server};

#[test]
fn https_and_turn_share_a_port() {
    let server = Server::start("");
    let curl = |arguments: &[&str]| Curl::trusting(&server.certificate_file()).run(&server, arguments);
    assert_eq!(curl(&["--http1.1"]).body, "ok");
    assert_eq!(curl(&["--no-alpn"]).body, "ok", "HTTP without ALPN");
    // What is asked for over HTTPS is a WebSocket.
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    let key = ["-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    let token = access_token();
    let path = format!("/rtc?access_token={token}");
    let answer = Curl::trusting(&server.certificate_file())
        .path(&path)
        .run(&server, &[&upgrade[..], &key, &["--include", "--max-time", "2"]].concat());
    assert!(answer.body.starts_with("HTTP/1.1 101"), "{answer:?}");
    // A TURN client that names its protocol, and one that does not.
    binding_over_tls(server.tls_address(), &["-alpn", "stun.turn"]);
    binding_over_tls(server.tls_address(), &[]);
    let relayed = uclient(server.tls_address(), &["-t", "-S", "-E", &server.certificate_file()]);
    relayed.assert_some_relayed();
    // The plain port is as it was.
    assert_eq!(Curl::plain().run(&server, &[]).body, "ok");
}

fn access_token() -> String {
    use zynk_auth::{Claims, KeyRing, VideoGrants};
    let mut claims = Claims::for_identity("alice");
    claims.video = VideoGrants::join("room");
    let keys = KeyRing::single("main", server::SECRET);
    keys.sign(&claims, std::time::Duration::from_secs(600), std::time::SystemTime::now()).unwrap()
}

#[test]
fn the_relays_own_port_shows_the_same_certificate() {
    let server = Server::start("");
    let [_, own] = server.live.turn_ports();
    let of = |port: u16| shown_certificate(([127, 0, 0, 1], port).into(), &[]);
    assert_eq!(of(own), of(server.live.https_port()));
    assert_eq!(of(own), server.keypair.fingerprint_pem());
}

#[tokio::test]
async fn on_sighup_what_can_be_is_applied_and_connections_go_on() {
    let mut server = Server::start("");
    // Both are there before, and go on after.
    let old = server.keypair.clone();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(old.certificate.as_bytes()).unwrap()])
        .resolve("localhost", server.tls_address())
        .pool_idle_timeout(None)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/healthz", server.live.https_port());
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "ok");
    uclient(server.turn_address(), &["-u", "carol", "-w", "carpenter"]).assert_relayed();
    // A call that takes some seconds.
    let call = clients::Call::start(server.turn_address(), &["-t", "-n", "300"]);
    let metrics = format!("{}/metrics", server.live.url());
    let relayed = |metrics: &str| -> u64 {
        let figure = "zynk_turn_relayed_packets_total{direction=\"to_clients\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(figure));
        count.unwrap().parse().unwrap()
    };
    let before = relayed(&client.get(&metrics).send().await.unwrap().text().await.unwrap());
    while relayed(&client.get(&metrics).send().await.unwrap().text().await.unwrap()) == before {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    server.replace_keypair(&Keypair::new());
    server.write_config("bob = \"builder\", alice = \"hunter2\"", "lifetime_s = 700");
    server.live.signal("HUP");
    let line = server.live.wait_for_log("configuration reloaded", 1);
    assert!(line.contains("turn.lifetime_s") && line.contains("turn.users"), "{line}");
    assert!(!line.contains("hunter2"), "{line}");

    // On a connection of before: a new one would not be trusted.
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "ok");
    call.finish().assert_relayed();
    let show = |server: &Server| shown_certificate(server.tls_address(), &[]);
    assert_eq!(show(&server), server.keypair.fingerprint_pem());
    assert_ne!(show(&server), old.fingerprint_pem());
    let [_, own] = server.live.turn_ports();
    assert_eq!(shown_certificate(([127, 0, 0, 1], own).into(), &[]), server.keypair.fingerprint_pem());
    // carol is no user any more.
    uclient(server.turn_address(), &["-u", "carol", "-w", "carpenter"])
        .assert_refused("Cannot complete Allocation");
}

#[test]
fn a_wrong_configuration_changes_nothing_and_ports_take_a_restart() {
    let server = Server::start("");
    let text = std::fs::read_to_string(server.config_file()).unwrap();
    std::fs::write(server.config_file(), format!("{text}\nno_such_key = 1\n")).unwrap();
    server.live.signal("HUP");
    let line = server.live.wait_for_log("the configuration was not reloaded", 1);
    assert!(line.contains("no_such_key: unknown key"), "{line}");
    uclient(server.turn_address(), &[]).assert_relayed();

    std::fs::write(server.config_file(), text.replacen("port = 0", "port = 7001", 1)).unwrap();
    server.live.signal("HUP");
    let line = server.live.wait_for_log("changed settings that take a restart", 1);
    assert!(line.contains("\"keys\":\"port\""), "{line}");
    assert_eq!(Curl::plain().run(&server, &[]).body, "ok");
}

#[test]
fn certificates_are_taken_from_files_that_change_and_half_a_pair_is_not() {
    let mut server = Server::start("certificate_check_interval_s = 1");
    let old = server.keypair.clone();
    let new = Keypair::new();
    std::fs::write(server.certificate_file(), &new.certificate).unwrap();
    let line = server.live.wait_for_log("the old one stays in use", 1);
    assert!(line.contains("WARN"), "{line}");
    assert_eq!(shown_certificate(server.tls_address(), &[]), old.fingerprint_pem());
    server.replace_keypair(&new);
    server.live.wait_for_log("certificates reloaded", 1);
    assert_eq!(shown_certificate(server.tls_address(), &[]), new.fingerprint_pem());
}

#[test]
fn connections_of_the_shared_port_count_as_the_relays_own() {
    let server = Server::start_with_turn("", "[turn.limits]\nconnections_per_source_max = 1");
    let trusted = Some(server.keypair.certificate.as_str());
    let shared = || stun_address(server.live.https_port(), b"", trusted);
    let held = clients::hold_connection(server.turn_address());
    assert_eq!(shared(), None, "there is one already");
    assert_eq!(Curl::trusting(&server.certificate_file()).run(&server, &[]).body, "ok", "HTTP is not meant");
    drop(held);
    // The relay notices some time later.
    let begun = std::time::Instant::now();
    while shared().is_none() {
        assert!(begun.elapsed() < clients::LIMIT, "there is no room again");
    }
}

#[test]
fn a_user_over_quota_is_in_the_log_with_the_reason() {
    let server = Server::start_with_turn("", "[turn.limits]\nuser_allocations_max = 1");
    uclient(server.turn_address(), &["-m", "2"]).assert_refused("error 486");
    let line = server.live.wait_for_log("request refused", 1);
    assert!(line.contains("user_quota") && line.contains("INFO"), "{line}");
    assert!(!line.contains("bob"), "{line}");
}

#[test]
fn balancers_say_whose_a_connection_is() {
    let server = Server::start_behind_balancer();
    // Over HTTP and HTTPS, as curl speaks it.
    let header = ["--haproxy-protocol"];
    assert_eq!(Curl::plain().run(&server, &header).body, "ok");
    assert_eq!(Curl::trusting(&server.certificate_file()).run(&server, &header).body, "ok");
    let refused = Curl::plain().run(&server, &[]);
    assert!(!refused.success, "without a header: {refused:?}");
    let refused = Curl::trusting(&server.certificate_file()).run(&server, &[]);
    assert!(!refused.success, "without a header: {refused:?}");
    // The relay tells a client the address that it has itself been told: over TCP, TLS and the shared port.
    let told = "192.0.2.7:4000".parse().unwrap();
    let [plain, own] = server.live.turn_ports();
    for (port, over_tls) in [(plain, false), (own, true), (server.live.https_port(), true)] {
        for header in [clients::PROXY_V1, clients::PROXY_V2] {
            let trusted = over_tls.then_some(server.keypair.certificate.as_str());
            assert_eq!(stun_address(port, header, trusted), Some(told), "{port}");
        }
        let trusted = over_tls.then_some(server.keypair.certificate.as_str());
        assert_eq!(stun_address(port, b"", trusted), None, "without a header on {port}");
    }
}

#[test]
fn a_certificate_comes_from_an_acme_server_and_is_kept() {
    let port = zynk_tests::free_ports();
    let pebble = Pebble::start(port + 1, port);
    let server = Server::start_with_acme(port, &pebble.tls_settings());
    server.live.wait_for_log("certificate received by ACME", 1);
    // Until it is shown.
    server.live.wait_for_log("certificate renewed", 1);
    let shown = shown_certificate(server.tls_address(), &[]);
    let answer = pebble.curl(port);
    assert_eq!(answer, "ok", "curl trusts it for its name, by the server's root");
    let [_, own] = server.live.turn_ports();
    assert_eq!(shown_certificate(([127, 0, 0, 1], own).into(), &[]), shown, "the relay has it too");
    // The next start needs no server.
    drop(pebble);
    let server = server.restart();
    assert_eq!(shown_certificate(server.tls_address(), &[]), shown);
    let [_, own] = server.live.turn_ports();
    assert_eq!(shown_certificate(([127, 0, 0, 1], own).into(), &[]), shown);
}

#[test]
fn without_a_certificate_the_server_serves_all_the_same_and_says_why() {
    let port = zynk_tests::free_ports();
    let pebble = Pebble::start(port + 1, port + 9);
    let server = Server::start_with_acme(port, &pebble.tls_settings());
    let line = server.live.wait_for_log("no certificate by ACME", 1);
    assert!(line.contains(pebble::DOMAIN) && line.contains("retry_in_s"), "{line}");
    assert_eq!(Curl::plain().run(&server, &[]).body, "ok");
    assert!(!shown_certificate(server.tls_address(), &[]).is_empty());
}
