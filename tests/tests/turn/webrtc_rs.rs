//! The TURN client of webrtc-rs, `rtc-turn`. It is sans-IO; this drives it over UDP, and over TCP.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::sansio::Protocol as _;
use rtc::shared::{TransportContext, TransportMessage, TransportProtocol};
use rtc::turn::client::{Client, ClientConfig, Event};

use crate::server::{Family, Transport, TurnUnderTest};

const LIMIT: Duration = Duration::from_secs(20);
/// How long an answer is waited for until the client's timers are looked at.
const WAIT: Duration = Duration::from_millis(20);
const MESSAGES: usize = 50;

/// A client, its socket, and a peer that it talks to.
pub(crate) struct Call {
    client: Client,
    way: Way,
    server: SocketAddr,
    pub(crate) peer: UdpSocket,
    /// When it has to be over.
    deadline: Instant,
    channel_data_sent: usize,
    /// What the header of ChannelData that it sent last began with.
    channel: [u8; 2],
}

/// A client's way to the server.
pub(crate) enum Way {
    Udp(UdpSocket),
    /// With what came and is no whole message yet.
    Tcp(TcpStream, Vec<u8>),
}

/// Allocates, permits a peer, and sends to and fro: by indications until the channel is bound, by the channel then.
/// `family` is that of the way to the server. The client asks for no family of relayed addresses, so it gets IPv4.
pub(crate) fn relay(turn: &TurnUnderTest, family: Family) {
    let mut call = Call::new(turn, Transport::Udp, family);
    let peer = call.peer.local_addr().unwrap();
    let relayed = call.allocate();
    assert_eq!(relayed.ip(), Family::V4.loopback());
    assert_ne!(relayed, call.way.local_addr());

    // Permissions are for addresses, whatever the port (RFC 8656 section 9): nothing of this one's ever comes through.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    call.permit(relayed, peer);

    let mut channels = BTreeSet::new();
    for number in 0..MESSAGES {
        // Of all lengths modulo 4.
        let there = vec![u8::try_from(number).unwrap(); 100 + number];
        call.client.relay(relayed).unwrap().send_to(Instant::now(), &there, peer).unwrap();
        let (data, source) = call.received_by_peer();
        assert_eq!((data, source), (there.clone(), relayed));

        let back = [&there[..], b" and back"].concat();
        stranger.send_to(b"not permitted", relayed).unwrap();
        call.peer.send_to(&back, relayed).unwrap();
        let Event::DataIndicationOrChannelData(channel, source, data) = call.event() else {
            panic!("something else than data came");
        };
        assert_eq!((&data[..], source), (&back[..], peer));
        channels.extend(channel.map(|channel| channel.0));
    }
    assert_eq!(channels.len(), 1, "the server used the channel: {channels:?}");
    assert!(call.channel_data_sent > MESSAGES / 2, "{} went through the channel", call.channel_data_sent);

    // An allocation that has ended relays nothing. coturn takes a second to end it.
    call.client.relay(relayed).unwrap().close(Instant::now()).unwrap();
    call.until_silent();
    loop {
        call.peer.send_to(b"too late", relayed).unwrap();
        call.drive();
        if call.client.poll_event().is_none() {
            break;
        }
    }
}

impl Call {
    /// A client that exchanges data with its peer over a channel: what it sends and receives from now on is up to the
    /// caller. Its relayed address, and the header of ChannelData without the length.
    pub(crate) fn open(turn: &TurnUnderTest, transport: Transport) -> (Self, SocketAddr, [u8; 2]) {
        let mut call = Self::new(turn, transport, Family::V4);
        let peer = call.peer.local_addr().unwrap();
        let relayed = call.allocate();
        call.permit(relayed, peer);
        while call.channel_data_sent == 0 {
            call.client.relay(relayed).unwrap().send_to(Instant::now(), b"hello", peer).unwrap();
            call.received_by_peer();
        }
        let channel = call.channel;
        (call, relayed, channel)
    }

    fn new(turn: &TurnUnderTest, transport: Transport, family: Family) -> Self {
        let peer = UdpSocket::bind((Family::V4.loopback(), 0)).unwrap();
        peer.set_read_timeout(Some(WAIT)).unwrap();
        let address = turn.address(transport, family);
        let (way, transport_protocol) = match transport {
            Transport::Tcp => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(WAIT)).unwrap();
                (Way::Tcp(stream, Vec::new()), TransportProtocol::TCP)
            }
            _ => {
                let socket = UdpSocket::bind((family.loopback(), 0)).unwrap();
                socket.set_read_timeout(Some(WAIT)).unwrap();
                (Way::Udp(socket), TransportProtocol::UDP)
            }
        };
        let server = address.to_string();
        let config = ClientConfig {
            stun_serv_addr: server.clone(),
            turn_serv_addr: server,
            local_addr: way.local_addr(),
            transport_protocol,
            username: turn.user().to_owned(),
            password: turn.password().to_owned(),
            ..ClientConfig::default()
        };
        let client = Client::new(config, rtc::crypto::default_provider().unwrap()).unwrap();
        Self {
            client,
            way,
            server: address,
            peer,
            deadline: Instant::now() + LIMIT,
            channel_data_sent: 0,
            channel: [0; 2],
        }
    }

    fn allocate(&mut self) -> SocketAddr {
        self.client.allocate(Instant::now()).unwrap();
        match self.event() {
            Event::AllocateResponse(_, relayed) => relayed,
            event => panic!("no allocation: {event:?}"),
        }
    }

    fn permit(&mut self, relayed: SocketAddr, peer: SocketAddr) {
        let request = self.client.relay(relayed).unwrap().create_permission(Instant::now(), peer).unwrap();
        assert!(request.is_some(), "a permission is asked for");
        match self.event() {
            Event::CreatePermissionResponse(_, permitted) => assert_eq!(permitted, peer),
            event => panic!("no permission: {event:?}"),
        }
    }

    /// What the client says next.
    fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            self.drive();
        }
    }

    fn received_by_peer(&mut self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        loop {
            self.drive();
            if let Ok((length, source)) = self.peer.recv_from(&mut buffer) {
                return (buffer[..length].to_vec(), source);
            }
        }
    }

    /// Goes on until all requests are answered.
    fn until_silent(&mut self) {
        while self.drive() {}
    }

    /// Sends what the client has to send and hands it what has come, or the time. Says whether anything has come.
    fn drive(&mut self) -> bool {
        assert!(Instant::now() < self.deadline, "not done in time");
        while let Some(transmit) = self.client.poll_write() {
            // RFC 8656 section 12: channel numbers are 0x4000 to 0x4fff.
            if transmit.message[0] >> 4 == 4 {
                self.channel_data_sent += 1;
                self.channel = [transmit.message[0], transmit.message[1]];
            }
            self.way.send(&transmit.message, transmit.transport.peer_addr);
        }
        let received = self.way.receive();
        let now = Instant::now();
        if let Some((message, peer_addr)) = &received {
            let transport_protocol = match self.way {
                Way::Udp(_) => TransportProtocol::UDP,
                Way::Tcp(..) => TransportProtocol::TCP,
            };
            let transport = TransportContext {
                local_addr: self.way.local_addr(),
                peer_addr: *peer_addr,
                transport_protocol,
                ecn: None,
            };
            let message = BytesMut::from(&message[..]);
            self.client.handle_read(TransportMessage { now, transport, message }).unwrap();
        }
        self.client.handle_timeout(now).unwrap();
        received.is_some()
    }

    /// The next message of ChannelData without the client's help: its data. None if none comes in time.
    pub(crate) fn receive(&mut self, channel: [u8; 2]) -> Option<Vec<u8>> {
        let (message, _) = self.way.receive()?;
        assert!(message.starts_with(&channel), "no message of the channel: {:?}", message.get(..4));
        let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
        Some(message[4..4 + length].to_vec())
    }

    /// The same, without waiting. Over UDP alone.
    pub(crate) fn receive_at_once(&mut self, channel: [u8; 2]) -> Option<Vec<u8>> {
        let Way::Udp(socket) = &self.way else { panic!("a stream is read by receive()") };
        socket.set_nonblocking(true).unwrap();
        self.receive(channel)
    }

    /// Sends data to the peer without the client's help.
    pub(crate) fn send(&mut self, channel: [u8; 2], data: &[u8]) {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let mut message = [&channel[..], &length, data].concat();
        if matches!(self.way, Way::Tcp(..)) {
            message.resize(message.len().next_multiple_of(4), 0);
        }
        self.way.send(&message, self.server);
    }
}

impl Way {
    fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(stream, _) => stream.local_addr(),
        }
        .unwrap()
    }

    fn send(&mut self, message: &[u8], server: SocketAddr) {
        match self {
            Self::Udp(socket) => _ = socket.send_to(message, server).unwrap(),
            Self::Tcp(stream, _) => stream.write_all(message).unwrap(),
        }
    }

    /// The next message, if one comes in time.
    fn receive(&mut self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 2048];
        match self {
            Self::Udp(socket) => {
                let (length, source) = socket.recv_from(&mut buffer).ok()?;
                Some((buffer[..length].to_vec(), source))
            }
            Self::Tcp(stream, waiting) => {
                let length = loop {
                    // RFC 8656 section 12.5, RFC 8489 section 5: both have their length in bytes 2 and 3.
                    if let [first, _, high, low, ..] = waiting[..] {
                        let length = usize::from(u16::from_be_bytes([high, low]));
                        let whole =
                            if first >> 6 == 1 { 4 + length.next_multiple_of(4) } else { 20 + length };
                        if waiting.len() >= whole {
                            break whole;
                        }
                    }
                    let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
                    waiting.extend_from_slice(&buffer[..length]);
                };
                Some((waiting.drain(..length).collect(), stream.peer_addr().unwrap()))
            }
        }
    }
}
