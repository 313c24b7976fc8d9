//! A media node on real sockets, with str0m clients over UDP and ICE-TCP, and the test as signaling.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

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
const PATIENCE: Duration = Duration::from_secs(15);

/// A node and the signaling of one room on it.
struct Rig {
    bus: Arc<dyn Bus>,
    sfu: SfuHandle,
    registry: Registry,
    shutdown: CancellationToken,
    room: RoomSid,
    notices: mpsc::Receiver<NodeNotice>,
    /// Notices that nobody asked for yet.
    kept: Vec<NodeEvent>,
    /// Whether tracks may begin in sections that were negotiated before: workers hear of each other's in their own time.
    late_binding: bool,
}

impl Rig {
    async fn new(bind: Ipv4Addr, announce: &[Ipv4Addr]) -> Self {
        let announce = announce.iter().map(|ip| (*ip).into()).collect();
        Self::with_config(SfuConfig { bind: bind.into(), announce, ..SfuConfig::default() }).await
    }

    async fn with_config(config: SfuConfig) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
        let config = SfuConfig { workers: 2, udp_port_first: 0, ice_tcp_port: 0, ..config };
        let (mut registry, shutdown) = (Registry::default(), CancellationToken::new());
        let sfu = start(config, bus.clone(), &mut registry, shutdown.clone()).await.unwrap();
        assert_eq!(sfu.udp_ports().len(), 2);
        let room = RoomSid::from_random(rand::random());
        let notices = bus.subscribe_room(&room).await.unwrap();
        Self { bus, sfu, registry, shutdown, room, notices, kept: Vec::new(), late_binding: false }
    }

    async fn command(&self, action: NodeAction) {
        let command = NodeCommand { room: self.room.clone(), action };
        self.bus.command(self.sfu.node(), command).await.unwrap();
    }

    async fn open(&self, client: &Client, role: ConnectionRole) {
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

    async fn expect(&self, client: &Client, track: &TrackSid, kind: MediaKind) {
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
            backup: None,
        }))
        .await;
    }

    async fn subscribe(&self, client: &Client, track: &TrackSid) {
        self.command(NodeAction::Subscribe(SubscribeTrack {
            connection: client.id,
            track: track.clone(),
            stream_id: "PA_x".to_owned(),
            settings: SubscriptionSettings::default(),
        }))
        .await;
    }

    /// Offers sections and takes the answer. Returns the new sections.
    async fn negotiate(
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

    async fn notice<T>(&mut self, wanted: impl Fn(&NodeEvent) -> Option<T>) -> T {
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

    async fn state(&mut self, id: ConnectionId, expected: ConnectionState) {
        self.notice(|event| match event {
            NodeEvent::ConnectionState { connection, state } => {
                (*connection == id && *state == expected).then_some(())
            }
            _ => None,
        })
        .await;
    }

    fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
    }

    /// Waits for a metric: workers publish a few times a second.
    async fn metric_reaches(&self, line: &str, reached: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self.metric(line)) {
            assert!(Instant::now() < deadline, "{line} is {}", self.metric(line));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.sfu.join()).await.expect("the node ends in time");
        assert!(self.bus.nodes().await.unwrap().is_empty());
    }
}

/// What a client is connected by.
enum Link {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, received: Vec<u8> },
}

struct Client {
    id: ConnectionId,
    rtc: Rtc,
    link: Link,
    local: SocketAddr,
    connected: bool,
    /// From where packets came.
    sources: BTreeSet<SocketAddr>,
    /// First bytes of frames received, by section.
    frames: BTreeSet<(Mid, u32)>,
}

impl Client {
    fn udp(id: u64, ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let local = socket.local_addr().unwrap();
        let candidate = Candidate::host(local, Protocol::Udp).unwrap();
        Self::new(id, Link::Udp(socket), local, candidate)
    }

    fn tcp(id: u64, server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let candidate = Candidate::builder().tcp().host(local).tcptype(TcpType::Active).build().unwrap();
        Self::new(id, Link::Tcp { stream, received: Vec::new() }, local, candidate)
    }

    fn new(id: u64, link: Link, local: SocketAddr, candidate: Candidate) -> Self {
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

    fn fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        match &self.link {
            Link::Udp(socket) => socket.as_raw_fd(),
            Link::Tcp { stream, .. } => stream.as_raw_fd(),
        }
    }

    /// Reads and writes what there is. Returns when it wants to be called again.
    fn turn(&mut self) -> Instant {
        self.receive();
        self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        self.flush()
    }

    fn flush(&mut self) -> Instant {
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

    fn receive(&mut self) {
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
    fn write(&mut self, mid: Mid, codec: Codec, number: u32, bytes: usize) {
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
async fn run_until(
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

fn connected(clients: &[&mut Client]) -> bool {
    clients.iter().all(|client| client.connected)
}

fn track(number: u128, kind: MediaKind) -> TrackSid {
    TrackSid::for_track(kind, TrackSource::Unknown, number)
}

/// One publisher; the others receive its audio and its video. Ends when each has `count` of each.
async fn call(rig: Rig, publisher: Client, receivers: Vec<Client>, count: usize) -> Rig {
    call_with(rig, publisher, receivers, count).await.0
}

/// Same; returns the clients too, the publisher first.
async fn call_with(
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_udp_and_tcp() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let publisher = Client::udp(1, Ipv4Addr::LOCALHOST);
    let receivers = vec![Client::udp(2, Ipv4Addr::LOCALHOST), Client::tcp(3, tcp)];
    let rig = call(rig, publisher, receivers, 40).await;
    rig.metric_reaches("zynk_sfu_rooms", |rooms| rooms == 1.0).await;
    rig.metric_reaches("zynk_sfu_connections", |connections| connections == 3.0).await;
    rig.metric_reaches("zynk_sfu_tcp_connections", |connections| connections == 1.0).await;
    rig.metric_reaches("zynk_sfu_rtp_packets_total{direction=\"downstream\"}", |packets| packets > 200.0)
        .await;
    assert_eq!(rig.metric("zynk_sfu_datagrams_dropped_total{reason=\"send_full\"}"), 0.0);
    // Frames of video leave as runs of equal size.
    let datagrams = rig.metric("zynk_sfu_datagrams_total{direction=\"downstream\"}");
    let calls = rig.metric("zynk_sfu_send_calls_total");
    assert!(calls < datagrams, "{calls} sends for {datagrams} datagrams");
    assert!(rig.sfu.health().is_ready());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_over_tcp() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let publisher = Client::tcp(1, tcp);
    let rig = call(rig, publisher, vec![Client::udp(2, Ipv4Addr::LOCALHOST)], 20).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_bound_to_all_addresses_answers_from_the_one_that_was_called() {
    let rig = Rig::new(Ipv4Addr::UNSPECIFIED, &[Ipv4Addr::new(127, 0, 0, 2)]).await;
    let publisher = Client::udp(1, Ipv4Addr::new(127, 0, 0, 3));
    let rig = call(rig, publisher, vec![Client::udp(2, Ipv4Addr::new(127, 0, 0, 4))], 10).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_spread_over_two_workers() {
    let bind = Ipv4Addr::LOCALHOST.into();
    let mut rig = Rig::with_config(SfuConfig { bind, spread_connections: 2, ..SfuConfig::default() }).await;
    rig.late_binding = true;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let ports: BTreeSet<u16> = rig.sfu.udp_ports().iter().copied().collect();
    let publisher = Client::udp(1, Ipv4Addr::LOCALHOST);
    let receivers =
        vec![Client::udp(2, Ipv4Addr::LOCALHOST), Client::udp(3, Ipv4Addr::LOCALHOST), Client::tcp(4, tcp)];
    let (rig, clients) = call_with(rig, publisher, receivers, 40).await;
    let used: BTreeSet<u16> =
        clients.iter().flat_map(|client| &client.sources).map(SocketAddr::port).collect();
    assert!(used.is_superset(&ports), "{used:?} of {ports:?}");
    rig.metric_reaches("zynk_sfu_rooms", |rooms| rooms == 2.0).await;
    rig.metric_reaches("zynk_sfu_tracks", |tracks| tracks == 2.0).await;
    rig.metric_reaches("zynk_sfu_connections", |connections| connections == 4.0).await;
    // Two of the receivers are on the other worker: what they both receive comes there once.
    let upstream = "zynk_sfu_rtp_packets_total{direction=\"upstream\"}";
    let received = "zynk_sfu_relay_packets_total{result=\"received\"}";
    rig.metric_reaches(received, |packets| packets > 100.0).await;
    rig.metric_reaches(upstream, |packets| packets >= rig.metric(received)).await;
    assert_eq!(rig.metric("zynk_sfu_relay_packets_total{result=\"dropped\"}"), 0.0);
    rig.command(NodeAction::CloseRoom).await;
    rig.metric_reaches("zynk_sfu_rooms", |rooms| rooms == 0.0).await;
    rig.end().await;
}

/// Bytes of memory that this process holds.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_sockets_neither_fill_memory_nor_keep_clients_out() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let before = resident_bytes();
    // Both ends are in this process: it may run out of file descriptors first, which is as good a test.
    let mut idle: Vec<TcpStream> = (0..10_000).map_while(|_| TcpStream::connect(tcp).ok()).collect();
    assert!(idle.len() >= 500, "only {} connections", idle.len());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes for {} sockets", idle.len());
    // Descriptors for the clients of the call.
    idle.truncate(idle.len() - 50);
    let receivers = vec![Client::tcp(2, tcp), Client::udp(3, Ipv4Addr::LOCALHOST)];
    let rig = call(rig, Client::tcp(1, tcp), receivers, 10).await;
    assert!(rig.metric("zynk_sfu_tcp_accepted_total{result=\"silent\"}") > 200.0);
    assert!(rig.sfu.health().is_ready());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_disturbs_nobody() {
    let rig = Rig::new(Ipv4Addr::LOCALHOST, &[]).await;
    let tcp: SocketAddr = (Ipv4Addr::LOCALHOST, rig.sfu.tcp_port().unwrap()).into();
    let ports = rig.sfu.udp_ports().to_vec();
    let noise = std::thread::spawn(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for number in 0..2_000u32 {
            // Every first byte, so every kind of packet of RFC 7983, of every size.
            let mut packet = vec![0x5a; number as usize % 1_400 + 1];
            packet[0] = number as u8;
            for port in &ports {
                let _ = socket.send_to(&packet, (Ipv4Addr::LOCALHOST, *port));
            }
            if number % 20 == 0 {
                let mut stream = TcpStream::connect(tcp).unwrap();
                let _ = stream.write_all(&packet);
            }
        }
    });
    let receivers = vec![Client::udp(2, Ipv4Addr::LOCALHOST), Client::tcp(3, tcp)];
    let rig = call(rig, Client::udp(1, Ipv4Addr::LOCALHOST), receivers, 20).await;
    noise.join().unwrap();
    rig.metric_reaches("zynk_sfu_datagrams_dropped_total{reason=\"refused\"}", |dropped| dropped > 100.0)
        .await;
    assert!(rig.sfu.health().is_ready());
    rig.end().await;
}
