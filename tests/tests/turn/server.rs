//! The server that the checks are run against.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(20);
/// How long an answer is waited for until it is asked for again.
const ANSWER_LIMIT: Duration = Duration::from_millis(50);
/// Between looks whether it listens.
const POLL: Duration = Duration::from_millis(10);

/// coturn; Debian's package, as `scripts/setup.sh test` installs it.
const COTURN: &str = "turnserver";

/// A client's way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The family's loopback address.
    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// How the server knows its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// One user with a password.
    User,
    /// A secret, from which anybody who has it makes credentials that end.
    Secret,
}

/// A TURN server on 127.0.0.1 and ::1 that relays to loopback, and all that its clients must know. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct TurnUnderTest {
    ports: Ports,
    pub(crate) authentication: Authentication,
    child: Child,
    folder: tempfile::TempDir,
}

/// The same on both addresses.
#[derive(Clone, Copy, Debug)]
struct Ports {
    /// UDP and TCP.
    plain: u16,
    /// TLS and DTLS.
    secure: u16,
}

impl TurnUnderTest {
    /// Debian's coturn: what shows that a check can be passed.
    pub(crate) fn coturn(authentication: Authentication) -> Self {
        Self::start(authentication, |server, ports| {
            let path = |name: &str| server.join(name).into_os_string();
            let mut command = Command::new(COTURN);
            // No configuration of the machine's, and no database.
            command.arg("-n").arg("--userdb").arg(path("users")).arg("--pidfile").arg(path("pid"));
            command.args(["--log-file", "stdout", "--no-cli", "--relay-threads", "1"]);
            command.args(["--listening-ip", "127.0.0.1", "--listening-ip", "::1"]);
            command.args(["--listening-port", &ports.plain.to_string()]);
            command.args(["--tls-listening-port", &ports.secure.to_string()]);
            command.arg("--cert").arg(path("certificate.pem")).arg("--pkey").arg(path("key.pem"));
            command.args(["--realm", "zynk.test", "--allow-loopback-peers", "--mobility"]);
            match authentication {
                Authentication::User => {
                    command.args(["--lt-cred-mech", "--user", &format!("{USER}:{PASSWORD}")])
                }
                Authentication::Secret => command.args(["--use-auth-secret", "--static-auth-secret", SECRET]),
            };
            command
        })
    }

    /// Ours: `zynk run --roles turn`.
    pub(crate) fn zynk(authentication: Authentication) -> Self {
        Self::start(authentication, |folder, ports| {
            let path = |name: &str| folder.join(name).display().to_string();
            let credentials = match authentication {
                Authentication::User => format!("users = {{ {USER} = \"{PASSWORD}\" }}"),
                Authentication::Secret => format!("auth_secrets = [\"{SECRET}\"]"),
            };
            let config = format!(
                r#"
                port = 0
                roles = ["turn"]
                [log]
                level = "info"
                [turn]
                bind = ["127.0.0.1", "::1"]
                port = {plain}
                tls_ports = [{secure}]
                dtls_ports = [{secure}]
                certificate_file = "{certificate}"
                private_key_file = "{key}"
                relay_bind = ["127.0.0.1", "::1"]
                allow_peers = ["127.0.0.1/32", "127.0.0.0/8", "::1/128"]
                realm = "zynk.test"
                {credentials}
                "#,
                plain = ports.plain,
                secure = ports.secure,
                certificate = path("certificate.pem"),
                key = path("key.pem"),
            );
            std::fs::write(folder.join("zynk.toml"), config).unwrap();
            let mut command = Command::new(zynk_tests::LiveServer::binary());
            command.arg("run").arg("--config").arg(folder.join("zynk.toml"));
            command
        })
    }

    /// Starts what `command` makes of a folder with `certificate.pem` and `key.pem` in it, and of free ports.
    fn start(authentication: Authentication, command: impl FnOnce(&Path, Ports) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let certificate = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        let base = zynk_tests::free_ports();
        // coturn takes the port after each of these as well.
        let ports = Ports { plain: base, secure: base + 2 };
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = command(folder.path(), ports);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let mut server = Self { ports, authentication, child, folder };
        server.wait();
        server
    }

    /// Waits until all its listeners answer.
    fn wait(&mut self) {
        let begun = Instant::now();
        for family in [Family::V4, Family::V6] {
            let is_ready = || {
                let mut listeners = [Transport::Tcp, Transport::Tls].iter();
                answers_binding(self.address(Transport::Udp, family))
                    && udp_is_taken(self.address(Transport::Dtls, family).port())
                    && listeners.all(|transport| {
                        std::net::TcpStream::connect(self.address(*transport, family)).is_ok()
                    })
            };
            while !is_ready() {
                assert!(begun.elapsed() < START_LIMIT, "the server does not listen:\n{}", self.log());
                std::thread::sleep(POLL);
            }
        }
        assert!(self.child.try_wait().unwrap().is_none(), "the server has ended:\n{}", self.log());
    }

    /// Where a client finds it.
    pub(crate) fn address(&self, transport: Transport, family: Family) -> SocketAddr {
        let port = match transport {
            Transport::Udp | Transport::Tcp => self.ports.plain,
            Transport::Tls | Transport::Dtls => self.ports.secure,
        };
        SocketAddr::new(family.loopback(), port)
    }

    /// The user of [`Authentication::User`]; the name in a user name of [`Authentication::Secret`].
    pub(crate) fn user(&self) -> &'static str {
        USER
    }

    /// The password of [`Authentication::User`].
    pub(crate) fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The secret of [`Authentication::Secret`].
    pub(crate) fn secret(&self) -> &'static str {
        SECRET
    }

    /// Its certificate, which has signed itself.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// A port at which the test may let a peer listen; the next one is free as well.
    pub(crate) fn peer_port(&self) -> u16 {
        self.ports.plain + 8
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

const USER: &str = "alice";
const PASSWORD: &str = "wonderland";
const SECRET: &str = "open sesame";

impl Drop for TurnUnderTest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.log());
        }
    }
}

/// Whether a STUN server answers there.
fn answers_binding(server: SocketAddr) -> bool {
    // RFC 8489 section 5: Binding, no attributes, the cookie, a transaction id.
    let request = *b"\x00\x01\x00\x00\x21\x12\xa4\x42ready? ready";
    let client =
        UdpSocket::bind((if server.is_ipv4() { Family::V4 } else { Family::V6 }.loopback(), 0)).unwrap();
    client.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
    let mut answer = [0; 1500];
    client.connect(server).is_ok()
        && client.send(&request).is_ok()
        && client.recv(&mut answer).is_ok()
        && answer[..2] == [1, 1]
        && answer[4..20] == request[4..]
}

/// Whether somebody has this UDP port. To try it would take it away from the server that is just starting.
fn udp_is_taken(port: u16) -> bool {
    let local = format!(":{port:04X}");
    ["/proc/net/udp", "/proc/net/udp6"].iter().any(|path| {
        let sockets = std::fs::read_to_string(path).unwrap_or_default();
        let mut addresses = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
        addresses.any(|address| address.ends_with(&local))
    })
}
