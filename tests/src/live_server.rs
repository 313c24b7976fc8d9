//! The real binary, on real sockets.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use zynk_auth::{Claims, KeyRing, VideoGrants};

const START_LIMIT: Duration = Duration::from_secs(30);
/// Between looks at the log.
const LOG_POLL: Duration = Duration::from_millis(10);
const LOG_TAIL_LINES: usize = 40;
/// How long minted tokens are valid.
const TOKEN_LIFE: Duration = Duration::from_secs(3_600);

/// A running `zynk dev` on free ports of the loopback interface. Dropping it ends it.
#[derive(Debug)]
pub struct LiveServer {
    child: Child,
    http_port: u16,
    https_port: u16,
    udp_ports: Vec<u16>,
    /// UDP and TCP, TLS.
    turn_ports: [u16; 2],
    log: tempfile::NamedTempFile,
}

impl LiveServer {
    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Same, with further arguments for `zynk dev`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut command = Command::new(Self::binary());
        command.args(["dev", "--port", "0", "--print-ports", "--announce", "127.0.0.1"]).args(arguments);
        Self::start_command(command)
    }

    /// Same, with two workers, and each room on both of them from its third connection on.
    pub fn start_spread() -> Self {
        let mut command = Command::new(Self::binary());
        command
            .args(["dev", "--port", "0", "--print-ports", "--announce", "127.0.0.1", "--workers", "2"])
            .env("ZYNK_SFU__SPREAD_CONNECTIONS", "2");
        Self::start_command(command)
    }

    /// Same, with a command of the caller's that runs [`Self::binary`] and makes it print its ports.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_command(mut command: Command) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let output = child.stdout.take().unwrap();
        let mut server =
            Self { child, http_port: 0, https_port: 0, udp_ports: Vec::new(), turn_ports: [0; 2], log };
        let (sender, lines) = mpsc::channel();
        // Reads on for as long as the server lives, so that it never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let Ok(ports) = lines.recv_timeout(START_LIMIT) else {
            panic!("the server printed no ports:\n{}", server.log());
        };
        let ports: serde_json::Value = serde_json::from_str(&ports).unwrap();
        server.turn_ports =
            [&ports["turn"], &ports["turn_tls"][0]].map(|at| at.as_u64().map_or(0, |_| port(at)));
        server.http_port = port(&ports["http"]);
        server.https_port = ports["https"].as_u64().map_or(0, |_| port(&ports["https"]));
        server.udp_ports = ports["udp"].as_array().unwrap().iter().map(port).collect();
        server
    }

    /// The server that was built beside this test; built now if it is missing.
    pub fn binary() -> PathBuf {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).unwrap();
        let binary = profile.join("zynk");
        if !binary.exists() {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let built =
                Command::new(env!("CARGO")).args(["build", "-p", "zynk"]).current_dir(workspace).status();
            assert!(built.unwrap().success(), "zynk does not build");
        }
        binary
    }

    /// The relay's ports for UDP and TCP, and for TLS; 0 if there is none.
    pub fn turn_ports(&self) -> [u16; 2] {
        self.turn_ports
    }

    /// The port that HTTPS has, with TURN over TLS if it relays; 0 if there is none.
    pub fn https_port(&self) -> u16 {
        self.https_port
    }

    /// Sends it a signal, by its name without `SIG`.
    ///
    /// # Panics
    ///
    /// When that cannot be done.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "SIG{name} was not sent");
    }

    /// Waits until its log, from the beginning on, has so many lines with `text`; returns the last of them.
    ///
    /// # Panics
    ///
    /// When they do not come.
    pub fn wait_for_log(&self, text: &str, lines: usize) -> String {
        let begun = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.log.path()).unwrap();
            if let Some(line) = log.lines().filter(|line| line.contains(text)).nth(lines.saturating_sub(1)) {
                return line.to_owned();
            }
            assert!(begun.elapsed() < START_LIMIT, "{text:?} is not {lines} times in\n{log}");
            std::thread::sleep(LOG_POLL);
        }
    }

    /// Base URL of its HTTP, e.g. `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Base URL of its WebSockets.
    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.address())
    }

    /// Host and port of its HTTP.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    /// Its ports for media over UDP.
    pub fn udp_ports(&self) -> Vec<u16> {
        self.udp_ports.clone()
    }

    /// Resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
        kib * 1024
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let lines: Vec<String> =
            BufReader::new(File::open(self.log.path()).unwrap()).lines().map_while(Result::ok).collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for LiveServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log ends with:\n{}", self.log());
        }
    }
}

fn port(value: &serde_json::Value) -> u16 {
    u16::try_from(value.as_u64().unwrap()).unwrap()
}

/// A token of the development keys that lets `identity` join `room` and change its own metadata.
pub fn token(room: &str, identity: &str) -> String {
    let mut claims = Claims::for_identity(identity);
    claims.video = VideoGrants::join(room);
    claims.video.can_update_own_metadata = Some(true);
    KeyRing::single("devkey", "secret").sign(&claims, TOKEN_LIFE, SystemTime::now()).unwrap()
}
