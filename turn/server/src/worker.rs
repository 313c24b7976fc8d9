//! One worker: one thread, its sockets, and a [`TurnServer`].
//!
//! ```text
//!  wait ─► input: commands, clients' datagrams and streams, peers' datagrams ─► flush: datagrams, streams
//!              each batch of input is followed by its output, so that nothing waits for the end of a turn
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mio::{Events, Interest, Poll, Token};
use zynk_net::{HoldBack, RecvBatch, SendBatch, TunnelSet, Tunnelled, UdpSocket};
use zynk_turn_core::{
    EndReason, Event, FiveTuple, Input, Output, PeerConnectionKey, RelayKey, Transport, TurnServer,
};

use crate::commands::{Commands, WorkerCommand};
use crate::dtls::DtlsClients;
use crate::metrics::WorkerMetrics;
use crate::refusals::RefusalLog;
use crate::relays::{RelaySocket, Relays};
use crate::streams::{PeerRoute, StreamEvent, Streams, accept};
use crate::tokens::{self, Kind};

/// The longest wait: metrics and timeouts of streams go on even if nothing comes.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Datagrams handed to the core before its output is taken, though more wait: what goes one way meanwhile leaves together.
const DATAGRAMS_PER_DRAIN: usize = 256;

/// Trains of datagrams taken from one socket of clients in one turn.
const BATCHES_PER_TURN: usize = 16;

/// Batches taken from one relay in one turn.
const RELAY_BATCHES_PER_TURN: usize = 4;

/// Parcels taken from one service of this process in one turn.
const PARCELS_PER_TURN: usize = 16;

/// Connections taken from one relay in one turn.
const PEERS_PER_TURN: usize = 16;

/// Trains that one read of a relay takes: few senders send to one relay.
const RELAY_TRAINS: usize = 4;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;

/// How often figures are published, and what is over is closed.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// A UDP socket of clients.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    pub(crate) socket: UdpSocket,
    pub(crate) transport: Transport,
    sending: SendBatch,
    is_readable: bool,
    waits_for_room: bool,
}

impl ClientSocket {
    pub(crate) fn new(socket: UdpSocket, transport: Transport) -> Self {
        Self { socket, transport, sending: SendBatch::new(), is_readable: true, waits_for_room: false }
    }

    /// Whether a client that sends to this address is served here.
    fn serves(&self, server: SocketAddr) -> bool {
        let bound = self.socket.local_addr();
        let takes_all = bound.ip().is_unspecified() && (bound.is_ipv6() || server.is_ipv4());
        bound.port() == server.port() && (takes_all || bound.ip() == server.ip())
    }

    fn send(&mut self, five_tuple: FiveTuple, run: (&[u8], usize), now: Instant) {
        let is_wildcard = self.socket.local_addr().ip().is_unspecified();
        let source = is_wildcard.then(|| five_tuple.server.ip());
        self.sending.send(&mut self.socket, five_tuple.client, source, run, now);
    }
}

/// What a worker is made of.
pub(crate) struct WorkerParts {
    pub(crate) server: TurnServer,
    /// With the waker and all listeners registered.
    pub(crate) poll: Poll,
    pub(crate) commands: Commands,
    pub(crate) sockets: Vec<ClientSocket>,
    pub(crate) streams: Streams,
    pub(crate) dtls: DtlsClients,
    pub(crate) short_cuts: TunnelSet,
    /// The longest that datagrams wait under load.
    pub(crate) hold_back_max: Duration,
    pub(crate) metrics: Arc<WorkerMetrics>,
}

/// The loop and everything it owns.
pub(crate) struct Worker {
    server: TurnServer,
    poll: Poll,
    commands: Commands,
    sockets: Vec<ClientSocket>,
    streams: Streams,
    dtls: DtlsClients,
    relays: Relays,
    short_cuts: TunnelSet,
    metrics: Arc<WorkerMetrics>,
    hold_back: HoldBack,
    received: RecvBatch,
    from_peers: RecvBatch,
    deadline: Instant,
    kept_at: Instant,
    next_accepted: u32,
    commands_ended: bool,
    commands_waiting: bool,
    parcels_waiting: bool,
    refusals: RefusalLog,
}

impl Worker {
    pub(crate) fn new(parts: WorkerParts) -> io::Result<Self> {
        let WorkerParts {
            server,
            poll,
            commands,
            mut sockets,
            streams,
            dtls,
            short_cuts,
            hold_back_max,
            metrics,
        } = parts;
        for (index, socket) in sockets.iter_mut().enumerate() {
            let token = tokens::token(Kind::Socket, index);
            poll.registry().register(&mut socket.socket, token, Interest::READABLE)?;
        }
        let now = Instant::now();
        Ok(Self {
            server,
            poll,
            commands,
            sockets,
            streams,
            dtls,
            relays: Relays::default(),
            short_cuts,
            metrics,
            hold_back: HoldBack::new(Duration::ZERO, hold_back_max, now),
            received: RecvBatch::new(),
            from_peers: RecvBatch::with_trains(RELAY_TRAINS),
            deadline: now,
            kept_at: now,
            next_accepted: 0,
            commands_ended: false,
            commands_waiting: true,
            parcels_waiting: true,
            refusals: RefusalLog::default(),
        })
    }

    /// Runs until it is told to stop, or nobody can send commands any more.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.commands_ended {
            self.wait(&mut events)?;
            let now = Instant::now();
            self.note(&events);
            self.take_commands(now);
            self.take_datagrams(now);
            self.take_streams(now);
            self.take_peers(now);
            self.take_parcels(now);
            self.keep_time(now);
            self.flush(now)?;
            let ended = Instant::now();
            self.hold_back.on_turn(ended, ended.saturating_duration_since(now));
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.timeout();
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let held = self.hold_back.held();
        if !timeout.is_zero() && !held.is_zero() && datagrams_came(events) {
            thread::sleep(held);
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let is_waiting = self.commands_waiting
            || self.parcels_waiting
            || self.sockets.iter().any(|socket| socket.is_readable)
            || self.streams.is_waiting()
            || self.relays.is_waiting();
        if is_waiting {
            return Duration::ZERO;
        }
        let next = self.dtls.deadline().map_or(self.deadline, |deadline| deadline.min(self.deadline));
        let left = next.saturating_duration_since(Instant::now());
        // A deadline that has just passed must not make the loop spin.
        left.clamp(Duration::from_millis(1), WAIT_MAX)
    }

    fn note(&mut self, events: &Events) {
        for event in events {
            match tokens::split(event.token()) {
                Some((Kind::Waker, _)) => {
                    self.commands_waiting = true;
                    self.parcels_waiting = true;
                }
                Some((Kind::Socket, index)) => {
                    if let Some(socket) = self.sockets.get_mut(index) {
                        socket.is_readable |= event.is_readable() || event.is_error();
                    }
                }
                Some((Kind::Relay, index)) if event.is_readable() || event.is_error() => {
                    self.relays.mark_readable(RelayKey(u32::try_from(index).unwrap_or(u32::MAX)));
                }
                Some((Kind::Relay, _)) => {}
                Some((kind, index)) => self.streams.on_event(kind, index, event),
                None => {}
            }
        }
    }

    fn take_commands(&mut self, now: Instant) {
        for _ in 0..COMMANDS_PER_TURN {
            match self.commands.try_recv() {
                Ok(WorkerCommand::List(answer)) => {
                    // Nobody waits for it any more, if it fails.
                    let _ = answer.send(self.server.allocations().collect());
                }
                Ok(WorkerCommand::Kick(allocation)) => {
                    self.server.handle_input(now, Input::Kick { allocation })
                }
                Ok(WorkerCommand::Stop) => self.commands_ended = true,
                Ok(WorkerCommand::Drain) => {
                    self.server.handle_input(now, Input::Drain);
                    self.publish();
                }
                Ok(WorkerCommand::Configure(settings)) => {
                    let limits = &settings.streams;
                    self.dtls.set_limits(limits.connections_max, limits.connections_per_source_max);
                    self.dtls.set_certificate(settings.certificate.dtls);
                    self.streams.configure(settings.streams, settings.certificate.tls);
                    self.server.handle_input(now, Input::Configure(Box::new(settings.server)));
                }
                Err(crossbeam_channel::TryRecvError::Empty) => {
                    self.commands_waiting = false;
                    break;
                }
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    self.commands_ended = true;
                    break;
                }
            }
        }
        self.drain(now);
    }

    fn take_datagrams(&mut self, now: Instant) {
        for at in 0..self.sockets.len() {
            let mut undrained = 0;
            for _ in 0..BATCHES_PER_TURN {
                let Some(socket) = self.sockets.get_mut(at).filter(|socket| socket.is_readable) else {
                    break;
                };
                // What comes after a batch that was not full, or an error, is reported anew.
                let received = self.received.recv(&socket.socket);
                socket.is_readable = received.is_ok() && !self.received.is_drained();
                undrained += received.unwrap_or(0);
                let is_last = !socket.is_readable;
                let (transport, bound) = (socket.transport, socket.socket.local_addr());
                for datagram in self.received.datagrams() {
                    let ip = datagram.destination_ip.unwrap_or_else(|| bound.ip());
                    let server = SocketAddr::new(ip, bound.port());
                    let five_tuple = FiveTuple { transport, server, client: datagram.source };
                    if transport == Transport::Udp {
                        self.server
                            .handle_input(now, Input::Client { five_tuple, payload: datagram.payload });
                        continue;
                    }
                    let (server, socket) = (&mut self.server, &mut *socket);
                    self.dtls.receive(
                        now,
                        five_tuple,
                        datagram.payload,
                        |five_tuple, record| socket.send(five_tuple, (record, record.len()), now),
                        |five_tuple, payload| server.handle_input(now, Input::Client { five_tuple, payload }),
                    );
                }
                if is_last {
                    break;
                }
                if undrained >= DATAGRAMS_PER_DRAIN {
                    undrained = 0;
                    self.drain(now);
                }
            }
            self.drain(now);
        }
        while let Some(five_tuple) = self.dtls.next_closed() {
            self.server.handle_input(now, Input::ClientClosed { five_tuple });
            self.drain(now);
        }
    }

    fn take_streams(&mut self, now: Instant) {
        self.streams.accept(self.poll.registry(), now);
        let server = &mut self.server;
        // Output is taken after the frames of some streams. The answer to a ConnectionBind is not mixed up with what comes
        // after it all the same: a client waits for it before it sends.
        self.streams.read(|event| match event {
            StreamEvent::Frame { five_tuple, payload } => {
                server.handle_input(now, Input::Client { five_tuple, payload });
            }
            StreamEvent::Closed { five_tuple } => {
                server.handle_input(now, Input::ClientClosed { five_tuple })
            }
            StreamEvent::PeerConnected { connection } => {
                server.handle_input(now, Input::PeerConnected { connection });
            }
            StreamEvent::PeerClosed { connection } => {
                server.handle_input(now, Input::PeerClosed { connection });
            }
        });
        self.drain(now);
    }

    fn take_peers(&mut self, now: Instant) {
        let keys = self.relays.take_readable();
        let mut accepted = Vec::new();
        for key in keys.iter().copied() {
            match self.relays.get(key).map(|relay| &relay.socket) {
                Some(RelaySocket::Udp(relay)) => {
                    let mut is_drained = false;
                    for _ in 0..RELAY_BATCHES_PER_TURN {
                        if self.from_peers.recv(&relay.socket).is_err() {
                            is_drained = true;
                            break;
                        }
                        for datagram in self.from_peers.datagrams() {
                            let (peer, payload) = (datagram.source, datagram.payload);
                            self.server.handle_input(now, Input::Peer { relay: key, peer, payload });
                        }
                        is_drained = self.from_peers.is_drained();
                        if is_drained {
                            break;
                        }
                    }
                    if !is_drained {
                        self.relays.mark_readable(key);
                    }
                }
                Some(RelaySocket::Tcp { listener, .. }) => {
                    for _ in 0..PEERS_PER_TURN {
                        let Ok((socket, peer)) = accept(listener) else { break };
                        accepted.push((key, socket, peer));
                    }
                    if accepted.len() == PEERS_PER_TURN {
                        self.relays.mark_readable(key);
                    }
                }
                None => {}
            }
            self.adopt_peers(&mut accepted, now);
            self.drain(now);
        }
        self.relays.recycle(keys);
    }

    /// Takes what services of this process have sent.
    fn take_parcels(&mut self, now: Instant) {
        self.parcels_waiting = false;
        for index in 0..self.short_cuts.len() {
            for taken in 0..PARCELS_PER_TURN {
                let Some(mut parcel) = self.short_cuts.recv(index) else { break };
                for Tunnelled { source, destination, payload } in parcel.datagrams() {
                    if let Some(relay) = self.server.relay_at(destination) {
                        self.server.handle_input(now, Input::Peer { relay, peer: source, payload });
                    }
                }
                self.short_cuts.recycle(index, parcel);
                self.drain(now);
                self.parcels_waiting |= taken + 1 == PARCELS_PER_TURN;
            }
        }
    }

    /// Takes connections that peers made.
    fn adopt_peers(&mut self, accepted: &mut Vec<(RelayKey, mio::net::TcpStream, SocketAddr)>, now: Instant) {
        for (relay, socket, peer) in accepted.drain(..) {
            self.next_accepted = self.next_accepted.wrapping_add(1) | PeerConnectionKey::ACCEPTED;
            let connection = PeerConnectionKey(self.next_accepted);
            if self.streams.adopt_peer(self.poll.registry(), connection, socket).is_ok() {
                self.server.handle_input(now, Input::PeerAccepted { relay, peer, connection });
            }
        }
    }

    fn keep_time(&mut self, now: Instant) {
        if self.deadline <= now {
            self.server.handle_input(now, Input::Timeout);
            self.drain(now);
        }
        if self.dtls.deadline().is_some_and(|deadline| deadline <= now)
            || now.saturating_duration_since(self.kept_at) >= HOUSEKEEPING_INTERVAL
        {
            let sockets = &mut self.sockets;
            self.dtls.on_time(now, |five_tuple, record| {
                if let Some(socket) = socket_for(sockets, five_tuple) {
                    socket.send(five_tuple, (record, record.len()), now);
                }
            });
        }
        if now.saturating_duration_since(self.kept_at) >= HOUSEKEEPING_INTERVAL {
            self.kept_at = now;
            self.server.set_time_of_day(now, SystemTime::now());
            self.streams.expire(now);
            self.publish();
        }
    }

    fn publish(&self) {
        let mut sent = self.relays.stats();
        for socket in &self.sockets {
            let stats = socket.sending.stats();
            sent.datagrams_sent += stats.datagrams_sent;
            sent.sends += stats.sends;
            sent.dropped_full += stats.dropped();
        }
        let short_cuts = self.short_cuts.stats();
        self.metrics.publish(&self.server.stats(), &sent, short_cuts, &self.streams.stats(), self.dtls.len());
    }

    /// Takes all that the core has to say.
    fn drain(&mut self, now: Instant) {
        loop {
            let event = match self.server.poll_output() {
                Output::ToClient { five_tuple, payload, segment_bytes, is_control } => {
                    match five_tuple.transport {
                        Transport::Udp => {
                            if let Some(socket) = socket_for(&mut self.sockets, five_tuple) {
                                socket.send(five_tuple, (payload, segment_bytes), now);
                            }
                        }
                        Transport::Dtls => {
                            let Some(socket) = socket_for(&mut self.sockets, five_tuple) else { continue };
                            for message in payload.chunks(segment_bytes.max(1)) {
                                self.dtls.send(five_tuple, message, |five_tuple, record| {
                                    socket.send(five_tuple, (record, record.len()), now);
                                });
                            }
                        }
                        Transport::Tcp | Transport::Tls => self.streams.send(five_tuple, payload, is_control),
                    }
                    continue;
                }
                Output::ToPeer { relay, relayed, peer, payload, segment_bytes, dont_fragment } => {
                    let run = (payload, segment_bytes);
                    if let Some(tunnel) = self.short_cuts.to(peer) {
                        tunnel.push(relayed, peer, run);
                        continue;
                    }
                    self.relays.send(self.poll.registry(), relay, peer, run, dont_fragment, now);
                    continue;
                }
                Output::Event(event) => event,
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    return;
                }
                _ => continue,
            };
            self.obey(event, now);
        }
    }

    /// Does what the core wishes.
    fn obey(&mut self, event: Event, now: Instant) {
        match event {
            Event::OpenRelay { relay, address, protocol } => {
                let opened = self.relays.open(self.poll.registry(), relay, address, protocol);
                let input = match opened {
                    Ok(()) => Input::RelayOpened { relay },
                    Err(error) => {
                        tracing::debug!(%error, port = address.port(), "a relayed address cannot be opened");
                        Input::RelayRefused { relay }
                    }
                };
                self.server.handle_input(now, input);
            }
            Event::CloseRelay { relay } => self.relays.close(relay),
            Event::ConnectPeer { connection, relay, peer } => {
                let local = match self.relays.get(relay).map(|relay| &relay.socket) {
                    Some(RelaySocket::Tcp { address, .. }) => *address,
                    _ => return,
                };
                let route = PeerRoute { local, peer };
                if let Err(error) = self.streams.connect_peer(self.poll.registry(), connection, route) {
                    tracing::debug!(%error, "a peer cannot be connected to");
                    self.server.handle_input(now, Input::PeerClosed { connection });
                }
            }
            Event::Splice { five_tuple, connection } => self.streams.splice(five_tuple, connection),
            Event::ClosePeer { connection } => self.streams.close_peer(connection),
            Event::CloseClient { five_tuple } if five_tuple.transport == Transport::Dtls => {
                if let Some(socket) = socket_for(&mut self.sockets, five_tuple) {
                    self.dtls.close(five_tuple, |five_tuple, record| {
                        socket.send(five_tuple, (record, record.len()), now);
                    });
                }
            }
            Event::CloseClient { five_tuple } => self.streams.close_client(five_tuple),
            Event::Allocated { allocation, user, five_tuple } => {
                self.set_proven(five_tuple, true, now);
                tracing::debug!(%allocation, %user, client = %five_tuple.client, "allocation made");
            }
            Event::Moved { allocation, from, to } => {
                self.set_proven(to, true, now);
                self.set_proven(from, false, now);
                tracing::debug!(%allocation, client = %to.client, "the client moved");
            }
            Event::Deallocated { allocation, reason, five_tuple } => {
                if reason != EndReason::Disconnected {
                    self.set_proven(five_tuple, false, now);
                }
                tracing::debug!(%allocation, reason = reason.as_str(), "allocation ended");
            }
            Event::Refused { user, five_tuple, reason } => {
                self.refusals.note(now, user.as_deref(), five_tuple, reason);
                self.metrics.refused(reason);
            }
            _ => {}
        }
    }

    /// An allocation hangs on a client's connection, or none any more.
    fn set_proven(&mut self, five_tuple: FiveTuple, is_proven: bool, now: Instant) {
        match five_tuple.transport {
            Transport::Udp => {}
            Transport::Dtls => self.dtls.set_proven(five_tuple, is_proven, now),
            Transport::Tcp | Transport::Tls => self.streams.set_proven(five_tuple, is_proven, now),
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.streams.flush(now);
        self.short_cuts.flush();
        self.relays.flush(self.poll.registry(), now);
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            socket.sending.flush(&mut socket.socket, now);
            if socket.sending.is_blocked() != socket.waits_for_room {
                socket.waits_for_room = socket.sending.is_blocked();
                let interest = match socket.waits_for_room {
                    true => Interest::READABLE | Interest::WRITABLE,
                    false => Interest::READABLE,
                };
                let token = tokens::token(Kind::Socket, index);
                self.poll.registry().reregister(&mut socket.socket, token, interest)?;
            }
        }
        Ok(())
    }
}

/// Whether there are datagrams to read, and no new room for what waits to be sent, which must not wait longer.
fn datagrams_came(events: &Events) -> bool {
    let has_room = events.iter().any(|event| event.is_writable() && is_datagrams(event.token()));
    !has_room && events.iter().any(|event| event.is_readable() && is_datagrams(event.token()))
}

fn is_datagrams(token: Token) -> bool {
    matches!(tokens::split(token), Some((Kind::Socket | Kind::Relay, _)))
}

/// The socket that a client sends to.
fn socket_for(sockets: &mut [ClientSocket], five_tuple: FiveTuple) -> Option<&mut ClientSocket> {
    let serves = |socket: &&mut ClientSocket| {
        socket.transport == five_tuple.transport && socket.serves(five_tuple.server)
    };
    sockets.iter_mut().find(serves)
}
