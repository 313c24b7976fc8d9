//! A running `zynk dev`, here or in a sandbox.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 60;

/// The API key and secret that `zynk dev` has.
pub(crate) const API_KEY: &str = "devkey";
pub(crate) const API_SECRET: &str = "secret";

/// A running server. Dropping it ends it, unless it runs in a sandbox, which then does.
pub(crate) struct Server {
    process: Option<Process>,
    http_port: u16,
    log: tempfile::NamedTempFile,
}

struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts the server with `command`, which runs [`binary`] somehow, and waits until it says
    /// which ports it has.
    pub(crate) fn start(mut command: Command, announced: &str, arguments: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut child = command
            .args(["dev", "--port", "0", "--print-ports"])
            .args(["--announce", announced])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().expect("the log file opens"))
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let output = child.stdout.take().expect("stdout is piped");
        let process = Process(child);
        let (sender, lines) = mpsc::channel();
        // Reads on for as long as the server lives, so that it never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let ports = lines
            .recv_timeout(START_LIMIT)
            .unwrap_or_else(|_| panic!("zynk printed no ports:\n{}", tail(log.path())));
        let ports: serde_json::Value =
            serde_json::from_str(&ports).unwrap_or_else(|e| panic!("{ports:?} is no JSON: {e}"));
        let http_port = ports["http"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or_else(|| panic!("no HTTP port in {ports}"));
        Self { process: Some(process), http_port, log }
    }

    /// Where its HTTP is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        tail(self.log.path())
    }

    /// Collects the process after what it ran in has ended it.
    pub(crate) fn wait(&mut self) {
        drop(self.process.take());
    }
}

/// The server that was built beside this test.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let binary = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in deps/ of the profile's folder")
        .join("zynk");
    assert!(binary.exists(), "{} is missing: run `cargo build -p zynk` first", binary.display());
    binary
}

fn tail(log: &Path) -> String {
    let Ok(file) = File::open(log) else {
        return String::new();
    };
    let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
