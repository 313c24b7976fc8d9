//! `zynk doctor`, `zynk turn list` and `zynk turn kick` against a running server. What they say in networks that let
//! little through: `tests/tests/networks.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret as _;
use serde_json::Value;
use zynk_auth::{KeyRing, TurnCredentials};
use zynk_turn_core::stun::attribute::{NONCE, REALM, REQUESTED_TRANSPORT, USERNAME};
use zynk_turn_core::stun::{Class, IntegrityKey, Message, Method, PasswordAlgorithm, Writer};

/// How long an answer may take that should take a moment.
const LIMIT: Duration = Duration::from_secs(20);

fn zynk(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zynk"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZYNK_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = zynk(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A development server; dropping it ends it.
struct Server {
    child: Child,
    ports: Value,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// With further arguments, and environment variables that configure it.
    fn start_with(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = zynk(&["dev", "--port", "0", "--print-ports"]);
        command.args(arguments).envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, ports: serde_json::from_str(&line).unwrap() }
    }

    fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.ports["http"])
    }

    fn relay(&self) -> String {
        format!("127.0.0.1:{}", self.ports["turn"])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The checks of a report: what was looked at, and how it came out.
fn outcomes(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks.map(|check| (text(&check["check"]), text(&check["outcome"]))).collect()
}

#[test]
fn all_is_well_with_a_development_server() {
    let server = Server::start();
    let (code, stdout, _) = run(&["doctor", "--json", "--url", &server.url()]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"]), (Some(0), &Value::Bool(true)), "{stdout}");
    let found = outcomes(&report);
    for check in
        ["tcp", "alive", "ready", "token", "websocket", "answer", "relays", "media udp", "media tcp", "nat"]
    {
        let of_kind: Vec<_> = found.iter().filter(|(kind, _)| kind == check).collect();
        assert!(
            !of_kind.is_empty() && of_kind.iter().all(|(_, outcome)| outcome == "ok"),
            "{check}: {stdout}"
        );
    }
    // The relay lets clients through to this server's media although that is on loopback.
    assert!(found.contains(&("relay data".to_owned(), "ok".to_owned())), "{stdout}");
    assert!(report["summary"].as_str().unwrap().starts_with("Clients here connect over UDP; "), "{stdout}");
    // The room that it made is gone.
    let (_, rooms, _) = run(&["room", "list", "--url", &server.url()]);
    assert_eq!(rooms.lines().count(), 1, "{rooms}");

    let (_, token, _) = run(&["token", "create", "--room", "lobby", "--identity", "alice"]);
    let (code, stdout, _) = run(&["doctor", "--url", &server.url(), "--token", token.trim()]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(!stdout.contains(token.trim()), "secrets are not printed");
}

#[test]
fn a_server_that_is_on_loopback_alone_is_reached_through_its_relay_too() {
    let server = Server::start_with(&["--announce", "127.0.0.1"], &[]);
    let (code, stdout, _) = run(&["doctor", "--url", &server.url()]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("through the relay to media at 127.0.0.1:") && !stdout.contains("FAIL"),
        "{stdout}"
    );
}

#[test]
fn what_does_not_work_is_named() {
    let server = Server::start();
    let wrong = ["doctor", "--url", &server.url(), "--api-key", "devkey", "--api-secret", "wrong"];
    let (code, stdout, stderr) = run(&wrong);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert!(stdout.contains("FAIL  token") && stdout.contains("is not the server's"), "{stdout}");
    assert!(stdout.ends_with("\n\nClients here cannot make a call: they cannot join.\n"), "{stdout}");

    // Bound, and silent.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = format!("turn:{}", silent.local_addr().unwrap());
    let relay = format!("turn:{}", server.relay());
    let relay_tcp = format!("turn:{}?transport=tcp", server.relay());
    let closed = "turn:127.0.0.1:1?transport=tcp";
    let given = ["--turn-url", &silent, "--turn-url", &relay, "--turn-url", &relay_tcp, "--turn-url", closed];
    let (code, stdout, _) = run(&[&["doctor"], &given[..]].concat());
    assert_eq!(code, Some(0), "{stdout}");
    for expected in [
        &format!("{silent}: no answer within 3 s"),
        // The same host answers elsewhere.
        "gets no answer, while UDP and TCP to the same machine work: a firewall",
        &format!("{closed}: connection refused"),
        "nothing listens at 127.0.0.1:1",
        "to another client's",
        "Clients here connect through a relay over UDP; this works too: a relay over TCP.",
    ] {
        assert!(stdout.contains(expected), "{expected} is not in\n{stdout}");
    }

    let credentials = ["--username", "4000000000:x", "--credential", "hunter2"];
    let (code, stdout, _) = run(&[&["doctor", "--turn-url", &relay], &credentials[..]].concat());
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("401 again, with credentials") && stdout.contains("2096-10-02"), "{stdout}");
    assert!(!stdout.contains("hunter2"));

    let (code, _, stderr) = run(&["doctor", "--turn-url", "http://a.example"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("begins with neither turn: nor turns:"), "{stderr}");
}

#[test]
fn a_certificate_that_nobody_has_signed_is_named() {
    let server = Server::start_with(&[], &[("ZYNK_TURN__TLS_PORTS", "[0]")]);
    let url = format!("turns:127.0.0.1:{}", server.ports["turn_tls"][0]);
    let (code, stdout, _) = run(&["doctor", "--turn-url", &url]);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("FAIL  relay tls") && stdout.contains("clients refuse it"), "{stdout}");
}

/// A relay with TLS whose certificate is by an authority of the test's: it is written to `authority.pem` of the folder.
fn relay_with(folder: &Path, name: &str, mut leaf: rcgen::CertificateParams) -> Server {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    std::fs::write(folder.join("authority.pem"), pem).unwrap();
    let key = KeyPair::generate().unwrap();
    leaf.subject_alt_names = CertificateParams::new(vec![name.to_owned()]).unwrap().subject_alt_names;
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&authority, &authority_key)).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("relay.pem"), leaf.pem()).unwrap();
    std::fs::write(path("relay.key"), key.serialize_pem()).unwrap();
    let settings = [
        ("ZYNK_TURN__TLS_PORTS", "[0]"),
        ("ZYNK_TURN__CERTIFICATE_FILE", &path("relay.pem")),
        ("ZYNK_TURN__PRIVATE_KEY_FILE", &path("relay.key")),
    ];
    Server::start_with(&[], &settings)
}

#[test]
fn what_is_wrong_with_a_certificate_is_named() {
    let params = rcgen::CertificateParams::default;
    let mut expired = params();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut of_the_future = params();
    of_the_future.not_before = rcgen::date_time_ymd(3000, 1, 1);
    for (name, params, expected) in [
        ("127.0.0.1", params(), "the certificate is good for "),
        ("other.example", params(), "the certificate is for other.example, not 127.0.0.1"),
        ("127.0.0.1", expired, "the certificate has expired: 2020-01-01T00:00:00Z"),
        ("127.0.0.1", of_the_future, "the certificate is not valid yet: "),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = relay_with(folder.path(), name, params);
        let url = format!("turns:127.0.0.1:{}", server.ports["turn_tls"][0]);
        let mut command = zynk(&["doctor", "--turn-url", &url]);
        command.env("SSL_CERT_FILE", folder.path().join("authority.pem"));
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(words.contains(expected), "{expected} is not in\n{words}");
        assert_eq!(output.status.success(), expected.contains("good"), "{words}");
    }
}

/// Allocates at a relay; dropping the socket leaves the allocation there.
fn allocate(relay: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.connect(relay).unwrap();
    let secret = KeyRing::single("devkey", "secret").turn_secrets().remove(0);
    let TurnCredentials { username, credential, .. } = secret.credentials("alice", LIMIT, SystemTime::now());
    let ask = |request: &[u8]| {
        let mut answer = vec![0; 1500];
        socket.send(request).unwrap();
        let length = socket.recv(&mut answer).unwrap();
        answer.truncate(length);
        answer
    };
    let mut request = Vec::new();
    let udp = [17, 0, 0, 0];
    Writer::new(&mut request, Class::Request, Method::Allocate, &[1; 12])
        .attribute(REQUESTED_TRANSPORT, &udp);
    let refusal = ask(&request);
    let refusal = Message::parse(&refusal).unwrap();
    let realm = refusal.text(REALM).unwrap();
    let key = IntegrityKey::long_term(PasswordAlgorithm::Md5, &username, realm, credential.expose_secret());
    request.clear();
    Writer::new(&mut request, Class::Request, Method::Allocate, &[2; 12])
        .attribute(REQUESTED_TRANSPORT, &udp)
        .attribute(USERNAME, username.as_bytes())
        .attribute(REALM, realm.as_bytes())
        .attribute(NONCE, refusal.attribute(NONCE).unwrap())
        .sign_sha1(&key);
    assert_eq!(Message::parse(&ask(&request)).unwrap().class(), Class::Success);
    socket
}

#[test]
fn allocations_are_listed_and_kicked() {
    let server = Server::start();
    let (url, client) = (server.url(), allocate(&server.relay()));
    let (code, table, _) = run(&["turn", "list", "--url", &url]);
    let rows: Vec<_> = table.lines().collect();
    assert_eq!((code, rows.len()), (Some(0), 2), "{table}");
    assert!(rows[0].starts_with("ID ") && rows[1].contains("  alice  "), "{table}");
    assert!(rows[1].contains(&client.local_addr().unwrap().to_string()), "{table}");
    let (_, json, _) = run(&["turn", "list", "--json", "--url", &url]);
    let entries: Value = serde_json::from_str(&json).unwrap();
    let id = entries[0]["id"].as_str().unwrap();
    assert!(rows[1].starts_with(id));
    let (code, stdout, _) = run(&["turn", "kick", id, "--url", &url]);
    assert_eq!((code, stdout), (Some(0), format!("kicked {id}\n")));
    let (_, table, _) = run(&["turn", "list", "--url", &url]);
    assert_eq!(table.lines().count(), 1, "{table}");
    let (code, _, stderr) = run(&["turn", "kick", "../rooms", "--url", &url]);
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "zynk: ../rooms: the server answered 404: not_found: there is no such allocation\n");
    let (_, _, stderr) =
        run(&["turn", "list", "--url", &url, "--api-key", "devkey", "--api-secret", "wrong"]);
    assert!(stderr.contains("401"), "{stderr}");
}
