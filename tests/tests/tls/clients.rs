//! Other people's clients.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::server::Server;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How long an echo is waited for until there is another call.
const ECHO_LIMIT: Duration = Duration::from_millis(50);
/// Between calls that nobody hears yet.
const ECHO_POLL: Duration = Duration::from_millis(10);

/// RFC 8489 section 5: Binding, no attributes, the cookie, a transaction id.
const BINDING: &[u8; 20] = b"\x00\x01\x00\x00\x21\x12\xa4\x42over TLS ok?";

/// A client at 192.0.2.7:4000, told by a balancer.
pub(crate) const PROXY_V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n";
pub(crate) const PROXY_V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x0f\xa0\x01\xbb";

/// An invocation of curl, for `/healthz` unless another path is said.
#[derive(Debug)]
pub(crate) struct Curl {
    trusted: Option<String>,
    path: String,
}

/// What it got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) body: String,
}

impl Curl {
    /// Over HTTPS, trusting the certificate in a file alone.
    pub(crate) fn trusting(certificate: &str) -> Self {
        Self { trusted: Some(certificate.into()), path: "/healthz".into() }
    }

    /// Over HTTP.
    pub(crate) fn plain() -> Self {
        Self { trusted: None, path: "/healthz".into() }
    }

    pub(crate) fn path(self, path: &str) -> Self {
        Self { path: path.into(), ..self }
    }

    pub(crate) fn run(self, server: &Server, arguments: &[&str]) -> Answer {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--ipv4", "--max-time", "10"]);
        command.args(arguments);
        match &self.trusted {
            Some(certificate) => {
                command.args(["--cacert", certificate]);
                command.arg(format!("https://localhost:{}{}", server.live.https_port(), self.path));
            }
            None => _ = command.arg(format!("{}{}", server.live.url(), self.path)),
        }
        let output = command.output().unwrap();
        println!("{command:?}: {output:?}");
        Answer { success: output.status.success(), body: String::from_utf8_lossy(&output.stdout).into() }
    }
}

/// Asks a relay for the own address as OpenSSL speaks TLS, with these arguments.
pub(crate) fn binding_over_tls(address: SocketAddr, arguments: &[&str]) {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(BINDING).unwrap();
    input.flush().unwrap();
    let mut output = client.stdout.take().unwrap();
    let (sender, answers) = mpsc::channel();
    std::thread::spawn(move || {
        let mut answer = [0; 20];
        let _ = sender.send(output.read_exact(&mut answer).map(|()| answer));
    });
    let answer = answers.recv_timeout(LIMIT);
    let _ = client.kill();
    let _ = client.wait();
    let answer = answer.expect("there is an answer in time").unwrap();
    assert_eq!((&answer[..2], &answer[4..]), (&[1, 1][..], &BINDING[4..]));
}

/// The certificate that a server shows, in PEM without white space.
pub(crate) fn shown_certificate(address: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, tail) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let begin = text.find(head).unwrap_or_else(|| panic!("no certificate in {output:?}"));
    let end = text[begin..].find(tail).unwrap() + begin + tail.len();
    text[begin..end].split_whitespace().collect()
}

/// Asks a relay on loopback for the own address, after a PROXY header, over TLS if a certificate is to be trusted.
pub(crate) fn stun_address(port: u16, header: &[u8], trusted: Option<&str>) -> Option<SocketAddr> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(header).unwrap();
    let mut answer = [0; 32];
    let result = match trusted {
        None => socket.write_all(BINDING).and_then(|()| socket.read_exact(&mut answer)),
        Some(certificate) => {
            let mut tls = rustls::StreamOwned::new(tls_client(certificate), socket);
            tls.write_all(BINDING).and_then(|()| tls.read_exact(&mut answer))
        }
    };
    result.ok()?;
    // XOR-MAPPED-ADDRESS of IPv4 (RFC 8489, section 14.2), the only attribute.
    assert_eq!((&answer[..2], &answer[20..26]), (&[1, 1][..], &[0, 0x20, 0, 8, 0, 1][..]), "{answer:?}");
    let port = u16::from_be_bytes([answer[26] ^ 0x21, answer[27] ^ 0x12]);
    let ip = [answer[28] ^ 0x21, answer[29] ^ 0x12, answer[30] ^ 0xa4, answer[31] ^ 0x42];
    Some((ip, port).into())
}

/// A connection over TCP that a relay has taken: it has answered on it.
pub(crate) fn hold_connection(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(BINDING).unwrap();
    socket.read_exact(&mut [0; 32]).unwrap();
    socket
}

fn tls_client(certificate: &str) -> rustls::ClientConnection {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

/// A run of coturn's `turnutils_uclient`, with the user `bob`, through the relay to a peer that sends all back.
#[derive(Debug)]
pub(crate) struct Call {
    child: Child,
    _peer: Echo,
}

/// coturn's `turnutils_peer`. Dropping it ends it.
#[derive(Debug)]
struct Echo(Child);

impl Echo {
    /// Starts it, and waits until it answers.
    fn start(port: u16) -> Self {
        let mut command = Command::new("turnutils_peer");
        command.args(["-L", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let echo = Self(child);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(ECHO_LIMIT)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let begun = Instant::now();
        while socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 64])).is_err() {
            assert!(begun.elapsed() < LIMIT, "{command:?} does not answer");
            std::thread::sleep(ECHO_POLL);
        }
        echo
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it said.
#[derive(Debug)]
pub(crate) struct Relayed {
    success: bool,
    output: String,
}

impl Call {
    pub(crate) fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let peer_port = zynk_tests::free_ports();
        let peer = Echo::start(peer_port);
        let mut command = Command::new("turnutils_uclient");
        command.args(["-u", "bob", "-w", "builder", "-n", "10", "-c", "-e", "127.0.0.1"]);
        command.args(["-r", &peer_port.to_string()]).args(arguments);
        command.args(["-p", &address.port().to_string(), &address.ip().to_string()]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, _peer: peer }
    }

    pub(crate) fn finish(self) -> Relayed {
        let Self { child, _peer } = self;
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let relayed =
            Relayed { success: output.status.success(), output: String::from_utf8_lossy(&text).into_owned() };
        println!("{}", relayed.output);
        relayed
    }
}

/// Runs it to its end.
pub(crate) fn uclient(address: SocketAddr, arguments: &[&str]) -> Relayed {
    Call::start(address, arguments).finish()
}

impl Relayed {
    /// Asserts that messages were sent and that each came back.
    pub(crate) fn assert_relayed(&self) {
        assert!(self.success, "{}", self.output);
        assert!(
            self.output.contains("Total lost packets 0 (0.000000%), total send dropped 0 (0.000000%)"),
            "messages were lost:\n{}",
            self.output
        );
    }

    /// Asserts that something came back. (Over TLS, `turnutils_uclient` loses messages on a busy machine.)
    pub(crate) fn assert_some_relayed(&self) {
        assert!(self.success, "{}", self.output);
        let counts = self.output.lines().rev().find_map(|line| line.split_once("tot_recv_msgs="));
        let received = counts.and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
        assert!(received.is_some_and(|count| count != "0"), "{}", self.output);
    }

    /// Asserts that the server refused an allocation, of which it says `complaint`.
    pub(crate) fn assert_refused(&self, complaint: &str) {
        assert!(!self.success, "{}", self.output);
        assert!(self.output.contains(complaint), "{}", self.output);
    }
}
