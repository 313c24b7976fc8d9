//! A server and a program that uses it, both in a namespace that goes away with the test.

mod sandbox;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use sandbox::{Sandbox, VETH_ADDRESS};

const SERVER_START_LIMIT: Duration = Duration::from_secs(30);
const SERVER_LOG_TAIL_LINES: usize = 60;

/// A running `zynk dev` in a namespace of its own.
pub(crate) struct Rig {
    sandbox: Sandbox,
    http_port: u16,
    log: tempfile::NamedTempFile,
}

impl Rig {
    /// Starts the server and waits until it says which ports it has.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Same, with further arguments for `zynk dev`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        let log = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut server = sandbox
            .command(zynk_binary())
            .args(["dev", "--port", "0", "--print-ports"])
            .args(["--announce", VETH_ADDRESS])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().expect("the log file opens"))
            .spawn()
            .expect("nsenter (util-linux) starts");
        let output = server.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        // Reads on for as long as the server lives, so that it never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
            let _ = server.wait();
        });
        let ports = lines
            .recv_timeout(SERVER_START_LIMIT)
            .unwrap_or_else(|_| panic!("zynk printed no ports:\n{}", tail(log.path())));
        let ports: serde_json::Value =
            serde_json::from_str(&ports).unwrap_or_else(|e| panic!("{ports:?} is no JSON: {e}"));
        let http_port = ports["http"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or_else(|| panic!("no HTTP port in {ports}"));
        Self { sandbox, http_port, log }
    }

    /// Runs a program of `tests/` with Node and asserts that it succeeds within `limit`.
    pub(crate) fn node(&mut self, program: &str, arguments: &[&str], limit: Duration) {
        self.run(Path::new("node"), program, arguments, limit);
    }

    /// Runs a program of `tests/` with the Python of `tests/interop` and asserts that it succeeds
    /// within `limit`.
    #[allow(dead_code, reason = "not every test binary has Python programs")]
    pub(crate) fn python(&mut self, program: &str, arguments: &[&str], limit: Duration) {
        let python = tests_folder().join("interop/.venv/bin/python");
        self.run(&python, program, arguments, limit);
    }

    fn run(&mut self, interpreter: &Path, program: &str, arguments: &[&str], limit: Duration) {
        let path = tests_folder().join(program);
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = self.sandbox.command(interpreter);
        command
            .arg(&path)
            .args(arguments)
            .env("ZYNK_URL", format!("http://127.0.0.1:{}", self.http_port))
            .env("ZYNK_API_KEY", "devkey")
            .env("ZYNK_API_SECRET", "secret")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().expect("a pipe's end can be shared"))
            .stderr(writer);
        let (sender, finished) = mpsc::channel();
        let mut child = spawn(&mut command);
        // The command holds the pipe's writing ends; the reader ends when the last one does.
        drop(command);
        let collect = std::thread::spawn(move || {
            let mut output = Vec::new();
            let _ = reader.read_to_end(&mut output);
            String::from_utf8_lossy(&output).into_owned()
        });
        let wait = std::thread::spawn(move || {
            let status = child.wait();
            let _ = sender.send(());
            status
        });
        let in_time = finished.recv_timeout(limit).is_ok();
        // Browsers that the program left behind hold the pipe open: end them before reading on.
        self.sandbox.kill();
        let output = collect.join().expect("the reader does not panic");
        let status = wait.join().expect("the waiter does not panic").expect("the program was waited for");
        println!("{output}");
        assert!(
            in_time && status.success(),
            "{program} {arguments:?} {}:\n{output}\n--- the server's log ends:\n{}",
            if in_time {
                format!("failed with {status}")
            } else {
                format!("had not finished after {limit:?}")
            },
            tail(self.log.path()),
        );
    }
}

fn spawn(command: &mut Command) -> std::process::Child {
    command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"))
}

fn tests_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The server that was built beside this test.
fn zynk_binary() -> PathBuf {
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
    lines[lines.len().saturating_sub(SERVER_LOG_TAIL_LINES)..].join("\n")
}
