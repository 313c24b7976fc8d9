//! Load on a server from one thread: participants that publish what a browser's camera and microphone do, and
//! participants that receive it, many of them, at little cost for each packet.
//!
//! ```text
//!   join:     Signaling (WHIP, WHEP, …; its own thread, it waits) ◄─► Session (str0m: ICE, DTLS) ─► keys
//!   a turn:   packets that are due ─► sealed, sent         every socket, each 10 ms ─► drained, counted
//!             one packet of 61 ─► opened: authentic? how old?
//!             reports once a second, transport-wide feedback ten times, ICE consent
//! ```
//! Ages come from the kernel's timestamps, so it does not matter for them how late a socket is drained.

mod connection;
pub mod http;
mod keys;
mod publisher;
mod receiver;
mod relay;
mod sdp;
mod session;
pub mod signaling;
mod socket;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use zynk_sfu_core::media::srtp::Profile;

pub use publisher::{Beat, Load, PACKETS_PER_SECOND, Rhythm};
pub use receiver::Totals;
pub use relay::RelayAccess;
pub use sdp::Kind;
pub use signaling::Signaling;
pub use socket::{Arena, Clock, Received, Socket, unix_now};

use self::{
    connection::Connection,
    publisher::Publisher,
    receiver::Scratch,
    session::{Session, Way},
    signaling::{Request, Requests},
};
use crate::{histogram::Histogram, machine};

/// How often each socket is drained.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);
/// How often a share of the sockets is.
const TICK: Duration = Duration::from_millis(1);
/// How long the thread sleeps at most while somebody joins.
const JOIN_TICK: Duration = Duration::from_micros(200);
/// How long a participant may take to join.
const JOIN_TIME_MAX: Duration = Duration::from_secs(20);

/// Which participants' figures are added up together.
pub type Group = usize;

/// What a participant wants.
#[derive(Clone, Debug)]
pub enum Role {
    /// To publish.
    Publish(Load),
    /// To receive the room's tracks.
    Receive {
        /// Sections for audio.
        audio: usize,
        /// Sections for video.
        video: usize,
        /// Whether joining ends with the first packet, and not with the connection.
        wait_for_media: bool,
    },
}

/// Somebody who joins.
#[derive(Clone, Debug)]
pub struct Participant {
    /// Where.
    pub room: String,
    /// Under which identity.
    pub name: String,
    /// Whose figures count together.
    pub group: Group,
    /// What for.
    pub role: Role,
}

/// How long joining took, from the request to its answer, to the connection, and to the first packet of media.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Joined {
    pub key: ConnectionKey,
    pub answered: Duration,
    pub connected: Duration,
    pub first_packet: Option<Duration>,
}

/// A participant's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey(usize);

/// Where a publisher sends from and to, and under which numbers.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Path {
    pub socket: UdpSocket,
    pub server: SocketAddr,
    pub ssrc: u32,
    /// Of the next packet.
    pub sequence: u16,
}

/// What was sent and received in a time.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Packets that publishers sent.
    pub sent: u64,
    /// What receivers received.
    pub received: Totals,
    /// Ages of the packets that were opened.
    pub latencies: Histogram,
}

/// All participants, and the thread's loop.
pub struct Generator {
    connections: Vec<Connection>,
    /// When publishers send next.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Connections that are not up yet.
    joining: Vec<usize>,
    /// The next to be drained.
    cursor: usize,
    next_tick: Instant,
    arena: Arena,
    scratch: Scratch,
    requests: Requests,
    server_offers: bool,
    /// Of the sockets.
    address: IpAddr,
    relay: Option<RelayAccess>,
    latencies: Vec<Histogram>,
    profile: Option<Profile>,
    /// How late a packet left, at most.
    late_max: Duration,
    failures: u64,
}

impl Generator {
    /// Participants will join through `signaling`.
    ///
    /// # Errors
    /// When the process may not open enough files.
    pub fn new(signaling: Box<dyn Signaling>) -> Result<Self> {
        rlimit::increase_nofile_limit(65_536).context("cannot raise the limit on open files")?;
        let server_offers = signaling.server_offers();
        Ok(Self {
            connections: Vec::new(),
            due: BinaryHeap::new(),
            joining: Vec::new(),
            cursor: 0,
            next_tick: Instant::now(),
            arena: Arena::new(Clock::now()),
            scratch: Scratch::default(),
            requests: Requests::start(signaling)?,
            server_offers,
            address: Ipv4Addr::LOCALHOST.into(),
            relay: None,
            latencies: Vec::new(),
            profile: None,
            late_max: Duration::ZERO,
            failures: 0,
        })
    }

    /// Takes sockets from now on at another address of this machine than 127.0.0.1.
    pub fn bind_to(&mut self, address: IpAddr) {
        self.address = address;
    }

    /// Lets all that participants who join from now on send and receive go through a relay.
    pub fn relay_by(&mut self, relay: RelayAccess) {
        self.relay = Some(relay);
    }

    /// Lets a participant join, while the others go on.
    ///
    /// # Errors
    /// When the server does not let it, or no connection or media comes about in 20 s.
    pub fn join(&mut self, participant: Participant) -> Result<Joined> {
        let name = participant.name.clone();
        self.try_join(participant).with_context(|| format!("{name} cannot join"))
    }

    fn try_join(&mut self, participant: Participant) -> Result<Joined> {
        let Participant { room, name, group, role } = participant;
        if self.latencies.len() <= group {
            self.latencies.resize_with(group + 1, Histogram::default);
        }
        let begun = Instant::now();
        let socket = Socket::bind(self.address, self.relay.as_ref()).context("no socket")?;
        let index = self.connections.len();
        let (waits, answered) = match role {
            Role::Publish(load) => {
                let mut sections = Vec::new();
                sections.extend(load.audio.then_some((Kind::Audio, Way::Send)));
                sections.extend(load.video.then_some((Kind::Video, Way::Send)));
                let (mut session, offer) = Session::offer(socket.known_as(), &sections, begun)?;
                let answer = self.ask(Request::Publish { room, name, offer: offer.clone() })?;
                let answered = Instant::now();
                session.accept_answer(&answer)?;
                self.begin(Connection::new(socket, session, group));
                self.until_connected(index, begun)?;
                let start = Instant::now() + Duration::from_micros(1_370 * (index as u64 % 24));
                let connection = self.connections.get_mut(index).context("the connection")?;
                let media = connection.media.as_mut().context("the connection's keys")?;
                let publisher = Publisher::new(load, &offer, &answer, &mut media.sealer, start)?;
                self.due.extend(publisher.next_at().map(|at| Reverse((at, index))));
                connection.publisher = Some(publisher);
                (false, answered)
            }
            Role::Receive { audio, video, wait_for_media } => {
                let answered = if self.server_offers {
                    let offer =
                        self.ask(Request::Play { room: room.clone(), name: name.clone(), offer: None })?;
                    let (session, answer) = Session::answer(socket.known_as(), &offer, begun)?;
                    self.begin(Connection::new(socket, session, group).receiving(&offer, index, begun));
                    self.ask(Request::Answer { room, name, answer })?;
                    Instant::now()
                } else {
                    let mut sections = vec![(Kind::Audio, Way::Receive); audio];
                    sections.extend(vec![(Kind::Video, Way::Receive); video]);
                    let (mut session, offer) = Session::offer(socket.known_as(), &sections, begun)?;
                    let answer = self.ask(Request::Play { room, name, offer: Some(offer) })?;
                    let answered = Instant::now();
                    session.accept_answer(&answer)?;
                    self.begin(Connection::new(socket, session, group).receiving(&answer, index, begun));
                    answered
                };
                self.until_connected(index, begun)?;
                (wait_for_media, answered)
            }
        };
        let connected = begun.elapsed();
        let answered = answered.saturating_duration_since(begun);
        let first_packet = match waits {
            true => Some(self.until_first_packet(index, begun)?),
            false => None,
        };
        self.joining.retain(|joining| *joining != index);
        Ok(Joined { key: ConnectionKey(index), answered, connected, first_packet })
    }

    fn begin(&mut self, connection: Connection) {
        self.joining.push(self.connections.len());
        self.connections.push(connection);
    }

    /// Has a request answered, while everybody goes on.
    fn ask(&mut self, request: Request) -> Result<String> {
        self.requests.send(request)?;
        loop {
            if let Some(answer) = self.requests.poll() {
                return answer;
            }
            self.turn(Instant::now() + JOIN_TICK)?;
        }
    }

    fn until_connected(&mut self, index: usize, begun: Instant) -> Result<()> {
        loop {
            let connection = self.connections.get(index).context("the connection")?;
            if connection.media.is_some() {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < JOIN_TIME_MAX,
                "no connection after {JOIN_TIME_MAX:?}: {}",
                connection.session.progress()
            );
            self.turn(Instant::now() + JOIN_TICK)?;
        }
    }

    fn until_first_packet(&mut self, index: usize, begun: Instant) -> Result<Duration> {
        loop {
            let connection = self.connections.get(index).context("the connection")?;
            let first = connection.receiver.as_ref().and_then(|receiver| receiver.first_packet);
            if let Some(first) = first {
                return Ok(first.saturating_duration_since(begun));
            }
            ensure!(begun.elapsed() < JOIN_TIME_MAX, "connected, but no media after {JOIN_TIME_MAX:?}");
            self.turn(Instant::now() + JOIN_TICK)?;
        }
    }

    /// Goes on for a while.
    ///
    /// # Errors
    /// When the server let somebody down.
    pub fn run(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    /// Goes on for a while, and says what was sent and received in it, by groups.
    ///
    /// # Errors
    /// When the server let somebody down.
    pub fn measure(&mut self, duration: Duration) -> Result<Vec<Window>> {
        self.late_max = Duration::ZERO;
        let before = self.totals();
        self.latencies.iter_mut().for_each(Histogram::clear);
        self.run(duration)?;
        let after = self.totals();
        let windows = before.iter().zip(&after).zip(&self.latencies);
        Ok(windows
            .map(|((before, after), latencies)| Window {
                sent: after.0 - before.0,
                received: after.1.since(&before.1),
                latencies: latencies.clone(),
            })
            .collect())
    }

    /// Packets sent and what was received, by groups.
    fn totals(&self) -> Vec<(u64, Totals)> {
        let mut totals = vec![(0, Totals::default()); self.latencies.len()];
        for connection in &self.connections {
            let Some((sent, received)) = totals.get_mut(connection.group) else { continue };
            *sent += connection.publisher.as_ref().map_or(0, |publisher| publisher.packets);
            if let Some(receiver) = &connection.receiver {
                received.add(&receiver.totals);
            }
        }
        totals
    }

    /// The SRTP profile that was negotiated, once somebody has joined.
    pub fn profile(&self) -> Option<Profile> {
        self.profile
    }

    /// How late a packet left in the last window, at most.
    pub fn late_max(&self) -> Duration {
        self.late_max
    }

    /// Connections that the server let down since the beginning.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Keyframes that were sent since the beginning.
    pub fn keyframes(&self) -> u64 {
        self.connections
            .iter()
            .filter_map(|connection| connection.publisher.as_ref())
            .map(|p| p.keyframes)
            .sum()
    }

    /// Datagrams that the kernel dropped because a socket was not drained in time.
    pub fn drops(&self) -> u64 {
        let ports: BTreeSet<u16> =
            self.connections.iter().map(|connection| connection.socket.local().port()).collect();
        machine::udp_drops(&ports)
    }

    /// Datagrams that the kernel dropped because the server did not drain its sockets in time.
    pub fn server_drops(&self) -> u64 {
        let media = self.connections.iter().filter_map(|connection| connection.media.as_ref());
        machine::udp_drops(&media.map(|media| media.remote.port()).collect())
    }

    /// What it takes to send in a publisher's name.
    ///
    /// # Errors
    /// When there is no such publisher.
    pub fn path_of(&self, key: ConnectionKey) -> Result<Path> {
        let connection = self.connections.get(key.0).context("no such participant")?;
        let media = connection.media.as_ref().context("not connected")?;
        let source = connection.publisher.as_ref().and_then(Publisher::source);
        let (ssrc, sequence) = source.context("publishes nothing")?;
        Ok(Path { socket: connection.socket.duplicate()?, server: media.remote, ssrc, sequence })
    }

    /// Ends every session at the server, as far as its signaling knows how.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn leave(&mut self) -> Result<()> {
        self.ask(Request::Leave).map(drop)
    }

    /// Forgets everybody, at once and without a word to the server.
    pub fn forget(&mut self) {
        self.connections.clear();
        self.due.clear();
        self.joining.clear();
        self.cursor = 0;
    }

    /// Sends what is due, drains a share of the sockets, and sleeps until something is due again, or `until`.
    fn turn(&mut self, until: Instant) -> Result<()> {
        let now = Instant::now();
        self.publish(now)?;
        for at in 0..self.joining.len() {
            let index = self.joining.get(at).copied().context("somebody who joins")?;
            self.service(index, now)?;
        }
        if now >= self.next_tick {
            self.next_tick = (self.next_tick + TICK).max(now);
            let ticks = (DRAIN_INTERVAL.as_micros() / TICK.as_micros()) as usize;
            for _ in 0..self.connections.len().div_ceil(ticks) {
                self.cursor = if self.cursor + 1 < self.connections.len() { self.cursor + 1 } else { 0 };
                // Packets do not wait for a long round.
                self.publish(Instant::now())?;
                self.service(self.cursor, Instant::now())?;
            }
        }
        let due = self.due.peek().map_or(until, |Reverse((at, _))| *at);
        let wake = due.min(self.next_tick).min(until);
        std::thread::sleep(wake.saturating_duration_since(Instant::now()));
        Ok(())
    }

    fn publish(&mut self, now: Instant) -> Result<()> {
        while let Some(Reverse((at, index))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            let connection = self.connections.get_mut(index).context("a publisher")?;
            let (Some(publisher), Some(media)) = (&mut connection.publisher, &mut connection.media) else {
                bail!("a publisher without a connection");
            };
            self.late_max = self.late_max.max(now - at);
            publisher.send(&media.sealer, &connection.socket, media.remote)?;
            self.due.extend(publisher.next_at().map(|at| Reverse((at, index))));
        }
        Ok(())
    }

    /// Drains a socket and does what is due.
    fn service(&mut self, index: usize, now: Instant) -> Result<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        let latencies = self.latencies.get_mut(connection.group).context("a group")?;
        match connection.service(now, &mut self.arena, &mut self.scratch, latencies) {
            Ok(profile) => self.profile = self.profile.or(profile),
            // Who joins is told; of the others it is counted.
            Err(error) if self.joining.contains(&index) => return Err(error),
            Err(_) => self.failures += 1,
        }
        Ok(())
    }
}
