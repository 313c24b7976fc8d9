//! One thread, one UDP port, one shard of rooms.
//!
//! ```text
//!            ┌──────────────────────────────── one turn ───────────────────────────────┐
//!   wait     │ poll: UDP socket, TCP connections, waker (the channels), timeout;       │
//!            │ under load, a little longer: HoldBack                                   │
//!   input    │ commands ► sockets ► batches ► datagrams ► frames ► timeout   to shard  │
//!   flush    │ shard's output ► UDP socket | TCP buffers | notices | other workers     │
//!            └─────────────────────────────────────────────────────────────────────────┘
//! ```
//! After the wait nothing blocks and nothing is awaited. What a turn's budget leaves unread is read in the
//! next turn, which then does not wait.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::Receiver;
use mio::{Events, Interest, Poll, Token};
use tokio::sync::mpsc;
use zynk_net::{HoldBack, RecvBatch, SendBatch, Tunnelled, UdpSocket};
use zynk_protocol::NodeCommand;
use zynk_sfu_core::{Input, Output, Shard, Transmit, Transport};

use crate::{
    addresses::AddressMap,
    arrival_clock::ArrivalClock,
    dispatcher::WorkerCommand,
    metrics::WorkerMetrics,
    notices::NoticeQueue,
    relay::{RelayLinks, Relayed},
    tcp::{AcceptedSocket, Connections},
    tunnels::Tunnels,
};

/// Sockets that wait for a worker. When it is full, the acceptor closes further ones.
pub(crate) const SOCKETS_MAX: usize = 256;

/// Datagrams taken from the UDP socket in one turn; the rest waits in the kernel. Bounds the time before
/// what they caused is sent.
const DATAGRAMS_PER_TURN: usize = 1024;

/// Datagrams handed to the shard before its output is taken, though more wait: what goes to one receiver meanwhile
/// leaves together, and must have room in its pacer.
const DATAGRAMS_PER_DRAIN: usize = 256;

/// Commands obeyed in one turn.
const COMMANDS_PER_TURN: usize = 64;

/// After this long in one turn, further commands wait for the next: datagrams must not wait behind slow
/// negotiations.
const COMMANDS_TIME_PER_TURN: Duration = Duration::from_millis(2);

/// The longest wait: how soon connections expire and figures are published when nothing happens.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The wait when the shard asks to be called at once although it just was: it must not spin.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The wait while notices overflow.
const NOTICE_RETRY: Duration = Duration::from_millis(5);

/// Batches of other workers taken in one turn; the rest is taken in the next.
const BATCHES_PER_TURN: usize = 64;

/// Parcels taken from one tunnel in one turn.
const PARCELS_PER_TURN: usize = 16;

/// The wait while there are words for another worker that has no room for them.
const RELAY_RETRY: Duration = Duration::from_millis(1);

/// How often figures are published.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

/// How long notices may take to leave when the worker ends.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) const WAKER: Token = Token(0);
const UDP: Token = Token(1);
const FIRST_CONNECTION: usize = 2;

/// What is in the channel after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandsLeft {
    /// There may be more.
    Waiting,
    Empty,
    /// No more will come.
    Ended,
}

/// Obeys as many commands as a turn may take. `elapsed` is the time since the first.
fn take_turn(
    commands: &mut mpsc::Receiver<WorkerCommand>,
    elapsed: impl Fn() -> Duration,
    mut obey: impl FnMut(WorkerCommand),
) -> CommandsLeft {
    for _ in 0..COMMANDS_PER_TURN {
        match commands.try_recv() {
            Ok(command) => obey(command),
            Err(mpsc::error::TryRecvError::Empty) => return CommandsLeft::Empty,
            Err(mpsc::error::TryRecvError::Disconnected) => return CommandsLeft::Ended,
        }
        if elapsed() >= COMMANDS_TIME_PER_TURN {
            break;
        }
    }
    CommandsLeft::Waiting
}

/// Whether the UDP socket has something to read, and no new room for what waits to be sent, which must not wait longer.
fn only_datagrams_came(events: &Events) -> bool {
    events.iter().any(|event| event.token() == UDP && event.is_readable() && !event.is_writable())
}

/// What a worker is made of; its thread makes the rest.
pub(crate) struct WorkerParts {
    /// With the waker registered as [`WAKER`].
    pub(crate) poll: Poll,
    pub(crate) udp: UdpSocket,
    pub(crate) udp_addresses: AddressMap,
    /// None when ICE-TCP is off.
    pub(crate) tcp_addresses: Option<AddressMap>,
    pub(crate) commands: mpsc::Receiver<WorkerCommand>,
    /// What other workers' shards have to say to this one's, and the way back.
    pub(crate) relayed: Receiver<Relayed>,
    pub(crate) relay: RelayLinks,
    pub(crate) sockets: Receiver<AcceptedSocket>,
    /// Ways to relays of this process.
    pub(crate) tunnels: Tunnels,
    pub(crate) notices: NoticeQueue,
    pub(crate) hold_back: HoldBack,
    pub(crate) metrics: Arc<WorkerMetrics>,
}

/// The loop and everything it owns.
pub(crate) struct Worker {
    shard: Shard,
    parts: WorkerParts,
    received: RecvBatch,
    sending: SendBatch,
    connections: Connections,
    /// Working memory for one frame of a TCP connection.
    frame: Vec<u8>,
    /// When the shard wants to be called.
    deadline: Instant,
    /// Datagrams may wait in the socket. Polls report them once only.
    udp_readable: bool,
    /// The poll reports when the socket takes datagrams again.
    udp_waits_for_room: bool,
    commands_waiting: bool,
    batches_waiting: bool,
    parcels_waiting: bool,
    commands_ended: bool,
    datagrams_received: u64,
    /// When the first datagram of this turn came.
    first_arrived: Option<Instant>,
    /// RTP packets sent by the end of the last turn.
    packets_sent: u64,
    published_at: Instant,
    expired_at: Instant,
    busy: Duration,
    busy_since: Instant,
}

impl Worker {
    pub(crate) fn new(shard: Shard, mut parts: WorkerParts, now: Instant) -> io::Result<Self> {
        parts.poll.registry().register(&mut parts.udp, UDP, Interest::READABLE)?;
        Ok(Self {
            shard,
            parts,
            received: RecvBatch::new(),
            sending: SendBatch::new(),
            connections: Connections::new(FIRST_CONNECTION),
            frame: Vec::new(),
            deadline: now,
            udp_readable: true,
            udp_waits_for_room: false,
            commands_waiting: true,
            batches_waiting: true,
            parcels_waiting: true,
            commands_ended: false,
            datagrams_received: 0,
            first_arrived: None,
            packets_sent: 0,
            published_at: now,
            expired_at: now,
            busy: Duration::ZERO,
            busy_since: now,
        })
    }

    /// Runs until the commands' channel ends.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        while !self.commands_ended {
            self.wait(&mut events)?;
            let now = Instant::now();
            self.input(&events, now);
            self.flush(now)?;
            self.account(now);
        }
        self.say_farewell();
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.timeout(Instant::now());
        match self.parts.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let held = self.parts.hold_back.held();
        let more_may_come = !self.udp_readable && only_datagrams_came(events);
        if more_may_come && !held.is_zero() {
            thread::sleep(held);
        }
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Duration {
        let commands = self.commands_waiting && !self.parts.notices.is_congested();
        let inputs = self.udp_readable || self.batches_waiting || self.parcels_waiting;
        if inputs || commands || self.connections.is_readable() {
            return Duration::ZERO;
        }
        let longest = if self.parts.relay.is_waiting() {
            RELAY_RETRY
        } else if self.parts.notices.is_waiting() {
            NOTICE_RETRY
        } else {
            WAIT_MAX
        };
        self.deadline.saturating_duration_since(now).clamp(WAIT_MIN, longest)
    }

    fn input(&mut self, events: &Events, now: Instant) {
        for event in events {
            match event.token() {
                UDP => self.udp_readable |= event.is_readable() || event.is_error(),
                WAKER => {
                    self.commands_waiting = true;
                    self.batches_waiting = true;
                    self.parcels_waiting = true;
                }
                _ => self.connections.on_event(event),
            }
        }
        self.take_commands(now);
        self.adopt_sockets(now);
        self.take_batches(now);
        self.take_datagrams(now);
        self.take_parcels(now);
        self.take_frames(now);
        if self.deadline <= now {
            self.shard.handle_input(now, Input::Timeout);
        }
    }

    fn take_commands(&mut self, now: Instant) {
        // Most commands are answered by notices.
        if self.parts.notices.is_congested() {
            return;
        }
        let (shard, began) = (&mut self.shard, Instant::now());
        let obey = |command| match command {
            WorkerCommand::Node(NodeCommand { room, action }) => {
                shard.handle_input(now, Input::Command { room, action });
            }
            WorkerCommand::Siblings { room, shards } => {
                shard.handle_input(now, Input::Siblings { room, shards });
            }
        };
        let left = take_turn(&mut self.parts.commands, || began.elapsed(), obey);
        self.commands_waiting = left == CommandsLeft::Waiting;
        self.commands_ended |= left == CommandsLeft::Ended;
    }

    fn adopt_sockets(&mut self, now: Instant) {
        let Some(addresses) = &mut self.parts.tcp_addresses else { return };
        while let Ok(socket) = self.parts.sockets.try_recv() {
            let local = socket.stream.local_addr().map(|address| address.ip().to_canonical()).ok();
            let destination = addresses.announced(local);
            if let Err(error) = self.connections.adopt(self.parts.poll.registry(), socket, destination, now) {
                tracing::debug!(%error, "an ICE-TCP socket was lost");
            }
        }
        self.report_closed(now);
    }

    fn take_batches(&mut self, now: Instant) {
        let mut undrained = 0;
        for _ in 0..BATCHES_PER_TURN {
            let Ok(Relayed { from, batch }) = self.parts.relayed.try_recv() else {
                self.batches_waiting = false;
                return;
            };
            undrained += batch.packets();
            self.shard.handle_input(now, Input::Relay { from, batch });
            if undrained >= DATAGRAMS_PER_DRAIN {
                undrained = 0;
                self.drain(now);
            }
        }
        self.batches_waiting = true;
    }

    fn take_datagrams(&mut self, now: Instant) {
        let clock = ArrivalClock::read(now);
        let (mut taken, mut undrained) = (0, 0);
        while self.udp_readable && taken < DATAGRAMS_PER_TURN {
            match self.received.recv(&self.parts.udp) {
                Ok(count) => {
                    taken += count.max(1);
                    undrained += count;
                    // What comes now is reported anew.
                    self.udp_readable = !self.received.is_drained();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.udp_readable = false;
                    break;
                }
                // The next datagram that arrives is reported anew; until then the loop must not spin.
                Err(error) => {
                    tracing::debug!(%error, "cannot receive datagrams");
                    self.udp_readable = false;
                    break;
                }
            }
            for datagram in self.received.datagrams_mut() {
                self.datagrams_received += 1;
                let arrived = clock.instant(datagram.arrived);
                self.first_arrived.get_or_insert(arrived);
                let input = Input::Datagram {
                    transport: Transport::Udp,
                    source: datagram.source,
                    destination: self.parts.udp_addresses.announced(datagram.destination_ip),
                    arrived,
                    payload: datagram.payload,
                };
                self.shard.handle_input(now, input);
            }
            if undrained >= DATAGRAMS_PER_DRAIN {
                undrained = 0;
                // Time goes on: what pacers held back since the last drain is due.
                let now = Instant::now();
                self.shard.handle_input(now, Input::Timeout);
                self.drain(now);
            }
        }
    }

    /// Takes what clients have sent through relays of this process.
    fn take_parcels(&mut self, now: Instant) {
        if !std::mem::take(&mut self.parcels_waiting) {
            return;
        }
        self.parts.tunnels.adopt();
        for tunnel in 0..self.parts.tunnels.set.len() {
            for taken in 0..PARCELS_PER_TURN {
                let Some(mut parcel) = self.parts.tunnels.set.recv(tunnel) else { break };
                self.datagrams_received += parcel.len() as u64;
                for Tunnelled { source, destination, payload } in parcel.datagrams() {
                    self.parts.tunnels.heard(source, tunnel);
                    let transport = Transport::Udp;
                    let input = Input::Datagram { transport, source, destination, arrived: now, payload };
                    self.shard.handle_input(now, input);
                }
                self.parts.tunnels.set.recycle(tunnel, parcel);
                self.drain(now);
                self.parcels_waiting |= taken + 1 == PARCELS_PER_TURN;
            }
        }
    }

    fn take_frames(&mut self, now: Instant) {
        let (shard, frame) = (&mut self.shard, &mut self.frame);
        self.connections.read(now, |source, destination, payload| {
            // Media is decrypted in place, and what was read may hold the beginning of another frame.
            frame.clear();
            frame.extend_from_slice(payload);
            let transport = Transport::Tcp;
            let input = Input::Datagram { transport, source, destination, arrived: now, payload: frame };
            shard.handle_input(now, input);
        });
        if now.saturating_duration_since(self.expired_at) >= WAIT_MAX {
            self.expired_at = now;
            self.connections.expire(now);
        }
        self.report_closed(now);
    }

    fn report_closed(&mut self, now: Instant) {
        while let Some(source) = self.connections.next_closed() {
            self.shard.handle_input(now, Input::TcpClosed { source });
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.drain(now);
        self.parts.tunnels.set.flush();
        self.connections.flush(now);
        // A write shows that a client has gone.
        self.report_closed(now);
        self.parts.notices.flush();
        self.sending.flush(&mut self.parts.udp, now);
        if self.sending.is_blocked() != self.udp_waits_for_room {
            self.udp_waits_for_room = self.sending.is_blocked();
            let interest = if self.udp_waits_for_room {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            self.parts.poll.registry().reregister(&mut self.parts.udp, UDP, interest)?;
        }
        Ok(())
    }

    /// Takes all that the shard has to say.
    fn drain(&mut self, now: Instant) {
        let Self { shard, parts, sending, connections, .. } = self;
        loop {
            match shard.poll_output() {
                Output::Transmit(transmit) if transmit.transport == Transport::Tcp => {
                    transmit.datagrams().for_each(|frame| connections.send(transmit.destination, frame));
                }
                Output::Transmit(Transmit { source, destination, payload, segment_bytes, .. }) => {
                    if let Some(tunnel) = parts.tunnels.set.to(destination) {
                        tunnel.push(source, destination, (payload, segment_bytes));
                        continue;
                    }
                    let source_ip = parts.udp_addresses.source_ip(source.ip());
                    sending.send(&mut parts.udp, destination, source_ip, (payload, segment_bytes), now);
                }
                Output::Event { room, event } => parts.notices.push(room, event),
                Output::Relay { to, batch } => parts.relay.send(to, batch),
                Output::Timeout(deadline) => {
                    self.deadline = deadline;
                    parts.relay.flush();
                    return;
                }
            }
        }
    }

    /// Publishes figures. `now` is when the turn began.
    fn account(&mut self, now: Instant) {
        let ended = Instant::now();
        let duration = ended.saturating_duration_since(now);
        self.busy += duration;
        self.parts.hold_back.on_turn(ended, duration);
        let metrics = &self.parts.metrics;
        metrics.turn_seconds.observe(duration.as_secs_f64());
        metrics.turned(ended);
        let stats = self.shard.stats();
        let sent = std::mem::replace(&mut self.packets_sent, stats.rtp_packets_sent);
        if let Some(arrived) = self.first_arrived.take()
            && stats.rtp_packets_sent > sent
        {
            let forward = ended.saturating_duration_since(arrived);
            metrics.histograms.forward_seconds.observe(forward.as_secs_f64());
        }
        if ended.saturating_duration_since(self.published_at) >= PUBLISH_INTERVAL {
            self.published_at = ended;
            metrics.publish_shard(&stats);
            for measurement in self.shard.take_measurements() {
                metrics.histograms.observe(measurement);
            }
            metrics.publish_udp(self.datagrams_received, &self.sending.stats());
            metrics.publish_tcp(&self.connections.stats());
            metrics.publish_notices(&self.parts.notices.stats());
            metrics.publish_relay(&self.parts.relay.stats());
        }
        let interval = ended.saturating_duration_since(self.busy_since);
        if interval >= WAIT_MAX {
            metrics.publish_busy(self.busy, interval);
            self.busy = Duration::ZERO;
            self.busy_since = ended;
        }
    }

    /// Lets the last notices leave: the thread has nothing else to do any more, so it may wait for them.
    fn say_farewell(&mut self) {
        let deadline = Instant::now() + FAREWELL_TIMEOUT;
        while self.parts.notices.is_waiting() && Instant::now() < deadline {
            thread::sleep(NOTICE_RETRY);
            self.parts.notices.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use zynk_net::SocketOptions;
    use zynk_protocol::{NodeAction, RoomSid};

    use super::*;

    /// How many commands one turn takes of 200 that last `each`, and what it leaves.
    fn taken(each: Duration) -> (u32, CommandsLeft) {
        let (sender, mut commands) = mpsc::channel(200);
        for number in 0..200 {
            let command = NodeCommand { room: RoomSid::from_random(number), action: NodeAction::CloseRoom };
            sender.try_send(WorkerCommand::Node(command)).unwrap();
        }
        let count = Cell::new(0);
        let left = take_turn(&mut commands, || each * count.get(), |_| count.set(count.get() + 1));
        (count.get(), left)
    }

    #[test]
    fn slow_commands_do_not_take_a_whole_turn() {
        assert_eq!(taken(Duration::from_micros(1)), (64, CommandsLeft::Waiting));
        assert_eq!(taken(Duration::from_micros(500)), (4, CommandsLeft::Waiting));
        assert_eq!(taken(Duration::from_secs(1)), (1, CommandsLeft::Waiting), "there is progress");
    }

    #[test]
    fn room_in_the_socket_does_not_wait_for_datagrams() {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SocketOptions::default()).unwrap();
        let (mut socket, mut peer) = (bind(), bind());
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(4);
        let mut woken = |poll: &mut Poll| {
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert!(events.iter().any(|event| event.token() == UDP));
            only_datagrams_came(&events)
        };
        poll.registry().register(&mut socket, UDP, Interest::READABLE | Interest::WRITABLE).unwrap();
        assert!(!woken(&mut poll), "writable only");
        let mut sending = SendBatch::new();
        sending.send(&mut peer, socket.local_addr(), None, (b"x", 1), Instant::now());
        assert!(!woken(&mut poll), "both");
        poll.registry().reregister(&mut socket, UDP, Interest::READABLE).unwrap();
        assert!(woken(&mut poll), "readable only");
    }

    #[test]
    fn the_end_of_the_channel_is_seen() {
        let (sender, mut commands) = mpsc::channel(1);
        assert_eq!(take_turn(&mut commands, Duration::default, |_| {}), CommandsLeft::Empty);
        drop(sender);
        assert_eq!(take_turn(&mut commands, Duration::default, |_| {}), CommandsLeft::Ended);
    }
}
