//! A node, the signaling of a room on it, and clients.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use prometheus_client::{encoding::text::encode, registry::Registry};
use str0m::{
    Candidate, Event, Input, Output, Rtc,
    change::SdpAnswer,
    format::Codec,
    media::{Direction, MediaKind as RtcMediaKind, MediaTime, Mid},
    net::{Protocol, Receive, TcpType},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zynk_bus::{Bus, LocalBus};
use zynk_protocol::{
    CandidatePolicy, ConnectionId, ConnectionRole, ConnectionState, ExpectedTrack, MediaKind, NodeAction,
    NodeCommand, NodeEvent, NodeNotice, OpenConnection, ParticipantSid, RoomSid, SubscribeTrack,
    SubscriptionSettings, TrackSid, TrackSource,
};
use zynk_sfu_server::{SfuConfig, SfuHandle, start};

/// For anything that is to come.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A node and the signaling of one room on it.
pub struct Rig {
    pub bus: Arc<dyn Bus>,
    pub sfu: SfuHandle,
    pub registry: Registry,
    pub shutdown: CancellationToken,
    pub room: RoomSid,
    pub notices: mpsc::Receiver<NodeNotice>,
    /// Notices that nobody asked for yet.
    pub kept: Vec<NodeEvent>,
    /// Whether tracks may begin in sections that were negotiated before: workers hear of each other's in their own time.
    pub late_binding: bool,
}

impl Rig {
    pub async fn new(bind: Ipv4Addr, announce: &[Ipv4Addr]) -> Self {
        let announce = announce.iter().map(|ip| (*ip).into()).collect();
        Self::with_config(SfuConfig { bind: bind.into(), announce, workers: 2, ..SfuConfig::default() }).await
    }

    pub async fn with_config(config: SfuConfig) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
        let workers = config.workers;
        let config = SfuConfig { udp_port_first: 0, ice_tcp_port: 0, ..config };
        let (mut registry, shutdown) = (Registry::default(), CancellationToken::new());
        let sfu = start(config, bus.clone(), &mut registry, shutdown.clone()).await.unwrap();
        assert_eq!(sfu.udp_ports().len(), workers);
        let room = RoomSid::from_random(rand::random());
        let notices = bus.subscribe_room(&room).await.unwrap();
        Self { bus, sfu, registry, shutdown, room, notices, kept: Vec::new(), late_binding: false }
    }

    /// Goes on in a room of its own.
    pub async fn change_room(&mut self) {
        self.room = RoomSid::from_random(rand::random());
        self.notices = self.bus.subscribe_room(&self.room).await.unwrap();
        self.kept.clear();
    }

    pub async fn command(&self, action: NodeAction) {
        let command = NodeCommand { room: self.room.clone(), action };
        self.bus.command(self.sfu.node(), command).await.unwrap();
    }

    pub async fn open(&self, client: &Client, role: ConnectionRole) {
        let candidates = match client.link {
            Link::Udp(_) => CandidatePolicy::All,
            Link::Tcp { .. } => CandidatePolicy::TcpOnly,
        };
        self.command(NodeAction::OpenConnection(OpenConnection {
            connection: client.id,
            participant: ParticipantSid::from_random(client.id.0.into()),
            role,
            late_binding: self.late_binding,
            candidates,
        }))
        .await;
    }

    pub async fn expect(&self, client: &Client, track: &TrackSid, kind: MediaKind) {
        self.command(NodeAction::ExpectTrack(ExpectedTrack {
            connection: client.id,
            track: track.clone(),
            cids: Vec::new(),
            kind,
            source: TrackSource::Unknown,
            codec: None,
            red: false,
            dtx: false,
            stereo: false,
            muted: false,
            encrypted: false,
            backup: None,
        }))
        .await;
    }

    pub async fn subscribe(&self, client: &Client, track: &TrackSid) {
        self.command(NodeAction::Subscribe(SubscribeTrack {
            connection: client.id,
            track: track.clone(),
            stream_id: "PA_x".to_owned(),
            settings: SubscriptionSettings::default(),
        }))
        .await;
    }

    /// Offers sections and takes the answer. Returns the new sections.
    pub async fn negotiate(
        &mut self,
        client: &mut Client,
        sections: &[(RtcMediaKind, Direction)],
    ) -> (Vec<Mid>, String) {
        let mut changes = client.rtc.sdp_api();
        let mids = sections
            .iter()
            .map(|(kind, direction)| changes.add_media(*kind, *direction, None, None, None))
            .collect();
        let (offer, pending) = changes.apply().unwrap();
        let sdp = offer.to_sdp_string();
        self.command(NodeAction::RemoteOffer { connection: client.id, offer_id: 1, sdp }).await;
        let id = client.id;
        let answer = self
            .notice(|event| match event {
                NodeEvent::Answer { connection, sdp, .. } if *connection == id => Some(sdp.clone()),
                NodeEvent::NegotiationFailed { failure, .. } => panic!("refused: {failure}"),
                _ => None,
            })
            .await;
        client.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
        (mids, answer)
    }

    pub async fn notice<T>(&mut self, wanted: impl Fn(&NodeEvent) -> Option<T>) -> T {
        if let Some(at) = self.kept.iter().position(|event| wanted(event).is_some()) {
            return wanted(&self.kept.remove(at)).unwrap();
        }
        loop {
            let notice = tokio::time::timeout(PATIENCE, self.notices.recv()).await;
            let event = notice.expect("the notice comes in time").unwrap().event;
            match wanted(&event) {
                Some(found) => return found,
                None => self.kept.push(event),
            }
        }
    }

    pub async fn state(&mut self, id: ConnectionId, expected: ConnectionState) {
        self.notice(|event| match event {
            NodeEvent::ConnectionState { connection, state } => {
                (*connection == id && *state == expected).then_some(())
            }
            _ => None,
        })
        .await;
    }

    pub fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
    }

    /// Waits for a metric: workers publish a few times a second.
    pub async fn metric_reaches(&self, line: &str, reached: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self.metric(line)) {
            assert!(Instant::now() < deadline, "{line} is {}", self.metric(line));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.sfu.join()).await.expect("the node ends in time");
        assert!(self.bus.nodes().await.unwrap().is_empty());
    }
}

/// What a client is connected by.
pub enum Link {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, received: Vec<u8> },
}

pub struct Client {
    pub id: ConnectionId,
    pub rtc: Rtc,
    pub link: Link,
    pub local: SocketAddr,
    pub connected: bool,
    /// From where packets came.
    pub sources: BTreeSet<SocketAddr>,
    /// First bytes of frames received, by section.
    pub frames: BTreeSet<(Mid, u32)>,
}

impl Client {
    pub fn udp(id: u64, ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let local = socket.local_addr().unwrap();
        let candidate = Candidate::host(local, Protocol::Udp).unwrap();
        Self::new(id, Link::Udp(socket), local, candidate)
    }

    pub fn tcp(id: u64, server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let candidate = Candidate::builder().tcp().host(local).tcptype(TcpType::Active).build().unwrap();
        Self::new(id, Link::Tcp { stream, received: Vec::new() }, local, candidate)
    }

    pub fn new(id: u64, link: Link, local: SocketAddr, candidate: Candidate) -> Self {
        let mut rtc = Rtc::builder().build(Instant::now());
        rtc.add_local_candidate(candidate);
        Self {
            id: ConnectionId(id),
            rtc,
            link,
            local,
            connected: false,
            sources: BTreeSet::new(),
            frames: BTreeSet::new(),
        }
    }

    pub fn fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        match &self.link {
            Link::Udp(socket) => socket.as_raw_fd(),
            Link::Tcp { stream, .. } => stream.as_raw_fd(),
        }
    }

    /// Reads and writes what there is. Returns when it wants to be called again.
    pub fn turn(&mut self) -> Instant {
        self.receive();
        self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        self.flush()
    }

    pub fn flush(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => return at,
                Output::Transmit(transmit) => match &mut self.link {
                    Link::Udp(socket) => {
                        assert_eq!(transmit.proto, Protocol::Udp);
                        let _ = socket.send_to(&transmit.contents, transmit.destination);
                    }
                    Link::Tcp { stream, .. } => {
                        assert_eq!(transmit.proto, Protocol::Tcp);
                        let length = u16::try_from(transmit.contents.len()).unwrap().to_be_bytes();
                        stream.write_all(&[length.as_slice(), &transmit.contents].concat()).unwrap();
                    }
                },
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::MediaData(frame)) => {
                    let number = u32::from_be_bytes(frame.data[1..5].try_into().unwrap());
                    self.frames.insert((frame.mid, number));
                }
                Output::Event(_) => {}
            }
        }
    }

    pub fn receive(&mut self) {
        let mut chunk = [0; 65_536];
        loop {
            let (proto, source, packets) = match &mut self.link {
                Link::Udp(socket) => match socket.recv_from(&mut chunk) {
                    Ok((len, source)) => (Protocol::Udp, source, vec![chunk[..len].to_vec()]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => panic!("{error}"),
                },
                Link::Tcp { stream, received } => match stream.read(&mut chunk) {
                    Ok(0) => panic!("the node closed the connection"),
                    Ok(len) => {
                        received.extend_from_slice(&chunk[..len]);
                        let mut packets = Vec::new();
                        while let [high, low, rest @ ..] = received.as_slice()
                            && let Some(packet) = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
                        {
                            let packet = packet.to_vec();
                            received.drain(..2 + packet.len());
                            packets.push(packet);
                        }
                        (Protocol::Tcp, stream.peer_addr().unwrap(), packets)
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => panic!("{error}"),
                },
            };
            self.sources.insert(source);
            for packet in packets {
                let receive = Receive::new(proto, source, self.local, &packet).unwrap();
                self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
                self.flush();
            }
        }
    }

    /// Sends a frame that carries its number.
    pub fn write(&mut self, mid: Mid, codec: Codec, number: u32, bytes: usize) {
        let Some(writer) = self.rtc.writer(mid) else { return };
        let params = writer.payload_params().find(|params| params.spec().codec == codec).unwrap();
        let (pt, rate) = (params.pt(), params.spec().clock_rate);
        let mut frame = vec![0; bytes];
        // VP8: the first bit of a keyframe is 0 (RFC 6386, section 9.1), and so is that of this byte.
        frame[0] = 0x10;
        frame[1..5].copy_from_slice(&number.to_be_bytes());
        let time = MediaTime::new(u64::from(number) * u64::from(rate.get()) / 50, rate);
        writer.write(pt, Instant::now(), time, frame).unwrap();
    }
}

/// Lets clients run until something is true, calling `tick` every 20 ms.
pub async fn run_until(
    clients: &mut [&mut Client],
    mut tick: impl FnMut(&mut [&mut Client], u32),
    done: impl Fn(&[&mut Client]) -> bool,
) {
    let mut poll = Poll::new().unwrap();
    for (token, client) in clients.iter().enumerate() {
        poll.registry().register(&mut SourceFd(&client.fd()), Token(token), Interest::READABLE).unwrap();
    }
    let mut events = Events::with_capacity(16);
    let deadline = Instant::now() + PATIENCE;
    let (mut next_tick, mut ticks) = (Instant::now(), 0);
    while !done(clients) {
        assert!(Instant::now() < deadline, "the clients did not get there in time");
        if Instant::now() >= next_tick {
            tick(clients, ticks);
            ticks += 1;
            next_tick += Duration::from_millis(20);
        }
        let wanted = clients.iter_mut().map(|client| client.turn()).min().unwrap().min(next_tick);
        let wait = wanted.saturating_duration_since(Instant::now());
        tokio::task::block_in_place(|| poll.poll(&mut events, Some(wait)).unwrap());
    }
}

pub fn connected(clients: &[&mut Client]) -> bool {
    clients.iter().all(|client| client.connected)
}

pub fn track(number: u128, kind: MediaKind) -> TrackSid {
    TrackSid::for_track(kind, TrackSource::Unknown, number)
}

/// One publisher; the others receive its audio and its video. Ends when each has `count` of each.
pub async fn call(rig: Rig, publisher: Client, receivers: Vec<Client>, count: usize) -> Rig {
    call_with(rig, publisher, receivers, count).await.0
}

/// Same; returns the clients too, the publisher first.
pub async fn call_with(
    mut rig: Rig,
    mut publisher: Client,
    mut receivers: Vec<Client>,
    count: usize,
) -> (Rig, Vec<Client>) {
    let (audio, video) = (track(1, MediaKind::Audio), track(2, MediaKind::Video));
    rig.open(&publisher, ConnectionRole::Publisher).await;
    rig.expect(&publisher, &audio, MediaKind::Audio).await;
    rig.expect(&publisher, &video, MediaKind::Video).await;
    let sections = |direction| [(RtcMediaKind::Audio, direction), (RtcMediaKind::Video, direction)];
    let (mids, answer) = rig.negotiate(&mut publisher, &sections(Direction::SendOnly)).await;
    let tcp_only = matches!(publisher.link, Link::Tcp { .. });
    assert_eq!(tcp_only, !answer.contains(" udp "), "{answer}");
    for receiver in &mut receivers {
        rig.open(receiver, ConnectionRole::Single).await;
        rig.subscribe(receiver, &audio).await;
        rig.subscribe(receiver, &video).await;
        rig.negotiate(receiver, &sections(Direction::RecvOnly)).await;
    }

    let publisher_id = publisher.id;
    let receiver_ids: Vec<_> = receivers.iter().map(|receiver| receiver.id).collect();
    let mut clients: Vec<&mut Client> = std::iter::once(&mut publisher).chain(&mut receivers).collect();
    run_until(&mut clients, |_, _| {}, connected).await;
    for id in std::iter::once(publisher_id).chain(receiver_ids) {
        rig.state(id, ConnectionState::Connected).await;
    }
    run_until(
        &mut clients,
        |clients, number| {
            clients[0].write(mids[0], Codec::Opus, number, 120);
            clients[0].write(mids[1], Codec::Vp8, number, 6_000);
        },
        |clients| clients[1..].iter().all(|client| client.frames.len() >= 2 * count),
    )
    .await;
    for client in &clients[1..] {
        let sections: BTreeSet<Mid> = client.frames.iter().map(|(mid, _)| *mid).collect();
        assert_eq!(sections.len(), 2, "audio and video");
    }
    let ours = rig.sfu.announced();
    for client in &clients {
        assert!(client.sources.iter().all(|source| ours.contains(&source.ip())), "{:?}", client.sources);
    }
    receivers.insert(0, publisher);
    (rig, receivers)
}
