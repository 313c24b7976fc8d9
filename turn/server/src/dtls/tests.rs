use std::net::Ipv4Addr;

use super::*;

fn five_tuple(client: u32) -> FiveTuple {
    let server = (Ipv4Addr::LOCALHOST, 5349).into();
    FiveTuple { transport: Transport::Dtls, server, client: (Ipv4Addr::from(client), 4000).into() }
}

fn certificate() -> dimpl::DtlsCertificate {
    dimpl::certificate::generate_self_signed_certificate().unwrap()
}

fn clients(now: Instant) -> DtlsClients {
    DtlsClients::new(Some(certificate()), 10_000, now).unwrap()
}

/// A client that is not ours: the library's other side.
struct Peer {
    dtls: dimpl::Dtls,
    is_connected: bool,
    heard: Vec<u8>,
}

impl Peer {
    fn new(now: Instant) -> Self {
        let config = dimpl::Config::builder().build().unwrap();
        let mut dtls = dimpl::Dtls::new_12(Arc::new(config), certificate(), now);
        dtls.set_active(true);
        dtls.handle_timeout(now).unwrap();
        Self { dtls, is_connected: false, heard: Vec::new() }
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let (mut packets, mut buffer) = (Vec::new(), vec![0; 4096]);
        loop {
            match self.dtls.poll_output(&mut buffer) {
                dimpl::Output::Packet(packet) => packets.push(packet.to_vec()),
                dimpl::Output::Connected => self.is_connected = true,
                dimpl::Output::ApplicationData(data) => self.heard.extend_from_slice(data),
                dimpl::Output::Timeout(_) => return packets,
                _ => {}
            }
        }
    }
}

/// Lets both talk until nobody has anything to say, and returns what the server was told.
fn talk(server: &mut DtlsClients, peer: &mut Peer, from: FiveTuple, now: Instant) -> Vec<u8> {
    let mut told = Vec::new();
    loop {
        let packets = peer.packets();
        if packets.is_empty() {
            return told;
        }
        let mut answers = Vec::new();
        for packet in packets {
            let on_data = |_: FiveTuple, data: &[u8]| told.extend_from_slice(data);
            server.receive(now, from, &packet, |_, record| answers.push(record.to_vec()), on_data);
        }
        answers.iter().for_each(|answer| peer.dtls.handle_packet(answer).unwrap());
    }
}

#[test]
fn a_client_that_shows_its_cookie_is_served() {
    let now = Instant::now();
    let (mut server, mut peer, from) = (clients(now), Peer::new(now), five_tuple(1));
    talk(&mut server, &mut peer, from, now);
    assert!(peer.is_connected);
    peer.dtls.send_application_data(b"allocate").unwrap();
    assert_eq!(talk(&mut server, &mut peer, from, now), b"allocate");
    server.send(from, b"success", |_, record| peer.dtls.handle_packet(record).unwrap());
    peer.packets();
    assert_eq!(peer.heard, b"success");
}

#[test]
fn one_address_has_so_many_clients_and_no_more() {
    let now = Instant::now();
    let mut server = clients(now);
    server.set_limits(10, 2);
    let from = |port: u16| FiveTuple { client: (Ipv4Addr::from(1), port).into(), ..five_tuple(1) };
    let mut connect = |from: FiveTuple, now: Instant| {
        let mut peer = Peer::new(now);
        talk(&mut server, &mut peer, from, now);
        let is_connected = peer.is_connected;
        (is_connected, server.len())
    };
    assert_eq!(connect(from(1), now), (true, 1));
    assert_eq!(connect(from(2), now), (true, 2));
    assert_eq!(connect(from(3), now), (false, 2));
    assert_eq!(connect(five_tuple(2), now), (true, 3), "others have their own");
    server.close(from(1), |_, _| {});
    let mut peer = Peer::new(now);
    talk(&mut server, &mut peer, from(3), now);
    assert!(peer.is_connected, "there is room again");
    assert_eq!(server.per_source.values().sum::<usize>(), server.len());
}

#[test]
fn who_has_no_allocation_does_not_stay() {
    let now = Instant::now();
    let mut server = clients(now);
    let (with, without) = (five_tuple(1), five_tuple(2));
    for from in [with, without] {
        talk(&mut server, &mut Peer::new(now), from, now);
    }
    server.set_proven(with, true, now);
    let last = now + UNPROVEN_TIMEOUT - Duration::from_millis(1);
    server.on_time(last, |_, _| {});
    assert_eq!(server.len(), 2);
    server.on_time(now + UNPROVEN_TIMEOUT, |_, _| {});
    assert_eq!((server.len(), server.next_closed(), server.next_closed()), (1, Some(without), None));
    // Nor does who had one.
    let later = now + 2 * UNPROVEN_TIMEOUT;
    server.set_proven(with, false, later);
    server.on_time(later + UNPROVEN_TIMEOUT, |_, _| {});
    assert_eq!((server.len(), server.per_source.len()), (0, 0));
}

/// T23: hellos from forged addresses leave nothing behind, and nobody's handshake is given up for them.
#[test]
fn hellos_from_forged_addresses_leave_nothing() {
    let now = Instant::now();
    let (mut server, mut peer, from) = (clients(now), Peer::new(now), five_tuple(1));
    let hello = peer.packets().remove(0);
    let mut answers = Vec::new();
    server.receive(now, from, &hello, |_, record| answers.push(record.to_vec()), |_, _| {});
    let answer = answers.remove(0);
    peer.dtls.handle_packet(&answer).unwrap();
    let second = peer.packets().remove(0);
    let mut flight = Vec::new();
    server.receive(now, from, &second, |_, record| flight.push(record.to_vec()), |_, _| {});
    assert_eq!(server.len(), 1, "it has shown its cookie");

    let (mut bytes, hellos) = (0, 100_000);
    for client in 2..2 + hellos {
        // One without a cookie, and one with another's.
        server.receive(now, five_tuple(client), &hello, |_, record| bytes += record.len(), |_, _| {});
        server.receive(now, five_tuple(client), &second, |_, record| bytes += record.len(), |_, _| {});
    }
    assert_eq!((server.len(), server.handshakes.len()), (1, 1));
    assert!(
        bytes < hellos as usize * (hello.len() + second.len()),
        "answers are no longer than what they answer"
    );

    flight.iter().for_each(|record| peer.dtls.handle_packet(record).unwrap());
    talk(&mut server, &mut peer, from, now);
    assert!(peer.is_connected, "the handshake goes on");
}
