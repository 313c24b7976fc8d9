//! The TURN client of webrtc-rs, `rtc-turn`. It is sans-IO; this drives it over UDP.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
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
struct Call {
    client: Client,
    socket: UdpSocket,
    peer: UdpSocket,
    /// When it has to be over.
    deadline: Instant,
    channel_data_sent: usize,
}

/// Allocates, permits a peer, and sends to and fro: by indications until the channel is bound, by the channel then.
/// `family` is that of the way to the server. The client asks for no family of relayed addresses, so it gets IPv4.
pub(crate) fn relay(turn: &TurnUnderTest, family: Family) {
    let mut call = Call::new(turn, family);
    let peer = call.peer.local_addr().unwrap();
    let relayed = call.allocate();
    assert_eq!(relayed.ip(), Family::V4.loopback());
    assert_ne!(relayed, call.socket.local_addr().unwrap());

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
    fn new(turn: &TurnUnderTest, family: Family) -> Self {
        let [socket, peer] =
            [family, Family::V4].map(|family| UdpSocket::bind((family.loopback(), 0)).unwrap());
        socket.set_read_timeout(Some(WAIT)).unwrap();
        peer.set_read_timeout(Some(WAIT)).unwrap();
        let server = turn.address(Transport::Udp, family).to_string();
        let config = ClientConfig {
            stun_serv_addr: server.clone(),
            turn_serv_addr: server,
            local_addr: socket.local_addr().unwrap(),
            transport_protocol: TransportProtocol::UDP,
            username: turn.user().to_owned(),
            password: turn.password().to_owned(),
            ..ClientConfig::default()
        };
        let client = Client::new(config, rtc::crypto::default_provider().unwrap()).unwrap();
        Self { client, socket, peer, deadline: Instant::now() + LIMIT, channel_data_sent: 0 }
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
            self.channel_data_sent += usize::from(transmit.message[0] >> 4 == 4);
            self.socket.send_to(&transmit.message, transmit.transport.peer_addr).unwrap();
        }
        let mut buffer = [0; 2048];
        let received = self.socket.recv_from(&mut buffer);
        let now = Instant::now();
        if let Ok((length, peer_addr)) = &received {
            let transport = TransportContext {
                local_addr: self.socket.local_addr().unwrap(),
                peer_addr: *peer_addr,
                transport_protocol: TransportProtocol::UDP,
                ecn: None,
            };
            let message = BytesMut::from(&buffer[..*length]);
            self.client.handle_read(TransportMessage { now, transport, message }).unwrap();
        }
        self.client.handle_timeout(now).unwrap();
        received.is_ok()
    }
}
