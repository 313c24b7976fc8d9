//! Starting, steering and ending the relay.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use mio::{Poll, Waker};
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;
use zynk_auth::KeyRing;
use zynk_net::{BindError, SocketOptions, UdpSocket};
use zynk_turn_core::{AllocationId, AllocationReport, Transport, TurnServer};

use crate::commands::{self, WorkerCommand, WorkerDoor, WorkerSettings};
use crate::config::TurnConfig;
use crate::dtls::DtlsClients;
use crate::handover::TlsDoor;
use crate::metrics::{self, WorkerMetrics};
use crate::short_cuts::{self, ConnectServices};
use crate::streams::Streams;
use crate::tls::{self, Certificate, TurnCertificate};
use crate::tokens::{self, Kind};
use crate::worker::{ClientSocket, Worker, WorkerParts};

/// Ports that are tried when any free one will do.
const FREE_PORT_TRIES: usize = 32;

/// Connections that the kernel accepts before a worker does.
const LISTEN_BACKLOG: i32 = 1024;

/// Buffers of a clients' socket: all clients of a worker share it.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// How often it is looked whether all allocations have ended, while the relay drains.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

/// The relay cannot start, or not be changed as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// A setting makes no sense. The operator's configuration.
    #[error("{key}: {problem}")]
    Config {
        /// Which.
        key: &'static str,
        /// Why.
        problem: String,
    },
    /// Nobody could use it: there are no users and no secrets. The operator's configuration.
    #[error("there are no credentials: neither auth_secrets nor users nor API keys")]
    NoCredentials,
    /// The certificate cannot be used. The operator's configuration.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A UDP port is taken, or there is no such address.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// A TCP port is taken, or there is no such address.
    #[error("cannot listen on TCP {address}: {source}")]
    Tcp {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// DTLS cannot be set up.
    #[error("DTLS: {0}")]
    Dtls(String),
    /// The system has no thread or poll left.
    #[error("cannot start a relay's thread: {0}")]
    Thread(#[source] io::Error),
    /// A worker does not take commands: it is stuck, or has ended.
    #[error("the relay does not respond")]
    Busy,
}

/// Where clients find the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnAddresses {
    /// UDP.
    pub udp: Vec<SocketAddr>,
    /// TCP.
    pub tcp: Vec<SocketAddr>,
    /// TLS over TCP.
    pub tls: Vec<SocketAddr>,
    /// DTLS over UDP.
    pub dtls: Vec<SocketAddr>,
    /// What clients can use for the address where sockets are bound to all of them.
    pub announced: Vec<IpAddr>,
}

/// A running relay.
#[derive(Debug)]
pub struct TurnHandle {
    workers: Vec<WorkerDoor>,
    threads: Vec<JoinHandle<()>>,
    addresses: TurnAddresses,
    nonce_key: NonceKey,
    services: Vec<SocketAddr>,
    /// What is shown where nobody has another certificate.
    self_signed: Option<TurnCertificate>,
    health: TurnHealth,
}

/// What nonces are made with.
struct NonceKey([u8; 32]);

/// Shows nothing of it.
impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey")
    }
}

/// Steers a running relay; clones share it, and do not keep it alive.
#[derive(Clone, Debug)]
pub struct TurnControl {
    workers: Vec<WorkerDoor>,
}

/// Tells whether the relay works; for readiness probes.
#[derive(Clone, Debug)]
pub struct TurnHealth {
    workers: Vec<Arc<WorkerMetrics>>,
}

impl TurnHealth {
    /// Whether every worker's loop turns.
    pub fn is_ready(&self) -> bool {
        self.workers.iter().all(|worker| worker.is_ready())
    }

    /// Allocations now.
    pub fn allocations(&self) -> u64 {
        self.workers.iter().map(|worker| worker.allocations()).sum()
    }
}

impl TurnControl {
    /// All allocations.
    pub async fn list(&self) -> Result<Vec<AllocationReport>, TurnError> {
        let mut all = Vec::new();
        for worker in &self.workers {
            let (sender, answer) = oneshot::channel();
            worker.send(WorkerCommand::List(sender))?;
            all.extend(answer.await.map_err(|_| TurnError::Busy)?);
        }
        Ok(all)
    }

    /// Ends an allocation, if there is one of that name.
    pub fn kick(&self, allocation: AllocationId) -> Result<(), TurnError> {
        self.workers.iter().try_for_each(|worker| worker.send(WorkerCommand::Kick(allocation)))
    }
}

impl TurnHandle {
    /// Where clients find it.
    pub fn addresses(&self) -> &TurnAddresses {
        &self.addresses
    }

    /// For readiness probes.
    pub fn health(&self) -> TurnHealth {
        self.health.clone()
    }

    /// For the operator's API.
    pub fn control(&self) -> TurnControl {
        TurnControl { workers: self.workers.clone() }
    }

    /// For who accepts TURN over TLS on a port of its own.
    pub fn tls_door(&self) -> TlsDoor {
        TlsDoor::new(&self.workers)
    }

    /// Takes another configuration, and reads the certificate anew; `certificate` is what is shown if the configuration names
    /// none. Allocations go on. Addresses, ports and the number of workers stay: they take a restart.
    pub fn reload(
        &mut self,
        config: &TurnConfig,
        keys: &KeyRing,
        certificate: Option<&TurnCertificate>,
    ) -> Result<(), TurnError> {
        config.check()?;
        let credentials = config.credentials(keys);
        if credentials.is_empty() {
            return Err(TurnError::NoCredentials);
        }
        let certificate = load_certificate(config, certificate, &mut self.self_signed)?;
        let workers = u8::try_from(self.workers.len()).unwrap_or(u8::MAX);
        let config = &TurnConfig { workers, ..config.clone() };
        for (worker, index) in self.workers.iter().zip(0..) {
            let settings = WorkerSettings {
                server: config.server(credentials.clone(), &self.services, self.nonce_key.0, index),
                streams: config.streams(),
                certificate: certificate.clone(),
            };
            worker.send(WorkerCommand::Configure(Box::new(settings)))?;
        }
        Ok(())
    }

    /// Takes no new allocations, and waits until the last has ended.
    pub async fn drain(&self) {
        for worker in &self.workers {
            // One that does not listen has nothing to drain.
            let _ = worker.send(WorkerCommand::Drain);
        }
        // The first look comes after every worker has told what it has.
        loop {
            tokio::time::sleep(DRAIN_INTERVAL).await;
            if self.health.allocations() == 0 {
                return;
            }
        }
    }

    /// Ends all threads, and with them all allocations.
    pub async fn join(self) {
        for worker in self.workers {
            // One that takes no commands ends when nobody can send it any.
            let _ = worker.send(WorkerCommand::Stop);
        }
        let threads = self.threads;
        // A thread that panicked has said so in the log.
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

/// Starts the relay: binds its sockets and starts its threads. `services` are addresses of this machine that clients may
/// reach through it: the media ports of our own SFU. `connect` makes the short cuts there for each worker. `certificate`
/// is shown if the configuration names none; without either, one is made that nobody trusts.
pub fn start(
    config: &TurnConfig,
    keys: &KeyRing,
    services: Vec<SocketAddr>,
    certificate: Option<&TurnCertificate>,
    connect: &ConnectServices<'_>,
    registry: &mut Registry,
) -> Result<TurnHandle, TurnError> {
    config.check()?;
    let credentials = config.credentials(keys);
    if credentials.is_empty() {
        return Err(TurnError::NoCredentials);
    }
    let mut self_signed = None;
    let certificate = load_certificate(config, certificate, &mut self_signed)?;
    let port = if config.port == 0 { free_port(config)? } else { config.port };
    let config = &TurnConfig { port, ..config.clone() };
    let nonce_key: [u8; 32] = rand::random();
    let mut addresses = TurnAddresses { announced: config.announced(), ..TurnAddresses::default() };
    let (mut workers, mut threads, mut health) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..config.workers {
        let metrics = Arc::new(WorkerMetrics::new());
        let poll = Poll::new().map_err(TurnError::Thread)?;
        let waker =
            Arc::new(Waker::new(poll.registry(), tokens::token(Kind::Waker, 0)).map_err(TurnError::Thread)?);
        let (door, commands, handed_over) = commands::door(waker.clone());
        let server = config.server(credentials.clone(), &services, nonce_key, index);
        let server = TurnServer::new(server, rand::random(), Instant::now(), SystemTime::now());
        let sockets = bind_sockets(config, &mut addresses)?;
        let mut streams = Streams::new(Some(certificate.tls.clone()), config.streams(), handed_over);
        listen_all(config, &poll, &mut streams, &mut addresses)?;
        let mut dtls =
            DtlsClients::new(certificate.dtls.clone(), config.limits.connections_max, Instant::now())
                .map_err(|error| TurnError::Dtls(error.to_string()))?;
        dtls.set_limits(config.limits.connections_max, config.limits.connections_per_source_max);
        let worker = Worker::new(WorkerParts {
            server,
            poll,
            commands,
            sockets,
            streams,
            dtls,
            short_cuts: short_cuts::tunnels(connect(waker)),
            hold_back_max: Duration::from_micros(config.hold_back_us_max),
            metrics: metrics.clone(),
        })
        .map_err(TurnError::Thread)?;
        let thread_metrics = metrics.clone();
        let thread = thread::Builder::new().name(format!("turn-{index}")).spawn(move || {
            // Also when the loop panics: then the probe must fail.
            let _ended = OnDrop(thread_metrics);
            if let Err(error) = worker.run() {
                tracing::error!(%error, "a relay's thread has ended");
            }
        });
        threads.push(thread.map_err(TurnError::Thread)?);
        workers.push(door);
        health.push(metrics);
    }
    metrics::register(registry, health.clone());
    tracing::info!(udp = ?addresses.udp, tcp = ?addresses.tcp, tls = ?addresses.tls, dtls = ?addresses.dtls, "relay started");
    Ok(TurnHandle {
        workers,
        threads,
        addresses,
        nonce_key: NonceKey(nonce_key),
        services,
        self_signed,
        health: TurnHealth { workers: health },
    })
}

/// The configuration's certificate, or what stands in for it; made here and kept in `self_signed` if nothing does.
fn load_certificate(
    config: &TurnConfig,
    certificate: Option<&TurnCertificate>,
    self_signed: &mut Option<TurnCertificate>,
) -> Result<Certificate, TurnError> {
    Certificate::load(config, || match (certificate, &self_signed) {
        (Some(certificate), _) => Ok(certificate.clone()),
        (None, Some(made)) => Ok(made.clone()),
        (None, None) => Ok(self_signed.insert(tls::self_signed()?).clone()),
    })
}

/// Notes the end of a thread.
struct OnDrop(Arc<WorkerMetrics>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// A port that is free for UDP and TCP on all addresses: clients are told one.
fn free_port(config: &TurnConfig) -> Result<u16, TurnError> {
    let first = config.bind.first().copied().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let mut last = 0;
    for _ in 0..FREE_PORT_TRIES {
        let address = SocketAddr::new(first, 0);
        let error = |source| TurnError::Tcp { address, source };
        let listener = listen(address, false).map_err(error)?;
        last = listener.local_addr().map_err(error)?.port();
        drop(listener);
        let is_free = config.bind.iter().all(|ip| {
            let address = SocketAddr::new(*ip, last);
            std::net::UdpSocket::bind(address).is_ok() && listen(address, false).is_ok()
        });
        if is_free {
            break;
        }
    }
    Ok(last)
}

/// Binds the UDP sockets of one worker. All workers have the same addresses: the first that binds decides.
fn bind_sockets(config: &TurnConfig, addresses: &mut TurnAddresses) -> Result<Vec<ClientSocket>, TurnError> {
    let options = SocketOptions {
        recv_buffer_bytes: SOCKET_BUFFER_BYTES,
        send_buffer_bytes: SOCKET_BUFFER_BYTES,
        reuse_port: config.workers > 1,
    };
    let mut sockets = Vec::new();
    let mut bind = |port: u16, transport: Transport, known: &mut Vec<SocketAddr>| -> Result<(), TurnError> {
        for ip in &config.bind {
            let socket = UdpSocket::bind(SocketAddr::new(*ip, port), options)?;
            if !known.contains(&socket.local_addr()) {
                known.push(socket.local_addr());
            }
            sockets.push(ClientSocket::new(socket, transport));
        }
        Ok(())
    };
    if config.udp {
        bind(config.port, Transport::Udp, &mut addresses.udp)?;
    }
    for port in &config.dtls_ports {
        bind(*port, Transport::Dtls, &mut addresses.dtls)?;
    }
    Ok(sockets)
}

fn listen_all(
    config: &TurnConfig,
    poll: &Poll,
    streams: &mut Streams,
    addresses: &mut TurnAddresses,
) -> Result<(), TurnError> {
    let tcp = config.tcp.then_some((config.port, Transport::Tcp));
    let tls = config.tls_ports.iter().map(|port| (*port, Transport::Tls));
    for (port, transport) in tcp.into_iter().chain(tls) {
        for ip in &config.bind {
            let address = SocketAddr::new(*ip, port);
            let error = |source| TurnError::Tcp { address, source };
            let listener = listen(address, config.workers > 1).map_err(error)?;
            let bound = listener.local_addr().map_err(error)?;
            streams.listen(poll.registry(), listener, transport).map_err(error)?;
            let known = if transport == Transport::Tcp { &mut addresses.tcp } else { &mut addresses.tls };
            if !known.contains(&bound) {
                known.push(bound);
            }
        }
    }
    Ok(())
}

fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Together with an IPv4 socket on the same port, if both are asked for.
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the former process' connections to time out.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}
