//! Sequences of what clients, peers, sockets, time and the operator do to a relay.
//!
//! ```text
//!   operation = opcode, argument, argument     data and attributes: the octets that follow, up to a length
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use zynk_turn_core::stun::{Class, Method, Writer};
use zynk_turn_core::{Input, PeerConnectionKey, RelayProtocol};

pub use crate::turn_rig::TurnReach;
use crate::turn_rig::{
    Answers, CONNECTION_ID, DATA, LIFETIME, MOBILITY_TICKET, RESERVATION_TOKEN, TurnRig, XOR_PEER_ADDRESS,
    address, config,
};

/// Operations of one input; the rest is ignored.
const OPERATIONS_MAX: usize = 96;
/// Opcodes; what is above begins anew.
const OPCODES: u8 = 24;
/// Longer than any allocation.
const AFTERWARDS: Duration = Duration::from_secs(2 * 3600);

const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
const EVEN_PORT: u16 = 0x0018;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;

/// Attributes that requests may be made of, by number.
const KINDS: [u16; 20] = [
    0x000c,
    LIFETIME,
    XOR_PEER_ADDRESS,
    DATA,
    REQUESTED_ADDRESS_FAMILY,
    EVEN_PORT,
    REQUESTED_TRANSPORT,
    0x001a,
    RESERVATION_TOKEN,
    CONNECTION_ID,
    ADDITIONAL_ADDRESS_FAMILY,
    MOBILITY_TICKET,
    0x0006,
    0x0014,
    0x0015,
    0x8002,
    0x001d,
    0x8022,
    0x001c,
    0x7001,
];

const METHODS: [Method; 8] = [
    Method::Allocate,
    Method::Refresh,
    Method::CreatePermission,
    Method::ChannelBind,
    Method::Connect,
    Method::ConnectionBind,
    Method::Binding,
    Method::Send,
];

const PEERS: [&str; 11] = [
    "8.8.8.8:1",
    "8.8.8.8:2",
    "8.8.4.4:1",
    "[2606:4700::1]:1",
    "127.0.0.1:7882",
    "127.0.0.1:22",
    "[::ffff:127.0.0.1]:7882",
    "[::ffff:8.8.8.8]:1",
    "[64:ff9b::10.0.0.1]:1",
    "169.254.169.254:80",
    "8.8.8.8:0",
];

/// Runs the operations that the input encodes.
pub fn turn_server(data: &[u8]) {
    turn_reach(data);
}

/// Same, and tells how far they got.
pub fn turn_reach(data: &[u8]) -> TurnReach {
    let mut rig = TurnRig::new();
    let mut rest = data;
    for _ in 0..OPERATIONS_MAX {
        let [opcode, a, b, after @ ..] = rest else { break };
        rest = operate(&mut rig, *opcode, *a, *b, after);
    }
    close(&mut rig);
    rig.reach
}

/// When all time is over nothing may be left.
fn close(rig: &mut TurnRig) {
    rig.wait(AFTERWARDS);
    assert!(rig.server.is_idle() && rig.relays.is_empty() && rig.asked.is_empty());
    let stats = rig.server.stats();
    assert_eq!((stats.allocations, stats.relays, stats.users), (0, 0, 0));
}

/// Octets of a length, and the rest.
fn octets(rest: &[u8], length: usize) -> (&[u8], &[u8]) {
    rest.split_at(length.min(rest.len()))
}

fn pick<T: Clone>(list: &[T], by: u8) -> Option<T> {
    list.get(usize::from(by) % list.len().max(1)).cloned()
}

fn peer_of(rig: &TurnRig, by: u8) -> SocketAddr {
    // Relayed addresses come after the others.
    let at = usize::from(by) % (PEERS.len() + rig.relayed.len());
    match PEERS.get(at) {
        Some(text) => address(text),
        None => rig.relayed.get(at - PEERS.len()).copied().unwrap_or_else(|| address("8.8.8.8:1")),
    }
}

fn operate<'a>(rig: &mut TurnRig, opcode: u8, a: u8, b: u8, rest: &'a [u8]) -> &'a [u8] {
    let client = usize::from(a & 0x7f) % rig.clients.len();
    let is_modern = a & 0x80 != 0;
    let Some(five_tuple) = rig.clients.get(client).map(|client| client.five_tuple) else { return rest };
    let peer = peer_of(rig, b);
    match opcode % OPCODES {
        // Allocate: wishes as bits.
        0 => {
            let transport = if b & 1 != 0 { [6, 0, 0, 0] } else { [17, 0, 0, 0] };
            rig.request(client, Method::Allocate, is_modern, |mut writer| {
                writer = writer.attribute(REQUESTED_TRANSPORT, &transport);
                for (bit, kind, value) in [
                    (2, MOBILITY_TICKET, &[][..]),
                    (4, ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                    (8, EVEN_PORT, &[b & 0x80]),
                    (16, REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
                    (32, LIFETIME, &[0, 0, 4, b]),
                ] {
                    if b & bit != 0 {
                        writer = writer.attribute(kind, value);
                    }
                }
                writer
            });
        }
        1 => {
            let token = pick(&rig.tokens, b).unwrap_or_default();
            rig.request(client, Method::Allocate, is_modern, |writer| {
                writer.attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0]).attribute(RESERVATION_TOKEN, &token)
            });
        }
        2 => rig
            .request(client, Method::Refresh, is_modern, |writer| writer.number(LIFETIME, u32::from(b) * 20)),
        3 => rig.request(client, Method::Refresh, is_modern, |writer| {
            let family = [1 + (b & 1), 0, 0, 0];
            writer.attribute(REQUESTED_ADDRESS_FAMILY, &family).number(LIFETIME, u32::from(b & 2))
        }),
        // Comes back with a ticket; from a new port if the bit is set.
        4 => {
            if b & 0x80 != 0 {
                let at = client;
                let Some(client) = rig.clients.get_mut(at) else { return rest };
                client.five_tuple.client.set_port(1000 + u16::from(b));
                rig.request(at, Method::Refresh, is_modern, |writer| writer);
            }
            let ticket = pick(&rig.tickets, b).unwrap_or_default();
            let tickets = rig.tickets.len();
            rig.request(client, Method::Refresh, is_modern, |writer| {
                writer.attribute(MOBILITY_TICKET, &ticket)
            });
            rig.reach.moved += u64::from(rig.tickets.len() > tickets);
        }
        5 => rig.request(client, Method::CreatePermission, is_modern, |writer| {
            writer.xor_address(XOR_PEER_ADDRESS, peer)
        }),
        6 => {
            let number = [0x40, a & 0x0f, 0, 0];
            rig.request(client, Method::ChannelBind, is_modern, |writer| {
                writer.attribute(0x000c, &number).xor_address(XOR_PEER_ADDRESS, peer)
            });
        }
        7 => {
            let (data, rest) = octets(rest, usize::from(b & 0x3f));
            let mut payload = vec![0x40, a & 0x0f, 0, data.len() as u8];
            payload.extend_from_slice(data);
            rig.input(Input::Client { five_tuple, payload: &payload });
            return rest;
        }
        8 => {
            let mut payload = Vec::new();
            let writer = Writer::new(&mut payload, Class::Indication, Method::Send, &[b; 12])
                .xor_address(XOR_PEER_ADDRESS, peer)
                .attribute(DATA, rest.get(..usize::from(a & 0x0f)).unwrap_or_default());
            if a & 0x10 != 0 {
                writer.attribute(0x001a, &[]);
            }
            rig.input(Input::Client { five_tuple, payload: &payload });
        }
        9 => {
            let udp = rig.relays.iter().filter(|(_, (_, protocol))| *protocol == RelayProtocol::Udp);
            let Some(relay) = pick(&udp.map(|(key, _)| *key).collect::<Vec<_>>(), a) else { return rest };
            let payload = rest.get(..usize::from(b & 0x3f)).unwrap_or_default();
            rig.input(Input::Peer { relay, peer, payload });
        }
        10 => rig.input(Input::ClientClosed { five_tuple }),
        11 => rig
            .request(client, Method::Connect, is_modern, |writer| writer.xor_address(XOR_PEER_ADDRESS, peer)),
        12 | 13 => {
            let Some(connection) = pick(&rig.connections, b) else { return rest };
            rig.input(match opcode % OPCODES {
                12 => Input::PeerConnected { connection },
                _ => Input::PeerClosed { connection },
            });
        }
        14 => {
            let tcp = rig.relays.iter().filter(|(_, (_, protocol))| *protocol == RelayProtocol::Tcp);
            let Some(relay) = pick(&tcp.map(|(key, _)| *key).collect::<Vec<_>>(), a) else { return rest };
            let connection = PeerConnectionKey(PeerConnectionKey::ACCEPTED | u32::from(a));
            rig.input(Input::PeerAccepted { relay, peer, connection });
        }
        15 => {
            let number = pick(&rig.numbers, b).unwrap_or_default();
            rig.request(client, Method::ConnectionBind, is_modern, |writer| {
                writer.attribute(CONNECTION_ID, &number)
            });
        }
        16 => {
            rig.answers = match b % 3 {
                0 => Answers::Opened,
                1 => Answers::Refused,
                _ => Answers::Later,
            };
        }
        17 => {
            let Some(relay) = pick(&rig.asked.keys().copied().collect::<Vec<_>>(), a) else { return rest };
            let Some(asked) = rig.asked.remove(&relay) else { return rest };
            rig.answer(relay, asked, b & 1 == 0);
            rig.server.check_invariants();
        }
        18 => {
            let reports: Vec<_> = rig.server.allocations().map(|report| report.id).collect();
            let Some(allocation) = pick(&reports, b) else { return rest };
            rig.input(Input::Kick { allocation });
        }
        19 => {
            let mut new = config();
            if b & 1 != 0 {
                new.peers.own.push(address("8.8.4.4:1").ip());
            }
            if b & 2 != 0 {
                new.relay_addresses.pop();
            }
            new.mobility = b & 4 == 0;
            new.quotas.rate.packets = (b & 8 != 0).then_some(2);
            rig.input(Input::Configure(Box::new(new)));
        }
        20 => rig.wait(Duration::from_secs(u64::from(b)) * if a & 1 == 0 { 1 } else { 10 }),
        // A request of any attributes; under the last number if the bit is set.
        21 => {
            let method = pick(&METHODS, b & 7).unwrap_or(Method::Binding);
            let mut left = rest;
            let transaction = rig.last_transaction() + u32::from(b & 8 == 0);
            let attributes = usize::from(b >> 4);
            rig.repeat(client, method, is_modern, transaction, |mut writer| {
                for _ in 0..attributes {
                    let [kind, length, after @ ..] = left else { break };
                    let (value, after) = octets(after, usize::from(*length & 0x3f));
                    writer = writer.attribute(pick(&KINDS, *kind).unwrap_or(DATA), value);
                    left = after;
                }
                writer
            });
            return left;
        }
        // Anything.
        22 => {
            let (payload, rest) = octets(rest, usize::from(b));
            rig.input(Input::Client { five_tuple, payload });
            return rest;
        }
        _ if a == b => rig.input(Input::Drain),
        _ => rig.input(Input::Timeout),
    }
    rest
}
