//! A server and a program that uses it, both in a namespace that goes away with the test.

pub(crate) mod authority;
pub(crate) mod sandbox;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use authority::Certificates;
use sandbox::{HOST_NAME, Sandbox, VETH_ADDRESS};
use zynk_tests::LiveServer;

/// The API key and secret that `zynk dev` has.
pub(crate) const API_KEY: &str = "devkey";
pub(crate) const API_SECRET: &str = "secret";

/// A running `zynk dev` in a namespace of its own.
pub(crate) struct Rig {
    sandbox: Sandbox,
    server: LiveServer,
    https: Option<Https>,
}

/// What HTTPS, and TURN over TLS on the same port, are known by.
struct Https {
    certificates: Certificates,
    _folder: tempfile::TempDir,
}

/// The namespace has ports of its own: nobody else has these.
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: &str = "7880";

impl Rig {
    /// Starts the server and waits until it says which ports it has.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Same, with environment variables that configure the server.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_on("0", settings)
    }

    /// Same, with HTTPS and TURN over TLS on port 443, for whoever trusts the authority of the certificate.
    pub(crate) fn start_with_https() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::make(folder.path(), &[HOST_NAME]);
        let [certificate, key] =
            [&certificates.certificate, &certificates.key].map(|path| path.display().to_string());
        let settings = [
            ("ZYNK_TLS__ENABLED", "true"),
            ("ZYNK_TLS__BIND", VETH_ADDRESS),
            ("ZYNK_TLS__PORT", &HTTPS_PORT.to_string()),
            ("ZYNK_TLS__CERTIFICATE_FILE", &certificate),
            ("ZYNK_TLS__PRIVATE_KEY_FILE", &key),
        ];
        let mut rig = Self::start_on(HTTP_PORT, &settings);
        assert_eq!(rig.server.https_port(), HTTPS_PORT, "the port that firewalls let through");
        rig.https = Some(Https { certificates, _folder: folder });
        rig
    }

    /// With 0 every port of the server's is a free one, otherwise each is as it is configured.
    fn start_on(http_port: &str, settings: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(LiveServer::binary());
        command
            .args(["dev", "--port", http_port, "--print-ports", "--announce", VETH_ADDRESS])
            .envs(settings.iter().copied());
        Self { server: LiveServer::start_command(command), sandbox, https: None }
    }

    /// Runs a program of `tests/` with Node and asserts that it succeeds within `limit`.
    pub(crate) fn node(self, program: &str, arguments: &[&str], limit: Duration) {
        self.run(Path::new("node"), program, arguments, limit);
    }

    /// Runs a program of `tests/` with the Python of `tests/interop` and asserts that it succeeds
    /// within `limit`.
    pub(crate) fn python(self, program: &str, arguments: &[&str], limit: Duration) {
        let python = tests_folder().join("interop/.venv/bin/python");
        self.run(&python, program, arguments, limit);
    }

    fn run(mut self, interpreter: &Path, program: &str, arguments: &[&str], limit: Duration) {
        let path = tests_folder().join(program);
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = self.sandbox.command(interpreter);
        let [turn, _] = self.server.turn_ports();
        command
            .arg(&path)
            .args(arguments)
            .env("ZYNK_URL", self.server.url())
            .env("ZYNK_API_KEY", API_KEY)
            .env("ZYNK_API_SECRET", API_SECRET)
            .env("ZYNK_TURN_HOST", VETH_ADDRESS)
            .env("ZYNK_TURN_PORT", turn.to_string())
            .stdin(Stdio::null())
            .stdout(writer.try_clone().expect("a pipe's end can be shared"))
            .stderr(writer);
        if let Some(Https { certificates, .. }) = &self.https {
            command
                .env("ZYNK_HTTPS_URL", format!("https://{HOST_NAME}:{HTTPS_PORT}"))
                .env("ZYNK_TURN_HOST", HOST_NAME)
                .env("ZYNK_TURN_PORT", HTTPS_PORT.to_string())
                .env("ZYNK_AUTHORITY_FILE", &certificates.authority);
        }
        let mut child = spawn(&mut command);
        // The command holds the pipe's writing ends; the reader ends when the last one does.
        drop(command);
        let collect = std::thread::spawn(move || {
            let mut output = Vec::new();
            let _ = reader.read_to_end(&mut output);
            String::from_utf8_lossy(&output).into_owned()
        });
        let (sender, finished) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait()));
        let outcome = finished.recv_timeout(limit);
        // Browsers that the program left behind hold the pipe open: end them before reading on.
        self.sandbox.kill();
        let output = collect.join().expect("the reader does not panic");
        println!("{output}");
        let failure = match outcome {
            Ok(Ok(status)) if status.success() => return,
            Ok(status) => format!("failed with {status:?}"),
            Err(_) => format!("had not finished after {limit:?}"),
        };
        panic!(
            "{program} {arguments:?} {failure}:\n{output}\n--- the server's log ends:\n{}",
            self.server.log()
        );
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"))
}

fn tests_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
