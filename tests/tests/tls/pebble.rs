//! Let's Encrypt's ACME server for tests, `pebble`, with its own DNS: every name leads to 127.0.0.1.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The name that certificates are for.
pub(crate) const DOMAIN: &str = "call.zynk.example";

const START_LIMIT: Duration = Duration::from_secs(60);
/// Between looks whether it listens.
const POLL: Duration = Duration::from_millis(10);

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Pebble {
    children: [Child; 2],
    folder: tempfile::TempDir,
    /// Its directory; the next one is its management.
    port: u16,
}

impl Pebble {
    /// Starts it on four ports from `port` on; it looks for challenges at `tls_port`.
    pub(crate) fn start(port: u16, tls_port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let at = |offset: u16| format!("127.0.0.1:{}", port + offset);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": at(0),
            "managementListenAddress": at(1),
            "certificate": path("certificate.pem"),
            "privateKey": path("key.pem"),
            // Nobody is there.
            "httpPort": 1,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-dns01", &at(2), "-management", &at(3), "-defaultIPv6", ""]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let mut server = Command::new("pebble");
        server.arg("-config").arg(path("pebble.json")).args(["-dnsserver", &at(2)]);
        server.env("PEBBLE_VA_NOSLEEP", "1");
        let children = [spawn(names, &path("names.log")), spawn(server, &path("pebble.log"))];
        let pebble = Self { children, folder, port };
        let begun = Instant::now();
        for port in [port, port + 1, port + 3] {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                assert!(begun.elapsed() < START_LIMIT, "pebble does not listen:\n{}", pebble.log());
                std::thread::sleep(POLL);
            }
        }
        pebble
    }

    /// What `[tls]` must say to use it.
    pub(crate) fn tls_settings(&self) -> String {
        format!(
            r#"
            [tls.acme]
            domains = ["{DOMAIN}"]
            email = "operator@zynk.example"
            directory_url = "https://127.0.0.1:{}/dir"
            cache_folder = "acme"
            root_certificate_file = "{}"
            "#,
            self.port,
            self.certificate()
        )
    }

    /// What curl gets from `/healthz` of the domain at a port of 127.0.0.1, trusting what this server signs alone.
    pub(crate) fn curl(&self, port: u16) -> String {
        let root = self.folder.path().join("root.pem");
        let management = format!("https://127.0.0.1:{}/roots/0", self.port + 1);
        run_curl(&["--cacert", &self.certificate(), "--output", &root.display().to_string(), &management]);
        let resolve = format!("{DOMAIN}:{port}:127.0.0.1");
        let url = format!("https://{DOMAIN}:{port}/healthz");
        run_curl(&["--cacert", &root.display().to_string(), "--resolve", &resolve, &url])
    }

    /// That of its own HTTPS.
    fn certificate(&self) -> String {
        self.folder.path().join("certificate.pem").display().to_string()
    }

    fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        format!("{}\n{}", read("names.log"), read("pebble.log"))
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- pebble's log:\n{}", self.log());
        }
    }
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

fn run_curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
