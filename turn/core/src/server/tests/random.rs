//! Anything in any order: the server stays in order, and in the end nothing is left.

use proptest::prelude::*;

use super::*;

/// The longest answer that a stranger gets: 401 with a fingerprint.
const UNPROVEN_BYTES_MAX: usize = 96;

/// Hands in bytes of a stranger; returns how much he got back.
fn from_stranger(world: &mut World, bytes: &[u8]) -> usize {
    let five_tuple = Client::udp(1).five_tuple;
    world.input(Input::Client { five_tuple, payload: bytes });
    assert!(world.to_peers.is_empty() && world.to_clients.len() <= 1);
    assert!(world.events.iter().all(|event| matches!(event, Event::Refused { .. })));
    world.events.clear();
    world.assert_empty();
    world.to_clients.drain(..).map(|(_, bytes)| bytes.len()).sum()
}

proptest! {
    #[test]
    fn strangers_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut world = World::new();
        prop_assert_eq!(from_stranger(&mut world, &bytes), 0, "no random bytes are a message");
        let mut message = vec![0, 3, 0, (bytes.len() & 0xfc) as u8, 0x21, 0x12, 0xa4, 0x42];
        message.extend([1; 12]);
        message.extend(&bytes[..bytes.len() & 0xfc]);
        for method in [0x01, 0x03, 0x04, 0x06, 0x08, 0x09, 0x0a, 0x0b, 0x16] {
            message[1] = method;
            prop_assert!(from_stranger(&mut world, &message) <= UNPROVEN_BYTES_MAX);
        }
    }

    #[test]
    fn strangers_attributes_are_survived(
        method in prop_oneof![Just(Method::Binding), Just(Method::Allocate), Just(Method::Refresh), Just(Method::Send)],
        class in prop_oneof![Just(Class::Request), Just(Class::Indication)],
        attributes in prop::collection::vec((0u16..0x30, prop::collection::vec(any::<u8>(), 0..40)), 0..10),
        is_signed in any::<bool>(), has_fingerprint in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, class, method, &[1; 12]);
        for (kind, value) in &attributes {
            writer = writer.attribute(*kind, value);
        }
        if is_signed {
            writer = writer.sign_sha256(&Client::udp(9).named("mallory").key());
        }
        if has_fingerprint {
            writer.fingerprint();
        }
        let most = if class == Class::Request { UNPROVEN_BYTES_MAX } else { 0 };
        prop_assert!(from_stranger(&mut World::new(), &bytes) <= most);
    }

    #[test]
    fn users_attributes_are_survived(
        method in prop_oneof![
            Just(Method::Allocate), Just(Method::Refresh), Just(Method::CreatePermission), Just(Method::ChannelBind),
            Just(Method::Connect), Just(Method::ConnectionBind),
        ],
        allocates in any::<bool>(),
        attributes in prop::collection::vec(
            prop_oneof![
                (prop_oneof![Just(12u16), Just(13), Just(18), Just(23), Just(24), Just(25), Just(34), Just(42), Just(0x8000), Just(0x8030)],
                 prop_oneof![Just(4usize), Just(8), Just(1), 0usize..24].prop_flat_map(|size| prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(6), Just(17), Just(0x40), any::<u8>()], size)))
                    .prop_map(|(kind, value)| Attribute::Raw(kind, value)),
                any::<SocketAddr>().prop_map(Attribute::Peer),
            ], 0..6),
    ) {
        let mut world = World::new();
        let mut alice = Client::tcp(1);
        if allocates {
            alice.allocate_with(&mut world, &[TICKET_WANTED]);
        }
        let _ = alice.ask(&mut world, method, &attributes).code();
        world.wait(seconds(2 * 3600));
        world.assert_empty();
    }

    #[test]
    fn any_sequence_leaves_the_server_in_order(steps in prop::collection::vec(any::<[u8; 3]>(), 0..120)) {
        let mut story = Story::new();
        for step in steps {
            story.step(step);
        }
        story.end();
    }
}

/// A few clients that do one thing after the other.
struct Story {
    world: World,
    clients: Vec<Client>,
    tickets: Vec<Attribute>,
    tokens: Vec<Attribute>,
    connections: Vec<PeerConnectionKey>,
    numbers: Vec<u32>,
    accepted: u32,
}

const PEERS: [&str; 5] = ["8.8.8.8:1", "8.8.8.8:2", "8.8.4.4:1", "[2606:4700::1]:1", "93.184.216.34:50000"];

impl Story {
    fn new() -> Self {
        let world = World::with(|config| {
            (config.port_first, config.port_last) = (50_000, 50_011);
            config.quotas.user_allocations = Some(3);
        });
        let clients =
            [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Udp, Transport::Tcp, Transport::Dtls];
        let clients = clients.into_iter().zip(1..).map(|(transport, port)| {
            let client = Client::new(transport, port);
            if port % 2 == 0 { client.named("bob") } else { client }
        });
        Self {
            world,
            clients: clients.collect(),
            tickets: Vec::new(),
            tokens: Vec::new(),
            connections: Vec::new(),
            numbers: vec![1],
            accepted: PeerConnectionKey::ACCEPTED,
        }
    }

    fn step(&mut self, [what, who, how]: [u8; 3]) {
        let Self { world, clients, .. } = self;
        let at = usize::from(who) % clients.len();
        let to = PEERS[usize::from(how) % PEERS.len()];
        let client = &mut clients[at];
        let pick = |list: &[Attribute]| list.get(usize::from(how) % list.len().max(1)).cloned();
        match what % 22 {
            0 | 1 => {
                world.refusals = usize::from(how >> 5);
                let transport = if how & 16 != 0 { TCP } else { UDP };
                let mut wishes = vec![raw(REQUESTED_TRANSPORT, transport)];
                wishes.extend((how & 1 != 0).then_some(TICKET_WANTED));
                wishes.extend((how & 2 != 0).then(|| raw(EVEN_PORT, [how << 5])));
                wishes.extend((how & 8 != 0).then(|| raw(ADDITIONAL_ADDRESS_FAMILY, IPV6)));
                let reply = client.ask(world, Method::Allocate, &wishes);
                world.refusals = 0;
                self.tickets.extend(
                    reply.message().attribute(MOBILITY_TICKET).map(|value| raw(MOBILITY_TICKET, value)),
                );
                self.tokens.extend(
                    reply.message().attribute(RESERVATION_TOKEN).map(|value| raw(RESERVATION_TOKEN, value)),
                );
            }
            2 => {
                let wishes: Vec<_> = [udp()].into_iter().chain(pick(&self.tokens)).collect();
                client.ask(world, Method::Allocate, &wishes);
            }
            3 => drop(client.refresh(world, &[number(LIFETIME, u32::from(how) * 10)])),
            4 => {
                let family = raw(REQUESTED_ADDRESS_FAMILY, if how & 1 == 0 { IPV4 } else { IPV6 });
                client.refresh(world, &[family, number(LIFETIME, u32::from(how & 2))]);
            }
            5 | 6 => {
                let ticket = pick(&self.tickets);
                let reply = client.refresh(world, ticket.as_slice());
                self.tickets.extend(
                    reply.message().attribute(MOBILITY_TICKET).map(|value| raw(MOBILITY_TICKET, value)),
                );
            }
            7 => drop(client.permit(world, &[to])),
            8 | 9 => drop(client.bind(world, 0x4000 + u16::from(how >> 5), to)),
            10 => client.send_to(world, to, b"data"),
            11 => client.send_on(world, 0x4000 + u16::from(how >> 5), b"data"),
            12 => {
                let Some(relayed) = world.server.announced.keys().min().copied() else { return };
                world.peer_sends(relayed, to, b"data");
            }
            13 => client.close(world),
            14 => {
                let request = client.compose(Method::Connect, &[peer(to)]);
                client.send(world, &request);
                let made = world.events.drain(..).filter_map(|event| match event {
                    Event::ConnectPeer { connection, .. } => Some(connection),
                    _ => None,
                });
                self.connections.extend(made);
            }
            15 | 16 => {
                let Some(connection) = self.connections.get(usize::from(how) % self.connections.len().max(1))
                else {
                    return;
                };
                let connection = *connection;
                world.input(if what % 22 == 15 {
                    Input::PeerConnected { connection }
                } else {
                    Input::PeerClosed { connection }
                });
                self.numbers = world.server.peer_connections.numbers();
                self.numbers.sort_unstable();
            }
            17 => {
                let Some(relay) = world.sockets.keys().next().copied() else { return };
                self.accepted += u32::from(who & 1);
                world.input(Input::PeerAccepted {
                    relay,
                    peer: address(to),
                    connection: PeerConnectionKey(self.accepted),
                });
                self.numbers = world.server.peer_connections.numbers();
                self.numbers.sort_unstable();
            }
            18 => {
                let Some(id) = self.numbers.get(usize::from(how) % self.numbers.len().max(1)) else { return };
                let id = number(CONNECTION_ID, *id);
                client.ask(world, Method::ConnectionBind, &[id]);
            }
            19 => {
                let Some(allocation) = world.server.allocations().map(|report| report.id).min() else {
                    return;
                };
                world.input(Input::Kick { allocation });
            }
            20 => {
                let mut new = config();
                new.peers.deny = if how & 1 == 0 { Vec::new() } else { vec!["8.8.8.0/24".parse().unwrap()] };
                new.relay_addresses.truncate(1 + usize::from(how >> 7));
                world.input(Input::Configure(Box::new(new)));
            }
            _ => world.wait(seconds(u64::from(how) * 3)),
        }
    }

    fn end(mut self) {
        self.world.wait(seconds(2 * 3600));
        self.world.assert_empty();
        assert_eq!(self.world.server.ports.each_ref().map(|ports| ports.taken()), [0, 0]);
        assert!(self.world.server.peer_connections.numbers().is_empty());
    }
}
