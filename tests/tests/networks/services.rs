//! The server, and a relay in each of two regions.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use zynk_tests::LiveServer;

use super::internet::{Internet, RELAYS, SERVER, text};
use crate::rig::authority::Certificates;

/// The API key and secret of all of them.
pub(crate) const API_KEY: &str = "networks";
pub(crate) const API_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How long a relay may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Everything that runs in the Internet of a test.
pub(crate) struct Services {
    pub(crate) internet: Internet,
    server: LiveServer,
    relays: Vec<Child>,
    certificates: Certificates,
    _folder: tempfile::TempDir,
}

impl Services {
    /// Starts all, and waits until they serve.
    pub(crate) fn start() -> Self {
        let internet = Internet::new();
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::make(folder.path(), &RELAYS.map(|(_, address)| address));
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let keys = format!("bind = '0.0.0.0'\nkeys = {{ {API_KEY} = '{API_SECRET}' }}\n");
        let mut relays = Vec::new();
        for (region, _) in RELAYS {
            let path = file(&format!("{region}.toml"), keys.clone() + &relay_config(&certificates));
            relays.push(start_relay(&internet, region, &path));
        }
        let config = file("server.toml", keys + &server_config());
        let mut command = internet.on("server", LiveServer::binary());
        command.args(["run", "--print-ports", "--config"]).arg(config);
        let server = LiveServer::start_command(command);
        let services = Self { internet, server, relays, certificates, _folder: folder };
        services.wait_for_relays();
        services
    }

    fn wait_for_relays(&self) {
        let deadline = Instant::now() + START_LIMIT;
        for (region, _) in RELAYS {
            while !self.turn(region, &["list"]).0 {
                assert!(Instant::now() < deadline, "the relay {region} does not start");
            }
        }
    }

    /// What `zynk doctor` says on a machine: its exit code is 0 or not, and its words.
    pub(crate) fn doctor(&self, machine: &str) -> (bool, String) {
        let mut command = self.internet.on(machine, LiveServer::binary());
        command
            .args(["doctor", "--url", &format!("ws://{SERVER}:7880")])
            .args(["--api-key", API_KEY, "--api-secret", API_SECRET])
            .env("SSL_CERT_FILE", &self.certificates.authority);
        let output = command.output().expect("zynk starts");
        println!("doctor on {machine}:\n{}", text(&output));
        (output.status.success(), text(&output))
    }

    /// What `zynk turn` says of a relay, on the relay's machine.
    pub(crate) fn turn(&self, region: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = self.internet.on(&format!("relay-{region}"), LiveServer::binary());
        command.arg("turn").args(arguments).args(["--api-key", API_KEY, "--api-secret", API_SECRET]);
        let output = command.output().expect("zynk starts");
        (output.status.success(), text(&output))
    }

    /// The end of the server's log.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.internet.end();
        for relay in &mut self.relays {
            let _ = relay.wait();
        }
    }
}

/// The relay writes its process' number to `/run/relay-REGION.pid` of the sandbox.
fn start_relay(internet: &Internet, region: &str, config: &Path) -> Child {
    let script = format!("echo $$ > /run/relay-{region}.pid; exec \"$@\"");
    let mut command = internet.on(&format!("relay-{region}"), "sh");
    command.args(["-c", &script, "sh"]).arg(LiveServer::binary()).args(["run", "--config"]).arg(config);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the relay starts")
}

fn relay_config(certificates: &Certificates) -> String {
    format!(
        "roles = ['turn']
         [turn]
         tls_ports = [443]
         certificate_file = '{}'
         private_key_file = '{}'
         # The range of the test's own Internet is nobody's on the real one.
         allow_peers = ['198.18.0.0/15']\n",
        certificates.certificate.display(),
        certificates.key.display()
    )
}

fn server_config() -> String {
    // It has alice's address in Frankfurt.
    let places = concat!(env!("CARGO_MANIFEST_DIR"), "/../signaling/tests/places/city-ipv4.mmdb");
    let mut text = format!(
        "roles = ['sfu', 'signaling']
         [sfu]
         workers = 1
         [signaling]
         geoip_database = '{places}'
         relay_regions_max = 2\n"
    );
    // What is far from alice comes first, so that the order alone does not help her.
    for ((region, address), longitude) in RELAYS.into_iter().rev().zip([-77.5, 8.7]) {
        text += &format!(
            "[[signaling.relays]]
             region = '{region}'
             urls = [
                 'turn:{address}:3478?transport=udp',
                 'turn:{address}:3478?transport=tcp',
                 'turns:{address}:443?transport=tcp',
             ]
             latitude = 45.0
             longitude = {longitude}\n"
        );
    }
    text
}
