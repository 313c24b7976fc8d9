use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(app: Router, config: HttpConfig) -> Self {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, app, config, shutdown.clone()));
        Self { address, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a connection of its own and reads to the end.
    async fn get(&self, path: &str, more: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }
}

/// What comes until the other side closes. A reset counts as closing.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    String::from_utf8(bytes).unwrap()
}

fn operator_app(ready: Readiness, shutdown: &Shutdown) -> Router {
    with_operator_routes(Router::new(), ready, crate::telemetry::registry("0"), shutdown)
}

#[tokio::test]
async fn readiness_names_its_checks() {
    let ready = Readiness::new();
    let (store, bus) = (ready.check("store"), ready.check("bus"));
    let shutdown = Shutdown::new(DEADLINE);
    let server = Server::start(operator_app(ready, &shutdown), HttpConfig::default()).await;
    store.pass();
    let answer = server.get("/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with(r#"{"ready":false,"checks":{"bus":"starting","store":"ok"}}"#), "{answer}");
    bus.pass();
    assert!(server.get("/readyz", "").await.starts_with("HTTP/1.1 200"));
    bus.fail("no connection");
    assert!(server.get("/readyz", "").await.contains("no connection"));
    bus.pass();
    shutdown.trigger();
    let answer = server.get("/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("draining"), "{answer}");
    assert!(server.get("/healthz", "").await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let shutdown = Shutdown::new(DEADLINE);
    let server = Server::start(operator_app(Readiness::new(), &shutdown), HttpConfig::default()).await;
    let answer = server.get("/metrics", "").await;
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    assert!(answer.contains("process_cpu_seconds_total"), "{answer}");
    assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
}

#[tokio::test]
async fn long_queries_pass_and_longer_ones_are_refused() {
    let app = Router::new().route(
        "/",
        get(|request: Request| async move { request.uri().query().map_or(0, str::len).to_string() }),
    );
    let server = Server::start(app, HttpConfig::default()).await;
    let query = |bytes: usize| format!("/?{}", "q".repeat(bytes));
    assert!(server.get(&query(60_000), "").await.ends_with("\r\n\r\n60000"));
    let header = format!("X-Long: {}\r\n", "h".repeat(200_000));
    assert!(server.get("/", &header).await.starts_with("HTTP/1.1 200"));
    assert!(!server.get(&query(HEADERS_BYTES_MAX + 1), "").await.contains(" 200 "));
}

#[tokio::test]
async fn handlers_know_the_peer() {
    let app = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }));
    let server = Server::start(app, HttpConfig::default()).await;
    assert!(server.get("/", "").await.ends_with("127.0.0.1"));
}

#[tokio::test]
async fn slow_headers_are_cut_off() {
    let config = HttpConfig { header_timeout_s: 1, ..HttpConfig::default() };
    let server = Server::start(Router::new(), config).await;
    let (mut silent, mut slow) = (server.connect().await, server.connect().await);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    read_to_end(&mut silent).await;
    read_to_end(&mut slow).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_others_served() {
    let config = HttpConfig { connections_max: 2, ..HttpConfig::default() };
    let server = Server::start(Router::new().route("/", get(|| async { "hello" })), config).await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 12];
        timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        open.push(stream);
    }
    let mut third = server.connect().await;
    assert_eq!(read_to_end(&mut third).await, "");
    open.pop();
    // The server notices the closed connection some time later.
    timeout(DEADLINE, async {
        while !server.get("/", "").await.ends_with("hello") {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn requests_in_progress_end_and_idle_connections_close_on_shutdown() {
    let (started, mut starts) = tokio::sync::mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let app = Router::new().route(
        "/",
        get(move || {
            let (started, mut released) = (started.clone(), released.clone());
            async move {
                started.send(()).await.unwrap();
                released.wait_for(|released| *released).await.unwrap();
                "finished"
            }
        }),
    );
    let server = Server::start(app, HttpConfig::default()).await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    timeout(DEADLINE, starts.recv()).await.unwrap();
    server.shutdown.trigger();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(!server.task.is_finished());
    release.send(true).unwrap();
    assert!(read_to_end(&mut busy).await.ends_with("finished"));
    timeout(DEADLINE, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
