//! The binary as people and other programs use it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use prost::Message as _;
use tokio_tungstenite::tungstenite::Message;
use zynk_protocol::livekit::signal_response::Message as Signal;
use zynk_protocol::livekit::{DisconnectReason, SignalResponse};

/// How long anything may take that should take a moment.
const LIMIT: Duration = Duration::from_secs(20);

/// The binary, without what the caller's environment would tell it.
fn zynk() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zynk"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZYNK_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    zynk().args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail.
fn failure(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

/// A running server; dropping it ends it.
struct Server {
    child: Child,
    ports: serde_json::Value,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&["dev", "--port", "0", "--print-ports", "--announce", "127.0.0.1"]).1
    }

    /// The server and the file in which its log is.
    fn start_with(arguments: &[&str]) -> (tempfile::NamedTempFile, Self) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child =
            zynk().args(arguments).stdout(Stdio::piped()).stderr(log.reopen().unwrap()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let ports = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{line:?}: {error}\n{}", std::fs::read_to_string(log.path()).unwrap_or_default())
        });
        (log, Self { child, ports, stdout })
    }

    fn http_port(&self) -> u64 {
        self.ports["http"].as_u64().unwrap()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("{}{path}", self.url())).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Sends the signal and waits for the end: its status, and what else was printed.
    fn end(mut self, signal: &str) -> (ExitStatus, String) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "still running after {signal}"),
            }
            std::thread::yield_now();
        };
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (status, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn relays_of_the_configuration_are_told_to_clients() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("secret"), "north\n").unwrap();
    // It has 127.0.0.0/8 in Virginia.
    let places = concat!(env!("CARGO_MANIFEST_DIR"), "/../signaling/tests/places/loopback.mmdb");
    let text = format!(
        "keys = {{ k = '{SECRET}' }}
         [signaling]
         geoip_database = {places:?}
         relay_regions_max = 1
         [[signaling.relays]]
         region = 'eu'
         urls = ['turn:eu.example.org']
         latitude = 50.1
         longitude = 8.7
         [[signaling.relays]]
         region = 'us'
         urls = ['turn:us.example.org']
         latitude = 39
         longitude = -77.5
         secret_file = {:?}",
        path("secret")
    );
    std::fs::write(path("zynk.toml"), text).unwrap();
    let config = path("zynk.toml");
    let arguments = ["run", "--config", &config, "--port", "0", "--print-ports", "--announce", "127.0.0.1"];
    let (_log, server) = Server::start_with(&arguments);
    let room = ["--room", "lobby", "--identity", "alice", "--config", &config];
    let token = stdout(&[&["token", "create"], &room[..]].concat());
    let url = format!("{}/rtc?protocol=17&access_token={}", server.url().replace("http", "ws"), token.trim());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let Some(Ok(Message::Binary(bytes))) = socket.next().await else { panic!("no Join") };
    let Some(Signal::Join(join)) = SignalResponse::decode(bytes).unwrap().message else { panic!("no Join") };
    let [relay] = &join.ice_servers[..] else { panic!("{:?}", join.ice_servers) };
    assert_eq!(relay.urls, ["turn:us.example.org"]);
    assert!(relay.username.ends_with(&join.participant.unwrap().sid), "{}", relay.username);

    // What the command makes is what clients get.
    let credentials = ["turn", "credentials", "--json", "--region", "us", "--config", &config];
    let made: serde_json::Value = serde_json::from_str(&stdout(&credentials)).unwrap();
    assert_eq!(made["uris"], serde_json::json!(relay.urls));
    let credential = |username: &str| zynk_auth::TurnSecret::new("north").credential(username);
    let exposed = |username: &str| secrecy::ExposeSecret::expose_secret(&credential(username)).to_owned();
    assert_eq!(relay.credential, exposed(&relay.username));
    assert_eq!(made["credential"], exposed(made["username"].as_str().unwrap()));
    let secret = stdout(&["turn", "secret", "--config", &config]);
    assert!(secret.trim_end().len() == 44 && !secret.contains(SECRET), "{secret}");
}

#[test]
fn a_geoip_database_that_is_none_ends_the_start() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let text = "keys = { k = '0123456789abcdef0123456789abcdef' }
                signaling = { geoip_database = '/nonexistent/city.mmdb' }";
    std::fs::write(config.path(), text).unwrap();
    let error = failure(&["run", "--port", "0", "--config", config.path().to_str().unwrap()]);
    let expected = "zynk: signaling.geoip_database: /nonexistent/city.mmdb: No such file";
    assert!(error.lines().any(|line| line.starts_with(expected)), "{error}");
}

#[tokio::test]
async fn a_development_server_says_its_ports_and_its_health() {
    let server = Server::start();
    let other = Server::start();
    let ports = |server: &Server| {
        let udp = server.ports["udp"].as_array().unwrap().clone();
        assert!(!udp.is_empty());
        let mut ports = vec![server.ports["http"].clone(), server.ports["ice_tcp"].clone()];
        ports.extend(udp);
        ports.iter().map(|port| port.as_u64().filter(|port| *port > 0).unwrap()).collect::<Vec<_>>()
    };
    let (mine, others) = (ports(&server), ports(&other));
    assert_ne!(mine[0], others[0]);
    assert_ne!(mine[1], others[1]);

    assert_eq!(server.get("/").await, (200, "OK".into()));
    assert_eq!(server.get("/healthz").await, (200, "ok".into()));
    let (status, body) = server.get("/readyz").await;
    assert_eq!((status, body.contains("\"sfu\":\"ok\"")), (200, true), "{body}");
    let (_, metrics) = server.get("/metrics").await;
    for family in ["process_resident_memory_bytes", "zynk_build_info", "zynk_sfu_", "zynk_signaling_"] {
        assert!(metrics.contains(family), "{family} is not in\n{metrics}");
    }
    assert_eq!(server.get("/no/such/page").await.0, 404);
}

#[test]
fn both_signals_end_it_with_success_and_nothing_more_on_standard_output() {
    for signal in ["-TERM", "-INT"] {
        let (status, rest) = Server::start().end(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert_eq!(rest, "");
    }
}

#[tokio::test]
async fn clients_are_told_to_leave_at_shutdown() {
    let server = Server::start();
    let token = stdout(&["token", "create", "--room", "lobby", "--identity", "alice"]);
    let url = format!("ws://127.0.0.1:{}/rtc?access_token={}&protocol=16", server.http_port(), token.trim());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut joined = false;
    let mut server = Some(server);
    let mut ended = None;
    let reason = tokio::time::timeout(LIMIT, async {
        loop {
            let frame = socket.next().await.expect("a Leave comes before the end").unwrap();
            let Message::Binary(bytes) = frame else { continue };
            match SignalResponse::decode(bytes).unwrap().message {
                Some(Signal::Join(_)) => {
                    joined = true;
                    let server = server.take().unwrap();
                    ended = Some(tokio::task::spawn_blocking(move || server.end("-TERM")));
                }
                Some(Signal::Leave(leave)) => break leave.reason(),
                _ => {}
            }
        }
    })
    .await
    .unwrap();
    assert!(joined);
    assert_eq!(reason, DisconnectReason::ServerShutdown);
    drop(socket);
    assert_eq!(ended.unwrap().await.unwrap().0.code(), Some(0));
}

#[tokio::test]
async fn rooms_are_listed_and_deleted() {
    let server = Server::start();
    let url = server.url();
    assert_eq!(stdout(&["room", "list", "--url", &url]).lines().count(), 1);
    let token = stdout(&["token", "create", "--room", "lobby", "--identity", "admin", "--admin"]);
    let created = reqwest::Client::new()
        .post(format!("{url}/twirp/livekit.RoomService/CreateRoom"))
        .bearer_auth(token.trim())
        .json(&serde_json::json!({ "name": "lobby" }))
        .send()
        .await
        .unwrap();
    assert_eq!(created.status().as_u16(), 200);
    let list = stdout(&["room", "list", "--url", &url]);
    assert!(list.lines().nth(1).unwrap().starts_with("lobby "), "{list}");
    assert!(stdout(&["room", "list", "--json", "--url", &url]).contains("\"lobby\""));
    assert_eq!(stdout(&["room", "delete", "lobby", "--url", &url]), "deleted lobby\n");
    assert_eq!(stdout(&["room", "list", "--url", &url]).lines().count(), 1);
    let error = failure(&["room", "delete", "lobby", "--url", &url]);
    assert!(error.contains("not_found"), "{error}");
    let wrong = ["room", "list", "--url", &url, "--api-key", "devkey", "--api-secret", "wrong"];
    assert!(failure(&wrong).contains("401"));
}

#[tokio::test]
async fn a_rooms_statistics_are_printed() {
    let server = Server::start();
    let url = server.url();
    let room = "daily stand-up/2";
    let token = stdout(&["token", "create", "--room", room, "--identity", "alice", "--name", "Alice"]);
    let address =
        format!("ws://127.0.0.1:{}/rtc?access_token={}&protocol=16", server.http_port(), token.trim());
    let (mut socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Binary(_)))), "the Join");
    let tables = stdout(&["room", "stats", room, "--url", &url]);
    for line in
        ["room daily stand-up/2  RM_", "PARTICIPANT  QUALITY  CONNECTION", "PUBLISHER  TRACK", "RECEIVER"]
    {
        assert!(tables.lines().any(|found| found.starts_with(line)), "{line} is not in\n{tables}");
    }
    let rows: Vec<_> = tables.lines().filter(|line| line.starts_with("alice ")).collect();
    assert_eq!(rows.len(), 2, "two connections in\n{tables}");
    let websocket = url.replace("http", "ws");
    let json = stdout(&["room", "stats", room, "--json", "--url", &websocket]);
    let stats: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(stats["participants"][0]["name"], "Alice", "{json}");
    let unknown = failure(&["room", "stats", "nobody's", "--url", &url]);
    assert_eq!(unknown, "zynk: the server answered 404: not_found: requested room does not exist\n");
    let wrong = ["room", "stats", room, "--url", &url, "--api-key", "devkey", "--api-secret", "wrong"];
    assert!(failure(&wrong).contains("401"));
}

#[test]
fn a_token_is_printed_alone() {
    let token = stdout(&["token", "create", "--room", "lobby", "--identity", "alice"]);
    let line = token.strip_suffix('\n').unwrap();
    assert_eq!(line.split('.').count(), 3);
    assert!(line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{line}");
}

#[test]
fn configurations_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zynk.toml");
    let path = path.to_str().unwrap();
    let key = "[keys]\nmain = '0123456789abcdef0123456789abcdef'\n";
    std::fs::write(path, format!("{}\n{key}", stdout(&["config", "example"]).replace("[keys]\n", "")))
        .unwrap();
    assert_eq!(stdout(&["config", "check", path]), "the configuration is good\n");

    std::fs::write(path, format!("{key}[signaling.room]\nempty_timeout_s = \"soon\"\n")).unwrap();
    for command in [&["config", "check", path][..], &["run", "--config", path]] {
        assert_eq!(
            failure(command),
            format!(
                "zynk: {path}:4:19: signaling.room.empty_timeout_s: expected an integer, 0 or more, \
                 found a string \"soon\"\n"
            )
        );
    }
    assert!(failure(&["run"]).contains("no API key"));
}

#[tokio::test]
async fn a_configured_server_logs_json_without_names_and_keeps_its_rooms() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zynk.toml");
    let secret = "0123456789abcdef0123456789abcdef";
    let text = format!(
        "store = 'sqlite:{}'\nlog.level = 'info'\n[keys]\nmain = '{secret}'\n",
        directory.path().join("zynk.db").display()
    );
    std::fs::write(&path, text).unwrap();
    let config = path.to_str().unwrap();
    let arguments = ["run", "--config", config, "--port", "0", "--print-ports", "--announce", "127.0.0.1"];
    let (log, server) = Server::start_with(&arguments);
    let key = ["--api-key", "main", "--api-secret", secret];
    let create = [&["token", "create", "--room", "secret-room", "--identity", "alice-identity"], &key[..]];
    let token = stdout(&create.concat());
    let url = format!("ws://127.0.0.1:{}/rtc?access_token={}&protocol=16", server.http_port(), token.trim());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Binary(_)))), "the Join");
    let url = server.url();
    let list = [&["room", "list", "--url", &url], &key[..]].concat();
    assert!(stdout(&list).contains("secret-room"));
    let ended = tokio::task::spawn_blocking(move || server.end("-TERM")).await.unwrap();
    assert_eq!(ended.0.code(), Some(0));
    assert!(directory.path().join("zynk.db").exists());
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    for name in ["secret-room", "alice-identity", token.trim(), secret] {
        assert!(!log.contains(name), "{name} is in the log:\n{log}");
    }
}

#[test]
fn a_taken_port_is_named() {
    let server = Server::start();
    let port = server.http_port().to_string();
    let arguments =
        ["dev", "--port", &port, "--udp-port", "0", "--ice-tcp-port", "0", "--announce", "127.0.0.1"];
    let error = failure(&arguments);
    assert!(error.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{error}");
}

/// Each row: what the file says after the key, and how the error ends after the file's name.
const REFUSED: [(&str, &str); 10] = [
    ("sfu.workers = 0", ":1:15: sfu.workers: workers must be 1 to 256, not 0"),
    (
        "sfu = { udp_port_first = 65535, workers = 4 }",
        ":1:26: sfu.udp_port_first: udp_port_first 65535 leaves no port for 4 workers",
    ),
    (
        "webhooks.urls = [\"http://a.example\", \"not a url\"]",
        ":1:38: webhooks.urls.1: not an http or https URL: relative URL without a base",
    ),
    ("store = \"redis://x\"", ":1:9: store: store URL must begin with `memory:` or `sqlite:`, not \"redis\""),
    ("bus = \"amqp://x\"", ":1:7: bus: bus URL must begin with `local:`, not \"amqp\""),
    (
        "log.level = \"loud\"",
        ":1:13: log.level: \"loud\" is not a log level: take error, warn, info, debug, trace or off, or \
         module=level",
    ),
    (
        "signaling.room.enabled_codecs = []",
        ":1:33: signaling.room.enabled_codecs: at least one codec is needed",
    ),
    ("signaling.room.audio_top_n = 65", ":1:30: signaling.room.audio_top_n: at most 64, or 0 for all"),
    ("signaling.limits.sessions_max = 0", ":1:33: signaling.limits.sessions_max: must be at least 1"),
    ("http.connections_max = 0", ":1:24: http.connections_max: must be at least 1"),
];

#[test]
fn what_run_refuses_check_refuses_in_the_same_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zynk.toml");
    let path = path.to_str().unwrap();
    for (text, expected) in REFUSED {
        std::fs::write(path, format!("{text}\n[keys]\nmain = '0123456789abcdef0123456789abcdef'\n")).unwrap();
        for command in [&["config", "check", path][..], &["run", "--config", path]] {
            assert_eq!(failure(command), format!("zynk: {path}{expected}\n"), "{command:?} of {text}");
        }
    }
}

#[test]
fn an_example_with_keys_passes_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zynk.toml");
    std::fs::write(&path, stdout(&["config", "example", "--keys"])).unwrap();
    assert_eq!(stdout(&["config", "check", path.to_str().unwrap()]), "the configuration is good\n");
    let line = stdout(&["keys", "generate"]);
    std::fs::write(&path, format!("[keys]\n{line}")).unwrap();
    assert_eq!(stdout(&["config", "check", path.to_str().unwrap()]), "the configuration is good\n");
}

/// A receiver that takes no connections, one that never answers, and a request whose body does not come:
/// none of them holds the exit for the ten seconds that it may take.
#[tokio::test]
async fn nothing_that_hangs_holds_the_exit() {
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = refusing.local_addr().unwrap();
    drop(refusing);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zynk.toml");
    for (urls, limit) in [
        (format!("'http://{refused}/'"), Duration::from_secs(5)),
        (format!("'http://{}/'", silent.local_addr().unwrap()), Duration::from_secs(7)),
    ] {
        let secret = "0123456789abcdef0123456789abcdef";
        std::fs::write(&path, format!("webhooks.urls = [{urls}]\n[keys]\nmain = '{secret}'\n")).unwrap();
        let config = path.to_str().unwrap();
        let arguments =
            ["run", "--config", config, "--port", "0", "--print-ports", "--announce", "127.0.0.1"];
        let (_log, server) = Server::start_with(&arguments);
        let token =
            stdout(&["token", "create", "--room", "a", "--identity", "b", "--admin", "--config", config]);
        let created = reqwest::Client::new()
            .post(format!("{}/twirp/livekit.RoomService/CreateRoom", server.url()))
            .bearer_auth(token.trim())
            .json(&serde_json::json!({ "name": "a" }))
            .send()
            .await
            .unwrap();
        assert_eq!(created.status().as_u16(), 200, "its event waits for the receiver");
        let port = u16::try_from(server.http_port()).unwrap();
        let mut unfinished = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = format!(
            "POST /twirp/livekit.RoomService/CreateRoom HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
            token.trim()
        );
        std::io::Write::write_all(&mut unfinished, head.as_bytes()).unwrap();
        // The server asks for the body: the handler reads it.
        let mut asked = [0; 12];
        unfinished.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100");
        let begin = Instant::now();
        let (status, _) = tokio::task::spawn_blocking(move || server.end("-TERM")).await.unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(begin.elapsed() < limit, "{:?} with {urls}", begin.elapsed());
    }
}
