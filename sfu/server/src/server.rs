//! Starting and ending the media node.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::Receiver;
use mio::{Poll, Waker};
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;
use zynk_bus::{Bus, BusError};
use zynk_net::{BindError, HoldBack, SocketOptions, TunnelEnd, UdpSocket};
use zynk_protocol::NodeId;
use zynk_sfu_core::{Certificate, Shard, ShardConfig, ShardError, ShardIndex, shard_of};

use crate::{
    SfuConfig,
    addresses::AddressMap,
    config::{AudioProtection, HOLD_BACK_MS_MAX, WORKERS_MAX},
    dispatcher::{COMMANDS_MAX, CommandSender, Dispatcher},
    metrics::{self, WorkerMetrics},
    notices::{self, NoticeQueue},
    placement::Budget,
    relay::{RelayDoor, RelayLinks, Relayed},
    tcp::{Acceptor, AcceptorConfig, SocketSender},
    tunnels::{TUNNELS_MAX, TunnelSender, Tunnels},
    worker::{self, SOCKETS_MAX, Worker, WorkerParts},
};

/// Sockets that the kernel accepts before the acceptor does.
const LISTEN_BACKLOG: i32 = 1_024;

/// The node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SfuError {
    /// `workers` is out of range. The operator's configuration.
    #[error("workers must be 1 to {WORKERS_MAX}, not {workers}")]
    Workers {
        /// What was asked for.
        workers: usize,
    },
    /// There are fewer ports from `udp_port_first` on than workers. The operator's configuration.
    #[error("udp_port_first {first} leaves no port for {workers} workers")]
    Ports {
        /// The first port.
        first: u16,
        /// How many are needed.
        workers: usize,
    },
    /// Datagrams would be held back for too long. The operator's configuration.
    #[error("hold_back_ms_min and hold_back_ms_max must be at most {HOLD_BACK_MS_MAX}, not {ms}")]
    HoldBack {
        /// What was asked for.
        ms: u64,
    },
    /// The budget after which a room is spread makes no sense. The operator's configuration.
    #[error(
        "spread_busy_percent must be 1 to 100 and spread_connections at least 1, not {percent} and {connections}"
    )]
    Spread {
        /// What was asked for.
        percent: u8,
        /// What was asked for.
        connections: usize,
    },
    /// A UDP port is taken, or there is no such address.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// The ICE-TCP port is taken, or there is no such address.
    #[error("cannot listen for ICE-TCP on {address}: {source}")]
    Tcp {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The core refuses its configuration.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The bus does not take the node.
    #[error("cannot register on the bus: {0}")]
    Bus(#[from] BusError),
    /// The system has no thread or poll left.
    #[error("cannot start a media thread: {0}")]
    Thread(#[source] io::Error),
}

/// A running media node.
#[derive(Debug)]
pub struct SfuHandle {
    node: NodeId,
    udp_ports: Vec<u16>,
    tcp_port: Option<u16>,
    announced: Vec<IpAddr>,
    health: SfuHealth,
    dispatcher: tokio::task::JoinHandle<()>,
    notifiers: Vec<tokio::task::JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    tunnel_doors: Vec<TunnelDoor>,
    acceptor: Option<AcceptorThread>,
}

/// A worker's door for tunnels.
#[derive(Debug)]
struct TunnelDoor {
    tunnels: TunnelSender,
    waker: Arc<Waker>,
    udp_port: u16,
}

#[derive(Debug)]
struct AcceptorThread {
    thread: JoinHandle<()>,
    stop: AcceptorStop,
}

/// Stops the acceptor when it is dropped: when the node ends, or could not start.
#[derive(Debug)]
struct AcceptorStop {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Drop for AcceptorStop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.waker.wake();
    }
}

/// Tells whether the node works; for readiness probes.
#[derive(Clone, Debug)]
pub struct SfuHealth {
    workers: Vec<Arc<WorkerMetrics>>,
    acceptor: Option<Arc<AtomicBool>>,
}

impl SfuHealth {
    /// Whether every thread runs and every worker's loop turns.
    pub fn is_ready(&self) -> bool {
        let now = Instant::now();
        self.workers.iter().all(|worker| worker.is_ready(now))
            && self.acceptor.as_ref().is_none_or(|alive| alive.load(Ordering::Relaxed))
    }
}

impl SfuHandle {
    /// The node's id on the bus.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The workers' UDP ports.
    pub fn udp_ports(&self) -> &[u16] {
        &self.udp_ports
    }

    /// The ICE-TCP port, unless ICE-TCP is off.
    pub fn tcp_port(&self) -> Option<u16> {
        self.tcp_port
    }

    /// The addresses told to clients.
    pub fn announced(&self) -> &[IpAddr] {
        &self.announced
    }

    /// Where clients send media over UDP: every announced address with every worker's port.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        let with_ports =
            |ip: &IpAddr| self.udp_ports.iter().map(|port| SocketAddr::new(*ip, *port)).collect::<Vec<_>>();
        self.announced.iter().flat_map(with_ports).collect()
    }

    /// Makes a tunnel to every worker for a relay of this process, which `relay` wakes: the worker's addresses among
    /// [`SfuHandle::udp_addresses`], and the relay's end. What comes through it comes from the address that it says.
    pub fn tunnels(&self, relay: &Arc<Waker>) -> Vec<(Vec<SocketAddr>, TunnelEnd)> {
        let tunnel = |door: &TunnelDoor| {
            let (ours, theirs) = zynk_net::tunnel(door.waker.clone(), relay.clone());
            // Who has as many gets there through a socket, as from anywhere.
            door.tunnels.try_send(ours).ok()?;
            let addresses = self.announced.iter().map(|ip| SocketAddr::new(*ip, door.udp_port)).collect();
            Some((addresses, theirs))
        };
        self.tunnel_doors.iter().filter_map(tunnel).collect()
    }

    /// For readiness probes.
    pub fn health(&self) -> SfuHealth {
        self.health.clone()
    }

    /// Waits for the end of all tasks and threads, which comes after the shutdown token is cancelled: the
    /// node leaves the bus, ends its rooms and sends what it has left to say.
    pub async fn join(self) {
        let _ = self.dispatcher.await;
        let acceptor = self.acceptor.map(|AcceptorThread { thread, stop }| {
            drop(stop);
            thread
        });
        let threads: Vec<JoinHandle<()>> = self.workers.into_iter().chain(acceptor).collect();
        // A thread that panicked has said so in the log.
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
        for notifier in self.notifiers {
            let _ = notifier.await;
        }
    }
}

/// A worker as the rest of the node sees it.
struct WorkerDoor {
    commands: CommandSender,
    sockets: SocketSender,
    tunnels: TunnelSender,
    thread: JoinHandle<()>,
    udp_port: u16,
}

/// Starts the node: binds its sockets, starts its threads and registers it on the bus. Call it in a tokio
/// runtime. Cancel `shutdown` and await [`SfuHandle::join`] to end it.
pub async fn start(
    config: SfuConfig,
    bus: Arc<dyn Bus>,
    registry: &mut Registry,
    shutdown: CancellationToken,
) -> Result<SfuHandle, SfuError> {
    let udp = bind_udp(&config)?;
    let listener = if config.ice_tcp { Some(listen(&config)?) } else { None };
    let announced = if config.announce.is_empty() {
        zynk_net::reachable_addresses(config.bind)
    } else {
        config.announce.clone()
    };
    let tcp_addresses = listener.as_ref().map(|(_, bound)| AddressMap::new(announced.clone(), *bound));
    let certificate = Certificate::generate()?;
    let node = NodeId::from_random(rand::random());

    let seats = worker_seats(config.workers).map_err(SfuError::Thread)?;
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut doors, mut notifiers) = (Vec::new(), Vec::new());
    for ((index, socket), seat) in (0u8..=u8::MAX).zip(udp).zip(seats) {
        let (queue, undelivered) = NoticeQueue::new(node.clone());
        notifiers.push(tokio::spawn(notices::deliver(undelivered, bus.clone())));
        let udp_addresses = AddressMap::new(announced.clone(), socket.local_addr());
        let shard = ShardConfig {
            index: ShardIndex(index),
            udp: udp_addresses.candidates(),
            tcp: tcp_addresses.as_ref().map(AddressMap::candidates).unwrap_or_default(),
            certificate: certificate.clone(),
            unix_time,
            protect_audio: config.audio_protection == AudioProtection::Lossy,
            seed: rand::random(),
        };
        doors.push(start_worker(&config, shard, seat, socket, udp_addresses, tcp_addresses.clone(), queue)?);
    }

    let workers: Vec<_> = doors.iter().map(|door| door.commands.metrics.clone()).collect();
    let udp_ports = doors.iter().map(|door| door.udp_port).collect();
    let tcp_port = listener.as_ref().map(|(_, bound)| bound.port());
    let (mut acceptor, mut acceptor_stats, mut acceptor_alive) = (None, None, None);
    if let Some((listener, _)) = listener {
        let sockets = doors.iter().map(|door| door.sockets.clone()).collect();
        let started = start_acceptor(&config, listener, sockets).map_err(SfuError::Thread)?;
        acceptor_stats = Some(started.1);
        acceptor_alive = Some(started.2);
        acceptor = Some(started.0);
    }
    metrics::register(registry, workers.clone(), acceptor_stats);

    let tunnel_doors = doors.iter().map(|door| TunnelDoor {
        tunnels: door.tunnels.clone(),
        waker: door.commands.waker.clone(),
        udp_port: door.udp_port,
    });
    let tunnel_doors = tunnel_doors.collect();
    let (commands, threads): (Vec<_>, Vec<_>) =
        doors.into_iter().map(|door| (door.commands, door.thread)).unzip();
    let budget = Budget {
        busy: f32::from(config.spread_busy_percent) / 100.0,
        connections: config.spread_connections,
    };
    let dispatcher = Dispatcher::new(bus.clone(), node.clone(), config.region, commands, budget);
    let received = bus.register_node(dispatcher.info()).await?;
    tracing::info!(?udp_ports, ?tcp_port, workers = workers.len(), "media node started");
    Ok(SfuHandle {
        node,
        udp_ports,
        tcp_port,
        announced,
        health: SfuHealth { workers, acceptor: acceptor_alive },
        dispatcher: tokio::spawn(dispatcher.run(received, shutdown)),
        notifiers,
        workers: threads,
        tunnel_doors,
        acceptor,
    })
}

fn bind_udp(config: &SfuConfig) -> Result<Vec<UdpSocket>, SfuError> {
    config.check()?;
    let (workers, first) = (config.workers, config.udp_port_first);
    let options = SocketOptions {
        recv_buffer_bytes: config.udp_recv_buffer_bytes,
        send_buffer_bytes: config.udp_send_buffer_bytes,
        reuse_port: false,
    };
    let ports = (first..=u16::MAX).take(workers).map(|port| if first == 0 { 0 } else { port });
    let mut sockets = Vec::with_capacity(workers);
    for port in ports {
        let socket = UdpSocket::bind(SocketAddr::new(config.bind, port), options)?;
        sockets.push(socket);
    }
    // What Linux grants is double what was asked for.
    let granted = sockets.first().and_then(|socket| socket.recv_buffer_bytes().ok()).unwrap_or_default();
    if granted / 2 < config.udp_recv_buffer_bytes {
        tracing::info!(
            granted_bytes = granted / 2,
            configured_bytes = config.udp_recv_buffer_bytes,
            "the UDP receive buffers are smaller than configured: raise net.core.rmem_max"
        );
    }
    Ok(sockets)
}

fn listen(config: &SfuConfig) -> Result<(TcpListener, SocketAddr), SfuError> {
    let address = SocketAddr::new(config.bind, config.ice_tcp_port);
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A restart must not wait for the former process' connections to time out.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener = TcpListener::from(socket);
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    listen().map_err(|source| SfuError::Tcp { address, source })
}

/// What a worker has before its thread is started, because the others have to know it.
struct WorkerSeat {
    poll: Poll,
    waker: Arc<Waker>,
    relayed: Receiver<Relayed>,
    relay: RelayLinks,
    /// What the shard's time counts from: the same for all, because what one says of a publisher's clock holds in the
    /// others.
    started: Instant,
}

fn worker_seats(workers: usize) -> io::Result<Vec<WorkerSeat>> {
    let started = Instant::now();
    let (mut doors, mut made) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), worker::WAKER)?);
        let (door, relayed) = RelayDoor::new(waker.clone());
        doors.push(door);
        made.push((poll, waker, relayed));
    }
    let seat = |(index, (poll, waker, relayed))| {
        let relay = RelayLinks::new(ShardIndex(index), doors.clone());
        WorkerSeat { poll, waker, relayed, relay, started }
    };
    Ok((0u8..=u8::MAX).zip(made).map(seat).collect())
}

fn start_worker(
    config: &SfuConfig,
    shard: ShardConfig,
    seat: WorkerSeat,
    udp: UdpSocket,
    udp_addresses: AddressMap,
    tcp_addresses: Option<AddressMap>,
    notices: NoticeQueue,
) -> Result<WorkerDoor, SfuError> {
    let index = shard.index.0;
    let udp_port = udp.local_addr().port();
    let WorkerSeat { poll, waker, relayed, relay, started: shard_started } = seat;
    let metrics = Arc::new(WorkerMetrics::new(Instant::now()));
    let (command_sender, commands) = tokio::sync::mpsc::channel(COMMANDS_MAX);
    let (socket_sender, sockets) = crossbeam_channel::bounded(SOCKETS_MAX);
    let (tunnel_sender, tunnels) = crossbeam_channel::bounded(TUNNELS_MAX);
    let parts = WorkerParts {
        poll,
        udp,
        udp_addresses,
        tcp_addresses,
        commands,
        relayed,
        relay,
        sockets,
        tunnels: Tunnels::new(tunnels),
        notices,
        hold_back: HoldBack::new(
            Duration::from_millis(config.hold_back_ms_min),
            Duration::from_millis(config.hold_back_ms_max),
            Instant::now(),
        ),
        metrics: metrics.clone(),
    };
    let core = if config.pin_workers { core_of(index) } else { None };
    let (started_sender, started) = mpsc::sync_channel(1);
    let alive = Alive { metrics: metrics.clone(), worker: index };
    let thread = thread::Builder::new()
        .name(format!("sfu-worker-{index}"))
        .spawn(move || {
            let alive = alive;
            if let Some(core) = core
                && !core_affinity::set_for_current(core)
            {
                tracing::warn!(worker = index, "cannot pin a worker to its core");
            }
            // The shard is made where it lives: it may hold what cannot change threads.
            match Shard::new(shard, shard_started) {
                Ok(shard) => {
                    let _ = started_sender.send(Ok(()));
                    let result = Worker::new(shard, parts, Instant::now()).and_then(Worker::run);
                    if let Err(error) = result {
                        tracing::error!(%error, worker = index, "a media worker ended");
                    }
                }
                Err(error) => {
                    let _ = started_sender.send(Err(error));
                }
            }
            drop(alive);
        })
        .map_err(SfuError::Thread)?;
    match started.recv() {
        Ok(result) => result?,
        Err(_) => return Err(SfuError::Thread(io::Error::other("a media worker ended before it began"))),
    }
    Ok(WorkerDoor {
        commands: CommandSender { commands: command_sender, waker: waker.clone(), metrics },
        sockets: SocketSender { sockets: socket_sender, waker },
        tunnels: tunnel_sender,
        thread,
        udp_port,
    })
}

/// Tells that a worker's thread ended, however it ended.
struct Alive {
    metrics: Arc<WorkerMetrics>,
    worker: u8,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.metrics.ended();
        if thread::panicking() {
            tracing::error!(worker = self.worker, "a media worker panicked: its rooms are lost");
        }
    }
}

/// The core of a worker: the first one is left to the rest of the process, if there are several.
fn core_of(worker: u8) -> Option<core_affinity::CoreId> {
    let cores = core_affinity::get_core_ids()?;
    let spare = usize::from(cores.len() > 1);
    let usable = cores.get(spare..)?;
    usable.get(usize::from(worker) % usable.len().max(1)).copied()
}

type StartedAcceptor = (AcceptorThread, Arc<crate::tcp::AcceptorStats>, Arc<AtomicBool>);

fn start_acceptor(
    config: &SfuConfig,
    listener: TcpListener,
    workers: Vec<SocketSender>,
) -> io::Result<StartedAcceptor> {
    let stop = Arc::new(AtomicBool::new(false));
    let alive = Arc::new(AtomicBool::new(true));
    let limits = AcceptorConfig {
        connections_max: config.tcp_connections_max,
        connections_per_source_max: config.tcp_connections_per_source_max,
        shard_of,
    };
    let acceptor = Acceptor::new(listener, limits, workers, stop.clone())?;
    let (waker, stats) = (acceptor.waker(), acceptor.stats());
    let guard = AcceptorAlive(alive.clone());
    let thread = thread::Builder::new().name("sfu-ice-tcp".to_owned()).spawn(move || {
        let _guard = guard;
        if let Err(error) = acceptor.run() {
            tracing::error!(%error, "the ICE-TCP acceptor ended");
        }
    })?;
    Ok((AcceptorThread { thread, stop: AcceptorStop { stop, waker } }, stats, alive))
}

/// Tells that the acceptor's thread ended, however it ended.
struct AcceptorAlive(Arc<AtomicBool>);

impl Drop for AcceptorAlive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        if thread::panicking() {
            tracing::error!("the ICE-TCP acceptor panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket as StdUdpSocket};

    use super::*;

    fn config() -> SfuConfig {
        SfuConfig {
            workers: 1,
            bind: Ipv4Addr::LOCALHOST.into(),
            udp_port_first: 0,
            ice_tcp_port: 0,
            ..SfuConfig::default()
        }
    }

    async fn error(config: SfuConfig) -> SfuError {
        let bus: Arc<dyn Bus> = Arc::new(zynk_bus::LocalBus::new());
        let started = start(config, bus, &mut Registry::default(), CancellationToken::new()).await;
        started.expect_err("it does not start")
    }

    #[tokio::test]
    async fn ports_that_are_taken_are_named() {
        let udp = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        let found = error(SfuConfig { udp_port_first: port, ..config() }).await;
        assert!(matches!(found, SfuError::Udp(_)), "{found}");
        assert!(found.to_string().contains(&port.to_string()), "{found}");

        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let found = error(SfuConfig { ice_tcp_port: port, ..config() }).await;
        assert!(matches!(found, SfuError::Tcp { .. }), "{found}");
        assert!(found.to_string().contains(&port.to_string()), "{found}");
    }

    #[tokio::test]
    async fn impossible_numbers_of_workers_are_refused() {
        for workers in [0, 257] {
            assert!(matches!(error(SfuConfig { workers, ..config() }).await, SfuError::Workers { .. }));
        }
        let found = error(SfuConfig { workers: 10, udp_port_first: 65_530, ..config() }).await;
        assert!(matches!(found, SfuError::Ports { first: 65_530, workers: 10 }), "{found}");
    }

    #[test]
    fn a_thread_that_panics_is_not_ready() {
        let metrics = Arc::new(WorkerMetrics::new(Instant::now()));
        let alive = Arc::new(AtomicBool::new(true));
        let health = SfuHealth { workers: vec![metrics.clone()], acceptor: Some(alive.clone()) };
        assert!(health.is_ready());
        let guard = Alive { metrics, worker: 0 };
        let thread = thread::spawn(move || {
            let _guard = guard;
            panic!("as a worker might");
        });
        assert!(thread.join().is_err());
        assert!(!health.is_ready());

        let health = SfuHealth { workers: Vec::new(), acceptor: Some(alive.clone()) };
        assert!(health.is_ready());
        drop(AcceptorAlive(alive));
        assert!(!health.is_ready());
    }
}
