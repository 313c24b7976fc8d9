//! Programs that are run to their end.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::server::{Family, Transport, TurnUnderTest};

const AIORTC_LIMIT: Duration = Duration::from_secs(60);

/// What is left of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error, in the order in which they were written.
    pub(crate) output: String,
}

/// Runs a program to its end.
///
/// # Panics
/// When it does not end within `limit`; it is killed then.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Finished {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("a pipe's end can be shared"))
        .stderr(writer);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let line = format!("{command:?}");
    // The command holds the pipe's writing ends; the reader ends when the last one does.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, outputs) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        let _ = sender.send(String::from_utf8_lossy(&output).into_owned());
    });
    // None of these programs closes its output before it ends.
    let output = outputs.recv_timeout(limit);
    if output.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().expect("a child can be waited for");
    let finished = match output {
        Ok(output) => Finished { status, output },
        Err(_) => panic!("{line} had not finished after {limit:?}:\n{}", outputs.recv().unwrap_or_default()),
    };
    println!("{line}: {}\n{}", finished.status, finished.output);
    finished
}

/// Two peers of aiortc that may use nothing but relayed addresses.
pub(crate) fn aiortc_call(turn: &TurnUnderTest, transport: Transport) {
    let address = turn.address(transport, Family::V4);
    let url = match transport {
        Transport::Udp => format!("turn:{address}?transport=udp"),
        Transport::Tcp => format!("turn:{address}?transport=tcp"),
        Transport::Tls => format!("turns:{address}?transport=tcp"),
        Transport::Dtls => panic!("aiortc has no DTLS to a relay"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
    let mut command = Command::new(folder.join(".venv/bin/python"));
    command
        .arg(folder.join("turn_relay.py"))
        .args([&url, turn.user(), turn.password()])
        .env("SSL_CERT_FILE", turn.certificate());
    let finished = run(&mut command, AIORTC_LIMIT);
    assert!(finished.status.success(), "{finished:?}");
}
