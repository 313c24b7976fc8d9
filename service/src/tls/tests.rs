use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::provider;
use super::*;
use crate::http::{HttpConfig, HttpServer};
use crate::shutdown::Shutdown;

const DEADLINE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A server that answers with the client's address, and hands over what begins with `#` or has the ALPN `other`.
struct Server {
    address: SocketAddr,
    plain: SocketAddr,
    acceptor: TlsAcceptor,
    certificate: Certificate,
    others: mpsc::Receiver<TlsConnection>,
    shutdown: Shutdown,
}

impl Server {
    async fn start(config: HttpConfig) -> Self {
        let (sender, others) = mpsc::channel(16);
        let other = OtherProtocol {
            alpn: b"other",
            recognizes: |bytes| bytes.first().map(|first| *first == b'#'),
            take: Arc::new(move |connection| sender.try_send(connection).unwrap()),
        };
        let certificate = Certificate::self_signed().unwrap();
        let acceptor = TlsAcceptor::new(&certificate, Some(other)).unwrap();
        let app = Router::new()
            .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }));
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let server = HttpServer::new(app, &config, shutdown.clone());
        let (listener, plain_listener) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let (address, plain) = (listener.local_addr().unwrap(), plain_listener.local_addr().unwrap());
        tokio::spawn(server.clone().serve_tls(listener, acceptor.clone()));
        tokio::spawn(server.serve(plain_listener));
        Self { address, plain, acceptor, certificate, others, shutdown }
    }

    /// Connects, trusting `certificate` alone.
    async fn connect(
        &self,
        certificate: &Certificate,
        alpn: &[&[u8]],
        before: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.chain()[0].clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(before).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        timeout(DEADLINE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
    }

    async fn other(&mut self) -> TlsConnection {
        timeout(DEADLINE, self.others.recv()).await.unwrap().unwrap()
    }
}

async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn http_is_told_by_alpn_and_without_it_by_the_first_bytes() {
    let server = Server::start(HttpConfig::default()).await;
    for (alpn, chosen) in [
        (&[&b"http/1.1"[..]][..], Some(&b"http/1.1"[..])),
        (&[b"h2", b"http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut stream = server.connect(&server.certificate, alpn, b"").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        let client = stream.get_ref().0.local_addr().unwrap().to_string();
        stream.write_all(REQUEST).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&client), "{answer}");
    }
    assert!(server.connect(&server.certificate, &[b"h2"], b"").await.is_err(), "nobody speaks that");
}

#[tokio::test]
async fn another_protocol_is_handed_over_with_what_came() {
    let mut server = Server::start(HttpConfig::default()).await;
    let mut stream = server.connect(&server.certificate, &[b"other"], b"").await.unwrap();
    let taken = server.other().await;
    assert_eq!((taken.client, &taken.received[..]), (stream.get_ref().0.local_addr().unwrap(), &b""[..]));
    // It works on where it is now.
    taken.socket.set_nonblocking(false).unwrap();
    let answering = tokio::task::spawn_blocking(move || {
        let mut whole = rustls::StreamOwned::new(taken.tls, taken.socket);
        std::io::Write::write_all(&mut whole, b"welcome").unwrap();
        whole.conn.send_close_notify();
        std::io::Write::flush(&mut whole).unwrap();
    });
    assert_eq!(read_to_end(&mut stream).await, "welcome");
    answering.await.unwrap();

    let stream = server.connect(&server.certificate, &[b"http/1.1", b"other"], b"").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"other"[..]), "who offers it means it");
    assert_eq!(server.other().await.received, b"");

    let mut stream = server.connect(&server.certificate, &[], b"").await.unwrap();
    stream.write_all(b"#hello").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(server.other().await.received, b"#hello");
}

#[tokio::test]
async fn new_handshakes_show_the_new_certificate_and_old_connections_go_on() {
    let server = Server::start(HttpConfig::default()).await;
    let mut old = server.connect(&server.certificate, &[b"http/1.1"], b"").await.unwrap();
    let renewed = Certificate::self_signed().unwrap();
    server.acceptor.set_certificate(&renewed).unwrap();
    assert!(server.connect(&renewed, &[b"http/1.1"], b"").await.is_ok());
    assert!(server.connect(&server.certificate, &[b"http/1.1"], b"").await.is_err());
    old.write_all(REQUEST).await.unwrap();
    assert!(read_to_end(&mut old).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_challenge_is_shown_to_who_asks_for_it_and_for_its_domain_alone() {
    let server = Server::start(HttpConfig::default()).await;
    let challenge = Certificate::self_signed().unwrap();
    assert!(server.connect(&challenge, &[b"acme-tls/1"], b"").await.is_err());
    server.acceptor.set_challenge("LOCALHOST", challenge.certified_key().unwrap()).unwrap();
    let stream = server.connect(&challenge, &[b"acme-tls/1"], b"").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert!(server.connect(&server.certificate, &[b"http/1.1"], b"").await.is_ok());
    server.acceptor.remove_challenge("localhost");
    assert!(server.connect(&challenge, &[b"acme-tls/1"], b"").await.is_err());
}

#[tokio::test]
async fn a_balancer_says_whose_a_connection_is() {
    let config =
        HttpConfig { proxy_protocol_from: vec!["127.0.0.0/8".parse().unwrap()], ..HttpConfig::default() };
    let mut server = Server::start(config).await;
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";
    let mut stream = server.connect(&server.certificate, &[], header).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("192.0.2.7:50000"));
    server.connect(&server.certificate, &[b"other"], header).await.unwrap();
    assert_eq!(server.other().await.client, "192.0.2.7:50000".parse().unwrap());

    let mut plain = TcpStream::connect(server.plain).await.unwrap();
    plain.write_all(&[header, REQUEST].concat()).await.unwrap();
    assert!(read_to_end(&mut plain).await.ends_with("192.0.2.7:50000"));

    assert!(server.connect(&server.certificate, &[], b"").await.is_err(), "without a header");
    let mut plain = TcpStream::connect(server.plain).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    assert_eq!(read_to_end(&mut plain).await, "");
}

#[tokio::test]
async fn headers_are_not_believed_from_anywhere() {
    let config =
        HttpConfig { proxy_protocol_from: vec!["192.0.2.0/24".parse().unwrap()], ..HttpConfig::default() };
    let server = Server::start(config).await;
    let mut plain = TcpStream::connect(server.plain).await.unwrap();
    plain.write_all(&[b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n", REQUEST].concat()).await.unwrap();
    assert!(!read_to_end(&mut plain).await.contains("200"));
}

#[tokio::test]
async fn handshakes_end_with_the_server() {
    let server = Server::start(HttpConfig::default()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // One after it has been served, so that it has been accepted.
    server.connect(&server.certificate, &[b"http/1.1"], b"").await.unwrap();
    server.shutdown.trigger();
    assert_eq!(read_to_end(&mut silent).await, "");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (one, other) = (make(), make());
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    std::fs::write(&chain, one.cert.pem()).unwrap();
    std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    let error = Certificate::read(&chain, &key).unwrap_err().to_string();
    assert!(error.starts_with(&chain.display().to_string()), "{error}");
    std::fs::write(&key, one.signing_key.serialize_pem()).unwrap();
    assert!(Certificate::read(&chain, &key).is_ok());
    let error = Certificate::read(&folder.path().join("none"), &key).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
    std::fs::write(&chain, "half a certifi").unwrap();
    assert!(
        Certificate::read(&chain, &key).unwrap_err().to_string().contains("there is no certificate in it")
    );
}
