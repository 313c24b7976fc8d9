//! The process that the checks are run against.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use zynk_tests::LiveServer;

/// The secret of the API key `main`.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A certificate for localhost that signs itself, and its key, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Keypair {
    pub(crate) certificate: String,
    key: String,
}

impl Keypair {
    pub(crate) fn new() -> Self {
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// The certificate as [`crate::clients::shown_certificate`] has it.
    pub(crate) fn fingerprint_pem(&self) -> String {
        self.certificate.split_whitespace().collect()
    }
}

/// `zynk run` with all roles, whose users are `bob`, whose password is `builder`, and `carol`, whose is `carpenter`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) live: LiveServer,
    pub(crate) keypair: Keypair,
    folder: tempfile::TempDir,
    settings: Settings,
}

/// What differs between the checks: further lines of sections.
#[derive(Clone, Debug, Default)]
struct Settings {
    tls: String,
    /// After all keys of `[turn]`.
    turn: String,
    http: String,
    /// The port, if the certificate comes by ACME.
    acme_port: Option<u16>,
}

impl Server {
    /// With further lines of `[tls]`.
    pub(crate) fn start(tls: &str) -> Self {
        Self::start_with(Settings { tls: tls.into(), ..Settings::default() })
    }

    /// With further lines of `[tls]` and `[turn]`.
    pub(crate) fn start_with_turn(tls: &str, turn: &str) -> Self {
        Self::start_with(Settings { tls: tls.into(), turn: turn.into(), ..Settings::default() })
    }

    /// Who connects from loopback says whose the connection is.
    pub(crate) fn start_behind_balancer() -> Self {
        let from = "proxy_protocol_from = [\"127.0.0.0/8\"]";
        Self::start_with(Settings {
            tls: String::new(),
            turn: from.into(),
            http: from.into(),
            acme_port: None,
        })
    }

    /// With a certificate by ACME, on a port that the server of that knows.
    pub(crate) fn start_with_acme(port: u16, tls: &str) -> Self {
        Self::start_with(Settings { tls: tls.into(), acme_port: Some(port), ..Settings::default() })
    }

    /// Ends the process and starts another with the same files.
    pub(crate) fn restart(self) -> Self {
        let Self { live, keypair, folder, settings } = self;
        drop(live);
        Self { live: run(&folder), keypair, folder, settings }
    }

    fn start_with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keypair = Keypair::new();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("certificate.pem"), &keypair.certificate).unwrap();
        std::fs::write(path("key.pem"), &keypair.key).unwrap();
        write_config(&folder, &settings, "bob = \"builder\", carol = \"carpenter\"", "");
        Self { live: run(&folder), keypair, folder, settings }
    }

    /// Writes it anew, with other users and further keys of `[turn]`.
    pub(crate) fn write_config(&self, users: &str, turn: &str) {
        write_config(&self.folder, &self.settings, users, turn);
    }

    /// Puts another certificate into the files, key and all.
    pub(crate) fn replace_keypair(&mut self, keypair: &Keypair) {
        std::fs::write(self.certificate_file(), &keypair.certificate).unwrap();
        std::fs::write(self.folder.path().join("key.pem"), &keypair.key).unwrap();
        self.keypair = keypair.clone();
    }

    pub(crate) fn certificate_file(&self) -> String {
        self.folder.path().join("certificate.pem").display().to_string()
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("zynk.toml")
    }

    /// Where HTTPS and TURN are.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.live.https_port()).into()
    }

    /// Where TURN over UDP and TCP is.
    pub(crate) fn turn_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.live.turn_ports()[0]).into()
    }
}

fn run(folder: &tempfile::TempDir) -> LiveServer {
    let mut command = Command::new(LiveServer::binary());
    command.arg("run").arg("--config").arg(folder.path().join("zynk.toml")).arg("--print-ports");
    command.current_dir(folder.path());
    LiveServer::start_command(command)
}

fn write_config(folder: &tempfile::TempDir, settings: &Settings, users: &str, more_turn: &str) {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let Settings { tls, turn, http, acme_port } = settings;
    let (port, files) = match acme_port {
        Some(port) => (*port, String::new()),
        None => {
            let [certificate, key] = ["certificate.pem", "key.pem"].map(path);
            (0, format!("certificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\""))
        }
    };
    let config = format!(
        r#"
        port = 0
        keys = {{ main = "{SECRET}" }}
        [sfu]
        workers = 1
        ice_tcp_port = 0
        udp_port_first = 0
        announce = ["127.0.0.1"]
        [http]
        # Longer than a test may take on a busy machine.
        header_timeout_s = 600
        {http}
        [tls]
        enabled = true
        bind = "127.0.0.1"
        port = {port}
        {files}
        {tls}
        [turn]
        domain = "localhost"
        bind = ["127.0.0.1"]
        port = 0
        tls_ports = [0]
        dtls_ports = [0]
        relay_bind = ["127.0.0.1"]
        allow_peers = ["127.0.0.1/32"]
        users = {{ {users} }}
        {more_turn}
        {turn}
        "#
    );
    std::fs::write(folder.path().join("zynk.toml"), config).unwrap();
}
