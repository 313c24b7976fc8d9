//! A UDP proxy whose datagrams pass [`Link`]s, for programs that are to meet a bad network without root.
//!
//! ```text
//!   client ──► listener ──► upstream link ──► the client's socket ──► target
//!   client ◄── listener ◄── downstream link ◄── the client's socket ◄── target
//! ```
//!
//! Each client has a socket of its own towards the target, as behind a NAT: the target sees as many sources as there
//! are clients, and only what the target sends to such a socket comes back. ECN bits, DSCP and the TTL do not survive.
//!
//! ```
//! use std::{net::UdpSocket, time::{Duration, Instant}};
//! use zynk_netlab::{LinkConfig, proxy::{Proxy, ProxyConfig}};
//!
//! let target = UdpSocket::bind("127.0.0.1:0")?;
//! let delay = Duration::from_millis(30);
//! let proxy = Proxy::bind(ProxyConfig {
//!     upstream: LinkConfig::delayed(delay),
//!     ..ProxyConfig::new("127.0.0.1:0".parse()?, target.local_addr()?)
//! })?;
//! let address = proxy.local_addrs()[0];
//! let running = proxy.spawn()?;
//!
//! let client = UdpSocket::bind("127.0.0.1:0")?;
//! let sent = Instant::now();
//! client.send_to(b"hello", address)?;
//! let (length, _) = target.recv_from(&mut [0; 9])?;
//! assert!(length == 5 && sent.elapsed() >= delay);
//! assert_eq!(running.stop()?.upstream.delivered, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// The shell is where time is read and threads are made; the ban is for the model.
#![allow(clippy::disallowed_methods)]

mod clients;
mod config;
mod control;
mod stats;
#[cfg(test)]
mod tests;
mod timer;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::UdpSocket};

use crate::link::LinkConfig;
use clients::{Clients, Direction, Packet};
use control::{Command, Commands};
use timer::Timer;

pub use config::{Forward, ForwardError, ProxyConfig, ProxyConfigError};
pub use control::{Controller, RunningProxy};
pub use stats::ProxyStats;

/// The largest UDP datagram, and one more.
const BUFFER_BYTES: usize = 65_536;
/// Datagrams taken from a socket before others get their turn.
const DATAGRAMS_PER_TURN: usize = 64;
/// Datagrams that leave before new ones are taken.
const DELIVERIES_PER_TURN: usize = 1024;
const EVENTS_MAX: usize = 256;
/// Wanted size of the sockets' buffers; the kernel may give less. When full, datagrams are lost without a count.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Clients are looked at so many times within the time after which they are forgotten.
const SWEEPS_PER_IDLE: u32 = 4;
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);

const WAKER: Token = Token(0);
const TIMER: Token = Token(1);
/// Listeners' tokens, then clients'.
const LISTENER_FIRST: usize = 2;

/// Why a proxy cannot start or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The user's fault.
    #[error(transparent)]
    Config(#[from] ProxyConfigError),
    /// The address is taken, or not one of this machine.
    #[error("cannot listen on UDP {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refuses something that everything here rests on.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It runs no longer.
    #[error("the proxy has ended")]
    Ended,
}

/// A proxy whose addresses are bound. [`Proxy::run`] makes it work.
#[derive(Debug)]
pub struct Proxy {
    poll: Poll,
    timer: Timer,
    commands: Commands,
    controller: Controller,
    listeners: Vec<Listener>,
    clients: Clients,
    /// Sockets in which something may wait, by their tokens.
    readable: BTreeSet<usize>,
    /// When clients are looked at next.
    sweep_at: Instant,
    start: Instant,
}

#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    address: SocketAddr,
    target: SocketAddr,
}

impl Proxy {
    /// Binds the addresses to listen on. Links begin now.
    pub fn bind(config: ProxyConfig) -> Result<Self, ProxyError> {
        config.check()?;
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let (controller, commands) = Controller::new(Waker::new(poll.registry(), WAKER)?);
        let mut listeners = Vec::new();
        for Forward { listen, target } in &config.forward {
            let bound = socket(*listen).and_then(|socket| Ok((socket.local_addr()?, socket)));
            let (address, mut socket) =
                bound.map_err(|source| ProxyError::Bind { address: *listen, source })?;
            let token = Token(LISTENER_FIRST + listeners.len());
            poll.registry().register(&mut socket, token, Interest::READABLE)?;
            listeners.push(Listener { socket, address, target: *target });
        }
        let start = Instant::now();
        let clients = Clients::new(config, LISTENER_FIRST + listeners.len(), start);
        let readable = BTreeSet::new();
        Ok(Self { poll, timer, commands, controller, listeners, clients, readable, sweep_at: start, start })
    }

    /// The addresses it listens on, in the order of [`ProxyConfig::forward`], with the ports that the kernel chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Speaks to it while it runs.
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// Runs it on a thread of its own.
    pub fn spawn(self) -> io::Result<RunningProxy> {
        RunningProxy::spawn(self.controller(), move || self.run())
    }

    /// Runs it on this thread until [`Controller::stop`]; returns what happened.
    pub fn run(mut self) -> Result<ProxyStats, ProxyError> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.wait(&mut events)?;
            let mut is_told = false;
            for event in &events {
                match event.token() {
                    WAKER => is_told = true,
                    TIMER => self.timer.note_expired(),
                    Token(token) => drop(self.readable.insert(token)),
                }
            }
            if is_told && self.obey().is_break() {
                return Ok(self.stats());
            }
            self.receive(&mut buffer);
            self.deliver();
            self.sweep();
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let sweep = (!self.clients.is_empty()).then_some(self.sweep_at);
        let next = self.clients.next_at().into_iter().chain(sweep).min();
        let timeout = self.timer.set(next)?;
        let is_late = next.is_some_and(|next| next <= Instant::now());
        let timeout = if is_late || !self.readable.is_empty() { Some(Duration::ZERO) } else { timeout };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Does what it is told; breaks when that is to end.
    fn obey(&mut self) -> std::ops::ControlFlow<()> {
        while let Some(command) = self.commands.next() {
            match command {
                // A caller that no longer waits needs no answer.
                Command::Stats(answer) => drop(answer.send(self.stats())),
                Command::SetLinks(links, answer) => {
                    let [upstream, downstream]: [LinkConfig; 2] = *links;
                    self.clients.set_links(upstream, downstream, Instant::now());
                    let _ = answer.send(());
                }
                Command::Stop => return std::ops::ControlFlow::Break(()),
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Takes what waits in the sockets, some from each.
    fn receive(&mut self, buffer: &mut [u8]) {
        for token in std::mem::take(&mut self.readable) {
            let may_have_more = match self.listeners.get(token.wrapping_sub(LISTENER_FIRST)) {
                Some(_) => self.receive_from_clients(token - LISTENER_FIRST, buffer),
                None => self.clients.receive_from_target(token, buffer),
            };
            if may_have_more {
                self.readable.insert(token);
            }
        }
    }

    fn receive_from_clients(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let Some(listener) = self.listeners.get(index) else { return false };
        for _ in 0..DATAGRAMS_PER_TURN {
            match listener.socket.recv_from(buffer) {
                Ok((length, source)) => {
                    let payload = buffer.get(..length).unwrap_or_default();
                    let now = Instant::now();
                    let Some(client) =
                        self.clients.find_or_add(self.poll.registry(), index, listener.target, source, now)
                    else {
                        continue;
                    };
                    self.clients.send(Direction::Upstream, client, payload, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Says something about an earlier send.
                Err(_) => {}
            }
        }
        true
    }

    /// Sends what has passed its link.
    fn deliver(&mut self) {
        let now = Instant::now();
        for _ in 0..DELIVERIES_PER_TURN {
            let Some((direction, Packet { client, payload })) = self.clients.poll(now) else { return };
            let Some((listener, source, socket)) = self.clients.route(client) else { continue };
            let result = match direction {
                Direction::Upstream => match socket.send(&payload) {
                    // This was about an earlier one: nothing was sent now.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        let again = socket.send(&payload);
                        self.clients.note_unsent(&error);
                        again
                    }
                    result => result,
                },
                Direction::Downstream => match self.listeners.get(listener) {
                    Some(listener) => listener.socket.send_to(&payload, source),
                    None => continue,
                },
            };
            if let Err(error) = result {
                self.clients.note_unsent(&error);
            }
        }
    }

    /// Forgets clients with whom nothing is exchanged.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now >= self.sweep_at {
            let interval = self.clients.idle() / SWEEPS_PER_IDLE;
            self.sweep_at = now + interval.clamp(SWEEP_INTERVAL_MIN, Duration::from_secs(60));
            self.clients.forget_idle(self.poll.registry(), now);
        }
    }

    fn stats(&self) -> ProxyStats {
        ProxyStats { elapsed: self.start.elapsed(), ..self.clients.stats() }
    }
}

/// A socket that does not block.
fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};

    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // More is better, but not needed.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}
